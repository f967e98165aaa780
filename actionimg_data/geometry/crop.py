"""Crop and resize, with K kept true: ``fx*s, (cx - dx)*s`` for a picture that spans ``[0, W] x [0, H]``.

Where the centre of the first pixel is at 0 instead (OpenCV), the principal point is ``(cx + 0.5 - dx)*s - 0.5``:
scaling keeps the borders of a picture, not the centres of its first pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from ..errors import InvalidArrayError
from .exact import matmul

Array = Any


@dataclass(frozen=True)
class CropResize:
    """Cut the box ``(left, top, crop_width, crop_height)`` out of a picture, then scale it to ``width x height``."""

    left: int
    top: int
    crop_width: int
    crop_height: int
    width: int
    height: int

    @property
    def scale(self) -> tuple[float, float]:
        """Factors along x and y."""
        return self.width / self.crop_width, self.height / self.crop_height

    @property
    def is_identity(self) -> bool:
        """Whether the crop keeps the size; the box may still cut something off."""
        return (self.crop_width, self.crop_height) == (self.width, self.height) and (self.left, self.top) == (
            0,
            0,
        )


def center_crop(source_height: int, source_width: int, height: int, width: int) -> CropResize:
    """The largest centred box with the aspect of ``height x width``, to be scaled to that size.

    The box has whole pixels; where the aspect cannot be met exactly the scales along x and y differ by under one
    part in the box's size, and `apply_to_K` keeps both.
    """
    sizes = {"source_height": source_height, "source_width": source_width, "height": height, "width": width}
    for name, value in sizes.items():
        if value < 1:
            raise InvalidArrayError("picture size must be positive", field=name, expected=">= 1", found=value)
    if source_width * height >= source_height * width:
        crop_height, crop_width = source_height, max(1, round(source_height * width / height))
    else:
        crop_height, crop_width = max(1, round(source_width * height / width)), source_width
    left, top = (source_width - crop_width) // 2, (source_height - crop_height) // 2
    return CropResize(left, top, crop_width, crop_height, width, height)


def box_crop(source_height: int, source_width: int, box: tuple[int, int, int, int]) -> CropResize:
    """The box ``(left, top, width, height)``, whole pixels inside the picture, without scaling.

    Raises:
        InvalidArrayError: The box is empty or reaches outside.
    """
    left, top, width, height = (int(value) for value in box)
    inside = 0 <= left < left + width <= source_width and 0 <= top < top + height <= source_height
    if not inside or tuple(box) != (left, top, width, height):
        raise InvalidArrayError(
            "the box is not inside the picture",
            field="box",
            expected=f"whole (left, top, width, height) within {source_width}x{source_height}",
            found=tuple(box),
        )
    return CropResize(left, top, width, height, width, height)


def center_box(source_height: int, source_width: int, height: int, width: int) -> CropResize:
    """The centred ``height x width`` pixels of a picture, without scaling; an odd pixel goes to the right and below.

    Raises:
        InvalidArrayError: The picture is smaller.
    """
    box = ((source_width - width) // 2, (source_height - height) // 2, width, height)
    return box_crop(source_height, source_width, box)


def apply_to_K(K: Array, crop: CropResize, pixel_centre: float = 0.5) -> Array:
    """Intrinsics ``(..., 3, 3)`` of the cropped and resized picture.

    Args:
        K: ``(..., 3, 3)`` of the picture before.
        crop: What is done to it.
        pixel_centre: Where K has the centre of the first pixel, before and after: 0.5 or 0.
    """
    xp = array_namespace(K)
    sx, sy = crop.scale
    # What is missing to the border of the first pixel, before the scaling and after.
    border = 0.5 - pixel_centre
    dx, dy = (border - crop.left) * sx - border, (border - crop.top) * sy - border
    change = [[sx, 0.0, dx], [0.0, sy, dy], [0.0, 0.0, 1.0]]
    return matmul(xp.asarray(change, dtype=K.dtype, device=K.device), K)
