"""Amazon's files of three years, written here as they are published, give what the same facts give as frames."""

import gzip
import json
import logging

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lirdrec.data import Dataset
from lirdrec.data.readers.amazon import find_amazon, is_amazon, read_amazon
from lirdrec.data.readers.amazon_metadata import metadata_row, strip_html
from lirdrec.errors import ConfigError, DataError

from ..helpers import assert_error, assert_mentions

SPLITS = ("train", "valid", "test")
USERS = [f"A{n}X2LENOF84LC" for n in range(7)]
ITEMS = ["0000031852", "B00KGX3Q1A", "B00D9S7PZ0", "616719923X", "B000F83SZQ", "B000FA64PA"]
DAY = 86_400


def pairs() -> pl.DataFrame:
    """30 of the 42 pairs, with ratings and whole days in seconds, in no order."""
    rng = np.random.default_rng(3)
    cells = rng.permutation(len(USERS) * len(ITEMS))[:30]
    return pl.DataFrame(
        {
            "user": [USERS[c // len(ITEMS)] for c in cells],
            "item": [ITEMS[c % len(ITEMS)] for c in cells],
            "rating": rng.integers(1, 6, 30).astype(float),
            "timestamp": (DAY * rng.integers(15_000, 16_000, 30)).tolist(),
        }
    )


def as_2014(row):
    return {
        "reviewerID": row["user"],
        "asin": row["item"],
        "reviewerName": 'J. "Jo" M\u00fcller',
        "helpful": [2, 3],
        "reviewText": 'It said "asin": "B000000000" \u2026\\ and {then}\nnothing.',
        "overall": row["rating"],
        "summary": "null",
        "unixReviewTime": row["timestamp"],
        "reviewTime": "09 13, 2009",
    }


def as_2018(row):
    return {
        "overall": row["rating"],
        "verified": True,
        "reviewTime": "01 5, 2018",
        "reviewerID": row["user"],
        "asin": row["item"],
        "style": {"Size:": " Large", "Color:": None},
        "reviewText": "",
        "unixReviewTime": row["timestamp"],
        "vote": "1,234",
        "image": ["https://images-na.example/1.jpg"],
    }


def as_2023(row):
    return {
        "rating": row["rating"],
        "title": "A review has a title too",
        "text": "…",
        "images": [],
        "asin": "B0VARIANT1",
        "parent_asin": row["item"],
        "user_id": row["user"],
        "timestamp": row["timestamp"] * 1000,
        "helpful_vote": 0,
        "verified_purchase": True,
    }


def write_lines(path, records, dump=json.dumps):
    content = "".join(dump(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def assert_same_pairs(one, two):
    for split in SPLITS:
        assert_frame_equal(one.frame(split), two.frame(split))


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
@pytest.mark.parametrize(("year", "record"), [("2014", as_2014), ("2018", as_2018), ("2023", as_2023)])
def test_reviews_of_every_year_are_the_frame_they_tell_of(tmp_path, year, record, suffix):
    frame = pairs()
    path = write_lines(tmp_path / f"reviews_Baby_5{suffix}", map(record, frame.to_dicts()))
    if year == "2023":
        frame = frame.with_columns(pl.col("timestamp") * 1000)
    for options in ({"min_rating": 3}, {"split": "temporal", "k_core": 2}, {"timestamp": None, "seed": 4}):
        dataset = read_amazon(path, **options)
        named = {"timestamp": "timestamp", "rating": "rating", **options}
        assert_same_pairs(dataset, Dataset.from_frames(frame, **named))
    assert dataset.name == "Baby"
    source = {"format": "amazon", "year": year, "files": [path.name], "bad_lines": 0}
    assert read_amazon(path, info={"licence": "?"}).info.items() >= {"source": source, "licence": "?"}.items()


@pytest.mark.parametrize("order", ["user,item", "item,user", "header"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_tables_of_ratings(tmp_path, order, suffix):
    frame = pairs()
    columns = ["item", "user"] if order == "item,user" else ["user", "item"]
    table = frame.select(*columns, "rating", "timestamp")
    text = table.write_csv(include_header=False)
    if order == "header":
        text = "user_id,parent_asin,rating,timestamp\n" + text
    path = tmp_path / f"ratings_Baby{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.replace("\n", "\r\n").encode())
    assert is_amazon(path)
    dataset = read_amazon(path)
    assert_same_pairs(dataset, Dataset.from_frames(frame, timestamp="timestamp"))
    assert dataset.info["source"]["year"] == {"user,item": "2014", "item,user": "2018", "header": "2023"}[order]


def test_ids_that_are_all_digits_keep_their_zeros(tmp_path):
    rows = [as_2014({"user": f"A{n}", "item": f"000003185{n}", "rating": 5.0, "timestamp": 1}) for n in range(3)]
    assert read_amazon(write_lines(tmp_path / "r.json", rows)).items.ids.tolist() == [f"000003185{n}" for n in range(3)]


def test_a_day_takes_the_place_of_a_missing_number(tmp_path):
    rows = [as_2018(row) for row in pairs().to_dicts()]
    for row in rows[::2]:
        del row["unixReviewTime"]
    times = read_amazon(write_lines(tmp_path / "r.json", rows), split="none").train.timestamps
    assert 1515110400 in times  # 5 January 2018, 00:00 UTC
    assert len(times) == 30


# ---- metadata

META = {
    "2014": [
        {
            "asin": ITEMS[0],
            "title": "Girls Ballet &amp; Tutu &quot;Pink&quot;",
            "price": 3.17,
            "imUrl": "http://ecx.example/I/51fAmVkTbyL._SY300_.jpg",
            "related": {"also_bought": ["B00JHONN1S"], "bought_together": ["B002BZX8Z6"]},
            "salesRank": {"Toys & Games": 211836},
            "brand": "Coxlures",
            "categories": [
                ["Sports & Outdoors", "Other Sports", "Dance"],
                ["Clothing", "Girls"],
                ["Clothing", "Girls"],
            ],
            "description": "It's soft.<br />Very  soft: 3 < 4.",
        },
        {"asin": ITEMS[1], "categories": [["Baby"]], "title": 'A "b"'},
    ],
    "2018": [
        {
            "category": ["Sports & Outdoors", "Other Sports", "Dance"],
            "description": ["It's soft.", "", "<p>Very  soft</p>"],
            "title": "Girls Ballet &amp; Tutu &quot;Pink&quot;",
            "brand": "Coxlures",
            "feature": ["Pink", "One size"],
            "rank": ["&gt;#1,234 in Toys"],
            "also_view": ["B00JHONN1S"],
            "main_cat": "Toys",
            "price": "$1,203.17 - $1,300.00",
            "asin": ITEMS[0],
            "imageURL": ["https://images.example/I/41._SS40_.jpg"],
            "imageURLHighRes": ["https://images.example/I/41.jpg"],
        },
        {"asin": ITEMS[1], "category": [], "main_cat": "Baby", "title": 'A "b"', "price": ".a-box{width:3px}"},
    ],
    "2023": [
        {
            "main_category": "Toys & Games",
            "title": 'Girls Ballet & Tutu "Pink"',
            "average_rating": 4.8,
            "features": ["Pink", "One size"],
            "description": ["It's soft."],
            "price": 3.17,
            "images": [
                {"thumb": "https://m.example/t.jpg", "large": "https://m.example/l.jpg", "variant": "PT01"},
                {"thumb": "t", "large": "https://m.example/main.jpg", "variant": "MAIN", "hi_res": None},
            ],
            "videos": [{"title": "x", "url": "y"}],
            "store": "Coxlures",
            "categories": ["Sports & Outdoors", "Other Sports", "Dance"],
            "details": {"Brand": "other"},
            "parent_asin": ITEMS[0],
            "bought_together": None,
        },
        {"parent_asin": ITEMS[1], "categories": [], "main_category": "Baby", "title": 'A "b"', "price": "from 9.5"},
    ],
}
FIRST = {
    "2014": (
        "Sports & Outdoors > Other Sports > Dance | Clothing > Girls",
        "It's soft. Very soft: 3 < 4.",
        3.17,
        "http://ecx.example/I/51fAmVkTbyL._SY300_.jpg",
    ),
    "2018": (
        "Sports & Outdoors > Other Sports > Dance",
        "It's soft. Very soft Pink One size",
        1203.17,
        "https://images.example/I/41.jpg",
    ),
    "2023": (
        "Sports & Outdoors > Other Sports > Dance",
        "It's soft. Pink One size",
        3.17,
        "https://m.example/main.jpg",
    ),
}
RECORDS = {"2014": as_2014, "2018": as_2018, "2023": as_2023}


@pytest.mark.parametrize("dump", [json.dumps, repr], ids=["json", "literal"])
@pytest.mark.parametrize("year", META)
def test_metadata_of_every_year_become_the_same_columns(tmp_path, caplog, year, dump):
    reviews = write_lines(tmp_path / "reviews_Baby_5.json", map(RECORDS[year], pairs().to_dicts()))
    item = "parent_asin" if year == "2023" else "asin"
    others = [{item: "B0STRANGER", "title": "Not reviewed"}, {item: ITEMS[0], "title": "Again"}]
    metadata = write_lines(tmp_path / "meta_Baby.json.gz", [*META[year], *others], dump)
    with caplog.at_level(logging.WARNING, "lirdrec"):
        dataset = read_amazon(reviews, metadata)
    assert_mentions(caplog.text, [metadata, "1 line", "4 items", "6"])
    table = dataset.item_table
    assert table.columns == ["item", "title", "brand", "category", "description", "price", "image_url"]
    assert table["item"].to_list() == sorted(ITEMS)
    rows = {row["item"]: tuple(row.values())[1:] for row in table.to_dicts()}
    assert rows[ITEMS[0]] == ('Girls Ballet & Tutu "Pink"', "Coxlures", *FIRST[year])
    assert rows[ITEMS[1]] == ('A "b"', None, "Baby", None, 9.5 if year == "2023" else None, None)
    assert rows[ITEMS[2]] == (None,) * 6
    assert dataset.info["source"]["items_without_metadata"] == 4
    assert Dataset.load(dataset.save(tmp_path / "prepared")).item_table.equals(table)


def test_only_items_that_are_left_are_described(tmp_path):
    rows = [*pairs().to_dicts(), {"user": "A9", "item": "B00THEONE1", "rating": 5.0, "timestamp": 0}]
    reviews = write_lines(tmp_path / "r.json", map(as_2014, rows))
    metadata = write_lines(tmp_path / "m.json", [{"asin": item, "title": item} for item in ("B00THEONE1", ITEMS[4])])
    assert "B00THEONE1" in read_amazon(reviews, metadata).items
    filtered = read_amazon(reviews, metadata, k_core=2)
    assert "B00THEONE1" not in filtered.items
    assert filtered.item_table["title"].drop_nulls().to_list() == [ITEMS[4]]


@pytest.mark.parametrize(
    ("price", "dollars"),
    [
        (3.5, 3.5),
        (0, 0.0),
        ("$7.50", 7.5),
        ("$1,234", 1234.0),
        ("$5.00 - $10.00", 5.0),
        ("from 14.99", 14.99),
        ("—", None),
        ("", None),
        (None, None),
        (True, None),
        (-1, None),
        (float("nan"), None),
        (10**400, None),
        ("9" * 400, None),
        (".a-section.a-spacing-mini{margin-bottom:6px!important}", None),
        (["3"], None),
    ],
)
def test_prices(price, dollars):
    assert metadata_row({"asin": "B", "price": price})[5] == dollars


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Caf&eacute; &lt;b&gt;au&lt;/b&gt; lait", "Café au lait"),
        ("if a<b and c>d", "if a<b and c>d"),
        ("<span id='x'>Red</span>\u00a0shoe\n", "Red shoe"),
        ("half \ud800 of", "half of"),
        ("&", "&"),
    ],
)
def test_texts_lose_their_markup_and_nothing_else(raw, text):
    assert strip_html(raw) == text


# ---- folders


def test_a_folder_is_understood(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    write_lines(tmp_path / "other.json", [{"a": 1}])
    assert not is_amazon(tmp_path)
    with assert_error(DataError, mentions=[tmp_path, "reviews_*.json.gz"]):
        find_amazon(tmp_path)
    reviews = write_lines(tmp_path / "Baby_Products.jsonl.gz", map(as_2023, pairs().to_dicts()))
    metadata = write_lines(tmp_path / "meta_Baby_Products.jsonl.gz", META["2023"])
    write_lines(tmp_path / "meta_Books.jsonl.gz", META["2023"])
    (tmp_path / "ratings_Baby.csv").write_text("A1,B000F83SZQ,5.0,1\n")
    (tmp_path / "image_features_Baby_Products.b").write_bytes(b"")
    assert is_amazon(tmp_path) and is_amazon(reviews) and not is_amazon(metadata)
    assert find_amazon(tmp_path) == (reviews, metadata, tmp_path / "image_features_Baby_Products.b")
    (tmp_path / "image_features_Baby_Products.b").unlink()
    assert read_amazon(tmp_path).item_table["title"].null_count() == 4
    write_lines(tmp_path / "Books_5.json", map(as_2014, pairs().to_dicts()))
    with assert_error(DataError, mentions=[tmp_path, "Baby_Products.jsonl.gz, Books_5.json"]):
        find_amazon(tmp_path)


def test_a_folder_with_a_table_of_ratings_only(tmp_path):
    (tmp_path / "ratings_Baby.csv").write_text("A1,B000F83SZQ,5.0,1\n")
    assert find_amazon(tmp_path) == (tmp_path / "ratings_Baby.csv", None, None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("movies.csv", "movieId,title,genres,x\n1,Toy Story,Comedy,2\n"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n"),
        ("am.csv", "user,item,rating,timestamp\n" + "u1,B000F83SZQ,5,1300000000\n" * 9),
        ("shop.csv", "customer,sku,stars,when\n" + "1000000001,s7,5,1300000000\n" * 9),
        ("words.csv", "B000F83SZQ,u1,five,1300000000\n" * 9),
        ("r.json", '{"reviewerID": "A"}\n'),
        ("r.json", "\x00\x01"),
        ("r.txt", '{"reviewerID": "A", "asin": "B", "overall": 5, "unixReviewTime": 1}\n'),
        ("r.json.gz", "not packed"),
        ("empty.json", ""),
    ],
)
def test_other_files_do_not_look_like_amazon(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert not is_amazon(tmp_path / name) and not is_amazon(tmp_path)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"user": "x"}, ["'user'"]),
        ({"rating": "x"}, ["'rating'"]),
        ({"timestamp": "x"}, ["'timestamp'", "None"]),
        ({"split": "randm"}, ["split", "'randm'", "random, cold_items, temporal"]),
        ({"kcore": 5}, ["'kcore'", "'k_core'"]),
        ({"bad_lines": "ignore"}, ["bad_lines", "'ignore'", "'raise', 'skip'"]),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, facts):
    path = write_lines(tmp_path / "r.json", map(as_2014, pairs().to_dicts()))
    with assert_error(ConfigError, mentions=facts):
        read_amazon(path, **options)
