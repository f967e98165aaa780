"""Bags of kinds that ROS does not write: Foxglove's schemas in three encodings, and topics of video."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from mcap.writer import CompressionType, Writer
from scipy.spatial.transform import Rotation

from actionimg_data.demo.recordings import TeleopLog, gripper_mapping

EPOCH_NS = 1_700_000_000 * 10**9
Event = tuple[int, str, str, dict[str, Any]]
"""Time in nanoseconds, topic, name of the schema, values."""


def png(picture: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())


def _point(values: Sequence[float], names: str = "xyz") -> dict[str, float]:
    return dict(zip(names, map(float, values), strict=True))


def _stamp(ns: int) -> dict[str, int]:
    return {"sec": ns // 10**9, "nsec": ns % 10**9}


def events(log: TeleopLog) -> list[Event]:
    """A recording in Foxglove's schemas: poses, a transform for each camera, calibrations, pictures, joints."""
    found: list[Event] = []
    for t, pose, width in zip(log.times, log.world_from_tool, log.width_m, strict=True):
        ns = EPOCH_NS + round(float(t) * 1e9)
        turn = Rotation.from_matrix(pose[:3, :3]).as_quat()
        at = {"position": _point(pose[:3, 3]), "orientation": _point(turn, "xyzw")}
        found.append((ns, "/ee_pose", "PoseInFrame", {"timestamp": _stamp(ns), "frame_id": "base", "pose": at}))
        joints = [{"name": "other", "position": 0.5}, {"name": "width", "position": float(width)}]
        found.append((ns, "/joints", "JointStates", {"timestamp": _stamp(ns), "joints": joints}))
    for name, view in log.views.items():
        w, h = view.size
        for i, t in enumerate(log.frame_times):
            ns = EPOCH_NS + round(float(t) * 1e9)
            pose = view.world_from_camera if view.world_from_camera.ndim == 2 else view.world_from_camera[i]
            about = {"timestamp": _stamp(ns), "frame_id": f"{name}_optical"}
            found.append(
                (ns, f"/{name}/image", "CompressedImage", {**about, "format": "png", "data": png(view.pictures[i])})
            )
            matrices = {"K": view.K.ravel().tolist(), "R": np.eye(3).ravel().tolist(), "D": [0.0] * 5}
            P = np.concatenate([view.K, np.zeros((3, 1))], axis=1).ravel().tolist()
            calib = {**about, "width": w, "height": h, "distortion_model": "plumb_bob", **matrices, "P": P}
            found.append((ns, f"/{name}/calib", "CameraCalibration", calib))
            turn = Rotation.from_matrix(pose[:3, :3]).as_quat()
            tf = {
                "timestamp": _stamp(ns),
                "parent_frame_id": "base",
                "child_frame_id": f"{name}_optical",
                "translation": _point(pose[:3, 3]),
                "rotation": _point(turn, "xyzw"),
            }
            found.append((ns, "/tf", "FrameTransform", tf))
    return sorted(found, key=lambda event: event[0])


def mapping(log: TeleopLog, joints: bool = True) -> dict[str, Any]:
    width = {"topic": "/joints", **gripper_mapping("position.width")}
    if not joints:
        width = {"topic": "/gripper", **gripper_mapping("width"), "time": {"stamp": "log"}}
    return {
        "version": 1,
        "format": "rosbag",
        "instruction": {"text": log.instruction},
        "pose": {"topic": "/ee_pose", "tool_from_gripper": dict(log.tool_from_gripper)},
        "gripper": width,
        "views": {
            name: {
                "topic": f"/{name}/image",
                "camera": {"camera_info": f"/{name}/calib", "tf": {"parent": "base", "child": f"{name}_optical"}},
            }
            for name in log.views
        },
    }


def write_mcap(
    path: Path,
    messages: Sequence[tuple[int, str, bytes]],
    channels: Mapping[str, tuple[str, str, str, bytes]],
    profile: str = "",
    **options: Any,
) -> None:
    """An MCAP file of messages (time, topic, bytes) on channels: type, message encoding, schema encoding, schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        writer = Writer(file, **{"compression": CompressionType.ZSTD, "chunk_size": 1 << 14, **options})
        writer.start(profile=profile, library="tests")
        ids = {}
        for topic, (name, encoding, schema_encoding, schema) in channels.items():
            number = writer.register_schema(name, schema_encoding, schema) if name else 0
            ids[topic] = writer.register_channel(topic, encoding, number)
        for ns, topic, data in messages:
            writer.add_message(ids[topic], ns, data, ns)
        writer.finish()


def write_json(log: TeleopLog, path: Path, joints: bool = False, **options: Any) -> dict[str, Any]:
    """In JSON; the gripper as joints, or on a topic of no schema."""
    channels: dict[str, tuple[str, str, str, bytes]] = {}
    messages = []
    for ns, topic, name, values in events(log):
        if name == "JointStates" and not joints:
            topic, values = "/gripper", {"width": values["joints"][1]["position"]}
            channels[topic] = ("", "json", "", b"")
        else:
            channels[topic] = (f"foxglove.{name}", "json", "jsonschema", b'{"type": "object"}')
        text = json.dumps(values, default=lambda v: base64.b64encode(v).decode())
        messages.append((ns, topic, text.encode()))
    write_mcap(path, messages, channels, **options)
    return mapping(log, joints)


def write_protobuf(log: TeleopLog, path: Path, **options: Any) -> dict[str, Any]:
    """In protobuf, by Foxglove's own generated classes."""
    import importlib

    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    channels: dict[str, tuple[str, str, str, bytes]] = {}
    messages = []
    for ns, topic, name, values in events(log):
        kind = getattr(importlib.import_module(f"foxglove_schemas_protobuf.{name}_pb2"), name)
        message = kind()
        for key, value in values.items():
            if key == "timestamp":
                message.timestamp.seconds, message.timestamp.nanos = value["sec"], value["nsec"]
            else:
                _fill(message, key, value)
        if topic not in channels:
            files: dict[str, Any] = {}
            _files_of(kind.DESCRIPTOR.file, files)
            together = FileDescriptorSet(file=list(files.values()))
            channels[topic] = (f"foxglove.{name}", "protobuf", "protobuf", together.SerializeToString())
        messages.append((ns, topic, message.SerializeToString()))
    write_mcap(path, messages, channels, **options)
    return mapping(log)


def _fill(message: Any, key: str, value: Any) -> None:
    if isinstance(value, dict):
        for inner, item in value.items():
            _fill(getattr(message, key), inner, item)
    elif isinstance(value, list) and isinstance(value[0], dict):
        for item in value:
            part = getattr(message, key).add()
            for inner, inner_value in item.items():
                _fill(part, inner, inner_value)
    elif isinstance(value, list):
        getattr(message, key).extend(value)
    else:
        setattr(message, key, value)


def _files_of(file: Any, found: dict[str, Any]) -> None:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    for needed in file.dependencies:
        _files_of(needed, found)
    if file.name not in found:
        found[file.name] = FileDescriptorProto()
        file.CopyToProto(found[file.name])


def write_flatbuffers(log: TeleopLog, path: Path, **options: Any) -> dict[str, Any]:
    """In FlatBuffers, by Foxglove's own generated builders and binary schemas."""
    channels: dict[str, tuple[str, str, str, bytes]] = {}
    messages = []
    for ns, topic, name, values in events(log):
        channels.setdefault(topic, (f"foxglove.{name}", "flatbuffer", "flatbuffer", binary_schema(name)))
        messages.append((ns, topic, _built(name, values)))
    write_mcap(path, messages, channels, **options)
    return mapping(log)


_PARTS = {
    "pose": "Pose",
    "position": "Vector3",
    "translation": "Vector3",
    "orientation": "Quaternion",
    "rotation": "Quaternion",
}


def binary_schema(name: str) -> bytes:
    from importlib import resources

    return (resources.files("foxglove_schemas_flatbuffer") / f"{name}.bfbs").read_bytes()


def _built(name: str, values: Mapping[str, Any]) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(_table(builder, name, values))
    return bytes(builder.Output())


def _table(builder: Any, name: str, values: Mapping[str, Any]) -> int:
    import importlib

    module = importlib.import_module(f"foxglove_schemas_flatbuffer.{name}")
    made: dict[str, Any] = {}
    for key, value in values.items():
        if key in _PARTS and isinstance(value, dict):
            made[key] = _table(builder, _PARTS[key], value)
        elif isinstance(value, bytes):
            made[key] = builder.CreateByteVector(value)
        elif isinstance(value, str):
            made[key] = builder.CreateString(value)
        elif isinstance(value, list) and isinstance(value[0], dict):
            parts = [_table(builder, "JointState", part) for part in value]
            module.JointStatesStartJointsVector(builder, len(parts))
            for part in reversed(parts):
                builder.PrependUOffsetTRelative(part)
            made[key] = builder.EndVector()
        elif isinstance(value, list):
            made[key] = builder.CreateNumpyVector(np.asarray(value, dtype=np.float64))
    getattr(module, f"{name}Start")(builder)
    for key, value in values.items():
        if key == "timestamp":
            time = importlib.import_module("foxglove_schemas_flatbuffer.Time")
            value = time.CreateTime(builder, value["sec"], value["nsec"])
        camel = "".join(part[:1].upper() + part[1:] for part in key.split("_"))
        getattr(module, f"{name}Add{camel}")(builder, made.get(key, value))
    return int(getattr(module, f"{name}End")(builder))


WRITERS: dict[str, Callable[..., dict[str, Any]]] = {
    "json": write_json,
    "protobuf": write_protobuf,
    "flatbuffer": write_flatbuffers,
}


def packets(pictures: Sequence[np.ndarray], codec: str = "libx264", **options: str) -> Iterator[tuple[int, bytes]]:
    """Number of the picture and bytes of each packet of a video, in the order of decoding, as a recorder sends them."""
    context: Any = av.CodecContext.create(codec, "w")
    context.height, context.width = pictures[0].shape[:2]
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 20), Fraction(20)
    context.thread_count = 1
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    context.options = {"crf": "12", **quiet, **options}
    for i, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = i
        yield from ((p.pts, bytes(p)) for p in context.encode(frame))
    yield from ((p.pts, bytes(p)) for p in context.encode(None))


def write_video_topic(
    log: TeleopLog,
    path: Path,
    sent: Sequence[tuple[int, bytes]],
    form: str = "h264",
    view: str = "front",
    **options: Any,
) -> dict[str, Any]:
    """The recording in JSON with a video in place of the pictures of a view."""
    channels: dict[str, tuple[str, str, str, bytes]] = {}
    messages = []
    for ns, topic, name, values in events(log):
        if topic == f"/{view}/image":
            continue
        channels[topic] = (f"foxglove.{name}", "json", "jsonschema", b'{"type": "object"}')
        text = json.dumps(values, default=lambda v: base64.b64encode(v).decode())
        messages.append((ns, topic, text.encode()))
    channels[f"/{view}/image"] = ("foxglove.CompressedVideo", "json", "jsonschema", b'{"type": "object"}')
    for position, (number, data) in enumerate(sent):
        ns = EPOCH_NS + round(float(log.frame_times[number]) * 1e9)
        values = {"timestamp": _stamp(ns), "frame_id": view, "format": form, "data": base64.b64encode(data).decode()}
        # Packets are logged in the order in which they are sent.
        at = EPOCH_NS + round(float(log.frame_times[0]) * 1e9) + position * 50_000_000
        messages.append((at, f"/{view}/image", json.dumps(values).encode()))
    write_mcap(path, sorted(messages, key=lambda m: m[0]), channels, **options)
    return mapping(log)
