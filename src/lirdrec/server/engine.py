"""Answers many requests with one product: whoever waits while a batch is computed forms the next one."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lirdrec.data.identifiers import count, describe_ids
from lirdrec.errors import CapabilityError, ConfigError, LirdrecError, UnknownIdError
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.ranking.top_k import best
from lirdrec.recommender.ranking import popular
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.filters import Filter
from lirdrec.server.live import Id, Live, Snapshot
from lirdrec.server.reranking import CANDIDATES, maximal_marginal_relevance

log = logging.getLogger(__name__)

KEPT_MASKS = 64


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


@dataclass(frozen=True)
class Ranked:
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


class Engine:
    """Ranks for requests that wait at the same time, on one thread.

    Args:
        live: what to rank from; asked for news before each batch.
        max_batch: requests of one product at most.
    """

    def __init__(self, live: Live, max_batch: int = 64):
        self.live, self.max_batch = live, max_batch
        self._waiting: deque[tuple[Query, asyncio.Future[Ranked], asyncio.AbstractEventLoop]] = deque()
        self._wake = threading.Condition()
        self._stopped = False
        self._masks: WeakKeyDictionary[Recommender, OrderedDict[str, Tensor]] = WeakKeyDictionary()
        self._thread = threading.Thread(target=self._work, name="ranking", daemon=True)
        self._thread.start()

    async def recommend(self, query: Query) -> Ranked:
        """The best items.

        Raises:
            UnknownIdError: the user, or an item of the history, is unknown.
            ConfigError, CapabilityError: the query asks for something that cannot be.
            StoreError: the store cannot be asked for news.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Ranked] = loop.create_future()
        with self._wake:
            if self._stopped:
                raise CapabilityError("the server is shutting down")
            self._waiting.append((query, answer, loop))
            self._wake.notify()
        return await answer

    def stop(self) -> None:
        """Answer what waits, then end the thread."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._stopped:
                    self._wake.wait()
                if not self._waiting:
                    return
                some = [self._waiting.popleft() for _ in range(min(self.max_batch, len(self._waiting)))]
            answers: Sequence[Ranked | BaseException]
            try:
                answers = self.rank([query for query, _, _ in some])
            except Exception as error:  # each of them must be answered
                if not isinstance(error, LirdrecError):
                    log.exception("a batch could not be ranked")
                answers = [error] * len(some)
            for loop in {id(loop): loop for _, _, loop in some}.values():
                own = [(future, one) for (_, future, at), one in zip(some, answers, strict=True) if at is loop]
                loop.call_soon_threadsafe(_tell, own)

    @torch.no_grad()
    def rank(self, queries: Sequence[Query]) -> list[Ranked | LirdrecError]:
        """Answers in the order of the queries; an error stands in the place of the query that it belongs to."""
        snapshot = self.live.catch_up()
        answers: list[Ranked | LirdrecError | None] = [None] * len(queries)
        rows: list[tuple[int, Tensor, Tensor | None]] = []  # place, vector, liked
        for place, query in enumerate(queries):
            try:
                found = _vector(snapshot, query)
                if found is None:
                    answers[place] = self._popular(snapshot, query)
                else:
                    rows.append((place, *found))
            except LirdrecError as error:
                answers[place] = error
        if rows:
            self._rank_vectors(snapshot, queries, rows, answers)
        assert all(one is not None for one in answers)
        return answers  # type: ignore[return-value]  # every place was filled

    def _rank_vectors(
        self,
        snapshot: Snapshot,
        queries: Sequence[Query],
        rows: Sequence[tuple[int, Tensor, Tensor | None]],
        answers: list[Ranked | LirdrecError | None],
    ) -> None:
        scorer = snapshot.recommender.scorer
        vectors = torch.stack([vector for _, vector, _ in rows])
        scores = scorer.scores(vectors)  # (b, I)
        self._leave_out(snapshot, queries, rows, scores, answers)
        wanted = max(_depth(queries[place]) for place, _, _ in rows)
        values, items = best(scores, min(wanted, scorer.n_items))
        names = snapshot.recommender.items.series
        for at, (place, vector, _) in enumerate(rows):
            if answers[place] is not None:
                continue
            query = queries[place]
            n = min(_depth(query), int((items[at] >= 0).sum()))
            own, own_values = items[at, :n], values[at, :n]
            if query.diversity > 0:
                order = maximal_marginal_relevance(scorer, own, own_values, query.k, query.diversity)
                own, own_values = own[order], own_values[order]
            parts = None
            if query.parts:
                terms = scorer.parts(vector.expand(len(own), -1), own)
                parts = [dict(zip(scorer.part_names, one, strict=True)) for one in terms.tolist()]
            answers[place] = Ranked([names[row] for row in own.tolist()], own_values.tolist(), parts)

    def _leave_out(
        self,
        snapshot: Snapshot,
        queries: Sequence[Query],
        rows: Sequence[tuple[int, Tensor, Tensor | None]],
        scores: Tensor,
        answers: list[Ranked | LirdrecError | None],
    ) -> None:
        """`-inf` for what was seen, is gone, or is not wanted."""
        if bool(snapshot.gone.any()):
            scores[:, snapshot.gone] = -torch.inf
        liked = [(at, some) for at, (_, _, some) in enumerate(rows) if some is not None and len(some)]
        if liked:
            owner = torch.repeat_interleave(
                torch.tensor([at for at, _ in liked]), torch.tensor([len(s) for _, s in liked])
            )
            scores[owner, torch.cat([some for _, some in liked])] = -torch.inf
        for at, (place, _, _) in enumerate(rows):
            where = queries[place].where
            if where is not None:
                try:
                    scores[at, ~self._mask(snapshot, where)] = -torch.inf
                except LirdrecError as error:
                    answers[place] = error

    def _mask(self, snapshot: Snapshot, where: Filter) -> Tensor:
        masks = self._masks.setdefault(snapshot.recommender, OrderedDict())
        if where.text not in masks:
            masks[where.text] = where.mask(snapshot.recommender.item_table)
            while len(masks) > KEPT_MASKS:
                masks.popitem(last=False)
        return masks[where.text]

    def _popular(self, snapshot: Snapshot, query: Query) -> Ranked:
        recommender = snapshot.recommender
        allowed = ~snapshot.gone if query.where is None else ~snapshot.gone & self._mask(snapshot, query.where)
        candidates = allowed.nonzero().squeeze(1)
        if not len(candidates):
            return Ranked([], [], fallback="popular")
        scores, items = popular(recommender.histories, recommender.n_items, query.k, candidates)
        names = recommender.items.series
        own = [(names[int(row)], float(score)) for row, score in zip(items, scores, strict=True) if row >= 0]
        return Ranked([name for name, _ in own], [score for _, score in own], fallback="popular")


def _vector(snapshot: Snapshot, query: Query) -> tuple[Tensor, Tensor | None] | None:
    """The query's vector `(D,)` and what to leave out; None for an unknown user who is content with popular items."""
    recommender = snapshot.recommender
    if query.history is not None:
        rows = [snapshot.item_row(item) for item in query.history]
        if strange := [item for item, row in zip(query.history, rows, strict=True) if row < 0]:
            raise UnknownIdError(f"{count(len(strange), 'item')} of the history unknown: {describe_ids(strange)}")
        if not rows:
            raise ConfigError("the history is empty: give at least one item")
        liked = torch.unique(torch.tensor(rows))
        model = recommender.model("serve new users")
        return _weighed(
            snapshot, model.fold_in(recommender.scorer, [liked])[0], query
        ), liked if query.exclude_seen else None
    assert query.user is not None
    person = snapshot.people.get(query.user)
    row = snapshot.user_rows.get(query.user, -1)
    vector = None
    if person is not None and person.query is not None:
        vector = person.query
    elif row >= 0:
        vector = recommender.scorer.queries(torch.tensor([row]))[0]
    if vector is None:
        if query.unknown == "popular":
            return None
        raise UnknownIdError(f"no user has the id {query.user!r}")
    return _weighed(snapshot, vector, query), snapshot.liked_rows(query.user) if query.exclude_seen else None


def _weighed(snapshot: Snapshot, vector: Tensor, query: Query) -> Tensor:
    """The vector with its branches weighed anew."""
    if not query.branch_weights:
        return vector
    scorer = snapshot.recommender.scorer
    if not isinstance(scorer, VectorScorer):
        raise CapabilityError("this model's score has no branches to weigh")
    if strange := set(query.branch_weights) - set(scorer.part_names):
        raise ConfigError(f"no branch '{min(strange)}'; the model has {', '.join(scorer.part_names)}")
    factors = torch.tensor([float(query.branch_weights.get(name, 1.0)) for name in scorer.part_names])
    return (vector.unflatten(0, (len(factors), -1)) * factors[:, None]).flatten()


def _depth(query: Query) -> int:
    """Items that have to be ranked for a query."""
    return query.k * CANDIDATES if query.diversity > 0 else query.k


def _tell(answers: Sequence[tuple[asyncio.Future[Ranked], Ranked | BaseException]]) -> None:
    for future, answer in answers:
        if future.done():  # the caller went away
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
