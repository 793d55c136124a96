"""The columns of the item table that hold captions, and which of them are a person's.

- `caption`: the text that people read and may edit;
- `caption_attributes`: the attributes as the model gave them, as JSON;
- `caption_machine`: the caption as it was made; where `caption` differs from it, a person has edited it;
- `caption_key`: a hash of the picture's content and of the captioner's identity, so that a change of either is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from lirdrec.data.columns import ITEM
from lirdrec.features.sources import KEY_BYTES, ItemRows

CAPTION, ATTRIBUTES, MACHINE, KEY = COLUMNS = ("caption", "caption_attributes", "caption_machine", "caption_key")


def read_columns(rows: ItemRows) -> pl.DataFrame:
    """`item` and the four columns of all items; null where the table has none of them."""
    there = tuple(name for name in COLUMNS if name in rows.schema)
    table = rows.read(0, len(rows), (ITEM, *there))
    return table.select(
        ITEM,
        *(pl.col(name).cast(pl.String) if name in there else pl.lit(None, pl.String).alias(name) for name in COLUMNS),
    )


def edited(table: pl.DataFrame) -> pl.Series:
    """`(I,)` bool: the captions that a person wrote or changed (emptied ones too)."""
    return table.select((pl.col(CAPTION).fill_null("") != pl.col(MACHINE).fill_null("")).alias("edited")).to_series()


def captioned(table: pl.DataFrame) -> pl.Series:
    """`(I,)` bool: the items with a caption."""
    return table.select((pl.col(CAPTION).fill_null("").str.strip_chars() != "").alias("captioned")).to_series()


def caption_key(picture: bytes, identity: Mapping[str, Any]) -> str:
    """The hash that a caption of this picture by this captioner has: 32 hexadecimal digits.

    Args:
        picture: the hash of the picture's content.
        identity: the captioner's.
    """
    hashed = hashlib.blake2b(picture, digest_size=KEY_BYTES)
    hashed.update(json.dumps(dict(identity), sort_keys=True, ensure_ascii=False).encode())
    return hashed.hexdigest()
