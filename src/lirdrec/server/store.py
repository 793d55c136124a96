"""Store live changes (new items, removals, events) durably in SQLite or PostgreSQL.

A change is on the disk before its request is answered. All servers with the same store see all changes in the same
order.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import sqlalchemy as sa
from safetensors import SafetensorError

from lirdrec.data.frames import first_line
from lirdrec.errors import ConfigError, DataError, LirdrecError
from lirdrec.server.write_lock import create_private_file, store_path

Kind = Literal["item", "removed", "event"]
DISLIKES = ("dislike",)  # types of events that are dislikes, by default

# the prefix avoids conflicts in a database that is shared with other applications
_metadata = sa.MetaData()
# SQLite numbers rows only in a column of exactly this type
_number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_changes = sa.Table(
    "lirdrec_changes",
    _metadata,
    sa.Column("number", _number, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),  # JSON, so that the ids 7 and "7" differ
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("event_type", sa.Text, nullable=True),  # this and the next are null if not an event or an older version
    sa.Column("event_time", sa.Double, nullable=True),
    sqlite_autoincrement=True,
)
_items = sa.Table(
    "lirdrec_items",
    _metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("number", _number, nullable=False),
    sa.Column("live", sa.Boolean, nullable=False),
    sa.Column("picture", sa.LargeBinary, nullable=True, key="image"),  # the name in stores that exist already
)
LOCK = 0x11BD_BEC0  # advisory lock of PostgreSQL: with one writer at a time, numbers become visible in order
FULL = {"SQLITE_FULL", "53100"}  # SQLite's name and PostgreSQL's code for a full disk
BLOCK = 2_000  # changes read at once; features may be large
_URLS = "write sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"
SECONDS = 10  # to wait for another writer, or for a connection to PostgreSQL


class StoreError(LirdrecError, RuntimeError):
    """The store cannot be reached, read or written. Nothing was changed, unless the message says something else."""

    exit_code = 1


class StoreFullError(StoreError):
    """The disk of the database is full; nothing was changed."""


class ConflictError(LirdrecError, ValueError):
    """A new item exists already or is given twice, or there is no such item to remove or for an event."""


@dataclass(frozen=True)
class NewItem:
    """An item that was added while serving."""

    id: str | int  # as in the run
    columns: Mapping[str, Any] = field(default_factory=dict)  # column of the item table → JSON-serializable value
    features: Mapping[str, np.ndarray] = field(default_factory=dict)  # name → (d,) float32
    image: bytes | None = None  # bytes of a JPEG, PNG or WebP, for the UI
    at: float = field(default_factory=time.time, compare=False)  # when it was added, in Unix seconds


@dataclass(frozen=True)
class Event:
    """What a user did with an item: a like, unless the type is one of the dislikes of `LiveState`."""

    user: str | int
    item: str | int
    type: str | None = None
    timestamp: float | None = None  # Unix seconds


@dataclass(frozen=True)
class Change:
    """One entry of the log; `subject` is the id of the item or, if `kind` is "event", the id of the user."""

    number: int
    kind: Kind
    subject: str | int
    item: NewItem | None = None
    event: Event | None = None


class Store:
    """The log of changes behind a URL such as `sqlite:///shop.sqlite` or `postgresql+psycopg://user@host/shop`.

    Safe to use from several threads and processes.

    Raises:
        ConfigError: the URL is not the URL of a store.
        StoreError: the store cannot be opened, or the driver of its database is missing.
    """

    def __init__(self, url: str | sa.URL):
        try:
            self.url = sa.make_url(url)
            backend = self.url.get_backend_name()
            self.is_sqlite = backend == "sqlite"
            if backend not in ("sqlite", "postgresql"):
                raise ConfigError(f"a store is SQLite or PostgreSQL, not {backend}; {_URLS}")
            options = _SQLITE if self.is_sqlite else _POSTGRESQL
            # the same pool also for SQLite in memory, which is rejected below
            self.engine = sa.create_engine(self.url, poolclass=sa.pool.QueuePool, **options)
        except ConfigError:
            raise
        except (sa.exc.ArgumentError, ValueError):
            raise ConfigError(f"the URL of the store cannot be read; {_URLS}") from None
        except ImportError as error:
            raise StoreError(
                f"the store {self.name} needs a driver ({first_line(error)}); install it by: "
                'pip install "lirdrec[serve,postgres]"'
            ) from None
        if self.is_sqlite:
            if self.url.database in (None, "", ":memory:"):
                raise ConfigError("a store in memory would lose all changes; give a file, as in sqlite:///shop.sqlite")
            if not self.url.query:  # SQLite's other files get the permissions of this one
                create_private_file(str(self.url.database))
            sa.event.listen(self.engine, "connect", _set_up_sqlite)
        with self._write() as connection:  # so that only one of two servers that start at once creates the tables
            _metadata.create_all(connection)
            _add_missing_columns(connection)

    @property
    def name(self) -> str:
        """The URL for messages: without the password, and with escapes for bytes of a file name that are no text."""
        database = (self.url.database or "").encode(errors="backslashreplace").decode()
        return self.url.set(database=database).render_as_string(hide_password=True)

    def latest(self) -> int:
        """Return the number of the last change, 0 if the store has no changes; the query is fast."""
        return int(self._scalar(sa.select(sa.func.max(_changes.c.number))) or 0)

    def changes(self, after: int = 0, limit: int = BLOCK) -> list[Change]:
        """Return the next changes after the change number `after`, at most `limit`, in order."""
        query = sa.select(_changes).where(_changes.c.number > after).order_by(_changes.c.number).limit(limit)
        with self._store_errors(), self.engine.connect() as connection:
            return [_change(row) for row in connection.execute(query)]

    def add_items(self, items: Sequence[NewItem]) -> int:
        """Store all of the items, or none if there is an error; return the number of the last change.

        Raises:
            ConflictError: an item is in the store already, or is given twice.
            DataError: the columns of an item cannot be written as JSON.
            StoreFullError, StoreError: the items could not be written.
        """
        check_unique_ids(items)
        with self._write() as connection:
            subjects = [json.dumps(item.id) for item in items]
            query = sa.select(_items.c.subject).where(_items.c.subject.in_(subjects), _items.c.live)
            if (existing := connection.scalar(query)) is not None:
                raise ConflictError(f"item {json.loads(existing)!r} exists already; remove it first")
            last = 0
            for subject, item in zip(subjects, items, strict=True):
                last = self._append(connection, "item", subject, _packed(item), at=item.at)
                connection.execute(sa.delete(_items).where(_items.c.subject == subject))
                entry = sa.insert(_items).values(subject=subject, number=last, live=True, image=item.image)
                connection.execute(entry)
            return last

    def holds(self, item: str | int) -> bool:
        """Whether an item was added by `add_items` and not removed since."""
        return self._scalar(sa.select(_items.c.number).where(_live(item))) is not None

    def image(self, item: str | int) -> bytes | None:
        """Return the bytes of the image that was stored with an added item; None if there is none."""
        return self._scalar(sa.select(_items.c.image).where(_live(item)))

    def remove_item(self, item: str | int) -> int:
        """Store that an item of the run or an added item is removed; return the number of the change.

        Whether there is such an item is not checked.
        """
        with self._write() as connection:
            subject = json.dumps(item)
            connection.execute(sa.update(_items).where(_items.c.subject == subject).values(live=False, image=None))
            return self._append(connection, "removed", subject, b"")

    def add_events(self, events: Sequence[Event]) -> int:
        """Store all of the events, or none if there is an error; return the number of the last change."""
        with self._write() as connection:
            last = 0
            for event in events:
                more = {"event_type": event.type, "event_time": event.timestamp}
                payload = json.dumps(event.item).encode()
                last = self._append(connection, "event", json.dumps(event.user), payload, **more)
            return last

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _scalar(self, query: sa.Select[Any]) -> Any:
        """Return the first column of the first row of the result, or None."""
        with self._store_errors(), self.engine.connect() as connection:
            return connection.scalar(query)

    def _append(self, connection: sa.Connection, kind: Kind, subject: str, payload: bytes, **more: Any) -> int:
        values = {"kind": kind, "subject": subject, "payload": payload, "at": time.time()} | more
        entry = sa.insert(_changes).values(values)
        key = connection.execute(entry).inserted_primary_key
        assert key is not None
        return int(key[0])

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        """Context manager for a transaction with an exclusive write lock; at its end the changes are on the disk."""
        with self._store_errors(), self.engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{SECONDS}s'")
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
            try:
                yield connection
                connection.commit()
            except BaseException:
                connection.rollback()
                raise

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        """Context manager that turns errors of the database into a `StoreError`."""
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            original = getattr(error, "orig", None) or error
            code = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None)
            if code in FULL:
                raise StoreFullError(
                    "the disk of the server's database is full; nothing was changed: free space, then try again"
                ) from error
            if getattr(error, "connection_invalidated", False):
                message = f"the connection to the store {self.name} was lost; a change in progress may be stored or not"
            else:
                message = f"the store {self.name} cannot be used ({first_line(original)}); nothing was changed"
            raise StoreError(message) from error


def default_store_url(run: str | Path) -> sa.URL:
    """Return the URL of a run's default store, a SQLite file beside it; the run's name may have any characters."""
    return sa.URL.create("sqlite", database=str(store_path(run)))


def check_unique_ids(items: Sequence[NewItem]) -> None:
    """Raise a ConflictError if two of the items have the same id."""
    if len({item.id for item in items}) < len(items):
        raise ConflictError("an item occurs twice in this request; send each item once")


# with SQLite a write transaction is started explicitly (`_write`); each read is a transaction of its own
_SQLITE: dict[str, Any] = {"pool_size": 8, "max_overflow": 64, "connect_args": {"timeout": SECONDS}}
_POSTGRESQL: dict[str, Any] = {
    "pool_pre_ping": True,  # reconnect after a restart of the database
    "isolation_level": "READ COMMITTED",  # commits made while waiting for the lock must be visible
    "connect_args": {"connect_timeout": SECONDS},
}


def _set_up_sqlite(connection: Any, _: Any) -> None:
    """Set up a connection to SQLite: several can read at once, and a commit is on the disk when it returns."""
    connection.isolation_level = None  # `_write` starts transactions itself, since the driver would lock too late
    cursor = connection.cursor()
    for setting in (f"busy_timeout={1000 * SECONDS}", "journal_mode=WAL", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _add_missing_columns(connection: sa.Connection) -> None:
    """Add the columns that a table of an older version lacks; they are null in its rows."""
    existing = connection.execute(sa.text(f"SELECT * FROM {_changes.name} LIMIT 0")).keys()
    for column in _changes.columns:
        if column.name not in existing:
            kind = column.type.compile(connection.dialect)
            connection.execute(sa.text(f"ALTER TABLE {_changes.name} ADD COLUMN {column.name} {kind}"))


def _live(item: str | int) -> sa.ColumnElement[bool]:
    """Return the SQL condition for the row of an item in the table of added items, if it was not removed."""
    return sa.and_(_items.c.subject == json.dumps(item), _items.c.live)


def _packed(item: NewItem) -> bytes:
    """Return columns and features of an item as bytes in the safetensors format, with the columns in its header."""
    from safetensors.numpy import save

    features = {name: np.ascontiguousarray(row, dtype=np.float32) for name, row in item.features.items()}
    try:
        columns = json.dumps(dict(item.columns), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"item {item.id!r}: its columns cannot be stored ({error})") from None
    return save(features, metadata={"columns": columns})


def _unpacked(id: str | int, payload: bytes, at: float) -> NewItem:
    from safetensors.numpy import load

    size = int.from_bytes(payload[:8], "little")
    columns = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"]["columns"])
    return NewItem(id, columns, load(payload), at=at)


def _change(row: Any) -> Change:
    try:
        subject = orjson.loads(row.subject)
        if row.kind == "item":
            return Change(row.number, "item", subject, item=_unpacked(subject, row.payload, row.at))
        if row.kind == "event":
            event = Event(subject, orjson.loads(row.payload), row.event_type, row.event_time)
            return Change(row.number, "event", subject, event=event)
        return Change(row.number, "removed", subject)
    except (ValueError, KeyError, TypeError, SafetensorError):
        raise StoreError(f"change {row.number} of the store is damaged; restore the store from a backup") from None
