"""A store for tests: moto's S3 server on 127.0.0.1, behind a proxy that fails in the ways a network and a store do.

Run it alone with ``python tests/faulty_store.py PORT`` to point anything else at it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import fsspec
from processes import PATIENCE

if TYPE_CHECKING:
    import pytest

BUCKET = "bucket"
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect"}

Fault = Callable[[str, str, int], "int | str | float | None"]
"""Method, path and number of a request to what happens to it: a status (503), ``"cut"`` (the connection ends in the
middle of the upload), ``"lose"`` (it is done, and the answer is lost), ``"kill"`` (the server dies in the middle of
it), seconds of delay, or None."""


class FaultyStore:
    """The proxy.

    Attributes:
        fault: What happens to a request.
        requests: How many there were.
        writes: How often each object was written, by its key.
        broken: What was visible in the store and should not have been: a sidecar without its tar.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.fault: Fault = lambda method, path, number: None
        self.keep_conditions = True
        self.requests = 0
        self.writes: Counter[str] = Counter()
        self.broken: list[str] = []
        self.faults: Counter[str] = Counter()
        self.port = 0
        self.died = threading.Event()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> FaultyStore:
        """Listen; on the same port again after `kill`."""
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_address[1]
        self.died.clear()
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def kill(self) -> None:
        """Die at once: nobody listens any more, and every connection is cut, whatever it is at."""
        server, self._server = self._server, None
        self.died.set()
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for connection in list(self._sockets):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """No faults, no counts."""
        self.fault = lambda method, path, number: None
        self.keep_conditions = True
        self.requests = 0
        self.writes.clear()
        self.faults.clear()
        self.broken.clear()
        if self._server is None:
            self.start()

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any, bytes]:
        """Ask moto."""
        conditional = any(name.lower() == "if-none-match" for name in headers)
        if conditional and not self.keep_conditions:
            headers = {k: v for k, v in headers.items() if k.lower() != "if-none-match"}
        # moto looks and then writes; a store does both at once.
        with self._lock if method in ("PUT", "POST", "DELETE") else contextlib.nullcontext():
            status, answer, data = self._ask(method, path, headers, body)
            if status < 300 and method in ("PUT", "POST") and "?" not in path:
                key = path.lstrip("/").partition("/")[2]
                self.writes[key] += 1
                self._audit(key)
        return status, answer, data

    def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection(*self.upstream, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _audit(self, key: str) -> None:
        """Whoever sees a sidecar must see the tar that it promises, whole."""
        stem = key.removesuffix(".tar").removesuffix(".json")
        if not stem.rpartition("/")[2].isdigit():
            return
        status, _, mark = self._ask("GET", f"/{BUCKET}/{stem}.json", {}, b"")
        if status != 200:
            return
        promised = json.loads(mark)["sha256"]
        status, _, tar = self._ask("GET", f"/{BUCKET}/{stem}.tar", {}, b"")
        found = hashlib.sha256(tar).hexdigest() if status == 200 else None
        if promised != found:
            self.broken.append(f"{stem}: {promised} promised, {found} there")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


def _handler(store: FaultyStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = PATIENCE

        def setup(self) -> None:
            super().setup()
            store._sockets.add(self.connection)

        def finish(self) -> None:
            store._sockets.discard(self.connection)
            with contextlib.suppress(OSError):
                super().finish()

        def log_message(self, *args: Any) -> None:
            pass

        def serve(self) -> None:
            store.requests += 1
            fault = store.fault(self.command, self.path, store.requests)
            if fault is not None:
                store.faults[str(fault)] += 1
            length = int(self.headers.get("Content-Length") or 0)
            if fault in ("cut", "kill"):
                self.rfile.read(length // 2)
                self.close_connection = True
                if fault == "kill":
                    threading.Thread(target=store.kill, daemon=True).start()
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            body = self.rfile.read(length)
            if len(body) < length:
                self.close_connection = True
                return
            if isinstance(fault, float):
                time.sleep(fault)
            if isinstance(fault, int):
                text = b"<Error><Code>%s</Code><Message>injected</Message></Error>"
                code = {503: b"SlowDown", 500: b"InternalError", 403: b"AccessDenied"}.get(fault, b"Injected")
                self.answer(fault, [("Content-Type", "application/xml")], text % code)
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
            status, answer, data = store.forward(self.command, self.path, headers, body)
            if fault == "lose":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.answer(status, answer, data)

        def answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.send_response_only(status)
            sized = False
            for name, value in headers:
                if name.lower() in _HOP:
                    continue
                sized |= name.lower() == "content-length"
                self.send_header(name, value)
            if not sized:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve

    return Handler


def point_at(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``s3://`` be the store, which is as new, whatever the machine's own settings, here and in later processes."""
    store.reset()
    for name in [n for n in os.environ if n.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(fsspec.config, "conf", {"s3": storage_options(store)})
    monkeypatch.setenv("FSSPEC_S3", json.dumps(storage_options(store)))
    monkeypatch.setenv("ACTIONIMG_STORE_PATIENCE", "30")


@contextlib.contextmanager
def revived(store: FaultyStore, seconds: float) -> Iterator[None]:
    """Begin the server again so many seconds after it died."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            if store.died.wait(0.1):
                time.sleep(seconds)
                store.start()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)


@contextlib.contextmanager
def running_store(port: int = 0) -> Iterator[FaultyStore]:
    """moto with an empty bucket, and the proxy before it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    try:
        store = FaultyStore(moto.get_host_and_port())
        store.port = port
        store.start()
        try:
            status, _, _ = store.forward("PUT", f"/{BUCKET}", {}, b"")
            assert status == 200
            yield store
        finally:
            store.kill()
    finally:
        moto.stop()


def storage_options(store: FaultyStore, read_timeout: float = 5.0) -> dict[str, Any]:
    """fsspec's configuration of ``s3://`` for it (``fsspec.config.conf["s3"]``, or ``FSSPEC_S3`` as JSON)."""
    limits = {"connect_timeout": 2, "read_timeout": read_timeout, "retries": {"max_attempts": 1}}
    return {"endpoint_url": store.url, "key": "test", "secret": "test", "config_kwargs": limits}


if __name__ == "__main__":
    with running_store(int(sys.argv[1]) if len(sys.argv) > 1 else 0) as running:
        print(json.dumps(storage_options(running)), flush=True)
        threading.Event().wait()
