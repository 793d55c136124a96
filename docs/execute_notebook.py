"""Runs `quickstart.ipynb` from top to bottom and keeps the outputs in it: `make notebook`.

The repository root is the working directory, and nothing of this machine is left in the file.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def main() -> None:
    """Run, clean, save."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
        cell.metadata.clear()
    notebook.metadata.clear()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    if str(ROOT) in nbformat.writes(notebook):
        raise SystemExit(f"{NOTEBOOK.name} would hold the path {ROOT}: change the cell that shows it")
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
