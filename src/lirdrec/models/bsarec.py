r"""BSARec: self-attention mixed with a frequency filter (Shin et al., AAAI 2024, arXiv 2312.10325).

With item vectors `V` `(I, e)`, which are free parameters, and the items `i_1 … i_T` of a user in order:

    h_0 = dropout(LN(V_{i_t} + position_t))
    low = the lowest ⌊c/2⌋ + 1 frequencies of h_{l-1} along the sequence, high = h_{l-1} - low
    f_l = LN(h_{l-1} + dropout(low + β² high))          β: one for each column
    a_l = LN(h_{l-1} + dropout(Attention(h_{l-1})))     causal, with n_heads heads
    m_l = α f_l + (1 - α) a_l
    h_l = LN(m_l + dropout(W2 gelu(W1 m_l + b1) + b2))
    score(u, i) = ⟨h_LT, V_i⟩, or their cosine

It is trained by the softmax over all items at every position. With α = 0 this is SASRec as in RecBole (norms after the
sum).

**The filter.** Keeping the lowest K = ⌊c/2⌋ + 1 of the frequencies of N = max_length positions is a convolution with

    d(r) = (1 + 2 Σ_{k=1}^{K-1} cos(2πkr/N)) / N        (the frequency N/2 counts once)

so that `low_t = Σ_s d(t-s) h_s`. The authors sum over the whole sequence, including later items, and therefore train
only the last position: each history becomes T sequences. Here `low_t = Σ_{s≤t} d(t-s) h_s`, so that every position is a
target, and the network is causal. The last state of a single layer is the same as in the authors' code. In further
layers the states before the last one have not seen the items after them, as in the attention.

Other differences from the public code: positions count from the first item instead of the last; what is before the
first item is 0, where the public code has a random vector; there is no dropout of attention weights.

**Published training**: the authors' `src/utils.py`, with dropout 0.5; their command for Beauty has rate 5e-4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import check_minimum, option, validated
from lirdrec.errors import ConfigError
from lirdrec.models.base import Capabilities, ModelInputs
from lirdrec.models.sequential import SequentialModel, TransformerOptions
from lirdrec.nn.init import normal_
from lirdrec.nn.normalize_and_dropout import dropout

INITIAL_STD = 0.02  # of all weights and of item and position vectors
NORM_EPSILON = 1e-12


@dataclass(frozen=True)
@validated
class BSARecConfig(TransformerOptions):
    """Hyper-parameters of BSARec.

    >>> BSARecConfig(filter_weight=0.5).cutoff
    5
    """

    model: ClassVar[str] = "bsarec"

    filter_weight: float = option(0.7, "α, share of the frequency filter; the rest is attention")
    cutoff: int = option(5, "c: the ⌊c/2⌋ + 1 lowest frequencies are kept as low ones")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.filter_weight <= 1:
            raise ConfigError(f"filter_weight is {self.filter_weight}; it must be between 0 and 1")
        check_minimum(self, 0, "cutoff")


class BSARec(SequentialModel):
    """BSARec: predict the next item by self-attention and a frequency filter over item IDs.

    The formulas are at the top of this file.
    """

    low_pass: Tensor
    name = BSARecConfig.model
    Config = BSARecConfig
    capabilities = Capabilities(
        needs_features=False, cold_items=False, new_users=True, training="gradient", weights=True, ordered=True
    )
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 256, "epochs": 200, "patience": 10}
    grid: ClassVar = {"filter_weight": (0.1, 0.3, 0.5, 0.7, 0.9), "cutoff": (1, 3, 5, 7, 9), "n_heads": (1, 2, 4)}

    def __init__(self, inputs: ModelInputs, config: BSARecConfig):
        super().__init__(inputs, config)
        self.config: BSARecConfig = config
        e, device = config.embedding_size, inputs.device
        generator = torch.Generator().manual_seed(inputs.seed)
        self.item_embedding = nn.Parameter(torch.empty(inputs.n_items, e, device=device))
        self.position = nn.Parameter(torch.empty(config.max_length, e, device=device))
        for table in (self.item_embedding, self.position):
            normal_(table, generator, INITIAL_STD)
        self.norm_input = nn.LayerNorm(e, eps=NORM_EPSILON, device=device)
        self.blocks = nn.ModuleList(_Block(config, generator, device) for _ in range(config.n_layers))
        self.register_buffer("low_pass", low_pass(config.max_length, config.cutoff).to(device), persistent=False)

    def item_table(self) -> Tensor:
        return self.item_embedding

    def states(self, items: Tensor, gaps: Tensor | None, users: Tensor | None = None) -> Tensor:
        p, length = self.config.dropout if self.training else 0.0, items.shape[1]
        x = dropout(self.norm_input(items + self.position[:length]), p, self.generator)
        for block in self.blocks:
            x = block(x, self.low_pass[:length, :length].to(x.dtype), p, self.generator)
        return x


class _Block(nn.Module):
    """Attention and filter side by side, then two linear layers: `(n, T, e)` → `(n, T, e)`."""

    def __init__(self, config: BSARecConfig, generator: torch.Generator, device: torch.device):
        super().__init__()
        e, hidden = config.embedding_size, config.embedding_size * config.hidden_multiplier
        self.n_heads, self.filter_weight = config.n_heads, config.filter_weight
        self.root_beta = nn.Parameter(torch.empty(e, device=device))
        normal_(self.root_beta, generator, 1.0)
        self.attention_input = _linear(e, 3 * e, generator, device)  # queries, keys, values
        self.attention_output = _linear(e, e, generator, device)
        self.hidden = _linear(e, hidden, generator, device)
        self.output = _linear(hidden, e, generator, device)
        self.norm_filter, self.norm_attention, self.norm_output = (
            nn.LayerNorm(e, eps=NORM_EPSILON, device=device) for _ in range(3)
        )

    def forward(self, x: Tensor, kernel: Tensor, p: float, generator: torch.Generator) -> Tensor:
        mixed = x.new_zeros(())
        if self.filter_weight > 0:
            mixed = mixed + self.filter_weight * self._filtered(x, kernel, p, generator)
        if self.filter_weight < 1:
            mixed = mixed + (1 - self.filter_weight) * self._attended(x, p, generator)
        hidden = self.output(F.gelu(self.hidden(mixed)))
        result: Tensor = self.norm_output(mixed + dropout(hidden, p, generator))
        return result

    def _filtered(self, x: Tensor, kernel: Tensor, p: float, generator: torch.Generator) -> Tensor:
        low, beta = kernel @ x, self.root_beta.square()
        result: Tensor = self.norm_filter(x + dropout(low + beta * (x - low), p, generator))
        return result

    def _attended(self, x: Tensor, p: float, generator: torch.Generator) -> Tensor:
        n, length, e = x.shape
        tokens = self.attention_input(x).view(n, length, 3, self.n_heads, -1)
        q, k, v = tokens.permute(2, 0, 3, 1, 4)  # (n, heads, T, c) each
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        seen = self.attention_output(seen.transpose(1, 2).reshape(n, length, e))
        result: Tensor = self.norm_attention(x + dropout(seen, p, generator))
        return result


def low_pass(length: int, cutoff: int) -> Tensor:
    """Return the causal low-pass filter `(N, N)` float64: row t has `d(t-s)` in the columns s ≤ t, and 0 in later ones.

    Args:
        length: N, positions of the Fourier transform.
        cutoff: c; the `⌊c/2⌋ + 1` lowest frequencies are kept, at most all of them.

    >>> low_pass(4, 1)[3]  # the mean of all positions
    tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """
    distance = torch.arange(length, dtype=torch.float64)
    kernel = torch.ones(length, dtype=torch.float64)
    for k in range(1, min(cutoff // 2, length // 2) + 1):
        times = 1 if 2 * k == length else 2  # a frequency also counts for its conjugate, except the highest one
        kernel += times * torch.cos(2 * math.pi * k * distance / length)
    lag = (distance[:, None] - distance).long()
    return (kernel / length)[lag.clamp(min=0)].tril()


def _linear(inputs: int, outputs: int, generator: torch.Generator, device: torch.device) -> nn.Linear:
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, device=device)
    normal_(layer.weight, generator, INITIAL_STD)
    nn.init.zeros_(layer.bias)
    return layer
