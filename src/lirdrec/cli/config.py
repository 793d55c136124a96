"""`lirdrec config`: list the options of a model. `configuration` makes the configurations for commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lirdrec.cli.output import console, print_json, table
from lirdrec.cli.shared_options import JsonOption, option
from lirdrec.config import suggest_name
from lirdrec.errors import ConfigError

WITHOUT_STEPS = ("metric", "seed")  # training options of models that are computed in closed form, without steps


def config(
    model: str = option("lirdrec", "Model whose options to list."),
    preset: str | None = option(None, "Show the values of this preset."),
    json: JsonOption = False,
) -> None:
    """List every key that `train --set` and the TOML file of --config can have for a model, with value and meaning.

    \b
      lirdrec config --preset paper
    """
    import dataclasses

    model_config, training = configuration(model, preset, None, [], None)
    rows = [
        [heading, field.name, getattr(value, field.name), field.metadata.get("doc", "")]
        for heading, value in (("model", model_config), ("training", training))
        for field in dataclasses.fields(value)
        if heading == "model" or field.name in training_keys(model)
    ]
    if json:
        keys = ("table", "key", "value", "meaning")
        return print_json([dict(zip(keys, row, strict=True)) for row in rows])
    for heading in ("model", "training"):
        listed = [row[1:] for row in rows if row[0] == heading]
        console().print(table(f"[{heading}]", ["key", "value", "meaning"], listed))


def configuration(
    model: str,
    preset: str | None,
    file: Path | None,
    assignments: list[str],
    seed: int | None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Any, Any]:
    """Return the configuration of a model and the configuration of its training (`TrainConfig`).

    The values are taken from the preset, the TOML `file`, --set (`assignments`) and --seed. If several have a value of
    one key, the last one in this order counts. `options` is key → value for keys that have an option of their own, such
    as --epochs; they count as --set. A wrong or unknown key or value raises a ConfigError.
    """
    from dataclasses import fields

    from lirdrec.config import make_config, parse_assignments, read_toml, to_dict
    from lirdrec.evaluation.metrics import canonical_metric, split_name
    from lirdrec.models.registry import config_type
    from lirdrec.recommender.presets import preset as preset_of
    from lirdrec.training.config import TrainConfig

    types = {"model": config_type(model), "training": TrainConfig}
    from_file = read_toml(file) if file is not None else {}
    for heading, given in from_file.items():
        if heading not in types or not isinstance(given, dict):
            raise ConfigError(f"{file}: unknown table '{heading}'; the tables are [model] and [training]")
        make_config(types[heading], given, f"{file}, [{heading}]")
        if heading == "training":
            _refuse_steps(model, given, f"{file}, [training]: ")
    keys = {field.name: heading for heading, kind in types.items() for field in fields(kind)}
    given_values = parse_assignments(assignments)
    # the batch size and learning rate of a preset depend on the loss
    loss = given_values.get("loss", from_file.get("model", {}).get("loss")) if "loss" in keys else None
    bases = dict(zip(types, preset_of(model, preset or "fast", loss), strict=True))
    values = {heading: to_dict(base) | from_file.get(heading, {}) for heading, base in bases.items()}
    for key, value in given_values.items():
        if key not in keys:
            hint = suggest_name(key, keys, f"list them with: lirdrec config --model {model}")
            raise ConfigError(f"--set {key}: unknown key '{key}'; {hint}")
        if keys[key] == "training":
            _refuse_steps(model, [key], "--set ")
        values[keys[key]][key] = value
    for key, value in (options or {}).items():
        flag = "--" + key.replace("_", "-")
        if key not in keys:
            raise ConfigError(f"{flag}: {model} has no such option; leave it out")
        if key in given_values:
            raise given_twice(key)
        if keys[key] == "training":
            _refuse_steps(model, [key], "--")
        values[keys[key]][key] = value
    if seed is not None:
        values["training"]["seed"] = seed
    if isinstance(values["training"]["metric"], str):
        values["training"]["metric"] = canonical_metric(values["training"]["metric"])
    training: TrainConfig = make_config(TrainConfig, values["training"], "[training]")
    split_name(training.metric)  # raises for a wrong name, before the dataset is read
    return make_config(types["model"], values["model"], "[model]"), training


def given_twice(key: str) -> ConfigError:
    """Return the error for a key that is given twice: by its own option and by --set."""
    return ConfigError(f"--{key.replace('_', '-')}: is also given as --set {key}; give only one of them")


def feature_size(given: list[str]) -> int | dict[str, int]:
    """Convert the values of --feature-size: one number for all modalities, or modality → number (`image=256`).

    Raises:
        ConfigError: a value is not a number of 1 or more, a modality is given twice, or one number for all modalities
            is given together with a number for one of them.
    """
    sizes: dict[str, int] = {}
    for entry in given:
        name, _, number = entry.rpartition("=")
        name, number = name.strip(), number.strip()
        is_count = number.isascii() and number.isdigit() and len(number) < 10 and int(number) > 0
        if not is_count or ("=" in entry and not name):
            raise ConfigError(
                f"--feature-size {entry!r}: give a number of columns, 1 or more, or one for a modality, as image=256;"
                " --set feature_size=none keeps all columns"
            )
        if name in sizes:
            raise ConfigError(f"--feature-size {entry!r}: {name or 'the size of all modalities'} is given twice")
        sizes[name] = int(number)
    if "" not in sizes:
        return sizes
    if len(sizes) > 1:
        raise ConfigError("--feature-size: give one number for all modalities, or NAME=NUMBER for each, not both")
    return sizes[""]


def training_keys(model: str) -> list[str]:
    """Return the keys of the training configuration that have an effect on a model: few for a closed form, else all."""
    from lirdrec.config import field_docs
    from lirdrec.models.registry import model_type
    from lirdrec.training.config import TrainConfig

    return list(WITHOUT_STEPS if model_type(model).capabilities.training == "closed_form" else field_docs(TrainConfig))


def _refuse_steps(model: str, keys: Iterable[str], prefix: str) -> None:
    """Raise a ConfigError if one of `keys` has no effect on the model, since it is computed without training steps.

    The message begins with `prefix` and the key.
    """
    allowed = training_keys(model)
    for key in keys:
        if key not in allowed:
            raise ConfigError(
                f"{prefix}{key}: {model} is computed in closed form, without epochs and steps, and takes only"
                f" {' and '.join(allowed)} of the training options; leave {key} out"
            )
