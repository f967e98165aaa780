"""Finds episode folders in trees laid out as RLBench writes them: ``TASK/GROUP/episodes/episodeN``.

GROUP is ``variationN`` or ``all_variations``, or is left out. Folders are visited in natural order (2 before 10).
Links are not followed, so that a cycle of them does no harm, and names that begin with a dot are passed over.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...errors import BadFileError, SourceNotFoundError, WrongFormatError, suggested_path

MAX_DEPTH: Final = 8
"""Folders below the source that are searched for episodes."""

_EPISODE = re.compile(r"episode\d+\Z")
_GROUP = re.compile(r"(all_variations|variation\d+)\Z")
_DIGITS = re.compile(r"(\d+)")
_MARKS = ("low_dim_obs.pkl", "actions.npy")


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts ``episode2`` before ``episode10``."""
    return tuple((0, int(p), p) if p.isdigit() else (1, 0, p) for p in _DIGITS.split(name) if p)


@dataclass(frozen=True)
class EpisodeFolder:
    """One episode's folder and what its place in the tree says."""

    root: Path
    path: Path
    id: str
    task: str | None
    group: str | None

    @property
    def relative(self) -> str:
        """Path relative to the source, with forward slashes; "." where the source is the episode itself."""
        return self.path.relative_to(self.root).as_posix()

    def location(self) -> dict[str, str | None]:
        """What `from_location` needs, as JSON values."""
        return {"source": str(self.root), "path": self.relative, "task": self.task, "group": self.group}

    @classmethod
    def from_location(cls, id: str, location: Mapping[str, Any]) -> EpisodeFolder:
        """The folder of an `EpisodeRef`."""
        root = Path(location["source"])
        return cls(root, root / location["path"], id, location["task"], location["group"])


def source_folder(source: str) -> Path:
    """The absolute path of a source that must be a folder.

    Raises:
        SourceNotFoundError: It does not exist.
        WrongFormatError: It is not a folder.
    """
    path = Path(os.path.abspath(source))
    if not path.exists():
        raise SourceNotFoundError("no such folder", where=source, hint=suggested_path(source))
    if not path.is_dir():
        raise WrongFormatError("is not a folder", where=source, expected="a folder of episodes")
    return path


def files_with_sizes(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of the regular files in ``folder``, in natural order; links and dot-files are passed over."""
    found = [
        (e.name, e.stat(follow_symlinks=False).st_size) for e in _entries(folder) if e.is_file(follow_symlinks=False)
    ]
    return sorted(found, key=lambda item: natural_key(item[0]))


HEAD: Final = 4096
"""Bytes of a file's beginning and end that its stamp covers."""


def file_stamp(path: Path) -> str:
    """What changes when a file does: its size, and a digest of its first and last `HEAD` bytes.

    A log that was mended keeps its size more often than not, and its header or its last records tell. Of an object in a
    store, fetched or not, its size and the version that the store gives it.
    """
    from .. import remote

    known = remote.object_of(path)
    if known is not None:
        return f"{known.st_size}:{known.version}"
    found = path.stat()
    size = found.st_size
    if not stat.S_ISREG(found.st_mode):
        return str(size)
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read(HEAD))
            if size > HEAD:
                file.seek(max(HEAD, size - HEAD))
                digest.update(file.read(HEAD))
    except OSError as error:
        # Its episode will be in the quarantine, with the reason; the others are not to suffer.
        return f"{size}:{error.errno}"
    return f"{size}:{digest.hexdigest()[:16]}"


def subfolders(folder: Path) -> list[Path]:
    """Folders in ``folder``, in natural order; links and names that begin with a dot are passed over."""
    found = [e.name for e in _entries(folder) if e.is_dir(follow_symlinks=False)]
    return [folder / name for name in sorted(found, key=natural_key)]


def some_files(root: Path, ending: str, max_folders: int = 500) -> Iterator[Path]:
    """Files at or under ``root`` whose name ends so, looking into a few hundred folders at most."""
    left = [root]
    for _ in range(max_folders):
        if not left:
            return
        folder = left.pop()
        yield from (folder / name for name, _ in files_with_sizes(folder) if name.endswith(ending))
        left.extend(reversed(subfolders(folder)))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise BadFileError(f"folder cannot be read: {error.strerror}", where=folder) from None


def find_episodes(root: Path, max_folders: int | None = None) -> Iterator[EpisodeFolder]:
    """Every episode folder at or under ``root``, lazily and in natural order.

    Args:
        root: Data set, task, variation, ``episodes`` or episode folder (absolute).
        max_folders: Give up quietly after looking into so many folders (None: never).
    """
    if _is_episode(root):
        yield _episode(root, root)
        return
    left = [max_folders if max_folders is not None else -1]
    yield from _walk(root, root, 0, left)


def _walk(root: Path, folder: Path, depth: int, left: list[int]) -> Iterator[EpisodeFolder]:
    if left[0] == 0:
        return
    left[0] -= 1
    for child in subfolders(folder):
        if _EPISODE.match(child.name):
            yield _episode(root, child)
        elif depth < MAX_DEPTH:
            yield from _walk(root, child, depth + 1, left)


def _is_episode(folder: Path) -> bool:
    return _EPISODE.match(folder.name) is not None or any((folder / name).is_file() for name in _MARKS)


def _episode(root: Path, path: Path) -> EpisodeFolder:
    task = group = None
    base = root
    above = path.parent
    if above.name == "episodes":
        above = above.parent
        if _GROUP.match(above.name):
            group, above = above.name, above.parent
        task = above.name or None
        if above == root or above in root.parents:
            base = above.parent
    elif root == path:
        base = path.parent
    parts = [p for p in path.relative_to(base).parts if p != "episodes"]
    return EpisodeFolder(root, path, plain_id("/".join(parts)), task, group)


def plain_id(text: str) -> str:
    """An episode's id from its place in a source: letters, digits and ``. _ - /``; different places stay different."""
    plain = re.sub(r"[^A-Za-z0-9._/-]", "_", text)
    # Two names that differ only in what an id cannot hold must not become one.
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
