"""What measures of doubt mean for a model: a logistic regression, learnt once where the truth is known, and stored."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...errors import ConfigError, suggestion
from ...fields import Fields, Index, Number
from ...files import read_json

_LEAST = 1e-30  # a probability that underflowed, before its logarithm
_FOLDER = "calibrations"


@dataclass(frozen=True, kw_only=True)
class Calibration(Fields):
    """How likely a word is made up, by measures of doubt.

        score = 1 / (1 + exp(−(intercept + Σ weight · feature)))

    where the feature of a measure is the measure, and of `confidence` its logarithm. It holds for objects of CHAIR's
    list, on which it is learnt, and for the model and the kind of pictures that it was learnt on.

    Attributes:
        name: what `scr.describe` calls it.
        model: which model's words it was learnt on.
        revision: commit or digest of that model's weights.
        data: on which pictures.
        prompt: what was asked.
        date: when, as YYYY-MM-DD.
        mentions: on how many mentions of objects.
        made_up: how many of them were not in the image.
        intercept: of the regression.
        weights: measure → its weight, per unit of its feature.
    """

    name: str
    model: str
    revision: str | None = None
    data: str
    prompt: str
    date: str
    mentions: Index
    made_up: Index
    intercept: Number
    weights: dict[str, Number]

    @property
    def digest(self) -> str:
        """What tells it from another of its name: the first 16 hexadecimal digits of its content's sha256."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def caveat(self, model: str, revision: str | None, prompt: str, adapters: Sequence[str] = ()) -> str | None:
        """In one sentence, how what is described differs from what the scores were learnt on; None where it does not.

        Args:
            model: the name of what describes.
            revision: commit or digest of its weights; where either is unknown, names are compared.
            prompt: what it is asked.
            adapters: names of those on it.
        """
        found = []
        known = self.revision is not None and revision is not None
        if self.revision != revision if known else self.model != model:
            found.append(f"on {'other weights' if self.model == model else 'another model'} ({self.model})")
        if self.prompt != prompt:
            found.append(f"with another prompt ({self.prompt!r})")
        found += [f"without {name}" for name in adapters]
        if not found:
            return None
        return f"scores by {self.name} were learnt {' and '.join(found)}: here they may mean something else"

    def score(self, measures: Mapping[str, float | None]) -> float | None:
        """How likely a word with these measures is made up, in [0, 1]; None where one that it weighs is missing."""
        total = self.intercept
        for name, weight in self.weights.items():
            value = measures.get(name)
            if value is None:
                return None
            total += weight * feature(name, value)
        return 1 / (1 + math.exp(-total)) if total > 0 else math.exp(total) / (1 + math.exp(total))


def feature(name: str, value: float) -> float:
    """What the regression weighs of a measure."""
    return math.log(max(value, _LEAST)) if name == "confidence" else value


def find_calibration(name: str | Path | Calibration) -> Calibration:
    """The calibration of that name.

    Args:
        name: one that comes with the project, such as "lab/llava"; a JSON file; or a calibration, which is returned.

    Raises:
        ConfigError: where there is none, or it holds something else.
        DataFileError: for a file that cannot be read.
    """
    if isinstance(name, Calibration):
        return name
    known = list_calibrations()
    path = Path(name).expanduser()
    if str(name) in known:
        path = _folder() / f"{name}.json"
    elif path.suffix != ".json":
        raise ConfigError(
            f"unknown calibration: got {str(name)!r}; expected one of {', '.join(known)}, or a JSON file. "
            f"{suggestion(str(name), known, 'Make one by `python -m benchmarks.doubts`.')}"
        )
    return Calibration.from_dict(read_json(path))


def chosen_calibration(given: str | None, model: str) -> Calibration | None:
    """What a command's `--calibration` means.

    Args:
        given: as for `find_calibration`; "none" for no scores; None for the one that comes with the project for
            the model, where there is one.
        model: the model's name.

    Raises:
        ConfigError: as `find_calibration`.
        DataFileError: likewise.
    """
    if given is None:
        return find_calibration(model) if model in list_calibrations() else None
    return None if given == "none" else find_calibration(given)


def list_calibrations() -> list[str]:
    """The names of those that come with the project."""
    folder = _folder()
    return sorted(str(path.relative_to(folder).with_suffix("").as_posix()) for path in folder.rglob("*.json"))


def _folder() -> Path:
    place: Any = files(__package__)
    return Path(str(place)) / _FOLDER
