"""VISTA against its formula without caches: vectors of the image, turned MLPs, and earlier layers in the mixture."""

import functools

import pytest
import torch
from answers import GREEDY, SAMPLING, SUPPRESSED, said
from blocks_by_hand import by_hand, whole
from tiny_families import MIXTURES, PROMPTS, REFUSED, TINY
from transformers import DynamicCache

import scr
from hooks import last_states

pytestmark = pytest.mark.usefixtures("one_thread")
# What stays where an image was: nothing, or what frames it where no configuration tells it from words.
LEFT = {"internvl": "<open> <close>", "chameleon": "<open> <close>"}


@pytest.fixture(scope="module")
def llava():
    tiny = TINY["llava"](layers=4)
    tiny.name = "llava"
    return tiny


def vectors_by_hand(tiny):
    """(rows, blocks, dim): each prompt alone, with its image and without."""
    found = []
    for seen in PROMPTS:
        words = (seen[0].replace("<image>", LEFT.get(tiny.name, "")), [])
        with_image, without = (
            torch.stack(
                [state[0, -1] for state in whole(tiny.model, inputs, inputs["input_ids"]).hidden_states[1:]]
            ).double()
            for inputs in (tiny.prompt([seen]).inputs, tiny.prompt([words]).inputs)
        )
        found.append(with_image - without)
    return torch.stack(found)


def vista_by_hand(tiny, tokens, strength, share, layers):
    """Scores of all places (rows, seq, vocab)."""
    vectors, inputs = vectors_by_hand(tiny), tiny.prompt().inputs

    def turned(block, answer):
        rows = []
        for row in range(len(answer)):
            one, vector = answer[row].double(), vectors[row, block]
            if not PROMPTS[row][1]:
                rows.append(answer[row])
                continue
            unit, lengths = vector / vector.norm(), one.norm(dim=-1, keepdim=True)
            away = (-(one / lengths) @ unit).clamp(min=0)[:, None]
            new = one / lengths + strength * (1 + away) * unit
            rows.append((new / new.norm(dim=-1, keepdim=True) * lengths).to(answer.dtype))
        return torch.stack(rows)

    with by_hand(tiny.layers, after_mlp=turned):
        out = whole(tiny.model, inputs, tokens)
    head = tiny.model.get_output_embeddings()
    early = sum(head(out.hidden_states[layer]) for layer in layers) / len(layers)
    return (1 - share) * out.logits + share * early


def assert_said(tokens, scores, expected):
    for step in range(scores.shape[1]):
        logits = expected[:2, tokens.shape[1] - scores.shape[1] - 1 + step].clone()
        logits[:, SUPPRESSED] = -torch.inf
        kept = scores[:2, step].isfinite() & (logits > -1e30)
        assert kept.any(dim=1).all()
        difference = (scores[:2, step].log_softmax(-1) - logits.log_softmax(-1))[kept]
        assert difference.abs().max() < 1e-4


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
def test_it_is_its_formula_without_caches(family, options, attention):
    """In a batch with left padding, of one image, two and none; vectors of the prompts alone, as the batch has them."""
    if family in REFUSED["vista"]:
        pytest.skip("it refuses the model")
    tiny = TINY[family](layers=4, attention=attention)
    tiny.name = family
    base = said(tiny, **options)[1]
    with scr.patch(tiny.model, "vista", strength=0.3, early_share=0.2, early_layers=range(2, 4)):
        tokens, scores = said(tiny, **options)
    assert_said(tokens, scores, vista_by_hand(tiny, tokens, 0.3, 0.2, range(2, 4)))
    assert (scores - base)[:2].abs().nan_to_num(0).amax(dim=(1, 2)).min() > 0.1
    same = functools.partial(torch.allclose, atol=1e-5) if family in MIXTURES else torch.equal
    assert same(scores[2], base[2]), "the row of text alone"


@pytest.mark.parametrize(("strength", "share"), [(0.3, 0.0), (0.0, 0.4), (0.0, 1.0)])
def test_each_part_alone(llava, strength, share):
    with scr.patch(llava.model, "vista", strength=strength, early_share=share, early_layers=range(1, 3)):
        tokens, scores = said(llava)
    assert_said(tokens, scores, vista_by_hand(llava, tokens, strength, share, range(1, 3)))
    if share == 1.0:
        assert (scores[:2, :, SUPPRESSED] == -torch.inf).all(), "what is banned stays so"


def test_nothing_of_either_is_the_model_and_needs_no_run_beside(llava, monkeypatch):
    tokens, scores = said(llava)
    with scr.patch(llava.model, "vista", strength=1e-8, early_share=1e-8):
        found, close = said(llava)
    assert torch.equal(found, tokens)
    assert torch.allclose(close, scores, atol=1e-5)
    monkeypatch.setattr("scr.methods.vista.last_states", None)
    with scr.patch(llava.model, "vista", strength=0, early_share=0):
        found, same = said(llava)
    assert torch.equal(found, tokens)
    assert torch.equal(same, scores)


def test_beams_copies_and_batches_have_each_prompts_vector(llava):
    with scr.patch(llava.model, "vista"):
        scores = said(llava)[1]
        copied = said(llava, num_return_sequences=2, do_sample=True)[1]
        beams = said(llava, num_beams=2)[1][::2, 0]
        alone = [said(llava, [prompt])[1][0] for prompt in PROMPTS]
    for row in range(6):
        assert torch.allclose(copied[row, 0], scores[row // 2, 0], atol=1e-4)
    assert torch.allclose(beams.log_softmax(-1), scores[:, 0].log_softmax(-1), atol=1e-4)
    for row in range(3):
        assert torch.allclose(alone[row], scores[row], atol=1e-4)


def test_its_vectors_are_the_plain_models_whatever_lies_around_it(llava):
    """SCR edits neither run for the vectors; DoLa's and RUDDER's hooks take neither for a step."""
    inputs = llava.prompt().inputs
    plain = last_states(llava.model, inputs)
    for method in ("scr", "rudder", "dola", "vista"):
        with scr.patch(llava.model, method, **scr.get_method(method).example):
            said(llava)
            assert torch.equal(last_states(llava.model, inputs), plain)
    with scr.patch(llava.model, "vista+rudder"):
        first = said(llava)[1]
    with scr.patch(llava.model, "rudder+vista"):
        assert torch.allclose(said(llava)[1], first, atol=1e-5)


def test_what_it_cannot_do_is_refused(llava):
    inputs, cache = llava.prompt(PROMPTS[:1]).inputs, DynamicCache()
    llava.model(**inputs, past_key_values=cache)
    with (
        scr.patch(llava.model, "vista"),
        pytest.raises(scr.UnsupportedGenerationError, match="vista reads the whole prompt at once: got past_key"),
    ):
        llava.model.generate(**inputs, **GREEDY, past_key_values=cache)
    images = llava.prompt([("<image>", [1])]).inputs
    images = {name: value[:, 1:] if value.ndim == 2 else value for name, value in images.items()}
    with scr.patch(llava.model, "vista"), pytest.raises(scr.ConfigError, match="a prompt without words"):
        llava.model.generate(**images, **GREEDY)
    for blocks, expected in ((32, range(25, 31)), (28, range(22, 27)), (4, range(3, 4))):
        assert scr.patch(TINY["llava"](layers=blocks).model, "vista").config.early_layers == expected
