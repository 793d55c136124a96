"""Every flow of the page, clicked through in a real browser; what it shows is compared with what the server says."""

from __future__ import annotations

import os
import re
import shutil
from urllib.parse import quote

import httpx
import polars as pl
import pytest

import lirdrec
from lirdrec.data import Dataset
from lirdrec.models.item_knn import ItemKNNConfig

from ...helpers import PATIENCE
from .conftest import ids, texts, wait_for_ids

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>&amp; "tent"'
HOME = "main .chips"  # people to begin with


def test_search_by_keys_alone_finds_items_and_people(visit):
    one = visit()
    page = one.go()
    page.keyboard.press("/")
    page.keyboard.insert_text("lamp")  # at once: key by key, a slow machine shows the hits of "lam" in between
    page.get_by_role("option", name="lamp").first.wait_for()
    found = one.get("/items?query=lamp&limit=7")["items"]
    assert texts(page, ".hit .name") == [item["title"] for item in found]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    chosen = page.locator("#query").get_attribute("aria-activedescendant")
    assert page.locator(f"#{chosen}").get_attribute("aria-selected") == "true"
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name=found[1]["title"]).wait_for()
    page.wait_for_function("document.activeElement.tagName === 'H1'")  # where a screen reader continues

    page.fill("#query", "47")
    page.locator("#hits [data-to='#/user/47']").click()
    page.get_by_role("heading", level=1, name="47").wait_for()
    page.fill("#query", "no such thing")
    page.locator("#hits .hit.none").wait_for()
    page.keyboard.press("Escape")
    page.locator("#hits").wait_for(state="hidden")


def test_a_person_with_history_recommendations_and_the_parts_of_scores(visit):
    one = visit()
    page = one.go("#/user/4")
    who = one.get("/users/4")
    assert texts(page, ".liked .name") == [item["title"] for item in who["liked"]]
    best = one.post("/recommend", {"user": 4, "k": 24, "parts": True})["items"]
    assert ids(page) == [item["item"] for item in best]
    said = page.locator(".found .bar").first.get_attribute("aria-label")
    names = list(one.get("/model")["parts"])
    places = [said.index(name) for name in names]
    assert places == sorted(places)
    numbers = [float(number.replace("−", "-")) for number in re.findall(r"−?\d+(?:\.\d+)?", said)]
    wanted = [best[0]["parts"][name] for name in names] + [best[0]["score"]]
    assert numbers == pytest.approx(wanted, abs=0.006)
    # the pieces are as long as the parts are large
    widths = page.locator(".found .bar").first.locator(".piece").evaluate_all("all => all.map(p => p.offsetWidth)")
    values = [abs(value) for value in best[0]["parts"].values()]
    assert [w / sum(widths) for w in widths] == pytest.approx([v / sum(values) for v in values], abs=0.03)
    # images of the shop's files, not drawn ones
    assert page.locator(".found .card img").first.evaluate("i => i.decode().then(() => i.naturalWidth)") == 48


def test_sliders_weigh_the_branches_live(visit):
    one = visit()
    page = one.go("#/user/4")
    before = ids(page)
    name = one.get("/model")["parts"][0]
    with page.expect_response("**/recommend"):
        page.get_by_role("slider", name=name).fill("0")
    expected = one.post("/recommend", {"user": 4, "k": 24, "branch_weights": {name: 0}})["items"]
    wait_for_ids(page, [item["item"] for item in expected])
    assert ids(page) == [item["item"] for item in expected] != before
    moved = next(place for place, (a, b) in enumerate(zip(ids(page), before, strict=False)) if a != b)
    was = before.index(ids(page)[moved]) + 1 if ids(page)[moved] in before else None
    assert notes(page)[moved] == (was or NEW)
    # a longer or a filtered list is compared with as long a list under the same filter
    with page.expect_response("**/recommend"):
        page.locator(".further button").click()
    page.wait_for_function("() => document.querySelectorAll('.found .card').length > 24")
    check_notes(one, page, {"user": 4, "k": 48}, name)
    with page.expect_response("**/recommend"):
        page.locator("#filter-kind").select_option("cup")
    page.wait_for_function("() => document.querySelectorAll('.found .card').length < 24")
    check_notes(one, page, {"user": 4, "k": 48, "filter": {"kind": "cup"}}, name)
    with page.expect_response("**/recommend"):
        page.get_by_test_id("clear-filters").click()
    # the controls stay from person to person; a button takes them back
    page.evaluate("location.hash = '#/user/5'")
    page.get_by_role("heading", level=1, name="5").wait_for()
    page.wait_for_selector("main:not([aria-busy])")
    assert page.get_by_role("slider", name=name).input_value() == "0"
    with page.expect_response("**/recommend"):
        page.get_by_test_id("reset-weights").click()
    plain = one.post("/recommend", {"user": 5, "k": 24})["items"]
    wait_for_ids(page, [item["item"] for item in plain])


NEW = "new"


def notes(page) -> list[int | str | None]:
    """The place that each card's note names, `NEW` where it names none, None where a card has no note."""
    every = page.locator(".found .card").evaluate_all(
        "all => all.map(c => c.querySelector('.note')?.innerText ?? null)"
    )
    assert "" not in every
    return [None if note is None else int(found[0]) if (found := re.findall(r"\d+", note)) else NEW for note in every]


def check_notes(one, page, asked, name):
    """What stands below each card agrees with the places in the list that nothing was turned in."""
    plain = [item["item"] for item in one.post("/recommend", asked)["items"]]
    turned = [item["item"] for item in one.post("/recommend", asked | {"branch_weights": {name: 0}})["items"]]
    wait_for_ids(page, turned)
    wanted = [
        NEW if item not in plain else None if plain.index(item) == index else plain.index(item) + 1
        for index, item in enumerate(turned)
    ]
    assert notes(page) == wanted


def test_filters_variety_and_what_was_liked(visit):
    one = visit()
    page = one.go("#/user/1")
    known = {item["item"]: item["columns"] for item in one.get("/items?limit=200")["items"]}
    with page.expect_response("**/recommend"):
        page.get_by_test_id("filter-price-at-most").fill("30")
    with page.expect_response("**/recommend"):
        page.locator("#filter-in_stock").select_option("false")
    with page.expect_response("**/recommend"):
        page.locator("#filter-kind").select_option("cup")
    asked = {"user": 1, "k": 24, "filter": {"price": {"le": 30}, "in_stock": False, "kind": "cup"}}
    expected = [item["item"] for item in one.post("/recommend", asked)["items"]]
    assert expected != []
    wait_for_ids(page, expected)
    assert {known[item]["kind"] for item in expected} == {"cup"}
    with page.expect_response("**/recommend"):
        page.locator("#filter-title").fill("zebra")
    page.wait_for_function("() => document.getElementById('remark').textContent !== ''")
    assert ids(page) == []
    with page.expect_response("**/recommend"):
        page.get_by_test_id("clear-filters").click()
    with page.expect_response("**/recommend"):
        page.locator("#seen").check()
    asked = {"user": 1, "k": 24, "exclude_seen": False, "diversity": 0.5}
    with page.expect_response("**/recommend"):
        page.get_by_test_id("diversity").fill("0.5")
    expected = [item["item"] for item in one.post("/recommend", asked)["items"]]
    wait_for_ids(page, expected)


def test_why_an_item_was_recommended(visit):
    one = visit()
    page = one.go("#/user/6")
    first = ids(page)[0]
    button = page.locator(".found .card").first.get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.locator(".strip .name").first.wait_for()
    why = one.get(f"/explain?user=6&item={first}")
    assert texts(page, "#why .name") == [item["title"] for item in why["liked"]]
    assert texts(page, "#why tr:not(.sum) th") == list(one.get("/model")["parts"])
    (score,) = texts(page, "#why tr.sum td")
    assert float(score.replace("−", "-")) == pytest.approx(why["score"], abs=6e-4)
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert button.evaluate("b => b === document.activeElement")


def test_an_item_with_its_neighbors_and_those_who_would_get_it(visit):
    one = visit()
    page = one.go("#/item/203")
    page.locator(".people li").first.wait_for()
    near = one.get("/similar/203?k=12")["neighbors"]
    assert ids(page, "main") == [other["item"] for other in near]
    lies = page.locator(".between").inner_text()
    assert 0 <= lies.find(near[0]["title"]) < lies.find(near[1]["title"])
    members = one.get("/items/203/audience?k=12")["members"]
    assert texts(page, ".people .who") == [str(member["user"]) for member in members]
    places = [re.findall(r"\d+", place) for place in texts(page, ".people .rank-note")]
    assert places == [[str(member["rank"])] for member in members]
    page.locator(".chart.small canvas").wait_for()
    page.locator(".people .who").first.click()
    page.get_by_role("heading", level=1, name=str(members[0]["user"]), exact=True).wait_for()


def test_hostile_texts_stay_texts_everywhere(visit):
    one = visit(server={"encoders": True, "max_batch": 255})  # a server of its own
    httpx.post(
        f"{one.address}/items",
        files={"id": (None, "666"), "title": (None, HOSTILE), "kind": (None, "<b>tent</b>")},
        timeout=PATIENCE,
    ).raise_for_status()
    page = one.go("#/item/666")
    assert page.locator("h1").inner_text() == HOSTILE
    page.locator(".people li").first.wait_for()
    near = one.get("/similar/666?k=1")["neighbors"][0]["item"]
    page = one.go(f"#/item/{near}")
    page = one.go("#/map")
    page.fill("#map-find", "onerror")
    page.locator(".rows .name").get_by_text(HOSTILE[:75]).wait_for()
    page.fill("#query", "onerror")
    page.locator(".hit .name").get_by_text(HOSTILE).wait_for()
    user = one.get("/items/666/audience?k=1")["members"][0]["user"]
    page = one.go(f"#/user/{user}")
    page.locator(".found .card h3").get_by_text(HOSTILE).wait_for()
    page.locator(".found .card[data-item='666'] .why-button").click()
    page.locator("#why-title").get_by_text(HOSTILE).wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img:not(.image img)").count() == 0
    answer = httpx.get(f"{one.address}/items/666/image", timeout=PATIENCE)
    assert answer.headers["content-type"] == "image/svg+xml"
    assert b"<script" not in answer.content and "default-src 'none'" in answer.headers["content-security-policy"]


def test_enter_before_the_hits_show_goes_to_the_first(visit):
    page = visit().go()
    page.get_by_role("combobox").fill("cup number 3")
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name="cup number 3").wait_for()


def test_a_person_or_item_that_is_not_there(visit):
    one = visit()
    one.expected = ("404",)
    page = one.go("#/user/123456")
    page.locator("main .lead").get_by_text("123456").wait_for()
    assert page.locator("main button").count() == 0  # trying again would not help
    page = one.go("#/item/%E2%98%83")
    page.locator("main .lead").get_by_text("☃").wait_for()


def test_a_model_without_parts_or_vectors_and_ids_that_are_no_plain_words(visit, tmp_path):
    pairs = [(f"u@{n % 9}/x y", f"a/b c#{n % 7}?é%") for n in range(40)]
    data = Dataset.from_frames(pl.DataFrame(pairs, schema=["user", "item"], orient="row").unique(), split="none")
    lirdrec.fit(data, ItemKNNConfig(), device="cpu", progress=False, cache=False).save(tmp_path / "run")
    one = visit(server={"run": str(tmp_path / "run")})
    page = one.go("#/user/" + quote("u@3/x y", safe=""))
    assert page.locator("h1").inner_text() == "u@3/x y"
    page.locator(".found .card a").first.click()
    page.get_by_role("heading", level=1, name="a/b c#").wait_for()
    page.locator(".people a").first.wait_for()
    page = one.go("#/map")
    assert page.locator("main .lead").inner_text() != "" and page.locator("main canvas").count() == 0
    page = one.go("#/add")
    page.locator(".notice").wait_for()
    assert page.locator("form.add").count() == 0


def test_a_starting_server_is_asked_again_and_a_stopped_one_is_reported(visit):
    one = visit()
    one.expected = ("503", "ERR_CONNECTION", "ERR_FAILED")
    refused = []

    def starting(route):
        refused.append(route.request.url)
        if len(refused) > 2:
            route.continue_()
        else:
            body = '{"detail": "the server is starting; ask again in a moment"}'
            route.fulfill(status=503, body=body, headers={"Retry-After": "0"})

    one.page.route("**/model", starting)
    page = one.go()
    page.locator(HOME).wait_for()
    assert len(refused) == 3
    page.route("**/users/4*", lambda route: route.abort())
    page.evaluate("location.hash = '#/user/4'")
    again = page.locator("main .head button.main")
    again.wait_for()
    assert page.locator("main .lead").inner_text() != ""
    page.unroute("**/users/4*")
    again.click()
    page.get_by_role("heading", level=1, name="4", exact=True).wait_for()
    page.route("**/items?**", lambda route: route.abort())
    page.locator("#query").fill("cup")
    page.locator("#hits .hit.none").wait_for()


def test_a_view_that_is_slow_leaves_the_focus_in_the_search(visit):
    page = visit().go()
    held = []
    page.route("**/recommend", lambda route: held.append(route))
    with page.expect_request("**/recommend"):
        page.evaluate("location.hash = '#/user/4'")
    page.get_by_role("heading", level=1, name="4", exact=True).wait_for()
    page.locator("#query").fill("cup")
    assert len(held) == 1
    held[0].continue_()
    page.wait_for_selector("main:not([aria-busy])")
    assert page.evaluate("document.activeElement.id") == "query"
    page.get_by_role("option", name="cup").first.wait_for()


def test_another_run_is_reported_at_the_next_step(visit, shop, tmp_path):
    (tmp_path / "current").write_text(f"{shop}\n")
    one = visit(server={"run": str(tmp_path / "current"), "watch": True, "watch_seconds": 0.05})
    page = one.go("#/user/4")
    page.locator("#served").get_by_text(re.compile(r"\brun\b")).wait_for()
    shutil.copytree(shop, tmp_path / "second")
    (tmp_path / "next").write_text("second\n")
    os.replace(tmp_path / "next", tmp_path / "current")
    while one.get("/model")["run"] != "second":
        pass
    page.evaluate("location.hash = '#/user/5'")
    page.locator("#served").get_by_text("second").wait_for()
