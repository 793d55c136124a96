"""`lirdrec train --devices` and torchrun: the usual run folder, refusals, and a process that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lirdrec.cli.config import configuration
from lirdrec.config import make_config
from lirdrec.data.dataset import Dataset
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.recommender.fit import fit
from lirdrec.recommender.recommender import Recommender
from lirdrec.training.config import TrainConfig

from ..helpers import assert_mentions
from .rank_program import planted

PATIENCE = 600.0  # seconds; only ends a hang
MODEL = ["--set", "embedding_size=8", "--set", "n_neighbors=4", "--set", "metric=recall@5", "--set", "batch_size=256"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return planted().save(tmp_path_factory.mktemp("devices") / "data")


def start(*words: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_torchrun_writes_the_usual_run(data, tmp_path):
    run = tmp_path / "run"
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "lirdrec", "train", data]
    process = start(*command, "--output", run, "--seed", 2, "--set", "epochs=3", "--json", *MODEL)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    printed = json.loads(output)  # by one process alone
    recommender = Recommender.load(run)
    training = make_config(TrainConfig, recommender.info["training"])
    config = make_config(LIRDRecConfig, recommender.info["model_config"])
    expected = fit(Dataset.load(data), config, training, progress=False, cache=False)
    assert recommender.info["devices"] == 2
    assert printed["test"]["lirdrec"] == pytest.approx(evaluate(expected, Dataset.load(data)).values, abs=1e-5)


def test_what_needs_one_process_is_refused(data, tmp_path):
    process = start("lirdrec", "train", data, "--devices", 2, "--run", tmp_path / "run", "--model", "ease")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    lines = [line for line in errors.splitlines() if line.startswith("lirdrec: ")]
    assert len(lines) == 1, errors
    assert_mentions(lines[0], ["ease", "device"])
    assert not (tmp_path / "run").exists()


def ranks_of(process: subprocess.Popen[str]) -> dict[int, int]:
    """The process ids of the ranks that the process has started."""
    found = {}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        variables = dict(word.split("=", 1) for word in Path(f"/proc/{child}/environ").read_text().split("\0") if word)
        found[int(variables["RANK"])] = int(child)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_killed_process_ends_all_with_one_sentence_and_a_checkpoint(data, tmp_path):
    run = tmp_path / "run"
    index = run / "checkpoint" / "sharded.json"
    endless = ["--set", "epochs=100000", "--set", "patience=100000"]
    process = start("lirdrec", "train", data, "--devices", 2, "--run", run, *endless, *MODEL)
    while not index.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    ranks = ranks_of(process)
    assert sorted(ranks) == [0, 1]
    os.kill(ranks[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    lines = [line for line in errors.splitlines() if line.startswith("lirdrec: ")]
    assert len(lines) == 1, errors
    assert_mentions(lines[0], ["process 1 of 2", "SIGKILL", "--resume"])
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    epochs = len(json.loads(index.read_text())["history"])
    words = [word for word in [*MODEL, *endless] if word != "--set"]
    config, training = configuration("lirdrec", None, None, [*words, f"epochs={epochs + 1}"], None)
    resumed = fit(Dataset.load(data), config, training, run=run, resume=True, progress=False)
    assert resumed.info["metrics"]["epochs"] == epochs + 1
    assert len((run / "history.jsonl").read_text().splitlines()) == epochs + 1
