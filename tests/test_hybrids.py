"""Models whose blocks have attention maps in part: what is read where, what carries on, and what is refused."""

import copy

import pytest
import torch
import transformers as hf
from tiny_families import HYBRIDS, PROMPTS, TINY, VOCABULARY

import scr
from hooks import UnsupportedModelError, find_family, fork, map_family

pytestmark = pytest.mark.usefixtures("one_thread")
WITH_MAPS = [1, 3, 5, 7]
GREEDY = {"max_new_tokens": 5, "do_sample": False}
BEAMS = {**GREEDY, "num_beams": 2}
SUPPRESSED = {"suppress_tokens": [VOCABULARY["<image>"], VOCABULARY["<video>"]]}


@pytest.fixture(scope="module")
def tiny():
    return TINY["qwen3_5"]()


def states_of(cache):
    """Everything that a cache holds."""
    found = []
    for layer in cache.layers:
        found += [getattr(layer, name) for name in ("keys", "values") if hasattr(layer, name)]
        for name in ("conv_states", "recurrent_states"):
            found += getattr(layer, name, {}).values()
    return [one.clone() for one in found if one is not None]


def assert_equal(before, after):
    assert len(before) == len(after) > 0
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


@pytest.mark.parametrize("name", HYBRIDS)
def test_the_blocks_that_have_maps_are_known(name):
    model = TINY[name](layers=8).model
    assert list(find_family(model).attention_modules(model)) == WITH_MAPS
    assert len(find_family(model).layers(model)) == 8
    dense = TINY["llava"](layers=4).model
    assert list(find_family(dense).attention_modules(dense)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("asked", "read"), [(None, (3,)), (range(0, 8), (1, 3, 5, 7)), (range(2, 6), (3, 5)), (range(7, 8), (7,))]
)
def test_those_of_a_range_are_read_and_the_traces_say_which(tiny, asked, read):
    inputs = tiny.prompt().inputs
    with scr.patch(tiny.model, num_sources=4, attention_layers=asked) as patched, torch.no_grad():
        tiny.model(**inputs)
    assert [trace.attention_layers for trace in patched.traces] == [read] * 3
    assert patched.traces[0].to_dict()["attention_layers"] == read
    assert patched.config.attention_layers == (asked or range(2, 5))
    assert patched.diagnosed() == {"layers": patched.config.layers, "attention_layers": patched.config.attention_layers}
    for trace, one in zip(patched.traces, scr.diagnose(tiny.model, inputs, attention_layers=asked), strict=True):
        assert torch.equal(trace.attention, one.attention)


def test_a_whole_model_says_all_of_its_blocks():
    tiny = TINY["llava"](layers=4)
    for method, read in (("scr", (0, 1, 2)), ("scr_one_pass", ())):
        fields = {"attention_layers": range(0, 3)} if method == "scr" else {"predictor": "untrained"}
        with scr.patch(tiny.model, method, num_sources=4, **fields) as patched, torch.no_grad():
            tiny.model(**tiny.prompt(PROMPTS[:1]).inputs)
        assert patched.traces[0].attention_layers == read


@pytest.mark.parametrize(
    ("method", "fields", "got"),
    [
        ("scr", {"attention_layers": range(4, 5)}, r"attention_layers without attention maps: got range\(4, 5\)"),
        ("vaf", {"layers": range(2, 3)}, r"layers without attention maps: got range\(2, 3\)"),
        ("pai", {"layers": range(0, 1)}, r"layers without attention maps: got range\(0, 1\)"),
        ("rudder", {"block": 6}, r"block without attention maps: got range\(6, 7\)"),
    ],
)
def test_a_range_without_any_is_an_error(tiny, method, fields, got):
    with pytest.raises(scr.ConfigError, match=got + r" of Qwen3_5.*; expected one at least of \[1, 3, 5, 7\]"):
        scr.patch(tiny.model, method, **fields)
    name, value = next(iter(fields.items()))
    wider = {name: value + 1 if isinstance(value, int) else range(value.start, value.stop + 1)}
    with scr.patch(tiny.model, method, **wider):
        tiny.model.generate(**tiny.prompt().inputs, max_new_tokens=1, do_sample=False)


@pytest.mark.parametrize("static", [False, True])
def test_a_fork_of_the_cache_leaves_no_trace_in_its_states(tiny, static):
    """Whether it takes many tokens or, as a step does, one: then the convolution's state is written into in place."""
    prompt = tiny.prompt(PROMPTS[:1])
    cache = hf.StaticCache(config=tiny.model.config.get_text_config(), max_cache_len=80) if static else None
    with torch.no_grad():
        cache = tiny.model(**prompt.inputs, past_key_values=cache, use_cache=True).past_key_values
        before, length = states_of(cache), int(cache.get_seq_length())
        for count in (5, 1, 1):
            more = torch.tensor([[VOCABULARY["dog"]] * count])
            expected = tiny.model(input_ids=more, past_key_values=copy.deepcopy(cache)).logits
            found = tiny.model(input_ids=more, past_key_values=fork(cache)).logits
            assert torch.equal(found, expected)
        new = hf.DynamicCache(config=tiny.model.config.get_text_config())
        found = tiny.model(**prompt.inputs, past_key_values=fork(new)).logits
        assert torch.equal(found, tiny.model(**prompt.inputs).logits)
        assert not states_of(new)
    assert int(cache.get_seq_length()) == length
    assert_equal(before, states_of(cache))


def test_a_diagnostic_over_states_from_before_changes_nothing(tiny):
    """At λ = 1, with an image in a later turn: the model says what it says unpatched, and ends in the same states."""
    whole = tiny.prompt([("USER : <image> is there a dog ? no two of <image> describe", [1, 2])])
    seen = tiny.prompt([("USER : <image> is there a dog ? no two of", [1])]).inputs["input_ids"].shape[1]
    tiny.model.model.rope_deltas = None
    places, _ = tiny.model.model.get_rope_index(**{k: v for k, v in whole.inputs.items() if k != "pixel_values"})
    first, second = tiny.picture(1), tiny.picture(2)
    turns = []
    for picture, part in ((first, slice(0, seen)), (second, slice(seen, None))):
        own = {"input_ids": whole.inputs["input_ids"][:, part], "position_ids": places[:, :, part]}
        turns.append({**own, **tiny.batch([[picture]])})
    found = []
    for patching in (False, True):
        with torch.no_grad():
            cache = tiny.model(**turns[0], use_cache=True).past_key_values
            if patching:
                with scr.patch(tiny.model, num_sources=4, scale=1.0) as patched:
                    out = tiny.model(**turns[1], past_key_values=cache, use_cache=True)
                assert len(patched.traces) == 1
            else:
                out = tiny.model(**turns[1], past_key_values=cache, use_cache=True)
        found.append([out.logits, *states_of(cache)])
    assert_equal(*found)


def test_opera_searches_without_returns_and_its_looks_ahead_leave_no_trace(tiny):
    """With next to no penalty it finds what transformers' own beams find, though each step tries 60 tokens."""
    inputs = tiny.prompt(PROMPTS[:2]).inputs
    expected = tiny.model.generate(**inputs, **BEAMS, **SUPPRESSED)
    with scr.patch(tiny.model, "opera", penalty=1e-20, candidates=60, threshold=None):
        found = tiny.model.generate(**inputs, **BEAMS, **SUPPRESSED)
    assert torch.equal(found, expected)
    with scr.patch(tiny.model, "opera", threshold=None, scale=500.0, penalty=1000.0):
        assert not torch.equal(tiny.model.generate(**inputs, **BEAMS, **SUPPRESSED), expected)


def test_opera_cannot_go_back_in_a_state(tiny):
    message = r"rows cannot go back: got states of linear attention.*Set opera's threshold to None"
    with scr.patch(tiny.model, "opera"), pytest.raises(scr.UnsupportedGenerationError, match=message):
        tiny.model.generate(**tiny.prompt().inputs, **BEAMS)


@pytest.mark.parametrize("method", ["sid", "crops"])
@pytest.mark.parametrize(("first_layer", "others"), [(2, r"\[2, 4, 6\]"), (7, r"\[6\]")])
def test_keys_cannot_be_hidden_from_a_state(tiny, method, first_layer, others):
    with pytest.raises(UnsupportedModelError, match=f"no key can be hidden from: got {others}.*'vcd'"):
        scr.patch(tiny.model, method, first_layer=first_layer)


def test_only_is_refused_for_what_is_no_plain_decoder(tiny):
    with pytest.raises(UnsupportedModelError, match=r"a hybrid: got Qwen3_5.*'vcd'"):
        scr.patch(tiny.model, "only")


@pytest.mark.parametrize("name", HYBRIDS)
def test_transformers_refuses_what_would_go_back(name):
    model, inputs = TINY[name](layers=2).model, TINY[name](layers=2).prompt(PROMPTS[:1]).inputs
    with pytest.raises(ValueError, match="not supported with stateful models"), scr.patch(model):
        model.generate(**inputs, **GREEDY, prompt_lookup_num_tokens=2)


def test_what_is_mapped_is_checked_for_blocks_without_maps():
    model = TINY["qwen3_5"](layers=4).model
    model.config.model_type = "somebodys_hybrid"
    with pytest.raises(UnsupportedModelError, match=r"without readable attention: got Qwen3_5DecoderLayer at block 0"):
        map_family(model, "qwen2_vl")
    map_family(model, "qwen3_5")
    with scr.patch(model, num_sources=4) as patched, torch.no_grad():
        model(**TINY["qwen3_5"](layers=4).prompt().inputs)
    assert len(patched.traces) == 3
    del model.get_decoder().layers[2].linear_attn
    with pytest.raises(UnsupportedModelError, match="at block 2"):
        find_family(model).check(model)
