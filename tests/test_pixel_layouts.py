"""Corrupted images on every family's pixel layout: by hand, and by the families' own processors."""

import pytest
import torch
from PIL import Image
from tiny_families import PROMPTS, TINY
from transformers import Idefics3ImageProcessorPil, LlavaNextImageProcessorPil, Qwen2VLImageProcessorPil

from hooks import PromptLayoutError, find_family
from scr import ConfigError
from scr.perturb import (
    PERTURBATIONS,
    BlankImage,
    FeatureNoise,
    GaussianNoise,
    get_perturbation,
    image_digests,
    noise_generator,
    perturb_features,
    perturb_inputs,
)

pytestmark = pytest.mark.usefixtures("one_thread")

OF_PIXELS = [name for name, kind in PERTURBATIONS.items() if kind.acts_on == "pixels"]
DRAWN = ["gaussian", "diffusion", "mask"]
SMALL = {"mask": {"patch": 4}, "blur": {"sigma": 1.5}}  # for pictures of 20 pixels
IDENTITIES = {"gaussian": {"image_keep": 1}, "mask": {"share": 0}, "blur": {"sigma": 0}}


@pytest.fixture(scope="module", params=TINY)
def tiny(request):
    return TINY[request.param]()


def small(name, **settings):
    return get_perturbation(name, **{**SMALL.get(name, {}), **settings})


def images_of(model, inputs, name="pixel_values"):
    """What `map_pixels` shows of every image."""
    seen = []
    find_family(model).map_pixels(model, inputs, lambda image: seen.append(image.clone()) or image, name)
    return seen


def features_of(model, inputs):
    wanted = ("pixel_values", "image_sizes", "image_grid_thw", "pixel_attention_mask")
    with torch.no_grad():
        arguments = {name: inputs[name] for name in wanted if name in inputs}
        encoded = model.get_image_features(**arguments, return_dict=True)
        return getattr(encoded, find_family(model).features)


def alone(tiny, *seeds):
    return tiny.prompt([(" ".join(["<image>"] * len(seeds)), list(seeds))]).inputs


def apply(perturbation, image, digest="an image"):
    return perturbation.apply(image, noise_generator(perturbation.seed, digest))


def picture(height, width, seed=0):
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


# --- every family ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_PIXELS)
def test_the_model_runs_on_inputs_of_the_same_layout(tiny, name):
    inputs = tiny.prompt().inputs
    before = {key: value.clone() for key, value in inputs.items()}
    noisy = perturb_inputs(tiny.model, inputs, small(name))
    assert list(noisy) == list(inputs)
    for key, value in inputs.items():
        assert torch.equal(value, before[key]), "what was given stays as it was"
        assert noisy[key] is value or key == "pixel_values"
    pixels, clean = noisy["pixel_values"], inputs["pixel_values"]
    assert (pixels.shape, pixels.dtype) == (clean.shape, clean.dtype)
    assert not torch.equal(pixels, clean)
    shapes = [part.shape for part in features_of(tiny.model, inputs)]
    assert [part.shape for part in features_of(tiny.model, noisy)] == shapes, "no image is lost"
    with torch.no_grad():
        assert tiny.model(**noisy).logits.isfinite().all()


@pytest.mark.parametrize("name", OF_PIXELS)
def test_padding_stays_zero(tiny, name):
    inputs = tiny.prompt().inputs
    clean, noisy = inputs["pixel_values"], perturb_inputs(tiny.model, inputs, small(name))["pixel_values"]
    if clean.ndim != 5:
        assert (clean.flatten(1) != 0).any(1).all(), "a layout without padding"
        return
    padding = (clean == 0).flatten(2).all(-1)
    assert padding.any(), "the batch shows nothing without"
    assert (noisy[padding] == 0).all()
    if name != "blank":
        assert (noisy[~padding].flatten(1) != 0).any(1).all()


@pytest.mark.parametrize("name", DRAWN)
def test_an_image_gets_the_same_noise_alone_and_in_any_batch(tiny, name):
    perturbation = small(name, seed=3)
    together = perturb_inputs(tiny.model, tiny.prompt().inputs, perturbation)
    mirrored = perturb_inputs(tiny.model, tiny.prompt(PROMPTS[::-1], padding="right").inputs, perturbation)
    singles = {
        seed: images_of(tiny.model, perturb_inputs(tiny.model, alone(tiny, seed), perturbation)) for seed in (1, 2, 3)
    }
    torch.random.manual_seed(5)
    for inputs, order in ((together, (1, 2, 3)), (mirrored, (2, 3, 1))):
        expected = [image for seed in order for image in singles[seed]]
        for image, single in zip(images_of(tiny.model, inputs), expected, strict=True):
            assert torch.equal(image, single)


@pytest.mark.parametrize("name", DRAWN)
def test_another_seed_or_another_image_gets_other_noise(tiny, name):
    inputs = alone(tiny, 1)
    state = torch.random.get_rng_state()
    first, again, other = (perturb_inputs(tiny.model, inputs, small(name, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state), "the global seed has no part"
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert not torch.equal(first["pixel_values"], other["pixel_values"])
    # Two images that differ in one number: apart from it they differ by their noise.
    nudged = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
    nudged["pixel_values"].view(-1)[0] += 1e-3
    difference = perturb_inputs(tiny.model, nudged, small(name))["pixel_values"] - first["pixel_values"]
    assert difference.abs().mean() > 0.1


@pytest.mark.parametrize("name", ["gaussian", "mask", "blur"])
def test_settings_that_change_nothing_change_no_bit(tiny, name):
    for inputs in (
        tiny.prompt().inputs,
        {**tiny.prompt().inputs, "pixel_values": tiny.prompt().inputs["pixel_values"].bfloat16()},
    ):
        noisy = perturb_inputs(tiny.model, inputs, get_perturbation(name, **IDENTITIES[name]))
        assert torch.equal(noisy["pixel_values"], inputs["pixel_values"])
        assert noisy["pixel_values"].dtype == inputs["pixel_values"].dtype


def test_blank_leaves_nothing_that_a_model_could_see(tiny):
    inputs = tiny.prompt().inputs
    noisy = perturb_inputs(tiny.model, inputs, BlankImage())["pixel_values"]
    assert noisy.abs().max() <= 2**-14
    for dtype in (torch.float16, torch.bfloat16):
        rounded = {**inputs, "pixel_values": noisy.to(dtype).float()}
        shapes = [part.shape for part in features_of(tiny.model, inputs)]
        assert [part.shape for part in features_of(tiny.model, rounded)] == shapes, "nor is an image lost by rounding"


def test_text_alone_passes_through(tiny):
    inputs = tiny.without_image(tiny.prompt([PROMPTS[2]]).inputs)
    noisy = perturb_inputs(tiny.model, inputs, GaussianNoise())
    assert all(noisy[key] is value for key, value in inputs.items())
    assert image_digests(tiny.model, inputs) == []


def test_pixels_in_another_layout_are_refused(tiny):
    inputs = tiny.prompt().inputs
    with pytest.raises(PromptLayoutError, match=r"pixel_values are not in .* got shape \(2, 2\)"):
        perturb_inputs(tiny.model, {**inputs, "pixel_values": torch.zeros(2, 2)}, GaussianNoise())


# --- features -------------------------------------------------------------------------------------------------------


def test_features_are_corrupted_image_by_image(tiny):
    inputs = tiny.prompt().inputs
    clean = features_of(tiny.model, inputs)
    before = [part.clone() for part in clean]
    noise = FeatureNoise(image_keep=0.3)
    noisy = perturb_features(tiny.model, inputs, clean, noise)
    assert type(noisy) is type(clean)
    assert all(torch.equal(part, old) for part, old in zip(clean, before, strict=True))
    assert [part.shape for part in noisy] == [part.shape for part in clean]
    # Alone, each image has the same noise; its features may differ in the last digits.
    singles = []
    for seed in (1, 2, 3):
        single = alone(tiny, seed)
        singles += perturb_features(tiny.model, single, features_of(tiny.model, single), noise)
    assert torch.allclose(torch.cat([*noisy]).flatten(0, -2), torch.cat(singles).flatten(0, -2), atol=1e-4)
    same = perturb_features(tiny.model, inputs, clean, FeatureNoise(image_keep=1))
    assert all(torch.equal(part, old) for part, old in zip(same, before, strict=True))
    other = perturb_features(tiny.model, inputs, clean, FeatureNoise(seed=1))
    assert all(not torch.equal(part, old) for part, old in zip(other, noisy, strict=True) if len(part))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_newline_features_are_left_alone(name, autocast):
    tiny = TINY[name]()
    inputs = tiny.prompt().inputs
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        clean = features_of(tiny.model, inputs)
    newline = tiny.model.model.image_newline.to(clean[0].dtype)
    clean = [part.float() for part in clean]
    for part, old in zip(perturb_features(tiny.model, inputs, clean, FeatureNoise()), clean, strict=True):
        ends = (old == newline).all(-1)
        assert ends.any()
        assert torch.equal((part == newline).all(-1), ends)
        assert (part[~ends] != old[~ends]).any(-1).all()


def test_rows_of_idefics3_may_have_any_number_of_tiles():
    tiny = TINY["idefics3"]()
    inputs = tiny.prompt([PROMPTS[1], PROMPTS[2]]).inputs  # as many rows as one of them has images
    clean = features_of(tiny.model, inputs)
    noisy = perturb_features(tiny.model, inputs, clean, FeatureNoise())
    assert [len(part) for part in noisy] == [len(part) for part in clean] == [4 * 25, 0]
    assert len(image_digests(tiny.model, inputs)) == 4


def test_features_of_other_images_are_refused(tiny):
    clean = features_of(tiny.model, tiny.prompt().inputs)
    for inputs in (alone(tiny, 2), alone(tiny, 1, 2, 3, 1)):
        with pytest.raises(ConfigError, match="features of other images"):
            perturb_features(tiny.model, inputs, clean, FeatureNoise())


def test_each_place_has_its_function():
    tiny = TINY["llava"]()
    inputs = tiny.prompt().inputs
    with pytest.raises(ConfigError, match=r"'features', which acts on features.*perturb_features"):
        perturb_inputs(tiny.model, inputs, FeatureNoise())
    with pytest.raises(ConfigError, match=r"'blank', which acts on pixels.*perturb_inputs"):
        perturb_features(tiny.model, inputs, features_of(tiny.model, inputs), BlankImage())


# --- layouts, by the families' own processors -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_patches_of_qwen_are_laid_out_as_the_pictures_were(name):
    model = TINY[name]().model
    processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, do_resize=False)
    pictures = [picture(24, 40), picture(16, 16, seed=1)]
    inputs = dict(processor(pictures, return_tensors="pt"))
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    for seen, given in zip(images_of(model, inputs), pictures, strict=True):
        plain = torch.frombuffer(bytearray(given.tobytes()), dtype=torch.uint8).reshape(given.height, given.width, 3)
        assert seen.shape == (1, 3, given.height, given.width)
        assert torch.allclose(seen[0], (plain.permute(2, 0, 1) / 255 - mean) / std, atol=1e-5)
    family = find_family(model)
    assert torch.equal(family.map_pixels(model, inputs, lambda image: image), inputs["pixel_values"])
    for perturbation in OF_PIXELS:
        flat = perturb_inputs(model, inputs, small(perturbation))["pixel_values"]
        copies = flat.reshape(len(flat), 3, 2, 16)
        assert torch.equal(copies[:, :, 0], copies[:, :, 1]), "the two temporal copies stay equal"
    single = dict(processor(pictures[1:], return_tensors="pt"))
    noisy = perturb_inputs(model, inputs, GaussianNoise())["pixel_values"]
    assert torch.equal(perturb_inputs(model, single, GaussianNoise())["pixel_values"], noisy[60:])


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_a_video_of_qwen_is_one_image_of_many_frames(name):
    model = TINY[name]().model
    video = torch.randn(4, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    flat = torch.zeros(2 * 2 * 4, 3 * 2 * 16)
    for step in range(2):
        for place in range(8):  # blocks of 2 × 2 patches, row-major, and row-major within
            block, inner = divmod(place, 4)
            row, column = 4 * (inner // 2), 8 * block + 4 * (inner % 2)
            cut = video[2 * step : 2 * step + 2, :, row : row + 4, column : column + 4]
            flat[8 * step + place] = cut.transpose(0, 1).flatten()
    inputs = {"pixel_values_videos": flat, "video_grid_thw": torch.tensor([[2, 2, 4]])}
    (seen,) = images_of(model, inputs, "pixel_values_videos")
    assert torch.equal(seen, video)
    (digest,) = image_digests(model, inputs, "video")
    noisy = perturb_inputs(model, inputs, GaussianNoise())
    (changed,) = images_of(model, noisy, "pixel_values_videos")
    assert torch.equal(changed, apply(GaussianNoise(), video, digest))


def test_a_video_of_onevision_is_one_image_of_many_frames():
    tiny = TINY["llava_onevision"]()
    video = torch.randn(2, 3, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    inputs = {"pixel_values_videos": video}
    noisy = perturb_inputs(tiny.model, inputs, GaussianNoise())["pixel_values_videos"]
    digests = image_digests(tiny.model, inputs, "video")
    assert torch.equal(noisy, torch.stack([apply(GaussianNoise(), *pair) for pair in zip(video, digests, strict=True)]))
    with torch.no_grad():
        clean = tiny.model.get_video_features(video, return_dict=True).pooler_output
    features = perturb_features(tiny.model, inputs, clean, FeatureNoise(), "video")
    assert torch.equal(features[:, -1], clean[:, -1]), "the newline"
    assert (features[:, :-1] != clean[:, :-1]).any(-1).all()


def test_tiles_of_one_picture_are_one_image_for_llava_next():
    model = TINY["llava_next"]().model
    pinpoints = [[20, 40], [40, 20], [40, 40]]
    side = {"height": 20, "width": 20}
    processor = LlavaNextImageProcessorPil(size={"shortest_edge": 20}, crop_size=side, image_grid_pinpoints=pinpoints)
    inputs = dict(processor([picture(30, 40), picture(40, 20, seed=1)], return_tensors="pt"))
    assert [len(image) for image in images_of(model, inputs)] == [5, 3]
    single = dict(processor([picture(40, 20, seed=1)], return_tensors="pt"))
    noisy = perturb_inputs(model, inputs, GaussianNoise())["pixel_values"]
    assert torch.equal(perturb_inputs(model, single, GaussianNoise())["pixel_values"][0], noisy[1, :3])
    assert (noisy[1, 3:] == 0).all()
    flat = {"pixel_values": inputs["pixel_values"].flatten(0, 1)[:8]}
    assert perturb_inputs(model, flat, GaussianNoise())["pixel_values"].shape == (8, 3, 20, 20)


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_what_the_mask_of_idefics3_pads_is_not_touched(name):
    model = TINY[name]().model
    edge = {"longest_edge": 40}
    processor = Idefics3ImageProcessorPil(size={"longest_edge": 80}, max_image_size=edge, do_image_splitting=True)
    inputs = dict(
        processor([[picture(80, 40), picture(24, 40, seed=1)], [picture(16, 40, seed=2)]], return_tensors="pt")
    )
    real = inputs["pixel_attention_mask"].flatten(2).any(-1)
    assert 0 < int((~real).sum()) < real.numel()
    noisy = perturb_inputs(model, inputs, GaussianNoise())["pixel_values"]
    assert torch.equal((noisy != 0).flatten(2).any(-1), real)
    # A picture of 30 × 25 pixels in a tile of 40 × 40, and in one of 30 × 40.
    small_picture = torch.randn(3, 30, 25, generator=torch.Generator().manual_seed(0))
    results = []
    for height in (40, 30):
        pixels, mask = torch.zeros(1, 2, 3, height, 40), torch.zeros(1, 2, height, 40, dtype=torch.bool)
        pixels[0, 0, :, :30, :25], mask[0, 0, :30, :25] = small_picture, True
        padded = {"pixel_values": pixels, "pixel_attention_mask": mask}
        changed = perturb_inputs(model, padded, GaussianNoise())["pixel_values"]
        assert (changed[~mask[:, :, None].expand_as(changed)] == 0).all()
        results.append(changed[0, 0, :, :30, :25])
    assert torch.equal(*results)
