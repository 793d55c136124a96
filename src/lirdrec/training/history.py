"""What happened in each epoch: JSON lines, a picture, TensorBoard."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lirdrec.atomic import atomic_write, flush
from lirdrec.errors import ConfigError

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
