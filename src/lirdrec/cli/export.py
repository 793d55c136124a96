"""`lirdrec export`: export vectors to other search engines, and the item encoder to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lirdrec.cli.output import print_line
from lirdrec.cli.shared_options import OverwriteOption, RunArgument, option


def export(
    run: RunArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to write.", show_default=False)],
    kind: str = option(..., "npy, faiss, qdrant, pgvector or onnx.", "--format", show_default=False),
    overwrite: OverwriteOption = False,
) -> None:
    """Export vectors to NumPy, faiss, Qdrant or PostgreSQL with pgvector, or the item encoder to ONNX.

    \b
      lirdrec export runs/demo --format qdrant vectors
      lirdrec export runs/demo --format onnx encoder

    README.txt in the folder explains how to load and query the exported files.
    """
    from lirdrec.export.export import check_kind
    from lirdrec.export.export import export as write
    from lirdrec.recommender.recommender import Recommender

    check_kind(kind)  # before the run is read, which may take long
    write(Recommender.load(run), kind, folder, overwrite=overwrite)
    print_line(f"{folder} is written; {folder / 'README.txt'} explains how to use it")
