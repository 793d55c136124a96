"""Start the process that computes a trial (`worker`), on this machine or on a machine of a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


def start_worker(
    job: Path, result: Path, log: Path, jobs: int = 1, threads: int | None = None
) -> subprocess.Popen[bytes]:
    """Start the process that computes a trial on this machine, and return it.

    Args:
        job: the trial's job file.
        result: the file for its result.
        log: the file for its output.
        jobs: number of such processes that share the cores of this machine.
        threads: number of threads of the process; None: `OMP_NUM_THREADS` or, if it is not set, the process's share of
            the cores.
    """
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "lirdrec.experiments.worker", str(job), str(result)],
            stdin=subprocess.PIPE,  # closes when this process ends, however it ends
            stdout=output,
            stderr=output,
            env=_environment(jobs, threads),
        )


def was_killed(code: int) -> bool:
    """Whether a process was ended by SIGKILL, which is how the system ends a process if memory is short.

    Args:
        code: exit code of the process.
    """
    return hasattr(signal, "SIGKILL") and code in (-signal.SIGKILL, 128 + signal.SIGKILL)


def last_line(log: Path) -> str:
    """Return the last line in the log of a worker, or a text that says that there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "the process ended without a message"


def _environment(jobs: int, threads: int | None) -> dict[str, str]:
    """Return the environment variables of a worker: those of this process, numbers of threads, path of the package."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shared = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), str(threads or max(1, cores // jobs)))
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    # active waiting would slow down other workers
    waiting = {"OMP_WAIT_POLICY": "passive"} if jobs > 1 else {}
    return {**shared, **waiting, **os.environ, **({} if threads is None else shared), "PYTHONPATH": path}
