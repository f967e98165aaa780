"""Pictures in numbered PNG files, decoded only when they are asked for."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import BadImageError, MissingFrameError
from ...untrusted.files import open_plain

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_PIXELS = 1 << 26


def png_size(path: str) -> tuple[int, int]:
    """Width and height that a PNG file's header states; nothing is decoded.

    Raises:
        MissingFrameError: The file does not exist.
        BadImageError: The file is no PNG, or states a size no camera has.
    """
    return _header(_read(path, 33), path)


def _read(path: str, count: int = -1) -> bytes:
    try:
        with open_plain(path) as file:
            return file.read(count)
    except FileNotFoundError:
        raise MissingFrameError("picture is missing", where=path) from None
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror}", where=path) from None


def _header(data: bytes, path: str) -> tuple[int, int]:
    if not data.startswith(_SIGNATURE):
        found = "an empty file" if not data else f"first bytes {data[:8].hex(' ')}"
        raise BadImageError("is not a PNG", where=path, expected=_SIGNATURE.hex(" "), found=found)
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise BadImageError("PNG is truncated in its header", where=path, found=f"{len(data)} bytes")
    width, height = struct.unpack(">II", data[16:24])
    if not (0 < width <= 65536 and 0 < height <= 65536 and width * height <= _MAX_PIXELS):
        raise BadImageError("PNG states an impossible size", where=path, found=f"{width}x{height}")
    return width, height


def _check_chunks(data: bytes, path: str) -> None:
    """Refuse a damaged file here: OpenCV may show what there is of it, and libpng writes to stderr."""
    at = len(_SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise BadImageError("PNG is damaged: a checksum does not match", where=path, field=f"byte {at}")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4
    raise BadImageError("PNG is truncated", where=path, found=f"{len(data)} bytes")


@dataclass(frozen=True)
class PngFrames:
    """A `FrameSource` over ``FOLDER/0.png``, ``1.png``, …; picklable, and holds no picture.

    Args:
        folder: The folder.
        count: Number of pictures.
        width: Picture width in pixels.
        height: Picture height in pixels.
        pattern: Name of a picture, with its number for ``{}``.
    """

    folder: str
    count: int
    width: int
    height: int
    pattern: str = "{}.png"

    def __len__(self) -> int:
        return self.count

    def frames(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """RGB pictures ``(H, W, 3)`` uint8 at ``indices``, one at a time.

        Raises:
            MissingFrameError: A file does not exist.
            BadImageError: A file is no PNG, is damaged, or has another size than the first.
        """
        import cv2

        for index in indices:
            path = os.path.join(self.folder, self.pattern.format(index))
            data = _read(path)
            size = _header(data, path)
            if size != (self.width, self.height):
                raise BadImageError(
                    "picture has another size than the first of its camera",
                    where=path,
                    expected=f"{self.width}x{self.height}",
                    found=f"{size[0]}x{size[1]}",
                )
            _check_chunks(data, path)
            try:
                picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            except cv2.error as error:
                raise BadImageError(f"PNG cannot be decoded: {error.err}", where=path) from None
            if picture is None:
                raise BadImageError("PNG cannot be decoded", where=path)
            yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
