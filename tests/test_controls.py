"""The two controls: a constraint that no greedy answer notices, and a constant that buys no AUC."""

import pytest
import torch
from tiny_families import PROMPTS, TINY, VOCABULARY
from transformers import LogitsProcessor

import scr

pytestmark = pytest.mark.usefixtures("one_thread")
SUPPRESSED = [VOCABULARY["<image>"], VOCABULARY["<video>"]]
OPTIONS = {
    "max_new_tokens": 4,
    "do_sample": False,
    "suppress_tokens": SUPPRESSED,
    "output_scores": True,
    "output_logits": True,
    "return_dict_in_generate": True,
}
YES, NO = [VOCABULARY["yes"], VOCABULARY["Yes"]], [VOCABULARY["no"], VOCABULARY["No"]]


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request):
    return TINY[request.param](layers=4)


@pytest.fixture(scope="module")
def llava():
    return TINY["llava"](layers=4)


def generate(tiny, prompts=PROMPTS, **options):
    torch.manual_seed(4)
    return tiny.model.generate(**tiny.prompt(prompts).inputs, **{**OPTIONS, **options})


@pytest.mark.parametrize("plausibility", [0.0, 0.1, 1.0])
def test_the_constraint_alone_changes_no_greedy_answer(tiny, plausibility):
    base = generate(tiny)
    with scr.patch(tiny.model, "plausibility_only", plausibility=plausibility):
        found = generate(tiny)
    assert torch.equal(found.sequences, base.sequences)
    logits = torch.stack(base.logits, 1)[:2]
    logits[..., SUPPRESSED] = -torch.inf
    kept = torch.stack(found.scores, 1)[:2] > -torch.inf
    probabilities = logits.double().softmax(-1)
    cutoff = plausibility * probabilities.amax(-1, keepdim=True)
    sure = (probabilities - cutoff).abs() > 1e-9
    expected = (probabilities >= cutoff) & (logits > -1e30)
    assert torch.equal(kept[sure], expected[sure])
    assert kept.any(-1).all()
    assert torch.equal(torch.stack(found.scores, 1)[2], torch.stack(base.scores, 1)[2])


def test_sampling_under_the_constraint_stays_above_the_cutoff(llava):
    """As it does not without it."""
    below = {}
    for name, fields in {"none": None, "constraint": {"plausibility": 0.2}}.items():
        options = {"do_sample": True, "top_k": 0, "num_return_sequences": 24, "temperature": 1.5}
        if fields is None:
            out = generate(llava, PROMPTS[:2], **options)
        else:
            with scr.patch(llava.model, "plausibility_only", **fields):
                out = generate(llava, PROMPTS[:2], **options)
        logits = torch.stack(out.logits, 1)
        logits[..., SUPPRESSED] = -torch.inf
        probabilities = logits.softmax(-1)
        chosen = probabilities.gather(-1, out.sequences[:, -4:, None])[..., 0]
        below[name] = int((chosen < 0.2 * probabilities.amax(-1) - 1e-6).sum())
    assert below["constraint"] == 0
    assert below["none"] > 20


def test_at_one_the_constraint_is_greedy_decoding(llava):
    greedy = generate(llava, PROMPTS[:2]).sequences
    with scr.patch(llava.model, "plausibility_only", plausibility=1):
        assert torch.equal(generate(llava, PROMPTS[:2], do_sample=True, temperature=3.0).sequences, greedy)


def margin(scores):
    return scores[..., YES].amax(-1) - scores[..., NO].amax(-1)


class Forced(LogitsProcessor):
    """Every answer goes the same way, and the scores of each step are noted."""

    def __init__(self):
        self.scores = []

    def __call__(self, input_ids, scores):
        self.scores.append(scores.clone())
        forced = torch.full_like(scores, -torch.inf)
        forced[:, 21 + len(self.scores)] = 0
        return forced


@pytest.mark.parametrize("shift", [2.5, -4.0, 0.0])
def test_the_shift_moves_the_first_margin_by_the_constant_and_nothing_later(tiny, shift):
    steps = {}
    for name in ("none", "shifted"):
        forced = Forced()
        if name == "none":
            generate(tiny, logits_processor=[forced])
        else:
            with scr.patch(tiny.model, "yes_shift", shift=shift, no_tokens=NO):
                generate(tiny, logits_processor=[forced])
        steps[name] = torch.stack(forced.scores, 1)
    base, shifted = steps["none"], steps["shifted"]
    assert torch.allclose(margin(shifted)[:2, 0], margin(base)[:2, 0] - shift, atol=1e-5)
    others = [token for token in range(11, 50) if token not in NO]
    between = (base[:2, 0, others].diff(), shifted[:2, 0, others].diff())
    assert torch.allclose(*between, atol=1e-5), "tokens among themselves"
    assert torch.allclose(shifted[:2, 1:, 11:50], base[:2, 1:, 11:50], atol=1e-6)
    assert torch.equal(shifted[2], base[2]), "text alone"
    assert torch.allclose(shifted[:, 0].logsumexp(-1), base[:, 0].logsumexp(-1), atol=1e-5), "for beam search"


def test_the_shift_keeps_the_order_of_the_answers_and_a_large_one_says_no(llava):
    prompts = [(PROMPTS[0][0], [seed]) for seed in range(12)]
    base = margin(generate(llava, prompts).scores[0])
    assert len(set(base.tolist())) == 12
    for shift in (-3.0, 1.0, 300.0):
        with scr.patch(llava.model, "yes_shift", shift=shift, no_tokens=NO):
            out = generate(llava, prompts)
            again = generate(llava, prompts)
        assert torch.equal(margin(out.scores[0]).argsort(), base.argsort())
        assert torch.equal(out.sequences, again.sequences), "each call of `generate` has a first token"
        if shift > 100:
            assert torch.isin(out.sequences[:, -4], torch.tensor(NO)).all()
            assert not torch.isin(out.sequences[:, -3:], torch.tensor(NO)).all()


def test_the_shift_under_beams_acts_on_the_first_token_alone(llava):
    with scr.patch(llava.model, "yes_shift", shift=300.0, no_tokens=NO[:1]):
        out = generate(llava, PROMPTS[:2], num_beams=2)
    answers = out.sequences[:, -4:]
    assert (answers[:, 0] == NO[0]).all()
    assert (answers[:, 1:] != NO[0]).any()
    assert (out.sequences_scores > -50).all(), "a sum of log-probabilities still"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shift": "1", "no_tokens": [3]}, "shift out of range"),
        ({"shift": float("inf"), "no_tokens": [3]}, "shift out of range"),
        ({"shift": 1.0, "no_tokens": []}, r"no_tokens of another kind: got \[\]; .*integer ≥ 0, not empty"),
        ({"shift": 1.0, "no_tokens": 3}, "no_tokens of another kind: got 3; expected a list"),
        ({"shift": 1.0, "no_tokens": [-1]}, "no_tokens out of range"),
        ({"shift": 1.0, "no_tokens": [2.0]}, "no_tokens out of range"),
        ({"no_tokens": [3]}, r"expected \['shift'\] too"),
        ({"shift": 1.0}, r"expected \['no_tokens'\] too"),
    ],
)
def test_bad_fields(llava, fields, message):
    with pytest.raises(scr.ConfigError, match=message):
        scr.patch(llava.model, "yes_shift", **fields)
    assert "generate" not in vars(llava.model)


def test_tokens_of_another_vocabulary(llava):
    with (
        pytest.raises(scr.ConfigError, match=r"no_tokens leave the vocabulary.*below 96"),
        scr.patch(llava.model, "yes_shift", shift=1.0, no_tokens=[3, 96]),
    ):
        generate(llava)
    assert scr.YesShiftConfig(shift=1.0, no_tokens=(3, 96)).no_tokens == (3, 96)
    assert scr.PlausibilityOnlyConfig().plausibility == 0.1
