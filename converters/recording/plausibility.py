"""A recording's own streams, for the question whether they can be true (`actionimg_data.plausibility`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import ActionImgError, AmbiguousSourceError, ImplausibleError
from ...model import FrameSource, Recorded, StreamSamples
from ...plausibility.examine import examine_streams
from ...schemas.plausibility import Finding, Limits
from ...video import VideoFrames
from .recording import Recording
from .sync import PoseSamples

FloatArray = NDArray[np.float64]
_ABOUT_STAMPS = ("coarse-stamps", "equal-stamps", "zero-stamps", "clock-offset")


def recorded(recording: Recording) -> Recorded:
    """The streams as they were logged, and what reading them has shown."""
    streams: dict[str, StreamSamples] = {}
    made_up = recording.rows_fps is not None
    findings = list(recording.findings)
    for name, arm in recording.arms.items():
        of = f" of {name}" if name else ""
        streams[f"pose{of}"] = _logged(arm.poses, made_up)
        streams[f"gripper{of}"] = StreamSamples(
            "gripper", arm.openness.times, values=arm.openness.values, made_up=made_up
        )
        findings += arm.poses.findings
    for name, view in recording.views.items():
        if view.times is not None:
            streams[name] = StreamSamples("pictures", view.times, made_up=made_up or view.assumed)
        if view.poses is not None:
            streams[f"pose of the camera {name}"] = _logged(view.poses, made_up)
            findings += view.poses.findings
    tools = {name: float(np.linalg.norm(arm.tool_from_gripper[:3, 3])) for name, arm in recording.arms.items()}
    return Recorded(streams, tuple(f.model_copy(update={"episode": recording.id}) for f in findings), tools)


def _logged(poses: PoseSamples, made_up: bool) -> StreamSamples:
    return StreamSamples("pose", poses.times, poses.position, poses.quaternion_xyzw, made_up=made_up)


def video_findings(name: str, frames: FrameSource, times: FloatArray, made_up: bool, limits: Limits) -> list[Finding]:
    """Where a video's own stamps contradict those that are stated for its pictures.

    Recorders often write a constant rate of their own into the container, so that only what it says beside that
    counts: gaps at which the stated stamps go on, and, where these are made from a rate, another rate.

    Args:
        name: Of the view.
        frames: The video; of other pictures nothing is said.
        times: ``(N,)`` the stated stamps of its pictures, in seconds.
        made_up: They are made from a stated rate.
        limits: What is plausible.
    """
    own = frames.times if isinstance(frames, VideoFrames) else None
    if own is None or len(own) != len(times) or len(own) < 3:
        return []
    periods, stated = np.diff(own), np.diff(times)
    median, stated_median = float(np.median(periods)), float(np.median(stated))
    if median <= 0 or stated_median <= 0:
        return []

    def finding(rows: tuple[int, int] | None, found: str, expected: str) -> list[Finding]:
        return [Finding(kind="video-times", episode="", stream=name, rows=rows, found=found, expected=expected)]

    if made_up and abs(stated_median / median - 1) > limits.video_rate:
        return finding(None, f"the video runs at {1 / median:.4g} Hz", f"{1 / stated_median:.4g} Hz, as is stated")
    gaps = np.flatnonzero((periods > 1.5 * median) & (stated < 1.25 * stated_median))
    if len(gaps):
        lost = int(np.rint(periods[gaps] / median - 1).sum())
        return finding(
            (int(gaps[0]), int(gaps[-1]) + 1),
            f"the video's own stamps have {len(gaps)} gaps, as if {lost} pictures were missing",
            "stated stamps with the same gaps; the video has its own: time.video: true",
        )
    return []


def explained(error: ActionImgError, recording: Recording) -> ActionImgError:
    """Why streams could not be brought together, where their stamps tell more than that they do not fit."""
    if isinstance(error, AmbiguousSourceError):
        return error.at(recording.id)
    every = examine_streams(dict(recorded(recording).streams), Limits(), recording.id)
    found = [f for f in every if f.kind in _ABOUT_STAMPS]
    if not found:
        return error.at(recording.id)
    return ImplausibleError(
        f"{found[0].kind}: {found[0].found}",
        where=recording.id,
        field=found[0].stream,
        expected=found[0].expected,
        hint=f"So its streams cannot be brought together: {error.message}.",
        findings=found,
    )
