"""Surface normals as RGB, and from depth.

Of a plane ``n . p = d`` seen through ``K`` the inverse depth is ``(K^-T n / d) . (u, v, 1)``: affine in the pixel. So
the normal follows from the slopes of inverse depth, fitted by least squares over a small square; the sums are of whole
numbers, and the same everywhere.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

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
    inverse = np.where(known, _UNIT / np.maximum(millimetres, 1), 0.0)
    stepped = _bend(inverse) > inverse * (JUMP + ROUNDING / _UNIT * inverse)
    whole = np.rint(inverse).astype(np.int64)
    across, down = np.arange(width, dtype=np.int64), np.arange(height, dtype=np.int64)[:, None]
    tables = [_table(values) for values in (known & ~stepped, whole, whole * across, whole * down)]
    out = np.full((height, width, 3), np.nan, np.float32)
    for r in (radius, max(1, radius // 2)):
        if min(height, width) <= 2 * r:
            continue
        inner = out[r : height - r, r : width - r]
        one = np.isnan(inner[..., 2]) & (_sums(tables[0], r) == (2 * r + 1) ** 2)
        y, x = np.nonzero(one)
        inner[one] = _normals([_sums(table, r)[one] for table in tables[1:]], y + r, x + r, K, pixel_centre, r)
    return out


def _normals(
    sums: list[NDArray[np.int64]],
    y: NDArray[np.intp],
    x: NDArray[np.intp],
    K: NDArray[np.float64],
    pixel_centre: float,
    r: int,
) -> NDArray[np.float64]:
    """Normals ``(N, 3)`` at pixels ``(y, x)``, of sums ``(N,)`` over ``2 r + 1`` pixels squared of w, w x and w y."""
    n = 2 * r + 1
    total, with_x, with_y = sums
    # About the square's own middle sum(x) is 0, so the slopes are independent of each other.
    spread = n * (n * n - 1) * n / 12
    a, b, mean = (with_x - x * total) / spread, (with_y - y * total) / spread, total / (n * n)
    # n ~ K^T (a, b, c), with c = mean - a x - b y.
    right = K[0, 0] * a
    below = K[0, 1] * a + K[1, 1] * b
    ahead = mean + a * (K[0, 2] - pixel_centre - x) + b * (K[1, 2] - pixel_centre - y)
    length = np.sqrt(right * right + below * below + ahead * ahead)
    return np.asarray(np.stack([right, below, ahead], axis=-1) / -length[:, None])


def _bend(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest second difference of ``(H, W)`` along x and y; 0 at the borders."""
    out = np.zeros_like(values)
    for into, at in ((out[:, 1:-1], values), (out.T[:, 1:-1], values.T)):
        np.maximum(into, np.abs(at[:, 2:] - 2 * at[:, 1:-1] + at[:, :-2]), out=into)
    return out


def _table(values: NDArray[Any]) -> NDArray[np.int64]:
    """Sums ``(H + 1, W + 1)`` of all that is above and to the left."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(values, axis=0, dtype=np.int64), axis=1, out=table[1:, 1:])
    return table


def _sums(table: NDArray[np.int64], r: int) -> NDArray[np.int64]:
    """Sums ``(H - 2 r, W - 2 r)`` over the squares of ``2 r + 1`` pixels that lie inside."""
    n = 2 * r + 1
    return np.asarray(table[n:, n:] - table[:-n, n:] - table[n:, :-n] + table[:-n, :-n])
