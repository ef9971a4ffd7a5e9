"""The contrast, plausibility, confidence and strength schedules against their formulas."""

import dataclasses
import json
import math

import pytest
import torch

from scr import ConfigError, contrast
from scr.contrast import (
    STRENGTH_SCHEDULES,
    STRENGTHS,
    ContinuousStrength,
    FixedStrength,
    QuantileStrength,
    RollingStrength,
    calibrate_thresholds,
    confidence,
    contrast_logits,
    get_strength,
    plausible_tokens,
)

CUTS = (-2.0, -1.0, -0.5)
SETTINGS = {"quantile": {"thresholds": CUTS}}


def drawn(seed, *shape):
    return 4 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("strength", [0.0, 0.6, 1.1, torch.tensor([0.4, 0.0, 1.1])])
def test_the_contrast_is_the_formula(strength):
    clean, noisy = drawn(1, 3, 50), drawn(2, 3, 50)
    per_row = torch.as_tensor(strength).expand(3)[:, None]
    expected = (1 + per_row) * clean - per_row * noisy
    assert torch.allclose(contrast_logits(clean, noisy, strength), expected, atol=1e-5)
    in_probabilities = contrast_logits(clean, noisy, strength, "logprobs")
    assert torch.allclose(in_probabilities.exp(), expected.softmax(-1), atol=1e-6), "the softmax is the same"
    assert torch.allclose(in_probabilities.logsumexp(-1), torch.zeros(3), atol=1e-5), "and it is normalised"


def test_nothing_to_contrast_returns_the_clean_logits_to_the_bit():
    clean, noisy = drawn(1, 3, 50), drawn(2, 3, 50)
    assert torch.equal(contrast_logits(clean, noisy, 0.0), clean)
    assert torch.equal(contrast_logits(clean, clean, 1.1), clean)
    normal = clean.log_softmax(-1)
    assert torch.allclose(contrast_logits(clean, clean, 1.1, "logprobs"), normal, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_contrast_is_computed_in_float32(dtype):
    clean, noisy = drawn(1, 2, 50).to(dtype), drawn(2, 2, 50).to(dtype)
    purified = contrast_logits(clean, noisy, 0.6)
    assert purified.dtype == torch.float32
    assert torch.equal(purified, contrast_logits(clean.float(), noisy.float(), 0.6))


@pytest.mark.parametrize("space", ["logits", "logprobs"])
@pytest.mark.parametrize(
    "ban", [-math.inf, *(torch.finfo(dtype).min for dtype in (torch.float32, torch.bfloat16, torch.float16))]
)
def test_banned_tokens_stay_banned_and_nothing_is_nan(space, ban):
    clean, noisy = drawn(1, 2, 50), drawn(2, 2, 50)
    clean[:, :3] = ban  # by both
    noisy[:, 1:5] = ban  # 1 and 2 by both, 3 and 4 by the noisy branch alone
    purified = contrast_logits(clean, noisy, 0.6, space)
    assert (purified[:, :3] == -math.inf).all()
    assert purified[:, 3:].isfinite().all()
    if space == "logits":
        assert torch.equal(purified[:, 3:5], clean[:, 3:5])
    assert (purified.softmax(-1)[:, :3] == 0).all()
    nothing = torch.full((1, 50), ban)
    assert not contrast_logits(clean[:1], nothing, 0.6, space).isnan().any()
    assert (contrast_logits(nothing, clean[:1], 0.6, space) == -math.inf).all()


@pytest.mark.parametrize("plausibility", [0.0, 0.1, 0.5, 1.0])
def test_plausible_tokens_have_enough_of_the_highest_clean_probability(plausibility):
    clean, noisy = drawn(1, 4, 50), drawn(2, 4, 50)
    clean[:, 7] = -math.inf
    probabilities = clean.softmax(-1)
    expected = probabilities >= plausibility * probabilities.amax(-1, keepdim=True)
    expected[:, 7] = False
    assert torch.equal(plausible_tokens(clean, plausibility), expected)
    assert torch.equal(plausible_tokens(clean.log_softmax(-1), plausibility), expected), "the same in beam search"
    if plausibility == 1:
        assert (expected.sum(-1) == 1).all()
    for space in ("logits", "logprobs"):
        purified = contrast_logits(clean, noisy, 1.0, space, plausibility=plausibility)
        assert torch.equal(purified > -math.inf, expected)
        allowed = contrast_logits(clean, noisy, 1.0).masked_fill(~expected, -math.inf)
        assert torch.allclose(purified.softmax(-1), allowed.softmax(-1), atol=1e-6)


def test_confidence_of_known_distributions():
    even, sure = torch.zeros(8), torch.tensor([40.0, *[0.0] * 7])
    two = torch.tensor([math.log(0.6), math.log(0.3), math.log(0.1), -math.inf])
    for kind, least, most, between in [
        ("max_logprob", -math.log(8), 0.0, math.log(0.6)),
        ("entropy", -math.log(8), 0.0, 0.6 * math.log(0.6) + 0.3 * math.log(0.3) + 0.1 * math.log(0.1)),
        ("margin", 0.0, 1.0, 0.3),
    ]:
        for logits, expected in [(even, least), (sure, most), (two, between), (two + 5, between)]:
            assert confidence(logits, kind).item() == pytest.approx(expected, abs=1e-5)
    logits = drawn(1, 2, 3, 50)
    assert confidence(logits).shape == (2, 3)
    assert torch.allclose(confidence(logits), logits.log_softmax(-1).amax(-1))
    assert confidence(logits.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("kind", ["max_logprob", "entropy", "margin"])
def test_higher_is_more_confident_whatever_is_banned(kind):
    sharpness = torch.linspace(0.1, 3, 20)[:, None]
    seen = confidence(
        torch.cat([drawn(3, 30) * sharpness, torch.full((20, 1), torch.finfo(torch.float32).min)], 1), kind
    )
    assert (seen.diff() > 0).all()


def test_strengths_by_confidence():
    seen = torch.tensor([[-3.0, -2.0, -1.5], [-1.0, -0.7, -0.1]])
    assert torch.equal(FixedStrength().start()(seen), torch.full((2, 3), 0.6))
    steps = QuantileStrength(thresholds=CUTS).start()(seen)
    assert torch.equal(steps, torch.tensor([[1.1, 0.8, 0.8], [0.6, 0.6, 0.4]])), "a threshold belongs to the step above"
    smooth = ContinuousStrength(maximum=1.1, temperature=2.0).start()(seen)
    assert torch.allclose(smooth, 1.1 / (1 + (seen / 2).exp()))
    assert (smooth.flatten().diff() < 0).all(), "the less confident, the stronger"
    assert ContinuousStrength().start()(torch.tensor(0.0)).item() == pytest.approx(0.55)
    clean, noisy = drawn(1, 5, 50), drawn(2, 5, 50)
    strength = QuantileStrength(thresholds=CUTS).start()(confidence(clean))
    rows = [contrast_logits(clean[row], noisy[row], float(strength[row])) for row in range(5)]
    assert torch.equal(contrast_logits(clean, noisy, strength), torch.stack(rows))


def test_thresholds_are_quantiles_and_give_equal_shares():
    seen = drawn(4, 1001)
    thresholds = calibrate_thresholds(seen)
    assert thresholds == pytest.approx(torch.quantile(seen.double(), torch.tensor([0.25, 0.5, 0.75]).double()).tolist())
    assert calibrate_thresholds(seen.flip(0).tolist()) == thresholds, "order and container do not matter"
    assert calibrate_thresholds([0.0, 1.0, 2.0, 3.0, 4.0]) == (1.0, 2.0, 3.0)
    assert calibrate_thresholds([-1.5]) == (-1.5, -1.5, -1.5)
    steps = QuantileStrength(thresholds=thresholds).start()(seen)
    assert [int((steps == strength).sum()) for strength in torch.tensor(STRENGTHS)] == [250, 250, 250, 251]
    for bad in ([], [0.0, math.nan], [-math.inf]):
        with pytest.raises(ConfigError, match="no quantiles"):
            calibrate_thresholds(bad)


def test_a_rolling_history_remembers_the_last_tokens_only():
    settings = RollingStrength(history=8)
    history = settings.start()
    assert isinstance(history, contrast.RollingHistory)
    seen = drawn(5, 40)
    for index, value in enumerate(seen):
        before = seen[max(0, index - 8) : index].tolist()
        strength = history(value[None])
        assert strength.shape == (1,)
        if len(before) < 4:
            assert strength.item() == pytest.approx(0.6)
        else:
            fresh = QuantileStrength(thresholds=calibrate_thresholds(before)).start()
            assert torch.equal(strength, fresh(value[None]))
    assert len(history.seen) == 8
    assert not settings.start().seen, "every start is fresh"
    with pytest.raises(ConfigError, match=r"shape \(2,\).*batch of one"):
        history(torch.zeros(2))
    with pytest.raises(ConfigError, match="finite"):
        history(torch.tensor([math.inf]))


@pytest.mark.parametrize("name", STRENGTH_SCHEDULES)
def test_schedules_go_through_json(name):
    schedule = get_strength(name, **SETTINGS.get(name, {}))
    values = json.loads(json.dumps(schedule.to_dict()))
    assert values["name"] == name
    assert get_strength(**values) == schedule == type(schedule).from_dict(values)
    assert hash(get_strength(**values)) == hash(schedule)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.name = "other"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contrast_logits(torch.zeros(2, 5), torch.zeros(2, 5), -0.1), r"contrast out of range: got -0\.1.*≥ 0"),
        (lambda: contrast_logits(torch.zeros(2, 5), torch.zeros(2, 5), math.nan), "contrast out of range: got nan"),
        (lambda: contrast_logits(torch.zeros(2, 5), torch.zeros(1, 5), 1.0), r"\(2, 5\) and \(1, 5\)"),
        (lambda: contrast_logits(torch.zeros(2, 5), torch.zeros(2, 5), torch.ones(3)), r"got shape \(3,\).*\(2,\)"),
        (lambda: contrast_logits(torch.zeros(2, 5), torch.zeros(2, 5), 1.0, "probs"), "unknown space: got 'probs'"),
        (lambda: plausible_tokens(torch.zeros(2, 5), 1.5), r"plausibility out of range: got 1\.5.*≤ 1"),
        (lambda: confidence(torch.zeros(2, 5), "max"), "unknown confidence: got 'max'.*max_logprob"),
        (lambda: calibrate_thresholds([1.0], [2.0]), "quantile out of range"),
        (lambda: get_strength("fixd"), "unknown strength schedule: got 'fixd'.*Did you mean 'fixed'"),
        (lambda: get_strength("fixed", beta=1.0), "unknown field of 'fixed': got 'beta'.*contrast"),
        (lambda: get_strength("fixed", contrast=-1), "contrast out of range"),
        (lambda: get_strength("fixed", contrast=True), "contrast out of range: got True"),
        (lambda: get_strength("quantile"), r"missing: got \[\]; expected \['thresholds'\]"),
        (lambda: get_strength("quantile", thresholds=(1.0, 0.0, 2.0)), "ascending"),
        (lambda: get_strength("quantile", thresholds=(0.0, 1.0)), "expected 3 in ascending"),
        (
            lambda: get_strength("quantile", thresholds=0.5),
            "thresholds of another kind: got 0.5; expected a list",
        ),
        (lambda: get_strength("quantile", thresholds=CUTS, strengths=(1.0, 0.5, -1, 0)), "strengths out of range"),
        (lambda: get_strength("continuous", temperature=0), "temperature out of range: got 0; .*> 0"),
        (lambda: get_strength("rolling", history=2), "history out of range: got 2; expected an integer ≥ 4"),
        (lambda: FixedStrength.from_dict({"name": "rolling"}), "another variant: got 'rolling'; expected 'fixed'"),
    ],
)
def test_bad_values_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
