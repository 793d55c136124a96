"""Export vectors as Qdrant points, with a script that loads them."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import polars as pl

from lirdrec.data.column_names import USER
from lirdrec.export.vectors import Vectors, item_columns, with_vectors
from lirdrec.recommender.recommender import Recommender

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "lirdrec")

README = """\
items.jsonl, users.jsonl   a point in each line: id, vector, payload (the item's columns; the user's id)
load.py                    loads them into the collections lirdrec_items and lirdrec_users, with the distance Dot;
                           existing collections are replaced. It needs qdrant-client.

    python load.py http://localhost:6333     a server; its key in QDRANT_API_KEY
    python load.py somewhere/folder          Qdrant's local mode

{ids}
The best items of a user, by the user's point:

    from qdrant_client import models

    found = client.query_points(
        "lirdrec_items",
        query=user_point,
        lookup_from=models.LookupLocation(collection="lirdrec_users"),
        limit=10,
    )
    best = [(point.payload["item"], point.score) for point in found.points]

Add query_filter=models.Filter(must=[...]) for conditions on columns, must_not=[models.HasIdCondition(has_id=[...])]
for the items that the user has seen.
"""
INTEGER_IDS = "The id of a point is that of the item or user.\n"
STRING_IDS = """\
Qdrant does not support texts as ids of points: for a text id, the point's id is
    uuid.uuid5(uuid.UUID("{namespace}"), id)
and the payload contains the text id.
"""

LOADER = '''\
"""Load the points of this folder into Qdrant: python load.py URL-or-folder."""

import json
import os
import sys
from pathlib import Path

from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

here = Path(__file__).resolve().parent
where = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:6333"
if "://" in where:
    client = QdrantClient(url=where, api_key=os.environ.get("QDRANT_API_KEY"), timeout=60)
else:
    client = QdrantClient(path=where)
for name in ("items", "users"):
    collection = f"lirdrec_{name}"
    if client.collection_exists(collection):
        client.delete_collection(collection)
    client.create_collection(collection, vectors_config=VectorParams(size={width}, distance=Distance.DOT))
    with (here / f"{name}.jsonl").open(encoding="utf-8") as lines:
        client.upload_points(collection, (PointStruct(**json.loads(line)) for line in lines), wait=True)
    print(f"{collection}: {client.count(collection).count:,} points")
client.close()
'''


def write_qdrant(recommender: Recommender, vectors: Vectors, folder: Path) -> str:
    """Write items.jsonl, users.jsonl and load.py, which loads them; return the text for README.txt."""
    users = recommender.users.series
    _write_points(folder / "items.jsonl", item_columns(recommender), recommender.items.series, vectors.items)
    _write_points(folder / "users.jsonl", users.to_frame(USER), users, vectors.users)
    loader = LOADER.replace("{width}", str(vectors.width))
    (folder / "load.py").write_text(loader, encoding="utf-8")
    integers = recommender.items.is_integer and recommender.users.is_integer
    return README.replace("{ids}", INTEGER_IDS if integers else STRING_IDS.format(namespace=NAMESPACE))


def _write_points(path: Path, payload: pl.DataFrame, ids: pl.Series, vectors: np.ndarray) -> None:
    if ids.dtype != pl.Int64:  # a text becomes a UUID, the same in every export
        ids = pl.Series([str(uuid.uuid5(NAMESPACE, text)) for text in ids], dtype=pl.String)
    points = pl.DataFrame({"id": ids, "payload": payload.to_struct()})
    with path.open("wb") as file:
        for block in with_vectors(points, vectors, "vector"):
            block.select("id", "vector", "payload").write_ndjson(file)
