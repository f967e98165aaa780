"""Where things are in a data set's folder, and how files are published in it."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Final, TypeAlias

from ..errors import CorruptDatasetError, OutputError, StorageError
from ..objectstore import RemotePath, is_url
from ..untrusted.files import open_plain

if sys.platform == "win32":
    from pathlib import WindowsPath as _Native
else:
    from pathlib import PosixPath as _Native

MANIFEST: Final = "dataset.json"
PLAN: Final = "plan.jsonl"
INDEX: Final = "index.parquet"
QUARANTINE: Final = "quarantine.jsonl"
TEMPORARY: Final = ".tmp"
PUBLISHES: Final = 32
"""Times a file is written when it is taken away before it has its name: once for each run that ends meanwhile."""

META: Final = "json"
TRAJECTORY: Final = "trajectory.npz"
CAMERAS: Final = "cameras.npz"
CONDITIONING: Final = "conditioning.npz"
"""Cameras of a frame and a scale of their own, as `CAMERAS`; never drawn with."""


def rgb_member(view: str, ending: str) -> str:
    """Name, without the key, of a view's camera pictures."""
    return f"{view}.rgb.{ending}"


def action_member(view: str, ending: str, gripper: str = "") -> str:
    """Name, without the key, of a view's action images: of the only gripper (or all in one picture), or of one."""
    return f"{view}.action.{gripper}.{ending}" if gripper else f"{view}.action.{ending}"


def trajectory_member(gripper: str = "") -> str:
    """Name, without the key, of the trajectory of the only gripper, or of one of several."""
    return f"trajectory.{gripper}.npz" if gripper else TRAJECTORY


def plane_member(view: str, kind: str) -> str:
    """Name, without the key, of a view's ``depth`` or ``mask``."""
    return f"{view}.{kind}.mkv"


def similar(path: Place) -> str | None:
    """A hint at the data set beside ``path`` that has nearly its name; None where there is none."""
    return place(path).similar(MANIFEST)


def read_ranges(path: Place, ranges: Sequence[tuple[int, int]], size: int | None = None) -> list[bytes]:
    """Bytes of a file or an object by offset and size; fewer where it ends before.

    Args:
        path: The file.
        ranges: Offset and size of each.
        size: Its bytes, where they are known; of an object it is not asked.

    Raises:
        CorruptDatasetError: It has another size.
        FileNotFoundError: There is none.
        StorageError: The store does not answer.
    """
    return place(path).read_ranges(ranges, size)


def open_place(path: Place, buffering: int = -1) -> IO[bytes]:
    """A file or an object, open for reading; a pipe or a device in a data set's place is not waited on.

    Raises:
        OSError: It cannot be opened, or is not a plain file.
        StorageError: The store does not answer.
    """
    return place(path).open_read(buffering)


def read_place(path: Place) -> bytes:
    """All of a file or an object; raises as `open_place`."""
    return place(path).read_bytes()


def listing(folder: Place) -> dict[str, int]:
    """Names and sizes of the files right in a folder, sorted; empty where there is none. One call of a store.

    Raises:
        OutputError: It cannot be listed.
        StorageError: The store does not answer.
    """
    with output_errors(folder):
        return place(folder).sizes()


def shard_name(split: str, number: int) -> str:
    """``train/000000``: the shard's name in plan, sidecar, index and manifest."""
    return f"{split}/{number:06d}"


def temporary(target: Path) -> Path:
    """A name beside ``target`` that no other thread of any process uses and no reader looks at.

    Its process stands last, for whoever removes what that one has left.
    """
    whose = f"{socket.gethostname()}-{threading.get_native_id()}-{os.getpid()}"
    return target.with_name(f"{target.name}.{whose}{TEMPORARY}")


@contextlib.contextmanager
def output_errors(where: Place) -> Iterator[None]:
    """Turn what the operating system says about writing into one clear line."""
    try:
        yield
    except OSError as error:
        if isinstance(error, (OutputError, StorageError)):
            raise
        hint = None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Nothing published was changed: free some space and run the same command again."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "Is the folder yours, and writable?"
        raise OutputError(
            f"cannot write: {error.strerror or error}", where=error.filename or where, hint=hint
        ) from error


def flush(file: IO[bytes]) -> None:
    """Bring a file's bytes to the disk, and out of the cache, so that reading it back reads the disk."""
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def publish(target: Place, data: bytes) -> None:
    """Write a small file so that it is there as a whole or not at all."""
    with output_errors(target):
        place(target).put(data)


def publish_if_absent(target: Place, data: bytes) -> bool:
    """`publish`, unless the file is there already; returns whether it was written. Of two at once one wins."""
    with output_errors(target):
        return place(target).create(data)


def link_if_absent(part: Path, target: Path) -> bool:
    """Give a file its place, unless there is one already; returns whether it did. Of two at once one wins.

    ``part`` stays where it is, but for file systems without hard links: there it is renamed, and two at the very same
    instant may both win.
    """
    try:
        os.link(part, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if target.exists():
            return False
        os.replace(part, target)
    return True


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some network file systems cannot; their renames are as durable as they are.
        pass
    finally:
        os.close(descriptor)


class LocalPath(_Native):
    """A path of this machine, with what `RemotePath` has for the files of a data set; see there."""

    def read_bytes(self) -> bytes:
        """All of a file; a pipe or a device is not waited on."""
        with open_plain(self) as file:
            return file.read()

    def open_read(self, buffering: int = -1) -> IO[bytes]:
        """A plain file, open for reading."""
        return open_plain(self, buffering)

    def read_ranges(self, ranges: Sequence[tuple[int, int]], size: int | None = None) -> list[bytes]:
        """Bytes by offset and size.

        Raises:
            CorruptDatasetError: The file is not of this size.
        """
        with open_plain(self) as file:
            found = os.fstat(file.fileno()).st_size
            if size is not None and found != size:
                raise CorruptDatasetError("has the wrong size", where=self, expected=f"{size} B", found=f"{found} B")
            parts = []
            for offset, length in ranges:
                # Windows has no pread.
                file.seek(offset)
                parts.append(file.read(length))
            return parts

    def chunks(self) -> Iterator[bytes]:
        """All of a file, piece by piece."""
        with open_plain(self, 0) as file:
            while part := file.read(1 << 20):
                yield part

    def sizes(self) -> dict[str, int]:
        """Names and sizes of the files right in a folder, sorted; nothing where there is none."""
        try:
            with os.scandir(self) as entries:
                found = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except FileNotFoundError:
            return {}
        return dict(sorted(found.items()))

    def put(self, data: bytes) -> None:
        """Write a file so that it is there as a whole or not at all."""

        def name(part: Path) -> bool:
            os.replace(part, self)
            return True

        self._published(data, name)

    def create(self, data: bytes) -> bool:
        """Write a file where there is none; of several at once one wins. Returns whether this call wrote it."""
        return self._published(data, lambda part: link_if_absent(part, self))

    def _published(self, data: bytes, name: Callable[[Path], bool]) -> bool:
        for tries_left in reversed(range(PUBLISHES)):
            with self._part(data) as part:
                try:
                    if not name(part):
                        return False
                except FileNotFoundError:
                    # A run that ended at this moment took our temporary file for one that was left behind.
                    if not tries_left:
                        raise
                    continue
                sync_folder(self.parent)
                break
        return True

    @contextlib.contextmanager
    def _part(self, data: bytes) -> Iterator[Path]:
        """A temporary file beside this one that holds ``data``, and is gone afterwards if it was not renamed."""
        self.parent.mkdir(parents=True, exist_ok=True)
        part = temporary(self)
        try:
            with open(part, "wb") as file:
                file.write(data)
                flush(file)
            yield part
        finally:
            part.unlink(missing_ok=True)

    def similar(self, mark: str) -> str | None:
        """A hint at a folder beside this one that holds a file ``mark`` and has nearly its name."""
        whole = Path(self).absolute()
        try:
            names = [other.parent.name for other in whole.parent.glob(f"*/{mark}")]
        except OSError:
            return None
        close = difflib.get_close_matches(whole.name, names, n=1)
        return f"Did you mean {str(self.with_name(close[0]))!r}?" if close else None

    def free_bytes(self) -> int | None:
        """Free space where this is, or will be."""
        folder = Path(self)
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def check_protocol(self) -> None:
        """Nothing: every data set may be in a folder."""

    def check_creates(self) -> None:
        """Nothing: renames and links of a file system do not write over each other."""


Place: TypeAlias = Path | RemotePath
"""Where a data set, or a file of it, is: a local path, or an object in a store."""


def place(where: str | os.PathLike[str] | RemotePath) -> LocalPath | RemotePath:
    """The place that a user names: a URL of a store, else a path. Both have the same methods.

    Raises:
        UnsupportedSourceError: Nothing knows the URL's protocol.
        MissingExtraError: The package that does is not installed.
    """
    if isinstance(where, RemotePath):
        return where
    text = os.fspath(where)
    return RemotePath(text) if is_url(text) else LocalPath(text.removeprefix("file://"))
