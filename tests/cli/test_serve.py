"""`lirdrec serve` and `lirdrec keys` as a person types them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from lirdrec.recommender.recommender import Recommender
from lirdrec.server.app import create_app
from lirdrec.server.auth import Keys
from lirdrec.server.config import ServerConfig
from lirdrec.server.main import check
from lirdrec.server.request_models import MAX_EVENTS, MAX_ITEMS, EventsRequest, RecommendRequest, SwapRequest
from lirdrec.server.store import Store

from ..helpers import PATIENCE, FreePort, assert_mentions, assert_refused


def test_a_key_is_shown_once_and_works(lirdrec, tmp_path):
    made = lirdrec("keys", "add", "keys.json", "--name", "shop", "--role", "write")
    assert made.exit_code == 0 and made.stdout.strip() not in made.stderr
    key = made.stdout.strip()
    found = Keys(tmp_path / "keys.json").find(key)
    assert (found.name, found.role) == ("shop", "write")
    assert lirdrec("keys", "add", "keys.json", "-n", "page").exit_code == 0
    listed = json.loads(lirdrec("keys", "list", "keys.json", "--json").stdout)
    assert [(one["name"], one["role"]) for one in listed] == [("shop", "write"), ("page", "read")]
    shown = lirdrec("keys", "list", "keys.json").stdout
    assert "shop" in shown and key not in shown and found.sha256 not in shown
    assert lirdrec("keys", "revoke", "keys.json", "--name", "shop").exit_code == 0
    assert Keys(tmp_path / "keys.json").find(key) is None


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["keys", "list", "none.json"], ["none.json", "lirdrec keys add"]),
        (["keys", "add", "keys.json", "--name", "a", "--role", "admin"], ["role", "admin", "read", "write"]),
        (["serve", "nothing"], ["nothing"]),
        (["serve", "RUN", "--host", "0.0.0.0"], ["0.0.0.0", "--keys", "--allow-unauthenticated"]),
        (["serve", "RUN", "--keys", "none.json"], ["none.json", "lirdrec keys add"]),
        (["serve", "RUN", "--port", "99999"], ["port", 99999, 65535]),
        (["serve", "RUN", "--workers", "0"], ["workers", 0, 1]),
        (["serve", "RUN", "--timeout", "0"], ["timeout", 0, "2,147,483,647"]),
        (["serve", "RUN", "--store", "nonsense"], ["sqlite:///", "postgresql+psycopg://"]),
        (["serve", "RUN", "--runs-dir", "."], ["echo run >"]),
        (["serve", "RUN", "--images", "nowhere"], ["--images", "nowhere"]),
        (["serve", "RUN", "--cors", "shop.example"], ["cors", "'shop.example'", "https://shop.example"]),
        (["serve", "RUN", "--encoders", "--device", "gpu"], ["device", "gpu", "cuda"]),
        (["serve", "RUN", "--ann-index", "fast"], ["index", "fast", "exact", "hnsw", "ivf"]),
        (
            ["serve", "RUN", "--host", "203.0.113.7", "--allow-unauthenticated"],
            ["203.0.113.7", 8000, "--host", "--port"],
        ),
        (["serve", "RUN", "--host", "x" * 300, "--allow-unauthenticated"], ["x" * 100, 8000, "--host", "--port"]),
        (["serve", "RUN", "--max-body", "nan"], ["max-body", "nan"]),
        (["serve", "RUN", "--max-body", "inf"], ["max-body", "inf"]),
        (["serve", "RUN", "--max-body", "0"], ["max", "body", 0, 1]),
        (["serve", "RUN", "--timeout", "inf"], ["timeout", "inf", "2,147,483,647"]),
        (["serve", "RUN", "--head-timeout", "nan"], ["head", "nan", "2,147,483,647"]),
        (["serve", "RUN", "--rate-limit", "inf"], ["rate", "limit", "inf", "2,147,483,647"]),
        (["serve", "RUN", "--threads", "9" * 10], ["threads", "9" * 10, "2,147,483,647"]),
        (["serve", "RUN", "--address-connections", "0"], ["address", "connections", 0, 1]),
        (["serve", "RUN", "--cors", "http://[::1"], ["cors", "http://[::1"]),
        (["serve", "RUN", "--trusted-proxy", "proxy.example"], ["proxy.example", "10.0.0.0/8"]),
        (["serve", "RUN", "--trusted-proxy", "10.0.0.7/8"], ["10.0.0.7/8", "10.0.0.0/8"]),
        (["serve", "RUN", "--images", "x" * 3000], ["--images", "x" * 100]),
        (["serve", "x" * 3000], ["x" * 100]),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_starts(lirdrec, run, arguments, facts):
    result = lirdrec(*(str(run) if one == "RUN" else one for one in arguments))
    assert_refused(result, facts)


def test_a_store_that_cannot_be_opened_is_one_sentence(lirdrec, run):
    """Code 1, because it may be there later: nothing is wrong with the command."""
    url = "sqlite:////no/such/folder/x.sqlite"
    assert_refused(lirdrec("serve", run, "--store", url), [url], exit_code=1)


def test_a_file_that_names_no_possible_folder_is_one_sentence(lirdrec, tmp_path):
    (tmp_path / "current").write_text("x" * 3000)
    result = lirdrec("serve", "current")
    assert_refused(result, ["current"])
    assert result.stderr.count("\n") == 1 and "xxxx" not in result.stderr


def test_a_port_that_is_taken_is_reported(lirdrec, run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = lirdrec("serve", run, "--port", port)
    assert_refused(result, [port, "--host", "--port"])
    assert sorted(one.name for one in run.parent.iterdir()) == ["run"], "nothing was made"


def test_the_help_shows_the_defaults_that_hold(lirdrec):
    text = lirdrec("serve", "--help").stdout
    config = ServerConfig("run")
    assert f"(default: {config.max_batch})" in text and f"(default: {config.max_body_bytes // 2**20})" in text
    assert f"(default: {config.timeout_seconds:g})" in text
    assert str(ServerConfig("run", keys="k").requests_per_second.__int__()) in text
    assert f"[default: {config.host}]" in text and f"[default: {config.port}]" in text


def test_what_was_added_under_another_name_is_reported(run, caplog):
    """Served as `run` first, as `current` then: a store of its own, which would seem to have lost everything."""
    (run.parent / "current").write_text("run")
    config = ServerConfig(str(run.parent / "current"), port=0)
    Store(f"sqlite:///{run.parent / 'run.live.sqlite'}").close()
    check(config)
    assert f"--store sqlite:///{run.parent / 'run.live.sqlite'}" in caplog.text
    caplog.clear()
    check(config)  # now there is one of its own, and nothing to say
    assert caplog.text == ""


READY = ("lirdrec.server.services", "info")  # who logs that a worker answers, and how loud


class Served:
    """`lirdrec serve` as a process of its own, ended as a service manager does."""

    def __init__(self, run: Path, *options: str):
        self.port = FreePort()
        self.url = f"http://127.0.0.1:{self.port.number}"
        command = [sys.executable, "-m", "lirdrec", "serve", str(run), "--port", str(self.port.number), *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.lines: list[str] = []
        self.settled = threading.Event()  # ready, or ended
        self.reader = threading.Thread(target=self._read)

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("{") and (json.loads(line)["logger"], json.loads(line)["level"]) == READY:
                self.settled.set()
        self.settled.set()

    def __enter__(self):
        self.reader.start()
        assert self.settled.wait(PATIENCE)
        return self

    def __exit__(self, *error):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        self.reader.join()
        self.process.stderr.close()
        self.port.close()


def test_a_server_starts_answers_and_ends(run):
    with Served(run) as served:
        answer = httpx.post(f"{served.url}/recommend", json={"user": 1, "k": 2, "columns": ["title"]}, timeout=PATIENCE)
        assert [one["columns"]["title"] for one in answer.json()["items"]] == ["Brazil", "Alien"]
        assert httpx.delete(f"{served.url}/items/20", timeout=PATIENCE).status_code == 200
    assert served.url in served.lines[0]
    logged = [json.loads(line) for line in served.lines[1:]]
    assert READY in [(one["logger"], one["level"]) for one in logged]
    assert logged[-1]["message"].startswith("Finished")  # uvicorn's last word
    assert (run.parent / "run.live.sqlite").is_file()


def rewritten(run: Path, name: str, content: bytes) -> None:
    """Replace a file of a run so that the manifest agrees."""
    (run / name).write_bytes(content)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (run / "manifest.json").write_text(json.dumps(manifest))


def test_wrong_vectors_are_refused_before_anything_starts(lirdrec, run):
    rewritten(run, "vectors.safetensors", b"\xff" * 64)
    result = lirdrec("serve", run)
    assert_refused(result, ["vectors.safetensors"])
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_cannot_open_its_run_ends_and_says_why(run, workers):
    """What only loading shows; whoever looks after the process sees that it failed."""
    config = json.loads((run / "config.json").read_text())
    rewritten(run, "config.json", json.dumps({**config, "scorer": {"kind": "nothing"}}).encode())
    with Served(run, "--workers", str(workers)) as served:
        assert served.process.wait() == 2
    assert served.lines[-1].startswith("lirdrec: ")
    assert_mentions(served.lines[-1], [run, "'nothing'"])
    assert not [line for line in served.lines if "Traceback" in line]


@pytest.mark.slow
def test_workers_see_each_others_changes_and_count_together(run, tmp_path):
    """`pytest -m slow tests/cli/test_serve.py`."""
    with Served(run, "--workers", "2") as served:
        with ThreadPoolExecutor(8) as pool:  # connections of their own, so that both workers get some
            body = {"user": 1, "k": 3}
            ask = lambda _: httpx.post(f"{served.url}/recommend", json=body, timeout=PATIENCE).json()["items"]
            assert {one[0]["item"] for one in pool.map(ask, range(40))} == {20}
            assert httpx.delete(f"{served.url}/items/20", timeout=PATIENCE).status_code == 200
            assert {one[0]["item"] for one in pool.map(ask, range(40))} == {10}
        text = httpx.get(f"{served.url}/metrics", timeout=PATIENCE).text
    assert 'lirdrec_requests_total{method="POST",route="/recommend",status="200"} 80.0' in text
    started = [line for line in served.lines if "Started server process" in line]
    assert len(started) == 2 and Recommender.load(run).n_items == 3


def test_the_page_on_serving_is_true():
    """Bodies of its examples fit, its addresses exist, and its limits are the configuration's."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    models = {"recommend": RecommendRequest, "events": EventsRequest, "model": SwapRequest}
    examples = re.findall(r"-d '(\{[^']*\})'[^/]*?http://127.0.0.1:8000/(\w+)", page)
    for body, path in examples:
        models[path].model_validate_json(body)
    assert {path for _, path in examples} == set(models)
    known = {path.split("?")[0] for path in create_app(ServerConfig("run")).openapi()["paths"]}
    assert known - {"/users/{user}", "/openapi.json"} <= {*re.findall(r"/[\w/{}]+", page)}
    config = ServerConfig("run")
    for limit in (f"{config.max_batch} |", f"{config.max_body_bytes // 2**20} MB", f"{config.timeout_seconds:g} s"):
        assert limit in page
    assert f"{config.max_pixels // 10**6} million pixels" in page and f"{MAX_ITEMS}, {MAX_EVENTS:,} |" in page


def test_workers_end_with_the_process_that_started_them(run):
    with Served(run, "--workers", "2") as served:
        served.process.kill()
    # their stream of errors has ended, so nobody holds it any more
    logged = [json.loads(line) for line in served.lines if line.startswith("{")]
    assert served.process.returncode == -signal.SIGKILL
    assert ("lirdrec.server.main", "error") in [(one["logger"], one["level"]) for one in logged]
    assert any(one["message"].startswith("Finished server process") for one in logged)  # uvicorn's
