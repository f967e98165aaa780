"""Rotations: xyzw quaternions, matrices, extrinsic "xyz" Euler angles, rotation vectors, the 6-D form.

Formulas: J. Diebel, "Representing Attitude" (2006); Zhou et al., "On the Continuity of Rotation Representations in
Neural Networks" (arXiv 1812.07035) for the 6-D form. All functions take any leading batch shape, numpy or torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import is_numpy_array

from . import exact
from .arrays import array_namespace

Array = Any
_NEARLY = 0.1
"""Largest entry of ``R^T R - I`` up to which the iteration of `nearest_rotation` surely converges."""
_ROUNDED = 4.5e-16
"""The same, of a rotation that is as good as float64 allows."""


def _sqrt_positive(xp: Any, x: Array) -> Array:
    """sqrt that has a zero gradient (instead of NaN) where x is not positive."""
    positive = x > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, x, xp.ones_like(x))), xp.zeros_like(x))


def normalize(v: Array) -> Array:
    """Vectors ``(..., N)`` divided by their length; a zero vector stays zero."""
    xp = array_namespace(v)
    norm = _sqrt_positive(xp, xp.sum(v * v, axis=-1, keepdims=True))
    return v / xp.where(norm > 0, norm, xp.ones_like(norm))


def skew(v: Array) -> Array:
    """Cross-product matrices ``(..., 3, 3)`` of vectors ``(..., 3)``: ``skew(a) @ b == cross(a, b)``."""
    xp = array_namespace(v)
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    o = xp.zeros_like(x)
    rows = [xp.stack([o, -z, y], axis=-1), xp.stack([z, o, -x], axis=-1), xp.stack([-y, x, o], axis=-1)]
    return xp.stack(rows, axis=-2)


def matrix_from_quaternion(quaternion_xyzw: Array) -> Array:
    """Rotation matrices ``(..., 3, 3)`` of unit quaternions xyzw ``(..., 4)``; the input is normalised."""
    q = normalize(quaternion_xyzw)
    xp = array_namespace(q)
    x, y, z, w = q[..., 0], q[..., 1], q[..., 2], q[..., 3]
    rows = [
        xp.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], axis=-1),
        xp.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], axis=-1),
        xp.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], axis=-1),
    ]
    return xp.stack(rows, axis=-2)


def quaternion_from_matrix(matrix: Array) -> Array:
    """Unit quaternions xyzw ``(..., 4)`` of rotation matrices ``(..., 3, 3)``, with w >= 0 where w dominates.

    Of the four equivalent forms (Shepperd 1978) the one with the largest divisor is taken, element by element.
    """
    m = matrix
    xp = array_namespace(m)
    m00, m01, m02 = m[..., 0, 0], m[..., 0, 1], m[..., 0, 2]
    m10, m11, m12 = m[..., 1, 0], m[..., 1, 1], m[..., 1, 2]
    m20, m21, m22 = m[..., 2, 0], m[..., 2, 1], m[..., 2, 2]
    four_squares = xp.stack(
        [1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22, 1 + m00 + m11 + m22], axis=-1
    )
    candidates = xp.stack(
        [
            xp.stack([four_squares[..., 0], m01 + m10, m02 + m20, m21 - m12], axis=-1),
            xp.stack([m01 + m10, four_squares[..., 1], m12 + m21, m02 - m20], axis=-1),
            xp.stack([m02 + m20, m12 + m21, four_squares[..., 2], m10 - m01], axis=-1),
            xp.stack([m21 - m12, m02 - m20, m10 - m01, four_squares[..., 3]], axis=-1),
        ],
        axis=-2,
    )
    best = xp.argmax(four_squares, axis=-1)
    picked = candidates[..., 0, :]
    for i in range(1, 4):
        picked = xp.where((best == i)[..., None], candidates[..., i, :], picked)
    return normalize(picked)


def quaternion_multiply(a: Array, b: Array) -> Array:
    """Hamilton product of xyzw quaternions ``(..., 4)``: the rotation ``a`` after ``b``."""
    xp = array_namespace(a, b)
    ax, ay, az, aw = (a[..., i] for i in range(4))
    bx, by, bz, bw = (b[..., i] for i in range(4))
    return xp.stack(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ],
        axis=-1,
    )


def make_sign_continuous(quaternion: Array) -> Array:
    """Quaternions ``(T, 4)`` with signs flipped so that neighbours in time have a non-negative dot product."""
    xp = array_namespace(quaternion)
    dots = xp.sum(quaternion[1:] * quaternion[:-1], axis=-1)
    flips = xp.where(dots < 0, -xp.ones_like(dots), xp.ones_like(dots))
    signs = xp.concat([xp.ones_like(quaternion[:1, 0]), flips])
    return quaternion * xp.cumulative_prod(signs)[:, None]


def slerp(a: Array, b: Array, fraction: Array) -> Array:
    """Quaternions on the shorter great arc from ``a`` to ``b`` ``(..., 4)`` at ``fraction`` ``(...)`` in [0, 1].

    K. Shoemake, "Animating rotation with quaternion curves" (1985); linear where the arc is under 1e-4 rad.
    """
    xp = array_namespace(a, b)
    dot = xp.sum(a * b, axis=-1, keepdims=True)
    b = xp.where(dot < 0, -b, b)
    dot = xp.clip(xp.abs(dot), 0.0, 1.0)
    f = fraction[..., None]
    angle = exact.acos(dot)
    near = angle < 1e-4
    sine = xp.where(near, xp.ones_like(angle), exact.sin(angle))
    wa = xp.where(near, 1 - f, exact.sin((1 - f) * angle) / sine)
    wb = xp.where(near, f, exact.sin(f * angle) / sine)
    return normalize(wa * a + wb * b)


def matrix_from_euler(euler_xyz: Array) -> Array:
    """Rotation matrices ``(..., 3, 3)`` of extrinsic "xyz" angles ``(..., 3)``: ``Rz @ Ry @ Rx``."""
    xp = array_namespace(euler_xyz)
    c, s = exact.cos(euler_xyz), exact.sin(euler_xyz)
    cx, cy, cz = c[..., 0], c[..., 1], c[..., 2]
    sx, sy, sz = s[..., 0], s[..., 1], s[..., 2]
    rows = [
        xp.stack([cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx], axis=-1),
        xp.stack([sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx], axis=-1),
        xp.stack([-sy, cy * sx, cy * cx], axis=-1),
    ]
    return xp.stack(rows, axis=-2)


def quaternion_from_euler(angles: Array, order: str = "xyz") -> Array:
    """Unit quaternions xyzw ``(..., 4)`` of angles ``(..., N)`` about the axes that the letters of ``order`` name.

    As scipy's ``Rotation.from_euler``: lowercase letters are turns about fixed axes one after the other, uppercase ones
    about the axes that have turned with it. w >= 0 where w dominates is not promised.
    """
    xp = array_namespace(angles)
    half = 0.5 * angles
    cosine, sine = exact.cos(half), exact.sin(half)
    zero = xp.zeros_like(half[..., 0])
    turns = []
    for i, letter in enumerate(order.lower()):
        parts = [zero, zero, zero, cosine[..., i]]
        parts["xyz".index(letter)] = sine[..., i]
        turns.append(xp.stack(parts, axis=-1))
    out = turns[0]
    for turn in turns[1:]:
        out = quaternion_multiply(turn, out) if order.islower() else quaternion_multiply(out, turn)
    return normalize(out)


def euler_from_matrix(matrix: Array) -> Array:
    """Extrinsic "xyz" angles ``(..., 3)`` of rotation matrices; at gimbal lock (|pitch| = pi/2) z is set to 0."""
    xp = array_namespace(matrix)
    m = matrix
    pitch = exact.atan2(-m[..., 2, 0], _sqrt_positive(xp, m[..., 0, 0] ** 2 + m[..., 1, 0] ** 2))
    locked = m[..., 0, 0] ** 2 + m[..., 1, 0] ** 2 < 1e-14
    roll = xp.where(locked, exact.atan2(-m[..., 1, 2], m[..., 1, 1]), exact.atan2(m[..., 2, 1], m[..., 2, 2]))
    yaw = xp.where(locked, xp.zeros_like(roll), exact.atan2(m[..., 1, 0], m[..., 0, 0]))
    return xp.stack([roll, pitch, yaw], axis=-1)


def matrix_from_rotation_vector(vector: Array) -> Array:
    """Rodrigues' formula: matrices ``(..., 3, 3)`` of rotation vectors ``(..., 3)``; smooth at zero."""
    xp = array_namespace(vector)
    squared = xp.sum(vector * vector, axis=-1)[..., None, None]
    small = squared < 1e-8
    safe = xp.where(small, xp.ones_like(squared), squared)
    angle = xp.sqrt(safe)
    a = xp.where(small, 1 - squared / 6, exact.sin(angle) / angle)
    b = xp.where(small, 0.5 - squared / 24, (1 - exact.cos(angle)) / safe)
    k = skew(vector)
    identity = xp.eye(3, dtype=vector.dtype, device=vector.device)
    return identity + a * k + b * exact.matmul(k, k)


def rotation_vector_from_matrix(matrix: Array) -> Array:
    """Rotation vectors ``(..., 3)`` with angle in [0, pi] of rotation matrices ``(..., 3, 3)``; smooth at zero."""
    q = quaternion_from_matrix(matrix)
    xp = array_namespace(q)
    q = xp.where(q[..., 3:] < 0, -q, q)
    v, w = q[..., :3], q[..., 3:]
    sine = _sqrt_positive(xp, xp.sum(v * v, axis=-1, keepdims=True))
    small = sine < 1e-6
    scale = xp.where(small, 2 / xp.where(w > 0.5, w, xp.ones_like(w)),
                     2 * exact.atan2(sine, w) / xp.where(small, xp.ones_like(sine), sine))  # fmt: skip
    return v * scale


def matrix_from_6d(rotation_6d: Array) -> Array:
    """Matrices ``(..., 3, 3)`` whose first two columns are Gram-Schmidt of ``(..., 6)`` (arXiv 1812.07035)."""
    xp = array_namespace(rotation_6d)
    x = normalize(rotation_6d[..., :3])
    b = rotation_6d[..., 3:]
    y = normalize(b - xp.sum(x * b, axis=-1, keepdims=True) * x)
    z = xp.linalg.cross(x, y, axis=-1)
    return xp.stack([x, y, z], axis=-1)


def angle_between(a: Array, b: Array) -> Array:
    """Angle in radians ``(...)`` of the rotation between matrices ``(..., 3, 3)``, accurate near 0 and near pi."""
    xp = array_namespace(a, b)
    v = rotation_vector_from_matrix(exact.matmul(xp.matrix_transpose(a), b))
    return _sqrt_positive(xp, xp.sum(v * v, axis=-1))


def orthonormality_error(matrix: Array) -> Array:
    """Largest absolute entry ``(...)`` of ``R^T R - I``; 2 or more where R is a reflection."""
    xp = array_namespace(matrix)
    identity = xp.eye(3, dtype=matrix.dtype, device=matrix.device)
    error = xp.max(xp.abs(exact.matmul(xp.matrix_transpose(matrix), matrix) - identity), axis=(-2, -1))
    return xp.where(exact.det3(matrix) > 0, error, error + 2)


def nearest_rotation(matrix: Array) -> Array:
    """The rotation nearest to each ``(..., 3, 3)`` in the Frobenius norm: the polar factor.

    Of what is a rotation but for rounding the Newton-Schulz iteration finds it (N. Higham, *Functions of Matrices*,
    8.3), which needs no LAPACK; of anything else an SVD.
    """
    xp = array_namespace(matrix)
    error = orthonormality_error(matrix)
    if is_numpy_array(matrix) and bool(xp.all(error < _NEARLY)):
        return _without_rounding(matrix, error)
    u, _, vt = xp.linalg.svd(matrix)
    sign = xp.linalg.det(u @ vt)[..., None]
    last = u[..., :, 2] * sign
    return xp.concat([u[..., :, :2], last[..., None]], axis=-1) @ vt


def _without_rounding(matrix: Array, error: Array) -> Array:
    """Newton-Schulz, for each matrix until it is a rotation; six steps take 0.1 below float64's rounding."""
    out = matrix
    for _ in range(8):
        rough = error > _ROUNDED
        if not rough.any():
            break
        step = exact.matmul(out, 1.5 * np.eye(3, dtype=out.dtype) - 0.5 * exact.matmul(np.swapaxes(out, -1, -2), out))
        out = np.where(rough[..., None, None], step, out)
        error = orthonormality_error(out)
    return out
