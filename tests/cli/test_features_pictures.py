"""`lirdrec features --image`: from a raw table to the pictures of its items, wherever they lie, whatever they are."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import polars as pl
import pytest

from lirdrec.captions.captioner import read_columns
from lirdrec.captions.plan import make_plan
from lirdrec.data import Dataset
from lirdrec.features.sources import ImageSource, ItemRows

from ..features import broken_pictures
from ..helpers import assert_mentions, files


def shop(tmp_path: Path, images: list[str | None]) -> None:
    """A table of 24 sales and, in a folder of its own, one of eight items with their pictures."""
    (tmp_path / "catalog").mkdir()
    rows = "".join(f"{at},thing {at},{image or ''}\n" for at, image in enumerate(images))
    (tmp_path / "catalog" / "items.csv").write_text("item,title,image\n" + rows)
    n = len(images)
    pairs = "".join(f"{user},{(user + 5 * at) % n}\n" for user in range(6) for at in range(4))
    (tmp_path / "sales.csv").write_text("user,item\n" + pairs)


def photographs(folder: Path, names: list[str]) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for at, name in enumerate(names):
        Image.new("RGB", (30, 20), (30 * at, 20, 240 - 30 * at)).save(folder / name)


def next_command(stdout: str) -> list[str]:
    return shlex.split(stdout.rstrip().rpartition("Next: lirdrec ")[2])


def test_a_column_of_paths_beside_the_table_needs_no_option(lirdrec, tmp_path):
    names = [f"photos/sku{at}.png" for at in range(7)]
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


def test_addresses_are_no_pictures_until_a_folder_has_them(lirdrec, tmp_path):
    shop(tmp_path, [f"https://shop.example/{at}.jpg" for at in range(8)])
    prepared = lirdrec("prepare", "sales.csv", "--items", "catalog/items.csv", "-o", "ready")
    assert next_command(prepared.stdout) == ["features", "ready", "--text", "hashed"], prepared.stderr
    made = lirdrec("features", "ready")
    assert made.exit_code == 0, made.stderr
    assert list(Dataset.load(tmp_path / "ready").features) == ["text"]
    photographs(tmp_path / "photos", [f"{at}.png" for at in range(6)])
    made = lirdrec("features", "ready", "--image", "descriptor", "--images", "photos")
    assert made.exit_code == 0, made.stderr
    data = Dataset.load(tmp_path / "ready", verify=True)
    assert data.item_table["image"].to_list() == [*(f"{at}.png" for at in range(6)), None, None]
    assert data.features["image"].present.sum() == 6 and data.info["images"] == str(tmp_path / "photos")


def test_paths_that_lead_nowhere_are_left_out_until_their_folder_is_named(lirdrec, tmp_path):
    names = [f"{at}.png" for at in range(8)]
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


def test_a_call_that_fails_does_not_give_the_table_its_pictures(lirdrec, tmp_path):
    shop(tmp_path, [None] * 8)
    photographs(tmp_path / "photos", [f"{at}.png" for at in range(5)])
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
    assert data.item_table["image"].to_list() == [*(f"{at}.png" for at in range(5)), *[None] * 3]
    assert data.features["image"].present.tolist() == [True] * 5 + [False] * 3
    # from now on it knows them
    assert data.info["images"] == str(tmp_path / "photos") and not (tmp_path / "ready" / "work").exists()
    again = json.loads(lirdrec("features", "ready", "--image", "descriptor", "--json").stdout)
    assert (again[0]["encoded"], again[0]["copied"]) == (0, 5)
    dropped = lirdrec("prepare", "sales.csv", "--items", "catalog/items.csv", "-o", "fewer")
    dropped = lirdrec("features", "fewer", "--image", "descriptor", "--images", "photos", "--drop-featureless-items")
    assert dropped.exit_code == 0, dropped.stderr
    assert Dataset.load(tmp_path / "fewer").item_table["image"].to_list() == [f"{at}.png" for at in range(5)]


@pytest.mark.skipif(os.name == "nt", reason="there are no pipes and devices in folders")
def test_sixty_broken_files_from_the_raw_table_to_the_matrix(lirdrec, tmp_path):
    """Pipes, devices and circular links among them: nothing waits, and each that is no picture is named."""
    cases = broken_pictures.make(tmp_path / "odd")
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
