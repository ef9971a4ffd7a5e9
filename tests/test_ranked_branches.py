"""SID, CRoPS and AvisC against a recomputation from their formulas: no caches, whole eager maps, one row at a time."""

import itertools
import math

import pytest
import torch
from tiny_families import PROMPTS, REFUSED, TINY, VOCABULARY, longer
from transformers import LogitsProcessor

import scr
from hooks import image_tokens, prompt_positions
from scr.branches.keys import LeastAttended
from scr.branches.prompts import without_images
from scr.contrast import growing_contrast
from scr.methods.avisc import blind_tokens

pytestmark = [
    pytest.mark.usefixtures("one_thread", "kernels"),
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask"),
]
STEPS, LAYERS = 3, 4
SUPPRESSED = [VOCABULARY["<image>"], VOCABULARY["<video>"]]
GREEDY = {"max_new_tokens": STEPS, "do_sample": False, "suppress_tokens": SUPPRESSED}
WAYS = {
    "greedy": GREEDY,
    "sampling": {**GREEDY, "do_sample": True, "temperature": 0.8, "top_k": 0},
    "beams": {**GREEDY, "num_beams": 2},
}
ENGINES = ("processor", "joined")
LEAST = torch.finfo(torch.float32).min
FIELDS = {
    "sid": {"kept": 0.2, "contrast": 2.0, "first_layer": 2},
    "crops": {"contrast": 1.5, "rate": 0.2, "text_kept": 3, "text_more": 9, "text_rate": 0.4, "sure_above": 0.5},
    "avisc": {"contrast": 2.0, "deviations": 0.5},
}
NOTHING = {
    "sid": [{"contrast": 0.0}, {"kept": 1.0}],
    "crops": [{"contrast": 0.0, "rate": 0.0, "plausibility": 0.0}],
    "avisc": [{"contrast": 0.0}, {"deviations": -1e6}],
}


class Spy(LogitsProcessor):
    def __init__(self):
        self.steps = []

    def __call__(self, input_ids, scores):
        self.steps.append((input_ids.clone(), scores.clone()))
        return scores


class ByHand:
    """One prompt, alone: what each branch says after given tokens, in forwards of everything with eager attention."""

    def __init__(self, family, prompt):
        self.tiny = TINY[family](layers=LAYERS, attention="eager")
        self.inputs = self.tiny.prompt([prompt]).inputs
        self.hidden = {}

    @torch.no_grad()
    def forward(self, inputs, tokens, hidden=None, first_layer=0, zeroed=None):
        """Logits of the last token, and every block's (heads, queries, keys)."""
        model, count = self.tiny.model, len(tokens)
        positions = prompt_positions(model, inputs)
        whole = longer(inputs, count, self.tiny.suffix)
        whole["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([tokens], dtype=torch.long)], dim=1)
        length = whole["input_ids"].shape[1]
        whole["attention_mask"] = torch.ones(1, length, dtype=torch.long)
        whole["position_ids"] = torch.cat([positions, positions[..., -1:] + torch.arange(1, count + 1)], dim=-1)
        handles = []
        if hidden is not None:
            unseen = hidden & ~torch.eye(length).bool()

            def hide(module, args, kwargs):
                return args, {**kwargs, "attention_mask": kwargs["attention_mask"].masked_fill(unseen, LEAST)}

            for layer in self.tiny.layers[first_layer:]:
                handles.append(layer.register_forward_pre_hook(hide, with_kwargs=True))
        if zeroed is not None:
            handles.append(
                self.tiny.layers[0].register_forward_pre_hook(
                    lambda module, args: (args[0].masked_fill(zeroed[None, : args[0].shape[1], None], 0), *args[1:])
                )
            )
        out = model(**whole, use_cache=False, output_attentions=True)
        for handle in handles:
            handle.remove()
        return out.logits[0, -1].double(), [layer[0].double() for layer in out.attentions]

    def ranked(self, inputs, tokens, keys, kept, first_layer):
        """A branch that sees only the least attended keys; what a token may see was settled when it came."""
        image = image_tokens(self.tiny.model, inputs)[0]
        prompt, rows = len(image), []
        for step in range(len(tokens) + 1):
            key = (keys, tuple(tokens[:step]))
            if key not in self.hidden:
                attention = self.forward(inputs, tokens[:step])[1][first_layer - 1][:, -1].mean(dim=0)
                image_now = torch.cat([image, torch.zeros(step, dtype=torch.bool)])
                ranked = image_now if keys == "image" else ~image_now
                if keys == "text":
                    ranked[-1] = False
                among = sorted(ranked.nonzero().flatten().tolist(), key=lambda token: attention[token].item())
                self.hidden[key] = set(among[kept(len(among), step + 1) :])
            rows.append(self.hidden[key])
        length = prompt + len(tokens)
        hidden = torch.zeros(length, length, dtype=torch.bool)
        for query in range(length):
            for token in rows[max(0, query - prompt + 1)]:
                hidden[query, token] = True
        return self.forward(inputs, tokens, hidden, first_layer)[0]


def banned_as(clean, scores):
    return torch.where(clean <= LEAST, -torch.inf, scores)


def plausible(clean, share):
    return clean.softmax(-1) >= share * clean.softmax(-1).max()


def sid(hand, clean, tokens, config):
    second = hand.ranked(hand.inputs, tokens, "image", lambda n, t: math.ceil(config.kept * n), config.first_layer)
    scores = (1 + config.contrast) * clean - config.contrast * second
    return scores.masked_fill(~plausible(clean, config.plausibility), -torch.inf)


def crops(hand, clean, tokens, config):
    t = len(tokens) + 1
    text_kept = lambda n, t: math.floor(config.text_kept + config.text_more * (1 - math.exp(-config.text_rate * t)))  # noqa: E731
    text = without_images(hand.tiny.model, hand.inputs)
    language = hand.ranked(text, tokens, "text", text_kept, config.first_layer).log_softmax(-1)
    little = hand.ranked(
        hand.inputs, tokens, "image", lambda n, t: math.ceil(config.image_kept * n), config.first_layer
    ).log_softmax(-1)
    masked = clean.masked_fill(~plausible(clean, config.plausibility), -torch.inf).log_softmax(-1)
    if masked.exp().max() > config.sure_above:
        return masked
    g = math.exp(-config.rate * t)
    scores = masked + (1 - g) / g * (masked - language)
    return (1 + config.contrast) * scores - config.contrast * little


def avisc(hand, clean, tokens, config):
    image = image_tokens(hand.tiny.model, hand.inputs)[0]
    seen = torch.stack([layer[:, -1].mean(dim=0)[image] for layer in hand.forward(hand.inputs, [])[1]])
    order = sorted(range(len(seen)), key=lambda layer: -seen[layer].sum().item())
    taken, total = [], 0.0
    while total < config.layer_share * seen.sum().item():
        taken.append(order[len(taken)])
        total += seen[taken[-1]].sum().item()
    mean = seen[taken].mean(dim=0)
    zeroed = torch.zeros(len(image) + STEPS, dtype=torch.bool)
    zeroed[: len(image)][image] = mean < mean.mean() + config.deviations * mean.std(correction=0)
    second = hand.forward(hand.inputs, tokens, zeroed=zeroed)[0]
    scores = (1 + config.contrast) * clean - config.contrast * second
    return scores.masked_fill(~plausible(clean, config.plausibility), -torch.inf)


FORMULAS = {"sid": sid, "crops": crops, "avisc": avisc}


def by_hand(hand, method, config, tokens):
    clean = hand.forward(hand.inputs, tokens)[0]
    clean[SUPPRESSED] = -torch.inf
    clean = torch.where(clean <= LEAST, -torch.inf, clean)
    return FORMULAS[method](hand, clean, tokens, config).log_softmax(-1)


def said(tiny, method, options, **fields):
    inputs, spy = tiny.prompt().inputs, Spy()
    torch.manual_seed(1)
    with scr.patch(tiny.model, method, **fields):
        tokens = tiny.model.generate(**inputs, **options, logits_processor=[spy])
    return tokens[:, inputs["input_ids"].shape[1] :], spy.steps


def plain(tiny, options):
    inputs = tiny.prompt().inputs
    torch.manual_seed(1)
    return tiny.model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]


def equals_the_formula(family, method, options, engine, attention=None):
    """Every row of a padded batch, at every step, whatever was chosen, gets what the formula gives it alone."""
    tiny, fields = TINY[family](layers=LAYERS), FIELDS[method]
    # The public way looks for an installed kernel.
    if attention is not None:
        tiny.model.config.text_config._attn_implementation_internal = attention
    config, length = scr.get_method(method).configure(fields), tiny.prompt().inputs["input_ids"].shape[1]
    with torch.compiler.set_stance("force_eager"):  # Inductor's flex kernels for CPUs do not build everywhere
        _, steps = said(tiny, method, options, engine=engine, **fields)
    hands = [ByHand(family, prompt) for prompt in PROMPTS]
    copies, moved = len(steps[0][0]) // len(PROMPTS), 0.0
    for (ids, scores), row in itertools.product(steps, range(2 * copies)):
        hand, tokens = hands[row // copies], ids[row, length:].tolist()
        expected = by_hand(hand, method, config, tokens)
        found = torch.where(scores[row] <= LEAST, -torch.inf, scores[row].double())
        found = found.log_softmax(-1)
        finite = expected.isfinite()
        assert torch.equal(finite, found.isfinite()), (row, tokens)
        assert (found - expected)[finite].abs().max() < 1e-4, (row, tokens)
        clean = hand.forward(hand.inputs, tokens)[0].log_softmax(-1)
        moved = max(moved, float((expected - clean)[finite].abs().max()))
    assert moved > 0.05, "the contrast does something"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", ["greedy", "sampling"])
@pytest.mark.parametrize("method", list(FIELDS))
def test_every_step_equals_the_formula(method, way, engine):
    equals_the_formula("llava", method, WAYS[way], engine)


@pytest.mark.parametrize(
    ("family", "method"), [("qwen2_vl", "sid"), ("idefics3", "crops"), ("chameleon", "crops"), ("llava_next", "avisc")]
)
def test_on_other_families_too(family, method):
    equals_the_formula(family, method, GREEDY, "joined")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", ["greedy", "sampling"])
@pytest.mark.parametrize("method", list(FIELDS))
@pytest.mark.parametrize("family", list(TINY))
def test_every_step_on_every_family(family, method, way, engine):
    if family in REFUSED.get(method, ()):
        pytest.skip("it refuses the model")
    equals_the_formula(family, method, WAYS[way], engine)


@pytest.mark.parametrize("method", list(FIELDS))
def test_under_beams_each_of_them_is_ranked_by_itself(method):
    equals_the_formula("llava", method, WAYS["beams"], "processor")


@pytest.mark.parametrize("attention", ["eager", "padding_free", "flash_attention_2", "flex_attention"])
@pytest.mark.parametrize("method", list(FIELDS))
def test_under_every_kernel(method, attention):
    equals_the_formula("llava", method, GREEDY, "joined", attention)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", list(FIELDS))
def test_a_contrast_of_nothing_is_the_base_token_by_token(method, engine):
    tiny = TINY["llava"](layers=LAYERS)
    for options, fields in itertools.product((WAYS["greedy"], WAYS["sampling"]), NOTHING[method]):
        # What is banned as implausible is never the highest score, but may be drawn.
        fields = fields if options is WAYS["greedy"] else {**fields, "plausibility": 0.0}
        found = said(tiny, method, options, engine=engine, **fields)[0]
        assert torch.equal(found, plain(tiny, options)), (options, fields)


def test_sids_public_code_bans_nothing_when_greedy():
    tiny = TINY["llava"](layers=LAYERS)
    fields = {**FIELDS["sid"], "plausibility": 0.9}
    for compat, way, banned in ((None, "greedy", True), ("official", "greedy", False), ("official", "sampling", True)):
        scores = said(tiny, "sid", WAYS[way], compat=compat, **fields)[1][0][1][:2]
        assert (scores.isneginf().sum(dim=1) > len(SUPPRESSED)).all() == banned


@pytest.mark.parametrize("method", ["sid", "crops"])
def test_a_block_that_is_not_there_is_refused(method):
    with pytest.raises(scr.ConfigError, match="first_layer leaves the model: got 4; expected an index below 4"):
        scr.patch(TINY["llava"](layers=LAYERS).model, method, first_layer=4)


def test_the_contrast_grows_as_the_image_is_forgotten():
    assert growing_contrast(0, 0.02) == 0
    g = math.exp(-0.02 * 7)
    assert growing_contrast(7, 0.02) == pytest.approx((1 - g) / g)
    assert growing_contrast(10**9, 0.02) == 1000.0
    assert growing_contrast(10**9, 0.0) == 0


def test_blind_tokens_are_those_that_stand_out_where_the_image_is_looked_at():
    attention = torch.tensor([[0.0, 0.0, 0.1, 0.0], [0.9, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.9]])
    assert blind_tokens(attention, 0.4, 1.0).tolist() == [True, False, False, False], "block 1 alone"
    assert blind_tokens(attention, 0.9, 0.5).tolist() == [True, False, False, True], "blocks 1 and 2"
    assert blind_tokens(attention, 0.0, 1.0).tolist() == [True, False, False, False]
    assert blind_tokens(attention[:, :0], 0.5, 1.0).tolist() == []


def test_what_least_attended_is_said_by_name():
    assert LeastAttended(keys="image", kept=min, first_layer=2).first_layer == 2
