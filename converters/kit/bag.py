"""ROS 1 bags, ROS 2 bags (db3) and MCAP, read without ROS: topics, numbers, poses, tf chains, pictures."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...cameras.files import CalibratedCamera, named_distortion
from ...errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    BadImageError,
    InvalidCameraError,
    MissingExtraError,
    SourceNotFoundError,
    UnsupportedSourceError,
    WrongFormatError,
)
from ...geometry import exact, rotations, transforms
from ...untrusted import pictures
from ..recording.streams import seconds
from ..recording.sync import PoseSamples, ordered
from . import tree as _tree
from .tables import Table

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]
SUFFIXES = (".bag", ".mcap", ".db3")
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
POSE_TYPES = (
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
    "geometry_msgs/msg/Pose",
    "geometry_msgs/msg/TransformStamped",
    "nav_msgs/msg/Odometry",
)
TF_TYPES = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")
_STATIC_M = 1e-9
_CONVERSIONS = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
    "8uc1": cv2.COLOR_GRAY2RGB,
    "8uc3": cv2.COLOR_BGR2RGB,
    # OpenCV names a Bayer pattern by its second row, ROS by its first.
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}
_CHANNELS = {
    "rgb8": 3,
    "bgr8": 3,
    "8uc3": 3,
    "rgba8": 4,
    "bgra8": 4,
    "yuv422": 2,
    "uyvy": 2,
    "yuv422_yuy2": 2,
    "yuyv": 2,
}


def is_bag_folder(folder: Path) -> bool:
    """Whether a folder is a ROS 2 bag: others have a ``metadata.yaml`` too."""
    try:
        with open(folder / "metadata.yaml", "rb") as file:
            return b"rosbag2_bagfile_information" in file.read(256)
    except OSError:
        return False


def find_bags(root: Path, max_folders: int | None = None) -> Iterator[Path]:
    """Bags at or below ``root``, in natural order: files, and ROS 2 folders that hold ``metadata.yaml``."""
    if root.is_file():
        if root.suffix.lower() in SUFFIXES:
            yield root
        return
    pending, looked = [root], 0
    while pending and (max_folders is None or looked < max_folders):
        folder = pending.pop()
        looked += 1
        if is_bag_folder(folder):
            yield folder
            continue
        for name, _ in _tree.files_with_sizes(folder):
            if name.lower().endswith(SUFFIXES):
                yield folder / name
        pending.extend(reversed(_tree.subfolders(folder)))


@contextmanager
def open_bag(path: Path) -> Iterator[Any]:
    """An open ``rosbags.highlevel.AnyReader``; what goes wrong in it comes out as errors of this package.

    Raises:
        SourceNotFoundError: No such bag.
        MissingExtraError: ``rosbags`` is not installed.
        BadFileError: The bag is damaged.
    """
    try:
        import apsw
        from rosbags import rosbag1, rosbag2
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.serde import SerdeError
        from rosbags.typesys import Stores, get_typestore
        from rosbags.typesys.base import TypesysError

        from ...untrusted import unpack as _unpack
    except ImportError:
        raise MissingExtraError(
            "rosbags is not installed", where=path, hint="Install it: pip install 'actionimg-data[teleop]'."
        ) from None
    if not path.exists():
        raise SourceNotFoundError("no such bag", where=path)
    # Older ROS 2 bags do not hold their message definitions; those of the standard messages have not changed since.
    _unpack.bound()
    store = get_typestore(Stores.ROS1_NOETIC if path.suffix == ".bag" else Stores.ROS2_HUMBLE)
    try:
        with AnyReader([path], default_typestore=store) as reader:
            yield reader
    except ActionImgError as error:
        raise error.at(path) from None
    except (
        AnyReaderError,
        SerdeError,
        TypesysError,
        rosbag1.ReaderError,
        rosbag2.ReaderError,
        apsw.Error,
        struct.error,
        # What Python and the libraries below make of bytes, and of definitions of messages, that make no sense.
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        RuntimeError,
        SyntaxError,
        TypeError,
        ValueError,
        _unpack.zstd_error(),
    ) as error:
        raise BadFileError(f"is damaged, or no bag: {error or type(error).__name__}", where=path) from None
    except OSError as error:
        raise BadFileError(f"cannot be read: {error}", where=path) from None


@dataclass(frozen=True)
class Topic:
    """A topic: its name, its message type in ROS 2's spelling, and how many messages there are."""

    name: str
    type: str
    count: int


def list_topics(reader: Any) -> dict[str, Topic]:
    """Topics of an open bag, by name."""
    return {
        name: Topic(name, str(info.msgtype or "several types"), int(info.msgcount))
        for name, info in sorted(reader.topics.items())
    }


@dataclass
class Messages:
    """Messages of one topic, as far as they are needed.

    Args:
        type: Message type.
        log: ``(N,)`` nanoseconds at which each was logged.
        header: ``(N,)`` nanoseconds of each message's own stamp; -1 where it has none.
        values: The messages, deserialised; empty for pictures.
    """

    type: str
    log: list[int] = field(default_factory=list)
    header: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.log)

    @property
    def has_header(self) -> bool:
        """Whether every message has a stamp of its own that was set."""
        return len(self.header) > 0 and min(self.header) > 0


def _header_ns(raw: bytes, is2: bool) -> int:
    """The stamp of a message that begins with a header, without deserialising it (CDR; ROS 1 has ``seq`` first)."""
    if not is2:
        _, seconds, nanoseconds = struct.unpack_from("<III", raw)
    else:
        seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def read_topics(path: Path, names: Sequence[str]) -> dict[str, Messages]:
    """Messages of the named topics in one pass; of pictures only the stamps.

    Raises:
        WrongFormatError: A topic is not in the bag, or empty.
        BadFileError: The bag is damaged.
    """
    with open_bag(path) as reader:
        topics = list_topics(reader)
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
        connections = [c for c in reader.connections if c.topic in found]
        for connection, stamp, raw in reader.messages(connections) if connections else ():
            messages = found[connection.topic]
            messages.log.append(int(stamp))
            if connection.msgtype in IMAGE_TYPES:
                messages.header.append(_header_ns(raw, reader.is2))
                continue
            message = reader.deserialize(raw, connection.msgtype)
            messages.values.append(message)
            messages.header.append(_stamp_of(message))
    for name, messages in found.items():
        if len(messages) == 0:
            raise WrongFormatError("has no messages", where=path, field=name)
    return found


def read_readable(path: Path, names: Sequence[str]) -> tuple[dict[str, Messages], dict[str, str]]:
    """Messages of the topics that can be read, and why the others cannot; one pass where all can."""
    try:
        return read_topics(path, names), {}
    except (BadFileError, WrongFormatError):
        found, wrong = {}, {}
        for name in names:
            try:
                found.update(read_topics(path, [name]))
            except (BadFileError, WrongFormatError) as error:
                wrong[name] = error.message
        return found, wrong


def _stamp_of(message: Any) -> int:
    stamp = getattr(getattr(message, "header", None), "stamp", None)
    return -1 if stamp is None else int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


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


def flat_fields(message: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers in a message by path, e.g. ``pose.position.x``; joints also by name, e.g. ``position.elbow``."""
    names = getattr(message, "name", None)
    for key in getattr(message, "__dataclass_fields__", ()):
        if key == "__msgtype__":
            continue
        value = getattr(message, key)
        if is_dataclass(value):
            yield from flat_fields(value, f"{prefix}{key}.")
        elif isinstance(value, (bool, int, float, np.number)):
            yield f"{prefix}{key}", float(value)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.size <= 4096:
            yield f"{prefix}{key}", value.astype(np.float64)
            if isinstance(names, list) and len(names) == len(value):
                yield from ((f"{prefix}{key}.{name}", float(v)) for name, v in zip(names, value, strict=True))


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
    for message in messages.values:
        pose = message
        for part in ("pose", "pose"):
            pose = getattr(pose, part, pose)
        if hasattr(pose, "transform"):
            at, turn = pose.transform.translation, pose.transform.rotation
        else:
            at, turn = pose.position, pose.orientation
        position.append((at.x, at.y, at.z))
        quaternion.append((turn.x, turn.y, turn.z, turn.w))
    return PoseSamples(times, np.asarray(position, dtype=np.float64), _unit(np.asarray(quaternion, dtype=np.float64)))


def _unit(q: FloatArray) -> FloatArray:
    norm = np.linalg.norm(q, axis=-1, keepdims=True)
    good = np.abs(norm - 1) < 0.02
    return np.where(good, q / np.where(good, norm, 1.0), np.nan)


class TfTree:
    """The transforms of ``/tf`` and ``/tf_static``: for each child frame its parent and poses over time."""

    def __init__(self, streams: Mapping[str, Messages], where: object) -> None:
        self.where = where
        self.parent: dict[str, str] = {}
        self._poses: dict[str, PoseSamples] = {}
        raw: dict[str, list[tuple[int, Any]]] = {}
        for messages in streams.values():
            for message in messages.values:
                for transform in message.transforms:
                    child = transform.child_frame_id.lstrip("/")
                    parent = transform.header.frame_id.lstrip("/")
                    if self.parent.setdefault(child, parent) != parent:
                        raise WrongFormatError(
                            "a frame has two parents",
                            where=where,
                            field=child,
                            found=f"{self.parent[child]} and {parent}",
                        )
                    raw.setdefault(child, []).append((_stamp_of(transform), transform.transform))
        for child, samples in raw.items():
            at = [s[1].translation for s in samples]
            turn = [s[1].rotation for s in samples]
            self._poses[child] = PoseSamples(
                seconds(np.asarray([s[0] for s in samples], dtype=np.int64), "ns"),
                np.asarray([(p.x, p.y, p.z) for p in at], dtype=np.float64),
                _unit(np.asarray([(q.x, q.y, q.z, q.w) for q in turn], dtype=np.float64)),
            )

    def _to_root(self, frame: str) -> list[str]:
        path = [frame]
        while path[-1] in self.parent:
            if self.parent[path[-1]] in path:
                raise WrongFormatError("frames form a circle", where=self.where, field=frame)
            path.append(self.parent[path[-1]])
        return path

    def chain(self, parent: str, child: str) -> PoseSamples | FloatArray:
        """The pose of ``child`` in ``parent``: ``(4, 4)`` where nothing between them moves, else over time.

        Of several moving joints the one with the most samples sets the times; the others are interpolated to them.

        Raises:
            WrongFormatError: A frame is not in the tree, or the two are not connected.
            InvalidTrajectoryError: A gap in a moving joint.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        frames = sorted({*self.parent, *self.parent.values()})
        for frame in (parent, child):
            if frame not in frames:
                raise WrongFormatError(
                    "tf has no such frame", where=self.where, expected=" | ".join(frames[:60]), found=frame
                )
        up, down = self._to_root(child), self._to_root(parent)
        common = next((f for f in up if f in down), None)
        if common is None:
            raise WrongFormatError("tf frames are not connected", where=self.where, found=f"{parent} and {child}")
        # parent_from_child = inverse(common_from_parent) @ common_from_child
        edges = [(f, True) for f in down[: down.index(common)]] + [(f, False) for f in reversed(up[: up.index(common)])]
        moving = [f for f, _ in edges if not self._static(f)]
        if not moving:
            pose = np.eye(4)
            for frame, inverse in edges:
                step = self._matrix(frame)
                pose = np.asarray(exact.matmul(pose, transforms.invert(step) if inverse else step))
            return pose
        cleaned = {f: self._poses[f].cleaned(f"tf {f}") for f in moving}
        lead = max(moving, key=lambda f: len(cleaned[f].times))
        start = max(c.times[0] for c in cleaned.values())
        end = min(c.times[-1] for c in cleaned.values())
        times = cleaned[lead].times
        times = times[(times >= start) & (times <= end)]
        if len(times) == 0:
            raise WrongFormatError("tf joints do not overlap in time", where=self.where, field=", ".join(moving))
        pose = np.broadcast_to(np.eye(4), (len(times), 4, 4))
        for frame, inverse in edges:
            if frame in cleaned:
                position, q = cleaned[frame].at(times, f"tf {frame}", None)
                step = np.asarray(transforms.make_transform(rotations.matrix_from_quaternion(q), position))
            else:
                step = self._matrix(frame)
            pose = np.asarray(exact.matmul(pose, transforms.invert(step) if inverse else step))
        q = rotations.quaternion_from_matrix(pose[:, :3, :3])
        return PoseSamples(times, pose[:, :3, 3], np.asarray(q))

    def _static(self, frame: str) -> bool:
        poses = self._poses[frame]
        return bool(
            np.ptp(poses.position, axis=0).max() < _STATIC_M and np.ptp(poses.quaternion_xyzw, axis=0).max() < _STATIC_M
        )

    def _matrix(self, frame: str) -> FloatArray:
        poses = self._poses[frame]
        first = ordered(poses.times, f"tf {frame}", poses.finite)[0]
        rotation = rotations.matrix_from_quaternion(poses.quaternion_xyzw[first])
        return np.asarray(transforms.make_transform(rotation, poses.position[first]))


def camera_of(messages: Messages, rectified: bool, where: object) -> CalibratedCamera:
    """Intrinsics of a CameraInfo topic, the same in every message.

    Raises:
        InvalidCameraError: Intrinsics that change, were never set, or are of a binned or cropped picture.
    """
    if not messages.type.endswith("/CameraInfo"):
        raise WrongFormatError("is not a CameraInfo topic", where=where, found=messages.type)

    def read(info: Any, name: str) -> FloatArray:
        # ROS 1 spells these fields in upper case.
        return np.asarray(getattr(info, name.lower(), getattr(info, name.upper(), ())), dtype=np.float64)

    first = messages.values[0]
    K, d, P = read(first, "k").reshape(3, 3), read(first, "d"), read(first, "p").reshape(3, 4)
    for info in messages.values:
        if np.abs(read(info, "k").reshape(3, 3) - K).max() > 1e-9:
            raise InvalidCameraError("intrinsics change within the bag", where=where, field="k")
    if K[0, 0] == 0:
        raise InvalidCameraError("the camera is not calibrated", where=where, field="k", expected="fx > 0", found="0")
    binning = max(int(first.binning_x), int(first.binning_y))
    if binning > 1 or first.roi.x_offset or first.roi.y_offset:
        raise InvalidCameraError(
            "binned or cropped pictures are not supported",
            where=where,
            field="binning, roi",
            found=f"binning {binning}, offset {first.roi.x_offset}, {first.roi.y_offset}",
            hint="Give the calibration of the pictures as they are in a camera file.",
        )
    if rectified:
        return CalibratedCamera(P[:, :3].copy(), int(first.width), int(first.height))
    distortion = named_distortion(str(first.distortion_model), d, where) if len(d) else None
    return CalibratedCamera(K, int(first.width), int(first.height), distortion=distortion)


def decode_message(message: Any, where: object) -> Image:
    """RGB picture of an Image or CompressedImage message.

    Raises:
        UnsupportedSourceError: An encoding that is not a colour or grey picture of 8 bits.
        BadImageError: It cannot be decoded.
    """
    if hasattr(message, "format"):
        if "compressedDepth" in message.format:
            raise UnsupportedSourceError("holds depth, not colours", where=where, found=message.format)
        return pictures.decode(np.asarray(message.data), where)
    encoding = message.encoding.lower()
    if encoding != "rgb8" and encoding not in _CONVERSIONS:
        raise UnsupportedSourceError(
            "this picture encoding is not supported",
            where=where,
            expected=" | ".join(["rgb8", *_CONVERSIONS]),
            found=message.encoding,
        )
    channels = _CHANNELS.get(encoding, 1)
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.asarray(message.data, dtype=np.uint8)
    if height < 1 or width < 1 or step < width * channels or len(data) < height * step:
        raise BadImageError(
            "holds fewer bytes than its size", where=where, expected=f"{height} rows of {step}", found=len(data)
        )
    rows = data[: height * step].reshape(height, step)[:, : width * channels]
    picture = np.ascontiguousarray(rows.reshape(height, width, channels) if channels > 1 else rows)
    return picture if encoding == "rgb8" else np.asarray(cv2.cvtColor(picture, _CONVERSIONS[encoding]))


@dataclass(frozen=True)
class BagFrames:
    """Pictures of one topic, decoded when they are asked for; picklable.

    Args:
        path: The bag.
        topic: The topic.
        log: Nanoseconds at which each picture was logged, in the bag's order.
        width: Picture width in pixels.
        height: Picture height in pixels.
    """

    path: str
    topic: str
    log: tuple[int, ...]
    width: int
    height: int

    @classmethod
    def open(cls, path: Path, topic: str, messages: Messages) -> BagFrames:
        """Pictures of a topic whose stamps were read; the first is decoded for its size."""
        if messages.type not in IMAGE_TYPES:
            raise WrongFormatError(
                "is not a topic of pictures",
                where=path,
                field=topic,
                expected=" | ".join(IMAGE_TYPES),
                found=messages.type,
            )
        log = tuple(messages.log)
        first = next(cls(str(path), topic, log, 0, 0)._decoded([0]))
        return cls(str(path), topic, log, first.shape[1], first.shape[0])

    def __len__(self) -> int:
        return len(self.log)

    def _decoded(self, indices: Sequence[int]) -> Iterator[Image]:
        wanted = list(indices)
        if not wanted:
            return
        # Messages logged in the same nanosecond keep the bag's order, so counting starts at the first of them.
        start = self.log.index(self.log[wanted[0]])
        with open_bag(Path(self.path)) as reader:
            connections = [c for c in reader.connections if c.topic == self.topic]
            following = reader.messages(connections, start=self.log[start])
            position = start
            for index in wanted:
                item = next(islice(following, index - position, None), None)
                position = index + 1
                if item is None:
                    raise BadFileError("ends early", where=self.path, field=f"{self.topic}[{index}]")
                connection, _, raw = item
                where = f"{self.path}: {self.topic}[{index}]"
                yield decode_message(reader.deserialize(raw, connection.msgtype), where)

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """RGB pictures at ``indices`` (increasing)."""
        for index, picture in zip(indices, self._decoded(indices), strict=True):
            if picture.shape[:2] != (self.height, self.width):
                raise BadImageError(
                    "has another size than the first",
                    where=f"{self.path}: {self.topic}[{index}]",
                    expected=f"{self.width}x{self.height}",
                    found=f"{picture.shape[1]}x{picture.shape[0]}",
                )
            yield picture
