"""The training of `lab/smol` on a tiny language model of its class: stages, resuming, parts, and the checkpoint."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from miniature_smol import TEMPLATE, write_decoder
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

import scr
from benchmarks.lab import ASSEMBLED, MODELS, checkpoint_folder, data_folder, splits_of
from benchmarks.lab.pictures.config import PicturesConfig
from benchmarks.lab.pictures.language import conversations
from benchmarks.lab.pictures.scenes import make_scene
from benchmarks.lab.pretrained import assembling
from benchmarks.lab.pretrained.assembling import assemble, assembled_folder, merge
from benchmarks.lab.pretrained.building import IMAGE_TOKEN, TowerSize, build_model, build_processor
from benchmarks.lab.pretrained.fetching import SMOLLM2
from benchmarks.lab.smol import main
from benchmarks.lab.smol.batches import LABELS, batches, make_batch, patch_labels
from benchmarks.lab.smol.command import _STAGES
from benchmarks.lab.smol.recipe import STAGES, SmolRecipe
from benchmarks.lab.smol.stages import chat_of, encode, factors, lora_stage, projector_stage, tower_stage
from benchmarks.lab.smol.training import train
from benchmarks.lab.training.recipe import StageRecipe
from benchmarks.lab.world.config import digest_of
from benchmarks.running.plan import RunConfig
from benchmarks.running.runner import run
from scr import ConfigError, ModelLoadError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # transformers leaves processor_config.json to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SHORT = StageRecipe(steps=10, batch=1, warmup=2)
SIZE = TowerSize(width=32, mlp=32, blocks=1, heads=2)
TINY = SmolRecipe(
    size=SIZE, rank=2, alpha=4, tower=SHORT, projector=SHORT, lora=SHORT, questions=1, val_scenes=1, save_every=4
)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("decoder") / "tiny")


@pytest.fixture(scope="module")
def trained(decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("trained")
    return folder / "parts", train(TINY, decoder, folder / "work", folder / "parts")


@pytest.fixture(scope="module")
def assembled(trained: tuple[Path, Any], decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assembled") / "full"
    assemble(trained[0], decoder, folder)
    return folder


def asked(text: str, answer: str | None = None) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]},
    ]
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


def picture(index: int) -> Image.Image:
    return Image.fromarray(make_scene(TINY.world, "val", index).pixels)


def test_the_processor_speaks_the_models_own_template_and_places_images_in_any_turn(decoder: Path) -> None:
    processor = build_processor(decoder, SIZE)
    text = processor.apply_chat_template(asked("Is there a dog?"), add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nYou are tiny<|im_end|>\n<|im_start|>user\n<image>\nIs there a dog?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    plain = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    flat = processor.apply_chat_template(plain, tokenize=False)
    tokenizer = processor.tokenizer
    assert flat == tokenizer.apply_chat_template(plain, chat_template=TEMPLATE, tokenize=False)
    batch = processor(text=[text, f"{text}Yes"], images=[picture(0), picture(1)], padding=True, return_tensors="pt")
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert (batch["input_ids"] == image).sum(-1).tolist() == [256, 256]
    assert batch["attention_mask"][0, 0] == 0, "padded on the left"
    vocabulary = AutoModelForCausalLM.from_pretrained(decoder).config.vocab_size
    assert image < len(tokenizer) == vocabulary, "no token is new"


def test_a_packed_question_is_to_the_model_what_its_processor_makes_of_it_alone(
    decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rounding to bfloat16 would hide a difference.
    monkeypatch.setattr("benchmarks.lab.smol.stages._has_bfloat16_units", lambda: False)
    processor, model = build_processor(decoder, SIZE), build_model(decoder, SIZE).eval()
    stage: Any = lora_stage(model, processor, TINY)
    batch = make_batch(TINY, "lora", "val", 3)
    with torch.inference_mode():
        packed, logits = stage._logits(batch)
        at = 0
        for pixels, pairs in zip(batch.pixels, batch.asked, strict=True):
            for prompt, answer in pairs:
                text = processor.apply_chat_template(asked(prompt), add_generation_prompt=True, tokenize=False)
                alone = processor(
                    text=[f"{text}{answer}<|im_end|>"], images=[Image.fromarray(pixels.numpy())], return_tensors="pt"
                )
                length = len(chat_of(processor).turn(prompt, answer)[1])
                expected = model(**alone).logits[0, -length - 1 : -1]
                torch.testing.assert_close(logits[at : at + length], expected, atol=1e-4, rtol=1e-4)
                assert packed.targets[at : at + length].tolist() == alone["input_ids"][0, -length:].tolist()
                at += length
    assert at == len(logits)


@pytest.mark.slow
def test_the_real_tokenizer_splits_a_question_as_it_splits_the_whole_text() -> None:
    if not SMOLLM2.folder.exists():
        pytest.skip("the language model was not fetched: python -m benchmarks.lab.smol fetch")
    processor, rng = build_processor(SMOLLM2.folder, TowerSize()), random.Random(0)
    chat = chat_of(processor)
    for index in range(50):
        scene = make_scene(TINY.world, "train", index)
        for prompt, answer in conversations(scene, TINY.world, 2, rng):
            text = processor.apply_chat_template(asked(prompt), add_generation_prompt=True, tokenize=False)
            question, said = chat.turn(prompt, answer)
            parts = [*chat.before, chat.image_token, *chat.after, *question, *said]
            assert parts == processor.tokenizer(f"{text}{answer}<|im_end|>").input_ids, prompt


def test_the_tower_is_shown_what_the_processor_shows(decoder: Path) -> None:
    processor, model = build_processor(decoder, SIZE), build_model(decoder, SIZE).eval()
    pixels = torch.stack([make_batch(TINY, "tower", "val", 0).pixels[0]])
    text = processor.apply_chat_template(asked("?"), tokenize=False)
    inputs = processor(text=[text], images=[Image.fromarray(pixels[0].numpy())], return_tensors="pt")
    seen = []
    projector: Any = model.model.multi_modal_projector
    handle = projector.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        model(**inputs)
        torch.testing.assert_close(encode(model, pixels), seen[0], atol=1e-5, rtol=0)
    handle.remove()


def test_patches_are_labelled_with_what_covers_them_most_and_else_with_the_place() -> None:
    shared = 0
    for index in range(25):
        scene = make_scene(TINY.world, "train", index)
        labels = patch_labels(scene, 16, 0.25).view(16, 16)
        for row in range(16):
            for column in range(16):
                window = (slice(14 * row, 14 * row + 14), slice(14 * column, 14 * column + 14))
                cover = [(float(item.mask[window].mean()), item.name) for item in scene.objects]
                most = max(cover)
                assert LABELS[labels[row, column]] == (most[1] if most[0] > 0.25 else scene.scene), cover
                shared += sum(one > 0.25 for one, _ in cover) > 1
    assert shared > 5, "some patches show two things"


def test_a_batch_is_a_function_of_its_step_whoever_makes_it() -> None:
    recipe = dataclasses.replace(TINY, tower=dataclasses.replace(SHORT, steps=3))
    with batches(recipe, "tower") as here, batches(recipe, "tower", workers=2) as elsewhere:
        for step in range(3):
            one, other = here(step), elsewhere(step)
            assert torch.equal(one.pixels, other.pixels)
            assert torch.equal(one.labels, other.labels)
    assert one.asked == []
    first, second = (make_batch(TINY, "lora", "train", 5).asked for _ in range(2))
    assert first == second != make_batch(TINY, "lora", "train", 6).asked
    assert not torch.equal(make_batch(TINY, "tower", "train", 0).pixels, make_batch(TINY, "lora", "train", 0).pixels)


def test_stages_train_what_they_should_and_nothing_else(decoder: Path) -> None:
    processor, model = build_processor(decoder, SIZE), build_model(decoder, SIZE)
    inner: Any = model.model
    stage = tower_stage(model, TINY)
    stage.loss(make_batch(TINY, "tower", "train", 0)).backward()
    unused = {"tower.post_layernorm.weight", "tower.post_layernorm.bias"}  # LLaVA reads what is before it
    assert {name for name, one in stage.module.named_parameters() if one.grad is None} <= unused
    with torch.inference_mode():
        measured = stage.measure(make_batch(TINY, "tower", "val", 0))
    assert set(measured) == {"val_loss", "val_things", "val_ground"}
    model.zero_grad(set_to_none=True)
    stage = projector_stage(model, processor)
    stage.loss(make_batch(TINY, "projector", "train", 0)).backward()
    assert all(one.grad is not None for one in inner.multi_modal_projector.parameters())
    assert all(one.grad is None for one in inner.vision_tower.parameters())
    model.zero_grad(set_to_none=True)
    stage = lora_stage(model, processor, TINY)
    stage.loss(make_batch(TINY, "lora", "train", 0)).backward()
    graded = {name for name, one in inner.named_parameters() if one.grad is not None}
    assert all(".lora_" in name or name.startswith("multi_modal_projector.") for name in graded)
    assert len(graded) == 4 + 2 * 7 * 2, "the projector, and two factors of all seven layers of both blocks"
    assert len(factors(model)) == 2 * 7 * 2


def test_a_killed_training_ends_as_one_that_was_not(
    trained: tuple[Path, list[dict[str, Any]]], decoder: Path, tmp_path: Path
) -> None:
    parts, whole = trained
    assert tuple(dict.fromkeys(entry["stage"] for entry in whole)) == STAGES == _STAGES
    with pytest.raises(ConfigError, match=r"an earlier stage is not finished: got no tower .*--stage tower"):
        train(TINY, decoder, tmp_path / "work", tmp_path / "parts", ("projector",))
    for stage in STAGES:
        for _ in range(2):
            found = train(TINY, decoder, tmp_path / "work", tmp_path / "parts", (stage,), stop_after=7)
        assert found[-1] == {**found[-1], "stage": stage, "step": SHORT.steps}
    assert found == whole
    one, other = load_file(parts / "trained.safetensors"), load_file(tmp_path / "parts" / "trained.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_the_parts_say_what_they_are(trained: tuple[Path, Any]) -> None:
    parts, curve = trained
    described = json.loads((parts / "parts.json").read_text())
    assert described["tower"] == dataclasses.asdict(SIZE)
    assert described["world"]["digest"] == PicturesConfig().digest
    card = (parts / "README.md").read_text()
    assert "# lab/smol\n" in card
    assert f"| lora | 10 | {curve[-1]['loss']:.3f} | loss {curve[-1]['val_loss']:.3f}, yes_no" in card
    assert str(parts.parent) not in card
    assert [json.loads(line) for line in (parts / "curve.jsonl").read_text().splitlines()] == curve
    assert (parts / "curve.png").stat().st_size > 5_000
    assert {value.dtype for value in load_file(parts / "trained.safetensors").values()} == {torch.bfloat16}


def test_the_real_sizes_fit_into_the_package() -> None:
    size, width, hidden, keys, blocks, rank = SmolRecipe().size, 576, 1536, 192, 30, SmolRecipe().rank
    pairs = [(width, width), (width, keys), (width, keys), (width, width), *[(width, hidden)] * 3]
    low_rank = blocks * rank * sum(map(sum, pairs))
    tower = size.blocks * (4 * size.width**2 + 2 * size.width * size.mlp) + size.width * (3 * size.patch_size**2 + 256)
    projector = size.width * width + width * width
    assert 2 * (low_rank + tower + projector) < 24e6, "25 MB with biases and norms"


def test_the_assembled_checkpoint_is_the_language_model_with_what_was_trained(
    assembled: Path, trained: tuple[Path, Any], decoder: Path
) -> None:
    model: Any = AutoModelForImageTextToText.from_pretrained(assembled, dtype=torch.float32)
    own: Any = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32)
    weights = {key: value.float() for key, value in load_file(trained[0] / "trained.safetensors").items()}
    for block in range(2):
        for layer in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"):
            name = f"layers.{block}.{layer}"
            change = 4 / 2 * weights[f"lora.{name}.B"] @ weights[f"lora.{name}.A"]
            assert change.abs().max() > 1e-4, "it was trained"
            expected = own.model.get_submodule(name).weight + change
            found = model.model.language_model.get_submodule(name).weight
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=2**-7)
    assert torch.equal(model.get_input_embeddings().weight, own.get_input_embeddings().weight)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    for key, value in model.model.vision_tower.state_dict().items():
        assert torch.equal(value, weights[f"tower.{key}"]), key
    assert not {path.suffix for path in assembled.iterdir()} - {".json", ".jinja", ".safetensors"}


def test_a_merged_layer_is_the_layer_and_its_factors_one_after_the_other(decoder: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32)
    shown, layer = torch.randn(3, 32), model.model.layers[1].mlp.up_proj
    down, up, before = torch.randn(5, 32), torch.randn(48, 5), layer(shown)
    merge(model.model, {"lora.layers.1.mlp.up_proj.A": down, "lora.layers.1.mlp.up_proj.B": up}, 0.25)
    torch.testing.assert_close(layer(shown), before + 0.25 * (shown @ down.T @ up.T), atol=1e-4, rtol=1e-4)


def test_it_answers_with_and_without_scr_in_a_batch(assembled: Path) -> None:
    model: Any = AutoModelForImageTextToText.from_pretrained(assembled, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(assembled)
    texts = [
        processor.apply_chat_template(asked(text), add_generation_prompt=True, tokenize=False)
        for text in ("Is there a dog in the image?", "Describe the image.")
    ]
    inputs = processor(text=texts, images=[picture(0), picture(1)], padding=True, return_tensors="pt")
    plain = model.generate(**inputs, max_new_tokens=4)
    assert plain.shape[0] == 2
    with scr.patch(model, num_sources=4, layers=[0, 1], attention_layers=[0, 1]) as patched:
        model.generate(**inputs, max_new_tokens=1)
    assert patched.traces[0].grids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lora", r"a language model of other shapes .*: got layers.0.mlp.down_proj of \(32, 48\); expected \(32, 47\)"),
        ("layer", r"of other shapes .*: got layers.7.mlp.up_proj of None"),
        ("tower", "trained parts do not fit: got .*Missing key.*expected the tower"),
        ("sizes", r"trained parts cannot be read: got TypeError: .*widht"),
        ("weights", "trained parts cannot be read: got SafetensorError"),
        ("none", "trained parts cannot be read: got FileNotFoundError"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    change: str, message: str, trained: tuple[Path, Any], decoder: Path, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    shutil.copytree(trained[0], parts)
    weights, described = load_file(parts / "trained.safetensors"), json.loads((parts / "parts.json").read_text())
    if change == "lora":
        key = "lora.layers.0.mlp.down_proj.A"
        weights[key] = weights[key][:, :-1].contiguous()
    elif change == "layer":
        for factor in "AB":
            weights[f"lora.layers.7.mlp.up_proj.{factor}"] = weights.pop(f"lora.layers.1.mlp.up_proj.{factor}")
    elif change == "tower":
        del weights[next(key for key in weights if key.startswith("tower."))]
    elif change == "sizes":
        described["tower"]["widht"] = described["tower"].pop("width")
    save_file(weights, parts / "trained.safetensors")
    (parts / "parts.json").write_text(json.dumps(described))
    if change == "weights":
        (parts / "trained.safetensors").write_bytes(b"half")
    if change == "none":
        (parts / "trained.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=message):
        assemble(parts, decoder, tmp_path / "full")


def test_a_language_model_of_other_shapes_is_refused(trained: tuple[Path, Any], tmp_path: Path) -> None:
    other = write_decoder(tmp_path / "other", width=64)
    with pytest.raises(ModelLoadError, match=r"trained parts do not fit|of other shapes than what was trained"):
        assemble(trained[0], other, tmp_path / "full")
    (other / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ModelLoadError, match=r"language model cannot be loaded: got .*other"):
        assemble(trained[0], other, tmp_path / "full")


def test_its_name_is_enough(
    trained: tuple[Path, Any], decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(ASSEMBLED) <= set(MODELS)
    monkeypatch.setenv("SCR_CACHE", str(tmp_path))
    monkeypatch.setattr("benchmarks.lab.ASSEMBLED", {"lab/smol": str(tmp_path / "nothing")})
    with pytest.raises(FileNotFoundError, match=r"no trained parts of 'lab/smol': got no parts.json"):
        checkpoint_folder("lab/smol")
    monkeypatch.setattr("benchmarks.lab.ASSEMBLED", {"lab/smol": str(trained[0])})
    with pytest.raises(ModelLoadError, match="no language model yet"):
        checkpoint_folder("lab/smol")
    monkeypatch.setattr(assembling, "decoder_folder", lambda: decoder)
    folder = checkpoint_folder("lab/smol")
    assert folder == checkpoint_folder("lab/smol") == assembled_folder(trained[0])
    assert folder.parent == tmp_path
    # As a run finds it: with data of its own world, in a split that only this world has.
    monkeypatch.setattr("benchmarks.running.plan.LAB_IMAGES", 3)
    config = RunConfig(
        model="lab/smol",
        methods=("none",),
        tasks=("pope_random", "chair", "lab_mme"),
        split="test_twemoji",
        limit=1,
        batch_size=4,
        generation={"max_new_tokens": 2},
        output_dir=tmp_path / "results",
    )
    outcomes = run(config)
    assert [len(outcome.records) > 0 for outcome in outcomes] == [True] * 3
    assert data_folder("test_twemoji", 3, "lab/smol").is_dir()
    assert splits_of("lab/smol") == ("train", "val", "test", "test_twemoji")
    assert splits_of("lab/llava") == ("train", "val", "test")


def test_the_commands(
    trained: tuple[Path, Any], decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("SCR_CACHE", str(tmp_path / "cache"))
    assert main(["merge", str(trained[0]), "--output", str(tmp_path / "full")]) == 2
    assert "error: no language model yet" in capsys.readouterr().err
    monkeypatch.setattr("benchmarks.lab.smol.command.decoder_folder", lambda: decoder)
    assert main(["merge", str(trained[0]), "--output", str(tmp_path / "full")]) == 0
    assert (tmp_path / "full" / "model.safetensors").is_file()
    monkeypatch.setattr("benchmarks.lab.smol.command.start_anew", lambda command, given: None)
    assert main(["train", "--seed", "1"]) == 2
    assert "another seed is another model: got seed 1 without --output" in capsys.readouterr().err
    with monkeypatch.context() as without:
        without.setattr("benchmarks.lab.smol.command.find_spec", lambda name: None)
        assert main(["train"]) == 2
    assert (
        "got no peft, by which the language model is trained; expected it. Install it: pip" in capsys.readouterr().err
    )
    given: list[Any] = []
    monkeypatch.setattr(
        "benchmarks.lab.smol.training.train", lambda *positional, **named: given.append((positional, named))
    )
    assert main(["train", "--stage", "tower", "--work", "w", "--output", "o", "--seed", "1", "--threads", "1"]) == 0
    ((recipe, *rest), named) = given[0]
    assert recipe == SmolRecipe(seed=1)
    assert (rest, named) == ([decoder, Path("w"), Path("o"), ("tower",)], {"workers": 0})


def test_a_finished_stage_is_found_exactly_when_its_inputs_are_the_same() -> None:
    recipe = SmolRecipe()
    later = dataclasses.replace(recipe, lora=SHORT, rank=4, world=PicturesConfig(lie_rate=0.9))
    for stage in ("tower", "projector"):
        assert digest_of(recipe.inputs_of(stage)) == digest_of(later.inputs_of(stage))
    assert recipe.inputs_of("lora") != later.inputs_of("lora")
    assert recipe.inputs_of("tower") == dataclasses.replace(recipe, decoder="other").inputs_of("tower")
    assert recipe.inputs_of("projector") != dataclasses.replace(recipe, decoder="other").inputs_of("projector")
    with pytest.raises(ValueError, match="unknown stage: got 'joint'; expected one of tower"):
        recipe.inputs_of("joint")
