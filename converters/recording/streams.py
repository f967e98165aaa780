"""From columns of numbers to poses and openness, as a mapping file says; and the question about quaternion order."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from ...errors import AmbiguousSourceError, InvalidTrajectoryError, MissingCalibrationError, WrongFormatError
from ...geometry import rotations, transforms
from ...schemas.mapping import (
    ANGLE_UNITS,
    LENGTH_UNITS,
    TIME_UNITS,
    Gripper,
    Joints,
    PoseStream,
    Rotation,
    moment_of,
)
from ...schemas.plausibility import Finding, Limits
from ..kit.kinematics import Chain
from ..kit.tables import Table
from .sync import PoseSamples

FloatArray = NDArray[np.float64]

_UNIT_TOLERANCE = 0.02
_ORTHONORMAL_TOLERANCE = 1e-2
_APPROACH_SIDEWAYS_DEG = 60.0
_LEVEL = 0.2
_APPROACH_DOWN_DEG = 35.0
_RIGID_SPREAD_DEG = 3.0


def seconds(stamps: NDArray[np.generic], unit: str, offset_s: float = 0.0) -> FloatArray:
    """Stamps as float64 seconds; whole numbers are split first, so that nanoseconds lose no more than they must."""
    if stamps.dtype.kind in "iu":
        per_second = round(1 / TIME_UNITS[unit])
        whole, rest = np.divmod(stamps.astype(np.int64), per_second)
        return whole.astype(np.float64) + rest.astype(np.float64) / per_second + offset_s
    return np.asarray(stamps, dtype=np.float64) * TIME_UNITS[unit] + offset_s


def parsed_times(values: NDArray[Any], where: object, field: str) -> tuple[NDArray[np.datetime64], bool]:
    """Texts of dates and times (ISO 8601) as ``datetime64[ns]`` in UTC, and whether they name their zone.

    Raises:
        WrongFormatError: One is none, or only some name their zone.
    """
    moments = []
    for row, text in enumerate(values):
        try:
            moments.append(moment_of(str(text).strip()))
        except ValueError:
            raise WrongFormatError(
                "is not a column of stamps",
                where=where,
                field=f"{field}[{row}]",
                expected="numbers, or dates and times",
                found=str(text),
            ) from None
    zoned = {m.tzinfo is not None for m in moments}
    if len(zoned) > 1:
        raise WrongFormatError("only some stamps name their zone", where=where, field=field)
    as_utc = [m.astimezone(timezone.utc).replace(tzinfo=None) if m.tzinfo is not None else m for m in moments]
    return np.asarray(as_utc, dtype="M8[us]").astype("M8[ns]"), zoned == {True}


def zone_offset(local_s: FloatArray, zone: str) -> FloatArray:
    """Seconds by which the local times ``(N,)`` of a zone are ahead of UTC."""
    known = ZoneInfo(zone)
    finite = np.where(np.isfinite(local_s), local_s, 0.0)
    # Zones change at whole quarters of an hour.
    quarters, place = np.unique(np.floor(finite / 900.0), return_inverse=True)
    moments = [datetime(1970, 1, 1) + timedelta(seconds=float(q) * 900.0) for q in quarters]
    offsets = [m.replace(tzinfo=known).utcoffset() or timedelta(0) for m in moments]
    return np.asarray([o.total_seconds() for o in offsets])[place]


def quaternions(values: FloatArray, form: str, order: str | None, unit: str | None, where: object) -> FloatArray:
    """Unit quaternions xyzw ``(N, 4)`` of rotations in any form; rows that are not finite give NaN.

    Args:
        values: ``(N, k)`` as logged.
        form: ``quaternion``, ``euler``, ``rotation_vector``, ``matrix`` or ``rotation_6d``.
        order: Of the numbers, see `actionimg_data.schemas.mapping.Rotation`.
        unit: ``rad`` or ``deg`` of angles.
        where: For errors.

    Raises:
        InvalidTrajectoryError: Quaternions that are not unit, or matrices that are not rotations.
    """
    out = np.full((len(values), 4), np.nan)
    finite = np.isfinite(values).all(-1)
    v = values[finite]
    if len(v) == 0:
        return out
    if form == "quaternion":
        q = v if order == "xyzw" else v[:, [1, 2, 3, 0]]
        norm = np.linalg.norm(q, axis=-1)
        if np.abs(norm - 1).max() > _UNIT_TOLERANCE:
            row = int(np.flatnonzero(finite)[np.abs(norm - 1).argmax()])
            found = f"{norm[np.abs(norm - 1).argmax()]:.4g}"
            raise InvalidTrajectoryError(
                "is not a unit quaternion", where=where, field=f"row {row}", expected="length 1", found=found
            )
        out[finite] = rotations.normalize(q)
        return out
    if form == "euler":
        out[finite] = rotations.quaternion_from_euler(v * ANGLE_UNITS[unit or "rad"], str(order))
        return out
    if form == "rotation_vector":
        matrix = rotations.matrix_from_rotation_vector(v * ANGLE_UNITS[unit or "rad"])
    elif form == "rotation_6d":
        columns = np.asarray(rotations.matrix_from_6d(v))
        # The first two rows are the first two columns of the transpose.
        matrix = columns if order == "columns" else columns.swapaxes(-1, -2)
    else:
        matrix = v.reshape(-1, 3, 3)
        matrix = matrix if order == "row" else matrix.swapaxes(1, 2)
        error = np.asarray(rotations.orthonormality_error(matrix))
        if error.max() > _ORTHONORMAL_TOLERANCE:
            row = int(np.flatnonzero(finite)[error.argmax()])
            raise InvalidTrajectoryError(
                "is not a rotation matrix",
                where=where,
                field=f"row {row}",
                expected=f"max |RᵀR − I| ≤ {_ORTHONORMAL_TOLERANCE:g}",
                found="a reflection" if error.max() >= 2 else f"{error.max():.3g}",
            )
        matrix = rotations.nearest_rotation(matrix)
    out[finite] = rotations.quaternion_from_matrix(matrix)
    return out


_WIDTHS = {"quaternion": 4, "euler": 3, "rotation_vector": 3, "matrix": 9, "rotation_6d": 6}


def angle_findings(values: FloatArray, unit: str, columns: Sequence[str], limits: Limits) -> list[Finding]:
    """Angles ``(N, k)`` that do not fit their unit.

    Radians go once around at most. Degrees of a hand that moves seldom stay within a few; but those of one that points
    down are near 180, so that numbers within ±π which come near to ±π are radians.
    """
    size = np.abs(values[np.isfinite(values)])
    largest = float(size.max()) if len(size) else 0.0
    stream = ", ".join(columns)
    if unit == "rad" and largest > limits.max_angle_rad:
        row = int(np.nanargmax(np.where(np.isfinite(values), np.abs(values), -1).max(axis=1)))
        found, expected = f"{largest:.4g} rad", f"at most {limits.max_angle_rad:.4g} rad: are they degrees?"
        return [Finding(kind="angle-unit", episode="", stream=stream, rows=(row, row), found=found, expected=expected)]
    if unit == "deg" and 3.0 < largest <= np.pi + 1e-3 and float(np.ptp(size)) > 1e-3:
        found = f"all angles lie within ±{largest:.4g}°, as radians of a hand that points down would"
        return [Finding(kind="angle-unit", episode="", stream=stream, found=found, expected="are they radians?")]
    return []


def joint_findings(joints: Joints, chain: Chain, values: FloatArray, limits: Limits) -> list[Finding]:
    """Joints ``(N, k)`` that are outside of what the robot file allows, or no angles in their unit."""
    found: list[Finding] = []
    for column, name in enumerate(joints.names):
        low, high = chain.limits.get(name, (-np.inf, np.inf))
        turns = name in chain.turning
        own = values[:, column] * (ANGLE_UNITS[joints.unit] if turns else 1.0)
        finite = np.isfinite(own)
        over = finite & ((own < low - limits.joint_margin_rad) | (own > high + limits.joint_margin_rad))
        if over.any():
            row = int(np.flatnonzero(over)[0])
            unit = "rad" if turns else "m"
            seen = f"{own[row]:.4g} {unit}" + (
                ", said to be rad: is it degrees?" if turns and abs(own[row]) > 7 else ""
            )
            stated = f"{low:.4g} … {high:.4g} {unit}, as the robot file says"
            found.append(
                Finding(kind="joint-limits", episode="", stream=name, rows=(row, row), found=seen, expected=stated)
            )
        elif turns and joints.unit == "rad" and not np.isfinite([low, high]).all():
            found += angle_findings(values[:, column : column + 1], "rad", (name,), limits)
    return found


def poses_from_table(
    table: Table, stream: PoseStream, times: FloatArray, folder: Path, limits: Limits | None = None
) -> PoseSamples:
    """The poses of the reported frame, as logged: metres, before ``tool_from_gripper``.

    Args:
        table: The log's columns.
        stream: What they mean.
        times: ``(N,)`` seconds.
        folder: Where a robot file is looked for.
        limits: Where plausible ends.

    Raises:
        WrongFormatError: Columns that do not exist, or hold another count of numbers.
        InvalidTrajectoryError: Rotations that are none.
    """
    findings: list[Finding] = []
    limits = limits or Limits()
    if stream.joints is not None:
        chain = Chain.load(folder / stream.joints.robot, stream.joints.base, stream.joints.tip)
        angles = table.numbers(stream.joints.columns, len(stream.joints.names))
        findings += joint_findings(stream.joints, chain, angles, limits)
        matrix = chain.poses(stream.joints.names, angles, ANGLE_UNITS[stream.joints.unit])
        position = matrix[:, :3, 3]
        q = quaternions(matrix[:, :3, :3].reshape(-1, 9), "matrix", "row", None, table.where)
    elif stream.matrix is not None:
        values = table.numbers(stream.matrix.columns)
        if values.shape[1] == 12 and stream.matrix.order == "row":
            # A 3x4 matrix: the last row is not stored.
            last = np.broadcast_to(np.array([0.0, 0.0, 0.0, 1.0]), (len(values), 4))
            values = np.concatenate([values, last], axis=1)
        if values.shape[1] != 16:
            raise WrongFormatError(
                "does not hold 4x4 matrices",
                where=table.where,
                field=", ".join(stream.matrix.columns),
                expected="16 numbers a row (or 12, by rows)",
                found=values.shape[1],
            )
        values = values.reshape(-1, 4, 4)
        matrix = values if stream.matrix.order == "row" else values.swapaxes(1, 2)
        finite = np.isfinite(matrix).all((-2, -1))
        if np.abs(matrix[finite][:, 3] - [0, 0, 0, 1]).max(initial=0) > 1e-6:
            raise InvalidTrajectoryError(
                "last row of a 4x4 matrix must be 0 0 0 1",
                where=table.where,
                field="pose.matrix.order",
                found=stream.matrix.order,
                hint="Is the order the other one?",
            )
        position = matrix[:, :3, 3] * LENGTH_UNITS[stream.matrix.unit]
        q = quaternions(matrix[:, :3, :3].reshape(-1, 9), "matrix", "row", None, table.where)
    elif stream.position is not None and stream.rotation is not None:
        position = table.numbers(stream.position.columns, 3) * LENGTH_UNITS[stream.position.unit]
        r = stream.rotation
        raw = table.numbers(r.columns, _WIDTHS[r.form])
        if r.unit is not None:
            findings += angle_findings(raw, r.unit, r.columns, limits)
        q = quaternions(raw, r.form, r.order, r.unit, table.where)
    else:
        raise MissingCalibrationError(
            "says no columns for the pose",
            where="mapping",
            field="pose",
            expected="position and rotation, matrix or joints",
        )
    if len(times) != len(position):
        raise InvalidTrajectoryError(
            "poses and stamps differ in number", where=table.where, expected=len(position), found=len(times)
        )
    samples = PoseSamples(times, position, q, tuple(findings))
    return inverted(samples) if stream.inverse else samples


def inverted(samples: PoseSamples) -> PoseSamples:
    """The inverses of all poses."""
    pose = transforms.invert(
        transforms.make_transform(rotations.matrix_from_quaternion(samples.quaternion_xyzw), samples.position)
    )
    q = np.where(samples.finite[:, None], samples.quaternion_xyzw * [-1, -1, -1, 1], np.nan)
    return PoseSamples(samples.times, np.asarray(pose[:, :3, 3]), q, samples.findings)


def openness_from_columns(values: FloatArray, gripper: Gripper, where: object) -> FloatArray:
    """Openness ``(N,)`` in [0, 1] of logged values ``(N, 1 or 2)``; NaN stays NaN.

    Raises:
        InvalidTrajectoryError: Values outside the stated range by more than the stated tolerance.
    """
    if gripper.combine == "difference":
        value = values[:, 0] - values[:, 1]
    elif gripper.combine is not None:
        value = values.sum(1) if gripper.combine == "sum" else values.mean(1)
    else:
        value = values[:, 0]
    openness = (value - gripper.closed) / (gripper.open - gripper.closed)
    bad = np.isfinite(openness) & ((openness < -gripper.tolerance) | (openness > 1 + gripper.tolerance))
    if bad.any():
        worst = int(np.nanargmax(np.where(bad, np.abs(openness - 0.5), -1)))
        low, high = np.nanmin(value), np.nanmax(value)
        raise InvalidTrajectoryError(
            "the gripper leaves the range that the mapping states",
            where=where,
            field=f"{', '.join(gripper.columns)}: row {worst}",
            expected=f"{gripper.closed:g} (closed) … {gripper.open:g} (open)",
            found=f"{value[worst]:g}; all values lie in {low:g} … {high:g}",
        )
    return np.asarray(np.clip(openness, 0.0, 1.0))


def ask_about_quaternion_order(
    quaternion_xyzw: FloatArray,
    rotation: Rotation | None,
    tool_from_gripper: FloatArray,
    world_from_frame: FloatArray,
    moving: MappingABC[str, FloatArray],
    fixed: MappingABC[str, FloatArray],
    where: object,
) -> None:
    """Raise a question where quaternions look as if their order were the other one; nothing is ever corrected.

    Swapping the order turns every rotation into another, but leaves the angles between them as they are, so that
    smoothness says nothing. Two things do: a camera that moves with the hand keeps its place in it, and a gripper
    seldom works sideways where the other order would have it point down (asked only where upright cameras agree that
    the world's z axis points up).

    Args:
        quaternion_xyzw: ``(T, 4)`` of the tool, as the mapping says it is.
        rotation: What the mapping says.
        tool_from_gripper: ``(4, 4)``.
        world_from_frame: ``(4, 4)`` of the poses' frame.
        moving: ``(T, 3, 3)`` rotations ``world_from_camera`` of the cameras that move by poses of their own.
        fixed: ``(4, 4)`` poses of the fixed cameras.
        where: For the error.

    Raises:
        AmbiguousSourceError: The question.
    """
    if rotation is None or rotation.form != "quaternion" or rotation.checked:
        return
    other = "wxyz" if rotation.order == "xyzw" else "xyzw"
    # What is called xyzw now would be these numbers had the log been written in the other order.
    swap = [1, 2, 3, 0] if other == "wxyz" else [3, 0, 1, 2]
    base = world_from_frame[:3, :3]
    as_said = base @ np.asarray(rotations.matrix_from_quaternion(quaternion_xyzw))
    as_other = base @ np.asarray(rotations.matrix_from_quaternion(quaternion_xyzw[:, swap]))

    def ask(why: str) -> None:
        raise AmbiguousSourceError(
            f"are the quaternions really {rotation.order}? {why}",
            where=where,
            field="pose.rotation.order",
            expected=rotation.order,
            found=f"motion that fits {other} better",
            hint=f"If they are {other}, say so; if not, say that you looked: in a mapping pose.rotation.order and "
            f"checked: true, elsewhere --quaternion-order {other} or {rotation.order}.",
        )

    for name, camera in moving.items():
        said, swapped = _spread_deg(as_said, camera), _spread_deg(as_other, camera)
        if said > _RIGID_SPREAD_DEG and swapped < said / 4:
            ask(
                f"The camera {name!r} turns by {said:.1f} degrees within the hand; with {other} it would stay within "
                f"{swapped:.2f}."
            )
        if said < _RIGID_SPREAD_DEG and swapped > 4 * said:
            return
    if not _z_is_up(list(fixed.values())):
        return
    down = np.array([0.0, 0.0, -1.0])
    approach = tool_from_gripper[:3, 2]
    said_deg, other_deg = (_tilt_deg(r @ approach, down) for r in (as_said, as_other))
    if said_deg > _APPROACH_SIDEWAYS_DEG and other_deg < _APPROACH_DOWN_DEG:
        ask(
            f"The gripper would point up to {said_deg:.0f} degrees away from down; with {other} at most "
            f"{other_deg:.0f}."
        )


def _z_is_up(fixed: Sequence[FloatArray]) -> bool:
    """Whether every fixed camera has its x axis level, none is upside down, and one at least tells up from down."""
    level = all(abs(pose[2, 0]) < _LEVEL for pose in fixed)
    downwards = [pose[2, 1] for pose in fixed]
    return level and bool(downwards) and max(downwards) < _LEVEL and min(downwards) < -_LEVEL


def _tilt_deg(directions: FloatArray, axis: FloatArray) -> float:
    return float(np.degrees(np.percentile(np.arccos(np.clip(directions @ axis, -1, 1)), 90)))


def _spread_deg(world_from_tool: FloatArray, world_from_camera: FloatArray) -> float:
    """Median angle by which a camera's rotation within the tool differs from its mean one."""
    within = np.swapaxes(world_from_tool, -1, -2) @ world_from_camera
    mean = np.asarray(rotations.nearest_rotation(within.mean(0)))
    return float(
        np.degrees(np.median(np.asarray(rotations.angle_between(np.broadcast_to(mean, within.shape), within))))
    )
