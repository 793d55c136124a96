"""`lirdrec features`: texts and pictures of a prepared dataset become feature matrices."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lirdrec.cli.confirm import PerMinuteOption, Plan, PriceInputOption, YesOption, agreed
from lirdrec.cli.output import JsonOption, console, print_json, settings, table, whole_number
from lirdrec.cli.prepare import named_file
from lirdrec.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from lirdrec.features.encode import Loop
    from lirdrec.features.job import FeatureJob, FeatureJobRunner
    from lirdrec.features.pipeline import FeatureRun
    from lirdrec.features.registry import What

EXTRA = 'pip install "lirdrec[encoders]"'
BETTER = {
    "text": ("hashed", "compares words, not meanings", "minilm"),
    "image": ("descriptor", "sees colours and edges, not things", "efficientnet-lite0"),
}

Models = list[str] | None


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(features)


def features(
    dataset: Annotated[Path, typer.Argument(help="A prepared dataset.")],
    text: Annotated[
        Models,
        typer.Option("--text", metavar="[NAME=]MODEL", help="Encode the items' texts; may be repeated."),
    ] = None,
    image: Annotated[
        Models, typer.Option("--image", metavar="[NAME=]MODEL", help="Encode their pictures; may be repeated.")
    ] = None,
    caption: Annotated[
        Models,
        typer.Option("--caption", metavar="[NAME=]MODEL", help="Encode the captions that lirdrec caption wrote."),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option("--add", metavar="NAME=FILE", help="Add vectors from a file, after what is encoded."),
    ] = None,
    template: Annotated[
        str | None, typer.Option("--text-template", help="What an item's text is made of: '{title}. {brand}'.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="The folder of the pictures, if not where prepare found it.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Words before every text; \\n is a new line.")] = None,
    pooling: Annotated[str | None, typer.Option("--pooling", help="mean, cls or last; by default the model's.")] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", help="Tokens of a text; the rest is cut.", callback=whole_number())
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Inputs at once; halves itself.", callback=whole_number())
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="float32, bfloat16 or float16.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Of a model on the hub.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget unfinished work; fit fitted encoders anew.")
    ] = False,
    reuse: Annotated[
        Path | None, typer.Option("--reuse", metavar="DATASET", help="Take vectors of another dataset too.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a matrix of this name that something else made.")
    ] = False,
    drop: Annotated[bool, typer.Option("--drop-without-features", help="Leave out items without any feature.")] = False,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Run on a Ray cluster (or: local).")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", help="Server: requests at once.", show_default="8", callback=whole_number()),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Server: seconds to wait for an answer.", show_default="120")
    ] = None,
    requests_per_minute: PerMinuteOption = None,
    price_input: PriceInputOption = None,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Measure a request for the estimate.")] = True,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Encode texts and pictures. Stopped at any moment, the same command goes on; only what changed is encoded again.

    MODEL is for texts hashed, minilm, endpoint:URL#MODEL, or any sentence-transformers or Hugging Face model by its
    name or folder; for pictures descriptor, efficientnet-lite0, or any Hugging Face vision model. hashed and
    descriptor are the defaults and need no download. A NAME of your own lets several encoders lie side by side.

    \b
      lirdrec features mydata                                        what there is, with the defaults
      lirdrec features mydata --text minilm --image efficientnet-lite0
      lirdrec features mydata --text BAAI/bge-base-en-v1.5 --text-template "{title}. {brand}. {category}"
      lirdrec features mydata --image clip=openai/clip-vit-base-patch32 --images covers/ --device cuda
      lirdrec features mydata --caption intfloat/e5-mistral-7b-instruct --precision bfloat16
      lirdrec features mydata --text minilm --add image=image_features_Baby.b
      lirdrec features mydata --text endpoint:http://localhost:8000#intfloat/e5-mistral-7b-instruct
    """
    from lirdrec.features.pipeline import local, make_features
    from lirdrec.features.registry import parse_jobs

    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"--batch-size {batch_size}: it must be 1 or more")
    wanted: list[tuple[What, str]] = [("text", one) for one in text or ()]
    wanted += [("image", one) for one in image or ()]
    wanted += [("caption", one) for one in caption or ()]
    added = [named_file(one, "--add") for one in add or ()]
    options = {
        "prompt": None if prompt is None else prompt.replace("\\n", "\n"),  # a shell leaves it as two characters
        "pooling": pooling,
        "max_length": max_length,
        "device": device,
        "precision": precision,
        "revision": revision,
        "concurrency": concurrency,
        "timeout": timeout,
        "requests_per_minute": requests_per_minute,
    }
    if added and not wanted:
        others = {"text_template": template, "images": images, "batch_size": batch_size, "reuse": reuse, "ray": ray}
        _refuse_unused(options | others | {"restart": restart or None, "drop_without_features": drop or None})
        _check_added(dataset, added, [], replace)
        return _add(dataset, added, replace, json)
    jobs = parse_jobs(
        dataset,
        wanted,
        template=template,
        images=images,
        options=options,
    )
    _check_server(jobs, price_input, requests_per_minute, ray)
    _check_added(dataset, added, [job.name for job in jobs], replace)
    with ExitStack() as stack:
        stack.enter_context(_kept(dataset))
        loop: Loop = local
        if ray is not None:
            from lirdrec.features.ray_backend import RayLoop

            loop = stack.enter_context(RayLoop(ray))
        made = make_features(
            dataset,
            jobs,
            batch_size=batch_size,
            restart=restart,
            reuse=reuse,
            drop=drop,
            replace=replace,
            progress=not settings.quiet and not json,
            loop=loop,
            before=partial(_agree, price=price_input, probe=probe, yes=yes),
        )
    if json:
        print_json([_plain(one) for one in made])
    else:
        _show(dataset, jobs, made, template)
    _add(dataset, added, replace, json)


def _check_server(jobs: Sequence[FeatureJob], price: float | None, per_minute: float | None, ray: str | None) -> None:
    from lirdrec.features.encoders.openai_embeddings import OpenAIEmbeddings

    if price is not None and not any(isinstance(job.encoder, OpenAIEmbeddings) for job in jobs):
        raise ConfigError("--price-input: no server is asked that could have a price; leave it out")
    if per_minute is not None and ray is not None:
        raise ConfigError("--requests-per-minute: each worker of --ray would ask so often; leave one of them out")


def _agree(works: Sequence[FeatureJobRunner], price: float | None, probe: bool, yes: bool) -> None:
    """Show what servers will get and what it takes, and ask; a no ends the command."""
    from lirdrec.features.encoders.openai_embeddings import OpenAIEmbeddings, RequestTiming, Waiting, estimate

    for encoder in dict.fromkeys(work.job.encoder for work in works):
        if not isinstance(encoder, OpenAIEmbeddings):
            continue
        waiting = Waiting(encoder)
        for work in works:
            if work.job.encoder is encoder:
                for texts in work.waiting():
                    waiting.add(texts)
        if not waiting.texts:
            continue
        place = f"{encoder.endpoint.name}, model {encoder.model}"
        question = f"Measure one request of {len(waiting.first)} texts?"
        plan = Plan[RequestTiming | None](
            partial(estimate, waiting, price=price),
            place,
            True,
            question if probe and waiting.texts > len(waiting.first) else None,
            partial(encoder.measure, waiting.first),
        )
        if not agreed(plan, yes)[0]:
            raise typer.Exit


def _refuse_unused(options: Mapping[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')}: with --add alone nothing is encoded; name an encoder (--text, --image or"
                " --caption), or leave it out"
            )


def _check_added(dataset: Path, files: Sequence[tuple[str, Path]], made: Sequence[str], replace: bool) -> None:
    """Look at the files before anything is encoded: a mistake in the last option must not show after hours."""
    from lirdrec.features.import_vectors import check_file

    names = [*made, *(name for name, _ in files)]
    for name, path in files:
        if names.count(name) > 1:
            raise ConfigError(
                f"--add {name}={path}: two of the matrices would be called '{name}'; give it another name"
            )
        check_file(dataset, name, path, replace)


def _add(dataset: Path, files: Sequence[tuple[str, Path]], replace: bool, quiet: bool) -> None:
    from lirdrec.data.ids import count
    from lirdrec.features.import_vectors import add_file

    for name, path in files:
        made = add_file(dataset, name, path, replace)
        if not quiet:
            console().print(f"{name}: vectors of {path} for {count(made.present, 'item')}.", markup=False)


@contextmanager
def _kept(dataset: Path) -> Iterator[None]:
    """Say, where work was cut short, that it is not lost."""
    from lirdrec.features.pipeline import WORK

    try:
        yield
    except (KeyboardInterrupt, TrainingError):
        if any((dataset / WORK).glob("*/[0-9]*.json")):  # a sealed shard
            console(errors=True).print("\nWhat is done is kept; the same command goes on.", markup=False)
        raise


def _plain(made: FeatureRun) -> dict[str, Any]:
    plain = made.summary()
    problems = [dict(zip(("item", "source", "problem"), one, strict=True)) for one in made.problems]
    return plain | {"problems": problems, "seconds": round(made.seconds, 3)}


def _show(dataset: Path, jobs: Sequence[FeatureJob], made: Sequence[FeatureRun], template: str | None) -> None:
    from lirdrec.data.ids import count

    out, named = console(), shlex.quote(str(dataset))
    columns = ["matrix", "encoder", "dims", "items", "missing", "problems", "cut", "items/s"]
    rows = [
        [
            one.name,
            _model(job),
            f"{one.dims:,}",
            f"{one.present:,}",
            f"{one.missing:,}",
            f"{one.n_problems:,}",
            f"{one.cut:,}",
            _speed(one),
        ]
        for job, one in zip(jobs, made, strict=True)
    ]
    out.print(table(f"Features of {dataset}", columns, rows, right=columns[2:]))
    for one in made:
        if one.copied or one.resumed:
            out.print(
                f"{one.name}: {count(one.encoded, 'input')} encoded now; {count(one.copied, 'item')} with a vector"
                f" already; {one.resumed:,} done by an earlier call that did not end.",
                markup=False,
            )
    for one in made:
        if one.problems:
            title = f"{count(one.n_problems, 'problem')} of {one.name}"
            if one.n_problems > len(one.problems):
                title += f", the first {len(one.problems)}"
            out.print(table(title, ["item", "source", "problem"], one.problems))
            out.print(f"All of them: {dataset}/features/{one.name}.problems.csv\n", markup=False)
    for job, one in zip(jobs, made, strict=True):
        if one.missing:
            what, path = "picture" if job.encoder.kind == "image" else "text", f"features/{one.name}.missing.csv"
            told = f"{count(one.missing, 'item')} without a {what} for {one.name}: {dataset}/{path}"
            out.print(told, soft_wrap=True, markup=False)
    if made and made[0].dropped:
        gone = made[0].dropped
        out.print(
            f"Left out for lack of features: {count(gone['items'], 'item')} with {count(gone['pairs'], 'pair')}."
            f" Without a training pair now: {count(gone['users'], 'user')};"
            f" {count(gone['held_out_pairs'], 'pair')} of theirs in valid and test left out, too.",
            style="yellow",
        )
    for job in jobs:
        default, fault, better = BETTER[job.encoder.kind]
        if _model(job) == default:
            command = _instead(dataset, job, better, template)
            out.print(f"{default} {fault}. Better: {EXTRA}, then {command}", markup=False, soft_wrap=True)
    seen = next((job.name for job in jobs if job.encoder.kind == "image"), jobs[0].name)
    out.print(
        f"To look at them: lirdrec inspect {named} --modality {seen} --html page.html", soft_wrap=True, markup=False
    )
    out.print(f"To train: lirdrec train {named} --run runs/first", soft_wrap=True, markup=False)


def _instead(dataset: Path, job: FeatureJob, model: str, template: str | None) -> str:
    """The command that makes the matrix of a job anew by another model."""
    from lirdrec.features.registry import CAPTION

    what = CAPTION if job.source.columns == (CAPTION,) else job.encoder.kind
    words = ["lirdrec", "features", str(dataset), f"--{what}", model if job.name == what else f"{job.name}={model}"]
    if template is not None and what == "text":
        words += ["--text-template", template]
    return shlex.join([*words, "--replace"])


def _model(job: FeatureJob) -> str:
    return str(job.origin["model"]) if job.origin else type(job.encoder).__name__


def _speed(made: FeatureRun) -> str:
    if not made.encoded or not made.seconds:
        return "–"
    speed = made.encoded / made.seconds
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"
