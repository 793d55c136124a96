"""A training killed with SIGKILL at random moments and resumed ends with the bits of one never stopped.

Every part runs in a process of its own with two threads, so this also shows that a seed gives the same bits everywhere.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import RunFolderError
from lirdrec.recommender.fit import fit

from ..helpers import assert_error, needs_sigkill

SCRIPT = Path(__file__).with_name("killed_training.py")
EPOCHS, KILLS = 12, 3
LAST = EPOCHS - 1  # where a training that is to be killed waits for that, however slowly we look
PATIENCE = 600.0  # seconds until a process that makes no progress is given up

pytestmark = needs_sigkill


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    # wide enough for the kernels to use both threads
    dataset = make_synthetic_dataset(
        1200, 900, 12_000, {"image": 24, "text": 16}, groups=10, seed=3, missing={"image": 0.1}
    )
    return dataset.save(tmp_path_factory.mktemp("kill") / "data")


@pytest.fixture(scope="module")
def never_stopped(data) -> Path:
    run = data.parent / "whole"
    assert start(data, run).wait(PATIENCE) == 0
    return run


def start(data: Path, run: Path, *wait: int) -> subprocess.Popen:
    # two threads that spin while they wait for each other stand still on a busy machine
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
    }
    return subprocess.Popen([sys.executable, str(SCRIPT), str(data), str(run), *map(str, wait)], env=environment)


def epochs(run: Path) -> int:
    try:
        return (run / "history.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def state(run: Path) -> tuple[int, int]:
    """Changes whenever an epoch ends (its checkpoint is written next) and whenever a checkpoint is in place."""
    try:
        checkpoint = os.stat(run / "checkpoint" / "last.safetensors").st_ino
    except FileNotFoundError:
        checkpoint = 0
    return epochs(run), checkpoint


def kill_after(process: subprocess.Popen, run: Path, epoch: int, changes: int) -> bool:
    """SIGKILL `changes` changes of state after the end of `epoch`, or where the training waits; False if it ended."""
    deadline, last = time.monotonic() + PATIENCE, None
    while process.poll() is None:
        now = state(run)
        if now[0] >= epoch and now != last:
            last, changes = now, changes - 1
        if changes < 0 or now[0] >= LAST:
            process.send_signal(signal.SIGKILL)
            assert process.wait(PATIENCE) == -signal.SIGKILL
            return True
        assert time.monotonic() < deadline, "the training makes no progress"
        time.sleep(0.001)
    assert process.returncode == 0
    return False


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def without_times(line: dict) -> dict:
    return {key: value for key, value in line.items() if not key.startswith("seconds")}


def results(run: Path) -> dict[str, object]:
    return {
        "vectors": (run / "vectors.safetensors").read_bytes(),
        "weights": (run / "weights.safetensors").read_bytes(),
        "metrics": json.loads((run / "metrics.json").read_text()),
        "history": [without_times(line) for line in lines(run)],
    }


@pytest.mark.parametrize("seed", [0])
def test_killed_and_resumed_is_never_stopped(data, never_stopped, tmp_path, seed):
    draw, run = random.Random(seed), tmp_path / "run"
    killed, index = 0, 0
    for _ in range(KILLS):
        process = start(data, run, LAST)
        index += draw.randint(1, 2)
        killed += kill_after(process, run, index, draw.randint(0, 3))
        index = max(index, epochs(run))
    assert killed == KILLS
    assert not (run / "manifest.json").exists()
    # torn by a kill in the middle of a write: goes at the next start, with all that is not in the checkpoint
    with (run / "history.jsonl").open("a") as file:
        file.write('{"epoch": 999, "lo')
    assert start(data, run).wait(PATIENCE) == 0
    assert results(run) == results(never_stopped)
    assert [line["epoch"] for line in lines(run)] == list(range(1, EPOCHS + 1))
    assert not list((run / "checkpoint").glob(".*"))


def test_resuming_with_other_options_is_refused(data, never_stopped):
    script = runpy.run_path(str(SCRIPT))
    before = results(never_stopped)
    whole, options = script["CONFIG"], script["TRAINING"]
    for config, training, facts in [
        (replace(whole, n_layers=3), options, ["model.n_layers = 2", "3"]),
        (whole, replace(options, seed=12), ["training.seed = 11", "12"]),
        (whole, replace(options, epochs=50), ["training.epochs = 12", "50"]),  # the cosine depends on it
    ]:
        with assert_error(RunFolderError, mentions=[never_stopped / "checkpoint", *facts]):
            fit(Dataset.load(data), config, training, run=never_stopped, resume=True, progress=False, cache=False)
        assert results(never_stopped) == before
