"""The user-item graph: normalization, propagation, edge dropout, and fold-in of new users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lirdrec.autograd_function_base import AutogradFunction
from lirdrec.graphs.sparse_matrix import SparseMatrix, product

EPSILON = 1e-7  # added to every degree, as the released code does


class UserItemGraph:
    r"""The normalized user-item graph `Â = D^-½ [[0, R], [Rᵀ, 0]] D^-½`.

    Only its non-zero block `R̂` (`U×I`) and the transpose of the block are kept.

    Args:
        users, items: `(E,)` int64 rows of the distinct training pairs.
        n_users, n_items: numbers of users and items; a node without an edge has a zero row.
        dtype: dtype of the values.
        weights: `(E,)` float, the entries of `R`; None: ones.
    """

    def __init__(
        self,
        users: Tensor,
        items: Tensor,
        n_users: int,
        n_items: int,
        dtype: torch.dtype = torch.float32,
        weights: Tensor | None = None,
    ):
        self.n_users, self.n_items = n_users, n_items
        values = edge_values(users, items, n_users, n_items, weights).to(dtype)
        self.matrix = SparseMatrix(users, items, values, (n_users, n_items))

    def propagate(
        self, users: Tensor, items: Tensor, n_layers: int, weights: Sequence[float] | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Return the weighted sum of all layers, `X = Σ_{l=0..L} a_l Â^l X0` (LightGCN, LIRDRec's Eqs. 15-16).

        Args:
            users, items: the rows `(U, D)` and `(I, D)` of `X0`.
            n_layers: `L` ≥ 0.
            weights: `a_0 … a_L`, numbers or `(L+1,)` float; None: all 1.

        Returns:
            The rows `(U, D)` and `(I, D)` of `X`; differentiable, also with respect to `weights` if it is a tensor.
        """
        if n_layers == 0 and weights is None:
            return users, items
        if isinstance(weights, Tensor) and weights.requires_grad:
            learned: tuple[Tensor, Tensor] = _PropagateLearned.apply(users, items, weights, self)
            return learned
        fixed = weights.tolist() if isinstance(weights, Tensor) else weights
        result: tuple[Tensor, Tensor] = _Propagate.apply(users, items, self, n_layers, fixed)
        return result

    def last(self, users: Tensor, items: Tensor, n_layers: int) -> tuple[Tensor, Tensor]:
        """Return the last layer only, the rows `(U, D)` and `(I, D)` of `Â^L X0`; differentiable."""
        to_items = self.matrix.transposed()
        for _ in range(n_layers):
            users, items = self.matrix.matmul(items), to_items.matmul(users)
        return users, items

    def sums(
        self, users: Tensor, items: Tensor, n_layers: int, weights: Sequence[float] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute `propagate` without autograd, by Horner's rule.

        It starts with `X ← a_L X0`, then takes the steps `X ← a_l X0 + Â X` for l = L-1 … 0.
        """
        a = [1.0] * (n_layers + 1) if weights is None else list(weights)
        if n_layers == 0:
            return (users, items) if a[0] == 1 else (a[0] * users, a[0] * items)
        x_users, x_items = users, items
        for layer in range(n_layers - 1, -1, -1):
            factor = a[n_layers] if layer == n_layers - 1 else 1.0  # the product takes a_L, so a_L X0 is not computed
            x_users, x_items = (
                product(self.matrix.csr, x_items, plus=users, factor=factor, plus_factor=a[layer]),
                product(self.matrix.csr_t, x_users, plus=items, factor=factor, plus_factor=a[layer]),
            )
        return x_users, x_items


class _Propagate(AutogradFunction):
    # Â is symmetric, so the backward of a polynomial in Â is the same polynomial applied to the gradient.
    @staticmethod
    def forward(
        ctx: Any, users: Tensor, items: Tensor, graph: UserItemGraph, n_layers: int, weights: Sequence[float] | None
    ) -> tuple[Tensor, Tensor]:
        ctx.graph, ctx.n_layers, ctx.weights = graph, n_layers, weights
        return graph.sums(users.contiguous(), items.contiguous(), n_layers, weights)

    @staticmethod
    def backward(ctx: Any, g_users: Tensor, g_items: Tensor) -> tuple[Tensor | None, ...]:
        sums = ctx.graph.sums(g_users.contiguous(), g_items.contiguous(), ctx.n_layers, ctx.weights)
        return (*sums, None, None, None)


class _PropagateLearned(AutogradFunction):
    # With the layers Y_l = Â^l G of the gradient G, the gradient of X0 is Σ a_l Y_l, and that of a_l is ⟨Y_l, X0⟩.
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, weights: Tensor, graph: UserItemGraph) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(users, items, weights)
        ctx.graph = graph
        return graph.sums(users.contiguous(), items.contiguous(), len(weights) - 1, weights.tolist())

    @staticmethod
    def backward(ctx: Any, g_users: Tensor, g_items: Tensor) -> tuple[Tensor | None, ...]:
        users, items, weights = ctx.saved_tensors
        matrix = ctx.graph.matrix
        y_users, y_items = g_users.contiguous(), g_items.contiguous()
        of_weights = []
        sum_users, sum_items = torch.zeros_like(y_users), torch.zeros_like(y_items)
        for layer, weight in enumerate(weights.tolist()):
            if layer > 0:
                y_users, y_items = product(matrix.csr, y_items), product(matrix.csr_t, y_users)
            sum_users.add_(y_users, alpha=weight)
            sum_items.add_(y_items, alpha=weight)
            of_weights.append((y_users * users).sum() + (y_items * items).sum())
        return sum_users, sum_items, torch.stack(of_weights).to(weights.dtype), None


class RowGraph:
    r"""The user-item graph with self-loops, normalized by rows: `P = D^-1 (A + I)`.

    A step over it gives each node the mean of the node itself and its neighbors; `D` counts the node itself. With
    weights, the mean is weighted, and the node itself has weight 1.

    Args:
        users, items: `(E,)` int64 rows of the distinct training pairs.
        n_users, n_items: numbers of users and items; a node without an edge keeps its own row.
        dtype: dtype of the values.
        weights: `(E,)` float, the entries of `A`; None: ones.
    """

    def __init__(
        self,
        users: Tensor,
        items: Tensor,
        n_users: int,
        n_items: int,
        dtype: torch.dtype = torch.float32,
        weights: Tensor | None = None,
    ):
        values = torch.ones(len(users), dtype=dtype, device=users.device) if weights is None else weights.to(dtype)
        self.to_users = SparseMatrix(users, items, values, (n_users, n_items))
        self.to_items = self.to_users.transposed()
        self.user_scale, self.item_scale = (
            (1 / (torch.bincount(rows, weights, minlength=n).double() + 1)).to(dtype)[:, None]
            for rows, n in ((users, n_users), (items, n_items))
        )

    def layers(self, users: Tensor, items: Tensor, n_layers: int) -> list[tuple[Tensor, Tensor]]:
        """Return the rows `(U, D)` and `(I, D)` of `P^l X0` for l = 0 … n_layers; differentiable."""
        layers = [(users, items)]
        for _ in range(n_layers):
            users, items = (
                (users + self.to_users.matmul(items)) * self.user_scale,
                (items + self.to_items.matmul(users)) * self.item_scale,
            )
            layers.append((users, items))
        return layers


def row_folded(histories: Sequence[Tensor], states: Sequence[Tensor]) -> Tensor:
    r"""Return vectors of new users in a `RowGraph`, summed over the layers; the items keep their states of training.

    For a user who likes the items `H`, the result is `Σ_l u^l` with

        u^0 = 0,   u^(l+1) = (u^l + Σ_{i∈H} x_i^l) / (|H| + 1)

    Args:
        histories: liked item rows, one int64 tensor per user.
        states: `x^l` `(I, D)` of the layers 0 … L-1.

    Returns:
        `(len(histories), D)`.
    """
    device = states[0].device
    sizes = torch.tensor([len(h) for h in histories], device=device)
    liked = torch.cat([torch.as_tensor(h, device=device) for h in histories])
    owner = torch.repeat_interleave(torch.arange(len(histories), device=device), sizes)
    user = total = states[0].new_zeros(len(histories), states[0].shape[1])
    for state in states:
        user = user.index_add(0, owner, state[liked]) / (sizes + 1)[:, None]
        total = total + user
    return total


def edge_values(users: Tensor, items: Tensor, n_users: int, n_items: int, weights: Tensor | None = None) -> Tensor:
    """Return the value `w/√((d_u + ε)(d_i + ε))` of each edge, `(E,)` float64.

    The degrees d are sums of w over the given edges; w is `weights` `(E,)`, or 1.
    """
    user_degree = torch.bincount(users, weights, minlength=n_users).double() + EPSILON
    item_degree = torch.bincount(items, weights, minlength=n_items).double() + EPSILON
    values = (user_degree[users] * item_degree[items]).rsqrt()
    return values if weights is None else values * weights


def drop_edges(
    users: Tensor, items: Tensor, n_users: int, n_items: int, p: float, generator: torch.Generator
) -> Tensor:
    """Return the positions `(int(E·(1-p)),)`, in order, of a sample of edges: the edges that an epoch keeps.

    The share `p` of the edges is dropped. The sample is without replacement, with probability ∝ `w = 1/√(d_u·d_i)`: it
    has the edges with the largest keys `log w + g`, with g Gumbel noise.
    """
    weights = edge_values(users, items, n_users, n_items).cpu()
    uniform = torch.rand(len(weights), generator=generator, dtype=torch.float64).clamp_(1e-300, 1 - 1e-16)
    keys = weights.log() - (-uniform.log()).log()
    return keys.topk(int(len(weights) * (1 - p))).indices.sort().values.to(users.device)


def folded(histories: Sequence[Tensor], states: Tensor, degrees: Tensor) -> Tensor:
    r"""Return vectors of new users in a `UserItemGraph`; the items keep their states of training.

    The vector of a user who likes the items `H` is `Σ_{i∈H} Y_i / √(|H|·deg_i)`. An item without an edge in training
    counts as an item with one edge, to this user.

    Args:
        histories: liked item rows, one int64 tensor per user.
        states: `Y` `(I, D)`, the weighted sum of the item states of all layers except the last; layer l has the weight
            of layer l + 1 in the sum of layers (`a_{l+1}`).
        degrees: `(I,)`, the number of training pairs of each item, or the sum of their weights.

    Returns:
        `(len(histories), D)`.
    """
    sizes = torch.tensor([len(h) for h in histories], device=states.device)
    liked = torch.cat([torch.as_tensor(h, device=states.device) for h in histories])
    owner = torch.repeat_interleave(torch.arange(len(histories), device=states.device), sizes)
    share = (sizes[owner] * degrees.clamp(min=1)[liked]).rsqrt().to(states.dtype)
    received = states.new_zeros(len(histories), states.shape[1])
    return received.index_add_(0, owner, states[liked] * share[:, None])
