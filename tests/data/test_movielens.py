"""MovieLens in its published forms: the same films and ratings from each, and every fault with its line."""

import csv
import io
import logging

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lirdrec.data import Dataset
from lirdrec.data.readers import kind_of, read_any, read_movielens
from lirdrec.errors import ConfigError, DataError

from ..helpers import assert_error

FILMS = [  # id, title as published, genres as published; what we make of them
    (5, "Toy Story (1995)", "Animation|Children's|Comedy", "Toy Story", 1995, "Animation, Children's, Comedy"),
    (2, "American President, The (1995)", "Drama", "American President, The", 1995, "Drama"),
    (9, "Misérables, Les (1995)", "Drama|Musical", "Misérables, Les", 1995, "Drama, Musical"),
    (7, 'Seven: "Se7en" (a.k.a. Seven) (1995)', "Thriller", 'Seven: "Se7en" (a.k.a. Seven)', 1995, "Thriller"),
    (11, "Fawlty Towers (1975-1979)", "Comedy", "Fawlty Towers", 1975, "Comedy"),
    (12, "Big Bang Theory, The (2007-) ", "Comedy", "Big Bang Theory, The", 2007, "Comedy"),
    (14, "2001", "(no genres listed)", "2001", None, None),
]
RATINGS = [(user, film, 1 + (user * film) % 5, 10**9 + user * film) for user in (1, 2, 4) for film in (2, 5, 9, 7, 11)]
TAGS = [
    (1, 5, "Pixar"),
    (1, 5, "toys, alive"),
    (2, 5, "fun"),
    (4, 5, "FUN"),
    (4, 5, 'the "best"'),
    (2, 9, "Hugo"),
    (1, 99, "of no film"),
]


def write_csv(path, header, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def latest(tmp_path):
    """A folder like ml-latest; GroupLens ends lines with CR LF, as the csv module does."""
    folder = tmp_path / "ml-tiny"
    folder.mkdir()
    write_csv(folder / "ratings.csv", ["userId", "movieId", "rating", "timestamp"], RATINGS)
    write_csv(folder / "movies.csv", ["movieId", "title", "genres"], [film[:3] for film in FILMS])
    write_csv(folder / "tags.csv", ["userId", "movieId", "tag", "timestamp"], [(*tag, 7) for tag in TAGS])
    return folder


def write_dat(folder, encoding, tags=False):
    folder.mkdir()
    rows = {"ratings": RATINGS, "movies": [film[:3] for film in FILMS]}
    if tags:
        rows["tags"] = [(*tag, 7) for tag in TAGS]
    for name, lines in rows.items():
        text = "".join("::".join(map(str, row)) + "\n" for row in lines)
        (folder / f"{name}.dat").write_bytes(text.encode(encoding))
    return folder


def test_films_ratings_and_tags(latest):
    data = read_movielens(latest)
    assert data.item_table.drop("tags").rows() == [(film[0], *film[3:]) for film in FILMS]
    tags = dict(data.item_table.select("item", "tags").iter_rows())
    # two users wrote "fun"; the others come in the order of the file
    assert tags == dict.fromkeys(tags) | {5: 'fun, Pixar, toys, alive, the "best"', 9: "Hugo"}
    pairs = pl.concat([data.frame(split) for split in ("train", "valid", "test")]).sort("user", "item")
    assert pairs.rows() == sorted((user, film, time) for user, film, _, time in RATINGS)
    assert data.name == "ml-tiny" and data.info["source"]["files"] == ["ratings.csv", "movies.csv", "tags.csv"]


@pytest.mark.parametrize(("encoding", "tags"), [("latin-1", False), ("utf-8", True)])
def test_the_files_of_1m_and_10m_give_the_same(latest, tmp_path, encoding, tags):
    one, other = read_movielens(latest), read_movielens(write_dat(tmp_path / "ml-dat", encoding, tags))
    assert_frame_equal(other.item_table, one.item_table if tags else one.item_table.drop("tags"))
    for split in ("train", "valid", "test"):
        assert_frame_equal(other.frame(split), one.frame(split))


def test_options_and_features(latest, tmp_path):
    data = read_movielens(latest, min_rating=4, split="none", keep_all_items=False, name="tiny", info={"by": "me"})
    liked = {(user, film) for user, film, rating, _ in RATINGS if rating >= 4}
    assert set(data.frame("train").select("user", "item").iter_rows()) == liked
    assert data.items.ids.tolist() == [film[0] for film in FILMS if film[0] in {film for _, film in liked}]
    assert (data.name, data.info["by"]) == ("tiny", "me") and "MovieLens" in data.info["licence"]
    texts = read_movielens(latest, string_ids=True)
    assert texts.items.ids.tolist() == [str(film[0]) for film in FILMS] and texts.users.ids.tolist() == ["1", "2", "4"]
    frame = pl.DataFrame({"movieId": [9, 2], "x": [[1.0, 2.0], [3.0, 4.0]]})
    frame.write_parquet(tmp_path / "x.parquet")
    data = read_movielens(latest, features={"image": tmp_path / "x.parquet"}, without_features="drop")
    assert data.items.ids.tolist() == [2, 9] and data.features["image"].values.tolist() == [[3, 4], [1, 2]]
    with assert_error(ConfigError, mentions=["read_movielens", "'minrating'", "'min_rating'"]):
        read_movielens(latest, minrating=4)


def test_read_any_recognizes_it(latest):
    assert kind_of(latest) == "movielens" and read_any(latest).name == "ml-tiny"
    (latest / "movies.csv").unlink()
    with assert_error(DataError, mentions=[latest, "MovieLens", "ratings.csv", "movies.csv"]):
        kind_of(latest)


def test_misplaced_quotes_as_in_files_that_others_wrote_again(latest):
    text = (
        'movieId,title,genres\n29,City of Lost Children," The (Cité des enfants perdus, La) (1995)",Drama|\'Sci-Fi\n'
        '1,"""Great Performances"" Cats (1998)",Musical\n2,He said "no" (1999),Drama\n3, Two   spaces (2000) ,\n'
    )
    (latest / "movies.csv").write_text(text, encoding="utf-8")
    write_csv(latest / "ratings.csv", ["userId", "movieId", "rating", "timestamp"], [(1, 29, 5, 5), (1, 2, 5, 6)])
    (latest / "tags.csv").unlink()
    assert read_movielens(latest, split="none").item_table.rows() == [
        (29, "City of Lost Children, The (Cité des enfants perdus, La)", 1995, "Drama, Sci-Fi"),
        (1, '"Great Performances" Cats', 1998, "Musical"),
        (2, 'He said "no"', 1999, "Drama"),
        (3, "Two spaces", 2000, None),
    ]


words = st.text(st.characters(codec="latin-1", exclude_categories=("C", "Z")) | st.just(" "), min_size=1)
titles = words.map(lambda text: " ".join(text.split())).filter(lambda text: text.strip(' "') != "")


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(titles, st.none() | st.integers(1000, 9999), st.booleans()), min_size=1))
def test_any_title_comes_back(tmp_path_factory, rows):
    """Commas, quotes and colons in titles: through the csv module's own writer, and between `::`."""
    folder = tmp_path_factory.mktemp("films")
    published = [
        (number, title if year is None else f"{title} ({year})", "Drama|War" if known else "(no genres listed)")
        for number, (title, year, known) in enumerate(rows)
    ]
    expected = [
        (number, title, year, "Drama, War" if known else None) for number, (title, year, known) in enumerate(rows)
    ]
    plain = [row for row in published if "::" not in f"{row[1]}:"]  # else no one could tell where it ends
    write_csv(folder / "movies.csv", ["movieId", "title", "genres"], published)
    write_csv(folder / "ratings.csv", ["userId", "movieId", "rating", "timestamp"], [(1, 0, 5, 5)])
    assert read_movielens(folder, split="none").item_table.rows() == [ended(row) for row in expected]
    if plain and plain[0][0] == 0 and not any('"' in row[1] for row in plain):
        made = folder / "dat"
        made.mkdir()
        text = "".join("::".join(map(str, row)) + "\n" for row in plain)
        (made / "movies.dat").write_bytes(text.encode("latin-1" if text.isascii() else "utf-8"))
        (made / "ratings.dat").write_text("1::0::5::5\n")
        kept = {row[0] for row in plain}
        table = read_movielens(made, split="none").item_table
        assert table.rows() == [ended(row) for row in expected if row[0] in kept]


def ended(row):
    """A title that itself ends with a year in brackets gives it up where no other follows."""
    from lirdrec.data.readers.movielens import YEAR

    number, title, year, genres = row
    if year is None and (dated := YEAR.match(title)):
        return number, dated[1] or None, int(dated[2]), genres
    return row


BAD = [
    ("ratings.csv", "userId,film,rating,timestamp\n1,2,3,4\n", ["'movieId'", "userId, film, rating, timestamp"]),
    ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,4\n1,x7,3,4\n", ["'x7'", "'movieId'", "line 3"]),
    ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,4\n1,,3,4\n", ["'movieId'", "line 3"]),
    (
        "ratings.csv",
        "userId,movieId,rating,timestamp\n1,2,3,4\n1,2,3\n1,5,2,2,2\n",
        ["line 3", "3 values", "4 columns"],
    ),
    ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,4\n1,77,3,4\n", ["movies.csv", "77", "unknown_items"]),
    ("ratings.csv", "", []),
    ("ratings.csv", "userId,movieId,rating,timestamp\n", []),
    ("movies.csv", "movieId,name,genres\n1,A,B\n", ["'title'", "movieId,name,genres"]),
    ("movies.csv", "movieId,genres,title\n1,A,B\n", ["movieId,genres,title", "movieId,title,genres"]),
    ("movies.csv", "movieId,title,genres\n1,Alien (1979)\n", ["line 2", "movieId,title,genres", "'1,Alien (1979)'"]),
    ("movies.csv", "movieId,title,genres\nx,Alien (1979),Drama\n", ["line 2", "movieId,title,genres", "'x,Alien"]),
    ("movies.csv", "movieId,title,genres\n1,A,B\n\n2,C\n", ["line 4", "'2,C'"]),
    ("movies.csv", "movieId,title,genres\n1,A,B\n1,C,D\n", ["film 1", "line 3"]),
    ("movies.csv", "movieId,title,genres\n", []),
    ("movies.csv", "movieId,title,genres\n1,Misérables,Drama\n".encode("latin-1"), ["UTF-8", "0xe9", "line 2"]),
    ("tags.csv", "userId,movieId,tag,timestamp\n1,5,fun\n", ["line 2", "userId,movieId,tag,timestamp", "'1,5,fun'"]),
]


@pytest.mark.parametrize(("name", "content", "facts"), BAD)
def test_damaged_files(latest, name, content, facts):
    (latest / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with assert_error(DataError, mentions=[latest / name, *facts]):
        read_movielens(latest)


RATING_FORM, FILM_FORM = "UserID::MovieID::Rating::Timestamp", "MovieID::Title::Genres"
BAD_DAT = [
    ("ratings.dat", "1::2::3::4\n1::5::3\n", ["line 2", "3 values", "4 columns"]),
    ("ratings.dat", "1::2::3::4\n1::5::3::4::5\n", ["line 2", "5 values", "4 columns"]),
    ("ratings.dat", "1::2::3::4\n1:5:3:4\n", ["line 2", "1 value", "4 columns"]),
    ("ratings.dat", "1::2::3::4\n1::five::3::4\n", ["'five'", "'movieId'", "line 2"]),
    ("ratings.dat", "1::2::3::4\n\n1::x::3::4\n", ["'x'", "'movieId'", "line 3"]),
    ("ratings.dat", "1::2::3::4\n1::-5::3::4\n", ["-5", "string_ids=True"]),
    ("movies.dat", "5::Toy Story (1995)\n", ["line 1", FILM_FORM, "'5::Toy Story (1995)'"]),
    ("movies.dat", b"\xff\xfe5\0:\0:\0", ["line 1", FILM_FORM]),  # UTF-16
]


@pytest.mark.parametrize(("name", "content", "facts"), BAD_DAT)
def test_damaged_files_of_1m(tmp_path, name, content, facts):
    folder = write_dat(tmp_path / "ml-1m", "latin-1")
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with assert_error(DataError, mentions=[folder / name, *facts]):
        read_movielens(folder)


def test_missing_files(latest):
    with assert_error(DataError, mentions=[latest / "gone"]):
        read_movielens(latest / "gone")
    (latest / "movies.csv").unlink()
    with assert_error(DataError, mentions=[latest / "movies.csv"]):
        read_movielens(latest)


def test_the_real_small_set_with_its_posters(real_data, caplog):
    folder = real_data / "movielens-small"
    with caplog.at_level(logging.WARNING, "lirdrec"):
        data = read_movielens(folder, images=real_data / "posters", min_rating=4)
    assert caplog.messages == []
    assert (data.n_users, data.n_items) == (671, 9_125)
    assert sum(len(data.split(split)) for split in ("train", "valid", "test")) == 51_568
    table = data.item_table
    # of the 300 posters 19 are of films that are not in this edition
    names = {int(path.stem) for path in (real_data / "posters").iterdir()}
    assert len(names) == 300 and len(names & set(table["item"])) == 281
    assert set(table.filter(pl.col("image").is_not_null())["item"]) == names & set(table["item"])
    assert (table["image"].drop_nulls() == table.filter(pl.col("image").is_not_null())["item"].cast(str) + ".jpg").all()
    counts = {column: table.height - table[column].null_count() for column in ("title", "year", "genres", "tags")}
    assert counts == {"title": 9_125, "year": 9_121, "genres": 9_107, "tags": 689}
    # the csv module reads all lines whose quotes are in place, and agrees
    agreed = 0
    known = {row[0]: row[1:] for row in table.select("item", "title", "year").iter_rows()}
    for row in csv.reader(io.StringIO((folder / "movies.csv").read_text(encoding="utf-8"))):
        if len(row) == 3 and row[0].isdigit() and row[1].strip().endswith(")") and "-" not in row[1][-7:]:
            title, year = known[int(row[0])]
            agreed += f"{title} ({year})" == " ".join(row[1].split())
    assert agreed > 8_900


def test_the_shipped_sample_is_a_part_of_it(real_data, sample):
    """Another program made the sample from the same files, with its own reading of titles and ratings."""
    whole, part = read_movielens(real_data / "movielens-small", min_rating=4, split="none"), Dataset.load(sample)
    likes = set(whole.frame("train").select("user", "item").iter_rows())
    for split in ("train", "valid", "test"):
        assert set(part.frame(split).select("user", "item").iter_rows()) <= likes
    joined = part.item_table.select("item", "title", "genres").join(whole.item_table, on="item", suffix="_")
    assert joined.height == part.n_items
    dated = joined.filter(pl.col("year").is_not_null() & ~pl.col("title").str.contains(r"\d-\d*\)$"))
    assert (dated["title"] == dated["title_"] + " (" + dated["year"].cast(str) + ")").all()
