"""Figures show what the data say, in one model's color everywhere; the page needs nothing but itself."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from lirdrec.errors import ConfigError
from lirdrec.reporting import Column, Report, Row, Section, Table, bars, dots, drawn, heatmap, lines, points
from lirdrec.reporting.charts.lines import spread_apart
from lirdrec.reporting.charts.panels import summarize
from lirdrec.reporting.figure import RED, styles
from lirdrec.reporting.html import drawing, inline, prose

from ..helpers import assert_error

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and gathers ids, addresses and texts."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
                self.addresses.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"


@pytest.fixture
def frame() -> pl.DataFrame:
    generator = np.random.default_rng(0)
    return pl.DataFrame(
        [
            {"dataset": d, "model": m, "seed": s, "epoch": e, "value": v + 0.01 * e + 0.001 * generator.normal()}
            for d in ("baby", "tiktok")
            for m, v in (("lirdrec", 0.1), ("freedom", 0.09), ("My model <1>", 0.05))
            for s in range(3)
            for e in range(1, 5)
        ]
    )


@pytest.fixture
def report(frame) -> Report:
    last = frame.filter(pl.col("epoch") == 4)
    grid = pl.DataFrame({"a": [0.1, 0.1, 0.2, 0.2], "b": [1, 2, 1, 2], "value": [1.0, 2.0, 4.0, 3.0]})
    figures = [
        lines(frame, "curves", "epoch", series="model", panel="dataset", caption="Curves & more."),
        bars(last, "bars", "dataset", series="model"),
        dots(last, "dots", "model", panel="dataset"),
        points(last, "points", "epoch", "value", "model"),
        heatmap(grid, "grid", "b", "a"),
        drawn("own", lambda drawing: drawing.subplots().plot([1, 2], [3, 4])),
    ]
    table = Table.pivot(
        last, "table", "model", "dataset", accent="lirdrec", notes=["See [the paper](https://x.org/a)."]
    )
    return Report(
        "A <title>",
        "Which?",
        "**LIRDRec** & `a<b`.",
        [Section("Tables", ["One.\n\n- a\n- b", table]), Section("Figures", figures), Section("Third", ["x"])],
        settings={"seeds": 3, "options": {"a": [1, 2]}},
        commands=["lirdrec experiment x --set a=<b>"],
        environment={"python": "3", "versions": {"torch": "2"}},
    )


def test_the_page_is_whole_and_needs_nothing_else(report):
    text = report.to_html()
    page = Page(text)
    assert page.open == []
    assert page.tags.count("svg") == page.tags.count("figure") == 6
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    # inside the page, or an address to click on; nothing is loaded
    assert [a for a in page.addresses if not a.startswith("#")] == ["https://x.org/a"]
    assert not re.search(r"url\((?!#)|@import|http", text.replace("https://x.org/a", ""))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    assert "My model &lt;1&gt;" in text and "<1>" not in text
    assert "<title>A &lt;title&gt;</title>" in text


def test_drawings_take_the_pages_colors(report):
    figure = next(block for block in report.blocks() if getattr(block, "name", "") == "curves")
    svg = drawing(figure)
    assert not re.search(r"#[0-9a-f]{6}\b(?!-)", re.sub(r'(href|id)="[^"]*"|url\([^)]*\)', "", svg))
    assert "var(--accent)" in svg and 'aria-label="Curves &amp; more."' in svg
    used, defined = set(re.findall(r"var\(--([\w]+)", report.to_html())), report.to_html()
    assert all(f"--{name}:#" in defined for name in used)


def test_files_are_written(report, frame, tmp_path):
    page = report.write(tmp_path / "new" / "folder", frame)
    folder = page.parent
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    figures = {
        f"figures/{name}.{kind}"
        for name in ("curves", "bars", "dots", "points", "grid")
        for kind in ("svg", "png", "csv")
    }
    tables = {f"tables/table.{kind}" for kind in ("tex", "csv", "parquet")}
    assert names == {
        "report.html",
        "report.md",
        "results.parquet",
        "figures/own.svg",
        "figures/own.png",
        *figures,
        *tables,
    }
    assert pl.read_parquet(folder / "results.parquet").equals(frame)
    text = (folder / "report.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip(" *") for line in text.splitlines() if line.startswith("|")]
    assert {"LIRDRec", "FREEDOM"} <= set(rows)
    assert "(figures/curves.svg)" in text and text.startswith("# A <title>\n")
    before = (folder / "figures/curves.svg").read_bytes()
    report.write(folder, frame, formats=("svg",))
    assert (folder / "figures/curves.svg").read_bytes() == before  # the same drawing, the same bytes
    assert (folder / "figures/curves.png").read_bytes()[:4] == b"\x89PNG"


def test_a_figure_draws_mean_and_spread(frame):
    figure = lines(frame.filter(pl.col("dataset") == "baby"), "f", "epoch", series="model")
    mine = frame.filter((pl.col("dataset") == "baby") & (pl.col("model") == "freedom"))
    expected = [mine.filter(pl.col("epoch") == e)["value"].to_numpy() for e in range(1, 5)]
    (axes,) = figure.drawing.axes
    line = next(one for one in axes.lines if one.get_color() == styles(["freedom"])["freedom"].color)
    assert line.get_ydata() == pytest.approx([v.mean() for v in expected])
    band = next(c for c in axes.collections if c.get_zorder() == 2 and c.get_facecolor()[0][2] > 0.6)  # blue
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(max(v.mean() + v.std(ddof=1) for v in expected))
    drawn_rows = figure.data.filter(pl.col("model") == "freedom")
    assert drawn_rows["sd"].to_list() == pytest.approx([v.std(ddof=1) for v in expected])


def test_a_model_has_one_color_in_every_figure(frame):
    alone = styles(["bm3"])["bm3"]
    crowd = ["x1", "lattice", "x2", "bm3", "lirdrec", "x3"]
    among = styles(crowd)
    assert among["bm3"] == alone
    assert among["lirdrec"].color == RED and all(among[name].color != RED for name in crowd if name != "lirdrec")
    assert len(set(among.values())) == len(crowd)
    many = styles([f"variant {n}" for n in range(21)])
    assert len(set(many.values())) == 21  # 7 colors × 3 dashes
    assert styles(["a", "b"], accent="b")["b"].color == RED


def test_the_best_cell_of_a_heatmap_is_framed():
    grid = pl.DataFrame({"a": [0.1, 0.1, 0.2, 0.2], "b": [1, 2, 1, 2], "value": [1.0, 2.0, 4.0, 3.0]})
    (axes,) = heatmap(grid, "g", "b", "a").drawing.axes
    (frame_,) = [p for p in axes.patches if p.get_linewidth() > 1]
    assert (round(frame_.get_x()), round(frame_.get_y())) == (0, 1)


def test_bars_begin_at_zero_and_dots_need_not(frame):
    last = frame.filter(pl.col("epoch") == 4)
    assert all(axes.get_ylim()[0] == 0 for axes in bars(last, "b", "dataset", series="model").drawing.axes)
    assert dots(last, "d", "model").drawing.axes[0].get_xlim()[0] > 0.05


def test_labels_are_moved_apart_but_no_farther():
    assert spread_apart([0, 5, 10], 1) == pytest.approx([0, 5, 10])
    assert spread_apart([1, 1, 1], 2) == pytest.approx([-1, 1, 3])
    places = spread_apart(sorted(np.random.default_rng(0).uniform(0, 5, 12)), 1)
    assert np.diff(places) == pytest.approx(np.maximum(np.diff(places), 1))


def test_nothing_to_draw_is_said(frame):
    with assert_error(ConfigError, mentions=["loss", "epoch"]):
        lines(frame, "f", "epoch", "loss")
    with assert_error(ConfigError, mentions=["value"]):
        summarize(frame.with_columns(value=float("nan")), ["model"], "value")


def test_two_of_a_name_are_refused(frame):
    table = Table("same", [Column("v", "V")], [Row({"v": 1.0})])
    with assert_error(ConfigError, mentions=["same"]):
        Report("t", "q", "a", [Section("s", [table, table])])
    with assert_error(ConfigError, mentions=["../x"]):
        Report("t", "q", "a", [Section("s", [Table("../x", [Column("v", "V")], [])])])


def test_markup():
    assert inline("a **b** *c* `**d** <e>` 2*3*4 & [f](https://g.h/i?j=1)") == (
        'a <strong>b</strong> <em>c</em> <code>**d** &lt;e&gt;</code> 2*3*4 &amp; <a href="https://g.h/i?j=1">f</a>'
    )
    assert "<a" not in inline("[x](javascript:alert(1))")
    assert prose("one\ntwo\n\n- a\n- b") == "<p>one two</p>\n<ul><li>a</li><li>b</li></ul>"


def test_matplotlib_and_scipy_are_imported_only_when_needed():
    heavy = ("matplotlib", "scipy", "polars", "rich")
    code = f"import sys, lirdrec.reporting; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
