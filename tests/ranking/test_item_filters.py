"""Filters against plain Python: each row is judged by itself."""

from __future__ import annotations

import datetime
import math
import operator
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec.errors import ConfigError
from lirdrec.ranking.item_filters import MAX_VALUES, Filter

from ..helpers import assert_error

PLAIN = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "in": lambda value, many: value in many,
    "contains": lambda value, part: (
        part.lower() in (value.lower() if isinstance(value, str) else [one.lower() for one in value])
    ),
}


def wanted(row: dict[str, Any], conditions: dict[str, Any]) -> bool:
    for column, asked in conditions.items():
        value = row[column]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return False
        comparisons = asked if isinstance(asked, dict) else {"eq": asked}
        if not all(PLAIN[name](value, other) for name, other in comparisons.items()):
            return False
    return True


numbers = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 1.5, -2.0, 2**60, -(2**70), 1e300]))
texts = st.sampled_from(["", "a", "b", "ab", "ä", "a.b", "A", "Ä", "B", "b\nc"])
ORDER = ["eq", "ne", "lt", "le", "gt", "ge"]


def condition(values: st.SearchStrategy, comparisons: list[str]) -> st.SearchStrategy:
    one = st.dictionaries(st.sampled_from(comparisons), values, min_size=1, max_size=2)
    listed = st.builds(lambda many: {"in": many}, st.lists(values, max_size=4))
    return st.one_of(values, one, listed)


conditions = st.fixed_dictionaries(
    {},
    optional={
        "price": condition(numbers, ORDER),
        "year": condition(numbers, ORDER),
        "title": condition(texts, [*ORDER, "contains"]),
        "kind": condition(texts, [*ORDER, "contains"]),
        "stock": condition(st.booleans(), ["eq", "ne"]),
        "tags": st.builds(lambda part: {"contains": part}, texts),
    },
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "price": st.one_of(st.none(), st.sampled_from([math.nan, 0.5, 1.0, 1.5, -2.0, 1e300])),
            "year": st.one_of(st.none(), st.sampled_from([-1, 0, 1, 2, 2**60])),
            "title": st.one_of(st.none(), texts),
            "kind": st.one_of(st.none(), texts),
            "stock": st.one_of(st.none(), st.booleans()),
            "tags": st.one_of(st.none(), st.lists(texts, max_size=2)),
        }
    ),
    min_size=1,
    max_size=6,
)
SCHEMA = {
    "price": pl.Float32,
    "year": pl.Int32,
    "title": pl.String,
    "kind": pl.Categorical,
    "stock": pl.Boolean,
    "tags": pl.List(pl.String),
}


@settings(max_examples=150, deadline=None)
@given(rows, conditions)
def test_a_mask_is_what_plain_python_says_of_each_row(table, asked):
    frame = pl.DataFrame(table, schema=SCHEMA | {"price": pl.Float64, "year": pl.Int64})
    assert Filter.parse(asked).mask(frame).tolist() == [wanted(row, asked) for row in table]


def test_the_order_of_conditions_does_not_matter_for_the_cache():
    one, other = {"a": {"lt": 1, "gt": 0}, "b": True}, {"b": True, "a": {"gt": 0, "lt": 1}}
    assert Filter.parse(one) == Filter.parse(other) != Filter.parse({"a": {"lt": 1}, "b": True})


def test_contains_is_asked_as_people_type():
    frame = pl.DataFrame(
        {"genres": ["Comedy|Drama", "comedy", "Drama", None], "tags": [["Comedy"], ["COMEDY", "x"], ["comedies"], []]}
    )
    assert Filter.parse({"genres": {"contains": "comedy"}}).mask(frame).tolist() == [True, True, False, False]
    assert Filter.parse({"genres": {"contains": "COMEDY|d"}}).mask(frame).tolist() == [True, False, False, False]
    assert Filter.parse({"tags": {"contains": "comedy"}}).mask(frame).tolist() == [True, True, False, False]
    assert Filter.parse({"genres": "comedy"}).mask(frame).tolist() == [False, True, False, False]


def test_dates_are_compared_as_dates():
    days = [datetime.date(2024, 1, 31), None, datetime.date(2023, 12, 1)]
    frame = pl.DataFrame(
        {"day": days, "at": [None if d is None else datetime.datetime(d.year, d.month, 1, 12) for d in days]}
    )
    assert Filter.parse({"day": {"ge": "2024-01-01"}}).mask(frame).tolist() == [True, False, False]
    assert Filter.parse({"day": {"in": ["2023-12-01"]}}).mask(frame).tolist() == [False, False, True]
    assert Filter.parse({"at": {"lt": "2023-12-01T12:00:01"}}).mask(frame).tolist() == [False, False, True]
    assert Filter.parse({"at": "2024-01-01T12:00"}).mask(frame).tolist() == [True, False, False]


REFUSED = [
    ({"price": {"les": 3}}, ["'price'", "'les'", "'le'"]),
    ({"price": {"in": 3}}, ["'price'", "'in'"]),
    ({"price": {"lt": [3]}}, ["'price'", "'lt'"]),
    ({"price": [3]}, ["'price'", "'eq'"]),
    ({"price": None}, ["'price'", "'eq'"]),
    ({"price": {"in": [None]}}, ["'price'", "'in'"]),
    ({"price": {"lt": {"deep": 1}}}, ["'price'", "'lt'"]),
    ({"price": math.nan}, ["'price'", "'eq'"]),
    ({"price": {"in": [0] * (MAX_VALUES + 1)}}, ["'price'", f"{MAX_VALUES:,}"]),
    ({"prise": 3}, ["'prise'", "'price'"]),
    ({"price": "cheap"}, ["'price'", "'cheap'"]),
    ({"price": True}, ["'price'", "True"]),
    ({"stock": 1}, ["'stock'", 1]),
    ({"stock": {"lt": True}}, ["'stock'", "'lt'", "Boolean"]),
    ({"title": 3}, ["'title'", 3]),
    ({"title": {"in": ["a", 1]}}, ["'title'", 1]),
    ({"price": {"contains": "1"}}, ["'price'", "'contains'", "Float64"]),
    ({"tags": "red"}, ["'tags'", "'eq'", "List(String)"]),
    ({"day": "soon"}, ["'day'", "'soon'"]),
    ({"size": {"eq": "x"}}, ["'size'", "'eq'", "Struct"]),
]


@pytest.mark.parametrize(("asked", "facts"), REFUSED)
def test_what_cannot_be_is_one_sentence(asked, facts):
    frame = pl.DataFrame(
        {
            "item": [1],
            "price": [1.0],
            "stock": [True],
            "title": ["a"],
            "tags": [["red"]],
            "day": [datetime.date(2024, 1, 1)],
            "size": [{"cm": 3}],
        }
    )
    with assert_error(ConfigError, mentions=facts) as caught:
        Filter.parse(asked).mask(frame)
    assert "\n" not in str(caught.value)


def test_equal_conditions_have_one_key_and_others_have_another():
    values = [1, 1.0, True, "1", "é", "\ud800", 2**100, *range(500)]
    keys = {Filter.parse({"a": {"in": values[:n]}}).key for n in range(len(values) + 1)}
    assert len(keys) == len(values) + 1
    assert len({Filter.parse({"a": one}).key for one in values[:7]}) == 7
    assert Filter.parse({"a": 1, "b": 2}).key == Filter.parse({"b": 2, "a": {"eq": 1}}).key
    assert Filter.parse({"a": {"in": values}}).key == Filter.parse({"a": {"in": list(values)}}).key
    assert len({Filter.parse(one).key for one in ({}, {"a": {"in": []}}, {"b": {"in": []}})}) == 3


def test_title_means_the_title_column_of_another_name():
    items = pl.DataFrame({"item": [1, 2], "product_name": ["red cup", "pan"]})
    where = Filter.parse({"title": {"contains": "cup"}})
    assert where.mask(items).tolist() == [True, False]
    own = items.with_columns(title=pl.Series(["pan", "cup"]))
    assert where.mask(own).tolist() == [False, True]
