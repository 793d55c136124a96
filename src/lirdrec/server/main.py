"""Check what the server needs, and start uvicorn in one process or with several worker processes."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from lirdrec.config import make_config, to_dict
from lirdrec.devices import resolve_device
from lirdrec.errors import ConfigError
from lirdrec.files.atomic import atomic_write
from lirdrec.recommender.run_folder import check_vectors, open_run
from lirdrec.server.auth import read_keys
from lirdrec.server.config import ServerConfig
from lirdrec.server.http import middleware
from lirdrec.server.http.limited_protocol import LimitedProtocol
from lirdrec.server.metrics import SHARED
from lirdrec.server.run_pointer import RunPointer
from lirdrec.server.store import Store
from lirdrec.server.write_lock import store_path

log = logging.getLogger(__name__)

# environment variables for worker processes: the configuration, and the path of a file for the error of a failed start
CONFIG, FAILED = "LIRDREC_SERVER", "LIRDREC_SERVER_FAILED"
OTHER_FILES = 512  # open files besides connections: run, store, images, encoders


def serve(config: ServerConfig) -> None:
    """Serve until a signal arrives; requests that wait at that time are still answered. Call `check` first.

    Raises:
        ConfigError: the server could not start, for example because the run or the store could not be opened.
    """
    middleware.configure()
    _allow_files(config.max_connections)
    options = {"host": config.host, "port": config.port, **uvicorn_options(config)}
    if config.workers == 1:
        app = _application(config)
        server = uvicorn.Server(uvicorn.Config(app, **options))
        services = app.state.services
        services.on_failure = lambda: setattr(server, "should_exit", True)
        with contextlib.suppress(KeyboardInterrupt):  # after an orderly end
            server.run()
        if services.failure is not None:
            raise ConfigError(services.failure)
        return
    with tempfile.TemporaryDirectory(prefix="lirdrec-metrics-") as folder, tempfile.TemporaryDirectory() as errors:
        failed = Path(errors) / "failed"
        os.environ |= {SHARED: folder, CONFIG: json.dumps(to_dict(config)), FAILED: str(failed)}
        uvicorn.run(f"{__name__}:worker", factory=True, workers=config.workers, **options)
        if failed.is_file():
            raise ConfigError(failed.read_text(encoding="utf-8"))


def uvicorn_options(config: ServerConfig) -> dict[str, Any]:
    """Return the options of `uvicorn.Config`, except address and port."""
    return {
        "http": LimitedProtocol,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": bool(config.trusted_proxies),
        "forwarded_allow_ips": list(config.trusted_proxies),
        # matters only for requests of closed connections; `Connections` limits the open connections
        "limit_concurrency": config.max_connections + 1,
        "timeout_keep_alive": 30,
        "timeout_graceful_shutdown": round(config.timeout_seconds) + 1,
    }


def check(config: ServerConfig) -> None:
    """Check everything that the server needs, before it listens, and create the store if it is missing.

    Raises:
        LirdrecError: the run, the store, the index, a folder, the device or the file of keys cannot be used, or the
            server cannot listen on its host and port.
    """
    run = RunPointer(config.run).target()
    open_run(run)
    check_vectors(run)
    if config.index != "exact":
        from lirdrec.server.engine.ann import ApproximateIndex

        ApproximateIndex(config.index)
    for option, folder in (("images", config.images), ("runs-dir", config.runs)):
        if folder is not None and not os.path.isdir(folder):
            raise ConfigError(f"--{option} {folder}: no such folder; give an existing folder")
    if config.encoders:
        resolve_device(config.device)
    if config.keys is not None:
        read_keys(config.keys)
    _check_address(config)
    other, default = (str(store_path(path)) for path in (run, config.run))
    if config.store is None and other != default and os.path.exists(other) and not os.path.exists(default):
        log.warning(
            "the run %s was served by the path of its folder before, and the changes of that time are in another store;"
            " now that a link or a file names the run, a new store is used; to use the earlier one, add"
            " --store sqlite:///%s",
            run.name,
            other,
        )
    Store(config.store_url).close()


def _check_address(config: ServerConfig) -> None:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except (OSError, ValueError) as error:  # ValueError: not a host name
            reason = getattr(error, "strerror", None) or "it is not an address"
            raise ConfigError(
                f"cannot listen on {config.host}, port {config.port} ({reason}): choose another --host or --port"
            ) from None


def _allow_files(connections: int) -> None:
    """Raise the limit of open files of this process and its workers so that `connections` can be open, if possible."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    limit = connections + OTHER_FILES if hard == unlimited else min(connections + OTHER_FILES, hard)
    if soft != unlimited and soft < limit:
        with contextlib.suppress(OSError, ValueError):  # the limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def worker() -> ASGIApp:
    """Create the application of one of several worker processes; its configuration is in the variable CONFIG."""
    middleware.configure()
    config = make_config(ServerConfig, json.loads(os.environ[CONFIG]))
    threading.Thread(target=_end_with_parent, args=(config.timeout_seconds + 5,), daemon=True).start()
    app = _application(config)

    async def reporting(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except ConfigError as error:  # the start failed; the parent process reports the reason
            with atomic_write(os.environ[FAILED]) as temporary:
                temporary.write_text(str(error), encoding="utf-8")
            raise

    return reporting


def _end_with_parent(seconds: float) -> None:
    """Wait until the parent process has ended, then stop this worker; kill it if it does not stop in `seconds`."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    log.error("the parent process has ended; the worker stops")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(seconds)
    os._exit(1)


def _application(config: ServerConfig) -> FastAPI:
    import torch

    from lirdrec.server.app import create_app

    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // config.workers))
    app = create_app(config)
    gc.collect()
    gc.freeze()  # the imported modules have 250,000 objects; a full collection over them would take over 100 ms
    return app
