"""What a look finds is what was planted; the page holds the images of the right items and loads nothing."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.images import with_images
from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.features.encoder import Encoded, Encoder
from lirdrec.features.inspection import statistics
from lirdrec.features.inspection.inspect_matrix import inspect_matrix, remarks, show
from lirdrec.features.pipeline import FeatureJob, make_features
from lirdrec.features.sources import TextSource

from ..helpers import assert_error, assert_mentions

COLORS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (30, 60, 220)}


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


# ------------------------------------------------------------------------------------------------------- neighbors


def test_neighbors_are_those_of_scikit_learn(generator, monkeypatch):
    from sklearn.neighbors import NearestNeighbors

    monkeypatch.setattr(statistics, "BLOCK", 7)  # many blocks, some of them without a row that counts
    monkeypatch.setattr(statistics, "QUERIES", 5)
    values = generator.normal(size=(60, 9)).astype(np.float32) * generator.uniform(0.1, 300, size=(60, 1))
    among = generator.random(60) < 0.6
    among[14:21] = False
    asked = np.array([3, 59, 15, 0, 20, 41, 42])
    rows, cosines = statistics.nearest_rows(values, among, asked, 6)
    for query, found, near in zip(asked, rows, cosines, strict=True):
        others = np.flatnonzero(among & (np.arange(60) != query))
        model = NearestNeighbors(n_neighbors=6, metric="cosine", algorithm="brute").fit(values[others])
        distances, places = model.kneighbors(values[[query]])
        assert found.tolist() == others[places[0]].tolist()
        np.testing.assert_allclose(near, 1 - distances[0], atol=1e-6)


def test_where_there_are_too_few_neighbors_there_is_none():
    values = np.eye(4, 5, dtype=np.float32)
    rows, cosines = statistics.nearest_rows(values, np.array([True, True, False, True]), np.array([0, 2]), 4)
    assert sorted(rows[0, :2]) == [1, 3] and rows[0, 2:].tolist() == [-1, -1]
    assert sorted(rows[1, :3]) == [0, 1, 3] and rows[1, 3] == -1
    assert np.isneginf(cosines[rows < 0]).all() and not cosines[rows >= 0].any()


def test_large_float16_features_have_a_length_of_one(generator):
    values = (generator.normal(size=(5, 300)) * 15_000).clip(-60_000, 60_000).astype(np.float16)
    expected = values.astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(statistics.unit_rows(values), expected, atol=1e-6)
    assert not statistics.unit_rows(np.zeros((2, 3), dtype=np.float16)).any()


def test_comparing_all_items_needs_no_matrix_of_all_pairs(generator):
    n = 12_000
    matrix = FeatureMatrix(generator.normal(size=(n, 4)).astype(np.float32))
    tracemalloc.start()
    duplicates, _ = statistics.duplicates_and_hubs(matrix, generator)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert duplicates["near"]["asked"] == n
    assert peak < 0.25 * 4 * n * n


# ---------------------------------------------------------------------------------------------------------- figures


def test_copies_are_found_whatever_their_zeros_are(generator):
    values = generator.normal(size=(50, 6)).astype(np.float32)
    values[:, 2] = 0
    values[[4, 40, 17]] = values[4]
    values[[8, 9]] = values[8]
    values[9, 2] = -0.0
    values[[20, 21]] = 0  # absent, no copies
    values[30] = 2 * values[31]  # near, not the same
    groups = statistics.copies(FeatureMatrix(values))
    assert [group.tolist() for group in groups] == [[4, 17, 40], [8, 9]]
    duplicates, _ = statistics.duplicates_and_hubs(FeatureMatrix(values), generator)
    assert (duplicates["groups"], duplicates["items"], duplicates["examples"]) == (2, 5, [[4, 17, 40], [8, 9]])
    near = duplicates["near"]
    assert near["items"] == 2 and [one["rows"] for one in near["examples"]] == [[30, 31]]
    assert near["examples"][0]["cosine"] == pytest.approx(1)


def test_a_hub_is_found(generator):
    values = generator.normal(size=(400, 60))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    values += 0.8 / np.sqrt(60)  # all lean to one side …
    values[123] = 1 / np.sqrt(60)  # … on which one item lies
    _, hubs = statistics.duplicates_and_hubs(FeatureMatrix(values.astype(np.float32)), generator)
    assert (hubs["row"], hubs["asked"], hubs["k"]) == (123, 400, 10)
    assert hubs["most"] > 300
    assert hubs["by_chance"] == pytest.approx(10)
    assert 0 < hubs["never"] < 1


def test_constant_columns_are_those_of_the_items_that_are_there(generator):
    values = generator.normal(size=(20, 5)).astype(np.float32)
    values[:, 1], values[:, 3] = 7.5, 0
    values[[2, 5]] = 0  # absent: their zeros do not make column 1 vary
    assert statistics.constant_columns(FeatureMatrix(values)).tolist() == [1, 3]
    assert statistics.constant_columns(FeatureMatrix(values[2:4])).tolist() == []


@pytest.mark.parametrize("dims", [12, 900])
def test_the_spread_is_that_of_the_principal_components(generator, dims):
    from sklearn.decomposition import PCA

    values = generator.normal(size=(300, 5)) @ generator.normal(size=(5, dims)) + 4
    found = statistics.spread(FeatureMatrix(values.astype(np.float32)), generator)
    shares = PCA(n_components=5).fit(values).explained_variance_ratio_
    assert found["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
    assert found["shares"]["1"] == pytest.approx(shares[0], rel=1e-4)
    assert found["shares"]["4"] == pytest.approx(shares[:4].sum(), rel=1e-4)
    assert found["shares"]["8"] == pytest.approx(1)


def test_random_pairs_are_as_alike_as_planted(generator):
    center = generator.normal(size=40)
    center *= 3 / np.linalg.norm(center)
    values = center + generator.normal(size=(3000, 40)) / np.sqrt(40)  # cosine 9 / (9 + 1)
    cosine = statistics.spread(FeatureMatrix(values.astype(np.float32)), generator)["cosine"]
    assert cosine["mean"] == pytest.approx(0.9, abs=0.01)
    assert cosine["low"] < cosine["mean"] < cosine["high"]
    assert sum(one["count"] for one in cosine["bins"]) == statistics.PAIRS


def test_norms_are_those_of_the_items_that_are_there():
    values = np.zeros((5, 3), dtype=np.float16)
    values[1], values[3], values[4] = (3, 4, 0), (0, 0, 1), (40_000, 40_000, 0)
    found = statistics.norms(FeatureMatrix(values))
    assert (found["min"], found["median"]) == (1, 5)
    assert found["max"] == pytest.approx(np.hypot(40_000, 40_000), rel=1e-3)
    assert [one["count"] for one in found["bins"] if one["count"]] == [2, 1]


def test_agreement_is_whole_for_a_rotation_and_chance_for_noise(generator):
    values = generator.normal(size=(700, 16)).astype(np.float32)
    rotation = np.linalg.qr(generator.normal(size=(16, 16)))[0].astype(np.float32)
    noise = generator.normal(size=(700, 8)).astype(np.float32)
    noise[:200] = 0  # only 500 items have both
    found = statistics.agreement(
        {"a": FeatureMatrix(values), "b": FeatureMatrix(values @ rotation), "c": FeatureMatrix(noise)}, generator
    )
    pairs = {(one["a"], one["b"]): one for one in found["pairs"]}
    assert pairs["a", "b"]["overlap"] > 0.999 and pairs["a", "b"]["asked"] == 700
    assert pairs["a", "c"]["by_chance"] == pytest.approx(10 / 499) and pairs["a", "c"]["asked"] == 500
    assert pairs["a", "c"]["overlap"] == pytest.approx(10 / 499, abs=0.006)
    assert statistics.agreement({"a": FeatureMatrix(values)}, generator) is None


def test_a_large_catalog_is_sampled():
    assert statistics.compared(18_357, 384) == 18_357
    assert statistics.compared(1_000_000, 384) < 1000
    assert statistics.compared(10**9, 4096) == statistics.LEAST


# -------------------------------------------------------------------------------------------------- the whole look


def test_a_look_at_the_sample(sample, tmp_path):
    facts = inspect_matrix(sample, "image", seed=3)
    assert json.loads(json.dumps(facts)) == facts
    data = Dataset.load(sample)
    matrix = data.features["image"]
    assert facts["coverage"]["present"] == int(matrix.present.sum()) == 1395
    assert (
        facts["dims"] == 128
        and facts["dtype"] == "float16"
        and facts["encoder"]["origin"]["options"] == {"components": 128}
    )
    titles = dict(data.item_table.select("item", "title").iter_rows())
    values = matrix.values.astype(np.float64)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    ids = data.items.series
    for one in facts["neighbors"]:
        row = data.items.row(one["item"])
        cosine = values @ values[row]
        cosine[row] = -1
        best = np.argsort(-cosine)[:6]
        assert [near["item"] for near in one["neighbors"]] == [ids[int(index)] for index in best]
        assert [near["title"] for near in one["neighbors"]] == [titles[ids[int(index)]] for index in best]
        assert [near["cosine"] for near in one["neighbors"]] == pytest.approx(cosine[best].tolist(), abs=1e-5)
    # two films that got the same poster in the source
    same = [[one["title"] for one in group] for group in facts["duplicates"]["examples"]]
    assert ["Seven (a.k.a. Se7en) (1995)", "Seven Samurai (Shichinin no samurai) (1954)"] in same
    assert inspect_matrix(sample, "image", seed=3) == facts
    assert inspect_matrix(sample, "image", seed=4)["neighbors"] != facts["neighbors"]
    (pair,) = facts["agreement"]["pairs"]
    assert (pair["a"], pair["b"]) == ("text", "image") and pair["by_chance"] < pair["overlap"] < 0.2


def test_an_unknown_matrix_is_one_sentence(sample, tmp_path):
    with assert_error(ConfigError, mentions=[sample, "'imag'", "'image'"]):
        inspect_matrix(sample, "imag")
    with assert_error(ConfigError, mentions=[sample, "'sound'", "text, image"]):
        inspect_matrix(sample, "sound")
    with assert_error(RunFolderError, mentions=[tmp_path]):
        inspect_matrix(tmp_path, "image")


def imaged(folder: Path) -> Path:
    """Twelve items in three colors, one with a broken image, one whose title is markup."""
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    colors = [name for name in COLORS for _ in range(4)]
    for row, name in enumerate(colors):
        Image.new("RGB", (40, 60), COLORS[name]).save(folder / "images" / f"{row}.png")
    (folder / "images" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    generator = np.random.default_rng(1)
    centers = {"red": [9, 0, 0], "green": [0, 9, 0], "blue": [0, 0, 9]}
    matrix = np.array([centers[name] for name in colors]) + generator.normal(size=(12, 3))
    titles = [f"{name} {row}" for row, name in enumerate(colors)]
    titles[1] = "<img src=x onerror=alert(1)> *red* [1](http://x.org)"
    items = pl.DataFrame({"item": range(12), "title": titles, "brand": [f"Maker of {name}" for name in colors]})
    pairs = pl.DataFrame({"user": [0] * 12 + [1] * 12, "item": [*range(12)] * 2})
    data = Dataset.from_frames(pairs, items=items, features={"look": matrix.astype(np.float32)}, split="none", name="c")
    with_images(data, folder / "images").save(folder / "prepared")
    return folder / "prepared"


class Cards(HTMLParser):
    """The cards of a page, in order: title, texts, source of the image."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.cards: list[dict] = []
        self._in_title = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if dict(attrs).get("class") == "card":
            self.cards.append({"title": "", "texts": [], "image": None})
        if tag == "img":
            self.cards[-1]["image"] = dict(attrs)["src"]
        self._in_title = tag == "h4"

    def handle_data(self, data):
        if self._in_title:
            self.cards[-1]["title"] += data
            self._in_title = False
        elif self.cards:
            self.cards[-1]["texts"].append(data)


def test_the_page_shows_the_right_images_and_loads_nothing(tmp_path):
    from PIL import Image

    prepared = imaged(tmp_path)
    page = tmp_path / "new" / "page.html"
    facts = inspect_matrix(prepared, "look", page, n_items=12, n_neighbors=3)
    assert facts["page"] == str(page) and [path.name for path in page.parent.iterdir()] == ["page.html"]
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import|<script|<link|<iframe|src=\"(?!data:)|href=\"http", text)
    parsed = Cards(text)
    titles = [title for one in facts["neighbors"] for title in (one["title"], *(n["title"] for n in one["neighbors"]))]
    assert [card["title"] for card in parsed.cards] == titles and len(titles) == 12 * 4
    assert sum("onerror" in title for title in titles) == 4
    for card in parsed.cards:
        if card["title"] == "red 3":
            assert card["image"] is None
            continue
        name = "red" if "onerror" in card["title"] else card["title"].split()[0]
        content = base64.b64decode(card["image"].removeprefix("data:image/jpeg;base64,"), validate=True)
        pixel = Image.open(io.BytesIO(content)).convert("RGB").getpixel((20, 30))
        assert np.abs(np.subtract(pixel, COLORS[name])).max() < 12
        assert f"Maker of {name}" in card["texts"]
    # every neighbor has the color of the item that leads
    for place in range(0, len(titles), 4):
        names = {"red" if "onerror" in title else title.split()[0] for title in titles[place : place + 4]}
        assert len(names) == 1


def test_a_page_without_any_image_has_no_empty_frames(sample, tmp_path):
    inspect_matrix(sample, "text", tmp_path / "page.html")
    parsed = Cards((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(parsed.cards) == 3 * 7 and "img" not in parsed.tags
    assert parsed.tags.count("svg") == 1  # the figure


class Letters(Encoder):
    """Counts letters; knows no digits."""

    kind = "text"
    identity: ClassVar = {"encoder": "letters", "prompt": "Item: "}
    dims = 26

    def encode(self, batch):
        vectors = np.zeros((len(batch), 26), dtype=np.float32)
        for index, one in enumerate(batch):
            for letter in one.value.lower():
                if "a" <= letter <= "z":
                    vectors[index, ord(letter) - 97] += 1
        return Encoded(vectors)


def test_what_the_encoding_recorded_is_shown(tmp_path):
    titles = ["abc", "abd", "1234", "cab", None, "xyz"]
    items = pl.DataFrame({"item": range(6), "title": titles, "brand": ["acme"] * 6})
    pairs = pl.DataFrame({"user": [0] * 6 + [1] * 6, "item": [*range(6)] * 2})
    first = np.ones((6, 2), dtype=np.float32) * np.arange(1, 7, dtype=np.float32)[:, None]
    Dataset.from_frames(pairs, items=items, features={"first": first}, split="none").save(tmp_path / "d")
    make_features(
        tmp_path / "d", [FeatureJob("text", Letters(), TextSource(tmp_path / "d", "{title}"))], progress=False
    )
    facts = inspect_matrix(tmp_path / "d", "text", tmp_path / "page.html")
    assert facts["encoder"]["identity"]["prompt"] == "Item: "
    coverage = facts["coverage"]
    assert (coverage["present"], coverage["missing"], coverage["problems"]) == (4, 2, 1)
    assert (coverage["bare"], coverage["bare_examples"]) == (1, ["4"])
    assert coverage["examples"][0]["item"] == "2" and coverage["examples"][0]["problem"]
    assert [[one["title"] for one in group] for group in facts["duplicates"]["examples"]] == [["abc", "cab"]]
    assert any(coverage["problems_file"] in one for one in facts["remarks"])
    text = html.unescape((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Item: " in text and "{title}" in text and coverage["examples"][0]["problem"] in text
    assert "Maker" not in text and "acme" not in text  # what the encoder did not read is not shown as if it had
    printed = Console(width=100, record=True, file=io.StringIO())
    show(printed, facts)
    said = " ".join(printed.export_text().split())
    assert_mentions(said, ["letters", "4 of 6", "abc, cab"])
    numbers = re.findall(r"\d[\d.]*%?", said[said.index("4 of 6") :])
    # with a vector, without one; then of these one with a problem, and the id of the one without an input
    assert numbers[:4] == ["4", "6", "66.7%", "2"] and sorted(numbers[4:6]) == ["1", "4"]


def test_what_stands_out_is_said_and_nothing_else(sample):
    facts = inspect_matrix(sample, "text")
    assert remarks(facts) == facts["remarks"] == []
    facts["coverage"] |= {"present": 900, "missing": 595}
    facts["duplicates"]["items"] = 300
    facts["spread"]["effective_rank"] = 2.0
    facts["constant_columns"] = list(range(100))
    facts["hubs"] |= {"most": 1200, "item": {"item": 1, "title": "Toy Story"}}
    said = remarks(facts)
    figures = ["40%", "300", "100", "2.0", "Toy Story"]  # in the order of the remarks
    assert len(said) == len(figures) and all(figure in one for figure, one in zip(figures, said, strict=True)), said
