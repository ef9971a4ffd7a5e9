"""What the page shows for a picture and a question: each method's text, doubts and trace, as JSON values."""

from __future__ import annotations

import inspect
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..describing.asking import Asker, conditions
from ..describing.doubts.scores import Calibration
from ..describing.gallery.page import page_data
from ..describing.gallery.photos import Photo
from ..describing.images import ImageError, read_image
from ..errors import ConfigError, SCRError
from ..methods import METHODS, MethodEntry
from ..patching.baseline import BASELINE
from ..patching.combination import CombinedConfig

_MOST = 8
"""Methods of one question: it holds the model for all others."""
_PICTURE = "the picture"


class Answering:
    """A model that answers one question after the other, whoever asks.

    Attributes:
        choices: the methods that work on it with their defaults, by name, as the page is told them.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        prompt: str,
        calibration: Calibration | None,
        generation: Mapping[str, Any],
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        """Look up what the page offers.

        Args:
            model: as for `scr.describe`.
            processor: the model's.
            name: what the page calls the model.
            prompt: what stands in the field for the question.
            calibration: what scores doubts; None for no scores.
            generation: arguments of `generate`.
            beside: what `scr.json` beside the checkpoint holds, for methods that take it.
        """
        self._beside = beside or {}
        self._model, self._processor = model, processor
        self._name, self._prompt = name, prompt
        self._calibration, self._generation = calibration, dict(generation)
        self._alone = threading.Lock()
        beams = self._generation.get("num_beams", 1)
        works = [entry for entry in METHODS.values() if entry.least_beams <= beams and _works(model, entry)]
        self.choices = {entry.name: self._choice(entry) for entry in works}

    def offer(self) -> dict[str, Any]:
        """What the page can ask for."""
        return {"model": self._name, "prompt": self._prompt, "methods": list(self.choices.values())}

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
        wanted = [one for one in dict.fromkeys(methods) if one != BASELINE]
        if not prompt.strip():
            raise ConfigError("no question: got an empty one; expected a sentence. Ask something.")
        if len(wanted) > _MOST:
            raise ConfigError(f"too many methods: got {len(wanted)}; expected {_MOST} or fewer. Choose some.")
        configs = {BASELINE: CombinedConfig(parts={})}
        configs |= {name: self._configured(name, strengths) for name in wanted}
        # In memory where /tmp is; a file, because photos are files to all that describes them.
        with self._alone, tempfile.TemporaryDirectory() as folder:
            photo = Photo(_PICTURE, Path(folder) / "picture")
            photo.path.write_bytes(picture)
            try:
                size = read_image(str(photo.path)).size
            except ImageError as error:
                raise ImageError(str(error).replace(repr(str(photo.path)), "a file")) from error
            rows_of = conditions(configs, ())
            asker = Asker(self._model, self._processor, prompt, rows_of, self._generation, self._calibration)
            rows = [row for name in configs for row in asker.rows([photo], name)]
        settings = {"id": "", "model": self._name, "prompt": prompt}
        return page_data(settings, rows, lambda name: {"size": list(size)})

    def _configured(self, name: str, strengths: Mapping[str, float]) -> CombinedConfig:
        if name not in self.choices:
            raise ConfigError(
                f"unknown method: got {name!r}; expected one of {list(self.choices)}. Choose one of them."
            )
        fields = {self.choices[name]["field"]: strengths[name]} if name in strengths else {}
        taken = METHODS[name].settings_of(self._beside)
        return CombinedConfig(parts={name: METHODS[name].configure({**taken, **fields})})

    def _choice(self, entry: MethodEntry) -> dict[str, Any]:
        turned = strength(entry)
        taken = entry.settings_of(self._beside).get(turned["field"], turned["default"])
        return {"name": entry.name, "summary": entry.summary, **turned, "default": taken}


def _works(model: Any, entry: MethodEntry) -> bool:
    try:
        entry.method(model, entry.configure({}))
    except SCRError:
        return False
    return True


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
