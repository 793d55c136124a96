"""Synthetic datasets with a known ground truth, for tests and benchmarks of any size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.column_names import ITEM, USER
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.ids import IdMap
from lirdrec.data.splits import split_labels
from lirdrec.errors import DataError

BLOCK_ROWS = 2048
LIKED = 3


def make_synthetic_dataset(
    n_users: int,
    n_items: int,
    n_pairs: int,
    dims: Mapping[str, int],
    groups: int = 50,
    noise: float = 1.0,
    seed: int = 0,
    missing: Mapping[str, float] | None = None,
    *,
    dtype: Any = np.float32,
    off_taste: float = 0.1,
    split: str = "random",
    timestamps: bool = False,
    folder: str | Path | None = None,
    name: str = "planted",
) -> Dataset:
    """Make a synthetic dataset whose features predict the interactions; raises a DataError for impossible numbers.

    An item's features in each modality are the center of its group (standard normal) plus `noise` times standard
    normal. A user likes up to three groups; an interaction is an item of one of them or, with probability `off_taste`,
    any item. Within a group the r-th item has weight 1/r (Zipf); user activity is skewed too. The column `group` of
    the item table is the ground truth.

    Args:
        n_users, n_items, n_pairs: sizes; the pairs are distinct, every user has at least `min(5, n_pairs // n_users)`.
        dims: name → number of columns of the modality.
        groups: number of groups, at most `n_items`.
        seed: seed of all random numbers, the split included.
        noise: 0 makes the items of a group equal, 1 is as strong as the centers.
        dtype: np.float32 or np.float16.
        missing: name → share of items that lack the modality; an item that would lack all keeps the first.
        off_taste: share of the draws that ignore the user's groups.
        split: "random", "cold_items" or "none"; with timestamps also by time.
        timestamps: whether the interactions have times, in random order.
        folder, name: the folder of the matrices, memory-mapped `MODALITY.npy` (None: in memory); name of the dataset.
    """
    _check_sizes(n_users, n_items, n_pairs, groups)
    # one random stream per purpose: features of a seed do not depend on the number of pairs
    taste_rng, pair_rng, presence_rng, *feature_rngs = _streams(seed, 3 + len(dims))
    group = taste_rng.permutation(np.arange(n_items) % groups)
    tastes = taste_rng.integers(0, groups, (n_users, LIKED))
    pairs = _draw_pairs(n_users, n_pairs, group, tastes, off_taste, pair_rng)
    pairs = _timed(pairs, seed) if timestamps else pairs
    present = _presence(n_items, dims, missing or {}, presence_rng)
    features = {}
    for (key, width), rng in zip(dims.items(), feature_rngs, strict=True):
        values = _new_matrix((n_items, width), dtype, None if folder is None else Path(folder) / f"{key}.npy")
        _fill_features(values, group, noise, present[key], rng)
        features[key] = FeatureMatrix.known_good(values, present[key])
    source = {"format": "planted", "groups": groups, "noise": noise, "seed": seed, "off_taste": off_taste}
    return Dataset(
        name,
        IdMap(np.arange(n_users), USER),
        IdMap(np.arange(n_items), ITEM),
        *pairs.by_label(split_labels(split, pairs.users, pairs.items, pairs.timestamps, seed)),
        features=features,
        item_table=pl.DataFrame({ITEM: np.arange(n_items), "group": group}),
        info={"source": source, "split": {"method": split, "seed": seed, "held_out": 0.2}},
    )


def _streams(seed: int, number: int) -> list[np.random.Generator]:
    return [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(number)]


def _timed(pairs: Interactions, seed: int) -> Interactions:
    """Return the pairs with times in random order; the random numbers are from a separate stream."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(99,)))
    return Interactions(pairs.users, pairs.items, rng.permutation(len(pairs)))


def _check_sizes(n_users: int, n_items: int, n_pairs: int, groups: int) -> None:
    if n_pairs > n_users * n_items // 2 or n_pairs < n_users or not 0 < groups <= n_items:
        raise DataError(
            f"synthetic dataset: {n_pairs} pairs of {n_users} users and {n_items} items in {groups} groups are not"
            " possible; there must be a pair per user, at most half of all possible pairs, and at most as many groups"
            " as items"
        )


def _new_matrix(shape: tuple[int, int], dtype: Any, path: Path | None) -> np.ndarray:
    """Make a matrix without values, in memory or, with a path, memory-mapped from a new file."""
    if path is None:
        return np.empty(shape, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _draw_pairs(
    n_users: int, n_pairs: int, group: np.ndarray, tastes: np.ndarray, off_taste: float, rng: np.random.Generator
) -> Interactions:
    """Draw distinct pairs, sorted by user and item.

    A repeated pair is replaced by a new draw for the same user; after 20 rounds, from all items.
    """
    n_items = len(group)
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    members = np.argsort(group, kind="stable")  # items of group g: members[starts[g] : starts[g] + sizes[g]]
    target = remaining = _degrees(n_users, n_items, n_pairs, rng)
    keys = np.empty(0, dtype=np.int64)
    attempt = 0
    while remaining.any():
        users = np.repeat(np.arange(n_users), remaining)
        # after 20 rounds draw from all items, since a user may have all items of a group
        any_item = rng.random(len(users)) < (off_taste if attempt < 20 else 1.0)
        taste = tastes[users, rng.integers(0, LIKED, len(users))]
        # P(rank < r) = log(r+1) / log(n+1): close to weights 1/r, without a table for each group
        size = sizes[taste]
        rank = np.minimum((np.exp(rng.random(len(users)) * np.log(size + 1.0)) - 1).astype(np.int64), size - 1)
        items = np.where(any_item, rng.integers(0, n_items, len(users)), members[starts[taste] + rank])
        keys = np.unique(np.concatenate([keys, users * n_items + items]))
        remaining = target - np.bincount(keys // n_items, minlength=n_users)
        attempt += 1
    return Interactions(keys // n_items, keys % n_items)


def _degrees(n_users: int, n_items: int, n_pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the number of pairs of each user: a common minimum and an exponential rest, at most 3/4 of the items."""
    degrees = np.full(n_users, min(5, n_pairs // n_users))
    limit = max(int(degrees.max()), -(-3 * n_items // 4))
    weights = rng.exponential(size=n_users)
    while (rest := n_pairs - int(degrees.sum())) > 0:
        open_weights = np.where(degrees < limit, weights, 0.0)
        degrees = np.minimum(degrees + rng.multinomial(rest, open_weights / open_weights.sum()), limit)
    return degrees


def _presence(
    n_items: int, dims: Mapping[str, int], missing: Mapping[str, float], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    for name, share in missing.items():
        if name not in dims or not 0 <= share < 1:
            raise DataError(
                f"synthetic dataset: missing {name!r} = {share}; give a modality and a share from 0 to below 1"
            )
    present = {name: rng.random(n_items) >= missing.get(name, 0.0) for name in dims}
    if present:
        first = next(iter(present.values()))
        first |= ~np.any(list(present.values()), axis=0)
    return present


def _fill_features(
    values: np.ndarray, group: np.ndarray, noise: float, present: np.ndarray, rng: np.random.Generator
) -> None:
    """Fill a matrix with group centers plus noise, a block of rows at a time."""
    centers = rng.standard_normal((int(group.max()) + 1, values.shape[1]), dtype=np.float32)
    for start in range(0, len(group), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        block = rng.standard_normal(values[rows].shape, dtype=np.float32)
        block *= noise
        block += centers[group[rows]]
        block[~present[rows]] = 0
        values[rows] = block
    if isinstance(values, np.memmap):
        values.flush()
