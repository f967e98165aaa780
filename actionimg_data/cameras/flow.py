"""Where the gripper moves in the pictures, held against where its poses say that it moves.

The kernel of both estimators of a time offset: `actionimg_data.calibrate.time_offset`, on episodes, and
`actionimg_data.converters.recording.offset`, on raw logs with their own stamps. Dense optical flow is measured around
points of the hand (Farnebäck, Two-Frame Motion Estimation Based on Polynomial Expansion, SCIA 2003; OpenCV's), and
correlated with the displacements of these points that candidate offsets predict.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

BODY_POINTS: Final[FloatArray] = np.array([[0.0, 0.0, z] for z in (-0.03, -0.06, -0.09, -0.12)])
"""``(P, 3)`` points along the hand in the gripper's frame, metres: where the hand turns they move differently, and its
tip itself is often the empty space between the fingers."""

MIN_MOTION_PX: Final = 0.2
"""Mean displacement from picture to picture that poses must predict for anything to be said."""

MIN_SEEN_PX: Final = 0.02
"""Mean displacement that must be seen."""

_WINDOW_M = 0.2
_SPOT_M = 0.025
_PATCH = 128
_OUTLIER = 2.5


def correlation_of(seen: FloatArray, projected: FloatArray) -> FloatArray:
    """Normalised correlation of ``(N, 2)`` with each of ``(C, N, 2)``, means removed."""
    seen = seen - seen.mean(0)
    projected = projected - projected.mean(1, keepdims=True)
    norms = np.sqrt((seen**2).sum() * (projected**2).sum((1, 2)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((projected * seen).sum((1, 2)) / norms)


def peak_between(candidates: FloatArray, values: FloatArray) -> float:
    """Where the parabola through the highest value and its neighbours has its top.

    Args:
        candidates: ``(C,)``, equally spaced.
        values: ``(C,)``.
    """
    i = int(values.argmax())
    if i in (0, len(values) - 1):
        return float(candidates[i])
    a, b, c = values[i - 1 : i + 2]
    bend = a - 2 * b + c
    return float(candidates[i] + (0.5 * (a - c) / bend if bend < 0 else 0.0) * (candidates[i + 1] - candidates[i]))


def agreeing(seen: FloatArray, fit: FloatArray) -> NDArray[np.bool_]:
    """Which of the seen displacements ``(N, 2)`` are near the best fit ``(N, 2)``, up to a common factor.

    Flow fails at some spots (occlusion, plain surfaces): those far off are to be left out.
    """
    gain = (seen * fit).sum() / (fit**2).sum()
    error = np.linalg.norm(seen - gain * fit, axis=1)
    return np.asarray(error <= _OUTLIER * np.median(error))


def flow_at(a: NDArray[np.uint8], b: NDArray[np.uint8], spots: FloatArray, scale: float) -> FloatArray:
    """Flow ``(P, 2)`` in pixels from ``a`` to ``b``, averaged about each spot; NaN where that is outside the picture.

    Args:
        a: ``(H, W)`` grey.
        b: ``(H, W)`` grey, the next picture.
        spots: ``(P, 2)`` pixels.
        scale: Pixels of a metre at the hand; the window is 0.2 m about it.
    """
    out = np.full((len(spots), 2), np.nan)
    if not np.isfinite(scale) or not np.isfinite(spots).any():
        return out
    height, width = a.shape
    half = _WINDOW_M / 2 * scale
    centre = np.nanmean(spots, axis=0)
    x0, x1 = int(max(0, centre[0] - half)), int(min(width, centre[0] + half))
    y0, y1 = int(max(0, centre[1] - half)), int(min(height, centre[1] + half))
    if x1 - x0 < 16 or y1 - y0 < 16:
        return out
    # Small windows are enlarged: the flow's own smoothing would mix hand and background.
    zoom = _PATCH / max(x1 - x0, y1 - y0)
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    patches = [cv2.resize(p[y0:y1, x0:x1], None, fx=zoom, fy=zoom, interpolation=how) for p in (a, b)]
    flow = cv2.calcOpticalFlowFarneback(patches[0], patches[1], None, 0.5, 3, 15, 3, 7, 1.5, 0)
    size = max(1, round(_SPOT_M * scale * zoom))
    flow = cv2.blur(flow, (size, size)) / zoom
    for k, (x, y) in enumerate((spots - [x0, y0]) * zoom):
        if 0 <= x < flow.shape[1] - 1 and 0 <= y < flow.shape[0] - 1:
            out[k] = flow[int(y), int(x)]
    return out


def along(greys: Iterable[NDArray[np.uint8]], spots: FloatArray, scale: FloatArray) -> FloatArray:
    """Flow ``(T - 1, P, 2)`` in pixels at the hand's points, for each pair of neighbouring pictures.

    Args:
        greys: ``T`` grey pictures ``(H, W)``, taken one by one.
        spots: ``(T, P, 2)`` pixels of the points.
        scale: ``(T,)`` pixels of a metre there.
    """
    found, previous = [], None
    for i, grey in enumerate(greys):
        if previous is not None:
            found.append(flow_at(previous, grey, spots[i - 1], float(scale[i - 1])))
        previous = grey
    return np.array(found)
