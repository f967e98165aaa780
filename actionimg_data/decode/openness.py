"""Open or closed, from the brightness of blue away from its blob over a clip; numpy and torch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..geometry.arrays import array_namespace
from ..geometry.drawing import in_picture
from ..schemas import ActionImageSpec
from .blobs import within

Array = Any

LEAST_SAMPLES = 8
SNAP_PEAK = 0.1
"""Blobs this near to the spec's height count as of the spec's."""
SNAP_PEDESTAL = 0.3
"""Pedestals whose height is seen within this share of the expected count as of that height."""
LEAST_PEDESTAL = 0.08
"""Least share of the expected height that a curve between intensities and grey levels may leave of it."""
SNAP_GROUND = 0.02
"""Grounds under this are codecs' and noise's, and count as black."""
LEAST_GAP = 0.4
"""Least distance of two levels, over the pedestal's height, to be those of open and closed."""
LEAST_SPREAD = 0.12
"""Standard deviation of a level, over the pedestal's height, that is always allowed for."""


class Openness(NamedTuple):
    """What a clip's pictures say; see `openness_of_clip`."""

    openness: Array
    """``(T,)`` as the spec draws it (0 or 1, or clipped to [0, 1]); NaN where no picture tells it."""
    level: Array
    """``(T,)`` pedestal over its height when open; NaN likewise."""
    probability: Array
    """``(T,)`` of being more open than half; NaN likewise."""
    levels: tuple[float, float]
    """Found for closed and open; NaN where the clip shows no such frame."""


def height_when_open(peak: float, seen: float | None, spec: ActionImageSpec) -> float:
    """Height of the pedestal when open, intensity.

    Args:
        peak: Height of the blue blobs.
        seen: The same as the pictures show it (`appearance.pedestal_height`); None where they were not asked.
        spec: Whose pedestal it is.
    """
    expected = spec.pedestal * (1.0 if abs(peak - 1) <= SNAP_PEAK else peak)
    if seen is None or abs(seen / expected - 1) <= SNAP_PEDESTAL:
        return expected
    return min(max(seen, LEAST_PEDESTAL * expected), expected / LEAST_PEDESTAL)


def openness_of_clip(
    level: Array,
    samples: Array,
    ground: Array,
    height: Array,
    uv: Array,
    shown: Array,
    expected: Array,
    spec: ActionImageSpec,
) -> Openness:
    """Openness from the pedestals of all views.

    What lies under red and green as well is light that falls
    on all channels. Over a clip two levels far apart are closed and open wherever they lie; of one alone it is asked
    which it is nearer to.

    Args:
        level: ``(V, T)`` intensity of blue away from its blob.
        samples: ``(V, T)`` number of samples behind each.
        ground: ``(V, T)`` the same of red and green.
        height: ``(V,)`` of the pedestals when open, intensity; see `height_when_open`.
        uv: ``(V, T, 3, 2)`` pixels of the blobs.
        shown: ``(V, T, 3)`` bool, whether the view shows the blob.
        expected: ``(V, T)`` bool, whether the other blobs say that blue's is in the picture.
        spec: Whose pedestal and kind of openness these are.
    """
    xp = array_namespace(level)
    under = xp.where(ground > SNAP_GROUND, ground, xp.zeros_like(ground))
    relative = (level - under) / height[:, None]
    blue = shown[..., 2]
    if spec.ground == "in_view":
        # Elsewhere nothing is drawn of the openness, and black says nothing.
        best = shown[..., 0] & in_picture(uv[..., 0, :], spec)
    else:
        # A view that shows other blobs but no blue one may have lost all of blue; it has where that should be there.
        best = blue | (xp.any(shown, axis=-1) & ~xp.any(blue, axis=0)[None, :] & ~expected)
    tells = (samples >= LEAST_SAMPLES) & (best | (relative > 0.5))
    weight = xp.where(tells, xp.astype(samples, level.dtype), xp.zeros_like(level))
    total = xp.sum(weight, axis=0)
    known = total > 0
    mean = xp.sum(weight * relative, axis=0) / xp.where(known, total, xp.ones_like(total))
    low, high, spread = _two_levels(mean[known].tolist())
    middle = 0.5 * (low + high)
    binary = spec.openness == "binary"
    z = (mean - (middle if binary else 0.5)) / spread
    probability = 0.5 + 0.5 * xp.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))
    drawn = xp.astype(mean > middle, level.dtype) if binary else within(xp, mean, 0.0, 1.0)
    nan = xp.full_like(mean, xp.nan)
    opened = bool(xp.any(known & (mean > middle)))
    closed = bool(xp.any(known & (mean <= middle)))
    return Openness(
        xp.where(known, drawn, nan),
        xp.where(known, mean, nan),
        xp.where(known, probability, nan),
        (low if closed else math.nan, high if opened else math.nan),
    )


def _two_levels(values: list[float]) -> tuple[float, float, float]:
    """Closed and open as found in a clip, and the standard deviation about them; 0 and 1 if the clip shows only one."""
    low, high = 0.0, 1.0
    if len(values) >= 4:
        a, b = min(values), max(values)
        for _ in range(10):
            cut = 0.5 * (a + b)
            under, over = [v for v in values if v <= cut], [v for v in values if v > cut]
            if not over:
                break
            a, b = sum(under) / len(under), sum(over) / len(over)
        under, over = [v for v in values if v <= 0.5 * (a + b)], [v for v in values if v > 0.5 * (a + b)]
        if over and len(under) >= 2 and len(over) >= 2:
            spread = math.sqrt((sum((v - a) ** 2 for v in under) + sum((v - b) ** 2 for v in over)) / len(values))
            if b - a > max(LEAST_GAP, 3 * spread):
                return a, b, max(spread, LEAST_SPREAD)
    rest = [v - (0.0 if v <= 0.5 else 1.0) for v in values]
    spread = math.sqrt(sum(r * r for r in rest) / len(rest)) if rest else 0.0
    return low, high, max(spread, LEAST_SPREAD)
