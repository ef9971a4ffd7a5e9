"""The training of `lab/smol`, stage by stage; killed at any moment, the same call goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scr import ConfigError

from ..pretrained.building import build_model, build_processor
from ..training.loop import load_finished, run_stage
from ..world.config import digest_of
from .batches import batches, make_batch
from .export import export
from .recipe import STAGES, SmolRecipe
from .stages import Stage, lora_stage, mean_of, projector_stage, tower_stage

__all__ = ["train"]


def train(
    recipe: SmolRecipe,
    decoder: Path,
    work: Path,
    output: Path,
    stages: tuple[str, ...] = STAGES,
    *,
    workers: int = 0,
    stop_after: int | None = None,
) -> list[dict[str, Any]]:
    """Run stages, taking finished ones and saved states from `work`; after the last one write what was trained.

    Args:
        recipe: Every number of the training.
        decoder: Folder of the language model.
        work: Where states are kept; made if absent.
        output: Where the trained parts go.
        stages: Which to run; those before them must be finished.
        workers: Threads that draw pictures ahead of time.
        stop_after: Give up after this many steps of the first unfinished stage, as a kill would; for tests.

    Returns:
        The curve of all stages that were run or found.

    Raises:
        ConfigError: If a stage before those asked for is not finished.
    """
    work.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)
    processor = build_processor(decoder, recipe.size)
    model: Any = build_model(decoder, recipe.size, recipe.seed)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    makers: dict[str, Callable[[], Stage]] = {
        "tower": lambda: tower_stage(model, recipe),
        "projector": lambda: projector_stage(model, processor),
        "lora": lambda: lora_stage(model, processor, recipe),
    }
    curve: list[dict[str, Any]] = []
    last = max(map(STAGES.index, stages))
    for name in STAGES[: last + 1]:
        stage, key = makers[name](), digest_of(recipe.inputs_of(name))
        found = load_finished(name, stage.module, work, key)
        if found is None:
            if name not in stages:
                raise ConfigError(
                    f"an earlier stage is not finished: got no {name} of this recipe in {work}; expected it there. "
                    f"Run it: `python -m benchmarks.lab.smol train --stage {name}`."
                )
            curve += _run(name, stage, recipe, work, key, workers, stop_after)
            if load_finished(name, stage.module, work, key) is None:
                return curve
        else:
            curve += found
    if STAGES[last] == "lora":
        export(model, recipe, curve, output)
    return curve


def _run(
    name: str, stage: Stage, recipe: SmolRecipe, work: Path, key: str, workers: int, stop_after: int | None
) -> list[dict[str, Any]]:
    count = max(1, recipe.val_scenes // recipe.stage(name).batch)
    val = [make_batch(recipe, name, "val", step) for step in range(count)]

    def measure(step: int) -> dict[str, float]:
        with torch.inference_mode():
            return mean_of([stage.measure(batch) for batch in val])

    with batches(recipe, name, workers) as batch_of:
        return run_stage(
            name,
            recipe.stage(name),
            stage.module,
            lambda step: stage.loss(batch_of(step)),
            work,
            key,
            save_every=recipe.save_every,
            measure=measure,
            stop_after=stop_after,
        )
