"""Verify a whole data set, in several processes."""

from __future__ import annotations

import hashlib
import itertools
import math
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import (
    ActionImgError,
    CorruptDatasetError,
    InvalidSpecError,
    SourceNotFoundError,
    StorageError,
    WorkerError,
)
from ..objectstore import RemotePath
from ..schemas import DatasetManifest, PlanRow, ShardRecord, index_schema
from ..schemas.dataset import to_bytes
from ..shards import derived, layout, open_dataset
from ..shards.layout import Place
from ..shards.manifest import (
    index_table,
    read_bytes,
    read_manifest,
    read_plan,
    read_quarantine,
    read_sidecar,
    table_bytes,
)
from ..shards.plan import fingerprint
from ..shards.verify import Failure, RoundTrip, ShardReport, verify_shard
from ..untrusted.parquet import load_parquet

if TYPE_CHECKING:
    import pyarrow as pa

MIN_OPENNESS_ACCURACY: Final = 0.99
_DECODE_COLUMNS: Final = (
    "decode_position_p95_mm",
    "decode_rotation_p95_deg",
    "decode_openness_accuracy",
    "undecodable_frames",
)


@dataclass(frozen=True)
class Tolerance:
    """Largest 95th percentile of the round trip's errors; also the largest median of any one sample."""

    position_mm: float
    rotation_deg: float


def default_tolerance(manifest: DatasetManifest) -> Tolerance:
    """0.5 mm and 0.5° for h264, 0.05 mm and 0.03° for lossless codecs, at 512 pixels; more for smaller pictures."""
    options = manifest.options
    scale = max(1.0, 512 / min(options.height, options.width))
    if options.action_codec == "h264":
        # From crf 18 on, x264's quantiser step doubles every 6.
        loss = 2 ** (max(0, options.crf - 18) / 6)
        return Tolerance(0.5 * scale * loss, 0.5 * scale * loss)
    return Tolerance(0.05 * scale, 0.03 * scale)


@dataclass
class Report:
    """What `verify` found."""

    quick: bool
    tolerance: Tolerance
    manifest: DatasetManifest
    shards: list[ShardReport] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    derived: list[dict[str, Any]] = field(default_factory=list)
    """Of each derivation beside the data set: its member, function, counts, and what is broken in it."""

    @property
    def views(self) -> Counter[tuple[str, ...]]:
        """Samples by the views that they have."""
        return sum((shard.views for shard in self.shards), Counter())

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures

    @property
    def round_trips(self) -> Iterator[tuple[str, RoundTrip]]:
        """Shard and round trip of every sample that was decoded."""
        for shard in self.shards:
            for trip in shard.round_trips:
                yield shard.path, trip

    def why_not_proven(self, trips: Sequence[RoundTrip]) -> str:
        """Why no stored pose was held against what is drawn; empty where one was."""
        options = self.manifest.options
        if any(t.decoded for t in trips):
            return ""
        if options.videos_only:
            return "videos alone were converted: no pose and no camera is known"
        if options.poses_only:
            return "no camera is known, so that there are no action images"
        if options.action_codec == "none":
            return "no action videos are stored; they are drawn from the trajectory on load"
        if self.quick:
            return "no video was decoded (--quick)"
        if max((len(views) for views in self.views), default=len(self.manifest.views)) == 1:
            return "there is one view, and a pose takes two"
        return "the gripper is never in two views at once"

    def summary(self) -> dict[str, Any]:
        """The JSON object of ``actionimg verify --json``."""
        trips = [trip for _, trip in self.round_trips]
        found = _found(trips)
        grippers = {
            name: {**_found(own), "overlapping_frames": sum(t.overlapping for t in own)}
            for name in self.manifest.grippers
            for own in [[t for t in trips if t.gripper == name]]
        }
        why = self.why_not_proven(trips)
        return {
            "ok": self.ok,
            "proven": not why,
            "not_proven": why,
            "unproven_samples": len({t.key for t in trips} - {t.key for t in trips if t.decoded}),
            "complete": self.manifest.complete,
            "quick": self.quick,
            "action_codec": self.manifest.options.action_codec,
            "samples": sum(s.samples for s in self.shards),
            "frames": sum(s.frames for s in self.shards),
            **found,
            **(_by_view(self.views) if self.manifest.options.views_per_sample else {}),
            **({"merged_arms": self.manifest.options.merge_arms, "grippers": grippers} if grippers else {}),
            "tolerance": {"position_mm": self.tolerance.position_mm, "rotation_deg": self.tolerance.rotation_deg},
            "quarantined": self.manifest.counts.quarantined if self.manifest.counts else 0,
            "shards": {
                "checked": len(self.shards),
                "corrupt": [s.path for s in self.shards if s.corrupt],
            },
            **({"derived": self.derived} if self.derived else {}),
            "failures": [{"key": f.key, "shard": f.shard, "reason": f.reason} for f in self.failures],
        }


def _by_view(found: Counter[tuple[str, ...]]) -> dict[str, Any]:
    """How many samples have each view, and how many have so many views."""
    names, counts = Counter[str](), Counter[str]()
    for views, samples in sorted(found.items()):
        names.update(dict.fromkeys(views, samples))
        counts[str(len(views))] += samples
    return {"samples_by_view": dict(sorted(names.items())), "samples_by_number_of_views": dict(sorted(counts.items()))}


def _found(trips: Sequence[RoundTrip]) -> dict[str, Any]:
    """What round trips say together; of several grippers each frame counts once a gripper."""
    decoded = sum(t.decoded for t in trips)
    right = sum(t.openness_right for t in trips)
    return {
        "decoded_frames": decoded,
        "undecodable_frames": sum(t.undecodable for t in trips),
        "missed_frames": sum(t.missed for t in trips),
        "position_error_mm": _statistics([t.position_mm for t in trips]),
        "rotation_error_deg": _statistics([t.rotation_deg for t in trips]),
        "openness_accuracy": right / decoded if decoded else None,
    }


def _statistics(parts: Sequence[Any]) -> dict[str, float | None]:
    values = np.concatenate(parts) if parts else np.empty(0)
    if len(values) == 0:
        return {"median": None, "p95": None, "max": None}
    return {
        "median": float(np.median(values)),
        "p95": float(np.quantile(values, 0.95)),
        "max": float(values.max()),
    }


def verify(
    out: str | Path | RemotePath,
    *,
    quick: bool = False,
    max_position_mm: float | None = None,
    max_rotation_deg: float | None = None,
    num_workers: int = 1,
    on_start: Callable[[int], None] = lambda _: None,
    on_shard: Callable[[ShardReport], None] = lambda _: None,
) -> Report:
    """Verify a data set: bytes, schemas, counts, and the round trip from stored action videos back to trajectories.

    Args:
        out: Folder of the data set, or its URL.
        quick: Check every byte, but leave out the round trip: no video is decoded, and one sample a shard is looked
            into.
        max_position_mm: Largest 95th percentile of the position error; by default what the codec promises.
        max_rotation_deg: The same for the rotation error.
        num_workers: Processes; 1 works in this one.
        on_start: Called with the number of shards.
        on_shard: Called with each shard's report.

    Returns:
        What was found. Nothing that is wrong with the data set is raised, only that there is none.

    Raises:
        SourceNotFoundError: There is no data set.
        CorruptDatasetError: Its ``dataset.json`` is damaged, so that nothing can be held against it.
        StorageError: The store that it is in does not answer.
        WorkerError: A worker process died.
    """
    out = layout.place(out)
    manifest = read_manifest(out)
    usual = default_tolerance(manifest)
    for name, value in (("max_position_mm", max_position_mm), ("max_rotation_deg", max_rotation_deg)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InvalidSpecError("must be positive", where="verify", field=name, found=value)
    tolerance = Tolerance(
        usual.position_mm if max_position_mm is None else max_position_mm,
        usual.rotation_deg if max_rotation_deg is None else max_rotation_deg,
    )
    report = Report(quick, tolerance, manifest)
    if not manifest.complete:
        report.failures.append(Failure(None, None, _incomplete(out, manifest)))
        on_start(0)
        return report
    try:
        rows = _plan(out, manifest)
    except StorageError:
        raise
    except ActionImgError as error:
        report.failures.append(Failure(None, None, str(error)))
        on_start(0)
        return report
    report.failures += _files(out, manifest, rows)
    on_start(len(rows))
    tasks = [(out, record, row, manifest, quick) for record, row in zip(manifest.shards, rows, strict=True)]
    for result in _run(tasks, min(num_workers, max(1, len(tasks)))):
        report.shards.append(result)
        on_shard(result)
    report.shards.sort(key=lambda shard: shard.path)
    for shard in report.shards:
        report.failures += shard.failures
    if not any(shard.corrupt for shard in report.shards):
        report.failures += _index(out, rows, manifest)
    report.failures += _beyond_tolerance(report)
    _derivations(out, report)
    return report


def _derivations(out: Place, report: Report) -> None:
    """Hold what was derived from the data set against what it says of itself."""
    names = derived.names(out)
    if not names:
        return
    try:
        dataset = open_dataset(out)
    except (CorruptDatasetError, SourceNotFoundError):
        # That is among the failures already.
        return
    for name in names:
        rows = derived.rows_of(dataset, report.manifest, name)
        manifest, faults = derived.check(out, name, rows, report.quick)
        about: dict[str, Any] = {"name": name, "corrupt": [fault.shard or name for fault in faults]}
        if manifest is not None:
            spec, counts = manifest.spec, manifest.counts
            about |= {"member": spec.member, "function": spec.function, "function_version": spec.function_version}
            about |= {} if counts is None else counts.model_dump()
        report.derived.append(about)
        report.failures += [Failure(fault.shard, None, fault.reason) for fault in faults]


def _incomplete(out: Place, manifest: DatasetManifest) -> str:
    there = len(list((out / manifest.options.split).glob("*.json")))
    return f"{out}: is not complete: {there} of {manifest.planned_shards} shards are there; convert again to finish it"


def _plan(out: Place, manifest: DatasetManifest) -> Sequence[PlanRow]:
    path = out / layout.PLAN
    _check_file(out, layout.PLAN, manifest)
    rows = read_plan(out)
    names = [f"{row.shard}.tar" for row in rows]
    listed = [record.path for record in manifest.shards]
    if names != listed or fingerprint(manifest, rows) != manifest.plan:
        raise CorruptDatasetError("is not the plan of the manifest", where=path)
    return rows


def _check_file(out: Place, name: str, manifest: DatasetManifest) -> None:
    digest = hashlib.sha256(read_bytes(out / name)).hexdigest()
    if digest != manifest.files.get(name):
        raise CorruptDatasetError("is not what the manifest says", where=out / name, field="SHA-256")


def _files(out: Place, manifest: DatasetManifest, rows: Sequence[PlanRow]) -> Iterator[Failure]:
    for name in (layout.INDEX, layout.QUARANTINE):
        try:
            _check_file(out, name, manifest)
            if name == layout.QUARANTINE:
                list(read_quarantine(out))
        except StorageError:
            raise
        except ActionImgError as error:
            yield Failure(None, None, str(error))
    # Readers take every tar of a folder, so one that is not in the plan is not harmless.
    planned = {f"{row.shard}{ending}" for row in rows for ending in (".tar", ".json")}
    folder = out / manifest.options.split
    for file in layout.listing(folder):
        name = f"{folder.name}/{file}"
        if file.endswith((".tar", ".json")) and name not in planned:
            yield Failure(name, None, f"{folder / file}: is in no plan")
    counts = manifest.counts
    total = (sum(r.samples for r in manifest.shards), sum(r.frames for r in manifest.shards))
    if counts is None or (counts.samples, counts.frames, counts.shards) != (*total, len(rows)):
        yield Failure(None, None, f"{out / layout.MANIFEST}: counts are not the sums of its shards")


def _index(out: Place, rows: Sequence[PlanRow], manifest: DatasetManifest) -> Iterator[Failure]:
    import pyarrow as pa

    path = out / layout.INDEX
    try:
        table = load_parquet(layout.read_place(path))
        sidecars = [sidecar for row in rows if (sidecar := read_sidecar(out, row.shard)) is not None]
        wanted = index_table(sidecars, **manifest.index_columns)
    except StorageError:
        raise
    except (OSError, pa.ArrowException, ActionImgError) as error:
        yield Failure(None, None, f"{path}: cannot be read: {error}")
        return
    schema = index_schema(**manifest.index_columns)
    kept = [name for name in schema.names if name not in _DECODE_COLUMNS]
    if table.schema != schema or not table.select(kept).equals(wanted.select(kept)):
        yield Failure(None, None, f"{path}: is not the index of these shards")


def _beyond_tolerance(report: Report) -> Iterator[Failure]:
    """What the round trips say, sample by sample and over all of them."""
    limits = report.tolerance
    for shard, trip in report.round_trips:
        who = f"{trip.gripper}: " if trip.gripper else ""
        if trip.missed:
            yield Failure(shard, trip.key, f"{who}{trip.missed} frames that have two views were not decoded")
        if trip.decoded:
            for what, unit, errors, limit in (
                ("position", "mm", trip.position_mm, limits.position_mm),
                ("rotation", "°", trip.rotation_deg, limits.rotation_deg),
            ):
                median = float(np.median(errors))
                if not median <= limit:
                    yield Failure(
                        shard, trip.key, f"{who}median {what} error {median:.3g} {unit}, allowed {limit:.3g} {unit}"
                    )
    summary = report.summary()
    for what, unit, limit in (
        ("position_error_mm", "mm", limits.position_mm),
        ("rotation_error_deg", "°", limits.rotation_deg),
    ):
        p95 = summary[what]["p95"]
        if p95 is not None and not p95 <= limit:
            yield Failure(None, None, f"{what}: p95 {p95:.3g} {unit} over all frames, allowed {limit:.3g} {unit}")
    accuracy = summary["openness_accuracy"]
    if accuracy is not None and accuracy < MIN_OPENNESS_ACCURACY:
        yield Failure(
            None, None, f"openness is right in {accuracy:.2%} of the frames, {MIN_OPENNESS_ACCURACY:.0%} needed"
        )


Task = tuple[Place, ShardRecord, PlanRow, DatasetManifest, bool]


def _run(tasks: Sequence[Task], workers: int) -> Iterator[ShardReport]:
    if workers == 1:
        for task in tasks:
            yield verify_shard(*task)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin) as pool:
        ahead = iter(tasks)
        running: set[Future[ShardReport]] = set()
        try:
            while True:
                # A few more than there are workers, so that a million shards do not wait in memory.
                for task in itertools.islice(ahead, 2 * workers - len(running)):
                    running.add(pool.submit(verify_shard, *task))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise WorkerError(
                "a worker process died", where="verify", hint="Was there enough memory? Try fewer --num-workers."
            ) from None
        except BaseException:
            # What the workers are at is not waited for: it may take minutes.
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            raise


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # It may be ignored where we come from.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import cv2

    cv2.setNumThreads(1)


def record(out: str | Path | RemotePath, report: Report) -> None:
    """Write the round trip's errors of each sample into ``index.parquet``, and the index's new hash into the manifest.

    Raises:
        CorruptDatasetError: The report has failures, or none of its samples was decoded.
        OutputError: The data set cannot be written.
    """
    import pyarrow as pa

    out = layout.place(out)
    trips: dict[str, list[RoundTrip]] = {}
    for _, trip in report.round_trips:
        trips.setdefault(trip.key, []).append(trip)
    if not report.ok or not trips:
        raise CorruptDatasetError("only a data set that was decoded without a failure is recorded", where=out)
    table: pa.Table = load_parquet(read_bytes(out / layout.INDEX))
    rows = [trips[key] for key in table["key"].to_pylist()]
    columns: dict[str, list[float | int | None]] = {
        "decode_position_p95_mm": [_p95(np.concatenate([t.position_mm for t in own])) for own in rows],
        "decode_rotation_p95_deg": [_p95(np.concatenate([t.rotation_deg for t in own])) for own in rows],
        "decode_openness_accuracy": [_accuracy(own) for own in rows],
        "undecodable_frames": [sum(t.undecodable for t in own) for own in rows],
    }
    schema = index_schema(**report.manifest.index_columns)
    for name, values in columns.items():
        place = schema.get_field_index(name)
        table = table.set_column(place, schema.field(name), pa.array(values, schema.field(name).type))
    data = table_bytes(table)
    files = {**report.manifest.files, layout.INDEX: hashlib.sha256(data).hexdigest()}
    layout.publish(out / layout.INDEX, data)
    layout.publish(out / layout.MANIFEST, to_bytes(report.manifest.model_copy(update={"files": files}).sealed()))


def _accuracy(trips: Sequence[RoundTrip]) -> float | None:
    decoded = sum(t.decoded for t in trips)
    return sum(t.openness_right for t in trips) / decoded if decoded else None


def _p95(values: Any) -> float | None:
    return float(np.quantile(values, 0.95)) if len(values) else None
