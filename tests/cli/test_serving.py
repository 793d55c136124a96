"""recommend, similar, explain, strip: what they print for people and for machines, and how they refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.models.ease import EASEConfig
from lirdrec.recommender.fit import fit
from lirdrec.training.config import TrainConfig

from ..helpers import PATIENCE, assert_mentions, assert_refused, files


def test_recommend_prints_titles(lirdrec, run):
    result = lirdrec("recommend", run, "--user", 1, "-k", 2)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines() if line.strip(" ─")]
    assert lines[0][-1] == "1"
    assert lines[1] == ["rank", "item", "title", "score"]
    assert lines[2:] == [["1", "20", "Brazil", "2.0000"], ["2", "10", "Alien", "1.0000"]]


def test_recommend_json_and_options(lirdrec, run):
    result = lirdrec("recommend", run, "-u", 2, "-u", 1, "-k", 1, "--include-seen", "--json")
    assert json.loads(result.stdout) == [
        {"user": 2, "item": 10, "rank": 1, "score": 3.0, "title": "Alien"},
        {"user": 1, "item": 30, "rank": 1, "score": 3.0, "title": "Casablanca"},
    ]
    result = lirdrec("recommend", run, "-u", 1, "-k", 1, "--candidates", "10,30", "--json")
    assert [row["item"] for row in json.loads(result.stdout)] == [10]
    result = lirdrec("recommend", run, "-u", 1, "-u", 9, "-k", 1, "--unknown-users", "skip", "--json")
    assert [row["user"] for row in json.loads(result.stdout)] == [1]


@pytest.mark.parametrize(
    ("ending", "read"),
    [
        ("csv", pl.read_csv),
        ("tsv", lambda path: pl.read_csv(path, separator="\t")),
        ("parquet", pl.read_parquet),
        ("json", lambda path: pl.DataFrame(json.loads(path.read_text()))),
    ],
)
def test_output_files(lirdrec, run, tmp_path, ending, read):
    result = lirdrec("recommend", run, "--all", "-k", 1, "--output", f"out.{ending}")
    assert result.exit_code == 0 and result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert_mentions(result.stderr, [2, f"out.{ending}"])
    assert read(tmp_path / f"out.{ending}").rows() == [(1, 20, 1, 2.0), (2, 10, 1, 3.0)]


POLICIES = [
    ([], [20, 40], [10, 40]),
    (["--new-items", "calibrated"], [20, 40], [10, 40]),
    (["--new-items", "none"], [20, 40], [10, 20]),
    (["--new-items", "boost=0.1"], [40, 20], [40, 10]),
    (["--new-items", "share=0.5"], [40, 20], [10, 40]),
    (["--new-items", "share=0"], [20, 10], [10, 20]),
]


@pytest.mark.parametrize(("options", "one", "two"), POLICIES)
def test_new_items_compete_as_the_option_says_and_their_share_is_shown(lirdrec, grown, options, one, two):
    wanted = {1: one, 2: two}
    n_new = sum(40 in items for items in wanted.values())
    result = lirdrec("recommend", grown, "--all", "-k", 2, "--json", *options)
    assert {user: set(items) for user, items in lists(json.loads(result.stdout)).items()} == {
        user: set(items) for user, items in wanted.items()
    }
    assert_mentions(result.stderr, [f"{n_new} of 4", f"{n_new / 4:.1%}"])
    table = lirdrec("recommend", grown, "--all", "-k", 2, *options)
    assert_mentions(table.stdout, [f"{n_new} of 4"])
    written = lirdrec("recommend", grown, "--all", "-k", 2, "--output", "all.csv", *options)
    assert written.exit_code == 0, written.stderr
    assert lists(pl.read_csv("all.csv").to_dicts()) == lists(json.loads(result.stdout))
    assert_mentions(written.stderr, [f"{n_new} of 4"])


def lists(rows: list[dict]) -> dict[int, list[int]]:
    return {user: [row["item"] for row in rows if row["user"] == user] for user in (1, 2)}


def test_a_run_without_new_items_has_no_share_and_wrong_policies_are_refused(lirdrec, run):
    assert lirdrec("recommend", run, "--user", 1, "-k", 1, "--json").stderr == ""
    for policy in ("boost", "share=2", "often"):
        result = lirdrec("recommend", "nowhere", "--user", 1, "--new-items", policy)
        assert_refused(result, [f"--new-items {policy}"])


@pytest.mark.parametrize("more", [(), ("--json",), ("--output", "lists.csv")])
def test_a_policy_without_added_items_is_remarked_on(lirdrec, run, more):
    asked = ("recommend", run, "--all", "-k", 2, *more)
    for policy in ("share=0.4", "none"):
        result = lirdrec(*asked, "--new-items", policy)
        assert result.exit_code == 0
        lines = [line for line in result.stderr.splitlines() if "--new-items" in line]
        assert len(lines) == 1 and policy in lines[0]
    assert "--new-items" not in lirdrec(*asked[:5], "--json").stderr


def test_similar_items_and_users(lirdrec, run):
    result = lirdrec("similar", run, "--item", 10, "-k", 1)
    assert_mentions(result.stdout, [10, "Alien", "Brazil"])
    rows = json.loads(lirdrec("similar", run, "--user", 1, "-k", 1, "--json").stdout)
    assert rows == [{"user": 1, "neighbor": 2, "rank": 1, "score": 0.0}]


def test_explain_adds_up(lirdrec, run, tmp_path):
    result = lirdrec("explain", run, "--user", 1, "--item", 20)
    lines = [line.split() for line in result.stdout.splitlines() if line.strip(" ─")]
    assert lines[0][0] == "Brazil" and lines[0][-1] == "1"
    assert lines[2:5] == [["image", "0.750", "+2.0000"], ["text", "0.250", "+0.0000"], ["score", "+2.0000"]]
    assert lines[7:] == [["30", "Casablanca", "0.894"]]
    assert lirdrec("explain", run, "--user", 1, "--item", 20, "-o", "why.json").exit_code == 0
    reason = json.loads((tmp_path / "why.json").read_text())
    assert reason["parts"] == {"image": 2.0, "text": 0.0} and reason["score"] == 2.0


def test_a_score_that_is_a_sum_over_liked_items_is_explained_by_them(lirdrec, tmp_path):
    pairs = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "z"), ("c", "y"), ("c", "z"), ("d", "x"), ("d", "w")]
    pairs += [("a", "v"), ("b", "y"), ("c", "v"), ("d", "z")]
    frame = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
    table = pl.DataFrame({"item": list("vwxyz"), "title": ["V", "W", "X", "Y", "Z"]})
    data = Dataset.from_frames(frame, items=table, split="none")
    made = fit(data, EASEConfig(regularization=1.0), progress=False, run=tmp_path / "ease")
    reason = made.explain("a", "z", n_liked=2)
    every = made.explain("a", "z", n_liked=9)
    weights = made.scorer.weights
    parts = {one.item: one.part for one in every.liked}
    rows = {item: made.items.row(item) for item in "vxyz"}
    assert parts == {item: pytest.approx(float(weights[rows[item], rows["z"]])) for item in "vxy"}
    assert sum(parts.values()) == pytest.approx(reason.score) == pytest.approx(made.score(("a", "z"))["score"][0])
    assert [one.item for one in reason.liked] == sorted(parts, key=lambda item: -parts[item])[:2]
    result = lirdrec("explain", tmp_path / "ease", "--user", "a", "--item", "z", "--history-size", 2)
    lines = [line.split() for line in result.stdout.splitlines() if line.strip(" ─")]
    assert lines[1] == ["liked", "item", "title", "adds"]
    assert lines[2:4] == [[one.item, one.title, f"{one.part:+.4f}"] for one in reason.liked]
    assert lines[4][-1] == f"{reason.score - sum(one.part for one in reason.liked):+.4f}"
    assert lines[5] == ["score", f"{reason.score:+.4f}"]
    found = json.loads(lirdrec("explain", tmp_path / "ease", "--user", "a", "--item", "z", "--json").stdout)
    assert [one["part"] for one in found["liked"]] == [one.part for one in every.liked]


@pytest.fixture
def zeros_run(tmp_path):
    """A run of popularity whose ids are codes of five digits: users 00001 …, items 00010 …."""
    pairs = [(f"{user:05}", f"{10 * item:05}") for user in range(1, 5) for item in range(1, 5) if user != item]
    data = Dataset.from_frames(pl.DataFrame(pairs, schema=["user", "item"], orient="row"), split="none")
    fit(data, EASEConfig(), progress=False, run=tmp_path / "zeros")
    return tmp_path / "zeros"


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["recommend", "--user", 1, "-k", 1], ["'1'", "'00001'"]),
        (["recommend", "--user", "3.0", "-k", 1], ["'3.0'", "'00003'"]),
        (["recommend", "--user", 1, "--user", 2, "-k", 1], ["'00001', '00002'"]),
        (["recommend", "--history", "10,00020", "-k", 1], ["'10'", "'00010'"]),
        (["recommend", "--user", "00001", "-k", 1, "--candidates", 40], ["'40'", "'00040'"]),
        (["similar", "--item", "020", "-k", 1], ["'020'", "'00020'"]),
        (["similar", "--user", "4", "-k", 1], ["'4'", "'00004'"]),
        (["explain", "--user", "00001", "--item", 10], ["'10'", "'00010'"]),
    ],
)
def test_an_id_without_its_zeros(lirdrec, zeros_run, arguments, mentions):
    command, *others = arguments
    assert_refused(lirdrec(command, zeros_run, *others), mentions)


def test_a_whole_number_with_a_decimal_point_is_an_id(lirdrec, run):
    asked = ["-k", 1, "--json"]
    assert lirdrec("recommend", run, "-u", "1.0", *asked).stdout == lirdrec("recommend", run, "-u", 1, *asked).stdout
    assert_refused(lirdrec("recommend", run, "--user", "1.5", "-k", 1), ["'1.5'"])


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["recommend", "run", "--user", 1, "-k", "1_5"], ["-k 1_5", "15"]),
        (["recommend", "run", "--user", 1, "--k=1_5"], ["--k 1_5", "15"]),
        (["recommend", "run", "--user", 1, "-k1_5"], ["-k 1_5", "15"]),
        (["recommend", "run", "--user", 1, "-k", "\uff15"], ["-k \uff15", "5"]),
        (["evaluate", "run", "-k", 10, "-k", "2_0"], ["-k 2_0", "20"]),
        (["train", "data", "--seed", "1_0"], ["--seed 1_0", "10"]),
        (["serve", "run", "--port", "80_80"], ["--port 80_80", "8080"]),
        (["serve", "run", "--max-body", "1_0.5"], ["--max-body 1_0.5", "10.5"]),
        (["prepare", "x.csv", "-o", "y", "--min-rating", "2,5"], ["--min-rating 2,5", "2.5"]),
        (["prepare", "x.csv", "-o", "y", "--held-out=,2"], ["--held-out ,2", "0.2"]),
        (["--quiet", "prepare", "x.csv", "-o", "y", "--k-core", "1_0"], ["--k-core 1_0", "10"]),
    ],
)
def test_numbers_are_written_plainly(lirdrec, run, arguments, mentions):
    assert_refused(lirdrec(*arguments), mentions)


def test_words_that_look_like_numbers_are_taken_elsewhere(lirdrec, run):
    assert lirdrec("recommend", run, "--user", 1, "-k", " 2 ", "--json").exit_code == 0
    refused = lirdrec("recommend", run, "--user", 1, "-k", "x_y")
    assert refused.exit_code == 2 and "-k" in refused.stderr
    assert_refused(lirdrec("recommend", "1_5", "--user", "1_5"), ["1_5"])


def test_slim_says_what_is_lost(lirdrec, run, tmp_path):
    result = lirdrec("strip", run, "--output", "small")
    assert result.exit_code == 0 and "small" in result.stdout
    assert lirdrec("recommend", "small", "--user", 1, "--include-seen", "-k", 1).exit_code == 0
    result = lirdrec("recommend", "small", "--user", 1, "-k", 1)
    assert_refused(result, ["slim"])


BAD = [
    (["recommend", "nowhere", "--user", 1], ["nowhere"]),
    (["recommend", "RUN"], ["--user", "--all", "--history"]),
    (["recommend", "RUN", "--user", 1, "--all"], ["--user", "--all", "--history"]),
    (["recommend", "RUN", "--user", "ann", "-k", 1], ["user", "ann"]),
    (["recommend", "RUN", "--user", 3, "-k", 1], ["user", 3, "2, 1"]),
    (["recommend", "RUN", "--user", 1], ["k", 10, 3]),
    (["recommend", "RUN", "--user", 1, "-k", 0], ["k", 0, 1]),
    (["recommend", "RUN", "--history", "10", "-k", 1], []),
    (["recommend", "RUN", "--history", ",", "-k", 1], ["history"]),
    (["recommend", "RUN", "--user", 1, "-o", "a.xls"], ["--output", "a.xls", ".csv", ".tsv"]),
    (["recommend", "RUN", "--user", 1, "-o", "no/a.csv"], ["--output", "no/a.csv"]),
    (
        ["recommend", "RUN", "--user", 1, "-k", 1, "--unknown-users", "x"],
        ["--unknown-users x", "error", "skip", "popular"],
    ),
    (["similar", "RUN"], ["--item", "--user"]),
    (["similar", "RUN", "--item", 11, "-k", 1], ["item", 11, "10, 20, 30"]),
    (["explain", "RUN", "--user", 1, "--item", 11], ["item", 11, "10, 20, 30"]),
    (["explain", "RUN", "--user", 1, "--item", 10, "-o", "a.csv"], ["--output", "a.csv", ".json"]),
    (["strip", "RUN", "-o", "RUN"], ["RUN"]),
    (["add-items", "RUN", "--items", "no.csv"], ["no.csv"]),
    (["evaluate", "nowhere"], ["nowhere"]),
]


@pytest.mark.parametrize(("arguments", "facts"), BAD)
def test_bad_input_gets_one_sentence_code_2_and_writes_nothing(lirdrec, run, tmp_path, arguments, facts):
    before = files(tmp_path)
    result = lirdrec(*(run if one == "RUN" else one for one in arguments))
    assert_refused(result, [run if one == "RUN" else one for one in facts])
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    assert files(tmp_path) == before


def test_debug_shows_the_traceback(lirdrec):
    result = lirdrec("--debug", "recommend", "nowhere", "--user", 1)
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert re.search(r"^\S*RunFolderError: .*nowhere", result.stderr, re.MULTILINE)


def test_ctrl_c_ends_with_130(lirdrec, run, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("lirdrec.recommender.recommender.Recommender.load", stopped)
    result = lirdrec("recommend", run, "--user", 1)
    assert result.exit_code == 130 and "Traceback" not in result.stderr


@pytest.mark.parametrize("whom", [["--all"], ["--user", 1]])
@pytest.mark.parametrize(
    ("ending", "writer"), [("csv", "polars.DataFrame.write_csv"), ("parquet", "polars.DataFrame.write_parquet")]
)
@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), OSError("No space left on device (os error 28)")],
    ids=["of the system", "of polars"],
)
def test_a_full_disk_leaves_no_output(lirdrec, run, tmp_path, monkeypatch, whom, ending, writer, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(writer, full)
    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    result = lirdrec("recommend", run, *whom, "-k", 1, "-o", f"out.{ending}")
    assert_refused(result, [f"out.{ending}", "disk"])
    assert not (tmp_path / f"out.{ending}").exists()


@pytest.fixture
def comma_run(tmp_path, lirdrec):
    """A run whose item ids have commas and blanks in them, which can serve new users."""
    names = ["a", "b", "a,b", "c, d", "@home", "é"]
    pairs = [(user, names[(user + step) % 6]) for user in range(12) for step in range(3)]
    frame = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
    data = Dataset.from_frames(frame, items=pl.DataFrame({"item": names, "title": ["Ørsted 映画 ±", *names[1:]]}))
    fit(data, EASEConfig(), TrainConfig(metric="recall@2"), progress=False).save(tmp_path / "commas")
    return tmp_path / "commas"


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (["a,b"], {"a", "b", "c, d", "@home", "é"}),  # an id of the run is taken whole
        (["a,é"], {"b", "a,b", "c, d", "@home"}),
        (["a", "c, d"], {"b", "a,b", "@home", "é"}),
        (["@home"], {"a", "b", "a,b", "c, d", "é"}),
        (["@ids.txt", "b"], {"a", "@home", "é"}),
    ],
)
def test_a_history_names_ids_with_commas(lirdrec, comma_run, given, left):
    Path("ids.txt").write_text("\ufeffa,b\n\nc, d\n")
    options = [part for one in given for part in ("--history", one)]
    result = lirdrec("recommend", comma_run, *options, "-k", 6, "--json")
    assert result.exit_code == 0, result.stderr
    assert {one["item"] for one in json.loads(result.stdout)} == left
    chosen = [part for one in given for part in ("--candidates", one)]
    result = lirdrec("recommend", comma_run, "--user", 1, "--include-seen", "-k", 1, "--json", *chosen)
    assert {one["item"] for one in json.loads(result.stdout)} <= {"a", "b", "a,b", "c, d", "@home", "é"} - left


def test_a_history_file_that_is_not_there(lirdrec, comma_run):
    result = lirdrec("recommend", comma_run, "--history", "@nothing.txt")
    assert_refused(result, ["nothing.txt"])


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "cp936"])
def test_a_stream_without_a_letter_gets_it_escaped(comma_run, encoding):
    def output(*arguments):
        environment = os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "100"}
        command = [sys.executable, "-m", "lirdrec", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode(encoding)

    asked = ["recommend", str(comma_run), "--user", "1", "--include-seen", "-k", "6"]
    rows = json.loads(output(*asked, "--json"))
    assert {one["title"] for one in rows} >= {"Ørsted 映画 ±", "é"}
    shown = "Ørsted 映画 ±".encode(encoding, "backslashreplace").decode(encoding)
    assert shown in output(*asked)


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["export", "no-run", "folder", "--format", "qdrnat"], ["qdrnat", "qdrant"]),
        (["recommend", "no-run", "--user", 1, "-k", 0], ["k", 0, 1]),
        (["recommend", "no-run", "--user", 1, "--unknown-users", "x"], ["--unknown-users x", "skip"]),
        (["recommend", "no-run", "--user", 1, "--filter", "{"], ["--filter", "JSON"]),
        (["recommend", "no-run", "--user", 1, "--filter", '{"a": {"gtt": 1}}'], ["'a'", "gtt"]),
        (["similar", "no-run", "--item", 1, "-k", -1], ["k", -1]),
        (["evaluate", "no-run", "-k", 0], ["k", 0]),
        (["evaluate", "no-run", "--metric", "recal"], ["recal"]),
        (["evaluate", "no-run", "--split", "tests"], ["--split", "tests"]),
        (["evaluate", "no-run", "--candidates", "warm"], ["--candidates", "warm"]),
        (["train", "no-data", "--set", "metric=recal@20"], ["metric", "recal"]),
    ],
)
def test_a_wrong_word_is_found_before_anything_is_read(lirdrec, arguments, facts):
    result = lirdrec(*arguments)
    assert_refused(result, facts)
    assert "no-run" not in result.stderr and "no-data" not in result.stderr  # which do not exist
