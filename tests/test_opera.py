"""OPERA against transformers' own beam search, and against a search in plain Python without caches."""

import contextlib
import copy
import math
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from test_patch_undo import everything_on
from tiny_families import PROMPTS, TINY, VOCABULARY
from transformers import DynamicCache, LogitsProcessor, Qwen2Config, StaticCache, StoppingCriteria

import hooks
import scr
from hooks.prefills.attention import highest_of_heads
from scr.decoding import opera as loops
from scr.decoding.rollback import Trail
from scr.decoding.running import RunningRows

pytestmark = pytest.mark.usefixtures("one_thread")
SUPPRESSED = [VOCABULARY["<image>"], VOCABULARY["<video>"]]
BEAMS = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False, "suppress_tokens": SUPPRESSED}
ENDS = list(range(40, 56))
LONG = 16


def made(attention="sdpa"):
    tiny = TINY["llava"](layers=2, attention=attention)
    # An image's token is no candidate: a forward without a cache would look for its image.
    tiny.model.lm_head.weight.data[SUPPRESSED] = 0
    return tiny


@pytest.fixture(scope="module")
def llava():
    return made()


@pytest.fixture(scope="module")
def eager():
    return made("eager")


@pytest.fixture
def returns(monkeypatch):
    """(kept, length) of every return of any search."""
    seen, go_back = [], Trail.go_back

    def noted(trail, kept, vocab):
        seen.append((kept, len(trail.moments) - 1))
        go_back(trail, kept, vocab)

    monkeypatch.setattr(Trail, "go_back", noted)
    return seen


def answer(tiny, prompts=PROMPTS, **options):
    inputs = tiny.prompt(prompts).inputs
    return tiny.model.generate(**inputs, **{**BEAMS, **options})[:, inputs["input_ids"].shape[1] :]


def drawing(attention, keys, column):
    """Rows of attention with most of it on one token of the answer, once that is there."""
    changed = attention.clone()
    changed[..., list(keys[column : column + 1])] *= 40
    return changed


@contextlib.contextmanager
def strong_columns(monkeypatch, columns):
    """Inside, the token number `columns[patches]` of an answer to a prompt of so many patches draws its attention."""

    class Drawn(loops.Search):
        def __init__(self, tokens, image, settings, rules):
            super().__init__(tokens, image, settings, rules)
            self.column = columns.get(len(image), math.inf)

        def drawn(self, attention):
            keys = [*self._columns, attention.shape[-1] - 1]
            return attention if self.column == math.inf else drawing(attention, keys, self.column)

        def weigh(self, logits, candidates, attention):
            super().weigh(logits, candidates, self.drawn(attention))

        def fed(self, column, attention):
            super().fed(column, None if attention is None else self.drawn(attention))

    with monkeypatch.context() as patched:
        patched.setattr(loops, "Search", Drawn)
        yield


# What follows is OPERA from its formulas: whole forwards, products, lists and copies of the whole state.


class Plain:
    """One prompt without padding."""

    def __init__(self, tiny, prompt, column):
        self.tiny, self.column, self.known = tiny, column, {}
        self.inputs = tiny.prompt([prompt]).inputs
        self.ids = self.inputs.pop("input_ids")[0].tolist()
        self.image = [index for index, token in enumerate(self.ids) if token == VOCABULARY["<image>"]]

    def run(self, tokens):
        if tuple(tokens) not in self.known:
            self.known[tuple(tokens)] = self.forward(tokens)
        logits, *rest = self.known[tuple(tokens)]
        return logits.clone(), *rest

    def forward(self, tokens):
        """Logits, the shares of attention among the answer's tokens, and that of the image in the last row."""
        whole = torch.tensor([self.ids + tokens])
        given = {**self.inputs, "attention_mask": torch.ones_like(whole), **self.tiny.token_types(whole)}
        with torch.no_grad():
            out = self.tiny.model(input_ids=whole, **given, output_attentions=True)
        rows = out.attentions[-1][0].amax(0).double()
        rows = drawing(rows, range(len(self.ids), len(rows)), self.column)
        rows = rows / rows.sum(-1, keepdim=True)
        return out.logits[0, -1].double(), rows[len(self.ids) :, len(self.ids) :], float(rows[-1, self.image].sum())

    def weighed(self, tokens, penalty, candidates, official):
        """The logits with penalties, and the place that most candidates trust most."""
        logits = self.run(tokens)[0]
        penalised, places = logits - 999, []
        for token in logits.topk(candidates).indices.tolist():
            _, local, seen = self.run([*tokens, token])
            products = [1e-7 * math.prod((50 * local[j:, j]).tolist()) for j in range(len(tokens) + 1)]
            if official:
                products = torch.tensor(products).half().tolist()
            amount = max(products)
            places.append(products.index(amount))
            if official and len(tokens) < 10:
                amount = -seen
            penalised[token] = logits[token] - (penalty * amount if official else min(penalty * amount, 500.0))
        return penalised if penalty else logits, mode(places)

    def search(self, length, beams, penalty=1.0, candidates=5, threshold=15, official=False):
        """The best beam's tokens, and the returns."""
        # Beams of tokens, score and locations, before each step; what was taken at each, and what may not be again.
        before, taken, banned = {}, {}, {}
        state, times, log, is_open = [([], 0.0, []), *[([], -1e9, [])] * (beams - 1)], Counter(), [], False
        while len(state[0][0]) < length:
            step = len(state[0][0])
            before[step] = copy.deepcopy(state)
            if is_open:
                scores = [self.run(tokens)[0] for tokens, _, _ in state]
                for beam, token in banned[step]:
                    scores[beam][token] = scores[beam].min()
            else:
                weighed = [self.weighed(tokens, penalty, candidates, official) for tokens, _, _ in state]
                scores = [penalised for penalised, _ in weighed]
                state = [
                    (tokens, score, [*old, new]) for (tokens, score, old), (_, new) in zip(state, weighed, strict=True)
                ]
                place = mode([places[-1] for _, _, places in state])
                if place >= 10 and all(places.count(place) > threshold for _, _, places in state):
                    wanted = min(place + 1, step - 1)
                    kept = next((one for one in (wanted, wanted - 1) if times[one] < candidates), None)
                    if kept is not None:
                        log.append((kept, step))
                        times[kept] += 1
                        banned = {one: pairs for one, pairs in banned.items() if one <= kept}
                        banned[kept] = banned.get(kept, []) + taken[kept]
                        state, is_open = copy.deepcopy(before[kept]), True
                        continue
            is_open, found = False, []
            for beam, ((_, score, _), logits) in enumerate(zip(state, scores, strict=True)):
                log_probs = logits.log_softmax(-1)
                log_probs[SUPPRESSED] = -math.inf
                found += [(score + one, beam, token) for token, one in enumerate(log_probs.tolist())]
            best = sorted(found, key=lambda one: -one[0])[:beams]
            taken[step] = [(beam, token) for _, beam, token in best]
            state = [([*state[beam][0], token], score, list(state[beam][2])) for score, beam, token in best]
        return state[0][0], log


def mode(values):
    times = Counter(values)
    return min(value for value in times if times[value] == max(times.values()))


@pytest.mark.parametrize(
    ("column", "options"),
    [
        (0, {}),
        (10, {"threshold": 3, "candidates": 3, "penalty": 3.0}),
        (11, {"threshold": 2, "candidates": 2, "penalty": 0.0}),
        (10, {"threshold": 2, "candidates": 3, "official": True}),
    ],
    ids=str,
)
def test_it_is_what_the_formulas_say(llava, eager, monkeypatch, returns, column, options):
    tokens, log = Plain(eager, PROMPTS[0], column).search(LONG, 2, **options)
    fields = {name: value for name, value in options.items() if name != "official"}
    fields["compat"] = "official" if options.get("official") else "paper"
    with strong_columns(monkeypatch, {25: column}), scr.patch(llava.model, "opera", **fields):
        found = answer(llava, PROMPTS[:1], num_beams=2, max_new_tokens=LONG)
    assert found[0].tolist() == tokens
    assert returns == log
    assert bool(log) == (column >= 10)
    assert found.tolist() != answer(llava, PROMPTS[:1], num_beams=2, max_new_tokens=LONG).tolist()


class Rounds(LogitsProcessor):
    count = 0

    def __call__(self, input_ids, scores):
        self.count += 1
        return scores


SEARCHES = [
    {},
    {"num_beams": 5, "length_penalty": -1.0, "early_stopping": True, "num_return_sequences": 3},
    {"num_beams": 2, "length_penalty": 2.0, "early_stopping": "never", "no_repeat_ngram_size": 2},
    {"num_beams": 4, "length_penalty": 0.0, "min_new_tokens": 4, "repetition_penalty": 1.3},
]


@pytest.mark.parametrize("threshold", [None, 10**6])
@pytest.mark.parametrize("ends", [None, ENDS], ids=["no end", "ends"])
@pytest.mark.parametrize("options", SEARCHES, ids=str)
def test_without_penalties_and_returns_it_is_transformers_own_search(llava, options, ends, threshold):
    theirs, ours = Rounds(), Rounds()
    options = {**options, "eos_token_id": ends}
    base = answer(llava, **options, logits_processor=[theirs])
    with scr.patch(llava.model, "opera", penalty=0, threshold=threshold):
        assert torch.equal(answer(llava, **options, logits_processor=[ours]), base)
    assert ours.count == theirs.count


def test_the_searches_above_end_at_different_lengths(llava):
    found = [answer(llava, **options, eos_token_id=ENDS) for options in SEARCHES]
    lengths = {int(sum(token not in ENDS for token in row)) for rows in found for row in rows.tolist()}
    assert len(lengths) > 3


@pytest.mark.parametrize("family", ["qwen2_vl", "idefics3", "chameleon"])
def test_other_families_search_as_transformers_does(family):
    tiny = TINY[family](layers=2)
    base = answer(tiny, eos_token_id=ENDS)
    with scr.patch(tiny.model, "opera", penalty=0, threshold=10**6):
        assert torch.equal(answer(tiny, eos_token_id=ENDS), base)
    with scr.patch(tiny.model, "opera", penalty=100, compat="official"):
        assert not torch.equal(answer(tiny, eos_token_id=ENDS)[:2], base[:2])


@pytest.mark.parametrize(
    ("family", "prompts"), [("llava", (0,)), ("llava", (1,)), ("llava", (0, 1)), ("qwen2_vl", (0,))], ids=str
)
def test_a_row_gets_what_it_gets_alone_whoever_goes_back(family, prompts, monkeypatch, returns):
    tiny = TINY[family](layers=2)
    pictures = [[tiny.picture(seed) for seed in seeds] for _, seeds in PROMPTS]
    seen = [sum(len(picture.patches) for picture in one) for one in pictures]
    options = {"max_new_tokens": LONG, "num_beams": 2, "no_repeat_ngram_size": 4}
    base = answer(tiny, **options)
    fields = {"threshold": 2, "candidates": 2}
    columns = {seen[prompt]: 10 + prompt for prompt in prompts}
    with strong_columns(monkeypatch, columns), scr.patch(tiny.model, "opera", **fields):
        batch = answer(tiny, **options)
        together = sorted(returns)
        returns.clear()
        for row, prompt in enumerate(PROMPTS):
            assert torch.equal(answer(tiny, [prompt], **options)[0], batch[row])
        assert sorted(returns) == together
    assert {kept for kept, _ in together} >= {column + 1 for column in columns.values()}
    assert torch.equal(batch[2], base[2]), "text alone"


def test_penalties_are_on_the_scores_that_processors_get(llava):
    class Spy(LogitsProcessor):
        def __init__(self):
            self.seen = []

        def __call__(self, input_ids, scores):
            self.seen.append((input_ids.clone(), scores.clone()))
            return scores

    plain, penalised = Spy(), Spy()
    answer(llava, logits_processor=[plain], suppress_tokens=None)
    with scr.patch(llava.model, "opera", candidates=4):
        answer(llava, logits_processor=[penalised], suppress_tokens=None)
    before, after = plain.seen[0][1], penalised.seen[0][1]
    assert (after.exp().sum(-1) - 1).abs().max() < 1e-5
    assert torch.equal(after[6:], before[6:]), "the row of text alone"
    assert ((after[:6] > -900).sum(-1) == 4).all()
    assert torch.equal(after[:6].argsort(-1)[:, -4:], before[:6].argsort(-1)[:, -4:])
    assert [ids.shape for ids, _ in penalised.seen] == [ids.shape for ids, _ in plain.seen]


def test_processors_see_the_whole_batch_at_each_length(llava, monkeypatch, returns):
    class Spy(LogitsProcessor):
        def __init__(self):
            self.shapes = []

        def __call__(self, input_ids, scores):
            assert len(input_ids) == len(scores) == 9
            self.shapes.append(input_ids.shape[1])
            return scores

    spy = Spy()
    with strong_columns(monkeypatch, {25: 10}), scr.patch(llava.model, "opera", threshold=2, candidates=2):
        answer(llava, max_new_tokens=LONG, logits_processor=[spy])
    assert returns[0] == (11, 13)
    # The others take their token in that round; from then on they are three tokens ahead.
    assert spy.shapes[:18] == [spy.shapes[0] + length for length in [*range(14), 11, 14, 12, 15]]


@pytest.mark.parametrize("compat", ["paper", "official"])
def test_it_nests_with_scr_in_either_order(llava, compat):
    found = []
    for first, second in (("scr", "opera"), ("opera", "scr")):
        fields = {"scr": {"scale": 1.5}, "opera": {"compat": compat}}
        with scr.patch(llava.model, first, **fields[first]), scr.patch(llava.model, second, **fields[second]):
            found.append(answer(llava))
    with scr.patch(llava.model, "opera", compat=compat):
        alone = answer(llava)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], alone)


@pytest.mark.parametrize(("other", "error"), [("vcd", scr.ConfigError), ("dola", scr.UnsupportedGenerationError)])
def test_a_return_beside_a_method_that_cannot_is_its_error(llava, monkeypatch, returns, other, error):
    before = everything_on(llava.model)

    def long_answer(threshold):
        drawn = strong_columns(monkeypatch, {25: 10})
        with drawn, scr.patch(llava.model, other), scr.patch(llava.model, "opera", threshold=threshold):
            answer(llava, max_new_tokens=LONG)

    with pytest.raises(error):
        long_answer(threshold=2)
    assert returns
    assert everything_on(llava.model) == before
    long_answer(threshold=None)


def test_after_a_step_mask_and_positions_are_one_token_further(llava):
    inputs = llava.prompt().inputs
    with torch.no_grad():
        outputs = llava.model(**inputs, use_cache=True)
    positions = inputs["attention_mask"].cumsum(1) - 1
    after = hooks.after_step(
        llava.model, outputs, {"attention_mask": inputs["attention_mask"], "position_ids": positions}
    )
    assert after["past_key_values"] is outputs.past_key_values
    assert torch.equal(after["position_ids"][:, -1], positions[:, -1] + 1)
    assert after["attention_mask"][:, -1].all()
    assert torch.equal(after["attention_mask"][:, :-1], inputs["attention_mask"])


def test_the_highest_of_heads_on_other_processes_counts(monkeypatch):
    def all_reduce(values, operation, group):
        assert (operation, group) == (torch.distributed.ReduceOp.MAX, "the heads")
        values.copy_(values.maximum(torch.tensor([0.2, 0.9])))

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr("hooks.compat.head_group", lambda module, heads: "the heads")
    module = SimpleNamespace(config=SimpleNamespace(num_attention_heads=4))
    own = torch.tensor([0.5, 0.5])
    assert highest_of_heads(own.clone(), module, 2).tolist() == pytest.approx([0.5, 0.9])
    assert torch.equal(highest_of_heads(own, module, 4), own)


@pytest.mark.parametrize("number", [0, 2])
def test_an_error_on_the_way_leaves_the_model_as_it_was(llava, number):
    class Fails(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            if input_ids.shape[1] == length + number + 1:
                raise RuntimeError("on the way")
            return torch.zeros(len(input_ids), dtype=torch.bool)

    base, length = answer(llava), llava.prompt().inputs["input_ids"].shape[1]
    before = everything_on(llava.model)
    with scr.patch(llava.model, "opera"), pytest.raises(RuntimeError, match="on the way"):
        answer(llava, stopping_criteria=[Fails()])
    assert everything_on(llava.model) == before
    assert torch.equal(answer(llava), base)
    assert "generate" not in vars(llava.model)


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"num_beams": 1}, "num_beams=1; expected at least 2"),
        ({"do_sample": True}, "do_sample"),
        ({"use_cache": False}, "use_cache=False"),
        ({"cache_implementation": "static"}, "cache_implementation"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"prefill_chunk_size": 4}, "prefill_chunk_size"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"streamer": ...}, "streamer"),
        ({"force_words_ids": [[5]]}, "constrained beams"),
        ({"custom_generate": print}, "another decoding loop"),
        ({"num_beam_groups": 3}, "num_beam_groups"),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens"),
    ],
    ids=str,
)
def test_what_it_cannot_do_is_refused(llava, options, got):
    before = everything_on(llava.model)
    with pytest.raises(scr.UnsupportedGenerationError, match=f"got {got}"), scr.patch(llava.model, "opera"):
        answer(llava, **options)
    assert everything_on(llava.model) == before
    text = [("is there a dog", [])]
    with scr.patch(llava.model, "opera"):
        assert torch.equal(answer(llava, text), answer(llava, text)), "text alone needs no beams"


def test_a_cache_from_before_and_embeddings_are_refused(llava):
    inputs = llava.prompt(PROMPTS[:1]).inputs
    cache = StaticCache(config=llava.model.config.get_text_config(), max_cache_len=99)
    with scr.patch(llava.model, "opera"):
        with pytest.raises(scr.UnsupportedGenerationError, match="a cache from before"):
            llava.model.generate(**inputs, **BEAMS, past_key_values=cache)
        inputs["inputs_embeds"] = llava.model.get_input_embeddings()(inputs.pop("input_ids"))
        with pytest.raises(scr.UnsupportedGenerationError, match="inputs_embeds"):
            llava.model.generate(**inputs, **BEAMS)


def test_sliding_windows_are_refused():
    config = Qwen2Config(num_hidden_layers=2, use_sliding_window=True, sliding_window=4, max_window_layers=0)
    with pytest.raises(scr.UnsupportedGenerationError, match="got sliding windows; expected a DynamicCache"):
        RunningRows(None, {"past_key_values": DynamicCache(config=config)}, remember=False)
    with pytest.raises(scr.UnsupportedGenerationError, match="got NoneType"):
        RunningRows(None, {}, remember=False)


def test_bfloat16(llava):
    model = copy.deepcopy(llava.model).to(torch.bfloat16)
    inputs = llava.prompt().inputs
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    with scr.patch(model, "opera", penalty=100, compat="official"):
        found = model.generate(**inputs, **BEAMS)
    assert not torch.equal(found[:2], model.generate(**inputs, **BEAMS)[:2])


def test_a_search_in_another_thread_goes_on_when_the_patch_goes(llava):
    class Pause(LogitsProcessor):
        def __init__(self):
            self.reached, self.go_on = threading.Event(), threading.Event()

        def __call__(self, input_ids, scores):
            self.reached.set()
            assert self.go_on.wait(60)
            return scores

    before, pause, found = everything_on(llava.model), Pause(), []
    with scr.patch(llava.model, "opera"):
        expected = answer(llava)
        thread = threading.Thread(target=lambda: found.append(answer(llava, logits_processor=[pause])))
        thread.start()
        assert pause.reached.wait(60)
    pause.go_on.set()
    thread.join(60)
    assert torch.equal(found[0], expected)
    assert everything_on(llava.model) == before


def test_the_published_values_are_the_defaults():
    assert scr.get_method("opera").config_class().to_dict() == {
        "penalty": 1.0,
        "scale": 50.0,
        "candidates": 5,
        "threshold": 15,
        "compat": "paper",
    }
    assert scr.get_method("opera").least_beams == 2


def test_fewer_beams_than_a_method_needs_are_refused_before_it_is_put_on():
    scr.check_beams(["scr", "opera"], {"num_beams": 2})
    with pytest.raises(scr.ConfigError, match="opera searches with beams: got num_beams=1; expected at least 2"):
        scr.check_beams(["scr", "opera"], {"num_beams": None})
