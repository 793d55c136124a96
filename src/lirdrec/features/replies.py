"""What servers say when they do not do as they were asked, sorted and put into words."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx


class Refused(Exception):
    """The server will not do this one request (its picture, its text); others may go well. Says why."""


class GaveUp(Exception):
    """The request failed in a way that may pass, as often as it was tried. Says how it failed the last time."""


class Passing(Exception):
    """One try failed; the next may not. `wait`: what the server asked for, in seconds; `gone`: it is not there."""

    def __init__(self, message: str, wait: float | None = None, gone: bool = False):
        super().__init__(message)
        self.wait, self.gone = wait, gone


def said_by(response: httpx.Response) -> str:
    """The words of a response that is no success; those of a web page are left out."""
    try:
        return message_of(response.json()) or ""
    except ValueError:
        return "" if "html" in response.headers.get("content-type", "") else response.text


def message_of(answer: Any) -> str | None:
    """The words of an error as servers write it: {"error": {"message": …}}, or under "message" or "detail"."""
    if not isinstance(answer, Mapping):
        return None
    found = answer.get("error") or answer.get("message") or answer.get("detail")
    if isinstance(found, Mapping):
        found = found.get("message") or found.get("code")
    return None if found is None else found if isinstance(found, str) else json.dumps(found)


def tokens_of(answer: Any, name: str) -> int | None:
    """What an answer says of its tokens, such as `prompt_tokens`; None where it says nothing."""
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    found = usage.get(name) if isinstance(usage, Mapping) else None
    return found if isinstance(found, int) else None


def retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date."""
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
