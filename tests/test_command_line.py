"""One parser for all commands: spellings, names of lm-eval, what a flag was called before, near names."""

from __future__ import annotations

import importlib
import re

import pytest

from benchmarks import calibrate, compare, run, sweep
from benchmarks.lab.train import MODELS
from benchmarks.overhead import command as overhead
from scr.adapters import train

BASE = {run: [], sweep: ["--vary", "scale=1.1"], compare: [], overhead: []}


def parsed(module, *given):
    return vars(module.build_parser().parse_args([*BASE[module], *given]))


@pytest.mark.parametrize(
    ("module", "given", "field", "value"),
    [
        (run, ["--batch_size", "7"], "batch_size", 7),
        (run, ["--batch_size=7"], "batch_size", 7),
        (sweep, ["--batch_size", "7"], "batch_size", 7),
        (overhead, ["--batch_size", "7"], "batch_size", 7),
        (run, ["--methods", "vcd"], "method", ("vcd",)),
        (sweep, ["--methods=vcd"], "method", "vcd"),
        (overhead, ["--methods=vcd"], "method", "vcd"),
        (compare, ["--method", "vcd"], "methods", ("vcd",)),
        (run, ["--task", "chair"], "tasks", ("chair",)),
        (run, ["--gen_kwargs", "top_p=1"], "gen_kwarg", [("top_p", 1)]),
        (compare, ["--adapter", "lab/seed"], "adapters", ("lab/seed",)),
        (compare, ["--max_new_tokens=3"], "max_new_tokens", 3),
    ],
)
def test_dashes_or_underscores_singular_or_plural(module, given, field, value, capsys):
    assert parsed(module, *given)[field] == value
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("module", [run, sweep, compare])
@pytest.mark.parametrize("flag", ["--model-args", "--model_args"])
@pytest.mark.parametrize("kind", [[], ["--model", "hf"], ["--model=hf-multimodal"]])
def test_models_are_named_as_in_lm_eval(module, flag, kind):
    found = parsed(module, *kind, flag, "pretrained=org/name,dtype=bfloat16, revision=main")
    assert {name: found[name] for name in ("model", "dtype", "revision")} == {
        "model": "org/name",
        "dtype": "bfloat16",
        "revision": "main",
    }
    assert parsed(module, f"{flag}=device=cpu")["model"] == "lab/llava"


def test_model_args_of_the_runner_alone():
    found = parsed(run, "--model_args", "attn_implementation=eager,peft=lab/seed")
    assert (found["attn_implementation"], found["adapter"]) == ("eager", "lab/seed")


@pytest.mark.parametrize(
    ("module", "given", "message"),
    [
        (run, ["--model_args", "pretraned=x"], r"--model-args: got 'pretraned'.*Did you mean 'pretrained=...'\?"),
        (
            run,
            ["--model_args", "trust_remote_code=True"],
            "--model-args: got 'trust_remote_code'; expected one of pret",
        ),
        (compare, ["--model_args", "attn_implementation=eager"], "--model-args: got 'attn_implementation'"),
        (run, ["--model_args", "pretrained"], "--model-args: got 'pretrained'; expected KEY=VALUE"),
        (run, ["--model_args"], "--model-args: got ''"),
        (run, ["--model", "x", "--model_args", "pretrained=y"], "--model-args: got 'y' for --model too"),
        (run, ["--dtype=float32", "--model_args=dtype=float16"], "--model-args: got 'float16' for --dtype too"),
        (run, ["--model"], "--model: expected one argument"),
        (run, ["--batchsize", "1"], r"unknown argument: got '--batchsize'.*Did you mean '--batch-size'\?"),
        (run, ["--list", "method"], r"--list: got 'method'.*Did you mean 'methods'\?"),
        (run, ["--limit", "10000000000"], "--limit: got '10000000000'; expected at most 1,000,000,000"),
        (run, ["--seed", "1.5"], "--seed: got '1.5'; expected a whole number"),
        (overhead, ["--threads", "100000"], "--threads: got '100000'; expected a whole number, 1 to 1,024"),
        (
            compare,
            ["--image", "n" * 256],
            "--image: got 'nnn.*256 bytes; expected at most 4096, and 255 between slashes",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_nearest_name(module, given, message, capsys):
    assert module.main([*BASE[module], *given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"error: .*{message}.* See --help\.\n", err), err


@pytest.mark.parametrize("module", [run, sweep])
def test_a_prompt_variant_by_its_old_name(module, capsys):
    assert parsed(module, "--prompt-variant", "cot")["prompt"] == "cot"
    assert capsys.readouterr().err == ""
    assert parsed(module, "--prompt=cot")["prompt"] == "cot"
    assert capsys.readouterr().err == "note: --prompt is called --prompt-variant now; the old name still works\n"


def test_a_prompt_of_compare_is_the_question():
    question = "Is there a " + "very " * 200 + "small cat?"
    assert parsed(compare, "--prompt", question)["prompt"] == question


def test_choices_that_load_no_torch_are_those_of_the_code():
    from typing import get_args

    from scr.adapters import recipe
    from scr.contrast import Confidence

    assert get_args(Confidence) == calibrate.CONFIDENCES
    assert importlib.import_module("benchmarks.lab.training.recipe").RECIPES.keys() == set(MODELS)
    assert recipe.DTYPES == train.DTYPES
