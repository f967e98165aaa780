"""Action videos back to a trajectory: blobs, keypoints, one rigid pose a frame, with covariance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DecodeError, FrameCountError
from ..model import Camera, CameraTrack
from ..schemas import ActionImageSpec
from .arm_blobs import measure_arms
from .arms import Arms, named_arms, solve_arms
from .diagnosis import Finding
from .measure import check_video, measure_views
from .result import DecodedTrajectory
from .solver import Cameras, camera_list, check_cameras, solve


@overload
def decode(
    videos: Any,
    cameras: Camera | CameraTrack | Cameras,
    spec: ActionImageSpec | None = None,
    *,
    times: ArrayLike | None = None,
    fps: float | None = None,
    fix_lag: bool = False,
    arms: None = None,
) -> DecodedTrajectory: ...


@overload
def decode(
    videos: Any,
    cameras: Camera | CameraTrack | Cameras,
    spec: ActionImageSpec | None = None,
    *,
    times: ArrayLike | None = None,
    fps: float | None = None,
    fix_lag: bool = False,
    arms: Arms,
) -> dict[str, DecodedTrajectory]: ...


def decode(
    videos: Any,
    cameras: Camera | CameraTrack | Cameras,
    spec: ActionImageSpec | None = None,
    *,
    times: ArrayLike | None = None,
    fps: float | None = None,
    fix_lag: bool = False,
    arms: Arms | None = None,
) -> DecodedTrajectory | dict[str, DecodedTrajectory]:
    """Decode action videos of one or more calibrated views.

    This is `measure_blobs` of each view, then `solve`; call these two for a video that is too long for memory. Of
    pictures that show several grippers at once (``arms``) it is `measure_arms` and `solve_arms`.

    Args:
        videos: ``(V, T, H, W, 3)``, or a sequence, or a mapping by view name, of ``(T, H, W, 3)``; RGB, uint8 or
            float in [0, 1].
        cameras: One a view, in the same order or under the same names, of the video's size.
        spec: How the pictures were drawn; the published defaults at the video's size if not given.
        times: ``(T,)`` seconds of the frames; or
        fps: their rate; if neither is given, 1 frame a second.
        fix_lag: Show a view that is found to be late by so much earlier; without it, this is only said.
        arms: How many grippers each picture shows (2), or their names, from left to right in the first view when
            all are first seen; or a position ``(3,)`` at the first frame (or ``(T, 3)``, NaN where unknown) by name,
            metres. The answer is then a trajectory for each name, or "0", "1". Frames in which blobs lie on each other
            are refused by name where what is left determines no pose.

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
        listed = camera_list(cameras)
    if not views:
        raise DecodeError("no video", field="videos", expected="at least 1 view", found="0")
    if spec is None:
        shape = np.shape(views[0])
        if len(shape) != 4 or min(shape[1:3]) < 1:
            raise DecodeError("is not an RGB video", where=names[0], expected="(T, H, W, 3)", found=str(shape))
        spec = ActionImageSpec(height=shape[1], width=shape[2])
        for name, view in zip(names, views, strict=True):
            other = np.shape(view) if hasattr(view, "shape") else shape
            if len(other) == len(shape) and other[1:3] != shape[1:3]:
                raise DecodeError(
                    "views differ in size",
                    where=str(name),
                    expected=f"{shape[1]}x{shape[2]} as {names[0]}",
                    found=f"{other[1]}x{other[2]}",
                )
    checked = [check_video(view, spec, str(name)) for name, view in zip(names, views, strict=True)]
    for name, view in zip(names, checked, strict=True):
        if len(view) != len(checked[0]):
            raise FrameCountError(
                "views differ in length",
                where=str(name),
                expected=f"{len(checked[0])} frames as {names[0]}",
                found=len(view),
            )
    check_cameras(listed, len(checked), len(checked[0]), spec)
    labels = [str(n) for n in names]
    notes = [note for name, view in zip(labels, checked, strict=True) for note in _not_finite(name, view)]
    if arms is None:
        decoded = solve(measure_views(checked, spec), listed, spec, times=times, fps=fps, names=labels, fix_lag=fix_lag)
        return _noted(decoded, notes)
    count = len(named_arms(arms, len(checked[0]))[0])
    measured = [measure_arms(view, spec, count) for view in checked]
    apart = solve_arms(measured, listed, spec, arms, times=times, fps=fps, names=labels, fix_lag=fix_lag)
    return {name: _noted(one, notes) for name, one in apart.items()}


def _noted(decoded: DecodedTrajectory, notes: list[Finding]) -> DecodedTrajectory:
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
