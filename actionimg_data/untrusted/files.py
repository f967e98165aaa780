"""Files of unknown origin, opened only where they are plain files: nobody waits at a pipe, or reads a device."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, TypeVar

from ..errors import BadFileError, SourceNotFoundError, UnsafeFileError

MAX_BYTES: Final = 1 << 28
"""Most bytes of a file that is read whole where nothing else is said."""

AnyPath = TypeVar("AnyPath", bound="str | os.PathLike[str]")
Opener = Callable[[Path], "IO[bytes] | None"]

_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_openers: list[Opener] = []


def open_plain(path: str | os.PathLike[str], buffering: int = -1) -> IO[bytes]:
    """A plain file, open for reading bytes; a pipe, at which reading would wait for ever, or a device is not opened.

    Args:
        path: The file.
        buffering: As of `open`.

    Raises:
        OSError: It cannot be opened, or is not a plain file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise OSError(errno.EINVAL, "is not a plain file, but a socket", os.fspath(path)) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((name for check, name in _KINDS if check(mode)), "something else")
        raise OSError(errno.EINVAL, f"is not a plain file, but {kind}", os.fspath(path))
    return os.fdopen(descriptor, "rb", buffering)


def plain(path: AnyPath) -> AnyPath:
    """``path``, for a library that opens files by their names, where it is a plain file now.

    Raises:
        OSError: It cannot be opened, or is not a plain file.
    """
    open_plain(path, 0).close()
    return path


def check_plain(path: str | os.PathLike[str]) -> None:
    """`plain`, with the errors that users see.

    Raises:
        SourceNotFoundError: There is no such file.
        BadFileError: It cannot be opened, or is not a plain file.
    """
    try:
        plain(path)
    except OSError as error:
        raise unreadable(error, path) from None


def check_all_plain(path: Path) -> None:
    """`check_plain` of a file, or of everything right in a folder that is no folder itself.

    Raises:
        SourceNotFoundError: There is nothing of that name.
        BadFileError: Something cannot be opened, or is not a plain file.
    """
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if not file.is_dir():
            check_plain(file)


def unreadable(error: OSError, path: object) -> BadFileError | SourceNotFoundError:
    """What an operating system's refusal to open ``path`` means to a user."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return SourceNotFoundError("no such file", where=path)
    return BadFileError((error.strerror or str(error)).lower(), where=path)


def read_bytes(path: str | os.PathLike[str], limit: int = MAX_BYTES) -> bytes:
    """The bytes of a plain file of at most ``limit`` bytes.

    Raises:
        SourceNotFoundError: There is no such file.
        BadFileError: It cannot be read, or is not a plain file.
        UnsafeFileError: It is larger.
    """
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise UnsafeFileError("is too large to read", where=path, expected=f"≤ {limit} bytes", found=size)
            # Room for the whole limit would be made before a byte is read.
            return file.read(size)
    except OSError as error:
        raise unreadable(error, path) from None


def read_head(path: str | os.PathLike[str], count: int) -> bytes:
    """The first bytes of a plain file.

    Raises:
        SourceNotFoundError: There is no such file.
        BadFileError: It cannot be read, or is not a plain file.
    """
    try:
        with open_plain(path) as file:
            return file.read(count)
    except OSError as error:
        raise unreadable(error, path) from None


def register_opener(opener: Opener) -> None:
    """Let ``opener`` stand in for paths that it knows, e.g. objects of a store that are not here.

    Args:
        opener: Gives a seekable file for a path whose bytes come from elsewhere. None for any other path, which is
            opened as ever, after ``opener`` has made it appear where that is its task.
    """
    if opener not in _openers:
        _openers.append(opener)


def open_seekable(path: Path) -> IO[bytes] | None:
    """The file that an opener gives for ``path``, or None where it is a plain file to be opened by its name.

    Raises:
        OSError: It is neither.
    """
    for opener in _openers:
        file = opener(path)
        if file is not None:
            return file
    plain(path)
    return None
