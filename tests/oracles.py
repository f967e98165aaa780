"""Slow, dense, readable forms of what the package computes fast; the tests hold the fast forms against these."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from actionimg_data.model import Camera, CameraTrack, GripperTrajectory
from actionimg_data.schemas import ActionImageSpec

FloatArray = NDArray[np.float64]


def project_dense(
    trajectory: GripperTrajectory, camera: Camera | CameraTrack, spec: ActionImageSpec, frame: int
) -> list[tuple[float, float] | None]:
    """Pixel of the red, green and blue keypoint of one frame; None where it cannot be seen."""
    K = camera.K[frame] if isinstance(camera, CameraTrack) else camera.K
    pose = camera.world_from_camera[frame] if isinstance(camera, CameraTrack) else camera.world_from_camera
    rotation = Rotation.from_quat(trajectory.quaternion_xyzw[frame])
    pixels: list[tuple[float, float] | None] = []
    for direction in ([0, 0, 0], [1, 0, 0], [0, 0, -1]):
        world = trajectory.position[frame] + rotation.apply(spec.axis_length * np.array(direction, float))
        x, y, z = (np.linalg.inv(pose) @ [*world, 1.0])[:3]
        if z <= spec.near:
            pixels.append(None)
            continue
        u, v, w = K @ [x / z, y / z, 1.0]
        pixels.append(
            (
                index_dense(u / w, spec.width, camera.pixel_centre, spec),
                index_dense(v / w, spec.height, camera.pixel_centre, spec),
            )
        )
    return pixels


def index_dense(value: float, size: int, pixel_centre: float, spec: ActionImageSpec) -> float:
    """Pixel index in the action image of what K projects to ``value`` along an axis of ``size`` pixels."""
    from_border = value - pixel_centre + 0.5
    from_border = size / 2 + (from_border - size / 2) / spec.fov_scale
    return from_border - 0.5 if spec.pixel_centre == "true" else from_border - 0.5 + pixel_centre


def inside_dense(pixel: tuple[float, float] | None, spec: ActionImageSpec) -> bool:
    """Whether a keypoint is in the picture."""
    if pixel is None:
        return False
    border = 0.5 if spec.pixel_centre == "true" else 0.0
    return 0 <= pixel[0] + border < spec.width and 0 <= pixel[1] + border < spec.height


def draw_dense(pixels: Sequence[tuple[float, float] | None], openness: float, spec: ActionImageSpec) -> FloatArray:
    """One picture ``(H, W, 3)`` in [0, 1] of three keypoints, by the table in the design."""
    sigma = spec.sigma * min(spec.height, spec.width)
    y, x = np.mgrid[: spec.height, : spec.width].astype(float)
    picture = np.zeros((spec.height, spec.width, 3))
    for channel, pixel in enumerate(pixels):
        if pixel is not None and (spec.outside == "keep" or inside_dense(pixel, spec)):
            u, v = pixel
            with np.errstate(over="ignore"):
                picture[..., channel] = np.exp(-0.5 * (((x - u) / sigma) ** 2 + ((y - v) / sigma) ** 2))
    if spec.openness == "binary":
        openness = float(openness > spec.openness_threshold)
    if spec.ground == "in_view" and not inside_dense(pixels[0], spec):
        openness = 0.0
    blue = picture[..., 2]
    blue[blue <= spec.pedestal] = spec.pedestal * openness
    return picture


def render_dense(
    trajectory: GripperTrajectory, cameras: Sequence[Camera | CameraTrack], spec: ActionImageSpec
) -> FloatArray:
    """Action videos ``(V, T, H, W, 3)`` in [0, 1]; frames with a missing pose are black."""
    out = np.zeros((len(cameras), len(trajectory), spec.height, spec.width, 3))
    for view, camera in enumerate(cameras):
        for frame in range(len(trajectory)):
            if np.isfinite(trajectory.position[frame]).all():
                pixels = project_dense(trajectory, camera, spec, frame)
                out[view, frame] = draw_dense(pixels, trajectory.openness[frame], spec)
    return out
