"""What transformers' own processors make of pictures and text, and the images that a family finds in it."""

import pytest
import torch
import transformers as hf
from PIL import Image
from tiny_families import TINY
from tokenizers import Tokenizer, models, pre_tokenizers

import scr

pytestmark = pytest.mark.usefixtures("one_thread")


def picture(height, width):
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(height * width))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def tokenizer(specials):
    """Every other character is a token, so that a marker that is not special is many."""
    alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    base = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = hf.PreTrainedTokenizerFast(tokenizer_object=base, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    made.add_special_tokens({"additional_special_tokens": specials})
    made.padding_side = "left"
    return made


def found(model, inputs):
    """(row, image, grids) by a forward, and the same by `generate`."""
    calls = (lambda: model(**inputs), lambda: model.generate(**inputs, max_new_tokens=1, do_sample=False))
    seen = []
    for call in calls:
        with scr.patch(model, num_sources=4, keep_traces=99) as patched, torch.no_grad():
            call()
        seen.append([(trace.row, trace.image, [tuple(grid) for grid in trace.grids]) for trace in patched.traces])
    assert seen[0] == seen[1]
    return seen[0]


@pytest.mark.parametrize("tags", ["one token", "many tokens"])
def test_idefics3(tags):
    specials = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    if tags == "one token":
        specials += ["<global-img>", *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))]
    words = tokenizer(specials)
    splitting = hf.Idefics3ImageProcessorPil(size={"longest_edge": 160}, max_image_size={"longest_edge": 40})
    processor = hf.Idefics3Processor(splitting, words, image_seq_len=25)
    tiny = TINY["idefics3"](layers=4)
    tiny.model.resize_token_embeddings(len(words))
    image_token = words.convert_tokens_to_ids("<image>")
    tiny.model.config.image_token_id = tiny.model.model.image_token_id = image_token
    pictures = [[picture(64, 64)], [picture(30, 90), picture(200, 120), picture(10, 10)], [picture(50, 100)]]
    texts = ["<image>what", "<image><image> hi <image>\nthere", "a <image> \n\nb"]
    inputs = dict(processor(text=texts, images=pictures, padding=True, return_tensors="pt"))
    layout = splitting(pictures, return_row_col_info=True)
    expected = []
    for row, (rows, columns) in enumerate(zip(layout["rows"], layout["cols"], strict=True)):
        for image, (height, width) in enumerate(zip(rows, columns, strict=True)):
            expected.append((row, image, [(5, 5)] * (height * width + 1)))
    assert len(expected) == 5
    assert max(len(grids) for _, _, grids in expected) > 9
    assert found(tiny.model, inputs) == expected


@pytest.mark.parametrize("size", [(64, 64), (30, 90), (90, 30), (17, 400), (333, 251), (10, 10)])
def test_llava_next(size):
    tiny, words = TINY["llava_next"](layers=4), tokenizer(["<image>"])
    side = {"height": 20, "width": 20}
    tiling = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 20}, crop_size=side, image_grid_pinpoints=tiny.model.config.image_grid_pinpoints
    )
    processor = hf.LlavaNextProcessor(
        tiling, words, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    tiny.model.resize_token_embeddings(len(words))
    tiny.model.config.image_token_id = words.convert_tokens_to_ids("<image>")
    inputs = dict(
        processor(
            text=["a <image><image>?"], images=[picture(*size), picture(40, 50)], padding=True, return_tensors="pt"
        )
    )
    first, second = found(tiny.model, inputs)
    assert [first[:2], second[:2]] == [(0, 0), (0, 1)]
    tokens = 0
    for overview, (height, width) in (first[2], second[2]):
        assert overview == (5, 5)
        tokens += 25 + height * (width + 1)
    assert tokens == int((inputs["input_ids"] == tiny.model.config.image_token_id).sum())
    (_, (height, width)) = first[2]
    assert (height > width) == (size[0] > size[1]) or size[0] == size[1]
