"""Plücker coordinates of the rays through a picture's pixels."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

Array = Any

PIXEL_CENTRE = 0.5
MOMENT_SCALE = 1 / 3
"""Factor on the moments in the published code (arXiv 2604.06168), which brings them to the range of a picture."""

_EPSILON = 1e-8


def pluecker_rays(
    K: Array, reference_from_camera: Array, height: int, width: int, scale: float = MOMENT_SCALE
) -> Array:
    """Directions and scaled moments of the rays through all pixel centres.

    The ray through the pixel in column ``u``, row ``v`` has the direction ``d = R K⁻¹ (u + ½, v + ½, 1)``, divided by
    its length plus 1e-8, and the moment ``t × d`` about the reference frame's origin (Plücker; as in arXiv 2604.06168).

    Args:
        K: ``(..., 3, 3)`` intrinsics in pixels without skew; focal lengths of either sign, as the pose's axes demand.
        reference_from_camera: ``(..., 3, 4)`` or ``(..., 4, 4)`` poses ``[R | t]``, metres.
        height: Picture height in pixels.
        width: Picture width in pixels.
        scale: Factor on the moments.

    Returns:
        ``(..., 6, height, width)``: direction x y z, then moment x y z times ``scale``.
    """
    xp = array_namespace(K, reference_from_camera)
    dtype, device = reference_from_camera.dtype, reference_from_camera.device
    K = xp.astype(K, dtype)
    column = xp.arange(width, dtype=dtype, device=device) + PIXEL_CENTRE
    row = xp.arange(height, dtype=dtype, device=device) + PIXEL_CENTRE
    x = ((column - K[..., 0, 2, None]) / K[..., 0, 0, None])[..., None, :]
    y = ((row - K[..., 1, 2, None]) / K[..., 1, 1, None])[..., :, None]
    pose = reference_from_camera[..., None, None]
    raw = [pose[..., i, 0, :, :] * x + pose[..., i, 1, :, :] * y + pose[..., i, 2, :, :] for i in range(3)]
    length = xp.sqrt(raw[0] * raw[0] + raw[1] * raw[1] + raw[2] * raw[2]) + _EPSILON
    d = [component / length for component in raw]
    t = [pose[..., i, 3, :, :] * scale for i in range(3)]
    moment = [t[1] * d[2] - t[2] * d[1], t[2] * d[0] - t[0] * d[2], t[0] * d[1] - t[1] * d[0]]
    return xp.stack([*d, *moment], axis=-3)
