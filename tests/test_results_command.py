"""`python -m benchmarks.results`: what lies in a folder, two folders compared, and what may be removed."""

import dataclasses
import json

import pytest
from synthetic_results import questions, record, write

from benchmarks import results
from benchmarks.records import SampleRecord
from benchmarks.store import find_runs


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "a", record(), questions(6))
    write(tmp_path / "a", record("scr", status="failed", error="no memory"), questions(6, shift=1.0)[:9])
    write(tmp_path / "a", record(model="lab/other", status="running"), questions(2))
    return tmp_path / "a"


def folders(root) -> list[str]:
    return [f"{one.model} {one.method}" for one in find_runs(root)]


def test_list_shows_every_run_and_why_one_cannot_be_read(root, capsys):
    broken = next(one for one in find_runs(root) if one.model == "lab/other")
    content = json.loads((broken.path / "run.json").read_text())
    (broken.path / "run.json").write_text(json.dumps({**content, "metrics": 5}))
    assert results.main(["list", str(root)]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.startswith("pope_random")]
    assert [row[:6] for row in rows] == [
        ["pope_random", "lab/llava", "none", "finished", "6", "36"],
        ["pope_random", "lab/llava", "scr", "failed", "2", "9"],
        ["pope_random", "lab/other", "none", "unreadable", "0", "0"],
    ]
    assert "failed: no memory" in printed
    assert (
        "'metrics' of a RunRecord is of another type: got 5; expected a table of names, each a finite number or None"
        in " ".join(printed.split())
    )


def test_diff_pairs_equal_runs_and_says_what_changed(root, tmp_path, capsys):
    write(tmp_path / "b", record(), questions(6, shift=9.0))
    write(tmp_path / "b", record("vcd"), questions(6))
    assert results.main(["diff", str(root), str(tmp_path / "b")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "pope_random · lab/llava · none" in printed
    assert "36 samples on 6 images: " in printed
    before, after = questions(6), questions(6, shift=9.0)
    changed = sum(one.answer != other.answer for one, other in zip(before, after, strict=True))
    assert f"{changed} answers changed" in printed
    assert "yes ratio" in printed
    for alone in ("scr: got 1 runs in A and 0 in B", "vcd: got 0 runs in A and 1 in B"):
        assert alone in printed


def test_diff_of_other_configurations_and_of_other_questions(tmp_path, capsys):
    write(tmp_path / "a", record("scr", config={"k": 1}), questions(3))
    write(tmp_path / "b", record("scr", config={"k": 2}), questions(3, noise=1))
    assert results.main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "18 samples on 3 images" in capsys.readouterr().out
    write(tmp_path / "c", record("scr"), [SampleRecord(id="x", image="y", prompt="?", target="yes", output="")])
    assert results.main(["diff", str(tmp_path / "a"), str(tmp_path / "c")]) == 1
    assert "not compared: " in capsys.readouterr().out
    assert results.main(["diff", str(tmp_path / "a"), str(tmp_path / "none")]) == 2
    assert "no folder of results: got" in capsys.readouterr().err


def test_diff_refuses_other_questions_below_equal_names(tmp_path, capsys):
    mine = questions(3)
    # POPE's names are image and number, and its seed draws which object is asked about.
    other = [dataclasses.replace(mine[1], prompt="Is there a zebra in the image?"), *mine[2:]]
    write(tmp_path / "a", record(seed=0), mine)
    write(tmp_path / "b", record(seed=1), other)
    assert results.main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert f"not compared: sample {mine[1].id!r} is not the same question in both runs: got (prompt, target)" in printed
    assert "a zebra" in printed


def test_rm_leaves_what_cannot_be_read_unless_it_is_named(root):
    newer = next(one for one in find_runs(root) if one.model == "lab/other")
    content = json.loads((newer.path / "run.json").read_text())
    (newer.path / "run.json").write_text(json.dumps({**content, "schema": 99, "status": "finished"}))
    assert results.main(["rm", str(root), "--unfinished", "--yes"]) == 0
    assert folders(root) == ["lab/llava none", "lab/other none"]
    assert results.main(["rm", str(newer.path), "--yes"]) == 0
    assert folders(root) == ["lab/llava none"]


def test_rm_by_what_is_asked_for(root, capsys):
    assert results.main(["rm", str(root)]) == 2
    assert "no folder of a run: got" in capsys.readouterr().err
    assert results.main(["rm", str(root), "--failed", "--yes"]) == 0
    assert folders(root) == ["lab/llava none", "lab/other none"]
    assert results.main(["rm", str(root), "--unfinished", "--yes"]) == 0
    assert folders(root) == ["lab/llava none"]
    # The model's folder was empty then, the task's is not.
    assert [one.name for one in (root / "pope_random").iterdir()] == ["lab--llava"]
    assert results.main(["rm", str(root), "--match", "chair/*", "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert results.main(["rm", *map(str, (root / "pope_random" / "lab--llava").iterdir()), "--yes"]) == 0
    assert list(root.iterdir()) == []


def test_rm_takes_what_fits_any_pattern(root):
    assert results.main(["rm", str(root), "--match", "*/scr-*", "--match", "*/lab--other/*", "--yes"]) == 0
    assert folders(root) == ["lab/llava none"]


def test_rm_asks(root, capsys, monkeypatch):
    arguments = ["rm", str(root), "--match", "*"]
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert results.main(arguments) == 2
    assert "got no terminal to ask about 3 runs" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert results.main(arguments) == 1
    assert len(folders(root)) == 3
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert results.main(arguments) == 0
    assert folders(root) == []


def test_rm_leaves_what_another_process_writes_and_what_is_no_runs(root, capsys):
    held, other = find_runs(root)[:2]
    (other.path / "notes.txt").write_text("mine")
    with held.lock():
        assert results.main(["rm", str(root), "--match", "*/lab--llava/*", "--yes"]) == 1
    assert "not removed: another process writes to this folder" in capsys.readouterr().out
    assert folders(root) == ["lab/llava none", "lab/other none"]
    assert [one.name for one in other.path.iterdir()] == ["notes.txt"]
