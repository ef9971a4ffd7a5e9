"""Every number of a training. The values and their reasons stand in `seed.toml` and `refusal.toml` beside this file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from ..contrast import RollingStrength, Strengths
from ..errors import ConfigError
from ..fields import SOME, Fields, Index, Share
from ..kinds import Between
from ..perturb import NamedPerturbation

Divergence = Literal["reverse", "forward"]
Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
RECIPES = ("seed", "refusal")
_Count = Annotated[int, Between(1, 2**31 - 1)]


@dataclass(frozen=True, kw_only=True)
class Distillation(Fields):
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

    temperature: Annotated[float, Between(0, 1e6, above=True)]
    distil_weight: Share
    divergence: Divergence
    strengths: Strengths
    history: _Count
    cache_teacher: bool
    perturbation: NamedPerturbation

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        super().__post_init__()
        RollingStrength(strengths=self.strengths, history=self.history)


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe(Fields):
    """How an adapter is trained: AdamW, linear warm-up, cosine to zero.

    Above the bounds float32 overflows, or a step throws away what the steps before it learnt.

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

    rank: _Count
    alpha: Annotated[float, Between(0, 1e6, above=True)]
    dropout: Share
    targets: Annotated[tuple[str, ...], SOME]
    learning_rate: Annotated[float, Between(0, 1, above=True)]
    warmup_share: Share
    epochs: _Count
    batch_size: _Count
    accumulation: _Count
    gradient_clip: Annotated[float, Between(0, above=True)]
    weight_decay: Annotated[float, Between(0, 100)]
    dtype: Dtype
    gradient_checkpointing: bool
    max_tokens: _Count
    seed: Index
    save_every: _Count
    distillation: Distillation | None = None


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
