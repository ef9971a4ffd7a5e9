"""The rule `wordnet`: what tags and lemmas find that singular forms do not, and the other way around."""

from __future__ import annotations

import nltk
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.records import SampleRecord
from benchmarks.tasks.chair import wordnet as chair_wordnet
from benchmarks.tasks.chair.task import ChairWordnet, extract_objects, ground_truth
from scr import ConfigError

DOWNLOAD = "python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng wordnet"


@pytest.fixture(scope="module", autouse=True)
def nltk_data(test_data):
    """The data of nltk among the test data, else that of the machine."""
    before = nltk.data.path[:]
    nltk.data.path.insert(0, str(test_data / "nltk"))
    chair_wordnet._tools.cache_clear()
    if not all(map(chair_wordnet._is_there, chair_wordnet.RESOURCES.values())):
        pytest.skip(f"no data of nltk: {DOWNLOAD}")
    yield
    nltk.data.path[:] = before
    chair_wordnet._tools.cache_clear()


def found(caption):
    return extract_objects(caption, "wordnet")


def nodes(caption):
    return [node for _, node in found(caption)]


def test_words_and_nodes_in_the_order_of_the_text():
    assert found("Two Dogs on a sofa, a woman and two puppies. A dog!") == [
        ("dog", "dog"),
        ("sofa", "couch"),
        ("woman", "person"),
        ("puppy", "dog"),
        ("dog", "dog"),
    ]
    assert found("") == found(" \n") == found("The sky is blue.") == []


@pytest.mark.parametrize(
    ("caption", "wordnet", "singular"),
    [
        ("a red bus", ["bus"], []),
        ("two buses", ["bus"], ["bus"]),
        ("a man wears ties", ["person", "tie"], ["person"]),
        ("three canoes", ["boat"], []),
        ("a tennis racket", ["tennis racket"], ["tennis racket"]),
        ("a wine glass and two wine glasses", ["wine glass"] * 2, ["wine glass"] * 2),
        ("two hot dogs and a hot dog", ["hot dog"] * 2, ["hot dog"] * 2),
        # Of several lemmas the shortest counts, and the first of them: "men" (the work force), "vas".
        ("men, women and children", ["person"] * 2, ["person"] * 3),
        ("three vases", [], ["vase"]),
        ("a pair of scissors", ["scissors"], ["scissors"]),
        ("a bow tie", ["tie"], ["tie"]),
        ("the seat of the toilet", ["toilet"], ["toilet"]),
        ("a toilet seat by a seat", ["toilet"], ["toilet"]),
        ("a baby elephant", ["elephant"], ["elephant"]),
        ("the train track", [], []),
        ("a stove top oven", ["oven", "oven"], ["oven", "oven"]),
        ("a cheesecake and an iPhone", [], []),
        ("people", ["person"], ["person"]),
        ("He is skiing", ["skis"], []),  # a verb by its tag, and the verb's lemma is an object
    ],
)
def test_against_the_rule_of_2018(caption, wordnet, singular):
    assert nodes(caption) == wordnet
    assert [node for _, node in extract_objects(caption, "chair")] == singular


def test_the_tag_decides_the_lemma():
    sentences = chair_wordnet.lemmas("The dogs are running. They ran!")
    assert [[word for word, _ in sentence] for sentence in sentences] == [
        ["the", "dog", "be", "run", "."],
        ["they", "run", "!"],
    ]


def test_a_word_of_another_tag_is_taken_for_a_noun(monkeypatch):
    tools = chair_wordnet._tools()._replace(tag=lambda words: [(word, "CD") for word in words])
    monkeypatch.setattr(chair_wordnet, "_tools", lambda: tools)
    assert chair_wordnet.lemmas("Women ran") == [[("woman", (0, 5)), ("ran", (6, 9))]]


def test_tags_and_tokens_are_those_of_nltk():
    captions = [
        "Mr. Smith's dogs aren't here, e.g. on the couch. A bus (no. 5) waits at 5 p.m. and leaves...",
        "The left bus buses people. They left their left gloves; orange oranges fly like birds.",
        "- cups\n- knives\n**Two** ties\n1. skis",
    ]
    lemmatizer = nltk.stem.WordNetLemmatizer()
    for caption in captions:
        tagged = nltk.pos_tag(nltk.word_tokenize(caption.lower()))
        parts = {"J": "a", "V": "v", "N": "n", "R": "r"}
        expected = [lemmatizer.lemmatize(word, parts.get(tag[0], "n")) for word, tag in tagged]
        assert [word for sentence in chair_wordnet.lemmas(caption) for word, _ in sentence] == expected


def test_ground_truth_and_scores_by_the_same_rule():
    assert ground_truth(["dog"], ["A bus", "two ties"], "wordnet") == ["bus", "dog", "tie"]
    assert ground_truth(["dog"], ["A bus", "two ties"]) == ["dog"]
    record = SampleRecord(id="1", image="1", prompt="", target=["bus"], output="A bus. A bus and two ties.")
    scores = ChairWordnet().score([record])
    assert scores.metrics == {
        **{"chair_s": 1.0, "chair_i": 1 / 3, "recall": 1.0, "length": 9.0},
        "chair_sentence": 1 / 2,
    }


@given(st.text(st.sampled_from("dogs cats. A,!'\"-\n5") | st.characters(), max_size=60))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_caption(caption):
    for word, node in found(caption):
        assert word
        assert node
    words = [word for sentence in chair_wordnet.lemmas(caption) for word, _ in sentence]
    assert len(words) == len(nltk.word_tokenize(caption.lower()))


def test_without_the_data_the_error_holds_the_command(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    chair_wordnet._tools.cache_clear()
    with pytest.raises(ConfigError, match="got no punkt_tab, averaged_perceptron_tagger_eng, wordnet; ") as caught:
        found("a caption that no test has read before")
    assert f"Run `{DOWNLOAD}`" in str(caught.value)
    # The other rule needs none.
    assert extract_objects("a new dog") == [("dog", "dog")]
