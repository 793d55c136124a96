"""Titles and images from clients: encoded as the dataset's were, or refused with a reason."""

from __future__ import annotations

import io
import json
import shutil
import struct
import threading
import zlib

import pytest
from PIL import Image

from lirdrec.errors import DataError
from lirdrec.recommender.run_folder import rewrite, write_json
from lirdrec.server.catalog.item_encoding import Encoders

from ..helpers import assert_mentions
from .runs import COLORS, asked, image, vectors


@pytest.fixture
def encoding(start):
    """A server that encodes titles and images."""
    client = start(encoders=True)
    while len(client.get("/model").json()["encoders"]) < 2:
        pass
    return client


def test_a_title_and_an_image_are_enough(encoding, recommender):
    """The words and colors of a lamp: its neighbors are lamps, and who likes lamps gets it."""
    answer = encoding.post(
        "/items",
        data={"id": "900", "title": "large lamp number 3", "price": "12.5", "in_stock": "true"},
        files={"image": ("front.png", image("lamp", 99), "image/png")},
    )
    assert answer.status_code == 201 and set(answer.json()["encoded"]) == {"text", "image"}, answer.text
    near = [one["item"] for one in encoding.get("/similar/900?k=5").json()["neighbors"]]
    assert {one // 100 for one in near} == {1}
    assert 900 in asked(encoding, user=0, k=5)
    assert encoding.get("/items/900").json()["columns"]["price"] == 12.5
    shown = encoding.get("/items/900/image")
    assert shown.headers["content-type"] == "image/jpeg"
    color = Image.open(io.BytesIO(shown.content)).resize((1, 1)).getpixel((0, 0))
    assert max(abs(a - b) for a, b in zip(color, COLORS["lamp"], strict=True)) < 12


def test_what_is_encoded_is_what_the_dataset_holds(encoding, start, recommender, shop, tmp_path):
    """The title and the image of a trained item give its vectors again."""
    row = recommender.item_table.row(7, named=True)
    content = (shop.parent / "images" / row["image"]).read_bytes()
    columns = {name: row[name] for name in ("title", "kind")}
    files = {"image": ("a.png", content, "image/png")}
    assert encoding.post("/items", data={"id": "900"} | columns, files=files).status_code == 201
    other = start(store=f"sqlite:///{tmp_path / 'other.sqlite'}")
    other.post("/items", json={"items": [{"id": 900, "features": vectors(recommender, row["item"])}]})
    scores = []
    for client in (encoding, other):
        items = client.post("/recommend", json={"user": 0, "k": 50, "exclude_seen": False}).json()["items"]
        scores.append({one["item"]: one["score"] for one in items}[900])
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_json_items_are_encoded_by_their_columns(encoding):
    items = [{"id": 900 + n, "columns": {"title": f"old {kind}"}} for n, kind in enumerate(("tent", "cup"))]
    assert encoding.post("/items", json={"items": items}).json()["encoded"] == ["text"]
    for user, id in ((1, 900), (3, 901)):
        assert id in asked(encoding, user=user, k=8)


def test_while_encoders_load_vectors_are_taken_and_titles_put_off(start, recommender, monkeypatch):
    loading, proceed = threading.Event(), threading.Event()
    load = Encoders.load

    def slowly(*arguments):
        loading.set()
        proceed.wait()
        return load(*arguments)

    monkeypatch.setattr(Encoders, "load", slowly)
    client = start(encoders=True)
    loading.wait()
    assert client.get("/ready").status_code == 200 and client.get("/model").json()["loading"] is True
    title = {"items": [{"id": 900, "columns": {"title": "an old lamp"}}]}
    image_only = {"image": vectors(recommender, 102)["image"]}
    partial = {"items": [{"id": 902, "columns": {"title": "an old lamp"}, "features": image_only}]}
    given = {"items": [{"id": 901, "features": vectors(recommender, 101)}]}
    early = [client.post("/items", json=items) for items in (title, partial, given)]
    proceed.set()  # before anything can fail, since the server waits for it at its end
    for answer in early[:2]:
        assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
        assert_mentions(answer.json()["detail"], ["encoders", "'image'", "'text'"])
    assert early[2].status_code == 201
    while (answer := client.post("/items", json=title)).status_code == 503:
        pass
    assert answer.status_code == 201 and client.get("/model").json()["loading"] is False
    assert client.post("/items", json=partial).json()["encoded"] == ["text"]


def test_after_an_error_of_the_encoders_vectors_are_taken(start, recommender, monkeypatch):
    def broken(*_):
        raise DataError("no encoders")

    monkeypatch.setattr(Encoders, "load", broken)
    client = start(encoders=True)
    some = {"items": [{"id": 900, "features": {"text": vectors(recommender, 101)["text"]}}]}
    while (answer := client.post("/items", json=some)).status_code == 503:
        pass
    assert answer.status_code == 201


def test_encoders_that_cannot_be_loaded_are_reported(start, recommender, shop, tmp_path):
    moved = recommender.save(tmp_path / "run")
    shutil.copytree(shop.parent / "data", tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    manifest["info"]["encoders"] = {}
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    reported = json.loads((moved / "features.json").read_text())
    reported["dataset"] |= {"relative": "../data"}
    rewrite(moved, {"features.json": lambda path: write_json(path, reported)})
    client = start(run=str(moved), encoders=True)
    title = {"items": [{"id": 900, "columns": {"title": "an old lamp"}}]}
    while (answer := client.post("/items", json=title)).status_code == 503:
        pass
    assert answer.status_code == 422 and "'text'" in answer.json()["detail"]


def test_without_encoders_the_answer_says_what_to_do(client):
    answer = client.post("/items", data={"id": "900", "title": "a lamp"}, files={"image": image("lamp", 1)})
    assert answer.status_code == 422
    assert_mentions(answer.json()["detail"], ["'image' (496)", "'text' (18)", "--encoders"])


def test_vectors_in_a_form(client, recommender):
    features = json.dumps(vectors(recommender, 105))
    answer = client.post("/items", data={"id": "900", "features": features}, files={"image": image("tent", 1)})
    assert answer.status_code == 201
    assert client.get("/items/900/image").headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_are_known_by_their_content(client, recommender, kind):
    features = json.dumps(vectors(recommender, 105))
    files = {"image": ("image.txt", image("cup", 1, form=kind), "text/plain")}
    assert client.post("/items", data={"id": "900", "features": features}, files=files).status_code == 201


def bomb():
    """A PNG of 60,000 × 60,000 pixels in a few hundred bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


BAD = {
    "empty": b"",
    "text": b"hello",
    "page": b"<!doctype html><script>alert(1)</script>",
    "drawing": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "gif": image("cup", 1, form="GIF"),
    "bmp": image("cup", 1, form="BMP"),
    "cut": image("cup", 1, form="JPEG")[:400],
    "noise behind a head": b"\xff\xd8\xff" + b"\x01" * 300,
    "bomb": bomb(),
    "no webp": b"RIFF\x00\x00\x00\x00WEBPVP8 " + b"\x00" * 40,
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_image_is_refused_and_nothing_is_kept(client, recommender, what):
    features = json.dumps(vectors(recommender, 105))
    files = {"image": ("x.png", BAD[what], "image/png")}
    answer = client.post("/items", data={"id": "900", "features": features}, files=files)
    assert answer.status_code == 422, answer.text
    assert "Traceback" not in answer.text and answer.json()["detail"]
    assert client.get("/items/900").status_code == 404


def test_the_pixel_limit_is_the_configurations(start, recommender):
    client = start(max_pixels=40 * 40)
    features = json.dumps(vectors(recommender, 105))
    for size, status in ((40, 201), (41, 422)):
        files = {"image": image("boot", 1, size=size)}
        assert (
            client.post("/items", data={"id": str(900 + size), "features": features}, files=files).status_code == status
        )


def test_a_kept_image_carries_nothing_of_the_upload(client, recommender):
    """The place of a photograph is private, and a file must have one format only."""
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    content = image("lamp", 3, form="JPEG", exif=exif.tobytes()) + b"<script>alert(1)</script>"
    features = json.dumps(vectors(recommender, 105))
    assert client.post("/items", data={"id": "900", "features": features}, files={"image": content}).status_code == 201
    shown = client.get("/items/900/image").content
    assert b"taken at home" in content and b"taken at home" not in shown and b"script" not in shown


@pytest.mark.parametrize(
    ("data", "files", "facts"),
    [
        ({"title": "a lamp"}, {"image": image("lamp", 1)}, ["'id'"]),
        ({"id": "900"}, {"photo": image("lamp", 1)}, ["'photo'", "'image'"]),
        ({"id": "900", "image": "x"}, {"other": b""}, ["'other'"]),
        ({"id": "900", "features": "{"}, {"image": image("lamp", 1)}, ["features", "JSON"]),
        ({"id": "900", "features": "[1]"}, {"image": image("lamp", 1)}, ["features"]),
        ({"id": "900", "features": '{"text": ["a"]}'}, {"image": image("lamp", 1)}, ["features.text"]),
        ({"id": "900", "title": ["a", "b"]}, {"image": image("lamp", 1)}, ["'title'"]),
        ({"id": "900", "colour": "red", "features": '{"text": [1]}'}, {"image": image("lamp", 1)}, ["colour"]),
        ({"id": "900", "in_stock": "maybe"}, {"image": image("lamp", 1)}, ["'in_stock'"]),
        (
            {"id": "900", "price": "much", "features": json.dumps({"text": [0.1] * 18})},
            {"image": image("lamp", 1)},
            ["price"],
        ),
    ],
)
def test_forms_that_do_not_fit(client, data, files, facts):
    answer = client.post("/items", data=data, files=files)
    assert answer.status_code == 422
    assert_mentions(answer.text, facts)


def test_an_id_of_a_form_that_cannot_be_one(client):
    answer = client.post("/items", data={"id": "lamp"}, files={"image": image("lamp", 1)})
    assert answer.status_code == 422 and "'id'" in answer.json()["detail"]


def test_damaged_multipart_is_refused(client):
    for content in (b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--", b"\x00" * 100):
        answer = client.post("/items", content=content, headers={"Content-Type": "multipart/form-data; boundary=x"})
        assert answer.status_code in (400, 422), (content, answer.text)
    answer = client.post("/items", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert answer.status_code in (400, 415, 422)


def test_a_field_of_the_form_may_be_the_column_of_images_and_numbers_are_numbers(client, recommender):
    features = json.dumps(vectors(recommender, 101))
    form = {"id": "900", "image": "front.png", "features": features}
    answer = client.post("/items", files={name: (None, value) for name, value in form.items()})
    assert answer.status_code == 201 and client.get("/items/900").json()["columns"]["image"] == "front.png"
    form = {"id": "901", "price": "cheap", "features": features}
    answer = client.post("/items", files={name: (None, value) for name, value in form.items()})
    assert answer.status_code == 422
    assert_mentions(answer.text, ["'price'", "'cheap'"])


def test_title_names_the_column_of_titles(start, recommender, tmp_path):
    recommender.item_table = recommender.item_table.rename({"title": "product_name"})
    client = start(run=str(recommender.save(tmp_path / "named")))
    features = vectors(recommender, 101)
    body = {"items": [{"id": 900, "columns": {"title": "red lamp"}, "features": features}]}
    assert client.post("/items", json=body).status_code == 201
    form = {"id": "901", "title": "blue lamp", "features": json.dumps(features)}
    assert client.post("/items", data=form, files={"image": image("lamp", 1)}).status_code == 201
    for id, title in ((900, "red lamp"), (901, "blue lamp")):
        found = client.get(f"/items/{id}").json()
        assert (found["title"], found["columns"]["product_name"]) == (title, title)
    both = {"id": 902, "columns": {"title": "a", "product_name": "b"}, "features": features}
    answer = client.post("/items", json={"items": [both]})
    assert answer.status_code == 422
    assert_mentions(answer.text, ["title", "product_name"])
