"""Panel layout of charts (small multiples), and the data preparation that charts share.

Rows with the same keys (x, series, panel …) are repeated runs, for instance with other seeds: charts show their mean
and, for two or more runs, their standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError
from lirdrec.reporting.figure import WIDTH, empty
from lirdrec.reporting.formatting import label

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

MEAN, SD, RUNS = "mean", "sd", "runs"


def summarize(frame: pl.DataFrame, keys: Sequence[str | None], value: str, also: Sequence[str] = ()) -> pl.DataFrame:
    """Return a row for each combination of the keys, in order of appearance: mean, standard deviation, number of runs.

    Rows of the frame with the same keys are runs. Rows without a finite value are left out. The columns in `also` are
    averaged over the runs, too.

    Raises:
        ConfigError: the frame lacks a column, or has no finite value.
    """
    import polars as pl

    names = list(dict.fromkeys(key for key in keys if key is not None))
    for name in [*names, value, *also]:
        if name not in frame.columns:
            raise ConfigError(f"nothing to draw: the frame has no column '{name}'; it has {', '.join(frame.columns)}")
    kept = frame.filter(pl.col(value).is_not_null() & pl.col(value).cast(pl.Float64).is_finite())
    if not kept.height:
        raise ConfigError(f"nothing to draw: the column '{value}' has no finite values")
    number = pl.col(value).cast(pl.Float64)
    return kept.group_by(names, maintain_order=True).agg(
        number.mean().alias(MEAN), number.std().alias(SD), pl.len().alias(RUNS), *(pl.col(name).mean() for name in also)
    )


def names_of(data: pl.DataFrame, column: str | None) -> list[Any]:
    """Return the different values of a column in order of appearance; [None] if `column` is None."""
    return [None] if column is None else data[column].unique(maintain_order=True).to_list()


def rank_in(name: Any, order: Sequence[Any]) -> int:
    """Return the position of a name in `order`; `len(order)` if it is not in `order`, so that it sorts last."""
    return list(order).index(name) if name in order else len(order)


def equals(column: str, value: Any) -> pl.Expr:
    """Return a filter for the rows with this value in a column; for None, the rows with null."""
    import polars as pl

    return pl.col(column).is_null() if value is None else pl.col(column) == value


class Panels:
    """A figure with one panel for each value of a column; iterating gives the axes and the data rows of each panel.

    Args:
        data: the rows of all panels.
        panel: column with a panel for each value; None: one panel.
        names_right: number of names that are written at the right of each panel, one below the other.
        row_height: height of a row of panels in inches.
        columns: maximum number of panels side by side.
        names_left: the y-axis shows names: draw no horizontal lines, and make a single panel narrower.
        grid: draw horizontal lines.

    Attributes:
        drawing: the matplotlib figure.
        parts: axes and rows of each panel.
        left: the first axes of each row of panels.
    """

    def __init__(
        self,
        data: pl.DataFrame,
        panel: str | None,
        *,
        names_right: int = 0,
        row_height: float | None = None,
        columns: int = 3,
        names_left: bool = False,
        grid: bool = True,
    ):
        names = names_of(data, panel)
        columns = min(2 if names_right else columns, len(names))
        rows = math.ceil(len(names) / columns)
        height = row_height or max(3.1 if columns == 1 else 2.7, 0.8 + 0.15 * names_right)
        self.drawing = empty(WIDTH if columns > 1 or not names_left else 5.4, height * rows)
        self.parts: list[tuple[Axes, pl.DataFrame]] = []
        for number, name in enumerate(names, 1):
            axes = self.drawing.add_subplot(rows, columns, number)
            if name is not None:
                axes.set_title(label(name))
            if grid and not names_left:
                axes.grid(True, axis="y")
                axes.spines["left"].set_visible(False)
            self.parts.append((axes, data if panel is None else data.filter(equals(panel, name))))
        self.left = [axes for axes, _ in self.parts[::columns]]

    def __iter__(self) -> Iterator[tuple[Axes, pl.DataFrame]]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def name_axes(self, x: str, x_label: str | None, y: str | None = None, y_label: str | None = None) -> None:
        """Label the x-axis of each panel, and the y-axis of the first panel of each row.

        Args:
            x, y: columns of the axes; None: no label.
            x_label, y_label: the labels; None: the columns' names.
        """
        for axes, _ in self:
            axes.set_xlabel(label(x) if x_label is None else x_label)
        if y is None:
            return
        text = label(y) if y_label is None else y_label
        for axes in self.left:
            axes.set_ylabel(text)
            if len(text) < 3:  # symbols are not rotated
                axes.yaxis.label.set(rotation=0, verticalalignment="center")

    def legend(self, names: int) -> None:
        """Draw the legend above the panels; it has `names` entries, taken from the first panel."""
        handles, texts = self.parts[0][0].get_legend_handles_labels()
        self.drawing.legend(handles, texts, loc="outside upper left", ncols=min(names, 6), frameon=False)


def write_right(axes: Axes, height: float, text: str, gap: float, color: str, bold: bool) -> None:
    """Write a text `gap` points to the right of the axes, at the value `height` of the y-axis."""
    axes.annotate(
        text,
        (1.0, height),
        (gap, 0),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=color,
        fontweight="bold" if bold else "normal",
        annotation_clip=False,
    )
