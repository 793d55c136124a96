"""Products and rankings of sparse matrices against dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from lirdrec.ranking.histories import Histories
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.sparse_top_k import (
    ENTRY_BYTES,
    csr_of,
    csr_rows,
    fill_with_zeros,
    largest_of_rows,
    product_blocks,
    transposed_csr,
)
from lirdrec.ranking.top_k import rank_users, top_k

N_USERS, N_ITEMS, K = 60, 40, 7


def matrix_with_ties() -> sp.csr_matrix:
    """Rows of 0 to 40 entries, many of them equal, some negative, zero or not finite."""
    rng = np.random.default_rng(0)
    dense = rng.integers(-2, 6, (N_USERS, N_ITEMS)).astype(np.float32) / 3
    dense *= rng.random(dense.shape) < rng.random((N_USERS, 1))
    dense[3], dense[4] = 0, 1
    dense[5, :3] = np.nan, np.inf, -np.inf
    return sp.csr_matrix(dense)


def expected_rows(row: np.ndarray, k: int) -> list[tuple[float, int]]:
    found = [(-value, column) for column, value in enumerate(row) if 0 < value < np.inf]
    return [(-value, column) for value, column in sorted(found)[:k]]


def test_the_largest_of_rows_are_those_of_a_sort_with_equal_ones_by_column():
    matrix = matrix_with_ties()
    for k in (1, K, N_ITEMS + 3):
        values, columns, counts = largest_of_rows(matrix, k)
        assert values.shape == columns.shape == (N_USERS, k) and values.dtype == np.float32
        for row in range(N_USERS):
            expected = expected_rows(matrix[row].toarray()[0], k)
            found = list(zip(values[row].tolist(), columns[row].tolist(), strict=True))
            assert counts[row] == len(expected)
            assert found[len(expected) :] == [(0.0, -1)] * (k - len(expected))
            assert found[: len(expected)] == expected


def test_columns_of_more_than_four_signed_bytes_are_found_and_in_order():
    columns = np.array([2**32 - 2, 2**31, 3, 2**31 + 1])
    matrix = sp.csr_matrix((np.float32([1, 2, 1, 3]), columns, [0, 4]), shape=(1, 2**32 - 1))
    values, found, _ = largest_of_rows(matrix, 3)
    assert values.tolist() == [[3, 2, 1]] and found.tolist() == [[2**31 + 1, 2**31, 3]]
    assert largest_of_rows(matrix, 4)[1][0, 3] == 2**32 - 2


def test_blocks_cover_all_rows_and_keep_to_the_memory():
    left = sp.random_array((50, 30), density=0.2, format="csr", rng=np.random.default_rng(2))
    right = sp.random_array((30, 20), density=0.4, format="csr", rng=np.random.default_rng(3))
    blocks = list(product_blocks(left, right, 200 * ENTRY_BYTES))
    assert [first for first, _ in blocks] == [0, *(last for _, last in blocks[:-1])] and blocks[-1][1] == 50
    assert len(blocks) > 3 and any(last > first + 1 for first, last in blocks)
    for first, last in blocks:
        assert last == first + 1 or (left[first:last] @ right).nnz <= 200
    assert list(product_blocks(left, right, 1)) == [(row, row + 1) for row in range(50)]


def test_zeros_fill_the_lists_in_the_order_of_columns():
    matrix = matrix_with_ties()
    matrix.data[:3] = 0  # zeros that are stored
    lists = largest_of_rows(matrix, K)
    left = set(fill_with_zeros(matrix, *lists).tolist())
    values, columns, counts = lists
    short = 0
    for row in range(N_USERS):
        dense = matrix[row].toarray()[0]
        zeros = [column for column, value in enumerate(dense) if value == 0][: K - counts[row]]
        if row in left:
            assert counts[row] < K and (columns[row, counts[row] :] == -1).all()
        else:
            short += counts[row] < K
            assert columns[row, counts[row] :].tolist() == zeros
            assert (values[row, counts[row] :] == 0).all()
    assert short > 3
    few = sp.csr_matrix(np.float32([[0, -1, 2, 0]]))  # more places than columns
    assert fill_with_zeros(few, *largest_of_rows(few, 5)).tolist() == [0]


def test_rows_and_transposed_matrices_are_those_of_the_dense_ones():
    dense = torch.from_numpy(np.nan_to_num(matrix_with_ties().toarray(), posinf=2, neginf=-2))
    some = torch.tensor([5, 0, 3, 5, 59])
    np.testing.assert_array_equal(csr_rows(dense.to_sparse_csr(), some).toarray(), dense[some])
    np.testing.assert_array_equal(csr_of(dense.to_sparse_csr()).toarray(), dense)
    other = transposed_csr(dense.to_sparse_csr())
    assert other.crow_indices().dtype == other.col_indices().dtype == torch.int64
    assert torch.equal(other.to_dense(), dense.T)


def scorer_and_histories(negative: bool) -> tuple[ItemWeightScorer, Histories]:
    """Weights with ties and few entries, so that some users have fewer than K scores above 0."""
    rng = np.random.default_rng(4)
    weights = rng.integers(-2 if negative else 1, 4, (N_ITEMS, N_ITEMS)).astype(np.float32) / 2
    weights *= rng.random(weights.shape) < 0.15
    history = (rng.random((N_USERS, N_ITEMS)) < rng.random((N_USERS, 1)) * 0.3).astype(np.float32)
    history[7] = 0
    users, items = map(torch.from_numpy, history.nonzero())
    history *= rng.random((1, N_ITEMS)).astype(np.float32)
    scorer = ItemWeightScorer(torch.from_numpy(history).to_sparse_csr(), torch.from_numpy(weights).to_sparse_csr())
    return scorer, Histories(users, items, N_USERS)


@pytest.mark.parametrize("negative", [False, True], ids=["positive", "with negative weights"])
@pytest.mark.parametrize("restricted", [False, True], ids=["all items", "candidates"])
@pytest.mark.parametrize("masked", [False, True], ids=["with seen items", "without seen items"])
def test_users_ranked_by_sparse_products_have_the_lists_of_dense_scores(negative, restricted, masked):
    scorer, histories = scorer_and_histories(negative)
    assert scorer.has_sparse_products
    users = torch.randperm(N_USERS, generator=torch.Generator().manual_seed(0))
    seen = histories if masked else None
    candidates = torch.tensor([31, 2, 3, 5, 8, 13, 21, 34, 1, 0, 39, 38]) if restricted else None
    dense = (scorer.history.to_dense() @ scorer.weights.to_dense())[users]
    pairs = histories.pairs(users)
    queries = scorer.queries(users)
    torch.testing.assert_close(scorer.scores(queries), dense)
    expected = top_k(scorer, queries, K, seen=pairs if masked else None, candidates=candidates)
    for limit in (1, 2**20):
        blocks = list(rank_users(scorer, users, K, seen=seen, candidates=candidates, memory_limit=limit))
        assert torch.equal(torch.cat([block[0] for block in blocks]), users)
        assert torch.equal(torch.cat([block[2] for block in blocks]), expected[1])
        assert torch.equal(torch.cat([block[1] for block in blocks]), expected[0])
    short = ((dense > 0).sum(1) < K).sum()
    assert 0 < short < N_USERS  # both ways of ranking were tried


def test_two_threads_rank_like_one():
    scorer, histories = scorer_and_histories(False)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(list(rank_users(scorer, torch.arange(N_USERS), K, seen=histories, memory_limit=4000)))
    finally:
        torch.set_num_threads(before)
    assert len(found[0]) > 2
    for column in range(3):
        assert torch.equal(*(torch.cat([block[column] for block in blocks]) for blocks in found))


def test_nobody_to_rank_for_gives_one_empty_block():
    scorer, _ = scorer_and_histories(False)
    ((users, scores, items),) = rank_users(scorer, torch.arange(0), K)
    assert users.shape == (0,) and scores.shape == items.shape == (0, K)
