"""What a rule finds in a caption, with the places of its words: so it can be marked in the text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scr.reading import Span

from ..records import Found, Mention


def found_objects(text: str, mentioned: Iterable[tuple[Span, str]], target: Sequence[str]) -> Found:
    """What a rule finds that knows a hallucination by its object alone.

    Args:
        text: the caption.
        mentioned: place and object of each mention.
        target: the objects in the image.
    """
    mentions = [as_mention(text, span, node) for span, node in mentioned]
    named, there = {mention["node"] for mention in mentions}, set(target)
    return Found(
        mentions=mentions,
        hallucinated=sorted(named - there),
        grounded=sorted(named & there),
        missed=sorted(there - named),
    )


def as_mention(text: str, span: Span, node: str) -> Mention:
    """A mention with the word as it is written."""
    start, end = span
    return Mention(word=text[start:end], start=start, end=end, node=node)
