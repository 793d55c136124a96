"""From inputs to matrices: shards are encoded one after the other, sealed, and joined when all are there.

Whoever runs the shards elsewhere than in this process finds the contract of a `loop` in `encoding.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.data.images import IMAGES
from lirdrec.data.storage import ITEMS, read_manifest, write_item_table
from lirdrec.data.transaction import dataset_lock, recover
from lirdrec.errors import ConfigError
from lirdrec.features.checks import check_items_covered, check_not_empty, check_overwrite, covered
from lirdrec.features.encode import Loop, encode_shard, local
from lirdrec.features.job import FeatureJob, FeatureJobRunner
from lirdrec.features.sources import PictureSource
from lirdrec.features.writer import Joined, add_features, drop_items, read_frame
from lirdrec.files.atomic import write_errors
from lirdrec.files.locks import folder_lock
from lirdrec.files.shards import JOINING, has_partial_work

__all__ = ["FeatureJob", "FeatureRun", "encode_shard", "features_lock", "local", "make_features"]

WORK = "work/features"  # unfinished work, in the prepared folder
CHANGED = ".changed"  # below it, other files that change with the matrices; no matrix can have this name


@dataclass(frozen=True)
class FeatureRun:
    """A matrix that was made, and how it went.

    Attributes:
        name, dims: of the matrix.
        items: rows; `present` of them have a vector, `missing` have no input (they are listed in
            `features/NAME.missing.csv`), `n_problems` one that cannot be used.
        cut: items whose input was longer than the encoder's limit.
        problems: the first ten, as (item, source, sentence); all are in `features/NAME.problems.csv`.
        encoded: inputs that went through the encoder in this call; `copied`: items whose vector was known; `resumed`:
            items that an earlier call, which was stopped, had finished.
        seconds: that encoding took in this call.
        told: what the dataset notes about the matrix, `info["encoders"][NAME]`.
        dropped: what was left out of the dataset for want of features; None unless that was asked for and needed.
    """

    name: str
    dims: int
    items: int
    present: int
    missing: int
    n_problems: int
    problems: list[tuple[str, str, str]]
    cut: int
    encoded: int
    copied: int
    resumed: int
    seconds: float
    told: Mapping[str, Any]
    dropped: Mapping[str, int] | None = None


@contextmanager
def features_lock(folder: str | Path) -> Iterator[Path]:
    """Hold a prepared folder for the making of features; gives the folder of unfinished work.

    Raises:
        RunFolderError: another process makes some in it, or it cannot be written.
    """
    folder = Path(folder)
    try:
        with folder_lock(
            folder / WORK,
            lambda owner: f"{folder}: another process{owner} is making features of this dataset; wait until it ends",
            tidy=True,
        ) as work:
            yield work
    finally:
        with suppress(OSError):  # captions may lie beside, or unfinished work
            (folder / WORK).parent.rmdir()


def make_features(
    folder: str | Path,
    jobs: Sequence[FeatureJob],
    *,
    batch_size: int | None = None,
    restart: bool = False,
    reuse: str | Path | None = None,
    drop: bool = False,
    replace: bool = False,
    progress: bool = True,
    loop: Loop = local,
    before: Callable[[Sequence[FeatureJobRunner]], None] = lambda works: None,
) -> list[FeatureRun]:
    """Make feature matrices of a prepared dataset and add them to it, all together.

    Stopped at any moment, the same call goes on where it was, and the bytes are those of a call that was never stopped.
    What the dataset has a vector of already, by the same encoder, is not encoded again; neither is what `reuse` has.

    Args:
        folder: the prepared dataset.
        jobs: the matrices; one of a name that is there replaces it if the same encoder made it.
        batch_size: inputs of a batch; by default the encoder's own. Another one may be given to go on with.
        restart: forget unfinished work, and fit anew encoders that are fitted.
        reuse: another prepared folder whose vectors may be taken.
        drop: leave out of the dataset the items that have no features in any matrix, and their pairs.
        replace: replace a matrix of the same name even if it came with the data, or another encoder made it.
        progress: show a bar on the error stream.
        loop: what runs the shards; see `encoding.py`.
        before: told what there is to do before anything is encoded; what it raises ends the call.

    Raises:
        ConfigError: two jobs of one name, a matrix that is not to be replaced, or unfinished work of other settings.
        DataError: a matrix would be empty, or an item has no features in any matrix; finished work is kept.
        RunFolderError: no prepared dataset, held by another process, or it cannot be written.
    """
    folder = Path(folder)
    for one in (folder, reuse):
        if one is not None:
            read_manifest(one)  # before anything is made in a folder that is none
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise ConfigError(f"two of the matrices {', '.join(names)} have one name; give them names of their own")
    with features_lock(folder) as place, _remove_empty_work(place, names):
        recover(folder)
        if not replace:
            for job in jobs:
                check_overwrite(folder, job)
        works = [FeatureJobRunner(folder, place, job, restart, None if reuse is None else Path(reuse)) for job in jobs]
        before(works)
        for at, work in enumerate(works):
            work.run(batch_size, progress, loop)
            if not any(later.job.encoder is work.job.encoder for later in works[at + 1 :]):
                work.job.encoder.release()
        joined = {work.job.name: work.join() for work in works}
        told = {work.job.name: work.told(joined[work.job.name]) for work in works}
        check_not_empty(works, joined)
        matrices = {name: one.matrix for name, one in joined.items()}
        noted = _pictures(works)
        with dataset_lock(folder):  # from reading the item table to writing it: captions may change it, too
            recover(folder)
            keep = covered(folder, joined)
            if keep.all():
                dropped = None
                with _joining(works):
                    add_features(folder, matrices, told, noted, _changed_table(folder, place / CHANGED, works))
            else:
                if not drop:
                    check_items_covered(folder, keep, works, joined)
                table = _item_table(folder, works)
                changed = drop_items(folder, read_manifest(folder), table, keep, place / CHANGED, without=names)
                dropped = changed.told
                matrices = {work.job.name: work.join(keep).matrix for work in works}
                with _joining(works):
                    add_features(folder, matrices, told, changed.info | noted, changed.files, changed.counts)
        for work in works:
            work.shards.discard()
        shutil.rmtree(place / CHANGED, ignore_errors=True)
    return [_made(work, joined[work.job.name], told[work.job.name], dropped) for work in works]


@contextmanager
def _remove_empty_work(place: Path, names: Sequence[str]) -> Iterator[None]:
    """Whatever ends the work: a matrix of which no shard was sealed leaves nothing that could stand in the way."""
    try:
        yield
    finally:
        for name in names:
            if not has_partial_work(place / name):
                shutil.rmtree(place / name, ignore_errors=True)


@contextmanager
def _joining(works: Sequence[FeatureJobRunner]) -> Iterator[None]:
    """Mark the work as finished while it joins the dataset, which may have other items afterwards.

    After a kill between the two, what was left would else be refused as unfinished work of other settings.
    """
    marks = [work.place / JOINING for work in works]
    for mark in marks:
        mark.touch()
    try:
        yield
    except BaseException:
        for mark in marks:
            mark.unlink(missing_ok=True)
        raise


def _pictures(works: Sequence[FeatureJobRunner]) -> dict[str, Any]:
    """The folder of the pictures, for whoever shows them later."""
    roots = [work.job.source.root for work in works if isinstance(work.job.source, PictureSource)]
    return {IMAGES: str(roots[0].absolute())} if roots else {}


def _found(works: Sequence[FeatureJobRunner]) -> dict[str, pl.Series]:
    """The columns of pictures that this call has found."""
    sources = [work.job.source for work in works if isinstance(work.job.source, PictureSource)]
    return {one.column: one.found for one in sources if one.found is not None}


def _item_table(folder: Path, works: Sequence[FeatureJobRunner]) -> pl.DataFrame:
    return read_frame(folder, read_manifest(folder), ITEMS).with_columns(**_found(works))


def _changed_table(folder: Path, to: Path, works: Sequence[FeatureJobRunner]) -> dict[str, Path]:
    """The item table as a file, if it changes: name in the manifest → file."""
    if not _found(works):
        return {}
    with write_errors(to):
        to.mkdir(parents=True, exist_ok=True)
        write_item_table(_item_table(folder, works), to / ITEMS)
    return {ITEMS: to / ITEMS}


def _made(
    work: FeatureJobRunner, joined: Joined, told: Mapping[str, Any], dropped: Mapping[str, int] | None
) -> FeatureRun:
    return FeatureRun(
        name=work.job.name,
        dims=joined.matrix.dims,
        items=len(joined.present),
        present=joined.matrix.present,
        missing=joined.missing,
        n_problems=joined.n_problems,
        problems=joined.problems,
        cut=joined.cut,
        encoded=work.encoded,
        copied=work.copied,
        resumed=work.resumed,
        seconds=work.seconds,
        told=told,
        dropped=dropped,
    )
