"""Define the request bodies as Pydantic models, with strict types, limits and examples."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from lirdrec.data.ids import LARGEST
from lirdrec.errors import ConfigError
from lirdrec.recommender.new_item_encoder import NewItemPolicy
from lirdrec.server.engine.query import MAX_FACTOR
from lirdrec.server.http.errors import Problem

MAX_K = 1000
MAX_HISTORY = 1000
MAX_CANDIDATES = 10_000
MAX_REQUESTS = 1000
MAX_ITEMS = 100
MAX_EVENTS = 1000
MAX_COLUMNS = 50
MAX_DIMS = 65_536
MAX_INTEGER = 2**127  # integers of an item table are below this number

MAX_KEY = 200  # characters of a key
MAX_TEXT = 10_000  # characters of a text to compare with

T = TypeVar("T")
LAST = 253_402_300_799  # Unix seconds of the end of the year 9999


def release_gil(value: T) -> T:
    """Return the value unchanged.

    As a validator of pydantic it lets other threads run during a long validation, because it is Python code. pydantic's
    own code holds Python's global lock (GIL) all the time, for more than 100 ms if the body is large.
    """
    return value


def _limit_length(limit: int, subject: str) -> AfterValidator:
    """Return a validator that raises a Problem at the first text of more than `limit` characters.

    `subject` names the text in the message. pydantic alone would continue, and copy the text into one error for each
    type that is allowed.
    """

    def check(text: str) -> str:
        if len(text) > limit:
            raise Problem(422, f"the body has {subject} of more than {limit:,} characters")
        return release_gil(text)

    return AfterValidator(check)


IntegerId = Annotated[int, Field(strict=True, ge=0, le=LARGEST)]
TextId = Annotated[str, Field(strict=True, min_length=1, max_length=256, pattern="^[^\\u0000]+$")]
Id = IntegerId | TextId
Name = Annotated[str, Field(min_length=1, max_length=MAX_KEY)]
Key = Annotated[str, Field(min_length=1, json_schema_extra={"maxLength": MAX_KEY}), _limit_length(MAX_KEY, "a key")]
Scalar = Annotated[
    Annotated[  # the first type, because it is the slowest to validate
        str,
        Field(strict=True, json_schema_extra={"maxLength": MAX_TEXT}),
        _limit_length(MAX_TEXT, "a text in a filter"),
    ]
    | Annotated[bool, Field(strict=True)]
    | Annotated[int, Field(strict=True, ge=-MAX_INTEGER, lt=MAX_INTEGER)]
    | Annotated[float, Field(strict=True)],
    Field(union_mode="left_to_right"),
]
Values = Annotated[list[Scalar], Field(max_length=10_000, fail_fast=True), AfterValidator(release_gil)]
Condition = dict[Key, Scalar | Values]
Vector = Annotated[list[float], Field(min_length=1, max_length=MAX_DIMS, fail_fast=True), AfterValidator(release_gil)]


class Body(BaseModel):
    """Base class of request bodies: strict types, no unknown fields.

    The validation of a list stops at its first fault. So the limit `max_keys` also limits the faults of a body.
    """

    max_keys: ClassVar[int] = 1200  # in all objects together; each unknown key is a fault, and faults cost time
    max_values: ClassVar[int] = 100_000  # in all lists and objects together

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Boost(Body):
    """Add a number to the scores of items added after training: the largest that costs the others at most this share.

    The cost is the share of the hits on the other items that would be lost. It was measured for several numbers when
    the run was made, with known items in the role of new ones (simulated launches).
    """

    boost: float = Field(ge=0, lt=1, description="Share of the hits on known items that may be lost: 0.05 is 5 %.")


class Share(Body):
    """Give items added after training this share of the places in the list, rounded, if there are enough of them."""

    share: float = Field(ge=0, le=1, description="Share of the k places: 0.2 gives new items 2 of 10.")


def _check_policy(text: str) -> str:
    try:
        NewItemPolicy.parse(text)
    except ConfigError:
        raise ValueError("must be calibrated, none, boost=SHARE or share=SHARE, with a SHARE between 0 and 1") from None
    return text


PolicyText = Annotated[
    str,
    Field(
        max_length=64,
        json_schema_extra={"pattern": r"^(calibrated|none|boost=0(\.[0-9]+)?|share=(0(\.[0-9]+)?|1))$"},
    ),
    AfterValidator(_check_policy),
]


def _policy_type(value: Any) -> str:
    """Return which of the three forms of `new_items` a value has, so that errors are about this form only."""
    if isinstance(value, (Boost, Share)):
        return type(value).__name__
    if not isinstance(value, dict):
        return "PolicyText"
    return "Share" if "share" in value else "Boost"


Policy = Annotated[
    Annotated[PolicyText, Tag("PolicyText")] | Annotated[Boost, Tag("Boost")] | Annotated[Share, Tag("Share")],
    Discriminator(_policy_type),
]


class RecommendRequest(Body):
    """Recommend items for a known user, or for a history of liked items; exactly one of the two is required.

    An option that is null gets its default value.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [given], "properties": {given: {"not": {"type": "null"}}, other: {"type": "null"}}}
                for given, other in (("user", "history"), ("history", "user"))
            ],
            "examples": [
                {"user": 15, "k": 5},
                {"history": [1, 50], "k": 5, "filter": {"year": {"ge": 1990}}, "diversity": 0.3},
                {"user": 15, "k": 10, "new_items": {"share": 0.2}, "candidates": [1, 50, 260]},
            ],
        }
    )

    user: Id | None = Field(None, description="Id of the user, as in the run.")
    history: Annotated[list[Id], Field(min_length=1, max_length=MAX_HISTORY, fail_fast=True)] | None = Field(
        None, description="Ids of liked items, oldest first; added items are allowed."
    )
    k: int = Field(10, ge=1, le=MAX_K, description="Number of items to return; fewer if no more items are left.")
    exclude_seen: bool = Field(True, description="Exclude items that the user liked already.")
    filter: Annotated[dict[Key, Scalar | Condition], Field(max_length=MAX_COLUMNS)] | None = Field(
        None,
        description="Conditions on columns of the item table, all of which must hold: a value, or comparisons eq, ne, "
        "lt, le, gt, ge, in, contains. Unless the item table has a column `added`, this name is compared with whether "
        "an item was added after training (true, false), or with the time when it was added: ISO 8601 (UTC if there "
        "is no time zone) or Unix seconds.",
    )
    candidates: (
        Annotated[
            list[Id],
            Field(min_length=1, max_length=MAX_CANDIDATES, fail_fast=True),
            AfterValidator(release_gil),
        ]
        | None
    ) = Field(None, description="Ids of the items to rank; all items by default. They must also satisfy `filter`.")
    new_items: Policy = Field(
        "calibrated",
        description="How items that were added after training compete with the other items: calibrated (their scores "
        "get an offset, which simulated launches chose), none (no offset), boost=0.05 or share=0.2 (or one of these "
        'as an object: {"share": 0.2}). It has no effect if no items were added.',
    )
    diversity: float = Field(
        0.0, ge=0, le=1, description="0: the best scores; closer to 1: items that differ more from each other (MMR)."
    )
    branch_weights: (
        Annotated[dict[Key, Annotated[float, Field(ge=-MAX_FACTOR, le=MAX_FACTOR)]], Field(max_length=MAX_COLUMNS)]
        | None
    ) = Field(None, description="Factor of each part of the score; 1 by default.")
    unknown: Literal["raise", "popular"] = Field(
        "raise", description="Result for an unknown user: error 404, or the most popular items."
    )
    parts: bool = Field(False, description="Return the parts of each score; their sum is the score.")
    columns: Annotated[list[Name], Field(max_length=MAX_COLUMNS, fail_fast=True)] = Field(
        [], description="Columns of the item table to return with each item."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.user is None) == (self.history is None):
            raise ValueError("give either a user or a history, not both")
        return self


class BatchRequest(Body):
    """Several recommendations in one request; they are ranked together."""

    max_keys: ClassVar[int] = 5 * MAX_REQUESTS
    max_values: ClassVar[int] = 200_000

    requests: list[RecommendRequest] = Field(min_length=1, max_length=MAX_REQUESTS, fail_fast=True)


class ItemIn(Body):
    """A new item: its id, values of columns of the item table, and vectors by the names of the run's features."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"id": 900001, "columns": {"title": "Red lamp"}, "features": {"text": [0.1, -0.2]}}]
        }
    )

    id: Id
    columns: dict[Key, Any] = Field({}, max_length=MAX_COLUMNS, description="Values of columns of the item table.")
    features: dict[Key, Vector] = Field(
        {},
        max_length=MAX_COLUMNS,
        description="Name → vector, of the same size as in training; the server encodes missing vectors if it can.",
    )


class ItemsRequest(Body):
    """New items; all of them are added, or none."""

    max_keys: ClassVar[int] = (2 * MAX_COLUMNS + 3) * MAX_ITEMS + 1
    max_values: ClassVar[int] = 1_000_000

    items: list[ItemIn] = Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)


class EventIn(Body):
    """What a user, known or new, did with an item."""

    user: Id
    item: Id
    type: Annotated[str, Field(min_length=1, max_length=64, pattern="^[^\\u0000]+$")] | None = Field(
        None, description="Type of the event, any text: view, cart, buy, dislike … All types except dislikes are likes."
    )
    timestamp: Annotated[str, Field(max_length=64)] | Annotated[float, Field(ge=0, le=LAST)] | None = Field(
        None,
        description="Time of the event: ISO 8601 (UTC if there is no time zone), or Unix seconds. The newest event of "
        "a user and an item decides, in whatever order events arrive. An event without a time counts as newer than "
        "the events of the user that arrived before it, and every event as newer than the training.",
    )


@dataclass(frozen=True)
class Malformed:
    """Why an event is not valid, in a request that stores the valid events (`partial`)."""

    reason: str


def _or_malformed(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> EventIn | Malformed:
    if not info.data.get("partial"):
        event: EventIn = handler(value)
        return event
    try:
        return cast("EventIn", handler(value))
    except ValidationError as error:
        faults = Problem.from_faults(error).faults or []
        return Malformed("; ".join(f"{fault['where']}: {fault['what']}".removeprefix(": ") for fault in faults))


class EventsRequest(Body):
    """New events of users. All of them are stored, or none; with `partial`, all valid ones are stored."""

    max_keys: ClassVar[int] = 4 * MAX_EVENTS + 2

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"events": [{"user": 15, "item": 50}]},
                {
                    "events": [
                        {"user": 15, "item": 50, "type": "buy", "timestamp": "2026-05-31T18:30:00Z"},
                        {"user": 15, "item": 1, "type": "dislike", "timestamp": 1780252200},
                    ],
                    "partial": True,
                },
            ]
        }
    )

    # before `events`, whose validation needs it
    partial: bool = Field(False, description="Store the valid events, and return the invalid ones with reasons.")
    events: list[Annotated[EventIn, WrapValidator(_or_malformed)]] = Field(
        min_length=1, max_length=MAX_EVENTS, fail_fast=True
    )


class SwapRequest(Body):
    """The run to serve from now on. `run` is its path below the folder that --runs-dir gives."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"run": "second"}]})

    run: str = Field(min_length=1, max_length=1000)


def unix_seconds(value: object) -> float:
    """Convert a time to Unix seconds.

    Args:
        value: a text in ISO 8601 (UTC if there is no time zone), or a number of seconds.

    Raises:
        ValueError: the value is not a time, or is outside of the years 1970 to 9999.

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
            f"{str(value)[:40]!r} is not a time from 1970 on: give ISO 8601, as 2024-05-31T18:30:00Z, or Unix seconds"
        )
    return seconds
