"""Published datasets: the table, whole folders that appear at once, archives that try to write elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lirdrec.cli import download as command
from lirdrec.data.readers import read_raw
from lirdrec.download.archives import unpack
from lirdrec.download.connection import DownloadError
from lirdrec.download.datasets import PublishedDataset, download, names, table
from lirdrec.download.files import RemoteFile
from lirdrec.errors import ConfigError, RunFolderError

from ..helpers import assert_error
from .bad_host import Host


def archive(entries: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            file.writestr(name, data)
        for name in links:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(entry, "/etc/passwd")
    return content.getvalue()


MOVIES = {
    "ml/ratings.csv": b"userId,movieId,rating,timestamp\n1,10,5,1\n1,20,4,2\n2,10,5,3\n2,20,3,4\n",
    "ml/movies.csv": b"movieId,title,genres\n10,Alien (1979),Horror\n20,Brazil (1985),Drama\n",
    "ml/README.txt": b"terms",
}


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


def published(host: Host, **contents: bytes) -> PublishedDataset:
    files = []
    for name, content in contents.items():
        name = name.replace("_", ".")
        host.files[f"/{name}"] = content
        digest = hashlib.sha256(content).hexdigest()
        files.append(RemoteFile(name, host.url(f"/{name}"), len(content), digest, unpack=name.endswith(".zip")))
    return PublishedDataset("toy", "a toy", "http://data.test", "the test", "lirdrec prepare FOLDER", tuple(files))


def test_the_table_has_addresses_and_digests():
    issue = {"baby", "sports", "clothing", "electronics", "microlens", "tiktok", "ml-latest-small"}
    assert issue <= set(names())
    for name, dataset in table().items():
        assert dataset.source.startswith("https://") and dataset.title
        assert "FOLDER" in dataset.next or name == "tiktok"
        assert len({file.name for file in dataset.files}) == len(dataset.files) > 0
        for file in dataset.files:
            assert re.fullmatch(r"https://\S+", file.url) and re.fullmatch(r"[\w.-]+", file.name)
            assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            assert file.git_blob is None or re.fullmatch(r"[0-9a-f]{40}", file.git_blob)
            assert (dataset.digests == "not known") == (not file.checked)
    digests = [file.sha256 for dataset in table().values() for file in dataset.files if file.sha256]
    assert len(set(digests)) == len(digests)


def test_a_folder_appears_at_once_and_is_read(host, tmp_path):
    dataset = published(host, movies_zip=archive(MOVIES))
    made = download(dataset, tmp_path / "films", network=host.network)
    assert sorted(path.name for path in (tmp_path / "films").iterdir()) == [
        *("README.txt", "download.json", "movies.csv", "ratings.csv"),
    ]
    assert made.unchecked == [] and made.next == f"lirdrec prepare {tmp_path / 'films'}"
    recorded = json.loads((tmp_path / "films" / "download.json").read_text())
    assert recorded["files"][0]["sha256"] == dataset.files[0].sha256 == made.digests["movies.zip"]
    assert [path.name for path in tmp_path.iterdir()] == ["films"]
    assert read_raw(tmp_path / "films").n_items == 2  # the record does not disturb


def test_nothing_is_at_the_target_until_all_is(host, tmp_path):
    dataset = published(host, a_bin=b"a" * 1000, b_bin=b"b" * 1000)
    host.script["/b.bin"] = ["short", "404"]
    with assert_error(DownloadError, mentions=[404]):
        download(dataset, tmp_path / "toy", network=host.network)
    assert not (tmp_path / "toy").exists()
    made = download(dataset, tmp_path / "toy", network=host.network)
    assert (tmp_path / "toy" / "b.bin").read_bytes() == b"b" * 1000
    assert [request for request in host.requests if request[0] == "/a.bin"] == [("/a.bin", None)]  # not once more
    assert host.requests[-1] == ("/b.bin", "bytes=500-")
    assert set(made.digests) == {"a.bin", "b.bin"} and [path.name for path in tmp_path.iterdir()] == ["toy"]
    with assert_error(RunFolderError, mentions=[tmp_path / "toy"]):
        download(dataset, tmp_path / "toy", network=host.network)


def test_digests_of_the_user(host, tmp_path):
    dataset = published(host, a_bin=b"a")
    good = hashlib.sha256(b"a").hexdigest()
    with assert_error(DownloadError, mentions=["f" * 64, good]):
        download(dataset, tmp_path / "toy", digests={"a.bin": "F" * 64}, network=host.network)
    unknown = PublishedDataset("toy", "", "", "not known", "", (RemoteFile("a.bin", host.url("/a.bin")),))
    assert download(unknown, tmp_path / "one", network=host.network).unchecked == ["a.bin"]
    assert download(unknown, tmp_path / "two", digests={"a.bin": good}, network=host.network).unchecked == []
    with assert_error(ConfigError, mentions=["b.bin", "a.bin"]):
        download(unknown, tmp_path / "three", digests={"b.bin": good}, network=host.network)
    with assert_error(ConfigError, mentions=["12"]):
        download(unknown, tmp_path / "three", digests={"a.bin": "12"}, network=host.network)
    with assert_error(ConfigError, mentions=["bby", "baby"]):
        download("bby", tmp_path / "three")


@pytest.mark.parametrize(
    "name",
    ["../out", "a/../../out", "/out", "C:/out", "a\\..\\..\\out", "a/\x01b", "..", "a\x00b"],
)
def test_no_path_leaves_the_folder(name, tmp_path):
    content = archive({"good.txt": b"x", "NAME": b"y"})
    path = tmp_path / "bad.zip"
    path.write_bytes(content.replace(b"NAME", name.encode().ljust(4, b"_")) if len(name) == 4 else _named(name))
    with assert_error(DownloadError, mentions=["bad.zip"]):
        unpack(path, tmp_path / "inside")
    assert sorted(tmp_path.iterdir()) == [path]


def _named(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("good.txt", "x")
        entry = zipfile.ZipInfo("placeholder")
        entry.filename = entry.orig_filename = name
        file.writestr(entry, "y")
    return content.getvalue()


def test_archives_that_are_refused(tmp_path):
    large = archive({"zeros": bytes(5_000_000)})
    cases = {
        "link": archive({"a": b"x"}, links=("b",)),
        "cut": archive(MOVIES)[:-40],
        "noise": b"no archive",
        "damaged": archive({"a": bytes(range(256)) * 50}).replace(b"PK\x03\x04", b"PK\x03\x05", 1),
        "large": large,
        "many": archive({str(index): b"" for index in range(20)}),
        "same": archive({"A.txt": b"x", "a.TXT": b"y"}),
        "clash": archive({"a": b"x", "a/b": b"y"}),
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.zip"
        path.write_bytes(content)
        kinds: tuple[type[Exception], ...] = (DownloadError, RunFolderError) if name == "clash" else (DownloadError,)
        with pytest.raises(kinds) as caught:
            unpack(path, tmp_path / name, max_bytes=1_000_000, max_files=10)
        assert "\n" not in str(caught.value)
    assert len(large) < 10_000  # though it unpacks to 5 MB


def test_a_bad_archive_leaves_nothing(host, tmp_path):
    dataset = published(host, movies_zip=archive({"a": b"x"}, links=("b",)))
    with assert_error(DownloadError, mentions=["movies.zip"]):
        download(dataset, tmp_path / "films", network=host.network)
    assert not (tmp_path / "films").exists()


def test_the_command(lirdrec, host, tmp_path, monkeypatch):
    dataset = published(host, movies_zip=archive(MOVIES))
    monkeypatch.setattr("lirdrec.download.datasets.table", lambda: {"toy": dataset})
    monkeypatch.setattr(command, "_network", lambda private: host.network)
    made = lirdrec("download", "toy")
    assert made.exit_code == 0, made.stderr
    assert "lirdrec prepare toy" in made.stdout and Path("toy/ratings.csv").is_file()
    listed = json.loads(lirdrec("download", "--json").stdout)
    assert [(each["name"], each["checked"]) for each in listed] == [("toy", True)]
    assert lirdrec("download", "toy", "--output", "x", "--sha256", "0" * 64).exit_code == 2
    assert not Path("x").exists()
    for arguments in (["no"], ["--column", "a"], ["--image-urls", "a.csv"], ["toy", "--image-urls", "a.csv"]):
        assert lirdrec("download", *arguments).exit_code == 2
