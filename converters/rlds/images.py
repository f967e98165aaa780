"""JPEG and PNG pictures as ``tf.image.decode_image`` gives them (TFDS' image_feature.py)."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...errors import BadImageError
from ...untrusted.pictures import MAX_PIXELS, check_png_chunks, jpeg_header
from .features import Leaf, Shape

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

FAST_DCT = simplejpeg is not None
"""Whether JPEGs decode to TensorFlow's very pixels; OpenCV's differ by up to 15 levels, 1 to 2 in the mean."""

_SMALL = 1 << 16
# deflate at its best gives 1032 bytes for one, and a JPEG spends at least a bit on each block of 8x8.
_MOST_PER_BYTE = {"png": 1040, "jpeg": 1024}
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = 29  # bytes, up to the end of IHDR
# IHDR's colour types: channels as stored (palettes become RGB).
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_COLOR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_COLOR_RGB: int | None = getattr(cv2, "IMREAD_COLOR_RGB", None)  # OpenCV 4.11; instead of IMREAD_COLOR, never with it

Image = NDArray[Any]


Header = tuple[str, int, int, int, int]
"""Format, height, width, channels and bits of an encoded picture."""


def header(data: bytes) -> Header:
    """Format, height, width, channels and bits of an encoded picture, from its header alone.

    Raises:
        BadImageError: Neither JPEG nor PNG, a damaged header, more than 67 million pixels, or more than that many
            bytes can hold.
    """
    if data[:2] == b"\xff\xd8":
        kind, (height, width, channels, bits) = "jpeg", jpeg_header(data)
    elif data[:8] == _PNG:
        if len(data) < 33 or data[12:16] != b"IHDR":
            raise BadImageError("a PNG without a header", found=f"{len(data)} bytes")
        width, height, bits, color = struct.unpack(">IIBB", data[16:26])
        if color not in _PNG_CHANNELS:
            raise BadImageError("a PNG of unknown colour type", found=color)
        kind, channels = "png", _PNG_CHANNELS[color]
    else:
        named = {b"GIF8": "GIF", b"BM": "BMP", b"RIFF": "WebP"}
        found = next((n for magic, n in named.items() if data.startswith(magic)), repr(data[:8]))
        raise BadImageError("not a JPEG or PNG picture", expected="jpeg | png", found=found)
    needed = height * (1 + width * channels * bits // 8) if kind == "png" else height * width
    if not 0 < height * width <= MAX_PIXELS or needed > _SMALL + _MOST_PER_BYTE[kind] * len(data):
        raise BadImageError(
            "a picture of impossible size", expected=f"what {len(data)} bytes can hold", found=f"{width}x{height}"
        )
    return kind, height, width, channels, bits


def stored_shape(head: Header, leaf: Leaf) -> tuple[int, int, int]:
    """Shape ``(height, width, channels)`` that `decode` will give."""
    _, height, width, channels, _ = head
    return height, width, leaf.shape[2] or channels


def matches(shape: tuple[int, ...], wanted: Shape) -> bool:
    """Whether ``shape`` is one that ``wanted`` (None for any length) allows."""
    return len(shape) == len(wanted) and all(w is None or w == s for s, w in zip(shape, wanted, strict=True))


def decode(data: bytes, leaf: Leaf, out: Image | None = None, head: Header | None = None) -> Image:
    """The picture ``(height, width, channels)`` in the leaf's dtype.

    Args:
        data: The encoded picture.
        leaf: An image; pictures of another size than it states are refused.
        out: Where to write it, contiguous and of the right shape and dtype; a new array where None.
        head: What `header` gives, where that is known already.

    Raises:
        BadImageError: The picture cannot be decoded, or is not what the leaf says.
    """
    kind, height, width, channels, bits = header(data) if head is None else head
    wanted = leaf.shape[2] or channels
    if not matches((height, width, wanted), leaf.shape):
        raise BadImageError(
            "a picture of another size than features.json states",
            expected=leaf.text(),
            found=f"{height}x{width}",
        )
    if kind == "jpeg":
        if leaf.dtype != "uint8":
            raise BadImageError("a JPEG cannot hold this dtype", expected=leaf.dtype, found="uint8")
        return _jpeg(data, wanted, channels, (height, width), out)
    check_png_chunks(data)
    picture = _png(data, leaf, wanted, channels, bits)
    if picture.shape != (height, width, wanted):
        raise BadImageError("decoded to another size than its header states", found=picture.shape)
    if out is None:
        return picture
    out[...] = picture
    return out


def decode_alike(data: bytes, leaf: Leaf, out: Image, first: bytes, head: Header) -> bool:
    """Decode a picture that has the same header as the one before it, without looking at it twice.

    Args:
        data: The encoded picture.
        leaf: An image.
        out: Where to write it; contiguous, of the first picture's shape and dtype.
        first: The first picture, encoded.
        head: Its header, which `decode` has found to be what the leaf says.

    Returns:
        Whether that was done; where not, ``out`` may hold anything, and `decode` has to say what is the matter.
    """
    if head[0] == "jpeg":
        if simplejpeg is None or data[:2] != first[:2]:
            return False
        try:
            # A larger picture does not fit into the buffer, a smaller one gives a smaller array.
            colours = "RGB" if out.shape[2] == 3 else "GRAY"
            return bool(simplejpeg.decode_jpeg(data, colours, fastdct=True, buffer=out).shape == out.shape)
        except ValueError:
            return False
    if data[:_PNG_HEADER] != first[:_PNG_HEADER]:
        return False
    check_png_chunks(data)
    picture = _png(data, leaf, out.shape[2], head[3], head[4])
    if picture.shape != out.shape:
        return False
    out[...] = picture
    return True


def _jpeg(data: bytes, wanted: int, channels: int, size: tuple[int, int], out: Image | None) -> Image:
    if wanted not in (1, 3) or channels not in (1, 3):
        raise BadImageError("a JPEG with channels that cannot be converted", expected=wanted, found=channels)
    picture: Image
    if simplejpeg is not None:
        if out is None:
            out = np.empty((*size, wanted), np.uint8)
        try:
            # TensorFlow's default: the fast integer DCT with fancy upsampling.
            simplejpeg.decode_jpeg(data, "RGB" if wanted == 3 else "GRAY", fastdct=True, buffer=out)
        except ValueError as error:
            raise BadImageError("a JPEG that cannot be decoded", found=error) from None
        return out
    flags = _COLOR if wanted == 3 else cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    picture = _opencv(data, flags, "JPEG")
    if picture.shape[:2] != size:
        raise BadImageError("decoded to another size than its header states", found=picture.shape)
    if out is None:
        return picture
    out[...] = picture
    return out


def _opencv(data: bytes, flags: int, name: str) -> Image:
    """A picture through OpenCV, with RGB(A) channels ``(H, W, C)``."""
    rgb = False
    if flags == _COLOR and _COLOR_RGB is not None:
        rgb, flags = True, _COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadImageError(f"a {name} that cannot be decoded", found=str(error)[:120]) from None
    if picture is None:
        raise BadImageError(f"a {name} that cannot be decoded", found=f"{len(data)} bytes")
    if picture.ndim == 2:
        return np.asarray(picture)[..., None]
    if rgb:
        return np.asarray(picture)
    order = cv2.COLOR_BGR2RGB if picture.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return np.asarray(cv2.cvtColor(picture, order))


def _png(data: bytes, leaf: Leaf, wanted: int, channels: int, bits: int) -> Image:
    if leaf.dtype == "float32":
        # A float picture is stored as an RGBA PNG, each pixel's four bytes one float (image_feature.py).
        if (wanted, channels, bits) != (1, 4, 8):
            raise BadImageError("a float picture is not stored as 8-bit RGBA", found=f"{channels} channels, {bits} bit")
        return np.ascontiguousarray(_opencv(data, cv2.IMREAD_UNCHANGED, "PNG")).view("<f4")
    if leaf.dtype not in ("uint8", "uint16"):
        raise BadImageError("no picture has this dtype", expected="uint8 | uint16 | float32", found=leaf.dtype)
    deep = leaf.dtype == "uint16"
    if deep != (bits == 16):
        raise BadImageError(
            "a PNG of another depth than features.json states", expected=leaf.dtype, found=f"{bits} bit"
        )
    if wanted == channels == 1:
        return _opencv(data, cv2.IMREAD_UNCHANGED if deep else cv2.IMREAD_GRAYSCALE, "PNG")
    if wanted == 3 and not deep:
        return _opencv(data, _COLOR, "PNG")
    if wanted == channels and wanted in (3, 4):
        return _opencv(data, cv2.IMREAD_UNCHANGED, "PNG")
    raise BadImageError("a PNG with channels that cannot be converted", expected=wanted, found=channels)
