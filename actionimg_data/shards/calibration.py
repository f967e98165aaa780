"""Cameras held against the pictures while a data set is made: verdicts for the samples, or a refusal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ..calibrate import CameraCheck, GripperShape, check_view
from ..calibrate.files import with_cameras
from ..cameras.files import UserCameras, load_user_cameras
from ..errors import BadFileError, CalibrationOffError, SourceNotFoundError
from ..model import Episode
from ..schemas import CalibrationRow, ConvertOptions


@lru_cache(maxsize=2)
def _shape(words: tuple[str, ...]) -> GripperShape:
    return GripperShape.from_words(words)


def checked(episode: Episode, views: Sequence[str], options: ConvertOptions) -> tuple[tuple[CalibrationRow, ...], str]:
    """What the pictures of an episode say of its cameras, and the gripper model that was looked for.

    Args:
        episode: As its converter read it.
        views: Of the data set.
        options: Whether to check, what to look for, and what to do with cameras that are off.

    Returns:
        A row for each view; empty where nothing is to be checked.

    Raises:
        CalibrationOffError: A camera is off, and such episodes are to be quarantined.
    """
    if not options.checks_calibration:
        return (), ""
    shape = _shape(options.calibration_gripper)
    found = [
        check_view(episode.views[name], episode.grippers, shape, episode=episode.id, name=name)
        for name in views
        if name in episode.views
    ]
    off = [c for c in found if c.verdict == "off"]
    if off and options.check_calibration == "quarantine":
        raise CalibrationOffError(
            "the gripper is not seen where camera and pose put it",
            where=episode.id,
            field=", ".join(c.view for c in off),
            expected="a displacement within the uncertainty",
            found="; ".join(c.reason for c in off),
            hint="Look: actionimg calibrate check SRC --out DIR. Mend: actionimg calibrate refine.",
        )
    return tuple(_row(c) for c in found), shape.name


@lru_cache(maxsize=2)
def _cameras(path: str, sha256: str | None) -> UserCameras:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise SourceNotFoundError("no such camera file", where=path) from None
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise BadFileError("is not the camera file that this data set was planned with", where=path, found=found)
    return load_user_cameras(Path(path))


def with_refined_cameras(episode: Episode, options: ConvertOptions) -> Episode:
    """The episode with the cameras of ``options.refined_cameras`` in place of its own.

    Raises:
        SourceNotFoundError: No such file.
        BadFileError: The file is another one than when the data set was planned.
        InvalidCameraError: A camera is for pictures of another shape.
    """
    if options.refined_cameras is None:
        return episode
    return with_cameras(episode, _cameras(options.refined_cameras, options.refined_cameras_sha256))


def _row(check: CameraCheck) -> CalibrationRow:
    off, interval = check.displacement_px, check.interval_px
    return CalibrationRow(
        view=check.view,
        verdict=check.verdict,
        displacement_px=None if off is None else round(off, 2),
        interval_px=None if interval is None else round(interval, 2),
        reason=check.reason,
    )
