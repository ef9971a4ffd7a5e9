"""Every number of the training of `lab/smol`, in one frozen dataclass: all that its weights follow from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..pictures.config import PicturesConfig
from ..pretrained.building import TowerSize
from ..pretrained.fetching import SMOLLM2
from ..training.recipe import StageRecipe

__all__ = ["STAGES", "SmolRecipe"]

_TOWER = StageRecipe(steps=4500, batch=16, learning_rate=1e-3, warmup=200)
_PROJECTOR = StageRecipe(steps=300, batch=16, learning_rate=2e-3, warmup=20)
_LORA = StageRecipe(steps=400, batch=4, learning_rate=5e-4, warmup=30, weight_decay=0.0)

# In the order in which they run; a stage depends on all before it.
STAGES = ("tower", "projector", "lora")


@dataclass(frozen=True, kw_only=True)
class SmolRecipe:
    """How `lab/smol` is trained. Every step of every stage sees pictures that no step before it has seen.

    Attributes:
        seed: Seed of weights and questions.
        world: The world.
        size: The vision tower.
        decoder: sha256 of the file that the language model was read from.
        rank: Of the factors that are trained for each linear layer of the language model.
        alpha: Their product is scaled by `alpha / rank`.
        tower: Stage 1, the tower on a label for each patch.
        projector: Stage 2, the projector regressed onto the mean word embedding of what each patch shows.
        lora: Stage 3, projector and factors on questions and captions.
        min_cover: Share of a patch that a thing must cover for the patch to be labelled with it.
        ground_weight: Weight of a patch of ground in the loss of stage 1, where a thing's is 1.
        questions: Questions for existence per picture in stage 3.
        answer_weight: Weight of a yes/no token in the loss of stage 3, where a word of a caption has 1.
        val_scenes: Pictures of the split val that each saved state is measured on.
        save_every: Steps between two saved states; a killed run repeats at most so many.
    """

    seed: int = 7
    world: PicturesConfig = field(default_factory=PicturesConfig)
    size: TowerSize = field(default_factory=TowerSize)
    decoder: str = SMOLLM2.sha256
    rank: int = 16
    alpha: int = 32
    tower: StageRecipe = _TOWER
    projector: StageRecipe = _PROJECTOR
    lora: StageRecipe = _LORA
    min_cover: float = 0.25
    ground_weight: float = 0.1
    questions: int = 6
    answer_weight: float = 5.0
    val_scenes: int = 16
    save_every: int = 50

    def stage(self, name: str) -> StageRecipe:
        """Return the recipe of a stage.

        Raises:
            ValueError: If there is no such stage.
        """
        if name not in STAGES:
            raise ValueError(f"unknown stage: got {name!r}; expected one of {', '.join(STAGES)}. Choose one of these.")
        return getattr(self, name)

    def inputs_of(self, name: str) -> dict[str, Any]:
        """Return all that the result of a stage depends on, so that a finished stage is used again exactly if it can.

        Raises:
            ValueError: If there is no such stage.
        """
        self.stage(name)
        everything = asdict(self)
        done = STAGES[: STAGES.index(name) + 1]
        kept = {one: everything[one] for one in ("seed", "size", "min_cover", "ground_weight", *done)}
        kept["world"] = self.world.visual_digest
        if "projector" in done:
            kept["decoder"] = self.decoder
        if "lora" in done:
            kept |= {one: everything[one] for one in ("rank", "alpha", "questions", "answer_weight")}
            kept["language"] = self.world.digest
        return kept
