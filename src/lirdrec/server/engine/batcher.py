"""Answers many requests with one product: whoever waits while a batch is computed forms the next one."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from lirdrec.errors import CapabilityError, LirdrecError
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.server.config import Index
from lirdrec.server.engine.ann import ApproximateIndex
from lirdrec.server.engine.query import Query, RankingResult
from lirdrec.server.engine.ranker import Ranker
from lirdrec.server.state import LiveState, Snapshot
from lirdrec.server.store import StoreError

__all__ = ["MicroBatcher", "Query", "RankingResult"]

log = logging.getLogger(__name__)

PATIENCE = 1.0  # seconds without asking a store for news that did not answer

_Waiting = tuple[Query, "asyncio.Future[RankingResult]", asyncio.AbstractEventLoop]


class MicroBatcher:
    """Ranks for requests that wait at the same time, on one thread.

    While the store does not answer, recommendations go on from what is known.

    Args:
        live: what to rank from; asked for news before each batch.
        max_batch: requests of one product at most.
        index: "exact", or how to find most of the best items of a large catalogue ("hnsw", "ivf": see `ann`).

    Raises:
        ConfigError: the index cannot be had.
    """

    def __init__(self, live: LiveState, max_batch: int = 64, index: Index = "exact"):
        self.live, self.max_batch = live, max_batch
        self._index = None if index == "exact" else ApproximateIndex(index)
        self.prepare(live.snapshot)
        self._ranker = Ranker(self._index)
        self._waiting: deque[_Waiting] = deque()
        self._wake = threading.Condition()
        self._stopped = False
        self._silent_until = 0.0
        self._thread = threading.Thread(target=self._work, name="ranking", daemon=True)
        self._thread.start()

    async def recommend(self, query: Query) -> RankingResult:
        """The best items.

        Raises:
            UnknownIdError: the user, or an item of the history, is unknown.
            ConfigError, CapabilityError: the query asks for something that cannot be.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[RankingResult] = loop.create_future()
        with self._wake:
            if self._stopped:
                raise CapabilityError("the server is shutting down")
            self._waiting.append((query, answer, loop))
            self._wake.notify()
        return await answer

    def prepare(self, snapshot: Snapshot) -> None:
        """Make ready for another run what its first request would have to wait for; on any thread."""
        if self._index is not None and isinstance(scorer := snapshot.recommender.scorer, VectorScorer):
            self._index.prepare(scorer)

    def rank(self, queries: Sequence[Query]) -> list[RankingResult | LirdrecError]:
        """Answers in the order of the queries; an error stands in the place of the query that it belongs to."""
        return self._ranker.rank(self._news(), queries)

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
                taken = [self._waiting.popleft() for _ in range(min(self.max_batch, len(self._waiting)))]
            some = [one for one in taken if not one[1].done()]  # of the others, the callers went away
            if some:
                _deliver(some, self._answers([query for query, _, _ in some]))

    def _answers(self, queries: Sequence[Query]) -> Sequence[RankingResult | BaseException]:
        """As `rank`, and whatever happens, every query gets an answer."""
        try:
            return self.rank(queries)
        except Exception as error:
            if len(queries) == 1:
                log.exception("a query could not be ranked")
                return [error]
        return [self._answers([query])[0] for query in queries]  # only the guilty one shall fail

    def _news(self) -> Snapshot:
        if time.monotonic() < self._silent_until:
            return self.live.snapshot
        try:
            return self.live.catch_up()
        except StoreError as error:
            self._silent_until = time.monotonic() + PATIENCE
            log.warning("recommending from what is known: %s", error)
            return self.live.snapshot


def _deliver(some: Sequence[_Waiting], answers: Sequence[RankingResult | BaseException]) -> None:
    for loop in {id(loop): loop for _, _, loop in some}.values():
        own = [(answer, one) for (_, answer, at), one in zip(some, answers, strict=True) if at is loop]
        try:
            loop.call_soon_threadsafe(_tell, own)
        except RuntimeError:  # the loop was closed: nobody waits there any more
            log.debug("answers for a closed loop are dropped")


def _tell(answers: Sequence[tuple[asyncio.Future[RankingResult], RankingResult | BaseException]]) -> None:
    for future, answer in answers:
        if future.done():  # the caller went away
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
