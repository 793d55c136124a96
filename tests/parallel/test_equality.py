"""Two and three ranks give the parameters, gradients, losses and metrics of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lirdrec.parallel.ranks import Ranks
from lirdrec.training.checkpoint import Checkpoint
from lirdrec.training.sharded_checkpoint import ShardedCheckpointStore

from .rank_program import results

SCRIPT = Path(__file__).with_name("rank_program.py")
PATIENCE = 600.0  # seconds; only ends a hang
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
    "lightgcn": {"model": "lightgcn", "options": {"embedding_size": 8, "loss": "softmax"}, "training": {}},
    "lightgcn, bpr": {
        "model": "lightgcn",
        "options": {"embedding_size": 7, "n_layers": 2, "penalty": "squared", "regularization": 0.1},
        "training": {},
    },
    "mf": {"model": "mf", "options": {"embedding_size": 8, "penalty": "norm"}, "training": {}},
    "vbpr": {"model": "vbpr", "options": {"embedding_size": 8}, "training": {"batch_size": 16, "epochs": 2}},
    "vbpr, softmax": {"model": "vbpr", "options": {"embedding_size": 8, "loss": "softmax"}, "training": {}},
    "freedom": {"model": "freedom", "options": {**SMALL, "regularization": 0.1}, "training": {}},
}


def ranks_found(folder: Path, size: int, jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The results of the jobs by `size` ranks."""
    folder.mkdir(exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(list(jobs.values())))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(folder), str(rank), str(size)], env=environment)
        for rank in range(size)
    ]
    try:
        assert [process.wait(PATIENCE) for process in processes] == [0] * size
    finally:
        for process in processes:
            process.kill()
    return dict(zip(jobs, torch.load(folder / "found.pt", weights_only=True), strict=True))


@pytest.fixture(scope="module")
def of_one() -> dict[str, dict[str, Any]]:
    return {name: results(job, Ranks()) for name, job in JOBS.items()}


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_equal_one_process(size, of_one, tmp_path):
    chosen = JOBS if size == 2 else {name: job for name, job in JOBS.items() if job["model"] in ("lirdrec", "lightgcn")}
    for name, found in ranks_found(tmp_path, size, chosen).items():
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


def test_a_checkpoint_is_resumed_by_any_number_of_ranks(tmp_path):
    def jobs(epochs: int, checkpoint: bool = True) -> dict[str, dict[str, Any]]:
        chosen = {name: JOBS[name] for name in ("lirdrec", "lightgcn")}
        return {
            name: job
            | {"training": {"epochs": epochs, "metric": "recall@5"}}
            | ({"checkpoint": str(tmp_path / name)} if checkpoint else {})
            for name, job in chosen.items()
        }

    ranks_found(tmp_path / "two", 2, jobs(2))
    ranks_found(tmp_path / "three", 3, jobs(4))
    for name, job in jobs(5).items():
        resumed, whole = results(job, Ranks()), results(jobs(5, checkpoint=False)[name], Ranks())
        assert_same_history(resumed["history"], whole["history"], name)
        for key, tensor in whole["end"].items():
            torch.testing.assert_close(resumed["end"][key], tensor, rtol=1e-4, atol=1e-4, msg=key)
        # a single process leaves its own kind of checkpoint, which two ranks read
        assert sorted(path.suffix for path in (tmp_path / name).iterdir()) == [".safetensors"] * 2
        of_ranks = [loaded(tmp_path / name, Ranks(rank, 2)) for rank in (0, 1)]
        key = "optimizer.user_embedding.exp_avg"
        assert [len(part.tensors[key]) for part in of_ranks] == [31, 30]
        joined = torch.cat([part.tensors[key] for part in of_ranks])
        assert torch.equal(joined, loaded(tmp_path / name, Ranks()).tensors[key])


def loaded(folder: Path, ranks: Ranks) -> Checkpoint:
    shard = ranks.shard(61)
    store = ShardedCheckpointStore(folder, {}, ranks, lambda name: shard if name.startswith("user_embedding") else None)
    checkpoint = store.load()
    assert checkpoint is not None
    return checkpoint
