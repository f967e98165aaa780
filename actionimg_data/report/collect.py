"""What a report says about a data set: counts from its index, and figures from samples spread over it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import ActionImgError
from ..model import CameraTrack
from ..raster import project_keypoints
from ..schemas import ActionImageSpec, ConvertOptions, DatasetManifest, QuarantineRow
from ..shards import Dataset, Sample
from ..shards.verify import RoundTrip, has_two_views, round_trip
from .pictures import evenly

MOST_TRAJECTORIES: Final = 200
"""Samples of which trajectory and cameras are read."""
MOST_DECODED_FRAMES: Final = 1500
"""Frames, counted once for all views, that are decoded for the histograms."""
EXAMPLES_A_REASON: Final = 3

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Path3:
    """One sample's gripper path and cameras."""

    key: str
    times: FloatArray
    position: FloatArray
    openness: FloatArray
    cameras: dict[str, CameraTrack]


@dataclass(frozen=True)
class Instructions:
    """Statistics of the instructions of all samples."""

    distinct: int
    most: list[tuple[str, int]]
    words: list[tuple[str, int]]
    lengths: NDArray[np.int64]
    tasks: list[tuple[str, int]]


@dataclass
class Motion:
    """What the trajectories of the samples that were read say.

    Attributes:
        seen: ``(V, 3)`` share of the frames in which each view shows each keypoint inside its picture.
        all_three: ``(V,)`` share of the frames in which a view shows all three.
        two_views: Share of the frames that have two views, and so can be decoded without a guess.
        missing_pose: Frames without a pose.
        residuals_ms: Time from each frame to its nearest measured pose, where the source says it.
        unreadable: Key and reason of the samples that could not be read.
    """

    paths: list[Path3] = field(default_factory=list)
    frames: int = 0
    missing_pose: int = 0
    seen: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))
    all_three: FloatArray = field(default_factory=lambda: np.zeros(0))
    two_views: float = 0.0
    sync: Counter[str] = field(default_factory=Counter)
    residuals_ms: FloatArray = field(default_factory=lambda: np.zeros(0))
    unreadable: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class BadFrame:
    """A frame and what decoding it was off by."""

    key: str
    frame: int
    position_mm: float
    rotation_deg: float


def spread(dataset: Dataset, wanted: int) -> list[int]:
    """Numbers of up to ``wanted`` samples, evenly spread over the data set."""
    return evenly(len(dataset), wanted) if len(dataset) else []


def motion(dataset: Dataset, spec: ActionImageSpec, views: Sequence[str]) -> Motion:
    """Read trajectories and cameras of up to `MOST_TRAJECTORIES` samples; no video is opened."""
    found = Motion()
    seen, three, two = np.zeros((len(views), 3)), np.zeros(len(views)), 0
    residuals = []
    limit = np.array([spec.width - 1, spec.height - 1])
    for number in spread(dataset, MOST_TRAJECTORIES):
        sample = dataset[number]
        try:
            trajectory, cameras, meta = sample.trajectory, sample.cameras, sample.meta
            uv, valid = project_keypoints(trajectory, cameras, spec)
            decodable = has_two_views(trajectory, cameras, spec)
        except ActionImgError as error:
            found.unreadable.append((sample.key, str(error)))
            continue
        inside = valid & ((uv >= 0) & (uv <= limit)).all(axis=-1)
        seen += inside.sum(axis=1)
        three += inside.all(axis=-1).sum(axis=1)
        two += int(decodable.sum())
        found.frames += len(trajectory)
        found.missing_pose += int((~trajectory.known).sum())
        found.sync[meta.sync] += 1
        residuals.append(1000 * np.asarray(meta.sync_residual_s, np.float64))
        found.paths.append(Path3(sample.key, trajectory.times, trajectory.position, trajectory.openness, dict(cameras)))
    frames = max(1, found.frames)
    found.seen, found.all_three, found.two_views = seen / frames, three / frames, two / frames
    found.residuals_ms = np.abs(np.concatenate(residuals)) if residuals else found.residuals_ms
    return found


def instructions(dataset: Dataset, most: int = 12) -> Instructions:
    """Statistics over the instructions of the whole index."""
    counts = Counter(dict(_counted(dataset, "instruction")))
    words: Counter[str] = Counter()
    lengths: list[int] = []
    for text, number in counts.items():
        split = text.split()
        lengths += [len(split)] * min(number, 1000)
        for word in split:
            words[word.strip(".,;:!?\"'()").lower()] += number
    words.pop("", None)
    return Instructions(
        distinct=len(counts),
        most=_top(counts, most),
        words=_top(words, 2 * most),
        lengths=np.array(lengths, np.int64),
        tasks=[(name, n) for name, n in _top(Counter(dict(_counted(dataset, "task"))), most) if name],
    )


def _counted(dataset: Dataset, column: str) -> list[tuple[str, int]]:
    rows = dataset.table[column].value_counts().to_pylist()
    return [(row["values"], row["counts"]) for row in rows]


def _top(counts: Counter[str], most: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]


def quarantine(rows: Iterator[QuarantineRow]) -> list[tuple[str, int, list[QuarantineRow]]]:
    """Reason code, number of episodes and the first few of them, the most frequent first."""
    counts: Counter[str] = Counter()
    examples: dict[str, list[QuarantineRow]] = {}
    for row in rows:
        counts[row.code] += 1
        kept = examples.setdefault(row.code, [])
        if len(kept) < EXAMPLES_A_REASON:
            kept.append(row)
    return [(code, number, examples[code]) for code, number in _top(counts, len(counts))]


def decode(dataset: Dataset, spec: ActionImageSpec, unreadable: list[tuple[str, str]]) -> list[RoundTrip]:
    """Decode some samples: those of the largest recorded error first, then others spread over the data set."""
    order = [*_worst_recorded(dataset, 3), *spread(dataset, 40)]
    trips: list[RoundTrip] = []
    frames = 0
    known = {key for key, _ in unreadable}
    lengths = dataset.table["frames"]
    for number in dict.fromkeys(order):
        length = lengths[number].as_py()
        if trips and frames + length > MOST_DECODED_FRAMES:
            continue
        sample = dataset[number]
        if sample.key in known:
            continue
        try:
            trips.append(round_trip(sample, spec))
        except ActionImgError as error:
            unreadable.append((sample.key, str(error)))
            continue
        frames += length
    return trips


def _worst_recorded(dataset: Dataset, most: int) -> list[int]:
    values = recorded(dataset, "decode_position_p95_mm")
    order = np.argsort(-np.where(np.isfinite(values), values, -1.0), kind="stable")
    return [int(i) for i in order[:most] if np.isfinite(values[i])]


def recorded(dataset: Dataset, column: str) -> FloatArray:
    """A column of what ``actionimg verify --record`` wrote, NaN where it wrote nothing."""
    return np.array([np.nan if v is None else v for v in dataset.table[column].to_pylist()], np.float64)


def worst_frames(trips: Sequence[RoundTrip], most: int) -> list[BadFrame]:
    """The frames of the largest position error, at most two of one sample while there are others."""
    found = []
    for trip in trips:
        for rank, i in enumerate(np.argsort(-trip.position_mm, kind="stable")[:most]):
            bad = BadFrame(trip.key, int(trip.frames[i]), float(trip.position_mm[i]), float(trip.rotation_deg[i]))
            found.append((rank >= 2, -bad.position_mm, trip.key, bad))
    chosen = [bad for *_, bad in sorted(found, key=lambda row: row[:3])[:most]]
    return sorted(chosen, key=lambda bad: -bad.position_mm)


def command_of(manifest: DatasetManifest, out: str) -> str:
    """A command line that makes this data set."""
    options, converter = manifest.options, manifest.converter
    size = str(options.height) if options.height == options.width else f"{options.height}x{options.width}"
    words = ["actionimg", "convert", converter.name, *manifest.sources, out, "--size", size]
    words += ["--views", ",".join(options.views or manifest.views)]
    usual: dict[str, Any] = {
        name: ConvertOptions.model_fields[name].default
        for name in ("stride", "clip_frames", "action_codec", "rgb_codec", "crf", "episodes_per_shard", "split")
    }
    given = {name: getattr(options, name) for name, default in usual.items() if getattr(options, name) != default}
    for name, value in {**converter.options, **given}.items():
        if value is None or value in ("", [], {}):
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    if options.spec.resized(512, 512) != ActionImageSpec():
        words += ["--spec", f"{out}/dataset.json"]
    return shlex.join(words)


def keypoint_frame(sample: Sample, frame: int, spec: ActionImageSpec) -> tuple[FloatArray, NDArray[np.bool_]]:
    """``uv (V, 3, 2)`` and ``valid (V, 3)`` of one frame's keypoints in all views."""
    one = slice(frame, frame + 1)
    cameras = [sample.cameras[view][one] for view in sample.views]
    uv, valid = project_keypoints(sample.trajectory[one], cameras, spec)
    return uv[:, 0], valid[:, 0]
