"""What the image adds to a word: its log-probability with the image, minus that with a blank one."""

from __future__ import annotations

from ...perturb import BlankImage, Perturbation, perturb_inputs
from .forced import token_logprobs
from .said import Said

WITHOUT: Perturbation = BlankImage()
"""What stands for no image: the mean of normalised pixels. Nothing is drawn."""


def evidence(said: Said, without: Perturbation = WITHOUT) -> list[list[float | None]]:
    """`log P(w | image) − log P(w | blank)` of the first token w of each content word, in nats; the text is the same.

    A word that language alone suggests is as likely without the image. The model's own log-probabilities after the
    whole text before the word; the text is not generated again, one forward reads it.
    """
    if not any(said.words):
        return [[] for _ in said.words]
    blank = token_logprobs(said.model, perturb_inputs(said.model, said.inputs, without), said.answers)
    return [
        [float(row[one.token] - other[one.token]) for one in words]
        for row, other, words in zip(said.logprobs, blank, said.words, strict=True)
    ]
