"""Models of ordered histories: recommendations follow the order, likes are appended, explanations name the mover."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.errors import DataError
from lirdrec.models.ease import EASEConfig
from lirdrec.recommender.explanation import history_effects
from lirdrec.recommender.fit import fit
from lirdrec.recommender.new_users import as_new_users
from lirdrec.recommender.recommender import Recommender

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
