"""Metrics by hand, against an independent library, and against the released code's evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lirdrec.errors import ConfigError
from lirdrec.evaluation.evaluator import Metrics
from lirdrec.evaluation.metrics import (
    PER_LIST,
    PER_USER,
    canonical_metric,
    check_metrics,
    list_metrics,
    per_user_metrics,
    split_name,
)
from lirdrec.evaluation.scorer_evaluation import GroundTruth, evaluate_scorer
from lirdrec.ranking.scorers import VectorScorer

from ..helpers import assert_error

PARITY = Path(__file__).parents[1] / "models" / "parity" / "arrays.npz"


def scorer_of(table: np.ndarray) -> VectorScorer:
    """A scorer whose scores are `table` exactly."""
    return VectorScorer(torch.eye(len(table), dtype=torch.float64), torch.tensor(table.T, dtype=torch.float64))


def pairs(matrix: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.from_numpy(part) for part in np.nonzero(matrix))


def test_a_table_by_hand():
    """Ranks 1 … 4; the first user has 2 relevant items of which ranks 1 and 3 are hits, the second 5 with rank 2."""
    hits = torch.tensor([[True, False, True, False], [False, True, False, False], [False] * 4])
    found = per_user_metrics(hits, torch.tensor([2, 5, 1]), PER_USER, (1, 2, 3, 4))
    log2 = np.log2
    expected = {
        "recall@1": [0.5, 0, 0],
        "recall@3": [1, 0.2, 0],
        "recall@4": [1, 0.2, 0],
        "precision@1": [1, 0, 0],
        "precision@3": [2 / 3, 1 / 3, 0],
        "precision@4": [0.5, 0.25, 0],
        "hit@1": [1, 0, 0],
        "hit@2": [1, 1, 0],
        "mrr@1": [1, 0, 0],
        "mrr@4": [1, 0.5, 0],
        "ndcg@1": [1, 0, 0],
        "ndcg@2": [1 / (1 + 1 / log2(3)), (1 / log2(3)) / (1 + 1 / log2(3)), 0],
        "ndcg@3": [1.5 / (1 + 1 / log2(3)), (1 / log2(3)) / (1 + 1 / log2(3) + 0.5), 0],
        "map@1": [1, 0, 0],
        "map@2": [0.5, 0.25, 0],  # divided by min(k, relevant): 2 and 2
        "map@3": [(1 + 2 / 3) / 2, 0.5 / 3, 0],
        "map@4": [(1 + 2 / 3) / 2, 0.5 / 4, 0],
    }
    assert len(found) == 6 * 4
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-15, err_msg=name)


def random_problem(seed: int, ties: bool):
    rng = np.random.default_rng(seed)
    n_users, n_items = 40, 60
    table = rng.integers(0, 6, (n_users, n_items)).astype(float) if ties else rng.normal(size=(n_users, n_items))
    kind = rng.choice(3, size=table.shape, p=[0.8, 0.12, 0.08])  # nothing, training, held out
    return table, kind == 1, kind == 2


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_trec_eval(seed, ties):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    table, train, held = random_problem(seed, ties)
    truth = GroundTruth.from_pairs(pairs(train), pairs(held), len(table))
    cutoffs = (1, 3, 10, 20, 55)
    found = evaluate_scorer(scorer_of(table), truth, PER_USER, cutoffs, keep=True).per_user
    users = truth.users.tolist()
    assert users == [u for u in range(len(table)) if held[u].any() and train[u].any()]
    run, qrel = {}, {}
    for u in users:
        order = sorted(np.flatnonzero(~train[u]), key=lambda i: (-table[u, i], i))  # ties broken by item row
        # the oracle breaks ties otherwise: it gets the same order as strictly falling scores
        run[str(u)] = {str(i): float(len(order) - rank) for rank, i in enumerate(order)}
        qrel[str(u)] = {str(i): 1 for i in np.flatnonzero(held[u])}
    measures = {
        "recall": "recall",
        "precision": "P",
        "ndcg": "ndcg_cut",
        "map": "map_cut",
        "hit": "success",
    }
    wanted = {f"{theirs}.{','.join(map(str, cutoffs))}" for theirs in measures.values()} | {"recip_rank"}
    theirs = pytrec_eval.RelevanceEvaluator(qrel, wanted).evaluate(run)
    for place, u in enumerate(users):
        n_relevant, figures = int(held[u].sum()), theirs[str(u)]
        for k in cutoffs:
            for ours, name in measures.items():
                expected = figures[f"{name}_{k}"]
                if ours == "map":  # trec_eval divides by all relevant items
                    expected *= n_relevant / min(k, n_relevant)
                assert float(found[f"{ours}@{k}"][place]) == pytest.approx(expected, abs=1e-12), (ours, k, u)
            reciprocal = figures["recip_rank"]
            expected = reciprocal if reciprocal >= 1 / k - 1e-12 else 0.0
            assert float(found[f"mrr@{k}"][place]) == pytest.approx(expected, abs=1e-12), ("mrr", k, u)


def test_means_against_ir_measures():
    ir_measures = pytest.importorskip("ir_measures")
    from ir_measures import RR, P, R, Success, nDCG

    table, train, held = random_problem(7, ties=True)
    truth = GroundTruth.from_pairs(pairs(train), pairs(held), len(table))
    found = evaluate_scorer(scorer_of(table), truth, PER_USER, (5, 20)).values
    qrels, run = [], []
    for u in truth.users.tolist():
        order = sorted(np.flatnonzero(~train[u]), key=lambda i: (-table[u, i], i))
        run += [ir_measures.ScoredDoc(str(u), str(i), float(-rank)) for rank, i in enumerate(order)]
        qrels += [ir_measures.Qrel(str(u), str(i), 1) for i in np.flatnonzero(held[u])]
    names = {"recall": R, "precision": P, "ndcg": nDCG, "hit": Success, "mrr": RR}
    wanted = {(ours, k): theirs @ k for ours, theirs in names.items() for k in (5, 20)}
    theirs = ir_measures.calc_aggregate(list(wanted.values()), qrels, run)
    for (ours, k), name in wanted.items():
        assert found[f"{ours}@{k}"] == pytest.approx(theirs[name], abs=1e-12), (ours, k)


def test_the_released_codes_evaluation():
    """Scores, top 20 and every metric at every cut-off, as its evaluator computed them from its own vectors."""
    with np.load(PARITY, allow_pickle=False) as arrays:
        of_training = {name.removeprefix("train_f64/"): name for name in arrays.files if name.startswith("train_f64/")}
        expected = {key: arrays[name] for key, name in of_training.items() if key.startswith(("eval/", "final/result"))}
        train = torch.from_numpy(arrays["inputs/train_edges"]).T
    vectors = torch.from_numpy(expected["final/result_embed_used_by_reference_eval"])
    scorer = VectorScorer(vectors[:50], vectors[50:])
    users = expected["eval/users"]
    held = torch.from_numpy(np.repeat(users, 2)), torch.from_numpy(expected["eval/held_out"]).flatten()  # two each
    truth = GroundTruth.from_pairs((train[0], train[1]), held, 50)
    assert truth.users.tolist() == sorted(users.tolist())
    order = np.argsort(users)
    scores = scorer.scores(scorer.queries(truth.users))
    owner, seen = truth.seen.pairs(truth.users)
    scores[owner, seen] = -1e10
    np.testing.assert_allclose(scores, expected["eval/scores_masked"][order], rtol=1e-9)
    from lirdrec.ranking.top_k import top_k

    _, top = top_k(scorer, scorer.queries(truth.users), 20, seen=(owner, seen))
    np.testing.assert_array_equal(top, expected["eval/top20"][order])
    found = evaluate_scorer(scorer, truth, ("recall", "ndcg", "precision", "map"), range(1, 21)).values
    for name in ("recall", "ndcg", "precision", "map"):
        ours = [found[f"{name}@{k}"] for k in range(1, 21)]
        np.testing.assert_allclose(ours, expected[f"eval/raw/{name}"], rtol=0, atol=1e-12, err_msg=name)
        for k in (5, 10, 20):
            assert round(found[f"{name}@{k}"], 4) == expected[f"eval/rounded/{name}@{k}"]


@pytest.mark.parametrize("memory_limit", [1, 60 * 8 * 7])
def test_small_blocks_give_the_same_figures(memory_limit):
    table, train, held = random_problem(3, ties=True)
    truth = GroundTruth.from_pairs(pairs(train), pairs(held), len(table))
    names = PER_USER + PER_LIST
    expected = evaluate_scorer(scorer_of(table), truth, names, (1, 10, 20), keep=True)
    found = evaluate_scorer(scorer_of(table), truth, names, (1, 10, 20), keep=True, memory_limit=memory_limit)
    assert found.values == expected.values
    assert all(torch.equal(found.per_user[name], values) for name, values in expected.per_user.items())


def test_figures_of_all_lists_by_hand():
    """Three users, five items, lists of two: item 0 three times, 1 twice, 2 once, 3 and 4 never."""
    table = np.array([[5, 4, 3, 2, 1], [5, 4, 3, 2, 1], [5, 3, 4, 2, 1]], dtype=float)
    train = np.zeros((3, 5), dtype=bool)
    train[0, 3] = train[1, 3] = train[2, 4] = True
    held = np.zeros((3, 5), dtype=bool)
    held[:, 0] = True
    truth = GroundTruth.from_pairs(pairs(train), pairs(held), 3)
    values = evaluate_scorer(scorer_of(table), truth, PER_LIST, (1, 2)).values
    # Gini of (0, 0, 1, 2, 3): Σ (2r - n - 1) x / (n Σ x) = (0·1 + 2·2 + 4·3) / (5·6)
    assert values == {
        "coverage@1": 1 / 5,
        "coverage@2": 3 / 5,
        "popularity@1": 0.0,
        "popularity@2": 0.0,
        "gini@1": pytest.approx(0.8),
        "gini@2": pytest.approx(16 / 30),
    }
    shown = evaluate_scorer(
        scorer_of(table), GroundTruth.from_pairs(pairs(train), pairs(held), 3), ("popularity",), (4,)
    ).values
    # users 0 and 1 see 0 1 2 4 (item 4 has one training user), user 2 sees 0 2 1 3 (item 3 has two)
    assert shown == {"popularity@4": pytest.approx((1 + 1 + 2) / 12)}


def test_gini_is_the_mean_difference():
    counts = torch.from_numpy(np.random.default_rng(0).integers(0, 50, 30))
    x = counts.double().numpy()
    expected = np.abs(x[:, None] - x).mean() / (2 * x.mean())
    assert list_metrics(counts, counts, "gini") == pytest.approx(expected)
    assert list_metrics(torch.full((9,), 4), counts[:9], "gini") == pytest.approx(0)
    assert list_metrics(torch.tensor([0] * 99 + [7]), torch.zeros(100), "gini") == pytest.approx(0.99)
    assert list_metrics(torch.zeros(4, dtype=torch.int64), torch.ones(4), "gini") == 0


def test_a_user_with_fewer_candidates_than_the_cut_off():
    """All but one item seen: the rest of the list is empty, not filled with seen items."""
    table = np.array([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    train = np.array([[0, 1, 1, 1], [1, 0, 0, 0]], dtype=bool)
    held = np.array([[1, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)
    truth = GroundTruth.from_pairs(pairs(train), pairs(held), 2)
    found = evaluate_scorer(scorer_of(table), truth, (*PER_USER, "coverage"), (3,), keep=True)
    assert found.per_user["recall@3"].tolist() == [1, 1]
    assert found.per_user["mrr@3"].tolist() == [1, 1 / 3]
    assert found.values["coverage@3"] == 1.0


@pytest.mark.parametrize("k", [0, 61])
def test_cut_offs_out_of_range(k):
    table, train, held = random_problem(0, ties=False)
    with assert_error(ConfigError, mentions=["k", k, 1, "60 items"]):
        evaluate_scorer(scorer_of(table), GroundTruth.from_pairs(pairs(train), pairs(held), 40), ("recall",), (10, k))


def test_names():
    assert split_name("recall@20") == ("recall", 20)
    check_metrics(PER_USER + PER_LIST)
    for bad in ("recall", "recall@0", "recall@", "Recall@20", "recall@20 "):
        with assert_error(ConfigError, mentions=[f"'{bad}'", "recall@20"]):
            split_name(bad)
    facts = ["'auc'", "recall, ndcg, precision, map, mrr, hit, coverage, popularity, gini"]
    with assert_error(ConfigError, mentions=facts):
        split_name("auc@20")


def test_hit_rate_is_another_name_of_hit():
    names = ("hit_rate", "hit_rate@10", "hit", "recall@20")
    assert [canonical_metric(name) for name in names] == ["hit", "hit@10", "hit", "recall@20"]


def test_metrics_print_as_a_table():
    metrics = Metrics({"recall@20": 0.12345, "ndcg@5": 0.5}, n_users=1234)
    assert str(metrics) == "1,234 users\nrecall@20  0.1235\nndcg@5     0.5000"
