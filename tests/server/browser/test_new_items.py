"""New items on the page: the form, its errors, and how they compete with the others."""

from __future__ import annotations

import httpx

from lirdrec.recommender.new_item_encoder import LaunchStep, NewItemEncoder
from lirdrec.recommender.recommender import Recommender

from ...helpers import PATIENCE
from ..runs import KINDS, image, vectors
from .conftest import ids, texts, wait_for_ids

HOME = "main .chips"  # people to begin with
SEND = "form.add [type=submit]"


def test_an_item_is_added_with_title_and_image_and_finds_its_people(visit, tmp_path):
    one = visit()
    page = one.go("#/add")
    send = page.locator(SEND)
    send.click()
    page.get_by_role("alert").wait_for()
    assert page.evaluate("document.activeElement.id") == "new-title"  # what is missing
    page.fill("#new-title", "heavy tent number 99")
    page.fill("#new-kind", "tent")
    page.fill("#new-price", "12.5")
    (tmp_path / "tent.png").write_bytes(image("tent", 99))
    page.set_input_files("#new-image", tmp_path / "tent.png")
    page.locator(".drop img").wait_for()
    id = page.locator("#new-id").input_value()
    send.click()
    page.locator(".banner").get_by_text("heavy tent number 99").wait_for()
    page.locator(".people li").first.wait_for()
    # planted truth: it lies among the tents, and those who like tents would get it
    titles = texts(page, "main .card h3")
    assert sum("tent" in title for title in titles[:6]) >= 5
    who = [int(user) for user in texts(page, ".people .who")]
    assert sum(KINDS[user % len(KINDS)] == "tent" for user in who) >= 10
    assert page.locator(".image.large img").evaluate("i => i.decode().then(() => i.src)").endswith(f"/items/{id}/image")
    assert httpx.get(f"{one.address}/items/{id}/image", timeout=PATIENCE).headers["content-type"] == "image/jpeg"
    best = [item["item"] for item in one.post("/recommend", {"user": who[0], "k": 10})["items"]]
    assert int(id) in best
    # taken away again, on the second press only
    remove = page.locator("main button.danger")
    before = remove.inner_text()
    remove.click()
    assert remove.inner_text() != before and one.get(f"/items/{id}")["item"] == int(id)
    remove.click()
    page.locator(HOME).wait_for()
    assert httpx.get(f"{one.address}/items/{id}", timeout=PATIENCE).status_code == 404


def test_what_is_wrong_with_a_new_item_is_shown_in_the_form(visit, tmp_path):
    one = visit()
    one.expected = ("409", "422")
    page = one.go("#/add")
    send = page.locator(SEND)
    page.fill("#new-title", "old lamp")
    page.fill("#new-id", "103")
    with page.expect_response("**/items") as answer:
        send.click()
    assert answer.value.status == 409
    page.get_by_role("alert").get_by_text("103").wait_for()
    page.fill("#new-id", "999103")
    (tmp_path / "broken.png").write_bytes(image("lamp", 1)[:300])
    page.set_input_files("#new-image", tmp_path / "broken.png")
    with page.expect_response("**/items") as answer:
        send.click()
    assert answer.value.status == 422
    page.get_by_role("alert").get_by_text("image").wait_for()
    assert page.locator("#new-title").input_value() == "old lamp"  # nothing that was typed is lost
    page.locator("#new-price").press_sequentially("1-2")
    send.click()
    page.get_by_role("alert").get_by_text("price").wait_for()
    assert page.evaluate("document.activeElement.id") == "new-price"
    page.fill("#new-price", "12")
    # a file that is refused does not leave the image before it in its place
    (tmp_path / "lamp.png").write_bytes(image("lamp", 1))
    (tmp_path / "note.txt").write_text("no image")
    page.set_input_files("#new-image", tmp_path / "lamp.png")
    page.locator(".drop img").wait_for()
    page.set_input_files("#new-image", tmp_path / "note.txt")
    page.locator(".drop").get_by_text("JPEG").wait_for()
    assert page.locator(".drop img").count() == 0
    page.set_input_files("#new-image", tmp_path / "lamp.png")
    page.locator(".drop img").wait_for()
    page.locator(".image-field button").click()
    page.locator(".drop img").wait_for(state="detached")
    with page.expect_response("**/items") as answer:  # when it is there, the item does not appear in a later test
        send.click()
    assert b'name="image"' not in answer.value.request.post_data_buffer
    assert one.get("/items/999103")["columns"]["price"] == 12
    page.goto("about:blank")
    httpx.delete(f"{one.address}/items/999103", timeout=PATIENCE).raise_for_status()


def test_without_encoders_the_page_says_what_to_do(visit):
    one = visit(server={"encoders": False})
    one.expected = ("422",)
    page = one.go("#/add")
    assert "--encoders" in page.locator(".notice pre").inner_text()
    page.fill("#new-title", "brought by its vectors")
    widths = one.get("/model")["features"]
    with page.expect_response("**/items") as answer:
        page.locator(SEND).click()
    assert answer.value.status == 422
    page.get_by_role("alert").get_by_text("features").wait_for()
    assert str(widths["text"]) in page.locator("label[for=vector-text]").inner_text()
    page.fill("#vector-text", ", ".join(["0.5"] * widths["text"]))
    page.locator(SEND).click()
    page.get_by_role("heading", level=1, name="brought by its vectors").wait_for()


def test_new_items_are_ranked_as_the_control_says(visit, shop, tmp_path):
    recommender = Recommender.load(shop)
    steps = [LaunchStep(offset, cost, 0.1, 0.1) for offset, cost in ((0.0, 0.0), (0.05, 0.02), (3.0, 0.05), (9.0, 0.4))]
    recommender.info["new_items"] = NewItemEncoder(offset=0.05, frontier=tuple(steps)).to_info()
    one = visit(server={"run": str(recommender.save(tmp_path / "run")), "encoders": False})
    page = one.go("#/user/4")
    assert page.locator("#new-items").count() == 0  # nothing was added yet
    items = [{"id": 900 + n, "features": vectors(recommender, 301 + n, 0.05)} for n in range(3)]
    one.post("/items", {"items": items})
    page = one.go("#/user/4")
    seen = []
    for kind, policy in (("none", "none"), ("boost", {"boost": 0.05}), ("share", {"share": 0.2}), ("calibrated", None)):
        with page.expect_response("**/recommend") as answer:
            page.locator("#new-items").select_option(kind)
        assert answer.value.request.post_data_json.get("new_items") == policy
        asked = {"user": 4, "k": 24} | ({} if policy is None else {"new_items": policy})
        best = one.post("/recommend", asked)["items"]
        wait_for_ids(page, [item["item"] for item in best])
        added = [item["item"] for item in best if item.get("added")]
        assert page.locator(".found .badge").count() == len(added)
        seen.append(added)
        assert page.get_by_test_id("new-boost").is_visible() is (kind == "boost")
        if kind == "boost":
            assert "5 %" in page.locator("#new-items-hint").inner_text() and ids(page)[:3] == added
    assert len(seen[1]) == 3 and len(seen[2]) == 3
    with page.expect_response("**/recommend"):
        page.locator("#new-items").select_option("share")
    with page.expect_response("**/recommend") as answer:
        page.get_by_test_id("new-share").fill("4")
    assert answer.value.request.post_data_json["new_items"] == {"share": 0.04}
    page.wait_for_function("() => document.querySelectorAll('.found .badge').length === 1")
    with page.expect_response("**/recommend"):
        page.locator("#filter-added").select_option("false")
    page.wait_for_function("() => document.querySelectorAll('.found .badge').length === 0")
    exposure = one.get("/model")["exposure"]
    said = one.go("#/").locator("#exposure").inner_text()
    assert "3 items" in said and f"{exposure['places']:,}" in said
