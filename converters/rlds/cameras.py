"""Calibration of an RLDS episode: from the data set's own features, from DROID's side files, from a user's camera file.

Or from what the data set's own sources publish (`actionimg_data.cameras.published`), where the user asks for that.
There is no other way: where none of these knows a view's camera, the episode is refused with what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cameras.files import (
    OPENCV_FROM_OPENGL,
    CalibratedCamera,
    DroidSideFiles,
    UserCameras,
    load_user_cameras,
    scaled_to,
)
from ...cameras.published import PublishedSet
from ...cameras.published import published as all_published
from ...errors import FrameCountError, InvalidCameraError, MissingCalibrationError, WrongFormatError
from ...geometry import exact, transforms
from ...model import Camera, CameraTrack, FrameSource
from ...schemas.rlds_registry import FeatureCamera, RldsEntry
from .reader import Record
from .registry import feature_key

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Sources:
    """Where calibration may come from, besides the data set itself."""

    camera_file: UserCameras | None = None
    droid: DroidSideFiles | None = None
    entry: str = ""
    dataset: str = ""
    published: PublishedSet | None = None

    def of(self, entry: str, dataset: str, *, published: bool) -> Sources:
        """These for a data set of this name and registry entry, with its published cameras where they are wanted.

        Raises:
            MissingCalibrationError: None are published.
        """
        found = all_published().get(entry) if published else None
        if published and (found is None or not any(found.rows(view, dataset) for view in found.views)):
            raise MissingCalibrationError(
                "the data set's own sources publish no cameras of it",
                where=dataset,
                field="cameras",
                expected=" | ".join(all_published()),
                hint="Give a camera file (--camera-file), or go without action images (--poses-only).",
            )
        return replace(self, entry=entry, dataset=dataset, published=found)

    def publishes(self, views: Iterable[str]) -> bool:
        """Whether published cameras are wanted, and there is one of any of these views."""
        return self.published is not None and any(self.published.rows(view, self.dataset) for view in views)


def first_text(value: Any) -> str:
    """A text feature's value, or its first one that is not empty."""
    if isinstance(value, str):
        return value
    return next((str(v) for v in np.asarray(value, dtype=object).ravel() if str(v).strip()), "")


@lru_cache(maxsize=2)
def _sources(camera_file: str | None, droid: str | None, _: str) -> Sources:
    return Sources(
        None if camera_file is None else load_user_cameras(Path(camera_file)),
        None if droid is None else DroidSideFiles(Path(droid)),
    )


def sources(camera_file: Path | None, droid: Path | None, stamp: str) -> Sources:
    """The files a user gave, read once a process; ``stamp`` changes when they do."""
    return _sources(None if camera_file is None else str(camera_file), None if droid is None else str(droid), stamp)


def find(
    name: str, frames: FrameSource, entry: RldsEntry, given: Sources, episode_id: str, record: Record
) -> tuple[CalibratedCamera, dict[str, Any]]:
    """A view's calibration at the pictures' size, and where it comes from.

    The user's file comes first: who gives one means it.

    Raises:
        MissingCalibrationError: Nobody knows this camera; the message says what to do.
        InvalidCameraError: The calibration is of pictures of another aspect.
    """
    user = None
    if given.camera_file is not None:
        user = given.camera_file.camera(name, episode_id, lambda key: first_text(record.read(feature_key(key))))
    if user is not None and given.camera_file is not None:
        found = scaled_to(user, frames.width, frames.height, episode_id, entry.views[name].resized)
        return found, {"file": given.camera_file.path.name}
    if name in entry.calibration.cameras:
        camera = _from_features(entry.calibration.cameras[name], frames, record)
        return camera, {"features": entry.calibration.cameras[name].K}
    if given.published is not None:
        known = given.published.camera(name, given.dataset, lambda key: first_text(record.read(feature_key(key))))
        if known is not None and known.origin is not None:
            fitting = scaled_to(known, frames.width, frames.height, episode_id, entry.views[name].resized)
            return fitting, {"published": known.origin.source, "kind": known.origin.kind}
    if entry.calibration.droid is not None and given.droid is not None:
        return _from_droid(name, frames, entry, given.droid, record)
    raise missing(name, entry, given, episode_id)


def missing(name: str, entry: RldsEntry, given: Sources, episode_id: str) -> MissingCalibrationError:
    """The error of a view whose camera nobody knows, with the exact next step."""
    ways: list[str] = []
    options: list[str] = []
    known = all_published().get(given.entry)
    if given.published is None and known is not None and known.rows(name, given.dataset):
        ways.append("take the camera that its own sources publish: --cameras published")
        options.append("--cameras published")
    if entry.calibration.droid is not None and given.droid is None:
        ways.append(
            "give the folder with DROID's side files (https://huggingface.co/KarlP/droid): --droid-calibration FOLDER"
        )
        options.append("--droid-calibration FOLDER")
    if given.camera_file is None:
        ways.append("give a camera file: --camera-file FILE (docs/rlds.md shows one)")
    else:
        ways.append(f"add {name} to {given.camera_file.path}")
    if len(entry.views) > 1 and (entry.calibration.kind != "none" or given.camera_file is not None):
        ways.append(f"leave the view out: --views {','.join(v for v in entry.views if v != name)}")
    ways.append("convert pictures and trajectory without action images: --poses-only")
    return MissingCalibrationError(
        f"the camera of view {name!r} is not known: the data set carries no calibration of it",
        where=episode_id,
        field=name,
        expected=[*options, "--camera-file FILE"][0],
        hint=f"{ways[0][0].upper()}{ways[0][1:]}; or {'; or '.join(ways[1:])}.",
    )


def _from_features(camera: FeatureCamera, frames: FrameSource, record: Record) -> CalibratedCamera:
    K = _matrices(record, camera.K, ((3, 3),))
    if (K[0] != K).any():
        raise InvalidCameraError("intrinsics change within the episode", where=record.where, field=camera.K)
    key = camera.world_from_camera or camera.camera_from_world or ""
    pose = _matrices(record, key, ((4, 4), (3, 4)))
    if pose.shape[1] == 3:
        pose = np.concatenate([pose, np.broadcast_to([[[0.0, 0.0, 0.0, 1.0]]], (len(pose), 1, 4))], axis=1)
    if camera.world_from_camera is None:
        pose = np.asarray(transforms.invert(pose))
    if camera.axes == "opengl":
        pose = np.asarray(exact.matmul(pose, OPENCV_FROM_OPENGL))
    return CalibratedCamera(K[0], frames.width, frames.height, world_from_camera=pose, pixel_centre=0.5)


def _matrices(record: Record, key: str, shapes: tuple[tuple[int, int], ...]) -> FloatArray:
    """Matrices ``(T, ...)`` of a feature, one a step or one an episode."""
    flat = feature_key(key)
    values = np.asarray(record.read(flat))
    if not record.leaf(flat).in_steps:
        values = np.broadcast_to(values, (record.num_steps, *values.shape))
    if values.shape[1:] not in shapes or values.dtype.kind not in "iuf":
        expected = " or ".join(f"{a}x{b}" for a, b in shapes)
        raise WrongFormatError(
            "is no matrix of a camera", where=record.where, field=flat, expected=expected, found=values.shape[1:]
        )
    return values.astype(np.float64)


def droid_instructions(entry: RldsEntry, files: DroidSideFiles | None, record: Record) -> tuple[str, ...]:
    """What DROID's side files say that the episode does; empty where they do not, or are not given."""
    droid = entry.calibration.droid
    if files is None or droid is None:
        return ()
    episode = files.episode_id(first_text(record.read(feature_key(droid.path))))
    return () if episode is None else files.instructions(episode)


def _from_droid(
    name: str, frames: FrameSource, entry: RldsEntry, files: DroidSideFiles, record: Record
) -> tuple[CalibratedCamera, dict[str, Any]]:
    droid = entry.calibration.droid
    path = "" if droid is None else first_text(record.read(feature_key(droid.path)))
    role = "" if droid is None else droid.serials.get(name, "")
    episode = files.episode_id(path)
    hint = (
        "Episodes without a calibration go to quarantine, and do not count as bad. Take of each episode the views that "
        "have one with --views calibrated, give cameras with --camera-file, or go without action images with "
        "--poses-only."
    )
    if episode is None:
        raise MissingCalibrationError(
            "the side files do not know this episode",
            where=files.folder,
            field="episode_id_to_path.json",
            found=path,
            hint=hint,
        )
    serial = files.serials(episode).get(role)
    if serial is None:
        raise MissingCalibrationError(
            "the side files have no serial of this camera",
            where=files.folder,
            field=f"camera_serials.json: {episode}: {role or name}",
            hint=hint,
        )
    found = files.camera(episode, serial)
    if found.base_from_camera is None or found.K is None:
        lacking = "pose" if found.base_from_camera is None else "intrinsics"
        raise MissingCalibrationError(
            f"the side files have no {lacking} of this camera",
            where=files.folder,
            field=f"{episode}: {name} (serial {serial})",
            hint=hint,
        )
    camera = CalibratedCamera(found.K, found.width, found.height, world_from_camera=found.base_from_camera)
    source = {"episode": episode, "serial": serial, "quality": dict(found.quality)}
    resized = entry.views[name].resized
    return scaled_to(camera, frames.width, frames.height, record.where, resized), {"droid": source}


def place(known: CalibratedCamera, world_from_tool: FloatArray, where: str, name: str) -> Camera | CameraTrack:
    """The camera in the poses' world; one that is fixed to the end-effector moves with it.

    Raises:
        MissingCalibrationError: The calibration has no pose.
        FrameCountError: A moving camera has another number of poses than there are steps.
    """
    if known.tool_from_camera is not None:
        moving = np.asarray(exact.matmul(world_from_tool, known.tool_from_camera))
        known = replace(known, world_from_camera=moving, tool_from_camera=None)
    pose = known.world_from_camera
    if pose is not None and pose.ndim == 3:
        if len(pose) != len(world_from_tool):
            raise FrameCountError(
                "the camera has another number of poses than the episode has steps",
                where=where,
                field=name,
                expected=len(world_from_tool),
                found=len(pose),
            )
        if (pose == pose[0]).all():
            known = replace(known, world_from_camera=pose[0])
    return known.camera(f"{where}: {name}")
