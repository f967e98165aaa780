"""What is in a sample, in both directions: trajectory and cameras as arrays, and a clip as its members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ActionImgError, CorruptDatasetError
from ..model import CameraTrack, GripperTrajectory
from . import npz

TRAJECTORY_FIELDS = ("position", "quaternion_xyzw", "openness", "times")


def trajectory_bytes(trajectory: GripperTrajectory) -> bytes:
    """``.trajectory.npz``: position (T, 3), quaternion_xyzw (T, 4), openness (T,), times (T,), float64."""
    return npz.dump({name: getattr(trajectory, name) for name in TRAJECTORY_FIELDS})


def trajectory_from(data: bytes, where: object) -> GripperTrajectory:
    """The trajectory of a ``.trajectory.npz``; frames without a pose are NaN."""
    arrays = _arrays(data, TRAJECTORY_FIELDS, where)
    try:
        return GripperTrajectory(**arrays, allow_missing=True)
    except ActionImgError as error:
        raise CorruptDatasetError(str(error), where=where) from None


def cameras_bytes(cameras: Mapping[str, CameraTrack]) -> bytes:
    """``.cameras.npz``: K (V, T, 3, 3) and world_from_camera (V, T, 4, 4), float64, views in the sample's order."""
    return npz.dump(
        {
            "K": np.stack([camera.K for camera in cameras.values()]),
            "world_from_camera": np.stack([camera.world_from_camera for camera in cameras.values()]),
        }
    )


def cameras_from(data: bytes, views: tuple[str, ...], height: int, width: int, where: object) -> dict[str, CameraTrack]:
    """The cameras of a ``.cameras.npz`` by view."""
    arrays = _arrays(data, ("K", "world_from_camera"), where)
    K, pose = arrays["K"], arrays["world_from_camera"]
    if K.ndim != 4 or len(K) != len(views) or len(pose) != len(views):
        raise CorruptDatasetError("has another number of views", where=where, expected=len(views), found=len(K))
    try:
        return {name: CameraTrack(K[i], pose[i], width, height) for i, name in enumerate(views)}
    except ActionImgError as error:
        raise CorruptDatasetError(str(error), where=where) from None


def _arrays(data: bytes, names: tuple[str, ...], where: object) -> dict[str, NDArray[Any]]:
    arrays = npz.load(data, where)
    if set(arrays) != set(names):
        raise CorruptDatasetError(
            "has the wrong arrays", where=where, expected=" ".join(names), found=" ".join(arrays) or "none"
        )
    wrong = next((name for name in names if arrays[name].dtype != np.float64), None)
    if wrong:
        raise CorruptDatasetError("has the wrong dtype", where=where, field=wrong, expected="float64")
    return arrays
