"""Features of new items from their texts, by the encoders that made the features of a prepared dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from lirdrec.data.storage import read_manifest
from lirdrec.errors import DataError
from lirdrec.features.encode import encode_shard
from lirdrec.features.registry import load_encoder
from lirdrec.features.sources import text_item
from lirdrec.features.template import recorded_template


def encode_texts(folder: str | Path, table: pl.DataFrame, device: str = "cpu") -> dict[str, np.ndarray]:
    """Encode the texts of new items, for `Recommender.add_items`.

    Args:
        folder: the prepared dataset, whose manifest records the encoders.
        table: a row per new item, with the columns of the dataset's item table that the texts are made of.
        device: where the encoders run.

    Returns:
        Name → `(n, d)` float32 for each matrix that an encoder made of texts; empty if there is none. A row is zero
        where the item has no text.

    Raises:
        ConfigError: the table lacks a column, or an encoder cannot be loaded.
        DataError: a text cannot be encoded, or the fitted state of an encoder is missing.
    """
    found = {}
    for name, entry in read_manifest(Path(folder))["info"].get("encoders", {}).items():
        if (entry.get("origin") or {}).get("kind") != "text":
            continue
        template = recorded_template(entry.get("source", {}))
        template.check(table.columns)
        encoder = load_encoder(folder, name, device=device)
        arrays, facts = encode_shard(encoder, list(map(text_item, template.render(table))), encoder.batch_size)
        encoder.release()
        if facts["problems"]:
            index, _, problem = facts["problems"][0]
            raise DataError(f"new item {index + 1}: its '{name}' features cannot be made: {problem}")
        found[name] = arrays["vectors"]
    return found
