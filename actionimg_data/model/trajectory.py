"""The 7-DoF trajectory of one gripper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..conventions import QUATERNION_TOLERANCE
from ..errors import InvalidTrajectoryError
from ..geometry import rotations, transforms
from . import checks

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GripperTrajectory:
    """Poses of the canonical gripper frame in the world, and openness, over time.

    Args:
        position: ``(T, 3)`` metres.
        quaternion_xyzw: ``(T, 4)``; normalised (deviations up to 1e-3 from unit length are taken as rounding) and
            made sign-continuous in time.
        openness: ``(T,)`` in [0, 1]; 1 = open.
        times: ``(T,)`` seconds, strictly increasing.
        allow_missing: Accept frames whose pose is unknown: position and quaternion all NaN (openness may be known
            or NaN). Such frames are never drawn.

    Raises:
        InvalidTrajectoryError: Empty, not finite, not unit, out of range, or times that do not increase.
    """

    position: FloatArray
    quaternion_xyzw: FloatArray
    openness: FloatArray
    times: FloatArray

    def __init__(
        self,
        position: ArrayLike,
        quaternion_xyzw: ArrayLike,
        openness: ArrayLike,
        times: ArrayLike,
        *,
        allow_missing: bool = False,
    ) -> None:
        error = InvalidTrajectoryError
        finite = not allow_missing
        position = checks.float_array(position, (None, 3), "position", error, finite)
        n = len(position)
        if n == 0:
            raise error("has no frames", field="position", expected="at least 1 frame", found="0")
        q = checks.float_array(quaternion_xyzw, (n, 4), "quaternion_xyzw", error, finite)
        openness = checks.float_array(openness, (n,), "openness", error, finite)
        times = checks.float_array(times, (n,), "times", error)
        known = np.isfinite(position).all(-1) & np.isfinite(q).all(-1)
        partly = ~known & (np.isfinite(position).any(-1) | np.isfinite(q).any(-1))
        for field, bad in (("position", partly), ("openness", np.isinf(openness))):
            if bad.any():
                frame = int(np.argmax(bad))
                raise error("what is missing must be NaN, and a pose throughout", field=field, found=f"frame {frame}")
        # A quaternion of 1e200 is refused below; its norm's overflow is no news.
        with np.errstate(over="ignore"):
            norms = np.linalg.norm(q, axis=-1)
        bad = known & (np.abs(norms - 1) > QUATERNION_TOLERANCE)
        if bad.any():
            frame = int(np.argmax(bad))
            raise error(
                "is not a unit quaternion",
                field=f"quaternion_xyzw[{frame}]",
                expected=f"length 1 ± {QUATERNION_TOLERANCE:g}",
                found=f"{norms[frame]:.6g}",
            )
        if n > 1 and not (np.diff(times) > 0).all():
            frame = int(np.argmin(np.diff(times))) + 1
            raise error(
                "times must increase",
                field=f"times[{frame}]",
                expected=f"> {times[frame - 1]:g}",
                found=f"{times[frame]:g}",
            )
        out = ~np.isnan(openness) & ((openness < 0) | (openness > 1))
        if out.any():
            frame = int(np.argmax(out))
            raise error(
                "is outside [0, 1]",
                field=f"openness[{frame}]",
                expected="0 … 1",
                found=f"{openness[frame]:g}",
            )
        unit = q / np.where(known, norms, 1.0)[:, None]
        if n > 1 and known.any():
            unit = unit.copy()
            unit[known] = rotations.make_sign_continuous(unit[known])
        unit.flags.writeable = False
        for name, value in (("position", position), ("quaternion_xyzw", unit), ("openness", openness)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "times", times)

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, index: slice | NDArray[np.intp]) -> GripperTrajectory:
        return GripperTrajectory(
            self.position[index],
            self.quaternion_xyzw[index],
            self.openness[index],
            self.times[index],
            allow_missing=True,
        )

    @property
    def known(self) -> NDArray[np.bool_]:
        """``(T,)`` whether the frame's pose is known."""
        return np.asarray(np.isfinite(self.position[:, 0]))

    @property
    def rotation(self) -> FloatArray:
        """``(T, 3, 3)`` rotation matrices ``world_from_gripper``."""
        return np.asarray(rotations.matrix_from_quaternion(self.quaternion_xyzw))

    @property
    def world_from_gripper(self) -> FloatArray:
        """``(T, 4, 4)`` poses."""
        return np.asarray(transforms.make_transform(self.rotation, self.position))

    @classmethod
    def unknown(cls, times: ArrayLike) -> GripperTrajectory:
        """A trajectory of which nothing is known at any of ``times`` ``(T,)``: that of pictures alone."""
        n = len(np.asarray(times))
        nothing = np.full((n, 8), np.nan)
        return cls(nothing[:, :3], nothing[:, 3:7], nothing[:, 7], times, allow_missing=True)

    @classmethod
    def from_transforms(cls, world_from_gripper: ArrayLike, openness: ArrayLike, times: ArrayLike) -> GripperTrajectory:
        """Trajectory of rigid transforms ``(T, 4, 4)``."""
        raw = checks.float_array(world_from_gripper, (None, 4, 4), "world_from_gripper", InvalidTrajectoryError)
        pose = checks.rigid(raw, "world_from_gripper", InvalidTrajectoryError)
        return cls(pose[:, :3, 3], rotations.quaternion_from_matrix(pose[:, :3, :3]), openness, times)

    @classmethod
    def from_action7(cls, action_7d: ArrayLike, times: ArrayLike) -> GripperTrajectory:
        """Trajectory of ``(T, 7)``: x y z, extrinsic "xyz" Euler angles in radians, openness."""
        a = checks.float_array(action_7d, (None, 7), "action_7d", InvalidTrajectoryError)
        q = rotations.quaternion_from_matrix(rotations.matrix_from_euler(a[:, 3:6]))
        return cls(a[:, :3], q, a[:, 6], times)

    def to_action7(self) -> FloatArray:
        """``(T, 7)``: x y z, extrinsic "xyz" Euler angles in radians, openness."""
        euler = rotations.euler_from_matrix(self.rotation)
        return np.concatenate([self.position, euler, self.openness[:, None]], axis=1)

    @classmethod
    def from_action8(cls, action_8d: ArrayLike, times: ArrayLike) -> GripperTrajectory:
        """Trajectory of ``(T, 8)``: x y z, qx qy qz qw, openness."""
        a = checks.float_array(action_8d, (None, 8), "action_8d", InvalidTrajectoryError)
        return cls(a[:, :3], a[:, 3:7], a[:, 7], times)

    def to_action8(self) -> FloatArray:
        """``(T, 8)``: x y z, qx qy qz qw, openness."""
        return np.concatenate([self.position, self.quaternion_xyzw, self.openness[:, None]], axis=1)
