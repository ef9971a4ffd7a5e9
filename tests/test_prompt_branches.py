"""M3ID, ICD and OA-VCD against a recomputation from the formulas: no caches, branch by branch, from typed prompts."""

import functools
import math

import pytest
import torch
from test_engines import ENGINES, GREEDY, LEAST, SAMPLING, STEPS, SUPPRESSED, answers, plain, without_cache
from tiny import tiny_processor
from tiny_families import PROMPTS, TINY, VOCABULARY
from transformers import DynamicCache

import scr
from hooks import encode_images, find_family
from scr.branches.saliency import tower_saliency
from scr.contrast import plausible_tokens
from scr.methods.m3id import fading_weight

pytestmark = pytest.mark.usefixtures("one_thread")
SAMPLED = ("qwen2_5_vl", "idefics3")  # positions of their own, and frames of several tokens
CONFUSING = "no cat describe the dog"
IDS = tuple(VOCABULARY[word] for word in CONFUSING.split())
FIELDS = {
    "m3id": {"fading": 0.4, "plausibility": 0.02},
    "icd": {"instruction": IDS, "contrast": 1.5, "plausibility": 0.02},
    "oa_vcd": {"contrast": 1.5, "covered": 0.5, "plausibility": 0.02},
}
NOTHING = {
    "m3id": {"fading": 0.0},
    "icd": {"instruction": IDS, "contrast": 0.0},
    "oa_vcd": {"contrast": 0.0},
}


@functools.cache
def made(name, attention="sdpa"):
    return TINY[name](layers=2, attention=attention)


def covered(tiny, inputs, share):
    """The most salient patches are 0, pixel by pixel."""

    def cover(image):
        maps, new = tower_saliency(tiny.model)(image), image.clone()
        rows, columns = maps.shape[1:]
        for tile, found in zip(new, maps, strict=True):
            left = share * float(found.double().sum())
            for place in found.flatten().argsort(descending=True, stable=True).tolist():
                if left <= 0:
                    break
                left -= float(found.flatten()[place])
                row, column = divmod(place, columns)
                height, width = tile.shape[1] // rows, tile.shape[2] // columns
                tile[:, row * height : (row + 1) * height, column * width : (column + 1) * width] = 0
        return new

    return {**inputs, "pixel_values": find_family(tiny.model).map_pixels(tiny.model, inputs, cover)}


def other_inputs(tiny, method, prompts=PROMPTS):
    """What the other branch reads, typed by hand."""
    if method == "m3id":
        return tiny.prompt([(text.replace("<image>", ""), []) for text, _ in prompts]).inputs
    if method == "icd":
        texts = [text[::-1].replace("<image>"[::-1], f"<image> {CONFUSING}"[::-1], 1)[::-1] for text, _ in prompts]
        return tiny.prompt([(text, seeds) for text, (_, seeds) in zip(texts, prompts, strict=True)]).inputs
    return covered(tiny, tiny.prompt(prompts).inputs, FIELDS["oa_vcd"]["covered"])


def by_hand(tiny, options, method):
    inputs, other = tiny.prompt().inputs, other_inputs(tiny, method)
    fields, chosen, steps = FIELDS[method], torch.zeros(len(PROMPTS), 0, dtype=torch.long), []
    with_image = torch.tensor([bool(seeds) for _, seeds in PROMPTS])
    torch.manual_seed(1)
    for step in range(STEPS):
        clean, noisy = (
            without_cache(tiny.model, given, torch.cat([given["input_ids"], chosen], dim=1))
            for given in (inputs, other)
        )
        banned = clean <= LEAST
        banned[:, SUPPRESSED] = True
        clean = clean.masked_fill(banned, -torch.inf)
        weight = math.exp(fields["fading"] * step) - 1 if method == "m3id" else fields["contrast"]
        new = clean + weight * (clean - noisy.masked_fill(banned, 0)).masked_fill(banned, 0)
        new = new.masked_fill(clean < clean.amax(-1, keepdim=True) + math.log(fields["plausibility"]), -torch.inf)
        new = new + clean.logsumexp(-1, keepdim=True) - new.logsumexp(-1, keepdim=True)
        scores = torch.where(with_image[:, None], new, clean)
        if options["do_sample"]:
            picked = torch.multinomial((scores.float() / options["temperature"]).softmax(-1), 1)
        else:
            picked = scores.argmax(-1, keepdim=True)
        chosen = torch.cat([chosen, picked], dim=1)
        steps.append(scores)
    return chosen, torch.stack(steps, dim=1)


CASES = [
    *[("llava", options, attention) for options in ("greedy", "sampling") for attention in ("sdpa", "eager")],
    *[(name, "greedy", "sdpa") for name in SAMPLED],
]


@pytest.mark.parametrize("method", list(FIELDS))
@pytest.mark.parametrize(("name", "decoding", "attention"), CASES)
def test_every_step_equals_the_formula(name, decoding, attention, method):
    tiny, options = made(name, attention), {"greedy": GREEDY, "sampling": SAMPLING}[decoding]
    tokens, expected = by_hand(tiny, options, method)
    finite = expected.isfinite()
    for engine in ENGINES:
        chosen, scores = answers(tiny, options, method, engine=engine, **FIELDS[method])
        assert torch.equal(chosen, tokens), engine
        assert torch.equal(finite, scores > LEAST), engine
        assert (scores - expected)[finite].abs().max() < 1e-5 * expected[finite].abs().max(), engine
    plainly = answers(tiny, options, "plausibility_only", plausibility=FIELDS[method]["plausibility"])[1]
    kept = finite & (plainly > LEAST)
    assert (plainly - expected)[kept].abs().max() > 0.1, "the other branch matters"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", list(NOTHING))
@pytest.mark.parametrize("name", ["llava", *SAMPLED])
def test_no_contrast_is_the_base_to_the_bit(name, method, engine):
    tiny = made(name)
    for options in (GREEDY, SAMPLING):
        found = answers(tiny, options, method, engine=engine, plausibility=0.0, **NOTHING[method])
        assert torch.equal(found[0], plain(tiny, options))
        assert torch.equal(found[1][:, 0], answers(tiny, options, "yes_shift", shift=0.0, no_tokens=(3,))[1][:, 0])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["llava", *SAMPLED])
def test_nothing_covered_is_the_base_token_by_token(name, engine):
    tiny = made(name)
    found = answers(tiny, GREEDY, "oa_vcd", engine=engine, plausibility=0.0, contrast=3.0, covered=0.0)
    assert torch.equal(found[0], plain(tiny, GREEDY))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", list(FIELDS))
@pytest.mark.parametrize("name", ["llava", *SAMPLED])
def test_a_row_gets_what_it_gets_alone(name, method, engine):
    tiny = made(name)
    tokens, scores = answers(tiny, GREEDY, method, engine=engine, **FIELDS[method])
    for row, prompt in enumerate(PROMPTS):
        own, alone = answers(tiny, GREEDY, method, prompts=[prompt], engine=engine, **FIELDS[method])
        assert torch.equal(own[0], tokens[row])
        finite = alone[0] > LEAST
        assert torch.equal(finite, scores[row] > LEAST)
        assert (alone[0] - scores[row])[finite].abs().max() < 1e-5 * alone[0][finite].abs().max()


def test_the_weight_of_m3id_grows_from_0_and_stays_a_number():
    assert fading_weight(0.02, 0) == 0
    g = math.exp(-0.02 * 7)
    assert fading_weight(0.02, 7) == pytest.approx((1 - g) / g)
    assert fading_weight(1000.0, 10**6) == pytest.approx(1000.0)
    assert torch.isfinite(answers(made("llava"), GREEDY, "m3id", fading=900.0)[1]).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_m3id_leaves_sure_tokens_to_the_constraint(engine):
    tiny, fields = made("llava"), FIELDS["m3id"]
    only = answers(tiny, GREEDY, "plausibility_only", plausibility=fields["plausibility"])
    never = answers(tiny, GREEDY, "m3id", engine=engine, only_below=0.0, **fields)
    assert torch.equal(never[0], only[0])
    assert torch.allclose(never[1], only[1], atol=1e-5)
    always = answers(tiny, GREEDY, "m3id", engine=engine, only_below=1.0, **fields)
    usual = answers(tiny, GREEDY, "m3id", engine=engine, **fields)
    assert torch.equal(always[1], usual[1])
    surest = answers(tiny, GREEDY, "plausibility_only", plausibility=0.0)[1][:2, 1].softmax(-1).amax(-1)
    between = answers(tiny, GREEDY, "m3id", engine=engine, only_below=float(surest.mean()), **fields)[1][:2, 1]
    first = int(surest.argmax())
    assert torch.allclose(between[first], only[1][first, 1], atol=1e-5), "the surer row"
    assert torch.equal(between[1 - first], usual[1][1 - first, 1]), "and the other"
    assert not torch.allclose(usual[1][first, 1], only[1][first, 1], atol=1e-2)


def test_icd_reads_its_text_with_the_tokenizer_of_the_checkpoint(tmp_path):
    tiny = TINY["llava"](layers=2)
    with pytest.raises(scr.ConfigError, match=r"an instruction without a tokenizer.*for a model of ''.*Give ids: "):
        scr.patch(tiny.model, "icd")
    tiny.model.config._name_or_path = tiny.model.name_or_path = str(tmp_path)
    with pytest.raises(scr.ConfigError, match=r"an instruction without a tokenizer.*Give ids: "):
        scr.patch(tiny.model, "icd", instruction="describe a dog")
    processor = tiny_processor()
    processor.save_pretrained(tmp_path)
    tiny.model.config.save_pretrained(tmp_path)
    patch = scr.patch(tiny.model, "icd", instruction="describe a dog")
    expected = tuple(processor.tokenizer.convert_tokens_to_ids(["describe", "a", "dog"]))
    assert patch.config.instruction == expected
    with pytest.raises(scr.ConfigError, match="an instruction without words: got ''"):
        scr.patch(tiny.model, "icd", instruction="")
    with pytest.raises(scr.ConfigError, match=r"instruction leaves the vocabulary: got \(3, 96\).*below 96"):
        scr.patch(tiny.model, "icd", instruction=(3, 96))


def test_oa_vcd_takes_any_map():
    tiny, seen = made("llava"), []

    def left_half(tiles):
        seen.append(tuple(tiles.shape))
        maps = torch.zeros(len(tiles), 5, 2)
        maps[:, :, 0] = 1.0
        return maps

    by_map = answers(tiny, GREEDY, "oa_vcd", saliency=left_half, covered=1.0, contrast=2.0)
    assert seen == [(1, 3, 20, 20)] * 3
    inputs = tiny.prompt().inputs
    half = inputs["pixel_values"].clone()
    half[..., :10] = 0
    start = inputs["input_ids"]
    clean, other = (without_cache(tiny.model, {**inputs, "pixel_values": one}, start)
                    for one in (inputs["pixel_values"], half))  # fmt: skip
    expected = (3 * clean - 2 * other).masked_fill(~plausible_tokens(clean, 0.1), -torch.inf)
    expected[:, SUPPRESSED] = -torch.inf
    found = by_map[1][:2, 0].double().masked_fill(by_map[1][:2, 0] <= LEAST, -torch.inf)
    kept = found.isfinite()
    assert torch.equal(kept, expected[:2].isfinite())
    assert (found.log_softmax(-1) - expected[:2].log_softmax(-1))[kept].abs().max() < 1e-4
    with pytest.raises(scr.ConfigError, match="saliency"):
        scr.patch(tiny.model, "oa_vcd", saliency="dino")


@pytest.mark.parametrize("method", list(FIELDS))
def test_what_it_cannot_do_is_an_error_with_a_way_out(method):
    tiny = made("llava")
    inputs = tiny.prompt(PROMPTS[:1]).inputs
    cache = DynamicCache()
    with torch.no_grad():
        embeds = tiny.model.get_input_embeddings()(inputs["input_ids"])
        tiny.model(input_ids=torch.tensor([[1, 2, 3]]), past_key_values=cache)
    without_ids = {**inputs, "inputs_embeds": embeds, "input_ids": None}
    with scr.patch(tiny.model, method, **FIELDS[method]):
        with pytest.raises(scr.UnsupportedGenerationError, match=r"cannot go on from a cache.*Give the whole"):
            tiny.model.generate(**inputs, past_key_values=cache, **GREEDY)
        with pytest.raises(scr.ConfigError, match=r"a prompt without ids.*Pass what the processor returns"):
            tiny.model.generate(**without_ids, **GREEDY)
        with pytest.raises(scr.UnsupportedGenerationError, match="one token at a time"):
            tiny.model.generate(**inputs, prompt_lookup_num_tokens=2, **GREEDY)
    with (
        scr.patch(tiny.model, method, **{**FIELDS[method], "engine": "joined"}),
        pytest.raises(scr.UnsupportedGenerationError, match=r"got beams; .*Use engine='processor'"),
    ):
        tiny.model.generate(**inputs, num_beams=2, **GREEDY)


def test_pixels_that_did_not_come_cannot_be_covered():
    tiny = made("llava")
    encoded = encode_images(tiny.model, tiny.prompt(PROMPTS[:1]).inputs)
    with scr.patch(tiny.model, "oa_vcd"), pytest.raises(scr.ConfigError, match=r"no pixels to corrupt.*Pass what the"):
        tiny.model.generate(**encoded, **GREEDY)
    for method in ("m3id", "icd"):
        with scr.patch(tiny.model, method, **FIELDS[method]):
            tiny.model.generate(**encoded, **GREEDY)
