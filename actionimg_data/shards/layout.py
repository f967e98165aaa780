"""Where things are in a data set's folder, and how files are published in it."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, TypeAlias

from ..errors import CorruptDatasetError, OutputError, StorageError
from ..objectstore import RemotePath, is_url
from ..untrusted.files import open_plain

Place: TypeAlias = Path | RemotePath
"""Where a data set, or a file of it, is: a local path, or an object in a store."""

MANIFEST: Final = "dataset.json"
PLAN: Final = "plan.jsonl"
INDEX: Final = "index.parquet"
QUARANTINE: Final = "quarantine.jsonl"
TEMPORARY: Final = ".tmp"

META: Final = "json"
TRAJECTORY: Final = "trajectory.npz"
CAMERAS: Final = "cameras.npz"


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


def place(where: str | os.PathLike[str] | RemotePath) -> Place:
    """The place that a user names: a URL of a store, else a path.

    Raises:
        UnsupportedSourceError: Nothing knows the URL's protocol.
        MissingExtraError: The package that does is not installed.
    """
    if isinstance(where, RemotePath):
        return where
    text = os.fspath(where)
    return RemotePath(text) if is_url(text) else Path(text.removeprefix("file://"))


def similar(path: Place) -> str | None:
    """A hint at the data set beside ``path`` that has nearly its name; None where there is none."""
    if isinstance(path, RemotePath):
        return None
    try:
        names = [other.parent.name for other in path.absolute().parent.glob(f"*/{MANIFEST}")]
    except OSError:
        return None
    close = difflib.get_close_matches(path.absolute().name, names, n=1)
    return f"Did you mean {str(path.with_name(close[0]))!r}?" if close else None


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
    if isinstance(path, RemotePath):
        return path.read_ranges(ranges)
    with open_plain(path) as file:
        found = os.fstat(file.fileno()).st_size
        if size is not None and found != size:
            raise CorruptDatasetError("has the wrong size", where=path, expected=f"{size} B", found=f"{found} B")
        return [os.pread(file.fileno(), length, offset) for offset, length in ranges]


def open_place(path: Place, buffering: int = -1) -> IO[bytes]:
    """A file or an object, open for reading; a pipe or a device in a data set's place is not waited on.

    Raises:
        OSError: It cannot be opened, or is not a plain file.
        StorageError: The store does not answer.
    """
    if isinstance(path, RemotePath):
        return path.open("rb") if buffering < 0 else path.open("rb", buffering)
    return open_plain(path, buffering)


def read_place(path: Place) -> bytes:
    """All of a file or an object; raises as `open_place`."""
    if isinstance(path, RemotePath):
        return path.read_bytes()
    with open_plain(path) as file:
        return file.read()


def listing(folder: Place) -> dict[str, int]:
    """Names and sizes of the files right in a folder, sorted; empty where there is none. One call of a store.

    Raises:
        OutputError: It cannot be listed.
        StorageError: The store does not answer.
    """
    if isinstance(folder, RemotePath):
        return {name: stat.st_size for name, stat in folder.files()}
    with output_errors(folder):
        try:
            with os.scandir(folder) as entries:
                found = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except FileNotFoundError:
            return {}
    return dict(sorted(found.items()))


def shard_name(split: str, number: int) -> str:
    """``train/000000``: the shard's name in plan, sidecar, index and manifest."""
    return f"{split}/{number:06d}"


def temporary(target: Path) -> Path:
    """A name beside ``target`` that no other process uses and no reader looks at."""
    return target.with_name(f"{target.name}.{socket.gethostname()}-{os.getpid()}{TEMPORARY}")


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
    if isinstance(target, RemotePath):
        with output_errors(target):
            target.put(data)
        return
    for tries_left in (1, 0):
        with _part(target, data) as part:
            try:
                os.replace(part, target)
            except FileNotFoundError:
                # A run that ended at this moment took our temporary file for one that was left behind.
                if not tries_left:
                    raise
                continue
            sync_folder(target.parent)
            return


def publish_if_absent(target: Place, data: bytes) -> bool:
    """`publish`, unless the file is there already; returns whether it was written. Of two at once one wins."""
    if isinstance(target, RemotePath):
        with output_errors(target):
            return target.create(data)
    for tries_left in (1, 0):
        with _part(target, data) as part:
            try:
                if not link_if_absent(part, target):
                    return False
            except FileNotFoundError:
                # As in `publish`.
                if not tries_left:
                    raise
                continue
            sync_folder(target.parent)
            break
    return True


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


@contextlib.contextmanager
def _part(target: Path, data: bytes) -> Iterator[Path]:
    """A temporary file beside ``target`` that holds ``data``, and is gone afterwards if it was not renamed."""
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = temporary(target)
        try:
            with open(part, "wb") as file:
                file.write(data)
                flush(file)
            yield part
        finally:
            part.unlink(missing_ok=True)


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
