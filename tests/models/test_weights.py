"""Every model that claims to use weights uses them: planted data, and computations of the closed forms in numpy."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.config import make_config
from lirdrec.data.dataset import Dataset
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.graphs.user_item import UserItemGraph
from lirdrec.models.base import Capabilities
from lirdrec.models.registry import build, config_type, model_names, model_type
from lirdrec.nn.losses import RankingLoss, RankingOptions, full_softmax, info_nce
from lirdrec.ranking.histories import PairWeights
from lirdrec.recommender.fit import fit
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.training.config import TrainConfig

from ..helpers import assert_mentions

N_USERS, N_GROUP = 60, 12
SMALL = {
    "lirdrec": {"embedding_size": 8, "n_layers": 2, "n_neighbors": 3},
    "content_knn": {"modality_weights": {"image": 0.5, "text": 0.5}},
    "ease": {"regularization": 5.0},
    "cease": {"regularization": 5.0, "rank": 24},
    "add_ease": {"regularization": 5.0, "feature_regularization": 2.0},
    "l3ae": {"regularization": 5.0, "distillation": 2.0, "feature_regularization": 2.0},
    "mf": {"embedding_size": 2, "penalty": "squared", "regularization": 0.1},
    "lightgcn": {"embedding_size": 8, "n_layers": 2, "penalty": "squared", "regularization": 0.01},
    "vbpr": {"embedding_size": 8, "penalty": "squared", "regularization": 0.01},
    "grcn": {"embedding_size": 8},
    "freedom": {"embedding_size": 8, "n_neighbors": 3, "edge_dropout": 0.3},
    "lattice": {"embedding_size": 8, "n_neighbors": 3},
    "micro": {"embedding_size": 8, "n_neighbors": 3},
    "bm3": {"embedding_size": 8, "n_layers": 2},
    "lgmrec": {"embedding_size": 8},
    "slmrec": {"embedding_size": 8},
    "whitenrec": {"n_groups": 2},
    "whitenrec_plus": {"n_groups": 2},
    "last_item_knn": {"relation": "cosine", "history_decay": 1.0},
    "last_content_knn": {"history_decay": 1.0},
    "lirdrec_seq": {"embedding_size": 8, "n_layers": 1, "dropout": 0.1},
    "sasrec": {"embedding_size": 8, "n_layers": 1, "dropout": 0.1},
    "gru4rec": {"embedding_size": 8, "hidden_size": 16, "dropout": 0.1},
    "bsarec": {"embedding_size": 8, "n_layers": 1, "dropout": 0.1},
    "hstu": {"embedding_size": 8, "n_layers": 1, "dropout": 0.1},
    "mgcn": {"embedding_size": 8, "n_neighbors": 3},
    "cohesion": {"embedding_size": 8, "n_neighbors": 3},
    "smore": {"embedding_size": 8, "n_neighbors": 3},
}
TRAINING = TrainConfig(epochs=15, batch_size=128, learning_rate=1e-2, patience=50, seed=7)
EPOCHS = {"mf": 30, "hstu": 30}
WITH_WEIGHTS = [name for name in model_names() if model_type(name).capabilities.weights]


def planted(weight_of_a: float, weight_of_b: float, seed: int = 0) -> Dataset:
    """Each user has half of the items of group A and half of those of B, with the weights of the groups.

    Without weights the groups are alike. Features tell the group, and a little of the item.
    """
    rng = np.random.default_rng(seed)
    users, items = [], []
    for user in range(N_USERS):
        for first in (0, N_GROUP):
            items += list(first + rng.permutation(N_GROUP)[: N_GROUP // 2])
            users += [user] * (N_GROUP // 2)
    group = np.arange(2 * N_GROUP) // N_GROUP
    content = np.eye(2)[group] + 0.2 * rng.normal(size=(2 * N_GROUP, 2))
    features = {
        "image": content.astype(np.float32),
        "text": np.concatenate([content, 0.2 * rng.normal(size=(2 * N_GROUP, 2))], 1).astype(np.float32),
    }
    weights = np.where(np.array(items) < N_GROUP, weight_of_a, weight_of_b)
    frame = pl.DataFrame({"user": users, "item": items, "w": weights, "time": rng.permutation(len(users))})
    table = pl.DataFrame({"item": np.arange(2 * N_GROUP)})
    return Dataset.from_frames(frame, items=table, features=features, weight="w", timestamp="time", split="none")


def configuration(name: str):
    return make_config(config_type(name), SMALL.get(name, {}))


def trained(name: str, dataset: Dataset, **options) -> Recommender:
    training = dataclasses.replace(TRAINING, **{"epochs": EPOCHS.get(name, TRAINING.epochs), **options})
    return fit(dataset, configuration(name), training, progress=False, cache=False, device="cpu")


def preference_for_a(recommender: Recommender, dataset: Dataset) -> float:
    """Share of the pairs of an unseen item of A and an unseen one of B in which A has the higher score."""
    scores = recommender.scorer.scores(recommender.scorer.queries(torch.arange(N_USERS))).numpy()
    seen = np.zeros(scores.shape, dtype=bool)
    seen[dataset.train.users, dataset.train.items] = True
    shares = []
    for row, taken in zip(scores, seen, strict=True):
        a, b = row[:N_GROUP][~taken[:N_GROUP]], row[N_GROUP:][~taken[N_GROUP:]]
        shares.append((a[:, None] > b).mean())
    return float(np.mean(shares))


def test_every_model_uses_weights():
    assert model_names() == WITH_WEIGHTS


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_items_of_heavy_interactions_are_ranked_first(name):
    heavy, light = planted(9, 1), planted(1, 9)
    for_a, for_b = (preference_for_a(trained(name, dataset), dataset) for dataset in (heavy, light))
    assert for_a > 0.75, f"{for_a:.3f}"
    assert for_b < 0.25, f"{for_b:.3f}"


def test_vbpr_weighs_the_pairs_of_a_batch_that_has_few_of_the_items():
    inputs = make_model_inputs(planted(9, 1), cache=False)
    model = build("vbpr", inputs, configuration("vbpr"))
    few = torch.tensor([0, 5, 200, 500])
    users, positives, negatives = inputs.users[few], inputs.items[few], torch.tensor([3, 3, 20, 7])
    heavy = (positives < N_GROUP).double()
    assert 0 < heavy.sum() < len(few)
    margins = (model.user_embedding[users] * (model.item_vectors()[positives] - model.item_vectors()[negatives])).sum(1)
    expected = (torch.nn.functional.softplus(-margins) * (1 + 8 * heavy)).sum() / (1 + 8 * heavy).sum()
    assert model.loss(users, positives, negatives)["ranking"].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_equal_weights_are_no_weights_to_the_bit(name):
    weighted = planted(1, 1)
    plain = dataclasses.replace(weighted, train=dataclasses.replace(weighted.train, weights=None))
    first, second = (trained(name, dataset, epochs=2).scorer.tensors() for dataset in (plain, weighted))
    assert {key: tensor.numpy().tobytes() for key, tensor in first.items()} == {
        key: tensor.numpy().tobytes() for key, tensor in second.items()
    }


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_a_run_keeps_the_weights(name, tmp_path):
    dataset = planted(9, 1)
    recommender = trained(name, dataset, epochs=2)
    loaded = Recommender.load(recommender.save(tmp_path / "run"), verify=True)
    assert loaded.train.weights.tolist() == dataset.train.weights.tolist()
    again = loaded.model().scorer()
    assert all(torch.equal(tensor, again.tensors()[key]) for key, tensor in loaded.scorer.tensors().items())
    if loaded.model().capabilities.new_users:
        assert len(loaded.recommend_for_history([[0, 1], [2]], k=3)) == 6


def random_weights(seed: int = 3) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """A dataset, its 0/1 matrix `(U, I)`, and the weights in it, divided by their mean."""
    rng = np.random.default_rng(seed)
    mask = rng.random((30, 12)) < 0.4
    mask[np.arange(30), np.arange(30) % 12] = True
    users, items = np.nonzero(mask)
    weights = rng.integers(1, 40, len(users)) / 4
    features = {"text": rng.normal(size=(12, 4)).astype(np.float32)}
    frame = pl.DataFrame({"user": users, "item": items, "w": weights, "time": rng.permutation(len(users))})
    table = pl.DataFrame({"item": np.arange(12)})
    dataset = Dataset.from_frames(frame, items=table, features=features, weight="w", timestamp="time", split="none")
    matrix = np.zeros(mask.shape)
    matrix[dataset.train.users, dataset.train.items] = dataset.train.weights
    return dataset, mask.astype(float), matrix / weights.mean()


def all_scores(recommender: Recommender) -> np.ndarray:
    scorer = recommender.scorer
    return scorer.scores(scorer.queries(torch.arange(scorer.n_users))).double().numpy()


def ridge(gram: np.ndarray, regularization: float) -> np.ndarray:
    p = np.linalg.inv(gram + regularization * np.eye(len(gram)))
    weights = -p / np.diag(p)
    np.fill_diagonal(weights, 0)
    return weights


def test_popularity_is_the_sum_of_weights():
    dataset, _, _ = random_weights()
    expected = np.bincount(dataset.train.items, dataset.train.weights, minlength=12)
    np.testing.assert_allclose(all_scores(trained("popularity", dataset)), np.tile(expected, (30, 1)), rtol=1e-6)


def test_ease_regresses_the_roots_of_weights():
    dataset, _, w = random_weights()
    x = np.sqrt(w)
    expected = x @ ridge(x.T @ x, 5.0)
    np.testing.assert_allclose(all_scores(trained("ease", dataset)), expected, atol=1e-5)


def test_the_extensions_of_ease_have_the_same_gram_matrix():
    dataset, _, w = random_weights()
    x, f = np.sqrt(w), dataset.features["text"].values.astype(float)
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    for name, options, weights in (
        ("cease", {"regularization": 5.0, "feature_weight": 2.0}, ridge(x.T @ x + 4 * f @ f.T, 5.0)),
        (
            "add_ease",
            {"regularization": 5.0, "feature_regularization": 2.0, "feature_share": 0.3},
            0.7 * ridge(x.T @ x, 5.0) + 0.3 * ridge(f @ f.T, 2.0),
        ),
    ):
        config = make_config(config_type(name), options)
        recommender = fit(dataset, config, progress=False, cache=False)
        np.testing.assert_allclose(all_scores(recommender), x @ weights, atol=1e-5)


def test_the_low_rank_form_has_the_same_weights():
    dataset, _, w = random_weights()
    x = np.sqrt(w)
    expected = x @ ridge(x.T @ x, 5.0)
    config = make_config(config_type("ease"), {"regularization": 5.0, "rank": 12})
    scores = all_scores(fit(dataset, config, progress=False, cache=False))
    np.testing.assert_allclose(scores[w == 0], expected[w == 0], atol=1e-4)


def test_item_knn_counts_weights_in_similarities_and_histories():
    dataset, _, w = random_weights()
    x, degrees = np.sqrt(w), w.sum(0)
    similarity = x.T @ x / (np.sqrt(np.outer(degrees, degrees)) + 10)
    np.fill_diagonal(similarity, 0)
    np.testing.assert_allclose(all_scores(trained("item_knn", dataset)), w @ similarity, atol=1e-5)


def test_content_knn_weighs_histories():
    dataset, _, w = random_weights()
    f = dataset.features["text"].values.astype(float)
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    similarity = np.maximum(f @ f.T, 0)
    np.fill_diagonal(similarity, 0)
    recommender = fit(dataset, "content_knn", progress=False, cache=False)
    np.testing.assert_allclose(all_scores(recommender), w @ similarity, atol=1e-5)


def test_similar_users_are_compared_by_cosine():
    dataset, _, w = random_weights()
    found = trained("item_knn", dataset).scorer.similar_users(torch.arange(30)).numpy()
    norms = np.linalg.norm(w, axis=1)
    np.testing.assert_allclose(found, w @ w.T / np.outer(norms, norms), atol=1e-6)


def test_the_graph_is_normalized_by_sums_of_weights():
    dataset, _, w = random_weights()
    model = build("lightgcn", make_model_inputs(dataset, cache=False), configuration("lightgcn"))
    expected = w / np.sqrt(np.outer(w.sum(1), w.sum(0)))
    np.testing.assert_allclose(model.user_item.matrix.dense().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(model.scorer().memory["item_degrees"].numpy(), w.sum(0), rtol=1e-5)


def test_the_scale_of_weights_does_not_matter():
    users, items = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 0])
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    first, second = (UserItemGraph(users, items, 3, 2, weights=scale * weights).matrix.dense() for scale in (1, 8))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        RankingOptions(loss="bpr"),
        RankingOptions(loss="softmax"),
        RankingOptions(loss="softmax", n_negatives=3),
    ],
    ids=["bpr", "softmax", "sampled"],
)
def test_a_loss_with_whole_weights_is_that_of_repeated_pairs(options):
    generator = torch.Generator().manual_seed(0)
    users, items = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([0, 1, 1, 2, 3])
    weights = torch.tensor([1, 3, 2, 1, 4])
    negatives = torch.tensor([4, 4, 4, 5, 5])
    user_vectors, item_vectors = (
        torch.randn(n, 3, dtype=torch.float64, generator=generator).requires_grad_() for n in (4, 6)
    )
    pool = torch.arange(6)
    pairs = PairWeights(users, items, 6, weights.double())
    weighted = RankingLoss(options, pool, 6, pairs)(user_vectors, item_vectors, users, items, negatives)
    repeated = (rows.repeat_interleave(weights) for rows in (users, items))
    negatives = torch.cat([negatives[:3], negatives.repeat_interleave(weights)[3:]])  # the first three are shared
    if options.loss == "bpr":
        negatives = torch.tensor([4, 4, 4, 5, 5]).repeat_interleave(weights)
    plain = RankingLoss(options, pool, 6)(user_vectors, item_vectors, *repeated, negatives)
    torch.testing.assert_close(weighted, plain)
    leaves = (user_vectors, item_vectors)
    for one, other in zip(torch.autograd.grad(weighted, leaves), torch.autograd.grad(plain, leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_contrastive_losses_take_weights():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(5, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0, 1.0], dtype=torch.float64)
    units = [x / x.norm(dim=1, keepdim=True) for x in (a, b)]
    each = -((units[0] @ units[1].T) / 0.3).log_softmax(1).diagonal()
    expected = (weights * each).sum() / weights.sum()
    torch.testing.assert_close(info_nce(a, b, 0.3, weights=weights), expected)
    targets = torch.arange(5)
    torch.testing.assert_close(full_softmax(*units, targets, 0.3, weights=weights), expected)


def test_a_model_without_weights_says_so_once(caplog, monkeypatch):
    dataset, kind = planted(9, 1), model_type("item_knn")
    monkeypatch.setattr(kind, "capabilities", dataclasses.replace(kind.capabilities, weights=False))
    with caplog.at_level(logging.WARNING, logger="lirdrec"):
        trained("item_knn", dataset)
    said = [record for record in caplog.records if "weights" in record.getMessage()]
    assert len(said) == 1
    assert_mentions(said[0].getMessage(), ["item_knn", dataset.name])
    assert not Capabilities(False, False, False, "gradient").weights


def disliking() -> Dataset:
    """Everybody likes item 0; users 0 to 4 dislike it (they have other items)."""
    rows = [(user, 0, 1.0) for user in range(5, 20)]
    rows += [(user, 1 + (user + step) % 6, 1.0) for user in range(20) for step in range(3)]
    rows += [(user, 0, -1.0) for user in range(5)]
    frame = pl.DataFrame(rows, schema=["user", "item", "w"], orient="row")
    return Dataset.from_frames(frame, weight="w", split="random", seed=1)


def test_dislikes_are_not_recommended_and_are_no_hits(tmp_path):
    dataset = disliking()
    recommender = fit(dataset, "popularity", progress=False)
    for one in (recommender, Recommender.load(recommender.save(tmp_path / "run"))):
        lists = one.recommend(k=7).group_by("user", maintain_order=True).agg("item")
        by_user = dict(lists.iter_rows())
        assert all(0 not in by_user[user] for user in range(5))
        unseen = [user for user in range(5, 20) if 0 not in one.liked(user)]
        assert unseen and all(0 in by_user[user] for user in unseen)
        assert 0 in one.recommend(0, k=7, exclude_seen=False)["item"].to_list()
        assert all(0 not in one.liked(user) for user in range(5))
    disliked = set(zip(dataset.dislikes.users.tolist(), dataset.dislikes.items.tolist(), strict=True))
    for name in ("train", "valid", "test"):
        split = dataset.split(name)
        assert not disliked & set(zip(split.users.tolist(), split.items.tolist(), strict=True))


def test_evaluation_counts_every_held_out_pair_once():
    dataset = disliking()
    heavy = np.linspace(1, 50, len(dataset.test)).astype(np.float32)
    weighted = dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, weights=heavy))
    recommender = fit(dataset, "popularity", progress=False)
    first, second = (evaluate(recommender, data, k=[2]).values for data in (dataset, weighted))
    assert first == second
