"""Logits processors for vLLM, by the interfaces of its two runners; the stand-ins have what is read of them."""

from __future__ import annotations

import enum
import subprocess
import sys
from abc import ABC, abstractmethod
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import scr
from scr.contrast import plausible_tokens
from scr.inside import vllm as ours
from scr.inside.vllm import Constraint, Shift

VOCABULARY = 7
SHIFT = {"shift": 2.5, "no_tokens": [3, 5, 3, 900]}
KEPT = {"plausibility": 0.4}


class Way(enum.Enum):
    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


class OlderProcessor(ABC):
    """V1: rows by their number in the batch."""

    @abstractmethod
    def __init__(self, vllm_config, device, is_pin_memory): ...

    @abstractmethod
    def apply(self, logits): ...

    @abstractmethod
    def is_argmax_invariant(self): ...

    @abstractmethod
    def update_state(self, batch_update): ...


class NewerProcessor(ABC):
    """V2: rows by the slot of their request."""

    @abstractmethod
    def apply(self, logits, ctx): ...


@pytest.fixture(scope="module", autouse=True)
def stand_in():
    content = {
        "vllm.v1.sample.logits_processor.interface": {"LogitsProcessor": OlderProcessor, "MoveDirectionality": Way},
        "vllm.v1.worker.gpu.sample.logits_processor.interface": {"LogitsProcessor": NewerProcessor},
    }
    with pytest.MonkeyPatch.context() as patch:
        for path, names in content.items():
            parts = path.split(".")
            for length in range(1, len(parts) + 1):
                name = ".".join(parts[:length])
                if length == len(parts) or name not in sys.modules:
                    patch.setitem(sys.modules, name, ModuleType(name))
            vars(sys.modules[path]).update(names)
        ours._processors.cache_clear()
        yield
    ours._processors.cache_clear()


def params(**fields):
    return SimpleNamespace(extra_args=fields or None)


def logits(rows, seed=0):
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def expected(scores, asked, first):
    """One row after another: the formulas of the methods."""
    scores = scores.clone()
    for row, one in enumerate(asked):
        if "shift" in one and first[row]:
            for token in {token for token in one["no_tokens"] if token < VOCABULARY}:
                scores[row, token] += one["shift"]
        if "plausibility" in one:
            p = scores[row].double().softmax(-1)
            scores[row, p < one["plausibility"] * p.max()] = -torch.inf
    return scores


def older(kind):
    processor = kind(None, torch.device("cpu"), False)
    assert isinstance(processor, OlderProcessor)
    assert not processor.is_argmax_invariant()
    return processor


def update(removed=(), added=(), moved=()):
    return SimpleNamespace(batch_size=0, removed=removed, added=added, moved=moved)


@pytest.mark.parametrize(("name", "fields"), [("ShiftNo", SHIFT), ("PlausibleTokens", KEPT)])
def test_in_the_older_runner(name, fields):
    processor = older(getattr(ours, name))
    scores = logits(4)
    assert torch.equal(processor.apply(scores.clone()), scores)
    processor.update_state(None)
    said = [[], [], [4], []]
    asked = [fields, {}, fields, {**fields, "other": 1}]
    rows = [(row, params(**one), [1, 2], said[row]) for row, one in enumerate(asked)]
    processor.update_state(update(added=rows))
    first = [not one for one in said]
    torch.testing.assert_close(processor.apply(scores.clone()), expected(scores, asked, first))
    said[0].append(2)  # the same list, as the runner goes on with it
    torch.testing.assert_close(processor.apply(scores.clone()), expected(scores, asked, [False, True, False, True]))
    # Row 3 goes, row 2 moves into row 1 and changes places with row 0; row 3 is somebody else's.
    processor.update_state(
        update(removed=[3], added=[(3, params(), None, [])], moved=[(2, 1, Way.UNIDIRECTIONAL), (0, 1, Way.SWAP)])
    )
    said[2].clear()
    asked = [fields, fields, {}, {}]  # in row 0 what was in 2, in row 1 what was in 0
    torch.testing.assert_close(processor.apply(scores.clone()), expected(scores, asked, [True, False, True, True]))


@pytest.mark.parametrize(("name", "fields"), [("ShiftNo", SHIFT), ("PlausibleTokens", KEPT)])
def test_in_the_newer_runner(name, fields):
    prompts = SimpleNamespace(np=np.array([3, 0, 5, 4, 6], dtype=np.int32))
    processor = getattr(ours, name)(None, SimpleNamespace(prompt_len=prompts, vocab_size=VOCABULARY))
    assert isinstance(processor, NewerProcessor)
    assert processor.add_request(0, params(**fields))
    assert not processor.add_request(2, params())
    assert processor.add_request(3, params(**fields))
    assert processor.add_request(4, params(**fields))
    assert not processor.add_request(4, params(temperature=1))  # the slot is another's now
    # Rows in any order, two of them of one request whose tokens are guessed ahead.
    slots, positions = [3, 0, 0, 2, 4], [3, 2, 3, 4, 5]
    scores = logits(5)
    ctx = SimpleNamespace(
        expanded_idx_mapping=torch.tensor(slots, dtype=torch.int32), pos=torch.tensor(positions, dtype=torch.int64)
    )
    asked = [fields, fields, fields, {}, {}]
    torch.testing.assert_close(
        processor.apply(scores.clone(), ctx), expected(scores, asked, [True, True, False, True, True])
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_a_constraint_is_the_methods_own(seed, plausibility):
    processor = older(ours.PlausibleTokens)
    processor.update_state(update(added=[(0, params(plausibility=plausibility), None, [])]))
    scores = logits(2, seed)
    changed = processor.apply(scores.clone())
    assert torch.equal(changed[0].isfinite(), plausible_tokens(scores[0], plausibility))
    assert torch.equal(changed[1], scores[1])
    assert changed.argmax(-1).equal(scores.argmax(-1))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("ShiftNo", {"shift": 1.0}, "no_tokens"),
        ("ShiftNo", {"shift": "much", "no_tokens": [1]}, "shift"),
        ("ShiftNo", {"shift": 1, "no_tokens": []}, "no_tokens"),
        ("PlausibleTokens", {"plausibility": 1.5}, "plausibility"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_before_it_is_begun(name, fields, message):
    kind = getattr(ours, name)
    with pytest.raises(ValueError, match=message) as caught:
        kind.validate_params(params(**fields))
    assert isinstance(caught.value, scr.ConfigError)
    kind.validate_params(params())
    kind.validate_params(params(other=1))


def test_fields_are_those_of_the_methods():
    """So that what the benchmarks have calibrated is taken as it is."""
    for own, method in ((Shift, "yes_shift"), (Constraint, "plausibility_only")):
        entry = scr.get_method(method)
        assert own.from_dict(entry.example).to_dict() == entry.configure(entry.example).to_dict()


def test_names_that_are_not_there():
    with pytest.raises(AttributeError, match="ShiftYes"):
        ours.ShiftYes  # noqa: B018


def test_nothing_of_transformers_is_imported():
    """The current vLLM wants another version of it than this project does."""
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "import scr.inside.vllm; assert 'hooks.generation' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
