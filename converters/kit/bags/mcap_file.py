"""MCAP files by their own indexes: only the messages of the channels that are asked for are read.

Layout of the records: https://mcap.dev/spec. Records of the summary are parsed by the ``mcap`` package; messages are
found by the index behind each chunk, so that a channel of a large file costs what it holds. Files without an index, and
files that were cut off, are gone through once from the beginning.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from ....errors import BadFileError
from ....untrusted.files import open_plain
from ....untrusted.unpack import MAX_CHUNK, unpacked
from .channels import Channel

MAGIC: Final = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX = 1, 2, 3, 4, 5, 6, 7
_CHUNK_INDEX, _STATISTICS, _DATA_END = 8, 11, 15
_FOOTER_BYTES: Final = 9 + 20 + len(MAGIC)
_MESSAGE_HEAD: Final = struct.Struct("<HIQQ")
_CHUNK_HEAD: Final = struct.Struct("<QQQII")
_OPEN_CHUNKS: Final = 4
_MAX_RECORD: Final = 1 << 30
_LOOSE: Final = -1
"""Number of the chunk of a message that is in none."""

ENTRY: Final = np.dtype([("log", "<u8"), ("offset", "<u8"), ("chunk", "<i8"), ("channel", "<i8")])
Entries = NDArray[np.void]


@dataclass
class Chunk:
    """Where a chunk is.

    Args:
        start: Of its packed records in the file.
        packed: Their bytes.
        size: Bytes that they unpack to.
        compression: ``zstd``, ``lz4`` or empty.
        first: Log time of its earliest message in nanoseconds.
        last: Of its latest.
        index: Where the index of each channel's messages is in the file; None where there is none.
        cut: It was cut off.
        found: Its messages, where it was gone through.
    """

    start: int
    packed: int
    size: int
    compression: str
    first: int
    last: int
    index: dict[int, int] | None = None
    cut: bool = False
    found: Entries | None = None


@dataclass
class Contents:
    """What an MCAP file says of itself, or what going through it shows.

    Args:
        channels: By id.
        chunks: In the order of the file.
        loose: Messages outside of chunks.
        counts: Messages by channel, where the file says so.
        first: Log time of the earliest message in nanoseconds.
        last: Of the latest.
        cut: Where the file was cut off, in words; empty where it was not.
    """

    channels: dict[int, Channel] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    loose: Entries = field(default_factory=lambda: np.zeros(0, ENTRY))
    counts: dict[int, int] | None = None
    first: int = 0
    last: int = 0
    cut: str = ""


class McapFile:
    """A `BagReader` of an MCAP file.

    Args:
        path: The file.
        allow_cut: Read what is whole of a file that was cut off.

    Raises:
        BadFileError: It is damaged, or was cut off; the error then says where.
    """

    def __init__(self, path: Path, allow_cut: bool = False) -> None:
        self.path = path
        self._file: IO[bytes] = open_plain(path)
        try:
            stat = os.fstat(self._file.fileno())
            self.contents = _contents(str(path), stat.st_size, stat.st_mtime_ns)
        except BaseException:
            self._file.close()
            raise
        if self.contents.cut and not allow_cut:
            self._file.close()
            raise cut_error(self.contents.cut)
        self._open: OrderedDict[int, bytes] = OrderedDict()
        counts = self.contents.counts
        if counts is None:
            entries = self.entries(self.contents.channels)
            ids, numbers = np.unique(entries["channel"], return_counts=True)
            counts = dict(zip(ids.tolist(), numbers.tolist(), strict=True))
            self.contents.counts = counts
            if len(entries):
                self.contents.first, self.contents.last = int(entries["log"].min()), int(entries["log"].max())
        self.channels = tuple(
            Channel(c.id, c.topic, c.type, c.encoding, c.schema_encoding, c.schema, counts.get(c.id, 0))
            for c in self.contents.channels.values()
        )

    @property
    def cut(self) -> str:
        """Where the file was cut off, in words; empty where it was not."""
        return self.contents.cut

    @property
    def duration_s(self) -> float:
        """Seconds between the first and the last message."""
        return (self.contents.last - self.contents.first) * 1e-9

    def close(self) -> None:
        """Release the file."""
        self._file.close()
        self._open.clear()

    def messages(self, channels: Collection[Channel], start: int | None = None) -> Iterator[tuple[Channel, int, bytes]]:
        """Channel, log time in nanoseconds and bytes of messages from ``start`` on, in order of their log times."""
        by_id = {c.id: c for c in channels}
        for entry in self.entries(by_id, start):
            channel, log, data = self._message(int(entry["chunk"]), int(entry["offset"]))
            if channel in by_id:
                yield by_id[channel], log, data

    def entries(self, ids: Collection[int], start: int | None = None) -> Entries:
        """Where the messages of channels are, in order of their log times."""
        wanted = np.asarray(sorted(ids), dtype=np.int64)
        parts = [self.contents.loose[np.isin(self.contents.loose["channel"], wanted)]]
        for number, chunk in enumerate(self.contents.chunks):
            if start is not None and chunk.last < start:
                continue
            if chunk.index is None:
                if chunk.found is None:
                    chunk.found = _scanned(self._records(number), number)
                parts.append(chunk.found[np.isin(chunk.found["channel"], wanted)])
                continue
            for channel in ids:
                if channel in chunk.index:
                    parts.append(self._indexed(chunk.index[channel], channel, number))
        entries = np.concatenate(parts)
        if start is not None:
            entries = entries[entries["log"] >= start]
        return entries[np.lexsort((entries["offset"], entries["chunk"], entries["log"]))]

    def _indexed(self, offset: int, channel: int, number: int) -> Entries:
        self._file.seek(offset)
        code, length = struct.unpack("<BQ", _exactly(self._file, 9))
        size = self.contents.chunks[number].size
        if code != _MESSAGE_INDEX or not 6 <= length <= 2 * size + 64:
            raise BadFileError("has no index where it says", field=f"byte {offset}")
        body = _exactly(self._file, length)
        found, count = struct.unpack_from("<HI", body)
        if found != channel or count % 16 or 6 + count > length:
            raise BadFileError("has a damaged index", field=f"byte {offset}")
        pairs = np.frombuffer(body, "<u8", count // 8, 6).reshape(-1, 2)
        if len(pairs) and int(pairs[:, 1].max()) >= size:
            raise BadFileError("has an index that leaves its chunk", field=f"byte {offset}")
        entries = np.zeros(len(pairs), ENTRY)
        entries["log"], entries["offset"] = pairs[:, 0], pairs[:, 1]
        entries["chunk"], entries["channel"] = number, channel
        return entries

    def _records(self, number: int) -> bytes:
        """The unpacked records of a chunk."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        chunk = self.contents.chunks[number]
        self._file.seek(chunk.start - 8 - len(chunk.compression.encode()) - _CHUNK_HEAD.size)
        *_, crc, _ = _CHUNK_HEAD.unpack(_exactly(self._file, _CHUNK_HEAD.size))
        self._file.seek(chunk.start)
        data = unpacked(_exactly(self._file, chunk.packed), chunk.compression, cut=chunk.cut)
        if not chunk.cut:
            if len(data) != chunk.size:
                raise BadFileError("a chunk is damaged", expected=f"{chunk.size} bytes", found=len(data))
            if crc and zlib.crc32(data) != crc:
                raise BadFileError("a chunk is damaged", field="CRC", expected=crc, found=zlib.crc32(data))
        self._open[number] = data
        if len(self._open) > _OPEN_CHUNKS:
            self._open.popitem(last=False)
        return data

    def _message(self, number: int, offset: int) -> tuple[int, int, bytes]:
        """Channel, log time and bytes of a message; of a chunk that is not packed nothing else is read."""
        chunk = None if number == _LOOSE else self.contents.chunks[number]
        if chunk is None or (chunk.compression == "" and not chunk.cut):
            self._file.seek(offset + (0 if chunk is None else chunk.start))
            code, length = struct.unpack("<BQ", _exactly(self._file, 9))
            if code != _MESSAGE or not _MESSAGE_HEAD.size <= length <= (_MAX_RECORD if chunk is None else chunk.size):
                raise BadFileError("has no message where its index says", field=f"byte {offset}")
            body = _exactly(self._file, length)
        else:
            data = self._records(number)
            code, length = struct.unpack_from("<BQ", data, offset)
            body = data[offset + 9 : offset + 9 + length]
            if code != _MESSAGE or len(body) != length or length < _MESSAGE_HEAD.size:
                raise BadFileError("has no message where its index says", field=f"byte {offset} of a chunk")
        channel, _, log, _ = _MESSAGE_HEAD.unpack_from(body)
        return channel, log, body[_MESSAGE_HEAD.size :]


def cut_error(where: str) -> BadFileError:
    """A recording that was cut off is not read without the user's word."""
    return BadFileError(
        f"was cut off: {where}",
        expected="a recording that was closed",
        hint="To convert what is whole of it: --allow cut-recording.",
    )


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise BadFileError("ends early", expected=f"{count} bytes", found=len(data))
    return data


@lru_cache(maxsize=8)
def _contents(path: str, size: int, changed: int) -> Contents:
    """What is in a file, kept for when it is opened again."""
    with open_plain(path) as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise BadFileError("is no MCAP file", expected="MCAP's first bytes")
        file.seek(max(0, size - _FOOTER_BYTES))
        tail = file.read(_FOOTER_BYTES)
        whole = len(tail) == _FOOTER_BYTES and tail[-len(MAGIC) :] == MAGIC and tail[0] == _FOOTER
        summary = struct.unpack_from("<Q", tail, 9)[0] if whole else 0
        if summary:
            if not len(MAGIC) < summary < size - _FOOTER_BYTES + 1:
                raise BadFileError("is damaged", field="footer", found=f"a summary at byte {summary} of {size}")
            file.seek(summary)
            found = _summary(file.read(size - _FOOTER_BYTES - summary), size)
            if found is not None:
                return found
        return _scan(file, size, whole)


def _records_of(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, position and body of each whole record."""
    at = 0
    while at + 9 <= len(data):
        code, length = struct.unpack_from("<BQ", data, at)
        if at + 9 + length > len(data):
            return
        yield code, at, data[at + 9 : at + 9 + length]
        at += 9 + length


def _summary(data: bytes, size: int) -> Contents | None:
    """What the summary says, or None where it leaves out what is needed."""
    from mcap.data_stream import ReadDataStream
    from mcap.records import ChunkIndex, Statistics

    contents, schemas = Contents(), dict[int, tuple[str, str, bytes]]()
    messages = 0
    for code, _, body in _records_of(data):
        if code == _SCHEMA:
            _add_schema(schemas, body)
        elif code == _CHANNEL:
            _add_channel(contents, schemas, body)
        elif code == _CHUNK_INDEX:
            at = ChunkIndex.read(ReadDataStream(io.BytesIO(body)))
            contents.chunks.append(_chunk_of(at, size))
        elif code == _STATISTICS:
            told = Statistics.read(ReadDataStream(io.BytesIO(body)))
            contents.counts = dict(told.channel_message_counts)
            contents.first, contents.last = told.message_start_time, told.message_end_time
            messages = told.message_count
    if not contents.chunks and (messages or contents.counts is None):
        return None
    named = {*(contents.counts or ()), *(channel for chunk in contents.chunks for channel in chunk.index or ())}
    if not named <= set(contents.channels) or (contents.chunks and not contents.channels):
        return None
    # An index that names no channel at all was not written: its chunk is gone through when it is needed.
    for chunk in contents.chunks:
        chunk.index = chunk.index or None
    return contents


def _chunk_of(at: Any, size: int) -> Chunk:
    head = 9 + _CHUNK_HEAD.size + len(at.compression.encode()) + 8
    if at.chunk_start_offset + head + at.compressed_size > size or at.uncompressed_size > MAX_CHUNK:
        raise BadFileError("is damaged", field="chunk index", found=f"a chunk at byte {at.chunk_start_offset}")
    return Chunk(
        at.chunk_start_offset + head,
        at.compressed_size,
        at.uncompressed_size,
        at.compression,
        at.message_start_time,
        at.message_end_time,
        dict(at.message_index_offsets),
    )


def _add_schema(schemas: dict[int, tuple[str, str, bytes]], body: bytes) -> None:
    (number,) = struct.unpack_from("<H", body)
    name, at = _text(body, 2)
    encoding, at = _text(body, at)
    (length,) = struct.unpack_from("<I", body, at)
    schemas[number] = (name, encoding, body[at + 4 : at + 4 + length])


def _add_channel(contents: Contents, schemas: dict[int, tuple[str, str, bytes]], body: bytes) -> None:
    number, schema = struct.unpack_from("<HH", body)
    topic, at = _text(body, 4)
    encoding, _ = _text(body, at)
    name, kind, text = schemas.get(schema, ("", "", b""))
    contents.channels[number] = Channel(number, topic, name, encoding, kind, text, 0)


def _text(body: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", body, at)
    if at + 4 + length > len(body):
        raise BadFileError("is damaged", field="record", found=f"text of {length} bytes")
    return body[at + 4 : at + 4 + length].decode("utf-8", "replace"), at + 4 + length


def _scanned(data: bytes, number: int) -> Entries:
    """Where the messages of a chunk's records are."""
    found = []
    at = 0
    while at + 9 <= len(data):
        code, length = struct.unpack_from("<BQ", data, at)
        if at + 9 + length > len(data):
            break
        if code == _MESSAGE and length >= _MESSAGE_HEAD.size:
            channel, _, log, _ = _MESSAGE_HEAD.unpack_from(data, at + 9)
            found.append((log, at, number, channel))
        at += 9 + length
    return np.array(found, ENTRY)


def _scan(file: IO[bytes], size: int, whole: bool) -> Contents:
    """Go through a file from its beginning to where it ends or was cut off."""
    contents, schemas = Contents(), dict[int, tuple[str, str, bytes]]()
    loose: list[tuple[int, int, int, int]] = []
    at, end = len(MAGIC), False
    while not end:
        file.seek(at)
        head = file.read(9)
        if len(head) < 9:
            break
        code, length = struct.unpack("<BQ", head)
        left = size - at - 9
        if code == 0 or (code > _DATA_END and code < 0x80):
            raise BadFileError("is damaged", field=f"byte {at}", expected="a record", found=f"kind {code}")
        if code == _CHUNK:
            _scan_chunk(file, at, min(length, left), contents, schemas, length > left)
        elif length > left:
            break
        elif code == _MESSAGE:
            channel, _, log, _ = _MESSAGE_HEAD.unpack(_exactly(file, _MESSAGE_HEAD.size))
            loose.append((log, at, _LOOSE, channel))
        elif code in (_SCHEMA, _CHANNEL) and length <= _MAX_RECORD:
            body = _exactly(file, length)
            _add_schema(schemas, body) if code == _SCHEMA else _add_channel(contents, schemas, body)
        end = code in (_FOOTER, _DATA_END) or length > left
        if length > left:
            break
        at += 9 + length
    contents.loose = np.array(loose, ENTRY)
    if not whole:
        span = [c.last for c in contents.chunks] + [log for log, *_ in loose]
        first = [c.first for c in contents.chunks] + [log for log, *_ in loose]
        seconds = f", {(max(span) - min(first)) * 1e-9:.2f} s after its first message" if span else ""
        contents.cut = f"it ends at byte {size}, in the middle of the record at byte {at}{seconds}"
    return contents


def _scan_chunk(
    file: IO[bytes],
    at: int,
    length: int,
    contents: Contents,
    schemas: dict[int, tuple[str, str, bytes]],
    cut: bool,
) -> None:
    """Take a chunk in: its messages are indexed, and the schemas and channels in it are read."""
    head = file.read(min(length, _CHUNK_HEAD.size))
    if len(head) < _CHUNK_HEAD.size:
        return
    first, last, size, _, named = _CHUNK_HEAD.unpack(head)
    if named > 32 or size > MAX_CHUNK:
        raise BadFileError("is damaged", field=f"byte {at}", found=f"a chunk of {size} bytes")
    rest = file.read(named + 8)
    if len(rest) < named + 8:
        return
    compression = rest[:named].decode("utf-8", "replace")
    (packed,) = struct.unpack_from("<Q", rest, named)
    start = at + 9 + _CHUNK_HEAD.size + named + 8
    there = min(packed, at + 9 + length - start)
    data = unpacked(_exactly(file, there), compression, cut=cut)
    found = _scanned(data, len(contents.chunks))
    chunk = Chunk(start, there, size, compression, first, last, None, cut, found)
    for code, _, body in _records_of(data):
        if code == _SCHEMA:
            _add_schema(schemas, body)
        elif code == _CHANNEL:
            _add_channel(contents, schemas, body)
    if cut and len(found):
        chunk.last = int(found["log"].max())
    if len(found) or not cut:
        contents.chunks.append(chunk)
