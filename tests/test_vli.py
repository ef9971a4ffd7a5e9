"""VLI's style against a recomputation from the formula, in one forward of everything, without caches or branches."""

import contextlib
import functools

import pytest
import torch
from test_engines import ENGINES, GREEDY, LEAST, SAMPLING, STEPS, SUPPRESSED, answers, plain, without_cache
from test_prompt_branches import covered
from tiny_families import PROMPTS, TINY
from transformers import DynamicCache

import scr
from hooks import find_family
from scr.branches.saliency import once_per_image
from scr.branches.steering import Steering

pytestmark = pytest.mark.usefixtures("one_thread")
SAMPLED = ("qwen2_5_vl", "idefics3", "chameleon")
STRENGTH, ANCHORED = 0.7, 0.5
FIELDS = {"strength": STRENGTH, "anchored": ANCHORED}


@functools.cache
def made(name, attention="sdpa"):
    return TINY[name](layers=3, attention=attention)


def images_of(tiny, inputs):
    """Of the anchors alone, and of all else."""
    context = covered(tiny, inputs, ANCHORED)
    return [{**inputs, "pixel_values": other} for other in (mixed(tiny, inputs, context), context["pixel_values"])]


def mixed(tiny, inputs, context):
    """What the context lacks: whatever was covered there stays, and nothing else."""
    # Idefics3 may keep a mark in a tile that is all 0; none here is.
    hidden = context["pixel_values"] != inputs["pixel_values"]
    return torch.where(hidden, inputs["pixel_values"], 0.0)


@contextlib.contextmanager
def hooked(tiny, hook):
    handles = [
        layer.register_forward_hook(functools.partial(hook, index))
        for index, layer in enumerate(find_family(tiny.model).layers(tiny.model))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def steered_logits(tiny, inputs, tokens, prompts=PROMPTS):
    """After the tokens: every one from the prompt's last on is steered after every block."""
    states, start = [], inputs["input_ids"].shape[1] - 1
    with_image = torch.tensor([bool(seeds) for _, seeds in prompts]).repeat_interleave(len(tokens) // len(prompts))
    for other in images_of(tiny, inputs):
        seen = {}

        def note(index, module, args, output, seen=seen):
            seen[index] = output[0] if isinstance(output, tuple) else output

        with hooked(tiny, note):
            without_cache(tiny.model, other, tokens)
        states.append(seen)

    def steer(index, module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        move = STRENGTH * (states[0][index] - states[1][index])[:, start:]
        hidden[:, start:] += torch.where(with_image[:, None, None], move, 0)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    with hooked(tiny, steer):
        logits = without_cache(tiny.model, inputs, tokens)
    return logits.masked_fill(logits <= LEAST, -torch.inf)


def by_hand(tiny, options):
    inputs, steps = tiny.prompt().inputs, []
    tokens = inputs["input_ids"]
    torch.manual_seed(1)
    for _ in range(STEPS):
        scores = steered_logits(tiny, inputs, tokens)
        scores[:, SUPPRESSED] = -torch.inf
        if options["do_sample"]:
            picked = torch.multinomial((scores.float() / options["temperature"]).softmax(-1), 1)
        else:
            picked = scores.argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, picked], dim=1)
        steps.append(scores)
    return tokens[:, -STEPS:], torch.stack(steps, dim=1)


CASES = [
    *[("llava", options, attention) for options in ("greedy", "sampling") for attention in ("sdpa", "eager")],
    *[(name, "greedy", "sdpa") for name in SAMPLED],
]


@pytest.mark.parametrize(("name", "decoding", "attention"), CASES)
def test_every_step_equals_the_formula(name, decoding, attention):
    tiny, options = made(name, attention), {"greedy": GREEDY, "sampling": SAMPLING}[decoding]
    tokens, expected = by_hand(tiny, options)
    finite = expected.isfinite()
    for engine in ENGINES:
        chosen, scores = answers(tiny, options, "vli", engine=engine, **FIELDS)
        assert torch.equal(chosen, tokens), engine
        assert torch.equal(finite, scores > LEAST), engine
        assert (scores - expected)[finite].abs().max() < 1e-5 * expected[finite].abs().max(), engine
    base = answers(tiny, options, "vli", strength=0.0)[1]
    assert (base - expected)[:2][finite[:2]].abs().max() > 0.1, "the steering matters"


def test_beams_are_steered_by_their_own_tokens():
    tiny = made("llava")
    inputs = tiny.prompt(PROMPTS[:2]).inputs
    with scr.patch(tiny.model, "vli", **FIELDS):
        found = tiny.model.generate(
            **inputs, **GREEDY, num_beams=3, return_dict_in_generate=True, output_scores=True, length_penalty=0.0
        )
    length, total = inputs["input_ids"].shape[1], torch.zeros(2, dtype=torch.float64)
    for step in range(STEPS):
        logits = steered_logits(tiny, inputs, found.sequences[:, : length + step], PROMPTS[:2])
        # Beam search bans tokens after the softmax.
        total += logits.log_softmax(-1).gather(1, found.sequences[:, length + step, None])[:, 0]
    assert torch.allclose(found.sequences_scores.double(), total, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["llava", *SAMPLED])
def test_no_steering_is_the_base_to_the_bit_and_runs_nothing(name, engine):
    tiny = made(name)
    for options in (GREEDY, SAMPLING):
        assert torch.equal(answers(tiny, options, "vli", engine=engine, strength=0.0)[0], plain(tiny, options))
    rows = []
    with hooked(tiny, lambda index, module, args, output: rows.append(len(args[0]))):
        answers(tiny, GREEDY, "vli", engine=engine, strength=0.0)
    assert rows == [len(PROMPTS)] * 3 * STEPS


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["llava", *SAMPLED])
def test_equal_images_are_the_base_token_by_token(name, engine):
    """Where both other images are the image itself, there is no direction to steer in."""
    tiny, fields = made(name), {"fill": {"name": "blur", "sigma": 0.0}, "strength": 5.0}
    assert torch.equal(answers(tiny, GREEDY, "vli", engine=engine, **fields)[0], plain(tiny, GREEDY))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["llava", *SAMPLED])
def test_a_row_gets_what_it_gets_alone(name, engine):
    tiny = made(name)
    tokens, scores = answers(tiny, GREEDY, "vli", engine=engine, **FIELDS)
    for row, prompt in enumerate(PROMPTS):
        own, alone = answers(tiny, GREEDY, "vli", prompts=[prompt], engine=engine, **FIELDS)
        assert torch.equal(own[0], tokens[row])
        finite = alone[0] > LEAST
        assert (alone[0] - scores[row])[finite].abs().max() < 1e-5 * alone[0][finite].abs().max()


def test_several_answers_of_a_prompt_have_each_its_own_tokens():
    tiny, options = made("llava"), {**SAMPLING, "num_return_sequences": 2}
    one, other = (answers(tiny, options, "vli", engine=engine, **FIELDS) for engine in ENGINES)
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[0][0], one[0][1])
    assert torch.allclose(one[1], other[1], atol=1e-4)


def test_both_images_are_made_of_one_map():
    tiny, seen = made("llava"), []

    def first_patch(tiles):
        seen.append(tiles)
        return torch.eye(1, 4).reshape(1, 2, 2).expand(len(tiles), 2, 2)

    answers(tiny, GREEDY, "vli", saliency=first_patch, **FIELDS)
    pixels = tiny.prompt().inputs["pixel_values"]
    assert torch.equal(torch.cat(seen), pixels)
    again = once_per_image(first_patch)
    assert torch.equal(again(pixels[:1]), again(pixels[:1].clone()))
    assert len(seen) == len(pixels) + 1


def test_rows_of_text_and_rows_of_others_stay():
    """Though nothing but rounding would move them."""
    steering = Steering([], 1.0, torch.tensor([True, False]), joined=True)
    steering.follow(torch.zeros(2, 5, dtype=torch.long))
    hidden = torch.arange(6.0)[:, None, None].expand(6, 3, 2)
    edited = steering.after(0, hidden)
    assert edited[0, -1].tolist() == [0 + 2 - 4] * 2
    edited[0, -1] = 0
    assert torch.equal(edited, hidden)


def test_a_model_that_calls_no_hooks_is_refused(monkeypatch):
    tiny = made("llava")
    with scr.patch(tiny.model, "vli"), monkeypatch.context() as patching:
        patching.setattr(torch.compiler, "is_compiling", lambda: True)
        with pytest.raises(scr.UnsupportedGenerationError, match=r"steering saw no layers.*without torch.compile"):
            tiny.model.generate(**tiny.prompt(PROMPTS[:1]).inputs, **GREEDY)


@pytest.mark.parametrize("contrasting", ["vcd", "crops"])  # of one and of two branches
def test_beside_a_method_with_branches_the_first_rows_alone_are_steered(contrasting):
    tiny, found = made("llava"), []
    for first, second in ((contrasting, "vli"), ("vli", contrasting)):
        for engine in ENGINES:  # of the first; the other finds the loop taken
            one, other = (
                scr.patch(tiny.model, name, engine=way, **(FIELDS if name == "vli" else {"plausibility": 0.0}))
                for name, way in ((first, engine), (second, "processor"))
            )
            with one, other:
                found.append(answers(tiny, GREEDY, "yes_shift", shift=0.0, no_tokens=(3,)))
    for tokens, scores in found[1:]:
        assert torch.equal(tokens, found[0][0])
        assert torch.allclose(scores, found[0][1], atol=1e-4)


def test_what_it_cannot_do_is_an_error_with_a_way_out():
    tiny = made("llava")
    inputs = tiny.prompt(PROMPTS[:1]).inputs
    cache = DynamicCache()
    with torch.no_grad():
        embeds = tiny.model.get_input_embeddings()(inputs["input_ids"])
        tiny.model(input_ids=torch.tensor([[1, 2, 3]]), past_key_values=cache)
    before = vars(tiny.model).get("prepare_inputs_for_generation")
    with scr.patch(tiny.model, "vli"):
        for options in ({"use_cache": False}, {"prefill_chunk_size": 4}):
            with pytest.raises(scr.UnsupportedGenerationError, match=r"steers each token once.*Leave \w+ out"):
                tiny.model.generate(**inputs, **options, **GREEDY)
        with pytest.raises(scr.UnsupportedGenerationError, match=r"cannot go on from a cache.*Give the whole"):
            tiny.model.generate(**inputs, past_key_values=cache, **GREEDY)
        with pytest.raises(scr.ConfigError, match=r"a prompt without ids.*Pass what the processor returns"):
            tiny.model.generate(**{**inputs, "inputs_embeds": embeds, "input_ids": None}, **GREEDY)
    assert vars(tiny.model).get("prepare_inputs_for_generation") is before
