"""MME as a task: the release's folders, its questions as they are, and its scores.

The scores alone are in `benchmarks.tasks.mme.rule`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from ...records import RecordError, SampleRecord
from ...stats import Comparison, SampleTable
from ..base import Sample, Scores
from ..files import OfficialData, compare_shared, digest, refuse_split, sum_of_ratios
from ..yes_no import YesNoTask, grade_again
from .rule import SUMS, TASK_NAMES, Answer, Pair, score_tasks

_SUFFIXES = (".jpg", ".jpeg", ".png")


class Place(NamedTuple):
    """Where a question belongs: its task, its image, and which of the two questions about it, 1 or 2."""

    task: str
    image: str
    number: int

    @property
    def partner(self) -> Place:
        """The other question about the image."""
        return self._replace(number=3 - self.number)


class MmeTask(YesNoTask):
    """Two questions per image and task, and what each contributes to MME's scores.

    Attributes:
        tasks: names of the tasks.
        id_form: pattern of an id, with `TASKS` for their names and groups task, image and number.
    """

    rule = "mme"
    max_new_tokens = 32
    tasks: ClassVar[tuple[str, ...]]
    id_form: ClassVar[str]

    def place(self, name: str) -> Place:
        """Where a sample belongs, read from its id.

        Raises:
            RecordError: for an id of another form.
        """
        match = re.fullmatch(self.id_form.replace("TASKS", "|".join(self.tasks)), name)
        if match is None:
            raise RecordError(
                f"a sample has a wrong id: got {name!r}; expected an image, a task and 1 or 2. Run it again."
            )
        return Place(match["task"], match["image"], int(match["number"]))

    def table(self, records: Sequence[SampleRecord]) -> SampleTable:
        """What each record contributes to the score, acc and acc+ of each task, graded again from output and target.

        A question whose partner has no record is in acc alone.
        """
        graded = grade_again(records, self.rule)
        places = [self.place(record.id) for record in graded]
        correct = {place: record.outcome in ("tp", "tn") for place, record in zip(places, graded, strict=True)}
        above, below = np.zeros((2, len(graded), len(self.tasks), 3))
        for row, place in enumerate(places):
            right, partner, column = correct[place], correct.get(place.partner), self.tasks.index(place.task)
            above[row, column, 1], below[row, column, 1] = right, 1
            if partner is not None:
                # Per pair 100 (right answers / 2) + 100 (both right); half of it in each of the two rows.
                both = right and partner
                above[row, column, [0, 2]] = 50 * right + 50 * both, 0.5 * both
                below[row, column, [0, 2]] = 0.5
        width = 3 * len(self.tasks)
        return SampleTable(
            ids=[record.id for record in graded],
            images=[record.image for record in graded],
            metrics=tuple(name for task in self.tasks for name in (task, f"{task}_acc", f"{task}_acc_plus")),
            numerators=above.reshape(len(graded), width),
            denominators=below.reshape(len(graded), width),
            correct=np.array([correct[place] for place in places], dtype=bool),
            answers=[record.answer for record in graded],
        )

    def compare(self, baseline: Sequence[SampleRecord], method: Sequence[SampleRecord]) -> Comparison:
        """As `Task.compare`; pairs and sums are those of the samples that both runs have."""
        return compare_shared(self, baseline, method)


class MmeQuestion(NamedTuple):
    """One question of the release: its place, the image's file, the text, and "yes" or "no"."""

    place: Place
    path: Path
    text: str
    target: str


class Mme(MmeTask):
    """MME's 14 tasks, as far as the data folder holds them; a task that is not there has no score.

    The folder is the release's: `<task>/*.txt`, each with two lines, question and Yes or No with a TAB between, and the
    image of the same name beside it; or `<task>/questions_answers_YN/*.txt` and `<task>/images/`. Questions are asked
    as they are, task after task in the official order, in each by the image's name: `limit` 120 is existence, count,
    position and color, which papers call the hallucination subset.

    Metrics: as `benchmarks.tasks.mme.rule.score_tasks`, over the images both of whose questions were answered. The
    bootstrap of a difference draws images of all tasks together, that of a score images within each task.
    """

    name = "mme"
    version = 1
    paper = "Fu et al. 2023, MME, arXiv:2306.13394"
    checked_against = "benchmarks.score mme on the same answers; the release's files and images were not at hand"
    files = (
        "MME's release (MME_Benchmark_release_version of BradyFU/Awesome-Multimodal-Large-Language-Models): "
        "existence/*.txt with their images beside them, and so on"
    )
    ability = "perception"
    tasks = TASK_NAMES
    id_form = r"(?P<task>TASKS)/(?P<image>.+)-(?P<number>[12])"

    @classmethod
    def open_data(cls, folder: Path, split: str | None) -> OfficialData[list[MmeQuestion]]:
        """The questions of the tasks that are there.

        Raises:
            ConfigError: where no task is there, a file has other lines than two questions, or an image is missing.
        """
        refuse_split(split, "MME")
        rows, read = [], []
        for task in cls.tasks:
            place = folder / task
            apart = place / "questions_answers_YN"
            paths = sorted((apart if apart.is_dir() else place).glob("*.txt"))
            images = _images(place)
            read += paths
            rows += [row for path in paths for row in _read(path, task, images)]
        if not rows:
            from scr import ConfigError

            raise ConfigError(
                f"no data: got no {folder / cls.tasks[0] / '*.txt'}, nor of another task; expected {cls.files}. "
                "Give another --data-dir."
            )
        return OfficialData(folder=folder, sha256=digest(folder, read), content=rows)

    def samples(self, data: OfficialData[list[MmeQuestion]], seed: int) -> list[Sample]:
        """The release's questions, two per image; nothing is drawn."""
        return [
            Sample(
                id=f"{row.place.task}/{row.place.image}-{row.place.number}",
                image=row.path,
                prompt=row.text,
                target=row.target,
                # A file name may come in several tasks, of different pictures.
                unit=f"{row.place.task}/{row.place.image}",
            )
            for row in data.content
        ]

    def table(self, records: Sequence[SampleRecord]) -> SampleTable:
        """As `MmeTask.table`, with precision and recall of each task and the sums of scores."""
        table = super().table(records)
        outcomes = [record.outcome or "" for record in grade_again(records, self.rule)]
        own = np.array([self.place(record.id).task for record in records], dtype=np.str_)
        tp, fp, fn = (np.array([one == name for one in outcomes], dtype=np.float64) for name in ("tp", "fp", "fn"))
        columns = {}
        for task in self.tasks:
            there = own == task
            columns[f"{task}_precision"] = there * tp, there * (tp + fp)
            columns[f"{task}_recall"] = there * tp, there * (tp + fn)
        for name, parts in SUMS.items():
            chosen = [table.metrics.index(part) for part in parts]
            columns[name] = sum_of_ratios(table.numerators[:, chosen], table.denominators[:, chosen])
        more = [np.stack([pair[side] for pair in columns.values()], axis=1) for side in (0, 1)]
        return dataclasses.replace(
            table,
            metrics=(*table.metrics, *columns),
            numerators=np.concatenate([table.numerators, more[0]], axis=1),
            denominators=np.concatenate([table.denominators, more[1]], axis=1),
        )

    def score(self, records: Sequence[SampleRecord]) -> Scores:
        """The scores of a run; metrics, counts and intervals as `benchmarks.tasks.mme.rule.score_tasks`."""
        answers = {
            self.place(record.id): Answer(record.image, record.target, record.answer)
            for record in grade_again(records, self.rule)
        }
        tasks: dict[str, list[Pair]] = {}
        for place in sorted(answers):  # the same intervals in any order of records
            if place.number == 1 and place.partner in answers:
                tasks.setdefault(place.task, []).append((answers[place], answers[place.partner]))
        return score_tasks(tasks)


def _images(place: Path) -> dict[str, list[Path]]:
    """Name without suffix → image files of a task."""
    found: dict[str, list[Path]] = {}
    for path in sorted([*place.glob("*.*"), *(place / "images").glob("*.*")]):
        if path.suffix.lower() in _SUFFIXES:
            found.setdefault(path.stem, []).append(path)
    return found


def _read(path: Path, task: str, images: dict[str, list[Path]]) -> list[MmeQuestion]:
    """The two questions of a file.

    Raises:
        ConfigError: for other lines, or not exactly one image of that name.
    """
    from scr import ConfigError
    from scr.files import read_text

    lines = [line.split("\t") for line in read_text(path).split("\n") if line.strip()]
    targets = [line[-1].strip().lower() for line in lines]
    if len(lines) != 2 or any(len(line) != 2 for line in lines) or not {"yes", "no"}.issuperset(targets):
        raise ConfigError(
            f"a file of MME is broken: got {len(lines)} lines in {path}; expected two, each a question and Yes or No "
            "with a TAB between. Unpack the release again."
        )
    found = images.get(path.stem, [])
    if len(found) != 1:
        raise ConfigError(
            f"a file of MME has no image: got {len(found)} of the name {path.stem} for {path}; expected one "
            f"({', '.join(_SUFFIXES)}) beside it or in images/. Unpack the release again."
        )
    return [
        MmeQuestion(Place(task, found[0].name, number), found[0], line[0], target)
        for number, (line, target) in enumerate(zip(lines, targets, strict=True), start=1)
    ]
