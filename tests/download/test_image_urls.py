"""Images by their addresses, from a server that misbehaves: what is there is right, the rest is listed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from lirdrec.cli import download as command
from lirdrec.data import Dataset
from lirdrec.download.image_urls import PROBLEMS, download_images
from lirdrec.errors import ConfigError, DataError

from ..features.broken_images import encoded
from ..helpers import assert_error
from .bad_host import INSIDE, Host

FORMS = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tiff"}
IMAGE = encoded(Image.new("RGB", (64, 48), (200, 30, 30)), "JPEG")


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        for form, suffix in FORMS.items():
            host.files[f"/{form}"] = encoded(Image.new("RGB", (64, 48), (200, 30, 30)), form)
            assert len(host.files[f"/{form}"]) > 64 and suffix
        yield host


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    pl.DataFrame(rows, schema=["item", "image_url"], orient="row").write_csv(path)
    return path


def test_each_image_has_the_name_of_its_item(host, tmp_path):
    rows = [(form, host.url(f"/{form}")) for form in FORMS] + [("none", "")]
    made = download_images(write(tmp_path / "a.csv", rows), tmp_path / "images", network=host.network)
    assert (made.fetched, made.existing, made.missing, made.problems) == (6, 0, 1, [])
    found = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    assert found == {f"{form}{suffix}": host.files[f"/{form}"] for form, suffix in FORMS.items()}
    again = download_images(tmp_path / "a.csv", tmp_path / "images", network=host.network)
    assert (again.fetched, again.existing, len(host.requests)) == (0, 6, 6)


def test_a_server_that_misbehaves(host, tmp_path):
    passing = {"short": ["short"], "drop": ["drop", "drop"], "late": ["500", "503", "429"]}
    refused = {
        **{"missing": "404", "dead": "500", "page": "html", "endless": "endless", "large": "large", "gzip": "gzip"},
        **{
            "loop": "to:/loop",
            "inside": "to:http://inside.test/x",
            "meta": "to:http://169.254.169.254/latest/meta-data",
        },
    }
    for name, script in passing.items():
        host.files[f"/{name}"], host.script[f"/{name}"] = IMAGE, list(script)
    for name, deed in refused.items():
        host.files[f"/{name}"], host.always[f"/{name}"] = IMAGE, deed
    host.files["/text"] = b"not an image, but a text that is long enough to be looked at by its first bytes"
    host.files["/script"] = b"<svg xmlns='http://www.w3.org/2000/svg'></svg>"
    host.files["/empty"] = b""
    host.files["/big"] = IMAGE + bytes(100_000)
    rows = [(name, host.url(f"/{name}")) for name in (*passing, *refused, "text", "script", "empty", "big")]
    rows += [("private", "http://inside.test/a.jpg"), ("number", "http://167772165/a"), ("file", "file:///etc/hosts")]
    rows += [(name, host.url("/short")) for name in ("a/b", "..", ".hidden", "x" * 300)]
    made = download_images(
        write(tmp_path / "a.csv", rows), tmp_path / "images", network=host.network, max_bytes=50_000, concurrency=3
    )
    kept = {path.name for path in (tmp_path / "images").iterdir()} - {PROBLEMS}
    assert kept == {f"{name}.jpg" for name in passing}
    assert all((tmp_path / "images" / name).read_bytes() == IMAGE for name in kept)
    with (tmp_path / "images" / PROBLEMS).open(newline="") as file:
        listed = list(csv.reader(file))
    assert listed[0] == ["item", "url", "problem"]
    assert [row[0] for row in listed[1:]] == [name for name, _ in rows if name not in passing]
    assert [tuple(row) for row in listed[1:]] == made.problems and made.fetched == 3
    report = {row[0]: row[2] for row in listed[1:]}
    assert "404" in report["missing"] and INSIDE in report["inside"] and "169.254.169.254" in report["meta"]
    assert "50,000" in report["big"] and "50,000" in report["endless"]
    asked = [path for path, _ in host.requests]
    assert (asked.count("/missing"), asked.count("/dead"), asked.count("/inside")) == (1, 4, 1)
    assert not list(tmp_path.glob("*.jpg")) and len(list(tmp_path.iterdir())) == 2


def test_problems_are_tried_again(host, tmp_path):
    source = write(tmp_path / "a.csv", [("1", host.url("/later")), ("2", host.url("/JPEG"))])
    first = download_images(source, tmp_path / "images", network=host.network)
    assert [problem[0] for problem in first.problems] == ["1"]
    host.files["/later"] = IMAGE
    second = download_images(source, tmp_path / "images", network=host.network)
    assert (second.fetched, second.existing, second.problems) == (1, 1, [])
    assert not (tmp_path / "images" / PROBLEMS).exists()


def test_from_a_prepared_dataset_to_features(lirdrec, host, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_network", lambda private: host.network)
    urls = [host.url("/JPEG"), host.url("/PNG"), None, host.url("/absent")]
    table = pl.DataFrame({"item": [10, 20, 30, 40], "title": ["a", "b", "c", "d"], "image_url": urls})
    pairs = pl.DataFrame({"user": [1, 1, 1, 1], "item": [10, 20, 30, 40]})
    data = Dataset.from_frames(pairs, items=table, split="none").save(tmp_path / "data")
    made = lirdrec("download", "--image-urls", data, "--output", "posters", "--json")
    assert made.exit_code == 0, made.stderr
    report = json.loads(made.stdout)
    assert (report["fetched"], report["missing"], [each["item"] for each in report["problems"]]) == (2, 1, ["40"])
    shown = lirdrec("download", "--image-urls", data, "--output", "posters")
    assert shown.exit_code == 0 and "posters/problems.csv" in shown.stdout
    encoded_now = lirdrec("features", data, "--text", "hashed", "--image", "descriptor", "--images", "posters")
    assert encoded_now.exit_code == 0, encoded_now.stderr
    assert Dataset.load(data).features["image"].present.tolist() == [True, True, False, False]


def test_what_is_refused(host, tmp_path):
    source = write(tmp_path / "a.csv", [("1", "x"), ("1", "y")])
    with assert_error(DataError, mentions=["image", "image_url"]):
        download_images(source, tmp_path / "images", column="image")
    with assert_error(DataError, mentions=["sku", "a.csv", "(item)"]):
        download_images(source, tmp_path / "images", item="sku")
    with assert_error(ConfigError, mentions=["concurrency"]):
        download_images(source, tmp_path / "images", concurrency=0)
    with assert_error(DataError, mentions=[tmp_path / "absent.csv"]):
        download_images(tmp_path / "absent.csv", tmp_path / "images")
    assert not (tmp_path / "images").exists()
