"""`lirdrec caption`: pictures into words, by a model on this machine or by a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lirdrec.cli.confirm import PerMinuteOption, Plan, PriceInputOption, YesOption, agreed
from lirdrec.cli.output import JsonOption, console, print_json, whole_number
from lirdrec.errors import ConfigError

if TYPE_CHECKING:
    from lirdrec.captions.captioner import Answer, Captioner
    from lirdrec.captions.pipeline import Captioning
    from lirdrec.features.remote.cost import Estimate


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("caption")(caption)


LOCAL = ("revision", "device", "device_map", "precision", "batch_size")
SERVER = ("concurrency", "timeout", "requests_per_minute", "price_input", "price_output")


def caption(
    context: typer.Context,
    dataset: Annotated[Path | None, typer.Argument(help="A prepared dataset.", show_default=False)] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="Name on the hub or folder (meta-llama/Llama-3.2-11B-Vision-Instruct); the server's name."
        ),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help="Ask this OpenAI-compatible server instead.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the pictures (default: the one prepare noted).")
    ] = None,
    attributes: Annotated[
        Path | None, typer.Option("--attributes", metavar="FILE", help="TOML file: what to ask for.")
    ] = None,
    show_prompt: Annotated[bool, typer.Option("--show-prompt", help="Print the prompt and stop.")] = False,
    show_attributes: Annotated[
        bool, typer.Option("--show-attributes", help="Print the attributes as a TOML file to edit, and stop.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Pictures to do this time.", callback=whole_number())
    ] = None,
    yes: YesOption = False,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Measure 3 pictures for the estimate.")] = True,
    price_input: PriceInputOption = None,
    price_output: Annotated[
        float | None, typer.Option("--price-output", metavar="PRICE", min=0, help="Of a million tokens written.")
    ] = None,
    restart: Annotated[bool, typer.Option("--no-resume", help="Forget unfinished work.")] = False,
    overwrite_edited: Annotated[
        bool, typer.Option("--overwrite-edited", help="Replace what people wrote or changed, too.")
    ] = False,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write the captions to a CSV file, to be edited.")
    ] = None,
    take: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Take the captions of an edited file.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write a page: pictures beside their captions.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", help="Server: requests at once.", callback=whole_number())
    ] = 8,
    timeout: Annotated[float, typer.Option("--timeout", help="Server: seconds to wait for an answer.")] = 120.0,
    requests_per_minute: PerMinuteOption = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Local: commit, tag or branch of the model.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Local: auto, cpu, cuda or mps.")] = "auto",
    device_map: Annotated[
        str | None, typer.Option("--device-map", help="Local: spread the model over devices (auto).")
    ] = None,
    precision: Annotated[str, typer.Option("--precision", help="Local: bfloat16, float16 or float32.")] = "bfloat16",
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Local: pictures at once.", callback=whole_number())
    ] = 8,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Tokens of an answer at most.", callback=whole_number())
    ] = 400,
    side: Annotated[
        int, typer.Option("--max-side", help="Pixels of a picture's longer side at most.", callback=whole_number())
    ] = 1024,
    json: JsonOption = False,
) -> None:
    """Describe the picture of each item in words, attribute by attribute, by a multimodal language model.

    \b
      lirdrec caption mydata                                        on this machine
      lirdrec caption mydata --endpoint http://localhost:8000 --model NAME
      lirdrec caption mydata --export captions.csv                  edit it, then
      lirdrec caption mydata --import captions.csv
      lirdrec caption mydata --report captions.html                 look at them

    Stopped at any moment, the same command goes on; only new and changed pictures are asked about again, and captions
    that people edited are kept. A server's key is read from LIRDREC_API_KEY or OPENAI_API_KEY.
    """
    from lirdrec.captions.prompt import Attributes, read_attributes, render, to_toml

    asked = read_attributes(attributes) if attributes is not None else Attributes()
    if show_prompt or show_attributes:
        print(render(asked) if show_prompt else to_toml(asked).rstrip())
        return
    if dataset is None:
        raise ConfigError("name the prepared dataset: lirdrec caption DATASET")
    if endpoint is None:
        _refuse_unused(context, SERVER, "is about a server: name it with --endpoint, or leave this out")
    else:
        _refuse_unused(context, LOCAL, "is about a model on this machine, and --endpoint asks a server: leave it out")
    if export is not None or take is not None or report is not None:
        return _files(dataset, images, export, take, report)
    from lirdrec.captions.pipeline import captioning
    from lirdrec.captions.plan import estimate
    from lirdrec.cli.caption_display import show_outcome, show_survey, work

    prompt = render(asked)
    captioner: Captioner
    if endpoint is not None:
        from lirdrec.captions.openai_captioner import OpenAICaptioner
        from lirdrec.features.remote.client import OpenAIClient

        server = OpenAIClient(
            endpoint, concurrency=concurrency, timeout=timeout, requests_per_minute=requests_per_minute
        )
        captioner = OpenAICaptioner(server, model or "", prompt, max_tokens, side)
    else:
        from lirdrec.captions.transformers_captioner import MODEL, TransformersCaptioner

        captioner = TransformersCaptioner(
            prompt,
            model or MODEL,
            revision=revision,
            device=device,
            precision=precision,  # type: ignore[arg-type]  # checked there
            device_map=device_map,
            batch_size=batch_size,
            max_tokens=max_tokens,
            side=side,
        )
    with captioning(
        dataset, captioner, asked, images=images, restart=restart, overwrite_edited=overwrite_edited
    ) as job:
        n = len(job.waiting()) if limit is None else min(limit, len(job.waiting()))
        if n:
            show_survey(job)
            outlook = partial(
                estimate,
                captioner,
                asked,
                price_in=price_input,
                price_out=price_output,
                requests_per_minute=requests_per_minute if captioner.remote else None,
            )
            done = _agree(job, outlook, n, yes, probe)
            if done is None:
                return
            try:
                work(job, n - done)
            except KeyboardInterrupt:
                console(errors=True).print("Stopped; what is done is kept. Go on: the same command again")
                raise
        outcome = job.finish()
    if json:
        return print_json(dataclasses.asdict(outcome))
    show_outcome(dataset, outcome)


def _refuse_unused(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--{name.replace('_', '-')} {why}")


def _agree(job: Captioning, outlook: Callable[..., Estimate], n: int, yes: bool, probe: bool) -> int | None:
    """Show what `n` pictures will take and ask; gives the number measured by then, or None for no."""
    from lirdrec.captions.plan import PROBE
    from lirdrec.data.ids import count

    def measured() -> list[Answer]:
        answers: list[Answer] = []
        job.work(PROBE, answers.append)
        return answers

    def expected(answers: list[Answer] | None) -> Estimate:
        return outlook(n - len(answers or ()), probe=answers or ())

    question = f"Measure the first {PROBE} pictures? Their captions are kept" if probe and n > PROBE else None
    go, answers = agreed(Plan(expected, job.captioner.place, job.captioner.remote, question, measured), yes)
    if go:
        return len(answers or ())
    if answers:
        console(errors=True).print(f"{count(len(answers), 'caption')} kept; the same command goes on", soft_wrap=True)
    return None


def _files(dataset: Path, images: Path | None, export: Path | None, take: Path | None, report: Path | None) -> None:
    out = console()
    if take is not None:
        from lirdrec.captions.csv_files import import_captions
        from lirdrec.data.ids import count

        out.print(f"{count(import_captions(dataset, take), 'caption')} changed.", soft_wrap=True)
    if export is not None:
        from lirdrec.captions.csv_files import export_captions
        from lirdrec.data.ids import count

        n = export_captions(dataset, export)
        out.print(f"{count(n, 'item')} written to {export}.", markup=False, soft_wrap=True)
    if report is not None:
        from lirdrec.captions.report import write_case_study

        out.print(f"Report: {write_case_study(dataset, report, images)}", markup=False, soft_wrap=True)
