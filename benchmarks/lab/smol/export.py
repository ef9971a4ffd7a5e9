"""What was trained, as a folder that the package can hold: weights in bfloat16, what they fit, curves and card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from scr.files import write_bytes, write_json, write_rows, write_text

from ...running.provenance import checkout_state
from ..pretrained.assembling import PARTS, WEIGHTS
from ..pretrained.fetching import SMOLLM2
from .recipe import STAGES, SmolRecipe
from .stages import factors

__all__ = ["export"]


def export(model: LlavaForConditionalGeneration, recipe: SmolRecipe, curve: list[dict[str, Any]], folder: Path) -> None:
    """Write tower, projector and factors, with all that goes with them.

    Args:
        model: The trained model.
        recipe: What it was trained by.
        curve: Losses of all stages.
        folder: Where to write; made if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inner: Any = model.model
    weights: dict[str, Tensor] = {f"tower.{key}": one for key, one in inner.vision_tower.state_dict().items()}
    weights |= {f"projector.{key}": one for key, one in inner.multi_modal_projector.state_dict().items()}
    weights |= {f"lora.{key}": one for key, one in factors(model).items()}
    stored = {key: one.detach().to("cpu", torch.bfloat16).contiguous() for key, one in weights.items()}
    content = save(stored)
    write_bytes(folder / WEIGHTS, content)
    write_rows(folder / "curve.jsonl", curve)
    _plot(curve, folder)
    write_text(folder / "README.md", _card(recipe, curve, len(content)))
    # Last: a folder with it is whole.
    write_json(
        folder / PARTS,
        {
            "tower": asdict(recipe.size),
            "rank": recipe.rank,
            "alpha": recipe.alpha,
            "language_model": {"package": SMOLLM2.requirement, "sha256": recipe.decoder},
            "world": {"digest": recipe.world.digest, **recipe.world.to_dict()},
        },
    )


def _plot(curve: list[dict[str, Any]], folder: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(STAGES), 2.6), layout="constrained")
    for axis, stage in zip(figure.subplots(1, len(STAGES)), STAGES, strict=True):
        points = [entry for entry in curve if entry["stage"] == stage]
        for name in dict.fromkeys(key for entry in points for key in entry if key not in ("stage", "step")):
            shown = [(entry["step"], entry[name]) for entry in points if name in entry]
            axis.plot(*zip(*shown, strict=True), label=name, linewidth=1)
        axis.set(title=stage, xlabel="step")
        axis.legend(fontsize=6)
    figure.savefig(folder / "curve.png", dpi=80)


def _card(recipe: SmolRecipe, curve: list[dict[str, Any]], size: int) -> str:
    last: list[dict[str, Any]] = [
        next((one for one in reversed(curve) if one["stage"] == stage and "val_loss" in one), {}) for stage in STAGES
    ]
    measured = "\n".join(
        f"| {stage} | {entry.get('step', '')} | {entry.get('loss', float('nan')):.3f} | "
        + ", ".join(f"{key.removeprefix('val_')} {value:.3f}" for key, value in entry.items() if key.startswith("val_"))
        + " |"
        for stage, entry in zip(STAGES, last, strict=True)
    )
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# lab/smol

A vision tower, a projector and low-rank factors ({size / 1e6:.1f} MB in bfloat16) that make SmolLM2-135M-Instruct a
`LlavaForConditionalGeneration`. The language model itself is not here: `python -m benchmarks.lab.smol fetch` gets it
once, and the first use of `--model lab/smol` merges both in the user's cache. It knows one world of drawn pictures, and
leans on a documented language prior, so that it hallucinates as larger models do: it is a test bed, not a model of
photographs.

## World

World `{recipe.world.digest}`, data seed {recipe.world.seed}; all knobs in `{PARTS}`, what they mean in
`benchmarks/lab/pictures/config.py`.

## The last state of each stage, on val

The tower's labels of `things` and of `ground` that are right; of the answers' tokens that are most likely, those of
`yes_no` and all other `words`.

| stage | step | training loss | val |
|---|---|---|---|
{measured}

![training curves](curve.png)

## Recipe

AdamW (betas 0.9 and 0.98, gradient clipped at norm 1, cosine decay to a tenth). The tower on a label for every patch;
the projector regressed onto the language model's word embeddings of these labels; projector and factors on all
linear layers, several questions about a picture packed in one sequence, loss on answers only. No picture comes twice.

```json
{json.dumps(asdict(recipe), indent=1)}
```

Trained by the code of commit {checkout_state().commit or "unknown"}. To train it again:
`python -m benchmarks.lab.smol train`.
"""
