"""POST /events: what users liked since training."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from lirdrec.errors import DataError, UnknownIdError
from lirdrec.server.http.openapi import body, errors
from lirdrec.server.routes.common import RawRoute, answer, parsed, services
from lirdrec.server.schemas import Changed, EventsRequest
from lirdrec.server.store import Event

router = APIRouter(tags=["events"])


async def add_events(request: Request) -> Response:
    """Keep new likes; the users' vectors are refreshed by folding in, and the items count as seen."""
    served = services(request)
    live = served.live
    asked = (await parsed(request, EventsRequest)).events

    def add() -> dict[str, Any]:
        snapshot = live.catch_up()
        integer = snapshot.recommender.users.is_integer
        for one in asked:
            if isinstance(one.user, int) is not integer:
                kind = "integers" if integer else "texts"
                raise DataError(f"user {one.user!r}: the user ids of this run are {kind}")
            if snapshot.item_row(one.item) < 0:
                raise UnknownIdError(f"no item has the id {one.item!r}")
        number = live.add_events([Event(one.user, one.item) for one in asked]).number
        return {"change": number, "users": list(dict.fromkeys(one.user for one in asked))}

    return answer(await served.write(add))


router.add_api_route(
    "/events",
    add_events,
    methods=["POST"],
    route_class_override=RawRoute,
    response_model=None,
    responses={200: {"model": Changed}, **errors(404, 409, 413, 415)},
    openapi_extra=body(EventsRequest),
)
