"""POST /items, GET and DELETE /items/{id}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import polars as pl
from fastapi import APIRouter, Request, Response
from starlette.datastructures import UploadFile

from lirdrec.data.schema import ITEM
from lirdrec.errors import ConfigError, DataError, UnknownIdError
from lirdrec.server.catalog.images import checked_picture
from lirdrec.server.catalog.item_encoding import Draft, Encoders
from lirdrec.server.dependencies import Services
from lirdrec.server.http.errors import Problem
from lirdrec.server.http.openapi import body, errors
from lirdrec.server.routes.common import Amount, RawRoute, answer, id_of, known_item, parsed, services
from lirdrec.server.schemas import MAX_COLUMNS, Changed, ItemAnswer, ItemIn, ItemsRequest
from lirdrec.server.store import ConflictError, NewItem

router = APIRouter(tags=["items"])

_YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_FORM = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "string", "description": "The new item's id."},
        "picture": {"type": "string", "format": "binary", "description": "A JPEG, PNG or WebP."},
        "features": {"type": "string", "description": "JSON: name → vector, for what the server shall not encode."},
    },
    "additionalProperties": {"type": "string", "description": "A column of the item table."},
}


async def add_items(request: Request) -> Response:
    """Add items; they are durable when this answers, and recommended from the next call on.

    JSON brings several items with vectors. A form brings one with columns, a picture, or both. What the server has
    encoders for need not be given as a vector.
    """
    served = services(request)
    live = served.live
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        item, picture = await _from_form(request, served)
        asked, pictures = [item], [picture]
    else:
        asked = (await parsed(request, ItemsRequest)).items
        pictures = [None] * len(asked)

    def add() -> dict[str, Any]:
        small = [None if one is None else checked_picture(one, served.config.max_pixels) for one in pictures]
        vectors, encoded = _with_vectors(served, asked, pictures)
        snapshot = live.add_items(
            [
                NewItem(one.id, one.columns, features, picture)
                for one, features, picture in zip(asked, vectors, small, strict=True)
            ]
        )
        return {"change": snapshot.number, "items": [one.id for one in asked], "encoded": encoded}

    return answer(await served.write(add), 201)


router.add_api_route(
    "/items",
    add_items,
    methods=["POST"],
    status_code=201,
    route_class_override=RawRoute,
    response_model=None,
    responses={201: {"model": Changed}, **errors(400, 409, 413, 415)},
    openapi_extra=body(ItemsRequest, **{"multipart/form-data": _FORM}),
)


@router.delete("/items/{item:path}", responses={200: {"model": Changed}, **errors(404, 409)}, response_model=None)
async def remove_item(request: Request, item: str) -> Response:
    """Recommend an item no more, whether it was trained with or added."""
    served = services(request)
    live = served.live
    id = id_of(item, live.snapshot.recommender.items)
    try:
        snapshot = await served.write(lambda: live.remove_item(id))
    except ConflictError:
        raise UnknownIdError(f"no item has the id {id!r}") from None
    return answer({"change": snapshot.number, "items": [id]})


@router.get("/items/{item:path}", responses={200: {"model": ItemAnswer}, **errors(404)}, response_model=None)
async def one_item(request: Request, item: str) -> Response:
    """What is known of an item."""
    snapshot = await services(request).current()
    recommender = snapshot.recommender
    id, row = known_item(snapshot, item)
    columns = recommender.item_table.row(row, named=True)
    del columns[ITEM]
    added = row >= recommender.n_trained_items
    return answer({"item": id, "title": recommender.title(row), "columns": columns, "added": added})


async def _from_form(request: Request, served: Services) -> tuple[ItemIn, bytes | None]:
    """The item of a form, and its picture."""
    async with request.form(max_files=1, max_fields=MAX_COLUMNS, max_part_size=served.config.max_body_bytes) as form:
        columns: dict[str, Any] = {}
        picture: bytes | None = None
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "picture":
                    raise Problem(422, f"the form's field '{name}' is a file; only 'picture' may be one")
                picture = await value.read()
            elif name in columns:
                raise Problem(422, f"the form's field '{name}' comes twice")
            else:
                columns[name] = value
    if "id" not in columns:
        raise Problem(422, "the form has no field 'id'")
    if "picture" in columns:
        raise Problem(422, "the form's field 'picture' must be a file")
    recommender = served.live.snapshot.recommender
    try:
        id = id_of(columns.pop("id"), recommender.items)
    except UnknownIdError:
        raise Problem(422, "the form's field 'id' must be a whole number, as the item ids of this run are") from None
    features = columns.pop("features", None)
    if features is not None:
        amount, content = Amount(ItemIn), features.encode()
        amount.add(content)
        amount.check_keys(content)
    try:
        vectors = {} if features is None else orjson.loads(features)
    except orjson.JSONDecodeError:
        raise Problem(422, "the form's field 'features' is not JSON") from None
    schema = recommender.item_table.schema
    values = {name: _typed(text, schema.get(name), name) for name, text in columns.items()}
    return ItemIn.model_validate({"id": id, "columns": values, "features": vectors}), picture


def _typed(text: str, kind: pl.DataType | None, name: str) -> Any:
    """A field of a form as a value of its column; numbers are read where the item is added."""
    if not text.strip():
        return None
    if kind == pl.Boolean:
        if text.lower() not in _YES_NO:
            raise Problem(422, f"the form's field '{name}' must be true or false")
        return _YES_NO[text.lower()]
    if isinstance(kind, pl.List):
        return [part.strip() for part in text.split(",")]
    return text


def _with_vectors(
    served: Services, asked: Sequence[ItemIn], pictures: Sequence[bytes | None]
) -> tuple[list[dict[str, np.ndarray]], list[str]]:
    """The vectors of each item, those that the server can make included, and the names of what it made."""
    if any(ITEM in one.columns for one in asked):
        raise DataError(f"the column '{ITEM}' is the id; give it as 'id' only")
    with np.errstate(over="ignore"):  # told below, with the item's id
        given = [{name: np.asarray(row, dtype=np.float32) for name, row in one.features.items()} for one in asked]
    for one, vectors in zip(asked, given, strict=True):
        for name, row in vectors.items():
            if not np.isfinite(row).all():
                raise DataError(f"item {one.id!r}: '{name}' has a value that is too large")
    encoded: list[str] = []
    encoders = served.encoders
    if encoders is None:
        if all(given):
            return given, encoded
        raise Problem(503, "the encoders are still being loaded; ask again in a moment", {"Retry-After": "5"})
    drafts = [Draft(one.columns, picture) for one, picture in zip(asked, pictures, strict=True)]
    for name in encoders.kinds:
        lacking = [place for place, vectors in enumerate(given) if name not in vectors]
        made = encoders.encode(name, [drafts[place] for place in lacking]) if lacking else []
        for place, vector in zip(lacking, made, strict=True):
            if vector is not None:
                given[place][name] = vector
        if any(vector is not None for vector in made):
            encoded.append(name)
    for one, vectors in zip(asked, given, strict=True):
        if not vectors:
            raise ConfigError(_nothing(served, encoders, one.id))
    return given, encoded


def _nothing(served: Services, encoders: Encoders, id: Any) -> str:
    """What to do about an item without any vector."""
    features = served.live.snapshot.recommender.features
    trained: Mapping[str, Any] = {} if features is None or features.trained is None else features.trained
    wanted = ", ".join(f"'{name}' ({matrix.dims})" for name, matrix in trained.items()) or "none"
    start = f"item {id!r} has no vector: send features ({wanted})"
    if encoders.kinds:
        kinds = ", ".join(f"{kind} for '{name}'" for name, kind in encoders.kinds.items())
        return f"{start}, or what the server can encode: {kinds}"
    if not served.config.encoders:
        return f"{start}, or start the server with --encoders, if the dataset's features were made by lirdrec"
    return f"{start}; the server cannot encode: {'; '.join(encoders.reasons.values()) or 'the log tells why'}"
