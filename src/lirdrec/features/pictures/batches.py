"""The pictures of a batch opened by a few threads: Pillow decodes without holding Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lirdrec.features.encoder import Encoded, Prepared
from lirdrec.features.pictures.opening import ENOUGH, PictureError, open_picture

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Opened:
    """What became of the pictures of a batch.

    Attributes:
        arrays: of those that could be opened, in their order.
        places: their places in the batch.
        problems: place of each other one → one sentence.
        n: pictures of the batch.
    """

    arrays: list[np.ndarray]
    places: list[int]
    problems: dict[int, str]
    n: int

    def encoded(self, vectors: np.ndarray, dims: int) -> Encoded:
        """The vectors `(len(arrays), dims)` put at their places; the others are zero."""
        whole = np.zeros((self.n, dims), dtype=np.float32)
        if self.places:
            whole[self.places] = vectors
        return Encoded(whole, self.problems)


def open_batch(
    batch: Sequence[Prepared], make: Callable[[Image], np.ndarray], enough: int = ENOUGH, threads: int | None = None
) -> Opened:
    """Open the pictures and make an array of each, in the same thread, so that few are held at their full size.

    Args:
        batch: whose values are paths.
        make: from a picture, RGB and upright, to an array; called by several threads.
        enough: pixels of the shorter side that `make` needs, see `open_picture`.
        threads: at most; by default four, or as many as there are cores.
    """

    def one(prepared: Prepared) -> np.ndarray | str:
        try:
            return make(open_picture(Path(prepared.value), enough=enough))
        except PictureError as error:
            return str(error)

    with ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1)) as pool:
        found = list(pool.map(one, batch))
    arrays, places, problems = [], [], {}
    for place, result in enumerate(found):
        if isinstance(result, str):
            problems[place] = result
        else:
            arrays.append(result)
            places.append(place)
    return Opened(arrays, places, problems, len(batch))
