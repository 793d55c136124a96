"""Content models of ordered histories: new items, added against formulas and against models of the whole catalog."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.models.base import Features, ModelInputs
from lirdrec.models.registry import build, config_type, model_type
from lirdrec.ranking.scorers import VectorScorer

from ..helpers import assert_error

N_USERS, N_OLD, N_NEW = 12, 20, 6
WIDTHS = {"image": 5, "text": 7}
ABSENT = {"image": [3, 22], "text": [7, 23, 24]}  # 20 … 25 are the new items
CASES = [
    ("sasrec_features", {"n_hidden": 0}),
    ("sasrec_features", {"n_hidden": 2, "similarity": "product"}),
    ("unisrec", {"n_experts": 3}),
    ("whitenrec", {"n_groups": 2}),
    ("whitenrec_plus", {"n_groups": 5}),
    ("whitenrec_plus", {"n_groups": 2, "modalities": ("text",)}),
    ("last_content_knn", {}),
    ("last_content_knn", {"decay": 0.5}),
]


def features(rows: slice, dtype: torch.dtype = torch.float64) -> dict[str, Features]:
    """Rows of one fixed table of all items, old and new."""
    rng, found = np.random.default_rng(5), {}
    for name, width in WIDTHS.items():
        values = torch.from_numpy(rng.normal(size=(N_OLD + N_NEW, width)))
        present = torch.ones(len(values), dtype=torch.bool)
        present[ABSENT[name]] = False
        values[~present] = 0
        found[name] = Features(values[rows].to(dtype), present[rows])
    return found


def histories() -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.permutation(N_OLD)[: 1 + user % 6].tolist() for user in range(N_USERS)]


def inputs(n_items: int = N_OLD) -> ModelInputs:
    lists = histories()
    users = torch.tensor([user for user, items in enumerate(lists) for _ in items])
    items = torch.tensor([item for items in lists for item in items])
    times = torch.tensor([time for items in lists for time in range(len(items))])
    shuffled = torch.randperm(len(users), generator=torch.Generator().manual_seed(0))  # order comes from the times
    return ModelInputs(
        N_USERS,
        n_items,
        users[shuffled],
        items[shuffled],
        features(slice(n_items)),
        lambda name, k: torch.arange(n_items)[:, None],
        timestamps=times[shuffled],
    )


def untrained(name: str, options: dict[str, Any], n_items: int = N_OLD, given: ModelInputs | None = None) -> Any:
    """The model in float64 where it has parameters, ready for serving."""
    kind, config, given = model_type(name), config_type(name)(**options), given or inputs(n_items)
    if kind.capabilities.training == "gradient":
        return kind(given, config).double().eval()
    return kind(replace(given, features=features(slice(n_items), torch.float32)), config)


def trained(name: str, options: dict[str, Any], given: ModelInputs | None = None) -> Any:
    model = untrained(name, options, given=given)
    if model.capabilities.training == "closed_form":
        model.solve()
    return model


@pytest.mark.parametrize(("name", "options"), CASES)
def test_new_items_are_those_of_a_model_of_the_whole_catalog(name, options):
    """With the same weights, whitening included, which is fitted to the items of training."""
    model = trained(name, options)
    before = model.scorer()
    dtype = before.item_vectors.dtype
    scorer, catalog = before, [features(slice(N_OLD), dtype)]
    for rows in (slice(N_OLD, N_OLD + 2), slice(N_OLD + 2, None)):
        scorer = model.add_items(scorer, catalog, features(rows, dtype))
        catalog.append(features(rows, dtype))
    whole = untrained(name, options, N_OLD + N_NEW)
    whole.load_state_dict(model.state_dict())
    expected = whole.scorer()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert scorer.n_items == N_OLD + N_NEW
    torch.testing.assert_close(scorer.item_vectors, expected.item_vectors, rtol=0, atol=tolerance)
    assert torch.equal(scorer.item_vectors[:N_OLD], before.item_vectors)
    assert torch.equal(scorer.user_vectors, before.user_vectors)
    # new items may occur in the histories of new users
    lists = [torch.tensor([1, N_OLD + 1, 5]), torch.tensor([N_OLD + 4])]
    queries = model.fold_in(scorer, lists)
    torch.testing.assert_close(queries, whole.fold_in(expected, lists), rtol=0, atol=tolerance)
    assert not torch.allclose(queries[0], model.fold_in(scorer, [lists[0].flip(0)])[0])  # the order counts


@pytest.mark.parametrize(("name", "options"), [*CASES, ("last_item_knn", {}), ("last_item_knn", {"decay": 0.7})])
def test_a_new_user_with_a_known_history_has_the_query_of_the_known_user(name, options):
    model = trained(name, options)
    scorer = model.scorer()
    queries = model.fold_in(scorer, [torch.tensor(items) for items in histories()])
    torch.testing.assert_close(queries, scorer.queries(torch.arange(N_USERS)), rtol=0, atol=1e-6)


def test_unisrec_with_item_ids_takes_no_new_items():
    model = trained("unisrec", {"item_ids": True})
    with assert_error(CapabilityError, mentions=["item_ids"]):
        model.add_items(model.scorer(), [features(slice(N_OLD))], features(slice(N_OLD, None)))


def test_more_groups_than_columns_are_an_error():
    with assert_error(ConfigError, mentions=["n_groups", "5"]):
        trained("whitenrec", {"n_groups": 6})


def test_the_whitening_is_part_of_the_state_and_is_not_fitted_again():
    model = trained("whitenrec_plus", {"n_groups": 2})
    expected = model.scorer().item_vectors
    other = {name: Features(2 * f.values, f.present) for name, f in features(slice(N_OLD)).items()}
    loaded = untrained("whitenrec_plus", {"n_groups": 2}, given=replace(inputs(), features=other))
    loaded.load_state_dict(model.state_dict())
    again = loaded.project(loaded.projection_inputs([features(slice(N_OLD))[m] for m in loaded.modalities]))
    torch.testing.assert_close(loaded.comparable(again), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["sasrec_features", "unisrec", "whitenrec", "whitenrec_plus"])
def test_a_planted_order_is_learned_from_features(name):
    """Item i is followed by item i + 1 modulo 20, and the features of an item tell which one it is."""
    users = torch.arange(N_OLD).repeat_interleave(4)
    times = torch.arange(4).repeat(N_OLD)
    items = (users + times) % N_OLD
    own = {"text": Features(torch.eye(N_OLD), torch.ones(N_OLD, dtype=torch.bool))}
    given = replace(inputs(), n_users=N_OLD, users=users, items=items, features=own, timestamps=times)
    options = {"embedding_size": 16, "dropout": 0.0, "feature_dropout": 0.0, "n_layers": 1}
    model: Any = build(name, given, config_type(name)(**options))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    blocks = items.view(N_OLD, 4)
    for epoch in range(1, 101):
        model.start_epoch(epoch)
        optimizer.zero_grad()
        model.loss(blocks, times.view(N_OLD, 4), torch.arange(N_OLD))["loss"].backward()
        optimizer.step()
    scorer = model.eval().scorer()
    assert isinstance(scorer, VectorScorer)
    best = scorer.scores(model.fold_in(scorer, [torch.tensor([(i - 1) % N_OLD, i]) for i in range(N_OLD)])).argmax(1)
    assert (best == (torch.arange(N_OLD) + 1) % N_OLD).float().mean() > 0.9


def decayed(items: list[int], decay: float) -> np.ndarray:
    row = np.zeros(N_OLD)
    for age, item in enumerate(reversed(items)):
        row[item] = 1.0 if age == 0 else decay**age
    return row


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("window", [1, 3])
def test_transitions(window, decay):
    model = trained("last_item_knn", {"window": window, "decay": decay, "shrinkage": 2.0})
    counts, takers = np.zeros((N_OLD, N_OLD)), np.zeros(N_OLD)
    for items in histories():
        for position, item in enumerate(items):
            takers[item] += 1
            for distance in range(1, window + 1):
                if position + distance < len(items):
                    counts[item, items[position + distance]] += 1 / distance
    weights = counts / (takers[:, None] + 2.0)
    expected = np.stack([decayed(items, decay) for items in histories()]) @ weights
    scorer = model.scorer()
    scores = scorer.scores(scorer.queries(torch.arange(N_USERS)))
    np.testing.assert_allclose(scores.numpy(), expected, rtol=0, atol=1e-6)
    contributions = scorer.contributions(scorer.queries(torch.arange(3)), torch.tensor([2, 4, 6]))
    np.testing.assert_allclose(contributions.sum(1).numpy(), expected[[0, 1, 2], [2, 4, 6]], rtol=0, atol=1e-6)


def test_only_the_most_frequent_transitions_are_kept():
    users = torch.arange(6).repeat_interleave(2)
    items = torch.tensor([0, 1, 0, 1, 0, 1, 0, 2, 0, 2, 0, 3])
    given = replace(inputs(), n_users=6, users=users, items=items, timestamps=torch.arange(12))
    model = trained("last_item_knn", {"n_neighbors": 2, "shrinkage": 0.0}, given)
    scores = model.scorer().scores(torch.eye(N_OLD)[:1])[0]
    np.testing.assert_allclose(scores[:4].numpy(), [0, 3 / 6, 2 / 6, 0], rtol=1e-6)


def test_cosine_of_the_last_item():
    model = trained("last_item_knn", {"similarity": "cosine", "shrinkage": 0.0})
    taken = np.zeros((N_USERS, N_OLD))
    for user, items in enumerate(histories()):
        taken[user, items] = 1
    sizes = np.maximum(taken.sum(0), 1e-9)
    weights = taken.T @ taken / np.sqrt(np.outer(sizes, sizes))
    np.fill_diagonal(weights, 0)
    scorer = model.scorer()
    scores = scorer.scores(scorer.queries(torch.arange(N_USERS)))
    np.testing.assert_allclose(scores.numpy(), weights[[items[-1] for items in histories()]], rtol=0, atol=1e-6)


def test_content_of_the_last_item():
    """Score = cosine of the last item and the ranked one."""
    model = trained("last_content_knn", {"modalities": ("text",)})
    text = features(slice(N_OLD))["text"].values.numpy()
    unit = text / np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-12)
    scorer = model.scorer()
    scores = scorer.scores(scorer.queries(torch.arange(N_USERS)))
    expected = unit[[items[-1] for items in histories()]] @ unit.T
    np.testing.assert_allclose(scores.numpy(), expected, rtol=0, atol=1e-6)


def test_new_items_are_ranked_by_the_nearest_items_of_the_history():
    """With a limit of neighbors; all items of training count as liked, whatever the decay."""
    model = trained("last_content_knn", {"modalities": ("text",), "n_neighbors": 3, "decay": 0.5})
    old, new = (features(rows, torch.float32) for rows in (slice(N_OLD), slice(N_OLD, None)))
    scorer = model.add_items(model.scorer(), [old], new)
    text = features(slice(None))["text"].values.numpy()
    unit = text / np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-12)
    liked = sorted({item for items in histories() for item in items})
    similarity = unit[liked] @ unit[N_OLD:].T
    similarity[similarity < np.sort(similarity, axis=0)[-3]] = 0
    weights = np.zeros((N_OLD, N_NEW))
    weights[liked] = np.maximum(similarity, 0)
    scores = scorer.scores(scorer.queries(torch.arange(N_USERS)))[:, N_OLD:]
    expected = np.stack([decayed(items, 0.5) for items in histories()]) @ weights
    np.testing.assert_allclose(scores.numpy(), expected, rtol=0, atol=1e-6)


def test_an_item_that_occurs_twice_counts_where_it_occurs_last():
    model = trained("last_item_knn", {"decay": 0.5})
    (row,) = model.fold_in(model.scorer(), [torch.tensor([4, 2, 4, 9])])
    assert row[[4, 2, 9]].tolist() == [0.5, 0.25, 1.0]
    assert row.sum().item() == 1.75


def test_weights_of_interactions_scale_transitions_and_histories():
    given = replace(inputs(), weights=torch.rand(len(inputs().users), generator=torch.Generator().manual_seed(1)) + 0.5)
    model = trained("last_item_knn", {"window": 2, "decay": 0.5, "shrinkage": 1.0}, given)
    w = {}
    for user, item, weight in zip(given.users, given.items, given.weights / given.weights.mean(), strict=True):
        w[int(user), int(item)] = float(weight)
    counts, takers, rows = np.zeros((N_OLD, N_OLD)), np.zeros(N_OLD), np.zeros((N_USERS, N_OLD))
    for user, items in enumerate(histories()):
        for position, item in enumerate(items):
            takers[item] += w[user, item]
            rows[user, item] = w[user, item] * 0.5 ** (len(items) - 1 - position)
            for distance, later in enumerate(items[position + 1 : position + 3], start=1):
                counts[item, later] += np.sqrt(w[user, item] * w[user, later]) / distance
    scorer = model.scorer()
    scores = scorer.scores(scorer.queries(torch.arange(N_USERS)))
    np.testing.assert_allclose(scores.numpy(), rows @ (counts / (takers[:, None] + 1.0)), rtol=0, atol=1e-5)
