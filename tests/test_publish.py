"""Every method as a repository of transformers: it answers as in plain use, and says what it is and what is known."""

import importlib.metadata
import shutil
import sys

import pytest
import synthetic_results
import torch
from answers import said
from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.errors import HfHubHTTPError
from tiny_families import TINY
from transformers import TextStreamer, dynamic_module_utils

import scr
from scr.onepass.storing import UNTRAINED
from scr.publish.card import card
from scr.publish.command import main
from scr.publish.numbers import Measured, measured
from scr.publish.repository import push, write_repository
from scr.publish.travelling import Published, published

pytestmark = pytest.mark.usefixtures("one_thread", "modules")


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """Where transformers copies code to: a folder that goes with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", list(sys.path))
        yield


@pytest.fixture(scope="module")
def llava():
    return TINY["llava"](layers=4)


def asked(tiny, folder, **options):
    return said(tiny, custom_generate=str(folder), trust_remote_code=True, **options)


def options_of(name):
    return {"num_beams": scr.get_method(name).least_beams}


@pytest.mark.parametrize("name", [*scr.list_methods(), "scr+purified"])
def test_a_published_method_answers_as_in_plain_use(name, llava, tmp_path):
    parts = name.split("+")
    fields = {
        key if len(parts) == 1 else f"{part}.{key}": value
        for part in parts
        for key, value in scr.get_method(part).example.items()
    }
    options = options_of(parts[0])
    write_repository(tmp_path / "repository", published(name, fields))
    before = dict(vars(llava.model))
    tokens, scores = asked(llava, tmp_path / "repository", **options)
    assert vars(llava.model) == before
    with scr.patch(llava.model, name, **fields):
        expected, plain_scores = said(llava, **options)
    assert torch.equal(tokens, expected)
    assert torch.equal(scores, plain_scores)
    assert not torch.equal(scores, said(llava, **options)[1]), "it does nothing"


def test_a_streamer_gets_each_token_and_a_refusal_is_that_of_the_method(llava, tmp_path):
    write_repository(tmp_path / "vcd", published("vcd", {"contrast": 2.0}))
    write_repository(tmp_path / "opera", published("opera", {}))

    class Streamer(TextStreamer):
        def __init__(self):
            self.tokens = []

        def put(self, value):
            self.tokens.append(value)

        def end(self):
            pass

    streamer, row = Streamer(), [("is there <image> a dog", [1])]
    tokens, _ = asked(llava, tmp_path / "vcd", prompts=row, streamer=streamer)
    assert torch.equal(torch.cat([one.flatten() for one in streamer.tokens]), tokens[0])
    with pytest.raises(scr.UnsupportedGenerationError, match="num_beams"):
        asked(llava, tmp_path / "opera", num_beams=1)


def test_without_the_package_it_is_named_as_it_is_called(llava, tmp_path, monkeypatch):
    write_repository(tmp_path / "vcd", published("vcd", {}))
    version = importlib.metadata.version

    def none_of_ours(name):
        if name == "scr-vlm":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", none_of_ours)
    monkeypatch.setitem(sys.modules, "scr", None)
    with pytest.raises(ImportError, match=r"Missing requirements.*\n.*scr-vlm>=\d+\.\d+\.\d+ \(installed: None\)"):
        asked(llava, tmp_path / "vcd")


def test_code_of_a_repository_is_run_on_request_alone(llava, tmp_path):
    write_repository(tmp_path / "vcd", published("vcd", {}))
    with pytest.raises(ValueError, match="trust_remote_code"):
        said(llava, custom_generate=str(tmp_path / "vcd"), trust_remote_code=False)


@pytest.mark.parametrize(
    ("method", "fields", "named"),
    [
        ("none", {}, "the model as it is"),
        ("vcd", {"contrats": 1}, "'contrast'"),
        ("yes_shift", {}, "no_tokens"),
        ("vti", {"vectors": "vti.safetensors"}, "got vectors"),
        ("scr_one_pass", {"predictor": "my_predictor"}, "got predictor"),
        ("oa_vcd", {"saliency": lambda *_: None}, "got saliency"),
        ("scr+vti", {"vti.vectors": "vti.safetensors"}, "vti cannot be published.*got vectors"),
    ],
)
def test_what_means_nothing_elsewhere_is_refused(method, fields, named):
    with pytest.raises(scr.ConfigError, match=named):
        published(method, fields)


def test_what_a_package_brings_or_needs_no_file_travels():
    for predictor in ("lab/llava", UNTRAINED):
        assert published("scr_one_pass", {"predictor": predictor}).fields["predictor"] == predictor
    assert published("scr+vti", {"vti.vectors": "random", "scr.scale": 2.0}).fields["scr.scale"] == 2.0


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(scr.ConfigError, match="something else lies there"):
        write_repository(tmp_path, published("vcd", {}))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_is_there_already_is_left_as_it_is_and_anything_else_refused(tmp_path):
    folder, what = tmp_path / "vcd", published("vcd", {})
    write_repository(folder, what)
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_repository(folder, what)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == files
    with pytest.raises(scr.ConfigError, match="something else lies there"):
        write_repository(folder, published("vcd", {"plausibility": 0.5}))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(scr.ConfigError, match="something else lies there"):
        write_repository(folder, what)
    (folder / "notes.txt").unlink()
    (folder / "README.md").unlink()
    with pytest.raises(scr.ConfigError, match="something else lies there"):
        write_repository(folder, what)
    with pytest.raises(scr.ConfigError, match="something else lies there"):
        write_repository(folder / "custom_generate" / "generate.py", what)


def test_a_push_that_failed_is_repeated_by_the_same_command(tmp_path, monkeypatch, capsys):
    answers = [OSError("no route"), RepoUrl("https://hub.invalid/someone/vcd", endpoint="https://hub.invalid")]

    def create_repo(self, repo_id, **_):
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **_: None)
    given = ["vcd", "--output", str(tmp_path / "vcd"), "--push", "someone/vcd"]
    assert main(given) == 2
    assert "the hub has not taken it" in capsys.readouterr().err
    assert main(given) == 0
    assert "https://hub.invalid/someone/vcd" in capsys.readouterr().out


@pytest.fixture
def results(tmp_path):
    """VCD at two contrasts, one of them beside the unpatched model, and the latter on other questions."""
    what = published("vcd", {"contrast": 0.5})
    ours, other = what.configs["vcd"].to_dict(), published("vcd", {}).configs["vcd"].to_dict()
    runs = [
        {"metrics": {"accuracy": 0.5, "cider": 1.5}, "intervals": {"accuracy": [0.4, 0.6]}, "units": {"cider": ""}},
        {"method": "vcd", "config": {**ours, "noise_step": 500}, "metrics": {"accuracy": 0.25, "cider": None}},
        {"method": "vcd", "config": other, "metrics": {"accuracy": 0.75}},
        {"method": "vcd", "config": ours, "metrics": {"accuracy": 0.99}, "status": "failed"},
        {"task": "chair", "metrics": {"chair_i": 0.1}},
        {"method": "vcd", "config": ours, "task": "chair", "seed": 7, "metrics": {"chair_i": 0.2}},
    ]
    for number, fields in enumerate(runs):
        synthetic_results.write(tmp_path / "results" / str(number), synthetic_results.record(**fields), [])
    return tmp_path / "results", what


def test_the_card_has_what_was_measured_with_its_own_fields(results, tmp_path):
    folder, what = results
    (one,) = measured(folder, what)
    assert isinstance(one, Measured)
    text = card(what, [one])
    assert "### pope_random" in text
    assert "| accuracy | 50.00 % (40.00–60.00) | 25.00 % |" in text
    assert "| cider | 1.50  | undefined |" in text
    assert not {"75.00", "99.00", "chair_i"} & set(text.split()), text
    with pytest.raises(scr.ConfigError, match="with 5 finished runs, 0 of them of vcd"):
        measured(folder, published("vcd", {"contrast": 0.7}))


def test_a_field_that_a_run_was_given_is_not_one_that_the_family_filled_in(tmp_path):
    what, blocks = published("scr", {}), {"attention_layers": [0, 4]}
    own = what.configs["scr"].to_dict() | blocks | {"layers": [0, 2]}
    pair = published("scr+vcd", {})
    both = {name: config.to_dict() for name, config in pair.configs.items()}
    runs = [
        {"metrics": {"accuracy": 0.5}},
        {"method": "scr", "config": own, "config_given": {"num_sources": 32}, "metrics": {"accuracy": 0.25}},
        {"method": "scr", "config": own | {"layers": [3, 4]}, "config_given": {"layers": [3, 4]}, "metrics": {}},
        {
            "method": "scr+vcd",
            "config": both | {"scr": own},
            "config_given": {"scr": {"layers": [0, 2]}},
            "metrics": {},
        },
        {"method": "opera", "config": published("opera", {}).configs["opera"].to_dict(), "metrics": {}},
    ]
    for number, fields in enumerate(runs):
        synthetic_results.write(tmp_path / str(number), synthetic_results.record(**fields), [])
    (one,) = measured(tmp_path, what)
    assert one.method["metrics"] == {"accuracy": 0.25}
    for other in (pair, published("opera", {"threshold": None})):
        with pytest.raises(scr.ConfigError, match="5 finished runs, 0 of them"):
            measured(tmp_path, other)
    assert measured(tmp_path, published("scr+vcd", {"scr.layers": [0, 2]}))


def test_the_command_writes_it_and_says_where(results, tmp_path, capsys):
    folder, _ = results
    given = ["vcd", "--set", "contrast=0.5", "--results", str(folder), "--output", str(tmp_path / "new" / "vcd")]
    assert main(given) == 0
    assert capsys.readouterr().out == f"vcd: {tmp_path / 'new' / 'vcd'}; measurements in its card: 1\n"
    files = {str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert files == {"vcd/README.md", "vcd/custom_generate/generate.py", "vcd/custom_generate/requirements.txt"}
    head = (tmp_path / "new" / "vcd" / "README.md").read_text().split("---")[1]
    assert "- custom_generate" in head
    assert main([*given, "--set", "plausibility=0.5"]) == 2
    assert "nothing measured" in capsys.readouterr().err
    assert main([*given[:3], "--output", str(tmp_path / "new" / "vcd")]) == 2
    assert "something else lies there" in capsys.readouterr().err


def test_a_card_without_numbers_says_that_there_are_none():
    what = published("yes_shift", {"shift": 2, "no_tokens": [3]})
    text = card(what, ())
    assert isinstance(what, Published)
    assert "None: nothing was measured" in text
    assert "no_tokens: ids of one tokenizer" in text
    assert "num_beams" not in text
    assert f"num_beams={scr.get_method('opera').least_beams}" in card(published("opera", {}), ())


def test_a_push_brings_it_to_the_hub_as_it_is(llava, tmp_path, monkeypatch):
    """A folder stands for the hub."""
    hub = tmp_path / "hub"

    def create_repo(self, repo_id, *, private, exist_ok):
        assert (private, exist_ok) == (True, True)
        (hub / repo_id).mkdir(parents=True)
        return RepoUrl(f"https://hub.invalid/{repo_id}", endpoint="https://hub.invalid")

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, hub / repo_id, dirs_exist_ok=True)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    given = ["vcd", "--set", "contrast=2", "--output", str(tmp_path / "vcd"), "--push", "someone/vcd", "--private"]
    assert main(given) == 0
    _, scores = asked(llava, hub / "someone" / "vcd")
    with scr.patch(llava.model, "vcd", contrast=2):
        assert torch.equal(scores, said(llava)[1])


def test_a_hub_that_refuses_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(scr.ConfigError, match=r"the hub has not taken it: got .*'no/such/name'"):
        push(tmp_path, "no/such/name")
    for error in (HfHubHTTPError.__bases__[0]("no route\nto host"), OSError("no token")):

        def refuse(self, *_, error=error, **__):
            raise error

        monkeypatch.setattr(HfApi, "create_repo", refuse)
        with pytest.raises(scr.ConfigError, match="the hub has not taken it: got no"):
            push(tmp_path, "someone/vcd")
