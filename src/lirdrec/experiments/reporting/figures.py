"""Figures of one style: white ground, few lines, names written beside what they name, one colour a model everywhere.

Every function takes a tidy polars frame. Rows that agree in all that is drawn (x, series, panel …) are runs: their mean
is drawn, with a band or whisker of one standard deviation where there are two or more. `panel` makes small multiples
that share their axes' meaning. The result is a `Figure`, written as SVG and PNG together with the drawn numbers as CSV.

Colours belong to names, not to places: FREEDOM is the same blue in every figure of every report, and what the report is
about (`accent`, LIRDRec unless said otherwise) has the one warm red. More names than colours: lines get dashes, too.
The colours are near Okabe and Ito's, distinguishable with any colour vision; `html` swaps them for lighter ones on a
dark page.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError
from lirdrec.experiments.reporting.names import label
from lirdrec.experiments.reporting.statistics import Measure

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

ACCENT = "lirdrec"
INK, GREY, RULE, GROUND = "#1c2530", "#5d6875", "#d9dee4", "#ffffff"
RED = "#c8401a"
COLOURS = ("#0b6bb0", "#00805f", "#a3508a", "#b07400", "#3d9bd1", "#6c5bb5", "#7a8794")
DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.6)), (0, (1.2, 1.4)))
MARKERS = ("o", "s", "D")
# place of known models among colours × dashes, the ones most often shown together first
PLACES = (
    *("freedom", "lattice", "bm3", "vbpr", "lightgcn", "lgmrec", "popularity"),
    *("slmrec", "micro", "grcn", "ease", "mf", "item_knn", "random", "content_knn", "cease", "add_ease"),
)
WIDTH = 7.2  # inches, of a whole figure
MEAN, SD, RUNS = "mean", "sd", "runs"


@dataclass(frozen=True)
class Style:
    """How a name is drawn."""

    colour: str
    dash: Any = "solid"
    marker: str = "o"


@dataclass(frozen=True, eq=False)
class Figure:
    """A drawing with the numbers in it.

    Attributes:
        name: stem of its files.
        drawing: the matplotlib figure.
        data: what is drawn, means and spreads; None: not written.
        caption: one or two sentences below it.
        alt: what it shows, for those who cannot see it; default the caption.
    """

    name: str
    drawing: Drawing
    data: pl.DataFrame | None = None
    caption: str = ""
    alt: str = ""

    def image(self, kind: str = "svg") -> bytes:
        """The drawing as "svg", "png" or "pdf"; the same drawing gives the same bytes."""
        buffer = io.BytesIO()
        nothing: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with style():
            if self.drawing.get_layout_engine() is not None:
                # laid out once: every further draw would move things a little
                self.drawing.draw_without_rendering()
                self.drawing.set_layout_engine(None)
            self.drawing.savefig(buffer, format=kind, metadata=nothing, dpi=200)
        return buffer.getvalue()


def styles(names: Sequence[Any], accent: Any = ACCENT) -> dict[Any, Style]:
    """A style for each name: `accent` red, known models their own, others what is left, in order."""
    free = [Style(c, d, m) for d, m in zip(DASHES, MARKERS, strict=True) for c in COLOURS]
    known = {name: free[place] for place, name in enumerate(PLACES)}
    made = {name: Style(RED) if name == accent else known[name] for name in names if name == accent or name in known}
    left = [one for one in free if one not in made.values()]
    for name in names:
        if name not in made:
            made[name] = left.pop(0) if left else Style(GREY, "dotted")
    return made


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
    """Lines over a number, each with its name at its end and a band of ± one sd over the runs.

    Args:
        frame: tidy rows; None and NaN are left out.
        name: stem of the figure's files.
        x, y: columns of the axes. A text column x is drawn as equal steps in order of appearance.
        series: column whose values are the lines.
        panel: column whose values get a panel each.
        accent: the series that has the accent colour and lies on top.
        order: of the series.
        x_label, y_label: default the columns' names.
        log_x, log_y: logarithmic axes.
        points: mark each value; default: where a line has 12 or fewer.
        share_y: the same y-axis in all panels.
        labels: how to print names.
        caption, alt: see Figure.
    """
    data = summarised(frame, [panel, series, x], y)
    names = _names(data, series, order)
    with style():
        drawing, panels = _panels(data, panel, labels, share_y=share_y, names_right=len(names) if series else 0)
        looks = styles(names, accent)
        for axes, part in panels:
            ends = []
            ticks = _steps(part, x)
            for one in _names(part, series, order):
                rows = part if series is None else part.filter(_is(series, one))
                rows = rows if ticks else rows.sort(x)
                across = [ticks.index(v) for v in rows[x]] if ticks else rows[x].to_list()
                means, spread = rows[MEAN].to_list(), rows[SD].to_list()
                look = looks[one] if series else Style(RED)
                top = one == accent
                marked = points if points is not None else len(across) <= 12
                axes.plot(
                    across,
                    means,
                    color=look.colour,
                    linestyle=look.dash,
                    linewidth=2.2 if top else 1.5,
                    marker=look.marker if marked else "",
                    markersize=4.5,
                    markeredgecolor=GROUND,
                    markeredgewidth=0.6,
                    clip_on=False,
                    zorder=4 if top else 3,
                )
                if any(sd is not None for sd in spread):
                    low = [m - (sd or 0) for m, sd in zip(means, spread, strict=True)]
                    high = [m + (sd or 0) for m, sd in zip(means, spread, strict=True)]
                    axes.fill_between(across, low, high, color=look.colour, alpha=0.13, linewidth=0, zorder=2)
                if across:
                    ends.append((means[-1], across[-1], labels(one), look.colour, top))
            if log_x:
                axes.set_xscale("log")
            if log_y:
                axes.set_yscale("log")
            if ticks:
                axes.set_xticks(range(len(ticks)), [labels(tick) for tick in ticks])
            elif not log_x and part[x].dtype.is_integer():
                from matplotlib.ticker import MaxNLocator

                axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlabel(labels(x) if x_label is None else x_label)
            if series:
                _end_labels(axes, ends, log_y)
        _left_label(panels, labels(y) if y_label is None else y_label)
    return Figure(name, drawing, data, caption, alt)


def bars(
    frame: pl.DataFrame,
    name: str,
    x: str,
    y: str = "value",
    series: str | None = None,
    *,
    panel: str | None = None,
    accent: Any = ACCENT,
    order: Sequence[Any] = (),
    x_order: Sequence[Any] = (),
    x_label: str = "",
    y_label: str | None = None,
    digits: int = 3,
    from_zero: bool = True,
    labels: Callable[[Any], str] = label,
    caption: str = "",
    alt: str = "",
) -> Figure:
    """Grouped bars with whiskers of ± one sd; values are written above where there is room.

    Args:
        frame, name, panel, accent, order, labels, caption, alt: as in `lines`.
        x: column of the groups; series: column of the bars in a group. Without series a bar a group, coloured by x.
        x_order: of the groups.
        digits: of the values above the bars.
        from_zero: the axis begins at 0 (bars are compared by length); False only for differences of either sign.
    """
    data = summarised(frame, [panel, x, series], y)
    with style():
        groups = _names(data, x, x_order)
        names = _names(data, series, order) if series else groups
        looks = styles(names, accent)
        legend = series is not None and len(names) > 1
        drawing, panels = _panels(data, panel, labels, share_y=False, columns=2 if len(groups) > 4 else 3)
        for axes, part in panels:
            count = len(names) if series else 1
            width = 0.8 / count
            for place, one in enumerate(names):
                rows = part.filter(_is(series or x, one))
                at = [groups.index(g) + (place - (count - 1) / 2) * width * bool(series) for g in rows[x]]
                means, spread = rows[MEAN].to_list(), rows[SD].to_list()
                axes.bar(at, means, width * 0.92, color=looks[one].colour, zorder=3, label=labels(one))
                for a, m, sd in zip(at, means, spread, strict=True):
                    if sd:
                        axes.plot([a, a], [m - sd, m + sd], color=INK, linewidth=1, zorder=5, solid_capstyle="butt")
                    if len(groups) * count <= 12 / len(panels) + 4:
                        tip = (m + (sd or 0)) if m >= 0 else (m - (sd or 0))
                        axes.annotate(
                            f"{m:.{digits}f}",
                            (a, tip),
                            (0, 3 if m >= 0 else -3),
                            textcoords="offset points",
                            ha="center",
                            va="bottom" if m >= 0 else "top",
                            fontsize=7.5,
                            color=GREY,
                        )
            axes.set_xticks(range(len(groups)), [labels(group) for group in groups])
            axes.tick_params(axis="x", length=0, labelcolor=INK)
            if max(len(labels(group)) for group in groups) * len(groups) > 60 / min(len(panels), 2):
                axes.tick_params(axis="x", rotation=35)
                for tick in axes.get_xticklabels():
                    tick.set_horizontalalignment("right")
                    tick.set_rotation_mode("anchor")
            axes.set_xlim(-0.6, len(groups) - 0.4)
            axes.margins(y=0.12)
            if from_zero and min(part[MEAN], default=0) >= 0:
                axes.set_ylim(bottom=0)
            else:
                axes.axhline(0, color=GREY, linewidth=0.8, zorder=2)
            axes.set_xlabel(x_label)
        _left_label(panels, labels(y) if y_label is None else y_label)
        if legend:
            handles, texts = panels[0][0].get_legend_handles_labels()
            drawing.legend(handles, texts, loc="outside upper left", ncols=min(len(names), 6), frameon=False)
    return Figure(name, drawing, data, caption, alt)


def dots(
    frame: pl.DataFrame,
    name: str,
    rows: str,
    value: str = "value",
    series: str | None = None,
    *,
    panel: str | None = None,
    accent: Any = ACCENT,
    order: Sequence[Any] = (),
    row_order: Sequence[Any] = (),
    sort: bool = True,
    low: str | None = None,
    high: str | None = None,
    reference: float | None = None,
    x_label: str | None = None,
    digits: int = 4,
    labels: Callable[[Any], str] = label,
    caption: str = "",
    alt: str = "",
) -> Figure:
    """A row a name: a dot at its mean, a whisker of ± one sd, the figure written at the right.

    Args:
        frame, name, panel, order, labels, caption, alt: as in `lines`.
        rows: column of the names; value: column of the figures.
        series: column of the dots in a row (such as two sets of features); a dot each, in colours of their own.
        accent: the row (or series) in the accent colour.
        row_order: from the top; sort: where it says nothing, the rows with the greatest mean over all come first.
        low, high: columns with the ends of the whiskers (a confidence interval) instead of ± sd; give one row a dot.
        reference: a vertical line, such as 0 for differences.
        x_label: default the column's name.
        digits: of the written figures.
    """
    if (low is None) != (high is None):
        raise ConfigError("dots needs both ends of the whiskers, low and high, or neither")
    data = summarised(frame, [panel, rows, series], value, also=[one for one in (low, high) if one])
    with style():
        means = {one: Measure.of(data.filter(_is(rows, one))[MEAN]) for one in _names(data, rows, row_order)}
        tops = {one: measure.mean if measure else -math.inf for one, measure in means.items()}
        listed = list(row_order)
        names = sorted(tops, key=lambda one: (_index(one, listed), -tops[one] if sort else 0))
        kinds = _names(data, series, order) if series else []
        looks = styles(kinds if series else names, accent)
        height = len(names) * (0.27 if len(kinds) < 3 else 0.15 * len(kinds)) + 0.75
        drawing, panels = _panels(data, panel, labels, share_y=False, row_height=max(1.4, height), names_left=True)
        for place, (axes, part) in enumerate(panels):
            for kind in kinds or [None]:
                at, middle, ends = [], [], []
                for record in (part if kind is None else part.filter(_is(str(series), kind))).iter_rows(named=True):
                    shift = (
                        0.0
                        if kind is None
                        else (kinds.index(kind) - (len(kinds) - 1) / 2) * min(0.26, 0.7 / len(kinds))
                    )
                    at.append(names.index(record[rows]) + shift)
                    middle.append(record[MEAN])
                    sd = record[SD] or 0.0
                    ends.append((record[low], record[high]) if low and high else (record[MEAN] - sd, record[MEAN] + sd))
                    colour = looks[record[rows] if kind is None else kind].colour
                    axes.plot(ends[-1], [at[-1]] * 2, color=colour, linewidth=1.8, alpha=0.55, zorder=3)
                    marker = looks[record[rows] if kind is None else kind].marker
                    axes.plot(
                        middle[-1], at[-1], marker, color=colour, markersize=6 if marker == "o" else 5.2, zorder=4
                    )
                    if kind is None:
                        main = record[rows] == accent
                        axes.annotate(
                            f"{middle[-1]:.{digits}f}".replace("-", "−"),
                            (1.0, at[-1]),
                            (4, 0),
                            xycoords=axes.get_yaxis_transform(),
                            textcoords="offset points",
                            va="center",
                            fontsize=8,
                            color=colour if main else GREY,
                            fontweight="bold" if main else "normal",
                        )
                if kind is not None:
                    axes.plot([], [], "o", color=looks[kind].colour, markersize=6, label=labels(kind))
            if reference is not None:
                axes.axvline(reference, color=GREY, linewidth=0.9, zorder=2)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_yticks(range(len(names)), [labels(one) for one in names] if place % _columns(panels) == 0 else [])
            for tick, one in zip(axes.get_yticklabels(), names, strict=False):
                if one == accent:
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
            axes.set_xlabel(labels(value) if x_label is None else x_label)
        if len(kinds) > 1:
            handles, texts = panels[0][0].get_legend_handles_labels()
            drawing.legend(handles, texts, loc="outside upper left", ncols=min(len(kinds), 6), frameon=False)
    return Figure(name, drawing, data, caption, alt)


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
    labels: Callable[[Any], str] = label,
    caption: str = "",
    alt: str = "",
) -> Figure:
    """Two figures against each other, a named point each, at the means over the runs: such as accuracy against cost.

    Args:
        frame, name, panel, accent, labels, caption, alt: as in `lines`.
        x, y: columns of the figures; series: column of the names.
        x_label, y_label: default the columns' names.
        log_x: logarithmic x-axis.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    across = summarised(frame, [panel, series], x).rename({MEAN: x, SD: f"{x} sd", RUNS: RUNS})
    up = summarised(frame, [panel, series], y).rename({MEAN: y, SD: f"{y} sd"}).drop(RUNS)
    on = [key for key in (panel, series) if key]
    data = across.join(up, on=on, how="inner", maintain_order="left")
    with style():
        names = _names(data, series)
        crowd = len(names) > 8
        drawing, panels = _panels(
            data, panel, labels, share_y=False, columns=1 if crowd else 2, row_height=3.4 if crowd else None
        )
        looks = styles(names, accent)
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
                look, main = looks[record[series]], record[series] == accent
                axes.plot(record[x], record[y], look.marker, color=look.colour, markersize=7 if main else 6, zorder=3)
            axes.set_xlabel(labels(x) if x_label is None else x_label)
        _left_label(panels, labels(y) if y_label is None else y_label)
        drawing.draw_without_rendering()  # places are known from here on
        for axes, part in panels:
            _name_points(axes, part, x, y, series, looks, accent, labels)
    return Figure(name, drawing, data, caption, alt)


def heatmap(
    frame: pl.DataFrame,
    name: str,
    x: str,
    y: str,
    value: str = "value",
    *,
    panel: str | None = None,
    x_order: Sequence[Any] = (),
    y_order: Sequence[Any] = (),
    x_label: str | None = None,
    y_label: str | None = None,
    digits: int = 4,
    better: str | None = "higher",
    labels: Callable[[Any], str] = label,
    caption: str = "",
    alt: str = "",
) -> Figure:
    """A grid of two settings, each cell its mean in words and shade; the best cell of a panel is framed.

    Args:
        frame, name, panel, labels, caption, alt: as in `lines`.
        x, y: columns of the grid's columns and rows; value: column of the figures.
        x_order, y_order: default rising for numbers, as they appear for texts; y from the top.
        better: "higher", "lower" or None: whether the most or the least is the best, and the darkest.
    """
    from matplotlib.colors import LinearSegmentedColormap

    data = summarised(frame, [panel, y, x], value)
    with style():
        shades = LinearSegmentedColormap.from_list("shades", ["#f3f7fa", "#a9cbe4", "#4c93c7", "#0b5a96", "#083a63"])
        across, down = _grid(data, x, x_order), _grid(data, y, y_order)
        height = 0.36 * len(down) + 0.85
        drawing, panels = _panels(
            data, panel, labels, share_y=False, row_height=height, columns=1 if len(across) > 6 else 2, grid=False
        )
        for axes, part in panels:
            cells = {(record[y], record[x]): record[MEAN] for record in part.iter_rows(named=True)}
            present = list(cells.values())
            least, most = min(present), max(present)
            best = {"higher": most, "lower": least}.get(better or "")
            for row, a in enumerate(down):
                for column, b in enumerate(across):
                    figure = cells.get((a, b))
                    if figure is None:
                        continue
                    share = (figure - least) / (most - least) if most > least else 0.5
                    share = 1 - share if better == "lower" else share
                    _cell(axes, column, row, shades(share), 1)
                    axes.text(
                        column,
                        row,
                        f"{figure:.{digits}f}",
                        ha="center",
                        va="center",
                        fontsize=8,
                        color="#fefefe" if share > 0.5 else "#10202e",
                        fontweight="bold" if figure == best else "normal",
                    )
            for (a, b), figure in cells.items():
                if figure == best and len(present) > 1:
                    _cell(axes, across.index(b), down.index(a), "none", 2, RED)
            axes.set_xlim(-0.5, len(across) - 0.5)
            axes.set_ylim(len(down) - 0.5, -0.5)
            axes.set_xticks(range(len(across)), [_short(one, labels) for one in across])
            axes.set_yticks(range(len(down)), [_short(one, labels) for one in down])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set_xlabel(labels(x) if x_label is None else x_label)
        _left_label(panels, labels(y) if y_label is None else y_label)
    return Figure(name, drawing, data, caption, alt)


def drawn(
    name: str,
    draw: Callable[[Drawing], None],
    *,
    size: tuple[float, float] = (WIDTH, 3.0),
    data: pl.DataFrame | None = None,
    caption: str = "",
    alt: str = "",
) -> Figure:
    """A figure of your own in the style of the others: `draw` gets an empty matplotlib figure of `size` inches.

    Use `styles`, `INK`, `GREY` and `RULE` for colours, and no pyplot.
    """
    with style():
        drawing = _empty(*size)
        draw(drawing)
    return Figure(name, drawing, data, caption, alt)


def summarised(frame: pl.DataFrame, keys: Sequence[str | None], value: str, also: Sequence[str] = ()) -> pl.DataFrame:
    """Mean, sd and number of the runs for each combination of the keys, in order of appearance.

    Raises:
        ConfigError: the frame lacks a column, or has no figure at all.
    """
    import polars as pl

    names = list(dict.fromkeys(key for key in keys if key is not None))
    for name in [*names, value, *also]:
        if name not in frame.columns:
            raise ConfigError(f"nothing to draw: the frame has no column '{name}'; it has {', '.join(frame.columns)}")
    kept = frame.filter(pl.col(value).is_not_null() & pl.col(value).cast(pl.Float64).is_finite())
    if not kept.height:
        raise ConfigError(f"nothing to draw: the column '{value}' holds no figures")
    one = pl.col(value).cast(pl.Float64)
    return kept.group_by(names, maintain_order=True).agg(
        one.mean().alias(MEAN), one.std().alias(SD), pl.len().alias(RUNS), *(pl.col(name).mean() for name in also)
    )


@contextmanager
def style() -> Iterator[None]:
    """The one look of all figures, for code that draws with matplotlib directly."""
    import matplotlib

    settings: dict[str, Any] = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": GREY,
        "axes.labelsize": 8.5,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlecolor": INK,
        "axes.edgecolor": GREY,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "axes.facecolor": "none",
        "axes.formatter.useoffset": False,
        "figure.facecolor": GROUND,
        "grid.color": RULE,
        "grid.linewidth": 0.6,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "legend.fontsize": 8.5,
        "svg.fonttype": "none",  # letters stay letters: searchable, in the page's colours
        "svg.hashsalt": "lirdrec",
        "pdf.fonttype": 42,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own style is
        matplotlib.rcParams.update(settings)  # type: ignore[arg-type]  # its stubs know only literal names
        yield


# ------------------------------------------------------------------------------------------------------------- pieces


def _empty(width: float, height: float) -> Drawing:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    gaps = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05, wspace=0.04, hspace=0.06)
    drawing = Drawing(figsize=(width, height), layout=gaps)
    FigureCanvasAgg(drawing)
    return drawing


def _panels(
    data: pl.DataFrame,
    panel: str | None,
    labels: Callable[[Any], str],
    *,
    share_y: bool,
    names_right: int = 0,
    row_height: float | None = None,
    columns: int = 3,
    names_left: bool = False,
    grid: bool = True,
) -> tuple[Drawing, list[tuple[Axes, pl.DataFrame]]]:
    """An empty figure with axes for each value of `panel`, and the rows that belong there."""
    parts = [(None, data)] if panel is None else [(one, data.filter(_is(panel, one))) for one in _names(data, panel)]
    columns = min(2 if names_right else columns, len(parts))
    rows = math.ceil(len(parts) / columns)
    height = row_height or max(3.1 if columns == 1 else 2.7, 0.8 + 0.15 * names_right)
    drawing = _empty(WIDTH if columns > 1 or not names_left else 5.4, height * rows)
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
    return drawing, made


def _columns(panels: Sequence[Any]) -> int:
    return int(panels[0][0].get_subplotspec().get_gridspec().ncols)


def _left_label(panels: Sequence[tuple[Axes, Any]], text: str) -> None:
    """The y-axis is named once a row of panels."""
    for place, (axes, _) in enumerate(panels):
        if place % _columns(panels) == 0:
            axes.set_ylabel(text)
            if len(text) < 3:  # a symbol stands upright
                axes.yaxis.label.set(rotation=0, verticalalignment="center")


def _end_labels(axes: Axes, ends: list[tuple[float, float, str, str, bool]], log: bool) -> None:
    """Names at the right ends of the lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    if log:
        low, high = math.log10(low), math.log10(high)
    inches = axes.get_figure().get_size_inches()[1] / axes.get_subplotspec().get_gridspec().nrows  # type: ignore[union-attr]
    step = (high - low) * 0.135 / max(0.5, inches - 0.85)  # one line of small type
    ordered = sorted(ends, key=lambda end: end[0])
    wanted = [math.log10(end[0]) if log and end[0] > 0 else end[0] for end in ordered]
    for place, y in zip(_apart(wanted, step), range(len(ordered)), strict=True):
        value, across, text, colour, top = ordered[y]
        height = 10**place if log else place
        axes.annotate(
            text,
            (1.0, height),
            (5, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
            fontweight="bold" if top else "normal",
            annotation_clip=False,
        )
        del value, across
    axes.set_ylim(*((10**low, 10**high) if log else (low, high)))
    left, right = axes.get_xlim()
    axes.set_xlim(left, max((end[1] for end in ends), default=right) if axes.get_xscale() == "linear" else right)


def _apart(wanted: Sequence[float], step: float) -> list[float]:
    """Rising places as near as possible to the wanted ones (rising), at least `step` apart (least squares)."""
    groups: list[tuple[float, int]] = []  # (middle, members), members `step` apart around the middle
    for place in wanted:
        middle, members = place, 1
        while groups and middle - (members - 1) / 2 * step - (groups[-1][0] + (groups[-1][1] - 1) / 2 * step) < step:
            before, count = groups.pop()
            middle, members = (before * count + middle * members) / (count + members), count + members
        groups.append((middle, members))
    return [middle + (at - (members - 1) / 2) * step for middle, members in groups for at in range(members)]


def _name_points(
    axes: Axes,
    part: pl.DataFrame,
    x: str,
    y: str,
    series: str,
    looks: dict[Any, Style],
    accent: Any,
    labels: Callable[[Any], str],
) -> None:
    """Names beside points: each where it hides the least of the other names and points, the accent first."""
    inch = axes.get_figure().dpi  # type: ignore[union-attr]
    tall, wide, gap = 10 / 72 * inch, 5.2 / 72 * inch, 6 / 72 * inch
    records = sorted(part.iter_rows(named=True), key=lambda record: record[series] != accent)
    at = [axes.transData.transform((record[x], record[y])) for record in records]
    frame = axes.get_window_extent()
    taken = [(a - gap / 2, b - gap / 2, a + gap / 2, b + gap / 2) for a, b in at]
    for record, (a, b) in zip(records, at, strict=True):
        text = labels(record[series])
        width = wide * len(text)
        best: tuple[float, float, float, str] | None = None
        for rank, (side, up) in enumerate(
            [("left", 0), ("right", 0), ("center", 1.1), ("center", -1.1)]
            + [(side, up) for up in (0.8, -0.8, 1.6, -1.6) for side in ("left", "right")]
        ):
            left = {"left": a + gap, "right": a - gap - width, "center": a - width / 2}[side]
            box = (left, b + up * tall - tall / 2, left + width, b + up * tall + tall / 2)
            hidden = sum(_overlap(box, other) for other in taken)
            outside = max(0.0, frame.x0 - box[0]) + max(0.0, box[2] - frame.x1 - 0.2 * inch)
            outside += max(0.0, frame.y0 - box[1]) + max(0.0, box[3] - frame.y1)
            cost = hidden + outside * tall + rank * 0.01 * tall * wide
            if best is None or cost < best[0]:
                best = cost, up, 0.0, side
                chosen = box
        assert best is not None
        taken.append(chosen)
        side, sign = best[3], {"left": 6, "right": -6, "center": 0}[best[3]]
        axes.annotate(
            text,
            (record[x], record[y]),
            (sign, best[1] * 10),
            textcoords="offset points",
            ha=side,  # type: ignore[arg-type]
            va="center",
            fontsize=8,
            color=looks[record[series]].colour,
            fontweight="bold" if record[series] == accent else "normal",
        )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Area that two boxes (left, low, right, high) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _cell(axes: Axes, column: float, row: float, colour: Any, order: int, edge: str = GROUND) -> None:
    from matplotlib.patches import Rectangle

    inset = 0.02 if order == 1 else 0.035
    axes.add_patch(
        Rectangle(
            (column - 0.5 + inset, row - 0.5 + inset),
            1 - 2 * inset,
            1 - 2 * inset,
            facecolor=colour,
            edgecolor="none" if order == 1 else edge,
            linewidth=0 if order == 1 else 1.8,
            zorder=order,
        )
    )


def _grid(data: pl.DataFrame, column: str, order: Sequence[Any]) -> list[Any]:
    names = _names(data, column, order)
    return sorted(names) if not order and data[column].dtype.is_numeric() else names


def _short(value: Any, labels: Callable[[Any], str]) -> str:
    if not isinstance(value, float):
        return labels(value)
    return f"{value:g}" if value == 0 or abs(value) >= 0.01 else f"{value:.0e}".replace("e-0", "e-")


def _steps(part: pl.DataFrame, x: str) -> list[Any]:
    """The places of a text axis; none for numbers."""
    return [] if part[x].dtype.is_numeric() else part[x].unique(maintain_order=True).to_list()


def _names(data: pl.DataFrame, column: str | None, order: Sequence[Any] = ()) -> list[Any]:
    """Values of a column: those of `order` first, then as they appear."""
    if column is None:
        return [None]
    found = data[column].unique(maintain_order=True).to_list()
    listed = list(order)
    return sorted(found, key=lambda one: _index(one, listed))


def _index(name: Any, order: Sequence[Any]) -> int:
    return list(order).index(name) if name in order else len(order)


def _is(column: str, value: Any) -> pl.Expr:
    import polars as pl

    return pl.col(column).is_null() if value is None else pl.col(column) == value
