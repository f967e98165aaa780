"""Where an action image lies in its camera's image plane: the intrinsics that project straight to its pixels.

``K`` of a camera projects to coordinates of the camera's picture. An action image is drawn with its pixel index (0, 0)
at coordinate (0, 0); it may show more of the image plane than the picture (``fov_scale``), and may be drawn where the
picture shows a point (``pixel_centre="true"``) instead of where the published code draws it.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from ..schemas import ActionImageSpec
from .exact import matmul

Array = Any


def action_K(K: Array, spec: ActionImageSpec, pixel_centre: float = 0.5) -> Array:
    """Intrinsics ``(..., 3, 3)`` that project to pixel indices of the action image.

    Args:
        K: ``(..., 3, 3)`` of the camera's picture, of the spec's size.
        spec: How the action image is drawn. The published drawing leaves K as it is.
        pixel_centre: Where K has the centre of the first pixel: 0.5 or 0.
    """
    if spec.fov_scale == 1 and spec.pixel_centre == "published":
        return K
    xp = array_namespace(K)
    s = 1 / spec.fov_scale
    shift = pixel_centre if spec.pixel_centre == "true" else 0.0
    # The middle of the picture stays where it is: (n - 1) / 2 pixels behind the centre of the first.
    x, y = ((n - 1) / 2 + pixel_centre for n in (spec.width, spec.height))
    change = [[s, 0.0, x - s * x - shift], [0.0, s, y - s * y - shift], [0.0, 0.0, 1.0]]
    return matmul(xp.asarray(change, dtype=K.dtype, device=K.device), K)


def in_picture(uv: Array, spec: ActionImageSpec) -> Array:
    """Whether pixel indices ``(..., 2)`` of projected points are in the action image ``(...)``.

    As published a point is in the picture where its projection is in ``[0, W) x [0, H)``; where pixels are drawn as the
    picture shows them, that is from half a pixel before the centre of the first.
    """
    border = 0.5 if spec.pixel_centre == "true" else 0.0
    x, y = uv[..., 0] + border, uv[..., 1] + border
    return (x >= 0) & (x < spec.width) & (y >= 0) & (y < spec.height)
