"""Heat maps: values over a grid of two settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lirdrec.reporting.charts.panels import MEAN, Panels, names_of, summarize
from lirdrec.reporting.figure import RED, Figure, style
from lirdrec.reporting.formatting import label

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes


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
    """Return a heat map over a grid of two settings: each cell shows the mean of its runs.

    In each panel the cell with the highest mean has a frame.

    Args:
        frame, name, panel, x_label, y_label, caption: as in `lines`.
        x, y: columns of `frame` for the horizontal and the vertical axis. Numbers are sorted, texts keep their order of
            appearance; y starts at the top.
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
    """Draw the cells of a panel, given as (row, column) → value: color, text, and a frame for the highest value."""
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
