"""A model that describes photos as a folder of descriptions wants them: named, with what can be drawn over them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..methods import get_method
from ..patching.baseline import BASELINE
from ..patching.combination import CombinedConfig
from ..patching.prepare import patch
from .describe import describe
from .doubts.scores import Calibration
from .gallery.photos import Photo
from .gallery.records import Row
from .gallery.traces import traces_of
from .preparing import prepare


class Asker:
    """A model, what it is asked, and the methods that are put on it."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        prompt: str,
        configs: Mapping[str, CombinedConfig],
        generation: Mapping[str, Any],
        calibration: Calibration | None,
    ) -> None:
        """Ask nothing yet.

        Args:
            model: as for `scr.describe`.
            processor: the model's.
            prompt: what is asked about each photo.
            configs: name of a method → its configuration.
            generation: arguments of `generate`.
            calibration: what scores doubts; None for no scores.
        """
        self._model, self._processor, self._prompt = model, processor, prompt
        self._configs = {name: _with_ids(config, processor.tokenizer) for name, config in configs.items()}
        self._generation, self._calibration = dict(generation), calibration
        # The map of a method that leaves no traces is that of the model as it is, which is shown once.
        self._traced = {name for name, config in configs.items() if name == BASELINE or _leaves_traces(model, config)}
        # Trained models underflow a lot, and a CPU computes with denormals many times slower.
        torch.set_flush_denormal(True)

    def rows(self, photos: Sequence[Photo], method: str) -> list[Row]:
        """A row for each photo: a description's fields, and `trace`, None where the method leaves none.

        Args:
            photos: of one batch.
            method: one of the configurations' names.

        Raises:
            Exception: as `scr.describe`.
        """
        said = describe(
            self._model,
            self._processor,
            [str(photo.path) for photo in photos],
            self._prompt,
            method=self._configs[method],
            batch_size=len(photos),
            calibration=self._calibration,
            **self._generation,
        )
        traces = self._traces(photos, method)
        rows = []
        for photo, one in zip(photos, said, strict=True):
            # A page that is passed on need not tell where the photos lay.
            error = None if one.error is None else one.error.replace(str(photo.path), photo.name)
            own = {"image": photo.name, "method": method, "error": error, "trace": traces.get(photo.name)}
            rows.append({**one.to_dict(), **own})
        return rows

    def _traces(self, photos: Sequence[Photo], method: str) -> dict[str, Row]:
        if method not in self._traced:
            return {}
        pictures, inputs, _ = prepare(self._model, self._processor, self._prompt, [photo.path for photo in photos])
        if inputs is None:
            return {}
        found = traces_of(self._model, inputs, patch(self._model, self._configs[method]), self._generation)
        return {photos[index].name: found[row] for row, index in enumerate(pictures) if row in found}


def _leaves_traces(model: Any, config: CombinedConfig) -> bool:
    return any(get_method(name).method(model, part).traces is not None for name, part in config.parts.items())


def _with_ids(config: CombinedConfig, tokenizer: Any) -> CombinedConfig:
    """The configuration with ids in place of texts that the model is to read."""
    parts = {}
    for name, part in config.parts.items():
        texts = {field: value for field in part.phrases if isinstance(value := getattr(part, field), str)}
        ids = {field: tokenizer.encode(text, add_special_tokens=False) for field, text in texts.items()}
        parts[name] = dataclasses.replace(part, **ids)
    return CombinedConfig(parts=parts)
