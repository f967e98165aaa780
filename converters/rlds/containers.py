"""The files that hold records: TFRecord, ArrayRecord and Parquet. All hold the same ``tf.train.Example``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from ...errors import BadFileError, MissingExtraError, SourceNotFoundError, UnsupportedSourceError, install_hint
from ...untrusted.files import plain
from ..remote import fetched
from . import index, tfrecord

Location = list[int]
"""Where a record is: offset, length and CRC in a TFRecord file; its number in the others. JSON values."""


class Container(ABC):
    """One file of records."""

    suffix: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def locations(self) -> list[Location]:
        """Where each record is; reads as little as possible."""

    def readable(self) -> tuple[list[Location], BadFileError | None]:
        """Where the records are up to where the file is damaged, and what is wrong there."""
        try:
            return self.locations(), None
        except BadFileError as error:
            return [], error

    @abstractmethod
    def read(self, location: Location) -> bytes:
        """One record, checked."""

    def fingerprint(self, location: Location) -> str:
        """What changes when the record does, as far as that is known without reading it."""
        return f"{self.path.name}:{self.path.stat().st_size}:{location[0]}"

    def bad_location(self, location: Location) -> BadFileError:
        """The error of a location that this kind of file cannot have."""
        return BadFileError("not a place in this kind of file", where=self.path, found=location)


def _listed(records: tfrecord.Records) -> list[Location]:
    parts = records.offsets.tolist(), records.lengths.tolist(), records.crcs.tolist()
    return [list(t) for t in zip(*parts, strict=True)]


class TFRecordFile(Container):
    """TFRecord; any record can be read knowing its offset."""

    suffix = "tfrecord"

    def locations(self) -> list[Location]:
        """Offset, length and CRC of each record, from the cached index."""
        return _listed(index.load(self.path))

    def readable(self) -> tuple[list[Location], BadFileError | None]:
        """The records before the damage; an index is kept of whole files only."""
        try:
            return self.locations(), None
        except BadFileError:
            records, damage = tfrecord.scan_to_damage(self.path)
            return _listed(records), damage

    def read(self, location: Location) -> bytes:
        """One record; its CRC must be the one indexed, and its data must match it."""
        if len(location) != 3:
            raise self.bad_location(location)
        return tfrecord.read_record(self.path, location[0], (location[1], location[2]))

    def fingerprint(self, location: Location) -> str:
        """Length and CRC of the record."""
        return f"{location[1]}:{location[2]:08x}"


class ArrayRecordFile(Container):
    """ArrayRecord, through the package ``array_record`` (extra ``rlds``), which checks its own hashes."""

    suffix = "array_record"

    def locations(self) -> list[Location]:
        """The numbers of the records."""
        return [[i] for i in range(self._reader().num_records())]

    def read(self, location: Location) -> bytes:
        """One record."""
        reader = self._reader()
        if len(location) != 1 or not 0 <= location[0] < reader.num_records():
            raise self.bad_location(location)
        try:
            return bytes(reader.read([location[0]])[0])
        except (RuntimeError, ValueError, IndexError) as error:
            raise BadFileError(f"record {location[0]} cannot be read", where=self.path, found=error) from None

    def _reader(self) -> Any:
        return _array_record_reader(str(plain(fetched(self.path))), _stamp(self.path))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise SourceNotFoundError("no such file", where=path) from None
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=4)
def _array_record_reader(path: str, _: tuple[int, int]) -> Any:
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError:
        raise MissingExtraError(
            "reading ArrayRecord files needs the package array_record",
            where=path,
            hint=f"Install it: {install_hint('rlds')}",
        ) from None
    try:
        # Read-ahead only costs where records are read in any order.
        reader = ArrayRecordReader(path, options="readahead_buffer_size:0,max_parallelism:0")
        fine = reader.ok()
    except (RuntimeError, ValueError) as error:
        raise BadFileError("is not an ArrayRecord file", where=path, found=error) from None
    if not fine:
        raise BadFileError("is not an ArrayRecord file, or is damaged", where=path)
    return reader


class ParquetFile(Container):
    """Parquet as TFDS writes it: one binary column, ``data``."""

    suffix = "parquet"

    def locations(self) -> list[Location]:
        """The numbers of the records."""
        return [[i] for i in range(_parquet(str(fetched(self.path)), _stamp(self.path)).rows)]

    def read(self, location: Location) -> bytes:
        """One record."""
        file = _parquet(str(fetched(self.path)), _stamp(self.path))
        if len(location) != 1 or not 0 <= location[0] < file.rows:
            raise self.bad_location(location)
        return file.read(location[0])


class _OpenParquet:
    """A Parquet file that is read row by row; reading in order never goes back."""

    def __init__(self, path: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        self.errors = (pa.ArrowException, OSError)
        try:
            self.file = pq.ParquetFile(plain(path))
        except self.errors as error:
            raise BadFileError("is not a Parquet file", where=path, found=error) from None
        schema = self.file.schema_arrow
        binary = [f.name for f in schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)]
        if "data" not in binary and len(binary) != 1:
            raise BadFileError(
                "has no column of records", where=path, expected="one binary column, data", found=schema.names
            )
        self.column = "data" if "data" in binary else binary[0]
        self.rows = self.file.metadata.num_rows
        self.next = -1
        self.stream: Iterator[Any] = iter(())

    def read(self, row: int) -> bytes:
        try:
            if self.next > row or self.next < 0 or not self._same_group(row):
                self._seek(row)
            while True:
                value = next(self.stream)
                self.next += 1
                if self.next > row:
                    break
        except (*self.errors, StopIteration) as error:
            self.next = -1
            raise BadFileError(f"record {row} cannot be read", where=self.path, found=error) from None
        if value is None:
            raise BadFileError(f"record {row} is null", where=self.path)
        return bytes(value)

    def _same_group(self, row: int) -> bool:
        return row - self.next < 2

    def _seek(self, row: int) -> None:
        start = 0
        for group in range(self.file.num_row_groups):
            rows = self.file.metadata.row_group(group).num_rows
            if row < start + rows:
                break
            start += rows
        groups = list(range(group, self.file.num_row_groups))
        batches = self.file.iter_batches(batch_size=1, row_groups=groups, columns=[self.column], use_threads=False)
        self.stream = (value.as_py() for batch in batches for value in batch.column(0))
        self.next = start


@lru_cache(maxsize=2)
def _parquet(path: str, _: tuple[int, int]) -> _OpenParquet:
    return _OpenParquet(path)


_CONTAINERS: dict[str, type[Container]] = {c.suffix: c for c in (TFRecordFile, ArrayRecordFile, ParquetFile)}
_NO_READER = {
    "riegeli": "Riegeli files have no reader on PyPI",
    "bagz": "Bagz files are not supported",
}


def container_class(file_format: str, where: object) -> type[Container]:
    """The class for TFDS' name of a file format.

    Raises:
        UnsupportedSourceError: Riegeli, or any other without a reader here.
    """
    try:
        return _CONTAINERS[file_format]
    except KeyError:
        raise UnsupportedSourceError(
            _NO_READER.get(file_format, "an unknown file format"),
            where=where,
            field="fileFormat",
            expected=" | ".join(_CONTAINERS),
            found=file_format,
            hint="Convert it with TFDS: tfds.core's `convert_format --out_file_format=tfrecord`.",
        ) from None
