"""Whatever is wrong with a file of records: one sentence that names the line, or the line left out and counted."""

import gzip
import io
import json
import logging
import re
import zlib

import polars as pl
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lirdrec.data import json_lines
from lirdrec.data.json_lines import BadLines, parse_record, read_blocks
from lirdrec.data.readers import amazon_reviews
from lirdrec.data.readers.amazon import read_amazon
from lirdrec.data.readers.amazon_metadata import COLUMNS, read_metadata
from lirdrec.data.readers.amazon_reviews import detect_review_format, read_reviews
from lirdrec.errors import DataError

from ..helpers import assert_error, assert_mentions

ALL = ["user", "item", "rating", "timestamp"]
FORM = amazon_reviews.ReviewFormat(
    "2014", {"user": "reviewerID", "item": "asin", "rating": "overall", "timestamp": "unixReviewTime"}
)
TABLE = amazon_reviews.ReviewFormat(
    "2014", {name: name for name in ALL}, {name: place for place, name in enumerate(ALL)}, 4
)


def review(n, **changes):
    record = {"reviewerID": f"A{n}", "asin": f"B00000000{n % 3}", "reviewText": 'a "b" é', "overall": 4.0}
    return json.dumps({**record, "unixReviewTime": 1_300_000_000 + n, **changes}, ensure_ascii=n % 2 == 0)


GOOD = [review(n) for n in range(6)]


def write(path, lines, end="\n"):
    path.write_bytes("\n".join(lines).encode() + end.encode())
    return path


def table_lines(lines):
    return ["{reviewerID},{asin},{overall},{unixReviewTime}".format(**json.loads(line)) for line in lines]


# ---- a line that is no review

BAD_REVIEWS = {
    '{"reviewerID": "A1", "asin": "B1", "overall": 5.0,': ["JSON"],
    "null": [],
    "[1, 2]": ["list"],
    "{}": ["reviewerID"],
    review(1) + review(2): ["JSON", "character 116"],
    "[" * 100_000: [],
    '{"reviewerID": 1' + "0" * 5000 + "}": ["JSON"],
    '{"a": "\x01"}': ["JSON", "character 8"],
    review(1, asin=None): ["asin"],
    review(1, asin=5): ["asin", "5"],
    review(1, asin=""): ["asin", "''"],
    review(1, reviewerID=["A1"]): ["reviewerID", "['A1']"],
    review(2, reviewerID="A\ud800"): ["reviewerID", r"'A\ud800'"],
    review(1, overall="5"): ["overall", "'5'"],
    review(1, overall=True): ["overall", True],
    review(1, overall=float("nan")): ["overall", "nan"],
    review(1, overall=10**400): ["overall", 10**50],
    review(1, unixReviewTime="yesterday"): ["unixReviewTime", "'yesterday'"],
    review(1, unixReviewTime=1.5): ["unixReviewTime", 1.5],
    review(1, unixReviewTime=2**63): ["unixReviewTime", 2**63],
    review(1, unixReviewTime=None): ["unixReviewTime"],
    review(1, unixReviewTime=None, reviewTime="soon"): ["unixReviewTime"],
    "{'reviewerID': 'A1'": ["JSON", "Python"],
    "{'reviewerID': __import__('os').abort()}": ["JSON", "Python"],
    "{'reviewerID': " + "-" * 50_000 + "1}": ["JSON", "Python"],
    "{'reviewerID': " + "1+" * 50_000 + "1}": ["JSON", "Python"],
    "{'reviewerID': " + "(" * 50_000 + "}": ["JSON", "Python"],
    "{'reviewerID': '" + "A" * (1 << 20) + "'}": ["Python", "1,048,594", "1,048,576"],
}
BAD_REVIEWS_IDS = [line[:40].encode("ascii", "replace").decode() + str(n) for n, line in enumerate(BAD_REVIEWS)]


@pytest.mark.parametrize("line", BAD_REVIEWS, ids=BAD_REVIEWS_IDS)
def test_a_bad_line_is_named_or_left_out(tmp_path, caplog, line):
    path = write(tmp_path / "reviews.json", [*GOOD[:3], line, *GOOD[3:]])
    with assert_error(DataError, mentions=[path, "line 4", *BAD_REVIEWS[line], "bad_lines='skip'"]) as caught:
        read_amazon(path, min_rating=1)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    with caplog.at_level(logging.WARNING, "lirdrec"):
        dataset = read_amazon(path, min_rating=1, bad_lines="skip", split="none")
    assert len(dataset.train) == 6 and dataset.info["source"]["bad_lines"] == 1
    assert_mentions(caplog.messages[0], [path, "1 bad line", "line 4", *BAD_REVIEWS[line]])


BAD_RATINGS = {
    "A1,B000000001,5.0": ["3 values", 4],
    "A1,B000000001,5.0,1,2": ["5 values", 4],
    ",B000000001,5.0,1": ["user", "''"],
    "A1,B000000001,five,1": ["rating", "'five'"],
    "A1,B000000001,,1": ["rating", "''"],
    "A1,B000000001,nan,1": ["rating", "'nan'"],
    "A1,B000000001,5,1.5": ["time", 1.5],
    "A1,B000000001,5,1_0": ["time", "'1_0'"],
}


@pytest.mark.parametrize("line", BAD_RATINGS)
def test_a_bad_line_of_a_table_is_named_or_left_out(tmp_path, line):
    path = write(tmp_path / "ratings.csv", [*table_lines(GOOD), line])
    with assert_error(DataError, mentions=[path, "line 7", *BAD_RATINGS[line]]):
        read_amazon(path, min_rating=1)
    assert len(read_amazon(path, min_rating=1, bad_lines="skip", split="none").train) == 6


def test_values_that_nobody_asked_for_may_be_wrong(tmp_path):
    path = write(tmp_path / "reviews.json", [review(0), review(1, overall="?", unixReviewTime=None)])
    assert len(read_amazon(path, timestamp=None, split="none").train) == 2


def test_odd_but_good_lines_are_read(tmp_path):
    lines = [
        "",
        " " + review(0),
        review(1, unixReviewTime=1.3e9),
        review(2, overall=3),
        "  ",
        repr(json.loads(review(3))),
    ]
    path = tmp_path / "reviews.json"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    frame = read_reviews(path, detect_review_format(path), ALL, BadLines(path))
    assert frame.rows()[1:3] == [("A1", "B000000001", 4.0, 1_300_000_000), ("A2", "B000000002", 3.0, 1_300_000_002)]
    assert frame["user"].to_list() == ["A0", "A1", "A2", "A3"]


# ---- a file that is no file of reviews

BAD_FILES = {
    "empty": (b"", []),
    "blank": (b"\n \n", []),
    "list": (b'[{"reviewerID": "A"}]', ["'['"]),
    "strange": (b'{"a": 1, "b": 2}\n', ["a, b", "reviewerID", "parent_asin"]),
    "metadata": (b'{"asin": "B1", "title": "x"}\n', ["metadata"]),
    "words": (b"once upon a time\n", ["line 1"]),
    "numbers": (b"1,2,3,4\n", ["ASIN"]),
    "header": (b"user_id,parent_asin,stars\n", ["rating, timestamp"]),
    "broken": (b'{"reviewerID": \n', ["line 1", "JSON", "character 16"]),
    "binary": (b"\xff\xfe\x00", ["UTF-8", "0xff"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_of_something_else_are_reported(tmp_path, name):
    content, facts = BAD_FILES[name]
    path = tmp_path / "reviews.json"
    path.write_bytes(content)
    with assert_error(DataError, mentions=[path, *facts]) as caught:
        read_amazon(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_a_good_line(tmp_path):
    path = write(tmp_path / "reviews.json", [review(0, overall=None), review(1, overall=None)])
    with assert_error(DataError, mentions=[path, "line 1", "overall"]):
        read_amazon(path, min_rating=1, bad_lines="skip")


def test_reviews_and_metadata_exchanged(tmp_path):
    reviews = write(tmp_path / "reviews.json", GOOD)
    with assert_error(DataError, mentions=[reviews, "metadata"]):
        read_amazon(reviews, reviews, bad_lines="skip")


def test_metadata_of_another_category(tmp_path):
    metadata = write(tmp_path / "meta.json", ["{'asin': 'B999999999', 'title': 'x'}"])
    with assert_error(DataError, mentions=[metadata, "3 items"]):
        read_amazon(write(tmp_path / "reviews.json", GOOD), metadata)


BAD_METADATA = {
    "{'asin': 'B000000001', 'title': {'a': 1}}": ["title", "{'a': 1}"],
    "{'asin': 'B000000001', 'categories': [[['a']]]}": ["categories", "[['a']]"],
    "{'asin': 'B000000001', 'title': 'x": ["JSON", "Python"],
    '{"title": "x"}': ["asin"],
    '{"asin": 3}': ["asin", "3"],
}


@pytest.mark.parametrize("line", BAD_METADATA)
def test_bad_lines_of_metadata(tmp_path, line):
    metadata = write(tmp_path / "meta.json", [line, '{"asin": "B000000002", "title": "kept"}'])
    reviews = write(tmp_path / "reviews.json", GOOD)
    with assert_error(DataError, mentions=[metadata, "line 1", *BAD_METADATA[line]]):
        read_amazon(reviews, metadata)
    dataset = read_amazon(reviews, metadata, bad_lines="skip")
    assert dataset.item_table["title"].to_list() == [None, None, "kept"]
    assert dataset.info["source"]["bad_metadata_lines"] == 1


# ---- a file that is damaged


def test_a_file_cut_in_a_line_says_so(tmp_path):
    path = tmp_path / "reviews.json"
    path.write_bytes("\n".join(GOOD).encode()[:-20])
    with assert_error(DataError, mentions=[path, "line 6", "JSON", "bad_lines='skip'"]):
        read_amazon(path)


@pytest.mark.parametrize("keep", [12, 0.3, 0.9, -1])
def test_a_gzip_file_that_is_cut_short_is_never_read_in_part(tmp_path, keep):
    content = gzip.compress("\n".join(GOOD * 200).encode())
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with assert_error(DataError, mentions=[path, "gzip"]):
        read_amazon(path, bad_lines="skip")


def _harmless(content):
    """Whether the content is as it was: the bits that fill up the last byte of deflate's stream say nothing."""
    try:
        return gzip.decompress(content) == "\n".join(GOOD).encode()
    except (OSError, EOFError, zlib.error):
        return False


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_gzip_file_is_found(tmp_path_factory, at, bit):
    content = bytearray(gzip.compress("\n".join(GOOD).encode(), mtime=0))
    content[10 + int(at * (len(content) - 10))] ^= 1 << bit  # behind the header, whose flags and time say nothing
    assume(not _harmless(bytes(content)))
    path = tmp_path_factory.mktemp("flipped") / "reviews.json.gz"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_amazon(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# ---- the fast parsers give what reading line by line gives


def line_by_line(content):
    """What the lines of a file hold by Python's json alone: rows, and the numbers of the lines that are bad."""
    rows, bad = [], []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode())
            user, item, rating, time = (record[name] for name in FORM.names.values())
            assert isinstance(user, str) and user and isinstance(item, str) and item
            assert type(rating) in (int, float) and abs(rating) < float("inf")
            assert type(time) in (int, float) and int(time) == time and abs(time) < 2**63
            (user + item).encode()
            rows.append((user, item, float(rating), int(time)))
        except (ValueError, KeyError, TypeError, AssertionError, OverflowError, RecursionError):
            bad.append(number)
    return rows, bad


PIECES = [b"null", b"{", b"}", b"[", b"]", b'"', b":", b",", b"\n", b"\r", b"\\", b"true", b"1", b"-", b"\x00", b"\xff"]
PIECES += [b"e", b"\\u", b"NaN", b"{}", b" ", b'"asin"', b"\n\n", b'\n{"asin": "B"}\n', b"\nnull\n", b"\r\n", b"'"]


@settings(max_examples=400, deadline=None)
@given(
    edits=st.lists(
        st.tuples(
            st.floats(0, 1), st.sampled_from(["put", "over", "cut"]), st.sampled_from(PIECES), st.integers(1, 40)
        ),
        max_size=4,
    )
)
@example(edits=[(0.0, "put", b"\nnull\n", 1)])
@example(edits=[(0.0, "put", b"null\n", 1)])
def test_any_damage_gives_what_reading_each_line_gives(tmp_path_factory, edits):
    content = bytearray(("\n".join(GOOD[:4]) + "\n").encode())
    for place, what, piece, length in edits:
        at = int(place * len(content))
        content[at : at + {"put": 0, "over": len(piece), "cut": length}[what]] = b"" if what == "cut" else piece
    rows, wrong = line_by_line(bytes(content))
    path = tmp_path_factory.mktemp("damaged") / "reviews.json"
    path.write_bytes(content)
    if not content:
        return
    bad = BadLines(path, "skip")
    if rows:
        assert read_reviews(path, FORM, ALL, bad).rows() == rows
        assert bad.count == len(wrong) and (not wrong or re.search(rf"\bline {wrong[0]}\b", bad.example))
    else:
        with assert_error(DataError, mentions=[path]):
            read_reviews(path, FORM, ALL, bad)
    if wrong:
        with pytest.raises(DataError, match=rf"\bline {wrong[0]}\b"):
            read_reviews(path, FORM, ALL, BadLines(path))


names = st.text(st.characters(codec="utf-8"), min_size=1)
ids = names.filter(str.strip)
values = st.none() | st.booleans() | st.floats() | st.text() | st.just([{"a": [None, "}\n{"]}])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(ids, ids, st.floats(-1e300, 1e300) | st.integers(-9, 9), st.integers(-(2**63) + 1, 2**63 - 1)),
        min_size=1,
        max_size=9,
    ),
    others=st.dictionaries(names, values, max_size=3),
    escaped=st.booleans(),
)
def test_any_review_is_read_as_it_was_written(tmp_path_factory, rows, others, escaped):
    records = [{**others, **dict(zip(FORM.names.values(), row, strict=True))} for row in rows]
    text = "".join(json.dumps(record, ensure_ascii=escaped) + "\n" for record in records)
    path = tmp_path_factory.mktemp("any") / "reviews.json.gz"
    path.write_bytes(gzip.compress(text.encode("utf-8", "surrogatepass"), 1))
    frame = read_reviews(path, FORM, ALL, BadLines(path))
    assert frame.rows() == [(user, item, float(rating), time) for user, item, rating, time in rows]
    assert frame.dtypes == [pl.String, pl.String, pl.Float64, pl.Int64]


plain_names = st.text(st.characters(codec="utf-8", exclude_characters=",\r\n"), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(plain_names, plain_names, st.integers(0, 5).map(float), st.integers(-(10**12), 10**12)), min_size=1
    )
)
def test_any_table_of_ratings_is_read_as_it_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("any") / "ratings.csv"
    path.write_bytes("".join(",".join(map(str, row)) + "\n" for row in rows).encode())
    if path.read_bytes().startswith(b"\xef\xbb\xbf"):
        return
    assert read_reviews(path, TABLE, ALL, BadLines(path)).rows() == rows


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line), min_size=1), size=st.integers(1, 30)
)
def test_blocks_are_whole_lines_in_order_and_know_their_number(tmp_path_factory, lines, size):
    content = b"\n".join(lines)
    if not content or content.startswith(b"\xef\xbb\xbf") or b"\r\n" in content:
        return
    path = tmp_path_factory.mktemp("blocks") / "lines"
    path.write_bytes(gzip.compress(content, 1))
    seen = list(read_blocks(path, size))
    assert b"".join(block for _, block in seen) == content
    for position, (number, block) in enumerate(seen):
        before = b"".join(one for _, one in seen[:position])
        assert number == before.count(b"\n") + 1 and block
        assert position == 0 or before.endswith(b"\n")


def test_lines_without_an_end_are_not_gathered_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "zeros"
    path.write_bytes(b"a\n" + bytes(5000))
    with assert_error(DataError, mentions=[path, "line 2"]):
        list(read_blocks(path, 100))


def test_many_blocks_give_what_one_gives(tmp_path, monkeypatch):
    path = write(tmp_path / "reviews.json", [review(n, asin=f"B{n:09}") for n in range(500)])
    whole = read_reviews(path, FORM, ALL, BadLines(path))
    monkeypatch.setattr(amazon_reviews, "read_blocks", lambda path: read_blocks(path, 999))
    assert_frame_equal(read_reviews(path, FORM, ALL, BadLines(path)), whole)
    assert whole.height == 500


@pytest.mark.parametrize("form", [FORM, TABLE], ids=["json", "csv"])
def test_good_blocks_are_not_read_line_by_line(tmp_path, monkeypatch, form):
    path = write(tmp_path / "reviews", GOOD if form is FORM else table_lines(GOOD))
    monkeypatch.setattr(amazon_reviews, "parse_lines", lambda *_: pytest.fail("the slow way was taken"))
    assert read_reviews(path, form, ALL, BadLines(path)).rows() == line_by_line("\n".join(GOOD).encode())[0]


literal = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda one: st.lists(one, max_size=4) | st.dictionaries(st.text(), one, max_size=4),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None)
@given(record=st.dictionaries(st.text(), literal))
def test_python_literals_are_read_as_they_were_written(record):
    text = repr(record)
    if text.startswith('{"'):  # Python chose double quotes for a first key with an apostrophe: no such key is published
        return
    try:
        line = text.encode()
    except UnicodeEncodeError:
        return
    assert parse_record(line) == record


def test_metadata_of_items_that_are_not_wanted_are_not_parsed(tmp_path, monkeypatch):
    path = write(tmp_path / "meta.json", [f"{{'asin': 'B{n:09}', 'title': 'x'}}" for n in range(100)])
    calls = []
    monkeypatch.setattr(
        "lirdrec.data.readers.amazon_metadata.parse_record", lambda line: calls.append(line) or parse_record(line)
    )
    table = read_metadata(path, pl.Series(["B000000007", "B000000003"]), BadLines(path))
    assert table["item"].to_list() == ["B000000007", "B000000003"] and table["title"].to_list() == ["x", "x"]
    assert len(calls) == 2 and table.columns == list(COLUMNS)


def test_a_gzip_of_several_parts_is_read_whole(tmp_path):
    packed = io.BytesIO()
    for line in GOOD:
        packed.write(gzip.compress(line.encode() + b"\n"))
    path = tmp_path / "reviews.json"  # detected by its bytes, not by its name
    path.write_bytes(packed.getvalue())
    assert len(read_amazon(path, split="none").train) == 6
