"""Checks before features are written: no accidental overwrite, no empty matrix, no item without features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lirdrec.data.features import open_array
from lirdrec.data.ids import describe_ids, pluralize
from lirdrec.data.schema import ITEM
from lirdrec.data.storage import read_manifest, resolve_path
from lirdrec.errors import ConfigError, DataError, RunFolderError, describe_error
from lirdrec.features.dataset_writer import MASK, SHOWN, FeatureResult, file_name
from lirdrec.features.job import FeatureJob, FeatureJobRunner, bare, json_like
from lirdrec.features.sources import ImageSource, ItemRows, default_texts, names_pictures


def check_overwrite(folder: Path, job: FeatureJob) -> None:
    """Raise a ConfigError if the job would replace a matrix of the source data or of another encoder."""
    manifest = read_manifest(folder)
    if job.name not in manifest["features"]:
        return
    entry = manifest["info"].get("encoders", {}).get(job.name)
    if entry is None:
        origin = "that came with the data"
    elif bare(entry["identity"]) != json_like(job.encoder.identity):
        origin = "of another encoder, or of the same with other settings"
    else:
        return
    raise ConfigError(
        f"{folder}: has features '{job.name}' {origin}; give the new ones another name (NAME=MODEL),"
        " or replace them (--overwrite)"
    )


def check_not_empty(works: Sequence[FeatureJobRunner], joined: Mapping[str, FeatureResult]) -> None:
    """Raise a DataError if a matrix has no vector at all; its shards are removed."""
    empty = [work for work in works if not joined[work.job.name].present]
    if not empty:
        return
    for work in empty:
        work.shards.discard()
    job, result = empty[0].job, joined[empty[0].job.name]
    problem = f"; the first problem: {result.problems[0][1]}: {result.problems[0][2]}" if result.problems else ""
    searched = f"; images were searched in {job.source.root} (--images)" if isinstance(job.source, ImageSource) else ""
    raise DataError(
        f"{empty[0].folder}: no item got a vector for '{job.name}': of {pluralize(result.items, 'item')}"
        f" {result.missing:,} have no {job.source.kind} and {pluralize(result.n_problems, 'input')} cannot be used"
        f"{problem}{searched}"
    )


def covered(folder: Path, joined: Mapping[str, FeatureResult]) -> np.ndarray:
    """`(I,)` bool: the items that will have features in some matrix."""
    manifest = read_manifest(folder)
    masks = [result.mask for result in joined.values()]
    for name in set(manifest["features"]) - set(joined):
        path = resolve_path(folder, manifest, file_name(name, MASK))
        try:
            masks.append(open_array(path, mapped=False))
        except (OSError, ValueError, MemoryError) as error:
            raise RunFolderError(f"{path}: is damaged ({describe_error(error)}); prepare the dataset again") from None
    return np.any(masks, axis=0)


def check_items_covered(
    folder: Path, keep: np.ndarray, works: Sequence[FeatureJobRunner], joined: Mapping[str, FeatureResult]
) -> None:
    """Raise a DataError that names the items without features in any matrix: those not in `keep` `(I,)` bool."""
    without = np.flatnonzero(~keep)
    rows = ItemRows(folder)
    shown = [rows.read(row, row + 1)[ITEM][0] for row in without[:SHOWN]]
    more = f" and {len(without) - SHOWN:,} more" if len(without) > SHOWN else ""
    lists = [work.problems_file for work in works if joined[work.job.name].n_problems]
    listed = f" (inputs that cannot be used: {', '.join(map(str, lists))})" if lists else ""
    option = _second_matrix(rows, works)
    second = f"give them some with a second matrix (for instance {option}), or " if option else ""
    raise DataError(
        f"{folder}: no features in any matrix for {len(without):,} of {pluralize(len(keep), 'item')}:"
        f" {describe_ids(shown, SHOWN)}{more}; {second}leave these items out (--drop-featureless-items);"
        f" what was encoded is kept{listed}"
    )


def _second_matrix(rows: ItemRows, works: Sequence[FeatureJobRunner]) -> str | None:
    """The option that encodes another kind of input the dataset has; None if there is none."""
    sources = [work.job.source for work in works]
    texts = default_texts(rows)
    if texts is not None and {"template": texts.text} not in [source.description for source in sources]:
        return "--text hashed"
    if names_pictures(rows) and not any(source.kind == "image" for source in sources):
        return "--image descriptor"
    return None
