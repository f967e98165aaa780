"""One data set as a table of samples whose members are read by offset, and checked against their checksums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..errors import (
    CorruptDatasetError,
    EmptyEpisodeError,
    InvalidSpecError,
    UnsafeFileError,
    WrongFormatError,
)
from ..objectstore import RemotePath, is_url
from ..schemas import ActionImageSpec, SampleRow, index_schema
from ..shards import layout
from ..shards.layout import Place
from ..shards.manifest import read_manifest
from ..shards.members import Sidecars, read_index, read_members
from ..shards.where import parse_where

_TAR: Final = ".tar"


class ShardSource:
    """A data set, or some of its shards.

    Nothing but the manifest, the index and (for single shards) the sidecars is read at first.

    Args:
        path: Folder or URL of a data set.
        shards: Only these (``train/000003``); None for all of its index.
        filter: Only samples for which this pyarrow expression over the columns of ``index.parquet`` holds, or this text
            of one (``'task == "stack" and frames > 100'``, as ``actionimg inspect --list --where`` takes it).
        verify: Hold every member that is read against its checksum.
        storage_options: What fsspec needs for a URL.

    Raises:
        SourceNotFoundError: There is no data set.
        CorruptDatasetError: It is damaged or incomplete, or a shard is of another data set.
        EmptyEpisodeError: No sample is left.
    """

    def __init__(
        self,
        path: str,
        *,
        shards: Sequence[str] | None = None,
        filter: pc.Expression | str | None = None,
        verify: bool = True,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        self.path = path
        self._root = _place(path, storage_options)
        self._verify = verify
        self.manifest = read_manifest(self._root)
        self._sidecars = Sidecars(self._root, self.manifest)
        self._sizes: dict[str, int] = {}
        table = read_index(self._root, self.manifest, verify) if shards is None else self._table_of(shards)
        if filter is not None:
            table = _filtered(table, filter, path)
        if table.num_rows == 0:
            raise EmptyEpisodeError("no samples", where=path, hint=None if filter is None else "Is the filter right?")
        self._load(table)

    @property
    def place(self) -> Place:
        """Where it is."""
        return self._root

    @property
    def verifies(self) -> bool:
        """Whether what is read is held against its checksum."""
        return self._verify

    def rows_of(self, keys: pa.Array) -> NDArray[np.int64]:
        """Row of the sample with each key; -1 where there is none."""
        found = pc.index_in(keys, value_set=self._keys)
        return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), np.int64)

    @property
    def spec(self) -> ActionImageSpec:
        """How its action images are drawn."""
        return self.manifest.options.spec

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views of every sample; where samples differ, those that one may have."""
        return self.manifest.views

    def views_of(self, row: int) -> tuple[str, ...]:
        """Names of the views of a sample, in order."""
        if not self.manifest.options.views_per_sample:
            return self.manifest.views
        return tuple(self.table["views"][row].as_py())

    def has_views(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """``(N, len(names))`` which of some views each sample has."""
        if not self.manifest.options.views_per_sample:
            return np.tile([name in self.manifest.views for name in names], (len(self), 1))
        views = self.table["views"].combine_chunks()
        rows = pc.list_parent_indices(views).to_numpy()
        flat = views.flatten()
        has = np.zeros((len(self), len(names)), np.bool_)
        for i, name in enumerate(names):
            has[rows[pc.equal(flat, name).to_numpy(zero_copy_only=False)], i] = True
        return has

    @property
    def calibrated(self) -> bool:
        """Whether its samples have cameras, and so action images."""
        return not self.manifest.options.poses_only

    @property
    def camera_frame(self) -> str:
        """What the cameras of its samples are in: ``robot``'s base, a frame of their ``own``, or ``none``."""
        return "robot" if self.calibrated else "own" if self.manifest.options.conditioning else "none"

    def __len__(self) -> int:
        return len(self.frames)

    def key(self, row: int) -> str:
        """Key of a sample."""
        return str(self._keys[row].as_py())

    def shard(self, row: int) -> str:
        """Shard of a sample."""
        return self._shard_names[int(self.shards[row])]

    def where(self, row: int) -> str:
        """Shard and key of a sample, for errors."""
        return f"{self._root}/{self.shard(row)}{_TAR}: {self.key(row)}"

    def location(self, row: int) -> str:
        """A path that names a sample: the shard's, and the key in it."""
        return f"{self._root}/{self.shard(row)}{_TAR}/{self.key(row)}"

    def row_of(self, key: str) -> int:
        """Row of the sample with this key; `KeyError` where there is none."""
        row: int = pc.index(self._keys, pa.scalar(key, self._keys.type)).as_py()
        if row < 0:
            raise KeyError(key)
        return row

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of the index, of the samples left by the filter."""
        return self.table[name]

    def read(self, row: int, names: Sequence[str]) -> dict[str, bytes]:
        """Members of a sample by name (without the key).

        Raises:
            CorruptDatasetError: A member is missing or truncated, or its checksum is another.
            SourceNotFoundError: The shard cannot be read.
        """
        first, last = self._members[row], self._members[row + 1]
        codes = self._member_codes[first:last].tolist()
        places = {}
        for name in names:
            code = self._member_names.get(name, -1)
            if code not in codes:
                have = [n for n, c in self._member_names.items() if c in codes]
                raise CorruptDatasetError(
                    "has no such member", where=self.where(row), field=name, expected=" ".join(have)
                )
            place = first + codes.index(code)
            places[name] = (int(self._member_offsets[place]), int(self._member_sizes[place]))
        shard, key = self.shard(row), self.key(row)
        digests = self._sidecars.digests(shard, key) if self._verify else None
        size = self._sizes.get(shard, self._sidecars.size(shard))
        return read_members(self._root / f"{shard}{_TAR}", key, places, digests, size)

    def _table_of(self, shards: Sequence[str]) -> pa.Table:
        """The index of some shards, from their sidecars: the data set may be unfinished."""
        schema = index_schema()
        batches = []
        for shard in shards:
            sidecar = self._sidecars.of(shard)
            self._sizes[shard] = sidecar.bytes
            rows = [_index_row(shard, sample) for sample in sidecar.samples]
            batches.append(pa.RecordBatch.from_pylist(rows, schema=schema))
        return pa.Table.from_batches(batches, schema=schema)

    def _load(self, table: pa.Table) -> None:
        """Columns as flat arrays: no Python object a row, so that worker processes share their memory."""
        # Rows of a shard next to each other, in the order of the shards.
        self.table = table.drop_columns(["members", "key"])
        self._keys = table["key"].combine_chunks()
        shards = pc.dictionary_encode(table["shard"].combine_chunks())
        self._shard_names: list[str] = shards.dictionary.to_pylist()
        self.shards: NDArray[np.int64] = shards.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        self.frames: NDArray[np.int64] = table["frames"].to_numpy().astype(np.int64)
        self.fps: NDArray[np.float64] = table["fps"].to_numpy().astype(np.float64)
        members = table["members"].combine_chunks()
        lengths = pc.list_value_length(members).to_numpy(zero_copy_only=False)
        self._members: NDArray[np.int64] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        flat = members.flatten()
        names = pc.dictionary_encode(flat.field("name"))
        self._member_names = {name: code for code, name in enumerate(names.dictionary.to_pylist())}
        self._member_codes: NDArray[np.int32] = names.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        self._member_offsets: NDArray[np.int64] = flat.field("offset").to_numpy(zero_copy_only=False)
        self._member_sizes: NDArray[np.int64] = flat.field("size").to_numpy(zero_copy_only=False)


def _index_row(shard: str, sample: SampleRow) -> dict[str, Any]:
    return {**sample.model_dump(), "shard": shard}


def _filtered(table: pa.Table, expression: pc.Expression | str, where: str) -> pa.Table:
    if isinstance(expression, str):
        expression = parse_where(expression, table.schema, f"{where}: filter")
    try:
        return table.filter(expression)
    except (pa.ArrowException, TypeError) as error:
        raise InvalidSpecError(
            f"does not fit the index: {error}",
            where=where,
            field="filter",
            expected=f"an expression over {', '.join(table.column_names)}",
        ) from None


def _refuse_command(text: str) -> None:
    if text.lstrip().lower().startswith("pipe:"):
        raise UnsafeFileError(
            "a command is not a data set", where=text, hint="Name the files, or a URL that fsspec reads."
        )


def _place(text: str, options: Mapping[str, Any] | None) -> Place:
    _refuse_command(text)
    return RemotePath(text, options) if is_url(text) else layout.place(text)


def open_sources(
    paths: Any,
    *,
    filter: pc.Expression | str | None = None,
    verify: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> ShardSource:
    """The data set that ``paths`` name: its folder or URL, or one or several of its shards (``.tar``).

    Raises:
        WrongFormatError: Nothing is named, or several data sets are.
        UnsafeFileError, UnsupportedSourceError, SourceNotFoundError, CorruptDatasetError, EmptyEpisodeError:
            As `ShardSource` and `Files`.
    """
    named = [paths] if isinstance(paths, str) or hasattr(paths, "__fspath__") else list(paths)
    texts = [str(path) for path in named]
    if not texts:
        raise WrongFormatError("no data set named", field="paths")
    options = None if storage_options is None else dict(storage_options)
    if len(texts) == 1 and not texts[0].endswith(_TAR):
        return ShardSource(texts[0], filter=filter, verify=verify, storage_options=options)
    roots = []
    shards = []
    for text in texts:
        _refuse_command(text)
        parts = text.replace("\\", "/").rsplit("/", 2)
        if len(parts) < 3:
            parts = ["."] * (3 - len(parts)) + parts
        if not text.endswith(_TAR):
            raise WrongFormatError(
                "several data sets are mixed with ConcatActionImageDataset",
                field="paths",
                expected="one data set, or shards (.tar) of one",
                found=text,
            )
        roots.append(parts[0])
        shards.append(f"{parts[1]}/{parts[2].removesuffix(_TAR)}")
    if len(set(roots)) > 1:
        other = next(root for root in roots if root != roots[0])
        raise WrongFormatError(
            "shards of different data sets are mixed with ConcatActionImageDataset",
            field="paths",
            expected=f"shards of {roots[0]}",
            found=other,
        )
    if len(set(shards)) != len(shards):
        twice = next(shard for shard in shards if shards.count(shard) > 1)
        raise WrongFormatError("a shard is named twice", field="paths", found=twice)
    return ShardSource(roots[0], shards=shards, filter=filter, verify=verify, storage_options=options)
