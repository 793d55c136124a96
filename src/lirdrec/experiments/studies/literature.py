"""Published metrics of datasets, from `literature.toml`: a rough reference, since splits and protocols differ.

The five datasets of the LIRDRec paper have the values of its Table II, including baselines; TikTok those of Table 1 of
the DiffMM paper. Two more sources trained LIRDRec themselves: the authors of DAMPS, and a re-run with one fixed setting
(github.com/ustc-mkh/COMP5331). Every figure has a source that can be looked up.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LiteratureResult:
    """The published metrics of a model on a dataset.

    Attributes:
        model: name in `models.registry`, or the published name of other models.
        source: a key of `SOURCES`.
        figures: metric → value on the test set; empty: out of memory.
        features: label of the features; "": those published with the dataset.
    """

    model: str
    source: str
    figures: Mapping[str, float]
    features: str = ""


@dataclass(frozen=True)
class Split:
    """A dataset with published metrics: its name, its size, a note on its split, and the metrics of each model."""

    name: str
    users: int
    items: int
    interactions: int
    note: str
    rows: tuple[LiteratureResult, ...]


def published(name: str, size: tuple[int, int, int] | None = None) -> Split | None:
    """Return the entry of a dataset in `literature.toml`, or None if it has none.

    Args:
        name: name of the dataset's folder, such as "amazon-baby", in which a published name ("Baby") is a word.
        size: numbers of users, items and interactions, if known. A dataset of exactly the published size is found under
            any name; a dataset with the right name is another dataset if its size differs by more than 2 %.
    """
    for split in SPLITS:
        expected = (split.users, split.items, split.interactions)
        named = split.name.lower() in name.lower().replace("_", "-").split("-")
        if size == expected:
            return split
        if named and (size is None or all(abs(a - b) <= 0.02 * b for a, b in zip(size, expected, strict=True))):
            return split
    return None


_TABLES = tomllib.loads(Path(__file__).with_name("literature.toml").read_text(encoding="utf-8"))
SOURCES: Mapping[str, str] = _TABLES["sources"]
SPLITS = tuple(
    Split(**{**dataset, "rows": tuple(LiteratureResult(**row) for row in dataset["rows"])})
    for dataset in _TABLES["datasets"]
)
