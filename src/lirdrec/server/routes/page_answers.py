"""What the routes of the page answer, and what they keep between requests."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, Field

from lirdrec.server.map import CatalogueMap
from lirdrec.server.pictures import Pictures
from lirdrec.server.routes.common import services
from lirdrec.server.schemas import ItemAnswer
from lirdrec.server.searching import Search
from lirdrec.server.services import Services

Id = int | str


class View:
    """What the page's routes keep: caches that any request may fill.

    Attributes:
        search, map, pictures: see there.
    """

    def __init__(self, served: Services):
        self.search = Search()
        self.map = CatalogueMap()
        self.pictures = Pictures(served.live, served.config.images)
        self.map.begin(served.live.snapshot)


def view(request: Request) -> View:
    """The page's caches, made with the first request.

    Raises:
        Problem: the server is not ready yet.
    """
    state = request.app.state
    if not hasattr(state, "view"):
        state.view = View(services(request))
    found: View = state.view
    return found


class ItemShort(BaseModel):
    """An item in a list."""

    item: Id
    title: str | None
    added: bool = Field(description="Whether it came after training.")


class ItemList(BaseModel):
    """A page of items."""

    total: int
    items: list[ItemAnswer]


class UserShort(BaseModel):
    """A user in a list."""

    user: Id
    liked: int = Field(description="How many items.")


class UserList(BaseModel):
    """A page of users."""

    total: int
    users: list[UserShort]


class UserAnswer(BaseModel):
    """What is known of a user."""

    user: Id
    known: bool = Field(description="Whether the run was trained with this user.")
    total: int = Field(description="Number of liked items.")
    liked: list[ItemShort]
    weights: dict[str, float] | None = Field(description="What the user gives to each branch, if the model has it.")


class ColumnAnswer(BaseModel):
    """A column of the item table."""

    name: str
    kind: Literal["number", "yes_no", "choice", "list", "text"]
    values: list[Any] = Field(description="Of a choice or list, most frequent first; lowest and highest of a number.")
    colours: bool = Field(description="Whether the map can be coloured by it.")


class ColumnsAnswer(BaseModel):
    """Columns of the item table."""

    columns: list[ColumnAnswer]
    map: bool = Field(description="Whether the model has vectors of items, which a map needs.")


class MapAnswer(BaseModel):
    """Items in the plane; lists of equal length, a place each."""

    items: list[Id]
    titles: list[str]
    x: list[float]
    y: list[float]
    added: list[int] = Field(description="Places of the items that came after training.")
    total: int = Field(description="Items of the catalogue; of many, only some are on the map.")
    explained: list[float] = Field(description="Share of the variance that each direction holds.")
    column: str | None
    kind: Literal["category", "number"] | None = None
    labels: list[str] | None = Field(None, description="Of the colours.")
    codes: list[int] | None = Field(None, description="Place of each item's value in `labels`; -1 for none.")


class MemberAnswer(BaseModel):
    """One of those who would get an item."""

    user: Id
    score: float
    parts: dict[str, float]
    place: int = Field(description="Of the item in this user's list, from 1.")


class AudienceAnswer(BaseModel):
    """Who would get an item."""

    item: Id
    title: str | None
    members: list[MemberAnswer]
    liked: int = Field(description="People who liked it already.")
    reach: float = Field(description="Share of the others in whose first `listed` it is.")
    looked_at: int = Field(description="People that `reach` was counted with.")
    listed: int
