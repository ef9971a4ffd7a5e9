"""`benchmarks.run --adapter`: the bare model beside it, what records say, and images that were trained on."""

import json
import shutil

import pytest
from test_adapters import write_adapter

import scr
from benchmarks.asking.models import find_model, load_model
from benchmarks.lab import adapt, data_folder
from benchmarks.run import main
from benchmarks.running.adapters import check_overlap, overlapping_images, resolve_adapter
from benchmarks.running.plan import RunConfig, build_plan
from benchmarks.running.runner import run
from scr.adapters import IMAGES_FILE, image_file_digest

SOURCE = find_model("lab/llava")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random adapter of lab/llava, which says so of itself."""
    folder = tmp_path_factory.mktemp("adapters") / "random"
    write_adapter(folder, load_model(SOURCE).model, base="lab/llava", targets=r".*language_model.*(q|k)_proj")
    _change(folder, revision=SOURCE.revision)
    (folder / IMAGES_FILE).write_text(f"{'0' * 16}\n")
    return folder


def _change(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def config(folder, output, **changes):
    fields = {"methods": ("scr",), "tasks": ("pope_adversarial",), "limit": 2, "batch_size": 12, "adapter": str(folder)}
    return RunConfig(output_dir=output, **{**fields, **changes})


def test_the_bare_model_runs_beside_it(folder, tmp_path):
    found = run(config(folder, tmp_path))
    assert [one.cell.row for one in found] == ["none", str(folder), f"{folder}, scr"]
    assert [one.run.method for one in found] == ["none", "none", "scr"]
    name = resolve_adapter(str(folder), SOURCE).recorded
    assert [one.run.adapter for one in found] == [None, name, name]
    assert [one.run.adapter_overlap for one in found] == [None, 0, 0]
    bare, adapted, both = ([record.margin for record in one.records] for one in found)
    assert bare != adapted != both
    # The same command takes all of it from the store; the command without an adapter takes its own row.
    assert all(one.from_store for one in run(config(folder, tmp_path)))
    without = run(config(folder, tmp_path, adapter=None))
    assert [one.from_store for one in without] == [True, False]
    assert len({one.cell.folder.path for one in (*found, *without)}) == 4


def test_answers_are_those_of_the_adapter_by_itself(folder, tmp_path):
    from benchmarks.asking.answering import Answerer, Question

    outcome = run(config(folder, tmp_path, methods=("none",)))[1]
    loaded = load_model(SOURCE)
    samples = outcome.cell.work.wanted_samples
    questions = [Question(id=one.id, image=one.image, prompt=one.prompt) for one in samples]
    with scr.adapter(loaded.model, folder):
        answers = Answerer(loaded).answer(questions, outcome.cell.generation, seed=0, margins=True)
    assert [one.margin for one in answers] == pytest.approx([one.margin for one in outcome.records], abs=1e-4)


def test_images_that_were_trained_on_are_refused_unless_allowed(folder, tmp_path, capsys):
    trained = tmp_path / "trained"
    shutil.copytree(folder, trained)
    images = sorted((data_folder("test", 500) / "test").iterdir())
    (trained / IMAGES_FILE).write_text("".join(f"{image_file_digest(image)}\n" for image in images))
    source = resolve_adapter(str(trained), SOURCE)
    assert overlapping_images(source, [*images[:3], images[0]]) == images[:3]
    assert overlapping_images(resolve_adapter(str(folder), SOURCE), images[:3]) == []
    with pytest.raises(scr.ConfigError, match=r"images that the adapter was trained on: got 3, the first 0+\.png"):
        check_overlap(source, images[:3], allowed=False)
    assert check_overlap(source, images[:3], allowed=True) == 3
    arguments = ["--adapter", str(trained), "--tasks", "pope_random", "--limit", "2", "--output-dir", str(tmp_path)]
    assert main([*arguments, "--dry-run"]) == 2
    assert "--allow-overlap" in capsys.readouterr().err
    plan = build_plan(config(trained, tmp_path, allow_overlap=True))
    assert [cell.overlap for cell in plan.cells] == [0, 2, 2]
    assert main([*arguments, "--dry-run", "--allow-overlap"]) == 0


@pytest.mark.parametrize("listed", [None, ""], ids=["none", "empty"])
def test_an_adapter_that_does_not_say_what_it_was_trained_on(folder, tmp_path, listed):
    silent = tmp_path / "silent"
    shutil.copytree(folder, silent)
    (silent / IMAGES_FILE).unlink()
    if listed is not None:
        (silent / IMAGES_FILE).write_text(listed)
    source = resolve_adapter(str(silent), SOURCE)
    image = next((data_folder("test", 500) / "test").iterdir())
    assert overlapping_images(source, [image]) is None
    with pytest.raises(scr.ConfigError, match=r"may have been trained on: got no training_images\.txt.*allow-overlap"):
        check_overlap(source, [image], allowed=False)
    assert check_overlap(source, [image], allowed=True) is None
    plan = build_plan(config(silent, tmp_path, allow_overlap=True))
    assert [cell.overlap for cell in plan.cells] == [0, None, None]


def test_a_list_of_images_that_is_none(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "a")
    (tmp_path / "a" / IMAGES_FILE).write_text("0123456789abcdef\n0123")
    with pytest.raises(scr.AdapterLoadError, match="'0123', which is no digest"):
        check_overlap(resolve_adapter(str(tmp_path / "a"), SOURCE), [], allowed=True)


class TestRefused:
    def test_an_adapter_of_another_model(self, folder):
        with pytest.raises(scr.ConfigError, match=r"trained on 'lab/llava', for 'lab/qwen2_vl'.*Load 'lab/llava'"):
            resolve_adapter(str(folder), find_model("lab/qwen2_vl"))

    def test_an_adapter_of_another_state(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "a")
        _change(tmp_path / "a", revision="sha256:0000")
        with pytest.raises(
            scr.ConfigError, match=r"another state of the model.*at sha256:0000.*'lab/llava' at sha256:"
        ):
            resolve_adapter(str(tmp_path / "a"), SOURCE)

    def test_unknown_names(self, tmp_path, capsys):
        with pytest.raises(scr.AdapterLoadError, match="Did you mean 'lab/refusal'"):
            resolve_adapter("lab/refusel", SOURCE)
        assert main(["--adapter", "lab/nothing", "--output-dir", str(tmp_path), "--dry-run"]) == 2
        assert "unknown lab adapter" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["lab/refusal", "lab/seed"])
def test_the_labs_adapters(name):
    """Shipped, small, of lab/llava as it is shipped, and trained on other images than it is measured on."""
    source = resolve_adapter(name, SOURCE)
    assert (source.name, source.base, source.base_revision) == (name, "lab/llava", SOURCE.revision)
    assert source.weights.stat().st_size <= 2 * 2**20
    model = load_model(SOURCE).model
    with scr.adapter(model, source):
        pass
    for split in ("val", "test"):
        images = sorted((data_folder(split, 500) / split).iterdir())
        assert overlapping_images(source, images) == []
    record = json.loads((source.config.parent / "training.json").read_text())
    recipe = scr.adapters.load_recipe(record["kind"], adapt.LAB_CHANGES[record["kind"]])
    assert record["recipe"] == json.loads(json.dumps(recipe.to_dict()))
