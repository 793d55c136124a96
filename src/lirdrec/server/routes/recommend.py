"""POST /recommend and /recommend/batch, GET /similar and /explain."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from lirdrec.errors import ConfigError, LirdrecError
from lirdrec.ranking.filters import Filter
from lirdrec.server.catalog.explain import explained, similar
from lirdrec.server.dependencies import Services
from lirdrec.server.engine import batcher
from lirdrec.server.http.errors import Problem
from lirdrec.server.http.openapi import body, errors
from lirdrec.server.routes.common import RawRoute, answer, id_of, known_item, parsed, services
from lirdrec.server.schemas import (
    MAX_K,
    BatchAnswer,
    BatchRequest,
    ExplanationAnswer,
    Neighbours,
    Recommendations,
    RecommendRequest,
)

router = APIRouter(tags=["recommend"])
MANY_VALUES = 200  # of filters; more are not checked on the event loop


async def recommend(request: Request) -> Response:
    """The best items for a user, or for a history of items."""
    served = services(request)
    asked = await parsed(request, RecommendRequest)
    (where,) = await _filters(served, [asked])
    return answer(await _recommend(served, asked, where))


async def recommend_batch(request: Request) -> Response:
    """Several recommendations at once. One that fails leaves the others as they are."""
    served = services(request)
    asked = (await parsed(request, BatchRequest)).requests
    limit = served.config.max_batch
    if len(asked) > limit:
        raise Problem(422, f"{len(asked)} recommendations in one call are too many; {limit} are allowed")
    filters = await _filters(served, asked)
    answers = (_recommend(served, one, where) for one, where in zip(asked, filters, strict=True))
    found = await asyncio.gather(*answers, return_exceptions=True)
    return answer({"answers": [_entry(one) for one in found]})


for path, function, incoming, outgoing in (
    ("/recommend", recommend, RecommendRequest, Recommendations),
    ("/recommend/batch", recommend_batch, BatchRequest, BatchAnswer),
):
    router.add_api_route(
        path,
        function,
        methods=["POST"],
        route_class_override=RawRoute,
        response_model=None,
        responses={200: {"model": outgoing}, **errors(404, 409, 413, 415)},
        openapi_extra=body(incoming),
    )


@router.get("/similar/{item:path}", responses={200: {"model": Neighbours}, **errors(404)}, response_model=None)
async def similar_items(request: Request, item: str, k: Annotated[int, Query(ge=1, le=MAX_K)] = 10) -> Response:
    """The items most similar to one, nearest first."""
    served = services(request)
    snapshot = await served.current()
    id, row = known_item(snapshot, item)
    near = await served.read(lambda: similar(snapshot, row, k))
    recommender = snapshot.recommender
    neighbours = [
        {"item": recommender.items.series[at], "similarity": value, "title": recommender.title(at)}
        for at, value in near
    ]
    return answer({"item": id, "title": recommender.title(row), "neighbours": neighbours})


@router.get("/explain", responses={200: {"model": ExplanationAnswer}, **errors(404, 409)}, response_model=None)
async def explain(request: Request, user: str, item: str, n_liked: Annotated[int, Query(ge=0, le=100)] = 5) -> Response:
    """Why an item suits a user: the parts of the score, and the liked items nearest to it."""
    served = services(request)
    snapshot = await served.current()
    _, row = known_item(snapshot, item)
    who = id_of(user, snapshot.recommender.users)
    return answer((await served.read(lambda: explained(snapshot, who, row, n_liked))).to_dict())


async def _recommend(served: Services, asked: RecommendRequest, where: Filter | LirdrecError | None) -> dict[str, Any]:
    if isinstance(where, LirdrecError):
        raise where
    query = batcher.Query(
        asked.user,
        asked.history,
        asked.k,
        asked.exclude_seen,
        where,
        asked.diversity,
        asked.branch_weights,
        asked.unknown,
        asked.parts,
    )
    ranked = await served.engine.recommend(query)
    pairs = zip(ranked.items, ranked.scores, strict=True)
    found: list[dict[str, Any]] = [{"item": item, "score": score} for item, score in pairs]
    if ranked.parts is not None:
        for one, parts in zip(found, ranked.parts, strict=True):
            one["parts"] = parts
    if asked.columns:
        _add_columns(served, found, asked.columns)
    value: dict[str, Any] = {"items": found}
    if ranked.fallback is not None:
        value["fallback"] = ranked.fallback
    return value


async def _filters(served: Services, asked: Sequence[RecommendRequest]) -> list[Filter | LirdrecError | None]:
    """The filters of requests; an error stands in the place of the filter that it belongs to.

    Many values are checked in a thread, so that others are answered meanwhile.
    """

    def made(one: RecommendRequest) -> Filter | LirdrecError | None:
        try:
            return None if one.filter is None else Filter.of(one.filter)
        except LirdrecError as error:
            return error

    if sum(_values(one.filter) for one in asked if one.filter is not None) > MANY_VALUES:
        return await served.read(lambda: [made(one) for one in asked])
    return [made(one) for one in asked]


def _values(conditions: dict[str, Any]) -> int:
    """How many values a filter compares with."""
    asked = (one for condition in conditions.values() for one in _given(condition))
    return sum(len(one) if isinstance(one, list) else 1 for one in asked)


def _given(condition: Any) -> Sequence[Any]:
    return list(condition.values()) if isinstance(condition, dict) else [condition]


def _add_columns(served: Services, found: list[dict[str, Any]], columns: list[str]) -> None:
    snapshot = served.live.snapshot
    table = snapshot.recommender.item_table
    if strange := [name for name in columns if name not in table.columns]:
        raise ConfigError(f"columns: there is no '{strange[0]}'; the item table has {', '.join(table.columns)}")
    rows = [snapshot.item_row(one["item"]) for one in found]
    there = [row for row in rows if row >= 0]  # a run that was changed meanwhile may lack one
    values = iter(table.select(columns)[there].to_dicts())
    for one, row in zip(found, rows, strict=True):
        one["columns"] = next(values) if row >= 0 else {}


def _entry(found: dict[str, Any] | BaseException) -> Any:
    if isinstance(found, dict):
        return found
    if isinstance(found, LirdrecError):
        found = Problem.of(found)
    if isinstance(found, Problem):
        return {"problem": found.value()}
    raise found
