"""Files of unknown origin, opened only where they are plain files."""

from __future__ import annotations

import errno
import os
import stat
from typing import IO


def open_plain(path: str | os.PathLike[str]) -> IO[bytes]:
    """A plain file, open for reading; a pipe, at which reading would wait for ever, or a device is not opened.

    Raises:
        OSError: It cannot be opened, or is not a plain file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a plain file", os.fspath(path))
    return os.fdopen(descriptor, "rb")
