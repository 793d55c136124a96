"""Common parts of the studies' reports: formatted metrics, sentences of the answer, settings and failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lirdrec.experiments.config import BEYOND_ACCURACY, ExperimentConfig
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.trial_spec_and_result import TrialResult
from lirdrec.reporting import Figure, Measure, Report, Section, label
from lirdrec.reporting.formatting import MISSING, NARROW
from lirdrec.reporting.statistics import gain

SHOWN = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
LISTED = ("datasets", "metric", "seeds", "tuned")  # always listed as settings
NOT_LISTED = ("output", "command", "quiet", "formats", "cache", "keep", "jobs", "ray", "track")


def write_report(
    config: ExperimentConfig,
    results: Results,
    title: str,
    question: str,
    answer: str,
    sections: Sequence[Section],
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write the report of a study; return the path of the page. Failed trials and settings are added to it.

    Args:
        config: the experiment's configuration, whose settings are listed.
        results: results of all trials.
        title, question, answer: texts at the top of the page.
        sections: tables and figures.
        settings: further settings to list.
    """
    return Report(
        title,
        question,
        answer,
        [*sections, *_failures(results)],
        settings=_settings(config) | dict(settings or {}),
        commands=(config.command,) if config.command else (),
        name=results.experiment,
    ).write(config.output, results, config.formats)


def draw(
    chart: Callable[..., Figure], rows: Sequence[Sequence[Any]], columns: Sequence[str], name: str, /, **options: Any
) -> list[Figure]:
    """Draw a figure from rows with these columns, and return it in a list; return [] without rows.

    Args:
        chart: function of `lirdrec.reporting` that draws, such as `bars`.
        rows, columns: the data, and the names of their columns.
        name: name of the figure's file.
        options: further arguments of `chart`.
    """
    import polars as pl

    return [chart(pl.DataFrame(rows, schema=list(columns), orient="row"), name, **options)] if rows else []


def format_mean_sd(measure: Measure | None, digits: int = 4) -> str:
    """Format mean ± sd: 0.0983 ± 0.0012, or 0.0983 for a single run, or "no result"."""
    if measure is None:
        return "no result"
    spread = f"{NARROW}±{NARROW}{measure.sd:.{digits}f}" if measure.sd is not None else ""
    return f"{measure.mean:.{digits}f}{spread}"


def format_gain(ours: float, theirs: float) -> str:
    """Format the signed difference of `ours` from `theirs` in percent of `theirs`; a dash if `theirs` is zero."""
    percent = gain(ours, theirs)
    return MISSING if percent != percent else f"{percent:+.1f}{NARROW}%".replace("-", "−")


def listed(parts: Iterable[object]) -> str:
    """Join texts: "a, b and c", or "nothing" without texts."""
    words = [str(part) for part in parts]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "nothing"


def count(n: int, noun: str) -> str:
    """Format a count: 1 seed, 3 seeds."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def over(seeds: int) -> str:
    """Return a text for captions: "mean over 3 seeds, ± one sd", or "one seed"."""
    return f"mean over {count(seeds, 'seed')}, ± one sd" if seeds > 1 else "one seed"


def measured(results: Iterable[TrialResult], metric: str, stage: str) -> Measure | None:
    """Return mean and sd of a metric over the successful results; None if none of them has this metric."""
    values = [result.figure(metric, stage) for result in results if result.done]
    return Measure.of(value for value in values if value is not None)


def stage_of(results: Results) -> str:
    """Return the stage of the reported metrics: "test" if any result has test metrics, else "valid"."""
    return "test" if any("test" in result.figures for result in results) else "valid"


def metrics_of(results: Results, stage: str, wanted: str) -> tuple[str, tuple[str, ...]]:
    """Return the metric that the answer of a report is about, and all metrics of its tables.

    The first is `wanted` if the results have it at this stage, else the first metric of the tables. Metrics beyond
    accuracy, which every test has, are left out unless there are no others. Of the validation metrics, which include
    further ones for tuning, only those in `SHOWN` are kept, if there are any.
    """
    found = dict.fromkeys(name for result in results for name in result.figures.get(stage, {}))
    names = [name for name in found if name.partition("@")[0] not in BEYOND_ACCURACY] or list(found)
    usual = [name for name in SHOWN if name in names]
    shown = usual if usual and stage != "test" else list(dict.fromkeys((*usual, *names)))
    return (wanted if wanted in names else next(iter(shown), wanted)), tuple(shown)


def with_cutoff_of(metric: str, metrics: Sequence[str]) -> list[str]:
    """Return a metric, and after it those of `metrics` with the same cut-off.

    >>> with_cutoff_of("ndcg@20", ["recall@10", "recall@20", "ndcg@20"])
    ['ndcg@20', 'recall@20']
    """
    cutoff = metric.partition("@")[2]
    return [metric, *(name for name in metrics if name != metric and name.partition("@")[2] == cutoff)]


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    """Return the settings that the report lists: datasets, metric, seeds, and others that are not defaults.

    Those in `NOT_LISTED` are left out. "other settings" says where all other options of the models are from.
    """
    defaults = asdict(ExperimentConfig(datasets=("-",), output=Path(".")))
    datasets = ", ".join(Path(dataset).name for dataset in config.datasets)
    settings: dict[str, Any] = {"datasets": datasets, "metric": config.metric, "seeds": config.seeds}
    for name, value in asdict(config).items():
        if name not in LISTED + NOT_LISTED and (value or name == "mask_seen") and value != defaults[name]:
            settings |= value if isinstance(value, dict) else {name: value}
    others = f"those of the best trials in {config.tuned.name}" if config.tuned else "published defaults"
    return settings | {"other settings": others}


def _failures(results: Results) -> list[Section]:
    """Return a section that lists failed trials; [] without failures."""
    lines = []
    for result in results:
        if not result.done:
            trial = result.trial
            title = ", ".join(filter(None, [trial.dataset_name, label(trial.model), trial.variant, trial.feature_set]))
            reason = f": {result.error}" if result.error else ""
            lines.append(f"- {title}, seed {trial.seed}: {result.status}{reason}")
    return [Section("Failed trials", ["\n".join(lines)])] if lines else []
