"""Sizes of pictures that a camera may make."""

from __future__ import annotations

from typing import Final

MAX_PIXELS: Final = 1 << 26
"""Pixels of the largest picture or video frame that is decoded: twice those of an 8K camera, 200 MB as RGB."""

MAX_SIDE: Final = 16384
"""Most pixels in a row or a column of one."""

SIZES: Final = f"1 … {MAX_SIDE} pixels a side, {MAX_PIXELS} in all"


def sensible_size(width: int, height: int) -> bool:
    """Whether a camera may make pictures of this size."""
    return 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS


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
