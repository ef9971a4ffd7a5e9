"""Every family under every way of generating, on tiny models: what is generated equals what the edited model says."""

import copy
import threading

import pytest
import torch
from reference import maps_by_block, reference_plan
from tiny_families import HYBRIDS, MIXTURES, PROMPTS, REFUSED, TINY, VOCABULARY

import scr
from hooks import PromptLayoutError, encode_images, hidden_of

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 4
GREEDY = {"max_new_tokens": STEPS, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
# What follows these in a prompt is the image, and no model can be given a copied image token.
SUPPRESSED = {
    "suppress_tokens": [VOCABULARY[mark] for mark in ("<image>", "<video>", "<open>", "<tile>", "<overview>")]
}


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request):
    made = TINY[request.param]()
    made.name = request.param
    return made


@pytest.fixture
def guessing(tiny):
    if tiny.name == "paligemma":
        pytest.skip("what is guessed belongs to its prompt, which sees itself both ways: unpatched too")
    if tiny.name in HYBRIDS:
        pytest.skip("transformers refuses it for models with a state; see test_hybrids.py")
    return tiny


@pytest.fixture
def repeating(tiny):
    tiny.require_copies()
    return tiny


@pytest.fixture
def patched(tiny):
    with scr.patch(tiny.model, num_sources=4, scale=1.4, keep_traces=99) as handle, torch.no_grad():
        yield handle


def plans(traces):
    return [(trace.row, trace.image, trace.sources.tolist(), trace.neighbors.tolist()) for trace in traces]


def greedy_by_hand(tiny, inputs):
    """The prefill of unpadded rows, then one forward per token, without `generate`."""
    tiny.model.base_model.rope_deltas = None  # Qwen's would be taken over from the last prompt with an image
    out = tiny.model(**inputs, use_cache=True)
    cache, logits = out.past_key_values, [out.logits[:, -1]]
    for _ in range(STEPS - 1):
        token = logits[-1].argmax(-1, keepdim=True)
        logits.append(tiny.model(input_ids=token, past_key_values=cache, use_cache=True).logits[:, -1])
    return torch.stack(logits, dim=1)


def logits_of(out):
    return torch.stack(out.logits, dim=1)


def test_greedy_in_a_batch_equals_each_row_by_hand(tiny, patched):
    batch = logits_of(tiny.model.generate(**tiny.prompt().inputs, **GREEDY))
    assert len(patched.traces) == 3
    for row, prompt in enumerate(PROMPTS):
        by_hand = greedy_by_hand(tiny, tiny.prompt([prompt]).inputs)[0]
        finite = by_hand > torch.finfo(by_hand.dtype).min  # Chameleon rules image tokens out
        assert (batch[row] - by_hand)[finite].abs().max() < 1e-4


def test_the_edit_matters_and_an_imageless_row_is_bit_equal(tiny):
    inputs = tiny.prompt().inputs
    plain = logits_of(tiny.model.generate(**inputs, **GREEDY))
    with scr.patch(tiny.model, num_sources=4, scale=1.4):
        edited = logits_of(tiny.model.generate(**inputs, **GREEDY))
    if tiny.name in MIXTURES:
        assert torch.allclose(edited[2], plain[2], atol=1e-5)
    else:
        assert torch.equal(edited[2], plain[2])
    assert not torch.allclose(edited[:2], plain[:2], atol=1e-3)
    assert torch.equal(logits_of(tiny.model.generate(**inputs, **GREEDY)), plain)


def test_padding_on_either_side_gets_what_a_row_gets_alone(tiny, patched):
    for padding in ("left", "right"):
        prompt = tiny.prompt(padding=padding)
        batch = tiny.model(**prompt.inputs).logits
        for row, one in enumerate(PROMPTS):
            alone = tiny.model(**tiny.prompt([one]).inputs).logits[0]
            real = prompt.inputs["attention_mask"][row].bool()
            finite = alone > torch.finfo(alone.dtype).min
            assert (batch[row][real] - alone)[finite].abs().max() < 1e-4, (padding, row)


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_caches(tiny, patched, cache):
    reference = tiny.model.generate(**tiny.prompt().inputs, **GREEDY)
    expected = plans(patched.traces)
    out = tiny.model.generate(**tiny.prompt().inputs, **GREEDY, cache_implementation=cache, disable_compile=True)
    assert plans(patched.traces[3:]) == expected
    assert (out.logits[0] - reference.logits[0]).abs().max() < 1e-5
    assert torch.equal(out.sequences, reference.sequences)


def test_without_a_cache_there_is_one_diagnostic_and_the_same_text(tiny, patched):
    cached = tiny.model.generate(**tiny.prompt().inputs, **GREEDY, **SUPPRESSED)
    expected = plans(patched.traces)
    uncached = tiny.model.generate(**tiny.prompt().inputs, **GREEDY, **SUPPRESSED, use_cache=False)
    assert plans(patched.traces[3:]) == expected
    assert torch.equal(cached.sequences, uncached.sequences)
    assert (logits_of(cached) - logits_of(uncached)).abs().max() < 1e-3


def test_a_second_turn_of_text_goes_on_from_the_edited_cache(tiny, patched):
    first = tiny.model.generate(**tiny.prompt(PROMPTS[:1]).inputs, **GREEDY)
    diagnostics = len(patched.traces)
    more = torch.tensor([[VOCABULARY[word] for word in "USER : describe this".split()]])
    ids = torch.cat([first.sequences, more], dim=1)
    turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **tiny.token_types(ids)}
    cache = first.past_key_values
    by_hand = copy.deepcopy(cache)
    out = tiny.model.generate(**turn, past_key_values=cache, **GREEDY)
    assert len(patched.traces) == diagnostics, "no image, no diagnostic"
    new = ids[:, by_hand.get_seq_length() :]
    expected = tiny.model(input_ids=new, past_key_values=by_hand).logits[:, -1]
    assert (out.logits[0] - expected)[expected > -1e30].abs().max() < 1e-4


@pytest.mark.parametrize("static", [False, True])
def test_a_second_image_in_a_later_turn(tiny, static):
    """Its plan is that of the whole eager maps over the reused cache, which the diagnostic leaves as it was."""
    from transformers import StaticCache

    eager = TINY[tiny.name](attention="eager")
    whole = tiny.prompt([("USER : <image> is there a dog ? no two of <image> describe", [1, 2])])
    start = tiny.prompt([("USER : <image> is there a dog ? no two of", [1])])
    second = tiny.prompt([("USER : <image> describe", [2])])
    seen, length = start.inputs["input_ids"].shape[1], whole.inputs["input_ids"].shape[1]
    positions, grids = whole.layout[0, 1]
    rest = {**second.inputs, "input_ids": whole.inputs["input_ids"][:, seen:]}
    rest["attention_mask"] = whole.inputs["attention_mask"]
    rest.pop("mm_token_type_ids", None)
    first_turn = dict(start.inputs)
    if "image_grid_thw" in whole.inputs:  # in a later turn M-RoPE's positions must be given
        places, _ = tiny.model.model.get_rope_index(**{k: v for k, v in whole.inputs.items() if k != "pixel_values"})
        rest["position_ids"], first_turn["position_ids"] = places[:, :, seen:], places[:, :, :seen]

    def cache_for(model):
        return StaticCache(config=model.config.get_text_config(), max_cache_len=length + 7) if static else None

    with scr.patch(tiny.model, num_sources=4, scale=1.4) as patch, torch.no_grad():
        cache = tiny.model(**first_turn, use_cache=True, past_key_values=cache_for(tiny.model)).past_key_values
        keys = cache.layers[3].keys[:, :, :seen].clone()
        tiny.model(**rest, past_key_values=cache, use_cache=True)
        assert int(cache.get_seq_length()) == length
        assert torch.equal(cache.layers[3].keys[:, :, :seen], keys)
    with scr.patch(eager.model, num_sources=4, scale=1.4) as first_only, torch.no_grad():
        cache = eager.model(**first_turn, use_cache=True).past_key_values
    with torch.no_grad():
        out = eager.model(**rest, past_key_values=cache, use_cache=True, output_attentions=True)
    maps = maps_by_block(eager.model, out.attentions)
    text = [q for q in range(max(positions) + 1, length) if not tiny.visual(whole.inputs)[0, q]]
    rows = torch.tensor(text) - seen
    layers = first_only.traces[0].attention_layers
    means = [maps[layer][0][:, rows].mean(dim=(0, 1)) for layer in layers]
    # A sliding block has dropped its oldest keys.
    whole_rows = [torch.nn.functional.pad(one, (length - len(one), 0)) for one in means]
    mean = torch.stack(whole_rows).mean(dim=0)[positions]
    parts = mean.split([height * width for height, width in grids])
    shaped = [part.reshape(*grid).tolist() for part, grid in zip(parts, grids, strict=True)]
    sources, neighbors, _ = reference_plan(shaped, num_sources=4)
    trace = patch.traces[-1]
    assert (trace.attention - mean).abs().max() < 1e-6
    assert (trace.sources.tolist(), trace.neighbors.tolist()) == (sources, neighbors)


def test_prompt_lookup_equals_greedy(guessing, patched):
    tiny = guessing
    inputs = tiny.prompt([("USER : <image> yes no it yes no it yes no", [1])]).inputs
    greedy = tiny.model.generate(**inputs, **GREEDY, **SUPPRESSED)
    looked_up = tiny.model.generate(**inputs, **GREEDY, **SUPPRESSED, prompt_lookup_num_tokens=3)
    assert torch.equal(greedy.sequences, looked_up.sequences)
    assert plans(patched.traces[:1]) == plans(patched.traces[1:])


def test_assisted_decoding_equals_greedy(guessing, patched):
    tiny = guessing
    inputs, draft = tiny.prompt(PROMPTS[:1]).inputs, TINY[tiny.name](seed=5).model
    greedy = tiny.model.generate(**inputs, **GREEDY, **SUPPRESSED)
    assisted = tiny.model.generate(**inputs, **GREEDY, **SUPPRESSED, assistant_model=draft)
    assert torch.equal(greedy.sequences, assisted.sequences)
    assert plans(patched.traces[:1]) == plans(patched.traces[1:])


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}])
@pytest.mark.parametrize("cache", [None, "static"])
def test_repeated_rows_get_the_plan_of_the_prompts_own(repeating, patched, options, cache):
    tiny = repeating
    inputs, seen = tiny.prompt(tiny.repeatable).inputs, []
    tiny.model.generate(**inputs, **GREEDY)
    expected = plans(patched.traces)
    rows, count = [], len(tiny.repeatable)
    starts = tiny.layers[1].register_forward_hook(lambda module, args, out: rows.append(len(hidden_of(out))))
    ends = tiny.layers[-1].register_forward_hook(lambda module, args, out: seen.append(hidden_of(out)))
    tiny.model(**inputs)  # each row once
    tiny.model.generate(**inputs, **{**GREEDY, **options}, cache_implementation=cache, disable_compile=True)
    starts.remove(), ends.remove()
    assert rows[2:4] == [count, 3 * count], "the diagnostic takes each row once"
    assert plans(patched.traces[2 * len(expected) :]) == expected
    real = inputs["attention_mask"].bool().repeat_interleave(3, dim=0)
    assert (seen[1] - seen[0].repeat_interleave(3, dim=0))[real].abs().max() < 1e-4


def test_noise_is_the_same_for_repeated_rows(repeating):
    tiny = repeating
    inputs = tiny.prompt(tiny.repeatable).inputs
    with scr.patch(tiny.model, "noise_control", num_sources=4, scale=1.4):
        single = tiny.model.generate(**inputs, **GREEDY).logits[0]
        torch.manual_seed(0)
        several = tiny.model.generate(**inputs, **{**GREEDY, "do_sample": True}, num_return_sequences=2).logits[0]
    assert (several - single.repeat_interleave(2, dim=0))[several > -1e30].abs().max() < 1e-4


def test_a_generated_image_token_starts_nothing(tiny, patched):
    cache = tiny.model(**tiny.prompt(PROMPTS[:1]).inputs, use_cache=True).past_key_values
    before = len(patched.traces)
    tiny.model(input_ids=torch.tensor([[VOCABULARY["<image>"]]]), past_key_values=cache)
    assert len(patched.traces) == before


def test_inputs_embeds(tiny, patched):
    inputs = tiny.prompt().inputs
    expected = tiny.model(**inputs).logits
    embeds = tiny.model.get_input_embeddings()(inputs.pop("input_ids"))
    tiny.model.base_model.rope_deltas = None
    if "image_grid_thw" in inputs:  # transformers itself cannot make M-RoPE's positions without ids
        inputs.pop("mm_token_type_ids")
        with pytest.raises(PromptLayoutError, match="mm_token_type_ids"):
            tiny.model(**inputs, inputs_embeds=embeds)
        return
    if tiny.name == "llama4":
        inputs = {name: value for name, value in encode_images(tiny.model, inputs).items() if name != "input_ids"}
    assert torch.equal(tiny.model(**inputs, inputs_embeds=embeds).logits, expected)


def test_hidden_states_show_the_edit(tiny):
    prompt, block = tiny.prompt(PROMPTS[:1]), tiny.deepstack  # the first whose output goes on as it is
    with torch.no_grad():
        plain = tiny.model(**prompt.inputs, output_hidden_states=True).hidden_states
        with scr.patch(tiny.model, num_sources=4, scale=1.4, layers=range(block, block + 1)) as patch:
            edited = tiny.model(**prompt.inputs, output_hidden_states=True).hidden_states
    assert len(edited) == len(plain) == 9
    sources = torch.tensor(prompt.layout[0, 0][0])[patch.traces[0].sources]
    assert torch.equal(edited[block], plain[block])
    assert torch.allclose(edited[block + 1][0, sources], plain[block + 1][0, sources] / 1.4)


def test_chunked_prefill_is_refused(tiny, patched):
    if tiny.name == "llama4":
        with pytest.raises(KeyError, match="pooler_output"):  # transformers cannot part its images itself
            tiny.model.generate(**tiny.prompt().inputs, **GREEDY, prefill_chunk_size=8)
        tiny.model(**tiny.prompt().inputs)
        return
    with pytest.raises(scr.UnsupportedGenerationError, match="prefill_chunk_size"):
        tiny.model.generate(**tiny.prompt().inputs, **GREEDY, prefill_chunk_size=8)


def test_bfloat16(tiny):
    model = tiny.in_dtype(torch.bfloat16)
    inputs = tiny.prompt().inputs
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    for method in (name for name in scr.list_methods() if scr.get_method(name).least_beams == 1):
        if tiny.name in REFUSED.get(method, ()):
            continue
        with scr.patch(model, method, **scr.get_method(method).example) as patch, torch.no_grad():
            out = model.generate(**inputs, **GREEDY, output_scores=True)
        assert logits_of(out).isfinite().all()
        assert not torch.stack(out.scores).isnan().any()
        assert len(patch.traces) == (3 if patch.leaves_traces else 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(tiny, patched, dtype):
    with torch.autocast("cpu", dtype):
        assert tiny.model(**tiny.prompt().inputs).logits.isfinite().all()
        assert logits_of(tiny.model.generate(**tiny.prompt().inputs, **GREEDY)).isfinite().all()
    grids = [[tuple(grid) for grid in trace.grids] for trace in patched.traces]
    assert grids == [grids for _, grids in tiny.prompt().layout.values()] * 2


def test_four_threads(tiny, patched):
    prompts = [tiny.prompt([prompt]).inputs for prompt in PROMPTS]
    expected = [tiny.model.generate(**inputs, **GREEDY).logits[0] for inputs in prompts]
    found: dict[int, torch.Tensor] = {}

    def work(index):
        with torch.no_grad():
            for _ in range(3):
                found[index] = tiny.model.generate(**prompts[index % 3], **GREEDY).logits[0]

    if tiny.name.startswith(("qwen", "glm")):  # they keep rope_deltas of the last prompt: one for all
        prompts, expected = prompts[:1] * 3, expected[:1] * 3
    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(found) == 4
    for index, logits in found.items():
        assert torch.equal(logits, expected[index % 3])


def test_nested_patches_come_off_in_any_order_and_two_models_at_once(tiny):
    other, inputs = TINY[tiny.name](seed=3), tiny.prompt().inputs
    with torch.no_grad():
        plain, plain_other = tiny.model(**inputs).logits, other.model(**inputs).logits
        outer = scr.patch(tiny.model, num_sources=4, scale=1.4).install()
        alone = tiny.model(**inputs).logits
        inner = scr.patch(tiny.model, "uniform_smooth", num_sources=2).install()
        with scr.patch(other.model):
            assert not torch.equal(tiny.model(**inputs).logits, alone)
            assert not torch.equal(other.model(**inputs).logits, plain_other)
        outer.remove()
        assert not torch.equal(tiny.model(**inputs).logits, plain)
        outer.install()
        inner.remove()
        assert torch.equal(tiny.model(**inputs).logits, alone)
        outer.remove()
        assert torch.equal(tiny.model(**inputs).logits, plain)
        assert torch.equal(other.model(**inputs).logits, plain_other)
