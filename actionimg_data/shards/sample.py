"""What is in a sample, in both directions: trajectory and cameras as arrays, and a clip as its members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cameras.tracks import ACTION_K, tracks_from
from ..errors import ActionImgError, CorruptDatasetError
from ..geometry.drawing import action_K
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


def cameras_bytes(cameras: Mapping[str, CameraTrack], spec: ActionImageSpec | None = None) -> bytes:
    """``.cameras.npz``, views in the sample's order.

    K (V, T, 3, 3) and world_from_camera (V, T, 4, 4) float64, views (V,) text, size (V, 2) int64 as height, width; and
    pixel_centre (V,) float64 where it is not 0.5 of all; action_K (V, T, 3, 3) float64 where ``spec`` draws action
    images by another K.
    """
    tracks = list(cameras.values())
    centres = np.array([camera.pixel_centre for camera in tracks])
    own = {"pixel_centre": centres} if (centres != 0.5).any() else {}
    drawn = drawn_K(cameras, spec)
    if drawn is not None:
        own[ACTION_K] = drawn
    return npz.dump(
        {
            "K": np.stack([camera.K for camera in tracks]),
            "world_from_camera": np.stack([camera.world_from_camera for camera in tracks]),
            "views": np.array(list(cameras), dtype=np.str_),
            "size": np.array([(camera.height, camera.width) for camera in tracks], np.int64),
            **own,
        }
    )


def drawn_K(cameras: Mapping[str, CameraTrack], spec: ActionImageSpec | None) -> NDArray[np.float64] | None:
    """``(V, T, 3, 3)`` K of the action images; None where it is that of the cameras."""
    if spec is None or (spec.fov_scale == 1 and spec.pixel_centre == "published"):
        return None
    return np.stack([np.asarray(action_K(camera.K, spec, camera.pixel_centre)) for camera in cameras.values()])


def check_drawn_K(data: bytes, cameras: Mapping[str, CameraTrack], spec: ActionImageSpec, where: object) -> None:
    """Refuse a ``.cameras.npz`` whose K of the action images is not that of its cameras, with `CorruptDatasetError`."""
    found, expected = npz.load(data, where).get(ACTION_K), drawn_K(cameras, spec)
    same = found is expected if found is None or expected is None else np.array_equal(found, expected)
    if not same:
        raise CorruptDatasetError(
            "is not what the spec makes of the cameras",
            where=where,
            field=ACTION_K,
            expected="none" if expected is None else f"{expected.shape}",
            found="none" if found is None else f"{found.shape}, other values",
        )


def cameras_from(data: bytes, where: object) -> dict[str, CameraTrack]:
    """The cameras of a ``.cameras.npz`` by view.

    Raises:
        CorruptDatasetError: It holds other arrays, or what no camera is.
        BadFileError, UnsafeFileError: It cannot be read.
    """
    return tracks_from(npz.load(data, where), where)


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
