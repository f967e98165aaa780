"""Packed data (zip, gzip, zstd, blosc, the chunks of bags), unpacked up to a bound and no further."""

from __future__ import annotations

import bz2
import io
import os
import struct
import zipfile
import zlib
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from ..errors import BadFileError, BadImageError, UnsafeFileError
from .files import open_plain
from .sizes import SIZES, jpegxl_size, sensible_size

MAX_ARRAY_BYTES: Final = 1 << 29
"""Most that the arrays of one ``.npz``, or one ``.npy``, may unpack to."""

_UNPACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
BAD_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
    struct.error,
)
# What numpy's parser of headers lets through from Python's own.

MAX_CHUNK: Final = 1 << 29
"""Most bytes that a chunk, or a message, may unpack to."""

_STEP = 1 << 20
_LARGEST_RATIO = 200
_SMALLEST_LIMIT = 1 << 30


def _whole(unpacker: Any, data: bytes, kind: str, cut: bool = False) -> bytes:
    """All that ``data`` unpacks to, at most `MAX_CHUNK` bytes."""
    out = bytearray()
    part = unpacker.decompress(data, max_length=_STEP)
    while True:
        out += part
        if len(out) > MAX_CHUNK:
            raise UnsafeFileError("a chunk unpacks to too much", field=kind, expected=f"≤ {MAX_CHUNK} bytes")
        if unpacker.eof:
            return bytes(out)
        if unpacker.needs_input:
            if cut:
                return bytes(out)
            raise BadFileError("a chunk is cut", field=kind, found=f"{len(out)} bytes")
        part = unpacker.decompress(b"", max_length=_STEP)


class _Bounded(io.RawIOBase):
    """An unpacked file of which no more is read than a packed one of its size holds."""

    def __init__(self, inner: Any, packed: int) -> None:
        self._inner = inner
        self._left = max(_SMALLEST_LIMIT, _LARGEST_RATIO * packed)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._inner.read(_STEP if size < 0 else size)
        self._left -= len(data)
        if self._left < 0:
            raise UnsafeFileError("a packed bag unpacks to too much", expected=f"≤ {_LARGEST_RATIO} times its size")
        return data

    def close(self) -> None:
        self._inner.close()
        super().close()


def unpacked(data: bytes, kind: str, cut: bool = False) -> bytes:
    """What a chunk of a bag unpacks to, at most `MAX_CHUNK` bytes.

    Args:
        data: The packed bytes.
        kind: ``bz2``, ``lz4``, ``zstd``, or empty for bytes as they are.
        cut: The chunk was cut off: what can be had of it is wanted.

    Raises:
        UnsafeFileError: It unpacks to more.
        BadFileError: Cut off or damaged, or packed by another method.
    """
    if kind in ("", "none"):
        return data
    if kind == "bz2":
        unpacker: Any = bz2.BZ2Decompressor()
        wrong: tuple[type[Exception], ...] = (OSError, ValueError, EOFError)
    elif kind == "lz4":
        import lz4.frame  # type: ignore[import-untyped]

        unpacker, wrong = lz4.frame.LZ4FrameDecompressor(), (RuntimeError, ValueError, EOFError)
    elif kind == "zstd":
        unpacker, wrong = _zstd().ZstdDecompressor(), (_zstd().ZstdError, ValueError, EOFError)
    else:
        raise BadFileError("a chunk is packed by a method that is not read", expected="lz4 | zstd | bz2", found=kind)
    try:
        return _whole(unpacker, data, kind, cut)
    except wrong as error:
        raise BadFileError(f"a chunk is damaged: {error}", field=kind) from None


def _zstd() -> Any:
    """The zstd library that `rosbags` uses: Python's own from 3.14 on."""
    from rosbags.rosbag2 import storage_mcap as mcap

    return mcap.zstd  # type: ignore[attr-defined]


def unpack_file(path: Path, to: Path) -> Path:
    """A file packed by zstd, unpacked to ``to``, which is given back.

    Raises:
        UnsafeFileError: It unpacks to more than such a file can hold.
        BadFileError: It is damaged.
    """
    zstd = _zstd()
    try:
        with open_plain(path) as packed, open(to, "wb") as out:
            source = _Bounded(zstd.open(packed, "rb"), os.fstat(packed.fileno()).st_size)
            while part := source.read(_STEP):
                out.write(part)
    except (zstd.ZstdError, EOFError) as error:
        raise BadFileError(f"is damaged: {error}", where=path) from None
    return to


@cache
def bound() -> None:
    """Let `rosbags` unpack with the functions of this file, from now on."""
    from rosbags.rosbag1 import reader as rosbag1

    rosbag1.decompressors.update({kind: partial(unpacked, kind=kind) for kind in ("bz2", "lz4")})


def zstd_error() -> type[Exception]:
    """What the zstd library raises."""
    error: type[Exception] = _zstd().ZstdError
    return error


def unzip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: object, limit: int = MAX_ARRAY_BYTES) -> bytes:
    """The bytes of a member of a zip archive, which never takes more memory than ``limit``.

    ``ZipFile.read`` unpacks all that the compressed data goes on to hold before it looks at the stated size.

    Raises:
        UnsafeFileError: It states more than ``limit`` bytes.
        BadFileError: It is damaged, encrypted, or packed by another method than deflate.
    """
    if entry.file_size > limit:
        raise UnsafeFileError(
            "unpacks to too much", where=where, field=entry.filename, expected=f"≤ {limit} B", found=entry.file_size
        )
    if entry.compress_type not in _UNPACKED:
        raise BadFileError(
            "is packed by a method that is not read", where=where, field=entry.filename, expected="stored or deflated"
        )
    try:
        with archive.open(entry) as stream:
            data = stream.read(entry.file_size) if entry.file_size else b""
    except BAD_ZIP as error:
        raise BadFileError(f"cannot be read: {error}", where=where, field=entry.filename) from None
    if len(data) != entry.file_size:
        raise BadFileError(
            "is truncated",
            where=where,
            field=entry.filename,
            expected=f"{entry.file_size} B",
            found=f"{len(data)} B",
        )
    return data


def check_unpacked(data: bytes, where: object, limit: int = MAX_ARRAY_BYTES) -> None:
    """Refuse a value packed by blosc, zstd, gzip or zlib, or a JPEG-XL picture, that unpacks to more than ``limit``.

    Raises:
        UnsafeFileError: It claims more, or (gzip, zlib) goes on for longer.
        BadImageError: A JPEG-XL picture of a size that no camera has.
    """
    claimed = 0
    if len(data) >= 16 and data[0] in (1, 2) and int.from_bytes(data[12:16], "little") == len(data):
        claimed = int.from_bytes(data[4:8], "little")  # a blosc chunk: version, …, bytes unpacked, block, bytes packed
    elif data[:4] == b"\x28\xb5\x2f\xfd":
        claimed = _zstd_size(data)
    elif data[:2] in (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda") and 1032 * len(data) > limit:
        claimed = _inflated_size(data, limit)
    elif data[:2] == b"\xff\x0a" or data[4:8] == b"JXL ":
        size = jpegxl_size(data)
        if size is None or not sensible_size(*size):
            raise BadImageError("JPEG-XL states an impossible size", where=where, expected=SIZES, found=size)
    if claimed > limit:
        raise UnsafeFileError("unpacks to too much", where=where, expected=f"≤ {limit} bytes", found=claimed)


def _zstd_size(data: bytes) -> int:
    """Bytes that a zstd frame states it unpacks to (RFC 8878, 3.1.1.1); a frame that does not say is taken at most."""
    flags = data[4] if len(data) > 4 else 0
    single, kind = flags >> 5 & 1, flags >> 6
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
    width = (single, 2, 4, 8)[kind]
    if width == 0:
        # Each block of at least 4 bytes holds at most 128 KiB.
        return (len(data) // 4) << 17 if len(data) > 1 << 14 else 0
    return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)


def _inflated_size(data: bytes, limit: int) -> int:
    """Bytes that a gzip or zlib stream unpacks to, counted up to just over ``limit``."""
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    count = 0
    try:
        while data and count <= limit and not unpack.eof:
            count += len(unpack.decompress(data, 1 << 20))
            data = unpack.unconsumed_tail
    except zlib.error:
        return count  # what is damaged is refused by who unpacks it
    return count
