"""The protocol of a test: histories, targets and masking, on data in which the next item is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lirdrec.data.dataset import Dataset
from lirdrec.errors import ConfigError, DataError
from lirdrec.evaluation.evaluation_protocol import HistoryScorer, default_test_history, default_test_target
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.models.base import Capabilities, Model
from lirdrec.models.item_knn import ItemKNNConfig
from lirdrec.models.mf import MFConfig
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.fit import fit
from lirdrec.recommender.known_users_as_new import as_new_users
from lirdrec.recommender.recommender import Recommender
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error, assert_mentions

N_ITEMS, N_USERS = 23, 20


class LastItem(Model):
    """Scores item `last + 1`, and a little the items before it; the query is the last item of the history."""

    name = "last_item"
    Config = TrainConfig  # it has no options; any config serves
    capabilities = Capabilities(needs_features=False, cold_items=False, new_users=True, training="closed_form")

    def scorer(self):
        next_item = torch.eye(N_ITEMS).roll(1, 0)
        last = torch.zeros(self.inputs.n_users, dtype=torch.int64)
        for user, item in zip(self.inputs.users.tolist(), self.inputs.items.tolist(), strict=True):
            last[user] = item
        return VectorScorer(torch.eye(N_ITEMS)[last], next_item + 0.5 * torch.eye(N_ITEMS))

    def solve(self):
        pass

    def fold_in(self, scorer, histories):
        return torch.stack([torch.eye(N_ITEMS)[history[-1]] for history in histories])


def chains(clock: bool = False, length: int = 8, pause: int = 1) -> dict[str, list[int]]:
    """User u takes items s, s + 1, s + 2 … (modulo the number of items), in rows that are shuffled over users.

    With `clock`, user u starts at 100 u, and pauses between two items.
    """
    rng = np.random.default_rng(3)
    rows = []
    for user in range(N_USERS):
        start = int(rng.integers(N_ITEMS))
        begin = 1_000_000 + 100 * user if clock else 0
        rows += [(user, (start + step) % N_ITEMS, begin + pause * step) for step in range(length)]
    order = rng.permutation(len(rows))
    return {name: [rows[index][column] for index in order] for column, name in enumerate(("user", "item", "time"))}


def in_file_order(table: dict[str, list[int]]) -> dict[str, list[int]]:
    """The same rows in the order of time, without the times."""
    order = np.argsort(table["time"], kind="stable")
    return {name: [table[name][index] for index in order] for name in ("user", "item")}


def last_item(data: Dataset) -> Recommender:
    from lirdrec.recommender.model_inputs import make_model_inputs

    model = LastItem(make_model_inputs(data, cache=False), TrainConfig())
    return Recommender.from_training(model, data)


def hit(recommender: Recommender, data: Dataset, **options) -> float:
    return evaluate(recommender, data, k=1, metrics=("hit",), **options)["hit@1"]


@pytest.mark.parametrize("source", ["times", "file"])
def test_the_last_item_of_validation_is_the_query_after_leave_last_out(source):
    table = chains()
    data = (
        Dataset.from_frames(in_file_order(table), order="file", split="leave_last_out")
        if source == "file"
        else Dataset.from_frames(table, timestamp="time", split="leave_last_out")
    )
    recommender = last_item(data)
    assert hit(recommender, data) == 1
    assert evaluate(recommender, data, k=1, metrics=("hit",)).protocol.queries == "histories"
    assert hit(recommender, data, test_history="train") == 0  # it finds the validation item
    assert hit(recommender, data, split="valid") == 1  # of the training alone
    shuffled = Dataset.from_frames(in_file_order(table), split="random", seed=1)
    assert hit(last_item(shuffled), shuffled) < 0.5


def test_as_new_users_and_likes_keep_the_order_of_time():
    table = chains()
    data = Dataset.from_frames(table, timestamp="time", split="leave_last_out")
    recommender = last_item(data)
    assert hit(as_new_users(recommender), data, split="valid") == 1
    for user in range(3):
        mine = [(t, i) for u, i, t in zip(*table.values(), strict=True) if u == user]
        assert recommender.liked(user) == [item for _, item in sorted(mine)][:-2]


def test_order_survives_saving_and_the_other_way_of_splitting(tmp_path):
    data = Dataset.from_frames(in_file_order(chains()), order="file", split="random", seed=2)
    loaded = Dataset.load(data.save(tmp_path / "saved"))
    again = loaded.resplit("leave_last_out")
    direct = Dataset.from_frames(in_file_order(chains()), order="file", split="leave_last_out")
    for name in ("train", "valid", "test"):
        np.testing.assert_array_equal(again.split(name).items, direct.split(name).items)
        np.testing.assert_array_equal(again.split(name).timestamps, direct.split(name).timestamps)
    assert hit(last_item(again), again) == 1


def test_users_of_the_validation_alone_are_served():
    """One cut in time: some users have no training interaction; their history is that of the validation."""
    data = Dataset.from_frames(chains(clock=True, length=11, pause=30), timestamp="time", split="global_time")
    trained, valid, test = (set(data.split(name).users.tolist()) for name in ("train", "valid", "test"))
    assert (valid & test) - trained
    longer, trained_only = (
        evaluate(last_item(data), data, k=1, metrics=("hit",), test_history=history) for history in (None, "train")
    )
    assert longer.n_users == len(test & (trained | valid)) > trained_only.n_users == len(test & trained)
    assert longer["hit@1"] == 1


def test_the_last_target_has_everything_before_it_as_history():
    """After the cut most users are new: each user's last interaction is found from those before it, in the test too."""
    data = Dataset.from_frames(chains(clock=True, length=10), timestamp="time", split="global_time_last")
    trained, test = (set(data.split(name).users.tolist()) for name in ("train", "test"))
    assert not test & trained and len(test) == 2
    recommender = last_item(data)
    found = evaluate(recommender, data, k=1, metrics=("hit",))
    assert (found.n_users, found["hit@1"], found.protocol.test_target) == (2, 1.0, "last")
    assert hit(recommender, data, split="valid") == 1
    with assert_error(DataError, ["test", "no user"]):
        evaluate(recommender, data, k=1, metrics=("hit",), test_target="all")  # nothing is before the cut


def test_the_history_of_a_scorer_of_item_weights_is_the_longer_row():
    data = Dataset.from_frames(chains(), timestamp="time", split="leave_last_out")
    recommender = fit(data, ItemKNNConfig(shrinkage=0.0), progress=False, cache=False)
    weights = recommender.scorer.weights.to_dense()
    found = evaluate(recommender, data, k=1, metrics=("hit",), per_user=True)
    for user, value in zip(found.per_user["user"].to_list(), found.per_user["hit@1"].to_list(), strict=True):
        mine = np.concatenate([part.items[part.users == user] for part in (data.train, data.valid)])
        scores = weights[mine].sum(0)
        scores[mine] = -np.inf
        target = int(data.test.items[data.test.users == user][0])
        assert value == float(int(scores.argmax()) == target)


def test_a_scorer_of_longer_histories_keeps_them_on_another_device():
    users, items = torch.arange(6.0).view(3, 2), torch.eye(2)
    scorer = HistoryScorer(VectorScorer(users, items), torch.tensor([1]), lambda rows: -users[rows])
    moved = scorer.to("cpu").to("cpu")
    expected = torch.stack([users[0], -users[1], users[2]])
    assert torch.equal(moved.queries(torch.arange(3)), expected)
    assert torch.equal(moved.scores(expected), expected @ items.T)
    assert scorer.to("meta").similar_items(torch.tensor([0], device="meta")).device.type == "meta"


def test_a_model_without_histories_keeps_its_vectors_and_says_so(caplog):
    data = Dataset.from_frames(chains(), timestamp="time", split="leave_last_out")
    recommender = fit(data, MFConfig(), TrainConfig(epochs=1, metric="recall@5"), progress=False, cache=False)
    found = evaluate(recommender, data, k=5, metrics=("hit",))
    assert (found.protocol.test_history, found.protocol.queries) == ("train+valid", "trained")
    assert_mentions(caplog.text, ["histories", "training interactions"])
    queries = recommender.scorer.queries(torch.arange(data.n_users))
    scores = recommender.scorer.scores(queries)
    hits = 0
    for user in range(data.n_users):
        for name in ("train", "valid"):
            scores[user, data.split(name).items[data.split(name).users == user]] = -torch.inf
        target = int(data.test.items[data.test.users == user][0])
        hits += target in scores[user].topk(5).indices.tolist()
    assert found["hit@5"] == pytest.approx(hits / data.n_users)


def test_seen_items_are_ranked_only_without_the_mask():
    """With these vectors the last item itself is first and the next one second."""
    table = chains()
    data = Dataset.from_frames(table, timestamp="time", split="leave_last_out")
    recommender = last_item(data)
    items = torch.eye(N_ITEMS) + 0.5 * torch.eye(N_ITEMS).roll(1, 0)
    recommender.scorer = VectorScorer(recommender.scorer.user_vectors, items)
    assert hit(recommender, data, mask_seen=False) == 0
    assert evaluate(recommender, data, k=2, metrics=("mrr",), mask_seen=False)["mrr@2"] == pytest.approx(0.5)
    assert hit(recommender, data) == 1
    assert not evaluate(recommender, data, k=2, metrics=("hit",), mask_seen=False).protocol.mask_seen


@pytest.mark.parametrize(
    ("method", "history", "target"),
    [
        ("random", "train", "all"),
        ("cold_items", "train", "all"),
        ("label", "train", "all"),
        ("temporal", "train+valid", "all"),
        ("global_time", "train+valid", "all"),
        ("global_time_last", "train+valid", "last"),
        ("leave_last_out", "train+valid", "all"),
    ],
)
def test_defaults_follow_the_split(method, history, target):
    info = {"split": {"method": method}}
    assert (default_test_history(info), default_test_target(info)) == (history, target)


def test_wrong_protocols_are_refused():
    data = Dataset.from_frames(chains(), timestamp="time", split="leave_last_out")
    recommender = last_item(data)
    with assert_error(ConfigError, ["test_history", "'all'", "train, train+valid"]):
        evaluate(recommender, data, test_history="all")
    with assert_error(ConfigError, ["test_history", "'train+valid'", "'valid'"]):
        evaluate(recommender, data, "valid", test_history="train+valid")
    with assert_error(ConfigError, ["test_target", "'first'", "all, last"]):
        evaluate(recommender, data, test_target="first")
    undated = Dataset.from_frames({name: chains()[name] for name in ("user", "item")}, split="random")
    with assert_error(DataError, ["timestamps"]):
        evaluate(last_item(undated), undated, k=1, test_target="last")
