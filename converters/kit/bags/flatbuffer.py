"""FlatBuffers messages by the binary schema (``.bfbs``) that an MCAP file holds.

Google's package reads messages only through code generated for each schema. Layout of the buffers:
https://flatbuffers.dev/internals; of the schemas: ``reflection/reflection.fbs`` of that project.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ....errors import BadFileError
from .record import Record

_MAX_DEPTH: Final = 32
_MAX_PARTS: Final = 1_000_000
_STRING, _VECTOR, _OBJECT, _ARRAY = 13, 14, 15, 17
_SCALARS: Final = {
    1: "u1", 2: "?", 3: "i1", 4: "u1", 5: "<i2", 6: "<u2",
    7: "<i4", 8: "<u4", 9: "<i8", 10: "<u8", 11: "<f4", 12: "<f8",
}  # fmt: skip
"""numpy's names of the scalar base types of the reflection schema."""


@dataclass(frozen=True)
class _Kind:
    base: int
    element: int
    index: int
    length: int


@dataclass(frozen=True)
class _Field:
    name: str
    kind: _Kind
    number: int
    offset: int
    default: float | None


@dataclass(frozen=True)
class _Object:
    name: str
    fields: tuple[_Field, ...]
    is_struct: bool
    size: int


class _Buffer:
    """Reads of a buffer; what leaves it is `BadFileError`, and so is what would take for ever."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.parts = 0

    def number(self, code: str, at: int) -> Any:
        dtype = np.dtype(code)
        if at < 0 or at + dtype.itemsize > len(self.data):
            raise BadFileError("leaves its buffer", field=f"byte {at}")
        return np.frombuffer(self.data, dtype, 1, at)[0].item()

    def follow(self, at: int) -> int:
        target = at + self.number("<u4", at)
        if target == at or target + 4 > len(self.data):
            raise BadFileError("leaves its buffer", field=f"byte {at}")
        self.parts += 1
        if self.parts > _MAX_PARTS:
            raise BadFileError("has too many parts", expected=f"≤ {_MAX_PARTS}")
        return int(target)

    def field(self, table: int, number: int) -> int:
        """Where a field of a table is, or 0."""
        vtable = table - self.number("<i4", table)
        size = self.number("<u2", vtable)
        at = 4 + 2 * number
        offset = self.number("<u2", vtable + at) if at + 2 <= size else 0
        return table + offset if offset else 0

    def text(self, at: int) -> str:
        start = self.follow(at)
        count = self.number("<u4", start)
        if start + 4 + count > len(self.data):
            raise BadFileError("leaves its buffer", field=f"byte {start}")
        return self.data[start + 4 : start + 4 + count].decode("utf-8", "replace")

    def vector(self, at: int, width: int) -> tuple[int, int]:
        """Where a vector's first element is, and how many there are."""
        start = self.follow(at)
        count = self.number("<u4", start)
        if start + 4 + count * width > len(self.data):
            raise BadFileError("leaves its buffer", field=f"byte {start}")
        return start + 4, count


def decoder(schema: bytes, name: str) -> Callable[[bytes], Record]:
    """What reads messages of the type ``name`` (empty: the root type) of a binary schema.

    Raises:
        BadFileError: The schema makes no sense, or does not define the type.
    """
    objects, root = _objects(schema)
    index = next((i for i, o in enumerate(objects) if o.name == name), None if name else root)
    if index is None:
        raise BadFileError("the schema does not define the type", found=name)
    chosen = index

    def decode(data: bytes) -> Record:
        buffer = _Buffer(data)
        return _table(buffer, buffer.follow(0), objects, chosen, 0)

    return decode


def _objects(schema: bytes) -> tuple[list[_Object], int | None]:
    """Tables and structs of a binary schema, and which of them is the root."""
    buffer = _Buffer(schema)
    if schema[4:8] != b"BFBS":
        raise BadFileError("is no binary schema of FlatBuffers", expected="BFBS", found=schema[4:8])
    top = buffer.follow(0)
    start, count = buffer.vector(buffer.field(top, 0), 4)
    places = [buffer.follow(start + 4 * i) for i in range(count)]
    objects = [_object(buffer, at) for at in places]
    root = buffer.field(top, 4)
    main = buffer.follow(root) if root else None
    return objects, places.index(main) if main in places else None


def _object(buffer: _Buffer, at: int) -> _Object:
    fields = []
    where = buffer.field(at, 1)
    if where:
        start, count = buffer.vector(where, 4)
        fields = [_field(buffer, buffer.follow(start + 4 * i)) for i in range(count)]
    is_struct, size = buffer.field(at, 2), buffer.field(at, 4)
    return _Object(
        buffer.text(buffer.field(at, 0)),
        tuple(sorted(fields, key=lambda f: f.number)),
        bool(is_struct and buffer.number("?", is_struct)),
        buffer.number("<i4", size) if size else 0,
    )


def _field(buffer: _Buffer, at: int) -> _Field:
    kind = buffer.follow(buffer.field(at, 1))

    def scalar(table: int, number: int, code: str, default: float) -> Any:
        where = buffer.field(table, number)
        return buffer.number(code, where) if where else default

    base, element = scalar(kind, 0, "i1", 0), scalar(kind, 1, "i1", 0)
    real = base in (11, 12)
    return _Field(
        buffer.text(buffer.field(at, 0)),
        _Kind(base, element, scalar(kind, 2, "<i4", -1), scalar(kind, 3, "<u2", 0)),
        scalar(at, 2, "<u2", 0),
        scalar(at, 3, "<u2", 0),
        # A scalar that may be left out has no default.
        None if scalar(at, 11, "?", False) else scalar(at, 5, "<f8", 0.0) if real else scalar(at, 4, "<i8", 0),
    )


def _table(buffer: _Buffer, at: int, objects: list[_Object], index: int, depth: int) -> Record:
    if depth > _MAX_DEPTH or not 0 <= index < len(objects):
        raise BadFileError("is nested too deeply, or names a type that is not there", expected=f"≤ {_MAX_DEPTH} levels")
    found = Record()
    for field in objects[index].fields:
        # Where a field of a table is stands in the table's list of offsets; that of a struct, in the schema.
        where = at + field.offset if objects[index].is_struct else buffer.field(at, field.number)
        setattr(found, field.name, _value(buffer, where, objects, field, depth))
    return found


def _value(buffer: _Buffer, at: int, objects: list[_Object], field: _Field, depth: int) -> Any:
    kind = field.kind
    if kind.base in _SCALARS:
        if at == 0:
            return bool(field.default) if kind.base == 2 and field.default is not None else field.default
        return buffer.number(_SCALARS[kind.base], at)
    if at == 0:
        return _empty(kind)
    if kind.base == _STRING:
        return buffer.text(at)
    if kind.base == _OBJECT:
        is_struct = 0 <= kind.index < len(objects) and objects[kind.index].is_struct
        return _table(buffer, at if is_struct else buffer.follow(at), objects, kind.index, depth + 1)
    if kind.base == _VECTOR:
        return _vector(buffer, at, objects, kind, depth)
    if kind.base == _ARRAY and kind.element in _SCALARS:
        dtype = np.dtype(_SCALARS[kind.element])
        buffer.number("u1", at + max(0, kind.length * dtype.itemsize - 1))
        return np.frombuffer(buffer.data, dtype, kind.length, at)
    return None  # unions and arrays of structs: nothing that is read here uses them


def _empty(kind: _Kind) -> Any:
    if kind.base == _STRING:
        return ""
    if kind.base == _VECTOR:
        return np.zeros(0, _SCALARS[kind.element]) if kind.element in _SCALARS else []
    return None


def _vector(buffer: _Buffer, at: int, objects: list[_Object], kind: _Kind, depth: int) -> Any:
    if kind.element in _SCALARS:
        dtype = np.dtype(_SCALARS[kind.element])
        start, count = buffer.vector(at, dtype.itemsize)
        return np.frombuffer(buffer.data, dtype, count, start)
    if kind.element == _STRING:
        start, count = buffer.vector(at, 4)
        return [buffer.text(start + 4 * i) for i in range(count)]
    if kind.element == _OBJECT and 0 <= kind.index < len(objects):
        own = objects[kind.index]
        width = own.size if own.is_struct else 4
        start, count = buffer.vector(at, max(width, 1))
        places = [start + width * i for i in range(count)]
        return [
            _table(buffer, p if own.is_struct else buffer.follow(p), objects, kind.index, depth + 1) for p in places
        ]
    return []
