"""A model that describes photos as a folder of descriptions wants them: named, with what can be drawn over them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..adapters import AdapterSource
from ..adapters import adapter as adapt
from ..errors import SCRError
from ..methods import get_method
from ..patching.combination import CombinedConfig
from ..patching.prepare import patch
from .describe import describe, row_name
from .description import Description
from .doubts.scores import Calibration
from .gallery.photos import Photo
from .gallery.records import Row
from .gallery.traces import traces_of
from .preparing import prepare


@dataclasses.dataclass(frozen=True)
class Condition:
    """What is on the model while a row is written.

    Attributes:
        config: the methods.
        adapter: None for none.
    """

    config: CombinedConfig
    adapter: AdapterSource | None = None

    def to_dict(self) -> dict[str, Any]:
        """The methods' fields, and the adapter with what names its state: as settings record it."""
        own = self.config.to_dict()
        return own if self.adapter is None else own | {"adapter": self.adapter.recorded}


def conditions(configs: Mapping[str, CombinedConfig], adapters: Sequence[AdapterSource]) -> dict[str, Condition]:
    """Name of a row → what is on the model: each method, then each adapter alone and with each method.

    Args:
        configs: name of a method → its configuration, that of the unpatched model before the others.
        adapters: the adapters.
    """
    return {
        row_name(None if adapter is None else adapter.name, method): Condition(config, adapter)
        for adapter in (None, *adapters)
        for method, config in configs.items()
    }


class Asker:
    """A model, what it is asked, and the methods that are put on it."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        prompt: str,
        wanted: Mapping[str, Condition],
        generation: Mapping[str, Any],
        calibration: Calibration | None,
    ) -> None:
        """Ask nothing yet.

        Args:
            model: as for `scr.describe`.
            processor: the model's.
            prompt: what is asked about each photo.
            wanted: name of a row → what is on the model.
            generation: arguments of `generate`.
            calibration: what scores doubts; None for no scores.
        """
        self._model, self._processor, self._prompt = model, processor, prompt
        self._wanted = {name: _with_ids(one, processor.tokenizer) for name, one in wanted.items()}
        self._generation, self._calibration = dict(generation), calibration
        # The map of a method that leaves no traces is that of the model without it, which is shown once.
        self._traced = {
            name for name, one in wanted.items() if not one.config.parts or _leaves_traces(model, one.config)
        }
        # Trained models underflow a lot, and a CPU computes with denormals many times slower.
        torch.set_flush_denormal(True)

    def rows(self, photos: Sequence[Photo], method: str) -> list[Row]:
        """A row for each photo: a description's fields, the photo's `digest`, and `trace`, None where there is none.

        A photo that the model or a method refuses has a row that says why; the others of its batch have theirs.

        Args:
            photos: of one batch.
            method: name of a row.

        Raises:
            Exception: as `scr.describe`, but of our own.
        """
        try:
            return self._rows(photos, method)
        except SCRError as error:
            if len(photos) > 1:
                return [row for photo in photos for row in self.rows([photo], method)]
            refused = Description(image=photos[0].name, prompt=self._prompt, method=method, error=str(error))
            return [{**refused.to_dict(), "digest": photos[0].digest(), "trace": None}]

    def _rows(self, photos: Sequence[Photo], method: str) -> list[Row]:
        condition = self._wanted[method]
        said = describe(
            self._model,
            self._processor,
            [str(photo.path) for photo in photos],
            self._prompt,
            method=condition.config,
            adapter=condition.adapter,
            batch_size=len(photos),
            calibration=self._calibration,
            **self._generation,
        )
        traces = self._traces(photos, method)
        rows = []
        for photo, one in zip(photos, said, strict=True):
            # A page that is passed on need not tell where the photos lay.
            error = None if one.error is None else one.error.replace(repr(str(photo.path)), repr(photo.name))
            own = {"image": photo.name, "method": method, "error": error}
            rows.append({**one.to_dict(), **own, "digest": photo.digest(), "trace": traces.get(photo.name)})
        return rows

    def _traces(self, photos: Sequence[Photo], method: str) -> dict[str, Row]:
        if method not in self._traced:
            return {}
        pictures, inputs, _ = prepare(self._model, self._processor, self._prompt, [photo.path for photo in photos])
        if inputs is None:
            return {}
        config, adapter = self._wanted[method].config, self._wanted[method].adapter
        with contextlib.nullcontext() if adapter is None else adapt(self._model, adapter):
            found = traces_of(self._model, inputs, patch(self._model, config), self._generation)
        return {photos[index].name: found[row] for row, index in enumerate(pictures) if row in found}


def _leaves_traces(model: Any, config: CombinedConfig) -> bool:
    return any(get_method(name).method(model, part).traces is not None for name, part in config.parts.items())


def _with_ids(condition: Condition, tokenizer: Any) -> Condition:
    """The same with ids in place of texts that the model is to read."""
    parts = {}
    for name, part in condition.config.parts.items():
        texts = {field: value for field in part.phrases if isinstance(value := getattr(part, field), str)}
        ids = {field: tokenizer.encode(text, add_special_tokens=False) for field, text in texts.items()}
        parts[name] = dataclasses.replace(part, **ids)
    return dataclasses.replace(condition, config=CombinedConfig(parts=parts))
