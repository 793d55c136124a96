"""From raw tables to a `Dataset`: ids, rating threshold, repeated pairs, k-core, features in item order, split."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from lirdrec.configuration import make, nearest
from lirdrec.data.aligning import FeatureFile, align, as_feature_file, same_type
from lirdrec.data.columns import ITEM, SPLITS, USER
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.frames import FrameKind, to_polars
from lirdrec.data.identifiers import IdMap, clean_ids, count, describe_ids, text_ids
from lirdrec.data.preparation import distinct_pairs, k_core
from lirdrec.data.recipe import Recipe
from lirdrec.data.splits import METHODS, given_labels, split_labels
from lirdrec.data.tables import Table
from lirdrec.errors import DataError

logger = logging.getLogger(__name__)


def from_frames(
    interactions: Any,
    *,
    items: Any = None,
    features: Mapping[str, Any] | None = None,
    name: str = "dataset",
    info: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """A dataset from frames in memory.

    Args:
        interactions: pandas, polars or Arrow frame with a row per interaction.
        items: frame with a row per item and whatever columns there are; its order becomes the order of rows.
            Without it the items are those of the interactions, sorted.
        features: name → `(ids, matrix)`, or a matrix with a row per row of `items`, or a frame with the item column
            and one column of vectors, or the path of a feature file. Items that are not named lack the modality.
        name: of the dataset.
        info: what else to record (source, licence …).
        options: fields of `Recipe`: user, item, rating, min_rating, timestamp, string_ids, without_features,
            unknown_features, k_core, keep_all_items, split, held_out, seed.

    Raises:
        DataError: something is wrong with the data; says what, where and what to do.
        ConfigError: an unknown option, or one out of range.
    """
    recipe = make(Recipe, options, "from_frames")
    frame, kind = to_polars(interactions)
    item_table = None if items is None else Table(to_polars(items)[0], "the item table")
    files = {key: as_feature_file(value, f"features '{key}'", recipe.item) for key, value in (features or {}).items()}
    return build(Table(frame, "the interactions"), item_table, files, recipe, name, info or {}, kind)


def build(
    table: Table,
    items: Table | None,
    features: Mapping[str, FeatureFile],
    recipe: Recipe,
    name: str,
    info: Mapping[str, Any],
    kind: FrameKind = "polars",
) -> Dataset:
    """Follow the recipe. `table`, `items` and `features` are what was read; see `from_frames` for the errors."""
    label_column = recipe.split if recipe.split not in METHODS else None
    if label_column is not None and label_column not in table.frame.columns:
        columns = table.frame.columns
        choice = f"choose one of {', '.join(METHODS)}, or a column of labels; it has {', '.join(columns)}"
        raise DataError(
            f"{table.where}: '{label_column}' is neither a way to split nor a column;"
            f" {nearest(label_column, [*METHODS, *columns], choice)}"
        )
    needed = [recipe.user, recipe.item, recipe.timestamp, recipe.rating, label_column]
    table.need([column for column in needed if column is not None])
    if table.frame.height == 0:
        raise DataError(f"{table.where}: there are no rows")
    counts: dict[str, Any] = {"rows": table.frame.height}
    if recipe.min_rating is not None and recipe.rating is not None:
        # rows are numbered before any is left out, so that messages name the line in the file
        enough = numbers(table, recipe.rating) >= recipe.min_rating
        counts |= {"rating": recipe.rating, "min_rating": recipe.min_rating, "below_min_rating": int((~enough).sum())}
    else:
        enough = np.ones(table.frame.height, dtype=bool)
    user_ids = _ids(table, recipe.user, USER, recipe.string_ids)
    item_ids = _ids(table, recipe.item, ITEM, recipe.string_ids)
    times = None if recipe.timestamp is None else moments(table, recipe.timestamp)
    labels = None
    if label_column is not None:
        labels = given_labels(table.frame[label_column], table.where, table.row_word, table.first_row)

    catalogue, described = _catalogue(table, items, item_ids, recipe)
    all_users = IdMap(user_ids.unique().sort(), USER)
    users, rows = all_users.rows(user_ids)[enough], catalogue.rows(same_type(item_ids, catalogue.series.dtype))[enough]
    if labels is not None:
        labels = labels[enough]
        _check_labels(users, rows, labels, all_users, catalogue, table.where)
    users, rows, times, kept = distinct_pairs(users, rows, None if times is None else times[enough])
    counts["repeated_pairs"] = int(enough.sum()) - len(users)

    drop = recipe.unknown_features == "drop"
    aligned = {key: align(file, catalogue, f"features '{key}'", drop) for key, file in features.items()}
    stays = np.ones(len(catalogue), dtype=bool)
    if aligned and recipe.without_features == "drop":
        stays = np.any([one.present for one in aligned.values()], axis=0)
        counts["items_without_features_dropped"] = int((~stays).sum())
    keep = stays[rows]
    if recipe.k_core > 1:
        core = np.zeros(len(keep), dtype=bool)
        core[keep] = k_core(users[keep], rows[keep], recipe.k_core)
        counts |= {"k_core": recipe.k_core, "removed_by_k_core": int((keep & ~core).sum())}
        keep = core
    if not keep.any():
        raise DataError(f"{table.where}: no interaction is left after preparation ({_words(counts)}); ask for less")
    users, rows = users[keep], rows[keep]
    times = None if times is None else times[keep]
    keep_all = recipe.keep_all_items
    if not (recipe.k_core <= 1 and items is not None if keep_all is None else keep_all):
        seen = np.zeros(len(catalogue), dtype=bool)
        seen[rows] = True
        stays = stays & seen

    user_map, users = _renumber(all_users, users)
    item_map = IdMap(catalogue.series.filter(pl.Series(stays)), ITEM)
    rows = (np.cumsum(stays) - 1)[rows]
    split: dict[str, Any]
    if labels is not None:
        codes, split = labels[kept][keep], {"method": "label", "column": recipe.split}
    else:
        method = recipe.split or "none"
        codes = split_labels(method, users, rows, times, recipe.seed, recipe.held_out)
        split = {"method": method, "seed": recipe.seed, "held_out": recipe.held_out}
    parts = [
        Interactions(users[codes == code], rows[codes == code], None if times is None else times[codes == code])
        for code in range(3)
    ]
    split["users_without_training"] = len(np.setdiff1d(users, parts[0].users))
    logger.info("%s: %s", name, _words(counts))
    return Dataset(
        name,
        user_map,
        item_map,
        parts[0],
        parts[1],
        parts[2],
        features={key: one.take(stays) for key, one in aligned.items()},
        item_table=described.filter(pl.Series(stays)),
        info={**info, "preparation": counts, "split": split},
        frame_kind=kind,
    )


def resplit(dataset: Dataset, split: str, seed: int = 0, held_out: float = 0.2) -> Dataset:
    """The same pairs, items and features under another split.

    Args:
        dataset: any dataset; its three splits are taken together.
        split: one of `lirdrec.data.splits.METHODS`.
        seed: of the split.
        held_out: the share to hold out, half of it for valid.

    Raises:
        DataError: an unknown method, or one that needs timestamps that the dataset lacks.
    """
    parts = [dataset.split(name) for name in SPLITS]
    users, rows = (np.concatenate([getattr(part, what) for part in parts]) for what in ("users", "items"))
    known = [part.timestamps for part in parts if part.timestamps is not None]
    users, rows, times, _ = distinct_pairs(users, rows, np.concatenate(known) if len(known) == len(parts) else None)
    codes = split_labels(split, users, rows, times, seed, held_out)
    new = [
        Interactions(users[codes == code], rows[codes == code], None if times is None else times[codes == code])
        for code in range(3)
    ]
    record = {
        "method": split,
        "seed": seed,
        "held_out": held_out,
        "users_without_training": len(np.setdiff1d(users, new[0].users)),
    }
    return dataclasses.replace(
        dataset, train=new[0], valid=new[1], test=new[2], info={**dataset.info, "split": record}, folder=None
    )


def numbers(table: Table, column: str) -> np.ndarray:
    """A column of numbers `(N,)` float64; raises a DataError naming the first row that has none."""
    series = table.frame[column]
    if not (series.dtype.is_numeric() or series.dtype == pl.String):
        raise DataError(f"{table.where}: column '{column}' holds {series.dtype}, not numbers")
    values = series.cast(pl.Float64, strict=False)
    bad = values.is_null() | values.is_nan()
    if bad.any():
        raise DataError(
            f"{table.where}: column '{column}' has {series[bad.arg_true()[0]]!r} in {table.at(bad)}, not a number"
        )
    return values.to_numpy()


def moments(table: Table, column: str) -> np.ndarray:
    """A column of times `(N,)` int64: whole numbers as they are, dates and ISO texts as microseconds since 1970.

    Raises:
        DataError: a value that is neither, or none; names the row.
    """
    series = table.frame[column]
    if series.dtype in (pl.Date, pl.Datetime):
        values = series.cast(pl.Datetime("us")).cast(pl.Int64)
    elif series.dtype == pl.String:
        values = series.cast(pl.Int64, strict=False)
        if values.null_count():
            decimal = series.cast(pl.Float64, strict=False)
            if decimal.null_count() == 0:
                values = _whole(decimal)
            else:
                with contextlib.suppress(pl.exceptions.PolarsError):  # not a format that polars can infer
                    values = series.str.to_datetime(strict=False, time_unit="us").cast(pl.Int64)
    elif series.dtype.is_float():
        values = _whole(series)
    elif series.dtype.is_integer():
        values = series.cast(pl.Int64, strict=False)
    else:
        raise DataError(f"{table.where}: column '{column}' holds {series.dtype}, not times")
    if values.null_count():
        bad = values.is_null()
        raise DataError(
            f"{table.where}: column '{column}' has {series[bad.arg_true()[0]]!r} in {table.at(bad)};"
            " times must be whole numbers or dates like 2024-05-31T12:00:00"
        )
    return values.to_numpy()


def _whole(values: pl.Series) -> pl.Series:
    return (
        pl.select(pl.when(values.is_finite() & (values == values.floor())).then(values))
        .to_series()
        .cast(pl.Int64, strict=False)
    )


def _ids(table: Table, column: str, what: str, string_ids: bool) -> pl.Series:
    where = f"{table.where}, column '{column}'"
    series = table.frame[column]
    if table.text and series.dtype == pl.String and not string_ids:
        return text_ids(series, where, what, table.first_row, table.row_word)
    return clean_ids(series, where, what, table.first_row, table.row_word)


def _catalogue(table: Table, items: Table | None, item_ids: pl.Series, recipe: Recipe) -> tuple[IdMap, pl.DataFrame]:
    """All items before any is left out, and the item table with `item` first."""
    if items is None:
        ids = IdMap(item_ids.unique().sort(), ITEM)
        return ids, pl.DataFrame({ITEM: ids.series})
    items.need([recipe.item])
    series = _ids(items, recipe.item, ITEM, recipe.string_ids)
    if series.dtype != item_ids.dtype:
        if not (items.text or table.text):
            raise DataError(
                f"the item ids are {item_ids.dtype} in {table.where} and {series.dtype} in {items.where};"
                " make them the same type"
            )
        series = series.cast(pl.String)
    if (repeated := series.is_duplicated()).any():
        raise DataError(
            f"{items.where}: item id {series[repeated.arg_true()[0]]!r} occurs more than once (first in"
            f" {items.at(repeated)}); keep one row per item"
        )
    ids = IdMap(series, ITEM)
    unknown = ids.rows(same_type(item_ids, series.dtype)) < 0
    if unknown.any():
        missing = item_ids.filter(pl.Series(unknown)).unique().sort()
        raise DataError(
            f"{table.where}: {count(len(missing), 'item')} not in {items.where}: {describe_ids(missing)};"
            " add them there or leave their rows out"
        )
    rest = items.frame.drop(recipe.item)
    if ITEM in rest.columns:  # the ids have this name
        free = f"{ITEM}_"
        while free in rest.columns:
            free += "_"
        rest = rest.rename({ITEM: free})
    return ids, rest.select(ids.series.alias(ITEM), pl.all()) if rest.columns else pl.DataFrame({ITEM: ids.series})


def _check_labels(
    users: np.ndarray, items: np.ndarray, labels: np.ndarray, user_map: IdMap, item_map: IdMap, where: str
) -> None:
    """A pair that is repeated under two labels would leak the test into training."""
    order = np.lexsort((labels, items, users))
    u, i, s = users[order], items[order], labels[order]
    twice = np.flatnonzero((u[1:] == u[:-1]) & (i[1:] == i[:-1]) & (s[1:] != s[:-1]))
    if len(twice):
        at = twice[0]
        raise DataError(
            f"{where}: {count(len(twice), 'pair')} in two splits, for instance user {user_map.ids[u[at]]} and item"
            f" {item_map.ids[i[at]]}; keep each pair in one"
        )


def _renumber(ids: IdMap, rows: np.ndarray) -> tuple[IdMap, np.ndarray]:
    """Keep only the ids that occur in `rows`, in order."""
    present = np.zeros(len(ids), dtype=bool)
    present[rows] = True
    return IdMap(ids.series.filter(pl.Series(present)), ids.what), (np.cumsum(present) - 1)[rows]


def _words(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in counts.items())
