"""Routes for operations: GET /health, /ready, /metrics and /model; POST /model."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from lirdrec._version import __version__
from lirdrec.data.column_names import ITEM
from lirdrec.models.registry import model_type
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.server.http.errors import Problem, redact
from lirdrec.server.http.openapi import errors
from lirdrec.server.request_models import SwapRequest
from lirdrec.server.response_models import ModelAnswer, Status
from lirdrec.server.routes.common import (
    CurrentSnapshot,
    ServicesDep,
    answers,
    get_services,
    json_response,
    parse_body,
    post,
)
from lirdrec.server.run_pointer import allowed_run
from lirdrec.server.services import Services
from lirdrec.server.snapshot import Snapshot

router = APIRouter(tags=["operations"])


@router.get("/health", **answers(Status))
async def health(services: ServicesDep) -> Response:
    """Tell whether the process is alive: 200; or 503 if the server could not start and should be restarted."""
    if services.failure is not None:
        raise services.unready()
    return json_response({"status": "ok"})


@router.get("/ready", **answers(Status))
async def ready(_: CurrentSnapshot) -> Response:
    """Tell whether the server can answer requests: 200 if the run and all changes in the store are loaded, else 503."""
    return json_response({"status": "ready"})


@router.get(
    "/metrics",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors()},
    response_class=Response,
)
async def metrics(services: ServicesDep) -> Response:
    """Return the Prometheus metrics of all workers."""
    live = services.live if services.is_open else None
    return Response(await services.read(lambda: services.metrics.text(live)), media_type=CONTENT_TYPE_LATEST)


@router.get("/model", **answers(ModelAnswer))
async def model(services: ServicesDep, snapshot: CurrentSnapshot) -> Response:
    """Describe the served run: its model, its sizes, and its columns, features and parts of the score."""
    return json_response(await services.read(lambda: _describe(services, snapshot)))


@post(router, "/model", SwapRequest, ModelAnswer, 404, 409)
async def swap(request: Request) -> Response:
    """Serve another run from now on, without dropping a request; other workers follow within about a second."""
    services = get_services(request)
    name = (await parse_body(request, SwapRequest)).run
    folder = services.config.runs
    if folder is None:
        raise Problem(
            409,
            "this server does not change its run: start it with --runs-dir FOLDER to allow POST /model",
        )
    run = await services.read(lambda: allowed_run(name, folder))
    await services.swap(run)
    snapshot = await services.current()
    return json_response(await services.read(lambda: _describe(services, snapshot)))


def _redacted(texts: Mapping[str, str]) -> dict[str, str]:
    return {name: redact(text) for name, text in texts.items()}


def _describe(services: Services, snapshot: Snapshot) -> dict[str, object]:
    recommender = snapshot.recommender
    capabilities, encoder = None, recommender.new_item_encoder
    if not recommender.is_slim and recommender.has_model:
        capabilities = model_type(recommender.info["model"]).capabilities
    return {
        "run": snapshot.run.name,
        "model": recommender.info.get("model"),
        "dataset": recommender.info.get("dataset"),
        "version": __version__,
        "users": recommender.n_users,
        "items": snapshot.n_available,
        "added": recommender.n_items - recommender.n_trained_items,
        "removed": len(snapshot.removed_rows),
        "change": snapshot.number,
        "user_ids": "integer" if recommender.users.is_integer else "text",
        "item_ids": "integer" if recommender.items.is_integer else "text",
        "parts": list(recommender.scorer.branch_names),
        "features": {name: matrix.dims for name, matrix in snapshot.trained_features.items()},
        "encoders": {} if services.encoders is None else services.encoders.kinds,
        "encoder_faults": {} if services.encoders is None else _redacted(services.encoders.reasons),
        "loading": services.encoders is None,
        "columns": {name: str(kind) for name, kind in recommender.item_table.schema.items() if name != ITEM},
        "new_items": capabilities is not None and capabilities.cold_items,
        "new_users": capabilities is not None and capabilities.new_users,
        "boost": bool(encoder is not None and encoder.frontier) and isinstance(recommender.scorer, VectorScorer),
        "exposure": services.metrics.exposure(),
    }
