"""Cells of experiments computed in the process of the test: a process for each would import torch each time."""

from __future__ import annotations

import json
import subprocess
import types
from pathlib import Path

import pytest

from lirdrec.experiments import scheduler, worker
from lirdrec.files.atomic import write_json


class Computed:
    """Stands in for the process that computes a cell."""

    stdin = None

    def __init__(self, command: list[str], **options: object):
        job, result = map(Path, command[-2:])
        write_json(result, worker.compute(worker.job_of(json.loads(job.read_text(encoding="utf-8")))))

    def poll(self) -> int:
        return 0


def compute_cells_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no cell have a process of its own; what depends on that has its tests in test_running.py."""
    monkeypatch.setattr(scheduler, "subprocess", types.SimpleNamespace(Popen=Computed, PIPE=subprocess.PIPE))
