"""Finding and loading models: lab names, folders and hub ids are one code path, and every failure says what to do."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from miniature import write_coco
from safetensors.torch import load_file, save_file
from tiny import picture

import scr
from benchmarks import run as command
from benchmarks.asking.answering import Answerer, Question
from benchmarks.asking.models import (
    ModelLoadError,
    check_device_map,
    find_model,
    folder_digest,
    load_model,
    resolve_device,
    resolve_dtype,
    skeleton,
)
from benchmarks.running.provenance import checkout_state, command_line, package_versions
from scr.adapters import format_prompt

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_folder_is_found_by_its_digest(checkpoint: Path, tmp_path: Path) -> None:
    source = find_model(str(checkpoint))
    assert source.revision == folder_digest(checkpoint)
    assert source.folder == checkpoint
    assert not source.is_lab
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    (copy / "README.md").write_text("a model card changes no answer")
    (copy / "scr.json").write_text(json.dumps({"settings": {"num_sources": 3}}))
    assert folder_digest(copy) == source.revision
    assert find_model(str(copy)).settings == {"settings": {"num_sources": 3}}
    (copy / "generation_config.json").write_text("{}")
    assert folder_digest(copy) != source.revision


def test_loading_gives_a_model_that_pads_left(checkpoint: Path) -> None:
    loaded = load_model(str(checkpoint), dtype="bfloat16", device="cpu", attn_implementation="eager")
    assert not loaded.model.training
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.model.config._attn_implementation == "eager"
    assert loaded.processor.tokenizer.padding_side == "left"
    assert loaded.revision == folder_digest(checkpoint)


def test_a_hub_id_takes_the_same_path(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A hub cache as huggingface_hub lays it out, so that no network is needed.
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(checkpoint, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    source = find_model("owner/tiny")
    assert source.revision == commit
    assert source.folder is None
    loaded = load_model(source)
    assert loaded.revision == commit
    expected = load_model(str(checkpoint)).model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())
    with pytest.raises(ModelLoadError, match=r"model not found: got 'owner/other'.*Check the name and the network"):
        find_model("owner/other")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lab/lava", "unknown lab model: got 'lab/lava'.*Did you mean 'lab/llava'"),
        ("/nowhere/at/all", "no such folder: got '/nowhere/at/all'.*Check the path"),
        ("./nowhere", "no such folder"),
        ("no valid id!", "model not found: got 'no valid id!'"),
    ],
)
def test_what_is_not_there_is_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        find_model(name)


def test_folders_that_hold_no_model(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"without a config.json"):
        find_model(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelLoadError, match="no processor for text and images: got BertTokenizer"):
        load_model(str(tmp_path))
    with pytest.raises(ModelLoadError, match="no model of this configuration: got"):
        skeleton(find_model(str(tmp_path)))
    with pytest.raises(scr.ConfigError, match="a revision of a local model"):
        find_model(str(checkpoint), revision="main")


@pytest.mark.parametrize("content", ["not json", "[]", '{"scale": 1.2}'])
def test_settings_of_another_form(content: str, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    (folder / "scr.json").write_text(content)
    with pytest.raises(scr.ConfigError, match="settings"):
        find_model(str(folder))


def test_a_skeleton_knows_what_a_method_would_do(checkpoint: Path) -> None:
    bare = skeleton(find_model(str(checkpoint)))
    assert next(bare.parameters()).device.type == "meta"
    assert scr.patch(bare).config == scr.patch(load_model(str(checkpoint)).model).config


def test_device_and_dtype(checkpoint: Path) -> None:
    source = find_model(str(checkpoint))
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert resolve_device("cpu") == cpu
    assert resolve_dtype("auto", cpu, source) == "float32"
    assert resolve_dtype("float16", cpu, source) == "float16"
    assert resolve_dtype("auto", gpu, source) == "float32"  # what the checkpoint was saved in
    with pytest.raises(scr.ConfigError, match="unknown dtype: got 'int8'"):
        resolve_dtype("int8", cpu, source)
    with pytest.raises(scr.ConfigError, match="unknown device: got 'gpu'"):
        resolve_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(scr.ConfigError, match="no GPU"):
            resolve_device("cuda")


@pytest.mark.parametrize("name", ["mps", "xpu", "vulkan", "xla", "ipu", "hpu", "fpga", "lazy", "meta", "privateuseone"])
def test_devices_that_torch_knows_and_this_build_lacks(name: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this build has it")
    with pytest.raises(scr.ConfigError, match=f"no such device here: got '{name}'; expected auto, cpu or"):
        resolve_device(name)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (7, "no (such )?GPU: got device 'cuda:7'"),
        ("cuda:7", "no (such )?GPU: got device 'cuda:7'"),
        ("xpu", "no such device here: got 'xpu'"),
        ("meta", "no such device here: got 'meta'"),
        ("gpu", "unknown device: got 'gpu'"),
        (-1, "unknown device: got 'cuda:-1'"),
        (10**30, "unknown device: got 'cuda:1000"),
        (1.5, "unknown place in a device map: got 1.5"),
        (True, "unknown place in a device map: got True"),
        (None, "unknown place in a device map: got None"),
        ("auto", "unknown place in a device map: got 'auto'"),
    ],
)
def test_device_maps_with_a_device_that_is_not_there(place: object, words: str) -> None:
    check_device_map({"model": "cpu", "lm_head": "disk"})
    with pytest.raises(scr.ConfigError, match=words):
        check_device_map({"model": "cpu", "lm_head": place})


def lose_a_weight(folder: Path) -> str:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if name.endswith("q_proj.weight")))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return "a checkpoint with missing weights: got none for"


def spoil_a_weight(folder: Path) -> str:
    weights = load_file(folder / "model.safetensors")
    next(weight for name, weight in weights.items() if name.endswith("lm_head.weight"))[0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return "weights that are not finite: got NaN or infinity in"


def cut_weights(folder: Path) -> str:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    return "model cannot be loaded: got"


def as_pickle(folder: Path) -> str:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return "model cannot be loaded: got"


def with_code(folder: Path) -> str:
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    names = ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor")
    config |= {"model_type": "evil", "auto_map": {name: "evil.Evil" for name in names}}
    (folder / "config.json").write_text(json.dumps(config))
    return "model cannot be loaded: got"


def misshape(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_attention_heads"] = 0
    (folder / "config.json").write_text(json.dumps(config))
    return "no model of this configuration: got|model cannot be loaded: got"


@pytest.mark.parametrize("ruin", [lose_a_weight, spoil_a_weight, cut_weights, as_pickle, with_code, misshape])
def test_a_run_refuses_a_broken_checkpoint_in_one_line(
    ruin: Callable[[Path], str],
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    words = ruin(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 99))  # transformers asks it whether code may run
    write_coco(tmp_path / "coco")
    arguments = ["--model", str(folder), "--data-dir", str(tmp_path / "coco"), "--tasks", "chair", "--method", "none"]
    assert command.main([*arguments, "--limit", "1", "--output-dir", str(tmp_path / "results")]) == 2
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert re.search(words, line)
    assert not (folder / "ran").exists()
    assert not list(tmp_path.glob("results/**/*.json*"))


@pytest.fixture(scope="module")
def answerer(checkpoint: Path) -> Answerer:
    return Answerer(load_model(str(checkpoint)))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(2):
        picture(seed).save(folder / f"{seed}.png")
    words = ["is there a dog in the image ?", "dog ?", "is there a cat ? please"]
    return [Question(id=str(i), image=folder / f"{i % 2}.png", prompt=text) for i, text in enumerate(words)]


def test_a_question_gets_in_a_batch_what_it_gets_alone(answerer: Answerer, questions: list[Question]) -> None:
    greedy = {"do_sample": False, "max_new_tokens": 6}
    together = answerer.answer(questions, greedy, seed=0, margins=True)
    for question, answer in zip(questions, together, strict=True):
        (alone,) = answerer.answer([question], greedy, seed=0, margins=True)
        assert alone.text == answer.text
        assert alone.margin == pytest.approx(answer.margin, abs=1e-4)
        assert alone.new_tokens == answer.new_tokens == 6
        assert answer.prefill_ms > 0


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_a_device_map_changes_no_answer(
    device_map: str | dict[str, str], checkpoint: Path, answerer: Answerer, questions: list[Question]
) -> None:
    greedy = {"do_sample": False, "max_new_tokens": 4}
    loaded = load_model(str(checkpoint), device_map=device_map)
    assert loaded.model.device.type == "cpu"
    expected = answerer.answer(questions, greedy, seed=0, margins=True)
    for found, wanted in zip(Answerer(loaded).answer(questions, greedy, seed=0, margins=True), expected, strict=True):
        assert (found.text, found.margin) == (wanted.text, wanted.margin)
    plain = scr.patch(answerer._model, num_sources=4, scale=1.5)
    with plain, scr.patch(loaded.model, num_sources=4, scale=1.5):
        edited = Answerer(loaded).answer(questions, greedy, seed=0, margins=True)
        expected = answerer.answer(questions, greedy, seed=0, margins=True)
    assert [one.margin for one in edited] == [one.margin for one in expected]


def test_layers_that_are_offloaded(checkpoint: Path, answerer: Answerer, questions: list[Question]) -> None:
    """Inputs go where the first weights are; what lies elsewhere comes when it is needed."""
    parts = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "lm_head": "cpu"}
    decoder = "model.language_model"
    parts |= {f"{decoder}.embed_tokens": "cpu", f"{decoder}.norm": "cpu", f"{decoder}.rotary_emb": "cpu"}
    layers = len(answerer._model.model.language_model.layers)
    parts |= {f"{decoder}.layers.{number}": "disk" if number == layers - 1 else "cpu" for number in range(layers)}
    loaded = load_model(str(checkpoint), device_map=parts)
    assert any(value.device.type == "meta" for value in loaded.model.parameters())
    greedy = {"do_sample": False, "max_new_tokens": 4}
    expected = answerer.answer(questions, greedy, seed=0, margins=True)
    found = Answerer(loaded).answer(questions, greedy, seed=0, margins=True)
    assert [(one.text, one.margin) for one in found] == [(one.text, one.margin) for one in expected]


def test_device_maps_that_are_refused(checkpoint: Path) -> None:
    with pytest.raises(scr.ConfigError, match=r"unknown device map: got 'atuo'.*Did you mean 'auto'"):
        load_model(str(checkpoint), device_map="atuo")
    with pytest.raises(scr.ConfigError, match="two places for one model: got device 'cuda:1' and device map 'auto'"):
        check_device_map("auto", "cuda:1")


def test_sampling_is_a_function_of_seed_and_batch(answerer: Answerer, questions: list[Question]) -> None:
    sampled = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 8}

    def texts(seed: int) -> list[str]:
        return [answer.text for answer in answerer.answer(questions, sampled, seed=seed, margins=False)]

    state = torch.random.get_rng_state()
    first = texts(0)
    torch.rand(3)
    assert texts(0) == first
    assert texts(1) != first
    torch.random.set_rng_state(state)
    texts(0)
    assert torch.equal(torch.random.get_rng_state(), state)  # the process's own randomness goes on undisturbed


def test_tokens_are_counted_up_to_the_end_token(answerer: Answerer, questions: list[Question]) -> None:
    greedy = {"do_sample": False, "max_new_tokens": 6}
    (full,) = answerer.answer(questions[:1], greedy, seed=0, margins=False)
    end = answerer._tokenizer.encode(full.text.split()[2], add_special_tokens=False)
    (cut,) = answerer.answer(questions[:1], {**greedy, "eos_token_id": end}, seed=0, margins=False)
    assert cut.new_tokens <= 3
    assert full.text.startswith(cut.text)


def test_prompts_take_the_chat_template_or_llava_form(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert format_prompt(answerer._processor, "is there a dog ?") == "USER: <image>\nis there a dog ? ASSISTANT:"
    template = (
        "{% for m in messages %}{% for c in m['content'] %}[{{ c['text'] if c['type'] == 'text' else '<image>' }}]"
    )
    template += "{% endfor %}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    monkeypatch.setattr(answerer._processor, "chat_template", template)
    assert format_prompt(answerer._processor, "dog ?") == "[<image>][dog ?]>"
    assert format_prompt(answerer._processor, "dog ?", with_image=False) == "[dog ?]>"
    monkeypatch.setattr(answerer._processor, "chat_template", None)
    assert format_prompt(answerer._processor, "dog ?", with_image=False) == "USER: dog ? ASSISTANT:"


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_commit_is_that_of_the_projects_own_checkout(tmp_path: Path) -> None:
    assert checkout_state(tmp_path) == (None, None)
    git(tmp_path, "init")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another-project"\n')
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    # A wheel inside the environment of some other project must not report that project's commit.
    installed = tmp_path / "venv" / "site-packages"
    installed.mkdir(parents=True)
    assert checkout_state(tmp_path) == checkout_state(installed) == (None, None)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "scr-vlm"\n')
    git(tmp_path, "commit", "-am", "second")
    state = checkout_state(tmp_path)
    assert state.commit is not None
    assert len(state.commit) == 40
    assert state.dirty is False
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").write_text("{}")
    assert checkout_state(tmp_path).dirty is False
    (tmp_path / "scr").mkdir()
    (tmp_path / "scr" / "new.py").write_text("")
    assert checkout_state(tmp_path).dirty is True


def test_git_variables_do_not_lead_astray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "pyproject.toml").write_text('[project]\nname = "scr-vlm"\n')
    assert checkout_state(inner) == (None, None)


def test_versions_and_command() -> None:
    assert package_versions()["scr-vlm"] == scr.__version__
    assert package_versions()["torch"] == torch.__version__
    assert command_line(["--method-arg", "layers=[0, 2]"]) == "python -m benchmarks.run --method-arg 'layers=[0, 2]'"
