"""The constant offset in time between poses and pictures, from episodes of any source.

As `converters.recording.offset`, which works on raw logs with their own stamps: the optical flow near the gripper is
compared with the displacement that its poses predict at other times. Here poses are those of the episode's frames, with
a spline between them; the cameras' own errors are taken out first by looking where the gripper is really seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline

from ..cameras import flow
from ..geometry import pinhole, transforms
from ..model import Episode, GripperTrajectory
from .check import check_view
from .evidence import intrinsics, static_pose
from .shape import GripperShape

FloatArray = NDArray[np.float64]

MAX_OFFSET_S: Final = 0.5
MIN_CORRELATION: Final = 0.9
MIN_OWN_CORRELATION: Final = 0.8
"""Of a recording of one camera, to count with the others."""
_STEP_S: Final = 0.01
_MAX_PAIRS: Final = 300
_MIN_PAIRS: Final = 20
_BLOCKS: Final = 8
_RIVAL_DISTANCE_S: Final = 0.15
_MIN_LEAD: Final = 0.03
_OWN_ERROR_S: Final = 0.003
_MAX_APART_S: Final = 0.04


@dataclass(frozen=True)
class TimeOffset:
    """A constant offset between poses and pictures.

    Args:
        offset_s: Seconds to add to the stamps of the poses; None where it cannot be told.
        interval_s: Half width of its 90 % interval.
        correlation: Of seen and predicted displacements at that offset.
        at_zero: The same without an offset.
        streams: Offset of each view alone, over all episodes.
        episodes: Ids of the episodes that were used.
        reason: Why it cannot be told, or what it rests on.
    """

    offset_s: float | None
    interval_s: float | None
    correlation: float | None
    at_zero: float | None
    streams: dict[str, float]
    episodes: tuple[str, ...]
    reason: str

    def to_json(self) -> dict[str, Any]:
        """JSON values."""

        def number(value: float | None, digits: int) -> float | None:
            return None if value is None else round(value, digits)

        return {
            "offset_s": number(self.offset_s, 4),
            "interval_s": number(self.interval_s, 4),
            "correlation": number(self.correlation, 3),
            "correlation_at_zero": number(self.at_zero, 3),
            "streams": {k: round(v, 4) for k, v in self.streams.items()},
            "episodes": list(self.episodes),
            "reason": self.reason,
        }


@dataclass(frozen=True, eq=False)
class _Moves:
    """Displacements of points of the hand between neighbouring frames: seen ``(N, 2)``, predicted ``(C, N, 2)``."""

    view: str
    seen: FloatArray
    predicted: FloatArray
    block: NDArray[np.intp]


def time_offset(
    episodes: Sequence[Episode],
    shape: GripperShape | None = None,
    *,
    views: Sequence[str] | None = None,
    max_offset_s: float = MAX_OFFSET_S,
) -> TimeOffset:
    """Estimate the offset that all fixed cameras of some episodes share.

    Args:
        episodes: Recorded with the same clocks.
        shape: The gripper to look for; by default the parametric one.
        views: Which views; by default all.
        max_offset_s: Range searched, to both sides.
    """
    shape = shape or GripperShape.parametric()
    candidates = np.arange(-max_offset_s, max_offset_s + _STEP_S / 2, _STEP_S)
    moves: list[_Moves] = []
    used, why = [], "no camera stands still"
    for episode in episodes:
        for name, view in episode.views.items():
            if view.camera is None or static_pose(view.camera) is None or (views is not None and name not in views):
                continue
            for trajectory in episode.grippers.values():
                found = _moves(episode, name, trajectory, shape, candidates)
                if isinstance(found, str):
                    why = found
                else:
                    moves.append(found)
                    used.append(episode.id)

    def cannot(reason: str, **known: Any) -> TimeOffset:
        values: dict[str, Any] = {"correlation": None, "at_zero": None, "streams": {}} | known
        return TimeOffset(None, None, episodes=tuple(dict.fromkeys(used)), reason=reason, **values)

    if not moves:
        return cannot(why)
    judged = [(m, flow.correlation_of(m.seen, m.predicted)) for m in moves]
    # A gripper that is hidden, or found in a wrong place, must not speak for the clock.
    clear = [(m, curve) for m, curve in judged if curve.max() >= MIN_OWN_CORRELATION]
    moves, curves = [m for m, _ in clear or judged], [curve for _, curve in clear or judged]
    total = np.mean(curves, axis=0)
    best = int(total.argmax())
    offset, high = flow.peak_between(candidates, total), float(total[best])
    by_view: dict[str, list[FloatArray]] = {}
    for m, curve in zip(moves, curves, strict=True):
        by_view.setdefault(m.view, []).append(curve)
    streams = {name: flow.peak_between(candidates, np.mean(c, axis=0)) for name, c in by_view.items()}
    known = {"correlation": high, "at_zero": float(np.interp(0.0, candidates, total)), "streams": streams}
    far = np.abs(candidates - candidates[best]) > _RIVAL_DISTANCE_S
    rival = float(total[far].max()) if far.any() else -1.0
    if best in (0, len(candidates) - 1):
        return cannot(f"the best offset is at the end of the ± {max_offset_s:g} s searched", **known)
    if high < MIN_CORRELATION:
        return cannot(f"seen and predicted motion agree too little ({high:.2f} < {MIN_CORRELATION})", **known)
    if high - rival < _MIN_LEAD:
        return cannot(f"another offset fits as well ({rival:.2f} against {high:.2f})", **known)
    apart = np.ptp(list(streams.values()))
    if apart > 2 * _MAX_APART_S:
        return cannot(f"the cameras disagree by {1e3 * apart:.0f} ms", **known)
    again = [flow.peak_between(candidates, np.mean([_without(m, b) for m in moves], axis=0)) for b in range(_BLOCKS)]
    # Jackknife over stretches of time (Efron & Tibshirani, An Introduction to the Bootstrap, 11.5).
    variance = (_BLOCKS - 1) / _BLOCKS * float(np.sum((np.array(again) - np.mean(again)) ** 2))
    interval = 1.645 * float(np.sqrt(variance + _OWN_ERROR_S**2))
    return TimeOffset(
        offset,
        interval,
        high,
        known["at_zero"],  # type: ignore[arg-type]
        streams,
        tuple(dict.fromkeys(used)),
        f"{len(moves)} recordings of {len(streams)} cameras",
    )


def _without(moves: _Moves, block: int) -> FloatArray:
    kept = moves.block != block
    return flow.correlation_of(moves.seen[kept], moves.predicted[:, kept])


def _moves(
    episode: Episode, name: str, trajectory: GripperTrajectory, shape: GripperShape, candidates: FloatArray
) -> _Moves | str:
    view = episode.views[name]
    camera = view.camera
    pose = None if camera is None else static_pose(camera)
    if camera is None or pose is None:
        return "no camera stands still"
    times, known = trajectory.times, trajectory.known
    margin = float(np.abs(candidates).max())
    if known.sum() < _MIN_PAIRS:
        return "too few poses are known"
    first, last = times[known][0], times[known][-1]
    kept = np.flatnonzero((times - margin >= first) & (times + margin <= last))[:_MAX_PAIRS]
    if len(kept) < _MIN_PAIRS:
        return f"fewer than {_MIN_PAIRS} frames lie {margin:g} s inside the episode"
    # A camera that is off shows the gripper elsewhere: there its flow is measured.
    check = check_view(view, {"": trajectory}, shape, frames=12)
    moved = np.zeros(2) if check.shift_px is None else check.shift_px
    K = intrinsics(camera)
    position = CubicSpline(times[known], trajectory.position[known])
    turn = RotationSpline(times[known], Rotation.from_quat(trajectory.quaternion_xyzw[known]))

    def project(at: FloatArray) -> tuple[FloatArray, FloatArray]:
        world_from_gripper = transforms.make_transform(turn(at).as_matrix(), position(at))
        uv, depth, valid = (
            np.asarray(a) for a in pinhole.project(transforms.apply(world_from_gripper, flow.BODY_POINTS), K, pose)
        )
        return np.where(valid[..., None], uv, np.nan), K[0, 0] / np.where(valid, depth, np.nan).mean(1)

    stamps = times[kept]
    spots, scale = project(stamps)
    pictures = view.frames.frames([int(k) for k in kept])
    seen = flow.along((cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in pictures), spots + moved, scale)
    every = (stamps[None] - candidates[:, None]).ravel()
    paths = project(every)[0].reshape(len(candidates), len(stamps), -1, 2)
    steps = np.diff(paths, axis=1)
    block = np.repeat(np.arange(len(seen)) * _BLOCKS // len(seen), spots.shape[1])
    seen, predicted = seen.reshape(-1, 2), steps.reshape(len(candidates), -1, 2)
    good = np.isfinite(seen).all(-1) & np.isfinite(predicted).all((0, 2))
    seen, predicted, block = seen[good], predicted[:, good], block[good]
    if len(seen) < _MIN_PAIRS:
        return "the gripper is in the picture in too few frames"
    if (
        np.linalg.norm(seen, axis=-1).mean() < flow.MIN_SEEN_PX
        or np.linalg.norm(predicted, axis=-1).mean() < flow.MIN_MOTION_PX
    ):
        return "nothing moves in the pictures"
    curve = flow.correlation_of(seen, predicted)
    if not np.isfinite(curve).all():
        return "nothing moves in the pictures"
    close = flow.agreeing(seen, predicted[int(curve.argmax())])
    return _Moves(name, seen[close], predicted[:, close], block[close])
