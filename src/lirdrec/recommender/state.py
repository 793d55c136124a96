"""`RunState`: a trained run as one immutable value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec.data.dataset import Interactions
from lirdrec.data.frames import FrameKind
from lirdrec.data.ids import IdMap
from lirdrec.data.positions_or_times import last_positions
from lirdrec.data.titles import as_title, title_column
from lirdrec.errors import CapabilityError
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import Scorer
from lirdrec.recommender.feature_store import FeatureStore

Stamp = tuple[object, ...]  # identifies the manifest of a run folder as it was loaded or saved


@dataclass(frozen=True)
class RunState:
    """A trained run: what `read_run` returns, `write_run` writes and `Recommender` serves.

    Attributes:
        scorer: computes the scores from the parameters.
        users, items: external ids ↔ rows of the scorer.
        item_table: one row per item; the first column is "item".
        train: training interactions as rows, then the likes since; None in a slim run (vectors and ids only).
        histories: `train` as the items of each user, on `device`; None in a slim run.
        features: feature matrices of the items, or None in a slim run.
        weights: the model's parameters by name, from which `rebuild` builds the model; None: there is no model.
        frames: kind of the returned frames.
        info: JSON-able facts: "dataset", "model", "model_config", "training", "metrics" …
        n_trained_items: number of trained items; later rows were added by `add_items`.
        device: where vectors and model are.
        folder: the run folder that it was loaded from or last saved to, or None.
        saved: the stamp of the folder's manifest at that time.
        n_trained_pairs: how many interactions of `train`, from the first on, are of the training; None: all of them.
        dislikes: disliked pairs, as rows, which recommendations leave out; or None.
    """

    scorer: Scorer
    users: IdMap
    items: IdMap
    item_table: pl.DataFrame
    train: Interactions | None
    histories: Histories | None
    features: FeatureStore | None
    weights: Mapping[str, Tensor] | None
    frames: FrameKind
    info: dict[str, Any]
    n_trained_items: int
    device: torch.device
    folder: Path | None = None
    saved: Stamp | None = None
    n_trained_pairs: int | None = None
    dislikes: Interactions | None = None

    @property
    def trained(self) -> Interactions | None:
        """The training interactions, without the likes since the training; None in a slim run."""
        return self.train if self.train is None else first_pairs(self.train, self.n_trained_pairs)

    def title(self, item_row: int) -> str | None:
        """Return the title of an item; see `item_title`."""
        return item_title(self.item_table, item_row)


def first_pairs(pairs: Interactions, n: int | None) -> Interactions:
    """Return the first `n` of the pairs; None: all of them."""
    return pairs if n is None or n >= len(pairs) else pairs.take(np.arange(len(pairs)) < n)


def with_pairs(
    pairs: Interactions, users: np.ndarray, items: np.ndarray, times: np.ndarray | None = None
) -> Interactions:
    """Return `pairs` followed by new pairs of `users` and `items`, which have the weight 1 if `pairs` have weights.

    If `pairs` have timestamps, those of the new pairs are `times` `(n,)` int64; None: all are the latest known one.
    """
    known = pairs.timestamps
    if known is None:
        times = None
    elif times is None:
        times = np.full(len(users), known.max() if len(known) else 0)
    return Interactions.concatenate([pairs, Interactions(users, items, times)])


def item_title(table: pl.DataFrame, row: int) -> str | None:
    """Return the title of the item in a row of the item table, or None if the table has no titles."""
    column = title_column(table)
    return None if column is None else as_title(table[column].slice(row, 1)).item()


def check_full(train: Interactions | None, purpose: str) -> None:
    """Check that a run has its training interactions `train`, which a slim run lacks.

    `purpose` is what they are needed for; it ends the message: "… so it cannot tell what is popular".

    Raises:
        CapabilityError: the run is slim.
    """
    if train is None:
        raise CapabilityError(f"a slim run has vectors and ids only, so it cannot {purpose}; use the full run")


def make_histories(
    train: Interactions, n_users: int, device: torch.device | str, n_trained: int | None = None
) -> Histories:
    """Return the items of each user on `device`, oldest first if there are timestamps.

    The first `n_trained` pairs are of the training; later ones are likes that may repeat earlier pairs. With
    timestamps, such an item has its latest position.
    """
    if n_trained is not None and n_trained < len(train) and train.timestamps is not None:
        train = train.oldest_first()
        train = train.take(last_positions(train.users * (int(train.items.max()) + 1) + train.items))
    times = None if train.timestamps is None else torch.tensor(train.timestamps)
    return Histories(torch.tensor(train.users), torch.tensor(train.items), n_users, times).to(device)
