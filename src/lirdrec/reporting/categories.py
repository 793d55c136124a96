"""Charts over categories: grouped bars, dots in named rows with the value at the right, and heat maps of a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError
from lirdrec.reporting.figure import ACCENT, GRAY, INK, RED, RULE, Figure, style, styles
from lirdrec.reporting.formatting import label
from lirdrec.reporting.panels import MEAN, SD, Panels, equals, names_of, rank_in, summarize, write_right
from lirdrec.reporting.statistics import Measure

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

SIZES = {"o": 6}  # marker → size; others are a little smaller
DIGITS = 4  # decimals of the written values


def bars(
    frame: pl.DataFrame,
    name: str,
    x: str,
    y: str = "value",
    *,
    series: str,
    panel: str | None = None,
    accent: Any = ACCENT,
    y_label: str | None = None,
    caption: str = "",
) -> Figure:
    """Grouped bar chart with error bars of ± one sd; values are written above the bars where there is room.

    Args:
        frame, name, panel, accent, y_label, caption: as in `lines`.
        x: column of the groups; series: column of the bars in a group.
    """
    data = summarize(frame, [panel, x, series], y)
    with style():
        groups, names = names_of(data, x), names_of(data, series)
        bar_styles = styles(names, accent)
        panels = Panels(data, panel, columns=2 if len(groups) > 4 else 3)
        width = 0.8 / len(names)
        are_written = len(groups) * len(names) <= 12 / len(panels) + 4
        for axes, part in panels:
            for index, bar in enumerate(names):
                rows = part.filter(equals(series, bar))
                shift = (index - (len(names) - 1) / 2) * width
                positions = [groups.index(group) + shift for group in rows[x]]
                axes.bar(
                    positions,
                    rows[MEAN].to_list(),
                    width * 0.92,
                    color=bar_styles[bar].color,
                    zorder=3,
                    label=label(bar),
                )
                _draw_spread(axes, positions, rows, are_written)
            _name_groups(axes, [label(group) for group in groups], 60 / min(len(panels), 2))
            axes.margins(y=0.12)
            if min(part[MEAN], default=0) >= 0:
                axes.set_ylim(bottom=0)
            else:
                axes.axhline(0, color=GRAY, linewidth=0.8, zorder=2)
        panels.name_axes(x, "", y, y_label)
        if len(names) > 1:
            panels.legend(len(names))
    return Figure(name, panels.drawing, data, caption)


def _draw_spread(axes: Axes, positions: Sequence[float], rows: pl.DataFrame, are_written: bool) -> None:
    """Draw error bars of ± one sd, and write the means beyond them where there is room."""
    for position, mean, sd in zip(positions, rows[MEAN].to_list(), rows[SD].to_list(), strict=True):
        if sd:
            axes.plot([position] * 2, [mean - sd, mean + sd], color=INK, linewidth=1, zorder=5, solid_capstyle="butt")
        if are_written:
            axes.annotate(
                f"{mean:.3f}",
                (position, mean + (sd or 0) if mean >= 0 else mean - (sd or 0)),
                (0, 3 if mean >= 0 else -3),
                textcoords="offset points",
                ha="center",
                va="bottom" if mean >= 0 else "top",
                fontsize=7.5,
                color=GRAY,
            )


def _name_groups(axes: Axes, texts: Sequence[str], room: float) -> None:
    """Write the groups' names below the axis, rotated where they need more than `room` letters."""
    axes.set_xticks(range(len(texts)), texts)
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    if max(map(len, texts)) * len(texts) > room:
        axes.tick_params(axis="x", rotation=35)
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")
            tick.set_rotation_mode("anchor")
    axes.set_xlim(-0.6, len(texts) - 0.4)


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
    """Dot plot: one row per name, a dot at the mean, an error bar of ± one sd, the value at the right.

    Args:
        frame, name, panel, x_label, caption: as in `lines`; accent: the row in the accent color.
        rows: column of the rows' names; value: of the values.
        row_order: names from the top; the rows that it does not list follow by descending mean.
        low, high: columns with the ends of the error bars (a confidence interval) instead of ± sd; one row per dot.
        reference: vertical line, such as 0.
    """
    if (low is None) != (high is None):
        raise ConfigError("dots needs both ends of the error bars, low and high, or neither")
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
    """Format a panel of `len(names)` rows; a panel at the left has their names."""
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


def heatmap(
    frame: pl.DataFrame,
    name: str,
    x: str,
    y: str,
    value: str = "value",
    *,
    panel: str | None = None,
    x_label: str | None = None,
    y_label: str | None = None,
    caption: str = "",
) -> Figure:
    """Heat map over a grid of two settings: each cell shows its mean; the highest of a panel is framed.

    Args:
        frame, name, panel, x_label, y_label, caption: as in `lines`.
        x, y: columns of the grid's columns and rows: numbers ascending, texts in order of appearance, y from the top.
        value: column of the values.
    """
    from matplotlib.colors import LinearSegmentedColormap

    data = summarize(frame, [panel, y, x], value)
    with style():
        shades = LinearSegmentedColormap.from_list("shades", ["#f3f7fa", "#a9cbe4", "#4c93c7", "#0b5a96", "#083a63"])
        across, down = _grid(data, x), _grid(data, y)
        height = 0.36 * len(down) + 0.85
        panels = Panels(data, panel, row_height=height, columns=1 if len(across) > 6 else 2, grid=False)
        for axes, part in panels:
            cells = {
                (down.index(record[y]), across.index(record[x])): record[MEAN] for record in part.iter_rows(named=True)
            }
            _draw_cells(axes, cells, shades)
            axes.set_xlim(-0.5, len(across) - 0.5)
            axes.set_ylim(len(down) - 0.5, -0.5)
            axes.set_xticks(range(len(across)), [_short(name) for name in across])
            axes.set_yticks(range(len(down)), [_short(name) for name in down])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        panels.name_axes(x, x_label, y, y_label)
    return Figure(name, panels.drawing, data, caption)


def _draw_cells(axes: Axes, cells: Mapping[tuple[int, int], float], shades: Callable[[float], Any]) -> None:
    """Shade and label the cells of a panel, (row, column) → value; frame the highest."""
    from matplotlib.patches import Rectangle

    least, most = min(cells.values()), max(cells.values())
    for (row, column), value in sorted(cells.items()):
        share = (value - least) / (most - least) if most > least else 0.5
        corner = (column - 0.48, row - 0.48)
        axes.add_patch(Rectangle(corner, 0.96, 0.96, facecolor=shades(share), edgecolor="none", linewidth=0, zorder=1))
        axes.text(
            column,
            row,
            f"{value:.4f}",
            ha="center",
            va="center",
            fontsize=8,
            color="#fefefe" if share > 0.5 else "#10202e",
            fontweight="bold" if value == most else "normal",
        )
    for (row, column), value in cells.items():
        if value == most and len(cells) > 1:
            corner = (column - 0.465, row - 0.465)
            axes.add_patch(Rectangle(corner, 0.93, 0.93, facecolor="none", edgecolor=RED, linewidth=1.8, zorder=2))


def _grid(data: pl.DataFrame, column: str) -> list[Any]:
    names = names_of(data, column)
    return sorted(names) if data[column].dtype.is_numeric() else names


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return label(value)
    return f"{value:g}" if value == 0 or abs(value) >= 0.01 else f"{value:.0e}".replace("e-0", "e-")
