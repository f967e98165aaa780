"""Reads pickled data without running any of it.

`pickle.Unpickler` with a restricted ``find_class`` still lets a file ask for memory and time at will (a memo index of
2^31, a dictionary key made of tuples nested 60 deep twice over, a `bytearray` of 10 GB). So this is a small machine
for the opcodes that data needs (protocols 2 to 5, as CPython's ``pickletools`` documents them): a global name only
ever selects one of the operations written down here, an array is made only from bytes that are in the file, keys of
dictionaries are text or whole numbers, and the number of steps is bounded. Nothing is imported, nothing is called.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ..errors import ActionImgError, BadFileError, SourceNotFoundError, UnsafeFileError, UnsupportedSourceError
from ..untrusted.files import open_plain

MAX_BYTES: Final = 256 << 20
"""Largest file that is read; a real RLBench demo has about 3.5 kB a frame."""

MAX_STEPS: Final = 4_000_000
"""Most opcodes that are run; a real RLBench demo has about 500 a frame. Bounds memory as well: a step makes at most
one small object besides the bytes of the file."""

_MAX_INTEGER_BYTES = 16
_MAX_DIMENSIONS = 8
_MAX_ELEMENTS = 1 << 40
_DTYPE = re.compile(r"[<>=|]?([biuf])(1|2|4|8)\Z")

_GLOBALS: Final[Mapping[tuple[str, str], str]] = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    **{
        (f"numpy.{core}.{module}", name): name
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    },
    ("_codecs", "encode"): "encode",
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "bytes"): "bytes",
}


class Record:
    """An instance of a class that was allowed by name: the class's name and its pickled attributes, inert."""

    __slots__ = ("attributes", "kind")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.attributes: dict[Any, Any] | None = None

    def get(self, name: str) -> Any:
        """The attribute ``name``, or None where it is absent."""
        return None if self.attributes is None else self.attributes.get(name)


class _Global:
    """A name that a file may use. Never called; `REDUCE` and `NEWOBJ` look at its operation."""

    __slots__ = ("kind", "operation")

    def __init__(self, operation: str, kind: str = "") -> None:
        self.operation = operation
        self.kind = kind


class _Dtype:
    """A number type in the making: its byte order is set by a later `BUILD`."""

    __slots__ = ("code", "numpy")

    def __init__(self, code: str, byteorder: str) -> None:
        self.code = code
        self.set_byteorder(byteorder)

    def set_byteorder(self, byteorder: str) -> None:
        self.numpy: np.dtype[Any] = np.dtype(byteorder + self.code)


def load(
    path: str | os.PathLike[str],
    *,
    records: Mapping[tuple[str, str], str] | None = None,
    unsupported: Mapping[tuple[str, str], str] | None = None,
    max_bytes: int = MAX_BYTES,
    max_steps: int = MAX_STEPS,
) -> Any:
    """The data pickled in the file ``path``: numbers, text, bytes, lists, tuples, dicts, arrays and `Record`.

    Args:
        path: The file.
        records: ``(module, class)`` to the `Record.kind` that stands for its instances; no class is imported.
        unsupported: ``(module, class)`` to the reason why a file that uses it cannot be converted.
        max_bytes: Largest file that is read.
        max_steps: Most opcodes that are run.

    Raises:
        SourceNotFoundError: The file does not exist.
        UnsafeFileError: The file uses a name outside the fixed list, asks for object arrays, or exceeds a limit.
        UnsupportedSourceError: The file uses a name in ``unsupported``.
        BadFileError: The file is truncated, damaged, cannot be read, or is no pickle.
    """
    where = os.fspath(path)
    try:
        size = os.stat(where).st_size
        if size > max_bytes:
            raise UnsafeFileError("is too large", where=where, expected=f"at most {max_bytes} bytes", found=f"{size}")
        with open_plain(where) as file:
            data = file.read(min(size, max_bytes) + 1)
    except FileNotFoundError:
        raise SourceNotFoundError("no such file", where=where) from None
    except OSError as error:
        raise BadFileError(f"cannot be read: {error.strerror}", where=where) from None
    return loads(data, where, records=records, unsupported=unsupported, max_bytes=max_bytes, max_steps=max_steps)


def loads(
    data: bytes,
    where: str,
    *,
    records: Mapping[tuple[str, str], str] | None = None,
    unsupported: Mapping[tuple[str, str], str] | None = None,
    max_bytes: int = MAX_BYTES,
    max_steps: int = MAX_STEPS,
    objects: bool = False,
) -> Any:
    """`load` for the bytes of a file; ``where`` names it in errors.

    With ``objects`` an array may hold what a list may: numbers, texts, lists, dicts, arrays.
    """
    if len(data) > max_bytes:
        raise UnsafeFileError("is too large", where=where, expected=f"at most {max_bytes} bytes", found=f"{len(data)}")
    machine = _Machine(data, records or {}, unsupported or {}, max_steps, objects)
    try:
        return machine.run()
    except ActionImgError as error:
        raise error.at(where) from None


class _Damaged(Exception):
    """The opcodes make no sense; `run` turns it into `BadFileError` with the place."""


class _Machine:
    def __init__(
        self,
        data: bytes,
        records: Mapping[tuple[str, str], str],
        unsupported: Mapping[tuple[str, str], str],
        max_steps: int,
        objects: bool,
    ) -> None:
        self.data = data
        self.objects = objects
        self.records = records
        self.unsupported = unsupported
        self.max_steps = max_steps
        self.pos = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        # Bytes are copied once from text (protocol 2) and once into an array: copies never outgrow the file.
        self.copies_left = 2 * len(data)

    def run(self) -> Any:
        data, handlers = self.data, _HANDLERS
        if not data:
            raise BadFileError("is empty", expected="a pickle")
        if data[0] != 0x80:
            raise BadFileError(
                "is not a pickle of protocol 2 or later", expected="first byte 0x80", found=f"0x{data[0]:02x}"
            )
        start = 0
        try:
            for _ in range(self.max_steps):
                start = self.pos
                code = data[start]
                self.pos = start + 1
                if code == 0x2E:  # STOP
                    return self.stack.pop()
                handlers[code](self)
        except (_Damaged, IndexError, KeyError, struct.error) as error:
            if isinstance(error, KeyError) and start < len(data) and data[start] not in handlers:
                name = _REFUSED.get(data[start])
                if name:
                    raise UnsafeFileError(f"uses {name}, which data never needs", field=f"byte {start}") from None
                text = f"unknown opcode 0x{data[start]:02x}"
            elif isinstance(error, _Damaged):
                text = str(error)
            elif self.pos >= len(data):
                text = "ends in the middle"
            else:
                text = "refers to something that is not there"
            raise BadFileError(f"damaged or truncated pickle: {text}", field=f"byte {start} of {len(data)}") from None
        raise UnsafeFileError("takes too many steps to read", expected=f"at most {self.max_steps} opcodes")

    # The stack: what is above the last mark; `below` holds what lies under each mark.

    def pop_to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def pop_items(self, count: int) -> tuple[Any, ...]:
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise _Damaged("too few values")
        del self.stack[-count:]
        return items

    # Reading the bytes of an opcode.

    def take(self, count: int) -> bytes:
        end = self.pos + count
        if end > len(self.data):
            raise _Damaged(f"ends in the middle: {count} bytes are announced, {len(self.data) - self.pos} are there")
        taken = self.data[self.pos : end]
        self.pos = end
        return taken

    def unsigned(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise _Damaged("text is not UTF-8") from None

    def line(self) -> str:
        end = self.data.find(b"\n", self.pos, self.pos + 1024)
        if end < 0:
            raise _Damaged("no end of line")
        raw = self.data[self.pos : end]
        self.pos = end + 1
        return raw.decode("utf-8", "replace")

    # Opcodes.

    def proto(self) -> None:
        version = self.data[self.pos]
        self.pos += 1
        if not 2 <= version <= 5:
            raise BadFileError("unknown pickle protocol", expected="2 … 5", found=f"{version}")

    def frame(self) -> None:
        length = self.unsigned(8)
        if length > len(self.data) - self.pos:
            raise _Damaged(f"a frame of {length} bytes is announced, {len(self.data) - self.pos} are there")

    def push_mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def drop(self) -> None:
        self.stack.pop()

    def drop_to_mark(self) -> None:
        self.pop_to_mark()

    def duplicate(self) -> None:
        self.stack.append(self.stack[-1])

    def none(self) -> None:
        self.stack.append(None)

    def true(self) -> None:
        self.stack.append(True)

    def false(self) -> None:
        self.stack.append(False)

    def int4(self) -> None:
        self.stack.append(int.from_bytes(self.take(4), "little", signed=True))

    def int1(self) -> None:
        self.stack.append(self.data[self.pos])
        self.pos += 1

    def int2(self) -> None:
        self.stack.append(self.unsigned(2))

    def _long(self, length: int) -> None:
        if length > _MAX_INTEGER_BYTES:
            raise UnsafeFileError(
                "holds a huge whole number",
                field=f"byte {self.pos}",
                expected=f"at most {_MAX_INTEGER_BYTES} bytes",
                found=f"{length}",
            )
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))

    def long1(self) -> None:
        self._long(self.unsigned(1))

    def long4(self) -> None:
        self._long(self.unsigned(4))

    def float8(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    def text1(self) -> None:
        length = self.data[self.pos]
        self.pos += 1
        self.stack.append(self.text(length))

    def text4(self) -> None:
        self.stack.append(self.text(self.unsigned(4)))

    def text8(self) -> None:
        self.stack.append(self.text(self.unsigned(8)))

    def bytes1(self) -> None:
        length = self.data[self.pos]
        self.pos += 1
        self.stack.append(self.take(length))

    def bytes4(self) -> None:
        self.stack.append(self.take(self.unsigned(4)))

    def bytes8(self) -> None:
        self.stack.append(self.take(self.unsigned(8)))

    def empty_tuple(self) -> None:
        self.stack.append(())

    def tuple_to_mark(self) -> None:
        items = self.pop_to_mark()
        self.stack.append(tuple(items))

    def tuple1(self) -> None:
        self.stack.append(self.pop_items(1))

    def tuple2(self) -> None:
        self.stack.append(self.pop_items(2))

    def tuple3(self) -> None:
        self.stack.append(self.pop_items(3))

    def empty_list(self) -> None:
        self.stack.append([])

    def append(self) -> None:
        self._extend(self.pop_items(1))

    def appends(self) -> None:
        self._extend(self.pop_to_mark())

    def _extend(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise _Damaged("appends to something that is no list")
        target.extend(items)

    def empty_dict(self) -> None:
        self.stack.append({})

    def setitem(self) -> None:
        self._update(self.pop_items(2))

    def setitems(self) -> None:
        self._update(self.pop_to_mark())

    def _update(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise _Damaged("sets items of something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing anything nested can take exponential time.
            if type(key) not in (str, int):
                raise UnsafeFileError(
                    "dictionary key is neither text nor a whole number",
                    field=f"byte {self.pos}",
                    found=type(key).__name__,
                )
            target[key] = value

    def put1(self) -> None:
        self.memo[self.unsigned(1)] = self.stack[-1]

    def put4(self) -> None:
        self.memo[self.unsigned(4)] = self.stack[-1]

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get1(self) -> None:
        self.stack.append(self.memo[self.data[self.pos]])
        self.pos += 1

    def get4(self) -> None:
        self.stack.append(self.memo[self.unsigned(4)])

    def global_by_lines(self) -> None:
        module = self.line()
        self._push_global(module, self.line())

    def global_from_stack(self) -> None:
        module, name = self.pop_items(2)
        if type(module) is not str or type(name) is not str:
            raise _Damaged("a global's name is not text")
        self._push_global(module, name)

    def _push_global(self, module: str, name: str) -> None:
        key = (module, name)
        if key in self.records:
            self.stack.append(_Global("record", self.records[key]))
        elif key in _GLOBALS:
            self.stack.append(_Global(_GLOBALS[key]))
        elif key in self.unsupported:
            raise UnsupportedSourceError(self.unsupported[key], found=f"{module}.{name}")
        else:
            raise UnsafeFileError(
                "pickle asks for a name that data never needs; nothing was run",
                field=f"byte {self.pos}",
                found=f"{module}.{name}",
            )

    def newobj(self) -> None:
        kind, arguments = self.pop_items(2)
        if type(kind) is not _Global or kind.operation != "record" or type(arguments) is not tuple or arguments:
            raise UnsafeFileError("makes an object of something that is no known class", field=f"byte {self.pos}")
        self.stack.append(Record(kind.kind))

    def reduce(self) -> None:
        function, arguments = self.pop_items(2)
        if type(function) is not _Global or type(arguments) is not tuple:
            raise UnsafeFileError("calls something that is no known function", field=f"byte {self.pos}")
        self.stack.append(self._apply(function, arguments))

    def _apply(self, function: _Global, arguments: tuple[Any, ...]) -> Any:
        operation, count = function.operation, len(arguments)
        if operation == "dtype" and 1 <= count <= 3:
            return self._dtype(arguments[0])
        if operation == "_reconstruct" and count == 3 and _is(arguments[0], "ndarray"):
            return np.empty(0, np.int8)
        if operation == "scalar" and count == 2:
            return self._array(arguments[0], (), arguments[1], "C")[()]
        if operation == "_frombuffer" and count == 4:
            return self._array(arguments[1], arguments[2], arguments[0], arguments[3])
        if operation == "encode" and count == 2 and type(arguments[0]) is str and _is_text(arguments[1], ("latin1",)):
            self._charge(len(arguments[0]))
            try:
                return arguments[0].encode("latin1")
            except UnicodeEncodeError:
                raise _Damaged("bytes written as text are not latin-1") from None
        if operation == "bytes" and count == 0:
            return b""
        raise UnsafeFileError(
            "calls a known function with arguments that data never needs", field=f"byte {self.pos}", found=operation
        )

    def build(self) -> None:
        target, state = self.pop_items(2)
        if type(target) is Record and type(state) is dict and target.attributes is None:
            target.attributes = state
        elif type(target) is np.ndarray and type(state) is tuple and len(state) == 5:
            _, shape, dtype, fortran, raw = state
            if self.objects and type(dtype) is _Dtype and dtype.code == "O":
                target.__setstate__((1, self._checked_objects(shape, raw), dtype.numpy, fortran is True, raw))  # type: ignore[arg-type]
                self.stack.append(target)
                return
            # The array is in the memo already, so its contents are set in place.
            kind = self._checked(dtype, shape, raw)
            target.__setstate__((1, shape, kind, fortran is True, raw))  # type: ignore[arg-type]
        elif type(target) is _Dtype and type(state) is tuple and 8 <= len(state) <= 9:
            if not _is_text(state[1], "<>=|") or any(part is not None for part in state[2:5]):
                raise UnsafeFileError("holds a structured number type", field=f"byte {self.pos}")
            target.set_byteorder(state[1])
        else:
            raise UnsafeFileError(
                "sets the state of something that has none", field=f"byte {self.pos}", found=type(target).__name__
            )
        self.stack.append(target)

    # Arrays.

    def _dtype(self, code: Any) -> _Dtype:
        if self.objects and _is_text(code, ("O", "O8", "|O")):
            return _Dtype("O", "|")
        match = _DTYPE.match(code) if type(code) is str and len(code) < 8 else None
        if match is None or (match[1] == "b" and match[2] != "1") or (match[1] == "f" and match[2] == "1"):
            found = code if type(code) is str else type(code).__name__
            raise UnsafeFileError(
                "holds an array of something else than numbers", expected="b1, i1 … i8, u1 … u8, f2 … f8", found=found
            )
        return _Dtype(match[1] + match[2], code[0] if code[0] in "<>=|" else "=")

    def _array(self, dtype: Any, shape: Any, raw: Any, order: Any) -> Any:
        kind = self._checked(dtype, shape, raw)
        if not _is_text(order, "CF"):
            raise _Damaged("an array's order is neither C nor F")
        return np.frombuffer(raw, kind).reshape(shape, order=order)

    def _checked(self, dtype: Any, shape: Any, raw: Any) -> np.dtype[Any]:
        """The number type of an array that is made of bytes in the file and of nothing else."""
        if type(dtype) is not _Dtype:
            raise UnsafeFileError("array without a number type", field=f"byte {self.pos}")
        if type(shape) is not tuple or len(shape) > _MAX_DIMENSIONS:
            raise _Damaged("an array's shape is no tuple of whole numbers")
        for n in shape:
            if type(n) is not int or not 0 <= n < 1 << 32:
                raise _Damaged("an array's shape is no tuple of whole numbers")
        if type(raw) is not bytes:
            raise UnsafeFileError("an array's contents are not bytes", field=f"byte {self.pos}")
        kind = dtype.numpy
        needed = math.prod(shape) * kind.itemsize
        if needed != len(raw):
            raise BadFileError(
                "an array's bytes do not fill its shape",
                field=f"byte {self.pos}",
                expected=f"{needed} bytes for {kind} {shape}",
                found=f"{len(raw)}",
            )
        if math.prod(n for n in shape if n) > _MAX_ELEMENTS:
            raise _Damaged("an array's shape is impossible")
        self._charge(len(raw))
        return kind

    def _checked_objects(self, shape: Any, items: Any) -> Any:
        """The shape of an array of objects that is made of a list in the file and of nothing else."""
        plain = type(shape) is tuple and len(shape) <= _MAX_DIMENSIONS
        if not plain or any(type(n) is not int or not 0 <= n < 1 << 32 for n in shape):
            raise _Damaged("an array's shape is no tuple of whole numbers")
        if type(items) is not list or len(items) != math.prod(shape):
            raise BadFileError("an array's objects do not fill its shape", field=f"byte {self.pos}")
        self._charge(len(items))
        return shape

    def _charge(self, count: int) -> None:
        self.copies_left -= count
        if self.copies_left < 0:
            raise UnsafeFileError("the same bytes are copied over and over", field=f"byte {self.pos}")


def _is_text(value: Any, allowed: Sequence[str]) -> bool:
    """Whether ``value`` is one of the texts; comparing an array with a text gives no truth value."""
    return type(value) is str and len(value) > 0 and value in allowed


def _is(value: Any, operation: str) -> bool:
    return type(value) is _Global and value.operation == operation


_HANDLERS: Final[Mapping[int, Callable[[_Machine], None]]] = {
    0x80: _Machine.proto,
    0x95: _Machine.frame,
    ord("("): _Machine.push_mark,
    ord("0"): _Machine.drop,
    ord("1"): _Machine.drop_to_mark,
    ord("2"): _Machine.duplicate,
    ord("N"): _Machine.none,
    0x88: _Machine.true,
    0x89: _Machine.false,
    ord("J"): _Machine.int4,
    ord("K"): _Machine.int1,
    ord("M"): _Machine.int2,
    0x8A: _Machine.long1,
    0x8B: _Machine.long4,
    ord("G"): _Machine.float8,
    0x8C: _Machine.text1,
    ord("X"): _Machine.text4,
    0x8D: _Machine.text8,
    ord("C"): _Machine.bytes1,
    ord("B"): _Machine.bytes4,
    0x8E: _Machine.bytes8,
    0x96: _Machine.bytes8,
    ord(")"): _Machine.empty_tuple,
    ord("t"): _Machine.tuple_to_mark,
    0x85: _Machine.tuple1,
    0x86: _Machine.tuple2,
    0x87: _Machine.tuple3,
    ord("]"): _Machine.empty_list,
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("}"): _Machine.empty_dict,
    ord("s"): _Machine.setitem,
    ord("u"): _Machine.setitems,
    ord("q"): _Machine.put1,
    ord("r"): _Machine.put4,
    0x94: _Machine.memoize,
    ord("h"): _Machine.get1,
    ord("j"): _Machine.get4,
    ord("c"): _Machine.global_by_lines,
    0x93: _Machine.global_from_stack,
    ord("R"): _Machine.reduce,
    0x81: _Machine.newobj,
    ord("b"): _Machine.build,
}

_REFUSED: Final[Mapping[int, str]] = {
    ord("P"): "a persistent id",
    ord("Q"): "a persistent id",
    ord("i"): "a class by the opcode INST",
    ord("o"): "a class by the opcode OBJ",
    0x92: "a class by the opcode NEWOBJ_EX",
    0x82: "a copyreg extension code",
    0x83: "a copyreg extension code",
    0x84: "a copyreg extension code",
    0x97: "an out-of-band buffer",
    0x98: "an out-of-band buffer",
    0x8F: "a set",
    0x90: "a set",
    0x91: "a set",
}
