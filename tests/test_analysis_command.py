"""`python -m analysis.figures`: everything at once, without torch, and with nothing but what the records allow."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_results import questions, record, write

import analysis
from analysis.command import Parser, run_command, say_finding, with_results, write_finding
from analysis.drawing.tables import Table, as_markdown
from analysis.figures import ANALYSES, main
from analysis.findings.finding import Finding
from analysis.findings.summary import summary_findings
from analysis.reading.load import NothingToShowError, load_results
from scr.command.guard import guarded

ROOT = Path(__file__).parent.parent
MODULES = ["analysis", *(module.name for module in pkgutil.walk_packages(analysis.__path__, "analysis."))]
TESTS = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
WITHOUT_TORCH = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ImportError(f"{name} is not here")

REFUSED = %r
sys.meta_path.insert(0, Refused())
from analysis.figures import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A baseline and two methods, one of them with two settings."""
    root = tmp_path_factory.mktemp("results")
    small = questions(images=12)
    write(root, record(timing={"total_ms": 10.0}), small)
    for scale, gain in ((1.1, 0.2), (1.5, 1.0)):
        timing = {"total_ms": 11.0, "total_ratio": 1.1}
        write(root, record("scr", config={"scale": scale}, timing=timing), questions(images=12, gain=gain))
    return root


def test_everything_is_written_where_torch_cannot_be_imported(folder, tmp_path):
    refused = ("torch", "transformers", "rich", "tqdm", "nltk")
    done = _python("-c", WITHOUT_TORCH % (refused,), str(folder), "--out", str(tmp_path), "--formats", "svg")
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr
    names = {path.name for path in tmp_path.iterdir()}
    figures = {
        "forest",
        "frontier",
        "roc",
        "entropy_bins",
        "strata",
        "credit",
        "ablations",
        "failures",
        "trivial_points",
    }
    assert {f"{name}.{end}" for name in figures for end in ("svg", "csv")} <= names
    tables = {
        "summary_pope_random",
        "operating_points",
        "entropy_correlation",
        "entropy_logistic",
        "strata_contrast",
        "guard",
        "trivial",
    }
    assert {f"{name}.{end}" for name in tables for end in ("csv", "md", "tex")} <= names
    titles = [line[3:] for line in done.stdout.splitlines() if line.startswith("## ")]
    assert titles[:5] == ["paired differences", "what it cost", "beside trivial changes", "summary", "frontier"]
    assert not any("nan" in path.read_text().split(",") for path in tmp_path.glob("*.csv"))


def test_a_baseline_alone_says_what_is_left_out_and_why(tmp_path, capsys):
    write(tmp_path / "results", record(), questions(images=5, traced=False))
    arguments = [str(tmp_path / "results"), "--out", str(tmp_path / "out"), "--formats", "png"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    said = shown.err
    assert shown.out.count("not by object size") <= 1, "a note is said once"
    for name in ("forest", "guard", "roc", "entropy", "strata", "credit", "ablations"):
        assert f"left out: {name}: " in said
    assert (tmp_path / "out" / "summary_pope_random.csv").exists()


def test_only_what_is_asked_for(folder, tmp_path, capsys):
    assert main([str(folder), "--out", str(tmp_path), "--only", "summary"]) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".md", ".tex"}
    for arguments, word in (
        (["--only", "sumary"], "expected some of forest, guard"),
        (["--formats", "gif"], "expected some of svg, pdf, png"),
        (["--nothing"], "See --help"),
    ):
        assert main([str(folder), *arguments]) == 2
        assert word in capsys.readouterr().err
    assert main(["--help"]) == 0


def test_folders_that_cannot_be_used(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "missing")]) == 2
    assert "no folder of results" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main([str(folder), "--out", str(tmp_path / "file"), "--only", "summary"]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_problems_of_the_folder_are_printed(folder, tmp_path, capsys):
    write(tmp_path / "results", record(), questions(images=3))
    write(tmp_path / "results", record("scr", status="failed"), questions(images=3))
    assert main([str(tmp_path / "results"), "--out", str(tmp_path / "out"), "--only", "summary"]) == 0
    assert "note: a run is not finished" in capsys.readouterr().err


def test_a_module_is_a_command(folder, tmp_path):
    done = _python("-m", "analysis.entropy", str(folder), "--help")
    assert done.returncode == 0
    assert "python -m analysis.entropy" in done.stdout


def test_a_command_of_nothing_to_show_has_another_status(folder, tmp_path, capsys):
    def nothing(runs):
        raise NothingToShowError(f"nothing: got {len(runs)} runs; expected more. Run some.")

    assert run_command("analysis.x", "Nothing.", {"nothing": nothing}, [str(folder), "--out", str(tmp_path)]) == 1
    assert "left out: nothing: nothing: got 3 runs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        Parser(prog="x").parse_args(["--y"])


def test_a_finding_is_written_once(tmp_path):
    table = Table(name="t", title="T", columns=("x",), rows=((1,),))
    files = write_finding(Finding(title="a finding", tables=(table, table)), tmp_path)
    assert [path.name for path in dict.fromkeys(files)] == ["t.csv", "t.md", "t.tex"]


def test_analyses_do_not_depend_on_the_order_of_runs(folder):
    runs = load_results(folder).runs
    assert summary_findings(runs)[0].tables == summary_findings(runs[::-1])[0].tables
    assert set(ANALYSES) == set("summary forest guard frontier roc entropy strata credit ablations failures".split())


@pytest.mark.parametrize("module_name", MODULES)
def test_every_public_function_is_used_by_a_test(module_name):
    module = importlib.import_module(module_name)
    for name, value in vars(module).items():
        if not name.startswith("_") and inspect.isfunction(value) and value.__module__ == module_name:
            assert re.search(rf"\b{name}\b", TESTS), f"no test names {name}"


def _python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, check=False, capture_output=True, text=True, timeout=120
    )


def test_a_finding_is_printed_without_what_was_said_before(capsys):
    table = Table(name="t", title="T", columns=("x",), rows=((1,),))
    say_finding(Finding(title="Rates", tables=(table,), notes=("new", "old", "new")), {"old"})
    printed = capsys.readouterr().out
    assert printed.startswith("## Rates\n")
    assert as_markdown(table) in printed
    assert printed.count("- new") == 1
    assert "old" not in printed


def test_a_command_on_a_folder_that_will_not_do(tmp_path, capsys):
    assert guarded(lambda: with_results(tmp_path, lambda results: 0)) == 2
    assert capsys.readouterr().err.startswith("error: the folder holds no run: ")
