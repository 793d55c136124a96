"""Results of an experiment: lookup by trial, filters, and data frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec
from lirdrec.experiments.trial_store import TrialStore
from lirdrec.reporting.statistics import over_seeds

if TYPE_CHECKING:
    import polars as pl

IDENTITY = ("experiment", "key", "work", "dataset", "model", "variant", "feature_set", "loss", "seed")


class Results:
    """Results of trials.

    Args:
        results: the results; they stay in this order.
        experiment: name of the experiment, for the data frames.
        folder: the experiment's folder, from which the metrics of each user are read.
    """

    def __init__(self, results: Iterable[TrialResult] = (), experiment: str = "", folder: str | Path | None = None):
        self.experiment, self.folder = experiment, None if folder is None else Path(folder)
        self._results = list(results)
        self._by_cell = {result.trial: result for result in self._results}

    @classmethod
    def load(cls, store: TrialStore) -> Results:
        """Return all results in the folder of an experiment, ordered by key; the name of the experiment stays empty.

        Raises:
            RunFolderError: a file is damaged.
        """
        return cls(store, folder=store.folder)

    def __iter__(self) -> Iterator[TrialResult]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def get(self, trial: TrialSpec) -> TrialResult | None:
        """Return the result of a trial, or None if there is none yet."""
        return self._by_cell.get(trial)

    def of(self, cells: Iterable[TrialSpec]) -> list[TrialResult]:
        """Return the results of the given trials, including failures; trials without a result are skipped."""
        return [result for result in map(self.get, cells) if result is not None]

    def done(self, cells: Iterable[TrialSpec]) -> list[TrialResult]:
        """Return the results of the given trials that succeeded."""
        return [result for result in self.of(cells) if result.done]

    def where(self, condition: Callable[[TrialResult], bool] | None = None, **values: Any) -> Results:
        """Return the results whose fields have these values: `where(model="mf", work="train")`.

        Args:
            condition: a further condition on the result.
            values: field of `TrialSpec` → value, or a tuple, set or list of values. `dataset` is the dataset's name,
                `final` is `TrialSpec.final`, `status` the result's status, `loss` the ranking loss of the training.
        """

        def matches(result: TrialResult) -> bool:
            for name, wanted in values.items():
                accepted = wanted if isinstance(wanted, (tuple, set, list)) else (wanted,)
                if _value(result, name) not in accepted:
                    return False
            return condition is None or condition(result)

        return Results(filter(matches, self._results), self.experiment, self.folder)

    def frame(self) -> pl.DataFrame:
        """Return a frame of all metrics: one row per trial, stage and metric.

        The columns are those of `IDENTITY`, which describe the trial, then stage (valid, test), metric, value.
        """
        rows = [
            (*self._identity(result), stage, metric, value)
            for result in self._results
            for stage, figures in result.figures.items()
            for metric, value in figures.items()
        ]
        return _frame(rows, {"stage": str, "metric": str, "value": float})

    def runs(self) -> pl.DataFrame:
        """Return one row per trial, with the columns of `IDENTITY`, then final, status, error, seconds, peak_memory_mb,
        peak_gpu_memory_mb, epochs, best_epoch, options (JSON of the non-default options)."""
        rows = []
        for result in self._results:
            trial, gpu = result.trial, result.peak_gpu_memory
            memory = (result.peak_memory / 2**20, None if gpu is None else gpu / 2**20)
            options = json.dumps({**trial.model_options, **trial.training}, sort_keys=True)
            outcome = (trial.final, result.status, result.error, result.seconds)
            rows.append((*self._identity(result), *outcome, *memory, result.epochs, result.best_epoch, options))
        texts = {"final": bool, "status": str, "error": str}
        numbers = {"seconds": float, "peak_memory_mb": float, "peak_gpu_memory_mb": float}
        return _frame(rows, {**texts, **numbers, "epochs": int, "best_epoch": int, "options": str})

    def histories(self) -> pl.DataFrame:
        """Return one row per trial, epoch and metric: the columns of `IDENTITY`, then epoch, seconds, metric, value.

        The loss is one of the metrics, "loss".
        """
        rows = [
            (*self._identity(result), line["epoch"], line["seconds"], name, value)
            for result in self._results
            for line in result.history
            for name, value in line.items()
            if name not in ("epoch", "seconds")
        ]
        return _frame(rows, {"epoch": int, "seconds": float, "metric": str, "value": float})

    def per_user(self) -> pl.DataFrame:
        """Return one row per trial and user: the columns of `IDENTITY`, then user and the user's test metrics.

        Trials without metrics of users are left out. `user` is cast to text, so that datasets with integer and text ids
        fit into one frame.
        """
        import polars as pl

        parts = []
        for result in self._results:
            if result.per_user is not None and self.folder is not None:
                frame = pl.read_parquet(self.folder / result.per_user, glob=False)
                identity = zip(IDENTITY, self._identity(result), strict=True)
                labels = [pl.lit(value).alias(name) for name, value in identity]
                parts.append(frame.select(*labels, pl.col("user").cast(str), pl.exclude("user")))
        return pl.concat(parts, how="diagonal") if parts else _frame([], {"user": str})

    def mean_per_user(self, results: Sequence[TrialResult]) -> pl.DataFrame | None:
        """Return the test metrics of each user as means over the given trials, sorted by user.

        Return None without trials, or if a trial has no metrics of users.

        Raises:
            DataError: the trials were tested on different users.
        """
        import polars as pl

        paths = [result.per_user for result in results]
        if self.folder is None or not paths or None in paths:
            return None
        return over_seeds([pl.read_parquet(self.folder / str(path), glob=False) for path in paths])

    def remarks(self) -> list[str]:
        """Return remarks for readers of a report; [] if there is nothing to say.

        They describe tests with validation interactions as history or with seen items, and count trainings that
        `--epochs` ended too early.
        """
        trained = [result for result in self._results if result.done and result.epochs and result.stopped is not None]
        capped = sum(result.was_still_improving for result in trained)
        if not capped:
            return self._protocols()
        return [
            *self._protocols(),
            f"**{capped} of {len(trained)} trainings were still improving when --epochs ended them**: "
            "their metrics are too low; increase --epochs before you compare models.",
        ]

    def _protocols(self) -> list[str]:
        """Return one text on tests with validation interactions as history or with seen items; [] without them."""
        tests = [
            (result.trial, protocol)
            for result in self._results
            if isinstance(result.data, Mapping) and (protocol := result.data.get("protocol"))
        ]
        trials, sentences = [trial for trial, _ in tests], []
        if longer := [(trial, protocol) for trial, protocol in tests if protocol["test_history"] == "train+valid"]:
            where = _in_tests([trial for trial, _ in longer], trials)
            sentences.append(f"{where}, users are known by their training and validation interactions.")
            if kept := dict.fromkeys(trial.model for trial, protocol in longer if protocol["queries"] == "trained"):
                sentences.append(f"These models cannot use the latter, and keep the users' vectors: {', '.join(kept)}.")
        if seen := [trial for trial, protocol in tests if not protocol["mask_seen"]]:
            sentences.append(f"{_in_tests(seen, trials)}, items that a user has seen are ranked too.")
        return [" ".join(sentences)] if sentences else []

    def _identity(self, result: TrialResult) -> list[Any]:
        return [self.experiment, *(_value(result, name) for name in IDENTITY[1:])]


def _value(result: TrialResult, name: str) -> Any:
    """Return the value of a field of a result or of its trial; `Results.where` lists the fields."""
    if name == "dataset":
        return result.trial.dataset_name
    if name == "loss":
        return loss_of(result)
    return getattr(result if name == "status" else result.trial, name)


def _in_tests(chosen: Sequence[TrialSpec], tested: Sequence[TrialSpec]) -> str:
    """Return the beginning of a sentence that is true for the tests of the `chosen` ones of the `tested` trials.

    It names the datasets, unless all tests are chosen.
    """
    if len(chosen) == len(tested):
        return "In the test"
    names = dict.fromkeys(trial.dataset_name for trial in chosen)
    is_all = sum(trial.dataset_name in names for trial in tested) == len(chosen)
    return f"{'In the test' if is_all else 'In some of the tests'} on {', '.join(names)}"


def loss_of(result: TrialResult) -> str:
    """Return the ranking loss that a trial was trained with; "" for models without a choice of losses."""
    options = result.options.get("model", result.trial.model_options)
    return str(options.get("loss") or "")


def _frame(rows: list[tuple[Any, ...]], types: dict[str, type]) -> pl.DataFrame:
    import polars as pl

    identity = {name: int if name == "seed" else str for name in IDENTITY}
    return pl.DataFrame(rows, schema={**identity, **types}, orient="row")
