"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data outside the repository; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("LIRDREC_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real data not found: set LIRDREC_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def sample() -> Path:
    """The MovieLens sample that the repository ships, as a prepared dataset."""
    return ROOT / "sample" / "movielens"
