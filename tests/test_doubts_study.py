"""The study of doubts: what it learns from mentions, how it judges a score, and its command from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from benchmarks.doubts import main
from benchmarks.printing.doubts import print_qualities, print_rows
from benchmarks.stats import Difference, Interval
from benchmarks.studies.doubts import Mention, Quality, Row, _precision, calibrate, qualities
from scr import ConfigError
from scr.describing import MEASURES, Calibration, feature, find_calibration
from scr.reading import AnswerTokens

pytestmark = pytest.mark.usefixtures("one_thread")


def mentions(count: int = 200) -> list[Mention]:
    """Two mentions an image, whose recheck says most of it, and whose evidence is noise."""
    draw = np.random.default_rng(0)
    found = []
    for index in range(count):
        made_up = bool(draw.random() < 0.3)
        values = {
            "confidence": float(np.exp(draw.normal(-2.0 if made_up else -1.0))),
            "evidence": float(draw.normal(5.0, 3.0)),
            "recheck": float(draw.normal(-1.0 if made_up else 2.0, 1.5)),
        }
        found.append(Mention(f"image {index // 2}", made_up, values))
    return found


def calibration(some: list[Mention]) -> Calibration:
    intercept, weights = calibrate(some)
    facts = {"name": "n", "model": "m", "data": "d", "prompt": "p", "date": "2026-01-02"}
    return Calibration(**facts, mentions=len(some), made_up=1, intercept=intercept, weights=weights)


def test_what_is_learnt_is_the_optimum() -> None:
    some = mentions()
    intercept, weights = calibrate(some)
    rows = np.array([[feature(name, one.measures[name]) for name in MEASURES] for one in some])
    truth = np.array([one.made_up for one in some])
    deviation = rows.std(axis=0)

    def loss(parameters: np.ndarray) -> float:
        total = parameters[0] + rows @ parameters[1:]
        return float(
            np.logaddexp(0, np.where(truth, -total, total)).sum() + ((parameters[1:] * deviation) ** 2).sum() / 2
        )

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-7})
    assert [intercept, *weights.values()] == pytest.approx(best.x.tolist(), rel=1e-3, abs=1e-4)
    assert weights["recheck"] < 0
    assert weights["confidence"] < 0
    with pytest.raises(ConfigError, match="nothing to learn from: got 0 made-up mentions"):
        calibrate([one._replace(made_up=False) for one in some])


def test_a_measure_that_is_always_the_same_gets_no_weight() -> None:
    some = [one._replace(measures={**one.measures, "evidence": 0.5}) for one in mentions()]
    intercept, weights = calibrate(some)
    assert np.isfinite([intercept, *weights.values()]).all()
    assert weights["evidence"] == pytest.approx(0, abs=1e-12)
    assert weights["recheck"] < 0


def test_qualities_rank_measures_by_what_they_know() -> None:
    some = mentions()
    found = {one.name: one for one in qualities(some, calibration(some))}
    assert list(found) == [*MEASURES, "combined"]
    areas = {name: one.auc or 0.0 for name, one in found.items()}
    assert areas["evidence"] < 0.6 < areas["confidence"] < areas["recheck"] < areas["combined"]
    for one in found.values():
        assert one.auc_interval is not None
        assert one.auc_interval.low < (one.auc or 0.0) < one.auc_interval.high
        assert one.precision_interval is not None
        assert one.precision_interval.low <= (one.precision or 0.0) <= one.precision_interval.high
    assert list({one.name: one for one in qualities(some, None)}) == list(MEASURES)
    with pytest.raises(ConfigError, match="nothing to judge: got descriptions without a mention of an object"):
        qualities([], calibration(some))


@pytest.mark.parametrize(
    ("scores", "truth", "expected"),
    [
        ([5, 4, 3, 2, 1], [1, 1, 1, 1, 0], 1.0),
        ([5, 4, 3, 2, 1], [0, 1, 1, 1, 1], 0.8),  # all four, and the one above them
        ([5, 4, 3, 2, 1], [1, 1, 1, 0, 1], 0.8),
        ([9, 8, 7, 6, 5, 4], [1, 1, 1, 1, 0, 1], 1.0),  # four of five are enough
        ([2, 2, 1], [1, 0, 0], 0.5),  # equal ones go together
        ([1, 1], [0, 0], None),
    ],
)
def test_precision_is_that_of_the_first_that_hold_enough(scores: list[int], truth: list[int], expected: float) -> None:
    one = np.ones((1, len(scores)))
    found = _precision(np.array(scores, dtype=float), np.array(truth, dtype=bool), one)[0]
    assert np.isnan(found) if expected is None else found == pytest.approx(expected)


def test_precision_counts_weights() -> None:
    weights = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    found = _precision(np.array([3.0, 2.0, 1.0]), np.array([False, True, True]), weights)
    assert found == pytest.approx([2 / 3, 1.0, 1 / 4])


def test_tables_hold_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    print_qualities([Quality("recheck", 0.8123, Interval(0.7, 0.9), 0.5, None)], {"recheck": 1.5})
    change = Difference(-0.05, Interval(-0.1, 0.0))
    print_rows([Row("none", 0.3, 0.8), Row("drop", 0.25, None, change, None)])
    out = " ".join(capsys.readouterr().out.split())
    assert "recheck 0.812 0.700–0.900 50.0 +150.0 %" in out
    assert "none 30.0 80.0 drop 25.0 – -5.0 -10.0…+0.0" in out


def test_a_calibration_is_learnt_written_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "doubts.json"
    shared = ["--model", "lab/llava", "--limit", "6", "--batch-size", "3"]
    assert main([*shared, "--split", "val", "--output", str(file)]) == 0
    learnt = capsys.readouterr().out
    assert "lab/llava, val: 6 images" in learnt
    found = find_calibration(file)
    assert (found.name, found.model, found.data) == ("doubts", "lab/llava", "val: 6 images")
    assert str(found.revision).startswith("sha256:")
    assert set(found.weights) == set(MEASURES)
    assert 0 < found.made_up < found.mentions
    # One that takes everything for made up leaves out whatever a sentence can do without.
    file.write_text(json.dumps({**found.to_dict(), "intercept": 50.0, "weights": dict.fromkeys(MEASURES, 0.0)}))
    assert main([*shared, "--split", "test", "--calibration", str(file), "--methods", "vcd"]) == 0
    out, err = capsys.readouterr()
    assert "were learnt" not in err
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert "scores by doubts (val: 6 images)" in out
    assert float(rows["drop_above=0.8"][2]) < float(rows["none"][2]), "recall"
    assert "vcd" in rows
    assert main([*shared, "--calibration", "lab/nothing"]) == 2


def test_what_is_learnt_already_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.studies.doubts.describe_split", lambda _: pytest.fail("described"))
    file = tmp_path / "doubts.json"
    assert main(["--calibration", "lab/llava", "--output", str(file)]) == 2
    assert "got --output" in capsys.readouterr().err
    assert not file.exists()


def test_where_yes_and_no_are_one_nothing_is_described(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.studies.doubts.answer_tokens", lambda _: AnswerTokens((), (), "they are one"))
    monkeypatch.setattr("benchmarks.studies.doubts._described", lambda *_, **__: pytest.fail("described"))
    assert main(["--model", "lab/llava", "--limit", "2"]) == 2
    assert "recheck cannot be measured: got lab/llava (they are one)" in capsys.readouterr().err
