"""The one reader and the one writer of text files: JSON, JSON lines, and plain text, whoever wrote them.

The reader takes what other tools write (byte order marks, CRLF, an array where lines are usual, Unicode line separators
inside a string) and says in one sentence what it cannot take. The writer replaces a file as a whole. No torch.
"""

from __future__ import annotations

import codecs
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import DataFileError

MAX_BYTES = 4 * 1024**3
"""Longest file that is read; the annotations of COCO train2017 have a ninth of it."""
MAX_DEPTH = 100
"""Deepest nesting of JSON that is read."""
_PIECE = 1 << 24
# Digits as 0 and E as e: what a number looks like that may be too large.
_SHAPE = bytes.maketrans(b"123456789E", b"000000000e")
_LARGE = (b"e000", b"e+000", b"0" * 19)
# Line ends to str.splitlines() and to many tools, but not to JSON, which leaves them as they are.
_SEPARATORS = {ord(letter): f"\\u{ord(letter):04x}" for letter in "\x85\u2028\u2029"}


class RepeatedNameError(DataFileError):
    """An object in a file has a name twice, as one by id has where a question is answered twice."""


class NotJSONError(DataFileError):
    """A text does not read as JSON at all, whatever its numbers and its depth."""


def read_bytes(path: Path) -> bytes:
    """What a file holds, read once: it may be a pipe.

    Raises:
        DataFileError: where there is no such file, it may not be read, or it has more than `MAX_BYTES`.
    """
    content = bytearray()
    try:
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                content += piece
                if len(content) > MAX_BYTES:
                    raise DataFileError(
                        f"{path} is too long: got more than {MAX_BYTES} bytes; expected at most so many. Give a part."
                    )
    except OSError as error:
        raise DataFileError(f"cannot read {path}: got {error.strerror}; expected a file. Check the path.") from error
    except ValueError as error:  # a path that no file can have
        raise DataFileError(f"cannot read {str(path)!r}: got {error}; expected a file. Check the path.") from error
    return bytes(content)


def decode(content: bytes, source: object) -> str:
    """The text of a file: UTF-8, or UTF-16 with its byte order mark; line ends are line feeds.

    Args:
        content: the file.
        source: its name, for the error.

    Raises:
        DataFileError: for what is no text.
    """
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFileError(f"{source} is not text: got {error}; expected UTF-8. Save it as UTF-8.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: Path) -> str:
    """A file's text, with or without a byte order mark; line ends are line feeds.

    Split it at line feeds: str.splitlines() also ends a line at what may stand within one, such as U+2028.

    Raises:
        DataFileError: as `read_bytes` and `decode`.
    """
    return decode(read_bytes(path), path)


def read_json(path: Path, *, once: bool = False) -> Any:
    """The one JSON value of a file.

    Args:
        path: the file.
        once: whether an object that has a name twice is an error; otherwise its last value counts.

    Raises:
        RepeatedNameError: naming the file and the name.
        DataFileError: for a file that cannot be read, or as `parse_json`.
    """
    return parse_json(read_text(path), path, once=once)


def read_rows(path: Path) -> list[Any]:
    """The rows of a JSON array, or of JSON lines, whatever the file is called; blank lines are no rows.

    Raises:
        DataFileError: naming the file and the first line that is no JSON.
    """
    return [row for _, row in numbered_rows(path)]


def numbered_rows(path: Path) -> list[tuple[int, Any]]:
    """As `read_rows`, each row with its line, or with its place in the array; both count from 1.

    Raises:
        DataFileError: as `read_rows`.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        return list(enumerate(parse_json(text, path), start=1))
    return [
        (number, parse_json(line, f"{path}, line {number}", "one JSON value per line, or a JSON array"))
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]


def _reads_as_json(text: str) -> bool:
    """Whatever its numbers are."""
    try:
        json.loads(text, parse_float=str, parse_int=str)
    except ValueError:
        return False
    return True


def parse_json(text: str, source: object, wanted: str = "one JSON value", *, once: bool = False) -> Any:
    """The JSON value that a text is: nested at most `MAX_DEPTH` deep, its numbers finite, its integers of 64 bits.

    Args:
        text: the JSON.
        source: what it is or where it stands, which begins the error.
        wanted: what the error says was expected.
        once: whether an object that has a name twice is an error; otherwise its last value counts.

    Raises:
        RepeatedNameError: naming the source and the name.
        NotJSONError: naming the source, for what does not read as JSON.
        DataFileError: naming the source and what else is wrong.
    """

    def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise RepeatedNameError(f"{source}: got {name[:60]!r} twice; expected each name once. Repair the file.")
        return content

    # A call for each number takes longer than all the rest, so it is made only where one may be too large.
    shape = text.encode("utf-8", "replace").translate(_SHAPE)
    checked = any(mark in shape for mark in _LARGE)
    try:
        value = json.loads(
            text,
            object_pairs_hook=unrepeated if once else None,
            parse_constant=_no_number,
            parse_float=_finite if checked else None,
            parse_int=_int64 if checked else None,
        )
    except DataFileError:
        raise
    except RecursionError:
        raise _too_deep(source) from None
    except ValueError as error:
        got = "an empty text" if not text.strip() else f"{' '.join(text[:60].split())!r} ({error})"
        kind = DataFileError if _reads_as_json(text) else NotJSONError
        raise kind(f"{source} is no JSON: got {got}; expected {wanted}. Repair it.") from error
    if _is_deep(value):
        raise _too_deep(source)
    return value


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text in UTF-8; a lone surrogate, as of an undecodable path, becomes its escape.

    Raises:
        OSError: where it cannot be written; what was there is there still.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file; whoever reads meanwhile, or after a crash, finds the old content or the new one, never a part.

    Raises:
        OSError: where it cannot be written; what was there is there still.
    """
    # Through a link to what it names. A pipe or a device can only be written to.
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def json_value(value: Any) -> Any:
    """A value without what JSON does not know: NaN and infinities are null, tuples lists, names of fields texts."""
    # What Python writes for NaN is refused by other readers, and null already means "not known".
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    return value


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON that any tool reads: one line unless indented, without what some tools end a line at.

    Args:
        value: as `json_value` takes it; NaN and infinities become null.
        indent: blanks per level.

    Raises:
        TypeError: for what is no JSON value.
    """
    text = json.dumps(json_value(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.translate(_SEPARATORS)


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Replace a file by a JSON value.

    Raises:
        TypeError: as `json_text`; nothing is written.
        OSError: as `write_text`.
    """
    write_text(path, f"{json_text(value, indent)}\n")


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Replace a file by JSON lines.

    Raises:
        TypeError: as `json_text`; nothing is written.
        OSError: as `write_text`.
    """
    write_text(path, "".join(f"{json_text(row)}\n" for row in rows))


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _int64(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"the integer {text[:20]} has more than 64 bits")
    return int(text)


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in (dict, list)
        ]
        if not level:
            return False
    return True


def _too_deep(source: object) -> DataFileError:
    return DataFileError(
        f"{source} is nested too deep: got more than {MAX_DEPTH} levels of JSON; expected at most so many. Repair it."
    )
