"""After the `with`, however it ends, the model is bit-equal and nothing of ours is left on it."""

import gc
import weakref

import pytest
import torch
from tiny import inputs_for, tiny_llava

import scr
from hooks import HookStack
from hooks.prefills import prefill

PROMPT = [("USER : <image> is there a dog in the image ? ASSISTANT :", [1])]


def everything_on(model) -> dict:
    """Hooks, instance attributes and config objects of every module."""
    return {
        name: (
            {key: id(value) for key, value in vars(module).items() if key in ("config", "forward", "generate")},
            sorted(vars(module)),
            *(
                [id(hook) for hook in getattr(module, kind).values()]
                for kind in (
                    "_forward_hooks",
                    "_forward_pre_hooks",
                    "_forward_hooks_with_kwargs",
                    "_forward_hooks_always_called",
                )
            ),
        )
        for name, module in model.named_modules()
    }


@pytest.fixture
def warm():
    """A model after a forward and a generation, since transformers leaves hooks of its own; its state; its logits."""
    model, processor = tiny_llava()
    inputs = inputs_for(processor, PROMPT)
    with torch.no_grad():
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        logits = model(**inputs).logits
    return model, inputs, everything_on(model), logits


def assert_untouched(model, inputs, state, logits):
    assert everything_on(model) == state
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, logits)


def test_nothing_happens_before_the_with(warm):
    model, inputs, state, logits = warm
    patched = scr.patch(model)
    assert_untouched(*warm)
    assert "not installed" in repr(patched)
    with patched:
        assert everything_on(model) != state
        with torch.no_grad():
            assert not torch.equal(model(**inputs).logits, logits)
    assert_untouched(*warm)


def test_install_and_remove_twice_over(warm):
    model, _, _, _ = warm
    handle = scr.patch(model).install()
    assert isinstance(handle, scr.Patch)
    handle.remove()
    handle.remove()
    assert_untouched(*warm)
    with pytest.warns(UserWarning, match="no forward was seen"), handle:
        pass
    assert_untouched(*warm)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_body_restores(warm, error):
    model, inputs, _, _ = warm
    with pytest.raises(error), scr.patch(model):  # noqa: PT012  the generation belongs to the body
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        raise error
    assert_untouched(*warm)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["first block", "last block", "attention", "vision", "decode"])
def test_an_error_inside_generate_restores_and_the_patch_works_on(warm, error, place):
    model, inputs, _, _ = warm
    layers = model.model.language_model.layers
    with scr.patch(model) as patched:
        expected = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        calls = 0

        def fail(module, args):
            nonlocal calls
            calls += 1
            if place != "decode" or calls > 2:  # the diagnostic and the prefill, then the first decoding step
                raise error

        target = {
            "first block": layers[0],
            "last block": layers[-1],
            "attention": layers[2].self_attn,
            "vision": model.model.vision_tower,
            "decode": layers[0],
        }[place]
        handle = target.register_forward_pre_hook(fail)
        with pytest.raises(error):
            model.generate(**inputs, max_new_tokens=4, do_sample=False)
        handle.remove()
        assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), expected)
    assert len(patched.traces) >= 2
    assert_untouched(*warm)


def test_the_same_method_twice_is_refused_and_changes_nothing(warm):
    model, inputs, _, _ = warm
    with scr.patch(model), torch.no_grad():
        once = model(**inputs).logits
        with pytest.raises(scr.AlreadyPatchedError, match="scr"):
            scr.patch(model).install()
        assert torch.equal(model(**inputs).logits, once)
    assert_untouched(*warm)


def test_nested_methods_come_off_in_any_order(warm):
    model, inputs, _, _ = warm
    with torch.no_grad():
        outer, inner = (
            scr.patch(model, num_sources=4),
            scr.patch(model, "noise_control", num_sources=2, layers=range(4, 6)),
        )
        with outer:
            only_outer = model(**inputs).logits
        with inner:
            only_inner = model(**inputs).logits
        outer.install(), inner.install()
        both = model(**inputs).logits
        assert not torch.equal(both, only_outer)
        assert not torch.equal(both, only_inner)
        outer.remove()
        assert torch.equal(model(**inputs).logits, only_inner)
        outer.install(), inner.remove()
        assert torch.equal(model(**inputs).logits, only_outer)
        outer.remove()
    assert_untouched(*warm)


def test_two_models_at_once(warm):
    model, inputs, _, _ = warm
    other, _ = tiny_llava(seed=7)
    with torch.no_grad():
        plain = other(**inputs).logits
        with scr.patch(model), scr.patch(other, num_sources=2):
            model(**inputs)
            assert not torch.equal(other(**inputs).logits, plain)
        assert torch.equal(other(**inputs).logits, plain)
    assert_untouched(*warm)


def test_a_failed_installation_is_undone(warm, monkeypatch):
    model, inputs, _, logits = warm
    original, calls = HookStack.forward_hook, 0

    def fails_half_way(self, *args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("no more hooks")
        original(self, *args, **kwargs)

    monkeypatch.setattr(HookStack, "forward_hook", fails_half_way)
    with pytest.raises(RuntimeError, match="no more hooks"), scr.patch(model):
        pass
    monkeypatch.undo()
    assert_untouched(*warm)
    with scr.patch(model), torch.no_grad():
        assert not torch.equal(model(**inputs).logits, logits)


def test_a_patched_model_can_be_forgotten():
    model, processor = tiny_llava()
    with scr.patch(model), torch.no_grad():
        model(**inputs_for(processor, PROMPT))
    ghost = weakref.ref(model)
    del model
    gc.collect()
    assert ghost() is None


def test_a_model_dropped_with_its_patch_on_is_freed():
    model, processor = tiny_llava()
    handle = scr.patch(model).install()
    with torch.no_grad():
        model(**inputs_for(processor, PROMPT))
    ghost = weakref.ref(model)
    del model, handle
    gc.collect()
    assert ghost() is None


def test_a_model_and_its_base_model_are_one(warm):
    model, inputs, _, _ = warm
    with scr.patch(model):
        with pytest.raises(scr.AlreadyPatchedError):
            scr.patch(model.model).install()
        model(**inputs)
    assert_untouched(*warm)


def test_an_interrupt_while_waiting_for_another_threads_diagnostic_leaves_no_trace(warm, monkeypatch):
    """Whatever fails between the decision to diagnose and the diagnostic."""
    model, inputs, _, logits = warm
    with scr.patch(model) as patched, torch.no_grad():

        def interrupt(*args):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(prefill, "_random_state_kept", interrupt)
            with pytest.raises(KeyboardInterrupt):
                model(**inputs)
        assert not torch.equal(model(**inputs).logits, logits)
        assert patched.traces
    assert_untouched(*warm)


def test_a_method_on_the_base_model_and_one_on_the_whole(warm):
    """`generate` is watched as soon as a method is put on the model that has it."""
    model, inputs, _, _ = warm
    with scr.patch(model.model, num_sources=4) as patched, scr.patch(model, "uniform_smooth", num_sources=2):
        model.generate(**inputs, max_new_tokens=3, do_sample=False, use_cache=False)
    assert len(patched.traces) == 1
    assert_untouched(*warm)


def test_the_vision_tower_interrupted_then_the_decoder_alone(warm):
    model, inputs, _, _ = warm
    decoder, embeds = model.model.language_model, torch.randn(2, 7, 32)
    with torch.no_grad():
        plain = decoder(inputs_embeds=embeds).last_hidden_state
        with scr.patch(model):

            def interrupt(module, args):
                raise KeyboardInterrupt

            handle = model.model.vision_tower.register_forward_pre_hook(interrupt)
            with pytest.raises(KeyboardInterrupt):
                model(**inputs)
            handle.remove()
            assert torch.equal(decoder(inputs_embeds=embeds).last_hidden_state, plain)
    assert_untouched(*warm)


def test_what_a_user_puts_on_generate_meanwhile_stays(warm):
    model, inputs, _, _ = warm
    with scr.patch(model):
        inner = model.generate
        model.generate = lambda **kwargs: inner(**kwargs)
        mine = model.generate
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert model.generate is mine
    model.generate(**inputs, max_new_tokens=1, do_sample=False)
    del model.generate
    assert_untouched(*warm)


def test_a_forward_that_was_interrupted_leaves_no_edit_behind(warm):
    model, inputs, _, _ = warm
    decoder, embeds = model.model.language_model, torch.randn(1, 60, 32)
    with torch.no_grad():
        plain = decoder(inputs_embeds=embeds).last_hidden_state
        with scr.patch(model):

            def interrupt(module, args):
                raise KeyboardInterrupt  # after the diagnostic, which ends in block 3

            handle = decoder.layers[5].register_forward_pre_hook(interrupt)
            with pytest.raises(KeyboardInterrupt):
                model(**inputs)
            handle.remove()
            assert torch.equal(decoder(inputs_embeds=embeds).last_hidden_state, plain)
    assert_untouched(*warm)
