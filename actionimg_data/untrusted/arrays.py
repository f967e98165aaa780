"""numpy's files of arrays, made of the bytes that are there and of nothing else."""

from __future__ import annotations

import io
import tokenize
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ActionImgError, BadFileError, SourceNotFoundError, UnsafeFileError, WrongFormatError
from . import pickles
from .files import open_plain, plain
from .unpack import BAD_ZIP, MAX_ARRAY_BYTES, unzip

_BAD_NPY = (
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    RecursionError,
    MemoryError,
    OverflowError,
    tokenize.TokenError,
)


def load_npz(
    source: bytes | Path, where: object, max_bytes: int = MAX_ARRAY_BYTES, names: Collection[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Arrays of an ``.npz``; object arrays and contents over ``max_bytes`` are refused before anything is unpacked.

    Args:
        source: The file, or what is in it.
        where: For errors.
        max_bytes: Most that it may unpack to.
        names: Arrays to unpack, where they are there; the others are left packed. None: all.

    Raises:
        UnsafeFileError: It would unpack to more than ``max_bytes``, or holds Python objects.
        BadFileError: It is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as archive:
            entries = archive.infolist()
            total = sum(entry.file_size for entry in entries)
            if total > max_bytes:
                raise UnsafeFileError(
                    "unpacks to too much", where=where, expected=f"≤ {max_bytes} B", found=f"{total} B"
                )
            arrays: dict[str, NDArray[Any]] = {}
            for entry in entries:
                if not entry.filename.endswith(".npy") or entry.filename[:-4] in arrays:
                    raise BadFileError("has an unexpected member", where=where, found=entry.filename)
                if names is None or entry.filename[:-4] in names:
                    body = unzip(archive, entry, where, max_bytes)
                    arrays[entry.filename[:-4]] = load_npy(body, where, entry.filename)
            return arrays
    except BAD_ZIP as error:
        if isinstance(error, (BadFileError, UnsafeFileError)):
            raise
        raise BadFileError(f"cannot be read: {error}", where=where) from None


@dataclass(frozen=True)
class NpzRows:
    """Rows ``(T, ...)`` of one array of an ``.npz``, unpacked one at a time: the whole may be larger than memory.

    Args:
        path: The file.
        member: Its array, with the ending ``.npy``.
        shape: Of the array.
        dtype: Of the array.
        header: Bytes before its first row.
    """

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    header: int

    @classmethod
    def open(cls, path: Path, name: str | None = None) -> NpzRows:
        """The array of this name; None: the only one.

        Raises:
            WrongFormatError: There is no such array, or there are several and none is named.
            UnsafeFileError: It holds Python objects, or a row of it is too large.
            BadFileError: It is damaged, or its columns lie before its rows.
        """
        try:
            with zipfile.ZipFile(plain(path)) as archive:
                members = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
                wanted = [e for e in members if name in (None, e.filename[:-4])]
                if len(wanted) != 1:
                    raise WrongFormatError(
                        "has no such array" if name else "holds several arrays, or none",
                        where=path,
                        expected=name or "one array",
                        found=", ".join(e.filename[:-4] for e in members) or "none",
                    )
                with archive.open(wanted[0]) as stream:
                    shape, fortran, dtype = _header(stream)
                    header = stream.tell()
        except (*BAD_ZIP, *_BAD_NPY) as error:
            if isinstance(error, ActionImgError):
                raise
            raise BadFileError(f"cannot be read: {error}", where=path) from None
        if dtype.hasobject:
            raise UnsafeFileError("holds Python objects", where=path, field=wanted[0].filename)
        row = dtype.itemsize * int(np.prod([int(n) for n in shape[1:]], dtype=object))
        if not shape or fortran or header + row * shape[0] != wanted[0].file_size:
            raise BadFileError("is no array of rows, or is cut", where=path, field=wanted[0].filename, found=shape)
        if row > MAX_ARRAY_BYTES:
            raise UnsafeFileError("a row is too large", where=path, expected=f"≤ {MAX_ARRAY_BYTES} B", found=f"{row} B")
        return cls(path, wanted[0].filename, shape, dtype, header)

    def rows(self, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
        """The rows at ``indices``, quickest where these increase.

        Raises:
            BadFileError: The file is damaged, or not what it was when it was opened.
        """
        size = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        try:
            with zipfile.ZipFile(plain(self.path)) as archive, archive.open(self.member) as stream:
                for index in indices:
                    # What lies between is unpacked and dropped, in bounded pieces; going back begins anew.
                    stream.seek(self.header + index * size)
                    body = stream.read(size)
                    if len(body) != size:
                        raise BadFileError("is cut", where=self.path, field=f"{self.member}[{index}]")
                    yield np.frombuffer(body, self.dtype).reshape(self.shape[1:])
        except (*BAD_ZIP, KeyError) as error:
            if isinstance(error, ActionImgError):
                raise
            raise BadFileError(f"cannot be read: {error}", where=self.path, field=self.member) from None


def load_npy(body: bytes, where: object, name: str | None = None) -> NDArray[Any]:
    """The array of an ``.npy``, made of the bytes that are there and of nothing else.

    Raises:
        UnsafeFileError: It holds Python objects.
        BadFileError: Its header is damaged, or states another size than there is.
    """
    stream = io.BytesIO(body)
    try:
        shape, fortran, dtype = _header(stream)
        if dtype.hasobject:
            raise UnsafeFileError("holds Python objects", where=where, field=name)
        size = dtype.itemsize * int(np.prod([int(n) for n in shape], dtype=object))
        rest = memoryview(body)[stream.tell() :]
        if size != len(rest):
            raise BadFileError("is truncated", where=where, field=name, expected=f"{size} B", found=f"{len(rest)} B")
        return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C")
    except _BAD_NPY as error:
        if isinstance(error, (BadFileError, UnsafeFileError)):
            raise
        raise BadFileError(f"cannot be read: {error}", where=where, field=name) from None


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of an ``.npy``, which is read up to its first number."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = header(stream)
    return found


def load_objects(path: Path, max_bytes: int = pickles.MAX_BYTES) -> Any:
    """What an ``.npy`` holds that was saved with Python objects in it; nothing of it is run.

    ``np.save(path, {"text": [...], "span": [(0, 64), ...]})`` makes such a file: its single object is returned as it
    is, a dict here; an array of several as an object array. Objects may be numbers, texts, bytes, lists, tuples, dicts
    and arrays; a file of plain numbers gives its array.

    Raises:
        SourceNotFoundError: The file does not exist.
        UnsafeFileError: It asks for anything else, or exceeds a limit.
        BadFileError: It is damaged.
    """
    try:
        with open_plain(path) as file:
            body = file.read(min(path.stat().st_size, max_bytes) + 1)
    except FileNotFoundError:
        raise SourceNotFoundError("no such file", where=path) from None
    except OSError as error:
        raise BadFileError(f"cannot be read: {error.strerror}", where=path) from None
    if len(body) > max_bytes:
        raise UnsafeFileError("is too large", where=path, expected=f"at most {max_bytes} bytes")
    stream = io.BytesIO(body)
    try:
        shape, _, dtype = _header(stream)
    except _BAD_NPY as error:
        raise BadFileError(f"cannot be read: {error}", where=path) from None
    if not dtype.hasobject:
        return load_npy(body, path)
    if dtype != np.dtype(object):
        raise UnsafeFileError("holds a structured number type with objects", where=path)
    found = pickles.loads(body[stream.tell() :], str(path), max_bytes=max_bytes, objects=True)
    if not isinstance(found, np.ndarray) or found.shape != shape:
        raise BadFileError("does not hold what its header states", where=path, expected=f"objects {shape}")
    return found[()] if shape == () else found
