"""By how many pixels the gripper is seen away from where the camera says it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .evidence import Evidence, coarse_scores, shift_scores

FloatArray = NDArray[np.float64]

_FINE: Final = 4.0
_RESAMPLES: Final = 200
_PEAKS: Final = 3
_APART: Final = 6.0


@dataclass(frozen=True, eq=False)
class Shift:
    """The shift of the outlines at which they fit best.

    Args:
        best: ``(2,)`` working pixels, right and down.
        spread: ``(2, 2)`` covariance of ``best``, from drawing frames again.
        score: At the best shift, in [0, 1].
        score_here: Without a shift.
        chance: Mean score over all shifts searched.
        noise: Standard deviation of the score over shifts away from the best.
        rival: Best score at another place.
        at_edge: The best shift lies at the edge of the range searched.
        peaks: ``(3, 2)`` the best shift and other places of high score.
        peak_scores: ``(3,)`` theirs.
        per_frame: ``(N,)`` score of each frame at the best shift.
    """

    best: FloatArray
    spread: FloatArray
    score: float
    score_here: float
    chance: float
    noise: float
    rival: float
    at_edge: bool
    peaks: FloatArray
    peak_scores: FloatArray
    per_frame: FloatArray


def best_shift(evidence: Evidence, world_from_camera: FloatArray, seed: int = 0) -> Shift | None:
    """Scan shifts of the outlines over what the pictures show; None where no outline is usable."""
    pairs = [
        (sight, outline)
        for sight, outline in zip(evidence.sights, evidence.outlines(world_from_camera), strict=True)
        if outline is not None and len(outline) >= 12
    ]
    if not pairs:
        return None
    coarse = np.stack([coarse_scores(s, o, evidence.radius) for s, o in pairs])
    n = coarse.shape[1] // 2
    mean = coarse.mean(0)
    steps = 2.0 * (np.arange(2 * n + 1) - n)
    tops = _tops(mean, steps)
    starts = [shift for _, shift in tops]
    fine = np.arange(-_FINE, _FINE + 0.25, 0.5)
    grid = np.stack(np.meshgrid(fine, fine), -1).reshape(-1, 2)
    surfaces = [np.stack([shift_scores(s, o, grid + start) for s, o in pairs]) for start in starts]
    scores = [float(surface.mean(0).max()) for surface in surfaces]
    first = int(np.argmax(scores))
    surface, start = surfaces[first], starts[first]
    best = start + _peak(surface.mean(0), fine)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(pairs), (_RESAMPLES, len(pairs)))
    weights = np.stack([np.bincount(d, minlength=len(pairs)) for d in draws]) / len(pairs)
    again = np.stack([start + _peak(row, fine) for row in weights @ surface])
    far = np.linalg.norm(np.stack(np.meshgrid(steps, steps), -1) - best, axis=-1) > _APART
    here = np.stack([shift_scores(s, o, np.zeros((1, 2))) for s, o in pairs])[:, 0]
    order = np.argsort(scores)[::-1]
    return Shift(
        best=best,
        spread=np.cov(again.T) + 1e-4 * np.eye(2),
        score=max(scores),
        score_here=float(here.mean()),
        chance=float(mean.mean()),
        noise=float(mean[far].std()) if far.any() else 0.0,
        rival=max((score for i, score in enumerate(scores) if i != first), default=0.0),
        at_edge=bool(np.abs(best).max() > evidence.radius - 2),
        peaks=np.stack([starts[i] + _peak(surfaces[i].mean(0), fine) for i in order]),
        peak_scores=np.array([scores[i] for i in order]),
        per_frame=surface[:, int(surface.mean(0).argmax())].astype(np.float64),
    )


def _tops(mean: NDArray[np.float32], steps: FloatArray) -> list[tuple[float, FloatArray]]:
    """The highest scores of a grid of shifts that are well apart."""
    left = mean.astype(np.float64).copy()
    found: list[tuple[float, FloatArray]] = []
    x, y = np.meshgrid(steps, steps)
    while len(found) < _PEAKS and np.isfinite(left).any():
        i, j = np.unravel_index(int(np.nanargmax(np.where(np.isfinite(left), left, np.nan))), left.shape)
        shift = np.array([steps[j], steps[i]])
        found.append((float(left[i, j]), shift))
        left[np.hypot(x - shift[0], y - shift[1]) < _APART] = -np.inf
    return found


def _peak(values: FloatArray, fine: FloatArray) -> FloatArray:
    """Where a surface over ``fine x fine`` shifts has its top, between the samples."""
    size = len(fine)
    surface = np.asarray(values, np.float64).reshape(size, size)
    i, j = np.unravel_index(int(surface.argmax()), surface.shape)
    out = np.array([fine[j], fine[i]])
    step = fine[1] - fine[0]
    for axis, k, line in ((0, j, surface[i]), (1, i, surface[:, j])):
        if 0 < k < size - 1:
            a, b, c = line[k - 1 : k + 2]
            bend = a - 2 * b + c
            if bend < 0:
                out[axis] += 0.5 * (a - c) / bend * step
    return out
