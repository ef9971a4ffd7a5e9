"""Every family, on a tiny model of its real class: where its patches are, and the whole chain against the reference."""

import pytest
import torch
from reference import reference_logits
from tiny_families import PROMPTS, SIDE, TEXT, TINY, VOCABULARY
from transformers import (
    MllamaConfig,
    MllamaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

import scr
from hooks import FAMILIES, PromptLayoutError, UnsupportedModelError, find_family

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=list(TINY))
def name(request):
    return request.param


def embeddings(tiny, inputs):
    """What the first decoder block gets."""
    seen = []
    handle = tiny.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        tiny.model(**inputs)
    handle.remove()
    return seen[0]


def test_every_model_type_has_a_tiny_model():
    assert set(TINY) == {model_type for family in FAMILIES.values() for model_type in family.model_types}


@pytest.mark.usefixtures("kernels")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask")
@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash_attention_2", "flex_attention"])
def test_plans_and_logits_equal_the_naive_reference(name, attention):
    if (name, attention) == ("qwen2_5_vl", "flex_attention"):
        pytest.skip("transformers has no flex attention for Qwen2.5-VL")
    if (name, attention) == ("paligemma", "flash_attention_2"):
        pytest.skip("a flash kernel that is not causal is refused; see test_newer_families.py")
    tiny, eager = TINY[name](), TINY[name](attention="eager")
    # The public way looks for an installed kernel, and would switch the vision tower too.
    tiny.model.config.get_text_config()._attn_implementation_internal = attention
    prompt = tiny.prompt()
    plans: dict = {}
    # Inductor's flex kernels for CPUs do not build everywhere.
    eagerly = torch.compiler.set_stance("force_eager")
    with scr.patch(tiny.model, num_sources=5, scale=1.5) as patched, torch.no_grad(), eagerly:
        logits = tiny.model(**prompt.inputs).logits
    visual = tiny.visual(prompt.inputs)
    inputs = dict(prompt.inputs)
    if attention == "flash_attention_2":  # such a kernel takes no mask by which image tokens see each other both ways
        inputs.pop("token_type_ids", None)
    expected = reference_logits(eager.model, inputs, prompt.layout, visual, patched.config, plans)
    with torch.no_grad():
        untouched = eager.model(**inputs).logits
    real = prompt.inputs["attention_mask"].bool()
    assert (expected - untouched)[real].abs().max() > 0.05, "the reference must do something"
    assert (logits - expected)[real].abs().max() < tiny.rounding
    assert [(trace.row, trace.image) for trace in patched.traces] == list(plans)
    for trace in patched.traces:
        sources, neighbors, owners, attention_map = plans[trace.row, trace.image]
        assert [tuple(grid) for grid in trace.grids] == prompt.layout[trace.row, trace.image][1]
        assert trace.sources.tolist() == sources
        assert trace.neighbors.tolist() == neighbors
        assert trace.owners.tolist() == owners
        assert (trace.attention - attention_map).abs().max() < 1e-6


def test_patches_are_in_raster_order_by_pixel_perturbation(name):
    """Changing the pixels of one patch changes the token at its place more than any other patch of the image."""
    if name == "chameleon":
        pytest.skip("its codes do not change by degrees; see the next test")
    tiny = TINY[name]()
    prompts = [("USER : <image> two of <image> describe", [7, 1])]  # LLaVA-OneVision shrinks the larger pictures
    prompt, picture = tiny.prompt(prompts), tiny.picture(1)
    first, second = (prompt.layout[0, image][0] for image in (0, 1))
    plain, hits = embeddings(tiny, prompt.inputs), 0
    pictures = [tiny.picture(7), tiny.picture(1)]
    for patch in range(len(picture.patches)):
        pictures[1].pixels = tiny.disturbed(picture, patch)
        change = (embeddings(tiny, {**prompt.inputs, **tiny.batch([pictures])}) - plain).norm(dim=-1)[0]
        assert change[first].max() < 1e-5, "the other image is another image"
        hits += int(change[second].argmax() == patch)
    assert hits >= 0.9 * len(second)


def test_chameleons_codes_are_in_raster_order():
    """Pixels move the encoder's map where they lie, and the map's nearest codes, row by row, are the image's tokens."""
    tiny, maps = TINY["chameleon"](), []
    coder, table = tiny.model.model.vqmodel, tiny.model.get_input_embeddings().weight
    handle = coder.quantize.register_forward_pre_hook(lambda module, args: maps.append(args[0][0].flatten(1).T))
    prompt, picture = tiny.prompt([("USER : <image> describe", [1])]), tiny.picture(1)
    tokens = embeddings(tiny, prompt.inputs)[0, prompt.layout[0, 0][0]]
    codes = torch.cdist(maps[0], coder.quantize.embedding.weight).argmin(dim=1)
    assert len(codes.unique()) > 3
    assert torch.equal(tokens, table[TEXT["vocab_size"] - tiny.codes + codes])
    for patch in range(SIDE**2):
        embeddings(tiny, {**prompt.inputs, "pixel_values": tiny.disturbed(picture, patch)})
    handle.remove()
    # A pixel is seen all over a map this small; where most of the change lies follows it, by rows and by columns.
    change = torch.stack([moved - maps[0] for moved in maps[1:]]).norm(dim=-1).square()
    places = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).float()
    centers = change @ places / change.sum(dim=1, keepdim=True)
    agreement = torch.corrcoef(torch.cat([centers.T, places.T]))[:2, 2:]
    assert agreement.diagonal().min() > 0.7
    assert agreement.fliplr().diagonal().abs().max() < 0.3


def test_the_vision_tower_runs_once(name):
    tiny, calls = TINY[name](), []
    tower = next(
        module
        for path, module in tiny.model.base_model.named_children()
        if path in ("vision_tower", "vision_model", "visual", "vqmodel")
    )
    tower = getattr(tower, "encoder", tower)
    handle = tower.register_forward_pre_hook(lambda module, args: calls.append(1))
    inputs = tiny.prompt().inputs
    with torch.no_grad():
        tiny.model(**inputs)
        plain = len(calls)
        with scr.patch(tiny.model):
            for call in (lambda: tiny.model(**inputs), lambda: tiny.model.generate(**inputs, max_new_tokens=2)):
                calls.clear()
                call()
                assert len(calls) == plain
    handle.remove()


def test_a_prompt_whose_image_tokens_fit_no_grid_is_refused(name):
    """One image token too few, and the features too: only the grid can tell."""
    tiny = TINY[name]()
    prompt = tiny.prompt(PROMPTS[:1])
    visual = tiny.visual(prompt.inputs)
    visual[0, prompt.layout[0, 0][0][1]] = False
    embeds = embeddings(tiny, prompt.inputs)
    positions = torch.arange(embeds.shape[1]).expand(3, 1, -1)
    with pytest.raises(PromptLayoutError, match=r"got .*; expected .*"):
        find_family(tiny.model).images(tiny.model, visual, {"inputs_embeds": embeds, "position_ids": positions})


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_a_video_is_one_grid_per_time_step(name):
    """Also where Qwen2.5-VL's clock, in whole steps, stands still from one frame pair to the next."""
    tiny = TINY[name]()
    still, moving = tiny.picture(0), tiny.picture(1, shape=(3, 4), frames=3, token="<video>")
    prompt = tiny.prompt([("USER : <image> is there a dog <image> ?", [0, 1])], pictures=[[still, moving]])
    inputs = {**prompt.inputs, **tiny.batch([[still]])}
    inputs |= {"pixel_values_videos": moving.pixels, "video_grid_thw": moving.extra["grid"][None]}
    if name == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([0.1])
    for call in (
        lambda: tiny.model(**inputs),
        lambda: tiny.model.generate(**inputs, max_new_tokens=1, do_sample=False),
    ):
        with scr.patch(tiny.model, num_sources=4) as patched, torch.no_grad():
            call()
        assert [trace.grids for trace in patched.traces] == [((5, 4),), ((3, 4),) * 3]


def test_qwens_grids_need_the_token_types():
    tiny = TINY["qwen2_vl"]()
    inputs = tiny.prompt(PROMPTS[:1]).inputs
    inputs.pop("mm_token_type_ids")
    with scr.patch(tiny.model), pytest.raises(PromptLayoutError, match="mm_token_type_ids"):
        tiny.model.generate(**inputs, max_new_tokens=1)


def test_onevision_several_images_and_videos():
    """Several images of a prompt have no tiles; a video has a pooled grid per frame; one newline ends either."""
    tiny = TINY["llava_onevision"]()
    size = SIDE * 4
    image = [VOCABULARY["<image>"]] * (SIDE**2 + 1)
    frame = -(-SIDE // 2)
    video = [VOCABULARY["<video>"]] * (2 * frame**2 + 1)
    ids = torch.tensor([[1, *image, 20, *image, 21, *video, 22, 23]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(2, 1, 3, size, size),
        "image_sizes": torch.tensor([[size, size], [size, size]]),
        "batch_num_images": torch.tensor([2]),
        "pixel_values_videos": torch.randn(1, 2, 3, size, size),
    }
    with scr.patch(tiny.model, num_sources=4) as patched, torch.no_grad():
        tiny.model(**inputs)
    assert [trace.grids for trace in patched.traces] == [
        ((SIDE, SIDE),),
        ((SIDE, SIDE),),
        ((frame, frame),) * 2,
    ]


def test_images_side_by_side_are_two():
    """LLaVA-NeXT's have no marker in between, only their newline tokens."""
    for name in ("llava", "llava_next"):
        tiny = TINY[name]()
        prompt = tiny.prompt([("USER : <image> <image> <image> describe", [1, 2, 3])])
        with scr.patch(tiny.model, num_sources=4) as patched, torch.no_grad():
            tiny.model(**prompt.inputs)
        grids = [[tuple(grid) for grid in trace.grids] for trace in patched.traces]
        assert grids == [prompt.layout[0, image][1] for image in range(3)]


def test_chameleon_30b_edits_more_blocks_and_another_block_class():
    big, small = TINY["chameleon"](layers=48, swin_norm=True), TINY["chameleon"](layers=32)
    ranges = [scr.patch(tiny.model).config.layers for tiny in (big, small)]
    assert ranges == [range(0, 21), range(0, 16)]
    assert find_family(big.model).edit_layers_of(small.model) == range(0, 16)
    assert type(big.layers[0]) is not type(small.layers[0])
    prompt = big.prompt()
    with torch.no_grad():
        plain = big.model(**prompt.inputs).logits
        with scr.patch(big.model, num_sources=4) as patched:
            assert not torch.equal(big.model(**prompt.inputs).logits, plain)
        assert len(patched.traces) == 3
        assert torch.equal(big.model(**prompt.inputs).logits, plain)


@pytest.mark.parametrize(
    ("model_type", "instead"),
    [
        ("internvl_chat", "-hf"),
        ("qwen", "Qwen/Qwen2-VL-7B-Instruct"),
        ("mllama", "cross-attention.*llava-hf/llava-1.5"),
        ("gemma3n", "several streams.*gemma-3"),
        ("gemma4", "not to the decoder.*gemma-3"),
        ("gemma4_unified", "not to the decoder.*gemma-3"),
        ("idefics2", "learnt queries.*llava"),
        ("blip-2", "learnt queries.*llava"),
        ("instructblip", "learnt queries.*llava"),
        ("molmo2", "by its processor alone.*Qwen3-VL"),
        ("phi4_multimodal", "a module of its own.*Qwen3-VL"),
        ("florence2", "an encoder and a decoder.*llava"),
    ],
)
def test_what_cannot_be_patched_is_refused_with_what_to_load_instead(model_type, instead):
    class Config(PreTrainedConfig):
        pass

    class Remote(PreTrainedModel):
        config_class = Config

    Config.model_type = model_type
    with pytest.raises(UnsupportedModelError, match=f"cannot be patched: got '{model_type}' .Remote.*{instead}"):
        scr.patch(Remote(Config()))


def test_a_real_cross_attention_model_is_refused():
    text = MllamaTextConfig(
        **{name: value for name, value in TEXT.items() if name != "max_position_embeddings"},
        num_hidden_layers=2,
        cross_attention_layers=[1],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    with pytest.raises(UnsupportedModelError, match=r"'mllama'.*Load a model that puts image tokens"):
        scr.patch(MllamaForConditionalGeneration(MllamaConfig(text_config=text, vision_config=MLLAMA_VISION)))


MLLAMA_VISION = MllamaVisionConfig(
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_global_layers=1,
    attention_heads=2,
    image_size=16,
    patch_size=8,
    max_num_tiles=1,
    supported_aspect_ratios=[[1, 1]],
    intermediate_layers_indices=[0],
    vision_output_dim=32,
)


def test_chameleon_still_refuses_what_it_refused():
    """Its arguments are merged before its own forward checks them."""
    tiny = TINY["chameleon"](layers=3)
    inputs = tiny.prompt(PROMPTS[:1]).inputs
    embeds = tiny.model.get_input_embeddings()(inputs["input_ids"])
    encoded = {"image": tiny.model.model.get_image_features(inputs["pixel_values"], return_dict=True)}
    with scr.patch(tiny.model), torch.no_grad():
        for wrong in (
            {**inputs, "inputs_embeds": embeds},
            {**inputs, "mm_encoder_outputs": encoded},
            {"pixel_values": inputs["pixel_values"]},
        ):
            with pytest.raises(ValueError, match=r"You (must|cannot) specify"):
                tiny.model(**wrong)


def test_features_given_as_one_tensor():
    """Idefics3 still takes them so."""
    tiny = TINY["idefics3"](layers=4)
    inputs = tiny.prompt(PROMPTS[:1]).inputs
    with scr.patch(tiny.model, num_sources=4) as patched, torch.no_grad():
        expected = tiny.model(**inputs).logits
        encoded = tiny.model.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
        features = torch.cat(list(encoded.pooler_output))
        assert torch.equal(tiny.model(**inputs, mm_encoder_outputs=features).logits, expected)
    assert len(patched.traces) == 2
