"""A real Chromium without a window, servers of the small shop for it to look at, and what the page shows."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from ...helpers import PATIENCE
from ..runs import Listening

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium; tests are skipped where it, or playwright, is missing.

    Of a module, not longer: while playwright runs, no other test of this process could use asyncio.
    """
    path = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium found: install the package chromium to test the page")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"], timeout=1000 * PATIENCE
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def serve(shop, tmp_path_factory) -> Iterator[Callable[..., str]]:
    """`serve(encoders=True)` gives the address of a server with the page; the same options, the same server."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        known: dict[str, str] = {}

        def start(**options: Any) -> str:
            name = repr(sorted(options.items()))
            if name not in known:
                run = options.pop("run", shop)
                server = Listening(run, tmp_path_factory.mktemp("store"), **{"ui": True} | options)
                known[name] = stack.enter_context(server).url
            return known[name]

        yield start


class Visit:
    """A page of the browser on a server's page, and all that it complained about."""

    def __init__(self, browser: Any, address: str, width: int = 1280, height: int = 860, **options: Any):
        self.address = address
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.expected: tuple[str, ...] = ()

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning") and not any(part in message.text for part in self.expected):
            self.complaints.append(message.text)

    def go(self, where: str = "#/") -> Any:
        """Open a view again and wait until it is there."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.address}/ui/{where}", wait_until="domcontentloaded")
        self.page.wait_for_selector("main:not([aria-busy]) h1")
        return self.page

    def get(self, path: str, **options: Any) -> Any:
        """What the server itself answers."""
        return httpx.get(f"{self.address}{path}", timeout=PATIENCE, **options).raise_for_status().json()

    def post(self, path: str, body: Any) -> Any:
        """What the server itself answers."""
        return httpx.post(f"{self.address}{path}", json=body, timeout=PATIENCE).raise_for_status().json()


@pytest.fixture
def visit(browser, serve) -> Iterator[Callable[..., Visit]]:
    """`visit(width=360)` opens the page of a server; at the end nothing may have been complained about, nor asked of
    another host."""
    visits: list[Visit] = []

    def open(server: dict[str, Any] | None = None, **options: Any) -> Visit:
        visits.append(Visit(browser, serve(**server or {"encoders": True}), **options))
        return visits[-1]

    yield open
    for one in visits:
        one.context.close()
        assert one.complaints == []
        assert [
            url
            for url in one.asked
            if not url.startswith((one.address + "/", "blob:" + one.address, "data:", "about:"))
        ] == []


def texts(page, selector: str) -> list[str]:
    return [one.strip() for one in page.locator(selector).all_inner_texts()]


def ids(page, within: str = ".found") -> list[int]:
    return page.locator(f"{within} .card").evaluate_all("all => all.map(one => Number(one.dataset.item))")


def wait_for_ids(page, expected: list[int]) -> None:
    page.wait_for_function(
        "all => [...document.querySelectorAll('.found .card')].map(c => c.dataset.item).join() === all",
        arg=",".join(map(str, expected)),
    )
