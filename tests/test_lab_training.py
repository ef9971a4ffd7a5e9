"""The lab's training: packing, all stages on tiny models of every family, and the same curve after a kill."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.lab import CHECKPOINTS, checkpoint_folder
from benchmarks.lab.evaluate import prompt_of
from benchmarks.lab.families import FAMILIES, LabFamily, build_family
from benchmarks.lab.families.base import resized
from benchmarks.lab.train import train
from benchmarks.lab.training.corpus import PATCH_LABELS, build_corpus
from benchmarks.lab.training.loop import batch_indices
from benchmarks.lab.training.recipe import RECIPES, Recipe, StageRecipe
from benchmarks.lab.training.stages import decoder_stage, encode_corpus, label_embeddings
from benchmarks.lab.world.config import WorldConfig, digest_of
from benchmarks.lab.world.language import all_words, references
from benchmarks.lab.world.packing import conversations, pack
from benchmarks.lab.world.scenes import make_image

SHORT = StageRecipe(steps=20, batch=4, warmup=2)
SMALL = {"vision_width": 16, "vision_mlp": 16, "vision_blocks": 1, "text_width": 16, "text_mlp": 16, "text_blocks": 2}
TINY = {
    name: dataclasses.replace(
        recipe,
        images=24,
        size=dataclasses.replace(recipe.size, heads=2, **SMALL),
        vision=SHORT,
        projector=SHORT,
        decoder=SHORT,
        again=SHORT if name == "internvl" else None,
        refine=SHORT,
        questions=2,
        save_every=10,
    )
    for name, recipe in RECIPES.items()
}
WORLD = WorldConfig()
every_family = pytest.mark.parametrize("name", FAMILIES)


def family_of(name: str) -> LabFamily:
    return build_family(name, TINY[name].size)


def pictures(family: LabFamily, count: int) -> list[Image.Image]:
    """The first training images, at the sizes at which training shows them."""
    images = [Image.fromarray(make_image(WORLD, "train", index).pixels) for index in range(count)]
    return [resized(image, family.shape_of(index)) for index, image in enumerate(images)]


@every_family
def test_every_caption_and_question_comes_back_from_the_tokenizer(name: str) -> None:
    tokenizer = family_of(name).tokenizer
    rng = random.Random(0)
    for index in range(40):
        image = make_image(WORLD, "train", index)
        texts = references(image, WORLD, "train", index)
        for prompt, answer in conversations(image, WORLD, 2, rng):
            texts += [prompt.replace("<unk> ", ""), answer]
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.unk_token_id not in ids, text
            assert tokenizer.decode(ids).lower() == text.lower().replace("-", " - ")
            if text[-1] == "." and "-" not in text and text.split()[0] in ("A", "An", "The", "There"):
                assert tokenizer.decode(ids) == text
    assert len(all_words()) == len(set(all_words()))


@every_family
def test_yes_and_no_are_one_token_in_any_spelling_and_come_out_in_title_case(name: str) -> None:
    tokenizer = family_of(name).tokenizer
    for word in ("yes", "no"):
        spellings = {
            tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in (word, word.title(), f" {word}")
        }
        assert len(spellings) == 1
        assert len(next(iter(spellings))) == 1
        assert tokenizer.decode(next(iter(spellings))) == word.title()


def test_the_shipped_llava_keeps_its_tokenizer_and_its_recipe(tmp_path: Path) -> None:
    build_family("llava", Recipe().size).build_processor().save_pretrained(tmp_path)
    for file in ("tokenizer.json", "processor_config.json", "chat_template.jinja"):
        assert (tmp_path / file).read_text() == (checkpoint_folder("lab/llava") / file).read_text()
    digests = [digest_of(Recipe().inputs_of(stage)) for stage in Recipe().stages]
    assert digests == ["c5d3840fad", "bfc04e553f", "85f66a81fc", "b8c9e0891e"]


@every_family
def test_the_processor_gives_training_pixels_and_left_padded_batches(name: str) -> None:
    family = family_of(name)
    processor = family.build_processor()
    seen = pictures(family, 12)
    texts = ["Is there a dog in the image?" if index % 2 else "Describe the image." for index in range(len(seen))]
    batch = processor(
        text=[prompt_of(processor, text) for text in texts], images=seen, padding=True, return_tensors="pt"
    )
    assert batch["attention_mask"].sum(-1).min() < batch["input_ids"].shape[1]
    assert batch["attention_mask"][:, -1].all()
    tokens = (batch["input_ids"] == family.image_token_id).sum(-1).tolist()
    assert tokens == [family.tokens(family.shape_of(index)) for index in range(len(seen))]
    # What the processor gives the tower is what training gives it.
    given: list[torch.Tensor] = []
    model = family.build_model(0).eval()
    tower = family.tower(model)
    handle = tower.register_forward_pre_hook(
        lambda _, args, kwargs: given.append(args[0] if args else kwargs["pixel_values"]), with_kwargs=True
    )
    with torch.inference_mode():
        model(**batch)
        family.encode(model, [family.view(picture) for picture in seen])
    handle.remove()
    torch.testing.assert_close(given[0], given[1], atol=1e-6, rtol=0)
    if name == "qwen2_vl":
        assert batch["mm_token_type_ids"].sum(-1).tolist() == tokens
        assert len(set(tokens)) > 4, "images of many sizes"
    if name == "internvl":
        assert len(given[0]) == 11 * 5 + 3, "two by two tiles and a thumbnail, and one by two of one image"


@every_family
def test_a_packed_question_is_to_the_model_what_its_processor_makes_of_it_alone(name: str) -> None:
    family, recipe = family_of(name), TINY[name]
    model, processor = family.build_model(0).eval(), family.build_processor()
    count = 8
    corpus = build_corpus(family, recipe, "train", count)
    pairs = [conversations(image, WORLD, 2, random.Random(1)) for image in corpus.images]
    batch = pack(pairs, [family.positions(shape) for shape in corpus.shapes], family.chat, 5.0, torch.device("cpu"))
    with torch.inference_mode():
        seen = family.project(model, family.encode(model, corpus.views))
        embedded = model.get_input_embeddings()(batch.ids)
        embedded = embedded.masked_scatter((batch.ids == family.image_token_id)[:, :, None], seen)
        hidden = model.model.language_model(
            inputs_embeds=embedded,
            attention_mask=batch.mask,
            position_ids=batch.positions if len(batch.positions) > 1 else batch.positions[0],
            use_cache=False,
        ).last_hidden_state
        packed = model.lm_head(hidden[batch.rows, batch.columns])
        at = 0
        for asked, picture in zip(pairs, pictures(family, count), strict=True):
            for prompt, answer in asked:
                text = f"{prompt_of(processor, prompt)} {answer}{family.special.end}"
                alone = processor(text=[text], images=[picture], return_tensors="pt")
                length = len(family.chat.turn(prompt, answer)[1])
                logits = model(**alone).logits[0, -length - 1 : -1]
                torch.testing.assert_close(packed[at : at + length], logits, atol=1e-4, rtol=0)
                assert batch.targets[at : at + length].tolist() == alone["input_ids"][0, -length:].tolist()
                at += length
    assert at == len(batch.targets)
    assert set(batch.weights.tolist()) == {1.0, 5.0}


@every_family
def test_patch_labels_and_their_words(name: str) -> None:
    family = family_of(name)
    corpus = build_corpus(family, TINY[name], "train", 8)
    for image, shape, labels in zip(corpus.images, corpus.shapes, corpus.labels, strict=True):
        shown = {PATCH_LABELS[label] for label in labels.flatten().tolist()}
        assert image.scene in shown
        assert shown <= {*image.present, image.scene}
        assert labels.shape == (family.tokens(shape), family.merge**2)
    assert label_embeddings(family, family.build_model(0)).shape == (len(PATCH_LABELS), TINY[name].size.text_width)


@every_family
def test_a_label_lies_where_its_object_is_seen(name: str) -> None:
    """A picture painted with one colour per object, seen through the view, has each patch in its label's colour."""
    family = family_of(name)
    patch, merge = TINY[name].size.patch_size, family.merge
    image = make_image(WORLD, "train", 3)
    painted = torch.zeros(*image.pixels.shape, dtype=torch.uint8)
    for item in image.objects:
        painted[torch.from_numpy(item.mask)] = 20 + 5 * PATCH_LABELS.index(item.name)
    corpus = build_corpus(family, TINY[name], "train", 4)
    view = family.view(resized(Image.fromarray(painted.numpy()), family.shape_of(3)))[..., 0].float()
    grids = view if view.ndim == 3 else view[None]
    patches = (
        grids.unflatten(2, (-1, merge, patch)).unflatten(1, (-1, merge, patch)).permute(0, 1, 4, 2, 5, 3, 6)
    ).reshape(-1, merge * merge, patch * patch)
    inside = (patches == patches[..., :1]).all(-1) & (patches[..., 0] > 0)
    wanted = torch.tensor([20 + 5 * label for label in range(len(PATCH_LABELS))])[corpus.labels[3]]
    assert inside.sum() > 3
    assert torch.equal(patches[..., 0][inside], wanted[inside].float())


def test_batches_walk_through_every_epoch_once() -> None:
    seen = [index for step in range(5) for index in batch_indices(step, 4, 10, seed=1)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


@every_family
def test_stages_run_and_a_killed_run_ends_with_the_same_curve(name: str, tmp_path: Path) -> None:
    recipe = TINY[name]
    whole = train(recipe, tmp_path / "whole", tmp_path / "checkpoint", val_images=4)
    assert tuple(dict.fromkeys(entry["stage"] for entry in whole)) == recipe.stages
    for stage in ("vision", "projector"):
        losses = [entry["loss"] for entry in whole if entry["stage"] == stage]
        assert losses[-1] < losses[0]
    killed: list[dict[str, float]] = []
    for _ in range(10):
        killed = train(recipe, tmp_path / "killed", None, val_images=4, stop_after=13)
        if len(killed) == len(whole):
            break
    assert killed == whole
    card = (tmp_path / "checkpoint" / "README.md").read_text()
    assert f"# lab/{name}\n" in card
    assert recipe.world.digest in card
    assert str(tmp_path) not in card


def test_a_finished_stage_is_found_exactly_when_its_inputs_are_the_same() -> None:
    other = Recipe(decoder=StageRecipe(steps=7))
    assert Recipe().inputs_of("vision") == other.inputs_of("vision")
    assert Recipe().inputs_of("decoder") != other.inputs_of("decoder")
    bolder = Recipe(world=WorldConfig(adversarial_share=0.9))
    assert Recipe().inputs_of("decoder") == bolder.inputs_of("decoder")
    assert Recipe().inputs_of("refine") != bolder.inputs_of("refine")
    keys = {digest_of(recipe.inputs_of("vision")) for recipe in RECIPES.values()}
    assert len(keys) == len(RECIPES), "families share a folder of states"
    with pytest.raises(ValueError, match="unknown stage"):
        Recipe().inputs_of("joint")


def test_every_checkpoint_has_a_recipe_and_every_recipe_a_family() -> None:
    assert set(CHECKPOINTS) == {f"lab/{name}" for name in RECIPES}
    assert {recipe.family for recipe in RECIPES.values()} == set(FAMILIES)
    with pytest.raises(ValueError, match="unknown family: got 'gpt'; expected one of llava"):
        build_family("gpt", Recipe().size)


@every_family
def test_the_vision_tower_is_left_alone_by_the_last_stages(name: str) -> None:
    family, recipe = family_of(name), TINY[name]
    model = family.build_model(0)
    corpus = build_corpus(family, recipe, "train", recipe.images)
    module, loss_of = decoder_stage(family, model, corpus, encode_corpus(family, model, corpus), recipe)
    loss_of(0).backward()
    projector = set(family.projector(model).parameters())
    assert all(parameter.grad is None for parameter in family.tower(model).parameters() if parameter not in projector)
    assert all(parameter.grad is not None for parameter in module.parameters())
