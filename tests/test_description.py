"""What `scr.describe` says of an image: it goes through JSON, prints, and shows itself."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from scr import ConfigError
from scr.describing.description import Description, Descriptions, Doubt, Token
from scr.describing.showing import Underline, underlined

TEXT = "A dog & a <cat>."
DOG = Doubt(word="dog", start=2, end=5, category="dog", confidence=0.9, evidence=2.5, recheck=3.0, score=0.1)
CAT = Doubt(word="cat", start=11, end=14, category="cat", confidence=0.25, evidence=-0.5, score=0.75)
FULL = Description(
    image="photos/a.jpg",
    prompt="What is there?",
    text=TEXT,
    tokens=(Token(text="A dog", probability=0.5), Token(text=" & a <cat>.", probability=1)),
    doubts=(DOG, CAT),
    method="scr",
    milliseconds=12.5,
    calibration="lab/llava",
)
BROKEN = Description(image="image 3", prompt="What is there?", error="got no picture")


@pytest.mark.parametrize("description", [FULL, BROKEN], ids=["full", "broken"])
def test_it_goes_through_json(description):
    values = json.loads(json.dumps(description.to_dict()))
    assert Description.from_dict(values) == description
    assert list(values) == [field.name for field in dataclasses.fields(Description)]


def test_json_holds_plain_values():
    values = FULL.to_dict()
    assert values["tokens"][0] == {"text": "A dog", "probability": 0.5}
    assert values["doubts"][1]["recheck"] is None
    assert values["doubts"][0]["category"] == "dog"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "A cat & a <dog>."}, "a doubt about another text: got 'dog' at 2 to 5, where .* has 'cat'"),
        ({"doubts": (CAT, DOG)}, "a doubt about another text"),
        ({"doubts": (DOG, DOG)}, "a doubt about another text"),
        ({"tokens": [{"text": "A", "probability": 1.5}]}, "probability out of range: got 1.5"),
        ({"txt": "A"}, "unknown field of Description: got 'txt'"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Description.from_dict({**FULL.to_dict(), **changes})


def test_a_line_names_the_most_doubtful_words_first():
    assert repr(FULL) == "Description('photos/a.jpg', scr, 'A dog & a <cat>.', doubts: cat 0.75, dog 0.10)"
    assert repr(BROKEN) == "Description('image 3', none, error: got no picture)"
    unsure = dataclasses.replace(FULL, doubts=(dataclasses.replace(DOG, score=None),), calibration=None)
    assert repr(unsure).endswith("doubts: dog (uncalibrated))")
    assert len(repr(dataclasses.replace(FULL, text="word " * 99, doubts=()))) < 140


def test_a_notebook_underlines_words_by_their_doubt():
    page = FULL._repr_html_()
    widths = [float(one) for one in re.findall(r"underline rgba\(.*?\) ([\d.]+)px", page)]
    assert widths == sorted(widths)
    assert len(set(widths)) == 2
    assert re.sub(r"<[^>]+>", "", page).startswith("A dog &amp; a &lt;cat&gt;.photos/a.jpg, scr")
    assert "doubts by lab/llava" in page
    unsure = dataclasses.replace(FULL, doubts=(dataclasses.replace(DOG, score=None),), calibration=None)
    assert "dotted" in unsure._repr_html_()
    assert ", uncalibrated</figcaption>" in unsure._repr_html_()
    assert "got no picture" in BROKEN._repr_html_()
    assert Descriptions([FULL, BROKEN])._repr_html_() == FULL._repr_html_() + BROKEN._repr_html_()


def test_reasons_name_what_was_measured_and_nothing_else():
    assert DOG.reasons == (
        "made up with probability 0.10; said with probability 0.90; the image adds +2.5 nats; "
        "asked again: yes − no = +3.0"
    )
    assert "asked" not in CAT.reasons
    assert dataclasses.replace(DOG, score=None).reasons.startswith("uncalibrated; ")


def test_what_stands_around_underlines_is_escaped():
    assert underlined("a < b", []) == "a &lt; b"
    page = underlined("a < b", [Underline(2, 3, None, 'said "so"')])
    assert re.sub(r"<[^>]+>", "", page) == "a &lt; b"
    assert "&quot;so&quot;" in page


def test_it_is_read_without_torch():
    code = (
        "import sys, scr.describing.description; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
