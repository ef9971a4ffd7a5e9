"""Doubts: which words are asked about, and each measure against what a model says by itself."""

import dataclasses
import json
import math
import re

import nltk
import pytest
import torch
from described import calibration
from tiny import picture, tiny_llava
from tiny_families import SPECIAL, TINY

import scr
from hooks import image_tokens
from scr import ConfigError
from scr.describing.doubts import words as words_module
from scr.describing.doubts.confidence import confidence
from scr.describing.doubts.evidence import evidence
from scr.describing.doubts.forced import token_logprobs
from scr.describing.doubts.recheck import question, recheck
from scr.describing.doubts.said import Said, SaidWord
from scr.describing.doubts.scores import chosen_calibration, feature, find_calibration, list_calibrations
from scr.describing.doubts.words import ContentWord, content_words
from scr.describing.encoding import encode_prompts
from scr.perturb import get_perturbation, perturb_inputs

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [("USER : <image> is there a dog in the image ? ASSISTANT :", [1]), ("describe <image> yes", [2])]
CALIBRATION = calibration(0.5, confidence=-1.0, evidence=-0.5)


def generated(model, inputs):
    """Greedy tokens, and the log-probability of each by the logits that `generate` saw."""
    # No image token: what a model says is text.
    options = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": list(range(len(SPECIAL)))}
    out = model.generate(**inputs, **options, output_logits=True, return_dict_in_generate=True)
    tokens = out.sequences[:, inputs["input_ids"].shape[1] :]
    logprobs = torch.stack([step.float().log_softmax(dim=-1) for step in out.logits], dim=1)
    return tokens.tolist(), logprobs.gather(2, tokens[:, :, None])[:, :, 0]


@pytest.mark.parametrize("name", list(TINY))
def test_texts_are_as_likely_as_where_they_were_generated(name):
    """Mask, positions and token types of each family go on as in `generate`; rows that end early change nothing."""
    tiny = TINY[name]()
    inputs = tiny.prompt(PROMPTS).inputs
    answers, expected = generated(tiny.model, inputs)
    answers[1] = answers[1][:2]
    found = token_logprobs(tiny.model, inputs, answers)
    assert [len(row) for row in found] == [5, 2]
    torch.testing.assert_close(found[0], expected[0], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], expected[1, :2], atol=2e-4, rtol=1e-4)
    assert float(expected[0].std()) > 0.01, "else every place would do"


@pytest.mark.parametrize("name", list(TINY))
def test_a_placeholder_that_a_model_writes_stands_for_no_pixels(name):
    """As a model without training does, or one under a strong contrast."""
    tiny = TINY[name]()
    inputs = tiny.prompt(PROMPTS).inputs
    image = inputs["input_ids"][image_tokens(tiny.model, inputs)][0].item()
    answers, _ = generated(tiny.model, inputs)
    expected = token_logprobs(tiny.model, inputs, answers)
    answers[1][2] = image
    found = token_logprobs(tiny.model, inputs, answers)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1][:2], expected[1][:2])
    assert torch.isfinite(found[1]).all()


def test_no_tokens_need_no_forward():
    assert [len(row) for row in token_logprobs(None, {}, [[], []])] == [0, 0]


def said(words, seeds=(1, 2)):
    model, processor = tiny_llava()
    images = [picture(seed) for seed in seeds]
    inputs = encode_prompts(model, processor, ["is there a dog ?"] * len(images), images)
    answers, _ = generated(model, inputs)
    return Said(
        model=model,
        processor=processor,
        images=images,
        inputs=inputs,
        answers=answers,
        logprobs=token_logprobs(model, inputs, answers),
        words=words,
    )


DOG, CAT = ContentWord((0, 3), "dog", "dog"), ContentWord((4, 7), "cat", "cat")


def test_confidence_is_the_first_tokens_probability():
    batch = said([[SaidWord(DOG, 3), SaidWord(CAT, 0)], []])
    _, logprobs = generated(batch.model, batch.inputs)
    (first, second), none = confidence(batch)
    assert first == pytest.approx(float(logprobs[0, 3].exp()), rel=1e-3)
    assert second == pytest.approx(float(logprobs[0, 0].exp()), rel=1e-3)
    assert none == []


def test_evidence_is_what_the_image_adds():
    batch = said([[SaidWord(DOG, 3)], [SaidWord(CAT, 1)]])
    # The same tokens, one forward a row, without batch, padding or the code under test.
    blank = perturb_inputs(batch.model, batch.inputs, get_perturbation("blank"))
    expected = []
    for row, token in ((0, 3), (1, 1)):
        logs = []
        for inputs in (batch.inputs, blank):
            ids = torch.cat([inputs["input_ids"][row], torch.tensor(batch.answers[row])])[None]
            with torch.no_grad():
                logits = batch.model(input_ids=ids, pixel_values=inputs["pixel_values"][row : row + 1]).logits
            place = inputs["input_ids"].shape[1] + token
            logs.append(float(logits[0, place - 1].log_softmax(dim=-1)[ids[0, place]]))
        expected.append([logs[0] - logs[1]])
    assert abs(expected[0][0]) > 0.01, "else no image would do as well"
    for one, other in zip(evidence(batch), expected, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    nothing_changed = evidence(batch, get_perturbation("gaussian", image_keep=1.0))
    assert [abs(one[0]) < 1e-4 for one in nothing_changed] == [True, True]
    assert evidence(said([[], []])) == [[], []]


def test_recheck_is_the_margin_of_each_question_about_its_own_image():
    batch = said([[SaidWord(DOG, 0), SaidWord(CAT, 1), SaidWord(DOG, 2)], [SaidWord(DOG, 0)]])
    found = recheck(batch)
    tokens = scr.reading.answer_tokens(batch.processor.tokenizer)

    def margin(image, noun):
        inputs = encode_prompts(batch.model, batch.processor, [question(noun)], [image])
        out = batch.model.generate(**inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True)
        return scr.reading.answer_margins(out.logits[0], tokens)[0]

    first, second = batch.images
    expected = [[margin(first, "dog"), margin(first, "cat"), margin(first, "dog")], [margin(second, "dog")]]
    assert found[0] == pytest.approx(expected[0], abs=1e-3)
    assert found[1] == pytest.approx(expected[1], abs=1e-3)
    assert len({round(one, 3) for one in (*expected[0], *expected[1])}) == 3


def test_recheck_is_unknown_where_yes_and_no_look_alike(monkeypatch):
    batch = said([[SaidWord(DOG, 0)], []])
    alike = scr.reading.AnswerTokens((), (), "no such words")
    monkeypatch.setattr("scr.describing.doubts.recheck.answer_tokens", lambda tokenizer: alike)
    assert recheck(batch) == [[None], []]


@pytest.mark.parametrize(("noun", "asked"), [("dog", "a dog"), ("oven", "an oven"), ("hot dog", "a hot dog")])
def test_a_question_is_popes(noun, asked):
    assert question(noun) == f"Is there {asked} in the image?"


@pytest.fixture
def tagger(test_data, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [str(test_data / "nltk")])
    words_module._tagger.cache_clear()
    if words_module._tagger() is None:
        pytest.skip("no data of nltk's tagger")
    yield
    words_module._tagger.cache_clear()


@pytest.fixture
def no_tagger(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    words_module._tagger.cache_clear()
    yield
    words_module._tagger.cache_clear()


TEXT = "The image shows two women with wine glasses, a sofa and a lamp. A Dog sleeps quietly."


@pytest.mark.usefixtures("tagger")
def test_content_words_are_objects_and_other_nouns():
    found = content_words(TEXT)
    assert [(TEXT[slice(*one.span)], one.noun, one.category) for one in found] == [
        ("women", "woman", "person"),
        ("wine glasses", "wine glass", "wine glass"),
        ("sofa", "sofa", "couch"),
        ("lamp", "lamp", None),
        ("Dog", "dog", "dog"),
    ]


@pytest.mark.usefixtures("no_tagger")
def test_without_the_taggers_data_objects_are_left():
    assert [one.category for one in content_words(TEXT)] == ["person", "wine glass", "couch", "dog"]
    assert content_words("") == []


def test_a_score_is_the_regressions():
    total = 0.5 - math.log(0.25) - 0.5 * 3
    assert CALIBRATION.score({"confidence": 0.25, "evidence": 3.0, "recheck": 9.0}) == pytest.approx(
        1 / (1 + math.exp(-total))
    )
    assert CALIBRATION.score({"confidence": 0.25, "evidence": None}) is None
    assert CALIBRATION.score({"confidence": 0.0, "evidence": -3e38}) == 1
    assert CALIBRATION.score({"confidence": 1.0, "evidence": 3e38}) == 0
    assert feature("confidence", 1.0) == 0
    assert feature("recheck", 2.5) == 2.5


def test_calibrations_are_found_by_name_and_by_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(CALIBRATION.to_dict()))
    assert find_calibration(path) == find_calibration(str(path)) == find_calibration(CALIBRATION) == CALIBRATION
    for name in list_calibrations():
        assert find_calibration(name).name == name
    with pytest.raises(ConfigError, match=r"got 'nothing like it'; expected one of lab/llava.*benchmarks\.doubts"):
        find_calibration("nothing like it")
    with pytest.raises(ConfigError, match=r"got 'lab/lava'.*'lab/llava'"):
        find_calibration("lab/lava")
    path.write_text("{}")
    with pytest.raises(ConfigError, match="fields of Calibration are missing"):
        find_calibration(path)


def test_a_command_scores_by_what_it_is_given_or_by_the_models_own():
    assert chosen_calibration(None, "lab/llava") == find_calibration("lab/llava")
    assert chosen_calibration("lab/llava", "lab/smol") == find_calibration("lab/llava")
    assert chosen_calibration(None, "somebody/else") is None
    assert chosen_calibration("none", "lab/llava") is None
    with pytest.raises(ConfigError, match="unknown calibration: got 'nothing'"):
        chosen_calibration("nothing", "lab/llava")


def test_calibrations_of_one_name_are_told_apart_by_their_content():
    turned = dict(reversed(CALIBRATION.weights.items()))
    assert dataclasses.replace(CALIBRATION, weights=turned).digest == CALIBRATION.digest
    for other in ({"intercept": 0.6}, {"weights": {"confidence": -1.0}}, {"prompt": "q"}):
        assert dataclasses.replace(CALIBRATION, **other).digest != CALIBRATION.digest
    assert re.fullmatch("[0-9a-f]{16}", CALIBRATION.digest)


@pytest.mark.parametrize(
    ("revision", "described", "said"),
    [
        (None, ("m", "1", "p"), None),
        ("1", ("m", None, "p"), None),
        ("1", ("/a/copy", "1", "p"), None),
        ("1", ("m", "2", "p"), "learnt on other weights (m): here"),
        ("1", ("n", "2", "p"), "learnt on another model (m): here"),
        (None, ("n", "2", "p"), "learnt on another model (m): here"),
        ("1", ("m", "1", "q"), "learnt with another prompt ('p'): here"),
        ("1", ("m", "1", "p", ["a"]), "learnt without a: here"),
        ("1", ("n", None, "q", ["a"]), "on another model (m) and with another prompt ('p') and without a: here"),
    ],
)
def test_a_calibration_says_where_it_was_not_learnt(revision, described, said):
    found = dataclasses.replace(CALIBRATION, revision=revision).caveat(*described)
    assert found is None if said is None else said in str(found)
