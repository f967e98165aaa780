"""From the columns of a ``tf.train.Example`` to the values of its features.

How TFDS lays values out: example_serializer.py, example_parser.py and features/*.py of tensorflow/datasets. A leaf in
no sequence is one value; in one sequence its values follow each other in one list; in more it is ragged, with the
lengths of the inner sequences in lists of their own.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import (
    ActionImgError,
    BadFileError,
    BadImageError,
    FrameCountError,
    InvalidTextError,
    UnsafeFileError,
    UnsupportedSourceError,
)
from . import images, wire
from .features import Leaf, Shape, Stored
from .wire import Column, Kind

MAX_INFLATED = 1 << 28
"""Bytes that one zlib-encoded value of unknown shape may inflate to."""

RAGGED_VALUES = "ragged_flat_values"
RAGGED_LENGTHS = "ragged_row_lengths_{}"
_NOTHING = Column(Kind.NONE, [])

# Flat values: an array (N, *shape), or a list of N arrays where their shapes differ.
Flat = NDArray[Any] | list[NDArray[Any]]


class Example:
    """One record: its bytes, and where each column of it is.

    Args:
        data: The serialised ``tf.train.Example``.
        where: What to name in errors, e.g. the file and the record's offset.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self.data = data
        self.where = where
        self._found: dict[str, list[wire.Span]] = {}
        try:
            self.columns = wire.parse_example(data)
        except ActionImgError as error:
            raise error.at(where) from None

    def has(self, stored: Stored) -> bool:
        """Whether the record has any column of a leaf."""
        return any(key in self.columns for key in self._keys(stored))

    def _keys(self, stored: Stored) -> tuple[str, ...]:
        key = stored.key
        return (key, f"{key}/{RAGGED_VALUES}", f"{key}/value", f"{key}/{RAGGED_LENGTHS.format(0)}")

    def length(self, stored: Stored) -> int | None:
        """Number of steps that a leaf under ``steps`` has; None where it cannot be told from the record."""
        try:
            return self._length(stored)
        except ActionImgError as error:
            raise _place(error, self.where, stored.key) from None

    def _length(self, stored: Stored) -> int | None:
        leaf = stored.leaf
        if leaf.kind == "unsupported":
            return None
        if self._ragged(stored):
            return len(self._ints(f"{stored.key}/{RAGGED_LENGTHS.format(0)}"))
        if leaf.dynamic:
            return len(self._spans(f"{stored.key}/value"))
        if leaf.kind != "tensor" or leaf.encoding != "none":
            return len(self._spans(stored.key))
        if not leaf.size:
            return None
        return len(self._numbers(stored.key, leaf)) // leaf.size

    def read(self, stored: Stored, steps: int | None = None, frames: Seq[int] | None = None) -> Any:
        """The value of a leaf.

        Args:
            stored: The leaf.
            steps: Under ``steps``: how many there must be.
            frames: Only these elements of the outermost sequence (pictures only).

        Returns:
            An array (or str) outside sequences; in one sequence an array ``(T, ...)``, or a list of T arrays where
            shapes differ; in more, lists of those. Text is str, in arrays of objects.

        Raises:
            BadFileError: The column is missing, of another kind, or of a length that does not fit.
            BadImageError: A picture cannot be decoded.
            FrameCountError: Another number of steps than ``steps``.
            InvalidTextError: Text is not UTF-8.
            UnsupportedSourceError: A class of feature that this reader does not know.
        """
        try:
            return self._read(stored, steps, frames)
        except ActionImgError as error:
            raise _place(error, self.where, stored.key) from None

    def _read(self, stored: Stored, steps: int | None, frames: Seq[int] | None) -> Any:
        leaf = stored.leaf
        if leaf.kind == "unsupported":
            raise UnsupportedSourceError("is of a class that this reader does not know", found=leaf.python_class)
        if not stored.sequences:
            return self._single(stored)
        if self._ragged(stored):
            value = self._read_ragged(stored)
            if steps is not None and len(value) != steps:
                raise _count(steps, len(value))
            return value
        outer = stored.sequences[0]
        wanted = steps if outer.is_steps and steps is not None else outer.length
        count = len(self._spans(stored.key)) if leaf.kind == "image" else None
        if count is not None and wanted is not None and count != wanted:
            raise _count(wanted, count)
        flat = self._flat(stored.key, leaf, steps, frames)
        if count is None and wanted is not None and len(flat) != wanted:
            raise _count(wanted, len(flat))
        return flat

    # -- the layouts ---------------------------------------------------------------------------------------------

    def _single(self, stored: Stored) -> Any:
        leaf = stored.leaf
        if leaf.optional and not self.has(stored):
            return None
        if leaf.kind == "tensor" and leaf.encoding == "none" and not leaf.dynamic:
            numbers = self._numbers(stored.key, leaf)
            shape = _filled(leaf.shape, len(numbers))
            return _text_or_array(numbers.reshape(shape))
        flat = self._flat(stored.key, leaf, None, None)
        if len(flat) != 1:
            raise BadFileError("is not one value", expected="1", found=len(flat))
        return flat[0]

    def _ragged(self, stored: Stored) -> bool:
        # Written whenever two sequences nest (example_serializer.py), even where their lengths are fixed.
        return len(stored.sequences) > 1 and f"{stored.key}/{RAGGED_LENGTHS.format(0)}" in self.columns

    def _read_ragged(self, stored: Stored) -> list[Any]:
        flat: Any = self._flat(f"{stored.key}/{RAGGED_VALUES}", stored.leaf, None, None)
        levels = len(stored.sequences) - 1
        for level in reversed(range(levels)):
            lengths = self._ints(f"{stored.key}/{RAGGED_LENGTHS.format(level)}")
            if (lengths < 0).any() or int(lengths.sum()) != len(flat):
                raise BadFileError(
                    "row lengths do not add up to the number of values",
                    expected=len(flat),
                    found=f"{int(lengths.sum())} at level {level}",
                )
            stops = np.cumsum(lengths)
            flat = [_row(flat[b - n : b], stored.leaf) for b, n in zip(stops.tolist(), lengths.tolist(), strict=True)]
        return list(flat)

    def _flat(self, key: str, leaf: Leaf, steps: int | None, frames: Seq[int] | None) -> Flat:
        """All values of a column, one after the other."""
        if leaf.dynamic:
            return self._dynamic(key, leaf)
        if leaf.kind == "image":
            return self._images(key, leaf, frames)
        if leaf.kind == "tensor" and leaf.encoding != "none":
            return _stack([self._decoded(v, leaf, leaf.shape) for v in self._values(key)], leaf)
        numbers = self._numbers(key, leaf)
        if leaf.size is None:
            raise UnsupportedSourceError(
                "has values of unknown length in one list; TFDS cannot read them either", found=leaf.text()
            )
        if leaf.size == 0:
            return numbers[:0].reshape(steps or 0, *_known(leaf.shape))
        if len(numbers) % leaf.size:
            raise BadFileError(
                "has a number of values that does not fit its shape",
                expected=f"a multiple of {leaf.size}",
                found=len(numbers),
            )
        return numbers.reshape(-1, *_known(leaf.shape))

    def _dynamic(self, key: str, leaf: Leaf) -> Flat:
        if leaf.encoding == "none":
            raise UnsupportedSourceError("has several unknown dimensions and no encoding", found=leaf.text())
        values = self._values(f"{key}/value")
        shapes = self._ints(f"{key}/shape")
        if len(shapes) != len(values) * len(leaf.shape):
            raise BadFileError(
                "has another number of shapes than of values",
                expected=f"{len(values)} x {len(leaf.shape)}",
                found=len(shapes),
            )
        rows = shapes.reshape(-1, len(leaf.shape)).tolist()
        for row in rows:
            if not images.matches(tuple(row), leaf.shape) or min(row, default=0) < 0:
                raise BadFileError("has a value of another shape", expected=leaf.text(), found=row)
        return _stack([self._decoded(v, leaf, tuple(r)) for v, r in zip(values, rows, strict=True)], leaf)

    def _images(self, key: str, leaf: Leaf, frames: Seq[int] | None) -> Flat:
        spans = self._spans(key)
        if frames is not None:
            spans = [spans[i] for i in frames]
        if not spans:
            return np.zeros((0, *_known(leaf.shape)), leaf.dtype)
        values = (self.data[a:b] for a, b in spans)
        first = next(values)
        index = 0
        try:
            # The size of the first picture is taken for all; where one differs, the rest become a list.
            head = images.header(first)
            shape = images.stored_shape(head, leaf)
            out = np.empty((len(spans), *shape), leaf.dtype)
            images.decode(first, leaf, out[0], head)
            rest: list[Any] | None = None
            alike = head
            for index, value in enumerate(values, start=1):
                if rest is None and images.decode_alike(value, leaf, out[index], first, alike):
                    continue
                head = images.header(value)
                if rest is None and images.stored_shape(head, leaf) == shape:
                    images.decode(value, leaf, out[index], head)
                    continue
                if rest is None:
                    rest = list(out[:index])
                rest.append(images.decode(value, leaf, None, head))
        except BadImageError as error:
            frame = index if frames is None else frames[index]
            raise BadImageError(
                f"{error.message} (picture {frame})", expected=error.expected, found=error.found
            ) from None
        return out if rest is None else rest

    def image_shape(self, stored: Stored) -> tuple[int, int, int]:
        """Shape of the first picture of a leaf, from features.json or from the picture's header."""
        height, width, channels = stored.leaf.shape
        if height is not None and width is not None and channels:
            return height, width, channels
        try:
            spans = self._spans(stored.key)
            if not spans:
                raise BadImageError("has no pictures")
            return images.stored_shape(images.header(self.data[slice(*spans[0])]), stored.leaf)
        except ActionImgError as error:
            raise _place(error, self.where, stored.key) from None

    # -- the columns ---------------------------------------------------------------------------------------------

    def _column(self, key: str, kind: Kind) -> Column:
        column = self.columns.get(key, _NOTHING)
        # A list without values may be left out altogether, or be of no kind.
        if column.kind not in (kind, Kind.NONE):
            raise BadFileError("is stored as another kind of list", expected=kind.name, found=column.kind.name)
        return column

    def _spans(self, key: str) -> list[wire.Span]:
        # Remembered: pictures are asked for one by one.
        if key not in self._found:
            self._found[key] = wire.bytes_spans(self.data, self._column(key, Kind.BYTES))
        return self._found[key]

    def _values(self, key: str) -> list[bytes]:
        return [self.data[a:b] for a, b in self._spans(key)]

    def _ints(self, key: str) -> NDArray[np.int64]:
        return wire.ints(self.data, self._column(key, Kind.INT64))

    def _numbers(self, key: str, leaf: Leaf) -> NDArray[Any]:
        """All values of a tensor or text column in the leaf's dtype."""
        if leaf.dtype == "str":
            values = self._values(key)
            texts = np.empty(len(values), object)
            texts[:] = [_utf8(v) for v in values]
            return texts
        dtype = np.dtype(leaf.dtype)
        if dtype.kind == "f":
            return wire.floats(self.data, self._column(key, Kind.FLOAT)).astype(dtype, copy=False)
        numbers = wire.ints(self.data, self._column(key, Kind.INT64))
        return numbers != 0 if dtype.kind == "b" else numbers.astype(dtype, copy=False)

    def _decoded(self, value: bytes, leaf: Leaf, shape: Shape) -> NDArray[Any]:
        """One value that was stored as its bytes, compressed or not."""
        dtype = np.dtype(leaf.dtype)
        expected = None if None in shape else int(np.prod([n or 0 for n in shape], dtype=object)) * dtype.itemsize
        if leaf.encoding == "zlib":
            value = _inflate(value, MAX_INFLATED if expected is None else expected)
        elif leaf.encoding != "bytes":
            raise UnsupportedSourceError("has an unknown encoding", expected="none | bytes | zlib", found=leaf.encoding)
        if len(value) % dtype.itemsize or (expected is not None and len(value) != expected):
            raise BadFileError("has a value of another length", expected=f"{expected} bytes", found=f"{len(value)}")
        numbers = np.frombuffer(value, dtype.newbyteorder("<"))
        return numbers.reshape(_filled(shape, len(numbers))).astype(dtype, copy=False)


def _place(error: ActionImgError, where: str, field: str) -> ActionImgError:
    return type(error)(
        error.message, where=where, field=field, expected=error.expected, found=error.found, hint=error.hint
    )


def _count(expected: int, found: int) -> FrameCountError:
    return FrameCountError("has another number of values than there are steps", expected=expected, found=found)


def _known(shape: Shape) -> tuple[int, ...]:
    """A shape with 0 for what is unknown, as TFDS shapes empty sequences."""
    return tuple(n or 0 for n in shape)


def _filled(shape: Shape, count: int) -> tuple[int, ...]:
    """A shape with at most one unknown dimension, worked out from the number of values."""
    rest = 1
    for n in shape:
        rest *= 1 if n is None else n
    unknown = shape.count(None)
    if unknown > 1 or (unknown == 0 and rest != count) or (unknown and count and (rest == 0 or count % rest)):
        raise BadFileError("has a number of values that does not fit its shape", expected=str(shape), found=count)
    return tuple((count // rest if count else 0) if n is None else n for n in shape)


def _inflate(value: bytes, limit: int) -> bytes:
    engine = zlib.decompressobj()
    try:
        out = engine.decompress(value, limit + 1)
    except zlib.error as error:
        raise BadFileError("is not zlib data", found=error) from None
    if len(out) > limit:
        raise UnsafeFileError("inflates to more than its shape holds", expected=f"≤ {limit} bytes")
    if not engine.eof:
        raise BadFileError("ends within its zlib data", found=f"{len(value)} bytes")
    return out


def _utf8(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidTextError("is not UTF-8 text", found=f"{value[:40]!r} ({error.reason})") from None


def _stack(values: list[NDArray[Any]], leaf: Leaf) -> Flat:
    """Values as one array where their shapes agree, or could only agree."""
    if not values:
        return np.zeros((0, *_known(leaf.shape)), leaf.dtype)
    if None in leaf.shape:
        return values
    return np.stack(values)


def _row(values: Any, leaf: Leaf) -> Any:
    """One row of a ragged feature: an array where it can be one."""
    if len(values) == 0:
        # TFDS gives the unknown dimensions of an empty row as 0.
        return np.zeros((0, *_known(leaf.shape)), object if leaf.dtype == "str" else leaf.dtype)
    if isinstance(values, np.ndarray):
        return values
    first = values[0]
    if isinstance(first, np.ndarray) and all(isinstance(v, np.ndarray) and v.shape == first.shape for v in values):
        return np.stack(values)
    return list(values)


def _text_or_array(value: NDArray[Any]) -> Any:
    """A scalar text as str; anything else as it is."""
    if value.dtype == object and value.ndim == 0:
        return value.item()
    return value
