"""What a calibration says of a camera, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingCalibrationError
from ..model import Camera, CameraTrack
from ..schemas.camera_file import CameraOrigin, Resized

FloatArray = NDArray[np.float64]
_NO_DISTORTION = 1e-12


@dataclass(frozen=True)
class Distortion:
    """Lens distortion in OpenCV's pinhole or fisheye model.

    Args:
        model: ``pinhole`` or ``fisheye``.
        coefficients: In OpenCV's order: 4, 5, 8, 12 or 14 of them; fisheye 4.
    """

    model: str
    coefficients: tuple[float, ...]

    @property
    def is_zero(self) -> bool:
        """Whether the lens does not distort in this model (a fisheye always bends, even with zeros)."""
        return self.model == "pinhole" and all(abs(c) < _NO_DISTORTION for c in self.coefficients)


@dataclass(frozen=True, eq=False)
class CalibratedCamera:
    """What a calibration file knows of one camera; axes are OpenCV's.

    Args:
        K: ``(3, 3)`` pixels, before undistortion.
        width: Of the pictures K is for.
        height: Of the pictures K is for.
        world_from_camera: ``(4, 4)``, ``(T, 4, 4)`` for a moving camera, or None where the file has no pose.
        tool_from_camera: ``(4, 4)`` of a camera that is fixed to the end-effector, else None.
        reference_from_camera: ``(4, 4)`` in the frame of the calibration's first camera (Kalibr chains), else None.
        distortion: Of the lens, or None.
        pixel_centre: Where K has the centre of the first pixel: 0 (OpenCV, ROS, RealSense), or 0.5 for a picture that
            spans ``[0, width] x [0, height]`` (simulators).
        origin: Where it comes from, if not from a calibration.
        resized: How pictures were made smaller since the calibration (`scaled_to`), where that is known.
    """

    K: FloatArray
    width: int
    height: int
    world_from_camera: FloatArray | None = None
    tool_from_camera: FloatArray | None = None
    reference_from_camera: FloatArray | None = None
    distortion: Distortion | None = None
    pixel_centre: float = 0.0
    origin: CameraOrigin | None = None
    resized: Resized | None = None

    def camera(self, where: object) -> Camera | CameraTrack:
        """The pinhole camera; `MissingCalibrationError` where the file has no pose of it in the world."""
        if self.world_from_camera is None:
            raise MissingCalibrationError("the camera's pose is not known", where=where, field="world_from_camera")
        if self.world_from_camera.ndim == 2:
            return Camera(self.K, self.world_from_camera, self.width, self.height, self.pixel_centre)
        n = len(self.world_from_camera)
        K = np.broadcast_to(self.K, (n, 3, 3))
        return CameraTrack(K, self.world_from_camera, self.width, self.height, self.pixel_centre)
