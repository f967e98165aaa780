"""JPEG and PNG pictures as ``tf.image.decode_image`` gives them (TFDS' image_feature.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BadImageError
from ...untrusted import pictures
from .features import Leaf, Shape

_PNG_HEADER = 29  # bytes, up to the end of IHDR

Image = NDArray[Any]


Header = pictures.PictureHeader


def header(data: bytes) -> Header:
    """Format, height, width, channels and bits of an encoded picture, from its header alone.

    Raises:
        BadImageError: Neither JPEG nor PNG, a damaged header, a size that no camera has, or more pixels than its bytes
            can hold.
    """
    if data[:2] != b"\xff\xd8" and data[:4] != b"\x89PNG":
        named = {b"GIF8": "GIF", b"BM": "BMP", b"RIFF": "WebP"}
        found = next((n for magic, n in named.items() if data.startswith(magic)), repr(data[:8]))
        raise BadImageError("not a JPEG or PNG picture", expected="jpeg | png", found=found)
    return pictures.picture_header(data)


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
    head = header(data) if head is None else head
    kind, height, width, channels, bits = head
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
        if wanted not in (1, 3) or (channels == 4 and wanted != 3):
            raise BadImageError("a JPEG with channels that cannot be converted", expected=wanted, found=channels)
        # TensorFlow's default: the fast integer DCT with fancy upsampling.
        return pictures.decode(data, channels=wanted, out=out, head=head, fast_dct=True)
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
    if head.kind == "jpeg":
        if data[:2] != first[:2] or head.channels == 4:
            return False
        try:
            # A larger picture does not fit into the buffer, a smaller one gives a smaller array.
            return pictures.decode_jpeg(data, None, out.shape[2], out=out, fast_dct=True).shape == out.shape
        except BadImageError:
            return False
    if data[:_PNG_HEADER] != first[:_PNG_HEADER]:
        return False
    picture = _png(data, leaf, out.shape[2], head.channels, head.bits)
    if picture.shape != out.shape:
        return False
    out[...] = picture
    return True


def _png(data: bytes, leaf: Leaf, wanted: int, channels: int, bits: int) -> Image:
    if leaf.dtype == "float32":
        # A float picture is stored as an RGBA PNG, each pixel's four bytes one float (image_feature.py).
        if (wanted, channels, bits) != (1, 4, 8):
            raise BadImageError("a float picture is not stored as 8-bit RGBA", found=f"{channels} channels, {bits} bit")
        return np.ascontiguousarray(pictures.decode(data, channels=None)).view("<f4")
    if leaf.dtype not in ("uint8", "uint16"):
        raise BadImageError("no picture has this dtype", expected="uint8 | uint16 | float32", found=leaf.dtype)
    deep = leaf.dtype == "uint16"
    if not deep and bits == 16 and (wanted == channels or (wanted == 3 and channels in (1, 4))):
        # TensorFlow has libpng strip the lower byte and the opacity, and repeat grey (png_set_strip_16 and others).
        stored = (pictures.decode(data, channels=None) >> 8).astype(np.uint8)
        stored = stored.reshape(*stored.shape[:2], channels)
        return np.ascontiguousarray(np.repeat(stored, wanted, axis=2) if channels == 1 else stored[..., :wanted])
    if deep != (bits == 16):
        raise BadImageError(
            "a PNG of another depth than features.json states", expected=leaf.dtype, found=f"{bits} bit"
        )
    if wanted == channels == 1:
        return pictures.decode(data, channels=None if deep else 1)
    if wanted == 3 and not deep:
        return pictures.decode(data)
    if wanted == channels and wanted in (3, 4):
        return pictures.decode(data, channels=None)
    raise BadImageError("a PNG with channels that cannot be converted", expected=wanted, found=channels)
