"""Titles that are lists of words: the page, the search and the items read them as one text."""

import polars as pl
from starlette.testclient import TestClient

from lirdrec.recommender.recommender import Recommender

from .runs import whole_numbers
from .servers import Servers


def test_titles_of_words_are_found_and_shown(tmp_path):
    run = whole_numbers(n_items=20)
    words = [["The", "Glass", f"River{row}"] if row else None for row in range(20)]
    table = run.item_table.with_columns(pl.Series("title", words, dtype=pl.List(pl.String)))
    Recommender(run.scorer, run.users, run.items, table, run.train, info={"dataset": "words", "model": "lirdrec"}).save(
        tmp_path / "run"
    )
    servers = Servers(tmp_path / "run", f"sqlite:///{tmp_path / 'live.sqlite'}")
    client: TestClient = servers()
    try:
        found = client.get("/items", params={"query": "glass river3"}).json()
        assert [one["item"] for one in found["items"]] == ["i3"]
        assert found["items"][0]["title"] == "The Glass River3"
        assert client.get("/items/i3").json()["title"] == "The Glass River3"
        assert client.get("/items/i0").json()["title"] is None
    finally:
        servers.stop_all()
