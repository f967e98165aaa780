"""TFRecord files: ``u64 length | u32 masked CRC of it | data | u32 masked CRC of the data``, little-endian.

Format: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import BadFileError, SourceNotFoundError, StorageError, UnsupportedSourceError
from ..remote import Ranges
from .crc32c import masked_crc32c

HEADER, FOOTER = 12, 4
MAX_RECORD = 1 << 31
"""A serialised protobuf message is at most 2 GB (https://protobuf.dev/programming-guides/encoding)."""


@dataclass(frozen=True)
class Records:
    """Where the records of one file are: offsets, lengths of the data, and masked CRCs of the data, each ``(N,)``."""

    offsets: NDArray[np.uint64]
    lengths: NDArray[np.uint64]
    crcs: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.offsets)


def open_file(path: Path) -> Ranges:
    """The file, to be read at offsets; the caller closes it."""
    try:
        return Ranges(path)
    except FileNotFoundError:
        raise SourceNotFoundError("no such file", where=path) from None
    except OSError as error:
        raise BadFileError("cannot be read", where=path, found=error) from None


def _read(file: Ranges, path: Path, count: int, offset: int) -> bytes:
    parts = []
    while count > 0:
        try:
            part = file.read(count, offset)
        except StorageError:
            raise
        except OSError as error:
            raise BadFileError(f"cannot be read at byte {offset}", where=path, found=error) from None
        if not part:
            break
        parts.append(part)
        count -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def check_header(header: bytes, path: Path, offset: int, size: int) -> int:
    """The length that a record's header states.

    Raises:
        BadFileError: The header is cut or damaged, or the record would not fit into the file.
    """
    if len(header) < HEADER:
        raise BadFileError(
            f"ends within the header of the record at byte {offset}",
            where=path,
            expected=f"{HEADER} bytes",
            found=len(header),
        )
    length, crc = struct.unpack("<QI", header)
    if masked_crc32c(np.frombuffer(header, np.uint8, 8)) != crc:
        if offset == 0 and header[:2] == b"\x1f\x8b":
            raise UnsupportedSourceError(
                "is a gzip-compressed TFRecord, which TFDS never writes", where=path, hint="Unpack it first."
            )
        raise BadFileError(f"the length of the record at byte {offset} does not match its CRC", where=path)
    if offset + HEADER + length + FOOTER > size:
        raise BadFileError(
            f"ends within the record at byte {offset}",
            where=path,
            expected=f"{length} bytes of data",
            found=f"{max(0, size - offset - HEADER)} bytes to the end of the file",
        )
    if length >= MAX_RECORD:
        raise BadFileError(f"the record at byte {offset} is too long", where=path, expected="< 2 GiB", found=length)
    return int(length)


def scan(path: Path) -> Records:
    """The records of a file; reads 16 bytes of each, and checks the CRC of each length.

    Raises:
        SourceNotFoundError: No such file.
        BadFileError: The file is cut or damaged; the message names the byte.
    """
    records, damage = scan_to_damage(path)
    if damage is not None:
        raise damage
    return records


def scan_to_damage(path: Path) -> tuple[Records, BadFileError | None]:
    """The records of a file up to where it is cut or damaged, and what is wrong there; see `scan`.

    Nothing says where the records after a damaged length begin.

    Raises:
        SourceNotFoundError: No such file.
    """
    file = open_file(path)
    offsets: list[int] = []
    lengths: list[int] = []
    crcs: list[int] = []
    damage: BadFileError | None = None
    try:
        size = file.size
        offset = 0
        header = _read(file, path, HEADER, 0)
        while header:
            length = check_header(header, path, offset, size)
            tail = _read(file, path, FOOTER + HEADER, offset + HEADER + length)
            offsets.append(offset)
            lengths.append(length)
            crcs.append(int.from_bytes(tail[:FOOTER], "little"))
            offset += HEADER + length + FOOTER
            header = tail[FOOTER:]
    except BadFileError as error:
        damage = error
    finally:
        file.close()
    return Records(np.array(offsets, np.uint64), np.array(lengths, np.uint64), np.array(crcs, np.uint32)), damage


def read_record(path: Path, offset: int, expected: tuple[int, int] | None = None) -> bytes:
    """The data of the record at ``offset``, with both CRCs checked.

    Args:
        path: The file.
        offset: Where the record's header starts.
        expected: Length and masked CRC that the record had when it was indexed, where that is known.

    Raises:
        BadFileError: Cut, damaged, or not the record that was indexed.
    """
    file = open_file(path)
    try:
        size = file.size
        length = check_header(_read(file, path, HEADER, offset), path, offset, size)
        if expected is not None and expected[0] != length:
            raise _changed(path, offset)
        data = _read(file, path, length, offset + HEADER)
        footer = _read(file, path, FOOTER, offset + HEADER + length)
    finally:
        file.close()
    if len(data) < length or len(footer) < FOOTER:
        raise BadFileError(f"ends within the record at byte {offset}", where=path)
    stored = int.from_bytes(footer, "little")
    found = masked_crc32c(np.frombuffer(data, np.uint8))
    if found != stored:
        raise BadFileError(
            f"the data of the record at byte {offset} does not match its CRC",
            where=path,
            expected=f"{stored:08x}",
            found=f"{found:08x}",
        )
    if expected is not None and expected[1] != stored:
        raise _changed(path, offset)
    return data


def _changed(path: Path, offset: int) -> BadFileError:
    return BadFileError(
        f"the record at byte {offset} is not the one that was indexed: the file has changed", where=path
    )
