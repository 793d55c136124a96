"""`FeatureMatrix`: one row per item, and a mask of the items that have the modality."""

from __future__ import annotations

import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.ids import describe_ids
from lirdrec.errors import DataError, LirdrecError
from lirdrec.wording import pluralize

BLOCK_BYTES = 32 << 20
LARGEST = np.float32(1e15)  # inner products of rows with such values are finite in float32


NOT_GIVEN = np.empty(0, dtype=bool)  # the default mask of a matrix: rows that are not zero are present


@dataclass(frozen=True, eq=False)
class FeatureMatrix:
    """The vectors of one modality, such as text or image, of all items.

    Attributes:
        values: `(I, d)` float32 or float16, an array or a memory map; other number types become float32.
        present: `(I,)` bool, which items have this modality. All-zero rows always count as absent.

    Raises:
        DataError: not a matrix of numbers, NaN or infinite values (the message names the rows), a mask of another
            length, or a row that is marked absent but is not zero.
    """

    values: np.ndarray
    present: np.ndarray = field(default_factory=lambda: NOT_GIVEN)

    def __post_init__(self) -> None:
        values = as_floats(self.values, "the feature matrix")
        nonzero = check_rows(values, "the feature matrix")
        if self.present is NOT_GIVEN:
            present = nonzero
        else:
            present = np.asarray(self.present)
            if present.shape != (len(values),) or present.dtype != np.bool_:
                raise DataError(
                    f"the mask of a feature matrix must be {len(values)} booleans, one per item;"
                    f" this one is {present.dtype} of shape {present.shape}"
                )
            if (wrong := nonzero & ~present).any():
                rows = describe_ids(np.flatnonzero(wrong))
                raise DataError(
                    f"the feature matrix has values in rows that its mask calls absent: {rows}; set them to 0,"
                    " or correct the mask"
                )
            present = present & nonzero
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "present", present)

    @classmethod
    def known_good(cls, values: np.ndarray, present: np.ndarray) -> FeatureMatrix:
        """Create a matrix of values and mask that were checked before; here nothing is checked and no value is read."""
        matrix = object.__new__(cls)
        object.__setattr__(matrix, "values", values)
        object.__setattr__(matrix, "present", present)
        return matrix

    @property
    def dims(self) -> int:
        """Number of columns, d: the length of each vector."""
        return self.values.shape[1]

    def __len__(self) -> int:
        return self.values.shape[0]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Iterate over the matrix in blocks of about 32 MB, as `(number of the first row, rows)`."""
        return row_blocks(self.values)


def open_array(path: str | Path, mapped: bool = True) -> np.ndarray:
    """Load an npy file, memory-mapped unless `mapped` is false; pickled objects are never loaded.

    Raises OSError if it cannot be read, ValueError if it is damaged, MemoryError if it is larger than memory.
    """
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (tokenize.TokenError, SyntaxError, TypeError, KeyError, EOFError, OverflowError, RecursionError) as error:
        raise ValueError(f"its header is damaged ({type(error).__name__})") from None  # the header is parsed as Python
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError("an npz archive under the name of an npy file; rename it to .npz")
    return array


def check_name(name: str, error: type[LirdrecError] = DataError) -> None:
    """Raise an exception of the class `error` unless the name of a matrix is valid as the name of a file."""
    if not name or not all(letter.isalnum() or letter in "_-" for letter in name):
        raise error(f"'{name}' cannot name a feature matrix: use letters, digits, _ and -")


def as_floats(values: Any, where: str) -> np.ndarray:
    """Convert rows of numbers to a matrix `(n, d)` of float32 or float16; copies only if the type changes.

    Raises a DataError if the values are not two-dimensional, have no columns, or are not numbers.
    """
    try:
        matrix = values if isinstance(values, np.ndarray) else np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: rows of different lengths, or not numbers ({error})") from None
    if matrix.dtype.kind not in "fiu":
        raise DataError(f"{where}: features must be numbers, not {matrix.dtype}")
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise DataError(f"{where}: features must be a matrix with a row per item, not an array of shape {matrix.shape}")
    if matrix.dtype in (np.float32, np.float16) and matrix.dtype.isnative:
        return matrix
    with np.errstate(over="ignore"):  # overflow becomes infinity, which is reported
        return matrix.astype(np.float32)


def check_rows(values: np.ndarray, where: str, ids: pl.Series | None = None) -> np.ndarray:
    """Check the values of a matrix, and return which rows are not all zero, `(n,)` bool.

    Raises a DataError that names rows with NaN, infinite or too large values.
    """
    nonzero = np.empty(len(values), dtype=bool)
    bad: list[int] = []
    for start, block in row_blocks(values):
        usable = (np.abs(block) <= LARGEST).all(axis=1)  # false for NaN too
        if not usable.all():
            bad.extend((start + np.flatnonzero(~usable)).tolist())
        nonzero[start : start + len(block)] = block.any(axis=1)
    if bad:
        rows = describe_ids(bad if ids is None else [ids[row] for row in bad])
        named = " (counted from 0)" if ids is None else ", with the ids"
        raise DataError(
            f"{where}: NaN, infinite values or values beyond {LARGEST:g} in {pluralize(len(bad), 'row')}{named}:"
            f" {rows}; fix them, or set the whole row to 0 to say that the item lacks this modality"
        )
    return nonzero


def row_blocks(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Iterate over a matrix in blocks of about 32 MB, as `(number of the first row, rows)`."""
    step = max(1, BLOCK_BYTES // max(1, values.shape[1] * values.itemsize))
    for start in range(0, len(values), step):
        yield start, values[start : start + step]
