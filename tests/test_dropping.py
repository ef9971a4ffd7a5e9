"""What leaves a text because it is doubtful, and what stays because the rest would be no sentence."""

import re

import pytest

import scr
from scr.describing.dropping import drop_doubtful
from scr.reading import find_objects, singulars

TWO = "The image shows a kitchen with an oven, a cup and a bowl. There is also a bed."


def description(text, doubtful, **changes):
    """Scores of 0.9 for the words that are doubtful, of 0.1 for all other objects, and a token for each word."""
    found = find_objects(singulars(text))
    doubts = [
        scr.Doubt(
            word=text[start:end],
            start=start,
            end=end,
            category=category,
            score=0.9 if text[start:end] in doubtful else 0.1,
        )
        for (start, end), (_, category) in zip(found.spans, found.objects, strict=True)
    ]
    pieces = re.findall(r"\s*\w+|\s*[^\w\s]", text)
    tokens = tuple(scr.Token(text=piece, probability=1 / (1 + place)) for place, piece in enumerate(pieces))
    return scr.Description(image="a", prompt="p", text=text, tokens=tokens, doubts=tuple(doubts), **changes)


@pytest.mark.parametrize(
    ("doubtful", "left"),
    [
        ("oven", "The image shows a kitchen with a cup and a bowl. There is also a bed."),
        ("cup", "The image shows a kitchen with an oven and a bowl. There is also a bed."),
        ("bowl", "The image shows a kitchen with an oven and a cup. There is also a bed."),
        ("oven bowl", "The image shows a kitchen with a cup. There is also a bed."),
        ("oven cup bowl", "The image shows a kitchen. There is also a bed."),
        ("bed", "The image shows a kitchen with an oven, a cup and a bowl."),
        ("cup bed", "The image shows a kitchen with an oven and a bowl."),
        ("", TWO),
    ],
)
def test_things_leave_a_list(doubtful, left):
    assert drop_doubtful(description(TWO, doubtful.split()), 0.8).text == left


@pytest.mark.parametrize(
    ("text", "doubtful", "left"),
    [
        ("A table has a cup, a bowl, two forks, and a knife.", "bowl", "A table has a cup, two forks, and a knife."),
        ("A man in a kitchen, with a red cup.", "cup", "A man in a kitchen."),
        ("There are a cup, a bowl and a dog.", "cup", "There are a bowl and a dog."),
        ("There are three cups and a bowl.", "bowl", "There are three cups."),
        ("There is a cup and two bowls.", "bowls", "There is a cup."),
        ("There is a dog. A man has a cup.", "dog", "A man has a cup."),
        ("A room with a dog bed and a cup.", "bed", "A room with a cup."),
    ],
)
def test_the_rest_is_a_sentence(text, doubtful, left):
    assert drop_doubtful(description(text, doubtful.split()), 0.8).text == left


@pytest.mark.parametrize(
    ("text", "doubtful"),
    [
        ("There is a bed.", "bed"),
        ("There are a cup and a bowl.", "cup"),
        ("There is a cup and two bowls.", "cup"),
        ("There is some cake and some pizza.", "cake"),
        ("A dog and a cat are playing.", "cat"),
        ("A dog with a cat on a couch.", "cat"),
        ("A man rides a horse, a bike, and a cow.", "bike"),
        ("A man stands between a dog and a cat.", "dog"),
        ("The room has a dog.", "dog"),
        ("There is a dog. It sleeps.", "dog"),
        ("A room with a dog bed and a cup.", "dog"),
        ("A room with a cat that has a cup and a bowl.", "cat"),
    ],
)
def test_what_would_be_no_sentence_stays(text, doubtful):
    given = description(text, doubtful.split())
    assert any(one.score == 0.9 for one in given.doubts), "else nothing is asked"
    assert drop_doubtful(given, 0.8) == given


def test_tokens_and_doubts_are_those_of_what_is_left():
    given = description(TWO, ["oven", "cup", "bed"], method="scr", calibration="mine")
    left = drop_doubtful(given, 0.8)
    assert left.text == "The image shows a kitchen with a bowl."
    assert "".join(token.text for token in left.tokens) == left.text
    assert [one.word for one in left.doubts] == ["bowl"]
    known = {token.text: token.probability for token in given.tokens}
    assert known[" bowl"] == next(token.probability for token in left.tokens if token.text == " bowl")
    assert (left.image, left.method, left.calibration) == ("a", "scr", "mine")
    marked = drop_doubtful(description("A room with a cup, a dog and a bed.", ["dog"]), 0.8)
    assert "".join(token.text for token in marked.tokens) == marked.text == "A room with a cup and a bed."
    assert [one.word for one in marked.doubts] == ["cup", "bed"]


def test_only_scores_above_the_threshold_count():
    given = description(TWO, ["oven"])
    assert drop_doubtful(given, 0.9) == given
    assert drop_doubtful(given, 0.89) != given
    bare = description(TWO, [])
    unscored = scr.Description(
        image="a",
        prompt="p",
        text=bare.text,
        doubts=tuple(scr.Doubt(word=one.word, start=one.start, end=one.end) for one in bare.doubts),
    )
    assert drop_doubtful(unscored, 0.0) == unscored
    error = scr.Description(image="a", prompt="p", error="none")
    assert drop_doubtful(error, 0.0) == error
