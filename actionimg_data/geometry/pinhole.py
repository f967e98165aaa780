"""The pinhole camera with OpenCV axes: +x right, +y down, +z forward."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from ..conventions import DEFAULT_NEAR
from . import exact, transforms

Array = Any


def project(
    points_world: Array, K: Array, world_from_camera: Array, near: float = DEFAULT_NEAR
) -> tuple[Array, Array, Array]:
    """Project world points into pictures.

    ``uv = (K p / z)[:2]`` with ``p = camera_from_world p_world`` (Hartley & Zisserman, *Multiple View Geometry*, 6.1).

    Args:
        points_world: ``(..., N, 3)`` metres.
        K: ``(..., 3, 3)`` pixels.
        world_from_camera: ``(..., 4, 4)``, rigid.
        near: Metres; points with ``z <= near`` are not in front of the camera.

    Returns:
        ``uv (..., N, 2)`` in pixels, ``depth (..., N)`` along the optical axis in metres, and ``valid (..., N)``.
        Where a point is not valid (too near, behind, or not finite) its ``uv`` is 0 and gets no gradient.
    """
    xp = array_namespace(points_world, world_from_camera)
    finite = xp.all(xp.isfinite(points_world), axis=-1, keepdims=True)
    points = xp.where(finite, points_world, xp.zeros_like(points_world))  # infinity times 0 would warn
    points_camera = transforms.apply(transforms.invert(world_from_camera), points)
    points_camera = xp.where(finite, points_camera, xp.full_like(points_camera, float("nan")))
    return project_camera_points(points_camera, K, near)


def project_camera_points(points_camera: Array, K: Array, near: float = DEFAULT_NEAR) -> tuple[Array, Array, Array]:
    """`project` for points ``(..., N, 3)`` that are given in the camera's own frame."""
    xp = array_namespace(points_camera, K)
    depth = points_camera[..., 2]
    finite = xp.all(xp.isfinite(points_camera), axis=-1)
    valid = finite & (depth > near)
    safe = xp.where(valid[..., None], points_camera, xp.ones_like(points_camera))
    rays = safe / safe[..., 2:]
    uv = exact.matmul(rays, xp.matrix_transpose(K))[..., :2]
    return xp.where(valid[..., None], uv, xp.zeros_like(uv)), depth, valid


def unproject(uv: Array, depth: Array, K: Array, world_from_camera: Array) -> Array:
    """World points ``(..., N, 3)`` seen at pixels ``(..., N, 2)`` at ``depth (..., N)`` along the optical axis."""
    xp = array_namespace(uv, depth, K)
    homogeneous = xp.concat([uv, xp.ones_like(uv[..., :1])], axis=-1)
    rays = exact.matmul(homogeneous, xp.matrix_transpose(exact.inv3(K)))
    return transforms.apply(world_from_camera, rays * depth[..., None])


def intrinsics(focal_px: float, width: int, height: int) -> NDArray[np.float64]:
    """``K (3, 3)`` of a camera with square pixels whose axis goes through the middle of ``[0, W] x [0, H]``."""
    return np.array([[focal_px, 0.0, width / 2], [0.0, focal_px, height / 2], [0.0, 0.0, 1.0]])


def focal_of(fov_deg: float, pixels: int) -> float:
    """Focal length in pixels of a field of view over so many pixels: ``n / 2 / tan(fov / 2)``."""
    return float(pixels / 2 / exact.tan(np.radians(fov_deg) / 2))


def projection_matrix(K: Array, world_from_camera: Array) -> Array:
    """Projection matrices ``P (..., 3, 4) = K [R | t]`` that take homogeneous world points to pixels."""
    return exact.matmul(K, transforms.invert(world_from_camera)[..., :3, :])
