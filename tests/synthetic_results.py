"""Folders of results with known effects, as `benchmarks.run` would leave them."""

from __future__ import annotations

import math
import random
from pathlib import Path

from benchmarks.records import RunRecord, SampleRecord
from benchmarks.store import RunFolder, config_hash
from benchmarks.tasks.mme.rule import TASK_NAMES

OUTCOMES = {("yes", "yes"): "tp", ("no", "yes"): "fp", ("no", "no"): "tn", ("yes", "no"): "fn"}
OBJECTS = ("dog", "cat", "car", "bus", "cup", "fork", "bed", "chair")


def record(method="none", task="pope_random", model="lab/llava", **fields) -> RunRecord:
    """A finished run's record."""
    base = {
        "status": "finished", "created": "2026-01-01T00:00:00+00:00", "command": "python -m benchmarks.run",
        "model": model, "revision": "sha256:0", "dtype": "float32", "device": "cpu", "method": method, "task": task,
        "task_version": 1, "rule": "pope", "data_sha256": "d", "seed": 0, "generation": {"do_sample": False},
        "batch_size": 6, "timing": {"total_ms": 10.0},
    }  # fmt: skip
    return RunRecord(**(base | fields))


def write(root: Path, run: RunRecord, samples: list[SampleRecord]) -> Path:
    """Write a run; its folder."""
    identity = [run.config, run.adapter, run.prompt, run.seed, run.data_sha256, run.generation, run.revision]
    folder = RunFolder(root, run.task, run.model, run.method, config_hash({"identity": identity}))
    folder.write_run(run)
    folder.append(samples)
    return folder.path


def answer(name, image, target, margin, trace=None, prompt="Is there a dog in the image?") -> SampleRecord:
    """A graded yes/no sample; a margin above 0 says yes, None is unparsed."""
    said = None if margin is None else "yes" if margin > 0 else "no"
    return SampleRecord(
        id=name, image=image, prompt=prompt, target=target, output=said or "", answer=said,
        outcome=None if said is None else OUTCOMES[target, said], margin=margin, trace=trace,
    )  # fmt: skip


def trace_of(entropy: float, generator: random.Random, patches=144, layers=4) -> dict:
    """A trace as the runner's diagnostics leave it."""
    side = math.isqrt(patches)
    return {
        "grids": [[side, side]],
        "attention": None,
        "entropy": entropy,
        "entropy_normalized": entropy / math.log(patches),
        "norm_ratio": 1.2,
        "credit_entropy_norms": entropy + generator.gauss(0, 0.1),
        "credit_entropy_gradients": None,
        "layers": list(range(layers)),
        "norm_credit_r": [0.8 - 0.1 * layer + generator.gauss(0, 0.02) for layer in range(layers)],
        "norm_growth": [1 + 0.1 * layer for layer in range(layers)],
        "objects": generator.randint(2, 7),
    }


def questions(
    images=40, slope=-1.5, shift=0.0, gain=0.0, seed=0, traced=True, entropy_at=4.0, noise=None, task="pope_random"
) -> list[SampleRecord]:
    """Six questions per image. More entropy lowers (slope < 0) the margin of absent objects.

    Args:
        images: number of images.
        slope: of an absent object's margin over entropy.
        shift: added to every margin: a moved threshold.
        gain: widens the distance of both classes: a better model.
        seed: of everything that belongs to the questions.
        traced: whether samples have a trace.
        entropy_at: mean of entropies.
        noise: seed of what a method adds at random; None adds nothing.
        task: part of no answer; splits differ in their negatives alone.
    """
    generator, extra = random.Random(f"{seed} {task}"), random.Random(f"noise {noise}")
    samples = []
    for image in range(images):
        entropy = entropy_at + generator.gauss(0, 0.6)
        common = generator.gauss(0, 0.5)
        trace = trace_of(entropy, generator)
        present = generator.sample(OBJECTS, 3)
        absent = generator.sample([name for name in OBJECTS if name not in present], 3)
        for number, name in enumerate(one for pair in zip(present, absent, strict=True) for one in pair):
            target = "no" if number % 2 else "yes"
            margin = common + generator.gauss(0, 1) + shift
            margin += 1 + gain if target == "yes" else -0.5 - gain + slope * (entropy - entropy_at)
            own = dict(trace)
            place = {"area": generator.uniform(0.01, 0.3), "border": generator.choice([0.0, 0.02, 0.1, 0.2])}
            own["object"] = place if target == "yes" else None
            margin += extra.gauss(0, 0.3) if noise is not None else 0
            asked = f"Is there a {name} in the image?"
            samples.append(answer(f"{image}-{number}", f"{image}.jpg", target, margin, own if traced else None, asked))
    return samples


def many_runs(root: Path) -> None:
    """Questions, captions and MME's many metrics of several methods: something for every analysis."""
    found = {"mentions": [{"word": "cat", "start": 2, "end": 5, "node": "cat"}], "hallucinated": ["cat"],
             "grounded": [], "missed": ["dog"]}  # fmt: skip
    many = {f"{name}_{part}": 0.5 for name in TASK_NAMES for part in ("acc", "acc_plus")}
    for method, scale in (("none", 0), ("scr", 1.1), ("scr", 1.5), ("scr_with_a_long_name_of_its_own", 0)):
        config = {"scale": scale} if scale else {}
        asked = questions(images=8, noise=scale or None)
        write(root, record(method, config=config, config_given=config), asked)
        captions = [
            SampleRecord(id=str(row), image=f"{row}.jpg", prompt="Describe.", target=["dog"], found=found,
                         output=f"a cat{' and' * row}")
            for row in range(3)
        ]  # fmt: skip
        metrics = {"chair_s": 0.5, "length": 8.0, "auc": None}
        write(root, record(method, task="chair", config=config, metrics=metrics, units={"length": "words"}), captions)
        bounds = {name: [0.25, 0.75] for name in many}
        write(root, record(method, task="mme", config=config, metrics=many, intervals=bounds), asked[:6])
