"""The one reader and the one writer of text files: what they take, what they refuse, and in which words."""

import contextlib
import json
import os
import random
import re
from pathlib import Path

import pytest

from scr import DataFileError, files

LETTERS = ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r", "\n", "\udcff", "\U0001f600")


@pytest.mark.parametrize("letter", LETTERS)
def test_rows_come_back_as_they_were_written(tmp_path, letter):
    rows = [{"text": f"one{letter}two"}, {letter: [1, 2.5, None]}]
    path = tmp_path / "rows.jsonl"
    files.write_rows(path, rows)
    assert files.read_rows(path) == rows
    # Also by tools that end a line at any of these.
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == rows


@pytest.mark.parametrize("letter", LETTERS[:8])
def test_rows_that_others_wrote_may_hold_line_separators(tmp_path, letter):
    path = tmp_path / "rows.jsonl"
    raw = json.dumps(letter) if letter < " " else f'"{letter}"'
    path.write_text(f'{{"a": {raw}}}\n\n{{"a": 1}}', encoding="utf-8")
    assert files.numbered_rows(path) == [(1, {"a": letter}), (3, {"a": 1})]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("text", ['{"a": "é"}\n{"a": 2}\n', '[{"a": "é"},\n {"a": 2}]'])
def test_encodings_line_ends_and_arrays(tmp_path, encoding, end, text):
    path = tmp_path / "rows.json"
    path.write_bytes(text.replace("\n", end).encode(encoding))
    assert files.read_rows(path) == [{"a": "é"}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON: got an empty text; expected one JSON value"),
        (b" \n", "got an empty text"),
        (b"{'a': 1}", "is no JSON: got"),
        (b"\xca\xfd\xbe\xdd", "is not text: got 'utf-8' codec can't decode byte 0xca"),
        (b"\xff\xfea", "is not text"),
        (b'{"a": 1e999}', "the number 1e999 is too large"),
        (b"-1E+400", "the number -1E.400 is too large"),
        (b"[" + b"9" * 400 + b".0]", "is too large"),
        (b"NaN", "NaN is no number of JSON"),
        (b"[-Infinity]", "-Infinity is no number of JSON"),
        (b"9223372036854775808", "the integer 9223372036854775808 has more than 64 bits"),
        (b"1" * 5000, "has more than 64 bits"),
        (b"[" * 101 + b"]" * 101, "is nested too deep: got more than 100 levels"),
        (b'{"a":' * 2_000 + b"1" + b"}" * 2_000, "is nested too deep"),
        (b"[" * 200_000, "is nested too deep"),
    ],
)
def test_what_is_refused(tmp_path, content, message):
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(DataFileError, match=message) as caught:
        files.read_json(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_limits_are_not_narrower_than_they_say(tmp_path):
    path = tmp_path / "value.json"
    deep = json.loads("[" * 99 + "]" * 99)
    value = {"deep": deep, "big": [2**63 - 1, -(2**63), 1.7976931348623157e308, 5e-324], "text": "1e999 NaN"}
    path.write_text(json.dumps(value))
    assert files.read_json(path) == value


def test_what_is_no_file_is_named(tmp_path, monkeypatch):
    with pytest.raises(DataFileError, match=r"cannot read .*: got No such file or directory"):
        files.read_json(tmp_path / "none.json")
    with pytest.raises(DataFileError, match="got Is a directory"):
        files.read_rows(tmp_path)
    with pytest.raises(DataFileError, match=r"cannot read '.*\\x00': got embedded null byte"):
        files.read_text(tmp_path / "a\0")
    (tmp_path / "long").write_bytes(b"12345")
    monkeypatch.setattr(files, "MAX_BYTES", 4)
    with pytest.raises(DataFileError, match="is too long: got more than 4 bytes"):
        files.read_bytes(tmp_path / "long")


def test_a_name_that_comes_twice(tmp_path):
    path = tmp_path / "value.json"
    path.write_text('{"a": {"b": 1, "b": 2}}')
    assert files.read_json(path) == {"a": {"b": 2}}
    with pytest.raises(files.RepeatedNameError, match="got 'b' twice"):
        files.read_json(path, once=True)


def test_the_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 1e999}\n')
    with pytest.raises(DataFileError, match=r"rows\.jsonl, line 2 is no JSON: got .*1e999.* one JSON value per line"):
        files.read_rows(path)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "value.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {1, 2})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["value.json"]


def test_what_json_does_not_know_is_null(tmp_path):
    path = tmp_path / "value.json"
    files.write_json(path, {1: (float("nan"), float("-inf"), 2.5)})
    assert files.read_json(path) == {"1": [None, None, 2.5]} == files.json_value({1: [float("inf"), None, 2.5]})


def test_writing_through_links_and_to_what_is_no_file(tmp_path):
    files.write_text(tmp_path / "there", "old")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert files.read_text(tmp_path / "there") == "new"
    files.write_text("/dev/null", "gone")


def test_nobody_else_parses_json():
    """Beside the reader: what the processes of one run tell each other."""
    root = Path(__file__).parent.parent
    paths = [path for folder in ("scr", "hooks", "benchmarks", "analysis") for path in (root / folder).rglob("*.py")]
    found = {str(path.relative_to(root)) for path in paths if re.search(r"\bjson\.loads?\(", path.read_text("utf-8"))}
    assert found == {"scr/files.py", "benchmarks/running/ranks.py"}


def test_random_bytes_end_in_a_value_or_a_sentence(tmp_path):
    generator = random.Random(0)
    path = tmp_path / "rows.json"
    seed = json.dumps([{"id": 12, "name": "é\u2028", "size": [1.5e3, -2], "nested": {"a": [True, None]}}]).encode()
    pieces = (b"1e999", b"NaN", b"[" * 3_000, b"\xff", b"\x00", b'"', b"9" * 30, b"}", b"\n", b"-", b"\xed\xa0\x80")
    for _ in range(500):
        content = bytearray(seed)
        for _ in range(generator.randint(1, 4)):
            start = generator.randrange(len(content) + 1)
            content[start : start + generator.randint(0, 9)] = generator.choice(pieces)
        path.write_bytes(content)
        for read in (files.read_json, files.read_rows):
            with contextlib.suppress(DataFileError):
                read(path)
