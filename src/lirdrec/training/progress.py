"""Watchers for people and files: the live progress bar, the history file, TensorBoard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lirdrec.training.history import HistoryFile, plot_curves, tensorboard_writer
from lirdrec.training.loop import Watcher

PLOT_SECONDS = 20.0  # the curves are drawn anew at most this often


class ProgressBar(Watcher):
    """A bar over all steps with the loss, the validation metric, the best one so far and the time left at most."""

    def __init__(self, metric: str, epochs: int):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.metric, self.epochs = metric, epochs
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("at most"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=False,
            refresh_per_second=4,
        )
        self.best = float("-inf")
        self.figures = ""

    def started(self, history: list[dict[str, Any]], n_steps: int) -> None:
        self.n_steps = n_steps
        self.task = self.bar.add_task(
            "training", total=self.epochs * n_steps, completed=len(history) * n_steps, figures=""
        )
        for line in history:
            self._read(line)
        self.bar.start()

    def stepped(self, epoch: int, step: int) -> None:
        self.bar.update(
            self.task,
            completed=(epoch - 1) * self.n_steps + step,
            description=f"epoch {epoch}/{self.epochs}",
            figures=self.figures,
        )

    def epoch_ended(self, line: dict[str, Any]) -> None:
        self._read(line)
        self.bar.update(self.task, figures=self.figures)

    def _read(self, line: dict[str, Any]) -> None:
        self.figures = f"loss {line['loss']:.4f}"
        if self.metric in line.get("valid", {}):
            value = line["valid"][self.metric]
            self.best = max(self.best, value)
            self.figures += f"  {self.metric} {value:.4f} (best {self.best:.4f})"

    def stop(self) -> None:
        """Leave the bar as it is."""
        self.bar.stop()


class Recorder(Watcher):
    """Writes `history.jsonl` and `curves.png` into the run folder, and TensorBoard events if asked to."""

    def __init__(self, folder: Path, metric: str, tensorboard: bool):
        self.folder, self.metric = folder, metric
        self.events = tensorboard_writer(folder / "tensorboard") if tensorboard else None
        self.history: list[dict[str, Any]] = []
        self.plotted = time.monotonic()

    def started(self, history: list[dict[str, Any]], n_steps: int) -> None:
        self.history = list(history)
        self.file = HistoryFile(self.folder / "history.jsonl", history)

    def epoch_ended(self, line: dict[str, Any]) -> None:
        self.history.append(line)
        self.file.append(line)
        if self.events is not None:
            self.events.add_scalar("loss", line["loss"], line["epoch"])
            for name, value in line.get("valid", {}).items():
                self.events.add_scalar(f"valid/{name}", value, line["epoch"])
        if time.monotonic() - self.plotted > PLOT_SECONDS:
            self.stop()

    def stop(self) -> None:
        """Draw the curves and flush."""
        if self.history:
            plot_curves(self.history, self.metric, self.folder / "curves.png")
        if self.events is not None:
            self.events.flush()
        self.plotted = time.monotonic()
