"""Cameras that were exchanged, and grippers that are open when they are said to be closed: seen in the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..model import Episode
from .check import CHECK_FRAMES, CameraCheck, check_view
from .evidence import Evidence, static_pose
from .shape import GripperShape
from .shift import best_shift

FloatArray = NDArray[np.float64]
PolarityVerdict = Literal["as said", "inverted", "cannot tell"]

MIN_SIGHTS: Final = 6
DECIDED: Final = 0.25
"""A gripper this far from half open looks different when it is said to be the other way round."""

SIGMAS: Final = 3.0
"""Standard errors by which the outlines of one polarity have to fit better than those of the other."""


@dataclass(frozen=True)
class Polarity:
    """Whether the gripper looks open when it is said to be.

    Args:
        verdict: ``as said``, ``inverted`` or ``cannot tell``.
        reason: Why, in words.
        gain: Mean by which the outline as said fits better than the other way round; None where nothing was seen.
        deviation: Its standard error.
        sights: Frames of all cameras that were looked at.
    """

    verdict: PolarityVerdict
    reason: str
    gain: float | None = None
    deviation: float | None = None
    sights: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "gain": None if self.gain is None else round(self.gain, 3),
            "deviation": None if self.deviation is None else round(self.deviation, 3),
            "sights": self.sights,
        }


def polarity(checks: Mapping[str, CameraCheck], poses: Mapping[str, FloatArray]) -> Polarity:
    """Hold the outlines of the gripper as it is said to be against those of one that is open where this one is shut.

    Args:
        checks: Of one episode, made with ``keep=True``.
        poses: ``world_from_camera (4, 4)`` of each camera that stands still.
    """
    gains: list[FloatArray] = []
    for name, check in checks.items():
        if check.evidence is not None and name in poses:
            gains.append(_gains(check.evidence, poses[name]))
    gain = np.concatenate(gains) if gains else np.empty(0)
    if len(gain) < MIN_SIGHTS:
        return Polarity("cannot tell", "the gripper is seen clearly open or closed in too few frames", sights=len(gain))
    mean, deviation = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))
    found: dict[str, Any] = {"gain": mean, "deviation": deviation, "sights": len(gain)}
    if mean < -SIGMAS * deviation:
        return Polarity("inverted", "the gripper looks closed where it is said to be open, or open where shut", **found)
    if mean > SIGMAS * deviation:
        return Polarity("as said", "the gripper looks open where it is said to be", **found)
    return Polarity("cannot tell", "open and closed look alike through these cameras", **found)


def _gains(evidence: Evidence, pose: FloatArray) -> FloatArray:
    """By how much each frame's outline as said fits better than the other way round, each where it fits best."""
    clear = tuple(s for s in evidence.sights if abs(s.openness - 0.5) > DECIDED)
    if len(clear) < 3:
        return np.empty(0)
    said = replace(evidence, sights=clear)
    other = replace(evidence, sights=tuple(replace(s, openness=1 - s.openness) for s in clear))
    shifts = best_shift(said, pose), best_shift(other, pose)
    if shifts[0] is None or shifts[1] is None or len(shifts[0].per_frame) != len(shifts[1].per_frame):
        return np.empty(0)
    return shifts[0].per_frame - shifts[1].per_frame


def swapped_cameras(
    episode: Episode, shape: GripperShape, checks: Mapping[str, CameraCheck], *, frames: int = CHECK_FRAMES
) -> list[tuple[str, str]]:
    """Pairs of views of which neither is right and each is right through the other's camera.

    Args:
        episode: That was checked.
        shape: The gripper to look for.
        checks: Of its views.
        frames: How many frames to look at.
    """
    cameras = {name: view.camera for name, view in episode.views.items() if view.camera is not None}
    standing = [name for name, camera in cameras.items() if static_pose(camera) is not None]
    doubtful = [name for name in standing if name in checks and checks[name].verdict != "ok"]
    found = []
    for a, b in combinations(doubtful, 2):
        one, other = episode.views[a], episode.views[b]
        if (one.frames.width, one.frames.height) != (other.frames.width, other.frames.height):
            continue
        exchanged = (replace(one, camera=other.camera), replace(other, camera=one.camera))
        if all(check_view(v, episode.grippers, shape, frames=frames).verdict == "ok" for v in exchanged):
            found.append((a, b))
    return found
