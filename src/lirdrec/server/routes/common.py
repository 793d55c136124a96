"""What all routes share: the services, plain answers, parsed bodies, ids of a path."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import orjson
import polars as pl
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from lirdrec.data.ids import LARGEST, IdMap
from lirdrec.errors import UnknownIdError
from lirdrec.server.dependencies import Services
from lirdrec.server.http.errors import KNOWN, Problem, response_to
from lirdrec.server.schemas import Body
from lirdrec.server.state import Id, Snapshot

M = TypeVar("M", bound=Body)

SMALL = 4096  # bytes of a body that is read at once
OPENINGS = 5  # of lists and objects, for each key that there may be
MAX_DIGITS = 400  # of a number; the time that a number takes grows with the square of its digits
_SPACE = b" \t\r\n"
_DIGITS_ONLY = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))
_LONG_NUMBER = re.compile(rb"[\[,:\s]-?[0-9]{%d}" % (MAX_DIGITS + 1))
_SEARCHED = 128 * 1024  # bytes at a time: others wait meanwhile


class RawRoute(APIRoute):
    """A route whose function takes the request and gives the answer; FastAPI only documents it."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """The function itself."""
        return self.endpoint


class FastPath:
    """Takes requests for plain routes without parameters straight to their functions, past routing and its layers."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]):
        self.app = app
        plain = [route for route in routes if isinstance(route, RawRoute)]
        self._routes: dict[tuple[Any, Any], RawRoute] = {
            (method, route.path): route for route in plain for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope.get("method"), scope.get("path")))
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        try:
            response = await route.endpoint(Request(scope, receive))
        except KNOWN as error:
            response = response_to(error, scope["method"])
        await response(scope, receive, send)


def services(request: Request) -> Services:
    """What stands behind the routes."""
    found: Services = request.app.state.services
    return found


def answer(value: Any, status: int = 200) -> Response:
    """JSON, as fast as can be. What JSON does not know is written as text, a duration as seconds.

    Integers beyond 64 bits, which few readers of JSON take, are texts, too.
    """
    try:
        content = orjson.dumps(value, default=_plain)
    except TypeError:
        content = orjson.dumps(_without_large(value), default=_plain)
    return Response(content, status, media_type="application/json")


async def parsed(request: Request, model: type[M]) -> M:
    """The body as a checked model.

    Raises:
        Problem: it is not announced as JSON, or compressed (415), too large (413), holds too much, or has a key twice
            (422; of a small body, since of two the last would count).
        ValidationError: it does not fit.

    What a body may hold is counted while it comes. A large one is read in a thread, so that others are answered
    meanwhile; one is read at a time, and then as long a time is left for others as it took.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Problem(415, "the body must be JSON: send Content-Type: application/json")
    packed = request.headers.get("content-encoding", "").strip().lower()
    if packed not in ("", "identity"):
        raise Problem(415, f"the body must not be compressed ({packed[:100]}): send it without Content-Encoding")
    amount: Amount | None = None
    pieces, size = [], 0
    async for piece in request.stream():
        pieces.append(piece)
        size += len(piece)
        if amount is not None:
            amount.add(piece)
        elif size > SMALL:
            amount = Amount(model)
            amount.add(b"".join(pieces))
    body = b"".join(pieces)
    if amount is None:
        _check_twice(body)
        return model.model_validate_json(body)
    served = services(request)
    turn = served.reading
    await turn.acquire()
    started = time.perf_counter()
    try:
        return await served.read(lambda: amount.read(model, body))
    finally:
        asyncio.get_running_loop().call_later(time.perf_counter() - started, turn.release)


def _check_twice(body: bytes) -> None:
    """Refuse JSON in which an object has a key twice. What is no JSON is left to who reads it."""
    if body.count(b":") > 1:
        with contextlib.suppress(ValueError, RecursionError):
            _READER.decode(body.decode())


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) < 2 or len(names := {name for name, _ in pairs}) == len(pairs):
        return
    for name, _ in pairs:
        if name not in names:
            raise Problem(422, f"the body has the key {name[:100]!r} twice in one object; give it once")
        names.discard(name)


_READER = json.JSONDecoder(object_pairs_hook=_distinct)


class Amount:
    """What JSON can hold at most, counted before it is read: reading it may take long, and telling its faults longer.

    Args:
        model: what the JSON shall be, with its limits.
    """

    __slots__ = ("_model", "_openings", "_values")

    def __init__(self, model: type[Body]):
        self._model, self._values, self._openings = model, 0, 0

    def add(self, piece: bytes) -> None:
        """Count the next piece.

        Raises:
            Problem: there may be more values, or lists and objects, than the model allows.
        """
        limit = self._model.max_values
        self._values += piece.count(b",")
        if self._values > limit:
            raise Problem(422, f"the body holds more than {limit:,} values")
        limit = OPENINGS * self._model.max_keys
        self._openings += piece.count(b"[") + piece.count(b"{")
        if self._openings > limit:
            raise Problem(422, f"the body holds more than {limit:,} lists and objects")

    def read(self, model: type[M], body: bytes) -> M:
        """The whole body as a checked model; Raises as `parsed`."""
        self.check_keys(body)
        self.check_numbers(body)
        return model.model_validate_json(body)

    def check_keys(self, body: bytes) -> None:
        """Count the names in all objects.

        Raises:
            Problem: there may be more of them than the model allows.
        """
        limit = self._model.max_keys
        if body.count(b":") > limit and body.translate(None, _SPACE).count(b'":') > limit:
            raise Problem(422, f"the body holds more than {limit:,} keys")

    def check_numbers(self, body: bytes) -> None:
        """Look for a number that is too long to be read in little time.

        Raises:
            Problem: there is one.
        """
        longest = b"0" * (MAX_DIGITS + 1)
        for start in range(0, len(body), _SEARCHED):
            piece = body[start : start + _SEARCHED + MAX_DIGITS + 2]  # with what a number that begins here may reach
            if longest in piece.translate(_DIGITS_ONLY) and _LONG_NUMBER.search(piece):
                raise Problem(422, f"the body holds a number of more than {MAX_DIGITS} digits")


def id_of(text: str, known: IdMap) -> Id:
    """An id of a path or query, in the kind of ids that the run has.

    Raises:
        UnknownIdError: it cannot be one.
    """
    if not known.is_integer:
        return text
    if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= LARGEST:
        return int(text)
    raise UnknownIdError(f"no {known.entity} has the id {text[:100]!r}: the {known.entity} ids are integers")


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


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return None
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, pl.Series):
        return value.to_list()
    return str(value)


def _without_large(value: Any) -> Any:
    """The value with integers that do not fit into 64 bits as texts."""
    if isinstance(value, dict):
        return {key: _without_large(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_large(one) for one in value]
    if isinstance(value, pl.Series):
        return _without_large(value.to_list())
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value
