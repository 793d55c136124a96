"""Charts of numbers: lines over numbers or steps, labeled at their right ends, and points with a name beside each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lirdrec.reporting.figure import ACCENT, GROUND, RED, Figure, Style, style, styles
from lirdrec.reporting.formatting import label
from lirdrec.reporting.panels import MEAN, RUNS, SD, Panels, equals, names_of, summarize, write_right

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

Side = Literal["left", "right", "center"]
# positions of a name beside its point, the preferred first: alignment, and lines of text upwards
SIDES: tuple[tuple[Side, float], ...] = (
    *(("left", 0), ("right", 0), ("center", 1.1), ("center", -1.1)),
    *(("left", 0.8), ("right", 0.8), ("left", -0.8), ("right", -0.8)),
    *(("left", 1.6), ("right", 1.6), ("left", -1.6), ("right", -1.6)),
)
GAPS: dict[Side, float] = {"left": 6, "right": -6, "center": 0}  # distance of the name in points


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
    """Line chart: each line has its name at its right end and a band of ± one sd over the runs.

    Args:
        frame: tidy rows; null and NaN values are skipped; name: stem of the figure's files.
        x, y: columns of the axes. A text column x is drawn as equal steps in order of appearance.
        series, panel: columns with a line, and a panel, for each value.
        accent: the series in the accent color, drawn on top.
        x_label, y_label: default: the columns' names; log_x, log_y: use logarithmic axes.
        points: mark each value; default: lines with at most 12 values; caption: see Figure.
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
    """Write the names of lines at their right ends (x, y, name), moved apart where they would overlap."""
    from matplotlib.figure import Figure as Drawing

    low, high = map(math.log10, axes.get_ylim()) if log else axes.get_ylim()
    subplot, drawing = axes.get_subplotspec(), axes.figure
    assert subplot is not None and isinstance(drawing, Drawing)  # no panel is in a subfigure
    inches = drawing.get_size_inches()[1] / subplot.get_gridspec().nrows
    step = (high - low) * 0.135 / max(0.5, inches - 0.85)  # one line of small type
    ordered = sorted(ends, key=lambda end: end[1])
    wanted = [math.log10(y) if log and y > 0 else y for _, y, _ in ordered]
    for (_, _, name), height in zip(ordered, spread_apart(wanted, step), strict=True):
        color = line_styles[name].color
        write_right(axes, 10**height if log else height, label(name), 5, color, name == accent)
    axes.set_ylim(*((10**low, 10**high) if log else (low, high)))
    left, right = axes.get_xlim()
    axes.set_xlim(left, max((x for x, _, _ in ends), default=right) if axes.get_xscale() == "linear" else right)


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


def points(
    frame: pl.DataFrame,
    name: str,
    x: str,
    y: str,
    series: str,
    *,
    panel: str | None = None,
    accent: Any = ACCENT,
    x_label: str | None = None,
    y_label: str | None = None,
    log_x: bool = False,
    caption: str = "",
) -> Figure:
    """Scatter plot of two values, one named point per series at the means over the runs: accuracy against cost.

    Args:
        frame, name, panel, accent, caption: as in `lines`.
        x, y: columns of the values; series: column of the names.
        x_label, y_label: default: the columns' names.
        log_x: logarithmic x-axis.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    across = summarize(frame, [panel, series], x).rename({MEAN: x, SD: f"{x} sd", RUNS: RUNS})
    up = summarize(frame, [panel, series], y).rename({MEAN: y, SD: f"{y} sd"}).drop(RUNS)
    on = [key for key in (panel, series) if key]
    data = across.join(up, on=on, how="inner", maintain_order="left")
    with style():
        names = names_of(data, series)
        crowded = len(names) > 8
        panels = Panels(data, panel, columns=1 if crowded else 2, row_height=3.4 if crowded else None)
        point_styles = styles(names, accent)
        for axes, part in panels:
            if log_x:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.xaxis.set_minor_locator(NullLocator())
                if max(part[x]) < 50 * min(part[x]):
                    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.grid(True, axis="x")
            axes.margins(x=0.12, y=0.12)
            for record in part.iter_rows(named=True):
                point_style, size = point_styles[record[series]], 7 if record[series] == accent else 6
                marker, color = point_style.marker, point_style.color
                axes.plot(record[x], record[y], marker, color=color, markersize=size, zorder=3)
        panels.name_axes(x, x_label, y, y_label)
        panels.drawing.draw_without_rendering()  # fixes the positions of the points
        for axes, part in panels:
            _name_points(axes, part, x, y, series, point_styles, accent)
    return Figure(name, panels.drawing, data, caption)


def _name_points(
    axes: Axes,
    part: pl.DataFrame,
    x: str,
    y: str,
    series: str,
    point_styles: dict[Any, Style],
    accent: Any,
) -> None:
    """Write names beside points: each where it covers the least of other names and points, the accent first."""
    inch = axes.figure.dpi
    tall, wide, gap = 10 / 72 * inch, 5.2 / 72 * inch, 6 / 72 * inch
    records = sorted(part.iter_rows(named=True), key=lambda record: record[series] != accent)
    positions = [axes.transData.transform((record[x], record[y])) for record in records]
    frame = axes.get_window_extent()
    occupied: list[tuple[float, ...]] = [(a - gap / 2, b - gap / 2, a + gap / 2, b + gap / 2) for a, b in positions]
    for record, (a, b) in zip(records, positions, strict=True):
        name = record[series]
        width = wide * len(label(name))
        spots: list[tuple[float, tuple[float, ...], Side, float]] = []
        for rank, (side, up) in enumerate(SIDES):
            left = {"left": a + gap, "right": a - gap - width, "center": a - width / 2}[side]
            box = (left, b + up * tall - tall / 2, left + width, b + up * tall + tall / 2)
            hidden = sum(_overlap(box, other) for other in occupied)
            outside = max(0.0, frame.x0 - box[0]) + max(0.0, box[2] - frame.x1 - 0.2 * inch)
            outside += max(0.0, frame.y0 - box[1]) + max(0.0, box[3] - frame.y1)
            spots.append((hidden + outside * tall + rank * 0.01 * tall * wide, box, side, up))
        _, chosen, aligned, above = min(spots, key=lambda spot: spot[0])
        occupied.append(chosen)
        axes.annotate(
            label(name),
            (record[x], record[y]),
            (GAPS[aligned], above * 10),
            textcoords="offset points",
            ha=aligned,
            va="center",
            fontsize=8,
            color=point_styles[name].color,
            fontweight="bold" if name == accent else "normal",
        )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Area that two boxes (left, low, right, high) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
