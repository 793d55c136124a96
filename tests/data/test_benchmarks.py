"""The counts of the published datasets, on the real files where they are, and what is said when counts differ."""

import logging

import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.data.benchmarks import PUBLISHED, BenchmarkDataset, check, recipe
from lirdrec.data.readers import read_interactions, read_mmrec
from lirdrec.errors import ConfigError, DataError

from ..helpers import assert_error, assert_mentions


@pytest.fixture(scope="module")
def clothing(real_data):
    path = real_data / "clothing" / "reviews.tsv"
    options = {"user": "reviewerID", "item": "asin", "timestamp": "order"}
    return read_interactions(path, name="clothing", **options, **recipe("clothing").options)


def test_clothing_from_raw_ids_is_as_published(clothing, caplog):
    with caplog.at_level(logging.WARNING, "lirdrec"):
        assert check(clothing, "Clothing", strict=True) == []
    assert not caplog.records
    assert (clothing.n_users, clothing.n_items) == (39_387, 23_033)
    assert sum(len(clothing.split(part)) for part in ("train", "valid", "test")) == 278_677
    assert clothing.info["preparation"]["removed_by_k_core"] == 0  # the published file is its own 5-core


@pytest.mark.parametrize("name", ["baby", "sports"])
def test_the_paper_s_own_splits_are_as_published(real_data, name):
    assert check(read_mmrec(real_data / name), name, strict=True) == []


def test_another_dataset_gives_a_warning_with_each_number(clothing, caplog):
    with caplog.at_level(logging.WARNING, "lirdrec"):
        reported = check(clothing, "baby")
    counts = [
        ["users", "39,387", "19,445", "+19,942"],
        ["items", "23,033", "7,050", "+15,983"],
        ["interactions", "278,677", "160,792", "+117,885"],
        ["reviews_Baby_5.json.gz"],
    ]
    for line, facts in zip(reported, counts, strict=True):
        assert_mentions(line, facts)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert_mentions(caplog.messages[0], ["clothing", "Amazon Baby, 2014, 5-core", *reported])
    with assert_error(DataError, mentions=["clothing", "Amazon Baby, 2014, 5-core", *reported]):
        check(clothing, "baby", strict=True)


def whole(n=6, **options):
    """Everyone of `n` users likes everyone of `n` items, rated 1 to 5 in turn."""
    cells = [(user, item) for user in range(n) for item in range(n)]
    frame = pl.DataFrame(cells, schema=["user", "item"], orient="row")
    ratings = pl.Series("rating", [float(at % 5 + 1) for at in range(len(cells))])
    return Dataset.from_frames(frame.with_columns(ratings), rating="rating", **options)


@pytest.mark.parametrize(
    ("dataset", "expected", "facts"),
    [
        (whole(), (7, 7, 49), ["tiny.json.gz"]),
        (whole(4), (6, 6, 36), ["4 interactions", "5-core", "k_core=5", "tiny.json.gz"]),
        (whole(min_rating=4), (6, 6, 15), ["22 rows", "4.0"]),
        (whole(info={"source": {"bad_lines": 3}}), (6, 6, 39), ["3 bad lines"]),
        (whole(info={"source": {"bad_lines": 3}}), (60, 60, 390), ["3 bad lines", "tiny.json.gz"]),
        (
            whole(features={"image": (list(range(1, 6)), [[1.0]] * 5)}, without_features="drop"),
            (6, 6, 36),
            ["1 item", "features"],
        ),
        (whole(), (6, 7, 30), ["tiny.json.gz"]),
    ],
)
def test_the_likely_reason_is_given(monkeypatch, dataset, expected, facts):
    monkeypatch.setitem(PUBLISHED, "tiny", BenchmarkDataset("tiny", "Tiny", "amazon", ("tiny.json.gz",), *expected))
    reason = check(dataset, "tiny")[-1]
    assert_mentions(reason, facts)
    assert ("tiny.json.gz" in reason) is ("tiny.json.gz" in facts)  # what was noted explains the difference, or not


def test_a_file_cut_short_and_another_file_are_different_reasons(monkeypatch):
    reasons = set()
    for counts in ((7, 7, 49), (6, 7, 30)):
        monkeypatch.setitem(PUBLISHED, "tiny", BenchmarkDataset("tiny", "Tiny", "amazon", ("x",), *counts))
        reasons.add(check(whole(), "tiny")[-1])
    assert len(reasons) == 2


def test_one_differing_number_is_enough(monkeypatch):
    data = whole()
    for counts, lines in (((6, 6, 36), 0), ((6, 6, 37), 2), ((7, 6, 36), 2), ((6, 5, 35), 3)):
        monkeypatch.setitem(PUBLISHED, "tiny", BenchmarkDataset("tiny", "Tiny", "amazon", ("x",), *counts))
        assert len(check(data, "tiny")) == lines


def test_the_counts_of_the_paper():
    assert {name: (one.users, one.items, one.interactions) for name, one in PUBLISHED.items()} == {
        "baby": (19_445, 7_050, 160_792),
        "sports": (35_598, 18_357, 296_337),
        "clothing": (39_387, 23_033, 278_677),
        "electronics": (192_403, 63_001, 1_689_188),
        "microlens": (98_129, 17_228, 705_174),
    }


def test_an_unknown_name_gets_the_nearest():
    with assert_error(ConfigError, mentions=["'sport'", "'sports'"]):
        recipe("sport")
    with assert_error(ConfigError, mentions=["'xyz'", "baby, sports, clothing, electronics, microlens"]):
        check(whole(), "xyz")
