"""Print and write what commands output: tables, JSON, CSV, Parquet, log messages; exit codes and the option --quiet."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lirdrec.control_characters import escape_json, escape_text
from lirdrec.errors import ConfigError
from lirdrec.files.manifest import check_not_inside_folder
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from lirdrec.recommender.recommender import Recommender

NUMBER = re.compile(r"[+\-−±]?[0-9][0-9.,:%]*")
GAP = 3  # characters between two columns of a table
MIN_WIDTH = 4  # least number of characters of a column of texts
FEW_ROWS = 3  # most rows of a table that may be transposed
HEADLINE = ("recall@", "ndcg@")  # prefixes of the metrics that are shown after a training
ENDINGS = (".csv", ".tsv", ".parquet", ".json")


@cache
def console(errors: bool = False) -> Console:
    """Return the rich console that prints to stdout or stderr, and escapes control characters in what it prints."""
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

    class Escaping(Console):
        def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(escape_text(segment.text, line=False), segment.style)

    return Escaping(stderr=errors, highlight=False, soft_wrap=False)


class _LogHandler(logging.Handler):
    """Prints each log record as one line on the error stream; a progress bar stays below it."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich.text import Text

        label = "note" if record.levelno < logging.WARNING else record.levelname.lower()
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        console(errors=True).print(Text.assemble((f"{label}: ", style), self.format(record)), soft_wrap=True)


def show_log(level: int) -> None:
    """Show the log records of the package lirdrec, of `level` and above, on the error stream."""
    logger = logging.getLogger("lirdrec")
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, _LogHandler)]
    logger.addHandler(_LogHandler())
    logger.setLevel(level)


def check_output(output: Path | None, csv_safe: bool = False, flag: str = "--output") -> None:
    """Check the path of an output file before any work is done; without a path, check only `csv_safe`.

    `flag` is the option that gave the path, for the messages.

    Raises:
        ConfigError: the ending is unknown, the path is a folder, its parent folder is missing, or `csv_safe` is given
            without a .csv or .tsv file.
        RunFolderError: the file would be inside a prepared dataset, a run or an export.
    """
    if csv_safe and (output is None or output.suffix.lower() not in (".csv", ".tsv")):
        raise ConfigError(f"--csv-safe: is only for a file that ends in .csv or .tsv ({flag}); leave it out")
    if output is None:
        return
    if output.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{flag} {output}: choose a name that ends in {', '.join(ENDINGS)}")
    if output.is_dir():
        raise ConfigError(f"{flag} {output} is a folder; give the path of a file")
    check_not_inside_folder(output, f"{flag} ")
    if not output.parent.is_dir():
        raise ConfigError(f"{flag} {output}: the folder {output.parent} does not exist; create it first")


def write_frame(frame: pl.DataFrame, output: Path, csv_safe: bool = False) -> None:
    """Write a table to a file atomically, in the format of the file's ending; then print the number of rows."""
    from lirdrec.files.atomic import atomic_write
    from lirdrec.files.table_writer import table_writer

    with (
        atomic_write(output) as temporary,
        table_writer(temporary, output.suffix.lower(), frame.clear(), csv_safe) as write,
    ):
        write(frame)
    print_line(f"{pluralize(frame.height, 'row')} written to {output}", errors=True)


def write_json(value: Any, output: Path) -> None:
    """Write a JSON document to a file atomically."""
    from lirdrec.files import atomic

    atomic.write_json(output, value, indent=2)
    print_line(f"written to {output}", errors=True)


def print_line(text: str, style: str | None = None, errors: bool = False) -> None:
    """Print a text without interpreting markup and without adding line breaks, on the output or the error stream."""
    stream = console(errors=True) if errors else console()  # in this form each of them is cached once
    stream.print(text, style=style, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as JSON on the output stream; letters beyond ASCII are escaped unless its encoding is UTF."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    print(escape_json(json.dumps(value, ensure_ascii=not unicode, indent=2)))


def table(
    title: str | None, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()
) -> Any:
    """Return a table of rich; the columns in `right` are right-aligned.

    Numbers and words of headings are not broken if there is room. A table of few rows for which there is no room is
    transposed: its columns become rows.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [
        [cell if isinstance(cell, Text) else Text("" if cell is None else escape_text(str(cell))) for cell in row]
        for row in rows
    ]
    names = [escape_text(column) for column in columns]
    to_right = [column in right for column in columns]
    widths, fits = _widths(cells, len(names))
    whole = [max(width, *map(len, name.split() or [""])) for width, name in zip(widths, names, strict=True)]
    if _have_room(whole):
        widths = whole
    elif 0 < len(cells) <= FEW_ROWS:
        heads = [row[0].plain for row in cells] if not names[0] or len(cells) > 1 else [""]
        first = 1 if any(heads) else 0
        cells = [[Text(names[index]), *(row[index] for row in cells)] for index in range(first, len(names))]
        names, to_right = [names[0] if first else "", *heads], [False, *(True for _ in heads)]
        widths, fits = _widths(cells, len(names))
    grid = Table(
        title=None if title is None else escape_text(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_header=any(names),
    )
    for name, is_right, width in zip(names, to_right, widths, strict=True):
        justify: Literal["left", "right"] = "right" if is_right else "left"
        grid.add_column(name, justify=justify, overflow="fold", min_width=width if fits else None)
    for row in cells:
        grid.add_row(*row)
    return grid


def percent(share: float) -> str:
    """Return a share in percent with one decimal; a small negative share is written as 0.0%, without a minus.

    >>> percent(0.0254), percent(-0.0001)
    ('2.5%', '0.0%')
    """
    text = f"{share:.1%}"
    return text.removeprefix("-") if text == "-0.0%" else text


def _widths(cells: Sequence[Sequence[Any]], n: int) -> tuple[list[int], bool]:
    """Return the least width of each column, and whether all columns fit into the console with these widths.

    It is the length of the column's longest number; `MIN_WIDTH` without numbers.
    """
    widths = []
    for column in range(n):
        words = [word for row in cells for word in row[column].plain.split()]
        widths.append(max((len(word) for word in words if NUMBER.fullmatch(word)), default=MIN_WIDTH))
    return widths, _have_room(widths)


def _have_room(widths: Sequence[int]) -> bool:
    return sum(widths) + GAP * len(widths) <= console().width


def metrics_table(
    results: Mapping[str, Mapping[str, float]],
    title: str | None = None,
    prefixes: tuple[str, ...] = ("",),
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> Any:
    """Return a table of the metrics: a row for each recommender, or a row for each metric if there are more than 6.

    Args:
        results: recommender → metric → value.
        title: title of the table.
        prefixes: only metrics with one of these prefixes are shown.
        intervals: recommender → metric → (low, high); they are shown in a row (or column) after the recommender.
    """
    metrics = dict.fromkeys(name for values in results.values() for name in values)
    names = [name for name in metrics if name.startswith(prefixes)]

    rows = [["", *names]]
    for recommender, values in results.items():
        rows.append([recommender, *(f"{values[name]:.4f}" if name in values else "" for name in names)])
        if known := (intervals or {}).get(recommender, {}):
            texts = ("{:.4f} – {:.4f}".format(*known[name]) if name in known else "" for name in names)
            rows.append(["95 % interval", *texts])
    if len(names) > 6:
        rows = list(map(list, zip(*rows, strict=True)))
    return table(title, rows[0], rows[1:], right=rows[0][1:])


def add_titles(frame: pl.DataFrame, recommender: Recommender, column: str = "item") -> pl.DataFrame:
    """Return the frame with a column `title` for the items in `column`.

    The frame is returned unchanged if it has such a column already or the item table has no titles.
    """
    import polars as pl

    from lirdrec.data.titles import titles

    item_titles = titles(recommender.item_table)
    if item_titles is None or "title" in frame.columns:
        return frame
    titled = recommender.item_table.select(pl.col("item").alias(column), item_titles.alias("title"))
    return frame.join(titled, on=column, how="left", maintain_order="left")


FAULT = 1  # exit code: a bug of lirdrec
REFUSED = 2  # exit code: wrong arguments or input files
DOES_NOT_FIT = 3  # exit code of `lirdrec plan`: the training does not fit into the memory
INTERRUPTED = 130  # exit code: stopped by Ctrl-C, as shells report it


@dataclass
class Settings:
    """Options of the command `lirdrec` itself, which are valid for all its commands: --quiet."""

    quiet: bool = False


settings = Settings()
