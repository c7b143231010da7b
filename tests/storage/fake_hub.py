"""A small hub: the part of the Hugging Face hub's HTTP API that pushing and fetching a model need.

Repositories are dictionaries of files; large files go through the LFS protocol, as on the real one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import yaml

TOKEN = "hf_a_token_that_may_write"
REVISION = "0" * 40


@dataclass
class Repository:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


class FakeHub:
    """Serves until it is closed. `received` counts the bytes of large files that were really sent."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.received = 0
        self.fail_commits = 0
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def add(self, name: str, files: dict[str, bytes]) -> None:
        """A model that somebody else has uploaded."""
        self.repositories[name] = Repository(files=files)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing: the tests look at the outcome."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid credentials in Authorization header"})
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            return self._answer(200, {"errors": [], "warnings": []})
        found = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/.]+(?:\.[^/g][^/]*)?)(?:\.git)?/(.*)", path)
        assert found, path
        name, action = found[1], found[2].split("/")[0]
        if name not in self.hub.repositories:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        repository = self.hub.repositories[name]
        match action:
            case "preupload":
                return self._answer(200, {"files": [self._mode(f) for f in json.loads(body)["files"]]})
            case "info":
                return self._batch(json.loads(body))
            case "commit":
                return self._commit(name, repository, body)
            case "tag":
                revision = found[2].split("/")[1]
                repository.tags[json.loads(body)["tag"]] = revision
                return self._answer(200, {})
        raise AssertionError(path)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.large[oid] = body
        self.hub.received += len(body)
        self._answer(200, {})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].split("/")
        if parts[1] != "api":
            return self._file("/".join(parts[1:3]), unquote("/".join(parts[5:])))
        name = "/".join(parts[3:5])
        if name not in self.hub.repositories:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        files = self.hub.repositories[name].files
        if len(parts) > 5 and parts[5] == "revision":
            siblings = [{"rfilename": path} for path in files]
            return self._answer(200, {"id": name, "sha": REVISION, "siblings": siblings})
        tree = [
            {"type": "file", "path": path, "size": len(body), "oid": _git_oid(body)}
            for path, body in files.items()
        ]
        return self._answer(200, tree)

    def _file(self, name: str, path: str) -> None:
        found = self.hub.repositories[name].files.get(path)
        if found is None:
            return self._answer(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
        self.send_response(200)
        self.send_header("ETag", f'"{_git_oid(found)}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(found)
        return None

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.hub.endpoint}/{name}"}
        if name in self.hub.repositories:
            return self._answer(409, {"error": "You already created this model repo"} | url)
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repositories[name] = Repository(bool(private))
        return self._answer(200, url)

    def _mode(self, asked: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if asked["path"].endswith(".safetensors") else "regular"
        return {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False}

    def _batch(self, asked: dict[str, Any]) -> None:
        def one(wanted: dict[str, Any]) -> dict[str, Any]:
            if wanted["oid"] in self.hub.large:
                return wanted
            return wanted | {"actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{wanted['oid']}"}}}

        self._answer(200, {"transfer": "basic", "objects": [one(wanted) for wanted in asked["objects"]]})

    def _commit(self, name: str, repository: Repository, body: bytes) -> None:
        if self.hub.fail_commits:
            self.hub.fail_commits -= 1
            return self._answer(500, {"error": "try again"})
        lines = [json.loads(line) for line in body.splitlines()]
        assert lines[0]["key"] == "header"
        for line in lines[1:]:
            value = line["value"]
            match line["key"]:
                case "file":
                    repository.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    repository.files[value["path"]] = self.hub.large[value["oid"]]
                case "deletedFile":
                    del repository.files[value["path"]]
                case other:
                    raise AssertionError(other)
        oid = hashlib.sha1(body + str(len(repository.commits)).encode()).hexdigest()
        repository.commits.append(lines[0]["value"]["summary"])
        url = f"{self.hub.endpoint}/{name}/commit/{oid}"
        return self._answer(200, {"commitUrl": url, "commitOid": oid})

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        sent = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)


def _git_oid(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
