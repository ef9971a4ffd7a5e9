"""The margin between yes and no, and how a batch's time is split."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from tiny import inputs_for, tiny_llava

from benchmarks.records import SampleRecord
from benchmarks.speed import OTHER_PROCESS, summarize_timing
from benchmarks.timing import AnswerTokens, FirstTokenProbe, answer_margins, answer_tokens

CPU = torch.device("cpu")


class FakeTokenizer:
    """Encodes by a table; what is not in it is the unknown token 0."""

    all_special_ids = (0,)

    def __init__(self, table: dict[str, list[int]]) -> None:
        self.table = table

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return self.table.get(text, [0])


def test_tokens_of_every_spelling() -> None:
    tokenizer = FakeTokenizer({"Yes": [5], "yes": [6], " Yes": [7], "No": [8], " no": [9, 1]})
    assert answer_tokens(tokenizer) == AnswerTokens(yes=(5, 6, 7), no=(8, 9))


def test_a_token_that_begins_both_words_says_nothing() -> None:
    tokenizer = FakeTokenizer({"Yes": [5], " Yes": [3, 5], "No": [8], " No": [3, 8]})
    assert answer_tokens(tokenizer) == AnswerTokens(yes=(5,), no=(8,))


def test_words_that_cannot_be_told_apart_have_no_margin_but_a_reason() -> None:
    for table in ({"Yes": [3, 5], "No": [3, 8]}, {}):
        tokens = answer_tokens(FakeTokenizer(table))
        assert "begin with the same token" in (tokens.reason or "")
        assert answer_margins(torch.zeros(2, 10), tokens) == [None, None]


def test_margin_is_a_difference_of_log_sum_exps() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 0.0, 0.0, -1.0]])
    margins = answer_margins(scores, AnswerTokens(yes=(0, 1), no=(2,)))
    expected = [math.log(math.exp(0) + math.exp(1)) - 2, math.log(math.exp(4) + math.exp(0)) - 0]
    assert margins == pytest.approx(expected, abs=1e-6)


def test_margin_where_a_processor_has_forbidden_words() -> None:
    infinity = float("inf")
    scores = torch.tensor([[-infinity, -infinity], [-infinity, 0.0], [0.0, -infinity]])
    none, least, most = answer_margins(scores, AnswerTokens(yes=(0,), no=(1,)))
    assert none is None
    assert least == -torch.finfo(torch.float32).max == -most  # finite: JSON knows no infinity


def test_probe_looks_once_and_changes_nothing() -> None:
    probe = FirstTokenProbe(rows=2, tokens=AnswerTokens(yes=(0,), no=(1,)), device=CPU)
    first, later = torch.tensor([[3.0, 1.0], [0.0, 5.0]]), torch.zeros(2, 2)
    assert probe(torch.zeros(2, 1, dtype=torch.long), first) is first
    at = probe.first_logits_at
    assert probe(torch.zeros(2, 2, dtype=torch.long), later) is later
    assert probe.margins == [2.0, -5.0]
    assert probe.first_logits_at == at


def test_probe_takes_the_first_beam_of_each_prompt() -> None:
    probe = FirstTokenProbe(rows=2, tokens=AnswerTokens(yes=(0,), no=(1,)), device=CPU)
    probe(torch.zeros(6, 1, dtype=torch.long), torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3))
    assert probe.margins == [1.0, -1.0]


def test_time_is_split_at_the_first_logits_and_shared_by_the_rows() -> None:
    probe = FirstTokenProbe(rows=4, tokens=None, device=CPU)
    assert probe.timing(1.0, 3.0) == pytest.approx((500, 0))
    probe.first_logits_at = 1.5
    assert probe.timing(1.0, 3.0) == pytest.approx((125, 375))


def test_margin_is_measured_after_what_other_processors_did() -> None:
    model, processor = tiny_llava()
    inputs = inputs_for(processor, [("USER : <image> is there a dog ? ASSISTANT :", [0])])
    tokens = answer_tokens(processor.tokenizer)

    def shift(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        moved = scores.clone()
        moved[:, list(tokens.yes)] += 10
        return moved

    margins = []
    for processors in ([], [shift]):
        probe = FirstTokenProbe(rows=1, tokens=tokens, device=CPU)
        started = time.perf_counter()
        model.generate(**inputs, max_new_tokens=2, do_sample=False, logits_processor=[*processors, probe])
        assert started < probe.first_logits_at < time.perf_counter()
        margins.append(probe.margins[0])
    assert margins[1] - margins[0] == pytest.approx(10, abs=1e-4)


def record(name: str, prefill: float, decode: float, tokens: int) -> SampleRecord:
    fields: dict[str, Any] = {"image": "a", "prompt": "", "target": "yes", "output": ""}
    return SampleRecord(id=name, prefill_ms=prefill, decode_ms=decode, new_tokens=tokens, **fields)


def test_times_of_a_run_and_their_ratio() -> None:
    baseline = [record("a", 10, 4, 3), record("b", 20, 2, 2)]
    method = [record("a", 15, 4, 3), record("b", 1000, 1000, 2)]
    timing, reason = summarize_timing(baseline, {"a", "b"})
    assert reason is None
    assert timing == {"samples": 2, "prefill_ms": 15, "decode_ms": 3, "total_ms": 18, "ms_per_token": 2}
    # Only what one process timed with both is compared: here sample a.
    timing, reason = summarize_timing(method, {"a"}, (baseline, {"a", "b"}))
    assert reason is None
    assert timing["prefill_ratio"] == 1.5
    assert timing["ms_per_token_ratio"] == 1
    assert timing["total_ratio"] == pytest.approx(19 / 14)


def test_no_ratio_to_a_baseline_that_another_process_timed() -> None:
    records = [record("a", 10, 0, 1)]
    timing, reason = summarize_timing(records, {"a"}, (records, set()))
    assert reason == OTHER_PROCESS
    assert timing["prefill_ratio"] is None
    assert timing["ms_per_token"] is None  # one token each: nothing was decoded after the prefill
