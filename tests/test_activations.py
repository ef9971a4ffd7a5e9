"""Methods that edit prefills without reading attention: no pass but the real one, whatever lies beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from test_patch_undo import everything_on
from tiny_families import TINY

import scr
from hooks import PrefillSession, edit_tokens
from scr.methods import METHODS, MethodEntry
from scr.methods.activations import ActivationsMethod

pytestmark = pytest.mark.usefixtures("one_thread")
BLOCKS = 8
QUESTION = [("USER : <image> is there a dog", [1])]
IMAGE_LAST = [("is there a dog <image>", [1])]


@dataclass(frozen=True, kw_only=True, repr=False)
class DampConfig(scr.MethodConfig):
    factor: float = 0.5


class Damp(ActivationsMethod):
    """Damps the image after the first block."""

    name: ClassVar[str] = "damp"
    paper: ClassVar[str] = "–"
    config_class: ClassVar[type[scr.MethodConfig]] = DampConfig

    def open(self, images, embeds, copies, digests):
        return Damped(images, copies, self.config.factor)


class Damped(PrefillSession):
    def __init__(self, images, copies, factor):
        self.images, self.copies, self.factor, self.closed = images, copies, factor, False

    def observe(self, layer, hidden):
        raise AssertionError("of a method that reads no attention")

    def plan(self, diagnosis):
        raise AssertionError("of a method that reads no attention")

    def edit(self, layer: int, output: Any) -> Any:
        if layer:
            return output
        for image in self.images:
            for copy in range(self.copies):
                rows = torch.full_like(image.positions, image.row * self.copies + copy)
                output = edit_tokens(output, rows, image.positions, lambda hidden: hidden * self.factor)
        return output


@pytest.fixture(autouse=True)
def in_the_table(monkeypatch):
    monkeypatch.setitem(METHODS, "damp", MethodEntry("damp", Damp, "damps"))


@pytest.fixture(scope="module", params=["llava", "chameleon"])
def tiny(request):
    return TINY[request.param](layers=BLOCKS)


def logits_and_calls(tiny, prompts=QUESTION):
    """Logits of the last token, and how often a block was called."""
    calls = []
    handles = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in tiny.layers]
    with torch.no_grad():
        logits = tiny.model(**tiny.prompt(prompts).inputs).logits[:, -1]
    for handle in handles:
        handle.remove()
    return logits, len(calls)


def test_a_method_without_attention_makes_no_diagnostic_pass(tiny):
    base, _ = logits_and_calls(tiny)
    before = everything_on(tiny.model)  # transformers leaves hooks of its own at the first call
    with scr.patch(tiny.model, "damp") as patched:
        changed, calls = logits_and_calls(tiny)
        assert calls == BLOCKS
        assert not torch.allclose(changed, base, atol=1e-3)
        assert (patched.traces, patched.leaves_traces, patched.diagnosed()) == ([], False, {})
    with scr.patch(tiny.model, "damp", factor=1.0):
        assert torch.equal(logits_and_calls(tiny)[0], base)
    assert everything_on(tiny.model) == before


def test_beside_one_that_reads_attention_there_is_one_pass_for_it_alone(tiny):
    with scr.patch(tiny.model, num_sources=4, keep_traces=9) as alone:
        _, calls = logits_and_calls(tiny)
    assert calls > BLOCKS
    for name in ("damp+scr", "scr+damp"):
        with scr.patch(tiny.model, name, **{"scr.num_sources": 4}) as both:
            assert logits_and_calls(tiny)[1] == calls
        assert torch.equal(both.traces[0].attention, alone.traces[0].attention), "of the unedited model"
        assert both.leaves_traces
        assert both.diagnosed() == alone.diagnosed()


def test_an_image_that_no_text_comes_after_is_one_to_edit():
    tiny = TINY["llava"](layers=BLOCKS)
    base, _ = logits_and_calls(tiny, IMAGE_LAST)
    with scr.patch(tiny.model, "damp"):
        changed, calls = logits_and_calls(tiny, IMAGE_LAST)
    assert calls == BLOCKS
    assert not torch.allclose(changed, base, atol=1e-3)
    with scr.patch(tiny.model, "scr+damp"), pytest.warns(UserWarning, match="no text comes after them"):
        both, calls = logits_and_calls(tiny, IMAGE_LAST)
    assert calls == BLOCKS, "nobody is left to read for"
    assert torch.equal(both, changed)


def test_it_is_diagnosed_as_it_runs(tiny):
    inputs = tiny.prompt(QUESTION).inputs
    (bare,) = scr.diagnose(tiny.model, inputs)
    with scr.patch(tiny.model, "damp"):
        (patched,) = scr.diagnose(tiny.model, inputs)
    assert torch.equal(patched.attention, bare.attention), "of the unedited model"
    assert patched.norm_growth[0] < bare.norm_growth[0]


def test_every_copy_of_a_row_is_edited(tiny):
    """Beams and returned sequences repeat a row."""
    given: Mapping[str, Any] = {"max_new_tokens": 2, "do_sample": False, "output_logits": True}
    inputs = tiny.prompt(QUESTION).inputs
    with scr.patch(tiny.model, "damp"):
        one = tiny.model.generate(**inputs, **given, return_dict_in_generate=True).logits[0]
        for ways in ({"num_beams": 2}, {"num_beams": 2, "use_cache": False}):
            more = tiny.model.generate(**inputs, **given, **ways, return_dict_in_generate=True).logits[0]
            torch.testing.assert_close(more, one.expand(2, -1), atol=1e-4, rtol=1e-4)


def test_nan_in_a_picture_is_named_and_its_row():
    tiny = TINY["llava"](layers=2)
    first, second = tiny.picture(1), tiny.picture(2)
    second.pixels[0].view(-1)[5] = torch.nan
    inputs = tiny.prompt([QUESTION[0], (QUESTION[0][0], [2])], pictures=[[first], [second]]).inputs
    with (
        scr.patch(tiny.model, "damp"),
        torch.no_grad(),
        pytest.raises(scr.NotFiniteError, match=r"row 1 is not finite: got NaN; expected numbers"),
    ):
        tiny.model(**inputs)
