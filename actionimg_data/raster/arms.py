"""Several grippers in one picture: the clipped sum, and where their blobs can still be told apart.

The published forks that train on two arms draw both into one picture and clip it. Blobs of one channel whose centres
are far from each other are what they were; where two overlap, neither centre can be measured without bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..model import Camera, CameraTrack, GripperTrajectory
from ..schemas import ActionImageSpec
from .gaussian import Cameras, Video, project_keypoints, render_view

SEPARATE: Final = 4.0
"""Sigmas between the centres of two blobs of one channel from which on they count as apart: one blob is 3e-4 of its
height at the other's centre, and the windows in which both are fitted (1.8 sigma) do not touch."""

REACH: Final = 3.53
"""Sigmas around its centre within which a blob differs from black (255 exp(-r^2 / 2) >= 0.5)."""

Grippers = Mapping[str, GripperTrajectory]


def merge(pictures: Sequence[Video]) -> Video:
    """The clipped sum of pictures ``(..., H, W, 3)`` uint8 of one shape."""
    total = pictures[0].copy()
    for other in pictures[1:]:
        cv2.add(total.reshape(-1), other.reshape(-1), dst=total.reshape(-1))
    return total


def render_merged(
    grippers: Grippers,
    camera: Camera | CameraTrack,
    spec: ActionImageSpec | None = None,
    frames: slice = slice(None),
) -> Video:
    """Draw all grippers into one picture of a camera: the clipped sum of their `render_view`.

    Args:
        grippers: One or more trajectories of T poses.
        camera: A camera of the spec's picture size; a `CameraTrack` has T frames.
        spec: What to draw; the published picture by default.
        frames: Which of the T frames.

    Returns:
        ``(n, H, W, 3)`` uint8. Blue pedestals add up too: two open grippers have twice the pedestal of one.

    Raises:
        InvalidCameraError, FrameCountError, InvalidTrajectoryError: As `render`.
    """
    drawn = [render_view(trajectory, camera, spec, frames) for trajectory in grippers.values()]
    return drawn[0] if len(drawn) == 1 else merge(drawn)


def separate_blobs(grippers: Grippers, cameras: Cameras, spec: ActionImageSpec) -> NDArray[np.bool_]:
    """Which keypoints of which gripper stay apart from those of the others in a merged picture.

    Args:
        grippers: G trajectories of T poses.
        cameras: V cameras of the spec's picture size.
        spec: Sigma, axis length, near plane and picture size.

    Returns:
        ``(G, V, T, 3)``: the keypoint is drawn (in front of the near plane), and no other gripper's blob of the same
        channel that reaches into the picture is nearer than `SEPARATE` sigmas.
    """
    projected = [project_keypoints(trajectory, cameras, spec) for trajectory in grippers.values()]
    uv, drawn = np.stack([p[0] for p in projected]), np.stack([p[1] for p in projected])
    apart = drawn.copy()
    for first, second in _pairs(len(projected)):
        distance = np.linalg.norm(uv[first] - uv[second], axis=-1)
        near = drawn[first] & drawn[second] & (distance < SEPARATE * spec.sigma_px)
        # A blob that does not reach into the picture disturbs nothing in it.
        apart[first] &= ~(near & _reaches(uv[second], spec))
        apart[second] &= ~(near & _reaches(uv[first], spec))
    return apart


def overlapping(grippers: Grippers, cameras: Cameras, spec: ActionImageSpec) -> NDArray[np.bool_]:
    """``(V, T)`` whether, in a merged picture, a blob that reaches into it overlaps another gripper's."""
    uv = np.stack([project_keypoints(trajectory, cameras, spec)[0] for trajectory in grippers.values()])
    drawn = np.stack([project_keypoints(trajectory, cameras, spec)[1] for trajectory in grippers.values()])
    hidden = drawn & ~separate_blobs(grippers, cameras, spec) & _reaches(uv, spec)
    return np.asarray(hidden.any(axis=(0, -1)))


def _reaches(uv: NDArray[np.float64], spec: ActionImageSpec) -> NDArray[np.bool_]:
    margin = REACH * spec.sigma_px
    limit = np.array([spec.width - 1, spec.height - 1]) + margin
    return np.asarray(((uv > -margin) & (uv < limit)).all(axis=-1))


def _pairs(count: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(count) for j in range(i))
