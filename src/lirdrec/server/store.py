"""What was added while serving, kept durably: a log of changes in SQLite or PostgreSQL.

A change is on the disk before it is answered for, and every server on the same store sees all changes in one order.
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
from lirdrec.server.private_files import make_private, store_of

Kind = Literal["item", "removed", "event"]

# the names have a prefix because a shop's own database may have tables called "items"
_metadata = sa.MetaData()
# SQLite counts rows by itself only in a column of exactly this type
_number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_changes = sa.Table(
    "lirdrec_changes",
    _metadata,
    sa.Column("number", _number, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),  # JSON, so that the ids 7 and "7" are two
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sqlite_autoincrement=True,
)
_items = sa.Table(
    "lirdrec_items",
    _metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("number", _number, nullable=False),
    sa.Column("live", sa.Boolean, nullable=False),
    sa.Column("picture", sa.LargeBinary, nullable=True),
)
LOCK = 0x11BD_BEC0  # of PostgreSQL: one writer at a time, so that numbers become visible in order
FULL = {"SQLITE_FULL", "53100"}  # SQLite's name and PostgreSQL's code of a full disk
BLOCK = 2_000  # changes read at once: an item's features may be many
_URLS = "write sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"
SECONDS = 10  # to wait for another writer, or for the server to answer


class StoreError(LirdrecError, RuntimeError):
    """The store cannot be reached or written; nothing was changed."""

    exit_code = 1


class StoreFullError(StoreError):
    """There is no room left on the disk; nothing was changed."""


class ConflictError(LirdrecError, ValueError):
    """An item that is to be added is there already, or one that is to be removed is not."""


@dataclass(frozen=True)
class NewItem:
    """An item as it was added.

    Attributes:
        id: text or integer, as in the run.
        columns: JSON-able values for columns of the item table.
        features: name → `(d,)` float32.
        picture: bytes of a JPEG, PNG or WebP, for the page; or None.
    """

    id: str | int
    columns: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    picture: bytes | None = None


@dataclass(frozen=True)
class Event:
    """A user liked an item; `weight` and kinds of events are the caller's to decide before."""

    user: str | int
    item: str | int


@dataclass(frozen=True)
class Change:
    """One entry of the log: `subject` is an item's id, or a user's where `kind` is "event"."""

    number: int
    kind: Kind
    subject: str | int
    item: NewItem | None = None
    event: Event | None = None


class Store:
    """The log of changes behind a URL such as `sqlite:///shop.sqlite` or `postgresql+psycopg://user@host/shop`.

    Safe to use from several threads and processes.

    Raises:
        ConfigError: the URL cannot be that of a store.
        StoreError: it cannot be opened.
    """

    def __init__(self, url: str | sa.URL):
        try:
            self.url = sa.make_url(url)
        except (sa.exc.ArgumentError, ValueError):
            raise ConfigError(f"the URL of the store cannot be read; {_URLS}") from None
        backend = self.url.get_backend_name()
        self.is_sqlite = backend == "sqlite"
        if backend not in ("sqlite", "postgresql"):
            raise ConfigError(f"a store is SQLite or PostgreSQL, not {backend}; {_URLS}")
        kind = sa.pool.QueuePool  # also for SQLite in memory, which is refused below
        try:
            self.engine = sa.create_engine(self.url, poolclass=kind, **(_SQLITE if self.is_sqlite else _SERVER))
        except sa.exc.ArgumentError:
            raise ConfigError(f"the URL of the store cannot be read; {_URLS}") from None
        except ImportError as error:
            raise StoreError(
                f"the store {self.name} needs a driver ({first_line(error)}); install it by: "
                'pip install "lirdrec[serve,postgres]"'
            ) from None
        if self.is_sqlite:
            if self.url.database in (None, "", ":memory:"):
                raise ConfigError("a store in memory would forget everything; name a file, as in sqlite:///shop.sqlite")
            if not self.url.query:  # the files beside it get the rights of this one
                make_private(str(self.url.database))
            sa.event.listen(self.engine, "connect", _durable)
        with self._writing() as connection:  # so that two servers that start at once do not both create the tables
            _metadata.create_all(connection)

    @property
    def name(self) -> str:
        """The URL without its password, as it can be shown: a file name may hold bytes that are no text."""
        database = (self.url.database or "").encode(errors="backslashreplace").decode()
        return self.url.set(database=database).render_as_string(hide_password=True)

    def latest(self) -> int:
        """The number of the last change, 0 if there is none; cheap enough to ask before every answer."""
        with self._speaking(), self.engine.connect() as connection:
            return int(connection.scalar(sa.select(sa.func.max(_changes.c.number))) or 0)

    def changes(self, after: int = 0, limit: int = BLOCK) -> list[Change]:
        """The next `limit` changes after a number, in order."""
        asked = sa.select(_changes).where(_changes.c.number > after).order_by(_changes.c.number).limit(limit)
        with self._speaking(), self.engine.connect() as connection:
            return [_change(row) for row in connection.execute(asked)]

    def add_items(self, items: Sequence[NewItem]) -> int:
        """Keep all of the items or, on any error, none; the number of the last change.

        Raises:
            ConflictError: an item is live in the store already, or named twice.
            StoreFullError, StoreError: they could not be written.
        """
        check_distinct(items)
        with self._writing() as connection:
            subjects = [json.dumps(one.id) for one in items]
            there = connection.scalars(
                sa.select(_items.c.subject).where(_items.c.subject.in_(subjects), _items.c.live)
            ).all()
            if there:
                raise ConflictError(f"item {json.loads(there[0])!r} is there already; remove it first")
            last = 0
            for subject, one in zip(subjects, items, strict=True):
                last = self._append(connection, "item", subject, _packed(one))
                connection.execute(sa.delete(_items).where(_items.c.subject == subject))
                connection.execute(
                    sa.insert(_items).values(subject=subject, number=last, live=True, picture=one.picture)
                )
            return last

    def holds(self, item: str | int) -> bool:
        """Whether an item came by `add_items` and was not removed since."""
        asked = sa.select(_items.c.number).where(_items.c.subject == json.dumps(item), _items.c.live)
        with self._speaking(), self.engine.connect() as connection:
            return connection.scalar(asked) is not None

    def remove_item(self, item: str | int) -> int:
        """Record that an item is gone, whether it came by `add_items` or with the run; the number of the change."""
        with self._writing() as connection:
            subject = json.dumps(item)
            connection.execute(sa.update(_items).where(_items.c.subject == subject).values(live=False, picture=None))
            return self._append(connection, "removed", subject, b"")

    def add_events(self, events: Sequence[Event]) -> int:
        """Record what users liked, all or nothing; the number of the last change."""
        with self._writing() as connection:
            last = 0
            for one in events:
                last = self._append(connection, "event", json.dumps(one.user), json.dumps(one.item).encode())
            return last

    def picture(self, item: str | int) -> bytes | None:
        """The picture that came with an item, if any."""
        asked = sa.select(_items.c.picture).where(_items.c.subject == json.dumps(item), _items.c.live)
        with self._speaking(), self.engine.connect() as connection:
            return connection.scalar(asked)

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()

    def _append(self, connection: sa.Connection, kind: Kind, subject: str, payload: bytes) -> int:
        row = sa.insert(_changes).values(kind=kind, subject=subject, payload=payload, at=time.time())
        key = connection.execute(row).inserted_primary_key
        assert key is not None
        return int(key[0])

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction of the only writer; committed and on the disk when the block ends."""
        with self._speaking(), self.engine.connect() as connection:
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
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            original = getattr(error, "orig", None) or error
            code = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None)
            if code in FULL:
                raise StoreFullError("the disk of the store is full; nothing was changed") from error
            if getattr(error, "connection_invalidated", False):
                raise StoreError(
                    f"the connection to the store {self.name} was lost; a change under way may or may not be kept"
                ) from error
            raise StoreError(
                f"the store {self.name} cannot be used ({first_line(original)}); nothing was changed"
            ) from error


def url_of(run: str | Path) -> sa.URL:
    """The URL of a run's own store, whatever letters the run's name has."""
    return sa.URL.create("sqlite", database=str(store_of(run)))


def check_distinct(items: Sequence[NewItem]) -> None:
    """Refuse an id that occurs twice.

    Raises:
        ConflictError: it does.
    """
    if len({one.id for one in items}) < len(items):
        raise ConflictError("an item is named twice in this call; name each once")


# every transaction of SQLite is begun by hand (`_writing`), and each reading statement is one of its own
_SQLITE: dict[str, Any] = {"pool_size": 8, "max_overflow": 64, "connect_args": {"timeout": SECONDS}}
_SERVER: dict[str, Any] = {
    "pool_pre_ping": True,  # after the server was restarted, the first call finds new connections
    "isolation_level": "READ COMMITTED",  # what was committed while waiting for the lock must be seen
    "connect_args": {"connect_timeout": SECONDS},
}


def _durable(connection: Any, _: Any) -> None:
    """Many readers beside one writer, and every commit on the disk before it returns."""
    connection.isolation_level = None  # transactions are begun by hand: the driver's own would not be immediate
    cursor = connection.cursor()
    for setting in (f"busy_timeout={1000 * SECONDS}", "journal_mode=WAL", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _packed(item: NewItem) -> bytes:
    """Columns and features as safetensors, the columns in its header."""
    from safetensors.numpy import save

    features = {name: np.ascontiguousarray(row, dtype=np.float32) for name, row in item.features.items()}
    try:
        columns = json.dumps(dict(item.columns), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"item {item.id!r}: its columns cannot be kept ({error})") from None
    return save(features, metadata={"columns": columns})


def _unpacked(id: str | int, payload: bytes) -> NewItem:
    from safetensors.numpy import load

    size = int.from_bytes(payload[:8], "little")
    columns = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"]["columns"])
    return NewItem(id, columns, load(payload))


def _change(row: Any) -> Change:
    try:
        subject = orjson.loads(row.subject)
        if row.kind == "item":
            return Change(row.number, "item", subject, item=_unpacked(subject, row.payload))
        if row.kind == "event":
            return Change(row.number, "event", subject, event=Event(subject, orjson.loads(row.payload)))
        return Change(row.number, "removed", subject)
    except (ValueError, KeyError, TypeError, SafetensorError):
        raise StoreError(f"change {row.number} of the store is damaged; restore the store from a copy") from None
