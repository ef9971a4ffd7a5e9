"""Every method of the table on every family: it runs, leaves text alone, comes off without a trace, and combines."""

import contextlib
import functools
import itertools
import json

import pytest
import torch
from answers import Spy
from test_patch_undo import everything_on
from tiny_families import PROMPTS, REFUSED, TINY, VOCABULARY

import scr

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = scr.list_methods()
ON_LOGITS = [name for name in METHODS if "activations" not in scr.get_method(name).requires]
SUPPRESSED = [VOCABULARY["<image>"], VOCABULARY["<video>"]]
GREEDY = {"max_new_tokens": 2, "do_sample": False, "suppress_tokens": SUPPRESSED}
WAYS = {
    "greedy": {},
    "sample": {"do_sample": True, "top_k": 0},
    "beams": {"num_beams": 2},
}
TEXT = [("is there a dog", []), ("USER : no", [])]


def way_of(*methods):
    """A way in which all of them can generate."""
    return "greedy" if all(scr.get_method(method).least_beams == 1 for method in methods) else "beams"


def usual(common, *case):
    """A case of a product; the commands run the common ones alone."""
    return pytest.param(*case, marks=() if common else pytest.mark.slow)


# The first family in full, each of the others in one way or another.
CASES = [
    usual(not row or (row + column + way) % len(WAYS) == 0, family, method, name)
    for (row, family), (column, method), (way, name) in itertools.product(*map(enumerate, (TINY, METHODS, WAYS)))
    if way_of(method) in ("greedy", name)
]
# Each with SCR, and with its neighbours in the table.
PAIRS = [
    usual("scr" in pair or abs(METHODS.index(pair[0]) - METHODS.index(pair[1])) == 1, *pair)
    for pair in itertools.permutations(METHODS, 2)
]


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request):
    made = TINY[request.param](layers=4)
    made.name = request.param
    made.model.generate(**made.prompt().inputs, **GREEDY)  # transformers leaves hooks of its own at the first call
    return made


@pytest.fixture(scope="module")
def llava():
    made = TINY["llava"](layers=4)
    made.model.generate(**made.prompt().inputs, **GREEDY)
    return made


def patched(tiny, method, **more):
    return scr.patch(tiny.model, method, **{**scr.get_method(method).example, **more})


def said(tiny, way="greedy", prompts=PROMPTS, steps=1):
    """The answers, and the scores of the first steps behind all methods."""
    inputs, spy = tiny.prompt(prompts).inputs, Spy()
    torch.manual_seed(2)
    tokens = tiny.model.generate(**inputs, **{**GREEDY, **WAYS[way]}, logits_processor=[spy])
    return tokens[:, inputs["input_ids"].shape[1] :], torch.cat(spy.scores[:steps], dim=-1)


@functools.cache
def base_of(tiny, way="greedy", text=False):
    return said(tiny, way, TEXT if text else PROMPTS)


@functools.cache
def alone_of(tiny, method, way):
    with patched(tiny, method):
        return said(tiny, way, steps=2)[1]


@pytest.mark.parametrize(("tiny", "method", "way"), CASES, indirect=["tiny"])
def test_it_runs_changes_images_alone_and_leaves_nothing_behind(tiny, method, way):
    if way == "beams":
        tiny.require_copies()
    before, (base, scores) = everything_on(tiny.model), base_of(tiny, way)
    if tiny.name in REFUSED.get(method, ()):
        with pytest.raises(scr.SCRError, match=r"got .*; expected .*"), patched(tiny, method):
            said(tiny, way)
        assert everything_on(tiny.model) == before
        return
    with patched(tiny, method) as handle:
        found, changed = said(tiny, way)
    scored = len(scores) // 3
    assert torch.equal(found[2], base[2]), "the row of text alone"
    assert (changed[2 * scored :] - scores[2 * scored :]).nan_to_num(0).abs().max() < 1e-4
    assert not changed.isnan().any()
    for row in (0, scored):
        assert not torch.allclose(changed[row], scores[row], atol=1e-3), "an image"
    assert handle.name == method
    assert everything_on(tiny.model) == before
    again, scores_again = said(tiny, way)
    assert torch.equal(again, base)
    assert torch.equal(scores_again, scores)


@pytest.mark.parametrize("method", METHODS)
def test_a_prompt_of_text_alone_is_the_base_to_the_bit(tiny, method):
    if tiny.name in REFUSED.get(method, ()):
        pytest.skip("it refuses the model")
    with patched(tiny, method):
        found, scores = said(tiny, prompts=TEXT)
    assert torch.equal(found, base_of(tiny, text=True)[0])
    assert torch.equal(scores, base_of(tiny, text=True)[1])


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=str)
def test_two_methods_combine_and_come_off_in_any_order(llava, first, second):
    way = way_of(first, second)
    before, alone = everything_on(llava.model), alone_of(llava, second, way)
    with contextlib.ExitStack() as stack:
        one, other = (stack.enter_context(removing(patched(llava, name).install())) for name in (first, second))
        assert not torch.equal(said(llava, way, steps=2)[1], alone)
        one.remove()
        assert torch.equal(said(llava, way, steps=2)[1], alone), "the second still acts, and alone"
        other.remove()
    assert "generate" not in vars(llava.model)
    assert everything_on(llava.model) == before
    assert torch.equal(said(llava)[1], base_of(llava)[1])


@contextlib.contextmanager
def removing(handle):
    try:
        yield handle
    finally:
        handle.remove()


def test_three_methods_and_two_models(llava):
    stranger = TINY["llava"](layers=4, seed=9)
    untouched, base = said(stranger)[1], said(llava)[1]
    handles = [patched(llava, name).install() for name in ("yes_shift", "scr", "vcd")]
    assert torch.equal(said(stranger)[1], untouched)
    for handle in (handles[1], handles[0], handles[2]):
        assert not torch.equal(said(llava)[1], base)
        handle.remove()
        handle.remove()
    assert torch.equal(said(llava)[1], base)
    assert "generate" not in vars(llava.model)


@pytest.mark.parametrize("edited", [True, False])
@pytest.mark.parametrize("perturbation", ["gaussian", "features"])
def test_dual_purification_is_one_thing_in_every_order_and_engine(tiny, edited, perturbation):
    found, traces = [], []
    for engine, outer in itertools.product(("processor", "joined"), ("scr", "purified")):
        purify = patched(tiny, "purified", engine=engine, edited=edited, perturbation=perturbation)
        edit = patched(tiny, "scr", keep_traces=99)
        with purify if outer == "purified" else edit, edit if outer == "purified" else purify:
            found.append(said(tiny))
            traces.append(len(edit.traces))
    for tokens, scores in found[1:]:
        assert torch.equal(tokens, found[0][0])
        assert torch.allclose(scores, found[0][1], atol=1e-4)
    assert traces == [6 if edited else 3] * 4, "a diagnostic of every image for each edited branch"


def test_the_noisy_branch_of_dual_purification_is_edited_only_if_asked(tiny):
    scores, rows = {}, slice(2)  # those with an image
    for edited in (True, False):
        with patched(tiny, "scr"), patched(tiny, "purified", edited=edited, engine="joined"):
            scores[edited] = said(tiny)[1]
    with patched(tiny, "scr"):
        clean = said(tiny)[1]
    with patched(tiny, "purified", engine="joined"):
        unedited = said(tiny)[1]
    kept = (scores[True] > -1e30) & (base_of(tiny)[1] > -1e30)
    ours, edited_clean, purified, stock, both = (
        one.masked_fill(~kept, -torch.inf).log_softmax(-1)[rows]
        for one in (scores[False], clean, unedited, base_of(tiny)[1], scores[True])
    )
    # purified = 3·base − 2·noisy, so 3·edited − 2·noisy = purified + 3·(edited − base), up to a constant.
    change = torch.where(kept[rows], edited_clean - stock, 0)
    expected = (purified + 3 * change).log_softmax(-1)
    assert (ours - expected)[kept[rows]].abs().max() < 1e-4
    assert (ours - both)[kept[rows]].abs().max() > 1e-2


CONFIGS = {
    "vcd": [{"noise_step": 900}, {"contrast": 0.2, "plausibility": 0.0}],
    "purified": [
        {"image_keep": 0.7, "contrast": 1.0},
        {"strength": {"name": "quantile", "thresholds": [-2, -1, -0.5]}, "confidence": "entropy"},
        {"perturbation": {"name": "mask", "share": 0.2, "seed": 3}, "space": "logprobs", "only_below": -0.1},
        {"perturbation": "features", "strength": "rolling", "edited": False, "engine": "processor"},
        {"strength": "continuous", "plausibility": 1},
    ],
    "dola": [{"layers": [0, 3]}, {"layers": "high", "plausibility": 0.0}],
    "scr": [{"layers": range(1, 3), "attention_layers": [0, 2]}],
    "yes_shift": [{"shift": -2, "no_tokens": [4]}],
}


@pytest.mark.parametrize("method", METHODS)
def test_configurations_go_through_json(method):
    kind = scr.get_method(method).config_class
    for fields in [scr.get_method(method).example, *CONFIGS.get(method, [])]:
        config = kind.from_dict(fields)
        again = kind.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config
        assert type(again) is type(config)
        assert hash(again) == hash(config)
        assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_by_name_and_by_configuration_are_the_same(llava, method):
    by_name, entry = patched(llava, method), scr.get_method(method)
    assert isinstance(by_name.config, entry.config_class)
    config = entry.configure(entry.example)
    by_config = scr.patch(llava.model, config)
    assert by_config.config == by_name.config
    # A preset's configuration is that of the method which it presets.
    assert by_config.name == entry.method.name
    assert not scr.get_method(entry.method.name).preset
    for name, value in entry.preset.items():
        assert getattr(by_name.config, name) == value
        with pytest.raises(scr.ConfigError, match=f"{method} with another {name}"):
            patched(llava, method, **{name: f"no {value}"})
    with pytest.raises(scr.ConfigError, match="unknown field"):
        patched(llava, method, no_such_field=1)
    with pytest.raises(scr.ConfigError, match="got both"):
        scr.patch(llava.model, config, seed=1)


def test_the_published_values_are_the_defaults():
    assert scr.PurifiedConfig().to_dict() == {
        "perturbation": {"name": "gaussian", "seed": 0, "image_keep": 0.3},
        "strength": {"name": "fixed", "contrast": 0.6},
        "plausibility": 0.0,
        "confidence": "max_logprob",
        "space": "logits",
        "only_below": None,
        "edited": True,
        "engine": "auto",
    }
    assert scr.VCDConfig().to_dict() == {
        **scr.PurifiedConfig().to_dict(),
        "perturbation": {"name": "diffusion", "seed": 0, "noise_step": 500},
        "strength": {"name": "fixed", "contrast": 1.0},
        "plausibility": 0.1,
    }
    assert scr.DoLaConfig().to_dict() == {"layers": "low", "plausibility": 0.1}
    assert scr.PlausibilityOnlyConfig().to_dict() == {"plausibility": 0.1}
    assert scr.YesShiftConfig(shift=1, no_tokens=[4]).to_dict() == {"shift": 1, "no_tokens": [4]}


def test_short_forms_set_the_long_ones():
    assert scr.PurifiedConfig(contrast=0.2) == scr.PurifiedConfig(strength={"name": "fixed", "contrast": 0.2})
    assert scr.PurifiedConfig(image_keep=0.2).perturbation.image_keep == 0.2
    assert scr.VCDConfig(noise_step=900).perturbation.noise_step == 900
    for fields, short in (
        ({"contrast": 1, "strength": "continuous"}, "contrast and strength"),
        ({"image_keep": 0.5, "perturbation": "blur"}, "image_keep and perturbation"),
    ):
        with pytest.raises(scr.ConfigError, match=f"{short}: got both"):
            scr.PurifiedConfig(**fields)
    with pytest.raises(scr.ConfigError, match="noise_step and perturbation: got both"):
        scr.VCDConfig(noise_step=1, perturbation="blank")


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        ("purified", {"contrast": -1}, "contrast out of range"),
        ("purified", {"contrast": float("nan")}, "contrast out of range"),
        ("purified", {"image_keep": 1.2}, "image_keep out of range"),
        ("purified", {"perturbation": "blurr"}, "Did you mean 'blur'"),
        ("purified", {"perturbation": 3}, "perturbation of another kind: got 3; expected a Perturbation, its name"),
        ("purified", {"perturbation": {"sigma": 1}}, "unknown perturbation: got None"),
        ("purified", {"strength": "quantile"}, "thresholds"),
        ("purified", {"strength": scr.perturb.GaussianBlur()}, "strength of another kind: got"),
        ("purified", {"plausibility": 1.1}, "plausibility out of range"),
        ("purified", {"only_below": float("nan")}, "only_below out of range"),
        ("purified", {"confidence": "logprob"}, "unknown confidence"),
        ("purified", {"space": "probs"}, "unknown space"),
        ("purified", {"engine": "double"}, "unknown engine"),
        ("purified", {"edited": None}, "unknown edited"),
        ("vcd", {"image_keep": 0.5}, "unknown field"),
        ("vcd", {"noise_step": 1000}, "noise_step out of range"),
        ("vcd", {"noise_step": 1.5}, "noise_step out of range"),
        ("dola", {"layers": "middle"}, "layers of another kind: got 'middle'"),
        ("plausibility_only", {"plausibility": -0.1}, "plausibility out of range"),
        ("yes_shift", {"shift": 1.0}, "no_tokens"),
    ],
)
def test_a_bad_field_is_named_and_the_model_untouched(llava, method, fields, message):
    before = everything_on(llava.model)
    with pytest.raises(scr.ConfigError, match=message):
        scr.patch(llava.model, method, **fields)
    assert everything_on(llava.model) == before


@pytest.mark.parametrize("method", ON_LOGITS)
def test_assisted_decoding_is_refused_and_the_model_untouched(llava, method):
    before, draft = everything_on(llava.model), TINY["llava"](layers=4, seed=5).model
    inputs = llava.prompt(PROMPTS[:1]).inputs
    for name, value in {"prompt_lookup_num_tokens": 2, "assistant_model": draft}.items():
        message = f"{method} takes one token at a time: got {name}.*Leave {name} out"
        with pytest.raises(scr.UnsupportedGenerationError, match=message), patched(llava, method):
            llava.model.generate(**inputs, **GREEDY, **{name: value})
        assert everything_on(llava.model) == before
    text = llava.prompt([("is there a dog", [])]).inputs
    with patched(llava, method):
        looked_up = llava.model.generate(**text, **GREEDY, prompt_lookup_num_tokens=2)
    assert torch.equal(looked_up, llava.model.generate(**text, **GREEDY)), "text alone needs no method"


@pytest.mark.parametrize("method", ON_LOGITS)
def test_a_model_without_a_language_head_is_refused(llava, method):
    with pytest.raises(scr.UnsupportedModelError, match="language head"):
        scr.patch(llava.model.model, method, **scr.get_method(method).example)


@pytest.mark.parametrize("method", ON_LOGITS)
def test_a_call_that_was_refused_was_still_seen(llava, method):
    """No warning of a model that was never called, where the caller has just got an error from the call."""
    inputs = llava.prompt(PROMPTS[:1]).inputs
    with patched(llava, method), pytest.raises(scr.UnsupportedGenerationError):
        llava.model.generate(**inputs, **GREEDY, prompt_lookup_num_tokens=2)


@pytest.mark.parametrize("method", ON_LOGITS)
def test_a_model_that_was_never_asked_is_warned_of(llava, method):
    with pytest.warns(UserWarning, match=f"no generate was seen under '{method}'"), patched(llava, method):
        llava.model(**llava.prompt().inputs)
    with patched(llava, method):
        said(llava, prompts=TEXT)  # is enough


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_says_what_its_prompts_say_alone(llava, method):
    with patched(llava, method):
        batch = said(llava, way_of(method))[0]
        for row, prompt in enumerate(PROMPTS):
            assert torch.equal(said(llava, way_of(method), [prompt])[0][0], batch[row])
