"""What an adapter's files may hold: other names of the same layers, copies of a head; and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from accelerate import cpu_offload
from safetensors.torch import load_file, save_file
from test_adapters import _change, everything, logits, same, tiny, write_adapter  # noqa: F401  a fixture
from tiny_families import PROMPTS, TINY

import scr

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
pytestmark = pytest.mark.usefixtures("one_thread")


def rename(folder: Path, change: Callable[[str], str]) -> None:
    stored = load_file(folder / WEIGHTS)
    renamed = {change(name): value for name, value in stored.items()}
    assert set(renamed) != set(stored)
    save_file(renamed, folder / WEIGHTS)


def revalue(folder: Path, change: Callable[[torch.Tensor, str], torch.Tensor]) -> None:
    save_file({name: change(value, name) for name, value in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)


class TestOtherNames:
    @pytest.mark.parametrize(
        ("family", "other"),
        [
            ("qwen2_vl", "model.layers"),  # transformers 4
            ("qwen2_5_vl", "model.layers"),
            ("llava", "language_model.model.layers"),
            ("internvl", "language_model.model.layers"),
            ("qwen2_vl", "layers"),  # of the text model alone
            ("llava", "model.layers"),
            ("llava", "layers"),
        ],
    )
    def test_the_same_layers_under_other_names(self, family: str, other: str, tmp_path: Path) -> None:
        made = TINY[family]()
        prompt = made.prompt(PROMPTS[:1])
        targets = r".*language_model.*\.(q|v)_proj"
        write_adapter(tmp_path / "a", made.model, base="", targets=targets)
        _change(tmp_path / "a", alpha_pattern={f"{other}.0.self_attn.v_proj".replace(".", r"\."): 3})
        _change(tmp_path / "a", target_modules=["q_proj", "v_proj"])
        shutil.copytree(tmp_path / "a", tmp_path / "now")
        _change(tmp_path / "now", target_modules=targets)
        _change(tmp_path / "now", alpha_pattern={r"model\.language_model\.layers\.0\.self_attn\.v_proj": 3})
        rename(tmp_path / "a", lambda name: name.replace("model.language_model.layers", other))
        with scr.adapter(made.model, tmp_path / "now"):
            expected = logits(made.model, prompt.inputs)
        with scr.adapter(made.model, tmp_path / "a"):
            assert torch.equal(logits(made.model, prompt.inputs), expected)
        assert not torch.equal(logits(made.model, prompt.inputs), expected)

    def test_transformers_reads_them_the_same(self, tmp_path: Path) -> None:
        made = TINY["qwen2_vl"]()
        prompt = made.prompt(PROMPTS[:1])
        write_adapter(tmp_path / "a", made.model, base="", targets=r".*language_model.*\.(q|v)_proj")
        _change(tmp_path / "a", target_modules=["q_proj", "v_proj"])
        rename(tmp_path / "a", lambda name: name.replace("model.language_model.layers", "model.layers"))
        with scr.adapter(made.model, tmp_path / "a"):
            found = logits(made.model, prompt.inputs)
        other = TINY["qwen2_vl"]().model
        other.load_adapter(str(tmp_path / "a"))
        torch.testing.assert_close(found, logits(other, prompt.inputs))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning")
class TestHeadsAndEmbeddings:
    @pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]], ids=str)
    @pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
    @pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
    def test_they_are_read_as_peft_saves_them(self, family: str, targets: list[str], tmp_path: Path) -> None:
        made = TINY[family]()
        prompt = made.prompt(PROMPTS[:1])
        config = peft.LoraConfig(r=4, init_lora_weights=False, target_modules=targets, exclude_modules=r".*vis.*")
        theirs = peft.get_peft_model(made.model, config).eval()
        theirs.save_pretrained(tmp_path / "a")
        assert any("base_layer" in name for name in load_file(tmp_path / "a" / WEIGHTS))
        expected = logits(theirs, prompt.inputs)
        model = TINY[family]().model
        _change(tmp_path / "a", init_lora_weights=True)
        with scr.adapter(model, tmp_path / "a"):
            torch.testing.assert_close(logits(model, prompt.inputs), expected)
        scr.merge_adapter(model, tmp_path / "a", tmp_path / "merged")
        merged = type(model).from_pretrained(tmp_path / "merged").eval()
        torch.testing.assert_close(logits(merged, prompt.inputs), expected, atol=1e-5, rtol=1e-5)

    def test_a_head_of_its_own_is_refused(self, tiny: Any) -> None:  # noqa: F811
        model, _, folder = tiny
        stored = load_file(folder / WEIGHTS)
        save_file({**stored, "base_model.model.lm_head.weight": model.lm_head.weight + 1}, folder / WEIGHTS)
        with pytest.raises(scr.ConfigError, match=r"weights of the model itself: got lm_head\.weight"):
            scr.adapter(model, folder)


def test_weights_lie_where_an_offloaded_layer_computes(tiny: Any) -> None:  # noqa: F811
    model, inputs, folder = tiny
    plain = logits(model, inputs)
    with scr.adapter(model, folder):
        expected = logits(model, inputs)
    cpu_offload(model, execution_device="cpu")
    with scr.adapter(model, folder):
        assert torch.equal(logits(model, inputs), expected)
        assert torch.equal(logits(model, inputs), expected)
        assert not any(value.is_meta for name, value in model.named_parameters() if "lora_" in name)
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(logits(model, inputs), plain)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(scr.ConfigError, match="cannot be merged: got a model whose weights are offloaded"):
        scr.merge_adapter(model, folder, folder / "merged")


def test_an_offloaded_model_is_not_trained_and_a_skeleton_has_no_adapter(tiny: Any) -> None:  # noqa: F811
    from scr.adapters.lora import lora_layers

    model, _, folder = tiny
    with torch.device("meta"):
        skeleton = type(model)(model.config)
    before = [id(module) for module in skeleton.modules()]
    with pytest.raises(scr.ConfigError, match="a model without weights"):
        scr.load_adapter(skeleton, folder)
    assert [id(module) for module in skeleton.modules()] == before
    cpu_offload(model, execution_device="cpu")
    with (
        pytest.raises(scr.ConfigError, match="cannot be trained: got one whose weights are offloaded"),
        lora_layers(model, peft.LoraConfig(target_modules=["q_proj"])),
    ):
        pass


@pytest.mark.parametrize("kind", [KeyboardInterrupt, torch.OutOfMemoryError, TypeError, SystemExit])
@pytest.mark.parametrize("at", [1, 5])
def test_whatever_is_raised_half_way_the_model_is_as_before(
    tiny: Any,  # noqa: F811
    kind: type[BaseException],
    at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, _, folder = tiny
    before, begin, count = everything(model), peft.tuners.lora.Linear.__init__, [0]

    def fail(*args: Any, **options: Any) -> None:
        count[0] += 1
        if count[0] == at:
            raise kind("planned")
        begin(*args, **options)

    monkeypatch.setattr(peft.tuners.lora.Linear, "__init__", fail)
    with pytest.raises(scr.AdapterLoadError if kind is TypeError else kind):
        scr.load_adapter(model, folder)
    monkeypatch.undo()
    same(before, everything(model))
    scr.load_adapter(model, folder).remove()
    same(before, everything(model))


class TestRefused:
    @pytest.mark.parametrize(
        "fields",
        [
            *({"r": value} for value in (1.5, "8", None, True, 0, 10**9, [4], 2**62)),
            *({"lora_alpha": value} for value in (0, "8", None, True, [1])),
            *({"lora_dropout": value} for value in (-1, 2, "x")),
            *({"rank_pattern": value} for value in ({"q_proj": "x"}, {"q_proj": 10**9}, {"(": 4}, [4], 5)),
            *({"alpha_pattern": value} for value in ({"q_proj": None}, {"q_proj": True}, "x")),
            *({"target_modules": value} for value in (5, [5], "(", [], {"q_proj": 1}, "", "nothing")),
            *({"layers_to_transform": value} for value in ("x", 1.5, [None])),
            *({"use_rslora": "yes"}, {"fan_in_fan_out": 3}, {"exclude_modules": 5}, {"layers_pattern": 5}),
            *({"base_model_name_or_path": 5}, {"revision": ["x"]}, {"peft_type": ["LORA"]}, {"peft_type": None}),
            {"init_lora_weights": {"a": 1}},
        ],
        ids=str,
    )
    def test_fields_of_another_type(self, tiny: Any, fields: dict[str, Any]) -> None:  # noqa: F811
        model, _, folder = tiny
        _change(folder, **fields)
        before = everything(model)
        with pytest.raises((scr.AdapterLoadError, scr.ConfigError)) as refused:
            scr.load_adapter(model, folder)
        assert "; expected " in str(refused.value)
        assert len(str(refused.value)) < 700
        same(before, everything(model))

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda value, name: value * float("nan"), "not finite"),
            (lambda value, name: value / 0 if "lora_A" in name else value, "not finite"),
            (lambda value, name: value * (0 if "lora_B" in name else 1), "adds nothing"),
            (lambda value, name: value * (0 if "lora_A" in name else 1), "adds nothing"),
            (lambda value, name: value[:2].contiguous() if "lora_A" in name else value, "of another rank"),
            (lambda value, name: value.to(torch.int32), "does not fit"),
            (lambda value, name: value[None].contiguous(), "does not fit"),
            (lambda value, name: value[:0].contiguous(), "does not fit|another rank"),
        ],
    )
    def test_weights_that_are_none(self, tiny: Any, change: Callable[..., torch.Tensor], match: str) -> None:  # noqa: F811
        model, _, folder = tiny
        revalue(folder, change)
        with pytest.raises((scr.AdapterLoadError, scr.ConfigError), match=match):
            scr.adapter(model, folder)

    def test_one_zero_pair_is_no_reason(self, tiny: Any) -> None:  # noqa: F811
        model, _, folder = tiny
        revalue(folder, lambda value, name: value * (0 if "layers.0" in name and "lora_B" in name else 1))
        scr.load_adapter(model, folder).remove()

    @pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
    @pytest.mark.parametrize(
        "ruin",
        [
            lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(b"\xff" * 100),
            lambda path: path.write_text("[" * 5_000),
            lambda path: path.write_text("[]"),
            lambda path: path.write_text('{"r": 1e999}'),
            lambda path: path.unlink(),
            lambda path: (path.unlink(), path.mkdir()),
            lambda path: save_file({}, path),
        ],
        ids=["half", "empty", "bytes", "deep", "list", "infinite", "missing", "folder", "nothing"],
    )
    def test_ruined_files(self, tiny: Any, name: str, ruin: Callable[[Path], Any]) -> None:  # noqa: F811
        model, _, folder = tiny
        ruin(folder / name)
        with pytest.raises((scr.AdapterLoadError, scr.ConfigError), match="; expected "):
            scr.load_adapter(model, folder)

    def test_settings_that_peft_does_not_know_are_said(self, tiny: Any) -> None:  # noqa: F811
        model, _, folder = tiny
        _change(folder, invented=5, unused=None)
        with pytest.warns(UserWarning, match="does not know are ignored: invented"):
            assert scr.adapter(model, folder).source


class TestBases:
    def test_an_adapter_of_the_lab_on_another_of_its_models(self) -> None:
        """By digest: a model in memory has its folder for a name."""
        from benchmarks.asking.models import load_model

        for other in ("lab/qwen2_vl", "lab/internvl"):
            model = load_model(other, device="cpu").model
            for call in (scr.adapter, scr.load_adapter):
                with pytest.raises(
                    scr.ConfigError, match=r"another model.*'lab/refusal', trained on 'lab/llava' at sha"
                ):
                    call(model, "lab/refusal")
        model = load_model("lab/llava", device="cpu").model
        with scr.adapter(model, "lab/refusal"):
            pass

    def test_a_folder_of_another_state(self, checkpoint: Path, tmp_path: Path) -> None:
        from scr.checkpoints.digests import folder_digest
        from scr.checkpoints.loading import load_weights

        shutil.copytree(checkpoint, tmp_path / "other")
        config = json.loads((checkpoint / "config.json").read_text())
        (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "note": 1}))
        model, other = (load_weights(str(one), dtype=torch.float32) for one in (checkpoint, tmp_path / "other"))
        write_adapter(tmp_path / "a", model, base=str(checkpoint))
        _change(tmp_path / "a", revision=folder_digest(checkpoint))
        assert scr.adapter(model, tmp_path / "a").source
        with pytest.raises(scr.ConfigError, match="another state of the model"):
            scr.adapter(other, tmp_path / "a")

    def test_a_commit_of_the_hub(self, tiny: Any) -> None:  # noqa: F811
        model, _, folder = tiny
        model.name_or_path, model.config._commit_hash = "tiny/llava", "1" * 40
        for revision in ("1" * 40, "main"):
            _change(folder, revision=revision)
            assert scr.adapter(model, folder).source
        _change(folder, revision="2" * 40)
        with pytest.raises(scr.ConfigError, match=rf"at {'2' * 20}, for 'tiny/llava' at {'1' * 20}"):
            scr.adapter(model, folder)
