"""POST /recommend and its kin: what `Recommender` says, and every way to ask wrongly."""

from __future__ import annotations

import asyncio
import gzip
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from lirdrec.recommender.recommender import Recommender
from lirdrec.server.config import ServerConfig
from lirdrec.server.engine.query import MAX_FACTOR
from lirdrec.server.http.openapi import BODIES
from lirdrec.server.response_models import ProblemBody
from lirdrec.server.services import SWITCH_SECONDS, Services

from ..helpers import PATIENCE, assert_mentions
from .runs import KINDS, N_USERS, Servers, asked


@pytest.fixture(scope="module")
def client(shop, tmp_path_factory):
    """One server for this file: nothing in it changes anything."""
    servers = Servers(shop, f"sqlite:///{tmp_path_factory.mktemp('live') / 'live.sqlite'}")
    yield servers()
    servers.stop_all()


def frame_of(response):
    return [(one["item"], one["score"]) for one in response.json()["items"]]


def expected(frame):
    return [(item, pytest.approx(score, abs=1e-5)) for item, score in frame.select("item", "score").rows()]


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_known_users_get_what_the_recommender_says(client, recommender, exclude_seen):
    for user in range(N_USERS):
        answer = client.post("/recommend", json={"user": user, "k": 48, "exclude_seen": exclude_seen})
        assert frame_of(answer) == expected(recommender.recommend(user, 48, exclude_seen=exclude_seen))


def test_a_history_is_answered_as_by_the_recommender(client, recommender):
    for history in ([101], [205, 207, 205], [101, 202, 303, 404]):
        answer = client.post("/recommend", json={"history": history, "k": 12})
        assert frame_of(answer) == expected(recommender.recommend_for_history(history, 12))


def test_many_at_once_get_their_own_answers(client, recommender):
    """Sixteen at a time share products; each answer is that of its own user."""

    def ask(number):
        return number % N_USERS, client.post("/recommend", json={"user": number % N_USERS, "k": 7})

    with ThreadPoolExecutor(16) as pool:
        for user, answer in pool.map(ask, range(150)):
            assert frame_of(answer) == expected(recommender.recommend(user, 7))


def test_filters_leave_the_order_of_what_remains(client, recommender):
    table = recommender.item_table
    allowed = table.filter((table["price"] < 40) & table["in_stock"])["item"].to_list()
    found = asked(client, user=5, k=48, filter={"price": {"lt": 40}, "in_stock": True})
    assert found == recommender.recommend(5, 48, candidates=allowed)["item"].to_list()
    kinds = {"kind": {"in": ["lamp", "cup"]}, "title": {"contains": "old"}}
    ids = asked(client, user=5, k=48, filter=kinds, exclude_seen=False)
    assert set(ids) == {one for one in range(102, 112, 6)} | {one for one in range(402, 412, 6)}
    assert asked(client, user=5, filter={"price": {"gt": 10_000}}) == []


def test_diversity_brings_other_kinds(client):
    """Who likes one kind gets nothing else; with diversity, the best item and then others' kinds."""
    plain = asked(client, user=0, k=3)
    diverse = asked(client, user=0, k=3, diversity=0.9)
    assert {one // 100 for one in plain} == {1}
    assert diverse[0] == plain[0] and len({one // 100 for one in diverse}) > 1


def test_branches_are_weighted_again(client):
    parts = client.post("/recommend", json={"user": 2, "k": 48, "parts": True, "exclude_seen": False}).json()["items"]
    for one in parts:
        assert sum(one["parts"].values()) == pytest.approx(one["score"], abs=1e-5)
    assert set(parts[0]["parts"]) == {"text", "image", "shared", "content"}
    factors = {"text": 2.0, "image": 0.0, "shared": -1.0, "content": 0.5}
    weighed = {one["item"]: sum(factors[name] * part for name, part in one["parts"].items()) for one in parts}
    got = client.post("/recommend", json={"user": 2, "k": 48, "branch_weights": factors, "exclude_seen": False})
    assert dict(frame_of(got)) == pytest.approx(weighed, abs=1e-5)
    assert [one for one, _ in frame_of(got)] == sorted(weighed, key=lambda one: -weighed[one])


def test_columns_come_with_the_items(client, recommender):
    items = client.post("/recommend", json={"user": 1, "k": 3, "columns": ["title", "price"]}).json()["items"]
    table = recommender.item_table
    for one in items:
        row = table.row(by_predicate=pl.col("item") == one["item"], named=True)
        assert one["columns"] == {"title": row["title"], "price": row["price"]}


def test_a_batch_is_its_single_answers_and_one_that_fails_spoils_none(client):
    wanted = [{"user": 3}, {"user": 999}, {"history": [101, 102], "k": 4}, {"user": 7, "filter": {"prize": 3}}]
    answers = client.post("/recommend/batch", json={"requests": wanted}).json()["answers"]
    for place in (0, 2):
        single = client.post("/recommend", json=wanted[place]).json()["items"]
        assert [one["item"] for one in answers[place]["items"]] == [one["item"] for one in single]
    assert (answers[1]["problem"]["status"], answers[3]["problem"]["status"]) == (404, 422)
    assert "999" in answers[1]["problem"]["detail"]
    assert_mentions(answers[3]["problem"]["detail"], ["'prize'", "'price'"])


def test_an_unknown_user_gets_404_or_what_is_popular(client, recommender):
    assert client.post("/recommend", json={"user": 999}).status_code == 404
    answer = client.post("/recommend", json={"user": 999, "k": 5, "unknown": "popular"})
    assert answer.json()["fallback"] == "popular"
    assert frame_of(answer) == expected(recommender.recommend(999, 5, unknown="popular"))
    assert "fallback" not in client.post("/recommend", json={"user": 9, "unknown": "popular"}).json()


@pytest.mark.parametrize("policy", ["raise", "popular"])
def test_an_id_of_the_other_kind_is_a_mistake_whatever_the_policy(client, policy):
    """A text where the run has the integer: the popular items would be a wrong answer without a reason."""
    wrong = [({"user": "9"}, ["user", "'9'", " 9"]), ({"history": ["101"]}, ["item", "'101'", " 101"])]
    for request, facts in wrong:
        answer = client.post("/recommend", json=request | {"unknown": policy})
        assert answer.status_code == 422
        assert_mentions(answer.json()["detail"], facts)
    unknown = client.post("/recommend", json={"user": "ann", "unknown": policy})
    assert unknown.status_code == (404 if policy == "raise" else 200)


def test_similar_items_are_the_recommenders(client, recommender):
    answer = client.get("/similar/207", params={"k": 6}).json()
    frame = recommender.similar_items(207, 6)
    assert [one["item"] for one in answer["neighbors"]] == frame["neighbor"].to_list()
    assert [one["similarity"] for one in answer["neighbors"]] == pytest.approx(frame["score"].to_list(), abs=1e-5)
    assert answer["title"] == recommender.title(int(recommender.items.rows([207])[0]))


def test_an_explanation_is_the_recommenders_and_sums_to_the_ranked_score(client, recommender):
    best = client.post("/recommend", json={"user": 6, "k": 1}).json()["items"][0]
    answer = client.get("/explain", params={"user": 6, "item": best["item"], "n_liked": 3}).json()
    direct = recommender.explain(6, best["item"], 3).to_dict()
    assert answer["score"] == pytest.approx(best["score"], abs=1e-5)
    assert answer["parts"] == pytest.approx(direct["parts"], abs=1e-6)
    assert answer["weights"] == pytest.approx(direct["weights"], abs=1e-6)
    assert [one["item"] for one in answer["liked"]] == [one["item"] for one in direct["liked"]]


WRONG = [
    ("/recommend", {}, 422, ["user", "history"]),
    ("/recommend", {"user": 1, "history": [101]}, 422, ["user", "history"]),
    ("/recommend", {"user": 1, "k": 0}, 422, ["(k)"]),
    ("/recommend", {"user": 1, "k": 10**9}, 422, ["(k)"]),
    ("/recommend", {"user": 1, "k": "5"}, 422, ["(k)"]),
    ("/recommend", {"user": 1.5}, 422, ["user"]),
    ("/recommend", {"user": -1}, 422, ["user"]),
    ("/recommend", {"user": 2**70}, 422, ["user"]),
    ("/recommend", {"user": 1, "kk": 3}, 422, ["(kk)"]),
    ("/recommend", {"history": []}, 422, ["history"]),
    ("/recommend", {"history": [101, 5]}, 404, ["history", "1 item", ": 5"]),
    ("/recommend", {"history": list(range(1001))}, 422, ["history"]),
    ("/recommend", {"user": 1, "diversity": 2}, 422, ["diversity"]),
    ("/recommend", {"user": 1, "branch_weights": {"txt": 1}}, 422, ["txt"]),
    ("/recommend", {"user": 1, "branch_weights": {"text": 1e9}}, 422, ["branch_weights"]),
    ("/recommend", {"user": 1, "branch_weights": {"text": MAX_FACTOR + 1}}, 422, ["branch_weights", MAX_FACTOR]),
    ("/recommend", {"user": 1, "filter": {"price": {"near": 3}}}, 422, ["price", "near"]),
    ("/recommend", {"user": 1, "filter": {"price": {"in": 3}}}, 422, ["'price'", "'in'"]),
    ("/recommend", {"user": 1, "filter": {"price": {"in": [1, "a"]}}}, 422, ["price", "'a'"]),
    ("/recommend", {"user": 1, "filter": {"price": "cheap"}}, 422, ["price", "cheap"]),
    ("/recommend", {"user": 1, "filter": {"kind": {"contains": 3}}}, 422, ["kind", 3]),
    ("/recommend", {"user": 1, "columns": ["colour"]}, 422, ["colour"]),
    ("/recommend", {"user": "one"}, 404, ["'one'"]),
    ("/recommend/batch", {"requests": []}, 422, ["requests"]),
    ("/recommend/batch", {"requests": [{"user": 1}] * 300}, 422, [256]),
    ("/events", {"events": [{"user": "new", "item": 101}]}, 422, ["user", "'new'"]),
    ("/events", {"events": [{"user": 1, "item": 5}]}, 404, ["item", " 5"]),
    ("/items", {"items": [{"id": 101, "features": {"text": [0.0]}}]}, 409, [101]),
    ("/items", {"items": [{"id": 900, "features": {"text": [1.0, 2.0]}}]}, 422, ["'text'"]),
    ("/items", {"items": [{"id": 900, "features": {"sound": [1.0]}}]}, 422, ["sound"]),
    ("/items", {"items": [{"id": 900, "features": {"text": [1e300]}}]}, 422, ["text"]),
    ("/items", {"items": [{"id": 900, "columns": {"item": 7}}]}, 422, ["'item'"]),
    ("/items", {"items": [{"id": "x", "features": {"text": [0.0] * 18}}]}, 422, ["item", "'x'"]),
    ("/items", {"items": [{"id": 900}]}, 422, [900, "'text' (18), 'image' (496)"]),
    ("/model", {"run": "other"}, 409, ["--runs-dir FOLDER"]),
]


@pytest.mark.parametrize(("path", "body", "status", "facts"), WRONG)
def test_what_is_wrong_is_reported_in_one_sentence(client, path, body, status, facts):
    answer = client.post(path, json=body)
    problem = ProblemBody.model_validate_json(answer.content)
    assert (answer.status_code, problem.status) == (status, status), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert_mentions(answer.text, facts)
    assert "\n" not in problem.detail and "Traceback" not in answer.text and "pydantic" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/similar/5", 404),
        ("GET", "/similar/lamp", 404),
        ("GET", "/similar/101?k=0", 422),
        ("GET", "/explain?user=1", 422),
        ("GET", "/explain?user=999&item=101", 404),
        ("GET", "/explain?user=1&item=5", 404),
        ("GET", "/items/5", 404),
        ("DELETE", "/items/5", 404),
        ("DELETE", "/items/%00", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/recommend", 405),
        ("PUT", "/items", 405),
        ("GET", "/docs", 404),
    ],
)
def test_addresses_and_parameters_that_are_wrong(client, method, path, status):
    answer = client.request(method, path)
    assert answer.status_code == status, answer.text
    assert ProblemBody.model_validate_json(answer.content).status == status


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"user"', b'{"user": NaN}', b'{"user": 1}x', b"\xff\xfe", b"[" * 5000]
)
def test_bodies_that_are_no_json_are_refused(client, content):
    answer = client.post("/recommend", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_a_body_must_say_that_it_is_json(client):
    answer = client.post("/recommend", content=b'{"user": 1}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415 and "Content-Type: application/json" in answer.json()["detail"]


def test_the_api_is_described_truthfully(client):
    """Each example of the description is valid, and every reference leads somewhere."""
    spec = client.get("/openapi.json").json()
    schemas = spec["components"]["schemas"]

    def references(node):
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    found = set(references(spec))
    assert found and all(one.removeprefix("#/components/schemas/") in schemas for one in found)
    examples = 0
    for model in BODIES:
        for example in schemas[model.__name__].get("examples", []):
            model.model_validate(example)
            examples += 1
    assert examples >= 4
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            assert {"422", "429", "503"} <= set(operation["responses"]), (method, path)
            assert "HTTPValidationError" not in str(operation), (method, path)
    assert set(spec["paths"]) >= {
        "/recommend",
        "/recommend/batch",
        "/similar/{item}",
        "/explain",
        "/items",
        "/events",
    }


def test_every_kind_is_recommended_to_who_likes_it(client):
    for user in range(len(KINDS)):
        assert {one // 100 for one in asked(client, user=user, k=3)} == {user + 1}


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b'{"user": 1, "user": 2}', "'user'"),
        (b'{"user": 1, "k": 5, "\\u006b": 6}', "'k'"),
        (b'{"user": 1, "filter": {"price": {"lt": 3, "lt": 4}}}', "'lt'"),
    ],
)
def test_a_key_that_is_given_twice_is_named(client, content, key):
    answer = client.post("/recommend", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422 and key in answer.json()["detail"]


def test_a_key_may_be_in_several_objects(client):
    asked = {"requests": [{"user": 1, "k": 1}, {"user": 2, "k": 1}]}
    assert client.post("/recommend/batch", json=asked).status_code == 200


@pytest.mark.parametrize(("coding", "status"), [("gzip", 415), ("br", 415), ("identity", 200)])
def test_compressed_bodies_are_refused_by_name(client, coding, status):
    content = b'{"user": 1}' if coding == "identity" else gzip.compress(b'{"user": 1}')
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    answer = client.post("/recommend", content=content, headers=headers)
    assert answer.status_code == status
    if status == 415:
        assert coding in answer.json()["detail"] and "Content-Encoding" in answer.json()["detail"]


def test_stopping_waits_for_work_that_a_cancelled_request_left(tmp_path):
    """A thread inside torch when the interpreter ends would abort the process."""
    started, closing, done = threading.Event(), threading.Event(), []

    def work() -> None:
        started.set()
        assert closing.wait(PATIENCE)
        done.extend(sorted(range(200_000), reverse=True)[:1])

    async def serve() -> list[int]:
        services = Services(ServerConfig(run=str(tmp_path)))
        close = services._close
        services._close = lambda: (closing.set(), close())  # the work ends only after the server began to close
        request = asyncio.create_task(services.read(work))
        await asyncio.to_thread(started.wait, PATIENCE)
        request.cancel()
        await services.stop()
        return list(done)

    assert asyncio.run(serve()) == [199_999]


def test_large_bodies_are_read_one_at_a_time_and_let_other_threads_run(tmp_path):
    usual, seen, running = sys.getswitchinterval(), [], []

    def work() -> None:
        running.append(1)
        seen.append((len(running), sys.getswitchinterval()))
        running.pop()
        if len(seen) == 2:
            raise ValueError

    async def serve() -> list[object]:
        services = Services(ServerConfig(run=str(tmp_path)))
        return await asyncio.gather(*(services.read_large(work) for _ in range(4)), return_exceptions=True)

    results = asyncio.run(serve())
    assert seen == [(1, pytest.approx(SWITCH_SECONDS))] * 4 and sys.getswitchinterval() == usual
    assert sum(isinstance(one, ValueError) for one in results) == 1


def test_title_is_a_column_where_the_title_column_has_another_name(shop, tmp_path, recommender):
    renamed = Recommender.load(shop)
    renamed.item_table = renamed.item_table.rename({"title": "product_name"})
    servers = Servers(renamed.save(tmp_path / "renamed"), f"sqlite:///{tmp_path / 'live.sqlite'}")
    try:
        client = servers()
        asking = {"user": 1, "k": 3, "columns": ["title", "product_name"], "filter": {"title": {"contains": "cup"}}}
        answer = client.post("/recommend", json=asking)
    finally:
        servers.stop_all()
    titles = {one["item"]: one["title"] for one in recommender.item_table.to_dicts()}
    assert len(answer.json()["items"]) == 3
    for one in answer.json()["items"]:
        title = titles[one["item"]]
        assert one["columns"] == {"title": title, "product_name": title} and "cup" in title
