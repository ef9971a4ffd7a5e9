"""Purified decoding on every family: the cached noisy branch equals a recomputation without caches."""

import copy

import pytest
import torch
from tiny_families import PROMPTS, TINY, VOCABULARY, longer
from transformers import LogitsProcessor

import scr
from hooks import prompt_positions
from scr.branches.running import RunningBranch
from scr.contrast import FixedStrength, contrast_logits
from scr.perturb import GaussianNoise, perturb_inputs

pytestmark = pytest.mark.usefixtures("one_thread")
GREEDY = {"max_new_tokens": 4, "do_sample": False}
# A sampled image token would be taken for an image by a recomputation without caches.
SUPPRESSED = {"suppress_tokens": [VOCABULARY["<image>"], VOCABULARY["<video>"]]}
DECODINGS = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.9},
    "beams": {"num_beams": 3, "do_sample": False},
    "several": {"do_sample": True, "num_return_sequences": 2},
}
WITH_IMAGES = PROMPTS[:2]


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request):
    made = TINY[request.param]()
    made.name = request.param
    return made


class Recomputed(LogitsProcessor):
    """Checks every step of a branch against the whole prompt and answer once more, in one forward without a cache."""

    def __init__(self, model, inputs, branch):
        self.model, self.inputs, self.branch, self.steps, self.worst = model, inputs, branch, 0, 0.0

    def __call__(self, input_ids, scores):
        found = self.branch.logits(input_ids)
        length, copies = self.inputs["input_ids"].shape[1], len(input_ids) // len(self.inputs["input_ids"])
        for row, tokens in enumerate(input_ids):
            prompt = row // copies
            rest = tokens[length:]
            whole = longer(self.inputs, len(rest))
            mask = self.inputs["attention_mask"]
            positions = prompt_positions(self.model, self.inputs)
            more = positions[..., -1:] + torch.arange(1, len(rest) + 1)
            whole["input_ids"] = torch.cat([self.inputs["input_ids"], rest.expand(len(mask), -1)], dim=1)
            whole["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), len(rest))], dim=1)
            whole["position_ids"] = torch.cat([positions, more], dim=-1)
            expected = self.model(**whole, use_cache=False).logits[prompt, -1]
            finite = expected > torch.finfo(expected.dtype).min
            self.worst = max(self.worst, float((found[row] - expected)[finite].abs().max()))
        self.steps += 1
        return scores


@pytest.mark.parametrize("decoding", list(DECODINGS))
def test_a_branch_equals_a_recomputation_without_caches(tiny, decoding):
    if decoding in ("beams", "several"):
        tiny.require_copies()
    inputs = tiny.prompt(WITH_IMAGES).inputs
    noisy = perturb_inputs(tiny.model, inputs, GaussianNoise())
    check = Recomputed(tiny.model, noisy, RunningBranch(tiny.model, noisy))
    torch.manual_seed(1)
    tiny.model.generate(**inputs, max_new_tokens=4, logits_processor=[check], **DECODINGS[decoding], **SUPPRESSED)
    assert check.steps == check.branch.forwards == 4
    assert check.worst < 1e-4


@pytest.mark.parametrize("decoding", list(DECODINGS))
def test_a_contrast_of_nothing_reproduces_the_base(tiny, decoding):
    if decoding in ("beams", "several"):
        tiny.require_copies()
    inputs = tiny.prompt([prompt for prompt in WITH_IMAGES if prompt in (tiny.repeatable or PROMPTS)]).inputs
    options = {"max_new_tokens": 4, **DECODINGS[decoding], **SUPPRESSED}

    def said(**settings):
        torch.manual_seed(3)
        purify = [scr.PurifiedLogitsProcessor(tiny.model, inputs, **settings)] if settings else []
        return tiny.model.generate(
            **inputs, logits_processor=purify, **options, return_dict_in_generate=True, output_scores=True
        )

    plain = said()
    assert torch.equal(said(strength=FixedStrength(contrast=0.0)).sequences, plain.sequences)
    assert not torch.equal(said(strength=FixedStrength(contrast=30.0)).sequences, plain.sequences)
    # Both branches see the same image, in batches of other sizes: so they differ by rounding, which may flip a tie.
    same = said(perturbation=GaussianNoise(image_keep=1.0))
    if decoding == "beams":
        assert torch.allclose(same.sequences_scores, plain.sequences_scores, atol=1e-4)
    else:
        assert torch.equal(same.sequences, plain.sequences)


def test_the_first_token_is_the_formula(tiny):
    inputs = tiny.prompt(WITH_IMAGES).inputs
    noisy = perturb_inputs(tiny.model, inputs, GaussianNoise())
    with torch.no_grad():
        positions = {"position_ids": prompt_positions(tiny.model, inputs)}
        clean, other = (tiny.model(**given, **positions).logits[:, -1] for given in (inputs, noisy))
    processor = scr.PurifiedLogitsProcessor(tiny.model, inputs)
    out = tiny.model.generate(
        **inputs, **GREEDY, logits_processor=[processor], output_scores=True, return_dict_in_generate=True
    )
    expected = contrast_logits(clean, other, 0.6)
    finite = expected.isfinite()
    assert torch.equal(finite, out.scores[0].isfinite())
    assert (out.scores[0].log_softmax(-1) - expected.log_softmax(-1))[finite].abs().max() < 1e-4
    assert torch.allclose(out.scores[0].logsumexp(-1), clean.logsumexp(-1), atol=1e-3)


def test_what_qwen_keeps_of_its_prompt_stays():
    tiny = TINY["qwen2_vl"]()
    inputs = tiny.prompt(WITH_IMAGES).inputs
    plain = tiny.model.generate(**inputs, **GREEDY)
    expected = tiny.model.model.rope_deltas.clone()
    processor = scr.PurifiedLogitsProcessor(tiny.model, inputs, strength=FixedStrength(contrast=0.0))
    assert torch.equal(tiny.model.generate(**inputs, **GREEDY, logits_processor=[processor]), plain)
    assert torch.equal(tiny.model.model.rope_deltas, expected)


def test_sure_tokens_are_left_alone_and_cost_nothing(tiny):
    inputs = tiny.prompt(WITH_IMAGES).inputs
    plain = tiny.model.generate(**inputs, **GREEDY)
    never = scr.PurifiedLogitsProcessor(tiny.model, inputs, only_below=-100.0)
    assert torch.equal(tiny.model.generate(**inputs, **GREEDY, logits_processor=[never]), plain)
    assert never.branch.forwards == 0
    always, usual = (
        scr.PurifiedLogitsProcessor(tiny.model, inputs, **settings) for settings in ({"only_below": 0.5}, {})
    )
    assert torch.equal(
        tiny.model.generate(**inputs, **GREEDY, logits_processor=[always]),
        tiny.model.generate(**inputs, **GREEDY, logits_processor=[usual]),
    )


def test_a_branch_catches_up(tiny):
    inputs = tiny.prompt(WITH_IMAGES).inputs
    answer = torch.cat([inputs["input_ids"], torch.tensor([[11, 12, 13], [14, 15, 16]])], dim=1)
    steady, late = RunningBranch(tiny.model, inputs), RunningBranch(tiny.model, inputs)
    for length in range(inputs["input_ids"].shape[1], answer.shape[1] + 1):
        expected = steady.logits(answer[:, :length])
    found = late.logits(answer)
    finite = expected > torch.finfo(expected.dtype).min
    assert (found - expected)[finite].abs().max() < 1e-4
    assert (steady.forwards, late.forwards) == (4, 2)


def test_with_scr_in_either_order_and_with_the_noisy_branch_left_alone(tiny):
    inputs = tiny.prompt(WITH_IMAGES).inputs
    with scr.patch(tiny.model, num_sources=4, scale=1.4, keep_traces=99) as patched:
        both = scr.PurifiedLogitsProcessor(tiny.model, inputs)
        dual = tiny.model.generate(**inputs, **GREEDY, logits_processor=[both])
        assert len(patched.traces) == 6, "a diagnostic for each branch"
        alone = scr.PurifiedLogitsProcessor(tiny.model, inputs, edited=False)
        tiny.model.generate(**inputs, **GREEDY, logits_processor=[alone])
        assert len(patched.traces) == 9
    made_before = scr.PurifiedLogitsProcessor(tiny.model, inputs)
    with scr.patch(tiny.model, num_sources=4, scale=1.4):
        assert torch.equal(tiny.model.generate(**inputs, **GREEDY, logits_processor=[made_before]), dual)


def test_bad_input_is_refused_and_the_model_untouched():
    tiny = TINY["llava"](layers=4)
    inputs = tiny.prompt(WITH_IMAGES).inputs
    text = tiny.prompt([("is there a dog", [])]).inputs
    tiny.model.generate(**inputs, **GREEDY)  # transformers leaves hooks of its own at the first call
    before = {name: copy.copy(vars(module)) for name, module in tiny.model.named_modules()}
    with pytest.raises(scr.ConfigError, match="no image to corrupt"):
        scr.PurifiedLogitsProcessor(tiny.model, text)
    with pytest.raises(scr.ConfigError, match="plausibility"):
        scr.PurifiedLogitsProcessor(tiny.model, inputs, plausibility=2)
    with pytest.raises(scr.ConfigError, match="only_below"):
        scr.PurifiedLogitsProcessor(tiny.model, inputs, only_below="never")
    with pytest.raises(scr.ConfigError, match="input_ids"):
        RunningBranch(tiny.model, {"pixel_values": inputs["pixel_values"]})
    other = tiny.prompt([("USER : <image> describe", [5])]).inputs
    with pytest.raises(scr.ConfigError, match="differs from the inputs given"):
        tiny.model.generate(**other, **GREEDY, logits_processor=[scr.PurifiedLogitsProcessor(tiny.model, inputs)])
    used = scr.PurifiedLogitsProcessor(tiny.model, inputs)
    tiny.model.generate(**inputs, **GREEDY, logits_processor=[used])
    with pytest.raises(scr.ConfigError, match="new processor for each call"):
        tiny.model.generate(**inputs, **GREEDY, logits_processor=[used])
    assert {name: vars(module) for name, module in tiny.model.named_modules()} == before
