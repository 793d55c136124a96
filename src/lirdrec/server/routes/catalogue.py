"""What a person looks at: items and users to search, histories, pictures, the map."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from lirdrec.data.columns import ITEM
from lirdrec.errors import UnknownIdError
from lirdrec.server.documentation import errors
from lirdrec.server.live import Snapshot
from lirdrec.server.looking import item_map, matching_items, matching_users, picture_of
from lirdrec.server.routes.common import answer, id_of, known_item, services
from lirdrec.server.schemas import ItemAnswer, ItemList, MapAnswer, UserAnswer, UserList

router = APIRouter(tags=["catalogue"])

Offset = Annotated[int, Query(ge=0, le=10**9)]
Limit = Annotated[int, Query(ge=1, le=200)]
Searched = Annotated[str, Query(max_length=200, description="Part of a title or id; empty finds all.")]


@router.get("/items", responses={200: {"model": ItemList}, **errors()}, response_model=None)
async def items(request: Request, query: Searched = "", offset: Offset = 0, limit: Limit = 20) -> Response:
    """Search items by title or id, in the order of the run."""
    served = services(request)
    snapshot = await served.current()

    def find() -> dict[str, Any]:
        rows = matching_items(snapshot, query)
        return {"total": len(rows), "items": [_item(served.live.store, snapshot, row) for row in rows[offset:][:limit]]}

    return answer(await served.read(find))


@router.get("/items/{item:path}", responses={200: {"model": ItemAnswer}, **errors(404)}, response_model=None)
async def one_item(request: Request, item: str) -> Response:
    """What is known of an item."""
    served = services(request)
    snapshot = await served.current()
    _, row = known_item(snapshot, item)
    return answer(await served.read(lambda: _item(served.live.store, snapshot, row)))


@router.get("/users", responses={200: {"model": UserList}, **errors()}, response_model=None)
async def users(request: Request, query: Searched = "", offset: Offset = 0, limit: Limit = 20) -> Response:
    """Search users by a part of their id."""
    served = services(request)
    snapshot = await served.current()

    def find() -> dict[str, Any]:
        ids = matching_users(snapshot, query)
        page = ids[offset:][:limit]
        return {"total": len(ids), "users": [{"user": one, "liked": len(snapshot.liked_rows(one))} for one in page]}

    return answer(await served.read(find))


@router.get("/users/{user:path}", responses={200: {"model": UserAnswer}, **errors(404)}, response_model=None)
async def one_user(request: Request, user: str, limit: Limit = 100) -> Response:
    """A user's history: what was liked, in training and since."""
    served = services(request)
    snapshot = await served.current()
    recommender = snapshot.recommender
    id = id_of(user, recommender.users)
    row = snapshot.user_rows.get(id, -1)
    if row < 0 and id not in snapshot.people:
        raise UnknownIdError(f"no user has the id {id!r}")

    def tell() -> dict[str, Any]:
        import torch

        liked = snapshot.liked_rows(id).tolist()
        weights = (
            recommender.scorer.user_weights(torch.tensor([row])) if row >= 0 and id not in snapshot.people else None
        )
        names = recommender.scorer.part_names
        return {
            "user": id,
            "known": row >= 0,
            "total": len(liked),
            "liked": [{"item": _id(snapshot, one), "title": recommender.title(one)} for one in liked[-limit:][::-1]],
            "weights": None if weights is None else dict(zip(names, weights[0].tolist(), strict=True)),
        }

    return answer(await served.read(tell))


@router.get(
    "/pictures/{item:path}",
    responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}, **errors(404)},
    response_model=None,
    response_class=Response,
)
async def picture(request: Request, item: str, size: Annotated[int, Query(ge=16, le=1024)] = 256) -> Response:
    """A small JPEG of an item."""
    served = services(request)
    snapshot = await served.current()
    id, row = known_item(snapshot, item)
    content = await served.read(lambda: picture_of(snapshot, served.live.store, served.pictures, id, row, size))
    if content is None:
        raise UnknownIdError(f"item {id!r} has no picture")
    return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"})


@router.get("/map", responses={200: {"model": MapAnswer}, **errors(409)}, response_model=None)
async def map_of_items(
    request: Request,
    column: Annotated[str | None, Query(max_length=200, description="A column to colour by.")] = None,
    limit: Annotated[int, Query(ge=3, le=20_000, description="Items at most; evenly drawn of more.")] = 5000,
) -> Response:
    """The catalogue in the plane, by the two main directions of the items' vectors."""
    served = services(request)
    snapshot = await served.current()
    return answer(await served.read(lambda: item_map(snapshot, column, limit)))


def _item(store: Any, snapshot: Snapshot, row: int) -> dict[str, Any]:
    recommender = snapshot.recommender
    id = _id(snapshot, row)
    columns = recommender.item_table.row(row, named=True)
    del columns[ITEM]
    added = row >= recommender.n_trained_items
    return {
        "item": id,
        "title": recommender.title(row),
        "columns": columns,
        "added": added,
        "picture": bool(columns.get("image")) or (added and store.picture(id) is not None),
    }


def _id(snapshot: Snapshot, row: int) -> Any:
    return snapshot.recommender.items.series[row]
