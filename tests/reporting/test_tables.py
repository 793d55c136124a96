"""Result tables in all formats, the page that they are on, and the golden files that they are compared with."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import polars as pl
import pytest
from rich.console import Console

from lirdrec.errors import ConfigError
from lirdrec.reporting import Card, Cards, Column, Measure, Report, Row, Section, Table
from lirdrec.reporting.formatting import duration, memory
from lirdrec.reporting.tables import latex_escape

from ..helpers import assert_error


@pytest.fixture
def table() -> Table:
    columns = [
        Column("model", "Model", format="text"),
        Column("r", "R@20", "Baby", "higher", digits=3),
        Column("n", "N@20", "Baby", "higher", digits=3),
        Column("time", "Time", format="duration"),
    ]
    rows = [
        # .1001 and .0999 print as .100: a tie of the best, so the second is .090
        Row({"model": "A & B", "r": Measure(0.1001, 0.0012, 3, "*"), "n": 0.05, "time": 75}),
        Row({"model": "C_<d>", "r": Measure(0.0999, 0.0004, 3), "n": 0.04, "time": 7200}),
        Row({"model": "E", "r": "out of memory", "n": "out of memory"}),
        Row({"model": "Ours", "r": 0.09, "n": 0.0401, "time": 3}, accent=True),
        Row({"model": "Paper", "r": 0.2, "n": 0.2, "time": ""}, muted=True),
    ]
    return Table("small", columns, rows, "A < B", ["**Best** 5 %."])


def test_html(table, golden):
    golden(table.to_html(), "table.html")


def test_latex(table, golden):
    golden(table.to_latex(), "table.tex")


def test_markdown(table, golden):
    golden(table.to_markdown(), "table.md")


def test_csv(table):
    assert table.to_csv() == (
        "Model,Baby R@20,Baby R@20 sd,Baby R@20 note,Baby N@20,Baby N@20 note,Time\n"
        "A & B,0.1001,0.0012,*,0.05,,75.0\n"
        "C_<d>,0.0999,0.0004,,0.04,,7200.0\n"
        "E,,,out of memory,,out of memory,\n"
        "Ours,0.09,,,0.0401,,3.0\n"
        "Paper,0.2,,,0.2,,\n"
    )


def test_terminal(table):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table.to_rich())
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["A", "&", "B", "0.100", "±", "0.001*", "0.050", "75", "s"] in [" ".join(line).split() for line in lines]
    assert ["Best", "5", "%."] in lines


def test_lower_can_be_better_and_blocks_are_ranked_by_themselves():
    column = Column("v", "Loss", better="lower", digits=1)
    rows = [Row({"v": v}, block=block) for block, v in (("a", 3.0), ("a", 2.0), ("b", 9.0), ("b", 8.0), ("b", 7.0))]
    page = Table("t", [column], rows).to_html()
    assert page.count("<b>") == page.count("<u>") == 2
    assert all(part in page for part in ("<b>2.0</b>", "<u>3.0</u>", "<b>7.0</b>", "<u>8.0</u>"))


def test_a_lone_figure_is_the_best_of_nothing():
    assert "<b>" not in Table("t", [Column("v", "V", better="higher")], [Row({"v": 0.5}), Row({"v": None})]).to_html()


def test_pivot_of_a_tidy_frame():
    frame = pl.DataFrame(
        {
            "model": ["mf", "mf", "mf", "lirdrec", "lirdrec", "lirdrec"],
            "dataset": ["baby", "baby", "tiktok", "baby", "baby", "tiktok"],
            "metric": ["recall@20"] * 6,
            "value": [0.1, 0.3, 0.5, 0.4, 0.6, 0.7],
        }
    )
    table = Table.pivot(frame, "t", "model", ["dataset", "metric"], accent="lirdrec", row_order=["lirdrec"])
    assert [(column.group, column.title) for column in table.columns] == [
        ("", "Model"),
        ("Baby", "R@20"),
        ("TikTok", "R@20"),
    ]
    ours, other = table.rows
    assert (ours.accent, other.accent) == (True, False)
    assert ours.cells["model"] == "LIRDRec"
    assert other.cells["baby recall@20"] == Measure(pytest.approx(0.2), pytest.approx(0.1414, abs=1e-4), 2)
    assert ours.cells["tiktok recall@20"] == Measure(0.7, None, 1)


def test_a_cell_without_a_column_is_refused():
    with assert_error(ConfigError, mentions=["losses", "surprise"]):
        Table("losses", [Column("v", "V")], [Row({"surprise": 1.0})])


def test_words_for_amounts():
    assert [duration(s) for s in (0.4, 48, 192, 5040, 7200)] == ["0.4 s", "48 s", "3.2 min", "84.0 min", "2.0 h"]
    assert [memory(b) for b in (310e6, 1.5e9)] == ["310 MB", "1.5 GB"]


def test_latex_letters():
    assert latex_escape(r"50% of {a_b} & \x ± 1") == r"50\% of \{a\_b\} \& \textbackslash{}x $\pm$ 1"


NASTY = """<script>alert("1")</script> & 'x' "y" """


class Page(HTMLParser):
    """Tags in order with their attributes, and all text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def image_bytes(kind: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (3, 5), (200, 30, 90)).save(buffer, kind)
    return buffer.getvalue()


def page(*blocks) -> str:
    return Report("T", "Q?", "A.", [Section("S", blocks)], environment={}).to_html()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_an_image_travels_inside_the_page_as_what_its_bytes_are(kind):
    content = image_bytes(kind)
    (image,) = Page(page(Cards([Card("Shoe", image=content)]))).all("img")
    head, _, inside = image["src"].partition(",")
    assert head == f"data:image/{kind};base64"
    assert base64.b64decode(inside, validate=True) == content
    assert "Shoe" in image["alt"]


@pytest.mark.parametrize(
    "content", [b"", b"%PDF-1.7", b"<svg onload=alert(1)>", b"GIF89a", b"RIFF1234WAVE", image_bytes("bmp")]
)
def test_anything_else_is_no_image(content):
    with assert_error(ConfigError, mentions=["Shoe", "JPEG", "PNG", "WebP"]):
        Card("Shoe", image=content)


def test_no_text_becomes_markup():
    card = Card(NASTY, NASTY, image_bytes("png"), [NASTY], [(NASTY, NASTY)])
    plain = Card("-", "-", image_bytes("png"), ["-"], [("-", "-")])
    made, expected = Page(page(Cards([card], lead=card))), Page(page(Cards([plain], lead=plain)))
    assert [tag for tag, _ in made.tags] == [tag for tag, _ in expected.tags]
    assert made.texts.count(NASTY) == 2 * 5  # title, text, badge, name and value, twice
    alts = [image["alt"] for image in made.all("img")]
    assert len(alts) == 2 and all(NASTY in alt for alt in alts)


def test_the_page_loads_nothing():
    import re

    text = page(Cards([Card("A", image=image_bytes("png")), Card("B")], "Both.", lead=Card("C")))
    assert not re.search(r"url\(|@import|https?:|<script", text)


def test_a_card_without_an_image_gets_a_drawn_one_beside_those_that_have_one():
    with_some = Page(page(Cards([Card("A", image=image_bytes("png")), Card("B")], lead=Card("C"))))
    assert len(with_some.all("svg")) == 2 and all(svg["aria-label"] for svg in with_some.all("svg"))
    assert not Page(page(Cards([Card("A"), Card("B")], lead=Card("C")))).all(
        "svg"
    )  # a grid of empty frames says nothing


def test_the_lead_comes_first_and_is_no_item_of_the_list():
    made = Page(page(Cards([Card("Near"), Card("Far")], lead=Card("Query"))))
    titles = [text for text in made.texts if text in ("Near", "Far", "Query")]
    assert titles == ["Query", "Near", "Far"]
    assert len([one for one in made.all("li") if one.get("class") == "card"]) == 2


def test_long_texts_get_wide_cards():
    def kinds(length: int) -> set[str | None]:
        return {one["class"] for one in Page(page(Cards([Card("A", "x" * length), Card("B")]))).all("ul")}

    assert kinds(40) == {"cards"}
    assert kinds(400) == {"cards wide"}


def test_names_are_anchors_and_may_be_left_out(tmp_path):
    unnamed = Cards([Card("A")])
    blocks = [unnamed, unnamed, Cards([Card("B")], "*Two*.", "two")]
    made = Page(page(*blocks))
    assert [one.get("id") for one in made.all("figure")] == [None, None, "cards-two"]
    assert "Two" in made.texts and len(made.all("em")) == 1
    with assert_error(ConfigError, mentions=["'two'"]):
        page(blocks[-1], blocks[-1])
    Report("T", "Q?", "A.", [Section("S", blocks)], environment={}).write(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"report.html", "report.md"}


def test_a_golden_file_is_compared_and_written_only_on_request(golden, request, monkeypatch, tmp_path):
    monkeypatch.setattr(request.node, "path", tmp_path / "test_it.py")
    path = tmp_path / "golden" / "page.html"
    monkeypatch.setattr(request.config.option, "update_golden", False)
    with pytest.raises(pytest.fail.Exception) as missing:
        golden("ä\r\n1\n", "page.html")
    assert str(path) in str(missing.value) and "--update-golden" in str(missing.value)
    assert not path.exists()
    monkeypatch.setattr(request.config.option, "update_golden", True)
    golden("ä\r\n1\n", "page.html")
    assert path.read_bytes() == "ä\r\n1\n".encode()
    monkeypatch.setattr(request.config.option, "update_golden", False)
    golden("ä\r\n1\n", "page.html")
    with pytest.raises(AssertionError):
        golden("ä\r\n2\n", "page.html")
    assert path.read_bytes() == "ä\r\n1\n".encode()
