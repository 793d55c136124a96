"""Route for new likes of users: POST /events."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from lirdrec.errors import DataError, UnknownIdError
from lirdrec.server.routes.common import get_services, json_response, parse_body, post
from lirdrec.server.schemas import Changed, EventsRequest
from lirdrec.server.store import Event

router = APIRouter(tags=["events"])


@post(router, "/events", EventsRequest, Changed, 404, 409)
async def add_events(request: Request) -> Response:
    """Store new likes; the users' vectors are refreshed by folding in, and the items count as seen."""
    services = get_services(request)
    live = services.live
    events = (await parse_body(request, EventsRequest)).events

    def add() -> dict[str, Any]:
        snapshot = live.catch_up()
        is_integer = snapshot.recommender.users.is_integer
        for event in events:
            if isinstance(event.user, int) is not is_integer:
                kind = "integers" if is_integer else "texts"
                raise DataError(f"user {event.user!r}: the user ids of this run are {kind}")
            if snapshot.item_row(event.item) < 0:
                raise UnknownIdError(f"no item has the id {event.item!r}")
        number = live.add_events([Event(event.user, event.item) for event in events]).number
        return {"change": number, "users": list(dict.fromkeys(event.user for event in events))}

    return json_response(await services.write(add))
