"""Recommendations of a hand-made recommender, compared as whole tables."""

from __future__ import annotations

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from lirdrec.errors import CapabilityError, ConfigError, DataError, UnknownIdError

from ..helpers import assert_error, assert_mentions


def rows(frame: pl.DataFrame) -> list[tuple]:
    return frame.rows()


def test_best_unseen_items_of_one_user(recommender):
    frame = recommender.recommend("ann", k=2)
    assert frame.schema == {"user": pl.String, "item": pl.Int64, "rank": pl.Int64, "score": pl.Float64}
    assert rows(frame) == [("ann", 30, 1, 3.0), ("ann", 20, 2, 2.0)]


def test_seen_items_come_back_on_request(recommender):
    assert rows(recommender.recommend("ann", k=2, exclude_seen=False)) == [("ann", 40, 1, 4.0), ("ann", 30, 2, 3.0)]


def test_many_users_in_the_order_asked_and_ties_by_row(recommender):
    frame = recommender.recommend(["cy", "bob", "cy"], k=3)
    cy = [("cy", 10, 1, 5.0), ("cy", 20, 2, 5.0), ("cy", 30, 3, 5.0)]
    assert rows(frame) == [*cy, ("bob", 20, 1, 3.0), ("bob", 30, 2, 2.0), ("bob", 40, 3, 1.0), *cy]


def test_all_users(recommender):
    assert rows(recommender.recommend(k=1)) == [("ann", 30, 1, 3.0), ("bob", 20, 1, 3.0), ("cy", 10, 1, 5.0)]


def test_fewer_rows_where_fewer_items_remain(recommender):
    assert rows(recommender.recommend("ann", k=4)) == [("ann", 30, 1, 3.0), ("ann", 20, 2, 2.0)]


def test_candidates_restrict_in_any_order(recommender):
    assert rows(recommender.recommend("bob", k=4, candidates=[40, 10, 30])) == [
        ("bob", 30, 1, 2.0),
        ("bob", 40, 2, 1.0),
    ]


@pytest.mark.parametrize(
    ("kind", "made"),
    [("polars", pl.DataFrame), ("pandas", pd.DataFrame), ("arrow", pa.Table)],
)
def test_frames_come_back_as_the_kind_asked(recommender, kind, made):
    recommender.frames = kind
    for frame in (
        recommender.recommend("ann", k=2),
        recommender.score(("ann", 10)),
        recommender.similar_items(10, k=1),
        recommender.similar_users("ann", k=1),
    ):
        assert isinstance(frame, made)


@pytest.mark.parametrize("ask", [["ann", "bob"], pl.Series(["ann", "bob"]), pd.Series(["ann", "bob"]), ("ann", "bob")])
def test_ids_in_any_container(recommender, ask):
    assert recommender.recommend(ask, k=1)["item"].to_list() == [30, 20]


def test_unknown_users_skipped(recommender):
    assert rows(recommender.recommend(["zoe", "bob"], k=1, unknown="skip")) == [("bob", 20, 1, 3.0)]
    assert rows(recommender.recommend("zoe", k=1, unknown="skip")) == []


def test_unknown_users_get_what_is_popular(recommender):
    frame = recommender.recommend(["zoe", "bob"], k=2, unknown="popular")
    assert rows(frame) == [("zoe", 10, 1, 2.0), ("zoe", 40, 2, 1.0), ("bob", 20, 1, 3.0), ("bob", 30, 2, 2.0)]
    assert rows(recommender.recommend("zoe", k=3, unknown="popular", candidates=[20, 40])) == [
        ("zoe", 40, 1, 1.0),
        ("zoe", 20, 2, 0.0),
    ]


@pytest.mark.parametrize(
    ("ask", "error", "facts"),
    [
        (lambda r: r.recommend("anne", k=1), UnknownIdError, ["user", "'anne'", "'ann'"]),
        (lambda r: r.recommend(7, k=1), UnknownIdError, ["user", 7, "strings", "'ann', 'bob', 'cy'"]),
        (lambda r: r.recommend(["x", "y", "ann"], k=1), UnknownIdError, ["2 ", "x, y"]),
        (lambda r: r.recommend(7, k=1, unknown="popular"), UnknownIdError, ["user", 7, "strings"]),
        (lambda r: r.recommend("ann", k=1, candidates=[10, 12]), UnknownIdError, ["item", 12, "10, 20, 30"]),
        (lambda r: r.recommend("ann", k=1, candidates=[]), ConfigError, ["candidates"]),
        (lambda r: r.recommend("ann", k=0), ConfigError, ["k", 0, 1]),
        (lambda r: r.recommend("ann", k=5), ConfigError, ["k", 5, "4 items"]),
        (
            lambda r: r.recommend("ann", unknown="guess"),
            ConfigError,
            ["unknown", "'guess'", "'raise', 'skip', 'popular'"],
        ),
        (lambda r: r.recommend(3.5, k=1), UnknownIdError, [3.5, "strings", "integers"]),
        (lambda r: r.similar_items("10", k=1), UnknownIdError, ["item", "'10'", "integers", "did you mean 10"]),
        (lambda r: r.similar_items(10, k=4), ConfigError, ["k", 4, 3]),
        (lambda r: r.score(["ann"]), DataError, ["(user, item)", "'user'", "'item'"]),
        (lambda r: r.score(pl.DataFrame({"user": ["ann"]})), DataError, ["'item'", "user"]),
        (lambda r: r.score([("ann", 10), ("ann", 11)]), UnknownIdError, ["item", 11, "10, 20, 30"]),
        (lambda r: r.recommend_for_history([], k=1), DataError, ["history"]),
        (lambda r: r.recommend_for_history([[10], []], k=2), DataError, ["history 1"]),
        (lambda r: r.recommend_for_history([10], k=2), CapabilityError, ["model", "users"]),
        (lambda r: r.add_items([50]), CapabilityError, ["model", "items"]),
        (lambda r: r.explain("ann", 11), UnknownIdError, ["item", 11]),
    ],
)
def test_bad_questions_get_one_sentence(recommender, ask, error, facts):
    with assert_error(error, mentions=facts) as caught:
        ask(recommender)
    assert "\n" not in str(caught.value)


def test_score_of_pairs_and_frames(recommender):
    expected = [("bob", 10, 4.0), ("ann", 30, 3.0)]
    assert rows(recommender.score([("bob", 10), ("ann", 30)])) == expected
    assert rows(recommender.score(pl.DataFrame({"item": [10, 30], "user": ["bob", "ann"]}))) == expected
    assert rows(recommender.score(pd.DataFrame({"user": ["bob"], "item": [10]}))) == expected[:1]
    assert rows(recommender.score(("ann", 40))) == [("ann", 40, 4.0)]


def test_similar_items_by_cosine_without_the_item_itself(recommender):
    frame = recommender.similar_items(10, k=2)
    assert frame.columns == ["item", "neighbor", "rank", "score"]
    assert frame["neighbor"].to_list() == [20, 30]
    # (1,4)·(2,3) / (√17 √13) and (1,4)·(3,2) / (√17 √13)
    assert frame["score"].to_list() == pytest.approx([14 / 221**0.5, 11 / 221**0.5])
    assert rows(recommender.similar_items([40, 10], k=1).select("item", "neighbor")) == [(40, 30), (10, 20)]
    assert recommender.similar_items(10, k=2, candidates=[30, 40])["neighbor"].to_list() == [30, 40]


def test_similar_users(recommender):
    frame = recommender.similar_users("ann", k=2)
    assert rows(frame.select("user", "neighbor", "rank")) == [("ann", "cy", 1), ("ann", "bob", 2)]
    assert frame["score"].to_list() == pytest.approx([0.5**0.5, 0.0])


def test_explanation_adds_up_exactly(recommender):
    reason = recommender.explain("cy", 20)
    assert reason.parts == {"image": 2.0, "text": 3.0}
    assert reason.score == sum(reason.parts.values()) == 5.0
    assert reason.weights == {"image": 0.25, "text": 0.75}
    assert reason.title == "Twenty" and reason.liked == ()


def test_explanation_names_the_liked_items_nearest_first(recommender):
    reason = recommender.explain("ann", 20, n_liked=5)
    assert [(one.item, one.title) for one in reason.liked] == [(10, "Ten"), (40, "Forty")]
    assert [one.similarity for one in reason.liked] == pytest.approx([14 / 221**0.5, 11 / 221**0.5])
    assert [one.item for one in recommender.explain("ann", 20, n_liked=1).liked] == [10]
    assert_mentions(str(reason), ["Twenty", "user ann", "2.0000 = image 2.0000 + text 0.0000", "Ten, Forty"])


def test_the_item_itself_is_no_reason(recommender):
    assert [one.item for one in recommender.explain("ann", 40).liked] == [10]


def test_liked_items(recommender):
    assert recommender.liked("ann") == [40, 10]
    assert recommender.liked("cy") == []
