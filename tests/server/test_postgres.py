"""What only a server can suffer: writers at once, a restart, a lost connection, a full disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from lirdrec.server.state import LiveState
from lirdrec.server.store import LOCK, Event, NewItem, Store, StoreError, StoreFullError

from ..helpers import assert_error
from .postgres import Cluster, running
from .runs import growing, new_item

INSERT = "INSERT INTO lirdrec_changes (kind, subject, payload, at) VALUES ('removed', '{}', '', 0) RETURNING number"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running() as cluster:
        yield cluster


@pytest.fixture
def store(cluster) -> Iterator[Store]:
    store = Store(cluster.url)
    yield store
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE lirdrec_changes, lirdrec_items")
    store.close()


def eventually(true: object, seconds: float = 600) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "this never became so"
        time.sleep(0.01)


def test_without_the_lock_a_number_appears_below_one_that_was_read(store):
    """Why there is a lock: a sequence gives numbers in one order and commits make them visible in another."""
    with store.engine.connect() as slow, store.engine.connect() as quick:
        first = slow.exec_driver_sql(INSERT.format(1)).scalar()
        second = quick.exec_driver_sql(INSERT.format(2)).scalar()
        quick.commit()
        assert [one.number for one in store.changes()] == [second] and first < second
        slow.commit()
        assert store.changes(after=second) == []  # who read in between never hears of the first
        assert [one.number for one in store.changes()] == [first, second]


def test_with_the_lock_the_second_writer_waits_for_the_first_to_be_seen(store):
    def waiting() -> bool:
        with store.engine.connect() as connection:
            asked = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            return connection.scalar(asked) == 1

    with store.engine.connect() as slow:
        slow.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        first = slow.exec_driver_sql(INSERT.format(1)).scalar()
        numbers = []
        writer = threading.Thread(target=lambda: numbers.append(store.add_events([Event("u", 1)])))
        writer.start()
        eventually(waiting)
        assert store.latest() == 0 and not numbers
        slow.commit()
        writer.join()
    assert [one.number for one in store.changes()] == [first, *numbers] and numbers[0] > first


def test_after_a_restart_of_the_database_everything_works_again(store, cluster):
    store.add_items([NewItem(1)])
    assert store.latest() == 1
    cluster.stop()
    with pytest.raises(StoreError) as caught:
        store.latest()
    assert "\n" not in str(caught.value) and "tester@/postgres" in str(caught.value)
    with pytest.raises(StoreError):
        Store(cluster.url)
    cluster.start()
    assert store.latest() == 1 and store.add_items([NewItem(2)]) > 1
    assert [one.subject for one in store.changes()] == [1, 2]


def test_a_connection_lost_in_the_middle_says_that_the_outcome_is_unknown(store):
    def others() -> int:
        with store.engine.connect() as connection:
            asked = (
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND wait_event_type = 'Lock'"
            )
            return int(connection.scalar(sa.text(asked)) or 0)

    with store.engine.connect() as slow:
        slow.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        errors: list[BaseException] = []

        def write() -> None:
            try:
                store.add_items([NewItem(1)])
            except StoreError as error:
                errors.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        eventually(lambda: others() > 0)
        writer.join()
    assert [type(one) for one in errors] == [StoreError] and "tester@/postgres" in str(errors[0])
    assert store.changes() == [] and store.add_items([NewItem(1)]) >= 1


def test_a_full_disk_changes_nothing(store):
    store.add_items([NewItem(1)])
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'kein Platz mehr' USING ERRCODE = '53100'; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER full_disk BEFORE INSERT ON lirdrec_items FOR EACH ROW "
            "WHEN (NEW.subject = '3') EXECUTE FUNCTION full_disk()"
        )
    with assert_error(StoreFullError):
        store.add_items([NewItem(2), NewItem(3)])
    assert [one.subject for one in store.changes()] == [1] and not store.holds(2)
    assert store.add_items([NewItem(2)]) > 1


def test_a_strict_database_is_read_as_it_is_now(cluster, store):
    """A database whose default would let a writer look at what was there before it waited for its turn."""
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ALTER ROLE tester SET default_transaction_isolation = 'serializable'")
    try:
        strict = Store(cluster.url)
        with strict.engine.connect() as connection:
            assert connection.scalar(sa.text("SHOW transaction_isolation")) == "read committed"
        strict.close()
    finally:
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ALTER ROLE tester RESET ALL")


def test_the_shop_keeps_its_own_tables(cluster):
    engine = sa.create_engine(cluster.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE items (sku text); CREATE TABLE changes (what text)")
        connection.exec_driver_sql("INSERT INTO items VALUES ('tent')")
    store = Store(cluster.url)
    store.add_items([NewItem("tent")])
    assert store.holds("tent") and store.latest() == 1
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM items")) == 1
        connection.exec_driver_sql("DROP TABLE items, changes, lirdrec_changes, lirdrec_items")
    store.close()
    engine.dispose()


def test_two_servers_share_one_database(store, cluster, tmp_path):
    run = growing(tmp_path / "run")
    servers = [LiveState(run, Store(cluster.url)) for _ in range(2)]
    start = threading.Barrier(2)

    def add(index: int) -> None:
        start.wait()
        for step in range(8):
            servers[index].add_items([new_item(100 * (index + 1) + step)])
            servers[index].add_events([Event("u", 100 * (index + 1) + step)])

    threads = [threading.Thread(target=add, args=(index,)) for index in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    first, second = (live.catch_up() for live in servers)
    assert first.item_rows == second.item_rows and first.number == second.number == store.latest()
    assert first.user_states["u"].history.tolist() == second.user_states["u"].history.tolist() == list(range(50, 66))
    for live in servers:
        live.store.close()
