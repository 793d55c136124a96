"""Sealed shards become the files of one matrix, block by block: memory holds a few bytes an item, never the matrix."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lirdrec.atomic import share, write_errors
from lirdrec.data.columns import ITEM
from lirdrec.data.storage import matrix_header
from lirdrec.features.shards import Shards
from lirdrec.features.sources import KEY_BYTES, ItemRows
from lirdrec.features.store import CUT, KEYS, MASK, MISSING, PROBLEMS, STATE, VALUES, NewMatrix

SHOWN = 10  # problems that are told at once


@dataclass(frozen=True)
class Joined:
    """A matrix that is ready to be added.

    Attributes:
        matrix: its files.
        present: `(I,)` bool.
        missing, cut: items without an input; items whose input was longer than the encoder's limit.
        n_problems: items whose input could not be used.
        problems: the first of them, as (item, source, sentence).
    """

    matrix: NewMatrix
    present: np.ndarray
    missing: int
    cut: int
    n_problems: int
    problems: list[tuple[str, str, str]]


def join(
    shards: Shards, folder: Path, rows: ItemRows, state: Mapping[str, np.ndarray], keep: np.ndarray | None = None
) -> Joined:
    """Write the files of a matrix.

    Args:
        shards: all of them sealed.
        folder: where to write; what is there is replaced.
        rows: the item table, for the ids of items with problems.
        state: what the encoder was fitted to, if anything.
        keep: `(I,)` bool, the items that stay; by default all.

    Raises:
        RunFolderError: it cannot be written (a full disk included).
    """
    n = shards.n_rows
    keep = np.ones(n, dtype=bool) if keep is None else keep
    present, cut = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    files = {ending: folder / f"matrix{ending}" for ending in (VALUES, MASK, KEYS)}
    dims = missing = n_problems = 0
    told: list[tuple[str, str, str]] = []
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (
            files[VALUES].open("wb") as values,
            files[KEYS].open("wb") as keys,
            (folder / f"matrix{PROBLEMS}").open("w", encoding="utf-8", newline="") as list_of_problems,
            (folder / f"matrix{MISSING}").open("w", encoding="utf-8", newline="") as list_of_missing,
        ):
            writer = csv.writer(list_of_problems, lineterminator="\n")
            writer.writerow((ITEM, "source", "problem"))
            without = csv.writer(list_of_missing, lineterminator="\n")
            without.writerow((ITEM,))
            keys.write(matrix_header(np.dtype(np.uint8), (int(keep.sum()), KEY_BYTES)))
            for index in range(len(shards)):
                at, shard = shards.rows(index), shards.read(index)
                some = slice(at.start, at.stop)
                vectors = shard.arrays["vectors"]
                if index == 0:
                    dims = vectors.shape[1]
                    values.write(matrix_header(vectors.dtype, (int(keep.sum()), dims)))
                values.write(np.ascontiguousarray(vectors[keep[some]]).data)
                present[some], cut[some] = shard.arrays["present"], shard.arrays["cut"]
                keys.write(np.ascontiguousarray(shard.arrays["keys"][keep[some]]).data)
                missing += shard.facts["missing"]
                n_problems += len(shard.facts["problems"])
                if shard.facts["problems"] or shard.facts["missing"]:
                    ids = rows.read(at.start, at.stop)[ITEM]
                    lines = [(str(ids[place]), source, fault) for place, source, fault in shard.facts["problems"]]
                    writer.writerows(lines)
                    told += lines[: SHOWN - len(told)]
                    bare = np.asarray(~shard.arrays["keys"].any(axis=1))  # problems may have no key either
                    bare[[place for place, *_ in shard.facts["problems"]]] = False
                    without.writerows((str(ids[place]),) for place in np.flatnonzero(bare).tolist())
        np.save(files[MASK], present[keep])
        if cut.any():
            files[CUT] = folder / f"matrix{CUT}"
            np.save(files[CUT], cut[keep])
        if n_problems:
            files[PROBLEMS] = folder / f"matrix{PROBLEMS}"
        if missing:
            files[MISSING] = folder / f"matrix{MISSING}"
        if state:
            files[STATE] = folder / f"matrix{STATE}"
            save_file(dict(sorted(state.items())), files[STATE])
            share(files[STATE])
    matrix = NewMatrix(files, dims, "float32", int(present.sum()))
    return Joined(matrix, present, missing, int(cut.sum()), n_problems, told)
