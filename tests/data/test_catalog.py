"""The item table and feature files beside the interactions; the counts of published datasets, where their files are."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import logging
import re

import numpy as np
import polars as pl
import pytest
import scipy.sparse

from lirdrec.data import Dataset
from lirdrec.data.preprocessing_config import PreprocessingConfig
from lirdrec.data.published_datasets import PUBLISHED, BenchmarkDataset, check, recipe
from lirdrec.data.readers import read_interactions, read_mmrec, read_raw
from lirdrec.data.titles import title_column, titles
from lirdrec.errors import ConfigError, DataError

from ..helpers import assert_error, assert_mentions

PAIRS = pl.DataFrame({"user": ["u", "u", "v", "v"], "item": ["z", "m", "a", "z"]})
VECTORS = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)


def test_from_frames_takes_what_a_recipe_has():
    parameters = inspect.signature(Dataset.from_frames).parameters
    defaults = {name: one.default for name, one in parameters.items()}
    fields = {field.name: field.default for field in dataclasses.fields(PreprocessingConfig)}
    own = {"interactions", "items", "features", "name", "info"}
    assert {name: default for name, default in defaults.items() if name not in own} == fields
    assert not any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    described = re.findall(
        r"(?:^ {12}|; )([a-z][\w, ]*): ", Dataset.from_frames.__doc__.partition("Raises:")[0], re.MULTILINE
    )
    assert {name for names in described for name in names.split(", ")} == set(parameters)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "json"])
def test_codes_in_any_column_keep_their_zeros(tmp_path, ending):
    items = pl.DataFrame({"item": ["z", "m", "a"], "ean": ["0416", "0", "12"], "price": ["1.5", "2", "3"]})
    write = {"csv": items.write_csv, "parquet": items.write_parquet, "json": items.write_ndjson}
    path = tmp_path / f"items.{ending}"
    write.get(ending, lambda path: items.write_csv(path, separator="\t"))(path)
    PAIRS.write_csv(tmp_path / "pairs.csv")
    table = read_raw(tmp_path / "pairs.csv", items=path, split="none").item_table
    assert table["ean"].to_list() == ["0416", "0", "12"]


def test_vectors_without_ids_follow_the_item_table_and_nothing_else(tmp_path, caplog):
    np.save(tmp_path / "v.npy", VECTORS)
    PAIRS.write_csv(tmp_path / "pairs.csv")
    for given in (VECTORS, tmp_path / "v.npy"):
        with assert_error(DataError, mentions=["features 'v'", "items='FILE'", "numpy.savez"]):
            Dataset.from_frames(PAIRS, features={"v": given})
    (tmp_path / "items.csv").write_text("item\nz\nm\na\n")
    with caplog.at_level(logging.WARNING):
        made = read_raw(
            tmp_path / "pairs.csv", items=tmp_path / "items.csv", features={"v": tmp_path / "v.npy"}, split="none"
        )
    assert made.items.ids.tolist() == ["z", "m", "a"] and made.features["v"].values.tolist() == VECTORS.tolist()
    assert_mentions(caplog.text, ["'v'", tmp_path / "items.csv", " z", " a"])


@pytest.mark.parametrize(("policy", "left"), [("drop", ["z", "m"]), ("keep", ["z", "m", "a", "q"])])
def test_items_that_the_table_lacks(policy, left, caplog):
    pairs = pl.concat([PAIRS, pl.DataFrame({"user": ["w"], "item": ["q"]})])
    items = pl.DataFrame({"item": ["z", "m"], "title": ["Z", "M"]})
    with assert_error(DataError, mentions=["2 items", "a, q", "unknown_items='drop'", "unknown_items='keep'"]):
        Dataset.from_frames(pairs, items=items)
    features = {"v": VECTORS[:2]}
    if policy == "keep":
        features["w"] = (["a", "q"], VECTORS[:2])
    made = Dataset.from_frames(pairs, items=items, features=features, unknown_items=policy, split="none")
    assert made.items.ids.tolist() == left
    assert made.item_table["title"].to_list() == ["Z", "M", None, None][: len(left)]
    assert made.features["v"].values[:2].tolist() == VECTORS[:2].tolist()
    assert made.info["preparation"].get("rows_of_unknown_items_dropped", 0) == (2 if policy == "drop" else 0)
    assert_mentions(caplog.text, ["2 items", "a, q"])


def test_feature_rows_of_other_items_are_refused_or_counted(caplog):
    more = (["z", "m", "a", "x", "y"], np.ones((5, 2)))
    with assert_error(DataError, mentions=["features 'v'", "2 ids", "x, y", "unknown_features='drop'"]):
        Dataset.from_frames(PAIRS, features={"v": more})
    made = Dataset.from_frames(PAIRS, features={"v": more}, unknown_features="drop", split="none")
    assert made.features["v"].present.all()
    assert_mentions(caplog.text, ["'v'", "2 ids", "x, y"])


def test_the_id_column_of_the_item_table_is_found_by_its_values():
    items = pl.DataFrame({"title": ["item 1", "item 2", "item 3"], "code": ["a", "m", "z"]})
    with assert_error(DataError, mentions=["title, code", "3 of", "items_id='code'"]):
        Dataset.from_frames(PAIRS, items=items)
    made = Dataset.from_frames(PAIRS, items=items, items_id="code", split="none")
    assert made.item_table.to_dicts()[0] == {"item": "a", "title": "item 1"}


@pytest.mark.parametrize(
    ("columns", "likely"),
    [(("USER", "item"), "user='USER'"), (("user", "sku"), "item='sku'"), (("User ID", "item"), "user='User ID'")],
)
def test_usual_names_of_columns_are_offered(columns, likely):
    with assert_error(DataError, mentions=[", ".join(columns), likely]):
        Dataset.from_frames(PAIRS.rename(dict(zip(PAIRS.columns, columns, strict=True))))


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "frame"])
@pytest.mark.parametrize("name", ["item", "key"])
def test_vectors_with_a_number_in_each_column(tmp_path, ending, name):
    wide = pl.DataFrame({name: ["a", "m", "z"], "v0": [5.0, 3.0, 1.0], "v1": [6, 4, 2]})
    path = tmp_path / f"v.{ending}"
    if ending == "parquet":
        wide.write_parquet(path)
    elif ending != "frame":
        wide.write_csv(path, separator="," if ending == "csv" else "\t")
    made = Dataset.from_frames(PAIRS, features={"v": wide if ending == "frame" else path}, split="none")
    assert made.features["v"].values.tolist() == VECTORS[::-1].tolist()  # items are sorted: a, m, z


@pytest.mark.parametrize(
    ("frame", "facts"),
    [
        ({"item": ["a"], "v0": ["x"]}, ["'v0'", "'x'", "row 0"]),
        ({"item": ["a"], "v0": [1.0], "v1": [None]}, ["'v1'"]),
        ({"a1": [1], "a2": [2.0]}, ["a1, a2", "'item'"]),
        ({"item": ["a"]}, ["'item'"]),
    ],
)
def test_wide_vectors_with_faults(frame, facts):
    with assert_error(DataError, mentions=["features 'v'", *facts]):
        Dataset.from_frames(PAIRS, features={"v": pl.DataFrame(frame)})


@pytest.mark.parametrize("ids", [np.array([3.0, 1.0, 2.0]), np.array(["3", "1", "2"]), np.array([b"3", b"1", b"2"])])
def test_ids_of_any_type_in_a_feature_file_are_used(tmp_path, ids):
    np.savez(tmp_path / "v.npz", vectors=VECTORS, anything=ids)
    pairs = pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 3]})
    made = Dataset.from_frames(pairs, features={"v": tmp_path / "v.npz"}, split="none")
    assert made.features["v"].values.tolist() == VECTORS[[1, 2, 0]].tolist()


def test_a_sparse_matrix_with_ids():
    matrix = scipy.sparse.coo_array(([5, 1, 2, 0], ([0, 1, 1, 1], [2, 0, 2, 1])), shape=(2, 3))
    made = Dataset.from_sparse(
        matrix, user_ids=["p", "q"], item_ids=["z", "m", "a"], features={"v": VECTORS}, split="none"
    )
    assert made.frame().rows() == [("p", "a"), ("q", "z"), ("q", "a")]
    assert made.items.ids.tolist() == ["z", "m", "a"] and made.features["v"].values.tolist() == VECTORS.tolist()
    assert Dataset.from_sparse(matrix.toarray(), min_rating=2, split="none").frame().rows() == [(0, 2), (1, 2)]
    with assert_error(DataError, mentions=["item_ids", "2 ids", "3 columns"]):
        Dataset.from_sparse(matrix, item_ids=["z", "m"])
    with assert_error(DataError, mentions=["list"]):
        Dataset.from_sparse([[1, 0]])
    with assert_error(ConfigError, mentions=["from_sparse", "'timestamp'"]):
        Dataset.from_sparse(matrix, timestamp="t")


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
def test_the_column_of_titles(columns, expected):
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
def test_titles_of_any_type(values, kind, expected):
    found = titles(pl.DataFrame({"title": pl.Series(values, dtype=kind)}))
    assert found is not None and found.dtype == pl.String and found.to_list() == expected


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
    ratings = pl.Series("rating", [float(index % 5 + 1) for index in range(len(cells))])
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
