"""SCR under `generate`: every decoding mode of the first family, against what a cacheless, unbatched run gives."""

import threading

import pytest
import torch
from tiny import inputs_for, tiny_llava
from transformers import GenerationConfig, LogitsProcessor, TextIteratorStreamer

import scr

PROMPTS = [
    ("USER : <image> is there a dog in the image ? ASSISTANT :", [1]),
    ("USER : two of <image> describe <image> yes", [2, 3]),
    ("is there a dog", []),
]


@pytest.fixture(scope="module")
def tiny():
    return tiny_llava()


def generate(tiny, prompts=PROMPTS, **kwargs):
    model, processor = tiny
    options = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    return model.generate(**inputs_for(processor, prompts), **{**options, **kwargs})


def greedy_by_hand(tiny, prompt, steps=6):
    """No generate, no cache: one whole forward per token, the plan recomputed each time on the prompt alone."""
    model, processor = tiny
    inputs = inputs_for(processor, [prompt])
    with torch.no_grad():
        out = model(**inputs, use_cache=True)
        cache, tokens, logits = out.past_key_values, [], [out.logits[:, -1]]
        for _ in range(steps):
            tokens.append(logits[-1].argmax(-1))
            out = model(input_ids=tokens[-1][:, None], past_key_values=cache, use_cache=True)
            logits.append(out.logits[:, -1])
    return torch.stack(tokens, 1)[0], torch.stack(logits[:-1], 1)[0]


def test_greedy_in_a_batch_equals_each_prompt_by_hand(tiny):
    with scr.patch(tiny[0], num_sources=4) as patched:
        out = generate(tiny)
        assert len(patched.traces) == 3, "one diagnostic, at the prefill"
        for row, prompt in enumerate(PROMPTS):
            tokens, logits = greedy_by_hand(tiny, prompt)
            assert torch.equal(out.sequences[row, -6:], tokens)
            assert (torch.stack(out.logits, 1)[row] - logits).abs().max() < 1e-4
    assert not torch.equal(generate(tiny).logits[0][0], out.logits[0][0])


def test_no_cache_equals_cache_with_one_diagnostic(tiny):
    with scr.patch(tiny[0], num_sources=4) as patched:
        cached = generate(tiny)
        before = len(patched.traces)
        uncached = generate(tiny, use_cache=False)
        assert len(patched.traces) == before + 3
    assert torch.equal(cached.sequences, uncached.sequences)


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_caches(tiny, cache):
    with scr.patch(tiny[0], num_sources=4) as patched:
        reference = generate(tiny)
        plans = [trace.sources for trace in patched.traces]
        out = generate(tiny, cache_implementation=cache, disable_compile=True)
        assert all(torch.equal(a, t.sources) for a, t in zip(plans, patched.traces[3:], strict=True))
    assert torch.equal(out.sequences, reference.sequences)
    assert (out.logits[0] - reference.logits[0]).abs().max() < 1e-5


def test_sampling_is_the_sampling_of_the_edited_model(tiny):
    def sampled(**kwargs):
        torch.manual_seed(5)
        return generate(tiny, do_sample=True, temperature=0.8, **kwargs).sequences

    plain = sampled()
    with scr.patch(tiny[0], num_sources=4, scale=1.0):
        assert torch.equal(sampled(), plain)
    with scr.patch(tiny[0], num_sources=4, scale=2.0):
        first = sampled()
        assert torch.equal(sampled(), first)
    assert not torch.equal(first, plain)


def test_num_return_sequences_repeat_the_plan(tiny):
    with scr.patch(tiny[0], num_sources=4) as patched:
        generate(tiny)
        single = {(trace.row, trace.image): trace.sources for trace in patched.traces}
        generate(tiny, do_sample=True, num_return_sequences=2)
        for trace in patched.traces[3:]:
            assert torch.equal(trace.sources, single[trace.row, trace.image])
        assert len(patched.traces) == 6, "the diagnostic runs on the prompt's own rows"


def test_beams(tiny):
    """Beam search scored by hand: the best of all sequences kept, with the edited model's own probabilities."""
    with scr.patch(tiny[0], num_sources=4) as patched:
        out = generate(tiny, num_beams=3, output_scores=True, max_new_tokens=4, length_penalty=0.0)
        assert len(patched.traces) == 3
        for row, prompt in enumerate(PROMPTS):
            inputs = inputs_for(tiny[1], [prompt])
            answer = out.sequences[row, -4:]
            with torch.no_grad():
                prefill = tiny[0](**inputs, use_cache=True)
                logits = [prefill.logits[0, -1]]
                for token in answer[:-1]:
                    step = tiny[0](input_ids=token[None, None], past_key_values=prefill.past_key_values, use_cache=True)
                    logits.append(step.logits[0, -1])
            score = sum(
                torch.log_softmax(values, -1)[token] for values, token in zip(logits, answer, strict=True)
            ).item()
            assert out.sequences_scores[row].item() == pytest.approx(score, abs=1e-3)


def test_streamer_in_another_thread(tiny):
    model, processor = tiny
    with scr.patch(model, num_sources=4):
        expected = generate(tiny, PROMPTS[:1]).sequences[0, -6:]
        streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, timeout=60)
        inputs = inputs_for(processor, PROMPTS[:1])
        options = {"max_new_tokens": 6, "do_sample": False, "streamer": streamer}
        thread = threading.Thread(target=model.generate, kwargs={**inputs, **options})
        thread.start()
        text = "".join(streamer)
        thread.join()
    assert text.split() == processor.tokenizer.decode(expected).split()


def test_four_threads(tiny):
    model, _ = tiny
    with scr.patch(model, num_sources=4, keep_traces=99):
        expected = [generate(tiny, [prompt]).logits[0] for prompt in PROMPTS]
        results: dict[int, torch.Tensor] = {}

        def work(index):
            for _ in range(5):
                results[index] = generate(tiny, [PROMPTS[index % 3]]).logits[0]

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert len(results) == 4
    for index, logits in results.items():
        assert (logits - expected[index % 3]).abs().max() < 1e-5


def test_prompt_lookup_equals_greedy(tiny):
    prompt = [("USER : <image> yes no it yes no it yes no", [1])]
    # What follows these in the prompt is the image, and no model can be given a copied image token.
    options = {"max_new_tokens": 8, "suppress_tokens": tiny[1].tokenizer.convert_tokens_to_ids([":", "<image>"])}
    lengths = []
    handle = tiny[0].model.language_model.norm.register_forward_hook(
        lambda module, args, output: lengths.append(output.shape[1])
    )
    with scr.patch(tiny[0], num_sources=4) as patched:
        greedy = generate(tiny, prompt, **options).sequences
        plan = patched.traces[-1].sources
        lengths.clear()
        looked_up = generate(tiny, prompt, prompt_lookup_num_tokens=3, **options).sequences
        assert lengths[0] == greedy.shape[1] - 8 + 3, "the first forward holds the candidates too"
        assert torch.equal(patched.traces[-1].sources, plan)
    handle.remove()
    assert torch.equal(greedy, looked_up)


def test_a_second_image_in_a_later_turn(tiny):
    model, processor = tiny
    turn = inputs_for(processor, [("USER : <image> is there a dog ?", [1])])
    later = inputs_for(processor, [("USER : <image> is there a dog ? no two of <image> describe", [1, 2])])
    seen = turn["input_ids"].shape[1]
    with scr.patch(model, num_sources=4) as patched, torch.no_grad():
        whole_plan_needs_both = model(**later).logits
        first = patched.traces[0]
        cache = model(**turn, use_cache=True).past_key_values
        length, keys = cache.get_seq_length(), cache.layers[3].keys.clone()
        rest = {
            "input_ids": later["input_ids"][:, seen:],
            "attention_mask": later["attention_mask"],
            "pixel_values": later["pixel_values"][1:],
        }
        out = model(**rest, past_key_values=cache, use_cache=True)
        assert cache.get_seq_length() == length + rest["input_ids"].shape[1]
        assert torch.equal(cache.layers[3].keys[:, :, :length], keys)
        assert (patched.traces[-1].row, patched.traces[-1].image) == (0, 0)
    assert out.logits.shape[1] == rest["input_ids"].shape[1]
    assert whole_plan_needs_both.shape[1] == seen + out.logits.shape[1]
    assert first.image == 0


def test_chunked_prefill_is_refused_for_images_only(tiny):
    with scr.patch(tiny[0]):
        with pytest.raises(scr.UnsupportedGenerationError, match="prefill_chunk_size"):
            generate(tiny, prefill_chunk_size=8)
        generate(tiny, [PROMPTS[2]], prefill_chunk_size=2)


def test_hidden_states_show_the_edit_and_attentions_stay_complete():
    model, processor = tiny_llava(attention="eager")
    inputs = inputs_for(processor, PROMPTS[:1])
    with torch.no_grad():
        plain = model(**inputs, output_hidden_states=True).hidden_states
        with scr.patch(model, num_sources=4) as patched:
            out = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == len(plain) == 9
    assert len(out.attentions) == 8
    tokens = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().flatten()
    source = tokens[patched.traces[0].sources]
    assert torch.equal(out.hidden_states[0], plain[0])
    assert torch.allclose(out.hidden_states[1][0, source], plain[1][0, source] / 1.1)


def test_inputs_embeds_instead_of_ids(tiny):
    model, processor = tiny
    inputs = inputs_for(processor, PROMPTS)
    with scr.patch(model, num_sources=4), torch.no_grad():
        expected = model(**inputs).logits
        embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
        assert torch.equal(model(**inputs, inputs_embeds=embeds).logits, expected)


def test_a_generated_image_token_starts_nothing(tiny):
    model, processor = tiny
    inputs = inputs_for(processor, PROMPTS[:1])
    with scr.patch(model) as patched, torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        before = len(patched.traces)
        token = torch.tensor([[model.config.image_token_id]])
        model(input_ids=token, past_key_values=cache)
        assert len(patched.traces) == before


def test_the_vision_tower_runs_once_and_the_diagnostic_stops_early(tiny):
    model, processor = tiny
    counts: dict[str, int] = {}

    def counting(name):
        return lambda module, args: counts.__setitem__(name, counts.get(name, 0) + 1)

    layers = model.model.language_model.layers
    watched = {"vision": model.model.vision_tower, "first": layers[0], "third": layers[3].mlp, "last": layers[-1]}
    handles = [module.register_forward_pre_hook(counting(name)) for name, module in watched.items()]
    with scr.patch(model), torch.no_grad():
        for call in (lambda: model(**inputs_for(processor, PROMPTS)), lambda: generate(tiny, max_new_tokens=1)):
            counts.clear()
            call()
            assert counts == {"vision": 1, "first": 2, "third": 1, "last": 1}
    [handle.remove() for handle in handles]


def test_gradients_flow_through_the_edit(tiny):
    model, processor = tiny
    inputs = inputs_for(processor, PROMPTS[:1])
    weight = model.model.multi_modal_projector.linear_2.weight
    with scr.patch(model, num_sources=4):
        model(**inputs).logits[0, -1].logsumexp(0).backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
    model.zero_grad(set_to_none=True)


@pytest.mark.usefixtures("one_thread")
def test_bfloat16_runs(tiny):
    model, processor = tiny_llava()
    model = model.to(torch.bfloat16)
    inputs = inputs_for(processor, PROMPTS)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    for method in (name for name in scr.list_methods() if scr.get_method(name).least_beams == 1):
        with scr.patch(model, method, **scr.get_method(method).example) as patched, torch.no_grad():
            out = model.generate(
                **inputs, max_new_tokens=2, do_sample=False, output_scores=True, return_dict_in_generate=True
            )
            assert model(**inputs).logits.isfinite().all()
        scores = torch.stack(out.scores)
        assert not scores.isnan().any()
        assert (scores.amax(-1) > -1e3).all()
        assert len(patched.traces) == (6 if patched.leaves_traces else 0)


def test_another_image_inside_generate_is_none_of_the_calls_own(tiny):
    """A second branch, as contrastive methods run it: same prompt, other picture, with and without caches."""
    model, processor = tiny
    own = inputs_for(processor, [("USER : <image> describe", [1])])
    longer = inputs_for(processor, [("USER : <image> is there a dog in the image ? two of <image> describe", [2, 3])])
    other = {**own, "pixel_values": inputs_for(processor, [("USER : <image> describe", [2])])["pixel_values"]}

    class Branch(LogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.extend(model(**inputs, use_cache=cached).logits[0, -1] for inputs in (other, longer))
            return scores

    for cached in (True, False):
        with scr.patch(model, num_sources=4, keep_traces=99) as patched, torch.no_grad():
            expected = [model(**inputs).logits[0, -1] for inputs in (other, longer)]
            plain = generate(tiny, [("USER : <image> describe", [1])], use_cache=cached, max_new_tokens=3)
            traces = len(patched.traces)
            seen: list[torch.Tensor] = []
            nested = model.generate(
                **own,
                max_new_tokens=3,
                do_sample=False,
                use_cache=cached,
                logits_processor=[Branch()],
                output_logits=True,
                return_dict_in_generate=True,
            )
            assert len(patched.traces) == traces + 1 + 3 * 3
        for index, logits in enumerate(seen):
            assert torch.allclose(logits, expected[index % 2], atol=1e-5)
        for one, two in zip(nested.logits, plain.logits, strict=True):
            assert torch.allclose(one, two, atol=1e-5)


def test_noise_is_the_same_at_every_step_without_a_cache(tiny):
    with scr.patch(tiny[0], "noise_control", num_sources=4):
        cached, uncached = generate(tiny), generate(tiny, use_cache=False)
    for one, two in zip(cached.logits, uncached.logits, strict=True):
        assert (one - two).abs().max() < 1e-4


def test_a_positional_generation_config_is_seen(tiny):
    model, processor = tiny
    inputs = inputs_for(processor, PROMPTS[:1])
    config = GenerationConfig(prefill_chunk_size=8, max_new_tokens=2)
    with scr.patch(model), pytest.raises(scr.UnsupportedGenerationError, match="prefill_chunk_size"):
        model.generate(inputs.pop("input_ids"), config, **inputs)


def test_training_mode_keeps_the_random_numbers_of_dropout():
    model, processor = tiny_llava()
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.3
    model.train()
    inputs = inputs_for(processor, PROMPTS[:1])

    def logits():
        torch.manual_seed(3)
        return model(**inputs).logits.detach()

    plain = logits()
    with scr.patch(model, scale=1.0) as patched:
        assert torch.equal(logits(), plain)
        assert len(patched.traces) == 1


def test_the_plan_does_not_depend_on_ambient_settings(tiny):
    model, processor = tiny
    inputs = inputs_for(processor, PROMPTS[:1])
    with scr.patch(model, num_sources=4) as patched, torch.no_grad():
        model(**inputs)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            model(**inputs)
        finally:
            torch.set_default_dtype(before)
        with torch.inference_mode():
            model(**inputs)
        with torch.autocast("cpu", torch.bfloat16):
            model(**inputs)
        with torch.device("meta"):  # what is made without a device in mind cannot be used with the model
            model(**inputs)
    first, second, third, fourth, fifth = patched.traces
    assert torch.equal(first.attention, fifth.attention)
    assert torch.equal(first.attention, second.attention)
    assert torch.equal(first.attention, third.attention)
    third.attention.add_(1)  # not a tensor of inference mode
    assert len(set(fourth.attention.tolist())) == len(fourth.attention), "no false ties"
