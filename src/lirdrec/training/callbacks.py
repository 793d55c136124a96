"""Callbacks of a training: the base class, and callbacks that report each epoch (bar, line, file, curves, trackers)."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lirdrec.errors import ConfigError
from lirdrec.files.atomic import atomic_write, flush
from lirdrec.files.progress_bars import draws_bars, duration
from lirdrec.trackers import Tracker, check_tracker, tracker

log = logging.getLogger(__name__)


class StopTraining(Exception):
    """A callback raises this exception to end the training: after the epoch, or before the first one."""


class Callback:
    """Base class of training callbacks; every hook does nothing.

    `on_train_begin` and `on_epoch_end` may raise `StopTraining`: training ends there, with the best parameters so far.
    """

    def on_train_begin(self, history: list[dict[str, Any]], n_steps: int) -> None:
        """Called before the first epoch; `history` has the epochs before a resume; an epoch has `n_steps` steps."""

    def on_step_end(self, epoch: int, step: int) -> None:
        """Called after step `step` (from 1) of the epoch with the number `epoch`."""

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        """Called after an epoch; `line` is its entry in the history: number, loss, seconds, validation metrics …"""


class HistoryFile:
    """The file `history.jsonl`: one JSON object for each epoch, which is appended when the epoch ends.

    Args:
        path: the file; an existing file is replaced.
        past: entries of earlier epochs, from the checkpoint of a resumed training; they are written first.
    """

    def __init__(self, path: Path, past: Sequence[dict[str, Any]] = ()):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text("".join(json.dumps(epoch) + "\n" for epoch in past), encoding="utf-8")

    def append(self, epoch: dict[str, Any]) -> None:
        """Append the entry of an epoch, and flush the file to the disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(epoch) + "\n")
        flush(self.path)


def plot_curves(history: Sequence[dict[str, Any]], metric: str, path: Path) -> None:
    """Write a PNG file with two charts: the loss, and the validation metric `metric`, over the epochs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = [epoch["epoch"] for epoch in history]
    left.plot(epochs, [epoch["loss"] for epoch in history], color="#3b6ea5")
    left.set(title="training loss", xlabel="epoch")
    points = [(epoch["epoch"], epoch["valid"][metric]) for epoch in history if metric in epoch.get("valid", {})]
    if points:
        right.plot(*zip(*points, strict=True), color="#c8553d")
        best = max(points, key=lambda point: point[1])
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
    """Return a TensorBoard writer for a folder.

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


PLOT_SECONDS = 20.0  # minimum time between two plots of the curves
NARROW = 100  # below this terminal width, the loss and the elapsed time are not shown


def epoch_progress(metric: str, epochs: int) -> ProgressBar | EpochLines:
    """Return the callback that shows progress: a bar on a terminal or in a notebook, else one line per epoch."""
    return ProgressBar(metric, epochs) if draws_bars() else EpochLines(metric, epochs)


class EpochLines(Callback):
    """Prints a line per epoch to stderr: loss, validation metric and its best value, and the longest time left.

    The training may end earlier than this time (patience).
    """

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
        fields = [f"epoch {epoch}/{self.epochs}", f"loss {line['loss']:.4f}"]
        if self.metric in line.get("valid", {}):
            fields.append(
                f"{self.metric} {line['valid'][self.metric]:.4f} (best {self.best:.4f}, epoch {self.best_epoch})"
            )
        self.seconds += line.get("seconds_with_validation", line["seconds"])
        left = self.seconds / (epoch - self.past) * (self.epochs - epoch)
        fields.append(duration(self.seconds))
        if left:
            fields.append(f"at most {duration(left)} left")
        print("  ".join(fields), file=sys.stderr, flush=True)

    def _read(self, line: dict[str, Any]) -> None:
        value = line.get("valid", {}).get(self.metric)
        if value is not None and value > self.best:
            self.best, self.best_epoch = value, line["epoch"]

    def stop(self) -> None:
        """Do nothing, since there is nothing to close."""


class ProgressBar(Callback):
    """A bar over all steps with loss, validation metric, best value so far, and the longest time left.

    The training may end earlier than this time (patience).
    """

    def __init__(self, metric: str, epochs: int):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.metric, self.epochs = metric, epochs
        console = Console(stderr=True)
        self.is_narrow = console.width < NARROW
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=6 if self.is_narrow else 24),
            TextColumn("{task.fields[metrics]}"),
            *(() if self.is_narrow else (TimeElapsedColumn(),)),
            TextColumn("at most"),
            TimeRemainingColumn(),
            console=console,
            transient=False,
            refresh_per_second=4,
        )
        self.best = float("-inf")
        self.metrics = ""

    def on_train_begin(self, history: list[dict[str, Any]], n_steps: int) -> None:
        self.n_steps = n_steps
        self.task = self.bar.add_task(
            "training", total=self.epochs * n_steps, completed=len(history) * n_steps, metrics=""
        )
        for line in history:
            self._read(line)
        self.bar.start()

    def on_step_end(self, epoch: int, step: int) -> None:
        self.bar.update(
            self.task,
            completed=(epoch - 1) * self.n_steps + step,
            description=f"epoch {epoch}/{self.epochs}",
            metrics=self.metrics,
        )

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        self._read(line)
        self.bar.update(self.task, metrics=self.metrics)

    def _read(self, line: dict[str, Any]) -> None:
        loss = f"loss {line['loss']:.4f}"
        self.metrics = loss
        if self.metric in line.get("valid", {}):
            value = line["valid"][self.metric]
            self.best = max(self.best, value)
            metrics = f"{self.metric} {value:.4f} (best {self.best:.4f})"
            self.metrics = metrics if self.is_narrow else f"{loss}  {metrics}"

    def stop(self) -> None:
        """Stop updating the bar."""
        self.bar.stop()


class HistoryLogger(Callback):
    """Writes `history.jsonl` and `curves.png` into the run folder, and TensorBoard events if requested."""

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
        """Write `curves.png` and flush the TensorBoard events; logging can continue after this."""
        if self.history:
            plot_curves(self.history, self.metric, self.folder / "curves.png")
        if self.events is not None:
            self.events.flush()
        self.plotted = time.monotonic()


class TrackingCallback(Callback):
    """Logs the loss, the validation metrics and the seconds of each epoch; after a resume, the earlier epochs too.

    The tracker's run starts when the training begins, so that a training with a wrong option makes no run there. A
    model in closed form has no epochs; its run in the tracker starts with `finish`.

    Args:
        kind: "mlflow" or "wandb".
        name: name of the tracker's run.
        params: settings to log.

    Raises:
        ConfigError: an unknown tracker, or its package is not installed.
    """

    def __init__(self, kind: str, name: str, params: Mapping[str, Any]):
        check_tracker(kind)
        self.kind, self.name, self.params = kind, name, params
        self.tracker: Tracker | None = None

    def on_train_begin(self, history: list[dict[str, Any]], n_steps: int) -> None:
        self.tracker = tracker(self.kind, self.name, self.params)
        for line in history:
            self.on_epoch_end(line)

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        assert self.tracker is not None
        valid = {f"valid/{name}": value for name, value in line.get("valid", {}).items()}
        self.tracker.log({"loss": line["loss"], "seconds": line["seconds"], **valid}, line["epoch"])

    def finish(self, metrics: Mapping[str, float], failed: bool = False) -> None:
        """Log the final metrics, such as the test metrics, and end the tracker's run, as failed if `failed`.

        If the training failed before the tracker's run started, nothing is logged.
        """
        if self.tracker is None:
            if failed:
                return
            self.tracker = tracker(self.kind, self.name, self.params)
        self.tracker.finish(metrics, failed)
