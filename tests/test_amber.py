"""`score amber`: by hand, on the official annotations, and files that are none."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import nltk
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nltk.tokenize import PunktTokenizer

from benchmarks.score import main
from benchmarks.tasks.amber.rule import Response, Words, count_caption, score_responses
from benchmarks.tasks.amber.words import WordDataError, exact, from_spacy, from_table, nouns

RELATED = {"sky": [], "forest": ["tree", "bush"], "tree": ["forest"], "person": ["man", "people"], "dog": [], "sun": []}
ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["sky", "forest", "tree"], "hallu": ["dog", "sun"]},
    {"id": 2, "type": "generative", "truth": ["person"], "hallu": ["sky"]},
    {"id": 3, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 4, "type": "discriminative-attribute-number", "truth": "no"},
    {"id": 5, "type": "discriminative-attribute-action", "truth": "no"},
    {"id": 6, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 7, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 8, "type": "discriminative-relation", "truth": "yes"},
    {"id": 9, "type": "relation", "truth": "no"},
]
SAID = {1: "A dog and the sky.", 2: "", 3: "Yes", 4: "No", 5: "No.", 6: "No", 7: "yes", 8: "No", 9: "No"}


@pytest.fixture
def nltk_data(test_data, monkeypatch):
    if not (test_data / "nltk" / "taggers").is_dir():
        pytest.skip("no nltk data among the test data")
    monkeypatch.setattr(nltk.data, "path", [str(test_data / "nltk")])


@pytest.fixture
def files(tmp_path):
    """Writes the data and the responses; returns the command."""
    data = tmp_path / "data"
    (data / "query").mkdir(parents=True)
    (data / "annotations.json").write_text(json.dumps(ANNOTATIONS))
    (data / "relation.json").write_text(json.dumps(RELATED))
    (data / "safe_words.txt").write_text("orange\nlight")
    images = [{"id": row["id"], "image": f"AMBER_{1 + row['id'] % 2}.jpg", "query": "?"} for row in ANNOTATIONS]
    (data / "query" / "query_all.json").write_text(json.dumps(images))

    def write(said):
        rows = said if isinstance(said, list) else [{"id": number, "response": text} for number, text in said.items()]
        (tmp_path / "responses.json").write_text(json.dumps(rows))
        return ["amber", "--data", str(data), "--responses", str(tmp_path / "responses.json"), "--similarity", "exact"]

    return write


def scored(capsys, arguments):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, arguments):
    assert main(arguments) == 2
    return capsys.readouterr().err


def words(similarity=exact, safe=("orange",)):
    return Words(related=RELATED, safe=frozenset(safe), similarity=similarity)


# Captions


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # nouns, hallucinated, covered, truth, cognitive, expected
        ([], (0, 0, 0, 3, 0, 2)),
        (["sky", "sky", "Sky", "unknown"], (2, 0, 1, 3, 0, 2)),
        (["dog", "dog", "person"], (3, 3, 0, 3, 1, 2)),
        # A tree stands for the forest before it stands for itself, and the forest for the tree: as officially.
        (["tree"], (1, 0, 1, 3, 0, 2)),
        (["tree", "bush"], (2, 0, 1, 3, 0, 2)),
        (["tree", "forest"], (2, 0, 2, 3, 0, 2)),
    ],
)
def test_counts_of_a_caption(found, expected):
    assert count_caption(found, ["sky", "forest", "tree"], ["dog", "sun"], words()) == expected


def test_a_safe_word_counts_as_a_noun_and_nothing_else():
    assert count_caption(["dog", "sun"], ["sky"], ["dog"], words(safe=["dog"])) == (2, 1, 0, 1, 0, 1)


def test_an_object_that_is_listed_twice_is_covered_once():
    assert count_caption(["dog"], ["dog", "dog"], [], words()) == (1, 0, 1, 2, 0, 0)


def test_similar_words():
    table = from_table({"man|sun": 0.9, "person|sky": 0.81, "dog|person": 0.8, "forest|man": 0.99})
    assert (table("sun", "man"), table("man", "sun"), table("x", "x"), table("x", "y")) == (0.9, 0.9, 1.0, 0.0)
    # "man" is similar to an expected hallucination, and then to no object.
    assert count_caption(["man"], ["sky"], ["sun"], words(table)) == (1, 1, 0, 1, 1, 1)
    # "person" is similar to the sky: covered, and no hallucination, though it marks one.
    assert count_caption(["person"], ["sky"], ["person"], words(table)) == (1, 0, 1, 1, 1, 1)
    # 0.8 is not above the threshold.
    assert count_caption(["dog"], ["person"], [], words(table)) == (1, 1, 0, 1, 0, 0)
    # The word itself and the first similar one are marked both.
    both = from_table({"dog|sun": 0.9})
    assert count_caption(["dog"], [], ["sun", "dog"], words(both)) == (1, 1, 0, 0, 2, 2)


def test_nouns(nltk_data):
    assert nouns("Two dogs sit near the Trees, and a man waves.") == ["dog", "Trees", "man"]
    assert nouns("") == nouns("...") == []


def test_missing_data_of_nltk(monkeypatch, files, capsys):
    monkeypatch.setattr(nltk.data, "path", [])
    # nltk keeps what it has loaded; a new tokenizer looks for its data again.
    monkeypatch.setattr(nltk, "word_tokenize", lambda text: PunktTokenizer().tokenize(text))
    with pytest.raises(WordDataError, match="got no punkt_tab"):
        nouns("a dog")
    monkeypatch.setattr(nltk, "word_tokenize", lambda text: [][0])
    with pytest.raises(IndexError):  # a fault of another kind is not taken for missing data
        nouns("a dog")
    monkeypatch.setattr(nltk, "word_tokenize", lambda text: PunktTokenizer().tokenize(text))
    command = "python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng wordnet"
    assert command in refused(capsys, files(SAID))


def test_spacy_is_loaded_late_and_named_where_it_is_missing(monkeypatch, files, capsys):
    monkeypatch.setitem(sys.modules, "spacy", None)
    arguments = [*files(SAID), "--similarity", "spacy"]
    assert "pip install spacy && python -m spacy download en_core_web_lg" in refused(capsys, arguments)
    # Yes/no answers need no vectors.
    assert main([*files({3: "Yes", 4: "No", 5: "No"}), "--similarity", "spacy"]) == 0
    calls = []

    class Document(str):
        def similarity(self, other):
            calls.append((self, other))
            return 0.85

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=lambda name: Document))
    similarity = from_spacy()
    assert (similarity("dog", "cat"), similarity("dog", "cat"), len(calls)) == (0.85, 0.85, 1)


# Scores


def test_by_hand(nltk_data, files, capsys):
    plain = scored(capsys, [*files(SAID), "--rule", "plain"])
    expected = {
        "chair": 1 / 2,
        "cover": 1 / 4,
        "hal": 1 / 2,
        "cog": 1 / 3,
        "accuracy": 4 / 7,
        "precision": 3 / 4,
        "recall": 3 / 5,
        "f1": 6 / 9,
        "accuracy_attribute": 2 / 3,
        "precision_attribute": 1,
        "recall_attribute": 1 / 2,
        "f1_attribute": 2 / 3,
        "accuracy_attribute_action": 0,
        "recall_attribute_action": 0,
        "f1_attribute_action": 0,
        "accuracy_existence": 1 / 2,
        "precision_existence": 1,
        "recall_existence": 1 / 2,
        "f1_existence": 2 / 3,
        "precision_relation": 1 / 2,
        "recall_relation": 1,
        "amber_score": (1 - 1 / 2 + 6 / 9) / 2,
    }
    assert {name: plain["metrics"][name] for name in expected} == pytest.approx(expected)
    assert plain["metrics"]["precision_attribute_action"] is None
    assert plain["reasons"]["precision_attribute_action"] == "no answer was No"
    assert plain["metrics"]["precision_attribute_state"] is plain["metrics"]["recall_attribute_state"] is None
    assert [plain["counts"][name] for name in ("tp", "fp", "tn", "fn", "unparsed", "n")] == [3, 1, 1, 0, 2, 7]
    for name, (low, high) in plain["intervals"].items():
        assert low <= plain["metrics"][name] <= high

    official = scored(capsys, files(SAID))
    assert official["rule"] == "amber"
    # 100 * 3 / 4.001 = 75.0, 100 * 3 / 5.001 = 60.0; 2 * 0.75 * 0.6 / (1.35 + 0.0001) = 66.66
    expected = {"precision": 0.75, "recall": 0.6, "f1": 0.667, "accuracy": 0.571, "precision_attribute_action": 0.0}
    # One of two: 49.975 is 50.0; one of one: 99.9 is what the tool prints; 2 * 0.999 * 0.5 / (1.499 + 0.001) = 66.6
    expected |= {"recall_existence": 0.5, "precision_existence": 0.999, "f1_existence": 0.666, "chair": 0.5}
    # 1 / (3 + 3 * 0.001) of each sum of three types: 1 / 1.003 = 99.7; 2 / 3.003 = 66.6; hal: 100 - 100 / 2.001
    expected |= {"precision_attribute": 0.997, "accuracy_attribute": 0.666, "hal": 0.5, "cover": 0.25, "cog": 0.333}
    expected |= {"amber_score": (1 - 0.5 + 0.667) / 2}
    assert {name: official["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert official["reasons"] == {}
    assert official["counts"] == plain["counts"]


def test_answers_that_are_not_exactly_yes_or_no(files, capsys):
    said = {6: "No.", 7: " No"}
    assert scored(capsys, files(said))["metrics"]["accuracy_existence"] == 0
    assert (
        scored(capsys, [*files(said), "--answer-rule", "strict", "--rule", "plain"])["metrics"]["accuracy_existence"]
        == 1
    )
    assert main(files(said)) == 0
    assert "2 answers are not exactly Yes or No" in capsys.readouterr().out


def test_a_part_alone(nltk_data, files, capsys):
    found = scored(capsys, files({8: "Yes", 9: "No"}))
    assert found["metrics"]["accuracy_relation"] == 1.0  # 2 / 2.001, rounded
    for name in ("accuracy", "f1", "chair", "hal", "accuracy_existence", "amber_score"):
        assert found["metrics"][name] is None
        assert found["reasons"][name]
    assert found["reasons"]["accuracy"] == "no answers to attribute and existence questions"
    partial = scored(capsys, [*files({8: "Yes"}), "--allow-missing", "--rule", "plain"])
    assert partial["metrics"]["accuracy"] == 1
    captions = scored(capsys, files({1: "The sky.", 2: "A man."}))
    assert captions["metrics"]["chair"] == 0
    assert captions["reasons"]["accuracy"] == "no answers to questions"
    assert captions["counts"]["responses"] == 2


@pytest.mark.parametrize(
    ("similarity", "extra", "chair"), [(0.81, [], 0), (0.8, [], 1), (0.75, [], 1), (0.75, [0.7], 0)]
)
def test_words_are_similar_above_the_official_threshold(similarity, extra, chair, nltk_data, files, tmp_path, capsys):
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"table": {"dog|person": similarity}}))
    flags = ["--rule", "plain", "--similarity", str(table)]
    flags += [part for value in extra for part in ("--similarity-score", str(value))]
    assert scored(capsys, [*files({1: "", 2: "The dog."}), *flags])["metrics"]["chair"] == chair


def test_safe_words_are_whole_lines_as_officially(nltk_data, files, tmp_path, capsys):
    for text, chair in (("orange\ndog", 0), ("orange\ndog\n", 0), ("orange\n dog", 1), ("orange dog", 1)):
        (tmp_path / "data" / "safe_words.txt").write_text(text)
        found = scored(capsys, [*files({1: "", 2: "The dog."}), "--rule", "plain"])
        assert found["metrics"]["chair"] == chair


def test_captions_without_known_nouns(nltk_data, files, capsys):
    arguments = files({1: "", 2: "Nothing."})
    assert scored(capsys, arguments)["metrics"]["chair"] == 0  # 0 / 0.001
    plain = scored(capsys, [*arguments, "--rule", "plain"])
    assert plain["metrics"]["chair"] is None
    assert plain["reasons"]["chair"] == "no response mentions a known noun"
    assert plain["metrics"]["hal"] == 0


def test_nothing_at_all():
    for rule in ("amber", "plain"):
        scores = score_responses([], rule)
        assert set(scores.metrics.values()) == {None}
        assert set(scores.reasons) == set(scores.metrics)


def test_what_does_not_fit(nltk_data, files, tmp_path, capsys):
    assert "1 ids missing: 7" in refused(capsys, files({6: "No"}))
    assert "of no question: 10" in refused(capsys, files({6: "No", 7: "No", 10: "No"}))
    assert "answered twice" in refused(capsys, files([{"id": 6, "response": "No"}] * 2))
    assert "expected an object with a field 'id' (int)" in refused(capsys, files([{"id": "6", "response": "No"}]))
    assert "'response' (str)" in refused(capsys, files([{"id": 6, "response": None}]))
    assert "missing" in refused(capsys, files([]))
    table = tmp_path / "table.json"
    for content, message in (
        ('{"a|b": 1}', "got no table"),
        ('{"table": {"b|a": 1}}', "got the key 'b|a'"),
        ('{"table": {"a|b": "1"}}', "got '1' for 'a|b'"),
    ):
        table.write_text(content)
        assert message in refused(capsys, [*files(SAID), "--similarity", str(table)])
    for name, content, message in (
        ("relation.json", '{"sky": []}', "got no line for"),
        ("relation.json", "[]", "got no lists"),
        ("annotations.json", '[{"id": 1, "type": "other", "truth": "yes"}]', "got type 'other'"),
        ("annotations.json", '[{"id": 1, "type": "relation", "truth": "Yes"}]', "with truth 'Yes'"),
    ):
        arguments = files(SAID)
        before = (tmp_path / "data" / name).read_text()
        (tmp_path / "data" / name).write_text(content)
        assert message in refused(capsys, arguments)
        (tmp_path / "data" / name).write_text(before)


def test_without_the_names_of_images_there_are_no_intervals(files, tmp_path, capsys):
    arguments = files({6: "No", 7: "Yes"})
    assert scored(capsys, arguments)["intervals"]
    (tmp_path / "data" / "query" / "query_all.json").unlink()
    assert scored(capsys, arguments)["intervals"] == {}


# The official annotations


def test_always_no_on_the_official_questions(test_data, tmp_path, capsys):
    rows = [{"id": number, "response": "No"} for number in range(1005, 15221)]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    arguments = ["amber", "--data", str(test_data / "amber"), "--responses", str(tmp_path / "r.json")]
    found = scored(capsys, arguments)
    metrics = found["metrics"]
    no = 4924 + 689 + 2382 + 1036 + 396
    assert found["counts"]["n"] == 14216
    assert found["counts"]["tp"] == no
    assert metrics["accuracy"] == pytest.approx(round(100 * no / 14216, 1) / 100)
    assert metrics["recall"] == 1
    # 2 / (2 + 0.001) = 99.95
    assert metrics["f1_existence"] == pytest.approx(round(200 / 2.001, 1) / 100)
    assert metrics["accuracy_relation"] == pytest.approx(round(100 * 689 / 1664, 1) / 100)
    assert metrics["precision_attribute"] == 0.5
    plain = scored(capsys, [*arguments, "--rule", "plain"])["metrics"]
    assert plain["accuracy"] == pytest.approx(no / 14216)
    assert plain["f1_existence"] == 1


def test_the_objects_themselves_on_the_official_captions(nltk_data, test_data, tmp_path, capsys):
    annotations = json.loads((test_data / "amber" / "annotations.json").read_text())[:1004]
    rows = [
        {"id": row["id"], "response": " ".join(f"There is a {word}." for word in row["hallu"])} for row in annotations
    ]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    arguments = ["amber", "--data", str(test_data / "amber"), "--responses", str(tmp_path / "r.json")]
    found = scored(capsys, [*arguments, "--similarity", "exact", "--rule", "plain"])
    assert found["counts"]["expected_hallucinations"] == 4924
    assert found["metrics"]["cog"] > 0.85  # some words are never nouns to the tagger, or are safe
    assert found["metrics"]["hal"] > 0.95
    assert found["metrics"]["cover"] < 0.1


TEXT = st.lists(st.sampled_from(["sky", "tree", "forest", "dog", "man", "sun", "x", "orange"]), max_size=12)


@settings(max_examples=50, deadline=None)
@given(TEXT, st.lists(st.sampled_from(list(RELATED)), max_size=5), st.lists(st.sampled_from(list(RELATED)), max_size=5))
def test_any_caption_has_counts_that_fit(found, truth, hallu):
    """Also by a second way of counting: flags over lists, as the official code keeps them."""
    similarity = from_table({"dog|sun": 0.9, "man|sky": 0.85, "sun|tree": 0.9})
    count = count_caption(found, truth, hallu, words(similarity))
    there = [(w, i) for i, t in enumerate(truth) for w in RELATED[t]] + [(t, i) for i, t in enumerate(truth)]
    mean = [(w, i) for i, t in enumerate(hallu) for w in RELATED[t]] + [(t, i) for i, t in enumerate(hallu)]
    covered, marked, wrong, kept = [0] * len(truth), [0] * len(hallu), 0, 0
    for noun in found:
        if noun == "x" or noun == "orange":  # not among the known words
            continue
        kept += 1
        if any(noun == word for word, _ in there):
            covered[next(i for word, i in there if word == noun)] = 1
            continue
        for same in (lambda word, noun=noun: word == noun, lambda word, noun=noun: similarity(noun, word) > 0.8):
            for place in [i for word, i in mean if same(word)][:1]:
                marked[place] = 1
        places = [i for word, i in there if similarity(noun, word) > 0.8]
        if places:
            covered[places[0]] = 1
        else:
            wrong += 1
    assert count == (kept, wrong, sum(covered), len(truth), sum(marked), len(hallu))
    scores = score_responses([Response("i", "generative", count)], "plain")
    for name in ("chair", "cover", "hal", "cog"):
        assert scores.metrics[name] is None or 0 <= scores.metrics[name] <= 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("id", "response", "type", "truth", "hallu", "sky", "table", "a|b")), inner, max_size=5
        )
    ),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON, st.sampled_from(["annotations", "relation", "query/query_all", "responses"]))
def test_any_json_is_scored_or_refused(files, tmp_path, monkeypatch, capsys, content, name):
    monkeypatch.setattr("benchmarks.tasks.amber.scorer.nouns", str.split)
    arguments = files(SAID)
    path = tmp_path / ("data" if name != "responses" else "") / f"{name}.json"
    before = path.read_text()
    path.write_text(json.dumps(content))
    assert main([*arguments, "--allow-missing"]) in (0, 2)
    path.write_text(before)
    err = capsys.readouterr().err
    assert err == "" or err.startswith("error: ")
