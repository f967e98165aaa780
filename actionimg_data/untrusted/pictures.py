"""Encoded pictures of unknown origin: what they state, held against what they hold; and the one way to decode them."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from ..errors import BadImageError
from .sizes import MAX_PIXELS, MAX_SIDE, SIZES, sensible_size

MAX_SCANS: Final = 64
"""Most scans of a JPEG, each of which goes over all of its pixels. Encoders write 10, or 20 to save bytes.

A picture of over 16 million pixels may have fewer: at most 16 times `MAX_PIXELS` are gone over in all.
"""

_FEW_SCANS = 16
# deflate at its best gives 1032 bytes for one, and a JPEG spends at least a bit on each block of 8x8.
_MOST_PER_BYTE = {"png": 1040, "jpeg": 1024}
_SMALL = 1 << 16
_PNG = b"\x89PNG\r\n\x1a\n"
# IHDR's colour types: channels as stored (palettes become RGB).
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_ORIENTATION = 0x0112
_UPRIGHT: dict[int, Callable[[Picture], Picture]] = {
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: p[::-1].swapaxes(0, 1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: p[:, ::-1].swapaxes(0, 1),
}
"""How a picture with each of EXIF's orientations is brought upright."""
_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_COLOUR_RGB: int | None = getattr(cv2, "IMREAD_COLOR_RGB", None)  # OpenCV 4.11; instead of IMREAD_COLOR, never with it

__all__ = [
    "MAX_PIXELS",
    "MAX_SCANS",
    "MAX_SIDE",
    "SIZES",
    "PictureHeader",
    "check_jpeg",
    "check_png_chunks",
    "decode",
    "decode_jpeg",
    "picture_header",
    "png_header",
    "sensible_size",
]

Picture = NDArray[Any]
Encoded = bytes | bytearray | memoryview | NDArray[np.uint8]


class PictureHeader(NamedTuple):
    """What an encoded picture states of itself: ``jpeg``, ``png``, ``webp`` or ``bmp``, its size and its values."""

    kind: str
    height: int
    width: int
    channels: int
    bits: int


def picture_header(data: bytes, where: object = None) -> PictureHeader:
    """Kind, size, channels and bits of an encoded picture by its header; nothing is decoded.

    Args:
        data: All of the encoded picture.
        where: What to call it in an error.

    Raises:
        BadImageError: Neither JPEG, PNG, WebP nor BMP; damaged in its header; of a size that no camera has, or of more
            pixels than its bytes can hold.
    """
    if data[:2] == b"\xff\xd8":
        height, width, channels, bits = _jpeg_header(data, where)
        head = PictureHeader("jpeg", height, width, channels, bits)
    elif data[:8] == _PNG:
        head = png_header(data, where)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        head = PictureHeader("webp", *_webp_size(data, where), 3, 8)
    elif data[:2] == b"BM" and len(data) >= 26:
        wide = int.from_bytes(data[14:18], "little") != 12
        width, height = struct.unpack_from("<ii" if wide else "<HH", data, 18)
        head = PictureHeader("bmp", abs(height), width, 3, 8)
    else:
        raise BadImageError(
            "is no picture that can be read",
            where=where,
            expected="jpeg | png | webp | bmp",
            found=f"{len(data)} bytes, {data[:8].hex(' ')}" if data else "nothing",
        )
    needed = head.height * head.width
    if head.kind == "png":
        needed = head.height * (1 + head.width * head.channels * head.bits // 8)
    most = _SMALL + _MOST_PER_BYTE[head.kind] * len(data) if head.kind in _MOST_PER_BYTE else needed
    if not sensible_size(head.width, head.height) or needed > most:
        raise BadImageError(
            "states an impossible size",
            where=where,
            expected=f"{SIZES}, and what {len(data)} bytes can hold",
            found=f"{head.width}x{head.height}",
        )
    return head


def png_header(data: bytes, where: object = None) -> PictureHeader:
    """What a PNG states, from its first 33 bytes or more.

    Raises:
        BadImageError: No PNG, one that is cut in its header, or of a size that no camera has.
    """
    if not data.startswith(_PNG):
        found = "an empty file" if not data else f"first bytes {data[:8].hex(' ')}"
        raise BadImageError("is not a PNG", where=where, expected=_PNG.hex(" "), found=found)
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise BadImageError("PNG is truncated in its header", where=where, found=f"{len(data)} bytes")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if colour not in _PNG_CHANNELS:
        raise BadImageError("is a PNG of unknown colour type", where=where, found=colour)
    if not sensible_size(width, height):
        raise BadImageError("states an impossible size", where=where, expected=SIZES, found=f"{width}x{height}")
    return PictureHeader("png", height, width, _PNG_CHANNELS[colour], bits)


def orientation(data: bytes) -> int:
    """How a picture says that it is to be shown: EXIF's 1 (as it is stored) to 8, in a JPEG, PNG or WebP."""
    found = _exif(data)
    if found[:2] not in (b"II", b"MM") or len(found) < 8:
        return 1
    order: Literal["little", "big"] = "little" if found[:2] == b"II" else "big"
    at = int.from_bytes(found[4:8], order)
    count = min(int.from_bytes(found[at : at + 2], order), 1000)
    for entry in (found[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count)):
        if int.from_bytes(entry[:2], order) == _ORIENTATION and len(entry) == 12:
            value = int.from_bytes(entry[8:10], order)
            return value if value in _UPRIGHT else 1
    return 1


def _exif(data: bytes) -> bytes:
    """The TIFF structure that a camera wrote beside a picture; empty where it wrote none."""
    if data[:2] == b"\xff\xd8":
        at = 2
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"\xda", b"\xd9", b""):
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
                return data[at + 10 : at + 2 + length]
            at += 2 + max(length, 2)
        return b""
    if data[:4] == b"\x89PNG":
        start, name, order = 8, b"eXIf", "big"
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        start, name, order = 12, b"EXIF", "little"
    else:
        return b""
    at = start
    while at + 8 <= len(data):
        length_first = order == "big"
        kind = data[at + 4 : at + 8] if length_first else data[at : at + 4]
        size = data[at : at + 4] if length_first else data[at + 4 : at + 8]
        length = int.from_bytes(size, order)  # type: ignore[arg-type]
        if kind == name:
            return data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0")
        at += 8 + length + (4 if length_first else length % 2)
    return b""


def decode(
    data: Encoded,
    where: object = None,
    channels: int | None = 3,
    *,
    out: Picture | None = None,
    head: PictureHeader | None = None,
    fast_dct: bool = False,
    oriented: bool = False,
) -> Picture:
    """An encoded picture.

    Args:
        data: JPEG, PNG, WebP or BMP.
        where: What to call it in an error.
        channels: 3 for RGB ``(H, W, 3)`` uint8, 1 for grey ``(H, W, 1)`` uint8, None for what is stored (not of a
            JPEG): ``(H, W, C)`` uint8 or uint16, RGB(A) or grey.
        out: Where to write it, contiguous and of the right shape and dtype; a new array where None.
        head: What `picture_header` gives, where that is known already.
        fast_dct: Decode JPEGs with the fast integer transform, as TensorFlow does.
        oriented: Turn it as the camera wrote beside it (EXIF), as OpenCV and browsers do; not with ``out``.

    Raises:
        BadImageError: It cannot be decoded, is cut or damaged, or states what it cannot hold.
    """
    raw = data if isinstance(data, bytes) else bytes(data)
    if oriented:
        stored = decode(raw, where, channels, head=head, fast_dct=fast_dct)
        turn = _UPRIGHT.get(orientation(raw))
        return stored if turn is None else np.ascontiguousarray(turn(stored))
    head = picture_header(raw, where) if head is None else head
    if head.kind == "jpeg":
        if head.channels not in (1, 3, 4) or channels is None or (head.channels == 4 and channels != 3):
            raise BadImageError(
                "a JPEG with channels that cannot be converted", where=where, expected="1 | 3", found=head.channels
            )
        if head.channels == 4:
            return _of_inks(decode_jpeg(raw, where, 4, fast_dct=fast_dct), _is_adobe(raw), out)
        if out is None:
            out = np.empty((head.height, head.width, channels), np.uint8)
        return decode_jpeg(raw, where, channels, out=out, fast_dct=fast_dct)
    _check_body(raw, head, where)
    flags = {3: _COLOUR, 1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION}
    picture = _opencv(raw, cv2.IMREAD_UNCHANGED if channels is None else flags[channels], head.kind.upper(), where)
    if picture.shape[:2] != (head.height, head.width):
        raise BadImageError("decoded to another size than its header states", where=where, found=picture.shape)
    if out is None:
        return picture
    out[...] = picture
    return out


def decode_jpeg(
    data: bytes,
    where: object = None,
    channels: int = 3,
    *,
    out: Picture | None = None,
    fast_dct: bool = False,
) -> Picture:
    """A JPEG whose header has been looked at: RGB ``(H, W, 3)``, grey ``(H, W, 1)`` or CMYK ``(H, W, 4)``, uint8.

    libjpeg shows what it can of a damaged picture and warns; here its warnings are errors. Bits that changed into
    others which are a picture too cannot be told from one.

    Args:
        data: The encoded picture.
        where: What to call it in an error.
        channels: 3 or 1; 4 of a JPEG that has as many.
        out: Where to write it, contiguous; a picture that is larger is refused, one that is smaller leaves it partly
            as it was, and gives an array of its own size.
        fast_dct: With the fast integer transform.

    Raises:
        BadImageError: It is cut or damaged, or has more scans than a camera writes.
    """
    _check_scans(data, where)
    colours = {1: "GRAY", 3: "RGB", 4: "CMYK"}[channels]
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colours, fastdct=fast_dct, buffer=out))
    except ValueError as error:
        reason = str(error)
    if "Corrupt JPEG data" in reason and not _only_padded(data, reason):
        raise BadImageError(f"JPEG is damaged: {reason}", where=where, found=f"{len(data)} bytes")
    if "Premature end of JPEG" in reason:
        raise BadImageError("JPEG is truncated", where=where, found=f"{len(data)} bytes")
    try:
        # Left are warnings of what does not touch the pixels, e.g. of a version that is not known.
        return np.asarray(simplejpeg.decode_jpeg(data, colours, fastdct=fast_dct, buffer=out, strict=False))
    except ValueError as error:
        raise BadImageError(f"JPEG cannot be decoded: {error}", where=where, found=f"{len(data)} bytes") from None


def _of_inks(inks: Picture, adobe: bool, out: Picture | None) -> Picture:
    """RGB ``(H, W, 3)`` of CMYK ``(H, W, 4)`` uint8, as TensorFlow's jpeg_mem.cc has it: Adobe stores inverted inks."""
    inks = inks if adobe else 255 - inks
    rgb = inks[..., :3].astype(np.uint16) * inks[..., 3:] // 255
    if out is None:
        return rgb.astype(np.uint8)
    out[...] = rgb
    return out


def _is_adobe(data: bytes) -> bool:
    """Whether a JPEG has Adobe's segment (APP14) before its first scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        if data[position + 1] == 0xEE and data[position + 4 : position + 9] == b"Adobe":
            return True
        position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
    return False


def _only_padded(data: bytes, reason: str) -> bool:
    """Whether bytes that libjpeg found no use for are a camera's padding before the end: zeros or ones."""
    unused = _EXTRANEOUS.search(reason)
    end = data.rfind(b"\xff\xd9")
    return unused is not None and end >= 0 and end - len(data[:end].rstrip(b"\0\xff")) >= int(unused[1])


def check_jpeg(data: bytes, where: object) -> None:
    """Refuse a JPEG that another decoder than `decode` is going to see, where `decode` would refuse it."""
    decode(data, where, 1)


def _check_scans(data: bytes, where: object) -> None:
    # In a scan every 0xFF is followed by a zero, so there are no more scans than this.
    if data.count(b"\xff\xda") <= _FEW_SCANS:
        return
    height, width, _, _ = _jpeg_header(data, where)
    scans, most = _scans(data), min(MAX_SCANS, _FEW_SCANS * MAX_PIXELS // max(1, height * width))
    if scans > most:
        raise BadImageError(
            "JPEG has more scans than a camera writes", where=where, expected=f"≤ {most}", found=f"{scans} scans"
        )


def _scans(data: bytes) -> int:
    """Number of scans of a JPEG, found by walking its segments."""
    count, position = 0, 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            break
        position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
        if marker == 0xDA:
            count += 1
            following = _SCAN_END.search(data, position)
            if following is None:
                break
            position = following.start()
    return count


def _jpeg_header(data: bytes, where: object) -> tuple[int, int, int, int]:
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


def _check_body(data: bytes, head: PictureHeader, where: object) -> None:
    """Refuse what is cut or damaged and would be decoded all the same, in part or with grey."""
    if head.kind == "png":
        check_png_chunks(data, where)
    elif head.kind == "webp" and 8 + int.from_bytes(data[4:8], "little") > len(data):
        raise BadImageError("WebP is truncated", where=where, found=f"{len(data)} bytes")


def check_png_chunks(data: bytes, where: object = None) -> None:
    """Refuse a PNG whose chunks are cut, claim more than there is, or do not have their checksum.

    OpenCV allocates what a chunk claims, may show what there is of a picture, and lets libpng write to stderr.
    """
    view, position = memoryview(data), len(_PNG)
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            break
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise BadImageError("PNG is damaged: a checksum does not match", where=where, field=f"byte {position}")
        if data[position + 4 : position + 8] == b"IEND":
            return
        position = end + 4
    raise BadImageError("PNG is truncated", where=where, found=f"{len(data)} bytes")


def _opencv(data: bytes, flags: int, kind: str, where: object) -> Picture:
    """A picture through OpenCV, with RGB(A) channels ``(H, W, C)``."""
    rgb = flags == _COLOUR and _COLOUR_RGB is not None
    if rgb:
        flags = (_COLOUR_RGB or 0) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadImageError(f"{kind} cannot be decoded: {str(error.err or error)[:120]}", where=where) from None
    if picture is None:
        raise BadImageError(f"{kind} cannot be decoded", where=where, found=f"{len(data)} bytes")
    if picture.ndim == 2:
        return np.asarray(picture)[..., None]
    if rgb:
        return np.asarray(picture)
    order = cv2.COLOR_BGR2RGB if picture.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return np.asarray(cv2.cvtColor(picture, order))


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
