"""What is shown while an experiment runs: a line for every cell that ended, and on a terminal a bar below."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lirdrec.experiments.trial import TrialResult, TrialSpec
from lirdrec.files.progress import duration

WIDTH_OF_NAME = 44
UNSAID = ("metric", "epochs", "patience")  # options that are the same for all trials


class Progress:
    """Lines and a bar on the error stream.

    Args:
        expected: (dataset, model) → cells there will be, as far as the experiment can tell.
        jobs: cells that run at once.
        metric: the figure to show.
        quiet: show nothing.
    """

    def __init__(self, expected: Mapping[tuple[str, str], int], jobs: int, metric: str, quiet: bool = False):
        self.expected, self.jobs, self.metric, self.quiet = dict(expected), jobs, metric, quiet
        self.bar: Any = None
        if quiet:
            return
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[now]}"),
                console=self.console,
            )
            self.task = self.bar.add_task("cells", total=None, left="", now="")
            self.bar.start()

    def say(self, text: str) -> None:
        """A line."""
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)

    def show(self, done: Iterable[TrialResult], waiting: Iterable[TrialSpec], running: Iterable[TrialSpec]) -> None:
        """Bring the bar up to date."""
        if self.bar is None:
            return
        done = list(done)
        total, left = self.outlook(done, [*waiting, *running])
        names = "  ".join(name_of(cell) for cell in running)
        self.bar.update(self.task, total=total, completed=len(done), left=left, now=names)

    def ended(self, result: TrialResult, done: Iterable[TrialResult], waiting: Iterable[TrialSpec]) -> None:
        """A cell has ended."""
        if self.quiet:
            return
        done = list(done)
        total, left = self.outlook(done, list(waiting))
        width = len(str(total))
        parts = [f"[{len(done):{width}}/{total}]", f"{name_of(result.cell):{WIDTH_OF_NAME}}"]
        if result.done:
            parts += [figures_of(result, self.metric), f"{duration(result.seconds):>8}"]
            if result.epochs:
                parts.append(f"best of {result.epochs} epochs: {result.best_epoch}")
        else:
            parts += [result.status if result.status != "failed" else f"failed: {result.error}"]
        parts += [left]
        if result.cell.work == "trial":
            options = {**result.cell.model_options, **result.cell.training}
            parts.append(" ".join(f"{k}={v}" for k, v in options.items() if k not in UNSAID and v is not None))
        self.say("  ".join(one for one in parts if one))

    def outlook(self, done: list[TrialResult], waiting: list[TrialSpec]) -> tuple[int, str]:
        """Cells there will be, and the time left in words.

        A cell that is to come is taken to last as long as those of its model and dataset on the average, or as all
        cells do where there is none yet.
        """
        ready = Counter((one.cell.dataset, one.cell.model) for one in done)
        coming = Counter((one.dataset, one.model) for one in waiting)
        for place, number in self.expected.items():
            coming[place] = max(coming[place], number - ready[place])
        seconds: dict[tuple[str, str], list[float]] = {}
        for one in done:
            seconds.setdefault((one.cell.dataset, one.cell.model), []).append(one.seconds)
        every = [value for values in seconds.values() for value in values]
        total = len(done) + sum(coming.values())
        if not every or total == len(done):
            return total, ""
        mean = sum(every) / len(every)
        left = 0.0
        for place, number in coming.items():
            own = seconds.get(place)
            left += number * (sum(own) / len(own) if own else mean)
        return total, f"about {duration(left / self.jobs)} left"

    def stop(self) -> None:
        """Leave the screen as it is."""
        if self.bar is not None:
            self.bar.stop()


def name_of(cell: TrialSpec) -> str:
    """A cell in a few words."""
    work = "" if cell.work in ("train", "trial") else cell.work.partition(":")[2]
    split = str((cell.split or {}).get("split", ""))
    seed = "" if cell.work == "trial" else f"seed {cell.seed}"
    parts = (cell.dataset_name, split, cell.model, cell.feature_set, cell.variant, work, seed)
    return "  ".join(one for one in parts if one)


def figures_of(result: TrialResult, metric: str) -> str:
    """The figure of a cell in a few words: of the test where it was scored, else of validation."""
    for stage in ("test", "valid"):
        value = result.figure(metric, stage)
        if value is not None:
            return f"{stage} {metric} {value:.4f}"
    return "done"
