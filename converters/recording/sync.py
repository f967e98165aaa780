"""The one synchroniser: streams with their own stamps, brought to the times of one camera's pictures.

* The master camera's capture times are the times of the episode. Of every other camera the nearest picture within
  half a period is taken, and no picture twice; a moment for which a camera has none is left out and counted.
* Positions are interpolated linearly, rotations by slerp, measured widths linearly; a command holds until the next.
* Nothing is extrapolated: moments before the first or after the last sample of a stream are left out and counted.
* A gap between poses that is longer than two periods and 50 ms is refused, never bridged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import EmptyEpisodeError, FrameCountError, InvalidArrayError, InvalidTrajectoryError
from ...geometry import rotations
from ...model import JointTrack
from ...schemas.plausibility import Finding

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

DEFAULT_MAX_POSE_GAP_S = 0.05
DEFAULT_MAX_FRAME_GAP_S = 0.5
_MAX_GAPS_LISTED = 20
_ROUNDING_S = 1e-6


@dataclass(frozen=True)
class StreamStatistics:
    """How regular a stream's stamps are.

    Args:
        samples: Samples as logged.
        start_s: First stamp.
        end_s: Last stamp.
        rate_hz: One over the median period; None for fewer than two samples.
        jitter_ms: 95th percentile of the distance of a period from the median one, gaps aside.
        missing: Samples that a constant rate would have had besides: the sum over gaps of the periods they span.
        gaps: ``(start_s, length_s)`` of the periods longer than 1.5 median ones, longest first, at most 20.
        duplicates: Stamps that occur again.
        out_of_order: Samples stamped earlier than one logged before them.
        not_finite: Samples that hold NaN or infinity.
    """

    samples: int
    start_s: float | None
    end_s: float | None
    rate_hz: float | None
    jitter_ms: float | None
    missing: int
    gaps: tuple[tuple[float, float], ...]
    duplicates: int
    out_of_order: int
    not_finite: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON values, rounded to microseconds."""

        def short(value: float | None) -> float | None:
            return None if value is None else round(value, 6)

        return {
            "samples": self.samples,
            "start_s": short(self.start_s),
            "end_s": short(self.end_s),
            "rate_hz": None if self.rate_hz is None else round(self.rate_hz, 3),
            "jitter_ms": None if self.jitter_ms is None else round(self.jitter_ms, 3),
            "missing": self.missing,
            "gaps": [[round(a, 6), round(b, 6)] for a, b in self.gaps],
            "duplicates": self.duplicates,
            "out_of_order": self.out_of_order,
            "not_finite": self.not_finite,
        }


def statistics(times: ArrayLike, not_finite: int = 0) -> StreamStatistics:
    """`StreamStatistics` of stamps ``(N,)`` in seconds, in the order in which they were logged."""
    raw = np.asarray(times, dtype=np.float64)
    raw = raw[np.isfinite(raw)]
    unique = np.unique(raw)
    ahead = np.maximum.accumulate(raw) if len(raw) else raw
    periods = np.diff(unique)
    if len(periods) == 0:
        start = float(unique[0]) if len(unique) else None
        return StreamStatistics(
            len(raw), start, start, None, None, 0, (), len(raw) - len(unique), int((raw < ahead).sum()), not_finite
        )
    period = float(np.median(periods))
    long = periods > 1.5 * period
    order = np.argsort(-periods[long], kind="stable")[:_MAX_GAPS_LISTED]
    starts, lengths = unique[:-1][long][order], periods[long][order]
    return StreamStatistics(
        samples=len(raw),
        start_s=float(unique[0]),
        end_s=float(unique[-1]),
        rate_hz=1 / period,
        jitter_ms=float(np.percentile(np.abs(periods[~long] - period), 95)) * 1e3,
        missing=int((np.round(periods[long] / period) - 1).sum()),
        gaps=tuple((float(a), float(b)) for a, b in zip(starts, lengths, strict=True)),
        duplicates=len(raw) - len(unique),
        out_of_order=int((raw < ahead).sum()),
        not_finite=not_finite,
    )


def median_period(times: FloatArray) -> float:
    """Median distance of neighbouring stamps; 0 for fewer than two."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def undropped_period(times: FloatArray) -> float:
    """Period of a stream as if nothing had been dropped: the lower quartile of its periods.

    The median grows with what was dropped, up to any length, and a limit that is made of it would let pass what it
    is there to find.
    """
    return float(np.quantile(np.diff(times), 0.25)) if len(times) > 1 else 0.0


def pose_gap_limit(times: FloatArray, stated: float | None = None) -> float:
    """Longest gap to interpolate over: as stated, else the longer of two periods and 50 ms."""
    return stated if stated is not None else max(2 * undropped_period(times), DEFAULT_MAX_POSE_GAP_S) + _ROUNDING_S


def _check_backwards(times: FloatArray, name: str) -> None:
    """Small disorder is mended by sorting; a larger step back means that a clock was set, which sorting would hide."""
    if len(times) < 2:
        return
    back = np.maximum.accumulate(times) - times
    worst = int(back.argmax())
    limit = max(2 * median_period(np.unique(times)), DEFAULT_MAX_POSE_GAP_S)
    if back[worst] > limit:
        raise InvalidTrajectoryError(
            "stamps go backwards",
            field=f"{name}: sample {worst}",
            expected=f"at most {limit:.3g} s out of order",
            found=f"{back[worst]:.3g} s back",
            hint="The clock was set or two recordings were joined; split the log there.",
        )


def ordered(times: ArrayLike, name: str, finite: NDArray[np.bool_] | None = None) -> IntArray:
    """Indices that sort a stream's samples in time, without repeated stamps and without samples that are not finite.

    Raises:
        InvalidTrajectoryError: Stamps that go back further than small disorder, or none that is finite.
    """
    t = np.asarray(times, dtype=np.float64)
    usable = np.isfinite(t) if finite is None else np.isfinite(t) & finite
    index = np.flatnonzero(usable)
    if len(index) == 0:
        raise InvalidTrajectoryError("has no finite sample", field=name, found=f"{len(t)} samples")
    _check_backwards(t[index], name)
    index = index[np.argsort(t[index], kind="stable")]
    first = np.concatenate([[True], np.diff(t[index]) > 0])
    return np.asarray(index[first])


def ordered_pictures(times: ArrayLike, name: str) -> IntArray:
    """Indices of the pictures whose stamps are later than all before them.

    Pictures cannot be sorted: their order in the video is the order in which they were taken, so that a stamp that is
    not later than the one before is the stamp's fault, and the picture is left out.

    Raises:
        InvalidTrajectoryError: Stamps that go back further than small disorder, or that are not finite.
    """
    t = np.asarray(times, dtype=np.float64)
    if not np.isfinite(t).all():
        raise InvalidTrajectoryError(
            "a picture's stamp is not finite", field=f"{name}: sample {int(np.argmin(np.isfinite(t)))}"
        )
    if len(t) == 0:
        raise EmptyEpisodeError("has no pictures", field=name)
    _check_backwards(t, name)
    latest = np.concatenate([[-np.inf], np.maximum.accumulate(t)[:-1]])
    return np.flatnonzero(t > latest)


@dataclass(frozen=True, eq=False)
class PoseSamples:
    """A stream of poses as logged.

    Args:
        times: ``(N,)`` seconds.
        position: ``(N, 3)`` metres.
        quaternion_xyzw: ``(N, 4)`` unit.
        findings: What cannot be true of the numbers that they were read from.
    """

    times: FloatArray
    position: FloatArray
    quaternion_xyzw: FloatArray
    findings: tuple[Finding, ...] = ()

    @property
    def finite(self) -> NDArray[np.bool_]:
        """``(N,)`` which samples are finite."""
        return np.asarray(np.isfinite(self.position).all(-1) & np.isfinite(self.quaternion_xyzw).all(-1))

    def cleaned(self, name: str) -> PoseSamples:
        """Sorted, without repeated stamps and samples that are not finite, quaternions sign-continuous."""
        index = ordered(self.times, name, self.finite)
        q = rotations.make_sign_continuous(rotations.normalize(self.quaternion_xyzw[index]))
        return PoseSamples(self.times[index], self.position[index], np.asarray(q))

    def at(self, times: FloatArray, name: str, max_gap_s: float | None) -> tuple[FloatArray, FloatArray]:
        """Positions ``(T, 3)`` and quaternions ``(T, 4)`` at ``times``, which lie within a `cleaned` stream.

        Raises:
            InvalidTrajectoryError: A time lies in a gap longer than the limit.
        """
        lower, fraction = _bracket(self.times, times)
        upper = np.minimum(lower + 1, len(self.times) - 1)
        _check_gaps(self.times, lower, upper, fraction, name, pose_gap_limit(self.times, max_gap_s))
        a, b = self.position[lower], self.position[upper]
        position = a + fraction[:, None] * (b - a)
        q = rotations.slerp(self.quaternion_xyzw[lower], self.quaternion_xyzw[upper], fraction)
        return position, np.asarray(q)


@dataclass(frozen=True, eq=False)
class ScalarSamples:
    """A stream of numbers as logged, e.g. how open the gripper is.

    Args:
        times: ``(N,)`` seconds.
        values: ``(N,)``.
        hold: Commands: a value holds until the next one. Otherwise values are measured and interpolated.
    """

    times: FloatArray
    values: FloatArray
    hold: bool = False

    def cleaned(self, name: str) -> ScalarSamples:
        """Sorted, without repeated stamps and samples that are not finite."""
        index = ordered(self.times, name, np.isfinite(self.values))
        return ScalarSamples(self.times[index], self.values[index], self.hold)

    def at(self, times: FloatArray, name: str, max_gap_s: float | None) -> FloatArray:
        """Values ``(T,)`` at ``times``, which are covered by a `cleaned` stream; errors as `PoseSamples.at`."""
        if self.hold:
            return self.values[np.searchsorted(self.times, times + _ROUNDING_S, side="right") - 1]
        lower, fraction = _bracket(self.times, times)
        upper = np.minimum(lower + 1, len(self.times) - 1)
        _check_gaps(self.times, lower, upper, fraction, name, pose_gap_limit(self.times, max_gap_s))
        a, b = self.values[lower], self.values[upper]
        return np.asarray(a + fraction * (b - a))

    def covers(self, times: FloatArray) -> NDArray[np.bool_]:
        """``(T,)`` which times need no extrapolation; a command holds after its last sample."""
        late = np.zeros(len(times), dtype=bool) if self.hold else times > self.times[-1] + _ROUNDING_S
        return np.asarray((times >= self.times[0] - _ROUNDING_S) & ~late)


@dataclass(frozen=True, eq=False)
class JointSamples:
    """A stream of joint values as logged.

    Args:
        times: ``(N,)`` seconds.
        values: ``(N, J)`` radians, of joints that slide metres.
        names: Of the joints; empty where the log does not say them.
    """

    times: FloatArray
    values: FloatArray
    names: tuple[str, ...] = ()

    def at(self, times: FloatArray) -> JointTrack | None:
        """The values at other times, between neighbouring samples; None where fewer than two are known."""
        known = np.isfinite(self.values).all(-1) & np.isfinite(self.times)
        stamps, first = np.unique(self.times[known], return_index=True)
        if len(stamps) < 2:
            return None
        values = self.values[known][first]
        return JointTrack(np.stack([np.interp(times, stamps, column) for column in values.T], 1), self.names)


def _bracket(times: FloatArray, at: FloatArray) -> tuple[IntArray, FloatArray]:
    """Index of the last sample at or before each of ``at``, and how far on the way to the next it is, in [0, 1]."""
    if len(times) == 1:
        return np.zeros(len(at), dtype=np.intp), np.zeros(len(at))
    lower = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2)
    fraction = (at - times[lower]) / (times[lower + 1] - times[lower])
    return lower, np.clip(fraction, 0.0, 1.0)


def _check_gaps(
    times: FloatArray, lower: IntArray, upper: IntArray, fraction: FloatArray, name: str, limit: float
) -> None:
    # A moment that coincides with a sample needs no neighbour, however far that is.
    inside = (fraction > 1e-9) & (fraction < 1 - 1e-9)
    gap = np.where(inside, times[upper] - times[lower], 0.0)
    if len(gap) and gap.max() > limit:
        worst = int(gap.argmax())
        raise InvalidTrajectoryError(
            "has a gap that is too long to interpolate over",
            field=f"{name}: {times[lower[worst]]:.3f} s",
            expected=f"≤ {limit:.3g} s",
            found=f"{gap[worst]:.3g} s",
        )


def nearest(times: FloatArray, at: FloatArray) -> tuple[IntArray, FloatArray]:
    """Index of the sample nearest to each of ``at`` ``(T,)``, and the distance ``(T,)`` in seconds."""
    after = np.clip(np.searchsorted(times, at), 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    index = np.where(np.abs(times[before] - at) <= np.abs(times[after] - at), before, after)
    return index, np.abs(times[index] - at)


@dataclass(frozen=True)
class SyncLimits:
    """What the synchroniser refuses.

    Args:
        max_pose_gap_s: Longest gap between poses to interpolate over; None: the longer of two periods and 50 ms.
        max_frame_gap_s: Longest gap between neighbouring pictures of the result.
    """

    max_pose_gap_s: float | None = None
    max_frame_gap_s: float = DEFAULT_MAX_FRAME_GAP_S


@dataclass(frozen=True, eq=False)
class Synced:
    """Streams at common times.

    Args:
        times: ``(T,)`` seconds, the master camera's stamps.
        frames: For each view ``(T,)`` indices of its pictures.
        position: ``(T, 3)``.
        quaternion_xyzw: ``(T, 4)``.
        values: ``(T,)`` of the gripper.
        extra: Further pose streams at the same times.
        residual_s: ``(T,)`` distance to the nearest measured pose, of several grippers the largest.
        fps: One over the median period of ``times``.
        report: What was left out and how far views lie apart, as JSON values.
        others: Of further grippers, by name: positions, quaternions and values at the same times.
    """

    times: FloatArray
    frames: Mapping[str, IntArray]
    position: FloatArray
    quaternion_xyzw: FloatArray
    values: FloatArray
    extra: Mapping[str, tuple[FloatArray, FloatArray]]
    residual_s: FloatArray
    fps: float
    report: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, tuple[FloatArray, FloatArray, FloatArray]] = field(default_factory=dict)


def default_master(cameras: Mapping[str, FloatArray]) -> str:
    """The slowest camera, so that no other camera's picture is asked for twice; of equals the first."""
    for name, times in cameras.items():
        if not np.isfinite(times).all():
            raise InvalidTrajectoryError(
                "has a stamp that is not finite", field=f"{name}: picture {int(np.argmin(np.isfinite(times)))}"
            )
    periods = {name: median_period(np.unique(times)) for name, times in cameras.items()}
    slowest = max(periods.values())
    return next(name for name, period in periods.items() if period >= 0.99 * slowest)


def _match(master: FloatArray, other: FloatArray) -> tuple[IntArray, FloatArray, NDArray[np.bool_]]:
    """The picture of another camera nearest to each of the master's, its distance, and whether it may be used."""
    index, distance = nearest(other, master)
    usable = distance <= median_period(other) / 2 + _ROUNDING_S
    # Of two moments that want the same picture the nearer one has it.
    for i in np.flatnonzero(np.diff(index) == 0):
        usable[i if distance[i] > distance[i + 1] else i + 1] = False
    return index, distance, usable


def synchronize(
    cameras: Mapping[str, FloatArray],
    poses: PoseSamples,
    gripper: ScalarSamples,
    *,
    master: str | None = None,
    extra: Mapping[str, PoseSamples] | None = None,
    limits: SyncLimits | None = None,
    wanted: Mapping[str, NDArray[np.bool_]] | None = None,
    others: Mapping[str, tuple[PoseSamples, ScalarSamples]] | None = None,
) -> Synced:
    """Bring streams to the times of one camera's pictures.

    Args:
        cameras: Stamps ``(N_v,)`` of each view's pictures in seconds, offsets applied, in the pictures' order.
        poses: The end-effector's poses.
        gripper: How open the gripper is.
        master: The view whose pictures set the times; the slowest if None.
        extra: Further pose streams that the views need (tracked cameras).
        limits: What to refuse.
        wanted: For some views ``(N_v,)`` which pictures the log means to be used; the others are left out where that
            view is the master, and leave no gap behind that would be refused.
        others: Poses and openness of further grippers, by name.

    Raises:
        EmptyEpisodeError: The streams do not overlap in time, or in fewer than two pictures.
        InvalidTrajectoryError: A gap, or stamps that go backwards.
    """
    if not cameras:
        raise EmptyEpisodeError("has no cameras")
    limits = limits or SyncLimits()
    # Pictures' stamps are looked at before anything is made of them.
    kept = {name: ordered_pictures(times, name) for name, times in cameras.items()}
    stamps = {name: np.asarray(cameras[name], dtype=np.float64)[kept[name]] for name in cameras}
    master = master or default_master(stamps)
    streams = {"pose": poses.cleaned("pose")}
    streams.update({name: samples.cleaned(name) for name, samples in (extra or {}).items()})
    others = others or {}
    streams.update({f"pose of {name}": arm[0].cleaned(f"pose of {name}") for name, arm in others.items()})
    widths = {"gripper": gripper.cleaned("gripper")}
    widths.update({f"gripper {name}": arm[1].cleaned(f"gripper {name}") for name, arm in others.items()})

    times = stamps[master]
    frames, distances = {master: kept[master]}, {}
    usable = np.ones(len(times), dtype=bool)
    unmatched = {}
    for name in cameras:
        if name == master:
            continue
        index, distance, good = _match(times, stamps[name])
        frames[name], distances[name] = kept[name][index], distance
        unmatched[name] = int((~good).sum())
        usable &= good

    covered = np.logical_and.reduce([width.covers(times) for width in widths.values()])
    for stream in streams.values():
        covered &= (times >= stream.times[0] - _ROUNDING_S) & (times <= stream.times[-1] + _ROUNDING_S)
    chosen = np.flatnonzero(usable & covered)
    if len(chosen) < 2:
        raise EmptyEpisodeError(
            "the streams overlap in fewer than two pictures",
            expected="≥ 2",
            found=f"{len(chosen)} of {len(times)}",
            hint=f"Pictures from {times[0]:.3f} to {times[-1]:.3f} s, "
            f"poses from {streams['pose'].times[0]:.3f} to {streams['pose'].times[-1]:.3f} s.",
        )
    periods = np.diff(times[chosen])
    if periods.max() > limits.max_frame_gap_s:
        worst = int(periods.argmax())
        raise InvalidTrajectoryError(
            "has a gap between pictures",
            field=f"{master}: {times[chosen[worst]]:.3f} s",
            expected=f"≤ {limits.max_frame_gap_s:g} s",
            found=f"{periods[worst]:.3g} s",
        )
    period, longest = float(np.median(periods)), float(periods.max())
    meant = np.ones(len(chosen), dtype=bool)
    if wanted is not None and master in wanted:
        meant = wanted[master][kept[master][chosen]]
        if meant.sum() < 2:
            raise EmptyEpisodeError(
                "the log means fewer than two pictures to be used", expected="≥ 2", found=meant.sum()
            )
    chosen = chosen[meant]
    times = times[chosen]
    at = {name: stream.at(times, name, limits.max_pose_gap_s) for name, stream in streams.items()}
    values = {name: width.at(times, name, limits.max_pose_gap_s) for name, width in widths.items()}
    position, quaternion = at.pop("pose")
    arms = ["pose", *(f"pose of {name}" for name in others)]
    report = {
        "master": master,
        "pictures": {name: len(np.asarray(cameras[name])) for name in cameras},
        "frames": len(times),
        "left_out": {
            "no_picture_of": unmatched,
            "not_covered": int((usable & ~covered).sum()),
            "not_meant": int((~meant).sum()),
            "picture_stamps_not_increasing": {n: len(np.asarray(cameras[n])) - len(kept[n]) for n in cameras},
            "poses": len(poses.times) - len(streams["pose"].times),
        },
        "view_residual_ms": {
            name: {"median": round(float(np.median(d[chosen])) * 1e3, 3), "max": round(float(d[chosen].max()) * 1e3, 3)}
            for name, d in distances.items()
        },
        "longest_period_ms": round(longest * 1e3, 3),
    }
    return Synced(
        times=times,
        frames={name: frames[name][chosen] for name in cameras},
        position=position,
        quaternion_xyzw=quaternion,
        values=values["gripper"],
        residual_s=np.max([nearest(streams[name].times, times)[1] for name in arms], axis=0),
        fps=round(1 / period, 3),
        report=report,
        others={name: (*at.pop(f"pose of {name}"), values[f"gripper {name}"]) for name in others},
        extra=at,
    )


def by_rows(
    counts: Mapping[str, int],
    poses: PoseSamples,
    gripper: ScalarSamples,
    fps: float,
    extra: Mapping[str, PoseSamples] | None = None,
    others: Mapping[str, tuple[PoseSamples, ScalarSamples]] | None = None,
) -> Synced:
    """Streams whose sample i belongs to picture i; times are made up from the stated rate.

    Raises:
        FrameCountError: A stream has another number of samples than the poses.
        InvalidTrajectoryError: A sample is not finite: rows cannot be left out without moving all after them.
    """
    n = len(poses.position)
    others = others or {}
    streams = {"pose": poses, **(extra or {}), **{f"pose of {name}": arm[0] for name, arm in others.items()}}
    widths = {"gripper": gripper, **{f"gripper {name}": arm[1] for name, arm in others.items()}}
    lengths = {
        **counts,
        **{name: len(width.values) for name, width in widths.items()},
        **{name: len(stream.position) for name, stream in streams.items()},
    }
    for name, length in lengths.items():
        if length != n:
            raise FrameCountError(
                "streams that belong together row by row differ in length",
                field=name,
                expected=f"{n}, one for each pose",
                found=length,
            )
    if n == 0:
        raise EmptyEpisodeError("has no poses")
    missing = {name: ~np.isfinite(width.values) for name, width in widths.items()}
    missing.update({name: ~stream.finite for name, stream in streams.items()})
    for name, bad in missing.items():
        if bad.any():
            raise InvalidTrajectoryError(
                "is not finite",
                field=f"{name}: row {int(bad.argmax())}",
                found="all rows" if bad.all() else f"{int(bad.sum())} rows",
            )
    if not (np.isfinite(fps) and fps > 0):
        raise InvalidArrayError("must be positive", field="fps", found=fps)

    def clean(stream: PoseSamples) -> tuple[FloatArray, FloatArray]:
        q = rotations.make_sign_continuous(rotations.normalize(stream.quaternion_xyzw))
        return stream.position, np.asarray(q)

    position, quaternion = clean(poses)
    return Synced(
        times=np.arange(n) / fps,
        frames={name: np.arange(n) for name in counts},
        position=position,
        quaternion_xyzw=quaternion,
        values=gripper.values,
        extra={name: clean(stream) for name, stream in (extra or {}).items()},
        others={name: (*clean(arm[0]), arm[1].values) for name, arm in others.items()},
        residual_s=np.zeros(n),
        fps=fps,
        report={"rows": n},
    )
