"""`lirdrec export`, and `lirdrec recommend` for everyone or among some items, as commands."""

from __future__ import annotations

import json
import os

import numpy as np
import polars as pl
import pytest

from ..helpers import assert_mentions, assert_refused


def test_export_writes_a_folder_that_says_how_to_use_it(lirdrec, run, tmp_path):
    result = lirdrec("export", run, "--format", "npy", "out")
    assert result.exit_code == 0 and result.stdout.count("\n") == 1 and "out/README.txt" in result.stdout
    assert_mentions((tmp_path / "out" / "README.txt").read_text(), ["2 users", "3 items", "m on d"])
    assert np.load(tmp_path / "out" / "items.npy").tolist() == [[1, 3], [2, 2], [3, 1]]
    assert lirdrec("export", run, "--format", "npy", "out", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["RUN", "--format", "pgvektor", "out"], ["pgvektor", "pgvector"]),
        (["RUN", "--format", "npy", "RUN"], ["RUN"]),
        (["nowhere", "--format", "npy", "out"], ["nowhere"]),
        (["RUN", "--format", "onnx", "out"], []),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(lirdrec, run, tmp_path, arguments, facts):
    arguments = [run if one == "RUN" else one for one in arguments]
    result = lirdrec("export", *arguments)
    assert_refused(result, [run if one == "RUN" else one for one in facts])
    assert len(result.stderr.strip().splitlines()) == 1 and result.stdout == ""
    assert os.listdir(tmp_path) == ["run"]


@pytest.fixture
def unfinished(lirdrec, run, tmp_path, monkeypatch):
    """A file of every user whose last step Ctrl-C stopped."""

    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lirdrec.recommender.batch._join", stopped)
        result = lirdrec("recommend", run, "--all", "-k", 1, "-o", "all.csv")
    assert result.exit_code == 130 and "Traceback" not in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["all.csv.parts", "run"]


def test_everyone_goes_on_where_it_was(lirdrec, run, tmp_path, unfinished, monkeypatch):
    def ranked_again(*arguments):
        raise AssertionError("what was ranked is ranked again")

    monkeypatch.setattr("lirdrec.recommender.batch._ranked", ranked_again)
    assert lirdrec("recommend", run, "--all", "-k", 1, "-o", "all.csv").exit_code == 0
    assert pl.read_csv(tmp_path / "all.csv").rows() == [(1, 20, 1, 2.0), (2, 10, 1, 3.0)]
    assert sorted(os.listdir(tmp_path)) == ["all.csv", "run"]


def test_everyone_anew_or_refused_with_other_settings(lirdrec, run, tmp_path, unfinished):
    result = lirdrec("recommend", run, "--all", "-k", 2, "-o", "all.csv")
    assert_refused(result, ["all.csv", "--no-resume"])
    assert lirdrec("recommend", run, "--all", "-k", 2, "-o", "all.csv", "--no-resume").exit_code == 0
    assert pl.read_csv(tmp_path / "all.csv")["item"].to_list() == [20, 10, 10, 20]


def test_choosing_among_items_by_their_columns(lirdrec, run, tmp_path):
    later = '{"title": {"gt": "B"}}'

    def items(*options: object) -> list[int]:
        return [row["item"] for row in json.loads(lirdrec("recommend", run, *options, "-k", 2, "--json").stdout)]

    assert items("--user", 2, "--filter", later) == [20, 30]
    assert items("--user", 1, "--filter", later) == [20]  # it liked 30
    assert items("--user", 2, "--filter", later, "--candidates", "10,20") == [20]
    lirdrec("recommend", run, "--all", "-k", 2, "--filter", later, "-o", "all.parquet")
    assert pl.read_parquet(tmp_path / "all.parquet")["item"].to_list() == [20, 20, 30]


@pytest.mark.parametrize(
    ("where", "facts"),
    [
        ("price < 30", ["--filter", "JSON"]),
        ("[1]", ["--filter"]),
        ('{"titel": "Alien"}', ["titel", "'title'"]),
        ('{"title": "Dune"}', ["Dune"]),
    ],
)
def test_conditions_that_cannot_be_met(lirdrec, run, where, facts):
    result = lirdrec("recommend", run, "--user", 1, "--filter", where)
    assert_refused(result, facts)
    assert len(result.stderr.strip().splitlines()) == 1
