"""What schemathesis loads beside its own checks; it runs where `known.json` tells what exists."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import schemathesis

reported = json.loads(Path("known.json").read_text())  # ids, and name of features → width
KNOWN = {name: itertools.cycle(reported[name]) for name in ("user", "item")}
FEATURES = {name: [0.5] * width for name, width in reported["features"].items()}
calls = itertools.count()


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Let every other request that fits the description be about what exists: drawn ids would give 404, or 422."""
    if not _fits(case) or next(calls) % 2:
        return
    for place in (case.path_parameters, case.query):
        for name in KNOWN.keys() & (place or {}).keys():
            place[name] = str(next(KNOWN[name]))
    body = case.body
    if isinstance(body, dict):
        for one in (body, *body.get("events", []), *body.get("requests", [])):
            for name in KNOWN.keys() & one.keys():
                one[name] = next(KNOWN[name])
            if one.get("history"):
                one["history"] = [next(KNOWN["item"]) for _ in one["history"]]
        for one in body.get("items", []):
            one.update(columns={}, features=FEATURES)


@schemathesis.check
def refused_for_a_reason(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Stands in for `positive_data_acceptance`, which knows no 422 for a reason that only the run knows.

    Whether a column exists, a vector is as wide as in training, or ids are numbers, no schema can tell: such an answer
    has a sentence. What does not fit the schema has a list of faults too, and that must not happen to what fits it.
    """
    if response.status_code == 422 and _fits(case) and not _has_whole_float(case.body):
        problem = response.json()
        assert "faults" not in problem, f"it fits the description, and yet: {problem['detail']}"


def _fits(case: schemathesis.Case) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive


def _has_whole_float(value: Any) -> bool:
    """Whether 3.0 stands for 3: to JSON Schema that is an integer, but a float may have lost digits of an id."""
    if isinstance(value, dict):
        return any(map(_has_whole_float, value.values()))
    if isinstance(value, list):
        return any(map(_has_whole_float, value))
    return isinstance(value, float) and value.is_integer()
