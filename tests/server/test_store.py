"""The log of changes: the same tests for SQLite and PostgreSQL, and what only a file can suffer."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from lirdrec.errors import ConfigError, DataError
from lirdrec.server import store as module
from lirdrec.server.store import ConflictError, Event, NewItem, Store, StoreError, StoreFullError

from ..helpers import PATIENCE, assert_error
from .postgres import running

WRITERS, EACH = 2, 15


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    with running() as cluster:
        yield cluster.url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> Iterator[str]:
    """The URL of an empty store."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.sqlite'}"
        return
    url = request.getfixturevalue("cluster_url")
    yield url
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS lirdrec_changes, lirdrec_items")
    engine.dispose()


def test_what_was_written_is_read_back_in_order_by_another(url):
    features = {"text": np.arange(3, dtype=np.float32), "image": np.array([0.1, -0.0], np.float32)}
    first = Store(url)
    assert first.latest() == 0 and first.changes() == []
    items = [NewItem(7, {"title": "Zelt ⛺", "price": 1.5, "old": None}, features, b"\x89PNG"), NewItem("7")]
    assert first.add_items(items) == 2
    assert first.add_events([Event("ann", 7), Event(1, "7")]) == 4
    assert first.remove_item(7) == 5
    second = Store(url)
    found = second.changes()
    assert [(one.number, one.kind, one.subject) for one in found] == [
        (1, "item", 7),
        (2, "item", "7"),  # a number and a text are two ids
        (3, "event", "ann"),
        (4, "event", 1),
        (5, "removed", 7),
    ]
    item = found[0].item
    assert item is not None and item.columns == items[0].columns
    assert {name: row.tobytes() for name, row in item.features.items()} == {
        name: row.tobytes() for name, row in features.items()
    }
    assert found[1].item == NewItem("7") and found[3].event == Event(1, "7")
    assert second.changes(after=3, limit=1) == [found[3]] and second.latest() == 5


def test_a_store_of_an_older_version_opens_and_takes_types_and_times(url):
    old = Store(url)
    old.add_events([Event("ann", 7)])
    with old.engine.begin() as connection:  # the table as it was before events had a type and a time
        for name in ("event_type", "event_time"):
            connection.exec_driver_sql(f"ALTER TABLE lirdrec_changes DROP COLUMN {name}")
    old.close()
    given = [Event("ann", 8, "añadir 🛒", 1_780_252_200.125), Event("bob", 9, "dislike"), Event("bob", 1)]
    store = Store(url)
    store.add_events(given)
    store.add_items([NewItem(5, at=1_000_000.5)])
    store.close()
    for again in (Store(url), Store(url)):
        assert [one.event for one in again.changes()][:4] == [Event("ann", 7, None, None), *given]
        assert again.changes(after=4)[0].item.at == 1_000_000.5
        again.close()


def test_an_image_lives_as_long_as_its_item(url):
    store = Store(url)
    store.add_items([NewItem(1, image=b"one"), NewItem("1")])
    assert (store.image(1), store.image("1"), store.image(2)) == (b"one", None, None)
    assert store.holds(1) and store.holds("1") and not store.holds(2)
    store.remove_item(1)
    assert store.image(1) is None and not store.holds(1)
    store.add_items([NewItem(1, image=b"two")])
    assert store.image(1) == b"two"


def test_a_batch_with_one_conflict_leaves_nothing(url):
    store = Store(url)
    store.add_items([NewItem("a")])
    with assert_error(ConflictError, mentions=["'a'"]):
        store.add_items([NewItem("b"), NewItem("a")])
    with assert_error(DataError, mentions=["'c'"]):
        store.add_items([NewItem("b"), NewItem("c", {"price": float("nan")})])
    with assert_error(ConflictError):
        store.add_items([NewItem("b"), NewItem("b")])
    assert [change.subject for change in store.changes()] == ["a"] and not store.holds("b")
    assert store.add_items([NewItem("b")]) > 0


def _write(url: str, writer: int, into: object) -> None:
    module.SECONDS = round(PATIENCE)
    store = Store(url)
    numbers = [store.add_items([NewItem(f"{writer}-{index}")]) for index in range(EACH)]
    into.put(numbers)


def test_processes_write_at_once_and_all_see_one_order(url):
    """They open an empty store at the same moment; a reader meanwhile never sees a number appear below one it has."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    writers = [context.Process(target=_write, args=(url, one, queue)) for one in range(WRITERS)]
    for one in writers:
        one.start()
    reader, seen = Store(url), []
    while len(seen) < WRITERS * EACH and any(one.is_alive() for one in writers):
        seen += reader.changes(after=seen[-1].number if seen else 0)
    for one in writers:
        one.join()
        assert one.exitcode == 0
    acknowledged = sorted(number for _ in writers for number in queue.get())
    seen += reader.changes(after=seen[-1].number if seen else 0)
    assert [one.number for one in seen] == acknowledged == sorted({one.number for one in reader.changes()})
    for writer in range(WRITERS):
        own = [one.subject for one in seen if str(one.subject).startswith(f"{writer}-")]
        assert own == [f"{writer}-{index}" for index in range(EACH)]


def test_of_threads_that_add_the_same_item_one_succeeds(url):
    store, outcomes = Store(url), []
    start = threading.Barrier(8)

    def add(_: int) -> None:
        start.wait()
        try:
            outcomes.append(store.add_items([NewItem("same")]))
        except ConflictError:
            outcomes.append(None)

    threads = [threading.Thread(target=add, args=(one,)) for one in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(outcomes) == 8 and sum(one is not None for one in outcomes) == 1
    assert [change.subject for change in store.changes()] == ["same"]


def test_a_damaged_change_is_named(url):
    store = Store(url)
    store.add_items([NewItem("a"), NewItem("b")])
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE lirdrec_changes SET payload = 'xx' WHERE number = 2")
    with assert_error(StoreError, mentions=[2]):
        store.changes()


# ------------------------------------------------------------ a file


def limited(path: Path, pages: int) -> Store:
    """A store on a disk with room for that many pages of 4 KiB."""
    store = Store(f"sqlite:///{path}")
    store.close()
    listen = lambda connection, _: connection.execute(f"PRAGMA max_page_count={pages}")
    sa.event.listen(store.engine, "connect", listen)
    return store


def test_on_a_full_disk_nothing_is_changed_and_later_all_is_well(tmp_path):
    path = tmp_path / "store.sqlite"
    store = limited(path, 40)
    kept = 0
    with assert_error(StoreFullError):
        for index in range(1000):
            store.add_items([NewItem(f"{index}-{part}", image=bytes(2000)) for part in range(3)])
            kept += 3
    assert 0 < kept < 300
    assert len(store.changes()) == kept and store.latest() == kept  # not one of the batch that failed
    for write in (lambda: store.add_events([Event("u", "i" * 9000)]), lambda: store.remove_item("x" * 9000)):
        with pytest.raises(StoreFullError):
            write()
    store.close()
    roomy = Store(f"sqlite:///{path}")
    assert roomy.add_items([NewItem("later", image=bytes(9000))]) == kept + 1
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_file_that_is_no_store_is_one_sentence(tmp_path):
    path = tmp_path / "photo.sqlite"
    path.write_bytes(b"this is no database, but a text that is long enough to look like one" * 100)
    with assert_error(StoreError, mentions=["sqlite:", "photo.sqlite", "file is not a database"]):  # SQLite's words
        Store(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"this is no database")
    with assert_error(StoreError, mentions=["store.sqlite", "unable to open database file"]):
        Store(f"sqlite:///{tmp_path / 'missing' / 'store.sqlite'}")


def test_a_store_whose_middle_was_overwritten_is_one_sentence(tmp_path):
    path = tmp_path / "store.sqlite"
    store = Store(f"sqlite:///{path}")
    store.add_items([NewItem(index, image=bytes(3000)) for index in range(50)])
    store.close()
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[4096 : len(content) // 2] = bytes(len(content) // 2 - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        Store(f"sqlite:///{path}").changes()
    assert "\n" not in str(caught.value) and "store.sqlite" in str(caught.value)


def test_readers_do_not_wait_for_a_writer(tmp_path):
    path = tmp_path / "store.sqlite"
    Store(f"sqlite:///{path}").add_items([NewItem(1)])
    store = Store(f"sqlite:///{path}")
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert store.latest() == 1 and len(store.changes()) == 1
    blocker.execute("COMMIT")
    assert store.add_items([NewItem(2)]) == 2


BAD_URLS = [
    ("shop.sqlite", ["sqlite:///FILE", "postgresql+psycopg://"]),
    ("oracledb9://x", ["SQLite", "PostgreSQL", "oracledb9"]),
    ("mysql://ann@host/shop", ["SQLite", "PostgreSQL", "mysql", "sqlite:///FILE"]),
    ("postgresql+nothing://ann@host/shop", ["sqlite:///FILE", "postgresql+psycopg://"]),
    ("sqlite://", ["sqlite:///shop.sqlite"]),
    ("sqlite:///:memory:", ["sqlite:///shop.sqlite"]),
]


@pytest.mark.parametrize(("url", "facts"), BAD_URLS)
def test_a_bad_url_is_one_sentence(url, facts):
    with assert_error(ConfigError, mentions=facts):
        Store(url)


def test_a_password_is_never_shown():
    with pytest.raises(StoreError) as caught:
        Store("postgresql+psycopg://ann:hunter2@127.0.0.1:1/shop")
    assert "hunter2" not in str(caught.value) and "ann:***@127.0.0.1" in str(caught.value)
