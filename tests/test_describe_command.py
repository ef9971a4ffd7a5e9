"""`python -m scr.describe` on the lab's model: one folder from photos to a page, and what a later run adds."""

import csv
import json

import pytest
from PIL import Image

import scr
from benchmarks.lab import checkpoint_folder
from scr import NotFiniteError
from scr.adapters import find_adapter
from scr.checkpoints.chosen import load_chosen, locate
from scr.describing import asking, command
from scr.describing.command import configurations, main
from scr.describing.describe import PROMPT
from scr.describing.description import Description
from scr.describing.doubts.scores import find_calibration
from scr.describing.gallery.page import PAGE
from scr.describing.gallery.records import ROWS_FILE, SETTINGS_FILE

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ["--max-new-tokens", "12", "--batch-size", "2", "--calibration", "none"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with three photos, one of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    Image.new("RGB", (96, 96), "teal").save(folder / "a.png")
    Image.new("CMYK", (60, 40)).save(folder / "sub" / "b.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def out(photos, tmp_path_factory):
    """What the command makes of them, and of one that is not there."""
    folder = tmp_path_factory.mktemp("out") / "described"
    given = [str(photos), "gone.jpg", "--method", "scr", "--output", str(folder), *QUICK]
    assert main(given) == 0
    return folder


def rows_of(folder):
    return [json.loads(line) for line in (folder / ROWS_FILE).read_text().splitlines()]


def test_each_photo_has_a_line_of_each_method(out):
    rows = rows_of(out)
    names = ["a.png", "broken.jpg", "sub/b.jpg", "gone.jpg"]
    assert [(row["image"], row["method"]) for row in rows] == [(name, one) for name in names for one in ("none", "scr")]
    for row in rows:
        own = {name: value for name, value in row.items() if name not in ("trace", "digest")}
        assert Description.from_dict(own).to_dict() == own
        assert (row["error"] is None) == (row["image"] in ("a.png", "sub/b.jpg"))
        assert bool(row["text"]) == (row["error"] is None)
    none, edited = rows[0], rows[1]
    assert sum(none["trace"]["attention"]) > 0
    assert "sources" not in none["trace"]
    # What lies beside the checkpoint, as benchmarks.run takes it.
    assert json.loads((out / "settings.json").read_text())["methods"]["scr"]["scr"]["num_sources"] == 16
    assert len(edited["trace"]["sources"]) == 16
    assert len(edited["trace"]["neighbors"]) == len(edited["trace"]["owners"])
    (height, width), attention = edited["trace"]["grids"][0], edited["trace"]["attention"]
    assert len(attention) == height * width
    assert rows[2]["trace"] is None
    assert rows[2]["error"].startswith("no picture: got 'broken.jpg'")


def test_the_table_and_the_page_lie_beside_the_lines(out):
    with open(out / "descriptions.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(one["image"], one["method"], one["text"]) for one in table] == [
        (row["image"], row["method"], row["text"]) for row in rows_of(out)
    ]
    page = (out / PAGE).read_text()
    assert "4 photos described by lab/llava" in page
    assert len(list((out / "pictures").iterdir())) == 2
    assert json.loads((out / SETTINGS_FILE).read_text())["methods"]["scr"]["scr"]["scale"] == 1.4


def test_a_later_run_asks_what_is_missing_alone(photos, out, monkeypatch, capsys):
    asked = []
    rows = asking.Asker.rows

    def noted(self, given, method):
        asked.extend((photo.name, method) for photo in given)
        return rows(self, given, method)

    monkeypatch.setattr(asking.Asker, "rows", noted)
    assert main([str(photos), "--method", "plausibility_only", "--output", str(out), *QUICK]) == 0
    assert asked == [
        *[("broken.jpg", "none"), ("a.png", "plausibility_only"), ("broken.jpg", "plausibility_only")],
        ("sub/b.jpg", "plausibility_only"),
    ]
    said = capsys.readouterr()
    assert f"{out / PAGE}: 3 photos, 8 descriptions" in said.out
    assert "1 photos could not be described, 'broken.jpg' among them" in said.err
    methods = [row["method"] for row in rows_of(out) if row["image"] == "a.png"]
    assert methods == ["none", "scr", "plausibility_only"]
    assert [row["trace"] is None for row in rows_of(out) if row["image"] == "a.png"] == [False, False, True]


def test_what_refuses_one_photo_costs_the_others_nothing(photos, tmp_path, monkeypatch):
    asked = asking.describe

    def describe(model, processor, images, prompt, **options):
        if options["method"].parts and any(str(one).endswith("a.png") for one in images):
            raise NotFiniteError("no finite logits")
        return asked(model, processor, images, prompt, **options)

    monkeypatch.setattr(asking, "describe", describe)
    out = tmp_path / "out"
    assert main([str(photos / "a.png"), str(photos / "sub"), "--method", "scr", "--output", str(out), *QUICK]) == 0
    assert {(row["image"], row["method"]): row["error"] for row in rows_of(out)} == {
        ("a.png", "none"): None, ("a.png", "scr"): "no finite logits", ("b.jpg", "none"): None, ("b.jpg", "scr"): None,
    }  # fmt: skip


def test_another_photo_of_a_known_name_is_refused(photos, tmp_path, capsys):
    out, photo = tmp_path / "out", tmp_path / "a.png"
    assert main([str(photos / "a.png"), "--output", str(out), *QUICK]) == 0
    photo.write_bytes((photos / "a.png").read_bytes())
    assert main([str(photo), "--output", str(out), *QUICK]) == 0, "the same one at another place"
    Image.new("RGB", (96, 96), "red").save(photo)
    assert main([str(photo), "--output", str(out), *QUICK]) == 2
    assert f"two photos have one name: got {str(photo)!r}, but" in capsys.readouterr().err


def test_a_row_does_not_tell_where_a_photo_lies(tmp_path):
    folder = tmp_path / ("deep" * 50)
    folder.mkdir()
    photo = folder / "9.41\u202fAM.png"
    photo.write_bytes(b"no picture")
    assert main([str(photo), "--output", str(tmp_path / "out"), *QUICK]) == 1
    (row,) = rows_of(tmp_path / "out")
    assert "'9.41\\u202fAM.png'" in row["error"]
    assert "deep" not in row["error"]


def test_an_interrupt_leaves_a_page_and_says_how_to_go_on(photos, tmp_path, monkeypatch, capsys):
    done = []

    def rows(self, given, method):
        if done:
            raise KeyboardInterrupt
        done.append(method)
        return [
            {**Description(image=photo.name, prompt="p", text="A dog.").to_dict(), "trace": None} for photo in given
        ]

    monkeypatch.setattr(asking.Asker, "rows", rows)
    assert main([str(photos), "--output", str(tmp_path / "out"), *QUICK]) == 130
    said = capsys.readouterr()
    assert "interrupted; what was described is kept" in said.err.splitlines()[-1]
    assert len(rows_of(tmp_path / "out")) == 2
    assert "2 photos described" in (tmp_path / "out" / PAGE).read_text()


def test_where_nothing_can_be_described_the_command_fails(photos, tmp_path):
    assert main([str(photos / "broken.jpg"), "--output", str(tmp_path / "out"), *QUICK]) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--method", "vdc"], "unknown method: got 'vdc'"),
        (["--method", "scr,opera"], "opera searches with beams: got num_beams=1; expected at least 2"),
        (["--method-arg", "vcd.contrast=2"], "settings without a method"),
        (["--method", "scr", "--method-arg", "scr.scale=-1"], "scale out of range"),
        (["--model", "lab/lava"], "lab/lava"),
        (["--adapter", "lab/refuse"], "lab/refuse"),
        (["--model", "lab/qwen2_vl", "--adapter", "lab/refusal"], "adapter of another model"),
        (["--device", "cuda:77"], "no such device"),
        (["--calibration", "lab/nothing"], "unknown calibration"),
        (["--prompt", "Why?"], "described with other settings before: got prompt"),
    ],
)
def test_what_cannot_be_used_is_refused_before_a_model_is_loaded(given, said, photos, out, monkeypatch, capsys):
    monkeypatch.setattr("scr.checkpoints.chosen.load_weights", lambda *_, **__: pytest.fail("loaded"))
    assert main([str(photos), "--output", str(out), *QUICK, *given]) == 2
    assert said in capsys.readouterr().err


def test_where_a_model_lies_is_told_without_reading_it(tmp_path):
    assert locate("lab/llava") == checkpoint_folder("lab/llava")
    assert locate(str(tmp_path / "nothing")) == tmp_path / "nothing"


def test_configurations_have_the_unpatched_model_first():
    beside = {"settings": {"scale": 1.4, "num_sources": 5}}
    found = configurations(["SCR+purified", "vcd"], {"scr.scale": 1.2, "vcd.contrast": 0.5}, beside)
    assert found["scr+purified"].parts["scr"].num_sources == 5
    assert list(found) == ["none", "scr+purified", "vcd"]
    assert dict(found["none"].parts) == {}
    assert list(found["scr+purified"].parts) == ["scr", "purified"]
    assert found["scr+purified"].parts["scr"].scale == 1.2
    assert found["vcd"].parts["vcd"].strength.contrast == 0.5
    assert command.PROMPT == PROMPT


def test_scores_of_two_calibrations_do_not_mix_in_a_folder(photos, tmp_path, monkeypatch, capsys):
    def rows(self, given, method):
        said = [Description(image=photo.name, prompt="p", text="A dog.", method=method) for photo in given]
        return [{**one.to_dict(), "trace": None} for one in said]

    monkeypatch.setattr(asking.Asker, "rows", rows)
    file, out = tmp_path / "mine.json", tmp_path / "out"
    learnt = find_calibration("lab/llava")
    file.write_text(json.dumps(learnt.to_dict()))
    given = [str(photos / "a.png"), "--output", str(out), "--calibration", str(file)]
    assert main(given) == 0
    assert "were learnt" not in capsys.readouterr().err, "on this model and this prompt"
    assert json.loads((out / SETTINGS_FILE).read_text())["calibration"] == f"lab/llava@{learnt.digest}"
    file.write_text(json.dumps({**learnt.to_dict(), "intercept": 0.5}))
    assert main(given) == 2
    assert "described with other settings before: got calibration" in capsys.readouterr().err
    given += ["--output", str(tmp_path / "other"), "--prompt", "Why?", "--adapter", "lab/refusal"]
    assert main(given) == 0
    said = "scores by lab/llava were learnt with another prompt ('Please describe this image in detail.')"
    assert f"{said} and without lab/refusal: here" in capsys.readouterr().err


def test_texts_for_the_model_are_given_as_ids():
    class Tokenizer:
        def encode(self, text, add_special_tokens):
            return [len(text), int(add_special_tokens)]

    config = configurations(["icd"], {"icd.instruction": "No."})["icd"]
    found = asking._with_ids(asking.Condition(config), Tokenizer())
    assert found.config.parts["icd"].instruction in ([3, 0], (3, 0))


def test_an_adapter_is_shown_alone_and_with_each_method(photos, tmp_path):
    out = tmp_path / "out"
    given = ["--method", "scr", "--adapter", "lab/refusal", "--prompt", "What colour is the toaster?"]
    assert main([str(photos / "a.png"), *given, "--output", str(out), *QUICK]) == 0
    rows = {row["method"]: row for row in rows_of(out)}
    assert list(rows) == ["none", "scr", "lab/refusal", "lab/refusal, scr"]
    model, processor, _ = load_chosen("lab/llava", "float32", "cpu")
    alone = scr.describe(model, processor, photos / "a.png", given[-1], adapter="lab/refusal", doubts=(),
                         do_sample=False, max_new_tokens=12)[0]  # fmt: skip
    assert rows["lab/refusal"]["text"] == alone.text != rows["none"]["text"]
    assert rows["lab/refusal"]["trace"]["attention"] != rows["none"]["trace"]["attention"]
    assert len(rows["lab/refusal, scr"]["trace"]["sources"]) == 16
    settings = json.loads((out / SETTINGS_FILE).read_text())["methods"]
    assert settings["lab/refusal, scr"] == {
        **settings["scr"], "adapter": f"lab/refusal@{find_adapter('lab/refusal').revision}"
    }  # fmt: skip
    assert "lab/refusal, scr" in (out / PAGE).read_text()
