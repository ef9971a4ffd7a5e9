"""Answers of several methods side by side, for a picture and a question: `python -m benchmarks.compare`.

One picture is an illustration and no evidence: `python -m benchmarks.run` measures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from .printing.arguments import Parser, add_model, guarded, key_value, names, positive
from .printing.shown import SideBySide
from .printing.wording import Piece, marked, word_differences

if TYPE_CHECKING:
    from rich.text import Text

    from scr.adapters import AdapterSource

    from .asking.answering import Answer, Question
    from .running.methods import Configs
    from .running.models import LoadedModel, ModelSource

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

CAPTION_PROMPT = "Please describe this image in detail."
"""What is asked where no prompt is given: CHAIR's."""
_YES_NO = re.compile(r"\W*(?:yes|no)\b", re.IGNORECASE)
# Told by more than colour: one is struck through, the other underlined.
_STYLES = {"same": "", "added": "bold green underline", "removed": "red strike"}

_EPILOG = """examples:
  python -m benchmarks.compare
  python -m benchmarks.compare --prompt "Is there a cat in the image?" --methods none,scr,purified,scr+purified
  python -m benchmarks.compare --methods scr,vcd --method-arg scr.scale=1.5 --method-arg vcd.contrast=2
  python -m benchmarks.compare --methods none,scr --adapters lab/refusal,lab/seed
  python -m benchmarks.compare --model llava-hf/llava-1.5-7b-hf --image kitchen.jpg --image street.png --json
  python -m benchmarks.compare --model llava-hf/llava-1.5-7b-hf --image holiday/

The unpatched model comes first. Each adapter is shown alone and with each method. Words that an answer has and the
first one has not are underlined, those that it lacks are struck through; without colours they are [+so] and [-so].
"""


class Row(NamedTuple):
    """What is put on the model: an adapter or none, and inside it a method, "none" for no method."""

    method: str
    adapter: AdapterSource | None = None

    @property
    def name(self) -> str:
        """As `benchmarks.run` calls it."""
        if self.adapter is None:
            return self.method
        return self.adapter.name if self.method == "none" else f"{self.adapter.name}, {self.method}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """One row's answer.

    Attributes:
        row: what was on the model.
        output: the answer.
        margin: logit of yes minus logit of no at the first token; None where the answer begins with neither.
        new_tokens: how many tokens it has.
        prefill_ms: median over the rounds, to the first token.
        total_ms: median over the rounds, to the last token.
        differences: words that it has and the first row's answer has not, and the reverse.
    """

    row: Row
    output: str
    margin: float | None
    new_tokens: int
    prefill_ms: float
    total_ms: float
    differences: list[Piece]

    @property
    def changed(self) -> bool:
        """Whether a word differs from the first row's answer."""
        return any(piece.kind != "same" for piece in self.differences)


def compare_answers(
    loaded: LoadedModel,
    question: Question,
    rows: Sequence[Row],
    given: Configs,
    *,
    generation: Mapping[str, Any],
    rounds: int = 3,
    report: Callable[[str], None] = lambda line: None,
) -> SideBySide:
    """Ask one question once per row and round; the rows take turns, so that a busy machine slows all of them.

    Args:
        loaded: the model.
        question: image and prompt.
        rows: what is put on the model; the first one's answer is compared with.
        given: as `benchmarks.running.methods.given_configs`, of all methods in the rows.
        generation: arguments of `generate`.
        rounds: how many are timed; one more before them is thrown away, as the first forward allocates.
        report: is told what happens.
    """
    from .asking.answering import Answerer

    answerer = Answerer(loaded)
    answers: list[list[Answer]] = [[] for _ in rows]
    for number in range(rounds + 1):
        report("warming up" if number == 0 else f"round {number} of {rounds}")
        for row, found in zip(rows, answers, strict=True):
            with _applied(loaded, row, given):
                found += answerer.answer([question], generation, seed=0, margins=True)
    first = answers[0][0].text
    compared = SideBySide()
    for row, found in zip(rows, answers, strict=True):
        text, timed = found[0].text, found[1:]
        compared.append(
            Compared(
                row=row,
                output=text,
                margin=found[0].margin if _YES_NO.match(text) else None,
                new_tokens=found[0].new_tokens,
                prefill_ms=statistics.median(one.prefill_ms for one in timed),
                total_ms=statistics.median(one.prefill_ms + one.decode_ms for one in timed),
                differences=word_differences(first, text),
            )
        )
    return compared


def print_answers(head: Mapping[str, Any], found: Sequence[Compared], file: TextIO | None = None) -> None:
    """Print the answers side by side.

    Args:
        head: model, dtype, device, image, prompt, rounds and adapters_trained_on_image, as in the JSON object.
        found: as `compare_answers` returns it.
        file: where to; None for standard output. Plain text where that is no terminal.
    """
    from .printing.console import Page

    page = Page(file)
    page.line(f"model {head['model']}, {head['dtype']} on {head['device']}", style="bold")
    page.path(f"image: {head['image']}")
    page.line(f"prompt: {head['prompt']}")
    page.line()
    with_margin = any(one.margin is not None for one in found)
    table = page.table("", "answer", *(["margin"] if with_margin else []), "tokens", "first\ntoken ms", "all ms")
    table.padding = (0, 0, 1, 2)
    for column in table.columns:
        column.vertical = "top"
    table.columns[1].justify = "left"
    for one in found:
        margin = [] if not with_margin else ["–" if one.margin is None else f"{one.margin:+.2f}"]
        numbers = (str(one.new_tokens), f"{one.prefill_ms:.0f}", f"{one.total_ms:.0f}")
        name = one.row.name.replace(", ", ",\n").replace("+", "+\n")
        table.add_row(name, _shown(one, page.colour), *margin, *numbers)
    page.add(table)
    marks = "underlined: added; struck through: left out" if page.colour else "[+added] [-left out]"
    page.line(f"Words, compared with {found[0].row.name}: {marks}.")
    if with_margin:
        page.line("Margin: logit of yes minus logit of no at the first token.")
    rounds = "one round" if head["rounds"] == 1 else f"{head['rounds']} rounds, the median"
    page.line(f"Milliseconds of {rounds}, after one that was thrown away.")
    for name in head["adapters_trained_on_image"]:
        page.line(f"{name} was trained on this image.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 if answers were shown, 2 for an argument or input that cannot be used, 1 where the machine failed, 130 if
        interrupted.
    """
    return guarded(lambda: _run(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.compare",
        description="Show the answers of several methods and adapters side by side, for a picture and a question.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add_model(parser)
    add("--image", type=Path, action="append", default=[], metavar="FILE",
        help="a picture, or a folder of some; may be given again (a lab model: one of the lab's)")  # fmt: skip
    add("--prompt", type=str, default=CAPTION_PROMPT, metavar="TEXT", help="what is asked (%(default)s)")
    add("--methods", type=names, default=("none", "scr", "purified"), metavar="NAME[,NAME]",
        help="none,scr,purified; A+B is both, one inside the other")  # fmt: skip
    add("--method-arg", type=key_value, action="append", default=[], metavar="[NAME.]K=V",
        help="field of the methods' configurations; with a NAME, of that method alone")  # fmt: skip
    add("--adapters", type=names, default=(), metavar="NAME[,NAME]", help="lab/refusal, a folder, a hub id (none)")
    add("--max-new-tokens", type=positive, default=128, metavar="N", help="where answers are cut off (%(default)s)")
    add("--rounds", type=positive, default=3, metavar="N", help="how often each is timed (%(default)s)")
    add("--json", action="store_true", help="print a JSON object a picture, each on a line")
    return parser


def _run(options: argparse.Namespace) -> int:
    import torch

    from .asking.answering import Question
    from .running.adapters import overlapping_images, resolve_adapter
    from .running.methods import BASELINE, check_methods, effective_configs, given_configs, recorded_config
    from .running.models import find_model, load_model, resolve_device, resolve_dtype, skeleton

    methods = list(dict.fromkeys((BASELINE, *map(str.lower, options.methods))))
    check_methods(methods, dict(options.method_arg))
    device = resolve_device(options.device)
    source = find_model(options.model, options.revision)
    dtype = resolve_dtype(options.dtype, device, source)
    images = _find_images(options.image, source)
    given = given_configs(methods, source, dict(options.method_arg))
    effective = effective_configs(skeleton(source), given)
    adapters = [None, *(resolve_adapter(name, source) for name in options.adapters)]
    rows = [Row(method, adapter) for adapter in adapters for method in methods]
    _say(f"loading {source.name} on {device} in {dtype}")
    loaded = load_model(source, dtype=dtype, device=str(device))
    # As the runner: trained models underflow a lot, and a CPU computes with denormals many times slower.
    torch.set_flush_denormal(True)
    generation = {"do_sample": False, "max_new_tokens": options.max_new_tokens}
    configs = {method: recorded_config(method, effective) for method in methods}
    for number, image in enumerate(images, start=1):
        if len(images) > 1:
            _say(f"picture {number} of {len(images)}: {image}")
        question = Question(id=image.name, image=image, prompt=options.prompt)
        found = compare_answers(
            loaded, question, rows, given, generation=generation, rounds=options.rounds, report=_say
        )
        trained_on = [one.name for one in adapters if one is not None and overlapping_images(one, [image])]
        head = {
            "model": source.name,
            "revision": source.revision,
            "dtype": dtype,
            "device": str(device),
            "image": str(image),
            "prompt": options.prompt,
            "generation": generation,
            "rounds": options.rounds,
            "adapters_trained_on_image": trained_on,
        }
        if options.json:
            answers = [_as_json(one, configs[one.row.method]) for one in found]
            print(json.dumps({**head, "answers": answers}, ensure_ascii=False), flush=True)
        else:
            print_answers(head, found)
    return 0


def _find_images(given: Sequence[Path], source: ModelSource) -> list[Path]:
    """The pictures that are asked about, each once and checked before anything is loaded."""
    from scr import ConfigError

    from .lab import data_folder
    from .running.plan import LAB_SPLIT

    if not given:
        if not source.is_lab:
            raise ConfigError(
                f"no image: got model {source.name!r} without a picture; expected one, as only lab models bring "
                "pictures. Give --image FILE."
            )
        return [min((data_folder(LAB_SPLIT, 1) / LAB_SPLIT).iterdir())]
    found = list(dict.fromkeys(image for one in given for image in (_pictures(one) if one.is_dir() else [one])))
    for image in found:
        _check_picture(image)
    return found


def _pictures(folder: Path) -> list[Path]:
    from PIL import Image

    from scr import ConfigError

    known = Image.registered_extensions()
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in known and path.is_file())
    if not found:
        raise ConfigError(
            f"no pictures: got folder {str(folder)!r} without one; expected files that end in .jpg, .png or their "
            "like. Check the path."
        )
    return found


def _check_picture(path: Path) -> None:
    from PIL import Image

    from scr import ConfigError

    if not path.is_file():
        raise ConfigError(f"no such image: got {str(path)!r}; expected a picture's file. Check the path.")
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(
            f"image cannot be read: got {str(path)!r} ({error}); expected a picture that Pillow opens, such as a "
            "JPEG or PNG. Give another file."
        ) from error


@contextlib.contextmanager
def _applied(loaded: LoadedModel, row: Row, given: Configs) -> Iterator[None]:
    """The row's adapter and, inside it, its method on the model."""
    import scr

    from .running.methods import patched

    adapter = contextlib.nullcontext() if row.adapter is None else scr.adapter(loaded.model, row.adapter)
    with adapter, patched(loaded.model, row.method, given):
        yield


def _as_json(one: Compared, config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "row": one.row.name,
        "method": one.row.method,
        "config": config,
        "adapter": None if one.row.adapter is None else one.row.adapter.name,
        "output": one.output,
        "changed": one.changed,
        "differences": [[piece.kind, piece.text] for piece in one.differences],
        "margin": one.margin,
        "new_tokens": one.new_tokens,
        "prefill_ms": one.prefill_ms,
        "total_ms": one.total_ms,
    }


def _shown(one: Compared, colour: bool) -> Text:
    from rich.text import Text

    if not one.output and not one.differences:
        return Text("(empty)")
    if not colour:
        return Text(marked(one.differences))
    text = Text()
    for number, piece in enumerate(one.differences):
        text.append(" " if number else "").append(piece.text, style=_STYLES[piece.kind])
    return text


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
