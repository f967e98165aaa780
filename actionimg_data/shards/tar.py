"""Tar archives whose bytes depend on their members only, hashed while they are written, with known offsets."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from typing import IO, Any, Final

from ..untrusted.files import open_plain

BLOCK: Final = tarfile.BLOCKSIZE
RECORD: Final = tarfile.RECORDSIZE


class TarWriter:
    """Appends members to an empty binary file; can go back to where a failed episode began."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.offset = 0

    def mark(self) -> tuple[int, Any]:
        """A state to go back to with `rewind`."""
        return self.offset, self._hash.copy()

    def rewind(self, mark: tuple[int, Any]) -> None:
        """Drop everything written since ``mark``."""
        self.offset, digest = mark
        self._hash = digest.copy()
        self._file.seek(self.offset)
        self._file.truncate()

    def add(self, name: str, body: IO[bytes], size: int) -> tuple[int, str]:
        """Append ``size`` bytes of ``body``; returns where they begin, and their SHA-256."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o444, 0
        self._write(info.tobuf(format=tarfile.PAX_FORMAT, encoding="utf-8"))
        start = self.offset
        digest = hashlib.sha256()
        left = size
        while left:
            chunk = body.read(min(left, 1 << 20))
            if not chunk:
                raise EOFError(f"{name}: {left} of {size} bytes are missing")
            digest.update(chunk)
            self._write(chunk)
            left -= len(chunk)
        self._write(b"\0" * (-size % BLOCK))
        return start, digest.hexdigest()

    def close(self) -> str:
        """Write the end of the archive and return the SHA-256 of all of it."""
        end = 2 * BLOCK
        self._write(b"\0" * (end + -(self.offset + end) % RECORD))
        return self._hash.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.offset += len(data)


def file_sha256(path: str | os.PathLike[str]) -> tuple[str, int]:
    """SHA-256 and size of a file."""
    digest, size = hashlib.sha256(), 0
    with open_plain(path, 0) as file:
        for chunk in _chunks(file):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _chunks(file: Any) -> Iterator[bytes]:
    while chunk := file.read(1 << 20):
        yield chunk
