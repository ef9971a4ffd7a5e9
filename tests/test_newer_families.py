"""What is special about single families: levels that enter later, crops, tiles, break tokens, names of their own."""

import pytest
import torch
import transformers as hf
from reference import reference_logits
from tiny_families import PROMPTS, TEXT, TINY, VOCABULARY, Picture, noise

import scr
from hooks import FAMILIES, PromptLayoutError, UnsupportedModelError, encode_images, find_family, map_family
from scr.perturb import FeatureNoise, perturb_encoded, perturb_inputs

pytestmark = pytest.mark.usefixtures("one_thread")
DEEPSTACK = ["qwen3_vl", "qwen3_vl_moe"]


def into_blocks(model, inputs, run=None):
    """What each block gets, pass after pass: index → list."""
    seen = {}
    handles = [
        layer.register_forward_pre_hook(lambda module, args, index=index: seen.setdefault(index, []).append(args[0]))
        for index, layer in enumerate(model.get_decoder().layers)
    ]
    with torch.no_grad():
        (run or model)(**inputs)
    [handle.remove() for handle in handles]
    return seen


def traced(model, inputs, **fields):
    with scr.patch(model, num_sources=4, keep_traces=99, **fields) as patched, torch.no_grad():
        model(**inputs)
    return patched.traces


def grids_of(traces):
    return [(trace.row, trace.image, [tuple(grid) for grid in trace.grids]) for trace in traces]


# --- Qwen3-VL: features that enter after the first blocks -----------------------------------------------------------


@pytest.mark.parametrize("name", DEEPSTACK)
def test_both_passes_get_each_level_once_and_edits_come_after_it(name):
    tiny = TINY[name]()
    prompt = tiny.prompt(PROMPTS[:1])
    plain = into_blocks(tiny.model, prompt.inputs)
    for layer in range(tiny.deepstack):
        with scr.patch(tiny.model, num_sources=4, scale=1.4, layers=range(layer, layer + 1)) as patched:
            seen = into_blocks(tiny.model, prompt.inputs)
        (trace,) = patched.traces
        stopped = patched.config.attention_layers.stop
        assert [len(seen[index]) for index in range(8)] == [2] * stopped + [1] * (8 - stopped)
        for index in range(stopped):
            assert torch.equal(seen[index][0], plain[index][0]), "the diagnostic pass sees the model as it is"
        for index in range(layer + 1):
            assert torch.equal(seen[index][1], plain[index][0])
        sources = torch.tensor(prompt.layout[0, 0][0])[trace.sources]
        before, after = plain[layer + 1][0][0], seen[layer + 1][1][0]
        assert torch.allclose(after[sources], before[sources] / 1.4)


def test_the_last_block_may_be_one_of_them():
    tiny = TINY["qwen3_vl"](layers=2)
    prompt, normed = tiny.prompt(PROMPTS[:1]), []
    norm = tiny.model.get_decoder().norm
    for scale in (1.0, 1.4):
        fields = {"num_sources": 4, "layers": range(1, 2), "attention_layers": range(1)}
        with scr.patch(tiny.model, scale=scale, **fields) as patched, torch.no_grad():
            handle = norm.register_forward_pre_hook(lambda module, args: normed.append(args[0][0]))
            tiny.model(**prompt.inputs)
            handle.remove()
    sources = torch.tensor(prompt.layout[0, 0][0])[patched.traces[0].sources]
    assert torch.allclose(normed[1][sources], normed[0][sources] / 1.4)


@pytest.mark.parametrize("name", DEEPSTACK)
def test_every_level_is_attended_and_corrupted(name):
    """The attention that is read depends on the levels alone; noise on features is on all of them."""
    tiny = TINY[name]()
    inputs = tiny.prompt().inputs
    encoded = encode_images(tiny.model, inputs)
    image = encoded["mm_encoder_outputs"]["image"]
    before = [trace.attention for trace in traced(tiny.model, encoded)]
    for level in range(tiny.deepstack):
        levels = [
            [part + 3 * (index == level) * part.flip(0) for part in parts]
            for index, parts in enumerate(image.deepstack_features)
        ]
        other = {"image": type(image)(**{**image, "deepstack_features": levels})}
        after = [trace.attention for trace in traced(tiny.model, {**encoded, "mm_encoder_outputs": other})]
        assert all((one - two).abs().max() > 1e-4 for one, two in zip(before, after, strict=True))
    noisy = perturb_encoded(tiny.model, inputs, encoded["mm_encoder_outputs"], FeatureNoise())["image"]
    for old, new in zip(
        [image.pooler_output, *image.deepstack_features], [noisy.pooler_output, *noisy.deepstack_features], strict=True
    ):
        assert [part.shape for part in old] == [part.shape for part in new]
        assert all((one != two).any(-1).all() for one, two in zip(old, new, strict=True))


@pytest.mark.parametrize("name", [*DEEPSTACK, "glm4v", "glm46v", "qwen3_5"])
def test_time_steps_between_timestamps_are_images_of_their_own(name):
    tiny = TINY[name]()
    token = "<image>" if name.startswith("glm") else "<video>"
    step, count = tiny.picture(1, shape=(3, 4), token=token), 3
    tokens, patches = [], []
    for second in ("one", "two", "a")[:count]:
        tokens.append(VOCABULARY[second])
        patches += [len(tokens) + patch for patch in step.patches]
        tokens += step.tokens
    video = Picture(tokens, patches, [(3, 4)] * count, noise(5, 4 * len(patches), step.pixels.shape[1]), step.extra)
    prompt = tiny.prompt([("USER : <image> is there a dog ?", [1])], pictures=[[video]])
    inputs = {key: value for key, value in prompt.inputs.items() if key not in ("pixel_values", "image_grid_thw")}
    inputs |= {"pixel_values_videos": video.pixels, "video_grid_thw": torch.tensor([[count, 6, 8]])}
    inputs["mm_token_type_ids"] = 2 * (inputs["input_ids"] == VOCABULARY[token]).int()
    expected = [(0, index, [(3, 4)]) for index in range(count)]
    assert grids_of(traced(tiny.model, inputs)) == expected
    with scr.patch(tiny.model, num_sources=4, keep_traces=99) as patched, torch.no_grad():
        tiny.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert grids_of(patched.traces) == expected
    for method in ("purified", "uniform_smooth"):
        with scr.patch(tiny.model, method), torch.no_grad():
            assert (
                tiny.model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1]
                > prompt.inputs["input_ids"].shape[1]
            )


# --- Gemma 3 and PaliGemma ------------------------------------------------------------------------------------------


def test_a_window_that_has_passed_an_image_leaves_it_alone():
    """Where only sliding blocks are read."""
    tiny = TINY["gemma3"]()
    near, far = ("USER <image> is there a dog", [1]), ("USER <image> " + "is there a dog " * 12, [1])
    assert len(traced(tiny.model, tiny.prompt([near]).inputs, attention_layers=range(2, 3))) == 1
    (_, trace) = (None, traced(tiny.model, tiny.prompt([far]).inputs, attention_layers=range(2, 4))[0])
    assert trace.attention.any(), "the other block sees it"


def test_image_tokens_of_gemma_see_each_other_both_ways():
    """The first patch's keys and values depend on the last patch, in both passes."""
    tiny = TINY["gemma3"]()
    prompt = tiny.prompt(PROMPTS[:1])
    first = prompt.layout[0, 0][0][0]
    causal = {key: value for key, value in prompt.inputs.items() if key != "token_type_ids"}
    plain, one_way = (into_blocks(tiny.model, inputs) for inputs in (prompt.inputs, causal))
    assert (plain[1][0][0, first] - one_way[1][0][0, first]).abs().max() > 1e-3
    with scr.patch(tiny.model, num_sources=4, scale=1.0):
        seen = into_blocks(tiny.model, prompt.inputs)
    assert all(torch.equal(one, plain[1][0]) for one in seen[1])


def test_a_flash_kernel_that_is_not_causal_is_refused():
    tiny = TINY["paligemma"]()
    tiny.model.config.get_text_config()._attn_implementation_internal = "flash_attention_2"
    with (
        scr.patch(tiny.model, attention_layers=range(1)),
        pytest.raises(UnsupportedModelError, match=r"not causal.*'sdpa'"),
    ):
        tiny.model(**tiny.prompt().inputs)


# --- tiles and break tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["aya_vision", "mistral3", "llama4"])
@pytest.mark.parametrize(
    "text", ["<image> <image> dog", "<image> dog <image> is there a cat", "<image> <image> <image> a"]
)
def test_images_end_where_their_last_token_says(name, text):
    tiny = TINY[name]()
    seeds = [1, 2, 3][: text.count("<image>")]
    prompt = tiny.prompt([(text, seeds)])
    expected = [(row, image, grids) for (row, image), (_, grids) in prompt.layout.items()]
    assert grids_of(traced(tiny.model, prompt.inputs)) == expected


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (2, 2)])
def test_thin_pictures_of_mistral(shape):
    tiny = TINY["mistral3"]()
    pictures = [[tiny.picture(0, shape=shape), tiny.picture(0)]]
    prompt = tiny.prompt([("USER <image> dog <image> cat", [0, 0])], pictures=pictures)
    assert grids_of(traced(tiny.model, prompt.inputs)) == [(0, 0, [shape]), (0, 1, [tiny.shapes[0]])]


def test_what_pads_a_picture_of_mistral_is_not_touched():
    tiny = TINY["mistral3"]()
    inputs = tiny.prompt().inputs
    noisy = perturb_inputs(tiny.model, inputs, scr.perturb.GaussianNoise())["pixel_values"]
    for old, new, (height, width) in zip(inputs["pixel_values"], noisy, inputs["image_sizes"].tolist(), strict=True):
        assert (old[:, :height, :width] != new[:, :height, :width]).any(0).all()
        assert not new[:, height:].any()
        assert not new[:, :, width:].any()
    with pytest.raises(PromptLayoutError, match="image_sizes"):
        perturb_inputs(tiny.model, {"pixel_values": inputs["pixel_values"]}, scr.perturb.GaussianNoise())


def test_internvl_of_the_newest_release_has_qwen3_below():
    """InternVL3.5: norms on queries and keys, which the reading of attention comes after."""
    tiny = TINY["internvl"]()
    text = hf.Qwen3Config(**{**TEXT, "head_dim": 8}, num_hidden_layers=8)
    torch.manual_seed(0)
    models = []
    for attention in ("sdpa", "eager"):
        config = hf.InternVLConfig(**{**tiny.model.config.to_dict(), "text_config": text.to_dict()})
        config._attn_implementation = attention
        models.append(hf.InternVLForConditionalGeneration(config).eval())
    models[1].load_state_dict(models[0].state_dict())
    prompt, plans = tiny.prompt(), {}
    with scr.patch(models[0], num_sources=5, scale=1.5) as patched, torch.no_grad():
        logits = models[0](**prompt.inputs).logits
    visual = tiny.visual(prompt.inputs)
    expected = reference_logits(models[1], prompt.inputs, prompt.layout, visual, patched.config, plans)
    real = prompt.inputs["attention_mask"].bool()
    assert (logits - expected)[real].abs().max() < 2e-5
    assert [trace.sources.tolist() for trace in patched.traces] == [plan[0] for plan in plans.values()]


# --- Llama 4 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [29, 40])  # an image ends with the first one, or in it
def test_what_a_chunk_hides_counts_as_nothing(chunk, monkeypatch):
    monkeypatch.setattr(TINY["llama4"], "chunk", chunk)
    tiny, eager = TINY["llama4"](), TINY["llama4"](attention="eager")
    prompt, plans = tiny.prompt([("USER <image> " + "is there a dog " * 5, [2])]), {}
    assert prompt.layout[0, 0][0][-1] == 28
    with scr.patch(tiny.model, num_sources=4, scale=1.5, attention_layers=range(2, 4)) as patched, torch.no_grad():
        logits = tiny.model(**prompt.inputs).logits
    visual = tiny.visual(prompt.inputs)
    expected = reference_logits(eager.model, prompt.inputs, prompt.layout, visual, patched.config, plans)
    assert (logits - expected).abs().max() < 2e-5
    assert (patched.traces[0].attention - plans[0, 0][3]).abs().max() < 1e-6
    chunked = {"attention_layers": range(2, 3)}
    if chunk == 40:
        assert traced(tiny.model, prompt.inputs, **chunked)[0].attention.all()
        return
    with pytest.warns(UserWarning, match="no text attends to them at all"):
        assert not traced(tiny.model, prompt.inputs, **chunked)


def test_transformers_repeats_no_images_of_llama_4():
    """Unpatched: beams fail on their own. Where this one fails, `repeatable` can go from `TinyLlama4`."""
    tiny = TINY["llama4"](layers=2)
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        tiny.model.generate(**tiny.prompt(PROMPTS[:1]).inputs, num_beams=2, max_new_tokens=1)


# --- model types that a user maps -----------------------------------------------------------------------------------


def renamed(name, model_type="somebodys_vl"):
    made = TINY[name](layers=4)
    made.model.config.model_type = model_type
    return made


def test_a_model_of_another_name_is_patched_as_the_family_it_is_laid_out_as():
    known, tiny = TINY["qwen2_vl"](layers=4), renamed("qwen2_vl")
    inputs = tiny.prompt().inputs
    with pytest.raises(UnsupportedModelError, match=r"got 'somebodys_vl'.*family='qwen2_vl'"):
        scr.patch(tiny.model)
    expected = known.model(**inputs).logits
    for model, named in ((known.model, {}), (tiny.model, {"family": "qwen2_vl"})):
        with scr.patch(model, num_sources=4, scale=1.4, **named) as patched, torch.no_grad():
            edited = model(**inputs).logits
        assert len(patched.traces) == 3
        assert not torch.allclose(edited, expected, atol=1e-3)
        expected_edit = edited if not named else expected_edit
    assert torch.equal(edited, expected_edit)
    assert torch.equal(tiny.model(**inputs).logits, expected)
    assert find_family(tiny.model) is find_family(tiny.model.model) is FAMILIES["qwen2_vl"]
    with scr.patch(tiny.model, "vcd+dola"):  # remembered
        tiny.model.generate(**inputs, max_new_tokens=2, do_sample=False)
    with pytest.raises(UnsupportedModelError, match="somebodys_vl"):
        find_family(renamed("qwen2_vl").model)


def test_the_mapping_is_checked():
    with pytest.raises(UnsupportedModelError, match=r"unknown family: got 'qwen2_vk'.*'qwen2_vl'"):
        scr.patch(renamed("qwen2_vl").model, family="qwen2_vk")
    with pytest.raises(
        UnsupportedModelError, match=r"not laid out as its family: got 'somebodys_vl'.*without 'video_token_id'"
    ):
        scr.patch(renamed("llava").model, family="qwen2_vl")
    with pytest.raises(UnsupportedModelError, match=r"got 'llava' for 'qwen2_vl'; expected 'qwen2_vl'"):
        scr.patch(TINY["qwen2_vl"](layers=4).model, family="llava")
    map_family(TINY["qwen2_vl"](layers=4).model, "qwen2_vl")
    with pytest.raises(UnsupportedModelError, match="not a transformers model"):
        map_family(torch.nn.Linear(1, 1), "llava")
    with pytest.raises(UnsupportedModelError, match="cannot be patched"):
        scr.patch(renamed("llava", "mllama").model, family="llava")
    broken = renamed("llava")
    broken.model.config.vision_config = hf.SiglipVisionConfig(image_size=20, patch_size=4)
    with pytest.raises(UnsupportedModelError, match="siglip_vision_model"):
        scr.patch(broken.model, family="llava")
    with pytest.raises(UnsupportedModelError, match="somebodys_vl"):
        find_family(broken.model)
