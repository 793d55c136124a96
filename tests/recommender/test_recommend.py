"""Recommendations of a hand-made recommender as whole tables; numbers that are not finite are refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from lirdrec.config import make_config
from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import CapabilityError, ConfigError, DataError, RunFolderError, UnknownIdError
from lirdrec.export.vectors import vectors_of
from lirdrec.files.atomic import sha256
from lirdrec.models.registry import build, config_type, model_names, model_type
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.ranking.top_k import top_k_dense
from lirdrec.recommender.known_users_as_new import as_new_users
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.serialization import VECTORS

from ..helpers import assert_error, assert_mentions
from .conftest import hand_made


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


DIMS = {"image": 12, "text": 8}
SCALES = (1.0, 1e6, 1e11, 1e14, 1e16, 1e19, 3e38)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return make_synthetic_dataset(60, 50, 600, DIMS, groups=5, noise=0.3, seed=1, timestamps=True)


def made(data: Dataset, name: str, **options: object) -> Recommender:
    torch.manual_seed(0)
    model = build(name, make_model_inputs(data, "cpu", seed=3), make_config(config_type(name), options, name))
    if model.capabilities.training == "closed_form":
        model.solve()
    return Recommender.from_training(model, data)


KINDS = [(name, {}) for name in model_names() if model_type(name).capabilities.cold_items]
KINDS.append(("content_knn", {"n_neighbors": 5}))


@pytest.mark.parametrize(("name", "options"), KINDS)
@pytest.mark.parametrize("scale", SCALES)
def test_a_large_vector_is_refused_or_harmless(data, name, options, scale):
    recommender = made(data, name, **options)
    before = recommender.recommend(k=20)
    poison = {one: np.full((1, width), scale, np.float32) for one, width in DIMS.items()}
    try:
        recommender.add_items([900], poison)
    except DataError as error:
        assert "900" in str(error) and scale > 1
        assert recommender.n_items == 50 and len(recommender.features.added) == 0
        assert recommender.recommend(k=20).equals(before)
        return
    assert scale < 1e16
    everything = recommender.recommend(k=51, exclude_seen=False)
    assert everything["score"].is_finite().all() and everything.height == 60 * 51
    old = everything.filter(everything["item"] != 900)
    assert old["item"].to_list() == made(data, name, **options).recommend(k=50, exclude_seen=False)["item"].to_list()
    if model_type(name).capabilities.new_users:
        liked = recommender.recommend_for_history([900, 3], k=40)
        assert liked["score"].is_finite().all() and liked.height == 40
    recommender.add_items([901], {one: np.ones((1, width), np.float32) for one, width in DIMS.items()})
    assert recommender.recommend(k=52, exclude_seen=False)["score"].is_finite().all()


def test_a_history_that_gives_no_finite_vector_is_named(data):
    recommender = made(data, "lirdrec")
    recommender.scorer.memory["item_states"][7] = torch.inf
    with assert_error(DataError, mentions=["history 1"]):
        recommender.recommend_for_history([[3], [4, 7], [5]])
    assert recommender.recommend_for_history([[3], [5]])["score"].is_finite().all()
    with pytest.raises(DataError):
        as_new_users(recommender)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_left_out(bad):
    draw = np.random.default_rng(0)
    scores = torch.tensor(draw.normal(size=(5, 40)), dtype=torch.float32)
    spoiled = scores.clone()
    spoiled[:, [3, 17]] = bad
    spoiled[4] = bad
    without = scores.clone()
    without[:, [3, 17]] = -torch.inf
    without[4] = -torch.inf
    for given, truth in zip(top_k_dense(spoiled, 39), top_k_dense(without, 39), strict=True):
        assert torch.equal(given, truth)


def test_products_that_overflow_never_rank():
    users, items = torch.full((3, 2), 1e30), torch.tensor([[1e-30, 0], [1e20, 1e20], [1e20, -1e20], [0, 2e-30]])
    recommender = hand_made(scorer=VectorScorer(users, items, ("image", "text")))
    ranked = recommender.recommend("bob", 4, exclude_seen=False)  # 1, inf, NaN, 2
    assert ranked["item"].to_list() == [40, 10] and ranked["score"].to_list() == [2, 1]


@pytest.mark.parametrize("tensor", ["users", "items", "memory.item_states"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_run_with_such_vectors_is_not_loaded(data, tmp_path, tensor, bad):
    run = made(data, "lirdrec").save(tmp_path / "run")
    tensors = load_file(run / VECTORS)
    tensors[tensor][2, 1] = bad
    scorer = VectorScorer(tensors["users"], tensors["items"], memory={"item_states": tensors["memory.item_states"]})
    assert bool(scorer.rankable_items(0).all()) is (tensor == "users")
    save_file(tensors, run / VECTORS)
    manifest = run / "manifest.json"
    listed = json.loads(manifest.read_text())
    listed["files"][VECTORS] = {"bytes": (run / VECTORS).stat().st_size, "sha256": sha256(run / VECTORS)}
    manifest.write_text(json.dumps(listed))
    with assert_error(RunFolderError, mentions=[run, f"'{tensor}'"]):
        Recommender.load(run)


def test_item_weights_are_looked_at_too():
    history = torch.eye(4).to_sparse_csr()
    neighbors, similarity = torch.tensor([[1], [0], [3], [2]]), torch.tensor([[0.5], [0.5], [1e13], [torch.nan]])
    scorer = ItemWeightScorer.of_nearest(history, neighbors, similarity)
    assert scorer.rankable_items(0).tolist() == [True, True, False, False]
    grown = scorer.with_items(torch.tensor([[0], [-1], [2]]), torch.tensor([[1.0], [0.0], [torch.inf]]))
    assert grown.rankable_items(4).tolist() == [True, True, False]
    dense = torch.eye(3)
    dense[0, 2] = torch.inf
    assert ItemWeightScorer(torch.eye(3).to_sparse_csr(), dense).rankable_items(1).tolist() == [True, False]


def test_an_export_refuses_vectors_that_are_not_finite():
    recommender = hand_made()
    recommender.scorer.item_vectors[1, 0] = torch.nan
    with assert_error(DataError, mentions=["items"]):
        vectors_of(recommender)
