r"""Weights a_l of the layers in models that propagate vectors `X0` over the user-item graph `Â`.

The result (the read-out) is the weighted sum of the layers, `X = Σ_{l=0..L} a_l Â^l X0`, with

    equal       a_l = 1            the sum (or mean) of LightGCN (He et al., SIGIR 2020)
    decaying    a_l = 1/(l+1)
    learned     a = (L+1) softmax(t); at the start t_l = -log(l+1), so that a is proportional to decaying
    numbers     as given

**Why the weights matter.** `Â` is the adjacency matrix of a bipartite graph, so its eigenvalues come in pairs ±σ: if
`(p, q)` (users, items) is an eigenvector with eigenvalue σ, then `(p, -q)` is one with -σ. The read-out multiplies the
component of eigenvalue x by the polynomial `f(x) = Σ a_l x^l`. In a connected graph the largest eigenvalue is 1. Its
eigenvector `(p, q)` has the square roots of the degrees, and the eigenvector of -1 is `(p, -q)`. So the leading parts
of the vectors are

    users: p (c₊ + c₋)        items: q (c₊ - c₋)

where training can choose `c₊` and `c₋` in R^D through `X0`, and `c₋` has the factor `f(-1)`. With equal weights and odd
L, `f(-1) = 1 - 1 + … - 1 = 0`. Then users and items have the same leading part `c₊`, and training cannot learn how they
differ in it. This part adds `‖c₊‖² √(d_u d_i)`, which is never less than 0, to an inner product, so popular items get
higher scores for all users. Inner products can balance this by the norms of vectors. Cosines cannot, and the vectors of
all popular items point to `c₊`. With any weights for which `f(-1) = Σ a_l (-1)^l` is not 0, the leading parts of users
and items can differ: for decaying weights it is .58 (L = 3) and .78 (L = 4). docs/models.md has a plot of the
polynomials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lirdrec.errors import ConfigError

LayerWeighting = Literal["equal", "decaying", "learned"] | tuple[float, ...]


def check_layer_weights(layer_weights: LayerWeighting, n_layers: int) -> None:
    """Check layer weights that are given as numbers; weights given by name pass.

    Raises:
        ConfigError: there is not one number for each layer from 0 to `n_layers`, a number is not finite, or all numbers
            (or all those of the layers 1 to `n_layers`) are 0.
    """
    if isinstance(layer_weights, str):
        return
    shown = ", ".join(f"{weight:g}" for weight in layer_weights)
    if len(layer_weights) != n_layers + 1:
        raise ConfigError(
            f"layer_weights has {len(layer_weights)} numbers ({shown}); n_layers is {n_layers}, so it must have "
            f"{n_layers + 1}: one for each layer from 0 to {n_layers}"
        )
    if not all(map(math.isfinite, layer_weights)) or not any(layer_weights):
        raise ConfigError(f"layer_weights is {shown}; the numbers must be finite and not all 0")
    if n_layers > 0 and not any(layer_weights[1:]):
        raise ConfigError(
            f"layer_weights is {shown}; a layer from 1 to {n_layers} must have a weight other than 0, because the "
            "vectors of new users are made from these layers"
        )


def fixed_weights(layer_weights: LayerWeighting, n_layers: int) -> tuple[float, ...]:
    """Return the weights `a_0 … a_L` at the start of training; only learned weights change later.

    >>> fixed_weights("decaying", 3)
    (1.0, 0.5, 0.3333333333333333, 0.25)
    """
    if layer_weights == "equal":
        return (1.0,) * (n_layers + 1)
    decaying = tuple(1 / (layer + 1) for layer in range(n_layers + 1))
    if layer_weights == "decaying":
        return decaying
    if layer_weights == "learned":
        return tuple((n_layers + 1) * weight / sum(decaying) for weight in decaying)
    return tuple(float(weight) for weight in layer_weights)


class LayerWeights(nn.Module):
    """The weights a_l of the layers of a model; a torch module, because learned weights are parameters of the model.

    Args:
        layer_weights: the option of the model.
        n_layers: L ≥ 0.
        dtype, device: those of the learned parameters.

    >>> LayerWeights("decaying", 1).numbers()
    (1.0, 0.5)
    """

    def __init__(
        self,
        layer_weights: LayerWeighting,
        n_layers: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        start = fixed_weights(layer_weights, n_layers)
        self.fixed: tuple[float, ...] | None = start
        if layer_weights == "learned":
            self.fixed = None
            self.logits = nn.Parameter(torch.tensor(start, dtype=dtype, device=device).log())

    def forward(self) -> Sequence[float] | Tensor:
        """Return the current weights `a_0 … a_L`, as `UserItemGraph.propagate` takes them.

        Learned weights are a tensor `(L+1,)` with a gradient; all others are numbers.
        """
        if self.fixed is not None:
            return self.fixed
        return len(self.logits) * self.logits.softmax(0)

    def numbers(self) -> tuple[float, ...]:
        """Return the current weights `a_0 … a_L` as numbers, also if they are learned."""
        weights = self()
        return tuple(weights.tolist()) if isinstance(weights, Tensor) else tuple(weights)
