"""A run killed at any moment goes on where it was, encodes nothing twice, and ends with the bytes of one never stopped."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.features.run import Job, features_lock, make_features
from lirdrec.features.sources import TextSource

from .killed_features import SHARD_ROWS, Counting, jobs

SCRIPT = Path(__file__).with_name("killed_features.py")
N = 150

needs_sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """150 items: some without a title, some whose title is bad, long ones, two of one title; all have a brand."""
    rng = random.Random(4)
    titles = [
        " ".join(rng.choices(["red", "green", "blue", "old", "chair", "lamp"], k=rng.randint(1, 8))) for _ in range(N)
    ]
    titles = [f"{title} {at}" for at, title in enumerate(titles)]
    titles[7] = titles[3]
    table = pl.DataFrame(
        {
            "item": [f"i{at}" for at in range(N)],
            "title": [
                None if at % 11 == 5 else "bad " + text if at % 29 == 1 else text for at, text in enumerate(titles)
            ],
            "brand": [f"maker {at}" for at in range(N)],
        }
    )
    pairs = pl.DataFrame({"user": [at % 10 for at in range(N)], "item": table["item"]})
    return Dataset.from_frames(pairs, items=table, split="none").save(tmp_path_factory.mktemp("kill") / "prepared")


@pytest.fixture(scope="module")
def whole(prepared) -> Path:
    """The dataset and its log after a run that nobody stopped."""
    folder = shutil.copytree(prepared, prepared.parent / "whole")
    make_features(folder, jobs(folder, folder.parent / "whole.log", -1), progress=False)
    return folder


def start(folder: Path, log: Path, kill: int = -1) -> int:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, str(SCRIPT), str(folder), str(log), str(kill)], env=environment).returncode


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@needs_sigkill
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(prepared, whole, tmp_path, seed):
    folder, log = shutil.copytree(prepared, tmp_path / "data"), tmp_path / "log"
    rng = random.Random(seed)
    kills = 0
    for _ in range(4):
        if start(folder, log, rng.randint(1, 60)) == -signal.SIGKILL:
            kills += 1
            assert Dataset.load(folder, verify=True).features == {}  # what is there is whole
    assert kills == 4
    assert start(folder, log) == 0
    assert content(folder) == content(whole)
    once = Counter((whole.parent / "whole.log").read_text().splitlines())
    extra = Counter(log.read_text().splitlines()) - once
    assert set(once.values()) == {1}
    # at each kill, what is lost belongs to the one shard in flight
    assert sum(extra.values()) <= kills * SHARD_ROWS
    assert Counter(log.read_text().splitlines()).keys() == once.keys()
