"""Heads that vote: those of the lowest entropy, block by block and image by image, in every kernel and batch."""

import math

import pytest
import torch
from reference import reference_logits
from tiny_families import TINY

import scr
from scr.methods.heads import attention_of_sharpest

pytestmark = pytest.mark.usefixtures("one_thread")
SHARE = 0.3
PROMPTS = [("USER : <image> is there a dog", [1]), ("USER : two of <image> describe <image> yes", [2, 3])]


@pytest.mark.parametrize(
    ("name", "map_from"),
    [("llava", "prompt"), ("llava", "image"), ("llava_next", "prompt"), ("qwen2_vl", "image"), ("internvl", "prompt"),
     ("chameleon", "prompt"), ("idefics3", "image")],
)  # fmt: skip
def test_plans_and_logits_equal_the_naive_reference(name, map_from):
    tiny, eager = TINY[name](), TINY[name](attention="eager")
    prompt, plans = tiny.prompt(PROMPTS), {}
    given = {"heads": SHARE, "map_from": map_from, "num_sources": 5, "scale": 1.5}
    with torch.no_grad():
        with scr.patch(tiny.model, **given) as patched:
            logits = tiny.model(**prompt.inputs).logits
        with scr.patch(tiny.model, **{**given, "heads": 1.0}) as of_all:
            tiny.model(**prompt.inputs)
    visual = tiny.visual(prompt.inputs)
    expected = reference_logits(eager.model, prompt.inputs, prompt.layout, visual, patched.config, plans)
    real = prompt.inputs["attention_mask"].bool()
    assert (logits - expected)[real].abs().max() < 2e-5
    assert len(patched.traces) == len(plans) == 3
    for trace, other in zip(patched.traces, of_all.traces, strict=True):
        sources, neighbors, _, attention = plans[trace.row, trace.image]
        assert (trace.sources.tolist(), trace.neighbors.tolist()) == (sources, neighbors)
        assert (trace.attention - attention).abs().max() < 1e-6
        assert (trace.attention - other.attention).abs().max() > 1e-4, "all heads say something else"


def test_a_row_gets_what_it_gets_alone():
    tiny = TINY["llava"]()
    with scr.patch(tiny.model, heads=SHARE, num_sources=5) as patched, torch.no_grad():
        together = tiny.model(**tiny.prompt(PROMPTS).inputs).logits[1, -1]
        alone = tiny.model(**tiny.prompt(PROMPTS[1:]).inputs).logits[0, -1]
    assert (together - alone).abs().max() < 1e-4
    for one, other in zip(patched.traces[1:3], patched.traces[3:], strict=True):
        assert torch.equal(one.sources, other.sources)


def test_all_heads_are_the_mean_to_the_bit_whoever_else_asks_for_some():
    tiny = TINY["llava"]()
    inputs = tiny.prompt(PROMPTS).inputs
    with torch.no_grad():
        with scr.patch(tiny.model, num_sources=5) as plain:
            expected = tiny.model(**inputs).logits
        with scr.patch(tiny.model, num_sources=5, heads=1.0) as given:
            assert torch.equal(tiny.model(**inputs).logits, expected)
        lone = scr.diagnose(tiny.model, inputs, credit=False)
        with scr.patch(tiny.model, heads=SHARE, scale=1.0):
            beside = scr.diagnose(tiny.model, inputs, credit=False)
    for pair in [*zip(plain.traces, given.traces, strict=True), *zip(lone, beside, strict=True)]:
        assert torch.equal(pair[0].attention, pair[1].attention)


def test_the_sharpest_heads_by_hand():
    flat, sharp, sharper, blind = [0.25] * 4, [0.7, 0.1, 0.1, 0.1], [0.0, 0.0, 0.01, 0.0], [0.0] * 4
    maps = torch.tensor([[flat, sharp, blind, sharper], [blind, flat, flat, sharp]])
    assert torch.allclose(attention_of_sharpest(maps, 0.25), torch.tensor([0.35, 0.05, 0.055, 0.05]))
    first = torch.tensor([sharp, sharper]).mean(dim=0)
    second = torch.tensor([sharp, flat]).mean(dim=0)  # of equal ones the lower
    assert torch.allclose(attention_of_sharpest(maps, 0.26), (first + second) / 2)
    assert torch.allclose(attention_of_sharpest(maps, 1.0), maps.mean(dim=(0, 1)))
    assert not attention_of_sharpest(torch.zeros(2, 3, 4), 0.5).any()
    for heads in range(1, 64):
        lone = torch.eye(heads)[None, :, :1].expand(-1, -1, 2)
        kept = round(1 / float(attention_of_sharpest(lone, 0.2)[0]))
        assert kept == math.ceil(heads / 5), "rounding must not add one"
