"""Errors as `application/problem+json` (RFC 9457): one sentence, never a traceback."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from lirdrec.errors import CapabilityError, LirdrecError, RunFolderError, UnknownIdError
from lirdrec.server.http.redaction import scrubbed
from lirdrec.server.store import ConflictError, StoreError

MEDIA_TYPE = "application/problem+json"
MAX_FAULTS = 20
MOST_FAULTS = 2000
LONGEST = 500  # letters of a sentence: what it repeats of a request may be as long as that


class Problem(HTTPException):
    """An answer that is an error.

    Attributes:
        status_code: of HTTP.
        detail: one sentence.
        faults: where in the request, if that can be told.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: dict[str, str] | None = None,
        faults: list[dict[str, str]] | None = None,
    ):
        super().__init__(status, detail, headers)
        self.faults = faults

    @classmethod
    def of(cls, error: LirdrecError) -> Problem:
        """The problem that an error of the library is."""
        if isinstance(error, UnknownIdError):
            return cls(404, str(error))  # of ids only, which may look like paths
        if isinstance(error, ConflictError):
            return cls(409, str(error))
        sentence = scrubbed(str(error))
        if isinstance(error, StoreError):
            return cls(503, sentence, {"Retry-After": "5"})
        return cls(409 if isinstance(error, (CapabilityError, RunFolderError)) else 422, sentence)

    @classmethod
    def of_faults(cls, error: ValidationError | RequestValidationError) -> Problem:
        """What pydantic found in a request; the values themselves are not repeated."""
        if isinstance(error, ValidationError):
            if error.error_count() > MOST_FAULTS:  # to tell them takes longer than to find them
                return cls(422, f"the request does not fit in {error.error_count():,} places")
            found: Sequence[Any] = error.errors(include_url=False, include_context=False, include_input=False)
        else:
            found = error.errors()
        said: dict[str, list[str]] = {}
        for one in found:
            said.setdefault(_where(one), []).append(_plain(one["msg"]))
        faults = [{"where": where, "what": _either(what)} for where, what in said.items()][:MAX_FAULTS]
        first = faults[0] if faults else {"where": "", "what": "it is not valid"}
        where = f" ({first['where']})" if first["where"] else ""
        return cls(422, f"the request does not fit{where}: {first['what']}", faults=faults)

    def value(self) -> dict[str, Any]:
        """What the answer holds."""
        value: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status_code).phrase,
            "status": self.status_code,
            "detail": _one_line(self.detail),
        }
        if self.faults:
            value["faults"] = [{name: _one_line(text) for name, text in one.items()} for one in self.faults]
        return value

    def response(self) -> Response:
        """The answer, to which the request's id is added on the way out as a header."""
        return Response(orjson.dumps(self.value()), self.status_code, self.headers, MEDIA_TYPE)


KNOWN: tuple[type[Exception], ...] = (LirdrecError, ValidationError, RequestValidationError, HTTPException)


def response_to(error: Exception, method: str) -> Response:
    """The answer to one of the `KNOWN` errors."""
    if isinstance(error, LirdrecError):
        return Problem.of(error).response()
    if isinstance(error, (ValidationError, RequestValidationError)):
        return Problem.of_faults(error).response()
    assert isinstance(error, HTTPException)
    if isinstance(error, Problem):
        return error.response()
    said = {404: "there is nothing at this address", 405: f"{method} is not possible here"}
    detail = said.get(error.status_code, str(error.detail))
    return Problem(error.status_code, detail, dict(error.headers or {})).response()


def register(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Answer every error as a problem; `routes` are those of the application."""

    async def handle(request: Request, error: Exception) -> Response:
        response = response_to(error, request.method)
        if response.status_code == 405:
            response.headers["Allow"] = ", ".join(_methods(routes, request.scope))
        return response

    for kind in KNOWN:
        app.add_exception_handler(kind, handle)


def _methods(routes: Sequence[BaseRoute], scope: Scope) -> list[str]:
    """What can be asked at an address: the first route that lies there knows of its own methods only."""
    found = {
        method
        for route in routes
        if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE
        for method in route.methods or ()
    }
    return sorted(found)


def _one_line(text: str) -> str:
    """The text with what no reader could see written out, and an end: names in it may be strangers' own."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}…"
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _where(error: Mapping[str, Any]) -> str:
    """The place of a fault, without the name that pydantic gives to one of several types that may stand there."""
    parts = [str(part) for part in error["loc"]]
    if len(parts) > 1 and error["type"] not in ("missing", "extra_forbidden") and _TYPE.fullmatch(parts[-1]):
        parts.pop()
    return ".".join(parts)


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ")
    for theirs, ours in _WORDS:
        message = message.replace(theirs, ours)
    return message


def _either(messages: Sequence[str]) -> str:
    """What one place may be: must be an integer or a text."""
    first, *others = dict.fromkeys(messages)
    return " or ".join([first, *(one.removeprefix("must be ") for one in others)])


_TYPE = re.compile(r"constrained-\w+|bool|int|float|str|(dict|list)\[.*")
_WORDS = (
    ("Extra inputs are not permitted", "there is no such field"),
    ("Field required", "it is missing"),
    ("Input should be", "must be"),
    ("List should have", "must have"),
    (" after validation", ""),
    ("valid boolean", "true or false"),
    ("a true or false", "true or false"),
    ("a valid integer", "an integer"),
    ("a valid number", "a number"),
    ("a valid string", "a text"),
)
