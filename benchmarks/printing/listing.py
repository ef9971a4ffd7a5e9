"""What `--list` prints: the tables of methods, families, tasks, rules and prompts, as the registries hold them."""

from __future__ import annotations

from collections.abc import Mapping

import scr

from ..running.methods import BASELINE
from ..running.prompts import PROMPTS
from ..tasks import GROUPS, TASKS, load_task
from ..tasks.parsing import RULES


def print_list(what: str) -> None:
    """Print one table, a name and a line about it per row.

    Args:
        what: "methods", "families", "tasks", "rules" or "prompts".
    """
    rows = {"methods": methods, "families": families, "tasks": tasks, "rules": rules, "prompts": prompts}[what]()
    width = max(map(len, rows))
    for name, line in rows.items():
        print(f"{name:<{width}}  {line}")


def methods() -> Mapping[str, str]:
    """Name → summary and paper of every method, the baseline first."""
    entries = [scr.get_method(name) for name in scr.list_methods()]
    return {
        BASELINE: "the model as it is; always run beside a method",
        **{entry.name: f"{entry.summary} [{entry.paper}]" for entry in entries},
    }


def families() -> Mapping[str, str]:
    """Name → summary and the `model_type`s of every model family."""
    entries = [scr.get_family(name) for name in scr.list_families()]
    return {entry.name: f"{entry.summary} [{', '.join(entry.model_types)}]" for entry in entries}


def tasks() -> Mapping[str, str]:
    """Name → kind, rule and paper of every task, then the groups."""
    loaded = {name: load_task(name) for name in TASKS}
    rows = {
        name: f"{task.kind}, version {task.version}, rule {task.rule} [{task.paper}]" for name, task in loaded.items()
    }
    return {**rows, **{name: f"all of {', '.join(members)}" for name, members in GROUPS.items()}}


def rules() -> Mapping[str, str]:
    """Name → description of every rule that reads yes or no from an answer."""
    return RULES


def prompts() -> Mapping[str, str]:
    """Name → description of every prompt variant."""
    return {name: variant.summary for name, variant in PROMPTS.items()}
