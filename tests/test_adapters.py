"""Adapters on a model: what is checked before, that nothing stays behind, and what they compose with."""

import gc
import json
import sys
import warnings

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import inputs_for, tiny_llava

import scr
from scr.adapters import ADAPTERS, find_adapter, trained_images
from scr.adapters.lora import adapter_weights, lora_layers

QUERIES = r".*language_model.*layers\.\d+\.self_attn\.(q|v)_proj"
PROMPTS = [("USER : <image> is there a dog in the image ? ASSISTANT :", [1]), ("USER : <image> describe", [2])]


def write_adapter(folder, model, *, base="tiny/llava", targets=QUERIES, seed=0):
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, base_model_name_or_path=base)
    with lora_layers(model, config, trainable=True):
        weights = adapter_weights(model)
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(value.shape, generator=generator) * 0.2 for name, value in weights.items()}
    config.save_pretrained(folder)
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def _change(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture
def tiny(tmp_path):
    model, processor = tiny_llava()
    return model, dict(inputs_for(processor, PROMPTS)), write_adapter(tmp_path / "adapter", model)


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def everything(model):
    """All that an adapter might leave behind: modules, weights, flags, modes, attributes of the model."""
    return (
        [(name, id(module), module.training) for name, module in model.named_modules()],
        [(name, id(value), value.requires_grad, value.clone()) for name, value in model.named_parameters()],
        sorted(vars(model)),
        model.config.to_dict(),
    )


def same(before, after):
    assert before[0] == after[0]
    assert [row[:3] for row in before[1]] == [row[:3] for row in after[1]]
    assert all(torch.equal(one[3], two[3]) for one, two in zip(before[1], after[1], strict=True))
    assert before[2:] == after[2:]


def test_an_adapter_changes_answers_and_leaves_nothing_behind(tiny):
    model, inputs, folder = tiny
    model.lm_head.weight.requires_grad_(False)
    before, plain = everything(model), logits(model, inputs)
    with scr.adapter(model, folder) as adapted:
        assert not torch.allclose(logits(model, inputs), plain)
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert isinstance(adapted, scr.Adapter)
        assert "installed" in repr(adapted)
    same(before, everything(model))
    assert torch.equal(logits(model, inputs), plain)
    assert not any(isinstance(module, peft.tuners.lora.LoraLayer) for module in model.modules())


def test_nothing_stays_after_an_exception(tiny):
    model, _, folder = tiny
    before = everything(model)
    with pytest.raises(ZeroDivisionError), scr.adapter(model, folder):
        raise ZeroDivisionError
    same(before, everything(model))


def test_nothing_stays_where_weights_are_missing(tiny):
    model, _, folder = tiny
    weights = load_file(folder / "adapter_model.safetensors")
    del weights[sorted(weights)[0]]
    save_file(weights, folder / "adapter_model.safetensors")
    before = everything(model)
    with pytest.raises(scr.AdapterLoadError, match="do not fill"):
        scr.load_adapter(model, folder)
    same(before, everything(model))


def test_the_handle_stays_until_it_is_removed(tiny):
    model, inputs, folder = tiny
    plain = logits(model, inputs)
    handle = scr.load_adapter(model, str(folder))
    with pytest.raises(scr.AlreadyPatchedError, match="adapter already"):
        scr.load_adapter(model, folder)
    assert not torch.equal(logits(model, inputs), plain)
    handle.remove()
    handle.remove()
    assert torch.equal(logits(model, inputs), plain)


def test_it_stays_when_the_handle_is_dropped(tiny):
    model, inputs, folder = tiny
    plain = logits(model, inputs)
    scr.load_adapter(model, folder)
    gc.collect()
    assert not torch.equal(logits(model, inputs), plain)


def test_an_adapter_that_is_never_used_warns(tiny):
    model, _, folder = tiny
    expected = rf"the adapter '{folder}' was never put on its model: got scr\.adapter\(\.\.\.\) alone"
    with pytest.warns(scr.UnusedPatchWarning, match=expected) as caught:
        scr.adapter(model, folder)
    assert [one.filename for one in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scr.adapter(model, folder).source.config.parent == folder
        scr.adapter(model, folder).install().remove()
        with scr.adapter(model, folder), pytest.raises(scr.AlreadyPatchedError):
            scr.adapter(model, folder).install()
        with pytest.raises(scr.AdapterLoadError):
            scr.adapter(model, folder / "missing")
        gc.collect()


@pytest.mark.parametrize("fields", [{"method": "scr", "scale": 1.4}, {"method": "purified"}], ids=["scr", "purified"])
def test_adapters_and_methods_nest_in_either_order(tiny, fields):
    model, inputs, folder = tiny
    before = everything(model)

    def answer():
        return model.generate(
            **inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_scores=True
        ).scores

    with scr.adapter(model, folder):
        alone = answer()
        with scr.patch(model, **fields):
            inside = answer()
    patch, handle = scr.patch(model, **fields).install(), scr.load_adapter(model, folder)
    outside = answer()
    patch.remove()  # in the order in which they were put on, not in reverse
    again = answer()
    handle.remove()
    for one, two in ((inside, outside), (alone, again)):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(alone, inside, strict=True))
    same(before, everything(model))


def test_the_logits_processor_runs_on_the_adapted_model(tiny):
    model, inputs, folder = tiny
    options = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    with scr.adapter(model, folder):
        processor = scr.PurifiedLogitsProcessor(model, inputs)
        direct = model.generate(**inputs, logits_processor=[processor], **options).scores
        with scr.patch(model, "purified", engine="processor"):
            patched = model.generate(**inputs, **options).scores
    assert all(torch.equal(one, two) for one, two in zip(direct, patched, strict=True))


def test_merged_equals_adapted_and_needs_no_peft(tiny, tmp_path):
    model, inputs, folder = tiny
    before = everything(model)
    with scr.adapter(model, folder):
        adapted = logits(model, inputs)
    changed = scr.merge_adapter(model, folder, tmp_path / "merged")
    same(before[:3], everything(model)[:3])  # what transformers writes into the config is its own affair
    assert len(changed) == 16
    merged = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype="float32")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    torch.testing.assert_close(logits(merged.eval(), inputs), adapted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(model, inputs), adapted)


def test_merging_a_quantized_model_is_refused(tiny, tmp_path):
    model, _, folder = tiny
    model.is_quantized = True
    with pytest.raises(scr.ConfigError, match="quantized"):
        scr.merge_adapter(model, folder, tmp_path / "merged")


def test_a_merge_goes_to_a_folder_of_its_own(tiny, tmp_path):
    """In place of the model it would be the base no more; into a file transformers writes nothing, without an error."""
    model, _, folder = tiny
    model.save_pretrained(tmp_path / "model")
    model.name_or_path = str(tmp_path / "model")
    _change(folder, base_model_name_or_path=str(tmp_path / "model"))
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with pytest.raises(scr.ConfigError, match="in place of the model itself"):
        scr.merge_adapter(model, folder, tmp_path / "adapter" / ".." / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    (tmp_path / "file").write_text("taken")
    with pytest.raises(FileExistsError):
        scr.merge_adapter(model, folder, tmp_path / "file")


def test_merge_writes_the_processor_beside(tiny, tmp_path):
    model, _, folder = tiny
    scr.merge_adapter(model, folder, tmp_path / "merged", processor=tiny_llava()[1])
    transformers.AutoProcessor.from_pretrained(tmp_path / "merged")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "fields", [{"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 1}}, {"use_rslora": True}], ids=str
)
def test_ranks_and_scales_of_each_layer(tiny, tmp_path, fields):
    """As peft's own wrapper has it."""
    model, inputs, _ = tiny
    theirs = peft.get_peft_model(tiny_llava()[0], peft.LoraConfig(r=4, lora_alpha=6, target_modules=QUERIES, **fields))
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.1)
    theirs.save_pretrained(tmp_path / "theirs")
    with scr.adapter(model, tmp_path / "theirs"):
        found = logits(model, inputs)
    torch.testing.assert_close(found, logits(theirs.eval(), inputs))
    assert not torch.allclose(found, logits(model, inputs))


def test_who_samples_does_not_notice(tiny):
    """Peft draws first weights; not from the global random state."""
    model, _, folder = tiny
    before = torch.random.get_rng_state()
    with scr.adapter(model, folder), torch.inference_mode():
        pass
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_merging_a_last_layer_that_was_tied_unties_it(tiny, tmp_path):
    model, inputs, _ = tiny
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    model.lm_head.weight = model.model.language_model.embed_tokens.weight
    folder = write_adapter(tmp_path / "head", model, targets=["lm_head"])
    with scr.adapter(model, folder):
        adapted = logits(model, inputs)
    scr.merge_adapter(model, folder, tmp_path / "merged")
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert not config["tie_word_embeddings"]
    assert model.config.tie_word_embeddings
    merged = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype="float32")
    torch.testing.assert_close(logits(merged.eval(), inputs), adapted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("base", ["/models/llava", "./model", "TINY/llava", ""])
def test_a_base_that_was_a_folder_elsewhere_is_no_other_model(tiny, base):
    model, _, folder = tiny
    model.name_or_path = "tiny/llava"
    _change(folder, base_model_name_or_path=base)
    with scr.adapter(model, folder):
        pass


class TestRefused:
    def test_another_base_model_names_both(self, tiny):
        model, _, folder = tiny
        model.name_or_path = "llava-hf/llava-1.5-7b-hf"
        with pytest.raises(scr.ConfigError, match=r"trained on 'tiny/llava'.*'llava-hf/llava-1.5-7b-hf'"):
            scr.adapter(model, folder)

    def test_a_model_of_another_shape_names_both(self, tiny):
        _, _, folder = tiny
        other, _ = tiny_llava(layers=2)
        with pytest.raises(scr.ConfigError, match=r"does not fit.*layers.2.*'tiny/llava'.*no such layer"):
            scr.adapter(other, folder)

    def test_other_widths(self, tiny):
        model, _, folder = tiny
        weights = load_file(folder / "adapter_model.safetensors")
        weights = {name: value[:, :-1] if "lora_A" in name else value for name, value in weights.items()}
        save_file({name: value.contiguous() for name, value in weights.items()}, folder / "adapter_model.safetensors")
        with pytest.raises(scr.ConfigError, match="32 there"):
            scr.adapter(model, folder)

    def test_pickles(self, tiny):
        model, _, folder = tiny
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        with pytest.raises(scr.AdapterLoadError, match=r"adapter_model\.bin may run code"):
            scr.adapter(model, folder)

    @pytest.mark.parametrize(
        "change",
        [
            {"bias": "all"},
            {"modules_to_save": ["lm_head"]},
            {"peft_type": "IA3"},
            {"init_lora_weights": "pissa"},
            {"init_lora_weights": "olora"},
            {"use_dora": True},
            {"lora_bias": True},
            {"alora_invocation_tokens": [5]},
        ],
        ids=str,
    )
    def test_what_could_not_be_undone_or_merged(self, tiny, change):
        model, _, folder = tiny
        _change(folder, **change)
        before = everything(model)
        with pytest.raises(scr.ConfigError, match=r"adapter of another kind.*expected plain LoRA"):
            scr.adapter(model, folder)
        same(before, everything(model))

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"r": 8}, "weights of another rank"),
            ({"target_modules": ["q_proj", "mlp"]}, "cannot be put on the model"),
            ({"target_modules": None}, "cannot be put on the model"),
        ],
        ids=str,
    )
    def test_a_configuration_that_is_not_the_weights(self, tiny, change, match):
        """Found out while layers are put on: those that were come off again."""
        model, _, folder = tiny
        _change(folder, **change)
        before = everything(model)
        with pytest.raises(scr.AdapterLoadError, match=match):
            scr.load_adapter(model, folder)
        same(before, everything(model))
        assert not hasattr(model, "peft_config")

    def test_weights_that_are_no_matrices(self, tiny):
        model, _, folder = tiny
        weights = load_file(folder / "adapter_model.safetensors")
        save_file({name: value.flatten() for name, value in weights.items()}, folder / "adapter_model.safetensors")
        with pytest.raises(scr.ConfigError, match="does not fit"):
            scr.adapter(model, folder)

    @pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
    def test_broken_files(self, tiny, name):
        model, _, folder = tiny
        (folder / name).write_text("[")
        with pytest.raises(scr.AdapterLoadError, match="cannot be read"):
            scr.adapter(model, folder)

    def test_an_unknown_name(self, tiny, monkeypatch, tmp_path):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment at import
        with pytest.raises(scr.AdapterLoadError, match=r"adapter not found.*'refusal'"):
            scr.adapter(tiny[0], "nobody/nothing")

    def test_without_peft(self, tiny, monkeypatch):
        monkeypatch.setitem(sys.modules, "peft", None)
        with pytest.raises(scr.MissingPackageError, match="Run `pip install peft`"):
            scr.adapter(tiny[0], tiny[2])


def test_named_adapters_are_looked_up_on_the_hub(tiny, monkeypatch):
    """A hub's cache made by hand stands for the hub: no file is downloaded."""
    _, _, folder = tiny
    asked = []
    monkeypatch.setattr(
        "scr.adapters.sources.cached_file",
        lambda repository, file, revision=None: asked.append((repository, revision)) or str(folder / file),
    )
    (folder / "training_images.txt").write_text("0123456789abcdef\n")
    source = find_adapter("refusal", "v1")
    assert asked == [(ADAPTERS["refusal"].repository, "v1")] * 3
    assert trained_images(source) == {"0123456789abcdef"}
    assert source.base == "tiny/llava"
    assert source.revision == find_adapter(str(folder)).revision
    assert scr.list_adapters() == ["refusal"]
