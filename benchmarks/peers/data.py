"""The data that all libraries read: one npz file of interactions by row, with features where a dataset has them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = Path(os.environ.get("LIRDREC_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
# users, items and interactions of synthetic data of the shape of a known dataset
SHAPES = {"ml-1m": (6_040, 3_706, 1_000_209), "tiny": (60, 40, 900)}
DATASETS = ("baby", "tiktok", "sports", "ml-1m")
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Data:
    """Interactions as rows of users and items.

    Attributes:
        n_users, n_items: sizes.
        train, valid, test: `(2, n)` int64, users and items of each part.
        features: `(I, d)` float32, the modalities side by side, zeros for an item without; or None.
        widths: columns of each modality.
    """

    n_users: int
    n_items: int
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    features: np.ndarray | None = None
    widths: tuple[int, ...] = ()

    def save(self, path: Path) -> None:
        """Write the npz file."""
        arrays = {name: getattr(self, name) for name in PARTS}
        if self.features is not None:
            arrays |= {"features": self.features, "widths": np.array(self.widths)}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"unfinished-{path.name}")
        np.savez(temporary, sizes=np.array([self.n_users, self.n_items]), **arrays)
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Data:
        """Read the npz file."""
        with np.load(path) as file:
            n_users, n_items = file["sizes"].tolist()
            parts = [file[name] for name in PARTS]
            if "features" not in file:
                return cls(n_users, n_items, *parts)
            return cls(n_users, n_items, *parts, file["features"], tuple(file["widths"].tolist()))

    def modalities(self) -> list[np.ndarray]:
        """The features of each modality, `(I, d_m)` float32."""
        if self.features is None:
            return []
        return np.split(self.features, np.cumsum(self.widths)[:-1], axis=1)

    @cached_property
    def matrix(self) -> Any:
        """The training interactions as scipy's CSR matrix `(U, I)` of ones, float32."""
        from scipy.sparse import csr_matrix

        ones = np.ones(self.train.shape[1], np.float32)
        return csr_matrix((ones, (self.train[0], self.train[1])), shape=(self.n_users, self.n_items))

    @cached_property
    def evaluated(self) -> np.ndarray:
        """Users with a validation item and a training item, `(n,)` int64."""
        return np.intersect1d(self.valid[0], self.train[0])

    def ndcg(self, lists: np.ndarray) -> float:
        """Mean NDCG of lists `(n, k)` of item rows (-1: none) for the users `evaluated`, on the validation items."""
        keys = np.sort(self.valid[0] * self.n_items + self.valid[1])
        wanted = self.evaluated[:, None] * self.n_items + lists
        index = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        hits = (keys[index] == wanted) & (lists >= 0)
        discounts = 1 / np.log2(np.arange(lists.shape[1]) + 2)
        relevant = np.bincount(self.valid[0], minlength=self.n_users)[self.evaluated]
        ideal = np.cumsum(discounts)[np.minimum(relevant, lists.shape[1]) - 1]
        return float(((hits * discounts).sum(1) / ideal).mean())


def make(name: str, path: Path) -> None:
    """Write the npz file of a dataset, by lirdrec's readers."""
    from lirdrec.data.readers import read_any
    from lirdrec.data.synthetic import make_synthetic_dataset

    if name in SHAPES:
        dataset = make_synthetic_dataset(*SHAPES[name], {"text": 16} if name == "tiny" else {}, groups=20)
    elif (SOURCES / name).is_dir():
        dataset = read_any(SOURCES / name)
    else:
        sys.exit(f"{SOURCES / name}: no such folder; set LIRDREC_DATA to the folder of the datasets")
    parts = [np.stack([part.users, part.items]) for part in map(dataset.split, PARTS)]
    columns = [np.where(m.present[:, None], m.values, 0).astype(np.float32) for m in dataset.features.values()]
    features = np.concatenate(columns, axis=1) if columns else None
    widths = tuple(part.shape[1] for part in columns)
    Data(dataset.n_users, dataset.n_items, *parts, features, widths).save(path)


if __name__ == "__main__":  # in a process of its own: the process that starts the others stays small
    make(sys.argv[1], Path(sys.argv[2]))
