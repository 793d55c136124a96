"""The services that the routes use; they are opened in the background when the server starts, and closed at its end."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from lirdrec.errors import ConfigError, LirdrecError
from lirdrec.server.auth import Keys, RateLimiter
from lirdrec.server.catalog.item_encoding import Encoders
from lirdrec.server.config import ServerConfig
from lirdrec.server.engine.batcher import MicroBatcher
from lirdrec.server.http.errors import Problem, hide_paths, redact
from lirdrec.server.metrics import Metrics
from lirdrec.server.run_pointer import RunPointer, Stamp
from lirdrec.server.snapshot import Snapshot
from lirdrec.server.state import LiveState
from lirdrec.server.store import Store

log = logging.getLogger(__name__)
T = TypeVar("T")

WARM_BYTES = 256 * 2**20  # features up to this size are loaded before the first new item
SWITCH_SECONDS = 0.0005  # after this time a thread that reads a large body lets the event loop run
_USUAL_SWITCH = sys.getswitchinterval()


class Services:
    """Everything that the routes use: the run with its changes, the ranking engine, API keys, encoders, metrics."""

    def __init__(self, config: ServerConfig):
        self.config = config
        hide_paths(config.run, config.keys, config.images, config.runs)
        self.metrics = Metrics()
        self.keys = None if config.keys is None else Keys(config.keys)
        rate = config.requests_per_second
        self.limiter = RateLimiter(rate) if rate > 0 else None
        self.pointer = RunPointer(config.run)
        self.encoders = None if config.encoders else Encoders()  # None while they are being loaded
        self._large = asyncio.Lock()  # held by the request whose large body is being read
        self.failure: str | None = None  # why the server could not start
        self.on_failure: Callable[[], None] = lambda: None  # called if the server could not start
        self._served: Stamp | None = None
        self._live: LiveState | None = None
        self._engine: MicroBatcher | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = threading.Condition()
        self._reads = 0  # number of calls of `read` that run in threads, also for cancelled requests
        self._writers = anyio.CapacityLimiter(1)  # changes are made one at a time, so waiting changes need no thread
        self._swapping = asyncio.Lock()

    @property
    def live(self) -> LiveState:
        """The current snapshot (the run with its changes) and its store; raises a Problem (503) while not loaded."""
        if self._live is None:
            raise self.unready()
        return self._live

    @property
    def engine(self) -> MicroBatcher:
        """The ranking engine, which ranks items for requests; raises a Problem (503) until the run is loaded."""
        if self._engine is None:
            raise self.unready()
        return self._engine

    @property
    def is_open(self) -> bool:
        """Whether the run is loaded and the store is open."""
        return self._live is not None

    # ------------------------------------------------------------ blocking work

    async def read(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread, and return its result.

        If the request is cancelled, `work` continues, its result is not used, and `stop` waits until it has ended.
        """

        def counted() -> T:
            with self._idle:
                self._reads += 1
            try:
                return work()
            finally:
                with self._idle:
                    self._reads -= 1
                    self._idle.notify_all()

        return await anyio.to_thread.run_sync(counted, abandon_on_cancel=True)

    async def read_large(self, work: Callable[[], T]) -> T:
        """Run `work`, which parses a large body, in a thread as `read` does; return its result.

        One such `work` runs at a time, and the next one waits after it for as long as it took, so that small requests
        are answered meanwhile. During `work` Python switches between threads every 0.5 ms, instead of every 5 ms,
        because the event loop waits for its turn several times in each request.
        """
        await self._large.acquire()
        started = time.perf_counter()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            return await self.read(work)
        finally:
            sys.setswitchinterval(_USUAL_SWITCH)
            asyncio.get_running_loop().call_later(time.perf_counter() - started, self._large.release)

    async def write(self, work: Callable[[], T]) -> T:
        """Run `work`, which changes something, in a thread, one at a time; return its result.

        Work that has started is finished even if the request is cancelled.
        """
        return await anyio.to_thread.run_sync(work, limiter=self._writers)

    async def current(self) -> Snapshot:
        """Apply all new changes in the store, and return the snapshot (the run with its changes)."""
        return await self.read(self.live.catch_up)

    # ------------------------------------------------------------ start, swap, stop

    async def start(self) -> None:
        """Start to open the run and the store in the background; with one worker, return at once.

        With several workers, wait until they are open, and raise a ConfigError if they cannot be opened.
        """
        opening = self._spawn(self._start())
        if self.config.workers > 1:
            await opening
            if self.failure is not None:
                raise ConfigError(self.failure)

    async def stop(self) -> None:
        """End the background tasks, answer the waiting requests, then close the store."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await anyio.to_thread.run_sync(self._close)

    async def swap(self, run: Path | None = None) -> None:
        """Serve another run.

        Args:
            run: the run folder to serve; the configured link or file (`config.run`) is changed to name this folder.
                None: the folder that the link or file names now.

        Raises:
            LirdrecError: the run cannot be loaded, or the link or file cannot be changed. The old run is still served.
        """
        async with self._swapping:
            await self.write(lambda: self._swap(run))
        self._spawn(self._warm())

    def _open(self) -> None:
        stamp = self.pointer.stamp()
        store = Store(self.config.store_url)
        try:
            live = LiveState(self.pointer.target(), store, self.config.dislikes)
        except BaseException:
            store.close()
            raise
        config = self.config
        self._engine = MicroBatcher(live, config.ranking_batch, config.index, self.metrics.observe_batch)
        self._set_served(live.snapshot, stamp)
        self._live = live  # last: now the server is ready

    def _swap(self, run: Path | None) -> None:
        previous, stamp = self.live.snapshot.run, self.pointer.stamp()
        self.live.swap(self.pointer.target() if run is None else run, self.engine.prepare)
        if run is not None:
            try:
                self.pointer.point(run)
            except BaseException:
                self.live.swap(previous, self.engine.prepare)  # the run that a restart would serve
                raise
            stamp = self.pointer.stamp()
        if self.config.encoders:
            self.encoders = None  # encoders of another dataset could make incompatible vectors of the same width
        self._set_served(self.live.snapshot, stamp)
        log.info("now serving another run: %s", self.live.snapshot.run.name)

    def _set_served(self, snapshot: Snapshot, stamp: Stamp) -> None:
        self._served = stamp
        features = snapshot.recommender.features
        hide_paths(snapshot.run, None if features is None else features.folder)

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.stop()
        # a thread inside torch when the interpreter ends would abort the process
        with self._idle:
            self._idle.wait_for(lambda: self._reads == 0, self.config.timeout_seconds)
        if self._live is not None:
            self._live.store.close()

    async def _start(self) -> None:
        try:
            await anyio.to_thread.run_sync(self._open)
        except LirdrecError as error:
            self.failure = str(error)
            log.error("the server cannot start: %s", error)
        except Exception:
            self.failure = "an internal error happened; the log has details"
            log.exception("the server cannot start")
        if self.failure is not None:
            self.on_failure()
            return
        log.info("ready: %s", self.live.snapshot.recommender)
        self._spawn(self._warm())
        if self.config.follows:
            self._spawn(self._watch())

    async def _warm(self) -> None:
        """Load the encoders and build the model, so that the first new item does not wait for them.

        Errors are logged. With large features the model is not built now.
        """
        snapshot = self.live.snapshot
        recommender = snapshot.recommender
        try:
            if self.config.encoders:
                encoders = await self.read(lambda: Encoders.load(recommender, self.config.device))
                if self.live.snapshot.recommender.users is recommender.users:  # still the same run
                    self.encoders = encoders
            trained = snapshot.trained_features.values()
            # large features may need more memory than all vectors; they are loaded for the first new item
            is_small = sum(4 * matrix.values.size for matrix in trained) <= WARM_BYTES
            if trained and is_small and recommender.has_model and not recommender.is_slim:
                await self.read(recommender.model)
        except LirdrecError as error:
            log.warning("the encoders or the model cannot be loaded, so new items may be rejected: %s", error)
            self.encoders = self.encoders or Encoders()
        except Exception:
            log.exception("new items may be rejected")
            self.encoders = self.encoders or Encoders()

    async def _watch(self) -> None:
        failed: Stamp | None = None  # stamp of a run that could not be loaded; it is not tried again until it changes
        logged = ""
        while True:
            await asyncio.sleep(self.config.watch_seconds)
            try:
                if (stamp := self.pointer.stamp()) not in (self._served, failed):
                    failed = stamp
                    await self.swap()
                    failed, logged = None, ""
            except LirdrecError as error:
                if str(error) != logged:
                    logged = str(error)
                    log.error("cannot serve the run that is named now; still serving the old run: %s", logged)
            except Exception:
                log.exception("still serving the old run")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def unready(self) -> Problem:
        """Return the error (503) that requests get while the server is starting, or after its start has failed."""
        if self.failure is not None:
            return Problem(503, f"the server could not start: {redact(self.failure)}")
        return Problem(503, "the server is starting; try again in a moment", {"Retry-After": "1"})
