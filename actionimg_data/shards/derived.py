"""Members that a user's function makes of a data set's samples, in shards beside its own.

``OUT/derived/NAME/derived.json`` says what they are, ``OUT/derived/NAME/train/000000.tar`` holds those of the samples
of ``OUT/train/000000.tar``, and its ``.json`` is published last, as the commit mark (`storage`): without it a shard is
not there, of two runners the first one's counts, and everything else is a function of the sidecars. A sidecar names the
specification and the shard that it was made of, so that what belongs to another function or to another state of the
data set is known as such.
"""

from __future__ import annotations

import hashlib
import io
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    ActionImgError,
    BadFileError,
    CorruptDatasetError,
    OutputError,
    SourceNotFoundError,
    StorageError,
    UnsafeFileError,
    WrongFormatError,
    printable,
)
from ..schemas import DatasetManifest
from ..schemas.dataset import parse, to_bytes, to_line
from ..schemas.derived import (
    DerivedArray,
    DerivedCounts,
    DerivedFailure,
    DerivedItem,
    DerivedManifest,
    DerivedShard,
    DerivedSidecar,
    DerivedSpec,
    derived_schema,
)
from ..untrusted.arrays import load_npy
from ..untrusted.parquet import load_parquet
from . import layout, npz, storage
from .crew import Crew
from .inputs import KINDS, WindowInput
from .layout import Place
from .manifest import parse_sealed, read_bytes, sidecar_of, table_bytes
from .members import read_members
from .read import Dataset
from .tar import TarWriter
from .windows import Cut, WindowId, view_groups
from .write import INTERNAL_ERROR, Progress, Report, Skip

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER: Final = "derived"
MANIFEST: Final = "derived.json"
INDEX: Final = "index.parquet"
QUARANTINE: Final = "quarantine.jsonl"

Function = Callable[[WindowInput], Any]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Unit:
    """A sample, as executors count: what may kill a process."""

    id: str


@dataclass(frozen=True)
class DerivedRow:
    """One shard to derive.

    Args:
        shard: Its name as storage takes it: ``derived/NAME/train/000000``.
        source: The data set's shard: ``train/000000``.
        source_sha256: SHA-256 of its tar.
        episodes: Its samples, by key.
    """

    shard: str
    source: str
    source_sha256: str
    episodes: tuple[Unit, ...]


def folder_of(out: Place, name: str) -> Place:
    """Where a derivation is."""
    return out / FOLDER / name


def names(out: Place) -> list[str]:
    """Names of the derivations of a data set, whether or not they are whole."""
    root = out / FOLDER
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def files(manifest: DerivedManifest) -> list[str]:
    """Paths within the data set of all files of a derivation that is complete, its manifest last."""
    folder = f"{FOLDER}/{manifest.spec.name}"
    names = [f"{folder}/{record.path.removesuffix('.tar')}.json" for record in manifest.shards]
    names += [f"{folder}/{record.path}" for record in manifest.shards if record.sha256 is not None]
    return [*names, *(f"{folder}/{name}" for name in (*sorted(manifest.files), MANIFEST))]


def rows_of(dataset: Dataset, manifest: DatasetManifest, name: str) -> list[DerivedRow]:
    """The shards of a derivation: one for each of the data set's that holds samples."""
    keys: dict[str, list[Unit]] = {}
    for key, shard in zip(dataset.keys(), dataset.table["shard"].to_pylist(), strict=True):
        keys.setdefault(shard, []).append(Unit(key))
    found = []
    for record in manifest.shards:
        shard = record.path.removesuffix(".tar")
        if record.sha256 is not None and shard in keys:
            found.append(DerivedRow(f"{FOLDER}/{name}/{shard}", shard, record.sha256, tuple(keys[shard])))
    return found


# ---- making --------------------------------------------------------------------------------------------------------


def inputs_of(dataset: Dataset, key: str, spec: DerivedSpec) -> Iterator[WindowInput]:
    """What the function is called with for a sample, in order.

    Raises:
        InvalidSpecError: The rate does not fit.
    """
    sample = dataset[key]
    total, fps, size = len(sample), sample.fps, (spec.height, spec.width)
    chosen = [view for view in spec.views if view in sample.views]
    if not chosen or (spec.over == "window" and spec.together and len(chosen) < len(spec.views)):
        # Samples may differ in their views; what is made of several at once is made of all of them.
        return
    if spec.over == "sample":
        everything = np.arange(total, dtype=np.int64)
        for views in view_groups(chosen, spec.together):
            yield WindowInput(sample, everything, views, size, WindowId(key, 0, 1, views), fps)
        return
    cut = Cut(spec.num_frames or total, spec.fps, spec.hop, spec.short)
    stride = cut.stride(fps, key)
    for start in cut.starts(total, fps, key):
        indices = cut.indices(start, total, fps, key)
        for views in view_groups(chosen, spec.together):
            window = WindowId(key, start, stride, views)
            yield WindowInput(sample, indices, views, size, window, cut.rate(fps))


def write_derived(
    out: Place,
    row: DerivedRow,
    spec: DerivedSpec,
    dataset: Dataset,
    function: Function,
    *,
    report: Report = lambda _: None,
    skip: Skip | None = None,
    crew: Crew | None = None,
) -> DerivedSidecar:
    """Derive and publish the members of one shard.

    Args:
        out: The data set.
        row: Which shard.
        spec: What the members are.
        dataset: The data set, opened.
        function: Called with each window.
        report: Called with what was done.
        skip: Samples to leave out: those that killed the process that had them.
        crew: Whose ``checkpoint`` is passed between windows.

    Returns:
        The sidecar as published; that of another runner, where one was first.

    Raises:
        OutputError: The shard cannot be written; what was published before is unchanged.
        CorruptDatasetError: The data set is damaged, or what was read back is not what was written.
        StorageError: The store does not answer.
    """
    crew = crew or Crew()
    items: list[DerivedItem] = []
    failures: list[DerivedFailure] = []
    reads: set[str] = set()
    with storage.workspace(out, row.shard) as part:
        with layout.output_errors(part), open(part, "wb") as file:
            tar = TarWriter(file)
            for unit in row.episodes:
                report(Progress(unit.id, begun=True))
                code = None
                for given in inputs_of(dataset, unit.id, spec):
                    crew.checkpoint()
                    made = _call(function, given, spec, row, skip)
                    if isinstance(made, DerivedFailure):
                        failures.append(made)
                        code = made.code
                    else:
                        items.append(_add(tar, given, made, spec))
                        reads |= given.asked_for
                        report(Progress(unit.id, frames=len(given), bytes=items[-1].size))
                report(Progress(unit.id, ended=True, code=code))
            sha256 = tar.close()
            layout.flush(file)
        sidecar = DerivedSidecar(
            plan=spec.shard_plan(row.source_sha256),
            shard=row.source,
            source_sha256=row.source_sha256,
            bytes=tar.offset if items else 0,
            sha256=sha256 if items else None,
            reads=tuple(kind for kind in KINDS if kind in reads),
            items=tuple(items),
            quarantined=tuple(failures),
        )
        content = to_line(sidecar)
        there = storage.commit_shard(out, row.shard, part if items else None, sha256, tar.offset, content)
    return sidecar if there == content else parse(DerivedSidecar, there, out / f"{row.shard}.json")


def _call(
    function: Function, given: WindowInput, spec: DerivedSpec, row: DerivedRow, skip: Skip | None
) -> Arrays | DerivedFailure:
    trace = None
    if skip and given.key in skip:
        code, message = skip[given.key]
    else:
        try:
            return arrays_of(function(given), spec.member, given.id)
        except (OutputError, StorageError):
            raise
        except CorruptDatasetError:
            # The data set is damaged: no fault of the function.
            raise
        except Exception as error:  # noqa: BLE001
            # One bad window must not cost the others; what is not an error of ours keeps its traceback.
            ours = isinstance(error, ActionImgError)
            code = error.code if isinstance(error, ActionImgError) else INTERNAL_ERROR
            message = str(error) if ours else f"{type(error).__name__}: {printable(str(error), 400)}"
            trace = None if ours else "".join(traceback.format_exception(error))
    window = given.id
    return DerivedFailure(
        key=window.key,
        start=window.start,
        views=window.views,
        shard=row.source,
        code=code,
        message=message,
        traceback=trace,
    )


def arrays_of(made: Any, member: str, where: object) -> Arrays:
    """What a function returned, as arrays by name; of an ``.npy`` the one under "".

    Raises:
        WrongFormatError: It is no array of numbers, or holds NaN or infinities.
    """
    if member.endswith(".npz"):
        if not isinstance(made, Mapping) or not made or not all(isinstance(name, str) for name in made):
            raise WrongFormatError(
                "is not what an .npz holds", where=where, expected="arrays by name", found=type(made).__name__
            )
        bad = next((name for name in made if not name.isidentifier()), None)
        if bad is not None:
            raise WrongFormatError("is no name of an array", where=where, expected="a Python name", found=bad)
        return {name: _array(one, where, name) for name, one in made.items()}
    return {"": _array(made, where, None)}


def _array(made: Any, where: object, field: str | None) -> NDArray[Any]:
    if hasattr(made, "detach"):
        # A torch tensor, wherever it is; torch itself is not imported here.
        made = made.detach().cpu()
        if str(made.dtype) == "torch.bfloat16":
            raise WrongFormatError(
                "numpy has no such type", where=where, field=field, found=made.dtype, hint="Return .half() or .float()."
            )
        made = made.numpy()
    if not isinstance(made, (np.ndarray, np.generic)):
        raise WrongFormatError(
            "is no array", where=where, field=field, expected="numpy or torch", found=type(made).__name__
        )
    array = np.ascontiguousarray(made).reshape(np.shape(made))
    if array.dtype.kind not in "biuf":
        raise WrongFormatError("holds no numbers", where=where, field=field, found=array.dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise WrongFormatError(
            "holds NaN or infinities", where=where, field=field, found=f"{np.isnan(array).sum()} NaN of {array.size}"
        )
    # One order of bytes on every machine.
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _add(tar: TarWriter, given: WindowInput, made: Arrays, spec: DerivedSpec) -> DerivedItem:
    data = npz.dump(made) if spec.member.endswith(".npz") else _npy(made[""])
    window = given.id
    place = "" if spec.over == "sample" and spec.together else f".{window.start:06d}.{'+'.join(window.views)}"
    offset, sha256 = tar.add(f"{window.key}{place}.{spec.member}", io.BytesIO(data), len(data))
    return DerivedItem(
        key=window.key,
        start=window.start,
        stride=window.stride or 1,
        frames=len(given),
        views=window.views,
        offset=offset,
        size=len(data),
        sha256=sha256,
        arrays={name: DerivedArray(dtype=one.dtype.str, shape=one.shape) for name, one in made.items()},
    )


def _npy(array: NDArray[Any]) -> bytes:
    body = io.BytesIO()
    np.lib.format.write_array(body, array, version=(1, 0), allow_pickle=False)
    return body.getvalue()


# ---- reading -------------------------------------------------------------------------------------------------------


def read_manifest(out: Place, name: str) -> DerivedManifest:
    """``derived.json`` of a derivation, its checksum checked.

    Raises:
        SourceNotFoundError: There is none.
        CorruptDatasetError: It is damaged, or of another member.
    """
    path = folder_of(out, name) / MANIFEST
    manifest = parse_sealed(DerivedManifest, read_bytes(path), path)
    if manifest.spec.name != name:
        raise CorruptDatasetError("is of another member", where=path, expected=name, found=manifest.spec.name)
    return manifest


def read_sidecar(out: Place, shard: str) -> DerivedSidecar | None:
    """The sidecar of a shard (``derived/NAME/train/000000``), or None where it is not published.

    Raises:
        CorruptDatasetError: It is damaged, or names another shard.
    """
    _, _, source = shard.removeprefix(f"{FOLDER}/").partition("/")
    return sidecar_of(DerivedSidecar, out / f"{shard}.json", source)


def published(out: Place, row: DerivedRow, spec: DerivedSpec) -> DerivedSidecar | None:
    """The sidecar of a shard that is published as it has to be, with a tar of the right size, else None."""
    sidecar = read_sidecar(out, row.shard)
    if sidecar is None or sidecar.plan != spec.shard_plan(row.source_sha256):
        return None
    if sidecar.sha256 is not None:
        try:
            size = (out / f"{row.shard}.tar").stat().st_size
        except FileNotFoundError:
            return None
        if size != sidecar.bytes:
            return None
    return sidecar


def read_table(out: Place, manifest: DerivedManifest, verify: bool = True) -> pa.Table:
    """The index of a derivation: one row a member.

    Raises:
        CorruptDatasetError: It is not complete, or damaged.
    """
    import pyarrow as pa

    name = manifest.spec.name
    where = folder_of(out, name) / INDEX
    if not manifest.complete:
        raise CorruptDatasetError(
            "is not complete", where=folder_of(out, name), hint="Give the same actionimg derive command again."
        )
    data = read_bytes(where)
    if verify and hashlib.sha256(data).hexdigest() != manifest.files.get(INDEX):
        raise CorruptDatasetError("is not what its manifest says", where=where, field="SHA-256")
    try:
        table = load_parquet(data).combine_chunks()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CorruptDatasetError(f"cannot be read: {error}", where=where) from None
    if not table.schema.equals(derived_schema()):
        raise CorruptDatasetError("has other columns than an index", where=where, found=" ".join(table.column_names))
    known = {record.path.removesuffix(".tar") for record in manifest.shards}
    strange = [shard for shard in table["shard"].unique().to_pylist() if shard not in known]
    if strange:
        raise CorruptDatasetError("names a shard that its manifest does not", where=where, found=strange[0])
    return table


def load_arrays(data: bytes, member: str, where: object) -> Arrays:
    """The arrays of a derived member, by name.

    Raises:
        CorruptDatasetError: It holds something else.
    """
    try:
        return npz.load(data, where) if member.endswith(".npz") else {"": load_npy(data, where)}
    except (BadFileError, UnsafeFileError) as error:
        raise CorruptDatasetError(f"cannot be read: {error}", where=where) from None


# ---- the whole -----------------------------------------------------------------------------------------------------


def assemble(out: Place, manifest: DerivedManifest, rows: Sequence[DerivedRow]) -> DerivedManifest | None:
    """Index, quarantine and manifest from the sidecars, whoever wrote them; None while shards are missing.

    Raises:
        CorruptDatasetError: A sidecar is damaged, or members of windows differ in type or shape.
        OutputError: A file cannot be written.
    """
    import pyarrow as pa

    spec, folder = manifest.spec, folder_of(out, manifest.spec.name)
    records: list[DerivedShard] = []
    failures: list[DerivedFailure] = []
    batches: list[pa.RecordBatch] = []
    reads: set[str] = set()
    common: dict[str, DerivedArray] | None = None
    samples: set[str] = set()
    for row in rows:
        sidecar = published(out, row, spec)
        if sidecar is None:
            return None
        reads |= set(sidecar.reads)
        failures += sidecar.quarantined
        for item in sidecar.items:
            common = _together(common, item, spec, row)
            samples.add(item.key)
        # As columns from here on: a large derivation has millions of rows.
        batches.append(pa.RecordBatch.from_pylist(list(_index_rows(sidecar)), schema=derived_schema()))
        records.append(
            DerivedShard(
                path=f"{row.source}.tar",
                items=len(sidecar.items),
                bytes=sidecar.bytes,
                sha256=sidecar.sha256,
                sidecar_sha256=hashlib.sha256(to_line(sidecar)).hexdigest(),
                source_sha256=row.source_sha256,
                quarantined=len(sidecar.quarantined),
            )
        )
    files = {
        INDEX: table_bytes(pa.Table.from_batches(batches, schema=derived_schema())),
        QUARANTINE: b"".join(to_line(failure) for failure in failures),
    }
    for name, data in files.items():
        layout.publish(folder / name, data)
    done = manifest.model_copy(
        update={
            "complete": True,
            "reads": tuple(kind for kind in KINDS if kind in reads),
            "arrays": common or {},
            "counts": DerivedCounts(
                samples=len(samples),
                items=sum(record.items for record in records),
                quarantined=len(failures),
                bytes=sum(record.bytes for record in records),
                shards=len(records),
            ),
            "shards": tuple(records),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
    ).sealed()
    layout.publish(folder / MANIFEST, to_bytes(done))
    remove_leftovers(out, spec.name)
    return done


def _index_rows(sidecar: DerivedSidecar) -> Iterator[dict[str, Any]]:
    for item in sidecar.items:
        yield {
            **item.model_dump(include={"key", "start", "stride", "frames", "offset", "size"}),
            "views": "+".join(item.views),
            "shard": sidecar.shard,
            "sha256": bytes.fromhex(item.sha256),
        }


def _together(
    common: dict[str, DerivedArray] | None, item: DerivedItem, spec: DerivedSpec, row: DerivedRow
) -> dict[str, DerivedArray]:
    """What all members have in common; those of windows go into one batch, so they have one type and shape."""
    found = dict(item.arrays)
    if spec.over == "sample":
        found = {name: one.model_copy(update={"shape": ()}) for name, one in found.items()}
    if common is not None and found != common:
        raise CorruptDatasetError(
            "members differ in type or shape, so that they do not go into one batch",
            where=f"{row.shard}: {item.key} {item.start}",
            expected=_shapes(common),
            found=_shapes(found),
        )
    return found


def _shapes(arrays: Mapping[str, DerivedArray]) -> str:
    return ", ".join(f"{name or 'array'} {one.dtype} {list(one.shape)}" for name, one in arrays.items())


def remove_leftovers(out: Place, name: str) -> None:
    """Remove temporary files of killed runs; only when every shard is published, so that none is still in use."""
    folder = folder_of(out, name)
    places = [folder, *(path for path in folder.iterdir() if path.is_dir())]
    for place in places:
        with layout.output_errors(place):
            for path in place.glob(f"*{layout.TEMPORARY}"):
                path.unlink(missing_ok=True)


def remove(out: Place, name: str) -> None:
    """Remove a derivation: what its names say is its own, its manifest last."""
    folder = folder_of(out, name)
    with layout.output_errors(folder):
        if not folder.is_dir():
            return
        for split in [path for path in folder.iterdir() if path.is_dir()]:
            for file in layout.listing(split):
                if file.endswith((".json", ".tar", layout.TEMPORARY)):
                    (split / file).unlink(missing_ok=True)
            if not any(split.iterdir()):
                split.rmdir()
        for file in (INDEX, QUARANTINE, MANIFEST):
            (folder / file).unlink(missing_ok=True)
        for file in layout.listing(folder):
            if file.endswith(layout.TEMPORARY):
                (folder / file).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


# ---- holding it against what was promised --------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Something about a derivation that is not as promised; ``shard`` is None where it is not about one."""

    shard: str | None
    reason: str


def check(
    out: Place, name: str, rows: Sequence[DerivedRow], quick: bool = False
) -> tuple[DerivedManifest | None, list[Fault]]:
    """Hold a derivation against its manifest: every byte, and (but for ``quick``) every array.

    Args:
        out: The data set.
        name: Of the derivation.
        rows: Its shards, as the data set is now (`rows_of`).
        quick: Only hashes.

    Returns:
        Its manifest, None where that is broken; and what is wrong.

    Raises:
        StorageError: The store does not answer.
    """
    faults: list[Fault] = []
    try:
        manifest = read_manifest(out, name)
    except StorageError:
        raise
    except ActionImgError as error:
        return None, [Fault(None, str(error))]
    folder = folder_of(out, name)
    if not manifest.complete:
        return manifest, [Fault(None, f"{folder}: is not complete; give the same actionimg derive command again")]
    for file in (INDEX, QUARANTINE):
        try:
            if hashlib.sha256(layout.read_place(folder / file)).hexdigest() != manifest.files.get(file):
                faults.append(Fault(None, f"{folder / file}: is not what its manifest says"))
        except FileNotFoundError:
            faults.append(Fault(None, f"{folder / file}: is missing"))
    records = {record.path.removesuffix(".tar"): record for record in manifest.shards}
    for row in rows:
        record = records.pop(row.source, None)
        reason = "is missing" if record is None else broken(out, row, record, manifest.spec, quick)
        if reason:
            faults.append(Fault(f"{row.shard}.tar", f"{out / row.shard}: {reason}"))
    faults += [Fault(f"{FOLDER}/{name}/{shard}.tar", "is of no shard of the data set") for shard in records]
    planned = {f"{row.source}{ending}".rpartition("/")[2] for row in rows for ending in (".tar", ".json")}
    for split in {row.source.partition("/")[0] for row in rows}:
        for file in layout.listing(folder / split):
            if file.endswith((".tar", ".json")) and file not in planned:
                faults.append(Fault(f"{FOLDER}/{name}/{split}/{file}", "is of no shard of the data set"))
    return manifest, faults


def broken(out: Place, row: DerivedRow, record: DerivedShard, spec: DerivedSpec, quick: bool = False) -> str:
    """What is wrong with a shard, in words; empty where nothing is."""
    if record.source_sha256 != row.source_sha256:
        return "was made of another version of the data set's shard"
    try:
        data = layout.read_place(out / f"{row.shard}.json")
        if hashlib.sha256(data).hexdigest() != record.sidecar_sha256:
            return "its sidecar is not what the manifest says"
        if record.sha256 is None:
            return (
                "there is a tar, and its sidecar says that there is none" if (out / f"{row.shard}.tar").exists() else ""
            )
        if storage.place_sha256(out / f"{row.shard}.tar") != (record.sha256, record.bytes):
            return "is not what the manifest says (SHA-256)"
        if quick:
            return ""
        sidecar = parse(DerivedSidecar, data, out / f"{row.shard}.json")
        for item in sidecar.items:
            places = {spec.member: (item.offset, item.size)}
            digests = {spec.member: item.sha256}
            body = read_members(out / f"{row.shard}.tar", item.key, places, digests)[spec.member]
            arrays = load_arrays(body, spec.member, f"{row.shard}: {item.key} {item.start}")
            found = {name: DerivedArray(dtype=one.dtype.str, shape=one.shape) for name, one in arrays.items()}
            if found != item.arrays:
                return f"{item.key} {item.start}: is {_shapes(found)}, and its sidecar says {_shapes(item.arrays)}"
    except FileNotFoundError:
        return "is missing"
    except StorageError:
        raise
    except (CorruptDatasetError, SourceNotFoundError) as error:
        return str(error)
    return ""
