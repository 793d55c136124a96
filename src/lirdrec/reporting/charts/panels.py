"""The frame of every chart: an axes for each value of `panel`, small multiples that share their axes' meaning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lirdrec.reporting.charts.chart_data import names_of, where
from lirdrec.reporting.figure import WIDTH, empty

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Panels:
    """An empty figure with axes for each value of the column `panel`, and the rows that belong there.

    Attributes:
        drawing: the matplotlib figure.
        parts: axes and rows of each panel.
        columns: panels side by side.
        labels: how to print names.
    """

    drawing: Drawing
    parts: list[tuple[Axes, pl.DataFrame]]
    columns: int
    labels: Callable[[Any], str]

    def __iter__(self) -> Iterator[tuple[Axes, pl.DataFrame]]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    @classmethod
    def of(
        cls,
        data: pl.DataFrame,
        panel: str | None,
        labels: Callable[[Any], str],
        *,
        share_y: bool = False,
        names_right: int = 0,
        row_height: float | None = None,
        columns: int = 3,
        names_left: bool = False,
        grid: bool = True,
    ) -> Panels:
        """Lay out the panels.

        Args:
            data: the rows of all panels; panel: the column that tells them apart, None: one panel.
            labels: how to print names.
            share_y: the same y-axis in all panels.
            names_right: names to be written one below the other at the right.
            row_height: in inches, of a row of panels.
            columns: at most so many panels side by side.
            names_left: the y-axis holds names: no lines across, and a single panel is narrower.
            grid: draw lines across.
        """
        parts = [(None, data)] if panel is None else [(v, data.filter(where(panel, v))) for v in names_of(data, panel)]
        columns = min(2 if names_right else columns, len(parts))
        rows = math.ceil(len(parts) / columns)
        height = row_height or max(3.1 if columns == 1 else 2.7, 0.8 + 0.15 * names_right)
        drawing = empty(WIDTH if columns > 1 or not names_left else 5.4, height * rows)
        made = []
        shared = None
        for place, (one, part) in enumerate(parts):
            axes = drawing.add_subplot(rows, columns, place + 1, sharey=shared)
            shared = axes if share_y else None
            if one is not None:
                axes.set_title(labels(one))
            if grid and not names_left:
                axes.grid(True, axis="y")
                axes.spines["left"].set_visible(False)
            made.append((axes, part))
        return cls(drawing, made, columns, labels)

    def left(self) -> list[Axes]:
        """The first panel of each row."""
        return [axes for axes, _ in self.parts[:: self.columns]]

    def name_x(self, column: str, text: str | None) -> None:
        """Name the x-axis of each panel: `text`, or the column that it shows."""
        for axes, _ in self:
            axes.set_xlabel(self.labels(column) if text is None else text)

    def name_y(self, column: str, text: str | None) -> None:
        """Name the y-axis once a row of panels: `text`, or the column that it shows."""
        text = self.labels(column) if text is None else text
        for axes in self.left():
            axes.set_ylabel(text)
            if len(text) < 3:  # a symbol stands upright
                axes.yaxis.label.set(rotation=0, verticalalignment="center")

    def legend(self, names: int) -> None:
        """Explain the colours of so many names above the panels."""
        handles, texts = self.parts[0][0].get_legend_handles_labels()
        self.drawing.legend(handles, texts, loc="outside upper left", ncols=min(names, 6), frameon=False)


def write_right(axes: Axes, height: float, text: str, gap: float, colour: str, bold: bool) -> None:
    """A text right of the axes at a height of the y-axis, `gap` points away."""
    axes.annotate(
        text,
        (1.0, height),
        (gap, 0),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=colour,
        fontweight="bold" if bold else "normal",
        annotation_clip=False,
    )
