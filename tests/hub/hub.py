"""A stand-in of the Hugging Face hub on this machine: what its client really calls, with real bytes up and down.

Repositories with commits and branches, private ones, tokens with and without the right to write; large files go through
the LFS batch interface to a storage of another name (as on the real hub, so tokens must not go there).
`fail` makes the next matching requests end badly. The client's Xet protocol is not spoken: tests switch it off.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

OWNER, READER = "hf_ownerownerownerowner", "hf_readerreaderreader"
LARGE = (".npy", ".safetensors", ".parquet", ".png")  # what the hub keeps as LFS whatever its size
PREFIX = {"models": "", "datasets": "datasets/"}


@dataclass
class Repo:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        known = json.dumps([len(self.commits), branch, sorted(files), message]).encode()
        oid = hashlib.sha1(known).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        self.messages.append(message)
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]


@dataclass
class Fault:
    method: str
    path: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # bytes after which the connection ends
    times: int = 1


class Hub:
    """Two servers and what they hold. `requests` are method, path and whether a token came with them."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.stored: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, bool]] = []
        self.ranges: list[int] = []  # where downloads that went on began
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in (_handler(self), _storage(self))]
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        ports = [server.server_port for server in self.servers]
        self.url, self.storage = f"http://127.0.0.1:{ports[0]}", f"http://localhost:{ports[1]}"

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def fail(self, method: str, path: str, **how: Any) -> Fault:
        self.faults.append(Fault(method, path, **how))
        return self.faults[-1]

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def asked(self, method: str, path: str) -> int:
        return sum(one == method and re.search(path, what) is not None for one, what, _ in self.requests)


class _Base(BaseHTTPRequestHandler, ABC):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def body(self) -> bytes:
        """What came with the request, read once."""
        if self.read is None:
            self.read = self.receive()
        return self.read

    def receive(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status: int, content: Any = b"", **headers: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": len(data)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def began(self) -> bool:
        """Note the request; False where a fault has answered it already."""
        self.read = None
        self.hub.requests.append((self.command, self.path, "Authorization" in self.headers))
        fault = self.hub.fault(self.command, self.path)
        self.cut = None if fault is None else fault.cut
        if fault is not None and fault.status is not None:
            self.body()
            self.answer(fault.status, {"error": "no"}, **fault.headers)
            return False
        if fault is not None and self.command != "GET":  # an upload that is cut
            self.rfile.read(min(fault.cut or 0, int(self.headers.get("Content-Length") or 0)))
            self.close_connection = True
            self.connection.shutdown(2)
            return False
        return True

    def run(self) -> None:
        if self.began():
            self.serve()

    do_GET = do_HEAD = do_POST = do_PUT = run

    @abstractmethod
    def serve(self) -> None:
        """Answer a request that no fault has answered."""

    def send_file(self, data: bytes, **headers: Any) -> None:
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        if start:
            self.hub.ranges.append(start)
        self.send_response(206 if start else 200)
        for name, value in ({"Content-Length": len(data) - start} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut is None:
            self.wfile.write(data[start:])
            return
        self.wfile.write(data[start : start + self.cut])
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)


def _storage(of: Hub) -> type[_Base]:
    class Storage(_Base):
        hub = of

        def serve(self) -> None:
            oid = urlsplit(self.path).path.rsplit("/", 1)[1]
            if self.command == "PUT":
                data = self.body()
                if hashlib.sha256(data).hexdigest() != oid:
                    return self.answer(400)
                self.hub.stored[oid] = data
                return self.answer(200)
            self.send_file(self.hub.stored[oid])

    return Storage


def _handler(of: Hub) -> type[_Base]:
    class Handler(_Base):
        hub = of

        def token(self) -> str | None:
            return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

        def refuse(self, status: int, code: str = "", message: str = "") -> None:
            self.body()
            self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

        def serve(self) -> None:
            path, query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
            token = self.token()
            if token not in (None, OWNER, READER):
                return self.refuse(401, message="Invalid credentials in Authorization header")
            if path == "/api/validate-yaml":
                return self.validate()
            if path == "/api/repos/create":
                return self.create()
            found = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/([^/]+)(?:/(.+))?)?", path)
            if found:
                kind, name, verb, rest = found.groups()
            else:
                found = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+?)(?:\.git/info/(lfs)/.*|/(resolve)/(.+))", path)
                if not found:
                    return self.refuse(404)
                kind, name = "datasets" if found[1] else "models", found[2]
                verb, rest = found[3] or found[4], found[5]
            repo = self.hub.repos.get(PREFIX[kind] + name)
            if repo is None or (repo.private and token is None):
                if token is None:  # the hub does not tell which of the two it is
                    return self.refuse(401, message="Invalid username or password.")
                return self.refuse(404, "RepoNotFound", "Repository not found")
            if verb in ("commit", "preupload", "lfs", "branch") and token != OWNER:
                return self.refuse(403, message="You do not have write access")
            getattr(self, f"on_{verb or 'revision'}")(repo, PREFIX[kind] + name, rest, query)

        def validate(self) -> None:
            import yaml  # comes with the client

            content = json.loads(self.body())["content"]
            try:
                header = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)[1])
                good = isinstance(header["license"], str)
                for model in header.get("model-index", []):
                    for result in model["results"]:
                        good &= {"task", "dataset", "metrics"} <= set(result) and bool(result["dataset"]["type"])
            except (TypeError, KeyError, yaml.YAMLError) as error:
                return self.answer(400, {"errors": [{"message": str(error)}], "warnings": []})
            self.answer(200 if good else 400, {"errors": [], "warnings": []})

        def create(self) -> None:
            asked = json.loads(self.body())
            if self.token() is None:
                return self.refuse(401, message="Invalid username or password.")
            if self.token() != OWNER or asked["organization"] != "me":
                return self.refuse(403, message="You don't have the rights to create this")
            name = PREFIX[f"{asked.get('type', 'model')}s"] + f"me/{asked['name']}"
            if name in self.hub.repos:
                return self.answer(409, {"url": f"{self.hub.url}/{name}"})
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.hub.repos[name] = Repo(private)
            self.hub.repos[name].commit("main", {".gitattributes": b"*.npy filter=lfs\n"}, "initial commit")
            self.answer(200, {"url": f"{self.hub.url}/{name}"})

        def known(self, repo: Repo, revision: str) -> str | None:
            commit = repo.branches.get(revision, revision)
            if commit in repo.commits:
                return commit
            self.refuse(404, "RevisionNotFound", "Invalid rev id")
            return None

        def on_revision(self, repo: Repo, name: str, revision: str | None, query: dict) -> None:
            if commit := self.known(repo, revision or "main"):
                siblings = [{"rfilename": one} for one in repo.commits[commit]]
                answer = {"id": name.removeprefix("datasets/"), "sha": commit, "private": repo.private}
                self.answer(200, answer | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

        def on_tree(self, repo: Repo, name: str, revision: str, query: dict) -> None:
            if commit := self.known(repo, revision):
                entries = []
                for path, data in repo.commits[commit].items():
                    entry = {"type": "file", "path": path, "size": len(data), "oid": _git(data)}
                    if path.endswith(LARGE):
                        entry["lfs"] = {"oid": _sha(data), "size": len(data), "pointerSize": 130}
                    entries.append(entry)
                self.answer(200, entries)

        def on_preupload(self, repo: Repo, name: str, revision: str, query: dict) -> None:
            asked = json.loads(self.body())["files"]
            if commit := self.known(repo, revision):
                files = []
                for one in asked:
                    large = one["path"].endswith(LARGE)
                    entry = {"path": one["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
                    if (data := repo.commits[commit].get(one["path"])) is not None:
                        entry["oid"] = _sha(data) if large else _git(data)
                    files.append(entry)
                self.answer(200, {"files": files})

        def on_lfs(self, repo: Repo, name: str, rest: str, query: dict) -> None:
            objects = []
            for one in json.loads(self.body())["objects"]:
                entry = {"oid": one["oid"], "size": one["size"]}
                if one["oid"] not in self.hub.stored:
                    entry["actions"] = {"upload": {"href": f"{self.hub.storage}/put/{one['oid']}?signature=secret"}}
                objects.append(entry)
            self.answer(200, {"transfer": "basic", "objects": objects})

        def on_branch(self, repo: Repo, name: str, branch: str, query: dict) -> None:
            self.body()
            if branch in repo.branches:
                return self.refuse(409, message="Reference already exists")
            repo.branches[branch] = repo.branches["main"]
            self.answer(200, {})

        def on_commit(self, repo: Repo, name: str, branch: str, query: dict) -> None:
            lines = [json.loads(line) for line in self.body().splitlines()]
            head = lines[0]["value"]
            if head.get("parentCommit", repo.branches[branch]) != repo.branches[branch]:
                return self.refuse(412, message="A commit has happened since")
            files = dict(repo.files(branch))
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.hub.stored[value["oid"]]
                else:
                    del files[value["path"]]
            oid = repo.commit(branch, files, head["summary"])
            self.answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})

        def on_resolve(self, repo: Repo, name: str, rest: str, query: dict) -> None:
            revision, path = rest.split("/", 1)
            if not (commit := self.known(repo, revision)):
                return
            data = repo.commits[commit].get(path)
            if data is None:
                return self.refuse(404, "EntryNotFound", "Entry not found")
            if not path.endswith(LARGE):
                return self.send_file(data, ETag=f'"{_git(data)}"', X_Repo_Commit=commit)
            self.hub.stored.setdefault(_sha(data), data)
            where = f"{self.hub.storage}/get/{_sha(data)}?signature=secret"
            linked = {"X_Linked_Etag": f'"{_sha(data)}"', "X_Linked_Size": len(data), "X_Repo_Commit": commit}
            self.answer(302, Location=where, **linked)

    return Handler


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
