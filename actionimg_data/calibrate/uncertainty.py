"""How well a camera is known that points and edges of the gripper tell, and whether points alone are to be believed."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..geometry import pinhole, rotations, transforms
from .hand_points import PointFit
from .solve import motion

FloatArray = NDArray[np.float64]

INFLATION: Final = 1.75
"""Errors of points and edges together were larger than the equations say by about this factor on the setting scenes, of
single episodes as of pooled ones."""

MISPLACED_SHARE: Final = 0.0016
"""And the hand as a whole was seen besides by so much of the picture's width elsewhere, one deviation along each axis:
shapes of the hand that no size of the model makes pull all pictures alike."""

LINKS_INFLATION: Final = 2.5
"""Where outlines of an arm's links are taken along, whose meshes' and places' errors are the same in all pictures."""

LINKS_MISPLACED_SHARE: Final = 0.0008
"""And they leave the hand as a whole half as far elsewhere as it is with edges of the gripper alone."""

SMALL_PX: Final = 192
"""In narrower pictures the few points of a hand slide alike: three cameras of the setting half were 9 to 140 px off by
them (at 256), and the outline fitted none."""

POINT_INFLATION: Final = 1.2
"""Leaving stretches of time out shows not all errors of points: by about this factor they were larger."""

MAX_APART_SHARE: Final = 0.06
"""By this share of the width parts of the time may disagree about where the gripper is: without a fitting outline, true
cameras of the setting half had up to 0.035, and a wrong one 0.67."""

DRAWS: Final = 400
"""Of errors, to tell radii."""


def widened(covariance: FloatArray, K: FloatArray, width: int, links: bool = False) -> FloatArray:
    """The covariance of a camera's motion that equations of points and edges tell, as large as errors were.

    Args:
        covariance: ``(6, 6)`` or ``(7, 7)``, rotation vector (rad) first.
        K: ``(3, 3)``.
        width: Of the pictures.
        links: Whether outlines of an arm's links were taken along.
    """
    out = covariance * (LINKS_INFLATION if links else INFLATION) ** 2
    turn = (LINKS_MISPLACED_SHARE if links else MISPLACED_SHARE) * width / np.array([K[1, 1], K[0, 0]])
    out[[0, 1], [0, 1]] += turn**2
    return out


def radii(
    covariance: FloatArray, K: FloatArray, pose: FloatArray, points: FloatArray
) -> tuple[float, float, float, float]:
    """Radii that hold 90 of 100 errors: overlay (pixels), position (mm), rotation (degrees), focal length (pixels).

    Args:
        covariance: ``(6, 6)``, or ``(7, 7)`` with the log focal length, of the camera's motion in its own frame.
        K: ``(3, 3)``.
        pose: ``world_from_camera (4, 4)``.
        points: ``(N, 3)`` metres, world: where the gripper goes.
    """
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(np.zeros(len(covariance)), covariance, DRAWS, method="eigh")
    inverse = np.asarray(transforms.invert(pose))
    others = np.asarray(transforms.invert(np.stack([motion(d[:6]) @ inverse for d in draws])))
    zoom = np.exp(draws[:, 6]) if len(covariance) > 6 else np.ones(DRAWS)
    here = np.asarray(pinhole.project(points, K, pose)[0])
    away = [
        float(np.linalg.norm(np.asarray(pinhole.project(points, K @ np.diag([z, z, 1]), p)[0]) - here, axis=-1).mean())
        for z, p in zip(zoom, others, strict=True)
    ]
    position = 1e3 * np.linalg.norm(others[:, :3, 3] - pose[:3, 3], axis=1)
    angle = np.degrees(np.asarray(rotations.angle_between(others[:, :3, :3], pose[:3, :3])))
    focal = np.abs(zoom - 1) * K[0, 0]
    return tuple(float(np.quantile(v, 0.9)) for v in (away, position, angle, focal))  # type: ignore[return-value]


def doubt_points(found: PointFit, free_focal: bool, K: FloatArray, points: FloatArray, width: int) -> str:
    """Why points of the hand must not be believed where its outline does not fit too; empty where they may.

    Args:
        found: Through the camera that they tell.
        free_focal: Whether the focal length was found too.
        K: ``(3, 3)``.
        points: ``(N, 3)`` metres, world: where the gripper goes.
        width: Of the pictures.
    """
    if width < SMALL_PX:
        return "in so small pictures points of the hand are believed only where its outline fits too"
    # Points that err together in a part of the time are not seen in the equations, but in what the others tell.
    parted = found.bundle.spread(found.state, free_focal) * POINT_INFLATION**2
    apart = radii(parted, K, found.world_from_camera, points)[0]
    if apart > MAX_APART_SHARE * width:
        return f"its outline does not fit, and parts of the time put the gripper up to {apart:.1f} px elsewhere"
    return ""
