"""Steering: RUDDER against its formula without caches, and where the hooks of a step act and where not."""

import itertools

import pytest
import torch
from answers import GREEDY, SAMPLING, SUPPRESSED, said
from blocks_by_hand import by_hand, whole
from test_patch_undo import everything_on
from tiny_families import PROMPTS, TINY
from torch.nn.functional import cosine_similarity, normalize
from transformers import DynamicCache, LogitsProcessor

import scr
from hooks import HookStack, StepHooks, after_attention, after_block, after_mlp, find_family, turn, watch_generate

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = {
    "llava": {},
    "llava_next": {},
    "llava_onevision": {},
    "qwen2_vl": {},
    "qwen2_5_vl": {},
    "internvl": {},
    "chameleon": {},
    "chameleon, Swin": {"swin_norm": True},
    "idefics3": {},
    "smolvlm": {},
}


def made(family, **changes):
    name = family.split(",")[0]
    return TINY[name](layers=4, **FAMILIES[family], **changes)


@pytest.fixture(scope="module")
def llava():
    tiny = made("llava")
    tiny.model.generate(**tiny.prompt().inputs, **GREEDY)  # transformers leaves hooks of its own at the first call
    return tiny


def rudder_by_hand(tiny, tokens, block, strength=20.0, slope=5.0, offset=1.0):
    """Logits of all places (rows, seq, vocab), row after row from the formula."""
    inputs = tiny.prompt().inputs
    mask, end = inputs["attention_mask"].bool(), inputs["attention_mask"].shape[1]

    def steer(index, stream, update):
        if index != block:
            return stream
        rows = []
        for row in range(len(stream)):
            if not PROMPTS[row][1]:
                rows.append(stream[row])
                continue
            vector = update[row, :end][mask[row]].double().mean(dim=0)
            vector = vector / vector.norm()
            steered = stream[row].clone()
            for place in range(end - 1, stream.shape[1]):
                state = stream[row, place].double()
                along = slope * (state @ vector) / state.norm()
                opened, closed = ((1 + (sign * along).exp()).log() + offset for sign in (1, -1))
                steered[place] = state + strength * opened / (opened + closed) * vector
            rows.append(steered)
        return torch.stack(rows)

    with by_hand(tiny.layers, after_attention=steer):
        return whole(tiny.model, inputs, tokens).logits


def assert_said(tiny, tokens, scores, logits):
    """The scores of each step are those logits, but for a constant."""
    for step in range(scores.shape[1]):
        expected = logits[:, tokens.shape[1] - scores.shape[1] - 1 + step].clone()
        expected[:, SUPPRESSED] = -torch.inf
        kept = scores[:, step].isfinite() & (scores[:, step] > -1e30)
        assert kept.any(dim=1).all()
        difference = (scores[:, step].log_softmax(-1) - expected.log_softmax(-1))[kept]
        assert difference.abs().max() < 1e-4


@pytest.mark.parametrize("family", list(FAMILIES))
def test_rudder_is_its_formula_without_caches(family):
    """In a batch with left padding, of one image, two and none."""
    tiny = made(family)
    with scr.patch(tiny.model, "rudder", block=2):
        tokens, scores = said(tiny)
    assert_said(tiny, tokens, scores, rudder_by_hand(tiny, tokens, 2))
    base = said(tiny)[1]
    assert (scores - base)[:2].abs().nan_to_num(0).amax(dim=(1, 2)).min() > 0.1
    assert torch.equal(scores[2], base[2]), "the row of text alone, to the bit"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("options", [GREEDY, SAMPLING, {**GREEDY, "use_cache": False}], ids=["greedy", "sample", "no"])
def test_rudder_in_every_way_of_one_family(attention, options):
    tiny = made("llava", attention=attention)
    with scr.patch(tiny.model, "rudder", block=1, strength=3, slope=-2, offset=0.5):
        tokens, scores = said(tiny, **options)
    assert_said(tiny, tokens, scores, rudder_by_hand(tiny, tokens, 1, 3, -2, 0.5))


def test_beams_and_copies_of_a_prompt_have_its_vector(llava):
    with scr.patch(llava.model, "rudder"):
        scores = said(llava)[1]
        copied, of_copies = said(llava, num_return_sequences=2, do_sample=True)
        beams = said(llava, num_beams=2)[1]
    for row in range(6):
        assert torch.allclose(of_copies[row, 0], scores[row // 2, 0], atol=1e-4)
    assert torch.allclose(beams[::2, 0].log_softmax(-1), scores[:, 0].log_softmax(-1), atol=1e-4)
    assert not torch.equal(copied[0], copied[1])


@pytest.mark.parametrize("fields", [{"strength": 0.0}, {"strength": 1e-9}])
def test_rudder_of_strength_0_is_the_model(llava, fields):
    tokens, scores = said(llava)
    with scr.patch(llava.model, "rudder", **fields):
        found, steered = said(llava)
    assert torch.equal(found, tokens)
    assert torch.equal(steered, scores) if not fields["strength"] else torch.allclose(steered, scores, atol=1e-5)


def test_a_batch_is_its_rows_alone(llava):
    with scr.patch(llava.model, "rudder"):
        scores = said(llava)[1]
        for row, prompt in enumerate(PROMPTS):
            assert torch.allclose(said(llava, [prompt])[1][0], scores[row], atol=1e-4)


@pytest.mark.parametrize("engine", ["processor", "joined"])
@pytest.mark.parametrize("method", ["rudder", "vista", "vti"])
def test_rows_of_another_branch_are_not_steered(llava, engine, method):
    """A contrast of 0 with a branch in the same forward, or beside it, leaves what steering alone says."""
    fields = scr.get_method(method).example
    with scr.patch(llava.model, method, **fields):
        tokens, expected = said(llava)
    with scr.patch(llava.model, "purified", contrast=1.0, engine=engine):
        contrast = said(llava)[1]
    base = said(llava)[1]
    nothing = scr.patch(llava.model, "purified", contrast=0.0, engine=engine)
    steer = scr.patch(llava.model, method, **fields)
    for outer, inner in ((steer, nothing), (nothing, steer)):
        with outer, inner:
            found, scores = said(llava)
        assert torch.equal(found, tokens)
        assert torch.allclose(scores, expected, atol=1e-4)
    # And the branch is not steered: at the first step `2·steered − noisy`, with the noisy scores of no steering.
    if scr.get_method(method).requires == ("activations",):
        with steer, scr.patch(llava.model, "purified", contrast=1.0, engine=engine):
            scores = said(llava)[1]
        kept = base[:, 0].isfinite()
        noisy = (2 * base[:, 0].log_softmax(-1) - contrast[:, 0]).masked_fill(~kept, -torch.inf)
        wanted = (2 * expected[:, 0] - noisy).masked_fill(~kept, -torch.inf).log_softmax(-1)
        assert (scores[:, 0].log_softmax(-1) - wanted)[kept].abs().max() < 1e-3


@pytest.mark.parametrize("order", list(itertools.permutations(["scr", "rudder"])), ids="+".join)
def test_scrs_diagnostic_is_not_steered_and_its_edit_is_seen(llava, order):
    fields = {"scr.num_sources": 4, "scr.scale": 1.6, "rudder.block": 0}
    with scr.patch(llava.model, "scr", num_sources=4, scale=1.6) as alone:
        edited = said(llava)[1]
    with scr.patch(llava.model, "+".join(order), **fields) as both:
        scores = said(llava)[1]
    for one, other in zip(both.traces, alone.traces, strict=True):
        assert torch.equal(one.attention, other.attention)
    assert not torch.allclose(scores[:2], edited[:2], atol=1e-2)
    if order == ("scr", "rudder"):
        with scr.patch(llava.model, "rudder+scr", **fields):
            assert torch.allclose(said(llava)[1], scores, atol=1e-5)


def test_nothing_is_left_behind_by_calls_that_fail(llava):
    before, base = everything_on(llava.model), said(llava)[1]

    class Fails(LogitsProcessor):
        def __call__(self, input_ids, scores):
            raise RuntimeError("mine")

    with scr.patch(llava.model, "rudder"):
        with pytest.raises(RuntimeError, match="mine"):
            llava.model.generate(**llava.prompt().inputs, **GREEDY, logits_processor=[Fails()])
        steered = said(llava)[1]
        assert not torch.equal(steered, base)
    assert everything_on(llava.model) == before
    assert torch.equal(said(llava)[1], base)


def test_rudder_refuses_what_it_cannot_read(llava):
    inputs, cache = llava.prompt(PROMPTS[:1]).inputs, DynamicCache()
    llava.model(**inputs, past_key_values=cache)
    ways = {"past_key_values": cache, "prefill_chunk_size": 4}
    for name, value in ways.items():
        with (
            scr.patch(llava.model, "rudder"),
            pytest.raises(scr.UnsupportedGenerationError, match=f"whole prompt at once: got {name}"),
        ):
            llava.model.generate(**inputs, **GREEDY, **{name: value})
    with pytest.raises(scr.UnsupportedGenerationError, match="one token at a time"), scr.patch(llava.model, "rudder"):
        llava.model.generate(**inputs, **GREEDY, prompt_lookup_num_tokens=2)
    with pytest.raises(scr.UnsupportedModelError, match="language head"):
        scr.patch(llava.model.model, "rudder")
    with pytest.raises(scr.ConfigError, match=r"block leaves the model.*below 4"):
        scr.patch(llava.model, "rudder", block=4)
    with pytest.warns(UserWarning, match="no generate was seen under 'rudder'"), scr.patch(llava.model, "rudder"):
        llava.model(**inputs)


@pytest.mark.parametrize(("blocks", "expected"), [(32, 30), (40, 30), (28, 26), (24, 22), (4, 3), (1, 0)])
def test_the_block_scales_with_depth(blocks, expected):
    assert scr.patch(TINY["llava"](layers=blocks).model, "rudder").config.block == expected


def test_a_compiled_step_is_refused(llava):
    """Its hooks are not called: here as if torch were always compiling."""
    is_compiling = torch.compiler.is_compiling
    torch.compiler.is_compiling = lambda: True
    try:
        with (
            scr.patch(llava.model, "rudder"),
            pytest.raises(
                scr.UnsupportedGenerationError, match="rudder saw no layers: got a step that missed 2 of 2 hooks"
            ),
        ):
            said(llava)
    finally:
        torch.compiler.is_compiling = is_compiling


def test_blocks_of_another_build_are_refused(llava):
    family, layer = find_family(llava.model), llava.layers[0]
    assert family.mlp(layer) is layer.mlp
    assert family.attention_update(layer) is layer.self_attn
    assert family.final_norm(llava.model) is llava.model.get_decoder().norm

    class Sparse(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn, self.block_sparse_moe = torch.nn.Identity(), torch.nn.Identity()

    with pytest.raises(
        scr.UnsupportedModelError, match=r"without an MLP to act on: got Sparse with .*block_sparse_moe"
    ):
        family.mlp(Sparse())
    with pytest.raises(scr.UnsupportedModelError, match="of another build: got Sparse"):
        family.attention_update(Sparse())
    layer.residual_multiplier = 0.2
    try:
        with pytest.raises(scr.UnsupportedModelError, match="and a residual_multiplier"):
            family.attention_update(layer)
    finally:
        del layer.residual_multiplier
    norm = llava.model.get_decoder()._modules.pop("norm")
    try:
        with pytest.raises(scr.UnsupportedModelError, match="without a final norm: got LlamaModel"):
            family.final_norm(llava.model)
    finally:
        llava.model.get_decoder().norm = norm


def test_turning_keeps_lengths_and_0_turns_nothing():
    states = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    vector = torch.randn(8, generator=torch.Generator().manual_seed(1))
    turned = turn(states, vector, 0.3)
    assert torch.allclose(turned.norm(dim=-1), states.norm(dim=-1), atol=1e-5)
    assert (cosine_similarity(turned, vector, dim=-1) > cosine_similarity(states, vector, dim=-1)).all()
    by_hand = normalize(states[1, 2] / states[1, 2].norm() + 0.3 * vector / vector.norm(), dim=-1)
    assert torch.allclose(turned[1, 2], by_hand * states[1, 2].norm(), atol=1e-5)
    for same in (turn(states, vector, 0.0), turn(states, torch.zeros(8), 2.0)):
        assert torch.allclose(same, states, atol=1e-6)
    assert torch.equal(turn(torch.zeros(8), torch.zeros(8), 1.0), torch.zeros(8))


@pytest.mark.parametrize("family", ["llava", "chameleon", "chameleon, Swin", "qwen2_vl"])
def test_each_site_is_where_it_says(family):
    """A constant after a block, at an MLP's output and after attention is what it is in blocks written out by hand."""
    tiny, constant = made(family), 0.5
    sites = {
        "block": lambda hooks: after_block(hooks, tiny.model, 1, lambda kept, hidden: hidden + constant),
        "mlp": lambda hooks: after_mlp(hooks, tiny.model, 1, lambda kept, answer: answer + constant * answer.abs()),
        "attention": lambda hooks: after_attention(
            hooks, tiny.model, 1, lambda kept, stream, update: stream + constant * update.abs()
        ),
    }
    changes = {
        "mlp": {"after_mlp": lambda block, one: one + (block == 1) * constant * one.abs()},
        "attention": {"after_attention": lambda block, stream, update: stream + (block == 1) * constant * update.abs()},
        # The stream after a block is the one before the next one's attention has added to it.
        "block": {
            "after_attention": lambda block, stream, update: stream,
        },
    }
    base = said(tiny)[1]
    for site, put in sites.items():
        with HookStack() as stack:
            hooks = StepHooks(tiny.model, stack)
            put(hooks)
            watch_generate(
                tiny.model, lambda call, hooks=hooks: call.processors.append(hooks.begin(call, Kept(), "mine")), stack
            )
            tokens, scores = said(tiny)
        assert not torch.allclose(scores, base, atol=1e-2)
        assert torch.equal(said(tiny)[1], base)
        if site == "block":
            handle = tiny.layers[1].register_forward_hook(
                lambda module, args, out: (out[0] + constant, *out[1:]) if isinstance(out, tuple) else out + constant
            )
            logits = whole(tiny.model, tiny.prompt().inputs, tokens).logits
            handle.remove()
        else:
            with by_hand(tiny.layers, **changes[site]):
                logits = whole(tiny.model, tiny.prompt().inputs, tokens).logits
        assert_said(tiny, tokens, scores, logits)


class Kept:
    """Of one call."""
