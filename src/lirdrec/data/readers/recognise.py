"""Which reader a folder needs."""

from __future__ import annotations

from pathlib import Path

from lirdrec.data.dataset import Dataset
from lirdrec.data.readers.mmrec import read_mmrec
from lirdrec.data.readers.recbole import read_recbole
from lirdrec.data.storage import MANIFEST, load
from lirdrec.errors import DataError


def read_any(path: str | Path) -> Dataset:
    """The dataset in a folder, whatever it is: a prepared dataset, an MMRec folder, RecBole's atomic files.

    Raises:
        DataError: it is none of these, or what is in it is wrong.
        RunFolderError: it is a prepared dataset that is damaged or from a newer version.
    """
    path = Path(path)
    if path.is_file():
        raise DataError(f"{path}: is a file; name a dataset's folder, or make one with lirdrec prepare")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    if (path / MANIFEST).is_file():
        return load(path)
    inters = sorted(path.glob("*.inter"))
    if not inters:
        raise DataError(
            f"{path}: neither a prepared dataset (no {MANIFEST}) nor an MMRec or RecBole folder (no .inter file);"
            " make a dataset of other files with lirdrec prepare"
        )
    with inters[0].open("rb") as file:
        typed = b":token" in file.readline()
    return read_recbole(path) if typed else read_mmrec(path)
