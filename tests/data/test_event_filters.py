"""Rows that are kept by the values of their columns."""

import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.data.readers import read_raw
from lirdrec.errors import ConfigError, DataError

from ..helpers import assert_error

EVENTS = "visitor,event,item,liked,n\n1,view,7,true,1\n1,buy,8,true,2\n,view,9,false,1\n2,cart,7,false,2\n"


@pytest.fixture
def events(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(EVENTS)
    return path


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ({"event": "buy"}, [(1, 8)]),
        ({"event": ["buy", "cart"]}, [(1, 8), (2, 7)]),
        ({"event": ("buy", "cart"), "n": 2}, [(1, 8), (2, 7)]),
        ({"n": 2, "liked": True}, [(1, 8)]),
    ],
)
@pytest.mark.parametrize("frames", [False, True])
def test_rows_of_other_events_do_not_count(events, only, expected, frames):
    """Not even those that lack an id."""
    options = {"user": "visitor", "only": only, "split": "none"}
    data = Dataset.from_frames(pl.read_csv(events), **options) if frames else read_raw(events, **options)
    assert data.frame("train").rows() == expected
    assert data.info["preparation"]["rows"] == 4
    assert data.info["preparation"]["other_rows"] == 4 - len(expected)


def test_messages_name_the_line_of_the_file(events):
    events.write_text(EVENTS + ",buy,9,true,1\n")
    with assert_error(DataError, mentions=[events, "'visitor'", "line 6", "bad_rows='skip'"]):
        read_raw(events, user="visitor", only={"event": "buy"})


@pytest.mark.parametrize(
    ("only", "facts"),
    [
        ({"event": "bought"}, ["'bought'", "'event'", "view, buy, cart"]),
        ({"evnt": "buy"}, ["'evnt'", "'event'"]),
        ({"event": "cart", "n": 1}, ["event=cart", "n=1"]),
    ],
)
def test_a_value_that_is_nowhere_is_an_error(events, only, facts):
    with assert_error(DataError, mentions=[events, *facts]):
        read_raw(events, user="visitor", only=only)


def test_only_must_name_columns(events):
    with assert_error(ConfigError, mentions=["'only'", "'buy'"]):
        read_raw(events, user="visitor", only="buy")
