"""`--gen-kwarg`: what cannot run is refused before a model is loaded, what can is run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from tiny import picture

import scr
from benchmarks import run as command
from benchmarks.asking.answering import Answerer, Question
from benchmarks.asking.generation import check_generation
from benchmarks.asking.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0; expected a whole number of 1 or more"),
        ({"max_new_tokens": 1.5}, "max_new_tokens=1.5; expected a whole number of 1 or more"),
        ({"max_new_tokens": True}, "max_new_tokens=True; expected a whole number"),
        ({"max_new_tokens": 10**30}, "expected a whole number"),
        ({"num_beams": 0}, "num_beams=0; expected a whole number of 1 or more"),
        ({"do_sample": "maybe"}, "do_sample='maybe'; expected true or false"),
        ({"do_sample": 1}, "do_sample=1; expected true or false"),
        ({"do_sample": True, "temperature": 0}, "Leave both out, which is greedy decoding"),
        ({"do_sample": True, "temperature": -1.0}, "temperature=-1.0; expected a number of 0 or more"),
        ({"temperature": float("nan")}, "temperature=nan; expected a number"),
        ({"temperature": "hot"}, "temperature='hot'; expected a number"),
        ({"top_p": 1.5}, "top_p=1.5; expected a number above 0 and at most 1"),
        ({"top_k": -1}, "top_k=-1; expected a whole number of 0 or more"),
        ({"min_p": 2}, "min_p=2; expected a number from 0 to 1"),
        ({"epsilon_cutoff": 1}, "epsilon_cutoff=1; expected a number from 0 to below 1"),
        ({"repetition_penalty": 0}, "repetition_penalty=0; expected a number above 0"),
        ({"stop_strings": []}, "stop_strings=\\[\\]; expected a text or a list of texts"),
        ({"stop_strings": [""]}, "expected a text or a list of texts"),
        ({"stop_strings": 5}, "expected a text or a list of texts"),
        ({"suppress_tokens": 5}, "suppress_tokens=5; expected a list of token ids"),
        ({"bad_words_ids": [1]}, "expected a list of lists of token ids"),
        ({"eos_token_id": "x"}, "expected a token id or a list of them"),
        ({"cache_implementation": "swift"}, "cannot be used: got .*Invalid `cache_implementation` \\(swift\\)"),
        ({"early_stopping": [1]}, "cannot be used: got .*; expected what transformers.GenerationConfig takes"),
        ({"compile_config": {}}, "cannot be used"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "whose code lies on the hub: got 'contrastive search'"),
        ({"dola_layers": "high"}, "whose code lies on the hub: got 'dola generation'"),
    ],
)
def test_what_cannot_run_is_refused_at_once(given: dict[str, Any], words: str) -> None:
    with pytest.raises(scr.ConfigError, match=words):
        check_generation(given)


def test_the_command_says_so_in_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.running.plan.find_model", None)
    assert command.main(["--gen-kwarg", "do_sample=maybe"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: generation argument out of range: got do_sample='maybe'; expected"
    )


@pytest.fixture(scope="module")
def answerer(checkpoint: Path) -> Answerer:
    return Answerer(load_model(str(checkpoint)))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        picture(seed).save(folder / f"{seed}.png")
    return [Question(id=str(i), image=folder / f"{i}.png", prompt="is there a dog ?") for i in range(3)]


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": 0},
        {"temperature": 0.0, "do_sample": False},
        {"do_sample": None},
        {"do_sample": True, "top_k": 0, "top_p": 1, "temperature": 2},
        {"num_beams": 2, "length_penalty": -1.0, "early_stopping": True},
        {"num_beams": 2, "do_sample": True},
        {"suppress_tokens": [5], "bad_words_ids": [[6, 7]], "eos_token_id": [2, 3]},
        {"cache_implementation": "static", "use_cache": True, "disable_compile": True},
        {"no_repeat_ngram_size": 2, "repetition_penalty": 1.1, "min_new_tokens": 2},
    ],
)
def test_what_passes_the_check_runs(given: dict[str, Any], answerer: Answerer, questions: list[Question]) -> None:
    found = answerer.answer(questions, {"max_new_tokens": 3, **check_generation(given)}, seed=0, margins=True)
    assert len(found) == 3


@pytest.mark.parametrize("method", ["none", "scr", "purified", "vcd", "dola"])
def test_stop_strings_end_an_answer_where_they_stand(
    method: str, answerer: Answerer, questions: list[Question]
) -> None:
    greedy = {"do_sample": False, "max_new_tokens": 8}
    patch = [] if method == "none" else [scr.patch(answerer._model, method)]

    def answers(**more: Any) -> list[Any]:
        with patch[0] if patch else contextlib.nullcontext():
            return answerer.answer(questions, {**greedy, **more}, seed=0, margins=False)

    whole = answers()
    assert all(answer.new_tokens == 8 for answer in whole)
    stop = whole[0].text.split()[3]
    for given in (stop, [stop, "nowhere"]):
        for before, after in zip(whole, answers(stop_strings=given), strict=True):
            end = before.text.find(stop)
            expected = before.text if end < 0 else before.text[: end + len(stop)]
            assert after.text == expected
            assert after.new_tokens == (8 if end < 0 else len(expected.split()))
