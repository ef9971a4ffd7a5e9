"""A copy of a patched model is a copy of the model as it would be unpatched, and has nothing to do with it."""

import copy
import io
import pickle

import pytest
import torch
from test_patch_undo import everything_on
from tiny_families import TINY

import scr

pytestmark = pytest.mark.usefixtures("one_thread")


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def by_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_average(model):
    return torch.optim.swa_utils.AveragedModel(model).module


@pytest.fixture(scope="module")
def inputs():
    return TINY["llava"](layers=3).prompt([("USER : <image> is there a dog ? ASSISTANT :", [1])]).inputs


def names_on(model):
    """What is on every module, but for the identities of what a copy has anew."""
    return {
        name: (attributes, [len(hooks) for hooks in tables])
        for name, (_, attributes, *tables) in everything_on(model).items()
    }


@pytest.mark.parametrize("way", [copy.deepcopy, by_pickle, by_file, by_average])
@pytest.mark.parametrize("method", scr.list_methods())
def test_a_copy_is_unpatched_and_its_own(inputs, method, way):
    # A model that has not run yet: transformers then leaves hooks on it that pickle cannot take, patched or not.
    model = TINY["llava"](layers=3).model
    before, plain = names_on(model), names_on(way(model))
    patched = scr.patch(model, method, **scr.get_method(method).example).install()
    made = way(model)
    patched.remove()
    assert names_on(made) == plain
    assert names_on(model) == before
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), made.parameters(), strict=True))
    expected = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(made.generate(**inputs, max_new_tokens=3, do_sample=False), expected)
    with torch.no_grad():
        [parameter.zero_() for parameter in made.parameters()]
    assert not made(**inputs).logits.any()
    assert (made.generate(**inputs, max_new_tokens=3, do_sample=False)[:, -3:] == 0).all(), "not the original's"
    assert torch.equal(model.generate(**inputs, max_new_tokens=3, do_sample=False), expected)
    with scr.patch(made, method, **scr.get_method(method).example):
        beams = scr.get_method(method).least_beams
        made.generate(**inputs, max_new_tokens=1, do_sample=False, num_beams=beams)


@pytest.mark.parametrize("way", [copy.deepcopy, copy.copy])
def test_a_part_of_a_patched_model_and_one_that_has_run(inputs, way):
    model = TINY["llava"](layers=3).model
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
    block = model.model.language_model.layers[1]
    hidden = torch.randn(1, 4, 32)
    positions = model.model.language_model.rotary_emb(hidden, torch.arange(4)[None])
    with torch.no_grad():
        expected = block(hidden, position_embeddings=positions)
        with scr.patch(model), scr.patch(model, "dola"):
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
            made, whole = way(block), way(model)
        assert torch.equal(made(hidden, position_embeddings=positions), expected)
    assert not made._forward_hooks
    assert "__getstate__" not in vars(whole)
    assert "generate" not in vars(whole)
    assert "_compiled_call_impl" not in vars(whole) or whole._compiled_call_impl is None


def test_a_model_inside_another_module(inputs):
    model = TINY["llava"](layers=3).model
    holder = torch.nn.ModuleDict({"model": model})
    patched = scr.patch(model, num_sources=4).install()
    made = copy.deepcopy(holder)["model"]
    patched.remove()
    assert names_on(made) == names_on(copy.deepcopy(holder)["model"])
    assert torch.equal(made(**inputs).logits, model(**inputs).logits)
