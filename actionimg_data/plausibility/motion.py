"""Poses that no gripper could have: too fast, of zeros, far away, on stairs, or in another unit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import rotations
from ..model import StreamSamples
from ..schemas.plausibility import FindingKind, Limits

FloatArray = NDArray[np.float64]
Found = tuple[FindingKind, tuple[int, int] | None, str, str]
"""Kind, rows, found, expected: a finding without its place."""

_JUMP_S = (0.004, 0.015)
"""What a step of speed and turn is at least, in seconds at the limit: less is noise of a fast stream."""
_MIN_RUNS = 8


def runs_of(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def motion(stream: StreamSamples, limits: Limits) -> Iterator[Found]:
    """What cannot be true of a stream of poses."""
    if stream.position is None or stream.quaternion_xyzw is None:
        return
    good = np.isfinite(stream.position).all(-1) & np.isfinite(stream.quaternion_xyzw).all(-1)
    good &= np.isfinite(stream.times)
    rows = np.flatnonzero(good)
    # Samples out of order are sorted by whoever uses them; here each step has to be one in time.
    rows = rows[np.argsort(stream.times[rows], kind="stable")]
    rows = rows[np.concatenate([[True], np.diff(stream.times[rows]) > 0])] if len(rows) else rows
    if len(rows) < 2:
        return
    times, position, q = stream.times[rows], stream.position[rows], stream.quaternion_xyzw[rows]
    zeros = _zero_rows(position, limits)
    for first, last in runs_of(zeros):
        yield (
            "zero-poses",
            (int(rows[first]), int(rows[last])),
            f"{last - first + 1} poses at the origin, {_beside(position, first, last):.2f} m from the next one",
            f"a step of at most {limits.zero_step_m:g} m",
        )
    median = np.median(position[~zeros], axis=0) if not zeros.all() else np.zeros(3)
    distance = np.linalg.norm(position - median, axis=1)
    far = distance > limits.max_distance_m
    for first, last in runs_of(far)[:3]:
        yield (
            "far-poses",
            (int(rows[first]), int(rows[last])),
            f"{distance[first : last + 1].max():.4g} m from the others",
            f"at most {limits.max_distance_m:g} m",
        )
    odd = zeros | far
    yield from _fast(rows[~odd], times[~odd], position[~odd], q[~odd], limits)
    yield from _stairs(rows, times, position, limits)


def _beside(position: FloatArray, first: int, last: int) -> float:
    beside = [i for i in (first - 1, last + 1) if 0 <= i < len(position)]
    return float(max((np.linalg.norm(position[i]) for i in beside), default=0.0))


def _zero_rows(position: FloatArray, limits: Limits) -> NDArray[np.bool_]:
    """Rows at the very origin that the next pose is far from: a log that begins there moves away step by step."""
    zero: NDArray[np.bool_] = np.asarray((position == 0).all(-1))
    if zero.all() or not zero.any():
        return np.zeros(len(position), bool)
    for first, last in runs_of(zero):
        if _beside(position, first, last) <= limits.zero_step_m:
            zero[first : last + 1] = False
    return zero


def _fast(
    rows: NDArray[np.intp], times: FloatArray, position: FloatArray, q: FloatArray, limits: Limits
) -> Iterator[Found]:
    if len(rows) < 2:
        return
    periods = np.diff(times)
    # Messages that were logged in bursts lie much closer in time than they were measured.
    least = 0.5 * max(float(np.median(periods)), (times[-1] - times[0]) / (len(times) - 1))
    periods = np.maximum(periods, least)
    steps = np.linalg.norm(np.diff(position, axis=0), axis=1)
    turns = np.asarray(
        rotations.angle_between(rotations.matrix_from_quaternion(q[:-1]), rotations.matrix_from_quaternion(q[1:]))
    )
    kinds: tuple[tuple[FindingKind, FloatArray, float, float, str], ...] = (
        ("speed", steps, _JUMP_S[0] * limits.max_speed_m_s, limits.max_speed_m_s, "m/s"),
        ("turn", turns, _JUMP_S[1] * limits.max_turn_rad_s, limits.max_turn_rad_s, "rad/s"),
    )
    for kind, change, jump, limit, unit in kinds:
        rate = change / periods
        bad = (rate > limit) & (change > jump)
        if bad.any():
            worst = int(np.where(bad, rate, 0).argmax())
            count = int(bad.sum())
            yield (
                kind,
                (int(rows[worst]), int(rows[worst + 1])),
                f"{rate[worst]:.3g} {unit}" + (f", and too fast at {count - 1} more places" if count > 1 else ""),
                f"at most {limit:g} {unit}",
            )


def _stairs(rows: NDArray[np.intp], times: FloatArray, position: FloatArray, limits: Limits) -> Iterator[Found]:
    changed = (np.diff(position, axis=0) != 0).any(-1)
    at = np.flatnonzero(changed) + 1
    if len(at) < _MIN_RUNS:
        return
    lengths = np.diff(at)
    age = np.diff(times[at])
    steps = np.linalg.norm(position[at[1:]] - position[at[1:] - 1], axis=1)
    # A robot that waits has a few long runs; stairs have a tread at every step.
    stairs = (lengths >= 2) & (age > limits.staircase_s) & (steps > limits.staircase_m)
    if stairs.mean() > 0.5 and stairs.sum() >= _MIN_RUNS:
        yield (
            "staircase",
            (int(rows[at[0]]), int(rows[at[-1]])),
            f"a new pose every {np.median(age) * 1e3:.0f} ms, in steps of {np.median(steps[stairs]) * 1e3:.1f} mm, "
            f"among samples {np.median(np.diff(times)) * 1e3:.1f} ms apart",
            f"a new pose within {limits.staircase_s * 1e3:g} ms",
        )


def frozen(position: FloatArray, q: FloatArray, openness: FloatArray | None, frames: int) -> list[tuple[int, int]]:
    """Runs of at least ``frames`` poses that are exactly the same, in which the gripper does not move either."""
    same = (np.diff(position, axis=0) == 0).all(-1) & (np.diff(q, axis=0) == 0).all(-1)
    if openness is not None:
        same &= ~(np.abs(np.diff(openness)) > 0)
    return [(first, last + 1) for first, last in runs_of(same) if last - first + 2 >= frames]


def length_units(
    position: FloatArray, cameras: dict[str, FloatArray], tool_offset_m: float, limits: Limits
) -> Iterator[Found]:
    """Distances that only fit another unit of length.

    Args:
        position: ``(T, 3)`` of the gripper, world.
        cameras: ``(T, 3)`` or ``(3,)`` places of the cameras, world.
        tool_offset_m: From the frame that the log reports to the gripper.
        limits: What is plausible.
    """
    known: Any = position[np.isfinite(position).all(-1)]
    if len(known) == 0:
        return
    if tool_offset_m > limits.max_tool_offset_m:
        yield (
            "length-unit",
            None,
            f"the gripper is {tool_offset_m:.4g} m from the frame that the log reports",
            f"at most {limits.max_tool_offset_m:g} m: is tool_from_gripper in millimetres?",
        )
        return
    for name, place in cameras.items():
        at = place if place.ndim == 1 or len(place) == len(position) else place[0]
        distance = float(np.median(np.linalg.norm(known - (at if at.ndim == 1 else at[: len(known)]), axis=-1)))
        if distance > limits.max_camera_distance_m:
            reach, away = float(np.linalg.norm(known, axis=1).max()), float(np.linalg.norm(at, axis=-1).max())
            whose = "the positions of the gripper" if reach > away else f"the pose of the camera {name}"
            yield (
                "length-unit",
                None,
                f"the gripper is {distance:.4g} m from the camera {name}",
                f"at most {limits.max_camera_distance_m:g} m: are {whose} in millimetres, called metres?",
            )
            return
    reach = float(np.linalg.norm(known, axis=1).max())
    moved = float(np.ptp(known, axis=0).max())
    if cameras and 0 < moved < limits.min_reach_m and reach < limits.min_reach_m:
        yield (
            "length-unit",
            None,
            f"the gripper never gets farther than {reach * 1e3:.2g} mm from the origin",
            f"{limits.min_reach_m * 1e3:g} mm at least: are the positions metres, called millimetres?",
        )
        return
    for name, place in cameras.items():
        away = float(np.linalg.norm(place, axis=-1).max())
        if 0 < away < limits.min_reach_m:
            yield (
                "length-unit",
                None,
                f"the camera {name} is {away * 1e3:.2g} mm from the origin of the world",
                f"{limits.min_reach_m * 1e3:g} mm at least: is its pose in metres, divided by 1000?",
            )
