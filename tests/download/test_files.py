"""One file from a server that misbehaves: the bytes are right or there is an error, and little is loaded twice."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lirdrec.download.connection import DownloadError, Network, get, is_public
from lirdrec.download.files import RemoteFile, fetch, git_blob

from ..helpers import assert_error
from .bad_host import INSIDE, Host

CONTENT = np.random.default_rng(0).bytes(200_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        host.files["/a.bin"] = CONTENT
        yield host


def remote(host: Host, **values: object) -> RemoteFile:
    return RemoteFile(**{"name": "a.bin", "url": host.url("/a.bin"), "bytes": len(CONTENT), "sha256": DIGEST, **values})


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "script",
    [
        [],
        ["short"],
        ["short", "short", "short"],
        ["drop", "500", "short", "503", "drop"],
        ["short", "wrong-range"],
        ["short", "no-range"],
        ["short", "416"],
        ["429"],
    ],
)
def test_bytes_are_right(host, tmp_path, script, known):
    host.script["/a.bin"] = list(script)
    file = remote(host) if known else remote(host, bytes=None, sha256=None)
    counted = [0]
    path = fetch(file, tmp_path, host.network, lambda n: counted.__setitem__(0, counted[0] + n))
    assert path.read_bytes() == CONTENT
    assert counted == [len(CONTENT)]
    assert sorted(tmp_path.iterdir()) == [path]
    n_requests = len(script) + 1 - script.count("no-range")  # which gives all of it
    assert host.script["/a.bin"] == [] and len(host.requests) == n_requests
    if script == ["drop", "500", "short", "503", "drop"]:
        assert host.paused.count(7.0) == 1  # as the server asks
    fetch(file, tmp_path, host.network)
    assert len(host.requests) == n_requests  # it is there


def test_an_interrupted_download_asks_for_the_rest(host, tmp_path):
    host.always["/a.bin"] = "404"
    host.script["/a.bin"] = ["short"]
    with assert_error(DownloadError, mentions=[404]):
        fetch(remote(host), tmp_path, host.network)
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:100_000]
    del host.always["/a.bin"]
    fetch(remote(host), tmp_path, host.network)
    assert host.requests[-1] == ("/a.bin", "bytes=100000-")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_begins_again(host, tmp_path):
    host.always["/a.bin"], host.script["/a.bin"] = "404", ["short"]
    with assert_error(DownloadError):
        fetch(remote(host), tmp_path, host.network)
    host.always.clear()
    host.files["/a.bin"] = other = CONTENT[::-1]
    file = remote(host, sha256=hashlib.sha256(other).hexdigest())
    assert fetch(file, tmp_path, host.network).read_bytes() == other
    assert host.requests[-1][1] == "bytes=100000-"  # the server gave all of it, because the ETag differs


@pytest.mark.parametrize(
    ("deed", "mentions"),
    [
        ("404", [404]),
        ("html", ["a.bin"]),
        ("gzip", ["gzip"]),
        ("large", [f"{10**12:,}"]),
        ("endless", [f"{len(CONTENT):,}"]),
        ("500", [500]),
        ("drop", []),
    ],
)
def test_what_ends_in_an_error(host, tmp_path, deed, mentions):
    host.always["/a.bin"] = deed
    with assert_error(DownloadError, mentions=[host.url("/a.bin"), *mentions]):
        fetch(remote(host), tmp_path, host.network)
    assert not (tmp_path / "a.bin").exists()
    assert len(host.requests) <= 12


def test_wrong_content_is_not_kept(host, tmp_path):
    wrong = "0" * 64
    with assert_error(DownloadError, mentions=[DIGEST, wrong]):
        fetch(remote(host, sha256=wrong), tmp_path, host.network)
    with assert_error(DownloadError, mentions=["199,999"]):
        fetch(remote(host, bytes=199_999), tmp_path, host.network)
    with assert_error(DownloadError, mentions=["200,001"]):
        fetch(remote(host, bytes=200_001), tmp_path, host.network)
    assert list(tmp_path.iterdir()) == []


def test_git_digest(host, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    expected = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True).stdout.strip()
    assert git_blob(path) == expected
    file = remote(host, sha256=None, git_blob=expected)
    assert fetch(file, tmp_path / "work", host.network).read_bytes() == CONTENT
    with assert_error(DownloadError, mentions=[expected]):
        fetch(remote(host, sha256=None, git_blob="0" * 40), tmp_path / "other", host.network)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
        ),
        *("::1", "fe80::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "2002:0a00:0001::1", "64:ff9b::7f00:1", "::"),
        "nonsense",
    ],
)
def test_private_addresses(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "mentions"),
    [
        ("http://inside.test/a", [INSIDE]),
        ("http://both.test/a", [INSIDE]),  # one public address does not help
        ("http://10.0.0.7/a", ["10.0.0.7"]),
        ("http://[::1]/a", ["::1"]),
        ("http://2130706433/", []),  # 127.0.0.1 as one number
        ("ftp://data.test/a", ["ftp://data.test/a"]),
        ("file:///etc/passwd", ["file:///etc/passwd"]),
        ("http://user:secret@data.test/a", ["data.test"]),
        ("http:///a", []),
        ("http://data.test:99999999/a", []),
        ("http://data.test/a b", []),
        ("http://data.test/a\r\nHost: other", []),
        ("", []),
    ],
)
def test_addresses_that_are_not_opened(host, url, mentions):
    with assert_error(DownloadError, mentions=mentions) as caught, get(url, network=host.network):
        pass
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert host.requests == []


def test_redirects_are_checked_like_first_addresses(host):
    for path, target in (
        ("/1", "http://inside.test/x"),
        ("/2", "http://169.254.169.254/latest"),
        ("/3", "file:///etc"),
    ):
        host.always[path] = f"to:{target}"
        with assert_error(DownloadError, mentions=[]), get(host.url(path), network=host.network):
            pass
    assert [path for path, _ in host.requests] == ["/1", "/2", "/3"]
    host.always["/loop"] = "to:/loop"
    with assert_error(DownloadError, mentions=["/loop", 5]), get(host.url("/loop"), network=host.network):
        pass
    host.always["/moved"] = f"to:{host.url('/a.bin', 'other.test')}"
    with get(host.url("/moved"), network=host.network) as response:
        assert b"".join(response.blocks()) == CONTENT


def test_a_name_is_asked_once_for_a_request(host):
    """A second answer of the name server could be another, private address."""
    with get(host.url("/a.bin"), network=host.network) as response:
        assert response.status == 200
    assert host.resolved == ["data.test"]


def test_default_network_opens_no_local_server(host):
    url = f"http://127.0.0.1:{host.http.server_port}/a.bin"
    with assert_error(DownloadError, mentions=["127.0.0.1"]), get(url, network=Network()):
        pass
    assert host.requests == []


def test_the_time_for_everything_ends(host):
    host.always["/a.bin"] = "hold"
    with assert_error(DownloadError) as caught, get(host.url("/a.bin"), network=host.network, seconds=0.05):
        pass
    assert not caught.value.passing
    host.always["/a.bin"] = "endless"
    with assert_error(DownloadError), get(host.url("/a.bin"), network=host.network, seconds=0.5) as response:
        for _ in response.blocks():
            pass


def test_names_and_paths_beyond_ascii(host):
    host.files["/%C3%BC%20a.bin?q=%25"] = CONTENT
    with get(host.url("/ü%20a.bin?q=%25", "bücher.test"), network=host.network) as response:
        assert b"".join(response.blocks()) == CONTENT
    assert host.resolved == ["xn--bcher-kva.test"]


def test_unknown_host_and_closed_port(host, tmp_path: Path):
    for url in ("http://unknown.test/a", "http://data.test:1/a"):
        with assert_error(DownloadError, mentions=[url]) as caught, get(url, network=host.network):
            pass
        assert caught.value.passing
