"""ICD (arXiv 2403.18715): contrast with the same image behind an instruction that confuses."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from .._hooks import GenerateCall
from ..branches.branch import Branch
from ..branches.prompts import with_instruction
from ..checkpoints.loading import load_processor
from ..contrast import contrast_logits
from ..errors import ConfigError, ModelLoadError
from ..fields import SOME, Factor, Index, Share
from .base import MethodConfig
from .branching import BranchesConfig, BranchesMethod, Others


@dataclass(frozen=True, kw_only=True, repr=False)
class ICDConfig(BranchesConfig):
    """The paper's contrast 1 and plausibility 0.1.

    Attributes:
        edited, engine: see `BranchesConfig`.
        instruction: a text of the kind that ICD takes, or its ids. A text becomes ids by the tokenizer of the model's
            checkpoint when a model is patched; the benchmarks do so beforehand.
        contrast: how strongly (ICD's α).
        plausibility: tokens whose probability is below this share of the highest are banned (ICD's β); 0: none.
    """

    symbols: ClassVar[Mapping[str, str]] = {"ICD's α": "contrast", "ICD's β": "plausibility"}
    example: ClassVar[Mapping[str, Any]] = {"instruction": (12, 15, 17), "contrast": 2.0}
    phrases: ClassVar[tuple[str, ...]] = ("instruction",)

    instruction: str | Annotated[tuple[Index, ...], SOME] = "You are a confused object detector."
    contrast: Factor = 1.0
    plausibility: Share = 0.1


class ICD(BranchesMethod):
    """`(1 + α)·l − α·l_confused`, where the confusing instruction stands right after the last image of a prompt.

    So does the port beside SID; with InstructBLIP, which is not supported here, ICD's own code puts it in the Q-Former.
    The configuration of a patched model has the instruction's ids.
    """

    name: ClassVar[str] = "icd"
    paper: ClassVar[str] = "arXiv 2403.18715"
    config_class: ClassVar[type[MethodConfig]] = ICDConfig

    config: ICDConfig

    def __init__(self, model: PreTrainedModel, config: ICDConfig) -> None:
        """See `Method`.

        Raises:
            ConfigError: for ids that the model does not have, or a text without a tokenizer to read it.
        """
        tokens = _tokens(model, config.instruction)
        embeddings: Any = model.get_input_embeddings()
        size = embeddings.num_embeddings
        if max(tokens) >= size:
            raise ConfigError(
                f"instruction leaves the vocabulary: got {tokens}; expected ids below {size}. Take them from the "
                "model's own tokenizer."
            )
        super().__init__(model, dataclasses.replace(config, instruction=tokens))
        self._tokens = tokens

    def branches(self, call: GenerateCall) -> Sequence[Branch]:
        """See `BranchesMethod`."""
        return [Branch(prompt=functools.partial(with_instruction, tokens=self._tokens), edited=self.config.edited)]

    def combine(self, clean: Float[Tensor, "rows vocab"], others: Others, step: int) -> Float[Tensor, "rows vocab"]:
        """See `BranchesMethod`."""
        confused = others[0] if self.config.contrast else clean
        return contrast_logits(clean, confused, self.config.contrast, plausibility=self.config.plausibility)


def _tokens(model: PreTrainedModel, instruction: str | tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(instruction, str):
        return instruction
    unread = ConfigError(
        f"an instruction without a tokenizer to read it: got {instruction!r} for a model of {model.name_or_path!r}; "
        "expected a checkpoint that has one. Give ids: "
        "instruction=processor.tokenizer.encode(text, add_special_tokens=False)."
    )
    if not model.name_or_path:
        raise unread
    try:
        tokenizer = load_processor(model.name_or_path).tokenizer
    except ModelLoadError as error:
        raise unread from error
    tokens = tuple(tokenizer.encode(instruction, add_special_tokens=False))
    if not tokens:
        raise ConfigError(f"an instruction without words: got {instruction!r}; expected some. Give a sentence.")
    return tokens
