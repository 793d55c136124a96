"""Integer ids up to 2**63 - 1 stay what they are, over HTTP and on the page."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import lirdrec
import lirdrec.server
from lirdrec.data import Dataset
from lirdrec.models.item_knn import ItemKNNConfig
from lirdrec.recommender.recommender import Recommender

from ..helpers import PATIENCE
from .servers import Listening, Servers

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
def run(tmp_path_factory):
    draw = np.random.default_rng(0)
    pairs = [(user, ITEMS[at]) for user in USERS for at in draw.permutation(len(ITEMS))[:5]]
    plays = pl.DataFrame(pairs, schema={"user": pl.Int64, "item": pl.Int64}, orient="row")
    table = pl.DataFrame({"item": ITEMS, "title": [f"Song {item}" for item in ITEMS]})
    folder = tmp_path_factory.mktemp("large") / "run"
    lirdrec.fit(Dataset.from_frames(plays, items=table, split="none"), ItemKNNConfig(), progress=False).save(folder)
    return folder


def test_http_takes_and_gives_every_id_that_a_run_can_have(run, tmp_path):
    servers = Servers(run, f"sqlite:///{tmp_path / 'live.sqlite'}")
    client, recommender = servers(ui=True), Recommender.load(run)
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


@pytest.mark.skipif(shutil.which("node") is None, reason="no node to run the page's script in")
def test_the_page_opens_explains_and_removes_the_very_item_that_it_shows(run, tmp_path):
    source = Path(lirdrec.server.__file__).parent / "ui" / "api.js"
    (tmp_path / "page.mjs").write_text(PAGE)
    recommender = Recommender.load(run)
    with Listening(run, tmp_path, ui=True) as server:
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
