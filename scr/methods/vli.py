"""VLI, in its style (arXiv 2601.05159): steer hidden states from the image's context towards its anchors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from .._hooks import GenerateCall, HookStack, current_calls
from ..branches.branch import Branch
from ..branches.running import RunningBranch
from ..branches.saliency import CoverSalient, once_per_image, tower_saliency
from ..branches.steering import Steering, let_steer
from ..errors import UnsupportedGenerationError
from ..fields import Factor, Share
from ..perturb import BlankImage, NamedPerturbation
from .base import Lever, MethodConfig
from .branching import BranchesConfig, BranchesMethod, BranchesProcessor
from .logits import ImageRowsProcessor

_BLANK = BlankImage()


@dataclass(frozen=True, kw_only=True, repr=False)
class VLIConfig(BranchesConfig):
    """What is published of VLI has ρ alone; for what is ours see `VLI`.

    Attributes:
        edited, engine: see `BranchesConfig`.
        strength: how far the hidden states are moved (VLI's α, whose value is not published); at 0 nothing runs.
        anchored: the share of each tile's saliency map that its anchors make up (VLI's ρ).
        saliency: `"tower"`, the model's own vision tower (`ModelFamily.salience`), or a callable that gets one image's
            normalised pixels (tiles, 3, height, width) and returns a map (tiles, rows, columns) of numbers ≥ 0.
            JSON cannot hold a callable.
        fill: what covered pixels become: those of the image under this perturbation; `"blank"` is the mean colour.
    """

    symbols: ClassVar[Mapping[str, str]] = {"VLI's α": "strength", "VLI's ρ": "anchored"}
    example: ClassVar[Mapping[str, Any]] = {"strength": 1.0}

    strength: Factor = 0.1
    anchored: Share = 0.4
    saliency: Literal["tower"] | Callable = "tower"
    fill: NamedPerturbation = _BLANK


class VLI(BranchesMethod):
    """`h ← h + α·(h_anchors − h_context)` at the last token after every block. No code of it is public.

    What is published is kept: two other images, one of the anchors alone and one of all else, run through the same
    decoder on the same tokens, and their difference moves the hidden states of all blocks; anchors make up ρ = 0.4 of
    a map. What is ours: the map is the vision tower's, once per image, where VLI reads the attention of heads chosen by
    calibration, at the token where it sees a conflict (neither heads nor threshold are published); what is covered gets
    the mean colour, or a blur, where VLI asks an inpainting model; α; all tokens are steered; no temperature is raised.
    """

    name: ClassVar[str] = "vli"
    paper: ClassVar[str] = "arXiv 2601.05159"
    # It acts on the residual stream too, but in `generate` alone.
    requires: ClassVar[tuple[Lever, ...]] = ("loop",)
    config_class: ClassVar[type[MethodConfig]] = VLIConfig

    config: VLIConfig

    def install(self, model: PreTrainedModel, stack: HookStack) -> None:
        """See `Method`."""
        let_steer(model, self._steering, stack)
        super().install(model, stack)

    def branches(self, call: GenerateCall) -> Sequence[Branch]:
        """See `BranchesMethod`: towards which to steer, and away from which."""
        config = self.config
        saliency = once_per_image(tower_saliency(call.model) if config.saliency == "tower" else config.saliency)
        return [
            Branch(
                image=CoverSalient(saliency=saliency, covered=config.anchored, outside=outside, fill=config.fill),
                edited=config.edited,
            )
            for outside in ((True, False) if config.strength else ())
        ]

    def begin(self, call: GenerateCall) -> LogitsProcessor:
        """See `LogitsMethod`."""
        for name, fits in {"use_cache": (None, True), "prefill_chunk_size": (None,)}.items():
            if call.setting(name) not in fits:
                raise UnsupportedGenerationError(
                    f"{self.name} steers each token once, as it comes: got {name}={call.setting(name)}; expected a "
                    f"cache, and prompts in one piece. Leave {name} out."
                )
        loop, processor = call.arguments.get("custom_generate"), super().begin(call)
        assert isinstance(processor, BranchesProcessor)
        call.arguments["disable_compile"] = True  # a compiled step would not call the hooks
        joined = call.arguments.get("custom_generate") is not loop
        return _Steered(call, processor.branches, self.config.strength, joined)

    def _steering(self) -> Steering | None:
        """Of the call that this thread is in, if it began under this method and has another branch."""
        return next((call.kept[self].steering for call in current_calls() if self in call.kept), None)


class _Steered(ImageRowsProcessor):
    """Leaves the scores alone, but for what is no number."""

    def __init__(self, call: GenerateCall, branches: Sequence[RunningBranch], strength: float, joined: bool) -> None:
        super().__init__(call.model, call.model_inputs)
        self.steering = Steering(branches, strength, self._with_image, joined) if branches else None

    def change(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        return scores.float()
