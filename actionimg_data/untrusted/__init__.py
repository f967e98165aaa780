"""Every byte from outside is read here: bounded, from plain files only, with nothing executed; for converters too.

Whoever wrote a file may have meant harm, or a disk or a network may have damaged it. What these functions give is data;
anything else is an error of `actionimg_data.errors` that names the file, the place in it, what was expected and what
was found. None of them runs code, follows a link out of a file, waits at a named pipe, or takes more memory than the
bytes that are there give reason for.

| module | reads |
|---|---|
| `files` | plain files: `open_plain`, `plain` (for libraries that open by name), `read_bytes`, `read_head` |
| `text` | JSON and YAML: `load_json`, `load_yaml`, `load_any`, `parse_json`, `parse` into a pydantic model |
| `arrays` | `load_npz`, `load_npy`, `NpzRows`: numbers; `load_objects`: an `.npy` with lists, dicts and text in it |
| `pickles` | `load_pickle`: numbers, text, lists, dicts and arrays; other classes as `Record`, none imported |
| `pictures` | JPEG, PNG, WebP, BMP: `decode_picture`, `picture_header`; damage is found |
| `videos` | `check_mp4`, and the options that a video is opened with; `actionimg_data.video.VideoFrames` reads one |
| `hdf5` | `open_hdf5`, `dataset`, `read_numbers`: nothing outside of the file |
| `zarr_store` | `Guarded`: a zarr store whose chunks are looked at first |
| `unpack` | members of zip archives (`unzip`), and what packed values claim (`check_unpacked`) |

Every name below is public, and imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arrays import NpzRows, load_npy, load_npz, load_objects
    from .files import open_plain, plain, read_bytes, read_head
    from .hdf5 import dataset, open_hdf5, read_numbers
    from .pickles import Record
    from .pickles import load as load_pickle
    from .pictures import PictureHeader, picture_header
    from .pictures import decode as decode_picture
    from .text import load_any, load_json, load_yaml, parse, parse_json
    from .unpack import check_unpacked, unzip
    from .videos import check_mp4
    from .zarr_store import Guarded

_EXPORTS = {
    "Guarded": "zarr_store.Guarded",
    "PictureHeader": "pictures.PictureHeader",
    "Record": "pickles.Record",
    "check_mp4": "videos.check_mp4",
    "check_unpacked": "unpack.check_unpacked",
    "dataset": "hdf5.dataset",
    "decode_picture": "pictures.decode",
    "load_any": "text.load_any",
    "load_json": "text.load_json",
    "load_npy": "arrays.load_npy",
    "NpzRows": "arrays.NpzRows",
    "load_npz": "arrays.load_npz",
    "load_objects": "arrays.load_objects",
    "load_pickle": "pickles.load",
    "load_yaml": "text.load_yaml",
    "open_hdf5": "hdf5.open_hdf5",
    "open_plain": "files.open_plain",
    "parse": "text.parse",
    "parse_json": "text.parse_json",
    "picture_header": "pictures.picture_header",
    "plain": "files.plain",
    "read_bytes": "files.read_bytes",
    "read_head": "files.read_head",
    "read_numbers": "hdf5.read_numbers",
    "unzip": "unpack.unzip",
}

__all__ = [
    "Guarded",
    "NpzRows",
    "PictureHeader",
    "Record",
    "check_mp4",
    "check_unpacked",
    "dataset",
    "decode_picture",
    "load_any",
    "load_json",
    "load_npy",
    "load_npz",
    "load_objects",
    "load_pickle",
    "load_yaml",
    "open_hdf5",
    "open_plain",
    "parse",
    "parse_json",
    "picture_header",
    "plain",
    "read_bytes",
    "read_head",
    "read_numbers",
    "unzip",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(".")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
