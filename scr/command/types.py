"""What an argument of a command may be: each function reads one kind, or says what it expected.

All raise `argparse.ArgumentTypeError`. Standard library only.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from ..errors import DataFileError
from ..files import NotJSONError, parse_json

_LONGEST_PATH, _LONGEST_NAME = 4_096, 255  # bytes of a path and of each of its parts, as Linux and macOS have it
_LARGEST = 10**9


def name(text: str) -> str:
    """Read a name, of a model perhaps: it may be a path, so that it has a path's limits.

    Raises:
        argparse.ArgumentTypeError: for one that no file system and no hub takes.
    """
    size = len(text.encode("utf-8", "replace"))
    longest = max((len(part.encode("utf-8", "replace")) for part in text.split("/")), default=0)
    if size > _LONGEST_PATH or longest > _LONGEST_NAME:
        raise argparse.ArgumentTypeError(
            f"got {short(text)} of {size} bytes; expected at most {_LONGEST_PATH}, and {_LONGEST_NAME} between slashes"
        )
    return text


def path(text: str) -> Path:
    """Read a path.

    Raises:
        argparse.ArgumentTypeError: for one that no file system takes.
    """
    return Path(name(text))


def whole(text: str, least: int = -(2**63), most: int = 2**63 - 1) -> int:
    """Read a whole number.

    Raises:
        argparse.ArgumentTypeError: for anything else, and out of the range.
    """
    digits = text.strip().removeprefix("-")
    # Not more digits than int() reads.
    if not digits.isdecimal() or len(digits) > 20 or not least <= int(text) <= most:
        span = f"{least:,} to {most:,}" if most < 2**63 - 1 else f"{least:,} or more" if least > -(2**63) else "64 bits"
        raise argparse.ArgumentTypeError(f"got {short(text)}; expected a whole number, {span}")
    return int(text)


def positive(text: str) -> int:
    """Read a whole number of 1 or more."""
    if not text.isdecimal() or len(text) > 10 or not 1 <= int(text) <= _LARGEST:
        wanted = f"at most {_LARGEST:,}" if text.isdecimal() and text.strip("0") else "1 or more"
        raise argparse.ArgumentTypeError(f"got {short(text)}; expected {wanted}")
    return int(text)


def natural(text: str) -> int:
    """Read a whole number of 0 or more."""
    return whole(text, 0, _LARGEST)


def threads(text: str) -> int:
    """Read a number of processor threads: a process that asks for more than its system has is ended by it."""
    return whole(text, 1, 1024)


def all_or_positive(text: str) -> int | None:
    """Read a whole number of 1 or more; None for "all"."""
    return None if text == "all" else positive(text)


def real(text: str) -> float:
    """Read a number, which may be infinite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"got {short(text)}; expected a number")
    return value


def share(text: str) -> float:
    """Read a number in [0, 1)."""
    value = real(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"got {short(text)}; expected a share in [0, 1)")
    return value


def names(text: str) -> tuple[str, ...]:
    """Read names with commas between them, each once."""
    found = tuple(dict.fromkeys(name(part.strip()) for part in text.split(",") if part.strip()))
    if not found:
        raise argparse.ArgumentTypeError(f"got {short(text)}; expected names with commas between them")
    return found


def key_value(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE; a value that is no JSON is a string."""
    key, equals, value = text.partition("=")
    if not key.strip() or not equals:
        raise argparse.ArgumentTypeError(f"got {short(text)}; expected KEY=VALUE")
    return key.strip(), json_or_text(value)


def json_or_text(text: str) -> Any:
    """The JSON value that a text is, else the text.

    Raises:
        argparse.ArgumentTypeError: for JSON that no file may hold either: too deep, or with a number that is none.
    """
    try:
        return parse_json(text, "a value")
    except NotJSONError:
        return text
    except DataFileError as error:
        raise argparse.ArgumentTypeError(str(error).removesuffix(".")) from error


def short(text: str) -> str:
    """A value in quotation marks, cut where it is long."""
    return (
        ascii(text)
        if len(text) <= 60 and not text.isprintable()
        else repr(text if len(text) <= 60 else text[:57] + "...")
    )
