"""Ask again: is what the text names in the image, yes or no?"""

from __future__ import annotations

from typing import Any

import torch

from ..._hooks import prompt_positions, unwrap
from ...reading import answer_margins, answer_tokens
from ..encoding import encode_prompts
from .said import Said


def recheck(said: Said) -> list[list[float | None]]:
    """Logit of yes minus logit of no to POPE's question about each content word; None where they cannot be told apart.

    A noun is asked about once per image, however often it is said. As many questions are answered at once as there are
    answers in the batch.
    """
    tokens = answer_tokens(said.processor.tokenizer)
    asked = list(dict.fromkeys((row, one.word.noun) for row, words in enumerate(said.words) for one in words))
    margins: dict[tuple[int, str], float | None] = {}
    size = len(said.answers)
    for start in range(0, len(asked) if tokens.reason is None else 0, size):
        part = asked[start : start + size]
        prompts = [question(noun) for _, noun in part]
        inputs = encode_prompts(said.model, said.processor, prompts, [said.images[row] for row, _ in part])
        margins |= zip(part, answer_margins(_last_logits(said.model, inputs), tokens), strict=True)
    return [[margins.get((row, one.word.noun)) for one in words] for row, words in enumerate(said.words)]


def question(noun: str) -> str:
    """POPE's question: "Is there a dog in the image?"."""
    return f"Is there {'an' if noun[0] in 'aeiou' else 'a'} {noun} in the image?"


def _last_logits(model: Any, inputs: dict[str, Any]) -> Any:
    model = unwrap(model)[0]
    with torch.inference_mode():
        positions = prompt_positions(model, inputs)
        output = model(**{**inputs, "position_ids": positions}, use_cache=False, logits_to_keep=1)
    return output.logits[:, -1]
