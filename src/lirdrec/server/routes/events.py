"""Route for new events of users: POST /events."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from lirdrec.errors import DataError, LirdrecError, UnknownIdError
from lirdrec.server.request_models import EventIn, EventsRequest, Malformed, unix_seconds
from lirdrec.server.response_models import Changed
from lirdrec.server.routes.common import get_services, json_response, parse_body, post
from lirdrec.server.snapshot import Snapshot
from lirdrec.server.store import Event

router = APIRouter(tags=["events"])


@post(router, "/events", EventsRequest, Changed, 404, 409)
async def add_events(request: Request) -> Response:
    """Store new likes and dislikes of users; the next request uses them.

    The vectors of users with new likes are computed again, if the model can do that. Disliked items are not recommended
    to the user any more; liked items are not either, unless a request has `exclude_seen: false`.

    If a user has several events with an item, the one with the newest `timestamp` decides, also if it arrives before
    the others; of events without a timestamp, the last that arrived.
    """
    services = get_services(request)
    live = services.live
    parameters = await parse_body(request, EventsRequest)

    def add() -> dict[str, Any]:
        snapshot = live.catch_up()
        events: list[Event] = []
        refused: list[dict[str, Any]] = []
        for position, given in enumerate(parameters.events):
            try:
                events.append(_event(snapshot, given))
            except LirdrecError as error:
                if not parameters.partial:
                    raise
                refused.append({"position": position, "reason": str(error)})
        if events:
            snapshot = live.add_events(events)
        likes = [event.item for event in events if live.is_like(event)]
        n_trained = snapshot.recommender.n_trained_items
        services.metrics.likes.inc(len(likes))
        services.metrics.new_likes.inc(sum(snapshot.item_rows.get(item, -1) >= n_trained for item in likes))
        answer: dict[str, Any] = {"change": snapshot.number, "users": list(dict.fromkeys(one.user for one in events))}
        return answer | {"refused": refused} if parameters.partial else answer

    return json_response(await services.write(add))


def _event(snapshot: Snapshot, given: EventIn | Malformed) -> Event:
    """Check an event, and return the event to store.

    Raises:
        DataError: the event is not valid, the user's id has the wrong type, or the timestamp is not a time.
        UnknownIdError: there is no such item.
    """
    if isinstance(given, Malformed):
        raise DataError(given.reason)
    is_integer = snapshot.recommender.users.is_integer
    if isinstance(given.user, int) is not is_integer:
        raise DataError(f"user {given.user!r}: the user ids of this run are {'integers' if is_integer else 'texts'}")
    if snapshot.item_row(given.item) < 0:
        raise UnknownIdError(f"no item has the id {given.item!r}")
    try:
        seconds = None if given.timestamp is None else unix_seconds(given.timestamp)
    except ValueError as error:
        raise DataError(f"timestamp: {error}") from None
    return Event(given.user, given.item, given.type, seconds)
