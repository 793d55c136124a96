"""Pydantic models of requests and responses, with strict types, limits and examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from lirdrec.data.ids import LARGEST
from lirdrec.errors import ConfigError
from lirdrec.recommender.new_item_encoder import NewItemPolicy
from lirdrec.server.http.errors import Problem
from lirdrec.server.timestamps import LAST

MAX_K = 1000
MAX_HISTORY = 1000
MAX_CANDIDATES = 10_000
MAX_REQUESTS = 1000
MAX_ITEMS = 100
MAX_EVENTS = 1000
MAX_COLUMNS = 50
MAX_DIMS = 65_536
MAX_INTEGER = 2**127  # of an item table

MAX_KEY = 200  # characters
MAX_TEXT = 10_000  # characters of a text to compare with

T = TypeVar("T")


def release_gil(value: T) -> T:
    """The value unchanged; a validator in Python lets other threads run during a long validation.

    pydantic's own code holds the GIL, and a large body takes more than 100 ms.
    """
    return value


def _limit_length(limit: int, subject: str) -> AfterValidator:
    """A validator that refuses the body at the first text that is too long.

    pydantic would copy the text into an error for each type that is allowed, and continue.
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
    Annotated[  # first: the slowest to validate
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
    """Base of request bodies: strict types, no unknown fields.

    Validation of a list stops at its first fault, so the number of faults is bounded by that of the keys.
    """

    max_keys: ClassVar[int] = 1200  # in all objects together; unknown keys are faults, and faults cost time
    max_values: ClassVar[int] = 100_000  # in all lists and objects together

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Boost(Body):
    """New items get the largest offset that cost known items at most this share of their hits in simulated launches."""

    boost: float = Field(ge=0, lt=1, description="Share of the hits on known items that it may cost: 0.05 is 5 %.")


class Share(Body):
    """New items get exactly this share of the places in the list, rounded, as far as there are enough items."""

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


class RecommendRequest(Body):
    """Recommend items to a known user, or by a history of liked items; exactly one of the two is required.

    An option that is null gets its default.
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
        None, description="Ids of liked items; added items are allowed."
    )
    k: int = Field(10, ge=1, le=MAX_K, description="Number of items; fewer are returned if fewer remain.")
    exclude_seen: bool = Field(True, description="Exclude items that the user liked already.")
    filter: Annotated[dict[Key, Scalar | Condition], Field(max_length=MAX_COLUMNS)] | None = Field(
        None,
        description="Conditions on columns of the item table, all of which must hold: a value, or comparisons eq, ne, "
        "lt, le, gt, ge, in, contains. The column `added`, unless the item table has one of this name, tells whether "
        "an item was added after training (true, false), or when: ISO 8601 (UTC unless it says otherwise) or Unix "
        "seconds.",
    )
    candidates: (
        Annotated[
            list[Id],
            Field(min_length=1, max_length=MAX_CANDIDATES, fail_fast=True),
            AfterValidator(release_gil),
        ]
        | None
    ) = Field(None, description="Ids of the items to rank; all items by default. Conditions of `filter` hold as well.")
    new_items: PolicyText | Boost | Share = Field(
        "calibrated",
        description="How items that were added after training compete: calibrated (with the offset that simulated "
        "launches chose), none (without one), boost=0.05 or share=0.2, or one of the last two as an object. Has no "
        "effect where no items were added.",
    )
    diversity: float = Field(0.0, ge=0, le=1, description="0: best scores; closer to 1: more different items (MMR).")
    branch_weights: (
        Annotated[dict[Key, Annotated[float, Field(ge=-1000, le=1000)]], Field(max_length=MAX_COLUMNS)] | None
    ) = Field(None, description="Factor of each part of the score; 1 by default.")
    unknown: Literal["raise", "popular"] = Field(
        "raise", description="Result for an unknown user: error 404, or the most popular items."
    )
    parts: bool = Field(False, description="Return the parts that sum to each score.")
    columns: Annotated[list[Name], Field(max_length=MAX_COLUMNS, fail_fast=True)] = Field(
        [], description="Columns of the item table to return with each item."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.user is None) == (self.history is None):
            raise ValueError("give either a user or a history")
        return self


class BatchRequest(Body):
    """Several recommendations in one request; they are ranked together."""

    max_keys: ClassVar[int] = 5 * MAX_REQUESTS
    max_values: ClassVar[int] = 200_000

    requests: list[RecommendRequest] = Field(min_length=1, max_length=MAX_REQUESTS, fail_fast=True)


class ItemIn(Body):
    """A new item: columns of the item table, and a vector for each of its features."""

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
        description="Name → vector, of the size in training; missing ones are encoded if possible.",
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
        None, description="What it was, for instance view, cart, buy, dislike; any text. A dislike is not a like."
    )
    timestamp: Annotated[str, Field(max_length=64)] | Annotated[float, Field(ge=0, le=LAST)] | None = Field(
        None, description="When: ISO 8601 (UTC unless it says otherwise), or Unix seconds."
    )


@dataclass(frozen=True)
class Malformed:
    """An event that is not valid, of a request that accepts the others."""

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
    """New events of users; all of them are stored, or none, unless `partial` is true."""

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

    partial: bool = Field(False, description="Store the valid events, and return the others with reasons.")  # first
    events: list[Annotated[EventIn, WrapValidator(_or_malformed)]] = Field(
        min_length=1, max_length=MAX_EVENTS, fail_fast=True
    )


class SwapRequest(Body):
    """The run to serve from now on: its path below the folder of --runs-dir."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"run": "second"}]})

    run: str = Field(min_length=1, max_length=1000)


# ---------------------------------------------------------------- responses; for documentation only

AnyId = int | str  # an id


class _Titled(BaseModel):
    item: AnyId
    title: str | None = None


class RankedItem(BaseModel):
    """One recommended item."""

    item: AnyId
    score: float
    added: bool | None = Field(None, description="True for an item that was added after training.")
    parts: dict[str, float] | None = Field(None, description="Name → share of the score, if requested.")
    columns: dict[str, Any] | None = Field(None, description="Name → value, if requested.")


class Recommendations(BaseModel):
    """Recommended items, best first."""

    items: list[RankedItem]
    fallback: Literal["popular"] | None = Field(None, description="Set if the user was unknown.")


class ProblemBody(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="One sentence: the problem and what to do.")
    faults: list[dict[str, str]] | None = Field(None, description="Invalid places of the request, with messages.")


class BatchEntry(BaseModel):
    """One result of a batch: items, or an error."""

    items: list[RankedItem] | None = None
    fallback: Literal["popular"] | None = None
    problem: ProblemBody | None = None


class BatchAnswer(BaseModel):
    """Results in the order of the requests; an error of one does not affect the others."""

    answers: list[BatchEntry]


class RefusedEvent(BaseModel):
    """An event that was not stored."""

    position: int = Field(description="Its position in the request, from 0.")
    reason: str


class Changed(BaseModel):
    """A change that is stored durably and visible to the next request of every worker."""

    change: int = Field(description="Number of the last change.")
    items: list[AnyId] | None = Field(None, description="Ids that were added or removed.")
    users: list[AnyId] | None = Field(None, description="Ids whose vectors were refreshed.")
    refused: list[RefusedEvent] | None = Field(None, description="Events that were not stored, if `partial` was true.")
    encoded: list[str] | None = Field(None, description="Names of the features that the server encoded.")


class Neighbor(_Titled):
    """A similar item."""

    similarity: float


class Neighbors(_Titled):
    """Items similar to an item, nearest first."""

    neighbors: list[Neighbor]


class LikedNeighbor(Neighbor):
    """A liked item in an explanation."""

    part: float | None = Field(None, description="Its part of the score, if the score is a sum over liked items.")


class ExplanationAnswer(_Titled):
    """Explanation of a recommendation."""

    user: AnyId
    score: float = Field(description="The score that /recommend ranks by.")
    parts: dict[str, float] = Field(description="Name → part of the score; they sum to it.")
    weights: dict[str, float] | None
    liked: list[LikedNeighbor] = Field(
        description="Liked items of the user, nearest to the item first, or ordered by their parts of the score."
    )


class ItemShort(_Titled):
    """An item in a list."""

    added: bool = Field(description="Whether it was added after training.")


class ItemAnswer(ItemShort):
    """An item and its columns."""

    columns: dict[str, Any]


class Exposure(BaseModel):
    """What items that were added after training got, of all answers and likes since the server started."""

    places: int = Field(description="Places in all answered lists.")
    new_item_places: int = Field(description="Of these, places of new items.")
    share_of_places: float | None = Field(description="Their share; null before the first answer.")
    likes: int = Field(description="Likes that were stored.")
    new_item_likes: int = Field(description="Of these, likes of new items.")
    share_of_likes: float | None = Field(description="Their share; null before the first like.")


class ModelAnswer(BaseModel):
    """The served run."""

    run: str
    model: str | None
    dataset: str | None
    version: str
    users: int
    items: int
    added: int
    removed: int
    change: int
    user_ids: Literal["integer", "text"]
    item_ids: Literal["integer", "text"]
    parts: list[str]
    features: dict[str, int] = Field(description="Name → size of the vectors of new items.")
    encoders: dict[str, str] = Field(description="Name → text or image: features that the server encodes.")
    encoder_faults: dict[str, str] = Field(description="Features that a server with --encoders cannot encode → reason.")
    loading: bool = Field(description="Whether the encoders are still being loaded.")
    columns: dict[str, str] = Field(description="Columns of the item table and their types.")
    new_items: bool
    new_users: bool
    boost: bool = Field(description="Whether the run has simulated launches, which a boost of new items needs.")
    exposure: Exposure


class Status(BaseModel):
    """Status of the server."""

    status: str
    detail: str | None = None


# ---------------------------------------------------------------- responses for the web UI


class ItemList(BaseModel):
    """A page of items."""

    total: int
    items: list[ItemAnswer]


class UserShort(BaseModel):
    """A user in a list."""

    user: AnyId
    liked: int = Field(description="Number of liked items.")


class UserList(BaseModel):
    """A page of users."""

    total: int
    users: list[UserShort]


class UserAnswer(BaseModel):
    """A user and their liked items."""

    user: AnyId
    known: bool = Field(description="Whether the run was trained with this user.")
    total: int = Field(description="Number of liked items.")
    liked: list[ItemShort]
    weights: dict[str, float] | None = Field(description="Weight of each branch, if the model has such weights.")


class ColumnAnswer(BaseModel):
    """A column of the item table."""

    name: str
    kind: Literal["number", "yes_no", "choice", "list", "text"]
    values: list[Any] = Field(description="Of a choice or list, most frequent first; lowest and highest of a number.")
    colors: bool = Field(description="Whether the projection can be colored by it.")


class ColumnsAnswer(BaseModel):
    """Columns of the item table."""

    columns: list[ColumnAnswer]
    map: bool = Field(description="Whether the model has item vectors, which the projection needs.")


class MapAnswer(BaseModel):
    """Points of the items; lists of equal length, one entry for each item."""

    items: list[AnyId]
    titles: list[str]
    x: list[float]
    y: list[float]
    added: list[int] = Field(description="Indices of the items that were added after training.")
    total: int = Field(description="Number of items in the catalog; of a large one, only some are returned.")
    explained: list[float] = Field(description="Share of the variance on each axis.")
    column: str | None
    kind: Literal["category", "number"] | None = None
    labels: list[str] | None = Field(None, description="Labels of the colors.")
    codes: list[int] | None = Field(None, description="Index of each item's value in `labels`; -1 for none.")


class MemberAnswer(BaseModel):
    """A user of the audience."""

    user: AnyId
    score: float
    parts: dict[str, float]
    place: int = Field(description="Rank of the item in this user's list, from 1.")


class AudienceAnswer(_Titled):
    """The audience of an item."""

    members: list[MemberAnswer]
    liked: int = Field(description="Number of users who liked it already.")
    reach: float = Field(description="Share of the other users who have it in their first `listed` items.")
    looked_at: int = Field(description="Number of users that `reach` was estimated from.")
    listed: int
