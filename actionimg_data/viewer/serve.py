"""Serves a data set on this machine: the address, and the server behind it."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final

from ..errors import InvalidSpecError, OutputError
from ..shards import layout
from ..shards.layout import Place
from .app import Viewer, needed
from .catalog import Catalog
from .predictions import Predictions

ADDRESS: Final = "127.0.0.1"
PORT: Final = 8777
"""The usual port; the next free one of `_TRIES` where it is taken."""
_TRIES: Final = 50


class Server:
    """A data set's page, bound to a port of this machine and not yet served.

    Args:
        out: Folder or URL of the data set.
        evaluation: Folder or URL of what ``actionimg evaluate`` left.
        port: Which port; None for the first free one from `PORT` on, 0 for any.

    Raises:
        MissingExtraError: The extra ``view`` is not installed.
        SourceNotFoundError, WrongFormatError, CorruptDatasetError: There is no data set that can be shown.
        OutputError: The port is taken.
    """

    def __init__(self, out: str | Place, evaluation: str | Place | None = None, port: int | None = None) -> None:
        needed()
        import uvicorn

        root = layout.place(out)
        self.catalog = Catalog(root)
        predictions = None if evaluation is None else Predictions(layout.place(evaluation), root)
        self.token = secrets.token_urlsafe(24)
        viewer = Viewer(self.catalog, str(out), predictions)
        self._socket = _bound(port)
        self.port: int = self._socket.getsockname()[1]
        config: Any = uvicorn.Config(
            viewer.app(self.token), log_level="warning", access_log=False, lifespan="off", ws="none",
            server_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(config)

    @property
    def url(self) -> str:
        """The address, with its token."""
        return f"http://{ADDRESS}:{self.port}/{self.token}/"

    def run(self) -> None:
        """Serve until interrupted."""
        with contextlib.closing(self._socket):
            self._server.run(sockets=[self._socket])

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        """Serve in a thread of this process for as long as the context lasts."""
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield self
        finally:
            self._server.should_exit = True
            thread.join()


def _bound(port: int | None) -> socket.socket:
    if port is not None and not 0 <= port <= 65535:
        raise InvalidSpecError("out of range", field="port", expected="0 … 65535", found=port)
    wanted = range(PORT, PORT + _TRIES) if port is None else [port]
    for number in wanted:
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((ADDRESS, number))
            # Whoever comes before the server runs waits, and is not refused.
            bound.listen(128)
        except OSError:
            bound.close()
            continue
        return bound
    raise OutputError("the port is taken", field="port", found=port, hint="Give another --port, or none.")
