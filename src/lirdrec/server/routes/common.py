"""What all routes share: the services, plain answers, parsed bodies, ids of a path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from lirdrec.data.identifiers import IdMap
from lirdrec.errors import UnknownIdError
from lirdrec.server.live import Id, Snapshot
from lirdrec.server.problems import Problem
from lirdrec.server.schemas import LARGEST
from lirdrec.server.services import Services

M = TypeVar("M", bound=BaseModel)


class PlainRoute(APIRoute):
    """A route whose function takes the request and gives the answer; FastAPI only documents it."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """The function itself."""
        return self.endpoint


def services(request: Request) -> Services:
    """What stands behind the routes."""
    found: Services = request.app.state.services
    return found


def answer(value: Any, status: int = 200) -> Response:
    """JSON, as fast as can be. What JSON does not know is told as text."""
    return Response(orjson.dumps(value, default=_told), status, media_type="application/json")


async def parsed(request: Request, model: type[M]) -> M:
    """The body as a checked model.

    Raises:
        Problem: it is not announced as JSON (415), or too large (413).
        ValidationError: it does not fit.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Problem(415, "the body must be JSON: send Content-Type: application/json")
    return model.model_validate_json(await request.body())


def id_of(text: str, known: IdMap) -> Id:
    """An id of a path or query, in the kind of ids that the run has.

    Raises:
        UnknownIdError: it cannot be one.
    """
    if not known.is_integer:
        return text
    if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= LARGEST:
        return int(text)
    raise UnknownIdError(f"no {known.what} has the id {text[:100]!r}: the {known.what} ids are integers")


def known_item(snapshot: Snapshot, text: str) -> tuple[Id, int]:
    """An item of a path, with its row.

    Raises:
        UnknownIdError: there is none that can be recommended.
    """
    item = id_of(text, snapshot.recommender.items)
    row = snapshot.item_row(item)
    if row < 0:
        raise UnknownIdError(f"no item has the id {item!r}")
    return item, row


def _told(value: Any) -> Any:
    if isinstance(value, bytes):
        return None
    return str(value)
