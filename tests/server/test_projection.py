"""The map: the same plane as scikit-learn's, a place for added items in it, and nothing that moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.decomposition import PCA

from lirdrec.data.dataset import Interactions
from lirdrec.data.ids import IdMap
from lirdrec.errors import CapabilityError
from lirdrec.ranking.histories import history_matrix
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.catalog.facets import color_items, describe_columns
from lirdrec.server.catalog.projection import CatalogProjection, principal_axes
from lirdrec.server.snapshot import PersistentMap, Snapshot
from lirdrec.server.state import LiveState
from lirdrec.server.store import Store

from ..helpers import assert_error
from .runs import growing, new_item


def snapshot(vectors: torch.Tensor, n_trained: int | None = None) -> Snapshot:
    users, n = torch.ones(2, vectors.shape[1]), len(vectors)
    made = Recommender(
        VectorScorer(users, vectors), IdMap([0, 1], "user"), IdMap(range(n), "item"), n_trained_items=n_trained
    )
    nothing: PersistentMap = PersistentMap()
    return Snapshot(made, 0, torch.zeros(n, dtype=torch.bool), nothing, nothing, nothing, Path("run"))


@pytest.mark.parametrize("shape", [(300, 24), (40, 64), (5, 2)])
def test_the_plane_is_that_of_scikit_learn(shape):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * torch.linspace(1, 3, shape[1])
    unit = (vectors / vectors.norm(dim=1, keepdim=True)).double().numpy()
    theirs = PCA(2, svd_solver="full").fit(unit)
    ours = CatalogProjection().get(snapshot(vectors))
    assert ours.explained == pytest.approx(theirs.explained_variance_ratio_, abs=1e-5)
    points = theirs.transform(unit)
    signs = np.sign((ours.points * points).sum(0))
    scale = np.abs(ours.points).max() / np.abs(points).max()
    np.testing.assert_allclose(ours.points, points * signs * scale, atol=2e-4)
    assert np.abs(ours.points).max() == pytest.approx(1, rel=0.35)  # all but a few within the square


def test_neighbors_lie_together_and_lengths_do_not_count():
    centers = torch.eye(3, 16)
    groups = torch.arange(90) % 3
    draw = torch.Generator().manual_seed(0)
    vectors = centers[groups] + 0.05 * torch.randn(90, 16, generator=draw)
    vectors *= torch.rand(90, 1, generator=draw) * 50 + 0.1
    points = torch.tensor(CatalogProjection().get(snapshot(vectors)).points)
    nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(1)
    assert (groups[nearest] == groups).all()


def test_added_items_are_laid_into_a_plane_that_stays(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'live.sqlite'}")
    live = LiveState(growing(tmp_path / "run"), store)
    own = CatalogProjection()
    before = own.get(live.snapshot)
    first = own.get(live.add_items([new_item(900, 1), new_item(901, 2)]))
    assert len(first.points) == len(before.points) + 2
    np.testing.assert_array_equal(first.points[:-2], before.points)
    second = own.get(live.add_items([new_item(902, 1)]))  # the features of 900 again
    np.testing.assert_array_equal(second.points[:-1], first.points)
    # a server that starts with these items draws the same map
    again = CatalogProjection().get(live.snapshot)
    np.testing.assert_allclose(again.points, second.points, atol=1e-6)
    assert again.explained == before.explained
    # and an older snapshot still has its own length
    assert len(own.get(replace(live.snapshot)).points) == len(second.points)


def test_another_run_has_another_plane(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'live.sqlite'}")
    live = LiveState(growing(tmp_path / "one"), store)
    own = CatalogProjection()
    one = own.get(live.snapshot)
    two = own.get(live.swap(growing(tmp_path / "two", seed=5)))
    fresh = CatalogProjection().get(live.snapshot)
    np.testing.assert_array_equal(two.points, fresh.points)
    assert not np.allclose(one.points, two.points, atol=0.01)


def test_it_is_computed_beside_the_requests_and_once(monkeypatch):
    import threading

    from lirdrec.server.catalog import projection as module

    gate, calls = threading.Event(), []

    def slow(vectors):
        calls.append(len(vectors))
        gate.wait(600)
        return principal_axes(vectors)

    monkeypatch.setattr(module, "principal_axes", slow)
    own, seen = CatalogProjection(), snapshot(torch.randn(20, 8))
    own.begin(seen)
    with pytest.raises(TimeoutError):
        own.get(seen, wait=0)
    assert len(calls) <= 1 and not gate.is_set()  # nobody waited for it
    gate.set()
    assert len(own.get(seen).points) == 20
    own.get(seen)
    assert calls == [20]


def test_items_that_are_all_alike_make_a_point_not_a_fault():
    plane = CatalogProjection().get(snapshot(torch.ones(6, 4)))
    assert np.isfinite(plane.points).all() and np.abs(plane.points).max() < 1e-3
    assert plane.explained == (0.0, 0.0)


def test_a_model_without_vectors_says_so():
    pairs = Interactions(np.array([0, 1]), np.array([0, 1]))
    history = history_matrix(torch.tensor([0, 1]), torch.tensor([0, 1]), 2, 3)
    scorer = ItemWeightScorer(history, torch.eye(3))
    made = Recommender(scorer, IdMap([0, 1], "user"), IdMap([0, 1, 2], "item"), train=pairs)
    seen = replace(snapshot(torch.ones(3, 2)), recommender=made)
    with assert_error(CapabilityError):
        CatalogProjection().get(seen)


# ---------------------------------------------------------------- colors

TABLE = pl.DataFrame(
    {
        "item": range(10),
        "title": [f"thing {n}" for n in range(10)],
        "image": [f"{n}.jpg" for n in range(10)],
        "price": [1.0, 2, 3, 4, 5, 6, 7, 8, None, float("nan")],
        "same": [4] * 10,
        "new": [True, False, None, True, True, True, False, False, False, True],
        "kind": ["tent", "lamp", "tent", None, "  ", "tent ", "lamp", "cup", "tent", "lamp"],
        "tags": ["red, big", "red, small", "blue", "blue, big", "red", "red, big", "", None, "blue, big", "red"],
        "none": [None] * 10,
        "vector": [[1.0]] * 10,
    }
)


def test_columns_are_described_in_the_words_of_users():
    found = {one.name: one for one in describe_columns(TABLE)}
    assert list(found) == ["title", "price", "same", "new", "kind", "tags"]
    assert (found["price"].kind, found["price"].values) == ("number", [1.0, 8.0])
    assert (found["new"].kind, found["new"].colors) == ("yes_no", True)
    assert (found["kind"].kind, found["kind"].values) == ("choice", ["tent", "lamp", "cup"])
    assert (found["tags"].kind, found["tags"].values) == ("list", ["red", "big", "blue", "small"])
    assert (found["title"].kind, found["title"].colors) == ("text", False)


def test_colors_of_categories_lists_numbers_and_truth():
    kind = color_items(TABLE, "kind")
    assert (kind.kind, kind.labels) == ("category", ["tent", "lamp", "cup"])
    assert kind.codes.tolist() == [0, 1, 0, -1, -1, 0, 1, 2, 0, 1]
    assert color_items(TABLE, "tags").codes.tolist() == [0, 0, 1, 1, 0, 0, -1, -1, 1, 0]
    assert color_items(TABLE, "new").labels == ["yes", "no"]
    price = color_items(TABLE, "price")
    assert price.codes.tolist() == [0, 0, 1, 2, 2, 3, 4, 4, -1, -1]
    assert (len(price.labels), price.labels[0], price.labels[-1]) == (5, "1 – 2.4", "6.6 – 8")
    assert (color_items(TABLE, "same").labels, set(color_items(TABLE, "same").codes)) == (["4"], {0})


def test_rare_values_share_the_color_of_other():
    values = [letter for place, letter in enumerate("abcdefghij") for _ in range(10 - place)]
    table = pl.DataFrame({"item": range(len(values)), "letter": values})
    found = color_items(table, "letter")
    assert found.labels == [*"abcdefg", "other"]
    assert [found.labels[code] for code in found.codes] == [one if one in "abcdefg" else "other" for one in values]
