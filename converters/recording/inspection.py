"""What a recording's streams say of their stamps, and what `actionimg inspect` shows of a mapped log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ActionImgError
from ...model import EpisodeRef
from ..base import Streams
from .offset import estimate_offset
from .recording import Recording
from .sync import statistics


def recorded_streams(recording: Recording) -> Streams:
    """Rates, jitter, gaps and drops of poses, grippers and pictures."""
    found: dict[str, dict[str, Any]] = {}
    times: dict[str, NDArray[np.float64]] = {}
    for name, arm in recording.arms.items():
        of = f" of {name}" if name else ""
        stamped = (
            (f"pose{of}", arm.poses.times, ~arm.poses.finite),
            (f"gripper{of}", arm.openness.times, ~np.isfinite(arm.openness.values)),
        )
        for stream, stamps, bad in stamped:
            found[stream] = statistics(stamps, int(bad.sum())).to_json()
            times[stream] = stamps
    for name, view in recording.views.items():
        if view.times is not None:
            pictures = {"pictures": len(view.frames), "size": f"{view.frames.width}x{view.frames.height}"}
            found[name] = {**statistics(view.times).to_json(), **pictures}
            times[name] = view.times
        if view.poses is not None:
            stream = f"{name} (pose)"
            found[stream] = statistics(view.poses.times, int((~view.poses.finite).sum())).to_json()
            times[stream] = view.poses.times
    return Streams(recording.id, found, times)


def inspect_recordings(format_name: str, refs: Sequence[EpisodeRef], first: Recording) -> dict[str, Any]:
    """Episodes of a mapped source, streams of the first, and its estimated time offset, which is only reported."""
    found: dict[str, Any] = {
        "format": format_name,
        "episodes": len(refs),
        "first": refs[0].id,
        "instruction": first.instructions[0],
        "streams": {name: dict(values) for name, values in recorded_streams(first).statistics.items()},
    }
    if first.rows_fps is None and not first.assumed:
        try:
            found["time_offset"] = estimate_offset(first).to_json()
        except ActionImgError as error:
            found["time_offset"] = {"sure": False, "why": error.message}
    return found
