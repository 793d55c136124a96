"""Routes for the web UI: search, users, item images, facets, projection, audience."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from fastapi import APIRouter, Depends, Query, Request, Response

from lirdrec.data.images import IMAGE
from lirdrec.errors import ConfigError, UnknownIdError
from lirdrec.server.catalog.audience import find_audience
from lirdrec.server.catalog.facets import color_items, describe_columns
from lirdrec.server.catalog.images import ItemImages
from lirdrec.server.catalog.projection import CatalogProjection, Projection, has_projection
from lirdrec.server.catalog.search import Search
from lirdrec.server.http.errors import Problem
from lirdrec.server.http.openapi import errors
from lirdrec.server.response_models import AudienceAnswer, ColumnsAnswer, ItemList, MapAnswer, UserAnswer, UserList
from lirdrec.server.routes.common import (
    CurrentSnapshot,
    ServicesDep,
    answers,
    describe_item,
    find_item,
    get_services,
    json_response,
    list_item,
    parse_id,
)
from lirdrec.server.services import Services
from lirdrec.server.snapshot import Snapshot


class Caches:
    """The objects that keep results between requests: search, projection and images."""

    def __init__(self, services: Services):
        self.search = Search()
        self.projection = CatalogProjection()
        self.images = ItemImages(services.live, services.config.images)
        self.projection.begin(services.live.snapshot)


async def _get_caches(request: Request) -> Caches:
    """Return the caches, created at the first request; raise a Problem (503) while the server is not ready yet."""
    state = request.app.state
    if not hasattr(state, "caches"):
        state.caches = Caches(get_services(request))
    caches: Caches = state.caches
    return caches


CachesDep = Annotated[Caches, Depends(_get_caches)]

router = APIRouter(tags=["page"])

MAX_POINTS = 20_000  # most points of the projection; for a larger catalog it has only every n-th item
TITLE_LENGTH = 80  # characters of a title in the projection
MAX_AGE = 60  # seconds that a browser caches an image

Text = Annotated[str, Query(max_length=200)]
Offset = Annotated[int, Query(ge=0, le=10_000_000)]
Limit = Annotated[int, Query(ge=1, le=200)]


async def _get_page(query: Text = "", offset: Offset = 0, limit: Limit = 20) -> tuple[str, int, int]:
    return query, offset, limit


PageDep = Annotated[tuple[str, int, int], Depends(_get_page)]


@router.get("/items", **answers(ItemList))
async def items(services: ServicesDep, snapshot: CurrentSnapshot, caches: CachesDep, page: PageDep) -> Response:
    """Find items with all words of the query in their title or id; without a query all items, most likes first."""
    total, rows = await services.read(lambda: caches.search.items(snapshot, *page))
    found = [describe_item(snapshot, row) for row in rows]
    for item in found:
        item["columns"].pop(IMAGE, None)
    return json_response({"total": total, "items": found})


@router.get("/users", **answers(UserList))
async def users(services: ServicesDep, snapshot: CurrentSnapshot, caches: CachesDep, page: PageDep) -> Response:
    """Find users with the query in their id; without a query all users."""
    total, found = await services.read(lambda: caches.search.users(snapshot, *page))
    return json_response({"total": total, "users": [{"user": user, "liked": n} for user, n in found]})


@router.get("/users/{user:path}", **answers(UserAnswer, 404))
async def user(snapshot: CurrentSnapshot, user: str, offset: Offset = 0, limit: Limit = 50) -> Response:
    """List the items that a user liked: first the likes since training, then those of training.

    If the model reads the order of likes, the latest like is first.
    """
    recommender = snapshot.recommender
    id = parse_id(user, recommender.users)
    row = snapshot.user_rows.get(id, -1)
    if row < 0 and id not in snapshot.user_states:
        raise UnknownIdError(f"no user has the id {id!r}")
    rows = snapshot.liked_rows(id).tolist()
    if recommender.is_ordered:
        rows.reverse()
    else:
        trained = [] if row < 0 or recommender.is_slim else recommender.liked_rows(row).tolist()
        old = set(trained)
        rows = [*(item for item in rows if item not in old), *trained]
    rows = [item for item in rows if not bool(snapshot.removed[item])]
    liked = [list_item(snapshot, item) for item in rows[offset : offset + limit]]
    scorer, weights = recommender.scorer, None
    if row >= 0 and (factors := scorer.user_weights(torch.tensor([row]))) is not None:
        weights = dict(zip(scorer.branch_names[: factors.shape[1]], factors[0].tolist(), strict=True))
    return json_response({"user": id, "known": row >= 0, "total": len(rows), "liked": liked, "weights": weights})


@router.get(
    "/items/{item:path}/image",
    responses={200: {"content": {"image/jpeg": {}, "image/svg+xml": {}}, "description": "The image."}, **errors(404)},
    response_class=Response,
)
async def image(
    request: Request, services: ServicesDep, snapshot: CurrentSnapshot, caches: CachesDep, item: str
) -> Response:
    """Return a small image of an item; a placeholder if it has none."""
    _, row = find_item(snapshot, item)
    thumbnail = await services.read(lambda: caches.images.get(snapshot, row))
    headers = {"ETag": f'"{thumbnail.tag}"', "Cache-Control": f"private, max-age={MAX_AGE}"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(thumbnail.content, headers=headers, media_type=thumbnail.media_type)


@router.get("/facets", **answers(ColumnsAnswer))
async def facets(services: ServicesDep, snapshot: CurrentSnapshot) -> Response:
    """Describe the columns of the item table for filters and colors, and whether the model has a projection."""
    columns = await services.read(lambda: describe_columns(snapshot.recommender.item_table))
    return json_response({"columns": [column.model_dump() for column in columns], "map": has_projection(snapshot)})


@router.get("/projection", **answers(MapAnswer, 409))
async def projection(
    services: ServicesDep,
    snapshot: CurrentSnapshot,
    caches: CachesDep,
    column: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """Return the items as points in two dimensions: the first two principal components of the item vectors."""
    try:
        points = await services.read(lambda: caches.projection.get(snapshot))
    except TimeoutError:
        raise Problem(503, "the projection is being computed; try again in a moment", {"Retry-After": "5"}) from None
    return json_response(await services.read(lambda: _points(snapshot, points, column)))


@router.get("/items/{item:path}/audience", **answers(AudienceAnswer, 404, 409))
async def audience(
    services: ServicesDep, snapshot: CurrentSnapshot, item: str, k: Annotated[int, Query(ge=1, le=100)] = 12
) -> Response:
    """Find the audience of an item: users who have not liked it yet, and to whom it would be recommended first."""
    _, row = find_item(snapshot, item)
    return json_response((await services.read(lambda: find_audience(snapshot, row, k))).model_dump())


def _points(snapshot: Snapshot, projection: Projection, column: str | None) -> dict[str, Any]:
    recommender, points = snapshot.recommender, projection.points
    assert len(points) == recommender.n_items
    available = (~snapshot.removed).nonzero().squeeze(1)
    step = -(-len(available) // MAX_POINTS)
    rows = available[:: max(1, step)]
    if step > 1:
        rows = torch.unique(torch.cat([rows, available[available >= recommender.n_trained_items]]))
    chosen = rows.numpy()
    answer: dict[str, Any] = {
        "items": recommender.items.series.gather(chosen).to_list(),
        "titles": [(recommender.title(row) or "")[:TITLE_LENGTH] for row in chosen.tolist()],
        "x": [round(x, 4) for x in points[chosen, 0].tolist()],
        "y": [round(y, 4) for y in points[chosen, 1].tolist()],
        "added": [index for index, row in enumerate(chosen.tolist()) if row >= recommender.n_trained_items],
        "total": len(available),
        "explained": list(projection.explained),
        "column": None,
    }
    if column is not None:
        if all(existing.name != column for existing in describe_columns(recommender.item_table)):
            raise ConfigError(f"points cannot be colored by '{column}'; choose one of the columns of GET /facets")
        colors = color_items(recommender.item_table, column)
        codes = colors.codes[chosen].tolist()
        answer |= {"column": column, "kind": colors.kind, "labels": list(colors.labels), "codes": codes}
    return answer
