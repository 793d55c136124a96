"""Folders of MMRec, atomic files of RecBole and releases of MicroLens, and their faults."""

from __future__ import annotations

import csv
import logging
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lirdrec.data.column_names import SPLITS
from lirdrec.data.readers import kind_of, read_any, read_microlens, read_mmrec, read_recbole
from lirdrec.errors import ConfigError, DataError

from ..helpers import assert_error, assert_mentions

INTER = "userID\titemID\tx_label\n4\t0\t0\n4\t2\t1\n4\t1\t2\n7\t2\t0\n7\t2\t0\n"


@pytest.fixture
def mmrec(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.inter").write_text(INTER)
    np.save(folder / "image_feat.npy", np.array([[1, 2], [0, 0], [3, 4], [5, 6]], dtype=np.float32))
    np.save(folder / "smell_feat.npy", np.ones((4, 3), dtype=np.float16))
    (folder / "items.tsv").write_text('itemID\ttitle\n2\ttwo "2"\n0\tnought\n')
    return folder


def test_mmrec_times_are_kept(mmrec):
    lines = INTER.splitlines()
    text = "\n".join(["\t".join([lines[0], "timestamp"]), *(f"{line}\t{50 - n}" for n, line in enumerate(lines[1:]))])
    (mmrec / "shop.inter").write_text(text)
    assert read_any(mmrec).frame("train").rows() == [(4, 0, 50), (7, 2, 46)]


def test_mmrec_folders(mmrec):
    dataset = read_any(mmrec)
    assert dataset.users.ids.tolist() == [4, 7]
    assert dataset.items.ids.tolist() == [0, 1, 2, 3]
    assert [dataset.frame(name).rows() for name in SPLITS] == [[(4, 0), (7, 2)], [(4, 2)], [(4, 1)]]
    assert list(dataset.features) == ["image", "smell"]
    assert dataset.features["image"].present.tolist() == [True, False, True, True]
    assert dataset.item_table.rows() == [(0, "nought"), (1, None), (2, 'two "2"'), (3, None)]
    assert dataset.info["preparation"] == {"repeated_pairs": 1}
    assert isinstance(dataset.features["smell"].values, np.memmap)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda f: (f / "shop.inter").unlink(), ["manifest.json", "MMRec", "RecBole", ".inter"]),
        (lambda f: (f / "b.inter").write_text(INTER), ["b.inter, shop.inter"]),
        (
            lambda f: (f / "shop.inter").write_text(INTER.replace("x_label", "label")),
            ["shop.inter", "'x_label'", "userID, itemID, label", "'label'"],
        ),
        (
            lambda f: (f / "shop.inter").write_text(INTER + "9\t9\t0\n"),
            ["image_feat.npy", "4 rows", "1 item", "9"],
        ),
        (lambda f: (f / "shop.inter").write_text(INTER + "9\tx\t0\n"), ["shop.inter", "'x'", "line 7"]),
        (lambda f: (f / "shop.inter").write_text(INTER + "9\t1\t3\n"), ["shop.inter", "'3'", "line 7", "0, 1, 2"]),
        (lambda f: (f / "shop.inter").write_text(INTER + "9\t1\t"), ["shop.inter", "line 7"]),
        (
            lambda f: np.save(f / "smell_feat.npy", np.ones((3, 3))),
            ["image_feat.npy 4", "smell_feat.npy 3"],
        ),
        (
            lambda f: np.save(f / "smell_feat.npy", np.full((4, 3), np.nan)),
            ["smell_feat.npy", "NaN", "4 rows", "0, 1, 2, 3"],
        ),
        (lambda f: (f / "smell_feat.npy").unlink(), ["1 of 4 items", "without_features='drop'"]),
        (lambda f: (f / "items.tsv").write_text("id\ttitle\n1\tx\n"), ["items.tsv", "'itemID'", "id, title"]),
        (lambda f: (f / "items.tsv").write_text("itemID\ta\n1\tx\n1\ty\n"), ["items.tsv", "item id 1"]),
        (lambda f: (f / "shop.inter").write_text(INTER + "4\t0\t2\n"), ["user 4", "item 0", "train", "test"]),
    ],
)
def test_mmrec_folders_that_do_not_fit_together(mmrec, change, facts):
    change(mmrec)
    with assert_error(DataError, mentions=facts) as caught:
        read_any(mmrec)
    assert "\n" not in str(caught.value)


def test_bad_rows_of_mmrec(mmrec):
    (mmrec / "shop.inter").write_text(INTER + "\t1\t0\n9\t1\t3\n9\t1\n9\t3\t0\n")
    with assert_error(DataError, mentions=["shop.inter", "line 9"]):
        read_mmrec(mmrec)
    dataset = read_mmrec(mmrec, bad_rows="skip")
    assert dataset.frame("train").rows() == [(4, 0), (7, 2), (9, 3)]
    assert dataset.info["preparation"] == {"rows": 9, "bad_rows_skipped": 3, "repeated_pairs": 1}
    with assert_error(ConfigError, mentions=["bad_rows", "drop"]):
        read_mmrec(mmrec, bad_rows="drop")


@pytest.fixture
def recbole(tmp_path):
    folder = tmp_path / "ml"
    folder.mkdir()
    rows = "".join(f"{n % 3}\t{n}\t{1 + n % 5}\t{100 - n}.0\n" for n in range(15))
    (folder / "ml.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows)
    items = "".join(f"{n}\tFilm {n}\tDrama War\t0.5 {n}\t{1990 + n}\n" for n in range(16))
    header = "item_id:token\ttitle:token\tgenres:token_seq\timage:float_seq\tyear:float\n"
    (folder / "ml.item").write_text(header + items)
    return folder


def test_recbole_atomic_files(recbole):
    dataset = read_recbole(recbole, vectors=["image"], split="leave_last_out", rating="rating", min_rating=2)
    assert dataset.frame("test").rows() == [(0, 3, 97), (1, 1, 99), (2, 2, 98)]  # the least n has the latest time
    assert dataset.items.ids.tolist() == list(range(16))
    assert dataset.item_table.columns == ["item", "title", "genres", "year"]
    assert dataset.item_table.row(1) == (1, "Film 1", "Drama War", 1991.0)
    np.testing.assert_array_equal(dataset.features["image"].values[3], [0.5, 3])
    found, again = read_any(recbole), read_recbole(recbole)
    for name in SPLITS:
        assert_frame_equal(found.frame(name), again.frame(name))
    assert_frame_equal(found.item_table, again.item_table)


def test_recbole_says_what_it_does_not_read(recbole, caplog):
    for name in ("ml.user", "ml.kg", "ml.link"):
        (recbole / name).write_text("user_id:token\n1\n")
    read_recbole(recbole)
    assert_mentions(caplog.text, ["ml.kg, ml.link, ml.user", "vectors='image'"])


@pytest.mark.parametrize("title", ["", " "])
def test_words_of_recbole_are_a_text(recbole, title):
    path = recbole / "ml.item"
    path.write_text(path.read_text().replace("Drama War", " Drama   War ", 1).replace("Drama War", title, 1))
    dataset = read_recbole(recbole)
    assert dataset.item_table["genres"].to_list()[:3] == ["Drama War", None, "Drama War"]
    assert dataset.item_table.schema["image"] == pl.List(pl.Float32)
    path.write_text(path.read_text().replace("0.5 3", "0.5 x3"))
    with assert_error(DataError, mentions=[path, "'image'", "'x3'", "line 5"]):
        read_recbole(recbole)


def test_recbole_ready_splits(recbole, tmp_path):
    header, *rows = (recbole / "ml.inter").read_text().splitlines(keepends=True)
    (recbole / "ml.inter").unlink()
    for name, some in (("train", rows[:9]), ("valid", rows[9:12]), ("test", rows[12:])):
        (recbole / f"ml.{name}.inter").write_text(header + "".join(some))
    dataset = read_any(recbole)
    assert [dataset.frame(name)["item"].sort().to_list() for name in SPLITS] == [
        list(range(9)),
        [9, 10, 11],
        [12, 13, 14],
    ]


@pytest.mark.parametrize(
    ("old", "new", "facts"),
    [
        ("item_id:token\trating", "item_id\trating", ["'item_id'", "NAME:TYPE", "token, token_seq, float, float_seq"]),
        ("user_id:token", "uid:token", ["'user_id'", "uid, item_id, rating, timestamp", "'uid'"]),
        ("\t5\t", "\tfive\t", ["'rating'", "'five'", "line 6"]),
    ],
)
def test_recbole_files_with_faults(recbole, old, new, facts):
    path = recbole / "ml.inter"
    path.write_text(path.read_text().replace(old, new, 1))
    with assert_error(DataError, mentions=[path, *facts]):
        read_recbole(recbole)


def test_vectors_of_different_lengths(recbole):
    path = recbole / "ml.item"
    path.write_text(path.read_text().replace("0.5 7", "0.5 7 8"))
    with assert_error(DataError, mentions=[path, "'image'", "'7'", "3 numbers"]):
        read_recbole(recbole, vectors=["image"])


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
