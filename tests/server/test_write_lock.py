"""Files that a server keeps: names, rights, and writers at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.server.auth import add_key, read_keys, revoke_key
from lirdrec.server.config import ServerConfig
from lirdrec.server.run_pointer import RunPointer
from lirdrec.server.store import Event, Store
from lirdrec.server.write_lock import store_path, write_lock

from ..helpers import assert_error, needs_modes

NAMES = [
    "plain",
    "a?b",
    "a?c",
    "a?mode=memory",
    "a#b",
    "a%3Fb",
    "a b:@c",
    ":memory:",
    "file:x",
    "x" * 255,
    "x" * 254 + "y",
    "é" * 127,
    "é" * 126 + "ab",
    "new\nline",
    os.fsdecode(b"\xff\xfe"),
    os.fsdecode(b"\xff\xfd"),
    os.fsdecode(b"\xff" * 255),
]


def test_every_name_of_a_run_has_a_store_of_its_own(tmp_path):
    for number, name in enumerate(NAMES):
        store = Store(ServerConfig(str(tmp_path / name)).store_url)
        assert store.latest() == 0, name
        store.add_events([Event(number, number)])
        assert store.name.isascii() or store.name.encode()
        store.close()
    files = {os.fsencode(path.name) for path in tmp_path.iterdir()}
    own = {os.fsencode(store_path(tmp_path / name).name) for name in NAMES}
    assert len(own) == len(NAMES) and files == own and all(len(name) <= 255 - len("-journal") for name in own)
    for number, name in enumerate(NAMES):
        (change,) = Store(ServerConfig(str(tmp_path / name)).store_url).changes()
        assert change.subject == number


def test_a_short_name_keeps_its_file(tmp_path):
    assert store_path(tmp_path / "demo") == tmp_path / "demo.live.sqlite"
    assert ServerConfig(str(tmp_path / "demo")).store_url.render_as_string() == f"sqlite:///{tmp_path}/demo.live.sqlite"


@needs_modes
def test_store_and_keys_are_the_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        store = Store(f"sqlite:///{tmp_path / 'shop.sqlite'}")
        store.add_events([Event(1, 2)])
        with store.engine.connect() as connection:  # while it is open, the files beside it are there
            connection.exec_driver_sql("SELECT 1")
            add_key(tmp_path / "keys.json", "shop", "read")
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["shop.sqlite", "shop.sqlite-wal", "shop.sqlite-shm", "keys.json"], 0o600)


@needs_modes
def test_the_rights_of_a_store_that_is_there_stay(tmp_path):
    path = tmp_path / "shop.sqlite"
    Store(f"sqlite:///{path}").close()
    path.chmod(0o640)
    Store(f"sqlite:///{path}").add_events([Event(1, 2)])
    assert path.stat().st_mode & 0o777 == 0o640


def test_keys_added_and_revoked_at_once_are_all_kept(tmp_path):
    path = tmp_path / "keys.json"
    for number in range(10):
        add_key(path, f"old-{number}", "read")
    with ThreadPoolExecutor(20) as pool:
        added = [pool.submit(add_key, path, f"new-{number}", "write") for number in range(20)]
        revoked = [pool.submit(revoke_key, path, f"old-{number}") for number in range(10)]
        assert len({one.result() for one in added}) == 20 and [one.result() for one in revoked] == [None] * 10
    assert {key.name for key in read_keys(path)} == {f"new-{number}" for number in range(20)}
    assert [one.name for one in tmp_path.iterdir()] == ["keys.json"]


def test_one_name_is_given_to_one_of_many(tmp_path):
    def add(_: int) -> bool:
        try:
            add_key(tmp_path / "keys.json", "shop", "read")
        except ConfigError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(8))) == 1
    assert len(read_keys(tmp_path / "keys.json")) == 1


COUNT = """
import sys
from pathlib import Path
from lirdrec.server.write_lock import write_lock
path = Path(sys.argv[1])
for _ in range(50):
    with write_lock(path):
        path.write_text(str(int(path.read_text()) + 1))
"""


def test_processes_wait_for_each_other(tmp_path):
    path = tmp_path / ("n" * 255)
    path.write_text("0")
    running = [subprocess.Popen([sys.executable, "-c", COUNT, str(path)]) for _ in range(4)]
    assert [one.wait() for one in running] == [0] * 4
    assert path.read_text() == "200" and [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_pointer_moved_by_many_ends_whole(tmp_path):
    for number in range(8):
        (tmp_path / f"run-{number}").mkdir()
    for pointer in (tmp_path / "current", tmp_path / "link"):
        if pointer.name == "link":
            pointer.symlink_to(tmp_path / "run-0", target_is_directory=True)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: RunPointer(pointer).point(tmp_path / f"run-{n}"), range(8)))  # noqa: B023
        assert RunPointer(pointer).target().name in {f"run-{number}" for number in range(8)}
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".")]


WRONG = [
    "[" * 100_000,
    "[]",
    "5",
    '"text"',
    '{"format": "lirdrec-keys"}',
    '{"format": "lirdrec-keys", "keys": 5}',
    '{"format": "lirdrec-keys", "keys": [5]}',
    '{"format": "lirdrec-keys", "keys": [{}]}',
    *(
        json.dumps(
            {
                "format": "lirdrec-keys",
                "keys": [{"name": "a", "role": "read", "sha256": "0" * 64, "created": "x"} | bad],
            }
        )
        for bad in (
            {"name": 5},
            {"name": ["a"]},
            {"name": ""},
            {"name": "\u001b[31m"},
            {"role": "admin"},
            {"role": ["read"]},
            {"sha256": 5},
            {"sha256": "0" * 62},
            {"sha256": "x" * 64},
            {"created": None},
            {"more": 1},
        )
    ),
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("content", WRONG)
def test_a_damaged_file_of_keys_is_one_sentence_and_stays(tmp_path, content):
    path = tmp_path / "keys.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes()
    for call in (read_keys, lambda path: add_key(path, "shop", "read"), lambda path: revoke_key(path, "a")):
        with assert_error(ConfigError, mentions=["keys.json"]) as caught:
            call(path)
        assert str(caught.value).isprintable()
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("place", ["no/keys.json", "file/keys.json", "n" * 300])
def test_a_place_where_no_file_can_be_is_one_sentence(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises((ConfigError, RunFolderError)) as caught:
        add_key(tmp_path / place, "shop", "read")
    assert place in str(caught.value) and len(list(tmp_path.iterdir())) == 1


def test_the_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(ValueError), write_lock(tmp_path / "a"):
        raise ValueError
    with write_lock(tmp_path / "a"):
        pass
    assert list(Path(tmp_path).iterdir()) == []
