"""Queries and results of the ranking engine, and the vectors of a batch of queries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lirdrec.data.ids import describe_ids, pluralize
from lirdrec.errors import CapabilityError, ConfigError, DataError, LirdrecError, UnknownIdError
from lirdrec.ranking.filters import Filter
from lirdrec.ranking.scorers import LARGEST_QUERY, VectorScorer, sound_rows
from lirdrec.server.state import Id, Snapshot, UserState

MAX_FACTOR = 1e6  # of a branch weight: beyond, scores could overflow


@dataclass(frozen=True)
class Query:
    """One request, for a known user or for a history of items; `schemas.RecommendRequest` describes the fields.

    Raises:
        ConfigError: a value is out of range.
    """

    user: Id | None = None
    history: Sequence[Id] | None = None
    k: int = 10
    exclude_seen: bool = True
    where: Filter | None = None
    diversity: float = 0.0  # δ of `maximal_marginal_relevance`
    branch_weights: Mapping[str, float] | None = None
    unknown: Literal["raise", "popular"] = "raise"
    parts: bool = False

    def __post_init__(self) -> None:
        if (self.user is None) is (self.history is None):
            raise ConfigError("a recommendation is for a user or for a history: give one of the two")
        if self.history is not None and not self.history:
            raise ConfigError("the history is empty: give at least one item")
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ConfigError(f"k is {self.k!r}; it must be an integer of 1 or more")
        if not 0 <= self.diversity <= 1:
            raise ConfigError(f"diversity is {self.diversity!r}; it must be between 0 and 1")
        for name, factor in (self.branch_weights or {}).items():
            if not (math.isfinite(factor) and abs(factor) <= MAX_FACTOR):
                raise ConfigError(
                    f"the weight of '{name}' is {factor!r}; it must be between {-MAX_FACTOR:g} and {MAX_FACTOR:g}"
                )


@dataclass(frozen=True)
class RankingResult:
    """The items of one query, best first."""

    items: list[Id]
    scores: list[float]
    parts: list[dict[str, float]] | None = None  # name of the part → its share of the score; None unless requested
    fallback: str | None = None  # "popular" where the user was unknown


@dataclass(frozen=True)
class QueryBatch:
    """The queries of a batch that are ranked by vectors."""

    positions: list[int]  # index in the list of queries, for each row of `vectors`
    vectors: Tensor  # (b, D)
    seen_rows: Tensor  # (n,) int64 rows of `vectors` …
    seen_items: Tensor  # … and (n,) int64 item rows that they leave out
    unknown_users: list[int]  # indices of the queries of unknown users that get popular items instead

    def only(self, rows: Tensor) -> QueryBatch:
        """The batch with the given rows `(r,)` only; they are ascending."""
        kept = torch.isin(self.seen_rows, rows)
        seen_rows = torch.searchsorted(rows, self.seen_rows[kept])
        positions = [self.positions[row] for row in rows.tolist()]
        return QueryBatch(positions, self.vectors[rows], seen_rows, self.seen_items[kept], [])


def build_query_batch(
    snapshot: Snapshot, queries: Sequence[Query], answers: list[RankingResult | LirdrecError | None]
) -> QueryBatch:
    """The vectors of the queries that have no answer yet; an error becomes the answer of its query."""
    unknown_users: list[int] = []
    trained: dict[int, int] = {}  # position → user row
    folded: dict[int, UserState] = {}
    histories: dict[int, Tensor] = {}  # position → item rows
    for position, query in enumerate(queries):
        if answers[position] is not None:
            continue
        try:
            _check(snapshot, query)
            if query.history is not None:
                histories[position] = _item_rows(snapshot, query.history)
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
    names = scorer.branch_names
    for row, position in enumerate(positions):
        if weights := queries[position].branch_weights:
            factors = torch.tensor([float(weights.get(name, 1.0)) for name in names])
            joined[row] = (joined[row].unflatten(0, (len(names), -1)) * factors[:, None]).flatten()
    batch = QueryBatch(positions, joined, *_seen(snapshot, queries, positions, trained, histories), unknown_users)
    return _without_overflow(batch, answers)


def _without_overflow(batch: QueryBatch, answers: list[RankingResult | LirdrecError | None]) -> QueryBatch:
    """The batch without queries whose vectors are not finite, or so large that scores would not be."""
    sound = sound_rows(batch.vectors, LARGEST_QUERY)
    if bool(sound.all()):
        return batch
    for row in (~sound).nonzero().squeeze(1).tolist():
        answers[batch.positions[row]] = DataError("the liked items give no finite vector to rank by")
    return replace(batch.only(sound.nonzero().squeeze(1)), unknown_users=batch.unknown_users)


_NONE = torch.empty(0, dtype=torch.int64)


def _seen(
    snapshot: Snapshot,
    queries: Sequence[Query],
    positions: Sequence[int],
    trained: Mapping[int, int],
    histories: Mapping[int, Tensor],
) -> tuple[Tensor, Tensor]:
    """Rows of the batch and the item rows that they leave out, `(n,)` each."""
    separate: dict[int, Tensor] = {}  # row → item rows
    unchanged: list[int] = []  # rows of trained users without new likes
    for row, position in enumerate(positions):
        query = queries[position]
        if not query.exclude_seen:
            continue
        if query.user is None:
            separate[row] = histories[position]
        elif (state := snapshot.user_states.get(query.user)) is not None:
            separate[row] = torch.cat([state.history, _dislikes(snapshot, query)])
        else:
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
    """Item rows that the run leaves out for a user who has new likes; none unless the run has dislikes."""
    recommender = snapshot.recommender
    row = -1 if query.user is None else snapshot.user_rows.get(query.user, -1)
    if recommender.dislikes is None or not 0 <= row < recommender.n_users:
        return _NONE
    return recommender.exclusions.of(row)


def _check(snapshot: Snapshot, query: Query) -> None:
    """Raise for a query that would make its batch fail."""
    recommender = snapshot.recommender
    if query.history is not None:
        if not recommender.model("serve new users").capabilities.new_users:
            raise CapabilityError("this model cannot serve users that it was not trained with")
    elif query.exclude_seen and recommender.is_slim:
        raise CapabilityError(
            "a slim run holds vectors and ids only, so it cannot leave out what a user has seen; use the full run, or "
            "send exclude_seen: false"
        )
    if query.branch_weights:
        scorer = recommender.scorer
        if not isinstance(scorer, VectorScorer):
            raise CapabilityError("this model's score has no branches to weigh")
        if unknown := set(query.branch_weights) - set(scorer.branch_names):
            raise ConfigError(f"no branch '{min(unknown)}'; the model has {', '.join(scorer.branch_names)}")


def _item_rows(snapshot: Snapshot, history: Sequence[Id]) -> Tensor:
    rows = [snapshot.item_row(item) for item in history]
    if unknown := [item for item, row in zip(history, rows, strict=True) if row < 0]:
        for item in unknown:
            _check_id_type(item, snapshot.item_rows, "item")
        raise UnknownIdError(f"{pluralize(len(unknown), 'item')} of the history unknown: {describe_ids(unknown)}")
    return torch.unique(torch.tensor(rows))


def _check_id_type(id: Id, known: Mapping[Id, int], entity: str) -> None:
    """Raise if 15 was sent and "15" is known, or the reverse: a mistake of the caller, whatever the policy."""
    twin = str(id) if isinstance(id, int) else int(id) if id.isascii() and id.isdigit() and len(id) < 20 else None
    if twin is not None and twin in known:
        kind = "integers" if isinstance(twin, int) else "texts"
        raise ConfigError(
            f"no {entity} has the id {id!r}, but one has {twin!r}: the {entity} ids of this run are {kind}"
        )
