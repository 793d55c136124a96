r"""Losses of several models: BPR, full and sampled softmax, InfoNCE, penalties, and `RankingLoss`, which selects one.

A model trained on pairs has a config derived from `RankingOptions` and a `RankingLoss` made from it. Softmax compares
cosines in training. When scoring, inner products (Wu et al. 2022) also use the norm of an item vector, which reflects
the item's popularity. Which is better depends on the model and its layers (docs/which_model.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lirdrec.autograd_function_base import AutogradFunction
from lirdrec.config import check_minimum, option, validated
from lirdrec.errors import ConfigError
from lirdrec.nn.normalize_and_dropout import normalize
from lirdrec.parallel.ranks_and_shards import ONE, WHOLE, Ranks, Shard, Shards
from lirdrec.ranking.histories import PairWeights

BLOCK_BYTES = 8 * 2**20  # size of the logits of a block; blocks that fit the CPU cache are twice as fast as 64 MiB
DEVICE_BLOCK_BYTES = 512 * 2**20  # the same on a GPU, which would wait for the CPU between small blocks


@dataclass(frozen=True)
@validated
class RankingOptions:
    """Options of the ranking loss, the first fields of the configs of all models trained on pairs."""

    loss: Literal["bpr", "softmax"] = option(
        "bpr", "bpr: one negative per pair, inner products; softmax: cross-entropy over many items, on cosines"
    )
    temperature: float = option(0.15, "τ of softmax: cosines are divided by it")
    n_negatives: int | None = option(
        None, "softmax: number of negatives that a batch shares, at most one per pair; none: all items of training"
    )

    scoring: Literal["product", "cosine"] = option(
        "product", "how a trained model compares vectors; cosine treats items without interactions equally"
    )

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}; it must be more than 0")
        if self.n_negatives is not None and self.n_negatives < 1:
            raise ConfigError(f"n_negatives is {self.n_negatives}; it must be 1 or more, or none for all items")


@dataclass(frozen=True)
@validated
class PenaltyOptions(RankingOptions):
    """Options of models that penalize the vectors of each batch with a weighted `batch_penalty`."""

    regularization: float = option(1e-4, "λ of the penalty on the vectors of a batch")
    penalty: Literal["norm", "squared"] = option(
        "norm", "norm: lengths, not squared (MMRec); squared: half the squares, as the papers write it"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 0, "regularization")


def occurring_items(items: Tensor, n_items: int) -> tuple[Tensor, Tensor]:
    """Return the distinct items `(p,)` int64, ascending, and the index of each item row among them, `(n_items,)`.

    The index is -1 for rows that do not occur in `items`.

    >>> occurring_items(torch.tensor([4, 1, 4]), 5)
    (tensor([1, 4]), tensor([-1,  0, -1, -1,  1]))
    """
    occurring = items.unique()
    index = torch.full((n_items,), -1, dtype=torch.int64, device=items.device)
    index[occurring] = torch.arange(len(occurring), device=items.device)
    return occurring, index


class RankingLoss:
    """The ranking loss that `options` select (BPR or softmax), as a function of user and item vectors.

    Args:
        options: the config of a model.
        items: `(E,)` int64, items of the training pairs; only these can be negatives of the softmax.
        n_items: number of item rows.
        weights: weights of the training pairs in the mean over the pairs of a batch; None: a plain mean.
        shards: the rows of users and items that this rank (process) holds. With several ranks, the vectors have these
            rows only, and the loss is the share of this rank.
    """

    def __init__(
        self,
        options: RankingOptions,
        items: Tensor,
        n_items: int,
        weights: PairWeights | None = None,
        shards: Shards = WHOLE,
    ):
        self.options, self.pair_weights, self.shards = options, weights, shards
        occurring, self.index_in_pool = occurring_items(items, n_items)
        self.pool = None if len(occurring) == n_items else occurring
        self.pool_shard = shards.items
        if self.pool is not None and shards.ranks.size > 1:
            self.pool_shard = shards.items.among(occurring)
            self.pool = occurring[self.pool_shard.rows] - shards.items.start

    def __call__(
        self,
        user_vectors: Tensor,
        item_vectors: Tensor,
        users: Tensor,
        positives: Tensor,
        negatives: Tensor,
        among: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss of a batch, a scalar; with several ranks, the share of this rank.

        Args:
            user_vectors: `(U, D)`.
            item_vectors: `(I, D)`, or `(n, D)` with `among`.
            users, positives, negatives: `(B,)` int64 rows. BPR compares each pair with its own negative. Softmax with
                `n_negatives` compares all pairs with the first `n_negatives` negatives; without, it uses none.
            among: `(n,)` int64, ascending: the items of the batch, if `item_vectors` has only these; None: it has all
                items. Cannot be used for softmax over all items.
        """
        weights, shards = self.weights_of(users, positives), self.shards
        if among is not None:
            shards = Shards(shards.users, shards.items.among(among))
            positives, negatives = torch.searchsorted(among, positives), torch.searchsorted(among, negatives)
        if self.options.loss == "bpr":
            return bpr(user_vectors, item_vectors, users, positives, negatives, weights, shards)
        temperature, n = self.options.temperature, self.options.n_negatives
        # gather first, then normalize: a batch has few of the users
        if n is not None:
            queries = normalize(shards.users.gather(user_vectors, users))
            shared = negatives[:n]
            hit = shared == positives[:, None]
            loss = sampled_softmax(
                queries,
                normalize(shards.items.gather(item_vectors, positives)),
                normalize(shards.items.gather(item_vectors, shared)),
                temperature,
                hit,
                weights,
            )
            return shards.ranks.share(loss)
        items = normalize(item_vectors if self.pool is None else item_vectors.index_select(0, self.pool))
        once, rows = users.unique(return_inverse=True)
        queries = normalize(shards.users.gather(user_vectors, once))
        targets, pool = self.index_in_pool[positives], self.pool_shard
        return full_softmax(queries, items, targets, temperature, rows=rows, weights=weights, shard=pool)

    def weights_of(self, users: Tensor, positives: Tensor) -> Tensor | None:
        """Return the weights `(B,)` of training pairs, or None if all pairs have the same weight."""
        return None if self.pair_weights is None else self.pair_weights.of(users, positives)

    def transform_for_scoring(self, vectors: Tensor) -> Tensor:
        """Return user or item vectors `(n, D)` as the scorer compares them: normalized for cosines, else unchanged."""
        return normalize(vectors) if self.options.scoring == "cosine" else vectors


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the weighted mean `Σ w x / Σ w` of values `(B,)`, a scalar; without weights, the plain mean.

    >>> weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0])).item()
    2.0
    """
    return values.mean() if weights is None else (values * weights).sum() / weights.sum()


def bpr(
    user_vectors: Tensor,
    item_vectors: Tensor,
    users: Tensor,
    positives: Tensor,
    negatives: Tensor,
    weights: Tensor | None = None,
    shards: Shards = WHOLE,
) -> Tensor:
    r"""Return the Bayesian personalized ranking loss `-mean log σ(⟨u, i⟩ - ⟨u, j⟩)` (Rendle et al., UAI 2009).

    MMRec's MF, LightGCN and VBPR have `-mean log(γ + σ(x))` with `γ = 1e-10`, which avoids the logarithm of zero. It is
    not needed here, since `softplus(-x)` is exact. It also limits the loss to 23, and pairs that are ranked wrongly by
    more than about 20 lose their gradient; here they keep a gradient of 1. Above `x = -10` the two agree to 1e-5.

    Args:
        user_vectors: `(U, D)`.
        item_vectors: `(I, D)`.
        users, positives, negatives: `(B,)` int64 rows.
        weights: `(B,)` float, weights of the pairs in the mean, or None.
        shards: with several ranks, the rows that the vectors belong to; the result is the share of this rank.
    """
    u = shards.users.gather(user_vectors, users)
    difference = shards.items.take(item_vectors, positives) - shards.items.take(item_vectors, negatives)
    margin = shards.ranks.sum((u * difference).sum(1))
    return shards.ranks.share(weighted_mean(F.softplus(-margin), weights))


def batch_penalty(kind: Literal["norm", "squared"], rows: Sequence[Tensor], ranks: Ranks = ONE) -> Tensor:
    r"""Return the penalty of the vectors of a batch, a scalar.

        norm       Σ_k ‖X_k‖_F / B         MMRec
        squared    Σ_k ‖X_k‖_F² / 2B       He et al., 2020

    Args:
        kind: "norm" or "squared".
        rows: the vectors `X_k` `(B, D)` of users, positives and negatives. A row that occurs twice counts twice.
        ranks: with several ranks, rows that other ranks hold are zero here, and the result is the share of this rank.
    """
    if kind == "norm":
        return ranks.share(torch.stack([ranks.norm(x) for x in rows]).sum()) / len(rows[0])
    return torch.stack([x.square().sum() for x in rows]).sum() / (2 * len(rows[0]))


def batch_rows(
    user_vectors: Tensor,
    item_vectors: Tensor,
    users: Tensor,
    positives: Tensor,
    negatives: Tensor,
    shards: Shards = WHOLE,
) -> list[Tensor]:
    """Return the vectors of users, positives and negatives of a batch, `(B, D)` each, for `batch_penalty`.

    The arguments are those of `bpr`.
    """
    return [
        shards.users.take(user_vectors, users),
        *(shards.items.take(item_vectors, rows) for rows in (positives, negatives)),
    ]


def sampled_softmax(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    excluded: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Return the softmax loss over sampled negatives, a scalar (Wu et al., 2022, arXiv 2201.02327).

        -mean log( e^{⟨q,p⟩/τ} / (e^{⟨q,p⟩/τ} + Σ_j e^{⟨q,n_j⟩/τ}) )

    Uniformly sampled negatives need no correction, because it would be the same constant for all of them.

    Args:
        queries, positives: `(B, D)`, q and p.
        negatives: `(N, D)`, n_j, shared by the batch.
        temperature: τ.
        excluded: `(B, N)` bool, negatives that are left out for a query because they are its positive.
        weights: `(B,)` float, weights of the queries in the mean, or None.
    """
    positive_logits = (queries * positives).sum(1) / temperature
    logits = queries @ negatives.T / temperature
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    return weighted_mean(torch.logaddexp(positive_logits, logits.logsumexp(1)) - positive_logits, weights)


def full_softmax(
    queries: Tensor,
    items: Tensor,
    targets: Tensor,
    temperature: float,
    excluded: Tensor | None = None,
    rows: Tensor | None = None,
    weights: Tensor | None = None,
    shard: Shard = WHOLE.items,
) -> Tensor:
    r"""Return the cross-entropy over all items, `-mean log softmax(q Vᵀ / τ)[target]`, in blocks of queries.

    One pass computes loss and gradients, so no `Q×I` matrix is kept. A query with `n_q` targets is compared once:

        loss = (Σ_q n_q log Σ_i e^{⟨q,v_i⟩/τ} - Σ_b ⟨q_b,v_b⟩/τ) / B

    Args:
        queries: `(Q, D)`, q.
        items: `(I, D)`, V.
        targets: `(B,)` int64 rows of `items`.
        temperature: τ.
        excluded: `(Q,)` int64, the one row of `items` that is left out for each query, or None.
        rows: `(B,)` int64, the query of each target; None: target b belongs to query b.
        weights: `(B,)` float, weights of the targets in the mean; None: all have the same weight.
        shard: with several ranks, the rows of the item table that `items` holds. Queries and targets are the same on
            all ranks; the result is the share of this rank (Shoeybi et al., 2019, arXiv 1909.08053).
    """
    full = torch.promote_types(torch.promote_types(queries.dtype, items.dtype), torch.float32)  # autocast mixes them
    queries, items = queries.to(full), items.to(full)
    times: Tensor | None
    if weights is not None:
        weights = weights.to(full)
        times = weights if rows is None else weights.new_zeros(len(queries)).index_add(0, rows, weights)
    else:
        # not bincount, for which the host waits for a GPU
        times = (
            None if rows is None else queries.new_zeros(len(queries)).index_add_(0, rows, queries.new_ones(len(rows)))
        )
    target_queries = queries if rows is None else queries.index_select(0, rows)
    target_logits = (target_queries * shard.take(items, targets)).sum(1) / temperature
    log_partition: Tensor = _LogSumExp.apply(queries, items, times, temperature, excluded, shard)
    total = len(targets) if weights is None else weights.sum()
    return log_partition / total - weighted_mean(target_logits, weights)


def info_nce(
    a: Tensor,
    b: Tensor,
    temperature: float,
    rows: Tensor | None = None,
    within: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Return the InfoNCE loss, a scalar: row i of `a` must find row i of `b` among all rows of `b`.

        -mean_i log( e^{cos(a_i,b_i)/τ} / Σ_j e^{cos(a_i,b_j)/τ} )

    Args:
        a, b: `(n, D)`, two views of the same entities; they need not be normalized.
        temperature: τ.
        rows: `(m,)` int64, the rows of `a` that are queries; None: all. All `n` rows of `b` are always candidates.
        within: whether the other rows of `a` are candidates too (Zhu et al., 2020, arXiv 2006.04131).
        weights: `(n,)` or `(m,)` float, weights of the queries in the mean, or None.
    """
    queries = normalize(a if rows is None else a.index_select(0, rows))
    targets = torch.arange(len(b), device=b.device) if rows is None else rows
    if within:
        candidates = torch.cat([normalize(b), normalize(a)])
        return full_softmax(queries, candidates, targets, temperature, excluded=len(b) + targets, weights=weights)
    return full_softmax(queries, normalize(b), targets, temperature, weights=weights)


class _LogSumExp(AutogradFunction):
    """`Σ_q n_q log Σ_i e^{⟨q,v_i⟩/τ}`, a scalar, with its gradients in one pass over blocks of queries."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        items: Tensor,
        times: Tensor | None,
        temperature: float,
        excluded: Tensor | None,
        shard: Shard,
    ) -> Tensor:
        kind = queries.device.type
        # under autocast the products run in bfloat16; everything between them stays in full precision
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else queries.dtype
        total = queries.new_zeros((), dtype=torch.float64)
        needed = queries.requires_grad or items.requires_grad
        g_queries, g_items = (torch.zeros_like(x) if needed else None for x in (queries, items))
        ranks = shard.ranks
        n_columns = len(items) if ranks.size == 1 else shard.longest  # all ranks take the same blocks
        block_bytes = BLOCK_BYTES if kind == "cpu" else DEVICE_BLOCK_BYTES
        step = max(1, block_bytes // (n_columns * queries.element_size()))
        with torch.autocast(kind, enabled=False):
            short_items = items.to(low)
            for start in range(0, len(queries), step):
                rows = slice(start, start + step)
                short = queries[rows].to(low)
                logits = (short @ short_items.T).to(queries.dtype).div_(temperature)  # (b, I)
                if excluded is not None:
                    logits.scatter_(1, excluded[rows, None], -torch.inf)
                # a rank may have none of the items
                largest = logits.amax(1, keepdim=True) if len(items) else logits.new_full((len(logits), 1), -torch.inf)
                p = logits.sub_(largest).exp_()
                mass = p.sum(1, keepdim=True)
                log_sum = mass.log() + largest
                if ranks.size > 1:
                    own, log_sum = log_sum, ranks.log_sum_exp(log_sum)
                    mass *= (log_sum - own).exp_()
                if times is not None:
                    log_sum *= times[rows, None]
                    mass /= times[rows, None]
                total += log_sum.sum(dtype=torch.float64)
                if g_queries is not None and g_items is not None:
                    p = p.div_(mass).to(low)
                    g_queries[rows] = p @ short_items
                    if low == queries.dtype:
                        g_items.addmm_(p.T, short)
                    else:
                        g_items += p.T @ short
        ctx.save_for_backward(g_queries, g_items)
        ctx.scale = 1 / temperature
        return ranks.share(total).to(queries.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # the saved gradients have the terms of this rank's items in the gradient of the whole sum
        g_queries, g_items = ctx.saved_tensors
        scale = gradient * ctx.scale
        return g_queries * scale, g_items * scale, None, None, None, None
