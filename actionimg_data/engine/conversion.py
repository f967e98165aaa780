"""Convert a source into a data set: plan it, make its shards, assemble its manifest."""

from __future__ import annotations

import itertools
import logging
import os
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..converters import base
from ..converters.base import Converter
from ..converters.remote import SourceReader
from ..errors import (
    ActionImgError,
    InvalidSpecError,
    MissingCalibrationError,
    OutputError,
    StorageError,
    TooManyBadEpisodesError,
    human_bytes,
)
from ..model import Episode, EpisodeRef
from ..schemas import ConverterRecord, ConvertOptions, DatasetManifest, PlanRow, QuarantineRow, ShardSidecar
from ..schemas.plausibility import KINDS, Limits
from ..shards import layout, storage
from ..shards.layout import Place
from ..shards.manifest import assemble, published, read_manifest, remove_leftovers
from ..shards.plan import PROBES, Plan, choose_streams, make_plan
from ..shards.prepare import Recipe, read_episode, refined_cameras
from ..shards.source import check_source, remember
from ..shards.write import Progress, unexpected
from .choice import make_executor
from .estimation import refuse_what_does_not_fit
from .executor import Executor, Job
from .opening import open_output, own_rows, planned

log = logging.getLogger(__name__)

DEFAULT_MAX_BAD_FRACTION: Final = 0.5
_EARLY: Final = 20
_SPACE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Totals:
    """What a run has ahead of it, and what was there already."""

    shards: int
    shards_done: int
    episodes: int
    episodes_done: int
    frames: int | None
    """Frames of the episodes ahead, where the source knows them."""


@dataclass(frozen=True)
class Result:
    """What a run did.

    ``manifest`` is the complete one, or the one of a data set of which shards are still missing (they belong to other
    runs with another ``shard_index``).
    """

    manifest: DatasetManifest
    shards: int
    resumed_shards: int
    frames: int
    quarantined: tuple[QuarantineRow, ...]
    seconds: float


class Observer:
    """Hears of a run's progress; override what is of interest."""

    def started(self, totals: Totals) -> None:
        """The plan is there and the work begins."""

    def progress(self, event: Progress) -> None:
        """Frames were encoded, or an episode begun or ended."""

    def published(self, sidecar: ShardSidecar) -> None:
        """A shard was published."""

    def warning(self, text: str) -> None:
        """Something that the user may want to act on before the run ends."""


def plan(converter: Converter, source: str, options: ConvertOptions) -> Plan:
    """Everything that will be made, before anything is.

    Raises:
        SourceNotFoundError: The source does not exist.
        WrongFormatError: It is not of the converter's format, or holds no episodes.
        MissingCalibrationError: No view of the first episode has a calibration.
    """
    source = os.path.abspath(source) if "://" not in source else source
    if converter.poses_only:
        options = options.without_cameras(converter.videos_only)
    options = _with_own(options, converter)
    cameras = refined_cameras(options)
    remember(source, again=True)
    reader = SourceReader(converter)
    reader.tell(options.views or (), options.allow, bool(options.views_per_sample))
    refs = iter(reader.discover(source))
    head: list[EpisodeRef] = []

    def probes() -> Iterator[tuple[EpisodeRef, Episode | ActionImgError]]:
        for ref in itertools.islice(refs, PROBES):
            head.append(ref)
            try:
                yield ref, read_episode(ref, reader, cameras, options.conditioning_cameras)
            except StorageError:
                raise
            except ActionImgError as error:
                check_source(source)
                yield ref, error
            except Exception as error:  # noqa: BLE001
                # A bug that one episode brings to light; its traceback is kept when the episode's turn comes.
                check_source(source)
                yield ref, unexpected(error, ref.id)

    possible = reader.possible_views(source) if options.views_per_sample and options.views is None else ()
    streams = choose_streams(probes(), options, source, possible)
    differ = options.views_per_sample and ("found" if streams.found else "named")
    conditioning = streams.conditioning or options.conditioning_cameras is not None
    options = options.model_copy(update={"conditioning": conditioning, "views_per_sample": differ or ""})
    reader.tell(streams.views, options.allow, bool(differ))
    record = ConverterRecord(name=converter.name, options=converter.options.model_dump(mode="json"))
    every = itertools.chain(head, refs)
    return make_plan(record, source, every, streams.views, options, _plugin_version(converter), streams.grippers)


def left_out(converter: Converter, options: ConvertOptions) -> frozenset[str]:
    """Codes by which the user's own choice leaves episodes out: they do not count as bad."""
    without = {MissingCalibrationError.code} if options.views_per_sample else set()
    return converter.left_out | without


def _with_own(options: ConvertOptions, converter: Converter) -> ConvertOptions:
    """The options with what the converter's own files say is plausible; what is given here comes first."""
    limits = {**converter.limits.model_dump(exclude_defaults=True), **options.limits.model_dump(exclude_defaults=True)}
    allow = tuple(kind for kind in KINDS if kind in (*options.allow, *converter.allow))
    return options.model_copy(update={"allow": allow, "limits": Limits(**limits)})


def _plugin_version(converter: Converter) -> dict[str, str]:
    """The version of a converter that is not ours: it decides the bytes as well."""
    if type(converter).__module__.partition(".")[0] == __name__.partition(".")[0]:
        return {}
    entry = base.entry_points().get(converter.name)
    package = getattr(entry, "dist", None)
    return {} if package is None else {f"converter {package.name}": package.version}


def convert(
    converter: Converter,
    source: str,
    out: str | Path,
    options: ConvertOptions | None = None,
    *,
    num_workers: int = 1,
    executor: Executor | None = None,
    shard_index: int = 0,
    num_shards: int = 1,
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION,
    overwrite: bool = False,
    extend: bool = False,
    retry_quarantined: bool = False,
    check_space: bool = True,
    observer: Observer | None = None,
) -> Result:
    """Convert a source into a data set, or go on where an earlier run of the same plan stopped.

    Args:
        converter: Reads the source.
        source: What its ``discover`` takes.
        out: Folder of the data set, or its URL in an object store.
        options: What decides the bytes.
        num_workers: Cores to use; 1 works in this process alone, more in that many others.
        executor: What runs the shards (see `make_executor`); by default ``num_workers`` of this machine.
        shard_index: Which part of the shards to make: those whose number is this modulo ``num_shards``.
        num_shards: Into how many parts the work is split, e.g. the size of a SLURM array. The run that publishes the
            last shard writes the manifest.
        max_bad_fraction: Stop when more of the episodes than this cannot be converted.
        overwrite: Remove a data set of another plan, or of this one, first.
        extend: Put episodes that the source has gained into new shards; the others stay as they are.
        retry_quarantined: Make the shards again that have episodes in quarantine, and no other.
        check_space: Refuse to begin what will surely not fit, and stop before the file system is full.
        observer: Hears of the progress.

    Raises:
        OutputExistsError: ``out`` holds something else, or the source has changed.
        OutputError: ``out`` cannot be written, or has not enough space.
        TooManyBadEpisodesError: As said; what was published stays.
        ActionImgError: The source cannot be planned (see `plan`).
    """
    started = time.monotonic()
    place = layout.place(out)
    observer = observer or Observer()
    options = options or ConvertOptions.parse()
    _check(num_workers, shard_index, num_shards, max_bad_fraction, overwrite, extend, retry_quarantined)
    chosen = left_out(converter, options)
    watch = _Watch(observer, max_bad_fraction, place if check_space else None, num_workers, chosen)
    with executor or make_executor("local", num_workers, warn=observer.warning) as workers:
        made = plan(converter, source, options)
        made = open_output(place, made, options, overwrite=overwrite, extend=extend, retry=retry_quarantined)
        work = _Work(place, made, range(shard_index, len(made.rows), num_shards), retry_quarantined, watch)
        observer.started(work.totals)
        if check_space and work.todo:
            frames = work.totals.frames
            refuse_what_does_not_fit(converter, made, work.todo, frames, place, observer.warning)
        manifest = made.manifest
        for fingerprint_, numbers in work.by_plan().items():
            job = Job(place, fingerprint_, SourceReader(converter), Recipe.of(manifest), remember(manifest.sources[0]))
            workers.run(job, map(made.rows.__getitem__, numbers), watch.progress, watch.shard)
    # Also when nothing was to be done: whoever was to write the manifest may have been killed before, or right after.
    if manifest.complete and not work.todo:
        done: DatasetManifest | None = manifest
        remove_leftovers(place, manifest.options.split)
    else:
        done = assemble(place, planned(manifest), made.rows)
    result = Result(
        manifest=done or manifest,
        shards=len(work.todo),
        resumed_shards=work.totals.shards_done,
        frames=watch.frames,
        quarantined=tuple(watch.quarantined),
        seconds=time.monotonic() - started,
    )
    if done is not None and done.counts is not None:
        counts = done.counts
        bad = sum(n for code, n in counts.quarantine_codes.items() if code not in chosen)
        # A data set without a single sample is a failure whatever is allowed.
        if counts.converted == 0:
            _refuse_too_many(counts.quarantined, counts.episodes, 0.0, place)
        _refuse_too_many(bad, counts.episodes, max_bad_fraction, place)
    return result


def finalize(out: str | Path) -> tuple[DatasetManifest | None, list[str]]:
    """Assemble a data set from the sidecars of its shards, whoever made them.

    Returns:
        The complete manifest; or None, and the names of the shards that are missing.

    Raises:
        SourceNotFoundError: There is no data set.
        CorruptDatasetError: Its manifest, its plan or a sidecar is damaged.
    """
    place = layout.place(out)
    manifest = read_manifest(place)
    rows = own_rows(place, manifest)
    done = assemble(place, planned(manifest), rows)
    if done is not None:
        return done, []
    listed = layout.listing(place / manifest.options.split)
    names = (layout.shard_name(manifest.options.split, number) for number in range(len(rows)))
    return None, [name for name in names if f"{name.partition('/')[2]}.json" not in listed]


class _Work:
    """Which shards of a part of a plan are there, and which are to be made."""

    def __init__(self, out: Place, made: Plan, mine: range, retry: bool, watch: _Watch) -> None:
        self.made = made
        self.todo = array("Q")
        self.plans = made.manifest.earlier_plans()
        stale = frozenset(self.plans.values())
        stride = made.manifest.options.stride
        listed = layout.listing(out / made.manifest.options.split)
        episodes = done = 0
        frames: int | None = 0
        for number in mine:
            row = made.rows[number]
            episodes += len(row.episodes)
            sidecar = published(out, row, self.plan_of(row.shard), stale, listed)
            if sidecar is not None and not (retry and sidecar.quarantined):
                watch.resumed(row, sidecar)
                done += len(row.episodes)
                continue
            if sidecar is not None or (stale and f"{row.shard}.json".partition("/")[2] in listed):
                storage.retract(out, row.shard)
            self.todo.append(number)
            ahead = [e.num_frames for e in row.episodes]
            frames = None if frames is None or None in ahead else frames + sum(-(-(n or 0) // stride) for n in ahead)
        self.totals = Totals(
            shards=len(mine),
            shards_done=len(mine) - len(self.todo),
            episodes=episodes,
            episodes_done=done,
            frames=frames,
        )

    def plan_of(self, shard: str) -> str:
        """The plan that the shard's sidecar names."""
        return self.plans.get(shard, self.made.manifest.plan)

    def by_plan(self) -> dict[str, array[int]]:
        """Numbers of the shards to make, by the plan that their sidecars name."""
        groups: dict[str, array[int]] = {}
        for number in self.todo:
            shard = layout.shard_name(self.made.manifest.options.split, number)
            groups.setdefault(self.plan_of(shard), array("Q")).append(number)
        return groups


def _check(
    num_workers: int,
    shard_index: int,
    num_shards: int,
    max_bad_fraction: float,
    overwrite: bool,
    extend: bool,
    retry: bool,
) -> None:
    for field, value, good, expected in (
        ("num_workers", num_workers, num_workers >= 1, "at least 1"),
        ("num_shards", num_shards, num_shards >= 1, "at least 1"),
        ("shard_index", shard_index, 0 <= shard_index < num_shards, f"0 … {num_shards - 1}"),
        ("max_bad_fraction", max_bad_fraction, 0 <= max_bad_fraction <= 1, "0 … 1"),
        ("overwrite", overwrite, not (overwrite and (extend or retry)), "not together with extend, retry_quarantined"),
    ):
        if not good:
            raise InvalidSpecError("is out of range", where="convert", field=field, expected=expected, found=value)


class _Watch:
    """Counts what happens, and stops a run that is going wrong or fills the disk."""

    def __init__(
        self, observer: Observer, max_bad_fraction: float, out: Place | None, workers: int, left_out: frozenset[str]
    ) -> None:
        self.observer, self.max_bad_fraction, self.left_out = observer, max_bad_fraction, left_out
        self.out, self.workers = out, workers
        self.frames = self.ended = self.bad = self.largest = 0
        self.looked = time.monotonic()
        self.quarantined: list[QuarantineRow] = []

    def resumed(self, row: PlanRow, sidecar: ShardSidecar) -> None:
        self.ended += len(row.episodes)
        self.bad += sum(row.code not in self.left_out for row in sidecar.quarantined)

    def progress(self, event: Progress) -> None:
        self.observer.progress(event)
        self.ended += event.ended
        self.bad += event.code is not None and event.code not in self.left_out
        if event.ended:
            log.debug("%s: %s", event.episode, "converted" if event.code is None else f"quarantined, {event.code}")
        if event.ended and self.ended >= _EARLY:
            _refuse_too_many(self.bad, self.ended, self.max_bad_fraction, event.episode)

    def shard(self, sidecar: ShardSidecar) -> None:
        self.frames += sidecar.frames
        self.quarantined += sidecar.quarantined
        self.largest = max(self.largest, sidecar.bytes)
        for row in sidecar.quarantined:
            log.info("quarantined %s: [%s] %s", row.id, row.code, row.message)
        log.info("published %s: %d frames, %s", sidecar.shard, sidecar.frames, human_bytes(sidecar.bytes))
        self.observer.published(sidecar)
        if self.out is not None and time.monotonic() - self.looked > _SPACE_SECONDS:
            self.looked = time.monotonic()
            _leave_room(self.out, self.largest * self.workers)


def _leave_room(out: Place, needed: int) -> None:
    free = storage.free_bytes(out)
    if free is not None and free < needed:
        raise OutputError(
            "the file system is nearly full: the shards that are being made would not fit",
            where=out,
            expected=f"{human_bytes(needed)} free",
            found=human_bytes(free),
            hint="What is published stays: free some space and run the same command again.",
        )


def _refuse_too_many(bad: int, total: int, allowed: float, where: object) -> None:
    if bad > allowed * total:
        raise TooManyBadEpisodesError(
            "too many episodes cannot be converted",
            where=where,
            expected=f"at most {allowed:.0%}",
            found=f"{bad} of {total}",
            hint=f"The reasons are in {layout.QUARANTINE}, or in the shards' .json while shards are missing. "
            "After a fix give the same command with --retry-quarantined.",
        )
