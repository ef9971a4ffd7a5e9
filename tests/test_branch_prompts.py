"""What a branch reads in place of the prompt is what one would have typed for it, alone."""

import functools

import pytest
import torch
from tiny_families import PROMPTS, TINY, VOCABULARY, noise

import scr
from hooks import encode_images, prompt_positions
from scr.branches.prompts import with_instruction, without_images

pytestmark = pytest.mark.usefixtures("one_thread")
INSTRUCTION = [VOCABULARY[word] for word in "describe a cat in detail".split()]
QWEN = ("qwen2_vl", "qwen2_5_vl")
OF_TOKENS = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}
OPEN, CLOSE = VOCABULARY["<open>"], VOCABULARY["<close>"]


@functools.cache
def made(name):
    tiny = TINY[name](layers=4)
    if name == "chameleon":  # as its checkpoints have it
        tiny.model.config.vocabulary_map |= {"<racm3:break>": OPEN, "<eoss>": CLOSE}
    return tiny


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request):
    return made(request.param)


def framed_as_released(tiny, inputs):
    """InternVL's releases have the frame's ids right before the image token."""
    if "InternVL" in type(tiny).__name__:
        ids, image = inputs["input_ids"], VOCABULARY["<image>"]
        ids = ids.masked_fill(ids == OPEN, image - 2).masked_fill(ids == CLOSE, image - 1)
        inputs = {**inputs, "input_ids": ids}
    return inputs


def typed(text):
    return torch.tensor([[1, *[VOCABULARY[word] for word in text.split() if word != "<image>"]]])


@torch.no_grad()
def last_logits(model, inputs):
    """Of each row, at its last token; the rows are padded on the left."""
    return model(**inputs, position_ids=prompt_positions(model, inputs)).logits[:, -1]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_without_images_is_the_text_typed_by_hand(tiny, padding):
    inputs = framed_as_released(tiny, tiny.prompt(PROMPTS, padding).inputs)
    before = {name: value.clone() for name, value in inputs.items()}
    found = without_images(tiny.model, inputs)
    assert found.keys() <= OF_TOKENS
    logits = last_logits(tiny.model, found)
    for row, (text, _) in enumerate(PROMPTS):
        alone = typed(text)
        assert found["input_ids"][row, -alone.shape[1] :].tolist() == alone[0].tolist()
        assert int(found["attention_mask"][row].sum()) == alone.shape[1]
        expected = last_logits(tiny.model, {"input_ids": alone})[0]
        assert (logits[row] - expected).abs().max() < 1e-5
    assert found["input_ids"].shape[1] == max(typed(text).shape[1] for text, _ in PROMPTS)
    assert all(torch.equal(inputs[name], before[name]) for name in before)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_an_instruction_stands_after_the_last_image_and_its_frame(tiny, padding):
    inputs = framed_as_released(tiny, tiny.prompt(PROMPTS, padding).inputs)
    found = with_instruction(tiny.model, inputs, INSTRUCTION)
    logits = last_logits(tiny.model, found)
    for row, (text, seeds) in enumerate(PROMPTS):
        parts = text.rpartition("<image>")
        said = text if not seeds else f"{parts[0]}<image> describe a cat in detail{parts[2]}"
        alone = framed_as_released(tiny, tiny.prompt([(said, seeds)]).inputs)
        length = alone["input_ids"].shape[1]
        assert found["input_ids"][row, -length:].tolist() == alone["input_ids"][0].tolist()
        assert int(found["attention_mask"][row].sum()) == length
        assert (logits[row] - last_logits(tiny.model, alone)[0]).abs().max() < 1e-5
    pixels = [name for name in inputs if name not in OF_TOKENS]
    assert pixels
    assert all(found[name] is inputs[name] for name in pixels)


@pytest.mark.parametrize("name", QWEN)
def test_videos_are_taken_out_and_stay(name):
    tiny = made(name)
    video = tiny.picture(1, shape=(3, 4), frames=2, token="<video>")
    text = "USER : <image> is there a dog"
    prompt = tiny.prompt([(text, [1])], pictures=[[video]]).inputs
    inputs = {
        "video_grid_thw"
        if name == "image_grid_thw"
        else "pixel_values_videos"
        if name == "pixel_values"
        else name: value
        for name, value in prompt.items()
    }
    if name == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([1.0])
    found = without_images(tiny.model, inputs)
    assert found.keys() == {"input_ids", "attention_mask", "mm_token_type_ids"}
    assert torch.equal(found["input_ids"], typed(text))
    assert not found["mm_token_type_ids"].any()
    longer = with_instruction(tiny.model, inputs, INSTRUCTION)
    expected = tiny.prompt([("USER : <image> describe a cat in detail is there a dog", [1])], pictures=[[video]]).inputs
    for column in ("input_ids", "attention_mask", "mm_token_type_ids"):
        assert torch.equal(longer[column], expected[column]), column


def test_features_in_place_of_pixels_go_too(tiny):
    inputs = tiny.prompt().inputs
    encoded = encode_images(tiny.model, inputs)
    assert without_images(tiny.model, encoded).keys() == without_images(tiny.model, inputs).keys()


def test_a_row_is_what_it_is_alone(tiny):
    """Whatever stands in the other rows, or in masked places."""
    inputs = tiny.prompt().inputs
    found = without_images(tiny.model, inputs)
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, VOCABULARY["cat"])
    again = without_images(tiny.model, inputs)
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_what_no_config_tells_stays():
    tiny = made("internvl")
    inputs = tiny.prompt([("USER <image> dog", [1])]).inputs
    kept = without_images(tiny.model, inputs)["input_ids"][0].tolist()
    assert kept == [1, VOCABULARY["USER"], OPEN, CLOSE, VOCABULARY["dog"]]


def test_positions_and_missing_masks():
    tiny = made("llava")
    inputs = {**tiny.prompt(PROMPTS[:1]).inputs, "position_ids": torch.arange(99)[None]}
    del inputs["attention_mask"]
    for found in (without_images(tiny.model, inputs), with_instruction(tiny.model, inputs, INSTRUCTION)):
        assert "position_ids" not in found
        assert found["attention_mask"].all()
        assert found["attention_mask"].shape == found["input_ids"].shape


def test_a_masked_image_keeps_its_tokens_beside_its_pixels():
    tiny = made("llava")
    inputs = tiny.prompt(PROMPTS[:1]).inputs
    image = inputs["input_ids"] == VOCABULARY["<image>"]
    inputs["attention_mask"] = inputs["attention_mask"].masked_fill(image, 0)
    found = with_instruction(tiny.model, inputs, INSTRUCTION)
    assert int((found["input_ids"] == VOCABULARY["<image>"]).sum()) == int(image.sum())
    assert int(found["attention_mask"].sum()) == int(inputs["attention_mask"].sum()) + len(INSTRUCTION)
    last_logits(tiny.model, found)


@pytest.mark.parametrize("change", [without_images, functools.partial(with_instruction, tokens=INSTRUCTION)])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"input_ids": None, "inputs_embeds": noise(1, 1, 4, 32)}, "a prompt without ids.*Pass what the processor"),
        ({"inputs_embeds": noise(1, 1, 4, 32)}, "a prompt without ids.*Pass what the processor"),
        (
            {"attention_mask": torch.ones(1, 1, 4, 4)},
            r"got \(1, 1, 4, 4\); expected \(1, 38\).*Pass the attention mask",
        ),
        ({"attention_mask": {}}, "got dict; expected"),
    ],
)
def test_prompts_whose_words_cannot_be_changed(change, given, words):
    tiny = made("llava")
    with pytest.raises(scr.ConfigError, match=words):
        change(tiny.model, {**tiny.prompt(PROMPTS[:1]).inputs, **given})


def test_a_prompt_of_images_alone_has_no_words():
    tiny = made("llava")
    inputs = tiny.prompt([("<image>", [1])]).inputs
    inputs = {**inputs, "input_ids": inputs["input_ids"][:, 1:], "attention_mask": inputs["attention_mask"][:, 1:]}
    with pytest.raises(scr.ConfigError, match=r"a prompt without words: got row 0, .*Add the question"):
        without_images(tiny.model, inputs)
