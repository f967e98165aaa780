"""Packed data (zip, gzip, zstd, blosc, the chunks of bags), unpacked up to a bound and no further."""

from __future__ import annotations

import bz2
import io
import os
import struct
import zipfile
import zlib
from functools import cache
from types import SimpleNamespace
from typing import Any, Final

from ..errors import BadFileError, BadImageError, UnsafeFileError
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


def _whole(unpacker: Any, data: bytes, kind: str) -> bytes:
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


@cache
def bound() -> None:
    """Let `rosbags` unpack with the functions of this file, from now on."""
    import lz4.frame  # type: ignore[import-untyped]
    from rosbags.rosbag1 import reader as rosbag1
    from rosbags.rosbag2 import reader as rosbag2
    from rosbags.rosbag2 import storage_mcap as mcap

    zstd: Any = rosbag2.zstd  # type: ignore[attr-defined]

    def unpack_bz2(data: bytes, _: int = 0) -> bytes:
        return _whole(bz2.BZ2Decompressor(), data, "bz2")

    def unpack_lz4(data: bytes, _: int = 0) -> bytes:
        return _whole(lz4.frame.LZ4FrameDecompressor(), data, "lz4")

    def unpack_zstd(data: bytes, _: int = 0) -> bytes:
        return _whole(zstd.ZstdDecompressor(), data, "zstd")

    def open_zstd(file: Any, *arguments: Any, **named: Any) -> Any:
        return _Bounded(zstd.open(file, *arguments, **named), os.fstat(file.fileno()).st_size)

    rosbag1.decompressors.update({"bz2": unpack_bz2, "lz4": unpack_lz4})
    mcap.DECOMPRESSORS.update({"lz4": unpack_lz4, "zstd": unpack_zstd})
    rosbag2.zstd = SimpleNamespace(decompress=unpack_zstd, open=open_zstd)  # type: ignore[assignment,attr-defined]


def zstd_error() -> type[Exception]:
    """What the zstd library raises."""
    from rosbags.rosbag2 import storage_mcap as mcap

    error: type[Exception] = mcap.zstd.ZstdError  # type: ignore[attr-defined]
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
