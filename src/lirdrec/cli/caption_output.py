"""Output of `lirdrec caption`: the plan, the progress and the result."""

from __future__ import annotations

from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lirdrec.captions.captioner import Answer
from lirdrec.captions.pipeline import PROBLEMS, Captioning, Outcome
from lirdrec.cli.output import console, print_line, settings, table
from lirdrec.data.ids import pluralize
from lirdrec.files.progress_bars import ProgressLines, draws_bars


def work(job: Captioning, n: int) -> None:
    """Caption `n` images, with a progress bar, or with lines where the output is not a terminal."""
    draws_bar, problems = draws_bars(), 0
    lines = ProgressLines("captions", n, unit="images")
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
        disable=settings.quiet or not draws_bar,
    )
    with bar:
        task = bar.add_task("captions", total=n, speed="", problems="")

        def advance(answer: Answer) -> None:
            nonlocal problems
            problems += answer.problem is not None
            note = pluralize(problems, "problem") if problems else ""
            speed = bar.tasks[0].speed
            bar.update(task, advance=1, speed=f"{speed:.1f} a second" if speed else "", problems=note)
            if not settings.quiet and not draws_bar:
                lines.advance(1, note=note)

        job.work(n, advance)


def show_survey(job: Captioning) -> None:
    """Print the plan: the number of images to caption, to skip and to keep."""
    if settings.quiet:
        return
    survey = job.survey
    rows = [
        ["items", survey.items, ""],
        ["without an image", survey.missing, ""],
        ["captioned already", survey.unchanged, "by this model and prompt, from this image"],
        ["edited by people", survey.edited, "kept"],
        ["image cannot be read", len(survey.unreadable), ""],
        ["captioned by an interrupted call", len(survey.wanted) - len(job.waiting()), ""],
        ["images to caption", len(job.waiting()), f"by {job.captioner.model} on {job.captioner.place}"],
    ]
    shown = [[name, f"{n:,}", note] for name, n, note in rows if n]
    console(errors=True).print(table(None, ["", "number", " "], shown, right=("number",)))


def show_outcome(dataset: Path, outcome: Outcome) -> None:
    """Print the number of captions and problems, and the next command."""
    edited = f", {outcome.edited:,} of them by people" if outcome.edited else ""
    print_line(f"{pluralize(outcome.written, 'new caption')}; {outcome.captions:,} in total{edited}.")
    if outcome.tokens_in or outcome.tokens_out:
        tokens = pluralize(outcome.tokens_in, "input token"), pluralize(outcome.tokens_out, "output token")
        print_line(f"{', '.join(tokens)}.")
    if outcome.problems:
        reasons = f"{dataset / PROBLEMS} has the reasons; the same command tries again."
        print_line(f"{pluralize(outcome.problems, 'item')} without a caption: {reasons}", "yellow")
    if outcome.waiting:
        print_line(f"{pluralize(outcome.waiting, 'image')} left: the same command continues.")
    if outcome.captions:
        print_line(f"To inspect them: lirdrec caption {dataset} --report captions.html")
