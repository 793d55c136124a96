"""The vectors of a batch of queries, and what each of them leaves out, with as few tensor operations as can be.

What is asked of the engine, and what it answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lirdrec.data.ids import count, describe_ids
from lirdrec.errors import CapabilityError, ConfigError, DataError, LirdrecError, UnknownIdError
from lirdrec.ranking.filters import Filter
from lirdrec.ranking.scorers import LARGEST_QUERY, VectorScorer, sound_rows
from lirdrec.server.state import Id, Snapshot, UserState

MAX_FACTOR = 1e6  # of a branch weight: beyond, scores could overflow


@dataclass(frozen=True)
class Query:
    """One request: for a known user, or for a history of items.

    Attributes:
        user: id, or None where `history` is given.
        history: ids of liked items.
        k: items wanted; fewer come where fewer remain.
        exclude_seen: leave out what the user liked.
        where: conditions on the item table.
        diversity: δ of `reranking`, 0 for none.
        branch_weights: name of a part → factor, to weigh the branches of the score anew.
        unknown: what an unknown user gets.
        parts: whether to tell the parts of each score.

    Raises:
        ConfigError: one of them cannot be.
    """

    user: Id | None = None
    history: Sequence[Id] | None = None
    k: int = 10
    exclude_seen: bool = True
    where: Filter | None = None
    diversity: float = 0.0
    branch_weights: Mapping[str, float] | None = None
    unknown: Literal["raise", "popular"] = "raise"
    parts: bool = False

    def __post_init__(self) -> None:
        if (self.user is None) is (self.history is None):
            raise ConfigError("a recommendation is for a user or for a history: give one of the two")
        if self.history is not None and not self.history:
            raise ConfigError("the history is empty: give at least one item")
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ConfigError(f"k is {self.k!r}; it must be a whole number of 1 or more")
        if not 0 <= self.diversity <= 1:
            raise ConfigError(f"diversity is {self.diversity!r}; it must lie between 0 and 1")
        for name, factor in (self.branch_weights or {}).items():
            if not (math.isfinite(factor) and abs(factor) <= MAX_FACTOR):
                raise ConfigError(
                    f"the weight of '{name}' is {factor!r}; it must lie between {-MAX_FACTOR:g} and {MAX_FACTOR:g}"
                )


@dataclass(frozen=True)
class RankingResult:
    """An answer, best first.

    Attributes:
        items: ids.
        scores: one each.
        parts: name of the part → its share of the score, one mapping each; None unless asked for.
        fallback: "popular" where the user was unknown.
    """

    items: list[Id]
    scores: list[float]
    parts: list[dict[str, float]] | None = None
    fallback: str | None = None


@dataclass(frozen=True)
class QueryBatch:
    """The queries of a batch that are ranked by vectors.

    Attributes:
        places: of the queries in the batch, one for each row of `vectors`.
        vectors: `(b, D)`.
        owners, liked: `(n,)` int64 each: rows of `vectors` and the item rows that they leave out.
        strangers: places of the unknown users who are content with what is popular.
    """

    places: list[int]
    vectors: Tensor
    owners: Tensor
    liked: Tensor
    strangers: list[int]

    def only(self, rows: Tensor) -> QueryBatch:
        """Some of the rows `(r,)`, ascending."""
        kept = torch.isin(self.owners, rows)
        owners = torch.searchsorted(rows, self.owners[kept])
        return QueryBatch([self.places[row] for row in rows.tolist()], self.vectors[rows], owners, self.liked[kept], [])


def build_query_batch(
    snapshot: Snapshot, queries: Sequence[Query], answers: list[RankingResult | LirdrecError | None]
) -> QueryBatch:
    """Vectors of the queries that have no answer yet; an error becomes the answer of its query."""
    strangers: list[int] = []
    trained: list[tuple[int, int]] = []  # place, user row
    folded: list[tuple[int, UserState]] = []
    histories: list[tuple[int, Tensor]] = []  # place, item rows
    for place, query in enumerate(queries):
        if answers[place] is not None:
            continue
        try:
            _check(snapshot, query)
            if query.history is not None:
                histories.append((place, _rows(snapshot, query.history)))
                continue
            assert query.user is not None
            person, row = snapshot.people.get(query.user), snapshot.user_rows.get(query.user, -1)
            if person is not None and person.is_folded:
                folded.append((place, person))
            elif row >= 0:
                trained.append((place, row))
            else:
                _refuse_other_kind(query.user, snapshot.user_rows, "user")
                if query.unknown != "popular":
                    raise UnknownIdError(f"no user has the id {query.user!r}")
                strangers.append(place)
        except LirdrecError as error:
            answers[place] = error

    scorer = snapshot.recommender.scorer
    found: list[Tensor] = []
    users = torch.tensor([row for _, row in trained])
    if trained:
        found.append(scorer.queries(users))
    if folded:
        found.append(snapshot.queries([person for _, person in folded]))
    if histories:
        model = snapshot.recommender.model("serve new users")
        found.append(model.fold_in(scorer, [rows for _, rows in histories]))
    places = [place for some in (trained, folded, histories) for place, _ in some]  # type: ignore[attr-defined]
    if not places:
        return QueryBatch([], torch.empty(0, 0), _NONE, _NONE, strangers)
    vectors = torch.cat(found) if len(found) > 1 else found[0]
    _weigh(snapshot, queries, places, vectors)
    gathered = QueryBatch(places, vectors, *_liked(snapshot, queries, places, users, histories), strangers)
    return _sound(gathered, answers)


def _sound(gathered: QueryBatch, answers: list[RankingResult | LirdrecError | None]) -> QueryBatch:
    """Without the queries whose vectors are not finite, or so large that scores would not be."""
    sound = sound_rows(gathered.vectors, LARGEST_QUERY)
    if bool(sound.all()):
        return gathered
    for row in (~sound).nonzero().squeeze(1).tolist():
        answers[gathered.places[row]] = DataError("what was liked gives no finite vector to rank by")
    return replace(gathered.only(sound.nonzero().squeeze(1)), strangers=gathered.strangers)


_NONE = torch.empty(0, dtype=torch.int64)


def _liked(
    snapshot: Snapshot,
    queries: Sequence[Query],
    places: Sequence[int],
    users: Tensor,
    histories: Sequence[tuple[int, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Rows of the batch and the items that they leave out, `(n,)` each; the first rows are the users of training."""
    own: list[tuple[int, Tensor]] = []
    plain: list[int] = []  # users of training who liked nothing since
    first_history = len(places) - len(histories)
    for at, place in enumerate(places):
        query = queries[place]
        if not query.exclude_seen:
            continue
        if at >= first_history:
            own.append((at, histories[at - first_history][1]))
        elif query.user is not None and (person := snapshot.people.get(query.user)) is not None:
            own.append((at, person.liked))
        else:
            plain.append(at)
    owners, liked = [], []
    if plain:
        whole = len(plain) == len(users)
        of_plain, rows = snapshot.recommender.histories.pairs(users if whole else users[plain])
        owners.append(of_plain if whole else torch.tensor(plain)[of_plain])
        liked.append(rows)
    if own:
        owners.append(
            torch.repeat_interleave(torch.tensor([at for at, _ in own]), torch.tensor([len(rows) for _, rows in own]))
        )
        liked += [rows for _, rows in own]
    if not liked:
        return _NONE, _NONE
    return (owners[0], liked[0]) if len(liked) == 1 else (torch.cat(owners), torch.cat(liked))


def _check(snapshot: Snapshot, query: Query) -> None:
    """Refuse what would make a batch fail."""
    recommender = snapshot.recommender
    if query.history is not None:
        if not recommender.model("serve new users").capabilities.new_users:
            raise CapabilityError("this model cannot serve users that it was not trained with")
    elif query.exclude_seen and recommender.is_slim:
        raise CapabilityError(
            "a slim run holds vectors and ids only, so it cannot leave out what a user has seen; use the full run, or "
            "ask with exclude_seen: false"
        )
    if query.branch_weights:
        scorer = recommender.scorer
        if not isinstance(scorer, VectorScorer):
            raise CapabilityError("this model's score has no branches to weigh")
        if strange := set(query.branch_weights) - set(scorer.part_names):
            raise ConfigError(f"no branch '{min(strange)}'; the model has {', '.join(scorer.part_names)}")


def _rows(snapshot: Snapshot, history: Sequence[Id]) -> Tensor:
    rows = [snapshot.item_row(item) for item in history]
    if strange := [item for item, row in zip(history, rows, strict=True) if row < 0]:
        for item in strange:
            _refuse_other_kind(item, snapshot.item_rows, "item")
        raise UnknownIdError(f"{count(len(strange), 'item')} of the history unknown: {describe_ids(strange)}")
    return torch.unique(torch.tensor(rows))


def _refuse_other_kind(id: Id, known: Mapping[Id, int], what: str) -> None:
    """Tell 15 from "15": whoever sends the one where the other is known has made a mistake, whatever the policy."""
    twin = str(id) if isinstance(id, int) else int(id) if id.isascii() and id.isdigit() and len(id) < 20 else None
    if twin is not None and twin in known:
        kind = "integers" if isinstance(twin, int) else "texts"
        raise ConfigError(f"no {what} has the id {id!r}, but one has {twin!r}: the {what} ids of this run are {kind}")


def _weigh(snapshot: Snapshot, queries: Sequence[Query], places: Sequence[int], vectors: Tensor) -> None:
    """Weigh the branches of the vectors anew, in place."""
    names = snapshot.recommender.scorer.part_names
    for at, place in enumerate(places):
        if weights := queries[place].branch_weights:
            vectors[at] = _weighed(vectors[at], weights, names)


def _weighed(vector: Tensor, weights: Mapping[str, float], names: Sequence[str]) -> Tensor:
    factors = torch.tensor([float(weights.get(name, 1.0)) for name in names])
    return (vector.unflatten(0, (len(names), -1)) * factors[:, None]).flatten()
