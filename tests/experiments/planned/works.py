"""What cells of the tests do; named "planned.works:FUNCTION", found because the tests put this folder on PYTHONPATH."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def fine(job):
    job.figures["valid"] = {"recall@20": job.trial.seed / 100}
    return {"square": job.trial.seed**2}


def killed(job):
    os.kill(os.getpid(), signal.SIGKILL)


def too_big(job):
    raise MemoryError


def broken(job):
    raise ValueError(f"the number {job.trial.seed} is unlucky\nand more that nobody reads")


def forever(job):
    print("started", flush=True)
    while True:
        signal.pause()


def seen(job):
    """All that the process of a trial has been given, once it has killed the task of Ray that started it.

    The task is killed as often as `extra["times"]` says.
    """
    mark = job.folder / "killed"
    times = mark.stat().st_size if mark.exists() else 0
    if times < job.trial.extra["times"]:
        mark.write_text("x" * (times + 1))
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    given = [*sys.argv[1:], *os.environ.values(), str(vars(job)), Path(sys.argv[1]).read_text()]
    is_sealed = job.sealed_folder is not None
    return {"deaths": times, "given": given, "sealed_folder": is_sealed, "test": len(job.dataset.test)}


def node_killed(job):
    """On the first node waits until another is dead; on another one kills it, "raylet" and the task."""
    mark, node = Path(job.trial.extra["mark"]), os.getpid()
    while " (raylet) " not in (facts := Path(f"/proc/{node}/stat").read_text()):
        node = int(facts.rpartition(")")[2].split()[1])
    if node != job.trial.extra["first"]:
        mark.touch()
        os.kill(node, signal.SIGKILL)
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    while not mark.exists():
        time.sleep(0.05)
    return {"node": node}
