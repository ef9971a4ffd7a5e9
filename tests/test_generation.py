"""What sees `generate` before it runs: watchers, what a call says of itself, and the tools of a second branch."""

import gc
import threading
import weakref

import pytest
import torch
from test_patch_undo import everything_on
from tiny_families import PROMPTS, TINY
from transformers import GenerationConfig, LogitsProcessor

import scr
from hooks import (
    PIXELS,
    Begun,
    GenerateCall,
    HookStack,
    JoinedLoop,
    OtherBranch,
    UnsupportedGenerationError,
    after_step,
    beside_generate,
    current_calls,
    encode_images,
    find_family,
    is_beside,
    is_reading,
    prompt_positions,
    refuse_assistance,
    rows_with_images,
    visual_input,
    watch_generate,
    why_not_joined,
)
from scr.branches.running import RunningBranch

pytestmark = pytest.mark.usefixtures("one_thread")
GREEDY = {"max_new_tokens": 2, "do_sample": False}


@pytest.fixture(scope="module")
def llava():
    made = TINY["llava"](layers=2)
    made.model.generate(**made.prompt().inputs, **GREEDY)  # transformers leaves hooks of its own at the first call
    return made


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request):
    return TINY[request.param](layers=2)


class Note(LogitsProcessor):
    def __init__(self, name, heard):
        self.name, self.heard = name, heard

    def __call__(self, input_ids, scores):
        self.heard.append(self.name)
        return scores


def watcher(name, heard, processor=True):
    def watch(call):
        heard.append(f"{name} in")
        if processor:
            call.processors.append(Note(name, heard))

    return watch


def test_watchers_are_called_in_order_and_their_processors_come_first(llava):
    heard, inputs = [], llava.prompt().inputs
    expected = llava.model.generate(**inputs, **GREEDY)
    with HookStack() as stack:
        for name in ("first", "second"):
            watch_generate(llava.model, watcher(name, heard), stack)
        own = [Note("caller", heard)]
        assert torch.equal(llava.model.generate(**inputs, **GREEDY, logits_processor=own), expected)
        assert len(own) == 1, "the caller's list is the caller's"
    step = ["first", "second", "caller"]
    assert heard == ["first in", "second in", *step, *step]
    assert "generate" not in vars(llava.model)


def test_watchers_leave_in_any_order(llava):
    inputs, before = llava.prompt().inputs, everything_on(llava.model)
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)):
        stacks, heard = [HookStack() for _ in range(3)], []
        for index, stack in enumerate(stacks):
            watch_generate(llava.model, watcher(str(index), heard, processor=False), stack)
        left = {"0", "1", "2"}
        for index in order:
            stacks[index].close()
            left.discard(str(index))
            heard.clear()
            llava.model.generate(**inputs, **GREEDY)
            assert {name[0] for name in heard} == left
        assert everything_on(llava.model) == before


def test_an_error_inside_ends_the_call_and_the_model_works_on(llava):
    heard, inputs = [], llava.prompt().inputs

    def refuses(call):
        if call.arguments.get("max_new_tokens") == 1:
            raise ValueError("not one")

    class Fails(LogitsProcessor):
        def __call__(self, input_ids, scores):
            raise KeyboardInterrupt

    with HookStack() as stack:
        watch_generate(llava.model, watcher("first", heard, processor=False), stack)
        watch_generate(llava.model, refuses, stack)
        watch_generate(llava.model, watcher("last", heard, processor=False), stack)
        with pytest.raises(ValueError, match="not one"):
            llava.model.generate(**inputs, max_new_tokens=1)
        assert heard == ["first in"]
        assert not list(current_calls())
        heard.clear()
        with pytest.raises(KeyboardInterrupt):
            llava.model.generate(**inputs, **GREEDY, logits_processor=[Fails()])
        assert heard == ["first in", "last in"]
        assert not list(current_calls())
        llava.model.generate(**inputs, **GREEDY)
    assert "generate" not in vars(llava.model)


def test_arguments_by_position_are_seen_by_name(llava):
    inputs = llava.prompt().inputs
    ids, config = inputs.pop("input_ids"), GenerationConfig(max_new_tokens=2, num_beams=1, use_cache=False)
    expected = llava.model.generate(ids, config, **inputs)
    calls = []
    with HookStack() as stack:
        watch_generate(llava.model, calls.append, stack)
        assert torch.equal(llava.model.generate(ids, config, **inputs), expected)
        with pytest.raises(TypeError, match="positional"):
            llava.model.generate(*range(99))
    call = calls[0]
    assert call.arguments["generation_config"] is config
    assert call.setting("use_cache") is False
    assert call.model_inputs["input_ids"] is ids
    assert set(call.model_inputs) == {"input_ids", "attention_mask", "pixel_values"}
    for method in ("purified", "dola"):
        with scr.patch(llava.model, method):
            by_position = llava.model.generate(ids, config, **inputs)
            assert torch.equal(by_position, llava.model.generate(input_ids=ids, generation_config=config, **inputs))


def test_what_a_watcher_changes_is_what_generate_gets_and_what_was_given_stays(llava):
    inputs, calls = llava.prompt().inputs, []

    def shorter(call):
        call.arguments["max_new_tokens"] = 1
        calls.append(call)

    with HookStack() as stack:
        watch_generate(llava.model, shorter, stack)
        out = llava.model.generate(**inputs, **GREEDY)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 1
    assert calls[0].given["max_new_tokens"] == 2
    assert calls[0].setting("max_new_tokens") == 1


def test_a_setting_is_the_calls_or_its_configurations_or_the_models(llava):
    model, config = llava.model, GenerationConfig(num_beams=3)
    assert GenerateCall(model, {"num_beams": 2, "generation_config": config}).setting("num_beams") == 2
    assert GenerateCall(model, {"generation_config": config}).setting("num_beams") == 3
    assert GenerateCall(model, {}).setting("num_beams") is None
    model.generation_config.num_beams = 4
    try:
        assert GenerateCall(model, {"generation_config": GenerationConfig()}).setting("num_beams") == 4
        assert GenerateCall(model, {}).setting("num_beams") == 4
        assert why_not_joined(GenerateCall(model, {})) == "beams"
    finally:
        model.generation_config.num_beams = None
    assert GenerateCall(model, {}).setting("no_such_setting") is None


def test_model_inputs_are_the_prompt_alone(llava):
    inputs = llava.prompt().inputs
    others = {
        "generation_config": GenerationConfig(),
        "max_new_tokens": 2,
        "temperature": 0.5,
        "logits_processor": [],
        "stopping_criteria": [],
        "streamer": None,
        "tokenizer": object(),
        "custom_generate": None,
        "past_key_values": None,
        "use_cache": True,
        "stop_strings": "no",
        "image_sizes": None,
    }
    call = GenerateCall(llava.model, {**inputs, **others})
    assert call.model_inputs == {name: inputs[name] for name in inputs}


@pytest.mark.parametrize(
    "options",
    [
        {"prompt_lookup_num_tokens": 3},
        {"assistant_model": ...},
        {"assistant_early_exit": 2},
        {"generation_config": GenerationConfig(prompt_lookup_num_tokens=3)},
    ],
    ids=str,
)
def test_assistance_is_refused_by_name(llava, options):
    with pytest.raises(UnsupportedGenerationError, match=r"mine takes one token at a time: got (prompt|assistant)_"):
        refuse_assistance(GenerateCall(llava.model, options), "mine")
    refuse_assistance(GenerateCall(llava.model, {"assistant_model": None, "num_beams": 2}), "mine")


@pytest.mark.parametrize(
    ("options", "obstacle"),
    [
        ({}, None),
        ({"num_beams": 1, "do_sample": True, "num_return_sequences": 3, "streamer": ...}, None),
        ({"return_dict_in_generate": False, "use_cache": True, "custom_generate": None}, None),
        ({"num_beams": 2}, "beams"),
        ({"custom_generate": "org/repo"}, "another decoding loop"),
        ({"use_cache": False}, "use_cache=False"),
        ({"generation_config": GenerationConfig(use_cache=False)}, "use_cache=False"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"cache_implementation": "static"}, "cache_implementation"),
        ({"past_key_values": ...}, "a cache from before"),
        ({"prefill_chunk_size": 8}, "prefill_chunk_size"),
        ({"output_attentions": True}, "output_attentions"),
        ({"output_hidden_states": True}, "output_hidden_states"),
    ],
    ids=str,
)
def test_what_the_joined_loop_cannot_do(llava, options, obstacle):
    assert why_not_joined(GenerateCall(llava.model, options)) == obstacle


def test_a_joined_loop_by_hand_feeds_both_branches_the_chosen_tokens(tiny):
    """Bound to a branch of the same prompt, it is greedy decoding, and the branch is told what it says."""
    inputs = tiny.prompt().inputs
    expected = tiny.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    branch, told = RunningBranch(tiny.model, inputs), []
    note = branch.note

    def noted(tokens, logits):
        told.append((tokens.clone(), logits.clone()))
        note(tokens, logits)

    branch.note = noted
    seen = []

    class Spy(LogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.append((input_ids.clone(), scores.clone()))
            assert torch.equal(branch.logits(input_ids), told[-1][1])
            return scores

    out = tiny.model.generate(
        **inputs, max_new_tokens=4, do_sample=False, custom_generate=JoinedLoop([branch]), logits_processor=[Spy()]
    )
    assert torch.equal(out, expected)
    assert branch.forwards == 1, "its prefill"
    assert len(seen) == len(told) == 4
    for (ids, scores), (tokens, logits) in zip(seen, told, strict=True):
        assert torch.equal(ids, tokens)
        assert (scores - logits)[scores > -1e30].abs().max() < 1e-4
    with pytest.raises(scr.ConfigError, match="given up its cache"):
        branch.logits(torch.cat([out, out[:, -1:]], dim=1))


class Echo(OtherBranch):
    """A branch of the same prompts that has their own keys and values, and says half of what they say."""

    plan = None

    def __init__(self, model, inputs):
        self.model, self.inputs, self.told = model, inputs, []

    def logits(self, tokens):
        positions = prompt_positions(self.model, self.inputs)
        with beside_generate(), torch.no_grad():
            out = self.model(**self.inputs, position_ids=positions + find_family(self.model).first_position)
        self.begun = Begun(out.past_key_values, self.inputs["attention_mask"], positions[..., -1:])
        return out.logits[:, -1] / 2

    def hand_over(self):
        return self.begun

    def note(self, tokens, logits):
        self.told.append(logits.clone())


def test_a_joined_loop_takes_whatever_answers_as_a_branch(tiny):
    inputs = tiny.prompt().inputs
    branches, seen = [Echo(tiny.model, inputs) for _ in range(2)], []

    class Spy(LogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.append(scores.clone())
            return scores

    options = {"max_new_tokens": 3, "do_sample": False}
    expected = tiny.model.generate(**inputs, **options)
    out = tiny.model.generate(**inputs, **options, custom_generate=JoinedLoop(branches), logits_processor=[Spy()])
    assert torch.equal(out, expected)
    for branch in branches:
        for step, (said, told) in enumerate(zip(seen, branch.told, strict=True)):
            finite = said > -1e30
            assert (told - said / (2 if step == 0 else 1))[finite].abs().max() < 1e-4
    assert branches[0].begun.cache.layers[-1].keys is None, "handed over"


def test_what_comes_after_a_step_is_one_token_further(llava):
    inputs = llava.prompt().inputs
    given = {"attention_mask": inputs["attention_mask"], "position_ids": prompt_positions(llava.model, inputs)}
    with torch.no_grad():
        out = llava.model(**inputs, position_ids=given["position_ids"])
    after = after_step(llava.model, out, dict(given))
    assert after["attention_mask"].shape[1] == given["attention_mask"].shape[1] + 1
    assert torch.equal(after["position_ids"][:, -1], given["position_ids"][:, -1] + 1)
    assert after["past_key_values"] is out.past_key_values


def test_beside_generate_is_of_this_thread_and_nests_and_survives_errors():
    seen = []
    assert not is_beside()
    with beside_generate():
        assert is_beside()
        with beside_generate():
            pass
        assert is_beside()
        thread = threading.Thread(target=lambda: seen.append(is_beside()))
        thread.start()
        thread.join()
    assert seen == [False]
    with pytest.raises(KeyboardInterrupt), beside_generate():
        raise KeyboardInterrupt
    assert not is_beside()


def test_encoded_images_give_the_same_logits_without_another_pass(tiny):
    inputs = tiny.prompt().inputs
    positions = {"position_ids": prompt_positions(tiny.model, inputs)}
    encoded = encode_images(tiny.model, inputs)
    assert not any(name in encoded for name in PIXELS.values())
    assert "pixel_values" in inputs, "a new mapping"
    assert set(encoded["mm_encoder_outputs"]) == {"image"}
    assert visual_input(encoded) is encoded["mm_encoder_outputs"]["image"]
    with torch.no_grad():
        expected = tiny.model(**inputs, **positions).logits
        found = tiny.model(**encoded, **positions).logits
    assert torch.equal(found, expected)
    known = encode_images(tiny.model, inputs, encoded["mm_encoder_outputs"])
    assert known.keys() == encoded.keys()
    assert known["mm_encoder_outputs"] is encoded["mm_encoder_outputs"]


def test_encoded_images_serve_generate(tiny):
    inputs, options = tiny.prompt().inputs, {**GREEDY, "output_logits": True, "return_dict_in_generate": True}
    expected = tiny.model.generate(**inputs, **options).logits[0]
    found = tiny.model.generate(**encode_images(tiny.model, inputs), **options).logits[0]
    assert torch.allclose(found, expected, atol=1e-5)


def test_text_alone_has_nothing_to_encode(tiny):
    text = tiny.prompt([("is there a dog", [])]).inputs
    encoded = encode_images(tiny.model, text)
    assert encoded.pop("mm_encoder_outputs") == {}
    assert encoded.keys() == text.keys()
    assert visual_input(text) is None
    assert rows_with_images(tiny.model, text).tolist() == [False]


def test_rows_with_images(tiny):
    inputs = tiny.prompt([PROMPTS[2], PROMPTS[0], PROMPTS[2], PROMPTS[1]]).inputs
    assert rows_with_images(tiny.model, inputs).tolist() == [False, True, False, True]
    embeds = tiny.model.get_input_embeddings()(inputs["input_ids"])
    assert rows_with_images(tiny.model, {"inputs_embeds": embeds}).tolist() == [True] * 4, "not told by embeddings"


def test_a_watched_model_can_be_forgotten():
    model = TINY["llava"](layers=2).model
    watch_generate(model, watcher("first", []), HookStack())
    assert "generate" in vars(model)
    ghost = weakref.ref(model)
    del model
    gc.collect()
    assert ghost() is None


def test_a_model_without_generate_has_no_calls(llava):
    with HookStack() as stack:
        watch_generate(llava.model.model, watcher("first", []), stack)
        assert "generate" not in vars(llava.model.model)


def test_a_diagnostic_pass_says_that_it_is_reading(llava):
    inputs, seen = llava.prompt().inputs, []
    handle = llava.layers[0].register_forward_hook(lambda module, args, output: seen.append(is_reading()))
    with scr.patch(llava.model, num_sources=4, attention_layers=range(1, 2)), torch.no_grad():
        llava.model(**inputs)
    handle.remove()
    assert seen == [True, False], "the diagnostic, and the real pass"
    assert not is_reading()
