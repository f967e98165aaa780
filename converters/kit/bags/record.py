"""Values of messages that are not ROS', with the names that ROS' own have."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ....errors import BadImageError

_MAX_WIDTH = 4096


class Record(SimpleNamespace):
    """Fields of a message, or of a part of it, as attributes."""


def fields_of(message: Any) -> dict[str, Any]:
    """Fields of a message by name, in order."""
    if isinstance(message, SimpleNamespace):
        return vars(message)
    return {k: getattr(message, k) for k in getattr(message, "__dataclass_fields__", ()) if k != "__msgtype__"}


def is_message(value: Any) -> bool:
    """Whether a value has fields of its own."""
    return isinstance(value, SimpleNamespace) or is_dataclass(value)


def record_of(value: Any) -> Any:
    """Records and arrays of JSON's objects and lists of numbers."""
    if isinstance(value, dict):
        return Record(**{str(k): record_of(v) for k, v in value.items()})
    if isinstance(value, list):
        if value and all(isinstance(v, (bool, int, float)) for v in value):
            return np.asarray(value, dtype=np.float64)
        return [record_of(v) for v in value]
    return value


def nanoseconds(stamp: Any) -> int:
    """Nanoseconds of a stamp as ROS, Foxglove's schemas and protobuf write it; -1 where there is none."""
    for second, part in (("sec", "nanosec"), ("sec", "nsec"), ("seconds", "nanos"), ("secs", "nsecs")):
        if hasattr(stamp, second) and hasattr(stamp, part):
            return int(getattr(stamp, second)) * 1_000_000_000 + int(getattr(stamp, part))
    return -1


def stamp_of(message: Any) -> int:
    """Nanoseconds of a message's own stamp, in its header or as ``timestamp``; -1 where it has none."""
    header = getattr(message, "header", None)
    return nanoseconds(getattr(header, "stamp", None) if header is not None else getattr(message, "timestamp", None))


def flat_fields(message: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers in a message by path, e.g. ``pose.position.x``; joints also by name, e.g. ``position.elbow``."""
    fields = fields_of(message)
    names = fields.get("name")
    for key, value in fields.items():
        if is_message(value):
            yield from flat_fields(value, f"{prefix}{key}.")
        elif isinstance(value, (bool, int, float, np.number)):
            yield f"{prefix}{key}", float(value)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.size <= _MAX_WIDTH:
            yield f"{prefix}{key}", value.astype(np.float64)
            if isinstance(names, list) and len(names) == len(value):
                yield from ((f"{prefix}{key}.{name}", float(v)) for name, v in zip(names, value, strict=True))
        elif isinstance(value, list) and value and all(isinstance(getattr(v, "name", None), str) for v in value):
            for part in value:
                yield from flat_fields(part, f"{prefix}{key}.{part.name}.")


def payload(message: Any, where: object) -> bytes:
    """The bytes in a message's ``data``; JSON has them in base64.

    Raises:
        BadImageError: There are none.
    """
    data = getattr(message, "data", None)
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    if isinstance(data, np.ndarray):
        return np.asarray(data, np.uint8).tobytes()
    if isinstance(data, str):
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadImageError(f"is not base64: {error}", where=where, field="data") from None
    raise BadImageError("holds no data", where=where, field="data", found=type(data).__name__)
