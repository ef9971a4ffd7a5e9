"""Where a model looks in photos before it describes them, and what a method does there: what can be drawn over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from ...diagnostics import diagnose
from ...patching.patch import Patch
from ...patching.registry import family_of

_FIELDS = ("grids", "attention", "entropy", "sources", "neighbors", "owners")
_DIGITS = 6


def traces_of(
    model: PreTrainedModel, inputs: Mapping[str, Any], patch: Patch, generation: Mapping[str, Any]
) -> dict[int, dict[str, Any]]:
    """Row of the inputs → its image's trace, as records hold it; a row that no text attends to the image in has none.

    It is measured by a pass of its own over the prompts, so that no text depends on it.

    Args:
        model: the model, without the method.
        inputs: the processor's, with an image in each row.
        patch: the method. One that leaves no traces tells of the model as it is.
        generation: arguments of `generate`, for a method that needs some.
    """
    family = family_of(model.config)
    place = None if family is None else family.whole_picture
    found: dict[int, dict[str, Any]] = {}
    for one in _measured(model, inputs, patch, generation):
        if one.entropy is None:
            continue
        fields = one.to_dict()
        trace = {name: _rounded(fields[name]) for name in _FIELDS if name in fields}
        if len(one.grids) > 1:
            trace["whole"] = None if place is None else place % len(one.grids)
        found.setdefault(one.row, trace)
    return found


def _measured(
    model: PreTrainedModel, inputs: Mapping[str, Any], patch: Patch, generation: Mapping[str, Any]
) -> list[Any]:
    if not patch.leaves_traces:
        return list(diagnose(model, inputs, credit=False))
    with patch, patch.recording() as made:
        model.generate(**inputs, **{**generation, "max_new_tokens": 1, "min_new_tokens": None})  # type: ignore[operator]
    return list(made)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
