"""Where a TFDS data set is: ``ROOT/NAME[/CONFIG]/VERSION/{features.json, dataset_info.json, shards}``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ...errors import AmbiguousSourceError, SourceNotFoundError, WrongFormatError

FEATURES = "features.json"
INFO = "dataset_info.json"
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_MAX_CHILDREN = 4096


@dataclass(frozen=True)
class Found:
    """One prepared data set: its version folder, and the name its parent folders give it."""

    folder: Path
    name: str
    version: str


def is_dataset_folder(folder: Path) -> bool:
    """Whether ``folder`` itself is a version folder, i.e. holds both JSON files of TFDS."""
    return (folder / FEATURES).is_file() and (folder / INFO).is_file()


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for _, e in zip(range(_MAX_CHILDREN), entries, strict=False) if _is_dir(e)]
    except OSError:
        return []
    return [folder / n for n in sorted(names) if not n.startswith(".")]


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _name_of(folder: Path) -> str:
    parent = folder.parent
    return parent.name if _VERSION.fullmatch(folder.name) else folder.name


def find_all(source: Path, depth: int = 3) -> list[Found]:
    """Every prepared data set at ``source`` or up to ``depth`` folders below it, sorted by path."""
    if is_dataset_folder(source):
        resolved = source.resolve()
        version = resolved.name if _VERSION.fullmatch(resolved.name) else ""
        return [Found(source, _name_of(resolved), version)]
    if depth == 0:
        return []
    return [f for child in _subfolders(source) for f in find_all(child, depth - 1)]


def _version_key(found: Found) -> tuple[int, ...]:
    return tuple(int(p) for p in found.version.split(".")) if found.version else (0,)


def find(source: str | os.PathLike[str], dataset: str | None = None) -> Found:
    """The one data set that ``source`` (and ``dataset``: ``NAME``, ``NAME/CONFIG`` or ``NAME/VERSION``) means.

    Of several versions of one data set the newest is taken, as TFDS does.

    Raises:
        SourceNotFoundError: ``source`` does not exist, or holds no data set of that name.
        WrongFormatError: Nothing there was written by TFDS.
        AmbiguousSourceError: Several data sets, and ``dataset`` does not say which.
    """
    root = Path(source)
    if not root.is_dir():
        raise SourceNotFoundError("no such folder", where=root)
    every = find_all(root)
    if not every:
        raise WrongFormatError(
            "no RLDS data set here",
            where=root,
            expected=f"a folder with {FEATURES} and {INFO}",
            hint="Give the folder that TFDS wrote, e.g. ROOT/bridge_dataset/1.0.0.",
        )
    wanted = every
    if dataset is not None and not is_dataset_folder(root):
        parts = [p for p in dataset.split("/") if p]
        wanted = [f for f in every if _has_parts(root, f, parts)]
        # A folder of one data set may be named anything; its own parts need not repeat the data set's name.
        if not wanted and len({f.folder.parent for f in every}) == 1:
            wanted = every
        if not wanted:
            raise SourceNotFoundError(
                "no data set of that name",
                where=root,
                expected=" | ".join(sorted({f.name for f in every})),
                found=dataset,
            )
    parents = sorted({f.folder.parent for f in wanted})
    if len(parents) > 1:
        raise AmbiguousSourceError(
            "holds several data sets",
            where=root,
            expected="one",
            found=", ".join(str(p.relative_to(root)) for p in parents[:10]),
            hint="Give the folder of one of them, or name it with --dataset.",
        )
    return max(wanted, key=_version_key)


def _has_parts(root: Path, found: Found, parts: list[str]) -> bool:
    below = found.folder.relative_to(root).parts
    own = (root.resolve().name, *below)
    it = iter(own)
    return all(p in it for p in parts)
