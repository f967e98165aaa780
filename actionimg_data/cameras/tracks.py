"""The arrays of a sample's ``.cameras.npz``, as cameras by view."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import ActionImgError, CorruptDatasetError, SourceNotFoundError
from ..model import CameraTrack
from ..untrusted.arrays import load_npz
from ..untrusted.files import open_plain

CAMERA_FIELDS: Final = ("K", "world_from_camera", "views", "size")

ACTION_K: Final = "action_K"
"""The K that takes points to pixel indices of the action images (`geometry.drawing.action_K`)."""


def tracks_from(arrays: Mapping[str, NDArray[Any]], where: object) -> dict[str, CameraTrack]:
    """Cameras by view of the arrays ``K`` (V, T, 3, 3), ``world_from_camera`` (V, T, 4, 4), ``views``, ``size`` (V, 2).

    ``pixel_centre`` (V,) is there where it is not 0.5 of all, `ACTION_K` (V, T, 3, 3) where action images are drawn by
    another K; it follows from K and the spec, and is not read.

    Raises:
        CorruptDatasetError: They are other arrays, or what no camera is.
    """
    if set(arrays) - {"pixel_centre", ACTION_K} != set(CAMERA_FIELDS):
        raise CorruptDatasetError(
            "has the wrong arrays", where=where, expected=" ".join(CAMERA_FIELDS), found=" ".join(arrays) or "none"
        )
    K, pose, views, size = (arrays[name] for name in CAMERA_FIELDS)
    centres = arrays.get("pixel_centre", np.full(len(K) if K.ndim else 0, 0.5))
    good = views.ndim == 1 and views.dtype.kind == "U" and size.shape == (len(views), 2) and size.dtype == np.int64
    if not good or K.ndim != 4 or pose.ndim != 4 or not len(K) == len(pose) == len(views) == centres.size:
        shapes = ", ".join(f"{name} {arrays[name].dtype}{list(arrays[name].shape)}" for name in CAMERA_FIELDS)
        raise CorruptDatasetError("arrays do not fit each other", where=where, found=shapes)
    try:
        return {
            str(name): CameraTrack(K[i], pose[i], int(size[i, 1]), int(size[i, 0]), float(centres[i]))
            for i, name in enumerate(views)
        }
    except ActionImgError as error:
        raise CorruptDatasetError(str(error), where=where) from None


def is_cameras_npz(path: Path) -> bool:
    """Whether a file is an archive of arrays, by its first bytes."""
    try:
        with open_plain(path) as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise SourceNotFoundError(error.strerror or str(error), where=path) from None


def read_cameras_npz(path: str | Path) -> dict[str, CameraTrack]:
    """The cameras of a ``.cameras.npz`` that was taken out of a shard, or of ``actionimg export window``, by view.

    Raises:
        SourceNotFoundError: There is no such file.
        CorruptDatasetError, BadFileError, UnsafeFileError: It is something else.
    """
    try:
        with open_plain(path) as file:
            data = file.read()
    except OSError as error:
        raise SourceNotFoundError(error.strerror or str(error), where=path) from None
    return tracks_from(load_npz(data, path), path)
