"""What margins are read from, against what answers begin with: measured per sample, counted per run, said aloud."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from miniature import write_coco
from synthetic_results import answer, record, write

from analysis.findings.summary import readout_table, summary_findings
from analysis.reading.load import load_results
from benchmarks.asking.readout import LEAST_MASS, audit_readout, readout_in_words
from benchmarks.asking.timing import FirstToken, FirstTokenProbe, first_tokens
from benchmarks.printing.table import print_report
from benchmarks.records import FirstTokenCount, Readout, ReadoutAudit, SampleRecord
from benchmarks.running.plan import RunConfig, build_plan
from benchmarks.running.rescoring import rescore
from benchmarks.running.runner import run
from scr.reading import AnswerTokens

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = AnswerTokens(yes=(0, 1), no=(2,))


def test_the_mass_is_that_of_the_ids_among_all_tokens() -> None:
    scores = torch.tensor([[0.25, 0.125, 0.125, 0.5], [0.0, 0.125, 0.75, 0.125]]).log()
    assert first_tokens(scores, TOKENS) == [FirstToken(3, 0.5), FirstToken(2, 0.875)]
    assert first_tokens(scores + 40, TOKENS) == [FirstToken(3, 0.5), FirstToken(2, 0.875)]
    none = torch.tensor([[-math.inf, -math.inf, -math.inf, 1.0]])
    assert first_tokens(none, TOKENS) == [FirstToken(3, 0.0)]


def test_without_a_margin_there_is_nothing_to_audit() -> None:
    tokens = AnswerTokens((), (), "they begin with the same token")
    probe = FirstTokenProbe(rows=2, tokens=tokens, device=torch.device("cpu"))
    probe(torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 4))
    assert (probe.first, probe.margins) == ([None, None], [None, None])


def test_the_probe_looks_at_the_first_beam_of_each_prompt_once() -> None:
    probe = FirstTokenProbe(rows=2, tokens=TOKENS, device=torch.device("cpu"))
    scores = torch.tensor([[4.0, 0.0, 0.0, 0.0]] * 3 + [[0.0, 0.0, 0.0, 4.0]] * 3)
    probe(torch.zeros(6, 1, dtype=torch.long), scores)
    probe(torch.zeros(6, 2, dtype=torch.long), torch.zeros(6, 4))
    assert [one.token for one in probe.first if one is not None] == [0, 3]


def sampled(*readouts: tuple[int, str, float] | None) -> list[SampleRecord]:
    return [
        dataclasses.replace(
            answer(str(number), "a.jpg", "yes", 1.0),
            readout=None if one is None else Readout(token=one[0], text=one[1], mass=one[2]),
        )
        for number, one in enumerate(readouts)
    ]


def test_a_run_counts_what_its_answers_begin_with() -> None:
    audit = audit_readout(sampled((5, "Yes", 0.75), (6, "No", 0.5), None, (5, "Yes", 0.75), (9, "It", 0.5)), (5,), (6,))
    assert audit == ReadoutAudit(
        yes=[5],
        no=[6],
        answers=4,
        argmax=[
            FirstTokenCount(token=5, text="Yes", count=2),
            FirstTokenCount(token=6, text="No", count=1),
            FirstTokenCount(token=9, text="It", count=1),
        ],
        won=3,
        mass=0.625,
        warning=None,
    )
    assert readout_in_words(audit) == (
        "first tokens 'Yes' 2, 'No' 1, 'It' 1; the margin's 2 ids are the likeliest of 3 of 4 answers and hold 62.5 % "
        "of the probability"
    )


@pytest.mark.parametrize(
    ("readouts", "warned"),
    [
        ([(5, "Yes", LEAST_MASS)], False),
        ([(5, "Yes", LEAST_MASS - 0.01)], True),
        ([(9, "It", 0.9)], True),
        ([(9, "It", 0.9), (5, "Yes", 0.9)], False),
        ([None], False),
        ([], False),
    ],
)
def test_a_warning_where_the_ids_never_win_or_hold_less_than_half(readouts, warned) -> None:
    audit = audit_readout(sampled(*readouts), (5,), (6,))
    assert (audit["warning"] is not None) == warned
    if warned:
        assert "margins are read beside the answers: got first tokens" in str(audit["warning"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco")


def test_a_run_records_prints_and_keeps_it(small_run: Callable[..., RunConfig], tmp_path: Path) -> None:
    plan = build_plan(small_run(tasks=("pope_random", "chair"), methods=("yes_shift",), method_args={"shift": 50.0}))
    outcomes = run(plan.config)
    asked, moved, caption, _ = outcomes
    assert all(one.readout is not None for one in (*asked.records, *moved.records))
    assert all(one.readout is None for one in caption.records)
    assert caption.run.readout is None
    first = asked.run.readout
    assert first is not None
    assert first["answers"] == len(asked.records) == 24
    counted = Counter(one.readout["token"] for one in asked.records if one.readout is not None)
    assert {one["token"]: one["count"] for one in first["argmax"]} == counted
    # Of the logits that the method left: every first token is a no then.
    assert moved.run.readout is not None
    assert moved.run.readout["won"] == 24
    assert {one["token"] for one in moved.run.readout["argmax"]} <= set(moved.run.readout["no"])
    assert moved.run.readout["mass"] == pytest.approx(1)
    file = io.StringIO()
    print_report(plan, outcomes, file)
    shown = " ".join(file.getvalue().split())
    assert readout_in_words(moved.run.readout) in shown
    assert f"none, {first['warning'] or readout_in_words(first)}" in shown
    # Rebuilt from the samples; a rerun takes it from the store.
    path = asked.cell.folder.path / "run.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "readout": {**kept["readout"], "won": 99, "argmax": [], "answers": 0}}))
    rescore(plan.config.output_dir)
    assert json.loads(path.read_text()) == kept
    again = run(plan.config)[0]
    assert again.from_store
    assert again.run.readout == first


def test_the_report_has_it_as_data_and_says_the_warnings(tmp_path: Path) -> None:
    samples = sampled((5, "Yes", 0.75), (6, "No", 0.75))
    beside = sampled((9, "It", 0.25), (9, "It", 0.25))
    write(tmp_path, record(readout=audit_readout(samples, (5,), (6,))), samples)
    write(tmp_path, record("scr", readout=audit_readout(beside, (5,), (6,))), beside)
    write(tmp_path, record("vcd"), sampled(None))
    runs = load_results(tmp_path).runs
    (finding,) = summary_findings(runs)
    assert finding.data == (readout_table(runs),)
    good, bad = finding.data[0].records()
    assert good == {
        **{"model": "lab/llava", "task": "pope_random", "row": "none", "answers": 2, "won": 1.0, "mass": 0.75},
        **{"likeliest": "'Yes' (5) 1; 'No' (6) 1", "ids_of_yes": "5", "ids_of_no": "6"},
    }
    assert (bad["row"], bad["won"], bad["mass"]) == ("scr", 0.0, 0.25)
    warned = [note for note in finding.notes if "read beside the answers" in note]
    assert [note.partition(": ")[0] for note in warned] == ["pope_random, scr"]
