"""The picture that was shown at a time: places in a container that are given in time are found by its own stamps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import BadVideoError

FloatArray = NDArray[np.float64]
FRAME_TIME = 0.25
"""How far the nearest picture may be, in periods: half of one would be as near to the next."""
_ROUNDING_S = 1e-6


def frames_at(
    stamps: FloatArray, times: FloatArray, period_s: float, where: object, part: float = FRAME_TIME
) -> NDArray[np.intp]:
    """Indices ``(T,)`` of the pictures shown at ``times``.

    Args:
        stamps: ``(N,)`` seconds at which the container shows each of its pictures, increasing.
        times: ``(T,)`` seconds, increasing.
        period_s: Between two pictures, as it is stated.
        where: For errors.
        part: Largest distance of a picture from its time, in periods.

    Raises:
        BadVideoError: No picture is near enough: it was lost, or the container runs at another rate.
    """
    after = np.clip(np.searchsorted(stamps, times), 0, len(stamps) - 1)
    before = np.maximum(after - 1, 0)
    index = np.where(np.abs(stamps[before] - times) <= np.abs(stamps[after] - times), before, after)
    distance = np.abs(stamps[index] - times)
    far = np.flatnonzero(distance > part * period_s + _ROUNDING_S)
    if len(far):
        worst = int(far[0])
        raise BadVideoError(
            "has no picture at a time that is asked for",
            where=where,
            field=f"{times[worst]:.4f} s",
            expected=f"one within {part * period_s * 1e3:.3g} ms",
            found=f"{distance[worst] * 1e3:.4g} ms away; so are {len(far)} of {len(times)}",
            hint="Pictures were lost, or the video runs at another rate than is stated.",
        )
    return np.asarray(index, np.intp)
