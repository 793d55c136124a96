"""`lirdrec caption`: describe the images of items in words, with a local model or a server."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lirdrec.cli.confirm_cost import agreed
from lirdrec.cli.option_groups import given, integer
from lirdrec.cli.output import console, print_json, print_line, settings, table
from lirdrec.cli.shared_options import (
    ImagesOption,
    JsonOption,
    NoResumeOption,
    PerMinuteOption,
    PriceInputOption,
    RevisionOption,
    YesOption,
    option,
)
from lirdrec.errors import ConfigError
from lirdrec.files.progress_bars import ProgressLines, draws_bars
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    from lirdrec.captions.captioner import Answer, Captioner
    from lirdrec.captions.pipeline import Captioning, Outcome
    from lirdrec.captions.prompt_attributes import Attributes
    from lirdrec.features.remote.cost import Estimate


@dataclass(frozen=True)
class PromptOptions:
    """Prompt, answers and image size"""

    attributes: Path | None = option(None, "TOML file of the attributes to ask for.", metavar="FILE")
    show_prompt: bool = option(False, "Print the prompt and stop.")
    show_attributes: bool = option(False, "Print the attributes as a TOML file to edit, and stop.")
    max_tokens: int = option(400, "Maximum number of tokens of an answer.")
    side: int = option(
        1024,
        "Maximum pixels of an image's longer side; larger ones are scaled down.",
        "--max-side",
        callback=integer(1),
    )


@dataclass(frozen=True)
class ServerOptions:
    """Captions by a server"""

    endpoint: str | None = option(None, "Use this OpenAI-compatible server.", metavar="URL")
    concurrency: int = option(8, "Number of parallel requests.")
    timeout: float = option(120.0, "Seconds to wait for a response.")
    requests_per_minute: PerMinuteOption = None
    price_input: PriceInputOption = None
    price_output: float | None = option(None, "Price per million output tokens.", metavar="PRICE", min=0)


@dataclass(frozen=True)
class LocalOptions:
    """Captions by a local model"""

    revision: RevisionOption = None
    device: str = option("auto", "auto, cpu, cuda or mps.")
    device_map: str | None = option(None, "How to distribute the model over devices: auto.")
    precision: str = option("bfloat16", "bfloat16, float16 or float32.")
    batch_size: int = option(8, "Number of images of a batch.")


@dataclass(frozen=True)
class WorkOptions:
    """Which images, and how to start"""

    images: ImagesOption = None
    limit: int | None = option(None, "Caption at most this number of images in this call.", min=1)
    restart: NoResumeOption = False
    overwrite_edited: bool = option(False, "Replace captions that people edited, too.")
    yes: YesOption = False
    probe: bool = option(
        True, "Before the question: caption 3 images to measure time and tokens.", "--probe/--no-probe"
    )


@dataclass(frozen=True)
class FileOptions:
    """Files of captions (with these options nothing is captioned)"""

    export: Path | None = option(None, "Write the captions to a CSV file, for editing.", metavar="FILE")
    imported: Path | None = option(None, "Import the captions of an edited CSV file.", "--import", metavar="FILE")
    report: Path | None = option(None, "Write an HTML page of images and captions.", metavar="FILE")


def caption(
    context: typer.Context,
    prompt: PromptOptions,
    server: ServerOptions,
    local: LocalOptions,
    work: WorkOptions,
    files: FileOptions,
    dataset: Path | None = typer.Argument(None, help="A prepared dataset.", show_default=False),
    model: str | None = option(
        None,
        "Name on the Hugging Face hub or folder (default: meta-llama/Llama-3.2-11B-Vision-Instruct);"
        " with --endpoint, the server's name of the model.",
    ),
    json: JsonOption = False,
) -> None:
    """Describe each item's image in words, attribute by attribute, with a multimodal language model.

    \b
      lirdrec caption mydata                                        by a local model
      lirdrec caption mydata --endpoint http://localhost:8000 --model NAME
      lirdrec caption mydata --export captions.csv                  edit it, then
      lirdrec caption mydata --import captions.csv
      lirdrec caption mydata --report captions.html                 compare images and captions

    If interrupted, the same command resumes. An image that this model has captioned with this prompt is captioned again
    only if it has changed. Captions that people edited are kept. The server's key is read from LIRDREC_API_KEY or
    OPENAI_API_KEY.
    """
    from lirdrec.captions.prompt_attributes import Attributes, read_attributes, render, to_toml

    attributes = read_attributes(prompt.attributes) if prompt.attributes is not None else Attributes()
    if prompt.show_prompt or prompt.show_attributes:
        return print(render(attributes) if prompt.show_prompt else to_toml(attributes).rstrip())
    if dataset is None:
        raise ConfigError("no prepared dataset is given; give the path of its folder: lirdrec caption DATASET")
    if server.endpoint is None:
        _refuse_unused(
            context, ServerOptions, "is for a server: give its address with --endpoint, or leave this option out"
        )
    else:
        _refuse_unused(
            context, LocalOptions, "is for a local model, but --endpoint uses a server: leave this option out"
        )
    if given(files):
        return _files(dataset, work.images, files)
    outcome = _caption_images(dataset, _captioner(model, attributes, prompt, server, local), attributes, server, work)
    if outcome is None:
        return None
    return print_json(dataclasses.asdict(outcome)) if json else _show_outcome(dataset, outcome)


def _captioner(
    model: str | None, attributes: Attributes, prompt: PromptOptions, server: ServerOptions, local: LocalOptions
) -> Captioner:
    from lirdrec.captions.prompt_attributes import render

    if server.endpoint is not None:
        from lirdrec.captions.openai_captioner import OpenAICaptioner
        from lirdrec.features.remote.client import OpenAIClient

        client = OpenAIClient(
            server.endpoint,
            concurrency=server.concurrency,
            timeout=server.timeout,
            requests_per_minute=server.requests_per_minute,
        )
        return OpenAICaptioner(client, model or "", render(attributes), prompt.max_tokens, prompt.side)
    from lirdrec.captions.transformers_captioner import MODEL, TransformersCaptioner

    options = vars(local) | {"max_tokens": prompt.max_tokens, "side": prompt.side}
    return TransformersCaptioner(render(attributes), model or MODEL, **options)


def _caption_images(
    dataset: Path, captioner: Captioner, attributes: Attributes, server: ServerOptions, options: WorkOptions
) -> Outcome | None:
    """Show the plan, ask whether to start, and caption the images; without images to caption, do not ask.

    Returns:
        The numbers of captions and problems; None if the user answers no.
    """
    from lirdrec.captions.pipeline import captioning

    with captioning(
        dataset,
        captioner,
        attributes,
        images=options.images,
        restart=options.restart,
        overwrite_edited=options.overwrite_edited,
    ) as job:
        n = len(job.waiting()) if options.limit is None else min(options.limit, len(job.waiting()))
        if n:
            _show_survey(job)
            n_probed = _confirm(job, n, attributes, server, options)
            if n_probed is None:
                return None
            try:
                _show_work(job, n - n_probed)
            except KeyboardInterrupt:
                print_line("Stopped; finished captions are saved. To continue, run the same command", errors=True)
                raise
        return job.finish()


def _refuse_unused(context: typer.Context, group: type, reason: str) -> None:
    """Raise a ConfigError if the user gave an option of `group`; its message is the option and then `reason`."""
    for field in dataclasses.fields(group):
        source = context.get_parameter_source(field.name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--{field.name.replace('_', '-')} {reason}")


def _confirm(
    job: Captioning, n: int, attributes: Attributes, server: ServerOptions, options: WorkOptions
) -> int | None:
    """Show what it will cost to caption `n` images, and ask whether to start.

    Returns:
        The number of images that were captioned already to measure the cost (0 without such a probe); None if the user
        answers no.
    """
    from lirdrec.captions.plan import PROBE, estimate

    captioner = job.captioner

    def measure() -> list[Answer]:
        answers: list[Answer] = []
        job.work(PROBE, answers.append)
        return answers

    def cost(answers: list[Answer] | None) -> Estimate:
        return estimate(
            captioner,
            attributes,
            n - len(answers or ()),
            probe=answers or (),
            price_in=server.price_input,
            price_out=server.price_output,
            requests_per_minute=server.requests_per_minute if captioner.remote else None,
        )

    probe = options.probe and n > PROBE
    question = f"Measure the first {PROBE} images? Their captions are kept" if probe else None
    go, answers = agreed(cost, captioner.location, captioner.remote, question, measure, options.yes)
    if go:
        return len(answers or ())
    if answers:
        print_line(f"{pluralize(len(answers), 'caption')} kept; to continue, run the same command", errors=True)
    return None


def _files(dataset: Path, images: Path | None, files: FileOptions) -> None:
    from lirdrec.captions.export_import import export_captions, import_captions

    if files.imported is not None:
        print_line(f"{pluralize(import_captions(dataset, files.imported), 'caption')} changed.")
    if files.export is not None:
        print_line(f"{pluralize(export_captions(dataset, files.export), 'item')} written to {files.export}.")
    if files.report is not None:
        from lirdrec.captions.html_report import write_caption_report

        print_line(f"Report: {write_caption_report(dataset, files.report, images)}")


def _show_work(job: Captioning, n: int) -> None:
    """Caption the next `n` images, and show a progress bar, or lines of text if the error stream is no terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

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


def _show_survey(job: Captioning) -> None:
    """Print how many items have an image to caption, and how many are left out, for each reason."""
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
        ["images to caption", len(job.waiting()), f"by {job.captioner.model} on {job.captioner.location}"],
    ]
    shown = [[name, f"{n:,}", note] for name, n, note in rows if n]
    console(errors=True).print(table(None, ["", "number", " "], shown, right=("number",)))


def _show_outcome(dataset: Path, outcome: Outcome) -> None:
    """Print the numbers of new captions, of items without a caption because of a problem, and the next command."""
    from lirdrec.captions.pipeline import PROBLEMS

    edited = f", {outcome.edited:,} of them by people" if outcome.edited else ""
    print_line(f"{pluralize(outcome.written, 'new caption')}; {outcome.captions:,} in total{edited}.")
    if outcome.tokens_in or outcome.tokens_out:
        tokens = pluralize(outcome.tokens_in, "input token"), pluralize(outcome.tokens_out, "output token")
        print_line(f"{', '.join(tokens)}.")
    if outcome.problems:
        reasons = f"{dataset / PROBLEMS} has the reasons; the same command tries these items again."
        print_line(f"{pluralize(outcome.problems, 'item')} without a caption: {reasons}", "yellow")
    if outcome.waiting:
        print_line(f"{pluralize(outcome.waiting, 'image')} left: to continue, run the same command.")
    if outcome.captions:
        print_line(f"To inspect them: lirdrec caption {dataset} --report captions.html")
