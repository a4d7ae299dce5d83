"""A model hub on this machine: the requests of huggingface_hub, answered as the real one does."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import yaml

TOKEN = "hf_of_the_tests"
COMMIT = "c0ffee" * 6 + "c0ff"


class FakeHub:
    """repositories: name -> {"private", "files": name -> bytes}. requests: "METHOD path" each."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.address = ""

    def add(self, repo: str, files: dict[str, bytes], *, private: bool = False) -> None:
        self.repositories[repo] = {"private": private, "files": files}

    def answer(self, method: str, path: str, body: bytes, is_known: bool) -> tuple[int, Any]:
        """Status, and a JSON value, bytes or (headers, bytes)."""
        self.requests.append(f"{method} {path}")
        given = json.loads(body) if body.startswith(b"{") and body.count(b"\n") < 2 else {}
        if (method, path) == ("PUT", f"/objects/{path.rpartition('/')[2]}"):
            self.objects[path.rpartition("/")[2]] = body
            return 200, b""
        if found := re.fullmatch(r"/(.+?)/resolve/[^/]+/(.+)", path):
            return self._file(*found.groups())
        if not is_known:
            return 401, {"error": "Invalid username or password."}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "type": "user", "orgs": [], "auth": {}}
        if path == "/api/validate-yaml":
            front = yaml.safe_load(re.split(r"(?m)^---$", given["content"])[1])
            ok = isinstance(front, dict) and front.get("model-index")
            return (200, {"errors": [], "warnings": []}) if ok else (400, {"errors": []})
        if path == "/api/repos/create":
            repo = f"{given['organization'] or 'me'}/{given['name']}"
            if repo in self.repositories:
                url = f"{self.address}/{repo}"
                return 409, {"error": "You already created this model repo", "url": url}
            is_private = given.get("private") or given.get("visibility") == "private"
            self.add(repo, {}, private=bool(is_private))
            return 200, {"url": f"{self.address}/{repo}", "name": repo}
        if found := re.fullmatch(r"/(.+?)\.git/info/lfs/objects/batch", path):
            return 200, {"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"{self.address}/objects/{one['oid']}"}}}
                for one in given["objects"]
            ]}  # fmt: skip
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            modes = {True: "lfs", False: "regular"}
            return 200, {"files": [
                {"path": one["path"], "shouldIgnore": False, "oid": None,
                 "uploadMode": modes[one["path"].endswith(".safetensors")]}
                for one in given["files"]
            ]}  # fmt: skip
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            return self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        if found := re.match(r"/api/models/([^/]+/[^/]+)(/tree/|/revision/|$)", path):
            return self._about(found[1], tree=found[2] == "/tree/")
        return 404, {"error": f"the tests' hub knows no {path}"}

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        files = self.repositories[repo]["files"]
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.objects[value["oid"]]
        url = f"{self.address}/{repo}/commit/{COMMIT}"
        return 200, {"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""}

    def _about(self, repo: str, *, tree: bool) -> tuple[int, Any]:
        if repo not in self.repositories:
            return 404, ({"X-Error-Code": "RepoNotFound"}, b"{}")
        found = self.repositories[repo]
        files = [
            {
                "type": "file",
                "path": name,
                "rfilename": name,
                "size": len(content),
                "oid": _blob(content),
                "blobId": _blob(content),
            }
            for name, content in found["files"].items()
        ]
        if tree:
            return 200, files
        told = {"id": repo, "private": found["private"], "sha": COMMIT, "siblings": files}
        return 200, told | {"tags": [], "downloads": 0, "likes": 0}

    def _file(self, repo: str, name: str) -> tuple[int, Any]:
        content = self.repositories[repo]["files"].get(name)
        headers = {"X-Repo-Commit": COMMIT}
        if content is None:
            return 404, (headers | {"X-Error-Code": "EntryNotFound"}, b"")
        return 200, (headers | {"ETag": f'"{_blob(content)}"'}, content)


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving() -> Iterator[FakeHub]:
    """The hub, at `address` on the loopback, until the block ends."""
    hub = FakeHub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            is_known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            path = urlsplit(self.path).path
            status, content = hub.answer(self.command, path, body, is_known)
            headers: dict[str, str] = {}
            if isinstance(content, tuple):
                headers, content = content
            elif not isinstance(content, bytes):
                content = json.dumps(content).encode()
                headers = {"Content-Type": "application/json"}
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

        def log_message(self, *what: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
