"""Preprocessing of raw tables: ids, rating threshold, duplicate pairs, k-core, feature alignment, split."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from lirdrec.config import suggest_name
from lirdrec.data.alignment import Aligned, FeatureFile, align, as_feature_file, same_type
from lirdrec.data.column_matching import column_of_ids
from lirdrec.data.dataset_parts import DatasetParts, Interactions
from lirdrec.data.features import check_name
from lirdrec.data.frames import FrameKind, to_polars
from lirdrec.data.ids import IdMap, describe_ids, pluralize
from lirdrec.data.interaction_filters import in_words, keep_only, left_out
from lirdrec.data.preprocessing_config import PreprocessingConfig, make_preprocessing_config
from lirdrec.data.raw_ids import read_ids
from lirdrec.data.schema import ITEM, RATING, SPLITS, TITLE, USER, unused_name
from lirdrec.data.splits import METHODS, given_labels, split_labels
from lirdrec.data.tables import Table
from lirdrec.data.value_parsing import drop_bad_items, drop_bad_rows, parse_numbers, parse_times
from lirdrec.errors import ConfigError, DataError
from lirdrec.option_names import option_name, option_text


def distinct_pairs(
    users: np.ndarray, items: np.ndarray, timestamps: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """Deduplicate pairs and sort them by user, then item, so that the order of the source does not matter.

    Args:
        users, items: `(N,)` int64.
        timestamps: `(N,)` int64; a repeated pair keeps its earliest timestamp.

    Returns:
        users, items, timestamps, and the input position of each kept row, each `(E,)`.
    """
    order = np.lexsort((items, users) if timestamps is None else (timestamps, items, users))
    u, i = users[order], items[order]
    first = np.ones(len(u), dtype=bool)
    first[1:] = (u[1:] != u[:-1]) | (i[1:] != i[:-1])
    kept = order[first]
    return users[kept], items[kept], None if timestamps is None else timestamps[kept], kept


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """The k-core as a mask of pairs `(E,)` bool: users and items with fewer than `k` pairs are removed repeatedly.

    The pairs must be distinct. The result is the largest subset in which all users and items have at least `k` pairs;
    it may be empty.
    """
    keep = np.ones(len(users), dtype=bool)
    if k <= 1 or not len(users):
        return keep
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    while True:
        enough_users = np.bincount(users[keep], minlength=n_users) >= k
        enough_items = np.bincount(items[keep], minlength=n_items) >= k
        left = keep & enough_users[users] & enough_items[items]
        if left.sum() == keep.sum():
            return left
        keep = left


logger = logging.getLogger(__name__)


def from_frames(
    interactions: Any,
    *,
    items: Any = None,
    features: Mapping[str, Any] | None = None,
    name: str = "dataset",
    info: Mapping[str, Any] | None = None,
    **options: Any,
) -> DatasetParts:
    """A dataset from frames in memory; `Dataset.from_frames` describes the arguments.

    Raises:
        DataError: the data are invalid; the message says what is wrong, where, and what to do.
        ConfigError: an unknown option, or one out of range.
    """
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
    """A dataset from a matrix of users and items; `Dataset.from_sparse` describes the arguments.

    Raises:
        DataError: it is not a matrix of numbers, or the number of ids does not match its shape.
    """
    if isinstance(matrix, np.ndarray) and matrix.ndim == 2 and matrix.dtype.kind in "biuf":
        (rows, columns), shape = np.nonzero(matrix), matrix.shape
        values = matrix[rows, columns].astype(np.float64)
    elif hasattr(matrix, "tocsr") and len(matrix.shape) == 2:
        entries = matrix.tocsr().tocoo()  # sums up duplicate entries
        stored = entries.data != 0
        rows, columns, values = entries.row[stored], entries.col[stored], entries.data[stored].astype(np.float64)
        shape = matrix.shape
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
    for what, given, size in ((USER, user_ids, shape[0]), (ITEM, item_ids, shape[1])):
        ids[what] = read_ids(np.arange(size) if given is None else given, f"{what}_ids", what)
        if len(ids[what]) != size:
            side = "rows" if what == USER else "columns"
            raise DataError(f"{what}_ids: {pluralize(len(ids[what]), 'id')}, but the matrix has {size:,} {side}")
        IdMap(ids[what], what)  # each id once
    pairs = {USER: ids[USER].gather(rows), ITEM: ids[ITEM].gather(columns), RATING: values}
    given = {} if min_rating is None else {"rating": RATING, "min_rating": min_rating}
    for taken in (USER, ITEM, RATING, "timestamp"):
        if taken in options:
            raise ConfigError(f"from_sparse: a matrix has no column '{taken}'; leave the option out")
    table = pl.DataFrame({ITEM: ids[ITEM]}) if items is None else items
    return from_frames(pl.DataFrame(pairs), items=table, **given, **options)


@dataclasses.dataclass
class _Pairs:
    """Interactions during preprocessing: user rows, item rows, timestamps and split labels, `(E,)` each."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    labels: np.ndarray | None

    def take(self, chosen: np.ndarray) -> _Pairs:
        """Select interactions by a mask or by positions."""
        times, labels = (None if array is None else array[chosen] for array in (self.times, self.labels))
        return _Pairs(self.users[chosen], self.items[chosen], times, labels)


def build(
    table: Table,
    items: Table | None,
    features: Mapping[str, FeatureFile],
    config: PreprocessingConfig,
    name: str,
    info: Mapping[str, Any],
    kind: FrameKind = "polars",
) -> DatasetParts:
    """Build the parts of a dataset from tables.

    Args:
        table: the interactions.
        items: the item table, or None.
        features: name → contents of a feature file.
        config: preprocessing options.
        name, info: of the dataset.
        kind: the kind of frame that `Dataset.frame` returns.

    Raises:
        DataError, ConfigError: as of `from_frames`.
    """
    _check_columns(table, items, config)
    counts: dict[str, Any] = {"rows": table.frame.height + table.skipped}
    table = _good_rows(table, config, counts)
    enough = _rated_enough(table, config, counts)
    pairs, all_users, catalog, described, items = _numbered(table, items, config, enough, counts)

    aligned = _aligned(features, catalog, config, items)
    stays = np.ones(len(catalog), dtype=bool)
    if aligned and config.without_features == "drop":
        stays = np.any([one.present for one in aligned.values()], axis=0)
        counts["items_without_features_dropped"] = int((~stays).sum())
    pairs = pairs.take(_core(pairs, stays[pairs.items], config, counts))
    if not len(pairs.users):
        raise DataError(f"{table.where}: {_nothing_left(counts)}")
    stays = _items_that_stay(stays, pairs.items, items, config, counts)

    user_map, users = _renumber(all_users, pairs.users)
    item_map = IdMap(catalog.series.filter(pl.Series(stays)), ITEM)
    rows = (np.cumsum(stays) - 1)[pairs.items]
    pairs = dataclasses.replace(pairs, users=users, items=rows)
    parts, split = _split(pairs, config)
    logger.info("%s: %s", name, _words(counts))
    return DatasetParts(
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


def _label_column(config: PreprocessingConfig) -> str | None:
    """The column of split labels, or None if the split is a method."""
    return config.split if config.split not in METHODS else None


def _check_columns(table: Table, items: Table | None, config: PreprocessingConfig) -> None:
    """Raise unless the table has rows and all columns that the configuration names."""
    label_column = _label_column(config)
    if label_column is not None and label_column not in table.frame.columns:
        columns = table.frame.columns
        choice = f"choose one of {', '.join(METHODS)}, or a column of labels; it has {', '.join(columns)}"
        raise DataError(
            f"{table.where}: '{label_column}' is neither a split method nor a column;"
            f" {suggest_name(label_column, [*METHODS, *columns], choice)}"
        )
    needed = [config.user, config.item, config.timestamp, config.rating, label_column]
    table.need([column for column in needed if column is not None])
    if config.title is not None and items is None:
        raise ConfigError(
            f"{option_name('title')} names the column '{config.title}', but there is no item table; give one"
            f" ({option_text('items', 'FILE')})"
        )
    if table.frame.height == 0:
        raise DataError(f"{table.where}: there are no rows")


def _good_rows(table: Table, config: PreprocessingConfig, counts: dict[str, Any]) -> Table:
    """Filter the rows by values (`only`) and drop bad rows."""
    if config.only:
        everything, table = table, keep_only(table, config.only)
        logger.info("%s", left_out(everything, table, config.only))
        counts |= {"only": in_words(config.only), "other_rows": everything.frame.height - table.frame.height}
    table, skipped = drop_bad_rows(table, config)
    if skipped := skipped + table.skipped:
        counts["bad_rows_skipped"] = skipped
    return table


def _rated_enough(table: Table, config: PreprocessingConfig, counts: dict[str, Any]) -> np.ndarray:
    """`(N,)` bool: rows at or above the rating threshold. No row is removed, so that messages name the right line."""
    if config.min_rating is None or config.rating is None:
        return np.ones(table.frame.height, dtype=bool)
    enough = parse_numbers(table, config.rating) >= config.min_rating
    counts |= {"rating": config.rating, "min_rating": config.min_rating, "below_min_rating": int((~enough).sum())}
    return enough


def _numbered(
    table: Table, items: Table | None, config: PreprocessingConfig, enough: np.ndarray, counts: dict[str, Any]
) -> tuple[_Pairs, IdMap, IdMap, pl.DataFrame, Table | None]:
    """Distinct interactions, all users, all items, the item table in row order, and `items` without bad rows."""
    user_ids = _ids(table, config.user, USER, config.string_ids)
    item_ids = _ids(table, config.item, ITEM, config.string_ids)
    times = None if config.timestamp is None else parse_times(table, config.timestamp, config.time_format)
    labels, label_column = None, _label_column(config)
    if label_column is not None:
        labels = given_labels(table.frame[label_column], table.where, table.place)
    if items is not None:
        _need_ids(items, config.items_column, item_ids)
        items, skipped = drop_bad_items(items, config)
        if skipped := skipped + items.skipped:
            counts["bad_item_rows_skipped"] = skipped
    catalog, described = _catalog(table, items, item_ids, config)
    all_users = IdMap(user_ids.unique().sort(), USER)
    rows = catalog.rows(same_type(item_ids, catalog.series.dtype))
    if not (listed := rows >= 0).all():  # only with unknown_items="drop"
        counts["rows_of_unknown_items_dropped"] = int((~listed & enough).sum())
        enough = enough & listed
    pairs = _Pairs(all_users.rows(user_ids), rows, times, labels).take(enough)
    if pairs.labels is not None:
        _check_labels(pairs.users, pairs.items, pairs.labels, all_users, catalog, table.where)
    _, _, _, kept = distinct_pairs(pairs.users, pairs.items, pairs.times)
    counts["repeated_pairs"] = int(enough.sum()) - len(kept)
    return pairs.take(kept), all_users, catalog, described, items


def _core(pairs: _Pairs, keep: np.ndarray, config: PreprocessingConfig, counts: dict[str, Any]) -> np.ndarray:
    """`(E,)` bool: the interactions in `keep` that remain after the k-core."""
    if config.k_core <= 1:
        return keep
    core = np.zeros(len(keep), dtype=bool)
    core[keep] = k_core(pairs.users[keep], pairs.items[keep], config.k_core)
    counts |= {"k_core": config.k_core, "removed_by_k_core": int((keep & ~core).sum())}
    return core


def _items_that_stay(
    stays: np.ndarray, rows: np.ndarray, items: Table | None, config: PreprocessingConfig, counts: dict[str, Any]
) -> np.ndarray:
    """`(I,)` bool: items to keep; `keep_all_items` decides about those without an interaction."""
    keep_all = config.keep_all_items
    if keep_all is None:
        keep_all = config.k_core <= 1 and items is not None
    if not keep_all:
        seen = np.zeros(len(stays), dtype=bool)
        seen[rows] = True
        stays = stays & seen
    if items is not None and (undescribed := int(stays[items.frame.height :].sum())):  # only with unknown_items="keep"
        counts["unknown_items_kept"] = undescribed
    return stays


def _split(pairs: _Pairs, config: PreprocessingConfig) -> tuple[list[Interactions], dict[str, Any]]:
    """Train, validation and test interactions, and the record of the split."""
    split: dict[str, Any]
    if pairs.labels is not None:
        codes, split = pairs.labels, {"method": "label", "column": config.split}
    else:
        method = config.split or "none"
        codes = split_labels(method, pairs.users, pairs.items, pairs.times, config.seed, config.held_out)
        split = {"method": method, "seed": config.seed, "held_out": config.held_out}
    parts = [pairs.take(codes == code) for code in range(3)]
    made = [Interactions(part.users, part.items, part.times) for part in parts]
    split["users_without_training"] = len(np.setdiff1d(pairs.users, made[0].users))
    return made, split


def resplit(dataset: DatasetParts, split: str, seed: int = 0, held_out: float = 0.2) -> DatasetParts:
    """The same interactions, items and features under another split.

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


def _ids(table: Table, column: str, what: str, string_ids: bool) -> pl.Series:
    where = f"{table.where}, column '{column}'"
    series = table.frame[column]
    return read_ids(series, where, what, table.place, text=table.text, string_ids=string_ids)


def _catalog(
    table: Table, items: Table | None, item_ids: pl.Series, config: PreprocessingConfig
) -> tuple[IdMap, pl.DataFrame]:
    """All items before any filter, and the item table with the column `item` first."""
    if items is None:
        ids = IdMap(item_ids.unique().sort(), ITEM)
        return ids, pl.DataFrame({ITEM: ids.series})
    column = config.items_column
    series = _ids(items, column, ITEM, config.string_ids)
    if series.dtype != item_ids.dtype:
        if not (items.text or table.text):
            raise DataError(
                f"the item ids are {item_ids.dtype} in {table.where} and {series.dtype} in {items.where};"
                f" make them the same type ({option_text('string_ids', True)} makes both strings)"
            )
        series = series.cast(pl.String)
    if (repeated := series.is_duplicated()).any():
        raise DataError(
            f"{items.where}: item id {series[repeated.arg_true()[0]]!r} occurs more than once (first in"
            f" {items.at(repeated)}); keep one row per item"
        )
    rest = _with_title(items, config)
    rest = rest.drop(column).with_columns(pl.selectors.float().fill_nan(None))  # NaN means: no value
    if ITEM in rest.columns:
        rest = rest.rename({ITEM: unused_name(ITEM, rest.columns)})
    described = pl.DataFrame([series.alias(ITEM), *rest.get_columns()])
    ids = IdMap(series, ITEM)
    asked = same_type(item_ids, series.dtype)
    unknown = pl.Series(ids.rows(asked) < 0)
    if unknown.any():
        missing = asked.filter(unknown).unique().sort()
        problem = f"{table.where}: {pluralize(len(missing), 'item')} not in {items.where}: {describe_ids(missing)}"
        if config.unknown_items == "error":
            raise DataError(
                f"{problem}; add them there, leave their rows out ({option_text('unknown_items', 'drop')}),"
                f" or keep them without a description ({option_text('unknown_items', 'keep')})"
            )
        if config.unknown_items == "drop":
            logger.warning("%s; %s left out", problem, pluralize(int(unknown.sum()), "interaction"))
        else:
            logger.warning("%s; kept with empty columns", problem)
            ids = ids.extended(missing)
            described = pl.concat([described, pl.DataFrame({ITEM: missing})], how="diagonal")
    return ids, described


def _with_title(items: Table, config: PreprocessingConfig) -> pl.DataFrame:
    """Rename the configured column of titles to `title`; another column `title` gets a new name.

    Raises:
        DataError: there is no such column, or it contains the ids.
    """
    if config.title is None or config.title == TITLE:
        items.need([] if config.title is None else [TITLE])
        return items.frame
    items.need([config.title])
    if config.title == config.items_column:
        raise DataError(
            f"{items.where}: column '{config.title}' holds the item ids, not the titles; leave"
            f" {option_name('title')} out: without titles, ids are shown"
        )
    taken = {TITLE: unused_name(TITLE, items.frame.columns)} if TITLE in items.frame.columns else {}
    return items.frame.rename({**taken, config.title: TITLE})


def _need_ids(items: Table, column: str, item_ids: pl.Series) -> None:
    """Raise a DataError if the item table lacks its id column; suggests a column that contains the requested ids."""
    if column in items.frame.columns:
        return
    held = ", ".join(items.frame.columns)
    if (found := column_of_ids(items.frame, item_ids)) is None:
        hint = f"none of them holds these ids, so name the right one ({option_text('items_id', 'COLUMN')})"
    else:
        ids = pluralize(item_ids.n_unique(), "item id")
        hint = f"'{found[0]}' holds {found[1]:,} of the {ids}: name it ({option_text('items_id', found[0])})"
    raise DataError(f"{items.where}: no column '{column}'; it has {held}; {hint}")


def _aligned(
    features: Mapping[str, FeatureFile], catalog: IdMap, config: PreprocessingConfig, items: Table | None
) -> dict[str, Aligned]:
    """Align the features with the catalog; features without ids need an item table, which defines their order."""
    aligned = {}
    for key, file in features.items():
        where = f"features '{key}'"
        check_name(key)
        if file.ids is None and (items is None or not items.ordered):
            source = "" if file.where == where else f" ({file.where})"
            table = "an item table" if items is None else f"a table of the items in the file's order, not {items.where}"
            raise DataError(
                f"{where}{source}: has no ids, and nothing says which item a row belongs to; give {table} with a row"
                f" for each row of it ({option_text('items', 'FILE')}), or save it with ids, for instance with"
                " numpy.savez(FILE, ids=ids, vectors=matrix)"
            )
        order, listed = (items.where, items.frame.height) if items is not None else ("", None)
        aligned[key] = align(file, catalog, where, config.unknown_features == "drop", order, listed)
    return aligned


def _check_labels(
    users: np.ndarray, items: np.ndarray, labels: np.ndarray, user_map: IdMap, item_map: IdMap, where: str
) -> None:
    """Raise if a pair has two split labels, since that would leak test data into training."""
    order = np.lexsort((labels, items, users))
    u, i, s = users[order], items[order], labels[order]
    twice = np.flatnonzero((u[1:] == u[:-1]) & (i[1:] == i[:-1]) & (s[1:] != s[:-1]))
    if len(twice):
        at = twice[0]
        raise DataError(
            f"{where}: {pluralize(len(twice), 'pair')} in two splits, for instance user {user_map.ids[u[at]]} and item"
            f" {item_map.ids[i[at]]}; keep each pair in one"
        )


def _renumber(ids: IdMap, rows: np.ndarray) -> tuple[IdMap, np.ndarray]:
    """Keep only the ids in `rows`, in order."""
    present = np.zeros(len(ids), dtype=bool)
    present[rows] = True
    return IdMap(ids.series.filter(pl.Series(present)), ids.entity), (np.cumsum(present) - 1)[rows]


def _nothing_left(counts: Mapping[str, Any]) -> str:
    """The error if no interaction is left: the filters that removed them, and what to change."""
    steps = {
        "other_rows": ("with other values", "only"),
        "bad_rows_skipped": ("bad", "bad_rows"),
        "below_min_rating": ("rated lower", "min_rating"),
        "rows_of_unknown_items_dropped": ("of items that the item table lacks", "unknown_items"),
        "repeated_pairs": ("repeated", None),
        "removed_by_k_core": ("of users or items with too few others", "k_core"),
    }
    gone = [f"{counts[key]:,} {words}" for key, (words, _) in steps.items() if counts.get(key)]
    by = [option_name(option) for key, (_, option) in steps.items() if counts.get(key) and option is not None]
    said = f"no interaction is left of {pluralize(counts['rows'], 'row')}"
    said += f" ({', '.join(gone)})" if gone else ""
    hints = []
    if counts.get("removed_by_k_core"):
        hints.append(f"lower {option_name('k_core')}, which is {counts['k_core']}")
    if counts.get("below_min_rating"):
        hints.append(f"lower {option_name('min_rating')}, which is {counts['min_rating']:g}")
    if counts.get("items_without_features_dropped"):
        hints.append(f"give features to more items (without any: {counts['items_without_features_dropped']:,})")
    return f"{said}; {' or '.join(hints) or 'look at ' + ', '.join(by)}"


def _words(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in counts.items())
