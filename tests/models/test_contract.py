"""What every model must do, tested once for all: learn, save, load, repeat itself, and say what it cannot do."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lirdrec.config import make_config, to_dict
from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.files.locks import lock_file
from lirdrec.models.base import Features, Model
from lirdrec.models.registry import build, config_type, model_for_config, model_names, model_type
from lirdrec.recommender.fit import fit
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.training.config import TrainConfig
from lirdrec.training.sampling import make_sampler

from ..helpers import assert_error

SMALL = {
    "lirdrec": {"embedding_size": 8, "n_layers": 2, "n_neighbors": 5},
    "content_knn": {"modality_weights": {"image": 0.5, "text": 0.5}},
    "ease": {"regularization": 20.0},
    "cease": {"regularization": 20.0, "rank": 60},
    "add_ease": {"regularization": 20.0, "feature_regularization": 2.0, "rank": 60},
    "l3ae": {"regularization": 20.0, "distillation": 10.0, "feature_regularization": 2.0, "rank": 60},
    "mf": {"embedding_size": 8, "penalty": "squared", "regularization": 0.1},
    "lightgcn": {"embedding_size": 8, "n_layers": 2, "penalty": "squared", "regularization": 0.01},
    "vbpr": {"embedding_size": 8, "penalty": "squared", "regularization": 0.1, "temperature": 0.3},
    "grcn": {"embedding_size": 8},
    "freedom": {"embedding_size": 8, "n_neighbors": 5, "edge_dropout": 0.3},
    "lattice": {"embedding_size": 8, "n_neighbors": 5, "regularization": 1e-2},
    "micro": {"embedding_size": 8, "n_neighbors": 5, "regularization": 1e-2},
    "bm3": {"embedding_size": 16, "n_layers": 2, "contrast_weight": 0.2},
    "lgmrec": {"embedding_size": 8},
    "slmrec": {"embedding_size": 8},
    "lirdrec_seq": {"embedding_size": 8, "n_layers": 1, "dropout": 0.2, "temperature": 0.2},
    "sasrec_features": {"embedding_size": 16, "n_layers": 1, "dropout": 0.2, "temperature": 0.2},
    "unisrec": {"embedding_size": 16, "n_layers": 1, "dropout": 0.2, "temperature": 0.2},
    "whitenrec": {"embedding_size": 16, "n_layers": 1, "dropout": 0.2, "temperature": 0.2},
    "whitenrec_plus": {"embedding_size": 16, "n_layers": 1, "dropout": 0.2, "temperature": 0.2},
    "last_item_knn": {"relation": "cosine", "history_decay": 1.0},
    "last_content_knn": {"history_decay": 1.0, "n_neighbors": 100},
    "gru4rec": {"embedding_size": 16, "hidden_size": 32, "n_layers": 1, "dropout": 0.2, "temperature": 0.2},
    "bsarec": {"embedding_size": 16, "n_layers": 1, "dropout": 0.2, "temperature": 0.2},
    "hstu": {"embedding_size": 16, "n_layers": 1, "dropout": 0.2, "temperature": 0.2},
    "sasrec": {"embedding_size": 16, "n_layers": 1, "dropout": 0.2, "temperature": 0.2},
    "mgcn": {"embedding_size": 8, "n_neighbors": 5},
    "cohesion": {"embedding_size": 8, "n_neighbors": 5, "n_user_neighbors": 10},
    "smore": {"embedding_size": 8, "n_neighbors": 5, "gate_dropout": 0.1},
}
TRAINING = TrainConfig(epochs=12, batch_size=256, learning_rate=5e-3, patience=20, seed=7)
# what a model needs otherwise to learn in seconds
TRAININGS = {
    "mf": {"epochs": 30, "batch_size": 64, "learning_rate": 1e-2},
    "lightgcn": {"epochs": 30, "batch_size": 64, "learning_rate": 1e-2},
    "vbpr": {"epochs": 30, "batch_size": 64, "learning_rate": 1e-2},
    "grcn": {"learning_rate": 1e-2},
    "freedom": {"epochs": 20, "batch_size": 128, "learning_rate": 1e-2},
    "lattice": {"epochs": 20, "batch_size": 128, "learning_rate": 1e-2},
    "micro": {"epochs": 20, "batch_size": 128, "learning_rate": 1e-2},
    "bm3": {"epochs": 30, "batch_size": 128, "learning_rate": 3e-2},
    "lgmrec": {"epochs": 20, "learning_rate": 1e-2},
    "slmrec": {"learning_rate": 1e-2},
    "lirdrec_seq": {"epochs": 30, "learning_rate": 1e-2},
    "sasrec_features": {"epochs": 20, "learning_rate": 1e-2},
    "unisrec": {"epochs": 20, "learning_rate": 1e-2},
    "whitenrec": {"epochs": 20, "learning_rate": 1e-2},
    "whitenrec_plus": {"epochs": 20, "learning_rate": 1e-2},
    "gru4rec": {"epochs": 20, "learning_rate": 1e-2},
    "bsarec": {"epochs": 30, "learning_rate": 1e-2},
    "hstu": {"epochs": 20, "learning_rate": 1e-2},
    "sasrec": {"epochs": 20, "learning_rate": 1e-2},
    "mgcn": {"epochs": 20, "batch_size": 128, "learning_rate": 1e-2},
    "cohesion": {"epochs": 20, "batch_size": 128, "learning_rate": 1e-2},
    "smore": {"epochs": 20, "batch_size": 128, "learning_rate": 1e-2},
}
# test recall@20 on the planted data, at least this much above popularity's (popularity: about .2)
MARGIN = {
    "lirdrec": 0.2,
    "item_knn": 0.2,
    "content_knn": 0.15,
    "ease": 0.2,
    "cease": 0.2,
    "add_ease": 0.2,
    "l3ae": 0.2,
    "mf": 0.2,
    "lightgcn": 0.2,
    "vbpr": 0.2,
    "grcn": 0.2,
    "lgmrec": 0.2,
    "slmrec": 0.2,
    "freedom": 0.2,
    "lattice": 0.2,
    "micro": 0.2,
    "bm3": 0.2,
    "lirdrec_seq": 0.2,
    "sasrec_features": 0.12,
    "unisrec": 0.12,
    "whitenrec": 0.12,
    "whitenrec_plus": 0.12,
    "last_item_knn": 0.2,
    "last_content_knn": 0.08,
    "gru4rec": 0.06,
    "bsarec": 0.15,
    "hstu": 0.07,
    "sasrec": 0.12,
    "mgcn": 0.2,
    "smore": 0.2,
    "cohesion": 0.2,
}
# of ten recommendations, the share that is of the user's groups, where it is not .8
SHARE = {"sasrec": 0.6, "gru4rec": 0.5, "hstu": 0.5}
BY_GRADIENT = [name for name in model_names() if model_type(name).capabilities.training == "gradient"]


@pytest.fixture(scope="module")
def dataset(small_dataset) -> Dataset:
    return small_dataset


@pytest.fixture(scope="module")
def small_dataset() -> Dataset:
    """Items in ten groups, users who like up to three of them, features that tell the group."""
    return make_synthetic_dataset(
        150, 200, 3000, {"image": 6, "text": 5}, groups=10, noise=0.5, seed=3, missing={"image": 0.1}, timestamps=True
    )


@pytest.fixture(scope="module")
def larger_dataset() -> Dataset:
    """The same with four times the users: networks over sequences learn from more pairs only."""
    return make_synthetic_dataset(
        600, 200, 12_000, {"image": 6, "text": 5}, groups=10, noise=0.5, seed=3, missing={"image": 0.1}, timestamps=True
    )


@pytest.fixture(scope="module")
def popularity(small_popularity) -> float:
    return small_popularity


@pytest.fixture(scope="module")
def small_popularity(small_dataset) -> float:
    return evaluate(trained("popularity", small_dataset), small_dataset)["recall@20"]


@pytest.fixture(scope="module")
def larger_popularity(larger_dataset) -> float:
    return evaluate(trained("popularity", larger_dataset), larger_dataset)["recall@20"]


def configuration(name: str):
    return make_config(config_type(name), SMALL.get(name, {}))


def is_ordered(name: str) -> bool:
    return model_type(name).capabilities.ordered


def training(name: str, **options) -> TrainConfig:
    return dataclasses.replace(TRAINING, **{**TRAININGS.get(name, {}), **options})


def trained(name: str, dataset: Dataset, config=None, options=None, **folder) -> Recommender:
    config = config if config is not None else configuration(name)
    options = training(name, **(options or {}))
    return fit(dataset, config, options, progress=False, cache=False, device="cpu", **folder)


def untrained(name: str, dataset: Dataset, **options) -> Model:
    config = dataclasses.replace(configuration(name), **options)
    return build(name, make_model_inputs(dataset, cache=False, seed=1), config)


def batch_of(model: Model) -> tuple[torch.Tensor, ...]:
    """The first batch of an epoch, of 100 pairs or as many targets of sequences."""
    return next(make_sampler(model, TRAINING).batches(1, 100, torch.device("cpu")))[1]


def new_features(n: int) -> dict[str, Features]:
    rng = np.random.default_rng(0)
    return {
        name: Features(torch.from_numpy(rng.normal(size=(n, d)).astype(np.float32)), torch.ones(n, dtype=torch.bool))
        for name, d in (("image", 6), ("text", 5))
    }


def bits(recommender: Recommender) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in recommender.scorer.tensors().items()}


@pytest.fixture(scope="module")
def recommenders(small_dataset, larger_dataset, tmp_path_factory) -> Callable[[str], Recommender]:
    """Return the trained recommender of a model; all test processes share one training of each model."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @functools.cache
    def get(name: str) -> Recommender:
        file = folder / f"trained-{name}.pickle"
        with open(f"{file}.lock", "wb") as lock:
            lock_file(lock, wait=True)  # until it is closed
            if not file.exists():
                made = trained(name, larger_dataset if is_ordered(name) else small_dataset)
                complete = file.with_suffix(".new")
                complete.write_bytes(pickle.dumps(made))
                complete.rename(file)
                return made
            recommender: Recommender = pickle.loads(file.read_bytes())
        return recommender

    return get


@pytest.fixture
def recommender(name, recommenders) -> Recommender:
    return recommenders(name)


@pytest.mark.parametrize("name", model_names())
class TestEveryModel:
    @pytest.fixture
    def dataset(self, name, small_dataset, larger_dataset):
        return larger_dataset if is_ordered(name) else small_dataset

    @pytest.fixture
    def popularity(self, name, small_popularity, larger_popularity):
        return larger_popularity if is_ordered(name) else small_popularity

    def test_learns_the_planted_taste(self, name, recommender, dataset, popularity):
        recall = evaluate(recommender, dataset)["recall@20"]
        if name == "popularity":
            assert recall == popularity
        else:
            assert recall > popularity + MARGIN[name], f"{recall:.3f} against popularity's {popularity:.3f}"

    def test_knows_the_groups_that_each_user_likes(self, name, recommender, dataset):
        """Known right answer: of ten recommendations most are of the three groups that the user took most from."""
        group = dataset.item_table["group"].to_numpy()
        right = []
        for user in range(dataset.n_users):
            liked = np.bincount(group[dataset.train.items[dataset.train.users == user]], minlength=10)
            top = recommender.recommend(user, k=10)["item"].to_numpy()
            right.append(np.isin(group[top], np.argsort(-liked, kind="stable")[:3]).mean())
        share = float(np.mean(right))
        if name == "popularity":  # three groups of ten, and what is seen is left out
            assert share < 0.3
        else:
            assert share > SHARE.get(name, 0.8)

    def test_comes_back_from_disk_to_the_same_bits(self, name, recommender, dataset, tmp_path):
        loaded = Recommender.load(recommender.save(tmp_path / "run"), verify=True)
        assert bits(loaded) == bits(recommender)
        users = torch.arange(dataset.n_users)
        ours, theirs = (r.scorer.scores(r.scorer.queries(users)) for r in (recommender, loaded))
        assert torch.equal(ours, theirs)
        assert loaded.model().config == recommender.model().config
        again = loaded.model().scorer()  # built again from the saved weights, graphs and all
        assert all(torch.equal(tensor, again.tensors()[key]) for key, tensor in loaded.scorer.tensors().items())

    def test_same_seed_same_bits(self, name, recommender, dataset):
        if model_type(name).capabilities.training == "closed_form":
            assert bits(trained(name, dataset)) == bits(recommender)
        else:
            once, again = (bits(trained(name, dataset, options={"epochs": 3})) for _ in range(2))
            assert once == again

    def test_parts_sum_to_the_scores(self, name, recommender, dataset):
        scorer = recommender.scorer
        queries = scorer.queries(torch.arange(20))
        scores = scorer.scores(queries)
        for item in range(0, dataset.n_items, 17):
            parts = scorer.parts(queries, torch.full((20,), item))
            assert parts.shape == (20, len(scorer.part_names))
            torch.testing.assert_close(parts.sum(1), scores[:, item], rtol=1e-4, atol=1e-6)

    def test_configuration_round_trip(self, name):
        config = configuration(name)
        assert make_config(config_type(name), to_dict(config)) == config
        assert model_for_config(config) is model_type(name)
        assert model_type(name).name == name

    def test_unknown_option_is_an_error(self, name):
        with assert_error(ConfigError, mentions=["configuration", "'n_layerz'"]):
            make_config(config_type(name), {"n_layerz": 3})

    def test_gradients_reach_every_parameter(self, name, dataset):
        model = untrained(name, dataset)
        if model.capabilities.training == "closed_form":
            with assert_error(CapabilityError, mentions=[name]):
                model.loss(*torch.arange(9).view(3, 3))
            return
        model.start_epoch(1)
        terms = model.loss(*batch_of(model))
        terms["loss"].backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.any()), parameter_name
        with assert_error(CapabilityError, mentions=[name]):
            model.solve()

    def test_new_items_exactly_where_it_says_so(self, name, recommender, dataset):
        model, scorer = recommender.model(), recommender.scorer
        catalog = [make_model_inputs(dataset, cache=False).features]
        if not model.capabilities.cold_items:
            with assert_error(CapabilityError, mentions=[name, "items"]):
                model.add_items(scorer, catalog, new_features(3))
            return
        grown = model.add_items(scorer, catalog, new_features(3))
        assert grown.n_items == dataset.n_items + 3
        before, after = (s.scores(s.queries(torch.arange(9))) for s in (scorer, grown))
        torch.testing.assert_close(after[:, :-3], before)
        assert len(after[:, -3:].unique()) == 27

    def test_new_users_exactly_where_it_says_so(self, name, recommender, dataset):
        model, scorer = recommender.model(), recommender.scorer
        users = range(0, dataset.n_users, 3)
        histories = [recommender.histories.of(user) for user in users]
        if not model.capabilities.new_users:
            with assert_error(CapabilityError, mentions=[name, "users"]):
                model.fold_in(scorer, histories)
            return
        # folded in from their own history, known users get mostly the items that they get anyway
        folded = scorer.scores(model.fold_in(scorer, histories))
        own = scorer.scores(scorer.queries(torch.tensor(list(users))))
        assert folded.shape == own.shape
        shared = []
        for ours, theirs, history in zip(folded, own, histories, strict=True):
            ours[history], theirs[history] = -torch.inf, -torch.inf
            shared.append(len(np.intersect1d(ours.topk(20).indices, theirs.topk(20).indices)) / 20)
        assert np.mean(shared) > 0.7

    def test_needs_features_exactly_where_it_says_so(self, name, dataset):
        bare = dataclasses.replace(dataset, features={})
        if model_type(name).capabilities.needs_features:
            with assert_error(CapabilityError, mentions=[name, "features"]):
                untrained(name, bare)
        else:
            assert untrained(name, bare).inputs.features == {}


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_resumes_to_the_same_bits(name, dataset, tmp_path):
    """Two epochs and two more after a restart end as four in one go: parameters, and every term of the loss."""
    whole = trained(name, dataset, options={"epochs": 4}, run=tmp_path / "whole")
    trained(name, dataset, options={"epochs": 2}, run=tmp_path / "run")
    resumed = trained(name, dataset, options={"epochs": 4}, run=tmp_path / "run", resume=True)
    assert bits(resumed) == bits(whole)
    ours, theirs = (
        [
            {key: value for key, value in json.loads(line).items() if not key.startswith("seconds")}
            for line in (tmp_path / run / "history.jsonl").read_text().splitlines()
        ]
        for run in ("run", "whole")
    )
    assert len(theirs) == 4
    assert ours == theirs


@pytest.mark.parametrize("name", [name for name in BY_GRADIENT if hasattr(config_type(name), "loss")])
def test_learns_by_softmax_too(name, dataset, popularity):
    config = dataclasses.replace(configuration(name), loss="softmax")
    recall = evaluate(trained(name, dataset, config), dataset)["recall@20"]
    assert recall > popularity + MARGIN[name], f"{recall:.3f} against popularity's {popularity:.3f}"


LOSSES = [
    (name, options)
    for name in BY_GRADIENT
    for options in ([{"loss": "bpr"}, {"loss": "softmax"}] if hasattr(config_type(name), "loss") else [{}])
]


@pytest.mark.parametrize(("name", "options"), LOSSES, ids=lambda x: x if isinstance(x, str) else "-".join(x.values()))
def test_bfloat16_products_move_loss_and_gradients_a_little_only(name, options, dataset):
    losses, gradients = [], []
    for low in (False, True):
        model = untrained(name, dataset, **options)
        model.start_epoch(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss_of_batch = model.loss(*batch_of(model))["loss"]
        loss_of_batch.backward()
        losses.append(loss_of_batch.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95


def test_an_unknown_model_is_named_with_its_neighbor():
    with assert_error(ConfigError, mentions=["'lirdreck'", "'lirdrec'"]):
        model_type("lirdreck")


@pytest.mark.parametrize(
    "options, facts",
    [
        ({"embedding_size": 0}, ["embedding_size", 0, 1]),
        ({"embedding_size": 2}, ["embedding_size", 4]),
        ({"n_layers": -1}, ["n_layers", -1, 0]),
        ({"regularization": float("nan")}, ["regularization", "nan", 0]),
        ({"edge_dropout": 1.0}, ["edge_dropout", 1.0, 0, 1]),
        ({"pwc_weight": 0.0}, ["pwc_weight", 0.0, 1]),
        ({"pwc": "log"}, ["configuration", "'pwc'", "'log'", "'released', 'logits', 'uniform'"]),
        ({"modality_weights": {"image": -1.0}}, ["modality_weights", 0]),
        ({"feature_columns": 0}, ["feature_columns", 0, 1]),
        ({"layer_weights": "falling"}, ["layer_weights", "'falling'", "'equal', 'decaying', 'learned'"]),
        ({"layer_weights": (1.0, 0.5)}, ["layer_weights", "1, 0.5", "n_layers", 3, 4]),
        ({"layer_weights": "1,1,1,0.5", "n_layers": 4}, ["layer_weights", "1, 1, 1, 0.5", "n_layers", 4, 5]),
        ({"layer_weights": "1,1,x,1"}, ["layer_weights", "'1,1,x,1'", "'equal', 'decaying', 'learned'", "numbers"]),
        ({"layer_weights": 1.0}, ["layer_weights", 1.0, "'equal', 'decaying', 'learned'", "numbers"]),
        ({"layer_weights": (0, 0, 0, 0)}, ["layer_weights", 0]),
        ({"layer_weights": (1, 0, 0, 0)}, ["layer_weights", "1, 0, 0, 0", "1 to 3"]),
        ({"layer_weights": (1.0, float("inf"), 1.0, 1.0)}, ["layer_weights", "inf"]),
    ],
    ids=str,
)
def test_values_out_of_range_of_lirdrec(options, facts):
    with assert_error(ConfigError, mentions=facts):
        make_config(config_type("lirdrec"), options)


@pytest.mark.parametrize(
    "options, facts",
    [
        ({"modalities": ("image", "sound")}, ["modalities", "'sound'", "image, text"]),
        ({"modalities": ("image", "image")}, ["modalities", "'shared'"]),
        ({"modality_weights": {"image": 1.0}}, ["modality_weights", "image, text"]),
    ],
    ids=str,
)
def test_modalities_that_do_not_fit_the_dataset(options, facts, dataset):
    with assert_error(ConfigError, mentions=facts):
        untrained("lirdrec", dataset, **options)


def test_a_matrix_with_the_name_of_a_part_of_the_score_is_named():
    dataset = make_synthetic_dataset(30, 20, 200, {"content": 6, "text": 6}, groups=4, seed=0, timestamps=True)
    with assert_error(ConfigError, mentions=["modalities", "'content'"]) as caught:
        untrained("lirdrec_seq", dataset)
    assert "'shared'" not in str(caught.value)  # names that are free are no part of the fault


@pytest.mark.parametrize("modalities", [("image",), ("text",), ("text", "image")])
def test_one_modality_left_out_learns_too(modalities, dataset, popularity):
    config = make_config(config_type("lirdrec"), {**SMALL["lirdrec"], "modalities": list(modalities)})
    found = fit(dataset, config, TRAINING, progress=False, cache=False)
    assert found.scorer.part_names == (*modalities, "shared", "content")
    assert evaluate(found, dataset)["recall@20"] > popularity + 0.2
