"""States after every block, of a prompt that runs by itself: of its last token, and of its picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from ..compat import prompt_positions
from ..encoding import encode_images
from ..families import find_family
from ..generation import beside_generate
from ..installing.stack import HookStack
from ..prefills.prefill import dispatcher
from ..residual import hidden_of


@torch.no_grad()
def last_states(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Float[Tensor, "blocks rows dim"]:
    """Run prompts, without any method's edits, and return what transformers calls `hidden_states` after each block.

    So that of the last block has passed the final norm.

    Args:
        model: the model; inside a `generate` this forward is no step of it.
        inputs: the processor's; padding is on the left.
    """
    given = {**inputs, "use_cache": False, "output_hidden_states": True, "logits_to_keep": 1, "return_dict": True}
    if given.get("position_ids") is None:
        given["position_ids"] = prompt_positions(model, inputs)
    with beside_generate(), dispatcher(model).paused():
        states = model(**given).hidden_states
    return torch.stack([state[:, -1].to(states[-1].device) for state in states[1:]])


@torch.no_grad()
def vision_states(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Float[Tensor, "blocks dim"]:
    """Run the vision tower on its own, and return what its blocks put out, in the mean over all patches.

    Args:
        model: the model, which no other thread may be running.
        inputs: the processor's, of one picture.

    Raises:
        UnsupportedModelError: if the tower is not built of blocks.
    """
    found: list[Tensor] = []
    with HookStack() as stack, beside_generate():
        for block in find_family(model).vision_layers(model):
            stack.forward_hook(
                block,
                lambda module, args, output: found.append(hidden_of(output).float().flatten(0, -2).mean(dim=0)),
            )
        encode_images(model, inputs)
    return torch.stack([state.to(found[0].device) for state in found])
