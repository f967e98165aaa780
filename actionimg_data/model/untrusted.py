"""Files of unknown origin: what they claim is held against what they hold, before anything is made of the claim."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFileError, BadImageError, BadVideoError, UnsafeFileError

MAX_PIXELS: Final = 1 << 26
"""Pixels of the largest picture or video frame that is decoded: twice those of an 8K camera, 200 MB as RGB."""

MAX_SIDE: Final = 16384
"""Most pixels in a row or a column of one."""

MAX_ARRAY_BYTES: Final = 1 << 29
"""Most that the arrays of one ``.npz``, or one ``.npy``, may unpack to."""

MAX_VIDEO_FRAMES: Final = 4_000_000
"""Most frames of one video file: 37 hours at 30 Hz."""

VIDEO_OPTIONS: Final = {
    # Playlists and lists of files (hls, dash, concat, …) would open other files, or the network.
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,nut,ivf,h264,hevc,obu,gif",
    "protocol_whitelist": "file",
    # Holds for the probing of the file as well, in which ffmpeg decodes a few frames.
    "max_pixels": str(MAX_PIXELS),
}
"""What a video is opened with: containers that hold their own pictures, and pictures of a size that a camera makes."""

DECODER_OPTIONS: Final = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
"""What its decoder is opened with: damaged data is an error, not a picture to be guessed."""

_UNPACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BAD_ZIP = (
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


def open_plain(path: str | os.PathLike[str]) -> IO[bytes]:
    """A plain file, open for reading; a pipe, at which reading would wait for ever, or a device is not opened.

    Raises:
        OSError: It cannot be opened, or is not a plain file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a plain file", os.fspath(path))
    return os.fdopen(descriptor, "rb")


# Zip archives and numpy's arrays.


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
    except _BAD_ZIP as error:
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


def load_npz(source: bytes | Path, where: object, max_bytes: int = MAX_ARRAY_BYTES) -> dict[str, NDArray[Any]]:
    """Arrays of an ``.npz``; object arrays and contents over ``max_bytes`` are refused before anything is unpacked.

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
                arrays[entry.filename[:-4]] = load_npy(unzip(archive, entry, where, max_bytes), where, entry.filename)
            return arrays
    except _BAD_ZIP as error:
        if isinstance(error, (BadFileError, UnsafeFileError)):
            raise
        raise BadFileError(f"cannot be read: {error}", where=where) from None


def load_npy(body: bytes, where: object, name: str | None = None) -> NDArray[Any]:
    """The array of an ``.npy``, made of the bytes that are there and of nothing else.

    Raises:
        UnsafeFileError: It holds Python objects.
        BadFileError: Its header is damaged, or states another size than there is.
    """
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
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


# JSON.


def parse_json(raw: bytes | str, where: object, field: str | None = None) -> Any:
    """The values of a JSON text.

    Raises:
        BadFileError: It is not JSON, not UTF-8, nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        raise BadFileError(f"is not JSON: {error.msg}", where=where, field=field or f"line {error.lineno}") from None
    except RecursionError:
        raise BadFileError("is not JSON that can be read: it is nested too deeply", where=where, field=field) from None
    except ValueError as error:
        raise BadFileError(f"is not JSON: {error}", where=where, field=field) from None


# Pictures.

SIZES: Final = f"1 … {MAX_SIDE} pixels a side, {MAX_PIXELS} in all"


def sensible_size(width: int, height: int) -> bool:
    """Whether a camera may make pictures of this size."""
    return 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS


def picture_size(data: bytes, where: object) -> tuple[str, int, int]:
    """Kind, height and width of an encoded picture by its header; nothing is decoded.

    Raises:
        BadImageError: Neither JPEG, PNG, WebP nor BMP; damaged in its header; or of a size that no camera has.
    """
    if data[:2] == b"\xff\xd8":
        kind, (height, width, _, _) = "jpeg", jpeg_header(data, where)
    elif data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 33:
        kind = "png"
        width, height = struct.unpack_from(">II", data, 16)
        check_png_chunks(data, where)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        kind, (height, width) = "webp", _webp_size(data, where)
    elif data[:2] == b"BM" and len(data) >= 26:
        kind = "bmp"
        wide = int.from_bytes(data[14:18], "little") != 12
        width, height = struct.unpack_from("<ii" if wide else "<HH", data, 18)
        height = abs(height)
    else:
        raise BadImageError(
            "is no picture that can be read",
            where=where,
            expected="jpeg | png | webp | bmp",
            found=f"{len(data)} bytes, {data[:8].hex(' ')}" if data else "nothing",
        )
    if not sensible_size(width, height):
        raise BadImageError("states an impossible size", where=where, expected=SIZES, found=f"{width}x{height}")
    return kind, height, width


def jpeg_header(data: bytes, where: object = None) -> tuple[int, int, int, int]:
    """Height, width, channels, bits from the frame header (SOFn), found by walking the segments (ITU-T T.81 B.1)."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
            continue
        # All SOF markers but DHT (C4), JPG (C8) and DAC (CC).
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if position + 10 > len(data):
                break
            bits, height, width, channels = struct.unpack(">BHHB", data[position + 4 : position + 10])
            return height, width, channels, bits
        position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
    raise BadImageError("a JPEG without a frame header", where=where, found=f"{len(data)} bytes")


def check_png_chunks(data: bytes, where: object = None) -> None:
    """Refuse a PNG whose chunks are cut or claim more than there is: OpenCV allocates what a chunk claims."""
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"IEND" and length == 0:
            return
        position += 12 + length
    raise BadImageError("PNG is truncated", where=where, found=f"{len(data)} bytes")


def _webp_size(data: bytes, where: object) -> tuple[int, int]:
    """Height and width from the first chunk (https://developers.google.com/speed/webp/docs/riff_container)."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if chunk == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    raise BadImageError("a WebP without a size", where=where, found=f"{len(data)} bytes")


# Videos.

_NESTED = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts"}
_MAX_BOXES = 1_000_000


def check_mp4(source: bytes | str | os.PathLike[str], where: object) -> None:
    """Refuse an MP4 (or MOV) whose tables claim more pictures than its bytes can hold; ffmpeg makes room for them.

    Only the headers of its boxes are read. Other files pass.

    Raises:
        BadVideoError: Samples without bytes, more than `MAX_VIDEO_FRAMES`, or a compressed header.
    """
    if isinstance(source, bytes):
        file: IO[bytes] = io.BytesIO(source)
        size = len(source)
    else:
        file = open_plain(source)
        size = os.fstat(file.fileno()).st_size
    with file:
        if file.read(8)[4:] not in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"):
            return
        audio, total = False, 0
        for kind, body in _boxes(file, size, where):
            if kind == b"hdlr" and len(body) >= 12:
                audio = body[8:12] == b"soun"
            elif kind == b"cmov":
                raise BadVideoError("has a compressed header, which is not read", where=where, field="cmov")
            elif kind == b"stsz" and len(body) >= 12:
                each, count = struct.unpack_from(">II", body, 4)
                # Sound has a sample for each of its thousands of values a second, which all have bytes too.
                if each * count > size or (not audio and count > MAX_VIDEO_FRAMES):
                    raise _too_many(count, size, where)
            elif kind in (b"stz2", b"trun") and len(body) >= 12:
                count = int.from_bytes(body[8:12] if kind == b"stz2" else body[4:8], "big")
                total += count
                if total > min(size, MAX_VIDEO_FRAMES if not audio else size):
                    raise _too_many(total, size, where)


def _too_many(count: int, size: int, where: object) -> BadVideoError:
    return BadVideoError(
        "claims more frames than it can hold",
        where=where,
        expected=f"≤ {MAX_VIDEO_FRAMES} in {size} bytes",
        found=f"{count} frames",
    )


def _boxes(file: IO[bytes], size: int, where: object) -> Iterator[tuple[bytes, bytes]]:
    """Kind and first bytes of every box outside the media data (ISO/IEC 14496-12, 4.2)."""
    ends = [size]
    position = 0
    for _ in range(_MAX_BOXES):
        while ends and position + 8 > ends[-1]:
            position = ends.pop()
        if not ends:
            return
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            return
        length, kind, start = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1:
            length, start = int.from_bytes(head[8:16], "big"), 16
        end = ends[-1] if length == 0 else min(position + length, ends[-1])
        if length != 0 and length < start:
            return
        if kind in _NESTED and len(ends) < 16:
            ends.append(end)
            position += start
            continue
        file.seek(position + start)
        yield kind, file.read(min(16, max(0, end - position - start)))
        position = end
    raise BadVideoError("has too many boxes", where=where, expected=f"≤ {_MAX_BOXES}")


# Packed values.


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


def jpegxl_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG-XL picture states (ISO/IEC 18181-1, SizeHeader), or None where it does not."""
    start = 0
    if data[4:8] == b"JXL ":
        start = next((i + 8 for kind in (b"jxlc", b"jxlp") if (i := data.find(kind, 12, 1 << 16) - 4) >= 0), -1)
        start += 4 if start >= 8 and data[start - 4 : start] == b"jxlp" else 0
    if start < 0 or data[start : start + 2] != b"\xff\x0a":
        return None
    bits = int.from_bytes(data[start + 2 : start + 14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & (1 << count) - 1, bits >> count
        return value

    def side(small: int) -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    height = side(small)
    ratio = take(3)
    if ratio == 0:
        return side(small), height
    top, bottom = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height * top // bottom, height
