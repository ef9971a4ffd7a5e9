"""Settings chosen on validation: the shift that matches a yes ratio, the thresholds of the quantile strength."""

import json
import random

import pytest

import scr
from benchmarks.calibrate import main
from benchmarks.running.plan import RunConfig
from benchmarks.running.runner import run
from benchmarks.studies.calibration import confidence_thresholds, match_yes_ratio, yes_shift
from scr.contrast import calibrate_thresholds

pytestmark = pytest.mark.usefixtures("one_thread")


def config(folder, **changes):
    return RunConfig(
        **{"split": "val", "limit": 2, "batch_size": 12, "tasks": ("pope_random",), "output_dir": folder, **changes}
    )


def test_the_shift_leaves_so_many_yes():
    drawn = random.Random(1)
    margins = [drawn.gauss(0, 3) for _ in range(50)]
    for yes in range(51):
        shift = match_yes_ratio(margins, yes)
        assert sum(margin - shift > 0 for margin in margins) == yes
    with pytest.raises(ValueError, match="got 3 of 2 margins"):
        match_yes_ratio([0.0, 1.0], 3)
    with pytest.raises(ValueError, match="got 0 of 0"):
        match_yes_ratio([], 0)


def test_a_shifted_run_has_the_yes_ratio_of_the_method(tmp_path, capsys):
    # Strong enough to change answers.
    found = yes_shift(config(tmp_path, methods=("purified",), method_args={"contrast": 60.0}))
    none, purified, shifted = (
        run(config(tmp_path, methods=(name,), method_args=fields))[-1]
        for name, fields in (
            ("none", {}),
            ("purified", {"contrast": 60.0}),
            ("yes_shift", {"shift": found["shift"]}),
        )
    )
    ratios = [one.scores.metrics["yes_ratio"] for one in (none, purified, shifted)]
    assert [found["yes_ratio_without"], found["yes_ratio"], found["yes_ratio"]] == ratios
    assert ratios[0] != ratios[1]
    assert shifted.scores.metrics["auc"] == none.scores.metrics["auc"], "a threshold buys no AUC"
    assert found["answers"] == 12
    arguments = ["--method", "vcd", "--tasks", "pope_random", "--limit", "2", "--output-dir", str(tmp_path)]
    assert main(["yes-shift", *arguments]) == 0
    printed, argument = capsys.readouterr().out.splitlines()
    assert argument == f"--method-arg yes_shift.shift={json.loads(printed)['shift']:.6g}"


def test_thresholds_are_those_of_every_answer(tmp_path, capsys):
    asked = config(tmp_path, methods=("none",), batch_size=7, tasks=("pope_random", "chair"), limit=2)
    thresholds = confidence_thresholds(asked)
    assert thresholds == pytest.approx(confidence_thresholds(config(tmp_path, tasks=asked.tasks, limit=2)), abs=1e-5)
    assert list(thresholds) == sorted(thresholds)
    assert calibrate_thresholds(thresholds)[1] == thresholds[1] < 0
    assert main(["confidence", "--tasks", "pope_random", "--limit", "2", "--kind", "margin"]) == 0
    out = capsys.readouterr().out
    strength = json.loads(out.removeprefix("--method-arg 'purified.strength=").strip()[:-1])
    assert scr.PurifiedConfig(strength=strength).strength.thresholds == tuple(strength["thresholds"])
    assert all(0 <= threshold <= 1 for threshold in strength["thresholds"]), "margins of probabilities"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["yes-shift", "--method", "none"], "nothing to match"),
        (["yes-shift", "--method", "vdc"], "unknown method: got 'vdc'"),
        (["yes-shift", "--method", "scr", "--tasks", "chair", "--limit", "1"], "answers are no yes or no"),
        (["confidence", "--model", "lab/lava"], "lab/lava"),
    ],
)
def test_bad_input(tmp_path, capsys, arguments, message):
    assert main([*arguments, "--output-dir", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
