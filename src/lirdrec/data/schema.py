"""The names of columns, in frames that come out of the library and in the files that it writes."""

from __future__ import annotations

import itertools
from collections.abc import Collection

USER = "user"
ITEM = "item"
RATING = "rating"
TIMESTAMP = "timestamp"
TITLE = "title"
SPLIT = "split"
RANK = "rank"
SCORE = "score"

SPLITS = ("train", "valid", "test")


def unused_name(name: str, columns: Collection[str]) -> str:
    """A name like `name` that no column has: `item_`, `item_2`, …"""
    names = itertools.chain([f"{name}_"], (f"{name}_{number}" for number in itertools.count(2)))
    return next(one for one in names if one not in columns)
