"""What our command lines have in common. Standard library only."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all our errors, without the twelve lines of usage before it."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with status 2."""
        self.exit(2, f"error: {message}. See --help.\n")


def positive(text: str) -> int:
    """Read a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected 1 or more")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """Read names with commas between them, each once."""
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not found:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected names with commas between them")
    return found


def key_value(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE; a value that is no JSON is a string."""
    key, equals, value = text.partition("=")
    if not key.strip() or not equals:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected KEY=VALUE")
    return key.strip(), json_or_text(value)


def json_or_text(text: str) -> Any:
    """The JSON value that a text is, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def all_or_positive(text: str) -> int | None:
    """Read a whole number of 1 or more; None for "all"."""
    return None if text == "all" else positive(text)


def guarded(run: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Run a command, say in one line what went wrong, and return the exit status.

    Args:
        run: the command.
        interrupted: what is said where it was interrupted.

    Returns:
        What `run` returned; 2 for an argument or input that cannot be used, 1 for a run that failed, 130 if
        interrupted. A fault of the program is raised.
    """
    try:
        return run()
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, `head` perhaps, has seen enough; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return code


def exit_code(error: Exception) -> int | None:
    """The exit status that an error asks for: 2 for a fault of the command, 1 for a run that failed, None for one of
    the program.
    """
    from scr import SCRError

    from .prompts import UnknownPromptError
    from .ranks import FailedElsewhereError, RanksError
    from .records import RecordError
    from .runner import RunFailedError
    from .store import FolderInUseError
    from .tasks import UnknownTaskError

    if isinstance(error, RunFailedError | FolderInUseError | FailedElsewhereError | RanksError):
        return 1
    if isinstance(error, SCRError | RecordError | UnknownTaskError | UnknownPromptError):
        return 2
    # A full disk, a folder that may not be written: nothing that a traceback would explain.
    return 1 if isinstance(error, OSError) else None
