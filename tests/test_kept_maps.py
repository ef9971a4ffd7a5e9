"""`map_from="image"`: a map that no question has a part in, made once for an image and kept."""

import pytest
import torch
from tiny_families import TINY

import scr
from scr.methods import kept_maps

pytestmark = pytest.mark.usefixtures("one_thread")
FIELDS = {"map_from": "image", "num_sources": 4, "scale": 1.5, "keep_traces": 99}
DOG, DESCRIBE = ("USER : <image> is there a dog", [1]), ("USER : <image> describe", [1])
OTHER = ("USER : <image> describe", [2])
BEFORE = ("two of <image> describe", [1])


@pytest.fixture(scope="module")
def tiny():
    return TINY["llava"]()


def blocks_run(tiny, prompts):
    """How many blocks ran in a forward."""
    calls = []
    handles = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in tiny.layers]
    with torch.no_grad():
        logits = tiny.model(**tiny.prompt(prompts).inputs).logits[:, -1]
    for handle in handles:
        handle.remove()
    return logits, len(calls)


def test_several_questions_about_an_image_pay_once(tiny):
    with scr.patch(tiny.model, **FIELDS) as patched:
        logits, first = blocks_run(tiny, [DOG])
        _, second = blocks_run(tiny, [DESCRIBE])
        again, third = blocks_run(tiny, [DOG])
        _, fourth = blocks_run(tiny, [OTHER])
    assert second == third == len(tiny.layers)
    assert first == fourth > len(tiny.layers)
    assert torch.equal(logits, again)
    one, two, three, four = patched.traces
    assert torch.equal(one.attention, two.attention)
    assert torch.equal(one.attention, three.attention)
    assert not torch.equal(one.sources, four.sources)
    assert (one.norm_ratio is not None, two.norm_ratio, two.milliseconds) == (True, None, 0.0)


def test_a_question_gets_what_it_gets_first_last_alone_and_in_a_batch(tiny):
    def first_logits(batches):
        found = {}
        with scr.patch(tiny.model, **FIELDS):
            for batch in batches:
                logits, _ = blocks_run(tiny, batch)
                found |= dict(zip([question for question, _ in batch], logits, strict=True))
        return found

    alone = first_logits([[DOG]]) | first_logits([[DESCRIBE]])
    for batches in ([[DOG], [DESCRIBE]], [[DESCRIBE], [DOG]], [[DOG, DESCRIBE]], [[OTHER, DOG], [DESCRIBE]]):
        found = first_logits(batches)
        for question in alone:
            assert (found[question] - alone[question]).abs().max() < 1e-4


def test_what_stands_before_the_image_has_a_part_in_its_map(tiny):
    """A question in front of the picture is seen by it: such a prompt has a map of its own."""
    with scr.patch(tiny.model, **FIELDS) as patched:
        blocks_run(tiny, [DOG])
        _, calls = blocks_run(tiny, [BEFORE])
    assert calls > len(tiny.layers)
    assert not torch.equal(patched.traces[0].attention, patched.traces[1].attention)


def test_padding_has_none(tiny):
    prompt = tiny.prompt([DOG, ("is there a dog in the image ? ASSISTANT : <image> describe", [2])])
    with scr.patch(tiny.model, **FIELDS), torch.no_grad():
        tiny.model(**prompt.inputs)
        _, calls = blocks_run(tiny, [DESCRIBE])
    assert prompt.inputs["attention_mask"][0, 0] == 0
    assert calls == len(tiny.layers)


def test_a_later_turn_keeps_nothing(tiny):
    """What its image sees lies in the cache."""
    start, turn = tiny.prompt([("describe yes", [])]), tiny.prompt([DOG])
    with scr.patch(tiny.model, **FIELDS) as patched, torch.no_grad():
        blocks_run(tiny, [DOG])
        cache = tiny.model(**start.inputs, use_cache=True).past_key_values
        mask = torch.ones(1, start.inputs["input_ids"].shape[1] + turn.inputs["input_ids"].shape[1], dtype=torch.long)
        tiny.model(**{**turn.inputs, "attention_mask": mask}, past_key_values=cache, use_cache=True)
    assert patched.traces[1].milliseconds > 0, "with a diagnostic of its own"
    assert not torch.equal(patched.traces[0].attention, patched.traces[1].attention)


def test_the_oldest_go(tiny, monkeypatch):
    monkeypatch.setattr(kept_maps, "_MOST", 2)
    third = ("USER : <image> describe", [3])
    with scr.patch(tiny.model, **FIELDS):
        counts = [blocks_run(tiny, [one])[1] for one in (DOG, OTHER, DESCRIBE, third, DOG, OTHER)]
    whole = len(tiny.layers)
    assert [count > whole for count in counts] == [True, True, False, True, False, True]


def test_beside_one_that_reads_the_text_there_are_two_maps(tiny):
    inputs = tiny.prompt([DOG]).inputs
    (bare,) = scr.diagnose(tiny.model, inputs, credit=False)
    with scr.patch(tiny.model, **{**FIELDS, "scale": 1.0}) as patched:
        (beside,) = scr.diagnose(tiny.model, inputs, credit=False)
    assert torch.equal(bare.attention, beside.attention)
    assert (patched.traces[0].attention - bare.attention).abs().max() > 1e-3


def test_at_scale_one_nothing_changes(tiny):
    plain, _ = blocks_run(tiny, [DOG])
    with scr.patch(tiny.model, **{**FIELDS, "scale": 1.0}):
        for _ in range(2):
            assert torch.equal(blocks_run(tiny, [DOG])[0], plain)
