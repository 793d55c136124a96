"""Statistics of a feature matrix, which is read block by block: norms, constant columns, spread, duplicates, hubs.

In a large catalog, only a sample of items (drawn with a seed) is compared with all other items, which takes about ten
seconds on one core. Memory holds a block of rows, the sample, and 16 bytes for each item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from lirdrec.data.features import FeatureMatrix

BLOCK = 4096  # rows of the matrix that are compared at once
QUERIES = 1024  # rows that are compared with a block at once
BINS = 40  # bars of a histogram
SAMPLE = 2048  # rows that `spread` is computed from; their eigenvalues take seconds
PAIRS = 20_000  # random pairs for the distribution of cosines
WORK = 3e11  # multiplications that comparisons may take
LEAST = 256  # items that are compared at least
NEAR_DUPLICATE = 0.999  # cosine above which two items are near-duplicates
LIST = 10  # neighbors in a list
AGREEMENT_SAMPLE = 1000  # items whose lists are compared between matrices
EXAMPLES = 5


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Return the rows `(n, d)` float32, scaled to length 1; rows of zeros stay zero."""
    rows = np.asarray(values, dtype=np.float32)
    # first divided by the largest value: squares of large float16 features must not overflow
    rows = rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True, initial=0), np.float32(1e-30))
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-30))


def nearest_rows(values: np.ndarray, among: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the `k` nearest neighbors of some rows by cosine; memory never holds all cosines.

    Args:
        values: `(I, d)`, the rows to search.
        among: `(I,)` bool, the rows that can be neighbors.
        queries: `(n,)`, the rows whose neighbors are searched; a row is not its own neighbor.
        k: number of neighbors.

    Returns:
        Rows `(n, k)` int64, nearest first, and their cosines `(n, k)` float32. If there are fewer than k neighbors, the
        rest is -1 and -inf.
    """
    all_rows = np.full((len(queries), k), -1, dtype=np.int64)
    all_cosines = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for first in range(0, len(queries), QUERIES):
        asked = queries[first : first + QUERIES]
        vectors = unit_rows(values[asked])
        rows, best = all_rows[first : first + QUERIES], all_cosines[first : first + QUERIES]
        for start in range(0, len(values), BLOCK):
            block = start + np.flatnonzero(among[start : start + BLOCK])
            if not len(block):
                continue
            cosine = vectors @ unit_rows(values[start : start + BLOCK][block - start]).T
            cosine[asked[:, None] == block] = -np.inf
            candidates = np.broadcast_to(block, cosine.shape)
            if len(block) > k:
                top = np.argpartition(cosine, -k, axis=1)[:, -k:]
                cosine, candidates = np.take_along_axis(cosine, top, axis=1), block[top]
            merged, merged_rows = np.concatenate([best, cosine], axis=1), np.concatenate([rows, candidates], axis=1)
            order = np.lexsort((merged_rows, -merged), axis=1)[:, :k]
            best[:] = np.take_along_axis(merged, order, axis=1)
            rows[:] = np.take_along_axis(merged_rows, order, axis=1)
    all_rows[all_cosines == -np.inf] = -1
    return all_rows, all_cosines


def norms(matrix: FeatureMatrix) -> dict[str, Any]:
    """Return `min`, `median`, `mean`, `max` and a histogram `bins` of the lengths of the vectors; 0 without vectors."""
    lengths = np.zeros(len(matrix))
    for start, block in matrix.blocks():
        lengths[start : start + len(block)] = np.linalg.norm(block.astype(np.float64), axis=1)
    lengths = lengths[matrix.present]
    names = ("min", "median", "mean", "max")
    values = {name: float(getattr(np, name)(lengths)) if len(lengths) else 0.0 for name in names}
    return {**values, "bins": histogram(lengths)}


def histogram(values: np.ndarray, limits: tuple[float, float] | None = None) -> list[dict[str, float]]:
    """Return a histogram: steps of equal width, each with `from`, `to` and `count`.

    Values that are nearly all equal give one step, no values give none. `limits` are the ends of the histogram; by
    default the smallest and the largest value.
    """
    if not len(values):
        return []
    low, high = limits or (float(values.min()), float(values.max()))
    if high - low < 2e-3 * max(abs(low), abs(high), 1e-30):  # all equal, except for rounding to float16: one bar
        return [{"from": low, "to": high, "count": len(values)}]
    counts, edges = np.histogram(values, bins=BINS, range=(low, high))
    steps = zip(pairwise(edges.tolist()), counts.tolist(), strict=True)
    return [{"from": start, "to": end, "count": count} for (start, end), count in steps]


def constant_columns(matrix: FeatureMatrix) -> np.ndarray:
    """Return the numbers of the columns with the same value for all items; empty for fewer than two vectors."""
    if matrix.present.sum() < 2:
        return np.empty(0, dtype=np.int64)
    low = np.full(matrix.dims, np.inf, dtype=np.float32)
    high = -low
    for start, block in matrix.blocks():
        rows = block[matrix.present[start : start + len(block)]]
        if len(rows):
            low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    return np.flatnonzero(low == high)


def spread(matrix: FeatureMatrix, generator: np.random.Generator) -> dict[str, Any]:
    """Compute the effective number of dimensions, and the cosines, of a sample of vectors.

    Returns:
        `sample`: the number of vectors in the sample.
        `effective_rank`: exp of the entropy of the shares that the principal components have of the variance (Roy and
        Vetterli 2007, who use singular values instead of variances).
        `shares`: the share of the variance in the first 1, 2, 4, … components.
        `cosine`: of the cosines of random pairs, the `mean`, the 5 % and 95 % quantiles `low` and `high`, and the
        histogram `bins`; None for fewer than two vectors.
    """
    rows = _sample(np.flatnonzero(matrix.present), SAMPLE, generator)
    values = np.asarray(matrix.values[rows], dtype=np.float64)
    if len(rows) < 2:
        return {"sample": len(rows), "effective_rank": 0.0, "shares": {}, "cosine": None}
    centered = values - values.mean(axis=0)
    centered /= np.abs(centered).max() or 1
    gram = centered @ centered.T if len(rows) < matrix.dims else centered.T @ centered
    variances = np.linalg.eigvalsh(gram)[::-1].clip(min=0)
    total = variances.sum()
    shares = variances / total if total > 0 else np.zeros(0)
    positive = shares[shares > 1e-12]
    counts = [2**power for power in range(32) if 2**power < len(shares)]
    sums = np.cumsum(shares)
    return {
        "sample": len(rows),
        "effective_rank": float(np.exp(-(positive * np.log(positive)).sum())) if len(positive) else 0.0,
        "shares": {str(n): float(sums[n - 1]) for n in counts},
        "cosine": _random_pairs(values, generator),
    }


def duplicates_and_hubs(matrix: FeatureMatrix, generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Find exact duplicates, near-duplicates and hubs (items in many neighbor lists); items are given by row.

    Exact duplicates are found by a hash of all rows. Then one item of each group of equal items is kept, and the `LIST`
    nearest items of a sample of the kept items are searched.

    Returns:
        Duplicates: `groups`, the number of groups of equal items; `items`, the number of items in them; `examples`,
        lists of rows, the largest group first. `near` has `asked`, the number of sampled items; `items`, how many of
        them have a neighbor of cosine > `threshold`; `threshold`; and `examples` (`rows` of two items, `cosine`).
        Hubs: `asked`, the number of lists, one for each sampled item; `k`, the length of a list; `row`, the item that
        is in the most lists (None without lists); `most`, the number of these lists; `by_chance`, how many lists an
        item is in on average; `never`, the share of items in no list (None if not every item was sampled); `bins`, a
        histogram of the cosine of the nearest neighbor.
    """
    groups = copies(matrix)
    among = matrix.present.copy()
    for group in groups:
        among[group[1:]] = False
    candidates = np.flatnonzero(among)
    asked = _sample(candidates, compared(len(candidates), matrix.dims), generator)
    rows, cosines = nearest_rows(matrix.values, among, asked, LIST)
    nearest = cosines[:, 0]
    near = np.flatnonzero(nearest > NEAR_DUPLICATE)
    best = near[np.argsort(-nearest[near], kind="stable")]
    pairs = {tuple(sorted((int(asked[index]), int(rows[index, 0])))): float(nearest[index]) for index in best}
    duplicates = {
        "groups": len(groups),
        "items": sum(len(group) for group in groups),
        "examples": [group[:EXAMPLES].tolist() for group in groups[:EXAMPLES]],
        "near": {
            "threshold": NEAR_DUPLICATE,
            "asked": len(asked),
            "items": len(near),
            "examples": [{"rows": list(pair), "cosine": cosine} for pair, cosine in list(pairs.items())[:EXAMPLES]],
        },
    }
    listed = rows[rows >= 0]
    popular = np.bincount(listed, minlength=len(matrix))
    hubs = {
        "asked": len(asked),
        "k": LIST,
        "most": int(popular.max(initial=0)),
        "row": int(popular.argmax()) if len(listed) else None,
        "by_chance": len(listed) / len(candidates) if len(candidates) else 0.0,
        "never": float((popular[candidates] == 0).mean()) if len(listed) and len(asked) == len(candidates) else None,
        "bins": histogram(nearest[np.isfinite(nearest)], (-1.0, 1.0)),
    }
    return duplicates, hubs


def copies(matrix: FeatureMatrix) -> list[np.ndarray]:
    """Return the groups of rows with identical vectors, the largest group first; rows of a group are in order."""
    digests = np.zeros(len(matrix), dtype="S16")
    for start, block in matrix.blocks():
        block = np.ascontiguousarray(block) + block.dtype.type(0)  # -0 becomes 0
        for index in np.flatnonzero(matrix.present[start : start + len(block)]):
            # a digest that ends in zero bytes is stored without them, and still differs from all others
            digests[start + index] = hashlib.blake2b(block[index].tobytes(), digest_size=16).digest()
    rows = np.flatnonzero(matrix.present)
    order = rows[np.argsort(digests[rows], kind="stable")]
    ends = np.flatnonzero(digests[order][1:] != digests[order][:-1]) + 1
    groups = [group for group in np.split(order, ends) if len(group) > 1]
    return sorted(groups, key=lambda group: (-len(group), int(group[0])))


def agreement(matrices: Mapping[str, FeatureMatrix], generator: np.random.Generator) -> dict[str, Any] | None:
    """Compare each pair of matrices: how much the lists of the `LIST` nearest items of an item overlap, on average.

    A sample of the items with a vector in both matrices is compared.

    Returns:
        None if there are fewer than two matrices, else `k`, the length of a list, and `pairs`. Each pair has the names
        of its matrices `a` and `b`; `asked`, the number of sampled items; `overlap` from 0 to 1; and `by_chance`, the
        overlap of random lists. The last two are None if fewer than two items have a vector in both matrices.
    """
    pairs = []
    for a, b in combinations(matrices, 2):
        both = matrices[a].present & matrices[b].present
        n = int(both.sum())
        effort = compared(n, matrices[a].dims + matrices[b].dims)
        asked = _sample(np.flatnonzero(both), min(AGREEMENT_SAMPLE, effort), generator)
        overlap = chance = None
        if n > 1:
            first, second = (nearest_rows(matrices[name].values, both, asked, LIST)[0] for name in (a, b))
            same = (first[:, :, None] == second[:, None, :]) & (first >= 0)[:, :, None]
            overlap = float(same.sum() / max(1, (first >= 0).sum()))
            chance = min(1.0, LIST / (n - 1))
        pairs.append({"a": a, "b": b, "asked": len(asked), "overlap": overlap, "by_chance": chance})
    return {"k": LIST, "pairs": pairs} if pairs else None


def compared(n_items: int, dims: int) -> int:
    """Return how many items to compare with all `n_items` items: at most so many as take `WORK` multiplications.

    At least `LEAST` items are compared, if there are so many.
    """
    return min(n_items, max(LEAST, int(WORK / (2 * max(1, n_items) * dims))))


def _random_pairs(values: np.ndarray, generator: np.random.Generator) -> dict[str, Any]:
    first = generator.integers(len(values), size=PAIRS)
    second = (first + generator.integers(1, len(values), size=PAIRS)) % len(values)
    units = unit_rows(values)
    blocks = [slice(index, index + 2048) for index in range(0, PAIRS, 2048)]
    cosine = np.concatenate([np.einsum("ij,ij->i", units[first[block]], units[second[block]]) for block in blocks])
    low, high = np.quantile(cosine, [0.05, 0.95]).tolist()
    return {"mean": float(cosine.mean()), "low": low, "high": high, "bins": histogram(cosine, (-1.0, 1.0))}


def _sample(rows: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Return `n` of the rows, drawn at random, in their order; all rows if there are not more."""
    return rows if len(rows) <= n else np.sort(generator.choice(rows, n, replace=False))
