"""From the episodes of a source to shards, fixed before anything is converted."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import av
import cv2
import numpy as np

from .. import __version__
from ..errors import ActionImgError, EmptyEpisodeError, MissingCalibrationError, WrongFormatError, printable
from ..model import Episode, EpisodeRef
from ..schemas import ConverterRecord, ConvertOptions, DatasetManifest, PlanEpisode, PlanRow
from ..schemas.dataset import FORMAT_VERSION, to_line
from .layout import shard_name

MAX_KEY: Final = 72
"""A key's length, so that key, clip and member name fit the 100 bytes of a plain tar header."""

_PROBES: Final = 20


@dataclass(frozen=True)
class Plan:
    """What will be made: the manifest as it is before the first shard, and one row a shard."""

    manifest: DatasetManifest
    rows: tuple[PlanRow, ...]

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return sum(len(row.episodes) for row in self.rows)

    def to_bytes(self) -> bytes:
        """Content of ``plan.jsonl``."""
        return b"".join(to_line(row) for row in self.rows)


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
) -> Plan:
    """Distribute episodes over shards.

    Args:
        converter: Name and options of the converter.
        source: What was given to ``discover``.
        refs: Its episodes, in order.
        views: Views of every sample, in order.
        options: What decides the bytes.

    Raises:
        WrongFormatError: Two episodes have one id, or one key.
    """
    episodes = []
    seen: dict[str, str] = {}
    for ref in refs:
        key = episode_key(ref.id)
        if key in seen:
            raise WrongFormatError(
                "two episodes with one key", where=source, field=key, found=f"{seen[key]} and {ref.id}"
            )
        seen[key] = ref.id
        episodes.append(
            PlanEpisode(
                id=ref.id,
                key=key,
                location=dict(ref.location),
                num_frames=ref.num_frames,
                fingerprint=ref.fingerprint,
            )
        )
    if not episodes:
        raise WrongFormatError("holds no episodes", where=source)
    size = options.episodes_per_shard or default_episodes_per_shard(len(episodes))
    options = options.model_copy(update={"episodes_per_shard": size, "views": tuple(views)})
    rows = tuple(
        PlanRow(shard=shard_name(options.split, number), episodes=tuple(episodes[start : start + size]))
        for number, start in enumerate(range(0, len(episodes), size))
    )
    blank = DatasetManifest(
        plan="0" * 64,
        planned_shards=len(rows),
        planned_episodes=len(episodes),
        tool=tool_versions(),
        converter=converter,
        sources=(source,),
        views=tuple(views),
        options=options,
        spec_id=options.spec.id,
    )
    return Plan(blank.model_copy(update={"plan": fingerprint(blank, rows)}).sealed(), rows)


def fingerprint(manifest: DatasetManifest, rows: Sequence[PlanRow]) -> str:
    """SHA-256 over everything that decides the bytes: converter, source, options, versions, episodes.

    An episode counts with its id, its key and its fingerprint, and with where it is.
    """
    head = manifest.model_dump(mode="json", include={"tool", "converter", "sources", "views", "options", "spec_id"})
    digest = hashlib.sha256(json.dumps(head, sort_keys=True, separators=(",", ":")).encode())
    for row in rows:
        digest.update(to_line(row))
    return digest.hexdigest()


def choose_views(
    episodes: Iterable[tuple[EpisodeRef, Episode | ActionImgError]],
    wanted: Sequence[str] | None,
    source: str,
    poses_only: bool = False,
) -> tuple[str, ...]:
    """The views every sample will have: those wanted, or the calibrated ones of the first episode that can be read.

    With ``poses_only`` all views of that episode.

    Raises:
        MissingCalibrationError: That episode has no calibrated view.
        EmptyEpisodeError: No episode among the first twenty can be read.
    """
    if wanted is not None:
        return tuple(wanted)
    first: ActionImgError | None = None
    for tried, (_, episode) in enumerate(episodes, 1):
        if isinstance(episode, Episode):
            views = tuple(name for name, view in episode.views.items() if poses_only or view.camera is not None)
            if not views:
                raise MissingCalibrationError(
                    "no view has a calibration", where=episode.id, found=" ".join(episode.views)
                )
            return views
        first = first or episode
        if tried >= _PROBES:
            break
    raise EmptyEpisodeError(
        f"none of the first {_PROBES} episodes can be read" if first else "holds no episodes",
        where=source,
        found=None if first is None else f"[{first.code}] {first}",
        hint="Name the views with --views to convert the rest all the same." if first else None,
    )


def differences(old: DatasetManifest, new: DatasetManifest) -> list[str]:
    """What differs between the plan a folder was made with and another one, one line a field."""

    def flat(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            return {path: value}
        leaves: dict[str, Any] = {}
        for name, item in value.items():
            leaves |= flat(item, f"{path}.{name}" if path else name)
        return leaves

    include = {"tool", "converter", "sources", "views", "options", "planned_episodes"}
    a = flat(old.model_dump(mode="json", include=include), "")
    b = flat(new.model_dump(mode="json", include=include), "")
    lines = [
        f"{name}: {printable(str(a.get(name)), 60)} there, {printable(str(b.get(name)), 60)} asked for"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name) and name not in ("options.spec.height", "options.spec.width")
    ]
    return lines or ["episodes: their files have changed since the plan was made"]
