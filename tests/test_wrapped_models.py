"""Models that something else has a hold on: adapters, offloading, compilers, checkpointing. Every family, tiny."""

import copy

import peft
import pytest
import torch
from accelerate import cpu_offload, disk_offload
from reference import decoder_of
from tiny_families import TINY

import scr
from hooks import HookStack, unwrap
from hooks.installing.compiled import eager_prefills

pytestmark = pytest.mark.usefixtures("one_thread")
GREEDY = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
OPTIONS = {"num_sources": 4, "scale": 1.4}


@pytest.fixture(params=list(TINY))
def tiny(request):
    made = TINY[request.param]()
    made.name = request.param
    return made


def said(model, inputs):
    with torch.no_grad():
        return torch.stack(model.generate(**inputs, **GREEDY).logits, dim=1)


def close(one, two, tolerance=1e-5):
    finite = two > torch.finfo(two.dtype).min  # Chameleon rules image tokens out
    return bool((one - two)[finite].abs().max() < tolerance)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_an_adapter_patched_merged_and_disabled(tiny):
    inputs = tiny.prompt().inputs
    with scr.patch(tiny.model, **OPTIONS):
        plain_edited = said(tiny.model, inputs)
    plain = said(tiny.model, inputs)
    config = peft.LoraConfig(r=4, target_modules=r".*layers\.\d+\.self_attn\.(q|v)_proj", init_lora_weights=False)
    adapted = peft.get_peft_model(tiny.model, config).eval()
    assert unwrap(adapted) == (tiny.model, [])
    before = said(adapted, inputs)
    with scr.patch(adapted, **OPTIONS) as patched:
        edited = said(adapted, inputs)
        assert len(patched.traces) == 3
        with adapted.disable_adapter():
            assert close(said(adapted, inputs), plain_edited)
    assert not close(edited, plain_edited, 1e-2), "the adapter does something"
    assert not close(edited, before, 1e-3), "the patch does something"
    assert torch.equal(said(adapted, inputs), before)
    with adapted.disable_adapter():
        assert close(said(adapted, inputs), plain)
    merged = adapted.merge_and_unload()
    with scr.patch(merged, **OPTIONS):
        assert close(said(merged, inputs), edited, 1e-4)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloading_leaves_no_weight_behind(tiny, where, tmp_path):
    if tiny.name in ("llava_onevision", "chameleon", "idefics3") or tiny.name.startswith("glm4"):
        pytest.skip("transformers itself cannot run it offloaded: it uses weights past accelerate's hooks")
    inputs = tiny.prompt().inputs
    with scr.patch(tiny.model, **OPTIONS):
        expected = tiny.model(**inputs).logits, said(tiny.model, inputs)
    device = torch.device("cpu")
    if where == "cpu":
        cpu_offload(tiny.model, execution_device=device)
    else:
        disk_offload(tiny.model, str(tmp_path), execution_device=device)
    away = [name for name, value in tiny.model.named_parameters() if value.device.type == "meta"]
    assert away
    with scr.patch(tiny.model, **OPTIONS) as patched:
        assert torch.equal(tiny.model(**inputs).logits, expected[0])
        if tiny.name in (
            "qwen3_vl_moe",
            "qwen3_5_moe",
        ):  # transformers runs experts one by one where there is something to move
            assert close(said(tiny.model, inputs), expected[1])
        elif tiny.name != "llava_next":  # likewise, in `generate`
            assert torch.equal(said(tiny.model, inputs), expected[1])
    assert len(patched.traces) in (3, 6)
    assert [name for name, value in tiny.model.named_parameters() if value.device.type == "meta"] == away


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_flow_through_the_edit(tiny, checkpointing):
    """Those of the patched model are those of the same edits, made by plain hooks."""
    inputs = tiny.prompt().inputs
    layout = tiny.prompt().layout
    model = tiny.model.train()
    if checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()

    def gradients():
        model.zero_grad(set_to_none=True)
        logits = model(**inputs, use_cache=False).logits[:2, -1, :60]
        logits.logsumexp(-1).sum().backward()
        return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}

    plain = gradients()
    with scr.patch(model, **OPTIONS) as patched:
        edited = gradients()
    rows, positions, plans = [], [], []
    for trace in patched.traces:
        rows.append(trace.row)
        positions.append(torch.tensor(layout[trace.row, trace.image][0]))
        plans.append(scr.redistribution.RedistributionPlan(trace.sources, trace.neighbors, trace.owners))

    def redistributed(hidden):
        for row, places, plan in zip(rows, positions, plans, strict=True):
            moved = scr.redistribution.redistribute(hidden[row, places], plan, 1.4)
            hidden = hidden.index_put((torch.full_like(places, row), places), moved)
        return hidden

    handles = [tiny.after(layer, redistributed) for layer in patched.config.layers]
    expected = gradients()
    [handle.remove() for handle in handles]
    assert set(edited) == set(expected)
    largest = max(value.abs().max() for value in expected.values())
    assert all((edited[name] - expected[name]).abs().max() < 1e-5 * largest for name in expected)
    assert any((edited[name] - plain[name]).abs().max() > 1e-3 * largest for name in plain)


def compiled(style, model):
    """The model compiled in one of four styles; what to call, and what to undo."""
    options = {"backend": "eager"}
    if style == "wrapper":
        return torch.compile(model, **options)
    if style == "forward":
        model.forward = torch.compile(model.forward, **options)
    elif style == "in place":
        model.compile(**options)
    else:
        decoder = decoder_of(model)
        decoder.compile(**options)
        for layer in decoder.layers:
            layer.compile(**options)
    return model


@pytest.mark.parametrize("style", ["wrapper", "forward", "in place", "parts"])
@pytest.mark.parametrize(
    "name", ["llava", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen2_5_vl", "chameleon"))]
)
def test_a_model_compiled_before_it_is_patched(name, style):
    tiny = TINY[name](layers=3)
    prompt = tiny.prompt([("USER : <image> is there", [1]), ("is there a dog", [])])
    with torch.no_grad():
        plain = tiny.model(**prompt.inputs).logits
        with scr.patch(tiny.model, **OPTIONS):
            expected = tiny.model(**prompt.inputs).logits
        torch.compiler.reset()
        model = compiled(style, tiny.model)
        assert close(model(**prompt.inputs).logits, plain, 1e-4)
        with scr.patch(model, **OPTIONS) as patched:
            assert close(model(**prompt.inputs).logits, expected, 1e-4)
            cache = model(**prompt.inputs, use_cache=True).past_key_values
            model(input_ids=torch.full((2, 1), 9), past_key_values=cache)
        assert len(patched.traces) == 2
        assert close(model(**prompt.inputs).logits, plain, 1e-4)


@pytest.mark.parametrize("name", ["llava", pytest.param("chameleon", marks=pytest.mark.slow)])
def test_a_model_compiled_under_its_patch(name):
    tiny = TINY[name](layers=3)
    inputs = tiny.prompt().inputs
    torch.compiler.reset()
    with torch.no_grad(), scr.patch(tiny.model, **OPTIONS) as patched:
        expected = tiny.model(**inputs).logits
        wrapper = torch.compile(tiny.model, backend="eager")
        assert close(wrapper(**inputs).logits, expected, 1e-4)
        assert len(patched.traces) == 6


def test_decoding_stays_one_compiled_graph():
    """Steps of decoding carry no image, and our hooks are not in their graphs."""
    tiny, graphs = TINY["llava"](layers=3), []
    inputs = tiny.prompt().inputs

    def backend(graph, examples):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    with torch.no_grad(), scr.patch(tiny.model, **OPTIONS):
        cache = tiny.model(**inputs, use_cache=True).past_key_values
        step = torch.compile(tiny.model, backend=backend, fullgraph=True, dynamic=True)
        token = torch.full((3, 1), 9)
        expected = tiny.model(input_ids=token, past_key_values=copy.deepcopy(cache)).logits
        assert torch.equal(step(input_ids=token, past_key_values=cache).logits, expected)
    assert len(graphs) == 1


def test_a_wrapper_compiled_before_sees_a_patch_of_the_model_inside():
    """What lets image prefills run eagerly is guarded on, so that the old recording is not used."""
    tiny = TINY["llava"](layers=3)
    inputs = tiny.prompt().inputs
    torch.compiler.reset()
    with torch.no_grad():
        wrapper = torch.compile(tiny.model, backend="eager")
        plain = wrapper(**inputs).logits
        with scr.patch(tiny.model, **OPTIONS) as patched:
            edited = wrapper(**inputs).logits
            assert torch.equal(edited, tiny.model(**inputs).logits)
        assert len(patched.traces) == 6
        assert not close(edited, plain, 1e-3)
        assert torch.equal(wrapper(**inputs).logits, plain)


def test_leaving_without_a_forward_seen_is_warned_of():
    tiny = TINY["llava"](layers=3)
    patch, copied = scr.patch(tiny.model), copy.deepcopy(tiny.model)
    with pytest.warns(UserWarning, match=r"no forward was seen under 'scr'.*torch.compile"), patch, torch.no_grad():
        copied(**tiny.prompt().inputs)
    text = tiny.prompt([("is there a dog ?", [])]).inputs
    with scr.patch(tiny.model), torch.no_grad():
        tiny.model(**text)
    wrapper = torch.compile(tiny.model, backend="eager")
    with torch.no_grad():
        wrapper(**text)
        with scr.patch(wrapper):
            wrapper(**text)


def test_an_interrupt_puts_the_compilers_stance_back():
    tiny = TINY["llava"]()
    inputs = tiny.prompt().inputs

    def interrupt(module, args):
        raise KeyboardInterrupt

    calls = []

    def backend(graph, examples):
        calls.append(graph)
        return graph.forward

    with torch.no_grad(), scr.patch(tiny.model):
        handle = tiny.layers[0].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            tiny.model(**inputs)
        handle.remove()
    torch.compiler.reset()
    torch.compile(lambda value: value + 1, backend=backend)(torch.ones(2))
    assert calls, "compiling works again"


def test_eager_prefills_come_off_with_their_stack():
    tiny = TINY["llava"]()
    seen: list[int] = []
    with HookStack() as stack, torch.no_grad():
        eager_prefills(stack, tiny.model, lambda: seen.append(1))
        assert "_compiled_call_impl" in vars(tiny.model)
        tiny.model(**tiny.prompt().inputs)
    assert "_compiled_call_impl" not in vars(tiny.model)
    assert seen == [1]
