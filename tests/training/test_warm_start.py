"""Training on from an earlier run, and refitting one on all interactions."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.data.cold_start import move_to_train
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import CapabilityError, ConfigError, DataError, RunFolderError
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.models.base import Model
from lirdrec.models.ease import EASEConfig
from lirdrec.models.grcn import GRCNConfig
from lirdrec.models.lightgcn import LightGCNConfig
from lirdrec.models.lirdrec import PRIOR, SHORTENED, LIRDRec, LIRDRecConfig
from lirdrec.models.registry import build, model_for_config, model_names, model_type
from lirdrec.recommender import new_item_calibration
from lirdrec.recommender.fit import fit
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.refit_settings import merge_splits
from lirdrec.recommender.warm_start import start_from
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error, assert_mentions

QUIET = {"progress": False, "device": "cpu", "cache": False}
TRAINING = TrainConfig(epochs=6, learning_rate=0.02, batch_size=128, seed=3)
N_NEW = 4  # users and items that the old data lack


def part_of(whole: Dataset, users: np.ndarray, items: np.ndarray, keep=None, info=None) -> Dataset:
    """The dataset of some user and item rows, in the order given, and of the training pairs that `keep` selects."""
    user_row, item_row = np.full(whole.n_users, -1), np.full(whole.n_items, -1)
    user_row[users], item_row[items] = np.arange(len(users)), np.arange(len(items))

    def kept(pairs: Interactions, mask: np.ndarray) -> Interactions:
        rows, columns = user_row[pairs.users], item_row[pairs.items]
        mask = mask & (rows >= 0) & (columns >= 0)
        return Interactions(rows[mask], columns[mask])

    every = {name: np.ones(len(whole.split(name)), dtype=bool) for name in ("train", "valid", "test")}
    if keep is not None:
        every["train"] = keep
    return Dataset(
        name="part",
        users=type(whole.users)(whole.users.series.gather(users), "user"),
        items=type(whole.items)(whole.items.series.gather(items), "item"),
        **{name: kept(whole.split(name), mask) for name, mask in every.items()},
        features={
            name: FeatureMatrix(np.array(m.values[items]), np.array(m.present[items]))
            for name, m in whole.features.items()
        },
        item_table=whole.item_table[items.tolist()],
        info=info or {},
    )


@pytest.fixture(scope="module")
def new() -> Dataset:
    return make_synthetic_dataset(60, 50, 900, {"image": 6, "text": 5}, groups=5, noise=0.3, seed=4)


@pytest.fixture(scope="module")
def old(new) -> Dataset:
    """Without the last users and items, in another order, with nine tenths of the training pairs."""
    rng = np.random.default_rng(0)
    users, items = rng.permutation(new.n_users - N_NEW), rng.permutation(new.n_items - N_NEW)
    made = part_of(new, users, items, keep=rng.random(len(new.train)) < 0.9)
    assert len(np.unique(made.train.users)) == made.n_users
    return made


def started(run: Recommender, data: Dataset):
    """A model of the run's kind on other data, with the parameters that a training starts from."""
    config = model_for_config(CONFIGS[run.info["model"]])
    model = config(make_model_inputs(data, "cpu", cache=False), CONFIGS[run.info["model"]])
    start_from(model, data, run.state)
    return model


CONFIGS = {
    "lirdrec": LIRDRecConfig(embedding_size=8, n_layers=2, n_neighbors=5),
    "lightgcn": LightGCNConfig(embedding_size=8),
    "grcn": GRCNConfig(embedding_size=8),
}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_rows_are_matched_by_id(old, new, name, monkeypatch):
    monkeypatch.setattr(LIRDRec, "start_again", Model.start_again)
    run = fit(old, CONFIGS[name], replace(TRAINING, epochs=2), **QUIET)
    before, model = run.weights(), started(run, new)
    after = model.state_dict()
    ids = {"user": (old.users, new.users), "item": (old.items, new.items)}
    kinds = set()
    for tensor_name, tensor in after.items():
        kind = model.rows_of(tensor_name)
        if kind is None:
            assert torch.equal(tensor, before[tensor_name])
            continue
        kinds.add(kind)
        was, now = ids[kind]
        for row, one in enumerate(was.ids.tolist()):
            torch.testing.assert_close(tensor[int(now.row(one))], before[tensor_name][row], rtol=1e-6, atol=0)
    assert kinds == ({"user"} if name == "lirdrec" else {"user", "item"})


def test_a_new_user_starts_from_the_users_of_the_same_items(old, new, monkeypatch):
    monkeypatch.setattr(LIRDRec, "start_again", Model.start_again)
    run = fit(old, CONFIGS["lirdrec"], replace(TRAINING, epochs=2), **QUIET)
    table = run.weights()["user_embedding"].double().numpy()
    found = started(run, new).user_embedding.detach().double().numpy()
    pairs = list(zip(new.train.users.tolist(), new.train.items.tolist(), strict=True))
    row = new.n_users - 1
    means = []
    for item in (i for u, i in pairs if u == row):
        known = [old.users.row(new.users.ids[u]) for u, i in pairs if i == item and u < new.n_users - N_NEW]
        if known:
            means.append(table[known].mean(0))
    assert means
    np.testing.assert_allclose(found[row], np.mean(means, axis=0), rtol=1e-5, atol=1e-7)


def test_rows_of_users_with_few_interactions_move_to_those_of_similar_users(old, new, monkeypatch):
    run = fit(old, CONFIGS["lirdrec"], replace(TRAINING, epochs=2), **QUIET)
    found = started(run, new).user_embedding.detach().double().numpy()
    monkeypatch.setattr(LIRDRec, "start_again", Model.start_again)
    before = started(run, new).user_embedding.detach().double().numpy()
    length = np.linalg.norm(before, axis=2, keepdims=True)
    pairs = list(zip(new.train.users.tolist(), new.train.items.tolist(), strict=True))
    for user in (0, 7, new.n_users - 1):
        similar, mine = np.zeros_like(before[user]), [i for u, i in pairs if u == user]
        for item in mine:
            total = sum(before[u] / length[u] for u, i in pairs if i == item)
            similar += total / np.linalg.norm(total, axis=1, keepdims=True)
        similar /= np.linalg.norm(similar, axis=1, keepdims=True)
        direction = len(mine) * before[user] / length[user] + PRIOR * similar
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        np.testing.assert_allclose(found[user], SHORTENED * length[user] * direction, rtol=1e-4, atol=1e-7)


def test_the_row_of_a_user_without_interactions_keeps_its_direction(old, new, monkeypatch):
    run = fit(old, CONFIGS["lirdrec"], replace(TRAINING, epochs=1), **QUIET)
    kept = new.train.users != 0
    nothing = Interactions(np.empty(0, np.int64), np.empty(0, np.int64))
    train = Interactions(new.train.users[kept], new.train.items[kept])
    lonely = replace(new, train=train, valid=nothing, test=nothing)
    found = started(run, lonely).user_embedding[0].detach()
    monkeypatch.setattr(LIRDRec, "start_again", Model.start_again)
    torch.testing.assert_close(found, SHORTENED * started(run, lonely).user_embedding[0].detach())


def test_a_new_item_starts_from_its_nearest_known_items(old, new):
    run = fit(old, CONFIGS["lightgcn"], replace(TRAINING, epochs=2), **QUIET)
    table = run.weights()["item_embedding"].double().numpy()
    found = started(run, new).item_embedding.detach().double().numpy()
    row, known = new.n_items - 1, np.arange(new.n_items - N_NEW)
    rows = []
    for matrix in new.features.values():
        unit = matrix.values / np.linalg.norm(matrix.values, axis=1, keepdims=True)
        similarity = (unit @ unit[row])[known]
        rows += known[np.argsort(-similarity)[:10]].tolist()
    nearest = [old.items.row(new.items.ids[one]) for one in rows]
    np.testing.assert_allclose(found[row], table[nearest].mean(0), rtol=1e-4, atol=1e-7)


def test_a_row_without_any_neighbor_starts_from_the_mean(old, new):
    run = fit(old, CONFIGS["lightgcn"], replace(TRAINING, epochs=1), **QUIET)
    # the last user takes only the last item, which nobody else took, and there are no features
    others = new.train.items != new.n_items - 1
    mine = new.train.users == new.n_users - 1
    train = Interactions(
        np.append(new.train.users[others & ~mine], new.n_users - 1),
        np.append(new.train.items[others & ~mine], new.n_items - 1),
    )
    nothing = Interactions(np.empty(0, np.int64), np.empty(0, np.int64))
    lonely = replace(new, train=train, valid=nothing, test=nothing, features={})
    model = started(run, lonely)
    for tensor, name in ((model.user_embedding, "user_embedding"), (model.item_embedding, "item_embedding")):
        mean = run.weights()[name].double().mean(0)
        np.testing.assert_allclose(tensor[-1].detach().double(), mean, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", [n for n in model_names() if model_type(n).capabilities.training == "gradient"])
def test_every_table_of_users_or_items_is_declared(name):
    shapes, models = [], []
    for n_users, n_items in ((31, 37), (32, 37), (31, 38)):
        data = make_synthetic_dataset(n_users, n_items, 300, {"image": 6, "text": 5}, groups=4, seed=1, timestamps=True)
        model = build(name, make_model_inputs(data, "cpu", cache=False), model_type(name).Config())
        models.append(model)
        shapes.append({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})
    for key, shape in shapes[0].items():
        expected = "user" if shapes[1][key] != shape else "item" if shapes[2][key] != shape else None
        assert models[0].rows_of(key) == expected, key


def test_it_learns_sooner_than_from_scratch(new):
    rng = np.random.default_rng(5)
    old = part_of(new, np.arange(new.n_users), np.arange(new.n_items), keep=rng.random(len(new.train)) < 0.9)
    config, one = CONFIGS["lirdrec"], replace(TRAINING, epochs=1)
    run = fit(old, config, replace(TRAINING, epochs=25, patience=25), **QUIET)
    continued = fit(new, warm_start=run, training=one, **QUIET)
    scratch = fit(new, config, one, **QUIET)
    metric = TRAINING.metric
    gained = continued.info["metrics"]["valid"][metric] - scratch.info["metrics"]["valid"][metric]
    assert gained > 0.05
    assert continued.info["model_config"] == run.info["model_config"]
    assert continued.info["warm_start"]["run"] is None


def test_a_continued_training_simulates_half_as_many_launches(new, monkeypatch):
    launched, simulate = [], new_item_calibration._launch
    monkeypatch.setattr(new_item_calibration, "_launch", lambda *given: launched.append(given[3]) or simulate(*given))
    one = replace(TRAINING, epochs=1)
    run = fit(new, CONFIGS["lirdrec"], one, **QUIET)
    fit(resplit(new), warm_start=run, training=one, **QUIET)
    assert [len(launched[:10]), len(launched[10:])] == [10, 5]
    trained = len(np.unique(new.train.items))
    assert len(torch.cat(launched[:10]).unique()) == trained
    assert len(torch.cat(launched[10:]).unique()) == pytest.approx(trained / 2, abs=new.n_items / 10)


def test_options_are_those_of_the_run_for_a_quarter_of_its_epochs(old, new, tmp_path):
    fit(old, CONFIGS["lightgcn"], replace(TRAINING, epochs=10, patience=10), run=tmp_path / "first", **QUIET)
    second = fit(new, warm_start=tmp_path / "first", run=tmp_path / "second", **QUIET)
    training = second.info["training"]
    assert training == {**training, "batch_size": 128, "learning_rate": 0.02, "seed": 3, "schedule": "cosine"}
    assert second.info["metrics"]["epochs"] == training["epochs"] == 2
    # a quarter of those from scratch, not of the two that the second run took; also through a refit
    fit(new, refit=second, run=tmp_path / "served", **QUIET)
    for earlier in (second, tmp_path / "served"):
        found = fit(resplit(new), warm_start=earlier, **QUIET)
        assert found.info["metrics"]["epochs"] == 2
    own = fit(new, warm_start=second, training=replace(TRAINING, epochs=3), **QUIET)
    assert own.info["metrics"]["epochs"] == 3


def resplit(data: Dataset) -> Dataset:
    """With one pair of each user that nobody has trained on as validation, and nothing to test."""
    taken = {pair for name in ("train", "valid", "test") for pair in pairs_of(data.split(name))}
    free = [next(i for i in range(data.n_items) if (u, i) not in taken) for u in range(data.n_users)]
    nothing = Interactions(np.empty(0, np.int64), np.empty(0, np.int64))
    return replace(merge_splits(data), valid=Interactions(np.arange(data.n_users), np.array(free)), test=nothing)


def test_held_out_pairs_that_the_run_knows_are_moved_to_train(old, new, caplog):
    run = fit(merge_splits(old), CONFIGS["lightgcn"], replace(TRAINING, epochs=1), **QUIET)
    trained = {(old.users.ids[u], old.items.ids[i]) for u, i in pairs_of(run.train)}

    def leaked(split):
        return {(u, i) for u, i in pairs_of(split) if (new.users.ids[u], new.items.ids[i]) in trained}

    expected = {name: leaked(new.split(name)) for name in ("valid", "test")}
    changed, numbers = move_to_train(new, old.users, old.items, run.train)
    assert numbers == {name: len(pairs) for name, pairs in expected.items()} and numbers["valid"] > 0
    assert set(pairs_of(changed.train)) == set(pairs_of(new.train)) | expected["valid"] | expected["test"]
    assert set(pairs_of(changed.valid)) == set(pairs_of(new.valid)) - expected["valid"]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        found = fit(new, warm_start=run, training=replace(TRAINING, epochs=1), **QUIET)
        assert_mentions(caplog.messages[0], [numbers["valid"], numbers["test"]])
    assert set(pairs_of(found.train)) == set(pairs_of(changed.train))
    assert evaluate(found, new).values == evaluate(found, changed).values


def pairs_of(split) -> list[tuple[int, int]]:
    return list(zip(split.users.tolist(), split.items.tolist(), strict=True))


def test_validation_that_the_run_knows_completely_is_refused(new):
    run = fit(merge_splits(new), CONFIGS["lightgcn"], replace(TRAINING, epochs=1), **QUIET)
    with assert_error(DataError, mentions=[len(new.valid)]):
        fit(new, warm_start=run, **QUIET)
    with assert_error(ConfigError, mentions=["epochs"]):
        fit(merge_splits(new), warm_start=run, **QUIET)


def test_a_refit_of_a_continued_run_starts_where_that_one_did(old, new, tmp_path):
    fit(old, CONFIGS["lirdrec"], TRAINING, run=tmp_path / "first", **QUIET)
    second = fit(new, warm_start=tmp_path / "first", run=tmp_path / "second", **QUIET)
    served = fit(new, refit=tmp_path / "second", **QUIET)
    training = TrainConfig(**{**second.info["training"], "epochs": second.info["metrics"]["best_epoch"]})
    own = fit(merge_splits(new), warm_start=tmp_path / "first", training=training, **QUIET)
    assert torch.equal(served.scorer.user_vectors, own.scorer.user_vectors)
    fit(old, CONFIGS["lirdrec"], replace(TRAINING, seed=4), run=tmp_path / "first", overwrite=True, **QUIET)
    with assert_error(RunFolderError, mentions=[tmp_path / "first"]):
        fit(new, refit=tmp_path / "second", **QUIET)


def test_resuming_gives_the_same_bits(old, new, tmp_path):
    fit(old, CONFIGS["lirdrec"], TRAINING, run=tmp_path / "first", **QUIET)
    whole = fit(new, warm_start=tmp_path / "first", training=replace(TRAINING, epochs=4), **QUIET)
    for epochs in (2, 4):
        training = replace(TRAINING, epochs=epochs)
        found = fit(
            new, warm_start=tmp_path / "first", training=training, run=tmp_path / "second", resume=epochs > 2, **QUIET
        )
    assert torch.equal(whole.scorer.item_vectors, found.scorer.item_vectors)


def test_a_closed_form_is_computed_again(old, new):
    run = fit(old, EASEConfig(regularization=7.0), **QUIET)
    found = fit(new, warm_start=run, **QUIET)
    assert torch.equal(found.scorer.weights, fit(new, EASEConfig(regularization=7.0), **QUIET).scorer.weights)


def test_features_of_another_encoder_are_refused(old, new, tmp_path):
    run = fit(old, CONFIGS["lirdrec"], replace(TRAINING, epochs=1), **QUIET)
    text = new.features["text"]
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(text.dims, text.dims)))
    cases = {
        "columns": FeatureMatrix(np.array(text.values[:, :4]), text.present),
        "cosine": FeatureMatrix((text.values @ rotation).astype(np.float32), text.present),
    }
    for fact, matrix in cases.items():
        with assert_error(DataError, mentions=["text", fact]):
            fit(replace(new, features={**new.features, "text": matrix}), warm_start=run, **QUIET)
    with assert_error(DataError, mentions=["text"]):
        fit(replace(new, features={"image": new.features["image"]}), warm_start=run, **QUIET)
    with assert_error(DataError, mentions=["audio"]):
        fit(replace(new, features={**new.features, "audio": text}), warm_start=run, **QUIET)


def test_what_cannot_be_continued_is_refused(old, new, tmp_path):
    run = fit(old, CONFIGS["lightgcn"], replace(TRAINING, epochs=1), **QUIET)
    with assert_error(CapabilityError, mentions=[tmp_path / "slim"]):
        fit(new, warm_start=run.slim(tmp_path / "slim"), **QUIET)
    with assert_error(ConfigError, mentions=["warm_start"]):
        fit(new, CONFIGS["lightgcn"], warm_start=run, **QUIET)
    with assert_error(ConfigError, mentions=["warm_start"]):
        fit(new, refit=run, warm_start=run, **QUIET)
    with assert_error(ConfigError, mentions=["int"]):
        fit(new, warm_start=3, **QUIET)
    foreign = part_of(new, np.arange(new.n_users), np.arange(new.n_items))
    foreign = replace(
        foreign,
        users=type(new.users)(pl.Series("user", np.arange(new.n_users) + 10_000), "user"),
        items=type(new.items)(pl.Series("item", np.arange(new.n_items) + 10_000), "item"),
        item_table=foreign.item_table.with_columns(pl.Series("item", np.arange(new.n_items) + 10_000)),
    )
    with assert_error(DataError, mentions=["ids"]):
        fit(foreign, warm_start=run, **QUIET)


QUIETLY = {"progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    made = make_synthetic_dataset(40, 60, 900, {"image": 6}, groups=4, noise=0.3, seed=2)
    return type(made).load(made.save(tmp_path_factory.mktemp("refit") / "data"))


def test_all_pairs_are_trained_on_for_the_best_number_of_epochs(dataset, tmp_path, caplog):
    training = TrainConfig(epochs=8, learning_rate=0.05, batch_size=64, patience=1, seed=3)
    config = LightGCNConfig(embedding_size=8)
    first = fit(dataset, config, training, run=tmp_path / "first", **QUIETLY)
    best = first.info["metrics"]["best_epoch"]
    found = fit(dataset, refit=tmp_path / "first", run=tmp_path / "second", **QUIETLY)
    loaded = Recommender.load(tmp_path / "second")
    assert loaded.info["refit"] == str(tmp_path / "first")
    assert (loaded.info["metrics"]["epochs"], loaded.info["training"]["epochs"]) == (best, best)
    parts = (dataset.train, dataset.valid, dataset.test)
    pairs = {pair for part in parts for pair in zip(part.users.tolist(), part.items.tolist(), strict=True)}
    assert set(zip(loaded.train.users.tolist(), loaded.train.items.tolist(), strict=True)) == pairs
    # nothing that anybody took, in validation or test either, is recommended
    for row, user in enumerate(dataset.users.ids[:10].tolist()):
        taken = {dataset.items.ids[item] for who, item in pairs if who == row}
        assert not taken & set(loaded.recommend(user, 10)["item"])
    # the same bits as a training on those pairs for so many epochs
    own = fit(merge_splits(dataset), config, replace(training, epochs=best), **QUIETLY)
    assert torch.equal(own.scorer.user_vectors, found.scorer.user_vectors)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        evaluate(loaded, dataset)
    (warning,) = caplog.messages
    assert_mentions(warning, ["test"])
    with assert_error(RunFolderError, mentions=[tmp_path / "second"]):
        fit(dataset, refit=tmp_path / "second", **QUIETLY)


def test_a_closed_form_is_solved_on_all_pairs(dataset, tmp_path):
    fit(dataset, EASEConfig(regularization=7.0), run=tmp_path / "first", **QUIETLY)
    found = fit(dataset, refit=tmp_path / "first", **QUIETLY)
    assert found.info["model_config"]["regularization"] == 7.0
    assert len(found.train.users) == sum(len(dataset.split(name)) for name in ("train", "valid", "test"))


def test_a_cosine_schedule_is_that_of_the_run(dataset, tmp_path):
    training = TrainConfig(epochs=12, learning_rate=0.01, batch_size=64, patience=2, schedule="cosine", seed=3)
    config = LightGCNConfig(embedding_size=8)
    first = fit(dataset, config, training, run=tmp_path / "first", **QUIETLY)
    best = first.info["metrics"]["best_epoch"]
    assert 1 < best < 12
    found = fit(dataset, refit=first, **QUIETLY)
    assert (found.info["training"]["epochs"], found.info["metrics"]["epochs"]) == (12, best)
    # had the rate fallen to zero within the best epochs, other parameters would be found
    shrunk = fit(merge_splits(dataset), config, replace(training, epochs=best), **QUIETLY)
    assert not torch.equal(shrunk.scorer.user_vectors, found.scorer.user_vectors)


def test_a_closed_form_keeps_its_seed(dataset):
    first = fit(dataset, EASEConfig(), TrainConfig(seed=9), **QUIETLY)
    assert fit(dataset, refit=first, **QUIETLY).info["seed"] == 9


def test_settings_of_its_own_are_refused(dataset, tmp_path):
    fit(dataset, EASEConfig(), run=tmp_path / "first", **QUIETLY)
    with assert_error(ConfigError, mentions=["refit"]):
        fit(dataset, EASEConfig(), refit=tmp_path / "first", **QUIETLY)
    with assert_error(RunFolderError, mentions=[tmp_path / "nothing"]):
        fit(dataset, refit=tmp_path / "nothing", **QUIETLY)


def test_everything_keeps_times_and_items(dataset):
    whole = merge_splits(dataset)
    assert len(whole.test) == len(whole.valid) == 0 and whole.folder == dataset.folder
    assert np.array_equal(whole.items.ids, dataset.items.ids)
