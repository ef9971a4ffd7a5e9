"""What methods have in common that hold other runs of the same prompt against the first: VCD, SID, CRoPS and others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from .._hooks import (
    PIXELS,
    GenerateCall,
    HookStack,
    JoinedLoop,
    encode_images,
    tap_attention,
    why_not_joined,
)
from ..branches.branch import Branch
from ..branches.running import RunningBranch
from ..errors import UnsupportedGenerationError
from .base import Lever, MethodConfig
from .logits import ImageRowsProcessor, LogitsMethod

Engine = Literal["auto", "processor", "joined"]


@dataclass(frozen=True, kw_only=True, repr=False)
class BranchesConfig(MethodConfig):
    """What all such methods can be told.

    Attributes:
        edited: whether methods that act on prefills, such as SCR, edit the other branches too.
        engine: `"processor"`, a forward of its own for each branch; `"joined"`, all branches in one forward, greedy
            and sampling only; `"auto"`, the second where it can. The answers are the same.
    """

    edited: bool = True
    engine: Engine = "auto"


class Others:
    """What the other branches say at one step, asked for when it is needed: a branch that nobody asks runs no forward.

    `others[0]` is the first branch's logits (rows, vocab), where the first run's are.
    """

    def __init__(self, running: Sequence[RunningBranch], tokens: Int[Tensor, "rows length"], like: Tensor) -> None:
        """Of the step after `tokens`."""
        self._running, self._tokens, self._like = running, tokens, like

    def __getitem__(self, index: int) -> Float[Tensor, "rows vocab"]:
        """The logits of one."""
        return self._running[index].logits(self._tokens).to(self._like.device)


Combine = Callable[[Tensor, Others, int], Tensor]
"""Makes new scores (rows, vocab) of the first run's, the others' and the number of tokens that were generated."""


class BranchesProcessor(ImageRowsProcessor):
    """Combines the scores of a step with what the other branches say.

    Attributes:
        branches: the others; their `forwards` are counted.
    """

    def __init__(
        self, model: Any, inputs: Mapping[str, Any], branches: Sequence[RunningBranch], combine: Combine
    ) -> None:
        """For one call of `generate`; no forward runs yet."""
        super().__init__(model, inputs)
        self.branches, self._combine = tuple(branches), combine
        self._prompt = inputs["input_ids"].shape[1]

    def change(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """Combine.

        Raises:
            ConfigError: if the tokens do not go on from the inputs given, or from the step before.
        """
        others = Others(self.branches, input_ids, scores)
        return self._combine(scores, others, input_ids.shape[1] - self._prompt)


class BranchesMethod(LogitsMethod):
    """A method that lists its branches, and combines what they say."""

    requires: ClassVar[tuple[Lever, ...]] = ("logits", "loop")
    ranks_keys: ClassVar[bool] = False
    """Whether a branch may not see all keys, or a plan of the method's own takes part in the attention."""

    config: BranchesConfig

    @abstractmethod
    def branches(self, call: GenerateCall) -> Sequence[Branch]:
        """The other runs of one call of `generate`."""

    def combine(self, clean: Float[Tensor, "rows vocab"], others: Others, step: int) -> Float[Tensor, "rows vocab"]:
        """The scores of a step, float32.

        Args:
            clean: the first run's, logits or log-probabilities.
            others: the other branches', in the order of `branches`.
            step: how many tokens were generated before; the same for all rows.
        """
        raise NotImplementedError

    def combining(self, call: GenerateCall) -> Combine:
        """`combine` for one call of `generate`, of a method where calls differ."""
        return self.combine

    def skips(self) -> bool:
        """Whether there are steps at which nobody asks the other branches, so that running them apart is cheaper."""
        return False

    def install(self, model: PreTrainedModel, stack: HookStack) -> None:
        """See `Method`."""
        if self.ranks_keys:
            tap_attention(model, stack)
        super().install(model, stack)

    def begin(self, call: GenerateCall) -> LogitsProcessor:
        """See `LogitsMethod`; brings the joined loop where it serves."""
        branches = self.branches(call)
        cache = call.arguments.get("past_key_values")
        if branches and cache is not None and cache.get_seq_length():
            raise UnsupportedGenerationError(
                f"{self.name} cannot go on from a cache, which holds no other branch: got past_key_values of "
                f"{cache.get_seq_length()} tokens; expected none. Give the whole conversation with all its images."
            )
        obstacle = why_not_joined(call)
        if self.config.engine == "joined" and obstacle is not None:
            raise UnsupportedGenerationError(
                f"branches cannot run in one forward: got {obstacle}; expected greedy decoding or sampling that "
                "returns tokens. Use engine='processor', or 'auto'."
            )
        encoded = self._encoded(call, branches)
        running = [RunningBranch(call.model, call.model_inputs, branch, encoded) for branch in branches]
        if self.ranks_keys:
            call.arguments["disable_compile"] = True  # a compiled step would not go through our attention
        alone = self.config.engine == "auto" and self.skips()
        if running and self.config.engine != "processor" and obstacle is None and not alone:
            call.arguments["custom_generate"] = JoinedLoop(running, call.arguments.get("streamer"))
        return BranchesProcessor(call.model, call.model_inputs, running, self.combining(call))

    def _encoded(self, call: GenerateCall, branches: Sequence[Branch]) -> Mapping[str, Any] | None:
        """Where features are corrupted: run the vision tower once, for `generate` and for the other branches."""
        corrupted = any(one.image is not None and one.image.acts_on == "features" for one in branches)
        if corrupted and "mm_encoder_outputs" not in call.arguments:
            call.arguments.update(mm_encoder_outputs=encode_images(call.model, call.model_inputs)["mm_encoder_outputs"])
            for name in PIXELS.values():
                call.arguments.pop(name, None)
        encoded = call.arguments.get("mm_encoder_outputs")
        # `generate` repeats the features of its own for beams, in place.
        return None if encoded is None else {name: type(output)(**output) for name, output in encoded.items()}
