"""Which of several poses that explain a frame equally well: the one that moves least from frame to frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def choose(keypoints: FloatArray, possible: NDArray[np.bool_], times: FloatArray) -> NDArray[np.intp]:
    """The candidates of a clip that together move least (Viterbi over the frames that have any).

    The cost of a step is the summed squared distance that the keypoints move, over the time between the frames.

    Args:
        keypoints: ``(T, C, 3, 3)`` world points of each candidate.
        possible: ``(T, C)``.
        times: ``(T,)`` increasing.

    Returns:
        Candidate of each frame ``(T,)``; 0 where there is none.
    """
    choice = np.zeros(len(possible), np.intp)
    frames = np.flatnonzero(possible.any(axis=1))
    if len(frames) == 0 or (possible.sum(axis=1) <= 1).all():
        return np.asarray(possible.argmax(axis=1))
    cost = np.where(possible[frames[0]], 0.0, np.inf)
    back = np.zeros((len(frames), possible.shape[1]), np.intp)
    for i in range(1, len(frames)):
        here, before = frames[i], frames[i - 1]
        moved = keypoints[here][:, None] - keypoints[before][None]
        step = (moved**2).sum(axis=(-2, -1)) / (times[here] - times[before])
        total = np.where(possible[here][:, None] & possible[before][None], cost[None] + step, np.inf)
        back[i] = total.argmin(axis=1)
        cost = total.min(axis=1)
    best = int(cost.argmin())
    for i in range(len(frames) - 1, -1, -1):
        choice[frames[i]] = best
        best = int(back[i, best])
    return choice
