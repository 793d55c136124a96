"""Training callback that logs every epoch to a tracker (MLflow, Weights & Biases)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lirdrec.trackers import Tracker, check_tracker, tracker
from lirdrec.training.loop import Callback


class TrackingCallback(Callback):
    """Logs the loss, the validation metrics and the seconds of each epoch; after a resume, the earlier epochs too.

    The tracker's run starts with the first epoch, so that a training that is refused leaves nothing behind; a model in
    closed form has no epochs, and its run starts with `finish`.

    Args:
        kind: "mlflow" or "wandb".
        name: of the tracker's run.
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
        """Log the final metrics, such as those of the test, and end the tracker's run; a failure starts none."""
        if self.tracker is None:
            if failed:
                return
            self.tracker = tracker(self.kind, self.name, self.params)
        self.tracker.finish(metrics, failed)
