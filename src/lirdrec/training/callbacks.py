"""What happened in each epoch: JSON lines, a picture, TensorBoard.

Watchers for people and files: the live progress bar or a line per epoch, the history file, TensorBoard.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lirdrec.errors import ConfigError
from lirdrec.files.atomic import atomic_write, flush
from lirdrec.files.progress import draws_bars, duration
from lirdrec.training.loop import Callback

log = logging.getLogger(__name__)


class HistoryFile:
    """`history.jsonl`: one JSON object per epoch, appended as it ends.

    Args:
        path: the file.
        past: epochs to start with (those of the checkpoint); whatever else the file held is dropped.
    """

    def __init__(self, path: Path, past: Sequence[dict[str, Any]] = ()):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text("".join(json.dumps(epoch) + "\n" for epoch in past), encoding="utf-8")

    def append(self, epoch: dict[str, Any]) -> None:
        """Add an epoch's line; on return it is on the disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(epoch) + "\n")
        flush(self.path)


def plot_curves(history: Sequence[dict[str, Any]], metric: str, path: Path) -> None:
    """A PNG of the loss and of the validation metric over the epochs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = [epoch["epoch"] for epoch in history]
    left.plot(epochs, [epoch["loss"] for epoch in history], color="#3b6ea5")
    left.set(title="training loss", xlabel="epoch")
    measured = [(epoch["epoch"], epoch["valid"][metric]) for epoch in history if metric in epoch.get("valid", {})]
    if measured:
        right.plot(*zip(*measured, strict=True), color="#c8553d")
        best = max(measured, key=lambda point: point[1])
        right.plot(*best, "o", color="#c8553d")
        right.annotate(
            f"{best[1]:.4f} in epoch {best[0]}",
            best,
            xytext=(-4, -14),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
    right.set(title=f"validation {metric}", xlabel="epoch")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def tensorboard_writer(folder: Path) -> Any:
    """A TensorBoard writer.

    Raises:
        ConfigError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "tensorboard=true needs the package tensorboard: pip install 'lirdrec[tensorboard]'"
        ) from None
    return SummaryWriter(str(folder))


PLOT_SECONDS = 20.0  # the curves are drawn anew at most this often


NARROW = 100  # columns of a terminal, below which the loss gives way to the time left


def epoch_progress(metric: str, epochs: int) -> ProgressBar | EpochLines:
    """A bar on a terminal or in a notebook, a line per epoch elsewhere."""
    return ProgressBar(metric, epochs) if draws_bars() else EpochLines(metric, epochs)


class EpochLines(Callback):
    """A line per epoch on the error stream, for logs: loss, validation metric, the best so far, time left at most."""

    def __init__(self, metric: str, epochs: int):
        self.metric, self.epochs = metric, epochs
        self.best, self.best_epoch, self.past, self.seconds = float("-inf"), 0, 0, 0.0

    def on_train_begin(self, history: list[dict[str, Any]], n_steps: int) -> None:
        for line in history:
            self._read(line)
        self.past = len(history)

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        self._read(line)
        epoch = line["epoch"]
        parts = [f"epoch {epoch}/{self.epochs}", f"loss {line['loss']:.4f}"]
        if self.metric in line.get("valid", {}):
            parts.append(
                f"{self.metric} {line['valid'][self.metric]:.4f} (best {self.best:.4f}, epoch {self.best_epoch})"
            )
        self.seconds += line.get("seconds_with_validation", line["seconds"])
        left = self.seconds / (epoch - self.past) * (self.epochs - epoch)
        parts.append(duration(self.seconds))
        if left:
            parts.append(f"at most {duration(left)} left")
        print("  ".join(parts), file=sys.stderr, flush=True)

    def _read(self, line: dict[str, Any]) -> None:
        value = line.get("valid", {}).get(self.metric)
        if value is not None and value > self.best:
            self.best, self.best_epoch = value, line["epoch"]

    def stop(self) -> None:
        """Nothing is left to do."""


class ProgressBar(Callback):
    """A bar over all steps with the loss, the validation metric, the best one so far and the time left at most."""

    def __init__(self, metric: str, epochs: int):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.metric, self.epochs = metric, epochs
        console = Console(stderr=True)
        self.is_narrow = console.width < NARROW
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=6 if self.is_narrow else 24),
            TextColumn("{task.fields[figures]}"),
            *(() if self.is_narrow else (TimeElapsedColumn(),)),
            TextColumn("at most"),
            TimeRemainingColumn(),
            console=console,
            transient=False,
            refresh_per_second=4,
        )
        self.best = float("-inf")
        self.figures = ""

    def on_train_begin(self, history: list[dict[str, Any]], n_steps: int) -> None:
        self.n_steps = n_steps
        self.task = self.bar.add_task(
            "training", total=self.epochs * n_steps, completed=len(history) * n_steps, figures=""
        )
        for line in history:
            self._read(line)
        self.bar.start()

    def on_step_end(self, epoch: int, step: int) -> None:
        self.bar.update(
            self.task,
            completed=(epoch - 1) * self.n_steps + step,
            description=f"epoch {epoch}/{self.epochs}",
            figures=self.figures,
        )

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        self._read(line)
        self.bar.update(self.task, figures=self.figures)

    def _read(self, line: dict[str, Any]) -> None:
        loss = f"loss {line['loss']:.4f}"
        self.figures = loss
        if self.metric in line.get("valid", {}):
            value = line["valid"][self.metric]
            self.best = max(self.best, value)
            figures = f"{self.metric} {value:.4f} (best {self.best:.4f})"
            self.figures = figures if self.is_narrow else f"{loss}  {figures}"

    def stop(self) -> None:
        """Leave the bar as it is."""
        self.bar.stop()


class HistoryLogger(Callback):
    """Writes `history.jsonl` and `curves.png` into the run folder, and TensorBoard events if asked to."""

    def __init__(self, folder: Path, metric: str, tensorboard: bool):
        self.folder, self.metric = folder, metric
        self.events = tensorboard_writer(folder / "tensorboard") if tensorboard else None
        self.history: list[dict[str, Any]] = []
        self.plotted = time.monotonic()

    def on_train_begin(self, history: list[dict[str, Any]], n_steps: int) -> None:
        self.history = list(history)
        self.file = HistoryFile(self.folder / "history.jsonl", history)

    def on_epoch_end(self, line: dict[str, Any]) -> None:
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
