"""Fixtures that every test file may use."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plain_kernels
import pytest
import torch
from browsing import driver as driver
from miniature import write_checkpoint
from tiny_families import FIRST, TINY

from benchmarks.running.plan import RunConfig

# Beside other workers, threads of one's own and of subprocesses only get into each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a product over all model families the newer ones take each case in turn; the others are slow.

    What proves a family, in `test_every_family.py`, is never left out.
    """
    newer = list(TINY)[FIRST:]
    products: dict[object, list[tuple[pytest.Item, str]]] = {}
    for item in items:
        given = getattr(item, "callspec", None)
        for value in given.params.values() if given is not None else ():
            if isinstance(value, str) and value in newer and item.path.name != "test_every_family.py":
                products.setdefault((item.path, getattr(item, "originalname", item.name)), []).append((item, value))
    for number, cases in enumerate(products.values()):
        if {name for _, name in cases} == set(newer):
            seen: Counter[str] = Counter()
            for item, name in cases:
                if (number + newer.index(name) + seen[name]) % len(newer):
                    item.add_marker(pytest.mark.slow)
                seen[name] += 1


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of official files: $SCR_TEST_DATA, else shared/data beside the project; without it the test skips."""
    given = os.environ.get("SCR_TEST_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data: neither SCR_TEST_DATA nor {folder} is a folder")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and a subprocess must compute with as many as we do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """A run flushes denormals for the whole process, which hypothesis refuses to work under."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests were started in the background; a thread that it left without gradients
    in the middle of torch's own `no_grad` has them again.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    torch.set_grad_enabled(True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny LLaVA; each test file has its own."""
    return write_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def small_run(checkpoint: Path, data: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes configurations of runs: 24 questions about 4 images of the test file's own `data`; any field may differ."""

    def make(**fields: Any) -> RunConfig:
        small = {
            "model": str(checkpoint),
            "data_dir": data,
            "methods": ("none",),
            "tasks": ("pope_random",),
            "limit": 4,
            "generation": {"max_new_tokens": 3},
            "output_dir": tmp_path / "results",
        }
        return RunConfig(**{**small, **fields})

    return make


@pytest.fixture(scope="module")
def kernels() -> Iterator[None]:
    """`flash_attention_2` without a GPU, and `padding_free`: see plain_kernels.py."""
    yield from plain_kernels.installed()
