"""Write a trained lab model as a checkpoint folder that loads like one from a hub, with its model card."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from ...running.provenance import checkout_state
from ..evaluate import evaluate
from ..families import LabFamily
from ..world.config import WORLD_FILE
from .recipe import RECIPES, Recipe

__all__ = ["export"]


def export(
    family: LabFamily, model: Any, recipe: Recipe, curve: list[dict[str, Any]], folder: Path, images: int
) -> dict[str, Any]:
    """Save weights in bfloat16 with all that goes with them, and evaluate what was saved, read back as float32.

    Args:
        family: The model's family.
        model: The trained model.
        recipe: What it was trained by.
        curve: Losses and metrics of all stages.
        folder: Where to write; made if absent.
        images: Val images for the metrics of the card.

    Returns:
        The metrics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = copy.deepcopy(model)
    stored.to(torch.bfloat16)
    stored.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone; a package is for all
    family.build_processor().save_pretrained(folder)
    world = {"digest": recipe.world.digest, **recipe.world.to_dict()}
    (folder / WORLD_FILE).write_text(json.dumps(world, indent=2) + "\n")
    with (folder / "curve.jsonl").open("w") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in curve)
    saved = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    metrics = evaluate(saved, processor, images, recipe.world)
    for shape in family.other_shapes:
        at = evaluate(saved, processor, max(1, images // 5), recipe.world, shape=shape, captions=False)
        metrics |= {f"{kind} at {shape[1]} × {shape[0]}": at[kind] for kind in ("random", "adversarial")}
    plot(curve, folder)
    (folder / "README.md").write_text(_card(family, recipe, metrics, saved))
    return metrics


def plot(curve: list[dict[str, Any]], folder: Path) -> None:
    """Draw the curves into ``curve.png``."""
    from matplotlib.figure import Figure

    stages = list(dict.fromkeys(entry["stage"] for entry in curve))
    figure = Figure(figsize=(3.2 * (len(stages) + 1), 2.6), layout="constrained")
    axes = figure.subplots(1, len(stages) + 1)
    for axis, stage in zip(axes, stages, strict=False):
        points = [entry for entry in curve if entry["stage"] == stage]
        axis.plot([entry["step"] for entry in points], [entry["loss"] for entry in points], linewidth=1)
        axis.set(title=f"{stage}: training loss", xlabel="step", yscale="log")
    measured = [entry for entry in curve if "random_accuracy" in entry]
    lengths = {stage: max(entry["step"] for entry in curve if entry["stage"] == stage) for stage in stages}
    steps = [
        entry["step"] + sum(lengths[stage] for stage in stages[2 : stages.index(entry["stage"])]) for entry in measured
    ]
    for name in ("random_accuracy", "random_recall", "adversarial_hallucination_rate", "chair_i"):
        axes[-1].plot(steps, [entry[name] for entry in measured], label=name, linewidth=1)
    axes[-1].set(title=f"{', '.join(stages[2:])}: val metrics", xlabel="step", ylim=(0, 1))
    axes[-1].legend(fontsize=6)
    figure.savefig(folder / "curve.png", dpi=80)


def _card(family: LabFamily, recipe: Recipe, metrics: dict[str, Any], model: Any) -> str:
    questions = "\n".join(
        f"| {kind} | {m['accuracy']:.3f} | {m['recall']:.3f} | {m['hallucination_rate']:.3f} | {m['yes_ratio']:.3f} "
        f"| {m['tp']} | {m['fp']} | {m['tn']} | {m['fn']} | {m['unparsed']} |"
        for kind, m in metrics.items()
        if isinstance(m, dict) and "tp" in m
    )
    c = metrics["captions"]
    captions = (
        f"| {c['captions']} | {c['chair_i']:.3f} | {c['chair_s']:.3f} | {c['recall']:.3f} "
        f"| {c['mentions']} | {c['hallucinated']} | {c['well_formed']} |"
    )
    native = (recipe.size.image_size, recipe.size.image_size)
    sizes = ", or a fifth of them where another size than their own is named" if family.other_shapes else ""
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# lab/{family.name}

{family.title} of {model.num_parameters() / 1e6:.1f} million parameters for the lab of `scr-vlm`: the real class
`{type(model).__name__}` with {family.parts},
{recipe.size.text_blocks} blocks over {family.tokens(native)} image tokens.
{family.sees}
It knows one small synthetic world of drawn objects, and nothing else: it is a test bed and a demonstration, not a model
of photographs. What it was trained to say leans on a documented language prior, so that it hallucinates as larger
models do. Weights are stored in bfloat16; the metrics below hold for them loaded as float32.

## World

World `{recipe.world.digest}`, data seed {recipe.world.seed}; all knobs in `{WORLD_FILE}`, what they mean in
`benchmarks/lab/world/config.py`.
They were fixed from the unpatched model alone, on val, before any method was run on it.

## Val, before any method

First {metrics["images"]} val images{sizes}. HR is FP / (FP + TN).

| questions | accuracy | recall | HR | yes | TP | FP | TN | FN | unparsed |
|---|---|---|---|---|---|---|---|---|---|
{questions}

| captions | CHAIR-i | CHAIR-s | recall | mentions | hallucinated | well-formed |
|---|---|---|---|---|---|---|
{captions}

![training curves](curve.png)

## Recipe

In stages, AdamW (betas 0.9 and 0.98, gradient clipped at norm 1, cosine decay to a tenth), float32 on a processor:
the vision tower on dense per-patch labels; the projector regressed onto the decoder's word embeddings of the labels
that an image token stands for; projector and decoder on cached vision features, several questions about an image packed
in one sequence, in one round, or in two where the recipe has `again`; the same once more, with more questions for what
is typical and absent. The final weights lie between those before and after that last stage, at `refined_share`.

```json
{json.dumps(asdict(recipe), indent=1)}
```

Trained by the code of commit {checkout_state().commit or "unknown"}. To train it again:
`python -m benchmarks.lab.train {family.name}{_seed(family, recipe)}`.
"""


def _seed(family: LabFamily, recipe: Recipe) -> str:
    """The flags of a recipe that differs from the family's own by its seed."""
    own = RECIPES[family.name].seed
    return "" if recipe.seed == own else f" --seed {recipe.seed} --output FOLDER"
