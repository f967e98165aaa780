"""Cameras whose axes are not OpenCV's."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

Array = Any


def rotate_half_turn(K: Array, world_from_camera: Array) -> tuple[Array, Array]:
    """The same camera with its axes turned by half a turn about the optical axis, and focal lengths of the other sign.

    Takes OpenCV's axes (x right, y down) to those RLBench and the published code store (x left, y up, negative focal
    lengths) and back: ``(K S, E S)`` with ``S = diag(-1, -1, 1)``; every point is seen at the same pixel.

    Args:
        K: ``(..., 3, 3)`` intrinsics.
        world_from_camera: ``(..., 4, 4)`` or ``(..., 3, 4)`` camera-to-world.
    """
    xp = array_namespace(K, world_from_camera)
    signs = xp.asarray([-1.0, -1.0, 1.0, 1.0], dtype=K.dtype, device=K.device)
    # Adding 0 turns -0 into 0.
    turned = world_from_camera * xp.astype(signs, world_from_camera.dtype)
    return K * signs[:3] + 0.0, turned + 0.0
