"""What is in a sample, in both directions: trajectory and cameras as arrays, and a clip as its members."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ActionImgError, CorruptDatasetError, SourceNotFoundError
from ..model import CameraTrack, GripperTrajectory
from ..raster import overlapping
from ..schemas import ActionImageSpec
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


def overlapping_frames(
    grippers: Mapping[str, GripperTrajectory], cameras: Mapping[str, CameraTrack], spec: ActionImageSpec
) -> tuple[tuple[int, ...], ...]:
    """For each view the frames in which, in one picture, blobs of two grippers overlap."""
    return tuple(tuple(np.flatnonzero(view).tolist()) for view in overlapping(grippers, cameras, spec))


CAMERA_FIELDS = ("K", "world_from_camera", "views", "size")


def cameras_bytes(cameras: Mapping[str, CameraTrack]) -> bytes:
    """``.cameras.npz``, views in the sample's order.

    K (V, T, 3, 3) and world_from_camera (V, T, 4, 4) float64, views (V,) text, size (V, 2) int64 as height, width.
    """
    tracks = list(cameras.values())
    return npz.dump(
        {
            "K": np.stack([camera.K for camera in tracks]),
            "world_from_camera": np.stack([camera.world_from_camera for camera in tracks]),
            "views": np.array(list(cameras), dtype=np.str_),
            "size": np.array([(camera.height, camera.width) for camera in tracks], np.int64),
        }
    )


def cameras_from(data: bytes, where: object) -> dict[str, CameraTrack]:
    """The cameras of a ``.cameras.npz`` by view.

    Raises:
        CorruptDatasetError: It holds other arrays, or what no camera is.
        BadFileError, UnsafeFileError: It cannot be read.
    """
    arrays = npz.load(data, where)
    if set(arrays) != set(CAMERA_FIELDS):
        raise CorruptDatasetError(
            "has the wrong arrays", where=where, expected=" ".join(CAMERA_FIELDS), found=" ".join(arrays) or "none"
        )
    K, pose, views, size = (arrays[name] for name in CAMERA_FIELDS)
    good = views.ndim == 1 and views.dtype.kind == "U" and size.shape == (len(views), 2) and size.dtype == np.int64
    if not good or K.ndim != 4 or pose.ndim != 4 or not len(K) == len(pose) == len(views):
        shapes = ", ".join(f"{name} {arrays[name].dtype}{list(arrays[name].shape)}" for name in CAMERA_FIELDS)
        raise CorruptDatasetError("arrays do not fit each other", where=where, found=shapes)
    try:
        return {
            str(name): CameraTrack(K[i], pose[i], height=int(size[i, 0]), width=int(size[i, 1]))
            for i, name in enumerate(views)
        }
    except ActionImgError as error:
        raise CorruptDatasetError(str(error), where=where) from None


def read_cameras_npz(path: str | Path) -> dict[str, CameraTrack]:
    """The cameras of a ``.cameras.npz`` that was taken out of a shard, by view."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SourceNotFoundError(error.strerror or str(error), where=path) from None
    return cameras_from(data, path)


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
