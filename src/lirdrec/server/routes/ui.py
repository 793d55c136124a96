"""What the page at /ui needs beside recommendations: search, people, pictures, the map, who would get an item.

What the routes of the page answer, and what they keep between requests.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import torch
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from lirdrec.data.images import IMAGE
from lirdrec.errors import ConfigError, UnknownIdError
from lirdrec.server.catalog.audience import LISTED, audience
from lirdrec.server.catalog.facets import colouring, described
from lirdrec.server.catalog.images import Pictures
from lirdrec.server.catalog.projection import CatalogProjection, has_map
from lirdrec.server.catalog.search import Search
from lirdrec.server.dependencies import Services
from lirdrec.server.http.errors import Problem
from lirdrec.server.http.openapi import errors
from lirdrec.server.routes.common import answer, id_of, known_item, services
from lirdrec.server.schemas import ItemAnswer
from lirdrec.server.state import Snapshot

Id = int | str


class View:
    """What the page's routes keep: caches that any request may fill.

    Attributes:
        search, map, pictures: see there.
    """

    def __init__(self, served: Services):
        self.search = Search()
        self.map = CatalogProjection()
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


router = APIRouter(tags=["page"])

MAX_POINTS = 20_000  # of the map; of larger catalogues it shows every n-th item
LONGEST = 80  # letters of a title on the map
KEPT_SECONDS = 60  # a browser keeps a picture

Text = Annotated[str, Query(max_length=200)]
Offset = Annotated[int, Query(ge=0, le=10_000_000)]
Limit = Annotated[int, Query(ge=1, le=200)]


@router.get("/items", responses={200: {"model": ItemList}, **errors()}, response_model=None)
async def items(request: Request, query: Text = "", offset: Offset = 0, limit: Limit = 20) -> Response:
    """Items whose title or id holds all words of the query; without one all, those that most people liked first."""
    served, own = services(request), view(request)
    snapshot = await served.current()
    found = await served.read(lambda: own.search.items(snapshot, query, offset, limit))
    return answer({"total": found.total, "items": [_item(snapshot, row) for row in found.rows]})


@router.get("/users", responses={200: {"model": UserList}, **errors()}, response_model=None)
async def users(request: Request, query: Text = "", offset: Offset = 0, limit: Limit = 20) -> Response:
    """Users whose id holds the query."""
    served, own = services(request), view(request)
    snapshot = await served.current()
    found = await served.read(lambda: own.search.users(snapshot, query, offset, limit))
    return answer({"total": found.total, "users": [{"user": user, "liked": n} for user, n in found.users]})


@router.get("/users/{user:path}", responses={200: {"model": UserAnswer}, **errors(404)}, response_model=None)
async def user(request: Request, user: str, offset: Offset = 0, limit: Limit = 50) -> Response:
    """What a user liked, the likes since training first."""
    served = services(request)
    snapshot = await served.current()
    recommender = snapshot.recommender
    who = id_of(user, recommender.users)
    row = snapshot.user_rows.get(who, -1)
    if row < 0 and who not in snapshot.people:
        raise UnknownIdError(f"no user has the id {who!r}")
    trained = [] if row < 0 or recommender.is_slim else recommender.liked_rows(row).tolist()
    old = set(trained)
    rows = [*(one for one in snapshot.liked_rows(who).tolist() if one not in old), *trained]
    rows = [one for one in rows if not bool(snapshot.gone[one])]
    weights = recommender.scorer.user_weights(torch.tensor([row])) if row >= 0 else None
    return answer(
        {
            "user": who,
            "known": row >= 0,
            "total": len(rows),
            "liked": [_short(snapshot, one) for one in rows[offset : offset + limit]],
            "weights": None if weights is None else _named(recommender.scorer.part_names, weights[0].tolist()),
        }
    )


@router.get(
    "/pictures/{item:path}",
    responses={200: {"content": {"image/jpeg": {}, "image/svg+xml": {}}, "description": "The picture."}, **errors(404)},
    response_class=Response,
)
async def picture(request: Request, item: str) -> Response:
    """A small picture of an item; a drawn one where it has none."""
    served, own = services(request), view(request)
    snapshot = await served.current()
    _, row = known_item(snapshot, item)
    found = await served.read(lambda: own.pictures.of(snapshot, row))
    headers = {"ETag": f'"{found.tag}"', "Cache-Control": f"private, max-age={KEPT_SECONDS}"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.media_type)


@router.get("/columns", responses={200: {"model": ColumnsAnswer}, **errors()}, response_model=None)
async def columns(request: Request) -> Response:
    """Columns of the item table that one can filter by, or colour the map by; and whether there is a map."""
    served = services(request)
    snapshot = await served.current()
    found = await served.read(lambda: described(snapshot.recommender.item_table))
    return answer({"columns": [asdict(one) for one in found], "map": has_map(snapshot)})


@router.get("/map", responses={200: {"model": MapAnswer}, **errors(409)}, response_model=None)
async def catalogue_map(request: Request, column: Annotated[str | None, Query(max_length=200)] = None) -> Response:
    """The catalogue in the plane: the two main directions of the items' vectors."""
    served, own = services(request), view(request)
    snapshot = await served.current()
    try:
        plane = await served.read(lambda: own.map.plane(snapshot))
    except TimeoutError:
        raise Problem(503, "the map is being computed; ask again in a moment", {"Retry-After": "5"}) from None
    return answer(await served.read(lambda: _points(snapshot, plane.points, plane.explained, column)))


@router.get(
    "/audience/{item:path}", responses={200: {"model": AudienceAnswer}, **errors(404, 409)}, response_model=None
)
async def who_would_get(request: Request, item: str, k: Annotated[int, Query(ge=1, le=100)] = 12) -> Response:
    """Who would get an item: the people with the highest scores for it, and its place in their lists."""
    served = services(request)
    snapshot = await served.current()
    id, row = known_item(snapshot, item)
    found = await served.read(lambda: audience(snapshot, row, k))
    return answer({"item": id, "title": snapshot.recommender.title(row), "listed": LISTED, **asdict(found)})


def _points(snapshot: Snapshot, points: Any, explained: Any, column: str | None) -> dict[str, Any]:
    recommender = snapshot.recommender
    table, n_items = recommender.item_table, recommender.n_items
    there = (~snapshot.gone).nonzero().squeeze(1)
    step = -(-len(there) // MAX_POINTS)
    rows = there[:: max(1, step)]
    if step > 1:
        rows = torch.unique(torch.cat([rows, there[there >= recommender.n_trained_items]]))
    chosen = rows.numpy()
    value: dict[str, Any] = {
        "items": recommender.items.series.gather(chosen).to_list(),
        "titles": [(recommender.title(row) or "")[:LONGEST] for row in chosen.tolist()],
        "x": [round(x, 4) for x in points[chosen, 0].tolist()],
        "y": [round(y, 4) for y in points[chosen, 1].tolist()],
        "added": [at for at, row in enumerate(chosen.tolist()) if row >= recommender.n_trained_items],
        "total": len(there),
        "explained": list(explained),
        "column": None,
    }
    assert len(points) == n_items
    if column is not None:
        if all(one.name != column for one in described(table)):
            raise ConfigError(f"the map cannot be coloured by '{column}'; the columns of the page are at /columns")
        colours = colouring(table, column)
        value |= {"column": column, "kind": colours.kind, "labels": list(colours.labels)}
        value["codes"] = colours.codes[chosen].tolist()
    return value


def _item(snapshot: Snapshot, row: int) -> dict[str, Any]:
    columns = snapshot.recommender.item_table.drop("item").row(row, named=True)
    return _short(snapshot, row) | {"columns": {name: one for name, one in columns.items() if name != IMAGE}}


def _short(snapshot: Snapshot, row: int) -> dict[str, Any]:
    recommender = snapshot.recommender
    return {
        "item": recommender.items.series[row],
        "title": recommender.title(row),
        "added": row >= recommender.n_trained_items,
    }


def _named(names: tuple[str, ...], values: list[float]) -> dict[str, float]:
    return dict(zip(names, values, strict=True))
