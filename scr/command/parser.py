"""How every command of this project reads its arguments. Nothing heavy is imported, so that `--help` answers
at once.

A flag may be written with dashes or underscores, and in the singular or the plural: `--batch_size` is `--batch-size`,
`--method` is `--methods`. What no command can use (an empty value, bytes that are no text, a name longer than any file
system takes) is refused here, in one sentence, for all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .._hooks import suggestion
from .types import name, path, short

LONGEST_ARGUMENT = 65_536
"""Characters of one argument: a question or a JSON value may be long, nothing is longer."""

_MODEL_ARGS = {
    "pretrained": "--model",
    "revision": "--revision",
    "dtype": "--dtype",
    "device": "--device",
    "attn_implementation": "--attn-implementation",
    "peft": "--adapter",
}
"""Key of `--model-args`, as lm-eval has it, and the flag that it sets, where a command has that flag."""
_OF_TRANSFORMERS = ("hf", "hf-multimodal")  # what lm-eval calls the kind of model, by `--model`


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all our errors, without the twelve lines of usage before it.

    An argument without a `type` is a name, and one of type `Path` a path: see `name` and `path`. Free text has the type
    `str`. Flags are never abbreviated.
    """

    def __init__(self, *arguments: Any, old_names: Mapping[str, str] | None = None, **options: Any) -> None:
        """As argparse's.

        Args:
            arguments: argparse's own.
            old_names: a flag's former name → what it is called now; the former still works, with a word on stderr.
            options: argparse's own.
        """
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*arguments, **options)
        self.register("type", None, name)
        self.register("type", Path, path)
        self._old_names = dict(old_names or {})

    def add_subparsers(self, **options: Any) -> Any:
        """As argparse's; what follows the sub-command is its own to check."""
        action = super().add_subparsers(**options)
        action.type = str
        return action

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, but nothing is left over: an unknown flag is an error here, where its neighbours are known."""
        given = list(sys.argv[1:] if args is None else args)
        for number, argument in enumerate(given):
            if wrong := _unusable(argument):
                self.error(f"{_place(given, number)}: {wrong}")
        found, unknown = super().parse_known_args(self._unfolded(self._named(given)), namespace)
        if unknown:
            first = next((word.partition("=")[0] for word in unknown if word.startswith("-")), unknown[0])
            known = [flag for flag in self._option_string_actions if flag.startswith("--")]
            near = suggestion(first.replace("_", "-"), known, "Choose one of this command's")
            self.error(f"unknown argument: got {short(first)}; expected one that this command has. {near}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with status 2."""
        end = " " if message.endswith("?") else ". "
        self.exit(2, f"error: {' '.join(message.split())}{end}See --help.\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse's, with the nearest choice."""
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, _unknown(str(value), [str(choice) for choice in action.choices]))

    def _named(self, given: Sequence[str]) -> list[str]:
        """The arguments, each flag as it was declared."""
        named: list[str] = []
        for number, word in enumerate(given):
            if word == "--":
                return [*named, *given[number:]]
            flag, equals, value = word.partition("=")
            flag = self._declared(flag)
            if new := self._old_names.get(flag):
                print(f"note: {flag} is called {new} now; the old name still works", file=sys.stderr)
                flag = new
            named.append(flag + equals + value)
        return named

    def _declared(self, flag: str) -> str:
        """The spelling in which a flag was declared; unchanged where there is none."""
        known = {*self._option_string_actions, *self._old_names}
        if not flag.startswith("--") or flag in known:
            return flag
        dashed = "--" + flag[2:].replace("_", "-")
        spellings = (dashed, f"{dashed}s", dashed.removesuffix("s"))
        return next((spelling for spelling in spellings if spelling in known), flag)

    def _unfolded(self, words: Sequence[str]) -> list[str]:
        """`--model-args pretrained=X,dtype=Y` as the flags that it stands for."""
        if "--model-args" not in self._option_string_actions:
            return list(words)
        flags: dict[str, str] = {}
        rest: list[str] = []
        values = iter(words)
        for word in values:
            flag, equals, value = word.partition("=")
            if flag == "--model-args":
                flags |= self._read_model_args(value if equals else next(values, ""))
            elif rest[-1:] == ["--model"] and word in _OF_TRANSFORMERS:
                rest[-1] = f"--model={word}"
            else:
                rest.append(word)
        if "--model" in flags:
            rest = [word for word in rest if word not in [f"--model={kind}" for kind in _OF_TRANSFORMERS]]
        if twice := [word for word in rest if word.partition("=")[0] in flags]:
            flag = twice[0].partition("=")[0]
            self.error(
                f"argument --model-args: got {flags[flag]!r} for {flag} too; expected one of both. Leave one out"
            )
        return [f"{flag}={value}" for flag, value in flags.items()] + rest

    def _read_model_args(self, text: str) -> dict[str, str]:
        """Flag → value."""
        known = [key for key, flag in _MODEL_ARGS.items() if flag in self._option_string_actions]
        flags: dict[str, str] = {}
        for part in text.split(","):
            key, _, value = (piece.strip() for piece in part.partition("="))
            if key not in known:
                self.error(f"argument --model-args: {_unknown(key, [f'{one}=...' for one in known])}")
            if not value:
                self.error(f"argument --model-args: got {short(part)}; expected KEY=VALUE with commas between them")
            flags[_MODEL_ARGS[key]] = value
        return flags


def _unknown(given: str, known: Sequence[str]) -> str:
    near = suggestion(given, known, "Choose one of them")
    return f"got {short(given)}; expected one of {', '.join(known)}. {near}"


def _unusable(argument: str) -> str | None:
    """Why no command can take an argument, or None."""
    _, equals, value = argument.partition("=")
    if not argument.strip() or (argument.startswith("--") and equals and not value.strip()):
        return "got an empty value; expected one. Give it, or leave the flag out"
    if len(argument) > LONGEST_ARGUMENT:
        return f"got {len(argument):,} characters; expected at most {LONGEST_ARGUMENT:,}"
    if "\0" in argument:
        return f"got a NUL character in {short(argument)}; expected text"
    if any("\ud800" <= letter <= "\udfff" for letter in argument):
        return f"got {short(argument)}, bytes that are no UTF-8; expected text. Rename the file, or mend the locale"
    return None


def _place(given: Sequence[str], number: int) -> str:
    """Which argument is meant: its flag, else its number."""
    for word in (given[number], given[number - 1] if number else ""):
        if word.startswith("--") and not _unusable(flag := word.partition("=")[0]):
            return f"argument {flag}"
    return f"argument {number + 1}"
