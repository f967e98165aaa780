"""Action images of a wrist camera: from a virtual camera that is held where a window begins.

A wrist camera moves along with the gripper, which therefore stands still in its picture: drawn into it, an action image
would show no motion. Forks of the published code draw it into a camera that keeps the wrist camera's orientation at the
window's first frame, stands so far before the gripper that this is seen, and does not move for the rest of the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from ..model import Camera, CameraTrack, GripperTrajectory
from ..schemas import ActionImageSpec

WRIST_DISTANCE: Final = 0.25
"""Metres from the virtual camera to the gripper at the window's start."""
WRIST_AXIS: Final = 0.35
"""Longest axis over that distance: a blue point that reaches back towards the camera stays well in front of it."""


def held_camera(
    camera: Camera | CameraTrack, grippers: Mapping[str, GripperTrajectory], distance: float = WRIST_DISTANCE
) -> Camera:
    """The camera whose action image stands for a wrist camera's over a window.

    It has the wrist camera's intrinsics and orientation at the first frame in which a gripper's pose is known, and lies
    ``distance`` metres before the gripper, which is on its axis then; of several, the one nearest to the wrist camera.

    Args:
        camera: The wrist camera at the window's T frames.
        grippers: Trajectories of T poses, by name.
        distance: Metres.

    Returns:
        A camera that stands still; where no pose is known, the wrist camera's at the first frame.
    """
    frames = len(next(iter(grippers.values())))
    track = camera if isinstance(camera, CameraTrack) else camera.track(frames)
    known = np.stack([trajectory.known for trajectory in grippers.values()])
    start = int(np.argmax(known.any(axis=0)))
    pose = track.world_from_camera[start].copy()
    if known[:, start].any():
        places = np.stack([trajectory.position[start] for trajectory in grippers.values()])[known[:, start]]
        away = places - pose[:3, 3]
        nearest = int(np.argmin((away * away).sum(axis=-1)))
        pose[:3, 3] = places[nearest] - distance * pose[:3, 2]
    return Camera(track.K[start], pose, track.width, track.height, track.pixel_centre)


def wrist_spec(spec: ActionImageSpec, distance: float = WRIST_DISTANCE) -> ActionImageSpec:
    """How a `held_camera`'s action image is drawn: axes of at most `WRIST_AXIS` times the distance."""
    return spec.changed(axis_length=min(spec.axis_length, WRIST_AXIS * distance))
