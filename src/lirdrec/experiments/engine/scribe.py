"""What listens to a training of a cell: keeps its history and stops it at its limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lirdrec.training.loop import StopTraining, Watcher


class Scribe(Watcher):
    """Keeps the history, and stops a trial at its limits.

    Args:
        metric: validation metric.
        stop_below: `[epoch, value]`, rising: from the epoch on, a best value so far below the value ends the training.
        seconds: training with validation may take so long; None: as long as it takes.
    """

    def __init__(self, metric: str, stop_below: Sequence[Sequence[float]] = (), seconds: float | None = None):
        self.metric, self.stop_below, self.seconds = metric, stop_below, seconds
        self.lines: list[dict[str, Any]] = []
        self.earlier = 0.0  # seconds of the epochs that the checkpoint held
        self.spent = 0.0
        self.best = float("-inf")
        self.stopped_early = False

    def started(self, history: list[dict[str, Any]], n_steps: int) -> None:
        for line in history:
            self._read(line)
        self.earlier = self.spent
        if history:
            self._judge(history[-1]["epoch"])

    def epoch_ended(self, line: dict[str, Any]) -> None:
        self._read(line)
        self._judge(line["epoch"])

    def _read(self, line: dict[str, Any]) -> None:
        before = self.lines[-1]["seconds"] if self.lines else 0.0
        seconds = round(before + line["seconds"], 4)
        figures = line.get("valid", {})
        self.lines.append({"epoch": line["epoch"], "seconds": seconds, "loss": line["loss"], **figures})
        self.spent += line.get("seconds_with_validation", line["seconds"])
        self.best = max(self.best, figures.get(self.metric, float("-inf")))

    def _judge(self, epoch: int) -> None:
        if self.seconds is not None and self.spent >= self.seconds:
            raise StopTraining
        needed = [value for at, value in self.stop_below if at <= epoch]
        if needed and self.best < needed[-1]:
            self.stopped_early = True
            raise StopTraining
