"""What `scr.describe` says of an image: a text, and how much each of its content words may be made up. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from ..fields import Fields, Index, Number, Share
from .showing import as_html, as_line


@dataclass(frozen=True, kw_only=True)
class Token(Fields):
    """A token of a text.

    Attributes:
        text: what it adds to the text; the pieces of all tokens, joined, are the text, blanks at its ends aside.
            A letter that several tokens spell is the last one's.
        probability: of the token where it was generated, in [0, 1].
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


@dataclass(frozen=True, kw_only=True, repr=False)
class Description(Fields):
    """What a model said about one image. It is one JSON object: `to_dict` and `from_dict`.

    Attributes:
        image: its name: the path as given, or "image 3", which counts from 1.
        prompt: what was asked.
        text: the answer, without blanks at both ends; empty where there is an error.
        tokens: the text's, in order; special ones, such as the end, are left out.
        doubts: of its content words, in order; empty where none were asked for.
        method: what was on the model: "none", a method, or "ADAPTER, METHOD".
        milliseconds: time of the generation and the doubts, its batch's divided by the images in it.
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
        """The text on a line, and its doubtful words."""
        return as_line(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the text, its doubtful words underlined, the more likely made up the stronger."""
        return as_html(self)


class Descriptions(list[Description]):
    """Descriptions of several images, one after the other."""

    def _repr_html_(self) -> str:
        """What a notebook shows: one below the other."""
        return "".join(as_html(one) for one in self)
