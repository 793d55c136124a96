"""Times in requests: ISO 8601 or Unix seconds."""

from __future__ import annotations

from datetime import UTC, datetime

LAST = 253_402_300_799  # Unix seconds of the end of the year 9999


def unix_seconds(value: object) -> float:
    """Unix seconds of a time: a text in ISO 8601, UTC unless it says otherwise, or a number of seconds.

    Raises:
        ValueError: it is neither, or outside of the years 1970 to 9999.

    >>> unix_seconds("1970-01-02T01:00+01:00")
    86400.0
    """
    seconds: float | None = None
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            seconds = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            seconds = None
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if value > LAST:
            raise ValueError(f"{str(value)[:40]} is after the year 9999; give seconds, not milliseconds")
        seconds = float(value)
    if seconds is None or not 0 <= seconds <= LAST:
        raise ValueError(
            f"{str(value)[:40]!r} is not a time: give ISO 8601, as 2024-05-31T18:30:00Z, or Unix seconds, from 1970 on"
        )
    return seconds
