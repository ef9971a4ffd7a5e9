"""Checkpoints are loaded whole or refused in one sentence; nothing of theirs is run."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scr import ModelLoadError
from scr.adapters import train
from scr.checkpoints import chosen, loading
from scr.checkpoints.loading import load_config, load_processor, load_weights
from scr.inside import answering

pytestmark = pytest.mark.usefixtures("one_thread")
QUERY = "language_model.model.layers.0.self_attn.q_proj.weight"
DISK = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "model.language_model": "disk"}


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint to break."""
    folder = tmp_path / "broken"
    shutil.copytree(checkpoint, folder)
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    return load_weights(str(folder), dtype=dtype, **options)


def test_a_whole_checkpoint_is_loaded_with_a_processor_that_pads_left(checkpoint: Path) -> None:
    model = load(checkpoint)
    saved = load_file(checkpoint / "model.safetensors")
    assert torch.equal(model.model.language_model.layers[0].self_attn.q_proj.weight, saved[QUERY])
    assert not model.training
    assert load_processor(str(checkpoint)).tokenizer.padding_side == "left"


@pytest.mark.parametrize("lost", [QUERY, "language_model.lm_head.weight"])
def test_missing_weights_are_no_random_numbers(
    copy: Path, lost: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    change_weights(copy, lambda weights: weights.pop(lost))
    with pytest.raises(ModelLoadError, match=rf"missing weights: got none for .*{lost.rpartition('model.')[2]}"):
        load(copy)
    assert "LOAD REPORT" not in capsys.readouterr().err + caplog.text


def test_weights_of_another_shape_are_named(copy: Path) -> None:
    change_weights(copy, lambda weights: weights.update({QUERY: weights[QUERY][:2].clone()}))
    with pytest.raises(ModelLoadError, match=r"q_proj.weight of shape \(2, 32\).*expected \(32, 32\)"):
        load(copy)


@pytest.mark.parametrize(
    ("value", "dtype", "offloaded"),
    [
        (float("nan"), torch.float32, False),
        (float("-inf"), torch.float32, False),
        (1e30, torch.float16, False),
        (float("nan"), torch.float32, True),
    ],
)
def test_weights_that_are_not_finite_are_named(
    copy: Path, tmp_path: Path, value: float, dtype: torch.dtype, offloaded: bool
) -> None:
    change_weights(copy, lambda weights: weights[QUERY][0].__setitem__(0, value))
    there = {"device_map": {**DISK, "lm_head": "disk"}, "offload_folder": str(tmp_path)} if offloaded else {}
    with pytest.raises(ModelLoadError, match=r"not finite: got NaN or infinity in model.language_model.layers.0"):
        load(copy, dtype, **there)


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    "ruin",
    [
        as_pickle,
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:999]),
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        lambda folder: (folder / "config.json").write_text("[" * 5_000),
        lambda folder: (folder / "config.json").write_text("[]"),
        lambda folder: change_json(folder / "config.json", lambda found: found["text_config"].update(hidden_size="8")),
        lambda folder: change_json(
            folder / "config.json", lambda found: found["text_config"].update(num_attention_heads=0)
        ),
    ],
    ids=["pickle", "truncated", "empty", "deep", "list", "text", "zero"],
)
def test_what_cannot_be_loaded_is_one_error(copy: Path, ruin: Callable[[Path], Any]) -> None:
    ruin(copy)
    with pytest.raises(ModelLoadError, match=r"model cannot be loaded: got .*broken.*expected safetensors"):
        load(copy)


@pytest.mark.parametrize("error", [MemoryError("full"), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_full_memory_is_no_fault_of_the_checkpoint(
    checkpoint: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(loading.AutoModelForImageTextToText, "from_pretrained", full)
    with pytest.raises(type(error), match=str(error)):
        load(checkpoint)


def test_a_hub_id_keeps_its_slash_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    class WindowsPath(PureWindowsPath):
        def expanduser(self) -> WindowsPath:
            return self

    asked: list[str] = []

    def refuse(location: str, *_: Any, **__: Any) -> None:
        asked.append(location)
        raise ModelLoadError("not here")

    monkeypatch.setattr(chosen, "Path", WindowsPath)
    for module, name in ((chosen, "load_config"), (answering, "load_weights"), (train, "_load")):
        monkeypatch.setattr(module, name, refuse)
    with pytest.raises(ModelLoadError):
        chosen.chosen_dtype("owner/name", "auto", torch.device("cuda"))
    with pytest.raises(ModelLoadError):
        answering.AnsweringModel("owner/name")
    assert train.main(["merge", "--model", "owner/name", "--adapter", "a", "--output", "m"]) == 2
    assert asked == ["owner/name"] * 3


REMOTE = {name: f"ran.{name}" for name in ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor")}
REMOTE |= {"AutoImageProcessor": "ran.Images", "AutoTokenizer": ["ran.Slow", "ran.Fast"]}


@pytest.mark.parametrize(
    ("loading", "file"),
    [
        (load_config, "config.json"),
        (load_processor, "processor_config.json"),
        (load_processor, "tokenizer_config.json"),
        (load, "config.json"),
    ],
    ids=["config", "processor", "tokenizer", "model"],
)
@pytest.mark.parametrize("known", [True, False])
def test_code_of_a_checkpoint_never_runs(
    copy: Path, loading: Callable[..., Any], file: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 99))
    mark = copy / "mark"
    (copy / "ran.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (copy / "custom_generate").mkdir()
    (copy / "custom_generate" / "generate.py").write_text(f"open({str(mark)!r}, 'w')\n")
    change_json(copy / file, lambda content: content.update(auto_map=REMOTE))
    if known:
        # transformers has classes of its own for it, and those are taken.
        loading(copy)
    else:
        names = {"model_type": "new", "processor_class": "New", "tokenizer_class": "New", "image_processor_type": "New"}
        change_json(copy / file, lambda content: content.update(names))
        change_json(copy / "config.json", lambda content: content.update(model_type="new"))
        with pytest.raises(ModelLoadError):
            loading(copy)
    assert not mark.exists()
