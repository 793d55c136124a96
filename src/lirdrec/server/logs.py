"""Log lines as JSON, one a line, for machines to collect. No line holds a key, a body or a query string."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from contextvars import ContextVar
from typing import Any, TextIO

import orjson

from lirdrec.escaping import visible_json

ACCESS = "lirdrec.server.access"
REQUEST: ContextVar[str] = ContextVar("request", default="")  # id of the request that is being answered


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, what `extra={"fields": …}` gives, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        value: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := REQUEST.get():
            value["request"] = request
        value |= getattr(record, "fields", {})
        if record.exc_info:
            value["traceback"] = self.formatException(record.exc_info)
        return visible_json(_dumped(value))


def _dumped(value: dict[str, Any]) -> str:
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:  # halves of letters, as in file names that are no text
        return json.dumps(value, default=str, ensure_ascii=False)


def _is_news(record: logging.LogRecord) -> bool:
    """Not uvicorn's traceback of a start that failed for a reason that was told in a sentence before."""
    return not (record.name == "uvicorn.error" and "lirdrec.errors.ConfigError" in record.getMessage())


def configure(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Write the records of lirdrec and of uvicorn as JSON to a stream, by default the error stream."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_is_news)
    for name in ("lirdrec", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
    logging.getLogger("uvicorn.access").disabled = True  # ours knows routes, request ids and callers
