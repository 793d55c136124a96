"""MicroLens in the layout of its releases: titles with names of columns or without, covers, faults with their lines."""

import csv
import logging
import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lirdrec.data.readers import kind_of, read_any, read_microlens
from lirdrec.errors import DataError

from ..helpers import assert_error

PAIRS = "user,item,timestamp\n" + "".join(
    f"{user},{item},{1_660_000_000_000 + 1000 * user + item}\n" for user in (1, 2, 30) for item in (4, 2, 11)
)
TITLES_50K = 'item,title\n2,"a, b # funny"\n4,plain # two\n7,"she said ""no"""\n11,\n'
TITLES_100K = '2,a, b # funny\n4,plain # two\n7,she said "no"\n11,\n'


@pytest.fixture
def folder(tmp_path):
    """A folder like MicroLens-50k, with covers of two of its videos."""
    made = tmp_path / "MicroLens"
    (made / "MicroLens-50k_covers").mkdir(parents=True)
    (made / "MicroLens-50k_pairs.csv").write_text(PAIRS)
    (made / "MicroLens-50k_titles.csv").write_text(TITLES_50K)
    (made / "MicroLens-50k_likes_and_views.txt").write_text("2\t100\t2000\n")
    for item in (2, 11, 500):
        (made / "MicroLens-50k_covers" / f"{item}.jpg").write_bytes(b"x")
    return made


def test_pairs_titles_and_covers(folder):
    data = read_microlens(folder)
    assert data.item_table.columns == ["item", "title", "image"]
    assert data.item_table.rows() == [
        (2, "a, b # funny", "2.jpg"),
        (4, "plain # two", None),
        (7, 'she said "no"', None),  # nobody watched it; it can still be recommended
        (11, None, "11.jpg"),
    ]
    pairs = pl.concat([data.frame(split) for split in ("train", "valid", "test")]).sort("user", "item")
    expected = sorted(tuple(map(int, line.split(","))) for line in PAIRS.splitlines()[1:])
    assert pairs.rows() == expected
    assert data.name == "MicroLens-50k" and data.info["images"] == str(folder / "MicroLens-50k_covers")
    assert data.info["source"] == {
        "format": "microlens",
        "files": ["MicroLens-50k_pairs.csv", "MicroLens-50k_titles.csv"],
    }


def test_the_files_of_100k_give_the_same_and_categories(folder, tmp_path):
    other = tmp_path / "MicroLens-100k"
    (other / "covers").mkdir(parents=True)
    (other / "MicroLens-100k_pairs.csv").write_text(PAIRS.replace("user,item", "userID,videoID"))
    (other / "MicroLens-100k_title_en.csv").write_text(TITLES_100K)
    (other / "MicroLens-100k_titles.csv").write_text("2,标题\n")
    (other / "tags_to_summary.csv").write_text("2,Comedy\n13,Food\n")
    (other / "covers" / "2.jpg").write_bytes(b"x")
    data, known = read_microlens(other), read_microlens(folder)
    for split in ("train", "valid", "test"):
        assert_frame_equal(data.frame(split), known.frame(split))
    expected = [(item, title, "Comedy" if item == 2 else None) for item, title, _ in known.item_table.rows()]
    assert data.item_table.select("item", "title", "category").rows() == [*expected, (13, None, "Food")]
    chinese = read_microlens(other, titles=other / "MicroLens-100k_titles.csv").item_table
    assert dict(chinese.select("item", "title").iter_rows())[2] == "标题"


def test_covers_elsewhere_options_and_recognition(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "4.png").write_bytes(b"x")
    assert read_microlens(folder, images=elsewhere).item_table["image"].to_list() == [None, "4.png", None, None]
    assert kind_of(folder) == "microlens"
    assert_frame_equal(read_any(folder).item_table, read_microlens(folder).item_table)
    small = read_microlens(folder, k_core=3, split="leave_last_out", name="small", string_ids=True)
    assert small.items.ids.tolist() == ["2", "4", "11"] and small.users.ids.tolist() == ["1", "2", "30"]
    assert small.frame("test").sort("user")["item"].to_list() == ["11", "11", "11"]  # the latest of each user


def test_titles_may_run_over_lines_and_may_lack_their_quotes(folder):
    (folder / "MicroLens-50k_titles.csv").write_text(
        'item,title\n2,"first line\nsecond, line ""x""\n third"\n4,"never closed, he said\n7," kept "\n11,"A" or "B"\n'
    )
    titles = dict(read_microlens(folder).item_table.select("item", "title").iter_rows())
    assert titles == {
        2: 'first line second, line "x" third',
        4: '"never closed, he said',
        7: "kept",
        11: '"A" or "B"',
    }


letters = st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.sampled_from(' ,"\n#')
# a line that begins as `12,` is always taken for the next item
texts = st.text(letters, max_size=20).filter(lambda text: not re.search(r"\n\d+,", text))


@settings(max_examples=100, deadline=None)
@given(written=st.lists(texts, min_size=1, max_size=8), header=st.booleans())
def test_any_title_that_the_csv_module_writes_comes_back(tmp_path_factory, written, header):
    folder = tmp_path_factory.mktemp("MicroLens")
    (folder / "x_pairs.csv").write_text("user,item,timestamp\n1,0,5\n")
    with (folder / "x_titles.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["item", "title"]] * header + [[item, text] for item, text in enumerate(written)])
    table = read_microlens(folder, split="none").item_table
    assert table["title"].to_list() == [" ".join(text.split()) or None for text in written]


BAD = [
    ("MicroLens-50k_pairs.csv", "user,video,timestamp\n1,2,3\n", ["'item'", "user, video"]),
    ("MicroLens-50k_pairs.csv", "user,item,timestamp\n1,2,3\n1,two,3\n", ["'two'", "'item'", "line 3"]),
    ("MicroLens-50k_pairs.csv", "user,item,timestamp\n1,2,3\n1,2,soon\n", ["'timestamp'", "'soon'", "line 3"]),
    ("MicroLens-50k_pairs.csv", "1,2,3\n1,4,3\n", ["'user'", "1, 2, 3"]),
    ("MicroLens-50k_pairs.csv", "user,item,timestamp\n", []),
    ("MicroLens-50k_titles.csv", "2,a\n4,b\n2,c\n", ["item 2", "line 3"]),
    ("MicroLens-50k_titles.csv", "2,a\nfour,b\n", ["line 2", "'four,b'"]),
    ("MicroLens-50k_titles.csv", "2;a\n", ["line 1", "'2;a'"]),
    ("MicroLens-50k_titles.csv", "2,a\n4,标题\n".encode("gb18030"), ["UTF-8", "0xb1", "line 2"]),
]


@pytest.mark.parametrize(("name", "content", "facts"), BAD)
def test_damaged_files(folder, name, content, facts):
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with assert_error(DataError, mentions=[folder / name, *facts]):
        read_microlens(folder)


def test_files_that_are_missing_or_too_many(folder):
    with assert_error(DataError, mentions=[folder / "gone"]):
        read_microlens(folder / "gone")
    with assert_error(DataError, mentions=[folder / "gone.csv"]):
        read_microlens(folder, titles=folder / "gone.csv")
    (folder / "other_titles.csv").write_text(TITLES_50K)
    with assert_error(DataError, mentions=[folder, "*_titles.csv", "MicroLens-50k_titles.csv", "other_titles.csv"]):
        read_microlens(folder)
    (folder / "MicroLens-100k_pairs.csv").write_text(PAIRS)
    with assert_error(DataError, mentions=["*_pairs.csv", "MicroLens-100k_pairs.csv", "MicroLens-50k_pairs.csv"]):
        read_microlens(folder)


def test_without_titles_and_covers_there_are_ids(tmp_path, caplog):
    (tmp_path / "x_pairs.csv").write_text(PAIRS)
    with caplog.at_level(logging.WARNING, "lirdrec"):
        data = read_microlens(tmp_path)
    assert data.item_table.rows() == [(2,), (4,), (11,)] and "images" not in data.info
    assert caplog.messages == []
