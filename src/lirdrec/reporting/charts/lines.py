"""Line charts over numbers or category steps; each line is labeled at its right end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lirdrec.reporting.charts.panels import MEAN, SD, Panels, equals, names_of, summarize, write_right
from lirdrec.reporting.figure import ACCENT, GROUND, RED, Figure, Style, style, styles
from lirdrec.reporting.formatting import label

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes


def lines(
    frame: pl.DataFrame,
    name: str,
    x: str,
    y: str = "value",
    series: str | None = None,
    *,
    panel: str | None = None,
    accent: Any = ACCENT,
    x_label: str | None = None,
    y_label: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    points: bool | None = None,
    caption: str = "",
) -> Figure:
    """Return a line chart of means over the runs, with names at the right and bands of ± one standard deviation (sd).

    Args:
        frame: one value per row; rows without a finite value are skipped. Runs have equal x, series and panel.
        name: name of the figure's files, without their ending.
        x, y: columns of the axes. A text column x is drawn as equal steps in order of appearance.
        series: column with a line for each value; None: one line.
        panel: column with a panel for each value; None: one panel.
        accent: the series in the accent color, drawn on top.
        x_label, y_label: labels of the axes; None: the columns' names.
        log_x, log_y: use logarithmic axes.
        points: mark each value; None: only on lines with at most 12 values.
        caption: text below the figure.
    """
    from matplotlib.ticker import MaxNLocator

    data = summarize(frame, [panel, series, x], y)
    with style():
        names = names_of(data, series)
        panels = Panels(data, panel, names_right=len(names) if series else 0)
        line_styles = styles(names, accent)
        for axes, part in panels:
            ends = []
            numeric = part[x].dtype.is_numeric()
            steps = [] if numeric else part[x].unique(maintain_order=True).to_list()
            for line in names_of(part, series):
                rows = part if series is None else part.filter(equals(series, line))
                rows = rows.sort(x) if numeric else rows
                positions = rows[x].to_list() if numeric else [steps.index(value) for value in rows[x]]
                line_style = line_styles[line] if series else Style(RED)
                marked = points if points is not None else len(positions) <= 12
                _draw_line(axes, positions, rows, line_style, marked, line == accent)
                ends += [(positions[-1], rows[MEAN][-1], line)] if positions else []
            axes.set_yscale("log" if log_y else axes.get_yscale())
            axes.set_xscale("log" if log_x else axes.get_xscale())
            if steps:
                axes.set_xticks(range(len(steps)), [label(step) for step in steps])
            elif part[x].dtype.is_integer() and not log_x:
                axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if series:
                _end_labels(axes, ends, line_styles, accent, log_y)
        panels.name_axes(x, x_label, y, y_label)
    return Figure(name, panels.drawing, data, caption)


def _draw_line(
    axes: Axes, positions: Sequence[float], rows: pl.DataFrame, line_style: Style, marked: bool, bold: bool
) -> None:
    """Draw a line at the means of `rows`, with a band of ± one sd."""
    means, sds = rows[MEAN].to_list(), rows[SD].to_list()
    axes.plot(
        positions,
        means,
        color=line_style.color,
        linestyle=line_style.dash,
        linewidth=2.2 if bold else 1.5,
        marker=line_style.marker if marked else "",
        markersize=4.5,
        markeredgecolor=GROUND,
        markeredgewidth=0.6,
        clip_on=False,
        zorder=4 if bold else 3,
    )
    if any(sd is not None for sd in sds):
        low = [mean - (sd or 0) for mean, sd in zip(means, sds, strict=True)]
        high = [mean + (sd or 0) for mean, sd in zip(means, sds, strict=True)]
        axes.fill_between(positions, low, high, color=line_style.color, alpha=0.13, linewidth=0, zorder=2)


def _end_labels(
    axes: Axes,
    ends: Sequence[tuple[float, float, Any]],
    line_styles: Mapping[Any, Style],
    accent: Any,
    log: bool,
) -> None:
    """Write each line's name to the right of the axes, at the height of its end; overlapping names are moved apart.

    `ends` has (x, y, name) for each line.
    """
    from matplotlib.figure import Figure as Drawing

    low, high = map(math.log10, axes.get_ylim()) if log else axes.get_ylim()
    subplot, drawing = axes.get_subplotspec(), axes.figure
    assert subplot is not None and isinstance(drawing, Drawing)  # no panel is in a subfigure
    inches = drawing.get_size_inches()[1] / subplot.get_gridspec().nrows
    step = (high - low) * 0.135 / max(0.5, inches - 0.85)  # the height of one line of small text
    ordered = sorted(ends, key=lambda end: end[1])
    wanted = [math.log10(y) if log and y > 0 else y for _, y, _ in ordered]
    for (_, _, name), height in zip(ordered, spread_apart(wanted, step), strict=True):
        color = line_styles[name].color
        write_right(axes, 10**height if log else height, label(name), 5, color, name == accent)
    axes.set_ylim(*((10**low, 10**high) if log else (low, high)))
    left, right = axes.get_xlim()
    axes.set_xlim(left, max((x for x, _, _ in ends), default=right) if axes.get_xscale() == "linear" else right)


def spread_apart(wanted: Sequence[float], step: float) -> list[float]:
    """Return positions that are at least `step` apart and as near as possible to `wanted` (least squares).

    `wanted` and the result are ascending.
    """
    groups: list[tuple[float, int]] = []  # (center, members); the members are `step` apart around the center
    for position in wanted:
        center, members = position, 1
        while groups and center - (members - 1) / 2 * step - (groups[-1][0] + (groups[-1][1] - 1) / 2 * step) < step:
            before, count = groups.pop()
            center, members = (before * count + center * members) / (count + members), count + members
        groups.append((center, members))
    return [center + (index - (members - 1) / 2) * step for center, members in groups for index in range(members)]
