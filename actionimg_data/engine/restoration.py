"""Make again what is broken in a data set, and only that, to the bytes that it had.

What is broken is found by every hash that the manifest holds, as `verify` finds it before it decodes anything. What
can be made from what is left is: a sidecar from its tar and the quarantine, the index and the quarantine from the
sidecars, the plan from the source. The rest is converted again from the source, in a folder aside, and takes its place
only if it is byte for byte what the manifest names, or where the user takes other bytes too.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..converters.base import Converter, converter_class
from ..converters.remote import SourceReader
from ..errors import ActionImgError, CorruptDatasetError, OutputError
from ..schemas import (
    DatasetManifest,
    MemberRow,
    PlanRow,
    QuarantineRow,
    RemadeShards,
    SampleMeta,
    SampleRow,
    ShardRecord,
    ShardSidecar,
)
from ..schemas.dataset import parse, to_bytes, to_line
from ..shards import derived, layout, open_dataset, storage
from ..shards.layout import Place
from ..shards.manifest import (
    assemble,
    index_bytes,
    published,
    read_manifest,
    read_plan,
    read_quarantine,
    read_sidecar,
    remove_leftovers,
)
from ..shards.plan import Plan, changes, fingerprint, tool_versions
from ..shards.prepare import Recipe
from ..shards.read import Sample, scan_tar
from ..shards.rows import PlanRows
from ..shards.tar import BLOCK
from ..shards.write import Progress
from .choice import make_executor
from .conversion import plan
from .derivation import repair_derived
from .difference import difference
from .executor import Executor, Job

SCRATCH = f"repair{layout.TEMPORARY}"
"""Folder within a local data set in which shards are made again; it may be left by a repair that was killed."""


@dataclass
class Repaired:
    """What a repair found and did.

    ``made`` names what was made again, ``left`` what could not be, with the reason, ``convert_again`` shards of a data
    set that is not complete: they were taken back, and the command that makes it makes them again.
    """

    checked: int = 0
    made: list[str] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    convert_again: list[str] = field(default_factory=list)
    recorded_errors_lost: bool = False
    """The index was broken and held what ``verify --record`` writes: that has to be measured again."""
    accepted: list[tuple[str, str]] = field(default_factory=list)
    """Shards that were made again and taken with other bytes than the manifest named, and in what they differ."""

    @property
    def ok(self) -> bool:
        """Whether nothing is left broken."""
        return not self.left


def repair(
    out: str | Path,
    *,
    num_workers: int = 1,
    executor: Executor | None = None,
    accept_different: bool = False,
    derive_with: Sequence[str] = (),
    device: str = "cpu",
    on_start: Callable[[int], None] = lambda _: None,
    on_shard: Callable[[], None] = lambda: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Repaired:
    """Find what is broken in a data set and make it again.

    Args:
        out: The data set.
        num_workers: Cores for shards that have to be converted again.
        executor: What converts them; by default ``num_workers`` of this machine.
        accept_different: Take a shard that comes out with other bytes than it had, because it is made with other
            versions, and write the manifest anew: by default it is left broken, and what differs is said.
        derive_with: Functions (``MODULE:FUNCTION``) that may be run to derive broken members again: what a data set
            names is not run unless the user names it too.
        device: Given to those that take one.
        on_start: Called with the number of shards that are checked.
        on_shard: Called for each that was.
        on_progress: Hears of shards that are converted again.

    Raises:
        SourceNotFoundError: There is no data set.
        CorruptDatasetError: Its manifest is damaged: the command that made the data set writes it again.
        OutputError: The data set cannot be written.
    """
    place = layout.place(out)
    try:
        manifest = read_manifest(place)
    except CorruptDatasetError as error:
        raise CorruptDatasetError(
            f"cannot be repaired from what is there: {error.message}",
            where=error.where,
            hint="Give the actionimg convert command that made this data set again: it writes the manifest.",
        ) from None
    result = Repaired()
    rows = _plan(place, manifest, result)
    if rows is None:
        return result
    if manifest.complete:
        executor = executor or make_executor("local", num_workers)
        again = _Again(place, manifest, rows, executor, result, accept_different)
        _complete(again, on_start, on_shard, on_progress)
        if result.ok:
            _derivations(place, result, derive_with, device, num_workers, accept_different)
    else:
        _incomplete(place, manifest, rows, result, on_start, on_shard)
    return result


def _plan(out: Place, manifest: DatasetManifest, result: Repaired) -> PlanRows | None:
    """The plan, from the source again where it is broken."""
    with contextlib.suppress(ActionImgError):
        rows = read_plan(out)
        if fingerprint(manifest, rows) == manifest.plan:
            return rows
    try:
        rows = _from_source(manifest).rows
        if fingerprint(manifest, rows) != manifest.plan:
            rows = _rows_of_sidecars(out, manifest, rows)
    except (OSError, ActionImgError) as error:
        result.left.append((layout.PLAN, f"cannot be made from the source again: {error}"))
        return None
    if fingerprint(manifest, rows) != manifest.plan:
        result.left.append((layout.PLAN, "cannot be made from the source again: that has changed"))
        return None
    layout.publish(out / layout.PLAN, b"".join(rows.lines()))
    result.made.append(layout.PLAN)
    return rows


def _rows_of_sidecars(out: Place, manifest: DatasetManifest, fresh: PlanRows) -> PlanRows:
    """The rows of a data set that was extended: which episodes a shard has is in its sidecar."""
    episodes = {e.id: (place, e) for place, e in enumerate(e for row in fresh for e in row.episodes)}

    def lines() -> Iterator[bytes]:
        for number in range(manifest.planned_shards):
            shard = layout.shard_name(manifest.options.split, number)
            sidecar = read_sidecar(out, shard)
            if sidecar is None:
                raise CorruptDatasetError("is not there", where=f"{shard}.json")
            ids = {s.episode for s in sidecar.samples} | {q.id for q in sidecar.quarantined}
            if not ids <= episodes.keys():
                raise CorruptDatasetError("has episodes that the source has no more", where=f"{shard}.json")
            ordered = sorted((episodes[i] for i in ids), key=lambda found: found[0])
            yield to_line(PlanRow(shard=shard, episodes=tuple(episode for _, episode in ordered)))

    return PlanRows(lines(), out / layout.PLAN)


def _converter(manifest: DatasetManifest) -> Converter:
    cls = converter_class(manifest.converter.name)
    converter = cls(cls.Options.parse(manifest.converter.options, manifest.converter.name))
    converter.tell(manifest.views, manifest.options.allow, bool(manifest.options.views_per_sample))
    return converter


def _from_source(manifest: DatasetManifest) -> Plan:
    return plan(_converter(manifest), manifest.sources[0], manifest.options)


def _incomplete(
    out: Place,
    manifest: DatasetManifest,
    rows: PlanRows,
    result: Repaired,
    on_start: Callable[[int], None],
    on_shard: Callable[[], None],
) -> None:
    """Take back what is broken of a data set that is still being made: there is no record yet of what it should be."""
    on_start(len(rows))
    plans = manifest.earlier_plans()
    stale = frozenset(plans.values())
    for row in rows:
        try:
            sidecar = published(out, row, plans.get(row.shard, manifest.plan), stale)
            good = sidecar is None or sidecar.sha256 is None
            good = good or storage.place_sha256(out / f"{row.shard}.tar")[0] == (sidecar and sidecar.sha256)
        except (CorruptDatasetError, OSError):
            good = False
        result.checked += 1
        on_shard()
        if not good:
            storage.retract(out, row.shard)
            result.convert_again.append(row.shard)


@dataclass
class _Again:
    """A complete data set, and what its broken shards are made again with."""

    out: Place
    manifest: DatasetManifest
    rows: PlanRows
    executor: Executor
    result: Repaired
    accept: bool
    quarantine: dict[str, Sequence[QuarantineRow]] = field(default_factory=dict)
    before: dict[str, ShardSidecar] = field(default_factory=dict)
    """Sidecars of the broken shards that are whole themselves: what the shards were."""


def _complete(
    again: _Again,
    on_start: Callable[[int], None],
    on_shard: Callable[[], None],
    on_progress: Callable[[Progress], None],
) -> None:
    out, manifest, rows, result = again.out, again.manifest, again.rows, again.result
    on_start(len(rows))
    broken: list[int] = []
    again.quarantine = _quarantine_rows(out, manifest)
    for number, (record, row) in enumerate(zip(manifest.shards, rows, strict=True)):
        sidecar = _good_sidecar(out, record, row)
        if sidecar is not None:
            again.quarantine[row.shard] = sidecar.quarantined
        if not _is_good_tar(out, record):
            broken.append(number)
            if sidecar is not None:
                again.before[row.shard] = sidecar
        elif sidecar is None:
            if _sidecar_again(out, record, row, manifest, again.quarantine):
                result.made.append(f"{row.shard}.json")
            else:
                broken.append(number)
        result.checked += 1
        on_shard()
    if broken:
        _shards_again(again, broken, on_progress)
    if result.accepted and not result.left:
        _manifest_anew(again)
    elif not result.left:
        _tables_again(out, manifest, rows, result)
    _strays(out, manifest, rows, result)
    remove_leftovers(out, manifest.options.split)


def _derivations(
    out: Place, result: Repaired, functions: Sequence[str], device: str, num_workers: int, accept: bool
) -> None:
    """What was derived, once the data set itself is whole."""
    names = derived.names(out)
    dataset = open_dataset(out) if names else None
    for name in names:
        assert dataset is not None
        executor = make_executor("local", num_workers)
        made, left = repair_derived(out, dataset, name, functions, device=device, executor=executor, accept=accept)
        result.made += made
        result.left += left


def _good_sidecar(out: Place, record: ShardRecord, row: PlanRow) -> ShardSidecar | None:
    path = out / f"{row.shard}.json"
    try:
        data = layout.read_place(path)
        good = hashlib.sha256(data).hexdigest() == record.sidecar_sha256
        return parse(ShardSidecar, data, path) if good else None
    except (FileNotFoundError, IsADirectoryError, CorruptDatasetError):
        return None


def _is_good_tar(out: Place, record: ShardRecord) -> bool:
    tar = out / record.path
    try:
        return storage.place_sha256(tar) == (record.sha256, record.bytes)
    except FileNotFoundError:
        return record.sha256 is None


def _strays(out: Place, manifest: DatasetManifest, rows: PlanRows, result: Repaired) -> None:
    """Readers take every tar of the folder; one that is in no plan is somebody's, so it is only named."""
    planned = {f"{row.shard}{ending}" for row in rows for ending in (".tar", ".json")}
    split = manifest.options.split
    for name in layout.listing(out / split):
        if name.endswith((".tar", ".json")) and f"{split}/{name}" not in planned:
            result.left.append((f"{split}/{name}", "is in no plan: move it elsewhere"))


def _quarantine_rows(out: Place, manifest: DatasetManifest) -> dict[str, Sequence[QuarantineRow]]:
    """The quarantine by shard, of all shards that have one; empty where it is broken."""
    path = out / layout.QUARANTINE
    try:
        data = layout.read_place(path)
        if hashlib.sha256(data).hexdigest() != manifest.files.get(layout.QUARANTINE):
            return {}
        rows: dict[str, list[QuarantineRow]] = {r.path.removesuffix(".tar"): [] for r in manifest.shards}
        for row in read_quarantine(out):
            rows[row.shard].append(row)
        return dict(rows)
    except (OSError, ActionImgError):
        return {}


def _sidecar_again(
    out: Place,
    record: ShardRecord,
    row: PlanRow,
    manifest: DatasetManifest,
    quarantine: Mapping[str, Sequence[QuarantineRow]],
) -> bool:
    """Make a sidecar from its tar and the quarantine; whether it is what the manifest names."""
    if row.shard not in quarantine:
        return False
    tar = out / record.path
    try:
        samples = () if record.sha256 is None else tuple(_sample_rows(tar, manifest))
        sidecar = ShardSidecar(
            plan=manifest.plan_of(row.shard),
            shard=row.shard,
            bytes=record.bytes,
            sha256=record.sha256,
            samples=samples,
            quarantined=tuple(quarantine[row.shard]),
        )
    except ActionImgError:
        return False
    content = to_line(sidecar)
    if hashlib.sha256(content).hexdigest() != record.sidecar_sha256:
        return False
    layout.publish(out / f"{row.shard}.json", content)
    return True


def _sample_rows(tar: Place, manifest: DatasetManifest) -> Iterator[SampleRow]:
    offset = 0
    for key, members in scan_tar(tar).items():
        sample = Sample(key, tar, members, manifest.options.spec)
        meta: SampleMeta = sample.meta
        listed = []
        with layout.open_place(tar) as file:
            for name, (start, size) in members.items():
                file.seek(start)
                listed.append(
                    MemberRow(name=name, offset=start, size=size, sha256=hashlib.sha256(file.read(size)).hexdigest())
                )
        end = max(m.offset + m.size for m in listed)
        end += -end % BLOCK
        yield SampleRow(
            key=key,
            episode=meta.episode,
            clip=meta.clip,
            start_frame=meta.start_frame,
            frames=meta.frames,
            fps=meta.fps,
            views=meta.views,
            grippers=meta.grippers,
            instruction=meta.instruction,
            task=meta.task,
            offset=offset,
            bytes=end - offset,
            members=tuple(listed),
        )
        offset = end


def _shards_again(again: _Again, broken: Sequence[int], on_progress: Callable[[Progress], None]) -> None:
    manifest, rows, result = again.manifest, again.rows, again.result
    try:
        unlike = _changed(manifest, rows, broken)
    except ActionImgError as error:
        result.left += [(f"{rows[n].shard}.tar", f"the source cannot be read: {error}") for n in broken]
        return
    groups: dict[str, list[int]] = {}
    tools = {manifest.plan: manifest.tool, **{e.plan: e.tool for e in manifest.earlier}}
    ours = tool_versions()
    for number in broken:
        shard = rows[number].shard
        of = manifest.plan_of(shard)
        versions = [f"{k} {v} (here {ours.get(k)})" for k, v in tools[of].items() if k in ours and ours[k] != v]
        versions += [f"{k} not known (here {v})" for k, v in ours.items() if k not in tools[of]]
        if number in unlike:
            result.left.append((f"{shard}.tar", f"its source has changed: {unlike[number]}"))
        elif versions and not again.accept:
            reason = f"was made with other versions: {', '.join(versions)}. {ACCEPT_HINT}"
            result.left.append((f"{shard}.tar", reason))
        else:
            groups.setdefault(of, []).append(number)
    if not groups:
        return
    converter = _converter(manifest)
    with again.executor as executor, _scratch(again.out) as scratch:
        for of, numbers in groups.items():
            job = Job(scratch, of, SourceReader(converter), Recipe.of(manifest))
            executor.run(job, [rows[n] for n in numbers], on_progress, lambda made: _take(again, scratch, made))


ACCEPT_HINT = "With --accept-different it is taken as it comes out now."


def _changed(manifest: DatasetManifest, rows: PlanRows, broken: Sequence[int]) -> dict[int, str]:
    """Broken shards whose source is not what it was, with the first such episode."""
    wanted = [rows[n] for n in broken]
    delta = changes(wanted, _from_source(manifest).rows)
    unlike = {*delta.gone, *delta.changed}
    found = {}
    for number, row in zip(broken, wanted, strict=True):
        bad = next((e.id for e in row.episodes if e.id in unlike), None)
        if bad is not None:
            found[number] = bad
    return found


@contextlib.contextmanager
def _scratch(out: Place) -> Iterator[Path]:
    """A folder to make shards in: on the file system of a local data set, so that they can be renamed into it."""
    if not isinstance(out, Path):
        with tempfile.TemporaryDirectory(prefix="actionimg-repair-") as name:
            yield Path(name)
        return
    folder = out / SCRATCH
    with layout.output_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _take(again: _Again, scratch: Path, made: ShardSidecar) -> None:
    """Put a shard that was made again into its place if it is what the manifest names, or may be another."""
    record = next(r for r in again.manifest.shards if r.path == f"{made.shard}.tar")
    same = (made.sha256, made.bytes) == (record.sha256, record.bytes)
    if same and made.shard in again.quarantine:
        # What an episode failed of may be worded otherwise today.
        made = made.model_copy(update={"quarantined": tuple(again.quarantine[made.shard])})
    content = to_line(made)
    if not same or hashlib.sha256(content).hexdigest() != record.sidecar_sha256:
        before = again.before.get(made.shard)
        new = scratch / record.path
        how = (
            difference(before, again.out / record.path, made, new)
            if not same
            else "its episodes fail otherwise than they did"
        )
        if not again.accept:
            again.result.left.append(
                (record.path, f"made again it is not what the manifest names: {how}. {ACCEPT_HINT}")
            )
            return
        again.result.accepted.append((record.path, how))
    storage.retract(again.out, made.shard)
    part = None if made.sha256 is None else scratch / record.path
    storage.commit_shard(again.out, made.shard, part, made.sha256 or "", made.bytes, content)
    again.result.made.append(record.path)


def _manifest_anew(again: _Again) -> None:
    """Index, quarantine and manifest of a data set of which shards have other bytes now, with what made them."""
    manifest = again.manifest
    names = {name.removesuffix(".tar") for name, _ in again.result.accepted}
    kept = [
        remade.model_copy(update={"shards": rest})
        for remade in manifest.remade
        if (rest := tuple(s for s in remade.shards if s not in names))
    ]
    remade = (*kept, RemadeShards(tool=tool_versions(), shards=tuple(sorted(names))))
    blank = manifest.model_copy(update={"complete": False, "counts": None, "shards": (), "files": {}, "remade": remade})
    again.result.recorded_errors_lost = _has_recorded(again.out)
    if assemble(again.out, blank, again.rows) is None:
        raise OutputError("a shard vanished while the data set was repaired", where=again.out)
    again.result.made += [layout.INDEX, layout.QUARANTINE, layout.MANIFEST]


def _has_recorded(out: Place) -> bool:
    """Whether the index holds what ``verify --record`` writes."""
    import pyarrow as pa

    from ..untrusted.parquet import load_parquet

    try:
        column = load_parquet(layout.read_place(out / layout.INDEX))["undecodable_frames"]
    except (OSError, KeyError, pa.ArrowException):
        return False
    return bool(column.null_count < len(column))


def _tables_again(out: Place, manifest: DatasetManifest, rows: PlanRows, result: Repaired) -> None:
    """The quarantine and the index, from the sidecars; all of these are good now."""

    def sidecars() -> Iterator[ShardSidecar]:
        for row in rows:
            sidecar = read_sidecar(out, row.shard)
            if sidecar is None:
                raise OutputError("vanished while the data set was repaired", where=out / f"{row.shard}.json")
            yield sidecar

    files = dict(manifest.files)
    for name in (layout.QUARANTINE, layout.INDEX):
        path = out / name
        with contextlib.suppress(OSError):
            if hashlib.sha256(layout.read_place(path)).hexdigest() == files.get(name):
                continue
        if name == layout.INDEX:
            data = index_bytes(sidecars(), **manifest.index_columns)
        else:
            data = b"".join(to_line(q) for sidecar in sidecars() for q in sidecar.quarantined)
        digest = hashlib.sha256(data).hexdigest()
        if digest != files.get(name):
            if name != layout.INDEX:
                result.left.append((name, "the sidecars' quarantine is not the one that the manifest names"))
                continue
            # Only what verify measured and recorded is not in the sidecars.
            result.recorded_errors_lost = True
            files[name] = digest
        layout.publish(path, data)
        result.made.append(name)
    if files != manifest.files:
        layout.publish(out / layout.MANIFEST, to_bytes(manifest.model_copy(update={"files": files}).sealed()))
        result.made.append(layout.MANIFEST)
