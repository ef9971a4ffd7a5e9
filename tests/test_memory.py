"""How much memory a run of 100,000 questions takes: that of their records once, and little more while it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
QUESTIONS, PER_IMAGE = 100_000, 5

# Runs in a process of its own, as peaks cannot be taken back. Prints MiB above what imports and the plan take.
SCRIPT = """
import json, os, resource, sys
from pathlib import Path
from types import SimpleNamespace
import torch
from benchmarks.running import answers, runner
from benchmarks.asking.answering import Answer
from benchmarks.running.plan import Cell, Plan, RunConfig, TaskWork
from benchmarks.asking.models import ModelSource
from benchmarks.store import RunFolder
from benchmarks.tasks import load_task
from benchmarks.tasks.base import Sample

root, questions, per_image, words = Path(sys.argv[1]), *map(int, sys.argv[2:])
os.fsync = lambda descriptor: None

class Answerer:
    answer_tokens = SimpleNamespace(reason="none here")
    def __init__(self, loaded): pass
    def answer(self, batch, generation, *, seed, margins):
        return [Answer(text=f"Yes, {one.id} " + "word " * words, margin=None, new_tokens=3, prefill_ms=1.0,
                       decode_ms=1.0) for one in batch]

answers.Answerer = Answerer
answers.load_model = lambda *a, **o: SimpleNamespace(
    model=SimpleNamespace(config=SimpleNamespace(_attn_implementation="sdpa")))
images = [Path(f"/images/{n:06d}.jpg") for n in range(questions // per_image)]
samples = [Sample(id=f"{n}-1", image=images[n // per_image], prompt=f"Is there a thing {n % 80} in the image?",
                  target="no" if n % 2 else "yes") for n in range(questions)]
config = RunConfig(methods=("none",), limit=None, output_dir=root)
task = load_task("pope_random")
work = TaskWork(task=task, samples=samples, wanted=questions, batch_size=50, data_sha256="0")
folder = RunFolder(root, "t", "m", "none", "0")
cell = Cell(work=work, row="none", method="none", config={}, config_given={}, generation={}, folder=folder)
whole = Plan(config=config, source=ModelSource(name="m", location="m", folder=None, revision=None), family=None,
             device=torch.device("cpu"), dtype="float32", cells=(cell,))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before = peak()
while_answering = []
finish = runner.finish
def noting(*rest):
    while_answering.append(peak() - before)
    return finish(*rest)
runner.finish = noting
(outcome,) = runner.run_plan(whole)
assert len(outcome.records) == questions and outcome.run.counts["n"] == questions
print(json.dumps({"answering": while_answering[0], "all": peak() - before}))
"""


def peaks(folder: Path, questions: int, words: int) -> dict[str, float]:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(questions), str(PER_IMAGE), str(words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_hundred_thousand_questions(tmp_path: Path) -> None:
    found = peaks(tmp_path, QUESTIONS, 100)  # 50 MiB of texts
    # While it answers a run holds names, no records; 15 MiB were measured. To score, the records once: 243 MiB.
    assert found["answering"] < 40, found
    assert found["all"] < 400, found
