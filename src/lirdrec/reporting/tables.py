r"""Result tables: best value bold, second underlined, standard deviation beside the mean.

A `Table` is written as HTML, LaTeX (booktabs), Markdown, terminal text (rich) and data (CSV, Parquet). Values are
ranked at the printed precision: values that print the same have the same rank, so several can be bold.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError
from lirdrec.reporting.charts.panels import rank_in
from lirdrec.reporting.formatting import NARROW, Better, Column, Value, label, printed, text_of
from lirdrec.reporting.html import template
from lirdrec.reporting.statistics import Measure

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table as RichTable

LONG = 40  # characters: columns with longer texts wrap


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: column key → value. A text in a column of numbers ("out of memory") is printed unchanged.
        block: heading over adjacent rows of the same block; values are ranked within a block.
        accent: highlight the row, for the model that the report is about.
        muted: print the row in gray and do not rank it, for values published by others.
    """

    cells: Mapping[str, Value]
    block: str = ""
    accent: bool = False
    muted: bool = False


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        name: name of its files, without their ending.
        columns: the columns.
        rows: the rows.
        caption: one sentence above the table, also the LaTeX caption.
        notes: lines below the table, such as the meaning of marks.
    """

    name: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""
    notes: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        keys = {column.key for column in self.columns}
        for row in self.rows:
            if unknown := row.cells.keys() - keys:
                raise ConfigError(f"table {self.name}: a row has cells without a column: {', '.join(sorted(unknown))}")

    @classmethod
    def pivot(
        cls,
        frame: pl.DataFrame,
        name: str,
        rows: str | Sequence[str],
        columns: str | Sequence[str],
        *,
        value: str = "value",
        block: str | None = None,
        better: Better | None = "higher",
        digits: int = 4,
        accent: str | None = None,
        row_order: Sequence[Any] = (),
        column_order: Sequence[Any] = (),
        labels: Callable[[Any], str] = label,
        caption: str = "",
        notes: Sequence[str] = (),
    ) -> Table:
        """Make a table from a tidy frame, which has a row for each run; a cell is the mean ± sd of its runs.

        A run belongs to a cell if its row of the frame has the cell's block, row names and heading.

        Args:
            frame: tidy rows, such as `results.frame()`.
            rows: columns of the frame with the row names; each becomes a text column.
            columns: column of the frame with the headings, or two columns: (group, heading).
            value: column with the values.
            block: column of the frame with the headings of blocks of rows, each ranked separately.
            better, digits: as in `Column`, for every column of values.
            accent: highlight rows with this value in one of `rows`.
            row_order: order of the values of the first of `rows`; other values follow in order of appearance.
            column_order: the same for the values of the last of `columns`.
            labels: function that gives the printed form of a name (`reporting.formatting.label`).
            caption, notes: as in `Table`.
        """
        row_keys = [rows] if isinstance(rows, str) else list(rows)
        column_keys = [columns] if isinstance(columns, str) else list(columns)
        cells: dict[tuple[Any, ...], dict[tuple[Any, ...], list[float]]] = {}  # block, row names → heading → values
        for record in frame.iter_rows(named=True):
            names = (record[block] if block else "", *(record[key] for key in row_keys))
            heading = tuple(record[key] for key in column_keys)
            cells.setdefault(names, {}).setdefault(heading, []).append(record[value])
        blocks = list(dict.fromkeys(names[0] for names in cells))
        headings = frame.select(column_keys).unique(maintain_order=True).rows()
        groups = list(dict.fromkeys(heading[0] for heading in headings))
        headings.sort(key=lambda h: (groups.index(h[0]) if len(h) > 1 else 0, rank_in(h[-1], column_order)))
        table_columns = [Column(key, labels(key), format="text") for key in row_keys]
        for heading in headings:
            group = labels(heading[0]) if len(heading) > 1 else ""
            table_columns.append(Column(_key(heading), labels(heading[-1]), group, better, digits=digits))
        table_rows = []
        for names in sorted(cells, key=lambda names: (blocks.index(names[0]), rank_in(names[1], row_order))):
            texts: dict[str, Value] = {key: labels(name) for key, name in zip(row_keys, names[1:], strict=True)}
            measures = {_key(heading): Measure.of(values) for heading, values in cells[names].items()}
            table_rows.append(Row({**texts, **measures}, labels(names[0]) if block else "", accent in names[1:]))
        return cls(name, table_columns, table_rows, caption, notes)

    def to_html(self) -> str:
        """Return the table as an HTML `<table>` element; the page of a report has its style."""

        def cell(column: Column, width: int, row: Row, rank: Mapping[str, int]) -> dict[str, Any]:
            main, spread, marks = printed(row.cells.get(column.key), column)
            kind = "n" if column.format != "text" else "long" if self._is_long(column) else ""
            if width > 1 or (_is_words(row.cells.get(column.key)) and column.format != "text"):
                kind = "said"
            rank_of = rank.get(column.key, 0)
            return {"main": main, "spread": spread, "marks": marks, "rank": rank_of, "width": width, "kind": kind}

        blocks = [
            (block, [(row, [cell(*span, row, rank) for span in self._spans(row)]) for row, rank in rows])
            for block, rows in self._blocks()
        ]
        return template("table.html.j2").render(table=self, groups=self._groups(), blocks=blocks)

    def to_latex(self) -> str:
        r"""Return the table as a LaTeX `table` with booktabs rules; the document needs `\usepackage{booktabs}`."""
        text_specs = {True: r"p{0.3\linewidth}", False: "l"}
        spec = "".join(text_specs[self._is_long(column)] if column.format == "text" else "r" for column in self.columns)
        lines = [r"\begin{table}", r"\centering"]
        lines += [rf"\caption{{{latex_escape(self.caption)}}}"] if self.caption else []
        lines += [rf"\label{{tab:{self.name}}}", rf"\begin{{tabular}}{{{spec}}}", r"\toprule"]
        if any(column.group for column in self.columns):
            cells, rules, start = [], [], 1
            for group, width in self._groups():
                if group:
                    cells.append(rf"\multicolumn{{{width}}}{{c}}{{{latex_escape(group)}}}")
                    rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
                else:
                    cells.append(" & " * (width - 1))
                start += width
            lines += [" & ".join(cells).strip() + r" \\", " ".join(rules)]
        lines.append(" & ".join(latex_escape(column.title) for column in self.columns) + r" \\")
        for block, rows in self._blocks():
            lines.append(r"\midrule")
            if block:
                lines.append(rf"\multicolumn{{{len(self.columns)}}}{{l}}{{\textit{{{latex_escape(block)}}}}} \\")
            for row, rank in rows:
                lines.append(" & ".join(self._latex_cell(*span, row, rank) for span in self._spans(row)) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        if self.notes:
            notes = (re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", latex_escape(note)) for note in self.notes)
            lines.append(r"\\[2pt] \footnotesize " + r" \\ ".join(notes))
        return "\n".join([*lines, r"\end{table}", ""])

    def to_markdown(self) -> str:
        """Return the table as Markdown; the best value is bold, the second in italics (Markdown has no underline)."""
        heads = [f"{column.group} {column.title}".strip() for column in self.columns]
        lines = [f"**{_markdown(self.caption)}**", ""] if self.caption else []
        lines += [_pipes(heads), _pipes(["---" if c.format == "text" else "---:" for c in self.columns])]
        for block, rows in self._blocks():
            if block:
                lines.append(_pipes([f"*{_markdown(block)}*", *[""] * (len(self.columns) - 1)]))
            for row, rank in rows:
                cells = []
                for column in self.columns:
                    main, spread, marks = map(_markdown, printed(row.cells.get(column.key), column))
                    main = {1: f"**{main}**", 2: f"*{main}*"}.get(rank.get(column.key, 0), main)
                    cells.append(main + (f" ± {spread}" if spread else "") + marks)
                lines.append(_pipes(cells))
        lines += [part for note in self.notes for part in ("", re.sub(r"^\* ", r"\\* ", note))]
        return "\n".join([*lines, ""])

    def to_frame(self) -> pl.DataFrame:
        """Return the table as a frame with values at full precision.

        If needed, a column has further columns `… sd` (standard deviation) and `… note` (marks, or a text as value).
        """
        import polars as pl

        series: list[pl.Series] = []
        counts: Counter[str] = Counter()

        def add(name: str, values: Sequence[Any], kind: Any = pl.String) -> None:
            counts[name] += 1  # a repeated name gets a number
            series.append(pl.Series(name if counts[name] == 1 else f"{name} {counts[name]}", values, kind))

        if any(row.block for row in self.rows):
            add("block", [row.block for row in self.rows])
        for column in self.columns:
            name = f"{column.group} {column.title}".strip()
            values = [row.cells.get(column.key) for row in self.rows]
            if column.format == "text":
                add(name, [None if value is None else text_of(value, column) for value in values])
                continue
            add(name, [_number(value) for value in values], pl.Float64)
            spread = [value.sd if isinstance(value, Measure) else None for value in values]
            if any(sd is not None for sd in spread):
                add(f"{name} sd", spread, pl.Float64)
            notes = [(v.marks or None) if isinstance(v, Measure) else v if isinstance(v, str) else None for v in values]
            if any(notes):
                add(f"{name} note", notes)
        return pl.DataFrame(series)

    def to_csv(self) -> str:
        """Return the text of a CSV file with the rows of `to_frame`."""
        return self.to_frame().write_csv()

    def to_rich(self) -> RichTable:
        """Return the table as an object of rich, to be printed in a terminal."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, title=self.caption or None, title_justify="left", title_style="bold")
        for column in self.columns:
            heading = f"{column.group}\n{column.title}" if column.group else column.title
            table.add_column(heading, justify="left" if column.format == "text" else "right", no_wrap=True)
        for block, rows in self._blocks():
            if block:
                table.add_row(Text(block, style="italic"))
            for row, rank in rows:
                cells = []
                for column in self.columns:
                    main, spread, marks = printed(row.cells.get(column.key), column)
                    style = {1: "bold", 2: "underline"}.get(rank.get(column.key, 0), "")
                    cell = Text(main, style=style)
                    cell.append(f" ± {spread}" if spread else "", style="dim not bold not underline")
                    cells.append(cell.append(marks))
                table.add_row(*cells, style="dim" if row.muted else "")
            table.add_section()
        table.caption, table.caption_justify = "\n".join(self.notes).replace("**", "") or None, "left"
        return table

    def _groups(self) -> list[tuple[str, int]]:
        """Return the groups of adjacent columns: the heading ("" for none) and the number of columns."""
        return [(group, len(list(columns))) for group, columns in groupby(self.columns, key=lambda c: c.group)]

    def _is_long(self, column: Column) -> bool:
        """Return whether a column has a text of more than `LONG` characters, so that its texts wrap."""
        return column.format == "text" and any(len(str(row.cells.get(column.key) or "")) > LONG for row in self.rows)

    def _blocks(self) -> Iterator[tuple[str, list[tuple[Row, dict[str, int]]]]]:
        """Yield each block as (heading, rows); each row is a pair of the row and its ranks.

        The ranks are column key → 1 (best) or 2 (second best of the block), at the printed precision.
        """
        for block, group in groupby(self.rows, key=lambda row: row.block):
            rows = [(row, dict[str, int]()) for row in group]
            for column in self.columns:
                if column.better is None:
                    continue
                numbers = [None if row.muted else _number(row.cells.get(column.key)) for row, _ in rows]
                rounded = [None if n is None or math.isnan(n) else round(n, column.digits) for n in numbers]
                if len(rounded) - rounded.count(None) < 2:
                    continue  # a single value is not ranked
                best = sorted({n for n in rounded if n is not None}, reverse=column.better == "higher")[:2]
                for (_, ranks), number in zip(rows, rounded, strict=True):
                    if number in best:
                        ranks[column.key] = best.index(number) + 1
            yield block, rows

    def _spans(self, row: Row) -> Iterator[tuple[Column, int]]:
        """Yield a row's cells as (column, width): equal words in adjacent columns of numbers become one wide cell."""

        def words(column: Column) -> str | int:
            value = row.cells.get(column.key)
            return str(value) if _is_words(value) and column.better else id(column)

        for _, columns in groupby(self.columns, key=words):
            first, *others = columns
            yield first, 1 + len(others)

    def _latex_cell(self, column: Column, width: int, row: Row, rank: Mapping[str, int]) -> str:
        value = row.cells.get(column.key)
        main, spread, marks = printed(value, column)
        if width > 1:
            return rf"\multicolumn{{{width}}}{{c}}{{\textit{{{latex_escape(main)}}}}}"
        if value is None or isinstance(value, str) or column.format not in ("number", "percent"):
            return latex_escape(main)
        main = main.replace("−", "-").replace(NARROW, "").replace("%", r"\%")
        main = {1: rf"\mathbf{{{main}}}", 2: rf"\underline{{{main}}}"}.get(rank.get(column.key, 0), main)
        main += rf"{{\scriptstyle\,\pm\,{spread}}}" if spread else ""
        # the mark has zero width, so that digits stay aligned
        return f"${main}$" + (rf"\rlap{{$^{{{_latex_marks(marks)}}}$}}" if marks else "")


def latex_escape(text: str) -> str:
    """Return a text with LaTeX commands for the characters that LaTeX does not print as they are."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{"–": "--", "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "→": r"$\to$", "≥": r"$\geq$", "≤": r"$\leq$"},
    **{"λ": r"$\lambda$", "α": r"$\alpha$", "τ": r"$\tau$", "θ": r"$\theta$", "†": r"$\dagger$", NARROW: r"\,"},
    "\N{NO-BREAK SPACE}": "~",
}


def _latex_marks(marks: str) -> str:
    return marks.replace("†", r"\dagger").replace("‡", r"\ddagger")


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<>])", r"\\\1", text).replace(NARROW, "\N{NO-BREAK SPACE}")


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: Value) -> float | None:
    if isinstance(value, Measure):
        return value.mean
    return None if value is None or isinstance(value, str) else float(value)


def _is_words(value: Value) -> bool:
    return isinstance(value, str) and value[:1].isalpha()


def _key(heading: Sequence[Any]) -> str:
    return " ".join(str(part) for part in heading)
