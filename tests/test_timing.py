"""The margin between yes and no, and how a batch's time is split."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import pytest
import torch
from tiny import inputs_for, tiny_llava

from benchmarks.asking.speed import FEWEST_BATCHES, OTHER_PROCESS, summarize_timing
from benchmarks.asking.timing import FirstTokenProbe
from benchmarks.records import SampleRecord
from scr.reading import AnswerTokens, answer_margins, answer_tokens

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


def run(prefills: list[float], decode: float = 4, tokens: int = 3) -> list[SampleRecord]:
    """Two samples per batch, which share its time."""
    return [record(f"{number}-{row}", one, decode, tokens) for number, one in enumerate(prefills) for row in range(2)]


def names(records: list[SampleRecord]) -> set[str]:
    return {one.id for one in records}


def test_times_of_a_run_are_medians_over_batches_with_their_spread() -> None:
    records = run([10, 10, 20, 30, 40])
    timing, reasons = summarize_timing(records, names(records), 2)
    assert reasons == {}
    assert (timing["samples"], timing["batches"]) == (10, 5)
    assert (timing["prefill_ms"], timing["prefill_ms_spread"]) == (20, [10, 30])
    assert (timing["decode_ms"], timing["ms_per_token"], timing["total_ms"]) == (4, 2, 24)
    assert timing["ms_per_token_spread"] == [2, 2]


def test_one_disturbed_batch_moves_no_ratio() -> None:
    baseline, method = run([10, 20, 30, 40, 50, 60]), run([11, 22, 33, 44, 55, 66])
    timing, reasons = summarize_timing(method, names(method), 2, (baseline, names(baseline)))
    assert reasons == {}
    assert timing["prefill_ratio"] == pytest.approx(1.1)
    disturbed = [
        dataclasses.replace(one, decode_ms=1000.0, prefill_ms=2000.0) if one.id.startswith("2-") else one
        for one in method
    ]
    timing, _ = summarize_timing(disturbed, names(method), 2, (baseline, names(baseline)))
    assert timing["prefill_ratio"] == pytest.approx(1.1)
    assert timing["ms_per_token_ratio"] == 1
    assert timing["ms_per_token_ratio_spread"] == [1, 1]
    low, high = timing["total_ratio_spread"]
    assert low < timing["total_ratio"] < high


def test_only_batches_that_one_process_timed_twice_are_compared() -> None:
    baseline, method = run([10] * 7), run([15] * 7)
    there = names(baseline) - {"0-0"}
    timing, reasons = summarize_timing(method, names(method), 2, (baseline, there))
    assert (timing["prefill_ratio"], reasons) == (1.5, {})
    timing, reasons = summarize_timing(method, names(method[:8]), 2, (baseline, there))
    assert timing["prefill_ratio"] is None
    assert reasons["timing.ratio"] == "3 batches were timed, and of fewer than 5 the spread is not known"
    assert timing["prefill_ms"] == 15


def test_a_batch_that_failed_in_one_run_is_compared_in_neither() -> None:
    baseline, method = run([10, 20, 30, 40, 50, 60, 70]), run([10, 20, 30, 40, 50, 60, 70])
    for of, name in ((baseline, "1-0"), (method, "4-1")):
        of[:] = [dataclasses.replace(one, prefill_ms=None) if one.id == name else one for one in of]
    timing, _ = summarize_timing(method, names(method), 2, (baseline, names(baseline)))
    assert (timing["prefill_ratio"], timing["prefill_ratio_spread"]) == (1, [1, 1])
    timing, _ = summarize_timing(method, names(method), 2, (run([10] * 7), names(baseline)))
    assert timing["prefill_ratio"] == 3.5


def test_few_batches_have_no_time() -> None:
    records = run([10] * (FEWEST_BATCHES - 1))
    timing, reasons = summarize_timing(records, names(records), 2, (records, names(records)))
    assert {timing[name] for name in ("prefill_ms", "total_ms", "prefill_ratio", "total_ratio_spread")} == {None}
    assert reasons == {"timing": "4 batches were timed, and of fewer than 5 the spread is not known"}


def test_no_ratio_to_a_baseline_that_another_process_timed() -> None:
    records = run([10] * 6, decode=0, tokens=1)
    timing, reasons = summarize_timing(records, names(records), 2, (records, set()))
    assert reasons == {"timing.ratio": OTHER_PROCESS}
    assert timing["prefill_ratio"] is None
    assert timing["ms_per_token"] is None  # one token each: nothing was decoded after the prefill
