"""From the episodes of a source to shards, fixed before anything is converted."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import av
import cv2
import numpy as np

from .. import __version__
from ..errors import (
    ActionImgError,
    EmptyEpisodeError,
    InvalidSpecError,
    MissingCalibrationError,
    MissingViewError,
    WrongFormatError,
    printable,
    suggestion,
)
from ..model import Episode, EpisodeRef, view_planes
from ..schemas import ConverterRecord, ConvertOptions, DatasetManifest, EarlierPlan, PlanEpisode, PlanRow
from ..schemas.dataset import FORMAT_VERSION, to_line
from ..video import x264_build
from .layout import shard_name
from .rows import PlanRows

_TEXT: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_FIELDS: Final = tuple(PlanEpisode.model_fields)

MAX_KEY: Final = 72
"""A key's length, so that key, clip and member name fit the 100 bytes of a plain tar header."""

PROBES: Final = 20
"""Episodes that are tried for what every sample will have."""


@dataclass(frozen=True)
class Plan:
    """What will be made: the manifest as it is before the first shard, and one row a shard."""

    manifest: DatasetManifest
    rows: PlanRows

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return self.manifest.planned_episodes

    def to_bytes(self) -> bytes:
        """Content of ``plan.jsonl``."""
        return b"".join(self.rows.lines())


def episode_key(episode_id: str) -> str:
    """The key of an episode's samples, a function of its id alone: ``[a-z0-9_-]``, different ids differ.

    ``a/b_1`` becomes ``a-b_1``. Ids for which this is not reversible (other characters, hyphens, over 72 characters)
    get the first eight hex digits of their SHA-256 appended.
    """
    plain = episode_id.replace("/", "-")
    if re.fullmatch(r"[a-z0-9_/]+", episode_id) and len(plain) <= MAX_KEY:
        return plain
    digest = hashlib.sha256(episode_id.encode()).hexdigest()[:8]
    slug = re.sub(r"[^a-z0-9_-]+", "-", plain.lower()).strip("-")[: MAX_KEY - 9].strip("-")
    return f"{slug}-{digest}" if slug else digest


def default_episodes_per_shard(episodes: int) -> int:
    """A 32nd of the episodes, at least 1 and at most 32.

    Small sets get a shard an episode, so that several workers have something to do; large ones get shards of a few
    hundred MB. It depends on nothing but the number of episodes, so that the plan is the same for any workers.
    """
    return min(32, max(1, episodes // 32))


def tool_versions() -> dict[str, str]:
    """Versions of everything that decides the bytes of a shard."""
    libraries = {name: ".".join(map(str, v)) for name, v in av.library_versions.items()}
    return {
        "actionimg-data": __version__,
        "format": str(FORMAT_VERSION),
        "av": av.__version__,
        "libavcodec": libraries.get("libavcodec", ""),
        "libavformat": libraries.get("libavformat", ""),
        "libswscale": libraries.get("libswscale", ""),
        "x264": x264_build(),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "machine": platform.machine(),
    }


def make_plan(
    converter: ConverterRecord,
    source: str,
    refs: Iterable[EpisodeRef],
    views: Sequence[str],
    options: ConvertOptions,
    more_versions: Mapping[str, str] | None = None,
    grippers: Sequence[str] = (),
) -> Plan:
    """Distribute episodes over shards.

    Args:
        converter: Name and options of the converter.
        source: What was given to ``discover``.
        refs: Its episodes, in order.
        views: Views of every sample, in order.
        options: What decides the bytes.
        more_versions: Versions beside `tool_versions` that decide the bytes: of a converter from another package.
        grippers: Grippers of every sample, in order; empty for one without a name.

    Raises:
        WrongFormatError: Two episodes have one id, or one key.
    """
    if options.merge_arms and len(grippers) < 2:
        raise InvalidSpecError(
            "there is one gripper, so nothing to merge", where=source, field="merge_arms", found=" ".join(grippers)
        )
    fragments = _fragments(refs, source)
    count = len(fragments)
    if not count:
        raise WrongFormatError("holds no episodes", where=source)
    size = options.episodes_per_shard or default_episodes_per_shard(count)
    options = options.model_copy(update={"episodes_per_shard": size, "views": tuple(views)})
    rows = PlanRows(_lines(fragments.lines(), size, options.split))
    blank = DatasetManifest(
        plan="0" * 64,
        planned_shards=len(rows),
        planned_episodes=count,
        tool={**tool_versions(), **(more_versions or {})},
        converter=converter,
        sources=(source,),
        views=tuple(views),
        grippers=tuple(grippers),
        options=options,
        spec_id=options.spec.id,
    )
    return Plan(blank.model_copy(update={"plan": fingerprint(blank, rows)}).sealed(), rows)


def _fragments(refs: Iterable[EpisodeRef], source: str) -> PlanRows:
    """The episodes of a source as JSON, one a line; each id and key once."""
    seen: set[str] = set()

    def lines() -> Iterator[bytes]:
        for ref in refs:
            key = episode_key(ref.id)
            if key in seen:
                raise WrongFormatError("two episodes with one key", where=source, field=key, found=ref.id)
            seen.add(key)
            episode = PlanEpisode(
                id=ref.id,
                key=key,
                location=dict(ref.location),
                num_frames=ref.num_frames,
                fingerprint=ref.fingerprint,
            )
            yield to_fragment(episode) + b"\n"

    return PlanRows(lines())


def to_fragment(episode: PlanEpisode) -> bytes:
    """An episode as it is written within its row: the text of its `model_dump`, without going through it."""
    return _TEXT.encode({name: getattr(episode, name) for name in _FIELDS}).encode()


def _lines(fragments: Iterator[bytes], size: int, split: str, first: int = 0) -> Iterator[bytes]:
    """Lines of rows of ``size`` episodes; as `to_line` writes a `PlanRow`."""
    number = first
    while part := list(islice(fragments, size)):
        episodes = b",".join(fragment.rstrip(b"\n") for fragment in part)
        yield b'{"shard":"%s","episodes":[%s]}\n' % (shard_name(split, number).encode(), episodes)
        number += 1


def fingerprint(manifest: DatasetManifest, rows: Iterable[PlanRow]) -> str:
    """SHA-256 over everything that decides the bytes: converter, source, options, versions, episodes.

    An episode counts with its id, its key and its fingerprint, and with where it is. Plans that this one goes on from
    (`DatasetManifest.earlier`) count with their fingerprints, versions and shards.
    """
    fields = {"tool", "converter", "sources", "views", "grippers", "options", "spec_id"} | (
        {"earlier"} if manifest.earlier else set()
    )
    head = manifest.model_dump(mode="json", include=fields)
    digest = hashlib.sha256(json.dumps(head, sort_keys=True, separators=(",", ":")).encode())
    for line in rows.lines() if isinstance(rows, PlanRows) else map(to_line, rows):
        digest.update(line)
    return digest.hexdigest()


@dataclass(frozen=True)
class Streams:
    """What samples will have.

    Args:
        views: Of every sample, in order; where samples may differ, those that one may have.
        grippers: Of every sample, in order; empty for one without a name.
        conditioning: Whether the source has cameras in a frame of their own for its views.
        found: Whether views that samples may have were found in the first episodes alone, so that there may be others.
    """

    views: tuple[str, ...]
    grippers: tuple[str, ...] = ()
    conditioning: bool = False
    found: bool = False


def choose_streams(
    episodes: Iterable[tuple[EpisodeRef, Episode | ActionImgError]],
    options: ConvertOptions,
    source: str,
    possible: Sequence[str] = (),
) -> Streams:
    """What samples will have: as the first episode that can be read.

    Views are those wanted, else the calibrated ones; without cameras all of them. Where samples may differ in their
    views, they are those wanted, else those ``possible``, else the calibrated ones of the first `PROBES` episodes.

    Args:
        episodes: The first ones, or why they cannot be read.
        options: Which views are wanted, and what of each.
        source: For errors.
        possible: Views that an episode of the source may have a camera of, where that is known.

    Raises:
        MissingViewError: No episode among the first `PROBES` has the views that are wanted, or one of them lacks one of
            the ``planes`` (depth, mask) that are to be stored.
        MissingCalibrationError: That episode has no calibrated view.
        EmptyEpisodeError: No episode among the first `PROBES` can be read, and no views are wanted.
    """
    if options.views_per_sample:
        return _differing(episodes, options, source, possible)
    wanted, planes = options.views, options.planes
    first: ActionImgError | None = None
    read: Episode | None = None
    for _, episode in islice(episodes, PROBES):
        if isinstance(episode, Episode):
            if wanted is not None:
                read = read or episode
                if not set(wanted) <= set(episode.views):
                    continue
                check_planes(episode.with_views(wanted), planes)
                return Streams(tuple(wanted), read.gripper_names, _conditioned(episode, wanted))
            views = tuple(n for n, view in episode.views.items() if options.poses_only or view.camera is not None)
            if not views:
                raise MissingCalibrationError(
                    "no view has a calibration", where=episode.id, found=" ".join(episode.views)
                )
            check_planes(episode.with_views(views), planes)
            return Streams(views, episode.gripper_names, _conditioned(episode, views))
        first = first or episode
    if wanted is not None and read is not None:
        missing = [name for name in wanted if name not in read.views]
        raise MissingViewError(
            f"none of the first {PROBES} episodes has the views that are asked for",
            where=source,
            field="views",
            expected=" ".join(read.views),
            found=" ".join(missing or wanted),
            hint=suggestion(missing[0], list(read.views)) if missing else None,
        )
    if first is not None and first.field == "views":
        # A converter that was asked for these views alone knows of others.
        raise first
    if wanted is not None:
        return Streams(tuple(wanted))
    raise _none_read(first, source)


def _none_read(first: ActionImgError | None, source: str) -> EmptyEpisodeError:
    if first is None:
        return EmptyEpisodeError("holds no episodes", where=source)
    # The reason in full: it says what to do.
    return EmptyEpisodeError(
        f"none of the first {PROBES} episodes can be read: [{first.code}] {first}",
        where=source,
        hint="Name the views with --views to convert the rest all the same.",
    )


def _conditioned(episode: Episode, views: Sequence[str]) -> bool:
    return all(episode.views[name].conditioning is not None for name in views)


def _differing(
    episodes: Iterable[tuple[EpisodeRef, Episode | ActionImgError]],
    options: ConvertOptions,
    source: str,
    possible: Sequence[str],
) -> Streams:
    """What samples may have whose views differ."""
    first: ActionImgError | None = None
    read: Episode | None = None
    found: dict[str, None] = dict.fromkeys(options.views or possible)
    known = bool(found)
    for _, episode in islice(episodes, PROBES):
        if not isinstance(episode, Episode):
            first = first or episode
            continue
        read = read or episode
        if known:
            break
        found |= dict.fromkeys(name for name, view in episode.views.items() if view.camera is not None)
    if not found:
        if read is None:
            raise _none_read(first, source)
        raise MissingCalibrationError(
            f"no view of the first {PROBES} episodes has a calibration", where=source, found=" ".join(read.views)
        )
    return Streams(tuple(found), () if read is None else read.gripper_names, found=not known)


def check_planes(episode: Episode, planes: Sequence[str]) -> None:
    """Refuse an episode of which a view lacks the depth or the mask that is to be stored (`MissingViewError`)."""
    for name, view in episode.views.items():
        missing = [kind for kind in planes if kind not in view_planes(view)]
        if missing:
            raise MissingViewError(
                f"has no {' and no '.join(missing)}",
                where=episode.id,
                field=name,
                hint="Choose views that have it with --views, or leave it out.",
            )


@dataclass(frozen=True)
class Changes:
    """What happened to the episodes of a source since a plan was made; ids, in order."""

    gone: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """One line for each kind that there is, with a few names."""
        named = (
            ("gone from the source", self.gone),
            ("changed in the source", self.changed),
            ("new in the source", self.added),
        )
        return [f"{len(ids)} episode{'s' * (len(ids) > 1)} {what}: {_some(ids)}" for what, ids in named if ids]


def _some(ids: Sequence[str]) -> str:
    return ", ".join(printable(i, 80) for i in ids[:5]) + (", …" if len(ids) > 5 else "")


def changes(old: Iterable[PlanRow], new: Iterable[PlanRow]) -> Changes:
    """What differs between the episodes of two plans, whatever shards they are in."""
    before = {e.id: _stamp(e) for row in old for e in row.episodes}
    changed, added = [], []
    for row in new:
        for episode in row.episodes:
            stamp = before.pop(episode.id, None)
            if stamp is None:
                added.append(episode.id)
            elif stamp != _stamp(episode):
                changed.append(episode.id)
    return Changes(tuple(before), tuple(changed), tuple(added))


def _stamp(episode: PlanEpisode) -> bytes:
    return hashlib.sha256(to_fragment(episode)).digest()[:16]


def revise(old: Plan, new: Plan, extend: bool, remake: Collection[str]) -> Plan:
    """Go on from a plan when its source has grown, or episodes of it were mended.

    Shards keep their number and their episodes; those that have none of ``remake`` stay as they were made and keep
    naming the plan under which they were.

    Args:
        old: The plan of the data set.
        new: The source as it is now, planned afresh with the same converter, source and options.
        extend: Put episodes that ``old`` does not have into new shards, after the others.
        remake: Ids of episodes of ``old`` that may have changed, and whose shards are made again.
    """
    manifest = old.manifest
    fresh = {e.id: to_fragment(e) for row in new.rows for e in row.episodes if e.id in remake}
    known = {e.id for row in old.rows for e in row.episodes} if extend else set()
    again: set[str] = set()
    size = manifest.options.episodes_per_shard or 1

    def lines() -> Iterator[bytes]:
        for row, line in zip(old.rows, old.rows.lines(), strict=True):
            if not any(e.id in fresh for e in row.episodes):
                yield line
                continue
            again.add(row.shard)
            episodes = (fresh.get(e.id) or to_fragment(e) for e in row.episodes)
            yield b'{"shard":"%s","episodes":[%s]}\n' % (row.shard.encode(), b",".join(episodes))
        if extend:
            added = (to_fragment(e) for row in new.rows for e in row.episodes if e.id not in known)
            yield from _lines(added, size, manifest.options.split, len(old.rows))

    rows = PlanRows(lines())
    plans = manifest.earlier_plans()
    kept: dict[str, list[str]] = {}
    for row in old.rows:
        if row.shard not in again:
            kept.setdefault(plans.get(row.shard, manifest.plan), []).append(row.shard)
    tools = {manifest.plan: manifest.tool, **{e.plan: e.tool for e in manifest.earlier}}
    blank = new.manifest.model_copy(
        update={
            "planned_shards": len(rows),
            "planned_episodes": sum(len(row.episodes) for row in rows),
            "options": manifest.options,
            "grippers": manifest.grippers,
            "earlier": tuple(EarlierPlan(plan=p, tool=tools[p], shards=tuple(s)) for p, s in kept.items()),
            "checksum": "",
        }
    )
    return Plan(blank.model_copy(update={"plan": fingerprint(blank, rows)}).sealed(), rows)


def differences(old: DatasetManifest, new: DatasetManifest, leave: Collection[str] = ()) -> list[str]:
    """What differs between the plan a folder was made with and another one, but for episodes; one line a field.

    Args:
        old: Manifest of the folder.
        new: Manifest of the other plan.
        leave: Fields that may differ.
    """

    def flat(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            return {path: value}
        leaves: dict[str, Any] = {}
        for name, item in value.items():
            leaves |= flat(item, f"{path}.{name}" if path else name)
        return leaves

    include = {"tool", "converter", "sources", "views", "grippers", "options"}
    a = flat(old.model_dump(mode="json", include=include), "")
    b = flat(new.model_dump(mode="json", include=include), "")
    left = {"options.spec.height", "options.spec.width", *leave}
    return [
        f"{name}: {printable(str(a.get(name)), 60)} there, {printable(str(b.get(name)), 60)} asked for"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name) and not any(name == f or name.startswith(f"{f}.") for f in left)
    ]
