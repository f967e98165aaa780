"""Folders for passing work that go with their process, also where it was killed: the next one removes them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LOCK: Final = ".lock"


def _hold(descriptor: int, wait: bool = True) -> None:
    """Take the lock of an open file, until it is closed; imported here, since Windows reads and has no such locks."""
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


class PrivateFolder:
    """A new folder of this process below ``base``; whoever makes another one there removes those nobody holds any more.

    Args:
        base: Where; made if it is not there.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, base: Path) -> None:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        with alone(base):
            _sweep(base)
            self.path = Path(tempfile.mkdtemp(prefix=f"{socket.gethostname()}-{os.getpid()}-", dir=base))
            self._lock = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
            _hold(self._lock)

    def remove(self) -> None:
        """Remove it and all that is in it; done twice, it is done."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


@contextlib.contextmanager
def alone(base: Path) -> Iterator[None]:
    """Hold the lock of a folder that processes of this machine share."""
    lock = os.open(base / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        _hold(lock)
        yield
    finally:
        os.close(lock)


def sweep(base: Path) -> None:
    """Remove the private folders below ``base`` whose processes are gone."""
    if base.is_dir():
        with alone(base):
            _sweep(base)


def _sweep(base: Path) -> None:
    # The kernel lets go of a lock with its process, however that ended.
    for folder in base.glob(f"{socket.gethostname()}-*"):
        try:
            lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError:
            # Just removed by its owner.
            continue
        try:
            _hold(lock, wait=False)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(lock)
