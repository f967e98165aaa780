"""Stamps that cannot be those of a clock that ran: rounded, repeated, zero, or of another time zone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ..model import StreamSamples
from ..schemas.plausibility import FindingKind, Limits
from .motion import Found

FloatArray = NDArray[np.float64]

_MIN_SAMPLES = 6
_QUARTER_HOUR_S = 900.0
_OFFSET_MARGIN_S = 60.0
_EPOCH_S = 1e8
_RESOLUTIONS = (60.0, 30.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.25, 0.2, 0.1, 0.05, 0.04, 0.02, 0.01, 5e-3, 2e-3, 1e-3)


def stamps(stream: StreamSamples, limits: Limits) -> Iterator[Found]:
    """What cannot be true of the stamps of one stream."""
    if stream.made_up:
        return
    rows = np.flatnonzero(np.isfinite(stream.times))
    times = stream.times[rows]
    if len(times) < 2:
        return
    zero = np.flatnonzero(times == 0)
    others = times[times != 0]
    if len(zero) and len(others) and np.abs(np.median(others)) > _EPOCH_S:
        yield (
            "zero-stamps",
            (int(rows[zero[0]]), int(rows[zero[-1]])),
            f"{len(zero)} stamps of 0",
            f"stamps near {np.median(others):.0f} s",
        )
        return
    if stream.position is not None:
        twice = list(_equal(rows, times, stream.position, limits))
        yield from twice
        if twice:
            return
    coarse = _coarse(times, limits)
    if coarse is not None:
        yield coarse


def _coarse(times: FloatArray, limits: Limits) -> Found | None:
    if len(times) < _MIN_SAMPLES:
        return None
    unique = np.unique(times)
    mean = (unique[-1] - unique[0]) / (len(times) - 1)
    if len(unique) < 0.7 * len(times):
        step = float(np.median(np.diff(unique))) if len(unique) > 1 else 0.0
        return (
            "coarse-stamps",
            None,
            f"{len(times)} samples have {len(unique)} different stamps"
            + (f", {step:.4g} s apart" if step else "")
            + (", as 32-bit floats or ten digits leave of seconds since 1970" if unique[-1] > _EPOCH_S else ""),
            "a stamp for each sample",
        )
    periods = np.diff(unique)
    median = float(np.median(periods))
    # Samples that were dropped leave gaps of whole periods, which rounding does not.
    whole = np.abs(periods / median - np.rint(periods / median)) < 0.02
    if whole.all():
        return None
    origin = unique - unique[0]
    for resolution in _RESOLUTIONS:
        if resolution <= limits.stamp_resolution * mean:
            return None
        if np.abs(origin / resolution - np.rint(origin / resolution)).max() * resolution < 1e-6 * max(1.0, origin[-1]):
            return (
                "coarse-stamps",
                None,
                f"all stamps are multiples of {resolution:g} s, and the samples {mean:.3g} s apart",
                f"a resolution of {limits.stamp_resolution:g} of that at most",
            )
    return None


def _equal(rows: NDArray[np.intp], times: FloatArray, position: FloatArray, limits: Limits) -> Iterator[Found]:
    order = np.argsort(times, kind="stable")
    same = np.flatnonzero(np.diff(times[order]) == 0)
    if len(same) == 0:
        return
    a, b = rows[order[same]], rows[order[same + 1]]
    apart = np.linalg.norm(position[a] - position[b], axis=1)
    bad = np.isfinite(apart) & (apart > limits.equal_stamp_m)
    if bad.any():
        worst = int(np.where(bad, apart, 0).argmax())
        pair = sorted((int(a[worst]), int(b[worst])))
        yield (
            "equal-stamps",
            (pair[0], pair[1]),
            f"two poses {apart[worst] * 1e3:.0f} mm apart have one stamp; {int(bad.sum())} such pairs",
            f"at most {limits.equal_stamp_m * 1e3:g} mm: two sources in one stream, or a clock that stood still",
        )


def clock_offset(streams: Mapping[str, StreamSamples]) -> tuple[str, str, str] | None:
    """Stream, found and expected, where streams do not overlap and lie whole quarters of an hour apart."""
    spans = {}
    for name, stream in streams.items():
        finite = stream.times[np.isfinite(stream.times)]
        if len(finite) and not stream.made_up:
            spans[name] = (float(finite.min()), float(finite.max()))
    if len(spans) < 2:
        return None
    reference = next((n for n, s in streams.items() if s.kind == "pictures" and n in spans), next(iter(spans)))
    start, end = spans[reference]
    for name, (first, last) in spans.items():
        if first <= end and last >= start:
            continue
        apart = first - start
        quarters = round(apart / _QUARTER_HOUR_S)
        if abs(apart) > 86_400 * 30 and min(abs(first), abs(start)) < _EPOCH_S < max(abs(first), abs(start)):
            early = name if abs(first) < abs(start) else reference
            return (
                name,
                f"{name} begins at {first:.3f} s, {reference} at {start:.3f} s",
                f"one clock: does {early} count from its own beginning? Say when that was with time.start",
            )
        if (
            quarters
            and abs(apart - quarters * _QUARTER_HOUR_S) < _OFFSET_MARGIN_S + (end - start)
            and abs(apart) < 93_600
        ):
            return (
                name,
                f"{name} begins {apart / 3600:+.2f} h from {reference}",
                "clocks of one time zone: say time.zone (Europe/Berlin) or time.offset_s "
                f"({-quarters * _QUARTER_HOUR_S:g})",
            )
    return None


KIND_OF_OFFSET: FindingKind = "clock-offset"
