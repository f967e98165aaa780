"""What a converter reads from a log: pictures, poses and openness with their own stamps, not yet brought together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cameras.files import CalibratedCamera
from ...errors import MissingCalibrationError
from ...model import FrameSource
from ...schemas.mapping import Rotation
from ...schemas.plausibility import Finding
from .sync import JointSamples, PoseSamples, ScalarSamples, SyncLimits

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ViewInput:
    """One camera of a recording.

    Args:
        frames: All its pictures.
        times: ``(N,)`` stamps in seconds, offsets applied; None where pictures belong to poses row by row.
        camera: Its calibration; exactly one of its poses is known, or ``poses`` is given.
        poses: The camera's own pose stream (camera in the world, OpenCV axes), for one that is tracked.
        flip: ``none``, or how the pictures are stored flipped.
        scaled: Pictures may have another size than the calibration: they were scaled.
        wanted: ``(N,)`` which pictures the log means to be used; None for all.
        frame: Which frame ``camera.world_from_camera`` is in: ``world``, or ``pose`` for that of the poses.
        arm: The arm that the camera is fixed to, of several, where the calibration says ``tool_from_camera``, or its
            own poses move with that hand.
        depth: Depth beside the pictures, of the same number, or None.
        depth_range_m: The least and largest depth that the source can tell.
        pinhole_K: ``(3, 3)`` of the pictures without distortion that are made where the lens distorts; None: the
            largest without empty corners.
        assumed: The stamps were made from a stated rate.

    ``camera`` is None where the user wants pictures and poses alone.
    """

    frames: FrameSource
    times: FloatArray | None
    camera: CalibratedCamera | None
    poses: PoseSamples | None = None
    flip: str = "none"
    scaled: bool = False
    wanted: NDArray[np.bool_] | None = None
    frame: str = "world"
    arm: str = ""
    depth: FrameSource | None = None
    depth_range_m: tuple[float, float] | None = None
    pinhole_K: FloatArray | None = None
    assumed: bool = False

    @property
    def known(self) -> CalibratedCamera:
        """The calibration; `MissingCalibrationError` where the user wants none."""
        if self.camera is None:
            raise MissingCalibrationError("has no calibration")
        return self.camera


@dataclass(frozen=True, eq=False)
class Arm:
    """One gripper of a recording.

    Args:
        poses: Of the frame that the log reports, metres; stamps with offsets applied.
        openness: In [0, 1]; stamps with offsets applied.
        tool_from_gripper: ``(4, 4)``.
        world_from_frame: ``(4, 4)`` of the poses' frame.
        rotation: What the mapping says of the rotation, for the question about quaternion order.
        joints: Of the arm, where the log has them, for calibration; stamps with offsets applied.
    """

    poses: PoseSamples
    openness: ScalarSamples
    tool_from_gripper: FloatArray
    world_from_frame: FloatArray = field(default_factory=lambda: np.eye(4))
    rotation: Rotation | None = None
    joints: JointSamples | None = None


@dataclass(frozen=True, eq=False)
class Recording:
    """Everything a converter read from a log, before streams are brought together.

    Args:
        id: Of the episode.
        arms: The grippers by name, in order; the only one is called "".
        views: By name.
        instructions: In words.
        rows_fps: The stated rate, where everything belongs together row by row; else None.
        master: View whose pictures set the times.
        limits: Of the synchroniser.
        assumed: Some stream's stamps were made from a stated rate.
        task: Name of the task.
        provenance: For the record.
        findings: What cannot be true, as far as only the converter can tell.
        texts: The instruction of each row, where it changes and everything belongs together row by row; else empty.
    """

    id: str
    arms: Mapping[str, Arm]
    views: Mapping[str, ViewInput]
    instructions: tuple[str, ...]
    rows_fps: float | None = None
    master: str | None = None
    limits: SyncLimits = field(default_factory=SyncLimits)
    assumed: bool = False
    task: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    texts: tuple[str, ...] = ()

    @property
    def first(self) -> Arm:
        """The first gripper, in whose base frame poses of cameras may be (see `ViewInput`)."""
        return next(iter(self.arms.values()))


def shifted(recording: Recording, offset_s: float) -> Recording:
    """The recording with ``offset_s`` added to the stamps of its poses and grippers."""

    def later(arm: Arm) -> Arm:
        return replace(
            arm,
            poses=replace(arm.poses, times=arm.poses.times + offset_s),
            openness=replace(arm.openness, times=arm.openness.times + offset_s),
            joints=None if arm.joints is None else replace(arm.joints, times=arm.joints.times + offset_s),
        )

    return replace(recording, arms={name: later(arm) for name, arm in recording.arms.items()})
