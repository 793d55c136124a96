"""`lirdrec push | pull`: upload and download datasets and runs of the Hugging Face hub."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lirdrec.cli.options import FolderOption, OverwriteOption
from lirdrec.cli.output import console, settings
from lirdrec.cli.prepare import next_command

RepositoryArgument = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository.", show_default=False)]
EndpointOption = Annotated[
    str | None, typer.Option("--endpoint", help="Address of another hub (default: HF_ENDPOINT, or huggingface.co).")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(push)
    app.command()(pull)


def push(
    folder: Annotated[Path, typer.Argument(metavar="DATASET|RUN", help="A prepared dataset or a run folder.")],
    repository: RepositoryArgument,
    license_: Annotated[
        str | None, typer.Option("--license", help="mit, cc-by-4.0, other …, if the data do not name one.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make it visible to everyone (default: private).")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="A branch (default: main).")] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Description of this version.")] = None,
    no_metrics: Annotated[bool, typer.Option("--no-metrics", help="No metrics on the card of a run.")] = False,
    no_features: Annotated[
        bool, typer.Option("--no-features", help="Upload a run without features: smaller, but takes no new items.")
    ] = False,
    endpoint: EndpointOption = None,
) -> None:
    """Upload a prepared dataset or a run to the Hugging Face hub, with a card that describes it.

    \b
      lirdrec push runs/first me/films --license mit
      lirdrec push mydata me/films --public --license cc-by-4.0

    The repository is private without --public. Checksums are compared first; paths of this machine are removed.
    Log in once with `hf auth login`, or set HF_TOKEN.
    """
    from lirdrec.hub import push as upload

    address = upload(
        folder,
        repository,
        private=not public,
        license=license_,
        revision=revision,
        message=message,
        metrics=not no_metrics,
        features=not no_features,
        endpoint=endpoint,
        progress=_progress(),
    )
    console().print(f"{folder} is at {address}", markup=False, soft_wrap=True)


def pull(
    repository: RepositoryArgument,
    output: FolderOption,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit (default: main).")] = None,
    overwrite: OverwriteOption = False,
    endpoint: EndpointOption = None,
) -> None:
    """Download a prepared dataset or a run from the Hugging Face hub, and verify it.

    \b
      lirdrec pull me/films --output runs/films
      lirdrec pull datasets/me/films --output mydata

    If a run and a dataset have the same name, datasets/OWNER/NAME is the dataset. An interrupted pull resumes; without
    a connection, files of the hub's cache are used.
    """
    from lirdrec.hub import pull as download
    from lirdrec.recommender.run_folder import is_run

    folder = download(
        repository, output, revision=revision, overwrite=overwrite, endpoint=endpoint, progress=_progress()
    )
    then = shlex.join(["lirdrec", "recommend", str(folder), "--all"]) if is_run(folder) else next_command(folder)
    console().print(f"{repository} is in {folder}. Next: {then}", markup=False, soft_wrap=True)


def _progress() -> bool:
    return not settings.quiet and sys.stderr.isatty()
