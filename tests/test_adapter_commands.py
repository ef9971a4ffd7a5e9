"""`python -m scr.adapters.train`, `python -m benchmarks.lab.adapt`, cards, curves, and the way to the hub."""

import contextlib
import json
import os
import shutil
import sys

import pytest
import torch
import transformers
from miniature import write_checkpoint
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import picture

import scr
from benchmarks.asking.models import find_model
from benchmarks.lab import adapt
from scr.adapters import load_recipe, plot_curve, push_adapter, read_record, train_adapter, write_card
from scr.adapters.train import main

SETTINGS = ["--set", "rank=2", "--set", "accumulation=2", "--set", "dtype=float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, rows, and conversations."""
    folder = tmp_path_factory.mktemp("place")
    write_checkpoint(folder / "model")
    talks = []
    for number in range(4):
        picture(number).save(folder / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nis there a dog ?"}, {"from": "gpt", "value": "yes"}]
        talks.append({"image": f"{number}.png", "conversations": turns})
    talks.append({"image": "none.png", "conversations": talks[0]["conversations"]})
    (folder / "talks.json").write_text(json.dumps(talks))
    arguments = ["--conversations", str(folder / "talks.json"), "--images", str(folder)]
    assert main(["prepare", *arguments, "--output", str(folder / "rows.jsonl")]) == 0
    return folder


def common(place, output):
    return ["--model", str(place / "model"), "--data", str(place / "rows.jsonl"), "--output", str(output)]


def test_prepare_says_what_it_skipped(place, tmp_path, capsys):
    arguments = ["--conversations", str(place / "talks.json"), "--images", str(place), "--count", "2", "--seed", "3"]
    assert main(["prepare", *arguments, "--output", str(tmp_path / "rows.jsonl")]) == 0
    assert main(["prepare", *arguments[:4], "--output", str(tmp_path / "every.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "2 rows of 5 conversations" in out
    assert "skipped 1: image file not there" in out
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("kind", ["seed", "refusal"])
def test_train_and_merge(place, tmp_path, capsys, kind):
    assert main([kind, *common(place, tmp_path / "adapter"), *SETTINGS]) == 0
    out = capsys.readouterr().out
    assert "language model: " in out
    assert "rest: 0 trained parameters" in out
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert names == {
        *("adapter_config.json", "adapter_model.safetensors", "README.md", "curve.png", "log.jsonl"),
        *("training.json", "training_images.txt"),
    }
    model = transformers.AutoModelForImageTextToText.from_pretrained(place / "model", dtype="float32").eval()
    merged = ["--model", str(place / "model"), "--adapter", str(tmp_path / "adapter"), "--output", str(tmp_path / "m")]
    assert main(["merge", *merged]) == 0
    plain = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "m", dtype="float32").eval()
    tokens = torch.tensor([[1, 8, 12, 13]])
    with torch.no_grad(), scr.adapter(model, tmp_path / "adapter"):
        torch.testing.assert_close(plain(tokens).logits, model(tokens).logits, atol=1e-5, rtol=1e-5)
    transformers.AutoProcessor.from_pretrained(tmp_path / "m")


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--set", "rang=2"], "Did you mean 'rank'"),
            (["--config", "none.toml"], "recipe cannot be read"),
            (["--quantize", "nf4"], "4-bit weights need CUDA: got device 'cpu'; expected a GPU"),
            (["--set", 'targets=["x"]'], "no such layers"),
            (["--set", "max_tokens=3"], "an image must not be cut"),
            (["--device", "foo"], "unknown device: got 'foo'"),
            (["--device", "cuda:99"], "device"),
            (["--device", "cuda:999"], "unknown device: got 'cuda:999'"),
            (["--set", "targets=q_proj"], "targets of another kind: got 'q_proj'; expected a list"),
            (["--set", "distillation.strengths=1"], "strengths of another kind"),
            (["--set", "distillation.perturbation=5"], "perturbation of another kind"),
            (["--set", "distillation=5"], "distillation of another kind: got 5"),
            (["--set", "learning_rate=1e308"], "learning_rate out of range: got 1e+308"),
            (["--set", "batch_size=99999999"], "more rows in a step than there are: got batch_size × accumulation"),
            (["--set", "rank=1000000000"], "rank out of range: got 1000000000 for layers of width 32"),
            (["--set", "gradient_checkpointing=5"], "unknown gradient_checkpointing: got 5; expected one of"),
            (["--set", "dtype=[1]"], "unknown dtype"),
            (["--set", "distillation.temperature=1e308"], "temperature out of range"),
            (["--device", "vulkan"], "a device that is not trained on: got 'vulkan'"),
            (["--device", "meta"], "a device that is not trained on"),
        ],
    )
    def test_one_line_and_no_traceback(self, place, tmp_path, capsys, arguments, says):
        assert main(["seed", *common(place, tmp_path / "a"), *SETTINGS, *arguments]) == 2
        err = capsys.readouterr().err
        assert says in err
        assert "Traceback" not in err
        assert not (tmp_path / "a" / "adapter_model.safetensors").exists()

    @pytest.mark.parametrize(
        ("row", "says"),
        [
            (
                {"question": "is <image> a dog ?"},
                "a token of the model's own in a text: got '<image>' in bad.jsonl, line 1",
            ),
            ({"answer": "<image>"}, "a token of the model's own"),
            ({"answer": "a \ud800"}, "half a character (a lone surrogate)"),
            ({"image": 5}, "expected three texts"),
            ({"image": "nul\0"}, "no such image"),
            ({"image": "bomb.png"}, "no picture: got"),
            ({"image": "cut.png"}, "no picture: got"),
        ],
        ids=str,
    )
    def test_rows_that_cannot_be_trained_on_are_named(self, place, tmp_path, capsys, monkeypatch, row, says):
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)  # those of the fixtures have 576
        Image.new("RGB", (100, 100)).save(tmp_path / "bomb.png")
        picture(0).save(tmp_path / "0.png")
        (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:50])
        good = {"image": "0.png", "question": "is there a dog ?", "answer": "yes"}
        (tmp_path / "bad.jsonl").write_text(json.dumps({**good, **row}) * 1 + "\n" + json.dumps(good))
        arguments = ["--model", str(place / "model"), "--data", str(tmp_path / "bad.jsonl"), "--output", "a"]
        monkeypatch.chdir(tmp_path)
        assert main(["refusal", *arguments, *SETTINGS]) == 2
        err = capsys.readouterr().err
        assert says in err
        assert "line 1" in err
        assert not (tmp_path / "a" / "adapter_model.safetensors").exists()

    def test_a_base_with_missing_weights_is_not_trained_on(self, place, tmp_path, capsys):
        shutil.copytree(place / "model", tmp_path / "model")
        weights = load_file(tmp_path / "model" / "model.safetensors")
        del weights["language_model.lm_head.weight"]
        save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
        arguments = ["--model", str(tmp_path / "model"), *common(place, tmp_path / "a")[2:]]
        assert main(["seed", *arguments, *SETTINGS]) == 2
        assert "missing weights: got none for lm_head.weight" in capsys.readouterr().err

    def test_a_training_that_comes_to_nothing_is_no_adapter(self, place, tmp_path, capsys):
        arguments = [*common(place, tmp_path / "a"), *SETTINGS, "--set", "gradient_clip=1e-320"]
        assert main(["refusal", *arguments, "--set", "epochs=1"]) == 2
        assert "came to nothing: got the weights that it began with" in capsys.readouterr().err
        assert not (tmp_path / "a" / "adapter_model.safetensors").exists()

    def test_files_that_cannot_be_read_or_written(self, place, tmp_path, capsys):
        (tmp_path / "file").write_text("no folder")
        assert main(["seed", *common(place, tmp_path / "file"), *SETTINGS]) == 1
        (tmp_path / "state.pt").write_text("junk")
        assert main(["seed", *common(place, tmp_path), *SETTINGS]) == 2
        err = capsys.readouterr().err
        assert "error: the system refused: got FileExistsError: [Errno 17] File exists" in err
        assert "state of a training cannot be read" in err
        assert "Traceback" not in err

    def test_no_model_no_data(self, place, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment at import
        arguments = common(place, tmp_path)
        for index, says in ((1, "model cannot be loaded"), (3, "cannot read ")):
            wrong = [*arguments[:index], str(tmp_path / "nothing"), *arguments[index + 1 :]]
            assert main(["seed", *wrong, *SETTINGS]) == 2
            assert says in capsys.readouterr().err
        (tmp_path / "talks.json").write_text("{}")
        prepare = ["prepare", "--images", str(tmp_path), "--output", str(tmp_path / "rows.jsonl"), "--conversations"]
        assert main([*prepare, str(tmp_path / "talks.json")]) == 2
        assert main([*prepare, str(tmp_path / "none.json")]) == 2
        assert "no list of conversations" in capsys.readouterr().err
        assert main(["seed"]) == 2


def test_a_kill_before_the_weights_leaves_no_adapter(trained, monkeypatch):
    """The weights come last, by a rename: with them there is always the list of images."""
    from scr.adapters import configuration, states

    rows = scr.adapters.read_rows(trained.parent / "rows.jsonl")
    recipe = load_recipe("refusal", {"rank": 2})
    weights = load_file(trained / "adapter_model.safetensors")
    config = configuration.read_lora_config(scr.adapters.find_adapter(str(trained)))
    for files in range(5):
        folder = trained.parent / str(files)
        folder.mkdir()
        left, replace = [files], os.replace

        def killed(*paths, left=left, replace=replace):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return replace(*paths)

        monkeypatch.setattr(os, "replace", killed)
        monkeypatch.setattr("pathlib.Path.replace", killed)
        with contextlib.suppress(KeyboardInterrupt):
            states.save_adapter(folder, config, weights, recipe, rows, "refusal", [])
        monkeypatch.undo()
        done = (folder / "adapter_model.safetensors").exists()
        assert done == (files >= 3)  # list, record, weights
        if done:
            assert scr.adapters.trained_images(scr.adapters.find_adapter(str(folder))) is not None


@pytest.fixture
def trained(place, tmp_path):
    from tiny import tiny_llava

    shutil.copy(place / "rows.jsonl", tmp_path)
    for number in range(4):
        shutil.copy(place / f"{number}.png", tmp_path)
    rows = scr.adapters.read_rows(tmp_path / "rows.jsonl")
    recipe = load_recipe("refusal", {"rank": 2, "dtype": "float32", "epochs": 1, "accumulation": 2})
    return train_adapter(*tiny_llava(), rows, recipe, tmp_path / "small", kind="refusal", base="tiny/llava").folder


def test_the_card(trained):
    text = write_card(trained, measured="HR 3 %", data="Four rows.", license="apache-2.0").read_text()
    head = text.split("---")[1]
    assert 'base_model: "tiny/llava"' in head
    assert 'license: "apache-2.0"' in head
    for part in ("HR 3 %", "Four rows.", "4 rows about 4 images", "| rank | 2 |", "refuses to evaluate", "2 steps"):
        assert part in text
    assert read_record(trained)["images"] == 4


def test_the_curve(trained):
    assert plot_curve(trained).read_bytes().startswith(b"\x89PNG")


def test_pushing_to_a_folder_in_place_of_the_hub(trained, tmp_path):
    class Local:
        """What `huggingface_hub.HfApi` does, into a folder."""

        def create_repo(self, repository, private, exist_ok):
            assert private
            assert exist_ok
            (tmp_path / "hub" / repository).mkdir(parents=True)

        def upload_folder(self, *, repo_id, folder_path, allow_patterns):
            for name in allow_patterns:
                if (trained / name).is_file():
                    shutil.copy(f"{folder_path}/{name}", tmp_path / "hub" / repo_id / name)
            return f"hub/{repo_id}"

    with pytest.raises(scr.ConfigError, match=r"nothing to push.*README\.md"):
        push_adapter(trained, "me/refusal", api=Local())
    write_card(trained)
    (trained / "state.pt").write_text("not to be pushed")
    assert push_adapter(trained, "me/refusal", api=Local()) == "hub/me/refusal"
    pushed = tmp_path / "hub" / "me" / "refusal"
    assert not (pushed / "state.pt").exists()
    from tiny import tiny_llava

    with scr.adapter(tiny_llava()[0], pushed):
        pass


def test_nothing_of_a_training_there(tmp_path):
    for call in (read_record, write_card, plot_curve):
        with pytest.raises(scr.ConfigError, match="of a training"):
            call(tmp_path)


@pytest.mark.parametrize("kind", ["seed", "refusal"])
def test_the_labs_command(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "here")  # no new process
    arguments = [kind, "--images", "12", "--output", str(tmp_path / kind), "--threads", "1", "--set", "epochs=1"]
    assert adapt.main(arguments) == 0
    merged = ["merge", "--adapter", str(tmp_path / kind), "--output", str(tmp_path / "merged")]
    assert adapt.main(merged) == 0
    transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert json.loads((tmp_path / kind / "training.json").read_text())["base"] == "lab/llava"
    assert adapt.main([*arguments, "--set", "rang=1"]) == 2
    assert "rang" in capsys.readouterr().err
    assert adapt.main([kind, "--model", "lab/smol"]) == 2, "the package holds no adapter of it"
    assert "give --output" in capsys.readouterr().err


def test_lab_names_are_taken_where_a_model_or_an_adapter_is_named(place, tmp_path, capsys, monkeypatch):
    arguments = ["--model", "lab/llava", *common(place, tmp_path / "a")[2:]]
    assert main(["refusal", *arguments, *SETTINGS, "--set", "epochs=1"]) == 0
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "lab/llava"
    assert config["revision"] == find_model("lab/llava").revision
    assert main(["merge", "--model", "lab/llava", "--adapter", "lab/refusal", "--output", str(tmp_path / "m")]) == 0
    assert main(["merge", "--model", "lab/qwen2_vl", "--adapter", "lab/refusal", "--output", str(tmp_path / "n")]) == 2
    assert main(["merge", "--model", "lab/lava", "--adapter", "lab/refusal", "--output", str(tmp_path / "n")]) == 2
    assert main(["merge", "--model", "lab/llava", "--adapter", "lab/refusel", "--output", str(tmp_path / "n")]) == 2
    err = capsys.readouterr().err
    for said in ("adapter of another model", "Did you mean 'lab/llava'", "Did you mean 'lab/refusal'"):
        assert said in err
    monkeypatch.setattr("scr.checkpoints.named.entry_points", lambda **_: ())
    assert main(["merge", "--model", "lab/llava", "--adapter", "lab/refusal", "--output", str(tmp_path / "n")]) == 2
    assert "is called 'lab'; expected the one of scr-vlm" in capsys.readouterr().err
