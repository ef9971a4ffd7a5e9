"""PAI, VAF, head guidance and SPIN against their formulas, written out over whole maps and without caches."""

import copy

import pytest
import torch
from answers import Spy
from blocks_by_hand import whole
from rows_by_hand import attention_by_hand
from test_patch_undo import everything_on
from tiny_families import PROMPTS, TINY, VOCABULARY
from transformers import DynamicCache

import scr
from scr.branches.prompts import without_images
from scr.methods import PAIConfig, SPINConfig, VAFConfig

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS, BLOCKS = 3, 4
SUPPRESSED = [VOCABULARY["<image>"], VOCABULARY["<video>"]]
GREEDY = {"max_new_tokens": STEPS, "do_sample": False, "suppress_tokens": SUPPRESSED}
SAMPLING = {**GREEDY, "do_sample": True, "temperature": 0.8, "top_k": 0}
LEAST = torch.finfo(torch.float16).min
LAYERS = range(1, 4)
STRONG = {
    "pai": {"strength": 0.9, "guidance": 1.6, "plausibility": 0.02},
    "vaf": {"image_factor": 2.5, "system_factor": 0.3},
    "head_guidance": {"strength": 2.0},
    "spin": {"kept": 0.6, "factor": 0.3},
}
OFF = {
    "pai": [{"strength": 0, "guidance": 1}],
    "vaf": [{"image_factor": 1, "system_factor": 1}],
    "head_guidance": [{"strength": 0}],
    "spin": [{"kept": 1}, {"kept": 0.3, "factor": 1}],
}
ALMOST = {
    "pai": {"strength": 1e-9, "guidance": 1},
    "vaf": {"image_factor": 1 + 1e-9, "system_factor": 1},
    "head_guidance": {"strength": 1e-9},
    "spin": {"kept": 0.3, "factor": 1 - 1e-9},
}
METHODS = list(STRONG)


def made(name, attention="sdpa"):
    return TINY[name](layers=BLOCKS, attention=attention)


@pytest.fixture(scope="module")
def llava():
    tiny = made("llava")
    tiny.model.generate(**tiny.prompt().inputs, **GREEDY)
    return tiny


def said(tiny, method=None, prompts=PROMPTS, inputs=None, **options):
    """Answers, and the scores of every step behind the method; `method` is a name and its fields."""
    spy = Spy()
    inputs = tiny.prompt(prompts).inputs if inputs is None else inputs
    torch.manual_seed(1)
    given = {**GREEDY, **options, "logits_processor": [spy]}
    if method is None:
        tokens = tiny.model.generate(**inputs, **given)
    else:
        name, fields = method
        with scr.patch(tiny.model, name, **fields):
            tokens = tiny.model.generate(**inputs, **given)
    return tokens[:, inputs["input_ids"].shape[1] :], torch.stack(spy.scores, dim=1)


def pai_by_hand(image, real, strength, **fields):
    def change(layer, scores):
        for row, query in late(image, scores):
            own = scores[row, :, query, : image.shape[1]]
            own[:, image[row]] += strength * own[:, image[row]].abs()
        return scores

    return {"change": only(change)}


def head_guidance_by_hand(image, real, strength):
    def change(layer, scores):
        for row, query in late(image, scores):
            for key in image[row].nonzero().flatten():
                scores[row, :, query, key] += strength * scores[row, :, query, key].abs().mean()
        return scores

    return {"change": only(change)}


def vaf_by_hand(image, real, image_factor, system_factor):
    def change(layer, scores):
        length = image.shape[1]
        for row in range(len(image)):
            if image[row].any():
                first = int(image[row].nonzero()[0])
                system = [key for key in range(first) if real[row, key]]
                for query in range(first, scores.shape[2]):
                    if query >= length or not image[row, query]:
                        scores[row, :, query, :length][:, image[row]] *= image_factor
                        scores[row, :, query, system] *= system_factor
        return scores

    return {"change": only(change)}


def spin_by_hand(image, real, kept, factor):
    def heads(layer, scores, output):
        if layer in LAYERS:
            for row, query in late(image, scores):
                looks = scores[row, :, query, : image.shape[1]][:, image[row]].sum(-1).tolist()
                most = sorted(looks, reverse=True)[: int(kept * len(looks))]
                for head, look in enumerate(looks):
                    output[row, query, head] *= 1 if look in most else factor
        return output

    return {"output": heads}


BY_HAND = {"pai": pai_by_hand, "vaf": vaf_by_hand, "head_guidance": head_guidance_by_hand, "spin": spin_by_hand}


def late(image, scores):
    """Rows with an image, and of each the prompt's last token and all after it."""
    for row in range(len(image)):
        for query in range(image.shape[1] - 1, scores.shape[2]):
            if image[row].any():
                yield row, query


def only(change):
    return lambda layer, scores: change(layer, scores.clone()) if layer in LAYERS else scores


def slowly(tiny, method, options):
    """Decoding without a cache, in a model with eager attention, and PAI's run without the image beside it."""
    inputs, fields = tiny.prompt().inputs, STRONG[method]
    tokens, steps, length = inputs["input_ids"], [], inputs["input_ids"].shape[1]
    image, real = tiny.visual(inputs), inputs["attention_mask"].bool()
    text = without_images(tiny.model, inputs) if method == "pai" else None
    torch.manual_seed(1)
    for _ in range(STEPS):
        with attention_by_hand(tiny.model, **BY_HAND[method](image, real, **fields)):
            clean = whole(tiny.model, inputs, tokens).logits[:, -1].double()
        clean[:, SUPPRESSED] = -torch.inf
        clean = clean.masked_fill(clean < LEAST, -torch.inf)
        scores = clean.log_softmax(-1)
        if text is not None:
            said = torch.cat([text["input_ids"], tokens[:, length:]], dim=1)
            other = whole(tiny.model, text, said).logits[:, -1].double().masked_fill(clean == -torch.inf, 0)
            other[:, SUPPRESSED] = other[:, SUPPRESSED].fill_(0)
            # The run without the image has all tokens; the guided scores are those of tokens that are allowed.
            guided = fields["guidance"] * (scores - other) + other
            guided = guided.masked_fill(scores.exp() < fields["plausibility"] * scores.exp().amax(-1, True), -torch.inf)
            scores = torch.where(image.any(-1)[:, None], guided.log_softmax(-1), scores)
        if options["do_sample"]:
            chosen = torch.multinomial((scores.float() / options["temperature"]).softmax(-1), 1)
        else:
            chosen = scores.argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, chosen], dim=1)
        steps.append(scores)
    return tokens[:, length:], torch.stack(steps, dim=1)


def assert_equal_scores(found, expected, bound=1e-5):
    kept = expected.isfinite()
    assert torch.equal(found > LEAST, kept)
    found = found.double().masked_fill(~kept, -torch.inf).log_softmax(-1)
    assert (found - expected)[kept].abs().max() < bound * expected[kept].abs().max()


WAYS = [
    ("llava", "sdpa", GREEDY),
    ("llava", "eager", GREEDY),
    ("llava", "sdpa", SAMPLING),
    ("qwen2_vl", "sdpa", GREEDY),
    ("chameleon", "sdpa", GREEDY),
    ("internvl", "eager", SAMPLING),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("family", "attention", "options"), WAYS, ids=lambda one: one if isinstance(one, str) else "")
def test_every_step_equals_the_formula_without_caches(method, family, attention, options):
    """In a left-padded batch of one image, two images and none."""
    expected, steps = slowly(made(family, "eager"), method, options)
    tiny = made(family, attention)
    engines = ({"engine": "processor"}, {"engine": "joined"}) if method == "pai" else ({},)
    for engine in engines:
        tokens, scores = said(tiny, (method, {**STRONG[method], "layers": LAYERS, **engine}), **options)
        assert torch.equal(tokens, expected)
        assert_equal_scores(scores, steps)
    plain = said(tiny, **options)[1][:2, 0].log_softmax(-1)
    allowed = (plain > LEAST) & steps[:2, 0].isfinite()
    assert (steps[:2, 0] - plain)[allowed].abs().max() > 1e-2, "it does something"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_no_strength_is_the_base_to_the_bit_and_almost_none_nearly(method, attention):
    """Almost none recomputes the rows: equal to about 1e-6 of the scores, since sums are taken in another order."""
    tiny = made("llava", attention)
    for options in (GREEDY, SAMPLING):
        base, expected = said(tiny, **options)
        for fields in OFF[method]:
            tokens, scores = said(tiny, (method, fields), **options)
            assert torch.equal(tokens, base)
            assert torch.equal(scores, expected)
        tokens, scores = said(tiny, (method, {**ALMOST[method], "layers": range(BLOCKS)}), **options)
        assert torch.equal(tokens, base)
        assert (scores - expected).nan_to_num(0).abs().max() < 2e-6 * expected[expected > LEAST].abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_a_row_of_text_beside_images_is_the_base_to_the_bit(llava, method):
    """Unless PAI's two runs are joined: kernels sum a larger batch in another order."""
    base, plain = said(llava)
    fields = {**STRONG[method], "layers": range(BLOCKS), **({"engine": "processor"} if method == "pai" else {})}
    tokens, scores = said(llava, (method, fields))
    assert torch.equal(tokens[2], base[2])
    assert torch.equal(scores[2], plain[2])
    assert not torch.allclose(scores[:2], plain[:2], atol=1e-2)


CACHES = [{"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 9}]


@pytest.mark.parametrize("options", CACHES, ids=lambda one: next(iter(one)))
@pytest.mark.parametrize("method", METHODS)
def test_every_cache_and_a_prompt_in_parts_say_the_same(llava, method, options):
    fields = {**STRONG[method], "layers": range(BLOCKS)}
    if "prefill_chunk_size" in options:
        # A run beside it would see the prompt at once.
        fields |= {"guidance": 1} if method == "pai" else {}
    expected, steps = said(llava, (method, fields))
    tokens, scores = said(llava, (method, fields), **options)
    assert torch.equal(tokens, expected)
    assert (scores - steps).nan_to_num(0).abs().max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_beams_are_looked_at_each_for_itself(llava, method):
    method = method, {**STRONG[method], "layers": range(BLOCKS)}
    found = [said(llava, method, num_beams=3, **options) for options in ({}, {"use_cache": False})]
    assert torch.equal(found[0][0], found[1][0])
    assert (found[0][1] - found[1][1]).nan_to_num(0).abs().max() < 1e-4
    assert not torch.equal(found[0][1][:6], said(llava, num_beams=3)[1][:6])


@pytest.mark.parametrize("method", ["pai", "head_guidance", "spin"])
def test_a_conversation_goes_on_from_its_cache(llava, method):
    """Images of an earlier turn count; what the cache holds was made before."""
    method = method, {**STRONG[method], "layers": range(BLOCKS), **({"guidance": 1} if method == "pai" else {})}
    inputs = llava.prompt([("USER : two of <image> describe <image> yes", [2, 3])]).inputs
    expected = said(llava, method, inputs=inputs)
    cut = int(llava.visual(inputs).nonzero()[25, 1])
    assert not llava.visual(inputs)[:, :cut].all()
    cache = DynamicCache()
    with torch.no_grad():
        first = {name: value[:, :cut] for name, value in inputs.items() if value.ndim == 2}
        llava.model(**first, pixel_values=inputs["pixel_values"][:1], past_key_values=cache, use_cache=True)
    later = {**inputs, "pixel_values": inputs["pixel_values"][1:]}
    found = said(llava, method, inputs=later, past_key_values=copy.deepcopy(cache))
    assert torch.equal(found[0], expected[0])
    assert (found[1] - expected[1]).nan_to_num(0).abs().max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_a_loop_of_ones_own_may_call_generate_again(llava, method):
    """It hands on the processors, and with them goes what the method does to attention; without them, neither."""
    fields = {**STRONG[method], "layers": range(BLOCKS), **({"guidance": 1} if method == "pai" else {})}
    inputs = llava.prompt(PROMPTS[:1]).inputs

    def loop(handed):
        def one_by_one(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
            mine = list(logits_processor) if handed else []
            for _ in range(STEPS):
                given = {**inputs, "input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
                input_ids = model.generate(**given, max_new_tokens=1, do_sample=False, logits_processor=mine)
            return input_ids

        return one_by_one

    expected = said(llava, (method, fields), inputs=inputs)[1]
    scores = said(llava, (method, fields), inputs=inputs, custom_generate=loop(True))[1]
    assert (scores - expected).nan_to_num(0).abs().max() < 1e-4
    plain = llava.model.generate(**inputs, **GREEDY, custom_generate=loop(False))
    with scr.patch(llava.model, method, **fields):
        found = llava.model.generate(**inputs, **GREEDY, custom_generate=loop(False))
    assert torch.equal(found, plain)


@pytest.mark.parametrize("method", [*METHODS, "only"])
def test_in_bfloat16_too_what_is_not_changed_is_the_base_to_the_bit(method):
    tiny = made("llava")
    tiny.model.to(torch.bfloat16)
    inputs = tiny.prompt().inputs
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    plain = said(tiny, inputs=inputs)[1]
    fields = {"plausibility": 0} if method == "only" else {**STRONG[method], "layers": range(BLOCKS)}
    fields |= {"engine": "processor"} if method == "pai" else {}
    scores = said(tiny, (method, fields), inputs=inputs)[1]
    assert not scores.isnan().any()
    assert torch.equal(scores[2], plain[2])
    assert not torch.allclose(scores[:2, 0].nan_to_num(0), plain[:2, 0].nan_to_num(0), atol=0.05)


def test_pai_refuses_a_cache_for_its_second_run(llava):
    inputs = llava.prompt(PROMPTS[:1]).inputs
    with torch.no_grad():
        cache = llava.model(**inputs, use_cache=True).past_key_values
    with pytest.raises(scr.UnsupportedGenerationError, match="past_key_values of"), scr.patch(llava.model, "pai"):
        llava.model.generate(**inputs, **GREEDY, past_key_values=cache)


def test_the_parts_of_pai_are_off_by_themselves(llava):
    runs = []
    handle = llava.model.lm_head.register_forward_hook(lambda module, args, output: runs.append(len(output)))
    try:
        for fields, expected in (
            ({"guidance": 1}, [3] * 3),
            ({"strength": 0}, [3, 3, 6, 6]),
            ({}, [3, 3, 6, 6]),
            ({"strength": 0, "guidance": 1}, [3] * 3),
        ):
            runs.clear()
            said(llava, ("pai", fields))
            assert runs == expected, fields
    finally:
        handle.remove()
    only_guided = said(llava, ("pai", {"strength": 0, "guidance": 1.5}))[1]
    only_looked = said(llava, ("pai", {"strength": 1, "guidance": 1}))[1]
    both = said(llava, ("pai", {"strength": 1, "guidance": 1.5}))[1]
    for one in (only_guided, only_looked):
        assert not torch.allclose(one[:2].softmax(-1), both[:2].softmax(-1), atol=1e-3)
    assert (only_guided[0] == -torch.inf).sum() > len(SUPPRESSED) * STEPS, "implausible tokens are banned"
    assert (only_looked[0] == -torch.inf).sum() == len(SUPPRESSED) * STEPS


@pytest.mark.parametrize(
    ("method", "of_32", "of_28", "of_4"),
    [
        ("pai", range(2, 32), range(2, 28), range(4)),
        ("vaf", range(9, 15), range(9, 15), range(1, 2)),
        ("head_guidance", range(5, 18), range(5, 18), range(1, 2)),
        ("spin", range(32), range(28), range(4)),
    ],
)
def test_the_published_blocks_go_by_the_models_depth(llava, method, of_32, of_28, of_4):
    for blocks, expected in ((32, of_32), (28, of_28), (4, of_4)):
        model = llava.model if blocks == 4 else TINY["llava"](layers=blocks).model
        assert scr.patch(model, method).config.layers == expected
    with pytest.raises(scr.ConfigError, match="layers leaves the model"):
        scr.patch(llava.model, method, layers=range(2, 5))


def test_the_published_values_are_the_defaults():
    """PAI: github.com/LALBJ/PAI; ClearSight; SPIN's for captions; "Devils in middle layers"."""
    pai = PAIConfig().to_dict()
    assert {name: pai[name] for name in ("strength", "guidance", "plausibility")} == {
        "strength": 0.2,
        "guidance": 1.1,
        "plausibility": 0.1,
    }
    assert VAFConfig().to_dict() == {"image_factor": 1.15, "system_factor": 0.95, "layers": None}
    assert scr.methods.HeadGuidanceConfig().to_dict() == {"strength": 0.5, "layers": None}
    assert SPINConfig().to_dict() == {"kept": 0.95, "factor": 0.08, "layers": None}


@pytest.mark.parametrize(("kept", "heads"), [(0.01, 1), (0.49, 1), (0.5, 2), (0.74, 2), (0.75, 3), (0.99, 3)])
def test_a_share_of_heads_is_rounded_down_and_one_stays(llava, kept, heads):
    """With the factor at 0 the heads that are turned down give nothing."""
    seen = []
    handle = llava.layers[2].self_attn.o_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        said(llava, ("spin", {"kept": kept, "factor": 0, "layers": range(2, 3)}))
    finally:
        handle.remove()
    for given in seen:
        of_heads = given[:2, -1].unflatten(-1, (4, -1)).abs().sum(-1)
        assert ((of_heads > 0).sum(-1) == heads).all()


def test_methods_that_look_at_images_add_up_and_nest_with_scr(llava):
    """Each goes on from what the others did, in the same blocks; taken off, the model is as it was."""
    before, base = everything_on(llava.model), said(llava)
    both = []
    for order in (("vaf", "head_guidance"), ("head_guidance", "vaf")):
        with scr.patch(llava.model, order[0], **STRONG[order[0]], layers=LAYERS):
            both.append(said(llava, (order[1], {**STRONG[order[1]], "layers": LAYERS}))[1])
    alone = [said(llava, (name, {**STRONG[name], "layers": LAYERS}))[1] for name in ("vaf", "head_guidance")]
    for one in both:
        for other in alone:
            assert not torch.allclose(one[:2], other[:2], atol=1e-3)
    for name in METHODS:
        with scr.patch(llava.model, "scr", **scr.get_method("scr").example) as edit:
            nested = said(llava, (name, STRONG[name]))[1]
            edited = said(llava)[1]
            assert len(edit.traces) >= 6
        assert not torch.allclose(nested[:2], edited[:2], atol=1e-3)
        assert torch.allclose(nested[2], edited[2], atol=1e-6)
    assert everything_on(llava.model) == before
    assert torch.equal(said(llava)[1], base[1])
