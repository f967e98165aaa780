"""ROS 2's SQLite files (db3), folders of several files, and ROS 1 bags, as `BagReader`."""

from __future__ import annotations

import io
import os
import re
import sqlite3
import struct
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any, Final

from ....errors import BadFileError, UnsupportedSourceError, WrongFormatError
from ....untrusted.files import open_plain
from ....untrusted.text import load_yaml
from ....untrusted.unpack import MAX_CHUNK, unpacked
from .channels import BagReader, Channel
from .mcap_file import McapFile, cut_error

_MAX_FILES: Final = 100_000


class Db3File:
    """A `BagReader` of a ROS 2 bag in SQLite.

    Args:
        path: The file.
        allow_cut: Read it where the recorder left its last messages in a journal beside it.

    Raises:
        BadFileError: It is no such file, or damaged.
    """

    def __init__(self, path: Path, allow_cut: bool = False) -> None:
        self.path = path
        # SQLite says of a missing file, a pipe and a text that they are "unable to open" or "not a database".
        with open_plain(path) as file:
            if not file.read(16).startswith(b"SQLite format 3"):
                raise BadFileError("is no SQLite file", where=path)
        journal = Path(f"{path}-wal")
        left = journal.stat().st_size if journal.is_file() else 0
        self.cut = f"its last messages are still in {journal.name}, which is not read" if left else ""
        if self.cut and not allow_cut:
            raise cut_error(self.cut)
        self._rows: sqlite3.Connection = sqlite3.connect(
            f"file:{_uri(path)}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        try:
            self.channels = tuple(self._topics())
            self._first, self._last = self._rows.execute(
                "SELECT MIN(timestamp), MAX(timestamp) FROM messages"
            ).fetchone()
        except BaseException:
            self._rows.close()
            raise

    def _topics(self) -> Iterator[Channel]:
        tables = {name for (name,) in self._rows.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"topics", "messages"} <= tables:
            raise BadFileError("is no ROS 2 bag", where=self.path, expected="tables topics and messages", found=tables)
        told: dict[str, tuple[str, bytes]] = {}
        if "message_definitions" in tables:
            query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            told = {str(kind): (str(how), _as_bytes(text)) for kind, how, text in self._rows.execute(query)}
        counts = dict(self._rows.execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id"))
        for number, topic, kind, how in self._rows.execute("SELECT id, name, type, serialization_format FROM topics"):
            schema_encoding, schema = told.get(str(kind), ("", b""))
            yield Channel(int(number), str(topic), str(kind), str(how), schema_encoding, schema, counts.get(number, 0))

    @property
    def duration_s(self) -> float:
        """Seconds between the first and the last message."""
        return 0.0 if self._first is None else (self._last - self._first) * 1e-9

    def messages(self, channels: Collection[Channel], start: int | None = None) -> Iterator[tuple[Channel, int, bytes]]:
        """Channel, log time in nanoseconds and bytes of messages from ``start`` on, in order of their log times."""
        by_id = {c.id: c for c in channels}
        marks = ",".join("?" for _ in by_id)
        query = f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks})"
        values = list(by_id)
        if start is not None:
            query, values = f"{query} AND timestamp >= ?", [*values, start]
        for number, log, data in self._rows.execute(f"{query} ORDER BY timestamp, id", values):
            yield by_id[number], int(log), _as_bytes(data)

    def close(self) -> None:
        """Release the file."""
        self._rows.close()


def _uri(path: Path) -> str:
    from urllib.parse import quote

    return quote(os.fspath(path.absolute()))


def _as_bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


class BagFolder:
    """A `BagReader` of a ROS 2 bag: the files that its ``metadata.yaml`` names, or the recorder's, one after another.

    Raises:
        BadFileError: Files are missing, or ``metadata.yaml`` makes no sense.
        UnsupportedSourceError: Files of a kind that is not read.
    """

    def __init__(self, path: Path, allow_cut: bool = False) -> None:
        self.path = path
        self._packed = ""
        names = self._named()
        self._readers: list[BagReader] = []
        self._scratch: Any = None
        try:
            for name in names:
                self._readers.append(self._opened(path / name, allow_cut))
        except BaseException:
            self.close()
            raise
        keys: dict[tuple[str, str, str, str, bytes], int] = {}
        self._own: list[dict[int, Channel]] = []
        totals: dict[int, int] = {}
        for reader in self._readers:
            own = {}
            for c in reader.channels:
                key = (c.topic, c.type, c.encoding, c.schema_encoding, c.schema)
                number = keys.setdefault(key, len(keys))
                totals[number] = totals.get(number, 0) + c.count
                own[number] = c
            self._own.append(own)
        self.channels = tuple(
            Channel(number, topic, kind, encoding, schema_encoding, schema, totals[number])
            for (topic, kind, encoding, schema_encoding, schema), number in keys.items()
        )

    def _named(self) -> list[str]:
        found = load_yaml(self.path / "metadata.yaml")
        about = found.get("rosbag2_bagfile_information") if isinstance(found, dict) else None
        names = about.get("relative_file_paths") if isinstance(about, dict) else None
        if not isinstance(about, dict) or not isinstance(names, list) or not names or len(names) > _MAX_FILES:
            raise BadFileError("names no files", where=self.path / "metadata.yaml", field="relative_file_paths")
        self._packed = str(about.get("compression_mode") or "").lower().replace("none", "")
        if self._packed and about.get("compression_format") != "zstd":
            raise UnsupportedSourceError(
                "is packed by a method that is not read",
                where=self.path / "metadata.yaml",
                expected="zstd",
                found=about.get("compression_format"),
            )
        # Older recorders put their folder before the names.
        return [Path(str(name)).name for name in names]

    def _opened(self, path: Path, allow_cut: bool) -> BagReader:
        if not path.is_file():
            raise BadFileError("a file of the bag is missing", where=path)
        if self._packed == "file":
            path = self._unpacked(path)
        suffix = path.suffix.lower()
        if suffix not in _FILES:
            raise UnsupportedSourceError("is not a kind of bag that is read", where=path, expected=" ".join(_FILES))
        return _FILES[suffix](path, allow_cut)

    def _unpacked(self, path: Path) -> Path:
        """A copy of a file that is packed as a whole."""
        import tempfile

        from ....untrusted.unpack import unpack_file

        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="actionimg-")
        return unpack_file(path, Path(self._scratch.name) / path.stem)

    @property
    def cut(self) -> str:
        """Where the recording was cut off, in words."""
        return next((r.cut for r in self._readers if r.cut), "")

    @property
    def duration_s(self) -> float:
        """Seconds between the first and the last message of each file, added up."""
        return sum(r.duration_s for r in self._readers)

    def messages(self, channels: Collection[Channel], start: int | None = None) -> Iterator[tuple[Channel, int, bytes]]:
        """Channel, log time in nanoseconds and bytes of messages from ``start`` on, file by file."""
        by_id = {c.id: c for c in channels}
        for reader, own in zip(self._readers, self._own, strict=True):
            back = {c.id: by_id[number] for number, c in own.items() if number in by_id}
            inner = [c for number, c in own.items() if number in by_id]
            if not inner:
                continue
            for channel, log, data in reader.messages(inner, start):
                yield back[channel.id], log, unpacked(data, "zstd") if self._packed == "message" else data

    def close(self) -> None:
        """Release the files."""
        for reader in self._readers:
            reader.close()
        if self._scratch is not None:
            self._scratch.cleanup()


class Ros1File:
    """A `BagReader` of a ROS 1 bag (format 2.0), by its index where it has one.

    Args:
        path: The file.
        allow_cut: Read what is whole of a recording that was never closed.

    Raises:
        BadFileError: It is damaged, or was cut off.
    """

    def __init__(self, path: Path, allow_cut: bool = False) -> None:
        from rosbags.rosbag1 import Reader

        self.path, self.cut = path, ""
        self._reader: Any = None
        self._scanned: _Ros1Scan | None = None
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            unfinished = _ros1_unfinished(file, size)
        if unfinished:
            self.cut = unfinished
            if not allow_cut:
                raise cut_error(unfinished)
            self._scanned = _Ros1Scan(path)
            self.channels = self._scanned.channels
            return
        self._reader = Reader(path)
        self._reader.open()
        self._connections = {c.id: c for c in self._reader.connections}
        self.channels = tuple(
            Channel(c.id, c.topic, c.msgtype, "ros1", "ros1msg", c.msgdef.data.encode(), c.msgcount)
            for c in self._reader.connections
        )

    @property
    def duration_s(self) -> float:
        """Seconds between the first and the last message."""
        if self._scanned is not None:
            return self._scanned.duration_s
        return float(self._reader.duration) * 1e-9 if self.channels else 0.0

    def messages(self, channels: Collection[Channel], start: int | None = None) -> Iterator[tuple[Channel, int, bytes]]:
        """Channel, log time in nanoseconds and bytes of messages from ``start`` on, in order of their log times."""
        by_id = {c.id: c for c in channels}
        if self._scanned is not None:
            yield from self._scanned.messages(by_id, start)
            return
        wanted = [self._connections[number] for number in by_id]
        if wanted:
            for connection, log, data in self._reader.messages(wanted, start=start):
                yield by_id[connection.id], int(log), bytes(data)

    def close(self) -> None:
        """Release the file."""
        if self._reader is not None:
            self._reader.close()
        if self._scanned is not None:
            self._scanned.close()


_MAX_HEADER: Final = 1 << 24


def _ros1_record(file: IO[bytes], left: int) -> tuple[dict[bytes, bytes], int] | None:
    """Fields of a record's header and the length of its data; None where the file ends before (wiki.ros.org/Bags)."""
    head = file.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack("<I", head)
    if length > min(left, _MAX_HEADER):
        return None
    header, tail = file.read(length), file.read(4)
    if len(header) < length or len(tail) < 4:
        return None
    fields, at = {}, 0
    while at + 4 <= length:
        (size,) = struct.unpack_from("<I", header, at)
        name, equals, value = header[at + 4 : at + 4 + size].partition(b"=")
        if not equals or at + 4 + size > length:
            raise BadFileError("is damaged", field="record header")
        fields[name] = value
        at += 4 + size
    return fields, struct.unpack("<I", tail)[0]


def _ros1_start(file: IO[bytes], size: int) -> int:
    """The first byte behind the bag's own header, and the place of its index in ``file``'s position; 0: no index."""
    magic = file.readline(32)
    version = re.match(rb"#ROSBAG V(\d+)\.(\d+)\n", magic)
    if not version:
        raise BadFileError("is no ROS 1 bag", expected="#ROSBAG V2.0")
    if version.groups() != (b"2", b"0"):
        raise UnsupportedSourceError(
            "is a bag of another version", expected="2.0", found=magic.decode("ascii", "replace")
        )
    found = _ros1_record(file, size)
    if found is None or len(found[0].get(b"index_pos", b"")) != 8:
        raise BadFileError("is damaged", field="bag header")
    if found[0].get(b"encryptor"):
        raise UnsupportedSourceError("is encrypted", found=found[0][b"encryptor"].decode("ascii", "replace"))
    file.seek(found[1], os.SEEK_CUR)
    return int.from_bytes(found[0][b"index_pos"], "little")


def _ros1_unfinished(file: IO[bytes], size: int) -> str:
    """Why a bag has no index that could be read, in words; empty where it has."""
    index = _ros1_start(file, size)
    if index == 0:
        return f"it was never closed: it has no index, and ends at byte {size}"
    return f"its index should be at byte {index}, and it ends at byte {size}" if index >= size else ""


_OPEN: Final = -1
"""Number of the chunk that was being written, of which nothing but its records is there yet."""


class _Ros1Scan:
    """Messages of a ROS 1 bag without an index, found by going through it once."""

    def __init__(self, path: Path) -> None:
        self._file = open_plain(path)
        size = os.fstat(self._file.fileno()).st_size
        self._found: dict[int, tuple[str, str, bytes]] = {}
        self._entries: list[tuple[int, int, int, int]] = []
        self._chunks: list[tuple[int, int, str]] = []
        self._last: tuple[int, bytes] = (_OPEN, b"")
        _ros1_start(self._file, size)
        while (record := _ros1_record(self._file, size)) is not None:
            fields, length = record
            at = self._file.tell()
            if fields.get(b"op") == b"\x05" and at + length <= size and length <= MAX_CHUNK:
                kind = fields.get(b"compression", b"none").decode("ascii", "replace")
                self._chunks.append((at, length, kind))
                data = unpacked(self._file.read(length), kind)
                self._take(io.BytesIO(data), len(data), len(self._chunks) - 1)
            elif at + length > size:
                break
            else:
                # The length of a chunk is written when it is full: what the last one holds follows it as it is.
                self._take_record(self._file, fields, length, _OPEN)
            self._file.seek(at + length)
        self._entries.sort(key=lambda entry: entry[0])
        counts: dict[int, int] = {}
        for _, _, _, connection in self._entries:
            counts[connection] = counts.get(connection, 0) + 1
        self.channels = tuple(
            Channel(number, topic, kind, "ros1", "ros1msg", text, counts.get(number, 0))
            for number, (topic, kind, text) in sorted(self._found.items())
        )

    def _take(self, records: IO[bytes], size: int, chunk: int) -> None:
        while (record := _ros1_record(records, size)) is not None:
            fields, length = record
            at = records.tell()
            if at + length > size:
                return
            self._take_record(records, fields, length, chunk)
            records.seek(at + length)

    def _take_record(self, records: IO[bytes], fields: dict[bytes, bytes], length: int, chunk: int) -> None:
        """Note a connection or a message whose data ``records`` is at."""
        number = int.from_bytes(fields.get(b"conn", b""), "little")
        if fields.get(b"op") == b"\x07" and length <= _MAX_HEADER:
            at = records.tell()
            about = _ros1_fields(records.read(length))
            records.seek(at)
            kind = about.get(b"type", b"").decode("utf-8", "replace")
            topic = fields.get(b"topic", b"").decode("utf-8", "replace")
            self._found[number] = (topic, kind.replace("/", "/msg/", 1), about.get(b"message_definition", b""))
        elif fields.get(b"op") == b"\x02" and len(fields.get(b"time", b"")) == 8 and length <= MAX_CHUNK:
            seconds, nanoseconds = struct.unpack("<II", fields[b"time"])
            self._entries.append((seconds * 1_000_000_000 + nanoseconds, chunk, records.tell(), number))

    @property
    def duration_s(self) -> float:
        """Seconds between the first and the last message."""
        return (self._entries[-1][0] - self._entries[0][0]) * 1e-9 if self._entries else 0.0

    def messages(self, by_id: dict[int, Channel], start: int | None) -> Iterator[tuple[Channel, int, bytes]]:
        """As of `BagReader`."""
        for log, chunk, at, number in self._entries:
            if number not in by_id or (start is not None and log < start):
                continue
            if chunk == _OPEN:
                self._file.seek(at - 4)
                (length,) = struct.unpack("<I", self._file.read(4))
                yield by_id[number], log, self._file.read(length)
                continue
            if self._last[0] != chunk:
                begin, length, kind = self._chunks[chunk]
                self._file.seek(begin)
                self._last = (chunk, unpacked(self._file.read(length), kind))
            (length,) = struct.unpack_from("<I", self._last[1], at - 4)
            yield by_id[number], log, self._last[1][at : at + length]

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def _ros1_fields(data: bytes) -> dict[bytes, bytes]:
    fields, at = {}, 0
    while at + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        name, _, value = data[at + 4 : at + 4 + size].partition(b"=")
        fields[name] = value
        at += 4 + size
    return fields


_FILES: Final[dict[str, Callable[[Path, bool], BagReader]]] = {
    ".mcap": McapFile,
    ".db3": Db3File,
    ".bag": Ros1File,
}


def open_file(path: Path, allow_cut: bool) -> BagReader:
    """The reader of a bag by its kind.

    Raises:
        WrongFormatError: Not a kind of bag.
    """
    if path.is_dir():
        return BagFolder(path, allow_cut)
    # ROS 1 calls a bag NAME.bag.active until it is closed.
    suffix = Path(path.name.lower().removesuffix(".active")).suffix
    if suffix not in _FILES:
        raise WrongFormatError("is not a kind of bag", where=path, expected=" ".join(_FILES))
    return _FILES[suffix](path, allow_cut)
