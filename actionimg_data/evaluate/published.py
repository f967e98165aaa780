"""The published code's way of reading a position, so that figures can be put beside those of papers.

The evaluation of arXiv 2604.06168 is not in its released code; its Table 4 states a mean 3-D error (12.2e-3). What
its decoder does is followed here (docs/conventions.md): the centroid of the red channel over the whole picture, half a
pixel added, and a linear triangulation of all views.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import pinhole
from ..geometry.drawing import action_K
from ..geometry.triangulation import triangulate_dlt
from ..model import Camera, CameraTrack
from ..schemas import ActionImageSpec

FloatArray = NDArray[np.float64]


def red_centroids(frames: NDArray[Any]) -> FloatArray:
    """Centroid ``(T, 2)`` of the red channel of ``(T, H, W, 3)``, plus half a pixel; NaN where it is black."""
    height, width = frames.shape[1:3]
    red = np.ascontiguousarray(frames[..., 0])
    columns, rows = red.sum(axis=1, dtype=np.float64), red.sum(axis=2, dtype=np.float64)
    total = columns.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        u, v = columns @ np.arange(width) / total, rows @ np.arange(height) / total
    return np.stack([u, v], axis=-1) + 0.5


def positions(
    centroids: Sequence[FloatArray], cameras: Sequence[Camera | CameraTrack], spec: ActionImageSpec
) -> FloatArray:
    """World points ``(T, 3)`` of the centroids ``(T, 2)`` of each view; NaN where fewer than two views have one."""
    uv = np.stack(centroids, axis=1)
    frames = len(uv)
    seen = np.isfinite(uv).all(-1)
    projection = np.stack(
        [
            np.broadcast_to(
                pinhole.projection_matrix(
                    np.broadcast_to(action_K(c.K, spec, c.pixel_centre), (frames, 3, 3)),
                    np.broadcast_to(c.world_from_camera, (frames, 4, 4)),
                ),
                (frames, 3, 4),
            )
            for c in cameras
        ],
        axis=1,
    )
    points = np.asarray(triangulate_dlt(np.nan_to_num(uv), projection, seen.astype(np.float64)))
    return np.where(seen.sum(axis=1)[:, None] >= 2, points, np.nan)
