"""Helpers that turn metrics into the sentences of a report's answer, and common parts of reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.reporting import Measure, Section, label
from lirdrec.reporting.formatting import MISSING, NARROW

SHOWN = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def format_mean_sd(measure: Measure | None, digits: int = 4) -> str:
    """Format mean ± sd: 0.0983 ± 0.0012, or 0.0983 for a single run."""
    if measure is None:
        return "no result"
    spread = f"{NARROW}±{NARROW}{measure.sd:.{digits}f}" if measure.sd is not None else ""
    return f"{measure.mean:.{digits}f}{spread}"


def format_gain(ours: float, theirs: float) -> str:
    """Format the signed difference of `ours` from `theirs` in percent."""
    from lirdrec.reporting.statistics import gain

    percent = gain(ours, theirs)
    return MISSING if percent != percent else f"{percent:+.1f}{NARROW}%".replace("-", "−")


def listed(parts: Iterable[object]) -> str:
    """Join texts: a, b and c."""
    words = [str(part) for part in parts]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "nothing"


def count(n: int, noun: str) -> str:
    """Format a count: 1 seed, 3 seeds."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def over(seeds: int) -> str:
    """Text for captions: "mean over 3 seeds, ± one sd", or "one seed"."""
    return f"mean over {count(seeds, 'seed')}, ± one sd" if seeds > 1 else "one seed"


def settings(config: ExperimentConfig) -> dict[str, Any]:
    """The experiment's non-default settings."""
    values = asdict(config)
    defaults = asdict(ExperimentConfig(datasets=("-",), output=Path(".")))
    kept: dict[str, Any] = {
        "datasets": ", ".join(Path(dataset).name for dataset in config.datasets),
        "metric": config.metric,
    }
    kept |= {"seeds": config.seeds}
    skipped = {"datasets", "output", "command", "quiet", "formats", "cache", "keep", "jobs", "tuned"}
    for name, value in values.items():
        if name in kept or name in skipped or value == defaults[name] or not value:
            continue
        if isinstance(value, dict):
            kept |= {str(key): inner for key, inner in value.items()}
        else:
            kept[name] = value
    kept["other settings"] = (
        "published defaults" if config.tuned is None else f"those of the best trials in {config.tuned.name}"
    )
    return {name: value if isinstance(value, (int, float, str)) else _plain(value) for name, value in kept.items()}


def commands(config: ExperimentConfig) -> tuple[str, ...]:
    """The command line, if there is one."""
    return (config.command,) if config.command else ()


def failures(results: Results) -> list[Section]:
    """A section that lists failed trials; [] without failures."""
    lines = []
    for result in results:
        if not result.done:
            cell = result.cell
            title = ", ".join(filter(None, [cell.dataset_name, label(cell.model), cell.variant, cell.feature_set]))
            reason = f": {result.error}" if result.error else ""
            lines.append(f"- {title}, seed {cell.seed}: {result.status}{reason}")
    return [Section("Failed trials", ["\n".join(lines)])] if lines else []


def measured(results: Iterable[Any], metric: str, stage: str) -> Measure | None:
    """Mean and sd of a metric over results; those without it are skipped."""
    values = [result.figure(metric, stage) for result in results if result is not None and result.done]
    return Measure.of([value for value in values if value is not None])


def stage_of(results: Results) -> str:
    """Stage of the reported metrics: "test" if any result has test metrics, else "valid"."""
    return "test" if any("test" in result.figures for result in results) else "valid"


def metrics_of(results: Results, stage: str, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """The usual metrics that the results have at a stage, `wanted` first; all metrics if there are none of these."""
    have = list(dict.fromkeys(name for result in results for name in result.figures.get(stage, {})))
    first = [name for name in dict.fromkeys((*wanted, *SHOWN)) if name in have]
    return tuple(first or have)


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
