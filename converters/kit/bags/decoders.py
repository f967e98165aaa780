"""From the bytes of messages to values: ROS 2 (CDR), ROS 1, protobuf, JSON and FlatBuffers.

A channel's definition is looked at when a message of it is first read, so that a channel nobody asks for does no harm.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from ....errors import (
    ActionImgError,
    BadFileError,
    MissingExtraError,
    SourceNotFoundError,
    UnsupportedSourceError,
    install_hint,
)
from ....untrusted.files import read_bytes
from ....untrusted.text import parse_json
from . import flatbuffer
from .channels import Channel
from .record import Record, record_of

Decode = Callable[[bytes], Any]
_WRONG: Final = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, struct.error),
)
"""What Python and the libraries below make of bytes, and of definitions of messages, that make no sense."""
_MAX_DEFINITION: Final = 1 << 22
_MAX_MSG_FILES: Final = 50_000
_ROS_NAME = re.compile(r"[A-Za-z]\w*(/(msg|srv|action))?/[A-Za-z]\w*\Z")


def canonical(name: str) -> str:
    """A type as this package names it: ROS' as ``pkg/msg/Name``, Foxglove's as ``foxglove.Name``, whoever wrote it."""
    for prefix in ("foxglove_msgs/msg/", "foxglove_msgs/"):
        if name.startswith(prefix):
            return f"foxglove.{name[len(prefix) :]}"
    return _ros_name(name)


def _ros_name(name: str) -> str:
    """A type of ROS 1 or 2 as ``pkg/msg/Name``."""
    return name.replace("/", "/msg/") if name.count("/") == 1 and _ROS_NAME.match(name) else name


class Decoders:
    """What reads the messages of a bag's channels.

    Args:
        folders: With definitions of messages that bags do not hold: ``.msg`` files, or trees of ROS packages.
    """

    def __init__(self, folders: tuple[str, ...] = ()) -> None:
        self._folders = folders
        self._known: dict[int, Decode] = {}
        self._ros: dict[tuple[str, str, bytes, bool], Decode] = {}

    def decode(self, channel: Channel, data: bytes) -> Any:
        """The values of a message.

        Raises:
            UnsupportedSourceError: The channel is of a kind that is not read, or its definition is not there.
            BadFileError: The message does not fit its definition.
        """
        found = self._known.get(channel.id)
        if found is None:
            found = self._known[channel.id] = self.decoder(channel)
        try:
            return found(data)
        except ActionImgError as error:
            raise _of_topic(error, channel.topic) from None
        except _wrong() as error:
            why = f"does not hold a {channel.type or 'message'}: {_said(error)}"
            raise BadFileError(why, field=channel.topic) from None

    def problem(self, channel: Channel) -> str:
        """Why messages of a channel cannot be read, in words; empty where they can."""
        try:
            self._known.setdefault(channel.id, self.decoder(channel))
        except MissingExtraError:
            raise
        except ActionImgError as error:
            about = (("expected", error.expected), ("found", error.found))
            details = ", ".join(f"{what} {value}" for what, value in about if value)
            return f"{error.message}{f' ({details})' if details else ''}. {error.hint or ''}".strip()
        return ""

    def decoder(self, channel: Channel) -> Decode:
        """What reads messages of a channel.

        Raises:
            UnsupportedSourceError: A kind of message that is not read, or one whose definition is not there.
            BadFileError: The definition makes no sense.
        """
        try:
            return _renamed(self._made(channel), canonical(channel.type))
        except ActionImgError as error:
            raise _of_topic(error, channel.topic) from None
        except _wrong() as error:
            why = f"has a definition of {channel.type} that makes no sense: {_said(error)}"
            raise BadFileError(why, field=channel.topic) from None

    def _made(self, channel: Channel) -> Decode:
        if len(channel.schema) > _MAX_DEFINITION:
            raise BadFileError("has a definition that is too long", field=channel.topic, found=len(channel.schema))
        if channel.encoding in ("cdr", "ros1"):
            key = (channel.type, channel.schema_encoding, channel.schema, channel.encoding == "ros1")
            if key not in self._ros:
                self._ros[key] = self._ros_decoder(channel)
            return self._ros[key]
        if channel.encoding == "protobuf":
            return _protobuf(channel)
        if channel.encoding == "json":
            return lambda data: record_of(_object(parse_json(data, None, channel.topic), channel.topic))
        if channel.encoding == "flatbuffer":
            return flatbuffer.decoder(channel.schema, channel.type)
        raise UnsupportedSourceError(
            "messages in this encoding are not read",
            field=channel.topic,
            expected="cdr | ros1 | protobuf | json | flatbuffer",
            found=channel.encoding or "none",
        )

    def _ros_decoder(self, channel: Channel) -> Decode:
        from rosbags.typesys import Stores, get_typestore

        ros1 = channel.encoding == "ros1"
        name = _ros_name(channel.type)
        types = _defined(channel, name)
        if name not in types:
            # The library has a name of its own for the messages of services and actions: pkg/srv/msg/Name.
            name = next((n for n in types if n.rsplit("/", 1)[-1] == name.rsplit("/", 1)[-1]), name)
        standard = _standard(ros1).fielddefs
        todo = [name]
        wanted: dict[str, Any] = {}
        while todo:
            found = todo.pop()
            if found in wanted:
                continue
            definition = types.get(found) or standard.get(found)
            if definition is None:
                types.update(self._from_folders(found, channel))
                definition = types[found]
            wanted[found] = definition
            todo.extend(_named(definition))
        store = get_typestore(Stores.EMPTY)
        store.register(wanted)
        if ros1:
            return lambda data: store.deserialize_ros1(data, name)
        return lambda data: store.deserialize_cdr(data, name)

    def _from_folders(self, name: str, channel: Channel) -> dict[str, Any]:
        """The definition of a type from the user's folders."""
        from rosbags.typesys import get_types_from_msg

        path = _msg_files(self._folders).get(name) or _msg_files(self._folders).get(name.rsplit("/", 1)[-1])
        if path is None:
            raise UnsupportedSourceError(
                "the bag does not hold the definition of a message",
                field=channel.topic,
                expected=f"the definition of {name}",
                found=None
                if _ros_name(channel.type) == name
                else f"only that of {channel.type}, of which it is a part",
                hint=f"Give it: --msg-path FOLDER, with {name.rsplit('/', 1)[-1]}.msg or ROS packages in it.",
            )
        text = read_bytes(path, _MAX_DEFINITION).decode("utf-8", "replace")
        try:
            return dict(get_types_from_msg(text, name))
        except _library_errors() as error:
            raise BadFileError(f"is no definition of a message: {_said(error)}", where=path) from None


def _said(error: Exception) -> str:
    """What a library says, in one line."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def _of_topic(error: ActionImgError, topic: str) -> ActionImgError:
    """The error with the topic in which it arose."""
    field = topic if error.field in (None, topic) else f"{topic}: {error.field}"
    return type(error)(
        error.message,
        where=error.where,
        field=field,
        expected=error.expected,
        found=error.found,
        hint=error.hint,
    )


def _defined(channel: Channel, name: str) -> dict[str, Any]:
    """Types that a channel's own definition holds."""
    from rosbags.typesys import get_types_from_idl, get_types_from_msg

    text = channel.schema.decode("utf-8", "replace")
    if not text.strip():
        return {}
    if channel.schema_encoding in ("ros2msg", "ros1msg", ""):
        return dict(get_types_from_msg(text, name))
    if channel.schema_encoding in ("ros2idl", "omgidl"):
        # Definitions that need each other come behind one another, each under a line of its own.
        separator = "=" * 80 + "\n"
        parts = [p.partition("\n")[2] if p.startswith("IDL: ") else p for p in text.split(separator) if p.strip()]
        found: dict[str, Any] = {}
        for part in parts:
            found.update(get_types_from_idl(part))
        return found
    raise UnsupportedSourceError(
        "definitions in this language are not read",
        field=channel.topic,
        expected="ros2msg | ros2idl | ros1msg",
        found=channel.schema_encoding,
    )


def _named(definition: Any) -> Iterator[str]:
    """Types that a type's fields are of."""
    from rosbags.interfaces import Nodetype

    for _, (kind, about) in definition[1]:
        inner = about
        while kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
            kind, inner = inner[0]
        if kind == Nodetype.NAME:
            yield str(inner)


@cache
def _standard(ros1: bool) -> Any:
    """ROS' own messages; those that bags hold have not changed since."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)


@cache
def _msg_files(folders: tuple[str, ...]) -> Mapping[str, Path]:
    """``.msg`` files below folders by ``package/msg/Name``, and by ``Name`` alone where a file is in no package.

    Raises:
        SourceNotFoundError: No such folder.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not os.path.isdir(folder):
            raise SourceNotFoundError("no such folder of message definitions", where=folder, field="msg_path")
        for place, inside, names in os.walk(folder):
            inside.sort()
            at = Path(place)
            for name in sorted(n for n in names if n.endswith(".msg")):
                packaged = at.name == "msg" and at.parent.name
                key = f"{at.parent.name}/msg/{name[:-4]}" if packaged else name[:-4]
                found.setdefault(key, at / name)
                if len(found) > _MAX_MSG_FILES:
                    raise BadFileError("holds too many definitions", where=folder, expected=f"≤ {_MAX_MSG_FILES}")
    return found


def _protobuf(channel: Channel) -> Decode:
    try:
        from mcap.records import Schema
        from mcap_protobuf.decoder import DecoderFactory
    except ImportError:
        raise MissingExtraError(
            "mcap-protobuf-support is not installed",
            field=channel.topic,
            hint=f"Install it: {install_hint('teleop')}",
        ) from None
    made = DecoderFactory().decoder_for(
        "protobuf", Schema(id=1, name=channel.type, encoding=channel.schema_encoding, data=channel.schema)
    )
    if made is None:
        raise UnsupportedSourceError("the file does not hold the definition of a message", found=channel.type)
    return lambda data: _from_protobuf(made(data), 0)


def _from_protobuf(message: Any, depth: int) -> Any:
    """Records of protobuf's messages; fields that were not set have their defaults."""
    if depth > 32:
        raise BadFileError("is nested too deeply", expected="≤ 32 levels")
    found = Record()
    for about in message.DESCRIPTOR.fields:
        value = getattr(message, about.name)
        if about.message_type is not None and about.message_type.GetOptions().map_entry:
            continue
        if about.is_repeated:
            if about.message_type is not None:
                value = [_from_protobuf(v, depth + 1) for v in value]
            elif about.cpp_type in _NUMBERS:
                value = np.asarray(value, dtype=np.float64)
            else:
                value = list(value)
        elif about.message_type is not None:
            # A part that was not sent has its defaults; of types that hold themselves that has no end.
            there = depth < 8 or message.HasField(about.name)
            value = _from_protobuf(value, depth + 1) if there else None
        elif about.has_presence and not message.HasField(about.name):
            value = None
        setattr(found, about.name, value)
    return found


_NUMBERS: Final = frozenset((1, 2, 3, 4, 5, 6, 7, 8))
"""``FieldDescriptor.CPPTYPE_*`` of int32, int64, uint32, uint64, double, float, bool and enum."""


def _object(value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BadFileError("is not a JSON object", field=where, found=type(value).__name__)
    return value


def _renamed(decode: Decode, kind: str) -> Decode:
    """Foxglove's messages with the names that ROS' have, where they differ."""
    if kind in ("foxglove.JointStates", "foxglove.JointState"):
        return lambda data: _joints(decode(data))
    return decode


def _joints(message: Any) -> Any:
    """Joints as ROS' JointState has them: names beside lists of numbers."""
    joints = getattr(message, "joints", None)
    if not isinstance(joints, list):
        return message
    found = Record(timestamp=getattr(message, "timestamp", None), name=[str(j.name) for j in joints])
    for key in ("position", "velocity", "effort"):
        values = [getattr(j, key, None) for j in joints]
        if any(v is not None for v in values):
            setattr(found, key, np.asarray([np.nan if v is None else float(v) for v in values]))
    return found


@cache
def _wrong() -> tuple[type[Exception], ...]:
    """What bytes, and definitions, that make no sense make Python and the libraries raise."""
    return (*_WRONG, *_library_errors())


@cache
def _library_errors() -> tuple[type[Exception], ...]:
    from rosbags.serde import SerdeError
    from rosbags.typesys.base import TypesysError

    found: list[type[Exception]] = [SerdeError, TypesysError]
    try:
        from google.protobuf.message import DecodeError
        from mcap.exceptions import McapError

        found += [DecodeError, McapError]
    except ImportError:
        pass
    return tuple(found)
