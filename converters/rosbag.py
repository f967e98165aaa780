"""ROS bags: topics mapped by a file to poses, openness, pictures and calibration."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..cameras.files import CalibratedCamera
from ..errors import ActionImgError, AmbiguousSourceError, MissingExtraError, SourceNotFoundError, WrongFormatError
from ..model import Episode, EpisodeRef
from ..schemas.mapping import Arm, ArmJoints, Instruction, PoseStream, TimeSource, ViewCamera, ViewSource
from .base import ConverterOptions, Detection, Streams
from .kit.bags import messages as _messages
from .kit.bags.messages import Messages
from .kit.bags.pictures import BagFrames
from .kit.bags.reader import SUFFIXES, Access, bag_suffix, find_bags, open_bag
from .kit.bags.record import fields_of
from .kit.bags.tf import TfTree
from .kit.frames import TurnedFrames
from .kit.tables import Table
from .kit.tree import file_stamp, files_with_sizes, plain_id
from .recording import streams
from .recording.episode import assemble
from .recording.inspection import inspect_recordings, recorded_streams
from .recording.mapping import (
    LoadedMapping,
    MappedConverter,
    clocked,
    gripper_samples,
    load_calibration,
    recorded_arms,
    state_of,
    with_pose,
)
from .recording.options import StampedOptions
from .recording.recording import Recording, ViewInput
from .recording.sync import PoseSamples, ScalarSamples, SyncLimits, statistics

FloatArray = NDArray[np.float64]


class RosbagOptions(StampedOptions):
    """Options of the rosbag converter."""

    mapping: str | None = Field(None, description="mapping file (docs/mapping.md)")
    msg_path: tuple[str, ...] = Field(
        (), description="folders of .msg files or ROS packages, for messages that bags do not define themselves"
    )


class RosbagConverter(MappedConverter):
    """ROS 1 and ROS 2 bags and MCAP files, each an episode; no ROS is needed."""

    name: ClassVar[str] = "rosbag"
    summary: ClassVar[str] = "ROS 1 / ROS 2 bags and MCAP, explained by a mapping file; no ROS needed"
    Options: ClassVar[type[ConverterOptions]] = RosbagOptions

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether there are bags at ``source``, by their names; none is opened."""
        try:
            root = Path(source)
            found = next(find_bags(root, max_folders=50), None) if root.exists() else None
        except (OSError, ActionImgError):
            return None
        return None if found is None else Detection("ROS bag", found.name)

    def access(self) -> Access:
        """With what bags are opened."""
        meant = self.allow if self.options.mapping is not None else ()
        return Access("cut-recording" in (*self.allowed, *meant), self.options.msg_path)

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """One reference for each bag at or below ``source``."""
        loaded = self.mapping()
        root = _source(source)
        found = False
        for path in find_bags(root):
            relative = path.relative_to(root).as_posix()
            if loaded.mapping.episodes is not None and not fnmatch(relative, loaded.mapping.episodes):
                continue
            found = True
            stem = path.name if relative == "." else relative
            stem = stem[: -len(bag_suffix(path))] if bag_suffix(path) in SUFFIXES else stem
            yield EpisodeRef(
                plain_id(stem),
                {"source": str(root), "path": relative},
                fingerprint=_fingerprint(loaded, path),
            )
        if not found:
            raise WrongFormatError(
                "no bag found",
                where=root,
                expected=" ".join(SUFFIXES)
                + (f", matching {loaded.mapping.episodes}" if loaded.mapping.episodes else ""),
            )

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The episode's fingerprint as its files are now."""
        path = Path(ref.location["source"]) / ref.location["path"]
        return _fingerprint(self.mapping(), path)

    def read(self, ref: EpisodeRef) -> Episode:
        """One bag; its pictures are decoded when they are asked for."""
        return assemble(self.recording(ref), self.options.time_offset)

    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the bag and the mapping say, before streams are brought together."""
        loaded = self.mapping()
        mapping = loaded.mapping
        path = Path(ref.location["source"]) / ref.location["path"]
        if mapping.sync.mode == "rows":
            raise WrongFormatError(
                "bags have stamps", where=loaded.path, field="sync.mode", expected="stamps", found="rows"
            )
        access, chosen = self.access(), self.chosen_views()
        messages = _messages.read_topics(path, _needed(loaded, chosen, path, access), access)
        reading = _Reading(path, loaded, messages)

        def arm(arm: Arm, prefix: str) -> tuple[PoseSamples, ScalarSamples]:
            gripper = arm.gripper
            if gripper.topic is None:
                raise WrongFormatError("does not say its topic", where=loaded.path, field=f"{prefix}gripper.topic")
            times = reading.times(gripper.topic, gripper.time, f"{prefix}gripper")
            table = _messages.table_of(messages[gripper.topic], f"{path}: {gripper.topic}")
            return reading.poses(arm.pose, f"{prefix}pose"), gripper_samples(table, gripper, times)

        def joints(wanted: ArmJoints, field: str) -> tuple[Table, FloatArray]:
            if wanted.topic is None:
                raise WrongFormatError("does not say its topic", where=loaded.path, field=f"{field}.topic")
            table = _messages.table_of(messages[wanted.topic], f"{path}: {wanted.topic}")
            return table, reading.times(wanted.topic, wanted.time, field)

        arms = recorded_arms(mapping, arm, joints)
        views = {}
        left_out = {}
        for name, view in chosen.items():
            topic = str(view.topic)
            frames = BagFrames.open(path, topic, messages[topic], access)
            counted = {"before_first_key_frame": frames.before_first_key, "behind_lost_packets": frames.behind_gaps}
            if any(counted.values()):
                left_out[name] = {why: count for why, count in counted.items() if count}
            camera, camera_poses, frame = reading.camera(view.camera, name)
            source = TurnedFrames(frames, view.rotate) if view.rotate else frames
            views[name] = ViewInput(
                source,
                reading.times(topic, view.time, f"views.{name}")[frames.rows],
                camera,
                camera_poses,
                view.flip,
                view.camera.scaled,
                frame=frame,
                arm=view.camera.gripper or "",
            )
        return Recording(
            id=ref.id,
            arms=arms,
            views=views,
            instructions=(reading.instruction(mapping.instruction),),
            master=mapping.sync.master,
            limits=SyncLimits(mapping.sync.max_pose_gap_s, mapping.sync.max_frame_gap_s),
            task=mapping.task,
            provenance={
                "format": "rosbag",
                "path": ref.location["path"],
                "mapping": loaded.fingerprint,
                "stamps": reading.whose,
                "header_to_log_ms": reading.latency,
                **({"left_out": left_out} if left_out else {}),
            },
        )

    def inspect(self, source: str) -> dict[str, Any]:
        """Bags, and the topics of the first with types, counts and rates."""
        if self.options.mapping is not None:
            refs = list(self.discover(source))
            return inspect_recordings(self.name, refs, self.recording(refs[0]))
        root = _source(source)
        paths = list(find_bags(root))
        if not paths:
            raise WrongFormatError("no bag found", where=root, expected=" ".join(SUFFIXES))
        bags: dict[str, Any] = {}
        for path in paths:
            name = path.name if path == root else path.relative_to(root).as_posix()
            try:
                with open_bag(path, replace(self.access(), cut=True)) as bag:
                    bags[name] = {
                        "duration_s": round(bag.duration_s, 3),
                        "topics": {t.name: t.text() for t in bag.checked_topics().values()},
                    }
                    if bag.cut:
                        bags[name]["cut"] = f"{bag.cut}; to convert what is whole of it: --allow cut-recording"
            except MissingExtraError:
                raise
            except ActionImgError as error:
                bags[name] = {"error": str(error)}
        good = [p for p, b in zip(paths, bags.values(), strict=True) if "error" not in b]
        streams = _topic_streams(good[0], replace(self.access(), cut=True)).statistics if good else {}
        return {
            "format": self.name,
            "episodes": len(paths),
            "bags": bags,
            "streams": {name: dict(values) for name, values in streams.items()},
        }

    def streams(self, source: str) -> Streams:
        """Stamps of the first bag's topics, or of what a mapping makes of them."""
        if self.options.mapping is not None:
            return recorded_streams(self.recording(next(self.discover(source))))
        return _topic_streams(next(iter(find_bags(_source(source)))), replace(self.access(), cut=True))


def _topic_streams(path: Path, access: Access) -> Streams:
    """Stamps of a bag's topics: their own where they have them, else the log's."""
    with open_bag(path, access) as bag:
        names = [t.name for t in bag.topics().values() if t.count]
    found: dict[str, dict[str, Any]] = {}
    every: dict[str, FloatArray] = {}
    read, wrong = _messages.read_readable(path, names, access)
    found.update({name: {"error": why} for name, why in wrong.items()})
    for name, messages in read.items():
        own = messages.has_header
        times = np.asarray(np.asarray(messages.header if own else messages.log, dtype=np.int64) * 1e-9)
        kind = {"type": messages.type, "stamp": "header" if own else "log"}
        found[name] = {**statistics(times).to_json(), **kind}
        every[name] = times
    return Streams(path.name, found, every)


class _Reading:
    """One bag's messages, read as the mapping says."""

    def __init__(self, path: Path, loaded: LoadedMapping, messages: dict[str, Messages]) -> None:
        self.path, self.loaded, self.messages = path, loaded, messages
        self.whose: dict[str, str] = {}
        self.latency: dict[str, float] = {}
        self._tf: TfTree | None = None

    def times(self, topic: str, source: TimeSource | None, field: str) -> FloatArray:
        messages = self.messages[topic]
        if source is not None and (source.column is not None or source.fps is not None):
            raise AmbiguousSourceError(
                "a bag's stamps are header or log",
                where=self.loaded.path,
                field=f"{field}.time",
                expected="stamp: header | log",
            )
        which = None if source is None else source.stamp
        times, whose = _messages.stamps(messages, which, 0.0, f"{self.path}: {topic}")
        self.whose[topic] = whose
        if messages.has_header:
            late = np.asarray(messages.log, dtype=np.int64) - np.asarray(messages.header, dtype=np.int64)
            self.latency[topic] = round(float(np.median(late)) * 1e-6, 3)
        return clocked(times, source)

    def tf(self) -> TfTree:
        if self._tf is None:
            tf = {n: m for n, m in self.messages.items() if m.type in _messages.TF_TYPES}
            if not tf:
                raise WrongFormatError("has no tf", where=self.path, expected="/tf, /tf_static")
            self._tf = TfTree(tf, self.path)
        return self._tf

    def poses(self, stream: PoseStream, field: str) -> PoseSamples:
        if stream.tf is not None:
            chain = self.tf().chain(stream.tf.parent, stream.tf.child)
            if not isinstance(chain, PoseSamples):
                raise WrongFormatError(
                    "nothing moves between these frames",
                    where=self.path,
                    field=field,
                    found=f"{stream.tf.parent} and {stream.tf.child}",
                )
            samples = PoseSamples(clocked(chain.times, stream.time), chain.position, chain.quaternion_xyzw)
        elif stream.topic is None:
            raise WrongFormatError("does not say its topic", where=self.loaded.path, field=f"{field}.topic")
        else:
            times = self.times(stream.topic, stream.time, field)
            where = f"{self.path}: {stream.topic}"
            if stream.position is not None or stream.matrix is not None or stream.joints is not None:
                table = _messages.table_of(self.messages[stream.topic], where)
                return streams.poses_from_table(table, stream, times, self.loaded.folder, self.loaded.mapping.limits)
            samples = _messages.poses_of(self.messages[stream.topic], times, where)
        return streams.inverted(samples) if stream.inverse else samples

    def camera(self, camera: ViewCamera, name: str) -> tuple[CalibratedCamera | None, PoseSamples | None, str]:
        """Intrinsics, the camera's own poses where it moves, and which frame its pose is in."""
        posed: CalibratedCamera | None
        if camera.camera_info is not None:
            found = _messages.camera_of(
                self.messages[camera.camera_info], camera.rectified, f"{self.path}: {camera.camera_info}"
            )
            posed = with_pose(found, camera, (self.loaded.folder, Path(self.path).parent), name)
        else:
            posed = load_calibration(camera, (self.loaded.folder, Path(self.path).parent), name)
        if posed is None:
            return None, None, "world"
        if camera.poses is not None:
            return posed, self.poses(camera.poses, f"views.{name}.camera.poses"), "world"
        if camera.tf is not None:
            chain = self.tf().chain(camera.tf.parent, camera.tf.child)
            if isinstance(chain, PoseSamples):
                return posed, chain, "pose"
            return replace(posed, world_from_camera=chain, tool_from_camera=None), None, "pose"
        return posed, None, "world"

    def instruction(self, instruction: Instruction | None) -> str:
        if instruction is not None and instruction.text is not None:
            return instruction.text
        if instruction is None or instruction.topic is None:
            raise WrongFormatError("must be text or a topic", where=self.loaded.path, field="instruction")
        first = self.messages[instruction.topic].values[0]
        texts = [v for v in fields_of(first).values() if isinstance(v, str)]
        return str(getattr(first, "data", texts[0] if len(texts) == 1 else "")).strip()


def _needed(loaded: LoadedMapping, views: Mapping[str, ViewSource], path: Path, access: Access) -> list[str]:
    """Topics that the mapping uses; tf topics by their type, where a chain is asked for."""
    mapping = loaded.mapping
    poses = [
        *(arm.pose for arm in mapping.arms.values()),
        *(v.camera.poses for v in views.values() if v.camera.poses is not None),
    ]
    names = [s.topic for s in poses] + [arm.gripper.topic for arm in mapping.arms.values()]
    names += [arm.joints.topic for arm in mapping.arms.values() if arm.joints is not None]
    for view in views.values():
        names += [view.topic, view.camera.camera_info]
    if mapping.instruction is not None:
        names.append(mapping.instruction.topic)
    if any(s.tf is not None for s in poses) or any(v.camera.tf is not None for v in views.values()):
        with open_bag(path, access) as bag:
            names += [t.name for t in bag.topics().values() if t.type in _messages.TF_TYPES and t.count]
    return list(dict.fromkeys(n for n in names if n is not None))


def _source(source: str) -> Path:
    path = Path(source).absolute()
    if not path.exists():
        raise SourceNotFoundError("no such file or folder", where=source)
    return path


def _fingerprint(loaded: LoadedMapping, path: Path) -> str:
    files = [path / name for name, _ in files_with_sizes(path)] if path.is_dir() else [path]
    sizes = [(file.name, file_stamp(file)) for file in files]
    state = f"{state_of(loaded, (loaded.folder, path.parent))} {sizes}"
    return hashlib.sha256(state.encode()).hexdigest()[:16]
