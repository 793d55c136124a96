"""Progress display of an experiment: one line for each trial that ends and, on a terminal, a progress bar."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec
from lirdrec.files.progress_bars import duration

NAME_WIDTH = 44
HIDDEN = ("metric", "epochs", "patience")  # options that are the same in all trials


class Progress:
    """Lines about trials and a progress bar, written to the error stream.

    Args:
        expected: (dataset, model) → estimated number of trials.
        jobs: number of parallel trials.
        metric: metric to show.
        quiet: show nothing.
    """

    def __init__(self, expected: Mapping[tuple[str, str], int], jobs: int, metric: str, quiet: bool = False):
        self.expected, self.jobs, self.metric, self.quiet = dict(expected), jobs, metric, quiet
        self.bar: Any = None
        if quiet:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self.console = Console(stderr=True, highlight=False)
        if sys.stderr.isatty():
            texts = TextColumn("{task.fields[left]}"), TimeElapsedColumn(), TextColumn("{task.fields[now]}")
            self.bar = Bar(BarColumn(bar_width=24), MofNCompleteColumn(), *texts, console=self.console)
            self.task = self.bar.add_task("trials", total=None, left="", now="")
            self.bar.start()

    def say(self, text: str) -> None:
        """Print a line, unless `quiet`."""
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)

    def show(self, done: Iterable[TrialResult], waiting: Iterable[TrialSpec], running: Iterable[TrialSpec]) -> None:
        """Update the progress bar: finished and estimated trials, remaining time, names of the running trials."""
        if self.bar is None:
            return
        done = list(done)
        total, left = self.estimate(done, [*waiting, *running])
        self.bar.update(self.task, total=total, completed=len(done), left=left, now="  ".join(map(name_of, running)))

    def ended(self, result: TrialResult, done: Iterable[TrialResult], waiting: Iterable[TrialSpec]) -> None:
        """Print the line of a trial that has succeeded or failed: its name, metric or error, time, and options.

        `done` (all results so far) and `waiting` (trials without a result) are for the count and the remaining time.
        """
        if self.quiet:
            return
        done = list(done)
        total, left = self.estimate(done, list(waiting))
        width = len(str(total))
        trial = result.trial
        parts = [f"[{len(done):{width}}/{total}]", f"{name_of(trial):{NAME_WIDTH}}"]
        if result.done:
            parts += [metric_text(result, self.metric), f"{duration(result.seconds):>8}"]
            parts += [f"best of {result.epochs} epochs: {result.best_epoch}"] if result.epochs else []
        else:
            parts.append(f"failed: {result.error}" if result.status == "failed" else result.status)
        parts.append(left)
        if trial.work == "trial":
            options = {**trial.model_options, **trial.training}
            parts.append(" ".join(f"{k}={v}" for k, v in options.items() if k not in HIDDEN and v is not None))
        self.say("  ".join(filter(None, parts)))

    def estimate(self, done: list[TrialResult], waiting: list[TrialSpec]) -> tuple[int, str]:
        """Return the estimated total number of trials, and a text for the remaining time ("" if not known).

        A trial is assumed to take the mean time of trials with its model and dataset or, without any, of all trials.
        """
        seconds: dict[tuple[str, str], list[float]] = {}
        for result in done:
            seconds.setdefault((result.trial.dataset, result.trial.model), []).append(result.seconds)
        remaining = Counter((trial.dataset, trial.model) for trial in waiting)
        for key, number in self.expected.items():
            remaining[key] = max(remaining[key], number - len(seconds.get(key, ())))
        total = len(done) + sum(remaining.values())
        if not done or total == len(done):
            return total, ""
        mean = fmean(result.seconds for result in done)
        left = sum(number * (fmean(seconds[key]) if key in seconds else mean) for key, number in remaining.items())
        return total, f"about {duration(left / self.jobs)} left"

    def stop(self) -> None:
        """Stop the progress bar."""
        if self.bar is not None:
            self.bar.stop()


def name_of(trial: TrialSpec) -> str:
    """Return a short description of a trial."""
    work = "" if trial.work in ("train", "trial") else trial.work.partition(":")[2]
    split = str((trial.split or {}).get("split", ""))
    seed = "" if trial.work == "trial" else f"seed {trial.seed}"
    parts = (trial.dataset_name, split, trial.model, trial.feature_set, trial.variant, work, seed)
    return "  ".join(filter(None, parts))


def metric_text(result: TrialResult, metric: str) -> str:
    """Return a text for a metric of a result: the test value, else the validation value, else "done"."""
    values = {stage: result.figure(metric, stage) for stage in ("test", "valid")}
    return next((f"{stage} {metric} {value:.4f}" for stage, value in values.items() if value is not None), "done")
