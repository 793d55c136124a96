"""Uvicorn in one process or several."""

from __future__ import annotations

import logging
import os
import tempfile
from functools import partial

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from lirdrec.recommender.run_folder import open_run
from lirdrec.server import logs
from lirdrec.server.config import ServerConfig
from lirdrec.server.metrics import SHARED
from lirdrec.server.security import read_keys
from lirdrec.server.store import Store
from lirdrec.server.watching import Pointer


def serve(config: ServerConfig, level: int = logging.INFO) -> None:
    """Answer until a signal ends it; what waits then is still answered.

    Raises:
        LirdrecError: the run, the store or the file of keys cannot be used; nothing was started.
    """
    check(config)
    with tempfile.TemporaryDirectory(prefix="lirdrec-metrics-") as folder:
        if config.workers > 1:
            os.environ[SHARED] = folder
        told = uvicorn.Config(
            partial(_worker, config, level),
            factory=True,
            host=config.host,
            port=config.port,
            workers=config.workers,
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=config.max_connections,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=round(config.timeout_seconds) + 1,
        )
        logs.configure(level)
        server = uvicorn.Server(told)
        if config.workers > 1:
            Multiprocess(told, target=server.run, sockets=[told.bind_socket()]).run()
        else:
            server.run()


def check(config: ServerConfig) -> None:
    """Refuse what could not be served, before anything listens.

    Raises:
        LirdrecError: the run, the store or the file of keys cannot be used.
    """
    open_run(Pointer(config.run).target())
    if config.keys is not None:
        read_keys(config.keys)
    Store(config.store_url).close()


def _worker(config: ServerConfig, level: int) -> FastAPI:
    """The application of a worker, in its own process."""
    import torch

    from lirdrec.server.app import create_app

    logs.configure(level)
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // config.workers))
    return create_app(config)
