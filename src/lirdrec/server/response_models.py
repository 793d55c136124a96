"""Define the responses as Pydantic models for the OpenAPI document; the server does not validate its own responses."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

AnyId = int | str  # id of a user or item


class _Titled(BaseModel):
    item: AnyId
    title: str | None = None


class RankedItem(BaseModel):
    """One recommended item."""

    item: AnyId
    score: float
    added: bool | None = Field(None, description="True for an item that was added after training.")
    parts: dict[str, float] | None = Field(None, description="Name → part of the score, if requested.")
    columns: dict[str, Any] | None = Field(None, description="Column → value, if requested.")


class Recommendations(BaseModel):
    """Recommended items, best first."""

    items: list[RankedItem]
    fallback: Literal["popular"] | None = Field(None, description="Set if the user was unknown and got popular items.")


class ProblemBody(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="One sentence: the problem and what to do.")
    faults: list[dict[str, str]] | None = Field(None, description="Where the request is not valid, and why.")


class BatchEntry(BaseModel):
    """One result of a batch: items, or an error."""

    items: list[RankedItem] | None = None
    fallback: Literal["popular"] | None = None
    problem: ProblemBody | None = None


class BatchAnswer(BaseModel):
    """Results in the order of the requests; an error of one request does not affect the others."""

    answers: list[BatchEntry]


class RefusedEvent(BaseModel):
    """An event of a request that was refused and not stored: its position in the request, and why."""

    position: int = Field(description="Its position in the request, from 0.")
    reason: str


class Changed(BaseModel):
    """A change that is stored durably and visible to the next request of every worker."""

    change: int = Field(description="Number of the last change.")
    items: list[AnyId] | None = Field(None, description="Ids that were added or removed.")
    users: list[AnyId] | None = Field(None, description="Ids of the users whose vectors were computed again.")
    refused: list[RefusedEvent] | None = Field(None, description="Events that were not stored, if `partial` was true.")
    encoded: list[str] | None = Field(None, description="Names of the features that the server encoded.")


class Neighbor(_Titled):
    """A similar item."""

    similarity: float


class Neighbors(_Titled):
    """Items similar to an item, nearest first."""

    neighbors: list[Neighbor]


class LikedNeighbor(Neighbor):
    """A liked item in an explanation, with its similarity to the recommended item."""

    part: float | None = Field(None, description="Its part of the score, if the score is a sum over liked items.")
    moved: float | None = Field(
        None,
        description="The score minus the score without this item in the history, if the model reads ordered histories.",
    )


class ExplanationAnswer(_Titled):
    """Explanation of a recommendation: the parts of the score, and liked items of the user."""

    user: AnyId
    score: float = Field(description="The score that /recommend ranks by.")
    parts: dict[str, float] = Field(description="Name → part of the score; their sum is the score.")
    weights: dict[str, float] | None
    liked: list[LikedNeighbor] = Field(
        description="Liked items of the user, most similar to the item first, or ordered by their parts of the score."
    )


class ItemShort(_Titled):
    """An item in a list."""

    added: bool = Field(description="Whether it was added after training.")


class ItemAnswer(ItemShort):
    """An item and its columns."""

    columns: dict[str, Any]


class Exposure(BaseModel):
    """How often new items (added after training) were recommended and liked, since the server started."""

    places: int = Field(description="Places in all answered lists.")
    new_item_places: int = Field(description="Those of these places that new items got.")
    share_of_places: float | None = Field(description="Share of the places that new items got; null before the first.")
    likes: int = Field(description="Likes that were stored.")
    new_item_likes: int = Field(description="Those of these likes that new items got.")
    share_of_likes: float | None = Field(description="Share of the likes that new items got; null before the first.")


class ModelAnswer(BaseModel):
    """The served run: its model, its numbers of users and items, and what it supports."""

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
    features: dict[str, int] = Field(description="Name of the features → size of the vectors of new items.")
    encoders: dict[str, str] = Field(description="Name of features that the server encodes → text, image or joint.")
    encoder_faults: dict[str, str] = Field(
        description="Name of features that a server with --encoders cannot encode → reason."
    )
    loading: bool = Field(description="Whether the encoders are still being loaded.")
    columns: dict[str, str] = Field(description="Columns of the item table and their types.")
    new_items: bool
    new_users: bool
    boost: bool = Field(description="Whether the run has simulated launches, which a boost of new items needs.")
    exposure: Exposure


class Status(BaseModel):
    """Whether the server is alive or ready."""

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
    """A column of the item table that items can be filtered by."""

    name: str
    kind: Literal["number", "yes_no", "choice", "list", "text"]
    values: list[Any] = Field(
        description="Values of a choice or list, most frequent first; lowest and highest value of a number."
    )
    colors: bool = Field(description="Whether the projection can be colored by this column.")


class ColumnsAnswer(BaseModel):
    """The columns of the item table that items can be filtered by."""

    columns: list[ColumnAnswer]
    map: bool = Field(description="Whether the model has item vectors, which the projection needs.")


class MapAnswer(BaseModel):
    """Points of the items in two dimensions. `items`, `titles`, `x`, `y` and `codes` have one entry for each item."""

    items: list[AnyId]
    titles: list[str]
    x: list[float]
    y: list[float]
    added: list[int] = Field(description="Indices of the items that were added after training.")
    total: int = Field(description="Number of items in the catalog; only some of a large catalog are returned.")
    explained: list[float] = Field(description="Share of the variance that each axis explains.")
    column: str | None
    kind: Literal["category", "number"] | None = None
    labels: list[str] | None = Field(None, description="Labels of the colors.")
    codes: list[int] | None = Field(None, description="Index in `labels` of each item's value; -1 for no value.")


class MemberAnswer(BaseModel):
    """A user of the audience of an item: one of those to whom it would be recommended first."""

    user: AnyId
    score: float
    parts: dict[str, float]
    rank: int = Field(description="Rank of the item in this user's list, from 1.")


class AudienceAnswer(_Titled):
    """The audience of an item: users who have not liked it yet, and to whom it would be recommended first."""

    members: list[MemberAnswer]
    liked: int = Field(description="Number of users who liked the item already.")
    reach: float = Field(description="Share of the other users who have the item in their first `listed` items.")
    looked_at: int = Field(description="Number of users that `reach` was estimated from.")
    listed: int
