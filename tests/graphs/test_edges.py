"""Weighted edges against dense matrices: values, gradients, and rows without edges."""

from __future__ import annotations

import pytest
import torch

from lirdrec.graphs.edges import Edges

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


def test_the_order_tells_where_an_edge_was(edges):
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
