"""Thresholds measured on answers: quantiles by hand, over the tokens that belong to them."""

import numpy as np
import pytest
import torch
from tiny_families import PROMPTS, TINY, VOCABULARY
from transformers import GenerationConfig

import scr
from scr.contrast import QUANTILES, confidence

pytestmark = pytest.mark.usefixtures("one_thread")
SUPPRESSED = {"suppress_tokens": [VOCABULARY["<image>"], VOCABULARY["<video>"]]}
OPTIONS = {"max_new_tokens": 6, **SUPPRESSED}
WITH_IMAGES = [*PROMPTS[:2], (PROMPTS[0][0], [5]), (PROMPTS[0][0], [7])]


@pytest.fixture(scope="module")
def llava():
    return TINY["llava"](layers=4)


def ends_of(tiny):
    """Tokens with which the first row ends at its second token, and the second at its fourth."""
    inputs = tiny.prompt(WITH_IMAGES).inputs
    answers = tiny.model.generate(**inputs, **OPTIONS, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    return [answers[0, 1].item(), answers[1, 3].item()]


def by_hand(tiny, kind="max_logprob", ends=(), quantiles=QUANTILES, **options):
    values, lengths = [], []
    inputs = tiny.prompt(WITH_IMAGES).inputs
    given = {"eos_token_id": list(ends), "pad_token_id": 0} if ends else {}
    options = {**OPTIONS, "do_sample": False, **given, **options}
    out = tiny.model.generate(**inputs, **options, output_scores=True, return_dict_in_generate=True)
    for row, answer in enumerate(out.sequences[:, inputs["input_ids"].shape[1] :].tolist()):
        lengths.append(0)
        for step, token in enumerate(answer):
            values.append(confidence(out.scores[step][row], kind).item())
            lengths[-1] += 1
            if token in ends:
                break
    return np.quantile(np.array(values), quantiles), lengths


@pytest.mark.parametrize("kind", ["max_logprob", "entropy", "margin"])
def test_thresholds_are_quantiles_of_the_tokens_of_answers(llava, kind):
    ends = ends_of(llava)
    expected, lengths = by_hand(llava, kind, ends)
    assert min(lengths) == 2, "a row ends early"
    assert max(lengths) > 3
    inputs = llava.prompt(WITH_IMAGES).inputs
    found = scr.calibrate_confidence(llava.model, [inputs], kind=kind, **OPTIONS, eos_token_id=ends, pad_token_id=0)
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert list(found) == sorted(found)
    with_padding, _ = by_hand(llava, kind)
    assert found != pytest.approx(with_padding.tolist(), abs=1e-3), "what follows an end is no token"


def test_other_quantiles_and_sampling_and_the_use_of_a_threshold(llava):
    inputs, quantiles = llava.prompt(WITH_IMAGES).inputs, (0.0, 0.1, 1.0)
    expected, _ = by_hand(llava, quantiles=quantiles)
    found = scr.calibrate_confidence(llava.model, [inputs], quantiles=quantiles, **OPTIONS)
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    torch.manual_seed(3)
    expected, _ = by_hand(llava, do_sample=True, top_k=0)
    torch.manual_seed(3)
    found = scr.calibrate_confidence(llava.model, [inputs], do_sample=True, top_k=0, **OPTIONS)
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    config = scr.PurifiedConfig(strength=scr.contrast.QuantileStrength(thresholds=found))
    assert config.strength.thresholds == found


def test_how_prompts_are_cut_into_batches_has_no_part(llava):
    ends = {"eos_token_id": ends_of(llava), "pad_token_id": 0}
    found = [
        scr.calibrate_confidence(
            llava.model,
            (llava.prompt(WITH_IMAGES[start : start + size]).inputs for start in range(0, 4, size)),
            **OPTIONS,
            **ends,
        )
        for size in (1, 2, 3, 4)
    ]
    for thresholds in found[1:]:
        assert thresholds == pytest.approx(found[0], abs=1e-4)


def test_end_tokens_come_from_the_call_the_configuration_or_the_model(llava):
    inputs, ends = llava.prompt(WITH_IMAGES).inputs, ends_of(llava)
    expected = pytest.approx(by_hand(llava, ends=ends)[0].tolist(), abs=1e-5)
    config = GenerationConfig(**OPTIONS, eos_token_id=ends, pad_token_id=0)
    assert scr.calibrate_confidence(llava.model, [inputs], generation_config=config) == expected
    llava.model.generation_config.eos_token_id = ends
    try:
        assert scr.calibrate_confidence(llava.model, [inputs], **OPTIONS) == expected
    finally:
        llava.model.generation_config.eos_token_id = None
    one = scr.calibrate_confidence(llava.model, [inputs], **OPTIONS, eos_token_id=ends[0], pad_token_id=0)
    assert one == pytest.approx(by_hand(llava, ends=ends[:1])[0].tolist(), abs=1e-5)


def test_a_batch_may_bring_its_own_end_token(llava):
    ends = ends_of(llava)
    inputs = {**llava.prompt(WITH_IMAGES).inputs, "eos_token_id": ends, "pad_token_id": 0}
    expected = by_hand(llava, ends=ends)[0].tolist()
    assert scr.calibrate_confidence(llava.model, [inputs], **OPTIONS) == pytest.approx(expected, abs=1e-5)


def test_beams_that_a_batch_brings_are_refused_too(llava):
    with pytest.raises(scr.ConfigError, match="beams have no confidence"):
        scr.calibrate_confidence(llava.model, [{**llava.prompt(WITH_IMAGES).inputs, "num_beams": 2}], **OPTIONS)


def test_a_repetition_penalty_has_its_part_as_it_has_in_the_method(llava):
    """The confidence that `purified` sees is measured after what `generate` makes of its configuration."""
    inputs = llava.prompt(WITH_IMAGES).inputs
    expected, _ = by_hand(llava, repetition_penalty=1.5)
    found = scr.calibrate_confidence(llava.model, [inputs], **OPTIONS, repetition_penalty=1.5)
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert found != pytest.approx(by_hand(llava)[0].tolist(), abs=1e-3)


def test_bad_input(llava):
    inputs = llava.prompt(WITH_IMAGES).inputs
    for options in ({"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}):
        with pytest.raises(scr.ConfigError, match="beams have no confidence"):
            scr.calibrate_confidence(llava.model, [inputs], **OPTIONS, **options)
    with pytest.raises(scr.ConfigError, match="no prompts"):
        scr.calibrate_confidence(llava.model, [], **OPTIONS)
    with pytest.raises(scr.ConfigError, match="unknown confidence"):
        scr.calibrate_confidence(llava.model, [inputs], kind="logprob", **OPTIONS)
    with pytest.raises(scr.ConfigError, match="quantile out of range"):
        scr.calibrate_confidence(llava.model, [inputs], quantiles=(0.5, 1.5), **OPTIONS)
    assert "generate" not in vars(llava.model)
