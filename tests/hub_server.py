"""A stand-in for the Hugging Face Hub on 127.0.0.1: one process, one commit history of files in memory.

Only the calls that `huggingface_hub` makes for a data set's files: repositories, trees, ranges, uploads within commits.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_REPO = r"/api/datasets/([^/]+/[^/]+)"


def blob_id(content: bytes) -> str:
    """The id that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Hub(ThreadingHTTPServer):
    """Files by repository; ``fail_commits`` further commits are answered by an error, ``commits`` are those made."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[list[str]] = []
        self.ranges: list[str] = []
        self.fail_commits_after: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[3], body)
        elif match := re.fullmatch(_REPO + r"(?:/revision/[^/]+)?", path):
            if match[1] not in self.server.repos:
                self._missing("RepoNotFound")
            else:
                siblings = [{"rfilename": name} for name in self.server.repos[match[1]]]
                self._json({"id": match[1], "sha": "0" * 40, "siblings": siblings, "private": True, "tags": []})
        elif match := re.fullmatch(_REPO + r"/tree/[^/]+(?:/(.*))?", path):
            self._tree(match[1], match[2] or "")
        else:
            self._missing("EntryNotFound")

    def _tree(self, repo: str, folder: str) -> None:
        files = self.server.repos.get(repo)
        if files is None:
            self._missing("RepoNotFound")
            return
        recursive = "recursive=True" in self.path or "recursive=true" in self.path
        inside = {n: c for n, c in files.items() if not folder or n.startswith(folder + "/")}
        if folder and not inside:
            self._missing("EntryNotFound")
            return
        rows: dict[str, dict[str, Any]] = {}
        for name, content in inside.items():
            rest = name[len(folder) + 1 if folder else 0 :]
            steps = rest.split("/")
            for depth in range(1, len(steps) if recursive else min(len(steps), 2)):
                at = "/".join(([folder] if folder else []) + steps[:depth])
                rows.setdefault(at, {"type": "directory", "path": at, "oid": "1" * 40, "size": 0})
            if recursive or len(steps) == 1:
                rows[name] = {"type": "file", "path": name, "oid": blob_id(content), "size": len(content)}
                if name.endswith(".tar"):
                    digest = hashlib.sha256(content).hexdigest()
                    rows[name]["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        self._json(list(rows.values()))

    def _file(self, repo: str, name: str, body: bool) -> None:
        content = self.server.repos.get(repo, {}).get(name)
        if content is None:
            self._missing("EntryNotFound")
            return
        status, part = 200, content
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is not None:
            self.server.ranges.append(f"{name} {self.headers['Range']}")
            start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            status, part = 206, content[start : end + 1]
        self.send_response(status)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{blob_id(content)}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.wfile.write(part)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            asked = json.loads(data)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if repo in self.server.repos:
                self._json({"error": "exists", "url": f"{self.server.url}/datasets/{repo}"}, 409)
                return
            self.server.repos[repo] = {}
            self.server.private[repo] = bool(asked.get("private")) or asked.get("visibility") == "private"
            self._json({"url": f"{self.server.url}/datasets/{repo}", "id": "1", "name": repo})
        elif match := re.fullmatch(_REPO + r"/preupload/[^/]+", path):
            rows = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for f in json.loads(data)["files"]
            ]
            self._json({"files": rows})
        elif match := re.fullmatch(_REPO + r"/paths-info/[^/]+", path):
            files = self.server.repos.get(match[1], {})
            wanted = json.loads(data)["paths"] if data[:1] == b"{" else []
            there = {name: files[name] for name in wanted if name in files}
            self._json([{"type": "file", "path": n, "oid": blob_id(c), "size": len(c)} for n, c in there.items()])
        elif match := re.fullmatch(_REPO + r"/commit/[^/]+", path):
            self._commit(match[1], data)
        else:
            self._missing("EntryNotFound")

    def _commit(self, repo: str, data: bytes) -> None:
        after = self.server.fail_commits_after
        if after is not None and len(self.server.commits) >= after:
            self._json({"error": "the stand-in refuses"}, 403)
            return
        rows = [json.loads(line) for line in data.splitlines() if line.strip()]
        files = {r["value"]["path"]: base64.b64decode(r["value"]["content"]) for r in rows if r["key"] == "file"}
        self.server.repos[repo] |= files
        self.server.commits.append(sorted(files))
        self._json({"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.server.url}/datasets/{repo}/commit/0"})

    def _json(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def running() -> Iterator[Hub]:
    """The stand-in, while it runs."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
