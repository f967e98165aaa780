"""Streams of one recording, put together into an `Episode`: the same way for every kind of log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cameras.files import scaled_to
from ...errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadImageError,
    FrameCountError,
    InvalidCameraError,
    MissingCalibrationError,
)
from ...geometry import exact, rotations, transforms
from ...model import (
    Camera,
    CameraTrack,
    Episode,
    FrameSource,
    GripperTrajectory,
    SelectedFrames,
    View,
    instruction_spans,
)
from ..kit.frames import FlippedFrames
from . import streams, sync
from .offset import estimate_offset
from .plausibility import explained, recorded
from .recording import Recording, ViewInput, shifted

FloatArray = NDArray[np.float64]


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
        raise explained(error, recording) from None


def _assemble(recording: Recording, time_offset: str) -> Episode:
    provenance: dict[str, Any] = dict(recording.provenance)
    if time_offset != "none":
        if recording.rows_fps is not None:
            raise AmbiguousSourceError(
                "rows have no stamps that could be moved", where=recording.id, field="time_offset", found=time_offset
            )
        if time_offset == "auto":
            estimate = estimate_offset(recording)
            provenance["time_offset"] = estimate.to_json()
            offset_s = estimate.require()
        else:
            offset_s = float(time_offset)
        provenance["time_offset_s"] = offset_s
        recording = shifted(recording, offset_s)

    extra = {name: view.poses for name, view in recording.views.items() if view.poses is not None}
    first, *more = recording.arms
    poses, opened = recording.first.poses, recording.first.openness
    others = {name: (recording.arms[name].poses, recording.arms[name].openness) for name in more}
    if recording.rows_fps is not None:
        counts = {name: len(view.frames) for name, view in recording.views.items()}
        synced = sync.by_rows(counts, poses, opened, recording.rows_fps, extra, others)
    else:
        synced = sync.synchronize(
            {name: _stamps(name, view) for name, view in recording.views.items()},
            poses,
            opened,
            master=recording.master,
            extra=extra,
            limits=recording.limits,
            wanted={name: view.wanted for name, view in recording.views.items() if view.wanted is not None},
            others=others,
        )
    found = {first: (synced.position, synced.quaternion_xyzw, synced.values), **synced.others}
    tools: dict[str, FloatArray] = {}
    grippers: dict[str, GripperTrajectory] = {}
    for name, arm in recording.arms.items():
        position, quaternion, openness = found[name]
        rotation = np.asarray(rotations.matrix_from_quaternion(quaternion))
        tools[name] = np.asarray(exact.matmul(arm.world_from_frame, transforms.make_transform(rotation, position)))
        grippers[name] = GripperTrajectory.from_transforms(
            exact.matmul(tools[name], arm.tool_from_gripper), openness, synced.times - synced.times[0]
        )

    views: dict[str, View] = {}
    moving: dict[str, FloatArray] = {}
    fixed: dict[str, FloatArray] = {}
    for name, view in recording.views.items():
        views[name], own_motion = _view(name, view, recording, synced, tools)
        camera = views[name].camera
        if own_motion and isinstance(camera, CameraTrack):
            moving[name] = camera.world_from_camera[:, :3, :3]
        elif isinstance(camera, Camera):
            fixed[name] = camera.world_from_camera
    for name, arm in recording.arms.items():
        # Of several arms it has to be said whose hand a tracked camera is in.
        alone = len(grippers) == 1
        hand = {v: turns for v, turns in moving.items() if alone or (name and recording.views[v].arm == name)}
        streams.ask_about_quaternion_order(
            found[name][1], arm.rotation, arm.tool_from_gripper, arm.world_from_frame, hand, fixed, recording.id
        )
    joints = recording.first.joints
    provenance["sync"] = dict(synced.report)
    provenance["start_time_s"] = float(synced.times[0])
    return Episode(
        id=recording.id,
        views=views,
        grippers=grippers,
        fps=synced.fps,
        instructions=recording.instructions,
        task=recording.task,
        sync="assumed" if recording.assumed or recording.rows_fps is not None else "measured",
        sync_residual_s=synced.residual_s,
        provenance=provenance,
        recorded=recorded(recording),
        spans=instruction_spans(recording.texts),
        joints=joints.at(synced.times) if joints is not None and len(recording.arms) == 1 else None,
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
    name: str, view: ViewInput, recording: Recording, synced: sync.Synced, world_from_tool: Mapping[str, FloatArray]
) -> tuple[View, bool]:
    """The view at the common times, and whether its camera moves by poses of its own.

    Args:
        name: Of the view.
        view: As the log has it.
        recording: It is of.
        synced: The common times.
        world_from_tool: ``(T, 4, 4)`` by arm.
    """
    index = synced.frames[name]
    known = view.camera
    size = (view.frames.width, view.frames.height)
    depth = view.depth
    if depth is not None and len(depth) != len(view.frames):
        raise FrameCountError(
            "depth and pictures differ in number", field=name, expected=len(view.frames), found=len(depth)
        )
    if depth is not None and (depth.width, depth.height) != size:
        raise BadImageError(
            "depth has another size than the pictures",
            field=name,
            expected=f"{size[0]}x{size[1]}",
            found=f"{depth.width}x{depth.height}",
        )
    if known is None:
        return View(None, _chosen(view, index), _chosen_depth(view, index), depth_range_m=view.depth_range_m), False
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
    frames = _chosen(view, index)
    K = known.K
    if known.distortion is not None and not known.distortion.is_zero:
        from ...cameras.undistort import UndistortedFrames, undistorted_K

        wide = view.pinhole_K
        K = undistorted_K(known.K, known.distortion, *size, where=name) if wide is None else wide
        frames = UndistortedFrames(frames, known.K, known.distortion, K)

    if view.poses is not None:
        position, q = synced.extra[name]
        pose = np.asarray(transforms.make_transform(rotations.matrix_from_quaternion(q), position))
    elif known.tool_from_camera is not None:
        if view.arm not in world_from_tool:
            raise AmbiguousSourceError(
                "does not say which of the arms the camera is fixed to",
                field=name,
                expected=" | ".join(world_from_tool),
                found=view.arm or "none",
            )
        pose = np.asarray(exact.matmul(world_from_tool[view.arm], known.tool_from_camera))
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
        pose = np.asarray(exact.matmul(recording.first.world_from_frame, pose))
    own_motion = pose.ndim == 3 and known.tool_from_camera is None
    if pose.ndim == 2:
        camera: Camera | CameraTrack = Camera(K, pose, *size, known.pixel_centre)
    else:
        track = CameraTrack(np.broadcast_to(K, (len(pose), 3, 3)), pose, *size, known.pixel_centre)
        camera = track[0] if track.is_static else track
    planes = _chosen_depth(view, index)
    if planes is not None and known.distortion is not None and not known.distortion.is_zero:
        from ...cameras.undistort import UndistortedPlanes

        planes = UndistortedPlanes(planes, known.K, known.distortion, K)
    return View(camera, frames, planes, None, view.depth_range_m, known.origin), own_motion and pose.ndim == 3


def _contiguous(index: sync.IntArray, count: int) -> bool:
    return len(index) == count and not (np.diff(index) != 1).any()


def _chosen(view: ViewInput, index: sync.IntArray) -> FrameSource:
    """The pictures at the common times, the right way round."""
    frames: FrameSource = view.frames
    if not _contiguous(index, len(frames)):
        frames = SelectedFrames(frames, index)
    return frames if view.flip == "none" else FlippedFrames(frames, view.flip)


def _chosen_depth(view: ViewInput, index: sync.IntArray) -> FrameSource | None:
    """Depth at the common times; whoever reads it turns it the right way round."""
    if view.depth is None or _contiguous(index, len(view.depth)):
        return view.depth
    return SelectedFrames(view.depth, index)
