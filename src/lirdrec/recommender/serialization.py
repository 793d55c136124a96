"""Write a `RunState` to the files of a run folder, read it back, and build its model from the saved weights.

The files are listed in docs/architecture.md, "Files and folders on disk".
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lirdrec.config import saved_config
from lirdrec.data.column_names import ITEM, TIMESTAMP, USER, WEIGHT
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.ids import IdMap
from lirdrec.errors import DataError, RunFolderError, describe_error, describe_read_error
from lirdrec.files.atomic import share
from lirdrec.files.manifest import MANIFEST, manifest_stamp, resolve_path
from lirdrec.files.transaction import read_stable
from lirdrec.models.base import Model
from lirdrec.models.registry import build, config_type, model_type
from lirdrec.provenance import environment
from lirdrec.ranking.scorer_from_tensors import scorer_from_tensors
from lirdrec.recommender.feature_store import FeatureStore
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.run_folder import (
    REMEDY,
    VECTORS,
    Writer,
    check_new,
    open_run,
    read_errors,
    read_json,
    rewrite,
    run_lock,
    write_files,
    write_json,
)
from lirdrec.recommender.state import RunState, Stamp, make_histories

# errors that reading damaged files raises
DAMAGE = (
    *(KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError),
    *(DataError, pl.exceptions.PolarsError),
)
CONFIG = "config.json"
METRICS = "metrics.json"
DISLIKES = "dislikes.parquet"
WEIGHTS = "weights.safetensors"
COMPANIONS = ("history.jsonl", "curves.png", METRICS, "environment.json")  # not needed to load


def write_run(state: RunState, folder: str | Path, *, slim: bool = False, overwrite: bool = False) -> Stamp | None:
    """Write a run folder, completely or not at all; return the stamp of its manifest, by which a change is noticed.

    Args:
        state: the run.
        folder: where to write it.
        slim: write vectors and ids only.
        overwrite: replace a finished run.

    Raises:
        RunFolderError: the folder is not a run folder, has a run while `overwrite` is false, was changed by another
            process since `state` was loaded from it, or cannot be written.
    """
    folder = Path(folder)
    check_new(folder, overwrite)
    with run_lock(folder):
        check_new(folder, overwrite)  # another process may have written it since
        if state.folder is not None and state.folder.resolve() == folder.resolve():
            _check_unchanged(state, folder)
        write_files(folder, _writers(state, folder, slim))
        return manifest_stamp(folder)


def _check_unchanged(state: RunState, folder: Path) -> None:
    """Raise a RunFolderError if another process has changed the run in `folder` since it was loaded."""
    if state.saved is not None and manifest_stamp(folder) not in (state.saved, None):
        raise RunFolderError(
            f"{folder}: another process has changed this run since it was loaded; load it again and repeat the change,"
            " or save to another folder"
        )


def write_metrics(state: RunState) -> Stamp | None:
    """Write `state.info`, in which "metrics" has changed, to the run's folder; return the new stamp of its manifest.

    Without a folder nothing is written. For errors see `Recommender.record_metrics`.
    """
    folder = state.folder
    if folder is None:
        return state.saved
    with run_lock(folder):
        _check_unchanged(state, folder)
        config = read_json(resolve_path(folder, open_run(folder), CONFIG))
        config["info"] = state.info
        rewrite(
            folder,
            {
                CONFIG: lambda path: write_json(path, config),
                METRICS: lambda path: write_json(path, state.info["metrics"]),
            },
        )
        return manifest_stamp(folder)


def read_run(
    folder: str | Path, verify: bool = False, device: torch.device | str = "cpu", features: str | Path | None = None
) -> RunState:
    """Read what `write_run` wrote; for arguments and errors see `Recommender.load`."""
    folder = Path(folder)

    def read() -> RunState:
        before = manifest_stamp(folder)
        return replace(_read(folder, verify, device, features), folder=folder, saved=before)

    return read_stable(folder, read)


def _read(folder: Path, verify: bool, device: torch.device | str, features: str | Path | None) -> RunState:
    manifest = open_run(folder, verify)
    listed = manifest["files"]

    def path_of(name: str) -> Path:
        return resolve_path(folder, manifest, name)

    for name in (CONFIG, VECTORS, "users.parquet", "items.parquet"):
        if name not in listed:
            raise RunFolderError(f"{folder / MANIFEST} is damaged: it does not list {name}; train again")
    config = _read_config(path_of(CONFIG))
    items = _read_table(path_of("items.parquet"))
    train = None if config.get("slim") else _read_interactions(path_of("interactions.parquet"))
    try:
        scorer = scorer_from_tensors(_read_tensors(path_of(VECTORS), device), config["scorer"])
        users = IdMap(_read_table(path_of("users.parquet"))[USER], "user")
        state = RunState(
            scorer,
            users,
            IdMap(items[ITEM], "item"),
            items,
            train,
            None if train is None else make_histories(train, len(users), device, config.get("n_trained_pairs")),
            features=FeatureStore.read(folder, features, verify, manifest) if "features.json" in listed else None,
            weights=_read_tensors(path_of(WEIGHTS), "cpu") if WEIGHTS in listed else None,
            frames=config["frames"],
            info=config["info"],
            n_trained_items=config["n_trained_items"],
            n_trained_pairs=config.get("n_trained_pairs"),
            device=torch.device(device),
            dislikes=_read_interactions(path_of(DISLIKES)) if DISLIKES in listed else None,
        )
    except RunFolderError:
        raise
    except DAMAGE as error:
        raise RunFolderError(f"{folder} is damaged: {describe_error(error)}; {REMEDY}") from None
    n_users, n_items = len(state.users), len(state.items)
    if (scorer.n_users, scorer.n_items) != (n_users, n_items):
        raise RunFolderError(
            f"{folder} is damaged: it has vectors of {scorer.n_users:,} users and {scorer.n_items:,} items, "
            f"but ids of {n_users:,} and {n_items:,}; {REMEDY}"
        )
    return state


def _read_config(path: Path) -> dict[str, Any]:
    """Read the settings of a run from `config.json`, and check the types of the most important ones.

    Raises:
        RunFolderError: the file cannot be read, or an entry is missing or of a wrong type.
    """
    config = read_json(path)
    types = {"scorer": dict, "frames": str, "info": dict, "n_trained_items": int}
    for key, kind in types.items() if isinstance(config, dict) else (("settings", dict),):
        if not isinstance(config, dict) or not isinstance(config.get(key), kind) or isinstance(config[key], bool):
            raise RunFolderError(f"{path} is damaged: its entry '{key}' is missing or of a wrong type; {REMEDY}")
    return config


def _writers(state: RunState, folder: Path, slim: bool) -> dict[str, Writer]:
    vectors = state.scorer.tensors()
    if slim:  # tensors that only the model needs are named "memory." by the scorer
        vectors = {name: tensor for name, tensor in vectors.items() if not name.startswith("memory.")}
    config = {
        "slim": slim,
        "scorer": state.scorer.settings(),
        "n_trained_items": state.n_trained_items,
        "frames": state.frames,
        "info": state.info,
    }
    if state.n_trained_pairs is not None and not slim:
        config["n_trained_pairs"] = state.n_trained_pairs
    table = state.item_table.select(ITEM) if slim else state.item_table
    files: dict[str, Writer] = {
        CONFIG: lambda path: write_json(path, config),
        VECTORS: _tensor_writer(vectors),
        "users.parquet": _table_writer(pl.DataFrame({USER: state.users.series})),
        "items.parquet": _table_writer(table),
    }
    if not slim:
        assert state.train is not None
        if state.weights is not None:
            files[WEIGHTS] = _tensor_writer(state.weights)
        files["interactions.parquet"] = _table_writer(_interactions_table(state.train))
        if state.dislikes is not None:
            files[DISLIKES] = _table_writer(_interactions_table(state.dislikes))
        if state.features is not None:
            files |= state.features.writers(folder)
    return files | _companions(state, folder)


def _companions(state: RunState, folder: Path) -> dict[str, Writer]:
    """Return the writers of files about the training, which are not needed to load the run.

    The files are copied from the folder that the run was loaded from, or made from the facts of `state`.
    """
    files: dict[str, Writer] = {}
    source = state.folder
    for name in COMPANIONS:
        if source is not None and source.resolve() != folder.resolve() and (source / name).is_file():
            files[name] = _copy_writer(source / name)
    if "environment.json" not in files and not (folder / "environment.json").is_file():
        files["environment.json"] = lambda path: write_json(path, environment(state.info.get("seed")))
    metrics = state.info.get("metrics")
    if metrics:
        files[METRICS] = lambda path: write_json(path, metrics)
    return files


def _tensor_writer(tensors: Mapping[str, Tensor]) -> Writer:
    def write(path: Path) -> None:
        # safetensors refuses tensors that share memory or are not laid out row by row
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)
        share(path)

    return write


def _table_writer(table: pl.DataFrame) -> Writer:
    return lambda path: table.write_parquet(path)


def _copy_writer(source: Path) -> Writer:
    def write(path: Path) -> None:
        shutil.copyfile(source, path)

    return write


def _interactions_table(train: Interactions) -> pl.DataFrame:
    columns: dict[str, Any] = {USER: train.users, ITEM: train.items}
    if train.timestamps is not None:
        columns[TIMESTAMP] = train.timestamps
    if train.weights is not None:
        columns[WEIGHT] = train.weights
    return pl.DataFrame(columns)


def _read_interactions(path: Path) -> Interactions:
    table = _read_table(path)
    times, weights = (table[name].to_numpy() if name in table.columns else None for name in (TIMESTAMP, WEIGHT))
    try:
        return Interactions(table[USER].to_numpy(), table[ITEM].to_numpy(), times, weights)
    except (DataError, ValueError, TypeError, pl.exceptions.PolarsError) as error:
        raise RunFolderError(f"{path} is damaged: {describe_error(error)}; {REMEDY}") from None


def _read_table(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise RunFolderError(f"{path}: {describe_read_error(error, REMEDY)}") from None


def _read_tensors(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    with read_errors(path):
        return load_file(path, device=str(device))


_NO_PAIRS = Interactions(np.empty(0, np.int64), np.empty(0, np.int64))


def rebuild(state: RunState) -> Model:
    """Build the trained model of a run from its weights, on the run's device, in evaluation mode."""
    train = state.trained
    assert train is not None and state.features is not None and state.weights is not None
    n, name = state.n_trained_items, state.info["model"]
    dataset = Dataset(
        name=state.info.get("dataset", "run"),
        users=state.users,
        items=IdMap(state.items.series.head(n), state.items.entity),
        train=train,
        valid=_NO_PAIRS,
        test=_NO_PAIRS,
        features=state.features.blocks()[0] if model_type(name).capabilities.needs_features else {},
        item_table=state.item_table.head(n),
    )
    inputs = make_model_inputs(dataset, state.device, projections=state.features.projections)
    model = build(name, inputs, saved_config(config_type(name), state.info["model_config"], f"the run of {name}"))
    model.load_state_dict(dict(state.weights))
    return model.to(state.device).eval()
