"""Poses that are off in time, told without a camera: how fast things move in the pictures, held against the gripper.

`time_offset` compares displacements where a camera sees the gripper, and so needs one. Here only speeds are compared,
the mean length of the optical flow with that of the gripper's motion, which is rougher, but enough to say that poses
and pictures do not belong together as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from ..cameras.flow import peak_between
from ..geometry import rotations
from ..model import FrameSource, GripperTrajectory

FloatArray = NDArray[np.float64]

MAX_OFFSET_S: Final = 0.6
MIN_FRAMES: Final = 40
MAX_FRAMES: Final = 150
"""Of an episode, one after another."""

MIN_CORRELATION: Final = 0.7
MIN_GAIN: Final = 0.12
"""By so much the correlation must be better at an offset than without one."""

MIN_OFF_FRAMES: Final = 1.5
_SIDE: Final = 96
_STEP_S: Final = 0.01
_ARM_M: Final = 0.06
_SMOOTH: Final = 3
_BLOCKS: Final = 6


@dataclass(frozen=True, eq=False)
class Speeds:
    """Speeds in one episode, from frame to frame.

    Args:
        times: ``(N,)`` seconds, between the frames.
        seen: ``(N,)`` mean optical flow, shares of the picture's width a second.
        told: ``(N,)`` metres a second of the gripper, turns included.
    """

    times: FloatArray
    seen: FloatArray
    told: FloatArray


def speeds(frames: FrameSource, trajectory: GripperTrajectory) -> Speeds | None:
    """Speeds in the middle of an episode, whose pictures are read once and in order; None where it is too short."""
    known = trajectory.known
    if len(frames) < MIN_FRAMES or known.sum() < MIN_FRAMES or not known.all():
        return None
    first = max(0, (len(frames) - MAX_FRAMES) // 2)
    order = list(range(first, min(len(frames), first + MAX_FRAMES)))
    size = (_SIDE, max(16, round(_SIDE * frames.height / frames.width)))
    dense: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    before, seen = None, []
    for picture in frames.frames(order):
        grey = cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        if before is not None:
            seen.append(float(np.linalg.norm(dense.calc(before, grey, None), axis=-1).mean()) / _SIDE)
        before = grey
    times = trajectory.times
    pose = trajectory.world_from_gripper
    way = np.linalg.norm(np.diff(pose[:, :3, 3], axis=0), axis=1)
    way = way + _ARM_M * np.asarray(rotations.angle_between(pose[1:, :3, :3], pose[:-1, :3, :3]))
    step = np.diff(times)
    if (step <= 0).any():
        return None
    middle = (times[1:] + times[:-1]) / 2
    window = slice(order[0], order[-1])
    return Speeds(middle[window], np.array(seen) / step[window], np.interp(middle[window], middle, way / step))


def offset_of(parts: Sequence[Speeds]) -> tuple[float, float] | None:
    """Seconds to add to the poses' stamps and their 90 % interval, where poses are clearly off in time; None if not.

    Args:
        parts: Episodes whose clocks are the same.
    """
    if not parts:
        return None
    frame = float(np.median(np.concatenate([np.diff(p.times) for p in parts])))
    candidates = np.arange(-MAX_OFFSET_S, MAX_OFFSET_S + _STEP_S / 2, _STEP_S)
    curve = _curve(parts, candidates, None)
    best = int(curve.argmax())
    offset = peak_between(candidates, curve)
    zero = float(np.interp(0.0, candidates, curve))
    if (
        not np.isfinite(curve).all()
        or curve[best] < MIN_CORRELATION
        or curve[best] - zero < MIN_GAIN
        or abs(offset) < MIN_OFF_FRAMES * frame
        or best in (0, len(candidates) - 1)
    ):
        return None
    again = [peak_between(candidates, _curve(parts, candidates, b)) for b in range(_BLOCKS)]
    # Jackknife over stretches of time (Efron & Tibshirani, An Introduction to the Bootstrap, 11.5).
    deviation = float(np.sqrt((_BLOCKS - 1) / _BLOCKS * np.sum((np.array(again) - np.mean(again)) ** 2)))
    interval = 1.645 * float(np.hypot(deviation, frame / 4))
    return (offset, interval) if interval < 0.6 * abs(offset) else None


def _curve(parts: Sequence[Speeds], candidates: FloatArray, without: int | None) -> FloatArray:
    """Mean correlation ``(C,)`` of seen and told speeds, the poses moved by each candidate."""
    curves = []
    for p in parts:
        seen, told = (uniform_filter1d(v, _SMOOTH) for v in (p.seen, p.told))
        inner = (p.times - MAX_OFFSET_S >= p.times[0]) & (p.times + MAX_OFFSET_S <= p.times[-1])
        if without is not None:
            inner &= (np.arange(len(seen)) * _BLOCKS // len(seen)) != without
        if inner.sum() < MIN_FRAMES // 2:
            continue
        at = p.times[inner]
        moved = np.stack([np.interp(at - c, p.times, told) for c in candidates])
        with np.errstate(invalid="ignore", divide="ignore"):
            curves.append([np.corrcoef(seen[inner], row)[0, 1] for row in moved])
    return np.mean(curves, axis=0) if curves else np.full(len(candidates), np.nan)
