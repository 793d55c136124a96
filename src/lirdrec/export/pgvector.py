"""Export vectors as PostgreSQL tables with pgvector: files for COPY, and SQL scripts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.column_names import ITEM, USER
from lirdrec.data.dataset_base import Interactions
from lirdrec.export.vectors import Vectors, item_columns, with_vectors
from lirdrec.recommender.recommender import Recommender

EMBEDDING = "embedding"
MOST_INDEXED = 2000  # maximum number of columns in pgvector's indexes

README = """\
items.csv, users.csv   ids, the items' columns, vectors{seen_file}
load.sql               recreates the tables of the schema lirdrec in one transaction and copies the files into them
index.sql              afterwards, for large catalogs: an approximate index (HNSW); without it, searches are exact

In this folder, with pgvector installed in the server:

    psql DATABASE -f load.sql
    psql DATABASE -f index.sql

The best items of a user (<#> is the negative inner product):

    SELECT i.item, -(i.{embedding} <#> u.embedding) AS score
    FROM lirdrec.items i, lirdrec.users u
    WHERE u."user" = {user}{unseen}
    ORDER BY i.{embedding} <#> u.embedding
    LIMIT 10;

The index is used if the query vector is a constant or a parameter, for instance from a previous query for the user's
vector.
"""
UNSEEN = """
      AND NOT EXISTS (SELECT FROM lirdrec.seen s WHERE s."user" = u."user" AND s.item = i.item)"""

LOAD = """\
\\set ON_ERROR_STOP on
BEGIN;
CREATE EXTENSION IF NOT EXISTS vector;
CREATE SCHEMA IF NOT EXISTS lirdrec;
DROP TABLE IF EXISTS lirdrec.seen, lirdrec.users, lirdrec.items;
CREATE TABLE lirdrec.items (
{items}
);
CREATE TABLE lirdrec.users (
{users}
);
\\copy lirdrec.items FROM 'items.csv' WITH (FORMAT csv, HEADER, ENCODING 'UTF8')
\\copy lirdrec.users FROM 'users.csv' WITH (FORMAT csv, HEADER, ENCODING 'UTF8')
{seen}COMMIT;
ANALYZE lirdrec.items, lirdrec.users;
"""
SEEN = """\
CREATE TABLE lirdrec.seen (
    "user" {user} REFERENCES lirdrec.users,
    item {item} REFERENCES lirdrec.items,
    PRIMARY KEY ("user", item)
);
\\copy lirdrec.seen FROM 'seen.csv' WITH (FORMAT csv, HEADER, ENCODING 'UTF8')
"""
INDEX = "CREATE INDEX items_by_vector ON lirdrec.items USING hnsw ({embedding} vector_ip_ops);\n"
NO_INDEX = "-- pgvector's indexes support at most {most:,} columns; these vectors have {width:,}: searches stay exact\n"


def write_pgvector(recommender: Recommender, vectors: Vectors, folder: Path) -> str:
    """Write items.csv, users.csv, seen.csv (not for a stripped run), load.sql and index.sql.

    Returns:
        The text for README.txt.
    """
    items, users, train = item_columns(recommender), recommender.users.series.to_frame(USER), recommender.train
    embedding = EMBEDDING
    while embedding in items.columns:  # a catalog column has this name
        embedding = f"item_{embedding}"
    _write_csv(folder / "items.csv", items, vectors.items, embedding)
    _write_csv(folder / "users.csv", users, vectors.users, EMBEDDING)
    seen = seen_file = unseen = ""
    if train is not None:
        if recommender.dislikes is not None:
            train = Interactions.concatenate([train, recommender.dislikes])
        pairs = {USER: users[USER].gather(train.users), ITEM: recommender.items.series.gather(train.items)}
        pl.DataFrame(pairs).unique(maintain_order=True).write_csv(folder / "seen.csv")
        seen = SEEN.format(item=_type(items.schema[ITEM]), user=_type(users.schema[USER]))
        seen_file, unseen = "\nseen.csv               the items that each user has seen", UNSEEN
    load = LOAD.format(
        items=_columns(items, embedding, vectors.width), users=_columns(users, EMBEDDING, vectors.width), seen=seen
    )
    (folder / "load.sql").write_text(load, encoding="utf-8")
    index = INDEX if vectors.width <= MOST_INDEXED else NO_INDEX
    index = index.format(embedding=_quoted(embedding), most=MOST_INDEXED, width=vectors.width)
    (folder / "index.sql").write_text(index, encoding="utf-8")
    user = users[USER][0]
    user = user if isinstance(user, int) else "'" + user.replace("'", "''") + "'"
    return README.format(embedding=_quoted(embedding), user=user, seen_file=seen_file, unseen=unseen)


def _write_csv(path: Path, frame: pl.DataFrame, vectors: np.ndarray, embedding: str) -> None:
    frame = frame.with_columns(_text(frame[name]) for name in frame.columns)
    with path.open("wb") as file:
        for number, block in enumerate(with_vectors(frame, vectors, embedding)):
            numbers = pl.col(embedding).cast(pl.List(pl.String)).list.join(",")
            block.with_columns(pl.format("[{}]", numbers).alias(embedding)).write_csv(file, include_header=number == 0)


def _text(column: pl.Series) -> pl.Series:
    if column.dtype == pl.String:
        return column.str.replace_all("\0", "", literal=True)  # PostgreSQL does not support this character
    if column.dtype.is_nested():
        texts = [
            None if value is None else json.dumps(_finite(value), ensure_ascii=False, default=str)
            for value in column.to_list()
        ]
        return pl.Series(column.name, texts, pl.String).str.replace_all("\\u0000", "", literal=True)
    return column


def _finite(value: Any) -> Any:
    """Return a value of lists and dicts with None for each number that is not finite; JSON has no such numbers."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _columns(frame: pl.DataFrame, embedding: str, width: int) -> str:
    lines = [f"{_quoted(name)} {_type(kind)}" for name, kind in frame.schema.items()]
    lines[0] += " PRIMARY KEY"
    return ",\n".join(f"    {line}" for line in [*lines, f"{_quoted(embedding)} vector({width}) NOT NULL"])


def _type(kind: Any) -> str:
    if kind == pl.UInt64:
        return "numeric"
    if kind.is_integer():
        return "bigint"
    if kind.is_float():
        return "double precision"
    if kind.is_nested():
        return "jsonb"
    if kind == pl.Datetime:
        return "timestamptz" if getattr(kind, "time_zone", None) else "timestamp"
    return {pl.Boolean: "boolean", pl.Date: "date"}.get(kind.base_type(), "text")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
