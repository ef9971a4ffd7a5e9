"""How likely a model finds texts that are given to it: one forward over all of their tokens, and no generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..._hooks import after_step, image_tokens, prompt_positions, unwrap


def token_logprobs(
    model: Any, inputs: Mapping[str, Any], answers: Sequence[Sequence[int]]
) -> list[Float[Tensor, "tokens"]]:
    """Log-probability, in nats, of each token of an answer after its prompt and the tokens before it.

    A placeholder of an image that a model writes has a probability as any token; those after it are given the prompt's
    last token in its place, as in a prompt it would stand for pixels.

    Args:
        model: the model, as it is patched meanwhile.
        inputs: of the prompts, padded on the left, as `generate` takes them.
        answers: token ids after each prompt; they may differ in number.

    Returns:
        One tensor per answer, on the CPU, in float32.
    """
    width = max(map(len, answers))
    if width == 0:
        return [torch.empty(0) for _ in answers]
    model = unwrap(model)[0]
    prompt = inputs["input_ids"]
    # What fills a row that ends early comes after all of it, so that nothing of it sees that; it is a token of text.
    rows = zip(answers, prompt[:, -1].tolist(), strict=True)
    said = torch.tensor([[*row, *[last] * (width - len(row))] for row, last in rows], device=prompt.device)
    with torch.inference_mode():
        mask = inputs.get("attention_mask", torch.ones_like(prompt))
        longer = {**inputs, "attention_mask": mask, "position_ids": prompt_positions(model, inputs)}
        # The model's own rule says how mask, positions and token types go on, one token after the other.
        for _ in range(width):
            longer = after_step(model, {}, longer)
        placeholder = torch.isin(said, prompt[image_tokens(model, inputs).to(prompt.device)])
        longer["input_ids"] = torch.cat([prompt, said.where(~placeholder, prompt[:, -1:]).to(prompt.dtype)], dim=1)
        logits = model(**longer, use_cache=False, logits_to_keep=width + 1).logits[:, :-1]
        return [
            row[: len(answer)].float().log_softmax(dim=-1).gather(1, ids[: len(answer), None]).flatten().cpu()
            for row, ids, answer in zip(logits, said.to(logits.device), answers, strict=True)
        ]
