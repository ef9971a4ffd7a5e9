"""The lab's training: packing, all stages on a tiny model, and the same curve after a kill."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from benchmarks.lab.config import WorldConfig
from benchmarks.lab.corpus import PATCH_LABELS, build_corpus
from benchmarks.lab.language import all_words, references
from benchmarks.lab.loop import batch_indices
from benchmarks.lab.model import ModelSize, build_model, normalized, vision_features
from benchmarks.lab.packing import conversations, pack
from benchmarks.lab.recipe import STAGES, Recipe, StageRecipe
from benchmarks.lab.stages import decoder_stage, label_embeddings
from benchmarks.lab.tokenizer import build_processor, build_tokenizer
from benchmarks.lab.train import train
from benchmarks.lab.world import make_image

SHORT = StageRecipe(steps=20, batch=4, warmup=2)
TINY = Recipe(
    images=24,
    size=ModelSize(vision_width=16, vision_mlp=16, vision_blocks=1, text_width=16, text_mlp=16, text_blocks=2, heads=2),
    vision=SHORT,
    projector=SHORT,
    decoder=SHORT,
    refine=SHORT,
    questions=2,
    save_every=10,
)


def test_every_caption_and_question_comes_back_from_the_tokenizer() -> None:
    tokenizer = build_tokenizer()
    rng = random.Random(0)
    for index in range(60):
        image = make_image(TINY.world, "train", index)
        texts = references(image, TINY.world, "train", index)
        for prompt, answer in conversations(image, TINY.world, 2, rng):
            texts += [prompt.replace("<unk> ", ""), answer]
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.unk_token_id not in ids, text
            assert tokenizer.decode(ids).lower() == text.lower().replace("-", " - ")
            if text[-1] == "." and "-" not in text and text.split()[0] in ("A", "An", "The", "There"):
                assert tokenizer.decode(ids) == text
    assert len(all_words()) == len(set(all_words()))


def test_yes_and_no_are_one_token_in_any_spelling_and_come_out_in_title_case() -> None:
    tokenizer = build_tokenizer()
    for word in ("yes", "no"):
        spellings = {
            tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in (word, word.title(), f" {word}")
        }
        assert len(spellings) == 1
        assert len(next(iter(spellings))) == 1
        assert tokenizer.decode(next(iter(spellings))) == word.title()


def test_the_processor_gives_training_pixels_and_left_padded_batches() -> None:
    processor = build_processor(96, 8)
    image = make_image(TINY.world, "val", 0)
    from PIL import Image

    batch = processor(
        text=[
            "USER: <image>\nIs there a dog in the image? ASSISTANT:",
            "USER: <image>\nDescribe the image. ASSISTANT:",
        ],
        images=[Image.fromarray(image.pixels), Image.fromarray(image.pixels).resize((200, 150))],
        padding=True,
        return_tensors="pt",
    )
    assert torch.equal(batch["pixel_values"][:1], normalized(torch.from_numpy(image.pixels)[None]))
    assert batch["attention_mask"][1, 0] == 0
    assert (batch["input_ids"] == processor.image_token_id).sum(-1).tolist() == [144, 144]


def test_a_packed_question_looks_like_a_question_alone() -> None:
    model = build_model(TINY.size, 0).eval()
    corpus = build_corpus(TINY, "train", 2)
    pairs = [conversations(image, TINY.world, 2, random.Random(1)) for image in corpus.images]
    batch = pack(pairs, TINY.size.patches, 5.0, torch.device("cpu"))
    pixels = normalized(corpus.pixels)
    with torch.inference_mode():
        patches = model.model.multi_modal_projector(vision_features(model.model.vision_tower, pixels))
        embedded = model.get_input_embeddings()(batch.ids)
        embedded = embedded.masked_scatter((batch.ids == model.config.image_token_id)[:, :, None], patches)
        hidden = model.model.language_model(
            inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        packed = model.lm_head(hidden[batch.rows, batch.columns])
        at = 0
        tokenizer = build_tokenizer()
        for row, asked in enumerate(pairs):
            for prompt, answer in asked:
                text = f"USER: {'<image>' * 144}\n{prompt} ASSISTANT: {answer}</s>"
                ids = tokenizer(text, return_tensors="pt").input_ids
                length = len(tokenizer(answer, add_special_tokens=False).input_ids) + 1
                alone = model(input_ids=ids, pixel_values=pixels[row : row + 1]).logits[0, -length - 1 : -1]
                torch.testing.assert_close(packed[at : at + length], alone, atol=1e-5, rtol=1e-4)
                assert batch.targets[at : at + length].tolist() == ids[0, -length:].tolist()
                at += length
    assert at == len(batch.targets)
    assert set(batch.weights.tolist()) == {1.0, 5.0}


def test_patch_labels_and_their_words() -> None:
    corpus = build_corpus(TINY, "train", 3)
    for image, labels in zip(corpus.images, corpus.labels, strict=True):
        shown = {PATCH_LABELS[label] for label in labels.tolist()}
        assert image.scene in shown
        assert shown <= {*image.present, image.scene}
    assert label_embeddings(build_model(TINY.size, 0)).shape == (len(PATCH_LABELS), TINY.size.text_width)


def test_batches_walk_through_every_epoch_once() -> None:
    seen = [index for step in range(5) for index in batch_indices(step, 4, 10, seed=1)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_stages_run_and_a_killed_run_ends_with_the_same_curve(tmp_path: Path) -> None:
    whole = train(TINY, tmp_path / "whole", tmp_path / "checkpoint", val_images=5)
    assert [stage for stage in STAGES if any(entry["stage"] == stage for entry in whole)] == list(STAGES)
    for stage in ("vision", "projector"):
        losses = [entry["loss"] for entry in whole if entry["stage"] == stage]
        assert losses[-1] < losses[0]
    killed: list[dict[str, float]] = []
    for _ in range(10):
        killed = train(TINY, tmp_path / "killed", None, val_images=5, stop_after=13)
        if len(killed) == len(whole):
            break
    assert killed == whole
    card = (tmp_path / "checkpoint" / "README.md").read_text()
    assert TINY.world.digest in card
    assert str(tmp_path) not in card


def test_a_finished_stage_is_found_exactly_when_its_inputs_are_the_same() -> None:
    other = Recipe(decoder=StageRecipe(steps=7))
    assert Recipe().inputs_of("vision") == other.inputs_of("vision")
    assert Recipe().inputs_of("decoder") != other.inputs_of("decoder")
    bolder = Recipe(world=WorldConfig(adversarial_share=0.9))
    assert Recipe().inputs_of("decoder") == bolder.inputs_of("decoder")
    assert Recipe().inputs_of("refine") != bolder.inputs_of("refine")
    with pytest.raises(ValueError, match="unknown stage"):
        Recipe().inputs_of("joint")


def test_the_vision_tower_is_left_alone_by_the_last_stage() -> None:
    model = build_model(TINY.size, 0)
    corpus = build_corpus(TINY, "train", TINY.images)
    features = torch.zeros(TINY.images, 144, TINY.size.vision_width, dtype=torch.float16)
    module, loss_of = decoder_stage(model, corpus, features, TINY)
    loss_of(0).backward()
    assert all(parameter.grad is None for parameter in model.model.vision_tower.parameters())
    assert all(parameter.grad is not None for parameter in module.parameters())
