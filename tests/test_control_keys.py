"""What keys the random controls: an image gets its own draw alone, in any batch and in any way it comes."""

import pytest
import torch
from tiny_families import PROMPTS, TINY, VOCABULARY, TinyLlama4

import scr
from hooks import encode_images, image_digest, pixel_digests

pytestmark = pytest.mark.usefixtures("one_thread")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request):
    return TINY[request.param](layers=4)


def in_dtype(tiny, inputs, dtype):
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def sources(model, run, **fields):
    """(row, image) → the sources drawn."""
    with scr.patch(model, "uniform_smooth", num_sources=4, keep_traces=99, **fields) as patched, torch.no_grad():
        run()
    return {(trace.row, trace.image): trace.sources.tolist() for trace in patched.traces}


@pytest.mark.parametrize("dtype", DTYPES)
def test_alone_in_a_batch_by_generate_with_beams_and_without_a_cache(tiny, dtype):
    model = tiny.in_dtype(DTYPES[dtype])
    batches = [tiny.prompt(PROMPTS), tiny.prompt(PROMPTS, padding="right"), tiny.prompt(PROMPTS[::-1])]
    whole, right, mirrored = (in_dtype(tiny, prompt.inputs, DTYPES[dtype]) for prompt in batches)
    expected = sources(model, lambda: model(**whole))
    assert set(expected) == {(0, 0), (1, 0), (1, 1)}
    assert len({tuple(drawn) for drawn in expected.values()}) == 3, "each image has its own"
    assert sources(model, lambda: model(**right)) == expected
    turned = sources(model, lambda: model(**mirrored))
    assert {(2 - row, image): drawn for (row, image), drawn in turned.items()} == expected
    for row in (0, 1):
        one = in_dtype(tiny, tiny.prompt(PROMPTS[row : row + 1]).inputs, DTYPES[dtype])
        alone = sources(model, lambda one=one: model(**one))
        assert alone == {(0, image): drawn for (its, image), drawn in expected.items() if its == row}
    banned = [VOCABULARY["<image>"], VOCABULARY["<video>"]]
    options = {"max_new_tokens": 2, "do_sample": False, "suppress_tokens": banned}
    ways = [{}, {"use_cache": False}]
    if tiny.repeatable == PROMPTS:
        ways += [{"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}]
    for way in ways:
        assert sources(model, lambda way=way: model.generate(**whole, **{**options, **way})) == expected


def test_the_image_and_the_seed_decide_and_the_words_do_not(tiny):
    def drawn(text, image, **fields):
        inputs = tiny.prompt([(text, [image])]).inputs
        return sources(tiny.model, lambda: tiny.model(**inputs), **fields)[0, 0]

    one = drawn("USER <image> is there a dog", 1)
    assert drawn("<image> describe", 1) == one
    assert drawn("USER <image> is there a dog", 5) != one
    assert drawn("USER <image> is there a dog", 1, seed=1) != one


def test_embeddings_in_place_of_ids(tiny):
    inputs = tiny.prompt(PROMPTS).inputs
    if "image_grid_thw" in inputs:
        pytest.skip("without ids there is no M-RoPE")
    if isinstance(tiny, TinyLlama4):
        pytest.skip("it takes embeddings with features alone")
    expected = sources(tiny.model, lambda: tiny.model(**inputs))
    embeds = tiny.model.get_input_embeddings()(inputs.pop("input_ids")).detach()
    assert sources(tiny.model, lambda: tiny.model(**inputs, inputs_embeds=embeds)) == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_in_place_of_pixels_are_keyed_by_the_ids(tiny, dtype):
    """Encoded in a batch or alone, given to `forward` or to `generate`."""
    model = tiny.in_dtype(DTYPES[dtype])

    def encoded(prompts):
        return encode_images(model, in_dtype(tiny, tiny.prompt(prompts).inputs, DTYPES[dtype]))

    def by_generate(prompts, **options):
        return sources(model, lambda: model.generate(**encoded(prompts), max_new_tokens=1, do_sample=False, **options))

    expected = sources(model, lambda: model(**encoded(PROMPTS)))
    assert set(expected) == {(0, 0), (1, 0), (1, 1)}
    assert len({tuple(drawn) for drawn in expected.values()}) == 3
    assert by_generate(PROMPTS) == expected
    if tiny.repeatable == PROMPTS:
        assert by_generate(PROMPTS, num_beams=2) == expected
    for row in (0, 1):
        own = {(0, image): drawn for (its, image), drawn in expected.items() if its == row}
        assert sources(model, lambda row=row: model(**encoded(PROMPTS[row : row + 1]))) == own
        assert by_generate(PROMPTS[row : row + 1]) == own


def test_noise_of_the_noise_control_is_keyed_alike(tiny):
    inputs = tiny.prompt(PROMPTS).inputs
    with scr.patch(tiny.model, "noise_control", num_sources=4, scale=1.4), torch.no_grad():
        batch = tiny.model(**inputs).logits
        for row in (0, 1):
            alone = tiny.model(**tiny.prompt(PROMPTS[row : row + 1]).inputs).logits[0]
            real = inputs["attention_mask"][row].bool()
            finite = alone > torch.finfo(alone.dtype).min
            assert (batch[row][real] - alone)[finite].abs().max() < 1e-4


def test_videos_and_pictures_are_told_apart():
    tiny = TINY["qwen2_vl"](layers=4)
    still, moving = tiny.picture(0), tiny.picture(1, shape=(4, 4), frames=2, token="<video>")
    found = []
    for order in ([still, moving], [moving, still]):
        prompt = tiny.prompt([("USER <image> is there <image> dog", [0, 1])], pictures=[order])
        inputs = {**prompt.inputs, **tiny.batch([[still]])}
        inputs |= {"pixel_values_videos": moving.pixels, "video_grid_thw": moving.extra["grid"][None]}
        drawn = sources(tiny.model, lambda inputs=inputs: tiny.model(**inputs))
        found.append([drawn[0, 0], drawn[0, 1]])
        assert sources(tiny.model, lambda inputs=inputs: tiny.model.generate(**inputs, max_new_tokens=1)) == drawn
    assert found[0] == found[1][::-1]
    lone = tiny.prompt([("USER <image> is there", [0])], pictures=[[still]])
    assert sources(tiny.model, lambda: tiny.model(**lone.inputs))[0, 0] == found[0][0]


def test_digests_of_pixels_are_those_of_each_picture():
    tiny = TINY["llava"](layers=4)
    inputs = tiny.prompt(PROMPTS).inputs
    assert pixel_digests(tiny.model, inputs, "image") == [image_digest(tiny.picture(seed).pixels) for seed in (1, 2, 3)]
    assert pixel_digests(tiny.model, inputs, "video") == []
