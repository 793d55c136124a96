"""LIRDRec-Seq in everything that serves a run: exports, slim runs, the approximate index, batches, new items."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.errors import CapabilityError
from lirdrec.export.folder import export
from lirdrec.models.lirdrec_seq import LIRDRecSeqConfig
from lirdrec.recommender.batch import recommend_all
from lirdrec.recommender.fit import fit
from lirdrec.recommender.new_item_encoder import NewItemEncoder
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.engine.ann import ApproximateIndex
from lirdrec.server.engine.query import Query
from lirdrec.server.engine.ranker import Ranker
from lirdrec.server.state import LiveState
from lirdrec.server.store import Event, Store
from lirdrec.training.config import TrainConfig

from ..cycles import N_ITEMS, after, cycle, places, walker
from ..helpers import assert_error


@pytest.fixture
def grown() -> Recommender:
    """After two likes of user 3, which end at item 11."""
    recommender = Recommender.from_state(walker().state)
    recommender.update([(3, 10), (3, 11)])
    return recommender


def features(place: float) -> dict[str, np.ndarray]:
    return {"image": places([place])[:, :6], "text": places([place])}


@pytest.mark.parametrize("kind", ["npy", "faiss", "pgvector", "qdrant"])
def test_exports_have_the_vectors_of_the_grown_histories(grown, kind, tmp_path):
    folder = export(grown, kind, tmp_path / kind)
    expected = grown.scorer.user_vectors.numpy()
    if kind in ("npy", "faiss"):
        np.testing.assert_array_equal(np.load(folder / "users.npy"), expected)
    elif kind == "qdrant":
        points = [json.loads(line) for line in (folder / "users.jsonl").read_text().splitlines()]
        assert [point["payload"]["user"] for point in points] == grown.users.series.to_list()
        np.testing.assert_allclose([point["vector"] for point in points], expected, rtol=1e-5, atol=1e-6)
    else:
        seen = pl.read_csv(folder / "seen.csv").filter(pl.col("user") == 3)["item"].to_list()
        assert sorted(seen) == sorted(grown.liked(3))


def test_the_item_encoder_of_lirdrec_is_not_exported(grown, tmp_path):
    with assert_error(CapabilityError, mentions=["lirdrec_seq"]):
        export(grown, "onnx", tmp_path / "onnx")


def test_a_slim_run_recommends_by_the_grown_histories_and_refuses_others(grown, tmp_path):
    slim = Recommender.load(grown.slim(tmp_path / "slim"))
    assert not slim.is_ordered
    assert slim.recommend(3, k=1, exclude_seen=False)["item"].item() == 12
    for work in (lambda: slim.update((3, 4)), lambda: slim.recommend_for_history([4]), lambda: slim.explain(3, 4)):
        with assert_error(CapabilityError):
            work()


def test_all_lists_in_a_file_are_those_of_the_recommender(grown, tmp_path):
    grown.update((3, 10))  # again, so that a pair is in the interactions twice
    recommend_all(grown, tmp_path / "all.parquet", 5)
    whole = grown.recommend(k=5)
    written = pl.read_parquet(tmp_path / "all.parquet")
    assert written["item"].to_list() == whole["item"].to_list() and grown.recommend(3, k=1)["item"].item() == 11 + 1


def test_the_approximate_index_ranks_histories_and_grown_users(tmp_path):
    pytest.importorskip("faiss")
    run = Recommender.from_state(walker().state).save(tmp_path / "run")
    live = LiveState(run, Store(f"sqlite:///{tmp_path / 'store.sqlite'}"))
    snapshot = live.add_events([Event(3, 10), Event(3, 11), Event(700, 5)])
    queries = [Query(3, k=3), Query(history=[5, 17], k=3), Query(700, k=3), Query(8, k=3)]
    exact, index = Ranker().rank(snapshot, queries), Ranker(index=ApproximateIndex("hnsw")).rank(snapshot, queries)
    assert [answer.items for answer in exact] == [answer.items for answer in index]
    assert [answer.items[0] for answer in index[:3]] == [12, 18, 6]


def test_a_mixed_vector_of_a_new_item_is_ranked_and_its_content_read(grown):
    """`NewItemEncoder` changes what is ranked; histories read the vector of the model."""
    encoder = NewItemEncoder(content=0.3, n_neighbors=4, offset=0.05)
    plain, mixed = Recommender.from_state(walker().state), Recommender.from_state(walker().state)
    mixed.info["new_items"] = encoder.to_info()
    for one in (plain, mixed):
        one.add_items([100], features(6.5))
    assert not torch.equal(plain.scorer.item_vectors[-1], mixed.scorer.item_vectors[-1])
    assert torch.equal(plain.scorer.memory["item_inputs"], mixed.scorer.memory["item_inputs"])
    lists = [torch.tensor([4, 5, N_ITEMS])]
    assert torch.equal(mixed.model().fold_in(mixed.scorer, lists), plain.model().fold_in(plain.scorer, lists))
    reason = mixed.explain(3, 100)
    assert reason.parts["offset of new items"] == pytest.approx(0.05) and sum(reason.parts.values()) == reason.score
    assert mixed.recommend_for_history([4, 5, 100], k=2)["item"].to_list()[0] in (6, after(6), 8)


def test_a_run_that_was_saved_before_there_was_content_opens():
    config = LIRDRecSeqConfig(embedding_size=16, n_layers=1, content_weight=0, new_content_weight=0)
    recommender = fit(cycle(), config, TrainConfig(epochs=1), progress=False, cache=False, calibrate_new_items=False)
    for option in ("content_weight", "new_content_weight", "content_columns"):
        del recommender.state.info["model_config"][option]
    opened = Recommender.from_state(recommender.state)
    assert opened.model("fold in").config == config
    opened.add_items([99], features(3.5))
    assert opened.recommend_for_history([2, 3], k=5).height == 5


def test_the_vectors_of_new_items_are_not_mixed_with_those_of_neighbors():
    config = LIRDRecSeqConfig(embedding_size=16, n_layers=1)
    recommender = fit(cycle(), config, TrainConfig(epochs=1), progress=False, cache=False)
    assert recommender.new_item_encoder.content == 1 and recommender.new_item_encoder.frontier


def test_new_items_are_scored_by_the_similarity_to_the_history():
    recommender = Recommender.from_state(walker().state)
    history = recommender.liked(3)
    near, far = (features(float(np.median(history)) + turn) for turn in (0, N_ITEMS / 2))
    recommender.add_items([50, 51], {name: np.concatenate([near[name], far[name]]) for name in near})
    content = {item: recommender.explain(3, item).parts["content"] for item in (50, 51, history[0])}
    assert content[50] > 0.3 > 0 > content[51] and content[history[0]] == 0
