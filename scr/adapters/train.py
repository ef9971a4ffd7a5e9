"""`python -m scr.adapters.train seed --model M --data F`: train an adapter, prepare its data, or merge it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command.guard import guarded
from ..command.parser import Parser
from ..command.types import key_value, positive, whole

if TYPE_CHECKING:
    import torch

    from .recipe import TrainingRecipe

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

DTYPES = ("float32", "bfloat16", "float16")
"""As `scr.adapters.recipe.DTYPES`."""

_EPILOG = """examples:
  python -m scr.adapters.train prepare --conversations llava_instruct_150k.json --images coco --output rows.jsonl
  python -m scr.adapters.train seed --model llava-hf/llava-1.5-7b-hf --data rows.jsonl --images coco --output seed
  torchrun --nproc-per-node 4 -m scr.adapters.train seed ...
  python -m scr.adapters.train refusal --model llava-hf/llava-1.5-7b-hf --data refusal.jsonl --output refusal
  python -m scr.adapters.train merge --model llava-hf/llava-1.5-7b-hf --adapter seed --output merged

A training that was stopped goes on where it stopped, by the same command. Refusal's data are made by
python -m benchmarks.refusal_data.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 if all went well, 2 for an argument or input that cannot be used, 1 where files cannot be written, 130 if
        interrupted.
    """
    return guarded(
        lambda: _run(build_parser().parse_args(argv)),
        "interrupted; the same command goes on from the last saved state",
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m scr.adapters.train",
        description="Train an adapter of a vision-language model, prepare data for it, or merge it.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in (("seed", "SEED-style self-distillation"), ("refusal", "discriminative refusal")):
        command = commands.add_parser(name, help=summary)
        command.add_argument("--model", required=True, metavar="NAME", help="hub id, local folder, or lab/... name")
        command.add_argument("--data", type=Path, required=True, metavar="FILE", help="rows: image, question, answer")
        command.add_argument("--images", type=Path, metavar="DIR", help="where images' names start (beside the rows)")
        command.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the adapter goes")
        command.add_argument("--config", metavar="FILE", help=f"recipe in place of {name}.toml")
        command.add_argument(
            "--set", type=key_value, action="append", default=[], metavar="K=V", help="a value of the recipe"
        )
        command.add_argument("--device", default="auto", help="cpu, cuda, or auto (a GPU if there is one)")
        command.add_argument("--quantize", choices=("nf4",), help="hold the model in 4 bits (QLoRA); CUDA only")
    prepare = commands.add_parser("prepare", help="rows from LLaVA-Instruct's conversations")
    prepare.add_argument("--conversations", type=Path, required=True, metavar="FILE", help="a JSON list")
    prepare.add_argument("--images", type=Path, required=True, metavar="DIR", help="where images' names start")
    prepare.add_argument("--count", type=positive, metavar="N", help="how many rows, drawn by the seed (all)")
    prepare.add_argument("--seed", type=whole, default=0, metavar="N", help="of the draw (0)")
    prepare.add_argument("--output", type=Path, required=True, metavar="FILE", help="the rows")
    merge = commands.add_parser("merge", help="model and adapter as one plain checkpoint")
    merge.add_argument("--model", required=True, metavar="NAME", help="hub id, local folder, or lab/... name")
    merge.add_argument("--adapter", required=True, metavar="NAME", help="named adapter, folder or hub id")
    merge.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the checkpoint goes")
    merge.add_argument("--dtype", choices=DTYPES, default="float32", help="of the checkpoint (float32)")
    return parser


def _run(options: argparse.Namespace) -> None:
    {"seed": _train, "refusal": _train, "prepare": _prepare, "merge": _merge}[options.command](options)


def _train(options: argparse.Namespace) -> None:
    from ..checkpoints.chosen import find_model
    from ..errors import MissingPackageError
    from .card import plot_curve, write_card
    from .loop import train_adapter
    from .processes import join_team
    from .recipe import load_recipe
    from .rows import read_rows

    recipe = load_recipe(options.config or options.command, dict(options.set))
    rows = read_rows(options.data, options.images)
    with join_team() as team:
        location, digest = find_model(options.model)
        model, processor = _load(location, recipe.dtype, options.device, options.quantize)
        if team.first:
            _say_what_is_trained(model, recipe, options.model)
        trained = train_adapter(
            model,
            processor,
            rows,
            recipe,
            options.output,
            kind=options.command,
            base=options.model,
            base_revision=digest or getattr(model.config, "_commit_hash", None),
            team=team,
            show_progress=True,
        )
        if not team.first:
            return
    write_card(trained.folder, data=f"`{options.data.name}`.")
    print(f"adapter: {trained.folder}")
    try:
        plot_curve(trained.folder)
    except MissingPackageError as error:
        print(f"no curve: {error}", file=sys.stderr)


def _prepare(options: argparse.Namespace) -> None:
    from ..errors import ConfigError
    from ..files import read_json
    from .rows import prepare_data, write_rows

    conversations = read_json(options.conversations)
    if not isinstance(conversations, list):
        raise ConfigError(
            f"no list of conversations: got {type(conversations).__name__} in {options.conversations}; expected a list."
        )
    prepared = prepare_data(conversations, options.images, options.count, options.seed)
    write_rows(options.output, prepared.rows)
    print(f"{len(prepared.rows)} rows of {len(conversations)} conversations in {options.output}")
    for reason, count in sorted(prepared.skipped.items()):
        print(f"skipped {count}: {reason}")


def _merge(options: argparse.Namespace) -> None:
    from ..checkpoints.chosen import locate
    from .load import merge_adapter

    model, processor = _load(locate(options.model).as_posix(), options.dtype, "cpu", None)
    changed = merge_adapter(model, options.adapter, options.output, processor=processor)
    print(f"checkpoint: {options.output} ({len(changed)} weights changed)")


def _load(location: str, dtype: str, device: str, quantize: str | None) -> tuple[Any, Any]:
    import torch

    from ..checkpoints.chosen import find_device
    from ..checkpoints.loading import load_processor, load_weights

    target = find_device(device)
    extra: dict[str, Any] = {}
    if quantize is not None:
        extra["quantization_config"] = _quantization(target)
        extra["device_map"] = {"": target}
    processor = load_processor(location)
    model = load_weights(location, dtype=getattr(torch, dtype), **extra)
    if quantize is None:
        torch.nn.Module.to(model, target)  # transformers' own is one, with a decorator that hides its signature
    return model, processor


def _quantization(device: torch.device) -> Any:
    import torch

    from ..errors import ConfigError, MissingPackageError

    if device.type != "cuda":
        raise ConfigError(
            f"4-bit weights need CUDA: got device {device.type!r}; expected a GPU. Leave --quantize out: LoRA on "
            "unquantized weights learns the same."
        )
    try:
        import bitsandbytes  # noqa: F401  transformers asks for it later, with a worse message
    except ImportError as error:
        raise MissingPackageError(
            "4-bit weights need bitsandbytes: got none installed; expected one. pip install bitsandbytes"
        ) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _say_what_is_trained(model: Any, recipe: TrainingRecipe, name: str) -> None:
    from .lora import lora_config, lora_layers, trainable_parameters

    with lora_layers(model, lora_config(model, recipe, name, None), trainable=True):
        counts = trainable_parameters(model)
    print(", ".join(f"{where}: {count:,} trained parameters" for where, count in counts.items()))


if __name__ == "__main__":
    sys.exit(main())
