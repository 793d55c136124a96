"""Scatter plots with a name beside each point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from lirdrec.reporting.charts.panels import MEAN, RUNS, SD, Panels, names_of, summarize
from lirdrec.reporting.figure import ACCENT, Figure, Style, style, styles
from lirdrec.reporting.formatting import label

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

Side = Literal["left", "right", "center"]
# positions of a name beside its point, the best first: (alignment, shift upwards in lines of text)
SIDES: tuple[tuple[Side, float], ...] = (
    *(("left", 0), ("right", 0), ("center", 1.1), ("center", -1.1)),
    *(("left", 0.8), ("right", 0.8), ("left", -0.8), ("right", -0.8)),
    *(("left", 1.6), ("right", 1.6), ("left", -1.6), ("right", -1.6)),
)
GAPS: dict[Side, float] = {"left": 6, "right": -6, "center": 0}  # distance of the name in points


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
    """Return a scatter plot of two values, such as accuracy and cost: a named point for each value of `series`.

    A point is at the means over the runs.

    Args:
        frame, name, panel, accent, caption: as in `lines`.
        x, y: columns of the two values.
        series: column of the names.
        x_label, y_label: labels of the axes; None: the columns' names.
        log_x: use a logarithmic x-axis.
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
    """Write a name beside each point, on the side where it covers least of other names and points; accent first."""
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
    """Return the area that two boxes (left, low, right, high) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
