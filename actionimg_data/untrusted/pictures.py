"""What pictures state of themselves, held against what they hold before anything is decoded."""

from __future__ import annotations

import struct
from typing import Final

from ..errors import BadImageError

MAX_PIXELS: Final = 1 << 26
"""Pixels of the largest picture or video frame that is decoded: twice those of an 8K camera, 200 MB as RGB."""

MAX_SIDE: Final = 16384
"""Most pixels in a row or a column of one."""

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
