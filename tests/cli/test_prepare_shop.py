"""prepare on the log and the item table of a shop: titles, numbers, the split, what is left out, weights of events."""

from __future__ import annotations

import json

import pytest

from lirdrec.data.dataset import Dataset

from ..helpers import assert_mentions, assert_refused

LOG = "user,item,ts,part\n" + "".join(
    f"{user},0001{item},{user + item},{('train', 'valid', 'test')[max(item - 7, 0)]}\n"
    for user in range(1, 5)
    for item in range(10)
)


def shop(header: str, titles: list[str], prices: list[str]) -> str:
    rows = [f"0001{row};{title};{price}" for row, (title, price) in enumerate(zip(titles, prices, strict=True))]
    return "\n".join([header, *rows, ""])


@pytest.fixture
def log(tmp_path, lirdrec):
    """A log of 4 users and 10 items, and an item table with German names."""
    (tmp_path / "log.csv").write_text(LOG)
    prices = ["19,99", "1.056,23", *["8,00"] * 8]
    (tmp_path / "shop.csv").write_text(shop("item;Titel;Preis", [f"Lampe {n}" for n in range(10)], prices))
    return tmp_path


@pytest.mark.parametrize(
    ("header", "options", "column", "first"),
    [
        ("item;Titel;Preis", [], "Titel", "Lampe 0"),
        ("item;Product Name;Preis", [], "Product Name", "Lampe 0"),
        ("item;info.title;Preis", [], "info.title", "Lampe 0"),
        ("item;Bezeichnung;Preis", [], None, None),
        ("item;Bezeichnung;Preis", ["--title", "Bezeichnung"], "title", "Lampe 0"),
        ("item;Title;title", ["--title", "Title"], "title", "Lampe 0"),
    ],
)
def test_titles_have_a_column(lirdrec, log, header, options, column, first):
    (log / "shop.csv").write_text(shop(header, [f"Lampe {n}" for n in range(10)], ["5"] * 10))
    result = lirdrec("prepare", "log.csv", "--items", "shop.csv", "-o", "ready", *options)
    assert result.exit_code == 0, result.stderr
    figures = json.loads(lirdrec("inspect", "ready", "--json").stdout)
    assert figures["title"] == column
    said = next(line for line in result.stdout.splitlines() if line.startswith("Titles: "))
    assert_mentions(said, ["--title COLUMN"] if column is None else [f"'{column}'"])
    table = Dataset.load(log / "ready").item_table
    assert len(table.columns) == 3 and (column is None or table[column][0] == first)


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (["--items", "shop.csv", "--title", "title"], ["shop.csv", "'title'", "Titel"]),
        (["--items", "shop.csv", "--title", "item"], ["shop.csv", "'item'", "--title"]),
        (["--title", "Titel"], ["--title", "'Titel'", "--items"]),
    ],
)
def test_a_column_of_titles_that_cannot_be(lirdrec, log, options, mentions):
    assert_refused(lirdrec("prepare", "log.csv", "-o", "ready", *options), mentions)
    assert not (log / "ready").exists()


def test_a_number_with_thousands_is_named(lirdrec, log):
    result = lirdrec("prepare", "log.csv", "--items", "shop.csv", "-o", "ready")
    assert_mentions(result.stderr, ["shop.csv", "'Preis'", "'1.056,23'", "line 3", "1 value ", "1056,23"])
    assert "'Titel'" not in result.stderr
    (log / "shop.csv").write_text((log / "shop.csv").read_text().replace("1.056,23", "1056,23"))
    assert "texts" not in lirdrec("prepare", "log.csv", "--items", "shop.csv", "-o", "other").stderr
    assert Dataset.load(log / "other").item_table["Preis"][1] == 1056.23


SPLIT_LINES = [
    (["--split", "random", "--seed", 3], ["8:1:1", "seed 3", "32 train", "4 valid", "4 test"]),
    (["--held-out", 0.4], ["6:2:2", "seed 0", "24 train", "8 valid", "8 test"]),
    (["--split", "temporal", "--timestamp", "ts"], ["by time", "8:1:1", "32 train"]),
    (["--split", "leave_last_out", "--timestamp", "ts"], ["by time", "last", "32 train", "4 valid", "4 test"]),
    (["--split", "cold_items", "--seed", 1], ["by item", "seed 1", "32 train"]),
    (["--split", "part"], ["'part'", "32 train", "4 valid", "4 test"]),
    (["--split", "none"], ["none", "40 train", "0 valid"]),
]


@pytest.mark.parametrize(("options", "mentions"), SPLIT_LINES)
def test_prepare_prints_the_split(lirdrec, log, options, mentions):
    result = lirdrec("prepare", "log.csv", "-o", "ready", *options)
    assert result.exit_code == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("Split: ")]
    assert len(lines) == 1
    assert_mentions(lines[0], mentions)


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (["--k-core", 20], ["log.csv", "40 rows", "--k-core", 20]),
        (["--rating", "ts", "--min-rating", 20], ["log.csv", "40 rows", "--min-rating", 20]),
        (["--items", "shop.csv", "--unknown-items", "drop"], ["log.csv", "40 rows", "--unknown-items"]),
    ],
)
def test_nothing_left_says_what_to_change(lirdrec, log, options, mentions):
    (log / "shop.csv").write_text("item,title\nx,y\n")
    result = lirdrec("prepare", "log.csv", "-o", "ready", *options)
    assert_refused(result, mentions)
    assert not set("{}_[") & set(result.stderr)


@pytest.mark.parametrize("column", ["user", "item"])
def test_ids_with_control_characters(lirdrec, log, column):
    bad = "4\x07,00015,1,train\n" if column == "user" else "4,0001\x1b5,1,train\n"
    (log / "log.csv").write_text(LOG + bad)
    place = ["log.csv", f"'{column}'", "line 42", "--bad-rows skip"]
    assert_refused(lirdrec("prepare", "log.csv", "-o", "ready"), place)
    result = lirdrec("prepare", "log.csv", "-o", "ready", "--bad-rows", "skip")
    assert result.exit_code == 0, result.stderr
    assert_mentions(result.stderr, ["log.csv", "1 bad row ", "line 42"])
    data = Dataset.load(log / "ready")
    assert data.info["preparation"]["bad_rows_skipped"] == 1 and data.n_items == 10


def test_item_tables_with_control_characters(lirdrec, log):
    (log / "shop.csv").write_text((log / "shop.csv").read_text() + "\x1b[2J;Lampe;1\n")
    options = ["prepare", "log.csv", "--items", "shop.csv", "-o", "ready"]
    assert_refused(lirdrec(*options), ["shop.csv", "'item'", "line 12", "--bad-rows skip"])
    assert lirdrec(*options, "--bad-rows", "skip").exit_code == 0
    assert Dataset.load(log / "ready").info["preparation"]["bad_item_rows_skipped"] == 1


def test_weights_of_events_reach_the_dataset(lirdrec, tmp_path):
    log = tmp_path / "log.csv"
    kinds = ["view", "buy", "cart", "view", "return", "scroll"]
    lines = [
        f"{user},{item},{kinds[(user + item) % 6]},2024-01-0{1 + item % 5}" for user in range(6) for item in range(8)
    ]
    log.write_text("user,item,kind,day\n" + "\n".join(lines) + "\n")
    arguments = ["prepare", log, "--event", "kind", "--timestamp", "day", "--half-life", 2, "--split", "none"]
    weights = "view=1,cart=3,buy=5,return=-1"
    result = lirdrec(*arguments, "--event-weights", weights, "--output", tmp_path / "out")
    assert_refused(result, mentions=["'scroll'", "--event-weights", "buy", "return", "line"])
    result = lirdrec(*arguments, "--event-weights", f"{weights},scroll=0", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.train.weights.max() == pytest.approx(5)
    assert len(dataset.train) == 32 and len(dataset.dislikes) == 8
    summary = json.loads(lirdrec("inspect", tmp_path / "out", "--json").stdout)
    assert summary["weights"]["max"] == pytest.approx(5) and summary["dislikes"] == 8
    assert_mentions(lirdrec("inspect", tmp_path / "out").stdout, ["buy 5", "half-life 2", "8 dislikes"])


@pytest.mark.parametrize("text", ["view", "view=x", "view=1,view=2", "=3", ""])
def test_weights_of_events_in_another_form_are_refused(lirdrec, tmp_path, text):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating\n1,2,5\n")
    arguments = ["prepare", tmp_path / "ratings.csv", "--event", "rating", "--output", tmp_path / "out"]
    assert_refused(lirdrec(*arguments, "--event-weights", text), mentions=["--event-weights", "view=1"])
