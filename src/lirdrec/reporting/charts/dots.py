"""Dot plots: one row per name, with error bars and the value at the right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError
from lirdrec.reporting.charts.panels import MEAN, SD, Panels, equals, names_of, rank_in, summarize, write_right
from lirdrec.reporting.figure import ACCENT, GRAY, INK, RED, RULE, Figure, style, styles
from lirdrec.reporting.formatting import label
from lirdrec.reporting.statistics import Measure

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

SIZES = {"o": 6}  # marker → size; others are a little smaller
DIGITS = 4  # decimals of the written values


def dots(
    frame: pl.DataFrame,
    name: str,
    rows: str,
    value: str = "value",
    *,
    panel: str | None = None,
    accent: Any = ACCENT,
    row_order: Sequence[Any] = (),
    low: str | None = None,
    high: str | None = None,
    reference: float | None = None,
    x_label: str | None = None,
    caption: str = "",
) -> Figure:
    """Return a dot plot: for each name a row with a dot at its mean, an error bar, and the mean as text at the right.

    Means and error bars (± one standard deviation, sd) are over the runs.

    Args:
        frame: one or more rows for each dot, for instance one for each seed.
        name: name of the figure and of its files.
        rows: column with the names of the rows of the plot.
        value: column with the values.
        panel: column whose values each get a panel; None: one panel.
        accent: the name whose row has the accent color.
        row_order: names from the top; the rows that it does not list follow by descending mean.
        low, high: columns with the ends of the error bars (a confidence interval) instead of ± sd; then `frame` has
            exactly one row for each dot.
        reference: value at which a vertical line is drawn, such as 0.
        x_label: text below the axis; None: the name of the column `value`.
        caption: text below the figure.
    """
    if (low is None) != (high is None):
        raise ConfigError("dots: give both ends of the error bars, low and high, or neither")
    data = summarize(frame, [panel, rows], value, also=[column for column in (low, high) if column])
    with style():
        names = _ordered_rows(data, rows, row_order)
        dot_styles = styles(names, accent)
        panels = Panels(data, panel, row_height=max(1.4, len(names) * 0.27 + 0.75), names_left=True)
        for axes, part in panels:
            for record in part.iter_rows(named=True):
                row, mean, sd = record[rows], record[MEAN], record[SD] or 0.0
                height, dot = names.index(row), dot_styles[row]
                ends = (record[low], record[high]) if low and high else (mean - sd, mean + sd)
                axes.plot(ends, [height] * 2, color=dot.color, linewidth=1.8, alpha=0.55, zorder=3)
                axes.plot(mean, height, dot.marker, color=dot.color, markersize=SIZES.get(dot.marker, 5.2), zorder=4)
                text = f"{mean:.{DIGITS}f}".replace("-", "−")
                write_right(axes, height, text, 4, dot.color if row == accent else GRAY, row == accent)
            _name_rows(axes, names, axes in panels.left, accent, reference)
        panels.name_axes(value, x_label)
    return Figure(name, panels.drawing, data, caption)


def _ordered_rows(data: pl.DataFrame, rows: str, row_order: Sequence[Any]) -> list[Any]:
    measures = {row: Measure.of(data.filter(equals(rows, row))[MEAN]) for row in names_of(data, rows)}
    means = {row: measure.mean if measure else -math.inf for row, measure in measures.items()}
    return sorted(means, key=lambda row: (rank_in(row, row_order), -means[row]))


def _name_rows(axes: Axes, names: Sequence[Any], is_left: bool, accent: Any, reference: float | None) -> None:
    """Format the axes of a panel with a row for each name, and draw the reference line; a left panel shows names."""
    if reference is not None:
        axes.axvline(reference, color=GRAY, linewidth=0.9, zorder=2)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [label(row) for row in names] if is_left else [])
    for tick, row in zip(axes.get_yticklabels(), names, strict=False):
        if row == accent:
            tick.set_color(RED)
            tick.set_fontweight("bold")
        else:
            tick.set_color(INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="y", color=RULE, linewidth=0.6, linestyle=(0, (1, 2)))
    axes.grid(True, axis="x", color=RULE, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=5)
