"""The manifest, the index and the quarantine of a data set, assembled from the sidecars of its shards."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .. import __version__
from ..errors import CorruptDatasetError, SourceNotFoundError, StorageError, UnsupportedVersionError, printable
from ..schemas import (
    Counts,
    DatasetManifest,
    PlanRow,
    QuarantineRow,
    SampleRow,
    ShardRecord,
    ShardSidecar,
    index_schema,
)
from ..schemas.dataset import FORMAT, FORMAT_VERSION, finding_column, parse, to_bytes, to_line
from ..schemas.derived import DerivedManifest, DerivedSidecar
from . import layout
from .layout import Place
from .rows import PlanRows

if TYPE_CHECKING:
    import pyarrow as pa

Sealed = TypeVar("Sealed", DatasetManifest, DerivedManifest)
Sidecar = TypeVar("Sidecar", ShardSidecar, DerivedSidecar)

INDEX_ROWS: Final = 65_536
"""Rows of a row group of the index: what is in memory at once while it is written."""


def read_manifest(out: Place) -> DatasetManifest:
    """``dataset.json``, its checksum checked.

    Raises:
        SourceNotFoundError: There is none.
        UnsupportedVersionError: It is of another version of the format.
        CorruptDatasetError: It is damaged.
    """
    path = out / layout.MANIFEST
    if not path.is_file():
        raise SourceNotFoundError(
            f"is no data set: it has no {layout.MANIFEST}" if out.exists() else "does not exist",
            where=out,
            hint=layout.similar(out) or "A data set is a folder that actionimg convert wrote.",
        )
    return parse_manifest(read_bytes(path), path)


def parse_sealed(kind: type[Sealed], data: bytes, where: object) -> Sealed:
    """A document with a checksum of its own, which is checked.

    Raises:
        CorruptDatasetError: It is damaged.
    """
    document = parse(kind, data, where)
    if document.sealed().checksum != document.checksum or to_bytes(document) != data:
        raise CorruptDatasetError("was changed after it was written", where=where, field="checksum")
    return document


def parse_manifest(data: bytes, where: object) -> DatasetManifest:
    """A manifest from its JSON text, its checksum checked.

    Raises:
        UnsupportedVersionError: It is of another version of the format.
        CorruptDatasetError: It is damaged.
    """
    _check_version(data, where)
    return parse_sealed(DatasetManifest, data, where)


def _check_version(data: bytes, where: object) -> None:
    """Refuse a manifest that is as its writer wanted it, and that this program cannot read."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return
    tool = document.get("tool")
    made = tool.get("actionimg-data") if isinstance(tool, dict) else None
    version = document.get("version")
    if not isinstance(version, int):
        return
    unknown = sorted(set(document) - set(DatasetManifest.model_fields))
    if version == FORMAT_VERSION and not (unknown and _sealed_elsewhere(document, data)):
        return
    raise UnsupportedVersionError(
        "is of another version of the format" if version != FORMAT_VERSION else "has fields of a later version",
        where=where,
        field="version" if version != FORMAT_VERSION else printable(str(unknown[0]), 60),
        expected=FORMAT_VERSION if version != FORMAT_VERSION else None,
        found=version if version != FORMAT_VERSION else None,
        hint=f"It was written by actionimg-data {made}, this is {__version__}: install that version to read it."
        if isinstance(made, str) and made != __version__
        else "It was written by a later build of actionimg-data: install that one to read it.",
    )


def _sealed_elsewhere(document: dict[str, Any], data: bytes) -> bool:
    """Whether the checksum of a document with unknown fields is right, so that it was not changed later."""
    checksum = document.get("checksum")
    if not isinstance(checksum, str):
        return False
    blank = data.replace(f'"checksum": "{checksum}"'.encode(), b'"checksum": ""', 1)
    return hashlib.sha256(blank).hexdigest() == checksum


def read_bytes(path: Place) -> bytes:
    """All of a file; `SourceNotFoundError` where there is none."""
    try:
        return layout.read_place(path)
    except StorageError:
        raise
    except OSError as error:
        raise SourceNotFoundError(error.strerror or str(error), where=path) from None


def check_index(table: pa.Table, manifest: DatasetManifest, where: object) -> None:
    """Refuse an index that names a shard which the manifest does not: its names become the names of files.

    Raises:
        CorruptDatasetError: It does.
    """
    known = {record.path.removesuffix(".tar") for record in manifest.shards}
    strange = [name for name in table["shard"].unique().to_pylist() if name not in known]
    if strange:
        raise CorruptDatasetError(
            "names a shard that the manifest does not", where=where, field="shard", found=printable(str(strange[0]), 60)
        )


def read_plan(out: Place) -> PlanRows:
    """The rows of ``plan.jsonl``; each is parsed, and checked, when it is asked for."""
    path = out / layout.PLAN
    try:
        with layout.open_place(path) as file:
            return PlanRows(file, path)
    except StorageError:
        raise
    except OSError as error:
        raise SourceNotFoundError(error.strerror or str(error), where=path) from None


def read_quarantine(out: Place) -> Iterator[QuarantineRow]:
    """The rows of ``quarantine.jsonl``."""
    path = out / layout.QUARANTINE
    for i, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if line:
            yield parse(QuarantineRow, line, f"{path}:{i}")


def read_sidecar(out: Place, shard: str) -> ShardSidecar | None:
    """The sidecar of a shard, or None where it is not published.

    Raises:
        CorruptDatasetError: It is damaged, or names another shard.
    """
    return sidecar_of(ShardSidecar, out / f"{shard}.json", shard)


def sidecar_of(kind: type[Sidecar], path: Place, shard: str) -> Sidecar | None:
    """The sidecar at ``path``, or None where it is not published; ``shard`` is the name that it has to give.

    Raises:
        CorruptDatasetError: It is damaged, or names another shard.
    """
    try:
        data = layout.read_place(path)
    except FileNotFoundError:
        return None
    sidecar = parse(kind, data, path)
    if sidecar.shard != shard:
        raise CorruptDatasetError("is of another shard", where=path, expected=shard, found=sidecar.shard)
    return sidecar


def published(
    out: Place, row: PlanRow, plan: str, stale: Collection[str] = (), listed: Mapping[str, int] | None = None
) -> ShardSidecar | None:
    """The sidecar of a shard that is published under this plan with a tar of the right size, else None.

    Args:
        out: The data set.
        row: The shard.
        plan: Fingerprint of the plan that it belongs to.
        stale: Plans under which it may have been made before, and is to be made again.
        listed: The files of its folder with their sizes, where they are known (`layout.listing`): a store is then not
            asked for each shard.

    Raises:
        CorruptDatasetError: It was published under another plan, or its tar is missing or of another size.
    """
    where = out / f"{row.shard}.json"
    sidecar = None if listed is not None and where.name not in listed else read_sidecar(out, row.shard)
    if sidecar is None or (sidecar.plan != plan and sidecar.plan in stale):
        return None
    if sidecar.plan != plan:
        raise CorruptDatasetError(
            "is of another run", where=where, field="plan", expected=plan[:12], found=sidecar.plan[:12]
        )
    if sidecar.sha256 is not None:
        tar = out / f"{row.shard}.tar"
        try:
            size = tar.stat().st_size if listed is None else listed[tar.name]
        except (FileNotFoundError, KeyError):
            raise CorruptDatasetError("is missing", where=tar, hint=REPAIR_HINT) from None
        if size != sidecar.bytes:
            raise CorruptDatasetError(
                "has the wrong size", where=tar, expected=f"{sidecar.bytes} B", found=f"{size} B", hint=REPAIR_HINT
            )
    return sidecar


REPAIR_HINT = "actionimg repair finds and makes again what is broken."


def index_table(
    sidecars: Iterable[ShardSidecar], grippers: bool = False, calibration: bool = False, allow: tuple[str, ...] = ()
) -> pa.Table:
    """The index: one row a sample, in the order of the shards; decode errors are null until `verify` records them.

    Args:
        sidecars: Of the shards.
        grippers: Of a data set whose samples have several.
        calibration: Of a data set whose cameras were checked.
        allow: Kinds of findings that the data set allows.
    """
    import pyarrow as pa

    schema = index_schema(grippers, calibration, allow)
    batches = []
    for sidecar in sidecars:
        rows = [_index_row(sidecar.shard, sample, allow) for sample in sidecar.samples]
        batches.append(pa.RecordBatch.from_pylist(rows, schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


def _index_row(shard: str, sample: SampleRow, allow: tuple[str, ...] = ()) -> dict[str, Any]:
    row = {**sample.model_dump(exclude={"members", "calibration", "findings"}), "grippers": sample.grippers}
    row |= {finding_column(kind): any(f.kind == kind for f in sample.findings) for kind in allow}
    row |= {"calibration": [c.model_dump() for c in sample.calibration], "camera_origin": sample.camera_origin}
    members = [{"name": m.name, "offset": m.offset, "size": m.size} for m in sample.members]
    return {**row, "shard": shard, "members": members}


def table_bytes(table: pa.Table) -> bytes:
    """A table as a parquet file."""
    writer = _TableWriter(table.schema)
    writer.write(table)
    return writer.close()


class _TableWriter:
    """Writes a parquet file table by table, each a row group."""

    def __init__(self, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        self._buffer = io.BytesIO()
        self._writer = pq.ParquetWriter(self._buffer, schema, compression="zstd", write_page_checksum=True)

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table)

    def close(self) -> bytes:
        self._writer.close()
        return self._buffer.getvalue()


def index_bytes(
    sidecars: Iterable[ShardSidecar], grippers: bool = False, calibration: bool = False, allow: tuple[str, ...] = ()
) -> bytes:
    """The index as a parquet file, of which `INDEX_ROWS` rows at a time are in memory as objects."""
    writer: _TableWriter | None = None
    waiting: list[ShardSidecar] = []
    rows = 0

    def write() -> None:
        nonlocal writer, rows
        table = index_table(waiting, grippers, calibration, allow)
        writer = writer or _TableWriter(table.schema)
        writer.write(table)
        waiting.clear()
        rows = 0

    for sidecar in sidecars:
        waiting.append(sidecar)
        rows += len(sidecar.samples)
        if rows >= INDEX_ROWS:
            write()
    if waiting or writer is None:
        write()
    assert writer is not None
    return writer.close()


def assemble(out: Place, manifest: DatasetManifest, rows: Sequence[PlanRow]) -> DatasetManifest | None:
    """Assemble index, quarantine and manifest from the sidecars, whoever wrote them.

    Everything is a function of the sidecars: two that do it at once write the same bytes.

    Returns:
        The complete manifest, as published; None while shards are missing.

    Raises:
        CorruptDatasetError: A sidecar is damaged, or of another plan.
        OutputError: A file cannot be written.
    """
    records: list[ShardRecord] = []
    codes: Counter[str] = Counter()
    quarantine: list[bytes] = []
    plans = manifest.earlier_plans()
    stale = frozenset(plans.values())
    listed = layout.listing(out / manifest.options.split)

    def sidecars() -> Iterator[ShardSidecar]:
        for row in rows:
            sidecar = published(out, row, plans.get(row.shard, manifest.plan), stale, listed)
            if sidecar is None:
                raise _Missing
            codes.update(q.code for q in sidecar.quarantined)
            quarantine.extend(to_line(q) for q in sidecar.quarantined)
            records.append(
                ShardRecord(
                    path=f"{row.shard}.tar",
                    samples=len(sidecar.samples),
                    frames=sidecar.frames,
                    bytes=sidecar.bytes,
                    sha256=sidecar.sha256,
                    sidecar_sha256=hashlib.sha256(to_line(sidecar)).hexdigest(),
                    quarantined=len(sidecar.quarantined),
                )
            )
            yield sidecar

    try:
        index = index_bytes(sidecars(), **manifest.index_columns)
    except _Missing:
        return None
    bad = sum(codes.values())
    counts = Counts(
        episodes=manifest.planned_episodes,
        converted=manifest.planned_episodes - bad,
        quarantined=bad,
        quarantine_codes=dict(sorted(codes.items())),
        samples=sum(r.samples for r in records),
        frames=sum(r.frames for r in records),
        bytes=sum(r.bytes for r in records),
        shards=len(records),
    )
    files = {layout.INDEX: index, layout.QUARANTINE: b"".join(quarantine)}
    for name, data in files.items():
        layout.publish(out / name, data)
    plan = rows.sha256 if isinstance(rows, PlanRows) else hashlib.sha256(b"".join(map(to_line, rows))).hexdigest()
    done = manifest.model_copy(
        update={
            "complete": True,
            "counts": counts,
            "shards": tuple(records),
            "files": {layout.PLAN: plan, **{name: hashlib.sha256(data).hexdigest() for name, data in files.items()}},
        }
    ).sealed()
    layout.publish(out / layout.MANIFEST, to_bytes(done))
    remove_leftovers(out, manifest.options.split)
    return done


class _Missing(Exception):
    """A shard is not published yet."""


def remove_leftovers(out: Place, split: str) -> None:
    """Remove temporary files of killed runs; only when every shard is published, so that none is still in use."""
    for folder in (out, out / split):
        with layout.output_errors(folder):
            _remove_parts(folder)


def _remove_parts(folder: Place) -> None:
    for path in folder.glob(f"*{layout.TEMPORARY}"):
        if isinstance(path, Path) and path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
