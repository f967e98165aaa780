"""Pinhole cameras: fixed, or moving with time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FrameCountError, InvalidCameraError
from ..geometry import crop, pinhole, transforms
from . import checks

FloatArray = NDArray[np.float64]


def _pixel_centre(value: float) -> float:
    if value not in (0, 0.5):
        raise InvalidCameraError("bad value", field="pixel_centre", expected="0 | 0.5", found=value)
    return float(value)


@dataclass(frozen=True, eq=False)
class Camera:
    """A fixed pinhole camera with OpenCV axes.

    Args:
        K: ``(3, 3)`` intrinsics in pixels, positive focal lengths, for a picture that spans ``[0, W] x [0, H]``.
        world_from_camera: ``(4, 4)`` pose of the camera in the world, metres. Rounding (up to 1e-4 in
            ``RᵀR``) is removed.
        width: Picture width in pixels.
        height: Picture height in pixels.
        pixel_centre: Where K has the centre of the first pixel: 0.5, for a picture that spans ``[0, W] x [0, H]``
            (simulators), or 0 (OpenCV, ROS, RealSense). It decides where the principal point lies when the picture is
            scaled.

    Raises:
        InvalidCameraError: A value cannot be that of a camera.
    """

    K: FloatArray
    world_from_camera: FloatArray
    width: int
    height: int
    pixel_centre: float

    def __init__(
        self, K: ArrayLike, world_from_camera: ArrayLike, width: int, height: int, pixel_centre: float = 0.5
    ) -> None:
        K = checks.float_array(K, (3, 3), "K", InvalidCameraError)
        checks.intrinsics(K)
        pose = checks.float_array(world_from_camera, (4, 4), "world_from_camera", InvalidCameraError)
        object.__setattr__(self, "K", K)
        object.__setattr__(self, "world_from_camera", checks.rigid(pose, "world_from_camera", InvalidCameraError))
        object.__setattr__(self, "width", checks.size(width, "width", InvalidCameraError))
        object.__setattr__(self, "height", checks.size(height, "height", InvalidCameraError))
        object.__setattr__(self, "pixel_centre", _pixel_centre(pixel_centre))

    @classmethod
    def looking_at(
        cls,
        eye: ArrayLike,
        target: ArrayLike,
        width: int,
        height: int,
        *,
        vertical_fov_deg: float | None = None,
        horizontal_fov_deg: float | None = None,
        up: ArrayLike = (0.0, 0.0, 1.0),
    ) -> Camera:
        """A camera as simulators state it: where it is, what it looks at, and its field of view.

        Pixels are square, and the axis goes through the middle of the picture.

        Args:
            eye: ``(3,)`` the camera's place in the world, metres.
            target: ``(3,)`` a point in the middle of its picture.
            width: Picture width in pixels.
            height: Picture height in pixels.
            vertical_fov_deg: From the upper to the lower border, degrees (PyBullet, MuJoCo, OpenGL); or
            horizontal_fov_deg: from the left to the right one. One of the two.
            up: ``(3,)`` the direction in the world that is up in the picture.

        Raises:
            InvalidCameraError: Not one field of view, one outside of 0 … 180 degrees, or a camera that looks along
                ``up`` or at its own place.

        Example:
            >>> Camera.looking_at((1.0, 0.0, 0.5), (0.0, 0.0, 0.2), 200, 200, vertical_fov_deg=60).K[0, 0].round(2)
            173.21
        """
        given = [f for f in (vertical_fov_deg, horizontal_fov_deg) if f is not None]
        if len(given) != 1 or not 0 < given[0] < 180:
            raise InvalidCameraError(
                "needs one field of view",
                field="vertical_fov_deg, horizontal_fov_deg",
                expected="one of them, 0 … 180 degrees",
                found=f"{vertical_fov_deg}, {horizontal_fov_deg}",
            )
        places = [
            checks.float_array(value, (3,), name, InvalidCameraError)
            for name, value in (("eye", eye), ("target", target), ("up", up))
        ]
        pose = transforms.look_at(*places)
        if not np.isfinite(pose).all():
            raise InvalidCameraError(
                "looks along the picture's up, or at its own place",
                field="eye, target, up",
                found=", ".join(str(p.tolist()) for p in places),
            )
        pixels = checks.size(height if vertical_fov_deg is not None else width, "size", InvalidCameraError)
        K = pinhole.intrinsics(pinhole.focal_of(given[0], pixels), width, height)
        return cls(K, pose, width, height)

    def track(self, num_frames: int) -> CameraTrack:
        """This camera standing still for ``num_frames`` frames."""
        return CameraTrack(
            np.broadcast_to(self.K, (num_frames, 3, 3)),
            np.broadcast_to(self.world_from_camera, (num_frames, 4, 4)),
            self.width,
            self.height,
            self.pixel_centre,
        )

    def resized(self, height: int, width: int) -> Camera:
        """The camera of its picture centre-cropped to the aspect of ``height x width`` and scaled to that size."""
        return self._changed(crop.center_crop(self.height, self.width, height, width))

    def cropped(self, box: tuple[int, int, int, int]) -> Camera:
        """The camera of the part ``box = (left, top, width, height)``, in pixels, of its picture.

        Raises:
            InvalidArrayError: The box is not inside the picture.
        """
        return self._changed(crop.box_crop(self.height, self.width, box))

    def center_cropped(self, height: int, width: int) -> Camera:
        """The camera of the centred ``height x width`` pixels of its picture, which are not scaled (see `resized`).

        Raises:
            InvalidArrayError: The picture is smaller.
        """
        return self._changed(crop.center_box(self.height, self.width, height, width))

    def _changed(self, change: crop.CropResize) -> Camera:
        K = crop.apply_to_K(self.K, change, self.pixel_centre)
        return Camera(K, self.world_from_camera, change.width, change.height, self.pixel_centre)

    def project(self, points_world: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Pixels ``(N, 2)`` of world points ``(N, 3)`` and which of them lie in front of the camera ``(N,)``."""
        points = checks.float_array(points_world, (None, 3), "points_world", InvalidCameraError, finite=False)
        uv, _, valid = pinhole.project(points, self.K, self.world_from_camera)
        return uv, valid


@dataclass(frozen=True, eq=False)
class CameraTrack:
    """A pinhole camera over time, moving or not.

    Args:
        K: ``(T, 3, 3)`` intrinsics of each frame.
        world_from_camera: ``(T, 4, 4)`` pose of each frame.
        width: Picture width in pixels.
        height: Picture height in pixels.
        pixel_centre: Where K has the centre of the first pixel: 0.5, for a picture that spans ``[0, W] x [0, H]``
            (simulators), or 0 (OpenCV, ROS, RealSense). It decides where the principal point lies when the picture is
            scaled.

    Raises:
        InvalidCameraError: A value cannot be that of a camera.
    """

    K: FloatArray
    world_from_camera: FloatArray
    width: int
    height: int
    pixel_centre: float

    def __init__(
        self, K: ArrayLike, world_from_camera: ArrayLike, width: int, height: int, pixel_centre: float = 0.5
    ) -> None:
        K = checks.float_array(K, (None, 3, 3), "K", InvalidCameraError)
        checks.intrinsics(K)
        pose = checks.float_array(world_from_camera, (None, 4, 4), "world_from_camera", InvalidCameraError)
        if len(K) != len(pose) or len(K) == 0:
            raise InvalidCameraError(
                "K and world_from_camera must have the same, positive number of frames",
                found=f"{len(K)} and {len(pose)}",
            )
        object.__setattr__(self, "K", K)
        object.__setattr__(self, "world_from_camera", checks.rigid(pose, "world_from_camera", InvalidCameraError))
        object.__setattr__(self, "width", checks.size(width, "width", InvalidCameraError))
        object.__setattr__(self, "height", checks.size(height, "height", InvalidCameraError))
        object.__setattr__(self, "pixel_centre", _pixel_centre(pixel_centre))

    def __len__(self) -> int:
        return len(self.K)

    @overload
    def __getitem__(self, index: int) -> Camera: ...
    @overload
    def __getitem__(self, index: slice | NDArray[np.intp]) -> CameraTrack: ...
    def __getitem__(self, index: int | slice | NDArray[np.intp]) -> Camera | CameraTrack:
        kind = Camera if isinstance(index, (int, np.integer)) else CameraTrack
        return kind(self.K[index], self.world_from_camera[index], self.width, self.height, self.pixel_centre)

    @property
    def is_static(self) -> bool:
        """Whether the camera is the same in every frame."""
        return bool((self.K[0] == self.K).all() and (self.world_from_camera == self.world_from_camera[0]).all())

    def track(self, num_frames: int) -> CameraTrack:
        """Itself; refused with `FrameCountError` where its length is another than ``num_frames``."""
        if len(self) != num_frames:
            raise FrameCountError("camera track and trajectory differ in length", expected=num_frames, found=len(self))
        return self

    def resized(self, height: int, width: int) -> CameraTrack:
        """The camera of its pictures centre-cropped to the aspect of ``height x width`` and scaled to that size."""
        return self._changed(crop.center_crop(self.height, self.width, height, width))

    def cropped(self, box: tuple[int, int, int, int]) -> CameraTrack:
        """The camera of the part ``box = (left, top, width, height)``, in pixels, of its pictures.

        Raises:
            InvalidArrayError: The box is not inside the picture.
        """
        return self._changed(crop.box_crop(self.height, self.width, box))

    def center_cropped(self, height: int, width: int) -> CameraTrack:
        """The camera of the centred ``height x width`` pixels of its pictures, which are not scaled (see `resized`).

        Raises:
            InvalidArrayError: The pictures are smaller.
        """
        return self._changed(crop.center_box(self.height, self.width, height, width))

    def _changed(self, change: crop.CropResize) -> CameraTrack:
        K = crop.apply_to_K(self.K, change, self.pixel_centre)
        return CameraTrack(K, self.world_from_camera, change.width, change.height, self.pixel_centre)
