"""Messages of topics, and what they are: tables of numbers, poses, calibrations."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....cameras.files import CalibratedCamera, named_distortion
from ....errors import (
    AmbiguousSourceError,
    BadFileError,
    InvalidCameraError,
    UnsupportedSourceError,
    WrongFormatError,
)
from ....video.packets import PacketScan, codec_named
from ...recording.streams import seconds
from ...recording.sync import PoseSamples
from ..tables import Table
from .channels import Channel
from .decoders import canonical
from .reader import Access, Bag, open_bag
from .record import flat_fields, payload, stamp_of

FloatArray = NDArray[np.float64]
RAW_TYPES = ("sensor_msgs/msg/Image", "foxglove.RawImage")
COMPRESSED_TYPES = ("sensor_msgs/msg/CompressedImage", "foxglove.CompressedImage")
VIDEO_TYPES = ("foxglove.CompressedVideo", "ffmpeg_image_transport_msgs/msg/FFMPEGPacket")
IMAGE_TYPES = (*RAW_TYPES, *COMPRESSED_TYPES, *VIDEO_TYPES)
POSE_TYPES = (
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
    "geometry_msgs/msg/Pose",
    "geometry_msgs/msg/TransformStamped",
    "nav_msgs/msg/Odometry",
    "foxglove.PoseInFrame",
    "foxglove.Odometry",
)
TF_TYPES = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage", "foxglove.FrameTransform", "foxglove.FrameTransforms")
CAMERA_TYPES = ("sensor_msgs/msg/CameraInfo", "foxglove.CameraCalibration")


@dataclass
class Messages:
    """Messages of one topic, as far as they are needed.

    Args:
        type: Message type, as `decoders.canonical` names it.
        log: ``(N,)`` nanoseconds at which each was logged.
        header: ``(N,)`` nanoseconds of each message's own stamp; -1 where it has none.
        values: The messages, deserialised; empty for pictures.
        packets: Of a topic of a video: what its packets are.
    """

    type: str
    log: list[int] = field(default_factory=list)
    header: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    packets: PacketScan | None = None

    def __len__(self) -> int:
        return len(self.log)

    @property
    def has_header(self) -> bool:
        """Whether every message has a stamp of its own that was set."""
        return len(self.header) > 0 and min(self.header) > 0


def _take_picture(bag: Bag, channel: Channel, data: bytes, messages: Messages) -> None:
    """Note a picture's stamp, and of a video what its packet is."""
    first = len(messages.header) == 0
    if first and messages.type not in RAW_TYPES:
        message = bag.decode(channel, data)
        codec = codec_named(str(getattr(message, "format", None) or getattr(message, "encoding", "")))
        messages.packets = None if codec is None else PacketScan(codec)
    if messages.packets is not None:
        message = bag.decode(channel, data)
        messages.packets.add(payload(message, channel.topic))
        messages.header.append(stamp_of(message))
    elif channel.encoding in ("cdr", "ros1") and not messages.type.startswith("foxglove."):
        messages.header.append(_header_ns(channel, data))
    else:
        messages.header.append(stamp_of(bag.decode(channel, data)))


def _header_ns(channel: Channel, data: bytes) -> int:
    """The stamp of a ROS message that begins with a header, read without the rest (ROS 1 has ``seq`` first)."""
    if channel.encoding == "ros1":
        _, second, part = struct.unpack_from("<III", data)
    else:
        second, part = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(second) * 1_000_000_000 + int(part)


def read_topics(path: Path, names: Sequence[str], access: Access | None = None) -> dict[str, Messages]:
    """Messages of the named topics in one pass; of pictures only the stamps.

    Raises:
        WrongFormatError: A topic is not in the bag, or empty.
        UnsupportedSourceError: A topic cannot be read; the error says why.
        BadFileError: The bag is damaged.
    """
    with open_bag(path, access) as bag:
        topics = bag.topics()
        missing = [n for n in names if n not in topics]
        if missing:
            raise WrongFormatError(
                "has no such topic",
                where=path,
                field=missing[0],
                expected=" | ".join(f"{t.name} ({t.type})" for t in list(topics.values())[:40]),
                found=missing[0],
            )
        found = {name: Messages(topics[name].type) for name in names}
        channels = bag.of(names)
        pictures = {c.id for c in channels if canonical(c.type) in IMAGE_TYPES}
        for channel, log, data in bag.messages(channels) if channels else ():
            messages = found[channel.topic]
            messages.log.append(log)
            if channel.id in pictures:
                _take_picture(bag, channel, data, messages)
                continue
            value = bag.decode(channel, data)
            messages.values.append(value)
            messages.header.append(stamp_of(value))
    for name, messages in found.items():
        if len(messages) == 0:
            raise WrongFormatError("has no messages", where=path, field=name)
    return found


def read_readable(
    path: Path, names: Sequence[str], access: Access | None = None
) -> tuple[dict[str, Messages], dict[str, str]]:
    """Messages of the topics that can be read, and why the others cannot; one pass where all can."""
    with open_bag(path, access) as bag:
        wrong = {t.name: t.problem for t in bag.checked_topics().values() if t.problem and t.name in names}
    names = [n for n in names if n not in wrong]
    try:
        return read_topics(path, names, access), wrong
    except (BadFileError, UnsupportedSourceError, WrongFormatError):
        found = {}
        for name in names:
            try:
                found.update(read_topics(path, [name], access))
            except (BadFileError, UnsupportedSourceError, WrongFormatError) as error:
                wrong[name] = error.message
        return found, wrong


def stamps(messages: Messages, which: str | None, offset_s: float, where: object) -> tuple[FloatArray, str]:
    """Stamps ``(N,)`` in seconds, and whose they are: the messages' own where they have them, unless told otherwise.

    Raises:
        AmbiguousSourceError: The messages' own stamps are asked for or usual, and were never set.
    """
    own = which or ("header" if messages.header and max(messages.header) >= 0 else "log")
    if own == "header" and not messages.has_header:
        raise AmbiguousSourceError(
            "the messages' own stamps were not set",
            where=where,
            field="time.stamp",
            expected="stamps after 1970",
            hint="Set time.stamp: log to use the times at which they were logged (often 30 ms later).",
        )
    return seconds(
        np.asarray(messages.header if own == "header" else messages.log, dtype=np.int64), "ns", offset_s
    ), own


def table_of(messages: Messages, where: object) -> Table:
    """A topic's numbers as a table; messages in which a field is missing give NaN there."""
    rows = [dict(flat_fields(m)) for m in messages.values]
    names = list(dict.fromkeys(name for row in rows for name in row))

    def load(name: str) -> NDArray[Any]:
        values = [row.get(name, np.nan) for row in rows]
        shapes = {np.shape(v) for v in values}
        if len(shapes) != 1:
            raise WrongFormatError("arrays differ in length", where=where, field=name, found=sorted(map(str, shapes)))
        return np.asarray(values, dtype=np.float64)

    return Table(names, load, where)


def poses_of(messages: Messages, times: FloatArray, where: object) -> PoseSamples:
    """Poses of a topic of one of `POSE_TYPES`; quaternions that were never set (zeros) become NaN.

    Raises:
        WrongFormatError: A topic of another type.
    """
    if messages.type not in POSE_TYPES:
        raise WrongFormatError(
            "is not a topic of poses",
            where=where,
            expected=" | ".join(POSE_TYPES),
            found=messages.type,
            hint="Name its fields: position and rotation, or matrix.",
        )
    position, quaternion = [], []
    for number, message in enumerate(messages.values):
        pose = message
        for part in ("pose", "pose"):
            pose = getattr(pose, part, pose)
        try:
            if hasattr(pose, "transform"):
                at, turn = pose.transform.translation, pose.transform.rotation
            else:
                at, turn = pose.position, pose.orientation
            position.append((at.x, at.y, at.z))
            quaternion.append((turn.x, turn.y, turn.z, turn.w))
        except AttributeError as error:
            # JSON holds what its writer wrote, whatever its schema is called.
            raise WrongFormatError(f"is not a pose: {error}", where=where, field=f"message {number}") from None
    return PoseSamples(
        times, np.asarray(position, dtype=np.float64), unit_quaternions(np.asarray(quaternion, dtype=np.float64))
    )


def unit_quaternions(q: FloatArray) -> FloatArray:
    """Quaternions ``(N, 4)`` of length 1; those that were never set (zeros) become NaN."""
    norm = np.linalg.norm(q, axis=-1, keepdims=True)
    good = np.abs(norm - 1) < 0.02
    return np.where(good, q / np.where(good, norm, 1.0), np.nan)


_CONSTANTS = ("k", "d", "p", "distortion_model", "width", "height", "binning_x", "binning_y", "roi")
"""What a CameraInfo says of a camera and its pictures; none of it may change."""


def _constant(info: Any, name: str) -> Any:
    value = getattr(info, name, 0)
    if name == "roi":
        return [float(getattr(value, part, 0)) for part in ("x_offset", "y_offset", "height", "width", "do_rectify")]
    return str(value) if isinstance(value, str) else value


def camera_of(messages: Messages, rectified: bool, where: object) -> CalibratedCamera:
    """Intrinsics of a CameraInfo topic, the same in every message.

    Raises:
        InvalidCameraError: Intrinsics that change, were never set, or are of a binned or cropped picture.
    """
    if messages.type not in CAMERA_TYPES:
        raise WrongFormatError(
            "is not a topic of calibrations", where=where, expected=" | ".join(CAMERA_TYPES), found=messages.type
        )

    def read(info: Any, name: str) -> FloatArray:
        # ROS 1 spells these fields in upper case.
        return np.asarray(getattr(info, name.lower(), getattr(info, name.upper(), ())), dtype=np.float64)

    first = messages.values[0]
    lacking = next((n for n in ("width", "height", "distortion_model") if not hasattr(first, n)), None)
    if lacking is not None:
        raise WrongFormatError("is not a calibration: it lacks a field", where=where, field=lacking)
    K, d, P = read(first, "k"), read(first, "d"), read(first, "p")
    for name, values, count in (("k", K, 9), ("p", P, 12)):
        # Foxglove's calibrations may leave out the projection of rectified pictures.
        if values.size != count and (name == "k" or rectified):
            raise InvalidCameraError("is incomplete", where=where, field=name, expected=count, found=values.size)
    for name in _CONSTANTS:
        before = read(first, name) if name in "kdp" else _constant(first, name)
        for number, info in enumerate(messages.values):
            now = read(info, name) if name in "kdp" else _constant(info, name)
            if not np.array_equal(now, before):
                raise InvalidCameraError(
                    "the camera changes within the bag",
                    where=where,
                    field=f"{name}, message {number}",
                    expected=f"{np.asarray(before).tolist()}, as in the first",
                    found=np.asarray(now).tolist(),
                )
    K = K.reshape(3, 3)
    if K[0, 0] == 0:
        raise InvalidCameraError("the camera is not calibrated", where=where, field="k", expected="fx > 0", found="0")
    binning = max(int(getattr(first, "binning_x", 0)), int(getattr(first, "binning_y", 0)))
    roi = getattr(first, "roi", None)
    if binning > 1 or (roi is not None and (roi.x_offset or roi.y_offset)):
        raise InvalidCameraError(
            "binned or cropped pictures are not supported",
            where=where,
            field="binning, roi",
            found=f"binning {binning}, offset {getattr(roi, 'x_offset', 0)}, {getattr(roi, 'y_offset', 0)}",
            hint="Give the calibration of the pictures as they are in a camera file.",
        )
    if rectified:
        return CalibratedCamera(P.reshape(3, 4)[:, :3].copy(), int(first.width), int(first.height))
    distortion = named_distortion(str(first.distortion_model), d, where) if len(d) else None
    return CalibratedCamera(K, int(first.width), int(first.height), distortion=distortion)
