"""Lens distortion taken out of the pictures, so that a pinhole camera holds for what is drawn on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidCameraError
from ..model import DerivedFrames
from ..model.episode import Plane
from .files import Distortion

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]
_MAX_ROUND_TRIP_PX = 0.5
_BORDER_POINTS = 41


@dataclass(frozen=True, eq=False)
class UndistortedFrames(DerivedFrames):
    """Pictures of ``source`` as the pinhole camera ``new_K`` would have taken them.

    Args:
        source: Pictures as the lens drew them.
        K: ``(3, 3)`` of the lens' calibration.
        distortion: Of the lens.
        new_K: ``(3, 3)`` of the pictures that come out.
    """

    K: FloatArray
    distortion: Distortion
    new_K: FloatArray

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """Undistorted RGB pictures at ``indices``, interpolated bilinearly."""
        x, y = _maps(self.K, self.distortion, self.new_K, self.width, self.height)
        for picture in self.source.frames(indices):
            yield cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


@dataclass(frozen=True, eq=False)
class UndistortedPlanes(DerivedFrames):
    """Depth or masks beside `UndistortedFrames`: of each pixel the source's nearest, 0 where it saw nothing.

    Args:
        source: As the lens drew them, of the size of its pictures.
        K: ``(3, 3)`` of the lens' calibration.
        distortion: Of the lens.
        new_K: ``(3, 3)`` of what comes out. Depth along the camera's axis is the same for both.
    """

    K: FloatArray
    distortion: Distortion
    new_K: FloatArray

    def frames(self, indices: Sequence[int]) -> Iterator[Plane]:
        """Undistorted depth or masks at ``indices``."""
        maps = _maps(self.K, self.distortion, self.new_K, self.width, self.height)
        column, row = (np.rint(m).astype(np.intp) for m in maps)
        inside = (column >= 0) & (column < self.width) & (row >= 0) & (row < self.height)
        column, row = np.where(inside, column, 0), np.where(inside, row, 0)
        for plane in self.source.frames(indices):
            taken = plane[row, column]
            taken[~inside] = 0
            yield taken


def _maps(
    K: FloatArray, distortion: Distortion, new_K: FloatArray, width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where in the lens' picture each pixel of the pinhole's comes from: columns and rows ``(H, W)``."""
    make = cv2.fisheye.initUndistortRectifyMap if distortion.model == "fisheye" else cv2.initUndistortRectifyMap
    coefficients = np.asarray(distortion.coefficients)
    x, y = make(K, coefficients, np.eye(3), new_K, (width, height), cv2.CV_32FC1)
    return x, y


def undistorted_K(K: FloatArray, distortion: Distortion, width: int, height: int, where: object) -> FloatArray:
    """Intrinsics ``(3, 3)`` of the largest undistorted picture of the same size without empty corners.

    Raises:
        InvalidCameraError: The model does not hold over the picture: taking a border point through it and back does
            not return to the point, as happens where polynomial models fold over.
    """
    coefficients = np.asarray(distortion.coefficients, dtype=np.float64)
    border = _border(width, height)
    if distortion.model == "fisheye":
        normal = cv2.fisheye.undistortPoints(border[:, None], K, coefficients)
        back = cv2.fisheye.distortPoints(normal, K, coefficients)
        new_K = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
            K, coefficients, (width, height), np.eye(3), balance=0.0
        )
    else:
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-10)
        normal = cv2.undistortPoints(border[:, None], K, coefficients, None, None, None, criteria)
        rays = np.concatenate([normal[:, 0], np.ones((len(border), 1))], axis=1)
        back = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), K, coefficients)[0]
        new_K, _ = cv2.getOptimalNewCameraMatrix(K, coefficients, (width, height), 0.0)
    error = np.linalg.norm(back.reshape(-1, 2) - border, axis=1)
    holds = np.isfinite(error).all() and error.max() <= _MAX_ROUND_TRIP_PX
    focal = np.asarray(new_K)[[0, 1], [0, 1]] / np.asarray(K)[[0, 1], [0, 1]]
    if not (holds and np.isfinite(new_K).all() and (focal > 0.05).all() and (focal < 20).all()):
        raise InvalidCameraError(
            "the distortion model does not hold over the whole picture",
            where=where,
            field="distortion",
            expected=f"border points that return within {_MAX_ROUND_TRIP_PX} px",
            found=f"{error.max():.3g} px" if np.isfinite(error).all() else "no solution",
            hint="Undistort and crop the pictures first, and give the camera matrix of the result.",
        )
    return np.asarray(new_K, dtype=np.float64)


def _border(width: int, height: int) -> FloatArray:
    x = np.linspace(0, width - 1, _BORDER_POINTS)
    y = np.linspace(0, height - 1, _BORDER_POINTS)
    sides = [
        np.stack([x, np.zeros_like(x)], 1),
        np.stack([x, np.full_like(x, height - 1)], 1),
        np.stack([np.zeros_like(y), y], 1),
        np.stack([np.full_like(y, width - 1), y], 1),
    ]
    return np.concatenate(sides)
