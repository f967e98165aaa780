"""Convert a source into a data set: plan it, make its shards, assemble its manifest."""

from __future__ import annotations

import itertools
import os
import re
import statistics
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..converters import base
from ..converters.base import Converter
from ..errors import (
    ActionImgError,
    CorruptDatasetError,
    InvalidSpecError,
    OutputError,
    OutputExistsError,
    SourceNotFoundError,
    StorageError,
    TooManyBadEpisodesError,
    human_bytes,
)
from ..model import Episode, EpisodeRef
from ..schemas import (
    ConverterRecord,
    ConvertOptions,
    DatasetManifest,
    PlanEpisode,
    PlanRow,
    QuarantineRow,
    ShardSidecar,
)
from ..schemas.dataset import to_bytes
from ..shards import layout, storage
from ..shards.layout import Place
from ..shards.manifest import finalize as assemble
from ..shards.manifest import published, read_manifest, read_plan, read_sidecar, remove_leftovers
from ..shards.plan import (
    PROBES,
    Changes,
    Plan,
    changes,
    choose_streams,
    differences,
    fingerprint,
    make_plan,
    revise,
)
from ..shards.rows import PlanRows
from ..shards.write import Progress, measure
from . import local
from .executor import Executor, Job

DEFAULT_MAX_BAD_FRACTION: Final = 0.5
ESTIMATE_EPISODES: Final = 8
ESTIMATE_FRAMES: Final = 64
ESTIMATE_SECONDS: Final = 30.0
"""After this no further episode is measured, if two are."""

NEXT_PLAN: Final = "plan.next.jsonl"
"""A plan that is about to replace ``plan.jsonl``; there only while a data set is being extended or mended."""

_EARLY: Final = 20
_BYTES_PER_PIXEL: Final = 1.0
"""More than any codec here needs for a pixel of any view, so that a run that surely fits is not measured first."""

_SPACE_SECONDS: Final = 5.0
_STUDENT_95: Final = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36)
"""Two-sided 95 % quantiles of Student's t for 1 … 7 degrees of freedom."""


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


@dataclass(frozen=True)
class Estimate:
    """What a plan will cost, from the first frames of several of its episodes.

    ``bytes_error`` and ``seconds_error`` are half the width of a 95 % interval over the value: by how much the measured
    episodes differ among themselves, for as many as were measured. They are None where fewer than two were, and know
    nothing of what a run may meet later (other load, another file system).
    """

    episodes: int
    frames: int | None
    """Frames that will be written, where the source knows them before it is read; else as estimated."""
    frames_estimated: bool
    bytes: int | None
    bytes_error: float | None
    seconds_one_worker: float | None
    seconds_error: float | None
    free_bytes: int | None
    """None where the output has no end: in an object store."""
    measured_episodes: int
    measured_frames: int
    failed_episodes: int
    """Of the measured ones, those that will be quarantined."""


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
        options = options.without_cameras()
    refs = iter(converter.discover(source))
    head: list[EpisodeRef] = []

    def probes() -> Iterator[tuple[EpisodeRef, Episode | ActionImgError]]:
        for ref in itertools.islice(refs, PROBES):
            head.append(ref)
            try:
                yield ref, converter.read(ref)
            except StorageError:
                raise
            except ActionImgError as error:
                yield ref, error

    views, grippers = choose_streams(probes(), options.views, source, converter.poses_only, options.planes)
    record = ConverterRecord(name=converter.name, options=converter.options.model_dump(mode="json"))
    every = itertools.chain(head, refs)
    return make_plan(record, source, every, views, options, _plugin_version(converter), grippers)


def _plugin_version(converter: Converter) -> dict[str, str]:
    """The version of a converter that is not ours: it decides the bytes as well."""
    if type(converter).__module__.partition(".")[0] == __name__.partition(".")[0]:
        return {}
    entry = base._entry_points().get(converter.name)
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
    watch = _Watch(observer, max_bad_fraction, place if check_space else None, num_workers)
    with executor or local.Workers(num_workers) as workers:
        made = plan(converter, source, options)
        made = open_output(place, made, options, overwrite=overwrite, extend=extend, retry=retry_quarantined)
        work = _Work(place, made, range(shard_index, len(made.rows), num_shards), retry_quarantined, watch)
        observer.started(work.totals)
        if check_space and work.todo:
            _refuse_what_does_not_fit(converter, made, work, place, observer)
        manifest = made.manifest
        for fingerprint_, numbers in work.by_plan().items():
            job = Job(
                place,
                fingerprint_,
                type(converter),
                converter.options,
                manifest.views,
                manifest.options,
                manifest.grippers,
            )
            workers.run(job, map(made.rows.__getitem__, numbers), watch.progress, watch.shard)
    # Also when nothing was to be done: whoever was to write the manifest may have been killed before, or right after.
    if manifest.complete and not work.todo:
        done: DatasetManifest | None = manifest
        remove_leftovers(place, manifest.options.split)
    else:
        done = assemble(place, _planned(manifest), made.rows)
    result = Result(
        manifest=done or manifest,
        shards=len(work.todo),
        resumed_shards=work.totals.shards_done,
        frames=watch.frames,
        quarantined=tuple(watch.quarantined),
        seconds=time.monotonic() - started,
    )
    if done is not None and done.counts is not None:
        bad, total = done.counts.quarantined, done.counts.episodes
        # A data set without a single sample is a failure whatever is allowed.
        _judge(bad, total, max_bad_fraction if bad < total else 0.0, place)
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
    rows = _own_rows(place, manifest)
    done = assemble(place, _planned(manifest), rows)
    if done is not None:
        return done, []
    listed = layout.listing(place / manifest.options.split)
    names = (layout.shard_name(manifest.options.split, number) for number in range(len(rows)))
    return None, [name for name in names if f"{name.partition('/')[2]}.json" not in listed]


def _planned(manifest: DatasetManifest) -> DatasetManifest:
    """The manifest as it is before the first shard."""
    return manifest.model_copy(update={"complete": False, "counts": None, "shards": (), "files": {}}).sealed()


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

    def __init__(self, observer: Observer, max_bad_fraction: float, out: Place | None, workers: int) -> None:
        self.observer, self.max_bad_fraction = observer, max_bad_fraction
        self.out, self.workers = out, workers
        self.frames = self.ended = self.bad = self.largest = 0
        self.looked = time.monotonic()
        self.quarantined: list[QuarantineRow] = []

    def resumed(self, row: PlanRow, sidecar: ShardSidecar) -> None:
        self.ended += len(row.episodes)
        self.bad += len(sidecar.quarantined)

    def progress(self, event: Progress) -> None:
        self.observer.progress(event)
        self.ended += event.ended
        self.bad += event.code is not None
        if event.ended and self.ended >= _EARLY:
            _judge(self.bad, self.ended, self.max_bad_fraction, event.episode)

    def shard(self, sidecar: ShardSidecar) -> None:
        self.frames += sidecar.frames
        self.quarantined += sidecar.quarantined
        self.largest = max(self.largest, sidecar.bytes)
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


def _refuse_what_does_not_fit(converter: Converter, made: Plan, work: _Work, out: Place, observer: Observer) -> None:
    free = storage.free_bytes(out)
    options = made.manifest.options
    if free is None:
        return
    frames = work.totals.frames
    if frames is not None:
        streams = len(made.manifest.views) * (1 + (options.action_codec != "none"))
        if frames * streams * options.height * options.width * _BYTES_PER_PIXEL < free:
            return
    guess = estimate(converter, made, out, work.todo)
    if guess.bytes is None or guess.bytes <= free:
        return
    error = guess.bytes_error or 0.0
    size = f"about {human_bytes(guess.bytes)}" + (f" (± {error:.0%})" if error else "")
    if guess.bytes * (1 - error) <= free:
        observer.warning(
            f"about {guess.bytes} B will be written (± {error:.0%}), and {free} B are free: it may not fit"
        )
        return
    raise OutputError(
        "there is not enough free space",
        where=out,
        expected=size,
        found=human_bytes(free),
        hint="Free some space, or convert a part with --num-shards; --no-check-space begins all the same.",
    )


def _judge(bad: int, total: int, allowed: float, where: object) -> None:
    if bad > allowed * total:
        raise TooManyBadEpisodesError(
            "too many episodes cannot be converted",
            where=where,
            expected=f"at most {allowed:.0%}",
            found=f"{bad} of {total}",
            hint=f"The reasons are in {layout.QUARANTINE}, or in the shards' .json while shards are missing.",
        )


def open_output(
    out: Place, made: Plan, asked: ConvertOptions, *, overwrite: bool, extend: bool = False, retry: bool = False
) -> Plan:
    """Begin a data set, or find the one that this plan goes on from.

    Args:
        out: Where it is.
        made: The source as it is now, planned afresh.
        asked: The options as they were asked for.
        overwrite: Remove what is there.
        extend: Take up episodes that are new.
        retry: Take up episodes that were mended; their shards are made again by whoever has them in its part.

    Returns:
        The plan to follow: its manifest may be complete already.

    Raises:
        OutputExistsError: ``out`` holds something else, or the source has changed; says what differs.
        UnsupportedVersionError: It holds a data set of another version of the format.
    """
    storage.check_protocol(out)
    with layout.output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        removed = overwrite and _remove(out)
        others = sorted(p.name for p in out.iterdir() if not p.name.endswith(layout.TEMPORARY))
    if layout.MANIFEST not in others and others and not removed and not _is_ours(out, made):
        raise OutputExistsError(
            "is not empty, and not a data set", where=out, found=", ".join(others[:3]), hint="Choose another folder."
        )
    storage.check_destination(out)
    fresh = layout.publish_if_absent(out / layout.MANIFEST, to_bytes(made.manifest))
    existing = made.manifest if fresh else _existing(out, made)
    if existing.plan == made.manifest.plan:
        if not layout.publish_if_absent(out / layout.PLAN, made.to_bytes()):
            _check_plan(out, made)
        opened = Plan(existing, made.rows)
        return _reopened(out, opened) if retry and existing.complete and _quarantined(out, opened) else opened
    return _go_on(out, Plan(existing, _own_rows(out, existing)), made, asked, extend, retry)


def _check_plan(out: Place, made: Plan) -> None:
    if read_plan(out).sha256 != made.rows.sha256:
        raise OutputExistsError(
            "was changed after it was written", where=out / layout.PLAN, hint="actionimg repair writes it again."
        )


def _is_ours(out: Place, made: Plan) -> bool:
    """Whether a folder without a usable manifest holds this very plan, so that the manifest can be written again."""
    try:
        if read_plan(out).sha256 != made.rows.sha256:
            return False
        found = (read_sidecar(out, row.shard) for row in made.rows)
        first = next((sidecar for sidecar in found if sidecar is not None), None)
    except StorageError:
        raise
    except ActionImgError:
        return False
    return first is None or first.plan == made.manifest.plan


def _existing(out: Place, made: Plan | None = None) -> DatasetManifest:
    try:
        return read_manifest(out)
    except CorruptDatasetError as error:
        if made is not None and _is_ours(out, made):
            layout.publish(out / layout.MANIFEST, to_bytes(made.manifest))
            return made.manifest
        raise OutputExistsError(
            f"holds a damaged data set: {error}",
            where=out,
            hint="The command that made it, with the same source, writes it again; or choose another folder.",
        ) from None


def _own_rows(out: Place, existing: DatasetManifest) -> PlanRows:
    """The rows of a data set's own plan; a change of it that was cut short is brought to its end."""
    rows = read_plan(out)
    if fingerprint(existing, rows) == existing.plan:
        return rows
    path = out / NEXT_PLAN
    if path.exists():
        with path.open("rb") as file:
            ahead = PlanRows(file, path)
        if fingerprint(existing, ahead) == existing.plan:
            layout.publish(out / layout.PLAN, b"".join(ahead.lines()))
            path.unlink(missing_ok=True)
            return ahead
    raise OutputExistsError(
        "was changed after it was written", where=out / layout.PLAN, hint="actionimg repair writes it again."
    )


def _go_on(out: Place, old: Plan, made: Plan, asked: ConvertOptions, extend: bool, retry: bool) -> Plan:
    """Extend or mend a data set of another plan, or go on with one that was; refuse all else."""
    existing = old.manifest
    grown = extend or bool(existing.earlier)
    # How many episodes a shard gets by default depends on how many there were at first.
    leave = ("options.episodes_per_shard",) if grown and asked.episodes_per_shard is None else ()
    lines = differences(existing, made.manifest, leave)
    if existing.sources != made.manifest.sources or existing.converter != made.manifest.converter:
        raise _another_plan(out, lines)
    delta = changes(old.rows, made.rows)
    bad = _quarantined(out, old) if retry else frozenset()
    blocked = Changes(delta.gone, tuple(i for i in delta.changed if i not in bad), () if extend else delta.added)
    versions = [line for line in lines if line.startswith("tool.")]
    ahead = (extend and bool(delta.added)) or bool(bad)
    if blocked != Changes() or len(lines) > len(versions) or (versions and not (ahead and existing.complete)):
        raise _another_plan(out, [*lines, *blocked.lines()], blocked)
    mended = bool(versions) or any(i in bad for i in delta.changed)
    if not (extend and delta.added) and not (bad and mended):
        return _reopened(out, old) if bad and existing.complete else old
    revised = revise(old, made, extend, bad)
    content = revised.to_bytes()
    # In this order, so that being killed in between leaves what `_own_rows` can bring to its end.
    layout.publish(out / NEXT_PLAN, content)
    layout.publish(out / layout.MANIFEST, to_bytes(revised.manifest))
    layout.publish(out / layout.PLAN, content)
    (out / NEXT_PLAN).unlink(missing_ok=True)
    return revised


def _another_plan(out: Place, lines: Sequence[str], blocked: Changes | None = None) -> OutputExistsError:
    if blocked is not None and blocked.added and not blocked.gone and not blocked.changed and len(lines) == 1:
        hint = "--extend puts the new episodes into new shards."
    else:
        hint = "Choose another folder, repeat the old options to go on, or --overwrite to start again."
    text = "; ".join(lines[:6]) + (f"; and {len(lines) - 6} more" if len(lines) > 6 else "")
    return OutputExistsError(f"holds a data set of another plan: {text}", where=out, hint=hint)


def _quarantined(out: Place, made: Plan) -> frozenset[str]:
    """Ids of the episodes that are in quarantine, as far as shards are published."""
    listed = {r.path for r in made.manifest.shards if r.quarantined} if made.manifest.complete else None
    ids: set[str] = set()
    for number in range(len(made.rows)):
        shard = layout.shard_name(made.manifest.options.split, number)
        if listed is not None and f"{shard}.tar" not in listed:
            continue
        sidecar = read_sidecar(out, shard)
        ids.update(q.id for q in (sidecar.quarantined if sidecar is not None else ()))
    return frozenset(ids)


def _reopened(out: Place, made: Plan) -> Plan:
    """The data set, no longer complete: shards of it are about to be made again."""
    blank = _planned(made.manifest)
    layout.publish(out / layout.MANIFEST, to_bytes(blank))
    return Plan(blank, made.rows)


def _remove(out: Place) -> bool:
    """Remove a data set, and nothing else; its manifest last, so that a removal that is cut short can be repeated."""
    try:
        manifest = _existing(out)
    except SourceNotFoundError:
        return False
    folder = out / manifest.options.split
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if re.fullmatch(r"\d{6,}\.(tar|json)(\..*\.tmp)?", path.name):
                path.unlink()
        if isinstance(folder, Path) and not any(folder.iterdir()):
            folder.rmdir()
    for name in (layout.INDEX, layout.QUARANTINE, NEXT_PLAN, layout.PLAN, layout.MANIFEST):
        (out / name).unlink(missing_ok=True)
    return True


def estimate(
    converter: Converter, made: Plan, out: str | Path | Place, numbers: Sequence[int] | None = None
) -> Estimate:
    """What a plan will cost, from converting the first frames of several episodes that are spread over it.

    Args:
        converter: Reads the source.
        made: The plan.
        out: Where the data set will be.
        numbers: Numbers of the shards to count; by default all.
    """
    options = made.manifest.options
    numbers = range(len(made.rows)) if numbers is None else numbers
    episodes = 0
    frames: int | None = 0
    for number in numbers:
        for episode in made.rows[number].episodes:
            episodes += 1
            frames = None if frames is None or episode.num_frames is None else frames + _strided(episode, options)
    sampled = _sample(made.rows, numbers, episodes)
    sizes: list[float] = []
    times: list[float] = []
    lengths: list[int] = []
    measured = failed = 0
    begun = time.monotonic()
    for episode in sampled:
        if len(sizes) >= 2 and time.monotonic() - begun > ESTIMATE_SECONDS:
            break
        started = time.perf_counter()
        try:
            found = measure(episode, converter, made.manifest.views, options, ESTIMATE_FRAMES, made.manifest.grippers)
        except StorageError:
            raise
        except ActionImgError:
            # It will be in the quarantine, with its reason: nothing is written of it, and its frames are not known.
            failed += 1
            sizes.append(0.0)
            times.append(time.perf_counter() - started)
            lengths.append(0 if episode.num_frames is None else _strided(episode, options))
            continue
        scale = found.total / found.frames
        measured += found.frames
        sizes.append(found.bytes * scale)
        times.append((time.perf_counter() - started) * scale)
        lengths.append(found.total)
    good = failed < len(sizes)
    size, size_error = _total(sizes, lengths, episodes, frames) if good else (None, None)
    seconds, seconds_error = _total(times, lengths, episodes, frames) if good else (None, None)
    length, _ = _total([float(n) for n in lengths], lengths, episodes, None) if good else (None, None)
    return Estimate(
        episodes=episodes,
        frames=frames if frames is not None else None if length is None else round(length),
        frames_estimated=frames is None,
        bytes=None if size is None else round(size),
        bytes_error=size_error,
        seconds_one_worker=seconds,
        seconds_error=seconds_error,
        free_bytes=storage.free_bytes(layout.place(out)),
        measured_episodes=len(sizes),
        measured_frames=measured,
        failed_episodes=failed,
    )


def _strided(episode: PlanEpisode, options: ConvertOptions) -> int:
    return -(-(episode.num_frames or 0) // options.stride)


def _sample(rows: PlanRows, numbers: Sequence[int], episodes: int) -> list[PlanEpisode]:
    """Episodes spread evenly over shards, and over the places within them."""
    count = min(ESTIMATE_EPISODES, len(numbers))
    if episodes <= ESTIMATE_EPISODES:
        return [episode for number in numbers for episode in rows[number].episodes]
    chosen = []
    for i in range(ESTIMATE_EPISODES):
        part = rows[numbers[(2 * (i % count) + 1) * len(numbers) // (2 * count)]].episodes
        chosen.append(part[(2 * i + 1) * len(part) // (2 * ESTIMATE_EPISODES)])
    return list({episode.id: episode for episode in chosen}.values())


def _total(
    values: Sequence[float], lengths: Sequence[int], episodes: int, frames: int | None
) -> tuple[float, float | None]:
    """A sum over all episodes from some of them, and half the width of its 95 % interval over it.

    Where the number of all frames is known it is a ratio estimate (per frame), else a mean (per episode); the interval
    is Student's, with the correction for a finite population (Cochran, Sampling Techniques, 2.6 and 6.4).
    """
    count = len(values)
    if frames is not None and sum(lengths):
        ratio = sum(values) / sum(lengths)
        total = ratio * frames
        rest = [v - ratio * n for v, n in zip(values, lengths, strict=True)]
    else:
        mean = statistics.fmean(values)
        total = mean * episodes
        rest = [v - mean for v in values]
    if count < 2 or total <= 0:
        return total, None
    spread = (sum(r * r for r in rest) / (count - 1)) ** 0.5
    finite = max(0.0, 1 - count / episodes) ** 0.5
    quantile = _STUDENT_95[min(count - 1, len(_STUDENT_95)) - 1]
    return total, quantile * spread / count**0.5 * finite * episodes / total
