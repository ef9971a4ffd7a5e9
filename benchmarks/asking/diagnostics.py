"""What `--diagnostics` adds to the records: where the text attends, and where the credit of the answer lies.

It is measured beside the answers, by passes of its own, so that neither an answer nor its time depends on it. What a
trace holds is said in `benchmarks.records.SampleRecord`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

import scr
from scr.credit import attention_entropy

from ..tasks.base import Sample
from .answering import Answer, Answerer, Question
from .models import LoadedModel

_DIGITS = 6
_ATTENTION = ("grids", "attention", "entropy")
_EDITS = ("sources", "neighbors", "owners", "norm_ratio")
_CREDIT = (
    "grids",
    "layers",
    "credit",
    "credit_entropy_norms",
    "credit_entropy_gradients",
    "norm_credit_r",
    "norm_growth",
)


class Diagnoser:
    """Diagnoses batch after batch, while a method is on the model."""

    def __init__(
        self, names: Sequence[str], loaded: LoadedModel, answerer: Answerer, patches: Sequence[scr.Patch]
    ) -> None:
        """Look for a method that leaves traces.

        Args:
            names: of `benchmarks.records.DIAGNOSTICS`; none of them asks for nothing.
            loaded: the model.
            answerer: what asks it.
            patches: what is on the model meanwhile. Of several that leave traces the first one's count.
        """
        self._names, self._model, self._answerer = names, loaded.model, answerer
        self._patch = next((patch for patch in patches if patch.leaves_traces), None)
        self._made: Sequence[scr.Trace] = ()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Keep what the method tells of the batch that is answered inside the `with`."""
        if self._patch is None or "entropy" not in self._names:
            yield
            return
        with self._patch.recording() as made:
            yield
        self._made = made

    def traces(
        self, samples: Sequence[Sample], questions: Sequence[Question], answers: Sequence[Answer]
    ) -> list[dict[str, Any] | None]:
        """One trace for each sample of a batch; None for those without an image, and for all if nothing is asked for.

        Args:
            samples: the batch.
            questions: as it was asked.
            answers: what came back, inside `watching`.

        Raises:
            MemoryError: if the backward pass does not fit the device.
        """
        if not self._names:
            return [None] * len(samples)
        # Rows are counted as the answerer asks them: those with an image apart from the others.
        shown = [place for place, question in enumerate(questions) if question.image is not None]
        found: list[dict[str, Any] | None] = [None] * len(samples)
        measured = self._measure([questions[place] for place in shown], [answers[place] for place in shown])
        made = {trace.row: trace for trace in reversed(self._made)}
        self._made = ()
        for row, place in enumerate(shown):
            trace: dict[str, Any] = {}
            if "entropy" in self._names:
                trace |= _attention_part(made.get(row) if self._patch is not None else measured.get(row))
            if "credit" in self._names:
                trace |= _part(measured.get(row), _CREDIT)
            found[place] = rounded({**trace, **self._whole(trace["grids"]), **samples[place].facts})
        return found

    def _whole(self, grids: Sequence[Any] | None) -> dict[str, int | None]:
        """Of an image of several grids, which of them shows all of it."""
        if grids is None or len(grids) == 1:
            return {}
        family = scr.family_of(self._model.config)
        place = None if family is None else family.whole_picture
        return {"whole": None if place is None else place % len(grids)}

    def _measure(self, questions: Sequence[Question], answers: Sequence[Answer]) -> dict[int, scr.Diagnostics]:
        """Row → its (first) image's diagnostics, as far as a pass is needed for them."""
        credit = "credit" in self._names
        if not questions or not (credit or self._patch is None):
            return {}
        tokens = [answer.first_token for answer in answers]
        try:
            found = scr.diagnose(
                self._model,
                self._answerer.encode(questions),
                credit=credit,
                answers=None if None in tokens else torch.tensor(tokens),
                **(self._patch.diagnosed() if self._patch is not None else {}),
            )
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"diagnostics do not fit the device: got a batch of {len(questions)} ({error}); expected room for "
                "a backward pass. Lower --batch-size, or leave credit out of --diagnostics."
            ) from error
        return {one.row: one for one in reversed(found)}


def rounded(value: Any) -> Any:
    """A JSON value with its floats rounded to 6 significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def _attention_part(one: scr.Trace | scr.Diagnostics | None) -> dict[str, Any]:
    """Of an image that no text comes after, or none looks at, everything is None."""
    if not isinstance(one, scr.Trace):
        return {**_part(one, (*_ATTENTION, "entropy_normalized")), "norm_ratio": None}
    normalized = float(attention_entropy(one.attention, normalized=True))
    return {**_part(one, (*_ATTENTION, *_EDITS)), "entropy_normalized": normalized}


def _part(one: scr.Trace | scr.Diagnostics | None, names: Sequence[str]) -> dict[str, Any]:
    values = one.to_dict() if one is not None else {}
    return {name: values.get(name) for name in names}
