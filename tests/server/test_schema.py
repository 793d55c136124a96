"""What /openapi.json promises is what the server does: schemathesis asks for everything that it describes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from lirdrec.server.auth import add_key
from lirdrec.server.response_models import ProblemBody

from ..helpers import PATIENCE
from .runs import EACH, KINDS, N_USERS, Listening, whole_numbers

CHECKS = Path(__file__).with_name("schema_checks.py")
ITEMS = [100 * kind + number for kind in range(1, len(KINDS) + 1) for number in range(EACH)]  # many: some get removed
USERS = list(range(N_USERS))
ASKING = {"/recommend", "/recommend/batch"}  # POST, but nothing is changed


def schemathesis(listening, folder, *more, description=None, examples, users=USERS, items=ITEMS, key=None, seed=None):
    """Ask a server for all that it describes, or a file does.

    Of each operation it sends the examples, edge cases, random requests that fit the description and others that do
    not, and chains of what belongs together. Every other of those that fit is about `users` and `items`.

    Returns:
        Exit status, 0 if it found nothing; what it wrote; the operations that were a success at least once.
    """
    client = httpx.Client(base_url=listening.url, headers={"X-API-Key": key} if key else {}, timeout=PATIENCE)
    known = {"user": users, "item": items, "features": client.get("/model").json()["features"]}
    (folder / "known.json").write_text(json.dumps(known))
    settings = folder / "schemathesis.toml"
    settings.write_text(
        f"""
        hooks = {json.dumps(str(CHECKS))}
        continue-on-failure = true
        request-timeout = {PATIENCE}
        suppress-health-check = ["too_slow"]
        {f'headers = {{ Authorization = "Bearer {key}" }}' if key else ""}
        {"" if seed is None else f"seed = {seed}"}
        [generation]
        deterministic = {str(seed is None).lower()}
        max-examples = {examples}
        with-security-parameters = false  # the right key, but where the check ignored_auth spoils it
        [checks]
        positive_data_acceptance.enabled = false  # see refused_for_a_reason in schema_checks.py
        """
    )
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "--no-color", "run"]
    command += [description or f"{listening.url}/openapi.json", "--url", listening.url, "--warnings", "off", *more]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    done = set(re.findall(r'requests_total{method="(.+?)",route="(.+?)",status="20.+?"}', client.get("/metrics").text))
    return found.returncode, found.stdout[-20_000:] + found.stderr[-5000:], done - {("other", "other")}


def keyed(shop, folder):
    """Options of a server that has keys, encoders, and runs to choose from."""
    pointer = folder / "current"
    pointer.write_text(f"{shop}\n")
    keys = folder / "keys.json"
    writer, reader = add_key(keys, "shop", "write"), add_key(keys, "page", "read")
    options = {"keys": str(keys), "rate_limit": 0, "runs": str(shop.parent), "encoders": True}
    return pointer, options, writer, reader


def test_all_that_is_described_is_so(shop, tmp_path):
    with Listening(shop, tmp_path) as listening:
        status, spec, done = schemathesis(listening, tmp_path, examples=15)
    assert status == 0 and "Tested: 20" in spec, spec
    assert len(done) == 19  # all but POST /model, without --runs-dir: what was never reached would prove nothing


def test_with_keys_too(shop, tmp_path):
    """With a key that may write, encoders, and runs to change to; schemathesis leaves the key out and spoils it too."""
    pointer, options, writer, _ = keyed(shop, tmp_path)
    with Listening(pointer, tmp_path, **options) as listening:
        status, spec, done = schemathesis(listening, tmp_path, examples=12, key=writer)
    assert status == 0 and "Tested: 20" in spec, spec
    assert len(done) == 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_far_and_wide(shop, tmp_path, seed):
    pointer, options, writer, _ = keyed(shop, tmp_path)
    with Listening(pointer, tmp_path, max_batch=7, **options) as listening:
        status, spec, done = schemathesis(listening, tmp_path, examples=300, key=writer, seed=seed)
    assert status == 0 and len(done) == 20, spec


@pytest.mark.slow
def test_with_text_ids_and_a_run_that_takes_nothing_new(tmp_path):
    run = whole_numbers().save(tmp_path / "run")
    users, items = ([f"{letter}{row}" for row in range(many)] for letter, many in (("u", 40), ("i", 300)))
    with Listening(run, tmp_path) as listening:
        status, spec, done = schemathesis(listening, tmp_path, examples=200, users=users, items=items)
    assert status == 0 and ("POST", "/recommend") in done and ("POST", "/items") not in done, spec


def test_a_description_that_lies_is_found_out(shop, tmp_path):
    """The same run of schemathesis, with three lies: it could not pass if the server did otherwise than described."""
    with Listening(shop, tmp_path) as listening:
        spec = httpx.get(f"{listening.url}/openapi.json", timeout=PATIENCE).json()
        del spec["paths"]["/similar/{item}"]["get"]["responses"]["404"]
        spec["components"]["schemas"]["ModelAnswer"]["properties"]["users"]["type"] = "string"
        spec["components"]["schemas"]["EventIn"]["properties"]["user"] = {"type": "boolean"}
        lies = tmp_path / "lies.json"
        lies.write_text(json.dumps(spec))
        paths = [part for path in ("/similar/{item}", "/model", "/events") for part in ("--include-path", path)]
        status, found, _ = schemathesis(listening, tmp_path, *paths, description=str(lies), examples=5)
    assert status == 1
    for what in ("Undocumented status code: 1", "Response violates schema: 1", "`refused_for_a_reason`: 1"):
        assert what in found, found


def test_keys_and_roles_are_as_described(shop, tmp_path):
    """Without a key, or with a wrong one, 401 wherever the description asks for one; 403 where a reader would write."""
    pointer, options, _, reader = keyed(shop, tmp_path)
    with (
        Listening(pointer, tmp_path, **options) as listening,
        httpx.Client(base_url=listening.url, timeout=PATIENCE) as client,
    ):
        spec = client.get("/openapi.json").json()
        asked = {
            (method.upper(), path): what for path, methods in spec["paths"].items() for method, what in methods.items()
        }
        assert len(asked) == 20
        changed = 0
        for (method, path), what in asked.items():
            is_open = what.get("security", spec["security"]) == []
            address = path.replace("{item}", "101").replace("{user}", "1")

            def ask(key, method=method, address=address, what=what):
                headers = {} if key is None else {"Authorization": f"Bearer {key}"}
                answer = client.request(method, address, headers=headers)
                assert str(answer.status_code) in what["responses"], (method, address, answer.text)
                if answer.is_error:
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert ProblemBody.model_validate_json(answer.content).status == answer.status_code
                return answer.status_code

            for key in (None, "lirdrec_wrong"):
                assert (ask(key) == 401) is not is_open, (method, path, key)
            writes = method != "GET" and path not in ASKING
            assert (ask(reader) == 403) is writes, (method, path)
            assert ask(reader) != 401
            changed += writes
        assert changed == 4
