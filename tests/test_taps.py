"""Plans in a model's attention: every kernel and mask equals plain attention, and nothing else changes."""

import contextlib
import itertools
import threading

import pytest
import torch
from rows_by_hand import attention_by_hand
from test_attention_masks import IMAGE, KERNELS, PROMPTS, TEXT, WINDOW, cache_of, padded, positions, tiny
from test_patch_undo import everything_on
from tiny_families import TINY
from torch.nn.attention.flex_attention import create_block_mask
from transformers import LlamaConfig

import scr
from hooks import (
    Attending,
    AttentionPlan,
    GenerateCall,
    HookStack,
    LayerAttention,
    UnsupportedGenerationError,
    UnsupportedModelError,
    attending,
    blocks_seen,
    exact,
    require_seen,
    tap_attention,
    watch_generate,
)
from hooks.taps import layer as layers_of_taps
from hooks.taps.layer import AttentionInputs

pytestmark = [
    pytest.mark.usefixtures("one_thread", "kernels"),
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask"),
]
NEW = torch.tensor([[9, 11, 13], [7, 9, 8]])
GREEDY = {"max_new_tokens": 3, "do_sample": False}


class Everything(AttentionPlan):
    """Uses all that a plan may: of block 0 its embeddings, of others scores, heads, and keys that it hides."""

    def __init__(self, image, at=lambda layer: True):
        self.image, self.at, self.seen, self.embedded = image, at, [], 0

    def embed(self, embeds, past):
        self.embedded += 1
        length = self.image.shape[1] - past
        return torch.cat([embeds[:, :length] * 1.2, embeds[:, length:]], dim=1) if length > 0 else embeds

    def attend(self, attention):
        self.seen.append((attention.layer, attention.past, attention.queries))
        if not self.at(attention.layer):
            return
        image = attention.columns(self.image)
        queries = attention.last_queries(since=self.image.shape[1] - 1)
        if attention.layer in (1, 3) and queries.shape[1]:
            everywhere = torch.ones_like(queries, dtype=torch.bool)
            attention.rescore(queries, everywhere, lambda scores: scores + 0.7 * scores.abs() * image[:, None, None])
        if attention.layer in (2, 3):
            hidden = torch.zeros_like(self.image)
            hidden[:, -6:-3] = True
            attention.hide(attention.columns(hidden))
        if attention.layer in (3, 4):
            attention.then(lambda output: output * torch.tensor([1, 0, 1.5, 1])[:, None])


def everything_by_hand(model, image):
    last = image.shape[1] - 1

    def change(layer, scores):
        if layer not in (1, 3):
            return scores
        wide = torch.nn.functional.pad(image, (0, scores.shape[3] - image.shape[1]))[:, None, None]
        late = torch.arange(scores.shape[2])[:, None] >= last
        return scores + 0.7 * scores.abs() * (wide & late)

    def hidden(layer, scores):
        columns = torch.arange(scores.shape[3])
        out = (columns > last - 6) & (columns <= last - 3) & (columns != columns[:, None])
        return out if layer in (2, 3) else torch.zeros_like(out)

    def heads(layer, scores, output):
        return output * torch.tensor([1, 0, 1.5, 1])[:, None] if layer in (3, 4) else output

    stack = contextlib.ExitStack()
    stack.enter_context(attention_by_hand(model, change, hidden, heads))
    handle = (
        model.get_decoder()
        .layers[0]
        .register_forward_pre_hook(
            lambda module, args: (torch.cat([args[0][:, : last + 1] * 1.2, args[0][:, last + 1 :]], dim=1), *args[1:])
        )
    )
    stack.callback(handle.remove)
    return stack


@torch.no_grad()
def in_steps(model, inputs, cache):
    """Logits after the prompt and after each of the new tokens, one by one where there is a cache."""
    mask, place = inputs["attention_mask"], positions(inputs)
    logits = []
    with torch.compiler.set_stance("force_eager"):
        if cache is None:
            whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], NEW], dim=1)}
            whole["attention_mask"] = torch.cat([mask, torch.ones_like(NEW)], dim=1)
            return model(**whole, position_ids=positions(whole), use_cache=False).logits[:, -4:]
        logits.append(model(**inputs, position_ids=place, past_key_values=cache, use_cache=True).logits[:, -1:])
        for step in range(NEW.shape[1]):
            mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=mask.dtype)], dim=1)
            new = {"input_ids": NEW[:, step : step + 1], "attention_mask": mask, "position_ids": place[:, -1:] + 1}
            place = new["position_ids"]
            logits.append(model(**new, past_key_values=cache, use_cache=True).logits[:, -1:])
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("text", TEXT)
def test_what_a_plan_does_is_plain_attention_under_any_kernel(text, kernel):
    """Left-padded rows with one image and two, grouped keys, windows that hide most of the image, every cache."""
    model, processor = tiny(text, kernel)
    inputs = padded(processor, PROMPTS, "left")
    assert inputs["input_ids"].shape[1] > 2 * WINDOW
    image = inputs["input_ids"] == IMAGE
    eager, plain = tiny(text, "eager")[0], in_steps(model, inputs, None)
    with everything_by_hand(eager, image):
        expected = in_steps(eager, inputs, None)
    assert (expected - plain).abs().amax(dim=(0, 2)).min() > 0.1, "each step is another one's"
    for kind in ("none", "dynamic", "static"):
        if kind == "static" and kernel == "flex_attention":
            continue  # fails by itself: see test_attention_masks
        plan = Everything(image)
        with HookStack() as stack:
            tap_attention(model, stack)
            with attending(model, [Attending(slice(None), plan)]):
                found = in_steps(model, inputs, cache_of(kind, model))
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max(), kind
        assert plan.embedded == (1 if kind == "none" else 4)
        assert len(plan.seen) == 5 * plan.embedded
    assert torch.equal(in_steps(model, inputs, None), plain)


def test_each_thing_alone_is_needed():
    """What the test above holds together would fail without any of them."""
    model, processor = tiny("full", "sdpa")
    inputs = padded(processor, PROMPTS, "left")
    image = inputs["input_ids"] == IMAGE
    found = []
    with HookStack() as stack:
        tap_attention(model, stack)
        for layer in range(5):
            with attending(model, [Attending(slice(None), Everything(image, lambda one, layer=layer: one != layer))]):
                found.append(in_steps(model, inputs, None))
    for one, other in itertools.combinations(found, 2):
        assert not torch.allclose(one, other, atol=1e-2)


def layer_attention(rows=slice(None), pad=0, past=0, first=None, seq=6, keys=None, mask=None, **options):
    draw = torch.Generator().manual_seed(3)
    keys = past + seq if keys is None else keys
    states = [torch.randn(3, heads, length, 8, generator=draw) for heads, length in ((4, seq), (2, keys), (2, keys))]
    module = torch.nn.Module()
    module.layer_idx, module.is_causal, module.config = 2, True, LlamaConfig(num_attention_heads=4)
    given = AttentionInputs(module, *states, mask, options, past, past if first is None else first)
    return LayerAttention(given, rows, pad)


def by_hand(attention, softcap=None, scaling=8**-0.5, hidden=None):
    """Weights and outputs of all queries; (rows, heads, seq, keys) and (rows, seq, heads, dim)."""
    given = attention.inputs
    query, key, value = (states[attention.rows] for states in (given.query, given.key, given.value))
    key, value = (states.repeat_interleave(2, dim=1) for states in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    columns = torch.arange(scores.shape[3])
    own = torch.arange(scores.shape[2])[:, None] + given.first
    out = columns > own
    if hidden is not None:
        out = out | (hidden[:, None, None] & (columns != own))
    weights = scores.masked_fill(out, -torch.inf).softmax(-1)
    return scores, weights, (weights @ value).transpose(1, 2)


@pytest.mark.parametrize("options", [{}, {"softcap": 0.8}, {"scaling": 0.9, "softcap": 2.0}], ids=str)
@pytest.mark.parametrize("rows", [slice(None), slice(1, 3)])
def test_scores_weights_and_what_they_make_of_values(rows, options):
    attention = layer_attention(rows, past=2, **options)
    queries = torch.tensor([[5, 0, 3]]).expand(attention.batch, -1)
    scores, weights, outputs = by_hand(attention, **options)
    assert (attention.scores(queries) - scores[:, :, [5, 0, 3]]).abs().max() < 1e-5
    assert (attention.weights(queries) - weights[:, :, [5, 0, 3]]).abs().max() < 1e-6
    assert (attention.mixed(attention.weights(queries)) - outputs[:, [5, 0, 3]]).abs().max() < 1e-5
    assert torch.equal(attention.mean_over_heads(scores), scores.mean(dim=1))
    hidden = torch.zeros(attention.batch, 8, dtype=torch.bool)
    hidden[0, [1, 7]] = True
    attention.hide(hidden)
    expected = by_hand(attention, **options, hidden=hidden)[1]
    assert (attention.weights(queries) - expected[:, :, [5, 0, 3]]).abs().max() < 1e-6
    assert expected[0, :, 5, 7].min() > 0, "a token keeps its own key"


def test_an_autocast_of_the_caller_rounds_nothing():
    attention = layer_attention()
    queries, expected = attention.last_queries(since=0), by_hand(attention)[2]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (attention.mixed(attention.weights(queries)) - expected).abs().max() < 1e-5
        assert torch.is_autocast_enabled("cpu"), "it is the caller's again"
    assert not torch.is_autocast_enabled("cpu")


def test_where_there_is_no_autocast_nothing_is_switched():
    for kind in ("cpu", "meta"):
        with exact(torch.device(kind)):
            assert not torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(LookupError), exact(torch.device("cpu")):
            raise LookupError
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("chunk", [2, 256])
def test_rescoring_changes_the_chosen_alone_and_others_to_the_bit(chunk, monkeypatch):
    monkeypatch.setattr(layers_of_taps, "_QUERY_CHUNK", chunk)
    attention = layer_attention(past=2)
    queries = torch.tensor([[1, 4, 5], [3, 0, 1], [2, 3, 4]])
    where = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    kernel = torch.randn(3, 6, 4, 8)
    attention.rescore(queries, where, lambda scores: scores * 2)
    found, expected = attention.after_kernel(kernel), by_hand(attention, scaling=2 * 8**-0.5)[2]
    for row, query in itertools.product(range(3), range(6)):
        if any(one == query and kept for one, kept in zip(queries[row], where[row], strict=True)):
            assert (found[row, query] - expected[row, query]).abs().max() < 1e-5
        else:
            assert torch.equal(found[row, query], kernel[row, query])


def test_plans_go_on_from_what_others_did_whatever_they_did_first():
    """Scores one after the other, then hiding, then heads: nobody's part is lost by another's."""
    kernel = torch.randn(3, 6, 4, 8)
    hidden = torch.zeros(3, 6, dtype=torch.bool)
    hidden[:, 1] = True
    everywhere = torch.ones(3, 1, dtype=torch.bool)
    found = []
    for order in itertools.permutations(range(4)):
        attention = layer_attention()
        last = attention.last_queries()
        steps = [
            lambda one=attention, last=last: one.rescore(last, everywhere, lambda scores: scores * 2),
            lambda one=attention, last=last: one.rescore(last, everywhere, lambda scores: scores * 3),
            lambda one=attention: one.hide(hidden),
            lambda one=attention: one.then(lambda output: output * 0.5),
        ]
        for index in order:
            steps[index]()
        found.append(attention.after_kernel(kernel))
    expected = by_hand(layer_attention(), scaling=6 * 8**-0.5, hidden=hidden)[2] * 0.5
    for one in found:
        assert (one[:, -1] - expected[:, -1]).abs().max() < 1e-5
        assert torch.equal(one[:, :-1], kernel[:, :-1] * 0.5)


def test_tokens_are_counted_from_the_prompts_beginning():
    """With columns to the left of a branch's rows, with those that a sliding cache has dropped, and empty ones."""
    tokens = torch.tensor([[False, True, False, False, True]] * 2)
    padded_left = layer_attention(slice(0, 2), pad=3, past=7, seq=2)
    assert (padded_left.past, padded_left.tokens, padded_left.keys) == (4, 6, 9)
    assert padded_left.columns(tokens).int().tolist() == [[0, 0, 0, 0, 1, 0, 0, 1, 0]] * 2
    dropped = layer_attention(slice(0, 2), past=7, first=4, seq=2, keys=6)
    assert dropped.columns(tokens).int().tolist() == [[0, 1, 0, 0, 0, 0]] * 2, "token 1 is gone, token 4 is not"
    values = torch.arange(1.0, 7.0).expand(2, -1)
    assert dropped.by_token(values).tolist() == [[0, 0, 0, 1, 2, 3, 4, 5, 6]] * 2
    static = layer_attention(slice(0, 2), past=3, seq=2, keys=9)
    assert static.columns(tokens).int().tolist() == [[0, 1, 0, 0, 1, 0, 0, 0, 0]] * 2
    assert static.by_token(torch.arange(9.0).expand(2, -1)).tolist() == [[0, 1, 2, 3, 4]] * 2
    for attention, since, expected in (
        (static, None, [1]),
        (static, 4, [1]),
        (static, 3, [0, 1]),
        (static, 0, [0, 1]),
        (static, 9, []),
        (padded_left, 5, [1]),
        (padded_left, 0, [0, 1]),
    ):
        assert attention.last_queries(since).tolist() == [expected] * 2


@pytest.mark.parametrize("kind", ["4-D", "additive", "padding", "block"])
def test_a_mask_of_the_whole_batch_is_cut_to_the_plans_rows(kind):
    real = torch.ones(3, 6, dtype=torch.bool)
    real[2, :3] = False
    visible = torch.ones(6, 6, dtype=torch.bool).tril() & real[:, None, None]
    masks = {
        "4-D": visible,
        "additive": torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min),
        "padding": real,
        "block": create_block_mask(lambda b, h, q, k: visible[b, 0, q, k], 3, None, 6, 6, device="cpu"),
    }
    attention = layer_attention(slice(1, 3), mask=masks[kind])
    scores = by_hand(attention)[0]
    expected = scores.masked_fill(~visible[1:], -torch.inf).softmax(-1)[:, :, 3:]
    assert (attention.weights(attention.last_queries(since=3)) - expected).abs().max() < 1e-6


def test_what_cannot_be_computed_is_refused():
    attention = layer_attention(s_aux=torch.zeros(4))
    with pytest.raises(UnsupportedModelError, match="attention sinks"):
        attention.scores(attention.last_queries())
    attention = layer_attention()
    attention.require_all_heads()
    attention.inputs.module.config.num_attention_heads = 8
    with pytest.raises(UnsupportedModelError, match=r"got 4 of 8.*without tensor parallelism"):
        attention.require_all_heads()


@pytest.fixture
def llava():
    made = TINY["llava"](layers=3)
    made.model.generate(**made.prompt().inputs, **GREEDY)
    return made


class Doubled(AttentionPlan):
    """Scores of the last query, and counts."""

    def __init__(self):
        self.seen, self.embedded = [], 0

    def embed(self, embeds, past):
        self.embedded += 1
        return embeds * 1.1

    def attend(self, attention):
        self.seen.append((attention.layer, attention.queries))
        queries = attention.last_queries()
        attention.rescore(queries, torch.ones_like(queries, dtype=torch.bool), lambda scores: scores * 2)


@torch.no_grad()
def logits(tiny):
    return tiny.model(**tiny.prompt().inputs).logits[:, -1]


def test_taps_nest_and_leave_in_any_order(llava):
    before, plain = everything_on(llava.model), logits(llava)
    found = []
    for leaves_first in (0, 1):
        stacks = [HookStack(), HookStack()]
        for stack in stacks:
            tap_attention(llava.model, stack)
        assert torch.equal(logits(llava), plain), "nobody attends"
        for _ in range(2):
            plan = Doubled()
            with attending(llava.model, [Attending(slice(None), plan)]):
                found.append(logits(llava))
            assert plan.embedded == 1
            assert plan.seen == [(layer, llava.prompt().inputs["input_ids"].shape[1]) for layer in range(3)]
            stacks[leaves_first].close()
        stacks[1 - leaves_first].close()
        assert everything_on(llava.model) == before
    assert not torch.allclose(found[0], plain, atol=1e-2)
    for one in found[1:]:
        assert torch.equal(one, found[0])
    with HookStack() as stack:
        tap_attention(llava.model, stack)
        one, other = Doubled(), Doubled()
        with (
            attending(llava.model, [Attending(slice(0, 1), one)]),
            attending(llava.model, [Attending(slice(1, 2), other)]),
        ):
            both = logits(llava)
    assert torch.allclose(both[:2], found[0][:2], atol=1e-5), "an inner `with` does not hide the outer one"
    assert torch.equal(both[2], plain[2]), "rows that nobody attends are the kernel's"
    assert everything_on(llava.model) == before


def generating(tiny, stack, plan, **options):
    """Answers under a plan on the call's own rows."""
    watch_generate(tiny.model, lambda call: call.attending.append(plan), stack)
    return tiny.model.generate(**tiny.prompt().inputs, **GREEDY, **options)


def test_a_calls_plan_acts_in_its_own_steps_alone(llava):
    """Not in the diagnosis of a method in between, nor in its branches, nor on another thread or model."""
    plan, length = Doubled(), llava.prompt().inputs["input_ids"].shape[1]
    stranger, plain = TINY["llava"](layers=3, seed=4), logits(llava)
    with HookStack() as stack, scr.patch(llava.model, "scr", **scr.get_method("scr").example) as edit:
        tap_attention(llava.model, stack)
        for engine in ("processor", "joined"):
            plan.seen.clear()
            with scr.patch(llava.model, "purified", engine=engine), HookStack() as inner:
                generating(llava, inner, plan)
            steps = [(layer, queries) for queries in (length, 1, 1) for layer in range(3)]
            assert plan.seen == steps, engine
        read = [trace.attention for trace in edit.traces]
    assert read
    with scr.patch(llava.model, "scr", **scr.get_method("scr").example) as edit:
        llava.model.generate(**llava.prompt().inputs, **GREEDY)
    assert torch.equal(read[0], edit.traces[0].attention), "a diagnosis reads the model as it is"

    there, found = logits(stranger), []

    def elsewhere(module, args):
        """In the middle of the call's own forward: another thread's, and another model's."""
        if not found:
            found.append(None)
            thread = threading.Thread(target=lambda: found.append(logits(llava)))
            thread.start()
            thread.join()
            found.append(logits(stranger))

    plan.seen.clear()
    with HookStack() as stack:
        tap_attention(llava.model, stack)
        tap_attention(stranger.model, stack)
        stack.forward_pre_hook(llava.model.lm_head, lambda module, args, kwargs: elsewhere(module, args))
        generating(llava, stack, plan)
    assert plan.seen == steps
    assert torch.equal(found[1], plain)
    assert torch.equal(found[2], there)


def test_the_calls_rows_are_known_from_its_first_forward(llava):
    calls: list[GenerateCall] = []
    with HookStack() as stack:
        tap_attention(llava.model, stack)
        watch_generate(llava.model, calls.append, stack)
        generating(llava, stack, Doubled(), num_beams=2)
        generating(llava, stack, Doubled())
    assert [call.rows for call in calls] == [6, 3]


def test_an_error_inside_a_plan_leaves_nothing_behind(llava):
    plain, before = logits(llava), everything_on(llava.model)

    class Fails(AttentionPlan):
        def attend(self, attention):
            raise ZeroDivisionError

    with HookStack() as stack:
        tap_attention(llava.model, stack)
        with pytest.raises(ZeroDivisionError), attending(llava.model, [Attending(slice(None), Fails())]):
            logits(llava)
        assert torch.equal(logits(llava), plain)
        plan = Doubled()
        with attending(llava.model, [Attending(slice(None), plan)]):
            logits(llava)
        assert len(plan.seen) == 3
    assert everything_on(llava.model) == before


def compiled(style, model):
    if style == "wrapper":
        return torch.compile(model, backend="eager")
    if style == "in place":
        model.compile(backend="eager")
    else:
        decoder = model.get_decoder()
        decoder.compile(backend="eager")
        for layer in decoder.layers:
            layer.compile(backend="eager")
    return model


@pytest.mark.parametrize(
    "style", ["parts", *(pytest.param(one, marks=pytest.mark.slow) for one in ("wrapper", "in place"))]
)
def test_in_a_compiled_model_plans_act_between_its_graphs(style):
    tiny = TINY["llava"](layers=1)
    inputs = tiny.prompt().inputs

    @torch.no_grad()
    def said(model):
        """After the prompt and after a token, as `generate` would feed it."""
        plan = Doubled()
        with HookStack() as stack, attending(tiny.model, [Attending(slice(1, 2), plan)]):
            tap_attention(tiny.model, stack)
            first = model(**inputs, use_cache=True)
            then = model(input_ids=NEW[:1, :1].expand(3, 1), past_key_values=first.past_key_values)
        return torch.stack([first.logits[:, -1], then.logits[:, -1]]), plan.seen

    torch.compiler.reset()
    expected, seen = said(tiny.model)
    found = said(compiled(style, tiny.model))
    assert torch.allclose(found[0], expected, atol=1e-5)
    assert found[1] == seen == [(0, inputs["input_ids"].shape[1]), (0, 1)]
    torch.compiler.reset()


def test_attention_that_goes_by_unseen_is_an_error(llava):
    """As in a block that computes it without transformers' interface, or from a graph that was kept."""

    def of_its_own(hidden_states, **kwargs):
        return hidden_states * 0.5, None

    inputs, plan = llava.prompt().inputs, Doubled()
    with HookStack() as stack, torch.no_grad():
        tap_attention(llava.model, stack)
        for layer in llava.layers:
            stack.attribute(layer.self_attn, "forward", of_its_own)
        with (
            pytest.raises(UnsupportedGenerationError, match=r"unseen.*Use the model without torch\.compile"),
            attending(llava.model, [Attending(slice(None), plan)]),
        ):
            llava.model(**inputs)
        for method, fields in (("head_guidance", {}), ("pai", {"engine": "processor"})):
            with (
                pytest.raises(UnsupportedGenerationError, match=r"unseen.*Use the model without torch\.compile"),
                scr.patch(llava.model, method, **fields),
            ):
                llava.model.generate(**inputs, **GREEDY)
        assert llava.model.generate(**inputs, **GREEDY) is not None
    assert not plan.seen


def test_blocks_are_counted_where_somebody_attends(llava):
    before = blocks_seen()
    with HookStack() as stack:
        tap_attention(llava.model, stack)
        logits(llava)
        with pytest.raises(UnsupportedGenerationError, match="unseen"):
            require_seen(before)
        with attending(llava.model, [Attending(slice(None), Doubled())]):
            logits(llava)
    require_seen(before)
    assert blocks_seen() == before + 3
