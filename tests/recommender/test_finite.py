"""No vector that is not finite ever ranks: new items, histories, loaded runs, exports, for every model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lirdrec.config import make_config
from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import DataError, RunFolderError
from lirdrec.export.vectors import vectors_of
from lirdrec.files.atomic import sha256
from lirdrec.models.registry import build, config_type, model_names, model_type
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.ranking.top_k import top_k_dense
from lirdrec.recommender.inputs import make_model_inputs
from lirdrec.recommender.new_users import as_new_users
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.serialization import VECTORS

from ..helpers import assert_error
from .conftest import hand_made

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
    assert bool(scorer.sound_items(0).all()) is (tensor == "users")
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
    assert scorer.sound_items(0).tolist() == [True, True, False, False]
    grown = scorer.with_items(torch.tensor([[0], [-1], [2]]), torch.tensor([[1.0], [0.0], [torch.inf]]))
    assert grown.sound_items(4).tolist() == [True, True, False]
    dense = torch.eye(3)
    dense[0, 2] = torch.inf
    assert ItemWeightScorer(torch.eye(3).to_sparse_csr(), dense).sound_items(1).tolist() == [True, False]


def test_an_export_refuses_vectors_that_are_not_finite():
    recommender = hand_made()
    recommender.scorer.item_vectors[1, 0] = torch.nan
    with assert_error(DataError, mentions=["items"]):
        vectors_of(recommender)
