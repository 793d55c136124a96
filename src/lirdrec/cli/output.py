"""How commands speak: tables for people, JSON, CSV and Parquet for machines, remarks on the error stream.

What the options before the command say, for the commands to read; exit codes; the range of whole numbers.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lirdrec.errors import ConfigError
from lirdrec.escaping import visible, visible_json
from lirdrec.files.manifest import refuse_inside

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from lirdrec.recommender.recommender import Recommender

NUMBER = re.compile(r"[+\-−±]?[0-9][0-9.,:%]*")
GAP = 3  # columns of the terminal between two columns of a table
LEAST = 4  # that a column of texts needs
FEW_ROWS = 3  # of a table that may be turned on its side
ENDINGS = (".csv", ".tsv", ".parquet", ".json")

CsvSafeOption = Annotated[
    bool, typer.Option("--csv-safe", help="In .csv and .tsv: ' before texts that spreadsheets would take for formulas.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this file (.csv, .tsv, .parquet or .json).")
]


@cache
def console(errors: bool = False) -> Console:
    """The one console of each stream. What a terminal would obey in titles and ids is written out."""
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

    class Escaping(Console):
        def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for one in super().render(renderable, options):
                yield one if one.control else Segment(visible(one.text, line=False), one.style)

    return Escaping(stderr=errors, highlight=False, soft_wrap=False)


class _Remarks(logging.Handler):
    """Log records as one line each, above whatever progress bar is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich.text import Text

        label = "note" if record.levelno < logging.WARNING else record.levelname.lower()
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        console(errors=True).print(Text.assemble((f"{label}: ", style), self.format(record)), soft_wrap=True)


def show_remarks(level: int) -> None:
    """Show the library's log records of `level` and above on the error stream."""
    logger = logging.getLogger("lirdrec")
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, _Remarks)]
    logger.addHandler(_Remarks())
    logger.setLevel(level)


def check_output(output: Path | None, csv_safe: bool = False) -> None:
    """Refuse a file that could not be written, before any work is done.

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
    refuse_inside(output, "--output ")
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: the folder {output.parent} does not exist; make it first")


def write_frame(frame: pl.DataFrame, output: Path, csv_safe: bool = False) -> None:
    """Write a table to a file, in the format that its ending names; whole or not at all.

    Args:
        frame, output: the table and its file.
        csv_safe: see `files.table_writer.spreadsheet_safe`.
    """
    from lirdrec.data.ids import count
    from lirdrec.files.atomic import atomic_write
    from lirdrec.files.table_writer import spreadsheet_safe

    ending = output.suffix.lower()
    with atomic_write(output) as temporary:
        temporary.touch()  # what the operating system refuses is said in its own words, not in those of polars
        if ending == ".parquet":
            frame.write_parquet(temporary)
        elif ending == ".json":
            temporary.write_text(json.dumps(frame.to_dicts(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        else:
            safe = spreadsheet_safe(frame) if csv_safe else frame
            safe.write_csv(temporary, separator="\t" if ending == ".tsv" else ",")
    console(errors=True).print(f"{count(frame.height, 'row')} written to {output}", markup=False)


def write_json(value: Any, output: Path) -> None:
    """Write a JSON document to a file; whole or not at all.

    Raises:
        ConfigError: the file's ending names another format.
    """
    from lirdrec.files import atomic

    atomic.write_json(output, value, indent=2)
    console(errors=True).print(f"written to {output}", markup=False)


def print_json(value: Any) -> None:
    """One JSON document on the output stream; with escapes only where its encoding may lack a letter."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    print(visible_json(json.dumps(value, ensure_ascii=not unicode, indent=2)))


def table(
    title: str | None, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()
) -> Any:
    """A table for people; columns in `right` are set to the right.

    No number is broken while there is room for all; a table of few rows for which there is none is turned on its side.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [
        [one if isinstance(one, Text) else Text("" if one is None else visible(str(one))) for one in row]
        for row in rows
    ]
    names = [visible(column) for column in columns]
    to_right = [column in right for column in columns]
    widths = _widths(cells, len(names))
    if sum(widths) + GAP * len(widths) > console().width and 0 < len(cells) <= FEW_ROWS:
        heads = [row[0].plain for row in cells] if not names[0] or len(cells) > 1 else [""]
        first = 1 if any(heads) else 0
        cells = [[Text(names[place]), *(row[place] for row in cells)] for place in range(first, len(names))]
        names, to_right = [names[0] if first else "", *heads], [False, *(True for _ in heads)]
        widths = _widths(cells, len(names))
    drawn = Table(
        title=None if title is None else visible(title),
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
    """The longest number of each column, and a little for what is none."""
    return [
        max((len(word) for row in cells for word in row[place].plain.split() if NUMBER.fullmatch(word)), default=LEAST)
        for place in range(n)
    ]


def metrics_table(results: Mapping[str, Mapping[str, float]], title: str | None = None) -> Any:
    """Metric values: one line per recommender, or, where there are many metrics, one line per metric."""
    names: list[str] = list(dict.fromkeys(name for values in results.values() for name in values))

    def shown(who: str, name: str) -> str:
        return f"{results[who][name]:.4f}" if name in results[who] else ""

    if len(names) <= 6:
        rows = [[who, *(shown(who, name) for name in names)] for who in results]
        return table(title, ["", *names], rows, right=names)
    return table(
        title, ["", *results], [[name, *(shown(who, name) for who in results)] for name in names], right=results
    )


def add_titles(frame: pl.DataFrame, recommender: Recommender, column: str = "item") -> pl.DataFrame:
    """The frame with a column `title`, where the item table has one."""
    import polars as pl

    from lirdrec.data.titles import titles

    found = titles(recommender.item_table)
    if found is None or "title" in frame.columns:
        return frame
    known = recommender.item_table.select(pl.col("item").alias(column), found.alias("title"))
    return frame.join(known, on=column, how="left", maintain_order="left")


FAULT = 1  # exit code: a fault of lirdrec
REFUSED = 2  # exit code: something that was given cannot be used
INTERRUPTED = 130  # exit code: what a shell reports for a program that Ctrl-C ended
LARGEST = 2**63 - 1  # what a tensor's whole number can hold


@dataclass
class Settings:
    """Options of `lirdrec` itself."""

    quiet: bool = False


settings = Settings()


def whole_number(least: int = -LARGEST) -> Callable[[Any], Any]:
    """A check for options that take whole numbers, one or several: from `least` to what a tensor can hold.

    The check raises typer.BadParameter, which names the option.
    """

    def check(value: Any) -> Any:
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is not None and not least <= one <= LARGEST:
                low = f"{least} or more" if one < least and least > -LARGEST else f"below 2^63 ({LARGEST + 1})"
                raise typer.BadParameter(f"{one} is out of range; it must be {low}")
        return value

    return check
