"""Likes after the training: what they change, and how they move new items."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import CapabilityError, DataError, UnknownIdError
from lirdrec.models.base import Features
from lirdrec.models.ease import EASEConfig
from lirdrec.models.lirdrec import LIRDRec, LIRDRecConfig
from lirdrec.models.registry import build, model_names, model_type
from lirdrec.recommender.fit import fit
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error

LIKES = [(3, 100), (4, 100), (9, 101), (3, 7)]


@pytest.fixture
def data():
    return make_synthetic_dataset(30, 40, 400, {"image": 6, "text": 5}, groups=4, noise=0.3, seed=1)


@pytest.fixture
def recommender(data) -> Recommender:
    """LIRDRec as it starts, with the items 100 and 101 added; user 3 has not taken item 7."""
    assert (3, 7) not in zip(data.train.users.tolist(), data.train.items.tolist(), strict=True)
    model = LIRDRec(make_model_inputs(data, "cpu", cache=False), LIRDRecConfig(embedding_size=8))
    made = Recommender.from_training(model, data)
    made.add_items([100, 101], features_of(0))
    return made


def features_of(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {"image": draw.normal(size=(2, 6)), "text": draw.normal(size=(2, 5))}


def test_histories_grow_and_only_added_items_move(recommender, data):
    before, users, n_pairs = recommender.scorer, recommender.users.ids.tolist(), len(recommender.train)
    ids = data.items.ids.tolist()
    pairs = [(user, item) for user in users for item in ids]
    scores = recommender.score(pairs)["score"]
    recommender.update(pl.DataFrame(LIKES, schema=["user", "item"], orient="row"))
    assert {100, 7} <= set(recommender.liked(3)) and 101 in recommender.liked(9)
    assert not {100, 7} & set(recommender.recommend(3, k=20)["item"])
    assert scores.equals(recommender.score(pairs)["score"])
    now = recommender.scorer
    assert torch.equal(now.user_vectors, before.user_vectors)
    assert now.moved_items.tolist() == [data.n_items, data.n_items + 1]
    assert len(recommender.train) == n_pairs + len(LIKES)
    own = recommender.model().fold_in_items(
        before, torch.tensor([40, 41]), [before.user_vectors[[3, 4]], before.user_vectors[[9]]]
    )
    assert torch.equal(own.item_vectors, now.item_vectors)


def test_the_order_of_likes_and_calls_does_not_matter(recommender, data):
    other = Recommender.from_state(recommender.state)
    recommender.update(LIKES)
    for like in [*reversed(LIKES), LIKES[0]]:
        other.update(like)
    assert torch.equal(recommender.scorer.item_vectors, other.scorer.item_vectors)
    known = len(other.train)
    other.update([(int(data.train.users[0]), int(data.train.items[0])), *LIKES])
    assert len(other.train) == known


def test_a_saved_run_keeps_the_likes_and_still_takes_items(recommender, tmp_path):
    plain = Recommender.from_state(recommender.state)
    recommender.update(LIKES)
    loaded = Recommender.load(recommender.save(tmp_path / "run"), verify=True)
    assert loaded.recommend(k=5).equals(recommender.recommend(k=5))
    assert set(loaded.liked(3)) == set(recommender.liked(3))
    for one in (plain, loaded):  # its model is that of the training, and neighbors are found by features alone
        one.add_items([102, 103], features_of(1))
    assert torch.equal(loaded.scorer.item_vectors[-2:], plain.scorer.item_vectors[-2:])
    loaded.update([(5, 100)])
    plain.update([*LIKES, (5, 100)])
    assert torch.equal(loaded.scorer.item_vectors, plain.scorer.item_vectors)


def test_a_model_without_movable_items_only_keeps_the_likes(data):
    recommender = fit(data, EASEConfig(), progress=False, cache=False)
    scores = recommender.score([(3, 1), (3, 2)])
    recommender.update((3, 7))
    assert 7 in recommender.liked(3) and scores.equals(recommender.score([(3, 1), (3, 2)]))


def test_bad_likes_change_nothing(recommender, tmp_path):
    n_pairs = len(recommender.train)
    for likes, kind, fact in (
        ([(3, 100), (3, 999)], UnknownIdError, 999),
        ([(300, 100)], UnknownIdError, 300),
        ([(3, 100, 1)], DataError, "user"),
        (pl.DataFrame({"user": [3]}), DataError, "item"),
    ):
        with assert_error(kind, mentions=[fact]):
            recommender.update(likes)
    assert len(recommender.train) == n_pairs and not len(recommender.scorer.moved_items)
    slim = Recommender.load(recommender.slim(tmp_path / "slim"))
    with assert_error(CapabilityError):
        slim.update([(3, 100)])


N_NEW = 3
MOVABLE = [
    name
    for name in model_names()
    if model_type(name).capabilities.cold_items and model_type(name).capabilities.training == "gradient"
]


def grown(name: str, **options):
    """A model with its start parameters, and its scorer with three random new items."""
    data = make_synthetic_dataset(30, 40, 400, {"image": 6, "text": 5}, groups=4, noise=0.3, seed=1, timestamps=True)
    model = build(name, make_model_inputs(data, "cpu", cache=False), model_type(name).Config(**options)).eval()
    draw = torch.Generator().manual_seed(0)
    everything = torch.ones(N_NEW, dtype=torch.bool)
    new = {
        modality: Features(torch.randn(N_NEW, f.values.shape[1], generator=draw), everything)
        for modality, f in model.inputs.features.items()
    }
    return model, model.add_items(model.scorer(), [model.inputs.features], new)


@pytest.mark.parametrize("name", MOVABLE)
def test_a_liked_item_moves_by_the_formula_and_the_others_stay(name):
    model, scorer = grown(name)
    n = model.inputs.n_items
    likers = [scorer.queries(torch.tensor(rows)) for rows in ([2, 5, 7], [11])]
    moved = model.fold_in_items(scorer, torch.tensor([n, n + 2]), likers)
    width = scorer.n_similarity_columns  # columns of content stay
    users, items = (vectors[:, :width].double().numpy() for vectors in (scorer.user_vectors, scorer.item_vectors))
    strength, half = model.warm_up
    user_length = np.linalg.norm(users, axis=1).mean()
    for row, liked_by in ((n, [2, 5, 7]), (n + 2, [11])):
        share = strength * len(liked_by) / (len(liked_by) + half)
        length = np.linalg.norm(items[row])
        expected = items[row] / length + share * (users[liked_by].mean(0) - users.mean(0)) / user_length
        expected *= length / np.linalg.norm(expected)
        np.testing.assert_allclose(moved.item_vectors[row, :width].double(), expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(moved.item_vectors[row, width:], scorer.item_vectors[row, width:])
    stay = torch.tensor([row for row in range(scorer.n_items) if row not in (n, n + 2)])
    queries = scorer.queries(torch.arange(model.inputs.n_users))
    assert torch.equal(moved.scores(queries)[:, stay], scorer.scores(queries)[:, stay])
    assert torch.equal(moved.user_vectors, scorer.user_vectors)


@pytest.mark.parametrize("name", ["lirdrec", "vbpr"])
def test_more_likes_start_from_the_features_again(name):
    model, scorer = grown(name)
    item = torch.tensor([model.inputs.n_items + 1])
    queries = scorer.queries(torch.tensor([3, 4, 9, 12]))
    first = model.fold_in_items(scorer, item, [queries[:2]])
    one_more = {m: Features(f.values[:1], f.present[:1]) for m, f in model.inputs.features.items()}
    between = model.add_items(first, [model.inputs.features, first_new(model)], one_more)
    twice, once = (model.fold_in_items(s, item, [queries]) for s in (between, scorer))
    assert torch.equal(twice.item_vectors[item], once.item_vectors[item])
    assert twice.moved_items.tolist() == item.tolist()
    assert torch.equal(twice.vectors_before(torch.arange(scorer.n_items)), scorer.item_vectors)


def first_new(model) -> dict[str, Features]:
    draw = torch.Generator().manual_seed(0)
    return {
        name: Features(torch.randn(N_NEW, f.values.shape[1], generator=draw), torch.ones(N_NEW, dtype=torch.bool))
        for name, f in model.inputs.features.items()
    }


@pytest.mark.parametrize("name", [name for name in model_names() if name not in MOVABLE])
def test_other_models_say_that_they_cannot(name):
    data = make_synthetic_dataset(20, 30, 200, {"image": 6}, groups=4, seed=1, timestamps=True)
    model = build(name, make_model_inputs(data, "cpu", cache=False), model_type(name).Config())
    with assert_error(CapabilityError, mentions=[name]):
        model.fold_in_items(None, torch.tensor([30]), [torch.ones(1, 4)])


def test_likes_bring_an_item_to_the_users_of_its_group():
    """An item whose features say nothing is liked by some users of one group; the others of that group see it rise."""
    data = make_synthetic_dataset(160, 60, 3200, {"image": 8}, groups=2, noise=0.2, off_taste=0.0, seed=3)
    recommender = fit(data, training=TrainConfig(epochs=15, learning_rate=0.02, batch_size=256), progress=False)
    recommender.add_items([1000], {"image": np.zeros((1, 8)) + data.features["image"].values.mean(0)})
    group = data.item_table["group"].to_numpy()
    counts = np.zeros((data.n_users, 2))
    np.add.at(counts, (data.train.users, group[data.train.items]), 1)
    pure = [np.flatnonzero((counts[:, one] > 0) & (counts[:, 1 - one] == 0)) for one in (0, 1)]
    assert min(map(len, pure)) >= 8

    def mean_rank(users: np.ndarray) -> float:
        scores = recommender.scorer.scores(recommender.scorer.queries(torch.tensor(users)))
        return float((scores > scores[:, -1:]).sum(1).double().mean())

    others, unknown = pure[0][4:], pure[1]
    before = mean_rank(others), mean_rank(unknown)
    recommender.update([(data.users.ids[user], 1000) for user in pure[0][:4]])
    assert mean_rank(others) < before[0] - 5
    assert mean_rank(unknown) > before[1] - 1


def test_liked_items_are_left_out_in_a_run_with_dislikes():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"user": np.repeat(np.arange(30), 8), "item": rng.integers(0, 25, 240)})
    frame = frame.with_columns(weight=pl.Series(rng.choice([-1.0, 1.0, 2.0], 240, p=[0.2, 0.5, 0.3])))
    dataset = Dataset.from_frames(frame.unique(["user", "item"], maintain_order=True), weight="weight")
    recommender = fit(dataset, "item_knn", progress=False, cache=False)
    best = recommender.recommend(0, k=1)["item"][0]
    recommender.update([(0, best)])
    assert best in recommender.liked(0) and best not in recommender.recommend(0, k=5)["item"].to_list()
    assert recommender.train.weights is not None and recommender.train.weights[-1] == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda r: r.score([(0, None)]),
        lambda r: r.update([(0, None)]),
        lambda r: r.recommend([0, None], k=3),
        lambda r: r.recommend(0, k=3, candidates=[1, None]),
        lambda r: r.similar_items([None], k=3),
        lambda r: r.explain(0, None),
    ],
)
def test_no_id_is_an_unknown_id(recommender, call):
    with assert_error(UnknownIdError, mentions=["None"]):
        call(recommender)


def test_features_that_are_no_mapping_are_refused(recommender):
    with assert_error(DataError, mentions=["list"]):
        recommender.add_items([300], [1])
