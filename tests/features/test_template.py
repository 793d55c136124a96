from __future__ import annotations

import datetime
import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lirdrec.errors import ConfigError, DataError
from lirdrec.features.template import Template, default_template

from ..helpers import assert_error

FRAME = pl.DataFrame(
    {
        "title": ["Boots", "Boots", None, " \t", "Acme Inc."],
        "brand": ["Red", None, "Red", "", "Red!"],
        "year": [1999.0, None, 2.5, math.nan, math.inf],
        "tags": [["a", "b"], [], None, [None, " "], [None, "c"]],
    }
)


@pytest.mark.parametrize(
    ("template", "texts"),
    [
        ("{title}. {brand}. {tags}", ["Boots. Red. a, b", "Boots.", "Red.", None, "Acme Inc. Red!. c"]),
        ("{title}, {brand}", ["Boots, Red", "Boots", "Red", None, "Acme Inc., Red!"]),
        ("{title}/{brand}/{year}", ["Boots/Red/1999", "Boots", "Red/2.5", None, "Acme Inc./Red!"]),
        ("{title} ({year}), by {brand}", ["Boots (1999), by Red", "Boots", "(2.5), by Red", None, "Acme Inc. by Red!"]),
        ("{title} - {brand}", ["Boots - Red", "Boots", "Red", None, "Acme Inc. - Red!"]),
        (
            "Title: {title}. Brand: {brand}. Size: {year}cm!",
            [
                "Title: Boots. Brand: Red. Size: 1999cm!",
                "Title: Boots.",
                "Brand: Red. Size: 2.5cm!",
                None,
                "Title: Acme Inc. Brand: Red!.",
            ],
        ),
        ("{{{ title }}}", ["{Boots}", "{Boots}", None, None, "{Acme Inc.}"]),
        ("{title}  \n {title}", ["Boots Boots", "Boots Boots", None, None, "Acme Inc. Acme Inc."]),
    ],
)
def test_missing_fields_take_their_literal_text_with_them(template, texts):
    assert Template(template).render(FRAME) == texts


def test_every_kind_of_column_that_can_be_said_in_words():
    frame = pl.DataFrame(
        {
            "whole": [3],
            "flag": [True],
            "day": [datetime.date(2024, 2, 29)],
            "kind": pl.Series(["x"], dtype=pl.Categorical),
            "nested": [[["Sports", "Balls"], ["Toys"], [], None]],
            "pair": pl.Series([[1.0, 2.5]], dtype=pl.Array(pl.Float32, 2)),
            "nothing": [None],
            "a.b": ["dotted"],
        }
    )
    template = Template("{whole}|{flag}|{day}|{kind}|{nested}|{pair}|{nothing}|{a.b}")
    assert template.render(frame) == ["3|true|2024-02-29|x|Sports, Balls, Toys|1, 2.5|dotted"]
    assert template.columns == ["whole", "flag", "day", "kind", "nested", "pair", "nothing", "a.b"]
    assert template.render(frame.head(0)) == []


def test_a_name_in_braces_is_a_column_and_nothing_else():
    frame = pl.DataFrame({"title": ["x"]})
    for text in ("{title.__class__}", "{title!r}", "{title:>1000000000}", "{0}", "{title[0]}"):
        with assert_error(ConfigError, mentions=[f"'{text[1:-1]}'"]):
            Template(text).render(frame)


@pytest.mark.parametrize("dtype", ["records", "bytes"])
def test_columns_without_one_text_are_named(dtype):
    frame = pl.DataFrame({"details": [{"colour": "red"}] if dtype == "records" else [b"\x00\xff"]})
    with assert_error(DataError, mentions=["'details'"]):
        Template("{details}").render(frame)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{title", "1"),
        ("{title}. }", "10"),
        ("a {}", "3"),
        ("{title}{ {x}}", "8"),
        ("title", ""),
        ("{{title}}", ""),
        ("", ""),
    ],
)
def test_what_is_wrong_with_a_template_is_said_with_the_position(text, place):
    with assert_error(ConfigError, mentions=[f"'{text}'"]) as caught:
        Template(text)
    assert "".join(filter(str.isdigit, str(caught.value))) == place


def test_an_unknown_column_gets_the_nearest():
    with assert_error(ConfigError, mentions=["'titel'", "'title'"]):
        Template("{titel}").render(FRAME)
    with assert_error(ConfigError, mentions=["'qqqqqq'", "title, brand, year, tags"]):
        Template("{qqqqqq}").check(FRAME.columns)


def test_the_default_takes_the_columns_that_describe():
    assert default_template(["itemID", "asin", "text"]).text == "{text}"
    assert default_template(["id", "description", "Title", "price", "store"]).text == "{Title}. {store}. {description}"
    assert default_template(["name", "title", "genres", "tags"]).text == "{title}. {genres}. {tags}"
    with assert_error(ConfigError, mentions=["asin, price"]):
        default_template(["price", "asin"])


# Words without white space or stops: what is left of a text then shows which pieces were put there.
words = st.text(st.characters(codec="utf-8", categories=("L", "N", "So")), min_size=1, max_size=8)
values = st.one_of(st.none(), st.sampled_from(["", "  ", "\u3000\n"]), words)


@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=8))
def test_punctuation_stands_between_two_words_only(rows):
    frame = pl.DataFrame(rows, schema={"a": pl.String, "b": pl.String, "c": pl.String}, orient="row")
    expected = []
    for row in rows:
        present = [one.strip() for one in row if one and one.strip()]
        expected.append(", ".join(present) or None)
    assert Template("{a}, {b}, {c}").render(frame) == expected


@given(
    st.lists(
        st.one_of(st.sampled_from(["{a}", "{b}", "{{", "}}"]), st.text("ab .,;(){}'\"-/", max_size=4)), max_size=8
    ),
    st.lists(st.tuples(values, values), min_size=1, max_size=4),
)
def test_any_template_renders_or_says_what_is_wrong(pieces, rows):
    try:
        template = Template("".join(pieces))
    except ConfigError as error:
        assert "\n" not in str(error)
        return
    frame = pl.DataFrame(rows, schema={"a": pl.String, "b": pl.String}, orient="row")
    try:
        texts = template.render(frame)
    except ConfigError as error:
        unknown = [name for name in template.columns if name not in ("a", "b")]
        assert unknown and unknown[0] in str(error)
        return
    for row, text in zip(frame.iter_rows(named=True), texts, strict=True):
        present = [row[name].strip() for name in template.columns if row[name] and row[name].strip()]
        assert (text is None) == (not present)
        assert all(one in text for one in present)
        assert text is None or text == " ".join(text.split())
    # each row is rendered by itself
    assert [template.render(frame[index])[0] for index in range(len(frame))] == texts
