"""DeCo: the formula row by row, and that it reads the hidden states of the step itself."""

import pytest
import torch
from answers import GREEDY, SAMPLING, SUPPRESSED, said
from blocks_by_hand import whole
from tiny_families import PROMPTS, TINY

import scr
from hooks import find_family
from scr.methods.deco import add_layer, likely_tokens

pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS = range(1, 4)


@pytest.fixture(scope="module")
def llava():
    return TINY["llava"](layers=4)


def deco_by_hand(final, early, strength, top_p, most):
    """One row: candidates one by one, layers one by one."""
    shares, chosen, reached = final.double().softmax(-1), [], 0.0
    for token in final.argsort(descending=True).tolist():
        if chosen and (reached >= top_p or len(chosen) == most):
            break
        chosen.append(token)
        reached += shares[token].item()
    best, which = -1.0, None
    for layer in early:
        highest = max(layer.double().softmax(-1)[token].item() for token in chosen)
        if highest > best:
            best, which = highest, layer
    scores = torch.full_like(final, -torch.inf, dtype=torch.double)
    for token in chosen:
        scores[token] = final[token].double() + strength * best * which[token].double()
    return scores


@pytest.mark.parametrize(("top_p", "most"), [(0.9, 20), (0.5, 20), (0.9, 2), (0.0, 5), (1.0, 7)])
def test_it_is_its_formula_row_by_row(top_p, most):
    layers_chosen = set()
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        final, early = 2 * torch.randn(4, 7, generator=generator), 2 * torch.randn(3, 4, 7, generator=generator)
        scores = add_layer(final, early, likely_tokens(final, top_p, most), 0.6)
        for row in range(4):
            expected = deco_by_hand(final[row], early[:, row], 0.6, top_p, most)
            assert torch.equal(scores[row].isfinite(), expected.isfinite())
            kept = expected.isfinite()
            assert torch.allclose(scores[row][kept].double(), expected[kept], atol=1e-5)
            layers_chosen.add(tuple(early[:, row].softmax(-1).amax(-1).argsort().tolist()))
    assert len(layers_chosen) > 1


def test_a_banned_token_is_no_candidate():
    final = torch.tensor([[0.0, -torch.inf, 1.0], [torch.finfo(torch.float32).min, 2.0, 1.0]])
    assert likely_tokens(final, 1.0, 3).tolist() == [[True, False, True], [False, True, True]]


@pytest.mark.parametrize(
    ("family", "options"),
    [
        *((name, GREEDY) for name in TINY),
        ("llava", SAMPLING),
        ("llava", {**GREEDY, "use_cache": False}),
        ("llava", {**GREEDY, "cache_implementation": "static"}),
    ],
    ids=str,
)
def test_every_step_equals_the_models_own_hidden_states(family, options):
    """In a batch with left padding, of one image, two and none."""
    tiny = TINY[family](layers=4)
    with scr.patch(tiny.model, "deco", layers=LAYERS, strength=0.8, top_p=0.7, most_candidates=9):
        tokens, scores = said(tiny, **options)
    norm, head = find_family(tiny.model).final_norm(tiny.model), tiny.model.get_output_embeddings()
    out = whole(tiny.model, tiny.prompt().inputs, tokens)
    base = said(tiny, **options)[1]
    for step in range(3):
        place = tokens.shape[1] - 4 + step
        final = out.logits[:, place].clone()
        final[:, SUPPRESSED] = -torch.inf
        early = torch.stack([head(norm(out.hidden_states[layer][:, place])) for layer in LAYERS])
        for row in range(2):
            expected = deco_by_hand(final[row], early[:, row], 0.8, 0.7, 9)
            kept = expected.isfinite()
            assert torch.equal(scores[row, step].isfinite(), kept)
            found = scores[row, step][kept].double().log_softmax(-1)
            assert (found - expected[kept].log_softmax(-1)).abs().max() < 1e-4
    assert torch.equal(scores[2], base[2]), "the row of text alone, to the bit"


def test_beams_add_to_the_same_sum(llava):
    with scr.patch(llava.model, "deco"):
        scores = said(llava)[1][:, 0]
        beams = said(llava, num_beams=2)[1][::2, 0]
    assert torch.equal(beams.isfinite(), scores.isfinite())
    kept = scores.isfinite()
    assert torch.allclose(beams.log_softmax(-1)[kept], scores.log_softmax(-1)[kept], atol=1e-4)


def test_strength_0_is_greedy_decoding_as_it_was(llava):
    tokens, base = said(llava)
    with scr.patch(llava.model, "deco", strength=0):
        found, scores = said(llava)
    assert torch.equal(found, tokens)
    kept = scores.isfinite()
    assert kept[:2].sum() < base[:2].isfinite().sum(), "candidates alone"
    of_kept = base.masked_fill(~kept, -torch.inf).log_softmax(-1)
    assert torch.allclose(scores.log_softmax(-1)[kept], of_kept[kept], atol=1e-5)


def test_a_batch_is_its_rows_alone_and_the_default_layers_scale(llava):
    with scr.patch(llava.model, "deco"):
        scores = said(llava)[1]
        for row, prompt in enumerate(PROMPTS):
            one = said(llava, [prompt])[1][0]
            assert torch.equal(one.isfinite(), scores[row].isfinite())
            assert torch.allclose(one[one.isfinite()], scores[row][one.isfinite()], atol=1e-4)
    for blocks, expected in ((32, range(20, 29)), (40, range(20, 29)), (28, range(18, 25)), (4, range(2, 4))):
        assert scr.patch(TINY["llava"](layers=blocks).model, "deco").config.layers == expected
    with pytest.raises(scr.ConfigError, match=r"layers leaves the model: got range\(2, 6\)"):
        scr.patch(llava.model, "deco", layers=range(2, 6))
