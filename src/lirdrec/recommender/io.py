"""Which files a `Recommender` is kept in, and how it comes back from them (docs/architecture.md, "What is written")."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lirdrec.data.dataset import Interactions
from lirdrec.data.ids import IdMap
from lirdrec.data.schema import ITEM, TIMESTAMP, USER
from lirdrec.errors import DataError, RunFolderError, reason, unreadable
from lirdrec.files.atomic import share
from lirdrec.files.manifest import resolve_path, stamp
from lirdrec.files.transaction import read_stable
from lirdrec.provenance import environment
from lirdrec.ranking.scorers import Scorer
from lirdrec.recommender.feature_store import FeatureStore
from lirdrec.recommender.rebuild import rebuild
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.run_folder import (
    MANIFEST,
    REMEDY,
    VECTORS,
    Writer,
    check_new,
    open_run,
    read_errors,
    read_json,
    rewrite,
    run_lock,
    write_json,
    write_run,
)

# what the readers of our own files raise where the files are not what was written
DAMAGE = (
    *(KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError),
    *(DataError, pl.exceptions.PolarsError),
)
CONFIG = "config.json"
METRICS = "metrics.json"
WEIGHTS = "weights.safetensors"
COMPANIONS = ("history.jsonl", "curves.png", METRICS, "environment.json")  # not needed to load


def save(recommender: Recommender, folder: str | Path, *, slim: bool = False, overwrite: bool = False) -> Path:
    """Write `recommender` to `folder`; see `Recommender.save` and `Recommender.slim`."""
    folder = Path(folder)
    check_new(folder, overwrite)
    with run_lock(folder):
        check_new(folder, overwrite)  # another process may have written it since
        if recommender.folder is not None and recommender.folder.resolve() == folder.resolve():
            _refuse_changed(recommender, folder)
        write_run(folder, _writers(recommender, folder, slim))
        if not slim:
            recommender.folder, recommender.saved = folder, stamp(folder)
    return folder


def _refuse_changed(recommender: Recommender, folder: Path) -> None:
    """Refuse to write over what another process has changed in the run since it was loaded."""
    if recommender.saved is not None and stamp(folder) not in (recommender.saved, None):
        raise RunFolderError(
            f"{folder}: another process has changed this run since it was loaded; load it again and repeat the change,"
            " or save to another folder"
        )


def record_metrics(recommender: Recommender, split: str, values: Mapping[str, float]) -> None:
    """Keep figures with the recommender; see `Recommender.record_metrics`."""
    metrics = {**recommender.info.get("metrics", {}), split: dict(values)}
    recommender.info["metrics"] = metrics
    folder = recommender.folder
    if folder is None:
        return
    with run_lock(folder):
        _refuse_changed(recommender, folder)
        config = read_json(resolve_path(folder, open_run(folder), CONFIG))
        config["info"] = recommender.info
        rewrite(
            folder,
            {CONFIG: lambda path: write_json(path, config), METRICS: lambda path: write_json(path, metrics)},
        )
        recommender.saved = stamp(folder)


def load(
    folder: str | Path, verify: bool = False, device: torch.device | str = "cpu", features: str | Path | None = None
) -> Recommender:
    """Read what `save` wrote; see `Recommender.load`."""
    folder = Path(folder)

    def read() -> Recommender:
        before = stamp(folder)
        loaded = _load(folder, verify, device, features)
        loaded.folder, loaded.saved = folder, before
        return loaded

    return read_stable(folder, read)


def _load(folder: Path, verify: bool, device: torch.device | str, features: str | Path | None) -> Recommender:
    manifest = open_run(folder, verify)
    listed = manifest["files"]

    def at(name: str) -> Path:
        return resolve_path(folder, manifest, name)

    for name in (CONFIG, VECTORS, "users.parquet", "items.parquet"):
        if name not in listed:
            raise RunFolderError(f"{folder / MANIFEST}: is damaged: it does not list {name}; train again")
    config = _config(at(CONFIG))
    slim = bool(config.get("slim"))
    items = _read_table(at("items.parquet"))
    train = None if slim else _read_pairs(at("interactions.parquet"))
    try:
        scorer = Scorer.from_tensors(_read_tensors(at(VECTORS), device), config["scorer"])
        made = Recommender(
            scorer,
            IdMap(_read_table(at("users.parquet"))[USER], "user"),
            IdMap(items[ITEM], "item"),
            items,
            train,
            model=rebuild if WEIGHTS in listed else None,
            weights=_read_tensors(at(WEIGHTS), "cpu") if WEIGHTS in listed else None,
            features=FeatureStore.read(folder, features, verify, manifest) if "features.json" in listed else None,
            frames=config["frames"],
            info=config["info"],
            n_trained_items=config["n_trained_items"],
            device=device,
        )
    except RunFolderError:
        raise
    except DAMAGE as error:
        raise RunFolderError(f"{folder}: is damaged: {reason(error)}; {REMEDY}") from None
    if (scorer.n_users, scorer.n_items) != (made.n_users, made.n_items):
        raise RunFolderError(
            f"{folder}: is damaged: vectors of {scorer.n_users:,} users and {scorer.n_items:,} items, "
            f"but ids of {made.n_users:,} and {made.n_items:,}; {REMEDY}"
        )
    return made


def _config(path: Path) -> dict[str, Any]:
    """The run's settings, after a look at their types."""
    config = read_json(path)
    types = {"scorer": dict, "frames": str, "info": dict, "n_trained_items": int}
    for key, kind in types.items() if isinstance(config, dict) else (("settings", dict),):
        if not isinstance(config, dict) or not isinstance(config.get(key), kind) or isinstance(config[key], bool):
            raise RunFolderError(f"{path}: is damaged: its entry '{key}' is missing or of a wrong type; {REMEDY}")
    return config


def _writers(recommender: Recommender, folder: Path, slim: bool) -> dict[str, Writer]:
    scorer = recommender.scorer
    vectors = scorer.tensors()
    if slim:  # what only the model needs is named "memory." by the scorer
        vectors = {name: tensor for name, tensor in vectors.items() if not name.startswith("memory.")}
    config = {
        "slim": slim,
        "scorer": scorer.settings(),
        "n_trained_items": recommender.n_trained_items,
        "frames": recommender.frames,
        "info": recommender.info,
    }
    table = recommender.item_table.select(ITEM) if slim else recommender.item_table
    files: dict[str, Writer] = {
        CONFIG: lambda path: write_json(path, config),
        VECTORS: _tensor_writer(vectors),
        "users.parquet": _table_writer(pl.DataFrame({USER: recommender.users.series})),
        "items.parquet": _table_writer(table),
    }
    if not slim:
        assert recommender.train is not None
        if recommender.has_model:
            files[WEIGHTS] = _tensor_writer(recommender.weights())
        files["interactions.parquet"] = _table_writer(_pairs_table(recommender.train))
        if recommender.features is not None:
            files |= recommender.features.writers(folder)
    return files | _companions(recommender, folder)


def _companions(recommender: Recommender, folder: Path) -> dict[str, Writer]:
    """Files about the training: those of the folder that the recommender came from, or made from what is known."""
    files: dict[str, Writer] = {}
    source = recommender.folder
    for name in COMPANIONS:
        if source is not None and source.resolve() != folder.resolve() and (source / name).is_file():
            files[name] = _copy_writer(source / name)
    if "environment.json" not in files and not (folder / "environment.json").is_file():
        files["environment.json"] = lambda path: write_json(path, environment(recommender.info.get("seed")))
    metrics = recommender.info.get("metrics")
    if metrics:
        files[METRICS] = lambda path: write_json(path, metrics)
    return files


def _tensor_writer(tensors: dict[str, Tensor]) -> Writer:
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


def _pairs_table(pairs: Interactions) -> pl.DataFrame:
    columns: dict[str, Any] = {USER: pairs.users, ITEM: pairs.items}
    if pairs.timestamps is not None:
        columns[TIMESTAMP] = pairs.timestamps
    return pl.DataFrame(columns)


def _read_pairs(path: Path) -> Interactions:
    table = _read_table(path)
    times = table[TIMESTAMP].to_numpy() if TIMESTAMP in table.columns else None
    try:
        return Interactions(table[USER].to_numpy(), table[ITEM].to_numpy(), times)
    except (DataError, ValueError, TypeError, pl.exceptions.PolarsError) as error:
        raise RunFolderError(f"{path}: is damaged: {reason(error)}; {REMEDY}") from None


def _read_table(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise RunFolderError(f"{path}: {unreadable(error, REMEDY)}") from None


def _read_tensors(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    with read_errors(path):
        return load_file(path, device=str(device))
