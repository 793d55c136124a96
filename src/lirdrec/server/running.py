"""Uvicorn in one process or several."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from lirdrec.configuration import make, to_dict
from lirdrec.errors import ConfigError
from lirdrec.recommender.run_folder import open_run
from lirdrec.server import logs
from lirdrec.server.config import ServerConfig
from lirdrec.server.metrics import SHARED
from lirdrec.server.security import read_keys
from lirdrec.server.store import Store
from lirdrec.server.watching import Pointer

TOLD = "LIRDREC_SERVER"  # how the workers, which are processes of their own, hear of the configuration


def serve(config: ServerConfig) -> None:
    """Answer until a signal ends it; what waits then is still answered. `check` first what could be wrong."""
    logs.configure()
    options: dict[str, Any] = {
        "factory": True,
        "host": config.host,
        "port": config.port,
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "limit_concurrency": config.max_connections,
        "timeout_keep_alive": 30,
        "timeout_graceful_shutdown": round(config.timeout_seconds) + 1,
    }
    if config.workers == 1:
        uvicorn.run(partial(_application, config), **options)
        return
    with tempfile.TemporaryDirectory(prefix="lirdrec-metrics-") as folder:
        os.environ |= {SHARED: folder, TOLD: json.dumps(to_dict(config))}
        uvicorn.run(f"{__name__}:worker", workers=config.workers, **options)


def check(config: ServerConfig) -> None:
    """Refuse what could not be served, before anything listens.

    Raises:
        LirdrecError: the run, the store or the file of keys cannot be used, or the port is taken.
    """
    open_run(Pointer(config.run).target())
    if config.keys is not None:
        read_keys(config.keys)
    _check_address(config)
    Store(config.store_url).close()


def _check_address(config: ServerConfig) -> None:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((config.host, config.port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen at {config.host}, port {config.port} ({error.strerror}): choose others (--host, --port)"
            ) from None


def worker() -> FastAPI:
    """The application of one of several workers, in its own process."""
    logs.configure()
    return _application(make(ServerConfig, json.loads(os.environ[TOLD])))


def _application(config: ServerConfig) -> FastAPI:
    import torch

    from lirdrec.server.app import create_app

    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // config.workers))
    return create_app(config)
