r"""HSTU: next items by hierarchical sequential transduction units (Zhai et al., ICML 2024, arXiv 2402.17152).

With item vectors `V` `(I, e)`, which are free parameters, and the items `i_1 … i_T` of a user in order:

    x_0 = dropout(√e V_{i_t} + position_t)
    [u | v | q | k] = silu(LN(x_{l-1}) W)               no biases; LN without scale and shift
    y_t = Σ_{s≤t} silu(⟨q_t, k_s⟩ + r_{t-s}) v_s / N    in each of n_heads heads; r: biases of distances
    x_l = x_{l-1} + dropout(u ⊙ LN(y)) W_o + b_o
    score(u, i) = cos(x_LT, V_i), or ⟨x_LT, V_i⟩

with `N = max_length`. It is trained by the softmax over all items at every position. Attention weights are not
normalized, so that the state also shows how strong an interest is.

This is the network of the authors' experiments with next items (their folder `research`). Differences: the authors
sample 128 or 512 negatives, and their r has a second term for the time from an earlier item to the *next* one, which a
server does not know when it ranks. This model reads no times.

**Published training**: the authors' `configs/amzn-books`, 128 sequences per batch (here 1,024 targets), dropout 0.5,
temperature 0.05 and four units of four heads; they train for 201 epochs and do not stop early.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import option, validated
from lirdrec.models.base import Capabilities, ModelInputs
from lirdrec.models.sequential import AttentionOptions, SequentialModel
from lirdrec.nn.init import normal_, xavier_uniform_
from lirdrec.nn.normalize_and_dropout import dropout

INITIAL_STD = 0.02  # of item vectors, of W and of the biases of distances
NORM_EPSILON = 1e-6


@dataclass(frozen=True)
@validated
class HSTUConfig(AttentionOptions):
    """Hyper-parameters of HSTU.

    >>> HSTUConfig(n_layers=4).n_heads
    2
    """

    model: ClassVar[str] = "hstu"

    n_layers: int = option(2, "L, units one after the other")


class HSTU(SequentialModel):
    """HSTU: predict the next item by transduction units over item IDs.

    The formulas are at the top of this file.
    """

    lag: Tensor
    earlier: Tensor
    name = HSTUConfig.model
    Config = HSTUConfig
    capabilities = Capabilities(
        needs_features=False, cold_items=False, new_users=True, training="gradient", weights=True, ordered=True
    )
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 1024, "epochs": 200, "patience": 20}
    grid: ClassVar = {"dropout": (0.2, 0.5), "n_layers": (2, 4), "n_heads": (1, 2, 4)}

    def __init__(self, inputs: ModelInputs, config: HSTUConfig):
        super().__init__(inputs, config)
        self.config: HSTUConfig = config
        e, device = config.embedding_size, inputs.device
        generator = torch.Generator().manual_seed(inputs.seed)
        self.item_embedding = nn.Parameter(torch.empty(inputs.n_items, e, device=device))
        self.position = nn.Parameter(torch.empty(config.max_length, e, device=device))
        normal_(self.item_embedding, generator, INITIAL_STD)
        normal_(self.position, generator, e**-0.5)
        self.units = nn.ModuleList(_Unit(config, generator, device) for _ in range(config.n_layers))
        distance = torch.arange(config.max_length, device=device)
        lag = (distance[:, None] - distance).clamp(min=0)
        self.register_buffer("lag", lag, persistent=False)
        self.register_buffer("earlier", torch.ones(lag.shape, device=device).tril(), persistent=False)

    def item_table(self) -> Tensor:
        return self.item_embedding

    def states(self, items: Tensor, gaps: Tensor | None, users: Tensor | None = None) -> Tensor:
        p, length = self.config.dropout if self.training else 0.0, items.shape[1]
        x = items * self.config.embedding_size**0.5 + self.position[:length]
        x = dropout(x, p, self.generator)
        lag, earlier = self.lag[:length, :length], self.earlier[:length, :length].to(x.dtype)
        for unit in self.units:
            x = unit(x, lag, earlier, p, self.generator)
        return x


class _Unit(nn.Module):
    """One transduction unit: `(n, T, e)` → `(n, T, e)`."""

    def __init__(self, config: HSTUConfig, generator: torch.Generator, device: torch.device):
        super().__init__()
        e, self.n_heads = config.embedding_size, config.n_heads
        self.input_weight = nn.Parameter(torch.empty(e, 4 * e, device=device))  # columns of u, v, q, k
        self.distance_bias = nn.Parameter(torch.empty(config.max_length, device=device))
        for parameter in (self.input_weight, self.distance_bias):
            normal_(parameter, generator, INITIAL_STD)
        self.output_weight = nn.Parameter(torch.empty(e, e, device=device))
        xavier_uniform_(self.output_weight, generator, e, e)
        self.output_bias = nn.Parameter(torch.zeros(e, device=device))

    def forward(self, x: Tensor, lag: Tensor, earlier: Tensor, p: float, generator: torch.Generator) -> Tensor:
        n, length, e = x.shape
        u, v, q, k = F.silu(_normed(x) @ self.input_weight).split(e, dim=-1)
        q, k, v = (part.view(n, length, self.n_heads, -1).transpose(1, 2) for part in (q, k, v))  # (n, heads, T, c)
        bias = self.distance_bias.index_select(0, lag.reshape(-1)).view(lag.shape)
        weights = F.silu(q @ k.transpose(-1, -2) + bias) * earlier
        seen = (weights @ v).transpose(1, 2).reshape(n, length, e) / len(self.distance_bias)
        gated = dropout(u * _normed(seen), p, generator)
        return x + F.linear(gated, self.output_weight, self.output_bias)


def _normed(x: Tensor) -> Tensor:
    """Return `x` with layer normalization over the last axis, without scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPSILON)
