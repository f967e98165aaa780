"""HDF5 files of unknown origin, opened without following anything out of the file."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import ActionImgError, BadFileError, MissingExtraError, StorageError, UnsafeFileError, install_hint
from .files import open_seekable, unreadable
from .unpack import MAX_ARRAY_BYTES

MAX_COLUMN_BYTES = MAX_ARRAY_BYTES
"""Largest column of numbers that is read whole; and largest chunk or row that is read at all."""
MAX_DEPTH = 64
# What damaged files make h5py and the library below raise.
DAMAGED = (OSError, RuntimeError, ValueError, TypeError, LookupError, OverflowError, MemoryError, SystemError)
# Registered filters (https://github.com/HDFGroup/hdf5_plugins/blob/master/docs/RegisteredFilterPlugins.md).
_FILTERS = {
    307: "bzip2",
    32000: "LZF",
    32001: "Blosc",
    32004: "LZ4",
    32008: "bitshuffle",
    32013: "ZFP",
    32015: "Zstandard",
    32017: "SZ",
    32018: "FCIDECOMP",
    32019: "JPEG",
    32024: "SZ3",
    32026: "Blosc2",
}
_MAX_CHECKED = 1000
_checked: set[tuple[str, int, int, int]] = set()


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """A read-only HDF5 file in which nothing points out of the file.

    Raises:
        SourceNotFoundError: No such file.
        BadFileError: Not HDF5, or truncated.
        UnsafeFileError: An external link, external storage, or a virtual data set over other files.
    """
    try:
        opened = open_seekable(path)
    except StorageError:
        raise
    except OSError as error:
        raise unreadable(error, path) from None
    try:
        file = h5py.File(opened or path, "r", locking=False)
    except StorageError:
        raise
    except DAMAGED as error:
        raise BadFileError(f"is not a readable HDF5 file: {error}", where=path) from None
    with file:
        # A file of a thousand episodes has tens of thousands of links; they are looked at once.
        status = path.stat()
        state = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
        if state not in _checked:
            _check_links(file, path)
            if len(_checked) >= _MAX_CHECKED:
                _checked.clear()
            _checked.add(state)
        try:
            yield file
        except (OSError, RuntimeError, KeyError) as error:
            # Damage is met wherever something is read first: an attribute, a name, a value.
            if isinstance(error, ActionImgError) or (isinstance(error, KeyError) and "Unable to" not in str(error)):
                raise
            raise BadFileError(f"is damaged: {error}", where=path) from None


def _check_links(file: h5py.File, path: Path) -> None:
    outside: list[str] = []

    def visit(name: str, link: Any) -> bool | None:
        if isinstance(link, h5py.ExternalLink):
            outside.append(f"{name} -> {link.filename}")
        # What is returned ends the visit, which takes ever longer the deeper it is.
        return True if name.count("/") >= MAX_DEPTH else None

    try:
        deep = file.visititems_links(visit)
    except DAMAGED as error:
        raise BadFileError(f"is damaged: {error}", where=path) from None
    if deep:
        raise UnsafeFileError("is nested too deeply", where=path, expected=f"≤ {MAX_DEPTH} groups in each other")
    if outside:
        raise UnsafeFileError(
            "links to another file", where=path, field=outside[0].split(" -> ")[0], found=outside[0].split(" -> ")[1]
        )


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The data set ``name``.

    Raises:
        BadFileError: There is none of that name, or it cannot be opened.
        UnsafeFileError: Its values are stored in other files, or are references.
        MissingExtraError: They are packed with a filter that is not installed.
    """
    where = file.filename
    try:
        found = file.get(name)
        return _harmless(found, where, name)
    except (BadFileError, UnsafeFileError, MissingExtraError):
        raise
    except DAMAGED as error:
        raise BadFileError(f"is damaged: {error}", where=where, field=name) from None


def _harmless(found: Any, where: str, name: str) -> h5py.Dataset:
    if not isinstance(found, h5py.Dataset):
        raise BadFileError("has no such data set", where=where, field=name)
    if found.external:
        raise UnsafeFileError("keeps its values in another file", where=where, field=name, found=found.external[0][0])
    if found.is_virtual:
        sources = sorted({s.file_name for s in found.virtual_sources()} - {".", where})
        if sources:
            raise UnsafeFileError("keeps its values in other files", where=where, field=name, found=sources[0])
    if h5py.check_ref_dtype(found.dtype) is not None or any(
        h5py.check_ref_dtype(found.dtype[n]) is not None for n in found.dtype.names or ()
    ):
        raise UnsafeFileError("holds references, which are not followed", where=where, field=name)
    # A chunk is unpacked as a whole, and one of zeros takes next to no room in the file.
    for part, shape in (("chunk", found.chunks), ("row", found.shape[1:] if found.shape else None)):
        size = math.prod(shape or ()) * found.dtype.itemsize
        if size > MAX_COLUMN_BYTES:
            raise UnsafeFileError(
                f"has too large a {part}", where=where, field=name, expected=f"≤ {MAX_COLUMN_BYTES} bytes", found=size
            )
    _check_filters(found, where, name)
    return found


def _check_filters(found: h5py.Dataset, where: str, name: str) -> None:
    """Refuse values that a filter packed which is not there: the library only says that a folder cannot be opened.

    Raises:
        MissingExtraError: One is missing; ``hdf5plugin`` has those that are registered.
    """
    made = found.id.get_create_plist()
    codes = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    if all(h5py.h5z.filter_avail(code) for code in codes):
        return
    with suppress(ImportError):
        # Its filters are known to the library from here on.
        importlib.import_module("hdf5plugin")
    missing = next((code for code in codes if not h5py.h5z.filter_avail(code)), None)
    if missing is not None:
        raise MissingExtraError(
            "is packed with a filter that is not installed",
            where=where,
            field=name,
            found=f"{_FILTERS.get(missing, 'filter')} ({missing})",
            hint=f"Install the filters: {install_hint('hdf5')}",
        )


def read_numbers(file: h5py.File, name: str) -> NDArray[Any]:
    """All values of a numeric data set, as stored.

    Raises:
        BadFileError: No such data set, damaged, or not numbers.
        UnsafeFileError: Too large for a column of numbers, or stored elsewhere.
    """
    found = dataset(file, name)
    if found.dtype.kind not in "biuf":
        raise BadFileError("does not hold numbers", where=file.filename, field=name, found=found.dtype)
    if (found.size or 0) * found.dtype.itemsize > MAX_COLUMN_BYTES:
        raise UnsafeFileError("is too large for a column", where=file.filename, field=name, found=found.shape)
    try:
        return np.asarray(found[()])
    except DAMAGED as error:
        raise BadFileError(f"is damaged: {error}", where=file.filename, field=name) from None


def text(value: Any) -> str | None:
    """An attribute or scalar as text, or None."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, (str, np.str_)) else None
