"""One decoded prediction against the truth: figures of every frame, and of the clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..decode import BlobMeasurements, DecodedTrajectory
from ..geometry import rotations
from ..model import Camera, CameraTrack, GripperTrajectory
from ..raster import project_keypoints
from ..schemas import ActionImageSpec

FloatArray = NDArray[np.float64]

WEAK_PEAK: Final = 0.5
"""A blob whose fitted peak is under this is weak: half as bright as it should be."""
EVENT_WINDOW_S: Final = 1.0
"""An opening or closing is found if one of the same direction is within this many seconds."""
RIGHT_MM: Final = 10.0
RIGHT_DEG: Final = 5.0
"""What counts as right where trust is calibrated; also what `DecodedTrajectory.trust` is the probability of."""
FRAME_COLUMNS: Final = (
    "frame", "time_s", "valid", "trust", "position_mm", "rotation_deg", "axis_x_deg", "axis_y_deg", "axis_z_deg",
    "held_position_mm", "held_rotation_deg", "openness", "openness_true", "peak", "strong", "published_mm",
)  # fmt: skip
"""Figures of a frame, as floats; NaN where there is none. ``openness`` values are 0 or 1."""


@dataclass(frozen=True)
class Estimate:
    """Poses to be scored: decoded, or of a baseline."""

    position: FloatArray
    """``(T, 3)``; NaN where there is none."""
    rotation: FloatArray
    """``(T, 3, 3)``."""
    openness: FloatArray
    """``(T,)``; NaN where it is not known."""
    valid: NDArray[np.bool_]
    trust: FloatArray
    reason: NDArray[np.str_]

    @classmethod
    def decoded(cls, decoded: DecodedTrajectory) -> Estimate:
        """What a decoder found."""
        found = decoded.trajectory
        return cls(found.position, found.rotation, found.openness, decoded.valid, decoded.trust, decoded.reason)

    @classmethod
    def of(cls, trajectory: GripperTrajectory) -> Estimate:
        """A trajectory that is sure of itself where it is known."""
        known = trajectory.known
        reason = np.where(known, "ok", "unknown")
        return cls(trajectory.position, trajectory.rotation, trajectory.openness, known, known.astype(float), reason)


@dataclass
class Scored:
    """A prediction's figures.

    Args:
        frames: ``(T,)`` float arrays by `FRAME_COLUMNS`; frames whose truth is not known are left out.
        reasons: ``(T,)`` why a frame has no pose, "ok" where it has one.
        clip: Figures of the whole clip (`schemas.evaluation.ClipScores`); NaN where there is none.
        event_errors_s: Seconds by which each opening and closing that was found is late.
        events: Openings and closings of the truth.
        invented: Those of the prediction that the truth has not.
        rgb: PSNR, SSIM and LPIPS of each frame, where camera pictures were generated.
        about: What names the prediction: prediction, key, task, start, stride, gripper_name, views, size.
    """

    frames: dict[str, FloatArray]
    reasons: NDArray[np.str_]
    clip: dict[str, float]
    event_errors_s: list[float] = field(default_factory=list)
    events: int = 0
    invented: int = 0
    rgb: dict[str, FloatArray] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, floats with six digits after the point."""
        return {
            "frames": {name: _plain(values) for name, values in self.frames.items()},
            "reasons": self.reasons.tolist(),
            "clip": {name: _digits(value) for name, value in self.clip.items()},
            "event_errors_s": self.event_errors_s,
            "events": self.events,
            "invented": self.invented,
            "rgb": {name: _plain(values) for name, values in self.rgb.items()},
            "about": self.about,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Scored:
        """What `to_json` made."""
        return cls(
            {name: _array(values) for name, values in value["frames"].items()},
            np.asarray(value["reasons"], dtype=np.str_),
            {name: np.nan if number is None else number for name, number in value["clip"].items()},
            list(value["event_errors_s"]),
            value["events"],
            value["invented"],
            {name: _array(values) for name, values in value["rgb"].items()},
            dict(value["about"]),
        )


def _digits(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _plain(values: FloatArray) -> list[float | None]:
    return [None if value != value else value for value in np.round(values, 6).tolist()]


def _array(values: Sequence[float | None]) -> FloatArray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def score(
    estimate: Estimate,
    truth: GripperTrajectory,
    frames: NDArray[np.int64],
    spec: ActionImageSpec,
    *,
    blobs: tuple[FloatArray, NDArray[np.bool_]] | None = None,
    published_mm: FloatArray | None = None,
) -> Scored:
    """The figures of an estimate.

    Args:
        estimate: T poses.
        truth: T poses.
        frames: ``(T,)`` numbers of the frames in their sample.
        spec: How the pictures are drawn, for the threshold of openness.
        blobs: Weakest peak ``(T,)`` and whether two views are strong ``(T,)``, of `blob_health`.
        published_mm: ``(T,)`` position error of the published decoder.
    """
    known = truth.known
    position, rotation = truth.position, truth.rotation
    valid = estimate.valid & known
    distance = np.full(len(truth), np.nan)
    angle, axes = distance.copy(), np.full((len(truth), 3), np.nan)
    distance[valid] = 1000 * np.linalg.norm(estimate.position[valid] - position[valid], axis=-1)
    angle[valid], axes[valid] = angles(estimate.rotation[valid], rotation[valid])
    held_position, held_angle = _held(estimate, truth)
    peak, strong = blobs if blobs is not None else (np.full(len(truth), np.nan), np.full(len(truth), np.nan))
    threshold = spec.openness_threshold
    columns = {
        "frame": frames,
        "time_s": truth.times - truth.times[0],
        "valid": valid,
        "trust": np.where(valid, estimate.trust, 0.0),
        "position_mm": distance,
        "rotation_deg": angle,
        "axis_x_deg": axes[:, 0],
        "axis_y_deg": axes[:, 1],
        "axis_z_deg": axes[:, 2],
        "held_position_mm": held_position,
        "held_rotation_deg": held_angle,
        "openness": _binary(estimate.openness, threshold),
        "openness_true": _binary(truth.openness, threshold),
        "peak": peak,
        "strong": strong,
        "published_mm": published_mm if published_mm is not None else np.full(len(truth), np.nan),
    }
    errors, events, invented = _events(columns["openness"], columns["openness_true"], truth.times)
    table = {name: np.asarray(columns[name], np.float64)[known] for name in FRAME_COLUMNS}
    reasons = np.where(estimate.valid, "ok", estimate.reason)[known]
    return Scored(table, reasons, _clip(estimate, truth, table), errors, events, invented)


def angles(found: FloatArray, true: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Geodesic degrees ``(N,)`` between rotations ``(N, 3, 3)``, and degrees ``(N, 3)`` between their axes x, y, z."""
    if not len(found):
        return np.empty(0), np.empty((0, 3))
    whole = np.rad2deg(np.asarray(rotations.angle_between(found, true)))
    cross = np.linalg.norm(np.cross(found, true, axis=-2), axis=-2)
    return whole, np.rad2deg(np.arctan2(cross, np.sum(found * true, axis=-2)))


def _binary(openness: FloatArray, threshold: float) -> FloatArray:
    return np.where(np.isfinite(openness), openness > threshold, np.nan)


def _held(estimate: Estimate, truth: GripperTrajectory) -> tuple[FloatArray, FloatArray]:
    """Errors of all frames when one without a pose holds the last one, at first the condition: the first true pose."""
    count = len(truth)
    at = np.maximum.accumulate(np.where(estimate.valid, np.arange(count), -1))
    before = at < 0
    rows = np.maximum(at, 0)
    position = np.where(before[:, None], truth.position[0], estimate.position[rows])
    rotation = np.where(before[:, None, None], truth.rotation[0], estimate.rotation[rows])
    usable = truth.known & np.isfinite(position).all(-1)
    distance, angle = np.full(count, np.nan), np.full(count, np.nan)
    distance[usable] = 1000 * np.linalg.norm(position[usable] - truth.position[usable], axis=-1)
    angle[usable] = angles(rotation[usable], truth.rotation[usable])[0]
    return distance, angle


def _events(found: FloatArray, true: FloatArray, times: FloatArray) -> tuple[list[float], int, int]:
    """Seconds by which each opening or closing is late, how many the truth has, and how many were invented.

    Each of the truth's is matched, nearest pairs first, to one of the same direction within `EVENT_WINDOW_S`.
    """
    changes = [_changes(values, times) for values in (found, true)]
    pairs = sorted(
        (abs(late - when), i, j, late - when)
        for i, (late, up) in enumerate(changes[0])
        for j, (when, also) in enumerate(changes[1])
        if up == also and abs(late - when) <= EVENT_WINDOW_S
    )
    taken: tuple[set[int], set[int]] = (set(), set())
    errors = []
    for _, i, j, error in pairs:
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            errors.append(float(error))
    return errors, len(changes[1]), len(changes[0]) - len(errors)


def _changes(values: FloatArray, times: FloatArray) -> list[tuple[float, bool]]:
    """Time of the first frame of each new state, and whether it is open; frames that are not known are skipped."""
    known = np.flatnonzero(np.isfinite(values))
    steps = np.flatnonzero(np.diff(values[known])) + 1
    return [(float(times[known[i]]), bool(values[known[i]])) for i in steps]


def _clip(estimate: Estimate, truth: GripperTrajectory, table: Mapping[str, FloatArray]) -> dict[str, float]:
    first = len(table["frame"]) > 0 and bool(truth.known[0])
    rough = [_roughness(estimate.position, estimate.valid), _roughness(truth.position, truth.known)]
    return {
        "first_frame_position_mm": float(table["position_mm"][0]) if first else np.nan,
        "first_frame_rotation_deg": float(table["rotation_deg"][0]) if first else np.nan,
        "drift_mm_per_s": _slope(table["position_mm"], table["time_s"]),
        "drift_deg_per_s": _slope(table["rotation_deg"], table["time_s"]),
        "roughness_ratio": rough[0] / rough[1] if rough[1] > 0 else np.nan,
    }


def _slope(values: FloatArray, times: FloatArray, most: int = 200) -> float:
    """Median slope of all pairs (Theil-Sen), of up to ``most`` of the finite values."""
    known = np.flatnonzero(np.isfinite(values))
    known = known[:: max(1, len(known) // most)]
    if len(known) < 4:
        return np.nan
    one, other = np.triu_indices(len(known), 1)
    one, other = known[one], known[other]
    return float(np.median((values[other] - values[one]) / (times[other] - times[one])))


def _roughness(position: FloatArray, valid: NDArray[np.bool_]) -> float:
    """Root mean square length of the third difference, over runs of four frames that all have a pose."""
    whole = valid[:-3] & valid[1:-2] & valid[2:-1] & valid[3:]
    if not whole.any():
        return np.nan
    third = np.diff(position, 3, axis=0)[whole]
    return float(np.sqrt(np.mean(np.sum(third**2, axis=-1))))


def blob_health(
    measured: Sequence[BlobMeasurements],
    truth: GripperTrajectory,
    cameras: Mapping[str, Camera | CameraTrack],
    spec: ActionImageSpec,
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """How the blobs look that the true pose shows.

    Returns:
        The weakest peak ``(T,)`` of the blobs that should be inside a picture, 0 for a missing one, NaN where there
        should be none; and whether at least two views show all three, each with a peak of `WEAK_PEAK` or more ``(T,)``.
    """
    uv, valid = project_keypoints(truth, cameras, spec)
    expected = valid & ((uv >= 0) & (uv <= [spec.width - 1, spec.height - 1])).all(-1)
    peaks = np.nan_to_num(np.stack([view.amplitude for view in measured]), nan=0.0)
    weakest = np.where(expected, peaks, np.inf).min(axis=(0, 2))
    strong = (expected & (peaks >= WEAK_PEAK)).all(axis=-1).sum(axis=0) >= 2
    return np.where(np.isfinite(weakest), weakest, np.nan), strong
