"""Routes for recommendations: POST /recommend and /recommend/batch, GET /similar and /explain."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Query, Request, Response

from lirdrec.data.titles import column_named
from lirdrec.errors import ConfigError, LirdrecError
from lirdrec.ranking.item_filters import Filter
from lirdrec.recommender.new_item_encoder import NewItemPolicy
from lirdrec.server.catalog import explain as catalog
from lirdrec.server.engine import batcher
from lirdrec.server.http.errors import Problem
from lirdrec.server.request_models import MAX_K, BatchRequest, RecommendRequest
from lirdrec.server.response_models import BatchAnswer, ExplanationAnswer, Neighbors, Recommendations
from lirdrec.server.routes.common import (
    CurrentSnapshot,
    ServicesDep,
    answers,
    find_item,
    get_services,
    json_response,
    parse_body,
    parse_id,
    post,
)
from lirdrec.server.services import Services

router = APIRouter(tags=["recommend"])
MAX_INLINE_VALUES = 200  # most values of filters that are checked on the event loop, without a thread
MAX_SHARED_VALUES = 5000  # most values of filters that are checked while other large requests are checked
_QUERY_FIELDS = [field.name for field in fields(batcher.Query) if field.name not in ("where", "new_items")]


@post(router, "/recommend", RecommendRequest, Recommendations, 404, 409)
async def recommend(request: Request) -> Response:
    """Recommend the best items for a known user, or for a history of liked items."""
    services = get_services(request)
    parameters = await parse_body(request, RecommendRequest)
    (where,) = await _filters(services, [parameters])
    return json_response(await _recommend(services, parameters, where))


@post(router, "/recommend/batch", BatchRequest, BatchAnswer, 404, 409)
async def recommend_batch(request: Request) -> Response:
    """Answer several recommendation requests at once; an error of one does not affect the others."""
    services = get_services(request)
    requests = (await parse_body(request, BatchRequest)).requests
    limit = services.config.max_batch
    if len(requests) > limit:
        raise Problem(422, f"{len(requests)} recommendations in one request are too many; {limit} are allowed")
    filters = await _filters(services, requests)
    calls = (_recommend(services, parameters, where) for parameters, where in zip(requests, filters, strict=True))
    results = await asyncio.gather(*calls, return_exceptions=True)
    return json_response({"answers": [_entry(result) for result in results]})


@router.get("/similar/{item:path}", **answers(Neighbors, 404))
async def similar_items(
    services: ServicesDep, snapshot: CurrentSnapshot, item: str, k: Annotated[int, Query(ge=1, le=MAX_K)] = 10
) -> Response:
    """Find the items most similar to an item, best first."""
    id, row = find_item(snapshot, item)
    nearest = await services.read(lambda: catalog.similar_items(snapshot, row, k))
    recommender = snapshot.recommender
    neighbors = [
        {"item": recommender.items.series[near], "similarity": value, "title": recommender.title(near)}
        for near, value in nearest
    ]
    return json_response({"item": id, "title": recommender.title(row), "neighbors": neighbors})


@router.get("/explain", **answers(ExplanationAnswer, 404, 409))
async def explain(
    services: ServicesDep,
    snapshot: CurrentSnapshot,
    user: str,
    item: str,
    n_liked: Annotated[int, Query(ge=0, le=100)] = 5,
) -> Response:
    """Explain a recommendation: the parts of the score, and liked items of the user.

    These are the items most similar to the recommended item, or those with the largest effect on its score.
    """
    _, row = find_item(snapshot, item)
    id = parse_id(user, snapshot.recommender.users)
    return json_response((await services.read(lambda: catalog.explain(snapshot, id, row, n_liked))).to_dict())


async def _recommend(
    services: Services, parameters: RecommendRequest, where: Filter | LirdrecError | None
) -> dict[str, Any]:
    if isinstance(where, LirdrecError):
        raise where
    new = parameters.new_items
    policy = NewItemPolicy.parse(new if isinstance(new, str) else new.model_dump())
    same = {name: getattr(parameters, name) for name in _QUERY_FIELDS}
    query = batcher.Query(where=where, new_items=policy, **same)
    result = await services.engine.recommend(query)
    services.metrics.places.inc(len(result.items))
    services.metrics.new_places.inc(len(result.new))
    scored = zip(result.items, result.scores, strict=True)
    items: list[dict[str, Any]] = [{"item": item, "score": score} for item, score in scored]
    for position in result.new:
        items[position]["added"] = True
    if result.parts is not None:
        for item, parts in zip(items, result.parts, strict=True):
            item["parts"] = parts
    if parameters.columns:
        _add_columns(services, items, parameters.columns)
    return {"items": items} if result.fallback is None else {"items": items, "fallback": result.fallback}


async def _filters(services: Services, requests: Sequence[RecommendRequest]) -> list[Filter | LirdrecError | None]:
    """Return the checked filter of each request: None if it has none, the error if the filter is not valid.

    If the filters have many values, they are checked in a thread, so that other requests are answered meanwhile.
    """

    def parse(conditions: dict[str, Any] | None) -> Filter | LirdrecError | None:
        try:
            return None if conditions is None else Filter.parse(conditions)
        except LirdrecError as error:
            return error

    filters = [request.filter for request in requests]
    conditions = [condition for filter in filters if filter is not None for condition in filter.values()]
    operands = [operand for condition in conditions if isinstance(condition, dict) for operand in condition.values()]
    n_values = len(conditions) + sum(len(operand) if isinstance(operand, list) else 1 for operand in operands)
    if n_values > MAX_INLINE_VALUES:
        read = services.read_large if n_values > MAX_SHARED_VALUES else services.read
        return await read(lambda: [parse(conditions) for conditions in filters])
    return [parse(conditions) for conditions in filters]


def _add_columns(services: Services, items: list[dict[str, Any]], columns: list[str]) -> None:
    snapshot = services.live.snapshot
    table = snapshot.recommender.item_table
    found = {name: column_named(name, table) for name in columns}
    if unknown := [name for name, column in found.items() if column is None]:
        raise ConfigError(f"columns: there is no column '{unknown[0]}'; the item table has {', '.join(table.columns)}")
    rows = [snapshot.item_row(item["item"]) for item in items]
    present = [row for row in rows if row >= 0]  # after a change of the run an item may be missing
    values = iter(table.select(pl.col(str(column)).alias(name) for name, column in found.items())[present].to_dicts())
    for item, row in zip(items, rows, strict=True):
        item["columns"] = next(values) if row >= 0 else {}


def _entry(result: dict[str, Any] | BaseException) -> dict[str, Any]:
    if isinstance(result, LirdrecError):
        result = Problem.from_error(result)
    if isinstance(result, Problem):
        return {"problem": result.value()}
    if isinstance(result, BaseException):
        raise result
    return result
