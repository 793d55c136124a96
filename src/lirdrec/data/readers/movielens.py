"""Read MovieLens as published by GroupLens: ml-latest, ml-32m and similar (CSV), ml-1m, ml-10m (`::`) and ml-100k."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.data.compression import exists
from lirdrec.data.dataset import Dataset
from lirdrec.data.images import with_images
from lirdrec.data.json_lines import BadLines
from lirdrec.data.preprocessing_config import PreprocessingConfig, make_preprocessing_config
from lirdrec.data.readers.shared import (
    build_dataset,
    check_id_columns,
    existing_folder,
    read_lines,
    read_numbers,
    strip_quotes,
)
from lirdrec.data.table_with_source import Table
from lirdrec.errors import DataError

USER, FILM, RATING, TIMESTAMP = "userId", "movieId", "rating", "timestamp"
YEAR = re.compile(r"^(.*?)\s*\((\d{4})(?:[-–]\s?(?:\d{4})?)?\)$")  # Alien (1979), Fawlty Towers (1975-1979)
FILM_LINES = {".csv": r"([0-9]+),(.*),([^,]*)", ".dat": r"([0-9]+)::(.*)::(.*?)"}
TAG_LINES = {".csv": r"[0-9]+,([0-9]+),(.*),[0-9]+", ".dat": r"[0-9]+::([0-9]+)::(.*)::[0-9]+"}
SEPARATORS = {"ratings.dat": "::", "u.data": "\t"}  # of files without names of columns
LINE_FORMATS = {
    "movies.csv": "movieId,title,genres",
    "tags.csv": "userId,movieId,tag,timestamp",
    "movies.dat": "MovieID::Title::Genres",
    "tags.dat": "UserID::MovieID::Tag::Timestamp",
    "u.item": "id|title|date|video date|address and 19 genres as 0 or 1",
}
DATA_100K, ITEMS_100K = "u.data", "u.item"
GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
FILM_100K = re.compile(r"([0-9]+)\|(.*)\|([^|]*)\|([^|]*)\|([^|]*)\|([01](?:\|[01]){18})")
NO_GENRES = "(no genres listed)"
DAT_ENCODINGS = ("utf-8-sig", "latin-1")  # ml-10m, ml-1m
LICENSE = "MovieLens, GroupLens, University of Minnesota: research, not commercial; see README.txt of the dataset"


def is_movielens(folder: str | Path) -> bool:
    """Return whether a folder has `ratings` and `movies`, as .csv or as .dat, or ml-100k's `u.data` and `u.item`."""
    if all((Path(folder) / name).is_file() for name in (DATA_100K, ITEMS_100K)):
        return True
    return any(all((Path(folder) / f"{name}{end}").is_file() for name in ("ratings", "movies")) for end in FILM_LINES)


def read_movielens(
    folder: str | Path,
    *,
    images: str | Path | None = None,
    features: Mapping[str, str | Path] | None = None,
    name: str | None = None,
    info: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """Read a MovieLens folder and prepare it.

    The item table has all films of the movie file, in its order: `title` (without the year), `year` (integer),
    `genres` ("Comedy, Drama") and, if there is a tag file, `tags`: unique, the most frequent first.

    Args:
        folder: contains `ratings.csv` and `movies.csv`, optionally `tags.csv` (UTF-8); or the same as .dat, with `::`
            between the values (UTF-8 or Latin-1); or `u.data` and `u.item` of ml-100k. Other files are not read.
        images: a folder of posters named by movieId.
        features, name, info: as for `read_interactions`; the default name is the name of the folder.
        options: fields of `PreprocessingConfig`. All ratings count unless `min_rating` is given.

    Raises:
        DataError, ConfigError: as for `read_interactions`.
    """
    folder = existing_folder(folder)
    columns = {"user": USER, "item": FILM, "rating": RATING, "timestamp": TIMESTAMP}
    config = make_preprocessing_config(columns | options, "read_movielens")
    files = _find_files(folder)
    for path in files:
        exists(path)
    items = _item_table(files[1:], config)
    ratings = check_id_columns(_ratings(files[0], config), config, config.user, config.item)
    source = {"format": "movielens", "files": [path.name for path in files]}
    name = name or folder.resolve().name
    dataset = build_dataset(ratings, items, config, name, source, {"licence": LICENSE, **(info or {})}, features)
    return dataset if images is None else with_images(dataset, images)


def _find_files(folder: Path) -> list[Path]:
    """Return the files of ratings, of films and, if there is one, of tags."""
    if (folder / DATA_100K).is_file():
        return [folder / DATA_100K, folder / ITEMS_100K]
    suffix = ".dat" if (folder / "ratings.dat").is_file() else ".csv"
    files = [folder / f"{stem}{suffix}" for stem in ("ratings", "movies", "tags")]
    return files if files[2].is_file() else files[:2]


def _item_table(files: list[Path], config: PreprocessingConfig) -> Table:
    """Read the item table: the films, with tags if there is a tag file."""
    bad = [BadLines(path, config.bad_rows, "bad_rows") for path in files]
    films = (_films_100k if files[0].name == ITEMS_100K else _films)(files[0], bad[0])
    if len(files) > 1:
        films = films.join(_tags(files[1], bad[1]), on=FILM, how="left", maintain_order="left")
    for bad_lines in bad:
        bad_lines.report()
    return Table(films.rename({FILM: config.items_column}), str(files[0]), text=True, skipped=bad[0].count)


def _ratings(path: Path, config: PreprocessingConfig) -> Table:
    """Read the ratings; ml-100k and files with `::` have no header."""
    layout: dict[str, Any] = {"bad_rows": config.bad_rows}
    if path.name in SEPARATORS:
        columns = (USER, FILM, RATING, TIMESTAMP)
        layout |= {"separator": SEPARATORS[path.name], "header": False, "columns": columns}
    return read_numbers(path, (config.user, config.item), **layout)


def _films_100k(path: Path, bad: BadLines) -> pl.DataFrame:
    """Read movieId, title, year and genres from `u.item`: lines of 24 values, the last 19 of which are genre flags."""
    rows = []
    for number, line in enumerate(read_lines(path, DAT_ENCODINGS), 1):
        if match := FILM_100K.fullmatch(line):
            film, title, *_, flags = match.groups()
            genres = [genre for genre, flag in zip(GENRES_100K[1:], flags.split("|")[1:], strict=True) if flag == "1"]
            rows.append((number, film, title, genres))
        elif line.strip():
            _wrong_line(bad, number, line)
    return _film_table(path, rows)


def _films(path: Path, bad: BadLines) -> pl.DataFrame:
    """Read movieId, title, year and genres from `movies.csv` or `movies.dat`."""
    rows = []
    for number, (film, title, genres) in _records(path, FILM_LINES[path.suffix], bad):
        listed = [] if genres.strip() == NO_GENRES else [genre.strip(" '\"") for genre in genres.split("|")]
        rows.append((number, film, title, listed))
    if not rows:
        raise DataError(f"{path} has column names but no rows")
    return _film_table(path, rows)


def _film_table(path: Path, films: list[tuple[int, str, str, list[str]]]) -> pl.DataFrame:
    """Make the table of films from tuples of line number, id, title with year, and genres; null for missing values."""
    rows: dict[str, tuple[str, str | None, int | None, str | None]] = {}
    for number, film, title, genres in films:
        if film in rows:
            raise DataError(f"{path}: film {film} in line {number} is repeated; keep one line per film")
        title = strip_quotes(title)
        dated = YEAR.match(title)
        name, year = (dated[1], int(dated[2])) if dated else (title, None)
        rows[film] = (film, name or None, year, ", ".join(filter(None, genres)) or None)
    schema = {FILM: pl.String, "title": pl.String, "year": pl.Int64, "genres": pl.String}
    return pl.DataFrame(list(rows.values()), schema=schema, orient="row")


def _tags(path: Path, bad: BadLines) -> pl.DataFrame:
    """Read each movieId and its tags, most frequent first, then in file order; tags equal up to case are one tag."""
    pairs = [(film, strip_quotes(tag)) for _, (film, tag) in _records(path, TAG_LINES[path.suffix], bad)]
    tags = pl.DataFrame(pairs, schema={FILM: pl.String, "tag": pl.String}, orient="row").filter(pl.col("tag") != "")
    return (
        tags.with_row_index("position")
        .group_by(FILM, pl.col("tag").str.to_lowercase().alias("key"))
        .agg(pl.col("tag").first(), pl.col("position").min(), pl.len().alias("times"))
        .sort(FILM, -pl.col("times").cast(pl.Int64), "position")
        .group_by(FILM, maintain_order=True)
        .agg(pl.col("tag").str.join(", ").alias("tags"))
    )


def _records(path: Path, pattern: str, bad: BadLines) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Iterate over the line number and the values of each line after the header; `bad` handles unusable lines."""
    line_of = re.compile(pattern)
    lines = enumerate(read_lines(path, DAT_ENCODINGS if path.suffix == ".dat" else ("utf-8-sig",)), 1)
    if path.suffix == ".csv":
        columns = [strip_quotes(name) for name in next(lines)[1].split(",")]
        expected = LINE_FORMATS[path.name].split(",")
        if columns != expected:
            missing = ", ".join(f"'{column}'" for column in expected if column not in columns)
            raise DataError(
                f"{path}: the first line must be {','.join(expected)}, not {','.join(columns)}"
                + (f"; the file has no column {missing}" if missing else "")
            )
    for number, line in lines:
        if match := line_of.fullmatch(line):
            yield number, match.groups()
        elif line.strip():
            _wrong_line(bad, number, line)


def _wrong_line(bad: BadLines, number: int, line: str) -> None:
    shown = line if len(line) <= 60 else line[:57] + "..."
    bad.add(number, f"not {LINE_FORMATS[bad.path.name]}: {shown!r}")
