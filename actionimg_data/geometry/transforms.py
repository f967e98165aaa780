"""Rigid transforms as 4x4 matrices named ``a_from_b``; any leading batch shape, numpy or torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import array_namespace
from .exact import matmul, matvec, norm

Array = Any


def make_transform(rotation: Array, translation: Array) -> Array:
    """Transforms ``(..., 4, 4)`` of rotations ``(..., 3, 3)`` and translations ``(..., 3)``."""
    xp = array_namespace(rotation, translation)
    top = xp.concat([rotation, translation[..., None]], axis=-1)
    zero = xp.zeros_like(top[..., :1, :1])
    bottom = xp.concat([zero, zero, zero, zero + 1], axis=-1)
    return xp.concat([top, bottom], axis=-2)


def invert(a_from_b: Array) -> Array:
    """The inverses ``(..., 4, 4)`` of rigid transforms, by transposing the rotation."""
    xp = array_namespace(a_from_b)
    rotation = xp.matrix_transpose(a_from_b[..., :3, :3])
    return make_transform(rotation, -matvec(rotation, a_from_b[..., :3, 3]))


def apply(a_from_b: Array, points_b: Array) -> Array:
    """Points ``(..., N, 3)`` of frame b given in frame a, for transforms ``(..., 4, 4)``."""
    xp = array_namespace(a_from_b, points_b)
    return matmul(points_b, xp.matrix_transpose(a_from_b[..., :3, :3])) + a_from_b[..., None, :3, 3]


def look_at(eye: NDArray[np.float64], target: NDArray[np.float64], up: NDArray[np.float64]) -> NDArray[np.float64]:
    """``world_from_camera (4, 4)`` with OpenCV axes of a camera at ``eye (3,)`` that looks at ``target (3,)``.

    The picture's up is the direction ``up (3,)`` of the world, as far as looking at the target allows; a camera that
    looks along it has none, and gives NaN.
    """
    forward = target - eye
    with np.errstate(invalid="ignore", divide="ignore"):
        z = forward / norm(forward)
        x = np.cross(z, up)
        x = x / norm(x)
    return np.asarray(make_transform(np.stack([x, np.cross(z, x), z], axis=1), eye))
