"""The image of each item: found by id or by a column, never outside of the folder, each folder listed once."""

import logging
import os
import sys
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec.data import Dataset, IdMap
from lirdrec.data.images import SUFFIXES, described, image_column, with_images
from lirdrec.errors import DataError

from ..helpers import assert_error, assert_mentions, needs_links


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_files_are_found_by_item_id(tmp_path):
    touch(tmp_path, "7.jpg", "8.JPEG", "a/9.webp", "b/10.Gif", "11.txt", "12", ".13.jpg", "a/deep/14.png", "015.png")
    touch(tmp_path, "99.jpg")  # of no item
    found = image_column([7, 8, 9, 10, 11, 12, 13, 14, 15, 1], tmp_path)
    assert found.to_list() == ["7.jpg", "8.JPEG", "a/9.webp", "b/10.Gif", None, None, None, None, None, None]
    assert found.name == "image" and found.dtype == pl.String


def test_images_of_phones_and_new_shops_are_found(tmp_path):
    touch(tmp_path, "7.avif", "8.HEIC", "9.heif")
    assert image_column([7, 8, 9], tmp_path).to_list() == ["7.avif", "8.HEIC", "9.heif"]


def test_ids_that_are_strings_may_hold_dots_and_spaces(tmp_path):
    touch(tmp_path, "B00.1.jpg", "red shoe.png", "été.bmp", "X.jpg")
    found = image_column(IdMap(["red shoe", "B00.1", "été", "B00", "x"], "item"), tmp_path)
    assert found.to_list() == ["red shoe.png", "B00.1.jpg", "été.bmp", None, None]


def test_of_several_images_the_first_by_path_is_taken_and_it_is_said(tmp_path, caplog):
    touch(tmp_path, "1.png", "1.jpg", "z/1.gif", "2.jpg", "3.jpg", "3.jpeg", "5.jpg", "5.png")
    with caplog.at_level(logging.WARNING, "lirdrec"):
        assert image_column([1, 2, 3], tmp_path).to_list() == ["1.jpg", "2.jpg", "3.jpeg"]
    (message,) = caplog.messages
    assert_mentions(message, [tmp_path, "2 items", "1.jpg", "1.png"])


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(
        st.tuples(st.sampled_from(["", "a/", "b/"]), st.integers(0, 9), st.sampled_from([".jpg", ".PNG", ".txt", ""]))
    ),
    ids=st.lists(st.integers(0, 12), unique=True, min_size=1),
)
def test_the_scan_finds_what_a_look_for_each_item_finds(names, ids):
    with tempfile.TemporaryDirectory() as made:
        folder = touch(Path(made), "0.jpg", *(f"{place}{stem}{end}" for place, stem, end in names))
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        wanted = [
            next((one for one in files if Path(one).stem == str(id) and Path(one).suffix.lower() in SUFFIXES), None)
            for id in ids
        ]
        if not any(wanted):
            with assert_error(DataError, mentions=[folder, f"item {ids[0]}"]):
                image_column(ids, folder)
        else:
            assert image_column(ids, folder).to_list() == wanted


def test_folders_are_listed_once_and_files_are_never_asked_for(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{n % 3}/{n}.jpg" for n in range(300)))
    listed = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path)) or scan(path))
    monkeypatch.setattr(Path, "exists", None)
    monkeypatch.setattr(Path, "is_file", None)
    assert image_column(range(300), tmp_path).null_count() == 0
    assert sorted(listed) == [tmp_path, *(tmp_path / str(n) for n in range(3))]
    listed.clear()
    paths = pl.Series([f"{n % 3}/{n}.jpg" for n in range(300)])
    assert image_column(range(300), tmp_path, paths).to_list() == paths.to_list()
    assert sorted(listed) == [tmp_path / str(n) for n in range(3)]


def test_a_column_names_paths_or_files(tmp_path, caplog):
    touch(tmp_path, "a.jpg", "sub/b.jpg", "sub/deep/c.PNG", "d.with.dots.gif", "e.jpg/inside.jpg")
    asked = {
        "a.jpg": "a.jpg",
        "./a.jpg": "a.jpg",
        " a.jpg ": "a.jpg",
        "sub/b.jpg": "sub/b.jpg",
        "sub\\b.jpg": "sub/b.jpg",
        "b.jpg": "sub/b.jpg",  # one folder down
        "b": "sub/b.jpg",  # without its ending
        "d.with.dots": "d.with.dots.gif",
        "sub/deep/c.PNG": "sub/deep/c.PNG",
        "c.PNG": "c.PNG",  # two folders down: not found, so it keeps its name, as do those that follow
        "a.jpg/a.jpg": "a.jpg/a.jpg",
        "x" * 300: "x" * 300,
        "e.jpg": "e.jpg",  # a folder
        "": None,
        "  ": None,
        None: None,
        str(tmp_path / "sub" / "b.jpg"): "sub/b.jpg",
    }
    column = pl.Series("cover", list(asked), dtype=pl.String)
    with caplog.at_level(logging.WARNING, "lirdrec"):
        assert image_column(range(len(asked)), tmp_path, column).to_list() == list(asked.values())
    assert_mentions(caplog.messages[0], [tmp_path, "4 images", "'cover'", "c.PNG, a.jpg/a.jpg, xxx"])


def test_a_column_of_integers_names_files(tmp_path):
    touch(tmp_path, "862.jpg", "8844.png")
    column = pl.Series("tmdbId", [8844, None, 862])
    assert image_column([1, 2, 3], tmp_path, column).to_list() == ["8844.png", None, "862.jpg"]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "sub/../../secret.jpg",
        "sub/../a.jpg",
        "..\\secret.jpg",
        "{above}/secret.jpg",
        "{above}/images-old/a.jpg",
        "{above}/images/../secret.jpg",
    ],
)
def test_no_path_leaves_the_folder(tmp_path, path):
    folder = touch(tmp_path / "images", "a.jpg", "sub/b.jpg")
    touch(tmp_path, "secret.jpg", "images-old/a.jpg")
    path = path.replace("{above}", str(tmp_path))
    with assert_error(DataError, mentions=["item 5", path, folder, *(["'..'"] if ".." in path else [])]):
        image_column([4, 5], folder, pl.Series("cover", ["a.jpg", path]))


@pytest.mark.parametrize(
    ("path", "facts"), [("https://shop.example/a.jpg", ["https://shop.example/a.jpg"]), ("a\0.jpg", [])]
)
def test_what_is_no_path_is_refused(tmp_path, path, facts):
    folder = touch(tmp_path / "images", "a.jpg", "sub/b.jpg")
    with assert_error(DataError, mentions=["item 5", *facts]):
        image_column([4, 5], folder, pl.Series("cover", ["a.jpg", path]))


def test_absolute_paths_through_a_link_to_the_folder(tmp_path):
    folder = touch(tmp_path / "real", "a.jpg")
    link = tmp_path / "link"
    link.symlink_to(folder)
    for path in (folder / "a.jpg", link / "a.jpg"):
        assert image_column([1], link, pl.Series([str(path)])).to_list() == ["a.jpg"]


def test_folders_without_use_are_an_error(tmp_path):
    with assert_error(DataError, mentions=[tmp_path / "gone"]):
        image_column([1], tmp_path / "gone")
    touch(tmp_path, "notes.txt")
    with assert_error(DataError, mentions=[tmp_path, ".jpg, .jpeg, .png"]):
        image_column([1], tmp_path)
    touch(tmp_path, "x.jpg", "y.jpg")
    with assert_error(DataError, mentions=[tmp_path, "2 images", "x.jpg", "item 1"]):
        image_column([1], tmp_path)
    with assert_error(DataError, mentions=[tmp_path, "'p'", "sub/x.jpg"]):
        image_column([1], tmp_path, pl.Series("p", ["sub/x.jpg"]))
    with assert_error(DataError, mentions=["'p'", "Float64"]):
        image_column([1], tmp_path, pl.Series("p", [0.5]))


@needs_links
def test_a_link_that_leads_in_a_circle_stops_nothing(tmp_path):
    """It is a file like others: whoever opens it says what is wrong with it."""
    touch(tmp_path, "1.jpg", "deep/3.jpg")
    (tmp_path / "2.jpg").symlink_to("2.jpg")
    (tmp_path / "deep" / "4").symlink_to("4")
    assert image_column([1, 2, 3, 4], tmp_path).to_list() == ["1.jpg", "2.jpg", "deep/3.jpg", None]
    column = pl.Series(["1.jpg", "2.jpg", "deep/3.jpg", "deep/4"])
    assert image_column([1, 2, 3, 4], tmp_path, column).to_list() == column.to_list()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS and Windows refuse file names that are no text")
def test_a_name_that_is_no_text_is_left_out_and_named(tmp_path, caplog):
    touch(tmp_path, "1.jpg")
    with open(os.fsencode(tmp_path) + b"/2\xff.jpg", "wb"):
        pass
    assert image_column([1, 2], tmp_path).to_list() == ["1.jpg", None]
    assert_mentions(caplog.text, ["1 file", "UTF-8"])


def test_a_dataset_gets_its_images_and_keeps_them_when_saved(dataset, items, tmp_path):
    touch(tmp_path / "photos", "i3.jpg", "i0.png")
    before = dataset.item_table.clone()
    made = with_images(dataset, tmp_path / "photos")
    assert dataset.item_table.equals(before) and "images" not in dataset.info
    loaded = Dataset.load(made.save(tmp_path / "ready"))
    assert loaded.info["images"] == str(tmp_path / "photos")
    known = dict(loaded.item_table.select("item", "image").iter_rows())
    assert known == {item: {"i3": "i3.jpg", "i0": "i0.png"}.get(item) for item in items["item"]}
    assert loaded.item_table["title"].equals(items["title"])
    assert described(made) == {"images": 2, "texts": {"title": 8}}


def test_the_column_image_is_read_again_unless_it_holds_addresses(dataset, tmp_path):
    touch(tmp_path, "i3.jpg", "other.jpg")
    table = dataset.item_table

    def with_column(name, value):
        from dataclasses import replace

        return replace(dataset, item_table=table.with_columns(pl.lit(value).alias(name)))

    def images(made):
        return dict(made.item_table.select("item", "image").iter_rows())["i3"]

    assert images(with_images(with_column("image", "other.jpg"), tmp_path)) == "other.jpg"
    assert images(with_images(with_column("image", "https://x/y.jpg"), tmp_path)) == "i3.jpg"
    assert images(with_images(with_column("image", None), tmp_path)) == "i3.jpg"
    assert images(with_images(with_column("photo", "other.jpg"), tmp_path)) == "i3.jpg"
    assert images(with_images(with_column("photo", "other.jpg"), tmp_path, "photo")) == "other.jpg"
    with assert_error(DataError, mentions=["'foto'", "item, title, price"]):
        with_images(dataset, tmp_path, "foto")


def test_images_count_where_their_folder_is_known_and_they_are_no_addresses(interactions):
    def counted(values, **info):
        items = pl.DataFrame({"item": [f"i{n}" for n in range(8)], "image": values})
        return described(Dataset.from_frames(interactions, items=items, info=info))["images"]

    paths = ["a.jpg", "b.jpg", *[None] * 6]
    assert (counted(paths, images="/photos"), counted(paths)) == (2, 0)
    assert counted([f"https://shop.example/{n}.jpg" for n in range(8)], images="/photos") == 0


def test_blank_texts_are_no_texts(interactions):
    items = pl.DataFrame(
        {"item": [f"i{n}" for n in range(8)], "title": ["a", " ", "", None, "b", "\n", "c", "d"], "note": [None] * 8}
    )
    assert described(Dataset.from_frames(interactions, items=items)) == {"images": 0, "texts": {"title": 4}}
