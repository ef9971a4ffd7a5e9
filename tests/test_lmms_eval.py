"""lmms-eval's `scr_hf`: what it answers, by the interface of lmms-eval 0.7.3; and a task of its own, where it is there.

The stand-ins have what the adapter touches, as read in the wheel.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image

import scr
from benchmarks import score
from benchmarks.lab import data_folder
from scr.inside.answering import AnsweringModel, generate_arguments, until

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pictures():
    folder = data_folder("val", 4)
    return sorted((folder / "val").glob("*.*"))[:4]


def message(text, *images):
    shown = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module")
def plain():
    return AnsweringModel("lab/llava")


@pytest.fixture(scope="module")
def strong(plain):
    """Fields of yes_shift by which every answer about an image begins with No."""
    return {"shift": 100.0, "no_tokens": plain.processor.tokenizer("No", add_special_tokens=False)["input_ids"][:1]}


@pytest.fixture(scope="module")
def asked(pictures):
    """Three questions of two kinds of settings, the second about no picture."""
    images = [Image.open(path).convert("RGB") for path in pictures]
    greedy = {"max_new_tokens": 5, "temperature": 0, "top_p": 1.0, "until": ["\n\n"]}
    return [
        (message("Is there a dog in the image?", images[0]), greedy),
        (message("Is there a cup?"), {"max_new_tokens": 2}),
        (message("Describe the image.", images[1]), {**greedy, "until": ["."]}),
        (message("Is there a cup in the image?", images[2]), greedy),
    ]


def by_hand(answering, asked, method, **fields):
    """One after the other."""
    said = []
    for messages, settings in asked:
        text = answering.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        images = [part["image"] for part in messages[0]["content"] if part["type"] == "image"]
        inputs = answering.processor(images=images or None, text=text, return_tensors="pt")
        patch = scr.patch(answering.model, method, **fields)
        with patch, torch.inference_mode():
            out = answering.model.generate(**inputs, max_new_tokens=settings["max_new_tokens"], do_sample=False)
        new = answering.processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        said.append(new.split((settings.get("until") or ["\n\n"])[0])[0].strip())
    return said


def test_answers_are_those_of_the_patched_model(plain, strong, asked):
    assert plain.answers([]) == []
    unpatched = by_hand(plain, asked, "none")
    assert plain.answers(asked) == unpatched
    for size in (1, 3):
        patched = AnsweringModel("lab/llava", method="yes_shift", method_args=json.dumps(strong), batch_size=size)
        said = patched.answers(asked)
        assert said == by_hand(patched, asked, "yes_shift", **strong)
        assert [text[:2] for text in said] == ["No", unpatched[1][:2], "No", "No"] != [text[:2] for text in unpatched]
    adapted = AnsweringModel("lab/llava", peft="lab/refusal", method="scr", method_args={"scale": 1.2})
    assert any("lora_A" in name for name, _ in adapted.model.named_modules())
    assert adapted.answers(asked) == by_hand(adapted, asked, "scr", scale=1.2)


def test_a_prompt_begins_once(plain, asked, monkeypatch):
    seen, generate = [], plain.model.generate
    monkeypatch.setattr(plain.model, "generate", lambda **given: seen.append(given) or generate(**given))
    plain.answers(asked[:1])
    template, bos = plain.processor.chat_template, plain.processor.tokenizer.bos_token
    monkeypatch.setattr(plain.processor, "chat_template", bos + template)
    plain.answers(asked[:1])
    assert torch.equal(seen[0]["input_ids"], seen[1]["input_ids"])
    assert (seen[1]["input_ids"] == plain.processor.tokenizer.bos_token_id).sum() == 1


def test_settings_of_tasks():
    greedy = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "until": ["\n"]}
    assert generate_arguments(greedy) == {"max_new_tokens": 16, "num_beams": 1, "do_sample": False}
    assert generate_arguments({}) == {"max_new_tokens": 1024, "do_sample": False}
    assert generate_arguments({"temperature": 0.5}) == {"max_new_tokens": 1024, "temperature": 0.5, "do_sample": True}
    assert generate_arguments({"do_sample": True, "top_p": 0.9})["top_p"] == 0.9
    assert generate_arguments({"do_sample": False, "temperature": 0.9}) == {"max_new_tokens": 1024, "do_sample": False}
    assert until(" Yes. No\n", [".", ""]) == "Yes"
    assert until("Yes\n\nNo", "\n\n") == "Yes"
    assert until("Yes", None) == "Yes"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "vdc"}, "'vcd'"),
        ({"method": "vcd", "method_args": '{"contrats": 1}'}, "'contrast'"),
        ({"method": "vcd", "method_args": "[1]"}, "method_args that are no object"),
        ({"method": "vcd", "method_args": "contrast:1"}, "method_args"),
        ({"dtype": "float8"}, "unknown dtype"),
        ({"batch_size": 0}, "batch_size out of range"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_what_cannot_be_used_is_said_before_the_first_question(options, named):
    with pytest.raises(scr.SCRError, match=named):
        AnsweringModel("lab/llava", **options)


def test_auto_is_the_checkpoints_own_dtype_and_a_template_is_needed(plain, tmp_path):
    """Older checkpoints have no dtype in their configuration."""
    copy.deepcopy(plain.model).to(torch.bfloat16).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    plain.processor.save_pretrained(tmp_path)
    assert AnsweringModel(str(tmp_path)).model.dtype == torch.bfloat16
    assert AnsweringModel(str(tmp_path), dtype="float32").model.dtype == torch.float32
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(scr.ConfigError, match="without a chat template"):
        AnsweringModel(str(tmp_path))


def test_other_media_are_refused(plain):
    video = [{"role": "user", "content": [{"type": "video", "video": "x.mp4"}]}]
    with pytest.raises(scr.ConfigError, match="a message with video"):
        plain.answers([(video, {})])


def test_a_text_with_the_mark_of_an_image_is_named(plain, asked):
    messages = message("What is an <image> token?", asked[0][0][0]["content"][0]["image"])
    with pytest.raises(scr.ConfigError, match=r"cannot take: got .*an <image> token\?.* and 0 more .*Mend the task"):
        plain.answers([(messages, {})])


def test_messages_are_asked_for_when_it_is_their_turn(plain, asked, monkeypatch):
    """So that the pictures of a whole task are never in memory together."""
    order, generate, short = [], plain.model.generate, {"max_new_tokens": 2}
    monkeypatch.setattr(plain.model, "generate", lambda **given: order.append("answer") or generate(**given))
    later = [lambda number=number, one=one: order.append(number) or one for number, (one, _) in enumerate(asked)]
    said = plain.answers([(one, short) for one in later])
    assert order == [0, "answer", 1, "answer", 2, "answer", 3, "answer"]
    assert said == plain.answers([(one, short) for one, _ in asked])


@pytest.fixture
def stand_in(monkeypatch):
    """What the adapter imports of lmms-eval."""

    class Lmms:
        is_simple = True

        def __init__(self):
            self._rank, self._world_size, self.cached, self.task_dict = 0, 1, [], {}
            self.cache_hook = SimpleNamespace(add_partial=lambda *given: self.cached.append(given))

    class Manifest(SimpleNamespace):
        pass

    class Messages(SimpleNamespace):
        def to_hf_messages(self):
            content = [
                {"type": "image", "image": part["url"]} if part["type"] == "image" else part
                for part in self.messages[0]["content"]
            ]
            return [{"role": "user", "content": content}]

    parts = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": Lmms},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
        "lmms_eval.protocol": {"ChatMessages": Messages},
    }
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    ours = import_module("scr.inside.lmms_eval")
    ours._scr_hf.cache_clear()
    yield Lmms
    ours._scr_hf.cache_clear()


def test_by_the_interface(stand_in, strong, asked):
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
    module, _, attribute = declared["scr_hf"].partition(":")
    manifest = getattr(import_module(module), attribute)()
    assert manifest.model_id == "scr_hf"
    module, _, name = manifest.chat_class_path.rpartition(".")
    kind = getattr(import_module(module), name)
    assert issubclass(kind, stand_in)
    assert not kind.is_simple
    assert kind is getattr(import_module(module), name)
    options = {"pretrained": "lab/llava", "method": "yes_shift", "method_args": json.dumps(strong)}
    model = kind(**options, batch_size="2", max_batch_size=None, device="cpu")
    assert (model._rank, model._world_size, model.batch_size, str(model.device)) == (0, 1, 2, "cpu")

    def messages_of(doc):
        parts = [
            {"type": "image", "url": part["image"]} if part["type"] == "image" else part for part in doc[0]["content"]
        ]
        return [{"role": "user", "content": parts}]

    model.task_dict = {"task": {"test": [messages for messages, _ in asked]}}
    requests = [
        SimpleNamespace(args=(f"q{number}", messages_of, settings, number, "task", "test"))
        for number, (_, settings) in enumerate(asked)
    ]
    order, generate = [], model.answering.model.generate

    class Rows(list):
        def __getitem__(self, number):
            order.append(number)
            return super().__getitem__(number)

    model.task_dict = {"task": {"test": Rows(model.task_dict["task"]["test"])}}
    model.answering.model.generate = lambda **given: order.append("answer") or generate(**given)
    said = model.generate_until(requests)
    del model.answering.model.generate
    assert order == [0, 3, "answer", 1, "answer", 2, "answer"], "no picture is opened before its batch"
    assert said == by_hand(model.answering, asked, "yes_shift", **strong)
    assert model.cached == [
        ("generate_until", (f"q{number}", settings), said[number]) for number, (_, settings) in enumerate(asked)
    ]
    for kind_of_task in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(scr.ConfigError, match=kind_of_task.__name__):
            kind_of_task(requests)
    with pytest.raises(AttributeError, match="ScrHg"):
        import_module(module).ScrHg  # noqa: B018


TASK = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: rows.jsonl
task: pope_local
test_split: test
output_type: generate_until
doc_to_visual: !function own.visual
doc_to_text: !function own.text
doc_to_target: answer
generation_kwargs: {max_new_tokens: 3, temperature: 0, do_sample: false}
process_results: !function own.results
metric_list:
  - {metric: pope_accuracy, aggregation: !function own.mean, higher_is_better: true}
"""
OWN = """
from PIL import Image

def visual(doc):
    return [Image.open(doc["path"]).convert("RGB")]

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def results(doc, found):
    said = found[0].lower().strip()
    score = float(said == doc["answer"])
    return {"pope_accuracy": {"question_id": doc["question_id"], "score": score, "prediction": said}}

def mean(found):
    return sum(one["score"] for one in found) / len(found)
"""


@pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed")
def test_a_local_task_of_lmms_eval_itself(pictures, plain, strong, tmp_path, capsys):
    """Its own command, from the entry point to the file of samples, which `score` reads."""
    questions = [
        {
            "question_id": 2 * number + place,
            "image": path.name,
            "text": f"Is there a {name} in the image?",
            "label": label,
        }
        for number, path in enumerate(pictures)
        for place, (name, label) in enumerate((("dog", "yes"), ("cup", "no")))
    ]
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    rows = [
        {
            "question_id": row["question_id"],
            "path": str(pictures[number // 2]),
            "question": row["text"],
            "answer": row["label"],
        }
        for number, row in enumerate(questions)
    ]
    task = tmp_path / "task"
    task.mkdir()
    (task / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (task / "pope_local.yaml").write_text(TASK)
    (task / "own.py").write_text(OWN)
    arguments = [
        *("--model", "scr_hf", "--model_args"),
        f"pretrained=lab/llava,method=yes_shift,method_args={json.dumps(strong)}",
        *("--tasks", "pope_local", "--include_path", str(task), "--batch_size", "3", "--device", "cpu"),
        *("--log_samples", "--output_path", str(tmp_path / "out")),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (tmp_path / "out").rglob("*_samples_pope_local.jsonl")
    asked = [(message(row["question"], Image.open(row["path"]).convert("RGB")), {"max_new_tokens": 3}) for row in rows]
    lines = {row["doc_id"]: row for row in map(json.loads, samples.read_text().splitlines())}
    assert [lines[number]["filtered_resps"] for number in range(len(rows))] == by_hand(
        plain, asked, "yes_shift", **strong
    )
    given = ["pope", "--questions", str(tmp_path / "questions.json"), "--answers", str(samples), "--json"]
    assert score.main([*given, "--rule", "lmms-eval"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["metrics"]["accuracy"]
    (results,) = (tmp_path / "out").rglob("*_results.json")
    assert json.loads(results.read_text())["results"]["pope_local"]["pope_accuracy,none"] == pytest.approx(accuracy)
