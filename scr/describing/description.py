"""What `scr.describe` says of an image: a text, and how much each of its content words may be made up. No torch."""

from __future__ import annotations

import html
from dataclasses import dataclass

from ..errors import ConfigError
from ..fields import Fields, Index, Number, Share
from .showing import Underline, underlined

_LONGEST = 80  # characters of a text on a line
_MOST = 3  # doubts on a line


@dataclass(frozen=True, kw_only=True)
class Token(Fields):
    """A token of a text.

    Attributes:
        text: what it adds to the text; the pieces of all tokens, joined, are the text, blanks at its ends aside.
            A letter that several tokens spell is the last one's.
        probability: of the token after the image, the prompt and the text before it, in [0, 1]: the model's own, with
            its adapter, and without the method that may have chosen it.
    """

    text: str
    probability: Share


@dataclass(frozen=True, kw_only=True)
class Doubt(Fields):
    """A content word of a text, and what speaks for and against it.

    Attributes:
        word: as it is written: the text's characters from `start` to `end`.
        start: its place in `Description.text`, in characters.
        end: one after its last.
        category: the object of CHAIR's list that it stands for; None for another noun.
        confidence: probability of its first token, in [0, 1].
        evidence: log-probability of its first token with the image, minus that without one, in nats: what the image
            adds. None where it was not computed.
        recheck: asked whether it is in the image, logit of yes minus logit of no. None where it was not computed.
        score: how likely it is made up, in [0, 1]; None where no calibration for it was given.
    """

    word: str
    start: Index
    end: Index
    category: str | None = None
    confidence: Share | None = None
    evidence: Number | None = None
    recheck: Number | None = None
    score: Share | None = None

    @property
    def reasons(self) -> str:
        """What it rests on, in words: the score, or that there is none, and the measures that were computed."""
        score = "uncalibrated" if self.score is None else f"made up with probability {self.score:.2f}"
        parts = [
            (self.confidence, "said with probability {:.2f}"),
            (self.evidence, "the image adds {:+.1f} nats"),
            (self.recheck, "asked again: yes − no = {:+.1f}"),
        ]
        return "; ".join([score, *(words.format(value) for value, words in parts if value is not None)])


@dataclass(frozen=True, kw_only=True, repr=False)
class Description(Fields):
    """What a model said about one image. It is one JSON object: `to_dict` and `from_dict`.

    Attributes:
        image: its name: the path as given, or "image 3", which counts from 1.
        prompt: what was asked.
        text: the answer, without blanks at both ends; empty where there is an error.
        tokens: the text's, in order; special ones, such as the end, are left out, and so are those of what `drop_above`
            left out.
        doubts: of its content words, in order; empty where none were asked for.
        method: what was on the model: "none", a method, or "ADAPTER, METHOD".
        milliseconds: time of the generation, that of its batch divided by the images in it; doubts come on top.
        calibration: name of what made the scores; None: they are None, too.
        error: why there is no text; None where there is one.
    """

    image: str
    prompt: str
    text: str = ""
    tokens: tuple[Token, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    method: str = "none"
    milliseconds: float = 0.0
    calibration: str | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        """Check the fields, and that every doubt is about the word at its place, one after the other.

        Raises:
            ConfigError: for a value that does not fit, or a doubt about another text.
        """
        super().__post_init__()
        done = 0
        for doubt in self.doubts:
            written = self.text[max(doubt.start, done) : doubt.end]
            done = doubt.end
            if not written or written != doubt.word:
                raise ConfigError(
                    f"a doubt about another text: got {doubt.word!r} at {doubt.start} to {doubt.end}, where "
                    f"{self.image!r} has {written!r}; expected the word that stands there. Describe the image again."
                )

    def __repr__(self) -> str:
        """The begin of the text on a line, and the words that are most likely made up."""
        head = f"Description({self.image!r}, {self.method}"
        if self.error is not None:
            return f"{head}, error: {self.error})"
        said = self.text if len(self.text) <= _LONGEST else f"{self.text[: _LONGEST - 1]}…"
        scored = sorted(((one.score, one.word) for one in self.doubts if one.score is not None), reverse=True)
        words = ", ".join(f"{word} {score:.2f}" for score, word in scored[:_MOST])
        if self.doubts and not scored:
            words = f"{', '.join(one.word for one in self.doubts[:_MOST])} (uncalibrated)"
        return f"{head}, {said!r}{f', doubts: {words}' if words else ''})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the text, its doubtful words underlined, the more likely made up the stronger."""
        by = f"{self.image}, {self.method}, {self.milliseconds:.0f} ms"
        if self.doubts:
            by += f", doubts by {self.calibration}" if self.calibration else ", uncalibrated"
        marked = underlined(self.text, (Underline(one.start, one.end, one.score, one.reasons) for one in self.doubts))
        said = marked if self.error is None else f"no text: {html.escape(self.error)}"
        return f"<figure><p>{said}</p><figcaption>{html.escape(by)}</figcaption></figure>"


class Descriptions(list[Description]):
    """Descriptions of several images, one after the other."""

    def _repr_html_(self) -> str:
        """What a notebook shows: one below the other."""
        return "".join(one._repr_html_() for one in self)
