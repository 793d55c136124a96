"""Builds the API reference into `site/` from the docstrings, and the picture of the architecture page.

Run by `make docs`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pdoc

import draw_architecture

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Build everything."""
    picture = draw_architecture.draw()
    (ROOT / "docs" / "architecture.svg").write_text(picture, encoding="utf-8", newline="\n")
    pdoc.render.configure(docformat="google", footer_text="lirdrec", math=True)
    site = ROOT / "site"
    shutil.rmtree(site, ignore_errors=True)
    pdoc.pdoc("lirdrec", "!lirdrec.__main__", output_directory=site)
    print(f"The reference is at {(site / 'index.html').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
