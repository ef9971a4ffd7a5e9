"""Every family: where its image tokens are, proved on pixels; what it refuses, and how it says so."""

import pytest
import torch
from tiny import IMAGE_SIZE, SIDE, inputs_for, tiny_llava
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig

import scr
from hooks import FAMILIES, ImagePatches, ModelFamily, PatchGrid, PromptLayoutError, UnsupportedModelError, find_family

TEXT = "USER : <image> two of <image> describe"


def test_the_table_and_the_listing_agree():
    assert scr.list_families() == list(FAMILIES)
    for name in scr.list_families():
        family = scr.get_family(name)
        assert isinstance(family, ModelFamily)
        assert (family.name, bool(family.summary), bool(family.model_types)) == (name, True, True)
    with pytest.raises(scr.ConfigError, match=r"unknown family: got 'lava'.*Did you mean 'llava'"):
        scr.get_family("lava")


def test_llava_patches_are_in_raster_order_by_pixel_perturbation():
    """Changing the pixels of one patch changes the token at its row-major place more than any other."""
    model, processor = tiny_llava()
    inputs = inputs_for(processor, [(TEXT, [1, 2])])
    family = find_family(model)
    visual = inputs["input_ids"] == model.config.image_token_id
    first, second = family.images(model, visual, {})
    assert (first.row, first.index, first.grids) == (0, 0, (PatchGrid(SIDE, SIDE),))
    assert second.index == 1
    seen = {}
    handle = family.decoder(model).register_forward_pre_hook(
        lambda module, args, kwargs: seen.__setitem__("embeds", kwargs["inputs_embeds"]), with_kwargs=True
    )
    size = IMAGE_SIZE // SIDE
    with torch.no_grad():
        model(**inputs)
        plain = seen["embeds"]
        hits = 0
        for patch in range(SIDE * SIDE):
            row, column = divmod(patch, SIDE)
            pixels = inputs["pixel_values"].clone()
            pixels[1, :, row * size : (row + 1) * size, column * size : (column + 1) * size] += 8
            model(**{**inputs, "pixel_values": pixels})
            change = (seen["embeds"] - plain).norm(dim=-1)[0]
            assert change[first.positions].max() == 0, "the other image is another image"
            hits += int(change[second.positions].argmax() == patch)
    handle.remove()
    assert hits >= 0.9 * SIDE * SIDE


def test_image_tokens_that_do_not_fit_the_grid_are_refused():
    model, processor = tiny_llava()
    inputs = inputs_for(processor, [(TEXT, [1, 2])])
    visual = inputs["input_ids"] == model.config.image_token_id
    visual[0, visual[0].nonzero()[0]] = False
    with pytest.raises(PromptLayoutError, match=r"row 0.*got 71; expected a multiple of 36"):
        find_family(model).images(model, visual, {})


def test_the_class_token_is_no_patch_where_a_model_keeps_it():
    model, _ = tiny_llava()
    model.config.vision_feature_select_strategy = "full"
    visual = torch.ones(1, SIDE * SIDE + 1, dtype=torch.bool)
    (image,) = find_family(model).images(model, visual, {})
    assert isinstance(image, ImagePatches)
    assert image.positions.tolist() == list(range(1, SIDE * SIDE + 1))


def test_unsupported_models_are_refused_by_name():
    text_model = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with pytest.raises(UnsupportedModelError, match=r"'llama'.*llava"):
        scr.patch(text_model)
    with pytest.raises(scr.UnsupportedModelError, match="Linear"):
        scr.patch(torch.nn.Linear(1, 1))
    model, _ = tiny_llava()
    model.config.vision_config = SiglipVisionConfig(image_size=24, patch_size=4)
    with pytest.raises(TypeError, match="siglip_vision_model"):
        scr.patch(model)
    model, _ = tiny_llava()
    del model.model.language_model.layers[2].self_attn
    with pytest.raises(UnsupportedModelError, match="block 2"):
        scr.patch(model)
