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
    "freedom": {"model": "freedom", "options": {**SMALL, "regularization": 0.1}, "training": {}},
}


def ranks_found(folder: Path, size: int) -> dict[str, dict[str, Any]]:
    """The results of all jobs by `size` ranks."""
    (folder / "jobs.json").write_text(json.dumps(list(JOBS.values())))
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
    return dict(zip(JOBS, torch.load(folder / "found.pt", weights_only=True), strict=True))


@pytest.fixture(scope="module")
def of_one() -> dict[str, dict[str, Any]]:
    return {name: results(job, Ranks()) for name, job in JOBS.items()}


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_equal_one_process(size, of_one, tmp_path):
    for name, found in ranks_found(tmp_path, size).items():
        expected = of_one[name]
        for part, tolerance in (("start", 0.0), ("gradients", 1e-5), ("end", 1e-4)):
            assert found[part].keys() == expected[part].keys(), name
            for key, tensor in expected[part].items():
                where = f"{name}, {part} {key}"
                torch.testing.assert_close(found[part][key], tensor, rtol=tolerance, atol=tolerance, msg=where)
        for line, expected_line in zip(found["history"], expected["history"], strict=True):
            assert line.pop("valid") == pytest.approx(expected_line["valid"], abs=1e-5), name
            assert line == pytest.approx({k: v for k, v in expected_line.items() if k != "valid"}, abs=1e-5), name
