"""Saliency maps are the attention that eager would show, laid out as the picture; and covering covers just that."""

import functools
import sys

import pytest
import torch
from test_patch_undo import everything_on
from tiny_families import PIXELS, SIDE, TINY, noise

import scr
from hooks import find_family
from scr.branches.saliency import CoverSalient, most_salient, tower_saliency
from scr.perturb import get_perturbation, noise_generator, perturb_inputs

pytestmark = pytest.mark.usefixtures("one_thread")
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "glm4v_moe", "glm46v", "qwen3_5", "qwen3_5_moe")
LAST = {
    "internvl": lambda model: model.base_model.vision_tower.encoder.layer[-1].attention,
    "idefics3": lambda model: model.base_model.vision_model.encoder.layers[-1].self_attn,
    "llama4": lambda model: model.vision_model.model.layers[-1].self_attn,
    "smolvlm": lambda model: model.base_model.vision_model.encoder.layers[-1].self_attn,
    "mistral3": lambda model: model.base_model.vision_tower.transformer.layers[-1].attention,
    **dict.fromkeys(QWEN, lambda model: model.base_model.visual.blocks[-1].attn),
}


@functools.cache
def made(name, **options):
    return TINY[name](layers=2, **options)


def pictures_of(tiny, inputs):
    """What `map_pixels` shows, one after the other."""
    seen = []
    find_family(tiny.model).map_pixels(tiny.model, inputs, lambda image: seen.append(image.clone()) or image)
    return seen


def stills(name, inputs):
    """Qwen's pictures fill a time step twice, as the processor does it; frames that differ would be a video."""
    if name in QWEN:
        pixels = inputs["pixel_values"].clone().reshape(-1, 3, 2, PIXELS**2)
        pixels[:, :, 1] = pixels[:, :, 0]
        inputs = {**inputs, "pixel_values": pixels.flatten(1)}
    return inputs


@torch.no_grad()
def eager_maps(tiny, name, inputs, monkeypatch):
    """All weights of the last block while the model encodes the whole prompt, by eager attention: call after call."""
    attention = LAST.get(name, lambda model: model.base_model.vision_tower.encoder.layers[-1].self_attn)(tiny.model)
    module, found = sys.modules[type(attention).__module__], []
    own = "vision_eager_attention_forward" if name == "llama4" else "eager_attention_forward"
    eager = getattr(module, own)

    def watched(this, *args, **kwargs):
        output, weights = eager(this, *args, **kwargs)
        if this is attention:
            found.append(weights)
        return output, weights

    monkeypatch.setattr(module, own, watched)
    tower = tiny.model.base_model.get_image_features
    order, visual = None, tiny.model.base_model.visual if name == "qwen2_5_vl" else None
    embedded, entered = [], []
    if visual is not None:  # it reorders
        visual.patch_embed.register_forward_hook(lambda module, args, output: embedded.append(output))
        visual.blocks[0].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    names = ("pixel_values", "image_grid_thw", "image_sizes")
    tower(**{one: inputs[one] for one in names if one in inputs})
    if visual is not None:  # where each patch went, told by what it holds
        order = (embedded[0][:, None] == entered[0][None]).all(-1).int().argmax(1)
        visual.patch_embed._forward_hooks.clear()
        visual.blocks[0]._forward_pre_hooks.clear()
    return found, order


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [name for name in TINY if name not in ("chameleon", "llava_onevision")])
def test_the_map_is_the_towers_own_attention(name, attention, monkeypatch):
    tiny, inputs = made(name, attention=attention), stills(name, made(name).prompt().inputs)
    before = everything_on(tiny.model)
    maps = [tower_saliency(tiny.model)(image) for image in pictures_of(tiny, inputs)]
    assert everything_on(tiny.model) == before
    weights, order = eager_maps(made(name, attention="eager"), name, inputs, monkeypatch)
    if name in QWEN:
        received = torch.cat([one[0].mean(0).mean(0) for one in weights])
        received = received if order is None else received[order]
        expected, merge = [], 2
        for part, (_, height, width) in zip(
            received.split(inputs["image_grid_thw"].prod(-1).tolist()), inputs["image_grid_thw"].tolist(), strict=True
        ):
            raster = torch.zeros(height, width)
            for place, value in enumerate(part):  # blocks of 2 × 2, one after the other
                block, inner = divmod(place, merge**2)
                row, column = divmod(block, width // merge)
                raster[row * merge + inner // merge, column * merge + inner % merge] = value
            expected.append(raster[None])
    elif name == "mistral3":  # all pictures in one sequence, of which each sees itself
        shapes = [(height // PIXELS, width // PIXELS) for height, width in inputs["image_sizes"].tolist()]
        counts, seen = [height * width for height, width in shapes], weights[0][0].mean(0)
        parts = [rows.split(counts, dim=1)[index] for index, rows in enumerate(seen.split(counts))]
        expected = [part.mean(0).reshape(1, *shape) for part, shape in zip(parts, shapes, strict=True)]
    else:
        (weights,) = weights
        side = maps[0].shape[-1]
        count = weights.shape[-1]
        if name == "llama4":  # of which no token is asked more than another
            weights = weights.mean(2, keepdim=True)[..., [-1, *range(count - 1)]]
        rows = weights.mean(1)[:, 0, 1:] if count == side**2 + 1 else weights.mean(1).mean(1)
        expected = [rows.reshape(-1, side, side)[start : start + len(one)] for start, one in tiles_of(maps)]
    assert len(expected) == len(maps)
    for found, wanted in zip(maps, expected, strict=True):
        assert torch.allclose(found[: len(wanted)], wanted, atol=1e-6)
        assert (found >= 0).all()


def tiles_of(maps):
    start = 0
    for one in maps:
        yield start, one
        start += len(one)


@torch.no_grad()
def test_a_pooling_token_tells_where_the_tower_has_one():
    tiny = made("llava_onevision")
    tower = tiny.model.base_model.vision_tower
    tiles = noise(3, 2, 3, SIDE * PIXELS, SIDE * PIXELS)
    hidden = tower(tiles).last_hidden_state
    head = tower.head
    weight, bias = head.attention.in_proj_weight, head.attention.in_proj_bias
    query, key = (
        torch.nn.functional.linear(of, weight[part * 32 : part * 32 + 32], bias[part * 32 : part * 32 + 32])
        for part, of in ((0, head.probe.expand(2, 1, 32)), (1, hidden))
    )
    heads = tower.config.num_attention_heads
    query, key = (one.reshape(2, -1, heads, 32 // heads).transpose(1, 2) for one in (query, key))
    expected = ((query @ key.transpose(2, 3)) / (32 // heads) ** 0.5).softmax(-1).mean(1)[:, 0].reshape(2, SIDE, SIDE)
    assert torch.allclose(tower_saliency(tiny.model)(tiles), expected, atol=1e-6)


def test_a_tower_of_convolutions_tells_by_its_features():
    tiny = made("chameleon")
    plain = torch.zeros(1, 3, SIDE * 4, SIDE * 4)
    plain[:, :, 8:12, 12:16] = 3.0
    found = tower_saliency(tiny.model)(plain)
    assert found.shape == (1, SIDE, SIDE)
    assert int(found.argmax()) == 2 * SIDE + 3, "what is unlike all else"


def test_a_map_does_not_depend_on_the_other_images():
    tiny = made("qwen2_5_vl")
    images = pictures_of(tiny, tiny.prompt().inputs)
    alone = [tower_saliency(tiny.model)(image) for image in images]
    again = [tower_saliency(tiny.model)(image) for image in reversed(images)]
    assert all(torch.equal(*pair) for pair in zip(alone, reversed(again), strict=True))


@pytest.mark.parametrize(("share", "count"), [(0, 0), (0.3, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (1, 4)])
def test_the_smallest_set_that_makes_up_the_share(share, count):
    values = torch.tensor([[[1.0, 4.0, 0.0], [2.0, 0.0, 1.0]]])
    chosen = most_salient(values, share)
    assert chosen.flatten().nonzero().flatten().tolist() == sorted([1, 3, 0, 5][:count]), "of equals the first"


def left_half(tiles):
    maps = torch.zeros(len(tiles), 2, 2)
    maps[:, :, 0] = 1.0
    return maps


@pytest.mark.parametrize("name", list(TINY))
def test_covering_changes_the_salient_pixels_alone(name):
    tiny = made(name)
    inputs = tiny.prompt().inputs
    images = pictures_of(tiny, inputs)
    for outside in (False, True):
        cover = CoverSalient(saliency=left_half, covered=1.0, outside=outside)
        found = perturb_inputs(tiny.model, inputs, cover)
        for before, after in zip(images, pictures_of(tiny, found), strict=True):
            half = (before.shape[-1] + 1) // 2
            left, right = after[..., :half], after[..., half:]
            covered, kept = (right, left) if outside else (left, right)
            assert not covered.any()
            assert torch.equal(kept, before[..., :half] if outside else before[..., half:])


def test_what_covers_is_any_perturbation_of_pixels():
    values = noise(5, 1, 3, 8, 8)
    blur = get_perturbation("blur", sigma=2.0)
    cover = CoverSalient(saliency=left_half, covered=1.0, fill={"name": "blur", "sigma": 2.0})
    found = cover.apply(values, noise_generator(0, "0"))
    assert torch.equal(found[..., :4], blur.apply(values, noise_generator(0, "0"))[..., :4])
    assert torch.equal(found[..., 4:], values[..., 4:])
    with pytest.raises(scr.ConfigError, match=r"fill of other values: got 'features'.*Choose 'blank' or 'blur'"):
        CoverSalient(saliency=left_half, fill="features")


def test_nothing_is_covered_at_a_share_of_0_and_in_a_map_of_0():
    values = noise(5, 1, 3, 8, 8)
    for saliency, share in ((left_half, 0.0), (lambda tiles: torch.zeros(1, 2, 2), 1.0)):
        found = CoverSalient(saliency=saliency, covered=share).apply(values, noise_generator(0, "0"))
        assert torch.equal(found, values)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (torch.ones(2, 2), r"got shape \(2, 2\); expected a tensor \(1, rows, columns\)"),
        (torch.ones(2, 2, 2), r"got shape \(2, 2, 2\)"),
        (torch.ones(1, 0, 2), r"got shape \(1, 0, 2\)"),
        (-torch.ones(1, 2, 2), r"with a least value of -1; expected"),
        (torch.full((1, 2, 2), torch.nan), "with a least value of nan; expected"),
        ("a map", "got str"),
    ],
)
def test_a_map_that_is_none_is_refused(returned, words):
    with pytest.raises(scr.ConfigError, match=words):
        CoverSalient(saliency=lambda tiles: returned).apply(noise(5, 1, 3, 8, 8), noise_generator(0, "0"))
