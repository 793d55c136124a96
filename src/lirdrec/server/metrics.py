"""Prometheus metrics of the server. Several workers share them through files (PROMETHEUS_MULTIPROC_DIR)."""

from __future__ import annotations

import math
import os
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from lirdrec.server.state import LiveState
from lirdrec.server.store import StoreError

SHARED = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The Prometheus metrics of one worker, or of all workers if they share a folder."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        counter, histogram = partial(Counter, registry=registry), partial(Histogram, registry=registry)
        gauge = partial(Gauge, registry=registry, multiprocess_mode="mostrecent")
        self.requests = counter("lirdrec_requests", "Answered requests.", ("method", "route", "status"))
        self.seconds = histogram(
            "lirdrec_request_seconds", "From a request's head to its answer's end.", ("route",), buckets=_SECONDS
        )
        self.batch = histogram("lirdrec_batch_size", "Requests ranked together.", buckets=_BATCHES)
        self.ranking = histogram("lirdrec_ranking_seconds", "Ranking of one batch.", buckets=_SECONDS)
        self.items = gauge("lirdrec_items", "Items that can be recommended.")
        self.places = counter("lirdrec_places", "Places in answered lists.")
        self.new_places = counter("lirdrec_new_item_places", "Places of items that were added after training.")
        self.likes = counter("lirdrec_likes", "Likes that were stored.")
        self.new_likes = counter("lirdrec_new_item_likes", "Stored likes of items that were added after training.")
        self.behind = gauge("lirdrec_changes_behind", "Changes of the store not taken over yet.")
        self.registry = registry
        if os.environ.get(SHARED):
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry)

    def text(self, live: LiveState | None) -> bytes:
        """Return all metrics in the text format of Prometheus; `live` is None until the run is loaded."""
        if live is not None:
            self.items.set(live.snapshot.n_available)
            try:
                self.behind.set(max(0, live.store.latest() - live.snapshot.number))
            except StoreError:
                self.behind.set(math.nan)
        return generate_latest(self.registry)

    def exposure(self) -> dict[str, int | float | None]:
        """Return how often items added after training were recommended and liked, in all workers since the start.

        The keys are the fields of `response_models.Exposure`.
        """
        counted = {sample.name: sample.value for metric in self.registry.collect() for sample in metric.samples}
        names = ("places", "new_item_places", "likes", "new_item_likes")
        places, new_places, likes, new_likes = (int(counted.get(f"lirdrec_{name}_total", 0)) for name in names)
        return {
            "places": places,
            "new_item_places": new_places,
            "share_of_places": new_places / places if places else None,
            "likes": likes,
            "new_item_likes": new_likes,
            "share_of_likes": new_likes / likes if likes else None,
        }

    def observe_batch(self, size: int, seconds: float) -> None:
        """Record that a batch of `size` queries was ranked in `seconds`."""
        self.ranking.observe(seconds)
        self.batch.observe(size)
