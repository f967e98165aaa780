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
MIN_FRAMES: Final = 12
MAX_FRAMES: Final = 150
"""Of an episode, one after another."""

MIN_EXPLAINED: Final = 0.5
"""Share of the flow's variance that the hand's velocity must explain at the best offset."""

SUSPECT: Final = 1.3
"""Variance left without an offset over that left with the best one: worth trying."""

CLEAR: Final = 2.5
"""An offset is clear that is likelier than none, and than any that lies elsewhere, by so much in its logarithm."""

MIN_DISTINCT: Final = 4.5
"""Distinct motions from which edges alone are believed. In short windows of the setting scenes five of the six cameras
that edges alone found were 8 to 46 px off. Of whole episodes 96 % have as many, of windows of 1 to 2.5 s 1 %."""

MAX_STILL: Final = 0.05
"""Share of the flow's energy that may be seen while the hand stands still: poses froze, or others move."""

MAX_INTERVAL_SHARE: Final = 0.6
MIN_OFF_FRAMES: Final = 1.5
FROZEN_S: Final = 1.0
FROZEN_SHARE: Final = 0.15
FROZEN_MOVES: Final = 0.35
"""Poses that are exactly the same so long, while pictures move by more than this share of what they move otherwise."""

_STILL_M_S: Final = 1e-6
MODEL_S: Final = 0.03
"""Deviation of whole episodes' offsets in the setting scenes: the flow is only nearly linear in the hand's velocity."""

_WITHIN: Final = 1.0
_ELSEWHERE_S: Final = 0.15
_STILL: Final = 0.15
_SPARE_ROWS: Final = 2
_MAX_TIME_S: Final = 1.5
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
        clear: Whether it may be said without a camera that confirms it.
    """

    seconds: float
    interval_s: float
    clear: bool


def speeds(frames: FrameSource, trajectory: GripperTrajectory, on_hand: bool = False) -> Speeds | None:
    """Speeds in the middle of an episode, whose pictures are read once and in order; None where it is too short.

    Args:
        frames: Of one camera.
        trajectory: Of the gripper.
        on_hand: The camera is fixed to the hand: velocities are along the hand's axes, turns beside them.
    """
    known = _longest(trajectory.known[: len(frames)])
    if len(known) < MIN_FRAMES:
        return None
    first = known.start + max(0, (len(known) - MAX_FRAMES) // 2)
    order = list(range(first, min(known.stop, first + MAX_FRAMES)))
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
        still = np.asarray((np.abs(p.told) < _STILL_M_S).all(1))
        flow = np.linalg.norm(p.seen, axis=1)
        if still.all() or not still.any():
            continue
        run = _longest(still)
        begin, end = float(p.times[run[0]]), float(p.times[run[-1]])
        if end - begin < FROZEN_S or len(run) < FROZEN_SHARE * len(flow):
            continue
        if flow[run].mean() > FROZEN_MOVES * flow[~still].mean():
            return begin, end
    return None


def distinct_motions(parts: Sequence[Speeds]) -> float:
    """How many motions, one unlike the other, there are to tell an offset from; 0 where there are too few pictures.

    Args:
        parts: Episodes of one camera and one clock.
    """
    rows = _rows(parts, _candidates())
    return 0.0 if rows is None else rows.distinct(int(rows.left().argmin()))


def offset_of(parts: Sequence[Speeds]) -> Offset | None:
    """The offset at which the hand's velocity explains the flow better than without one; None where none does.

    How much likelier an offset is than another is that of normal residuals, counted as often as the hand's velocity
    renews itself: few distinct motions tell little, however many pictures there are of them (Bartlett, *On the
    theoretical specification and sampling properties of autocorrelated time-series*, 1946).

    Args:
        parts: Episodes of one camera and one clock.
    """
    candidates = _candidates()
    rows = _rows(parts, candidates)
    if rows is None:
        return None
    left = rows.left()
    best, frame = int(left.argmin()), rows.frame_s
    offset, here = float(peak_between(candidates, -left)), float(np.interp(0.0, candidates, left))
    if (
        left[best] > 1 - MIN_EXPLAINED
        or here < SUSPECT * left[best]
        or abs(offset) < MIN_OFF_FRAMES * frame
        or best in (0, len(candidates) - 1)
    ):
        return None
    distinct = rows.distinct(best) - rows.velocity.shape[2]
    less_likely = max(distinct, 0.0) * np.log(left / left[best])
    again = [peak_between(candidates, -rows.without(b).left()) for b in range(_BLOCKS)]
    # Jackknife over stretches of time (Efron & Tibshirani, An Introduction to the Bootstrap, 11.5).
    variance = float((_BLOCKS - 1) / _BLOCKS * np.sum((np.array(again) - np.mean(again)) ** 2))
    within = float(np.abs(candidates[less_likely < _WITHIN] - offset).max())
    interval = float(np.hypot(within, 1.645 * np.sqrt(variance + MODEL_S**2 + (0.3 * frame) ** 2)))
    elsewhere = float(less_likely[np.abs(candidates - candidates[best]) > _ELSEWHERE_S].min())
    clear = (
        min(float(np.interp(0.0, candidates, less_likely)), elsewhere) > CLEAR
        and interval < MAX_INTERVAL_SHARE * abs(offset)
        and rows.while_still(best) < MAX_STILL
    )
    return Offset(offset, interval, clear)


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


@dataclass(frozen=True, eq=False)
class _Rows:
    """Flow ``(N, 2)`` and the hand's velocity ``(C, N, M)`` at each offset, of pictures that have all offsets.

    ``episode`` and ``block`` ``(N,)`` are which episode and which stretch of its time they are of.
    """

    flow: FloatArray
    velocity: FloatArray
    episode: NDArray[np.intp]
    block: NDArray[np.intp]
    frame_s: float

    def without(self, block: int) -> _Rows:
        kept = self.block != block
        return _Rows(self.flow[kept], self.velocity[:, kept], self.episode[kept], self.block[kept], self.frame_s)

    def left(self) -> FloatArray:
        """Share ``(C,)`` of the flow's variance that is not linear in the velocity."""
        square = np.einsum("cni,cnj->cij", self.velocity, self.velocity)
        across = np.einsum("cni,nk->cik", self.velocity, self.flow)
        size = np.trace(square, axis1=1, axis2=2)[:, None, None] + 1e-12
        fit = np.linalg.solve(square + 1e-9 * size * np.eye(square.shape[1]), across)
        total = max(float((self.flow**2).sum()), 1e-12)
        return np.asarray(np.maximum(1 - np.einsum("cik,cik->c", fit, across) / total, 1e-4))

    def distinct(self, offset: int) -> float:
        """How often the velocity renews itself: the time by its autocorrelation's."""
        most = round(_MAX_TIME_S / self.frame_s)
        lasting = [_lasting(self.velocity[offset, self.episode == e], most) for e in np.unique(self.episode)]
        return len(self.flow) / float(np.mean(lasting))

    def while_still(self, offset: int) -> float:
        """Share of the flow's energy that is seen while the hand stands still."""
        speed, energy = np.linalg.norm(self.velocity[offset], axis=1), (self.flow**2).sum(1)
        return float(energy[speed < _STILL * np.quantile(speed, 0.9)].sum() / max(energy.sum(), 1e-12))


def _longest(holds: NDArray[np.bool_]) -> range:
    """The longest stretch of pictures for which something holds ``(N,)``."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(np.int8))).reshape(-1, 2)
    return range(*max(ends.tolist(), key=lambda e: e[1] - e[0], default=(0, 0)))


def _candidates() -> FloatArray:
    return np.arange(-MAX_OFFSET_S, MAX_OFFSET_S + _STEP_S / 2, _STEP_S)


def _rows(parts: Sequence[Speeds], candidates: FloatArray) -> _Rows | None:
    """None where there are too few pictures to tell anything."""
    flow, velocity, episode, block = [], [], [], []
    for k, p in enumerate(parts):
        inner = (p.times - MAX_OFFSET_S >= p.times[0]) & (p.times + MAX_OFFSET_S <= p.times[-1])
        if inner.sum() < _BLOCKS:
            continue
        seen, told = (uniform_filter1d(v, _SMOOTH, axis=0) for v in (p.seen, p.told))
        at = (p.times[inner] - candidates[:, None]).ravel()
        columns = [np.interp(at, p.times, column) for column in told.T]
        flow.append(seen[inner])
        velocity.append(np.stack(columns, -1).reshape(len(candidates), -1, len(columns)))
        episode.append(np.full(inner.sum(), k))
        block.append(np.arange(inner.sum()) * _BLOCKS // inner.sum())
    if not flow or sum(map(len, flow)) < 2 * velocity[0].shape[2] + _SPARE_ROWS:
        return None
    frame = float(np.median(np.concatenate([np.diff(p.times) for p in parts])))
    return _Rows(
        np.concatenate(flow), np.concatenate(velocity, 1), np.concatenate(episode), np.concatenate(block), frame
    )


def _lasting(velocity: FloatArray, most: int) -> float:
    """For how many pictures velocities ``(N, M)`` are alike: the sum of squares of their autocorrelation."""
    scaled = velocity / (np.sqrt((velocity**2).mean(0)) + 1e-9)
    total = 1.0
    for lag in range(1, min(len(scaled) - 1, most)):
        alike = float((scaled[:-lag] * scaled[lag:]).mean())
        if alike <= 0:
            break
        total += 2 * alike**2
    return total
