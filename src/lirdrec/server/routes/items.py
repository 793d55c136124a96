"""Routes to add, read and remove items: POST /items, GET and DELETE /items/{item}."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import polars as pl
from fastapi import APIRouter, Request, Response
from starlette.datastructures import UploadFile

from lirdrec.data.column_names import ITEM
from lirdrec.data.titles import column_named
from lirdrec.errors import ConfigError, DataError, UnknownIdError
from lirdrec.server.catalog.images import sanitized_image
from lirdrec.server.catalog.item_encoding import Encoders
from lirdrec.server.http.errors import Problem
from lirdrec.server.request_models import MAX_COLUMNS, ItemIn, ItemsRequest
from lirdrec.server.response_models import Changed, ItemAnswer
from lirdrec.server.routes.common import (
    BodyCounter,
    CurrentSnapshot,
    ServicesDep,
    answers,
    describe_item,
    find_item,
    get_services,
    json_response,
    parse_body,
    parse_id,
    post,
)
from lirdrec.server.services import Services
from lirdrec.server.store import ConflictError, NewItem

router = APIRouter(tags=["items"])

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_FORM = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "string", "description": "The new item's id."},
        "image": {"type": "string", "format": "binary", "description": "A JPEG, PNG or WebP."},
        "features": {"type": "string", "description": "JSON: name → vector; the server encodes missing vectors."},
    },
    "additionalProperties": {"type": "string", "description": "A column of the item table."},
}


@post(router, "/items", ItemsRequest, Changed, 400, 409, success=201, **{"multipart/form-data": _FORM})
async def add_items(request: Request) -> Response:
    """Add items. When the response arrives they are stored durably; the next request can recommend them.

    JSON adds several items with columns and vectors. A form adds one item, which may have an image. Vectors that the
    server can encode from the columns or the image can be left out.
    """
    services = get_services(request)
    live = services.live
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        item, upload = await _from_form(request, services)
        items, uploads = [item], [upload]
    else:
        table = live.snapshot.recommender.item_table
        items = [
            item.model_copy(update={"columns": _named_columns(item.columns, table)})
            for item in (await parse_body(request, ItemsRequest)).items
        ]
        uploads = [None] * len(items)

    def add() -> dict[str, Any]:
        max_pixels = services.config.max_pixels
        images = [None if upload is None else sanitized_image(upload, max_pixels) for upload in uploads]
        sent = [
            NewItem(item.id, item.columns, _vectors(item), upload) for item, upload in zip(items, uploads, strict=True)
        ]
        new, encoded = _with_encoded(services, sent)
        new = [replace(item, image=image) for item, image in zip(new, images, strict=True)]
        return {"change": live.add_items(new).number, "items": [item.id for item in items], "encoded": encoded}

    return json_response(await services.write(add), 201)


@router.delete("/items/{item:path}", **answers(Changed, 404, 409))
async def remove_item(services: ServicesDep, item: str) -> Response:
    """Stop recommending an item of the run, or an added item."""
    live = services.live
    id = parse_id(item, live.snapshot.recommender.items)
    try:
        snapshot = await services.write(lambda: live.remove_item(id))
    except ConflictError:
        raise UnknownIdError(f"no item has the id {id!r}") from None
    return json_response({"change": snapshot.number, "items": [id]})


@router.get("/items/{item:path}", **answers(ItemAnswer, 404))
async def one_item(snapshot: CurrentSnapshot, item: str) -> Response:
    """Return an item and its columns."""
    _, row = find_item(snapshot, item)
    return json_response(describe_item(snapshot, row))


async def _from_form(request: Request, services: Services) -> tuple[ItemIn, bytes | None]:
    """Return the item of a form, and the bytes of its image; None without an image."""
    async with request.form(max_files=1, max_fields=MAX_COLUMNS, max_part_size=services.config.max_body_bytes) as form:
        columns: dict[str, Any] = {}
        upload: bytes | None = None
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "image":
                    raise Problem(422, f"the form's field '{name}' is a file; only the field 'image' may be a file")
                upload = await value.read()
            elif name in columns:
                raise Problem(422, f"the form's field '{name}' occurs twice")
            else:
                columns[name] = value
    if "id" not in columns:
        raise Problem(422, "the form has no field 'id'")
    recommender = services.live.snapshot.recommender
    if "image" in columns and "image" not in recommender.item_table.columns:
        raise Problem(422, "the form's field 'image' must be a file")
    try:
        id = parse_id(columns.pop("id"), recommender.items)
    except UnknownIdError:
        raise Problem(422, "the form's field 'id' must be an integer, as the item ids of this run are") from None
    features = columns.pop("features", "{}").encode()
    counter = BodyCounter(ItemIn)
    counter.add(features)
    counter.check_keys(features)
    try:
        vectors = orjson.loads(features)
    except orjson.JSONDecodeError:
        raise Problem(422, "the form's field 'features' is not JSON; send an object: name → vector") from None
    schema = recommender.item_table.schema
    values = {
        name: _typed(text, schema.get(name), name)
        for name, text in _named_columns(columns, recommender.item_table).items()
    }
    return ItemIn.model_validate({"id": id, "columns": values, "features": vectors}), upload


def _named_columns(columns: Mapping[str, Any], table: pl.DataFrame) -> dict[str, Any]:
    """Return the columns of an item by their names in the item table, where `title` may have another name."""
    named: dict[str, Any] = {}
    for name, value in columns.items():
        column = column_named(name, table) or name
        if column in named:
            raise Problem(422, f"the columns 'title' and '{column}' are the same; give only one of them")
        named[column] = value
    return named


def _typed(text: str, kind: pl.DataType | None, name: str) -> Any:
    """Convert a field of a form to a value of its column; None if the field is empty.

    A number is only checked: it stays a text until the item is added.
    """
    if not text.strip():
        return None
    if kind == pl.Boolean:
        if text.lower() not in _BOOLEANS:
            raise Problem(422, f"the form's field '{name}' must be true or false")
        return _BOOLEANS[text.lower()]
    if isinstance(kind, pl.List):
        return [value.strip() for value in text.split(",")]
    if kind is not None and kind.is_numeric():
        try:
            float(text)
        except ValueError:
            raise Problem(422, f"the form's field '{name}' must be a number, not {text[:40]!r}") from None
    return text


def _vectors(item: ItemIn) -> dict[str, np.ndarray]:
    """Return the vectors that were sent with an item, as float32: name of features → vector `(d,)`."""
    if ITEM in item.columns:
        raise DataError(f"the column '{ITEM}' has the ids of the items; send the id as 'id' only, not as a column")
    with np.errstate(over="ignore"):
        vectors = {name: np.asarray(row, dtype=np.float32) for name, row in item.features.items()}
    for name, row in vectors.items():
        if not np.isfinite(row).all():
            raise DataError(f"item {item.id!r}: the vector '{name}' has a number that is too large for 32 bits")
    return vectors


def _with_encoded(services: Services, items: list[NewItem]) -> tuple[list[NewItem], list[str]]:
    """Add the missing vectors that the server can encode.

    Returns:
        The items with their vectors, and the names of the features that were encoded.

    Raises:
        ConfigError: an item has no vector after that.
        Problem: an item lacks a vector while the encoders are still being loaded (503).
    """
    encoders = services.encoders
    if encoders is None:  # it is not known yet which vectors they will make
        names = services.live.snapshot.trained_features.keys()
        if all(item.features and item.features.keys() >= names for item in items):
            return items, []
        wanted = ", ".join(f"'{name}'" for name in names)
        raise Problem(
            503,
            f"the encoders are still being loaded; try again in a moment, or send all vectors ({wanted})",
            {"Retry-After": "5"},
        )
    encoded: list[str] = []
    for name in encoders.kinds:
        missing = [index for index, item in enumerate(items) if name not in item.features]
        rows = encoders.encode(name, [items[index] for index in missing]) if missing else []
        for index, vector in zip(missing, rows, strict=True):
            if vector is not None:
                items[index] = replace(items[index], features={**items[index].features, name: vector})
        if any(vector is not None for vector in rows):
            encoded.append(name)
    for item in items:
        if not item.features:
            raise ConfigError(_without_vector(services, encoders, item.id))
    return items, encoded


def _without_vector(services: Services, encoders: Encoders, id: Any) -> str:
    """Return the error message for an item without any vector."""
    trained = services.live.snapshot.trained_features
    names = ", ".join(f"'{name}' ({matrix.dims})" for name, matrix in trained.items()) or "none"
    start = f"item {id!r} has no vector: send features ({names})"
    if encoders.kinds:
        kinds = ", ".join(f"{kind} for '{name}'" for name, kind in encoders.kinds.items())
        return f"{start}, or what the server can encode, {kinds}"
    if not services.config.encoders:
        return f"{start}, or start the server with --encoders, if the dataset's features were made by lirdrec"
    return f"{start}; the server cannot encode: {'; '.join(encoders.reasons.values()) or 'the log has the reason'}"
