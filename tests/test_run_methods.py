"""Which methods a run puts on the model, and with which settings: combinations, settings of one method, tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from miniature import write_coco

import scr
from benchmarks.asking import models
from benchmarks.running import answers, methods
from benchmarks.running.plan import RunConfig, build_plan
from benchmarks.running.runner import run
from scr.reading import AnswerTokens

Configure = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture
def configure(small_run: Configure) -> Configure:
    return functools.partial(small_run, batch_size=12, generation={"max_new_tokens": 2})


def test_a_combination_nests_its_parts_in_order(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    enter, remove = scr.Patch.__enter__, scr.Patch.remove

    def noting_enter(self: scr.Patch) -> scr.Patch:
        done.append(f"install {self.name}")
        return enter(self)

    def noting_remove(self: scr.Patch) -> None:
        done.append(f"remove {self.name}")
        remove(self)

    monkeypatch.setattr(scr.Patch, "__enter__", noting_enter)
    monkeypatch.setattr(scr.Patch, "remove", noting_remove)
    names = ("scr", "noise_control", "scr+noise_control", "noise_control+scr")
    args = {"num_sources": 4, "noise_control.num_sources": 5, "noise_control.seed": 3}
    config = configure(methods=names, method_args=args)
    outcomes = run(config)
    ins = [name.removeprefix("install ") for name in done if name.startswith("install ")]
    assert ins == ["scr", "noise_control", "scr", "noise_control", "noise_control", "scr"]
    assert done[4:8] == ["install scr", "install noise_control", "remove noise_control", "remove scr"]
    _, alone, control, both, reverse = outcomes
    # Flat for one method, by part for several; each part as it is alone.
    assert alone.run.config_given == {"num_sources": 4}
    assert control.run.config_given == {"num_sources": 5, "seed": 3}
    assert both.run.config_given == {"scr": alone.run.config_given, "noise_control": control.run.config_given}
    assert both.run.config == {"scr": alone.run.config, "noise_control": control.run.config}
    assert list(reverse.run.config) == ["noise_control", "scr"]
    stored = both.cell.folder.read_run()
    assert stored is not None
    assert (stored.method, stored.config) == ("scr+noise_control", both.run.config)
    assert both.cell.folder.path.name == f"scr+noise_control-{both.cell.folder.digest}"
    assert len({outcome.cell.folder.digest for outcome in outcomes}) == 5
    # Both parts act: neither alone gives these margins.
    margins = [[record.margin for record in outcome.records] for outcome in outcomes]
    assert all(margins[3] != other for other in margins[:3])
    monkeypatch.setattr(answers, "load_model", None)
    assert [one.from_store for one in run(config)] == [True] * 5


def test_a_setting_of_one_method_wins_over_one_of_all(configure: Configure) -> None:
    def sources(**args: int) -> list[int]:
        plan = build_plan(configure(methods=("scr", "uniform_smooth"), method_args=args))
        return [cell.config["num_sources"] for cell in plan.cells[1:]]

    assert sources(**{"scr.num_sources": 3, "num_sources": 6}) == [3, 6]
    assert sources(**{"num_sources": 6, "uniform_smooth.num_sources": 3}) == [6, 3]
    default = scr.SCRConfig().num_sources
    assert sources(**{"scr.num_sources": 3}) == [3, default]


def test_the_tokens_of_no_come_from_the_tokenizer(
    configure: Configure, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load_processor(source: models.ModelSource) -> Any:
        loaded.append(source.name)
        return models.load_processor(source)

    monkeypatch.setattr(methods, "load_processor", load_processor)
    build_plan(configure(methods=("scr",)))
    given = configure(methods=("yes_shift",), method_args={"shift": 0.5, "no_tokens": [7]})
    assert build_plan(given).cells[1].config["no_tokens"] == [7]
    assert loaded == []  # only when they are wanted
    monkeypatch.setattr(answers, "load_model", None)
    args = {"yes_shift.shift": 0.5}
    _, alone, combined = build_plan(configure(methods=("yes_shift", "scr+yes_shift"), method_args=args)).cells
    assert loaded == [str(checkpoint)]
    tokenizer = models.load_processor(models.find_model(str(checkpoint))).tokenizer
    no = sorted(tokenizer.convert_tokens_to_ids(["no", "No"]))
    assert alone.config_given == {"shift": 0.5, "no_tokens": no}
    assert alone.config["no_tokens"] == no
    assert combined.config_given == {"scr": {}, "yes_shift": alone.config_given}
    monkeypatch.setattr(methods, "answer_tokens", lambda tokenizer: AnswerTokens((), (), "no such words"))
    with pytest.raises(
        scr.ConfigError, match=r"no tokens of no for 'yes_shift': got .*, where no such words; expected"
    ):
        build_plan(configure(methods=("yes_shift",), method_args=args))


def test_texts_for_the_model_become_ids_of_its_tokenizer(configure: Configure, checkpoint: Path) -> None:
    text = {"icd.instruction": "please describe a dog"}
    cells = build_plan(configure(methods=("icd", "scr+icd"), method_args=text)).cells[1:]
    tokenizer = models.load_processor(models.find_model(str(checkpoint))).tokenizer
    expected = tokenizer.convert_tokens_to_ids(text["icd.instruction"].split())
    assert cells[0].config_given == {"instruction": expected}
    assert cells[0].config["instruction"] == expected
    assert cells[1].config_given == {"scr": {}, "icd": {"instruction": expected}}
    default = build_plan(configure(methods=("icd",))).cells[1].config["instruction"]
    assert default == tokenizer.encode(scr.get_method("icd").config_class().instruction, add_special_tokens=False)
    ids = build_plan(configure(methods=("icd",), method_args={"instruction": [7, 8]})).cells[1]
    assert ids.config["instruction"] == [7, 8]


def test_yes_shift_runs_with_the_tokens_of_its_plan(configure: Configure) -> None:
    none, shifted = run(configure(methods=("yes_shift",), method_args={"shift": 0.5}))
    changes = [
        after.margin - before.margin
        for before, after in zip(none.records, shifted.records, strict=True)
        if before.margin is not None and after.margin is not None
    ]
    assert changes == pytest.approx([-0.5] * 24, abs=1e-5)
    assert "no_tokens" in shifted.run.config_given


@pytest.mark.parametrize("method", ["purified", "scr+purified"])
def test_a_strength_that_depends_on_order_is_refused(method: str, configure: Configure) -> None:
    def plan(strength: Any) -> Any:
        return build_plan(configure(methods=(method,), method_args={"purified.strength": strength}))

    with pytest.raises(
        scr.ConfigError, match=r"depends on the order of tokens: got 'rolling' for 'purified'.*quantile"
    ):
        plan({"name": "rolling"})
    plan({"name": "quantile", "thresholds": [-1.0, -0.5, -0.1]})


def test_a_method_of_beams_alone_runs_with_them_and_not_without(configure: Configure) -> None:
    with pytest.raises(scr.ConfigError, match=r"opera searches with beams: got num_beams=1; expected at least 2"):
        build_plan(configure(methods=("scr+opera",)))
    base, searched = run(configure(methods=("opera",), generation={"max_new_tokens": 2, "num_beams": 3}))
    assert searched.run.generation["num_beams"] == base.run.generation["num_beams"] == 3
    assert searched.run.config["threshold"] == 15
