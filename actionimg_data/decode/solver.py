"""From the measurements of each view to a trajectory with its uncertainty, and the checks of what belongs to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DecodeError, FrameCountError, InvalidTrajectoryError
from ..geometry import rotations
from ..geometry.drawing import action_K
from ..model import Camera, CameraTrack, GripperTrajectory
from ..schemas import ActionImageSpec
from . import consensus, lighting, openness, pose
from .diagnosis import diagnose
from .measure import BlobMeasurements
from .result import DecodedTrajectory, Reason

FloatArray = NDArray[np.float64]
Cameras = Sequence[Camera | CameraTrack] | Mapping[str, Camera | CameraTrack]


def solve(
    measurements: Sequence[BlobMeasurements],
    cameras: Camera | CameraTrack | Cameras,
    spec: ActionImageSpec,
    *,
    times: ArrayLike | None = None,
    fps: float | None = None,
    names: Sequence[str] | None = None,
    fix_lag: bool = False,
) -> DecodedTrajectory:
    """Poses from the measurements of each view (see `measure_blobs`); arguments and errors as for `decode`.

    ``names`` are the views' for the diagnosis; of a mapping of cameras its keys, else "view 0" and so on.
    """
    views = list(measurements)
    keys = list(names) if names is not None else list(cameras) if isinstance(cameras, Mapping) else []
    labels = [str(n) for n in keys] if len(keys) == len(views) else [f"view {i}" for i in range(len(views))]
    if not views:
        raise DecodeError("no measurements", field="measurements", expected="at least 1 view", found="0")
    frames = len(views[0])
    for i, view in enumerate(views):
        if len(view) != frames:
            raise FrameCountError("views differ in length", where=f"view {i}", expected=frames, found=len(view))
    listed = camera_list(cameras)
    check_cameras(listed, len(views), frames, spec)
    seconds = frame_times(times, fps, frames)
    even = [_in_even_light(m, spec) for m in views]
    measured = pose.Measured(
        uv=np.stack([m.uv for m in even], axis=1),
        covariance=np.stack([m.covariance for m in even], axis=1),
        mask=np.stack([m.valid for m in views], axis=1),
        K=np.stack([np.broadcast_to(action_K(c.K, spec, c.pixel_centre), (frames, 3, 3)) for c in listed], axis=1),
        world_from_camera=np.stack([np.broadcast_to(c.world_from_camera, (frames, 4, 4)) for c in listed], axis=1),
    )
    free = consensus.Free(
        uv=np.stack([m.free.uv for m in views], axis=1),
        covariance=np.stack([m.free.covariance for m in views], axis=1),
        valid=np.stack([m.free.valid for m in views], axis=1),
        odd=np.array([m.odd.any() for m in views]),
    )
    another = np.stack([m.another for m in views]).sum(axis=(0, -1)) > 1
    structure = np.stack([m.structure for m in views], axis=1)
    verdict = consensus.verdict(measured, free, another, structure, seconds, spec, fix_lag)
    found, settled = verdict.judged, verdict.settled
    ok = found.consistent & ~settled.several
    valid = np.moveaxis(settled.measured.mask, 1, 0)
    reason = np.full(frames, Reason.OK.value, dtype="<U24")
    late = Reason.VIEW_LATE if verdict.lag and not fix_lag else Reason.VIEWS_DISAGREE
    reason[found.determined & ~ok] = late.value
    reason[found.flips] = Reason.FLIPS.value
    reason[~found.determined] = Reason.TOO_FEW_KEYPOINTS.value
    reason[settled.several | (another & ~ok)] = Reason.SEVERAL_GRIPPERS.value
    reason[~valid.any(axis=(0, 2))] = Reason.NO_KEYPOINTS.value
    opened = openness.openness_of_clip(
        np.stack([m.pedestal for m in views]),
        np.stack([m.pedestal_samples for m in views]),
        np.stack([m.ground for m in views]),
        np.array([_pedestal_height(m, spec) for m in views]),
        np.moveaxis(settled.measured.uv, 1, 0),
        valid,
        consensus.blue_in_picture(verdict, spec),
        spec,
    )
    trajectory = GripperTrajectory(
        np.where(ok[:, None], found.translation, np.nan),
        np.where(ok[:, None], rotations.quaternion_from_matrix(found.rotation), np.nan),
        opened.openness,
        seconds,
        allow_missing=True,
    )
    uv = np.moveaxis(settled.measured.uv, 1, 0)
    spread = np.moveaxis(settled.measured.covariance, 1, 0)
    return DecodedTrajectory(
        trajectory=trajectory,
        valid=ok,
        reason=reason,
        covariance=np.where(ok[:, None, None], found.covariance, np.nan),
        keypoints=np.where(valid[..., None], uv, np.nan),
        keypoint_covariance=np.where(valid[..., None, None], spread, np.nan),
        keypoint_valid=valid,
        keypoint_used=np.moveaxis(found.used & ok[:, None, None], 0, 1),
        residual=np.moveaxis(np.where(ok[:, None, None, None], found.residual, np.nan), 0, 1),
        openness_level=opened.level,
        trust=np.where(ok, found.trust, 0.0),
        openness_probability=opened.probability,
        keypoint_free=np.moveaxis(settled.source > 0, 1, 0),
        diagnosis=diagnose(views, labels, verdict, opened, spec),
    )


def _in_even_light(view: BlobMeasurements, spec: ActionImageSpec) -> BlobMeasurements:
    """The view's blobs where they would be if it were equally bright everywhere; see `lighting`.

    Not where pictures are unlike the spec's in other ways: what shines through makes heights differ by place as well.
    """
    if view.odd.any():
        return view
    shape = np.broadcast_to(spec.sigma_px**2 * np.eye(2), (3, 2, 2))
    shift, spread = lighting.moved(view.uv, view.amplitude, view.pedestal, shape, view.valid, (spec.height, spec.width))
    return replace(view, uv=view.uv - shift, covariance=view.covariance + spread)


def _pedestal_height(view: BlobMeasurements, spec: ActionImageSpec) -> float:
    """Height of a view's pedestal when open: as its blue blobs show it, or in proportion to their median height."""
    shown = view.free.pedestal[np.isfinite(view.free.pedestal)]
    heights = view.free.amplitude[:, 2] if view.odd.any() else view.amplitude[:, 2]
    known = heights[np.isfinite(heights)]
    seen = float(np.median(shown)) if view.odd.any() and len(shown) else None
    return openness.height_when_open(float(np.median(known)) if len(known) else 1.0, seen, spec)


def camera_list(cameras: Camera | CameraTrack | Cameras) -> list[Camera | CameraTrack]:
    """Cameras in order, however they are given."""
    if isinstance(cameras, (Camera, CameraTrack)):
        return [cameras]
    if isinstance(cameras, Mapping):
        return list(cameras.values())
    return list(cameras)


def check_cameras(cameras: list[Camera | CameraTrack], views: int, frames: int, spec: ActionImageSpec) -> None:
    """Refuse cameras that are not one a view, of the pictures' size and of the video's length."""
    if len(cameras) != views:
        raise DecodeError("one camera a view is needed", field="cameras", expected=views, found=len(cameras))
    for i, camera in enumerate(cameras):
        if not isinstance(camera, (Camera, CameraTrack)):
            raise DecodeError(
                "is not a camera", field=f"cameras[{i}]", expected="Camera or CameraTrack", found=type(camera).__name__
            )
        if (camera.height, camera.width) != (spec.height, spec.width):
            raise DecodeError(
                "camera is for another picture size",
                field=f"cameras[{i}]",
                expected=f"{spec.height}x{spec.width}",
                found=f"{camera.height}x{camera.width}",
                hint="Give camera.resized(height, width) where the video is a centre crop and scaling of its picture.",
            )
        if isinstance(camera, CameraTrack):
            camera.track(frames)


def frame_times(times: ArrayLike | None, fps: float | None, frames: int) -> FloatArray:
    """Seconds ``(T,)`` of the frames, from times or a rate."""
    if times is not None and fps is not None:
        raise DecodeError("times and fps exclude each other", field="times, fps")
    if times is None:
        rate = 1.0 if fps is None else float(fps)
        if not (np.isfinite(rate) and rate > 0):
            raise InvalidTrajectoryError("must be positive", field="fps", found=fps)
        return np.arange(frames) / rate
    seconds = np.asarray(times, dtype=np.float64)
    if seconds.shape != (frames,):
        raise FrameCountError("one time a frame is needed", field="times", expected=f"({frames},)", found=seconds.shape)
    if not np.isfinite(seconds).all() or (np.diff(seconds) <= 0).any():
        raise InvalidTrajectoryError("must be finite and increase", field="times")
    return seconds
