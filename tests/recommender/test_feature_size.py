"""`feature_size` and `whiten`: what models read, what runs keep, and which items count."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch

from lirdrec.data.cold_start import hold_out_items
from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.models.content_knn import ContentKNNConfig
from lirdrec.models.lirdrec import LIRDRec, LIRDRecConfig
from lirdrec.models.registry import build, config_type, model_names, model_type
from lirdrec.recommender.feature_pca import fit_projections
from lirdrec.recommender.fit import fit
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.refit_settings import merge_splits
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error

QUIET = {"progress": False, "device": "cpu", "cache": False}
TRAINING = TrainConfig(epochs=2, learning_rate=0.02, batch_size=512, seed=3)
SMALL = LIRDRecConfig(embedding_size=8, n_layers=2, n_neighbors=5)
RANK, WIDTH = 6, 24
READ_FEATURES = [name for name in model_names() if model_type(name).capabilities.needs_features]


def low_rank(matrix: FeatureMatrix, seed: int) -> FeatureMatrix:
    """The features, which have `RANK` columns, in `WIDTH` columns."""
    spread = np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, RANK)))[0].T
    return FeatureMatrix((matrix.values @ spread).astype(np.float32), matrix.present)


@pytest.fixture(scope="module")
def whole() -> Dataset:
    """Features of rank 6 in 24 columns; some items lack the image."""
    data = make_synthetic_dataset(
        90, 80, 1500, {"image": RANK, "text": RANK}, groups=8, seed=3, missing={"image": 0.1}, timestamps=True
    )
    features = {name: low_rank(matrix, seed) for seed, (name, matrix) in enumerate(data.features.items())}
    return replace(data, features=features)


@pytest.fixture(scope="module")
def launched(whole):
    """The dataset without twelve items, their rows of the item table, and their features."""
    return hold_out_items(whole, whole.items.series.to_list()[::7])


def inputs(data: Dataset, config):
    return make_model_inputs(data, cache=False, seed=1, projections=fit_projections(data, config))


def test_with_the_rank_as_size_content_knn_ranks_as_with_raw_features(whole):
    weights = {"image": 0.5, "text": 0.5}
    raw = fit(whole, ContentKNNConfig(modality_weights=weights), **QUIET)
    found = fit(whole, ContentKNNConfig(modality_weights=weights, feature_size=RANK), **QUIET)
    assert {name: p.n_columns for name, p in found.features.projections.items()} == {"image": RANK, "text": RANK}
    rows = torch.arange(whole.n_users)
    expected, scores = (r.scorer.scores(r.scorer.queries(rows)) for r in (raw, found))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    top = [r.recommend(whole.users.series.to_list(), k=5)["item"].to_list() for r in (raw, found)]
    assert np.mean(np.array(top[0]) == np.array(top[1])) > 0.99  # equal scores may change places


def test_with_the_rank_as_size_a_model_has_the_same_scores_loss_and_gradients(whole):
    """The parameters of the raw model, rotated like the features."""
    plain = replace(SMALL, content_columns=0)  # principal components have columns of their own
    raw = LIRDRec(inputs(whole, plain), plain)
    config = replace(plain, feature_size=RANK)
    made = inputs(whole, config)
    rotated = LIRDRec(made, config)
    state = dict(raw.state_dict())
    for row, name in enumerate(raw.modalities):
        directions = made.projections[name].directions.float()
        state[f"hidden_weight.{row}"] = state[f"hidden_weight.{row}"] @ directions
        # the shared branch reads the DCT of the features
        from lirdrec.nn.dct import dct, idct

        state[f"shared_weight.{row}"] = dct(idct(state[f"shared_weight.{row}"]) @ directions)
    rotated.load_state_dict(state)
    batch = [torch.from_numpy(np.array(column[:200])) for column in (whole.train.users, whole.train.items)]
    batch.append(batch[1].flip(0))
    losses = [model.loss(*batch)["loss"] for model in (raw, rotated)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(rotated.user_embedding.grad, raw.user_embedding.grad, rtol=1e-3, atol=1e-7)
    one, other = raw.scorer(), rotated.scorer()
    torch.testing.assert_close(other.item_vectors, one.item_vectors, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.user_vectors, one.user_vectors, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [WIDTH, 1000, {"image": WIDTH}])
def test_a_size_of_all_columns_changes_nothing(whole, size):
    assert fit_projections(whole, replace(SMALL, feature_size=size)) == {}
    raw, found = (fit(whole, config, TRAINING, **QUIET) for config in (SMALL, replace(SMALL, feature_size=size)))
    assert torch.equal(raw.scorer.item_vectors, found.scorer.item_vectors)


def test_absent_modalities_stay_absent(whole):
    made = inputs(whole, replace(SMALL, feature_size=4, whiten=True))
    for name, matrix in whole.features.items():
        found = made.features[name]
        assert found.values.shape == (whole.n_items, 4)
        assert np.array_equal(found.present.numpy(), matrix.present)
        assert np.array_equal(found.values.any(1).numpy(), matrix.present)


def test_items_without_training_do_not_change_the_projection(whole, launched):
    config = replace(SMALL, feature_size={"image": 3, "text": 5})
    rest, _, _ = launched
    cold = np.isin(np.arange(whole.n_items), whole.items.rows(rest.items.series), invert=True)
    keep = ~cold[whole.train.items]
    with_unseen = replace(whole, train=whole.train.take(keep))
    draw = np.random.default_rng(5)
    moved = {}
    for name, matrix in whole.features.items():
        values = np.array(matrix.values)
        values[cold] = draw.normal(size=(int(cold.sum()), WIDTH)) * 100
        moved[name] = FeatureMatrix(values)
    found = [fit_projections(data, config) for data in (rest, with_unseen, replace(with_unseen, features=moved))]
    for name, columns in (("image", 3), ("text", 5)):
        first = found[0][name]
        assert first.n_columns == columns
        for other in found[1:]:
            assert torch.equal(other[name].directions, found[1][name].directions)
            torch.testing.assert_close(other[name].directions, first.directions, rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", [{"feature_size": 4}, {"feature_size": {"text": 3}, "whiten": True}], ids=str)
def test_new_items_go_through_the_projection_of_the_run(launched, options, tmp_path):
    rest, table, features = launched
    saved = Dataset.load(rest.save(tmp_path / "data"))
    trained = fit(saved, replace(SMALL, **options), TRAINING, **QUIET, run=tmp_path / "run")
    loaded = Recommender.load(tmp_path / "run")
    for name, p in trained.features.projections.items():
        assert torch.equal(loaded.features.projections[name].directions, p.directions)
        assert torch.equal(loaded.features.projections[name].offset, p.offset)
    half = table.height // 2
    parts = [slice(0, half), slice(half, table.height)]
    for part in parts:
        rows = {name: np.array(matrix.values[part]) for name, matrix in features.items()}
        for recommender in (trained, loaded):
            recommender.add_items(table[part], rows)
    assert torch.equal(loaded.scorer.item_vectors, trained.scorer.item_vectors)
    loaded.save(tmp_path / "grown")
    again = Recommender.load(tmp_path / "grown")
    assert again.features.projections.keys() == trained.features.projections.keys()
    assert torch.equal(again.scorer.item_vectors, trained.scorer.item_vectors)
    # the model reads projected features, of known and of new items
    config = trained.model().config
    expected = {
        name: p(torch.from_numpy(np.array(rest.features[name].values)))
        for name, p in fit_projections(rest, config).items()
    }
    for name, values in expected.items():
        assert torch.equal(trained.model().inputs.features[name].values, values)


def test_a_damaged_projection_is_refused(whole, tmp_path):
    fit(whole, replace(SMALL, feature_size=4), TRAINING, **QUIET, run=tmp_path / "run")
    file = tmp_path / "run" / "features" / "projections.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-8])
    with pytest.raises(RunFolderError):
        Recommender.load(tmp_path / "run")
    file.unlink()
    with pytest.raises(RunFolderError):
        Recommender.load(tmp_path / "run")


def test_a_slim_run_keeps_no_projection(whole, tmp_path):
    trained = fit(whole, replace(SMALL, feature_size=4), TRAINING, **QUIET)
    trained.slim(tmp_path / "slim")
    assert not (tmp_path / "slim" / "features").exists()
    assert Recommender.load(tmp_path / "slim").n_items == whole.n_items


def test_a_training_that_continues_a_run_keeps_its_projection_and_a_refit_makes_its_own(whole, launched, tmp_path):
    rest, _, _ = launched
    first = fit(rest, replace(SMALL, feature_size=4, whiten=True), TRAINING, **QUIET, run=tmp_path / "run")
    second = fit(whole, training=replace(TRAINING, epochs=1), warm_start=tmp_path / "run", **QUIET)
    for name, p in first.features.projections.items():
        assert torch.equal(second.features.projections[name].directions, p.directions)
    refitted = fit(whole, refit=tmp_path / "run", **QUIET)
    expected = fit_projections(merge_splits(whole), first.model().config)
    for name, p in refitted.features.projections.items():
        assert torch.equal(p.directions, expected[name].directions)
        assert not torch.equal(p.directions, first.features.projections[name].directions)


@pytest.mark.parametrize("name", READ_FEATURES)
def test_every_model_that_reads_features_takes_a_size(whole, name):
    fields = {field.name for field in dataclasses.fields(config_type(name))}
    assert {"feature_size", "whiten"} <= fields
    options = {"embedding_size": 8} if "embedding_size" in fields else {}
    config = config_type(name)(feature_size={"image": 4, "text": 5}, **options)
    model = build(name, inputs(whole, config), config)
    assert [f.values.shape[1] for f in model.inputs.features.values()] == [4, 5]
    if model.capabilities.training == "closed_form":
        model.solve()
    else:
        model.start_epoch(1)
    scorer = model.eval().scorer()
    assert scorer.n_items == whole.n_items
    if model.capabilities.cold_items:
        features = {name: f for name, f in model.inputs.features.items()}
        new = {name: type(f)(f.values[:2], f.present[:2] | True) for name, f in features.items()}
        assert model.add_items(scorer, [features], new).n_items == whole.n_items + 2


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        ({"feature_size": 0}, ["feature_size", 0, 1]),
        ({"feature_size": {"text": -3}}, ["feature_size", "text", -3, 1]),
        ({"feature_size": "many"}, ["feature_size", "many"]),
        ({"feature_size": 2.5}, ["feature_size", 2.5]),
        ({"feature_size": {"text": "many"}}, ["feature_size", "many"]),
    ],
)
def test_bad_sizes_are_refused(options, mentions):
    with assert_error(ConfigError, mentions):
        LIRDRecConfig(**options)


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        ({"feature_size": {"sound": 3}}, ["feature_size", "sound", "image", "text"]),
        ({"feature_size": {"image": 3}, "modalities": ("text",)}, ["feature_size", "image", "text"]),
    ],
)
def test_a_size_for_a_modality_that_is_not_used_is_refused(whole, options, mentions):
    with assert_error(ConfigError, mentions):
        fit(whole, replace(SMALL, **options), TRAINING, **QUIET)


def test_a_modality_without_variance_is_refused_by_whiten_and_not_reduced(whole, caplog):
    same = FeatureMatrix(np.ones((whole.n_items, 5), np.float32))
    data = replace(whole, features={**whole.features, "text": same})
    with assert_error(ConfigError, ["whiten", "text", "modalities"]):
        fit(data, replace(SMALL, whiten=True), TRAINING, **QUIET)
    config = replace(SMALL, feature_size=3)
    assert [(name, p.directions.shape[1]) for name, p in fit_projections(data, config).items()] == [("image", 3)]
    run = fit(data, config, TRAINING, **QUIET)
    assert "'text'" in caplog.text and run.model().hidden_weight[1].shape[1] == 5


def test_a_few_rows_that_dwarf_all_others_are_warned_of(whole, caplog):
    values = np.array(whole.features["text"].values)
    large = values.copy()
    large[int(whole.train.items[0])] *= 1e8
    low_rank = np.outer(np.arange(1, len(values) + 1), np.ones(5)).astype(np.float32)
    for matrix, warns in ((values, False), (low_rank, False), (large, True)):
        caplog.clear()
        data = replace(whole, features={**whole.features, "text": FeatureMatrix(matrix)})
        fit_projections(data, replace(SMALL, feature_size=matrix.shape[1] - 1))
        assert ("'text'" in caplog.text and "feature_size" in caplog.text) == warns


@pytest.mark.parametrize("name", ["whitenrec", "whitenrec_plus"])
def test_models_that_whiten_by_themselves_refuse_it(name):
    with assert_error(ConfigError, ["whiten", name]):
        config_type(name)(whiten=True)
