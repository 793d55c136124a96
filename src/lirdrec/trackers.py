"""Log runs to MLflow or Weights & Biases: settings, the metrics of each step, and final metrics.

Nothing leaves the machine unless the user's own settings of the tracker say so: MLflow writes into `mlflow.db` of the
working folder, or to MLFLOW_TRACKING_URI; Weights & Biases is offline, or as WANDB_MODE says.
"""

from __future__ import annotations

import abc
import json
import os
import re
from collections.abc import Mapping
from typing import Any, cast

from lirdrec.errors import ConfigError

PROJECT = "lirdrec"  # name of the MLflow experiment, and of the W&B project
NAMES = ("mlflow", "wandb")
MAX_PARAM = 500  # characters of a parameter's value


class Tracker(abc.ABC):
    """Base class: one run that is logged to a tracker (MLflow or Weights & Biases).

    Args:
        name: name of the run.
        params: name → value of the run's settings; nested mappings become names with dots.
    """

    @abc.abstractmethod
    def __init__(self, name: str, params: Mapping[str, Any]): ...

    @abc.abstractmethod
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of a step, such as an epoch."""

    @abc.abstractmethod
    def finish(self, metrics: Mapping[str, float], failed: bool = False) -> None:
        """Log the final metrics and end the run; `failed` marks the run as failed."""


class MLflowTracker(Tracker):
    """A run of the MLflow experiment "lirdrec"; MLflow allows no @ in names, so recall@20 becomes recall_at_20."""

    def __init__(self, name: str, params: Mapping[str, Any]):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"))
        found = self.client.get_experiment_by_name(PROJECT)
        experiment = self.client.create_experiment(PROJECT) if found is None else found.experiment_id
        self.run = self.client.create_run(experiment, run_name=name).info.run_id
        for key, value in flat(params).items():
            self.client.log_param(self.run, _allowed(key), str(value)[:MAX_PARAM])

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.client.log_metric(self.run, _allowed(name), float(value), step=step)

    def finish(self, metrics: Mapping[str, float], failed: bool = False) -> None:
        self.log(metrics, 0)
        self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


class WandbTracker(Tracker):
    """A run of the Weights & Biases project "lirdrec", offline unless WANDB_MODE is set; `wandb sync` uploads it."""

    def __init__(self, name: str, params: Mapping[str, Any]):
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        settings = wandb.Settings(silent=True, console="off")
        self.run = wandb.init(
            project=PROJECT, name=name, mode=mode, config=flat(params), settings=settings, reinit="create_new"
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.run.log({name: float(value) for name, value in metrics.items()}, step=step)

    def finish(self, metrics: Mapping[str, float], failed: bool = False) -> None:
        self.run.summary.update({name: float(value) for name, value in metrics.items()})
        self.run.finish(exit_code=int(failed))


def tracker(kind: str, name: str, params: Mapping[str, Any]) -> Tracker:
    """Start a run that is logged to a tracker, and return it.

    Args:
        kind: the tracker, "mlflow" or "wandb".
        name: name of the run.
        params: name → value of the run's settings.

    Raises:
        ConfigError: the kind is another one, or its package is not installed.
    """
    check_tracker(kind)
    return (MLflowTracker if kind == "mlflow" else WandbTracker)(name, params)


def check_tracker(kind: str | None) -> None:
    """Check that there is a tracker `kind` and its package is installed, and raise a ConfigError if not.

    None (no tracker) is accepted.
    """
    from importlib.util import find_spec

    if kind is None:
        return
    if kind not in NAMES:
        raise ConfigError(f"there is no tracker {kind!r}; choose {' or '.join(NAMES)}")
    if find_spec(kind) is None:
        raise ConfigError(f"tracker {kind} is not installed; pip install 'lirdrec[{kind}]'")


def flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one, with dots between the names; lists become JSON texts.

    >>> flat({"model": {"n_layers": 2}, "seed": 0})
    {'model.n_layers': 2, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            found |= flat(cast("Mapping[str, Any]", value), f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, (list, tuple)) else value
    return found


def _allowed(name: str) -> str:
    """Replace the characters of a name that MLflow does not allow by `_`, and `@` by `_at_`."""
    return re.sub(r"[^\w.\-/ ]", "_", name.replace("@", "_at_"))
