"""What `lirdrec caption` shows: what there is to do, what it will take, how far it is, what became of it."""

from __future__ import annotations

from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lirdrec.captions.captioner import Answer
from lirdrec.captions.pipeline import Captioning, Outcome
from lirdrec.captions.results import PROBLEMS
from lirdrec.cli.output import console, settings, table
from lirdrec.data.ids import count
from lirdrec.files.progress import ProgressLines, draws_bars


def work(job: Captioning, n: int) -> None:
    """Ask about `n` pictures, with a bar, or in a log with lines."""
    problems = 0
    if not settings.quiet and not draws_bars():
        lines = ProgressLines("captions", n, unit="pictures")

        def counted(answer: Answer) -> None:
            nonlocal problems
            problems += answer.problem is not None
            lines.advance(1, note=count(problems, "problem") if problems else "")

        return job.work(n, counted)
    bar = Progress(
        TextColumn("captions"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[problems]}", style="yellow"),
        console=console(errors=True),
        disable=settings.quiet,
    )
    with bar:
        task = bar.add_task("captions", total=n, speed="", problems="")

        def told(answer: Answer) -> None:
            nonlocal problems
            problems += answer.problem is not None
            speed = bar.tasks[0].speed
            bar.update(
                task,
                advance=1,
                speed=f"{speed:.1f} a second" if speed else "",
                problems=count(problems, "problem") if problems else "",
            )

        job.work(n, told)


def show_survey(job: Captioning) -> None:
    """What there is to do."""
    if settings.quiet:
        return
    survey = job.survey
    rows = [
        ["items", survey.items, ""],
        ["without a picture", survey.missing, ""],
        ["captioned already", survey.unchanged, "by this model and prompt, of this picture"],
        ["edited by people", survey.edited, "kept"],
        ["picture cannot be read", len(survey.unreadable), ""],
        ["done before it was stopped", len(survey.wanted) - len(job.waiting()), ""],
        ["pictures to do", len(job.waiting()), f"by {job.captioner.model} on {job.captioner.place}"],
    ]
    shown = [[name, f"{n:,}", said] for name, n, said in rows if n]
    console(errors=True).print(table(None, ["", "number", " "], shown, right=("number",)))


def show_outcome(dataset: Path, outcome: Outcome) -> None:
    """What became of it, and what to do next."""
    out = console()
    edited = f", {outcome.edited:,} of them by people" if outcome.edited else ""
    out.print(f"{count(outcome.written, 'new caption')}; {outcome.captions:,} altogether{edited}.", soft_wrap=True)
    if outcome.tokens_in or outcome.tokens_out:
        out.print(f"{outcome.tokens_in:,} tokens read, {outcome.tokens_out:,} written.", soft_wrap=True)
    if outcome.problems:
        out.print(
            f"{count(outcome.problems, 'item')} without: {dataset / PROBLEMS} says why; the same command tries again.",
            style="yellow",
            soft_wrap=True,
            markup=False,
        )
    if outcome.waiting:
        out.print(f"{count(outcome.waiting, 'picture')} still to do: the same command goes on.", soft_wrap=True)
    if outcome.captions:
        out.print(f"Look at them: lirdrec caption {dataset} --report captions.html", markup=False, soft_wrap=True)
