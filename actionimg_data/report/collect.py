"""What a report says about a data set: counts from its index, and figures from samples spread over it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..converters.base import converter_class
from ..errors import ActionImgError
from ..model import CameraTrack
from ..raster import project_keypoints
from ..schemas import ActionImageSpec, ConvertOptions, DatasetManifest, QuarantineRow
from ..schemas.dataset import finding_column
from ..schemas.plausibility import KINDS
from ..shards import Dataset, Sample
from ..shards.verify import RoundTrip, has_two_views, round_trips
from .pictures import evenly

MOST_TRAJECTORIES: Final = 200
"""Samples of which trajectory and cameras are read."""
MOST_DECODED_FRAMES: Final = 1500
"""Frames, counted once for all views, that are decoded for the histograms."""
EXAMPLES_A_REASON: Final = 3

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Path3:
    """The path of one gripper of a sample, and the sample's cameras; ``gripper`` is empty where there is only one."""

    key: str
    times: FloatArray
    position: FloatArray
    openness: FloatArray
    cameras: dict[str, CameraTrack]
    gripper: str = ""


@dataclass(frozen=True)
class Seen:
    """How much of a gripper one view shows: shares of the frames.

    Attributes:
        keypoints: ``(3,)`` for each keypoint, inside its picture.
        all_three: All of them at once.
    """

    view: str
    gripper: str
    keypoints: FloatArray
    all_three: float


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
        seen: What each view shows of each gripper.
        two_views: Share of the frames, counted once a gripper, that have two views and so can be decoded without a
            guess.
        missing_pose: Frames without a pose.
        residuals_ms: Time from each frame to its nearest measured pose, where the source says it.
        unreadable: Key and reason of the samples that could not be read.
    """

    paths: list[Path3] = field(default_factory=list)
    frames: int = 0
    missing_pose: int = 0
    seen: list[Seen] = field(default_factory=list)
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
    gripper: str = ""


def spread(dataset: Dataset, wanted: int) -> list[int]:
    """Numbers of up to ``wanted`` samples, evenly spread over the data set."""
    return evenly(len(dataset), wanted) if len(dataset) else []


def motion(dataset: Dataset, spec: ActionImageSpec, views: Sequence[str], grippers: Sequence[str] = ("",)) -> Motion:
    """Read trajectories and cameras of up to `MOST_TRAJECTORIES` samples; no video is opened."""
    found = Motion()
    seen, three = np.zeros((len(grippers), len(views), 3)), np.zeros((len(grippers), len(views)))
    shown = np.zeros(len(views))
    two = 0
    residuals = []
    limit = np.array([spec.width - 1, spec.height - 1])
    for number in spread(dataset, MOST_TRAJECTORIES):
        sample = dataset[number]
        try:
            paths, meta = sample.grippers, sample.meta
            # Without cameras nothing is projected.
            cameras = dict(sample.cameras) if meta.calibrated else {}
            projected = [project_keypoints(t, cameras, spec) for t in paths.values()] if cameras else []
            decodable = [has_two_views(t, cameras, spec) for t in paths.values()] if cameras else []
        except ActionImgError as error:
            found.unreadable.append((sample.key, str(error)))
            continue
        own = [list(views).index(name) for name in cameras]
        for i, (uv, valid) in enumerate(projected):
            inside = valid & ((uv >= 0) & (uv <= limit)).all(axis=-1)
            seen[i, own] += inside.sum(axis=1)
            three[i, own] += inside.all(axis=-1).sum(axis=1)
        shown[own] += len(sample.times)
        two += int(sum(frames.sum() for frames in decodable))
        found.frames += len(sample.times)
        found.missing_pose += sum(int((~t.known).sum()) for t in paths.values())
        found.sync[meta.sync] += 1
        residuals.append(1000 * np.asarray(meta.sync_residual_s, np.float64))
        for name, path in paths.items():
            found.paths.append(Path3(sample.key, path.times, path.position, path.openness, cameras, name))
    frames = max(1, found.frames)
    # Of the frames of those samples that have the view.
    shown = np.maximum(shown, 1)
    found.seen = [
        Seen(view, name, seen[i, j] / shown[j], float(three[i, j] / shown[j]))
        for j, view in enumerate(views)
        for i, name in enumerate(grippers)
    ]
    found.two_views = two / frames / len(grippers)
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


def findings(dataset: Dataset, rows: Iterator[QuarantineRow]) -> list[dict[str, Any]]:
    """Of each kind of finding what it means, how many samples have it, and how many episodes were refused; with one."""
    table, refused, examples = dataset.table, Counter[str](), dict[str, str]()
    for row in rows:
        for found in row.findings:
            examples.setdefault(found.kind, f"{row.id}: {found.stream}: {found.found} (expected {found.expected})")
        refused.update({f.kind for f in row.findings})
    taken = {
        kind: sum(table[finding_column(kind)].to_pylist())
        for kind in KINDS
        if finding_column(kind) in table.column_names
    }
    return [
        {
            "kind": kind,
            "meaning": meaning,
            "taken": taken.get(kind, 0),
            "refused": refused[kind],
            "example": examples.get(kind, ""),
        }
        for kind, meaning in KINDS.items()
        if taken.get(kind) or refused[kind]
    ]


def calibration(dataset: Dataset) -> dict[str, Any] | None:
    """What was found out about the cameras; None for a data set whose cameras were not checked.

    Of each view the number of episodes by verdict and the shifts seen, and of all the worst ones.
    """
    if "calibration" not in dataset.table.column_names:
        return None
    episodes: dict[str, list[dict[str, Any]]] = {}
    for episode, rows in zip(
        dataset.table["episode"].to_pylist(), dataset.table["calibration"].to_pylist(), strict=True
    ):
        episodes.setdefault(episode, rows)
    views: dict[str, dict[str, Any]] = {}
    off = []
    for episode, rows in episodes.items():
        for row in rows:
            of_view = views.setdefault(row["view"], {"verdicts": Counter(), "shifts": [], "reasons": Counter()})
            of_view["verdicts"][row["verdict"]] += 1
            if row["displacement_px"] is not None:
                of_view["shifts"].append(row["displacement_px"])
            if row["verdict"] == "cannot tell":
                of_view["reasons"][row["reason"]] += 1
            elif row["verdict"] == "off":
                off.append((row["displacement_px"], episode, row["view"], row["reason"]))
    return {
        "views": [
            {
                "view": name,
                "ok": v["verdicts"]["ok"],
                "off": v["verdicts"]["off"],
                "unknown": v["verdicts"]["cannot tell"],
                "median": float(np.median(v["shifts"])) if v["shifts"] else None,
                "most": max(v["shifts"], default=None),
                "reason": v["reasons"].most_common(1)[0][0] if v["reasons"] else "",
            }
            for name, v in views.items()
        ],
        "worst": sorted(off, key=lambda o: (-o[0], o[1], o[2]))[:10],
        "episodes": len(episodes),
    }


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
            trips += round_trips(sample, spec)
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
            errors = float(trip.position_mm[i]), float(trip.rotation_deg[i])
            bad = BadFrame(trip.key, int(trip.frames[i]), *errors, gripper=trip.gripper)
            found.append((rank >= 2, -bad.position_mm, trip.key, bad))
    chosen = [bad for *_, bad in sorted(found, key=lambda row: row[:3])[:most]]
    return sorted(chosen, key=lambda bad: -bad.position_mm)


def _views_said(manifest: DatasetManifest) -> tuple[Sequence[str], dict[str, Any]]:
    """What --views said when a data set was made, and the converter's other options.

    A converter that leaves out what is not named remembers that; of another one naming what it found changes nothing.
    """
    converter = manifest.converter
    if manifest.options.views_per_sample:
        _, others = _views_said(manifest.model_copy(update={"options": ConvertOptions()}))
        named = manifest.views if manifest.options.views_per_sample == "named" else ()
        return ("calibrated", *named), others
    try:
        kind = converter_class(converter.name)
    except ActionImgError:
        # Of a plug-in that is not installed here.
        return manifest.views, converter.options
    if kind.views_field is None:
        return manifest.views, converter.options
    others = {name: value for name, value in converter.options.items() if name != kind.views_field}
    usual = kind.Options.model_fields[kind.views_field].get_default(call_default_factory=True)
    said = tuple(converter.options.get(kind.views_field, ()))
    return (manifest.views if said and said != tuple(usual) else ()), others


def command_of(manifest: DatasetManifest, out: str) -> str:
    """A command line that makes this data set."""
    options, converter = manifest.options, manifest.converter
    size = str(options.height) if options.height == options.width else f"{options.height}x{options.width}"
    words = ["actionimg", "convert", converter.name, *manifest.sources, out, "--size", size]
    views, others = _views_said(manifest)
    words += ["--views", ",".join(views)] if views else []
    usual: dict[str, Any] = {
        name: ConvertOptions.model_fields[name].default
        for name in (
            *("stride", "clip_frames", "action_codec", "rgb_codec", "crf", "rgb_preset", "rgb_crf"),
            *("episodes_per_shard", "split"),
            *("merge_arms", "depth", "masks", "refined_cameras", "check_calibration", "conditioning_cameras"),
        )
    }
    given = {name: getattr(options, name) for name, default in usual.items() if getattr(options, name) != default}
    for name, value in {**others, **given}.items():
        if value is None or value in ("", [], {}):
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    for word in options.calibration_gripper:
        words += ["--calibration-gripper", word]
    for kind in options.allow:
        words += ["--allow", kind]
    for name, value in options.limits.model_dump(exclude_defaults=True).items():
        words += ["--limit", f"{name}={value:g}"]
    if options.spec.resized(512, 512) != ActionImageSpec():
        words += ["--spec", f"{out}/dataset.json"]
    return shlex.join(words)


def keypoint_frame(
    sample: Sample, frame: int, spec: ActionImageSpec
) -> dict[str, tuple[FloatArray, NDArray[np.bool_]]]:
    """``uv (V, 3, 2)`` and ``valid (V, 3)`` of one frame's keypoints in all views, of each gripper."""
    one = slice(frame, frame + 1)
    cameras = [sample.cameras[view][one] for view in sample.views]
    found = {}
    for name, trajectory in sample.grippers.items():
        uv, valid = project_keypoints(trajectory[one], cameras, spec)
        found[name] = (uv[:, 0], valid[:, 0])
    return found
