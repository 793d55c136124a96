"""`lirdrec caption`: describe the items' images in words, by a local model or a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lirdrec.cli.confirm import Plan, agreed
from lirdrec.cli.options import (
    GroupedCommand,
    ImagesOption,
    JsonOption,
    NoResumeOption,
    PerMinuteOption,
    PriceInputOption,
    RevisionOption,
    YesOption,
    grouped,
    integer,
)
from lirdrec.cli.output import console, print_json
from lirdrec.errors import ConfigError

if TYPE_CHECKING:
    from lirdrec.captions.captioner import Answer, Captioner
    from lirdrec.captions.pipeline import Captioning, Outcome
    from lirdrec.captions.prompt import Attributes
    from lirdrec.features.remote.cost import Estimate


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("caption", cls=GroupedCommand)(grouped(caption))


@dataclass(frozen=True)
class PromptOptions:
    """Prompt"""

    attributes: Annotated[
        Path | None, typer.Option("--attributes", metavar="FILE", help="TOML file of the attributes to ask for.")
    ] = None
    show_prompt: Annotated[bool, typer.Option("--show-prompt", help="Print the prompt and stop.")] = False
    show_attributes: Annotated[
        bool, typer.Option("--show-attributes", help="Print the attributes as a TOML file to edit, and stop.")
    ] = False
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Maximum tokens of an answer.", callback=integer())
    ] = 400
    side: Annotated[
        int,
        typer.Option(
            "--max-side",
            help="Maximum pixels of an image's longer side; larger ones are scaled down.",
            callback=integer(1),
        ),
    ] = 1024


@dataclass(frozen=True)
class ServerOptions:
    """Captions by a server"""

    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help="Use this OpenAI-compatible server.")
    ] = None
    concurrency: Annotated[int, typer.Option("--concurrency", help="Parallel requests.", callback=integer())] = 8
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for a response.")] = 120.0
    requests_per_minute: PerMinuteOption = None
    price_input: PriceInputOption = None
    price_output: Annotated[
        float | None, typer.Option("--price-output", metavar="PRICE", min=0, help="Price per million output tokens.")
    ] = None


@dataclass(frozen=True)
class LocalOptions:
    """Captions by a local model"""

    revision: RevisionOption = None
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto"
    device_map: Annotated[
        str | None, typer.Option("--device-map", help="Distribute the model over devices (auto).")
    ] = None
    precision: Annotated[str, typer.Option("--precision", help="bfloat16, float16 or float32.")] = "bfloat16"
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images of a batch.", callback=integer())] = 8


@dataclass(frozen=True)
class WorkOptions:
    """Which images"""

    images: ImagesOption = None
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Maximum number of images of this call.", callback=integer())
    ] = None
    restart: NoResumeOption = False
    overwrite_edited: Annotated[
        bool, typer.Option("--overwrite-edited", help="Replace captions that people edited, too.")
    ] = False
    yes: YesOption = False
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Caption 3 images to measure time and tokens.")] = (
        True
    )


@dataclass(frozen=True)
class FileOptions:
    """Files of captions (nothing is captioned)"""

    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write the captions to a CSV file, for editing.")
    ] = None
    imported: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Import the captions of an edited CSV file.")
    ] = None
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write an HTML page of images and captions.")
    ] = None


def caption(
    context: typer.Context,
    prompt: PromptOptions,
    server: ServerOptions,
    local: LocalOptions,
    work: WorkOptions,
    files: FileOptions,
    dataset: Annotated[Path | None, typer.Argument(help="A prepared dataset.", show_default=False)] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Name on the Hugging Face hub or folder (default: meta-llama/Llama-3.2-11B-Vision-Instruct);"
            " with --endpoint, the server's name of the model.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Describe each item's image in words, attribute by attribute, with a multimodal language model.

    \b
      lirdrec caption mydata                                        by a local model
      lirdrec caption mydata --endpoint http://localhost:8000 --model NAME
      lirdrec caption mydata --export captions.csv                  edit it, then
      lirdrec caption mydata --import captions.csv
      lirdrec caption mydata --report captions.html                 compare images and captions

    If interrupted, the same command resumes. Only new and changed images are captioned again; captions that people
    edited are kept. The server's key is read from LIRDREC_API_KEY or OPENAI_API_KEY.
    """
    from lirdrec.captions.prompt import Attributes, read_attributes, render, to_toml

    attributes = read_attributes(prompt.attributes) if prompt.attributes is not None else Attributes()
    if prompt.show_prompt or prompt.show_attributes:
        print(render(attributes) if prompt.show_prompt else to_toml(attributes).rstrip())
        return
    if dataset is None:
        raise ConfigError("name the prepared dataset: lirdrec caption DATASET")
    if server.endpoint is None:
        _refuse_unused(context, ServerOptions, "is about a server: name it with --endpoint, or leave this out")
    else:
        _refuse_unused(context, LocalOptions, "is about a local model, and --endpoint uses a server: leave it out")
    if files != FileOptions():
        return _files(dataset, work.images, files)
    from lirdrec.cli.caption_output import show_outcome

    outcome = _caption_images(dataset, _captioner(model, attributes, prompt, server, local), attributes, server, work)
    if outcome is None:
        return
    if json:
        return print_json(dataclasses.asdict(outcome))
    show_outcome(dataset, outcome)


def _captioner(
    model: str | None, attributes: Attributes, prompt: PromptOptions, server: ServerOptions, local: LocalOptions
) -> Captioner:
    from lirdrec.captions.prompt import render

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

    return TransformersCaptioner(
        render(attributes),
        model or MODEL,
        revision=local.revision,
        device=local.device,
        precision=local.precision,  # type: ignore[arg-type]  # checked there
        device_map=local.device_map,
        batch_size=local.batch_size,
        max_tokens=prompt.max_tokens,
        side=prompt.side,
    )


def _caption_images(
    dataset: Path, captioner: Captioner, attributes: Attributes, server: ServerOptions, options: WorkOptions
) -> Outcome | None:
    """Show the plan, ask, and caption; None if the answer is no."""
    from lirdrec.captions.pipeline import captioning
    from lirdrec.captions.plan import estimate
    from lirdrec.cli.caption_output import show_survey, work

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
            show_survey(job)
            estimate_cost = partial(
                estimate,
                captioner,
                attributes,
                price_in=server.price_input,
                price_out=server.price_output,
                requests_per_minute=server.requests_per_minute if captioner.remote else None,
            )
            n_probed = _confirm(job, estimate_cost, n, options.yes, options.probe)
            if n_probed is None:
                return None
            try:
                work(job, n - n_probed)
            except KeyboardInterrupt:
                console(errors=True).print("Stopped; finished captions are saved. To continue: the same command")
                raise
        return job.finish()


def _refuse_unused(context: typer.Context, group: type, reason: str) -> None:
    """Raises a ConfigError if an option of the group was given."""
    for field in dataclasses.fields(group):
        source = context.get_parameter_source(field.name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--{field.name.replace('_', '-')} {reason}")


def _confirm(job: Captioning, estimate_cost: Callable[..., Estimate], n: int, yes: bool, probe: bool) -> int | None:
    """Show what `n` images will cost and ask; the number of images that the probe captioned, or None for no."""
    from lirdrec.captions.plan import PROBE
    from lirdrec.data.ids import pluralize

    def measured() -> list[Answer]:
        answers: list[Answer] = []
        job.work(PROBE, answers.append)
        return answers

    def expected(answers: list[Answer] | None) -> Estimate:
        return estimate_cost(n - len(answers or ()), probe=answers or ())

    question = f"Measure the first {PROBE} images? Their captions are kept" if probe and n > PROBE else None
    go, answers = agreed(Plan(expected, job.captioner.place, job.captioner.remote, question, measured), yes)
    if go:
        return len(answers or ())
    if answers:
        console(errors=True).print(
            f"{pluralize(len(answers), 'caption')} kept; the same command continues", soft_wrap=True
        )
    return None


def _files(dataset: Path, images: Path | None, files: FileOptions) -> None:
    from lirdrec.data.ids import pluralize

    out = console()
    if files.imported is not None:
        from lirdrec.captions.csv_files import import_captions

        out.print(f"{pluralize(import_captions(dataset, files.imported), 'caption')} changed.", soft_wrap=True)
    if files.export is not None:
        from lirdrec.captions.csv_files import export_captions

        n = export_captions(dataset, files.export)
        out.print(f"{pluralize(n, 'item')} written to {files.export}.", markup=False, soft_wrap=True)
    if files.report is not None:
        from lirdrec.captions.report import write_case_study

        out.print(f"Report: {write_case_study(dataset, files.report, images)}", markup=False, soft_wrap=True)
