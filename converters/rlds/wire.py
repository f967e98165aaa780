"""The wire format of ``tf.train.Example``, read without protobuf.

``Example{1: Features{1: repeated entry{1: key, 2: Feature}}}``, ``Feature{1: BytesList | 2: FloatList |
3: Int64List}``, each list ``{1: repeated value}`` (tensorflow/core/example/{example,feature}.proto; encoding:
https://protobuf.dev/programming-guides/encoding). The depth is fixed, nothing recurses, and nothing is allocated that a
length in the data asks for: every length is checked against what is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ...errors import BadFileError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10

Span = tuple[int, int]


class Kind(IntEnum):
    """Which of its lists a feature holds; the numbers are those of feature.proto."""

    NONE = 0
    BYTES = 1
    FLOAT = 2
    INT64 = 3


@dataclass
class Column:
    """One feature of an Example: its kind, and where in the record the bodies of its lists are."""

    kind: Kind
    spans: list[Span]


def _bad(message: str, position: int, **details: object) -> BadFileError:
    return BadFileError(f"not a tf.train.Example: {message} at byte {position} of the record", **details)  # type: ignore[arg-type]


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """The varint at ``position`` and where it ends."""
    start = position
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
        if position - start == _MAX_VARINT:
            raise _bad("a varint of more than 10 bytes", start)
    raise _bad("ends within a varint", start)


def _field(data: bytes, position: int, end: int) -> tuple[int, int, int]:
    """One field: its tag, and the start and end of its value."""
    # Nearly every tag and length is one byte: the general varint is the slow way.
    tag = data[position]
    start = position + 1
    if tag >= 0x80:
        tag, start = _varint(data, position, end)
    wire = tag & 7
    if tag < 8:
        raise _bad("field number 0", position)
    if wire == _BYTES:
        if start >= end:
            raise _bad("ends within a length", start)
        length = data[start]
        start += 1
        if length >= 0x80:
            length, start = _varint(data, start - 1, end)
        stop = start + length
    elif wire == _VARINT:
        _, stop = _varint(data, start, end)
    elif wire == _FIXED32:
        stop = start + 4
    elif wire == _FIXED64:
        stop = start + 8
    else:
        raise _bad(f"wire type {wire}, which tf.train.Example never has,", position)
    if stop > end:
        raise _bad("a field runs past the end of its message", position, expected=f"≤ {end}", found=stop)
    return tag, start, stop


_LEN1, _LEN2, _LEN3 = (1 << 3) | _BYTES, (2 << 3) | _BYTES, (3 << 3) | _BYTES


def parse_example(data: bytes) -> dict[str, Column]:
    """The columns of a serialised ``tf.train.Example``, by key; values stay where they are.

    As in protobuf, unknown fields are skipped, and of an entry that comes twice the last one counts.

    Raises:
        BadFileError: The bytes are not an Example, or a key is not UTF-8.
    """
    columns: dict[str, Column] = {}
    position, end = 0, len(data)
    while position < end:
        tag, start, position = _field(data, position, end)
        if tag != _LEN1:
            continue
        inner = start
        while inner < position:
            tag, entry_start, inner = _field(data, inner, position)
            if tag == _LEN1:
                key, column = _entry(data, entry_start, inner)
                columns[key] = column
    return columns


def _entry(data: bytes, position: int, end: int) -> tuple[str, Column]:
    key = b""
    column = Column(Kind.NONE, [])
    at = position
    while position < end:
        tag, start, position = _field(data, position, end)
        if tag == _LEN1:
            key = data[start:position]
        elif tag == _LEN2:
            _merge_feature(data, start, position, column)
    try:
        return key.decode(), column
    except UnicodeDecodeError:
        raise _bad("a feature's key is not UTF-8", at, found=repr(key[:60])) from None


def _merge_feature(data: bytes, position: int, end: int, column: Column) -> None:
    while position < end:
        tag, start, position = _field(data, position, end)
        if tag not in (_LEN1, _LEN2, _LEN3):
            continue
        kind = Kind(tag >> 3)
        if kind != column.kind:
            column.kind, column.spans = kind, []
        column.spans.append((start, position))


def bytes_spans(data: bytes, column: Column) -> list[Span]:
    """Where each value of a bytes list starts and ends."""
    out: list[Span] = []
    for position, end in column.spans:
        while position < end:
            tag, start, position = _field(data, position, end)
            if tag == _LEN1:
                out.append((start, position))
    return out


_SHORT_RUN = 6  # values; shorter runs are read one by one, longer ones with numpy


def _unpacked_floats(data: bytes, position: int, end: int) -> NDArray[np.float32]:
    """The run of unpacked values (tag 0x0d, four bytes) that begins at ``position``, in windows that double."""
    count, most = 1, (end - position) // 5
    while count < most and count < _SHORT_RUN and data[position + 5 * count] == 0x0D:
        count += 1
    window = 16
    while count >= _SHORT_RUN and count < most:
        n = min(window, most - count)
        alike = np.frombuffer(data, np.uint8, 5 * n, position + 5 * count)[::5] == 0x0D
        if not alike.all():
            count += int(np.argmin(alike))
            break
        count, window = count + n, 2 * window
    if most == 0:
        raise _bad("a field runs past the end of its message", position)
    run = np.frombuffer(data, np.uint8, 5 * count, position).reshape(-1, 5)
    return np.ascontiguousarray(run[:, 1:]).view("<f4")[:, 0]


def floats(data: bytes, column: Column) -> NDArray[np.float32]:
    """The values of a float list, packed or not; a read-only view of the record where it can be."""
    parts = []
    for position, end in column.spans:
        while position < end:
            if data[position] == 0x0D:
                parts.append(_unpacked_floats(data, position, end))
                position += 5 * len(parts[-1])
                continue
            tag, start, position = _field(data, position, end)
            if tag == _LEN1:
                if (position - start) % 4:
                    raise _bad("packed floats of a length that is no multiple of 4", start, found=position - start)
                parts.append(np.frombuffer(data, "<f4", (position - start) // 4, start))
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0, np.float32)


def decode_varints(body: NDArray[np.uint8], position: int) -> NDArray[np.int64]:
    """All varints of bytes ``(N,)`` as int64, vectorised.

    Args:
        body: The bytes; must end with the end of a varint.
        position: Where they start in the record, for the error.
    """
    if len(body) == 0:
        return np.zeros(0, np.int64)
    if (body < 0x80).all():
        return body.astype(np.int64)
    if body[-1] >= 0x80:
        raise _bad("ends within a varint", position + len(body))
    stops = np.flatnonzero(body < 0x80)
    starts = np.concatenate([[0], stops[:-1] + 1])
    lengths = stops - starts + 1
    longest = int(lengths.max())
    if longest > _MAX_VARINT:
        raise _bad("a varint of more than 10 bytes", position + int(starts[np.argmax(lengths)]))
    values = np.zeros(len(starts), np.uint64)
    for k in range(longest):
        has = lengths > k
        values[has] |= (body[starts[has] + k] & np.uint64(0x7F)) << np.uint64(7 * k)
    return values.view(np.int64)


_WINDOW = 64  # bytes; holds at least one tag and one whole varint


def _unpacked_ints(data: bytes, position: int, end: int) -> tuple[NDArray[np.int64], int]:
    """The run of unpacked values (tag 0x08, a varint) that begins at ``position``, and where it ends."""
    few: list[int] = []
    while len(few) < _SHORT_RUN and position < end and data[position] == 0x08:
        value, position = _varint(data, position + 1, end)
        few.append(value)
    parts = [np.array(few, np.uint64).view(np.int64)]
    window = _WINDOW
    while len(few) == _SHORT_RUN and position < end and data[position] == 0x08:
        body = np.frombuffer(data, np.uint8, min(window, end - position), position)
        # A row of varints in which tags and values take turns, as long as the tags stay 0x08.
        stops = np.flatnonzero(body < 0x80)
        pairs = len(stops) // 2
        if pairs == 0:
            raise _bad("a varint that does not end", position)
        tags = np.concatenate([[0], stops[1 : 2 * pairs - 1 : 2] + 1])
        alike = body[tags] == 0x08
        if not alike.all():
            pairs = int(np.argmin(alike))
        length = int(stops[2 * pairs - 1]) + 1
        parts.append(decode_varints(body[:length], position)[1::2])
        position += length
        window *= 2
    return (parts[0] if len(parts) == 1 else np.concatenate(parts)), position


def ints(data: bytes, column: Column) -> NDArray[np.int64]:
    """The values of an int64 list, packed or not."""
    parts = []
    for position, end in column.spans:
        while position < end:
            if data[position] == 0x08:
                part, position = _unpacked_ints(data, position, end)
                parts.append(part)
                continue
            tag, start, position = _field(data, position, end)
            if tag == _LEN1:
                parts.append(decode_varints(np.frombuffer(data, np.uint8, position - start, start), start))
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0, np.int64)
