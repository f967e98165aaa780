"""Rigid transforms as 4x4 matrices named ``a_from_b``; any leading batch shape, numpy or torch."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from .exact import matmul, matvec

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
