"""The frame of `python -m benchmarks.score`: one JSON object, a table, one line for what is wrong; and its readers."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import score
from benchmarks import tasks as scorers
from benchmarks.tasks import SCORERS, load_scorer
from benchmarks.tasks.base import Scores
from benchmarks.tasks.scoring import AnswerFileError, Scored, Scorer, field_of, match_ids
from scr import DataFileError
from scr.files import read_json, read_rows

KEYS = ["task", "rule", "metrics", "counts", "intervals", "reasons", "units"]
FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Echo(Scorer):
    """A scorer that says what it was given."""

    summary = "a scorer of the tests"

    def add_arguments(self, parser):
        """One file."""
        parser.add_argument("--answers", type=Path, required=True)

    def score(self, options):
        """The share of rows that are true."""
        rows = read_rows(options.answers)
        notes = match_ids(range(3), range(len(rows)), options.answers, options.allow_missing)
        scores = Scores(
            metrics={"share": sum(map(bool, rows)) / 3, "length": 12.5, "cider": None},
            counts={"n": len(rows)},
            intervals={"share": [0.25, 0.75]},
            reasons={"cider": "no references"},
            units={"length": "words"},
        )
        return Scored("echo", "plain", scores, notes)


@pytest.fixture
def echo(monkeypatch):
    monkeypatch.setitem(SCORERS, "echo", "echo")
    real = load_scorer
    monkeypatch.setattr(score, "load_scorer", lambda name: Echo() if name == "echo" else real(name))


@pytest.fixture
def run(capsys):
    def command(*arguments):
        status = score.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return command


def write(path, *values):
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values), encoding="utf-8")
    return path


def test_json_is_one_object_of_the_contract(echo, run, tmp_path):
    status, out, err = run("echo", "--answers", write(tmp_path / "a.jsonl", 1, 0, 1), "--json")
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 1
    found = json.loads(out)
    assert list(found) == KEYS
    assert found == {
        "task": "echo",
        "rule": "plain",
        "metrics": {"share": 2 / 3, "length": 12.5, "cider": None},
        "counts": {"n": 3},
        "intervals": {"share": [0.25, 0.75]},
        "reasons": {"cider": "no references"},
        "units": {"length": "words"},
    }


def test_a_table_with_percent_units_reasons_counts_and_notes(echo, run, tmp_path):
    status, out, err = run("echo", "--answers", write(tmp_path / "a.jsonl", 1, 0), "--allow-missing")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "echo · rule plain",
        "  share      33.33 %  (25.00–75.00)",
        "  length     12.50 words",
        "  cider   undefined: no references",
        "  n              2",
        "1 of 3 questions have no answer and are not scored",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: the following arguments are required: BENCHMARK"),
        (["nothing"], "error: argument BENCHMARK: got 'nothing'; expected one of pope"),
        (["echo"], "required: --answers"),
        (["echo", "--answers", "a", "--rule", "b"], "error: unknown argument: got '--rule'"),
        (["echo", "--answ", "a"], "--answers"),
        (["echo", "--answers", "no such\nfile"], "error: cannot read no such file: got No such file or directory"),
        (["echo", "--answers", "."], "error: cannot read .: got Is a directory"),
    ],
)
def test_errors_are_one_line_and_status_2(echo, run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_missing_answers_are_refused_unless_allowed(echo, run, tmp_path):
    status, out, err = run("echo", "--answers", write(tmp_path / "a.jsonl", 1, 0))
    assert (status, out) == (2, "")
    assert "got 1 ids missing: 2; expected one answer to each of 3 questions. Give --allow-missing" in err


def test_interruption(echo, run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Echo, "score", interrupted)
    assert run("echo", "--answers", "a")[0] == 130


def test_help_lists_every_scorer(run):
    status, out, _ = run("--help")
    assert status == 0
    for name in SCORERS:
        assert load_scorer(name).summary.split()[0] in out
        assert run(name, "--help")[0] == 0


def test_only_the_scorer_that_is_asked_for_is_imported(run, monkeypatch):
    """Another one's missing library must not matter."""
    monkeypatch.setitem(scorers.SCORERS, "broken", "no_such_module:Scorer")
    assert run("pope", "--help")[0] == 0
    status, _, error = run("--help")
    assert (status, "no_such_module" in error) == (1, True)


def test_as_a_module(tmp_path):
    command = [sys.executable, "-m", "benchmarks.score", "pope", "--questions", "q", "--answers", "a"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: cannot read q: got No such file or directory; expected a file. Check the path.\n"


# Readers


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", []),
        (" \n\n", []),
        ("[]", []),
        ("[1, 2]", [1, 2]),
        ("\n [1,\n 2]\n", [1, 2]),
        ('{"a": 1}\n\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ('{"a": 1}\r\n{"a": 2}\r\n', [{"a": 1}, {"a": 2}]),
        ("\ufeff1\n2", [1, 2]),
        ('"a\u2028b"\n"c\x85\x0bd"', None),
        ('"a\u2028b"\n"c\x85d"', ["a\u2028b", "c\x85d"]),
        ("1\n2\nx", None),
        ("[1, 2", None),
        ("[" * 100_000, None),
        ('{"a":' * 100_000, None),
        ("9" * 10_000, None),
    ],
)
def test_rows(tmp_path, text, rows):
    path = tmp_path / "rows.json"
    path.write_bytes(text.encode())
    if rows is None:
        with pytest.raises(DataFileError, match=r"rows\.json"):
            read_rows(path)
    else:
        assert read_rows(path) == rows


def test_the_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("1\n\nYes\n")
    with pytest.raises(DataFileError, match=r"rows\.jsonl, line 3 is no JSON: got 'Yes' .*; expected one JSON value"):
        read_rows(path)
    path.write_bytes(b"\xff")
    with pytest.raises(DataFileError, match=r"is not text: got .*; expected UTF-8"):
        read_json(path)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(rows=st.lists(VALUES.filter(lambda value: not isinstance(value, list)), max_size=5), ascii_only=st.booleans())
@FUZZ
def test_what_was_written_is_read_in_either_form(tmp_path, rows, ascii_only):
    path = tmp_path / "rows"
    # A lone surrogate cannot be written in UTF-8; escaped it can.
    ascii_only = ascii_only or any("\\ud" in json.dumps(row) for row in rows)
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    path.write_bytes("\n".join(lines).encode())
    assert read_rows(path) == rows
    path.write_bytes(f"[{','.join(lines)}]".encode())
    assert read_rows(path) == rows


@given(content=st.binary(max_size=60) | st.text('[]{}",:0 1\\n\nu\ufeff\u2028', max_size=60).map(str.encode))
@FUZZ
def test_any_bytes_are_rows_or_one_error(tmp_path, content):
    path = tmp_path / "rows"
    path.write_bytes(content)
    for reader in (read_rows, read_json):
        with contextlib.suppress(DataFileError):
            assert reader(path) is not None or content.strip() in (b"null", b"\xef\xbb\xbfnull")


@pytest.mark.parametrize("row", [None, 1, [], {}, {"b": "x"}, {"a": 1}, {"a": None}, {"a": True}, {"a": float("nan")}])
def test_a_field_that_is_not_there_or_of_another_type(row):
    with pytest.raises(AnswerFileError, match=r"f\.json, row 7: got .*; expected an object with a field 'a' \(str\)"):
        field_of(row, "a", Path("f.json"), 7)
    assert field_of({"a": ""}, "a", Path("f.json"), 7) == ""
    with pytest.raises(AnswerFileError, match=r"\(int or str\)"):
        field_of({"a": True}, "a", Path("f.json"), 7, (int, str))


IDS = st.lists(st.integers(0, 9) | st.sampled_from("abc"), max_size=8)


@given(expected=IDS.map(dict.fromkeys).map(list), found=IDS, allow_missing=st.booleans())
@FUZZ
def test_ids_match_or_the_first_wrong_one_is_named(expected, found, allow_missing):
    twice = [one for one, count in Counter(found).items() if count > 1]
    strange = [one for one in dict.fromkeys(found) if one not in expected]
    missing = [one for one in expected if one not in found]
    wrong = twice or strange or ([] if allow_missing else missing)
    if wrong:
        with pytest.raises(AnswerFileError) as caught:
            match_ids(expected, found, Path("f"), allow_missing)
        assert f": {wrong[0]!r}" in str(caught.value)
    else:
        notes = match_ids(expected, found, Path("f"), allow_missing)
        shown = f"{len(missing)} of {len(expected)} questions have no answer and are not scored"
        assert notes == ([shown] if missing else [])


# The whole command line

OFFICIAL = b'{"question_id": 1, "image": "1.jpg", "text": "Is there a dog in the image?", "label": "yes"}\n'
PIECES = [b'{"question_id": 1', b'"text": "yes"', b'"answer":', b'"no"', b"{", b"}", b"[", b"]", b",", b"\n", b"null"]


@given(
    questions=st.just(OFFICIAL) | st.binary(max_size=50),
    answers=st.binary(max_size=50) | st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join),
    extra=st.lists(st.sampled_from(["--json", "--allow-missing"]), unique=True),
)
@FUZZ
def test_the_command_line_survives_any_files(tmp_path, capsys, questions, answers, extra):
    paths = tmp_path / "questions", tmp_path / "answers"
    for path, content in zip(paths, (questions, answers), strict=True):
        path.write_bytes(content)
    status = score.main(["pope", "--questions", str(paths[0]), "--answers", str(paths[1]), *extra])
    out, err = capsys.readouterr()
    if status == 0:
        assert err == ""
        assert "--json" not in extra or list(json.loads(out, parse_constant=pytest.fail)) == KEYS
    else:
        assert (status, out) == (2, "")
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1
