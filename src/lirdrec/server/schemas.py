"""What requests and answers look like: strict types, limited sizes, examples."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lirdrec.data.ids import LARGEST

MAX_K = 1000
MAX_HISTORY = 1000
MAX_REQUESTS = 1000
MAX_ITEMS = 100
MAX_EVENTS = 1000
MAX_COLUMNS = 50
MAX_DIMS = 65_536
WHOLE = 2**127  # numbers of an item table may be as large

T = TypeVar("T")


def give_way(value: T) -> T:
    """The value as it is; where it is called, other threads may run in the midst of a long validation.

    pydantic's own code never lets them, and a large body takes it more than 100 ms.
    """
    return value


IntegerId = Annotated[int, Field(strict=True, ge=0, le=LARGEST)]
TextId = Annotated[str, Field(strict=True, min_length=1, max_length=256, pattern="^[^\\u0000]+$")]
Id = IntegerId | TextId
Name = Annotated[str, Field(min_length=1, max_length=200)]
Key = Annotated[Name, AfterValidator(give_way)]
Scalar = Annotated[
    Annotated[str, Field(strict=True, max_length=10_000)]  # first: the texts are the longest to read
    | Annotated[bool, Field(strict=True)]
    | Annotated[int, Field(strict=True, ge=-WHOLE, lt=WHOLE)]
    | Annotated[float, Field(strict=True)],
    Field(union_mode="left_to_right"),
]
Values = Annotated[list[Scalar], Field(max_length=10_000, fail_fast=True), AfterValidator(give_way)]
Condition = dict[Key, Scalar | Values]
Vector = Annotated[list[float], Field(min_length=1, max_length=MAX_DIMS, fail_fast=True), AfterValidator(give_way)]


class Body(BaseModel):
    """A body of a request: strict types, and no other fields.

    Attributes:
        max_keys: names in all objects of the body together. A name that is not known is a fault, and faults cost time.
        max_values: values in all lists and objects together.

    A list is given up at its first fault, so that a body has no more faults than keys, by a small factor.
    """

    max_keys: ClassVar[int] = 1200
    max_values: ClassVar[int] = 100_000

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class RecommendRequest(Body):
    """Recommend to a known user, or to anybody by a history of liked items; one of the two is given.

    An option that is null is as if it were not given.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [one], "properties": {one: {"not": {"type": "null"}}, other: {"type": "null"}}}
                for one, other in (("user", "history"), ("history", "user"))
            ],
            "examples": [
                {"user": 15, "k": 5},
                {"history": [1, 50], "k": 5, "filter": {"year": {"ge": 1990}}, "diversity": 0.3},
            ],
        }
    )

    user: Id | None = Field(None, description="Id as in the run.")
    history: Annotated[list[Id], Field(min_length=1, max_length=MAX_HISTORY, fail_fast=True)] | None = Field(
        None, description="Ids of liked items, added ones too."
    )
    k: int = Field(10, ge=1, le=MAX_K, description="How many items; fewer come where fewer remain.")
    exclude_seen: bool = Field(True, description="Leave out what the user liked already.")
    filter: Annotated[dict[Key, Scalar | Condition], Field(max_length=MAX_COLUMNS)] | None = Field(
        None,
        description="Conditions on columns of the item table that must all hold: a value, or comparisons eq, ne, lt, "
        "le, gt, ge, in, contains.",
    )
    diversity: float = Field(0.0, ge=0, le=1, description="0: best scores; towards 1: items that differ (MMR).")
    branch_weights: (
        Annotated[dict[Key, Annotated[float, Field(ge=-1000, le=1000)]], Field(max_length=MAX_COLUMNS)] | None
    ) = Field(None, description="Factor of each part of the score; those not named keep 1.")
    unknown: Literal["raise", "popular"] = Field(
        "raise", description="What an unknown user gets: 404, or what is liked most."
    )
    parts: bool = Field(False, description="Tell the parts that sum to each score.")
    columns: Annotated[list[Name], Field(max_length=MAX_COLUMNS, fail_fast=True)] = Field(
        [], description="Columns of the item table to add to each item."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.user is None) == (self.history is None):
            raise ValueError("give either a user or a history")
        return self


class BatchRequest(Body):
    """Several recommendations in one call; they are ranked together."""

    max_keys: ClassVar[int] = 10 * MAX_REQUESTS
    max_values: ClassVar[int] = 200_000

    requests: list[RecommendRequest] = Field(min_length=1, max_length=MAX_REQUESTS, fail_fast=True)


class ItemIn(Body):
    """A new item: columns of the item table, and a vector for each kind of feature that it has."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"id": 900001, "columns": {"title": "Red lamp"}, "features": {"text": [0.1, -0.2]}}]
        }
    )

    id: Id
    columns: dict[Key, Any] = Field({}, max_length=MAX_COLUMNS, description="Values of columns of the item table.")
    features: dict[Key, Vector] = Field(
        {}, max_length=MAX_COLUMNS, description="Name → vector, as wide as in training; others are encoded if possible."
    )


class ItemsRequest(Body):
    """New items; all of them are added, or none."""

    max_keys: ClassVar[int] = (2 * MAX_COLUMNS + 3) * MAX_ITEMS + 1
    max_values: ClassVar[int] = 1_000_000

    items: list[ItemIn] = Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)


class EventIn(Body):
    """A user, known or new, liked an item."""

    user: Id
    item: Id


class EventsRequest(Body):
    """New likes; all of them are kept, or none."""

    max_keys: ClassVar[int] = 2 * MAX_EVENTS + 1

    model_config = ConfigDict(json_schema_extra={"examples": [{"events": [{"user": 15, "item": 50}]}]})

    events: list[EventIn] = Field(min_length=1, max_length=MAX_EVENTS, fail_fast=True)


class SwapRequest(Body):
    """The run to serve from now on: its path below the folder of --runs-dir."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"run": "second"}]})

    run: str = Field(min_length=1, max_length=1000)


# ---------------------------------------------------------------- answers; they describe, they do not convert


class RankedItem(BaseModel):
    """One recommended item."""

    item: int | str
    score: float
    parts: dict[str, float] | None = Field(None, description="Name → share of the score, if asked for.")
    columns: dict[str, Any] | None = Field(None, description="Name → value, if asked for.")


class Recommendations(BaseModel):
    """Items, best first."""

    items: list[RankedItem]
    fallback: Literal["popular"] | None = Field(None, description="How an unknown user was answered.")


class ProblemBody(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="One sentence: what is wrong and what to do.")
    faults: list[dict[str, str]] | None = Field(None, description="Places in the request, and what is wrong there.")


class BatchEntry(BaseModel):
    """One answer of a batch: items, or an error."""

    items: list[RankedItem] | None = None
    fallback: Literal["popular"] | None = None
    problem: ProblemBody | None = None


class BatchAnswer(BaseModel):
    """Answers in the order of the requests; one that fails leaves the others as they are."""

    answers: list[BatchEntry]


class Changed(BaseModel):
    """A change that is durable now, and seen by the next call of every worker."""

    change: int = Field(description="Number of the last change.")
    items: list[int | str] | None = Field(None, description="Ids that were added or removed.")
    users: list[int | str] | None = Field(None, description="Ids whose vectors were refreshed.")
    encoded: list[str] | None = Field(None, description="Kinds of features that the server made itself.")


class Neighbour(BaseModel):
    """A similar item."""

    item: int | str
    similarity: float
    title: str | None = None


class Neighbours(BaseModel):
    """Items similar to one, nearest first."""

    item: int | str
    title: str | None = None
    neighbours: list[Neighbour]


class LikedNeighbour(Neighbour):
    """A liked item in an explanation."""

    part: float | None = Field(None, description="What it adds to the score, if that is a sum over liked items.")


class ExplanationAnswer(BaseModel):
    """Why an item suits a user."""

    user: int | str
    item: int | str
    title: str | None
    score: float = Field(description="The score that /recommend ranks by.")
    parts: dict[str, float] = Field(description="Sum to the score.")
    weights: dict[str, float] | None
    liked: list[LikedNeighbour] = Field(
        description="Items that the user liked: nearest to this one first, or by their parts of the score."
    )


class ItemAnswer(BaseModel):
    """What is known of an item."""

    item: int | str
    title: str | None
    columns: dict[str, Any]
    added: bool = Field(description="Whether it came after training.")


class ModelAnswer(BaseModel):
    """What is being served."""

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
    features: dict[str, int] = Field(description="Name → width of the vectors that a new item may bring.")
    encoders: dict[str, str] = Field(description="Name → text or image: what the server encodes itself.")
    loading: bool = Field(description="Whether the encoders are still being loaded.")
    columns: dict[str, str] = Field(description="Columns of the item table and their types.")
    new_items: bool
    new_users: bool


class Status(BaseModel):
    """Whether the server lives or is ready."""

    status: str
    detail: str | None = None
