"""A miniature COCO and a tiny checkpoint on disk, for tests of the runner."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tiny import picture, tiny_llava

from benchmarks.records import SampleRecord

NAMES = ("dog", "cat", "chair", "car", "cup", "bed", "bus", "kite")


def write_coco(folder: Path, count: int = 8, seed: int = 0, split: str = "val") -> Path:
    """`count` pictures of noise with four objects each, in COCO's layout."""
    draw = random.Random(seed)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for number in range(1, count + 1):
        name = f"{number:06d}.png"
        picture(number).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "height": 24, "width": 24})
        chosen = draw.sample(range(len(NAMES)), 4)
        box = {"area": 30, "bbox": [2, 3, 8, 6]}
        objects += [
            {"id": len(objects) + i, "image_id": number, "category_id": c + 1, **box} for i, c in enumerate(chosen)
        ]
        text = f"A {NAMES[chosen[0]]} and a {NAMES[chosen[1]]}."
        captions.append({"id": number, "image_id": number, "caption": text})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(NAMES)]
    instances = {"images": images, "annotations": objects, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(instances))
    (folder / "annotations" / f"captions_{split}.json").write_text(
        json.dumps({"images": images, "annotations": captions})
    )
    return folder


def write_checkpoint(folder: Path) -> Path:
    """The tiny LLaVA, as `save_pretrained` leaves it."""
    model, processor = tiny_llava()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def without_times(records: list[SampleRecord]) -> list[dict[str, Any]]:
    """Records as dictionaries, without what no two runs share."""
    return [{**record.to_dict(), "prefill_ms": None, "decode_ms": None} for record in records]
