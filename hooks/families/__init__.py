"""The table of model families: `config.model_type` → family. A new family is one file and one line here."""

from __future__ import annotations

import weakref

from torch import nn
from transformers import PreTrainedModel

from ..errors import UnsupportedModelError, suggestion
from .aya_vision import AyaVision
from .base import ImagePatches, ModelFamily, PatchGrid
from .chameleon import Chameleon
from .cohere2_vision import Cohere2Vision
from .gemma3 import Gemma3
from .glm4v import Glm4V
from .idefics3 import Idefics3
from .internvl import InternVL
from .llama4 import Llama4
from .llava import Llava
from .llava_next import LlavaNext, LlavaOnevision
from .mistral3 import Mistral3
from .paligemma import PaliGemma
from .qwen2_vl import Qwen2VL
from .qwen3_5 import Qwen35
from .qwen3_vl import Qwen3VL

FAMILIES: dict[str, ModelFamily] = {
    family.name: family
    for family in (
        Llava(),
        LlavaNext(),
        LlavaOnevision(),
        Qwen2VL(),
        InternVL(),
        Chameleon(),
        Idefics3(),
        Qwen3VL(),
        Gemma3(),
        AyaVision(),
        Mistral3(),
        Glm4V(),
        PaliGemma(),
        Cohere2Vision(),
        Qwen35(),
        Llama4(),
    )
}

# What users ask for and cannot have: model type → why, and what to load instead.
_REFUSED = {
    "internvl_chat": "its remote code embeds the image outside `forward`, and is not made for transformers 5. Load the "
    "converted checkpoint, whose name ends in -hf, such as 'OpenGVLab/InternVL3-8B-hf'.",
    "qwen": "the remote code of Qwen-VL v1 drops the image under transformers 5. Load 'Qwen/Qwen2-VL-7B-Instruct'.",
    "mllama": "its image never enters the residual stream, but is read by cross-attention: there are no patches to "
    "redistribute. Load a model that puts image tokens in the prompt, such as 'llava-hf/llava-1.5-7b-hf'.",
    "gemma3n": "its blocks pass several streams on side by side: there is no one residual stream to edit. Load "
    "'google/gemma-3-4b-it'.",
    **dict.fromkeys(
        ("blip-2", "idefics2", "instructblip"),
        "learnt queries pool its image: its tokens are no patches, and have no neighbours. Load a model whose image "
        "tokens are patches, such as 'llava-hf/llava-1.5-7b-hf'.",
    ),
    **dict.fromkeys(
        ("gemma4", "gemma4_unified"),
        "where its patches lie is said by its processor to the vision tower, and not to the decoder. Load "
        "'google/gemma-3-4b-it'.",
    ),
    "molmo2": "which patches a token pools is said by its processor alone, and not to the decoder. Load "
    "'Qwen/Qwen3-VL-8B-Instruct'.",
    "phi4_multimodal": "its decoder embeds images by a module of its own, which `generate` cannot run by itself, as "
    "the two passes need. Load 'Qwen/Qwen3-VL-4B-Instruct'.",
    "florence2": "it is an encoder and a decoder: its image is read by cross-attention. Load a model that puts image "
    "tokens in the prompt, such as 'llava-hf/llava-1.5-7b-hf'.",
}


_MAPPED: weakref.WeakKeyDictionary[nn.Module, ModelFamily] = weakref.WeakKeyDictionary()
"""Base models of a type of their own, laid out as a family's: see `map_family`."""


def map_family(model: object, name: str) -> None:
    """Let the family called `name` answer for `model`, of a type that none answers for; until the model is dropped.

    Raises:
        UnsupportedModelError: if there is no such family, if another one answers for the model's type, or if the model
            lacks what the family asks of one.
    """
    if name not in FAMILIES:
        raise UnsupportedModelError(
            f"unknown family: got {name!r}; expected one of {sorted(FAMILIES)}. {suggestion(name, FAMILIES)}"
        )
    family = FAMILIES[name]
    if not isinstance(model, PreTrainedModel):
        find_family(model)
        return
    model_type = model.config.model_type
    known = next((one for one in FAMILIES.values() if model_type in one.model_types), None)
    if known is not None or model_type in _REFUSED:
        found = find_family(model)
        if found is not family:
            raise UnsupportedModelError(
                f"a family that does not answer for the model: got {name!r} for {model_type!r}; expected "
                f"{found.name!r}. Leave `family` out."
            )
        return
    try:
        family.check(model)
        family.visual_token_ids(model.config)
        family.blocks_added_to(model)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"a model that is not laid out as its family: got {model_type!r} ({type(model).__name__}) as {name!r}, "
            f"without {error.name!r}; expected one like {sorted(family.model_types)}. Name the family that it was made "
            "from."
        ) from error
    _MAPPED[model.base_model] = family


def find_family(model: object) -> ModelFamily:
    """The family of `model`: by its type, or the one that `map_family` was told.

    Raises:
        UnsupportedModelError: if `model` is no transformers model, or of a type that no family answers for.
    """
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(
            f"not a transformers model: got {type(model).__name__}; expected a PreTrainedModel, or a PeftModel or "
            "compiled model around one. Pass the model itself."
        )
    if model.base_model in _MAPPED:
        return _MAPPED[model.base_model]
    model_type = model.config.model_type
    known = {name: family for family in FAMILIES.values() for name in family.model_types}
    if model_type not in known and model_type not in _REFUSED and _sees_text_alone(model):
        raise UnsupportedModelError(
            f"text-only model: got {type(model).__name__} ({model_type!r}), which takes no images; expected a "
            f"vision-language model, one of {sorted(known)}. Load the whole of one with AutoModelForImageTextToText."
        )
    if model_type not in known:
        advice = _REFUSED.get(model_type) or (
            f"{suggestion(model_type, known, 'No name is near.')} Load a checkpoint of a supported family; name the "
            "family that this one is laid out as: scr.patch(model, family='qwen2_vl'); or add the family: one file and "
            "one line in hooks/families."
        )
        kind = "model type that cannot be patched" if model_type in _REFUSED else "unknown model type"
        raise UnsupportedModelError(
            f"{kind}: got {model_type!r} ({type(model).__name__}); expected one of {sorted(known)}. {advice}"
        )
    return known[model_type]


def _sees_text_alone(model: PreTrainedModel) -> bool:
    # Text is also what a model of remote code that declares nothing is taken to read.
    modalities = model.input_modalities
    declared = {modalities} if isinstance(modalities, str) else set(modalities)
    return declared == {"text"} and not hasattr(model.config, "vision_config")


__all__ = ["FAMILIES", "ImagePatches", "ModelFamily", "PatchGrid", "find_family", "map_family"]
