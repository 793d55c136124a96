"""Figures for Prometheus. Several workers share them through files (PROMETHEUS_MULTIPROC_DIR), as its client does."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from lirdrec.errors import LirdrecError
from lirdrec.server.config import Index
from lirdrec.server.engine.batcher import MicroBatcher, Query, RankingResult
from lirdrec.server.state import LiveState
from lirdrec.server.store import StoreError

SHARED = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The figures of one server; of all workers where they share a folder."""

    def __init__(self) -> None:
        own = CollectorRegistry()
        self.requests = Counter("lirdrec_requests", "Answered requests.", ("method", "route", "status"), registry=own)
        self.seconds = Histogram(
            "lirdrec_request_seconds",
            "From a request's head to its answer's end.",
            ("route",),
            buckets=_SECONDS,
            registry=own,
        )
        self.batch = Histogram("lirdrec_batch_size", "Requests ranked together.", buckets=_BATCHES, registry=own)
        self.ranking = Histogram("lirdrec_ranking_seconds", "Ranking of one batch.", buckets=_SECONDS, registry=own)
        gauge = partial(Gauge, registry=own, multiprocess_mode="mostrecent")
        self.items = gauge("lirdrec_items", "Items that can be recommended.")
        self.behind = gauge("lirdrec_changes_behind", "Changes of the store not taken over yet.")
        self.registry = own
        if os.environ.get(SHARED):
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry)

    def text(self, live: LiveState | None) -> bytes:
        """Everything in Prometheus' format."""
        if live is not None:
            snapshot = live.snapshot
            self.items.set(len(snapshot.gone) - int(snapshot.gone.sum()))
            try:
                self.behind.set(max(0, live.store.latest() - snapshot.number))
            except StoreError:
                self.behind.set(math.nan)  # nobody knows
        return generate_latest(self.registry)


class MeasuredEngine(MicroBatcher):
    """An engine whose batches are counted and timed."""

    def __init__(self, live: LiveState, metrics: Metrics, max_batch: int, index: Index):
        self._metrics = metrics
        super().__init__(live, max_batch, index)

    def rank(self, queries: Sequence[Query]) -> list[RankingResult | LirdrecError]:
        started = time.perf_counter()
        answers = super().rank(queries)
        self._metrics.ranking.observe(time.perf_counter() - started)
        self._metrics.batch.observe(len(queries))
        return answers
