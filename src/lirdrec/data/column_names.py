"""Column names of returned frames and written files."""

from __future__ import annotations

import itertools
from collections.abc import Collection

USER = "user"
ITEM = "item"
RATING = "rating"
TIMESTAMP = "timestamp"
WEIGHT = "weight"
TITLE = "title"
SPLIT = "split"
RANK = "rank"
SCORE = "score"

SPLITS = ("train", "valid", "test")
DISLIKE = "dislike"  # in the column of splits: a pair with a weight of 0 or less, which is in none of the splits


def unused_name(name: str, columns: Collection[str]) -> str:
    """Return a name like `name` that is not among `columns`: `item_`, else `item_2`, `item_3`, …"""
    names = itertools.chain([f"{name}_"], (f"{name}_{number}" for number in itertools.count(2)))
    return next(one for one in names if one not in columns)
