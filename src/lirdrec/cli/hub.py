"""`lirdrec push | pull`: upload and download datasets and runs of the Hugging Face hub."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lirdrec.cli.output import print_line, settings
from lirdrec.cli.prepare import next_command
from lirdrec.cli.shared_options import FolderOption, OverwriteOption, option

RepositoryArgument = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository.", show_default=False)]
EndpointOption = Annotated[str | None, option(..., "Address of another hub (default: HF_ENDPOINT, or huggingface.co).")]


def push(
    folder: Annotated[Path, typer.Argument(metavar="DATASET|RUN", help="A prepared dataset or a run folder.")],
    repository: RepositoryArgument,
    license_: str | None = option(None, "License, if the data do not name one: mit, cc-by-4.0, other …", "--license"),
    public: bool = option(False, "Make it visible to everyone (default: private)."),
    revision: str | None = option(None, "A branch (default: main)."),
    message: str | None = option(None, "Description of this version.", "--message", "-m"),
    no_metrics: bool = option(False, "No metrics on the card of a run."),
    no_features: bool = option(False, "Upload a run without features: smaller, but takes no new items."),
    endpoint: EndpointOption = None,
) -> None:
    """Upload a prepared dataset or a run to the Hugging Face hub, with a card that describes it.

    \b
      lirdrec push runs/first me/films --license mit
      lirdrec push mydata me/films --public --license cc-by-4.0

    Without --public the repository is private. First the files of the folder are compared with their checksums. Paths
    of this machine are removed from what is uploaded.
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
        progress=not settings.quiet and sys.stderr.isatty(),
    )
    print_line(f"{folder} is at {address}")


def pull(
    repository: RepositoryArgument,
    output: FolderOption,
    revision: str | None = option(None, "Branch, tag or commit (default: main)."),
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

    progress = not settings.quiet and sys.stderr.isatty()
    folder = download(repository, output, revision=revision, overwrite=overwrite, endpoint=endpoint, progress=progress)
    command = shlex.join(["lirdrec", "recommend", str(folder), "--all"]) if is_run(folder) else next_command(folder)
    print_line(f"{repository} is in {folder}. Next: {command}")
