"""Every number of a training. The values and their reasons stand in `seed.toml` and `refusal.toml` beside this file."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from .._hooks import suggestion
from ..contrast import RollingStrength
from ..errors import ConfigError
from ..perturb import Perturbation, get_perturbation
from ..variants import check_integer, check_number

Divergence = Literal["reverse", "forward"]
DTYPES = ("float32", "bfloat16", "float16")
RECIPES = ("seed", "refusal")
_MOST = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What SEED adds to a training (Li et al., ACM MM 2025, arXiv 2507.04680); it has no code, so "SEED-style".

    Attributes:
        temperature: T of both distributions.
        distil_weight: share of `T²·KL` in the loss; the rest is the cross-entropy of the answers.
        divergence: `"reverse"`, KL(student ‖ teacher), which seeks modes; or `"forward"`.
        strengths: contrast of a token by the quarter of its confidence, the least confident first.
        history: how many confidences decide the quarters.
        cache_teacher: keep the teacher's distributions in memory for later epochs.
        perturbation: how the teacher's second image is corrupted.
    """

    temperature: float
    distil_weight: float
    divergence: Divergence
    strengths: tuple[float, ...]
    history: int
    cache_teacher: bool
    perturbation: Perturbation

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        check_number("temperature", self.temperature, high=1e6, exclusive=True)
        check_number("distil_weight", self.distil_weight, high=1)
        _check_kind("cache_teacher", self.cache_teacher, bool, "true or false")
        if not isinstance(self.divergence, str) or self.divergence not in get_args(Divergence):
            raise ConfigError(
                f"unknown divergence: got {self.divergence!r}; expected one of {get_args(Divergence)}. Choose one."
            )
        check_integer("history", self.history, low=1, high=_MOST)
        RollingStrength(strengths=self.strengths, history=self.history)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The settings that a table of a file holds.

        Raises:
            ConfigError: for an unknown or missing name, or a value out of range.
        """
        given = _check_names(cls, values)
        perturbation = given["perturbation"]
        if not isinstance(perturbation, Perturbation):
            settings = dict(_check_kind("perturbation", perturbation, Mapping, "a table with a name"))
            given["perturbation"] = get_perturbation(settings.pop("name", None), **settings)
        strengths = _check_kind("strengths", given["strengths"], list | tuple, "a list of numbers")
        return cls(**{**given, "strengths": tuple(strengths)})

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "strengths": list(self.strengths), "perturbation": self.perturbation.to_dict()}


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How an adapter is trained: AdamW, linear warm-up, cosine to zero.

    Attributes:
        rank: of the low-rank layers.
        alpha: their sum is scaled by alpha / rank.
        dropout: before them, in training.
        targets: names of linear layers in the blocks of the language model; no other tower's.
        learning_rate: its peak.
        warmup_share: share of all steps.
        epochs: how often each row is seen.
        batch_size: rows per forward.
        accumulation: forwards per step, over all processes.
        gradient_clip: largest norm of the gradient.
        weight_decay: of AdamW.
        dtype: number format of the model; the adapter is float32.
        gradient_checkpointing: compute activations twice instead of keeping them.
        max_tokens: longest row, image tokens included.
        seed: of the order of rows, the adapter's first weights and dropout.
        save_every: steps between saved states.
        distillation: what SEED adds; None trains on the answers alone.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    learning_rate: float
    warmup_share: float
    epochs: int
    batch_size: int
    accumulation: int
    gradient_clip: float
    weight_decay: float
    dtype: str
    gradient_checkpointing: bool
    max_tokens: int
    seed: int
    save_every: int
    distillation: Distillation | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        for name in ("rank", "epochs", "batch_size", "accumulation", "max_tokens", "save_every"):
            check_integer(name, getattr(self, name), low=1, high=_MOST)
        check_integer("seed", self.seed)
        # Above these bounds float32 overflows, or a step throws away what the steps before it learnt.
        for name, high in (("alpha", 1e6), ("learning_rate", 1.0), ("gradient_clip", float("inf"))):
            check_number(name, getattr(self, name), high=high, exclusive=True)
        for name, high in (("dropout", 1.0), ("warmup_share", 1.0), ("weight_decay", 100.0)):
            check_number(name, getattr(self, name), high=high)
        _check_kind("gradient_checkpointing", self.gradient_checkpointing, bool, "true or false")
        if self.distillation is not None:
            _check_kind("distillation", self.distillation, Distillation, "a table of settings")
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            raise ConfigError(f"unknown dtype: got {self.dtype!r}; expected one of {DTYPES}. Choose one of them.")
        if not self.targets or not all(isinstance(name, str) and name for name in self.targets):
            raise ConfigError(
                f"no targets: got {self.targets!r}; expected names of linear layers, such as 'q_proj'. Name one."
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The recipe that a file holds.

        Raises:
            ConfigError: for an unknown or missing name, or a value out of range.
        """
        given = _check_names(cls, values)
        distillation = given.get("distillation")
        if isinstance(distillation, Mapping):
            given["distillation"] = Distillation.from_dict(distillation)
        targets = _check_kind("targets", given["targets"], list | tuple, "a list of names, such as ['q_proj']")
        return cls(**{**given, "targets": tuple(targets)})

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        extra = None if self.distillation is None else self.distillation.to_dict()
        return {**values, "targets": list(self.targets), "distillation": extra}


def load_recipe(name: str, changes: Mapping[str, Any] | None = None) -> TrainingRecipe:
    """A recipe of this project, or one of the user's.

    Args:
        name: "seed", "refusal", or the path of a TOML file with the same names.
        changes: values in place of the file's; `distillation.temperature` and such for those of a table.

    Raises:
        ConfigError: for a file that cannot be read, an unknown or missing name, or a value out of range.
    """
    path = Path(__file__).with_name(f"{name}.toml") if name in RECIPES else Path(name)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"recipe cannot be read: got {name!r} ({error}); expected one of {RECIPES}, or a TOML file. Mend it."
        ) from error
    for key, value in (changes or {}).items():
        table = values
        *parents, last = key.split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise ConfigError(f"no table of a recipe: got {key!r}; expected {parent!r} to be one. Leave it out.")
        table[last] = value
    return TrainingRecipe.from_dict(values)


def _check_kind(name: str, value: Any, kind: Any, expected: str) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(f"{name} of another kind: got {value!r}; expected {expected}. Give one.")
    return value


def _check_names(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            raise ConfigError(
                f"unknown setting of a recipe: got {name!r}; expected one of {list(known)}. {suggestion(name, known)}"
            )
    missing = [n for n, field in known.items() if n not in values and field.default is dataclasses.MISSING]
    if missing:
        raise ConfigError(f"a recipe lacks settings: got none for {missing}; expected all. Give each a value.")
    return dict(values)
