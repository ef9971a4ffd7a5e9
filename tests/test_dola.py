"""DoLa: the formula in double precision, its candidates, and that it reads the hidden states of the step itself."""

import math

import accelerate
import pytest
import torch
from answers import Spy
from tiny_families import PROMPTS, TINY, VOCABULARY, longer
from transformers import LogitsProcessor

import scr
from hooks import beside_generate, is_beside, prompt_positions
from scr.methods.dola import contrast_layers

pytestmark = pytest.mark.usefixtures("one_thread")
GREEDY = {
    "max_new_tokens": 3,
    "do_sample": False,
    "suppress_tokens": [VOCABULARY["<image>"], VOCABULARY["<video>"]],
}
LAYERS = (0, 1, 2, 3)
BETA = 0.02


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request):
    return TINY[request.param](layers=4)


@pytest.fixture(scope="module")
def llava():
    return TINY["llava"](layers=4)


def by_hand(final, early, plausibility, textbook=False):
    """One row after another, one layer after another; `textbook` is Jensen–Shannon the other way round."""
    scores, chosen = torch.full_like(final, -torch.inf, dtype=torch.double), []
    for row in range(len(final)):
        allowed = final[row] > torch.finfo(torch.float16).min
        p = final[row][allowed].double().softmax(-1)
        best, best_q = -math.inf, None
        for layer in range(len(early)):
            q = early[layer, row][allowed].double().softmax(-1)
            m = (p + q) / 2
            if textbook:
                divergence = (p * (p / m).log() + q * (q / m).log()).sum()
            else:
                divergence = (m * (m / p).log() + m * (m / q).log()).sum()
            if divergence > best:
                best, best_q, which = divergence, q, layer
        kept = p >= plausibility * p.max()
        scores[row, allowed] = torch.where(kept, p.log() - best_q.log(), -torch.inf)
        chosen.append(which)
    return scores, torch.tensor(chosen)


def random_logits(seed, rows=5, layers=4, vocabulary=7):
    generator = torch.Generator().manual_seed(seed)
    final = 3 * torch.randn(rows, vocabulary, generator=generator)
    return final, 3 * torch.randn(layers, rows, vocabulary, generator=generator)


def test_the_layer_is_chosen_as_in_dolas_code_and_not_as_in_textbooks():
    others = 0
    for seed in range(20):
        final, early = random_logits(seed)
        scores, chosen = contrast_layers(final, early, 0.1)
        expected, layers = by_hand(final, early, 0.1)
        assert torch.equal(chosen, layers)
        assert torch.equal(scores.isfinite(), expected.isfinite())
        assert (scores - expected)[expected.isfinite()].abs().max() < 1e-5
        others += int((by_hand(final, early, 0.1, textbook=True)[1] != chosen).sum())
    assert others > 3, "the two directions choose other layers"


def test_banned_tokens_have_no_part_and_the_batch_neither():
    final, early = random_logits(3)
    final[:, 2], final[1, 4] = torch.finfo(torch.float32).min, -torch.inf
    early[1, :, 2] = 50.0  # would decide, if it counted
    scores, chosen = contrast_layers(final, early, 0.05)
    expected, layers = by_hand(final, early, 0.05)
    assert torch.equal(chosen, layers)
    assert not scores.isnan().any()
    assert (scores[:, 2] == -torch.inf).all()
    assert (scores - expected)[expected.isfinite()].abs().max() < 1e-5
    assert len(set(chosen.tolist())) > 1
    for row in range(len(final)):
        one, layer = contrast_layers(final[row : row + 1], early[:, row : row + 1], 0.05)
        assert torch.equal(one[0], scores[row])
        assert layer[0] == chosen[row]


def test_log_probabilities_do_as_well_as_logits_and_one_layer_is_no_choice():
    final, early = random_logits(5)
    one, two = contrast_layers(final, early, 0.1), contrast_layers(final.log_softmax(-1), early.log_softmax(-1), 0.1)
    assert torch.equal(one[1], two[1])
    assert torch.allclose(one[0], two[0], atol=1e-5)
    kept = one[0].isfinite()
    static = contrast_layers(final, early[:1], 0.1)
    difference = final.log_softmax(-1) - early[0].log_softmax(-1)
    assert torch.allclose(static[0][kept], difference[kept], atol=1e-5)
    assert contrast_layers(final, early, 0.0)[0].isfinite().all()


@pytest.mark.parametrize(
    ("layers", "blocks", "tied", "expected"),
    [
        ("low", 32, False, range(0, 16, 2)),
        ("high", 32, False, range(16, 32, 2)),
        ("low", 32, True, range(2, 16, 2)),
        ("high", 32, True, range(16, 32, 2)),
        ("low", 28, True, range(2, 14, 2)),
        ("low", 40, False, range(0, 20, 2)),
        ("low", 48, False, range(0, 20, 2)),
        ("low", 80, True, range(2, 20, 2)),
        ("high", 80, False, range(60, 80, 2)),
        ("high", 41, False, range(21, 41, 2)),
        ("low", 3, True, (2,)),
        ("low", 2, True, (1,)),
        ("low", 1, False, (0,)),
        ("high", 1, False, (0,)),
        ((7, 3, 3), 8, True, (3, 7)),
        ([0], 8, True, (0,)),
    ],
)
def test_candidates_are_those_of_the_release_that_had_dola(layers, blocks, tied, expected):
    found = scr.DoLaConfig(layers=layers).candidates(blocks, tied)
    assert found == tuple(expected)
    assert all(candidate < blocks for candidate in found)


def test_a_head_that_shares_the_embeddings_is_seen_on_the_model():
    for name in ("llava", "qwen2_vl", "idefics3"):
        tiny = TINY[name](layers=8)
        assert not tiny.model.config.tie_word_embeddings
        assert handle_of(tiny.model).candidates == (0, 2)
        tied = TINY[name](layers=8, tie_word_embeddings=True)
        assert tied.model.config.tie_word_embeddings
        assert handle_of(tied.model).candidates == (2,)


def handle_of(model, **fields):
    return scr.get_method("dola").method(model, scr.DoLaConfig(**fields))


@pytest.mark.parametrize("layers", [(4,), (-1,), (), ("0",), (True,), (1.0,), "middle", 3, None])
def test_bad_layers(llava, layers):
    with pytest.raises(scr.ConfigError, match="layers"):
        scr.patch(llava.model, "dola", layers=layers)


class Compared(LogitsProcessor):
    """Stands behind DoLa: the scores it gets, against the model's own `output_hidden_states` of the whole answer."""

    def __init__(self, tiny, inputs, layers):
        self.tiny, self.inputs, self.layers, self.worst, self.steps = tiny, inputs, list(layers), 0.0, 0

    def __call__(self, input_ids, scores):
        copies = len(input_ids) // len(self.inputs["input_ids"])
        for row, tokens in enumerate(input_ids):
            final, early = states(self.tiny.model, self.inputs, tokens.expand(len(self.inputs["input_ids"]), -1))
            prompt = row // copies
            final, early = final[prompt : prompt + 1], early[self.layers, prompt : prompt + 1]
            final[:, GREEDY["suppress_tokens"]] = -torch.inf
            expected = by_hand(final, early, BETA)[0]
            kept = expected[0].isfinite()
            if len((self.tiny.repeatable or PROMPTS)[prompt][1]):
                assert torch.equal(scores[row].isfinite(), kept)
            else:
                expected, kept = final.double(), final[0] > -1e30
            found = scores[row][kept].double().log_softmax(-1)
            self.worst = max(self.worst, (found - expected[0][kept].log_softmax(-1)).abs().max().item())
        self.steps += 1
        return scores


@torch.no_grad()
def states(model, inputs, tokens):
    """Logits and early logits of the last token, in one forward without a cache."""
    mask = inputs["attention_mask"]
    new = tokens.shape[1] - mask.shape[1]
    positions = prompt_positions(model, inputs)
    whole = longer(inputs, new)
    whole["input_ids"] = torch.cat([inputs["input_ids"], tokens[:, mask.shape[1] :]], dim=1)
    whole["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), new)], dim=1)
    whole["position_ids"] = torch.cat([positions, positions[..., -1:] + torch.arange(1, new + 1)], dim=-1)
    out = model(**whole, use_cache=False, output_hidden_states=True)
    head = model.get_output_embeddings()
    assert len(out.hidden_states) == 5
    return out.logits[:, -1], torch.stack([head(out.hidden_states[layer][:, -1]) for layer in LAYERS])


@pytest.mark.parametrize(
    ("layers", "way"),
    [
        (LAYERS, {}),
        (LAYERS, {"num_beams": 2}),
        (LAYERS, {"do_sample": True, "num_return_sequences": 2}),
        ((0,), {}),
        ((0, 2), {}),
    ],
    ids=str,
)
def test_every_step_equals_the_models_own_hidden_states(tiny, layers, way):
    """In a batch with left padding."""
    if way:
        tiny.require_copies()
    inputs = tiny.prompt(tiny.repeatable or PROMPTS).inputs
    check = Compared(tiny, inputs, layers)
    torch.manual_seed(0)
    with scr.patch(tiny.model, "dola", layers=layers, plausibility=BETA):
        kept = {"output_hidden_states": True} if way else {}
        tiny.model.generate(**inputs, **{**GREEDY, **way, **kept, "logits_processor": [Beside(check)]})
    assert check.steps == 3
    assert check.worst < 1e-4


class Beside(LogitsProcessor):
    """Forwards that a processor makes are beside `generate`."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, input_ids, scores):
        with beside_generate():
            assert is_beside()
            return self.processor(input_ids, scores)


def said(tiny, **options):
    spy = Spy()
    out = tiny.model.generate(**tiny.prompt().inputs, **{**GREEDY, **options}, logits_processor=[spy])
    return out, torch.stack(spy.scores, dim=1)


@pytest.mark.parametrize("engine", ["processor", "auto"])
@pytest.mark.parametrize("dola_first", [True, False])
def test_forwards_of_a_noisy_branch_are_no_steps_of_dolas(tiny, engine, dola_first):
    dola = scr.patch(tiny.model, "dola", layers=LAYERS, plausibility=BETA)
    with dola:
        tokens, expected = said(tiny)
    nothing = scr.patch(tiny.model, "purified", contrast=0.0, engine=engine)
    with dola if dola_first else nothing, nothing if dola_first else dola:
        found, scores = said(tiny)
    assert torch.equal(found, tokens)
    finite = expected > -1e30
    assert torch.allclose(scores[finite], expected[finite], atol=1e-4)


def test_with_scr_dola_reads_the_edited_prefill_in_either_order(tiny):
    dola = scr.patch(tiny.model, "dola", layers=LAYERS, plausibility=BETA)
    edit = scr.patch(tiny.model, num_sources=4, scale=1.6, keep_traces=99)
    found = []
    for outer, inner in ((dola, edit), (edit, dola)):
        with outer, inner:
            found.append(said(tiny))
    assert torch.equal(found[0][1], found[1][1])
    inputs = tiny.prompt().inputs
    with edit:
        final, early = states(tiny.model, inputs, inputs["input_ids"])
    plain = states(tiny.model, inputs, inputs["input_ids"])[0]
    assert not torch.allclose(final[:2], plain[:2], atol=1e-3)
    final[:, GREEDY["suppress_tokens"]] = -torch.inf
    expected = by_hand(final, early, BETA)[0][:2]
    kept = expected.isfinite()
    scores = found[0][1][:2, 0].double()
    assert torch.equal(scores.isfinite(), kept)
    shift = scores.logsumexp(-1) - expected.logsumexp(-1)
    assert (scores - expected - shift[:, None])[kept].abs().max() < 1e-4


def test_a_loop_that_makes_no_step_is_refused(llava):
    def asks_twice(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
        logits_processor(input_ids, torch.zeros(len(input_ids), 96))

    with pytest.raises(scr.UnsupportedGenerationError, match="dola saw no layers"), scr.patch(llava.model, "dola"):
        llava.model.generate(**llava.prompt().inputs, **GREEDY, custom_generate=asks_twice)


def test_without_a_cache_and_with_a_static_one(tiny):
    with scr.patch(tiny.model, "dola", layers=LAYERS):
        tokens, expected = said(tiny)
        for options in ({"use_cache": False}, {"cache_implementation": "static"}):
            found, scores = said(tiny, **options)
            finite = expected > -1e30
            assert torch.equal(found, tokens)
            assert (scores - expected)[finite].abs().max() < 1e-3


class PackedHead(torch.nn.Module):
    """As quantised heads are kept: buffers, and no parameters."""

    def __init__(self, head):
        super().__init__()
        self.register_buffer("packed", head.weight.detach().clone())

    def forward(self, hidden):
        return hidden @ self.packed.T


@pytest.mark.parametrize("kind", ["offloaded", "packed"])
def test_the_head_is_called_as_the_model_calls_it(kind):
    """One whose parameters lie elsewhere between calls, and one that has none, say what the plain one says."""
    tiny = TINY["llava"](layers=4)
    plain, expected = said(tiny), None
    with scr.patch(tiny.model, "dola", plausibility=0):
        expected = said(tiny)
    if kind == "offloaded":
        accelerate.cpu_offload(tiny.model, execution_device="cpu")
        assert tiny.model.lm_head.weight.device.type == "meta"
    else:
        tiny.model.lm_head = PackedHead(tiny.model.lm_head)
    with scr.patch(tiny.model, "dola", plausibility=0):
        found = said(tiny)
    assert torch.equal(found[0], expected[0])
    assert torch.allclose(found[1], expected[1], atol=1e-5)
    assert not torch.allclose(expected[1], plain[1], atol=1e-2), "dola does something"
    assert torch.allclose(said(tiny)[1], plain[1], atol=1e-5), "taken off"
