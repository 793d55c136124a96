"""Every type that a column of an item table can have, and ids up to 2**63 - 1, over HTTP and on the page."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import lirdrec
import lirdrec.server
from lirdrec.data import Dataset
from lirdrec.errors import ConfigError
from lirdrec.export.export import export
from lirdrec.models.item_knn import ItemKNNConfig
from lirdrec.models.lightgcn import LightGCNConfig
from lirdrec.ranking.item_filters import Filter
from lirdrec.recommender.recommender import Recommender
from lirdrec.training.config import TrainConfig

from ..helpers import PATIENCE, assert_error
from .runs import Listening, Servers

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


FIRST = 2**53 + 1  # two neighbors are one number to JavaScript
LARGEST = 2**63 - 1
ITEMS = [*range(FIRST, FIRST + 8), 2**62 - 1, 2**62, LARGEST - 1, LARGEST]
USERS = [7, *range(FIRST, FIRST + 16), 2**62, LARGEST]

ODD = r'{"a\\": "x\" 12345678901234567890, ", "b": [-12345678901234567890, 1e21, 0.12345678901234567890, 12]}'
PAGE = """
import { readFileSync, writeFileSync } from "node:fs";
const [address, source, copy, text] = process.argv.slice(2);
globalThis.document = { baseURI: address + "/ui/", dispatchEvent() {}, createElement: () => ({}) };
globalThis.IntersectionObserver = class { observe() {} unobserve() {} };
globalThis.sessionStorage = { getItem: () => null, setItem() {}, removeItem() {} };
writeFileSync(copy, readFileSync(source, "utf8"));
const { api, parsed } = await import(copy);
const { users } = await api.users({ limit: 50 });
const { items } = await api.items({ limit: 50 });
const opened = [];
for (const one of items) opened.push([String(one.item), one.title, (await api.item(one.item)).title]);
const lists = [];
for (const { user } of users) {
  const { items } = await api.recommend({ user, k: 3, exclude_seen: true });
  lists.push([String(user), String((await api.user(user, {})).user), items.map((one) => String(one.item))]);
}
const history = items.slice(0, 2).map((one) => one.item);
const filter = { title: { contains: '1", 12345678901234567890' } };
const similar = (await api.recommend({ history, k: 2, filter })).items;
const removed = await api.remove(items[1].item);
const odd = parsed(text);
console.log(JSON.stringify({ opened, lists, similar, removed, odd, left: (await api.items({})).total }));
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    draw = np.random.default_rng(0)
    pairs = [(user, ITEMS[index]) for user in USERS for index in draw.permutation(len(ITEMS))[:5]]
    plays = pl.DataFrame(pairs, schema={"user": pl.Int64, "item": pl.Int64}, orient="row")
    table = pl.DataFrame({"item": ITEMS, "title": [f"Song {item}" for item in ITEMS]})
    folder = tmp_path_factory.mktemp("large") / "run"
    lirdrec.fit(Dataset.from_frames(plays, items=table, split="none"), ItemKNNConfig(), progress=False).save(folder)
    return folder


def test_http_takes_and_gives_every_id_that_a_run_can_have(large, tmp_path):
    servers = Servers(large, f"sqlite:///{tmp_path / 'live.sqlite'}")
    client, recommender = servers(ui=True), Recommender.load(large)
    for user in USERS:
        expected = recommender.recommend(user, 3)["item"].to_list()
        answer = client.post("/recommend", json={"user": user, "k": 3})
        assert [one["item"] for one in answer.json()["items"]] == expected
        assert client.get(f"/users/{user}").json()["user"] == user
    for item in ITEMS:
        assert client.get(f"/items/{item}").json() == {
            "item": item,
            "title": f"Song {item}",
            "columns": {"title": f"Song {item}"},
            "added": False,
        }
        assert client.get("/explain", params={"user": LARGEST, "item": item}).status_code in (200, 409)
    answer = client.post("/recommend", json={"history": [2**62, LARGEST], "k": 3})
    assert answer.status_code == 200
    events = [{"user": LARGEST, "item": LARGEST - 1}, {"user": 2**62 + 5, "item": LARGEST}]
    assert client.post("/events", json={"events": events}).json()["users"] == [LARGEST, 2**62 + 5]
    assert client.get(f"/users/{2**62 + 5}").json()["liked"][0]["item"] == LARGEST
    assert client.post("/recommend", json={"user": LARGEST + 1}).status_code == 422
    assert client.get(f"/users/{LARGEST + 1}").status_code == 404
    assert client.delete(f"/items/{2**62}").json()["items"] == [2**62]
    assert client.get(f"/items/{2**62}").status_code == 404
    assert client.get(f"/items/{2**62 - 1}").status_code == 200
    servers.stop_all()


@pytest.mark.skipif(shutil.which("node") is None, reason="install Node.js (.ci/run does): it runs the page's script")
def test_the_page_opens_explains_and_removes_the_very_item_that_it_shows(large, tmp_path):
    source = Path(lirdrec.server.__file__).parent / "ui" / "api.js"
    (tmp_path / "page.mjs").write_text(PAGE)
    recommender = Recommender.load(large)
    with Listening(large, tmp_path, ui=True) as server:
        command = ["node", "page.mjs", server.url, str(source), str(tmp_path / "api.mjs"), ODD]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert {one[0] for one in seen["opened"]} == set(map(str, ITEMS))
    assert all(title == opened == f"Song {item}" for item, title, opened in seen["opened"])
    assert [one[0] for one in seen["lists"]] == [one[1] for one in seen["lists"]] == list(map(str, USERS))
    for user, _, items in seen["lists"]:
        assert items == list(map(str, recommender.recommend(int(user), 3)["item"]))
    assert seen["similar"] == [] and seen["removed"]["items"] == [seen["opened"][1][0]]
    assert seen["left"] == len(ITEMS) - 1
    numbers = ["-12345678901234567890", 1e21, 0.12345678901234568, 12]
    assert seen["odd"] == {"a\\": 'x" 12345678901234567890, ', "b": numbers}
