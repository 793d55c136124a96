"""A prepared folder without some of its items: the tables and matrices that change, and what to say about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.atomic import write_errors
from lirdrec.data.columns import ITEM, SPLIT, SPLITS, USER
from lirdrec.data.dataset import USERS_MAY_LACK_TRAINING
from lirdrec.data.matrices import open_array
from lirdrec.data.storage import INTERACTIONS, ITEMS, check_files, placed, write_item_table, write_matrix
from lirdrec.errors import DataError
from lirdrec.features.store import CUT, KEYS, MASK, VALUES, file_name, read_frame


@dataclass(frozen=True)
class Dropped:
    """What leaving out items does to a dataset.

    Attributes:
        files: name in the manifest → the file that takes its place.
        counts: of the manifest.
        info: entries of `info` that change.
        told: counts: `items`, `pairs` that went with them, `users` who have no training pair left, and
            `held_out_pairs` of these users, which went too.
    """

    files: dict[str, Path]
    counts: dict[str, int]
    info: dict[str, Any]
    told: dict[str, int]


def drop_items(
    folder: Path,
    manifest: Mapping[str, Any],
    table: pl.DataFrame,
    keep: np.ndarray,
    to: Path,
    without: Collection[str] = (),
) -> Dropped:
    """Write the changed files of a dataset into a folder of their own.

    Users stay, even those without a pair: their rows are names that others may have noted.

    Args:
        folder, manifest: the prepared folder.
        table: its item table, as it is to be but for the items that go.
        keep: `(I,)` bool.
        to: where to write.
        without: matrices that are replaced anyway.

    Raises:
        DataError: no training pair would be left.
        RunFolderError: it cannot be written.
    """
    pairs = read_frame(folder, manifest, INTERACTIONS)
    rows = np.where(keep, np.cumsum(keep) - 1, -1)
    left = pairs.with_columns(pl.Series(ITEM, rows[pairs[ITEM].to_numpy()])).filter(pl.col(ITEM) >= 0)
    trained = left.filter(pl.col(SPLIT) == "train")[USER].unique()
    if trained.is_empty():
        raise DataError(f"{folder}: without the items that have no features there would be no training pair left")
    had = pairs.filter(pl.col(SPLIT) == "train")[USER].unique()
    lost = had.filter(~had.is_in(trained.implode()))
    told = {"items": int((~keep).sum()), "pairs": pairs.height - left.height, "users": len(lost), "held_out_pairs": 0}
    if _method(manifest) not in USERS_MAY_LACK_TRAINING:
        known = left.filter(~pl.col(USER).is_in(lost.implode()))
        told["held_out_pairs"], left = left.height - known.height, known
    files = {ITEMS: to / ITEMS, INTERACTIONS: to / INTERACTIONS}
    with write_errors(to):
        to.mkdir(parents=True, exist_ok=True)
        write_item_table(table.filter(pl.Series(keep)), files[ITEMS])
        left.write_parquet(files[INTERACTIONS])
        for matrix in set(manifest["features"]) - set(without):
            for ending in (VALUES, MASK, KEYS, CUT):
                name = file_name(matrix, ending)
                if name in manifest["files"]:
                    files[name] = to / f"{matrix}{ending}"
                    # the copy gets a checksum of its own, which would hide damage
                    check_files(folder, {**manifest, "files": {name: manifest["files"][name]}}, verify=True)
                    values = open_array(placed(folder, manifest, name))
                    write_matrix(values, files[name], keep)
    counts = manifest["counts"] | {"items": int(keep.sum())}
    counts |= {name: left.filter(pl.col(SPLIT) == name).height for name in SPLITS}
    before = manifest["info"].get("dropped_without_features", {})
    both = {key: number + before.get(key, 0) for key, number in told.items()}
    return Dropped(files, counts, {"dropped_without_features": both}, told)


def _method(manifest: Mapping[str, Any]) -> str | None:
    split = manifest["info"].get("split")
    return split.get("method") if isinstance(split, Mapping) else None
