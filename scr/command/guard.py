"""What becomes of an error at the top of a command: one line, an exit status, and a log of what a line cannot hold.

Standard library only: the exceptions of other modules are named, not imported.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

DONE, FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses: all went well; a run, the machine or the program failed; an argument or input cannot be used."""

# Exception → (exit status, whether its own sentence says it all); the nearest base class counts.  ← the line to add
ERRORS: dict[str, tuple[int, bool]] = {
    "hooks.errors.SCRError": (UNUSABLE, True),
    "benchmarks.records.RecordError": (UNUSABLE, True),
    "benchmarks.tasks.UnknownTaskError": (UNUSABLE, True),
    "benchmarks.running.prompts.UnknownPromptError": (UNUSABLE, True),
    "benchmarks.running.outcomes.RunFailedError": (FAILED, True),
    "scr.storing.locks.FolderInUseError": (FAILED, True),
    "benchmarks.running.ranks.FailedElsewhereError": (FAILED, True),
    "benchmarks.running.ranks.RanksError": (FAILED, True),
    "analysis.reading.load.ResultsError": (UNUSABLE, True),
    "builtins.OSError": (FAILED, False),
    "builtins.ModuleNotFoundError": (FAILED, False),
    "torch.OutOfMemoryError": (FAILED, False),
    "builtins.MemoryError": (FAILED, False),
    "builtins.RecursionError": (FAILED, False),
    "builtins.Exception": (FAILED, False),
}
# What is said of errors whose own words, if any, are no sentence for a user.
_SENTENCES = {
    "builtins.OSError": "the system refused: got {}; expected a disk with room, and files that may be read and "
    "written. Look at what was refused.",
    "builtins.ModuleNotFoundError": "a package is missing: got {}; expected the project's dependencies. Install it.",
    "torch.OutOfMemoryError": "the device's memory is full: got {}; expected room for the model and a batch. "
    "Take a smaller batch or model, or another device.",
    "builtins.MemoryError": "memory is full: got {}; expected room for the model and a batch. "
    "Take a smaller batch or model.",
    "builtins.RecursionError": "something is nested too deeply: got {}; expected an input that can be read. "
    "Look at the files that were given.",
    "builtins.Exception": "a fault of the program: got {}; expected none. Please report it with the log.",
}


def guarded(
    run: Callable[[], int | None],
    interrupted: str = "interrupted",
    say: Callable[[BaseException, str], None] | None = None,
) -> int:
    """Run a command; say in one line what went wrong, and return the exit status.

    Args:
        run: the command, its parsing included; None is 0.
        interrupted: what is said where it was interrupted.
        say: is given the error and the line, in place of printing the line to standard error.

    Returns:
        What `run` returned, else as the table above has it. What argparse exits with is taken over.
    """
    say = say or (lambda error, line: print(line, file=sys.stderr))
    try:
        return run() or DONE
    except SystemExit as exit_:  # argparse has printed its one line (or the help) already
        return exit_.code if isinstance(exit_.code, int) else DONE if exit_.code is None else UNUSABLE
    except KeyboardInterrupt as error:
        say(error, interrupted)
        # An interrupt that has passed through an exec(), of a dataclass being made perhaps, is noted by Python for its
        # end, where it would kill itself by the signal in place of the status; the next exec() takes the note away.
        exec("")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, `head` perhaps, has seen enough; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        status, line = described(error)
        say(error, line)
        return status


def described(error: Exception) -> tuple[int, str]:
    """The exit status and the line for an error; the traceback of one that a line does not explain is logged."""
    name = next(name for one in type(error).__mro__ if (name := _name(one)) in ERRORS)
    status, complete = ERRORS[name]
    said = " ".join(str(error).split())
    if complete and said:
        return status, f"error: {said}"
    kind = type(error).__name__
    got = f"{kind}: {said}" if said else kind
    sentence = _SENTENCES.get(name, _SENTENCES["builtins.Exception"])
    return status, f"error: {sentence.format(got[:300])} {_logged(error)}"


def _name(kind: type) -> str:
    # Beside a user's own benchmarks.py ours is called scr._benchmarks.
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("scr._")


def _logged(error: Exception) -> str:
    """Where the traceback is."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="scr-error-", suffix=".log")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{sys.argv}\n\n")
            file.writelines(traceback.format_exception(error))
    except OSError as reason:
        return f"No log: {reason.strerror}."
    return f"Log: {Path(name)}"
