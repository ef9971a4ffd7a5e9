"""Diagnostics on every family: what they measure, against gradients taken by hand, and that they leave no trace."""

import contextlib
import math

import pytest
import torch
from tiny_families import PROMPTS, TINY

import scr
from hooks import prompt_positions
from scr.credit import attention_entropy, norm_credit_correlation

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=list(TINY))
def name(request):
    return request.param


def state(model):
    """All that a pass could leave behind."""
    modules = list(model.modules())
    return {
        "hooks": [len(one._forward_hooks) + len(one._forward_pre_hooks) + len(one._backward_hooks) for one in modules],
        "names": [sorted(vars(one)) for one in modules],
        "training": [one.training for one in modules],
        "flags": [one.requires_grad for one in model.parameters()],
        "gradients": [one.grad for one in model.parameters()],
        "configs": [id(one.config) for one in modules if hasattr(one, "config")],
        "rope_deltas": id(getattr(model.base_model, "rope_deltas", None)),
        "random": torch.get_rng_state().tolist(),
    }


def by_hand(tiny, prompt, layers, answers, row, image):
    """(norms, gradient norms) after each block, by transformers' own hidden states and one backward for one row."""
    inputs = {**prompt.inputs, "position_ids": prompt_positions(tiny.model, prompt.inputs)}
    kept = []

    def keep(hidden):
        hidden.retain_grad()
        kept.append(hidden)
        return hidden

    handles = [tiny.after(layer, keep) for layer in layers]
    try:
        logits = tiny.model(**inputs).logits[row, -1].float()
        logits.log_softmax(-1)[answers[row]].backward()
    finally:
        for handle in handles:
            handle.remove()
    tiny.model.zero_grad(set_to_none=True)
    places = prompt.layout[row, image][0]
    return [(one[row, places].norm(dim=-1).detach(), one.grad[row, places].norm(dim=-1)) for one in kept]


def test_credit_equals_gradients_taken_by_hand(name):
    tiny = TINY[name]()
    prompt, answers = tiny.prompt(), torch.tensor([40, 41, 42])
    found = scr.diagnose(tiny.model, prompt.inputs, answers=answers)
    layers = scr.patch(tiny.model).config.layers
    assert [(one.row, one.image) for one in found] == [(0, 0), (1, 0), (1, 1)]
    for one in found:
        assert one.layers == layers
        assert [tuple(grid) for grid in one.grids] == prompt.layout[one.row, one.image][1]
        expected = by_hand(tiny, prompt, layers, answers, one.row, one.image)
        norms, gradients = expected[-1]
        assert gradients.max() > 1e-4
        assert torch.allclose(one.credit, norms * gradients, rtol=1e-4, atol=1e-7)
        assert one.credit_entropy_norms == pytest.approx(attention_entropy(norms).item(), rel=1e-5)
        assert one.credit_entropy_gradients == pytest.approx(attention_entropy(one.credit).item(), rel=1e-4)
        assert one.entropy == pytest.approx(attention_entropy(one.attention).item())
        assert one.entropy_normalized == pytest.approx(one.entropy / math.log(len(one.attention)))
        for (norms, gradients), r in zip(expected, one.norm_credit_r, strict=True):
            assert r == pytest.approx(torch.corrcoef(torch.stack([norms, norms * gradients]))[0, 1].item(), abs=1e-3)


def test_they_change_nothing(name):
    tiny = TINY[name](layers=4)
    inputs = tiny.prompt().inputs
    generation = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    for method in ("none", "scr", "purified"):
        patched = contextlib.nullcontext() if method == "none" else scr.patch(tiny.model, method)
        with torch.inference_mode(), patched:
            before = tiny.model.generate(**inputs, **generation)
            untouched = state(tiny.model)
            scr.diagnose(tiny.model, inputs)
            scr.diagnose(tiny.model, inputs, credit=False)
            assert state(tiny.model) == untouched
            after = tiny.model.generate(**inputs, **generation)
        assert torch.equal(before.sequences, after.sequences)
        assert all(torch.equal(one, two) for one, two in zip(before.logits, after.logits, strict=True))


def test_a_padded_row_gets_what_it_gets_alone(name):
    tiny = TINY[name]()
    answers = torch.tensor([40, 41, 42])
    for patched in (False, True):
        with scr.patch(tiny.model, num_sources=4, scale=1.5) if patched else contextlib.nullcontext():
            together = scr.diagnose(tiny.model, tiny.prompt().inputs, answers=answers)
            alone = [
                one
                for row, prompt in enumerate(PROMPTS[:2])
                for one in scr.diagnose(tiny.model, tiny.prompt([prompt]).inputs, answers=answers[row : row + 1])
            ]
        assert len(together) == len(alone) == 3
        for one, other in zip(together, alone, strict=True):
            for field in ("attention", "credit"):
                mine, its = getattr(one, field), getattr(other, field)
                assert torch.linalg.vector_norm(mine - its) <= 1e-5 * torch.linalg.vector_norm(its), field
            for field in ("entropy", "credit_entropy_norms", "credit_entropy_gradients"):
                assert getattr(one, field) == pytest.approx(getattr(other, field), rel=1e-5)
            assert one.norm_growth == pytest.approx(other.norm_growth, rel=1e-5)


def test_attention_is_that_of_scrs_own_trace(name):
    """And under SCR, credit and norms are those of the edited pass."""
    tiny = TINY[name]()
    inputs = tiny.prompt().inputs
    with scr.patch(tiny.model, num_sources=6, scale=1.5) as patched, torch.no_grad():
        with patched.recording() as traces:
            tiny.model(**inputs, position_ids=prompt_positions(tiny.model, inputs))
        edited = scr.diagnose(tiny.model, inputs)
    plain = scr.diagnose(tiny.model, inputs)
    assert len(traces) == 3
    for trace, one, other in zip(traces, edited, plain, strict=True):
        assert torch.allclose(one.attention, trace.attention, atol=1e-7)
        assert torch.equal(one.attention, other.attention)
        assert one.entropy == pytest.approx(trace.entropy)
        assert one.norm_growth != other.norm_growth
        last = patched.config.layers[-1]
        if last < trace.attention_layers[-1]:
            ratio = one.norm_growth[-1] / other.norm_growth[-1]
            assert ratio == pytest.approx(trace.norm_ratio, rel=1e-4)


@pytest.mark.parametrize("where", ["block", "head"])
def test_a_pass_that_fails_leaves_nothing(where):
    tiny = TINY["qwen2_vl"](layers=4)
    inputs = tiny.prompt().inputs
    tiny.model.train()
    next(tiny.model.parameters()).requires_grad_(False)
    tiny.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    before = state(tiny.model)

    def fail(module, args):
        raise KeyboardInterrupt

    module = tiny.layers[3] if where == "block" else tiny.model.lm_head
    handle = module.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        scr.diagnose(tiny.model, inputs)
    handle.remove()
    assert state(tiny.model) == before
    assert len(scr.diagnose(tiny.model, inputs)) == 3
    assert state(tiny.model) == before


def test_the_first_answer_token_is_the_models_own_unless_given():
    tiny = TINY["llava"](layers=4)
    prompt = tiny.prompt(PROMPTS[:2])
    with torch.no_grad():
        new = tiny.model.generate(**prompt.inputs, max_new_tokens=1, do_sample=False)[:, -1]
    own, given, other = (
        scr.diagnose(tiny.model, prompt.inputs, answers=answers)[0].credit for answers in (None, new, new + 1)
    )
    assert torch.equal(own, given)
    assert not torch.allclose(own, other)


def test_padding_on_the_right():
    tiny = TINY["llava"](layers=4)
    left, right = (scr.diagnose(tiny.model, tiny.prompt(padding=side).inputs) for side in ("left", "right"))
    for one, other in zip(left, right, strict=True):
        assert torch.allclose(one.credit, other.credit, rtol=1e-4, atol=1e-7)


def test_blocks_of_ones_own_and_blocks_without_credit():
    tiny = TINY["llava"](layers=4)
    prompt = tiny.prompt(PROMPTS[:1])
    (one,) = scr.diagnose(tiny.model, prompt.inputs, layers=range(2, 4), attention_layers=range(0, 2))
    (two,) = scr.diagnose(tiny.model, prompt.inputs, layers=range(2, 3))
    assert len(one.norm_growth) == len(one.norm_credit_r) == 2
    assert one.norm_growth[0] == two.norm_growth[0]
    # What the last block makes of a patch nobody reads.
    assert not one.credit.any()
    assert one.credit_entropy_gradients is None
    assert one.norm_credit_r[1] is None
    assert one.credit_entropy_norms > 0
    assert one.to_dict()["layers"] == [2, 3]
    assert one.to_dict()["grids"] == [[5, 5]]
    assert isinstance(one, scr.Diagnostics)
    with pytest.raises(scr.ConfigError, match="leaves the model"):
        scr.diagnose(tiny.model, prompt.inputs, layers=range(2, 5))
    with pytest.raises(scr.ConfigError, match="without ids"):
        scr.diagnose(tiny.model, {"inputs_embeds": torch.zeros(1, 3, 32)})


def test_prompts_without_images():
    tiny = TINY["llava"](layers=4)
    assert scr.diagnose(tiny.model, tiny.prompt(PROMPTS[2:]).inputs) == []
    prompt = tiny.prompt(PROMPTS[:1])
    (one,) = scr.diagnose(tiny.model, prompt.inputs, credit=False)
    assert one.credit is None
    assert one.to_dict()["norm_growth"] is None
    assert one.entropy > 0


def test_half_precision():
    """Gradients that float16 cannot hold are scaled on their way."""
    tiny = TINY["llava"](layers=4)
    inputs = tiny.prompt(PROMPTS[:1]).inputs
    answers = torch.tensor([40])
    (full,) = scr.diagnose(tiny.model, inputs, answers=answers)
    tiny.model.half()
    (half,) = scr.diagnose(tiny.model, {**inputs, "pixel_values": inputs["pixel_values"].half()}, answers=answers)
    assert torch.linalg.vector_norm(half.credit - full.credit) < 0.02 * torch.linalg.vector_norm(full.credit)


def test_recording_keeps_more_than_the_patch():
    tiny = TINY["llava"](layers=4)
    inputs = tiny.prompt().inputs
    with scr.patch(tiny.model, num_sources=4, keep_traces=1) as patched, torch.no_grad():
        with patched.recording() as traces:
            tiny.model(**inputs)
        assert [(one.row, one.image) for one in traces] == [(0, 0), (1, 0), (1, 1)]
        assert [(one.row, one.image) for one in patched.traces] == [(1, 1)]
        tiny.model(**inputs)
        assert len(traces) == 3
    with scr.patch(tiny.model, "purified") as other, other.recording() as none:
        tiny.model.generate(**inputs, max_new_tokens=1)
    assert not none


def test_correlation_of_norms_with_credit():
    norms = torch.tensor([1.0, 2.0, 3.0, 5.0])
    assert norm_credit_correlation(norms, 7 * norms).item() == pytest.approx(1)
    assert norm_credit_correlation(norms, 9 - norms).item() == pytest.approx(-1)
    for constant in (torch.full((4,), 0.1), torch.zeros(4), torch.full((4,), torch.inf)):
        assert norm_credit_correlation(norms, constant).isnan()
