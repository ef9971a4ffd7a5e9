"""`scr.patch` as editors and type checkers see it: names of methods, and the fields of each, made from the table.

`python -m scr.methods.overloads` writes them into `scr/patching/prepare.py`, after a method or a field was added.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import itertools
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ..variants import Variant

PLACE = Path(__file__).parents[1] / "patching" / "prepare.py"
"""The file that has them."""
START, END = "# Made by `python -m scr.methods.overloads`:\n", "# So far made.\n"


def render() -> str:
    """The block between the two marks."""
    # Imported here, so that --help answers at once: methods bring torch.
    from ..patching.prepare import patch
    from . import METHODS

    usual = inspect.signature(patch).parameters["method"].default
    by_config: dict[type, list[str]] = {}
    for name, entry in METHODS.items():
        by_config.setdefault(entry.config_class, []).append(name)
    hints = {kind: typing.get_type_hints(kind) for kind in by_config}
    variants = {one for kind in hints for hint in hints[kind].values() for one in _variants(hint)}
    lines = ["if TYPE_CHECKING:"]
    for module, group in itertools.groupby(sorted(variants, key=_place), key=lambda one: one.__module__):
        lines.append(f"    from ..{module.partition('.')[2]} import {', '.join(one.__name__ for one in group)}")
    lines += [
        "",
        "MethodName = Literal[",
        *(f'    "{name}",' for name in METHODS),
        "]",
        '"""A row of the table."""',
        "",
    ]
    for kind, names in by_config.items():
        default = f" = {json.dumps(usual)}" if usual in names else ""
        lines += ["", "@overload", "def patch(", "    model: PreTrainedModel,"]
        lines += [f"    method: {_text(Literal[tuple(names)])}{default},", "    *,", "    family: str | None = None,"]
        lines += [_parameter(one, hints[kind][one.name]) for one in inspect.signature(kind).parameters.values()]
        lines += [") -> Patch: ...", ""]
    # Any, as the fields of a combination are given by `**`, of which a checker thinks that it may hold the family, too.
    rest = "model: PreTrainedModel, method: MethodConfig | str, *, family: Any = None"
    lines += ["", "@overload", f"def patch({rest}) -> Patch: ...", ""]
    return "\n".join(lines)


def written(text: str) -> str:
    """The file's text with the block in it."""
    before, rest = text.split(START)
    return f"{before}{START}{render()}\n\n{END}{rest.split(END)[1]}"


def _parameter(parameter: inspect.Parameter, hint: Any) -> str:
    default = parameter.default
    shown = "" if default is parameter.empty else " = ..."
    if default is None or isinstance(default, bool | int | float):
        shown = f" = {default}"
    elif isinstance(default, str):
        shown = f" = {json.dumps(default)}"
    return f"    {parameter.name}: {_text(hint)}{shown},"


def _text(hint: Any) -> str:
    """A field's type, widened to what `from_dict` reads: what JSON makes of ranges, tuples and variants."""
    if isinstance(hint, dataclasses.InitVar):
        return _text(hint.type)
    if get_origin(hint) is Literal:
        return f"Literal[{', '.join(json.dumps(one) for one in get_args(hint))}]"
    if get_origin(hint) in (types.UnionType, typing.Union):
        return " | ".join(_text(one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        return f"Sequence[{_text(get_args(hint)[0])}]"
    if hint is range:
        return "range | Sequence[int]"
    if _variants(hint):
        return f"{hint.__name__} | str | Mapping[str, Any]"
    return "None" if hint is types.NoneType else str(hint.__name__)


def _variants(hint: Any) -> list[type[Variant]]:
    return [hint] if isinstance(hint, type) and issubclass(hint, Variant) else []


def _place(kind: type[Variant]) -> tuple[str, str]:
    return kind.__module__, kind.__name__


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m scr.methods.overloads", description=__doc__).parse_args()
    PLACE.write_text(written(PLACE.read_text(encoding="utf-8")), encoding="utf-8")
