"""Writes benchmarks' own files, small and in the official layouts, with made-up questions and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny import picture


def _picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)


def write_mme(folder: Path, count: int = 3) -> Path:
    """`existence` with its images beside the questions, `posters` with both apart; the same file names in both."""
    for task, questions, images in (("existence", "", ""), ("posters", "questions_answers_YN", "images")):
        for number in range(1, count + 1):
            path = folder / task / questions / f"{number:04d}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"Is it {task} {number}{one}? Please answer yes or no." for one in "ab"]
            path.write_text(f"{lines[0]}\tYes\n{lines[1]}\tNo\n")
            _picture(folder / task / images / f"{number:04d}.{'jpg' if number % 2 else 'png'}", number)
    return folder


def write_amber(folder: Path, count: int = 3) -> Path:
    """A caption per image, and a question of each type; relation and safe words of four objects."""
    kinds = {
        "generative": None,
        "discriminative-attribute-state": "yes",
        "discriminative-attribute-number": "no",
        "discriminative-attribute-action": "yes",
        "discriminative-hallucination": "no",
        "discriminative-relation": "yes",
        "relation": "no",
    }
    queries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for kind, truth in kinds.items():
        for image in range(1, count + 1):
            number = len(queries) + 1
            text = "Describe this image." if truth is None else f"Is it {kind} in this image?"
            queries.append({"id": number, "image": f"AMBER_{image}.jpg", "query": text})
            row = {"truth": ["dog", "grass"], "hallu": ["ball"]} if truth is None else {"truth": truth}
            annotations.append({"id": number, "type": kind, **row})
    (folder / "query").mkdir(parents=True)
    (folder / "query" / "query_all.json").write_text(json.dumps(queries))
    (folder / "annotations.json").write_text(json.dumps(annotations))
    related = {"dog": ["puppy"], "grass": ["lawn"], "ball": ["toy"], "cat": []}
    (folder / "relation.json").write_text(json.dumps(related))
    (folder / "safe_words.txt").write_text("lawn\nperson")
    for image in range(1, count + 1):
        _picture(folder / "image" / f"AMBER_{image}.jpg", image)
    return folder


def write_hallusionbench(folder: Path, below: str = "hallusion_bench") -> Path:
    """Two sets of a visual supplement, whose figure 0 is none, and one that depends on its figure; 15 questions."""
    rows = []
    for category, sub, number in (("VS", "chart", 0), ("VS", "map", 0), ("VD", "figure", 0)):
        for figure in range(3) if category == "VS" else range(2):
            for question in range(2) if category == "VS" else range(1):
                kind = str(figure) if category == "VS" else str(figure + 1)
                file = None if kind == "0" else f"./{category}/{sub}/{number}_{figure}.png"
                rows.append(
                    {
                        "category": category,
                        "subcategory": sub,
                        "visual_input": kind,
                        "set_id": str(number),
                        "figure_id": str(figure),
                        "question_id": str(question),
                        "question": f"Is {sub} {question} so?",
                        "gt_answer_details": "-",
                        "gt_answer": str((figure + question) % 2),
                        "filename": file,
                    }
                )
                if file is not None:
                    _picture(folder / below / file, len(rows))
    folder.mkdir(exist_ok=True)
    (folder / "HallusionBench.json").write_text(json.dumps(rows))
    return folder


def write_mmvet(folder: Path, capabilities: Sequence[Sequence[str]] = (("rec",), ("ocr", "math"), ("rec",))) -> Path:
    """A question for each set of capabilities; the first and the last are about one image."""
    rows = {}
    for number, needed in enumerate(capabilities):
        image = f"v1_{number % 2}.png"
        rows[f"v1_{number}"] = {
            "imagename": image,
            "question": f"What is {number}?",
            "answer": f"{number}<OR>it",
            "imagesource": "-",
            "capability": list(needed),
        }
        _picture(folder / "images" / image, number % 2)
    (folder / "mm-vet.json").write_text(json.dumps(rows))
    return folder
