"""Figures (matplotlib drawings with their data), and the style shared by all charts.

Each model has one color in all figures of all reports; the `accent` (default: LIRDRec) is red. With more names than
colors, lines are dashed as well. The colors are close to Okabe and Ito's palette for color-blind readers; `html`
replaces them by lighter ones on a dark page.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure as Drawing

STYLE = Path(__file__).with_name("charts.mplstyle")
ACCENT = "lirdrec"
INK, GRAY, RULE, GROUND = "#1c2530", "#5d6875", "#d9dee4", "#ffffff"
RED = "#c8401a"
COLORS = ("#0b6bb0", "#00805f", "#a3508a", "#b07400", "#3d9bd1", "#6c5bb5", "#7a8794")
DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.6)), (0, (1.2, 1.4)))
MARKERS = ("o", "s", "D")
# known models in the order of colors × dashes: models often shown together come first
PLACES = (
    *("freedom", "lattice", "bm3", "vbpr", "lightgcn", "lgmrec", "popularity"),
    *("slmrec", "micro", "grcn", "ease", "mf", "item_knn", "random", "content_knn", "cease", "add_ease"),
    *("l3ae", "mgcn", "smore", "cohesion"),
)
WIDTH = 7.2  # of a figure, in inches


@dataclass(frozen=True)
class Style:
    """Color, dash and marker of a series."""

    color: str
    dash: Any = "solid"
    marker: str = "o"


def styles(names: Sequence[Any], accent: Any = ACCENT) -> dict[Any, Style]:
    """A style for each name: red for `accent`, fixed styles for known models, the remaining ones for other names."""
    palette = [Style(c, d, m) for d, m in zip(DASHES, MARKERS, strict=True) for c in COLORS]
    known = dict(zip(PLACES, palette, strict=False))
    chosen = {name: known[name] for name in names if name in known} | ({accent: Style(RED)} if accent in names else {})
    free = [candidate for candidate in palette if candidate not in chosen.values()]
    for name in names:
        if name not in chosen:
            chosen[name] = free.pop(0) if free else Style(GRAY, "dotted")
    return chosen


@contextmanager
def style() -> Iterator[None]:
    """Context manager: the style of all figures, for code that draws with matplotlib directly."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # ignore the user's own style
        matplotlib.rcParams.update(matplotlib.rc_params_from_file(STYLE, use_default_template=False))
        yield


@dataclass(frozen=True, eq=False)
class Figure:
    """A matplotlib drawing with its data and caption.

    Attributes:
        name: stem of its files.
        drawing: the matplotlib figure.
        data: the values drawn (means and sds), written as CSV; None: no CSV.
        caption: one or two sentences below the figure.
        alt: alternative text for screen readers; default: the caption.
    """

    name: str
    drawing: Drawing
    data: pl.DataFrame | None = None
    caption: str = ""
    alt: str = ""

    def image(self, kind: str = "svg") -> bytes:
        """The drawing as "svg", "png" or "pdf"; deterministic: the same drawing gives the same bytes."""
        buffer = io.BytesIO()
        no_date: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with style():
            if self.drawing.get_layout_engine() is not None:
                # the layout runs once: each further draw would shift it slightly
                self.drawing.draw_without_rendering()
                self.drawing.set_layout_engine(None)
            self.drawing.savefig(buffer, format=kind, metadata=no_date, dpi=200)
        return buffer.getvalue()


def drawn(
    name: str,
    draw: Callable[[Drawing], None],
    *,
    size: tuple[float, float] = (WIDTH, 3.0),
    data: pl.DataFrame | None = None,
    caption: str = "",
    alt: str = "",
) -> Figure:
    """A custom figure in the style of all charts: `draw` gets an empty matplotlib figure of `size` inches.

    Take colors from `styles`, `INK`, `GRAY` and `RULE`, and do not use pyplot.
    """
    with style():
        drawing = empty(*size)
        draw(drawing)
    return Figure(name, drawing, data, caption, alt)


def empty(width: float, height: float) -> Drawing:
    """An empty matplotlib figure; `width` and `height` in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    gaps = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05, wspace=0.04, hspace=0.06)
    drawing = Drawing(figsize=(width, height), layout=gaps)
    FigureCanvasAgg(drawing)
    return drawing
