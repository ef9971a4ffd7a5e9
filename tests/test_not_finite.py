"""Values that no number format holds: refused as settings, named where a model computes them."""

import json

import numpy as np
import pytest
import torch
from tiny_families import PROMPTS, TINY

import scr
from scr.contrast import get_strength
from scr.methods.logits import FiniteScores
from scr.methods.noise import random_directions, with_norms_of
from scr.perturb import PatchMask, get_perturbation
from scr.redistribution import give, plan_redistribution, receive, redistribute

pytestmark = pytest.mark.usefixtures("one_thread")
GREEDY = {"max_new_tokens": 2, "do_sample": False}
HUGE = [float("inf"), -float("inf"), float("nan"), 1e308, 1e39, 10**400]


@pytest.fixture(scope="module")
def llava():
    return TINY["llava"](layers=4)


@pytest.mark.parametrize("value", HUGE, ids=str)
@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("scr", "scale"),
        ("scr", "num_sources"),
        ("scr", "radius"),
        ("scr", "seed"),
        ("scr", "keep_traces"),
        ("scr", "connectivity"),
        ("uniform_smooth", "scale"),
        ("noise_control", "scale"),
        ("purified", "contrast"),
        ("purified", "image_keep"),
        ("purified", "plausibility"),
        ("purified", "only_below"),
        ("vcd", "noise_step"),
        ("dola", "plausibility"),
        ("plausibility_only", "plausibility"),
        ("yes_shift", "shift"),
    ],
)
def test_no_method_takes_values_without_bounds(llava, method, name, value):
    with pytest.raises(scr.ConfigError, match=rf"{name}.*: got .*; expected"):
        scr.patch(llava.model, method, **{**scr.get_method(method).example, name: value})


@pytest.mark.parametrize("value", HUGE, ids=str)
def test_no_schedule_and_no_perturbation_does(value):
    made = [
        lambda: get_strength("fixed", contrast=value),
        lambda: get_strength("quantile", thresholds=(0.0,), strengths=(value, 0.1)),
        lambda: get_strength("quantile", thresholds=(value,), strengths=(1.0, 0.1)),
        lambda: get_strength("continuous", maximum=value),
        lambda: get_strength("continuous", temperature=value),
        lambda: get_strength("rolling", first=value),
        lambda: get_strength("rolling", history=value),
        lambda: get_perturbation("gaussian", image_keep=value),
        lambda: get_perturbation("gaussian", seed=value),
        lambda: get_perturbation("blur", sigma=value),
        lambda: get_perturbation("mask", patch=value),
        lambda: redistribute(torch.zeros(9, 2), plan_redistribution(torch.rand(3, 3)), value),
    ]
    for make in made:
        with pytest.raises(scr.ConfigError, match=r"out of range: got .*; expected"):
            make()


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        ("scr", "scale", True),
        ("scr", "num_sources", True),
        ("scr", "include_border", 1),
        ("scr", "connectivity", 8.0),
        ("scr", "seed", False),
        ("scr", "connectivity", np.array([4, 8])),
        ("purified", "edited", 1),
        ("purified", "contrast", True),
        ("dola", "plausibility", True),
        ("yes_shift", "shift", True),
    ],
)
def test_a_bool_is_no_number_and_a_number_no_bool(llava, method, field, value):
    with pytest.raises(scr.ConfigError, match=f"{field}.*: got "):
        scr.patch(llava.model, method, **{**scr.get_method(method).example, field: value})


@pytest.mark.parametrize(
    ("method", "fields", "expected"),
    [
        ("scr", {"scale": np.float32(1.5), "num_sources": np.int64(4)}, {"scale": 1.5, "num_sources": 4}),
        ("scr", {"include_border": np.bool_(True), "seed": np.uint8(3)}, {"include_border": True, "seed": 3}),
        ("scr", {"layers": [np.int64(0), np.int64(2)], "radius": torch.tensor(2)}, {"layers": [0, 2], "radius": 2}),
        (
            "purified",
            {"plausibility": np.float16(0.5), "edited": np.bool_(False)},
            {"plausibility": 0.5, "edited": False},
        ),
        ("dola", {"layers": (np.int64(1), 2)}, {"layers": [1, 2]}),
        ("plausibility_only", {"plausibility": torch.tensor(0.25)}, {"plausibility": 0.25}),
        ("yes_shift", {"shift": np.float32(2), "no_tokens": [np.int64(3)]}, {"shift": 2.0, "no_tokens": [3]}),
    ],
)
def test_scalars_of_numpy_and_torch_become_pythons_own(llava, method, fields, expected):
    config = scr.patch(llava.model, method, **{**scr.get_method(method).example, **fields}).config
    stored = json.loads(json.dumps(config.to_dict()))
    assert {name: stored[name] for name in expected} == expected
    assert type(config).from_dict(stored) == config
    noise = scr.VCDConfig(noise_step=np.int64(7), contrast=np.float32(0.5))
    assert json.loads(json.dumps(noise.to_dict()))["perturbation"]["noise_step"] == 7


def test_a_radius_or_a_patch_beyond_the_picture_is_the_whole_picture():
    attention = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))
    for connectivity in (4, 8):
        whole, huge = (
            plan_redistribution(attention, num_sources=2, radius=radius, connectivity=connectivity)
            for radius in (11, 2**60)
        )
        assert torch.equal(whole.neighbors, huge.neighbors)
        assert len(huge.neighbors) == 28
    image = torch.ones(1, 3, 8, 8)
    assert not PatchMask(share=1, patch=2**60).apply(image, torch.Generator()).any()


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "idefics3"])
@pytest.mark.parametrize("method", sorted(scr.list_methods()))
def test_nan_in_a_picture_is_named_and_its_row(name, method):
    tiny = TINY[name](layers=4)
    first, second = tiny.picture(1), tiny.picture(2)
    second.pixels[0].view(-1)[5] = torch.nan
    prompts = [(PROMPTS[0][0], [1]), (PROMPTS[0][0], [2])]
    inputs = tiny.prompt(prompts, pictures=[[first], [second]]).inputs
    with (
        scr.patch(tiny.model, method, **scr.get_method(method).example),
        torch.no_grad(),
        pytest.raises(scr.NotFiniteError, match=r"row 1.* not finite: got NaN; expected numbers"),
    ):
        tiny.model.generate(**inputs, **GREEDY, num_beams=scr.get_method(method).least_beams)
    assert issubclass(scr.NotFiniteError, ArithmeticError)


def test_scores_of_a_method_that_changes_none_are_looked_at():
    ids, scores = torch.zeros(2, 1, dtype=torch.long), torch.tensor([[0.0, -torch.inf], [1.0, 2.0]])
    assert FiniteScores()(ids, scores) is scores, "what is banned is a number"
    scores[1, 0] = torch.nan
    with pytest.raises(scr.NotFiniteError, match="logits of row 1 are not finite"):
        FiniteScores()(ids, scores)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tower_that_makes_codes_of_nan_does_not_hide_it(value):
    tiny = TINY["chameleon"](layers=4)
    inputs = tiny.prompt(PROMPTS[:1]).inputs
    whole = inputs["pixel_values"].clone()
    inputs["pixel_values"].view(-1)[5] = value
    with torch.no_grad(), scr.patch(tiny.model) as patched:
        for run in (lambda: tiny.model(**inputs), lambda: tiny.model.generate(**inputs, **GREEDY)):
            with pytest.raises(scr.NotFiniteError, match=r"^pixel_values is not finite: got NaN or infinity; expected"):
                run()
        assert not patched.traces
        tiny.model.generate(**{**inputs, "pixel_values": whole}, **GREEDY)
        assert len(patched.traces) == 1
    with pytest.raises(scr.NotFiniteError, match="pixel_values is not finite"):
        scr.diagnose(tiny.model, inputs)


def test_diagnose_names_it_too(llava):
    inputs = llava.prompt(PROMPTS[:1]).inputs
    inputs["pixel_values"] = inputs["pixel_values"] * torch.nan
    with pytest.raises(scr.NotFiniteError, match="image 0 of row 0 is not finite"):
        scr.diagnose(llava.model, inputs)


def test_edits_that_overflow_are_named():
    tiny = TINY["llava"](layers=8)
    model = tiny.model.half()
    with torch.no_grad():  # as large as the activations of real models in float16
        model.model.multi_modal_projector.linear_2.weight.mul_(3000)
    inputs = tiny.prompt(PROMPTS[:1]).inputs
    inputs["pixel_values"] = inputs["pixel_values"].half()
    with torch.no_grad(), scr.patch(model, scale=1.1):
        assert model(**inputs).logits.isfinite().all()
    with (
        torch.no_grad(),
        scr.patch(model, scale=1000),
        pytest.raises(scr.NotFiniteError, match=r"edits of image 0 in row 0 left .*: got scale 1000"),
    ):
        model(**inputs)


@pytest.mark.parametrize(
    ("dtype", "share", "error"),
    [(torch.float32, 0.001, 1e-4), (torch.bfloat16, 0.05, 0.02), (torch.float16, 0.05, 0.005)],
)
def test_noise_has_the_norm_of_the_edit_as_far_as_the_number_format_tells(dtype, share, error):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(200, 1024, generator=generator).to(dtype)
    # An edit of this share of a token's own norm: 0.1 of a source that is so much smaller or larger.
    sources = (10 * share * torch.randn(200, 1024, generator=generator)).to(dtype)
    for edited in (receive(hidden, sources, 1.1), give(hidden, 1.1)):
        directions = random_directions(1024, [torch.arange(200)], [generator])
        made = hidden + with_norms_of(edited - hidden, directions)
        norms = [(change.double() - hidden.double()).norm(dim=-1) for change in (made, edited)]
        assert (norms[0] / norms[1] - 1).abs().max() < error
