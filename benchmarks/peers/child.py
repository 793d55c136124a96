"""One run in a process of its own: the time of each step, the quality after each epoch, the peak memory.

python -m peers.child JOB.json RESULT.json
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from peers.data import Data
from peers.runner import ListRunner, Runner, Settings

K = 20


class Clock:
    """Seconds of the clock and of the processor since the last call of `start`."""

    def start(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> list[float]:
        return [round(time.perf_counter() - self.wall, 5), round(time.process_time() - self.processor, 5)]


class Epochs:
    """The training time of each epoch and the NDCG after it; the time of the validation is left out."""

    def __init__(self, runner: Runner):
        self.runner, self.clock = runner, Clock()
        self.seconds: list[list[float]] = []
        self.ndcg: list[float] = []
        self.validation: list[list[float]] = []

    def trained(self) -> None:
        self.seconds.append(self.clock.read())
        self.clock.start()

    def ended(self, ndcg: float | None = None) -> None:
        if len(self.seconds) == len(self.ndcg):
            self.trained()
        if ndcg is None:
            assert isinstance(self.runner, ListRunner)  # the others give it
            ndcg = self.runner.evaluate(K)
        self.ndcg.append(ndcg)
        self.validation.append(self.clock.read())
        self.clock.start()


def peak_mb() -> float:
    """The largest resident memory of this process, without that of the process that started it as in getrusage."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def measure(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a job; its results as JSON-able values. Pairs are seconds of the clock and of the processor."""
    module = importlib.import_module(f"peers.runners.{job['runner']}")
    kind: type[Runner] = module.RUNNER
    data = Data.load(job["data"])
    settings = Settings(job["model"], job["epochs"], job["threads"], job["seed"], job["options"], folder)
    result: dict[str, Any] = {"load": round(os.getloadavg()[0], 2), "program_mb": round(peak_mb(), 1)}
    clock = Clock()
    runner = kind(data, settings)
    epochs = Epochs(runner)
    clock.start()
    epochs.clock.start()
    runner.fit(epochs)
    total = clock.read()
    spent = [sum(part[i] for part in epochs.validation) for i in (0, 1)]
    result["fit"] = [round(all_ - rest, 5) for all_, rest in zip(total, spent, strict=True)]
    result |= {"epoch_times": epochs.seconds, "ndcg": epochs.ndcg, "fit_peak_mb": round(peak_mb(), 1)}
    if isinstance(runner, ListRunner):
        clock.start()
        runner.evaluate(K)
        result["evaluation"] = clock.read()
        clock.start()
        runner.write_top(folder / f"top{runner.suffix}", K)
        result["top"] = clock.read()
    elif epochs.validation:
        result["evaluation"] = epochs.validation[-1]
    result["peak_mb"] = round(peak_mb(), 1)
    has_lists = isinstance(runner, ListRunner)  # then by the same code for all
    result["final_ndcg"] = data.ndcg(runner.top(data.evaluated, K)) if has_lists else epochs.ndcg[-1]
    result["versions"] = {name: importlib.metadata.version(name) for name in module.PACKAGES}
    return result


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    found = measure(job, Path(sys.argv[1]).parent)
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
