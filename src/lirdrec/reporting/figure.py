"""A figure: a drawing with the numbers in it, written as SVG, PNG or PDF and as CSV, and figures drawn by hand.

Figures of a usual kind are drawn by `chart_lines`, `chart_bars`, `chart_dots`, `chart_points` and `chart_heatmap`.

The one look of all figures: white ground, few lines, one colour a model everywhere.

Colours belong to names, not to places: FREEDOM is the same blue in every figure of every report, and what the report is
about (`accent`, LIRDRec unless said otherwise) has the one warm red. More names than colours: lines get dashes, too.
The colours are near Okabe and Ito's, distinguishable with any colour vision; `html` swaps them for lighter ones on a
dark page.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class Style:
    """How a name is drawn."""

    colour: str
    dash: Any = "solid"
    marker: str = "o"


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


if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure as Drawing


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

    Use `styles`, `INK`, `GREY` and `RULE` of `style` for colours, and no pyplot.
    """
    with style():
        drawing = empty(*size)
        draw(drawing)
    return Figure(name, drawing, data, caption, alt)


def empty(width: float, height: float) -> Drawing:
    """A matplotlib figure of so many inches with nothing in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    gaps = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05, wspace=0.04, hspace=0.06)
    drawing = Drawing(figsize=(width, height), layout=gaps)
    FigureCanvasAgg(drawing)
    return drawing
