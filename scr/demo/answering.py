"""What the page shows for a picture and a question: each method's text, doubts and trace, as JSON values."""

from __future__ import annotations

import inspect
import io
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from ..describing.describe import PROMPT, describe
from ..describing.doubts.scores import list_calibrations
from ..describing.encoding import encode_prompts
from ..describing.gallery.page import page_data
from ..describing.gallery.traces import traces_of
from ..describing.images import ImageError, read_image
from ..errors import ConfigError, SCRError
from ..methods import METHODS, MethodEntry
from ..methods.spreading import SpreadingConfig
from ..patching.baseline import BASELINE
from ..patching.prepare import patch

_MOST = 8
"""Methods of one question: it holds the model for all others."""
_PICTURE = "picture"


class Answering:
    """A model that answers one question after the other, whoever asks.

    Attributes:
        name: of the model.
        choices: the methods that work on it with their defaults, as `strength` tells.
    """

    def __init__(
        self, model: Any, processor: Any, *, name: str, calibration: str | None, generation: Mapping[str, Any]
    ) -> None:
        """Look up what the page offers.

        Args:
            model: as for `scr.patch`.
            processor: the model's.
            name: what the page calls it.
            calibration: of doubts; None takes one of the model's name, where there is one.
            generation: arguments of `generate`.
        """
        self.name, self._model, self._processor = name, model, processor
        self._calibration = calibration or (name if name in list_calibrations() else None)
        self._generation = dict(generation)
        self._alone = threading.Lock()
        self.choices = [one for entry in METHODS.values() if (one := _choice(model, entry)) is not None]

    def offer(self) -> dict[str, Any]:
        """What the page can ask for."""
        return {"model": self.name, "prompt": PROMPT, "most": _MOST, "methods": self.choices}

    def answer(
        self, picture: bytes, prompt: str, methods: Sequence[str], strengths: Mapping[str, float]
    ) -> dict[str, Any]:
        """Ask about a picture, once per method; the model as it is comes first.

        Args:
            picture: a picture's file.
            prompt: what is asked.
            methods: names of `choices`.
            strengths: name → value of the field that `choices` names; a default for the others.

        Returns:
            As `scr.describing.gallery.page.page_data` has it of one photo; a method that cannot generate so has an
            `error` in place of its text.

        Raises:
            ConfigError: for no question, too many methods, an unknown one, or a strength out of range.
            ImageError: for what is no picture.
        """
        known = {one["name"]: one for one in self.choices}
        wanted = list(dict.fromkeys(one for one in methods if one != BASELINE))
        if not prompt.strip():
            raise ConfigError("no question: got an empty one; expected a sentence. Ask something.")
        if len(wanted) > _MOST:
            raise ConfigError(f"too many methods: got {len(wanted)}; expected {_MOST} or fewer. Choose some.")
        for name in wanted:
            if name not in known:
                raise ConfigError(f"unknown method: got {name!r}; expected one of {list(known)}. Choose one of them.")
        fields = {name: known[name]["strength"]["field"] for name in wanted if name in strengths}
        configs = {
            name: METHODS[name].configure({fields[name]: strengths[name]} if name in fields else {}) for name in wanted
        }
        image = _opened(picture)
        with self._alone:
            rows = [self._row(image, prompt, name, configs.get(name)) for name in (BASELINE, *wanted)]
        settings = {"id": "", "model": self.name, "prompt": prompt}
        return page_data(settings, rows, lambda name: {"size": list(image.size)})

    def _row(self, image: Image.Image, prompt: str, name: str, config: Any) -> dict[str, Any]:
        try:
            (found,) = describe(
                self._model,
                self._processor,
                [image],
                prompt,
                method=config,
                calibration=self._calibration,
                **self._generation,
            )
            row = {**found.to_dict(), "image": _PICTURE, "method": name}
            if found.error is None:
                row["trace"] = self._trace(image, prompt, config)
        except SCRError as error:  # such as one that needs beams
            row = {"image": _PICTURE, "method": name, "error": str(error)}
        return row

    def _trace(self, image: Image.Image, prompt: str, config: Any) -> dict[str, Any] | None:
        """Where it looks, and what it moves; of a method that moves nothing where the model looks without it."""
        put = patch(self._model, config if isinstance(config, SpreadingConfig) else BASELINE)
        inputs = encode_prompts(self._model, self._processor, [prompt], [image])
        return traces_of(self._model, inputs, put, self._generation).get(0)


def _choice(model: Any, entry: MethodEntry) -> dict[str, Any] | None:
    """A method as the page offers it; None for one that needs more than a model and a picture."""
    try:
        entry.method(model, entry.configure({}))
    except SCRError:
        return None
    return {"name": entry.name, "summary": entry.summary, "strength": strength(entry)}


def strength(entry: MethodEntry) -> dict[str, Any]:
    """The number by which a method is made stronger: what its example turns up, the contrast, or else its first.

    Returns:
        `field`, and its `default`, None where that depends on other fields.
    """
    # Not of the fields alone: `contrast` is no field of VCD's but a short way to set one.
    defaults = {name: one.default for name, one in inspect.signature(entry.config_class).parameters.items()}
    turned_up = [name for name, value in entry.example.items() if isinstance(value, float)]
    numbers = [name for name, default in defaults.items() if isinstance(default, float)]
    chosen = next(name for name in (*turned_up, "contrast", *numbers) if name in defaults)
    return {"field": chosen, "default": defaults[chosen]}


def _opened(picture: bytes) -> Image.Image:
    try:
        opened = Image.open(io.BytesIO(picture))
    except Exception as error:  # of a broken file almost anything
        raise ImageError(
            f"no picture: got {len(picture):,} bytes ({type(error).__name__}); expected a picture's file. Drop another."
        ) from error
    return read_image(opened)
