"""Metrics of a launch against sorted lists, and the draw of the launched items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import lirdrec
from lirdrec.data.cold_start import draw_launch, with_launched_items
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import DataError
from lirdrec.evaluation.new_item_metrics import evaluate_launch
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.ranking.top_k import Quota

from ..helpers import assert_error

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def dataset():
    return make_synthetic_dataset(120, 80, 1500, {"image": 6, "text": 5}, groups=8, seed=2)


def pairs(part) -> set[tuple]:
    return set(zip(part.users.tolist(), part.items.tolist(), strict=True))


def test_metrics_equal_those_of_sorted_lists():
    rng = np.random.default_rng(0)
    scorer = VectorScorer(torch.tensor(rng.normal(size=(25, 3))), torch.tensor(rng.normal(size=(40, 3))))
    tables = [rng.random((25, 40)) < share for share in (0.1, 0.08, 0.2)]
    tables[1][:, 30:], tables[2][:, :30], tables[0][:, 30:] = False, False, False
    seen, known, new = (Histories(*torch.tensor(np.argwhere(table).T.copy()), 25) for table in tables)
    for quota in (None, Quota(30, 2)):
        result = evaluate_launch(scorer, seen, known, new, 30, k=5, quota=quota)
        scores = scorer.scores(scorer.queries(torch.arange(25))).numpy()
        scores[tables[0]] = -np.inf
        recalls = {"known": [], "alone": [], "among": [], "together": []}
        places = []
        for user in range(25):
            a, c = set(np.flatnonzero(tables[1][user])), set(np.flatnonzero(tables[2][user]))
            if not a | c:
                continue
            order = np.argsort(-scores[user]).tolist()
            top = order[:5]
            if quota is not None:
                top = [i for i in order if i < 30][:3] + [i for i in order if i >= 30][:2]
            alone = [i for i in order if i >= 30][:5]
            places += [i >= 30 for i in top]
            recalls["together"].append(len((a | c) & set(top)) / len(a | c))
            if a:
                recalls["known"].append(len(a & set(top)) / len(a))
            if c:
                recalls["among"].append(len(c & set(top)) / len(c))
                recalls["alone"].append(len(c & set(alone)) / len(c))
        for name, values in recalls.items():
            assert getattr(result, name) == pytest.approx(np.mean(values)), name
        assert result.share == pytest.approx(np.mean(places))
        assert result.demand == pytest.approx(tables[2].sum() / (tables[1].sum() + tables[2].sum()))


def test_a_draw_keeps_every_interaction_of_trained_users_in_one_place(dataset):
    launch = draw_launch(dataset, seed=4)
    of = {}
    for name in SPLITS:
        split = launch.dataset.split(name)
        for user, item in pairs(split):
            of[launch.dataset.users.ids[user], launch.dataset.items.ids[item]] = name
    for name, part in (("launch valid", launch.valid), ("launch test", launch.test)):
        assert part.table.height == 8
        for user, item in pairs(part):
            of[launch.dataset.users.ids[user], part.table["item"][item]] = name
        for modality, matrix in part.features.items():
            rows = dataset.items.rows(part.table["item"].to_list())
            np.testing.assert_array_equal(matrix.values, dataset.features[modality].values[rows])
    everything = {
        (dataset.users.ids[user], dataset.items.ids[item])
        for name in SPLITS
        for user, item in pairs(dataset.split(name))
    }
    left_out = {user for user, _ in everything - of.keys()}
    assert set(of) <= everything and not left_out & set(launch.dataset.users.ids)
    launched = [*launch.valid.table["item"], *launch.test.table["item"]]
    assert len(set(launched)) == 16 and not set(launched) & set(launch.dataset.items.ids)


def test_draws_differ_by_their_seed(dataset):
    tables = [draw_launch(dataset, seed=seed).test.table["item"].to_list() for seed in (0, 0, 1)]
    assert tables[0] == tables[1] != tables[2]


def test_by_time_the_latest_items_are_launched_and_the_latest_interactions_held_out(dataset):
    rng = np.random.default_rng(0)
    born = rng.permutation(dataset.n_items)  # day of each item's first interaction
    splits = {}
    for name in SPLITS:
        split = dataset.split(name)
        splits[name] = replace(split, timestamps=born[split.items] * 1000 + rng.integers(0, 900, len(split.items)))
    dated = replace(dataset, **splits)
    launch = draw_launch(dated, by="time")
    taken = np.concatenate([splits[name].items for name in SPLITS])
    seen = sorted(set(taken), key=lambda item: born[item])
    without = dataset.n_items - len(seen)  # items without an interaction are the newest
    latest = dated.items.ids[seen[len(seen) - (8 - without) :]] if without < 8 else []
    assert set(latest) <= set(launch.test.table["item"])
    train, test = launch.dataset.train, launch.dataset.test
    for user in np.unique(test.users):
        assert test.timestamps[test.users == user].min() >= train.timestamps[train.users == user].max()


def test_a_launch_by_time_needs_timestamps(dataset):
    with assert_error(DataError, mentions=[dataset.name, "timestamps"]):
        draw_launch(dataset, by="time")


def test_a_launch_from_an_ordered_dataset_keeps_its_split_and_its_times(dataset):
    rng = np.random.default_rng(1)
    ordered = replace(
        dataset,
        **{name: replace(dataset.split(name), timestamps=rng.permutation(len(dataset.split(name)))) for name in SPLITS},
    ).resplit("leave_last_out")
    moment = {
        (user, item): time
        for part in map(ordered.split, SPLITS)
        for user, item, time in zip(part.users, part.items, part.timestamps, strict=True)
    }
    launch = draw_launch(ordered, seed=2)
    known, users = launch.dataset, launch.dataset.users.ids
    assert known.info["split"]["method"] == "leave_last_out"
    new = launch.test.table["item"].to_numpy()
    for part, ids in ((known.train, known.items.ids), (known.test, known.items.ids), (launch.test, new)):
        rows = dataset.items.rows(ids[part.items])
        expected = [moment[u, i] for u, i in zip(dataset.users.rows(users[part.users]), rows, strict=True)]
        assert part.timestamps.tolist() == expected
    for user in np.unique(known.test.users):
        assert (known.test.users == user).sum() == 1
        assert known.test.timestamps[known.test.users == user] > known.train.timestamps[known.train.users == user].max()
    grown = with_launched_items(known, launch.test)
    assert grown.train.timestamps.tolist() == [*known.train.timestamps, *launch.test.timestamps]
    assert grown.valid.timestamps is not None


def test_a_launch_by_time_needs_a_clock(dataset):
    splits = {name: replace(dataset.split(name), timestamps=np.arange(len(dataset.split(name)))) for name in SPLITS}
    positions = replace(dataset, **splits, info={**dataset.info, "timestamps": "positions"})
    with assert_error(DataError, mentions=[dataset.name, "positions"]):
        draw_launch(positions, by="time")


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_without_items_is_refused(dataset, share):
    with assert_error(DataError, mentions=[share]):
        draw_launch(dataset, share=share)


def test_launched_items_can_be_added_to_a_model_trained_without_them(dataset):
    launch = draw_launch(dataset, seed=1)
    training = lirdrec.TrainConfig(epochs=2, batch_size=512)
    recommender = lirdrec.fit(launch.dataset, training=training, device="cpu", progress=False)
    recommender.add_items(launch.test.table, launch.test.features)
    assert recommender.n_items == launch.dataset.n_items + 8
