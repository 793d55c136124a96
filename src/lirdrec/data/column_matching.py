"""Suggest a column when a requested one is missing, by similar names or by its values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import polars as pl

from lirdrec.data.schema import ITEM, RATING, TIMESTAMP, USER

OTHER_NAMES = {  # names used in practice and in public data sets, in lower case without blanks and underscores
    USER: (
        "user userid username uid userhash customer customerid custid client clientid visitor visitorid reviewer"
        " reviewerid member memberid account accountid session sessionid reader readerid player steamid person personid"
    ),
    ITEM: (
        "item itemid iid sku asin parentasin product productid article articleid movie movieid film filmid book bookid"
        " isbn track trackid song songid artist artistid artistname video videoid business businessid game gameid appid"
        " recipe recipeid news newsid ad adid listing listingid gmapid aid"
    ),
    RATING: "rating rate score stars star overall value bookrating",
    TIMESTAMP: "timestamp time ts date datetime when unixtime unixreviewtime reviewtime createdat eventtime tdat",
}


def likely_column(requested: str, columns: Sequence[str]) -> str | None:
    """The most likely column for `requested`: equal up to case and underscores, a common synonym, or a similar name."""
    plain = {column: _normalize(column) for column in columns}
    wanted = _normalize(requested)
    synonyms = next((names for text in OTHER_NAMES.values() if wanted in (names := text.split())), [])
    for name in (wanted, *synonyms):
        for column in columns:
            if plain[column] == name:
                return column
    similar = difflib.get_close_matches(requested, columns, n=1, cutoff=0.75)
    return similar[0] if similar else None


def column_of_ids(frame: pl.DataFrame, ids: pl.Series) -> tuple[str, int] | None:
    """The column that contains most of the distinct ids, and their number; None if no column contains half of them."""
    wanted = ids.cast(pl.String).unique()
    counts = {
        column.name: int(wanted.is_in(column.cast(pl.String).unique().implode()).sum())
        for column in frame.get_columns()
        if column.dtype == pl.String or column.dtype.is_integer()
    }
    best = max(counts, key=counts.__getitem__, default=None)
    return None if best is None or counts[best] * 2 < len(wanted) else (best, counts[best])


def _normalize(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
