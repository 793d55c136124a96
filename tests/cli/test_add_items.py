"""add-items without vectors: texts and images are encoded as those of the dataset were."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.recommender.new_item_encoder import NewItemEncoder
from lirdrec.recommender.recommender import Recommender

from ..helpers import assert_mentions, assert_refused
from ..server.runs import picture, trained


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder of a run of the shop and its dataset, which records its encoders. Nobody changes it."""
    folder = tmp_path_factory.mktemp("shop")
    trained(folder)
    return folder


@pytest.fixture
def shop(made, tmp_path) -> Path:
    """The run, on its own beside its dataset, in the working folder."""
    for name in ("data", "pictures", "run"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path / "run"


def added(run: Path) -> dict[str, np.ndarray]:
    """Name → features of the items that were added last."""
    store = Recommender.load(run).features
    assert store is not None
    return {name: np.asarray(matrix.values) for name, matrix in store.blocks()[-1].items()}


def test_texts_and_images_are_encoded_as_those_of_the_dataset(lirdrec, shop):
    dataset = Dataset.load(shop.parent / "data")
    row = dataset.item_table.row(7, named=True)
    Path("shots").mkdir()
    shutil.copy(shop.parent / "pictures" / row["image"], "shots/same.png")
    Path("shots/cup.png").write_bytes(picture("cup", 99))
    table = {"id": [900, 901], "title": [row["title"], "old cup number 99"], "kind": [row["kind"], "cup"]}
    pl.DataFrame(table | {"image": ["same.png", "cup.png"]}).write_csv("new.csv")
    result = lirdrec("add-items", shop, "--items", "new.csv", "--item", "id", "--images", "shots")
    assert result.exit_code == 0, result.output
    assert_mentions(result.stdout, ["text", "image", "2 items"])
    for name, rows in added(shop).items():
        np.testing.assert_allclose(rows[0], dataset.features[name].values[7], atol=1e-6)
    near = json.loads(lirdrec("similar", shop, "--item", 901, "-k", 5, "--json").stdout)
    assert {one["neighbor"] // 100 for one in near} == {4}


def test_columns_have_the_names_that_prepare_was_given(lirdrec, shop):
    table = {"sku": [900], "label": ["old cup"], "title": ["x"], "kind": ["cup"]}
    pl.DataFrame(table).write_csv("new.csv")
    assert_refused(lirdrec("add-items", shop, "--items", "new.csv"), ["'item'", "sku", "--item"])  # an older folder
    manifest = shop.parent / "data" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["info"]["columns"] = {"item": "sku", "title": "label"}
    manifest.write_text(json.dumps(content))
    assert lirdrec("add-items", shop, "--items", "new.csv").exit_code == 0
    pl.DataFrame(table).rename({"sku": "item"}).with_columns(item=901).write_csv("new.csv")
    assert lirdrec("add-items", shop, "--items", "new.csv").exit_code == 0
    pl.DataFrame(table).rename({"sku": "code"}).with_columns(code=902).write_csv("new.csv")
    assert lirdrec("add-items", shop, "--items", "new.csv", "--item", "code").exit_code == 0
    grown = Recommender.load(shop).item_table.tail(3)
    assert grown["item"].to_list() == [900, 901, 902] and grown["title"].to_list() == ["old cup"] * 3


def test_prepare_records_the_names_of_columns(lirdrec):
    Path("sales.csv").write_text("customer,sku\na,1\na,2\nb,1\nb,2\n")
    Path("shop.csv").write_text("sku,label\n1,cup\n2,pan\n")
    options = ("--user", "customer", "--item", "sku", "--split", "none")
    for folder, more, expected in (
        ("one", ("--items", "shop.csv", "--title", "label"), {"item": "sku", "title": "label"}),
        ("two", ("--items", "shop.csv"), {"item": "sku"}),
        ("three", (), None),
    ):
        assert lirdrec("prepare", "sales.csv", *options, *more, "--output", folder).exit_code == 0
        assert Dataset.load(folder).info.get("columns") == expected


def branches(shown: str) -> list[str]:
    """The names in the first column of the table of parts, before its sum."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()]
    start = next(i for i, line in enumerate(lines) if line[0] == "branch")
    names = [line[0] for line in lines[start + 1 :] if not line[0].startswith("─")]
    return names[: names.index("score")]


def test_an_explanation_has_the_parts_of_new_items_only_for_them(lirdrec, shop):
    recommender = Recommender.load(shop)
    recommender.info = recommender.info | {"new_items": NewItemEncoder(1.0, 0, 0.1, similarity=0.25).to_info()}
    recommender.save(shop, overwrite=True)
    Path("new.csv").write_text("item,title,kind\n900,old cup,cup\n")
    assert lirdrec("add-items", shop, "--items", "new.csv").exit_code == 0
    user, known = recommender.users.series[0], recommender.items.series[0]
    learned = [name for name in recommender.scorer.branch_names if name != "content"]
    shown = {item: lirdrec("explain", shop, "--user", user, "--item", item).stdout for item in (known, 900)}
    assert branches(shown[known]) == learned
    assert branches(shown[900]) == [*learned, "content", "offset of new items"]
    given = json.loads(lirdrec("explain", shop, "--user", user, "--item", known, "--json").stdout)["parts"]
    assert list(given) == [*learned, "content", "offset of new items"]


def test_without_a_column_the_feature_is_left_out_and_that_is_said(lirdrec, shop):
    Path("new.csv").write_text("item,title,kind\n900,old cup,cup\n")
    result = lirdrec("add-items", shop, "--items", "new.csv")
    assert result.exit_code == 0, result.output
    assert_mentions(result.stdout, ["text"])
    assert_mentions(result.stderr, ["'image'", "image"])
    assert not added(shop)["image"].any() and added(shop)["text"].any()


def test_given_features_come_before_encoders(lirdrec, shop):
    width = Recommender.load(shop).features.blocks()[0]["text"].dims
    np.save("text.npy", np.full((1, width), 0.5, np.float32))
    Path("new.csv").write_text("item,title\n900,old cup\n")
    result = lirdrec("add-items", shop, "--items", "new.csv", "--features", "text=text.npy")
    assert result.exit_code == 0, result.output
    assert (added(shop)["text"] == 0.5).all() and "Encoded" not in result.stdout


def test_nothing_to_encode_and_images_that_are_none_are_refused(lirdrec, shop):
    Path("new.csv").write_text("item,price\n900,5\n")
    assert_mentions(lirdrec("add-items", shop, "--items", "new.csv").stderr, ["'text'", "'image'", "title"])
    Path("new.csv").write_text("item,title,image\n900,old cup,nowhere.png\n")
    assert_refused(lirdrec("add-items", shop, "--items", "new.csv"), ["'image'", "nowhere.png", "1"])
    assert Recommender.load(shop).n_items == 48
