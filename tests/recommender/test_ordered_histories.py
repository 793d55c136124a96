"""Models of ordered histories, LIRDRec-Seq in all that serves a run: the order of likes decides what follows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.config import make_config
from lirdrec.errors import CapabilityError, DataError
from lirdrec.export.export import export
from lirdrec.models.ease import EASEConfig
from lirdrec.models.lirdrec_seq import LIRDRecSeqConfig
from lirdrec.models.registry import config_type
from lirdrec.recommender.explanation import history_effects
from lirdrec.recommender.fit import fit
from lirdrec.recommender.known_users_as_new import as_new_users
from lirdrec.recommender.new_item_encoder import NewItemEncoder
from lirdrec.recommender.recommend_all import recommend_all
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.engine.ann import ApproximateIndex
from lirdrec.server.engine.query import Query
from lirdrec.server.engine.ranker import Ranker
from lirdrec.server.state import LiveState
from lirdrec.server.store import Event, Store
from lirdrec.training.config import TrainConfig

from ..cycles import N_ITEMS, after, cycle, places, walker
from ..helpers import assert_error

NAMES = ["lirdrec_seq", "last_item_knn"]


@pytest.fixture(params=NAMES)
def recommender(request) -> Recommender:
    return Recommender.from_state(walker(request.param).state)


@pytest.fixture
def seq() -> Recommender:
    return Recommender.from_state(walker().state)


def best(recommender: Recommender, history: list[int], **options) -> int:
    return recommender.recommend_for_history(history, k=1, **options)["item"].item()


def top(recommender: Recommender, user: int) -> int:
    return recommender.recommend(user, k=1)["item"].item()


def test_the_order_of_a_history_decides(recommender):
    assert best(recommender, [5, 17]) == 18 and best(recommender, [17, 5]) == 6
    assert best(recommender, [17, 5, 17]) == 18  # a repeated item has its latest place
    both = recommender.recommend_for_history([[5, 17], [17, 5]], k=3)
    assert both.filter(pl.col("rank") == 1)["item"].to_list() == [18, 6]


def test_the_order_does_not_matter_to_other_models():
    recommender = fit(cycle(), EASEConfig(), progress=False, cache=False)
    assert not recommender.is_ordered
    one, other = (recommender.recommend_for_history(items, k=5) for items in ([5, 17, 9, 5], [9, 17, 5]))
    assert one.equals(other)


def test_a_folded_history_of_training_gives_the_trained_vector(seq):
    folded = as_new_users(seq).scorer.user_vectors
    torch.testing.assert_close(folded, seq.scorer.user_vectors)
    assert best(seq, seq.liked(3)) == top(seq, 3) == after(seq.liked(3)[-1])


def test_likes_are_appended_and_lists_follow(recommender, tmp_path):
    start = recommender.liked(3)
    first, second = after(start[-1]), after(after(start[-1]))
    others = recommender.scorer.queries(torch.arange(4, 20)).clone()
    recommender.update([(3, first), (3, second)])
    assert recommender.liked(3) == [*start, first, second] and top(recommender, 3) == after(second)
    assert torch.equal(recommender.scorer.queries(torch.arange(4, 20)), others)
    scores = recommender.recommend(3, k=5)
    loaded = Recommender.load(recommender.save(tmp_path / "run"), verify=True)
    assert loaded.recommend(3, k=5).equals(scores) and loaded.liked(3) == recommender.liked(3)
    loaded.update((3, after(second)))
    assert top(loaded, 3) == after(after(second))
    # again: the item moves to the end, once
    loaded.update((3, first))
    assert loaded.liked(3) == [*start, second, after(second), first]
    assert loaded.exclusions.of(3).tolist() == loaded.histories.of(3).tolist()
    again = Recommender.load(loaded.save(tmp_path / "again"))
    assert again.liked(3) == loaded.liked(3) and again.recommend(3, k=5).equals(loaded.recommend(3, k=5))


def test_a_user_whose_vector_is_not_finite_is_named(seq, monkeypatch):
    wrong, fold_in = torch.tensor(seq.liked(5)), type(seq.model()).fold_in

    def broken(self, scorer, histories):
        vectors = fold_in(self, scorer, histories)
        vectors[[set(wrong.tolist()) <= set(history.tolist()) for history in histories]] = torch.nan
        return vectors

    monkeypatch.setattr(type(seq.model()), "fold_in", broken)
    first = next(user for user in range(120) if set(seq.liked(5)) <= set(seq.liked(user)))
    with assert_error(DataError, mentions=[f"user {first}"]):
        as_new_users(seq)
    with assert_error(DataError, mentions=["user 5"]):
        seq.update([(5, after(seq.liked(5)[-1]))])


def test_items_of_weight_zero_stay_in_the_histories():
    config = make_config(config_type("last_content_knn"), {"n_neighbors": 5, "history_decay": 0.0})
    trained = fit(cycle(), config, progress=False, cache=False)
    plain, updated = (Recommender.from_state(trained.state) for _ in range(2))
    updated.update([(user, 0) for user in range(120)])
    for one in (plain, updated):
        one.add_items([50], features(6.5))
    weights = [one.scorer.weights.to_dense()[:, N_ITEMS] for one in (plain, updated)]
    assert (weights[0] > 0).sum() == 5 and torch.equal(*weights)
    assert updated.recommend(7, k=1).height == 1


def test_what_is_the_latest_already_changes_nothing(seq):
    scorer, n = seq.scorer, len(seq.train)
    seq.update((3, seq.liked(3)[-1]))
    assert seq.scorer is scorer and len(seq.train) == n


def test_timestamps_put_likes_in_their_place(seq):
    start = seq.liked(3)
    new = [item for item in range(N_ITEMS) if item not in start][:3]
    last = int(seq.histories.times.max())
    likes = pl.DataFrame({"user": [3] * 3, "item": new, "timestamp": [last + 9, -1, last + 5]})
    seq.update(likes)
    assert seq.liked(3) == [new[1], *start, new[2], new[0]]
    with assert_error(DataError, mentions=["timestamp"]):
        seq.update(likes.with_columns(timestamp=pl.lit("now")))


def test_one_call_or_several_give_the_same(seq):
    other, start = Recommender.from_state(seq.state), seq.liked(3)
    likes = [(3, after(start[-1])), (4, 2), (3, start[0]), (3, 11)]
    seq.add_items([100], {"image": places([3])[:, :6], "text": places([3])})
    other.add_items([100], {"image": places([3])[:, :6], "text": places([3])})
    likes.append((4, 100))
    seq.update(likes)
    for like in likes:
        other.update(like)
    for name, tensor in seq.scorer.tensors().items():
        torch.testing.assert_close(other.scorer.tensors()[name], tensor)
    # the added item moves to the trained vector of the user, not to the one that has the item in its history
    trained = walker().scorer
    expected = seq.model().fold_in_items(
        Recommender.from_state(_with_item()).scorer, torch.tensor([N_ITEMS]), [trained.user_vectors[[4]]]
    )
    torch.testing.assert_close(seq.scorer.item_vectors, expected.item_vectors)


def _with_item():
    fresh = Recommender.from_state(walker().state)
    fresh.add_items([100], {"image": places([3])[:, :6], "text": places([3])})
    return fresh.state


def test_an_explanation_has_the_weights_of_the_last_step(seq):
    history = seq.liked(3)
    reason = seq.explain(3, after(history[-1]))
    assert list(reason.weights) == list(seq.model().branches)
    model, items = seq.model(), seq.items.rows(history)
    table = seq.scorer.memory["item_inputs"][torch.tensor(items)][None]
    with torch.no_grad():  # all steps; the last counts
        alpha = model.eval().weighted_states(table[..., : model.n_learned], None, None)[1][0, -1]
    assert list(reason.weights.values()) == pytest.approx(alpha.tolist(), abs=1e-5)
    assert sum(reason.weights.values()) == pytest.approx(1, abs=1e-5)
    assert seq.explain(3, 0, n_liked=0).weights == reason.weights


def test_explanations_name_the_item_that_moved_the_score(seq):
    history = seq.liked(3)
    item = after(history[-1])
    reason = seq.explain(3, item, n_liked=len(history))
    assert sum(reason.parts.values()) == reason.score and set(reason.parts) == {"image", "text", "shared", "content"}
    assert reason.liked[0].item == history[-1] and reason.liked[0].moved > 0
    moved = {one.item: one.moved for one in reason.liked}
    assert set(moved) == set(history) and list(moved.values()) == sorted(moved.values(), reverse=True)
    vectors, rows = seq.scorer.item_vectors, seq.histories.of(3)
    for place, taken in enumerate(history):  # one at a time, by the definition
        rest = torch.cat([rows[:place], rows[place + 1 :]])
        queries = [seq.model().fold_in(seq.scorer, [h])[0] for h in (rows, rest)]
        expected = float((queries[0] - queries[1]) @ vectors[int(seq.items.rows([item])[0])])
        assert moved[taken] == pytest.approx(expected, abs=1e-5)


def test_only_the_items_that_the_model_reads_move_the_score():
    recommender = Recommender.from_state(walker().state)
    model = recommender.model()
    history = torch.arange(20)
    model.config = replace(model.config, max_length=6)
    effects = history_effects(model, recommender.scorer, history, 20)
    assert list(effects) == list(range(14, 20))


def test_item_weights_keep_their_sum_beside_the_effects():
    recommender = walker("last_item_knn")
    reason = recommender.explain(3, after(recommender.liked(3)[-1]), n_liked=20)
    assert sum(one.part for one in reason.liked) == pytest.approx(reason.score)
    assert reason.liked[0].item == recommender.liked(3)[-1] and reason.liked[0].moved == pytest.approx(reason.score)


def test_other_models_have_no_effects():
    recommender = fit(cycle(), EASEConfig(), progress=False, cache=False)
    reason = recommender.explain(3, 5)
    assert all(one.moved is None for one in reason.liked) and np.isfinite(reason.score)


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
