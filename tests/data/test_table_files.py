"""What is found out about a table of text, tables in parts, and item tables with values of every kind."""

import zipfile

import numpy as np
import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.data.delimited import find_separator
from lirdrec.data.readers import kind_of, read_raw
from lirdrec.data.table_files import read_table
from lirdrec.errors import ConfigError, DataError

from ..helpers import assert_error

PLAYS = "user,item\na,x\na,y\nb,x\n"
ALL = {"split": "none"}


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("user,item,genres\n1,2,a|b;c\n3,4,b|d;e\n", ","),
        ("user;item;price\n1;2;3,5\n3;4;2,0\n", ";"),
        ("user|item|name\n1|2|a, b, c\n3|4|d, e, f\n", "|"),
        ("user\titem\n1\t2,3\n3\t4,5\n", "\t"),
        ("user::item::name\n1::2::a:b|c\n", "::"),
        ('user,item,name\n1,2,"a;b;c"\n3,4,"d;e;f\ng;h"\n', ","),
        ("user,item\n1,2\n3,4,5\n", ","),
        ("item\nx\ny\n", ","),
    ],
)
def test_the_separator_is_the_one_that_cuts_all_lines_alike(text, separator):
    assert find_separator(text.encode(), ",") == separator


def test_the_separator_of_a_file_without_a_header():
    assert find_separator(b"1;2;3,5\n4;5;6,5\n", ",", header=False) == ";"


def test_a_separator_that_is_named(tmp_path):
    (tmp_path / "t.txt").write_text("user item\na x\nb y\n")
    assert read_table(tmp_path / "t.txt", separator="space").frame.rows() == [("a", "x"), ("b", "y")]
    (tmp_path / "t.txt").write_text("user~~item\na~~x,1\n")
    assert read_table(tmp_path / "t.txt", separator="~~").frame.rows() == [("a", "x,1")]


@pytest.mark.parametrize(
    ("layout", "facts"),
    [
        ({"separator": '"'}, ["separator", "'\"'"]),
        ({"encoding": "klingon"}, ["encoding", "'klingon'"]),
        ({"encoding": "base64"}, ["encoding", "'base64'"]),
        ({"columns": ["user"]}, ["header=False"]),
        ({"header": False}, ["columns"]),
        ({"header": False, "columns": ["user", "user"]}, ["columns", "1 and 2", "'user'"]),
        ({"bad_rows": "drop"}, ["bad_rows", "'drop'", "'error', 'skip'"]),
    ],
)
def test_layouts_that_cannot_be(tmp_path, layout, facts):
    (tmp_path / "t.csv").write_text(PLAYS)
    with assert_error(ConfigError, mentions=facts):
        read_table(tmp_path / "t.csv", **layout)


def test_names_for_another_number_of_columns(tmp_path):
    (tmp_path / "t.csv").write_text("a,x,5\n")
    with assert_error(DataError, mentions=[tmp_path / "t.csv", "3 values", "2 columns"]):
        read_table(tmp_path / "t.csv", header=False, columns=["user", "item"])


def test_decimal_commas_of_european_spreadsheets(tmp_path):
    (tmp_path / "plays.csv").write_text("user;item;rating\na;x;2,5\na;y;3,5\nb;x;4\n")
    (tmp_path / "items.csv").write_text("item;price;code\nx;12,50;007\ny;9;010\n")
    dataset = read_raw(
        tmp_path / "plays.csv", items=tmp_path / "items.csv", rating="rating", min_rating=3.5, split="none"
    )
    assert dataset.frame("train").rows() == [("a", "y"), ("b", "x")]
    assert dataset.item_table.rows() == [("x", 12.5, "007"), ("y", 9.0, "010")]


def test_a_column_without_a_name_is_kept_where_it_holds_something(tmp_path):
    (tmp_path / "t.csv").write_text(",user,item,\n0,a,x,\n1,b,y,\n")
    assert read_table(tmp_path / "t.csv").frame.columns == ["column_1", "user", "item"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('item,name\n1,24" screen\n2,5" disk and 3" disk\n', ['24" screen', '5" disk and 3" disk']),
        ('"item";"name"\n"1";"the \\"first\\"; and more"\n"2";"b"\n', ['the "first"; and more', "b"]),
        ('item,name\n1,"ends with \\"\n2,"b"\n', ["ends with \\", "b"]),
        ('item,name\n1,"a ""b"", c"\n2,\n', ['a "b", c', None]),
    ],
)
def test_quotes_as_people_write_them(tmp_path, text, names):
    (tmp_path / "t.csv").write_text(text)
    found = read_table(tmp_path / "t.csv", text="item").frame
    assert found.columns == ["item", "name"] and found["name"].to_list() == names


@pytest.mark.parametrize("value", ['"a "b" c"', '"a"b', '"a "b, c" d"'])
def test_quotes_within_quotes_are_named_or_left_out(tmp_path, value):
    (tmp_path / "t.csv").write_text(f'item,name\n1,"a, b"\n2,{value}\n3,24" or 25" screen\n')
    with assert_error(DataError, mentions=[tmp_path / "t.csv", "line 3", "bad_rows"]):
        read_table(tmp_path / "t.csv")
    left = read_table(tmp_path / "t.csv", bad_rows="skip")
    assert left.frame["name"].to_list() == ["a, b", '24" or 25" screen']
    assert left.skipped == 1 and left.row_location(1) == "line 4"


# ---- parts


def part(path, frame):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path)


A = pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"]})
B = pl.DataFrame({"user": ["b"], "item": ["x"]})
TOGETHER = [("a", "x"), ("a", "y"), ("b", "x")]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_several_files_and_patterns(tmp_path, ending):
    one, two = tmp_path / f"jan{ending}", tmp_path / f"feb{ending}"
    part(one, A)
    part(two, B)
    (tmp_path / "empty.csv").touch()
    for source in ([one, two], str(tmp_path / f"*b{ending}"), [str(tmp_path / f"?a*{ending}"), two]):
        dataset = read_raw(source, **ALL)
        assert dataset.frame("train").rows() == (TOGETHER if not isinstance(source, str) else [("b", "x")])
    assert kind_of(tmp_path) == "table" if ending == ".csv" else True
    with assert_error(DataError, mentions=[one]):
        read_raw([one, two, one])
    with assert_error(DataError, mentions=[tmp_path / f"march*{ending}"]):
        read_raw(str(tmp_path / f"march*{ending}"))


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_folders_that_name_a_column(tmp_path, ending):
    folder = tmp_path / "clicks"
    part(folder / "year=2023" / "kind=a%20b" / f"part-0{ending}", A)
    part(folder / "year=2024" / "kind=__HIVE_DEFAULT_PARTITION__" / f"part-0{ending}", B)
    (folder / "_temporary").mkdir()
    part(folder / "_temporary" / f"part-1{ending}", B)
    years = ["2023", "2023", "2024"] if ending == ".csv" else [2023, 2023, 2024]
    found = read_table(folder).frame
    assert found["year"].to_list() == years and found["kind"].to_list() == ["a b", "a b", None]
    assert kind_of(folder) == "table"
    assert read_raw(folder, split="none", name="x").frame("train").rows() == TOGETHER


def test_a_fault_in_a_part_names_it(tmp_path):
    part(tmp_path / "part-0.csv", A.with_columns(rating=pl.Series([1, 2])))
    part(tmp_path / "part-1.csv", B.with_columns(rating=pl.Series(["?"])))
    with assert_error(DataError, mentions=[tmp_path, "'rating'", "'?'", "line 2 of part-1.csv"]):
        read_raw(tmp_path, rating="rating", min_rating=1)
    part(tmp_path / "part-1.csv", B)
    with assert_error(DataError, mentions=["part-0.csv", "user, item, rating", "part-1.csv"]):
        read_raw([tmp_path / "part-0.csv", tmp_path / "part-1.csv"])


def test_parts_with_values_of_different_types(tmp_path):
    part(tmp_path / "part-0.parquet", A.with_columns(price=pl.Series([1, 2])))
    part(tmp_path / "part-1.parquet", B.with_columns(price=pl.Series([1.5])))
    assert read_table(tmp_path).frame["price"].to_list() == [1.0, 2.0, 1.5]
    part(tmp_path / "part-1.parquet", B.with_columns(price=pl.Series(["much"])))
    with assert_error(DataError, mentions=["'price'", "Int64", "part-0.parquet", "String", "part-1.parquet"]):
        read_table(tmp_path)


def test_an_item_table_in_parts_has_one_type_a_column(tmp_path):
    (tmp_path / "plays.csv").write_text(PLAYS)
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "0.csv").write_text("item,price\nx,1\n")
    (tmp_path / "items" / "1.csv").write_text("item,price\ny,2.5\n")
    dataset = read_raw(tmp_path / "plays.csv", items=tmp_path / "items", split="none")
    assert dataset.item_table.rows() == [("x", 1.0), ("y", 2.5)]


def test_files_that_are_not_parts_of_one_table(tmp_path):
    part(tmp_path / "ratings.csv", A)
    part(tmp_path / "items.csv", pl.DataFrame({"item": ["x"], "title": ["X"]}))
    with assert_error(DataError, mentions=[tmp_path, "manifest.json"]):
        kind_of(tmp_path)


# ---- item tables


def test_an_item_table_without_a_header_and_with_bad_rows(tmp_path):
    (tmp_path / "plays.csv").write_text(PLAYS)
    (tmp_path / "items.csv").write_bytes("x|Café|5\n|nothing|6\ny|Tea|7|8\ny|Tea|\n".encode("cp1252"))
    how = {"items_columns": ["item", "title", "price"], "encoding": "cp1252", "split": "none"}
    with assert_error(DataError, mentions=[tmp_path / "items.csv", "line 3", "4 values", "3 columns"]):
        read_raw(tmp_path / "plays.csv", items=tmp_path / "items.csv", **how)
    dataset = read_raw(tmp_path / "plays.csv", items=tmp_path / "items.csv", bad_rows="skip", **how)
    assert dataset.item_table.rows() == [("x", "Café", 5), ("y", "Tea", None)]
    assert dataset.info["preparation"]["bad_item_rows_skipped"] == 2


@pytest.mark.parametrize("make", ["csv", "parquet", "frame"])
def test_columns_called_item(tmp_path, make):
    goods = pl.DataFrame({"sku": ["x", "y"], "item": ["X", "Y"], "item_": [1, 2]})
    plays = pl.DataFrame({"user": ["a", "a", "b"], "sku": ["x", "y", "x"]})
    if make == "frame":
        dataset = Dataset.from_frames(plays, items=goods, item="sku", split="none")
    else:
        part(tmp_path / f"plays.{make}", plays)
        part(tmp_path / f"goods.{make}", goods)
        dataset = read_raw(tmp_path / f"plays.{make}", items=tmp_path / f"goods.{make}", item="sku", split="none")
    assert dataset.item_table.to_dicts()[0] == {"item": "x", "item_2": "X", "item_": 1}


@pytest.mark.parametrize("make", ["csv", "parquet", "frame"])
def test_large_numbers_and_empty_columns_of_an_item_table(tmp_path, make):
    plays = pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]})
    goods = pl.DataFrame(
        {"item": ["x", "y"], "hash": [2**64 - 1, 5], "price": [float("nan")] * 2, "note": [None, None]},
        schema={"item": pl.String, "hash": pl.UInt64, "price": pl.Float64, "note": pl.String},
    )
    if make == "frame":
        dataset = Dataset.from_frames(plays, items=goods, split="none")
    else:
        part(tmp_path / f"plays.{make}", plays)
        part(tmp_path / f"goods.{make}", goods.fill_nan(None) if make == "csv" else goods)
        dataset = read_raw(tmp_path / f"plays.{make}", items=tmp_path / f"goods.{make}", split="none")
    dataset.save(tmp_path / "made")
    table = Dataset.load(tmp_path / "made").item_table
    assert table["hash"].to_list() == [2**64 - 1, 5] and table["hash"].dtype == pl.UInt64
    assert table["price"].null_count() == table["note"].null_count() == 2


def test_whole_numbers_beyond_64_bits_are_kept_as_texts(tmp_path):
    (tmp_path / "t.csv").write_text("item,serial\nx,98765432109876543210987654321098765432109876543210\ny,5\n")
    assert read_table(tmp_path / "t.csv", text="item").frame["serial"].to_list()[1] == "5"


def test_no_rows_are_lost_in_a_large_table_with_quotes(tmp_path):
    rng = np.random.default_rng(0)
    texts = ["plain", "with, comma", 'with "quote"', "two\nlines", ""]
    frame = pl.DataFrame({"item": np.arange(5000), "text": [texts[n] for n in rng.integers(0, 5, 5000)]})
    frame.write_csv(tmp_path / "t.csv")
    table = read_table(tmp_path / "t.csv", text="item")
    assert table.frame["text"].fill_null("").to_list() == frame["text"].to_list()
    lines = (tmp_path / "t.csv").read_text().split("\n")
    for row in (0, 1, 77, 4999):
        assert lines[int(table.row_location(row).removeprefix("line ")) - 1].startswith(f"{row},")


# ---- spreadsheets


def workbook(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return path


@pytest.mark.parametrize("name", ["plays.xlsx", "plays.csv"])
def test_spreadsheets_without_the_extra(tmp_path, name, monkeypatch):
    monkeypatch.setattr("lirdrec.data.table_files.importlib.util.find_spec", lambda name: None)
    path = workbook(tmp_path / name, "[Content_Types].xml", "xl/workbook.xml")
    with assert_error(DataError, mentions=[path, "lirdrec[excel]"]):
        read_raw(path)


def test_a_text_that_is_called_xls(tmp_path):
    (tmp_path / "export.xls").write_text("user\titem\na\tx\n")
    assert read_table(tmp_path / "export.xls").frame.rows() == [("a", "x")]


def test_the_first_sheet_of_a_spreadsheet(tmp_path):
    pytest.importorskip("fastexcel")
    pytest.importorskip("xlsxwriter")
    A.with_columns(code=pl.Series(["007", "010"]), n=pl.Series([1, 2])).write_excel(tmp_path / "plays.xlsx")
    (tmp_path / "plays.xlsx").rename(tmp_path / "plays.csv")
    assert read_table(tmp_path / "plays.csv").frame.rows() == [("a", "x", "007", 1), ("a", "y", "010", 2)]


# ---- bad rows of published data sets


def test_bad_rows_of_movielens(tmp_path):
    folder = tmp_path / "ml"
    folder.mkdir()
    (folder / "movies.csv").write_text("movieId,title,genres\n10,X (1990),Drama\n20,Y (1991),Drama\n")
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,10,5,7\n1,20,4,8\n,10,4,9\n2,x,4,9\n2,10,4,\n2,20,,9\n2,10,5,9\n3,20,4\n"
    )
    with assert_error(DataError, mentions=[folder / "ratings.csv", "line 9", "3 values", "4 columns"]):
        read_raw(folder)
    dataset = read_raw(folder, min_rating=4, split="none", bad_rows="skip")
    assert dataset.frame("train").rows() == [(1, 10, 7), (1, 20, 8), (2, 10, 9)]
    assert dataset.info["preparation"]["rows"] == 8 and dataset.info["preparation"]["bad_rows_skipped"] == 5


def test_bad_rows_of_microlens(tmp_path):
    (tmp_path / "small_pairs.csv").write_text("user,item,timestamp\n1,10,7\n1,,8\n2,10,9\n2\n")
    with assert_error(DataError, mentions=[tmp_path / "small_pairs.csv", "line 5", "1 value", "3 columns"]):
        read_raw(tmp_path)
    dataset = read_raw(tmp_path, split="none", bad_rows="skip")
    assert [row[:2] for row in dataset.frame("train").rows()] == [(1, 10), (2, 10)]
    assert dataset.info["preparation"]["bad_rows_skipped"] == 2


def test_bad_rows_of_amazon(tmp_path):
    good = '{"reviewerID": "a", "asin": "x", "overall": 5.0, "unixReviewTime": 7}'
    (tmp_path / "reviews_Baby.json").write_text(f'{good}\n{{"reviewerID": "b"}}\n')
    with assert_error(DataError, mentions=[tmp_path / "reviews_Baby.json", "line 2", "asin"]):
        read_raw(tmp_path / "reviews_Baby.json")
    dataset = read_raw(tmp_path / "reviews_Baby.json", split="none", bad_rows="skip")
    assert dataset.frame("train").rows() == [("a", "x", 7)] and dataset.info["source"]["bad_lines"] == 1
