"""prepare and inspect."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from lirdrec.data.column_names import SPLITS
from lirdrec.data.dataset import Dataset

from ..helpers import assert_mentions, assert_refused, files

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
    assert "ready" in words and "12 12 144 0.00%" in words
    assert "text 3 float32 12 100.0% 144 bytes" in words
    assert re.search(r"\D* 10\D* 10\D* 10\.0\D* 10\D", words) and "8-15 " + "█" * 32 in words
    figures = json.loads(lirdrec("inspect", "ready", "--json").stdout)
    assert figures["users"] == 12 and figures["splits"]["train"] == 120


def test_inspect_reads_raw_folders_too(lirdrec, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "x.inter").write_text("userID\titemID\tx_label\n0\t0\t0\n0\t1\t2\n1\t1\t0\n")
    figures = json.loads(lirdrec("inspect", "raw", "--json").stdout)
    assert figures["splits"] == {"train": 2, "valid": 0, "test": 1}


def test_microlens_and_amazon_are_recognized(lirdrec, tmp_path):
    (tmp_path / "micro" / "x_covers").mkdir(parents=True)
    (tmp_path / "micro" / "x_covers" / "1.jpg").write_bytes(b"x")
    pairs = "".join(f"{user},{item},{user + item}\n" for user in range(5) for item in range(5))
    (tmp_path / "micro" / "x_pairs.csv").write_text("user,item,timestamp\n" + pairs)
    result = lirdrec("prepare", "micro", "-o", "videos")
    assert result.stdout.endswith("Next: lirdrec features videos --image descriptor\n"), result.stderr
    (tmp_path / "amazon").mkdir()
    lines = [
        {"reviewerID": f"U{u}", "asin": f"B{i}", "overall": 5.0, "unixReviewTime": u, "reviewText": ""}
        for u in range(5)
        for i in range(5)
    ]
    (tmp_path / "amazon" / "reviews_Toys_5.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    titles = "".join(str({"asin": f"B{i}", "title": f"Toy {i}"}) + "\n" for i in range(5))
    (tmp_path / "amazon" / "products.json").write_text(titles)
    with (tmp_path / "amazon" / "reviews_Toys_5.json").open("a") as file:
        file.write('{"reviewerID": "U0", "as\n')
    command = ["prepare", "amazon/reviews_Toys_5.json", "--metadata", "amazon/products.json"]
    command += ["--benchmark", "baby", "-o", "toys"]
    result = lirdrec(*command)
    assert_refused(result, ["reviews_Toys_5.json", 26, "--skip-bad-lines"])
    result = lirdrec(*command, "--skip-bad-lines")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"baby\b.*\n.*\b5\b.*19,445", result.stdout)
    assert result.stdout.endswith("Next: lirdrec features toys --text hashed\n")
    toys = Dataset.load(tmp_path / "toys")
    assert toys.info["preparation"]["k_core"] == 5 and toys.item_table["title"][4] == "Toy 4"
    figures = json.loads(lirdrec("prepare", "toys", "--benchmark", "baby", "-o", "y", "--json").stdout)
    assert_mentions(figures["differences_from_published"][0], ["users", "5 ", "19,445"])


def test_the_published_counts_are_found_in_the_real_tables(lirdrec, real_data, tmp_path):
    names = ["--user", "reviewerID", "--item", "asin"]
    table = real_data / "clothing" / "reviews.tsv"
    result = lirdrec("prepare", table, *names, "--benchmark", "clothing", "-o", "clothing")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(lirdrec("prepare", "clothing", "--benchmark", "clothing", "-o", "x", "--json").stdout)
    assert figures["differences_from_published"] == []
    data = Dataset.load(tmp_path / "clothing")
    assert (data.n_users, data.n_items) == (39_387, 23_033)


def test_inspect_looks_at_one_matrix(lirdrec, raw):
    lirdrec("prepare", "ratings.csv", "-o", "ready", *COLUMNS, "--items", "movies.csv", "--features", "text=text.npy")
    result = lirdrec("inspect", "ready", "--modality", "text", "--html", "text.html", "--seed", 1)
    assert result.exit_code == 0, result.stderr
    assert "text.html" in result.stdout
    assert "Film 10" in (raw / "text.html").read_text(encoding="utf-8")
    facts = json.loads(lirdrec("inspect", "ready", "--modality", "text", "--json").stdout)
    assert facts["modality"] == "text" and facts["dims"] == 3 and facts["page"] is None


REVIEW = '{{"reviewerID": "U{u}", "asin": "B{i:09d}", "overall": 5.0, "unixReviewTime": {u}, "reviewText": "{u} {i}"}}'
REVIEWS = "".join(REVIEW.format(u=u, i=i) + "\n" for u in range(5) for i in range(5))
META = "".join(f'{{"asin": "B{i:09d}", "title": "Toy {i}"}}\n' for i in range(5))


@pytest.mark.parametrize("columns", ["user,item,rating,timestamp", "customer,sku,stars,when"])
def test_a_table_whose_ids_look_like_asins_is_a_table(lirdrec, tmp_path, columns):
    """With its columns named, and also without where they are the usual ones; users may be numbers of ten digits."""
    names = columns.split(",")
    rows = "".join(f"{1_000_000_000 + u},B{i:09d},{1 + (u + i) % 5},{9 * u + i}\n" for u in range(8) for i in range(6))
    (tmp_path / "am.csv").write_text(f"{columns}\n{rows}")
    (tmp_path / "items.csv").write_text(f"{names[1]},title\n" + "".join(f"B{i:09d},Toy {i}\n" for i in range(6)))
    call = ["prepare", "am.csv", "--user", names[0], "--item", names[1], "--timestamp", names[3], "--split", "temporal"]
    result = lirdrec(*call, "--rating", names[2], "--min-rating", 3, "--items", "items.csv", "-o", "named")
    assert result.exit_code == 0, result.stderr
    named = Dataset.load(tmp_path / "named")
    assert named.info["source"]["format"] == "tables" and named.item_table["title"].to_list() == [
        f"Toy {i}" for i in range(6)
    ]
    assert named.users.ids.tolist() == list(range(1_000_000_000, 1_000_000_008))
    assert named.info["preparation"]["below_min_rating"] == sum(1 + (u + i) % 5 < 3 for u in range(8) for i in range(6))
    if names[0] == "user":
        assert lirdrec("prepare", "am.csv", "-o", "plain").exit_code == 0
        assert Dataset.load(tmp_path / "plain").n_users == 8
    # without names in its first line, and with nothing said, such a file is Amazon's table of ratings
    (tmp_path / "ratings.csv").write_text(rows)
    assert lirdrec("prepare", "ratings.csv", "-o", "amazon").exit_code == 0
    amazon = Dataset.load(tmp_path / "amazon")
    assert amazon.info["source"]["format"] == "amazon" and amazon.users.ids[0] == "1000000000"


def flipped(content: bytes) -> bytes:
    place = len(content) * 2 // 3
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


PACKED = gzip.compress(REVIEWS.encode())
DAMAGED = [
    PACKED[: len(PACKED) // 2],
    flipped(PACKED),
]


@pytest.mark.parametrize("content", DAMAGED, ids=["cut short", "flipped"])
def test_damaged_reviews_are_called_damaged(lirdrec, tmp_path, content):
    (tmp_path / "amazon").mkdir()
    (tmp_path / "amazon" / "reviews_Toys.json.gz").write_bytes(content)
    (tmp_path / "amazon" / "meta_Toys.json").write_text(META)
    before = files(tmp_path)
    file, meta = "amazon/reviews_Toys.json.gz", "amazon/meta_Toys.json"
    for source in (["amazon"], [file], [file, "--metadata", meta], [file, "--user", "u"]):
        result = lirdrec("prepare", *source, "-o", "x")
        assert_refused(result, ["amazon/reviews_Toys.json.gz", "gzip"])
        assert result.stderr.count("\n") == 1 and files(tmp_path) == before


def test_reviews_and_metadata_exchanged_are_recognized(lirdrec, tmp_path):
    (tmp_path / "reviews.json").write_text(REVIEWS)
    (tmp_path / "products.json").write_text(META)
    result = lirdrec("prepare", "products.json", "--metadata", "reviews.json", "-o", "x")
    assert_refused(result, ["products.json", "--user", "--item"])
    assert result.stderr.count("\n") == 1


BAD = [
    (["prepare", "r.csv", "-o", "x", "--features", "pic=p.b"], ["--features", "pic", "'image'"]),
    (["prepare", "r.csv", "-o", "x", "--timestamp", "t"], ["--timestamp", "r.csv"]),
    (["prepare", "ratings.csv", "-o", "x", "--benchmark", "babys"], ["babys", "baby"]),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--metadata", "m.json"], ["--metadata", "ratings.csv"]),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--images", "taken"], ["taken", ".jpg", ".png"]),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--images", "nowhere"], ["nowhere"]),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--image-column", "photo"], ["photo"]),
    (["inspect", "ratings.csv", "--html", "p.html"], ["--html", "--modality"]),
    (["prepare", "no.csv", "-o", "x"], ["no.csv"]),
    (["prepare", "ratings.csv", "-o", "x"], ["ratings.csv", "'user'", "userId, movieId, rating"]),
    (["prepare", "ratings.csv", "-o", "taken", *COLUMNS], ["--output", "taken"]),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--features", "text.npy"], ["--features", "text.npy", "="]),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--features", "t=no.npy"], ["no.npy"]),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--held-out", 2], [2.0, 0, 1]),
    (
        ["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--split", "halves"],
        ["ratings.csv", "halves", "random", "cold_items"],
    ),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--k-core", 99], ["ratings.csv", "144 rows", "--k-core", "99"]),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS, "--split", "randon"], ["ratings.csv", "randon", "random"]),
    (["prepare", "ratings.csv", "-o", "x", *COLUMNS[:4], "--min-rating", 4], ["--rating"]),
    (["prepare", "sheet.xlsx", "-o", "x"], ["sheet.xlsx", "pip install"]),
    (["prepare", "cut.csv.gz", "-o", "x"], ["cut.csv.gz", "gzip"]),
    (["inspect", "nowhere"], ["nowhere"]),
    (["inspect", "taken"], ["taken", "manifest.json", "MMRec", "RecBole"]),
    (["prepare", "raw", "-o", "x", "--k-core", 5], ["--k-core", "raw", "MMRec"]),
]


@pytest.mark.parametrize(("arguments", "facts"), BAD)
def test_bad_input_gets_one_sentence_code_2_and_writes_nothing(lirdrec, raw, arguments, facts):
    for folder in ("taken", "raw"):
        (raw / folder).mkdir()
    (raw / "taken" / "thesis.tex").write_text("")
    (raw / "raw" / "x.inter").write_text("userID\titemID\tx_label\n0\t0\t0\n")
    (raw / "r.csv").write_text("A1,B000F83SZQ,5.0,1\n")
    (raw / "sheet.xlsx").write_bytes(b"PK\3\4" + bytes(100))
    (raw / "cut.csv.gz").write_bytes(gzip.compress(b"user,item\n1,2\n" * 99)[:-20])
    before = files(raw)
    result = lirdrec(*arguments)
    assert_refused(result, facts)
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    assert files(raw) == before and not (raw / "x").exists()


def test_a_prepared_dataset_is_not_prepared_again(lirdrec, raw):
    lirdrec("prepare", "ratings.csv", "-o", "ready", *COLUMNS)
    result = lirdrec("prepare", "ready", "-o", "x", "--k-core", 5)
    assert_refused(result, ["ready"])
    assert lirdrec("prepare", "ratings.csv", "-o", "ready", "--overwrite", *COLUMNS).exit_code == 0


def test_options_about_ids_are_named_as_they_are_typed(lirdrec, tmp_path):
    (tmp_path / "plays.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u in "ab" for i in range(6)))
    (tmp_path / "films.csv").write_text("key,ean\n" + "".join(f"{i},00{i}\n" for i in range(5)))
    np.savez(tmp_path / "v.npz", ids=np.arange(8.0), vectors=np.ones((8, 2)))
    np.save(tmp_path / "bare.npy", np.ones((6, 2)))
    command = ["prepare", "plays.csv", "-o", "x"]
    for options, facts in (
        (["--items", "films.csv"], ["'key'", "5 of the 6", "--items-id key"]),
        (["--items", "films.csv", "--items-id", "key"], ["--unknown-items drop"]),
        (
            ["--items", "films.csv", "--items-id", "key", "--unknown-items", "dorp"],
            ["--unknown-items", "dorp", "drop", "keep"],
        ),
        (["--features", "v=v.npz"], ["--unknown-features drop"]),
        (["--features", "v=bare.npy"], ["--items FILE"]),
        (["--user", "USER"], ["USER", "user, item", "'user'"]),
    ):
        result = lirdrec(*command, *options)
        assert_refused(result, facts)
        assert not (tmp_path / "x").exists()
    result = lirdrec(
        *command, "--items", "films.csv", "--items-id", "key", "--unknown-items", "keep", "--features", "v=v.npz",
        "--unknown-features", "drop",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    made = Dataset.load(tmp_path / "x")
    assert made.item_table["ean"].to_list() == ["000", "001", "002", "003", "004", None]
    assert made.features["v"].present.all() and made.items.is_integer


def test_a_dataset_is_called_after_its_folder(lirdrec, tmp_path):
    Path("beauty").mkdir()
    Path("toys").mkdir()
    for shop in ("beauty", "toys"):
        Path(shop, "clicks.csv").write_text("user,item\n" + "".join(f"{n % 7},{n % 31}\n" for n in range(217)))
        lirdrec("prepare", f"{shop}/clicks.csv", "--user", "user", "--item", "item", "-o", f"d/{shop}")
        assert json.loads(lirdrec("inspect", f"d/{shop}", "--json").stdout)["name"] == shop
        assert f"runs/{shop}-ease" in lirdrec("-q", "train", f"d/{shop}", "--model", "ease").stdout
    named = lirdrec("prepare", "toys/clicks.csv", "--user", "user", "--item", "item", "-o", "x", "--name", "clicks")
    assert named.stdout.splitlines()[0].split()[-1] == "clicks"


def test_prepare_says_what_a_table_is(lirdrec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jan.dat").write_text("ä;x;31/05/2024\nä;y;01/06/2024\n", encoding="latin-1")
    (tmp_path / "feb.dat").write_text("é;x;02/02/2024\né\n", encoding="latin-1")
    layout = ["--no-header", "--columns", "user,item,when", "--encoding", "latin-1", "--separator", ";"]
    times = ["--timestamp", "when", "--time-format", "%d/%m/%Y", "--split", "none"]
    result = lirdrec("prepare", "*.dat", *layout, *times, "--output", "out")
    assert_refused(result, ["feb.dat", "line 2", 1])
    result = lirdrec("prepare", "jan.dat", "feb.dat", *layout, *times, "--bad-rows", "skip", "--output", "out")
    assert result.exit_code == 0 and Dataset.load("out").info["preparation"]["bad_rows_skipped"] == 1
    assert re.search(r"\b1\b", result.stdout)
    rows = Dataset.load("out").frame("train").rows()
    day = 86_400_000_000
    assert [row[:2] for row in rows] == [("ä", "x"), ("ä", "y"), ("é", "x")] and rows[1][2] - rows[0][2] == day


def test_bad_rows_of_published_folders(lirdrec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "movies.dat").write_text("007::A (1990)::Drama\n8::B (1991)::Drama\nC (1992)::Drama\n")
    (tmp_path / "ml" / "ratings.dat").write_text("1::007::5::7\n1::8::4\n\n2::x::4::9\n2::8::4::9\n3::8::4::soon\n")
    (tmp_path / "mm").mkdir()
    (tmp_path / "mm" / "shop.inter").write_text(
        "userID\titemID\tx_label\ttimestamp\n1\t0\t0\t5\n\t1\t0\t5\n1\tx\t0\t5\n1\t2\t\t5\n1\t3\t1\t\n2\t1\t1\t6\n2\n2\t0\t2\t7\n"
    )
    for folder, place, left_out in (("ml", ["movies.dat", "line 3"], 3), ("mm", ["shop.inter", "line 8"], 5)):
        assert_refused(lirdrec("prepare", folder, "-o", "x"), mentions=place)
        result = lirdrec("prepare", folder, "-o", f"{folder}-ready", "--bad-rows", "skip", "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["info"]["preparation"]["bad_rows_skipped"] == left_out
    films, shop = (Dataset.load(f"{folder}-ready") for folder in ("ml", "mm"))
    assert sorted(row for split in SPLITS for row in films.frame(split).rows()) == [(1, "007", 7), (2, "8", 9)]
    assert films.item_table.rows() == [("007", "A", 1990, "Drama"), ("8", "B", 1991, "Drama")]
    assert [shop.frame(split).rows() for split in SPLITS] == [[(1, 0, 5)], [(2, 1, 6)], [(2, 0, 7)]]
    assert_refused(lirdrec("prepare", "mm", "-o", "x", "--bad-rows", "drop"), mentions=["--bad-rows", "drop"])


def test_items_without_a_row_of_the_table_need_an_option_for_features(lirdrec, raw):
    (raw / "movies.csv").write_text("".join(MOVIES.splitlines(keepends=True)[:-2]))
    command = ["prepare", "ratings.csv", *COLUMNS, "--items", "movies.csv", "--unknown-items", "keep"]
    result = lirdrec(*command, "-o", "kept")
    assert result.exit_code == 0 and "--drop-featureless-items" in result.stdout
    assert Dataset.load(raw / "kept").info["preparation"]["unknown_items_kept"] == 2
    line = next(one for one in result.stdout.splitlines() if "Next: " in one).partition("Next: lirdrec ")[2]
    assert lirdrec(*shlex.split(line)).exit_code == 0
    assert Dataset.load(raw / "kept").n_items == 10
    dropped = lirdrec(*command[:-1], "drop", "-o", "dropped")
    assert dropped.exit_code == 0 and "--drop-featureless-items" not in dropped.stdout


def test_prepare_says_which_items_and_users_the_k_core_leaves_out(lirdrec, tmp_path):
    rows = [f"{user},{item}" for user in range(6) for item in range(4)] + ["90,0", "91,0", "0,77"]
    (tmp_path / "clicks.csv").write_text("user,item\n" + "\n".join(rows) + "\n")
    (tmp_path / "shop.csv").write_text("item\n" + "\n".join(map(str, [*range(4), 77, 78])) + "\n")
    result = lirdrec("prepare", "clicks.csv", "--items", "shop.csv", "--k-core", 3, "-o", "core")
    assert result.exit_code == 0, result.stderr
    assert_mentions(result.stdout, ["2 items", "2 users", "fewer than 3"])
    result = lirdrec("prepare", "clicks.csv", "--items", "shop.csv", "-o", "all")
    assert "Left out" not in result.stdout and json.loads(lirdrec("inspect", "all", "--json").stdout)["items"] == 6


def test_prepare_names_the_columns_that_have_no_effect(lirdrec, tmp_path):
    rows = [f"{user},{item},view,{100 * user + item}" for user in range(6) for item in range(4)]
    (tmp_path / "clicks.csv").write_text("user,item,event,time\n" + "\n".join(rows) + "\n")
    result = lirdrec("prepare", "clicks.csv", "-o", "plain")
    assert result.exit_code == 0, result.stderr
    assert_mentions(result.stdout, ["event, time", "--event", "--timestamp"])
    named = ["--timestamp", "time", "--event", "event", "--event-weights", "view=1"]
    assert "--event" not in lirdrec("prepare", "clicks.csv", *named, "-o", "named").stdout
