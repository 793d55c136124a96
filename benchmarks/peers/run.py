"""Runs jobs, each in a process of its own, and keeps their results as lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from peers import environments
from peers.data import Data
from peers.plan import OURS, Job

BENCHMARKS = Path(__file__).resolve().parents[1]
SOURCE = BENCHMARKS.parent / "src"
RESULTS = "results.jsonl"
# the thread pools of OpenMP, the BLAS libraries, numba and Rust
POOLS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON", "LK", "NUMEXPR", "POLARS_MAX")


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The results so far; a line cut by a kill is left out."""
    path, found = folder / RESULTS, []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def data_file(folder: Path, dataset: str) -> Path:
    """The npz file of a dataset, made if it is missing.

    Raises:
        RuntimeError: the dataset cannot be read.
    """
    path = folder / "data" / f"{dataset}.npz"
    if not path.is_file():
        command = [sys.executable, "-m", "peers.data", dataset, str(path)]
        done = subprocess.run(command, env=_environment(1, ours=True), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(environments.last_lines(done.stderr, 1))
    return path


def run(folder: Path, jobs: Sequence[Job], released: Path | None = None, timeout: float | None = None) -> None:
    """Run the jobs that have no result yet; failed ones too.

    Args:
        folder: of the environments, data and results.
        jobs: in this order.
        released: a checkout of the released LIRDRec.
        timeout: seconds for a run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = {line["key"] for line in read_results(folder) if "error" not in line}
    for number, job in enumerate(jobs, start=1):
        if job.key in done:
            continue
        name = f"{job.entry.library} {job.entry.label}, {job.dataset}, {job.threads} threads"
        print(f"[{number}/{len(jobs)}] {name}", flush=True)
        result = _result(folder, job, released, timeout)
        if result is None:
            continue
        if "error" in result:
            print(f"    {result['error']}", flush=True)
        _append(folder, job.facts | result)


def _result(folder: Path, job: Job, released: Path | None, timeout: float | None) -> dict[str, Any] | None:
    """What a job gave, or its error; None: it does not fit the dataset."""
    library = job.entry.library
    try:
        data = data_file(folder, job.dataset)
    except RuntimeError as error:
        return {"error": str(error)}
    if job.entry.needs_features and Data.load(data).features is None:
        return None
    python = Path(sys.executable)
    options = dict(job.entry.options)
    if library == "released":
        if released is None:
            return None
        options["checkout"] = str(released.resolve())
    elif library != OURS:
        home = folder / "environments" / library
        problem = environments.reason(home) or (None if environments.is_made(home) else "its environment is not made")
        if problem:
            return {"error": f"environment: {problem}"}
        python = environments.python_of(home)
    return run_child(python, job, data, options, timeout)


def run_child(python: Path, job: Job, data: Path, options: dict[str, Any], timeout: float | None) -> dict[str, Any]:
    """Run a job in a process of its own; its result, or the last line of its error."""
    entry = job.entry
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder, "job.json"), Path(folder, "result.json")
        asked = {"runner": f"{entry.library}_runner", "model": entry.model, "options": options, "epochs": job.epochs}
        asked |= {"data": str(data.resolve()), "threads": job.threads, "seed": job.repetition - 1}
        request.write_text(json.dumps(asked), encoding="utf-8")
        # a library that writes into the working directory must not write here
        command = [str(python.absolute()), "-m", "peers.child", str(request), str(answer)]
        environment = _environment(job.threads, ours=entry.library == OURS)
        try:
            done = subprocess.run(
                command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return {"error": f"stopped after {timeout:g} s"}
        if done.returncode or not answer.is_file():
            text = done.stderr if done.returncode >= 0 else f"ended by signal {-done.returncode}"
            return {"error": environments.last_lines(text, 1)}
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return found


def _environment(threads: int, ours: bool) -> dict[str, str]:
    """Variables of a child: so many threads in every pool, and the modules of the benchmark."""
    paths: Iterable[Path] = (BENCHMARKS, SOURCE) if ours else (BENCHMARKS,)
    pools = {f"{pool}_{'THREADS' if pool == 'POLARS_MAX' else 'NUM_THREADS'}": str(threads) for pool in POOLS}
    return os.environ | pools | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "CUDA_VISIBLE_DEVICES": ""}


def _append(folder: Path, result: dict[str, Any]) -> None:
    """Add a line; after a kill in the middle of one, begin a new line."""
    path = folder / RESULTS
    cut = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut else "") + json.dumps(result) + "\n")
