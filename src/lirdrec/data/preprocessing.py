"""Preprocessing of raw tables: ids, rating threshold, duplicate pairs, k-core, feature alignment, split."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from lirdrec.config import suggest_name
from lirdrec.data.alignment import Aligned, FeatureFile, align, as_feature_file, same_type
from lirdrec.data.column_names import ITEM, RATING, TITLE, USER, unused_name
from lirdrec.data.dataset_base import DatasetParts, Interactions
from lirdrec.data.features import check_name
from lirdrec.data.frames import FrameKind, to_polars
from lirdrec.data.ids import IdMap, describe_ids
from lirdrec.data.interaction_filters import distinct_pairs, in_words, k_core, keep_only
from lirdrec.data.interaction_weights import row_weights, summed_weights
from lirdrec.data.positions_or_times import POSITIONS, are_positions, row_positions, timestamps_are_times
from lirdrec.data.preprocessing_config import PreprocessingConfig, make_preprocessing_config
from lirdrec.data.raw_ids import read_ids
from lirdrec.data.splits import METHODS, ONE_CLOCK, TIMED, given_labels, is_split_by_time, split_labels
from lirdrec.data.table_with_source import Table, column_of_ids
from lirdrec.data.value_parsing import drop_bad_items, drop_bad_rows, parse_ids, parse_numbers, parse_times
from lirdrec.errors import ConfigError, DataError
from lirdrec.option_names import option_name, option_text
from lirdrec.wording import pluralize

logger = logging.getLogger(__name__)

FILTERS = {  # key of a count → words for the rows that were removed, and the option that removes them
    "other_rows": ("with other values", "only"),
    "bad_rows_skipped": ("bad", "bad_rows"),
    "below_min_rating": ("rated lower", "min_rating"),
    "rows_of_ignored_events": ("of events with weight 0", "event_weights"),
    "dislikes": ("with a weight of 0 or less", "weight"),
    "rows_of_unknown_items_dropped": ("of items that the item table lacks", "unknown_items"),
    "repeated_pairs": ("repeated", None),
    "removed_by_k_core": ("of users or items with too few others", "k_core"),
}


def from_frames(
    interactions: Any,
    *,
    items: Any = None,
    features: Mapping[str, Any] | None = None,
    name: str = "dataset",
    info: Mapping[str, Any] | None = None,
    **options: Any,
) -> DatasetParts:
    """Make the parts of a dataset from frames; `Dataset.from_frames` describes the arguments and errors."""
    config = make_preprocessing_config(options, "from_frames")
    frame, kind = to_polars(interactions)
    item_table = None if items is None else Table(to_polars(items)[0], "the item table")
    files = {key: as_feature_file(value, f"features '{key}'", config.item) for key, value in (features or {}).items()}
    return build(Table(frame, "the interactions"), item_table, files, config, name, info or {}, kind)


def from_sparse(
    matrix: Any,
    user_ids: Any = None,
    item_ids: Any = None,
    *,
    items: Any = None,
    min_rating: float | None = None,
    **options: Any,
) -> DatasetParts:
    """Make the parts of a dataset from a sparse matrix; `Dataset.from_sparse` describes the arguments and errors."""
    if isinstance(matrix, np.ndarray) and matrix.ndim == 2 and matrix.dtype.kind in "biuf":
        rows, columns = np.nonzero(matrix)
        values = matrix[rows, columns].astype(np.float64)
    elif hasattr(matrix, "tocsr") and len(matrix.shape) == 2:
        entries = matrix.tocsr().tocoo()  # sums up duplicate entries
        stored = entries.data != 0
        rows, columns, values = entries.row[stored], entries.col[stored], entries.data[stored].astype(np.float64)
    else:
        raise DataError(
            f"the matrix is of type {type(matrix).__name__}; give a SciPy sparse matrix or a NumPy array with a row per"
            " user and a column per item"
        )
    if not np.isfinite(values).all():
        raise DataError(
            "the matrix has NaN or infinite entries; entries must be finite numbers, 0 without an interaction"
        )
    ids = {}
    axes = ((USER, user_ids, "rows"), (ITEM, item_ids, "columns"))
    for (entity, given, axis), size in zip(axes, matrix.shape, strict=True):
        ids[entity] = read_ids(np.arange(size) if given is None else given, f"{entity}_ids", entity)
        if len(ids[entity]) != size:
            raise DataError(f"{entity}_ids: {pluralize(len(ids[entity]), 'id')}, but the matrix has {size:,} {axis}")
        IdMap(ids[entity], entity)  # raises an error if an id is repeated
    for option in (USER, ITEM, RATING, "timestamp", "order"):
        if option in options:
            lacks = "no order of interactions" if option == "order" else f"no column '{option}'"
            raise ConfigError(f"from_sparse: a matrix has {lacks}; leave the option {option} out")
    if min_rating is not None:
        options |= {"rating": RATING, "min_rating": min_rating}
    pairs = {USER: ids[USER].gather(rows), ITEM: ids[ITEM].gather(columns), RATING: values}
    items = pl.DataFrame({ITEM: ids[ITEM]}) if items is None else items
    return from_frames(pl.DataFrame(pairs), items=items, **options)


def build(
    table: Table,
    items: Table | None,
    features: Mapping[str, FeatureFile],
    config: PreprocessingConfig,
    name: str,
    info: Mapping[str, Any],
    kind: FrameKind = "polars",
) -> DatasetParts:
    """Build the parts of a dataset from tables; raises the errors of `Dataset.from_frames`.

    Args:
        table: the interactions.
        items: the item table, or None.
        features: name → contents of a feature file.
        config: preprocessing options.
        name, info: name and metadata of the dataset.
        kind: the kind of frame that `Dataset.frame` returns.
    """
    _check_columns(table, items, config)
    counts: dict[str, Any] = {"rows": table.frame.height + table.skipped}
    counts |= _unused_columns(table, config)
    table = _good_rows(table, config, counts)
    is_rated = _rated_enough(table, config, counts)
    pairs, labels, users, catalog, item_table, items = _numbered(table, items, config, is_rated, counts)

    aligned = _aligned(features, catalog, config, items)
    keep = np.ones(len(catalog), dtype=bool)
    if aligned and config.without_features == "drop":
        keep = np.any([matrix.present for matrix in aligned.values()], axis=0)
        counts["items_without_features_dropped"] = int((~keep).sum())
    remaining = _core(pairs, keep[pairs.items] & (pairs.known_weights() > 0), config, counts)
    if not remaining.any():
        raise DataError(f"{table.source}: {_nothing_left(counts)}")
    everything, pairs, labels = pairs, pairs.take(remaining), None if labels is None else labels[remaining]
    keep = _items_to_keep(keep, pairs.items, items, config, counts)

    has_pairs = np.bincount(pairs.users, minlength=len(users)) > 0
    user_rows, item_rows = ((np.cumsum(mask) - 1) for mask in (has_pairs, keep))
    pairs = pairs.with_rows(user_rows[pairs.users], item_rows[pairs.items])
    dislikes = _dislikes(everything, has_pairs, keep, counts)
    if dislikes is not None:
        dislikes = dislikes.with_rows(user_rows[dislikes.users], item_rows[dislikes.items])
    if "order" in counts:
        info = {**info, "timestamps": POSITIONS}
    if items is not None and (columns := config.named_columns):
        info = {**info, "columns": columns}
    splits, split = _split(pairs, labels, config, timestamps_are_times(info))
    logger.info("%s: %s", name, ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in counts.items()))
    return DatasetParts(
        name,
        IdMap(users.series.filter(pl.Series(has_pairs)), USER),
        IdMap(catalog.series.filter(pl.Series(keep)), ITEM),
        *splits,
        features={key: matrix.take(keep) for key, matrix in aligned.items()},
        item_table=item_table.filter(pl.Series(keep)),
        info={**info, "preparation": counts, "split": split},
        frame_kind=kind,
        dislikes=dislikes,
    )


def _dislikes(pairs: Interactions, users: np.ndarray, items: np.ndarray, counts: dict[str, Any]) -> Interactions | None:
    """Return the pairs with a weight of 0 or less whose user and item are kept, or None; add their number to `counts`.

    `users` `(U,)` and `items` `(I,)` bool say which users and items are kept.
    """
    is_dislike = pairs.known_weights() <= 0
    if not is_dislike.any():
        return None
    dislikes = pairs.take(is_dislike & users[pairs.users] & items[pairs.items])
    counts["dislikes"] = len(dislikes)
    return dislikes if len(dislikes) else None


def _label_column(config: PreprocessingConfig) -> str | None:
    """Return the column of split labels, or None if the data are split by a method."""
    return config.split if config.split not in METHODS else None


def _named_columns(config: PreprocessingConfig) -> list[str]:
    """Return the names of the columns of the interactions that preprocessing reads, except those of `only`."""
    named = (config.user, config.item, config.timestamp, config.rating, config.weight, config.event)
    return [column for column in (*named, _label_column(config)) if column is not None]


def _unused_columns(table: Table, config: PreprocessingConfig) -> dict[str, list[str]]:
    """Return `{"unused_columns": columns that no option names}`; empty if all columns of the interactions are used."""
    used = {*_named_columns(config), *(config.only or ())}
    unused = [column for column in table.frame.columns if column not in used]
    return {"unused_columns": unused} if unused else {}


def _check_columns(table: Table, items: Table | None, config: PreprocessingConfig) -> None:
    """Raise an error unless the table has rows and all columns that the configuration names."""
    label_column = _label_column(config)
    columns = table.frame.columns
    if label_column is not None and label_column not in columns:
        choice = f"choose one of {', '.join(METHODS)}, or a column of labels; the columns are {', '.join(columns)}"
        raise DataError(
            f"{table.source}: '{label_column}' is neither a split method nor a column;"
            f" {suggest_name(label_column, [*METHODS, *columns], choice)}"
        )
    table.require_columns(_named_columns(config))
    if config.title is not None and items is None:
        raise ConfigError(
            f"{option_name('title')} names the column '{config.title}', but there is no item table; give one"
            f" ({option_text('items', 'FILE')})"
        )
    if table.frame.height == 0:
        raise DataError(f"{table.source}: there are no rows")


def _good_rows(table: Table, config: PreprocessingConfig, counts: dict[str, Any]) -> Table:
    """Return the table without rows that `only` excludes and without bad rows; add their numbers to `counts`."""
    if config.only:
        n_rows, table = table.frame.height, keep_only(table, config.only)
        kept = pluralize(table.frame.height, "row")
        logger.info("%s: %s of %s with %s", table.source, kept, f"{n_rows:,}", in_words(config.only))
        counts |= {"only": in_words(config.only), "other_rows": n_rows - table.frame.height}
    table, skipped = drop_bad_rows(table, config)
    if skipped := skipped + table.skipped:
        counts["bad_rows_skipped"] = skipped
    return table


def _rated_enough(table: Table, config: PreprocessingConfig, counts: dict[str, Any]) -> np.ndarray:
    """Return which rows have at least the rating `min_rating`, `(N,)` bool.

    No row is removed, so that later messages name the right line.
    """
    if config.min_rating is None or config.rating is None:
        return np.ones(table.frame.height, dtype=bool)
    enough = parse_numbers(table, config.rating) >= config.min_rating
    counts |= {"rating": config.rating, "min_rating": config.min_rating, "below_min_rating": int((~enough).sum())}
    return enough


def _numbered(
    table: Table, items: Table | None, config: PreprocessingConfig, keep: np.ndarray, counts: dict[str, Any]
) -> tuple[Interactions, np.ndarray | None, IdMap, IdMap, pl.DataFrame, Table | None]:
    """Convert ids to rows, and merge the rows of repeated pairs.

    Returns the distinct interactions of the rows in `keep`; their split labels, or None; all users; all items; the item
    table in the order of the items; and the item table as read without its bad rows, or None.
    """
    user_ids = parse_ids(table, config.user, USER, config.string_ids)
    item_ids = parse_ids(table, config.item, ITEM, config.string_ids)
    times = None if config.timestamp is None else parse_times(table, config.timestamp, config.time_format)
    labels, label_column = None, _label_column(config)
    if label_column is not None:
        labels = given_labels(table.frame[label_column], table.source, table.row_location)
    if items is not None:
        _require_item_ids(items, config.items_column, item_ids)
        items, skipped = drop_bad_items(items, config)
        if skipped := skipped + items.skipped:
            counts["bad_item_rows_skipped"] = skipped
    catalog, item_table = _catalog(table, items, item_ids, config)
    users = IdMap(user_ids.unique().sort(), USER)
    rows = catalog.rows(same_type(item_ids, catalog.series.dtype))
    if not (listed := rows >= 0).all():  # only with unknown_items="drop"
        counts["rows_of_unknown_items_dropped"] = int((~listed & keep).sum())
        keep = keep & listed
    weights, keep = row_weights(table, config, times, keep, counts)
    pairs = Interactions(users.rows(user_ids), rows, times)
    if config.order is not None or (times is not None and are_positions(pairs.users, times)):
        counts["order"] = config.order or POSITIONS
    pairs = pairs.take(keep)
    if config.order is not None:
        pairs = replace(pairs, timestamps=row_positions(pairs.users))
    if labels is not None:
        labels = labels[keep]
        _check_labels(pairs, labels, users, catalog, table.source)
    *_, first = distinct_pairs(pairs.users, pairs.items, pairs.timestamps)
    counts["repeated_pairs"] = int(keep.sum()) - len(first)
    if weights is not None:
        weights = summed_weights(pairs.users, pairs.items, weights[keep])
        if n_dislikes := int((weights <= 0).sum()):
            counts["dislikes"] = n_dislikes
    pairs = replace(pairs.take(first), weights=weights)
    if config.split in TIMED and pairs.timestamps is not None:  # pairs with equal times keep the order of the rows
        by_time = np.lexsort((first, pairs.timestamps, pairs.users))
        pairs, first = pairs.take(by_time), first[by_time]
    return pairs, None if labels is None else labels[first], users, catalog, item_table, items


def _core(pairs: Interactions, keep: np.ndarray, config: PreprocessingConfig, counts: dict[str, Any]) -> np.ndarray:
    """Return which of the interactions in `keep` remain after the k-core filter, `(E,)` bool."""
    if config.k_core <= 1:
        return keep
    core = np.zeros(len(keep), dtype=bool)
    core[keep] = k_core(pairs.users[keep], pairs.items[keep], config.k_core)
    counts |= {"k_core": config.k_core, "removed_by_k_core": int((keep & ~core).sum())}
    counts["users_removed_by_k_core"] = len(np.unique(pairs.users[keep])) - len(np.unique(pairs.users[core]))
    return core


def _items_to_keep(
    keep: np.ndarray, rows: np.ndarray, items: Table | None, config: PreprocessingConfig, counts: dict[str, Any]
) -> np.ndarray:
    """Return which items to keep, `(I,)` bool; `keep_all_items` decides about items without an interaction."""
    keep_all = config.keep_all_items
    if keep_all is None:
        keep_all = config.k_core <= 1 and items is not None
    if not keep_all:
        known, keep = keep, keep & (np.bincount(rows, minlength=len(keep)) > 0)
        counts["items_without_interactions_dropped"] = int(known.sum() - keep.sum())
    if items is not None and (undescribed := int(keep[items.frame.height :].sum())):  # only with unknown_items="keep"
        counts["unknown_items_kept"] = undescribed
    return keep


def _split(
    pairs: Interactions, labels: np.ndarray | None, config: PreprocessingConfig, clock: bool
) -> tuple[tuple[Interactions, Interactions, Interactions], dict[str, Any]]:
    """Split the interactions into train, validation and test; also return the entry `split` of the dataset's info."""
    if labels is None:
        return _split_by_method(pairs, config.split or "none", config.seed, config.held_out, clock)
    splits = pairs.by_label(labels)
    n_untrained = len(np.setdiff1d(pairs.users, splits[0].users))
    return splits, {"method": "label", "column": config.split, "users_without_training": n_untrained}


def _split_by_method(
    pairs: Interactions, method: str, seed: int, held_out: float, clock: bool
) -> tuple[tuple[Interactions, Interactions, Interactions], dict[str, Any]]:
    if method in ONE_CLOCK and not clock:
        raise DataError(
            f"split '{method}' compares the times of different users, but the interactions have only positions in each"
            " user's history; use 'leave_last_out' or 'temporal', which split each history alone, or give a column of"
            f" times ({option_text('timestamp', 'COLUMN')})"
        )
    splits = pairs.by_label(split_labels(method, pairs.users, pairs.items, pairs.timestamps, seed, held_out))
    n_untrained = len(np.setdiff1d(pairs.users, splits[0].users))
    return splits, {"method": method, "seed": seed, "held_out": held_out, "users_without_training": n_untrained}


def resplit(dataset: DatasetParts, split: str, seed: int = 0, held_out: float = 0.2) -> DatasetParts:
    """Return the same interactions, items and features with another split; see `Dataset.resplit`."""
    pairs = dataset.all_interactions()
    in_file_order = is_split_by_time(dataset.info)  # whether pairs with equal times are in the order of the file
    if not (split in TIMED and in_file_order):
        pairs = pairs.take(distinct_pairs(pairs.users, pairs.items, pairs.timestamps)[3])
    if split in TIMED and pairs.timestamps is not None:
        pairs = pairs.take(np.lexsort((pairs.timestamps, pairs.users)))
    (train, valid, test), record = _split_by_method(pairs, split, seed, held_out, timestamps_are_times(dataset.info))
    return dataclasses.replace(
        dataset, train=train, valid=valid, test=test, info={**dataset.info, "split": record}, folder=None
    )


def _catalog(
    table: Table, items: Table | None, item_ids: pl.Series, config: PreprocessingConfig
) -> tuple[IdMap, pl.DataFrame]:
    """Return all items before any filter, and the item table with the column `item` first.

    Raises a DataError if an id of the item table is repeated, or if the table lacks an item of the interactions and
    `unknown_items` is "error".
    """
    if items is None:
        ids = IdMap(item_ids.unique().sort(), ITEM)
        return ids, pl.DataFrame({ITEM: ids.series})
    column = config.items_column
    series = parse_ids(items, column, ITEM, config.string_ids)
    if series.dtype != item_ids.dtype:
        if not (items.text or table.text):
            raise DataError(
                f"the item ids are {item_ids.dtype} in {table.source} and {series.dtype} in {items.source};"
                f" make them the same type ({option_text('string_ids', True)} makes both strings)"
            )
        series = series.cast(pl.String)
    if (repeated := series.is_duplicated()).any():
        raise DataError(
            f"{items.source}: item id {series[repeated.arg_true()[0]]!r} occurs more than once (first in"
            f" {items.first_bad_row(repeated)}); keep one row per item"
        )
    rest = _with_title(items, config)
    rest = rest.drop(column).with_columns(pl.selectors.float().fill_nan(None))  # NaN means that there is no value
    if ITEM in rest.columns:
        rest = rest.rename({ITEM: unused_name(ITEM, rest.columns)})
    described = pl.DataFrame([series.alias(ITEM), *rest.get_columns()])
    ids = IdMap(series, ITEM)
    asked = same_type(item_ids, series.dtype)
    unknown = pl.Series(ids.rows(asked) < 0)
    if unknown.any():
        missing = asked.filter(unknown).unique().sort()
        problem = f"{table.source}: {pluralize(len(missing), 'item')} not in {items.source}: {describe_ids(missing)}"
        if config.unknown_items == "error":
            raise DataError(
                f"{problem}; add them there, leave their rows out ({option_text('unknown_items', 'drop')}),"
                f" or keep them without a description ({option_text('unknown_items', 'keep')})"
            )
        if config.unknown_items == "drop":
            logger.warning("%s; %s left out", problem, pluralize(int(unknown.sum()), "interaction"))
        else:
            logger.warning("%s; these items are kept with empty columns", problem)
            ids = ids.extended(missing)
            described = pl.concat([described, pl.DataFrame({ITEM: missing})], how="diagonal")
    return ids, described


def _with_title(items: Table, config: PreprocessingConfig) -> pl.DataFrame:
    """Rename the configured column of titles to `title`; another column `title` gets a new name."""
    if config.title is None:
        return items.frame
    items.require_columns([config.title])
    if config.title == config.items_column and config.title != TITLE:
        raise DataError(
            f"{items.source}: column '{config.title}' holds the item ids, not the titles; leave"
            f" {option_name('title')} out: without titles, ids are shown"
        )
    if config.title == TITLE:
        return items.frame
    renamed = {TITLE: unused_name(TITLE, items.frame.columns)} if TITLE in items.frame.columns else {}
    return items.frame.rename({**renamed, config.title: TITLE})


def _require_item_ids(items: Table, column: str, item_ids: pl.Series) -> None:
    """Raise a DataError if the item table lacks its id column; suggests a column that contains the requested ids."""
    if column in items.frame.columns:
        return
    hint = f"none of them holds the ids of the interactions; give the column ({option_text('items_id', 'COLUMN')})"
    if match := column_of_ids(items.frame, item_ids):
        name, n_contained = match
        ids = pluralize(item_ids.n_unique(), "item id")
        hint = f"'{name}' holds {n_contained:,} of the {ids}: give this column ({option_text('items_id', name)})"
    raise DataError(f"{items.source}: no column '{column}'; it has {', '.join(items.frame.columns)}; {hint}")


def _aligned(
    features: Mapping[str, FeatureFile], catalog: IdMap, config: PreprocessingConfig, items: Table | None
) -> dict[str, Aligned]:
    """Find the feature row of each item of the catalog; features without ids must have the order of the item table."""
    source, listed = ("", None) if items is None else (items.source, items.frame.height)
    aligned = {}
    for key, file in features.items():
        where = f"features '{key}'"
        check_name(key)
        if file.ids is None and (items is None or not items.ordered):
            path = "" if file.source == where else f" ({file.source})"
            table = "an item table" if items is None else f"an item table other than {source}"
            raise DataError(
                f"{where}{path} has no ids, so it is unknown which item each row belongs to; give {table} with a row"
                f" for each row of the features, in the same order ({option_text('items', 'FILE')}),"
                " or save them with ids, for instance"
                " with numpy.savez(FILE, ids=ids, vectors=matrix)"
            )
        aligned[key] = align(file, catalog, where, config.unknown_features == "drop", source, listed)
    return aligned


def _check_labels(pairs: Interactions, labels: np.ndarray, users: IdMap, items: IdMap, where: str) -> None:
    """Raise a DataError if a pair has two split labels, since that would leak test data into training."""
    order = np.lexsort((labels, pairs.items, pairs.users))
    u, i, split = pairs.users[order], pairs.items[order], labels[order]
    repeated = np.flatnonzero((u[1:] == u[:-1]) & (i[1:] == i[:-1]) & (split[1:] != split[:-1]))
    if len(repeated):
        user, item = users.ids[u[repeated[0]]], items.ids[i[repeated[0]]]
        raise DataError(
            f"{where}: {pluralize(len(repeated), 'pair')} in two splits, for instance user {user} and item {item};"
            " keep each pair in one split"
        )


def removed_rows(counts: Mapping[str, Any]) -> list[str]:
    """Return in words how many rows each filter of a preparation has removed; filters that removed no row are left out.

    >>> removed_rows({"rows": 9, "repeated_pairs": 2, "removed_by_k_core": 0})
    ['2 repeated']
    """
    return [f"{counts[key]:,} {words}" for key, (words, _) in FILTERS.items() if counts.get(key)]


def _nothing_left(counts: Mapping[str, Any]) -> str:
    """Make the message for a dataset without an interaction: what the filters have removed, and what to change."""
    removed = removed_rows(counts)
    options = [option_name(option) for key, (_, option) in FILTERS.items() if counts.get(key) and option is not None]
    problem = f"no interaction is left of {pluralize(counts['rows'], 'row')}"
    problem += f" ({', '.join(removed)})" if removed else ""
    hints = []
    if counts.get("removed_by_k_core"):
        hints.append(f"lower {option_name('k_core')}, which is {counts['k_core']}")
    if counts.get("below_min_rating"):
        hints.append(f"lower {option_name('min_rating')}, which is {counts['min_rating']:g}")
    if counts.get("items_without_features_dropped"):
        hints.append(f"give features to more items (without any: {counts['items_without_features_dropped']:,})")
    return f"{problem}; {' or '.join(hints) or 'check ' + ', '.join(options)}"
