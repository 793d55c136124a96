"""Make feature matrices of a prepared dataset: encode shard by shard, then add the joined matrices.

The contract of a `loop` that runs shards elsewhere than in this process is in `encode.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace as with_values
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.data.images import IMAGES
from lirdrec.data.storage import ITEMS, read_manifest, write_item_table
from lirdrec.data.transaction import dataset_lock, recover
from lirdrec.errors import ConfigError
from lirdrec.features.dataset_writer import FeatureResult, add_features, drop_items, read_frame
from lirdrec.features.encode import Loop, encode_shard, local
from lirdrec.features.job import FeatureJob, FeatureJobRunner
from lirdrec.features.sources import ImageSource
from lirdrec.features.write_checks import check_items_covered, check_not_empty, check_overwrite, covered
from lirdrec.files.atomic import write_errors
from lirdrec.files.locks import folder_lock
from lirdrec.files.shards import JOINING, has_partial_work

__all__ = ["FeatureJob", "FeatureResult", "FeatureRun", "encode_shard", "features_lock", "local", "make_features"]

WORK = "work/features"  # unfinished work, in the prepared folder
CHANGED = ".changed"  # below it, other files that change with the matrices; no matrix can have this name


FeatureRun = FeatureResult


@contextmanager
def features_lock(folder: str | Path) -> Iterator[Path]:
    """Lock a prepared folder while features are made; yields the folder of unfinished work.

    Raises:
        RunFolderError: another process holds the lock, or the folder cannot be written.
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
        with suppress(OSError):  # not empty: captions or unfinished work
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
) -> list[FeatureResult]:
    """Make feature matrices of a prepared dataset and add them to it in one step.

    If interrupted, the same call resumes, with the same bytes as an uninterrupted one. Inputs that already have a
    vector of the same encoder, in the dataset or in `reuse`, are not encoded again.

    Args:
        folder: the prepared dataset.
        jobs: the matrices; an existing one of the same name is replaced if the same encoder made it.
        batch_size: inputs of a batch; by default the encoder's own. It may change when resuming.
        restart: discard unfinished work, and fit encoders again.
        reuse: another prepared folder whose vectors may be copied.
        drop: remove items without features in any matrix from the dataset, with their interactions.
        replace: replace a matrix of the same name even if it is from the source data or another encoder.
        progress: show a progress bar on stderr.
        loop: what runs the shards; see `encode.py`.
        before: called with the runners before anything is encoded; an exception it raises ends the call.

    Raises:
        ConfigError: two jobs of one name, a matrix that must not be replaced, or unfinished work of other settings.
        DataError: a matrix would be empty, or an item has no features in any matrix; finished work is kept.
        RunFolderError: not a prepared dataset, locked by another process, or not writable.
    """
    folder = Path(folder)
    for prepared in (folder, reuse):
        if prepared is not None:
            read_manifest(prepared)  # raises before anything is created in another kind of folder
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise ConfigError(f"two of the matrices {', '.join(names)} have the same name; give each its own name")
    with features_lock(folder) as work_folder, _remove_empty_work(work_folder, names):
        recover(folder)
        if not replace:
            for job in jobs:
                check_overwrite(folder, job)
        reuse = None if reuse is None else Path(reuse)
        works = [FeatureJobRunner(folder, work_folder, job, restart, reuse) for job in jobs]
        before(works)
        for index, work in enumerate(works):
            work.run(batch_size, progress, loop)
            if not any(later.job.encoder is work.job.encoder for later in works[index + 1 :]):
                work.job.encoder.release()
        results = _add_to_dataset(folder, work_folder / CHANGED, works, drop)
        for work in works:
            work.shards.discard()
        shutil.rmtree(work_folder / CHANGED, ignore_errors=True)
    return results


def _add_to_dataset(
    folder: Path, changed_folder: Path, works: Sequence[FeatureJobRunner], drop: bool
) -> list[FeatureResult]:
    """Join the shards of each matrix and add all matrices to the dataset in one step; see `make_features`.

    Args:
        changed_folder: where other changed files of the dataset are written first.
    """
    joined = {work.job.name: work.join() for work in works}
    entries = {work.job.name: work.manifest_entry(joined[work.job.name]) for work in works}
    check_not_empty(works, joined)
    info, dropped, matrices = _image_folder(works), None, joined
    with dataset_lock(folder):  # from reading the item table to writing it: captions may change it, too
        recover(folder)
        keep = covered(folder, joined)
        if keep.all():
            files, counts = _changed_table(folder, changed_folder, works), None
        else:
            if not drop:
                check_items_covered(folder, keep, works, joined)
            table = _item_table(folder, works)
            changed = drop_items(folder, read_manifest(folder), table, keep, changed_folder, without=list(joined))
            files, counts, dropped = changed.files, changed.counts, changed.removed
            info = changed.info | info
            matrices = {work.job.name: work.join(keep) for work in works}
            matrices = {name: with_values(result, mask=result.mask[keep]) for name, result in matrices.items()}
        with _joining(works):
            add_features(folder, matrices, entries, info, files, counts)
    return [
        with_values(
            joined[work.job.name],
            name=work.job.name,
            encoded=work.encoded,
            copied=work.copied,
            resumed=work.resumed,
            seconds=work.seconds,
            entry=entries[work.job.name],
            dropped=dropped,
        )
        for work in works
    ]


@contextmanager
def _remove_empty_work(work_folder: Path, names: Sequence[str]) -> Iterator[None]:
    """On exit, remove the work folder of every matrix that has no finished shard."""
    try:
        yield
    finally:
        for name in names:
            if not has_partial_work(work_folder / name):
                shutil.rmtree(work_folder / name, ignore_errors=True)


@contextmanager
def _joining(works: Sequence[FeatureJobRunner]) -> Iterator[None]:
    """Mark the work as finished while it is added to the dataset, which may have other items afterwards.

    Without the mark, work left by a kill in between would be refused as unfinished work of other settings.
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


def _image_folder(works: Sequence[FeatureJobRunner]) -> dict[str, Any]:
    """The manifest entry of the image folder, if images were encoded."""
    roots = [work.job.source.root for work in works if isinstance(work.job.source, ImageSource)]
    return {IMAGES: str(roots[0].absolute())} if roots else {}


def _image_columns(works: Sequence[FeatureJobRunner]) -> dict[str, pl.Series]:
    """New columns of image paths, for item tables without one."""
    sources = [work.job.source for work in works if isinstance(work.job.source, ImageSource)]
    return {source.column: source.found for source in sources if source.found is not None}


def _item_table(folder: Path, works: Sequence[FeatureJobRunner]) -> pl.DataFrame:
    return read_frame(folder, read_manifest(folder), ITEMS).with_columns(**_image_columns(works))


def _changed_table(folder: Path, to: Path, works: Sequence[FeatureJobRunner]) -> dict[str, Path]:
    """The item table, written if it changes: name in the manifest → file."""
    if not _image_columns(works):
        return {}
    with write_errors(to):
        to.mkdir(parents=True, exist_ok=True)
        write_item_table(_item_table(folder, works), to / ITEMS)
    return {ITEMS: to / ITEMS}
