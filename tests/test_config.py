"""Configurations: defaults, ranges, round trips, and errors that name the field."""

import dataclasses
import json

import pytest
from tiny import tiny_llava

import scr
from hooks import suggestion
from scr import ConfigError, MethodConfig, MethodEntry, SCRConfig
from scr.redistribution import _neighborhoods


def test_defaults_are_the_published_ones():
    assert SCRConfig().to_dict() == {
        "scale": 1.10,
        "num_sources": 32,
        "layers": None,
        "connectivity": 8,
        "radius": 1,
        "include_border": False,
        "selection": "top_k",
        "edit": "redistribute",
        "seed": 0,
        "keep_traces": 16,
        "attention_layers": None,
        "source": "attention",
    }


def test_fields_that_came_later_are_said_where_they_differ():
    config = SCRConfig(heads=0.2, map_from="image")
    assert {"heads": 0.2, "map_from": "image"}.items() <= config.to_dict().items()
    assert SCRConfig.from_dict(config.to_dict()) == config
    assert SCRConfig.from_dict(SCRConfig().to_dict()) == SCRConfig()


def test_frozen_keyword_only_and_round_trip():
    config = SCRConfig(layers=range(2, 7), scale=1.3, source="random")
    assert isinstance(config, MethodConfig)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.scale = 2
    with pytest.raises(TypeError):
        SCRConfig(1.2)
    assert SCRConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "fields",
    [
        {"scale": 0.9},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"scale": "1.1"},
        {"num_sources": 0},
        {"num_sources": 1.5},
        {"num_sources": True},
        {"layers": range(0, 0)},
        {"layers": range(0, 8, 2)},
        {"layers": [0, 12, 3]},
        {"layers": range(-1, 3)},
        {"attention_layers": "8-16"},
        {"connectivity": 6},
        {"radius": 0},
        {"include_border": "no"},
        {"selection": "best"},
        {"source": "uniform"},
        {"heads": 0},
        {"heads": 1.1},
        {"map_from": "question"},
        {"edit": "none"},
        {"seed": -1},
        {"keep_traces": -1},
        {"num_source": 3},
    ],
)
def test_bad_values_are_refused_by_name(fields):
    (name,) = fields
    with pytest.raises(ConfigError, match=name):
        SCRConfig.from_dict(fields)


@pytest.mark.parametrize(
    ("blocks", "layers", "attention"),
    [
        (32, range(0, 12), range(8, 17)),
        (40, range(0, 12), range(8, 17)),
        (24, range(0, 12), range(8, 17)),
        (8, range(0, 3), range(2, 4)),
        (12, range(0, 4), range(3, 6)),
        (1, range(0, 1), range(0, 1)),
    ],
)
def test_the_family_fills_in_ranges_scaled_to_the_model(blocks, layers, attention):
    resolved = SCRConfig().resolve(blocks, layers=range(0, 12), attention_layers=range(8, 17))
    assert (resolved.layers, resolved.attention_layers) == (layers, attention)


def test_a_range_beyond_the_model_is_refused_before_anything_happens():
    model, _ = tiny_llava()
    with pytest.raises(ConfigError, match=r"layers leaves the model.*below 8"):
        scr.patch(model, layers=range(0, 9))
    with pytest.raises(ConfigError, match="attention_layers"):
        scr.patch(model, SCRConfig(attention_layers=range(7, 9)))


def test_methods_by_name_and_presets():
    model, _ = tiny_llava()
    for name in scr.list_methods():
        entry = scr.get_method(name)
        assert isinstance(entry, MethodEntry)
        assert entry.name == name
        assert entry.summary
        assert entry.paper
        assert set(entry.requires) <= {"activations", "attention", "logits", "loop"}
        fields = scr.get_method(name).example
        assert scr.patch(model, name, **fields).config == scr.patch(model, name, **fields, **dict(entry.preset)).config
    assert scr.patch(model, "uniform_smooth").config.source == "random"
    assert scr.patch(model, "noise_control").config.edit == "noise"
    assert scr.patch(model, SCRConfig(num_sources=3)).name == "scr"
    with pytest.raises(ConfigError, match="Did you mean 'uniform_smooth'"):
        scr.patch(model, "uniform_smoth")
    with pytest.raises(ConfigError, match="uniform_smooth with another source"):
        scr.patch(model, "uniform_smooth", source="attention")
    with pytest.raises(ConfigError, match="Did you mean 'scale'"):
        scr.patch(model, scal=2)
    with pytest.raises(ConfigError, match="got both"):
        scr.patch(model, SCRConfig(), scale=2)


def test_every_error_is_also_the_builtin_one_would_expect():
    builtin = {
        scr.ConfigError: ValueError,
        scr.UnsupportedModelError: TypeError,
        scr.PromptLayoutError: ValueError,
        scr.UnsupportedGenerationError: ValueError,
        scr.AlreadyPatchedError: RuntimeError,
    }
    for error, expected in builtin.items():
        assert issubclass(error, (scr.SCRError,))
        assert issubclass(error, expected)


def test_suggestions():
    assert suggestion is scr.errors.suggestion
    assert suggestion("pop", ["chair", "pope"]) == "Did you mean 'pope'?"
    assert suggestion("xyz", ["chair", "pope"]) == "Choose one of them."
    assert suggestion("xyz", ["chair"], "See the manual.") == "See the manual."


@pytest.mark.parametrize("value", [10**30, -(10**30), 2**63])
def test_numbers_that_no_tensor_holds_are_refused(value):
    for config_class in {scr.get_method(name).config_class for name in scr.list_methods()}:
        for field in dataclasses.fields(config_class):
            with pytest.raises(ConfigError, match=f"{field.name}.*: got a number of"):
                config_class(**{**config_class.example, field.name: value})


def test_a_radius_beyond_the_grid_is_that_of_the_grid():
    grids = ((3, 4),)
    for connectivity in (4, 8):
        far = _neighborhoods(grids, connectivity, 2**62, True)
        assert far == _neighborhoods(grids, connectivity, 7, True)
