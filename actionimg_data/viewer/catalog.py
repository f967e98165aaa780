"""The index of a data set, read as far as a page needs it: the first screen does not wait for a million rows."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptDatasetError, MissingFrameError, WrongFormatError
from ..schemas.dataset import finding_column
from ..shards import layout
from ..shards.layout import Place
from ..shards.manifest import check_index, read_manifest, read_quarantine
from ..shards.members import Sidecars, check_columns, index_data
from ..shards.read import Sample
from .query import SEARCHED, VERDICTS, Query

if TYPE_CHECKING:
    import pyarrow as pa

Numbers = NDArray[np.int64]

MOST_ROWS: Final = 500
"""Rows of one answer."""
MOST_TASKS: Final = 300
_SELECTIONS: Final = 12
_GROUPS: Final = 4
_SHOWN: Final = (
    "key", "episode", "frames", "fps", "instruction", "task", "bytes", "decode_position_p95_mm",
    "decode_rotation_p95_deg", "undecodable_frames", "camera_origin", "views",
)  # fmt: skip


class Catalog:
    """The samples of a data set, by their number in the index.

    Opening reads ``dataset.json`` and the bytes of ``index.parquet``; a column, or a row group of one, is decoded when
    it is asked for. May be used by several threads.

    Args:
        root: Folder or URL of a data set.

    Raises:
        SourceNotFoundError: There is none.
        WrongFormatError: It is a single shard.
        CorruptDatasetError: It is damaged or not complete.
    """

    def __init__(self, root: Place) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if root.is_file():
            raise WrongFormatError("is a shard", where=root, expected="the folder of a data set")
        self.root = root
        self.manifest = read_manifest(root)
        self._where = root / layout.INDEX
        self._sidecars = Sidecars(root, self.manifest)
        data = index_data(root, self.manifest, verify=True)
        try:
            self._file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise CorruptDatasetError(f"cannot be read: {error}", where=self._where) from None
        check_columns(self._file.schema_arrow, self.manifest, self._where)
        groups = self._file.metadata
        sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
        self._starts: Numbers = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        # Parquet files are read by one thread at a time.
        self._reading = threading.Lock()
        self._selecting = threading.Lock()
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._groups: OrderedDict[tuple[int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._selections: OrderedDict[Query, Numbers | None] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    # -- rows --------------------------------------------------------------------------------------------------------

    def rows(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """What the grid shows of some samples."""
        extra = [finding_column(kind) for kind in self.manifest.options.allow]
        extra += ["calibration"] if self.manifest.options.checks_calibration else []
        found = self._taken(numbers, (*_SHOWN, *extra))
        return [self._row(number, row) for number, row in zip(numbers, found, strict=True)]

    def _row(self, number: int, row: dict[str, Any]) -> dict[str, Any]:
        shown = {name: row[name] for name in _SHOWN}
        shown["findings"] = [kind for kind in self.manifest.options.allow if row[finding_column(kind)]]
        shown["off"] = [c["view"] for c in row.get("calibration") or () if c["verdict"] == "off"]
        return {"number": number, **shown}

    def sample(self, number: int, verify: bool = True) -> Sample:
        """A sample; with ``verify`` its members are held against their checksums when they are read.

        Raises:
            MissingFrameError: There is no such number.
            CorruptDatasetError: Its shard's sidecar is damaged, or the index names a shard that is not there.
        """
        row = self._place(number)
        places = {m["name"]: (m["offset"], m["size"]) for m in row["members"]}
        digests = self._sidecars.digests(row["shard"], row["key"]) if verify else None
        return Sample(row["key"], self.root / f"{row['shard']}.tar", places, self.manifest.options.spec, digests)

    def member(self, number: int, name: str) -> tuple[Place, int, int]:
        """Shard, offset and bytes of a member, to be read in part.

        Raises:
            CorruptDatasetError: There is no such member.
        """
        row = self._place(number)
        place = next(((m["offset"], m["size"]) for m in row["members"] if m["name"] == name), None)
        if place is None:
            raise CorruptDatasetError(
                "has no such member", where=row["key"], expected=" ".join(m["name"] for m in row["members"]), found=name
            )
        return self.root / f"{row['shard']}.tar", *place

    def _place(self, number: int) -> dict[str, Any]:
        row = self._taken([number], ("key", "shard", "members"))[0]
        if self._sidecars.size(row["shard"]) is None:
            raise CorruptDatasetError(
                "names a shard that the manifest does not", where=self._where, field="shard", found=row["shard"]
            )
        return row

    def _taken(self, numbers: Sequence[int], names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Some columns of some rows, each decoded with its row group."""
        at = np.asarray(numbers, np.int64)
        bad = next((int(n) for n in at if not 0 <= n < len(self)), None)
        if bad is not None:
            raise MissingFrameError("no such sample", where=self.root, expected=f"0 … {len(self) - 1}", found=bad)
        groups = np.searchsorted(self._starts, at, side="right") - 1
        found: list[dict[str, Any]] = [{} for _ in numbers]
        for group in np.unique(groups):
            places = np.flatnonzero(groups == group)
            wanted = at[places] - self._starts[group]
            table = self._group(int(group), names)
            if (np.diff(wanted) == 1).all():
                # Without a detour over numpy, for which pyarrow imports pandas.
                rows = table.slice(int(wanted[0]), len(wanted)).to_pylist()
            else:
                rows = table.take(wanted).to_pylist()
            for place, row in zip(places, rows, strict=True):
                found[place] = row
        return found

    def _group(self, group: int, names: tuple[str, ...]) -> pa.Table:
        whole = [self._columns.get(name) for name in names]
        if all(column is not None for column in whole):
            import pyarrow as pa

            start, stop = self._starts[group], self._starts[group + 1]
            return pa.table(
                {n: c.slice(start, stop - start) for n, c in zip(names, whole, strict=True) if c is not None}
            )
        with self._reading:
            key = group, names
            if key not in self._groups:
                self._groups[key] = self._decoded(
                    lambda: self._file.read_row_group(group, list(names), use_threads=False)
                )
                while len(self._groups) > _GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(key)
            return self._groups[key]

    def _decoded(self, read: Callable[[], pa.Table]) -> pa.Table:
        import pyarrow as pa

        try:
            return read()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise CorruptDatasetError(f"cannot be read: {error}", where=self._where) from None

    def table(self, names: Sequence[str]) -> pa.Table:
        """Whole columns, kept once they were asked for."""
        import pyarrow as pa

        with self._reading:
            missing = [name for name in dict.fromkeys(names) if name not in self._columns]
            if missing:
                table = self._decoded(partial(self._file.read, missing, use_threads=False))
                if "shard" in missing:
                    check_index(table, self.manifest, self._where)
                self._columns.update({name: table[name] for name in missing})
        return pa.table({name: self._columns[name] for name in names})

    def warm(self) -> None:
        """Decode the columns in which words are looked for, one after the other."""
        for name in SEARCHED:
            self.table([name])

    # -- filters -----------------------------------------------------------------------------------------------------

    def select(self, query: Query) -> Numbers | None:
        """Numbers of the samples of a query, in its order; None for all in the order of the index.

        Raises:
            InvalidSpecError: The query does not fit the index.
        """
        with self._selecting:
            if query not in self._selections:
                self._selections[query] = self._select(query)
                while len(self._selections) > _SELECTIONS:
                    self._selections.popitem(last=False)
            self._selections.move_to_end(query)
            return self._selections[query]

    def _select(self, query: Query) -> Numbers | None:
        import pyarrow as pa
        import pyarrow.compute as pc

        expression = query.expression(self.manifest)
        numbers: Numbers | None = None
        if expression is not None:
            table = self.table(query.columns())
            table = table.append_column("number", pa.array(np.arange(len(self))))
            numbers = table.filter(expression)["number"].to_numpy()
        if query.sort:
            column = self.table([query.sort])
            column = column if numbers is None else column.take(numbers)
            order = "descending" if query.descending else "ascending"
            ranks = pc.sort_indices(column, [(query.sort, order)]).to_numpy().astype(np.int64)
            numbers = ranks if numbers is None else numbers[ranks]
        elif query.descending:
            numbers = np.arange(len(self))[::-1] if numbers is None else numbers[::-1]
        return numbers

    def facets(self) -> dict[str, Any]:
        """What there is to filter by: values with the number of samples that have them, and ranges."""
        import pyarrow.compute as pc

        options = self.manifest.options
        found: dict[str, Any] = {"views": list(self.manifest.views), "views_differ": bool(options.views_per_sample)}
        for name, column in (("tasks", "task"), ("origins", "camera_origin")):
            counts = self.table([column])[column].value_counts().to_pylist()
            ranked = sorted(((c["values"], c["counts"]) for c in counts), key=lambda c: (-c[1], c[0]))
            found[name] = ranked[:MOST_TASKS]
            found[f"more_{name}"] = max(0, len(ranked) - MOST_TASKS)
        found["findings"] = [(k, self._sum(finding_column(k))) for k in options.allow]
        found["calibration"] = self._verdicts() if options.checks_calibration else []
        for name in ("frames", "decode_position_p95_mm", "decode_rotation_p95_deg", "undecodable_frames"):
            ends = pc.min_max(self.table([name])[name]).as_py()
            found[name] = None if ends["min"] is None else [float(ends["min"]), float(ends["max"])]
        return found

    def _sum(self, name: str) -> int:
        import pyarrow.compute as pc

        return int(pc.sum(self.table([name])[name]).as_py() or 0)

    def _verdicts(self) -> list[tuple[str, int]]:
        """Each verdict, and how many samples have a view with it."""
        found = []
        for verdict in VERDICTS:
            numbers = self.select(Query(calibration=verdict))
            found.append((verdict, 0 if numbers is None else len(numbers)))
        return found

    # -- quarantine --------------------------------------------------------------------------------------------------

    def quarantine(self, code: str, words: Sequence[str], start: int, count: int) -> dict[str, Any]:
        """Episodes that could not be converted: some of those with a reason code, and numbers by code."""
        counts: dict[str, int] = {}
        rows = []
        found = 0
        for row in read_quarantine(self.root):
            counts[row.code] = counts.get(row.code, 0) + 1
            text = f"{row.id} {row.message} {row.code}".lower()
            if (code and row.code != code) or not all(word.lower() in text for word in words):
                continue
            if start <= found < start + count:
                rows.append(row.model_dump(mode="json", exclude={"traceback"}))
            found += 1
        return {"total": found, "codes": sorted(counts.items(), key=lambda c: (-c[1], c[0])), "rows": rows}
