"""DoLa (arXiv 2309.03883): contrast the last layer with the earlier one that differs most from it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LogitsProcessor, PreTrainedModel

from .._hooks import GenerateCall, HookStack, current_calls, find_family, hidden_of, is_beside, when_idle
from ..contrast import plausible_tokens
from ..errors import ConfigError, UnsupportedGenerationError
from ..fields import SOME, Index, Share
from .base import MethodConfig
from .logits import ImageRowsProcessor, LogitsMethod


@dataclass(frozen=True, kw_only=True, repr=False)
class DoLaConfig(MethodConfig):
    """Which layers may be the earlier one.

    Attributes:
        layers: `"low"`, every second layer of the lower half; `"high"`, of the upper; or indices of hidden states, 0
            for the embeddings and N for the last of N blocks, which may not be among them. The names are resolved as
            in the transformers release that had DoLa; one index leaves nothing to choose.
        plausibility: tokens whose probability is below this share of the highest are banned (`relative_top`).
    """

    symbols: ClassVar[Mapping[str, str]] = {
        "DoLa's α": "plausibility",
        "DoLa's relative_top": "plausibility",
        "DoLa's dola_layers": "layers",
    }

    layers: Literal["low", "high"] | Annotated[tuple[Index, ...], SOME] = "low"
    plausibility: Share = 0.1

    def candidates(self, num_layers: int, tied: bool) -> tuple[int, ...]:
        """The hidden states to choose from, ascending.

        Args:
            num_layers: blocks of the decoder.
            tied: whether the language head shares the embeddings' weights: then they alone say nothing.

        Raises:
            ConfigError: for an index that is no earlier layer.
        """
        first = min(2, num_layers - 1) if tied else 0
        if self.layers == "low":
            return tuple(range(first, num_layers // 2 if num_layers <= 40 else 20, 2)) or (first,)
        if self.layers == "high":
            return tuple(range(num_layers // 2 if num_layers <= 40 else num_layers - 20, num_layers, 2))
        chosen = tuple(sorted({int(layer) for layer in self.layers}))
        if chosen[-1] >= num_layers:
            raise ConfigError(
                f"layers leave the model: got {chosen}; expected indices below {num_layers}, the last layer. "
                "Name earlier ones."
            )
        return chosen


def contrast_layers(
    final: Float[Tensor, "rows vocab"], early: Float[Tensor, "layers rows vocab"], plausibility: float
) -> tuple[Float[Tensor, "rows vocab"], Int[Tensor, "rows"]]:
    """`log p − log q`, where q is the layer of the highest divergence from the last one, for each row its own.

    The divergence is that of DoLa's code, `KL(M ‖ p) + KL(M ‖ q)` with `M = (p + q)/2`, and not the textbook's
    `KL(p ‖ M) + KL(q ‖ M)`. Its code also takes the mean over the batch, so that an answer depends on its neighbours.

    Args:
        final: logits or log-probabilities of the last layer.
        early: logits of the earlier layers, without the final norm.
        plausibility: tokens outside `plausible_tokens` of `final` get −∞.

    Returns:
        The scores, as float32, and which layer was chosen.
    """
    kept = plausible_tokens(final, plausibility)
    allowed = plausible_tokens(final, 0)  # banned tokens have no part in the divergence either
    p = final.float().masked_fill(~allowed, -math.inf).log_softmax(dim=-1)
    q = early.float().masked_fill(~allowed, -math.inf).log_softmax(dim=-1)
    middle = torch.logaddexp(p, q) - math.log(2)
    divergence = torch.where(allowed, middle.exp() * (2 * middle - p - q), 0).sum(dim=-1)
    chosen = divergence.argmax(dim=0)
    of_chosen = q.gather(0, chosen[None, :, None].expand(1, *final.shape))[0]
    return torch.where(kept, p - of_chosen, -math.inf), chosen


class DoLa(LogitsMethod):
    """Contrast layers at every step; no second forward."""

    name: ClassVar[str] = "dola"
    paper: ClassVar[str] = "arXiv 2309.03883"
    config_class: ClassVar[type[MethodConfig]] = DoLaConfig

    config: DoLaConfig

    def __init__(self, model: PreTrainedModel, config: DoLaConfig) -> None:
        """See `Method`."""
        super().__init__(model, config)
        self._layers = find_family(model).layers(model)
        tied = bool(getattr(model.config, "tie_word_embeddings", False))
        self.candidates = config.candidates(len(self._layers), tied)

    def install(self, model: PreTrainedModel, stack: HookStack) -> None:
        """See `Method`."""
        hooks = HookStack()
        stack.callback(when_idle, model, hooks.close)  # a call that is running needs them to its end
        for candidate in self.candidates:
            if candidate == 0:
                hooks.forward_pre_hook(self._layers[0], self._before_first)
            else:
                hooks.forward_hook(self._layers[candidate - 1], functools.partial(self._after, candidate))
        head = cast(nn.Module, model.get_output_embeddings())
        hooks.forward_pre_hook(head, self._before_head)
        super().install(model, stack)

    def begin(self, call: GenerateCall) -> LogitsProcessor:
        """See `LogitsMethod`."""
        call.arguments["disable_compile"] = True  # a compiled step would not call the hooks
        return _LayerContrast(call.model, call.model_inputs, self)

    def _before_first(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._note(0, args[0] if args else kwargs["hidden_states"])

    def _after(self, candidate: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._note(candidate, hidden_of(output))

    def _before_head(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        step = None if torch.compiler.is_compiling() else self._step()
        if step is not None:
            last = args[0] if args else kwargs["input"]
            step.device, step.dtype = last.device, last.dtype

    def _note(self, candidate: int, hidden: Float[Tensor, "rows seq dim"]) -> None:
        step = None if torch.compiler.is_compiling() or is_beside() else self._step()
        if step is not None:
            step.hidden[candidate] = hidden[:, -1].detach()

    def _step(self) -> _LayerContrast | None:
        """Of the call that this thread is in, if it began under this method."""
        return next((call.kept[self] for call in current_calls() if self in call.kept), None)


class _LayerContrast(ImageRowsProcessor):
    def __init__(self, model: Any, inputs: dict[str, Any], method: DoLa) -> None:
        super().__init__(model, inputs)
        self._head: nn.Module = model.get_output_embeddings()
        self._candidates, self._plausibility = method.candidates, method.config.plausibility
        # Of the step that was just made: the last token's hidden state after each candidate, and what the head got.
        self.hidden: dict[int, Tensor] = {}
        self.device: torch.device
        self.dtype: torch.dtype

    @torch.no_grad()
    def change(
        self, input_ids: Int[Tensor, "rows length"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        # Below the rows of `generate` there may be those of another method's branch, in the same forward.
        early = self._early_logits(len(scores)).to(scores.device)
        return contrast_layers(scores, early, self._plausibility)[0]

    def _early_logits(self, rows: int) -> Float[Tensor, "layers rows vocab"]:
        """What the candidates say about the first `rows` rows of the step that was just made.

        The head is called as the model calls it: its parameters may be elsewhere, or packed, or none.
        """
        hidden, self.hidden = self.hidden, {}
        if sorted(hidden) != sorted(self._candidates):
            raise UnsupportedGenerationError(
                f"dola saw no layers: got hidden states of {sorted(hidden)}; expected {list(self._candidates)}. "
                "Use the model without torch.compile."
            )
        stacked = torch.stack([hidden[candidate].to(hidden[self._candidates[0]]) for candidate in self._candidates])
        return self._head(stacked[:, :rows].to(self.device, self.dtype))
