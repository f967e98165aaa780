"""Convert a source into a data set: plan it, make its shards, assemble its manifest."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..converters.base import Converter
from ..errors import (
    ActionImgError,
    CorruptDatasetError,
    InvalidSpecError,
    OutputError,
    OutputExistsError,
    SourceNotFoundError,
    TooManyBadEpisodesError,
)
from ..model import Episode, EpisodeRef
from ..schemas import ConverterRecord, ConvertOptions, DatasetManifest, QuarantineRow, ShardSidecar
from ..schemas.dataset import to_bytes
from ..shards import layout
from ..shards.manifest import finalize, published, read_manifest
from ..shards.plan import Plan, choose_views, differences, make_plan
from ..shards.write import Progress, measure
from . import local

DEFAULT_MAX_BAD_FRACTION: Final = 0.5
ESTIMATE_FRAMES: Final = 64
_EARLY: Final = 20


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
    """What a plan will cost, from the first frames of one episode."""

    frames: int | None
    bytes: int | None
    seconds_one_worker: float | None
    free_bytes: int
    measured_frames: int


class Observer:
    """Hears of a run's progress; override what is of interest."""

    def started(self, totals: Totals) -> None:
        """The plan is there and the work begins."""

    def progress(self, event: Progress) -> None:
        """Frames were encoded, or an episode begun or ended."""

    def published(self, sidecar: ShardSidecar) -> None:
        """A shard was published."""


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
    refs = list(converter.discover(source))

    def probes() -> Iterator[tuple[EpisodeRef, Episode | ActionImgError]]:
        for ref in refs:
            try:
                yield ref, converter.read(ref)
            except ActionImgError as error:
                yield ref, error

    views = choose_views(probes(), options.views, source, converter.poses_only)
    record = ConverterRecord(name=converter.name, options=converter.options.model_dump(mode="json"))
    return make_plan(record, source, refs, views, options)


def convert(
    converter: Converter,
    source: str,
    out: str | Path,
    options: ConvertOptions | None = None,
    *,
    num_workers: int = 1,
    shard_index: int = 0,
    num_shards: int = 1,
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> Result:
    """Convert a source into a data set, or go on where an earlier run of the same plan stopped.

    Args:
        converter: Reads the source.
        source: What its ``discover`` takes.
        out: Folder of the data set.
        options: What decides the bytes.
        num_workers: Cores to use; 1 works in this process alone, more in that many others.
        shard_index: Which part of the shards to make: those whose number is this modulo ``num_shards``.
        num_shards: Into how many parts the work is split, e.g. the size of a SLURM array. The run that publishes the
            last shard writes the manifest.
        max_bad_fraction: Stop when more of the episodes than this cannot be converted.
        overwrite: Remove a data set of another plan, or of this one, first.
        observer: Hears of the progress.

    Raises:
        OutputExistsError: ``out`` holds something else.
        OutputError: ``out`` cannot be written.
        TooManyBadEpisodesError: As said; what was published stays.
        ActionImgError: The source cannot be planned (see `plan`).
    """
    started = time.monotonic()
    out = Path(out)
    observer = observer or Observer()
    _check(num_workers, shard_index, num_shards, max_bad_fraction)
    with local.Workers(num_workers) as workers:
        made = plan(converter, source, options or ConvertOptions.parse())
        manifest = open_output(out, made, overwrite)
        mine = [row for i, row in enumerate(made.rows) if i % num_shards == shard_index]
        todo = [row for row in mine if published(out, row, made.manifest.plan) is None]
        ahead = [episode.num_frames for row in todo for episode in row.episodes]
        stride = made.manifest.options.stride
        episodes = sum(len(row.episodes) for row in mine)
        observer.started(
            Totals(
                shards=len(mine),
                shards_done=len(mine) - len(todo),
                episodes=episodes,
                episodes_done=episodes - len(ahead),
                frames=None if None in ahead else sum(-(-(n or 0) // stride) for n in ahead),
            )
        )
        watch = _Watch(observer, max_bad_fraction)
        job = local.Job(
            out,
            made.manifest.plan,
            type(converter),
            converter.options,
            made.manifest.views,
            made.manifest.options,
        )
        workers.run(job, todo, watch.progress, watch.shard)
    # Also when nothing was to be done: whoever was to write the manifest may have been killed before.
    done = manifest if manifest.complete and not todo else finalize(out, made.manifest, made.rows)
    result = Result(
        manifest=done or manifest,
        shards=len(todo),
        resumed_shards=len(mine) - len(todo),
        frames=watch.frames,
        quarantined=tuple(watch.quarantined),
        seconds=time.monotonic() - started,
    )
    if done is not None and done.counts is not None:
        bad, total = done.counts.quarantined, done.counts.episodes
        # A data set without a single sample is a failure whatever is allowed.
        _judge(bad, total, max_bad_fraction if bad < total else 0.0, out)
    return result


def _check(num_workers: int, shard_index: int, num_shards: int, max_bad_fraction: float) -> None:
    for field, value, good, expected in (
        ("num_workers", num_workers, num_workers >= 1, "at least 1"),
        ("num_shards", num_shards, num_shards >= 1, "at least 1"),
        ("shard_index", shard_index, 0 <= shard_index < num_shards, f"0 … {num_shards - 1}"),
        ("max_bad_fraction", max_bad_fraction, 0 <= max_bad_fraction <= 1, "0 … 1"),
    ):
        if not good:
            raise InvalidSpecError("is out of range", where="convert", field=field, expected=expected, found=value)


class _Watch:
    """Counts what happens, and stops a run that is going wrong."""

    def __init__(self, observer: Observer, max_bad_fraction: float) -> None:
        self.observer, self.max_bad_fraction = observer, max_bad_fraction
        self.frames = self.ended = self.bad = 0
        self.quarantined: list[QuarantineRow] = []

    def progress(self, event: Progress) -> None:
        self.observer.progress(event)
        self.ended += event.ended
        self.bad += event.code is not None
        if event.ended and self.ended >= _EARLY:
            _judge(self.bad, self.ended, self.max_bad_fraction, event.episode)

    def shard(self, sidecar: ShardSidecar) -> None:
        self.frames += sidecar.frames
        self.quarantined += sidecar.quarantined
        self.observer.published(sidecar)


def _judge(bad: int, total: int, allowed: float, where: object) -> None:
    if bad > allowed * total:
        raise TooManyBadEpisodesError(
            "too many episodes cannot be converted",
            where=where,
            expected=f"at most {allowed:.0%}",
            found=f"{bad} of {total}",
            hint=f"The reasons are in {layout.QUARANTINE}, or in the shards' .json while shards are missing.",
        )


def open_output(out: Path, made: Plan, overwrite: bool) -> DatasetManifest:
    """Begin a data set, or find the one of the same plan.

    Raises:
        OutputExistsError: ``out`` holds something else; says what differs.
    """
    with layout.output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        removed = overwrite and _remove(out)
        others = sorted(p.name for p in out.iterdir() if not p.name.endswith(layout.TEMPORARY))
    if layout.MANIFEST not in others and others and not removed:
        raise OutputExistsError(
            "is not empty, and not a data set", where=out, found=", ".join(others[:3]), hint="Choose another folder."
        )
    path = out / layout.MANIFEST
    fresh = layout.publish_if_absent(path, to_bytes(made.manifest))
    existing = made.manifest if fresh else _existing(out)
    if existing.plan != made.manifest.plan:
        lines = differences(existing, made.manifest)
        raise OutputExistsError(
            "holds a data set of another plan",
            where=out,
            found="; ".join(lines[:4]) + (f"; and {len(lines) - 4} more" if len(lines) > 4 else ""),
            hint="Choose another folder, repeat the old options to go on, or --overwrite to start again.",
        )
    plan_path = out / layout.PLAN
    if not layout.publish_if_absent(plan_path, made.to_bytes()) and plan_path.read_bytes() != made.to_bytes():
        raise OutputExistsError("was changed after it was written", where=plan_path)
    return existing


def _existing(out: Path) -> DatasetManifest:
    try:
        return read_manifest(out)
    except CorruptDatasetError as error:
        raise OutputExistsError(
            f"holds a damaged data set: {error}", where=out, hint="Choose another folder, or delete this one."
        ) from None


def _remove(out: Path) -> bool:
    """Remove a data set, and nothing else; its manifest last, so that a removal that is cut short can be repeated."""
    try:
        manifest = _existing(out)
    except SourceNotFoundError:
        return False
    folder = out / manifest.options.split
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if re.fullmatch(r"\d{6}\.(tar|json)(\..*\.tmp)?", path.name):
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
    for name in (layout.INDEX, layout.QUARANTINE, layout.PLAN, layout.MANIFEST):
        (out / name).unlink(missing_ok=True)
    return True


def estimate(converter: Converter, made: Plan, out: str | Path) -> Estimate:
    """What a plan will cost, from converting the first frames of the first episode that can be."""
    options = made.manifest.options
    episodes = [episode for row in made.rows for episode in row.episodes]
    known = [episode.num_frames for episode in episodes]
    frames = None if None in known else sum(-(-(n or 0) // options.stride) for n in known)
    measured = size = 0
    seconds: float | None = None
    for episode in episodes[:_EARLY]:
        begun = time.process_time()
        try:
            measured, size = measure(episode, converter, made.manifest.views, options, ESTIMATE_FRAMES)
        except ActionImgError:
            # It will be in the quarantine, with its reason; the next one may do for an estimate.
            continue
        seconds = time.process_time() - begun
        break
    scale = None if frames is None or not measured else frames / measured
    return Estimate(
        frames=frames,
        bytes=None if scale is None else round(size * scale),
        seconds_one_worker=None if scale is None or seconds is None else seconds * scale,
        free_bytes=_free(Path(out)),
        measured_frames=measured,
    )


def _free(out: Path) -> int:
    while not out.exists():
        out = out.parent
    try:
        return shutil.disk_usage(out).free
    except OSError as error:
        raise OutputError(error.strerror or str(error), where=out) from None
