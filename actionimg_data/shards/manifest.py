"""The manifest, the index and the quarantine of a data set, assembled from the sidecars of its shards."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CorruptDatasetError, SourceNotFoundError
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
from ..schemas.dataset import parse, to_bytes, to_line
from . import layout

if TYPE_CHECKING:
    import pyarrow as pa


def read_manifest(out: Path) -> DatasetManifest:
    """``dataset.json``, its checksum checked.

    Raises:
        SourceNotFoundError: There is none.
        CorruptDatasetError: It is damaged.
    """
    path = out / layout.MANIFEST
    if not out.exists():
        raise SourceNotFoundError("does not exist", where=out, hint=layout.similar(out))
    data = read_bytes(path)
    manifest = parse(DatasetManifest, data, path)
    if manifest.sealed().checksum != manifest.checksum or to_bytes(manifest) != data:
        raise CorruptDatasetError("was changed after it was written", where=path, field="checksum")
    return manifest


def read_bytes(path: Path) -> bytes:
    """All of a file; `SourceNotFoundError` where there is none."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceNotFoundError(error.strerror or str(error), where=path) from None


def read_plan(out: Path) -> tuple[PlanRow, ...]:
    """The rows of ``plan.jsonl``."""
    path = out / layout.PLAN
    lines = read_bytes(path).split(b"\n")
    return tuple(parse(PlanRow, line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line)


def read_quarantine(out: Path) -> Iterator[QuarantineRow]:
    """The rows of ``quarantine.jsonl``."""
    path = out / layout.QUARANTINE
    for i, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if line:
            yield parse(QuarantineRow, line, f"{path}:{i}")


def read_sidecar(out: Path, shard: str) -> ShardSidecar | None:
    """The sidecar of a shard, or None where it is not published.

    Raises:
        CorruptDatasetError: It is damaged, or names another shard.
    """
    path = out / f"{shard}.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    sidecar = parse(ShardSidecar, data, path)
    if sidecar.shard != shard:
        raise CorruptDatasetError("is of another shard", where=path, expected=shard, found=sidecar.shard)
    return sidecar


def published(out: Path, row: PlanRow, plan: str) -> ShardSidecar | None:
    """The sidecar of a shard that is published under this plan with a tar of the right size, else None.

    Raises:
        CorruptDatasetError: It was published under another plan, or its tar is missing or of another size.
    """
    sidecar = read_sidecar(out, row.shard)
    if sidecar is None:
        return None
    where = out / f"{row.shard}.json"
    if sidecar.plan != plan:
        raise CorruptDatasetError(
            "is of another run", where=where, field="plan", expected=plan[:12], found=sidecar.plan[:12]
        )
    if sidecar.sha256 is not None:
        tar = out / f"{row.shard}.tar"
        try:
            size = tar.stat().st_size
        except FileNotFoundError:
            raise CorruptDatasetError("is missing", where=tar, hint=REPAIR_HINT) from None
        if size != sidecar.bytes:
            raise CorruptDatasetError(
                "has the wrong size", where=tar, expected=f"{sidecar.bytes} B", found=f"{size} B", hint=REPAIR_HINT
            )
    return sidecar


REPAIR_HINT = "Delete this shard's .json and convert again: only it is made anew."


def index_table(sidecars: Iterable[ShardSidecar]) -> pa.Table:
    """The index: one row a sample, in the order of the shards; decode errors are null until `verify` records them."""
    import pyarrow as pa

    schema = index_schema()
    batches = []
    for sidecar in sidecars:
        rows = [_index_row(sidecar.shard, sample) for sample in sidecar.samples]
        batches.append(pa.RecordBatch.from_pylist(rows, schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


def _index_row(shard: str, sample: SampleRow) -> dict[str, Any]:
    row = sample.model_dump(exclude={"members"})
    members = [{"name": m.name, "offset": m.offset, "size": m.size} for m in sample.members]
    return {**row, "shard": shard, "members": members}


def table_bytes(table: pa.Table) -> bytes:
    """A table as a parquet file."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def finalize(out: Path, manifest: DatasetManifest, rows: Sequence[PlanRow]) -> DatasetManifest | None:
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
    sidecars: list[ShardSidecar] = []
    for row in rows:
        sidecar = published(out, row, manifest.plan)
        if sidecar is None:
            return None
        sidecars.append(sidecar)
        codes.update(q.code for q in sidecar.quarantined)
        quarantine += [to_line(q) for q in sidecar.quarantined]
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
    files = {
        layout.PLAN: b"".join(to_line(row) for row in rows),
        layout.INDEX: table_bytes(index_table(sidecars)),
        layout.QUARANTINE: b"".join(quarantine),
    }
    for name in (layout.INDEX, layout.QUARANTINE):
        layout.publish(out / name, files[name])
    done = manifest.model_copy(
        update={
            "complete": True,
            "counts": counts,
            "shards": tuple(records),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
    ).sealed()
    layout.publish(out / layout.MANIFEST, to_bytes(done))
    remove_leftovers(out, rows)
    return done


def remove_leftovers(out: Path, rows: Sequence[PlanRow]) -> None:
    """Remove temporary files of killed runs; only when every shard is published, so that none is still in use."""
    for folder in {out, *((out / row.shard).parent for row in rows)}:
        for path in folder.glob(f"*{layout.TEMPORARY}"):
            path.unlink(missing_ok=True)
