"""What another run of the same prompts is: described, and not yet running."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Bool
from torch import Tensor

from .._hooks import AttentionPlan
from ..perturb import Perturbation

PromptChange = Callable[[Any, dict[str, Any]], dict[str, Any]]
"""Makes other inputs of a model's: see `scr.branches.prompts`."""


class Visibility(Protocol):
    """Which keys, or tokens, a branch may see."""

    def start(self, image: Bool[Tensor, "rows prompt"], real: Bool[Tensor, "rows prompt"]) -> AttentionPlan:
        """Its part in the attention of one call of `generate`.

        Args:
            image: which tokens of the branch's prompts stand for an image or a video; a row for each beam.
            real: which are no padding.
        """


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Another run of the same prompts; as it stands, the same run.

    Attributes:
        prompt: other ids, such as those without the image.
        image: another image: how its pixels, or its features, are corrupted.
        sees: which keys it may see in which blocks; all of them if None.
        edited: whether methods that act on prefills, such as SCR, edit it too.
    """

    prompt: PromptChange | None = None
    image: Perturbation | None = None
    sees: Visibility | None = None
    edited: bool = True
