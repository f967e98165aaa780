"""The parts of a published training sample: grey levels, pictures at a size, cameras in their axes, rays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ..geometry.axes import rotate_half_turn
from ..geometry.crop import CropResize
from ..geometry.pluecker import pluecker_rays
from ..model import CameraTrack

LEVELS: Final = torch.arange(256, dtype=torch.float32).div(255).sub(0.5).div(0.5).numpy()
"""A grey level in [-1, 1], in the operations and the order of the published code."""


def resized_picture(frame: NDArray[np.uint8], change: CropResize) -> NDArray[np.uint8]:
    """A picture cropped and scaled bilinearly with antialiasing, as the published code does with Pillow."""
    if change.is_identity and frame.shape[:2] == (change.height, change.width):
        return frame
    box = frame[change.top : change.top + change.crop_height, change.left : change.left + change.crop_width]
    planes = torch.from_numpy(box).permute(2, 0, 1)[None]
    scaled = F.interpolate(planes, size=(change.height, change.width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(scaled[0].permute(1, 2, 0).numpy())


def camera_arrays(
    cameras: Sequence[CameraTrack], count: int, axes: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intrinsics ``(V, T, 3, 3)`` and camera-to-world ``(V, T, 4, 4)`` in the axes of ``axes`` (rlbench or opencv).

    Frames past a camera's last keep it.
    """
    held = np.minimum(np.arange(count), len(cameras[0]) - 1)
    intrinsics = np.stack([camera.K for camera in cameras])[:, held]
    extrinsics = np.stack([camera.world_from_camera for camera in cameras])[:, held]
    if axes == "rlbench":
        intrinsics, extrinsics = rotate_half_turn(intrinsics, extrinsics)
    return intrinsics, extrinsics


def plucker_video(
    relative: NDArray[np.float64],
    intrinsics: NDArray[np.float64],
    cameras: Sequence[CameraTrack],
    height: int,
    width: int,
) -> torch.Tensor:
    """Rays ``(6, V T, H, W)`` float32 of cameras at ``relative (V, T, 4, 4)`` to the first one's frame 0."""
    views, count = intrinsics.shape[:2]
    out = torch.empty((6, views, count, height, width))
    for i, camera in enumerate(cameras):
        # The rays of a camera that stands still are computed once.
        still = camera.is_static and (relative[i] == relative[i, 0]).all()
        frames = slice(0, 1) if still else slice(None)
        pose, K = float_tensor(relative[i, frames, :3]), float_tensor(intrinsics[i, frames])
        out[:, i] = pluecker_rays(K, pose, height, width).movedim(1, 0)
    return out.flatten(1, 2)


def float_tensor(array: NDArray[np.float64]) -> torch.Tensor:
    """An array as a float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
