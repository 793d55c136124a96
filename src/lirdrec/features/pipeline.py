"""Make feature matrices of a prepared dataset: encode shard by shard, check, then add the joined matrices.

`encode.py` says what a `loop` must do that encodes the shards (ranges of items) elsewhere than in this process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace as with_values
from pathlib import Path

import numpy as np

from lirdrec.data.column_names import ITEM
from lirdrec.data.features import open_array
from lirdrec.data.ids import describe_ids
from lirdrec.data.storage import ITEMS, read_manifest, resolve_path, write_item_table
from lirdrec.data.transaction import dataset_lock, recover
from lirdrec.errors import ConfigError, DataError, RunFolderError, describe_error
from lirdrec.features.dataset_writer import (
    MASK,
    PROBLEMS,
    SHOWN,
    FeatureResult,
    add_features,
    drop_items,
    file_name,
    read_frame,
)
from lirdrec.features.encode import Loop, encode_shard, local
from lirdrec.features.job_runner import FeatureJob, FeatureJobRunner, bare, json_like
from lirdrec.features.sources import FileSource, ItemRows, default_texts, names_images
from lirdrec.files.atomic import write_errors
from lirdrec.files.locks import folder_lock
from lirdrec.files.shards import JOINING, has_partial_work
from lirdrec.option_names import option_text
from lirdrec.wording import pluralize

__all__ = ["FeatureJob", "FeatureResult", "FeatureRun", "encode_shard", "features_lock", "local", "make_features"]

WORK = "work/features"  # unfinished work, in the prepared folder
CHANGED = ".changed"  # subfolder for other files that change with the matrices; no matrix can have this name

FeatureRun = FeatureResult
NOUNS = {"text": "text", "image": "image", "audio": "sound", "video": "video", "joint": "text or image"}
Joined = Mapping[str, FeatureResult]  # by the names of the matrices


@contextmanager
def features_lock(folder: str | Path) -> Iterator[Path]:
    """Context manager: inside the block, no other process can make features of the dataset.

    It yields the folder of unfinished work.

    Raises:
        RunFolderError: another process holds the lock, or the folder cannot be written.
    """
    work_folder = Path(folder) / WORK
    try:
        with folder_lock(
            work_folder,
            lambda owner: f"{folder}: another process{owner} is making features of this dataset; wait until it ends",
            tidy=True,
        ) as work:
            yield work
    finally:
        with suppress(OSError):  # not empty: captions or unfinished work
            work_folder.parent.rmdir()


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
    """Make feature matrices of a prepared dataset, add them to it in one step, and return a result for each job.

    If interrupted, the same call resumes, with the same bytes as an uninterrupted one. Inputs that already have a
    vector of the same encoder, in the dataset or in `reuse`, are not encoded again.

    Args:
        jobs: the matrices to make; an existing matrix of the same name is replaced if the same encoder made it.
        batch_size: number of inputs in a batch, by default the encoder's own; it may change when resuming.
        restart: discard unfinished work, and fit encoders again.
        reuse: another prepared folder whose vectors may be copied.
        drop: remove items without features in any matrix from the dataset, with their interactions; else they are an
            error.
        replace: replace a matrix of the same name even if it is from the source data or another encoder.
        progress: whether to show progress bars.
        loop: what encodes the shards; see `encode.py`.
        before: called with the runners before anything is encoded; an exception that it raises ends the call.

    Raises:
        ConfigError: two jobs have the same name, a matrix may not be replaced, or unfinished work has other settings.
        DataError: a matrix would be empty; or an item has no features in any matrix, then finished work is kept.
        RunFolderError: the folder is not a prepared dataset, is locked by another process, or is not writable.
    """
    folder, reuse = Path(folder), None if reuse is None else Path(reuse)
    for prepared in (folder, reuse):
        if prepared is not None:
            read_manifest(prepared)  # raises before anything is created in another kind of folder
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two of the matrices {', '.join(names)} have the same name; give each its own name (NAME=MODEL)"
        )
    with features_lock(folder) as work_folder, _remove_empty_work(work_folder, names):
        recover(folder)
        if not replace:
            for job in jobs:
                _check_overwrite(folder, job)
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

    Other changed files of the dataset are first written to `changed_folder`.
    """
    joined = {work.job.name: work.join() for work in works}
    _check_not_empty(works, joined)
    sources = [source for work in works for source in work.job.source.files]
    info = {source.media.folder: str(source.root.absolute()) for source in sources}
    columns = {source.column: source.found for source in sources if source.found is not None}
    files, counts, dropped, matrices = {}, None, None, joined
    with dataset_lock(folder):  # from reading the item table to writing it: captions may change it, too
        recover(folder)
        manifest = read_manifest(folder)
        keep = _covered(folder, joined)
        if not keep.all() and not drop:
            _check_items_covered(folder, keep, works, joined)
        if columns or not keep.all():
            table = read_frame(folder, manifest, ITEMS).with_columns(**columns)
        if not keep.all():
            changed = drop_items(folder, manifest, table, keep, changed_folder, without=list(joined))
            files, counts, dropped = changed.files, changed.counts, changed.removed
            info = changed.info | info
            matrices = {work.job.name: work.join(keep) for work in works}
        elif columns:
            files = {ITEMS: changed_folder / ITEMS}
            with write_errors(changed_folder):
                changed_folder.mkdir(parents=True, exist_ok=True)
                write_item_table(table, files[ITEMS])
        with _joining(works):
            entries = {name: result.entry for name, result in joined.items()}
            add_features(folder, matrices, entries, info, files, counts)
    return [with_values(result, dropped=dropped) for result in matrices.values()]


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
    """Mark the work as finished inside the block, which adds it to the dataset; on an error, remove the marks.

    Afterwards the dataset may have other items. If the process is killed before the work is removed, the next call
    would refuse it as unfinished work with other settings, if there were no mark.
    """
    marks = [work.work_folder / JOINING for work in works]
    for mark in marks:
        mark.touch()
    try:
        yield
    except BaseException:
        for mark in marks:
            mark.unlink(missing_ok=True)
        raise


def _check_overwrite(folder: Path, job: FeatureJob) -> None:
    """Raise a ConfigError if the job would replace a matrix that came with the data, or that another encoder made.

    The same encoder with other settings counts as another one.
    """
    manifest = read_manifest(folder)
    entry = manifest["info"].get("encoders", {}).get(job.name)
    same = entry is not None and bare(entry["identity"]) == json_like(job.encoder.identity)
    if job.name in manifest["features"] and not same:
        origin = "of another encoder, or of the same with other settings" if entry else "that came with the data"
        raise ConfigError(
            f"{folder} already has features '{job.name}' {origin}; give the new ones another name (NAME=MODEL),"
            f" or replace the old ones ({option_text('replace', True)})"
        )


def _check_not_empty(works: Sequence[FeatureJobRunner], joined: Joined) -> None:
    """Raise a DataError if a matrix has no vector at all; its finished shards are removed first."""
    empty = [work for work in works if not joined[work.job.name].present]
    if not empty:
        return
    for work in empty:
        work.shards.discard()
    job, result = empty[0].job, joined[empty[0].job.name]
    problem = f"; the first problem: {result.problems[0][1]}: {result.problems[0][2]}" if result.problems else ""
    searched = _searched(job.source) if isinstance(job.source, FileSource) else ""
    raise DataError(
        f"{empty[0].folder}: no item got a vector for '{job.name}': among {pluralize(result.items, 'item')},"
        f" {result.missing:,} have no {NOUNS[job.source.kind]}, and {pluralize(result.n_problems, 'input')} cannot be"
        " used"
        f"{problem}{searched}"
    )


def _searched(source: FileSource) -> str:
    return f"; {source.media.noun}s were searched for in {source.root} ({source.media.option})"


def _covered(folder: Path, joined: Joined) -> np.ndarray:
    """Return `(I,)` bool: whether each item will have features in at least one matrix, new or existing.

    Raises a RunFolderError if the file of an existing matrix is damaged.
    """
    manifest = read_manifest(folder)
    masks = [result.mask for result in joined.values()]
    for name in set(manifest["features"]) - set(joined):
        path = resolve_path(folder, manifest, file_name(name, MASK))
        try:
            masks.append(open_array(path, mapped=False))
        except (OSError, ValueError, MemoryError) as error:
            raise RunFolderError(f"{path} is damaged ({describe_error(error)}); prepare the dataset again") from None
    return np.any(masks, axis=0)


def _check_items_covered(folder: Path, keep: np.ndarray, works: Sequence[FeatureJobRunner], joined: Joined) -> None:
    """Raise a DataError that names the items without features in any matrix: those not in `keep` `(I,)` bool."""
    without = np.flatnonzero(~keep)
    rows = ItemRows(folder)
    shown = [rows.read(row, row + 1)[ITEM][0] for row in without[:SHOWN]]
    more = f" and {len(without) - SHOWN:,} more" if len(without) > SHOWN else ""
    lists = [str(result.files[PROBLEMS]) for result in joined.values() if result.n_problems]
    listed = f" (inputs that cannot be used: {', '.join(lists)})" if lists else ""
    option = _second_matrix(rows, works)
    second = f"give them some with a second matrix (for instance {option}), or " if option else ""
    raise DataError(
        f"{folder}: no features in any matrix for {len(without):,} of {pluralize(len(keep), 'item')}:"
        f" {describe_ids(shown, SHOWN)}{more}; {second}leave these items out ({option_text('drop', True)});"
        f" what was encoded is kept{listed}"
    )


def _second_matrix(rows: ItemRows, works: Sequence[FeatureJobRunner]) -> str | None:
    """Return an option of `lirdrec features` that encodes texts or images which no job encodes yet.

    The result is None if the dataset has no such texts or images.
    """
    sources = [work.job.source for work in works]
    texts = default_texts(rows)
    if texts is not None and {"template": texts.text} not in [source.description for source in sources]:
        return "--text hashed"
    if names_images(rows) and not any(source.kind == "image" for source in sources):
        return "--image descriptor"
    return None
