"""For everybody: keys alone, a phone's width, light and dark, readers of the screen, servers that want a key."""

from __future__ import annotations

import httpx
import pytest

from lirdrec.server.security import add_key

from ...ports import PATIENCE

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
    page.get_by_text("Weigh, vary, filter").click()
    page.locator(".card").first.get_by_role("button").click()
    page.get_by_text("Because they liked").wait_for()
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
    page.wait_for_function("document.getElementById('said').textContent.includes('items, first')")  # told aloud


def test_sliders_and_buttons_work_with_keys_and_the_phone_folds_them_away(visit):
    one = visit(width=360, height=740)
    page = one.go("#/user/4")
    slider = page.get_by_role("slider", name="text")
    assert slider.is_hidden()
    page.locator("summary").get_by_text("Weigh, vary, filter").focus()
    page.keyboard.press("Enter")
    slider.focus()
    with page.expect_response("**/recommend"):
        for _ in range(10):
            page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "0" and slider.get_attribute("aria-valuetext") == "× 0"


def test_colours_follow_the_system_until_they_are_chosen(visit):
    one = visit(color_scheme="dark")
    page = one.go()
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(20, 25, 31)"
    page.get_by_role("button", name="Colours").click()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page = one.go("#/map")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"  # remembered
    page.get_by_role("button", name="Colours").click()
    page.get_by_role("button", name="Colours").click()
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
    dialog = one.page.get_by_role("dialog")
    dialog.get_by_text("This server wants an API key").wait_for()
    assert faults(one.page) == []
    dialog.get_by_label("API key").fill("lirdrec_wrong")
    dialog.get_by_role("button", name="Use this key").click()
    dialog.get_by_text("This key is not known here").wait_for()
    dialog.get_by_label("API key").fill(read)
    one.page.keyboard.press("Enter")
    one.page.get_by_role("heading", name="Who would like what?").wait_for()
    first = one.page.locator(".card img").first
    first.evaluate("i => new Promise(done => i.complete && i.naturalWidth ? done() : i.onload = done)")
    assert first.evaluate("i => [i.naturalWidth, i.src.slice(0, 5)]") == [48, "blob:"]
    assert one.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert all(read not in url for url in one.asked)  # addresses end up in logs
    # kept over a reload, but it may not write
    page = one.go("#/add")
    page.get_by_label("Title").fill("a lamp")
    page.get_by_role("button", name="Add it").click()
    page.get_by_role("alert").get_by_text("may read only").wait_for()
    page.get_by_role("button", name="API key").click()
    dialog.get_by_role("button", name="Forget it").click()
    dialog.get_by_text("This server wants an API key").wait_for()
    dialog.get_by_label("API key").fill(write)
    dialog.get_by_role("button", name="Use this key").click()
    page.wait_for_function("key => sessionStorage.getItem('lirdrec-key') === key", arg=write)
    page.wait_for_selector("main:not([aria-busy])")  # the form of this key, not the one before it
    page.get_by_label("Title").fill("a lamp")
    page.get_by_role("button", name="Add it").click()
    page.get_by_role("alert").get_by_text("has no vector").wait_for()


def test_the_page_itself_holds_nothing_that_needs_a_key_and_runs_no_inline_script(visit, keys):
    one = visit(server={"keys": keys[0]})
    answer = httpx.get(f"{one.address}/ui/", timeout=PATIENCE)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert "<style" not in answer.text and " style=" not in answer.text and " onclick=" not in answer.text
    assert answer.text.count("<script") == answer.text.count("<script ") == answer.text.count("></script>")
    assert httpx.get(f"{one.address}/items", timeout=PATIENCE).status_code == 401
