"""Output of commands: tables for people; JSON, CSV and Parquet for programs; log messages on the error stream.

Also the exit codes, and the options that come before the command.
"""

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

from lirdrec.errors import ConfigError
from lirdrec.escaping import escape_json, escape_text
from lirdrec.files.manifest import check_not_inside_folder

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from lirdrec.recommender.recommender import Recommender

NUMBER = re.compile(r"[+\-−±]?[0-9][0-9.,:%]*")
GAP = 3  # characters between two columns of a table
MIN_WIDTH = 4  # characters of a column of texts
FEW_ROWS = 3  # maximum rows of a table that may be transposed
ENDINGS = (".csv", ".tsv", ".parquet", ".json")


@cache
def console(errors: bool = False) -> Console:
    """The console of the output or error stream; escapes control characters in titles and ids."""
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

    class Escaping(Console):
        def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(escape_text(segment.text, line=False), segment.style)

    return Escaping(stderr=errors, highlight=False, soft_wrap=False)


class _LogHandler(logging.Handler):
    """Prints a log record as one line, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich.text import Text

        label = "note" if record.levelno < logging.WARNING else record.levelname.lower()
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        console(errors=True).print(Text.assemble((f"{label}: ", style), self.format(record)), soft_wrap=True)


def show_log(level: int) -> None:
    """Show the library's log records of `level` and above on the error stream."""
    logger = logging.getLogger("lirdrec")
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, _LogHandler)]
    logger.addHandler(_LogHandler())
    logger.setLevel(level)


def check_output(output: Path | None, csv_safe: bool = False) -> None:
    """Check that a file can be written, before any work is done.

    Raises:
        ConfigError: an unknown ending, a folder that does not exist, or `csv_safe` of another format.
        RunFolderError: it would lie in a prepared dataset, a run or an export.
    """
    if csv_safe and (output is None or output.suffix.lower() not in (".csv", ".tsv")):
        raise ConfigError("--csv-safe is for an --output that ends in .csv or .tsv")
    if output is None:
        return
    if output.suffix.lower() not in ENDINGS:
        raise ConfigError(f"--output {output}: choose a name that ends in {', '.join(ENDINGS)}")
    if output.is_dir():
        raise ConfigError(f"--output {output}: is a folder; name a file")
    check_not_inside_folder(output, "--output ")
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: the folder {output.parent} does not exist; make it first")


def write_frame(frame: pl.DataFrame, output: Path, csv_safe: bool = False) -> None:
    """Write a table to a file atomically, in the format of the file's ending.

    Args:
        frame, output: the table and its file.
        csv_safe: see `files.table_writer.spreadsheet_safe`.
    """
    from lirdrec.data.ids import pluralize
    from lirdrec.files.atomic import atomic_write
    from lirdrec.files.table_writer import spreadsheet_safe

    ending = output.suffix.lower()
    with atomic_write(output) as temporary:
        temporary.touch()  # raises OSError, where polars would raise its own error
        if ending == ".parquet":
            frame.write_parquet(temporary)
        elif ending == ".json":
            temporary.write_text(json.dumps(frame.to_dicts(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        else:
            safe = spreadsheet_safe(frame) if csv_safe else frame
            safe.write_csv(temporary, separator="\t" if ending == ".tsv" else ",")
    console(errors=True).print(f"{pluralize(frame.height, 'row')} written to {output}", markup=False)


def write_json(value: Any, output: Path) -> None:
    """Write a JSON document to a file atomically.

    Raises:
        ConfigError: the file's ending names another format.
    """
    from lirdrec.files import atomic

    atomic.write_json(output, value, indent=2)
    console(errors=True).print(f"written to {output}", markup=False)


def print_json(value: Any) -> None:
    """One JSON document on the output stream; with escapes only where its encoding may lack a letter."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    print(escape_json(json.dumps(value, ensure_ascii=not unicode, indent=2)))


def table(
    title: str | None, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()
) -> Any:
    """A table for people; columns in `right` are set to the right.

    Numbers are not wrapped if they fit; a table of few rows that does not fit is transposed.
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
    widths = _widths(cells, len(names))
    if sum(widths) + GAP * len(widths) > console().width and 0 < len(cells) <= FEW_ROWS:
        heads = [row[0].plain for row in cells] if not names[0] or len(cells) > 1 else [""]
        first = 1 if any(heads) else 0
        cells = [[Text(names[index]), *(row[index] for row in cells)] for index in range(first, len(names))]
        names, to_right = [names[0] if first else "", *heads], [False, *(True for _ in heads)]
        widths = _widths(cells, len(names))
    drawn = Table(
        title=None if title is None else escape_text(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_header=any(names),
    )
    fits = sum(widths) + GAP * len(widths) <= console().width
    for name, is_right, width in zip(names, to_right, widths, strict=True):
        justify: Literal["left", "right"] = "right" if is_right else "left"
        drawn.add_column(name, justify=justify, overflow="fold", min_width=width if fits else None)
    for row in cells:
        drawn.add_row(*row)
    return drawn


def _widths(cells: Sequence[Sequence[Any]], n: int) -> list[int]:
    """Width of each column: of its longest number, or `MIN_WIDTH`."""
    return [
        max(
            (len(word) for row in cells for word in row[index].plain.split() if NUMBER.fullmatch(word)),
            default=MIN_WIDTH,
        )
        for index in range(n)
    ]


def metrics_table(results: Mapping[str, Mapping[str, float]], title: str | None = None) -> Any:
    """Table of metrics: a row per recommender, or a row per metric if there are more than 6."""
    names: list[str] = list(dict.fromkeys(name for values in results.values() for name in values))

    def shown(recommender: str, name: str) -> str:
        return f"{results[recommender][name]:.4f}" if name in results[recommender] else ""

    if len(names) <= 6:
        rows = [[key, *(shown(key, name) for name in names)] for key in results]
        return table(title, ["", *names], rows, right=names)
    return table(
        title, ["", *results], [[name, *(shown(key, name) for key in results)] for name in names], right=results
    )


def add_titles(frame: pl.DataFrame, recommender: Recommender, column: str = "item") -> pl.DataFrame:
    """The frame with a column `title`, where the item table has one."""
    import polars as pl

    from lirdrec.data.titles import titles

    item_titles = titles(recommender.item_table)
    if item_titles is None or "title" in frame.columns:
        return frame
    table = recommender.item_table.select(pl.col("item").alias(column), item_titles.alias("title"))
    return frame.join(table, on=column, how="left", maintain_order="left")


FAULT = 1  # exit code: a bug of lirdrec
REFUSED = 2  # exit code: wrong arguments or input files
INTERRUPTED = 130  # exit code: stopped by Ctrl-C, as shells report it


@dataclass
class Settings:
    """Options of `lirdrec` itself."""

    quiet: bool = False


settings = Settings()
