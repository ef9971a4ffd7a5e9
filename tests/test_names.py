"""What `scr.patch` takes for a method and its fields: any case, none, combinations, and what papers call them."""

from __future__ import annotations

import gc
import inspect
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from tiny import inputs_for, tiny_llava
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import scr
from scr import BASELINE, CombinedConfig, ConfigError, UnusedPatchWarning, fields_by_part, method_parts

PROMPT = [("USER: <image> is there a dog ? ASSISTANT:", [1])]
YES_SHIFT = {"shift": 0.5, "no_tokens": [7]}


@pytest.fixture(scope="module")
def tiny():
    return tiny_llava()


def scores(model, inputs, **arguments):
    out = model.generate(
        **inputs, max_new_tokens=3, do_sample=False, output_logits=True, output_scores=True,
        return_dict_in_generate=True, **arguments,
    )  # fmt: skip
    return torch.stack([*out.logits, *out.scores])


@pytest.mark.parametrize("name", scr.list_methods())
def test_case_does_not_matter(tiny, name):
    fields = scr.get_method(name).example
    for spelt in (name.upper(), name.title()):
        assert scr.patch(tiny[0], spelt, **fields).name == name
        assert scr.patch(tiny[0], spelt, **fields).config == scr.patch(tiny[0], name, **fields).config
        assert scr.get_method(spelt) is scr.get_method(name)


@pytest.mark.parametrize("name", ["none", "None"])
def test_none_is_the_model_as_it_is(tiny, name):
    model, processor = tiny
    inputs = inputs_for(processor, PROMPT)
    before, state = scores(model, inputs), {key: id(value) for key, value in vars(model).items()}
    patched = scr.patch(model, name)
    assert (patched.name, patched.parts, patched.config.to_dict()) == (BASELINE, (), {})
    with patched, patched.recording() as recorded:
        assert {key: id(value) for key, value in vars(model).items()} == state
        assert torch.equal(scores(model, inputs), before)
    assert (list(recorded), patched.traces) == ([], [])


def test_a_combination_is_its_parts_nested(tiny):
    model, processor = tiny
    inputs = inputs_for(processor, PROMPT)
    before = scores(model, inputs)
    with scr.patch(model, "scr", num_sources=4, scale=1.5), scr.patch(model, "purified", contrast=0.4):
        by_hand = scores(model, inputs)
    fields = {"scr.num_sources": 4, "SCR.scale": 1.5, "purified.contrast": 0.4}
    combined = scr.patch(model, "SCR+purified", **fields)
    with combined, combined.recording() as recorded:
        assert torch.equal(scores(model, inputs), by_hand)
        with pytest.raises(scr.AlreadyPatchedError, match="'purified'"):
            scr.patch(model, "purified").install()
    assert not torch.equal(by_hand, before)
    assert torch.equal(scores(model, inputs), before)
    assert [part.name for part in combined.parts] == ["scr", "purified"]
    assert len(recorded) == len(combined.traces) == 2  # of the clean branch and of the noisy one
    assert recorded[0] is combined.traces[0]
    assert recorded[0:2] == combined.traces
    # Its configuration is what records hold, and makes the same patch again.
    stored = combined.config.to_dict()
    assert {part: stored[part][name] for part, name in (("scr", "scale"), ("purified", "engine"))} == {
        "scr": 1.5,
        "purified": "auto",
    }
    assert CombinedConfig.from_dict(stored) == combined.config
    assert scr.patch(model, combined.config).config == combined.config


def test_a_combination_goes_on_as_a_whole_or_not_at_all(tiny):
    model, processor = tiny
    inputs = inputs_for(processor, PROMPT)
    before = scores(model, inputs)
    with scr.patch(model, "vcd") as outer:
        with pytest.raises(scr.AlreadyPatchedError, match="'vcd'"):
            scr.patch(model, "scr+vcd").install()
        scr.patch(model, "scr").install().remove()  # so it is not on the model
        scores(model, inputs)
    assert "not installed" in repr(outer)
    handle = scr.patch(model, "scr+dola").install()
    assert ", installed" in repr(handle)
    with pytest.raises(scr.AlreadyPatchedError, match="'scr'"):
        handle.install()
    assert ", installed" in repr(handle)
    handle.remove()
    handle.remove()
    assert torch.equal(scores(model, inputs), before)
    with pytest.warns(UserWarning, match="no generate was seen under 'dola'"), pytest.warns(match="'scr'"), handle:
        pass


def test_names_and_fields_that_cannot_be(tiny):
    assert method_parts("none") == ()
    assert method_parts("Scr+Noise_Control") == ("scr", "noise_control")
    for name, message in {
        "scr+none": "baseline in a combination: got 'scr\\+none'",
        "scr+SCR": "a method twice in a combination: got 'scr\\+SCR'",
        "scr+vdc": r"unknown method: got 'vdc' in 'scr\+vdc'; expected one of scr,.*Did you mean 'vcd'",
        "nnone": "expected one of none, scr,.*Did you mean 'none'",
        "": "unknown method: got ''",
    }.items():
        with pytest.raises(ConfigError, match=message):
            method_parts(name)
    for wrong in (None, 3, ["scr"], scr.SCRConfig):
        with pytest.raises(ConfigError, match="a method that is no name"):
            scr.patch(tiny[0], wrong)
    assert fields_by_part(("scr", "vcd"), {"a": 1, "vcd.a": 2}) == {"scr": {"a": 1}, "vcd": {"a": 2}}
    assert fields_by_part((), {}) == {}
    with pytest.raises(ConfigError, match="settings without a method"):
        fields_by_part((), {"a": 1})
    with pytest.raises(ConfigError, match=r"a method that is not run: got 'vdc.a'.*Did you mean 'vcd'"):
        fields_by_part(("scr", "vcd"), {"vdc.a": 1})


@pytest.mark.parametrize(
    ("method", "given", "ours"),
    [
        ("scr", "lambda_", "SCR's λ is `scale`."),
        ("scr", "lam", "SCR's λ is `scale`."),
        ("scr", "λ", "SCR's λ is `scale`."),
        ("uniform_smooth", "K", "SCR's K is `num_sources`."),
        ("purified", "alpha", "SEED's α is `image_keep`."),
        ("purified", "beta", "SEED's β is `contrast`."),
        ("vcd", "alpha", "VCD's α is `contrast`."),
        ("vcd", "cd_beta", "VCD's cd_beta is `plausibility`."),
        ("dola", "relative_top", "DoLa's relative_top is `plausibility`."),
        ("plausibility_only", "beta", "VCD's β is `plausibility`."),
    ],
)
def test_a_papers_name_is_answered_with_ours(tiny, method, given, ours):
    with pytest.raises(ConfigError, match=re.escape(f"got '{given}'") + ".*" + re.escape(ours)):
        scr.patch(tiny[0], method, **{given: 1})


def test_symbols_name_fields():
    for name in scr.list_methods():
        kind = scr.get_method(name).config_class
        for symbol, field in kind.symbols.items():
            assert re.fullmatch(r"[\w ]+'s? \S+", symbol)
            with pytest.raises(ConfigError, match=re.escape(f"{symbol} is `{field}`.")):
                kind.from_dict({symbol.split()[-1]: 1})
            assert field in inspect.signature(kind).parameters


def test_yes_shift_names_the_command_that_finds_it(tiny):
    with pytest.raises(ConfigError, match=r"missing: got \['no_tokens'\]; expected \['shift'\].*calibrate yes-shift"):
        scr.patch(tiny[0], "yes_shift", no_tokens=[7])


@pytest.mark.parametrize(
    "model",
    [
        lambda: LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                             num_attention_heads=1)),
        lambda: BertModel(BertConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                     num_attention_heads=1)),
        lambda: tiny_llava()[0].model.language_model,
    ],
)  # fmt: skip
def test_a_text_model_is_told_that_it_is_one(model):
    made = model()
    with pytest.raises(scr.UnsupportedModelError, match=f"text-only model: got {type(made).__name__}") as caught:
        scr.patch(made)
    assert "Did you mean" not in str(caught.value)


def test_a_patch_that_is_never_used_warns(tiny):
    model, _ = tiny
    for method in ("scr", "purified", "scr+purified"):
        with pytest.warns(UnusedPatchWarning, match=re.escape(f"the patch '{method}' was never put on")) as caught:
            scr.patch(model, method)
        assert [one.filename for one in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make in (
            lambda: scr.patch(model, "none"),
            lambda: scr.patch(model).install().remove(),
            lambda: scr.patch(model, "scr+purified").install().remove(),
            lambda: scr.patch(model).config,
            lambda: scr.patch(model, "scr+purified").config,
            lambda: scr.patch(model).name,
        ):
            make()
        for fields in ({"scal": 2}, {"layers": range(9)}):  # found by the configuration, and by the model
            with pytest.raises(ConfigError):
                scr.patch(model, "purified+scr", **fields)
        handle = scr.patch(model, "vcd").install()
        with pytest.raises(scr.AlreadyPatchedError):
            scr.patch(model, "vcd").install()
        handle.remove()
        gc.collect()


def test_nothing_runs_where_a_used_patch_is_dropped(tiny):
    """An interrupt that came in there would be swallowed by Python."""
    model, _ = tiny
    ran = []
    patched = scr.patch(model).install()
    patched.remove()
    assert not hasattr(patched, "__del__")
    sys.setprofile(lambda frame, event, argument: ran.append(frame.f_code.co_filename) if event == "call" else None)
    try:
        del patched
    finally:
        sys.setprofile(None)
    assert [name for name in ran if "scr" in Path(name).parts or name.endswith("weakref.py")] == []


def test_a_patch_that_lives_to_the_end_of_the_program_says_nothing():
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from tiny import tiny_llava\n"
        "import scr\n"
        "kept = scr.patch(tiny_llava()[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr == ""


def test_everything_fits_a_line(tiny):
    model, processor = tiny
    long = {
        "scr": {"scale": 1.25, "num_sources": 7, "connectivity": 4, "radius": 2, "include_border": True, "seed": 12345},
        "yes_shift": {"shift": 0.5, "no_tokens": list(range(90))},
        "dola": {"layers": list(range(8))},
        "purified": {"strength": {"name": "quantile", "thresholds": [-1.0, -0.5, -0.1]}, "image_keep": 0.25},
    }
    tried = {name: scr.get_method(name).example for name in scr.list_methods()}
    for name, fields in {**tried, "scr+purified+dola": {}, "none": {}, **long}.items():
        patched = scr.patch(model, name, **fields)
        for one in (patched, patched.config):
            assert len(repr(one)) <= 100
            assert "\n" not in repr(one)
        assert repr(patched).startswith(f"Patch('{name}'")
        assert repr(patched).endswith(", not installed)")
    assert repr(scr.SCRConfig()) == "SCRConfig()"
    assert eval(repr(scr.SCRConfig(scale=1.5)), vars(scr)) == scr.SCRConfig(scale=1.5)
    assert repr(scr.YesShiftConfig(**YES_SHIFT)) == "YesShiftConfig(shift=0.5, no_tokens=(7,))"
    with scr.patch(model) as patched:
        model.generate(**inputs_for(processor, PROMPT), max_new_tokens=1)
    assert re.fullmatch(
        r"Trace\(row=0, image=0, grids=6×6, 16 sources, 20 neighbours, entropy=\d\.\d\d, norm_ratio=\d\.\d\d\)",
        repr(patched.traces[0]),
    )
