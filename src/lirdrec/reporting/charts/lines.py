"""Line charts over numbers or category steps; each line is labeled at its right end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lirdrec.reporting.charts.panels import MEAN, SD, Panels, equals, names_of, summarize, write_right
from lirdrec.reporting.figure import ACCENT, GROUND, RED, Figure, Style, style, styles
from lirdrec.reporting.formatting import label

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes


class _LineEnd(NamedTuple):
    """Last point of a line, and the label to write there."""

    x: float
    y: float
    text: str
    color: str
    bold: bool


def lines(
    frame: pl.DataFrame,
    name: str,
    x: str,
    y: str = "value",
    series: str | None = None,
    *,
    panel: str | None = None,
    accent: Any = ACCENT,
    order: Sequence[Any] = (),
    x_label: str | None = None,
    y_label: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    points: bool | None = None,
    share_y: bool = False,
    labels: Callable[[Any], str] = label,
    caption: str = "",
    alt: str = "",
) -> Figure:
    """Line chart: each line has its name at its right end and a band of ± one sd over the runs.

    Args:
        frame: tidy rows; null and NaN values are skipped.
        name: stem of the figure's files.
        x, y: columns of the axes. A text column x is drawn as equal steps in order of appearance.
        series, panel: columns with a line, and a panel, for each value.
        accent: the series in the accent color, drawn on top.
        order: order of the series.
        x_label, y_label: default: the columns' names; log_x, log_y: use logarithmic axes.
        points: mark each value; default: lines with at most 12 values.
        share_y: use the same y-axis in all panels.
        labels: how to print names; caption, alt: see Figure.
    """
    data = summarize(frame, [panel, series, x], y)
    names = names_of(data, series, order)
    with style():
        panels = Panels(data, panel, labels, share_y=share_y, names_right=len(names) if series else 0)
        line_styles = styles(names, accent)
        for axes, part in panels:
            ends = []
            steps = _steps(part, x)
            for line in names_of(part, series, order):
                rows = part if series is None else part.filter(equals(series, line))
                rows = rows if steps else rows.sort(x)
                positions = [steps.index(value) for value in rows[x]] if steps else rows[x].to_list()
                line_style = line_styles[line] if series else Style(RED)
                marked = points if points is not None else len(positions) <= 12
                _draw_line(axes, positions, rows, line_style, marked, line == accent)
                if positions:
                    last = rows[MEAN].to_list()[-1]
                    ends.append(_LineEnd(positions[-1], last, labels(line), line_style.color, line == accent))
            if log_y:
                axes.set_yscale("log")
            _set_x_axis(axes, [labels(step) for step in steps], log_x, part[x].dtype.is_integer())
            if series:
                _end_labels(axes, ends, log_y)
        panels.name_axes(x, x_label, y, y_label)
    return Figure(name, panels.drawing, data, caption, alt)


def _set_x_axis(axes: Axes, steps: Sequence[str], log: bool, integers: bool) -> None:
    if log:
        axes.set_xscale("log")
    if steps:
        axes.set_xticks(range(len(steps)), steps)
    elif integers and not log:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


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


def _end_labels(axes: Axes, ends: Sequence[_LineEnd], log: bool) -> None:
    """Write the names at the right ends of the lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    if log:
        low, high = math.log10(low), math.log10(high)
    from matplotlib.figure import Figure as Drawing

    subplot, drawing = axes.get_subplotspec(), axes.figure
    assert subplot is not None and isinstance(drawing, Drawing)  # no panel is in a subfigure
    inches = drawing.get_size_inches()[1] / subplot.get_gridspec().nrows
    step = (high - low) * 0.135 / max(0.5, inches - 0.85)  # one line of small type
    ordered = sorted(ends, key=lambda end: end.y)
    wanted = [math.log10(end.y) if log and end.y > 0 else end.y for end in ordered]
    for end, height in zip(ordered, spread_apart(wanted, step), strict=True):
        write_right(axes, 10**height if log else height, end.text, 5, end.color, end.bold)
    axes.set_ylim(*((10**low, 10**high) if log else (low, high)))
    left, right = axes.get_xlim()
    axes.set_xlim(left, max((end.x for end in ends), default=right) if axes.get_xscale() == "linear" else right)


def spread_apart(wanted: Sequence[float], step: float) -> list[float]:
    """Positions at least `step` apart, as near as possible (least squares) to the wanted ones; both ascending."""
    groups: list[tuple[float, int]] = []  # (center, members); the members are `step` apart around the center
    for position in wanted:
        center, members = position, 1
        while groups and center - (members - 1) / 2 * step - (groups[-1][0] + (groups[-1][1] - 1) / 2 * step) < step:
            before, count = groups.pop()
            center, members = (before * count + center * members) / (count + members), count + members
        groups.append((center, members))
    return [center + (at - (members - 1) / 2) * step for center, members in groups for at in range(members)]


def _steps(part: pl.DataFrame, x: str) -> list[Any]:
    """The categories of a text axis in order; empty for numbers."""
    return [] if part[x].dtype.is_numeric() else part[x].unique(maintain_order=True).to_list()
