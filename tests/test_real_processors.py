"""What transformers' own processors make of pictures and text, and the images that a family finds in it."""

import functools
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from PIL import Image
from tiny_families import TINY
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.video_utils import VideoMetadata

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


def ready(name, words, image_token, **ids):
    """A tiny model whose config has the tokenizer's ids."""
    tiny = TINY[name](layers=4)
    tiny.model.resize_token_embeddings(len(words))
    config = tiny.model.config
    for field, token in {"image_token_id": image_token, **ids}.items():
        setattr(config, field, words.convert_tokens_to_ids(token))
    return tiny


def test_gemma3_and_its_pan_and_scan():
    marks = {"image_token": "<soft>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    words = tokenizer(list(marks.values()))
    for name, token in marks.items():
        setattr(words, name, token)
        setattr(words, f"{name}_id", words.convert_tokens_to_ids(token))
    scanning = hf.Gemma3ImageProcessorPil(size={"height": 40, "width": 40})
    crops = {
        "do_pan_and_scan": True,
        "pan_and_scan_min_crop_size": 20,
        "pan_and_scan_max_num_crops": 4,
        "pan_and_scan_min_ratio_to_activate": 1.2,
    }
    processor = hf.Gemma3Processor(scanning, words, image_seq_length=25)
    tiny = ready("gemma3", words, "<soft>", boi_token_index="<boi>", eoi_token_index="<eoi>")
    pictures = [[picture(40, 120)], [picture(40, 40), picture(100, 40)]]
    texts = ["<boi> what", "<boi> <boi> hi"]
    inputs = dict(processor(text=texts, images=pictures, padding=True, return_tensors="pt", **crops))
    assert inputs["token_type_ids"].any()
    inputs.pop("num_crops", None)
    expected = [(0, image, [(5, 5)]) for image in range(4)] + [(1, image, [(5, 5)]) for image in range(1 + 4)]
    assert found(tiny.model, inputs) == expected
    text = scr.branches.prompts.without_images(tiny.model, inputs)["input_ids"]
    assert not torch.isin(text, torch.tensor([words.convert_tokens_to_ids(token) for token in marks.values()])).any()


def test_aya_vision():
    marks = [
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "<|IMG_LINE_BREAK|>",
        "TILE",
        "TILE_GLOBAL",
        "<image>",
    ]
    words = tokenizer(marks)
    tiling = hf.GotOcr2ImageProcessorPil(size={"height": 40, "width": 40}, crop_to_patches=True, max_patches=6)
    processor = hf.AyaVisionProcessor(
        tiling, words, patch_size=4, img_size=40, downsample_factor=2, image_token="<image>", tile_token="TILE"
    )
    tiny = ready("aya_vision", words, "<|IMG_PATCH|>")
    pictures = [[picture(40, 40), picture(40, 80)], [picture(90, 30)]]
    texts = ["<image><image> what", "a <image> hi"]
    inputs = dict(processor(text=texts, images=pictures, padding=True, return_tensors="pt"))
    inputs.pop("num_patches", None)
    counts = [int(count) for count in tiling([one for row in pictures for one in row])["num_patches"]]
    assert max(counts) > 2
    places = [(0, 0), (0, 1), (1, 0)]
    assert found(tiny.model, inputs) == [
        (*place, [(5, 5)] * count) for place, count in zip(places, counts, strict=True)
    ]
    text = scr.branches.prompts.without_images(tiny.model, inputs)["input_ids"]
    assert not torch.isin(text, torch.tensor(words.convert_tokens_to_ids(marks))).any()


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_paligemma():
    words = tokenizer(["<image>"])
    resizing = hf.SiglipImageProcessorPil(size={"height": 20, "width": 20})
    resizing.image_seq_length = 25
    processor = hf.PaliGemmaProcessor(resizing, words)
    tiny = ready("paligemma", words, "<image>")
    inputs = dict(
        processor(
            text=["<image>what", "<image><image>hi"],
            images=[[picture(30, 50)], [picture(20, 20), picture(64, 33)]],
            padding=True,
            return_tensors="pt",
        )
    )
    assert found(tiny.model, inputs) == [(0, 0, [(5, 5)]), (1, 0, [(5, 5)]), (1, 1, [(5, 5)])]


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5", "glm4v"])
def test_pictures_of_qwen3_vl_and_glm(name):
    """Their image processors; video processors need torchvision."""
    tiny = TINY[name](layers=4)
    kind = hf.Glm4vImageProcessorPil if name == "glm4v" else hf.Qwen2VLImageProcessorPil
    sizes = {"size": {"shortest_edge": 4096, "longest_edge": 2**16}} if name == "glm4v" else {}
    cutting = kind(patch_size=4, merge_size=2, temporal_patch_size=2, **sizes)
    made = cutting([picture(48, 80), picture(64, 64)], return_tensors="pt")
    grids = [(int(height) // 2, int(width) // 2) for _, height, width in made["image_grid_thw"]]
    pictures = [
        [type(tiny.picture(0))([6, *[4] * (h * w), 7], list(range(1, h * w + 1)), [(h, w)], made["pixel_values"])]
        for h, w in grids
    ]
    prompt = tiny.prompt(
        [("USER : <image> dog", [0]), ("<image> a cat", [0])],
        pictures=[
            [type(one)(one.tokens, one.patches, one.grids, one.pixels, {"grid": grid})]
            for (one,), grid in zip(pictures, made["image_grid_thw"], strict=True)
        ],
    )
    inputs = {**prompt.inputs, "pixel_values": made["pixel_values"], "image_grid_thw": made["image_grid_thw"]}
    assert found(tiny.model, inputs) == [(row, 0, [grid]) for row, grid in enumerate(grids)]


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5"])
@pytest.mark.parametrize("frames", [[0, 9, 31, 40], [0, 12, 24]])  # of the last, the processor repeats one
def test_timestamps_of_qwen3_vl_part_the_time_steps(name, frames):
    """What its processor writes for a video; its video processor needs torchvision."""
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words, sizes = tokenizer(marks), SimpleNamespace(merge_size=2, temporal_patch_size=2)
    tiny = ready(name, words, "<|image_pad|>", video_token_id="<|video_pad|>")
    tiny.model.config.vision_start_token_id, tiny.model.config.vision_end_token_id = words.convert_tokens_to_ids(
        marks[:2]
    )
    writing = SimpleNamespace(vision_start_token=marks[0], vision_end_token=marks[1], video_token=marks[3])
    writing.video_processor, kind = sizes, hf.Qwen3VLProcessor
    writing._calculate_timestamps = functools.partial(kind._calculate_timestamps, writing)
    grids = torch.tensor([[2, 6, 8], [2, 8, 4]])
    metadata = [VideoMetadata(total_num_frames=48, fps=24.0, frames_indices=list(frames)) for _ in grids]
    given = {"video_grid_thw": grids, "video_metadata": metadata}
    first, second = (kind.replace_video_token(writing, given, index) for index in range(2))
    assert first.startswith(f"<{frames[1] / 48:.1f} seconds><|vision_start|><|video_pad|>")
    inputs = dict(words(f"a {first} b {second} what", return_tensors="pt"))
    inputs.pop("token_type_ids", None)
    types = 2 * (inputs["input_ids"] == tiny.model.config.video_token_id).int()
    patches = torch.randn(int(grids.prod(-1).sum()), 3 * 2 * 4**2, generator=torch.Generator().manual_seed(1))
    inputs |= {"mm_token_type_ids": types, "pixel_values_videos": patches, "video_grid_thw": grids}
    shapes = [(3, 4), (3, 4), (4, 2), (4, 2)]
    assert found(tiny.model, inputs) == [(0, index, [shape]) for index, shape in enumerate(shapes)]


@pytest.mark.parametrize("shapes", [[(1, 1)], [(2, 1), (1, 1)], [(1, 2)], [(2, 2), (1, 3)]])
def test_llama4_writes_its_tiles(shapes):
    """What its processor writes for so many rows and columns of tiles; the image processor needs torchvision."""
    marks = [
        "<|image_start|>",
        "<|image_end|>",
        "<|image|>",
        "<|patch|>",
        "<|tile_x_separator|>",
        "<|tile_y_separator|>",
    ]
    words, tiny = tokenizer(marks), TINY["llama4"](layers=4)
    tiny.model.resize_token_embeddings(len(words))
    tiny.model.config.image_token_index = words.convert_tokens_to_ids("<|patch|>")
    written = [hf.Llama4Processor._prompt_split_image(None, shape, 25) for shape in shapes]
    inputs = dict(words(f"<s>a {' b'.join(written)} what", return_tensors="pt"))
    inputs.pop("token_type_ids", None)
    counts = [rows * columns + (rows * columns > 1) for rows, columns in shapes]
    side = 2 * 5 * 4
    inputs["pixel_values"] = torch.randn(sum(counts), 3, side, side, generator=torch.Generator().manual_seed(1))
    assert found(tiny.model, inputs) == [(0, image, [(5, 5)] * count) for image, count in enumerate(counts)]
    text = scr.branches.prompts.without_images(tiny.model, inputs)["input_ids"][0]
    assert text.tolist() == words(f"<s>a {' b' * (len(shapes) - 1)} what")["input_ids"]
