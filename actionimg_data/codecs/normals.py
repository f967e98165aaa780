"""Surface normals as RGB, and from depth.

Of a plane ``n . p = d`` seen through ``K`` the inverse depth is ``(K^-T n / d) . (u, v, 1)``: affine in the pixel. So
the normal follows from the slopes of inverse depth, fitted by least squares over a small square; the sums are of whole
numbers, and the same everywhere.
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from ..geometry import exact
from .ycc import grey_levels

Array = Any

JUMP: Final = 0.01
"""Share of depth by which neighbouring slopes may differ; more is a step from one surface to another,"""
ROUNDING: Final = 2.5
"""unless it is of so many millimetres: whole ones differ by up to 2 there."""
_UNIT: Final = 2.0**26


def encode_normals(normals: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """RGB ``(..., 3)`` uint8 of unit vectors ``(..., 3)`` in camera axes: ``127.5 (1 + n)``; (128, 128, 128) where not
    known (NaN)."""
    levels = np.rint(127.5 + 127.5 * np.nan_to_num(normals, nan=0.5 / 127.5))
    return np.asarray(np.clip(levels, 0, 255), np.uint8)


def decode_normals(pictures: Array) -> Array:
    """Unit vectors ``(..., 3)`` of RGB ``(..., 3)``, uint8 or floats in [0, 1]; NaN where not known."""
    xp = array_namespace(pictures)
    vector = grey_levels(pictures) / 127.5 - 1
    length = xp.sqrt(xp.sum(vector * vector, axis=-1, keepdims=True))
    return xp.where(length > 0.5, vector / xp.where(length > 0.5, length, xp.ones_like(length)), xp.nan)


def normals_from_depth(
    millimetres: NDArray[np.uint16], K: NDArray[np.float64], pixel_centre: float = 0.5, radius: int | None = None
) -> NDArray[np.float32]:
    """Normals ``(H, W, 3)`` of the surfaces that a camera sees, in its axes, towards it (z < 0).

    Args:
        millimetres: ``(H, W)`` depth along the camera's axis; 0 where it is not known.
        K: ``(3, 3)`` of that picture.
        pixel_centre: Where K has the centre of the first pixel.
        radius: Half side of the square in pixels; a hundredth of the picture's smaller side by default, at least 2.
            Where a square is of two surfaces, one of half the size is tried; where that is too, the normal is NaN.
    """
    height, width = millimetres.shape
    radius = max(2, round(min(height, width) / 100)) if radius is None else radius
    known = millimetres > 0
    inverse = np.where(known, _UNIT / np.maximum(millimetres, 1), 0)
    whole = np.rint(inverse).astype(np.int64)
    out = np.full((height, width, 3), np.nan)
    for r in (max(1, radius // 2), radius):
        fitted, normal = _fit(whole, known, K, pixel_centre, r)
        out = np.where(fitted[..., None], normal, out)
    return out.astype(np.float32)


def _fit(
    inverse: NDArray[np.int64], known: NDArray[np.bool_], K: NDArray[np.float64], pixel_centre: float, r: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Where a square of ``2 r + 1`` pixels is one surface ``(H, W)``, and its normal ``(H, W, 3)``."""
    height, width = inverse.shape
    n = 2 * r + 1
    across = np.arange(width, dtype=np.int64)
    down = np.arange(height, dtype=np.int64)
    total = _sums(inverse, r)
    # About the square's own middle sum(x) is 0, so the slopes are independent of each other.
    slope_x = _sums(inverse * across, r) - across * total
    slope_y = _sums(inverse * down[:, None], r) - down[:, None] * total
    spread = n * (n * n - 1) * n / 12
    a, b = slope_x / spread, slope_y / spread
    mean = total / (n * n)
    values = inverse.astype(np.float64)
    stepped = (_bend(values) > values * (JUMP + ROUNDING / _UNIT * values)).astype(np.uint8)
    near_a_step = cv2.dilate(stepped, np.ones((n, n), np.uint8)) > 0
    fitted = (_sums(known.astype(np.int64), r) == n * n) & ~near_a_step
    x, y = across + pixel_centre, down[:, None] + pixel_centre
    c = mean - a * x - b * y
    # n ~ K^T (a, b, c)
    affine = np.stack([a, b, c], axis=-1)
    normal = exact.matmul(affine, np.asarray(K, np.float64))
    length = exact.norm(normal)[..., None]
    return fitted, -normal / np.where(length > 0, length, 1.0)


def _bend(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest second difference of ``(H, W)`` along x and y; 0 at the borders."""
    out = np.zeros_like(values)
    for into, at in ((out[:, 1:-1], values), (out.T[:, 1:-1], values.T)):
        np.maximum(into, np.abs(at[:, 2:] - 2 * at[:, 1:-1] + at[:, :-2]), out=into)
    return out


def _sums(values: NDArray[np.int64], r: int) -> NDArray[np.int64]:
    """Sums over squares about each pixel; those that reach over the border are 0."""
    height, width = values.shape
    n = 2 * r + 1
    out = np.zeros((height, width), np.int64)
    if height < n or width < n:
        return out
    table = np.zeros((height + 1, width + 1), np.int64)
    np.cumsum(np.cumsum(values, axis=0), axis=1, out=table[1:, 1:])
    out[r : height - r, r : width - r] = table[n:, n:] - table[:-n, n:] - table[n:, :-n] + table[:-n, :-n]
    return out
