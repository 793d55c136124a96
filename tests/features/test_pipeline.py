"""One run from inputs to a matrix: what is in the matrix, what is reported of it, what is refused."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.data.storage import read_manifest
from lirdrec.errors import ConfigError, DataError, RunFolderError
from lirdrec.features import job_runner
from lirdrec.features.encode import encode_shard
from lirdrec.features.encoder import Encoded, Encoder
from lirdrec.features.pipeline import FeatureJob, make_features
from lirdrec.features.sources import ImageSource, Item, ItemRows, TextSource, text_item

from ..helpers import assert_error
from .killed_features import Counting, Fitted


def prepare(folder: Path, split: str = "none", **columns: list) -> Path:
    """A dataset of items i0, i1, … with these columns; user 0 took all."""
    table = pl.DataFrame({"item": [f"i{index}" for index in range(len(next(iter(columns.values()))))], **columns})
    pairs = pl.DataFrame({"user": [0] * table.height, "item": table["item"]})
    return Dataset.from_frames(pairs, items=table, split=split).save(folder)


def job(folder: Path, column: str = "title", name: str = "text", encoder: Encoder | None = None) -> FeatureJob:
    return FeatureJob(name, encoder or Counting(), TextSource(folder, column=column))


def test_the_matrix_is_what_the_encoder_gives_and_is_reported(tmp_path):
    titles = ["a chair", None, "bad lamp", "   ", "a chair", "x" * 31]
    folder = prepare(tmp_path / "data", title=titles, brand=["one", "two", "three", "four", "five", "six"])
    encoder = Counting()
    brand = job(folder, "brand", "brand")
    made = make_features(folder, [job(folder, encoder=encoder), brand], progress=False)[0]
    assert sorted(encoder.calls) == ["a chair", "bad lamp", "x" * 31]  # equal texts once
    loaded = Dataset.load(folder, verify=True).features["text"]
    expected = np.zeros((6, 3), dtype=np.float32)
    for row in (0, 4, 5):  # all in one batch of three, whose longest has 31 letters
        expected[row] = (encoder.vector(titles[row]) + 31 / 1000).astype(np.float32)
    np.testing.assert_array_equal(loaded.values, expected)
    assert loaded.values.dtype == np.float32 and loaded.present.tolist() == [True, False, False, False, True, True]
    assert np.load(folder / "features/text.cut.npy").tolist() == [False] * 5 + [True]
    with (folder / "features/text.problems.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["item", "source", "problem"], ["i2", "bad lamp", "it says bad"]]
    assert (folder / "features/text.missing.csv").read_text() == "item\ni1\ni3\n"
    assert not list((folder / "features").glob("brand.[pm]*.csv")) and not (folder / "features/brand.cut.npy").exists()
    reported = read_manifest(folder)["info"]["encoders"]["text"]
    assert reported == made.entry
    assert reported | {"lirdrec": ""} == {
        "identity": {"encoder": "counting", "model": "a", "dims": [3]},
        "source": {"column": "title"},
        "origin": None,
        "dims": 3,
        "present": 3,
        "missing": 2,
        "problems": 1,
        "cut": 1,
        "lirdrec": "",
    }
    assert (made.items, made.present, made.missing, made.n_problems, made.cut) == (6, 3, 2, 1, 1)
    assert made.problems == [("i2", "bad lamp", "it says bad")] and made.encoded == 3
    assert not (folder / "work").exists()


def test_the_shards_do_not_show_in_the_matrix(tmp_path):
    """Vectors of one text a batch depend on nothing else, so any cut into shards gives the same bytes."""
    titles = [f"title {index}" for index in range(50)]
    found = []
    for rows in (1, 7, 50, 64):
        folder = prepare(tmp_path / str(rows), title=titles)
        encoder = Counting()
        encoder.shard_rows = rows
        make_features(folder, [job(folder, encoder=encoder)], batch_size=1, progress=False)
        assert max(encoder.batches) == 1
        found.append((folder / "features/text.npy").read_bytes())
    assert len(set(found)) == 1


def test_texts_come_from_a_template_and_from_the_columns_that_tell_of_items(tmp_path):
    folder = prepare(tmp_path / "data", title=["chair", None, None], brand=["Acme", "Bolt", None], price=[1, 2, 3])
    read = TextSource(folder, "{title} by {brand} for {price}")
    assert [item.value for item in read.read(0, 3)] == ["chair by Acme for 1", "by Bolt for 2", "for 3"]
    plain = TextSource(folder)
    assert [item.value for item in plain.read(1, 3)] == ["Bolt", None]
    assert plain.columns == ("title", "brand")
    with assert_error(ConfigError, mentions=["'titel'", "'title'"]):
        TextSource(folder, "{titel}")
    with assert_error(DataError, mentions=[folder, "'caption'", "item, title, brand, price", "lirdrec caption"]):
        TextSource(folder, column="caption")


def test_ranges_are_those_of_the_table_whatever_its_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("lirdrec.data.storage.ITEM_ROWS", 7)
    folder = prepare(tmp_path / "data", title=[f"t{index}" for index in range(30)])
    rows = ItemRows(folder)
    table = Dataset.load(folder).item_table
    for start in range(31):
        for stop in range(start, 31):
            assert rows.read(start, stop, ("title",)).equals(table[start:stop].select("title"))


class Broken(Counting):
    """Gives "odd" the vector of one repeated value."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def vector(self, text: str) -> np.ndarray:
        return np.full(3, self.value) if text == "odd" else super().vector(text)

    def encode(self, batch) -> Encoded:
        return Encoded(np.stack([self.vector(one.value) for one in batch]).astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_vectors_that_are_none_are_problems(value):
    arrays, facts = encode_shard(
        Broken(value), [text_item("fine"), text_item("odd"), text_item(" "), text_item("odd")], 4
    )
    assert arrays["present"].tolist() == [True, False, False, False]
    assert not arrays["vectors"][1:].any() and np.isfinite(arrays["vectors"]).all()
    assert [(place, source) for place, source, _ in facts["problems"]] == [(1, "odd"), (3, "odd")]
    assert facts["missing"] == 1 and facts["encoded"] == 2


def test_the_problem_of_zeros_is_not_that_of_values_that_are_not_finite():
    def problem(value: float) -> str:
        _, facts = encode_shard(Broken(value), [text_item("odd")], 4)
        return facts["problems"][0][2]

    assert problem(np.nan) == problem(np.inf) != problem(0.0)


def test_an_advance_for_every_item():
    reported = {True: 0, False: 0}

    def advance(n: int, /, idle: bool = False) -> None:
        reported[idle] += n

    items = [text_item("a"), text_item("a"), Item(), Item(problem="gone", source="x"), text_item("b")]
    encode_shard(Counting(), items, 1, advance)
    assert reported == {True: 3, False: 2}


def test_the_speed_is_that_of_encoding(tmp_path, monkeypatch):
    """Items without a text, equal texts and what is known already are through at once, and are no speed."""
    reported = {True: 0, False: 0}

    def advance(n: int, /, idle: bool = False) -> None:
        reported[idle] += n

    monkeypatch.setattr(job_runner, "progress_bar", lambda *arguments: contextlib.nullcontext(advance))
    titles = ["same", None] * 10 + [f"title {index}" for index in range(20)]
    folder = prepare(tmp_path / "data", title=titles, brand=["b"] * 40)
    make_features(folder, [job(folder, "brand", "brand")], progress=True)
    reported.update({True: 0, False: 0})
    made = make_features(folder, [job(folder)], progress=True)[0]
    assert reported == {True: 40 - made.encoded, False: made.encoded} and made.encoded < 30
    again = make_features(folder, [job(folder)], progress=True)[0]
    assert again.encoded == 0 and reported[False] == made.encoded and sum(reported.values()) == 80


class Sizes(Encoder):
    """An image's vector is its number of bytes."""

    kind = "image"
    identity, dims = {"encoder": "sizes"}, 1

    def encode(self, batch) -> Encoded:
        return Encoded(np.array([[one.value.stat().st_size] for one in batch], dtype=np.float32))


def test_images_by_path_with_every_fault_named(tmp_path):
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    (images / "a.png").write_bytes(b"12345")
    (images / "deep" / "b.png").write_bytes(b"123")
    names = ["a.png", "deep/b.png", None, "c.png", "deep", "https://shop.example/d.png", "a.png\x00", ""]
    folder = prepare(tmp_path / "data", image=names, title=["t"] * 8)
    source = ImageSource(folder, root=images)
    made = make_features(folder, [FeatureJob("image", Sizes(), source), job(folder)], progress=False)[0]
    assert np.load(folder / "features/image.npy")[:, 0].tolist() == [5, 3, 0, 0, 0, 0, 0, 0]
    assert made.missing == 2 and (folder / "features/image.missing.csv").read_text() == "item\ni2\ni7\n"
    assert [(item, source) for item, source, _ in made.problems] == list(
        zip(["i3", "i4", "i5", "i6"], names[3:7], strict=True)
    )
    assert len({sentence for _, _, sentence in made.problems}) == 4  # a reason of its own for each
    # where they are is noted, so the next call needs no --images; an image that changed is seen by its content
    assert ImageSource(folder).root == images
    (images / "a.png").write_bytes(b"1234567")
    again = make_features(folder, [FeatureJob("image", Sizes(), ImageSource(folder))], progress=False)[0]
    assert (again.encoded, again.copied) == (1, 1)
    assert np.load(folder / "features/image.npy")[:2, 0].tolist() == [7, 3]
    with assert_error(DataError, mentions=[tmp_path / "nowhere", "images"]):
        ImageSource(folder, root=tmp_path / "nowhere")


def test_the_images_column_must_be_there(tmp_path):
    with assert_error(DataError, mentions=[tmp_path / "data", "'image'", "item, title", "images"]):
        ImageSource(prepare(tmp_path / "data", title=["a"]))


def test_items_without_features_are_named_and_finished_work_is_kept(tmp_path):
    titles = [None if index % 2 else f"title {index}" for index in range(40)]
    folder = prepare(tmp_path / "data", title=titles, brand=["b"] * 40)
    before = (folder / "manifest.json").read_bytes()
    named = "i1, i3, i5, i7, i9, i11, i13, i15, i17, i19"
    with assert_error(DataError, mentions=[folder, "20 of 40", named, "10 more", "hashed", "drop"]):
        make_features(folder, [job(folder)], progress=False)
    assert (folder / "manifest.json").read_bytes() == before
    encoder = Counting()
    made = make_features(folder, [job(folder, encoder=encoder), job(folder, "brand", "brand")], progress=False)
    assert not encoder.calls and made[0].resumed == 40
    assert Dataset.load(folder, verify=True).features["text"].present.sum() == 20


def test_items_without_features_can_be_left_out(tmp_path):
    """Items 1 and 3 have none. User a keeps pairs everywhere; user b loses all of training, so valid goes too."""
    table = pl.DataFrame({"item": ["i0", "i1", "i2", "i3", "i4"], "title": ["zero", None, "two", None, "four"]})
    rows = [
        ("a", "i0", "train"),
        ("a", "i1", "train"),
        ("a", "i2", "valid"),
        ("a", "i3", "test"),
        ("a", "i4", "test"),
        ("b", "i1", "train"),
        ("b", "i3", "train"),
        ("b", "i4", "valid"),
        ("c", "i2", "train"),
        ("c", "i1", "valid"),
    ]
    pairs = pl.DataFrame(rows, schema=["user", "item", "label"], orient="row")
    sound = np.zeros((5, 2), dtype=np.float16)
    sound[[0, 4]] = [[1, 2], [3, 4]]
    given = Dataset.from_frames(pairs, items=table, split="label", name="d")
    values = {"sound": sound}
    with pytest.raises(DataError):
        Dataset.from_frames(pairs, items=table, split="label", features=values)
    info = {**given.info, "split": {**given.info["split"], "method": "random"}}
    import dataclasses

    folder = dataclasses.replace(given, info=info).save(tmp_path / "data")
    made = make_features(folder, [job(folder)], drop=True, progress=False)[0]
    assert made.dropped == {"items": 2, "pairs": 5, "users": 1, "held_out_pairs": 1}
    assert made.mask.tolist() == [True] * 3 and (made.items, made.present, made.missing) == (3, 3, 2)
    loaded = Dataset.load(folder, verify=True)
    assert loaded.item_table.rows() == [("i0", "zero"), ("i2", "two"), ("i4", "four")]
    assert [loaded.frame(name).rows() for name in ("train", "valid", "test")] == [
        [("a", "i0"), ("c", "i2")],
        [("a", "i2")],
        [("a", "i4")],
    ]
    assert loaded.users == given.users
    assert loaded.info["dropped_without_features"] == made.dropped
    assert read_manifest(folder)["counts"] == {"users": 3, "items": 3, "train": 2, "valid": 1, "test": 1}
    encoder = Counting()  # the keys moved along with their rows
    assert make_features(folder, [job(folder, encoder=encoder)], progress=False)[0].copied == 3
    assert not (folder / "work").exists()


def test_leaving_out_takes_the_other_matrices_along(tmp_path):
    folder = prepare(
        tmp_path / "data", title=["a", None, "c", None], brand=[None, "x", None, None], other=["1", "2", "3", "4"]
    )
    make_features(folder, [job(folder, "other", "other")], progress=False)
    manifest = read_manifest(folder)
    for name in list(manifest["files"]):
        if name.startswith("features/other"):
            del manifest["files"][name]
    manifest["features"] = {}
    (folder / "manifest.json").write_text(json.dumps(manifest))  # as if it had never had features
    with assert_error(DataError, mentions=[folder, "1 of 4", "i3"]):
        make_features(folder, [job(folder), job(folder, "brand", "brand")], progress=False)
    make_features(folder, [job(folder), job(folder, "brand", "brand")], drop=True, progress=False)
    loaded = Dataset.load(folder, verify=True)
    assert loaded.items.ids.tolist() == ["i0", "i1", "i2"]
    assert loaded.features["brand"].present.tolist() == [False, True, False]
    np.testing.assert_array_equal(np.load(folder / "features/text.keys.npy")[1], 0)


def test_no_training_pair_left_is_refused(tmp_path):
    table = pl.DataFrame({"item": ["i0", "i1"], "title": [None, "one"]})
    pairs = pl.DataFrame({"user": ["a", "b"], "item": ["i0", "i1"], "label": ["train", "test"]})
    folder = Dataset.from_frames(pairs, items=table, split="label").save(tmp_path / "data")
    before = (folder / "manifest.json").read_bytes()
    with assert_error(DataError, mentions=[folder]):
        make_features(folder, [job(folder)], drop=True, progress=False)
    assert (folder / "manifest.json").read_bytes() == before


def test_a_matrix_without_a_single_vector_is_refused(tmp_path):
    folder = prepare(tmp_path / "data", title=["bad one", "bad two", None], brand=["a", "b", "c"])
    with assert_error(DataError, mentions=[folder, "'text'", "bad one", "it says bad"]) as caught:
        make_features(folder, [job(folder), job(folder, "brand", "brand")], progress=False)
    numbers = re.findall(r"\d+", str(caught.value).replace(str(folder), ""))
    assert sorted(numbers) == ["1", "2", "3"]  # without a text, with a problem, in all


@pytest.mark.parametrize("name", ["a/b", ""])
def test_names_and_kinds_that_cannot_be(tmp_path, name):
    folder = prepare(tmp_path / "data", title=["a"])
    with assert_error(ConfigError, mentions=[f"'{name}'"]):
        job(folder, name=name)
    with assert_error(ConfigError, mentions=["text, text"]):
        make_features(folder, [job(folder), job(folder)], progress=False)
    with assert_error(ConfigError, mentions=["'image'", "'text'"]):
        job(folder, encoder=Sizes())
    with assert_error(RunFolderError, mentions=[tmp_path / "nothing"]):
        make_features(tmp_path / "nothing", [], progress=False)
    assert not (tmp_path / "nothing").exists()


def test_a_saved_copy_without_keys_is_encoded_again(tmp_path):
    folder = prepare(tmp_path / "data", title=["a", "b"])
    make_features(folder, [job(folder, encoder=Fitted())], progress=False)
    copy = Dataset.load(folder).save(tmp_path / "copy")
    encoder = Fitted()
    made = make_features(copy, [job(copy, encoder=encoder)], progress=False)[0]
    assert (encoder.fits, made.encoded) == (1, 2)
    assert (copy / "features/text.npy").read_bytes() == (folder / "features/text.npy").read_bytes()


def test_a_fitted_encoder_learns_from_a_sample_of_fixed_seed(tmp_path, monkeypatch):
    monkeypatch.setattr("lirdrec.features.job_runner.SAMPLE", 20)
    seen = []
    for name in ("one", "two"):
        folder = prepare(tmp_path / name, title=[f"title {index}" for index in range(100)])

        class Watched(Fitted):
            def fit(self, inputs) -> None:
                seen.append(list(inputs))
                super().fit(inputs)

        make_features(folder, [job(folder, encoder=Watched())], progress=False)
    assert seen[0] == seen[1] and len(set(seen[0])) == 20
    assert seen[0] != [f"title {index}" for index in range(20)]


def test_memory_grows_by_few_bytes_an_item(tmp_path):
    """512 bytes of vector an item; at most 100 of them may stay in memory (keys, flags, what is known already)."""
    peaks = {}
    for n in (2_000, 10_000):
        folder = prepare(tmp_path / str(n), title=[f"title {index}" for index in range(n)])

        class Plain(Counting):
            shard_rows = 256

            def encode(self, batch) -> Encoded:
                return Encoded(np.ones((len(batch), 128), dtype=np.float32))

        for _ in range(2):  # the second time all of them are known
            task = job(folder, encoder=Plain(dims=128))
            tracemalloc.start()
            make_features(folder, [task], batch_size=64, progress=False)
            peaks[n] = max(peaks.get(n, 0), tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[10_000] - peaks[2_000] < 8_000 * 100


def test_a_matrix_of_something_else_is_replaced_only_when_asked_to(tmp_path):
    pairs = pl.DataFrame({"user": [0, 0], "item": ["i0", "i1"]})
    table = pl.DataFrame({"item": ["i0", "i1"], "title": ["a", "b"]})
    given = Dataset.from_frames(pairs, items=table, features={"text": np.eye(2)}, split="none")
    folder = given.save(tmp_path / "data")
    encoder = Counting()
    with assert_error(ConfigError, mentions=[folder, "'text'", "replace=True"]):
        make_features(folder, [job(folder, encoder=encoder)], progress=False)
    assert not encoder.calls
    make_features(folder, [job(folder, name="mine")], progress=False)
    make_features(folder, [job(folder)], replace=True, progress=False)
    with assert_error(ConfigError, mentions=[folder, "'text'", "replace=True"]):
        make_features(folder, [job(folder, encoder=Counting(model="b"))], progress=False)
    make_features(folder, [FeatureJob("text", Counting(), TextSource(folder, "{item}: {title}"))], progress=False)
    assert Dataset.load(folder).info["encoders"]["text"]["source"] == {"template": "{item}: {title}"}
