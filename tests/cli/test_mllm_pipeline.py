"""The paper's pipeline as a person types it: pictures → captions → two matrices by one decoder → training → answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lirdrec.captions.prompt import Attributes, render, to_toml
from lirdrec.data import Dataset

from ..features import tiny_models
from ..features.misbehaving_server import Server

pytest.importorskip("sentence_transformers", reason='sentence-transformers is missing: pip install "lirdrec[encoders]"')

ATTRIBUTES = Attributes("See.", "English", 2, {"colour": "main one", "kind": "what"})
SAID = {"red": {"colour": "red", "kind": "a tile"}, "blue": {"colour": "deep blue", "kind": "a rug"}}
CAPTIONS = {"red": "Colour: red. Kind: a tile.", "blue": "Colour: deep blue. Kind: a rug."}
N, SOLD = 24, 16  # things, every other one red; the last eight were never sold


def colour(item: int) -> str:
    return "blue" if item % 2 else "red"


@pytest.fixture
def shop(lirdrec, tmp_path) -> Path:
    """Twelve people who each took six things of one colour; the titles tell nothing of it."""
    (tmp_path / "photos").mkdir()
    for item in range(N):
        Image.new("RGB", (24, 16), colour(item)).save(tmp_path / "photos" / f"{item}.png")
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"{at},article {at * 7919 % 97}\n" for at in range(N)))
    rng = np.random.default_rng(0)
    rows = [f"{one},{2 * at + one % 2}\n" for one in range(12) for at in sorted(rng.permutation(SOLD // 2)[:6])]
    (tmp_path / "sales.csv").write_text("user,item\n" + "".join(rows))
    (tmp_path / "asked.toml").write_text(to_toml(ATTRIBUTES))
    done = lirdrec("prepare", "sales.csv", "--items", "items.csv", "--images", "photos", "-o", "shop")
    assert done.exit_code == 0, done.stderr
    return tmp_path / "shop"


@pytest.mark.parametrize("by", ["model", "server"])
def test_from_pictures_to_recommendations(lirdrec, shop, tmp_path, by):
    texts = [*CAPTIONS.values(), *(f"article {n}" for n in range(97))]
    decoder = tiny_models.mistral(tmp_path / "decoder", tiny_models.tokenizer(texts, "<|image|>"))
    call = ["caption", "shop", "--attributes", "asked.toml", "--yes"]
    if by == "model":
        answers = [json.dumps(one) for one in SAID.values()]
        seeing = tiny_models.mllama(tmp_path / "mllama", [render(ATTRIBUTES), *answers])
        tiny_models.teach(seeing, render(ATTRIBUTES), [Image.new("RGB", (24, 16), one) for one in SAID], answers)
        done = lirdrec(*call, "--model", seeing, "--precision", "float32", "--max-tokens", 40)
    else:

        def seen(picture: bytes) -> str:
            (tmp_path / "seen.jpg").write_bytes(picture)
            red, _, blue = Image.open(tmp_path / "seen.jpg").convert("RGB").getpixel((0, 0))
            return json.dumps(SAID["red" if red > blue else "blue"])

        with Server([500, "cut"], answer=seen) as server:
            done = lirdrec(*call, "--endpoint", server.url, "--model", "m", "--concurrency", 1)
    assert done.exit_code == 0, done.stderr
    model = ["--caption", f"image={decoder}", "--text", f"text={decoder}", "--precision", "bfloat16"]
    made = lirdrec("features", "shop", *model, "--device", "cpu")
    assert made.exit_code == 0, made.stderr
    data = Dataset.load(shop, verify=True)
    assert data.item_table["caption"].to_list() == [CAPTIONS[colour(item)] for item in data.item_table["item"]]
    image, text = data.features["image"].values, data.features["text"].values
    assert image.shape == text.shape == (N, 32) and len(np.unique(image, axis=0)) == 2
    assert len(np.unique(text, axis=0)) == N

    settings = [
        "--set",
        "modalities=image,text",
        "--set",
        "embedding_size=8",
        "--set",
        "epochs=30",
        "--set",
        "n_neighbors=3",
    ]
    trained = lirdrec("train", "shop", "--run", "run", *settings, "--seed", 0)
    assert trained.exit_code == 0, trained.stderr
    # nobody took these things: what is known of their colour is what was read off the captions
    for item in range(SOLD, N):
        near = json.loads(lirdrec("similar", "run", "--item", item, "-k", 3, "--json").stdout)
        assert {colour(one["neighbor"]) for one in near} == {colour(item)}
    for user in range(12):
        liked = json.loads(lirdrec("recommend", "run", "--user", user, "-k", 2, "--json").stdout)
        assert {colour(one["item"]) for one in liked} == {colour(user)}
