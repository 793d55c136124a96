"""Queries and results of the ranking engine, and the vectors of a batch of queries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from lirdrec.data.ids import describe_ids
from lirdrec.errors import CapabilityError, ConfigError, DataError, LirdrecError, UnknownIdError
from lirdrec.ranking.item_filters import Filter
from lirdrec.ranking.scorers import LARGEST_QUERY, VectorScorer, finite_rows
from lirdrec.ranking.top_k import Quota
from lirdrec.recommender.new_item_encoder import NewItemPolicy
from lirdrec.recommender.query_arguments import history_rows
from lirdrec.server.snapshot import Id, Snapshot, UserState
from lirdrec.wording import pluralize

CALIBRATED = NewItemPolicy()
MAX_FACTOR = 1000  # largest weight of a branch (a part of the score); much larger ones could make scores overflow


CANDIDATES = 10  # candidates of diversification for each item of the result
MAX_CANDIDATES = 1000  # candidates in total


def n_candidates(k: int, diversity: float) -> int:
    """Return how many of the best items are the candidates from which `k` are chosen with this diversity."""
    return k if diversity == 0 else max(k, min(k * CANDIDATES, MAX_CANDIDATES))


@dataclass(frozen=True)
class Query:
    """A request for recommendations, for a known user or for a history of items.

    `request_models.RecommendRequest` describes the fields.

    Raises:
        ConfigError: a value is out of range, a list is empty, or not exactly one of user and history is given.
    """

    user: Id | None = None
    history: Sequence[Id] | None = None
    k: int = 10
    exclude_seen: bool = True
    where: Filter | None = None
    diversity: float = 0.0  # δ of `ranker.maximal_marginal_relevance`
    branch_weights: Mapping[str, float] | None = None
    candidates: Sequence[Id] | None = None  # None: all items
    new_items: NewItemPolicy = CALIBRATED
    unknown: Literal["raise", "popular"] = "raise"
    parts: bool = False

    def __post_init__(self) -> None:
        if (self.user is None) is (self.history is None):
            raise ConfigError("a recommendation is for a user or for a history: give one of the two")
        if self.history is not None and not self.history:
            raise ConfigError("the history is empty: give at least one item")
        if self.candidates is not None and not len(self.candidates):
            raise ConfigError("the list of candidates is empty: give at least one item, or leave it out for all items")
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ConfigError(f"k is {self.k!r}; it must be an integer of 1 or more")
        if not 0 <= self.diversity <= 1:
            raise ConfigError(f"diversity is {self.diversity!r}; it must be between 0 and 1")
        for name, factor in (self.branch_weights or {}).items():
            if not (math.isfinite(factor) and abs(factor) <= MAX_FACTOR):
                raise ConfigError(
                    f"the branch weight of '{name}' is {factor!r}; it must be between {-MAX_FACTOR} and {MAX_FACTOR}"
                )


@dataclass(frozen=True)
class RankingResult:
    """The result of one query: items, best first, and their scores."""

    items: list[Id]
    scores: list[float]
    parts: list[dict[str, float]] | None = None  # name → part of the score; None unless requested
    fallback: str | None = None  # "popular" if the user was unknown
    new: list[int] = field(default_factory=list)  # positions in `items` of the items that were added after training


@dataclass(frozen=True)
class Limits:
    """What a query demands of the candidates and of new items (added after training).

    A query with limits is always ranked exactly, not by an approximate index.
    """

    width: int  # number of items to rank
    change: float = 0.0  # number that is added to the scores of new items
    candidates: Tensor | None = None  # (c,) int64 item rows; None: all items
    quota: Quota | None = None  # places that new items get among the items to rank …
    final: Quota | None = None  # … and in the result

    @classmethod
    def of(cls, snapshot: Snapshot, query: Query) -> Limits | None:
        """Return the limits of a query, or None if it has none.

        Raises:
            UnknownIdError: a candidate is unknown or was removed.
            ConfigError: the id of a candidate has the wrong type.
            CapabilityError, ConfigError: the query has a boost for new items, which the model or run does not support.
        """
        recommender, policy = snapshot.recommender, query.new_items
        n_trained = recommender.n_trained_items
        candidates = candidate_rows(snapshot, query)
        if policy.kind == "calibrated" or recommender.n_items == n_trained:
            return None if candidates is None else cls(n_candidates(query.k, query.diversity), 0.0, candidates)
        change = policy.offset_change(recommender.scorer, recommender.new_item_encoder, n_trained)
        final = policy.quota(query.k, n_trained)
        if final is None:
            return cls(n_candidates(query.k, query.diversity), change, candidates)
        n_new = n_candidates(final.places, query.diversity)
        width = n_new + n_candidates(query.k - final.places, query.diversity)
        return cls(width, change, candidates, Quota(n_trained, n_new), final)


@dataclass(frozen=True)
class QueryBatch:
    """The queries of a batch that are ranked with a user vector."""

    positions: list[int]  # index in the list of queries, for each row of `vectors`
    vectors: Tensor  # (b, D)
    seen_rows: Tensor  # (n,) int64 rows of `vectors` …
    seen_items: Tensor  # … and (n,) int64 the item rows to leave out for them
    unknown_users: list[int]  # indices of the queries of unknown users, who get popular items instead
    limits: Mapping[int, Limits] = field(default_factory=dict)  # row of `vectors` → limits of its query

    def only(self, rows: Tensor) -> QueryBatch:
        """Return a batch of the rows `rows` `(r,)` only, which must be ascending; without `unknown_users`."""
        kept = torch.isin(self.seen_rows, rows)
        seen_rows = torch.searchsorted(rows, self.seen_rows[kept])
        positions = [self.positions[row] for row in rows.tolist()]
        limits = {new: self.limits[row] for new, row in enumerate(rows.tolist()) if row in self.limits}
        return QueryBatch(positions, self.vectors[rows], seen_rows, self.seen_items[kept], [], limits)


def build_query_batch(
    snapshot: Snapshot, queries: Sequence[Query], answers: list[RankingResult | LirdrecError | None]
) -> QueryBatch:
    """Return a batch of the queries whose entry in `answers` is None, with a user vector for each.

    If a query fails, its error is written into `answers`, and the query is left out.
    """
    unknown_users: list[int] = []
    trained: dict[int, int] = {}  # position → user row
    folded: dict[int, UserState] = {}
    histories: dict[int, Tensor] = {}  # position → item rows
    limits: dict[int, Limits] = {}
    for position, query in enumerate(queries):
        if answers[position] is not None:
            continue
        try:
            _check(snapshot, query)
            if (limit := Limits.of(snapshot, query)) is not None:
                limits[position] = limit
            if query.history is not None:
                histories[position] = _history_rows(snapshot, query.history)
                continue
            assert query.user is not None
            state, row = snapshot.user_states.get(query.user), snapshot.user_rows.get(query.user, -1)
            if state is not None and state.is_folded:
                folded[position] = state
            elif row >= 0:
                trained[position] = row
            else:
                _check_id_type(query.user, snapshot.user_rows, "user")
                if query.unknown != "popular":
                    raise UnknownIdError(f"no user has the id {query.user!r}")
                unknown_users.append(position)
        except LirdrecError as error:
            answers[position] = error

    scorer, vectors = snapshot.recommender.scorer, []
    if trained:
        vectors.append(scorer.queries(torch.tensor(list(trained.values()))))
    if folded:
        vectors.append(snapshot.queries(list(folded.values())))
    if histories:
        model = snapshot.recommender.model("serve new users")
        vectors.append(model.fold_in(scorer, list(histories.values())))
    positions = [*trained, *folded, *histories]
    if not positions:
        return QueryBatch([], torch.empty(0, 0), _NONE, _NONE, unknown_users)
    joined = torch.cat(vectors) if len(vectors) > 1 else vectors[0]
    for row, position in enumerate(positions):
        if weights := queries[position].branch_weights:
            assert isinstance(scorer, VectorScorer)  # checked with the query
            factors = torch.tensor([float(weights.get(name, 1.0)) for name in scorer.branch_names])
            joined[row] *= factors.repeat_interleave(torch.tensor(scorer.widths))
    seen = _seen(snapshot, queries, positions, trained, histories)
    of_rows = {row: limits[position] for row, position in enumerate(positions) if position in limits}
    batch = QueryBatch(positions, joined, *seen, unknown_users, of_rows)
    return _without_overflow(batch, answers)


def _without_overflow(batch: QueryBatch, answers: list[RankingResult | LirdrecError | None]) -> QueryBatch:
    """Return the batch without queries whose vectors or scores would not be finite.

    Their entry in `answers` becomes an error.
    """
    sound = finite_rows(batch.vectors, LARGEST_QUERY)
    if bool(sound.all()):
        return batch
    for row in (~sound).nonzero().squeeze(1).tolist():
        answers[batch.positions[row]] = DataError(
            "items cannot be ranked: the vector made of the liked items is not finite, or has too large numbers"
        )
    return replace(batch.only(sound.nonzero().squeeze(1)), unknown_users=batch.unknown_users)


_NONE = torch.empty(0, dtype=torch.int64)


def _seen(
    snapshot: Snapshot,
    queries: Sequence[Query],
    positions: Sequence[int],
    trained: Mapping[int, int],
    histories: Mapping[int, Tensor],
) -> tuple[Tensor, Tensor]:
    """Return which items to leave out for which users, as pairs: rows of the batch `(n,)`, and item rows `(n,)`.

    Items that a user disliked since training are always left out, the others only if the query excludes seen items.
    """
    separate: dict[int, Tensor] = {}  # row → item rows
    unchanged: list[int] = []  # rows of trained users without new likes
    for row, position in enumerate(positions):
        query = queries[position]
        if query.user is None:
            if query.exclude_seen:
                separate[row] = histories[position]
        elif (state := snapshot.user_states.get(query.user)) is not None:
            seen = [state.history, _dislikes(snapshot, query)] if query.exclude_seen else []
            separate[row] = torch.cat([state.disliked, *seen])
        elif query.exclude_seen:
            unchanged.append(row)
    rows, items = [], []
    if unchanged:
        users = torch.tensor([trained[positions[row]] for row in unchanged])
        owners, owned = snapshot.recommender.exclusions.pairs(users)
        rows.append(torch.tensor(unchanged)[owners])
        items.append(owned)
    if separate:
        lengths = torch.tensor([len(history) for history in separate.values()])
        rows.append(torch.repeat_interleave(torch.tensor(list(separate)), lengths))
        items += separate.values()
    return (torch.cat(rows), torch.cat(items)) if rows else (_NONE, _NONE)


def _dislikes(snapshot: Snapshot, query: Query) -> Tensor:
    """Return the rows of the items that the query's user liked or disliked in training.

    The result is empty if the run has no dislikes: then `UserState.history` has all that is needed.
    """
    recommender = snapshot.recommender
    row = -1 if query.user is None else snapshot.user_rows.get(query.user, -1)
    if recommender.dislikes is None or not 0 <= row < recommender.n_users:
        return _NONE
    return recommender.exclusions.of(row)


def _check(snapshot: Snapshot, query: Query) -> None:
    """Raise a CapabilityError or ConfigError for a query that the run or its model does not support."""
    recommender = snapshot.recommender
    if query.history is not None:
        if not recommender.model("serve new users").capabilities.new_users:
            raise CapabilityError(
                "this model cannot serve users that it was not trained with: give a known user instead of a history"
            )
    elif query.exclude_seen and recommender.is_slim:
        raise CapabilityError(
            "a slim run has only vectors and ids, so it cannot leave out what a user has seen; use the full run, or "
            "send exclude_seen: false"
        )
    if query.branch_weights:
        scorer = recommender.scorer
        if not isinstance(scorer, VectorScorer):
            raise CapabilityError("this model's score has no branches (parts with weights): leave out branch_weights")
        if unknown := set(query.branch_weights) - set(scorer.branch_names):
            raise ConfigError(
                f"branch_weights: no branch '{min(unknown)}'; the model has {', '.join(scorer.branch_names)}"
            )


def candidate_rows(snapshot: Snapshot, query: Query) -> Tensor | None:
    """Return the item rows `(c,)` int64 of the candidates of a query, ascending; None if it has no candidates.

    Raises:
        UnknownIdError: an item is unknown or was removed.
        ConfigError: an id has the wrong type.
    """
    return None if query.candidates is None else torch.unique(_item_rows(snapshot, query.candidates, "candidates"))


def _history_rows(snapshot: Snapshot, history: Sequence[Id]) -> Tensor:
    """Return the distinct item rows `(n,)` int64 of a history; in order if the model reads the order."""
    rows = _item_rows(snapshot, history, "history")
    if not snapshot.recommender.is_ordered:
        return torch.unique(rows)
    return torch.from_numpy(history_rows(rows.numpy(), ordered=True))


def _item_rows(snapshot: Snapshot, items: Sequence[Id], subject: str) -> Tensor:
    """Return the item rows `(n,)` int64 of ids, in their order; raise the errors of `candidate_rows`."""
    rows = torch.tensor([snapshot.item_rows.get(item, -1) for item in items])
    available = (rows >= 0) & ~snapshot.removed[rows.clamp(min=0)]
    if not bool(available.all()):
        unknown = [items[position] for position in (~available).nonzero().squeeze(1).tolist()]
        for item in unknown:
            _check_id_type(item, snapshot.item_rows, "item")
        raise UnknownIdError(
            f"{pluralize(len(unknown), 'item')} of the {subject} not in the catalog: {describe_ids(unknown)}"
        )
    return rows


def _check_id_type(id: Id, known: Mapping[Id, int], entity: str) -> None:
    """Raise a ConfigError if the same id is known in the other type, such as the text "15" for the number 15."""
    twin = str(id) if isinstance(id, int) else int(id) if id.isascii() and id.isdigit() and len(id) < 20 else None
    if twin is not None and twin in known:
        kind = "integers" if isinstance(twin, int) else "texts"
        raise ConfigError(
            f"no {entity} has the id {id!r}, but one has {twin!r}: the {entity} ids of this run are {kind}"
        )
