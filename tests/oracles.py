"""Slow, dense, readable forms of what the package computes fast; the tests hold the fast forms against these."""

from __future__ import annotations

import math
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


def depth_colour_dense(metres: float, near: float, far: float) -> tuple[int, int, int]:
    """The colour of a depth: a walk along luma from 64 to 191 and back, over a grid of chroma, 2.5 from run to run."""

    def rgb(luma: float, blue: float, red: float) -> tuple[float, float, float]:
        return luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue

    runs: list[tuple[int, int]] = []
    for blue in range(-128, 129, 8):
        column = [
            (blue, red)
            for red in range(-128, 129, 8)
            if all(0 <= value <= 255 for luma in (64, 191) for value in rgb(luma, blue, red))
        ]
        if runs and column and abs(column[-1][1] - runs[-1][1]) < abs(column[0][1] - runs[-1][1]):
            column.reverse()
        runs += column
    if not near <= metres <= far:
        return 0, 0, 0
    left = math.log(metres / near) / math.log(far / near) * (len(runs) * 129.5 - 2.5)
    for number, (blue, red) in enumerate(runs):
        up = number % 2 == 0
        if left <= 127:
            return tuple(round(v) for v in rgb(64 + left if up else 191 - left, blue, red))  # type: ignore[return-value]
        left -= 127
        if left < 2.5 and number + 1 < len(runs):
            share, (blue2, red2) = left / 2.5, runs[number + 1]
            chroma = blue + share * (blue2 - blue), red + share * (red2 - red)
            return tuple(round(v) for v in rgb(191 if up else 64, *chroma))  # type: ignore[return-value]
        left -= 2.5
    return tuple(round(v) for v in rgb(64 if len(runs) % 2 == 0 else 191, *runs[-1]))  # type: ignore[return-value]


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


def nearest_depth(triangles: FloatArray, K: FloatArray, uv: FloatArray) -> FloatArray:
    """Metres along the optical axis to the nearest of some triangles at each pixel; infinite where there is none.

    Args:
        triangles: ``(F, 3, 3)`` corners in the camera's frame.
        K: ``(3, 3)`` pixels.
        uv: ``(P, 2)`` pixels.
    """
    out = []
    for pixel in uv:
        ray = np.linalg.solve(K, np.append(pixel, 1.0))
        nearest = np.inf
        for a, b, c in triangles:
            # depth * ray = a + s (b - a) + t (c - a).
            matrix = np.stack([ray, a - b, a - c], 1)
            if abs(np.linalg.det(matrix)) > 1e-12:
                depth, s, t = np.linalg.solve(matrix, a)
                if s >= 0 and t >= 0 and s + t <= 1 and depth > 0:
                    nearest = min(nearest, depth)
        out.append(nearest)
    return np.array(out)
