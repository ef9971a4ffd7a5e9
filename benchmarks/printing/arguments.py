"""What the command lines of this folder have in common: values, the guard around a command, flags and what
they mean.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scr.command.guard import guarded
from scr.command.parser import Parser
from scr.command.types import (
    all_or_positive,
    json_or_text,
    key_value,
    names,
    path,
    positive,
    real,
    share,
    short,
    threads,
    whole,
)

from ..running.prompts import PROMPTS

if TYPE_CHECKING:
    from ..running.plan import RunConfig

__all__ = [
    "Parser",
    "add_flags",
    "add_lab_model",
    "add_model",
    "all_or_positive",
    "guarded",
    "json_or_text",
    "key_value",
    "names",
    "path",
    "positive",
    "real",
    "run_config",
    "share",
    "short",
    "threads",
    "whole",
]


_MODEL = "lab/llava"


class _Flag(NamedTuple):
    """A flag of several commands: argparse's words for it, and what the help says of a default that is None."""

    options: Mapping[str, Any]
    unset: str = ""


# The flags of whatever asks questions.          ← the only line to add for a new one, beside its field in `RunConfig`
_FLAGS: dict[str, _Flag] = {
    "--method-arg": _Flag({
        "type": key_value, "action": "append", "default": [], "metavar": "[NAME.]K=V",
        "help": "field of the methods' configurations; with a NAME, of that method alone",
    }),
    "--prompt-variant": _Flag({
        "dest": "prompt", "default": "default", "metavar": "NAME",
        "help": f"what is added to a question: {', '.join(PROMPTS)}",
    }),
    "--tasks": _Flag({
        "type": names, "default": ("pope", "chair"), "metavar": "NAME[,NAME]", "help": "tasks or groups",
    }),
    "--limit": _Flag({
        "type": all_or_positive, "default": 100, "metavar": "N", "help": "number of images, or 'all'",
    }),
    "--data-dir": _Flag({
        "type": Path, "metavar": "DIR",
        "help": "COCO layout, or the benchmark's own; default: the lab's, for a lab model",
    }),
    "--split": _Flag({"metavar": "NAME", "help": "which annotations/instances_<NAME>.json"}, "the lab: test"),
    "--output-dir": _Flag({
        "type": Path, "default": Path("results"), "metavar": "DIR", "help": "where records go",
    }),
    "--batch-size": _Flag({"type": positive, "default": 50, "metavar": "N", "help": "samples per batch"}),
    "--seed": _Flag({
        "type": whole, "default": 0, "metavar": "N", "help": "of the questions drawn, and of sampling",
    }),
    "--gen-kwarg": _Flag({
        "type": key_value, "action": "append", "default": [], "metavar": "K=V", "help": "argument of generate (greedy)",
    }),
}  # fmt: skip
# A flag that is called otherwise than the field of `RunConfig` that it sets.
_FIELDS = {"method": "methods", "method_arg": "method_args", "gen_kwarg": "generation"}


def add_flags(group: Any, *flags: str, **defaults: Any) -> None:
    """Declare flags that several commands have, with one meaning in all of them.

    Args:
        group: a parser, or a group of one.
        flags: rows of the table above.
        defaults: of this command, where they are others: "data_dir" of `--data-dir`.
    """
    for flag in flags:
        options, unset = dict(_FLAGS[flag].options), _FLAGS[flag].unset
        name = flag.removeprefix("--").replace("-", "_")
        default = options["default"] = defaults.pop(name, options.get("default"))
        shown = unset if default is None else ",".join(default) if isinstance(default, tuple | list) else str(default)
        if shown:
            options["help"] += f" ({shown})"
        group.add_argument(flag, **options)
    if defaults:
        raise TypeError(f"defaults of no flag: got {', '.join(defaults)}; expected some of {', '.join(flags)}.")


def run_config(options: argparse.Namespace, **others: Any) -> RunConfig:
    """What the flags of a command mean; a field that it has no flag for is as `RunConfig` has it.

    Args:
        options: what a parser read.
        others: fields that are no flag's, or another value for one that is.

    Raises:
        ConfigError: as `RunConfig`.
    """
    from ..running.plan import RunConfig  # late: it imports torch

    given = {_FIELDS.get(name, name): value for name, value in vars(options).items()} | others
    for name in ("method_args", "generation"):
        given[name] = dict(given.get(name, ()))
    if isinstance(given.get("methods"), str):
        given["methods"] = (given["methods"],)
    known = {one.name for one in dataclasses.fields(RunConfig)}
    return RunConfig(**{name: value for name, value in given.items() if name in known})


def add_lab_model(group: Any) -> None:
    """Declare the flag of what is done with the lab's models alone."""
    group.add_argument("--model", default=_MODEL, metavar="NAME", help="name of a lab model (%(default)s)")


def add_model(group: Any, *, revision: bool = True, computed: bool = True) -> None:
    """Declare the flags that say which model, and how it is held.

    Args:
        group: a parser, or a group of one.
        revision: whether a branch, tag or commit may be named.
        computed: whether dtype and device may be chosen.
    """
    add = group.add_argument
    add("--model", default=_MODEL, metavar="NAME", help="lab name, local folder or hub id (%(default)s)")
    if revision:
        add("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    if computed:
        add("--dtype", default="auto", help="float32, bfloat16, float16 or auto (float32 on a CPU)")
        add("--device", default="auto", help="cpu, cuda, cuda:N or auto (a GPU if there is one)")
    add("--model-args", metavar="K=V[,K=V]", help="as lm-eval has it: pretrained=NAME,dtype=..., in place of the flags")
