r"""A table that knows what its figures mean: best bold, second underlined, spread beside the mean.

One `Table` is written as HTML, LaTeX (booktabs), Markdown, text for the terminal (rich) and data (CSV, Parquet). Values
are ranked at the printed precision: what reads the same is a tie, and both are best.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError
from lirdrec.reporting.formatting import NARROW, Better, Column, Value, label, printed, text_of
from lirdrec.reporting.statistics import Measure

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table as RichTable

LONG = 40  # letters: a column with longer texts is broken into lines


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: column key → value. A text in a column of figures ("out of memory") is printed as it is.
        block: heading over neighbouring rows of the same block; figures are ranked within a block.
        accent: the model that the report is about.
        muted: set apart, as figures published by others; not ranked.
    """

    cells: Mapping[str, Value]
    block: str = ""
    accent: bool = False
    muted: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows; `name` is the stem of its files.

    Attributes:
        caption: one sentence above the table (a LaTeX caption, too).
        notes: lines below it, such as what the marks mean.
    """

    name: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""
    notes: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        keys = {column.key for column in self.columns}
        for row in self.rows:
            if unknown := set(row.cells) - keys:
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
        """Mean ± sd of a tidy frame: all rows of the frame with the same row and column keys are runs of one cell.

        Args:
            frame: such as `results.where(stage="test").frame()`.
            rows: columns of the frame that name a row; each becomes a text column.
            columns: one column of the frame (the headings), or two (group, heading).
            value: the column with the figures.
            block: a column of the frame whose values head blocks of rows, each ranked by itself.
            better, digits: of every column.
            accent: rows with this value in one of `rows` are the report's own.
            row_order, column_order: values of the first of `rows` and the last of `columns` in the order to print;
                values that are not named come after, as they appear in the frame.
            labels: how to print names (`reporting.formatting.label`).
            caption, notes: see Table.
        """
        row_keys = [rows] if isinstance(rows, str) else list(rows)
        column_keys = [columns] if isinstance(columns, str) else list(columns)
        cells: dict[tuple[Any, ...], dict[tuple[Any, ...], list[float]]] = {}
        headings: dict[tuple[Any, ...], None] = {}
        for record in frame.iter_rows(named=True):
            at = ((record[block] if block else ""), *(record[key] for key in row_keys))
            heading = tuple(record[key] for key in column_keys)
            headings.setdefault(heading)
            cells.setdefault(at, {}).setdefault(heading, []).append(record[value])
        blocks = list(dict.fromkeys(at[0] for at in cells))
        first_groups = list(dict.fromkeys(heading[0] for heading in headings))
        ordered = sorted(
            headings, key=lambda h: (first_groups.index(h[0]) if len(h) > 1 else 0, _at(h[-1], column_order))
        )
        made = [Column(key, labels(key), format="text") for key in row_keys]
        for heading in ordered:
            group = labels(heading[0]) if len(heading) > 1 else ""
            made.append(Column(_key(heading), labels(heading[-1]), group, better, digits=digits))
        lines = []
        for at in sorted(cells, key=lambda at: (blocks.index(at[0]), _at(at[1], row_order))):
            texts: dict[str, Value] = {key: labels(name) for key, name in zip(row_keys, at[1:], strict=True)}
            figures = {_key(heading): Measure.of(values) for heading, values in cells[at].items()}
            lines.append(Row({**texts, **figures}, labels(at[0]) if block else "", accent=accent in at[1:]))
        return cls(name, made, lines, caption, notes)

    # ------------------------------------------------------------------------------------------------------- formats

    def to_html(self) -> str:
        """A `<table>` of its own, styled by the report's page."""
        lines = ["<table>"]
        if self.caption:
            lines.append(f"<caption><span>{html.escape(self.caption)}</span></caption>")
        lines.append("<thead>")
        if any(column.group for column in self.columns):
            spans = "".join(
                f'<th colspan="{width}" scope="colgroup" class="group">{html.escape(group)}</th>'
                if group
                else f'<td colspan="{width}"></td>'
                for group, width in self._groups()
            )
            lines.append(f"<tr>{spans}</tr>")
        heads = "".join(f'<th scope="col"{_html_class(_kind(c))}>{html.escape(c.title)}</th>' for c in self.columns)
        lines += [f"<tr>{heads}</tr>", "</thead>"]
        for block, rows in self._blocks():
            lines.append("<tbody>")
            if block:
                span = f'colspan="{len(self.columns)}" scope="rowgroup"'
                lines.append(f'<tr class="block"><th {span}>{html.escape(block)}</th></tr>')
            ranks = self._ranks(rows)
            for row, rank in zip(rows, ranks, strict=True):
                name = "accent" if row.accent else "muted" if row.muted else ""
                cells = "".join(self._html_cell(*span, row, rank) for span in self._spans(row))
                lines.append(f"<tr{_html_class(name)}>{cells}</tr>")
            lines.append("</tbody>")
        return "\n".join([*lines, "</table>"])

    def to_latex(self) -> str:
        r"""A `table` with booktabs rules; needs `\usepackage{booktabs}`."""
        texts = {True: r"p{0.3\linewidth}", False: "l"}
        spec = "".join(texts[self._is_long(column)] if column.format == "text" else "r" for column in self.columns)
        lines = [r"\begin{table}", r"\centering"]
        if self.caption:
            lines.append(rf"\caption{{{latex_escape(self.caption)}}}")
        lines += [rf"\label{{tab:{self.name}}}", rf"\begin{{tabular}}{{{spec}}}", r"\toprule"]
        if any(column.group for column in self.columns):
            cells, rules, at = [], [], 1
            for group, width in self._groups():
                cells.append(
                    rf"\multicolumn{{{width}}}{{c}}{{{latex_escape(group)}}}" if group else " & " * (width - 1)
                )
                if group:
                    rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
                at += width
            lines += [" & ".join(cells).strip() + r" \\", " ".join(rules)]
        lines.append(" & ".join(latex_escape(column.title) for column in self.columns) + r" \\")
        for block, rows in self._blocks():
            lines.append(r"\midrule")
            if block:
                lines.append(rf"\multicolumn{{{len(self.columns)}}}{{l}}{{\textit{{{latex_escape(block)}}}}} \\")
            for row, rank in zip(rows, self._ranks(rows), strict=True):
                lines.append(" & ".join(self._latex_cell(*span, row, rank) for span in self._spans(row)) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        if self.notes:
            notes = (re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", latex_escape(note)) for note in self.notes)
            lines.append(r"\\[2pt] \footnotesize " + r" \\ ".join(notes))
        return "\n".join([*lines, r"\end{table}", ""])

    def to_markdown(self) -> str:
        """A pipe table: the best bold, the second in italics (Markdown does not underline)."""
        heads = [f"{column.group} {column.title}".strip() for column in self.columns]
        lines = [f"**{_markdown(self.caption)}**", ""] if self.caption else []
        lines += [_pipes(heads), _pipes(["---" if c.format == "text" else "---:" for c in self.columns])]
        for block, rows in self._blocks():
            if block:
                lines.append(_pipes([f"*{_markdown(block)}*", *[""] * (len(self.columns) - 1)]))
            for row, rank in zip(rows, self._ranks(rows), strict=True):
                cells = []
                for column in self.columns:
                    main, spread, marks = (_markdown(part) for part in printed(row.cells.get(column.key), column))
                    main = {1: f"**{main}**", 2: f"*{main}*"}.get(rank.get(column.key, 0), main)
                    cells.append(main + (f" ± {spread}" if spread else "") + marks)
                lines.append(_pipes(cells))
        lines += [part for note in self.notes for part in ("", note)]
        return "\n".join([*lines, ""])

    def to_frame(self) -> pl.DataFrame:
        """The figures at full precision: a column for each of the table's; `… sd` and `… note` where there are any."""
        import polars as pl

        series: list[pl.Series] = []
        if any(row.block for row in self.rows):
            series.append(pl.Series("block", [row.block for row in self.rows]))
        for column in self.columns:
            name = f"{column.group} {column.title}".strip()
            values = [row.cells.get(column.key) for row in self.rows]
            if column.format == "text":
                series.append(pl.Series(name, [None if v is None else text_of(v, column) for v in values], pl.String))
                continue
            series.append(pl.Series(name, [_number(value) for value in values], pl.Float64))
            spread = [value.sd if isinstance(value, Measure) else None for value in values]
            if any(sd is not None for sd in spread):
                series.append(pl.Series(f"{name} sd", spread, pl.Float64))
            notes = [(v.marks or None) if isinstance(v, Measure) else v if isinstance(v, str) else None for v in values]
            if any(notes):
                series.append(pl.Series(f"{name} note", notes, pl.String))
        return pl.DataFrame(_unique(series))

    def to_csv(self) -> str:
        """`to_frame` as CSV."""
        return self.to_frame().write_csv()

    def to_rich(self) -> RichTable:
        """The table for the terminal."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        made = RichTable(box=box.SIMPLE_HEAD, title=self.caption or None, title_justify="left", title_style="bold")
        for column in self.columns:
            heading = f"{column.group}\n{column.title}" if column.group else column.title
            made.add_column(heading, justify="left" if column.format == "text" else "right", no_wrap=True)
        for block, rows in self._blocks():
            if block:
                made.add_row(Text(block, style="italic"))
            for row, rank in zip(rows, self._ranks(rows), strict=True):
                cells = []
                for column in self.columns:
                    main, spread, marks = printed(row.cells.get(column.key), column)
                    style = {1: "bold", 2: "underline"}.get(rank.get(column.key, 0), "")
                    cell = Text(main, style=style)
                    cell.append(f" ± {spread}" if spread else "", style="dim not bold not underline")
                    cells.append(cell.append(marks))
                made.add_row(*cells, style="dim" if row.muted else "")
            made.add_section()
        made.caption, made.caption_justify = "\n".join(self.notes).replace("**", "") or None, "left"
        return made

    # ------------------------------------------------------------------------------------------------------- pieces

    def _groups(self) -> list[tuple[str, int]]:
        return [(group, len(list(columns))) for group, columns in groupby(self.columns, key=lambda c: c.group)]

    def _is_long(self, column: Column) -> bool:
        """Whether it is a column of texts that have to be broken into lines."""
        return column.format == "text" and any(len(str(one.cells.get(column.key) or "")) > LONG for one in self.rows)

    def _blocks(self) -> Iterator[tuple[str, list[Row]]]:
        for block, rows in groupby(self.rows, key=lambda row: row.block):
            yield block, list(rows)

    def _ranks(self, rows: Sequence[Row]) -> list[dict[str, int]]:
        """For each row: column key → 1 (best) or 2 (second), at the printed precision."""
        ranks: list[dict[str, int]] = [{} for _ in rows]
        for column in self.columns:
            if column.better is None:
                continue
            values = [None if row.muted else _number(row.cells.get(column.key)) for row in rows]
            rounded = [None if v is None or math.isnan(v) else round(v, column.digits) for v in values]
            present = sorted({v for v in rounded if v is not None}, reverse=column.better == "higher")
            if len([v for v in rounded if v is not None]) < 2:
                continue  # one figure alone is not the best of anything
            for rank, value in zip(ranks, rounded, strict=True):
                if value is not None and value in present[:2]:
                    rank[column.key] = present.index(value) + 1
        return ranks

    def _spans(self, row: Row) -> Iterator[tuple[Column, int]]:
        """The row's columns and how many each cell takes: the same words in neighbouring columns of figures are one."""

        def words(column: Column) -> str | int:
            value = row.cells.get(column.key)
            return str(value) if _is_words(value) and column.better else id(column)

        for _, columns in groupby(self.columns, key=words):
            first, *others = columns
            yield first, 1 + len(others)

    def _html_cell(self, column: Column, width: int, row: Row, rank: Mapping[str, int]) -> str:
        value = row.cells.get(column.key)
        main, spread, marks = (html.escape(part) for part in printed(value, column))
        place = rank.get(column.key, 0)
        main = f"<b>{main}</b>" if place == 1 else f"<u>{main}</u>" if place == 2 else main
        if spread:
            main += f" <small>±{NARROW}{spread}</small>"
        if marks:
            main += f"<sup>{marks}</sup>"
        if column is self.columns[0]:
            return f'<th scope="row">{main}</th>'
        if width > 1:
            return f'<td colspan="{width}" class="said">{main}</td>'
        if _is_words(value) and column.format != "text":
            return f'<td class="said">{main}</td>'
        return f"<td{_html_class('long' if self._is_long(column) else _kind(column))}>{main}</td>"

    def _latex_cell(self, column: Column, width: int, row: Row, rank: Mapping[str, int]) -> str:
        value = row.cells.get(column.key)
        main, spread, marks = printed(value, column)
        if width > 1:
            return rf"\multicolumn{{{width}}}{{c}}{{\textit{{{latex_escape(main)}}}}}"
        if value is None or isinstance(value, str) or column.format not in ("number", "percent"):
            return latex_escape(main)
        place = rank.get(column.key, 0)
        main = main.replace("−", "-").replace(NARROW, "").replace("%", r"\%")
        main = rf"\mathbf{{{main}}}" if place == 1 else rf"\underline{{{main}}}" if place == 2 else main
        main += rf"{{\scriptstyle\,\pm\,{spread}}}" if spread else ""
        # the mark takes no width, so that digits stay below each other
        return f"${main}$" + (rf"\rlap{{$^{{{_latex_marks(marks)}}}$}}" if marks else "")


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it stands."""
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


def _kind(column: Column) -> str:
    return "" if column.format == "text" else "n"


def _html_class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _key(heading: Sequence[Any]) -> str:
    return " ".join(str(part) for part in heading)


def _at(name: Any, order: Sequence[Any]) -> int:
    return list(order).index(name) if name in order else len(order)


def _unique(series: Sequence[pl.Series]) -> list[pl.Series]:
    """The columns with a number behind the names that were there before."""
    seen: dict[str, int] = {}
    made = []
    for column in series:
        seen[column.name] = seen.get(column.name, 0) + 1
        made.append(column if seen[column.name] == 1 else column.alias(f"{column.name} {seen[column.name]}"))
    return made
