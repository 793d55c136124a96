"""Processes to kill, on a disk in memory where there is one: the tests ask for thousands of fsyncs."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..hub.hub import Hub
from .checking import Faults
from .forking import Forks

IN_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Iterator[Path]:
    if not os.access(IN_MEMORY, os.W_OK):
        yield tmp_path_factory.mktemp("faults")
        return
    for left in IN_MEMORY.glob("lirdrec-faults-*-*"):  # of tests that were killed
        if not Path("/proc", left.name.split("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"lirdrec-faults-{os.getpid()}-", dir=IN_MEMORY) as made:
        yield Path(made)


@pytest.fixture(scope="session")
def forks(folder) -> Iterator[Forks]:
    if not sys.platform.startswith("linux") or not hasattr(signal, "SIGKILL"):
        pytest.skip("needs fork and /proc")
    made = Forks(folder)
    yield made
    made.close()


@pytest.fixture(scope="session")
def faults(forks, folder) -> Iterator[Faults]:
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        yield Faults(forks, folder)
        return
    hub = Hub()
    yield Faults(forks, folder, hub)
    hub.close()
