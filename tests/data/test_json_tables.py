"""JSON as tables: lines, lists, nested records, lists of events, and types that are what the file says."""

import gzip
import json
import re

import polars as pl
import pytest

from lirdrec.data.json_tables import read_json
from lirdrec.data.readers import kind_of, read_interactions, read_raw
from lirdrec.data.table_files import read_table
from lirdrec.errors import DataError

from ..helpers import assert_error, assert_mentions

LOG = [
    {"user": "u000", "item": "sku-05", "rating": 5, "ts": 1706346839000},
    {"user": "u000", "item": "sku-00", "rating": 4, "ts": 1710589434000},
    {"user": "u001", "item": "sku-22", "rating": 3, "ts": 1715548985000},
]
PAIRS = [("u000", "sku-00", 1710589434000), ("u000", "sku-05", 1706346839000), ("u001", "sku-22", 1715548985000)]


def lines(path, records):
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["log.jsonl", "log.json", "log.ndjson.gz", "events.log"])
def test_a_log_is_a_table(tmp_path, name):
    path = lines(tmp_path / name, LOG)
    assert kind_of(path) == "table"
    options = {"rating": "rating", "timestamp": "ts", "split": "none"}
    assert read_raw(path, user="user", item="item", **options).frame("train").rows() == PAIRS
    assert read_raw(path, min_rating=4, **options).frame("train").rows() == PAIRS[:2]


def test_one_list_of_records(tmp_path):
    path = tmp_path / "log.json"
    path.write_text(json.dumps(LOG, indent=2))
    assert read_raw(path, timestamp="ts", split="none").frame("train").rows() == PAIRS


def test_python_literals_are_parsed_and_never_run(tmp_path):
    path = tmp_path / "log.json"
    path.write_text("{u'user': u'a', 'item': 'it\\'s'}\n{'user': 'b', 'item': __import__('os').getcwd()}\n")
    with assert_error(DataError, mentions=[path, "line 2"]):
        read_raw(path, user="user", item="item")


def test_amazon_reviews_are_still_recognized(tmp_path):
    path = lines(tmp_path / "x.jsonl", [{"reviewerID": "A", "asin": "B000000001", "overall": 5.0, "unixReviewTime": 1}])
    assert kind_of(path) == "amazon"
    assert kind_of(path, ["user"]) == "table"


@pytest.mark.parametrize("as_list", [False, True])
def test_a_log_of_unknown_keys_names_them(tmp_path, as_list):
    records = [{"visitor": 1, "product": {"id": 7}}]
    path = lines(tmp_path / "x.json", records)
    if as_list:
        path.write_text(json.dumps(records))
    with assert_error(DataError, mentions=[path, "visitor, product", "user='KEY', item='KEY'"]):
        kind_of(path)


def test_nested_keys_and_lists_of_events(tmp_path):
    sessions = [
        {"who": {"id": 7}, "events": [{"sku": "a", "ts": 1}, {"sku": "b", "ts": 2}]},
        {"who": {"id": 8}, "events": []},
        {"who": {"id": 9}, "events": [{"sku": "a", "ts": 3}]},
    ]
    path = lines(tmp_path / "s.jsonl", sessions)
    data = read_interactions(path, user="who.id", item="events.sku", timestamp="events.ts", split="none")
    assert data.frame("train").rows() == [(7, "a", 1), (7, "b", 2), (9, "a", 3)]
    sessions[0]["events"][1].pop("sku")
    lines(path, sessions)
    with assert_error(DataError, mentions=[path, "'events.sku'"]) as caught:
        read_interactions(path, user="who.id", item="events.sku")
    assert re.search(r"\bline 1\b", str(caught.value))


def test_a_list_of_plain_ids(tmp_path):
    path = lines(tmp_path / "s.jsonl", [{"user": 1, "items": ["007", "8"]}, {"user": 2, "items": ["8"]}])
    data = read_interactions(path, item="items", split="none")
    assert data.frame("train").rows() == [(1, "007"), (1, "8"), (2, "8")]


def test_two_lists_cannot_be_paired(tmp_path):
    path = lines(tmp_path / "s.jsonl", [{"user": 1, "a": [1, 2], "b": [3, 4]}])
    with assert_error(DataError, mentions=[path, "line 1", "'a'", "'b'"]):
        read_interactions(path, item="a", timestamp="b")


def test_a_record_is_no_value(tmp_path):
    path = lines(tmp_path / "s.jsonl", [{"user": {"id": 1}, "item": 2}])
    with assert_error(DataError, mentions=[path, "line 1", "'user'", "user.id"]):
        read_interactions(path)


def test_a_key_of_a_nested_record_is_offered(tmp_path):
    path = lines(tmp_path / "s.jsonl", [{"user": 1, "events": [{"type": "buy", "aid": 2}]}])
    with assert_error(DataError, mentions=[path, "'aid'", "user, events, events.type, events.aid", "'events.aid'"]):
        read_interactions(path, item="aid")


def test_a_dot_in_a_key_is_part_of_it(tmp_path):
    path = lines(tmp_path / "s.jsonl", [{"user.id": 1, "item": 2}])
    assert read_interactions(path, user="user.id", split="none").frame("train").rows() == [(1, 2)]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2**63 - 1], pl.Int64, [1, 2**63 - 1]),
        ([1, 2**63], pl.String, ["1", str(2**63)]),
        ([1, 2.5, None], pl.Float64, [1.0, 2.5, None]),
        ([2**53 + 1, 0.5], pl.String, [str(2**53 + 1), "0.5"]),
        (["007", "8"], pl.String, ["007", "8"]),
        (["007", 8, True], pl.String, ["007", "8", "true"]),
        ([True, None], pl.Boolean, [True, None]),
        ([["a", "b"], [], None], pl.List(pl.String), [["a", "b"], [], None]),
        ([[1, 2], [3]], pl.List(pl.Int64), [[1, 2], [3]]),
        ([["a"], "b"], pl.List(pl.String), [["a"], ["b"]]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 100])
def test_types_are_what_the_file_says(tmp_path, monkeypatch, values, kind, expected, chunk):
    monkeypatch.setattr("lirdrec.data.json_tables.CHUNK_RECORDS", chunk)
    path = lines(tmp_path / "t.jsonl", [{"x": value} for value in values])
    found = read_json(path).frame["x"]
    assert (found.dtype, found.to_list()) == (kind, expected)


def test_an_item_table_keeps_what_a_column_can_hold(tmp_path, caplog):
    records = [
        {"item": 1, "title": "A", "maker": {"name": "M"}, "tags": ["x"], "shelves": [{"n": 1}]},
        {"item": 2, "price": 3},
    ]
    path = lines(tmp_path / "items.jsonl", records)
    table = read_table(path, text="item")
    assert table.frame.columns == ["item", "title", "maker.name", "tags", "price"]
    assert table.frame.row(1) == (2, None, None, None, 3)
    assert_mentions(caplog.text, ["'shelves'"])


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ('[{"user": 1, "item": 2}, {"user": 1 "item": 3}]', ["JSON", "line 1", "character 37", "record 2"]),
        ('[{"user": 1, "item": 2}', ["record 1", "','", "']'"]),
        ('[{"user": 1, "item": 2}, 7]', ["record 2"]),
        ('{"user": 1, "item": 2}\n{"user": 1\n', ["line 2", "JSON", "bad_rows='skip'"]),
        ('{"user": "\\ud83d", "item": 2}\n', ["line 1", "'user'", r"\ud83d"]),
        ("[]", []),
    ],
)
def test_damage_is_named_with_its_place(tmp_path, text, facts):
    path = tmp_path / "log.json"
    path.write_text(text)
    with assert_error(DataError, mentions=[path, *facts]) as caught:
        read_raw(path, user="user", item="item")
    assert "\n" not in str(caught.value)


def test_bad_lines_are_skipped_and_counted(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"user": 1, "item": 2}\nnothing\n\n{"user": 2, "item": 2}\n')
    data = read_raw(path, bad_rows="skip", split="none")
    assert data.frame("train").rows() == [(1, 2), (2, 2)]
    assert data.info["preparation"]["bad_rows_skipped"] == 1
    with assert_error(DataError, mentions=[path, "line 2", "bad_rows='skip'"]):
        read_raw(path)
