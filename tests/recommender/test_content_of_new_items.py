"""The similarity of features in the scores of new items, against formulas written out here."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import lirdrec
from lirdrec.data.cold_start import hold_out_items
from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError
from lirdrec.graphs.user_item import UserItemGraph
from lirdrec.models.base import Features
from lirdrec.models.history_content_score import content_of_users
from lirdrec.recommender.known_users_as_new import as_new_users
from lirdrec.recommender.new_item_calibration import _launch
from lirdrec.recommender.new_item_encoder import NewItemEncoder
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.warm_start import start_from

from ..helpers import assert_error

TRAINING = lirdrec.TrainConfig(epochs=4, batch_size=1024, order="users", learning_rate=5e-3)
WEIGHTS = {"image": 0.3, "text": 0.7}


def held_out():
    """A dataset without 10 of 100 items, and these items."""
    dataset = make_synthetic_dataset(n_users=150, n_items=100, n_pairs=2000, dims={"image": 9, "text": 7}, seed=3)
    return hold_out_items(dataset, dataset.items.series.to_list()[::10])


def trained(columns: int, **options) -> Recommender:
    config = lirdrec.LIRDRecConfig(
        **{"embedding_size": 8, "loss": "softmax", "scoring": "cosine", "modality_weights": WEIGHTS} | options,
        content_columns=columns,
    )
    return lirdrec.fit(held_out()[0], config, TRAINING, device="cpu", progress=False)


@pytest.fixture(scope="module")
def run() -> Recommender:
    return trained(128)


def with_new(run: Recommender, **changes) -> Recommender:
    recommender = Recommender.from_state(run.state)
    encoder = dataclasses.replace(recommender.new_item_encoder, **changes)
    recommender.info = recommender.info | {"new_items": encoder.to_info()}
    _, table, features = held_out()
    recommender.add_items(table, features)
    return recommender


def content(recommender: Recommender) -> np.ndarray:
    """`f` of all items by NumPy: components with variance 1 over the trained items, of each modality to length 1."""
    blocks, counts, parts = recommender.features.blocks(), recommender.histories.items.bincount(), []
    known = np.zeros(recommender.n_items, bool)
    known[: len(counts)] = counts.numpy() > 0
    for name, weight in WEIGHTS.items():
        values = np.concatenate([block[name].values for block in blocks]).astype(float)
        present = np.concatenate([block[name].present for block in blocks])
        fitted = values[known & present]
        center, covariance = fitted.mean(0), np.cov(fitted.T, bias=True)
        variances, directions = np.linalg.eigh(covariance)
        directions, variances = directions[:, variances > 1e-9 * variances.max()], variances[variances > 1e-9]
        whitened = (values - center) @ directions / np.sqrt(variances) * present[:, None]
        parts.append(unit(whitened) * np.sqrt(weight))
    return unit(np.concatenate(parts, axis=1))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def all_scores(recommender: Recommender) -> torch.Tensor:
    scorer = recommender.scorer
    return scorer.scores(scorer.queries(torch.arange(scorer.n_users)))


@pytest.mark.parametrize("scoring", ["cosine", "product"])
def test_the_score_of_a_new_item_is_that_of_the_formula(scoring):
    w = 0.4
    run = trained(128, scoring=scoring, loss="softmax" if scoring == "cosine" else "bpr")
    plain, mixed = with_new(run, similarity=0.0), with_new(run, similarity=w)
    n = run.n_items
    f = content(mixed)
    q = unit(np.stack([f[run.histories.of(user).numpy()].sum(0) for user in range(run.n_users)]))
    users, items = (
        np.linalg.norm(vectors.numpy(), axis=1)
        for vectors in (run.scorer.user_vectors[:, :24], run.scorer.item_vectors[:, :24])
    )
    taken = np.unique(run.histories.items.numpy())
    scale = run.new_item_encoder.scale
    # torch takes the lower one of two medians
    assert scale == pytest.approx(np.sort(users)[(len(users) - 1) // 2] * np.sort(items[taken])[(len(taken) - 1) // 2])
    assert (scoring == "cosine") == (abs(scale - 1) < 1e-5)
    offset, before = plain.new_item_encoder.offset, all_scores(plain).numpy()[:, n:]
    expected = (1 - w) * (before - offset) + w * scale * q @ f[n:].T + offset
    np.testing.assert_allclose(all_scores(mixed).numpy()[:, n:], expected, atol=2e-5 * max(1, scale))
    assert np.abs(expected - before).max() > 0.05 * scale  # the term counts


def test_pairs_of_a_history_count_with_their_weights():
    users, items = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1])
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    graph = UserItemGraph(users, items, 3, 3, torch.float64, weights)
    degrees = torch.bincount(items, weights, minlength=3)
    found = content_of_users(graph, degrees, torch.eye(3, dtype=torch.float64))
    expected = np.array([[0.5, 0.0, 2.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(found.numpy(), unit(expected), atol=1e-12)


def test_known_items_keep_every_bit(run):
    without = trained(0)
    assert without.scorer.part_names == ("image", "text", "shared")
    assert not any("content" in name for name in [*without.model().state_dict(), *without.scorer.memory])
    expected = all_scores(without)
    assert torch.equal(all_scores(run), expected)
    assert torch.equal(all_scores(with_new(run))[:, : run.n_items], expected)
    users, items = torch.arange(run.n_users), torch.arange(run.n_items)
    assert torch.equal(run.scorer.similar_users(users), without.scorer.similar_users(users))
    assert torch.equal(run.scorer.similar_items(items), without.scorer.similar_items(items))
    encoder, other = run.new_item_encoder, without.new_item_encoder
    assert (encoder.content, encoder.similarity, other.content, other.similarity) == (0.3, 0.25, 0.3, 0.0)


def test_parts_of_a_score(run):
    recommender = with_new(run)
    user, n = recommender.users.series[0], run.n_items
    new = recommender.explain(user, recommender.items.series[n])
    known = recommender.explain(user, recommender.items.series[0])
    assert list(new.parts) == ["image", "text", "shared", "content", "offset of new items"]
    assert known.parts["content"] == 0 and new.parts["content"] != 0
    assert new.shown_parts == new.parts and list(known.shown_parts) == ["image", "text", "shared"]
    assert "content" in str(new) and "content" not in str(known)
    assert list(new.weights) == ["image", "text", "shared"]
    frame = recommender.recommend(user, recommender.n_items, exclude_seen=False)
    score = dict(zip(frame["item"].to_list(), frame["score"].to_list(), strict=True))
    assert new.score == pytest.approx(score[new.item], abs=1e-6)


def test_new_users_have_the_content_of_their_histories(run):
    recommender = with_new(run)
    model, scorer = recommender.model(), recommender.scorer
    histories = [run.histories.of(user) for user in range(run.n_users)]
    folded = model.fold_in(scorer, histories)
    torch.testing.assert_close(folded[:, 24:], scorer.user_vectors[:, 24:])
    added = run.n_items + 1  # a history may contain new items
    cosine = torch.nn.functional.cosine_similarity(
        model.fold_in(scorer, [torch.tensor([added])])[0, 24:], scorer.item_vectors[added, 24:], dim=0
    )
    assert cosine == pytest.approx(1, abs=1e-5)
    assert as_new_users(recommender).scorer.user_vectors.shape == scorer.user_vectors.shape


def test_likes_turn_the_learned_columns_alone(run):
    recommender = with_new(run)
    item, n = recommender.items.series[run.n_items], run.n_items
    before = recommender.scorer.item_vectors[n].clone()
    recommender.update([(user, item) for user in recommender.users.series.to_list()[:5]])
    after = recommender.scorer.item_vectors[n]
    assert torch.equal(after[24:], before[24:])
    assert not torch.allclose(after[:24], before[:24], atol=1e-3)
    assert after[:24].norm() == pytest.approx(float(before[:24].norm()), rel=1e-5)


def test_a_saved_run_adds_the_same_items(run, tmp_path):
    expected = with_new(run)
    loaded = with_new(Recommender.load(run.save(tmp_path / "run")))
    assert loaded.scorer.settings() == expected.scorer.settings()
    torch.testing.assert_close(all_scores(loaded), all_scores(expected), rtol=0, atol=1e-6)
    for folder in (expected.save(tmp_path / "new"), expected.slim(tmp_path / "slim")):
        assert torch.equal(all_scores(Recommender.load(folder)), all_scores(expected))


def test_a_run_without_content_starts_a_training_with_it(run):
    without = trained(0)
    dataset = held_out()[0]
    model = run.model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "content" in name}
    start_from(model, dataset, without.state)
    after = model.state_dict()
    assert before and all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_calibration_ranks_new_items_as_serving_does(run):
    model, scorer = run.model(), run.scorer
    features = {name: model.inputs.features[name] for name in ("image", "text")}
    launch = _launch(model, scorer, features, torch.arange(0, 90, 9))
    encoder = NewItemEncoder(0.3, 100, similarity=0.35, scale=run.new_item_encoder.scale)
    first = len(launch.known)
    ours = encoder.new_vectors(launch.scorer, first, launch.trained, launch.neighbors)
    catalog, new = (
        {name: Features(f.values[rows], f.present[rows]) for name, f in features.items()}
        for rows in (launch.known, launch.new)
    )
    memory = {k: v[launch.known] if k.startswith("item_") else v for k, v in scorer.memory.items()}
    rest = scorer.replaced(items=scorer.item_vectors[launch.known], memory=memory)
    served = encoder.apply(model.add_items(rest, [catalog], new), first, catalog, new)
    assert torch.equal(served.item_vectors[first:], ours) and bool((ours[:, 24:].norm(dim=1) > 0.3).all())


def test_new_items_are_found_by_their_features():
    """Four kinds of users and items, and a network that has learned nothing: features alone tell whose an item is.

    Half of the columns vary more than the others and mean nothing; components of equal variance do not follow them.
    """
    rng = np.random.default_rng(0)
    n_trained, kinds = 160, 4
    kind = np.arange(n_trained + 40) % kinds
    own = (rng.normal(size=(kinds, 6)) * 3)[kind] + rng.normal(size=(len(kind), 6))
    text = np.concatenate([own, 4 * rng.normal(size=(len(kind), 6))], axis=1).astype(np.float32)
    old, new = np.arange(n_trained), np.arange(n_trained, len(kind))
    pairs = {(u, i) for u in range(80) for i in rng.choice(old[kind[old] == u % kinds], 12, replace=False)}
    users, items = np.array(sorted(pairs)).T
    dataset = Dataset.from_frames({"user": users, "item": items}, features={"text": (old, text[old])}, split="random")
    config = lirdrec.LIRDRecConfig(embedding_size=4, scoring="cosine", loss="softmax", dct=None)
    training = lirdrec.TrainConfig(epochs=1, learning_rate=1e-9)
    run, found = lirdrec.fit(dataset, config, training, device="cpu", progress=False), []
    for similarity in (0.0, 0.35):
        recommender = Recommender.from_state(run.state)
        recommender.info = recommender.info | {"new_items": NewItemEncoder(similarity=similarity).to_info()}
        recommender.add_items(new, {"text": text[new]})
        best = all_scores(recommender)[:, n_trained:].topk(5).indices.numpy() % kinds
        found.append((best == np.array(recommender.users.series.to_list())[:, None] % kinds).mean())
    assert found[0] < 0.5 and found[1] > 0.85


def test_a_modality_cannot_have_the_name_of_the_part(run):
    dataset = held_out()[0]
    renamed = dataclasses.replace(dataset, features={"content": dataset.features["text"]})
    assert lirdrec.fit(renamed, lirdrec.LIRDRecConfig(embedding_size=4, content_columns=0), TRAINING, progress=False)
    with assert_error(ConfigError, mentions=["content"]):
        lirdrec.fit(renamed, lirdrec.LIRDRecConfig(embedding_size=4), TRAINING, progress=False)
