"""Settings chosen on validation: the shift that matches a yes ratio, the thresholds of the quantile strength."""

import json
import random
import re

import pytest

import scr
from benchmarks.calibrate import main
from benchmarks.lab import data_folder
from benchmarks.running.plan import RunConfig, build_plan
from benchmarks.running.runner import run
from benchmarks.studies.calibration import confidence_thresholds, match_yes_ratio, yes_shift
from benchmarks.tasks.coco import CocoData
from benchmarks.tasks.demonstrations import demonstrations
from scr.adapters import image_file_digest
from scr.contrast import calibrate_thresholds
from scr.steering import read_vectors

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
    tied = [2.0] * 5 + [1.0] * 4 + [0.0]
    # Whether a margin of exactly the shift stays a yes, nobody knows: no shift lies on one.
    reached = [sum(margin - match_yes_ratio(tied, yes) > 0 for margin in tied) for yes in range(11)]
    assert reached == [0, 0, 0, 5, 5, 5, 5, 5, 9, 9, 10]
    assert not {match_yes_ratio(tied, yes) for yes in range(11)} & set(tied)
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


def test_vectors_are_made_and_not_measured_on_what_they_are_from(tmp_path, capsys):
    path = tmp_path / "vti.safetensors"
    assert main(["steering", "--method", "vti", "--number", "3", "--trials", "2", "--output", str(path)]) == 0
    printed, argument = capsys.readouterr().out.splitlines()
    assert argument == f"--method-arg vti.vectors={path}"
    card = read_vectors(path, "vti").card
    assert json.loads(printed) == {**card.to_dict(), "images": 3}
    assert (card.base, card.demonstrations, card.rank, card.trials, card.masked) == ("lab/llava", 3, 1, 2, 0.99)
    val = CocoData.open(data_folder("val", 500), "val")
    pairs = demonstrations(val, 3, 0)
    assert card.images == tuple(image_file_digest(one.image) for one in pairs)
    first = path.read_bytes()
    assert main(["steering", "--method", "vti", "--number", "3", "--trials", "2", "--output", str(path)]) == 0
    assert path.read_bytes() == first, "of the same seed the same file"

    asked = {"methods": ("vti",), "method_args": {"vti.vectors": str(path)}, "limit": None}
    with pytest.raises(scr.ConfigError, match=r"calibrated on: got 3, the first .* for 'vti'"):
        build_plan(config(tmp_path, **asked))
    assert build_plan(config(tmp_path, **asked, allow_overlap=True)).cells
    (_, cell) = build_plan(config(tmp_path, **asked, split="test")).cells
    assert cell.config["vectors"] == f"{path}@sha256:{read_vectors(path, 'vti').digest}"
    with pytest.raises(scr.ConfigError, match="steering vectors of another model, or of another state"):
        build_plan(config(tmp_path, **asked, split="test", model="lab/qwen2_vl"))


def test_a_demonstration_differs_in_an_object_that_is_not_there():
    val = CocoData.open(data_folder("val", 500), "val")
    by_path = {image.path: image.id for image in val.images}
    names = {name for image in val.images for name in val.objects(image.id)}
    pairs = demonstrations(val, 40, 1)
    assert len({one.image for one in pairs}) == 40
    for one in pairs:
        there = val.objects(by_path[one.image])
        assert one.clean in val.captions(by_path[one.image])
        mentioned = " ".join(val.captions(by_path[one.image]))
        absent = [name for name in names if name not in there and name not in mentioned]
        swaps = [re.sub(rf"\b{name}\b", other, one.clean) for name in there for other in absent]
        assert one.hallucinated in swaps
        assert one.hallucinated != one.clean
    assert demonstrations(val, 40, 1) == pairs
    assert demonstrations(val, 40, 2) != pairs
    with pytest.raises(scr.ConfigError, match="too few demonstrations: got 500 images"):
        demonstrations(val, 501, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["yes-shift", "--method", "none"], "nothing to match"),
        (["yes-shift", "--method", "vdc"], "unknown method: got 'vdc'"),
        (["yes-shift", "--method", "scr", "--tasks", "chair", "--limit", "1"], "answers are no yes or no"),
        (["confidence", "--model", "lab/lava"], "lab/lava"),
        (
            ["steering", "--method", "scr", "--output", "vectors"],
            "a method without vectors: got 'scr'",
        ),
        (["steering", "--method", "vti", "--output", "."], "no file: got --output ., a folder"),
        (["steering", "--method", "vti", "--number", "2", "--rank", "3", "--output", "vectors"], "rank out of range"),
    ],
)
def test_bad_input(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    folder = [] if arguments[0] == "steering" else ["--output-dir", str(tmp_path)]
    assert main([*arguments, *folder]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
