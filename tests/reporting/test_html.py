"""Cards: what a picture's bytes are decides how it is told to a browser, and no text becomes markup."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import pytest

from lirdrec.errors import ConfigError
from lirdrec.reporting import Card, Cards, Report, Section

from ..helpers import assert_error

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


def picture(kind: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (3, 5), (200, 30, 90)).save(buffer, kind)
    return buffer.getvalue()


def page(*blocks) -> str:
    return Report("T", "Q?", "A.", [Section("S", blocks)], environment={}).to_html()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_a_picture_travels_inside_the_page_as_what_its_bytes_are(kind):
    content = picture(kind)
    (image,) = Page(page(Cards([Card("Shoe", picture=content)]))).all("img")
    head, _, inside = image["src"].partition(",")
    assert head == f"data:image/{kind};base64"
    assert base64.b64decode(inside, validate=True) == content
    assert "Shoe" in image["alt"]


@pytest.mark.parametrize(
    "content", [b"", b"%PDF-1.7", b"<svg onload=alert(1)>", b"GIF89a", b"RIFF1234WAVE", picture("bmp")]
)
def test_anything_else_is_no_picture(content):
    with assert_error(ConfigError, mentions=["Shoe", "JPEG", "PNG", "WebP"]):
        Card("Shoe", picture=content)


def test_no_text_becomes_markup():
    card = Card(NASTY, NASTY, picture("png"), [NASTY], [(NASTY, NASTY)])
    plain = Card("-", "-", picture("png"), ["-"], [("-", "-")])
    made, expected = Page(page(Cards([card], lead=card))), Page(page(Cards([plain], lead=plain)))
    assert [tag for tag, _ in made.tags] == [tag for tag, _ in expected.tags]
    assert made.texts.count(NASTY) == 2 * 5  # title, text, badge, name and value, twice
    alts = [image["alt"] for image in made.all("img")]
    assert len(alts) == 2 and all(NASTY in alt for alt in alts)


def test_the_page_loads_nothing():
    import re

    text = page(Cards([Card("A", picture=picture("png")), Card("B")], "Both.", lead=Card("C")))
    assert not re.search(r"url\(|@import|https?:|<script", text)


def test_a_card_without_a_picture_gets_a_drawn_one_beside_those_that_have_one():
    with_some = Page(page(Cards([Card("A", picture=picture("png")), Card("B")], lead=Card("C"))))
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
