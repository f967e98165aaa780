"""Sub-pixel centres of Gaussian blobs of known width: detection on a coarse grid, then Gauss-Newton.

Written once for numpy and torch. The picture of one channel is ``A exp(-|x - u|^2 / 2 sigma^2) + b`` with ``A``
near 1 and ``b`` near 0; of the blue channel only what lies above the pedestal. Two facts carry the speed without
losing precision:

* ``log I + |x|^2 / 2 sigma^2`` is linear in the centre, so one weighted least-squares fit on log intensity, on a
  coarse grid of samples, lands within a few hundredths of sigma of it from anywhere on the blob.
* A blob is smooth: averaged over bins of a quarter of sigma it keeps all information on its centre (in each bin the
  model is averaged over the same pixels, so nothing is approximated), at a thirtieth or so of the arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..geometry.arrays import array_namespace
from ..schemas import ActionImageSpec

Array = Any

AMPLITUDE_SPREAD = 0.05
"""Prior standard deviation of a blob's peak about 1. It only matters where little of the blob is visible."""
OFFSET_SPREAD = 0.01
"""Prior standard deviation of a constant added to the picture (clipped noise, limited-range video)."""
MIN_VISIBLE = 0.12
"""Least visible intensity (above the pedestal, in blue a third of it) that counts as a blob."""
MIN_EXPLAINED = 0.8
"""Least fraction of the window's variance that the blob must explain."""
ANOTHER_APART = 4.0
"""Sigmas from the brightest blob of a plane from which on a bright spot is another one, and not its flank."""
ANOTHER_VISIBLE = 0.35
"""Least mean intensity over 3x3 samples of such a spot: six tenths of a whole blob's."""
AMPLITUDE_RANGE = (0.5, 1.6)
"""Fitted peaks outside this are not blobs of an action image."""
_STEPS = 30
_CONVERGED = 2e-5
_MASKED_ANEW = (0, 2, 4)
"""Steps before which the fitted bins are chosen about the centre; a choice that followed it to the end would not let
it stand still among noise."""


@dataclass(frozen=True)
class Layout:
    """Sampling of one picture size, all of it in proportion to sigma."""

    height: int
    width: int
    sigma: float
    """Pixels."""
    pedestal: float
    stride: int
    """Pixels between the samples of the coarse grid."""
    patch_stride: int
    """Pixels between the samples around the brightest spot."""
    bin: int
    """Pixels along the side of a bin of the fine fit."""
    bins: int
    """Bins along the side of the fine window."""
    cluster: int
    """Bins along the side of a cluster of the covariance estimate."""

    @property
    def window(self) -> int:
        """Pixels along the side of the fine window."""
        return self.bin * self.bins

    @classmethod
    def of(cls, spec: ActionImageSpec) -> Layout:
        """The sampling for the spec's size and sigma."""
        sigma, side = spec.sigma_px, min(spec.height, spec.width)
        bin_ = max(1, min(int(sigma / 4), side))
        bins = max(1, min(math.ceil(2 * WINDOW_RADIUS * sigma / bin_), side // bin_))
        return cls(
            height=spec.height,
            width=spec.width,
            sigma=sigma,
            pedestal=spec.pedestal,
            stride=max(1, min(int(sigma / 1.05), side // 4)),
            patch_stride=max(1, int(sigma / 2.1)),
            bin=bin_,
            bins=bins,
            cluster=max(1, round(0.6 * sigma / bin_)),
        )

    def visible_radius(self) -> float:
        """Radius in sigmas at which a blue blob of peak 1 meets the pedestal."""
        return math.sqrt(-2 * math.log(self.pedestal))


WINDOW_RADIUS = 1.8
"""Half side of the fine window in sigmas."""
FIT_RADIUS = 1.8
"""Radius in sigmas within which bins are fitted (more where the centre is outside the picture)."""
PEDESTAL_MARGIN = 0.05
"""Bins of the blue blob are fitted to this many sigmas within the edge of the pedestal."""


class CoarseBlobs(NamedTuple):
    """Blobs to a few hundredths of sigma; see `locate`."""

    uv: Array
    """``(N, 2)`` pixels, finite everywhere."""
    present: Array
    """``(N,)`` whether there is anything to fit."""


class BlobFit(NamedTuple):
    """Fitted blobs; see `fit`."""

    uv: Array
    """``(N, 2)`` pixels."""
    covariance: Array
    """``(N, 2, 2)`` square pixels."""
    amplitude: Array
    """``(N,)`` fitted peak, 1 on a faithful picture."""
    residual: Array
    """``(N,)`` root mean square of the residual per bin, in units of intensity."""
    valid: Array
    """``(N,)`` whether this is a blob."""
    structure: Array
    """``(N,)`` how many times larger the residual's clusters are than those of white noise would be, at least 1."""


def find(boxed: Array, layout: Layout) -> Array:
    """The brightest spot of each plane, to about a sigma: x, y in pixels ``(N, 2)``, integers.

    A mean of 3x3 samples, a sigma apart, is as wide as a blob: noise and single bright pixels do not outshine one.

    Args:
        boxed: ``(N, h - 2, w - 2)``, see `boxes`.
        layout: The sampling.
    """
    xp = array_namespace(boxed)
    n, h, w = boxed.shape
    best = xp.argmax(xp.reshape(boxed, (n, h * w)), axis=-1)
    return xp.stack([best % w + 1, best // w + 1], axis=-1) * layout.stride


def another(boxed: Array, uv: Array, layout: Layout) -> Array:
    """Whether each plane shows a second blob, over `ANOTHER_APART` sigmas from its brightest: ``(N,)``.

    Args:
        boxed: ``(N, h - 2, w - 2)``, see `boxes`.
        uv: ``(N, 2)`` the brightest blob in pixels; of planes without one anything but NaN.
        layout: The sampling.
    """
    xp = array_namespace(boxed)
    n, h, w = boxed.shape
    bright = boxed > 9 * ANOTHER_VISIBLE
    x = (xp.arange(w, dtype=uv.dtype) + 1) * layout.stride - uv[:, :1]
    y = (xp.arange(h, dtype=uv.dtype) + 1) * layout.stride - uv[:, 1:]
    away = (x * x)[:, None, :] + (y * y)[:, :, None] > (ANOTHER_APART * layout.sigma) ** 2
    return xp.any(xp.reshape(away & bright, (n, h * w)), axis=-1)


def boxes(coarse: Array) -> Array:
    """Sums ``(N, h - 2, w - 2)`` of 3x3 samples.

    Args:
        coarse: ``(N, h, w)`` intensities in [0, 1], every ``layout.stride``-th pixel from (0, 0).
    """
    rows = coarse[:, :-2, :] + coarse[:, 1:-1, :] + coarse[:, 2:, :]
    return rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]


def patch_pixels(spots: Array, layout: Layout) -> tuple[Array, Array]:
    """Columns ``(N, p)`` and rows ``(N, q)`` of samples that reach 1.6 sigma from each spot, all inside the picture."""
    xp = array_namespace(spots)
    reach = max(1, math.ceil(1.6 * layout.sigma / layout.patch_stride))
    out = []
    for axis, size in enumerate((layout.width, layout.height)):
        count = min(2 * reach + 1, (size - 1) // layout.patch_stride + 1)
        last = size - 1 - (count - 1) * layout.patch_stride
        first = within(xp, spots[:, axis] - reach * layout.patch_stride, 0, last)
        out.append(first[:, None] + xp.arange(count, device=spots.device)[None, :] * layout.patch_stride)
    return out[0], out[1]


def locate(patch: Array, xs: Array, ys: Array, spots: Array, blue: Array, layout: Layout) -> CoarseBlobs:
    """Least squares on log intensity of the samples around each spot.

    Args:
        patch: ``(N, q, p)`` intensities in [0, 1] at the pixels that `patch_pixels` named.
        xs: ``(N, p)`` their columns.
        ys: ``(N, q)`` their rows.
        spots: ``(N, 2)`` as `find` gives them.
        blue: ``(N,)`` bool, planes that have a pedestal.
        layout: The sampling.
    """
    xp = array_namespace(patch)
    n, ph, pw = patch.shape
    peak = xp.max(patch, axis=(-2, -1))
    floor = xp.where(blue, xp.full_like(peak, layout.pedestal), xp.zeros_like(peak))
    x = xp.astype(xs - spots[:, :1], patch.dtype) / layout.sigma
    y = xp.astype(ys - spots[:, 1:], patch.dtype) / layout.sigma
    radius2 = (y * y)[:, :, None] + (x * x)[:, None, :]
    lowest = xp.where(blue, 1.16 * floor, 0.3 * peak)[:, None, None]
    inside = (patch > lowest) & (radius2 <= 1.8**2)
    safe = xp.where(inside, patch, xp.ones_like(patch))
    # The variance of log I is that of I over I^2, so the weight is I^2.
    weight = xp.where(inside, patch * patch, xp.zeros_like(patch))
    target = xp.log(safe) + 0.5 * radius2
    ones = xp.ones_like(patch)
    basis = xp.stack([ones, ones * x[:, None, :], ones * y[:, :, None]], axis=-1)
    basis = xp.reshape(basis, (n, ph * pw, 3))
    weighted = xp.matrix_transpose(basis * xp.reshape(weight, (n, ph * pw, 1)))
    ridge = 1e-3 * xp.eye(3, dtype=patch.dtype, device=patch.device)
    solution = xp.linalg.solve(weighted @ basis + ridge, weighted @ xp.reshape(target, (n, ph * pw, 1)))[..., 0]
    offset = within(xp, solution[:, 1:], -3.0, 3.0) * layout.sigma
    contrast = xp.where(blue, xp.full_like(peak, MIN_VISIBLE / 3), xp.full_like(peak, MIN_VISIBLE))
    return CoarseBlobs(xp.astype(spots, patch.dtype) + offset, peak > floor + contrast)


def at_least(xp: Any, values: Array, low: float) -> Array:
    """The larger of each value and ``low`` (the compat layer's clip costs more than the arithmetic here)."""
    return np.fmax(values, low) if xp is np else xp.where(values > low, values, xp.full_like(values, low))


def within(xp: Any, values: Array, low: float, high: float) -> Array:
    """Values clipped to ``[low, high]``."""
    capped = np.fmin(values, high) if xp is np else xp.where(values < high, values, xp.full_like(values, high))
    return at_least(xp, capped, low)


def window_origins(uv: Array, layout: Layout) -> Array:
    """Top-left pixels ``(N, 2)`` (x, y; integers) of the fine windows, all of which lie inside the picture."""
    xp = array_namespace(uv)
    corner = xp.astype(xp.round(uv - 0.5 * (layout.window - 1)), xp.int64)
    x = within(xp, corner[:, 0], 0, layout.width - layout.window)
    y = within(xp, corner[:, 1], 0, layout.height - layout.window)
    return xp.stack([x, y], axis=-1)


class Ground(NamedTuple):
    """What windows stand on, where that is not the spec's black."""

    offset: Array
    """``(N,)`` expected constant under the blob."""
    spread: Array
    """``(N,)`` standard deviation of that."""
    usable: Array
    """``(N, bins, bins)`` bool, which bins may be fitted: those that are not clipped."""

    def take(self, index: Array) -> Ground:
        """Of some windows."""
        return Ground(self.offset[index], self.spread[index], self.usable[index, ...])


class _Equations(NamedTuple):
    normal: Array
    gradient: Array
    total: Array
    squares: Array
    count: Array
    variance: Array
    gx: Array
    gy: Array
    dx: Array
    dy: Array


def profile(xp: Any, center: Array, origin: Array, layout: Layout) -> tuple[Array, Array]:
    """Gaussian and its derivative by the centre (in sigmas) along one axis, averaged over bins: ``(N, bins)`` each.

    The mean over a bin's pixels is the Taylor series about its middle, whose terms are Hermite polynomials; with bins
    of a quarter of sigma what is left out after the fourth order is under 1e-8.
    """
    bins = xp.astype(xp.arange(layout.bins, device=center.device), center.dtype)
    middle = bins * layout.bin + 0.5 * (layout.bin - 1)
    d = (origin[:, None] + middle[None, :] - center[:, None]) / layout.sigma
    offsets = [(i - 0.5 * (layout.bin - 1)) / layout.sigma for i in range(layout.bin)]
    second = sum(o**2 for o in offsets) / layout.bin / 2
    fourth = sum(o**4 for o in offsets) / layout.bin / 24
    d2 = d * d
    g = xp.exp(-0.5 * d2)
    value = 1 + second * (d2 - 1) + fourth * ((d2 - 6) * d2 + 3)
    slope = 1 + second * (d2 - 3) + fourth * ((d2 - 10) * d2 + 15)
    return g * value, g * d * slope


def _mask(xp: Any, origin: Array, state: Array, blue: Array, layout: Layout, ground: Ground | None) -> Array:
    """The bins ``(N, bins, bins)`` that are fitted: near the centre, and in blue clear of the pedestal."""
    u, v = state[:, 0], state[:, 1]
    middle = (xp.astype(xp.arange(layout.bins, device=u.device), u.dtype) + 0.5) * layout.bin - 0.5
    rx = (origin[:, :1] + middle[None, :] - u[:, None]) / layout.sigma
    ry = (origin[:, 1:] + middle[None, :] - v[:, None]) / layout.sigma
    # Where the centre is outside the picture the visible tail has to be fitted, as far as the window goes.
    open_limit = FIT_RADIUS + _distance_outside(xp, u, v, layout)
    half = 0.5 * (layout.bin - 1) * math.sqrt(2) / layout.sigma
    blue_limit = xp.full_like(u, layout.visible_radius() - PEDESTAL_MARGIN - half)
    limit = xp.where(blue, blue_limit, open_limit)
    room = (limit * limit)[:, None] - ry * ry
    inside = (rx * rx)[:, None, :] <= room[:, :, None]
    return xp.astype(inside if ground is None else inside & ground.usable, u.dtype)


def _equations(xp: Any, binned: Array, origin: Array, state: Array, mask: Array, layout: Layout) -> _Equations:
    """Linearise ``I - A g - b`` in (u / sigma, v / sigma, A, b) about a state, over the bins of a mask.

    Both the blob and its derivatives are products of a function of x and one of y, so every sum over the window is
    two small matrix products.
    """
    u, v, a, b = (state[:, i] for i in range(4))
    gx, dx = profile(xp, u, origin[:, 0], layout)
    gy, dy = profile(xp, v, origin[:, 1], layout)
    masked = binned * mask
    ones = xp.ones_like(gx)
    first_x, first_y = xp.stack([gx, dx, ones], axis=-1), xp.stack([gy, dy, ones], axis=-2)
    with_image = first_y @ (masked @ first_x)
    second_x = xp.stack([gx * gx, gx * dx, dx * dx], axis=-1)
    second_y = xp.stack([gy * gy, gy * dy, dy * dy], axis=-2)
    along = mask @ xp.concat([first_x, second_x], axis=-1)
    with_one, with_model = first_y @ along[..., :3], second_y @ along[..., 3:]
    uu, uv, ua, ub = (
        a * a * with_model[:, 0, 2],
        a * a * with_model[:, 1, 1],
        a * with_model[:, 0, 1],
        a * with_one[:, 0, 1],
    )
    vv, va, vb = a * a * with_model[:, 2, 0], a * with_model[:, 1, 0], a * with_one[:, 1, 0]
    aa, ab, bb = with_model[:, 0, 0], with_one[:, 0, 0], with_one[:, 2, 2]
    entries = [uu, uv, ua, ub, uv, vv, va, vb, ua, va, aa, ab, ub, vb, ab, bb]
    normal = xp.reshape(xp.stack(entries, axis=-1), (u.shape[0], 4, 4))
    gradient = xp.stack(
        [
            a * (with_image[:, 0, 1] - ua) - b * ub,
            a * (with_image[:, 1, 0] - va) - b * vb,
            with_image[:, 0, 0] - a * aa - b * ab,
            with_image[:, 2, 2] - a * ab - b * bb,
        ],
        axis=-1,
    )
    count = bb
    squares = xp.sum(masked * binned, axis=(-2, -1))
    explained = 2 * (a * with_image[:, 0, 0] + b * with_image[:, 2, 2]) - a * a * aa - 2 * a * b * ab - b * b * bb
    ssr = at_least(xp, squares - explained, 0.0)
    # A sample stored in 8 bits cannot be known better than this, whatever the residual says.
    rounding = 1 / (12 * 255.0**2 * layout.bin**2)
    variance = ssr / at_least(xp, count - 3, 1.0) + rounding
    return _Equations(normal, gradient, with_image[:, 2, 2], squares, count, variance, gx, gy, dx, dy)


def _distance_outside(xp: Any, u: Array, v: Array, layout: Layout) -> Array:
    """Distance in sigmas of points from the picture, 0 inside it."""
    x = at_least(xp, xp.where(u < 0, -u, u - (layout.width - 1)), 0.0)
    y = at_least(xp, xp.where(v < 0, -v, v - (layout.height - 1)), 0.0)
    squared = x * x + y * y
    positive = squared > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, squared, xp.ones_like(squared))), squared) / layout.sigma


def _prior(xp: Any, variance: Array, ground: Ground | None) -> Array:
    """Information ``(N, 4)`` of the priors on amplitude and offset, in units of the residual variance."""
    zero = xp.zeros_like(variance)
    offset = variance / (OFFSET_SPREAD**2 if ground is None else ground.spread**2)
    return xp.stack([zero, zero, variance / AMPLITUDE_SPREAD**2, offset], axis=-1)


def _newton(xp: Any, at: _Equations, state: Array, layout: Layout, ground: Ground | None) -> Array:
    """One Gauss-Newton step with the priors."""
    prior = _prior(xp, at.variance, ground)
    expected = xp.asarray([0.0, 0.0, 1.0, 0.0], dtype=state.dtype, device=state.device)
    if ground is not None:
        zero = xp.zeros_like(ground.offset)
        expected = xp.stack([zero, zero, zero + 1, ground.offset], axis=-1)
    identity = xp.eye(4, dtype=state.dtype, device=state.device)
    normal = at.normal + (prior + 1e-9)[..., None] * identity
    gradient = at.gradient + prior * (expected - state)
    step = within(xp, xp.linalg.solve(normal, gradient[..., None])[..., 0], -0.5, 0.5)
    moved = state[:, :2] + step[:, :2] * layout.sigma
    amplitude = within(xp, state[:, 2:3] + step[:, 2:3], 0.2, 2.0)
    return xp.concat([moved, amplitude, state[:, 3:] + step[:, 3:]], axis=-1)


def newton(
    binned: Array, origin: Array, state: Array, mask: Array, layout: Layout, ground: Ground | None = None
) -> Array:
    """One Gauss-Newton step of the states ``(N, 4)`` that `converge` returns; arguments as for it."""
    xp = array_namespace(binned)
    return _newton(xp, _equations(xp, binned, origin, state, mask, layout), state, layout, ground)


def converge(
    binned: Array, origin: Array, uv: Array, blue: Array, layout: Layout, ground: Ground | None = None
) -> tuple[Array, Array]:
    """Iterate the fit from a coarse centre until it stands still.

    Args:
        binned: ``(N, bins, bins)`` mean intensity of each bin of the fine windows.
        origin: ``(N, 2)`` x, y of the windows' first pixel, as floats.
        uv: ``(N, 2)`` start.
        blue: ``(N,)`` bool, planes that have a pedestal.
        layout: The sampling.
        ground: What the windows stand on; black if not given.

    Returns:
        State ``(N, 4)``: u, v in pixels, amplitude, offset; and the bins that were fitted ``(N, bins, bins)``, 0 or 1.
    """
    xp = array_namespace(binned)
    offset = xp.zeros_like(uv[:, 0]) if ground is None else ground.offset
    state = xp.concat([uv, xp.ones_like(uv[:, :1]), offset[:, None]], axis=-1)
    masks = _mask(xp, origin, state, blue, layout, ground)
    active = xp.arange(binned.shape[0], device=binned.device)
    now, mask = state, masks
    for step in range(_STEPS):
        if step in _MASKED_ANEW[1:]:
            mask = _mask(xp, origin, now, blue, layout, ground)
            masks[active, ...] = mask
        after = _newton(xp, _equations(xp, binned, origin, now, mask, layout), now, layout, ground)
        step_by = xp.abs(after[:, :3] - now[:, :3])
        moved = xp.max(step_by[:, :2], axis=-1) / layout.sigma + 0.03 * step_by[:, 2]
        state[active, :] = after
        now = after
        going = moved > _CONVERGED
        if bool(xp.all(going)):
            continue
        active = active[going]
        if active.shape[0] == 0:
            break
        binned, origin, now, mask, blue = (a[going, ...] for a in (binned, origin, now, mask, blue))
        ground = None if ground is None else ground.take(going)
    return state, masks


def polish(
    binned: Array,
    origin: Array,
    state: Array,
    mask: Array,
    blue: Array,
    layout: Layout,
    steps: int,
    ground: Ground | None = None,
) -> BlobFit:
    """The last steps of a fit that has converged, its covariance, and whether it is a blob at all.

    With autograd the derivative of these steps is that of the solution. The covariance is that of least squares with
    the residual's own variance; as residuals of compressed pictures are correlated between pixels, the variance is
    the larger of the plain one and one from clusters of bins (cluster-robust, Liang and Zeger 1986), which grows with
    the correlation.

    Arguments as for `converge`, and what it returns.
    """
    xp = array_namespace(binned)
    for _ in range(steps):
        state = newton(binned, origin, state, mask, layout, ground)
    at = _equations(xp, binned, origin, state, mask, layout)
    amplitude = state[:, 2]
    template = at.gy[:, :, None] * at.gx[:, None, :] * mask
    residual = (binned - state[:, 3, None, None]) * mask - amplitude[:, None, None] * template
    groups = math.ceil(layout.bins / layout.cluster)
    member = xp.arange(layout.bins, device=state.device)[:, None] // layout.cluster
    member = xp.astype(member == xp.arange(groups, device=state.device)[None, :], state.dtype)
    # Sums of residual times derivative over each cluster, again as products of functions of x and of y.
    per_x, per_y = (
        xp.reshape(xp.stack(pair, axis=-1)[..., None] * member[:, None, :], (*pair[0].shape, 2 * groups))
        for pair in ((at.gx, at.dx), (at.gy, at.dy))
    )
    sums = xp.matrix_transpose(per_y) @ (residual @ per_x)
    clusters = xp.sum(sums[:, :groups, groups:] ** 2 + sums[:, groups:, :groups] ** 2, axis=(-2, -1)) * amplitude**2
    scatter = at.squares - at.total**2 / at_least(xp, at.count, 1.0)
    explained = 1 - xp.sum(residual * residual, axis=(-2, -1)) / at_least(xp, scatter, 1e-12)
    visible = amplitude * xp.max(template, axis=(-2, -1))
    curvature = at.normal[:, 0, 0] + at.normal[:, 1, 1]
    seen = curvature > 1e-6
    clustered = clusters / xp.where(seen, curvature, xp.ones_like(curvature))
    variance = xp.where(clustered > at.variance, clustered, at.variance)
    identity = xp.eye(4, dtype=state.dtype, device=state.device)
    normal = xp.where(seen[:, None, None], at.normal + _prior(xp, variance, ground)[..., None] * identity, identity)
    covariance = xp.linalg.inv(normal + 1e-9 * identity)[:, :2, :2] * (variance * layout.sigma**2)[:, None, None]
    contrast = xp.where(
        blue, xp.full_like(amplitude, layout.pedestal + MIN_VISIBLE / 3), xp.full_like(amplitude, MIN_VISIBLE)
    )
    low, high = AMPLITUDE_RANGE
    spread = covariance[:, 0, 0] + covariance[:, 1, 1]
    valid = (
        seen
        & (at.count >= 6)
        & (visible >= contrast)
        & (explained >= MIN_EXPLAINED)
        & (state[:, 2] >= low)
        & (state[:, 2] <= high)
        & (spread < (0.5 * layout.sigma) ** 2)
    )
    rms = xp.sqrt(at.variance)
    structure = xp.sqrt(variance / at.variance)
    return BlobFit(state[:, :2], covariance, state[:, 2], rms, valid, structure)


def ground_level(coarse: Array) -> Array:
    """Median intensity ``(T,)`` of red and green in coarse samples ``(T, 3, h, w)``: they stand on nothing.

    Their blobs cover a twentieth of the picture, so that they need not be left out.
    """
    xp = array_namespace(coarse)
    step = max(1, math.ceil(math.sqrt(coarse.shape[2] * coarse.shape[3] / 100)))
    plain = coarse[:, :2, ::step, ::step]
    ordered = xp.sort(xp.reshape(plain, (coarse.shape[0], 2, -1)), axis=-1)
    return xp.mean(ordered[..., ordered.shape[-1] // 2], axis=-1)


def pedestal_level(coarse: Array, uv: Array, found: Array, layout: Layout) -> tuple[Array, Array]:
    """Median intensity of planes away from their blob.

    Args:
        coarse: ``(N, h, w)`` coarse samples of the planes.
        uv: ``(N, 2)`` centres of their blobs.
        found: ``(N,)`` whether there is a blob.
        layout: The sampling.

    Returns:
        Level ``(N,)`` in units of intensity, and the number of samples behind it ``(N,)``.
    """
    xp = array_namespace(coarse)
    step = max(1, round(math.sqrt(coarse.shape[1] * coarse.shape[2] / 200)))
    samples = coarse[:, ::step, ::step]
    n, h, w = samples.shape
    unit = layout.stride * step
    y = xp.astype(xp.arange(h, device=uv.device), uv.dtype) * unit
    x = xp.astype(xp.arange(w, device=uv.device), uv.dtype) * unit
    distance2 = (y[None, :, None] - uv[:, 1, None, None]) ** 2 + (x[None, None, :] - uv[:, 0, None, None]) ** 2
    away = (distance2 > ((layout.visible_radius() + 0.25) * layout.sigma) ** 2) | ~found[:, None, None]
    flat = xp.reshape(xp.where(away, samples, xp.full_like(samples, 2.0)), (n, h * w))
    count = xp.sum(xp.astype(away, xp.int64), axis=(-2, -1))
    ordered = xp.sort(flat, axis=-1)
    level = ordered[xp.arange(n, device=uv.device), count // 2]
    return level, count
