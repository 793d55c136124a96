"""Settings of the trainings of a study: from the configuration, an earlier tuning, or the published defaults."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lirdrec.errors import DataError
from lirdrec.experiments.config import ExperimentConfig, option_names
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.search_spaces import parts, space_of
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec, fingerprint
from lirdrec.experiments.trial_store import TrialStore
from lirdrec.experiments.tuning import base_trial, feature_names


def settled(
    config: ExperimentConfig,
    dataset: str,
    model: str,
    feature_set: str = "",
    *,
    loss: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> TrialSpec:
    """Return a trial with the work "train" and all settings of a model for a study.

    Options that `config` or the study sets have priority. The other options are those of the best trial in
    `config.tuned` for this dataset, model and feature set (with the set model options and this loss). If there is no
    such trial, they are the published defaults, which are also the first trials of tuning.

    Args:
        config, dataset, model, feature_set, training: as in `tuning.base_trial`.
        loss: ranking loss, for models with a choice; None: the loss in `config.losses` if it is the only one, else the
            loss of the best trial or, in the published defaults, BPR.
    """
    if loss is None and len(config.losses) == 1:
        loss = config.losses[0]
    base = base_trial(config, dataset, model, feature_set, training=training)
    tuned = with_tuned_settings(config, base, loss)
    if tuned is not None:
        return tuned
    fixed = {**base.model_options, **base.training}
    names = base.modalities if base.modalities is not None else feature_names(dataset)
    return _completed(base, *parts(space_of(model, fixed, (loss or "bpr",), names).first[0]))


def with_tuned_settings(config: ExperimentConfig, base: TrialSpec, loss: str | None = None) -> TrialSpec | None:
    """Return the trial with the other options of the best trial in `config.tuned`, as in `settled`.

    Returns None if there is no tuning trial for the trial's model, data and set options, and this loss.
    """
    best = _best_trial(config, base, loss)
    return None if best is None else _completed(base, best.trial.model_options, best.trial.training)


def _completed(base: TrialSpec, options: Mapping[str, Any], training: Mapping[str, Any]) -> TrialSpec:
    """Return the trial with these options of the model and of the training where it sets none."""
    return base.with_(model_options={**options, **base.model_options}, training={**training, **base.training})


def losses_of(config: ExperimentConfig, model: str) -> tuple[str | None, ...]:
    """Return the ranking losses to repeat a study with.

    They are `config.losses`; (None,), which means one run without a choice, if they are empty, or if the loss of the
    model is fixed by the model or by `config`.
    """
    choice = "loss" in option_names(model) and "loss" not in config.model_options
    return config.losses if choice and config.losses else (None,)


def _best_trial(config: ExperimentConfig, base: TrialSpec, loss: str | None) -> TrialResult | None:
    """Return the best trial in `config.tuned` for the model, data, set options and loss; None if there is none.

    The best trial has the highest validation metric.
    """

    def is_alike(trial: TrialSpec) -> bool:
        if any(getattr(trial, name) != getattr(base, name) for name in ("model", "feature_set", "split")):
            return False
        options = {**trial.model_options, **trial.training}
        if loss is not None and options.get("loss", loss) != loss:
            return False
        if any(options.get(name) != value for name, value in base.model_options.items()):
            return False
        with contextlib.suppress(DataError):  # the dataset of the earlier experiment is no longer there
            return fingerprint(trial.dataset) == fingerprint(base.dataset)
        return False

    tuned = _trials(config.tuned) if config.tuned is not None else ()
    alike = [result for result in tuned if result.figure(config.metric) is not None and is_alike(result.trial)]
    return max(alike, key=lambda result: result.figure(config.metric) or 0.0, default=None)


@lru_cache(maxsize=8)
def _trials(folder: Path) -> tuple[TrialResult, ...]:
    """Return the successful tuning trials in a folder; they are read once, since the experiment there is finished."""
    return tuple(Results.load(TrialStore(folder)).where(work="trial", status="done"))
