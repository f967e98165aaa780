"""From a 7-DoF pose to the three points that an action image draws."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from ..conventions import DEFAULT_AXIS_LENGTH, KEYPOINT_DIRECTIONS
from ..geometry.exact import matmul

Array = Any


def gripper_keypoints(position: Array, rotation: Array, axis_length: float = DEFAULT_AXIS_LENGTH) -> Array:
    """World points ``(..., 3, 3)`` (keypoint, xyz) of poses: origin, origin + 0.1 m along +x, origin + 0.1 m along -z.

    Args:
        position: ``(..., 3)`` metres.
        rotation: ``(..., 3, 3)`` world_from_gripper.
        axis_length: Metres from the origin to the other two points.
    """
    xp = array_namespace(position, rotation)
    points = xp.asarray(KEYPOINT_DIRECTIONS, dtype=rotation.dtype, device=rotation.device) * axis_length
    return matmul(points, xp.matrix_transpose(rotation)) + position[..., None, :]
