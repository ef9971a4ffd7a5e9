"""Whatever a file from outside holds: a result, or one of our errors in a sentence. Never another exception."""

import contextlib
import random
import shutil

import pytest
from coco_files import write_coco
from mutations import mutate
from official_files import write_amber, write_hallusionbench, write_mmvet
from synthetic_results import questions, record, write

from analysis.reading.load import ResultsError, load_results
from benchmarks.records import RecordError, SampleRecord
from benchmarks.store import find_runs
from benchmarks.tasks import load_task
from scr import SCRError

OBJECTS = {1: ["dog", "cat", "cup"], 2: ["bed", "fork", "bus"], 3: ["car", "dog", "chair"], 4: ["cat", "cup", "bed"]}
CAPTIONS = {number: ["A dog.", "A cat on a bed."] for number in OBJECTS}
FOLDERS = {
    "pope_adversarial": lambda folder: write_coco(folder, "val", OBJECTS, CAPTIONS),
    "chair": lambda folder: write_coco(folder, "val", OBJECTS, CAPTIONS),
    "caption": lambda folder: write_coco(folder, "val", OBJECTS, CAPTIONS),
    "amber_attribute": write_amber,
    "hallusionbench": write_hallusionbench,
    "mmvet": write_mmvet,
}


@pytest.mark.parametrize("name", FOLDERS)
def test_data_folders(name, tmp_path):
    task, whole = load_task(name), tmp_path / "whole"
    FOLDERS[name](whole)
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*.json"))]
    assert task.samples(task.open_data(whole, None), seed=0)
    generator = random.Random(0)
    messages = []
    for _ in range(40):
        folder = tmp_path / "changed"
        shutil.copytree(whole, folder)
        done = mutate(folder / generator.choice(files), generator)
        try:
            task.samples(task.open_data(folder, None), seed=0)
        except SCRError as error:
            messages.append(str(error))
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}, after {done}")
        shutil.rmtree(folder)
    assert len(messages) > 10
    assert [one for one in messages if "; expected " not in one] == []


@pytest.fixture
def results(tmp_path):
    write(tmp_path / "whole", record(metrics={"accuracy": 0.5}, intervals={"accuracy": [0.1, 0.9]}), questions(1))
    write(tmp_path / "whole", record("scr", config={"a": {"b": 1}}, packages={"torch": "2"}), questions(1, noise=1))
    captions = [SampleRecord(id="1", image="1.jpg", prompt="?", target=["dog"], output="A dog.", prefill_ms=3.0)]
    write(tmp_path / "whole", record(task="chair", rule="chair"), captions)
    return tmp_path / "whole"


def test_one_bad_record_does_not_hide_the_others(results, tmp_path):
    """Records of any content are read with the types that they declare, or left out with their reason."""
    files = [path.relative_to(results) for path in sorted(results.rglob("*.json*"))]
    generator = random.Random(0)
    left_out = 0
    for _ in range(100):
        folder = tmp_path / "changed"
        shutil.copytree(results, folder)
        done = mutate(folder / generator.choice(files), generator)
        try:
            found = load_results(folder)
            assert len(found.runs) >= 2, done
            assert len(found.runs) == 3 or found.problems, done
            left_out += 3 - len(found.runs)
            for one in find_runs(folder):
                with contextlib.suppress(RecordError):
                    load_task(one.task).score(one.samples())
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}, after {done}")
        shutil.rmtree(folder)
    assert left_out > 10
    for path in results.rglob("run.json"):
        path.write_text('{"schema": 1, "metrics": 5}')
    with pytest.raises(ResultsError, match="no run can be read"):
        load_results(results)
