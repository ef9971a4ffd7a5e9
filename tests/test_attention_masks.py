"""Every form of attention mask, and caches that drop or pad keys: what is read equals an eager model's attention."""

import copy

import pytest
import torch
from tiny import SIDE, inputs_for, tiny_llava
from torch.nn.attention.flex_attention import create_block_mask
from transformers import (
    DynamicCache,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    StaticCache,
)

import scr
from hooks import UnsupportedModelError
from hooks.prefills.attention import AttentionReader
from hooks.prefills.masks import masked, sees_itself
from hooks.prefills.queries import real_tokens

WINDOW, LAYERS, PATCHES = 24, range(2, 5), SIDE * SIDE
IMAGE, CACHED = 4, 200
OPTIONS = {"num_sources": 4, "layers": range(3), "attention_layers": LAYERS, "include_border": True}
PROMPTS = [
    ("USER : <image> is there a dog in the image ? ASSISTANT :", [1]),
    ("USER : two of <image> describe <image> yes", [2, 3]),
]
TURNS = (
    [("USER : describe the cat in detail . please ASSISTANT : yes", []), ("USER : a dog ? ASSISTANT :", [])],
    [("USER : <image> is there a dog ?", [4]), ("is <image> there two dog of please :", [5])],
)
TEXT = ["full", "sliding", "mixed"]
KERNELS = ["eager", "sdpa", "padding_free", "flash_attention_2", "flex_attention"]

pytestmark = [
    pytest.mark.usefixtures("one_thread", "kernels"),
    # Called without torch.compile on purpose: Inductor's flex kernels for CPUs do not build everywhere. The others are
    # torch's and transformers' own, on the way there.
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask"),
]


def tiny(text, kernel, window=WINDOW):
    model, processor = tiny_llava(layers=5, attention="eager")
    config, kept = copy.deepcopy(model.config), {}
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        kept[name] = getattr(config.text_config, name)
    kept |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "sliding_window": window}
    if text == "sliding":
        config.text_config = MistralConfig(**kept)
    elif text == "mixed":
        types = ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]
        config.text_config = Qwen2Config(**kept, use_sliding_window=True, layer_types=types)
    if text != "full":
        model, llama = LlavaForConditionalGeneration(config).eval(), model
        model.load_state_dict(llama.state_dict(), strict=False)
        model.generation_config = llama.generation_config
        for name, parameter in model.named_parameters():
            if "bias" in name and "language_model" in name:
                parameter.data.zero_()
    # The public way looks for an installed kernel.
    model.config.text_config._attn_implementation_internal = kernel
    return model, processor


def padded(processor, prompts, side):
    processor.tokenizer.padding_side = side
    inputs = inputs_for(processor, prompts)
    processor.tokenizer.padding_side = "left"
    return inputs


def cache_of(kind, model):
    config = model.config.get_text_config()
    kinds = {"dynamic": lambda: DynamicCache(config=config), "as they come": DynamicCache, "none": lambda: None}
    return {**kinds, "static": lambda: StaticCache(config=config, max_cache_len=CACHED)}[kind]()


def traces(model, cache=None, **inputs):
    with scr.patch(model, **OPTIONS) as patched, torch.no_grad(), torch.compiler.set_stance("force_eager"):
        logits = model(**inputs, past_key_values=cache, use_cache=cache is not None).logits
        return patched.traces, logits


def whole_maps(model, inputs, **kwargs):
    with torch.no_grad():
        return model(**inputs, output_attentions=True, **kwargs).attentions


def expected(maps, inputs, trace, first=None):
    """The mean of whole maps over heads, layers and the text after an image; new keys come last unless `first` says."""
    ids, real = inputs["input_ids"][trace.row], inputs["attention_mask"][trace.row].bool()
    patches = (ids == IMAGE).nonzero().flatten()[trace.image * PATCHES :][:PATCHES]
    text = ((ids != IMAGE) & real[-len(ids) :]).nonzero().flatten()
    rows = [maps[layer][trace.row].mean(dim=0)[text[text > patches[-1]]].mean(dim=0) for layer in LAYERS]
    past = [first if first is not None and len(row) == CACHED else len(row) - len(ids) for row in rows]
    return torch.stack([row[patches + offset] for row, offset in zip(rows, past, strict=True)]).mean(dim=0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("text", TEXT)
def test_the_map_is_the_eager_models(text, kernel, side):
    """Prompts are longer than the window: most patches are out of sight in the sliding layers."""
    model, processor = tiny(text, kernel)
    inputs = padded(processor, PROMPTS, side)
    maps = whole_maps(tiny(text, "eager")[0], inputs)
    assert inputs["input_ids"].shape[1] > 2 * WINDOW
    assert not inputs["attention_mask"].all()
    plans = []
    for kind in ("none", "dynamic", "as they come", "static"):
        found, logits = traces(model, cache_of(kind, model), **inputs)
        assert len(found) == 3
        for trace in found:
            assert (trace.attention - expected(maps, inputs, trace)).abs().max() < 1e-6
        plans.append(([trace.sources.tolist() for trace in found], logits[inputs["attention_mask"].bool()]))
    for sources, logits in plans[1:]:
        assert sources == plans[0][0]
        assert (logits - plans[0][1]).abs().max() < 1e-5


@pytest.mark.parametrize("window", [WINDOW, 200])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("text", TEXT[1:])
def test_without_any_mask(text, kernel, window):
    """Flash kernels then get None in every layer, sdpa wherever the window is wider than the prompt."""
    inputs = inputs_for(tiny_llava()[1], PROMPTS[1:])
    assert inputs["attention_mask"].all()
    (model, _), (eager, _) = tiny(text, kernel, window), tiny(text, "eager", window)
    maps = whole_maps(eager, inputs)
    mask = inputs.pop("attention_mask")
    for kind in ("none", "dynamic"):
        found, _ = traces(model, cache_of(kind, model), **inputs)
        assert len(found) == 2
        for trace in found:
            assert (trace.attention - expected(maps, {**inputs, "attention_mask": mask}, trace)).abs().max() < 1e-6


@pytest.mark.parametrize("text", TEXT[1:])
def test_a_window_of_flash_kernels_counts_real_tokens(text):
    """They never see masked tokens: across a hole between image and question the window reaches further back."""
    model, processor = tiny(text, "padding_free")
    inputs = inputs_for(processor, PROMPTS[:1])
    inputs["attention_mask"][:, -5:-1] = 0
    own, columns = whole_maps(model, inputs), whole_maps(tiny(text, "eager")[0], inputs)
    (trace,), _ = traces(model, **inputs)
    assert (trace.attention - expected(own, inputs, trace)).abs().max() < 1e-6
    assert (trace.attention - expected(columns, inputs, trace)).abs().max() > 1e-4


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("text", TEXT)
def test_an_image_in_the_second_turn(text, kernel, side):
    """The first turn fills the cache past the window; padded on the right it leaves a hole in the middle of a row."""
    model, processor = tiny(text, kernel)
    first, second = (padded(processor, prompts, side) for prompts in TURNS)
    past = first["input_ids"].shape[1]
    whole = {name: torch.cat([first[name], second[name]], 1) for name in ("input_ids", "attention_mask")}
    maps = whole_maps(tiny(text, "eager")[0], {**second, **whole})
    second["attention_mask"] = whole["attention_mask"]
    # Across a hole a window of real tokens is not one of columns: there the kernel's own attention is what counts.
    own = kernel in ("padding_free", "flash_attention_2") and text != "full" and side == "right"
    plans = []
    for kind in ("dynamic", "as they come", "static"):
        cache = cache_of(kind, model)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            model(**first, past_key_values=cache, use_cache=True)
        again = copy.deepcopy(cache)
        found, _ = traces(model, cache, **second)
        assert [(trace.row, trace.image) for trace in found] == [(0, 0), (1, 0)]
        for trace in found:
            want = expected(maps, whole, trace)
            if own:
                kernels = whole_maps(tiny(text, "padding_free")[0], second, past_key_values=copy.deepcopy(again))
                columns, want = want, expected(kernels, second, trace, past)
                assert trace.row == 0 or (want - columns).abs().max() > 1e-5
            assert (trace.attention - want).abs().max() < 1e-6
        plans.append([trace.sources.tolist() for trace in found])
    assert own or plans[0] == plans[1] == plans[2]


# Static caches under flex: `generate` of transformers 5.23 fails by itself, it takes the BlockMask for a tensor.
@pytest.mark.parametrize("kernel", KERNELS[:-1])
@pytest.mark.parametrize("text", TEXT)
def test_generate_with_masks_prepared_for_each_kind_of_layer(text, kernel):
    """For a static cache `generate` itself makes the masks; those of sliding layers lack what the cache has dropped."""
    model, processor = tiny(text, kernel)
    first, second = (padded(processor, prompts, "left") for prompts in TURNS)
    names = ("input_ids", "attention_mask")
    whole = {**second, **{name: torch.cat([first[name], second[name]], 1) for name in names}}
    options = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
    for inputs in (padded(processor, PROMPTS, "left"), whole):
        results = []
        maps = whole_maps(tiny(text, "eager")[0], {**inputs, "position_ids": positions(inputs)})
        for kind in ("dynamic", "static"):
            cache = cache_of(kind, model)
            with scr.patch(model, **OPTIONS) as patched, torch.no_grad():
                if inputs is whole:
                    model(**first, position_ids=positions(first), past_key_values=cache, use_cache=True)
                out = model.generate(**inputs, past_key_values=cache, disable_compile=True, do_sample=False, **options)
            assert patched.traces
            for trace in patched.traces:
                assert (trace.attention - expected(maps, inputs, trace)).abs().max() < 1e-6
            results.append(([trace.sources.tolist() for trace in patched.traces], out.logits[0]))
        assert results[0][0] == results[1][0]
        assert (results[0][1] - results[1][1]).abs().max() < 1e-5


def positions(inputs):
    """As `generate` counts them: padding does not."""
    return (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)


def reader_of(causal=True):
    module = torch.nn.Module()
    module.layer_idx, module.is_causal, module.config = 0, causal, MistralConfig(num_attention_heads=2)
    return AttentionReader(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, 1), {0: 0}), module


@pytest.mark.parametrize("mask", [None, torch.ones(1, 3, dtype=torch.bool)])
@pytest.mark.parametrize(("by_module", "by_argument"), [(False, None), (True, False)])
def test_attention_both_ways_is_not_taken_for_causal(mask, by_module, by_argument):
    states = torch.randn(1, 2, 3, 4)
    reader, module = reader_of(by_module)
    with pytest.raises(UnsupportedModelError, match="is_causal=False"):
        reader.add(module, states, states, mask, is_causal=by_argument)
    reader.add(module, states, states, mask, is_causal=True)
    reader.add(module, states, states, torch.ones(1, 1, 3, 3, dtype=torch.bool), is_causal=False)
    assert torch.allclose(reader.maps[0].sum(), torch.tensor(1.0))


@pytest.mark.parametrize("argument", ["s_aux", "position_bias", "cu_seq_lens_q"])
def test_arguments_that_change_attention_are_refused(argument):
    states = torch.randn(1, 2, 3, 4)
    reader, module = reader_of()
    with pytest.raises(UnsupportedModelError, match=argument):
        reader.add(module, states, states, None, **{argument: torch.zeros(2)})
    reader.add(module, states, states, None, dropout=0.0, position_ids=torch.arange(3)[None], **{argument: None})


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(1, 3), torch.ones(1, 3, 3, dtype=torch.bool), "causal"])
def test_masks_of_other_forms_are_refused(mask):
    with pytest.raises(UnsupportedModelError, match=r"cannot read: got (a [123]-D mask|str)"):
        masked(torch.zeros(1, 1, 1, 3), mask, torch.zeros(1, 1, dtype=torch.long), 0)


def test_a_window_without_a_mask_is_kept():
    """What sdpa is spared where a window hides nothing, flash kernels also get where it does."""
    seen = masked(torch.zeros(1, 1, 2, 7), None, torch.tensor([[0, 3]]), 2, window=3).isfinite()[0, 0]
    assert seen.int().tolist() == [[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0]]


def test_real_tokens_of_a_later_turn():
    """From what `generate` prepares for static caches: by layer type, cut for sliding layers, or as a BlockMask."""
    config = Qwen2Config(
        num_hidden_layers=2,
        use_sliding_window=True,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
    )
    cache = StaticCache(config=config, max_cache_len=12)
    for layer in range(2):
        cache.update(*torch.zeros(2, 2, 2, 6, 4), layer)
    padding = torch.ones(2, 9, dtype=torch.bool)
    padding[0, 1:3] = padding[1, 6:8] = False
    full = (torch.arange(12) <= torch.arange(6, 9)[:, None]) & torch.nn.functional.pad(padding, (0, 3))[:, None, None]
    sliding = (full & (torch.arange(12) > torch.arange(6, 9)[:, None] - 4))[..., 3:9]
    block = create_block_mask(lambda b, h, q, k: full[b, 0, q, k], 2, None, 3, 12, device="cpu")
    masks = [
        padding,
        padding[:, -6:],
        {"sliding_attention": padding[:, -6:], "full_attention": padding},
        {"sliding_attention": sliding, "full_attention": full},
        block,
    ]
    for mask in masks:
        found = real_tokens({"attention_mask": mask, "past_key_values": cache}, 2, 3)
        assert found.tolist() == [[True] * 3, [False, False, True]]
    assert real_tokens({"attention_mask": {"full_attention": None}, "past_key_values": cache}, 2, 3).all()
    only = StaticCache(config=MistralConfig(num_hidden_layers=1, sliding_window=4), max_cache_len=12)
    only.update(*torch.zeros(2, 2, 2, 6, 4), 0)
    assert real_tokens({"attention_mask": sliding, "past_key_values": only}, 2, 3).tolist() == found.tolist()
    assert sees_itself(full[:1], 2, 3, 6).all()
