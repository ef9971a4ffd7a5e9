"""What the command lines of this folder have in common: values, the guard around a command, flags that name a model."""

from __future__ import annotations

from typing import Any

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

__all__ = [
    "Parser",
    "add_model",
    "all_or_positive",
    "guarded",
    "json_or_text",
    "key_value",
    "names",
    "path",
    "positive",
    "real",
    "share",
    "short",
    "threads",
    "whole",
]


def add_model(group: Any, *, revision: bool = True, computed: bool = True) -> None:
    """Declare the flags that say which model, and how it is held.

    Args:
        group: a parser, or a group of one.
        revision: whether a branch, tag or commit may be named.
        computed: whether dtype and device may be chosen.
    """
    add = group.add_argument
    add("--model", default="lab/llava", metavar="NAME", help="lab name, local folder or hub id (%(default)s)")
    if revision:
        add("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    if computed:
        add("--dtype", default="auto", help="float32, bfloat16, float16 or auto (float32 on a CPU)")
        add("--device", default="auto", help="cpu, cuda, cuda:N or auto (a GPU if there is one)")
    add("--model-args", metavar="K=V[,K=V]", help="as lm-eval has it: pretrained=NAME,dtype=..., in place of the flags")
