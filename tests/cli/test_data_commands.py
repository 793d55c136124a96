"""prepare and inspect."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lirdrec.data.dataset import Dataset

from .conftest import files

RATINGS = "userId,movieId,rating\n" + "".join(
    f"{user},{film},{5 if (user + film) % 7 else 2}\n" for user in range(1, 13) for film in range(100, 112)
)
MOVIES = "movieId,title\n" + "".join(f"{film},Film {film}\n" for film in range(100, 112))


@pytest.fixture
def raw(tmp_path, lirdrec):
    (tmp_path / "ratings.csv").write_text(RATINGS)
    (tmp_path / "movies.csv").write_text(MOVIES)
    np.save(tmp_path / "text.npy", np.arange(36, dtype=np.float32).reshape(12, 3) + 1)
    return tmp_path


COLUMNS = ["--user", "userId", "--item", "movieId", "--rating", "rating"]


def test_prepare_follows_its_options(lirdrec, raw):
    result = lirdrec(
        *["prepare", "ratings.csv", "-o", "ready", *COLUMNS, "--min-rating", 4, "--items", "movies.csv"],
        *["--features", "text=text.npy", "--k-core", 2, "--seed", 3, "--name", "films"],
    )
    assert result.exit_code == 0, result.stderr
    assert "Next: lirdrec train ready" in result.stdout
    data = Dataset.load(raw / "ready", verify=True)
    kept = RATINGS.count(",5\n")
    assert len(data.train) + len(data.valid) + len(data.test) == kept
    assert data.name == "films" and data.item_table["title"][0] == "Film 100"
    assert data.info["split"]["seed"] == 3 and data.info["preparation"]["below_min_rating"] == 144 - kept
    assert data.features["text"].values.tolist()[0] == [1, 2, 3]


def test_inspect_says_what_is_there(lirdrec, raw):
    lirdrec("prepare", "ratings.csv", "-o", "ready", *COLUMNS, "--items", "movies.csv", "--features", "text=text.npy")
    result = lirdrec("inspect", "ready")
    words = " ".join(result.stdout.split())
    assert "Dataset ratings" in words and "12 12 144 0.00%" in words
    assert "text 3 float32 12 100.0% 144 bytes" in words
    assert "Training items per user (min 10, median 10, mean 10.0, max 10)" in words and "8-15 " + "█" * 32 in words
    figures = json.loads(lirdrec("inspect", "ready", "--json").stdout)
    assert figures["users"] == 12 and figures["splits"]["train"] == 120


def test_inspect_reads_raw_folders_too(lirdrec, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "x.inter").write_text("userID\titemID\tx_label\n0\t0\t0\n0\t1\t2\n1\t1\t0\n")
    figures = json.loads(lirdrec("inspect", "raw", "--json").stdout)
    assert figures["splits"] == {"train": 2, "valid": 0, "test": 1}


BAD = [
    (["prepare", "no.csv", "-o", "x"], "no.csv: no such file"),
    (["prepare", "ratings.csv", "-o", "x"], "ratings.csv: no column 'user'; it has userId, movieId, rating"),
    (["prepare", "ratings.csv", "-o", "taken", *COLUMNS], "--output taken: has something in it; choose another folder"),
    (
        ["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--features", "text.npy"],
        "--features text.npy: write it as NAME=FILE",
    ),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--features", "t=no.npy"], "no.npy: no such file"),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--held-out", 2], "held_out is 2.0; it must lie between 0 and 1"),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--split", "halves"], "ratings.csv: no column 'halves'"),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--k-core", 99], "ratings.csv: no interaction is left after"),
    (["inspect", "nowhere"], "nowhere: no such"),
    (["inspect", "taken"], "taken: neither a prepared dataset (no manifest.json) nor an MMRec or RecBole folder"),
    (["prepare", "raw", "-o", "x", "--k-core", 5], "--k-core: raw is an MMRec folder, which keeps its own split"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD)
def test_bad_input_gets_one_sentence_code_2_and_writes_nothing(lirdrec, raw, arguments, sentence):
    for folder in ("taken", "raw"):
        (raw / folder).mkdir()
    (raw / "taken" / "thesis.tex").write_text("")
    (raw / "raw" / "x.inter").write_text("userID\titemID\tx_label\n0\t0\t0\n")
    before = files(raw)
    result = lirdrec(*arguments)
    assert result.stderr.startswith(f"lirdrec: {sentence}")
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    assert result.exit_code == 2
    assert files(raw) == before and not (raw / "x").exists()


def test_a_prepared_dataset_is_not_prepared_again(lirdrec, raw):
    lirdrec("prepare", "ratings.csv", "-o", "ready", *COLUMNS)
    result = lirdrec("prepare", "ready", "-o", "x", "--k-core", 5)
    assert result.exit_code == 2 and "is prepared already, so options do nothing" in result.stderr
    assert lirdrec("prepare", "ratings.csv", "-o", "ready", "--overwrite", *COLUMNS).exit_code == 0
