"""With what settings an experiment takes a model apart: set by hand, else found by tuning before, else published."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.search_spaces import parts, space_of
from lirdrec.experiments.trial import TrialResult, TrialSpec, TrialStore, fingerprint
from lirdrec.experiments.tuning import base_cell, feature_names


def settled(
    config: ExperimentConfig,
    dataset: str,
    model: str,
    feature_set: str = "",
    *,
    loss: str | None = None,
    split: Mapping[str, Any] | None = None,
    variant: str = "",
    training: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> TrialSpec:
    """The cell of work "train" of a model with all its settings.

    Options that `config` sets go before all. The others are those of the best trial in `config.tuned` for this
    dataset, model and feature set (with these options and this loss); where there is none, the published defaults,
    with which tuning begins, too.

    Args:
        config, dataset, model, feature_set, split, variant, extra: as in `tuning.base_cell`.
        loss: one ranking loss, for models that have the choice; None: the only one of `config.losses`, or whichever.
        training: set by the experiment; goes before the tuned and the published options.
    """
    if loss is None and len(config.losses) == 1:
        loss = config.losses[0]
    base = base_cell(config, dataset, model, feature_set, split=split, variant=variant, training=training, extra=extra)
    fixed = {**base.model_options, **base.training}
    names = base.modalities if base.modalities is not None else feature_names(dataset)
    found = _best_trial(config, base, loss)
    if found is not None:
        of_model, of_training = dict(found.cell.model_options), dict(found.cell.training)
    else:
        of_model, of_training = parts(space_of(model, fixed, (loss,) if loss else ("bpr",), names).first[0])
    return base.with_(
        model_options={**of_model, **base.model_options},
        training={**of_training, **base.training},
    )


def losses_of(config: ExperimentConfig, model: str) -> tuple[str | None, ...]:
    """The losses to repeat an experiment with: those asked for, where the model has the choice; else (None,)."""
    from dataclasses import fields

    from lirdrec.models.registry import config_type

    has = "loss" in {one.name for one in fields(config_type(model))}
    return config.losses if has and config.losses and "loss" not in config.model_options else (None,)


def _best_trial(config: ExperimentConfig, base: TrialSpec, loss: str | None) -> TrialResult | None:
    """The best trial of an earlier tuning of the same model on the same data, by validation."""
    best: tuple[float, TrialResult] | None = None
    for result in _trials(config.tuned) if config.tuned is not None else ():
        cell, value = result.cell, result.figure(config.metric)
        if value is None or (cell.model, cell.feature_set, cell.split) != (base.model, base.feature_set, base.split):
            continue
        given = {**cell.model_options, **cell.training}
        if loss is not None and given.get("loss", loss) != loss:
            continue
        if any(given.get(name) != value for name, value in base.model_options.items()):
            continue
        if not _is_same(cell.dataset, base.dataset):
            continue
        if best is None or value > best[0]:
            best = value, result
    return None if best is None else best[1]


@lru_cache(maxsize=8)
def _trials(folder: Path) -> tuple[TrialResult, ...]:
    """The trials in a folder; read once, since they are of an experiment before this one."""
    return tuple(Results.load(TrialStore(folder)).where(work="trial", status="done"))


def _is_same(one: str, other: str) -> bool:
    from lirdrec.errors import DataError

    try:
        return fingerprint(one) == fingerprint(other)
    except DataError:  # the dataset of the earlier experiment is no longer there
        return False
