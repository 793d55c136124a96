"""Start the processes of a training on this machine, and end all of them when one of them fails.

This module imports nothing heavy: the process that starts the others does nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lirdrec.errors import TrainingError

RENDEZVOUS = "LIRDREC_RENDEZVOUS"  # environment variable: the file by which the processes find each other
LOST = 70  # exit code of a process that ended because another process ended
GRACE = 8.0  # seconds in which the other processes may end by themselves and print the reason
KILL_AFTER = 5.0  # seconds between asking a process to end and killing it
INTERVAL = 0.1


def run_ranks(arguments: Sequence[str], size: int) -> int:
    """Run `lirdrec` with these arguments in `size` processes, and return the exit code of the first one (rank 0).

    Only rank 0 writes to the output and error streams. Ctrl-C is passed to all processes. If one fails, all others are
    ended.

    Raises:
        TrainingError: a process was killed, a process other than rank 0 failed, or the connection was lost.
    """
    with tempfile.TemporaryDirectory(prefix="lirdrec-ranks-") as folder:
        processes = _start(arguments, size, Path(folder))
        try:
            with _forwarded(processes):
                while None in (codes := [process.poll() for process in processes]):
                    if any(codes):
                        codes = _ended(processes)
                        break
                    time.sleep(INTERVAL)
        finally:
            _end(processes)
        return _result(codes, Path(folder))


def _start(arguments: Sequence[str], size: int, folder: Path) -> list[subprocess.Popen[bytes]]:
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // size))
    common = {RENDEZVOUS: str(folder / "rendezvous"), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": threads}
    processes = []
    for rank in range(size):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
        with (folder / f"errors-{rank}").open("wb") as errors:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "lirdrec", *arguments],
                    env=os.environ | common | own,
                    stdin=subprocess.PIPE,  # closed when this process ends, for whatever reason
                    stdout=None if rank == 0 else subprocess.DEVNULL,
                    stderr=None if rank == 0 else errors,
                    start_new_session=True,  # Ctrl-C reaches them through `_forwarded` only
                )
            )
    return processes


@contextlib.contextmanager
def _forwarded(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Context manager that passes SIGINT (Ctrl-C) to the processes, and raises SystemExit on SIGTERM."""

    def forward(number: int, frame: Any) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGINT, forward), signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _ended(processes: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """Wait some seconds (`GRACE`) for the processes to end, and return their exit codes (None: it still runs)."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(INTERVAL)
    return [process.poll() for process in processes]


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + KILL_AFTER
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _result(codes: Sequence[int | None], folder: Path) -> int:
    remedy = "all processes were stopped; to continue from the last checkpoint, run the same command with --resume"
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            raise TrainingError(f"process {rank} of {len(codes)} was killed ({name}), and {remedy}")
    if codes[0] not in (0, LOST, None):
        return int(codes[0] or 0)  # rank 0 has printed the reason
    for rank, code in enumerate(codes):
        if code not in (0, LOST, None):
            lines = (folder / f"errors-{rank}").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = lines[-1].removeprefix("lirdrec: ") if lines else f"exit code {code}"
            raise TrainingError(f"process {rank} of {len(codes)} failed ({reason}), and {remedy}")
    if LOST in codes:
        raise TrainingError(f"the processes lost the connection to each other, and {remedy}")
    return 0
