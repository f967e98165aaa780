"""Files of a data set on a local disk or behind an fsspec URL: whole, or ranges of bytes."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from ..errors import (
    CorruptDatasetError,
    MissingExtraError,
    SourceNotFoundError,
    StorageError,
    UnsafeFileError,
    UnsupportedSourceError,
)
from ..objectstore import calling
from ..untrusted.files import open_plain

_URL: Final = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(::|://)")
_OPEN_FILES: Final = 64


class Files:
    """Files below a folder or URL; opened in the process that reads them, so that it may be forked and pickled.

    Args:
        root: A folder, or a URL that fsspec knows.
        storage_options: What fsspec needs for it.

    Raises:
        UnsafeFileError: ``pipe:``, which webdataset would run in a shell.
        UnsupportedSourceError: No file system of fsspec has this protocol.
        MissingExtraError: The package of that file system is not installed.
    """

    def __init__(self, root: str | os.PathLike[str], storage_options: dict[str, Any] | None = None) -> None:
        self.root = os.fspath(root)
        self._options = storage_options or {}
        if self.root.lstrip().lower().startswith("pipe:"):
            raise UnsafeFileError(
                "a command is not a data set", where=self.root, hint="Name the files, or a URL that fsspec reads."
            )
        self.is_url = bool(_URL.match(self.root)) and not self.root.startswith("file://")
        self._folder = self.root.removeprefix("file://")
        self._pid = -1
        self._filesystem: Any = None
        self._open: OrderedDict[str, int] = OrderedDict()
        if self.is_url:
            self._remote()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pid": -1, "_filesystem": None, "_open": OrderedDict()}

    def path(self, name: str) -> str:
        """Full path or URL of a file."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def read(self, name: str) -> bytes:
        """All of a file.

        Raises:
            SourceNotFoundError: It does not exist or cannot be read.
        """
        try:
            if self.is_url:
                return bytes(calling("read", self.path(name), lambda: self._remote().cat_file(self._key(name))))
            with open_plain(os.path.join(self._folder, name)) as file:
                return file.read()
        except StorageError:
            raise
        except OSError as error:
            raise SourceNotFoundError(error.strerror or str(error) or "not found", where=self.path(name)) from None

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        if self.is_url:
            try:
                calling("look at", self.path(name), lambda: self._remote().info(self._key(name)))
            except FileNotFoundError:
                return False
            return True
        return os.path.isfile(os.path.join(self._folder, name))

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]], total: int) -> list[bytes]:
        """Bytes ``(offset, size)`` of a file of ``total`` bytes.

        Raises:
            SourceNotFoundError: It does not exist or cannot be read.
            CorruptDatasetError: It has another size.
        """
        try:
            if self.is_url:
                starts = [offset for offset, _ in ranges]
                ends = [offset + size for offset, size in ranges]
                keys = [self._key(name)] * len(ranges)
                found = calling(
                    "read",
                    self.path(name),
                    lambda: self._remote().cat_ranges(keys, starts, ends, on_error="raise"),
                )
                parts = [bytes(part) for part in found]
            else:
                descriptor = self._descriptor(name, total)
                parts = [os.pread(descriptor, size, offset) for offset, size in ranges]
        except StorageError:
            raise
        except OSError as error:
            raise SourceNotFoundError(error.strerror or str(error) or "not found", where=self.path(name)) from None
        for part, (offset, size) in zip(parts, ranges, strict=True):
            if len(part) != size:
                raise CorruptDatasetError(
                    "is truncated",
                    where=self.path(name),
                    expected=f"{size} B at {offset}",
                    found=f"{len(part)} B",
                )
        return parts

    def _descriptor(self, name: str, total: int) -> int:
        if self._pid != os.getpid():
            # Descriptors of a parent process are its own to close.
            self._open, self._pid = OrderedDict(), os.getpid()
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        with open_plain(os.path.join(self._folder, name), 0) as file:
            descriptor = os.dup(file.fileno())
        found = os.fstat(descriptor).st_size
        if found != total:
            os.close(descriptor)
            raise CorruptDatasetError(
                "has the wrong size", where=self.path(name), expected=f"{total} B", found=f"{found} B"
            )
        self._open[name] = descriptor
        if len(self._open) > _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def _remote(self) -> Any:
        if self._filesystem is None or self._pid != os.getpid():
            import fsspec

            try:
                self._filesystem, self._prefix = fsspec.core.url_to_fs(self.root, **self._options)
            except ValueError as error:
                raise UnsupportedSourceError(str(error), where=self.root) from None
            except ImportError as error:
                raise MissingExtraError(str(error), where=self.root) from None
            self._pid = os.getpid()
        return self._filesystem

    def _key(self, name: str) -> str:
        return f"{self._prefix.rstrip('/')}/{name}"

    def close(self) -> None:
        """Close what this process has opened."""
        if self._pid == os.getpid():
            while self._open:
                os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        if getattr(self, "_open", None):
            self.close()
