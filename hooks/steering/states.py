"""The last token's states after every block, of a prompt that runs by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from ..compat import prompt_positions
from ..generation import beside_generate
from ..prefills.prefill import dispatcher


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
