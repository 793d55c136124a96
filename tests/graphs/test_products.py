"""Sparse products and propagation against dense matrices, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lirdrec.graphs.sparse import SparseMatrix, product
from lirdrec.graphs.user_item import UserItemGraph, drop_edges, edge_values

N_USERS, N_ITEMS = 6, 5


def edges(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Edges in a shuffled order and the dense R; user 5 and item 4 have none."""
    rng = np.random.default_rng(seed)
    r = torch.from_numpy(rng.random((N_USERS, N_ITEMS)) < 0.5)
    r[5], r[:, 4] = False, False
    users, items = r.nonzero(as_tuple=True)
    order = torch.from_numpy(rng.permutation(len(users)))
    return users[order], items[order], r.double()


def a_hat(r: torch.Tensor) -> torch.Tensor:
    a = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS, dtype=torch.float64)
    a[:N_USERS, N_USERS:], a[N_USERS:, :N_USERS] = r, r.T
    d = (a.sum(1) + 1e-7).rsqrt()
    return d[:, None] * a * d


def test_a_sparse_matrix_is_its_dense_self():
    rng = np.random.default_rng(0)
    dense = torch.from_numpy(rng.normal(size=(4, 7)) * (rng.random((4, 7)) < 0.4))
    dense[2] = 0
    rows, columns = dense.nonzero(as_tuple=True)
    order = torch.from_numpy(rng.permutation(len(rows)))
    matrix = SparseMatrix(rows[order], columns[order], dense[rows, columns][order], (4, 7))
    assert torch.equal(matrix.dense(), dense)
    assert torch.equal(matrix.csr_t.to_dense(), dense.T)
    torch.testing.assert_close(matrix.row_sums(), dense.sum(1))
    x = torch.from_numpy(rng.normal(size=(7, 3))).requires_grad_()
    torch.testing.assert_close(matrix.matmul(x), dense @ x)
    assert torch.autograd.gradcheck(matrix.matmul, x)
    assert torch.autograd.gradcheck(lambda y: matrix.matmul(y.T), torch.randn(3, 7).double().requires_grad_())
    plus = torch.from_numpy(rng.normal(size=(4, 3)))
    before = plus.clone()
    torch.testing.assert_close(product(matrix.csr, x.detach(), plus=plus), plus + dense @ x.detach())
    assert torch.equal(plus, before)
    assert repr(matrix) == f"SparseMatrix(4×7, {len(rows)} entries)"


def test_a_matrix_without_entries():
    none = torch.empty(0, dtype=torch.int64)
    matrix = SparseMatrix(none, none, torch.empty(0), (3, 2))
    assert torch.equal(matrix.matmul(torch.ones(2, 4)), torch.zeros(3, 4))


@pytest.mark.parametrize("n_layers", [0, 1, 2, 5])
def test_propagation_is_the_sum_of_the_powers(n_layers):
    users, items, r = edges()
    graph = UserItemGraph(users, items, N_USERS, N_ITEMS, torch.float64)
    rng = np.random.default_rng(1)
    x_users, x_items = (torch.from_numpy(rng.normal(size=(n, 3))).requires_grad_() for n in (N_USERS, N_ITEMS))
    x0 = torch.cat([x_users, x_items])
    expected = sum(torch.matrix_power(a_hat(r), layer) @ x0 for layer in range(n_layers + 1))
    found = graph.propagate(x_users, x_items, n_layers)
    torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(found[0][5], x_users[5])  # a node without an edge keeps its own vector
    torch.testing.assert_close(found[1][4], x_items[4])
    assert torch.autograd.gradcheck(lambda u, i: graph.propagate(u, i, n_layers), (x_users, x_items))
    # also when the loss reads one side only
    assert torch.autograd.gradcheck(lambda u, i: graph.propagate(u, i, n_layers)[1], (x_users, x_items))
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(graph.sums(x_users, x_items, n_layers)), expected.detach())


@pytest.mark.parametrize("n_layers", [0, 1, 2, 5])
def test_weighted_propagation_is_the_weighted_sum_of_the_powers(n_layers):
    users, items, r = edges()
    graph = UserItemGraph(users, items, N_USERS, N_ITEMS, torch.float64)
    rng = np.random.default_rng(2)
    x_users, x_items = (torch.from_numpy(rng.normal(size=(n, 3))).requires_grad_() for n in (N_USERS, N_ITEMS))
    learned = torch.from_numpy(rng.normal(size=n_layers + 1)).requires_grad_()
    x0 = torch.cat([x_users, x_items])
    powers = [torch.matrix_power(a_hat(r), layer) for layer in range(n_layers + 1)]
    expected = sum(weight * power @ x0 for weight, power in zip(learned, powers, strict=True)).detach()
    for weights in (learned, learned.detach(), learned.tolist()):
        found = torch.cat(graph.propagate(x_users, x_items, n_layers, weights))
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-13)
    numbers = learned.tolist()
    assert torch.autograd.gradcheck(lambda u, i: graph.propagate(u, i, n_layers, numbers), (x_users, x_items))
    inputs = (x_users, x_items, learned)
    assert torch.autograd.gradcheck(lambda u, i, a: graph.propagate(u, i, n_layers, a), inputs)
    assert torch.autograd.gradcheck(lambda u, i, a: graph.propagate(u, i, n_layers, a)[1], inputs)
    # all weights 1 give the bits of the plain sum
    plain, ones = (graph.propagate(x_users, x_items, n_layers, w) for w in (None, [1.0] * (n_layers + 1)))
    assert all(torch.equal(one, other) for one, other in zip(plain, ones, strict=True))


def test_equal_weights_and_an_odd_number_of_layers_lose_the_difference_of_users_and_items():
    """The eigenvector of -1, √degree with another sign on the items, is multiplied by Σ a_l (-1)^l."""
    users, items, r = edges()
    graph = UserItemGraph(users, items, N_USERS, N_ITEMS, torch.float64)
    x_users, x_items = r.sum(1).sqrt()[:, None], -r.sum(0).sqrt()[:, None]
    for n_layers, weights, factor in [(3, [1, 1, 1, 1], 0), (4, [1] * 5, 1), (3, [1, 1, 1, 0.5], 0.5), (2, [1] * 3, 1)]:
        found = graph.propagate(x_users, x_items, n_layers, weights)
        torch.testing.assert_close(found[0], factor * x_users, rtol=0, atol=1e-6)
        torch.testing.assert_close(found[1], factor * x_items, rtol=0, atol=1e-6)


def test_propagation_of_slices_and_float32():
    users, items, r = edges()
    graph = UserItemGraph(users, items, N_USERS, N_ITEMS)
    wide_users, wide_items = torch.randn(N_USERS, 8), torch.randn(N_ITEMS, 8)
    found = graph.propagate(wide_users[:, 2:5], wide_items[:, 2:5], 3)
    x0 = torch.cat([wide_users, wide_items])[:, 2:5].double()
    expected = sum(torch.matrix_power(a_hat(r), layer) @ x0 for layer in range(4))
    torch.testing.assert_close(torch.cat(found).double(), expected, rtol=1e-5, atol=1e-6)


def test_a_kept_edge_is_normalized_by_the_kept_degrees():
    users, items, _ = edges()
    kept = drop_edges(users, items, N_USERS, N_ITEMS, 0.5, torch.Generator().manual_seed(3))
    assert len(kept) == len(users) // 2
    assert len(kept.unique()) == len(kept)
    graph = UserItemGraph(users[kept], items[kept], N_USERS, N_ITEMS, torch.float64)
    r = torch.zeros(N_USERS, N_ITEMS, dtype=torch.float64)
    r[users[kept], items[kept]] = 1
    torch.testing.assert_close(graph.matrix.dense(), a_hat(r)[:N_USERS, N_USERS:])


def test_edges_are_kept_in_proportion_to_their_weight():
    """Chi-square of the one edge kept in each of 4,000 draws; .999 quantile with as many degrees as edges less one."""
    from scipy.stats import chi2

    users, items, r = edges()
    weights = edge_values(users, items, N_USERS, N_ITEMS)
    torch.testing.assert_close(weights, a_hat(r)[users, N_USERS + items])
    generator, draws = torch.Generator().manual_seed(0), 4000
    n = len(users)
    counts = torch.zeros(n)
    for _ in range(draws):
        (one,) = drop_edges(users, items, N_USERS, N_ITEMS, 1 - 1.5 / n, generator).tolist()
        counts[one] += 1
    expected = weights / weights.sum() * draws
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.999, n - 1)
