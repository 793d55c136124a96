"""Two and three ranks give what one process gives; `lirdrec train --devices` and torchrun; killed processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lirdrec.cli.config import configuration
from lirdrec.config import make_config
from lirdrec.data.dataset import Dataset
from lirdrec.errors import CapabilityError
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.models.lirdrec import LIRDRec, LIRDRecConfig
from lirdrec.models.registry import config_type, model_names, model_type
from lirdrec.parallel.ranks_and_shards import Ranks
from lirdrec.recommender.fit import fit
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.training.checkpoint import Checkpoint
from lirdrec.training.config import TrainConfig
from lirdrec.training.sharded_checkpoint import ShardedCheckpointStore

from ..helpers import PATIENCE, assert_mentions
from .rank_program import planted, results

SCRIPT = Path(__file__).with_name("rank_program.py")
SMALL = {"embedding_size": 8, "n_neighbors": 4}
JOBS: dict[str, dict[str, Any]] = {
    "lirdrec": {"model": "lirdrec", "options": {**SMALL, "n_layers": 2, "loss": "softmax"}, "training": {}},
    "lirdrec, bpr": {
        "model": "lirdrec",
        "options": {**SMALL, "n_layers": 3, "layer_weights": "learned", "edge_dropout": 0.1, "pwc": "logits"},
        "training": {"gradient_clip": 0.05},
    },
    "lirdrec, sampled": {
        "model": "lirdrec",
        "options": {**SMALL, "loss": "softmax", "n_negatives": 20, "pwc": "uniform", "scoring": "cosine"},
        "training": {"order": "users"},
    },
    "lirdrec, reduced": {
        "model": "lirdrec",
        "options": {**SMALL, "n_layers": 2, "feature_size": {"image": 4}, "whiten": True},
        "training": {},
    },
    "lightgcn": {"model": "lightgcn", "options": {"embedding_size": 8, "loss": "softmax"}, "training": {}},
    "lightgcn, bpr": {
        "model": "lightgcn",
        "options": {"embedding_size": 7, "n_layers": 2, "penalty": "squared", "regularization": 0.1},
        "training": {},
    },
    "mf": {"model": "mf", "options": {"embedding_size": 8, "penalty": "norm"}, "training": {}},
    "vbpr": {"model": "vbpr", "options": {"embedding_size": 8}, "training": {"batch_size": 16, "epochs": 1}},
    "vbpr, softmax": {"model": "vbpr", "options": {"embedding_size": 8, "loss": "softmax"}, "training": {}},
    "freedom": {"model": "freedom", "options": {**SMALL, "regularization": 0.1}, "training": {}},
}


def by_ranks(folder: Path, phases: list[tuple[int, dict[str, dict[str, Any]]]]) -> list[dict[str, dict[str, Any]]]:
    """The results of the jobs of each phase by its number of ranks; the processes are started once for all."""
    texts = [{"size": size, "jobs": list(jobs.values())} for size, jobs in phases]
    (folder / "phases.json").write_text(json.dumps(texts))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(folder), str(rank)], env=environment)
        for rank in range(max(size for size, _ in phases))
    ]
    try:
        assert [process.wait(PATIENCE) for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()
    files = [folder / f"found-{number}.pt" for number in range(len(phases))]
    return [
        dict(zip(jobs, torch.load(file, weights_only=True), strict=True))
        for file, (_, jobs) in zip(files, phases, strict=True)
    ]


def resumable(folder: Path, epochs: int) -> dict[str, dict[str, Any]]:
    """Jobs that continue from the checkpoint in the folder, to so many epochs."""
    training = {"epochs": epochs, "metric": "recall@5"}
    return {
        name: JOBS[name] | {"training": training, "checkpoint": str(folder / name)} for name in ("lirdrec", "lightgcn")
    }


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory, checkpoints) -> dict[int, dict[str, dict[str, Any]]]:
    """The results of two and of three ranks; `checkpoints` then holds those of two ranks, continued by three."""
    of_three = {name: job for name, job in JOBS.items() if job["model"] in ("lirdrec", "lightgcn")}
    phases = [(2, JOBS), (3, of_three), (2, resumable(checkpoints, 2)), (3, resumable(checkpoints, 4))]
    two, three, *_ = by_ranks(tmp_path_factory.mktemp("ranks"), phases)
    return {2: two, 3: three}


@pytest.fixture(scope="module")
def of_one() -> dict[str, dict[str, Any]]:
    return {name: results(job, Ranks()) for name, job in JOBS.items()}


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_equal_one_process(size, of_one, of_ranks):
    for name, found in of_ranks[size].items():
        expected = of_one[name]
        for part, tolerance in (("start", 0.0), ("gradients", 1e-5), ("end", 1e-4)):
            assert found[part].keys() == expected[part].keys(), name
            for key, tensor in expected[part].items():
                where = f"{name}, {part} {key}"
                torch.testing.assert_close(found[part][key], tensor, rtol=tolerance, atol=tolerance, msg=where)
        assert_same_history(found["history"], expected["history"], name)


def assert_same_history(found: list[dict[str, Any]], expected: list[dict[str, Any]], name: str) -> None:
    for line, expected_line in zip(found, expected, strict=True):
        assert line["valid"] == pytest.approx(expected_line["valid"], abs=1e-5), name
        terms, expected_terms = ({k: v for k, v in one.items() if k != "valid"} for one in (line, expected_line))
        assert terms == pytest.approx(expected_terms, abs=1e-5), name


def test_a_checkpoint_is_resumed_by_any_number_of_ranks(of_ranks, checkpoints):
    for name, job in resumable(checkpoints, 5).items():
        alone = {key: value for key, value in job.items() if key != "checkpoint"}
        resumed, whole = results(job, Ranks()), results(alone, Ranks())
        assert_same_history(resumed["history"], whole["history"], name)
        for key, tensor in whole["end"].items():
            torch.testing.assert_close(resumed["end"][key], tensor, rtol=1e-4, atol=1e-4, msg=key)
        # a single process leaves its own kind of checkpoint, which two ranks read
        assert sorted(path.suffix for path in (checkpoints / name).iterdir()) == [".safetensors"] * 2
        parts = [loaded(checkpoints / name, Ranks(rank, 2)) for rank in (0, 1)]
        key = "optimizer.user_embedding.exp_avg"
        assert [len(part.tensors[key]) for part in parts] == [31, 30]
        joined = torch.cat([part.tensors[key] for part in parts])
        assert torch.equal(joined, loaded(checkpoints / name, Ranks()).tensors[key])


@pytest.mark.parametrize("name", sorted(set(model_names()) - {job["model"] for job in JOBS.values()}))
def test_other_models_refuse_several_devices(name):
    inputs = make_model_inputs(planted(), cache=False, ranks=Ranks(0, 2))
    with pytest.raises(CapabilityError):
        model_type(name)(inputs, config_type(name)())


@pytest.mark.parametrize("options", [{"dct": "matrix"}, {"feature_columns": 3}])
def test_options_that_mix_all_items_refuse_several_devices(options):
    inputs = make_model_inputs(planted(), cache=False, ranks=Ranks(0, 2))
    with pytest.raises(CapabilityError):
        LIRDRec(inputs, LIRDRecConfig(**options))


def loaded(folder: Path, ranks: Ranks) -> Checkpoint:
    shard = ranks.shard(61)
    store = ShardedCheckpointStore(folder, {}, ranks, lambda name: shard if name.startswith("user_embedding") else None)
    checkpoint = store.load()
    assert checkpoint is not None
    return checkpoint


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


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc, which only Linux has")
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
