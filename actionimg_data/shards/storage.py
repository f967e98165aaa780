"""How a shard is built and committed, in a local folder or in an object store: the first published sidecar wins.

The tar is built aside under a name that nobody else uses: beside its place in a local folder, else in a scratch folder
(one shard a process at a time; removed when it is done, and by the next process where its owner was killed). Then

1. the sidecar is staged as ``SHARD.json.HASH.tmp``, HASH being the tar's: what is needed to finish, whoever does;
2. the tar is put into its place, which fails where there is one (a hard link, or an object created only if absent);
3. the sidecar is created, which fails where there is one. That is the commit: whoever's sidecar is there has made the
   shard, and every other runner takes it as its own result, whether or not its own bytes are the same;
4. the staged sidecar is removed.

A runner that finds another tar than its own and no sidecar finishes that one's work from its staged sidecar, so that a
runner that was killed anywhere in between leaves nothing that cannot be completed, and one that was stopped for hours
and goes on finds its shard made. A tar that is neither its own nor staged belongs to nobody (it was damaged on the way,
or its data set was removed) and is taken away, or written over. Files and objects appear as a whole or not at all, so
nothing half-written is ever seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..errors import CorruptDatasetError, OutputError
from ..objectstore import RemotePath
from ..scratch import PrivateFolder, sweep
from . import layout
from .layout import Place
from .tar import file_sha256

SCRATCH_VARIABLE: Final = "ACTIONIMG_SCRATCH_DIR"
UPLOADS: Final = 3
"""Times a tar is uploaded when what is read back is not what was sent."""


def scratch_folder() -> Path:
    """Where shards for object stores are built: ``ACTIONIMG_SCRATCH_DIR``, else a folder of the user's below /tmp."""
    named = os.environ.get(SCRATCH_VARIABLE)
    return Path(named) if named else Path(tempfile.gettempdir()) / f"actionimg-scratch-{os.getuid()}"


@contextlib.contextmanager
def workspace(out: Place, shard: str) -> Iterator[Path]:
    """A local file to build a shard in, in a folder for what else it needs; both are gone afterwards.

    Args:
        out: The data set.
        shard: Its name, e.g. ``train/000003``.

    Raises:
        OutputError: The folder cannot be written.
    """
    target = out / f"{shard}.tar"
    if isinstance(target, RemotePath):
        with _scratch() as folder:
            yield folder / target.name
        return
    with layout.output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    part = layout.temporary(target)
    try:
        yield part
    finally:
        with layout.output_errors(part):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder of this process; those of processes that were killed are removed."""
    base = scratch_folder()
    with layout.output_errors(base):
        private = PrivateFolder(base)
    try:
        yield private.path
    finally:
        private.remove()


def remove_parts(out: Place, shard: str, pid: int) -> None:
    """Remove what a process of this machine, that has ended, left of a shard it was making."""
    if isinstance(out, RemotePath):
        sweep(scratch_folder())
        return
    target = out / f"{shard}.tar"
    with layout.output_errors(target):
        for path in target.parent.glob(f"{target.stem}.*-{pid}{layout.TEMPORARY}"):
            path.unlink(missing_ok=True)


def place_sha256(path: Place) -> tuple[str, int]:
    """SHA-256 and size of a file, or of an object as it is read from its store.

    Raises:
        FileNotFoundError: There is none.
    """
    digest, size = hashlib.sha256(), 0
    for part in layout.place(path).chunks():
        digest.update(part)
        size += len(part)
    return digest.hexdigest(), size


@contextlib.contextmanager
def local_copy(path: Place) -> Iterator[Path]:
    """The file itself, or an object's copy in the scratch folder, gone afterwards.

    Raises:
        FileNotFoundError: There is no such object.
        OutputError: There is no room for it.
        StorageError: The store does not answer.
    """
    if not isinstance(path, RemotePath):
        yield path
        return
    with _scratch() as folder:
        copy = folder / path.name
        with layout.output_errors(copy):
            try:
                path.download(copy)
            except FileNotFoundError:
                missing = True
            else:
                missing = False
        if missing:
            raise FileNotFoundError(2, "No such object", str(path))
        yield copy


def commit_shard(out: Place, shard: str, part: Path | None, sha256: str, size: int, sidecar: bytes) -> bytes:
    """Publish a shard: its tar, read back and hashed, and then its sidecar.

    Args:
        out: The data set.
        shard: Its name.
        part: The tar as it was built, from `workspace`; None for a shard without samples, which has none.
        sha256: SHA-256 of what was written to it.
        size: Its bytes.
        sidecar: Content of the sidecar.

    Returns:
        Content of the sidecar that is there now: this one, or that of a runner that was first.

    Raises:
        OutputError: It cannot be written; what was published before is unchanged.
        CorruptDatasetError: What was read back is not what was written.
        StorageError: The store does not answer.
    """
    mark = out / f"{shard}.json"
    with layout.output_errors(mark):
        there = _read(mark)
        if there is not None:
            return there
        if isinstance(mark, RemotePath):
            return _commit_remote(mark, part, sha256, size, sidecar)
        try:
            return _commit_local(mark, part, sha256, size, sidecar)
        except (FileNotFoundError, OutputError) as error:
            # Whoever completed the data set while this process stood still took its files for a killed run's.
            gone = error.__cause__ if isinstance(error, OutputError) else error
            there = _read(mark) if isinstance(gone, FileNotFoundError) else None
            if there is None:
                raise
            return there


def _commit_local(mark: Path, part: Path | None, sha256: str, size: int, sidecar: bytes) -> bytes:
    if part is not None:
        _check(file_sha256(part), sha256, size, part)
    with _terminated_afterwards():
        return _link_local(mark, part, sha256, size, sidecar)


@contextlib.contextmanager
def _terminated_afterwards() -> Iterator[None]:
    """Keep SIGTERM, with which a run ends its workers, back until a commit is whole: nothing staged stays then."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    waiting: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if waiting:
            signal.raise_signal(signal.SIGTERM)


def _link_local(mark: Path, part: Path | None, sha256: str, size: int, sidecar: bytes) -> bytes:
    target = mark.with_name(f"{mark.stem}.tar")
    if part is None:
        other = _clear(mark, target, sidecar)
    else:
        layout.publish(mark.with_name(_staged(mark, sha256)), sidecar)
        other = None
        while other is None and not layout.link_if_absent(part, target):
            if _hash_of(target) == (sha256, size):
                break
            other = _clear(mark, target, sidecar)
        layout.sync_folder(target.parent)
    staged = mark.with_name(_staged(mark, sha256))
    if other is None:
        won = layout.publish_if_absent(mark, sidecar) if part is None else _name(staged, mark)
        other = sidecar if won else layout.read_place(mark)
    if part is not None:
        staged.unlink(missing_ok=True)
    return other


def _name(staged: Path, mark: Path) -> bool:
    """Give a staged sidecar its place, which takes no room on a full disk; False where there is one."""
    named = layout.link_if_absent(staged, mark)
    layout.sync_folder(mark.parent)
    return named


def _clear(mark: Path, target: Path, sidecar: bytes) -> bytes | None:
    """Take away a tar that belongs to nobody; where it is another runner's, the sidecar that this one has or gets."""
    try:
        judged = os.stat(target)
    except FileNotFoundError:
        return _read(mark)
    other = _finish(mark, _hash_of(target)[0], sidecar)
    if other is not None:
        return other
    aside = layout.temporary(target).with_suffix(f".aside{layout.TEMPORARY}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(target, aside)
        # If this process was stopped just now, somebody may have published in between.
        if not os.path.samestat(os.stat(aside), judged):
            layout.link_if_absent(aside, target)
        aside.unlink()
    return _read(mark)


def _check(found: tuple[str, int], sha256: str, size: int, where: object) -> None:
    if found != (sha256, size):
        raise CorruptDatasetError(
            "what was read back is not what was written",
            where=where,
            expected=f"{size} B, SHA-256 {sha256}",
            found=f"{found[1]} B, SHA-256 {found[0]}",
            hint="The disk, its driver or the network is faulty.",
        )


def _commit_remote(mark: RemotePath, part: Path | None, sha256: str, size: int, sidecar: bytes) -> bytes:
    target = mark.with_name(f"{mark.stem}.tar")
    if part is None:
        if target.is_file():
            other = _finish(mark, _hash_of(target)[0], sidecar)
            if other is not None:
                return other
            target.unlink(missing_ok=True)
        return sidecar if mark.create(sidecar) else layout.read_place(mark)
    _check(file_sha256(part), sha256, size, part)
    staged = mark.with_name(_staged(mark, sha256))
    layout.publish(staged, sidecar)
    other = _upload(mark, target, part, sha256, size, sidecar)
    if other is not None:
        staged.unlink(missing_ok=True)
        return other
    version = target.stat()
    if mark.create(sidecar):
        # A runner that took the tar for nobody's may have written over it a moment ago; the sidecar decides.
        if _stat(target) != version:
            target.put(part)
            _check(place_sha256(target), sha256, size, target)
        there = sidecar
    else:
        there = layout.read_place(mark)
    staged.unlink(missing_ok=True)
    return there


def _upload(mark: RemotePath, target: RemotePath, part: Path, sha256: str, size: int, sidecar: bytes) -> bytes | None:
    """Bring the tar to its place; returns the sidecar of another runner whose tar was there before."""
    found: tuple[str, int] = ("", 0)
    fresh = target.create(part)
    for tried in range(UPLOADS):
        found = _hash_of(target)
        if found == (sha256, size):
            return None
        if not fresh and tried == 0:
            other = _finish(mark, found[0], sidecar)
            if other is not None:
                return other
        target.put(part)
    _check(_hash_of(target), sha256, size, target)
    return None


def _finish(mark: Place, sha256: str, ours: bytes) -> bytes | None:
    """The sidecar of the runner whose tar has this hash, committed in its place where it is not yet; None: nobody's.

    What a run of another plan has left is nobody's.
    """
    staged = mark.with_name(_staged(mark, sha256))
    content = _read(staged)
    if content is not None and _plan_of(content) == _plan_of(ours):
        try:
            named = mark.create(content) if isinstance(mark, RemotePath) else _name(mark.with_name(staged.name), mark)
        except FileNotFoundError:
            # Its owner has just finished.
            named = False
        if named:
            staged.unlink(missing_ok=True)
    # Looked for after the staged one: a runner removes that only when its sidecar is there.
    return _read(mark)


def _plan_of(sidecar: bytes) -> object:
    try:
        document = json.loads(sidecar)
    except ValueError:
        return None
    return document.get("plan") if isinstance(document, dict) else None


def _hash_of(target: Place) -> tuple[str, int]:
    try:
        return place_sha256(target)
    except FileNotFoundError:
        return "", 0


def _staged(mark: Place, sha256: str) -> str:
    """Name of the sidecar that waits for its tar."""
    return f"{mark.name}.{sha256[:32]}{layout.TEMPORARY}"


def _read(path: Place) -> bytes | None:
    try:
        return layout.read_place(path)
    except FileNotFoundError:
        return None


def _stat(path: RemotePath) -> object:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def retract(out: Place, shard: str) -> None:
    """Take back a shard that was published, so that it can be made again: its sidecar first, then its tar."""
    mark, tar = out / f"{shard}.json", out / f"{shard}.tar"
    with layout.output_errors(mark):
        mark.unlink(missing_ok=True)
        tar.unlink(missing_ok=True)
        for path in mark.parent.glob(f"{mark.name}.*{layout.TEMPORARY}"):
            path.unlink(missing_ok=True)


def check_protocol(out: Place) -> None:
    """Refuse a kind of store that data sets cannot be written to, before anything is asked of it.

    Raises:
        UnsupportedSourceError: As `check_destination`.
    """
    layout.place(out).check_protocol()


def check_destination(out: Place) -> None:
    """Refuse a store on which two runs at once could damage each other's work.

    Raises:
        UnsupportedSourceError: It cannot create an object only where there is none.
        StorageError: It does not answer.
    """
    with layout.output_errors(out):
        layout.place(out).check_creates()


def free_bytes(out: Place) -> int | None:
    """Free space where a data set will be; None for a store, which has no end.

    Raises:
        OutputError: The file system does not say.
    """
    with layout.output_errors(out):
        return layout.place(out).free_bytes()
