"""More neighbors than items: all items, without memory for the rest; or a refusal where all of them do not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lirdrec import available_memory
from lirdrec.data.cold_start import hold_out_items
from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.models.lirdrec_seq import LIRDRecSeqConfig
from lirdrec.models.registry import config_type, model_names, model_type
from lirdrec.planning.workload import Sizes, workload
from lirdrec.recommender.fit import fit
from lirdrec.recommender.model_inputs import check_size
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error

QUIET = {"progress": False, "device": "cpu"}
TRAINING = TrainConfig(epochs=1, learning_rate=0.02, batch_size=512, seed=3)
N_ITEMS, WIDTH = 40, 6
OPTIONS = {"lirdrec_seq": {"item_graph": "both"}, "smore": {"modality_neighbors": {"image": 10**12}}}
CASES = [
    (name, option)
    for name in model_names()
    for option in ("n_neighbors", "n_user_neighbors")
    if hasattr(config_type(name)(), option)
]


@pytest.fixture(scope="module")
def launched():
    """The dataset without six items, their rows of the item table, and their features."""
    data = make_synthetic_dataset(
        50, N_ITEMS, 700, {"image": WIDTH, "text": WIDTH}, groups=4, seed=3, missing={"image": 0.1}, timestamps=True
    )
    return hold_out_items(data, data.items.series.to_list()[::7])


def scores(launched, name: str, cache, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of all items for all users, before and after the launch of the items that were held out."""
    data, table, features = launched
    config, training = config_type(name)(**options), model_type(name).capabilities.training
    found = fit(data, config, TRAINING if training == "gradient" else None, cache=cache, **QUIET)
    rows = torch.arange(data.n_users)
    before = found.scorer.scores(found.scorer.queries(rows))
    if model_type(name).capabilities.cold_items:
        found.add_items(table, features)
    return before, found.scorer.scores(found.scorer.queries(rows))


def test_the_models_with_neighbors_are_known():
    assert len(CASES) > 10
    assert ("cohesion", "n_user_neighbors") in CASES and ("item_knn", "n_neighbors") in CASES


@pytest.mark.parametrize(("name", "option"), CASES)
def test_any_number_of_neighbors_is_all_of_them(launched, name, option, tmp_path):
    extra = {key: value for key, value in OPTIONS.get(name, {}).items() if key != "modality_neighbors"}
    expected = scores(launched, name, False, **extra, **{option: 60})  # more than there are items, or users
    for k in (10**9, 10**12):
        found = scores(launched, name, tmp_path, **OPTIONS.get(name, {}), **{option: k})
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("config", "entry"),
    [(LIRDRecConfig(n_neighbors=10**9), 2 * 28), (config_type("item_knn")(n_neighbors=10**12), 12)],
    ids=["lirdrec", "item_knn"],
)
def test_neighbors_that_do_not_fit_into_memory_are_refused(launched, config, entry, monkeypatch):
    """Even all pairs of items: their number times the bytes of an entry."""
    data: Dataset = launched[0]
    n, cpu = 20_000, torch.device("cpu")
    rows = {name: FeatureMatrix(np.ones((n, 2), np.float16)) for name in data.features}
    wide = replace(make_synthetic_dataset(5, n, 50, {}, seed=1), features=rows)
    monkeypatch.setattr(available_memory, "free_memory", lambda: n * n * entry - 1)
    with assert_error(ConfigError, mentions=["n_neighbors", config.n_neighbors, "20,000", wide.name]):
        check_size(wide, config, cpu)
    monkeypatch.setattr(available_memory, "free_memory", lambda: n * n * entry)
    check_size(wide, config, cpu)


def test_a_model_that_does_not_use_its_neighbors_needs_no_memory_for_them(launched, monkeypatch):
    monkeypatch.setattr(available_memory, "free_memory", lambda: 200_000)
    many = {"n_neighbors": 10**9, "embedding_size": 8}
    check_size(launched[0], LIRDRecSeqConfig(item_graph="transitions", **many), torch.device("cpu"))
    monkeypatch.setattr(available_memory, "free_memory", lambda: 50_000)
    with assert_error(ConfigError, mentions=["n_neighbors"]):
        check_size(launched[0], LIRDRecSeqConfig(item_graph="features", **many), torch.device("cpu"))


def test_a_plan_counts_no_more_neighbors_than_items():
    sizes = Sizes(1000, 50, 2000, (8,))
    most, all_of_them = (
        workload(LIRDRecConfig(n_neighbors=k), TrainConfig(), sizes).memory["neighbors"] for k in (10**12, 50)
    )
    assert most == all_of_them == 8 * 50 * 50
