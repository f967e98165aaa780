"""From an episode's numbers to poses and openness, as the registry says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import ActionImgError, InvalidTrajectoryError, WrongFormatError
from ...geometry import exact, rotations, transforms
from ...model import JointTrack
from ...schemas.mapping import ANGLE_UNITS, LENGTH_UNITS
from ...schemas.rlds_registry import RldsEntry, RldsGripper, RldsPose
from ..kit.kinematics import Chain
from ..recording.streams import quaternions
from .reader import Record
from .registry import column

FloatArray = NDArray[np.float64]

_WIDTHS = {"quaternion": 4, "euler": 3, "rotation_vector": 3, "matrix": 9, "rotation_6d": 6}
_RELATIVE_DEADBAND = 0.1
"""Fraction of a command under which it says nothing (rel2abs_gripper_actions of octo's data_utils.py)."""


def numbers(record: Record, columns: tuple[str, ...], width: int | None) -> FloatArray:
    """Columns of a record side by side, ``(T, width)`` float64.

    Raises:
        WrongFormatError: A feature does not exist, is not numbers, or there are not ``width`` of them.
    """
    parts = []
    for reference in columns:
        key, part = column(reference)
        values = record.read(key)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or not record.leaf(key).in_steps:
            raise WrongFormatError("is not numbers, one row a step", where=record.where, field=key)
        rows = values.reshape(record.num_steps, -1) if values.size else values.reshape(record.num_steps, 0)
        if part is not None and part.stop > rows.shape[1]:
            raise WrongFormatError(
                "has fewer numbers than asked for",
                where=record.where,
                field=key,
                expected=reference.removeprefix(key),
                found=f"{rows.shape[1]} numbers",
            )
        parts.append(rows if part is None else rows[:, part])
    out = np.concatenate(parts, axis=1).astype(np.float64)
    if width is not None and out.shape[1] != width:
        raise WrongFormatError(
            "holds another count of numbers than needed",
            where=record.where,
            field=", ".join(columns),
            expected=width,
            found=out.shape[1],
        )
    return out


def world_from_tool(record: Record, pose: RldsPose, chain: Chain | None = None) -> FloatArray:
    """Poses ``(T, 4, 4)`` of the reported frame, metres.

    Args:
        record: The episode.
        pose: What its numbers mean.
        chain: The robot's kinematics, where the pose is given by joints.

    Raises:
        WrongFormatError: Features that do not exist or do not fit.
        InvalidTrajectoryError: Values that are not finite, or rotations that are none.
    """
    if pose.matrix is not None:
        values = numbers(record, pose.matrix.columns, 16).reshape(-1, 4, 4)
        matrix = values if pose.matrix.order == "row" else values.swapaxes(1, 2)
        if not np.abs(matrix[:, 3] - [0, 0, 0, 1]).max(initial=0) <= 1e-6:
            raise InvalidTrajectoryError(
                "last row of a 4x4 matrix must be 0 0 0 1",
                where=record.where,
                field="pose.matrix.order",
                found=pose.matrix.order,
                hint="Is the order the other one?",
            )
        position, unit = matrix[:, :3, 3], pose.matrix.unit
        flat = matrix[:, :3, :3].reshape(-1, 9)
        q = quaternions(flat, "matrix", "row", None, record.where)
    elif pose.joints is not None and chain is not None:
        names = pose.joints.names or chain.names
        values = numbers(record, pose.joints.columns, None)
        if values.shape[1] != len(names):
            raise WrongFormatError(
                "holds another number of joints than the robot has between base and tip",
                where=record.where,
                field=", ".join(pose.joints.columns),
                expected=", ".join(names),
                found=f"{values.shape[1]} numbers",
            )
        matrix = chain.poses(names, values, ANGLE_UNITS[pose.joints.unit])
        position, unit = matrix[:, :3, 3], "m"
        q = quaternions(matrix[:, :3, :3].reshape(-1, 9), "matrix", "row", None, record.where)
    elif pose.position is not None and pose.rotation is not None:
        position, unit = numbers(record, pose.position.columns, 3), pose.position.unit
        r = pose.rotation
        q = quaternions(numbers(record, r.columns, _WIDTHS[r.form]), r.form, r.order, r.unit, record.where)
    else:
        raise WrongFormatError("says no columns for the pose", where=record.where, field="pose")
    finite = np.isfinite(position).all(-1) & np.isfinite(q).all(-1)
    if not finite.all():
        step = int(np.argmin(finite))
        raise InvalidTrajectoryError("has a pose that is not finite", where=record.where, field=f"pose of step {step}")
    rotation = np.asarray(rotations.matrix_from_quaternion(q))
    if pose.rotation_offset is not None:
        rotation = np.asarray(exact.matmul(rotation, np.asarray(pose.rotation_offset)))
    return np.asarray(transforms.make_transform(rotation, position * LENGTH_UNITS[unit]))


def joint_track(record: Record, entry: RldsEntry) -> JointTrack | None:
    """The arm's joint values beside the poses, where the entry names them and the data set has them."""
    given = entry.joints or (entry.pose.joints if entry.pose is not None else None)
    if given is None or any(column(reference)[0] not in record.leaves for reference in given.columns):
        return None
    return JointTrack(numbers(record, given.columns, len(given.names) or None) * ANGLE_UNITS[given.unit], given.names)


def openness(record: Record, gripper: RldsGripper) -> FloatArray:
    """Openness ``(T,)`` in [0, 1], 1 = open.

    Raises:
        WrongFormatError: Features that do not exist or do not fit.
        InvalidTrajectoryError: Values that are not finite.
    """
    try:
        values = numbers(record, gripper.columns, len(gripper.columns))
    except ActionImgError as error:
        raise error.at(record.where) from None
    if gripper.combine == "difference":
        value = values[:, 0] - values[:, 1]
    elif gripper.combine is not None:
        value = values.sum(1) if gripper.combine == "sum" else values.mean(1)
    else:
        value = values[:, 0]
    if not np.isfinite(value).all():
        step = int(np.argmin(np.isfinite(value)))
        raise InvalidTrajectoryError("is not finite", where=record.where, field=f"gripper of step {step}")
    if gripper.kind == "relative":
        return integrated(value, gripper.closed, gripper.open)
    return np.asarray(np.clip((value - gripper.closed) / (gripper.open - gripper.closed), 0.0, 1.0))


def integrated(commands: FloatArray, closed: float, open: float) -> FloatArray:
    """Openness ``(T,)`` of relative commands ``(T,)``: the last command holds, small ones say nothing.

    As the field does it (octo, OpenVLA: rel2abs_gripper_actions): the first command is taken to change something, so
    before it the gripper is in the other state; without any command it is open.
    """
    says_open = commands * np.sign(open) > _RELATIVE_DEADBAND * abs(open)
    says_closed = commands * np.sign(closed) > _RELATIVE_DEADBAND * abs(closed)
    state = np.where(says_open, 1.0, np.where(says_closed, 0.0, np.nan))
    known = np.flatnonzero(~np.isnan(state))
    if len(known) == 0:
        return np.ones(len(commands))
    before = 1.0 - state[known[0]]
    last = np.searchsorted(known, np.arange(len(commands)), side="right") - 1
    return np.asarray(np.where(last >= 0, state[known[np.maximum(last, 0)]], before))
