"""Whatever engine is asked finds the items that lirdrec finds; what README.txt says works as it stands."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.data.ids import IdMap
from lirdrec.errors import CapabilityError, ConfigError, RunFolderError
from lirdrec.export.export import KINDS, export
from lirdrec.ranking.histories import history_matrix
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.new_item_encoder import NewItemEncoder
from lirdrec.recommender.recommender import Recommender

from ..helpers import assert_error
from .conftest import compare, rankings


def says(folder: Path, first: str) -> str:
    """The indented block of README.txt that begins with `first`."""
    lines = (folder / "README.txt").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"    {first}"))
    block = lines[start:]
    stop = next((number for number, line in enumerate(block) if line and not line.startswith("    ")), len(block))
    return textwrap.dedent("\n".join(block[:stop]))


def run_readme(folder: Path, first: str, monkeypatch, **names) -> dict:
    monkeypatch.chdir(folder)
    exec(says(folder, first), names)
    return names


def test_arrays(shop, tmp_path, monkeypatch):
    folder = export(shop, "npy", tmp_path / "out")
    ids = pl.read_parquet(folder / "items.parquet")["item"]
    found = {}
    for user in shop.users.series:
        outputs = run_readme(folder, "import numpy", monkeypatch, user=user)
        found[user] = ids.gather(outputs["best"]).to_list(), outputs["scores"][outputs["best"]].tolist()
    compare(found, shop)


def test_faiss(shop, tmp_path, monkeypatch):
    faiss = pytest.importorskip("faiss")
    folder = export(shop, "faiss", tmp_path / "out")
    ids = pl.read_parquet(folder / "items.parquet")["item"]
    scores, rows = faiss.read_index(str(folder / "items.faiss")).search(np.load(folder / "users.npy"), 10)
    users = pl.read_parquet(folder / "users.parquet")["user"]
    compare({user: (ids.gather(rows[u]).to_list(), scores[u].tolist()) for u, user in enumerate(users)}, shop)
    outputs = run_readme(folder, "import faiss", monkeypatch, user=7)
    assert ids.gather(outputs["best"][0]).to_list() == rankings(shop)[7][0]


def test_offsets_of_new_items_are_a_column(grown, tmp_path):
    folder = export(grown, "npy", tmp_path / "out")
    users, items = (np.load(folder / f"{name}.npy") for name in ("users", "items"))
    n, width = grown.n_trained_items, grown.scorer.item_vectors.shape[1]
    assert users.shape[1] == items.shape[1] == width + 1
    assert (users[:, -1] == 1).all() and (items[:n, -1] == 0).all() and (items[n:, -1] == np.float32(0.3)).all()
    pairs = [(user, item) for user in grown.users.series for item in grown.items.series]
    expected = grown.score(pairs)["score"].to_numpy().reshape(grown.n_users, grown.n_items)
    np.testing.assert_allclose(users @ items.T, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["faiss", "qdrant"])
def test_other_engines_rank_new_items_as_lirdrec_does(grown, tmp_path, kind, monkeypatch):
    folder, found = export(grown, kind, tmp_path / "out"), {}
    if kind == "faiss":
        faiss = pytest.importorskip("faiss")
        scores, rows = faiss.read_index(str(folder / "items.faiss")).search(np.load(folder / "users.npy"), 10)
        ids = grown.items.series
        found = {user: (ids.gather(rows[u]).to_list(), scores[u].tolist()) for u, user in enumerate(grown.users.series)}
    else:
        qdrant = pytest.importorskip("qdrant_client")
        monkeypatch.setattr(sys, "argv", ["load.py", str(tmp_path / "local")])
        runpy.run_path(str(folder / "load.py"))
        client = qdrant.QdrantClient(path=str(tmp_path / "local"))
        for user in grown.users.series:
            outputs = run_readme(folder, "from qdrant_client", monkeypatch, client=client, user_point=user)
            found[user] = [item for item, _ in outputs["best"]], [score for _, score in outputs["best"]]
        client.close()
    compare(found, grown)
    assert any({900, 901, 902} & set(items) for items, _ in found.values())


@pytest.mark.parametrize("kind", ["plain", "calibrated"])
def test_a_run_that_gives_new_items_an_offset_has_the_column_before_they_come(made, tmp_path, kind):
    recommender = made()
    recommender.info["new_items"] = NewItemEncoder(0.5, 5, 0.3 if kind == "calibrated" else 0.0).to_info()
    folder = export(recommender, "npy", tmp_path / "out")
    extra = kind == "calibrated"
    assert np.load(folder / "items.npy").shape[1] == recommender.scorer.item_vectors.shape[1] + extra


@pytest.mark.parametrize("ids", ["texts", "integers"])
def test_qdrant(shop, made, tmp_path, monkeypatch, ids):
    qdrant = pytest.importorskip("qdrant_client")
    recommender = shop if ids == "texts" else made()
    folder = export(recommender, "qdrant", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["load.py", str(tmp_path / "local")])
    for _ in range(2):  # a second time replaces the first
        runpy.run_path(str(folder / "load.py"))
    client = qdrant.QdrantClient(path=str(tmp_path / "local"))
    users = {point.payload["user"]: point for point in client.scroll("lirdrec_users", limit=1000)[0]}
    found = {}
    for user in recommender.users.series:
        outputs = run_readme(folder, "from qdrant_client", monkeypatch, client=client, user_point=users[user].id)
        found[user] = [item for item, _ in outputs["best"]], [score for _, score in outputs["best"]]
    compare(found, recommender)
    items = {point.payload["item"]: point for point in client.scroll("lirdrec_items", limit=1000)[0]}
    assert list(items) and set(items) == set(recommender.items.series)
    if ids == "integers":
        assert all(point.id == item for item, point in items.items())
    else:
        wanted = recommender.item_table.with_columns(pl.col("price").fill_nan(None), pl.col("added").cast(pl.String))
        assert [items[row["item"]].payload for row in wanted.to_dicts()] == wanted.to_dicts()
    client.close()


@pytest.fixture(scope="module")
def postgres():
    """A real PostgreSQL with pgvector, and its psql; the package pgserver bundles both."""
    pgserver = pytest.importorskip("pgserver", reason="pgserver, which bundles PostgreSQL with pgvector, is missing")
    pytest.importorskip("psycopg")
    # not below pytest's folder: root's PostgreSQL runs as another user, whom every start of pytest shuts out from there
    folder = Path(tempfile.mkdtemp(prefix="lirdrec-pg"))
    try:
        server = pgserver.get_server(folder)
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"pgserver cannot start PostgreSQL here: {error}")
    psql = Path(pgserver.__file__).parent / "pginstall" / "bin" / "psql"

    def load(folder: Path, file: str) -> None:
        done = subprocess.run([psql, server.get_uri(), "-q", "-f", file], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr

    yield server.get_uri(), load
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("ids", ["texts", "integers", "new items"])
def test_pgvector(shop, made, grown, postgres, tmp_path, ids):
    import psycopg

    recommender = {"texts": shop, "integers": made(), "new items": grown}[ids]
    if ids == "texts":
        recommender.users = IdMap([f"o'{user}" for user in recommender.users.series], "user")
    address, load = postgres
    folder = export(recommender, "pgvector", tmp_path / "out")
    for _ in range(2):
        load(folder, "load.sql")
    name = "item_embedding" if ids == "texts" else "embedding"
    with psycopg.connect(address) as connection:
        query = f"""
            SELECT i.item, -(i.{name} <#> u.embedding) FROM lirdrec.items i, lirdrec.users u
            WHERE u."user" = %s ORDER BY i.{name} <#> u.embedding LIMIT 10"""
        users = recommender.users.series
        rows = {user: connection.execute(query, [user]).fetchall() for user in users}
        compare({user: ([i for i, _ in found], [s for _, s in found]) for user, found in rows.items()}, recommender)
        unseen = connection.execute(says(folder, "SELECT")).fetchall()
        expected = recommender.recommend(users[0], k=10)
        assert [item for item, _ in unseen] == expected["item"].to_list()
        if ids == "texts":
            cursor = connection.execute("SELECT * FROM lirdrec.items")
            names = [column.name for column in cursor.description]
            rows = {row[0]: dict(zip(names, row, strict=True)) for row in cursor}
            for row in recommender.item_table.to_dicts():
                there = rows[row["item"]]
                assert all(there[c] == row[c] or (c == "price" and str(there[c]) == "nan") for c in row), (there, row)
        load(folder, "index.sql")
        connection.rollback()
        connection.execute("SET enable_seqscan = off")
        vector = connection.execute("SELECT embedding::text FROM lirdrec.users").fetchone()[0]
        plan = connection.execute(f"EXPLAIN SELECT item FROM lirdrec.items ORDER BY {name} <#> '{vector}' LIMIT 10")
        assert "items_by_vector" in str(plan.fetchall())


def test_vectors_too_wide_for_an_index(made, tmp_path):
    recommender = made()
    recommender.scorer = VectorScorer(torch.ones(45, 2001), torch.ones(60, 2001))
    folder = export(recommender, "pgvector", tmp_path / "out")
    index = (folder / "index.sql").read_text()
    assert "2,001" in index and "CREATE" not in index  # it says why there is no index


def test_a_slim_run_has_vectors_too(recommender, tmp_path):
    slim = Recommender.load(recommender.slim(tmp_path / "slim"))
    for kind in ("npy", "faiss", "qdrant", "pgvector"):
        export(slim, kind, tmp_path / kind)
    assert np.array_equal(np.load(tmp_path / "npy" / "items.npy"), recommender.scorer.item_vectors.numpy())
    assert "seen.csv" not in os.listdir(tmp_path / "pgvector")
    assert "CREATE TABLE lirdrec.seen" not in (tmp_path / "pgvector" / "load.sql").read_text()


def test_a_model_without_vectors_is_refused_and_writes_nothing(recommender, tmp_path):
    train = recommender.train
    history = history_matrix(torch.tensor(train.users), torch.tensor(train.items), 45, 60)
    recommender.scorer = ItemWeightScorer(history, torch.eye(60))
    recommender.info["model"] = "ease"
    for kind in KINDS:
        with assert_error(CapabilityError, mentions=["ease"]):
            export(recommender, kind, tmp_path / "out")
    assert not os.listdir(tmp_path)


def test_what_is_there_is_kept_unless_asked(recommender, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with assert_error(RunFolderError, mentions=[tmp_path / "out", "overwrit"]):
        export(recommender, "npy", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]
    with assert_error(RunFolderError, mentions=[tmp_path / "out"]):
        export(recommender, "npy", tmp_path / "out", overwrite=True)
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "onnx"])
def test_an_export_takes_the_place_of_any_other(recommender, tmp_path, kind):
    export(recommender, kind, tmp_path / "out")
    export(recommender, "npy", tmp_path / "out", overwrite=True)
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(export(recommender, "npy", tmp_path / "plain")))


def test_faiss_that_is_missing_is_named(recommender, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with assert_error(ConfigError, mentions=['pip install "lirdrec[ann]"']):
        export(recommender, "faiss", tmp_path / "out")


def test_an_unknown_kind(recommender, tmp_path):
    with assert_error(ConfigError, mentions=["'fais'", "'faiss'"]):
        export(recommender, "fais", tmp_path / "out")
