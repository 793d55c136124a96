"""The ranking losses against plain torch expressions and finite differences, and the choice between them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lirdrec.config import make_config
from lirdrec.errors import ConfigError
from lirdrec.nn import losses
from lirdrec.nn.losses import RankingLoss, RankingOptions, full_softmax, info_nce, sampled_softmax

from ..helpers import assert_error


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1).requires_grad_()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("block", [1, 7 * 8 * 3, 2**20])
def test_full_softmax_is_cross_entropy_whatever_the_block(block, monkeypatch):
    monkeypatch.setattr(losses, "BLOCK_BYTES", block)
    queries, items, targets = unit(11, 4), unit(7, 4), torch.randint(7, (11,))
    ours = full_softmax(queries, items, targets, 0.2)
    found = torch.autograd.grad(ours * 3, (queries, items))
    theirs = F.cross_entropy(queries @ items.T / 0.2, targets)
    expected = torch.autograd.grad(theirs * 3, (queries, items))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("block", [8, 3 * 8 * 7, 2**20])
def test_a_query_with_several_targets_counts_as_often(block, monkeypatch):
    monkeypatch.setattr(losses, "BLOCK_BYTES", block)
    queries, items = unit(4, 4), unit(7, 4)
    rows, targets = torch.tensor([2, 0, 2, 3, 2, 0, 1]), torch.tensor([6, 0, 1, 1, 6, 5, 3])
    ours = full_softmax(queries, items, targets, 0.2, rows=rows)
    found = torch.autograd.grad(ours * 3, (queries, items))
    theirs = F.cross_entropy(queries[rows] @ items.T / 0.2, targets)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found, torch.autograd.grad(theirs * 3, (queries, items)))


def test_full_softmax_in_bfloat16_is_near_the_exact_one():
    queries, items, targets = (unit(64, 16).float().detach(), unit(40, 16).float().detach(), torch.randint(40, (64,)))
    found = []
    for low in (False, True):
        inputs = queries.clone().requires_grad_(), items.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = full_softmax(*inputs, targets, 0.15)
        assert loss.dtype == torch.float32
        found.append((loss.detach(), *torch.autograd.grad(loss, inputs)))
    for exact, short in zip(*found, strict=True):
        assert 0 < (exact - short).norm() / exact.norm() < 0.02


def test_sampled_softmax_is_cross_entropy_over_the_positive_and_the_shared_negatives():
    queries, positives, negatives = unit(5, 4), unit(5, 4), unit(3, 4)
    excluded = torch.zeros(5, 3, dtype=torch.bool)
    excluded[2, 1] = True
    for row in range(5):
        seen = torch.cat([positives[row : row + 1], negatives[~excluded[row]]])
        expected = F.cross_entropy(queries[row : row + 1] @ seen.T / 0.3, torch.tensor([0]))
        one = slice(row, row + 1)
        ours = sampled_softmax(queries[one], positives[one], negatives, 0.3, excluded[one])
        torch.testing.assert_close(ours, expected)
    inputs = queries, positives, negatives
    assert torch.autograd.gradcheck(lambda *x: sampled_softmax(*x, 0.3, excluded), inputs)


def test_info_nce_finds_the_same_row_among_all():
    a, b = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    logits = F.cosine_similarity(a[:, None], b[None], dim=-1) / 0.5
    torch.testing.assert_close(info_nce(a, b, 0.5), F.cross_entropy(logits, torch.arange(6)))
    rows = torch.tensor([4, 1, 1])
    torch.testing.assert_close(info_nce(a, b, 0.5, rows), F.cross_entropy(logits[rows], rows))


def test_items_without_a_training_pair_are_no_negatives():
    """Items 1 and 4 were never taken: whatever their vectors, the loss is the same and they get no gradient."""
    taken = torch.tensor([0, 2, 3, 2])
    users, positives, negatives = torch.tensor([0, 1, 2]), torch.tensor([0, 3, 2]), torch.tensor([2, 0, 0])
    user_vectors, item_vectors = unit(3, 4), unit(5, 4)
    ranking = RankingLoss(RankingOptions(loss="softmax"), taken, 5)
    loss = ranking(user_vectors, item_vectors, users, positives, negatives)
    loss.backward()
    pool = torch.tensor([0, 2, 3])
    expected = F.cross_entropy(user_vectors @ item_vectors[pool].T / 0.15, torch.tensor([0, 2, 1]))
    torch.testing.assert_close(loss, expected)
    assert not item_vectors.grad[[1, 4]].any() and item_vectors.grad[pool].any()


def test_the_loss_of_a_batch_in_which_users_come_again():
    users, positives = torch.tensor([2, 0, 2, 2]), torch.tensor([1, 3, 4, 0])
    user_vectors, item_vectors = unit(3, 4), unit(5, 4)
    ranking = RankingLoss(RankingOptions(loss="softmax"), torch.arange(5), 5)
    ours = ranking(user_vectors, item_vectors, users, positives, positives)
    users_of_length_1, items_of_length_1 = F.normalize(user_vectors), F.normalize(item_vectors)
    theirs = F.cross_entropy(users_of_length_1[users] @ items_of_length_1.T / 0.15, positives)
    torch.testing.assert_close(ours, theirs)
    both = (torch.autograd.grad(loss, (user_vectors, item_vectors)) for loss in (ours, theirs))
    torch.testing.assert_close(*both)


def test_shared_negatives_are_the_first_of_the_batch_and_never_the_own_positive():
    users, positives, negatives = torch.tensor([0, 1, 2]), torch.tensor([0, 3, 2]), torch.tensor([3, 1, 4])
    user_vectors, item_vectors = unit(3, 4), unit(5, 4)
    ranking = RankingLoss(RankingOptions(loss="softmax", n_negatives=2), torch.arange(5), 5)
    ours = ranking(user_vectors, item_vectors, users, positives, negatives)
    scores = user_vectors @ item_vectors.T / 0.15
    rows = [[0, 3, 1], [3, 1], [2, 3, 1]]  # the positive first; item 3 is user 1's positive
    expected = sum(
        F.cross_entropy(scores[u, r][None], torch.tensor([0])) for u, r in zip(users.tolist(), rows, strict=True)
    )
    torch.testing.assert_close(ours, expected / 3)


def test_length_counts_unless_cosines_are_asked_for():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    scored = {
        how: RankingLoss(RankingOptions(scoring=how), torch.arange(2), 2).transform_for_scoring(vectors)
        for how in ("product", "cosine")
    }
    assert scored["product"] is vectors
    torch.testing.assert_close(scored["cosine"], torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize(
    "options, facts",
    [
        ({"temperature": 0.0}, ["temperature", 0.0]),
        ({"n_negatives": 0}, ["n_negatives", 0, 1, "none"]),
        ({"loss": "hinge"}, ["configuration", "'loss'", "'hinge'", "'bpr', 'softmax'"]),
    ],
    ids=str,
)
def test_bad_options(options, facts):
    with assert_error(ConfigError, mentions=facts):
        make_config(RankingOptions, options)
