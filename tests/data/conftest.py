"""A small dataset with features, a title for each item and string ids."""

import numpy as np
import polars as pl
import pytest

from lirdrec.data import Dataset


@pytest.fixture
def interactions() -> pl.DataFrame:
    """30 distinct pairs of 6 users and 8 items, with ratings and times."""
    rng = np.random.default_rng(0)
    cells = rng.permutation(48)[:30]
    return pl.DataFrame(
        {
            "user": [f"u{c // 8}" for c in cells],
            "item": [f"i{c % 8}" for c in cells],
            "rating": rng.integers(1, 6, 30).astype(float),
            "timestamp": rng.integers(0, 1000, 30),
        }
    )


@pytest.fixture
def items() -> pl.DataFrame:
    """The 8 items in an order of their own."""
    order = [3, 1, 4, 0, 5, 2, 6, 7]
    return pl.DataFrame({"item": [f"i{n}" for n in order], "title": [f"Film {n}" for n in order], "price": order})


@pytest.fixture
def image() -> np.ndarray:
    """Features `(8, 5)` in the order of `items`; the last item has none."""
    values = np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32)
    values[7] = 0
    return values


@pytest.fixture
def dataset(interactions, items, image) -> Dataset:
    """All of the above, and texts for three items by id."""
    text = (["i7", "i0", "i2"], np.eye(3, 4, dtype=np.float16))
    return Dataset.from_frames(
        interactions, items=items, features={"image": image, "text": text}, timestamp="timestamp", name="small"
    )
