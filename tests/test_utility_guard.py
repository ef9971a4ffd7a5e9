"""What each difference cost: trivial changes by hand, verdicts on effects that were put in, the head's sentences."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from synthetic_results import OBJECTS, answer, questions, record, write

from analysis.findings.answers import VERDICTS, Answer, Clause, did_it_help, sign, unanswered, verdict
from analysis.findings.frontier import Identity, identity, point_labels
from analysis.findings.guard import (
    ability_changes,
    guard_findings,
    guard_tables,
    guarded_pairs,
    length_table_of,
)
from analysis.findings.roc import roc_curve
from analysis.findings.trivial import (
    ABOVE,
    BELOW,
    BEYOND,
    FEW,
    ON,
    UNCLEAR,
    beside_trivial,
    plot_trivial,
    points_table,
    trivial_plots,
    trivial_table,
)
from analysis.reading.load import NothingToShowError, load_results, told_apart
from analysis.reading.pairs import caption_pairs, compare_rates, find_pairs
from analysis.reading.trivial import AS_IT_IS, cut_caption, other_samplings, plain_row, trivial_rows
from benchmarks.records import SampleRecord
from benchmarks.running.rescoring import rescore
from benchmarks.stats import Difference, Interval, ratios, yes_no_table
from benchmarks.tasks import TASKS, load_task
from benchmarks.tasks.chair.task import Chair

BASE = questions(images=60)


def caption(name, objects, present, image=None):
    """A sentence per object."""
    output = " ".join(f"There is a {one}." for one in objects)
    return SampleRecord(
        id=str(name), image=image or f"{name}.jpg", prompt="Describe.", target=sorted(present), output=output,
        found=Chair().grade(sorted(present), output).found,
    )  # fmt: skip


def captions(count=60, seed=0, sentences=6, wrong=0.1, growth=0.15):
    """Captions that make up more the longer they get."""
    generator = np.random.default_rng(seed)
    made = []
    for name in range(count):
        order = [str(one) for one in generator.permutation(OBJECTS)]
        present, absent = order[:4], order[4:]
        draws, picks = generator.random(sentences), generator.integers(0, 4, sentences)
        objects = [
            (absent if draw < wrong + growth * place else present)[pick]
            for place, (draw, pick) in enumerate(zip(draws, picks, strict=True))
        ]
        made.append(caption(name, objects, present))
    return made


PLAIN = captions()


def results(folder, *rows):
    for run, samples in rows:
        write(folder, run, samples)
    return load_results(folder).runs


def beside(folder, after, before=PLAIN, task="chair"):
    runs = results(folder, (record(task=task), before), (record("scr", task=task), after))
    found = find_pairs(runs)
    (pair,) = found.pairs if task != "chair" else caption_pairs(found).pairs
    return beside_trivial(pair, runs)


# Trivial changes


def test_a_cut_caption_is_graded_as_the_task_would_grade_it():
    for one in PLAIN[:10]:
        for end in range(0, len(one.output) + 1, 7):
            cut = cut_caption(one, end)
            assert cut.output == one.output[:end]
            if not one.output[end : end + 1].isalpha():
                assert cut.found == Chair().grade(one.target, cut.output).found
    with pytest.raises(ValueError, match="captions without a grade"):
        cut_caption(dataclasses.replace(PLAIN[0], found=None), 3)


def test_captions_are_cut_after_sentences_and_words():
    one = caption(0, ["dog", "cat", "dog"], ["dog", "cup"])
    rows = {row.label: row for row in trivial_rows([one])}
    assert list(rows)[:3] == [AS_IT_IS, "first sentence", "first 2 sentences"]
    assert list(rows)[3:] == [f"first {n} words" if n > 1 else "first word" for n in range(1, 12)]
    # Made-up among mentions, and found of two objects.
    assert [(rows[name].above.tolist(), rows[name].below.tolist()) for name in list(rows)[:3]] == [
        ([[1, 1]], [[3, 2]]), ([[0, 1]], [[1, 2]]), ([[1, 1]], [[2, 2]]),
    ]  # fmt: skip
    assert rows["first 4 words"].below.tolist() == [[1, 2]]
    assert rows["first 3 words"].below.tolist() == [[0, 2]]


def test_thresholds_are_points_of_the_roc_curve():
    rows = trivial_rows(BASE)
    assert rows[0].label == AS_IT_IS
    assert len(rows) > 30
    curve = roc_curve(BASE)
    corners = {(round(x, 9), round(y, 9)) for x, y in zip(*curve[:2], strict=True)}
    for row in rows[1:]:
        rate, recall = row.above.sum(axis=0) / row.below.sum(axis=0)
        assert (round(rate, 9), round(recall, 9)) in corners, row.label
    margins = sorted(one.margin for one in BASE)
    lowest = margins[int((len(margins) - 1) / 41)]
    assert rows[1].above.sum() == sum(margin > lowest for margin in margins)
    plain = rows[0].above.sum(axis=0) / rows[0].below.sum(axis=0)
    known = ratios(yes_no_table(BASE))
    assert plain.tolist() == [known["hallucination_rate"], known["recall"]]
    assert plain_row("x", BASE).above.tolist() == rows[0].above.tolist()
    assert "−" in rows[1].label
    assert len(trivial_rows([dataclasses.replace(BASE[0], margin=None), *BASE[1:]])) == 1, "no margin, no threshold"


def test_the_same_model_sampled_otherwise_is_a_trivial_change(tmp_path):
    sampled = record(task="chair", generation={"do_sample": True, "temperature": 0.7})
    runs = results(
        tmp_path,
        (record(task="chair"), PLAIN),
        (sampled, captions(seed=1)),
        (record(task="chair", generation={"do_sample": True, "temperature": 9}), PLAIN[:5]),
        (record(task="chair", prompt="cot", generation={"do_sample": True}), PLAIN),
        (record(task="chair", data_sha256="other", generation={"do_sample": True}), PLAIN),
    )
    greedy = next(run for run in runs if run.record.generation == {"do_sample": False} and run.row == "none")
    [(label, samples)] = other_samplings(greedy, runs, [one.id for one in PLAIN])
    assert label == "do_sample true, temperature 0.7"
    assert [one.id for one in samples] == [one.id for one in PLAIN]
    assert trivial_rows(PLAIN, [(label, samples)])[1].label == label


# On which side of the frontier


def test_captions_cut_short_are_no_better_than_themselves(tmp_path):
    short = [two_sentences(one) for one in PLAIN]
    found = beside(tmp_path / "short", short)
    assert (found.frontier, found.nearest, found.rate_change, found.recall_change) == (ON, "first 2 sentences", 0, 0)
    assert found.rate_interval == (0, 0)
    same = beside(tmp_path / "same", PLAIN)
    assert (same.frontier, same.nearest) == (ON, AS_IT_IS)


def test_fewer_made_up_at_the_same_recall_is_above_and_a_worse_cut_is_below(tmp_path):
    silent = [caption(one.id, [name for name in _named(one) if name in one.target], one.target) for one in PLAIN]
    found = beside(tmp_path / "better", silent)
    assert (found.frontier, found.beaten, found.rate) == (ABOVE, 0, 0)
    assert found.recall_change == 0
    assert found.rate_interval.high < 0
    last = [caption(one.id, _named(one)[-2:], one.target) for one in PLAIN]
    worse = beside(tmp_path / "worse", last)
    assert (worse.frontier, worse.beaten) == (BELOW, 1)
    assert worse.rate_interval.low > 0
    more = [caption(one.id, [*_named(one), *OBJECTS, *OBJECTS], one.target) for one in PLAIN]
    assert beside(tmp_path / "more", more).frontier == BEYOND
    few = beside(tmp_path / "few", last[:1], PLAIN[:1])
    assert (few.frontier, few.beaten, few.rate_interval) == (FEW, None, None)
    mute = [dataclasses.replace(one, output="", found=Chair().grade(one.target, "").found) for one in PLAIN]
    assert beside(tmp_path / "mute", mute) is None, "no mention, no rate"
    # No rate either where it is the baseline that mentions nothing: more is made up than by it, whatever it is.
    assert beside(tmp_path / "mute before", PLAIN, mute) is None


def two_sentences(one):
    return cut_caption(one, one.output.index(".", one.output.index(".") + 1) + 1)


def _named(one):
    return [mention["node"] for mention in one.found["mentions"]]


def test_a_moved_threshold_lies_on_the_frontier_and_a_better_model_above(tmp_path):
    def told(name, after):
        return beside(tmp_path / name, after, BASE, "pope_random")

    shifted = told("shifted", questions(images=60, shift=-1.0))
    assert shifted.frontier in (UNCLEAR, ON)
    assert shifted.nearest.startswith("yes above ")
    assert abs(shifted.rate_change) < 0.05
    assert told("better", questions(images=60, gain=1.0)).frontier == ABOVE
    assert told("worse", questions(images=60, gain=-0.5)).frontier == BELOW


def test_the_tables_and_the_figure(tmp_path):
    runs = results(tmp_path, (record(task="chair"), PLAIN), (record("scr", task="chair"), captions(wrong=0)))
    (pair,) = caption_pairs(find_pairs(runs)).pairs
    one = beside_trivial(pair, runs)
    (row,) = trivial_table([(pair, one)]).records()
    assert (row["rate"], row["trivial"]) == (one.rate, one.nearest)
    assert (row["frontier"], row["samples"], row["beaten"]) == (one.frontier, 60, one.beaten)
    points = points_table([pair], runs)
    kinds = points.column("kind")
    assert (kinds.count("method"), kinds.count("trivial")) == (1, len(trivial_rows(PLAIN)))
    assert points.column("rate")[0] == one.rate
    axis = plot_trivial(points, {"chair": "chair_i"}).figure.axes[0]
    assert axis.get_ylabel() == "CHAIR-i (%)"
    [step] = [line for line in axis.lines if line.get_drawstyle() == "steps-pre"]
    assert np.isfinite(step.get_ydata()).all(), "a cut before the first object has no rate"
    assert (np.diff(step.get_ydata()) >= 0).all(), "the lowest rate of all that find as much"
    assert len(trivial_plots([(pair, one)], runs)) == 1


# Beside every rate


def test_abilities_stand_beside_rates_where_they_were_measured(tmp_path):
    better = questions(images=60, gain=1.0)
    runs = results(
        tmp_path, (record(), BASE), (record("scr"), better),
        (record(task="mme", ability="perception", metrics={"perception": 1200.0}), BASE[:12]),
        (record("scr", task="mme", ability="perception", metrics={"perception": 1150.0}), BASE[:12]),
        (record(task="mmvet", ability="total", metrics={"total": 0.5}), BASE[:12]),
        (record("scr", task="mmvet", ability="total", metrics={"total": 0.25}), BASE[:6]),
    )  # fmt: skip
    (found,) = ability_changes(runs).values()
    assert found == {"mme": -50.0}, "MM-Vet answered only half as often"
    (table,) = guard_tables(runs)
    row = next(row for row in table.records() if row["task"] == "pope_random")
    plain = compare_rates(BASE, better).differences
    assert (row["change"], row["change_low"], row["change_high"]) == (
        plain["hallucination_rate"].value, *plain["hallucination_rate"].interval,
    )  # fmt: skip
    assert row["recall_change"] == plain["recall"].value
    assert (row["frontier"], row["mme_change"], row["questions"]) == (ABOVE, -50.0, 360)
    assert "mme: perception" in table.notes[0]
    with pytest.raises(NothingToShowError, match="nothing to guard"):
        guard_findings(results(tmp_path / "alone", (record(), BASE)))


def test_an_ability_is_that_of_the_same_configuration(tmp_path):
    half, double = {"contrast": 0.5}, {"contrast": 2.0}
    runs = results(
        tmp_path, (record(), BASE), (record("vcd", config=half), questions(images=60, gain=1.0)),
        (record(task="mme", ability="perception", metrics={"perception": 1200.0}), BASE[:12]),
        (record("vcd", task="mme", ability="perception", config=double, metrics={"perception": 1150.0}), BASE[:12]),
    )  # fmt: skip
    (table,) = guard_tables(runs)
    changes = {str(row["row"]): row.get("mme_change") for row in table.records() if row["task"] == "pope_random"}
    assert changes == {"vcd": None}
    (key,) = ability_changes(runs)
    assert json.loads(key.config) == double
    runs += results(
        tmp_path / "more",
        (record(task="mme", ability="perception", data_sha256="e", metrics={"perception": 800.0}), BASE[:12]),
        (
            record(
                "vcd", task="mme", ability="perception", data_sha256="e", config=double, metrics={"perception": 900.0}
            ),
            BASE[:12],
        ),
    )
    assert ability_changes(runs) == {key: {}}, "two data sets, and neither is that of the other tasks"


def test_captions_stand_beside_their_length(tmp_path):
    short = [two_sentences(one) for one in PLAIN]
    runs = results(tmp_path, (record(task="chair"), PLAIN), (record("scr", task="chair"), short))
    (one,) = guarded_pairs(runs)
    assert guarded_pairs(runs) is guarded_pairs(runs)
    assert one.metric == "chair_i"
    assert one.rate == one.compared.differences["chair_i"]
    (row,) = guard_tables(runs)[0].records()
    assert (row["words_change"], row["same_length_change"]) == (-16, None)
    titles = {finding.title: finding for finding in guard_findings(runs)}
    assert list(titles) == ["what it cost", "beside trivial changes", "captions at the same length"]
    assert "all of one length" in titles["captions at the same length"].notes[0]
    (length,) = length_table_of([one]).records()
    assert (length["words_before"], length["words_after"], length["captions"]) == (24, 8, 60)
    assert length["mentions_change"] == one.length.total.value


# Did it help?


def difference(low, high):
    return Difference((low + high) / 2, Interval(low, high))


LESS, MORE, SAME = difference(-0.2, -0.1), difference(0.1, 0.2), difference(-0.1, 0.1)


@pytest.mark.parametrize(
    ("rate", "recall", "trivial", "word"),
    [
        (LESS, SAME, {}, "helped"), (LESS, MORE, {}, "helped"), (LESS, LESS, {}, "priced"),
        (LESS, LESS, {"chair": "first word"}, "trivial"), (MORE, MORE, {}, "worse"), (SAME, LESS, {}, "worse"),
        (SAME, SAME, {}, "none"), (SAME, MORE, {}, "none"), (Difference(0.1, None), SAME, {}, "unknown"),
        (None, None, {}, "unknown"),
    ],
)  # fmt: skip
def test_what_one_task_says(rate, recall, trivial, word):
    clause = Clause("pope", "hallucination_rate", rate, recall, None, trivial)
    assert verdict([clause]) == word
    assert word in VERDICTS


def test_what_several_tasks_say_together():
    helped, worse, none, unknown = (
        Clause("pope", "hallucination_rate", rate, SAME, None, {}) for rate in (LESS, MORE, SAME, None)
    )
    assert verdict([helped, none, unknown]) == "helped"
    assert verdict([helped, worse]) == "mixed"
    assert verdict([none, unknown]) == "none"
    assert verdict([unknown]) == "unknown"
    assert [sign(one) for one in (LESS, SAME, MORE, None, Difference(1, None))] == [-1, 0, 1, None, None]


def test_one_sentence_per_method_the_splits_of_pope_together(tmp_path):
    rows, both = [], {"none": [], "scr": []}
    for task in ("pope_random", "pope_popular"):
        for method, samples in (("none", questions(images=60, task=task)),
                                ("scr", questions(images=60, gain=1.0, task=task))):  # fmt: skip
            rows.append((record(method, task=task, config={"scale": 1} if method == "scr" else {}), samples))
            both[method] += [dataclasses.replace(one, id=f"{task} {one.id}") for one in samples]
        rows.append((record("scr", task=task, config={"scale": 2}), questions(images=60, shift=2.0, task=task)))
        if task == "pope_random":
            rows.append((record("vcd", task=task), questions(images=60, noise=1, task=task)))
    rows.append((record(task="chair"), PLAIN))
    rows.append((record("scr", task="chair", config={"scale": 1}), captions(wrong=0, growth=0.1)))
    rows.append((record("opera", task="chair", model="other"), PLAIN))
    runs = results(tmp_path, *rows)
    answers = did_it_help(runs)
    assert [(one.row, one.verdict) for one in answers] == [
        ("scr (scale=1)", "helped"), ("vcd", "none"), ("scr (scale=2)", "worse"),
    ]  # fmt: skip
    assert all(isinstance(one, Answer) and one.model == "lab/llava" for one in answers)
    pooled = compare_rates(both["none"], both["scr"]).differences["hallucination_rate"]
    said = [f"{100 * of:+.1f}".replace("-", "−") for of in (pooled.value, *pooled.interval)]
    first = answers[0].sentence
    assert f"on pope (popular, random) hallucination rate {said[0]} points ({said[1]} to {said[2]}) and recall" in first
    assert "; on chair CHAIR-i −" in first
    assert "made-up mentions per 100 captions of the same length" not in first, "they are all of one length"
    assert first.endswith(".")
    assert "beaten by a trivial change, the nearest “yes above −" in answers[2].sentence
    assert unanswered(runs) == ["opera on other"]
    ours = [run for run in runs if run.record.config == {"scale": 1}]
    assert len({identity(run) for run in ours}) == 1
    assert isinstance(identity(ours[0]), Identity)
    assert json.loads(identity(ours[0]).config) == {"scale": 1}


def test_other_data_of_one_task_is_a_clause_of_its_own(tmp_path):
    rows = []
    for data, seed in (("aaaaaaaa", 0), ("bbbbbbbb", 1)):
        for method, gain, wrong in (("none", 0.0, 0.1), ("scr", 1.0, 0.0)):
            for task in ("pope_random", "pope_popular"):
                asked = questions(images=60, gain=gain, seed=seed, task=task)
                rows.append((record(method, task=task, data_sha256=data), asked))
            described = captions(wrong=wrong, growth=0.1, seed=seed)
            rows.append((record(method, task="chair", data_sha256=data, rule="chair"), described))
    (one,) = did_it_help(results(tmp_path, *rows))
    assert (one.row, one.verdict) == ("scr", "helped")
    for data, seed in (("aaaaaa", 0), ("bbbbbb", 1)):
        before, after = (
            [
                dataclasses.replace(sample, id=f"{task} {sample.id}")
                for task in ("pope_random", "pope_popular")
                for sample in questions(images=60, gain=gain, seed=seed, task=task)
            ]
            for gain in (0.0, 1.0)
        )
        value = 100 * compare_rates(before, after).differences["hallucination_rate"].value
        said = f"{value:+.1f}".replace("-", "−")
        assert f"on pope (popular, random; data {data}) hallucination rate {said} points" in one.sentence
        assert f"on chair (data {data}) CHAIR-i −" in one.sentence


def test_other_cuts_and_a_run_that_is_there_twice_are_clauses_of_their_own(tmp_path):
    rows = [(record(method, generation={"max_new_tokens": most}), questions(images=20, gain=gain))
            for most in (4, 8) for method, gain in (("none", 0.0), ("scr", 1.0))]  # fmt: skip
    (one,) = did_it_help(results(tmp_path / "cuts", *rows))
    assert one.row == "scr"
    for most in (4, 8):
        assert f'on pope_random (generation {{"max_new_tokens": {most}}}) hallucination rate ' in one.sentence
    first = next(run.folder for run in results(tmp_path / "twice", *rows[:2]) if not run.is_baseline)
    shutil.copytree(first, first.with_name("scr-again"))
    (one,) = did_it_help(load_results(tmp_path / "twice").runs)
    assert "on pope_random hallucination rate " in one.sentence
    assert "; on pope_random (run 2) hallucination rate " in one.sentence


def test_told_apart_says_what_differs(tmp_path):
    runs = results(tmp_path, (record(), BASE[:6]), (record(data_sha256="e", task_version=2), BASE[:6]))
    assert sorted(told_apart([run.setting for run in runs])) == ["task version 1, data d", "task version 2, data e"]
    assert told_apart([runs[0].setting] * 2) == ["", ""]


def test_a_point_is_called_by_what_was_done_to_the_model(tmp_path):
    asked = (record("vcd", data_sha256=data, config={"contrast": 0.5}) for data in "de")
    described = record("vcd", task="chair", config={"contrast": 2.0})
    sampled = record("scr", generation={"do_sample": True})
    short = record("scr", task="chair", generation={"max_new_tokens": 9})
    runs = results(tmp_path, *((one, BASE[:6]) for one in (*asked, sampled)), (described, PLAIN), (short, PLAIN))
    labels = point_labels(runs)
    assert len(labels) == 4
    assert set(labels.values()) == {"vcd (contrast=0.5)", "vcd (contrast=2)", "scr, sampled", "scr"}


def test_nothing_to_compare_is_no_answer(tmp_path):
    runs = results(tmp_path, (record("vcd"), [answer("1", "1.jpg", "no", 1.0)]))
    assert did_it_help(runs) == []
    assert unanswered(runs) == ["vcd on lab/llava"]


@pytest.mark.parametrize("name", TASKS)
def test_an_ability_is_a_metric_of_its_task(name):
    task = load_task(name)
    assert task.ability is None or task.ability in task.score([]).metrics
    assert (task.ability is not None) == (name in ("mme", "lab_mme", "mmvet"))


def test_a_record_without_an_ability_gets_it_when_it_is_scored_again(tmp_path):
    asked = [answer(f"existence/1-{number}", "1.jpg", "yes", 1.0) for number in (1, 2)]
    path = write(tmp_path, record(task="mme"), asked)
    old = json.loads((path / "run.json").read_text())
    del old["ability"]
    (path / "run.json").write_text(json.dumps(old))
    (run,) = load_results(tmp_path).runs
    assert run.record.ability is None
    rescore(tmp_path)
    (run,) = load_results(tmp_path).runs
    assert run.record.ability == "perception"
