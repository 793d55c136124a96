"""The map of items: colors, zoom, keys and the pointer."""

from __future__ import annotations

from .conftest import texts

COLORS = """canvas => {
  const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = new Set();
  for (let at = 0; at < all.length; at += 4) if (all[at + 3] > 190) seen.add(all.slice(at, at + 3).join());
  return seen.size;
}"""
IN_VIEW = "document.querySelector('.in-view h2').textContent.match(/\\d+/g) ?? []"


def wait_for_in_view(page, number: int) -> None:
    page.wait_for_function(f"n => ({IN_VIEW}).join() === n", arg=str(number))


def test_the_map_is_colored_zoomed_and_walked_by_keys(visit):
    one = visit()
    page = one.go("#/map")
    page.locator(".key .legend").evaluate("old => old.dataset.old = 'yes'")
    page.locator("#color-by").select_option("kind")
    page.locator(".key .legend:not([data-old])").wait_for()  # the new colors came, which show what was hidden
    page.get_by_role("button", name="lamp").wait_for()
    total = one.get("/projection")["total"]
    wait_for_in_view(page, total)
    # of the four kinds, some mixed
    page.wait_for_function(f"() => ({COLORS})(document.querySelector('.chart canvas')) >= 4")
    page.get_by_role("button", name="lamp").click()
    assert page.get_by_role("button", name="lamp").get_attribute("aria-pressed") == "false"
    wait_for_in_view(page, total - 12)
    page.get_by_role("button", name="lamp").click()
    page.locator(".chart canvas").focus()
    for _ in range(5):
        page.keyboard.press("+")
    page.wait_for_function(f"n => !({IN_VIEW}).includes(n)", arg=str(total))
    page.keyboard.press("0")
    wait_for_in_view(page, total)
    page.locator("#color-by").select_option("price")
    page.get_by_role("list", name="price").wait_for()
    assert len(texts(page, ".swatch")) == 5
    page.locator(".rows a").first.focus()
    page.locator(".tip").wait_for()
    title = page.locator(".rows .name").first.inner_text()
    assert page.locator(".tip strong").inner_text() == title
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name=title).wait_for()


def test_a_point_of_the_map_is_hovered_and_clicked(visit):
    one = visit()
    page = one.go("#/map")
    page.locator(".rows a").first.hover()
    page.locator(".tip").wait_for()
    canvas, tip = page.locator(".chart canvas").bounding_box(), page.locator(".tip strong").inner_text()
    points = one.get("/projection")
    index = points["titles"].index(tip)
    # the same arithmetic as the page's: everything fits, with 6 % around
    width, height = canvas["width"], canvas["height"]
    (west, east), (south, north) = ((min(points[name]), max(points[name])) for name in "xy")
    scale = min(width / (east - west), height / (north - south)) * 0.88
    x = canvas["x"] + width / 2 + (points["x"][index] - (west + east) / 2) * scale
    y = canvas["y"] + height / 2 - (points["y"][index] - (south + north) / 2) * scale
    page.mouse.move(5, 5)
    page.mouse.move(x, y)
    page.locator(".tip").wait_for()
    shown = page.locator(".tip strong").inner_text()
    page.mouse.down()
    page.mouse.up()
    page.get_by_role("heading", level=1, name=shown).wait_for()
    assert shown == tip


NOTE_HIDDEN = """canvas => {
    const tip = canvas.parentElement.querySelector(".tip");
    new MutationObserver(() => { window.tipWasHidden ||= tip.hidden; }).observe(tip, { attributes: true });
}"""


def test_the_map_stays_where_it_is_under_the_pointer(visit):
    page = visit().go("#/map")
    canvas = page.locator(".chart canvas")
    before = canvas.bounding_box()
    page.locator(".rows a").first.hover()
    page.locator(".tip").wait_for()
    style = canvas.evaluate("c => [getComputedStyle(c).padding, getComputedStyle(c).cursor]")
    assert style == ["0px", "pointer"] and canvas.bounding_box() == before
    page.locator(".zoom button").first.focus()
    canvas.focus()
    # the rows are listed again soon after, and the one under the pointer then shows the tip once more
    canvas.evaluate(NOTE_HIDDEN)
    page.keyboard.press("+")
    page.wait_for_function("() => window.tipWasHidden")
