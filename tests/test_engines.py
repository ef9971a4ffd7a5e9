"""Both engines of purified decoding against a recomputation without caches, and against each other."""

import inspect

import pytest
import torch
from answers import Spy
from tiny_families import PROMPTS, TINY, VOCABULARY, longer
from transformers import DynamicCache, LogitsProcessor, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

import scr
from hooks import find_family, prompt_positions
from scr.perturb import GaussianBlur, GaussianNoise, perturb_features, perturb_inputs

pytestmark = pytest.mark.usefixtures("one_thread")
ENGINES = ("processor", "joined")
STEPS = 4
# A sampled image token would be taken for an image by a recomputation without caches.
SUPPRESSED = [VOCABULARY["<image>"], VOCABULARY["<video>"]]
GREEDY = {"max_new_tokens": STEPS, "do_sample": False, "suppress_tokens": SUPPRESSED}
SAMPLING = {**GREEDY, "do_sample": True, "temperature": 0.8, "top_k": 0}
LEAST = torch.finfo(torch.float32).min  # how Chameleon bans its image tokens


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request):
    made = TINY[request.param](layers=2)
    made.name = request.param
    return made


@pytest.fixture(scope="module")
def llava():
    return TINY["llava"](layers=2)


class Streamer(BaseStreamer):
    def __init__(self):
        self.put_so_far, self.ends = [], 0

    def put(self, value):
        assert not self.ends
        self.put_so_far.append(value)

    def end(self):
        self.ends += 1


def answers(tiny, options, method="purified", prompts=PROMPTS, **fields):
    """What a method answers, and the scores of every step as the user's processors get them."""
    inputs, spy = tiny.prompt(prompts).inputs, Spy()
    mine = [spy, *options.get("logits_processor", ())]
    torch.manual_seed(1)
    with scr.patch(tiny.model, method, **fields):
        tokens = tiny.model.generate(**inputs, **{**options, "logits_processor": mine})
    return tokens[:, inputs["input_ids"].shape[1] :], torch.stack(spy.scores, dim=1)


def plain(tiny, options, prompts=PROMPTS):
    inputs = tiny.prompt(prompts).inputs
    torch.manual_seed(1)
    return tiny.model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]


@torch.no_grad()
def without_cache(model, inputs, tokens):
    """The logits after the prompt and the tokens chosen so far, in one forward of everything."""
    mask = inputs["attention_mask"]
    new = tokens.shape[1] - mask.shape[1]
    positions = prompt_positions(model, inputs)
    whole = longer(inputs, new)
    whole["input_ids"] = tokens
    whole["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), new)], dim=1)
    whole["position_ids"] = torch.cat([positions, positions[..., -1:] + torch.arange(1, new + 1)], dim=-1)
    return model(**whole, use_cache=False).logits[:, -1].double()


def by_hand(tiny, options, noisy, contrast=0.6):
    """Contrastive decoding in a few lines: no cache, no batch of two branches, double precision."""
    inputs = tiny.prompt().inputs
    tokens, steps = inputs["input_ids"], []
    with_image = torch.tensor([bool(seeds) for _, seeds in PROMPTS])
    torch.manual_seed(1)
    for _ in range(STEPS):
        clean, other = (without_cache(tiny.model, given, tokens) for given in (inputs, noisy))
        banned = clean <= LEAST
        banned[:, SUPPRESSED] = True
        clean = clean.masked_fill(banned, -torch.inf)
        purified = (1 + contrast) * clean - contrast * other.masked_fill(banned, 0)
        purified = purified + clean.logsumexp(-1, keepdim=True) - purified.logsumexp(-1, keepdim=True)
        scores = torch.where(with_image[:, None], purified, clean)
        if options["do_sample"]:
            chosen = torch.multinomial((scores.float() / options["temperature"]).softmax(-1), 1)
        else:
            chosen = scores.argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, chosen], dim=1)
        steps.append(scores)
    return tokens[:, -STEPS:], torch.stack(steps, dim=1)


@pytest.mark.parametrize("options", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
def test_every_step_equals_a_recomputation_of_both_branches(tiny, options):
    noisy = perturb_inputs(tiny.model, tiny.prompt().inputs, GaussianNoise())
    tokens, expected = by_hand(tiny, options, noisy)
    finite = expected.isfinite()
    for engine in ENGINES:
        chosen, scores = answers(tiny, options, engine=engine)
        assert torch.equal(chosen, tokens), engine
        assert torch.equal(finite, scores > LEAST), engine
        assert (scores - expected)[finite].abs().max() < 1e-5 * expected[finite].abs().max(), engine
    with torch.no_grad():
        clean = without_cache(tiny.model, tiny.prompt().inputs, tiny.prompt().inputs["input_ids"])
    assert (expected[:, 0] - clean)[:2][finite[:2, 0]].abs().max() > 0.1, "the contrast does something"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
def test_no_contrast_is_the_base_token_by_token(tiny, engine, options):
    expected = plain(tiny, options)
    for fields in (
        {"contrast": 0.0},
        {"perturbation": GaussianNoise(image_keep=1.0)},
        {"perturbation": GaussianBlur(sigma=0.0)},
    ):
        assert torch.equal(answers(tiny, options, engine=engine, **fields)[0], expected), fields


@pytest.mark.parametrize("engine", ENGINES)
def test_each_branch_keeps_the_keys_of_its_own_image(tiny, engine):
    """VCD's public code fed the clean cache to the noisy branch from the second token on."""
    inputs = tiny.prompt().inputs
    noisy = perturb_inputs(tiny.model, inputs, GaussianNoise())
    length, caches = inputs["input_ids"].shape[1], {}

    def note(module, args, kwargs, output):
        caches[id(output.past_key_values)] = output.past_key_values

    handle = tiny.model.register_forward_hook(note, with_kwargs=True)
    answers(tiny, GREEDY, engine=engine)
    handle.remove()
    held = [cache for cache in caches.values() if cache.layers[-1].keys is not None]
    found = torch.cat([cache.layers[-1].keys for cache in held])
    assert [cache.get_seq_length() for cache in held] == [length + STEPS - 1] * len(held)
    with torch.no_grad():
        positions = prompt_positions(tiny.model, inputs) + find_family(tiny.model).first_position
        expected = [
            tiny.model(**given, position_ids=positions).past_key_values.layers[-1].keys for given in (inputs, noisy)
        ]
    real = inputs["attention_mask"].bool()[:, None, :, None]
    assert ((found[:, :, :length] - torch.cat(expected)) * torch.cat([real, real])).abs().max() < 1e-4
    assert ((expected[0] - expected[1]) * real)[:2].abs().max() > 0.1
    answered = found[:, :, length:].unflatten(0, (2, 3))
    assert (answered[0] - answered[1]).flatten(1).abs().max() > 1e-2, "later tokens saw another image too"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_what_qwen_keeps_of_its_prompt_is_the_prompts_own(name, engine):
    tiny = TINY[name](layers=2)
    inputs = tiny.prompt().inputs
    tiny.model.generate(**inputs, **GREEDY)
    expected = tiny.model.model.rope_deltas.clone()
    assert expected.abs().sum() > 0
    for perturbation in ("gaussian", "features"):
        tiny.model.model.rope_deltas = None
        answers(tiny, GREEDY, engine=engine, perturbation=perturbation)
        assert torch.equal(tiny.model.model.rope_deltas, expected)
    other = tiny.prompt(PROMPTS[:1]).inputs
    scr.PurifiedLogitsProcessor(tiny.model, other)(other["input_ids"], torch.zeros(1, 96))
    assert torch.equal(tiny.model.model.rope_deltas, expected), "a second turn reads it"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("space", ["logits", "logprobs"])
def test_what_is_banned_stays_banned_and_nothing_is_no_number(tiny, engine, space):
    first = plain(tiny, GREEDY)[0, 0].item()
    options = {**GREEDY, "bad_words_ids": [[first], [17, 18]]}
    for fields in ({"contrast": 40.0}, {"contrast": 40.0, "plausibility": 0.5}):
        chosen, scores = answers(tiny, options, engine=engine, space=space, **fields)
        assert not scores.isnan().any()
        assert (scores[:, :, [*SUPPRESSED, first]] == -torch.inf).all()
        assert (scores.amax(-1) > -1e4).all()
        assert first not in chosen
        if tiny.name == "chameleon":
            assert (scores[:2, :, 96 - tiny.codes :] == -torch.inf).all()
            assert (scores[2, :, 96 - tiny.codes :] == LEAST).all(), "a row of text gets the scores that came"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
def test_the_streamer_gets_every_token_and_one_end(llava, engine, options):
    inputs, streamer, stock = llava.prompt().inputs, Streamer(), Streamer()
    with scr.patch(llava.model, "purified", engine=engine):
        tokens = llava.model.generate(**inputs, **options, streamer=streamer)
    assert torch.equal(streamer.put_so_far[0], inputs["input_ids"])
    assert torch.equal(torch.stack(streamer.put_so_far[1:], dim=1), tokens[:, -STEPS:])
    assert streamer.ends == 1
    llava.model.generate(**inputs, **options, streamer=stock)
    assert [put.shape for put in streamer.put_so_far] == [put.shape for put in stock.put_so_far]


@pytest.mark.parametrize("contrast", [0.0, 0.6])
def test_rows_that_end_are_padded_in_both_engines_as_stock_does(tiny, contrast):
    longer = {**GREEDY, "max_new_tokens": 6}
    free = answers(tiny, longer, contrast=contrast, engine="processor")[0]
    ends = [free[0, 1].item(), free[1, 3].item()]
    options = {**longer, "eos_token_id": ends, "pad_token_id": 7}
    one, other = (answers(tiny, options, contrast=contrast, engine=engine) for engine in ENGINES)
    assert torch.equal(one[0], other[0])
    assert one[1].shape == other[1].shape, "both stop at the same step"
    if contrast == 0:
        assert torch.equal(one[0], plain(tiny, options))
    for row, before in zip(one[0].tolist(), free.tolist(), strict=True):
        length = next((index + 1 for index, token in enumerate(before) if token in ends), len(before))
        assert row == before[:length][: len(row)] + [7] * (len(row) - length)
    assert (one[0][0] == 7).any()


class StopsRow(StoppingCriteria):
    """Row 1 at its second token, all at the fourth."""

    def __init__(self, length):
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        stopped = torch.zeros(len(input_ids), dtype=torch.bool)
        new = input_ids.shape[1] - self.length
        stopped[1] = new >= 2
        return stopped | (new >= 4)


def test_stopping_criteria_stop_both_engines_alike(tiny):
    length = tiny.prompt().inputs["input_ids"].shape[1]
    options = {**GREEDY, "max_new_tokens": 9, "stopping_criteria": [StopsRow(length)]}
    one, other = (answers(tiny, options, engine=engine)[0] for engine in ENGINES)
    assert one.shape[1] == 4
    assert torch.equal(one, other)
    with_end = {**options, "eos_token_id": 95, "pad_token_id": 7}
    none, one, other = (
        plain(tiny, with_end),
        *(answers(tiny, with_end, contrast=0.0, engine=engine)[0] for engine in ENGINES),
    )
    assert torch.equal(none, one)
    assert torch.equal(none, other)
    assert none[1, 2:].tolist() == [7, 7], "a row that stops is padded where there is an end token"


class Only(LogitsProcessor):
    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.token] = 0
        return forced


@pytest.mark.parametrize("engine", ENGINES)
def test_the_callers_processors_come_after_the_contrast(llava, engine):
    chosen, _ = answers(llava, {**GREEDY, "logits_processor": [Only(42)]}, engine=engine)
    assert (chosen == 42).all()
    seen = answers(llava, GREEDY, engine=engine)[1][:, 0]
    with torch.no_grad():
        clean = without_cache(llava.model, llava.prompt().inputs, llava.prompt().inputs["input_ids"])
    allowed = seen > -torch.inf
    assert (seen - clean)[allowed].unflatten(0, (3, -1))[:2].abs().max() > 0.1
    assert (seen - clean)[allowed].unflatten(0, (3, -1))[2].abs().max() < 1e-4


def test_a_repetition_penalty_comes_before_the_contrast_in_both_engines(tiny):
    options = {**GREEDY, "repetition_penalty": 1.7, "no_repeat_ngram_size": 2}
    one, other = (answers(tiny, options, engine=engine) for engine in ENGINES)
    assert torch.equal(one[0], other[0])
    finite = one[1] > LEAST
    assert torch.allclose(one[1][finite], other[1][finite], atol=1e-4)
    without = answers(tiny, GREEDY)[1][:, 0]
    kept = (without > LEAST) & finite[:, 0]
    assert (one[1][:, 0] - without)[kept].abs().max() > 0.1


SETTINGS = {
    "quantile": {"strength": {"name": "quantile", "thresholds": (-3.0, -2.0, -1.0)}},
    "continuous": {"strength": "continuous", "confidence": "margin"},
    "plausible": {"plausibility": 0.3, "space": "logprobs"},
    "entropy": {"strength": {"name": "quantile", "thresholds": (-3.0, -2.5, -2.0)}, "confidence": "entropy"},
    "unsure tokens": {"only_below": -1.5},
    "blank": {"perturbation": "blank", "contrast": 2.0},
}


@pytest.mark.parametrize("fields", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("options", [GREEDY, SAMPLING, {**SAMPLING, "num_return_sequences": 2}], ids=str)
def test_every_setting_means_the_same_in_both_engines(llava, fields, options):
    one, other = (answers(llava, options, engine=engine, **fields) for engine in ENGINES)
    assert torch.equal(one[0], other[0])
    finite = one[1].isfinite()
    assert torch.equal(finite, other[1].isfinite())
    assert (one[1] - other[1])[finite].abs().max() < 1e-4


def test_a_rolling_strength_serves_one_prompt_and_refuses_a_batch(llava):
    fields = {"strength": {"name": "rolling", "history": 4}}
    one, other = (
        answers(llava, {**GREEDY, "max_new_tokens": 8}, prompts=PROMPTS[:1], engine=engine, **fields)[0]
        for engine in ENGINES
    )
    assert torch.equal(one, other)
    for engine in ENGINES:
        with pytest.raises(scr.ConfigError, match="rolling history of several streams"):
            answers(llava, GREEDY, engine=engine, **fields)


def own_loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
    """A user's own decoding: the first token alone."""
    inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
    scores = logits_processor(input_ids, model(**inputs).logits[:, -1].float())
    return torch.cat([input_ids, scores.argmax(-1, keepdim=True)], dim=1)


OBSTACLES = {
    "beams": {"num_beams": 2},
    "another decoding loop": {"custom_generate": own_loop},
    "use_cache=False": {"use_cache": False},
    "return_dict_in_generate": {"return_dict_in_generate": True},
    "cache_implementation": {"cache_implementation": "static", "disable_compile": True},
}


@pytest.mark.parametrize("obstacle", list(OBSTACLES))
def test_what_the_joined_loop_cannot_do_is_refused_or_left_to_the_processor(tiny, obstacle):
    if obstacle == "beams":
        tiny.require_copies()
    inputs, options = tiny.prompt().inputs, {**GREEDY, **OBSTACLES[obstacle]}
    with (
        pytest.raises(scr.UnsupportedGenerationError, match=f"got {obstacle}.*engine='processor'"),
        scr.patch(tiny.model, "purified", engine="joined"),
    ):
        tiny.model.generate(**inputs, **options)
    assert "generate" not in vars(tiny.model)
    found = []
    for engine in ("auto", "processor"):
        with scr.patch(tiny.model, "purified", engine=engine):
            out = tiny.model.generate(**inputs, **options)
            found.append(out if isinstance(out, torch.Tensor) else out.sequences)
    assert torch.equal(*found)
    if obstacle not in ("beams", "another decoding loop"):
        assert torch.equal(found[0][:, -STEPS:], answers(tiny, GREEDY, engine="joined")[0])


@pytest.mark.parametrize("option", ["penalty_alpha", "dola_layers"])
def test_a_decoding_that_transformers_moved_away_is_not_replaced_in_silence(llava, option):
    inputs, given = llava.prompt().inputs, {"penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4}}
    given = given.get(option, {"dola_layers": "low"})
    with pytest.raises(ValueError, match="trust_remote_code"):
        llava.model.generate(**inputs, **GREEDY, **given)
    with pytest.raises(ValueError), scr.patch(llava.model, "purified"):  # noqa: PT011  stock's error or ours
        llava.model.generate(**inputs, **GREEDY, **given)


def forwards(tiny, **fields):
    """How many rows each forward of the whole model had."""
    rows = []
    options = {**GREEDY, **fields.pop("options", {})}
    handle = tiny.model.get_output_embeddings().register_forward_hook(
        lambda module, args, output: rows.append(len(output))
    )
    try:
        with scr.patch(tiny.model, "purified", **fields):
            tiny.model.generate(**tiny.prompt().inputs, **options)
    finally:
        handle.remove()
    return rows


def test_auto_joins_where_it_can_and_only_there(tiny):
    joined, single = [3, 3, 6, 6, 6], [3] * 8
    assert forwards(tiny, engine="auto") == forwards(tiny, engine="joined") == forwards(tiny) == joined
    assert forwards(tiny, engine="processor") == single
    assert forwards(tiny, engine="auto", only_below=0.5) == single
    assert forwards(tiny, engine="auto", only_below=-100.0) == [3] * 4, "no noisy forward at all"
    assert forwards(tiny, engine="joined", only_below=-100.0) == joined
    assert forwards(tiny, options={"use_cache": False}) == single
    tiny.require_copies()
    beams = forwards(tiny, options={"num_beams": 2})
    assert sorted(beams[:2]) == [3, 6], "the noisy prompt runs once for all beams"
    assert beams[2:] == [6] * 6


def test_a_processor_of_ones_own_gives_what_the_patch_gives(tiny):
    inputs = tiny.prompt().inputs
    processor = scr.PurifiedLogitsProcessor(tiny.model, inputs)
    out = tiny.model.generate(**inputs, **GREEDY, logits_processor=[processor])
    assert torch.equal(out[:, -STEPS:], answers(tiny, GREEDY, engine="joined")[0])
    with scr.patch(tiny.model, "purified") as patched:
        for _ in range(2):
            assert torch.equal(tiny.model.generate(**inputs, **GREEDY), out), "each call of `generate` starts anew"
        assert patched.config == scr.PurifiedConfig()


@pytest.mark.parametrize("engine", [*ENGINES, "beams"])
def test_noise_on_features_needs_one_run_of_the_vision_tower(tiny, engine):
    if engine == "beams":
        tiny.require_copies()
    inputs, runs = tiny.prompt().inputs, []
    ways = {"num_beams": 2} if engine == "beams" else {}
    encode = tiny.model.base_model.get_image_features

    def counted(*args, **kwargs):
        runs.append(1)
        return encode(*args, **kwargs)

    counted.__signature__ = inspect.signature(encode)  # transformers asks for it
    tiny.model.base_model.get_image_features = counted
    try:
        with scr.patch(tiny.model, "purified", perturbation="features", engine="auto" if ways else engine):
            tiny.model.generate(**inputs, **GREEDY, **ways)
        assert len(runs) == 1
        with scr.patch(tiny.model, "purified", engine="auto" if ways else engine):
            tiny.model.generate(**inputs, **GREEDY, **ways)
        assert len(runs) == 3, "pixels need a second pass"
    finally:
        del tiny.model.base_model.get_image_features


@pytest.mark.parametrize("engine", ENGINES)
def test_noise_on_features_equals_a_branch_computed_by_hand(tiny, engine):
    inputs = tiny.prompt().inputs
    encode, noise = tiny.model.base_model.get_image_features, scr.perturb.FeatureNoise()
    with_pixels = tiny.prompt().inputs

    def noisy_features(*args, **kwargs):
        output = encode(*args, **kwargs)
        name = find_family(tiny.model).features
        output[name] = perturb_features(tiny.model, with_pixels, output[name], noise)
        if tiny.deepstack:
            levels = output.deepstack_features
            output.deepstack_features = [perturb_features(tiny.model, with_pixels, level, noise) for level in levels]
        return output

    noisy_features.__signature__ = inspect.signature(encode)
    clean_forward = without_cache(tiny.model, inputs, inputs["input_ids"])
    tiny.model.base_model.get_image_features = noisy_features
    try:
        other = without_cache(tiny.model, inputs, inputs["input_ids"])
    finally:
        del tiny.model.base_model.get_image_features
    assert (other - clean_forward)[:2].abs().max() > 0.1, "the features are used"
    scores = answers(tiny, GREEDY, engine=engine, perturbation=noise)[1][:, 0]
    allowed = (scores > LEAST) & (other > LEAST)
    expected = clean_forward + 0.6 * (clean_forward - other)
    banned = expected.masked_fill(~allowed, -torch.inf).log_softmax(-1)
    assert (scores.masked_fill(~allowed, -torch.inf).log_softmax(-1) - banned)[:2][allowed[:2]].abs().max() < 1e-4


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_a_cache_with_tokens_is_refused_and_an_empty_one_is_not(tiny, engine):
    inputs = tiny.prompt().inputs
    with torch.no_grad():
        full = tiny.model(**inputs, use_cache=True).past_key_values
    with (
        pytest.raises(scr.UnsupportedGenerationError, match="past_key_values of"),
        scr.patch(tiny.model, "purified", engine=engine),
    ):
        tiny.model.generate(**inputs, **GREEDY, past_key_values=full)
    assert "generate" not in vars(tiny.model)
    if engine != "joined":
        empty = {"past_key_values": DynamicCache(config=tiny.model.config.get_text_config())}
        assert torch.equal(answers(tiny, {**GREEDY, **empty}, engine=engine)[0], answers(tiny, GREEDY)[0])


def test_a_processor_of_ones_own_refuses_candidates_that_were_rejected(llava):
    inputs = llava.prompt([("USER : <image> yes no it yes no it yes no", [1])]).inputs
    options = {"max_new_tokens": 8, "do_sample": False, "suppress_tokens": [*SUPPRESSED, VOCABULARY[":"]]}
    processor = scr.PurifiedLogitsProcessor(llava.model, inputs)
    with pytest.raises(scr.ConfigError, match="tokens that do not go on from those before"):
        llava.model.generate(**inputs, **options, logits_processor=[processor], prompt_lookup_num_tokens=3)
