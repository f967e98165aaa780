"""Channels that are drawn aside by the same in every frame (chromatic aberration); numpy and torch, no gradients.

As the gripper turns, what is constant in the pictures of each channel and view moves the poses differently from frame
to frame, so that what the poses leave over shows nearly all of it. The offsets are Gaussian a priori; their variance
and that of everything else are found with them (evidence maximisation, MacKay 1992).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..geometry.arrays import array_namespace
from . import evidence, pose

Array = Any

EXPLAINED = 0.8
"""Least share of the squared residuals that offsets have to explain."""
LARGEST = 0.1
"""Sigmas, root mean square: what is further off is a view that has moved or a camera that is wrong."""
LEAST_FRAMES = 8
ROUNDS = 3
"""Poses are found anew after each."""
INEXACT = 0.008
"""Share of the offsets that is uncertain besides, as they need not be the same everywhere."""
_ITERATIONS = 60


class Offsets(NamedTuple):
    """What `find` found."""

    move: Array
    """``(V, 3, 2)`` pixels by which each channel of each view lies aside."""
    covariance: Array
    """``(M, M)`` of these, M = 6 V."""


def find(measured: pose.Measured, axis_length: float, sigma: float) -> Offsets | None:
    """Offsets of a clip's channels, or None where they do not explain what its views contradict each other in.

    Args:
        measured: The blobs that the poses rest on.
        axis_length: Metres, of the spec.
        sigma: Pixels, of the spec.
    """
    xp = array_namespace(measured.uv)
    t, views = measured.mask.shape[:2]
    weights = measured.covariance + (sigma / 200) ** 2 * xp.eye(2, dtype=measured.uv.dtype, device=measured.uv.device)
    move = xp.zeros_like(measured.uv[0, ...])
    covariance, explained = move, 0.0
    for _ in range(ROUNDS):
        moved = measured._replace(uv=measured.uv - move, covariance=weights)
        found = pose.estimate(moved, axis_length)
        known = found.possible[:, 0] & (found.level > 0) & xp.isfinite(found.level)
        if int(xp.sum(xp.astype(known, xp.int64))) < max(LEAST_FRAMES, t // 2):
            return None
        here = moved._replace(mask=moved.mask & known[:, None, None])
        at = evidence.linearise(here, weights, found.rotation[:, 0, ...], found.translation[:, 0, ...], axis_length)
        value, covariance, explained, shown = _constants(xp, at, xp.reshape(move, (-1,)), known & at.determined)
        move = xp.reshape(value, move.shape)
        size = float(xp.mean(value**2)) ** 0.5
        if explained < EXPLAINED or size > LARGEST * sigma or shown < evidence.COMPRESSED_PX:
            return None
    eye = xp.eye(6 * views, dtype=covariance.dtype, device=covariance.device)
    return Offsets(move, covariance + (INEXACT * size) ** 2 * eye)


def _constants(xp: Any, at: evidence.Linear, before: Array, counted: Array) -> tuple[Array, Array, float, float]:
    """Offsets ``(M,)``, their covariance, the share of the squared residuals that they explain, and the residuals' root
    mean square a degree of freedom, pixels."""
    use = xp.astype(counted, at.residual.dtype)
    residual = (at.residual + (at.left @ before[:, None])[..., 0]) * use[:, None]
    left = at.left * use[:, None, None]
    normal = np.asarray(xp.sum(xp.matrix_transpose(left) @ left, axis=0).tolist())
    target = np.asarray(xp.sum((xp.matrix_transpose(left) @ residual[..., None])[..., 0], axis=0).tolist())
    total, m = float(xp.sum(residual**2)), len(target)
    eye = np.eye(m)
    freedom = max(float(xp.sum(left * xp.eye(m, dtype=use.dtype, device=use.device))), 1.0)
    noise = prior = max(total / freedom, 1e-12)
    value: Array = np.zeros(m)
    spread: Array = eye
    rest = total
    for _ in range(_ITERATIONS):
        inverse = np.linalg.inv(normal + (noise / prior) * eye)
        value, spread = inverse @ target, noise * inverse
        rest = total - 2 * target @ value + value @ normal @ value
        noise = max((rest + float(np.sum(normal * spread))) / freedom, evidence.ROUNDING_PX**2)
        prior = max((value @ value + np.trace(spread)) / m, 1e-12)
    explained = 1 - rest / max(total, 1e-18)
    value, spread = (xp.asarray(v, dtype=use.dtype, device=use.device) for v in (value, spread))
    return value, spread, explained, (total / freedom) ** 0.5
