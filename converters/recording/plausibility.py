"""A recording's own streams, for the question whether they can be true (`actionimg_data.plausibility`)."""

from __future__ import annotations

import numpy as np

from ...errors import ActionImgError, AmbiguousSourceError, ImplausibleError
from ...model import Recorded, StreamSamples
from ...plausibility.examine import examine_streams
from ...schemas.plausibility import Limits
from .recording import Recording
from .sync import PoseSamples

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
