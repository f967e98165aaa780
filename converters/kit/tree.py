"""Folders and files of a source: natural order, ids, stamps.

Links to files and folders are followed: people make subsets of a data set by linking episodes. A link to a folder that
it lies in, however many links are between, is passed over, and one that leads nowhere is named once. So are names that
begin with a dot, without a word.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ...errors import BadFileError, SourceNotFoundError, WrongFormatError, printable, suggested_path
from ...untrusted.files import open_plain

log = logging.getLogger(__name__)

_DIGITS = re.compile(r"(\d+)")
_named: set[str] = set()


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """What to sort names by so that ``episode2`` comes before ``episode10``: ``sorted(names, key=natural_key)``."""
    return tuple((0, int(p), p) if p.isdecimal() else (1, 0, p) for p in _DIGITS.split(name) if p)


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
    """Names and sizes of the regular files in ``folder``, in natural order; dot-files are passed over."""
    found = [(e.name, e.stat().st_size) for e in _entries(folder) if e.is_file()]
    return sorted(found, key=lambda item: natural_key(item[0]))


def file_names(folder: Path, ending: str | tuple[str, ...]) -> list[str]:
    """Names of the regular files in ``folder`` that end so (capitals are small letters), in natural order.

    Of the others nothing but their names is read: a folder may hold a million of them.
    """
    return _ending(_entries(folder), ending)


def _ending(entries: list[os.DirEntry[str]], ending: str | tuple[str, ...]) -> list[str]:
    return sorted((e.name for e in entries if e.name.lower().endswith(ending) and e.is_file()), key=natural_key)


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
        with open_plain(path) as file:
            digest = hashlib.sha256(file.read(HEAD))
            if size > HEAD:
                file.seek(max(HEAD, size - HEAD))
                digest.update(file.read(HEAD))
    except OSError as error:
        # Its episode will be in the quarantine, with the reason; the others are not to suffer.
        return f"{size}:{error.errno}"
    return f"{size}:{digest.hexdigest()[:16]}"


def subfolders(folder: Path) -> list[Path]:
    """Folders in ``folder``, in natural order; names that begin with a dot are passed over."""
    return _folders(folder, _entries(folder))


def _folders(folder: Path, entries: list[os.DirEntry[str]]) -> list[Path]:
    found = [e.name for e in entries if e.is_dir() and not (e.is_symlink() and _leads_back(e.path))]
    return [folder / name for name in sorted(found, key=natural_key)]


def some_files(root: Path, ending: str | tuple[str, ...], max_folders: int = 500) -> Iterator[Path]:
    """Files at or under ``root`` whose name ends so (or in one of these ways; capitals are small letters).

    A few hundred folders at most are looked into; of a folder of a million others only its names are read.
    """
    left = [root]
    for _ in range(max_folders):
        if not left:
            return
        folder = left.pop()
        entries = _entries(folder)
        yield from (folder / name for name in _ending(entries, ending))
        left.extend(reversed(_folders(folder, entries)))


def folders_with(root: Path, found: Callable[[Path], bool], max_folders: int | None = None) -> Iterator[Path]:
    """Folders at or below ``root`` that are an episode, in natural order; what lies in one is not looked into.

    Args:
        root: Where to begin.
        found: Says of a folder whether it is one, e.g. by a file that it holds.
        max_folders: Give up quietly after so many folders (None: never).
    """
    pending, looked = [root], 0
    while pending and (max_folders is None or looked < max_folders):
        folder = pending.pop()
        looked += 1
        if found(folder):
            yield folder
            continue
        pending.extend(reversed(subfolders(folder)))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise BadFileError(f"folder cannot be read: {error.strerror}", where=folder) from None
    lost = [entry for entry in found if entry.is_symlink() and not os.path.exists(entry.path)]
    for entry in lost:
        if entry.path not in _named:
            _named.add(entry.path)
            log.warning("%s is a link that leads nowhere: %s", printable(entry.path), _target(entry.path))
    return [entry for entry in found if entry not in lost] if lost else found


def _target(link: str) -> str:
    try:
        return printable(os.readlink(link))
    except OSError as error:
        return str(error.strerror)


def _leads_back(link: str) -> bool:
    """Whether a link leads to a folder that it lies in, as it was come to: a walk would have no end."""
    target = os.path.realpath(link)
    above = os.path.dirname(os.path.abspath(link))
    while True:
        if os.path.realpath(above) == target:
            return True
        parent = os.path.dirname(above)
        if parent == above:
            return False
        above = parent


@dataclass
class Links:
    """The links of a source: how many were followed, and those that lead nowhere or back to where they lie."""

    followed: int = 0
    nowhere: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)


def links_below(root: Path, max_folders: int = 2000) -> Links:
    """Count the links at or under a folder, in the folders that a search finds first; see `Links`."""
    found = Links()
    left = [root]
    for _ in range(max_folders):
        if not left:
            break
        folder = left.pop()
        try:
            with os.scandir(folder) as entries:
                linked = [e.path for e in entries if e.is_symlink() and not e.name.startswith(".")]
        except OSError:
            continue
        for link in sorted(linked, key=natural_key):
            if not os.path.exists(link):
                found.nowhere.append(link)
            elif os.path.isdir(link) and _leads_back(link):
                found.back.append(link)
            else:
                found.followed += 1
        with contextlib.suppress(BadFileError):
            left.extend(reversed(subfolders(folder)))
    return found


def plain_id(text: str) -> str:
    """An episode's id from its place in a source: letters, digits and ``. _ - /``; different places stay different."""
    plain = re.sub(r"[^A-Za-z0-9._/-]", "_", text)
    # Two names that differ only in what an id cannot hold must not become one.
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
