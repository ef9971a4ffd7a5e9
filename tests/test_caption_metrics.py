"""Words of captions, and CIDEr-D, BLEU and ROUGE-L from them: numbers of pycocoevalcap 1.2, and numbers by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tasks.caption.metrics import (
    bleu,
    bleu_intervals,
    bleu_sums,
    caption_scores,
    cider_d,
    resampled_bleu,
    rouge_l,
)
from benchmarks.tasks.caption.tokens import RULES, tokenize

REFERENCES = {
    "1": ["A brown dog sleeps on a bed.", "The dog's bed (a blue one) is small.", "Dog lying on top of a bed"],
    "2": ["Two men ride horses along the beach.", "People on horseback, by the sea"],
    "3": ["A plate of food with broccoli and rice!", "a white plate topped with rice and vegetables"],
    "4": ["A train at a station"],
}
CAPTIONS = {
    "1": "A dog is lying on the bed.\nIt can't be seen (well).",
    "2": "Two people ride on horses",
    "3": "A plate of rice; broccoli - and meat",
    "4": "",
}
# What PTBTokenizer, Bleu(4), Cider() and Rouge() of pycocoevalcap 1.2 make of the two mappings above:
# images → BLEU-1 to BLEU-4, CIDEr-D and ROUGE-L of each caption.
GOLDEN = {
    "1234": (
        [0.662843938331915, 0.3144144867540285, 0.16150164601561803, 2.1391973545790007e-05],
        [0.6214346259417662, 1.0406472906073838, 2.3271136869897084, 0.0],
        [0.3891547049441786, 0.48541114058355433, 0.6587473002159828, 0.0],
    ),
    "12": (
        [0.6999999999650001, 0.19720265942624607, 1.344523871611803e-06, 3.629897645360061e-09],
        [0.6780671947809537, 1.032289104037394],
        [0.3891547049441786, 0.48541114058355433],
    ),
    "1": (
        [0.5999999999600001, 0.2070196677884122, 1.488309614918075e-06, 4.0712207752494026e-09],
        [0.0],
        [0.3891547049441786],
    ),
}


def scores(ids):
    return caption_scores(
        [tokenize(CAPTIONS[one]) for one in ids], [[tokenize(text) for text in REFERENCES[one]] for one in ids]
    )


@pytest.mark.parametrize("ids", GOLDEN)
def test_scores_are_those_of_pycocoevalcap(ids):
    found, (bleus, ciders, rouges) = scores(ids), GOLDEN[ids]
    assert bleu(found.bleu_sums.sum(axis=0)) == pytest.approx(bleus, rel=1e-9)
    assert found.cider == pytest.approx(ciders, abs=1e-12)
    assert found.rouge_l == pytest.approx(rouges, abs=1e-12)


def test_scores_of_real_captions(test_data):
    """The first caption of each of 29 images against the others: numbers of pycocoevalcap 1.2, its own words."""
    rows = json.loads((test_data / "coco_sample" / "captions.json").read_text())["annotations"]
    texts = {}
    for row in rows:
        texts.setdefault(row["image_id"], []).append(tokenize(row["caption"]))
    ids = sorted(texts)
    found = caption_scores([texts[one][0] for one in ids], [texts[one][1:] for one in ids])
    golden = [0.7475409836041065, 0.5532254930718851, 0.40597602957562845, 0.2988852667799017]
    assert bleu(found.bleu_sums.sum(axis=0)) == pytest.approx(golden, abs=1e-9)
    assert found.cider.mean() == pytest.approx(1.30388170380512, abs=1e-9)
    assert found.rouge_l.mean() == pytest.approx(0.5588797321138966, abs=1e-9)


# By hand


def test_bleu_by_hand():
    sums = bleu_sums("a a b".split(), ["a b c d".split(), "a x".split()])
    # "a" counts once, "b" once; "a b" once. Both references are one word away: the shorter one counts.
    assert sums == [3, 2, 1, 0, 2, 1, 0, 0, 3, 2]
    found = bleu(np.array(sums, dtype=float))
    assert found[:2] == pytest.approx([2 / 3, math.sqrt(2 / 3 * 1 / 2)], rel=1e-8)
    assert 0 < found[2] < 1e-4
    short = bleu(np.array(bleu_sums(["a"], [["a", "b", "c"]]), dtype=float))
    assert short[0] == pytest.approx(math.exp(1 - 3 / 1), rel=1e-7)


def test_rouge_by_hand():
    # Longest common subsequences: "a c" of 2 of 3 words, and "b" of 1 of 1. The best of both: precision 2/3, recall 1.
    assert rouge_l("a b c".split(), ["a x c d".split(), ["b"]]) == pytest.approx(
        (1 + 1.44) * (2 / 3) / (1 + 1.44 * 2 / 3)
    )
    assert rouge_l(["a"], [["b"]]) == 0.0
    assert rouge_l([], [["b"]]) == 0.0
    assert rouge_l([], [[]]) == 1.0  # one empty word on both sides, as in the official code


def test_cider_by_hand():
    # Two captions: a word of one image only weighs log 2, a word of both nothing.
    found = cider_d([["a", "x"], ["a", "z"]], [[["a", "x"]], [["a", "y"]]])
    # Equal texts of two words: 1 for 1-grams, 1 for 2-grams, nothing for longer ones; mean 1/2, times ten.
    assert found == pytest.approx([5.0, 0.0])
    # One bigram more: the caption's vector is (x, w) with the reference's x, and the penalty is exp(-1/72).
    longer = cider_d([["a", "x", "w"], ["y"]], [[["a", "x"]], [["a", "y"]]])
    assert longer[0] == pytest.approx(10 * (2 / math.sqrt(2)) / 4 * math.exp(-1 / 72))
    assert cider_d([["a"]], [[["a"]]]) == pytest.approx([0.0])


def naive_common(one, other):
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


WORDS = st.lists(st.sampled_from("a b c d".split()), max_size=12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=6))
def test_any_words_have_scores(rows):
    found = caption_scores([row[0] for row in rows], [row[1] for row in rows])
    assert ((found.cider >= 0) & (found.cider <= 10 + 1e-9)).all()
    assert ((found.rouge_l >= 0) & (found.rouge_l <= 1)).all()
    values = bleu(found.bleu_sums.sum(axis=0))
    assert ((values >= 0) & (values <= 1)).all()
    for (caption, texts), score in zip(rows, found.rouge_l, strict=True):
        if caption and all(texts):
            lengths = [naive_common(caption, words) for words in texts]
            p = max(lengths) / len(caption)
            r = max(length / len(words) for length, words in zip(lengths, texts, strict=True))
            assert score == pytest.approx(2.44 * p * r / (r + 1.44 * p) if p else 0.0)


def test_intervals():
    sums = scores("1234").bleu_sums
    intervals = bleu_intervals(sums, list("1234"))
    for (low, high), value in zip(intervals, bleu(sums.sum(axis=0)), strict=True):
        assert low <= value <= high
    assert bleu_intervals(sums, list("1234")) == intervals
    assert bleu_intervals(sums[:1], ["1"]) is None
    # Captions of one image are drawn together: then there is nothing to resample.
    assert bleu_intervals(sums, ["1"] * 4) is None
    two = resampled_bleu(np.stack([sums, sums], axis=1), list("1234"), resamples=7)
    assert two.shape == (7, 2, 4)
    assert (two[:, 0] == two[:, 1]).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="got 1 and 0; expected as many"):
        caption_scores([["a"]], [])
    with pytest.raises(ValueError, match="got none for number 1"):
        caption_scores([["a"], ["b"]], [[["a"]], []])
    with pytest.raises(ValueError, match="got 'java'; expected one of ptb, plain"):
        tokenize("a", "java")


# Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # Lines of the Stanford PTBTokenizer of corenlp 3.4.1, as pycocoevalcap 1.2 calls and cleans it.
        ('A man (in a hat) said "hello" to him.', "a man -lrb- in a hat -rrb- said hello to him"),
        (
            "Don't can't won't cannot gonna it's dogs' they're I'm we've he'd she'll",
            "do n't ca n't wo n't can not gon na it 's dogs they 're i 'm we 've he 'd she 'll",
        ),
        (
            "A black-and-white dog; it's 5:30 p.m. on Mr. Smith's lawn...",
            "a black-and-white dog it 's 5:30 p.m. on mr. smith 's lawn",
        ),
        (
            "and/or 1/2 cup, 3.5 feet 1,000 people $5 50% #1 & more",
            "and/or 1/2 cup 3.5 feet 1,000 people $ 5 50 % # 1 & more",
        ),
        ("The dog’s “big” bone – yes — no… ok", "the dog 's big bone yes no ok"),
        (
            "U.S. flag. The U.S. is big. e.g. a cat, i.e. dog etc. End",
            "u.s. flag the u.s. is big e.g. a cat i.e. dog etc. end",
        ),
        ('"No". (Yes) [maybe] {ok} <b> a_b', "no -lrb- yes -rrb- -lsb- maybe -rsb- -lcb- ok -rcb- <b> a_b"),
        ("T-shirt x-ray 2-story 20-30 years '90s 80's", "t-shirt x-ray 2-story 20-30 years '90s 80 's"),
        ("dog,cat dog;cat dog:cat dog!cat dog?cat dog.It", "dog cat dog cat dog cat dog!cat dog?cat dog.it"),
        ("hello!!! what??? wow!? ... .. . , -- - --- ----", "hello !!! what ??? wow !?"),
        ("o'clock O'Brien y'all 'tis twas ma'am", "o'clock o'brien y' all 't is twas ma'am"),
        ("**bold** *it* _em_ `code` 1. item", "** bold ** * it * _ em _ code 1 item"),
        ("café naïve 日本語 😀 it", "café naïve 日本語 it"),
        ("the sign says 'STOP' and \"NO\"", "the sign says stop and no"),
        ("dog-- cat -----", "dog cat -----"),
        ("5 no. 5 No. of room 5.", "5 no. 5 no of room 5"),
        ("she'd've shouldn't've couldn’t", "she 'd 've should n't 've could n't"),
        ("R&B AT&T m&ms", "r&b at&t m & ms"),
        ("½ cup €5 20°C", "1/2 cup $ 5 20 ° c"),
        ("plan B. Next vitamin A. The", "plan b. next vitamin a the"),
        ("dog ;) cat :( bird :", "dog ;-rrb- cat :-lrb- bird"),
        ("6'10\" list:[1] `x`", "6 10 list -lsb- 1 -rsb- x"),
        ("first\nsecond\tthird", "first second third"),
        ("", ""),
    ],
)
def test_words_are_those_of_the_official_tokenizer(text, words):
    assert tokenize(text) == words.split()


def test_the_plain_rule_drops_brackets_and_symbols():
    assert tokenize("A (big) dog & 50% of [it] — it's **bold**!!!", "plain") == "a big dog 50 of it it 's bold".split()
    assert list(RULES) == ["ptb", "plain"]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_words(text):
    for rule in RULES:
        words = tokenize(text, rule)
        assert all(word and word == word.strip() and not set(word) & set(" \n\t") for word in words)
        assert not {".", ",", "'", "-", "?"} & set(words)


def test_no_torch_is_needed():
    names = ("caption.metrics", "caption.tokens", "vqav2.rule", "sycophancy.refusals")
    modules = ", ".join(f"benchmarks.tasks.{name}" for name in names)
    code = f"import sys; import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
