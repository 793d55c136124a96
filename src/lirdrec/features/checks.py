"""What a run refuses to put into a dataset, each with one sentence: dear matrices replaced, empty ones, bare items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lirdrec.data.features import open_array
from lirdrec.data.ids import count, describe_ids
from lirdrec.data.schema import ITEM
from lirdrec.data.storage import read_manifest, resolve_path
from lirdrec.errors import ConfigError, DataError, RunFolderError, reason
from lirdrec.features.job import FeatureJob, FeatureJobRunner, bare, json_like
from lirdrec.features.sources import ItemRows, PictureSource, default_texts, names_pictures
from lirdrec.features.writer import MASK, SHOWN, Joined, file_name


def check_overwrite(folder: Path, job: FeatureJob) -> None:
    """Refuse to replace what may be dear to someone: vectors that came with the data, or of another encoder."""
    manifest = read_manifest(folder)
    if job.name not in manifest["features"]:
        return
    told = manifest["info"].get("encoders", {}).get(job.name)
    if told is None:
        whose = "that came with the data"
    elif bare(told["identity"]) != json_like(job.encoder.identity):
        whose = "of another encoder, or of the same with other settings"
    else:
        return
    raise ConfigError(
        f"{folder}: has features '{job.name}' {whose}; give the new ones a name of their own (NAME=MODEL),"
        " or replace them (--overwrite)"
    )


def check_not_empty(works: Sequence[FeatureJobRunner], joined: Mapping[str, Joined]) -> None:
    """Refuse matrices without a vector, and forget their shards: there is nothing in them to go on from."""
    empty = [work for work in works if not joined[work.job.name].matrix.present]
    if not empty:
        return
    for work in empty:
        work.shards.discard()
    job, one = empty[0].job, joined[empty[0].job.name]
    fault = f"; the first problem: {one.problems[0][1]}: {one.problems[0][2]}" if one.problems else ""
    where = (
        f"; the pictures were looked for in {job.source.root} (--images)"
        if isinstance(job.source, PictureSource)
        else ""
    )
    raise DataError(
        f"{empty[0].folder}: no item got a vector for '{job.name}': of {count(len(one.present), 'item')}"
        f" {one.missing:,} have no {job.source.kind} and {count(one.n_problems, 'input')} cannot be used{fault}{where}"
    )


def covered(folder: Path, joined: Mapping[str, Joined]) -> np.ndarray:
    """`(I,)` bool: the items that will have features in some matrix."""
    manifest = read_manifest(folder)
    masks = [one.present for one in joined.values()]
    for name in set(manifest["features"]) - set(joined):
        path = resolve_path(folder, manifest, file_name(name, MASK))
        try:
            masks.append(open_array(path, mapped=False))
        except (OSError, ValueError, MemoryError) as error:
            raise RunFolderError(f"{path}: is damaged ({reason(error)}); prepare the dataset again") from None
    return np.any(masks, axis=0)


def check_items_covered(
    folder: Path, keep: np.ndarray, works: Sequence[FeatureJobRunner], joined: Mapping[str, Joined]
) -> None:
    """Raise a DataError that names the items which would have no features in any matrix; `keep` are the others."""
    without = np.flatnonzero(~keep)
    rows = ItemRows(folder)
    shown = [rows.read(row, row + 1)[ITEM][0] for row in without[:SHOWN]]
    more = f" and {len(without) - SHOWN:,} more" if len(without) > SHOWN else ""
    lists = [work.problems_file for work in works if joined[work.job.name].n_problems]
    listed = f" (inputs that cannot be used: {', '.join(map(str, lists))})" if lists else ""
    option = _second_matrix(rows, works)
    second = f"give them some with a second matrix (for instance {option}), or " if option else ""
    raise DataError(
        f"{folder}: no features in any matrix for {len(without):,} of {count(len(keep), 'item')}:"
        f" {describe_ids(shown, SHOWN)}{more}; {second}leave these items out (--drop-featureless-items);"
        f" what was encoded is kept{listed}"
    )


def _second_matrix(rows: ItemRows, works: Sequence[FeatureJobRunner]) -> str | None:
    """What could be encoded beside, that was not."""
    made = [work.job.source for work in works]
    texts = default_texts(rows)
    if texts is not None and {"template": texts.text} not in [source.description for source in made]:
        return "--text hashed"
    if names_pictures(rows) and not any(source.kind == "image" for source in made):
        return "--image descriptor"
    return None
