"""Fields by their annotations: what fits, what is converted, and one line about what does not."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scr
from benchmarks.hashing import config_hash
from benchmarks.records import RecordError, RunRecord, SampleRecord
from scr import ConfigError
from scr.adapters import Distillation, TrainingRecipe, load_recipe
from scr.contrast import STRENGTH_SCHEDULES
from scr.fields import SOME, Fields, checked
from scr.kinds import Between, ChosenBy, FieldError, That
from scr.perturb import PERTURBATIONS, NamedPerturbation

Blocks = range
Arranged = str
BLANK = PERTURBATIONS["blank"]()


class Place(TypedDict):
    word: str
    start: int


@dataclass(frozen=True, kw_only=True)
class Inner(Fields):
    share: Annotated[float, Between(0, 1)]


@dataclass(frozen=True, kw_only=True)
class Everything(Fields):
    blocks: Blocks = range(0, 2)
    arranged: Arranged = "in a range"
    many: tuple[int, ...] = ()
    some: Annotated[list[float], SOME] | None = None
    either: Literal["low"] | tuple[Annotated[int, Between(0)], ...] = "low"
    inner: Inner | None = None
    names: Mapping[str, int | None] = dataclasses.field(default_factory=dict)
    places: list[Place] = dataclasses.field(default_factory=list)
    noise: NamedPerturbation = BLANK
    word: Annotated[str, That(str.isalpha, "of letters alone")] = "a"
    free: Any = None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"blocks": [2, 5]}, range(2, 5)),
        ({"blocks": (np.int64(2), 5)}, range(2, 5)),
        ({"arranged": "range"}, "range"),
        ({"many": [1, np.int32(2)]}, (1, 2)),
        ({"some": (1, 0.5)}, [1, 0.5]),
        ({"some": None}, None),
        ({"either": [0, 3]}, (0, 3)),
        ({"inner": {"share": np.float32(0.5)}}, Inner(share=0.5)),
        ({"names": {"a": None, "b": np.int8(1)}}, {"a": None, "b": 1}),
        ({"places": [{"word": "a", "start": 0}]}, [{"word": "a", "start": 0}]),
        ({"noise": "blur"}, PERTURBATIONS["blur"]()),
        ({"noise": {"name": "mask", "share": 1}}, PERTURBATIONS["mask"](share=1)),
        ({"free": {"a": [1, None]}}, {"a": [1, None]}),
    ],
    ids=str,
)
def test_what_fits_is_read_as_it_is_kept(given, kept):
    (name,) = given
    found = getattr(Everything.from_dict(given), name)
    assert found == kept
    assert type(found) is type(kept)
    assert getattr(Everything(**given), name) == kept, "made directly it is the same"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"blocks": [5, 2]}, "blocks is not a range: got [5, 2]; expected a range of step 1"),
        ({"blocks": [True, 2]}, "blocks is not a range: got [True, 2]; "),
        ({"arranged": [0, 2]}, "arranged of another kind: got [0, 2]; expected a text. "),
        ({"many": "12"}, "many of another kind: got '12'; expected a list, each an integer. "),
        ({"many": [1, 2.0]}, "many out of range: got 2.0; expected an integer. "),
        (
            {"many": [2**63]},
            "many out of range: got a number of 64 bits; expected an integer. ",
        ),
        ({"some": []}, "some of another kind: got []; expected a list, each a finite number, not empty or None. "),
        ({"some": [float("nan")]}, "some out of range: got nan; expected a finite number. "),
        ({"some": [True]}, "some out of range: got True; expected a finite number. "),
        ({"some": [10**400]}, "some out of range: got a number of 1329 bits; "),
        ({"either": [0, -1]}, "either out of range: got -1; expected an integer ≥ 0. "),
        ({"either": "high"}, "got 'high'; expected one of ('low',) or a list, each an integer ≥ 0. "),
        ({"inner": {"share": 2}}, "share out of range: got 2; expected a finite number ≥ 0 and ≤ 1. "),
        ({"inner": {}}, "fields of Inner are missing: got []; expected ['share'] too. "),
        ({"inner": 3}, "inner of another kind: got 3; expected a Inner or None. "),
        ({"names": {"a": "1"}}, "names.a out of range: got '1'; expected an integer or None. "),
        ({"places": [{"word": "a", "start": 0.0}]}, "places.start out of range: got 0.0; "),
        ({"places": [{"word": "a"}]}, "places of another kind: got {'word': 'a'}; expected a table of word, start. "),
        (
            {"noise": 3},
            "noise of another kind: got 3; expected a Perturbation, its name, or ",
        ),
        ({"noise": {"share": 1}}, "unknown perturbation: got None; expected one of ['gaussian', "),
        ({"word": "a b"}, "word of another kind: got 'a b'; expected a text, of letters alone. "),
        ({"word": "a" * 500 + "!"}, "word of another kind: got 'aaaaaa"),
        ({"wrod": "a"}, "unknown field of Everything: got 'wrod'; "),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_does_not_fit_is_said_in_a_line(given, message):
    with pytest.raises(ConfigError) as refused:
        Everything.from_dict(given)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 500


def test_numbers_too_long_to_show_are_counted():
    for value in (10**5000, [10**5000], {"name": 10**5000}):
        with pytest.raises(ConfigError, match=r"got (a number of 16610 bits|a list that is|a dict that is)"):
            checked("kind", value, Literal["a"])


def test_an_open_bound_is_that_of_the_number_format():
    assert checked("sigma", 3e38, Annotated[float, Between(0)]) == 3e38
    with pytest.raises(FieldError, match=r"expected a finite number ≥ 0 and of float32\. "):
        checked("sigma", 1e39, Annotated[float, Between(0)])
    with pytest.raises(FieldError, match=r"expected a finite number > 0 and of float32\. "):
        checked("sigma", 0, Annotated[float, Between(0, above=True)])


def test_an_object_that_is_chosen_by_a_function():
    hint = Annotated[Inner, ChosenBy(lambda name, **settings: Inner(share=float(name), **settings))]
    assert checked("share", "0.5", hint) == checked("share", {"name": "0.5"}, hint) == Inner(share=0.5)


@pytest.mark.parametrize(
    ("method", "digest"),
    [("scr", "c58f020e13"), ("purified", "57944836e8"), ("vcd", "16aa910d4a"), ("dola", "2c7177d54f")],
)
def test_configurations_keep_their_names(method, digest):
    assert config_hash(scr.get_method(method).configure({}).to_dict()) == digest


@pytest.mark.parametrize(("name", "digest"), [("seed", "283ea04ef4"), ("refusal", "5140668667")])
def test_recipes_keep_their_names(name, digest):
    assert config_hash(load_recipe(name).to_dict()) == digest


NUMBERS = st.sampled_from([0, 1, 2, 4, 8, -1, 0.3, 1.0, 1e39, 2**63]) | st.integers() | st.floats()
WORDS = ["gaussian", "mask", "rolling", "fixed", "quantile", "low", "high", "entropy", "logits", "auto", "greedy"]
SCALARS = st.none() | st.booleans() | NUMBERS | st.sampled_from(WORDS) | st.text(max_size=5)
NAMES = st.sampled_from(["name", "share", "seed", "image_keep", "contrast", "strengths", "thresholds", "history", "x"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner), max_leaves=8)
TABLE = st.fixed_dictionaries({"name": st.sampled_from(WORDS)}, optional={"seed": NUMBERS, "contrast": NUMBERS})
CONFIGS = {scr.get_method(name).config_class for name in scr.list_methods()}
CLASSES = {
    **{kind.__name__: kind for kind in CONFIGS},
    **{kind.__name__: kind for kind in (*PERTURBATIONS.values(), *STRENGTH_SCHEDULES.values())},
    **{kind.__name__: kind for kind in (TrainingRecipe, Distillation, SampleRecord, RunRecord)},
}


# What fits, of classes that have fields without a default; random values alone would hardly.
RECIPE = load_recipe("seed").to_dict()
STARTS = {
    **{kind.__name__: kind.example for kind in CONFIGS},
    "QuantileStrength": {"thresholds": [-2, -1, -0.5]},
    "TrainingRecipe": RECIPE,
    "Distillation": RECIPE["distillation"],
    "SampleRecord": SampleRecord(id="a", image="b", prompt="c", target=None, output="d").to_dict(),
    "RunRecord": {
        **dict.fromkeys(("status", "created", "command", "model", "dtype", "device"), "a"),
        **{"method": "a", "task": "a", "rule": "a", "data_sha256": "a"},
        **{"schema": 2, "task_version": 1, "seed": 0, "batch_size": 1},
    },
}


@pytest.mark.parametrize("name", sorted(CLASSES))
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_json_gives_an_object_that_goes_through_json_or_one_line(name, data):
    kind = CLASSES[name]
    start = STARTS.get(name, {})
    names = st.sampled_from([*{**start, **{f.name: 0 for f in dataclasses.fields(kind)}}, "contrast", "bogus"])
    changes = data.draw(st.dictionaries(names, TABLE | VALUES, max_size=3))
    for values in ({**start, **changes}, changes, data.draw(VALUES)):
        try:
            made = kind.from_dict(values)
        except (ConfigError, RecordError) as error:
            refused = str(error)
        else:
            kept = json.loads(json.dumps(made.to_dict()))
            again = kind.from_dict(kept)
            assert again == made
            assert again.to_dict() == made.to_dict() == kept
            continue
        assert re.fullmatch(r".+: got .+; expected .+\. .+", refused), refused
