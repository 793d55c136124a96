"""What OpenAPI says beyond the routes themselves: bodies that are parsed by hand, and errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lirdrec.server.config import ServerConfig
from lirdrec.server.http.errors import MEDIA_TYPE
from lirdrec.server.schemas import BatchRequest, EventsRequest, ItemsRequest, ProblemBody, RecommendRequest, SwapRequest

REFERENCE = "#/components/schemas/{model}"
BODIES = (RecommendRequest, BatchRequest, ItemsRequest, EventsRequest, SwapRequest)

_MEANING = {
    400: "The request cannot be read.",
    401: "No API key, or an unknown one.",
    403: "The key may read only, or a stranger asks a server without keys.",
    404: "There is no such user, item or picture.",
    408: "The request took too long to arrive.",
    409: "It contradicts what is there, or the model cannot do it.",
    413: "The body is too large.",
    415: "The body is of another type.",
    422: "Something in the request does not fit.",
    429: "Too many requests; Retry-After says when to come again.",
    503: "Not ready, the store cannot be used, or it took too long; nothing was changed unless the sentence says so.",
}
_ALWAYS = (401, 403, 408, 422, 429, 503)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Entries of `responses=`: those that every route can give, and more."""
    schema = {"$ref": REFERENCE.format(model=ProblemBody.__name__)}
    return {
        status: {"description": _MEANING[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted({*_ALWAYS, *statuses})
    }


def body(model: type[BaseModel], **others: dict[str, Any]) -> dict[str, Any]:
    """`openapi_extra=` of a route that parses JSON itself; `others` are further media types → schema."""
    schema = {"$ref": REFERENCE.format(model=model.__name__)}
    content = {"application/json": {"schema": schema}} | {name: {"schema": one} for name, one in others.items()}
    return {"requestBody": {"required": True, "content": content}}


def describe(app: FastAPI, config: ServerConfig) -> None:
    """Put the schemas of bodies and errors, and what the server was told, into the application's OpenAPI."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            _, own = models_json_schema(
                [(model, "validation") for model in (*BODIES, ProblemBody)], ref_template=REFERENCE
            )
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(own["$defs"])
            requests = schemas[BatchRequest.__name__]["properties"]["requests"]
            requests["maxItems"] = min(requests["maxItems"], config.max_batch)
            if config.keys is not None:
                made["components"]["securitySchemes"] = {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                }
                made["security"] = [{"bearer": []}, {"header": []}]
                for path in ("/health", "/ready"):
                    made["paths"][path]["get"]["security"] = []
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
