"""Rank requests in batches: the requests that arrive while one batch is ranked form the next batch."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from lirdrec.errors import CapabilityError, LirdrecError
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.server.config import Index
from lirdrec.server.engine.ann import ApproximateIndex
from lirdrec.server.engine.query import Query, RankingResult
from lirdrec.server.engine.ranker import Ranker
from lirdrec.server.snapshot import Snapshot
from lirdrec.server.state import LiveState
from lirdrec.server.store import StoreError

__all__ = ["MicroBatcher", "Query", "RankingResult"]

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # pause before a store that did not answer is asked again


class MicroBatcher:
    """Ranks the waiting requests together, in one thread.

    While the store does not answer, requests are ranked from the last known state.

    Args:
        live: the state to rank from; new changes in the store are applied to it before each batch.
        max_batch: largest number of requests in a batch.
        index: "exact", or the kind of an approximate index, "hnsw" or "ivf" (see `ann`).
        on_batch: called after each batch with its size and the seconds that it took.

    Raises:
        ConfigError: the index is not available.
    """

    def __init__(
        self,
        live: LiveState,
        max_batch: int = 64,
        index: Index = "exact",
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ):
        self.live, self.max_batch, self.on_batch = live, max_batch, on_batch
        self._index = None if index == "exact" else ApproximateIndex(index)
        self.prepare(live.snapshot)
        self._ranker = Ranker(self._index)
        self._waiting: deque[tuple[Query, Future[RankingResult]]] = deque()
        self._wake = threading.Condition()
        self._stopped = False
        self._silent_until = 0.0
        self._thread = threading.Thread(target=self._work, name="ranking", daemon=True)
        self._thread.start()

    async def recommend(self, query: Query) -> RankingResult:
        """Wait for the batch that ranks this query, and return the best items of the query.

        Raises:
            UnknownIdError: the user, an item of the history or a candidate is unknown.
            ConfigError, CapabilityError: an id has the wrong type, the run or its model does not support the query, or
                the server is shutting down.
            DataError: the user vector is not finite.
        """
        answer: Future[RankingResult] = Future()
        with self._wake:
            if self._stopped:
                raise CapabilityError("the server is shutting down")
            self._waiting.append((query, answer))
            self._wake.notify()
        return await asyncio.wrap_future(answer)

    def prepare(self, snapshot: Snapshot) -> None:
        """Build the index (if it is approximate) of another run before its first request; any thread may call this."""
        if self._index is not None and isinstance(scorer := snapshot.recommender.scorer, VectorScorer):
            self._index.prepare(scorer)

    def rank(self, queries: Sequence[Query]) -> list[RankingResult | LirdrecError]:
        """Rank queries together. Return the results in the order of the queries; the error for a query that fails."""
        started = time.perf_counter()
        answers = self._ranker.rank(self._up_to_date(), queries)
        self.on_batch(len(queries), time.perf_counter() - started)
        return answers

    def stop(self) -> None:
        """Answer the waiting requests, then end the thread."""
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
                batch = [self._waiting.popleft() for _ in range(min(self.max_batch, len(self._waiting)))]
            batch = [waiting for waiting in batch if waiting[1].set_running_or_notify_cancel()]
            answers = self._answers([query for query, _ in batch]) if batch else []
            for (_, future), answer in zip(batch, answers, strict=True):
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _answers(self, queries: Sequence[Query]) -> Sequence[RankingResult | BaseException]:
        """Rank queries as `rank` does; if this raises an error, rank each alone, and return its error if it fails."""
        try:
            return self.rank(queries)
        except Exception as error:
            if len(queries) == 1:
                log.exception("a query could not be ranked")
                return [error]
        return [self._answers([query])[0] for query in queries]  # one by one, so that only the failing query fails

    def _up_to_date(self) -> Snapshot:
        if time.monotonic() < self._silent_until:
            return self.live.snapshot
        try:
            return self.live.catch_up()
        except StoreError as error:
            self._silent_until = time.monotonic() + RETRY_SECONDS
            log.warning("the store does not answer, so recommendations use the last known state: %s", error)
            return self.live.snapshot
