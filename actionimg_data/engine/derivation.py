"""Derive members of a whole data set: what a user's function makes of its windows, in shards beside its own.

As a conversion: shards that are there stay, the rest are made by an `Executor`, and whoever publishes the last one
assembles index and manifest. The function is loaded in the process that calls it, once.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ..errors import (
    ActionImgError,
    CorruptDatasetError,
    InvalidSpecError,
    OutputExistsError,
    SourceNotFoundError,
    TooManyBadEpisodesError,
    WrongFormatError,
    suggestion,
)
from ..schemas import DatasetManifest
from ..schemas.dataset import parse, to_bytes
from ..schemas.derived import DerivedFailure, DerivedManifest, DerivedShard, DerivedSidecar, DerivedSpec
from ..shards import Dataset, derived, layout, open_dataset, storage
from ..shards.crew import Crew
from ..shards.derived import DerivedRow, Function
from ..shards.layout import Place
from ..shards.plan import tool_versions
from ..shards.windows import Cut
from ..shards.write import Progress, Skip
from .choice import make_executor
from .executor import Executor, OnProgress

DEFAULT_MAX_BAD_FRACTION: Final = 0.5
_EARLY: Final = 20


def find_function(name: str) -> Any:
    """What ``MODULE:FUNCTION`` names; modules of the current folder are found too.

    Raises:
        InvalidSpecError: It is not of that form, cannot be imported, or cannot be called.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise InvalidSpecError("names no function", field="with", expected="MODULE:FUNCTION", found=name)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise InvalidSpecError(
            f"cannot be imported: {error}",
            field="with",
            found=name,
            hint="Modules are looked for in the current folder, and where Python looks for them.",
        ) from None
    except AttributeError:
        have = [n for n, value in vars(sys.modules[module_name]).items() if callable(value) and not n.startswith("_")]
        raise InvalidSpecError(
            "has no such function", field="with", found=name, hint=suggestion(attribute, have)
        ) from None
    if not callable(found):
        raise InvalidSpecError("cannot be called", field="with", found=name)
    return found


def version_of(function: Any) -> str:
    """What a function says of itself (``version``), else a hash of the source of its module."""
    stated = getattr(function, "version", None)
    if isinstance(stated, (str, int)) and str(stated):
        return str(stated)
    try:
        source = inspect.getsource(sys.modules[function.__module__])
    except (OSError, TypeError, KeyError, AttributeError):
        raise InvalidSpecError(
            "says no version, and has no source to take one from",
            field="with",
            found=function,
            hint='Give it one: encode.version = "1", or version = "1" in the class.',
        ) from None
    return f"source {hashlib.sha256(source.encode()).hexdigest()[:16]}"


@functools.lru_cache(maxsize=1)
def _ready(function: str, version: str, options: str, device: str) -> Function:
    """The function as it is called; a class is made into an object first, once in a process."""
    found = find_function(function)
    if version_of(found) != version:
        raise CorruptDatasetError(
            "is another version here than where the work was planned",
            where=function,
            field="version",
            expected=version,
            found=version_of(found),
        )
    given = json.loads(options)
    if inspect.isclass(found):
        accepts = inspect.signature(found).parameters
        takes_device = "device" in accepts or any(p.kind is p.VAR_KEYWORD for p in accepts.values())
        made: Any = found(**given, **({"device": device} if takes_device else {}))
        if not callable(made):
            raise InvalidSpecError("makes objects that cannot be called", field="with", found=function)
        of_class: Function = made
        return of_class
    accepts = inspect.signature(found).parameters
    more = {"device": device} if "device" in accepts else {}
    plain: Function = functools.partial(found, **given, **more) if given or more else found
    return plain


@functools.lru_cache(maxsize=1)
def _opened(out: Place, checksum: str) -> Dataset:
    """The data set, opened once in a process."""
    return open_dataset(out)


@dataclass(frozen=True)
class DeriveJob:
    """All that a process needs to derive any shard; picklable."""

    out: Place
    spec: DerivedSpec
    checksum: str
    """Of the data set's manifest."""
    device: str = "cpu"
    source: str = ""

    def placed(self, out: Place) -> DeriveJob:
        """The same job for an ``out`` that is named in another way."""
        return replace(self, out=out)

    def run_shard(
        self, row: DerivedRow, report: OnProgress, skip: Skip | None = None, crew: Crew | None = None
    ) -> DerivedSidecar:
        """Derive and publish one shard; see `Job.run_shard`."""
        options = json.dumps(self.spec.options, sort_keys=True)
        function = _ready(self.spec.function, self.spec.function_version, options, self.device)
        dataset = _opened(self.out, self.checksum)
        return derived.write_derived(self.out, row, self.spec, dataset, function, report=report, skip=skip, crew=crew)


@dataclass
class Derived:
    """What a run did.

    Args:
        manifest: Complete, or of a derivation of which shards are still missing.
        made: Shards made.
        resumed: Shards that were there.
        quarantined: Windows of the shards made that gave nothing.
    """

    manifest: DerivedManifest
    made: int = 0
    resumed: int = 0
    quarantined: list[DerivedFailure] = field(default_factory=list)


def specification(
    manifest: DatasetManifest,
    member: str,
    function: str,
    options: Mapping[str, Any] | None = None,
    *,
    over: str = "window",
    num_frames: int | None = None,
    fps: float | None = None,
    hop: int | None = None,
    short: str = "skip",
    size: tuple[int, int] | None = None,
    views: Sequence[str] | None = None,
    together: bool = False,
) -> DerivedSpec:
    """What a derived member of a data set is to be.

    Raises:
        InvalidSpecError: An option is out of its range, or two do not go together.
        WrongFormatError: There is no such view.
    """
    chosen = tuple(views or manifest.views)
    for view in chosen:
        if view not in manifest.views or chosen.count(view) > 1:
            raise WrongFormatError(
                "has no such view" if view not in manifest.views else "is named twice",
                where="derive",
                expected=" ".join(manifest.views),
                found=view,
                hint=suggestion(view, list(manifest.views)),
            )
    height, width = size or (manifest.options.height, manifest.options.width)
    values = {
        "member": member,
        "function": function,
        "function_version": version_of(find_function(function)),
        "options": dict(options or {}),
        "over": over,
        "num_frames": num_frames,
        "fps": fps,
        "hop": hop,
        "short": short,
        "height": height,
        "width": width,
        "views": chosen,
        "together": together,
    }
    return parse(DerivedSpec, json.dumps(values), "derive", InvalidSpecError)


def derive(
    out: str | Path,
    spec: DerivedSpec,
    *,
    device: str = "cpu",
    num_workers: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
    retry_quarantined: bool = False,
    shard_index: int = 0,
    num_shards: int = 1,
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION,
    on_start: Callable[[int, int], None] = lambda samples, resumed: None,
    on_progress: OnProgress = lambda _: None,
    warn: Callable[[str], None] = lambda _: None,
) -> Derived:
    """Derive members of a data set, or go on where an earlier run of the same specification stopped.

    Args:
        out: A complete data set, in a folder or a store.
        spec: What to derive (`specification`).
        device: Given to functions that take a ``device``; it is not part of what the members are.
        num_workers: Processes; 1 works in this one.
        executor: What runs the shards; by default ``num_workers`` of this machine.
        overwrite: Remove members of the same name first.
        retry_quarantined: Make shards again of which windows are in quarantine.
        shard_index: Which part of the shards: those whose number is this modulo ``num_shards``.
        num_shards: Into how many parts the work is split.
        max_bad_fraction: Stop where the function fails for more of the samples than this.
        on_start: Called with the samples ahead, and the shards that are there.
        on_progress: Hears of the progress.
        warn: Called with a line about a worker that says nothing.

    Raises:
        OutputExistsError: Members of this name are there and of another function, version or option.
        MissingCalibrationError, InvalidSpecError: The specification does not fit the data set.
        TooManyBadEpisodesError: As said; what was published stays.
        CorruptDatasetError: The data set is damaged or incomplete, or members do not fit each other.
        OutputError, StorageError, WorkerError: As of a conversion.
    """
    place = layout.place(out)
    dataset = open_dataset(place)
    manifest = dataset.manifest
    if manifest is None:
        raise CorruptDatasetError("is a single shard; members are derived of a whole data set", where=out)
    if not 0 <= shard_index < num_shards:
        raise InvalidSpecError("is out of range", field="shard_index", expected=f"0 … {num_shards - 1}")
    _check_rates(dataset, spec, out)
    storage.check_protocol(place)
    begun = _begin(place, spec, overwrite)
    every = derived.rows_of(dataset, manifest, spec.name)
    todo, resumed = _ahead(place, every[shard_index::num_shards], spec, retry_quarantined)
    result = Derived(begun, resumed=resumed)
    watch = _Watch(on_progress, max_bad_fraction)
    on_start(sum(len(row.episodes) for row in todo), resumed)
    if todo and begun.complete:
        begun = begun.blank()
        layout.publish(derived.folder_of(place, spec.name) / derived.MANIFEST, to_bytes(begun))

    def take(sidecar: DerivedSidecar) -> None:
        result.made += 1
        result.quarantined += sidecar.quarantined

    if todo:
        with executor or make_executor("local", num_workers, warn=warn) as workers:
            job = DeriveJob(place, spec, manifest.checksum, device)
            workers.run(job, todo, watch.progress, take)
    # Also when nothing was to be done: whoever was to write the manifest may have been killed before.
    if todo or not begun.complete or len(begun.shards) != len(every):
        result.manifest = derived.assemble(place, begun, every) or begun
    counts = result.manifest.counts
    if counts is not None and (bad := counts.quarantined) and bad > max_bad_fraction * (bad + counts.items):
        raise _too_many(bad, bad + counts.items, max_bad_fraction, result.quarantined)
    return result


def _check_rates(dataset: Dataset, spec: DerivedSpec, where: object) -> None:
    if spec.over == "sample" or spec.num_frames is None:
        return
    cut = Cut(spec.num_frames, spec.fps, spec.hop, spec.short)
    frames, rates = (dataset.table[name].to_numpy() for name in ("frames", "fps"))
    longest = {rate: int(frames[rates == rate].max()) for rate in set(rates.tolist())}
    if longest and not any(cut.starts(total, rate, where) for rate, total in longest.items()):
        raise InvalidSpecError(
            "no sample is as long as a window",
            where=where,
            field="num_frames",
            expected=f"windows of at most {max(longest.values())} stored frames",
            found=spec.num_frames,
        )


def _begin(out: Place, spec: DerivedSpec, overwrite: bool) -> DerivedManifest:
    """Begin a derivation, or find the one that is gone on with."""
    if overwrite:
        derived.remove(out, spec.name)
    fresh = DerivedManifest(spec=spec, tool=tool_versions()).sealed()
    path = derived.folder_of(out, spec.name) / derived.MANIFEST
    if layout.publish_if_absent(path, to_bytes(fresh)):
        return fresh
    try:
        there = derived.read_manifest(out, spec.name)
    except SourceNotFoundError:
        raise
    except ActionImgError as error:
        raise OutputExistsError(
            f"is damaged: {error}", where=path, hint="--overwrite derives all of it again."
        ) from None
    if there.spec != spec:
        a, b = (one.model_dump(mode="json") for one in (there.spec, spec))
        other = [f"{name}: {a[name]!r} there, {b[name]!r} asked for" for name in a if a[name] != b[name]]
        raise OutputExistsError(
            f"holds other members: {'; '.join(other[:4])}",
            where=path.parent,
            hint="Take another --member, or --overwrite to derive them again.",
        )
    return there


def _ahead(out: Place, rows: Sequence[DerivedRow], spec: DerivedSpec, retry: bool) -> tuple[list[DerivedRow], int]:
    """The shards to make, those in the way taken back; and how many are there."""
    todo = []
    for row in rows:
        try:
            sidecar = derived.published(out, row, spec)
        except CorruptDatasetError:
            sidecar = None
        if sidecar is None or (retry and sidecar.quarantined):
            storage.retract(out, row.shard)
            todo.append(row)
    return todo, len(rows) - len(todo)


class _Watch:
    """Stops a run in which the function fails throughout."""

    def __init__(self, on_progress: OnProgress, allowed: float) -> None:
        self.on_progress, self.allowed = on_progress, allowed
        self.ended = self.bad = 0

    def progress(self, event: Progress) -> None:
        self.on_progress(event)
        self.ended += event.ended
        self.bad += event.code is not None
        if event.ended and self.ended >= _EARLY and self.bad > self.allowed * self.ended:
            raise _too_many(self.bad, self.ended, self.allowed, ())


def _too_many(bad: int, total: int, allowed: float, failures: Sequence[DerivedFailure]) -> TooManyBadEpisodesError:
    first = f" (the first: {failures[0].message})" if failures else ""
    return TooManyBadEpisodesError(
        f"the function fails too often{first}",
        where="derive",
        expected=f"at most {allowed:.0%}",
        found=f"{bad} of {total}",
        hint="The reasons are in quarantine.jsonl, or in the shards' .json while shards are missing. A function that "
        "was mended has another version: give --overwrite with it.",
    )


def repair_derived(
    out: Place,
    dataset: Dataset,
    name: str,
    functions: Sequence[str],
    *,
    device: str = "cpu",
    executor: Executor | None = None,
    accept: bool = False,
) -> tuple[list[str], list[tuple[str, str]]]:
    """Make again what is broken in a derivation; whose function is only run where the user has named it.

    Returns:
        Files made again; and those left broken, with the reason.

    Raises:
        OutputError, StorageError: The data set cannot be written.
    """
    assert dataset.manifest is not None
    rows = derived.rows_of(dataset, dataset.manifest, name)
    manifest, faults = derived.check(out, name, rows, quick=True)
    label = f"{derived.FOLDER}/{name}"
    if not faults:
        return [], []
    if manifest is None or not manifest.complete:
        return [], [(label, f"{faults[0].reason}; give its actionimg derive command again")]
    spec = manifest.spec
    records = {record.path.removesuffix(".tar"): record for record in manifest.shards}
    left = [(fault.shard or label, fault.reason) for fault in faults if fault.reason.startswith("is of no shard")]
    stale = [row for row in rows if getattr(records.get(row.source), "source_sha256", "") != row.source_sha256]
    if stale:
        again = "the data set's shard is new or another; give the same actionimg derive command again"
        return [], left + [(f"{row.shard}.tar", again) for row in stale]
    bad = [row for row in rows if derived.broken(out, row, records[row.source], spec, quick=True)]
    if bad:
        refused = _why_not(spec, functions)
        if refused:
            return [], left + [(f"{row.shard}.tar", refused) for row in bad]
        left += _made_again(
            out, bad, records, DeriveJob(out, spec, dataset.manifest.checksum, device), executor, accept
        )
    made = [f"{row.shard}.tar" for row in bad if f"{row.shard}.tar" not in dict(left)]
    if len(made) == len(bad):
        # Of equal sidecars it is the same, to the byte.
        derived.assemble(out, manifest, rows)
        names = {f"{derived.folder_of(out, name) / file}" for file in (derived.INDEX, derived.QUARANTINE)}
        made += [f"{label}/{one.rpartition('/')[2]}" for one in sorted(names) if any(one in f.reason for f in faults)]
    return made, left


def _why_not(spec: DerivedSpec, functions: Sequence[str]) -> str:
    """Why a derivation's function is not run again; empty where it is."""
    if spec.function not in functions:
        return f"repair --with {spec.function} runs that function again; look at it first if the data set is another's"
    try:
        version = version_of(find_function(spec.function))
    except InvalidSpecError as error:
        return str(error)
    if version != spec.function_version:
        return f"was made by version {spec.function_version}, and {spec.function} is now {version}"
    return ""


def _made_again(
    out: Place,
    bad: Sequence[DerivedRow],
    records: Mapping[str, DerivedShard],
    job: DeriveJob,
    executor: Executor | None,
    accept: bool,
) -> list[tuple[str, str]]:
    """Make shards again; those that come out with other bytes are left out, where that is not accepted."""
    for row in bad:
        storage.retract(out, row.shard)
    new: dict[str, DerivedSidecar] = {}
    with executor or make_executor("local", 1) as workers:
        workers.run(job, bad, lambda _: None, lambda sidecar: new.update({sidecar.shard: sidecar}))
    left = []
    for row in bad:
        if new[row.source].sha256 != records[row.source].sha256 and not accept:
            storage.retract(out, row.shard)
            left.append((f"{row.shard}.tar", "made again it has other bytes; --accept-different takes them"))
    return left
