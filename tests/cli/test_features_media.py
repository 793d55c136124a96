"""`lirdrec features --audio --video --joint`: from files named after items to recommendations, and added items."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.data.storage import read_manifest
from lirdrec.features.encoder import encode_rows
from lirdrec.features.encoder_specs import load_encoder
from lirdrec.features.new_items import encode_items
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.catalog.item_encoding import Encoders
from lirdrec.server.store import NewItem

from ..features.broken_images import encoded
from ..features.media_files import BLUE, RED, tone, video, wav
from ..features.tiny_models import clip
from ..helpers import assert_refused

pytest.importorskip("av")
pytest.importorskip("sentence_transformers")


@pytest.fixture
def data(tmp_path) -> Path:
    """12 clips, red with a low tone or blue with a high one; item 4 has no files, those of item 5 are broken."""
    from PIL import Image

    for kind in ("sounds", "films", "covers"):
        (tmp_path / kind / "more").mkdir(parents=True)
    low, high = wav(tone(200, 1)), wav(tone(3000, 1))
    red, blue = video([RED], 3), video([BLUE], 3)
    for index in range(12):
        if index == 4:
            continue
        cover = encoded(Image.new("RGB", (40, 30), BLUE if index % 2 else RED), "PNG")
        contents = {"sounds/{}.wav": high if index % 2 else low, "films/more/{}.mp4": blue if index % 2 else red}
        for name, content in {**contents, "covers/{}.png": cover}.items():
            (tmp_path / name.format(index)).write_bytes(content[: len(content) // (2 if index == 5 else 1)])
    table = pl.DataFrame(
        {"item": range(12), "title": [f"{'blue' if index % 2 else 'red'} clip" for index in range(12)]}
    )
    rng = np.random.default_rng(0)
    pairs = [(user, int(index)) for user in range(8) for index in rng.permutation(12)[:6]]
    frame = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
    return Dataset.from_frames(frame, items=table, split="none").save(tmp_path / "data")


def test_sounds_and_videos_become_matrices(lirdrec, data, tmp_path):
    files = ["--audio-files", tmp_path / "sounds", "--video-files", tmp_path / "films"]
    made = lirdrec(
        *("features", data, "--text", "hashed", "--audio", "spectrum", "--video", "film=descriptor", "--frames", 2),
        *(*files, "--max-seconds", 0.5),
    )
    assert made.exit_code == 0, made.stderr
    dataset = Dataset.load(data, verify=True)
    info = dataset.info
    assert (info["audio_files"], info["video_files"]) == (str(tmp_path / "sounds"), str(tmp_path / "films"))
    assert dataset.item_table["audio"].to_list() == [None if index == 4 else f"{index}.wav" for index in range(12)]
    assert dataset.item_table["video"].to_list() == [None if index == 4 else f"more/{index}.mp4" for index in range(12)]
    for name in ("audio", "film"):
        matrix = dataset.features[name]
        assert matrix.present.tolist() == [index not in (4, 5) for index in range(12)]
        alike = matrix.values[0] @ matrix.values[2] / np.linalg.norm(matrix.values[0]) ** 2
        unlike = matrix.values[0] @ matrix.values[1] / np.linalg.norm(matrix.values[0]) ** 2
        assert alike == pytest.approx(1, abs=1e-3) and unlike < 0.9
        problems = pl.read_csv(data / "features" / f"{name}.problems.csv")
        assert problems["item"].to_list() == [5] and "cut off" in problems["problem"][0]
        assert (data / "features" / f"{name}.missing.csv").read_text() == "item\n4\n"
    entries = info["encoders"]
    assert entries["audio"]["cut"] == 10  # all longer than half a second
    assert entries["film"]["identity"]["frames"] == 2 and entries["film"]["source"] == {"column": "video"}
    again = json.loads(lirdrec("features", data, "--audio", "spectrum", "--max-seconds", 0.5, "--json").stdout)[0]
    assert (again["encoded"], again["copied"], again["n_problems"]) == (1, 10, 1)
    encoder = load_encoder(data, "audio")
    table = pl.DataFrame({"item": [90], "audio": ["0.wav"]})
    of_table = encode_items(data, ["audio", "film"], table, tmp_path / "sounds")
    np.testing.assert_allclose(of_table.features["audio"][0], dataset.features["audio"].values[0], atol=1e-6)
    assert list(of_table.features) == ["audio"] and "video" in of_table.reasons["film"]
    vector = encode_rows(encoder, [tmp_path / "sounds" / "0.wav"], 1).vectors[0]
    np.testing.assert_allclose(vector, dataset.features["audio"].values[0], atol=1e-6)
    trained = lirdrec("train", data, "--run", tmp_path / "run", "--set", "epochs=1")
    assert trained.exit_code == 0, trained.stderr
    assert lirdrec("recommend", tmp_path / "run", "--user", 1).exit_code == 0


def test_joint_vectors_and_added_items(lirdrec, data, tmp_path):
    from lirdrec import TrainConfig, fit

    model = clip(tmp_path / "clip", ["red clip", "blue clip"])
    made = lirdrec(
        *("features", data, "--joint", model, "--text-template", "{title}", "--images", tmp_path / "covers"),
        *("--text", "hashed", "--device", "cpu"),
    )
    assert made.exit_code == 0, made.stderr
    dataset = Dataset.load(data)
    matrix = dataset.features["joint"]
    assert matrix.present.tolist() == [index != 5 for index in range(12)]  # item 4 by its title alone
    assert read_manifest(data)["info"]["encoders"]["joint"]["source"] == {"template": "{title}", "image": "image"}
    run = fit(dataset, "lirdrec", TrainConfig(epochs=1), progress=False, cache=False)
    assert isinstance(run, Recommender)
    encoders = Encoders.load(run)
    assert encoders.kinds == {"joint": "joint", "text": "text"}
    image = (tmp_path / "covers" / "0.png").read_bytes()
    items = [NewItem(90, {"title": "red clip"}, image=image), NewItem(91, {"title": "red clip"}), NewItem(92, {})]
    found = encoders.encode("joint", items)
    assert found[0] is not None and found[1] is not None and found[2] is None
    np.testing.assert_allclose(found[0], matrix.values[0], atol=1e-4)
    np.testing.assert_allclose(found[1], matrix.values[4], atol=1e-4)
    table = pl.DataFrame(
        {"item": [90, 91, 92], "title": ["red clip", "red clip", None], "image": ["0.png", None, None]}
    )
    of_table = encode_items(data, ["joint"], table, tmp_path / "covers").features["joint"]
    assert of_table[0] is not None and of_table[1] is not None and of_table[2] is None
    np.testing.assert_allclose(of_table[:2], matrix.values[[0, 4]], atol=1e-4)


def test_what_is_refused(lirdrec, data, tmp_path):
    assert_refused(lirdrec("features", data, "--audio", "spectrum"), mentions=["audio", "--audio-files"])
    assert_refused(lirdrec("features", data, "--audio-files", tmp_path / "sounds"), mentions=["--audio"])
    assert_refused(
        lirdrec("features", data, "--video", "descriptor", "--video-files", tmp_path / "sounds"),
        mentions=[tmp_path / "sounds", ".mp4"],
    )
    assert_refused(lirdrec("features", data, "--text", "hashed", "--frames", 4), mentions=["--frames"])
    assert_refused(lirdrec("features", data, "--audio", "spectrm"), mentions=["spectrm", "spectrum"])
    assert_refused(lirdrec("features", data, "--video", "endpoint:http://localhost#a"), mentions=["server"])
    assert not (data / "features").exists()
