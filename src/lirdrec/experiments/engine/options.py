"""The options of a cell as configs, and where what is set by hand belongs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from lirdrec.configuration import make
from lirdrec.errors import ConfigError
from lirdrec.experiments.engine.cells import Cell
from lirdrec.training.config import TrainConfig


def resolved(cell: Cell) -> tuple[Any, TrainConfig]:
    """The config of the cell's model and its `TrainConfig`; `modalities` and the seed are in them.

    Raises:
        ConfigError: an unknown option, or a value out of range.
    """
    from lirdrec.models.registry import config_type

    kind = config_type(cell.model)
    options = dict(cell.model_options)
    if cell.modalities is not None and "modalities" in {one.name for one in fields(kind)}:
        options["modalities"] = list(cell.modalities)
    training = {**cell.training, "seed": cell.seed}
    return make(kind, options, f"options of {cell.model}"), make(TrainConfig, training, "training options")


def sort_assignments(
    values: Mapping[str, Any], models: Sequence[str], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What is set by hand as options of models, of training, and settings of the experiment.

    Args:
        values: name → value.
        models: whose options are known; a value that a model has must be right for it.
        settings: names of the experiment's own settings.

    Raises:
        ConfigError: a name that nothing has (the nearest is offered), or a wrong value.
    """
    from lirdrec.models.registry import config_type

    training = {one.name for one in fields(TrainConfig)} - {"seed", "metric"}
    of_models = {model: {one.name for one in fields(config_type(model))} for model in models}
    known = {*settings, *training, *(name for names in of_models.values() for name in names)}
    found: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = ({}, {}, {})
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            if name in ("seed", "metric"):
                hint = f"use --{'seeds' if name == 'seed' else name}"
            else:
                hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(known))}"
            raise ConfigError(f"--set {name}: no model of this experiment has such an option; {hint}")
        place = 2 if name in settings else 1 if name in training else 0
        found[place][name] = value
    make(TrainConfig, found[1], "--set")
    for model, names in of_models.items():
        make(config_type(model), {k: v for k, v in found[0].items() if k in names}, f"--set, {model}")
    return found
