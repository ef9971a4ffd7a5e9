"""What stands beside a trained adapter: its card, its curve, and the way to the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataFileError
from ..files import read_json, write_text
from ..files import read_rows as read_json_rows
from .sources import CONFIG_FILE, IMAGES_FILE, WEIGHTS_FILE
from .states import LOG_FILE, RECORD_FILE

CARD_FILE, CURVE_FILE = "README.md", "curve.png"
_KINDS = {
    "seed": "SEED-style self-distillation (after Li et al., ACM MM 2025, arXiv 2507.04680): the model, trained to say "
    "at once what contrasting its image with a noised one would make of its words. Low-rank layers stand in for the "
    "paper's adapter, whose code is not public.",
    "refusal": "Discriminative refusal (after NANInithin/Compact-VLM): the model, trained on equal questions about "
    "objects that are there and objects that are verified not to be.",
}
_CURVES = ("loss", "dist", "sup", "strength", "confidence", "lr")


def write_card(folder: Path, measured: str = "", data: str = "", license: str | None = None) -> Path:
    """Write an adapter's model card from its record.

    Args:
        folder: the adapter's folder, after its training.
        measured: Markdown: metrics with their intervals, and what they were measured on.
        data: Markdown: where the rows come from.
        license: of the adapter; None leaves the line out, since it depends on the base model and the data.

    Raises:
        ConfigError: for a folder without a finished training.
    """
    record = read_record(folder)
    head: dict[str, Any] = {"base_model": record["base"], "library_name": "peft", "tags": ["lora", record["kind"]]}
    if license is not None:
        head["license"] = license
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in head.items()), "---", ""]
    lines += [f"# {record['kind']} for {record['base']}", "", _KINDS.get(record["kind"], ""), ""]
    lines += ["```python", 'with scr.adapter(model, "path/of/this/folder"):', "    model.generate(**inputs)", "```", ""]
    lines += ["## Data", "", data or f"{record['rows']} rows.", ""]
    lines += [
        f"{record['rows']} rows about {record['images']} images. `{IMAGES_FILE}` has a digest of each image, by which "
        "`benchmarks.run` refuses to evaluate on images that were trained on.",
        "",
    ]
    lines += ["## Recipe", "", "| setting | value |", "|---|---|"]
    lines += [f"| {name} | {json.dumps(value)} |" for name, value in _flat(record["recipe"])]
    lines += ["", f"{record['steps']} steps. At the last: {_numbers(record['last'])}.", ""]
    lines += ["## Measured", "", measured or "Nothing yet.", ""]
    path = folder / CARD_FILE
    write_text(path, "\n".join(lines))
    return path


def plot_curve(folder: Path) -> Path:
    """Draw a training's log, one panel per number, as `curve.png`.

    Raises:
        ConfigError: for a folder without a log.
    """
    from matplotlib.figure import Figure

    log = _read_log(folder)
    shown = [name for name in _CURVES if any(name in entry for entry in log)]
    figure = Figure(figsize=(7, 1.6 * len(shown)), layout="constrained")
    for axes, name in zip(figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0], shown, strict=True):
        axes.plot([entry["step"] for entry in log], [entry.get(name) for entry in log], color="#0072b2", linewidth=1)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    axes.set_xlabel("step")
    figure.savefig(folder / CURVE_FILE, dpi=110)
    return folder / CURVE_FILE


def push_adapter(folder: Path, repository: str, *, private: bool = True, api: Any = None) -> str:
    """Upload an adapter with its card to the hub.

    Args:
        folder: the adapter's folder.
        repository: hub id.
        private: whether a new repository is private.
        api: what uploads: `huggingface_hub.HfApi()` by default.

    Returns:
        Where it is.

    Raises:
        ConfigError: for a folder without adapter or card.
    """
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE) if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"nothing to push: got {folder} without {missing}; expected all of them. Train it, or write its card."
        )
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    files = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, CURVE_FILE, RECORD_FILE, IMAGES_FILE, LOG_FILE]
    return str(api.upload_folder(repo_id=repository, folder_path=str(folder), allow_patterns=files))


def read_record(folder: Path) -> dict[str, Any]:
    """What a training wrote about itself.

    Raises:
        ConfigError: for a folder without such a record.
    """
    path = folder / RECORD_FILE
    try:
        record: dict[str, Any] = read_json(path)
    except DataFileError as error:
        raise ConfigError(
            f"no record of a training: got {path} ({error}); expected one. Give the folder of a finished training."
        ) from error
    return record


def _read_log(folder: Path) -> list[dict[str, Any]]:
    path = folder / LOG_FILE
    if not path.is_file():
        raise ConfigError(f"no log of a training: got no {path}; expected one. Give the folder of a training.")
    return read_json_rows(path)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return rows


def _numbers(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, int | float))
