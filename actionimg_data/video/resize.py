"""Bring pictures to the size of a data set, as `Camera.resized` does with K."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import BadImageError
from ..geometry.crop import CropResize, center_crop

Image = NDArray[np.uint8]


def resized(frames: Iterable[Image], source_height: int, source_width: int, height: int, width: int) -> Iterator[Image]:
    """Pictures centre-cropped to the aspect of ``height x width`` and scaled to that size, one at a time.

    Shrinking averages over areas (no aliasing), enlarging is bilinear; both keep the picture spanning
    ``[0, W] x [0, H]``, which is what `Camera.resized` says of K.

    Raises:
        BadImageError: A picture is not ``(source_height, source_width, 3)`` uint8.
    """
    change = center_crop(source_height, source_width, height, width)
    for i, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.shape != (source_height, source_width, 3):
            raise BadImageError(
                "picture has another size than its stream",
                field=f"frame {i}",
                expected=f"uint8 ({source_height}, {source_width}, 3)",
                found=f"{frame.dtype} {frame.shape}",
            )
        yield apply(frame, change)


def apply(frame: Image, change: CropResize) -> Image:
    """One picture ``(H, W, 3)`` cropped and scaled; itself where nothing changes."""
    if change.is_identity and frame.shape[:2] == (change.height, change.width):
        return frame
    box = frame[change.top : change.top + change.crop_height, change.left : change.left + change.crop_width]
    shrinks = min(change.scale) < 1
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(box, (change.width, change.height), interpolation=method), np.uint8)
