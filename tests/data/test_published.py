"""The counts of the published datasets, on the real files where they are, and what is said when counts differ."""

import logging

import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.data.published import PUBLISHED, Published, check, recipe
from lirdrec.data.readers import read_interactions, read_mmrec
from lirdrec.errors import ConfigError, DataError


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


def test_another_dataset_is_told_loudly_with_each_number(clothing, caplog):
    with caplog.at_level(logging.WARNING, "lirdrec"):
        told = check(clothing, "baby")
    assert told == [
        "users: 39,387 instead of 19,445 (+19,942)",
        "items: 23,033 instead of 7,050 (+15,983)",
        "interactions: 278,677 instead of 160,792 (+117,885)",
        "likely reason: another file or another year of the collection; expected is reviews_Baby_5.json.gz",
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    message = caplog.records[0].getMessage()
    assert message == f"clothing: not the published Amazon Baby, 2014, 5-core: {'; '.join(told)}"
    with pytest.raises(DataError, match="not the published Amazon Baby, 2014, 5-core: users: 39,387 instead of 19,445"):
        check(clothing, "baby", strict=True)


def whole(n=6, **options):
    """Everyone of `n` users likes everyone of `n` items, rated 1 to 5 in turn."""
    cells = [(user, item) for user in range(n) for item in range(n)]
    frame = pl.DataFrame(cells, schema=["user", "item"], orient="row")
    ratings = pl.Series("rating", [float(at % 5 + 1) for at in range(len(cells))])
    return Dataset.from_frames(frame.with_columns(ratings), rating="rating", **options)


PART = "the file of interactions is cut short or a part of it; expected is x"


@pytest.mark.parametrize(
    ("dataset", "expected", "reason"),
    [
        (whole(), (7, 7, 49), PART),
        (whole(4), (6, 6, 36), "some users or items have only 4 interactions, so this is not the 5-core: prepare it"),
        (whole(min_rating=4), (6, 6, 15), "22 rows rated below 4.0 left out, and here all count"),
        (whole(info={"source": {"bad_lines": 3}}), (6, 6, 39), "3 bad lines of the source left out"),
        (whole(info={"source": {"bad_lines": 3}}), (60, 60, 390), f"3 bad lines of the source left out; {PART}"),
        (
            whole(features={"image": (list(range(1, 6)), [[1.0]] * 5)}, without_features="drop"),
            (6, 6, 36),
            "1 item without features dropped, and the published data keep them",
        ),
        (whole(), (6, 7, 30), "another file or another year of the collection; expected is x"),
    ],
)
def test_the_likely_reason_is_given(monkeypatch, dataset, expected, reason):
    monkeypatch.setitem(PUBLISHED, "tiny", Published("tiny", "Tiny", "amazon", ("x",), *expected))
    assert check(dataset, "tiny")[-1].startswith(f"likely reason: {reason}")


def test_one_differing_number_is_enough(monkeypatch):
    data = whole()
    for counts, lines in (((6, 6, 36), 0), ((6, 6, 37), 2), ((7, 6, 36), 2), ((6, 5, 35), 3)):
        monkeypatch.setitem(PUBLISHED, "tiny", Published("tiny", "Tiny", "amazon", ("x",), *counts))
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
    with pytest.raises(ConfigError, match="no published dataset 'sport'; did you mean 'sports'"):
        recipe("sport")
    with pytest.raises(ConfigError, match="'xyz'; there are baby, sports, clothing, electronics, microlens"):
        check(whole(), "xyz")
