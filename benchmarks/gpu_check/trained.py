"""A trained model that is always here, and prompts for it: the lab's LLaVA on the lab's pictures."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from scr.checkpoints import loading

from ..asking.answering import Answerer, Question
from ..asking.models import LoadedModel, find_model, load_model, load_processor
from ..lab import data_folder
from ..running.plan import LAB_SPLIT
from .bench import Bench

TRAINED = "lab/llava"
_PROMPT = "Please describe this image in detail."


def trained(bench: Bench, **options: Any) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """The model and a batch of prompts, one for each of `bench.pictures` pictures.

    Args:
        bench: says where to put it.
        options: of `from_pretrained`, such as a quantisation; without any it is in float32.
    """
    gc.collect()
    source = find_model(TRAINED)
    if options:
        processor = load_processor(source)
        model = loading.load_weights(source.location, name=TRAINED, **options)
        loaded = LoadedModel(
            name=TRAINED, revision=None, model=model, processor=processor, folder=source.folder, settings={}
        )
    else:
        loaded = load_model(source, device=str(bench.device))
    folder = data_folder(LAB_SPLIT, bench.pictures, TRAINED) / LAB_SPLIT
    pictures = sorted(folder.iterdir())[: bench.pictures]
    questions = [Question(id=path.name, image=path, prompt=_PROMPT) for path in pictures]
    return loaded.model, Answerer(loaded).encode(questions)
