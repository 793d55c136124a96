"""Sparse products, weighted item graphs, and edges whose weights are recomputed in every step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lirdrec.graphs.differentiable_item_graph import WeightedEdges, cosines, nearest_edges, own_cosines, pairs
from lirdrec.graphs.graph_attention import Edges
from lirdrec.graphs.item_item import nearest_items
from lirdrec.graphs.sparse_matrix import SparseMatrix, product
from lirdrec.graphs.user_item import RowGraph, UserItemGraph, drop_edges, edge_values, row_folded


def table(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosines_of_a_catalog_in_blocks(monkeypatch):
    monkeypatch.setattr("lirdrec.graphs.differentiable_item_graph.BLOCK_BYTES", 3 * 5 * 8)  # three rows at once
    x, queries = table(11, 5), table(4, 5, seed=1)
    x[2] = 0
    rows, columns = torch.tensor([0, 3, 1, 1, 2, 0, 3, 2]), torch.tensor([10, 0, 4, 2, 7, 3, 9, 6])
    found = cosines(queries, [x[:3], x[3:4], x[4:]], rows, columns)
    expected = torch.nn.functional.cosine_similarity(queries[rows], x[columns], dim=1)
    torch.testing.assert_close(found, expected)
    assert found[3] == 0


def test_links_of_the_last_items_are_rows_of_the_whole():
    x, present = table(9, 4), torch.ones(9, dtype=torch.bool)
    present[[2, 7]] = False
    blocks = [(x[:5], present[:5]), (x[5:], present[5:])]
    found = nearest_edges(x[5:], present[5:], blocks, 3).matrix((4, 9), first_row=5)
    rows, columns = pairs(nearest_items(x, present, 3))
    whole = torch.zeros(9, 9, dtype=torch.float64)
    whole[rows, columns] = torch.nn.functional.cosine_similarity(x[rows], x[columns], dim=1)
    torch.testing.assert_close(found.matmul(torch.eye(9, dtype=torch.float64)), whole[5:])


def test_joined_normalized_links_and_their_gradients_are_dense_ones():
    """Two graphs that share entries, and a row whose sum is negative, which gets nothing instead of NaN."""
    rows, columns = torch.tensor([0, 1, 1, 3, 4, 4]), torch.tensor([1, 0, 4, 3, 2, 4])
    more = torch.tensor([1, 4]), torch.tensor([0, 4])
    x = table(5, 3).requires_grad_()

    def ours(values, others, x):
        both = WeightedEdges.joined([WeightedEdges(rows, columns, values).scaled(0.3), WeightedEdges(*more, others)])
        return both.normalized(both.degrees(5)).matrix((5, 5)).matmul(x)

    def dense(values, others, x):
        empty = torch.zeros(5, 5, dtype=torch.float64)
        a = empty.index_put((rows, columns), 0.3 * values) + empty.index_put(more, others)
        d = a.sum(1)
        r = torch.where(d > 0, d.clamp(min=1e-30).rsqrt(), 0.0)
        return (r[:, None] * a * r) @ x

    values = torch.tensor([0.5, 1.0, 0.2, -0.7, 0.4, 0.9], dtype=torch.float64, requires_grad=True)
    others = torch.tensor([0.6, 0.1], dtype=torch.float64, requires_grad=True)
    result = ours(values, others, x)
    assert (result[[2, 3]] == 0).all()
    torch.testing.assert_close(result, dense(values, others, x))
    weight = table(5, 3, seed=2)
    gradients = [torch.autograd.grad((f(values, others, x) * weight).sum(), (values, others, x)) for f in (ours, dense)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_own_cosines_have_the_gradient_of_the_kept_entries():
    x = table(7, 3).requires_grad_()
    neighbors = nearest_items(x.detach(), torch.tensor([True] * 6 + [False]), 3)
    weight = table(7, 7, seed=3)

    def unit() -> torch.Tensor:
        return x / x.norm(dim=1, keepdim=True)

    links = own_cosines(unit(), neighbors)
    ours = torch.autograd.grad((links.values * weight[links.rows, links.columns]).sum(), x)[0]
    kept = torch.zeros(7, 7, dtype=torch.float64)
    kept[pairs(neighbors)] = 1
    theirs = torch.autograd.grad((unit() @ unit().T * kept * weight).sum(), x)[0]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_row_graph_is_the_powers_of_the_mean(n_layers):
    r = (torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    r[5], r[:, 4] = 0, 0  # a user and an item without an edge keep themselves
    a = torch.eye(11, dtype=torch.float64)
    a[:6, 6:], a[6:, :6] = r, r.T
    p = a / a.sum(1, keepdim=True)
    users, items = r.nonzero(as_tuple=True)
    graph = RowGraph(users, items, 6, 5, torch.float64)
    x = table(11, 3).requires_grad_()
    found = torch.stack([torch.cat(layer) for layer in graph.layers(x[:6], x[6:], n_layers)])
    expected = torch.stack([torch.linalg.matrix_power(p, layer) @ x for layer in range(n_layers + 1)])
    torch.testing.assert_close(found, expected)
    weight = table(11 * (n_layers + 1), 3, seed=1).reshape(expected.shape)
    ours, theirs = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_a_folded_user_is_a_node_that_only_listens():
    """The node's row joins P, its column does not: items stay as trained."""
    r = (torch.rand(4, 5, generator=torch.Generator().manual_seed(0)) < 0.6).double()
    users, items = r.nonzero(as_tuple=True)
    x = table(9, 2)
    liked = [torch.tensor([0, 3]), torch.tensor([4])]
    a = torch.eye(11, dtype=torch.float64)
    a[:4, 4:9], a[4:9, :4] = r, r.T
    for row, history in enumerate(liked):
        a[9 + row, 4 + history] = 1
    p = a / a.sum(1, keepdim=True)
    y = torch.cat([x, torch.zeros(2, 2, dtype=torch.float64)])
    expected = sum(torch.linalg.matrix_power(p, layer) @ y for layer in range(4))[9:]
    states = [layer[1] for layer in RowGraph(users, items, 4, 5, torch.float64).layers(x[:4], x[4:], 2)]
    torch.testing.assert_close(row_folded(liked, states), expected)


ROWS, COLUMNS, D = 6, 5, 3


@pytest.fixture
def edges() -> Edges:
    """Row 4 and column 2 have no edge; the edges are given in no order."""
    pairs = torch.tensor([[5, 0], [0, 1], [3, 4], [0, 0], [1, 3], [3, 0], [2, 1], [5, 4], [3, 3]])
    return Edges(pairs[:, 0], pairs[:, 1], (ROWS, COLUMNS))


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def dense(edges: Edges, values: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
    return values.new_full(edges.shape, fill).index_put((edges.rows, edges.columns), values)


def test_the_order_gives_the_former_position_of_each_edge(edges):
    given = torch.tensor([[5, 0], [0, 1], [3, 4], [0, 0], [1, 3], [3, 0], [2, 1], [5, 4], [3, 3]])
    assert torch.equal(given[edges.order], torch.stack([edges.rows, edges.columns], 1))
    assert (edges.rows * COLUMNS + edges.columns).diff().gt(0).all()


def test_products_and_dots_equal_dense_ones(edges):
    w, x, y = random(len(edges)), random(COLUMNS, D), random(ROWS, D)
    torch.testing.assert_close(edges.matmul(w, x), dense(edges, w) @ x, rtol=0, atol=1e-14)
    torch.testing.assert_close(edges.matmul_t(w, y), dense(edges, w).T @ y, rtol=0, atol=1e-14)
    torch.testing.assert_close(edges.dots(y, x), (y @ x.T)[edges.rows, edges.columns], rtol=0, atol=1e-14)


def test_gradients_of_every_operation(edges):
    w, x, y = (t.requires_grad_() for t in (random(len(edges)), random(COLUMNS, D), random(ROWS, D)))
    assert torch.autograd.gradcheck(edges.matmul, (w, x))
    assert torch.autograd.gradcheck(edges.matmul_t, (w, y))
    assert torch.autograd.gradcheck(edges.dots, (y, x))
    for over in ("row", "column"):
        assert torch.autograd.gradcheck(lambda s, over=over: edges.softmax(s, over), (w,))
    # views that are not contiguous
    assert torch.autograd.gradcheck(lambda w, x: edges.matmul(w, x.T), (w, random(D, COLUMNS).requires_grad_()))


def test_softmax_by_row_and_column(edges):
    scores = 100 * random(len(edges))
    masked = dense(edges, scores, fill=-torch.inf)
    for over, axis in (("row", 1), ("column", 0)):
        expected = masked.softmax(axis).nan_to_num(0)[edges.rows, edges.columns]
        torch.testing.assert_close(edges.softmax(scores, over), expected, rtol=0, atol=1e-14)


def test_an_excluded_edge_gets_nothing(edges):
    scores = random(len(edges)).requires_grad_()
    excluded = (edges.columns == 0) | (edges.rows == 1)  # row 1 has no other edge
    p = edges.softmax(scores.masked_fill(excluded, -torch.inf), "row")
    assert (p[excluded] == 0).all()
    assert torch.isfinite(p).all()
    sums = p.new_zeros(ROWS).index_add_(0, edges.rows, p)
    torch.testing.assert_close(sums, torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.float64))
    p.square().sum().backward()
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad[excluded] == 0).all()


def test_without_edges():
    none = Edges(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), (3, 2))
    assert none.dots(torch.ones(3, 4), torch.ones(2, 4)).shape == (0,)
    assert torch.equal(none.matmul(torch.empty(0), torch.ones(2, 4)), torch.zeros(3, 4))


N_USERS, N_ITEMS = 6, 5


def planted_pairs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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
    users, items, r = planted_pairs()
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
    users, items, r = planted_pairs()
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
    users, items, r = planted_pairs()
    graph = UserItemGraph(users, items, N_USERS, N_ITEMS, torch.float64)
    x_users, x_items = r.sum(1).sqrt()[:, None], -r.sum(0).sqrt()[:, None]
    for n_layers, weights, factor in [(3, [1, 1, 1, 1], 0), (4, [1] * 5, 1), (3, [1, 1, 1, 0.5], 0.5), (2, [1] * 3, 1)]:
        found = graph.propagate(x_users, x_items, n_layers, weights)
        torch.testing.assert_close(found[0], factor * x_users, rtol=0, atol=1e-6)
        torch.testing.assert_close(found[1], factor * x_items, rtol=0, atol=1e-6)


def test_propagation_of_slices_and_float32():
    users, items, r = planted_pairs()
    graph = UserItemGraph(users, items, N_USERS, N_ITEMS)
    wide_users, wide_items = torch.randn(N_USERS, 8), torch.randn(N_ITEMS, 8)
    found = graph.propagate(wide_users[:, 2:5], wide_items[:, 2:5], 3)
    x0 = torch.cat([wide_users, wide_items])[:, 2:5].double()
    expected = sum(torch.matrix_power(a_hat(r), layer) @ x0 for layer in range(4))
    torch.testing.assert_close(torch.cat(found).double(), expected, rtol=1e-5, atol=1e-6)


def test_a_kept_edge_is_normalized_by_the_kept_degrees():
    users, items, _ = planted_pairs()
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

    users, items, r = planted_pairs()
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
