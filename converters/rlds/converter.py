"""The converter of RLDS data sets."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...cameras.transforms import TRANSFORM_FORMS, transform_file
from ...cameras.undistort import UndistortedFrames, UndistortedPlanes, undistorted_K
from ...errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadImageError,
    EmptyEpisodeError,
    InvalidSpecError,
    InvalidTextError,
    MissingCalibrationError,
    MissingFrameError,
    UnsupportedSourceError,
    WrongFormatError,
)
from ...geometry import exact
from ...model import Camera, CameraTrack, Episode, EpisodeRef, FrameSource, GripperTrajectory, View, millimetres
from ...model.episode import Frame, Plane
from ...schemas.rlds_registry import RldsEntry, RldsView
from ...untrusted.files import read_bytes
from ..base import Converter, ConverterOptions, Detection
from ..kit.frames import FlippedFrames, flipped
from ..kit.kinematics import Chain
from ..kit.mjcf import robot_files
from . import cameras, keep, layout, motion, registry, signals
from .reader import Place, Record, RLDSDataset, Shard

MAX_INSTRUCTIONS = 16
_LOOKED_AT = 3
"""Episodes of which `inspect` shows the gripper."""
_DEPTH_NUMBERS = ("float32", "float64", "uint16", "int32")
FloatArray = NDArray[np.float64]


class RLDSOptions(ConverterOptions):
    """What to take from an RLDS data set, and what the data set does not say."""

    dataset: str | None = Field(None, description="which data set, where SRC holds several: NAME or NAME/VERSION")
    from_split: str = Field(
        "train", description="split of SRC, with TFDS' slicing: train, train[10:20], train[:5%], train+val"
    )
    config: Path | None = Field(None, description="registry entry (YAML) for a data set of your own")
    camera_file: Path | None = Field(None, description="camera file: for the data set, by scene or by episode")
    cameras: Literal["published"] | None = Field(
        None,
        description="take the cameras that the data set's own sources publish, exact ones and estimates",
    )
    droid_calibration: Path | None = Field(None, description="folder with DROID's calibration side files")
    droid_keep_ranges: Path | None = Field(
        None, description="DROID's keep_ranges file: steps that it does not name, the idle ones, are left out"
    )
    poses_only: bool = Field(False, description="no calibration: pictures and trajectory, but no action images")
    videos_only: bool = Field(
        False, description="no pose either: pictures and words; of data sets that hold nothing else, or in place of it"
    )
    only_views: tuple[str, ...] = Field((), description="only these views (default: all that the registry names)")
    tool_from_gripper: str | None = Field(
        None,
        description=f"the canonical gripper frame in the reported one, where it is not known: {TRANSFORM_FORMS}",
    )
    robot: str | None = Field(
        None, description="robot file, URDF or MJCF: poses from the joints, not from the entry's pose (with --tip)"
    )
    tip: str | None = Field(None, description="with --robot: the link, body or site whose pose is the end-effector's")
    base: str | None = Field(None, description="with --robot: the frame that poses are in (default: the root)")
    joints: str | None = Field(
        None, description="with --robot: the feature that holds the joints in radians, e.g. observation/joint_position"
    )
    choose: tuple[str, ...] = Field((), description="SECTION=NAME, where sources disagree about the data set")
    openness: float | None = Field(
        None, ge=0, le=1, description="how open the gripper is throughout, where the data set records none: 0 to 1"
    )
    fps: float | None = Field(None, gt=0, le=1000, description="steps per second, instead of the registry's")
    instruction: str | None = Field(None, description="instruction of episodes that have none (else they are refused)")
    allow_missing_shards: bool = Field(False, description="go on without files that dataset_info.json lists")
    skip_bad_shards: bool = Field(
        False,
        description="go on after a file that is cut or damaged: the records after the damage go into quarantine",
    )
    allow_count_mismatch: bool = Field(
        False, description="go by the files where dataset_info.json counts other records"
    )


@dataclass(frozen=True)
class _Location:
    """Where an episode is; what an `EpisodeRef` carries, so that no index is needed to read it."""

    folder: str
    split: str
    shard: int
    file: str
    number: int
    records: tuple[tuple[int, ...], ...]
    grouping: str

    @classmethod
    def of(cls, dataset: RLDSDataset, place: Place) -> _Location:
        shard = place.shard
        records = tuple(tuple(r) for r in place.records)
        folder = str(dataset.path)
        return cls(folder, shard.split, shard.number, shard.path.name, place.number, records, place.grouping)

    @classmethod
    def parse(cls, ref: EpisodeRef) -> _Location:
        try:
            values = dict(ref.location)
            return cls(**{**values, "records": tuple(tuple(r) for r in values["records"])})
        except (TypeError, KeyError):
            raise WrongFormatError(
                "not a reference to an RLDS episode", where=ref.id, found=dict(ref.location)
            ) from None

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "records": [list(r) for r in self.records]}

    def place(self) -> Place:
        shard = Shard(self.split, self.shard, Path(self.folder) / self.file, None)
        return Place(shard, self.number, tuple(list(r) for r in self.records), self.grouping)


@lru_cache(maxsize=4)
def _open(folder: str, _: tuple[int, ...]) -> RLDSDataset:
    return RLDSDataset(layout.find(folder), allow_missing_shards=True, allow_count_mismatch=True)


def _dataset_of(location: _Location) -> RLDSDataset:
    """The data set of an episode; its features are parsed once a process, and again when the file changes."""
    paths = (Path(location.folder) / name for name in (layout.FEATURES, layout.INFO))
    return _open(location.folder, tuple(p.stat().st_mtime_ns if p.is_file() else 0 for p in paths))


_LAST: dict[_Location, Record] = {}


def _record(location: _Location) -> Record:
    """The record that was read last: the views of an episode are decoded one after the other.

    It is forgotten before another one is read, so that there is never more than one of them in memory: episodes of
    thousands of steps are records of hundreds of MB.
    """
    found = _LAST.get(location)
    if found is None:
        _LAST.clear()
        found = _LAST[location] = _dataset_of(location).record(location.place())
    return found


@dataclass(frozen=True)
class RecordFrames:
    """Pictures of one view, decoded when asked for; the record is read again where it is not the last one read."""

    location: _Location
    key: str
    count: int
    width: int
    height: int

    def __len__(self) -> int:
        return self.count

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """RGB pictures ``(H, W, 3)`` at ``indices``."""
        for picture in self._pictures(indices):
            # One channel is grey; a fourth is opacity.
            yield np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else np.ascontiguousarray(picture[..., :3])

    def _pictures(self, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
        for index in indices:
            record = _record(self.location)
            picture = record.read(self.key, frames=[index])[0]
            if picture.shape[:2] != (self.height, self.width):
                raise BadImageError(
                    "a picture of another size than the first one",
                    where=record.where,
                    field=f"{self.key}: picture {index}",
                    expected=f"{self.height}x{self.width}",
                    found=f"{picture.shape[0]}x{picture.shape[1]}",
                )
            yield picture


@dataclass(frozen=True)
class RecordDepth(RecordFrames):
    """Depth of one view, decoded when asked for."""

    units_per_metre: float
    flip: str

    def frames(self, indices: Sequence[int]) -> Iterator[Plane]:
        """Depth ``(H, W)`` uint16 at ``indices``, in millimetres, 0 where it is not known."""
        for picture in self._pictures(indices):
            yield flipped(millimetres(picture[..., 0].astype(np.float64) / self.units_per_metre), self.flip)


@dataclass(frozen=True)
class TensorDepth(RecordDepth):
    """Depth of one view that is stored as numbers, and not as pictures (taco_play, fmb)."""

    def _pictures(self, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
        values = np.asarray(_record(self.location).read(self.key)).reshape(self.count, self.height, self.width, 1)
        for index in indices:
            yield values[index]


class RLDSConverter(Converter):
    """RLDS / Open X-Embodiment data sets as TensorFlow Datasets writes them, read without TensorFlow."""

    name: ClassVar[str] = "rlds"
    views_field = "only_views"
    summary: ClassVar[str] = "RLDS / Open X-Embodiment data sets as TensorFlow Datasets writes them"
    Options: ClassVar[type[ConverterOptions]] = RLDSOptions
    options: RLDSOptions

    def __init__(self, options: ConverterOptions | None = None) -> None:
        super().__init__(options)
        self._known: dict[str, tuple[str, RldsEntry]] = {}
        self._kinematics: Chain | None = None

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether ``source`` is, or holds, a folder with TFDS' features.json and dataset_info.json."""
        found = layout.find_all(Path(source))
        if not found:
            return None
        names = sorted({f.name for f in found})
        return Detection("TFDS", f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}")

    @classmethod
    def explain(cls) -> str:
        """The registry: every field of an entry, what each known data set's entry says, and where that was read."""
        return registry.explain()

    def remote_headers(self) -> tuple[str, ...]:
        """What describes a data set; records are read in ranges, or fetched with their file."""
        return tuple(p for name in (layout.FEATURES, layout.INFO) for p in (name, f"*/{name}"))

    def remote_files(self, location: Mapping[str, Any]) -> list[Path]:
        """What describes the data set, and the file of the episode's record."""
        folder = Path(location["folder"])
        return [folder / name for name in (layout.FEATURES, layout.INFO, location["file"])]

    # -- episodes ------------------------------------------------------------------------------------------------

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """References to the episodes of the chosen split, in file order; reads record headers only.

        Raises:
            ActionImgError: The data set cannot be opened, is not known, or leaves something open that no option says.
        """
        dataset = self._dataset(source)
        entry_name, _ = self._entry(dataset)
        stamp = self._stamp(entry_name)
        count = 0
        for place in dataset.places(self.options.from_split):
            location = _Location.of(dataset, place)
            fingerprint = hashlib.sha256(f"{dataset.fingerprint(place)} {stamp}".encode()).hexdigest()[:16]
            num_frames = len(place.records) or None if place.grouping else None
            yield EpisodeRef(place.id, location.to_json(), num_frames, fingerprint)
            count += 1
        if count == 0:
            raise WrongFormatError("has no episodes", where=dataset.path, field=f"split {self.options.from_split}")

    def _dataset(self, source: str) -> RLDSDataset:
        found = layout.find(source, self.options.dataset)
        return RLDSDataset(
            found,
            allow_missing_shards=self.options.allow_missing_shards,
            allow_count_mismatch=self.options.allow_count_mismatch,
            skip_bad_shards=self.options.skip_bad_shards,
        )

    def _entry(self, dataset: RLDSDataset) -> tuple[str, RldsEntry]:
        """The registry's entry with the user's choices made, and checked as far as it can be without an episode."""
        folder = str(dataset.path)
        if folder not in self._known:
            self._known[folder] = self._find_entry(dataset)
        return self._known[folder]

    def _find_entry(self, dataset: RLDSDataset) -> tuple[str, RldsEntry]:
        name, entry = registry.find(dataset, self.options.config)
        given_robot = (self.options.robot, self.options.tip, self.options.base, self.options.joints)
        entry = registry.with_joints(entry, *given_robot, dataset.path)
        entry = registry.choose(entry, self.options.choose, dataset.path)
        # Said before any episode is read, and all at once: without it every episode would fail in the same way.
        checks: tuple[Callable[[], object], ...] = (
            lambda: registry.check_pose(entry, dataset.path),
            lambda: self._check_gripper(entry, dataset),
            lambda: registry.tool_from_gripper(entry, self.options.tool_from_gripper, dataset.path),
            lambda: self._check_cameras(name, entry, dataset),
        )
        if self.videos_only:
            self._views(entry)
            checks = ()
        left: list[ActionImgError] = []
        for check in checks:
            try:
                check()
            except (AmbiguousSourceError, MissingCalibrationError) as error:
                left.append(error)
        if left:
            raise _together(left, self._options_for(name, entry, dataset), dataset)
        self._fps(entry, dataset)
        if not self.videos_only:
            self._chain(entry)
        return name, entry

    def possible_views(self, source: str) -> tuple[str, ...]:
        """The entry's views of which a camera can be known."""
        dataset = self._dataset(source)
        name, entry = self._entry(dataset)
        given, droid = self._calibration(name, dataset.name), entry.calibration.droid
        views = self._views_of(entry, given)
        if droid is None or given.droid is None or given.camera_file is not None:
            return tuple(views)
        return tuple(v for v in views if given.droid.knows(droid.serials.get(v, "")))

    @property
    def left_out(self) -> frozenset[str]:
        """DROID's episodes without a calibration: its side files have one of about half of them."""
        return frozenset({MissingCalibrationError.code} if self.options.droid_calibration is not None else ())

    def _options_for(self, name: str, entry: RldsEntry, dataset: RLDSDataset) -> list[str]:
        """Options, with what they take, that give all that the entry and the user leave open."""
        given = {"--tool-from-gripper": self.options.tool_from_gripper, "--openness": self.options.openness}
        takes = {"--tool-from-gripper": "--tool-from-gripper TRANSFORM", "--openness": "--openness SHARE"}
        options = [takes.get(o, o.replace("/", "|")) for o in registry.asked(entry) if given.get(o) is None]
        try:
            self._check_cameras(name, entry, dataset)
        except MissingCalibrationError as error:
            options.append(str(error.expected))
        return options

    def _check_cameras(self, name: str, entry: RldsEntry, dataset: RLDSDataset) -> None:
        views = self._views(entry)
        if self.poses_only:
            return
        given = self._calibration(name, dataset.name)
        carried = {"none": False, "features": True, "droid": given.droid is not None}[entry.calibration.kind]
        if not carried and given.camera_file is None and not given.publishes(views):
            raise cameras.missing(views[0], entry, given, str(dataset.path))

    def _views(self, entry: RldsEntry) -> list[str]:
        known = (*entry.views, *_either(entry))
        unknown = [v for v in self.options.only_views if v not in known]
        if unknown:
            raise InvalidSpecError("no such view", field="views", expected=" | ".join(known), found=unknown[0])
        return list(self.options.only_views or entry.views)

    def _views_of(self, entry: RldsEntry, given: cameras.Sources) -> list[str]:
        """The views to read: where none are named, with published cameras or side files those that can have one."""
        views = self._views(entry)
        if self.options.only_views or given.camera_file is not None:
            return views
        if given.droid is not None and entry.calibration.droid is not None:
            if self.calibrated_views:
                return [v for v in views if v in entry.calibration.droid.serials]
            return list(_either(entry)) or views
        if given.published is None:
            return views
        return [v for v in views if given.publishes([v]) or v in entry.calibration.cameras] or views

    def _check_gripper(self, entry: RldsEntry, dataset: RLDSDataset) -> None:
        registry.check_choices(entry, "gripper", dataset.path)
        if entry.gripper is None and self.options.openness is None:
            raise AmbiguousSourceError(
                entry.unstated.get("gripper", "has no gripper"),
                where=dataset.path,
                field="gripper",
                hint="Say how open it is throughout: --openness 0 (closed) to 1 (open).",
            )
        if entry.gripper is not None and self.options.openness is not None:
            raise InvalidSpecError(
                "the data set records its gripper; how open it is is not for you to say",
                where=dataset.path,
                field="openness",
                found=self.options.openness,
            )

    def _fps(self, entry: RldsEntry, dataset: RLDSDataset) -> float:
        fps = self.options.fps or entry.fps
        if fps is None:
            raise InvalidSpecError(
                "the rate of this data set is not known", where=dataset.path, field="fps", hint="Give it with --fps."
            )
        return fps

    def _chain(self, entry: RldsEntry) -> Chain | None:
        """The robot's kinematics, read once, where the entry gives joints."""
        joints = None if entry.pose is None else entry.pose.joints
        if joints is None:
            return None
        if self._kinematics is None:
            folder = Path() if self.options.config is None else Path(self.options.config).parent
            self._kinematics = Chain.load(folder / joints.robot, joints.base, joints.tip)
        return self._kinematics

    def _calibration(self, entry: str, dataset: str) -> cameras.Sources:
        given = cameras.sources(self.options.camera_file, self.options.droid_calibration, self._stamp(""))
        return given.of(entry, dataset, published=self.options.cameras == "published" and not self.poses_only)

    def _stamp(self, entry_name: str) -> str:
        """What changes when a file that the user gave does."""
        parts = [entry_name]
        robots = [] if self.options.robot is None else robot_files(Path(self.options.robot))
        tool = transform_file(self.options.tool_from_gripper)
        keep = self.options.droid_keep_ranges
        given = (self.options.config, self.options.camera_file, keep, *robots, None if tool is None else Path(tool))
        for path in given:
            if path is not None and path.is_file():
                parts.append(hashlib.sha256(read_bytes(path)).hexdigest())
        folder = self.options.droid_calibration
        if folder is not None and folder.is_dir():
            parts += [f"{p.name}:{p.stat().st_size}" for p in sorted(folder.glob("*.json"))]
        return " ".join(parts)

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The episode's fingerprint as its files are now; of TFRecords their own checksums are what is compared."""
        location = _Location.parse(ref)
        dataset = _dataset_of(location)
        stamp = self._stamp(self._entry(dataset)[0])
        return hashlib.sha256(f"{dataset.fingerprint(location.place())} {stamp}".encode()).hexdigest()[:16]

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode; its pictures are read when asked for.

        Raises:
            EmptyEpisodeError: No steps.
            MissingCalibrationError: A view without a known camera (not with ``poses_only``).
            ActionImgError: Anything else about the episode that cannot be converted.
        """
        try:
            return self._read(ref)
        except ActionImgError as error:
            raise error.at(ref.id) from None

    def _read(self, ref: EpisodeRef) -> Episode:
        location = _Location.parse(ref)
        record = _record(location)
        dataset = _dataset_of(location)
        name, entry = self._entry(dataset)
        steps = record.num_steps
        if steps == 0:
            raise EmptyEpisodeError("has no steps", where=record.where)
        fps = self._fps(entry, dataset)
        times = np.arange(steps) / fps
        read = None if self.videos_only else self._motion(name, entry, record, dataset)
        if read is None:
            trajectory, world_from_tool, tool = GripperTrajectory.unknown(times), np.empty((0, 4, 4)), {}
        else:
            world_from_tool, tool_from_gripper, openness = read
            moved = exact.matmul(world_from_tool, tool_from_gripper)
            trajectory = GripperTrajectory.from_transforms(moved, openness, times)
            tool = {"tool_from_gripper": tool_from_gripper.tolist()}
        # Words may come from DROID's side files where no camera does.
        given = self._calibration(name, dataset.name)
        views, calibrations = self._read_views(entry, location, record, world_from_tool, given, ref.id)
        episode = Episode(
            id=ref.id,
            views=views,
            trajectory=trajectory,
            fps=fps,
            instructions=self._instructions(entry, record, given),
            task=dataset.name,
            sync="assumed",
            joints=None if read is None else motion.joint_track(record, entry),
            provenance={
                "format": "rlds",
                "dataset": dataset.name,
                "version": dataset.version,
                "split": location.split,
                "file": location.file,
                "record": location.number,
                "registry": name,
                "choices": list(self.options.choose),
                **tool,
                "calibration": calibrations,
                **_metadata(record),
            },
        )
        return self._without_idle(episode, entry, record)

    def _motion(
        self, name: str, entry: RldsEntry, record: Record, dataset: RLDSDataset
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """World from tool ``(T, 4, 4)``, tool from gripper ``(4, 4)`` and openness ``(T,)``."""
        if entry.pose is None:
            raise WrongFormatError("leaves the pose open", where=name)
        if entry.gripper is not None:
            openness = motion.openness(record, entry.gripper)
        else:
            openness = np.full(record.num_steps, float(self.options.openness or 0.0))
        tool_from_gripper = registry.tool_from_gripper(entry, self.options.tool_from_gripper, dataset.path)
        return motion.world_from_tool(record, entry.pose, self._chain(entry)), tool_from_gripper, openness

    def _read_views(
        self,
        entry: RldsEntry,
        location: _Location,
        record: Record,
        world_from_tool: FloatArray,
        given: cameras.Sources,
        episode_id: str,
    ) -> tuple[dict[str, View], dict[str, Any]]:
        """The views that are wanted, and where the camera of each is from."""
        views: dict[str, View] = {}
        calibrations: dict[str, Any] = {}
        refused: MissingCalibrationError | None = None
        for view in self._views(entry) if self.poses_only else self._views_of(entry, given):
            try:
                found = self._first(view, entry, location, record, world_from_tool, given, episode_id)
            except MissingCalibrationError as error:
                if not self.calibrated_views:
                    raise
                refused = error
                continue
            if found is not None:
                views[view], calibrations[view] = found
        if not views and refused is not None:
            raise refused
        if not views:
            raise EmptyEpisodeError("has none of the views", where=record.where, expected=" | ".join(entry.views))
        return views, calibrations

    def _without_idle(self, episode: Episode, entry: RldsEntry, record: Record) -> Episode:
        file, droid = self.options.droid_keep_ranges, entry.calibration.droid
        if file is None:
            return episode
        if droid is None:
            raise InvalidSpecError("is of DROID's episodes alone", where=record.where, field="droid_keep_ranges")
        path = cameras.first_text(record.read(registry.feature_key(droid.path)))
        return keep.without_idle(episode, keep.ranges(str(file), self._stamp("")).steps(path, len(episode)), path)

    def _first(
        self,
        name: str,
        entry: RldsEntry,
        location: _Location,
        record: Record,
        world_from_tool: FloatArray,
        given: cameras.Sources,
        episode_id: str,
    ) -> tuple[View, dict[str, Any]] | None:
        """A view, or the first of those that it stands for whose camera is known."""
        candidates = _either(entry).get(name)
        if candidates is None:
            return self._view(name, entry, location, record, world_from_tool, given, episode_id)
        refused: MissingCalibrationError | None = None
        for candidate in candidates:
            try:
                found = self._view(candidate, entry, location, record, world_from_tool, given, episode_id)
            except MissingCalibrationError as error:
                refused = error
                continue
            if found is not None:
                return found[0], {"view": candidate, **found[1]}
        if refused is not None:
            raise refused
        return None

    def _view(
        self,
        name: str,
        entry: RldsEntry,
        location: _Location,
        record: Record,
        world_from_tool: FloatArray,
        given: cameras.Sources,
        episode_id: str,
    ) -> tuple[View, dict[str, Any]] | None:
        """The view with its camera and where that comes from; None where the episode has fill in its place."""
        view = entry.views[name]
        key = registry.feature_key(view.image)
        leaf = record.leaf(key).leaf
        if leaf.kind != "image" or leaf.dtype != "uint8":
            raise UnsupportedSourceError("is no 8-bit picture", where=record.where, field=key, found=leaf.text())
        height, width, _ = record.image_shape(key)
        frames: FrameSource = RecordFrames(location, key, record.num_steps, width, height)
        if view.may_be_fill and not any(p.any() for p in frames.frames(sorted({0, record.num_steps - 1}))):
            if name in self.options.only_views:
                raise MissingFrameError(
                    "holds black pictures: the episode has no such camera", where=record.where, field=key
                )
            return None
        if view.flip != "none":
            frames = FlippedFrames(frames, view.flip)
        depth: FrameSource | None = self._depth(view, location, record)
        if self.poses_only:
            return View(None, frames, depth), {}
        known, source = cameras.find(name, frames, entry, given, episode_id, record)
        camera: Camera | CameraTrack
        if known.distortion is not None and not known.distortion.is_zero:
            K = undistorted_K(known.K, known.distortion, width, height, where=name)
            frames = UndistortedFrames(frames, known.K, known.distortion, K)
            depth = depth and UndistortedPlanes(depth, known.K, known.distortion, K)
            known = replace(known, K=K, distortion=None)
        camera = cameras.place(known, world_from_tool, episode_id, name)
        return View(camera, frames, depth, origin=known.origin), source

    def _depth(self, view: RldsView, location: _Location, record: Record) -> RecordDepth | None:
        # Copies of a data set may come without it; `convert --depth` says so.
        if view.depth is None or (key := registry.feature_key(view.depth.image)) not in record.leaves:
            return None
        leaf = record.leaf(key).leaf
        numbers = tuple(n for n in leaf.shape[:2] if n is not None)
        if (
            leaf.kind == "tensor"
            and len(numbers) == 2
            and leaf.shape[2:] in ((), (1,))
            and leaf.dtype in _DEPTH_NUMBERS
        ):
            where = (location, key, record.num_steps, numbers[1], numbers[0])
            return TensorDepth(*where, view.depth.units_per_metre, view.flip)
        if leaf.kind != "image" or leaf.shape[2] != 1 or leaf.dtype not in ("uint16", "float32"):
            raise UnsupportedSourceError(
                "is no depth",
                where=record.where,
                field=key,
                expected="pictures of one channel, uint16 or float32, or numbers (height, width)",
                found=leaf.text(),
            )
        height, width, _ = record.image_shape(key)
        return RecordDepth(location, key, record.num_steps, width, height, view.depth.units_per_metre, view.flip)

    def _instructions(self, entry: RldsEntry, record: Record, given: cameras.Sources) -> tuple[str, ...]:
        """Distinct texts that are not empty, in order; the side files' where there is none, then the user's."""
        texts: dict[str, None] = {}
        for key in entry.instruction.keys:
            flat = registry.feature_key(key)
            if flat not in record.leaves and len(entry.instruction.keys) > 1:
                continue
            for text in _texts(record, flat):
                texts.setdefault(re.sub(r"\s+", " ", str(text)).strip())
        kept = [t for t in texts if t][:MAX_INSTRUCTIONS]
        if not kept:
            kept = list(cameras.droid_instructions(entry, given.droid, record))[:MAX_INSTRUCTIONS]
        if not kept and self.options.instruction is not None:
            kept = [self.options.instruction]
        if not kept:
            raise InvalidTextError(
                "has no instruction",
                where=record.where,
                field=", ".join(entry.instruction.keys),
                hint="To convert such episodes too, give them one with --instruction.",
            )
        return tuple(kept)

    # -- looking -------------------------------------------------------------------------------------------------

    def inspect(self, source: str) -> dict[str, Any]:
        """The splits, the registry's entry, and the feature tree with the first episode's values."""
        dataset = self._dataset(source)
        splits = {}
        for name, shards in dataset.splits.items():
            counts = [s.records for s in shards]
            splits[name] = {
                "episodes": None if None in counts else sum(n or 0 for n in counts),
                "files": len(shards),
                "absent": sum(not s.path.is_file() for s in shards),
            }
        entry: RldsEntry | None = None
        try:
            entry_name, entry = registry.find(dataset, self.options.config)
            known: Any = {
                "entry": entry_name,
                "robot": entry.robot,
                "views": list(entry.views),
                "fps": entry.fps,
                "gripper frame": "stated" if entry.tool_from_gripper is not None else "unknown: --tool-from-gripper",
                "pose": registry.pose_in_words(entry),
                "calibration": entry.calibration.kind,
                "to be chosen": {s: list(d.options) for s, d in entry.disagreements.items()},
                "notes": entry.notes,
            }
        except ActionImgError as error:
            known = str(error)
        report: dict[str, Any] = {
            "format": self.name,
            "dataset": dataset.name,
            "version": dataset.version,
            "folder": str(dataset.path),
            "file format": dataset.file_format,
            "splits": splits,
            "registry": known,
        }
        try:
            places = list(itertools.islice(dataset.places(self.options.from_split), _LOOKED_AT))
            place = next(iter(places))
            record = dataset.record(place)
            # Which way is open shows in how commands and measured widths go together.
            report["gripper"] = {p.id: signals.gripper_lines(dataset.record(p), entry) for p in places}
            report["first episode"] = {"id": place.id, "steps": record.num_steps}
            report["features"] = dataset.tree(_readable(record))
        except StopIteration:
            report["first episode"] = "none in this split"
            report["features"] = dataset.tree()
        except ActionImgError as error:
            report["first episode"] = f"cannot be read: {error}"
            report["features"] = dataset.tree()
        return report


def _together(errors: Sequence[ActionImgError], options: Sequence[str], dataset: RLDSDataset) -> ActionImgError:
    """One error of several things that are left open, with the command that gives all of them."""
    if len(errors) == 1:
        return errors[0]
    numbered = "; ".join(f"{i}. {error.message}" for i, error in enumerate(errors, start=1))
    ways = " ".join(f"{i}. {error.hint}" for i, error in enumerate(errors, start=1))
    return AmbiguousSourceError(
        f"{len(errors)} things are left to you: {numbered}",
        where=dataset.path,
        hint=f"All at once: actionimg convert rlds {dataset.path} OUT {' '.join(options)}. {ways}",
    )


def _either(entry: RldsEntry) -> Mapping[str, tuple[str, ...]]:
    """Views that stand for the first of several whose camera is known."""
    return {} if entry.calibration.droid is None else entry.calibration.droid.either


def _readable(record: Record) -> dict[str, Any]:
    """All leaves that can be read, as nested dicts; of one that cannot, why."""
    out: dict[str, Any] = {}
    for stored in record.leaves.values():
        inner = out
        for name in stored.place[:-1]:
            inner = inner.setdefault(name, {})
        try:
            inner[stored.place[-1]] = record.read(stored.key)
        except ActionImgError as error:
            inner[stored.place[-1]] = f"cannot be read: {error.message}"
    return out


def _texts(record: Record, key: str) -> Iterator[str]:
    """The texts of a feature; rows of code points end with 0 (language_table's ``instruction``)."""
    leaf = record.leaf(key).leaf
    if leaf.dtype == "str":
        value = record.read(key)
        yield from [value] if isinstance(value, str) else map(str, np.asarray(value, dtype=object).ravel())
    elif leaf.kind == "tensor" and len(leaf.shape) == 1 and leaf.dtype in ("int32", "uint8", "uint16", "int64"):
        rows = np.unique(np.asarray(record.read(key)).reshape(-1, leaf.shape[0] or 1), axis=0)
        for row in rows:
            codes = row[: int(np.argmin(row != 0))] if (row == 0).any() else row
            if not ((codes >= 0) & (codes < 0xD800)).all():
                raise InvalidTextError("is no row of code points", where=record.where, field=key)
            yield "".join(map(chr, codes.tolist()))
    else:
        raise WrongFormatError("is no text", where=record.where, field=key, found=leaf.text())


def _metadata(record: Record) -> Mapping[str, Any]:
    """Texts and numbers about the episode, e.g. the path of the original file, as JSON values."""
    found: dict[str, Any] = {}
    for key, stored in record.leaves.items():
        if stored.sequences or stored.leaf.kind not in ("text", "tensor") or stored.leaf.shape:
            continue
        try:
            value = record.read(key)
        except ActionImgError as error:
            value = f"cannot be read: {error.code}"
        value = value if isinstance(value, str) else value.item() if isinstance(value, np.ndarray) else value
        if isinstance(value, (str, int, float, bool)):
            found[key] = value[:1000] if isinstance(value, str) else value
    return {"metadata": found}
