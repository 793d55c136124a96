r"""Statistics over runs: mean and sd over seeds, paired tests over users, Holm's correction, gains in percent.

The sd over seeds shows how a metric varies when training is repeated; tests over users show whether two models differ
on this test set. Each user's value is averaged over the seeds first. Then the difference of our model to the other
one for user u, `d_u = ours_u - theirs_u`, is tested against zero, two-sided, by Student's t-test and by Wilcoxon's
signed-rank test (without users whose difference is 0).

Holm's correction (1979) of m ascending p-values p_(0) ≤ p_(1) ≤ … replaces p_(i) by

    max_{j ≤ i} min(1, (m - j) p_(j))
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lirdrec.errors import DataError

if TYPE_CHECKING:
    import polars as pl

Key = TypeVar("Key", bound=Hashable)
USER = "user"
ALPHA = 0.01
RESAMPLES = 1000  # resamples of a bootstrap
DRAWN_TOGETHER = 50  # resamples in memory at once, as `(50, n)` counts of the n users
# the order of the seeds changes the last bits of an average; rounding removes this difference
DECIMALS = 12


@dataclass(frozen=True)
class Measure:
    """Mean and standard deviation of a metric over `n` runs.

    Attributes:
        sd: standard deviation of the runs (n - 1 in the denominator), not of the mean; None for a single run.
        marks: symbols after the value in a table, explained in the table's notes.
    """

    mean: float
    sd: float | None = None
    n: int = 1
    marks: str = ""

    @classmethod
    def of(cls, values: Iterable[float], marks: str = "") -> Measure | None:
        """Return mean and sd of `values`, without NaN and None; return None if no value remains."""
        kept = np.array([value for value in values if value is not None and not math.isnan(value)], dtype=np.float64)
        if not len(kept):
            return None
        return cls(float(kept.mean()), float(kept.std(ddof=1)) if len(kept) > 1 else None, len(kept), marks)


@dataclass(frozen=True)
class PairedTest:
    """Results of the paired tests of two models on the same users.

    Attributes:
        n: number of users.
        difference: mean of ours - theirs.
        low, high: 95 % confidence interval of the difference (Student's t).
        t, t_p: statistic and two-sided p-value of the paired t-test.
        w, w_p: statistic and two-sided p-value of Wilcoxon's signed-rank test.
    """

    n: int
    difference: float
    low: float
    high: float
    t: float
    t_p: float
    w: float
    w_p: float


@dataclass(frozen=True)
class Comparison:
    """The test of our model against the model `theirs` on one metric.

    Attributes:
        t_p_holm, w_p_holm: the p-values of `test`, corrected over all tests that were made together.
    """

    theirs: str
    metric: str
    test: PairedTest
    t_p_holm: float
    w_p_holm: float

    def significant(self) -> int:
        """Return 1 if our model has a higher mean, -1 if the other one has; 0 unless both corrected p-values are small.

        Small is less than `ALPHA`.
        """
        if self.t_p_holm < ALPHA and self.w_p_holm < ALPHA:
            return 1 if self.test.difference > 0 else -1
        return 0


def paired(ours: np.ndarray, theirs: np.ndarray) -> PairedTest:
    """Return the paired t-test and Wilcoxon's signed-rank test of two models' values for the same users.

    Args:
        ours, theirs: `(n,)` one value for each user, in the same order of users.

    Raises:
        DataError: the lengths differ, or there are fewer than two users.
    """
    from scipy import stats

    if len(ours) != len(theirs) or len(ours) < 2:
        raise DataError(
            f"a paired test needs values of the same users, two or more; there are {len(ours)} and {len(theirs)} values"
        )
    d = np.round(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64), DECIMALS)
    n, mean = len(d), float(d.mean())
    if not d.any():
        return PairedTest(n, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0)
    if np.all(d == d[0]):  # the same gain for every user: the variance is 0
        low, high, t, t_p = mean, mean, math.copysign(math.inf, mean), 0.0
    else:
        test = stats.ttest_1samp(d, 0.0)
        (low, high), t, t_p = test.confidence_interval(0.95), test.statistic, test.pvalue
    ranks = stats.wilcoxon(d, zero_method="wilcox", alternative="two-sided")
    return PairedTest(n, mean, *map(float, (low, high, t, t_p, ranks.statistic, ranks.pvalue)))


def bootstrap_intervals(columns: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Return the 95 % percentile bootstrap interval of each column's mean (Efron, 1979).

    The users are drawn with replacement. All columns have the same users and draws, so the interval of a column
    does not depend on other columns.

    Args:
        columns: name → `(n,)` values of the users; NaN where a user has no value, and is left out.

    >>> low, high = bootstrap_intervals({"recall@20": np.array([0.0, 1.0] * 50)})["recall@20"]
    >>> 0.39 < low < 0.42 and 0.58 < high < 0.61
    True
    """
    if not columns:
        return {}
    table = np.stack([np.asarray(column, dtype=np.float64) for column in columns.values()], axis=1)  # (n, m)
    n, known = len(table), ~np.isnan(table)
    if not n:
        return {name: (math.nan, math.nan) for name in columns}
    filled, rng = np.where(known, table, 0.0), np.random.default_rng(0)
    means = np.empty((RESAMPLES, len(columns)))
    for start in range(0, RESAMPLES, DRAWN_TOGETHER):
        drawn = range(start, min(start + DRAWN_TOGETHER, RESAMPLES))
        counts = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in drawn]).astype(np.float64)
        with np.errstate(invalid="ignore"):  # a draw without any user who has a value
            means[drawn.start : drawn.stop] = (counts @ filled) / (counts @ known)
    low, high = np.full((2, len(columns)), math.nan)
    valued = known.any(0)
    if valued.any():
        low[valued], high[valued] = np.nanpercentile(means[:, valued], [2.5, 97.5], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(columns, low, high, strict=True)}


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values by Holm's step-down procedure; return them in the given order."""
    p = np.asarray(p_values, dtype=np.float64)
    order = p.argsort(kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(p), 0, -1) * p[order]))
    return corrected.tolist()


def over_seeds(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Average the values of each user over several runs; return one frame, sorted by user.

    Args:
        frames: for each run a frame with the column `user` and one column per metric.

    Raises:
        DataError: the runs were evaluated on different users.
    """
    import polars as pl

    first = set(frames[0][USER].to_list())
    if any(frame.height != len(first) or set(frame[USER].to_list()) != first for frame in frames[1:]):
        raise DataError("the runs to average were evaluated on different users; score them on the same test set")
    return pl.concat(frames, how="vertical_relaxed").group_by(USER).agg(pl.all().mean()).sort(USER)


def compare(
    ours: pl.DataFrame, others: Mapping[str, pl.DataFrame], metrics: Sequence[str] | None = None
) -> list[Comparison]:
    """Test one model against each other model on each metric, and return the tests.

    Holm's correction is over all t-tests, and over all Wilcoxon tests.

    Args:
        ours: frame with `user` and one column per metric, averaged over seeds (`over_seeds`).
        others: name of another model → such a frame of that model.
        metrics: names of columns; default: all of `ours`.

    Raises:
        DataError: a model was evaluated on other users.
    """
    ours = ours.sort(USER)
    metrics = [name for name in ours.columns if name != USER] if metrics is None else metrics
    comparisons = []
    for name, frame in others.items():
        theirs = frame.sort(USER)
        if not ours[USER].equals(theirs[USER]):
            raise DataError(f"{name} was evaluated on other users; a paired test needs the same test set")
        for metric in metrics:
            test = paired(ours[metric].to_numpy(), theirs[metric].to_numpy())
            comparisons.append(Comparison(name, metric, test, 1.0, 1.0))
    return corrected(comparisons)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with p-values that are corrected by Holm's method over all of them.

    Use it for comparisons from several calls of `compare`.
    """
    by_t = holm([comparison.test.t_p for comparison in comparisons])
    by_w = holm([comparison.test.w_p for comparison in comparisons])
    return [replace(c, t_p_holm=t, w_p_holm=w) for c, t, w in zip(comparisons, by_t, by_w, strict=True)]


def compare_pairs(
    pairs: Iterable[tuple[Key, pl.DataFrame | None, pl.DataFrame | None]], metrics: Sequence[str]
) -> dict[Key, dict[str, Comparison]]:
    """Test pairs of models on each metric that both have, with Holm's correction over all tests.

    Args:
        pairs: for each pair a key, the frame of our model and the frame of the other model (as in `compare`). Pairs
            without values, or of models that were evaluated on different users, are skipped.
        metrics: names of columns.

    Returns:
        Key of the pair → metric → test.
    """
    keys: list[Key] = []
    comparisons: list[Comparison] = []
    for key, ours, theirs in pairs:
        if ours is None or theirs is None:
            continue
        common = [name for name in metrics if name in ours.columns and name in theirs.columns]
        with contextlib.suppress(DataError):
            comparisons += compare(ours, {"": theirs}, common)
        keys += [key] * (len(comparisons) - len(keys))
    tests: dict[Key, dict[str, Comparison]] = {}
    for key, test in zip(keys, corrected(comparisons), strict=True):
        tests.setdefault(key, {})[test.metric] = test
    return tests


def gain(ours: float, theirs: float) -> float:
    """Return the gain of `ours` over `theirs` in percent; NaN if `theirs` is zero."""
    return 100.0 * (ours - theirs) / theirs if theirs else math.nan


def average_gain(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """Return the mean gain in percent over the metrics that both have (the paper's average improvement).

    Metrics whose value in `theirs` is zero are left out; without any metric, the result is NaN.
    """
    gains = [gain(ours[metric], theirs[metric]) for metric in ours if metric in theirs]
    gains = [value for value in gains if not math.isnan(value)]
    return float(np.mean(gains)) if gains else math.nan
