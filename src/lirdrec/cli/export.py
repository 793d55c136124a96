"""`lirdrec export`: vectors for other search engines, the item encoder for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lirdrec.cli.output import console
from lirdrec.cli.query import RunArgument


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(export)


def export(
    run: RunArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make.", show_default=False)],
    to: Annotated[str, typer.Option("--format", help="npy, faiss, qdrant, pgvector or onnx.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what the folder holds.")] = False,
) -> None:
    """Vectors for NumPy, faiss, Qdrant or PostgreSQL with pgvector; the item encoder as ONNX.

    \b
      lirdrec export runs/demo --format qdrant vectors
      lirdrec export runs/demo --format onnx encoder

    Every folder has a README.txt that says how to load and ask it.
    """
    from lirdrec.export.folder import check_kind
    from lirdrec.export.folder import export as write
    from lirdrec.recommender.recommender import Recommender

    check_kind(to)  # before the run is read, which may take long
    write(Recommender.load(run), to, folder, overwrite=overwrite)
    console().print(f"{folder} is written; {folder / 'README.txt'} says how to use it", markup=False, soft_wrap=True)
