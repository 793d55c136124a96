"""The HTTP application: routes, what is around them, and what stands behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from lirdrec._version import __version__
from lirdrec.server.config import ServerConfig
from lirdrec.server.dependencies import Services
from lirdrec.server.http import errors
from lirdrec.server.http.connections import Connections
from lirdrec.server.http.middleware import AuthMiddleware, ObservabilityMiddleware
from lirdrec.server.http.openapi import describe
from lirdrec.server.http.protocol import STATE
from lirdrec.server.routes import admin, events, items, recommend, ui
from lirdrec.server.routes.common import FastPath

PAGE = Path(__file__).parent / "ui"


def create_app(config: ServerConfig) -> FastAPI:
    """The application of one worker; it opens the run and the store when the server starts.

    Raises:
        ConfigError: the file of keys cannot be used.
    """
    services = Services(config)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        await services.start()
        connections = Connections(services)
        watching = asyncio.create_task(connections.watch())
        try:
            yield {STATE: connections}
        finally:
            watching.cancel()
            await services.stop()

    app = FastAPI(
        title="lirdrec",
        version=__version__,
        summary="Recommendations of a run, with items added live.",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=life,
    )
    app.state.services = services
    parts = (recommend, items, events, ui, admin)
    routes = [route for part in parts for route in part.router.routes]
    errors.register(app, routes)
    for part in parts:
        app.include_router(part.router)
    describe(app, config)
    if config.ui:
        _serve_page(app)
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


def _serve_page(app: FastAPI) -> None:
    from starlette.responses import RedirectResponse
    from starlette.staticfiles import StaticFiles

    async def to_page(_: Any) -> RedirectResponse:
        return RedirectResponse("/ui/")

    class Page(StaticFiles):
        """Always whole files: they are small, and a range that makes no sense would not be answered as a problem."""

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            whole = [(name, value) for name, value in scope["headers"] if name != b"range"]
            await super().__call__({**scope, "headers": whole}, receive, send)

    for path in ("/", "/ui"):
        app.add_route(path, to_page, include_in_schema=False)
    app.mount("/ui", Page(directory=PAGE, html=True), name="ui")
