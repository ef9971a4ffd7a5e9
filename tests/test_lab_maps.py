"""The lab's predictor, and what its commands say about maps that cost less than SCR's."""

import json

import pytest
import torch
from PIL import Image

import scr
from benchmarks.lab import PREDICTORS, cheaper_maps, checkpoint_folder, predictor_folder, prompts
from benchmarks.lab.cheaper_maps import VARIANTS, compare_maps
from benchmarks.lab.evaluate import prompt_of
from benchmarks.lab.world.config import WorldConfig
from benchmarks.lab.world.language import question
from benchmarks.lab.world.scenes import make_image
from scr.checkpoints.digests import folder_digest
from scr.checkpoints.loading import load_processor, load_weights
from scr.onepass.storing import WEIGHTS_FILE, load_predictor

pytestmark = pytest.mark.usefixtures("one_thread", "denormals")


def test_prompts_and_pictures_are_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SCR_CACHE", str(tmp_path / "cache"))
    assert prompts.main(["--output", str(tmp_path / "prompts.txt"), "--images", "3"]) == 0
    folder = capsys.readouterr().out.strip()
    assert "train-3" in folder
    lines = (tmp_path / "prompts.txt").read_text().splitlines()
    assert lines == prompts.all_prompts()
    assert question("cat") in lines
    assert question("elephant") in prompts.all_prompts("lab/smol"), "of its own world"


def test_the_predictor_that_comes_with_the_lab():
    """Small, of the checkpoint that is there, and nearer to SCR's sources on unseen pictures than chance can be."""
    folder = predictor_folder("lab/llava")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000

    checkpoint = checkpoint_folder("lab/llava")
    card = json.loads((folder / "predictor.json").read_text())
    assert card["made_from"]["revision"] == folder_digest(checkpoint)
    model, processor = load_weights(str(checkpoint), dtype=torch.float32), load_processor(str(checkpoint))
    pictures = [Image.fromarray(make_image(WorldConfig(), "val", index).pixels) for index in range(8)]
    inputs = processor(text=[prompt_of(processor, question("cat"))] * 8, images=pictures, return_tensors="pt")
    sources = []
    for method, fields in (VARIANTS["scr"], VARIANTS["scr_one_pass"]):
        with scr.patch(model, method, num_sources=16, **fields) as patched, torch.no_grad():
            model(**inputs)
        sources.append([set(trace.sources.tolist()) for trace in patched.traces])
    shared = sum(len(one & other) for one, other in zip(*sources, strict=True)) / (8 * 16)
    assert shared > card["report"]["mean_map"]["sources_shared"] + 0.05
    assert load_predictor("lab/llava", model).parameters_trained == 38_145
    with pytest.raises(scr.ConfigError, match=r"unknown lab predictor: got 'lab/lava'.*lab/llava"):
        load_predictor("lab/lava", model)
    assert (folder / WEIGHTS_FILE).stat().st_size < 200_000


def test_every_predictor_that_comes_with_the_lab_found_sources_that_no_mean_map_has():
    for name in PREDICTORS:
        folder = predictor_folder(name)
        card = json.loads((folder / "predictor.json").read_text())
        assert card["made_from"]["model"] == name
        report = card["report"]
        assert report["predicted"]["sources_shared"] > report["mean_map"]["sources_shared"] + 0.1
        assert f"{card['made_from']['maps']:,} maps of {card['made_from']['images']:,} pictures" in _page(folder)
        assert (folder / WEIGHTS_FILE).stat().st_size < 1_500_000


def _page(folder):
    return " ".join((folder / "README.md").read_text().split())


def test_cheaper_maps_are_compared_with_scrs(capsys, monkeypatch):
    found = compare_maps(1)
    entries = {one["name"]: one for one in found}
    assert list(entries) == ["none", *VARIANTS]
    assert entries["scr"]["sources_shared"] == 1
    assert entries["scr"]["changed"] == entries["none"]["changed_from_none"] == 0
    for name in list(VARIANTS)[1:]:
        assert 0.1 < entries[name]["sources_shared"] < 1
    monkeypatch.setattr(cheaper_maps, "compare_maps", lambda images: found)
    assert cheaper_maps.main(["--images", "1"]) == 0
    assert "| `scr_one_pass` |" in capsys.readouterr().out
