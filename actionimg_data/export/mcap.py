"""MCAP files for Foxglove and whatever else reads bags: one a sample, and the mapping file that reads them back.

Messages are Foxglove's own schemas in protobuf; H.264 goes in as it is stored, a packet a picture, unless it has
pictures that wait for later ones, which `CompressedVideo` does not allow: such a video is encoded anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from ..errors import BadVideoError, MissingExtraError, install_hint
from ..geometry import rotations
from ..model import CameraTrack
from ..shards import Sample, layout
from ..video import ENDINGS, action_encoding, encode_bytes
from ..video.packets import h264_packets
from .common import Result, h264_action, new_folder, opened

FloatArray = NDArray[np.float64]

WORLD: Final = "world"
MAPPING: Final = "mapping.yaml"
_BILLION: Final = 10**9
_LOGGED: Final = {"stamp": "log"}
"""A sample's times begin at its own zero, so they are no stamps of a clock."""


def export(
    path: str | Path,
    dest: str | Path,
    *,
    on_start: Callable[[int], None] = lambda total: None,
    on_done: Callable[[int], None] = lambda done: None,
) -> Result:
    """Write a folder of ``KEY.mcap`` and a mapping with which ``actionimg convert rosbag`` makes the samples again.

    Times are those of the sample, in nanoseconds. Topics: ``/VIEW/video``, ``/VIEW/calibration``, ``/VIEW/action`` (of
    several grippers ``/VIEW/action/GRIPPER``), ``/tf``, ``/gripper/pose``, ``/gripper/openness``, ``/instruction``.

    Args:
        path: A complete data set.
        dest: A new folder.
        on_start: Called with the number of samples.
        on_done: Called with the number of samples written since the last call.

    Raises:
        MissingExtraError: The packages of the extra ``mcap`` are not installed.
        CorruptDatasetError: The data set is damaged or incomplete.
        OutputExistsError, OutputError: ``dest`` cannot be made.
    """
    schemas = _schemas()
    dataset, manifest = opened(path)
    result = Result("mcap", str(dest))
    on_start(len(dataset))
    with new_folder(dest) as root:
        for number in range(len(dataset)):
            sample = dataset[number]
            with open(root / f"{sample.key}.mcap", "wb") as file:
                _Recording(file, schemas).write(sample, dataset.table["instruction"][number].as_py())
            result.samples += 1
            on_done(1)
        views = [v for v in manifest.views if all(v in names for names in dataset.table["views"].to_pylist())]
        if views:
            text = _mapping(views, manifest.grippers or ("",), dataset[0].meta.calibrated)
            (root / MAPPING).write_text(text, encoding="utf-8")
    if len(views) < len(manifest.views):
        others = " ".join(v for v in manifest.views if v not in views)
        result.notes.append(f"samples differ in their views: {others} not in {MAPPING}")
    if views:
        result.notes.append(f"back again: actionimg convert rosbag {dest} OUT --mapping {Path(dest) / MAPPING}")
    return result


def _schemas() -> dict[str, Any]:
    """Foxglove's generated classes by name, and the writer's own modules."""
    import importlib

    names = ("CameraCalibration", "CompressedVideo", "FrameTransforms", "PoseInFrame")
    try:
        found = {n: getattr(importlib.import_module(f"foxglove_schemas_protobuf.{n}_pb2"), n) for n in names}
        found["writer"] = importlib.import_module("mcap.writer")
        found["register"] = importlib.import_module("mcap_protobuf.schema").register_schema
    except ImportError as error:
        raise MissingExtraError(
            "this export needs other packages", field="mcap", found=error.name, hint=install_hint("mcap")
        ) from None
    return found


class _Recording:
    """Writes one sample: all that belongs to a frame, then the next frame."""

    def __init__(self, file: Any, schemas: Mapping[str, Any]) -> None:
        self._schemas = schemas
        module = schemas["writer"]
        # Pictures do not get smaller, and a viewer seeks: packed, with an index, in chunks of a few frames.
        self._writer = module.Writer(file, chunk_size=1 << 20, compression=module.CompressionType.ZSTD)
        self._writer.start(profile="", library="actionimg-data")
        self._channels: dict[str, int] = {}

    def write(self, sample: Sample, instruction: str) -> None:
        times = [round(float(t) * _BILLION) for t in sample.times]
        calibrated = sample.meta.calibrated
        cameras = sample.cameras if calibrated else {}
        streams = {f"/{view}/video": _packets(sample, view) for view in sample.views}
        if calibrated:
            for view in sample.views:
                for gripper in sample.action_names:
                    topic = f"/{view}/action" + (f"/{gripper}" if gripper else "")
                    streams[topic] = _in_order(h264_action(sample, view, gripper), sample, view)
        self._writer.add_metadata("actionimg", {"key": sample.key, "episode": sample.meta.episode})
        self._text("/instruction", times[0], {"text": instruction})
        for i, ns in enumerate(times):
            for topic, packets in streams.items():
                view = topic.split("/")[1]
                self._video(topic, ns, view, packets[i])
            for view, camera in cameras.items():
                self._calibration(f"/{view}/calibration", ns, view, camera, i)
            self._transforms(sample, cameras, i, ns)
            for name, trajectory in sample.grippers.items():
                topic = f"/gripper/{name}" if name else "/gripper"
                if trajectory.known[i]:
                    pose = (trajectory.position[i], trajectory.quaternion_xyzw[i])
                    self._pose(f"{topic}/pose", ns, *pose)
                if np.isfinite(trajectory.openness[i]):
                    self._text(f"{topic}/openness", ns, {"openness": float(trajectory.openness[i])})
        self._writer.finish()

    def _add(self, topic: str, ns: int, message: Any) -> None:
        if topic not in self._channels:
            schema = self._schemas["register"](self._writer, type(message))
            self._channels[topic] = self._writer.register_channel(topic, "protobuf", schema)
        self._writer.add_message(self._channels[topic], ns, message.SerializeToString(deterministic=True), ns)

    def _text(self, topic: str, ns: int, values: dict[str, Any]) -> None:
        """What Foxglove has no schema for, in JSON."""
        if topic not in self._channels:
            (name, value) = next(iter(values.items()))
            kind = {"type": "string" if isinstance(value, str) else "number"}
            schema = json.dumps({"type": "object", "properties": {name: kind}}).encode()
            number = self._writer.register_schema(f"actionimg.{name}", "jsonschema", schema)
            self._channels[topic] = self._writer.register_channel(topic, "json", number)
        self._writer.add_message(self._channels[topic], ns, json.dumps(values).encode(), ns)

    def _new(self, name: str, ns: int, frame: str) -> Any:
        message = self._schemas[name]()
        _stamp(message.timestamp, ns)
        message.frame_id = frame
        return message

    def _video(self, topic: str, ns: int, frame: str, packet: bytes) -> None:
        message = self._new("CompressedVideo", ns, frame)
        message.format, message.data = "h264", packet
        self._add(topic, ns, message)

    def _calibration(self, topic: str, ns: int, frame: str, camera: CameraTrack, index: int) -> None:
        K = np.array(camera.K[index])
        # ROS and Foxglove count pixels from their centres: (0, 0) is the middle of the first.
        K[:2, 2] -= camera.pixel_centre
        message = self._new("CameraCalibration", ns, frame)
        message.width, message.height = camera.width, camera.height
        message.distortion_model = "plumb_bob"
        message.D.extend([0.0] * 5)
        message.K.extend(K.ravel().tolist())
        message.R.extend(np.eye(3).ravel().tolist())
        message.P.extend(np.concatenate([K, np.zeros((3, 1))], axis=1).ravel().tolist())
        self._add(topic, ns, message)

    def _transforms(self, sample: Sample, cameras: Mapping[str, CameraTrack], index: int, ns: int) -> None:
        message = self._schemas["FrameTransforms"]()
        for name, camera in cameras.items():
            pose = camera.world_from_camera[index]
            _place(message.transforms.add(), ns, name, pose[:3, 3], rotations.quaternion_from_matrix(pose[:3, :3]))
        for name, trajectory in sample.grippers.items():
            if trajectory.known[index]:
                frame = f"gripper_{name}" if name else "gripper"
                at = trajectory.position[index], trajectory.quaternion_xyzw[index]
                _place(message.transforms.add(), ns, frame, *at)
        if message.transforms:
            self._add("/tf", ns, message)

    def _pose(self, topic: str, ns: int, position: FloatArray, quaternion: FloatArray) -> None:
        message = self._new("PoseInFrame", ns, WORLD)
        _fill(message.pose.position, "xyz", position)
        _fill(message.pose.orientation, "xyzw", quaternion)
        self._add(topic, ns, message)


def _stamp(stamp: Any, ns: int) -> None:
    stamp.seconds, stamp.nanos = divmod(ns, _BILLION)


def _fill(message: Any, names: str, values: FloatArray) -> None:
    for name, value in zip(names, np.asarray(values).tolist(), strict=True):
        setattr(message, name, value)


def _place(transform: Any, ns: int, child: str, position: FloatArray, quaternion: FloatArray) -> None:
    _stamp(transform.timestamp, ns)
    transform.parent_frame_id, transform.child_frame_id = WORLD, child
    _fill(transform.translation, "xyz", position)
    _fill(transform.rotation, "xyzw", quaternion)


def _packets(sample: Sample, view: str) -> list[bytes]:
    """The camera pictures of a view, a packet of H.264 each."""
    if sample.meta.rgb_codec == "h264":
        stored = h264_packets(sample.read(layout.rgb_member(view, ENDINGS["h264"])), f"{sample.key}.{view}")
        if stored is not None:
            return stored
    pictures = (frame for chunk in sample.iter_rgb(view) for frame in chunk)
    meta = sample.meta
    return _in_order(encode_bytes(pictures, action_encoding("h264"), meta.fps, meta.height, meta.width), sample, view)


def _in_order(video: bytes, sample: Sample, view: str) -> list[bytes]:
    """Packets of a video that has no picture which waits for a later one, as `action_encoding` makes it."""
    packets = h264_packets(video, f"{sample.key}.{view}")
    if packets is None:
        raise BadVideoError("has pictures that wait for later ones", where=sample.key, field=view)
    return packets


def _mapping(views: Sequence[str], grippers: Sequence[str], calibrated: bool) -> str:
    """A mapping file for `actionimg convert rosbag`; the poses are those of the canonical frame already."""

    def arm(name: str) -> dict[str, Any]:
        topic = f"/gripper/{name}" if name else "/gripper"
        openness = {"topic": f"{topic}/openness", "columns": ["openness"], "closed": 0.0, "open": 1.0}
        return {
            "pose": {"topic": f"{topic}/pose", "tool_from_gripper": "identity", "time": dict(_LOGGED)},
            "gripper": {**openness, "kind": "measured", "time": dict(_LOGGED)},
        }

    sources: dict[str, Any] = {}
    for view in views:
        camera = {"camera_info": f"/{view}/calibration", "tf": {"parent": WORLD, "child": view}}
        sources[view] = {
            "topic": f"/{view}/video",
            "time": dict(_LOGGED),
            "camera": camera if calibrated else "uncalibrated",
        }
    whole: dict[str, Any] = {"version": 1, "format": "rosbag", "instruction": {"topic": "/instruction"}}
    # A mapping of one gripper has no name for it.
    whole |= arm(grippers[0]) if len(grippers) == 1 else {"grippers": {name: arm(name) for name in grippers}}
    return str(yaml.safe_dump({**whole, "views": sources}, sort_keys=False, allow_unicode=True))
