"""``.npz`` whose bytes depend on the arrays only, and that is read without pickle and within bounds."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFileError, UnsafeFileError

MAX_BYTES: Final = 1 << 30
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def dump(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Bytes of an ``.npz``, compressed, with fixed time stamps, members in the order given."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, array in arrays.items():
            body = io.BytesIO()
            np.lib.format.write_array(body, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o444 << 16
            archive.writestr(entry, body.getvalue())
    return buffer.getvalue()


def load(data: bytes, where: object, max_bytes: int = MAX_BYTES) -> dict[str, NDArray[Any]]:
    """Arrays of an ``.npz``; object arrays and contents over ``max_bytes`` are refused before anything is unpacked.

    Raises:
        UnsafeFileError: It would unpack to more than ``max_bytes``, or holds Python objects.
        BadFileError: It is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            total = sum(entry.file_size for entry in entries)
            if total > max_bytes:
                raise UnsafeFileError(
                    "unpacks to too much", where=where, expected=f"≤ {max_bytes} B", found=f"{total} B"
                )
            arrays: dict[str, NDArray[Any]] = {}
            for entry in entries:
                if not entry.filename.endswith(".npy") or entry.filename[:-4] in arrays:
                    raise BadFileError("has an unexpected member", where=where, found=entry.filename)
                # read() stops with an error at the stated size, whatever the compressed data goes on to hold.
                arrays[entry.filename[:-4]] = _array(archive.read(entry), where, entry.filename)
            return arrays
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        if isinstance(error, (BadFileError, UnsafeFileError)):
            raise
        raise BadFileError(f"cannot be read: {error}", where=where) from None


def _array(body: bytes, where: object, name: str) -> NDArray[Any]:
    stream = io.BytesIO(body)
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    if dtype.hasobject:
        raise UnsafeFileError("holds Python objects", where=where, field=name)
    size = dtype.itemsize * int(np.prod([int(n) for n in shape], dtype=object))
    rest = body[stream.tell() :]
    if size != len(rest):
        raise BadFileError("is truncated", where=where, field=name, expected=f"{size} B", found=f"{len(rest)} B")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C")
