"""`Converter.detect` of formats that are told by what is in one of their files: cheap, and quiet for all others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import h5py

from ...errors import ActionImgError
from ...untrusted import hdf5
from ..base import Detection
from .tree import some_files

HDF5_ENDINGS: Final = (".hdf5", ".h5")
MAX_FOLDERS: Final = 50
"""Folders that are looked into for a file of the format."""


def first_file(source: str, endings: tuple[str, ...], max_folders: int = MAX_FOLDERS) -> Path | None:
    """The source where its own name ends so, else the first such file below it; None where there is none."""
    root = Path(os.path.abspath(source))
    if root.name.lower().endswith(endings):
        return root if root.exists() else None
    return next(some_files(root, endings, max_folders), None) if root.is_dir() else None


def detect_file(
    source: str, endings: tuple[str, ...], look: Callable[[Path], Detection | None], max_folders: int = MAX_FOLDERS
) -> Detection | None:
    """What ``look`` says of a source's first file of these endings; None where none is there, or it is damaged.

    Args:
        source: As `Converter.detect` is given it.
        endings: Of the names of such files, in small letters.
        look: Says of a file whether it is of the format; may raise what reading it raises.
        max_folders: That are looked into.
    """
    try:
        path = first_file(source, endings, max_folders)
        return None if path is None else look(path)
    except (OSError, ActionImgError, RuntimeError):
        return None


def detect_hdf5(
    source: str, look: Callable[[h5py.File, Path], Detection | None], endings: tuple[str, ...] = HDF5_ENDINGS
) -> Detection | None:
    """`detect_file` of HDF5 files: ``look`` is given the open file and its path."""

    def opened(path: Path) -> Detection | None:
        with hdf5.open_hdf5(path) as file:
            return look(file, path)

    return detect_file(source, endings, opened)
