"""Every type that a column of an item table can have: filtered, described, searched, drawn, exported."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math

import numpy as np
import polars as pl
import pytest

import lirdrec
from lirdrec.data import Dataset
from lirdrec.errors import ConfigError
from lirdrec.export.folder import export
from lirdrec.models.lightgcn import LightGCNConfig
from lirdrec.ranking.filters import Filter
from lirdrec.recommender.recommender import Recommender
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error
from .servers import Servers

N = 12
HUGE = 2**64 + 1
COLUMNS = {
    "title": [["The", "Glass", "of", "River", str(row)] for row in range(N)],
    "fingerprint": pl.Series([2**63 + row for row in range(N)], dtype=pl.UInt64),
    "serial": pl.Series([HUGE + row for row in range(N)], dtype=pl.Int128),
    "price": [decimal.Decimal(f"{row}.50") for row in range(N)],
    "runs": [dt.timedelta(seconds=row) for row in range(N)],
    "born": [dt.date(2024, 1, 1 + row) for row in range(N)],
    "seen": [dt.datetime(2024, 1, 1 + row, 12) for row in range(N)],
    "opens": [dt.time(row) for row in range(N)],
    "nothing": [None] * N,
    "no_number": [math.nan] * N,
    "partly": [math.nan, math.inf, *map(float, range(2, N))],
    "bytes": [b"\xff"] * N,
    "numbers": [[row, row + 1] for row in range(N)],
    "pair": pl.Series([[row, 1] for row in range(N)], dtype=pl.Array(pl.Int64, 2)),
    "nested": [{"a": row, "b": [math.nan]} for row in range(N)],
    "hidden": [{"a": b"x"} for _ in range(N)],
    "kind": pl.Series(["lamp", "tent"] * (N // 2), dtype=pl.Categorical),
    "yes": [row % 2 == 0 for row in range(N)],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose items 0 … 11 have columns of every type."""
    draw = np.random.default_rng(0)
    pairs = [(user, int(item)) for user in range(20) for item in draw.permutation(N)[:4]]
    plays = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
    data = Dataset.from_frames(plays, items=pl.DataFrame({"item": list(range(N)), **COLUMNS}), split="none")
    folder = tmp_path_factory.mktemp("kinds") / "run"
    lirdrec.fit(data, LightGCNConfig(embedding_size=4), TrainConfig(epochs=1), progress=False).save(folder)
    return folder


@pytest.fixture
def client(run, tmp_path):
    servers = Servers(run, f"sqlite:///{tmp_path / 'live.sqlite'}")
    yield servers(ui=True)
    servers.stop_all()


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"fingerprint": {"gt": 5}}, range(N)),
        ({"fingerprint": {"ge": 2**63 + 3}}, range(3, N)),
        ({"fingerprint": {"in": [2**63 + 1, 7]}}, [1]),
        ({"serial": HUGE + 2}, [2]),
        ({"serial": {"lt": HUGE + 2}}, [0, 1]),
        ({"serial": {"gt": 2**127}}, []),
        ({"price": {"le": 1.5}}, [0, 1]),
        ({"runs": {"ge": 10}}, [10, 11]),
        ({"born": {"lt": "2024-01-03"}}, [0, 1]),
        ({"seen": {"ge": "2024-01-12"}}, [11]),
        ({"opens": {"ge": "10:00"}}, [10, 11]),
        ({"nothing": 3}, []),
        ({"nothing": {"contains": "a"}}, []),
        ({"no_number": {"ge": 0}}, []),
        ({"partly": {"lt": 4}}, [2, 3]),
        ({"numbers": {"contains": 5}}, [4, 5]),
        ({"pair": {"contains": 7}}, [7]),
        ({"title": {"contains": "glass"}}, range(N)),
        ({"title": {"contains": "of River 1"}}, [1, 10, 11]),
        ({"kind": "lamp", "yes": True}, range(0, N, 2)),
    ],
)
def test_a_filter_gives_the_items_that_fit(client, run, conditions, expected):
    table = Recommender.load(run).item_table
    assert Filter.parse(conditions).mask(table).nonzero().squeeze(1).tolist() == list(expected)
    answer = client.post("/recommend", json={"history": [0], "exclude_seen": False, "k": N, "filter": conditions})
    assert sorted(one["item"] for one in answer.json()["items"]) == list(expected)


@pytest.mark.parametrize("column", ["bytes", "nested", "hidden"])
def test_what_cannot_be_compared_is_refused(client, run, column):
    with assert_error(ConfigError, mentions=[column]):
        Filter.parse({column: "x"}).mask(Recommender.load(run).item_table)
    answer = client.post("/recommend", json={"user": 1, "filter": {column: "x"}})
    assert answer.status_code == 422 and column in answer.json()["detail"]


def test_columns_items_and_recommendations_tell_every_value(client):
    described = {one["name"]: one for one in client.get("/facets").json()["columns"]}
    assert {"no_number", "nothing", "bytes", "nested"}.isdisjoint(described)
    assert described["title"]["kind"] == "text"
    assert described["serial"]["values"] == [str(HUGE), str(HUGE + N - 1)]
    assert described["fingerprint"]["values"] == [2**63, 2**63 + N - 1]
    assert described["runs"]["values"] == [0, N - 1] and described["price"]["values"] == [0.5, 11.5]
    assert described["partly"]["values"] == [2, 11] and described["kind"]["values"] == ["lamp", "tent"]
    one = client.get("/items/3").json()
    assert one["title"] == "The Glass of River 3"
    values = one["columns"]
    assert (values["serial"], values["fingerprint"], values["runs"]) == (str(HUGE + 3), 2**63 + 3, 3)
    assert (values["bytes"], values["no_number"], values["pair"], values["born"]) == (None, None, [3, 1], "2024-01-04")
    asked = {"user": 1, "k": 2, "columns": list(COLUMNS), "exclude_seen": False}
    for item in client.post("/recommend", json=asked).json()["items"]:
        assert item["columns"] == client.get(f"/items/{item['item']}").json()["columns"]
    for name in described:
        if described[name]["colors"]:
            drawn = client.get("/projection", params={"column": name}).json()
            assert len(drawn["codes"]) == N and max(drawn["codes"]) < len(drawn["labels"])
    assert client.get("/projection", params={"column": "partly"}).json()["codes"][:2] == [-1, -1]


def test_a_title_that_is_a_list_of_words_is_joined_by_blanks(client, run):
    found = client.get("/items", params={"query": "glass 7"}).json()
    assert [one["title"] for one in found["items"]] == ["The Glass of River 7"]
    assert Recommender.load(run).title(4) == "The Glass of River 4"
    near = client.get("/similar/3").json()
    assert all(one["title"] == f"The Glass of River {one['item']}" for one in near["neighbors"])


@pytest.mark.parametrize("kind", ["npy", "qdrant", "pgvector"])
def test_every_column_is_exported_or_left_out(run, tmp_path, kind):
    folder = export(Recommender.load(run), kind, tmp_path / kind)
    if kind == "npy":
        table = pl.read_parquet(folder / "items.parquet")
        assert table["serial"].to_list() == [str(HUGE + row) for row in range(N)]
    elif kind == "qdrant":
        lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
        assert [line["payload"]["fingerprint"] for line in lines] == [2**63 + row for row in range(N)]
        assert "hidden" not in lines[0]["payload"] and lines[3]["payload"]["runs"] == "PT3S"
    else:
        table = pl.read_csv(folder / "items.csv", infer_schema=False)
        assert table["price"].to_list() == [f"{row}.50" for row in range(N)]
        assert "hidden" not in table.columns and json.loads(table["nested"][2]) == {"a": 2, "b": [None]}
