"""ONLY against its formula, head after head, without caches; and what it fuses."""

import math

import pytest
import torch
from blocks_by_hand import whole
from test_attention_methods import GREEDY, LEAST, SAMPLING, STEPS, SUPPRESSED, assert_equal_scores, said
from tiny_families import PROMPTS, TINY

import scr
from scr.contrast import fuse_logits
from scr.methods import ONLY, ONLYConfig
from scr.methods.text_heads import text_heads

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = [
    {},
    {"agreement": 2.1, "added": 0.7, "residual": 0.5, "plausibility": 0.01},
    {"agreement": 0, "deviations": 2},
]


def made(name, attention="sdpa", **changes):
    return TINY[name](layers=3, attention=attention, **changes)


@pytest.fixture(scope="module")
def llava():
    return made("llava")


def entropy(weights):
    total = sum(weights)
    return -sum(one / total * math.log(one / total) for one in weights if one > 0) if total else 0.0


def heads_by_hand(weights, real, image, deviations):
    """One row: weights (heads, keys), and which keys are real and which are image tokens."""
    kept, ratios = weights.clone(), []
    for head in range(len(weights)):
        own = weights[head, real].tolist()
        mean = sum(own) / len(own)
        bound = mean + deviations * math.sqrt(sum((one - mean) ** 2 for one in own) / len(own))
        kept[head, weights[head] > bound] = 0
        text, visual = (entropy(kept[head, real & part].tolist()) for part in (~image, image))
        ratios.append(text / max(visual, 1e-6))
    for head, ratio in enumerate(ratios):
        if ratio < sum(ratios) / len(ratios):
            kept[head] = 0
    return kept


def second_by_hand(tiny, inputs, tokens, config):
    """The model's logits and the second ones, of an eager model; (rows, vocab) each, double."""
    first, last, seen = tiny.layers[0], tiny.layers[-1], []
    handle = first.self_attn.register_forward_hook(lambda module, args, output: seen.append(output[1]))
    output = whole(tiny.model, inputs, tokens)
    handle.remove()
    new = tokens.shape[1] - inputs["input_ids"].shape[1]
    real = torch.nn.functional.pad(inputs["attention_mask"].bool(), (0, new), value=True)
    image = torch.nn.functional.pad(tiny.visual(inputs), (0, new))
    (weights,), states, rows = seen, output.hidden_states, []
    with torch.no_grad():
        values = first.self_attn.v_proj(first.input_layernorm(states[0]))
        values = values.unflatten(-1, (-1, first.self_attn.head_dim))
        groups = weights.shape[1] // values.shape[2]
        for row in range(len(tokens)):
            kept = heads_by_hand(weights[row, :, -1], real[row], image[row], config.deviations)
            parts = [kept[head] @ values[row, :, head // groups] for head in range(len(kept))]
            skipped = last.input_layernorm(first.self_attn.o_proj(torch.cat(parts)))
            hidden = skipped + config.residual * states[-2][row, -1]
            hidden = hidden + last.mlp(last.post_attention_layernorm(hidden))
            rows.append(tiny.model.lm_head(tiny.model.get_decoder().norm(hidden)))
    return output.logits[:, -1].double(), torch.stack(rows).double()


def fused_by_hand(clean, second, config):
    scores = torch.full_like(clean, -torch.inf)
    for row in range(len(clean)):
        allowed = clean[row].isfinite()
        p, q = clean[row, allowed].softmax(-1), second[row, allowed].softmax(-1)
        if (p - q).abs().sum() < config.agreement:
            new = clean[row, allowed] + config.added * second[row, allowed]
        else:
            new = (1 + config.contrast) * clean[row, allowed] - config.contrast * second[row, allowed]
        scores[row, allowed] = new.masked_fill(p < config.plausibility * p.max(), -torch.inf)
    return scores


def slowly(tiny, fields, options):
    inputs, config = tiny.prompt().inputs, ONLYConfig(**fields)
    tokens, steps, length = inputs["input_ids"], [], inputs["input_ids"].shape[1]
    with_image = torch.tensor([bool(seeds) for _, seeds in PROMPTS])[:, None]
    torch.manual_seed(1)
    for _ in range(STEPS):
        clean, second = second_by_hand(tiny, inputs, tokens, config)
        clean[:, SUPPRESSED] = -torch.inf
        clean = clean.masked_fill(clean < LEAST, -torch.inf)
        scores = torch.where(with_image, fused_by_hand(clean, second, config), clean).log_softmax(-1)
        if options["do_sample"]:
            chosen = torch.multinomial((scores.float() / options["temperature"]).softmax(-1), 1)
        else:
            chosen = scores.argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, chosen], dim=1)
        steps.append(scores)
    return tokens[:, length:], torch.stack(steps, dim=1)


@pytest.mark.parametrize(
    ("family", "attention", "options"),
    [
        ("llava", "sdpa", GREEDY),
        ("llava", "eager", GREEDY),
        ("llava", "sdpa", SAMPLING),
        ("qwen2_5_vl", "sdpa", GREEDY),
        ("chameleon", "eager", GREEDY),
        ("internvl", "sdpa", SAMPLING),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
@pytest.mark.parametrize("fields", SETTINGS, ids=["published", "together", "apart"])
def test_every_step_equals_the_formula_without_caches(family, attention, options, fields):
    """In a left-padded batch of one image, two images and none: padding is no text."""
    expected, steps = slowly(made(family, "eager"), fields, options)
    tiny = made(family, attention)
    tokens, scores = said(tiny, ("only", fields), **options)
    assert torch.equal(tokens, expected)
    assert_equal_scores(scores, steps)
    plain = said(tiny, **options)[1]
    assert torch.equal(scores[2], plain[2]), "a row of text alone"
    kept = steps[:2, 0].isfinite()
    if fields:
        assert (steps[:2, 0] - plain[:2, 0].log_softmax(-1))[kept].abs().max() > 1e-2


def test_without_either_part_the_base_is_there_to_the_bit(llava):
    for options in (GREEDY, SAMPLING):
        base, expected = said(llava, **options)
        tokens, scores = said(llava, ("only", {"added": 0, "contrast": 0, "plausibility": 0}), **options)
        assert torch.equal(tokens, base)
        assert torch.equal(scores, expected)
    assert torch.equal(said(llava, ("only", {"added": 0, "contrast": 0}))[0], said(llava)[0])


@pytest.mark.parametrize(
    "options", [{"use_cache": False}, {"cache_implementation": "static"}], ids=lambda one: next(iter(one))
)
def test_every_cache_says_the_same(llava, options):
    for more in ({}, {"num_beams": 2}) if "use_cache" in options else ({},):
        expected, steps = said(llava, ("only", SETTINGS[1]), **more)
        tokens, scores = said(llava, ("only", SETTINGS[1]), **more, **options)
        assert torch.equal(tokens, expected)
        assert (scores - steps).nan_to_num(0).abs().max() < 1e-4


def test_it_goes_on_beside_others_that_run_below_it_or_edit_the_prompt(llava):
    """The rows of another method's branch are not read, in whatever order they came."""
    found = []
    for engine in ("processor", "joined"):
        for order in (0, 1):
            names = [("only", {"plausibility": 0}), ("purified", {"engine": engine})]
            (outer, fields), inner = names[order], names[1 - order]
            with scr.patch(llava.model, outer, **fields):
                found.append((order, said(llava, inner)[1]))
    for order, scores in found[2:]:
        expected = found[order][1]
        assert torch.allclose(scores, expected, atol=1e-4)
    with scr.patch(llava.model, "scr", **scr.get_method("scr").example):
        edited = said(llava, ("only", {}))[1]
    assert not torch.allclose(edited[:2].nan_to_num(0), said(llava, ("only", {}))[1][:2].nan_to_num(0), atol=1e-3)


def test_it_costs_a_head_and_a_block_without_attention(llava):
    calls = {"head": 0, "mlp": 0, "attention": 0}

    def counted(name):
        return lambda module, args, output: calls.update({name: calls[name] + 1})

    last = llava.layers[-1]
    parts = {"head": llava.model.lm_head, "mlp": last.mlp, "attention": last.self_attn}
    handles = [part.register_forward_hook(counted(name)) for name, part in parts.items()]
    said(llava, ("only", {}))
    for handle in handles:
        handle.remove()
    assert calls == {"head": 2 * STEPS, "mlp": 2 * STEPS, "attention": STEPS}


def test_blocks_of_another_build_are_refused():
    swin = TINY["chameleon"](layers=2, swin_norm=True)
    with pytest.raises(scr.UnsupportedModelError, match="another build: got ChameleonSwin"):
        scr.patch(swin.model, "only")
    bare = TINY["llava"](layers=2)
    for layer in bare.layers:
        layer.self_attn.out = layer.self_attn.o_proj
        del layer.self_attn.o_proj
    with pytest.raises(scr.UnsupportedModelError, match="output projection `o_proj`"):
        scr.patch(bare.model, "only")


def test_heads_are_judged_as_by_hand():
    draw = torch.Generator().manual_seed(5)
    weights = torch.randn(4, 6, 12, generator=draw).mul(2).softmax(-1)
    real, image = torch.ones(4, 12, dtype=torch.bool), torch.zeros(4, 12, dtype=torch.bool)
    real[1, :4] = False
    image[:, 5:9] = True
    image[3] = False
    weights = (weights * real[:, None]) / (weights * real[:, None]).sum(-1, keepdim=True)
    for deviations in (-0.5, 0, 1, 50):
        found = text_heads(weights, image, deviations)
        expected = [heads_by_hand(weights[row], real[row], image[row], deviations) for row in range(4)]
        assert torch.equal(found, torch.stack(expected))
        assert not found.isnan().any()
    removed = (text_heads(weights, image, 50.0).sum(-1) == 0).sum(-1)
    assert 0 < removed.min() <= removed.max() < 6
    assert ((text_heads(weights, image, 1.0) == 0) & (weights > 0)).any(-1).all(), "every head has an outlier"


def test_logits_are_fused_row_by_row():
    draw = torch.Generator().manual_seed(6)
    clean = 2 * torch.randn(6, 9, generator=draw)
    second = clean + torch.tensor([0.01, 0.05, 0.2, 0.5, 1, 2])[:, None] * torch.randn(6, 9, generator=draw)
    clean[:, 4], clean[2, 5] = -torch.inf, torch.finfo(torch.float32).min
    config = ONLYConfig(plausibility=0.05)
    found = fuse_logits(clean, second, 0.2, 3.0, 1.0, plausibility=0.05)
    banned = clean.double().masked_fill(clean < LEAST, -torch.inf)
    expected = fused_by_hand(banned, second.double(), config)
    assert torch.equal(found.isfinite(), expected.isfinite())
    assert not found.isnan().any()
    kept = expected.isfinite()
    assert (found - expected)[kept].abs().max() < 1e-5
    distances = [
        (banned[row].softmax(-1) - second[row].double().masked_fill(~banned[row].isfinite(), -torch.inf).softmax(-1))
        .abs()
        .sum()
        for row in range(6)
    ]
    assert min(distances) < 0.2 < max(distances), "both ways"


def test_the_published_values_are_the_defaults():
    assert ONLYConfig().to_dict() == {
        "agreement": 0.2,
        "added": 3.0,
        "contrast": 1.0,
        "plausibility": 0.1,
        "residual": 0.2,
        "deviations": 1.0,
    }
    assert scr.get_method("only").method is ONLY
