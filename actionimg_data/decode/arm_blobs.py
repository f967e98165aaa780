"""Blobs of pictures that show several grippers at once: the clipped sum that ``convert --merge-arms`` stores.

Where centres are `SEPARATE` sigmas apart, each blob is fitted as a gripper's own is, with what the others add taken
off: their tails in red and green; in blue a constant, for outside of their blob they add their pedestal or nothing.
That constant, under one gripper's blob, tells the other's openness. Where sums are clipped at white, bins are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..schemas import ActionImageSpec
from . import blobs
from .measure import bin_windows, check_video, coarse_samples, combine

FloatArray = NDArray[np.float64]

SEPARATE = (3.0, 3.0, 3.4)
"""Sigmas between two blobs of red, green and blue from which on both are measured. Blue blobs end at their pedestal,
1.7 sigmas from the centre, and are not taken apart where these edges meet."""
MASKED = 2.0
"""Sigmas around a blob in which no other one is looked for."""
LEAST_HEIGHT = (0.35, 0.35, 0.15)
"""Least mean over 3x3 samples, over the plane's median, that counts as a blob: red, green, and blue, of which less
shows over its pedestal."""
RING = (1.2, 1.55)
"""Radii in sigmas between which the constant under a blue blob is read."""
BENEATH_SPREAD = 0.05
"""Standard deviation of that reading."""
CLIPPED = 0.95
"""Bins of blue as bright as this are left out where another pedestal lies under the blob."""
_ROUNDS = 4
_FRAMES_AT_ONCE = 100


@dataclass(frozen=True, eq=False)
class ArmBlobs:
    """What one view shows of K grippers over time: up to K blobs a channel, in no order; NaN where not ``valid``."""

    uv: FloatArray
    """``(T, 3, K, 2)`` pixels."""
    covariance: FloatArray
    """``(T, 3, K, 2, 2)`` square pixels."""
    valid: NDArray[np.bool_]
    """``(T, 3, K)``."""
    amplitude: FloatArray
    """``(T, 3, K)`` fitted peak."""
    residual: FloatArray
    """``(T, 3, K)`` as in `BlobMeasurements`."""
    structure: FloatArray
    """``(T, 3, K)`` likewise."""
    crowded: NDArray[np.bool_]
    """``(T, 3)`` whether two blobs of the channel are nearer to each other than `SEPARATE` sigmas."""
    beneath: FloatArray
    """``(T, K)`` constant under each blue blob: the other grippers' pedestals."""
    pedestal: FloatArray
    """``(T,)`` median intensity of blue: all grippers' pedestals."""
    ground: FloatArray
    """``(T,)`` median intensity of red and green."""
    samples: NDArray[np.int64]
    """``(T,)`` number of samples behind both."""

    def __len__(self) -> int:
        return len(self.uv)

    @staticmethod
    def concatenate(parts: Sequence[ArmBlobs]) -> ArmBlobs:
        """Measurements of successive chunks as one."""
        joined: ArmBlobs = combine(list(parts), np.concatenate)
        return joined


def measure_arms(frames: Any, spec: ActionImageSpec, count: int = 2) -> ArmBlobs:
    """Measure the blobs of successive frames of one view that show several grippers.

    Args:
        frames: ``(T, H, W, 3)`` as for `measure_blobs`.
        spec: How each gripper was drawn.
        count: How many grippers.

    Raises:
        DecodeError: Not such an array, or of another size than the spec.
    """
    video = check_video(frames, spec, "frames")
    layout = blobs.Layout.of(spec)
    chunks = (video[i : i + _FRAMES_AT_ONCE] for i in range(0, len(video), _FRAMES_AT_ONCE))
    return ArmBlobs.concatenate([_measure(chunk, layout, count) for chunk in chunks])


def _measure(video: NDArray[Any], layout: blobs.Layout, count: int) -> ArmBlobs:
    t = len(video)
    coarse = coarse_samples([video], layout)
    h, w = coarse.shape[2:]
    level = np.median(coarse.reshape(t, 3, h * w), axis=-1).astype(np.float64)
    lifted = coarse - level[..., None, None].astype(np.float32)
    spots, heights = _brightest(lifted.reshape(t * 3, h, w), layout, count)
    present = (heights > np.tile(LEAST_HEIGHT, t)[:, None]).reshape(-1)
    index = np.flatnonzero(present)
    plane = index // count
    blue = plane % 3 == 2
    start = _centroid(video, spots.reshape(-1, 2)[index], plane, level.reshape(-1)[plane], layout)
    origin = blobs.window_origins(start, layout)
    binned = bin_windows([video], plane, origin, layout)
    beneath = np.where(blue, _beneath(binned, origin, start, layout), 0.0)
    ground = blobs.Ground(
        offset=beneath,
        spread=np.where(blue, BENEATH_SPREAD, blobs.OFFSET_SPREAD),
        usable=(binned < CLIPPED) | ~(blue & (beneath > BENEATH_SPREAD))[:, None, None],
    )
    corner, own, state = origin.astype(np.float64), binned, start
    for _ in range(_ROUNDS):
        fitted, mask = blobs.converge(own, corner, state[:, :2], blue, layout, ground)
        state = fitted
        own = binned - _others(fitted, corner, index, count, ~blue, layout)
    fit = blobs.polish(own, corner, state, mask, blue, layout, steps=1, ground=ground)
    crowded, apart = _apart(fit.uv, index, t, count, layout)
    valid = _whole(fit.valid & apart, index, (t, 3, count), False)

    def whole(values: NDArray[Any], kept: NDArray[np.bool_] = valid) -> FloatArray:
        spread = _whole(values, index, (t, 3, count), np.nan)
        return np.where(kept.reshape(kept.shape + (1,) * (spread.ndim - 3)), spread, np.nan)

    return ArmBlobs(
        uv=whole(fit.uv),
        covariance=whole(fit.covariance),
        valid=valid,
        amplitude=whole(fit.amplitude),
        residual=whole(fit.residual),
        structure=whole(fit.structure),
        crowded=crowded,
        beneath=whole(state[:, 3])[:, 2],
        pedestal=level[:, 2],
        ground=level[:, :2].mean(axis=1),
        samples=np.full(t, h * w),
    )


def _brightest(lifted: NDArray[Any], layout: blobs.Layout, count: int) -> tuple[NDArray[np.int64], FloatArray]:
    """The ``count`` brightest spots of planes ``(N, h, w)``: pixels ``(N, K, 2)`` and their heights ``(N, K)``."""
    left = blobs.boxes(lifted) / 9
    n, h, w = left.shape
    x, y = (np.arange(size) + 1 for size in (w, h))
    limit = (MASKED * layout.sigma / layout.stride) ** 2
    spots, heights = [], []
    for _ in range(count):
        best = left.reshape(n, h * w).argmax(axis=1)
        heights.append(left.reshape(n, h * w)[np.arange(n), best])
        bx, by = best % w + 1, best // w + 1
        spots.append(np.stack([bx, by], axis=-1))
        near = ((x - bx[:, None]) ** 2)[:, None, :] + ((y - by[:, None]) ** 2)[:, :, None] < limit
        left = np.where(near, -1.0, left)
    return np.stack(spots, axis=1) * layout.stride, np.stack(heights, axis=1)


def _centroid(
    video: NDArray[Any], spots: NDArray[np.int64], plane: NDArray[np.intp], level: FloatArray, layout: blobs.Layout
) -> FloatArray:
    """Centroid ``(N, 2)`` of what stands out by more than half around each spot: a start for the fit."""
    origin = blobs.window_origins(spots.astype(np.float64), layout)
    over = bin_windows([video], plane, origin, layout) - level[:, None, None]
    weight = np.maximum(over - 0.5 * over.max(axis=(1, 2), keepdims=True), 0.0)
    middle = (np.arange(layout.bins) + 0.5) * layout.bin - 0.5
    total = np.maximum(weight.sum(axis=(1, 2)), 1e-12)
    offset = np.stack([weight.sum(axis=1) @ middle, weight.sum(axis=2) @ middle], axis=-1) / total[:, None]
    return np.asarray(origin + offset)


def _beneath(binned: FloatArray, origin: NDArray[np.int64], uv: FloatArray, layout: blobs.Layout) -> FloatArray:
    """Median ``(N,)`` of what lies under blobs of height 1 in a ring around each centre."""
    middle = (np.arange(layout.bins) + 0.5) * layout.bin - 0.5
    dx, dy = ((origin[:, i, None] + middle - uv[:, i, None]) / layout.sigma for i in (0, 1))
    r2 = (dx * dx)[:, None, :] + (dy * dy)[:, :, None]
    ring = (r2 > RING[0] ** 2) & (r2 < RING[1] ** 2)
    under = np.where(ring, binned - np.exp(-0.5 * r2), np.nan).reshape(len(binned), -1)
    known = ring.any(axis=(1, 2))
    out = np.zeros(len(binned))
    out[known] = np.nanmedian(under[known], axis=1)
    return np.asarray(np.maximum(out, 0.0))


def _others(
    state: FloatArray,
    origin: FloatArray,
    index: NDArray[np.intp],
    count: int,
    chosen: NDArray[np.bool_],
    layout: blobs.Layout,
) -> FloatArray:
    """What the other blobs of its plane add to each window ``(N, bins, bins)``; nothing where not ``chosen``."""
    out = np.zeros((len(index), layout.bins, layout.bins))
    place = np.full(int(index.max(initial=0)) + count, -1)
    place[index] = np.arange(len(index))
    for step in range(1, count):
        # The step-th next blob of the same plane, in turns.
        neighbour = index - index % count + (index + step) % count
        other = place[neighbour]
        here = np.flatnonzero(chosen & (other >= 0))
        gx, gy = (blobs.profile(np, state[other[here], i], origin[here, i], layout)[0] for i in (0, 1))
        out[here] += state[other[here], 2, None, None] * gy[:, :, None] * gx[:, None, :]
    return out


def _apart(
    uv: FloatArray, index: NDArray[np.intp], frames: int, count: int, layout: blobs.Layout
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Planes ``(T, 3)`` whose blobs crowd each other, and blobs ``(N,)`` that none is near to."""
    whole = _whole(uv, index, (frames, 3, count), np.nan)
    distance = np.linalg.norm(whole[..., :, None, :] - whole[..., None, :, :], axis=-1)
    limit = np.array(SEPARATE)[:, None, None] * layout.sigma
    near = (distance < limit) & ~np.eye(count, dtype=bool)
    return near.any(axis=(-2, -1)), ~near.any(axis=-1).reshape(-1)[index]


def _whole(values: NDArray[Any], index: NDArray[np.intp], shape: tuple[int, ...], fill: float | bool) -> NDArray[Any]:
    out = np.full((int(np.prod(shape)), *values.shape[1:]), fill, values.dtype)
    out[index] = values
    return out.reshape(*shape, *values.shape[1:])
