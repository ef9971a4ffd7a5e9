"""Prompts of odd shape: what the unpatched model takes runs under a patch too, and without sources nothing changes."""

import functools
import warnings

import pytest
import torch
from tiny_families import PIXELS, SIDE, TINY, VOCABULARY, noise

import scr

pytestmark = pytest.mark.usefixtures("one_thread")
TILED = ("llava_next", "llava_onevision")
QWEN = ("qwen2_vl", "qwen2_5_vl")
WITH_VIDEO = ("llava_onevision", *QWEN)
GREEDY = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}


@functools.cache
def made(name, seed=0):
    tiny = TINY[name](layers=4, seed=seed)
    tiny.name = name
    return tiny


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request):
    return made(request.param)


def forward(tiny, inputs):
    return [tiny.model(**inputs).logits]


def generate(tiny, inputs, **options):
    torch.manual_seed(0)
    out = tiny.model.generate(**inputs, **{**GREEDY, **options})
    return [out.sequences, *out.logits]


@torch.no_grad()
def assert_left_alone(tiny, inputs, run=forward):
    """Bit-equal at λ = 1, and at any λ where no image has a source."""
    plain = run(tiny, inputs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "1 image|2 image|3 image")  # no text after them
        for scale in (1.0, 1.5):
            with scr.patch(tiny.model, scale=scale, num_sources=3, keep_traces=99) as patched:
                found = run(tiny, inputs)
            if scale == 1 or not any(len(trace.sources) for trace in patched.traces):
                assert all(torch.equal(*pair) for pair in zip(found, plain, strict=True))
    return patched.traces


def grids_of(traces):
    return [[tuple(grid) for grid in trace.grids] for trace in traces]


@pytest.mark.parametrize("name", WITH_VIDEO)
@pytest.mark.parametrize("run", [forward, generate])
def test_a_video_token_without_a_video_is_text(name, run):
    tiny = made(name)
    prompt = tiny.prompt([("USER <image> is there a dog", [1])])
    inputs = dict(prompt.inputs)
    stray = torch.tensor([[VOCABULARY["<video>"], VOCABULARY["dog"]]])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], stray], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 2))
    traces = assert_left_alone(tiny, inputs, run)
    assert grids_of(traces) == [prompt.layout[0, 0][1]]
    for method in ("vcd", "dola"):
        with scr.patch(tiny.model, method):
            generate(tiny, inputs)


def test_an_image_token_without_an_image_is_text_beside_a_video():
    tiny = made("qwen2_vl")
    video = tiny.picture(1, shape=(3, 3), frames=2, token="<video>")
    prompt = tiny.prompt([("USER <image> is there a dog", [0])], pictures=[[video]])
    inputs = {name: value for name, value in prompt.inputs.items() if name not in ("pixel_values", "image_grid_thw")}
    inputs |= {"pixel_values_videos": video.pixels, "video_grid_thw": video.extra["grid"][None]}
    inputs["input_ids"][0, -1] = VOCABULARY["<image>"]
    assert grids_of(assert_left_alone(tiny, inputs)) == [[(3, 3), (3, 3)]]


@pytest.mark.parametrize("name", QWEN)
@pytest.mark.parametrize(
    "shapes",
    [[(1, 1)], [(1, 1), (5, 4)], [(5, 4), (1, 1)], [(1, 1), (1, 1)], [(1, 7)], [(7, 1)], [(2, 2)], [(1, 2), (2, 1)]],
    ids=str,
)
def test_small_and_thin_pictures(name, shapes):
    tiny = made(name)
    pictures = [tiny.picture(index, shape=shape) for index, shape in enumerate(shapes)]
    text = "USER " + "<image> " * len(shapes) + "is there a dog"
    prompt = tiny.prompt([(text, list(range(len(shapes))))], pictures=[pictures])
    for run in (forward, generate):
        traces = assert_left_alone(tiny, prompt.inputs, run)
        assert grids_of(traces) == [[shape] for shape in shapes]
        assert [bool(len(trace.sources)) for trace in traces] == [min(shape) > 2 for shape in shapes]


@pytest.mark.parametrize("name", QWEN)
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 3)])
@pytest.mark.parametrize("beside", [None, (1, 1), (5, 4)])
def test_videos_of_small_frames_alone_and_next_to_a_picture(name, shape, beside):
    tiny = made(name)
    video = tiny.picture(1, shape=shape, frames=3, token="<video>")
    pictures = [video] if beside is None else [tiny.picture(0, shape=beside), video]
    text = "USER " + "<image> " * len(pictures) + "is there a dog"
    prompt = tiny.prompt([(text, list(range(len(pictures))))], pictures=[pictures])
    inputs = {name: value for name, value in prompt.inputs.items() if name not in ("pixel_values", "image_grid_thw")}
    inputs |= {"pixel_values_videos": video.pixels, "video_grid_thw": video.extra["grid"][None]}
    if beside is not None:
        inputs |= tiny.batch([pictures[:1]])
    assert grids_of(assert_left_alone(tiny, inputs)) == [grids for _, grids in prompt.layout.values()]


@pytest.mark.parametrize("name", QWEN)
def test_positions_that_are_not_m_rope(name):
    """A grid of more than one patch is refused; a single patch is one wherever it lies."""
    tiny = made(name)
    for shape in ((5, 4), (1, 1)):
        prompt = tiny.prompt([("USER <image> is there", [1])], pictures=[[tiny.picture(1, shape=shape)]])
        inputs = {**prompt.inputs, "position_ids": torch.arange(prompt.inputs["input_ids"].shape[1])[None]}
        for run in (forward, generate):
            if shape == (1, 1):
                assert_left_alone(tiny, inputs, run)
            else:
                with scr.patch(tiny.model), pytest.raises(scr.PromptLayoutError, match="no three-dimensional"):
                    run(tiny, inputs)


@pytest.mark.parametrize(
    "text", ["<image> is there", "USER <image>", "<image>", "<image> <image>", "USER <image> <image> is"]
)
def test_images_first_last_alone_and_side_by_side(tiny, text):
    assert_left_alone(tiny, tiny.prompt([(text, [1, 2][: text.count("<image>")])]).inputs)


@pytest.mark.parametrize("seeds", [[1], [1, 1, 3], [2, 1]])
@pytest.mark.parametrize("padding", [None, "left", "right"])
def test_a_prompt_that_ends_with_its_image_leaves_that_image_alone(tiny, seeds, padding):
    """And edits those before, as they are edited where the prompt goes on."""
    text = "is there <image> dog <image> cat <image>".split()[: 2 * len(seeds) + 1]
    whole = tiny.prompt([(" ".join(text), seeds)])
    end = int(tiny.visual(whole.inputs)[0].nonzero().max()) + 1
    cut = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"} & set(whole.inputs)
    inputs = {name: value[:, :end] if name in cut else value for name, value in whole.inputs.items()}
    if padding is not None:
        sides = (3, 0) if padding == "left" else (0, 3)
        inputs |= {name: torch.nn.functional.pad(inputs[name], sides) for name in cut}
    expected = [grids for _, grids in whole.layout.values()][: len(seeds) - 1]
    if tiny.ended:
        if padding != "right":
            with scr.patch(tiny.model), pytest.raises(scr.PromptLayoutError, match="cut off inside an image"):
                tiny.model(**inputs)
        return
    assert_left_alone(tiny, inputs)
    with (
        scr.patch(tiny.model, num_sources=3, scale=1.5) as patched,
        torch.no_grad(),
        pytest.warns(UserWarning, match=r"^1 image\(s\) left as they are: no text comes after them"),
    ):
        tiny.model(**inputs)
    assert grids_of(patched.traces) == expected
    assert [trace.image for trace in patched.traces] == list(range(len(seeds) - 1))


@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize("size", [(2, 80), (80, 2), (1, 60), (60, 1), (1, 300), (300, 1), (1, 1)])
def test_pictures_too_thin_for_a_patch_of_their_own(name, size):
    tiny = TINY[name](layers=4)
    tiny.sizes = (size,)
    for text in ("USER <image> is there", "USER <image>", "<image> <image> is"):
        prompt = tiny.prompt([(text, [0] * text.count("<image>"))])
        traces = assert_left_alone(tiny, prompt.inputs)
        assert all(tuple(trace.grids[0]) == (SIDE, SIDE) for trace in traces)


def as_transformers_tests_them(tiny):
    """Images by hand, as transformers' own tests make prompts: without markers, up to the end, or of one patch."""
    if tiny.name in QWEN:
        ids = torch.randint(11, 40, (2, 12), generator=torch.Generator().manual_seed(0))
        ids[:, 4], ids[:, 5] = VOCABULARY["<open>"], VOCABULARY["<image>"]
        pixels, more = noise(3, 8, 3 * 2 * PIXELS**2), {"image_grid_thw": torch.tensor([[1, 2, 2]] * 2)}
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, **more} | (
            tiny.token_types(ids)
        )
    ids = torch.full((2, 2 * SIDE**2), VOCABULARY["<image>"])
    side = 2 * SIDE * PIXELS
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": noise(3, 2, 2, 3, side, side)}


WAYS = {
    "greedy": {},
    "sample": {"do_sample": True},
    "beams": {"num_beams": 2},
    "beam sample": {"num_beams": 2, "do_sample": True, "num_return_sequences": 2},
    "several": {"do_sample": True, "num_return_sequences": 2},
    "no cache": {"use_cache": False},
    "static": {"cache_implementation": "static", "disable_compile": True},
    "hidden states": {"output_hidden_states": True},
    "scores": {"output_scores": True, "repetition_penalty": 1.3},
    "lookup": {"prompt_lookup_num_tokens": 2},
    "assisted": {"assistant_model": True},
    "assisted sampling": {"assistant_model": True, "do_sample": True},
}


@pytest.mark.parametrize("name", [*QWEN, "idefics3", "smolvlm"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_generating_on_prompts_without_sources(name, way):
    """None raises, and none changes a bit: what transformers' own generation tests ask of the models."""
    tiny = made(name)
    if way == "lookup" and name not in QWEN:
        pytest.skip("it proposes the prompt's own tokens, here image tokens, which the model itself refuses")
    inputs, options = as_transformers_tests_them(tiny), dict(WAYS[way])
    if options.pop("assistant_model", None):
        options["assistant_model"] = made(name, 5).model
    if way in ("lookup", "assisted", "assisted sampling"):  # one row at a time
        pixels = inputs["pixel_values"]
        inputs = {key: value[:1] for key, value in inputs.items()} | {"pixel_values": pixels[: len(pixels) // 2]}
    assert_left_alone(tiny, inputs, lambda tiny, inputs: generate(tiny, inputs, **options))


@pytest.mark.parametrize("name", [*QWEN, "idefics3", "smolvlm"])
def test_embeddings_and_later_turns_on_prompts_without_sources(name):
    tiny = made(name)
    inputs = as_transformers_tests_them(tiny)
    embeds = tiny.model.get_input_embeddings()(inputs["input_ids"]).detach()
    assert_left_alone(tiny, {**inputs, "inputs_embeds": embeds}, generate)
    if name not in QWEN:
        rest = {key: value for key, value in inputs.items() if key != "input_ids"}
        assert_left_alone(tiny, {**rest, "inputs_embeds": embeds}, generate)

    def two_turns(tiny, inputs):
        banned = [VOCABULARY["<image>"], VOCABULARY["<video>"]]
        first = tiny.model.generate(**inputs, **GREEDY, suppress_tokens=banned)
        turn = {"input_ids": first.sequences, "attention_mask": torch.ones_like(first.sequences)}
        for types in {"mm_token_type_ids", "token_type_ids"} & set(inputs):
            turn[types] = torch.nn.functional.pad(inputs[types], (0, 3))
        return generate(tiny, turn, past_key_values=first.past_key_values)

    assert_left_alone(tiny, inputs, two_turns)
