r"""A causal transformer over sequences of vectors, for models of ordered histories.

It has pre-norm blocks (Xiong et al., ICML 2020) with multi-head attention (Vaswani et al., 2017), in which a position
does not see later positions. LN is layer normalization, L the number of blocks:

    h_0 = LN(dropout(x + position + gap))
    a_l = h_{l-1} + dropout(Attention(LN(h_{l-1})))
    h_l = a_l + dropout(W2 gelu(W1 LN(a_l) + b1) + b2)
    output = LN(h_L)

`groups` transformers of the same shape run side by side, each with its own weights; with one group it is an ordinary
transformer. Sequences are padded at the end. A causal network does not read later positions, so the padding needs no
mask.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.nn.init import normal_, xavier_uniform_
from lirdrec.nn.normalize_and_dropout import dropout

N_GAPS = 40  # classes of the time between two items: unknown, 0, and powers of two
ROTARY_BASE = 10_000.0
POSITION_STD = 0.02  # of the initial position and gap vectors


class GroupedLinear(nn.Module):
    """`x W_g + b_g` for each group `g`: `(G, N, inputs)` → `(G, N, outputs)`.

    Args:
        groups: G.
        inputs, outputs: numbers of columns.
        generator: for the initial weights (Xavier uniform); biases start at 0.
        device: the device of the parameters.
    """

    def __init__(self, groups: int, inputs: int, outputs: int, generator: torch.Generator, device: torch.device):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, inputs, outputs, device=device))
        self.bias = nn.Parameter(torch.zeros(groups, 1, outputs, device=device))
        xavier_uniform_(self.weight, generator, inputs, outputs)

    def forward(self, x: Tensor, columns: slice = slice(None)) -> Tensor:
        weight, bias = self.weight[..., columns], self.bias[..., columns]
        if len(weight) == 1:  # the product of one matrix is faster than that of a batch of one
            return torch.addmm(bias[0], x[0], weight[0])[None]
        return torch.baddbmm(bias, x, weight)


class GroupedNorm(nn.Module):
    """Layer normalization over the last axis of `(G, …, width)`; each group has its own scale and shift."""

    def __init__(self, groups: int, width: int, device: torch.device):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(groups, width, device=device))
        self.shift = nn.Parameter(torch.zeros(groups, width, device=device))

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        if len(self.scale) == 1:
            return F.layer_norm(x, (width,), self.scale[0], self.shift[0], eps=1e-5)
        shape = (len(self.scale), *(1 for _ in x.shape[1:-1]), width)
        return torch.addcmul(self.shift.view(shape), F.layer_norm(x, (width,), eps=1e-5), self.scale.view(shape))


class _Block(nn.Module):
    def __init__(
        self, groups: int, width: int, hidden: int, n_heads: int, generator: torch.Generator, device: torch.device
    ):
        super().__init__()
        self.n_heads = n_heads
        self.norm_attention = GroupedNorm(groups, width, device)
        self.attention_input = GroupedLinear(groups, width, 3 * width, generator, device)  # queries, keys, values
        self.attention_output = GroupedLinear(groups, width, width, generator, device)
        self.norm_hidden = GroupedNorm(groups, width, device)
        self.hidden = GroupedLinear(groups, width, hidden, generator, device)
        self.output = GroupedLinear(groups, hidden, width, generator, device)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, p: float, generator: torch.Generator | None
    ) -> Tensor:
        groups, n, length, width = x.shape
        tokens = self.attention_input(self.norm_attention(x).reshape(groups, n * length, width))
        q, k, v = tokens.view(groups * n, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)  # (G·n, heads, T, c)
        if rotation is not None:
            q, k = _rotated(q, rotation), _rotated(k, rotation)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        seen = self.attention_output(seen.transpose(1, 2).reshape(groups, n * length, width))
        x = x + (seen if generator is None else dropout(seen, p, generator)).view_as(x)
        hidden = F.gelu(self.hidden(self.norm_hidden(x).reshape(groups, n * length, width)))
        hidden = self.output(hidden)
        return x + (hidden if generator is None else dropout(hidden, p, generator)).view_as(x)

    def at(self, x: Tensor, last: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the output `(G, n, width)` of `forward`, without dropout, at the position `last` of each sequence."""
        groups, n, length, width = x.shape
        tokens, here = self.norm_attention(x), torch.arange(n, device=x.device)
        q = self.attention_input(tokens[:, here, last], slice(width)).view(groups * n, 1, self.n_heads, -1)
        keys = self.attention_input(tokens.reshape(groups, n * length, width), slice(width, None))
        k, v = keys.view(groups * n, length, 2, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        q = q.transpose(1, 2)  # (G·n, heads, 1, c)
        if rotation is not None:
            own = tuple(part[last].repeat(groups, 1)[:, None, None] for part in rotation)
            q, k = _rotated(q, (own[0], own[1])), _rotated(k, rotation)
        past = torch.arange(length, device=x.device) <= last[:, None]
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=past.repeat(groups, 1)[:, None, None])
        x = x[:, here, last] + self.attention_output(seen.transpose(1, 2).reshape(groups, n, width))
        return x + self.output(F.gelu(self.hidden(self.norm_hidden(x))))


class CausalTransformer(nn.Module):
    """A causal transformer as described at the top of this file: `(G, n, T, width)` → `(G, n, T, width)`.

    Args:
        width: columns of each group, a multiple of `n_heads`.
        n_layers: L, the number of blocks.
        n_heads: attention heads of a block.
        hidden: columns of a block's hidden layer.
        max_length: largest T with learned positions.
        generator: for the initial parameters.
        groups: G.
        positions: "learned": a vector for each position from the start of the sequence; "rotary": queries and keys are
            turned by an angle that grows with the position (Su et al., 2021, arXiv 2104.09864); "none".
        gaps: whether `forward` takes the classes of the time since the previous item (`gap_classes`).
        dropout: share of entries set to 0 in training.
        device: the device of the parameters.

    >>> net = CausalTransformer(8, 1, 2, 16, max_length=5, generator=torch.Generator().manual_seed(0))
    >>> net(torch.rand(1, 3, 5, 8)).shape
    torch.Size([1, 3, 5, 8])
    """

    def __init__(
        self,
        width: int,
        n_layers: int,
        n_heads: int,
        hidden: int,
        *,
        max_length: int,
        generator: torch.Generator,
        groups: int = 1,
        positions: Literal["learned", "rotary", "none"] = "learned",
        gaps: bool = False,
        dropout: float = 0.0,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        device = torch.device(device)
        self.n_heads, self.positions, self.has_gaps, self.dropout = n_heads, positions, gaps, dropout

        def table(rows: int) -> nn.Parameter:
            vectors = nn.Parameter(torch.empty(groups, rows, width, device=device))
            normal_(vectors, generator, POSITION_STD)
            return vectors

        if positions == "learned":
            self.position = table(max_length)
        if gaps:
            self.gap = table(N_GAPS)
        self.norm_input = GroupedNorm(groups, width, device)
        self.blocks = nn.ModuleList(_Block(groups, width, hidden, n_heads, generator, device) for _ in range(n_layers))
        self.norm_output = GroupedNorm(groups, width, device)

    def forward(self, x: Tensor, gaps: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Return the states `(G, n, T, width)`; state t depends on the positions up to t.

        Args:
            x: `(G, n, T, width)`.
            gaps: `(n, T)` int64 classes of the time since the previous item; None: all are unknown (class 0).
            generator: for the dropout in training; None: no dropout.
        """
        if not self.training:
            generator = None
        x, rotation = self._first(x, gaps, generator)
        for block in self.blocks:
            x = block(x, rotation, self.dropout, generator)
        return self.norm_output(x)

    def at(self, x: Tensor, last: Tensor, gaps: Tensor | None = None) -> Tensor:
        """Return the states `(G, n, width)` at one position of each sequence, without dropout; cheaper than `forward`.

        Args:
            x, gaps: as in `forward`; entries after the position have no effect.
            last: `(n,)` int64 positions.
        """
        x, rotation = self._first(x, gaps, None)
        if not len(self.blocks):
            return self.norm_output(x[:, torch.arange(len(last), device=x.device), last])
        for block in self.blocks[:-1]:
            x = block(x, rotation, 0.0, None)
        final = self.blocks[-1]
        assert isinstance(final, _Block)
        return self.norm_output(final.at(x, last, rotation))

    def _first(
        self, x: Tensor, gaps: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the input of the first block, and the rotation of each position, or None without rotary positions."""
        length = x.shape[2]
        if self.positions == "learned":
            x = x + self.position[:, None, :length]
        if self.has_gaps:
            classes = torch.zeros(x.shape[1:3], dtype=torch.int64, device=x.device) if gaps is None else gaps
            flat = self.gap.index_select(1, classes.reshape(-1))
            x = x + flat.view(len(flat), *classes.shape, -1)
        x = self.norm_input(self._dropped(x, generator))
        rotation = _angles(length, x.shape[3] // self.n_heads, x.device) if self.positions == "rotary" else None
        return x, rotation

    def _dropped(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return x if generator is None else dropout(x, self.dropout, generator)


def gap_classes(times: Tensor) -> Tensor:
    """Return the class `(n, T)` int64 of the time between each item and the previous item, the gap.

        0                       unknown; the class of a first item
        1                       equal times
        2 + ⌊log2 gap⌋          later times, at most 39

    Another unit of time than seconds shifts the classes of all later times by about the same number.

    Args:
        times: `(n, T)` int64, ascending in each row.
    """
    gap = times.diff(dim=1).clamp(min=0)
    classes = torch.where(gap > 0, 2 + gap.clamp(min=1).double().log2().floor().long(), 1).clamp(max=N_GAPS - 1)
    return F.pad(classes, (1, 0))


def _angles(length: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines `(T, width/2)` of the rotation of each position."""
    rates = ROTARY_BASE ** (-torch.arange(0, width - width % 2, 2, device=device) / width)
    angle = torch.arange(length, device=device)[:, None] * rates
    return angle.cos(), angle.sin()


def _rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Return the vectors `(…, T, width)` with pairs of columns rotated by the angle of their position."""
    cos, sin = rotation
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)
