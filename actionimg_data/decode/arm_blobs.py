"""Blobs of pictures that show several grippers at once: the clipped sum that ``convert --merge-arms`` stores.

Where centres are `SEPARATE` sigmas apart, each blob is fitted as a gripper's own is, with what the others add taken
off: their tails in red and green; in blue a constant, for outside of their blob they add their pedestal or nothing.
That constant, under one gripper's blob, tells the other's openness. Where sums are clipped at white, bins are left out.

Pictures that look otherwise than the spec says are asked how they are drawn (`arm_drawing`). With the mixing of their
channels, their ground and their height undone, and sigma as wide as their blobs, they are measured in the same way.
Written once for numpy and torch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..geometry.arrays import array_namespace
from ..schemas import ActionImageSpec
from . import appearance, arm_drawing, blobs
from .arm_drawing import Drawn, Fitted
from .measure import bin_pictures, bin_windows, check_video, coarse_samples, combine, unlike_spec

Array = Any

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
LIFTED = 0.02
"""Ground under red and green above which their blobs may reach white."""
CLIPPED = 0.95
"""Bins as bright as this are left out where another pedestal, or such a ground, lies under the blob."""
WHITE = 0.985
"""Bins as bright as this are left out of any channel where pictures are not drawn as the spec says."""
ODD_HEIGHT = 0.25
"""Share by which a blob may differ in height from its clip's, where that was found: two on each other are higher,"""
ODD_RESIDUAL = 0.06
"""and leave more than this of their height, root mean square, unexplained."""
_ROUNDS = 4
_STEPS = 3
"""Last steps, in each of which every blob is fitted to what the others' last ones leave of the picture."""
_FRAMES_AT_ONCE = 100


@dataclass(frozen=True, eq=False)
class ArmBlobs:
    """What one view shows of K grippers over time: up to K blobs a channel, in no order; NaN where not ``valid``.

    Arrays of numpy, or of torch where `actionimg_data.torch` measures.
    """

    uv: Array
    """``(T, 3, K, 2)`` pixels."""
    covariance: Array
    """``(T, 3, K, 2, 2)`` square pixels."""
    valid: Array
    """``(T, 3, K)`` bool."""
    amplitude: Array
    """``(T, 3, K)`` fitted peak."""
    residual: Array
    """``(T, 3, K)`` as in `BlobMeasurements`."""
    structure: Array
    """``(T, 3, K)`` likewise."""
    crowded: Array
    """``(T, 3)`` bool, whether two blobs of the channel are nearer to each other than `SEPARATE` sigmas."""
    beneath: Array
    """``(T, K)`` constant under each blue blob: the other grippers' pedestals."""
    pedestal: Array
    """``(T,)`` median intensity of blue: all grippers' pedestals."""
    ground: Array
    """``(T,)`` median intensity of red and green."""
    samples: Array
    """``(T,)`` number of samples behind both."""
    odd: Array
    """``(T,)`` bool, whether the pictures of these frames do not look as the spec says. Then, of what follows:"""
    width: Array
    """``(T,)`` standard deviation of the blobs over the spec's, 1 elsewhere,"""
    ellipse: Array
    """``(T, 3, 2, 2)`` covariance of the blobs over sigma squared,"""
    mixing: Array
    """``(T, 3, 3)`` share of each channel (last axis) in each channel of the picture, which was undone,"""
    light: Array
    """``(T, 3)`` median of each channel; NaN elsewhere."""

    def __len__(self) -> int:
        return len(self.uv)

    @staticmethod
    def concatenate(parts: Sequence[ArmBlobs]) -> ArmBlobs:
        """Measurements of successive chunks as one."""
        joined: ArmBlobs = combine(list(parts), np.concatenate)
        return joined


class Pictures(Protocol):
    """Where the frames of a view are; `measure` asks for what it needs of them, intensities in [0, 1]."""

    def coarse(self, layout: blobs.Layout) -> Array:
        """``(T, 3, h, w)`` every ``layout.stride``-th pixel."""

    def windows(self, plane: Array, origin: Array, layout: blobs.Layout) -> Array:
        """``(N, bins, bins)`` mean intensities of the fine windows of planes ``3 * frame + channel``."""

    def whole(self, layout: blobs.Layout) -> Array:
        """``(T, 3, h, w)`` mean intensities of bins of the whole pictures."""

    def still(self) -> contextlib.AbstractContextManager[Any]:
        """In which nothing has a gradient."""


class _Video:
    """A view's frames as a numpy array."""

    def __init__(self, video: NDArray[Any]) -> None:
        self.video = video

    def coarse(self, layout: blobs.Layout) -> NDArray[Any]:
        return coarse_samples([self.video], layout)

    def windows(self, plane: NDArray[np.intp], origin: NDArray[np.int64], layout: blobs.Layout) -> NDArray[Any]:
        return bin_windows([self.video], plane, origin, layout)

    def whole(self, layout: blobs.Layout) -> NDArray[Any]:
        return bin_pictures(self.video, layout)

    def still(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


def measure_arms(frames: Any, spec: ActionImageSpec, count: int = 2) -> ArmBlobs:
    """Measure the blobs of successive frames of one view that show several grippers.

    How pictures are drawn that do not look as the spec says is found for 100 frames at a time, or for those given.

    Args:
        frames: ``(T, H, W, 3)`` as for `measure_blobs`.
        spec: How each gripper was drawn.
        count: How many grippers.

    Raises:
        DecodeError: Not such an array, or of another size than the spec.
    """
    video = check_video(frames, spec, "frames")
    chunks = (video[i : i + _FRAMES_AT_ONCE] for i in range(0, len(video), _FRAMES_AT_ONCE))
    return ArmBlobs.concatenate([measure(_Video(chunk), spec, count) for chunk in chunks])


def measure(pictures: Pictures, spec: ActionImageSpec, count: int) -> ArmBlobs:
    """`measure_arms` of frames that are anywhere; gradients flow from their last steps to the pictures."""
    found, present, _ = _measure(pictures, spec, count, None)
    clear = ~found.crowded[..., None]
    by_channel = [_by_channel(a) for a in (found.structure, found.residual, found.valid & clear, present & clear)]
    if not unlike_spec(*by_channel):
        return found
    with pictures.still():
        drawn = arm_drawing.first_guess(pictures.whole(blobs.Layout.of(spec)), blobs.Layout.of(spec))
        for _ in range(arm_drawing.ROUNDS):
            wide = _as_wide(spec, drawn)
            drawn = arm_drawing.redrawn(_measure(pictures, wide, count, drawn)[2], drawn, blobs.Layout.of(wide))
    return _measure(pictures, _as_wide(spec, drawn), count, drawn)[0]


def _as_wide(spec: ActionImageSpec, drawn: Drawn) -> ActionImageSpec:
    """The spec with a sigma as wide as the blobs are."""
    return spec.model_copy(update={"sigma": min(spec.sigma * drawn.width, 1.0)})


def _by_channel(values: Array) -> NDArray[Any]:
    """``(T, 3, K)`` as numpy ``(T K, 3)``."""
    plain = np.asarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values)
    return np.moveaxis(plain, 2, 1).reshape(-1, 3)


class _Spots(NamedTuple):
    """Where the fits start."""

    present: Array
    """``(T, 3, K)`` bool, whether a spot is bright enough for a blob."""
    index: Array
    """``(N,)`` of those, into ``(T 3 K,)``."""
    uv: Array
    """``(N, 2)`` pixels."""
    origin: Array
    """``(N, 2)`` of their windows."""


def _measure(
    pictures: Pictures, spec: ActionImageSpec, count: int, drawn: Drawn | None
) -> tuple[ArmBlobs, Array, Fitted]:
    """The blobs of a view as the spec or, given ``drawn``, the view itself draws them; `_Spots.present`; `Fitted`."""
    layout = blobs.Layout.of(spec)
    coarse = pictures.coarse(layout)
    xp = array_namespace(coarse)
    t, _, h, w = coarse.shape
    seen = _median(xp, xp.reshape(coarse, (t, 3, h * w)))
    level, base = seen, 0 * seen
    if drawn is not None:
        apart = xp.astype(xp.linalg.inv(drawn.mixing), coarse.dtype)
        coarse = xp.reshape(apart @ xp.reshape(coarse, (t, 3, h * w)), (t, 3, h, w))
        level = _median(xp, xp.reshape(coarse, (t, 3, h * w)))
        # Light that falls on all channels alike is no pedestal.
        base = xp.stack([level[:, 0], level[:, 1], 0.5 * (level[:, 0] + level[:, 1])], axis=-1)
    with pictures.still():
        spots = _spots(pictures, coarse, level, base, layout, count, drawn)
    index, plane = spots.index, spots.index // count
    blue = plane % 3 == 2
    binned, raw = _windows(pictures, plane, spots.origin, layout, drawn, base)
    corner = xp.astype(spots.origin, binned.dtype)
    under = xp.reshape(level - base, (-1,))[plane]
    beneath = xp.where(blue, _beneath(xp, binned, corner, spots.uv, layout), under)
    if drawn is None:
        lifted = beneath > xp.where(blue, xp.full_like(beneath, BENEATH_SPREAD), xp.full_like(beneath, LIFTED))
        usable = (raw < CLIPPED) | ~lifted[:, None, None]
    else:
        # Of a channel that is clipped at white none is known once they are mixed.
        usable = ~xp.any(raw > WHITE, axis=1)
    ground = blobs.Ground(
        offset=beneath,
        spread=xp.where(blue, xp.full_like(beneath, BENEATH_SPREAD), xp.full_like(beneath, blobs.OFFSET_SPREAD)),
        usable=usable,
    )
    state, mask, own = _together(pictures, binned, corner, spots.uv, index, count, blue, layout, ground)
    fit = blobs.polish(own, corner, state, mask, blue, layout, steps=0, ground=ground)
    crowded, apart = _apart(xp, fit.uv, index, t, count, layout)
    real = fit.valid & _in_window(xp, fit.uv, spots.uv, layout)
    if drawn is not None:
        real = real & (xp.abs(fit.amplitude - 1) < ODD_HEIGHT) & (fit.residual < ODD_RESIDUAL)
    valid = _whole(xp, real & apart, index, (t, 3, count), False)
    height = xp.ones_like(level[0, :]) if drawn is None else drawn.peak

    def whole(values: Array) -> Array:
        spread = _whole(xp, values, index, (t, 3, count), xp.nan)
        kept = xp.reshape(valid, (t, 3, count) + (1,) * (spread.ndim - 3))
        return xp.where(kept, spread, xp.full_like(spread, xp.nan))

    one = xp.ones_like(level[:, 0])
    ellipse, mixing, light = (
        xp.full((t, 3, *rest), xp.nan, dtype=level.dtype, device=level.device) for rest in ((2, 2), (3,), ())
    )
    if drawn is not None:
        ellipse, mixing, light = xp.zeros_like(ellipse) + drawn.ellipse, xp.zeros_like(mixing) + drawn.mixing, seen
    measured = ArmBlobs(
        uv=whole(fit.uv),
        covariance=whole(fit.covariance),
        valid=valid,
        amplitude=whole(fit.amplitude) * height[:, None],
        residual=whole(fit.residual),
        structure=whole(fit.structure),
        crowded=crowded,
        beneath=whole(state[:, 3])[:, 2, :] * height[2],
        pedestal=level[:, 2] - base[:, 2],
        ground=0.5 * (level[:, 0] + level[:, 1] - base[:, 0] - base[:, 1]),
        samples=xp.full((t,), h * w, dtype=xp.int64, device=level.device),
        odd=one < (0 if drawn is None else 2),
        width=one * (1.0 if drawn is None else drawn.width),
        ellipse=ellipse,
        mixing=mixing,
        light=light,
    )
    return measured, spots.present, Fitted(plane, apart, corner, state, mask, own, raw, seen)


def _spots(
    pictures: Pictures, coarse: Array, level: Array, base: Array, layout: blobs.Layout, count: int, drawn: Drawn | None
) -> _Spots:
    """The brightest spots of each plane, to a few tenths of sigma."""
    xp = array_namespace(coarse)
    t, _, h, w = coarse.shape
    lifted = xp.astype(coarse - xp.astype(level, coarse.dtype)[..., None, None], xp.float32)
    if drawn is not None:
        lifted = lifted / xp.astype(drawn.peak, xp.float32)[:, None, None]
    places, heights = _brightest(xp.reshape(lifted, (t * 3, h, w)), layout, count)
    least = xp.asarray(LEAST_HEIGHT, dtype=heights.dtype, device=heights.device)
    present = xp.reshape(heights, (t, 3, count)) > least[:, None]
    index = xp.nonzero(xp.reshape(present, (-1,)))[0]
    plane = index // count
    origin = blobs.window_origins(xp.astype(xp.reshape(places, (-1, 2))[index, ...], level.dtype), layout)
    over, _ = _windows(pictures, plane, origin, layout, drawn, base)
    under = (level - base) if drawn is None else (level - base) / drawn.peak
    uv = origin + _centroid(xp, over - xp.reshape(under, (-1,))[plane][:, None, None], layout)
    return _Spots(present, index, uv, blobs.window_origins(uv, layout))


def _in_window(xp: Any, uv: Array, start: Array, layout: blobs.Layout) -> Array:
    """Whether blobs ``(N,)`` are where they were seen, or outside the picture: not a tail, fitted as a blob's flank."""
    moved = xp.sum((uv - start) ** 2, axis=-1) < (blobs.WINDOW_RADIUS * layout.sigma) ** 2
    outside = (uv[:, 0] < 0) | (uv[:, 1] < 0) | (uv[:, 0] > layout.width - 1) | (uv[:, 1] > layout.height - 1)
    return moved | outside


def _together(
    pictures: Pictures,
    binned: Array,
    corner: Array,
    uv: Array,
    index: Array,
    count: int,
    blue: Array,
    layout: blobs.Layout,
    ground: blobs.Ground,
) -> tuple[Array, Array, Array]:
    """Fits of all blobs, each without what the others' fits add to its window.

    Returns:
        States ``(N, 4)`` and bins that were fitted as of `blobs.converge`, and the windows that they were fitted to.
    """
    xp = array_namespace(binned)
    with pictures.still():
        own, state = binned, uv
        for _ in range(_ROUNDS):
            state, mask = blobs.converge(own, corner, state[:, :2], blue, layout, ground)
            own = binned - _others(xp, state, corner, index, count, ~blue, layout)
    for _ in range(_STEPS):
        own = binned - _others(xp, state, corner, index, count, ~blue, layout)
        state = blobs.newton(own, corner, state, mask, layout, ground)
    return state, mask, binned - _others(xp, state, corner, index, count, ~blue, layout)


def _windows(
    pictures: Pictures, plane: Array, origin: Array, layout: blobs.Layout, drawn: Drawn | None, base: Array
) -> tuple[Array, Array]:
    """Windows ``(N, bins, bins)`` in the spec's terms; and as the pictures have them, given ``drawn`` all channels.

    ``base (T, 3)`` is what the pictures stand on once their mixing is undone.
    """
    if drawn is None:
        raw = pictures.windows(plane, origin, layout)
        return raw, raw
    frame, channel = plane // 3, plane % 3
    every = [pictures.windows(3 * frame + c, origin, layout) for c in range(3)]
    xp = array_namespace(every[0])
    shares = xp.linalg.inv(drawn.mixing)[channel, :]
    apart = sum(shares[:, c, None, None] * every[c] for c in range(3))
    own = (apart - base[frame, channel][:, None, None]) / drawn.peak[channel][:, None, None]
    return own, xp.stack(every, axis=1)


def _median(xp: Any, values: Array) -> Array:
    """Medians ``(T, 3)`` of ``(T, 3, n)``, float64."""
    ordered = xp.sort(values, axis=-1)
    n = values.shape[-1]
    low, high = (xp.astype(ordered[..., i], xp.float64) for i in ((n - 1) // 2, n // 2))
    return 0.5 * (low + high)


def _brightest(lifted: Array, layout: blobs.Layout, count: int) -> tuple[Array, Array]:
    """The ``count`` brightest spots of planes ``(N, h, w)``: pixels ``(N, K, 2)`` and their heights ``(N, K)``."""
    xp = array_namespace(lifted)
    left = blobs.boxes(lifted) / 9
    n, h, w = left.shape
    x, y = (xp.arange(size, device=left.device) + 1 for size in (w, h))
    limit = (MASKED * layout.sigma / layout.stride) ** 2
    row = xp.arange(n, device=left.device)
    spots, heights = [], []
    for _ in range(count):
        flat = xp.reshape(left, (n, h * w))
        best = xp.argmax(flat, axis=1)
        heights.append(flat[row, best])
        bx, by = best % w + 1, best // w + 1
        spots.append(xp.stack([bx, by], axis=-1))
        near = ((x - bx[:, None]) ** 2)[:, None, :] + ((y - by[:, None]) ** 2)[:, :, None] < limit
        left = xp.where(near, xp.full_like(left, -1.0), left)
    return xp.stack(spots, axis=1) * layout.stride, xp.stack(heights, axis=1)


def _centroid(xp: Any, over: Array, layout: blobs.Layout) -> Array:
    """Centroid ``(N, 2)`` of what stands out by more than half in windows over their ground, from their first pixel."""
    weight = blobs.at_least(xp, over - 0.5 * xp.max(over, axis=(1, 2), keepdims=True), 0.0)
    middle = (xp.arange(layout.bins, dtype=over.dtype, device=over.device) + 0.5) * layout.bin - 0.5
    total = blobs.at_least(xp, xp.sum(weight, axis=(1, 2)), 1e-12)
    across, down = (xp.sum(xp.sum(weight, axis=axis) * middle, axis=-1) for axis in (1, 2))
    return xp.stack([across, down], axis=-1) / total[:, None]


def _beneath(xp: Any, binned: Array, origin: Array, uv: Array, layout: blobs.Layout) -> Array:
    """Median ``(N,)`` of what lies under blobs of height 1 in a ring around each centre."""
    middle = (xp.arange(layout.bins, dtype=uv.dtype, device=uv.device) + 0.5) * layout.bin - 0.5
    dx, dy = ((origin[:, i, None] + middle - uv[:, i, None]) / layout.sigma for i in (0, 1))
    r2 = (dx * dx)[:, None, :] + (dy * dy)[:, :, None]
    ring = (r2 > RING[0] ** 2) & (r2 < RING[1] ** 2)
    n = binned.shape[0]
    under = xp.reshape(binned - xp.exp(-0.5 * r2), (n, -1))
    return blobs.at_least(xp, appearance._median(xp, under, xp.reshape(ring, (n, -1)))[0], 0.0)


def _others(
    xp: Any, state: Array, origin: Array, index: Array, count: int, chosen: Array, layout: blobs.Layout
) -> Array:
    """What the other blobs of its plane add to each window ``(N, bins, bins)``; nothing where not ``chosen``."""
    n = index.shape[0]
    every = xp.arange(n, device=state.device)
    out = xp.zeros((n, layout.bins, layout.bins), dtype=state.dtype, device=state.device)
    if n == 0:
        return out
    place = xp.full((int(xp.max(index)) + count,), -1, dtype=xp.int64, device=state.device)
    place[index] = every
    for step in range(1, count):
        # The step-th next blob of the same plane, in turns.
        other = place[index - index % count + (index + step) % count]
        here = xp.nonzero(chosen & (other >= 0))[0]
        it = state[other[here], :]
        gx, gy = (blobs.profile(xp, it[:, i], origin[here, i], layout)[0] for i in (0, 1))
        out[here, ...] = out[here, ...] + it[:, 2, None, None] * gy[:, :, None] * gx[:, None, :]
    return out


def _apart(xp: Any, uv: Array, index: Array, frames: int, count: int, layout: blobs.Layout) -> tuple[Array, Array]:
    """Planes ``(T, 3)`` whose blobs crowd each other, and blobs ``(N,)`` that none is near to."""
    whole = _whole(xp, uv, index, (frames, 3, count), xp.nan)
    squared = xp.sum((whole[..., :, None, :] - whole[..., None, :, :]) ** 2, axis=-1)
    limit = xp.asarray(SEPARATE, dtype=uv.dtype, device=uv.device)[:, None, None] * layout.sigma
    near = (squared < limit**2) & ~xp.eye(count, dtype=xp.bool, device=uv.device)
    return xp.any(xp.any(near, axis=-1), axis=-1), xp.reshape(~xp.any(near, axis=-1), (-1,))[index]


def _whole(xp: Any, values: Array, index: Array, shape: tuple[int, ...], fill: float | bool) -> Array:
    out = xp.full((math.prod(shape), *values.shape[1:]), fill, dtype=values.dtype, device=values.device)
    out[index, ...] = values
    return xp.reshape(out, (*shape, *values.shape[1:]))
