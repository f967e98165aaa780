"""Action videos back to a trajectory: blobs, keypoints, one rigid pose a frame, with covariance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DecodeError, FrameCountError, InvalidTrajectoryError
from ..geometry import rotations
from ..geometry.drawing import action_K
from ..model import Camera, CameraTrack, GripperTrajectory
from ..schemas import ActionImageSpec
from . import consensus, openness, pose
from .diagnosis import Diagnosis, Finding, diagnose
from .measure import BlobMeasurements, check_video, measure_views

FloatArray = NDArray[np.float64]
Cameras = Sequence[Camera | CameraTrack] | Mapping[str, Camera | CameraTrack]


class Reason(str, Enum):
    """Why a frame has no pose; `DecodedTrajectory.reason` holds the values."""

    OK = "ok"
    NO_KEYPOINTS = "no-keypoints"
    """No view shows a blob."""
    TOO_FEW_KEYPOINTS = "too-few-keypoints"
    """What is visible does not determine a pose."""
    VIEWS_DISAGREE = "views-disagree"
    """The views contradict each other so far that the pose may be off by a tenth of the axis length or 5 degrees."""
    VIEW_LATE = "view-late"
    """The same, and a lag of one view explains it."""
    FLIPS = "flips"
    """The pose rests on few blobs and is turned away from all its neighbours."""
    TOO_UNCERTAIN = "too-uncertain"
    """The pose is less certain than was asked for."""
    SEVERAL_GRIPPERS = "several-grippers"
    """More than one choice of blobs makes a gripper: which of them belong together is not known."""


@dataclass(frozen=True, eq=False)
class DecodedTrajectory:
    """What action videos say, and how surely.

    The state of ``covariance`` is (x, y, z, rx, ry, rz): translation of the gripper's origin in metres, then a
    rotation vector in radians, both in world axes: the true pose is ``exp([r]) R``, ``p + (x, y, z)``. A pose from
    one view is the one, of up to four that look the same, that moves most smoothly over time; its covariance is that
    of the single view (far larger along the ray) and contains the distance to the alternatives.
    """

    trajectory: GripperTrajectory
    """Poses and openness; NaN where not ``valid``, and openness also where no picture tells it."""
    valid: NDArray[np.bool_]
    """``(T,)``."""
    reason: NDArray[np.str_]
    """``(T,)`` values of `Reason`; `cause` says it in words."""
    covariance: FloatArray
    """``(T, 6, 6)``; NaN where not ``valid``."""
    keypoints: FloatArray
    """``(V, T, 3, 2)`` measured pixels (origin, normal, up); NaN where a channel shows no blob."""
    keypoint_covariance: FloatArray
    """``(V, T, 3, 2, 2)`` square pixels; NaN where a channel shows no blob."""
    keypoint_valid: NDArray[np.bool_]
    """``(V, T, 3)`` whether the channel shows a blob."""
    keypoint_used: NDArray[np.bool_]
    """``(V, T, 3)`` whether the pose rests on it: it was measured, and not found to be wrong."""
    residual: FloatArray
    """``(V, T, 3, 2)`` measured minus reprojected pixels, also of blobs found to be wrong; NaN where unknown."""
    openness_level: FloatArray
    """``(T,)`` pedestal over its height when open, before any threshold; NaN where no picture tells it."""
    trust: FloatArray
    """``(T,)`` in [0, 1]: probability that the pose is right, within a tenth of the axis length (10 mm by default) and
    5 degrees, by its covariance; 0 where not ``valid``. docs/decoding.md has what was stated against what was found."""
    openness_probability: FloatArray
    """``(T,)`` of being open; NaN where no picture tells it."""
    keypoint_free: NDArray[np.bool_]
    """``(V, T, 3)`` whether the keypoint was measured without the spec's width and height (see `FreeBlobs`)."""
    diagnosis: Diagnosis
    """How the clip's pictures differ from the spec, and its views from each other."""

    def __len__(self) -> int:
        return len(self.valid)

    def restricted(self, keep: NDArray[np.bool_]) -> DecodedTrajectory:
        """Without the poses that are not in ``keep`` ``(T,)``; their reason is `Reason.TOO_UNCERTAIN`."""
        drop = self.valid & ~np.asarray(keep)
        t = self.trajectory
        return replace(
            self,
            trajectory=GripperTrajectory(
                np.where(drop[:, None], np.nan, t.position),
                np.where(drop[:, None], np.nan, t.quaternion_xyzw),
                t.openness,
                t.times,
                allow_missing=True,
            ),
            valid=self.valid & ~drop,
            reason=np.where(drop, Reason.TOO_UNCERTAIN.value, self.reason),
            covariance=np.where(drop[:, None, None], np.nan, self.covariance),
            keypoint_used=self.keypoint_used & ~drop[None, :, None],
            residual=np.where(drop[None, :, None, None], np.nan, self.residual),
            trust=np.where(drop, 0.0, self.trust),
        )

    def cause(self, frame: int) -> str:
        """Why a frame has no pose, in a sentence with what the clip shows; empty where it has one."""
        if self.valid[frame]:
            return ""
        text = _CAUSES[Reason(self.reason[frame])]
        shown = [f.text for f in self.diagnosis.findings if f.fatal]
        return f"{text}: {'; '.join(shown)}" if shown else text

    @property
    def views_used(self) -> NDArray[np.int64]:
        """``(T,)`` number of views that the pose rests on; 1 means that continuity chose among solutions."""
        return np.asarray(self.keypoint_used.any(axis=-1).sum(axis=0))

    @property
    def reprojection_rms(self) -> FloatArray:
        """``(T,)`` root mean square length in pixels of the residuals of the keypoints used; NaN where invalid."""
        squared = np.where(self.keypoint_used[..., None], self.residual, 0.0) ** 2
        count = self.keypoint_used.sum(axis=(0, 2))
        with np.errstate(invalid="ignore"):
            rms = np.sqrt(squared.sum(axis=(0, 2, 3)) / np.maximum(count, 1))
        return np.where(self.valid, rms, np.nan)


def decode(
    videos: Any,
    cameras: Camera | CameraTrack | Cameras,
    spec: ActionImageSpec | None = None,
    *,
    times: ArrayLike | None = None,
    fps: float | None = None,
    fix_lag: bool = False,
) -> DecodedTrajectory:
    """Decode action videos of one or more calibrated views.

    This is `measure_blobs` of each view, then `solve`; call these two for a video that is too long for memory.

    Args:
        videos: ``(V, T, H, W, 3)``, or a sequence, or a mapping by view name, of ``(T, H, W, 3)``; RGB, uint8 or
            float in [0, 1].
        cameras: One a view, in the same order or under the same names, of the video's size.
        spec: How the pictures were drawn; the published defaults at the video's size if not given.
        times: ``(T,)`` seconds of the frames; or
        fps: their rate; if neither is given, 1 frame a second.
        fix_lag: Show a view that is found to be late by so much earlier; without it, this is only said.

    Raises:
        DecodeError: Videos, cameras and spec that do not fit each other.
        FrameCountError: Views, cameras or times that differ in number of frames.
        InvalidTrajectoryError: Times that do not increase, or a rate that is not positive.
    """
    if isinstance(videos, Mapping):
        names = list(videos)
        if not isinstance(cameras, Mapping) or set(cameras) != set(names):
            found = ", ".join(map(str, cameras)) if isinstance(cameras, Mapping) else type(cameras).__name__
            raise DecodeError(
                "cameras must be a mapping with the videos' names",
                field="cameras",
                expected=", ".join(map(str, names)),
                found=found,
            )
        views: list[Any] = [videos[n] for n in names]
        listed = [cameras[n] for n in names]
    else:
        if not isinstance(videos, np.ndarray) and not isinstance(videos, Sequence):
            raise DecodeError(
                "is not an array, a sequence or a mapping of videos", field="videos", found=type(videos).__name__
            )
        views, names = list(videos), [f"view {i}" for i in range(len(videos))]
        listed = _camera_list(cameras)
    if not views:
        raise DecodeError("no video", field="videos", expected="at least 1 view", found="0")
    if spec is None:
        shape = np.shape(views[0])
        if len(shape) != 4 or min(shape[1:3]) < 1:
            raise DecodeError("is not an RGB video", where=names[0], expected="(T, H, W, 3)", found=str(shape))
        spec = ActionImageSpec(height=shape[1], width=shape[2])
    checked = [check_video(view, spec, str(name)) for name, view in zip(names, views, strict=True)]
    _check_cameras(listed, len(checked), len(checked[0]), spec)
    for name, view in zip(names, checked, strict=True):
        if len(view) != len(checked[0]):
            raise FrameCountError("views differ in length", where=str(name), expected=len(checked[0]), found=len(view))
    labels = [str(n) for n in names]
    decoded = solve(measure_views(checked, spec), listed, spec, times=times, fps=fps, names=labels, fix_lag=fix_lag)
    notes = [note for name, view in zip(labels, checked, strict=True) for note in _not_finite(name, view)]
    if not notes:
        return decoded
    findings = (*decoded.diagnosis.findings, *notes)
    return replace(decoded, diagnosis=replace(decoded.diagnosis, findings=findings))


def _not_finite(name: str, video: NDArray[Any]) -> list[Finding]:
    if video.dtype == np.uint8:
        return []
    bad = ~np.isfinite(video).all(axis=(1, 2, 3))
    if not bad.any():
        return []
    text = f"{name}: {bad.sum()} frames hold values that are not finite; these count as black"
    return [Finding("not-finite", text, name)]


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
    listed = _camera_list(cameras)
    _check_cameras(listed, len(views), frames, spec)
    seconds = _times(times, fps, frames)
    measured = pose.Measured(
        uv=np.stack([m.uv for m in views], axis=1),
        covariance=np.stack([m.covariance for m in views], axis=1),
        mask=np.stack([m.valid for m in views], axis=1),
        K=np.stack([np.broadcast_to(action_K(c.K, spec, c.pixel_centre), (frames, 3, 3)) for c in listed], axis=1),
        world_from_camera=np.stack([np.broadcast_to(c.world_from_camera, (frames, 4, 4)) for c in listed], axis=1),
    )
    free = consensus.Free(
        uv=np.stack([m.free.uv for m in views], axis=1),
        covariance=np.stack([m.free.covariance for m in views], axis=1),
        valid=np.stack([m.free.valid for m in views], axis=1),
        odd=np.array([m.odd.any() for m in views]),
        mixed=np.array([_mixed(m) for m in views]),
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
        np.array([_blue_height(m) for m in views]),
        np.moveaxis(settled.measured.uv, 1, 0),
        valid,
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


def _mixed(view: BlobMeasurements) -> float:
    """Largest share of a channel in another; 0 of a view that was not asked for it."""
    return float(np.nan_to_num(np.abs(view.free.mixing - np.eye(3))).max())


def _blue_height(view: BlobMeasurements) -> float:
    """Median height of a view's blue blobs; 1 of none."""
    heights = view.free.amplitude[:, 2] if view.odd.any() else view.amplitude[:, 2]
    known = heights[np.isfinite(heights)]
    return float(np.median(known)) if len(known) else 1.0


_CAUSES = {
    Reason.OK: "",
    Reason.NO_KEYPOINTS: "no view shows a blob",
    Reason.TOO_FEW_KEYPOINTS: "what is visible does not determine a pose",
    Reason.VIEWS_DISAGREE: "the views contradict each other too far",
    Reason.VIEW_LATE: "one view is late",
    Reason.FLIPS: "the pose would leap away from its neighbours",
    Reason.TOO_UNCERTAIN: "the pose is less certain than was asked for",
    Reason.SEVERAL_GRIPPERS: "more than one choice of blobs makes a gripper",
}


def _camera_list(cameras: Camera | CameraTrack | Cameras) -> list[Camera | CameraTrack]:
    if isinstance(cameras, (Camera, CameraTrack)):
        return [cameras]
    if isinstance(cameras, Mapping):
        return list(cameras.values())
    return list(cameras)


def _check_cameras(cameras: list[Camera | CameraTrack], views: int, frames: int, spec: ActionImageSpec) -> None:
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


def _times(times: ArrayLike | None, fps: float | None, frames: int) -> FloatArray:
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
