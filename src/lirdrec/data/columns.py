"""The names of columns, in frames that come out of the library and in the files that it writes."""

from __future__ import annotations

USER = "user"
ITEM = "item"
RATING = "rating"
TIMESTAMP = "timestamp"
SPLIT = "split"
RANK = "rank"
SCORE = "score"

SPLITS = ("train", "valid", "test")
