"""For everybody: keys alone, a phone's width, light and dark, readers of the screen, servers that want a key."""

from __future__ import annotations

import re

import httpx
import pytest

from lirdrec.server.auth import add_key

from ...helpers import PATIENCE

VIEWS = {"home": "#/", "person": "#/user/4", "item": "#/item/203", "map": "#/map", "add": "#/add"}


def faults(page) -> list[str]:
    """What axe-core finds, one line each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_and_nothing_sticks_out(visit, scheme, width):
    one = visit(width=width, color_scheme=scheme, reduced_motion="reduce")
    for name, where in VIEWS.items():
        page = one.go(where)
        page.wait_for_load_state("networkidle")
        assert faults(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 25, 31)"
        assert dark is (scheme == "dark")


def test_axe_finds_nothing_in_what_opens(visit):
    one = visit(width=360, reduced_motion="reduce")
    page = one.go("#/user/4")
    page.locator(".beside summary").click()
    page.locator(".card").first.get_by_role("button").click()
    page.locator("#why .strip .name").first.wait_for()
    assert faults(page) == []
    page.keyboard.press("Escape")
    page.fill("#query", "lamp")
    page.get_by_role("option").first.wait_for()
    page.keyboard.press("ArrowDown")
    assert faults(page) == []


def test_the_first_key_leads_to_the_content_and_focus_is_seen(visit):
    page = visit().go()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    assert page.locator("#skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    link = page.locator(".chips a").first
    assert link.evaluate("a => a === document.activeElement")
    assert link.evaluate("a => getComputedStyle(a).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.locator(".found .card").first.wait_for()
    best = page.locator(".found .card h3").first.inner_text()
    page.wait_for_function("title => document.getElementById('said').textContent.includes(title)", arg=best)  # spoken


def test_sliders_and_buttons_work_with_keys_and_the_phone_folds_them_away(visit):
    one = visit(width=360, height=740)
    page = one.go("#/user/4")
    slider = page.get_by_role("slider", name="text")
    assert slider.is_hidden()
    page.locator(".beside summary").focus()
    page.keyboard.press("Enter")
    slider.focus()
    with page.expect_response("**/recommend"):
        for _ in range(10):
            page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "0" and re.findall(r"[\d.]+", slider.get_attribute("aria-valuetext")) == ["0"]


def test_colors_follow_the_system_until_they_are_chosen(visit):
    one = visit(color_scheme="dark")
    page = one.go()
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(20, 25, 31)"
    page.locator("#theme").click()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page = one.go("#/map")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"  # remembered
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") is None
    assert page.evaluate("localStorage.length") == 0


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A file of two keys, and the keys."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    return str(path), add_key(path, "shop", "write"), add_key(path, "window", "read")


def test_a_server_with_keys_asks_for_one_and_the_tab_keeps_it(visit, keys):
    path, write, read = keys
    one = visit(server={"keys": path})
    one.expected = ("401", "403", "422")
    one.page.goto(f"{one.address}/ui/")
    page, field = one.page, one.page.locator("#key-field")
    send, add = page.locator("#key-dialog [type=submit]"), page.locator("form.add [type=submit]")
    field.wait_for()
    wanted = page.locator("#key-title").inner_text()
    assert faults(page) == []
    field.fill("lirdrec_wrong")
    send.click()
    # it asks again under another heading: the key is wrong
    page.wait_for_function("was => document.getElementById('key-title').textContent !== was", arg=wanted)
    field.wait_for()
    field.fill(read)
    page.keyboard.press("Enter")
    page.locator(".chips a").first.wait_for()
    first = page.locator(".card img").first
    first.evaluate("i => new Promise(done => i.complete && i.naturalWidth ? done() : i.onload = done)")
    assert first.evaluate("i => [i.naturalWidth, i.src.slice(0, 5)]") == [48, "blob:"]
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert all(read not in url for url in one.asked)  # addresses end up in logs
    # kept over a reload, but it may not write
    page = one.go("#/add")
    page.fill("#new-title", "a lamp")
    with page.expect_response("**/items") as answer:
        add.click()
    assert answer.value.status == 403
    page.locator("form.add").get_by_role("alert").wait_for()
    page.locator("#key").click()
    page.locator("#key-forget").click()
    page.wait_for_function("was => document.getElementById('key-title').textContent === was", arg=wanted)
    field.wait_for()
    field.fill(write)
    send.click()
    page.wait_for_function("key => sessionStorage.getItem('lirdrec-key') === key", arg=write)
    page.wait_for_selector("main:not([aria-busy])")  # the form of this key, not the one before it
    page.fill("#new-title", "a lamp")
    with page.expect_response("**/items") as answer:
        add.click()
    assert answer.value.status == 422  # it may write, and the item has no vector
    page.get_by_role("alert").get_by_text("features").wait_for()


def test_the_page_itself_holds_nothing_that_needs_a_key_and_runs_no_inline_script(visit, keys):
    one = visit(server={"keys": keys[0]})
    answer = httpx.get(f"{one.address}/ui/", timeout=PATIENCE)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert "<style" not in answer.text and " style=" not in answer.text and " onclick=" not in answer.text
    assert answer.text.count("<script") == answer.text.count("<script ") == answer.text.count("></script>")
    assert httpx.get(f"{one.address}/items", timeout=PATIENCE).status_code == 401
