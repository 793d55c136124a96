r"""Weights of the layers in the read-out `X = Σ_{l=0..L} a_l Â^l X0` of models that propagate over the user-item graph.

    equal       a_l = 1            the sum (or mean) of LightGCN (He et al., SIGIR 2020)
    decaying    a_l = 1/(l+1)
    learned     a = (L+1) softmax(t), t_l = -log(l+1) at the start: in proportion to decaying
    numbers     as given

**Why the weights matter.** `Â` is the adjacency matrix of a bipartite graph. If `(p, q)` (users, items) is an
eigenvector of `Â` with eigenvalue σ, `(p, -q)` is one with -σ: eigenvalues come in pairs ±σ. The read-out multiplies
the component of eigenvalue x by the polynomial `f(x) = Σ a_l x^l`. In a connected graph the largest eigenvalue is 1;
its eigenvector is `(p, q)`, the roots of the degrees, and that of -1 is `(p, -q)`. So the leading parts of the vectors
of users and items are `p (c₊ + c₋)` and `q (c₊ - c₋)`, with `c₊` and `c₋` in R^D that training can choose through `X0`,
`c₋` times `f(-1)`. With equal weights and odd L `f(-1) = 1 - 1 + … - 1 = 0`: users and items have the same leading part
`c₊`, and the difference of users and items in it cannot be learned. That part adds `‖c₊‖² √(d_u d_i)` to an inner
product, never less than 0: popular items are moved up for everybody. Inner products have the norms to balance it;
cosines have not, and the popular items all point to `c₊`. With any weights for which `f(-1) = Σ a_l (-1)^l` is not 0
the two parts can differ: for decaying weights it is .58 (L 3) and .78 (L 4). docs/models.md has a plot of the
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
    """Check numbers that are given as weights.

    Raises:
        ConfigError: not one for each layer from 0 to `n_layers`, not finite, or none of layers 1 to `n_layers` is
            other than 0.
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
        raise ConfigError(f"layer_weights is {shown}; it must be finite numbers that are not all 0")
    if n_layers > 0 and not any(layer_weights[1:]):
        raise ConfigError(
            f"layer_weights is {shown}; a layer from 1 to {n_layers} must have a weight other than 0: the vectors of "
            "new users are made of these layers"
        )


def fixed_weights(layer_weights: LayerWeighting, n_layers: int) -> tuple[float, ...]:
    """The weights `a_0 … a_L` at the start of training; they stay so, except learned ones.

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
    """The weights of a model's layers; a module, because learned ones are parameters of the model.

    Args:
        layer_weights: the option of the model; n_layers: L ≥ 0.
        dtype, device: of the learned parameters.

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
        """`a_0 … a_L`, `(L+1,)`, for `UserItemGraph.propagate`; a tensor with a gradient if they are learned."""
        if self.fixed is not None:
            return self.fixed
        return len(self.logits) * self.logits.softmax(0)

    def numbers(self) -> tuple[float, ...]:
        """`a_0 … a_L` as they are now."""
        weights = self()
        return tuple(weights.tolist()) if isinstance(weights, Tensor) else tuple(weights)
