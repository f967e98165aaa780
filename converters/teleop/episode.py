"""Streams of one recording, put together into an `Episode`: the same way for every kind of log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import (
    ActionImgError,
    AmbiguousSourceError,
    FrameCountError,
    InvalidCameraError,
    MissingCalibrationError,
)
from ...geometry import rotations, transforms
from ...model import Camera, CameraTrack, Episode, FrameSource, GripperTrajectory, SelectedFrames, View
from ...schemas.mapping import Rotation
from ..calibration import CalibratedCamera, scaled_to
from . import streams, sync
from .frames import FlippedFrames
from .sync import PoseSamples, ScalarSamples, SyncLimits

FloatArray = NDArray[np.float64]
MAX_OFFSET_S = 0.5


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
    """

    frames: FrameSource
    times: FloatArray | None
    camera: CalibratedCamera
    poses: PoseSamples | None = None
    flip: str = "none"
    scaled: bool = False
    wanted: NDArray[np.bool_] | None = None
    frame: str = "world"


@dataclass(frozen=True, eq=False)
class Recording:
    """Everything a converter read from a log, before streams are brought together.

    Args:
        id: Of the episode.
        poses: Of the frame that the log reports, metres; stamps with offsets applied.
        openness: In [0, 1]; stamps with offsets applied.
        views: By name.
        tool_from_gripper: ``(4, 4)``.
        instructions: In words.
        world_from_frame: ``(4, 4)`` of the poses' frame.
        rotation: What the mapping says of the rotation, for the question about quaternion order.
        rows_fps: The stated rate, where everything belongs together row by row; else None.
        master: View whose pictures set the times.
        limits: Of the synchroniser.
        assumed: Some stream's stamps were made from a stated rate.
        task: Name of the task.
        provenance: For the record.
    """

    id: str
    poses: PoseSamples
    openness: ScalarSamples
    views: Mapping[str, ViewInput]
    tool_from_gripper: FloatArray
    instructions: tuple[str, ...]
    world_from_frame: FloatArray = field(default_factory=lambda: np.eye(4))
    rotation: Rotation | None = None
    rows_fps: float | None = None
    master: str | None = None
    limits: SyncLimits = field(default_factory=SyncLimits)
    assumed: bool = False
    task: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def shifted(recording: Recording, offset_s: float) -> Recording:
    """The recording with ``offset_s`` added to the stamps of its poses and gripper."""
    return replace(
        recording,
        poses=replace(recording.poses, times=recording.poses.times + offset_s),
        openness=replace(recording.openness, times=recording.openness.times + offset_s),
    )


def assemble(recording: Recording, time_offset: str = "none") -> Episode:
    """The `Episode` of a recording.

    Args:
        recording: What was read.
        time_offset: ``none``, ``auto`` (estimate from the pictures, and apply), or seconds to add to the stamps of
            the poses and the gripper.

    Raises:
        ActionImgError: Whatever about the streams cannot be brought together.
    """
    try:
        return _assemble(recording, time_offset)
    except ActionImgError as error:
        raise error.at(recording.id) from None


def _assemble(recording: Recording, time_offset: str) -> Episode:
    provenance: dict[str, Any] = dict(recording.provenance)
    if time_offset != "none":
        if recording.rows_fps is not None:
            raise AmbiguousSourceError(
                "rows have no stamps that could be moved", where=recording.id, field="time_offset", found=time_offset
            )
        if time_offset == "auto":
            from .offset import estimate_offset

            estimate = estimate_offset(recording)
            provenance["time_offset"] = estimate.to_json()
            offset_s = estimate.require()
        else:
            offset_s = float(time_offset)
        provenance["time_offset_s"] = offset_s
        recording = shifted(recording, offset_s)

    extra = {name: view.poses for name, view in recording.views.items() if view.poses is not None}
    if recording.rows_fps is not None:
        counts = {name: len(view.frames) for name, view in recording.views.items()}
        synced = sync.by_rows(counts, recording.poses, recording.openness, recording.rows_fps, extra)
    else:
        synced = sync.synchronize(
            {name: _stamps(name, view) for name, view in recording.views.items()},
            recording.poses,
            recording.openness,
            master=recording.master,
            extra=extra,
            limits=recording.limits,
            wanted={name: view.wanted for name, view in recording.views.items() if view.wanted is not None},
        )
    rotation = np.asarray(rotations.matrix_from_quaternion(synced.quaternion_xyzw))
    world_from_tool = recording.world_from_frame @ np.asarray(transforms.make_transform(rotation, synced.position))
    world_from_gripper = world_from_tool @ recording.tool_from_gripper

    views: dict[str, View] = {}
    moving: dict[str, FloatArray] = {}
    fixed: dict[str, FloatArray] = {}
    for name, view in recording.views.items():
        views[name], own_motion = _view(name, view, recording, synced, world_from_tool)
        camera = views[name].camera
        if own_motion and isinstance(camera, CameraTrack):
            moving[name] = camera.world_from_camera[:, :3, :3]
        elif isinstance(camera, Camera):
            fixed[name] = camera.world_from_camera
    streams.ask_about_quaternion_order(
        synced.quaternion_xyzw,
        recording.rotation,
        recording.tool_from_gripper,
        recording.world_from_frame,
        moving,
        fixed,
        recording.id,
    )
    provenance["sync"] = dict(synced.report)
    provenance["start_time_s"] = float(synced.times[0])
    return Episode(
        id=recording.id,
        views=views,
        trajectory=GripperTrajectory.from_transforms(world_from_gripper, synced.values, synced.times - synced.times[0]),
        fps=synced.fps,
        instructions=recording.instructions,
        task=recording.task,
        sync="assumed" if recording.assumed or recording.rows_fps is not None else "measured",
        sync_residual_s=synced.residual_s,
        provenance=provenance,
    )


def _stamps(name: str, view: ViewInput) -> FloatArray:
    if view.times is None:
        raise AmbiguousSourceError("pictures have no stamps", field=f"views.{name}.time")
    if len(view.times) != len(view.frames):
        raise FrameCountError(
            "pictures and their stamps differ in number",
            field=name,
            expected=f"{len(view.times)} pictures, one for each stamp",
            found=len(view.frames),
        )
    return view.times


def _view(
    name: str, view: ViewInput, recording: Recording, synced: sync.Synced, world_from_tool: FloatArray
) -> tuple[View, bool]:
    """The view at the common times, and whether its camera moves by poses of its own."""
    index = synced.frames[name]
    known = view.camera
    size = (view.frames.width, view.frames.height)
    if (known.width, known.height) != size:
        if not view.scaled:
            raise InvalidCameraError(
                "pictures and calibration differ in size",
                field=name,
                expected=f"{known.width}x{known.height}",
                found=f"{size[0]}x{size[1]}",
                hint="If the pictures are the calibrated ones scaled, whole, set camera.scaled: true.",
            )
        known = scaled_to(known, *size, where=name)
    frames: FrameSource = view.frames
    if len(index) != len(frames) or (np.diff(index) != 1).any():
        frames = SelectedFrames(frames, index)
    if view.flip != "none":
        frames = FlippedFrames(frames, view.flip)
    K = known.K
    if known.distortion is not None and not known.distortion.is_zero:
        from ..undistort import UndistortedFrames, undistorted_K

        K = undistorted_K(known.K, known.distortion, *size, where=name)
        frames = UndistortedFrames(frames, known.K, known.distortion, K)

    if view.poses is not None:
        position, q = synced.extra[name]
        pose = np.asarray(transforms.make_transform(rotations.matrix_from_quaternion(q), position))
    elif known.tool_from_camera is not None:
        pose = world_from_tool @ known.tool_from_camera
    elif known.world_from_camera is not None:
        pose = known.world_from_camera
        if pose.ndim == 3:
            if len(pose) != len(view.frames):
                raise FrameCountError(
                    "camera poses and pictures differ in number",
                    field=name,
                    expected=f"{len(view.frames)}, one for each picture",
                    found=len(pose),
                )
            pose = pose[index]
    else:
        raise MissingCalibrationError(
            "the camera's pose is not known",
            field=name,
            expected="world_from_camera, tool_from_camera, or poses of its own",
        )
    if view.frame == "pose" and known.tool_from_camera is None:
        pose = recording.world_from_frame @ pose
    own_motion = pose.ndim == 3 and known.tool_from_camera is None
    if pose.ndim == 2:
        return View(Camera(K, pose, *size), frames), False
    track = CameraTrack(np.broadcast_to(K, (len(pose), 3, 3)), pose, *size)
    return View(track[0] if track.is_static else track, frames), own_motion
