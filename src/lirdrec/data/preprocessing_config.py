"""`PreprocessingConfig`: the preprocessing options of `Dataset.from_frames`, the readers and `prepare`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lirdrec.config import make_config, option, validated
from lirdrec.data.column_names import ITEM, TITLE, USER
from lirdrec.errors import ConfigError
from lirdrec.option_names import name_of, option_name, option_text


@dataclass(frozen=True)
@validated
class PreprocessingConfig:
    """Options of preprocessing.

    Raises:
        ConfigError: a value is out of range, or an option needs another one that is not given.
    """

    user: str = option(USER, "column of user ids")
    item: str = option(ITEM, "column of item ids, in the interactions, the item table and feature frames")
    items_id: str | None = option(None, "column of item ids in the item table, if it differs from `item`")
    title: str | None = option(
        None,
        "column of the item table with the titles, renamed to `title`; by default detected by its name"
        " (title, name, product_name …)",
    )
    rating: str | None = option(None, "column of ratings, needed with min_rating")
    min_rating: float | None = option(None, "keep only rows rated at least this much")
    timestamp: str | None = option(None, "column of times: integers, dates or ISO texts")
    order: Literal["file"] | None = option(
        None, "file: there is no column of times, so number each user's interactions in the order of the rows"
    )
    weight: str | None = option(
        None, "column of weights; the weights of a repeated pair are added up, and a sum of 0 or less is a dislike"
    )
    event: str | None = option(None, "column of the kind of event: view, buy …; needs event_weights")
    event_weights: dict[str, float] | None = option(
        None, "kind of event → weight; all kinds must be listed, and rows of kinds with weight 0 are left out"
    )
    half_life: float | None = option(
        None, "number of days, back from the last interaction, in which a weight halves; needs timestamp"
    )
    only: dict[str, Any] | None = option(None, "column → value or values: keep only rows that have one of them")
    time_format: str | None = option(None, "strptime format of times that are other texts, such as %d/%m/%Y %H:%M")
    bad_rows: Literal["error", "skip"] = option(
        "error", "what to do with rows that lack an id, a rating or a time, or have a wrong number of values"
    )
    string_ids: bool = option(False, "convert all ids to strings, including integers")
    unknown_items: Literal["error", "drop", "keep"] = option(
        "error",
        "what to do with interactions of items that the item table lacks: drop them, or keep the items, with empty"
        " rows in the table",
    )
    without_features: Literal["raise", "drop"] = option("raise", "what to do with items without features")
    unknown_features: Literal["error", "raise", "drop"] = option(
        "error", "what to do with feature rows of unknown item ids (raise is an old name of error)"
    )
    k_core: int = option(0, "repeatedly remove users and items with fewer than k interactions; 0 or 1 keeps all")
    keep_all_items: bool | None = option(
        None, "keep items without interactions; default: yes if there is an item table and no k-core"
    )
    split: str | None = option(
        "random",
        "random, cold_items, temporal, global_time, global_time_last, leave_last_out, none, or a column of labels",
    )
    held_out: float = option(0.2, "share held out by the split, half of it for validation")
    seed: int = option(0, "seed of the split")

    @property
    def items_column(self) -> str:
        """Name of the column of item ids in the item table."""
        return self.item if self.items_id is None else self.items_id

    @property
    def named_columns(self) -> dict[str, str]:
        """Columns of the item table whose names differ from the usual ones: "item" or "title" → actual name."""
        named = {ITEM: self.items_column, TITLE: self.title}
        return {usual: name for usual, name in named.items() if name is not None and name != usual}

    def __post_init__(self) -> None:
        if self.min_rating is not None and self.rating is None:
            raise ConfigError(
                f"a minimum rating needs the name of the rating column ({option_text('rating', 'COLUMN')})"
            )
        if (self.event is None) != (self.event_weights is None):
            raise ConfigError(
                "weights of events need both the column of events and a weight for each kind of event"
                f" ({option_text('event', 'COLUMN')} {option_text('event_weights', 'view=1,buy=5')})"
            )
        for kind, weight in (self.event_weights or {}).items():
            if not math.isfinite(weight):
                raise ConfigError(f"the weight of event '{kind}' is {weight}; it must be a finite number")
        if self.order is not None and self.timestamp is not None:
            raise ConfigError(
                f"the interactions have times (column '{self.timestamp}'), which give their order; leave"
                f" {option_name('order')} out"
            )
        if self.half_life is not None and self.timestamp is None:
            raise ConfigError(f"a half-life needs the column of times ({option_text('timestamp', 'COLUMN')})")
        if self.half_life is not None and not 0 < self.half_life < math.inf:
            raise ConfigError(f"the half-life is {self.half_life}; it must be more than 0 days")
        if self.k_core < 0:
            raise ConfigError(f"the k-core is {self.k_core}; it must be 0 or more")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"the share held out is {self.held_out}; it must be between 0 and 1")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; it must be 0 or more")


def make_preprocessing_config(options: Mapping[str, Any], where: str) -> PreprocessingConfig:
    """Build the preprocessing options; messages begin with the function `where`, or with the command line's flag.

    Raises a ConfigError if an option is unknown, or its value is of a wrong type or out of range.
    """
    return make_config(PreprocessingConfig, options, where, label=lambda key: name_of(key, where))
