"""What commands print: tables, files, control characters, and the next command."""

from __future__ import annotations

import csv
import inspect
import io
import json
import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner

from lirdrec.cli.main import app
from lirdrec.cli.output import table
from lirdrec.control_characters import escape_json, escape_text
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.ids import IdMap
from lirdrec.files.table_writer import spreadsheet_safe
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.recommender import Recommender
from lirdrec.reporting.formatting import Column, text_of
from lirdrec.server.http.middleware import JsonFormatter

from ..helpers import assert_mentions, assert_refused

BAD = [
    *map(chr, [*range(9), *range(11, 32), *range(127, 160)]),
    *"\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ud800\udfff",
]
FINE = "é ß 中 \u202f\u00a0 👩\u200d🚀 می\u200cخواهم"
ITEMS = ["=1+2", "+x", "-y", "@z", "\ttab", "\rcr", "plain", "a=b", "\x1b[2Jwipe", "rtl\u202egnp.exe"]
TITLES = ["\x1b]0;owned\x07", "c1\x9b31m", "two\nlines", "bell\a", "del\x7f", *["Plain"] * 5]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    draw = np.random.default_rng(0)
    vectors = [torch.tensor(draw.normal(size=(n, 4)), dtype=torch.float32) for n in (3, len(ITEMS))]
    made = Recommender(
        VectorScorer(*vectors, ("image", "text")),
        IdMap(["=u", "\x1b[31mred", "v"], "user"),
        IdMap(ITEMS, "item"),
        pl.DataFrame({"item": ITEMS, "title": TITLES}),
        Interactions(np.array([0, 1, 2]), np.array([6, 7, 6])),
        info={"dataset": "bad \x1b[1m names", "model": "lirdrec"},
    )
    return made.save(tmp_path_factory.mktemp("run") / "run")


def asked(*arguments: object, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


@pytest.mark.parametrize("bad", BAD)
def test_each_such_character_is_written_out(bad):
    assert escape_text(f"a{bad}b") == f"a{ascii(bad)[1:-1]}b" and escape_text(f"a{bad}b").isprintable()
    assert text_of(f"a{bad}b", Column("x", "x", format="text")) == escape_text(f"a{bad}b")
    document = json.dumps({"title": f"a{bad}b"}, ensure_ascii=False)
    shown = escape_json(document)
    assert shown.isprintable() and json.loads(shown) == {"title": f"a{bad}b"}
    record = logging.LogRecord("lirdrec", logging.INFO, "", 0, "a%sb", (bad,), None)
    line = JsonFormatter().format(record)
    assert line.isprintable() and json.loads(line)["message"] == f"a{bad}b"


def test_letters_of_all_scripts_stay():
    assert escape_text(FINE) == FINE and escape_json(FINE) == FINE
    assert escape_text("a\tb\nc") == r"a\tb\nc" and escape_text("a\tb\nc", line=False) == "a\tb\nc"


@pytest.mark.parametrize(
    "arguments",
    [
        ("recommend", "--user", "v", "-k", 10, "--include-seen"),
        ("recommend", "--all", "-k", 10, "--include-seen"),
        ("recommend", "--user", "v", "-k", 10, "--include-seen", "--json"),
        ("similar", "--item", "\x1b[2Jwipe", "-k", 9),
        ("similar", "--item", "=1+2", "-k", 9, "--json"),
        ("explain", "--user", "\x1b[31mred", "--item", "rtl\u202egnp.exe"),
        ("explain", "--user", "v", "--item", "=1+2", "--json"),
    ],
)
def test_nothing_that_a_command_prints_is_obeyed(run, arguments):
    command, *options = arguments
    for text in asked(command, run, *options):
        assert all(line.isprintable() for line in text.replace("\n", "").split("\u202f")), ascii(text)
    shown = asked(command, run, *options)[0]
    assert "\\x1b" in shown or "\\u001b" in shown or "owned" not in shown
    if "--json" in options:
        json.loads(shown)


def test_remarks_and_tables_are_escaped_too(capsys):
    from lirdrec.cli.output import console, show_log

    console.cache_clear()
    show_log(logging.WARNING)
    logging.getLogger("lirdrec.x").warning("title %s", "\x1b[2J\u202e")
    console().print(table("T\x1b[1m", ["a\x9b"], [["x\x1b]0;y\x07\nz"]]))
    console.cache_clear()
    out, err = capsys.readouterr()
    assert (out + err).replace("\n", "").isprintable(), ascii(out + err)
    assert r"title \x1b[2J\u202e" in err and r"x\x1b]0;y\x07\nz" in out and r"T\x1b[1m" in out and r"a\x9b" in out


def read(path: Path) -> list[dict[str, str]]:
    text = path.read_bytes().decode()
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize(
    "arguments",
    [("recommend", "--all", "-k", 10, "--include-seen"), ("recommend", "--user", "=u", "-k", 10, "--include-seen")],
)
def test_cells_are_no_formulas_where_that_is_asked(run, tmp_path, arguments, ending):
    command, *options = arguments
    plain, safe = tmp_path / f"plain.{ending}", tmp_path / f"safe.{ending}"
    asked(command, run, *options, "--output", plain)
    asked(command, run, *options, "--output", safe, "--csv-safe")
    before, after = read(plain), read(safe)
    assert len(before) == len(after) > 0 and {one["item"] for one in before} == set(ITEMS)
    for old, new in zip(before, after, strict=True):
        for name in ("user", "item"):
            formula = old[name][0] in "=+-@\t\r"
            assert new[name] == (f"'{old[name]}" if formula else old[name])
        assert (new["rank"], new["score"]) == (old["rank"], old["score"])
    assert any(float(one["score"]) < 0 for one in after), "numbers below 0 stay numbers"


def test_similar_items_are_written_so_too(run, tmp_path):
    asked("similar", run, "--item", "=1+2", "-k", 9, "--output", tmp_path / "s.csv", "--csv-safe")
    assert {one["item"] for one in read(tmp_path / "s.csv")} == {"'=1+2"}
    assert {one["neighbor"] for one in read(tmp_path / "s.csv")} >= {"'+x", "'-y", "'@z", "'\ttab", "'\rcr", "plain"}


@pytest.mark.parametrize("output", [None, "x.parquet", "x.json"])
def test_the_option_needs_a_csv(run, tmp_path, output):
    options = [] if output is None else ["--output", tmp_path / output]
    assert "--csv-safe" in asked("recommend", run, "--all", *options, "--csv-safe", code=2)[1]
    assert list(tmp_path.iterdir()) == []


def test_numbers_and_missing_values_stay_as_they_are():
    frame = pl.DataFrame(
        {"=name": [-1, None], "text": ["=1", None], "kind": pl.Series(["-a", "b"], dtype=pl.Categorical)}
    )
    safe = spreadsheet_safe(frame)
    assert safe.to_dict(as_series=False) == {"'=name": [-1, None], "text": ["'=1", None], "kind": ["'-a", "b"]}
    numbers = pl.DataFrame({"a": [1.5], "b": [True]})
    assert spreadsheet_safe(numbers).equals(numbers)


@pytest.mark.parametrize(("width", "is_wide"), [(200, True), (80, True), (60, False)])
def test_no_heading_is_broken(monkeypatch, width, is_wide):
    from rich.console import Console

    from lirdrec.cli import output

    narrow = Console(width=width, record=True, file=io.StringIO())
    monkeypatch.setattr(output, "console", lambda errors=False: narrow)
    columns = ["users", "items", "interactions", "empty cells", "train", "valid", "test", "memory to train"]
    cells = ["643", "1,495", "34,901", "96.37%", "28,133", "3,250", "3,518", "about 355 MB"]
    narrow.print(table(None, columns, [cells]))
    lines = [line.split() for line in narrow.export_text().splitlines()]
    assert {word for name in columns for word in name.split()} <= {word for line in lines for word in line}
    assert any({"users", "valid"} <= set(line) for line in lines) == is_wide  # else below each other


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_number_of_a_table_is_broken(monkeypatch, width):
    from rich.console import Console

    from lirdrec.cli import output

    narrow = Console(width=width, record=True, file=io.StringIO())
    monkeypatch.setattr(output, "console", lambda errors=False: narrow)
    row = ["1,000,209", "120,000", "12,345,678", "99.97%", "10,345,678", "1,000,001", "1,000,002", "about 12.3 GB"]
    names = ["users", "items", "pairs", "empty cells", "train", "valid", "test", "memory to train"]
    narrow.print(output.table("Dataset", names, [row]))
    figures = {f"{name}@{k}": 0.1 + k / 1000 for name in ("recall", "ndcg", "precision") for k in (10, 20)}
    narrow.print(output.metrics_table({"lirdrec": figures, "popularity": figures}))
    narrow.print(output.table("For user 1", ["rank", "item", "title"], [[1, 2**63 - 1, "A very long title " * 5]] * 3))
    words = narrow.export_text().split()
    for number in (*row[:-1], "12.3", "GB", *(f"{value:.4f}" for value in figures.values()), str(2**63 - 1)):
        assert number in words


COMMANDS = sorted(get_command(app).commands)


def test_the_commands_are_those_of_the_manual():
    known = "demo download prepare features caption inspect plan train evaluate config experiment"
    known += " recommend similar explain add-items strip export serve keys push pull"
    assert sorted(known.split(" ")) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_teaches_with_an_example(lirdrec, command):
    result = lirdrec(command, "--help")
    assert result.exit_code == 0
    assert f"  lirdrec {command}" in result.stdout
    assert not re.search(r"\bNone\b|<list\[(str|int)\]>", result.stdout)  # words of Python


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom lirdrec.cli.main import main\nsys.argv = ['lirdrec', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'polars', 'numpy', 'pandas', 'pyarrow', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version(lirdrec):
    import lirdrec as package

    assert lirdrec("--version").stdout == f"lirdrec {package.__version__}\n"


def test_defaults_in_the_help_are_those_of_python(lirdrec):
    """The command passes on only what was given, so the library's defaults hold; the help must not claim others."""
    from lirdrec.recommender.recommender import Recommender

    for method in (Recommender.recommend, Recommender.similar_items, Recommender.similar_users):
        assert inspect.signature(method).parameters["k"].default == 10
    assert inspect.signature(Recommender.explain).parameters["n_liked"].default == 5
    assert "How many items (default: 10)" in lirdrec("recommend", "--help").stdout
    assert "How many items or users (default: 10)" in lirdrec("similar", "--help").stdout
    assert "(default: 5)" in lirdrec("explain", "--help").stdout


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


def test_prepare_recognizes_movielens_finds_images_and_says_what_to_run_next(lirdrec, films):
    result = lirdrec("prepare", "ml-tiny", "--images", "posters", "--min-rating", 4, "-o", "films")
    assert result.exit_code == 0, result.stderr
    assert "title 10 (100.0%), genres 10 (100.0%)\n" in result.stdout and "2 (20.0%)\n" in result.stdout
    assert result.stdout.endswith("Next: lirdrec features films --text hashed --image descriptor\n")
    data = Dataset.load(films / "films", verify=True)
    assert data.info["images"] == str(films / "posters") and data.item_table["title"][3] == "Film, The 3"
    assert data.item_table["image"].to_list()[:3] == [None, "1.jpg", "2.jpg"]
    assert data.info["preparation"]["min_rating"] == 4 and not data.features
    figures = json.loads(lirdrec("inspect", "films", "--json").stdout)
    assert figures["images"] == 2 and figures["texts"] == {"title": 10, "genres": 10}
    assert "2 (20.0%)" in lirdrec("inspect", "ml-tiny/../films").stdout


def test_the_next_command_names_only_what_is_there(lirdrec, films):
    assert lirdrec("prepare", "ml-tiny", "-o", "texts").stdout.endswith("Next: lirdrec features texts --text hashed\n")
    ratings = ["prepare", "ml-tiny/ratings.csv", "--user", "userId", "--item", "movieId"]
    assert lirdrec(*ratings, "-o", "plain").stdout.endswith("Next: lirdrec train plain --model ease\n")
    result = lirdrec(*ratings, "--images", "posters", "-o", "images")
    assert result.stdout.endswith("Next: lirdrec features images --image descriptor\n")


def test_after_a_split_by_time_the_next_model_reads_the_order(lirdrec, films):
    lirdrec("prepare", "ml-tiny", "--split", "leave_last_out", "-o", "ordered")
    made = lirdrec("features", "ordered", "--text", "hashed")
    train = "lirdrec train ordered --model lirdrec_seq"
    assert made.stdout.endswith(f"{train} --run runs/first\n"), made.stderr
    assert lirdrec("prepare", "ordered", "-o", "again").stdout.endswith("lirdrec train again --model lirdrec_seq\n")
    lirdrec("prepare", "ml-tiny", "--split", "temporal", "-o", "parts")
    assert lirdrec("features", "parts", "--text", "hashed").stdout.endswith("lirdrec train parts --run runs/first\n")
    lirdrec("prepare", "ml-tiny", "-o", "random")
    assert lirdrec("features", "random", "--text", "hashed").stdout.endswith("lirdrec train random --run runs/first\n")


def test_images_by_a_column_begin_beside_the_item_table(lirdrec, films):
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


def test_images_are_added_to_what_was_prepared(lirdrec, films):
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
