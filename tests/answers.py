"""What a tiny model answers, and the scores of every step as a user's own processor gets them."""

from __future__ import annotations

import torch
from tiny_families import PROMPTS, VOCABULARY
from transformers import LogitsProcessor

# A sampled image token would be taken for an image by a recomputation without caches.
SUPPRESSED = [VOCABULARY["<image>"], VOCABULARY["<video>"]]
GREEDY = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": SUPPRESSED}
SAMPLING = {**GREEDY, "do_sample": True, "top_k": 0}


class Spy(LogitsProcessor):
    """A user's own processor: notes what it is given."""

    def __init__(self):
        self.scores = []

    def __call__(self, input_ids, scores):
        self.scores.append(scores.clone())
        return scores


def said(tiny, prompts=PROMPTS, **options):
    """All tokens, and the scores of every step; greedy unless told otherwise."""
    spy = Spy()
    torch.manual_seed(3)
    tokens = tiny.model.generate(**tiny.prompt(prompts).inputs, **{**GREEDY, **options}, logits_processor=[spy])
    return tokens, torch.stack(spy.scores, dim=1)
