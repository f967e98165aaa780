"""What authors of converters build on; docs/write_a_converter.md shows it at work.

What reads bytes of unknown origin (pickles, arrays, pictures, HDF5, …) is in `actionimg_data.untrusted`.

Every name here is public. They are imported on first use: a converter pays for what it takes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .detection import detect_file, detect_hdf5
    from .frames import CroppedFrames, FlippedFrames, HDF5Depth, HDF5Frames, ImageFiles, SwappedFrames, ZarrFrames
    from .kinematics import Chain
    from .pictures import PngFrames, numbered_pictures
    from .tables import Table, open_table
    from .tree import (
        file_names,
        file_stamp,
        files_with_sizes,
        folders_with,
        natural_key,
        plain_id,
        some_files,
        source_folder,
        subfolders,
    )

_EXPORTS = {
    **dict.fromkeys(
        (
            *("file_names", "file_stamp", "files_with_sizes", "folders_with", "natural_key", "plain_id", "some_files"),
            *("source_folder", "subfolders"),
        ),
        "tree",
    ),
    **dict.fromkeys(("detect_file", "detect_hdf5"), "detection"),
    **dict.fromkeys(("PngFrames", "numbered_pictures"), "pictures"),
    **dict.fromkeys(
        ("CroppedFrames", "FlippedFrames", "HDF5Depth", "HDF5Frames", "ImageFiles", "SwappedFrames", "ZarrFrames"),
        "frames",
    ),
    **dict.fromkeys(("Table", "open_table"), "tables"),
    "Chain": "kinematics",
}

__all__ = [
    "Chain",
    "CroppedFrames",
    "FlippedFrames",
    "HDF5Depth",
    "HDF5Frames",
    "ImageFiles",
    "PngFrames",
    "SwappedFrames",
    "Table",
    "ZarrFrames",
    "detect_file",
    "detect_hdf5",
    "file_names",
    "file_stamp",
    "files_with_sizes",
    "folders_with",
    "natural_key",
    "numbered_pictures",
    "open_table",
    "plain_id",
    "some_files",
    "source_folder",
    "subfolders",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
