"""Ranking metrics, computed from a matrix that says which recommended items are relevant."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from lirdrec.errors import ConfigError
from lirdrec.evaluation.beyond_accuracy import AUC, BEYOND

PER_USER = ("recall", "ndcg", "precision", "map", "mrr", "hit")
PER_LIST = ("coverage", "popularity", "gini")
SELECTING = PER_USER + PER_LIST  # metrics that may choose the best epoch
ALL_METRICS = (*SELECTING, *BEYOND, AUC)
ALIASES = {"hit_rate": "hit"}


def canonical_metric(name: str) -> str:
    """Return the name under which results have a metric: `"hit_rate"` → `"hit"`, `"hit_rate@10"` → `"hit@10"`."""
    base, separator, cutoff = name.partition("@")
    return ALIASES.get(base, base) + separator + cutoff


def check_metrics(names: Sequence[str], known: Sequence[str] = ALL_METRICS) -> None:
    """Raise a ConfigError for a name that is not among the known metrics."""
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown metric '{name}'; known: {', '.join(known)}")


def split_name(metric: str) -> tuple[str, int]:
    """Split the metric that chooses the best epoch into its name and its cut-off: `"recall@20"` → `("recall", 20)`.

    Raises:
        ConfigError: the metric has another form, or is not one of `SELECTING`, which may choose the best epoch.
    """
    match = re.fullmatch(r"([a-z]+)@([1-9][0-9]{0,17})", metric)
    if match is None:
        shown = metric if len(metric) <= 100 else f"{metric[:100]}…"
        raise ConfigError(f"metric '{shown}' must be a name and a cut-off, for instance recall@20")
    check_metrics([match[1]], SELECTING)
    return match[1], int(match[2])


def per_user_metrics(hits: Tensor, relevant: Tensor, names: Sequence[str], cutoffs: Sequence[int]) -> dict[str, Tensor]:
    """Compute accuracy metrics of recommendation lists: `name@k` → values `(B,)` float64, one for each user.

    Args:
        hits: `(B, K)` bool, whether the item at each rank is relevant; `K ≥ max(cutoffs)`.
        relevant: `(B,)` int64, number of relevant items, at least 1.
        names: among recall, ndcg, precision, map, mrr, hit. r_j is 1 if the item at rank j is relevant, else 0; n is
            the number of relevant items; sums are over the ranks 1 to k:
            recall = Σ r_j / n
            precision = Σ r_j / k
            hit = 1 if Σ r_j > 0, else 0
            mrr = 1 / rank of the first hit
            ndcg = Σ r_j / log2(j + 1), divided by its largest value with min(k, n) hits
            map = Σ r_j · (precision at j) / min(k, n); trec_eval divides by n instead.
        cutoffs: the values of k.
    """
    hits = hits.double()
    n = hits.shape[1]
    ranks = torch.arange(1, n + 1, dtype=torch.float64, device=hits.device)
    n_hits = hits.cumsum(1)
    discount = 1 / (ranks + 1).log2()
    values: dict[str, Tensor] = {}
    gain = (hits * discount).cumsum(1) if "ndcg" in names else None
    precisions = (hits * n_hits / ranks).cumsum(1) if "map" in names else None
    best_gain = torch.cat([discount.new_zeros(1), discount.cumsum(0)])
    for k in cutoffs:
        hits_at_k = n_hits[:, k - 1]
        ideal = relevant.clamp(max=k)
        if "recall" in names:
            values[f"recall@{k}"] = hits_at_k / relevant
        if gain is not None:
            values[f"ndcg@{k}"] = gain[:, k - 1] / best_gain[ideal]
        if "precision" in names:
            values[f"precision@{k}"] = hits_at_k / k
        if precisions is not None:
            values[f"map@{k}"] = precisions[:, k - 1] / ideal
        if "mrr" in names:
            values[f"mrr@{k}"] = (hits[:, :k] / ranks[:k]).max(dim=1).values
        if "hit" in names:
            values[f"hit@{k}"] = (hits_at_k > 0).double()
    return values


def list_metrics(counts: Tensor, popularity: Tensor, name: str) -> float:
    """Compute one number that describes the recommended lists of all users together.

    Args:
        counts: `(c,)` int64, number of times each candidate item was recommended.
        popularity: `(c,)` number of training users of each candidate.
        name: "coverage": share of the candidates recommended to anyone; "popularity": mean training users of a
            recommended item; "gini": 0 if all are recommended equally often, near 1 if only a few are recommended.
    """
    counts = counts.double()
    total = counts.sum().clamp(min=1)
    if name == "coverage":
        return float((counts > 0).double().mean())
    if name == "popularity":
        return float((counts * popularity.double()).sum() / total)
    ordered = counts.sort().values
    ranks = torch.arange(1, len(ordered) + 1, dtype=torch.float64, device=counts.device)
    return float((2 * ranks - len(ordered) - 1).mul(ordered).sum() / (len(ordered) * total))
