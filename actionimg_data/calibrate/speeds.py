"""Poses that are off in time, told without a camera: how the pictures move, held against the gripper.

`time_offset` compares displacements where a camera sees the gripper, and so needs one. Here the mean optical flow of
the whole picture is compared with the hand's velocity: through any camera far away the one is linear in the other, and
that fits best at the true offset. Other things that move may mislead it; `adjust` has the last word and the exact one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import interp1d
from scipy.ndimage import uniform_filter1d
from scipy.spatial.transform import Rotation, Slerp

from ..cameras.flow import peak_between
from ..geometry import rotations
from ..model import FrameSource, GripperTrajectory

FloatArray = NDArray[np.float64]

MAX_OFFSET_S: Final = 0.6
MIN_FRAMES: Final = 40
MAX_FRAMES: Final = 150
"""Of an episode, one after another."""

MIN_EXPLAINED: Final = 0.5
"""Share of the flow's variance that the hand's velocity must explain at the best offset."""

SUSPECT: Final = 1.3
CLEAR: Final = 2.0
"""Variance left without an offset over that left with the best one: worth trying, and clear by itself."""

MIN_OFF_FRAMES: Final = 1.5
FROZEN_S: Final = 1.0
FROZEN_SHARE: Final = 0.15
FROZEN_MOVES: Final = 0.35
"""Poses that are exactly the same so long, while pictures move by more than this share of what they move otherwise."""

_STILL_M_S: Final = 1e-6
_SIDE: Final = 96
_STEP_S: Final = 0.01
_ARM_M: Final = 0.06
_BEHIND_M: Final = 0.05
_SMOOTH: Final = 3
_BLOCKS: Final = 6


@dataclass(frozen=True, eq=False)
class Speeds:
    """What moves in one episode, from frame to frame.

    Args:
        times: ``(N,)`` seconds, between the frames.
        seen: ``(N, 2)`` mean optical flow, shares of the picture's width a second.
        told: ``(N, M)`` metres a second of the hand, along axes that are fixed to the camera's body.
    """

    times: FloatArray
    seen: FloatArray
    told: FloatArray


@dataclass(frozen=True)
class Offset:
    """By how much poses seem to be off.

    Args:
        seconds: To add to the poses' stamps.
        interval_s: Half width of the 90 % interval.
        gain: Variance of the flow that is left without an offset over that left with it.
        clear: Whether it may be said without a camera that confirms it.
    """

    seconds: float
    interval_s: float
    gain: float
    clear: bool


def speeds(frames: FrameSource, trajectory: GripperTrajectory, on_hand: bool = False) -> Speeds | None:
    """Speeds in the middle of an episode, whose pictures are read once and in order; None where it is too short.

    Args:
        frames: Of one camera.
        trajectory: Of the gripper.
        on_hand: The camera is fixed to the hand: velocities are along the hand's axes, turns beside them.
    """
    if min(len(frames), len(trajectory)) < MIN_FRAMES or not trajectory.known.all():
        return None
    first = max(0, (len(frames) - MAX_FRAMES) // 2)
    order = list(range(first, min(len(frames), first + MAX_FRAMES)))
    size = (_SIDE, max(16, round(_SIDE * frames.height / frames.width)))
    dense: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    before, seen = None, []
    for picture in frames.frames(order):
        grey = cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        if before is not None:
            seen.append(dense.calc(before, grey, None).mean((0, 1)) / _SIDE)
        before = grey
    times, pose = trajectory.times, trajectory.world_from_gripper
    step = np.diff(times)[:, None]
    turn = pose[:-1, :3, :3]
    point = pose[:, :3, 3] - _BEHIND_M * pose[:, :3, 2]
    told = np.diff(point, axis=0) / step
    if on_hand:
        turned = turn.transpose(0, 2, 1) @ pose[1:, :3, :3]
        rate = _ARM_M * np.asarray(rotations.rotation_vector_from_matrix(turned)) / step
        told = np.concatenate([(told[:, None] @ turn)[:, 0], rate], 1)
    middle = (times[1:] + times[:-1]) / 2
    window = slice(order[0], order[-1])
    return Speeds(middle[window], np.array(seen) / step[window], told[window])


def frozen(parts: Sequence[Speeds]) -> tuple[float, float] | None:
    """From when to when, in seconds, poses stand still while the pictures go on moving; None where they do not."""
    for p in parts:
        still = (np.abs(p.told) < _STILL_M_S).all(1)
        flow = np.linalg.norm(p.seen, axis=1)
        if still.all() or not still.any():
            continue
        edges = np.flatnonzero(np.diff(np.concatenate([[0], still.astype(int), [0]])))
        begin, end = max(edges.reshape(-1, 2).tolist(), key=lambda run: run[1] - run[0])
        lasts = float(p.times[end - 1] - p.times[begin])
        if lasts < FROZEN_S or end - begin < FROZEN_SHARE * len(flow):
            continue
        if flow[begin:end].mean() > FROZEN_MOVES * flow[~still].mean():
            return float(p.times[begin]), float(p.times[end - 1])
    return None


def offset_of(parts: Sequence[Speeds]) -> Offset | None:
    """The offset at which the hand's velocity explains the flow better than without one; None where none does.

    Args:
        parts: Episodes of one camera and one clock.
    """
    if not parts:
        return None
    frame = float(np.median(np.concatenate([np.diff(p.times) for p in parts])))
    candidates = np.arange(-MAX_OFFSET_S, MAX_OFFSET_S + _STEP_S / 2, _STEP_S)
    curve = _explained(parts, candidates, None)
    if not np.isfinite(curve).all():
        return None
    best = int(curve.argmax())
    offset = float(peak_between(candidates, curve))
    gain = float((1 - np.interp(0.0, candidates, curve)) / max(1 - curve[best], 1e-3))
    if (
        curve[best] < MIN_EXPLAINED
        or gain < SUSPECT
        or abs(offset) < MIN_OFF_FRAMES * frame
        or best in (0, len(candidates) - 1)
    ):
        return None
    again = [peak_between(candidates, _explained(parts, candidates, b)) for b in range(_BLOCKS)]
    # Jackknife over stretches of time (Efron & Tibshirani, An Introduction to the Bootstrap, 11.5).
    deviation = float(np.sqrt((_BLOCKS - 1) / _BLOCKS * np.sum((np.array(again) - np.mean(again)) ** 2)))
    interval = 1.645 * float(np.hypot(deviation, frame / 2))
    return Offset(offset, interval, gain, gain > CLEAR and interval < 0.6 * abs(offset))


def moved(trajectory: GripperTrajectory, seconds: float) -> GripperTrajectory:
    """The trajectory with ``seconds`` added to its stamps, at the same times; unknown where nothing is told then."""
    if seconds == 0 or len(trajectory) < 2 or not trajectory.known.all():
        return trajectory
    times = trajectory.times
    at = times - seconds
    inside = (at >= times[0]) & (at <= times[-1])
    at = np.clip(at, times[0], times[-1])
    position = interp1d(times, trajectory.position, axis=0)(at)
    turn = Slerp(times, Rotation.from_quat(trajectory.quaternion_xyzw))(at).as_quat()
    openness = np.interp(at, times, np.nan_to_num(trajectory.openness))
    for values in (position, turn, openness):
        values[~inside] = np.nan
    return GripperTrajectory(position, turn, openness, times, allow_missing=True)


def _explained(parts: Sequence[Speeds], candidates: FloatArray, without: int | None) -> FloatArray:
    """Share ``(C,)`` of the flow's variance that is linear in the hand's velocity, at each offset."""
    seen, told = [], []
    for p in parts:
        inner = (p.times - MAX_OFFSET_S >= p.times[0]) & (p.times + MAX_OFFSET_S <= p.times[-1])
        if without is not None:
            inner &= (np.arange(len(p.times)) * _BLOCKS // len(p.times)) != without
        if inner.sum() < MIN_FRAMES // 3:
            continue
        smooth = [uniform_filter1d(v, _SMOOTH, axis=0) for v in (p.seen, p.told)]
        at = (p.times[inner] - candidates[:, None]).ravel()
        seen.append(smooth[0][inner])
        columns = [np.interp(at, p.times, column) for column in smooth[1].T]
        told.append(np.stack(columns, -1).reshape(len(candidates), -1, len(columns)))
    if not seen:
        return np.full(len(candidates), np.nan)
    flow, velocity = np.concatenate(seen), np.concatenate(told, 1)
    total = max(float((flow**2).sum()), 1e-12)
    left = [float(((flow - v @ np.linalg.lstsq(v, flow, rcond=None)[0]) ** 2).sum()) for v in velocity]
    return np.asarray(1 - np.array(left) / total)
