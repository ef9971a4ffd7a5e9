"""`python -m scr.onepass train`: maps that are SCR's, a collection that goes on, a network that learns, a report."""

import json

import pytest
import torch
from tiny import picture, tiny_llava

import scr
from hooks import PatchGrid
from scr import ConfigError
from scr.errors import DataFileError
from scr.methods.scr import SCRConfig
from scr.onepass import collecting, main, training
from scr.onepass.card import PredictorCard
from scr.onepass.collecting import TARGETS_FILE, read_targets
from scr.onepass.learning import Example, Recipe, spread_of, teach
from scr.onepass.pairs import Pair, draw_pairs, encode_pairs, find_images, read_prompts
from scr.onepass.predictor import Predictor
from scr.onepass.report import held_out_images, overlap_report, rank_correlation, sources_shared
from scr.onepass.storing import CARD_FILE, WEIGHTS_FILE
from scr.onepass.watching import watch_maps, watch_states
from scr.storing.locks import alone_in

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = ("is there a dog in the image ?", "describe", "is there a cat ?")
MAPS = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint, six pictures and three prompts."""
    folder = tmp_path_factory.mktemp("onepass")
    model, processor = tiny_llava()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "images" / "more").mkdir(parents=True)
    for number in range(6):
        below = folder / "images" / ("more" if number % 2 else ".")
        picture(number).save(below / f"{number}.png")
    (folder / "images" / "notes.txt").write_text("no picture")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n\n")
    return folder


def command(place, output, *more):
    words = ["train", "--model", place / "model", "--images", place / "images", "--prompts", place / "prompts.txt"]
    words += ["--output", output, "--maps", MAPS, "--batch-size", 2, "--epochs", 2, "--set", "num_sources=4"]
    return main([str(word) for word in (*words, *more)])


@pytest.mark.parametrize("text", [False, True])
def test_a_predictor_is_trained_and_put_on(place, tmp_path, capsys, text):
    assert command(place, tmp_path, *(["--text"] if text else [])) == 0
    out = capsys.readouterr().out
    assert "sources shared" in out
    assert "of 1 images held out, K = 4" in out
    card = json.loads((tmp_path / CARD_FILE).read_text())
    assert (card["model_type"], card["width"], card["text"]) == ("llava", 32, text)
    assert (card["made_from"]["maps"], card["made_from"]["images"], card["report"]["maps"]) == (10, 5, 2)
    assert card["made_from"]["revision"].startswith("sha256:")
    for row in ("predicted", "mean_map", "random"):
        assert 0 <= card["report"][row]["sources_shared"] <= 1
    model, processor = tiny_llava()
    inputs = encode_pairs(processor, [Pair(image=find_images(place / "images")[0], prompt="describe")], model)
    with scr.patch(model, "scr_one_pass", predictor=str(tmp_path), num_sources=4) as patched, torch.no_grad():
        model(**inputs)
    assert len(patched.traces[0].sources) == 4


def test_maps_and_states_are_those_of_scr(place):
    model, processor = tiny_llava()
    pairs = draw_pairs(find_images(place / "images"), list(PROMPTS), 4, 0)
    inputs, config = encode_pairs(processor, pairs, model), SCRConfig(heads=0.5, num_sources=4)
    with scr.patch(model, config) as patched, torch.no_grad():
        model(**inputs)
    calls = []
    handles = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in model.get_decoder().layers]
    found = watch_maps(model, inputs, config)
    assert len(calls) == patched.config.attention_layers[-1], "of the last it needs no more than the attention"
    states = watch_states(model, inputs)
    assert len(calls) == patched.config.attention_layers[-1]
    for handle in handles:
        handle.remove()
    for one, trace in zip(found.attention, patched.traces, strict=True):
        assert torch.equal(one, trace.attention)
    assert torch.equal(found.embeds, states.embeds)
    text = model.get_input_embeddings()(inputs["input_ids"])
    assert torch.equal(states.embeds[inputs["input_ids"] != 4], text[inputs["input_ids"] != 4])


def test_a_collection_that_was_killed_goes_on(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collecting, "_SAVED_EVERY", 4)
    assert command(place, tmp_path / "whole") == 0
    calls, watch = [], collecting.watch_maps

    def killed(model, inputs, config):
        calls.append(len(inputs["input_ids"]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return watch(model, inputs, config)

    monkeypatch.setattr(collecting, "watch_maps", killed)
    assert command(place, tmp_path / "parts") == 130
    assert "goes on" in capsys.readouterr().err
    assert not (tmp_path / "parts" / CARD_FILE).exists()
    calls[:] = [0] * 9
    assert command(place, tmp_path / "parts") == 0
    assert sum(calls) == MAPS - 4, "four were saved"
    for file in (TARGETS_FILE, WEIGHTS_FILE, CARD_FILE):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    calls.clear()
    assert command(place, tmp_path / "parts", "--maps", MAPS + 2) == 0
    assert sum(calls) == 2, "more maps begin with those that are there"
    calls.clear()
    assert command(place, tmp_path / "parts") == 0
    assert not calls


def test_one_collection_at_a_time_in_a_folder(place, tmp_path, capsys):
    with alone_in(tmp_path):
        assert command(place, tmp_path) == 1
    assert "another process writes to this folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_maps_of_something_else_are_refused(place, tmp_path, capsys):
    assert command(place, tmp_path) == 0
    capsys.readouterr()
    for more, name in (
        (["--set", "heads=0.5"], "heads"),
        (["--seed", "3"], "pairs"),
        (["--dtype", "bfloat16"], "dtype"),
    ):
        assert command(place, tmp_path, *more) == 2
        assert f"made with another {name}; expected the same" in capsys.readouterr().err
    path = tmp_path / TARGETS_FILE
    path.write_bytes(path.read_bytes()[:-10])
    assert command(place, tmp_path) == 2
    assert "maps cannot be read" in capsys.readouterr().err
    with pytest.raises(DataFileError, match="maps cannot be read"):
        read_targets(path, {}, [])


def test_pairs_are_drawn_by_the_seed_and_use_every_image(place, tmp_path):
    images = find_images(place / "images")
    assert [path.name for path in images] == ["0.png", "2.png", "4.png", "1.png", "3.png", "5.png"]
    assert read_prompts(place / "prompts.txt") == list(PROMPTS)
    pairs = draw_pairs(images, list(PROMPTS), 12, 5)
    assert {pair.image for pair in pairs[:6]} == {pair.image for pair in pairs[6:]} == set(images)
    assert draw_pairs(images, list(PROMPTS), 7, 5) == pairs[:7]
    assert draw_pairs(images, list(PROMPTS), 12, 6) != pairs
    with pytest.raises(ConfigError, match="no images"):
        find_images(tmp_path)
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ConfigError, match="no prompts"):
        read_prompts(tmp_path / "empty.txt")
    (tmp_path / "bad.png").write_text("no picture")
    model, processor = tiny_llava()
    with pytest.raises(DataFileError, match=r"no picture: got .*bad.png"):
        encode_pairs(processor, [Pair(image=tmp_path / "bad.png", prompt="describe")], model)
    with pytest.raises(ConfigError, match="prompts that the processor cannot take"):
        encode_pairs(processor, [Pair(image=images[0], prompt="describe <image>")], model)


def test_images_are_held_out_by_the_seed():
    images = [training.Path(str(number)) for number in range(20)]
    held = held_out_images(images, 0.1, 0)
    assert len(held) == 2
    assert held == held_out_images(images[::-1], 0.1, 0) != held_out_images(images, 0.1, 1)
    assert len(held_out_images(images, 0.0, 0)) == 1
    with pytest.raises(ConfigError, match="too few images"):
        held_out_images(images[:1], 0.1, 0)


def examples(count, seed, text=False):
    """Attention that one direction of the states decides, and the place."""
    generator, grids = torch.Generator().manual_seed(seed), (PatchGrid(8, 8),)
    made = []
    for number in range(count):
        states = torch.randn(64, 16, generator=generator)
        sign = 1 if number % 2 or not text else -1
        said = sign * torch.ones(16)
        strength = sign * states[:, 0]
        attention = (2 * strength + torch.arange(64) / 32).softmax(dim=0) / 3
        image = training.Path(f"{seed}-{number}")
        made.append(
            Example(image=image, patches=states.half(), text=said if text else None, attention=attention, grids=grids)
        )
    return made


@pytest.mark.parametrize("text", [False, True])
def test_it_learns_what_states_text_and_places_tell(text):
    learnt, unseen = examples(100, 1, text), examples(20, 2, text)
    spread = spread_of([one.attention for one in learnt])
    card = PredictorCard(model_type="llava", width=16, text=text, spread=spread)
    predictor = Predictor(card, 1)
    before = overlap_report(predictor, learnt, unseen, SCRConfig(num_sources=8))
    losses = teach(predictor, learnt, Recipe(text=text, epochs=25))
    report = overlap_report(predictor.eval(), learnt, unseen, SCRConfig(num_sources=8))
    assert losses[-1] < 0.1 < losses[0]
    assert report["predicted"]["sources_shared"] > 0.8 > report["mean_map"]["sources_shared"]
    assert report["predicted"]["rank_correlation"] > 0.9 > report["mean_map"]["rank_correlation"]
    assert report["random"] == before["random"]
    assert report["random"]["sources_shared"] < 0.35
    assert before["predicted"]["sources_shared"] < 0.5
    one = unseen[0]
    guessed = predictor.predict([one.inputs(predictor)])[0]
    assert (guessed - one.attention / one.attention.sum()).abs().max() < 0.03, "the map itself, not its order alone"
    assert float(guessed.detach().sum()) == pytest.approx(1)


def test_the_report_by_hand():
    assert sources_shared([1, 2, 3, 4], [3, 4, 5, 6]) == 0.5
    assert sources_shared([], []) == 1
    assert rank_correlation(torch.tensor([1.0, 5.0, 9.0]), torch.tensor([0.1, 0.2, 0.9])) == pytest.approx(1)
    assert rank_correlation(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.1, 0.2, 0.9])) == pytest.approx(-1)
    ties = rank_correlation(torch.tensor([1.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert ties == pytest.approx(0.9486833)
    assert rank_correlation(torch.ones(3), torch.arange(3.0)) == 0
    learnt = examples(3, 1)
    other = [Example(**{**vars(learnt[0]), "grids": (PatchGrid(4, 16),)})]
    predictor = Predictor(PredictorCard(model_type="llava", width=16, text=False, spread=1.0))
    assert overlap_report(predictor, learnt, other, SCRConfig())["mean_map"] is None
