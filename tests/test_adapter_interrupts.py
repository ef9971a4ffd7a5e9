"""An interrupt at any point of putting an adapter on, generating and taking it off leaves the model as it was."""

import pytest
import torch
from test_adapters import write_adapter
from test_interrupts import Subject, walk

import scr

pytest.importorskip("peft")
pytestmark = [
    pytest.mark.usefixtures("one_thread", "interruptible"),
    # An interrupt may come before a patch is entered, or while a patch that was of use is dropped.
    pytest.mark.filterwarnings("ignore::scr.UnusedPatchWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_interrupted_at_some_points(tmp_path):
    subject = Subject()
    folder = write_adapter(tmp_path / "adapter", subject.model)
    weights = {name: value.clone() for name, value in subject.model.state_dict().items()}

    def scenario():
        with scr.adapter(subject.model, folder), scr.patch(subject.model, num_sources=4):
            subject.generate()

    def check(where):
        subject.assert_as_before(where)
        now = subject.model.state_dict()
        assert now.keys() == weights.keys(), where
        assert all(torch.equal(now[name], value) for name, value in weights.items()), where

    walk(scenario, check, sample=12)
