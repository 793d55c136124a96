"""Make error responses in the format `application/problem+json` (RFC 9457): one sentence, no traceback."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from lirdrec.errors import CapabilityError, LirdrecError, RunFolderError, UnknownIdError
from lirdrec.server.store import ConflictError, StoreError

MEDIA_TYPE = "application/problem+json"
MAX_FAULTS = 20  # most faults in a response
MOST_FAULTS = 2000  # most faults that are described; if there are more, only their number is given
LONGEST = 500  # most characters of a message, since it may quote the request
log = logging.getLogger(__name__)
# an absolute path of two parts or more, also after the scheme of a URL
_PATH = re.compile(
    r"""(?<![\w.~-])(?:[A-Za-z]:[\\/]|~?[\\/])(?:[^\s'":;,()<>|\\/]*[\\/])+(?P<name>[^\s'":;,()<>|\\/]*)"""
)
_PLAIN = "/-/"  # replaces a folder that `_PATH` may not match because of its characters
_hidden: dict[str, str] = {}  # path → replacement


class Problem(HTTPException):
    """An error response with its status, and with one sentence as `detail`."""

    faults: list[dict[str, str]] | None = None  # invalid places of the request and what is wrong there, if known

    @classmethod
    def from_error(cls, error: LirdrecError) -> Problem:
        """Return the error response for an error of the library: its message without folders, and a fitting status."""
        if isinstance(error, UnknownIdError):
            return cls(404, str(error))  # not redacted: it quotes only ids, which may look like paths
        if isinstance(error, ConflictError):
            return cls(409, str(error))
        message = redact(str(error))
        if isinstance(error, StoreError):
            return cls(503, message, {"Retry-After": "5"})
        return cls(409 if isinstance(error, (CapabilityError, RunFolderError)) else 422, message)

    @classmethod
    def from_faults(cls, error: ValidationError | RequestValidationError) -> Problem:
        """Return the error response (422) for the faults that pydantic found in a request; values are not quoted."""
        if isinstance(error, ValidationError):
            if error.error_count() > MOST_FAULTS:  # describing them takes longer than finding them
                return cls(422, f"the request is not valid in {error.error_count():,} places")
            details: Sequence[Any] = error.errors(include_url=False, include_context=False, include_input=False)
        else:
            details = error.errors()
        messages: dict[str, list[str]] = {}
        for detail in details:
            messages.setdefault(_location(detail), []).append(_plain(detail["msg"]))
        faults = [{"where": location, "what": _joined(texts)} for location, texts in messages.items()][:MAX_FAULTS]
        first = faults[0] if faults else {"where": "", "what": "it is not valid"}
        location = f" ({first['where']})" if first["where"] else ""
        problem = cls(422, f"the request is not valid{location}: {first['what']}")
        problem.faults = faults
        return problem

    def value(self) -> dict[str, Any]:
        """Return the content of the response as a dictionary."""
        value: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status_code).phrase,
            "status": self.status_code,
            "detail": _one_line(self.detail),
        }
        if self.faults:
            value["faults"] = [{name: _one_line(text) for name, text in fault.items()} for fault in self.faults]
        return value

    def response(self) -> Response:
        """Return the HTTP response; the middleware adds the id of the request as a header."""
        return Response(orjson.dumps(self.value()), self.status_code, self.headers, MEDIA_TYPE)


KNOWN: tuple[type[Exception], ...] = (LirdrecError, ValidationError, RequestValidationError, HTTPException)


def to_response(error: Exception, method: str) -> Response:
    """Return the HTTP response for one of the `KNOWN` errors of a request; `method` is the method of the request."""
    if isinstance(error, LirdrecError):
        error = Problem.from_error(error)
    elif isinstance(error, (ValidationError, RequestValidationError)):
        error = Problem.from_faults(error)
    assert isinstance(error, HTTPException)
    if not isinstance(error, Problem):
        messages = {404: "there is nothing at this address", 405: f"{method} is not possible here"}
        detail = messages.get(error.status_code, str(error.detail))
        error = Problem(error.status_code, detail, dict(error.headers or {}))
    return error.response()


def register(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Make the application answer the `KNOWN` errors with a `Problem`.

    `routes` are the routes of the application; the answer 405 lists the methods that the address has.
    """

    async def handle(request: Request, error: Exception) -> Response:
        response = to_response(error, request.method)
        if response.status_code == 405:
            response.headers["Allow"] = ", ".join(_methods(routes, request.scope))
        return response

    for kind in KNOWN:
        app.add_exception_handler(kind, handle)


def _methods(routes: Sequence[BaseRoute], scope: Scope) -> list[str]:
    """Return the HTTP methods of a request's address: those of all routes with the path that matches first."""
    matching = [route for route in routes if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE]
    same_path = (route for route in matching if route.path == matching[0].path)
    return sorted({method for route in same_path for method in route.methods or ()})


def _one_line(text: str) -> str:
    """Cut a long text, and escape its invisible characters, because it may quote names from the request."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}…"
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _location(error: Mapping[str, Any]) -> str:
    """Return where in the request a fault of pydantic is, such as "events.0.user", without the types that it adds."""
    parts = [str(part) for part in error["loc"] if part not in _FORMS]
    if len(parts) > 1 and error["type"] not in ("missing", "extra_forbidden") and _TYPE.fullmatch(parts[-1]):
        parts.pop()
    return ".".join(parts)


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ")
    for original, replacement in _WORDS:
        message = message.replace(original, replacement)
    return message


def _joined(messages: Sequence[str]) -> str:
    """Join the messages about one place of a request to one message, such as "must be an integer or a text"."""
    first, *others = dict.fromkeys(messages)
    return " or ".join([first, *(message.removeprefix("must be ") for message in others)])


_FORMS = ("PolicyText", "Boost", "Share")  # names of the forms of a field, which are not part of the request
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


def hide_paths(*paths: str | Path | None) -> None:
    """Register paths whose folders `redact` removes from messages, so that responses do not show them."""
    for path in paths:
        if path is None:
            continue
        absolute = Path(os.path.abspath(path))
        for variant in (absolute, Path(os.path.realpath(absolute))):
            _hidden[str(variant)] = variant.name
            _hidden[f"{variant}{os.sep}"] = _PLAIN
            if variant.parent != variant.parent.parent:  # not the root
                _hidden[f"{variant.parent}{os.sep}"] = _PLAIN


def redact(message: str) -> str:
    """Return the message with only the last part of each path: of registered paths, and of what looks like a path.

    If this changes the message, the full message is logged.
    """
    result = message
    for path in sorted(_hidden, key=len, reverse=True):
        result = result.replace(path, _hidden[path])
    result = _PATH.sub(lambda match: match["name"] or "a folder", result)
    if result != message:
        log.warning("a response has this message without its paths: %s", message)
    return result
