"""Unpacks what bags hold, up to a bound: `rosbags` itself unpacks whatever a chunk goes on to hold."""

from __future__ import annotations

import bz2
import io
import os
from functools import cache
from types import SimpleNamespace
from typing import Any, Final

from ...errors import BadFileError, UnsafeFileError

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
