"""Tables of numbers in the forms that logs use: CSV, JSONL, NPZ, Parquet, and groups of HDF5 and zarr files."""

from __future__ import annotations

import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import (
    ActionImgError,
    BadFileError,
    MissingExtraError,
    SourceNotFoundError,
    UnsafeFileError,
    WrongFormatError,
    install_hint,
)
from ...untrusted import hdf5
from ...untrusted.arrays import load_npy
from ...untrusted.files import open_plain, plain
from ...untrusted.text import parse_json
from ...untrusted.unpack import MAX_ARRAY_BYTES, unzip
from ..remote import fetched

FloatArray = NDArray[np.float64]
MAX_ZIP_BYTES = 8 << 30
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".npz", ".parquet", ".h5", ".hdf5", ".zarr", ".zarr.zip")
_FILTERS = ("shuffle", "delta", "fixedscaleoffset", "quantize", "bitround", "packbits")
_CHECKSUMS = ("crc32c", "crc32", "adler32", "fletcher32", "jenkins_lookup3")
ZARR_CODECS = frozenset(
    (
        *("blosc", "zstd", "gzip", "zlib", "bytes", "transpose", "sharding_indexed", *_FILTERS, *_CHECKSUMS),
        *(f"numcodecs.{name}" for name in (*_FILTERS, *_CHECKSUMS)),
    )
)
"""Codecs of zarr arrays that only move numbers about; those of imagecodecs are allowed too."""
# What damaged files make zarr and its codecs raise.
ZARR_DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError, zipfile.BadZipFile, zlib.error),
)
_ZARR_DEPTH, _ZARR_ARRAYS = 16, 10_000
_REF = re.compile(r"(?P<name>.*)\[(?P<start>\d+)(?::(?P<stop>\d+))?\]\Z", re.DOTALL)


class Table:
    """Columns of equal length, read when they are asked for.

    Args:
        names: The columns.
        load: Gives the values ``(N,)`` or ``(N, ...)`` of a column.
        where: What to call the table in an error.
        labels: Names of the parts of columns that hold vectors: ``COLUMN.LABEL`` is then a column too.
        zoned: Columns of dates and times that name their zone; their values are in UTC.
    """

    def __init__(
        self,
        names: Sequence[str],
        load: Callable[[str], Any],
        where: object,
        labels: Mapping[str, Sequence[str]] | None = None,
        zoned: Sequence[str] = (),
    ) -> None:
        self.names = tuple(names)
        self.zoned = frozenset(zoned)
        self.where = where
        self._load = load
        self._labels = labels or {}
        self._cache: dict[str, NDArray[Any]] = {}

    def column(self, ref: str) -> NDArray[Any]:
        """Values ``(N,)`` or ``(N, k)`` of ``NAME``, ``NAME[i]``, ``NAME[i:j]`` or ``NAME.LABEL``, as stored.

        Raises:
            WrongFormatError: No such column, or no such part of it.
        """
        if ref in self.names:
            return self._whole(ref)
        match = _REF.match(ref)
        if match and match["name"] in self.names:
            values = self._whole(match["name"])
            width = values.shape[1] if values.ndim == 2 else 1
            start, stop = int(match["start"]), int(match["stop"] or int(match["start"]) + 1)
            if not start < stop <= width:
                raise WrongFormatError("has no such part", where=self.where, field=ref, expected=f"0 … {width}")
            part = values.reshape(len(values), width)[:, start:stop]
            return part if match["stop"] else part[:, 0]
        for name in sorted(self._labels, key=len, reverse=True):
            if ref.startswith(f"{name}.") and ref[len(name) + 1 :] in self._labels[name]:
                index = list(self._labels[name]).index(ref[len(name) + 1 :])
                return self.column(f"{name}[{index}]")
        raise WrongFormatError(
            "has no such column", where=self.where, field=ref, expected=" | ".join(self.names[:40]), found=ref
        )

    def _whole(self, name: str) -> NDArray[Any]:
        if name not in self._cache:
            values = np.asarray(self._load(name))
            if values.ndim == 0:
                raise WrongFormatError("is a single value, not a column", where=self.where, field=name)
            self._cache[name] = values.reshape(len(values), -1) if values.ndim > 2 else values
        return self._cache[name]

    def numbers(self, refs: Sequence[str], width: int | None = None) -> FloatArray:
        """Columns side by side as ``(N, k)`` float64; ``width`` is the k there has to be.

        Raises:
            WrongFormatError: A column is missing or not of numbers, lengths differ, or k is another.
        """
        parts = []
        for ref in refs:
            values = self.column(ref)
            if values.dtype.kind not in "biuf":
                raise WrongFormatError("is not a column of numbers", where=self.where, field=ref, found=values.dtype)
            parts.append(values.astype(np.float64).reshape(len(values), -1))
        lengths = {len(p) for p in parts}
        if len(lengths) != 1:
            raise WrongFormatError("columns differ in length", where=self.where, field=", ".join(refs), found=lengths)
        joined = np.concatenate(parts, axis=1)
        if width is not None and joined.shape[1] != width:
            raise WrongFormatError(
                "columns hold another count of numbers",
                where=self.where,
                field=", ".join(refs),
                expected=f"{width} numbers a row",
                found=joined.shape[1],
            )
        return joined


def table_suffix(path: str) -> str:
    """The suffix that decides how a table is read, e.g. ``.csv``, ``.zarr.zip``."""
    lower = path.lower().rstrip("/")
    return next((s for s in sorted(TABLE_SUFFIXES, key=len, reverse=True) if lower.endswith(s)), Path(lower).suffix)


def open_table(path: Path, group: str = "") -> Table:
    """The table in a file; ``group`` names a group within an HDF5 or zarr file.

    Raises:
        SourceNotFoundError: No such file.
        WrongFormatError: Not a kind of table that can be read.
        BadFileError: Damaged.
        UnsafeFileError: Pickled objects, links out of the file, or an archive that leaves its folder.
    """
    if not path.exists():
        raise SourceNotFoundError("no such file", where=path)
    readers: dict[str, Callable[[Path], Table]] = {
        ".csv": _csv,
        ".tsv": _csv,
        ".jsonl": _jsonl,
        ".npz": _npz,
        ".parquet": _parquet,
    }
    suffix = table_suffix(path.name)
    if not path.is_file() and not (suffix == ".zarr" and path.is_dir()):
        raise BadFileError("is not a plain file", where=path)
    if suffix in readers:
        return readers[suffix](path)
    if suffix in (".h5", ".hdf5"):
        return _hdf5(path, group)
    if suffix in (".zarr", ".zarr.zip"):
        return _zarr(path, group)
    raise WrongFormatError("is not a table that can be read", where=path, expected=" ".join(TABLE_SUFFIXES))


def _csv(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import csv

    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        table = csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter))
        names = [n.strip() for n in table.column_names]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadFileError(f"is not CSV: {error}", where=path) from None
    if len(set(names)) != len(names):
        raise WrongFormatError("names a column twice", where=path, found=",".join(names))
    if all(re.fullmatch(r"[-+\d.eE]+|nan|inf", n) for n in names):
        raise WrongFormatError("has no header line", where=path, expected="names of the columns", found=names[:8])
    zoned = [n for n, kind in zip(names, table.schema.types, strict=True) if _names_its_zone(kind)]
    return Table(names, lambda name: arrow_values(table.column(names.index(name)), path, name), path, zoned=zoned)


def _names_its_zone(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_timestamp(kind) and kind.tz is not None)


def _parquet(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        names = parquet_names(path)
        zoned = [field.name for field in parquet.read_schema(plain(path)) if _names_its_zone(field.type)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadFileError(f"is not Parquet: {error}", where=path) from None

    def load(name: str) -> NDArray[Any]:
        try:
            column = parquet.read_table(plain(path), columns=[name], partitioning=None).column(0)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadFileError(f"is damaged: {error}", where=path, field=name) from None
        return arrow_values(column, path, name)

    return Table(names, load, path, zoned=zoned)


def parquet_names(path: Path) -> list[str]:
    """Columns of a Parquet file whose metadata states no more values than can be read.

    A run of equal values takes a few bytes in the file, however long it is.

    Raises:
        UnsafeFileError: A column of more than 512 MB, unpacked.
    """
    from pyarrow import parquet

    with parquet.ParquetFile(plain(path)) as file:
        metadata, totals = file.metadata, dict[str, int]()
        for group in range(metadata.num_row_groups):
            for index in range(metadata.num_columns):
                part = metadata.row_group(group).column(index)
                size = max(8 * part.num_values, part.total_uncompressed_size if part.num_values > 1 << 20 else 0)
                totals[part.path_in_schema] = totals.get(part.path_in_schema, 0) + size
        over = next((name for name, size in totals.items() if size > MAX_ARRAY_BYTES), None)
        if over is not None or metadata.num_rows * 8 > MAX_ARRAY_BYTES:
            raise UnsafeFileError(
                "unpacks to too much", where=path, field=over, expected=f"≤ {MAX_ARRAY_BYTES} bytes a column"
            )
        return list(file.schema_arrow.names)


def arrow_values(column: Any, where: object, name: str) -> NDArray[Any]:
    """A column of numbers, of text, or of lists of numbers that all have one length."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        whole = column.combine_chunks()
        counts = np.asarray(whole.value_lengths().to_numpy(zero_copy_only=False))
        flat = arrow_values(pa.chunked_array([whole.flatten()]), where, name)
        if len(counts) and (not np.isfinite(counts).all() or (counts != counts[0]).any()):
            raise WrongFormatError("lists differ in length", where=where, field=name, found=sorted(set(counts))[:5])
        return flat.reshape(len(counts), -1)
    if pa.types.is_timestamp(kind):
        # Of one that names its zone this is the time in UTC.
        column = column.cast(pa.timestamp("ns", kind.tz)).cast(pa.int64())
        # The smallest number is what numpy takes for no time at all.
        filled = column.fill_null(np.iinfo(np.int64).min)
        return np.asarray(filled.to_numpy()).astype("M8[ns]")
    return np.asarray(column.to_numpy())


def _jsonl(path: Path) -> Table:
    rows: list[dict[str, Any]] = []
    if path.stat().st_size > MAX_ARRAY_BYTES:
        raise UnsafeFileError("is too large to read", where=path, expected=f"≤ {MAX_ARRAY_BYTES} bytes")
    with open_plain(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            value = parse_json(line, path, f"line {number}")
            if not isinstance(value, dict):
                raise WrongFormatError("is not an object", where=path, field=f"line {number}")
            rows.append(dict(_flat(value, "")))
    names = list(dict.fromkeys(name for row in rows for name in row))

    def load(name: str) -> NDArray[Any]:
        values = [row.get(name) for row in rows]
        if any(isinstance(v, str) for v in values):
            return np.asarray(values, dtype=object)
        try:
            # Whole numbers stay whole: stamps in nanoseconds do not fit a float.
            whole = all(isinstance(v, int) for v in values)
            return np.asarray(values, dtype=np.int64 if whole else np.float64)
        except (TypeError, ValueError, OverflowError):
            raise WrongFormatError("rows hold different kinds of values", where=path, field=name) from None

    return Table(names, load, path)


def _flat(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def check_zip(path: Path) -> list[str]:
    """Names in a zip file, none of which leaves its folder.

    Raises:
        UnsafeFileError: A name that is absolute or climbs out, a link, or contents that unpack to over 8 GiB.
        BadFileError: Not a zip file, or truncated.
    """
    try:
        with zipfile.ZipFile(plain(path)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise BadFileError(f"is not a zip file: {error}", where=path) from None
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if member.filename.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", member.filename):
            raise UnsafeFileError("a member writes outside its folder", where=path, found=member.filename)
        if (member.external_attr >> 16) & 0o170000 == 0o120000:
            raise UnsafeFileError("a member is a link", where=path, found=member.filename)
    # Frames of a long recording add up; what is read at once is bounded where it is read.
    total = sum(m.file_size for m in members)
    if total > MAX_ZIP_BYTES:
        raise UnsafeFileError("unpacks to too much", where=path, expected=f"≤ {MAX_ZIP_BYTES} bytes", found=total)
    return [m.filename for m in members]


def _npz(path: Path) -> Table:
    names = [n.removesuffix(".npy") for n in check_zip(path) if n.endswith(".npy")]

    def load(name: str) -> NDArray[Any]:
        try:
            with zipfile.ZipFile(plain(path)) as archive:
                return load_npy(unzip(archive, archive.getinfo(f"{name}.npy"), path), path, name)
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            if isinstance(error, ActionImgError):
                raise
            raise BadFileError(f"is damaged: {error}", where=path, field=name) from None

    return Table(names, load, path)


def _hdf5(path: Path, group: str) -> Table:
    import h5py

    base = group.strip("/")
    names: list[str] = []
    with hdf5.open_hdf5(path) as file:
        root = file.get(base) if base else file
        if not isinstance(root, h5py.Group):
            raise WrongFormatError("has no such group", where=path, field=base)
        root.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)

    def load(name: str) -> NDArray[Any]:
        with hdf5.open_hdf5(path) as file:
            return hdf5.read_numbers(file, f"{base}/{name}" if base else name)

    return Table(names, load, f"{path}#{base}" if base else path)


def open_zarr(path: Path) -> Any:
    """The root group of a zarr folder or ``.zarr.zip``; `MissingExtraError` without zarr."""
    fetched(path)
    if path.is_file():
        check_zip(path)
    try:
        import zarr

        from ...untrusted.zarr_store import Guarded
    except ImportError:
        raise MissingExtraError(
            "zarr is not installed", where=path, hint=f"Install it: {install_hint('teleop')}"
        ) from None
    _register_codecs()
    store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else zarr.storage.LocalStore(path, read_only=True)
    try:
        return zarr.open_group(Guarded(store), mode="r")
    except ActionImgError:
        raise
    except ZARR_DAMAGED as error:
        raise BadFileError(f"is not a zarr group: {error}", where=path) from None


def _register_codecs() -> None:
    """Make imagecodecs' codecs known to zarr, where they are installed: JPEG-XL and others, by the names UMI uses."""
    try:
        from imagecodecs.numcodecs import register_codecs
    except ImportError:
        return
    register_codecs(verbose=False)


def zarr_error(error: Exception, where: object, field: str | None) -> BadFileError | MissingExtraError:
    """What an exception of zarr means: a codec that is not installed, or data that is damaged."""
    text = str(error)
    if "UnknownCodec" in type(error).__name__ or "codec not available" in text:
        return MissingExtraError(
            "a codec that the arrays need is not installed",
            where=where,
            field=field,
            found=text,
            hint=f"Install it (JPEG-XL is one of imagecodecs'): {install_hint('teleop')}",
        )
    return BadFileError(f"is damaged: {text}", where=where, field=field)


def read_zarr(array: Any, rows: slice, where: object, field: str) -> NDArray[Any]:
    """Rows of a zarr array.

    Raises:
        UnsafeFileError: As `check_zarr_array`.
        MissingExtraError: Its codec is not installed.
        BadFileError: It is damaged.
    """
    check_zarr_array(array, f"{where}#{field}")
    try:
        return np.asarray(array[rows])
    except ActionImgError:
        raise
    except ZARR_DAMAGED as error:
        raise zarr_error(error, where, field) from None


def zarr_arrays(group: Any, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Every array below a zarr group, by path, in natural order of the names.

    Raises:
        BadFileError: The metadata of one is damaged.
        MissingExtraError: The codec of one is not installed.
        UnsafeFileError: Groups in a circle of links, or thousands of arrays.
    """
    try:
        with warnings.catch_warnings():
            # zarr warns of files that are neither array nor group.
            warnings.simplefilter("ignore")
            found = {f"{prefix}{name}": array for name, array in sorted(group.arrays())}
            inside = sorted(group.groups())
        for name, inner in inside:
            found.update(zarr_arrays(inner, f"{prefix}{name}/", depth + 1))
            if depth >= _ZARR_DEPTH or len(found) > _ZARR_ARRAYS:
                raise UnsafeFileError("holds too many groups in each other, or arrays", where=str(group.store))
    except ActionImgError:
        raise
    except ZARR_DAMAGED as error:
        raise zarr_error(error, str(group.store), prefix or None) from None
    return found


def check_zarr_array(array: Any, where: object) -> None:
    """Refuse a zarr array that would run code or take more memory than there is reason for.

    Raises:
        UnsafeFileError: A codec outside `ZARR_CODECS` (numcodecs' ``pickle`` runs code), objects, or too large a chunk.
    """
    metadata = array.metadata
    codecs = [getattr(c, "codec_id", None) or c.to_dict().get("name") for c in _codecs(metadata)]
    foreign = [c for c in codecs if c not in ZARR_CODECS and not str(c).startswith("imagecodecs_")]
    if foreign:
        raise UnsafeFileError(
            "uses a codec that data never needs",
            where=where,
            expected=" | ".join(sorted(ZARR_CODECS)),
            found=foreign[0],
        )
    if array.dtype.kind not in "biufSU":
        raise UnsafeFileError("holds Python objects", where=where, found=array.dtype)
    size = math.prod(array.chunks) * array.dtype.itemsize
    if size > MAX_ARRAY_BYTES:
        raise UnsafeFileError("has too large a chunk", where=where, expected=f"≤ {MAX_ARRAY_BYTES} bytes", found=size)


def _codecs(metadata: Any) -> list[Any]:
    """The codecs of an array, those within shards too."""
    if metadata.zarr_format == 2:
        return [c for c in (*(metadata.filters or ()), metadata.compressor) if c is not None]
    found, left = [], list(metadata.codecs)
    while left:
        codec = left.pop()
        found.append(codec)
        left += [*getattr(codec, "codecs", ()), *getattr(codec, "index_codecs", ())]
    return found


def _zarr(path: Path, group: str) -> Table:
    base = group.strip("/")
    root = open_zarr(path)
    try:
        arrays = zarr_arrays(root[base] if base else root)
    except KeyError:
        raise WrongFormatError("has no such group", where=path, field=base) from None

    def load(name: str) -> NDArray[Any]:
        array = arrays[name]
        where = f"{path}#{base}/{name}" if base else f"{path}#{name}"
        check_zarr_array(array, where)
        if array.size * array.dtype.itemsize > MAX_ARRAY_BYTES:
            raise UnsafeFileError("is too large for a column", where=where, found=array.shape)
        try:
            return np.asarray(array[:] if array.ndim else array[()])
        except ActionImgError:
            raise
        except ZARR_DAMAGED as error:
            raise BadFileError(f"is damaged: {error}", where=where) from None

    return Table(list(arrays), load, f"{path}#{base}" if base else path)
