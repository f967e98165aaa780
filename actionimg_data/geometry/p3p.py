"""The pose of a known triangle from one view: the perspective three-point problem."""

from __future__ import annotations

from typing import Any

from . import rotations
from .arrays import array_namespace

Array = Any


def p3p_points(rays: Array, triangle: Array) -> tuple[Array, Array]:
    """Where on three rays a known triangle lies: up to four solutions.

    Grunert's quartic as stated by Haralick, Lee, Ottenberg and Nölle, "Review and analysis of solutions of the three
    point perspective pose estimation problem" (IJCV 1994), with the third side deciding between the two places that
    the second distance leaves.

    Args:
        rays: ``(..., 3, 3)`` unit directions (point, xyz) from the camera's centre.
        triangle: ``(3, 3)`` the points in their own frame, metres.

    Returns:
        ``points (..., 4, 3, 3)`` in the camera's frame (solution, point, xyz) and ``valid (..., 4)``. Complex roots
        are taken by their real part where they are nearly real: a view at a turning point of the quartic still has a
        solution to start from, and the caller's refinement decides.
    """
    xp = array_namespace(rays)
    p1, p2, p3 = (triangle[i, :] for i in range(3))
    a2 = xp.sum((p2 - p3) ** 2)
    b2 = xp.sum((p1 - p3) ** 2)
    c2 = xp.sum((p1 - p2) ** 2)
    j1, j2, j3 = rays[..., 0, :], rays[..., 1, :], rays[..., 2, :]
    alpha, beta, gamma = xp.sum(j2 * j3, axis=-1), xp.sum(j1 * j3, axis=-1), xp.sum(j1 * j2, axis=-1)
    k = (a2 - c2) / b2
    m = (a2 + c2) / b2
    q4 = (k - 1) ** 2 - 4 * c2 / b2 * alpha**2
    q3 = 4 * (k * (1 - k) * beta - (1 - m) * alpha * gamma + 2 * c2 / b2 * alpha**2 * beta)
    q2 = 2 * (
        k**2 - 1 + 2 * k**2 * beta**2 + 2 * (b2 - c2) / b2 * alpha**2
        - 4 * m * alpha * beta * gamma + 2 * (b2 - a2) / b2 * gamma**2
    )  # fmt: skip
    q1 = 4 * (-k * (1 + k) * beta + 2 * a2 / b2 * gamma**2 * beta - (1 - m) * alpha * gamma)
    q0 = (1 + k) ** 2 - 4 * a2 / b2 * gamma**2
    roots, nearly_real = _quartic_roots(xp, q4, q3, q2, q1, q0)
    beta, gamma = beta[..., None], gamma[..., None]
    squared = 1 + roots**2 - 2 * roots * beta
    s1 = xp.sqrt(b2 / xp.where(squared > 1e-12, squared, xp.ones_like(squared)))
    s3 = roots * s1
    under = c2 - s1**2 * (1 - gamma**2)
    half = xp.sqrt(xp.where(under > 0, under, xp.zeros_like(under)))
    x1, x3 = s1[..., None] * j1[..., None, :], s3[..., None] * j3[..., None, :]
    near = (s1 * gamma - half)[..., None] * j2[..., None, :]
    far = (s1 * gamma + half)[..., None] * j2[..., None, :]
    error_near = xp.abs(xp.sum((near - x3) ** 2, axis=-1) - a2)
    error_far = xp.abs(xp.sum((far - x3) ** 2, axis=-1) - a2)
    x2 = xp.where((error_near < error_far)[..., None], near, far)
    valid = nearly_real & (roots > 0) & (squared > 1e-12) & (xp.sum(x2 * j2[..., None, :], axis=-1) > 0)
    return xp.stack([x1, x2, x3], axis=-2), valid


def _quartic_roots(xp: Any, q4: Array, q3: Array, q2: Array, q1: Array, q0: Array) -> tuple[Array, Array]:
    """Real parts ``(..., 4)`` of the roots, as eigenvalues of the companion matrix, and which are nearly real."""
    scale = xp.abs(q4) + xp.abs(q3) + xp.abs(q2) + xp.abs(q1) + xp.abs(q0)
    lead = xp.where(xp.abs(q4) > 1e-12 * scale, q4, 1e-12 * scale + 1e-30)
    zero, one = xp.zeros_like(lead), xp.ones_like(lead)
    companion = xp.stack(
        [
            xp.stack([-q3 / lead, -q2 / lead, -q1 / lead, -q0 / lead], axis=-1),
            xp.stack([one, zero, zero, zero], axis=-1),
            xp.stack([zero, one, zero, zero], axis=-1),
            xp.stack([zero, zero, one, zero], axis=-1),
        ],
        axis=-2,
    )
    roots = xp.linalg.eigvals(companion)
    if xp.isdtype(roots.dtype, "complex floating"):
        return xp.real(roots), xp.abs(xp.imag(roots)) < 0.1 * xp.abs(roots)
    return roots, xp.ones_like(roots) > 0


def pose_of_triangle(points: Array, triangle: Array) -> tuple[Array, Array]:
    """Rotation ``(..., 3, 3)`` and translation ``(..., 3)`` that carry ``triangle (3, 3)`` onto points ``(..., 3, 3)``.

    Exact where the points are a rigid copy; otherwise the two sides at the first point are shared out evenly.
    """
    xp = array_namespace(points)
    here = _frame(xp, points)
    there = _frame(xp, triangle)
    rotation = here @ xp.matrix_transpose(there)
    moved = triangle @ xp.matrix_transpose(rotation)
    return rotation, xp.mean(points - moved, axis=-2)


def _frame(xp: Any, points: Array) -> Array:
    """Orthonormal frame of triangles ``(..., 3, 3)``: bisector, in-plane normal of it, plane normal."""
    a = rotations.normalize(points[..., 1, :] - points[..., 0, :])
    b = rotations.normalize(points[..., 2, :] - points[..., 0, :])
    return rotations.matrix_from_6d(xp.concat([a + b, a - b], axis=-1))
