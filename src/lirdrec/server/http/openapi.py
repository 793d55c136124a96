"""Add to the OpenAPI document the request bodies that FastAPI does not parse, and the error responses."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lirdrec.server.config import ServerConfig
from lirdrec.server.http.errors import MEDIA_TYPE
from lirdrec.server.request_models import BatchRequest, EventsRequest, ItemsRequest, RecommendRequest, SwapRequest
from lirdrec.server.response_models import ProblemBody

REFERENCE = "#/components/schemas/{model}"
BODIES = (RecommendRequest, BatchRequest, ItemsRequest, EventsRequest, SwapRequest)

_MEANING = {
    400: "The request cannot be read.",
    401: "No API key, or an unknown one.",
    403: "The key is read-only. Or, without keys: the header Host is not a name of the server's machine, or a web page "
    "of another origin sent the request.",
    404: "There is no such user, item or image.",
    408: "The request took too long to arrive.",
    409: "The request conflicts with the current state, or the model does not support it.",
    413: "The body is too large.",
    415: "The body has another content type, or is compressed.",
    422: "The request is not valid.",
    429: "Too many requests; Retry-After gives the seconds to wait.",
    503: "The server is not ready, the store cannot be used, or the request took too long; nothing was changed unless "
    "the message says so.",
}
_ALWAYS = (401, 403, 408, 422, 429, 503)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's argument `responses=` for a route: the errors of every route, and those with `statuses`."""
    schema = {"$ref": REFERENCE.format(model=ProblemBody.__name__)}
    return {
        status: {"description": _MEANING[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted({*_ALWAYS, *statuses})
    }


def body(model: type[BaseModel], **others: dict[str, Any]) -> dict[str, Any]:
    """Return FastAPI's argument `openapi_extra=` for a route that parses its JSON body itself: the schema of the body.

    `others`: further media type of the body → its schema.
    """
    schema = {"$ref": REFERENCE.format(model=model.__name__)}
    content = {"application/json": {"schema": schema}} | {name: {"schema": other} for name, other in others.items()}
    return {"requestBody": {"required": True, "content": content}}


class Application(FastAPI):
    """A FastAPI application whose OpenAPI document has the schemas of bodies and errors, limits and security.

    Args:
        config: configuration of the server.
        options: arguments of FastAPI.
    """

    def __init__(self, config: ServerConfig, **options: Any):
        super().__init__(**options)
        self._config = config

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, which is made at the first call."""
        if self.openapi_schema is None:
            self.openapi_schema = self._document()
        return self.openapi_schema

    def _document(self) -> dict[str, Any]:
        document = get_openapi(title=self.title, version=self.version, summary=self.summary, routes=self.routes)
        _, definitions = models_json_schema(
            [(model, "validation") for model in (*BODIES, ProblemBody)], ref_template=REFERENCE
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(definitions["$defs"])
        requests = schemas[BatchRequest.__name__]["properties"]["requests"]
        requests["maxItems"] = min(requests["maxItems"], self._config.max_batch)
        if self._config.keys is not None:
            document["components"]["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            document["security"] = [{"bearer": []}, {"header": []}]
            for path in ("/health", "/ready"):
                document["paths"][path]["get"]["security"] = []
        return document
