"""Vectors, offsets and policies of new items, against formulas written out here."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import lirdrec
from lirdrec.data.cold_start import hold_out_items
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import CapabilityError, ConfigError, RunFolderError
from lirdrec.models.base import Features
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import NEW_ITEM, VectorScorer
from lirdrec.ranking.top_k import Quota, top_k
from lirdrec.recommender.new_item_calibration import (
    MAX_COST,
    K,
    _costs,
    _frontier,
    _known_lists,
    _Launch,
    _merged,
    _new_lists,
    calibrated_offset,
)
from lirdrec.recommender.new_item_encoder import LaunchStep, Neighbors, NewItemEncoder, NewItemPolicy
from lirdrec.recommender.recommender import Recommender

from ..helpers import assert_error
from .conftest import hand_made

FRONTIER = tuple(
    LaunchStep(offset, cost, share, 0.0) for offset, cost, share in [(0, 0, 0.01), (1, 0.02, 0.1), (2, 0.2, 0.5)]
)


@pytest.fixture(scope="module")
def data():
    """A trained recommender without 20 of 200 items, and these items."""
    dataset = make_synthetic_dataset(n_users=300, n_items=200, n_pairs=4000, dims={"image": 16, "text": 12}, seed=3)
    launched = dataset.items.series.to_list()[::10]
    rest, table, features = hold_out_items(dataset, launched)
    training = lirdrec.TrainConfig(epochs=6, batch_size=1024, order="users", learning_rate=5e-3)
    return lirdrec.fit(rest, training=training, device="cpu", progress=False), table, features


def fresh(data) -> Recommender:
    recommender = data[0]
    return Recommender.from_state(recommender.state)


def with_new(data, **changes) -> Recommender:
    recommender = fresh(data)
    encoder = replace(NewItemEncoder.from_info(recommender.info["new_items"]), **changes)
    recommender.info["new_items"] = encoder.to_info()
    recommender.add_items(data[1], data[2])
    return recommender


def test_fit_calibrates_an_encoder_whose_frontier_is_ordered(data):
    encoder = data[0].new_item_encoder
    offsets = [step.offset for step in encoder.frontier]
    shares = [step.share for step in encoder.frontier]
    assert offsets == sorted(offsets) and shares == sorted(shares) and shares[-1] > shares[0]
    assert encoder.offset in offsets and encoder.offset == calibrated_offset(encoder.frontier)
    chosen, wider = encoder.step(), encoder.step(MAX_COST)
    assert chosen.offset <= wider.offset and chosen.cost <= MAX_COST and chosen.cost_error > 0


def test_the_calibrated_offset_leaves_a_margin_for_the_error_of_its_cost():
    def steps(error: float) -> tuple[LaunchStep, ...]:
        return tuple(LaunchStep(float(i), cost, 0.1, 0.1, error) for i, cost in enumerate((0.01, 0.016, 0.022, 0.03)))

    # exact costs: up to 3 %; an error of .5 %: 2.2 % + 1.645 * .5 % = 3.02 %; a large one: the margin is 1.5 % at most
    assert [calibrated_offset(steps(error)) for error in (0.0, 0.004, 0.005, 0.5)] == [3, 2, 1, 0]


def test_without_a_hit_to_lose_there_is_no_offset_and_one_user_gives_no_certainty():
    assert calibrated_offset(()) == 0
    costs, errors = _costs(torch.tensor([[0.5, 0.49]]).double(), torch.tensor([0.5]).double())
    assert costs.tolist() == pytest.approx([0, 0.02]) and errors.tolist() == [1, 1]
    scorer, train = VectorScorer(torch.eye(40), torch.eye(40)), Histories(torch.arange(40), torch.arange(40), 40)
    launch = _Launch(torch.arange(4), torch.arange(4, 40), scorer.replaced(items=torch.eye(40)[4:]), None)
    grown = replace(launch, scorer=scorer.replaced(items=torch.cat([torch.eye(40)[4:], torch.eye(40)[:4]])))
    hits = Histories(torch.arange(4), torch.arange(4), 40)  # users 0 to 3 take the launched items, nobody a known one
    assert _frontier(NewItemEncoder(), [grown], scorer, train, hits, torch.arange(4)) == ()


def test_the_error_of_a_cost_is_that_of_a_bootstrap_over_users():
    draws = np.random.default_rng(0)
    reference = draws.binomial(3, 0.3, 2000) / 3
    known = reference[:, None] * (draws.random((2000, 2)) > (0.02, 0.2))
    costs, errors = _costs(torch.from_numpy(known), torch.from_numpy(reference))
    assert costs.tolist() == pytest.approx((1 - known.sum(0) / reference.sum()).tolist())
    again = [draws.integers(0, 2000, 2000) for _ in range(2000)]
    spread = np.std([1 - known[rows].sum(0) / reference[rows].sum() for rows in again], axis=0)
    assert errors.tolist() == pytest.approx(spread.tolist(), rel=0.1)


def test_scores_of_known_items_keep_every_bit(data):
    before = fresh(data)
    users = torch.arange(before.n_users)
    known = before.scorer.scores(before.scorer.queries(users))
    after = with_new(data, content=0.5, n_neighbors=10, offset=0.25)
    scores = after.scorer.scores(after.scorer.queries(users))
    assert torch.equal(scores[:, : before.n_items], known)
    assert not torch.equal(scores, with_new(data, offset=0.0).scorer.scores(after.scorer.queries(users)))


def test_vectors_are_the_mixture_of_the_formula(data):
    content, neighbors, beta = 0.3, 4, 10.0
    recommender = with_new(data, content=content, n_neighbors=neighbors, similarity=0.0)
    plain = with_new(data, content=1.0, similarity=0.0)
    n = recommender.n_trained_items
    trained = recommender.scorer.item_vectors[:n].double().numpy()
    blocks = recommender.features.blocks()
    for row in range(recommender.n_items - n):
        mean = np.zeros(trained.shape[1])
        modalities = 0
        for name, matrix in blocks[1].items():
            if not matrix.present[row]:
                continue
            table, query = np.array(blocks[0][name].values, np.float64), np.array(matrix.values[row], np.float64)
            norms = np.linalg.norm(table, axis=1)
            cosines = table @ query / np.linalg.norm(query) / np.where(norms > 0, norms, 1)
            cosines[~blocks[0][name].present] = -np.inf
            nearest = np.argsort(-cosines)[:neighbors]
            weights = np.exp(beta * cosines[nearest])
            mean += weights / weights.sum() @ trained[nearest]
            modalities += 1
        mean /= modalities
        own = plain.scorer.item_vectors[n + row].double().numpy()
        mixed = content * own / np.linalg.norm(own) + (1 - content) * mean / np.linalg.norm(mean)
        mixed /= np.linalg.norm(mixed)  # the vectors of this preset have length 1
        np.testing.assert_allclose(recommender.scorer.item_vectors[n + row].numpy(), mixed, atol=2e-5)


def test_the_order_and_the_batches_of_new_items_do_not_matter_for_the_neighbors(data):
    together = with_new(data, content=0.0, n_neighbors=10)
    apart = fresh(data)
    apart.info["new_items"] = together.info["new_items"]
    for start in (10, 0):
        rows = np.arange(start, start + 10)
        part = {name: [m.values[i] if m.present[i] else None for i in rows] for name, m in data[2].items()}
        apart.add_items(data[1][rows], part)
    order = [apart.items.series.to_list().index(item) for item in together.items.series]
    torch.testing.assert_close(apart.scorer.item_vectors[order], together.scorer.item_vectors, rtol=0, atol=1e-6)


def test_the_parts_of_a_score_include_the_offset(data):
    recommender = with_new(data, offset=0.25)
    item, user = data[1]["item"][0], recommender.users.series[0]
    explanation = recommender.explain(user, item)
    assert explanation.parts[NEW_ITEM] == 0.25
    assert math.isclose(sum(explanation.parts.values()), explanation.score, rel_tol=1e-6)
    assert recommender.explain(user, recommender.items.series[0]).parts[NEW_ITEM] == 0
    assert set(explanation.weights) == set(recommender.scorer.branch_names) - {"content"}


def test_a_saved_run_keeps_encoder_and_offsets(data, tmp_path):
    recommender = with_new(data, offset=0.25)
    loaded = Recommender.load(recommender.save(tmp_path / "run"))
    assert loaded.new_item_encoder == recommender.new_item_encoder
    assert torch.equal(loaded.scorer.offsets, recommender.scorer.offsets)
    slim = Recommender.load(recommender.slim(tmp_path / "slim"))
    users = torch.arange(slim.n_users)
    expected = recommender.scorer.scores(recommender.scorer.queries(users))
    assert torch.equal(slim.scorer.scores(slim.scorer.queries(users)), expected)


def test_a_refit_takes_the_encoder_of_the_earlier_run(data, tmp_path):
    dataset = make_synthetic_dataset(n_users=300, n_items=200, n_pairs=4000, dims={"image": 16, "text": 12}, seed=3)
    training = lirdrec.TrainConfig(epochs=2, batch_size=1024, order="users", learning_rate=5e-3)
    run = tmp_path / "run"
    first = lirdrec.fit(dataset, training=training, device="cpu", progress=False, run=run)
    again = lirdrec.fit(dataset, device="cpu", progress=False, refit=run)
    assert again.new_item_encoder == first.new_item_encoder and first.new_item_encoder.frontier


@pytest.mark.parametrize("n_items, every", [(60, 6), (24, 2), (150, 3)])
def test_every_step_of_the_frontier_equals_ranking_all_items(n_items, every):
    generator = torch.Generator().manual_seed(0)
    scorer = VectorScorer(torch.randn(30, 4, generator=generator), torch.randn(n_items, 4, generator=generator))
    rng = np.random.default_rng(1)
    relevant, seen = (np.argwhere(rng.random((30, n_items)) < 0.1) for _ in range(2))
    hits, train = (Histories(*torch.tensor(pairs.T.copy()), 30) for pairs in (relevant, seen))
    users, offsets = torch.arange(30), [-3.0, -0.4, 0.0, 0.7, 5.0]
    launches = [torch.arange(first, n_items, every) for first in range(2)]
    known = _known_lists(launches, scorer, train, hits, users)
    ways = [_new_lists(scorer.item_vectors[new], new, scorer, train, hits, users) for new in launches]
    for masks in (False, True):
        merged = _merged(offsets, known, [way[masks] for way in ways])
        n_known = sum(int((lists.relevant > 0).sum()) for lists in known)
        columns = torch.stack([merged.known.sum(0) / n_known, merged.new_recall, merged.new_share], 1).tolist()
        for offset, found in zip(offsets, columns, strict=True):
            expected = ranked_again(scorer, launches, offset, relevant, seen, masks)
            assert found == pytest.approx(expected, abs=1e-6)
    one_offset = _merged([0.7], known, [way[1] for way in ways])
    torch.testing.assert_close(one_offset.known[:, 0], merged.known[:, 3])


def test_known_lists_are_full_where_the_launched_items_are_best_for_everybody():
    generator = torch.Generator().manual_seed(0)
    users, items = torch.rand(7, 4, generator=generator), torch.rand(100, 4, generator=generator)
    items[:60] += 5
    scorer, nothing = VectorScorer(users, items), Histories(torch.empty(0).long(), torch.empty(0).long(), 7)
    (lists,) = _known_lists([torch.arange(60)], scorer, nothing, nothing, torch.arange(7))
    torch.testing.assert_close(lists.scores, (users @ items[60:].T).topk(K, dim=1).values)


def ranked_again(scorer, launches, offset, relevant, seen, masks) -> list[float]:
    """Recall of known and new items and the share of new ones, by sorting all items of each user, without `_merged`."""
    n_users, n_items = scorer.n_users, scorer.n_items
    is_hit = np.zeros((n_users, n_items), bool)
    is_hit[relevant[:, 0], relevant[:, 1]] = True
    known_recalls, new_recalls, places = [], [], []
    for new in launches:
        table = scorer.scores(scorer.queries(torch.arange(n_users))).double().numpy()
        is_new = np.isin(np.arange(n_items), new.numpy())
        hidden = seen if masks else seen[~is_new[seen[:, 1]]]
        table[hidden[:, 0], hidden[:, 1]] = -np.inf
        for user in range(n_users):
            best = np.argsort(-(table[user] + offset * is_new))[:K]
            best = best[np.isfinite(table[user][best])]
            places.append(is_new[best].sum() / K)
            for recalls, chosen in ((known_recalls, ~is_new), (new_recalls, is_new)):
                if n_relevant := (is_hit[user] & chosen).sum():
                    recalls.append((is_hit[user] & chosen)[best].sum() / n_relevant)
    return [float(np.mean(values)) for values in (known_recalls, new_recalls, places)]


def test_items_without_a_modality_have_no_neighbor_in_it():
    present = torch.tensor([True, False, True])
    trained = {
        "text": Features(torch.eye(3), present),
        "image": Features(torch.eye(3), torch.ones(3, dtype=torch.bool)),
    }
    new = {
        "text": Features(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([True, False])),
        "image": Features(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([True, True])),
    }
    mean, _ = Neighbors.find(trained, new, 1).mean(torch.diag(torch.tensor([1.0, 10.0, 100.0])), 1)
    assert mean[0].tolist()[1] == pytest.approx(5.0)  # by image; by text another item, since row 1 has no text
    assert mean[1].tolist() == pytest.approx([0.0, 0.0, 100.0])


@pytest.mark.parametrize(("cost", "offset"), [(0.0, 0.0), (0.019, 0.0), (0.02, 1.0), (0.5, 2.0)])
def test_the_offset_for_a_cost_is_the_largest_that_costs_no_more(cost, offset):
    assert NewItemEncoder(frontier=FRONTIER).offset_for(cost) == offset


def with_added(offset: float = 0.0) -> Recommender:
    """The hand-made recommender with items 30 and 40 as new ones."""
    recommender = hand_made(n_trained_items=2)
    recommender.info["new_items"] = NewItemEncoder(offset=offset, frontier=FRONTIER).to_info()
    scorer = recommender.scorer
    offsets = torch.tensor([0.0, 0.0, offset, offset])
    vectors = (scorer.user_vectors, scorer.item_vectors)
    recommender.scorer = VectorScorer(*vectors, scorer.branch_names, scorer.weights, offsets=offsets)
    return recommender


@pytest.mark.parametrize(
    ("policy", "items"),
    [
        ("calibrated", [10, 20, 30]),  # bob: 4, 3, 2 + .5, 1 + .5
        ("none", [10, 20, 30]),
        ("boost=0.5", [10, 30, 20]),  # the offset is 2: 4, 3 and 4, 3; equal scores in order of rows
        ({"share": 1 / 3}, [10, 20, 30]),
        ("share=0.67", [10, 30, 40]),
        ("share=0", [10, 20]),
    ],
)
def test_policies(policy, items):
    recommender = with_added(0.5)
    frame = recommender.recommend("bob", 3, exclude_seen=False, new_items=policy)
    assert frame["item"].to_list() == items
    assert frame["score"].to_list() == sorted(frame["score"].to_list(), reverse=True)


def test_a_quota_gives_exactly_its_places():
    generator = torch.Generator().manual_seed(5)
    scorer = VectorScorer(torch.randn(40, 3, generator=generator), torch.randn(50, 3, generator=generator))
    for places in range(11):
        _, items = top_k(scorer, scorer.queries(torch.arange(40)), 10, quota=Quota(35, places))
        assert ((items >= 35).sum(1) == places).all() and (items >= 0).all()


@pytest.mark.parametrize(
    "bad", ["boosted", "boost", "share", "none=1", "boost=x", "share=1.2", "boost=1", {"share": -0.1}, 3, {}]
)
def test_a_bad_policy_is_refused(bad):
    with assert_error(ConfigError, mentions=["new_items"]):
        NewItemPolicy.parse(bad)


def test_a_boost_needs_simulated_launches():
    recommender = with_added()
    recommender.info["new_items"] = NewItemEncoder().to_info()
    with assert_error(ConfigError, mentions=["simulated launches"]):
        recommender.recommend("bob", 2, new_items="boost=0.1")


def test_a_model_without_vectors_cannot_boost(tmp_path):
    dataset = make_synthetic_dataset(n_users=60, n_items=40, n_pairs=600, dims={"text": 8}, groups=5, seed=1)
    recommender = lirdrec.fit(dataset, "item_knn", device="cpu", progress=False)
    recommender.n_trained_items -= 1
    with assert_error(CapabilityError, mentions=["vectors"]):
        recommender.recommend(None, 2, new_items="boost=0.1")


def test_a_damaged_entry_is_one_sentence():
    with assert_error(RunFolderError, mentions=["new_items", "offsett"]):
        NewItemEncoder.from_info({"offsett": 1, "frontier": []})


@pytest.mark.parametrize(("entry", "value"), [("offset", math.nan), ("cost", math.inf), ("cost_error", None)])
def test_an_entry_with_a_number_that_is_not_finite_is_damaged(entry, value):
    info = NewItemEncoder(1.0, 0, 0.5, (LaunchStep(0.5, 0.01, 0.1, 0.2),)).to_info()
    (info if entry == "offset" else info["frontier"][0])[entry] = value
    with assert_error(RunFolderError, mentions=["new_items"]):
        NewItemEncoder.from_info(info)
