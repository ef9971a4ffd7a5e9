"""States after every block, of a prompt that runs by itself: of its last token, and of its picture."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..compat import prompt_positions
from ..encoding import encode_images
from ..errors import UnsupportedModelError
from ..families import find_family
from ..generation import beside_generate
from ..installing.stack import HookStack
from ..prefills.prefill import dispatcher
from ..residual import hidden_of


@torch.no_grad()
def last_states(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Float[Tensor, "blocks rows dim"]:
    """Run prompts, without any method's edits, and return the last token's state after each block.

    That of the last block has passed the final norm, as in what transformers calls `hidden_states`.

    Args:
        model: the model; inside a `generate` this forward is no step of it.
        inputs: the processor's; padding is on the left.

    Raises:
        UnsupportedModelError: if the decoder has no final norm, or its blocks are compiled.
    """
    family = find_family(model)
    given = {**inputs, "use_cache": False, "logits_to_keep": 1}
    if given.get("position_ids") is None:
        given["position_ids"] = prompt_positions(model, inputs)
    places = [*family.layers(model)[:-1], family.final_norm(model)]
    return _noted(places, lambda hidden: hidden[:, -1], lambda: model(**given), model)


@torch.no_grad()
def vision_states(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Float[Tensor, "blocks dim"]:
    """Run the vision tower on its own, and return what its blocks put out, in the mean over all patches.

    Args:
        model: the model.
        inputs: the processor's, of one picture.

    Raises:
        UnsupportedModelError: if the tower is not built of blocks, or they are compiled.
    """
    blocks = find_family(model).vision_layers(model)
    return _noted(blocks, _mean_of_patches, lambda: encode_images(model, inputs), model)


def _mean_of_patches(hidden: Float[Tensor, "*patches dim"]) -> Float[Tensor, "dim"]:
    return hidden.float().flatten(0, -2).mean(dim=0)


def _noted(
    modules: Sequence[nn.Module],
    note: Callable[[Tensor], Tensor],
    run: Callable[[], object],
    model: PreTrainedModel,
) -> Float[Tensor, "modules *shape"]:
    """What is noted of each module's output while something runs on this thread, beside any `generate`."""
    thread, found = threading.get_ident(), dict[int, Tensor]()

    def noting(index: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == thread and not torch.compiler.is_compiling():
            found[index] = note(hidden_of(output))

    with HookStack() as stack, beside_generate(), dispatcher(model).paused():
        for index, module in enumerate(modules):
            stack.forward_hook(module, functools.partial(noting, index))
        run()
    if len(found) < len(modules):
        raise UnsupportedModelError(
            f"blocks went by unseen: got states of {len(found)} of {len(modules)}; expected all. Use the model without "
            "torch.compile."
        )
    return torch.stack([found[index].to(found[0].device) for index in range(len(modules))])
