"""Pydantic models of answers, for the OpenAPI document; the server does not validate its own answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

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
    """An event of a request that was refused and not stored: its position in the request, and why."""

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
    moved: float | None = Field(
        None, description="The score less that of the history without this item, if the model reads ordered histories."
    )


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
    parts: list[str] = Field(
        description="Parts of a score that have weights; items that were added later also have 'offset of new items'."
    )
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


# ---------------------------------------------------------------- for the web UI


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
    rank: int = Field(description="Rank of the item in this user's list, from 1.")


class AudienceAnswer(_Titled):
    """The audience of an item."""

    members: list[MemberAnswer]
    liked: int = Field(description="Number of users who liked it already.")
    reach: float = Field(description="Share of the other users who have it in their first `listed` items.")
    looked_at: int = Field(description="Number of users that `reach` was estimated from.")
    listed: int
