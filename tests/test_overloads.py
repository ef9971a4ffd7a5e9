"""`scr.patch` as type checkers see it: made from the table, and strict about fields."""

import subprocess
import sys
import typing
from pathlib import Path

import pytest

import scr
from scr.methods.overloads import PLACE, written

SNIPPET = """
import scr
from typing import Any
from transformers import PreTrainedModel

def use(model: PreTrainedModel, name: str, fields: dict[str, Any]) -> None:
    scr.patch(model, scale=1.2)
    scr.patch(model, "uniform_smooth", layers=[0, 4], seed=1)
    scr.patch(model, "vcd", strength="quantile", noise_step=500)
    scr.patch(model, "scr+purified", **{"scr.scale": 1.2})
    scr.patch(model, name, **fields)
    scr.patch(model, scr.SCRConfig(scale=1.2))
    method: scr.MethodName = "dola"
    scr.patch(model, method)
    scr.patch(model, lambda_=1.2)  # wrong
    scr.patch(model, "vcd", scale=1.2)  # wrong
    scr.patch(model, "purified", image_keep="much")  # wrong
    scr.patch(model, "dola", layers="middle")  # wrong
    scr.patch(model, "yes_shift", shift="a", no_tokens=[7])  # wrong
    method = "vdc"  # wrong
"""


def test_they_are_those_of_the_table():
    text = PLACE.read_text(encoding="utf-8")
    assert text == written(text), "run `python -m scr.methods.overloads`"
    assert list(typing.get_args(scr.MethodName)) == scr.list_methods()


@pytest.mark.slow
def test_mypy_takes_right_fields_and_refuses_wrong_ones(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", str(snippet)]
    done = subprocess.run(command, cwd=PLACE.parents[2], check=False, capture_output=True, text=True)
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    assert found == {number for number, line in enumerate(SNIPPET.splitlines(), 1) if line.endswith("# wrong")}
