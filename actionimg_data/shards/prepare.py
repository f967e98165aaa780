"""From a reference to what is written: read the episode, lay refined cameras over its own, select, check.

The one way there: what is estimated, what is looked at before a data set is made, and what is written are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from ..calibrate import CameraCheck, GripperShape, check_view
from ..calibrate.files import with_cameras
from ..cameras.conditioning import with_conditioning
from ..cameras.files import UserCameras, load_user_cameras
from ..errors import (
    BadFileError,
    CalibrationOffError,
    InvalidTrajectoryError,
    MissingCalibrationError,
    MissingViewError,
    SourceNotFoundError,
    WrongFormatError,
)
from ..model import Episode, EpisodeRef
from ..plausibility import Finding, examine, refuse
from ..schemas import CalibrationRow, ConvertOptions, DatasetManifest, PlanEpisode
from ..untrusted.files import read_bytes
from .plan import check_planes


class Reader(Protocol):
    """The half of a converter that a shard needs."""

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode."""
        ...


class WatchedReader(Reader, Protocol):
    """A `Reader` that can say whether an episode is still the one that was planned."""

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The episode's fingerprint as its files are now; None where that is not known."""
        ...


@dataclass(frozen=True)
class Recipe:
    """What every episode of a data set is made into; picklable.

    Args:
        views: Views of every sample, in order; with ``options.views_per_sample`` those that one may have.
        grippers: Names of the grippers of every sample, in order; empty for one without a name.
        options: What decides the bytes.
    """

    views: tuple[str, ...]
    grippers: tuple[str, ...]
    options: ConvertOptions

    @classmethod
    def of(cls, manifest: DatasetManifest) -> Recipe:
        """The recipe of a data set."""
        return cls(manifest.views, manifest.grippers, manifest.options)

    def views_of(self, episode: Episode) -> tuple[str, ...]:
        """The views of an episode that are written, in order.

        Raises:
            MissingViewError: It lacks one; or, where samples may differ, has a camera of one that was not planned.
            MissingCalibrationError: Where samples may differ: it has a camera of none.
        """
        if not self.options.views_per_sample:
            missing = [name for name in self.views if name not in episode.views]
            if missing:
                raise MissingViewError(
                    "lacks a view", where=episode.id, expected=" ".join(self.views), found=f"no {' '.join(missing)}"
                )
            return self.views
        calibrated = {name for name, view in episode.views.items() if view.camera is not None}
        views = tuple(name for name in self.views if name in calibrated)
        more = sorted(calibrated - set(self.views))
        if more and self.options.views_per_sample == "found":
            raise MissingViewError(
                "has a camera of a view that none of the first episodes had",
                where=episode.id,
                field="views",
                expected=" ".join(self.views),
                found=" ".join(more),
                hint=f"Name all that an episode may have: --views {','.join(('calibrated', *self.views, *more))}.",
            )
        if not views:
            raise MissingCalibrationError(
                "no camera of it is known", where=episode.id, field="views", expected=" | ".join(self.views)
            )
        return views


@dataclass(frozen=True)
class Prepared:
    """An episode as it is written: its views, stride and cameras are the data set's; pictures are resized as they come.

    ``calibration`` holds what the pictures say of each camera, and ``model`` the gripper that was looked for; both are
    empty where nothing was to be checked. ``findings`` are those that cannot be true and are allowed; those of its
    pictures come as they are read.
    """

    episode: Episode
    calibration: tuple[CalibrationRow, ...] = ()
    model: str = ""
    findings: tuple[Finding, ...] = ()


def prepare(planned: PlanEpisode, reader: Reader, recipe: Recipe) -> Prepared:
    """An episode of a plan, ready to be written.

    Raises:
        ImplausibleError: Something about it cannot be true, and is not allowed.
        ActionImgError: It cannot be converted: as `read_episode`, `selected` and `checked` say.
    """
    options = recipe.options
    source = read_episode(reference(planned), reader, refined_cameras(options), options.conditioning_cameras)
    episode = selected(source, recipe)
    findings = examine(_as_written(source, recipe), options.limits)
    refuse(findings, options.allow, source.id)
    return Prepared(episode, *checked(source, recipe), tuple(findings))


def _as_written(source: Episode, recipe: Recipe) -> Episode:
    """The views that are written, without their cameras where none are wanted."""
    views = {name: source.views[name] for name in recipe.views_of(source)}
    if recipe.options.poses_only:
        views = {name: replace(view, camera=None) for name, view in views.items()}
    return replace(source, views=views)


def reference(planned: PlanEpisode) -> EpisodeRef:
    """The reference that a converter gave when the plan was made."""
    return EpisodeRef(planned.id, planned.location, planned.num_frames, planned.fingerprint)


def read_episode(
    ref: EpisodeRef, reader: Reader, cameras: UserCameras | None = None, conditioning: str | None = None
) -> Episode:
    """An episode as its source has it, with the cameras of a file, where there is one, in place of its own.

    Args:
        ref: Where it is.
        reader: Reads it.
        cameras: In place of its own.
        conditioning: Where cameras of a frame of their own are (`with_conditioning`).

    Raises:
        InvalidCameraError: A camera of the file is for pictures of another shape.
        ActionImgError: It cannot be read.
    """
    episode = reader.read(ref)
    if cameras is not None:
        episode = with_cameras(episode, cameras)
    return episode if conditioning is None else with_conditioning(episode, conditioning)


def refined_cameras(options: ConvertOptions) -> UserCameras | None:
    """The cameras of ``options.refined_cameras``; None where no file is named.

    Raises:
        SourceNotFoundError: No such file.
        BadFileError: The file is another one than when the data set was planned.
    """
    if options.refined_cameras is None:
        return None
    return _cameras(options.refined_cameras, options.refined_cameras_sha256)


@lru_cache(maxsize=2)
def _cameras(path: str, sha256: str | None) -> UserCameras:
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise SourceNotFoundError("no such camera file", where=path) from None
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise BadFileError("is not the camera file that this data set was planned with", where=path, found=found)
    return load_user_cameras(Path(path))


def selected(episode: Episode, recipe: Recipe) -> Episode:
    """The episode with the data set's views and stride, its cameras those of the resized pictures.

    Raises:
        MissingViewError: It lacks a view, or a view the depth or the mask that is to be stored.
        InvalidTrajectoryError: It has other grippers than the data set, or one of several has no pose at all.
        MissingCalibrationError: A view has no camera.
        WrongFormatError: A camera is for pictures of another size than the view's.
    """
    options = recipe.options
    episode = episode.with_views(recipe.views_of(episode))
    check_planes(episode, options.planes)
    _check_grippers(episode, recipe.grippers)
    if options.stride > 1:
        episode = episode.select(range(0, len(episode), options.stride))
    episode = _conditioned(episode, options)
    if options.poses_only:
        return replace(episode, views={name: replace(view, camera=None) for name, view in episode.views.items()})
    cameras = {}
    for name, view in episode.views.items():
        if view.camera is None:
            raise MissingCalibrationError("view has no calibration", where=episode.id, field=name)
        if (view.camera.height, view.camera.width) != (view.frames.height, view.frames.width):
            raise WrongFormatError(
                "camera and pictures differ in size",
                where=episode.id,
                field=name,
                expected=f"{view.camera.width}x{view.camera.height}, as the camera says",
                found=f"{view.frames.width}x{view.frames.height}",
            )
        cameras[name] = replace(view, camera=view.camera.resized(options.height, options.width))
    return replace(episode, views=cameras)


def _conditioned(episode: Episode, options: ConvertOptions) -> Episode:
    """The episode with its conditioning cameras, where the data set has them, those of the resized pictures."""
    views = {}
    for name, view in episode.views.items():
        camera = view.conditioning if options.conditioning else None
        if options.conditioning and camera is None:
            raise MissingCalibrationError("view has no camera for conditioning", where=episode.id, field=name)
        views[name] = replace(
            view, conditioning=None if camera is None else camera.resized(options.height, options.width)
        )
    return replace(episode, views=views)


def _check_grippers(episode: Episode, grippers: Sequence[str]) -> None:
    if episode.gripper_names != tuple(grippers):
        raise InvalidTrajectoryError(
            "has other grippers than its data set",
            where=episode.id,
            field="grippers",
            expected=" ".join(grippers) or "one without a name",
            found=" ".join(episode.gripper_names) or "one without a name",
            hint="All samples of a data set have the same grippers: those of the first episode.",
        )
    for name, trajectory in episode.grippers.items():
        if name and not trajectory.known.any():
            raise InvalidTrajectoryError("has no poses", where=episode.id, field=f"grippers.{name}")


@lru_cache(maxsize=2)
def _shape(words: tuple[str, ...]) -> GripperShape:
    return GripperShape.from_words(words)


def checked(episode: Episode, recipe: Recipe) -> tuple[tuple[CalibrationRow, ...], str]:
    """What the pictures of an episode say of its cameras, and the gripper model that was looked for.

    Args:
        episode: As its source has it: the pictures have their own size.
        recipe: Which views; whether to check, what to look for, and what to do with cameras that are off.

    Returns:
        A row for each view; empty where nothing is to be checked.

    Raises:
        CalibrationOffError: A camera is off, and such episodes are to be quarantined.
    """
    options = recipe.options
    if not options.checks_calibration:
        return (), ""
    shape = _shape(options.calibration_gripper)
    found = [
        check_view(episode.views[name], episode.grippers, shape, episode=episode.id, name=name)
        for name in recipe.views
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


def _row(check: CameraCheck) -> CalibrationRow:
    off, interval = check.displacement_px, check.interval_px
    return CalibrationRow(
        view=check.view,
        verdict=check.verdict,
        displacement_px=None if off is None else round(off, 2),
        interval_px=None if interval is None else round(interval, 2),
        reason=check.reason,
    )
