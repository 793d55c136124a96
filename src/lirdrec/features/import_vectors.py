"""Import a file of vectors into a prepared dataset as a feature matrix."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import polars as pl

from lirdrec.data.alignment import align
from lirdrec.data.dataset import Dataset
from lirdrec.data.feature_files import read_features
from lirdrec.data.features import FeatureMatrix, check_name
from lirdrec.data.readers.amazon import read_image_features
from lirdrec.data.storage import write_matrix
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.dataset_writer import MASK, VALUES, FeatureResult, add_features
from lirdrec.features.pipeline import features_lock
from lirdrec.option_names import option_text
from lirdrec.wording import pluralize

logger = logging.getLogger(__name__)

BINARY = (".b", ".gz")  # suffixes of Amazon's binary format: records of an id and its vector


def check_file(folder: str | Path, name: str, path: str | Path, replace: bool = False) -> None:
    """Check whether `add_file` can read a file of vectors; raise the errors of reading it, but change nothing.

    If items would have no features in any matrix, this is only a warning, because another matrix, which is added
    earlier than this file, may have features of these items. If the dataset has no feature matrix yet, there is no such
    warning.
    """
    dataset = Dataset.load(folder)
    without = _without_features(dataset, name, _read(dataset, name, Path(path), replace))
    if without and dataset.features:
        logger.warning(
            "%s: %s of %s have features in '%s' only, and this file has none for them; unless another new matrix has"
            " them, the file is refused in the end",
            *(path, f"{without:,}", pluralize(dataset.n_items, "item"), name),
        )


def add_file(folder: str | Path, name: str, path: str | Path, replace: bool = False) -> FeatureResult:
    """Add the vectors of a file to a prepared dataset as the matrix `name`; rows whose id is no item are left out.

    The file is .npy (rows in the order of the dataset's item table), .npz, .safetensors, .parquet or .csv with ids, or
    Amazon's binary file of image features, .b or .gz. Items that the file lacks get no vector in this matrix.

    Raises:
        ConfigError: the name is invalid, or there is a matrix of this name and `replace` is False.
        DataError: the file is damaged or has no vector of any item, or an item would have no features in any matrix.
        RunFolderError: `folder` is not a prepared dataset, cannot be written, or another process makes its features.
    """
    folder, path = Path(folder), Path(path)
    dataset = Dataset.load(folder)
    matrix = _read(dataset, name, path, replace)
    if without := _without_features(dataset, name, matrix):
        raise DataError(
            f"{path}: {without:,} of {pluralize(dataset.n_items, 'item')} of {folder} would have no features"
            " in any matrix, neither in this nor in another; first add a matrix that has them, for instance"
            f" lirdrec features {folder} --text hashed"
        )
    with features_lock(folder) as work:
        files = {ending: work / f".{name}{ending}" for ending in (VALUES, MASK)}
        try:
            write_matrix(matrix.values, files[VALUES])
            np.save(files[MASK], matrix.present)
            result = FeatureResult(files, matrix.dims, str(matrix.values.dtype), np.asarray(matrix.present), name=name)
            add_features(folder, {name: result}, {})
            return result
        finally:
            for file in files.values():
                file.unlink(missing_ok=True)


def _without_features(dataset: Dataset, name: str, matrix: FeatureMatrix) -> int:
    """Return how many items have features neither in the new matrix `name` nor in another matrix of the dataset."""
    others = [other.present for key, other in dataset.features.items() if key != name]
    return int((~np.any([matrix.present, *others], axis=0)).sum())


def _read(dataset: Dataset, name: str, path: Path, replace: bool) -> FeatureMatrix:
    """Return the vectors of a file as a matrix with a row for each item of the dataset, in the order of the items."""
    check_name(name, ConfigError)
    if name in dataset.features and not replace:
        raise ConfigError(
            f"{dataset.folder} has features '{name}' already; give the new ones another name, or replace the old ones"
            f" ({option_text('replace', True)})"
        )
    binary = path.suffix.lower() in BINARY and path.suffixes[-2:-1] not in ([".csv"], [".tsv"])
    file = read_image_features(path, dataset.items.series.cast(pl.String)) if binary else read_features(path)
    if file.ids is None and dataset.item_table.width == 1 and dataset.items.series.is_sorted():
        raise DataError(
            f"{path} has no ids, and the items of {dataset.folder} are sorted by their ids, perhaps not in the"
            " order of the vectors; save the vectors with the item ids,"
            " for instance with numpy.savez(FILE, ids=ids, vectors=matrix)"
        )
    order = f"the items of {dataset.folder}"
    aligned = align(file, dataset.items, str(path), drop_unknown=True, order=order)
    matrix = aligned.take(np.ones(dataset.n_items, dtype=bool))
    if not matrix.present.any():
        raise DataError(f"{path} has no vector of any item of {dataset.folder}; check that its ids are the item ids")
    return matrix
