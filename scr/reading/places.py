"""Where the words stand that nltk cuts a text into: what a rule finds can then be marked in the text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

Span = tuple[int, int]
"""Place of a word in a text, in characters: [start, end)."""

Sentences = list[list[tuple[str, Span]]]
"""A text's words, reduced to what a list of words holds, with their places as written, sentence by sentence."""

Reader = Callable[[str], Sentences]
"""A rule that reduces the words of a text."""

# nltk writes these for quotation marks; every other character of a text stays as it is, blanks between words excepted.
_QUOTES = {"``": ('"', "``", "''"), "''": ('"', "''")}


def place_words(text: str, words: Iterable[str]) -> list[Span]:
    """The place of each of the words that nltk's word tokenizer cuts a text into, in its order.

    Raises:
        ValueError: for words that are not those of the text.
    """
    spans, position = [], 0
    for word in words:
        while position < len(text) and text[position].isspace():
            position += 1
        written = next((one for one in (word, *_QUOTES.get(word, ())) if text.startswith(one, position)), None)
        if written is None:
            raise ValueError(
                f"the words are not those of the text: got {word!r} at {text[position : position + 20]!r}; expected "
                "the words of nltk's tokenizer. Report this."
            )
        spans.append((position, position + len(written)))
        position += len(written)
    return spans


def lower_with_places(text: str) -> tuple[str, list[int]]:
    """The text in lower case, and for each of its characters, and for its end, the place in the text as written.

    One letter can become two ("İ"), so that places in the two texts differ.
    """
    places = [place for place, letter in enumerate(text) for _ in letter.lower()]
    return text.lower(), [*places, len(text)]


def written_span(span: Span, places: Sequence[int]) -> Span:
    """The place in the text as written of a place in its lower case."""
    start, end = span
    return places[start], places[end - 1] + 1 if end > start else places[start]
