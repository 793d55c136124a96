"""prepare with images, and the command that it suggests next."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from lirdrec.data.dataset import Dataset

from ..helpers import assert_mentions, assert_refused


@pytest.fixture
def films(tmp_path, lirdrec):
    """A folder like ml-latest beside a folder of three posters."""
    (tmp_path / "ml-tiny").mkdir()
    (tmp_path / "posters").mkdir()
    rows = "".join(f"{user},{film},{5 - (user + film) % 3},1\n" for user in range(1, 9) for film in range(10))
    (tmp_path / "ml-tiny" / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    titles = "".join(f'{film},"Film, The {film} (199{film})",Drama\n' for film in range(10))
    (tmp_path / "ml-tiny" / "movies.csv").write_text("movieId,title,genres\n" + titles)
    for film in (1, 2, 77):
        (tmp_path / "posters" / f"{film}.jpg").write_bytes(b"x")
    return tmp_path


def test_prepare_recognizes_movielens_finds_pictures_and_says_what_to_run_next(lirdrec, films):
    result = lirdrec("prepare", "ml-tiny", "--images", "posters", "--min-rating", 4, "-o", "films")
    assert result.exit_code == 0, result.stderr
    assert "title 10 (100.0%), genres 10 (100.0%)\n" in result.stdout and "2 (20.0%)\n" in result.stdout
    assert result.stdout.endswith("Next: lirdrec features films --text hashed --image descriptor\n")
    data = Dataset.load(films / "films", verify=True)
    assert data.info["images"] == str(films / "posters") and data.item_table["title"][3] == "Film, The 3"
    assert data.item_table["image"].to_list()[:3] == [None, "1.jpg", "2.jpg"]
    assert data.info["preparation"]["min_rating"] == 4 and not data.features
    figures = json.loads(lirdrec("inspect", "films", "--json").stdout)
    assert figures["pictures"] == 2 and figures["texts"] == {"title": 10, "genres": 10}
    assert "2 (20.0%)" in lirdrec("inspect", "ml-tiny/../films").stdout


def test_the_next_command_names_only_what_is_there(lirdrec, films):
    assert lirdrec("prepare", "ml-tiny", "-o", "texts").stdout.endswith("Next: lirdrec features texts --text hashed\n")
    ratings = ["prepare", "ml-tiny/ratings.csv", "--user", "userId", "--item", "movieId"]
    assert lirdrec(*ratings, "-o", "plain").stdout.endswith("Next: lirdrec train plain --model ease\n")
    result = lirdrec(*ratings, "--images", "posters", "-o", "pictures")
    assert result.stdout.endswith("Next: lirdrec features pictures --image descriptor\n")


def test_after_a_split_by_time_the_next_model_reads_the_order(lirdrec, films):
    lirdrec("prepare", "ml-tiny", "--split", "leave_last_out", "-o", "ordered")
    made = lirdrec("features", "ordered", "--text", "hashed")
    train = "lirdrec train ordered --model lirdrec_seq"
    assert made.stdout.endswith(f"{train} --run runs/first\n"), made.stderr
    assert lirdrec("prepare", "ordered", "-o", "again").stdout.endswith("lirdrec train again --model lirdrec_seq\n")
    lirdrec("prepare", "ml-tiny", "-o", "random")
    assert lirdrec("features", "random", "--text", "hashed").stdout.endswith("lirdrec train random --run runs/first\n")


def test_pictures_by_a_column_begin_beside_the_item_table(lirdrec, films):
    (films / "shop").mkdir()
    (films / "shop" / "items.csv").write_text("movieId,photo\n" + "".join(f"{n},../posters/1.jpg\n" for n in range(10)))
    command = ["prepare", "ml-tiny/ratings.csv", "--user", "userId", "--item", "movieId", "--items", "shop/items.csv"]
    result = lirdrec(*command, "--image-column", "photo", "-o", "x")
    assert_refused(result, [0, "../posters/1.jpg", "shop"])
    assert not (films / "x").exists()
    (films / "shop" / "items.csv").write_text("movieId,photo\n" + "".join(f"{n},posters/{n}.jpg\n" for n in range(10)))
    result = lirdrec(*command, "--image-column", "photo", "--images", ".", "-o", "x")
    assert_mentions(result.stderr, ["'photo'", "posters/0.jpg, posters/3.jpg"])
    # they keep their names, so that lirdrec features can list them
    assert Dataset.load(films / "x").item_table["image"].to_list() == [f"posters/{n}.jpg" for n in range(10)]


def test_pictures_are_added_to_what_was_prepared(lirdrec, films):
    lirdrec("prepare", "ml-tiny", "-o", "texts", "--seed", 7)
    assert lirdrec("prepare", "texts", "--images", "posters", "-o", "both").exit_code == 0
    before, after = Dataset.load(films / "texts"), Dataset.load(films / "both")
    assert after.item_table.drop("image").equals(before.item_table)
    assert after.frame("test").equals(before.frame("test")) and after.info["split"]["seed"] == 7
    assert after.item_table["image"].count() == 2


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("item,title\n", "lirdrec features 'my shop' --text hashed"),
        ("item,what it is\n", "lirdrec features 'my shop' --text hashed --text-template '{what it is}'"),
        ("item,{a}\n", "lirdrec train 'my shop' --model ease"),
        (None, "lirdrec train 'my shop' --model ease"),
    ],
)
def test_the_next_command_works_on_this_dataset(lirdrec, tmp_path, table, expected):
    pairs = [(user, item) for user in range(12) for item in range(30) if (user + item) % 3]
    Path("log.csv").write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in pairs))
    options = [] if table is None else ["--items", "table.csv"]
    if table is not None:
        Path("table.csv").write_text(table + "".join(f"{item},thing {item} of the shop\n" for item in range(30)))
    result = lirdrec("prepare", "log.csv", "--user", "user", "--item", "item", *options, "-o", "my shop")
    assert result.exit_code == 0, result.stderr
    command = result.stdout.rstrip().rpartition("Next: ")[2]
    assert command == expected
    done = lirdrec("-q", *shlex.split(command)[1:], *(["-y"] if "features" in command else []))
    assert done.exit_code == 0, done.stderr
