"""Mutated inputs and damaged folders: one sentence or the right result, never a traceback, a hang or another result."""

from __future__ import annotations

import collections
import json
import os
import selectors
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SECONDS = 600  # without a word from the worker, on the slowest of machines
GOOD = {"accepted", "refused", "same"}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Small files, a dataset and a run, in a process of its own."""
    folder = tmp_path_factory.mktemp("fuzz")
    code = (
        "import sys; sys.path[:0] = sys.argv[1:2]; import commands, pathlib; commands.make(pathlib.Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, str(HERE), str(folder)], check=True, env=environment(folder))
    return folder


@pytest.mark.parametrize("kind", ["inputs", "damages"])
def test_some(base, kind):
    outcomes = run(base, kind, seed=1, number=40)
    assert len(outcomes) == 40
    assert bad(outcomes) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["inputs", "damages"])
def test_a_thousand(base, kind):
    outcomes = run(base, kind, seed=2, number=1000)
    assert len(outcomes) == 1000
    assert bad(outcomes) == []


def run(base: Path, kind: str, seed: int, number: int) -> list[dict[str, Any]]:
    """How each of the inputs ended; a worker that crashed or hung is one of them, and a new one continues after it."""
    outcomes: list[dict[str, Any]] = []
    while len(outcomes) < number:
        ended = _work(base, kind, seed, len(outcomes), number, outcomes)
        if ended is not None:
            outcomes.append({"index": len(outcomes), "outcome": ended})
    counts = collections.Counter(one["outcome"] for one in outcomes)
    print(f"{number:,} {kind}: " + ", ".join(f"{count:,} {outcome}" for outcome, count in counts.most_common()))
    return outcomes


def bad(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The outcomes that should not be."""
    return [one for one in outcomes if one["outcome"] not in GOOD]


def _work(base: Path, kind: str, seed: int, first: int, last: int, outcomes: list[dict[str, Any]]) -> str | None:
    """Let one worker do as much as it can; gives "HUNG" or "CRASHED" where it did not come to the end."""
    arguments = [sys.executable, str(HERE / "worker.py"), kind, str(seed), str(first), str(last), str(base)]
    with (
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(base)) as worker,
        selectors.DefaultSelector() as selector,
    ):
        assert worker.stdout is not None
        selector.register(worker.stdout, selectors.EVENT_READ)
        rest = b""
        while selector.select(SECONDS):
            if not (piece := os.read(worker.stdout.fileno(), 1 << 16)):
                break
            *lines, rest = (rest + piece).split(b"\n")
            outcomes += map(json.loads, lines)
        else:
            worker.kill()
            return "HUNG"
    return None if worker.returncode == 0 else f"CRASHED ({worker.returncode})"


def environment(folder: Path) -> dict[str, str]:
    """Of the workers: this checkout, one thread, and a cache of their own."""
    source = str(HERE.parents[1] / "src")
    more = {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "HOME": str(folder)}
    return {**os.environ, **more, "LIRDREC_CACHE": str(folder / "cache"), "RUST_BACKTRACE": "0"}
