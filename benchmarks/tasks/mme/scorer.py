"""`score mme`: the 14 result files of MME."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from scr.files import read_text

from ..harnesses import FORMS
from ..parsing import parse_yes_no
from ..scoring import AnswerFileError, Scored, Scorer
from .harnesses import answers_of_file
from .rule import TASK_NAMES, Answer, Pair, pairs_by_image, pairs_by_line, score_tasks

COLUMNS = "image, question, true answer, response"


class MmeScorer(Scorer):
    """Scores a folder of result files.

    A file `<task>.txt` has one line per question and four columns with a TAB between: image, question, true answer,
    response. The official tool reads only the first four characters of a response, so that the line's end, which it
    takes for a part of it, changes nothing.
    """

    summary = "MME: 14 tasks of two questions per image; the rules of its eval_tool (calculation.py)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare `--results`, `--rule` and `--pairing`."""
        parser.add_argument(
            "--results",
            type=Path,
            required=True,
            metavar="DIR",
            help=f"folder of <task>.txt, TAB between {COLUMNS}; or a file: {FORMS}",
        )
        parser.add_argument(
            "--rule",
            choices=("mme", "strict"),
            default="mme",
            help="how responses are read: mme, the official first four characters; strict, ours, guesses nothing (mme)",
        )
        parser.add_argument(
            "--pairing",
            choices=("line", "image"),
            default="line",
            help="which two lines are one image: line, officially each line and the next; image, by the image's name, "
            "as always in a file of another tool (line)",
        )

    def score(self, options: argparse.Namespace) -> Scored:
        """Read and score.

        Raises:
            DataFileError: for a missing file, unless --allow-missing; a line without exactly four columns, as a TAB
                in a response makes it; a true answer that is neither yes nor no; lines that are no pairs.
        """
        place: Path = options.results
        of_a_tool = place.is_file()
        if of_a_tool:
            answers = answers_of_file(place, options.rule)
        else:
            files = {name: place / f"{name}.txt" for name in TASK_NAMES}
            answers = {name: read_answers(path, options.rule) for name, path in files.items() if path.is_file()}
        missing = [name for name in TASK_NAMES if name not in answers]
        if not answers or (missing and not options.allow_missing):
            what, names = ("answers to", missing) if of_a_tool else ("file for", [f"{name}.txt" for name in missing])
            raise AnswerFileError(
                f"{place}: got no {what} {len(missing)} of {len(TASK_NAMES)} tasks: {', '.join(names)}; expected one "
                f"each. {'Give --allow-missing to score the others.' if answers else 'Check the folder.'}"
            )
        by_line = options.pairing == "line" and not of_a_tool
        tasks: dict[str, list[Pair]] = {}
        unpaired = 0
        notes = [f"no file for {', '.join(missing)}: not scored"] if missing else []
        for name, own in answers.items():
            try:
                pairs = pairs_by_line(own) if by_line else pairs_by_image(own, options.allow_missing)
            except ValueError as error:
                where = f"{place}, {name}" if of_a_tool else place / f"{name}.txt"
                raise AnswerFileError(f"{where}: {error} See --pairing.") from error
            strange = sum(first.image != second.image for first, second in pairs)
            if strange:
                notes.append(f"{name}: {strange} pairs of lines are of two images; --pairing image pairs by name")
            left = len(own) - 2 * len(pairs)
            unpaired += left
            if left:
                notes.append(f"{name}: {left} answers have no partner and are not scored")
            tasks[name] = pairs
        rule = options.rule if by_line else f"{options.rule}, paired by image"
        scores, left_out = score_tasks(tasks), {"missing_tasks": len(missing), "unpaired": unpaired}
        counts = {**scores.counts, **{name: count for name, count in left_out.items() if count}}
        return Scored("mme", rule, dataclasses.replace(scores, counts=counts), notes)


def read_answers(path: Path, rule: str) -> list[Answer]:
    """The answers of one task's file, in the order of its lines; blank lines at the end are none.

    Raises:
        DataFileError: naming the file and the line.
    """
    # Not splitlines(): a form feed or a Unicode line separator in a response ends no line for the official tool.
    lines = read_text(path).rstrip("\n").split("\n")
    if lines == [""]:
        raise AnswerFileError(f"{path} is empty: got no line; expected two per image. Write the results again.")
    answers = []
    for number, line in enumerate(lines, start=1):
        columns = line.split("\t")
        if len(columns) != 4:
            raise AnswerFileError(
                f"{path}, line {number}: got {len(columns)} columns in {line[:60]!r}; expected 4 with a TAB between: "
                f"{COLUMNS}. A response must hold neither TAB nor line break: replace them with blanks."
            )
        image, _, target, response = columns
        if target.lower() not in ("yes", "no"):
            raise AnswerFileError(
                f"{path}, line {number}: got the true answer {target[:20]!r}; expected Yes or No. Repair the line."
            )
        answers.append(Answer(image, target.lower(), parse_yes_no(response, rule)))
    return answers
