"""Searching, pictures and the map: what a page shows of a snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import torch

from lirdrec.configuration import nearest
from lirdrec.data.columns import ITEM
from lirdrec.data.pictures import IMAGE, IMAGES
from lirdrec.errors import CapabilityError, ConfigError, DataError, LirdrecError
from lirdrec.features.pictures.opening import thumbnail
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.explanation import TITLES
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.live import Id, Snapshot
from lirdrec.server.store import Store


def matching_items(snapshot: Snapshot, query: str) -> list[int]:
    """Rows of the items whose title or id holds the text, those that are gone left out. Letters of any case."""
    table = snapshot.recommender.item_table
    there = pl.Series("there", (~snapshot.gone).numpy())
    if query.strip():
        searched = [name for name in TITLES if name in table.columns][:1]
        needle = query.strip().lower()
        holds = [
            pl.col(name).cast(pl.String).str.to_lowercase().str.contains(needle, literal=True) for name in searched
        ]
        holds.append(pl.col(ITEM).cast(pl.String).str.to_lowercase() == needle)
        there = there & table.select(pl.any_horizontal(*(one.fill_null(False) for one in holds)))[:, 0]
    return there.arg_true().to_list()


def matching_users(snapshot: Snapshot, query: str) -> list[Id]:
    """Ids that begin with the text, then those that hold it; of training, then of strangers who liked something."""
    series = snapshot.recommender.users.series
    new = [one for one in list(snapshot.people) if one not in snapshot.user_rows]
    ids = pl.concat([series, pl.Series(series.name, new, dtype=series.dtype)])
    needle = query.strip()
    if not needle:
        return ids.to_list()
    texts = ids.cast(pl.String)
    begins = texts.str.starts_with(needle)
    holds = texts.str.contains(needle, literal=True) & ~begins
    return [*ids.filter(texts == needle), *ids.filter(begins & (texts != needle)), *ids.filter(holds)]


def picture_folder(recommender: Recommender, given: str | None) -> Path | None:
    """Where the pictures of the run's items lie: as given, or as the dataset notes."""
    from lirdrec.data.storage import read_manifest

    if given is not None:
        return Path(given)
    features = recommender.features
    if features is None or features.folder is None:
        return None
    try:
        noted = read_manifest(features.folder)["info"].get(IMAGES)
    except LirdrecError:
        return None
    return features.folder / noted if isinstance(noted, str) else None


def picture_of(snapshot: Snapshot, store: Store, folder: Path | None, id: Id, row: int, size: int) -> bytes | None:
    """A small JPEG of an item, or None if it has no picture that can be opened."""
    kept = store.picture(id)
    if kept is not None:
        return thumbnail(kept, size)
    table = snapshot.recommender.item_table
    name = table[IMAGE][row] if IMAGE in table.columns else None
    if folder is None or not isinstance(name, str) or not name or "\0" in name:
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):  # the table comes with the run, but a new item may name its own
        return None
    try:
        return thumbnail(path, size)
    except DataError:
        return None


def item_map(snapshot: Snapshot, column: str | None, limit: int) -> dict[str, Any]:
    """Items in the plane of their vectors' two main directions.

    Raises:
        CapabilityError: the model has no item vectors.
        ConfigError: no such column.
    """
    recommender = snapshot.recommender
    if not isinstance(recommender.scorer, VectorScorer):
        raise CapabilityError("this model has no item vectors that could be drawn")
    table = recommender.item_table
    if column is not None and column not in table.columns:
        hint = nearest(column, table.columns, f"the item table has {', '.join(table.columns)}")
        raise ConfigError(f"map: no column '{column}'; {hint}")
    rows = (~snapshot.gone).nonzero().squeeze(1)
    if len(rows) > limit:
        rows = rows[torch.linspace(0, len(rows) - 1, limit).long()]
    vectors = recommender.scorer.item_vectors[rows].double()
    centred = vectors - vectors.mean(dim=0)
    values, directions = torch.linalg.eigh(centred.T @ centred)  # (D,), (D, D), smallest first
    axes = directions[:, [-1, -2]] if directions.shape[1] > 1 else directions.repeat(1, 2)
    axes = axes * torch.where(axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)) < 0, -1.0, 1.0)
    points = centred @ axes
    total = float(values.sum().clamp(min=1e-12))
    shown = table[rows.tolist()]
    title = next((name for name in TITLES if name in table.columns), None)
    return {
        "items": shown[ITEM].to_list(),
        "titles": [None] * len(rows) if title is None else shown[title].cast(pl.String).to_list(),
        "x": [round(x, 5) for x in points[:, 0].tolist()],
        "y": [round(y, 5) for y in points[:, 1].tolist()],
        "column": column,
        "values": None if column is None else shown[column].to_list(),
        "explained": [float(value) / total for value in values.flip(0)[:2]],
    }
