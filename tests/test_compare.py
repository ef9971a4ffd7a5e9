"""Answers side by side: what is shown, how words are marked, and what is refused."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from test_adapters import write_adapter
from tiny import picture, tiny_llava

from benchmarks.compare import build_parser, main
from benchmarks.printing.side_by_side import print_answers
from benchmarks.studies.side_by_side import Compared, Condition
from benchmarks.studies.wording import marked, word_differences
from scr.describing import read_image

pytestmark = pytest.mark.usefixtures("one_thread")
HEAD = {"model": "m", "dtype": "float32", "device": "cpu", "image": "i.png", "prompt": "p", "rounds": 3}


@pytest.fixture(scope="module")
def arguments(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    image = tmp_path_factory.mktemp("images") / "one.png"
    picture(1).save(image)
    return ["--model", str(checkpoint), "--image", str(image), "--max-new-tokens", "4", "--rounds", "1"]


@pytest.mark.parametrize(
    ("first", "other", "expected"),
    [
        ("Yes.", "Yes.", "Yes."),
        ("a dog sits", "a cat sits", "a [-dog] [+cat] sits"),
        ("a dog and a cat", "a dog", "a dog [-and a cat]"),
        ("a dog", "a big old dog", "a [+big old] dog"),
        ("", "something new", "[+something new]"),
        ("all of it", "", "[-all of it]"),
        ("", "", ""),
    ],
)
def test_words_are_marked(first: str, other: str, expected: str) -> None:
    assert marked(word_differences(first, other)) == expected


def test_the_pieces_are_both_answers() -> None:
    first, other = "a cat . a dog . " * 40 + "a kite", "a dog . a cat . " * 40 + "the kite"
    pieces = word_differences(first, other)
    assert " ".join(piece.text for piece in pieces if piece.kind != "removed") == " ".join(other.split())
    assert " ".join(piece.text for piece in pieces if piece.kind != "added") == " ".join(first.split())


def test_methods_and_adapters_side_by_side(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = str(write_adapter(tmp_path / "adapter", tiny_llava()[0]))
    command = [*arguments, "--methods", "scr,scr+purified", "--adapters", adapter]
    command += ["--method-arg", "scr.scale=1.5", "--method-arg", "purified.contrast=60.0", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    names = ["none", "scr", "scr+purified"]
    assert [one["row"] for one in found["answers"]] == [*names, adapter, *(f"{adapter}, {name}" for name in names[1:])]
    first, scr, both, adapted, *_ = found["answers"]
    assert not first["changed"]
    assert first["config"] == {}
    assert scr["config"]["scale"] == both["config"]["scr"]["scale"] == 1.5
    assert first["adapter"] is None
    assert adapted["adapter"] == adapter
    assert adapted["changed"] or both["changed"], "an adapter of large random weights, a contrast of 60"
    for one in found["answers"]:
        assert 1 <= one["new_tokens"] <= 4
        assert 0 < one["prefill_ms"] <= one["total_ms"]
        kept = " ".join(text for kind, text in one["differences"] if kind != "removed")
        assert kept == " ".join(one["output"].split())
    # The bare model's answer is the same whatever was asked before it.
    assert main([*arguments, "--methods", "none", "--json"]) == 0
    (alone,) = json.loads(capsys.readouterr().out)["answers"]
    assert alone["output"] == first["output"]


def test_a_photo_is_turned_as_its_exif_says(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upright, turned = tmp_path / "upright.png", tmp_path / "turned.png"
    shown = picture(3)
    shown.save(upright)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # was taken a quarter turn to the left
    shown.rotate(90, expand=True).save(turned, exif=exif)
    # A model's margin tells a picture from another one.
    command = ["--image", str(upright), "--image", str(turned), "--methods", "none", "--json", "--prompt", "a dog ?"]
    assert main([*arguments[:2], *command, *arguments[4:]]) == 0
    first, second = (json.loads(line)["answers"][0] for line in capsys.readouterr().out.splitlines())
    assert first["output"] == second["output"]
    pixels = [np.asarray(read_image(path)) for path in (upright, turned)]
    assert np.array_equal(*pixels)
    assert not np.array_equal(pixels[0], np.asarray(Image.open(turned)))


def test_several_pictures_and_folders(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("no picture")
    pictures = [folder / "a.png", folder / "b.JPG", tmp_path / "c.png"]
    for number, path in enumerate(pictures):
        Image.new("RGB", (20, 20), (80 * number, 0, 0)).save(path, format="PNG")
    more = [word for path in (folder, pictures[0], pictures[2]) for word in ("--image", str(path))]
    assert main([*arguments, *more, "--method", "none", "--json"]) == 0
    out, err = capsys.readouterr()
    shown = [json.loads(line)["image"] for line in out.splitlines()]
    assert shown[1:] == list(map(str, pictures)), "the first is of the arguments; none is shown twice"
    assert f"picture 2 of 4: {pictures[0]}" in err
    for wrong, message in ((pictures[1], "no picture: got"), (folder, "no pictures: got folder")):
        pictures[0].unlink(missing_ok=True)
        pictures[1].write_bytes(b"no picture") if wrong == pictures[1] else pictures[1].unlink()
        assert main([*arguments, "--image", str(folder)]) == 2
        assert message in capsys.readouterr().err


def test_the_table_without_a_terminal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--methods", "scr", "--prompt", "is there a dog in the image ?"]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out
    assert max(map(len, (line for line in out.splitlines() if not line.startswith("image: ")))) <= 100
    assert "Words, compared with none: [+added] [-left out]." in out
    assert "one round" in out
    assert "loading" in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def answers() -> list[Compared]:
    shared = {"new_tokens": 3, "prefill_ms": 10.0, "total_ms": 30.0}
    texts = {"none": "Yes, a dog.", "scr": "No, a dog.", "purified": ""}
    return [
        Compared(condition=Condition(name), output=text, margin={"none": 1.25, "scr": -0.5}.get(name),
                 differences=word_differences(texts["none"], text), **shared)
        for name, text in texts.items()
    ]  # fmt: skip


@pytest.mark.parametrize("no_color", [False, True])
def test_nothing_is_told_by_colour_alone(no_color: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    file = Terminal()
    print_answers({**HEAD, "adapters_trained_on_image": ["lab/refusal"]}, answers(), file)
    text = file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "+1.25" in plain
    assert "-0.50" in plain
    assert "lab/refusal was trained on this image." in plain
    if no_color:
        assert "[-Yes,] [+No,] a dog." in plain
        assert not re.search(r"\x1b\[[0-9;]*3\d", text), "no colour"
    else:
        assert "Yes, No, a dog." in plain
        assert "\x1b[9;31mYes," in text, "struck through"
        assert re.search(r"\x1b\[1;4;32mNo,", text), "underlined"


def test_the_lab_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    options = build_parser().parse_args([])
    assert (options.model, options.image, options.methods) == ("lab/llava", [], ("none", "scr", "purified"))
    assert options.adapters == (), "peft is an optional package"
    assert main(["--max-new-tokens", "2", "--rounds", "1", "--methods", "none"]) == 0
    out = capsys.readouterr().out
    assert "model lab/llava" in out
    assert "prompt: Please describe this image in detail." in out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--methods", "none,scrr"], "unknown method: got 'scrr'.*Did you mean 'scr'?"),
        (["--methods", "scr+none"], "baseline in a combination"),
        (["--methods", ","], "--methods: got ','; expected names"),
        (["--methods", "none", "--method-arg", "scale=2"], "settings without a method"),
        (["--method-arg", "scr.scale=0.5"], "scale"),
        (["--method-arg", "scale"], "--method-arg: got 'scale'; expected KEY=VALUE"),
        (["--model", "lab/lava"], "unknown lab model"),
        (["--image", "nowhere.png"], "no such image: got 'nowhere.png'"),
        (["--image", __file__], "no picture: got .*test_compare.py"),
        (["--adapters", "lab/refusl"], "unknown lab adapter: got 'lab/refusl'.*Did you mean 'lab/refusal'?"),
        (["--adapters", "./nowhere/at/all"], "adapter not found: got './nowhere/at/all'"),
        (["--dtype", "int8"], "unknown dtype: got 'int8'"),
        (["--rounds", "0"], "--rounds: got '0'; expected 1 or more"),
        (["--frobnicate"], "unknown argument: got '--frobnicate'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    extra: list[str], message: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *extra]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"error: .*{message}.*\n", err), err


def test_a_model_without_pictures_says_what_to_give(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(checkpoint)]) == 2
    assert "Give --image FILE." in capsys.readouterr().err
