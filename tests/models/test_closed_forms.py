"""Models in closed form against brute force in NumPy, one regression or one pair at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.models import ease, item_knn
from lirdrec.models.base import Features, ModelInputs
from lirdrec.models.content_knn import ContentKNN, ContentKNNConfig
from lirdrec.models.ease import CEASE, EASE, AddEASE, AddEASEConfig, CEASEConfig, EASEConfig
from lirdrec.models.item_knn import ItemKNN, ItemKNNConfig
from lirdrec.models.l3ae import L3AE, L3AEConfig
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import VectorScorer

from ..helpers import assert_error

N_USERS, N_ITEMS = 30, 18
WEIGHTS = {"image": 0.3, "text": 0.7}
ABSENT = {"image": [2, 5], "text": [5, 9]}  # item 5 has nothing
UNLIKED = 7


def data() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Interactions `(U, I)`, of which item 7 has none and user 4 has none, and features with absent rows."""
    rng = np.random.default_rng(0)
    x = (rng.random((N_USERS, N_ITEMS)) < 0.3).astype(np.float64)
    x[:, UNLIKED], x[4] = 0, 0
    features = {"image": rng.normal(size=(N_ITEMS, 5)) + 0.3, "text": rng.normal(size=(N_ITEMS, 4)) + 0.3}
    for name, rows in ABSENT.items():
        features[name][rows] = 0
    return x, features


X, FEATURES = data()


def inputs(features: dict[str, np.ndarray] = FEATURES, x: np.ndarray = X) -> ModelInputs:
    users, items = (torch.from_numpy(part) for part in np.nonzero(x))
    tensors = {
        name: Features(torch.from_numpy(values).float(), torch.from_numpy(values.any(1)))
        for name, values in features.items()
    }
    return ModelInputs(*x.shape, users, items, tensors, lambda name, k: pytest.fail("no neighbors are asked for"))


def solved(kind, config, given: ModelInputs | None = None):
    model = kind(given if given is not None else inputs(), config)
    model.solve()
    return model


def all_scores(model) -> np.ndarray:
    scorer = model.scorer()
    return scorer.scores(scorer.queries(torch.arange(scorer.n_users))).numpy()


def fused(weights: dict[str, float] = WEIGHTS) -> np.ndarray:
    """Item rows whose products are the weighted cosines, written item by item."""
    rows = []
    for item in range(N_ITEMS):
        parts = [
            np.sqrt(w) * FEATURES[m][item] / (np.linalg.norm(FEATURES[m][item]) or 1.0) for m, w in weights.items()
        ]
        had = sum(w for m, w in weights.items() if item not in ABSENT[m])
        rows.append(np.concatenate(parts) / np.sqrt(had or 1.0))
    return np.stack(rows)


def ridge(a: np.ndarray, regularization: float) -> np.ndarray:
    """Each column of `a` regressed on the other columns."""
    n = a.shape[1]
    b = np.zeros((n, n))
    for j in range(n):
        others = np.arange(n) != j
        rest = a[:, others]
        b[others, j] = np.linalg.solve(rest.T @ rest + regularization * np.eye(n - 1), rest.T @ a[:, j])
    return b


def distilled(a: np.ndarray, target: np.ndarray, regularization: float, distillation: float) -> np.ndarray:
    """Each column of `a` regressed on the others, drawn to the column of `target`: λ = λ_X + λ_E, and λ_E."""
    n = a.shape[1]
    b = np.zeros((n, n))
    for j in range(n):
        others = np.arange(n) != j
        rest = a[:, others]
        right = rest.T @ a[:, j] + distillation * target[others, j]
        b[others, j] = np.linalg.solve(rest.T @ rest + regularization * np.eye(n - 1), right)
    return b


REGRESSIONS = [
    (EASE, EASEConfig(3.0), lambda: ridge(X, 3.0)),
    (
        CEASE,
        CEASEConfig(3.0, modality_weights=WEIGHTS, feature_weight=1.7),
        lambda: ridge(np.concatenate([X, 1.7 * fused().T]), 3.0),
    ),
    (
        AddEASE,
        AddEASEConfig(3.0, modality_weights=WEIGHTS, feature_share=0.4, feature_regularization=0.5),
        lambda: 0.6 * ridge(X, 3.0) + 0.4 * ridge(fused().T, 0.5),
    ),
    (
        AddEASE,
        AddEASEConfig(3.0, modality_weights=WEIGHTS, feature_share=1.0, feature_regularization=None),
        lambda: ridge(fused().T, 3.0),
    ),
    (
        L3AE,
        L3AEConfig(3.0, modality_weights=WEIGHTS, distillation=2.2, feature_regularization=0.5),
        lambda: distilled(X, ridge(fused().T, 0.5), 3.0, 2.2),
    ),
    (L3AE, L3AEConfig(3.0, modality_weights=WEIGHTS, distillation=0.0), lambda: ridge(X, 3.0)),
]
NAMES = ["ease", "cease", "add_ease", "features alone", "l3ae", "l3ae without distillation"]


@pytest.mark.parametrize("kind, config, expected", REGRESSIONS, ids=NAMES)
def test_ease_is_the_regression_of_each_item_on_the_others(kind, config, expected):
    model = solved(kind, config)
    np.testing.assert_allclose(model.weights, expected(), atol=2e-6)
    np.testing.assert_allclose(all_scores(model), X @ expected(), atol=1e-5)
    assert (model.weights.diagonal() == 0).all()


@pytest.mark.parametrize("kind, config, expected", REGRESSIONS, ids=NAMES)
def test_low_rank_ease_at_full_rank_is_the_dense_one(kind, config, expected):
    config = type(config)(**{**vars(config), "rank": N_ITEMS})
    scores, unseen = all_scores(solved(kind, config)), X == 0
    np.testing.assert_allclose(scores[unseen], (X @ expected())[unseen], atol=2e-5)


def test_low_rank_ease_inverts_the_largest_eigenpairs_plus_the_rest_of_the_diagonal(monkeypatch):
    monkeypatch.setattr(ease, "ITERATIONS", 300)
    rank, gram = 6, X.T @ X
    values, vectors = np.linalg.eigh(gram)
    largest = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T
    approximate = largest + np.diag(np.diag(gram) - np.diag(largest))
    p = np.linalg.inv(approximate + 3.0 * np.eye(N_ITEMS))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    monkeypatch.setattr(ease, "OVERSAMPLING", 0)
    scores = all_scores(solved(EASE, EASEConfig(3.0, rank=rank)))
    np.testing.assert_allclose(scores[X == 0], (X @ b)[X == 0], atol=1e-5)


def test_low_rank_add_ease_has_a_part_for_each_regression():
    config = AddEASEConfig(3.0, N_ITEMS, modality_weights=WEIGHTS, feature_share=0.4, feature_regularization=0.5)
    scorer = solved(AddEASE, config).scorer()
    assert scorer.part_names == ("interactions", "features")
    expected = 0.6 * X @ ridge(X, 3.0), 0.4 * X @ ridge(fused().T, 0.5)
    users, items = (torch.from_numpy(part) for part in np.nonzero(X == 0))
    parts = scorer.parts(scorer.queries(users), items)
    for part, whole in enumerate(expected):
        np.testing.assert_allclose(parts[:, part], whole[X == 0], atol=2e-5)


def test_too_many_items_for_the_dense_solution(monkeypatch):
    monkeypatch.setattr(ease, "DENSE_LIMIT", 10)
    with assert_error(CapabilityError, mentions=["ease", "0 GB", f"{N_ITEMS} items", 10, "rank", 1000]):
        EASE(inputs(), EASEConfig())
    assert EASE(inputs(), EASEConfig(rank=5)).sources.shape == (N_ITEMS, 5)


@pytest.mark.parametrize(
    "make, facts",
    [
        (lambda: EASEConfig(0.0), ["regularization", 0.0]),
        (lambda: EASEConfig(rank=0), ["rank", 0, 1, "none"]),
        (lambda: CEASEConfig(feature_weight=-1.0), ["feature_weight", -1.0, 0]),
        (lambda: AddEASEConfig(feature_share=1.5), ["feature_share", 1.5, 0, 1]),
        (lambda: AddEASEConfig(feature_regularization=0.0), ["feature_regularization", 0.0]),
        (lambda: ContentKNNConfig(0), ["n_neighbors", 0, 1, "none"]),
        (lambda: ContentKNNConfig(modality_weights={"text": -1.0}), ["modality_weights", 0]),
    ],
)
def test_options_out_of_range(make, facts):
    with assert_error(ConfigError, mentions=facts):
        make()


def content_weights(k: int) -> np.ndarray:
    z = fused()
    b = np.zeros((N_ITEMS, N_ITEMS))
    for j in range(N_ITEMS):
        sims = [(z[i] @ z[j], i) for i in range(N_ITEMS) if i != j and X[:, i].any() and z[i] @ z[j] > 1e-9]
        for sim, i in sorted(sims, reverse=True)[:k]:
            b[i, j] = sim
    return b


@pytest.mark.parametrize("k", [3, 100])
def test_content_knn_by_hand(k):
    model = solved(ContentKNN, ContentKNNConfig(k, modality_weights=WEIGHTS))
    np.testing.assert_allclose(all_scores(model), X @ content_weights(k), atol=1e-5)
    assert (model.neighbours[5] == -1).all()  # no features, no neighbors


def test_content_knn_without_a_limit_is_the_sum_of_all_similarities():
    model = solved(ContentKNN, ContentKNNConfig(None, modality_weights=WEIGHTS))
    np.testing.assert_allclose(all_scores(model), X @ fused() @ fused().T, atol=1e-5)


@pytest.mark.parametrize("k", [4, None])
def test_content_knn_takes_new_items_as_if_they_had_been_there(k):
    """Grown twice, in two catalog blocks, it scores as a model whose items 15, 16 and 17 have no interactions."""
    config = ContentKNNConfig(k, modality_weights=WEIGHTS)
    x = X.copy()
    x[:, 15:] = 0
    whole = solved(ContentKNN, config, inputs(FEATURES, x))

    def rows(first: int, last: int) -> dict[str, np.ndarray]:
        return {name: values[first:last] for name, values in FEATURES.items()}

    small = solved(ContentKNN, config, inputs(rows(0, 15), x[:, :15]))
    blocks = [inputs(rows(*between), np.zeros((1, 1))).features for between in ((0, 15), (15, 16), (16, 18))]
    grown = small.add_items(small.scorer(), blocks[:1], blocks[1])
    grown = small.add_items(grown, blocks[:2], blocks[2])
    everyone = torch.arange(N_USERS)
    np.testing.assert_allclose(grown.scores(grown.queries(everyone)), all_scores(whole), atol=1e-6)
    assert grown.n_items == N_ITEMS


@pytest.mark.parametrize("block_bytes", [1, item_knn.BLOCK_BYTES], ids=["blocks of a row", "one block"])
def test_item_knn_by_hand(monkeypatch, block_bytes):
    monkeypatch.setattr(item_knn, "BLOCK_BYTES", block_bytes)
    model = solved(ItemKNN, ItemKNNConfig(n_neighbors=4, shrinkage=2.0))
    b = np.zeros((N_ITEMS, N_ITEMS))
    for j in range(N_ITEMS):
        sims = []
        for i in range(N_ITEMS):
            common = float((X[:, i] * X[:, j]).sum())
            if i != j and common > 0:
                sims.append((common / (np.sqrt(X[:, i].sum() * X[:, j].sum()) + 2.0), i))
        for sim, i in sorted(sims, reverse=True)[:4]:
            b[i, j] = sim
    kept = model.scorer().weights.to_dense().numpy()
    # equal similarities at the cut may be chosen differently: the values kept are the same
    np.testing.assert_allclose(np.sort(kept, axis=0), np.sort(b, axis=0), atol=1e-6)
    same = (kept > 0) == (b > 0)
    np.testing.assert_allclose(kept[same], b[same], atol=1e-6)
    assert same.mean() > 0.9
    assert (model.similarity.diff(dim=1) <= 0).all() and (model.neighbours[UNLIKED] == -1).all()


@pytest.mark.parametrize(
    "kind, config",
    [
        (EASE, EASEConfig(3.0)),
        (EASE, EASEConfig(3.0, rank=6)),
        (AddEASE, AddEASEConfig(3.0, rank=6)),
        (ItemKNN, ItemKNNConfig(n_neighbors=4)),
        (ContentKNN, ContentKNNConfig(4)),
        (ContentKNN, ContentKNNConfig(None)),
    ],
    ids=["ease", "low-rank ease", "low-rank add_ease", "item_knn", "content_knn", "content_knn of all"],
)
def test_a_known_user_folded_in_has_the_same_scores(kind, config):
    model = solved(kind, config)
    scorer = model.scorer()
    assert isinstance(scorer, (ItemWeightScorer, VectorScorer))
    histories = [torch.from_numpy(np.nonzero(row)[0]) for row in X]
    folded = scorer.scores(model.fold_in(scorer, histories)).numpy()
    np.testing.assert_allclose(folded, all_scores(model), atol=1e-5)
