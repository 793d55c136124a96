"""Create the FastAPI application of the server from its routes, middleware and services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from lirdrec._version import __version__
from lirdrec.server.config import ServerConfig
from lirdrec.server.http import errors
from lirdrec.server.http.connections import Connections
from lirdrec.server.http.limited_protocol import STATE
from lirdrec.server.http.middleware import AuthMiddleware, ObservabilityMiddleware
from lirdrec.server.http.openapi import Application
from lirdrec.server.routes import events, items, operations, recommend, ui_data
from lirdrec.server.routes.common import FastPath
from lirdrec.server.services import Services

UI_FOLDER = Path(__file__).parent / "ui"


def create_app(config: ServerConfig) -> FastAPI:
    """Create the FastAPI application of one worker process.

    The application opens the run and the store when the server starts, not here.

    Raises:
        ConfigError: the file of API keys is missing or damaged.
    """
    services = Services(config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        await services.start()
        connections = Connections(services)
        watching = asyncio.create_task(connections.watch())
        try:
            yield {STATE: connections}
        finally:
            watching.cancel()
            await services.stop()

    app = Application(
        config,
        title="lirdrec",
        version=__version__,
        summary="Recommendations of a run, with items added live.",
        docs_url=None,  # the page would load scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.services = services
    modules = (recommend, ui_data, items, events, operations)  # ui first: /items/{item}/image before /items/{item}
    routes = [route for module in modules for route in module.router.routes]
    errors.register(app, routes)
    for module in modules:
        app.include_router(module.router)
    if config.ui:
        _serve_ui(app)
    app.add_middleware(FastPath, routes=routes)
    app.add_middleware(AuthMiddleware, services=services)
    if config.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(ObservabilityMiddleware, services=services)
    return app


class _CompleteFiles(StaticFiles):
    """Static files of the web UI, which are always sent completely: the header Range is ignored.

    The files are small, and the answer to an invalid Range would not have the form of our error responses.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)


def _serve_ui(app: FastAPI) -> None:
    async def redirect(_: Any) -> RedirectResponse:
        return RedirectResponse("/ui/")

    for path in ("/", "/ui"):
        app.add_route(path, redirect, include_in_schema=False)
    app.mount("/ui", _CompleteFiles(directory=UI_FOLDER, html=True), name="ui")
