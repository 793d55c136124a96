"""How to prepare the paper's benchmark datasets, and the numbers of users, items and interactions that must result."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lirdrec.config import suggest_name
from lirdrec.data.column_names import SPLITS
from lirdrec.data.dataset import Dataset
from lirdrec.errors import ConfigError, DataError
from lirdrec.wording import pluralize

logger = logging.getLogger(__name__)

CORE = 5


@dataclass(frozen=True)
class BenchmarkDataset:
    """The recipe of a benchmark dataset, with its expected counts.

    Attributes:
        name, title: identifier and display name.
        source, files: the format of the source ("amazon" or "microlens") and the names of the published files.
        users, items, interactions: exact counts after preparation, over all splits.
        options: options of the reader (fields of `lirdrec.data.preprocessing_config.PreprocessingConfig`).
        remark: further notes.
    """

    name: str
    title: str
    source: str
    files: tuple[str, ...]
    users: int
    items: int
    interactions: int
    options: Mapping[str, Any] = field(default_factory=lambda: {"k_core": CORE, "split": "random", "held_out": 0.2})
    remark: str = ""


def _amazon(name: str, category: str, users: int, items: int, interactions: int) -> BenchmarkDataset:
    files = (f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz", f"image_features_{category}.b")
    remark = "the 5-core file of 2014: the k-core removes nothing, and all ratings count as positive"
    title = f"Amazon {category.replace('_', ' ')}, 2014, 5-core"
    return BenchmarkDataset(name, title, "amazon", files, users, items, interactions, remark=remark)


_MICROLENS = BenchmarkDataset(
    name="microlens",
    title="MicroLens-100k, 5-core",
    source="microlens",
    files=("MicroLens-100k_pairs.csv", "MicroLens-100k_title_en.csv", "MicroLens-100k_covers"),
    users=98_129,
    items=17_228,
    interactions=705_174,
    remark="we assume that the counts are those of the 5-core of MicroLens-100k; the paper does not say so",
)
PUBLISHED = {
    "baby": _amazon("baby", "Baby", 19_445, 7_050, 160_792),
    "sports": _amazon("sports", "Sports_and_Outdoors", 35_598, 18_357, 296_337),
    "clothing": _amazon("clothing", "Clothing_Shoes_and_Jewelry", 39_387, 23_033, 278_677),
    "electronics": _amazon("electronics", "Electronics", 192_403, 63_001, 1_689_188),
    "microlens": _MICROLENS,
}


def recipe(name: str) -> BenchmarkDataset:
    """Return the recipe of a published dataset: baby, sports, clothing, electronics or microlens, in any case.

    The split follows the paper's rule (per user, 8:1:1, at random), but with another seed: the seed of the public
    split is unknown. Metrics therefore differ slightly from the published ones. Raises a ConfigError for other names.
    """
    if name.lower() not in PUBLISHED:
        hint = suggest_name(name.lower(), PUBLISHED, f"there are {', '.join(PUBLISHED)}")
        raise ConfigError(f"there is no published dataset '{name}'; {hint}")
    return PUBLISHED[name.lower()]


def check(dataset: Dataset, name: str, strict: bool = False) -> list[str]:
    """Compare the numbers of users, items and interactions of a dataset with those of the published dataset `name`.

    Datasets with equal numbers may still differ in their pairs and in their split. Differences are logged as a warning.
    Returns one text for each number that differs, then the likely reason; an empty list if all numbers are equal.

    Raises:
        ConfigError: there is no recipe with this name.
        DataError: `strict` is true, and a number differs.
    """
    expected = recipe(name)
    counts = {
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": sum(len(dataset.split(split)) for split in SPLITS),
    }
    published = {entity: getattr(expected, entity) for entity in counts}
    if counts == published:
        listed = ", ".join(f"{count:,} {entity}" for entity, count in counts.items())
        logger.info("%s: as published (%s)", dataset.name, listed)
        return []
    differences = [
        f"{entity}: {count:,} instead of {published[entity]:,} ({count - published[entity]:+,})"
        for entity, count in counts.items()
        if count != published[entity]
    ]
    differences.append(f"likely reason: {_likely_reason(dataset, expected, counts)}")
    message = f"{dataset.name}: not the published {expected.title}: {'; '.join(differences)}"
    if strict:
        raise DataError(message)
    logger.warning("%s", message)
    return differences


def _likely_reason(dataset: Dataset, expected: BenchmarkDataset, counts: Mapping[str, int]) -> str:
    """Return the likely reason why counts differ, by what `info` says about the preparation, and by the counts."""
    preparation, source = (dataset.info.get(key) or {} for key in ("preparation", "source"))
    if not isinstance(preparation, Mapping) or not isinstance(source, Mapping):
        preparation, source = {}, {}
    reasons = []
    if below := preparation.get("below_min_rating"):
        rows = pluralize(below, "row")
        reasons.append(f"{rows} rated below {preparation.get('min_rating')} were left out, but all should count")
    if dropped := preparation.get("items_without_features_dropped"):
        reasons.append(f"{pluralize(dropped, 'item')} without features were dropped, but the published data keep them")
    if skipped := source.get("bad_lines"):
        reasons.append(f"{pluralize(skipped, 'bad line')} of the source were left out")
    if not reasons or not 0.5 < counts["interactions"] / expected.interactions < 2:  # the records cannot explain it
        reasons.append(_reason_by_counts(dataset, expected, counts))
    return "; ".join(reasons)


def _reason_by_counts(dataset: Dataset, expected: BenchmarkDataset, counts: Mapping[str, int]) -> str:
    pairs = dataset.all_interactions()
    degrees = (np.bincount(pairs.users, minlength=dataset.n_users), np.bincount(pairs.items, minlength=dataset.n_items))
    smallest = int(min(degree.min() for degree in degrees))
    if smallest < CORE:
        return (
            f"some users or items have only {pluralize(smallest, 'interaction')}, so this is not the {CORE}-core:"
            f" prepare it with k_core={CORE}, from {expected.files[0]}"
        )
    if all(count < getattr(expected, entity) for entity, count in counts.items()):
        return f"the file of interactions is cut short, or only a part of it; the expected file is {expected.files[0]}"
    return f"the data are from another file or another year; the expected file is {expected.files[0]}"
