"""Action images as uint8: windowed separable Gaussians, written straight into the video.

A blob differs from black only within 3.5 sigma of its centre, and is an outer product of two short profiles there.
Each frame is composed in three small planes and interleaved into the output in one pass, which also paints the
background. What is drawn, and the constants, are those of arXiv 2604.06168 (see `conventions`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from actionimg_data.schemas import ActionImageSpec

from ..errors import InvalidArrayError, InvalidCameraError, InvalidTrajectoryError
from ..geometry import exact, pinhole, rotations
from ..geometry.drawing import action_K, in_picture
from ..model import Camera, CameraTrack, GripperTrajectory
from .keypoints import gripper_keypoints

Cameras: TypeAlias = "Sequence[Camera | CameraTrack] | Mapping[str, Camera | CameraTrack]"
Video: TypeAlias = NDArray[np.uint8]

_CHUNK = 32
"""Frames composed at a time: profiles stay in the cache, and a view of any length needs no more memory."""

_PROFILES = 1024
"""Frames whose profiles are computed at a time where nothing else is held for them."""


def project_keypoints(
    trajectory: GripperTrajectory, cameras: Cameras, spec: ActionImageSpec | None = None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Where the three keypoints of each frame fall in each view.

    Args:
        trajectory: T poses; frames with a missing pose have no valid keypoint.
        cameras: V cameras, fixed or moving, in order (of the mapping).
        spec: Axis length, near plane and picture size; the published ones by default.

    Returns:
        ``uv (V, T, 3, 2)`` in pixels of the action image, 0 where not in front of the near plane, and ``valid
        (V, T, 3)``: the keypoint is drawn. It then lies in front of the near plane, and inside the picture only if the
        spec drops those outside.

    Raises:
        InvalidCameraError: No camera, or one of another picture size than the spec's.
        FrameCountError: A camera track of another length than the trajectory.
    """
    spec = ActionImageSpec() if spec is None else spec
    frames = slice(0, len(trajectory))
    views = [_project(trajectory, camera, spec, frames) for camera in checked_cameras(cameras, len(trajectory), spec)]
    return np.stack([uv for uv, _ in views]), np.stack([valid for _, valid in views])


def render(
    trajectory: GripperTrajectory,
    cameras: Cameras,
    spec: ActionImageSpec | None = None,
    *,
    out: Video | None = None,
    threads: int = 1,
) -> Video:
    """Draw a trajectory into every camera.

    Args:
        trajectory: T poses; a frame with a missing pose is black throughout.
        cameras: V cameras of the spec's picture size, fixed or moving, in order (of the mapping).
        spec: What to draw; the published picture by default.
        out: Array ``(V, T, H, W, 3)`` uint8 to draw into, each picture contiguous; a new one by default.
        threads: Threads to draw with; the result is the same. One by default: two gain little on a quiet machine, and
            wait for each other on a busy one.

    Returns:
        ``(V, T, H, W, 3)`` uint8, RGB. A keypoint at or behind the near plane is not drawn.

    Raises:
        InvalidCameraError: No camera, or one of another picture size than the spec's.
        FrameCountError: A camera track of another length than the trajectory.
        InvalidTrajectoryError: A frame's pose is known and its openness is not.
        InvalidArrayError: ``out`` has another shape or dtype, or ``threads`` is not positive.
    """
    spec = ActionImageSpec() if spec is None else spec
    total = len(trajectory)
    views = checked_cameras(cameras, total, spec)
    out = _output(out, (len(views), total, spec.height, spec.width, 3))
    if threads < 1:
        raise InvalidArrayError("must be positive", field="threads", expected=">= 1", found=threads)
    openness = _drawn_openness(trajectory, spec)
    parts = -(-total // _CHUNK)
    bounds = [total * part // parts for part in range(parts + 1)]
    jobs = [
        (camera, slice(*frames), video) for camera, video in zip(views, out, strict=True) for frames in pairwise(bounds)
    ]
    threads = min(threads, len(jobs))

    def work(first: int) -> None:
        canvas = _Canvas(spec)
        for camera, frames, video in jobs[first::threads]:
            canvas.draw(trajectory, camera, openness, frames, video[frames])

    if threads == 1:
        work(0)
        return out
    with ThreadPoolExecutor(threads) as pool:
        others = [pool.submit(work, first) for first in range(1, threads)]
        work(0)
        for other in others:
            other.result()
    return out


def render_view(
    trajectory: GripperTrajectory,
    camera: Camera | CameraTrack,
    spec: ActionImageSpec | None = None,
    frames: slice = slice(None),
    *,
    out: Video | None = None,
) -> Video:
    """Draw some frames of a trajectory into one camera, in this thread.

    Args:
        trajectory: T poses.
        camera: A camera of the spec's picture size; a `CameraTrack` has T frames.
        spec: What to draw; the published picture by default.
        frames: Which of the T frames.
        out: Array ``(n, H, W, 3)`` uint8 to draw into, e.g. the same one for each part of a long episode.

    Returns:
        ``(n, H, W, 3)`` uint8, RGB: the same bytes as those frames of `render`.

    Raises:
        InvalidCameraError, FrameCountError, InvalidTrajectoryError, InvalidArrayError: As `render`.
    """
    spec = ActionImageSpec() if spec is None else spec
    _check_camera(camera, len(trajectory), spec, "camera")
    indices = range(len(trajectory))[frames]
    out = _output(out, (len(indices), spec.height, spec.width, 3))
    openness = _drawn_openness(trajectory, spec)
    canvas = _Canvas(spec)
    for start in range(0, len(indices), _CHUNK):
        part = indices[start : start + _CHUNK]
        # A range that counts down to 0 stops at -1, which a slice would take for the last element.
        window = slice(part.start, part.stop if part.stop >= 0 else None, part.step)
        canvas.draw(trajectory, camera, openness, window, out[start : start + len(part)])
    return out


def render_planes(
    trajectory: GripperTrajectory,
    camera: Camera | CameraTrack,
    spec: ActionImageSpec | None = None,
    *,
    out: Video | None = None,
) -> Video:
    """`render_view` of all frames with the channels first, which costs little more than the blobs themselves.

    Args:
        trajectory: T poses.
        camera: A camera of the spec's picture size; a `CameraTrack` has T frames.
        spec: What to draw; the published picture by default.
        out: Array ``(3, T, H, W)`` uint8 to draw into, each picture contiguous; it has to be black.

    Returns:
        ``(3, T, H, W)`` uint8: red, green and blue.

    Raises:
        InvalidCameraError, FrameCountError, InvalidTrajectoryError, InvalidArrayError: As `render`.
    """
    spec = ActionImageSpec() if spec is None else spec
    total = len(trajectory)
    _check_camera(camera, total, spec, "camera")
    shape = (3, total, spec.height, spec.width)
    if out is None:
        out = np.zeros(shape, np.uint8)
    elif out.shape != shape or out.dtype != np.uint8 or out.strides[-2:] != (spec.width, 1) or not out.flags.writeable:
        raise InvalidArrayError(
            "does not fit the video", field="out", expected=f"uint8 {shape}", found=f"{out.dtype} {out.shape}"
        )
    openness = _drawn_openness(trajectory, spec)
    canvas = _Canvas(spec)
    for start in range(0, total, _PROFILES):
        frames = slice(start, min(start + _PROFILES, total))
        canvas.draw_planes(trajectory, camera, openness, frames, out[:, frames])
    return out


def render_frames(
    trajectory: GripperTrajectory, camera: Camera | CameraTrack, spec: ActionImageSpec | None = None
) -> Iterator[Video]:
    """The pictures ``(H, W, 3)`` of `render_view` one by one, drawn a few at a time: memory stays flat.

    Raises:
        InvalidCameraError, FrameCountError, InvalidTrajectoryError: As `render`.
    """
    for start in range(0, len(trajectory), _CHUNK):
        yield from render_view(trajectory, camera, spec, slice(start, start + _CHUNK))


class _Canvas:
    """Planes in which a few frames at a time are composed; one for each thread.

    Between two batches the red and green planes are black and the blue ones hold the pedestal alone.
    """

    def __init__(self, spec: ActionImageSpec) -> None:
        self.spec = spec
        # Few enough frames to stay in the cache, enough that Python's own time does not count.
        self.batch = max(1, min(_CHUNK, 2**20 // (spec.height * spec.width)))
        self.pedestals = [0] * self.batch
        # Beyond this many pixels 255 exp(-r^2 / 2 sigma^2) is under half a grey level.
        visible = spec.sigma_px * math.sqrt(2 * math.log(2 * 255))
        disc = min(visible, spec.sigma_px * math.sqrt(-2 * math.log(spec.pedestal)))
        self.radii = (visible, visible, disc)
        self.products = [
            np.empty((self.batch, _span(r, spec.height), _span(r, spec.width)), np.float32) for r in self.radii
        ]

    @cached_property
    def planes(self) -> Video:
        """Those that `draw` composes in."""
        return np.zeros((3, self.batch, self.spec.height, self.spec.width), np.uint8)

    def draw(
        self,
        trajectory: GripperTrajectory,
        camera: Camera | CameraTrack,
        openness: NDArray[np.float64],
        frames: slice,
        out: Video,
    ) -> None:
        """Draw some frames of a trajectory into ``out (n, H, W, 3)``."""
        blobs, openness = self._blobs(trajectory, camera, openness, frames)
        for start in range(0, len(out), self.batch):
            part = slice(start, start + self.batch)
            drawn = self._compose(blobs, openness[part], start, self.planes, self.pedestals)
            for i, picture in enumerate(out[part]):
                cv2.merge(tuple(self.planes[:, i]), picture)
            for patch, below in drawn:
                patch.fill(below)

    def draw_planes(
        self,
        trajectory: GripperTrajectory,
        camera: Camera | CameraTrack,
        openness: NDArray[np.float64],
        frames: slice,
        out: Video,
    ) -> None:
        """Draw some frames of a trajectory into black planes ``out (3, n, H, W)``."""
        blobs, openness = self._blobs(trajectory, camera, openness, frames)
        for start in range(0, out.shape[1], self.batch):
            part = slice(start, start + self.batch)
            self._compose(blobs, openness[part], start, out[:, part], [0] * self.batch)

    def _blobs(
        self,
        trajectory: GripperTrajectory,
        camera: Camera | CameraTrack,
        openness: NDArray[np.float64],
        frames: slice,
    ) -> tuple[list[_Blobs], NDArray[np.float64]]:
        uv, valid = _project(trajectory, camera, self.spec, frames)
        blobs = [_Blobs(uv[:, c], valid[:, c], self.spec, self.radii[c]) for c in range(3)]
        # A missing pose has no valid keypoint: black, once its pedestal is.
        lit = trajectory.known[frames]
        if self.spec.ground == "in_view":
            lit = lit & valid[:, 0] & in_picture(uv[:, 0], self.spec)
        return blobs, np.where(lit, openness[frames], 0.0)

    def _compose(
        self, blobs: list[_Blobs], openness: NDArray[np.float64], first: int, planes: Video, pedestals: list[int]
    ) -> list[tuple[Video, int]]:
        """Set pedestals that are not yet, and draw the blobs; returns their patches and what was below them."""
        for i, value in enumerate(openness.tolist()):
            pedestal = round(255 * self.spec.pedestal * value)
            if pedestal != pedestals[i]:
                planes[2, i].fill(pedestal)
                pedestals[i] = pedestal
        drawn = []
        part = slice(first, first + len(openness))
        for c, blob in enumerate(blobs):
            products = self.products[c][: len(openness)]
            np.einsum("ti,tj->tij", blob.rows[part], blob.columns[part], out=products)
            # A full pedestal meets the blob at its own height: the larger of the two is the picture, without a cut.
            if c == 2 and openness.min() < 1:
                self._cut(products, blob, first)
            for i, product in enumerate(products):
                if blob.seen[first + i]:
                    patch = planes[c, i][blob.windows[first + i]]
                    cv2.convertScaleAbs(product, patch, 255.0)
                    below = pedestals[i] if c == 2 else 0
                    if below:
                        np.maximum(patch, np.uint8(below), out=patch)
                    drawn.append((patch, below))
        return drawn

    def _cut(self, products: NDArray[np.float32], blob: _Blobs, first: int) -> None:
        """Set what is at or under the pedestal to 0, as float64 would decide."""
        pedestal = self.spec.pedestal
        rows = products.reshape(-1, products.shape[2])
        doubtful = cv2.inRange(rows, pedestal * (1 - 1e-5), pedestal * (1 + 1e-5))
        cv2.threshold(rows, pedestal, 0, cv2.THRESH_TOZERO, dst=rows)
        if cv2.countNonZero(doubtful):
            i, y, x = np.nonzero(doubtful.reshape(products.shape))
            outside = exact.exp(-0.5 * blob.squared(first + i, y, x)) <= pedestal
            products[i, y, x] = np.where(outside, 0.0, pedestal)


class _Blobs:
    """The blobs of one channel: windows of one size inside the picture, and the Gaussian's profiles in them.

    Args:
        centre: ``(n, 2)`` pixels; anything, far outside and not finite included.
        valid: ``(n,)`` whether there is one.
        spec: Size and sigma.
        radius: Pixels about the centre that must be drawn.
    """

    def __init__(
        self, centre: NDArray[np.float64], valid: NDArray[np.bool_], spec: ActionImageSpec, radius: float
    ) -> None:
        size = np.array([spec.width, spec.height])
        seen = valid & ((centre > -radius - 1) & (centre < size + radius)).all(-1)
        self.seen: list[bool] = seen.tolist()
        self.sigma = spec.sigma_px
        self.centre = np.where(seen[:, None], centre, 0.0)
        self.span = [_span(radius, n) for n in size.tolist()]
        self.start = np.clip(np.ceil(self.centre - radius), 0, size - self.span).astype(np.intp)
        self.columns, self.rows = self._profile(0), self._profile(1)
        self.windows = [(slice(y, y + self.span[1]), slice(x, x + self.span[0])) for x, y in self.start.tolist()]

    def _profile(self, axis: int) -> NDArray[np.float32]:
        """``(n, span)``: ``exp(-d^2 / 2 sigma^2)`` along x (0) or y (1)."""
        # float32 is enough for distances within a window: 1e-7 of its length.
        offset = (self.start[:, axis] - self.centre[:, axis]).astype(np.float32)
        profile = np.add.outer(offset, np.arange(self.span[axis], dtype=np.float32))
        profile /= np.float32(max(self.sigma, 1e-18))
        profile *= profile
        profile *= np.float32(-0.5)
        return exact.exp_float32(profile)

    def squared(self, i: NDArray[np.intp], y: NDArray[np.intp], x: NDArray[np.intp]) -> NDArray[np.float64]:
        """``r^2 / sigma^2`` in float64 at pixel ``(x, y)`` of the window of blob ``i``."""
        distance = (self.start[i] + np.stack([x, y], axis=-1) - self.centre[i]) / self.sigma
        with np.errstate(over="ignore"):
            return np.asarray(distance[:, 0] ** 2 + distance[:, 1] ** 2)


def _span(radius: float, size: int) -> int:
    """Pixels of a window that holds every pixel within ``radius`` of any centre, at most the picture's."""
    return int(min(size, 2 * math.floor(radius) + 2)) if radius < size else size


def _project(
    trajectory: GripperTrajectory, camera: Camera | CameraTrack, spec: ActionImageSpec, frames: slice
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Pixels ``(n, 3, 2)`` of some frames' keypoints in one view, and ``(n, 3)`` whether they can be drawn."""
    moving = isinstance(camera, CameraTrack)
    K = camera.K[frames] if moving else camera.K
    world_from_camera = camera.world_from_camera[frames] if moving else camera.world_from_camera
    rotation = rotations.matrix_from_quaternion(trajectory.quaternion_xyzw[frames])
    points = gripper_keypoints(trajectory.position[frames], rotation, spec.axis_length)
    uv, _, valid = pinhole.project(points, action_K(K, spec, camera.pixel_centre), world_from_camera, spec.near)
    if spec.outside == "drop":
        valid = valid & in_picture(uv, spec)
    return np.asarray(uv), np.asarray(valid)


def _drawn_openness(trajectory: GripperTrajectory, spec: ActionImageSpec) -> NDArray[np.float64]:
    """``(T,)`` what the pedestal shows of the openness."""
    unknown = trajectory.known & np.isnan(trajectory.openness)
    if unknown.any():
        raise InvalidTrajectoryError(
            "the pose is known and the openness is not",
            field=f"openness[{int(np.argmax(unknown))}]",
            expected="0 … 1",
            found="nan",
            hint="Fill it in, or make the whole frame missing.",
        )
    if spec.openness == "continuous":
        return trajectory.openness
    return (trajectory.openness > spec.openness_threshold).astype(np.float64)


def checked_cameras(cameras: Cameras, frames: int, spec: ActionImageSpec) -> list[Camera | CameraTrack]:
    """The cameras in order, each of the spec's size and the trajectory's length.

    Raises:
        InvalidCameraError: No camera, something else than one, or one of another picture size.
        FrameCountError: A camera track of another length.
    """
    if isinstance(cameras, Mapping):
        named = dict(cameras)
    elif isinstance(cameras, Sequence):
        named = {str(i): camera for i, camera in enumerate(cameras)}
    else:
        raise InvalidCameraError(
            "is neither a sequence nor a mapping of cameras",
            field="cameras",
            found=type(cameras).__name__,
            hint="Give one camera as [camera].",
        )
    if not named:
        raise InvalidCameraError("there is no camera to draw into", field="cameras")
    for name, camera in named.items():
        _check_camera(camera, frames, spec, f"cameras[{name}]")
    return list(named.values())


def _check_camera(camera: object, frames: int, spec: ActionImageSpec, field: str) -> None:
    if not isinstance(camera, (Camera, CameraTrack)):
        raise InvalidCameraError("is not a Camera or CameraTrack", field=field, found=type(camera).__name__)
    if (camera.height, camera.width) != (spec.height, spec.width):
        raise InvalidCameraError(
            "camera and spec differ in picture size",
            field=field,
            expected=f"{spec.height}x{spec.width} (height x width)",
            found=f"{camera.height}x{camera.width}",
            hint=f"Use camera.resized({spec.height}, {spec.width}), or spec.resized(...).",
        )
    if isinstance(camera, CameraTrack):
        camera.track(frames)


def _output(out: Video | None, shape: tuple[int, ...]) -> Video:
    """``out`` where it fits, or a new array."""
    if out is None:
        return np.empty(shape, np.uint8)
    if out.shape != shape or out.dtype != np.uint8:
        raise InvalidArrayError(
            "does not fit the video", field="out", expected=f"uint8 {shape}", found=f"{out.dtype} {out.shape}"
        )
    if out.strides[-3:] != (3 * shape[-2], 3, 1) or not out.flags.writeable:
        raise InvalidArrayError("needs contiguous, writable pictures", field="out", found=f"strides {out.strides}")
    return out
