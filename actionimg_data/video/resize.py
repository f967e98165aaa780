"""Bring pictures to the size of a data set, as `Camera.resized` does with K."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import BadImageError
from ..geometry.crop import CropResize, center_crop
from ..model import MAX_MASK_ID
from ..model.episode import Plane

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


def resized_planes(
    planes: Iterable[Plane], kind: str, source_height: int, source_width: int, height: int, width: int
) -> Iterator[Plane]:
    """Depth or masks with the crop and scaling of `resized`, each pixel the source's nearest: no value is invented.

    Args:
        planes: ``(source_height, source_width)``; depth uint16, masks uint16 or uint32.
        kind: ``depth`` or ``mask``.
        source_height: Height of the source's pictures.
        source_width: Width of the source's pictures.
        height: Height to bring them to.
        width: Width to bring them to.

    Yields:
        ``(height, width)``: depth uint16, masks uint32.

    Raises:
        BadImageError: A picture has another size or type, or an id has more than 24 bits.
    """
    change = center_crop(source_height, source_width, height, width)
    rows = change.top + _nearest(change.crop_height, height)
    columns = change.left + _nearest(change.crop_width, width)
    types = ("uint16",) if kind == "depth" else ("uint16", "uint32")
    for i, plane in enumerate(planes):
        if plane.dtype.name not in types or plane.shape != (source_height, source_width):
            raise BadImageError(
                f"{kind} has another size or type than its stream",
                field=f"frame {i}",
                expected=f"{' or '.join(types)} ({source_height}, {source_width})",
                found=f"{plane.dtype} {plane.shape}",
            )
        if kind == "mask":
            largest = int(plane.max())
            if largest > MAX_MASK_ID:
                raise BadImageError(
                    "mask has an id beyond 24 bits", field=f"frame {i}", expected=f"<= {MAX_MASK_ID}", found=largest
                )
            plane = plane.astype(np.uint32, copy=False)
        if change.is_identity and plane.shape == (height, width):
            yield plane
        else:
            yield plane[rows[:, None], columns]


def _nearest(source: int, target: int) -> NDArray[np.intp]:
    """Index of the source pixel in which the centre of each target pixel lies."""
    return (2 * np.arange(target) + 1) * source // (2 * target)
