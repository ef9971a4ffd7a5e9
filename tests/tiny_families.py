"""One tiny model of each family, of the real class with random weights, and prompts made by hand.

Made by hand, because then the place of every patch is known without asking the code under test: `Prompt.layout` holds
the tokens of each image's patches, in raster order, and the shapes of its grids.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
import transformers as hf
from reference import decoder_of
from tiny import WORDS
from torch import Tensor

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>", "<open>", "<close>", "<tile>", "<overview>", "\n"]
VOCABULARY = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE = 5  # patches of a square, so that a grid has 9 patches inside its border
PIXELS = 4  # side of a patch

# (text, seeds of its images): left padding, one and two images, none.
PROMPTS = [
    ("USER : <image> is there a dog in the image ? ASSISTANT :", [1]),
    ("USER : two of <image> describe <image> yes", [2, 3]),
    ("is there a dog", []),
]


@dataclass
class Picture:
    """One image in a prompt: its tokens, which of them are patches, and what the vision tower gets."""

    tokens: list[int]
    patches: list[int]  # indices into `tokens`, in raster order
    grids: list[tuple[int, int]]
    pixels: Tensor
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Prompt:
    """A batch, and where its patches are: (row, image) → (positions, grids)."""

    inputs: dict[str, Tensor]
    layout: dict[tuple[int, int], tuple[list[int], list[tuple[int, int]]]]


class Tiny(ABC):
    """A model of one family."""

    model_class: ClassVar[type]
    deepstack: ClassVar[int] = 0  # to the output of how many first blocks the decoder adds features of the image
    suffix: ClassVar[int] = 0  # token type of what is said
    rounding: ClassVar[float] = 2e-5  # what another kernel may make of the logits
    ended: ClassVar[bool] = False  # whether the token after an image tells where it ends
    repeatable: ClassVar[list[tuple[str, list[int]]]] = PROMPTS  # whose copies transformers gives their own images

    def __init__(self, seed: int = 0, layers: int = 8, attention: str = "sdpa", **changes: Any) -> None:
        config = self.config(layers, **changes)
        config._attn_implementation = attention
        state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        self.model = self.model_class(config).eval()
        with torch.no_grad():  # larger than usual, so that attention is far from uniform and edits show
            for name, parameter in self.model.named_parameters():
                if parameter.ndim > 1 and "norm" not in name:
                    parameter.normal_(std=0.2 if any(part in name for part in ("vis", "vq", "proj", "conn")) else 0.15)
        torch.random.set_rng_state(state)
        # Random models say their end token at once; without it every test generates what it asks for.
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    def require_copies(self) -> None:
        """Skip a test that repeats prompts, where transformers gives their copies no images: unpatched too."""
        if not self.repeatable:
            pytest.skip("transformers gives the copies of a prompt no images of theirs; see test_newer_families.py")

    def in_dtype(self, dtype: torch.dtype) -> torch.nn.Module:
        """A copy of the model; what is complex stays so, which `to` would make real."""
        model = copy.deepcopy(self.model)
        for part in (*model.parameters(), *model.buffers()):
            if part.is_floating_point():
                part.data = part.data.to(dtype)
        return model

    @property
    def layers(self) -> torch.nn.ModuleList:
        return decoder_of(self.model).layers

    def after(self, layer, change):
        """Let what `change` makes of a block's output go on in its place; returns the hook."""
        if layer < self.deepstack:
            following = [*self.layers[1:], decoder_of(self.model).norm][layer]
            return following.register_forward_pre_hook(lambda module, args: (change(args[0]), *args[1:]))

        def hook(module, args, output):
            return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

        return self.layers[layer].register_forward_hook(hook)

    @abstractmethod
    def config(self, layers: int, **changes: Any) -> hf.PreTrainedConfig: ...

    @abstractmethod
    def picture(self, seed: int) -> Picture: ...

    def batch(self, rows: Sequence[Sequence[Picture]]) -> dict[str, Any]:
        """What the model gets beside the ids."""
        return {"pixel_values": torch.cat([picture.pixels for row in rows for picture in row])}

    def prompt(
        self,
        prompts: Sequence[tuple[str, list[int]]] = PROMPTS,
        padding: str = "left",
        pictures: Sequence[Sequence[Picture]] | None = None,
    ) -> Prompt:
        """Make a batch of prompts, with the pictures of their seeds or those given."""
        pictures = pictures or [[self.picture(seed) for seed in seeds] for _, seeds in prompts]
        rows, marks = [], []
        for (text, _), seen in zip(prompts, pictures, strict=True):
            tokens, places = [1], []
            left = iter(seen)
            for word in text.split():
                if word == "<image>":
                    picture = next(left)
                    places.append(([len(tokens) + patch for patch in picture.patches], picture.grids))
                    tokens += picture.tokens
                else:
                    tokens.append(VOCABULARY[word])
            rows.append(tokens)
            marks.append(places)
        width = max(map(len, rows))
        ids, mask, layout = torch.zeros(len(rows), width, dtype=torch.long), None, {}
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(rows):
            start = width - len(tokens) if padding == "left" else 0
            ids[row, start : start + len(tokens)] = torch.tensor(tokens)
            mask[row, start : start + len(tokens)] = 1
            for image, (positions, grids) in enumerate(marks[row]):
                layout[row, image] = ([start + position for position in positions], grids)
        extra = self.batch(pictures) if any(pictures) else {}
        return Prompt({"input_ids": ids, "attention_mask": mask, **extra, **self.token_types(ids)}, layout)

    def token_types(self, ids: Tensor) -> dict[str, Tensor]:
        return {}

    def disturbed(self, picture: Picture, patch: int) -> Tensor:
        """The picture's pixels with those of one patch changed: of one tile after another, in raster order."""
        pixels, size = picture.pixels.clone(), picture.pixels.shape[-1] // SIDE
        tile, row, column = patch // SIDE**2, patch % SIDE**2 // SIDE, patch % SIDE
        pixels[tile, :, row * size : (row + 1) * size, column * size : (column + 1) * size] += 8
        return pixels

    def visual(self, inputs: dict[str, Tensor]) -> Tensor:
        return (inputs["input_ids"] == VOCABULARY["<image>"]) | (inputs["input_ids"] == VOCABULARY["<video>"])

    def without_image(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is left of the inputs for a turn of text."""
        kept = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
        return {name: inputs[name] for name in kept if name in inputs}


def longer(inputs: dict[str, Any], new: int, suffix: int | None = None) -> dict[str, Any]:
    """Inputs of a forward of a prompt and `new` more tokens, whose ids, mask and positions its caller puts in."""
    whole = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    if "token_type_ids" in whole:
        images = whole["token_type_ids"][whole["input_ids"] == VOCABULARY["<image>"]]
        # To PaliGemma 0 is the prompt, and 1 what comes after it.
        suffix = int((images == 0).any()) if suffix is None else suffix
        whole["token_type_ids"] = torch.nn.functional.pad(whole["token_type_ids"], (0, new), value=suffix)
    return whole


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def square(token: str = "<image>", opened: str | None = None, closed: str | None = None) -> tuple[list[int], list[int]]:
    tokens = [VOCABULARY[mark] for mark in (opened, *[token] * SIDE**2, closed) if mark is not None]
    first = 1 if opened else 0
    return tokens, list(range(first, first + SIDE**2))


class TinyLlava(Tiny):
    model_class = hf.LlavaForConditionalGeneration

    def config(self, layers, **changes):
        return hf.LlavaConfig(
            vision_config=hf.CLIPVisionConfig(**VISION, image_size=SIDE * PIXELS, patch_size=PIXELS),
            text_config=hf.LlamaConfig(**TEXT, num_hidden_layers=layers),
            image_token_index=VOCABULARY["<image>"],
            image_seq_length=SIDE**2,
            vision_feature_layer=-1,
            **changes,
        )

    def picture(self, seed):
        tokens, patches = square()
        return Picture(tokens, patches, [(SIDE, SIDE)], noise(seed, 1, 3, SIDE * PIXELS, SIDE * PIXELS))


class TinyLlavaNext(Tiny):
    """Tiles of SIDE × SIDE patches. What the model makes of a picture's size is asked of transformers' own packing."""

    model_class = hf.LlavaNextForConditionalGeneration
    sizes = ((30, 40), (40, 20), (18, 47), (40, 40), (20, 60))  # height and width of pictures, by seed

    def config(self, layers, **changes):
        tile = SIDE * PIXELS
        pinpoints = [[tile, 2 * tile], [2 * tile, tile], [2 * tile, 2 * tile], [tile, 3 * tile]]
        return self.config_class(
            vision_config=hf.CLIPVisionConfig(**VISION, image_size=tile, patch_size=PIXELS),
            text_config=hf.LlamaConfig(**TEXT, num_hidden_layers=layers),
            image_token_index=VOCABULARY["<image>"],
            image_grid_pinpoints=pinpoints,
            image_seq_length=SIDE**2,
            vision_feature_layer=-1,
            **changes,
        )

    config_class = hf.LlavaNextConfig
    packing: ClassVar[dict[str, Any]] = {"vision_feature_select_strategy": "default"}

    def picture(self, seed):
        size = torch.tensor([self.sizes[seed % len(self.sizes)]])
        tiles = self.tiles(size[0])
        # Every patch says where it is: (tile, row, column); a newline says −1.
        places = torch.stack(
            torch.meshgrid(torch.arange(tiles), torch.arange(SIDE), torch.arange(SIDE), indexing="ij"), dim=-1
        )
        packed = self.model.model.pack_image_features(
            [places.flatten(1, 2).float()], size, image_newline=torch.full((3,), -1.0), **self.packing
        )[0][0]
        ends = (packed == -1).all(-1)
        patches = (~ends).nonzero().flatten().tolist()
        rows = int(ends.sum())
        grids = [(SIDE, SIDE), (rows, (len(patches) - SIDE**2) // rows)]
        tokens = [VOCABULARY["<image>"]] * len(packed)
        tile = SIDE * PIXELS
        return Picture(tokens, patches, grids, noise(seed, tiles, 3, tile, tile), {"size": size[0], "packed": packed})

    def tiles(self, size):
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        return image_size_to_num_patches(size, self.model.config.image_grid_pinpoints, SIDE * PIXELS)

    def disturbed(self, picture, patch):
        tile, row, column = picture.extra["packed"][picture.patches[patch]].int().tolist()
        return super().disturbed(picture, tile * SIDE**2 + row * SIDE + column)

    def batch(self, rows):
        pictures = [picture for row in rows for picture in row]
        most = max(len(picture.pixels) for picture in pictures)
        padded = [
            torch.cat([picture.pixels, torch.zeros(most - len(picture.pixels), *picture.pixels.shape[1:])])
            for picture in pictures
        ]
        sizes = torch.stack([picture.extra["size"] for picture in pictures])
        return {"pixel_values": torch.stack(padded), "image_sizes": sizes}


class TinyLlavaOnevision(TinyLlavaNext):
    model_class = hf.LlavaOnevisionForConditionalGeneration
    packing: ClassVar[dict[str, Any]] = {"vision_aspect_ratio": "anyres_max_2"}

    def config(self, layers, **changes):
        tile = SIDE * PIXELS
        pinpoints = [[tile, 2 * tile], [2 * tile, tile], [2 * tile, 2 * tile], [tile, 3 * tile]]
        return hf.LlavaOnevisionConfig(
            vision_config=hf.SiglipVisionConfig(**VISION, image_size=tile, patch_size=PIXELS),
            text_config=hf.Qwen2Config(**TEXT, num_hidden_layers=layers),
            image_token_index=VOCABULARY["<image>"],
            video_token_index=VOCABULARY["<video>"],
            image_grid_pinpoints=pinpoints,
            vision_aspect_ratio="anyres_max_2",  # shrinks the larger pictures, as anyres_max_9 does those of 27 × 27
            vision_feature_layer=-1,
            **changes,
        )


class TinyQwen2VL(Tiny):
    """Pictures of 5 × 4, 3 × 6, ... merged patches."""

    model_class = hf.Qwen2VLForConditionalGeneration
    shapes = ((5, 4), (3, 6), (5, 5), (4, 4))

    def config(self, layers, **changes):
        return hf.Qwen2VLConfig(
            vision_config=self.vision(),
            text_config={
                **TEXT,
                "num_hidden_layers": layers,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
            },
            image_token_id=VOCABULARY["<image>"],
            video_token_id=VOCABULARY["<video>"],
            vision_start_token_id=VOCABULARY["<open>"],
            vision_end_token_id=VOCABULARY["<close>"],
            **changes,
        )

    def vision(self):
        return {
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": PIXELS,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        }

    def picture(self, seed, shape=None, frames=1, token="<image>"):
        height, width = shape or self.shapes[seed % len(self.shapes)]
        count = frames * height * width
        tokens = [VOCABULARY["<open>"], *[VOCABULARY[token]] * count, VOCABULARY["<close>"]]
        pixels = noise(seed, 4 * count, 3 * 2 * PIXELS**2)
        grid = torch.tensor([frames, 2 * height, 2 * width])
        return Picture(tokens, list(range(1, count + 1)), [(height, width)] * frames, pixels, {"grid": grid})

    def disturbed(self, picture, patch):
        pixels = picture.pixels.clone()
        pixels[4 * patch : 4 * patch + 4] += 8  # the processor lays four patches that merge side by side
        return pixels

    def batch(self, rows):
        grids = torch.stack([picture.extra["grid"] for row in rows for picture in row])
        return {**super().batch(rows), "image_grid_thw": grids}

    def token_types(self, ids):
        types = (ids == VOCABULARY["<image>"]).int() + 2 * (ids == VOCABULARY["<video>"]).int()
        return {"mm_token_type_ids": types}


class TinyQwen25VL(TinyQwen2VL):
    model_class = hf.Qwen2_5_VLForConditionalGeneration

    def config(self, layers, **changes):
        return hf.Qwen2_5_VLConfig(
            **{
                name: value
                for name, value in super().config(layers).to_dict().items()
                if name.endswith("token_id") and name.startswith(("image", "video", "vision"))
            },
            vision_config={
                "depth": 2,
                "hidden_size": 32,
                "out_hidden_size": 32,
                "num_heads": 2,
                "intermediate_size": 48,
                "patch_size": PIXELS,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "window_size": 4 * PIXELS,
                "fullatt_block_indexes": [1],
            },
            text_config={
                **TEXT,
                "num_hidden_layers": layers,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
            },
            **changes,
        )


class TinyQwen3VL(TinyQwen2VL):
    """A level of deeper features after each of the first two blocks."""

    model_class = hf.Qwen3VLForConditionalGeneration
    config_class = hf.Qwen3VLConfig
    text: ClassVar[dict[str, Any]] = {}
    deepstack = 2

    def config(self, layers, **changes):
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
        return self.config_class(
            vision_config=self.vision(),
            text_config={**TEXT, **self.text, "head_dim": 8, "num_hidden_layers": layers, "rope_parameters": rope},
            image_token_id=VOCABULARY["<image>"],
            video_token_id=VOCABULARY["<video>"],
            vision_start_token_id=VOCABULARY["<open>"],
            vision_end_token_id=VOCABULARY["<close>"],
            **changes,
        )

    def vision(self):
        return {
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 48,
            "patch_size": PIXELS,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": list(range(self.deepstack)),
        }


class TinyQwen3VLMoe(TinyQwen3VL):
    model_class = hf.Qwen3VLMoeForConditionalGeneration
    config_class = hf.Qwen3VLMoeConfig
    text: ClassVar[dict[str, Any]] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


class TinyQwen35(TinyQwen3VL):
    """Every other block has attention, the first one not."""

    model_class = hf.Qwen3_5ForConditionalGeneration
    config_class = hf.Qwen3_5Config
    deepstack = 0
    rounding = 1e-4
    text: ClassVar[dict[str, Any]] = {
        "full_attention_interval": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        with torch.no_grad():  # a state that lasts longer than a few tokens; where nothing is left, norms blow noise up
            for name, parameter in self.model.named_parameters():
                if name.endswith("A_log"):
                    parameter.fill_(-3)

    def config(self, layers, **changes):
        made = super().config(layers, **changes)
        made.text_config.rope_parameters["partial_rotary_factor"] = 1.0
        return made

    def vision(self):
        return {name: value for name, value in super().vision().items() if name != "deepstack_visual_indexes"}


class TinyQwen35Moe(TinyQwen35):
    model_class = hf.Qwen3_5MoeForConditionalGeneration
    config_class = hf.Qwen3_5MoeConfig
    text: ClassVar[dict[str, Any]] = {
        **TinyQwen35.text,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    }


class TinyGlm4V(TinyQwen2VL):
    """Frames of a video have the token of an image."""

    model_class = hf.Glm4vForConditionalGeneration
    config_class = hf.Glm4vConfig
    repeatable = PROMPTS[::2]  # images of one prompt get among those of its copies
    text: ClassVar[dict[str, Any]] = {}

    def config(self, layers, **changes):
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}
        return self.config_class(
            vision_config=self.vision(),
            text_config={**TEXT, **self.text, "num_hidden_layers": layers, "rope_parameters": rope},
            image_token_id=VOCABULARY["<image>"],
            video_token_id=VOCABULARY["<video>"],
            image_start_token_id=VOCABULARY["<open>"],
            image_end_token_id=VOCABULARY["<close>"],
            **changes,
        )

    def vision(self):
        return {
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 48,
            "image_size": 8 * PIXELS,
            "patch_size": PIXELS,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        }


class TinyGlm4VMoe(TinyGlm4V):
    model_class = hf.Glm4vMoeForConditionalGeneration
    config_class = hf.Glm4vMoeConfig
    text: ClassVar[dict[str, Any]] = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


class TinyGlm46V(TinyGlm4V):
    model_class = hf.Glm46VForConditionalGeneration
    config_class = hf.Glm46VConfig
    text: ClassVar[dict[str, Any]] = {"model_type": "glm4v_text"}

    def vision(self):
        return {**super().vision(), "model_type": "glm4v_vision"}


class TinyInternVL(Tiny):
    """One tile, or two and a thumbnail."""

    model_class = hf.InternVLForConditionalGeneration

    def config(self, layers, **changes):
        side = 2 * SIDE * PIXELS
        return hf.InternVLConfig(
            vision_config=hf.InternVLVisionConfig(**VISION, image_size=[side, side], patch_size=[PIXELS, PIXELS]),
            text_config=hf.Qwen2Config(**TEXT, num_hidden_layers=layers),
            image_token_id=VOCABULARY["<image>"],
            image_seq_length=SIDE**2,
            downsample_ratio=0.5,
            vision_feature_layer=-1,
            **changes,
        )

    def picture(self, seed):
        tiles = 3 if seed % 2 else 1
        count = tiles * SIDE**2
        tokens = [VOCABULARY["<open>"], *[VOCABULARY["<image>"]] * count, VOCABULARY["<close>"]]
        pixels = noise(seed, tiles, 3, 2 * SIDE * PIXELS, 2 * SIDE * PIXELS)
        return Picture(tokens, list(range(1, count + 1)), [(SIDE, SIDE)] * tiles, pixels)


class TinyChameleon(Tiny):
    model_class = hf.ChameleonForConditionalGeneration
    codes = 40

    def config(self, layers, **changes):
        names = {"<image>": VOCABULARY["<image>"]}
        for code in range(self.codes):
            letters = "".join(chr(ord("A") + int(digit)) for digit in str(code))
            names[f"IMGIMG{letters}Z"] = TEXT["vocab_size"] - self.codes + code
        return hf.ChameleonConfig(
            **TEXT,
            num_hidden_layers=layers,
            vocabulary_map=names,
            vq_config={
                "embed_dim": 8,
                "num_embeddings": self.codes,
                "latent_channels": 8,
                "resolution": SIDE * 4,
                "base_channels": 32,
                "channel_multiplier": [1, 1, 1],
                "num_res_blocks": 1,
                "attn_resolutions": [],
                "attn_type": "none",  # global attention would blur where a pixel is seen
            },
            **changes,
        )

    def picture(self, seed):
        tokens, patches = square(opened="<open>", closed="<close>")
        return Picture(tokens, patches, [(SIDE, SIDE)], noise(seed, 1, 3, SIDE * 4, SIDE * 4))


class TinyIdefics3(Tiny):
    """One tile, or 1 × 2 tiles and the overview; markers between tiles are text."""

    model_class = hf.Idefics3ForConditionalGeneration
    config_class = hf.Idefics3Config
    vision_class = hf.Idefics3VisionConfig

    def config(self, layers, **changes):
        return self.config_class(
            vision_config=self.vision_class(**VISION, image_size=2 * SIDE * PIXELS, patch_size=PIXELS).to_dict(),
            text_config=hf.LlamaConfig(**TEXT, num_hidden_layers=layers).to_dict(),
            image_token_id=VOCABULARY["<image>"],
            pad_token_id=0,
            scale_factor=2,
            **changes,
        )

    def picture(self, seed):
        tile, overview = square(opened="<tile>")[0], square(opened="<overview>")[0]
        opened, newline = VOCABULARY["<open>"], VOCABULARY["\n"]
        tiles = 3 if seed % 2 else 1
        tokens = [opened, *overview, opened]
        if tiles == 3:
            tokens = [opened, *tile, opened, *tile, newline, newline, *tokens]
        patches = [index for index, token in enumerate(tokens) if token == VOCABULARY["<image>"]]
        return Picture(tokens, patches, [(SIDE, SIDE)] * tiles, noise(seed, tiles, 3, *[2 * SIDE * PIXELS] * 2))

    def batch(self, rows):
        most = max(sum(len(picture.pixels) for picture in row) for row in rows)
        pixels = torch.zeros(len(rows), most, 3, *[2 * SIDE * PIXELS] * 2)
        for row, pictures in enumerate(rows):
            if pictures:
                tiles = torch.cat([picture.pixels for picture in pictures])
                pixels[row, : len(tiles)] = tiles
        return {"pixel_values": pixels}


class TinySmolVLM(TinyIdefics3):
    model_class = hf.SmolVLMForConditionalGeneration
    config_class = hf.SmolVLMConfig
    vision_class = hf.SmolVLMVisionConfig


class TinyGemma3(Tiny):
    """Every other block slides; 10 × 10 patches are pooled."""

    model_class = hf.Gemma3ForConditionalGeneration

    def config(self, layers, **changes):
        return hf.Gemma3Config(
            vision_config=hf.SiglipVisionConfig(
                **VISION, image_size=2 * SIDE * PIXELS, patch_size=PIXELS, vision_use_head=False
            ),
            text_config=hf.Gemma3TextConfig(
                **TEXT,
                num_hidden_layers=layers,
                head_dim=8,
                query_pre_attn_scalar=8,
                sliding_window=40,
                layer_types=[("sliding_attention", "full_attention")[layer % 2] for layer in range(layers)],
            ),
            image_token_index=VOCABULARY["<image>"],
            boi_token_index=VOCABULARY["<open>"],
            eoi_token_index=VOCABULARY["<close>"],
            mm_tokens_per_image=SIDE**2,
            **changes,
        )

    def picture(self, seed):
        tokens, patches = square(opened="<open>", closed="<close>")
        return Picture(tokens, patches, [(SIDE, SIDE)], noise(seed, 1, 3, *[2 * SIDE * PIXELS] * 2))

    def token_types(self, ids):
        return {"token_type_ids": (ids == VOCABULARY["<image>"]).int()}


class TinyAyaVision(Tiny):
    """The overview alone, or after two tiles; two tokens mark a tile."""

    model_class = hf.AyaVisionForConditionalGeneration
    ended = True

    def config(self, layers, **changes):
        return hf.AyaVisionConfig(
            vision_config=hf.SiglipVisionConfig(
                **VISION, image_size=2 * SIDE * PIXELS, patch_size=PIXELS, vision_use_head=False
            ),
            text_config=hf.Cohere2Config(
                **TEXT,
                num_hidden_layers=layers,
                sliding_window=40,
                layer_types=[("sliding_attention", "full_attention")[layer % 2] for layer in range(layers)],
                logit_scale=1.0,
            ),
            image_token_index=VOCABULARY["<image>"],
            **changes,
        )

    def picture(self, seed):
        tiles = 3 if seed % 2 else 1
        tokens = [VOCABULARY["<open>"]]
        for number in range(1, tiles):
            tokens += [VOCABULARY["<tile>"], VOCABULARY[("one", "two")[number - 1]], *square()[0]]
        tokens += [VOCABULARY["<overview>"], *square()[0], VOCABULARY["<close>"]]
        patches = [index for index, token in enumerate(tokens) if token == VOCABULARY["<image>"]]
        return Picture(tokens, patches, [(SIDE, SIDE)] * tiles, noise(seed, tiles, 3, *[2 * SIDE * PIXELS] * 2))


class TinyCohere2Vision(TinyAyaVision):
    """A token ends each tile, one more the image."""

    model_class = hf.Cohere2VisionForConditionalGeneration
    ended = False

    def config(self, layers, **changes):
        made = super().config(layers)
        return hf.Cohere2VisionConfig(
            vision_config=made.vision_config,
            text_config=made.text_config,
            image_token_id=VOCABULARY["<image>"],
            alignment_intermediate_size=64,
            **changes,
        )

    def picture(self, seed):
        tiles = 3 if seed % 2 else 1
        tokens = [VOCABULARY["<open>"], *[*square(closed="<tile>")[0]] * tiles, VOCABULARY["<close>"]]
        patches = [index for index, token in enumerate(tokens) if token == VOCABULARY["<image>"]]
        return Picture(tokens, patches, [(SIDE, SIDE)] * tiles, noise(seed, tiles, 3, *[2 * SIDE * PIXELS] * 2))


class TinyLlama4(TinyAyaVision):
    """The overview alone, or after two tiles; every other block sees a chunk, and is a mixture."""

    model_class = hf.Llama4ForConditionalGeneration
    repeatable: ClassVar[list[Any]] = []
    chunk = 512

    def config(self, layers, **changes):
        side = 2 * SIDE * PIXELS
        return hf.Llama4Config(
            vision_config=hf.Llama4VisionConfig(
                **{**VISION, "intermediate_size": 4 * VISION["hidden_size"]},  # what four patches make together
                image_size=side,
                patch_size=PIXELS,
                vision_output_dim=32,
                projector_input_dim=32,
                projector_output_dim=32,
            ),
            text_config=hf.Llama4TextConfig(
                **TEXT,
                num_hidden_layers=layers,
                head_dim=8,
                intermediate_size_mlp=48,
                num_local_experts=4,
                interleave_moe_layer_step=2,
                no_rope_layer_interval=2,
                attention_chunk_size=self.chunk,
            ),
            image_token_index=VOCABULARY["<image>"],
            boi_token_index=VOCABULARY["<open>"],
            eoi_token_index=VOCABULARY["<close>"],
            **changes,
        )

    def picture(self, seed):
        tiles = 3 if seed % 2 else 1
        tokens = [VOCABULARY["<open>"]]
        for mark in ("<tile>", "\n")[: tiles - 1]:
            tokens += [*square()[0], VOCABULARY[mark]]
        tokens += [VOCABULARY["<overview>"], *square()[0], VOCABULARY["<close>"]]
        patches = [index for index, token in enumerate(tokens) if token == VOCABULARY["<image>"]]
        return Picture(tokens, patches, [(SIDE, SIDE)] * tiles, noise(seed, tiles, 3, *[2 * SIDE * PIXELS] * 2))


class TinyMistral3(Tiny):
    """Pictures of 5 × 4, 3 × 6, ... merged patches, padded to the largest."""

    model_class = hf.Mistral3ForConditionalGeneration
    ended = True
    shapes = ((5, 4), (3, 6), (5, 5), (4, 4))

    def config(self, layers, **changes):
        return hf.Mistral3Config(
            vision_config=hf.PixtralVisionConfig(**VISION, image_size=64, patch_size=PIXELS, head_dim=16),
            text_config=hf.MistralConfig(**TEXT, num_hidden_layers=layers, sliding_window=None, head_dim=8),
            image_token_index=VOCABULARY["<image>"],
            spatial_merge_size=2,
            tie_word_embeddings=False,
            **changes,
        )

    def picture(self, seed, shape=None):
        height, width = shape or self.shapes[seed % len(self.shapes)]
        tokens = [*[VOCABULARY["<image>"]] * width, VOCABULARY["<tile>"]] * height
        tokens[-1] = VOCABULARY["<close>"]
        patches = [index for index, token in enumerate(tokens) if token == VOCABULARY["<image>"]]
        pixels = noise(seed, 1, 3, 2 * height * PIXELS, 2 * width * PIXELS)
        return Picture(tokens, patches, [(height, width)], pixels)

    def disturbed(self, picture, patch):
        pixels, size = picture.pixels.clone(), 2 * PIXELS
        row, column = divmod(patch, picture.grids[0][1])
        pixels[:, :, row * size : (row + 1) * size, column * size : (column + 1) * size] += 8
        return pixels

    def batch(self, rows):
        pixels = [picture.pixels for row in rows for picture in row]
        sizes = torch.tensor([part.shape[-2:] for part in pixels])
        height, width = sizes.amax(dim=0).tolist()
        padded = [
            torch.nn.functional.pad(part, (0, width - part.shape[-1], 0, height - part.shape[-2])) for part in pixels
        ]
        return {"pixel_values": torch.cat(padded), "image_sizes": sizes}


class TinyPaliGemma(Tiny):
    """A prompt sees itself both ways."""

    model_class = hf.PaliGemmaForConditionalGeneration
    suffix = 1

    def config(self, layers, **changes):
        return hf.PaliGemmaConfig(
            vision_config=hf.SiglipVisionConfig(
                **VISION, image_size=SIDE * PIXELS, patch_size=PIXELS, vision_use_head=False
            ),
            text_config=hf.GemmaConfig(**TEXT, num_hidden_layers=layers, head_dim=8),
            image_token_index=VOCABULARY["<image>"],
            projection_dim=32,
            hidden_size=32,
            **changes,
        )

    def picture(self, seed):
        tokens, patches = square()
        return Picture(tokens, patches, [(SIDE, SIDE)], noise(seed, 1, 3, SIDE * PIXELS, SIDE * PIXELS))

    def token_types(self, ids):
        return {"token_type_ids": torch.zeros_like(ids)}


# Every model type that a family answers for; products take the first of them in full, see conftest.py.
FIRST = 9
# Method → model types that it refuses, for what they are built of.
# Whose blocks carry a state on, in place of attention, in part.
HYBRIDS = ("qwen3_5", "qwen3_5_moe")
REFUSED = {
    "only": ("gemma3", "aya_vision", "glm4v", "glm46v", "cohere2_vision", "llama4", *HYBRIDS),
    "rudder": ("aya_vision", "cohere2_vision"),
    "opera": ("gemma3", "aya_vision", "cohere2_vision", "llama4", *HYBRIDS),
    "vista": ("llama4",),
    "vti": ("llama4",),
    "sid": HYBRIDS,
    "crops": HYBRIDS,
}
# An expert takes tokens of all rows at once, and rounds by how many there are.
MIXTURES = ("qwen3_vl_moe", "glm4v_moe", "qwen3_5_moe", "llama4")
TINY: dict[str, type[Tiny]] = {
    "llava": TinyLlava,
    "llava_next": TinyLlavaNext,
    "llava_onevision": TinyLlavaOnevision,
    "qwen2_vl": TinyQwen2VL,
    "qwen2_5_vl": TinyQwen25VL,
    "internvl": TinyInternVL,
    "chameleon": TinyChameleon,
    "idefics3": TinyIdefics3,
    "smolvlm": TinySmolVLM,
    "qwen3_vl": TinyQwen3VL,
    "qwen3_vl_moe": TinyQwen3VLMoe,
    "gemma3": TinyGemma3,
    "aya_vision": TinyAyaVision,
    "mistral3": TinyMistral3,
    "glm4v": TinyGlm4V,
    "glm4v_moe": TinyGlm4VMoe,
    "glm46v": TinyGlm46V,
    "paligemma": TinyPaliGemma,
    "cohere2_vision": TinyCohere2Vision,
    "qwen3_5": TinyQwen35,
    "qwen3_5_moe": TinyQwen35Moe,
    "llama4": TinyLlama4,
}
