"""Fixtures that every test file may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of official files: $SCR_TEST_DATA, else shared/data beside the project; without it the test skips."""
    given = os.environ.get("SCR_TEST_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data: neither SCR_TEST_DATA nor {folder} is a folder")
    return folder
