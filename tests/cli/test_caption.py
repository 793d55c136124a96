"""The command caption, and the way from images to vectors of their captions."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from lirdrec.captions import pipeline
from lirdrec.captions.prompt_attributes import Attributes, render, to_toml
from lirdrec.data import Dataset
from lirdrec.data.images import with_images
from lirdrec.features.dataset_writer import set_item_columns
from lirdrec.features.remote.client import OpenAIClient

from ..features import tiny_models
from ..features.misbehaving_server import Server, describe, embed
from ..helpers import assert_refused, files

SECRET = "sk-secret-4711"
COLORS = [(248 - 16 * n, 24, 8 + 16 * n) for n in range(8)]


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LIRDREC_API_KEY", SECRET)
    monkeypatch.setitem(OpenAIClient.__init__.__kwdefaults__, "sleep", lambda seconds: None)
    (tmp_path / "covers").mkdir()
    for n, color in enumerate(COLORS):
        Image.new("RGB", (20, 10), color).save(tmp_path / "covers" / f"{n}.png")
    pairs = pl.DataFrame({"user": [n % 2 for n in range(16)], "item": [n // 2 for n in range(16)]})
    return with_images(Dataset.from_frames(pairs, split="none", name="tiles"), tmp_path / "covers").save(
        tmp_path / "tiles"
    )


def captions(data: Path) -> list:
    return Dataset.load(data, verify=True).item_table["caption"].to_list()


def expected(n: int) -> str:
    said = describe((Path("covers") / f"{n}.png").read_bytes())
    return f"Category: {said['category']}. Colour: {said['colour']}."


def test_from_images_to_vectors(lirdrec, data):
    """The paper's two matrices, by servers: images → captions → vectors, nothing asked twice."""
    with Server([500, 429, "garbage"]) as server:
        done = lirdrec("caption", "tiles", "--endpoint", server.url, "--model", "m", "--yes", "--concurrency", 3)
        assert done.exit_code == 0, done.stderr
        assert re.findall(r"[\d,]*\d", done.stdout)[:4] == ["8", "8", "7,200", "320"]
        assert captions(data) == [expected(n) for n in range(8)]
        assert len(server.asked) == 8 + 3
        encoder = f"image=endpoint:{server.url}#embedder"
        done = lirdrec("features", "tiles", "--caption", encoder, "--drop-featureless-items", "--yes")
        assert done.exit_code == 0, done.stderr
    found = Dataset.load(data, verify=True).features["image"].values
    assert np.allclose(found, [embed(expected(n)) for n in range(8)])


def test_a_prompt_of_two_lines_can_be_typed_in_any_shell(lirdrec, data):
    """The instruction that e5-mistral was trained with; a shell gives its \\n as two characters."""
    set_item_columns(data, pl.DataFrame({"item": range(8), "caption": [f"tile {n}" for n in range(8)]}))
    with Server() as server:
        model = f"endpoint:{server.url}#m"
        done = lirdrec(
            "features", "tiles", "--caption", model, "--prefix", r"Instruct: Find similar tiles\nQuery: ", "-y"
        )
        assert done.exit_code == 0, done.stderr
    texts = sorted(text for body in server.bodies for text in body["input"])
    assert texts[:8] == [f"Instruct: Find similar tiles\nQuery: tile {n}" for n in range(8)]
    recorded = Dataset.load(data).info["encoders"]["caption"]
    assert recorded["origin"]["options"] == {"prompt": "Instruct: Find similar tiles\nQuery: "}


def test_the_key_is_in_no_file_and_no_line(lirdrec, data):
    leak = (400, {"error": {"message": f"Incorrect key {SECRET}"}})
    with Server([leak, "ok", "ok", (401, {"error": {"message": f"key {SECRET} has expired"}})]) as server:
        arguments = ("--debug", "--verbose", "caption", "tiles", "--endpoint", server.url, "--model", "m", "--yes")
        done = lirdrec(*arguments, "--concurrency", 1, "--no-probe")
        assert done.exit_code == 2 and "[key] has expired" in done.stderr  # as the server wrote it, without the key
        said = done.output + done.stderr
        assert len(list((data / "work").rglob("0*.json"))) == 3
        left = files(data)
        done = lirdrec(*arguments)
        assert done.exit_code == 0 and server.headers[0]["Authorization"] == f"Bearer {SECRET}"
        said += done.output + done.stderr
        lirdrec("caption", "tiles", "--report", "page.html")
        lirdrec("caption", "tiles", "--export", "c.csv")
    left |= files(data.parent)
    assert any("captions.problems.csv" in name for name in left)
    assert SECRET not in said and not any(SECRET.encode() in content for content in left.values())


def test_without_a_terminal_nothing_is_sent_without_the_option(lirdrec, data):
    before = files(data)
    with Server() as server:
        done = lirdrec("caption", "tiles", "--endpoint", server.url, "--model", "m", "--limit", 5)
        assert_refused(done, [5, f"{server.url}/v1", "--yes"])
        assert not server.asked
    assert done.stderr.strip().splitlines()[-1].startswith("lirdrec: ")
    assert "--price-input" in done.stderr
    assert files(data) == before


def test_a_person_sees_measured_figures_and_decides(lirdrec, data, person):
    with Server() as server:
        call = ["caption", "tiles", "--endpoint", server.url, "--model", "m"]
        person(False, False)
        done = lirdrec(*call)
        assert done.exit_code == 0 and not server.asked and not (data / "work").exists()
        assert len(person.asked) == 2 and "3" in person.asked[0]
        person(True, False)
        done = lirdrec(*call, "--price-input", 1000, "--price-output", 100)
        assert len(server.asked) == 3
        assert re.findall(r"\d+", done.stderr.strip().splitlines()[-1]) == ["3"]
        words = " ".join(done.stderr.split())
        assert "images 5" in words and re.search(r"tokens read 4,500 900 \D* 3 ", words)
        assert "cost 4.52" in words  # 5 × (900 × 1000 + 40 × 100) / 1e6
        person(True)
        done = lirdrec(*call, "--no-probe")
        assert len(person.asked) == 1 and len(server.asked) == 8
        assert captions(data) == [expected(n) for n in range(8)]
        person()
        assert re.findall(r"\d+", lirdrec(*call).stdout)[:2] == ["0", "8"] and not person.asked


def test_prompt_and_attributes_are_shown_and_used(lirdrec, data):
    shown = lirdrec("caption", "--show-attributes").stdout
    Path("mine.toml").write_text(re.sub(r'"style".*\n', '"mood" = "how it makes one feel"\n', shown), encoding="utf-8")
    prompt = lirdrec("caption", "--attributes", "mine.toml", "--show-prompt").stdout
    assert '- "mood": how it makes one feel' in prompt and '"style"' not in prompt
    with Server(answer=lambda image: '{"mood": "calm", "style": "none"}') as server:
        done = lirdrec(
            "caption", "tiles", "--endpoint", server.url, "--model", "m", "-y", "--attributes", "mine.toml", "--json"
        )
        assert json.loads(done.stdout)["captions"] == 8
        assert server.bodies[0]["messages"][0]["content"][0]["text"] + "\n" == prompt
    assert captions(data) == ["Mood: calm."] * 8


def test_ctrl_c_keeps_what_is_done(lirdrec, data, monkeypatch):
    with Server() as server:
        call = ["caption", "tiles", "--endpoint", server.url, "--model", "m", "--yes", "--no-probe", "--concurrency", 1]
        keep, kept = pipeline.Captioning._keep, []

        def interrupted(*arguments):
            keep(*arguments)
            kept.append(arguments)
            if len(kept) == 5:
                raise KeyboardInterrupt

        monkeypatch.setattr(pipeline.Captioning, "_keep", interrupted)
        done = lirdrec(*call)
        assert done.exit_code == 130 and "Traceback" not in done.stderr and len(kept) == 5
        assert lirdrec(*call).exit_code == 0
    assert captions(data) == [expected(n) for n in range(8)] and len(server.asked) == 8


def test_edited_by_a_person_and_looked_at(lirdrec, data):
    with Server() as server:
        lirdrec("caption", "tiles", "--endpoint", server.url, "--model", "m", "--yes")
    exported = lirdrec("caption", "tiles", "--export", "c.csv").stdout
    assert "c.csv" in exported and re.findall(r"\d+", exported) == ["8"]
    table = pl.read_csv("c.csv")
    assert table.height == 8
    table.with_columns(caption=pl.when(pl.col("item") == 5).then(pl.lit("Mine.")).otherwise("caption")).write_csv(
        "c.csv"
    )
    assert re.findall(r"\d+", lirdrec("caption", "tiles", "--import", "c.csv").stdout) == ["1"]
    assert captions(data) == [expected(n) if n != 5 else "Mine." for n in range(8)]
    assert "page.html" in lirdrec("caption", "tiles", "--report", "page.html").stdout
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 8 and "Mine." in page


BAD = [
    (["caption"], ["lirdrec caption DATASET"]),
    (["caption", "nowhere"], ["nowhere"]),
    (["caption", "tiles", "--endpoint", "localhost", "--model", "m"], ["localhost", "http"]),
    (["caption", "tiles", "--endpoint", "http://localhost"], ["--endpoint", "--model"]),
    (["caption", "tiles", "--attributes", "no.toml"], ["no.toml"]),
    (["caption", "tiles", "--images", "none"], ["none", "--images"]),
    (["caption", "tiles", "--export", "c.csv"], ["tiles", 8]),
    (["caption", "tiles", "--import", "c.csv"], ["c.csv"]),
    (["caption", "tiles", "--report", "p.html"], ["lirdrec caption tiles"]),
    (["caption", "tiles", "--concurrency", "3"], ["--concurrency", "--endpoint"]),
    (
        ["caption", "tiles", "--endpoint", "http://localhost", "--model", "m", "--device", "cuda"],
        ["--device", "--endpoint"],
    ),
    (["caption", "tiles", "--precision", "half"], ["precision", "half", "bfloat16", "float16", "float32"]),
]


@pytest.mark.parametrize(("arguments", "facts"), BAD)
def test_mistakes_get_one_sentence_and_change_nothing(lirdrec, data, arguments, facts):
    before = files(data.parent)
    done = lirdrec(*arguments)
    assert_refused(done, facts)
    assert done.stderr.count("\n") == 1 and done.stdout == "" and files(data.parent) == before


def test_real_posters_over_a_server(lirdrec, real_data, tmp_path):
    """Twelve real posters: what arrives at the server is the poster, in the order of the items."""
    posters = sorted((real_data / "posters").glob("*.jpg"))[:12]
    if not posters:
        pytest.skip("no posters")
    (tmp_path / "posters").mkdir()
    for path in posters:
        shutil.copy(path, tmp_path / "posters")
    films = [int(path.stem) for path in posters]
    pairs = pl.DataFrame({"user": [1] * 12, "item": films})
    with_images(Dataset.from_frames(pairs, split="none"), tmp_path / "posters").save(tmp_path / "films")
    with Server() as server:
        done = lirdrec("caption", "films", "--endpoint", server.url, "--model", "m", "--yes")
        assert done.exit_code == 0, done.stderr
    table = Dataset.load(tmp_path / "films").item_table
    for film, caption in zip(table["item"], table["caption"], strict=True):
        with Image.open(tmp_path / "posters" / f"{film}.jpg") as poster:
            mean = np.asarray(poster.convert("RGB").resize((1, 1)), dtype=float)[0, 0]
        shade = [16 * int(one) + 8 for one in re.search(r"(\d+)-(\d+)-(\d+)", caption).groups()]
        assert np.abs(mean - shade).max() <= 16, (film, caption)


pytest.importorskip("sentence_transformers", reason='sentence-transformers is missing: pip install "lirdrec[encoders]"')

ATTRIBUTES = Attributes("See.", "English", 2, {"colour": "main one", "kind": "what"})
SAID = {"red": {"colour": "red", "kind": "a tile"}, "blue": {"colour": "deep blue", "kind": "a rug"}}
CAPTIONS = {"red": "Colour: red. Kind: a tile.", "blue": "Colour: deep blue. Kind: a rug."}
N, SOLD = 24, 16  # things, every other one red; the last eight were never sold


def color(item: int) -> str:
    return "blue" if item % 2 else "red"


@pytest.fixture
def shop(lirdrec, tmp_path) -> Path:
    """Twelve people who each took six things of one color; the titles do not mention it."""
    (tmp_path / "photos").mkdir()
    for item in range(N):
        Image.new("RGB", (24, 16), color(item)).save(tmp_path / "photos" / f"{item}.png")
    (tmp_path / "items.csv").write_text(
        "item,title\n" + "".join(f"{index},article {index * 7919 % 97}\n" for index in range(N))
    )
    rng = np.random.default_rng(0)
    rows = [f"{one},{2 * index + one % 2}\n" for one in range(12) for index in sorted(rng.permutation(SOLD // 2)[:6])]
    (tmp_path / "sales.csv").write_text("user,item\n" + "".join(rows))
    (tmp_path / "asked.toml").write_text(to_toml(ATTRIBUTES))
    done = lirdrec("prepare", "sales.csv", "--items", "items.csv", "--images", "photos", "-o", "shop")
    assert done.exit_code == 0, done.stderr
    return tmp_path / "shop"


@pytest.mark.parametrize("by", ["model", "server"])
def test_from_images_to_recommendations(lirdrec, shop, tmp_path, by):
    texts = [*CAPTIONS.values(), *(f"article {n}" for n in range(97))]
    decoder = tiny_models.mistral(tmp_path / "decoder", tiny_models.tokenizer(texts, "<|image|>"))
    call = ["caption", "shop", "--attributes", "asked.toml", "--yes"]
    if by == "model":
        answers = [json.dumps(one) for one in SAID.values()]
        seeing = tiny_models.mllama(tmp_path / "mllama", [render(ATTRIBUTES), *answers])
        tiny_models.teach(seeing, render(ATTRIBUTES), [Image.new("RGB", (24, 16), one) for one in SAID], answers)
        done = lirdrec(*call, "--model", seeing, "--precision", "float32", "--max-tokens", 40)
    else:

        def seen(image: bytes) -> str:
            (tmp_path / "seen.jpg").write_bytes(image)
            red, _, blue = Image.open(tmp_path / "seen.jpg").convert("RGB").getpixel((0, 0))
            return json.dumps(SAID["red" if red > blue else "blue"])

        with Server([500, "cut"], answer=seen) as server:
            done = lirdrec(*call, "--endpoint", server.url, "--model", "m", "--concurrency", 1)
    assert done.exit_code == 0, done.stderr
    model = ["--caption", f"image={decoder}", "--text", f"text={decoder}", "--precision", "bfloat16"]
    made = lirdrec("features", "shop", *model, "--device", "cpu")
    assert made.exit_code == 0, made.stderr
    data = Dataset.load(shop, verify=True)
    assert data.item_table["caption"].to_list() == [CAPTIONS[color(item)] for item in data.item_table["item"]]
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
    # no user took these things: their color is known from the captions alone
    for item in range(SOLD, N):
        near = json.loads(lirdrec("similar", "run", "--item", item, "-k", 3, "--json").stdout)
        assert {color(one["neighbor"]) for one in near} == {color(item)}
    for user in range(12):
        liked = json.loads(lirdrec("recommend", "run", "--user", user, "-k", 2, "--json").stdout)
        assert {color(one["item"]) for one in liked} == {color(user)}
