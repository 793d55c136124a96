"""Add items and likes that arrive after the training to a run, without training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lirdrec.data.column_names import ITEM
from lirdrec.data.dataset import Interactions
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.frames import append_frame
from lirdrec.data.ids import IdMap
from lirdrec.errors import CapabilityError
from lirdrec.models.base import Features, Model
from lirdrec.nn.principal_components import Projection
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.recommender.model_inputs import as_features
from lirdrec.recommender.new_item_checks import check_added_items, new_features, new_table
from lirdrec.recommender.new_item_encoder import NEW_ITEMS, NewItemEncoder
from lirdrec.recommender.query_arguments import folded_in
from lirdrec.recommender.state import RunState, make_histories, with_pairs
from lirdrec.wording import pluralize

log = logging.getLogger(__name__)


def with_items(state: RunState, model: Model, items: Any, features: Mapping[str, Any] | None) -> RunState:
    """Return the run with new items added; for other arguments and errors see `Recommender.add_items`.

    Args:
        state: a full run; it is not changed.
        model: the model of the run.
    """
    if not model.capabilities.cold_items:
        raise CapabilityError(f"{model.name} cannot score items that it was not trained with")
    assert state.features is not None
    n_items, blocks = len(state.items), state.features.blocks()
    table = new_table(items, state.items, state.item_table)
    new = new_features(IdMap(table[ITEM], state.items.entity), features, blocks[0])
    read = partial(_as_read, projections=state.features.projections, device=state.device)
    catalog = [_trained_features(model, blocks[0], read), *map(read, blocks[1:])]
    arriving = read(new)
    scorer = model.add_items(state.scorer, catalog, arriving)
    encoder = NewItemEncoder.from_info(state.info.get(NEW_ITEMS))
    if encoder is not None and isinstance(scorer, VectorScorer):
        used = {name: catalog[0][name] for name in getattr(model, "modalities", arriving)}
        scorer = encoder.apply(scorer, n_items, used, {name: arriving[name] for name in used})
    check_added_items(scorer, n_items, table[ITEM])
    log.info("added %s; the catalog has %d now", pluralize(table.height, "item"), n_items + table.height)
    return replace(
        state,
        scorer=scorer,
        items=state.items.extended(table[ITEM]),
        item_table=append_frame(state.item_table, table),
        features=state.features.with_added(new),
    )


def _as_read(
    block: Mapping[str, FeatureMatrix], projections: Mapping[str, Projection], device: torch.device
) -> dict[str, Features]:
    """Return features as the model reads them: on the device, in float32, and reduced by the projections."""
    return {name: as_features(matrix, device, projections.get(name)) for name, matrix in block.items()}


def _trained_features(
    model: Model,
    trained: Mapping[str, FeatureMatrix],
    read: Callable[[Mapping[str, FeatureMatrix]], dict[str, Features]],
) -> dict[str, Features]:
    """Return the features of the trained items; features that the model holds are not copied, as they may be large."""
    held = model.inputs.features
    rest = {name: matrix for name, matrix in trained.items() if name not in held}
    return {name: held[name] for name in trained if name in held} | read(rest)


def with_likes(
    state: RunState,
    model: Callable[[], Model],
    users: np.ndarray,
    items: np.ndarray,
    times: np.ndarray | None = None,
    *,
    ordered: bool = False,
) -> RunState:
    """Return the run with likes that were given since the training; see `Recommender.update`.

    Args:
        state: a full run, which is not changed. The same object is returned if the likes change no history.
        model: function that returns the model of the run; called only if vectors have to be computed.
        users, items: `(n,)` int64 rows of the likes, oldest first.
        times: `(n,)` int64 times of the likes, for models that read histories in order; None: they are the latest.
        ordered: whether the model reads histories in order. A like of a known item then moves it to its new position,
            and the users get queries that the model computes from their new histories (`Model.fold_in`).
    """
    assert state.train is not None and state.histories is not None
    if not ordered:
        keys = np.unique(users * len(state.items) + items)
        keys = keys[~np.isin(keys, state.train.users * len(state.items) + state.train.items)]
        users, items = keys // len(state.items), keys % len(state.items)
    n_trained = len(state.train) if state.n_trained_pairs is None else state.n_trained_pairs
    train = with_pairs(state.train, users, items, times)
    histories, before = make_histories(train, len(state.users), state.device, n_trained), state.histories
    changed = np.unique(users).tolist()
    if ordered:  # a like of the last item of a history leaves it as it is
        changed = [user for user in changed if not torch.equal(histories.of(user), before.of(user))]
    if not changed:
        return state
    scorer = _with_moved_items(state, model, train, items)
    if ordered:
        longer, rows = [histories.of(user) for user in changed], torch.tensor(changed, device=state.device)
        names = [f"user {state.users.ids[user]}" for user in changed]
        queries = torch.cat([queries for _, queries in folded_in(model(), scorer, longer, names.__getitem__)])
        if isinstance(scorer, ItemWeightScorer):
            scorer = scorer.with_users(rows, queries, longer)
        else:
            assert isinstance(scorer, VectorScorer)
            scorer = scorer.with_users(rows, queries)
    return replace(state, train=train, histories=histories, scorer=scorer, n_trained_pairs=n_trained)


def _with_moved_items(state: RunState, model: Callable[[], Model], train: Interactions, liked: np.ndarray) -> Scorer:
    """Return the scorer; those of the `liked` items `(n,)` that were added later get vectors from all their likers."""
    added = np.unique(liked[liked >= state.n_trained_items])
    if not len(added) or state.weights is None or not model().can_warm_up:
        return state.scorer
    return model().fold_in_items(state.scorer, torch.tensor(added, device=state.device), _likers(state, train, added))


def _likers(state: RunState, train: Interactions, items: np.ndarray) -> list[Tensor]:
    """Return, for each of `items`, the trained vectors of the users who like it, in the order of the users' rows."""
    scorer = state.scorer
    assert isinstance(scorer, VectorScorer)  # this is so for all models that can move items by likes
    likers = (np.unique(train.users[train.items == item]) for item in items)
    return [scorer.trained_queries(torch.tensor(rows, device=state.device)) for rows in likers]
