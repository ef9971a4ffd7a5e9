"""The tables of tasks and of scorers. They hold strings and import nothing heavy, so that a listing needs no torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from scr.errors import suggestion

if TYPE_CHECKING:
    from .base import Task
    from .scoring import Scorer

# Name → "module:Class".                                                               ← the only line to add
TASKS: dict[str, str] = {
    "pope_random": ".pope.task:PopeRandom",
    "pope_popular": ".pope.task:PopePopular",
    "pope_adversarial": ".pope.task:PopeAdversarial",
    "chair": ".chair.task:Chair",
    "chair_wordnet": ".chair.task:ChairWordnet",
    "caption": ".caption.task:Caption",
    "mme": ".mme.task:Mme",
    "amber_generative": ".amber.task:AmberGenerative",
    "amber_generative_exact": ".amber.task:AmberGenerativeExact",
    "amber_attribute": ".amber.task:AmberAttribute",
    "amber_existence": ".amber.task:AmberExistence",
    "amber_relation": ".amber.task:AmberRelation",
    "hallusionbench": ".hallusionbench.task:HallusionBench",
    "mmvet": ".mmvet.task:MmVet",
    "lab_mme": "..lab.probes:LabMme",
    "lab_amber_generative": "..lab.probes:LabAmberGenerative",
    "lab_amber_existence": "..lab.probes:LabAmberExistence",
    "sycophancy": ".sycophancy.task:Sycophancy",
}

# Name → where the class is that scores answers of other tools.                          ← the only line to add
SCORERS: dict[str, str] = {
    "pope": ".pope.scorer:PopeScorer",
    "chair": ".chair.scorer:ChairScorer",
    "mme": ".mme.scorer:MmeScorer",
    "hallusionbench": ".hallusionbench.scorer:HallusionBenchScorer",
    "amber": ".amber.scorer:AmberScorer",
    "caption": ".caption.scorer:CaptionScorer",
    "vqav2": ".vqav2.scorer:VQAv2Scorer",
    "mmvet": ".mmvet.scorer:MMVetScorer",
    "sycophancy": ".sycophancy.scorer:SycophancyScorer",
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
    return _made(TASKS[name])


def load_scorer(name: str) -> Scorer:
    """The scorer called `name`, one of `SCORERS`."""
    return _made(SCORERS[name])


def _made(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module, __name__), attribute)()


def _unknown(name: str, known: list[str]) -> UnknownTaskError:
    hint = suggestion(name, known)
    return UnknownTaskError(
        f"unknown task: got {name!r}; expected one of the table. {hint} Available: {', '.join(known)}."
    )
