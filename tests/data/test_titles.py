"""Titles: which column, and what a person reads in it."""

import datetime

import polars as pl
import pytest

from lirdrec.data.titles import title_column, titles


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["item", "name", "title"], "title"),
        (["item", "Book-Title"], "Book-Title"),
        (["item", "movie_title"], "movie_title"),
        (["item", "subtitle"], None),
        (["item", "TITEL"], "TITEL"),
        (["item", "Product Name"], "Product Name"),
        (["item", "product.name", "brand.name"], "product.name"),
        (["item", "info.title", "brand.name"], "info.title"),
        (["item", "brand.name"], None),
        (["item", "info.title", "seller.title"], None),
    ],
)
def test_the_column(columns, expected):
    assert title_column(pl.DataFrame({name: ["x"] for name in columns})) == expected


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([["The", "Glass"], [], None, [None, "x"]], pl.List(pl.String), ["The Glass", None, None, "x"]),
        ([["a", "b"]], pl.Array(pl.String, 2), ["a b"]),
        ([[1, 2]], pl.List(pl.Int64), ["1 2"]),
        ([1917, None], pl.Int64, ["1917", None]),
        (["a", "b"], pl.Categorical, ["a", "b"]),
        ([datetime.date(2024, 5, 31)], pl.Date, ["2024-05-31"]),
        ([{"en": "x"}], pl.Struct({"en": pl.String}), [None]),
        ([b"x"], pl.Binary, [None]),
        ([None], pl.Null, [None]),
    ],
)
def test_values_of_any_type(values, kind, expected):
    found = titles(pl.DataFrame({"title": pl.Series(values, dtype=kind)}))
    assert found is not None and found.dtype == pl.String and found.to_list() == expected
