"""From pairs of images and prompts to a predictor on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..methods.scr import SCR, SCRConfig
from ..storing.locks import alone_in
from .collecting import TARGETS_FILE, collect_maps
from .learning import Recipe, make_examples, new_predictor, spread_of, teach
from .pairs import Pair
from .predictor import Predictor
from .report import overlap_report
from .storing import save_predictor


def train_predictor(
    model: Any,
    processor: Any,
    pairs: Sequence[Pair],
    held_out: set[Path],
    config: SCRConfig,
    recipe: Recipe,
    folder: Path,
    *,
    model_named: Mapping[str, Any],
    batch_size: int = 8,
    show_progress: bool = False,
) -> Predictor:
    """Collect maps, train, measure, and write the predictor with its card.

    Args:
        model: the model.
        processor: its processor.
        pairs: what is asked.
        held_out: images that nothing is learnt from.
        config: of two-pass SCR, whose maps are learnt.
        recipe: how it is trained.
        folder: where the maps and the predictor go.
        model_named: name and state of the model, for the card; other maps in the folder are refused.
        batch_size: prompts per forward.
        show_progress: bars on standard error.

    Raises:
        ConfigError, DataFileError: as `collect_maps`.
        FolderInUseError: while another process collects maps in the folder.
    """
    resolved = SCR(model, config).config
    layers = resolved.to_dict()["attention_layers"]
    made_from = {**model_named, "attention_layers": layers, "heads": resolved.heads, "map_from": resolved.map_from}
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        targets = collect_maps(
            model,
            processor,
            pairs,
            resolved,
            folder / TARGETS_FILE,
            made_from,
            batch_size=batch_size,
            show_progress=show_progress,
        )
    learnt = [number for number, pair in enumerate(pairs) if pair.image not in held_out]
    told = {**made_from, "maps": len(learnt), "images": len({pairs[number].image for number in learnt})}
    spread = spread_of([targets.maps[number] for number in learnt])
    predictor = new_predictor(model, recipe, spread, {**told, "recipe": asdict(recipe)})
    examples = make_examples(
        model, processor, predictor, pairs, targets, batch_size=batch_size, show_progress=show_progress
    )
    known = [examples[number] for number in learnt]
    teach(predictor, known, recipe, show_progress=show_progress)
    report = overlap_report(predictor.eval(), known, [one for one in examples if one.image in held_out], resolved)
    predictor.card = replace(predictor.card, report=report)
    save_predictor(predictor, folder)
    return predictor
