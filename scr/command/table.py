"""The table of commands, and what finds and runs one: `scr NAME ...`, or `python -m scr NAME ...`.

The modules belong to folders that this one does not import: rows are strings. Standard library only, so that the list
is printed at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .._hooks import suggestion
from ..beside import beside
from ..version import __version__
from .guard import UNUSABLE, guarded


class Command(NamedTuple):
    """Where a command is.

    Attributes:
        module: it has a `main(argv)` that returns the exit status, and runs by `python -m` too.
        summary: one line for the list.
    """

    module: str
    summary: str


# Name → command, in the order in which a newcomer wants them.                ← the only line to add for a new command
COMMANDS: dict[str, Command] = {
    "describe": Command("scr.describing.command", "captions of your own photos that say where they are unsure: a page"),
    "marks": Command("analysis.marks", "whether a method helped on your photos, by what you have marked on that page"),
    "demo": Command("scr.demo", "a page to try methods on: drop a picture, and see the answers side by side"),
    "compare": Command("benchmarks.compare", "answers of several methods side by side, for a picture and a question"),
    "bench": Command("benchmarks.run", "run a model with and without methods on benchmarks, and compare"),
    "report": Command("analysis.report", "a page with all tables, figures, settings and samples; opens from disk"),
    "figures": Command("analysis.figures", "all tables and figures that the records allow"),
    "entropy": Command("analysis.entropy", "attention entropy against hallucination"),
    "results": Command("benchmarks.results", "what lies in a folder of results, compare two, remove runs"),
    "score": Command("benchmarks.score", "score answers that any other tool produced"),
    "protocol": Command("benchmarks.protocol", "declared protocols for real weights: run, check, hand in"),
    "sweep": Command("benchmarks.sweep", "one method at several configurations"),
    "calibrate": Command("benchmarks.calibrate", "choose settings on a validation split"),
    "doubts": Command("benchmarks.doubts", "whether the doubts of descriptions find what is made up"),
    "overhead": Command("benchmarks.overhead", "what the methods cost, in time and memory"),
    "gpu-check": Command("benchmarks.gpu_check", "what only a GPU can show: kernels, precision, memory, milliseconds"),
    "train": Command("scr.adapters.train", "train an adapter, prepare its data, or merge it"),
    "onepass": Command("scr.onepass", "train the predictor of one-pass SCR"),
    "publish": Command("scr.publish", "write a method as a repository that transformers' generate runs by itself"),
    "refusal-data": Command("benchmarks.refusal_data", "write training data of a refusal adapter"),
    "lab train": Command("benchmarks.lab.train", "train a lab model"),
    "lab smol": Command("benchmarks.lab.smol", "fetch a language model for the lab's largest model, and train that"),
    "lab adapt": Command("benchmarks.lab.adapt", "train the lab's adapters"),
    "lab tune": Command("benchmarks.lab.tune", "choose SCR's settings for a lab model"),
    "lab evaluate": Command("benchmarks.lab.evaluate", "how well a lab model sees"),
    "lab comparison": Command("benchmarks.lab.comparison", "compare all methods on the lab"),
    "lab prompts": Command("benchmarks.lab.prompts", "the lab's questions as a file, and its pictures"),
    "lab cheaper-maps": Command("benchmarks.lab.cheaper_maps", "what cheaper maps change of SCR"),
    "lab image-keep": Command("benchmarks.lab.image_keep", "draw what SEED's image_keep does to an adapter"),
    "lab only-below": Command("benchmarks.lab.only_below", "what only_below saves"),
}

_HEAD = """usage: scr COMMAND [ARGUMENTS]

Make vision-language models hallucinate less at inference time, and measure whether they do.
"""
_TAIL = """
`scr COMMAND --help` tells what a command takes; `python -m scr` is the same as `scr`. A flag may be written with dashes
or underscores, in the singular or the plural: --batch_size is --batch-size, --methods is --method.
`scr --version` prints the version. Exit statuses: 0 all went well, 1 a run or the machine failed, 2 an argument or
input cannot be used, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, or list all of them.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The command's exit status; 2 where there is no such command.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(given))


def bench() -> int:
    """Run `scr bench`: the script `scr-bench`, which so is as safe from a user's own modules as `scr` is."""
    return main(["bench", *sys.argv[1:]])


def score() -> int:
    """Run `scr score`: the script `scr-score`."""
    return main(["score", *sys.argv[1:]])


def report() -> int:
    """Run `scr report`: the script `scr-report`."""
    return main(["report", *sys.argv[1:]])


def _run(given: Sequence[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        print(listing())
        return 0
    if given[0] in ("-V", "--version", "version"):
        print(f"scr-vlm {__version__}")
        return 0
    words = [word.replace("_", "-") for word in given[:2]]
    for count in (2, 1):
        if command := COMMANDS.get(" ".join(words[:count])):
            own_packages_first()
            status: int = beside(*command.module.split(".", 1)).main(given[count:])
            return status
    if words[0] == "lab" and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(listing("lab "))
        return 0
    asked = " ".join(words if words[0] == "lab" else words[:1])
    hint = suggestion(asked, COMMANDS, "`scr --help` lists them.")
    shown = asked if len(asked) <= 60 else asked[:57] + "..."
    print(f"error: unknown command: got {shown!r}; expected one of {', '.join(COMMANDS)}. {hint}", file=sys.stderr)
    return UNUSABLE


def listing(prefix: str = "") -> str:
    """The commands whose names begin with `prefix`, one a line, with their summaries."""
    width = max(map(len, COMMANDS))
    rows = (f"  {name.ljust(width)}  {one.summary}" for name, one in COMMANDS.items() if name.startswith(prefix))
    return "\n".join((_HEAD, *rows, _TAIL.rstrip()))


def own_packages_first() -> None:
    """Let `benchmarks` and `analysis` be this project's, whatever the working directory has of these names."""
    root = str(Path(__file__).resolve().parents[2])
    sys.path[:] = [root, *(place for place in sys.path if place != root)]
