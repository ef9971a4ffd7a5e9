"""VTI against its formula without caches, and the vectors that it is given: learnt, kept in a file, and refused."""

import functools
import json

import pytest
import torch
from answers import GREEDY, SAMPLING, SUPPRESSED, said
from blocks_by_hand import by_hand, whole
from PIL import Image
from safetensors.torch import save_file
from tiny import picture, tiny_llava
from tiny_families import MIXTURES, PROMPTS, REFUSED, TINY

import scr
from hooks import find_family, last_states, vision_states
from scr.methods import VTIConfig
from scr.perturb import PatchMask
from scr.steering import (
    Card,
    Demonstration,
    SteeringVectors,
    find_vectors,
    principal_shift,
    read_vectors,
    visual_textual_vectors,
    write_vectors,
)
from scr.steering.vectors import vectors_of

pytestmark = pytest.mark.usefixtures("one_thread")
CARD = Card(
    method="vti",
    base="",
    base_revision=None,
    data_sha256="00",
    images=("0123456789abcdef",),
    demonstrations=1,
    rank=1,
    trials=1,
    masked=0.9,
    seed=0,
)


@pytest.fixture(scope="module")
def llava():
    return TINY["llava"](layers=4)


def towards(answer, vector, strength):
    """In double precision, of tokens one below the other."""
    one, unit = answer.double(), vector.double() / vector.double().norm()
    lengths = one.norm(dim=-1, keepdim=True)
    new = one / lengths + strength / 10 * unit
    return (new / new.norm(dim=-1, keepdim=True) * lengths).to(answer.dtype)


def vti_by_hand(tiny, tokens, vectors, text, vision):
    rows = torch.tensor([bool(images) for _, images in PROMPTS])[:, None, None]

    def turned(block, answer):
        return torch.where(rows, towards(answer, vectors["text"][block], text), answer)

    handles = []
    if vision:
        for block, layer in enumerate(find_family(tiny.model).vision_layers(tiny.model)):
            handles.append(
                layer.mlp.register_forward_hook(
                    lambda module, args, out, block=block: towards(out, vectors["vision"][block], vision)
                )
            )
    with by_hand(tiny.layers, after_mlp=turned):
        logits = whole(tiny.model, tiny.prompt().inputs, tokens).logits
    for handle in handles:
        handle.remove()
    return logits


def written(tiny, path, seed=4):
    """A file of vectors that fit, and the vectors."""
    drawn = torch.Generator().manual_seed(seed)
    tower = 0 if isinstance(tiny, (TINY["chameleon"], TINY["mistral3"])) else 2
    vectors = {"text": torch.randn(4, 32, generator=drawn), "vision": torch.randn(tower, 32, generator=drawn)}
    write_vectors(path, CARD, vectors["text"], vectors["vision"] if tower else None)
    return vectors


@pytest.mark.parametrize(
    ("family", "options", "attention"),
    [
        *((name, GREEDY, "sdpa") for name in TINY),
        ("llava", SAMPLING, "sdpa"),
        ("llava", {**GREEDY, "use_cache": False}, "sdpa"),
        ("llava", GREEDY, "eager"),
        ("qwen2_vl", SAMPLING, "sdpa"),
    ],
    ids=str,
)
def test_it_is_its_formula_without_caches(family, options, attention, tmp_path):
    """In a batch with left padding, of one image, two and none; the vision tower's part where there is a tower."""
    if family in REFUSED["vti"]:
        pytest.skip("it refuses the model")
    tiny = TINY[family](layers=4, attention=attention)
    vectors = written(tiny, tmp_path / "vectors")
    vision = 0.0 if family in ("chameleon", "mistral3") else 3.0
    base = said(tiny, **options)[1]
    with scr.patch(tiny.model, "vti", vectors=str(tmp_path / "vectors"), text=4.0, vision=vision):
        tokens, scores = said(tiny, **options)
    expected = vti_by_hand(tiny, tokens, vectors, 4.0, vision)
    for step in range(3):
        logits = expected[:2, tokens.shape[1] - 4 + step].clone()
        logits[:, SUPPRESSED] = -torch.inf
        kept = scores[:2, step].isfinite() & (logits > -1e30)
        difference = (scores[:2, step].log_softmax(-1) - logits.log_softmax(-1))[kept]
        assert difference.abs().max() < 1e-4
    assert (scores - base)[:2].abs().nan_to_num(0).amax(dim=(1, 2)).min() > 0.1
    same = functools.partial(torch.allclose, atol=1e-5) if family in MIXTURES else torch.equal
    assert same(scores[2], base[2]), "the row of text alone"


def test_each_part_alone_and_neither(llava, tmp_path):
    vectors, (tokens, base) = written(llava, tmp_path / "vectors"), said(llava)
    found = {}
    for text, vision in ((3.0, 0.0), (0.0, 3.0), (0.0, 0.0)):
        with scr.patch(llava.model, "vti", vectors=str(tmp_path / "vectors"), text=text, vision=vision):
            found[text, vision] = said(llava)
        expected = vti_by_hand(llava, found[text, vision][0], vectors, text, vision)[:2, -4]
        expected[:, SUPPRESSED] = -torch.inf
        kept = expected.isfinite()
        difference = found[text, vision][1][:2, 0].log_softmax(-1) - expected.log_softmax(-1)
        assert difference[kept].abs().max() < 1e-4
    assert torch.equal(found[0.0, 0.0][1], base)
    with scr.patch(llava.model, "vti", vectors="random", text=1e-7, vision=1e-7):
        close = said(llava)
    assert torch.equal(close[0], tokens)
    assert torch.allclose(close[1], base, atol=1e-5)


def test_beams_copies_and_batches(llava):
    with scr.patch(llava.model, "vti", vectors="random", text=2.0):
        scores = said(llava)[1]
        copied = said(llava, num_return_sequences=2, do_sample=True)[1]
        beams = said(llava, num_beams=2)[1][::2, 0]
        alone = [said(llava, [prompt])[1][0] for prompt in PROMPTS]
    for row in range(6):
        assert torch.allclose(copied[row, 0], scores[row // 2, 0], atol=1e-4)
    assert torch.allclose(beams.log_softmax(-1), scores[:, 0].log_softmax(-1), atol=1e-4)
    for row in range(3):
        assert torch.allclose(alone[row], scores[row], atol=1e-4)


def test_the_vision_tower_is_not_steered_in_silence(llava):
    """Features that somebody else has encoded are refused, unless vti was there before."""
    fields = {"perturbation": "features", "contrast": 0.0}
    with scr.patch(llava.model, "vti", vectors="random", text=0, vision=4.0) as steer:
        tokens, expected = said(llava)
        with scr.patch(llava.model, "purified", **fields):
            found, scores = said(llava)
        assert torch.equal(found, tokens)
        assert torch.allclose(scores, expected, atol=1e-4)
    with (
        scr.patch(llava.model, "purified", **fields),
        steer,
        pytest.raises(scr.UnsupportedGenerationError, match=r"is not to run: got encoded images.*'vti\+purified'"),
    ):
        said(llava)
    chameleon = TINY["chameleon"](layers=2).model
    with pytest.raises(scr.UnsupportedModelError, match="vision tower without blocks to act on: got Chameleon"):
        scr.patch(chameleon, "vti", vectors="random")
    assert scr.patch(chameleon, "vti", vectors="random", vision=0).name == "vti"


def test_the_principal_shift():
    shifts = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, 0.0, 2.0])
    flat, mean = shifts.double().flatten(1), shifts.double().mean(dim=0).flatten()
    # The eigenvector of the largest eigenvalue of the shifts' second moments.
    direction = torch.linalg.eigh(flat.T @ flat).eigenvectors[:, -1]
    first = principal_shift(shifts, 1).double().flatten()
    assert torch.allclose(first, (mean @ direction) * direction, atol=1e-5)
    assert first @ mean > 0
    assert torch.allclose(principal_shift(shifts, 6).double().flatten(), mean, atol=1e-5), "of full rank, the mean"
    assert torch.equal(principal_shift(-shifts, 1), -principal_shift(shifts, 1))
    assert torch.allclose(principal_shift(shifts[:1], 1), shifts[0], atol=1e-6)
    with pytest.raises(scr.ConfigError, match="rank out of range: got 7 with 6 demonstrations"):
        principal_shift(shifts, 7)


def test_vectors_are_learnt_as_it_says(tmp_path):
    """Of two demonstrations, from states that are asked for here one by one."""
    model, processor = tiny_llava()
    processor.tokenizer.padding_side = "left"
    shown = []
    for number in (1, 2):
        picture(number).save(tmp_path / f"{number}.png")
        shown.append(
            Demonstration(
                image=tmp_path / f"{number}.png", question="describe this image", clean="a dog", hallucinated="a cat in"
            )
        )
    mask = PatchMask(share=0.6, patch=4, seed=5)
    found = visual_textual_vectors(model, processor, shown, mask, 2, 2)
    text, vision = [], []
    for one in shown:
        states = []
        for caption in (one.clean, one.hallucinated):
            prompt = f"USER: <image>\ndescribe this image ASSISTANT: {caption}"
            inputs = processor(text=prompt, images=Image.open(one.image), return_tensors="pt")
            out = model(**inputs, output_hidden_states=True)
            states.append(torch.stack([state[0, -1] for state in out.hidden_states[1:]]))
            assert torch.allclose(last_states(model, inputs)[:, 0], states[-1], atol=1e-5)
        text.append(states[0] - states[1])
        seen = [tower_by_hand(model, inputs["pixel_values"])]
        for copy in range(2):
            masked = scr.perturb.perturb_inputs(model, inputs, PatchMask(share=0.6, patch=4, seed=5 + copy))
            assert not torch.equal(masked["pixel_values"], inputs["pixel_values"])
            seen.append(tower_by_hand(model, masked["pixel_values"]))
        assert torch.allclose(vision_states(model, inputs), seen[0], atol=1e-5)
        vision.append((seen[1] + seen[2]) / 2 - seen[0])
    assert torch.allclose(found["text"], (text[0] + text[1]) / 2, atol=1e-5), "of two within two directions, the mean"
    assert torch.allclose(found["vision"], (vision[0] + vision[1]) / 2, atol=1e-5)


@torch.no_grad()
def tower_by_hand(model, pixels):
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[1:]
    return torch.stack([state[0].mean(dim=0) for state in states])


def test_a_file_of_vectors_comes_back_and_is_named_with_its_digest(llava, tmp_path):
    path = tmp_path / "vti.safetensors"
    vectors = written(llava, path)
    found = read_vectors(path, "vti")
    assert isinstance(found, SteeringVectors)
    assert torch.equal(found.text, vectors["text"])
    assert torch.equal(found.vision, vectors["vision"])
    assert found.card == CARD
    assert (found.base, found.base_revision, found.base_is_folder) == ("", None, False)
    patch = scr.patch(llava.model, "vti", vectors=str(path))
    assert patch.config.vectors == found.recorded == f"{path}@sha256:{found.digest}"
    assert patch.config.learnt_on() == {"0123456789abcdef"}
    again = scr.patch(llava.model, "vti", **json.loads(json.dumps(patch.config.to_dict())))
    assert again.config == patch.config
    written(llava, path, seed=5)
    with pytest.raises(scr.ConfigError, match=r"other steering vectors: got .* of digest"):
        scr.patch(llava.model, "vti", vectors=patch.config.vectors)
    assert find_vectors("random", "vti") is None
    assert VTIConfig(vectors="random").learnt_on() == frozenset()
    assert scr.SCRConfig().learnt_on() == frozenset()
    drawn = vectors_of(None, "text", 2, 3)
    assert drawn.shape == (2, 3)
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(vectors_of(None, "text", 2, 3), drawn), "whatever a user's default number format is"
    finally:
        torch.set_default_dtype(torch.float32)
    with pytest.raises(scr.ConfigError, match="calibrate steering --method vti"):
        scr.patch(llava.model, "vti")


def broken(tmp_path, kind):
    path = tmp_path / "vectors"
    good = {"text": torch.zeros(4, 32), "vision": torch.zeros(2, 32)}
    card = json.dumps(CARD.to_dict())
    if kind == "missing":
        return path
    if kind == "of text":
        path.write_text("no tensors")
    elif kind == "truncated":
        write_vectors(path, CARD, good["text"], good["vision"])
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "foreign":
        save_file({"weight": torch.zeros(2)}, path)
    elif kind == "without a card":
        save_file(good, path)
    elif kind == "of a broken card":
        save_file(good, path, metadata={"card": card[:-9]})
    elif kind == "of another card":
        save_file(good, path, metadata={"card": card.replace('"rank": 1', '"rank": 0')})
    elif kind == "with more":
        save_file({**good, "more": torch.zeros(1)}, path, metadata={"card": card})
    elif kind == "not finite":
        save_file({**good, "text": torch.full((4, 32), torch.nan)}, path, metadata={"card": card})
    elif kind == "of numbers":
        save_file({**good, "text": torch.zeros(4, 32, dtype=torch.int)}, path, metadata={"card": card})
    elif kind == "of another method":
        save_file(good, path, metadata={"card": card.replace('"vti"', '"other"')})
    elif kind == "of another width":
        save_file({**good, "text": torch.zeros(4, 31)}, path, metadata={"card": card})
    elif kind == "without vision":
        save_file({"text": good["text"]}, path, metadata={"card": card})
    elif kind == "of another model":
        save_file(good, path, metadata={"card": card.replace('"base": ""', '"base": "llava-hf/llava-1.5-7b-hf"')})
    return path


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("missing", scr.DataFileError, "cannot read .*No such file"),
        ("of text", scr.DataFileError, "no steering vectors: got"),
        ("truncated", scr.DataFileError, "no steering vectors: got"),
        ("foreign", scr.DataFileError, r"no steering vectors: got .*\['weight'\]"),
        ("without a card", scr.DataFileError, "no steering vectors: got"),
        ("of a broken card", scr.DataFileError, "the card of"),
        ("of another card", scr.DataFileError, "no steering vectors: got .*rank out of range"),
        ("with more", scr.DataFileError, "no steering vectors: got .*'more'"),
        ("not finite", scr.DataFileError, "no finite vectors"),
        ("of numbers", scr.DataFileError, "no finite vectors"),
        ("of another method", scr.ConfigError, "steering vectors of another method: got .*made for 'other'"),
        (
            "of another width",
            scr.ConfigError,
            r"do not fit the model: got 4 of width 31 in .* text part; expected 4 of",
        ),
        ("without vision", scr.ConfigError, "do not fit the model: got none in .* vision part"),
        ("of another model", scr.ConfigError, "steering vectors of another model: got"),
    ],
)
def test_a_file_that_is_none_or_does_not_fit_is_refused(llava, tmp_path, kind, error, message):
    path = broken(tmp_path, kind)
    before = dict(vars(llava.model))
    llava.model.name_or_path = "hub/tiny" if kind == "of another model" else ""
    try:
        with pytest.raises(error, match=message):
            scr.patch(llava.model, "vti", vectors=str(path))
    finally:
        llava.model.name_or_path = ""
    assert {name: one for name, one in vars(llava.model).items() if name != "name_or_path"} == {
        name: one for name, one in before.items() if name != "name_or_path"
    }
