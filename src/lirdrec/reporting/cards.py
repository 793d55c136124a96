"""Cards of a page: items with their pictures, titles and texts, in a grid that fits every window."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from lirdrec.errors import ConfigError

LONG = 160  # letters: with longer texts the picture stands beside the text


@dataclass(frozen=True)
class Card:
    """One item.

    Attributes:
        title: what it is called.
        text: shown as it is, its line breaks too.
        picture: a JPEG, PNG or WebP file; None: a drawn placeholder, unless no card beside it has one either.
        badges: short remarks, such as "0.93" or "no text".
        lines: (name, value) pairs.

    Raises:
        ConfigError: the picture is of another kind.
    """

    title: str
    text: str = ""
    picture: bytes | None = None
    badges: Sequence[str] = ()
    lines: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        if self.picture is not None and not _kind(self.picture):
            raise ConfigError(f"the picture of '{self.title}' is no JPEG, PNG or WebP file; convert it first")

    def to_html(self, pictured: bool = True) -> str:
        """The inside of the card, with room for a picture or without; whatever the texts hold stays text."""
        badges = "".join(f"<li>{html.escape(one)}</li>" for one in self.badges)
        lines = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in self.lines)
        parts = [
            f"<h4>{html.escape(self.title)}</h4>",
            f'<ul class="badges">{badges}</ul>' if badges else "",
            f'<p class="text">{html.escape(self.text)}</p>' if self.text else "",
            f"<dl>{lines}</dl>" if lines else "",
        ]
        picture = f'<div class="picture">{self._picture()}</div>' if pictured else ""
        return f'{picture}<div class="words">{"".join(parts)}</div>'

    def _picture(self) -> str:
        if self.picture is None:
            return _PLACEHOLDER
        said = html.escape(f"Picture of {self.title}", quote=True)
        content = base64.b64encode(self.picture).decode()
        return f'<img src="data:image/{_kind(self.picture)};base64,{content}" alt="{said}" loading="lazy">'


@dataclass(frozen=True)
class Cards:
    """Cards beside each other; in the page only, no file is written of them.

    Attributes:
        cards: in order.
        caption: one or two sentences below them, in the page's markup.
        name: an anchor of the page, `cards-NAME`; may be left out.
        lead: a card set apart before the others, which belong to it: a question and its answers.
    """

    cards: Sequence[Card]
    caption: str = ""
    name: str = ""
    lead: Card | None = None

    def to_html(self) -> str:
        """The grid, without its caption."""
        everything = [*self.cards, *([self.lead] if self.lead else [])]
        kind = "cards wide" if any(len(card.text) > LONG for card in everything) else "cards"
        pictured = any(card.picture is not None for card in everything)
        grid = "".join(f'<li class="card">{card.to_html(pictured)}</li>' for card in self.cards)
        grid = f'<ul class="{kind}">{grid}</ul>' if grid else ""
        if self.lead is None:
            return grid
        lead = f'<div class="{kind} lead"><div class="card">{self.lead.to_html(pictured)}</div></div>'
        return f'<div class="led">{lead}{grid}</div>'


def _kind(picture: bytes) -> str:
    """`jpeg`, `png`, `webp`, or "" for anything else: a browser is told what the bytes are, not what a name says."""
    if picture.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if picture.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    return "webp" if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP" else ""


_PLACEHOLDER = (
    '<svg viewBox="0 0 48 48" role="img" aria-label="No picture" fill="none" stroke="currentColor"'
    ' stroke-width="1.5" stroke-linejoin="round" stroke-linecap="round">'
    '<rect x="9" y="12" width="30" height="24" rx="2.5"/><circle cx="17.5" cy="20" r="2.5"/>'
    '<path d="m9 32 8.500-7 6 5 6.500-7.500 9 8.500"/></svg>'
)

SHEET = """
.cards{list-style:none;margin:0;padding:0;display:grid;gap:.9rem;
  grid-template-columns:repeat(auto-fill,minmax(min(9.5rem,calc(50% - .45rem)),1fr))}
.cards.wide{grid-template-columns:repeat(auto-fill,minmax(min(24rem,100%),1fr))}
.card{display:flex;flex-direction:column;min-width:0;overflow:hidden;background:var(--ground);
  border:1px solid var(--rule);border-radius:.5rem}
.card .picture{aspect-ratio:4/5;background:var(--soft);border-bottom:1px solid var(--rule);display:flex;
  align-items:center;justify-content:center;overflow:hidden}
.card img{width:100%;height:100%;object-fit:contain;display:block}
.card svg{width:38%;max-width:4rem;color:var(--grey);opacity:.55}
.card .words{padding:.6rem .7rem .7rem;font-size:.8rem;line-height:1.45;min-width:0;overflow-wrap:anywhere}
.card h4{font-size:.875rem;line-height:1.3;margin:0;font-weight:600;hyphens:auto}
.card .text{margin:.35rem 0 0;white-space:pre-line;color:var(--grey)}
.card dl{grid-template-columns:max-content minmax(0,1fr);gap:.05rem .7rem;font-size:.75rem;margin:.45rem 0 0}
.card dd{margin:0}
.badges{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem;margin:.4rem 0 0;padding:0}
.badges li{font-size:.7rem;line-height:1.4;font-weight:600;padding:.05rem .45rem;border-radius:1rem;
  background:var(--soft);border:1px solid var(--rule);color:var(--grey);font-variant-numeric:tabular-nums}
.wide .card{flex-direction:row;align-items:stretch}
.wide .picture{flex:0 0 38%;aspect-ratio:auto;min-height:9rem;max-height:24rem;align-self:flex-start}
.wide .picture{border-bottom:0;border-right:1px solid var(--rule);align-self:stretch;align-items:flex-start}
.wide .card img{height:auto;max-height:24rem}
.wide .card svg{align-self:center}
.led{display:grid;grid-template-columns:11.5rem minmax(0,1fr);gap:1.2rem;margin:1.2rem 0 .4rem}
.led>.cards:not(.wide){grid-template-columns:repeat(auto-fill,minmax(min(8.2rem,calc(50% - .45rem)),1fr));gap:.75rem}
.led>.cards.lead{display:block}
.lead .card{border-color:var(--accent);box-shadow:0 0 0 1px var(--accent)}
.led:has(.wide){grid-template-columns:minmax(0,1fr)}
@media(max-width:40rem){
  .led{grid-template-columns:minmax(0,1fr);gap:.9rem}
  .lead .card,.wide .card{flex-direction:row}
  .lead .picture,.wide .picture{flex:0 0 34%;border-bottom:0;border-right:1px solid var(--rule)}
  .cards:not(.wide):not(.lead){gap:.7rem}
}
@media print{
  .cards{grid-template-columns:repeat(auto-fill,minmax(3.2cm,1fr));gap:.3cm}
  .cards.wide{grid-template-columns:repeat(2,1fr)}
  .led{grid-template-columns:3.6cm minmax(0,1fr);gap:.5cm}
  .card,.led{break-inside:avoid}
  .card .picture{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""
