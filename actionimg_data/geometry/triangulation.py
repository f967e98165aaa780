"""Points from two or more views: linear (DLT), then Gauss-Newton on the reprojection error."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import InvalidArrayError
from . import pinhole, transforms
from .arrays import array_namespace

Array = Any

MIN_DEPTH = 1e-6


class Triangulation(NamedTuple):
    """Triangulated points; see `triangulate`."""

    points: Array
    """``(..., 3)`` world points in metres; zero where not ``valid``."""
    covariance: Array
    """``(..., 3, 3)`` in square metres, of the points as estimated from ``covariance`` of the pixels."""
    chi_square: Array
    """``(...)`` sum of squared whitened residuals; its expectation is ``2 * views - 3``."""
    valid: Array
    """``(...)`` whether at least two views see the point, from different places, in front of them."""


def triangulate_dlt(uv: Array, projection: Array, weights: Array) -> Array:
    """Linear triangulation (Hartley & Zisserman, *Multiple View Geometry*, 12.2), batched.

    Each view gives two rows ``w (u P_3 - P_1)``, ``w (v P_3 - P_2)``, scaled to unit length before weighting; the
    point is the right singular vector of the least singular value.

    Args:
        uv: ``(..., V, 2)`` pixels.
        projection: ``(..., V, 3, 4)`` projection matrices, as `pinhole.projection_matrix` gives them.
        weights: ``(..., V)``, at least 0; 0 leaves a view out.

    Returns:
        World points ``(..., 3)``. A point at infinity comes out far away, not as NaN.
    """
    xp = array_namespace(uv, projection, weights)
    rows = uv[..., None] * projection[..., 2:, :] - projection[..., :2, :]
    norm = xp.sqrt(xp.sum(rows * rows, axis=-1, keepdims=True))
    rows = rows / xp.where(norm > 0, norm, xp.ones_like(norm)) * weights[..., None, None]
    rows = xp.reshape(rows, (*rows.shape[:-3], rows.shape[-3] * 2, 4))
    # The Gram matrix has the same right singular vectors and a fixed size, whatever the number of views.
    _, vectors = xp.linalg.eigh(xp.matrix_transpose(rows) @ rows)
    point = vectors[..., :, 0]
    scale = point[..., 3:]
    tiny = xp.abs(scale) < 1e-12
    return point[..., :3] / xp.where(tiny, xp.full_like(scale, 1e-12), scale)


def triangulate(
    uv: Array, covariance: Array, mask: Array, K: Array, world_from_camera: Array, iterations: int = 3
) -> Triangulation:
    """Maximum-likelihood points of pixels with known covariance: DLT, then ``iterations`` Gauss-Newton steps.

    Args:
        uv: ``(..., V, 2)`` pixels; ignored where masked out or not finite.
        covariance: ``(..., V, 2, 2)`` of the pixels, in square pixels.
        mask: ``(..., V)`` bool, which views see the point.
        K: ``(..., V, 3, 3)``.
        world_from_camera: ``(..., V, 4, 4)``.
        iterations: Gauss-Newton steps after the linear solution.

    Raises:
        InvalidArrayError: Fewer than one view, or shapes that do not fit.
    """
    xp = array_namespace(uv, covariance, K, world_from_camera)
    if uv.ndim < 2 or uv.shape[-1] != 2 or covariance.shape[-2:] != (2, 2) or uv.shape[-2] == 0:
        raise InvalidArrayError(
            "do not fit each other",
            field="uv, covariance",
            expected="(..., V, 2) and (..., V, 2, 2)",
            found=f"{tuple(uv.shape)} and {tuple(covariance.shape)}",
        )
    finite = xp.all(xp.isfinite(uv), axis=-1) & xp.all(xp.isfinite(covariance), axis=(-2, -1))
    mask = mask & finite
    uv = xp.where(mask[..., None], uv, xp.zeros_like(uv))
    whiten = whitening(covariance, mask)
    camera_from_world = transforms.invert(world_from_camera)
    spread = xp.sqrt(whiten[..., 0, 0] ** 2 + whiten[..., 1, 0] ** 2 + whiten[..., 1, 1] ** 2)
    heaviest = xp.max(spread, axis=-1, keepdims=True)
    weights = spread / xp.where(heaviest > 0, heaviest, xp.ones_like(heaviest))
    seen = xp.sum(xp.astype(mask, uv.dtype), axis=-1)
    # Around the cameras' mean position the linear system is well conditioned wherever the world's origin is.
    center = xp.mean(world_from_camera[..., :3, 3], axis=-2)
    moved = xp.concat(
        [world_from_camera[..., :3, :3], world_from_camera[..., :3, 3:] - center[..., None, :, None]], axis=-1
    )
    moved = xp.concat([moved, world_from_camera[..., 3:, :]], axis=-2)
    points = triangulate_dlt(uv, pinhole.projection_matrix(K, moved), weights) + center
    identity = xp.eye(3, dtype=uv.dtype, device=uv.device)
    for step in range(iterations + 1):
        predicted, depth, jacobian = projection_and_jacobian(points[..., None, :], K, camera_from_world)
        residual = (whiten @ (uv - predicted)[..., None])[..., 0]
        rows = whiten @ jacobian
        rows = xp.reshape(rows, (*rows.shape[:-3], rows.shape[-3] * 2, 3))
        flat = xp.reshape(residual, (*residual.shape[:-2], residual.shape[-2] * 2))
        normal = xp.matrix_transpose(rows) @ rows
        trace = normal[..., 0, 0] + normal[..., 1, 1] + normal[..., 2, 2]
        damped = normal + (1e-12 * trace + 1e-30)[..., None, None] * identity
        if step < iterations:
            points = points + xp.linalg.solve(damped, xp.matrix_transpose(rows) @ flat[..., None])[..., 0]
    front = xp.all((depth > MIN_DEPTH) | ~mask, axis=-1)
    bounded = xp.all(xp.isfinite(points), axis=-1)
    # Two rays that do not cross leave one direction without information.
    informed = xp.linalg.det(normal / (trace[..., None, None] + 1e-30)) > 1e-15
    valid = (seen >= 2) & front & bounded & informed
    covariance_points = xp.linalg.inv(xp.where(valid[..., None, None], damped, identity))
    chi_square = xp.sum(flat * flat, axis=-1)
    points = xp.where(valid[..., None], points, xp.zeros_like(points))
    return Triangulation(points, covariance_points, chi_square, valid)


def whitening(covariance: Array, mask: Array) -> Array:
    """Lower-triangular ``W (..., 2, 2)`` with ``W^T W = covariance^-1``; zero where masked out.

    The closed form of the inverse Cholesky factor of a 2x2 matrix.
    """
    xp = array_namespace(covariance)
    one = xp.ones_like(covariance[..., 0, 0])
    a = xp.where(mask, covariance[..., 0, 0], one)
    b = xp.where(mask, covariance[..., 0, 1], xp.zeros_like(one))
    c = xp.where(mask, covariance[..., 1, 1], one)
    on = xp.astype(mask, covariance.dtype)
    first = xp.sqrt(a)
    second = xp.sqrt(c - b * b / a)
    zero = xp.zeros_like(one)
    rows = [xp.stack([on / first, zero], axis=-1), xp.stack([-on * b / (a * second), on / second], axis=-1)]
    return xp.stack(rows, axis=-2)


def projection_and_jacobian(
    points: Array, K: Array, camera_from_world: Array, min_depth: float = MIN_DEPTH
) -> tuple[Array, Array, Array]:
    """Pixels ``(..., 2)``, depth ``(...)`` and ``d(pixels)/d(world point) (..., 2, 3)`` of world points ``(..., 3)``.

    ``duv/dp_camera = (K[:2] - uv [0 0 1]) / z``. Depths under ``min_depth`` count as ``min_depth``, so that nothing
    here divides by zero; callers test the depth that is returned.
    """
    xp = array_namespace(points, K, camera_from_world)
    rotation = camera_from_world[..., :3, :3]
    in_camera = (rotation @ points[..., None])[..., 0] + camera_from_world[..., :3, 3]
    depth = in_camera[..., 2]
    z = xp.where(depth > min_depth, depth, xp.full_like(depth, min_depth))
    uv = (K[..., :2, :2] @ in_camera[..., :2, None])[..., 0] / z[..., None] + K[..., :2, 2]
    last = (K[..., :2, 2] - uv)[..., None]
    first = K[..., :2, :2] + xp.zeros_like(last)
    pixels_from_camera = xp.concat([first, last], axis=-1) / z[..., None, None]
    return uv, depth, pixels_from_camera @ rotation
