"""SCR on real (tiny) models against the naive reference: plans equal, logits to 1e-5."""

import pytest
import torch
from reference import reference_logits, squares
from tiny import SIDE, inputs_for, tiny_llava

import scr

PROMPTS = [
    ("USER : <image> is there a dog in the image ? ASSISTANT :", [1]),
    ("USER : two of <image> describe <image> yes", [2, 3]),
    ("<image> <image> describe this image in detail . please is there a cat ? it", [4, 5]),
    ("is there a dog", []),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_sources": 4, "scale": 1.5},
        {"num_sources": 5, "selection": "greedy", "include_border": True},
        {"num_sources": 3, "connectivity": 4, "radius": 2, "layers": range(1, 6), "attention_layers": range(3, 5)},
    ],
)
def test_plans_and_logits_equal_the_naive_reference(attention, options):
    eager, processor = tiny_llava(attention="eager")
    model, _ = tiny_llava(attention=attention)
    inputs = inputs_for(processor, PROMPTS)
    plans: dict = {}
    with scr.patch(model, **options) as patched, torch.no_grad():
        logits = model(**inputs).logits
    visual = inputs["input_ids"] == model.config.image_token_id
    layout = squares(inputs, model.config.image_token_id, SIDE)
    expected = reference_logits(eager, inputs, layout, visual, patched.config, plans)
    with torch.no_grad():
        untouched = eager(**inputs).logits
    real = inputs["attention_mask"].bool()
    assert (expected - untouched)[real].abs().max() > 0.05, "the reference must do something"
    assert (logits - expected)[real].abs().max() < 1e-5
    assert [(trace.row, trace.image) for trace in patched.traces] == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]
    for trace in patched.traces:
        sources, neighbors, owners, attention_map = plans[trace.row, trace.image]
        assert trace.sources.tolist() == sources
        assert trace.neighbors.tolist() == neighbors
        assert trace.owners.tolist() == owners
        assert (trace.attention - attention_map).abs().max() < 1e-6


def test_each_row_of_a_padded_batch_gets_what_it_gets_alone():
    model, processor = tiny_llava()
    together = inputs_for(processor, PROMPTS)
    for method in ("scr", "uniform_smooth", "noise_control"):
        with scr.patch(model, method, num_sources=4) as patched, torch.no_grad():
            batch = model(**together).logits
            batch_traces = patched.traces
            for row, prompt in enumerate(PROMPTS):
                before = len(patched.traces)
                alone = model(**inputs_for(processor, [prompt])).logits[0]
                assert (batch[row, -len(alone) :] - alone).abs().max() < 1e-4, (method, row)
                for one, other in zip(
                    [trace for trace in batch_traces if trace.row == row], patched.traces[before:], strict=False
                ):
                    assert torch.equal(one.sources, other.sources)


def test_an_imageless_row_of_a_mixed_batch_is_bit_equal():
    model, processor = tiny_llava()
    inputs = inputs_for(processor, PROMPTS)
    with torch.no_grad():
        plain = model(**inputs).logits
        with scr.patch(model):
            patched = model(**inputs).logits
    assert torch.equal(plain[3], patched[3])
    assert not torch.equal(plain[0], patched[0])


def test_scale_one_and_text_only_prompts_are_bit_equal():
    model, processor = tiny_llava()
    images, text = inputs_for(processor, PROMPTS), inputs_for(processor, [("is there a dog ?", []), ("describe", [])])
    with torch.no_grad():
        plain_images, plain_text = model(**images).logits, model(**text).logits
        with scr.patch(model, scale=1.0) as patched:
            assert torch.equal(model(**images).logits, plain_images)
            assert len(patched.traces) == 5, "the diagnostic runs all the same"
            assert all(trace.norm_ratio == 1 for trace in patched.traces)
        with scr.patch(model) as patched:
            assert torch.equal(model(**text).logits, plain_text)
            assert not patched.traces


def test_right_padding_gets_what_left_padding_gets():
    model, processor = tiny_llava()
    processor.tokenizer.padding_side = "right"
    right = inputs_for(processor, PROMPTS)
    processor.tokenizer.padding_side = "left"
    with scr.patch(model, num_sources=4), torch.no_grad():
        logits = model(**right).logits
        for row, prompt in enumerate(PROMPTS):
            alone = model(**inputs_for(processor, [prompt])).logits[0]
            assert (logits[row, : len(alone)] - alone).abs().max() < 1e-4


def test_uniform_smooth_draws_by_the_image_and_noise_keeps_the_norms():
    model, processor = tiny_llava()
    inputs = inputs_for(processor, [PROMPTS[0], ("USER : <image> describe", [1]), ("USER : <image> describe", [9])])
    captured = {}
    block = model.model.language_model.layers[0]
    handle = block.register_forward_hook(lambda module, args, output: captured.__setitem__("hidden", output.detach()))
    with torch.no_grad():
        with scr.patch(model, "uniform_smooth", num_sources=4) as patched:
            model(**inputs)
        first, second, third = (trace.sources.tolist() for trace in patched.traces)
        assert first == second, "the same picture, asked about differently"
        assert first != third
        with scr.patch(model, "uniform_smooth", num_sources=4, seed=1) as patched:
            model(**inputs)
        assert patched.traces[0].sources.tolist() != first
        model(**inputs)
        plain = captured["hidden"]
        edited = {}
        for method in ("scr", "noise_control"):
            with scr.patch(model, method, num_sources=4, layers=range(0, 1)):
                model(**inputs)
            edited[method] = captured["hidden"] - plain
    handle.remove()
    norms = {method: edit.norm(dim=-1) for method, edit in edited.items()}
    assert norms["scr"].max() > 0.01
    assert torch.allclose(norms["scr"], norms["noise_control"], rtol=1e-4, atol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(edited["scr"], edited["noise_control"], dim=-1)
    assert cosine[norms["scr"] > 0].abs().mean() < 0.5


def test_traces_say_what_was_done_and_are_bounded():
    model, processor = tiny_llava()
    inputs = inputs_for(processor, PROMPTS)
    with scr.patch(model, num_sources=4, keep_traces=3) as patched, torch.no_grad():
        model(**inputs)
        assert [(trace.row, trace.image) for trace in patched.traces] == [(1, 1), (2, 0), (2, 1)]
    trace = patched.traces[-1]
    assert set(trace.to_dict()) == set(
        [
            "row",
            "image",
            "grids",
            "sources",
            "neighbors",
            "owners",
            "attention",
            "attention_layers",
            "entropy",
            "norm_ratio",
            "milliseconds",
        ]
    )
    assert trace.grids == ((SIDE, SIDE),)
    assert trace.entropy == pytest.approx(float(scr.credit.attention_entropy(trace.attention)))
    assert trace.norm_ratio > 1
    assert trace.milliseconds > 0
    assert isinstance(trace, scr.Trace)
    assert all(not value.is_cuda for value in (trace.sources, trace.neighbors, trace.owners, trace.attention))
    import json

    assert json.loads(json.dumps(trace.to_dict()))["sources"] == trace.sources.tolist()


def test_an_image_without_text_after_it_is_left_alone_with_a_warning():
    model, processor = tiny_llava()
    inputs = inputs_for(processor, [("describe <image>", [1])])
    with torch.no_grad():
        plain = model(**inputs).logits
        with scr.patch(model) as patched, pytest.warns(UserWarning, match="no text comes after"):
            assert torch.equal(model(**inputs).logits, plain)
    assert not patched.traces
