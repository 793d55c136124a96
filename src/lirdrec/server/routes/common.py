"""Helpers of all routes: services, JSON responses, parsing of bodies, ids in paths."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Annotated, Any, Generic, TypeVar

import orjson
import polars as pl
from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from lirdrec.data.column_names import ITEM
from lirdrec.data.ids import LARGEST, IdMap
from lirdrec.errors import UnknownIdError
from lirdrec.server.http.errors import KNOWN, Problem, to_response
from lirdrec.server.http.openapi import body, errors
from lirdrec.server.request_models import Body
from lirdrec.server.services import Services
from lirdrec.server.snapshot import Id, Snapshot

M = TypeVar("M", bound=Body)
E = TypeVar("E", bound=Callable[..., Any])

SMALL = 4096  # most bytes of a body that is parsed on the event loop, without a thread
OPENINGS = 5  # allowed lists and objects for each allowed key
MAX_ESCAPES = 500_000  # most backslashes in a body; each is slow to parse
MAX_DIGITS = 400  # most digits of a number; parsing time grows with the square of the digits
_SPACE = b" \t\r\n"
_DIGITS_ONLY = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))
_LONG_NUMBER = re.compile(rb"[\[,:\s]-?[0-9]{%d}" % (MAX_DIGITS + 1))
_SEARCHED = 128 * 1024  # bytes searched at a time: other threads wait meanwhile


class RawRoute(APIRoute):
    """A route whose function takes the request and returns the response; FastAPI only documents this route."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Return the function of the route itself, so that FastAPI does not parse the request for it."""
        return self.endpoint


def answers(model: type[BaseModel], *statuses: int, success: int = 200) -> dict[str, Any]:
    """Return the arguments that document a route's JSON response in FastAPI: `model`, and errors with `statuses`."""
    return {"responses": {success: {"model": model}, **errors(*statuses)}, "response_model": None}


def post(
    router: APIRouter,
    path: str,
    request: type[Body],
    response: type[BaseModel],
    *statuses: int,
    success: int = 200,
    **forms: dict[str, Any],
) -> Callable[[E], E]:
    """Decorator that adds a `RawRoute` for POST.

    Args:
        router: where the route is added.
        path: address of the route.
        request: model of the request body.
        response: model of the response.
        statuses: status codes of possible errors, in addition to those of all routes with a body.
        success: status code of the response.
        forms: further media types of the request → schema.
    """

    def add(endpoint: E) -> E:
        router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            status_code=success,
            route_class_override=RawRoute,
            openapi_extra=body(request, **forms),
            **answers(response, 413, 415, *statuses, success=success),
        )
        return endpoint

    return add


class FastPath:
    """Middleware that calls the functions of `RawRoute`s directly, without FastAPI's routing, because it is faster."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]):
        self.app = app
        self._routes = {("POST", route.path): route for route in routes if isinstance(route, RawRoute)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope.get("method", ""), scope.get("path", "")))
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        try:
            response = await route.endpoint(Request(scope, receive))
        except KNOWN as error:
            response = to_response(error, scope["method"])
        await response(scope, receive, send)


def get_services(request: Request) -> Services:
    """Return the services of the application."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:  # async: FastAPI calls other functions in a thread
    return get_services(request)


async def _current_snapshot(request: Request) -> Snapshot:
    return await get_services(request).current()


ServicesDep = Annotated[Services, Depends(_services)]
CurrentSnapshot = Annotated[Snapshot, Depends(_current_snapshot)]


def json_response(value: Any, status: int = 200) -> Response:
    """Return a JSON response.

    Durations become seconds, and bytes become null. Integers of more than 64 bits and other types become texts.
    """
    try:
        content = orjson.dumps(value, default=_plain)
    except TypeError:
        content = orjson.dumps(_without_large(value), default=_plain)
    return Response(content, status, media_type="application/json")


async def parse_body(request: Request, model: type[M]) -> M:
    """Read the request body as a validated model.

    A body is checked against the limits of the model while it arrives. Large bodies are parsed in a thread, one at a
    time, so that other requests are answered meanwhile; after each there is a pause as long as the parsing took.

    Raises:
        Problem: the body is not declared as JSON or is compressed (415), is too large (413), or has too many values or
            keys or a too long number (422); a small body has a key twice (422).
        ValidationError: the body does not fit the model.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Problem(415, "the body must be JSON: send Content-Type: application/json")
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise Problem(415, f"the body must not be compressed ({encoding[:100]}): send it without Content-Encoding")
    counter: BodyCounter[M] | None = None
    chunks, size = [], 0
    async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        if counter is not None:
            counter.add(chunk)
        elif size > SMALL:
            counter = BodyCounter(model)
            counter.add(b"".join(chunks))
    body = b"".join(chunks)
    if counter is None:
        if body.count(b":") > 1:
            with contextlib.suppress(ValueError, RecursionError):  # invalid JSON is left to the parser
                _READER.decode(body.decode())
        return model.model_validate_json(body)
    return await get_services(request).read_large(lambda: counter.read(body))


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise Problem(422, f"the body has the key {repeated[:100]!r} twice in one object; give it once")


_READER = json.JSONDecoder(object_pairs_hook=_distinct)


class BodyCounter(Generic[M]):
    """Checks the size of the contents of a JSON body before the body is parsed, because parsing a large body is slow.

    It counts commas, brackets and backslashes, which limit the numbers of values, of lists and objects, and of escapes.

    Args:
        model: model of the body, with its limits.
    """

    def __init__(self, model: type[M]):
        self._model = model
        self._limits = {  # subject → characters that are counted, limit
            "values": (b",", model.max_values),
            "lists and objects": (b"[{", OPENINGS * model.max_keys),
            "escaped characters (send them as UTF-8)": (b"\\", MAX_ESCAPES),
        }
        self._counts = dict.fromkeys(self._limits, 0)

    def add(self, chunk: bytes) -> None:
        """Count the characters of the next chunk; raise a Problem if the body may have more contents than allowed."""
        for subject, (characters, limit) in self._limits.items():
            self._counts[subject] += sum(map(chunk.count, characters))
            if self._counts[subject] > limit:
                raise Problem(422, f"the body has more than {limit:,} {subject}")

    def read(self, body: bytes) -> M:
        """Check keys and numbers of the body, and return it as a validated model; raise errors as `parse_body` does."""
        self.check_keys(body)
        self.check_numbers(body)
        return self._model.model_validate_json(body)

    def check_keys(self, body: bytes) -> None:
        """Raise a Problem if there may be more keys in all objects than the model allows."""
        limit = self._model.max_keys
        if body.count(b":") > limit and body.translate(None, _SPACE).count(b'":') > limit:
            raise Problem(422, f"the body has more than {limit:,} keys")

    def check_numbers(self, body: bytes) -> None:
        """Raise a Problem if there is a number of more than `MAX_DIGITS` digits."""
        longest = b"0" * (MAX_DIGITS + 1)
        for start in range(0, len(body), _SEARCHED):
            window = body[start : start + _SEARCHED + MAX_DIGITS + 2]  # overlaps, so that no number is cut
            if longest in window.translate(_DIGITS_ONLY) and _LONG_NUMBER.search(window):
                raise Problem(422, f"the body has a number of more than {MAX_DIGITS} digits")


def parse_id(text: str, ids: IdMap) -> Id:
    """Return the id in a path or query of a request: an integer if the ids of the run are integers, else a text.

    Raises:
        UnknownIdError: the ids of the run are integers, and `text` is not.
    """
    if not ids.is_integer:
        return text
    if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= LARGEST:
        return int(text)
    raise UnknownIdError(f"no {ids.entity} has the id {text[:100]!r}: the {ids.entity} ids are integers")


def find_item(snapshot: Snapshot, text: str) -> tuple[Id, int]:
    """Return the id and the row of the item whose id is in the path of a request.

    Raises:
        UnknownIdError: there is no such item, or it was removed.
    """
    item = parse_id(text, snapshot.recommender.items)
    row = snapshot.item_row(item)
    if row < 0:
        raise UnknownIdError(f"no item has the id {item!r}")
    return item, row


def list_item(snapshot: Snapshot, row: int) -> dict[str, Any]:
    """Return id and title of the item in a row, in the form of `response_models.ItemShort`."""
    recommender = snapshot.recommender
    added = row >= recommender.n_trained_items
    return {"item": recommender.items.series[row], "title": recommender.title(row), "added": added}


def describe_item(snapshot: Snapshot, row: int) -> dict[str, Any]:
    """Return the item in a row with its columns, in the form of `response_models.ItemAnswer`."""
    columns = snapshot.recommender.item_table.drop(ITEM).row(row, named=True)
    return list_item(snapshot, row) | {"columns": columns}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return None
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, pl.Series):
        return value.to_list()
    return str(value)


def _without_large(value: Any) -> Any:
    """Replace integers of more than 64 bits by texts."""
    if isinstance(value, dict):
        return {key: _without_large(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_large(entry) for entry in value]
    if isinstance(value, pl.Series):
        return _without_large(value.to_list())
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value
