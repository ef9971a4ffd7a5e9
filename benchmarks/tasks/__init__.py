"""The table of tasks. It holds strings and imports nothing heavy, so that a listing needs no torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..suggest import suggestion

if TYPE_CHECKING:
    from .base import Task

# Name → "module:Class".                                                               ← the only line to add
TASKS: dict[str, str] = {
    "pope_random": "benchmarks.tasks.pope:PopeRandom",
    "pope_popular": "benchmarks.tasks.pope:PopePopular",
    "pope_adversarial": "benchmarks.tasks.pope:PopeAdversarial",
    "chair": "benchmarks.tasks.chair:Chair",
    "chair_wordnet": "benchmarks.tasks.chair:ChairWordnet",
    "caption": "benchmarks.tasks.caption:Caption",
    "mme": "benchmarks.tasks.mme_questions:Mme",
    "amber_generative": "benchmarks.tasks.amber_questions:AmberGenerative",
    "amber_generative_exact": "benchmarks.tasks.amber_questions:AmberGenerativeExact",
    "amber_attribute": "benchmarks.tasks.amber_questions:AmberAttribute",
    "amber_existence": "benchmarks.tasks.amber_questions:AmberExistence",
    "amber_relation": "benchmarks.tasks.amber_questions:AmberRelation",
    "hallusionbench": "benchmarks.tasks.hallusionbench_questions:HallusionBench",
    "mmvet": "benchmarks.tasks.mmvet:MmVet",
    "lab_mme": "benchmarks.lab.probes:LabMme",
    "lab_amber_generative": "benchmarks.lab.probes:LabAmberGenerative",
    "lab_amber_existence": "benchmarks.lab.probes:LabAmberExistence",
    "sycophancy": "benchmarks.tasks.sycophancy:Sycophancy",
}

GROUPS: dict[str, tuple[str, ...]] = {
    "pope": ("pope_random", "pope_popular", "pope_adversarial"),
    "amber": ("amber_generative", "amber_attribute", "amber_existence", "amber_relation"),
    "lab_amber": ("lab_amber_generative", "lab_amber_existence"),
}
"""Name → the tasks that it stands for."""


class UnknownTaskError(LookupError):
    """There is no task of that name."""


def expand_tasks(names: Iterable[str]) -> list[str]:
    """Names of tasks, groups replaced by their members, each once, in the order in which they first come.

    Raises:
        UnknownTaskError: for a name that is neither a task nor a group, with the nearest known one.
    """
    expanded: dict[str, None] = {}
    for name in names:
        if name not in TASKS and name not in GROUPS:
            raise _unknown(name, [*TASKS, *GROUPS])
        expanded.update(dict.fromkeys(GROUPS.get(name, (name,))))
    return list(expanded)


def load_task(name: str) -> Task:
    """The task called `name`; its module is imported only now.

    Raises:
        UnknownTaskError: for an unknown name; a group is none.
    """
    if name not in TASKS:
        raise _unknown(name, list(TASKS))
    module, _, attribute = TASKS[name].partition(":")
    task: Task = getattr(importlib.import_module(module), attribute)()
    return task


def _unknown(name: str, known: list[str]) -> UnknownTaskError:
    hint = suggestion(name, known)
    return UnknownTaskError(
        f"unknown task: got {name!r}; expected one of the table. {hint} Available: {', '.join(known)}."
    )
