"""Random changes to JSON files: values of other types, hostile texts, huge numbers, lost fields, broken bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    5, -1, 0, 1.5, True, None, "", "x", [], {}, [1], ["a"], [[1, 2]], [[None]], {"a": {"b": []}}, 2**63 - 1, -(2**63),
    1e308, -1e308, "\udcff$a$b</script><x>=1", "a\0b", "../..", "9" * 400, [10**9, 10**9], [[0, 0]], [0.1, "x"],
)  # fmt: skip
BYTES = (b"1e999", b"NaN", b"[" * 3_000, b"\xff", b"\x00", b"1" * 5_000, b"", b"}", b"\xef\xbb\xbf", "\u2028".encode())


def mutate(path: Path, generator: random.Random) -> Any:
    """Change a file once; what was done, for the message of a test that fails."""
    if generator.random() < 0.2:
        content = bytearray(path.read_bytes())
        start, piece = generator.randrange(len(content) + 1), generator.choice(BYTES)
        content[start : start + generator.choice((0, 1, 7, len(content)))] = piece
        path.write_bytes(content)
        return path.name, start, piece[:20]
    lines = path.suffix == ".jsonl"
    value = [json.loads(line) for line in path.read_text().splitlines()] if lines else json.loads(path.read_text())
    place = generator.choice([one for one in _places(value) if one])
    holder = value
    for step in place[:-1]:
        holder = holder[step]
    new = generator.choice(VALUES)
    if isinstance(holder, dict) and generator.random() < 0.1:
        new = holder.pop(place[-1])
    else:
        holder[place[-1]] = copy.deepcopy(new)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in value) if lines else json.dumps(value))
    return path.name, place, new


def _places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Keys and indices that lead to each value; of a list its first two entries and its last."""
    yield before
    if isinstance(value, dict):
        for name in value:
            yield from _places(value[name], (*before, name))
    elif isinstance(value, list):
        for index in sorted({0, 1, len(value) - 1} & set(range(len(value)))):
            yield from _places(value[index], (*before, index))
