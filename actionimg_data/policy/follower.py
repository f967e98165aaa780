"""Carry out chunks of poses one after the other: receding horizon, blended, within limits, and held in doubt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InvalidSpecError, InvalidTrajectoryError
from ..geometry import rotations
from .chunk import ActionChunk

FloatArray = NDArray[np.float64]

FOLLOWING: Final = "following"
HOLDING: Final = "holding"
_UNIT: Final = 1e-3


@dataclass(frozen=True)
class Limits:
    """What a `Follower` may do.

    Args:
        speed: Metres a second.
        turn: Radians a second.
        trust: A frame of less is not carried out: the pose before it is held.
        trusted_share: A chunk in which fewer of the frames to come are trusted is refused as a whole.
        gap_s: Frames without trust are bridged, by moving evenly from the one before to the one after, where they last
            no longer than this.
        blend_s: Seconds over which the last chunk gives way to the next.
        close_under: Openness under which an open gripper closes.
        open_over: Openness over which a closed gripper opens.
        dwell_s: Seconds that the openness has to stay beyond its threshold.
    """

    speed: float = 0.5
    turn: float = 2.0
    trust: float = 0.5
    trusted_share: float = 0.5
    gap_s: float = 0.25
    blend_s: float = 0.3
    close_under: float = 0.35
    open_over: float = 0.65
    dwell_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("speed", "turn"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InvalidSpecError("must be positive", where="limits", field=name, found=getattr(self, name))
        for name in ("gap_s", "blend_s", "dwell_s"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InvalidSpecError("must not be negative", where="limits", field=name, found=getattr(self, name))
        for name in ("trust", "trusted_share", "close_under", "open_over"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidSpecError(
                    "is outside [0, 1]", where="limits", field=name, expected="0 … 1", found=getattr(self, name)
                )
        if self.close_under >= self.open_over:
            raise InvalidSpecError(
                "the gripper would flutter",
                where="limits",
                field="close_under",
                expected=f"< open_over {self.open_over:g}",
                found=self.close_under,
            )


@dataclass(frozen=True)
class Command:
    """What to do now.

    Args:
        position: ``(3,)`` metres.
        quaternion_xyzw: ``(4,)``.
        open: Whether the gripper is to be open.
        state: ``following`` or ``holding``.
        trust: Of the frame that is carried out, 0 while holding.
    """

    position: FloatArray
    quaternion_xyzw: FloatArray
    open: bool
    state: str
    trust: float

    @property
    def action_8d(self) -> FloatArray:
        """``(8,)``: x y z, qx qy qz qw, openness."""
        return np.concatenate([self.position, self.quaternion_xyzw, [float(self.open)]])


class _Course:
    """The trusted poses of a chunk, and when they are due."""

    def __init__(self, chunk: ActionChunk, begin: float, limits: Limits) -> None:
        good = np.flatnonzero((chunk.trust >= limits.trust) & np.isfinite(chunk.action_8d[:, :7]).all(axis=1))
        self.share = len(good) / len(chunk)
        self.times = begin + chunk.times[good]
        self.poses = chunk.action_8d[good]
        self.trust = chunk.trust[good]
        self.gap = limits.gap_s + _step(chunk.times)
        self.end = begin + float(chunk.times[-1])

    def at(self, time: float) -> _Due | None:
        """What is due at ``time``; None before the first trusted pose. In a long gap and after the end the last one."""
        after = int(np.searchsorted(self.times, time, side="right"))
        if after == 0:
            return None
        before = after - 1
        pose, trust = self.poses[before], float(self.trust[before])
        if after == len(self.times):
            # The last frame is due for as long as it is one.
            return _Due(pose, trust, time > self.end or time - self.times[before] > self.gap)
        span = self.times[after] - self.times[before]
        if span > self.gap:
            return _Due(pose, trust, True)
        between = _between(pose, self.poses[after], float((time - self.times[before]) / span))
        between[7] = pose[7]
        return _Due(between, float(min(trust, self.trust[after])), False)


@dataclass(frozen=True)
class _Due:
    pose: FloatArray
    """``(8,)``."""
    trust: float
    held: bool
    """Whether it is the last that could be trusted, for want of another."""


class Follower:
    """Follows chunks from observation to observation.

    Give it each chunk with the time of the observation that it was made from (`accept`), and ask it at the rate of the
    robot's controller what to do (`command`). It never jumps: a new chunk takes over gradually, in SE(3), and speed and
    turn are limited whatever was generated. Where poses cannot be trusted it stands still; a chunk that mostly cannot
    be is refused, and the one before is followed to its end.

    Args:
        pose: ``(8,)`` of the gripper now: x y z, qx qy qz qw, openness.
        time: Now, seconds on any clock.
        limits: What it may do.

    Raises:
        InvalidTrajectoryError: The pose is none.
    """

    def __init__(self, pose: ArrayLike, time: float, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        start = np.asarray(pose, np.float64)
        if start.shape != (8,) or not np.isfinite(start).all() or abs(np.linalg.norm(start[3:7]) - 1) > _UNIT:
            raise InvalidTrajectoryError(
                "is no pose", field="pose", expected="(8,): x y z, a unit quaternion xyzw, openness", found=start
            )
        self._pose = start.copy()
        self._time = float(time)
        self._open = bool(start[7] > 0.5)
        self._wish_since: float | None = None
        self._course: _Course | None = None
        self._last: _Course | None = None
        self._switched = -np.inf
        self.refused = 0
        """Chunks that were not trusted."""

    def accept(self, chunk: ActionChunk, time: float) -> bool:
        """Follow a chunk from now on; returns False, and goes on as before, where it cannot be trusted.

        Args:
            chunk: What was generated.
            time: Of the observation that it was generated from, which its first frame shows.
        """
        course = _Course(chunk, float(time), self.limits)
        if course.share < self.limits.trusted_share or not len(course.times):
            self.refused += 1
            return False
        self._last, self._course, self._switched = self._course, course, max(float(time), self._time)
        return True

    def command(self, time: float) -> Command:
        """What to do at ``time``, which does not go back.

        Raises:
            InvalidSpecError: It does.
        """
        step = float(time) - self._time
        if step < 0:
            raise InvalidSpecError("time goes back", field="time", expected=f">= {self._time:g}", found=f"{time:g}")
        self._time = float(time)
        due = self._due(self._time)
        if due is not None:
            self._pose = self._limited(due.pose, step)
            self._grip(float(due.pose[7]))
        state = HOLDING if due is None or due.held else FOLLOWING
        trust = 0.0 if due is None or due.held else due.trust
        return Command(self._pose[:3].copy(), self._pose[3:7].copy(), self._open, state, trust)

    def _due(self, time: float) -> _Due | None:
        """What is due of the chunk that is followed, blended with the one before while that gives way."""
        new = None if self._course is None else self._course.at(time)
        if new is None or self._last is None or time >= self._switched + self.limits.blend_s:
            return new
        old = self._last.at(time)
        if old is None:
            return new
        pose = _between(old.pose, new.pose, (time - self._switched) / self.limits.blend_s)
        pose[7] = new.pose[7]
        return _Due(pose, new.trust, new.held)

    def _limited(self, pose: FloatArray, step: float) -> FloatArray:
        """The pose, or as far towards it as one may go in ``step`` seconds."""
        away = pose[:3] - self._pose[:3]
        distance = float(np.linalg.norm(away))
        reach = self.limits.speed * step
        out = np.empty(8)
        out[:3] = pose[:3] if distance <= reach else self._pose[:3] + away * (reach / distance)
        cosine = min(1.0, abs(float(self._pose[3:7] @ pose[3:7])))
        angle = 2 * np.arccos(cosine)
        part = 1.0 if angle <= self.limits.turn * step else self.limits.turn * step / angle
        out[3:7] = _slerp(self._pose[3:7], pose[3:7], part)
        out[7] = pose[7]
        return out

    def _grip(self, openness: float) -> None:
        """Open or close where the openness has been beyond its threshold for long enough."""
        if np.isnan(openness):
            self._wish_since = None
            return
        wish = openness < self.limits.close_under if self._open else openness > self.limits.open_over
        if not wish:
            self._wish_since = None
            return
        if self._wish_since is None:
            self._wish_since = self._time
        if self._time - self._wish_since >= self.limits.dwell_s:
            self._open, self._wish_since = not self._open, None


def _step(times: FloatArray) -> float:
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def _between(a: FloatArray, b: FloatArray, part: float) -> FloatArray:
    """Between poses ``(8,)``: positions on a line, rotations on the shortest arc."""
    out = (1 - part) * a + part * b
    out[3:7] = _slerp(a[3:7], b[3:7], part)
    return out


def _slerp(a: FloatArray, b: FloatArray, part: float) -> FloatArray:
    return np.asarray(rotations.slerp(a[None], b[None], np.array([part]))[0])
