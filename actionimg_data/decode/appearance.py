"""Blobs of pictures that are not drawn as the spec says: how a clip draws them is found first, then where they are.

`blobs` knows the width, the height and the ground of a blob and takes each channel for itself; that is what makes it
precise on faithful pictures. What a video model draws may be wider, flatter, elongated, on grey, and shine through
into other channels, all in the same way over a clip. So here, written once for numpy and torch, on whole pictures
averaged over bins of a quarter of sigma:

1. the ground of each plane is its median, and the share of each channel in the others is what these show where that
   channel's blob is and their own are not (median over the clip); mixing is undone by the inverse matrix;
2. the brightest spots of each plane are candidates, fitted where they are at least half as high as their peak: there
   other channels' tails, the pedestal and what shines through matter least;
3. ``log(I - b)`` is quadratic there, which gives each blob's ellipse; the clip's is the median;
4. with that ellipse the centre is fitted by least squares, height and ground free within what the clip shows.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..geometry.arrays import array_namespace
from .blobs import Layout, at_least, within

Array = Any

REACH = 2.4
"""Half side in sigmas of the window around a candidate: half height of a blob twice as wide as the spec's."""
HALF = 0.5
"""Share of a candidate's height above which its bins are fitted for its ellipse."""
RADIUS = 1.1
"""Radius, in the ellipse's own standard deviations, within which bins are fitted for the centre."""
CANDIDATES = 2
"""Blobs kept of each plane."""
SECOND = 0.5
"""Least height of a second blob over the first's."""
APART = 2.2
"""Sigmas between two blobs of a plane."""
LEAST_CONTRAST = 0.1
"""Least height over the ground that counts as a blob."""
WIDTHS = (0.4, 2.2)
"""Standard deviations over sigma outside of which nothing is a blob of an action image."""
ODD_WIDTH = 1.45
"""Factor from the clip's width beyond which a spot is something else."""
STEPS = 9
SURVEYED = 24
"""Frames of a clip, about, that tell how its channels are mixed."""
LEAST_EXPLAINED = 0.8
"""Least share of the variance near its centre that a blob must explain."""
LEAST_BLOBS = 0.4
"""Least share of a view's bright spots that are blobs, or none is one."""
BACKGROUND_PULL = 1.4
"""Sigmas by which a background that changes by a blob's height over a sigma moves the fit (RADIUS 1.1)."""
EDGE_REACH = (1.2, 3.2)
"""Radii, in the ellipse's standard deviations, between which the edge of blue's pedestal lies under any curve from
gamma 0.5 to 3,"""
EDGE_RINGS = 16
"""and rings of bins between them."""
LEAST_SHARE = 0.003
"""Shares of a channel in another under this are none: 8 bits and codecs make as much."""


class Appearance(NamedTuple):
    """How a view draws its blobs over a clip; see `survey`."""

    mixing: Array
    """``(3, 3)`` share of each channel (column) in each channel of the picture (row), 1 on the diagonal."""
    ellipse: Array
    """``(3, 2, 2)`` covariance of each channel's blob over sigma squared; the identity where none was seen."""
    peak: Array
    """``(3,)`` height over the ground; 1 where no blob was seen."""
    peak_spread: Array
    """``(3,)`` how far it varies between frames."""
    ground: Array
    """``(T, 3)`` median of each plane."""
    opened: Array
    """``(T,)`` bool, whether blue stands on a lit pedestal."""


class Candidates(NamedTuple):
    """Fitted blobs, brightest first; see `candidates`."""

    uv: Array
    """``(T, 3, K, 2)`` pixels."""
    covariance: Array
    """``(T, 3, K, 2, 2)`` square pixels."""
    amplitude: Array
    """``(T, 3, K)``."""
    valid: Array
    """``(T, 3, K)``."""


class Start(NamedTuple):
    """Where `center_fit` starts from; see `survey`."""

    pictures: Array
    """``(T, 3, h, w)`` bins, without their ground and with the mixing undone."""
    spots: Array
    """``(T, 3, K, 2)`` bins of the windows' centres."""
    uv: Array
    """``(T, 3, K, 2)`` pixels."""
    rough: Array
    """``(T, 3)`` change of the background over a sigma, root mean square."""
    seen: Array
    """``(T, 3, K)`` whether a spot looks like a blob at all."""
    bright: Array
    """``(T, 3)`` whether a plane has a bright spot of any kind."""


def survey(binned: Array, layout: Layout, count: int = CANDIDATES) -> tuple[Appearance, Start]:
    """How a view's clip draws its blobs, and about where they are; without gradients.

    Args:
        binned: ``(T, 3, h, w)`` mean intensities of bins of ``layout.bin`` pixels, from the first pixel on.
        layout: The sampling.
        count: Candidates of each plane.
    """
    xp = array_namespace(binned)
    t, _, h, w = binned.shape
    some = max(1, (h * w) // 1500)
    flat = xp.sort(xp.reshape(binned, (t, 3, h * w))[:, :, ::some], axis=-1)
    ground = flat[..., flat.shape[-1] // 2]
    raw = binned - ground[..., None, None]
    # Light that falls on all channels alike is no pedestal.
    lit = ground[:, 2] - 0.5 * (ground[:, 0] + ground[:, 1])
    pictures, mixing = raw, xp.eye(3, dtype=binned.dtype, device=binned.device)
    # The mixing is a clip's, so some frames tell it; who sees it undone sees the ellipses better, and so the mixing.
    part = xp.arange(0, t, max(1, t // SURVEYED), device=binned.device)
    for last in (False, False, False, True):
        taken = pictures if last else pictures[part, ...]
        spots, rough_fit, seen, opened, bright = _rough_fit(
            taken, lit if last else lit[part], layout, count if last else 1
        )
        ellipse, peak, peak_spread = _shape_of_clip(xp, rough_fit, seen[..., 0])
        if last:
            break
        step = mixing_matrix(taken, rough_fit.uv[..., 0, :], ellipse, seen[..., 0], opened, layout)
        if bool(xp.any(step != xp.eye(3, dtype=step.dtype, device=step.device))):
            mixing = mixing @ step
            pictures = xp.reshape(xp.linalg.inv(mixing) @ xp.reshape(raw, (t, 3, h * w)), (t, 3, h, w))
    found = Appearance(mixing, ellipse, peak, peak_spread, ground, opened)
    rough = _roughness(xp, pictures, rough_fit.uv, seen, ellipse, layout)
    return found, Start(pictures, spots, rough_fit.uv, rough, seen, bright)


def _rough_fit(
    pictures: Array, lit: Array, layout: Layout, count: int
) -> tuple[Array, _Quadratic, Array, Array, Array]:
    """Spots ``(T, 3, K, 2)``, their `quadratic` fits, whether these look like blobs, whether blue is open ``(T,)``, and
    whether a plane shows anything bright ``(T, 3)``.

    ``pictures`` are those over their ground, ``lit (T,)`` is how much brighter blue's ground is than the others'.
    """
    xp = array_namespace(pictures)
    t, _, h, w = pictures.shape
    spots, heights = brightest(xp.reshape(pictures, (t * 3, h, w)), layout, count)
    window, x, y = windows(xp.reshape(pictures, (t * 3, h, w)), spots, layout)
    # Of an open gripper blue's ground is the pedestal: the blob reaches down below it by a share of its height.
    below = layout.pedestal / (1 - layout.pedestal) * heights[2::3, 0]
    opened = lit > 0.5 * below
    raised = xp.where(opened, below, xp.zeros_like(below))
    raised = xp.reshape(xp.stack([0 * raised, 0 * raised, raised], axis=-1), (t * 3, 1))
    window, heights = window + raised[..., None, None], heights + raised
    n = t * 3 * count
    fit = quadratic(
        xp.reshape(window, (n, *window.shape[2:])),
        xp.reshape(x, (n, -1)),
        xp.reshape(y, (n, -1)),
        xp.reshape(spots, (n, 2)),
        xp.reshape(xp.where(raised > 0, 0.5 * (heights + raised), HALF * heights), (n,)),
        layout,
    )
    fit = _Quadratic(*(xp.reshape(v, (t, 3, count, *v.shape[1:])) for v in fit))
    spots, heights = xp.reshape(spots, (t, 3, count, 2)), xp.reshape(heights, (t, 3, count))
    seen = fit.valid & plausible(fit.ellipse) & (heights > LEAST_CONTRAST) & (heights > SECOND * heights[..., :1])
    return spots, fit, seen, opened, heights[..., 0] > LEAST_CONTRAST


def _shape_of_clip(xp: Any, fit: _Quadratic, seen: Array) -> tuple[Array, Array, Array]:
    """Ellipse ``(3, 2, 2)``, peak and its spread ``(3,)``: medians over the frames that show a blob."""
    e = fit.ellipse[:, :, 0, ...]
    entries = xp.stack([e[..., 0, 0], e[..., 0, 1], e[..., 1, 1], fit.amplitude[:, :, 0]], axis=-1)
    by_channel = xp.moveaxis(entries, 0, -1)
    mask = xp.matrix_transpose(seen)
    middle, count = _median(xp, by_channel, mask[:, None, :] & (by_channel == by_channel))
    xx, xy, yy, peak = (middle[:, i] for i in range(4))
    none = count[:, 0] == 0
    one, zero = xp.ones_like(xx), xp.zeros_like(xx)
    xx, xy, yy, peak = (xp.where(none, o, v) for v, o in ((xx, one), (xy, zero), (yy, one), (peak, one)))
    # Of medians entry by entry the determinant could be anything.
    xy = within(xp, xy / xp.sqrt(xx * yy), -0.9, 0.9) * xp.sqrt(xx * yy)
    spread, _ = _median(xp, xp.abs(by_channel[:, 3, :] - peak[:, None]), mask)
    ellipse = xp.stack([xp.stack([xx, xy], axis=-1), xp.stack([xy, yy], axis=-1)], axis=-2)
    return ellipse, peak, at_least(xp, 3 * spread, 0.0) + 0.05 * peak


def _roughness(xp: Any, pictures: Array, uv: Array, seen: Array, ellipse: Array, layout: Layout) -> Array:
    """Root mean square change of each plane over a sigma ``(T, 3)``, away from all blobs."""
    t, _, h, w = pictures.shape
    half = max(1, round(layout.sigma / layout.bin / 2))
    step = half
    x, y = ((xp.astype(xp.arange(0, n, step, device=uv.device), uv.dtype) + 0.5) * layout.bin - 0.5 for n in (w, h))
    reach = 3 * xp.sqrt(xp.max(ellipse[:, 0, 0] + ellipse[:, 1, 1]) / 2) * layout.sigma
    dx = x[None, None, :] - xp.reshape(uv[..., 0], (t, -1))[..., None]
    dy = y[None, None, :] - xp.reshape(uv[..., 1], (t, -1))[..., None]
    near = (dx[:, :, None, :] ** 2 + dy[:, :, :, None] ** 2 < reach**2) & xp.reshape(seen, (t, -1))[..., None, None]
    clear = xp.astype(~xp.any(near, axis=1), uv.dtype)[:, None, ...]
    smooth = _box(xp, xp.reshape(pictures, (t * 3, h, w)))
    samples = xp.reshape(smooth[:, ::step, ::step], (t, 3, *clear.shape[2:]))
    total = xp.zeros_like(uv[..., 0, 0])
    number = xp.zeros_like(total)
    for a, b, m in (
        (samples[..., 2:], samples[..., :-2], clear[..., 2:] * clear[..., :-2]),
        (samples[..., 2:, :], samples[..., :-2, :], clear[..., 2:, :] * clear[..., :-2, :]),
    ):
        total = total + xp.sum((a - b) ** 2 * m, axis=(-2, -1))
        number = number + xp.sum(m, axis=(-2, -1))
    return xp.sqrt(total / at_least(xp, number, 1.0))


def candidates(found: Appearance, start: Start, layout: Layout, steps: int = STEPS) -> Candidates:
    """The blobs of each plane, fitted with the clip's ellipse about where `survey` saw them."""
    xp = array_namespace(start.pictures)
    t, _, count, _ = start.uv.shape
    n = t * 3 * count
    _, _, h, w = start.pictures.shape
    window, x, y = windows(
        xp.reshape(start.pictures, (t * 3, h, w)), xp.reshape(start.spots, (t * 3, count, 2)), layout
    )

    def each(values: Array) -> Array:
        """``(T, 3)`` or ``(3,)`` for each candidate ``(N,)``."""
        return xp.reshape((xp.zeros_like(start.uv[..., 0]) + values[..., None]), (n,))

    ellipse = xp.reshape(xp.zeros_like(start.uv[..., None]) + found.ellipse[:, None, ...], (n, 2, 2))
    under = xp.astype(found.opened, found.peak.dtype)[:, None] * xp.asarray(
        [0.0, 0.0, layout.pedestal], dtype=found.peak.dtype, device=found.peak.device
    )
    priors = (
        each(found.peak),
        each(found.peak_spread),
        each(-under * found.peak),
        each(at_least(xp, 2 * start.rough, 0.02)),
    )
    uv, covariance, amplitude, explained = center_fit(
        xp.reshape(window, (n, *window.shape[2:])),
        xp.reshape(x, (n, -1)),
        xp.reshape(y, (n, -1)),
        xp.reshape(start.uv, (n, 2)),
        ellipse,
        priors,
        layout,
        steps=steps,
    )
    # A background that changes by as much over a sigma pulls the centre along by about this.
    pulled = (BACKGROUND_PULL * layout.sigma * each(start.rough) / at_least(xp, amplitude, 0.05)) ** 2
    covariance = covariance + pulled[:, None, None] * xp.eye(2, dtype=uv.dtype, device=uv.device)
    moved = xp.sqrt(xp.sum((uv - xp.reshape(start.uv, (n, 2))) ** 2, axis=-1))
    peak = each(found.peak)
    valid = (
        xp.reshape(start.seen, (n,))
        & (explained > LEAST_EXPLAINED)
        & (moved < layout.sigma)
        & (amplitude > 0.35 * peak)
        & (amplitude < 2.5 * peak)
        & xp.all(xp.isfinite(uv), axis=-1)
    )
    whole = (t, 3, count)
    # Where most of what is bright is no blob, what looks like one is chance.
    blobs = xp.sum(xp.astype(xp.reshape(valid, whole)[..., 0], xp.int64))
    if int(blobs) < LEAST_BLOBS * int(xp.sum(xp.astype(start.bright, xp.int64))):
        valid = valid & ~valid
    return Candidates(
        xp.reshape(uv, (*whole, 2)),
        xp.reshape(covariance, (*whole, 2, 2)),
        xp.reshape(amplitude, whole),
        xp.reshape(valid, whole),
    )


def pedestal_height(found: Appearance, start: Start, blobs: Candidates, layout: Layout) -> float:
    """Height of blue's pedestal when open, by its blobs in open and closed frames alike; NaN where none shows it.

    The blob is drawn where it is higher than the pedestal. Closed, there is a step at its edge, as high as the pedestal
    would be; open, there is none, and the pedestal is seen. Their sum is the height in either case, whatever the curve
    between intensities and grey levels has made of it. The step is the largest lack of brightness, against the fitted
    Gaussian, over rings around the centre.
    """
    xp = array_namespace(start.pictures)
    t, _, h, w = start.pictures.shape
    some = xp.arange(0, t, max(1, t // SURVEYED), device=start.pictures.device)
    some = some[blobs.valid[some, 2, 0]]
    if some.shape[0] == 0:
        return math.nan
    ground = found.ground[some, :]
    lit = at_least(xp, ground[:, 2] - 0.5 * (ground[:, 0] + ground[:, 1]), 0.0)
    plane = start.pictures[some, 2, ...] + lit[:, None, None]
    uv, amplitude = blobs.uv[some, 2, 0, :], blobs.amplitude[some, 2, 0]
    x, y = ((xp.astype(xp.arange(n, device=uv.device), uv.dtype) + 0.5) * layout.bin - 0.5 for n in (w, h))
    dx, dy = ((x - uv[:, :1]) / layout.sigma)[:, None, :], ((y - uv[:, 1:]) / layout.sigma)[:, :, None]
    e = found.ellipse[2, ...]
    q = (e[1, 1] * dx * dx - 2 * e[0, 1] * dx * dy + e[0, 0] * dy * dy) / (e[0, 0] * e[1, 1] - e[0, 1] ** 2)
    lack = amplitude[:, None, None] * xp.exp(-0.5 * q) - plane
    step = xp.zeros_like(lit)
    for i in range(EDGE_RINGS):
        low, high = (EDGE_REACH[0] + (EDGE_REACH[1] - EDGE_REACH[0]) * (i + j) / EDGE_RINGS for j in (0, 1))
        ring = xp.astype((q >= low * low) & (q < high * high), uv.dtype)
        count = xp.sum(ring, axis=(-2, -1))
        mean = xp.sum(lack * ring, axis=(-2, -1)) / at_least(xp, count, 1.0)
        step = xp.where((count >= 8) & (mean > step), mean, step)
    height = xp.sort(lit + step)
    return float(height[height.shape[0] // 2])


def _median(xp: Any, values: Array, mask: Array) -> tuple[Array, Array]:
    """Median ``(...)`` of ``values (..., n)`` where ``mask``, and how many they are; 0 of none."""
    filled = xp.sort(xp.where(mask, values, xp.full_like(values, xp.inf)), axis=-1)
    count = xp.sum(xp.astype(mask, xp.int64), axis=-1)
    last = at_least(xp, count - 1, 0)
    flat = xp.reshape(filled, (-1, filled.shape[-1]))
    row = xp.arange(flat.shape[0], device=values.device)
    low, high = (flat[row, xp.reshape(i, (-1,))] for i in (last // 2, (last + 1) // 2))
    middle = xp.reshape(0.5 * (low + high), count.shape)
    return xp.where(count > 0, middle, xp.zeros_like(middle)), count


def brightest(pictures: Array, layout: Layout, count: int) -> tuple[Array, Array]:
    """The ``count`` brightest spots of planes ``(N, h, w)``, `APART` sigmas from each other: bins ``(N, K, 2)`` (x, y)
    and their heights ``(N, K)``, smoothed over about half a sigma."""
    xp = array_namespace(pictures)
    n, h, w = pictures.shape
    # Of equal spots the first: rounding differs between backends.
    smooth = xp.round(_box(xp, pictures) * 2.0**30) / 2.0**30
    x, y = (xp.astype(xp.arange(k, device=pictures.device), pictures.dtype) for k in (w, h))
    limit = (APART * layout.sigma / layout.bin) ** 2
    row = xp.arange(n, device=pictures.device)
    left = xp.reshape(smooth, (n, h * w))
    spots, heights = [], []
    for i in range(count):
        best = xp.argmax(left, axis=-1)
        bx, by = best % w, best // w
        spots.append(xp.stack([bx, by], axis=-1))
        heights.append(left[row, best])
        if i + 1 < count:
            fx, fy = xp.astype(bx, pictures.dtype), xp.astype(by, pictures.dtype)
            near = (x[None, None, :] - fx[:, None, None]) ** 2 + (y[None, :, None] - fy[:, None, None]) ** 2 < limit
            left = xp.where(xp.reshape(near, (n, h * w)), xp.full_like(left, -1.0), left)
    return xp.stack(spots, axis=1), xp.stack(heights, axis=1)


def _box(xp: Any, pictures: Array) -> Array:
    """Means over 3x3 bins, edges repeated."""
    rows = xp.concat([pictures[:, :1, :], pictures, pictures[:, -1:, :]], axis=1)
    rows = rows[:, :-2, :] + rows[:, 1:-1, :] + rows[:, 2:, :]
    both = xp.concat([rows[:, :, :1], rows, rows[:, :, -1:]], axis=2)
    return (both[:, :, :-2] + both[:, :, 1:-1] + both[:, :, 2:]) / 9


def windows(pictures: Array, spots: Array, layout: Layout) -> tuple[Array, Array, Array]:
    """Windows ``(N, K, n, n)`` of planes ``(N, h, w)`` about spots ``(N, K, 2)``, and their bins' x and y in pixels
    ``(N, K, n)``; all inside the picture."""
    xp = array_namespace(pictures)
    n, h, w = pictures.shape
    reach = max(1, math.ceil(REACH * layout.sigma / layout.bin))
    out = []
    for axis, size in ((0, w), (1, h)):
        count = min(2 * reach + 1, size)
        first = within(xp, spots[..., axis] - reach, 0, size - count)
        out.append(first[..., None] + xp.arange(count, device=pictures.device))
    columns, rows = out
    plane = xp.arange(n, device=pictures.device)[:, None, None, None]
    window = pictures[plane, rows[..., :, None], columns[..., None, :]]
    x, y = (xp.astype(i, pictures.dtype) * layout.bin + 0.5 * (layout.bin - 1) for i in (columns, rows))
    return window, x, y


class _Quadratic(NamedTuple):
    uv: Array
    ellipse: Array
    amplitude: Array
    valid: Array


def quadratic(window: Array, x: Array, y: Array, spots: Array, high: Array, layout: Layout) -> _Quadratic:
    """Centre, ellipse and height of blobs ``(N, ...)``: least squares of ``log I``, weighted by its square.

    Args:
        window: ``(N, n, m)``.
        x: ``(N, m)`` pixels of its columns.
        y: ``(N, n)`` pixels of its rows.
        spots: ``(N, 2)`` bins of the brightest.
        high: ``(N,)`` bins at least so high are fitted.
        layout: The sampling.
    """
    xp = array_namespace(window)
    start = xp.astype(spots, window.dtype) * layout.bin + 0.5 * (layout.bin - 1)
    dx, dy = (x - start[:, :1]) / layout.sigma, (y - start[:, 1:]) / layout.sigma
    value = window
    inside = (value > high[:, None, None]) & (dx[:, None, :] ** 2 + dy[:, :, None] ** 2 < REACH**2)
    safe = xp.where(inside, value, xp.ones_like(value))
    weight = xp.where(inside, value * value, xp.zeros_like(value))
    ones = xp.ones_like(value)
    gx, gy = ones * dx[:, None, :], ones * dy[:, :, None]
    basis = xp.stack([ones, gx, gy, gx * gx, gx * gy, gy * gy], axis=-1)
    n = basis.shape[0]
    basis = xp.reshape(basis, (n, -1, 6))
    weighted = xp.matrix_transpose(basis * xp.reshape(weight, (n, -1, 1)))
    ridge = 1e-6 * xp.eye(6, dtype=window.dtype, device=window.device)
    solution = xp.linalg.solve(weighted @ basis + ridge, weighted @ xp.reshape(xp.log(safe), (n, -1, 1)))[..., 0]
    a, b, c = -2 * solution[:, 3], -solution[:, 4], -2 * solution[:, 5]
    det = a * c - b * b
    count = xp.sum(xp.astype(inside, window.dtype), axis=(-2, -1))
    good = (a > 0) & (det > 0) & (count >= 5)
    one = xp.ones_like(a)
    a, b, c = xp.where(good, a, one), xp.where(good, b, 0 * one), xp.where(good, c, one)
    det = xp.where(good, det, one)
    su, sv = solution[:, 1], solution[:, 2]
    u, v = (c * su - b * sv) / det, (a * sv - b * su) / det
    good = good & (u * u + v * v < REACH**2)
    ellipse = xp.stack([xp.stack([c, -b], axis=-1), xp.stack([-b, a], axis=-1)], axis=-2) / det[:, None, None]
    log_height = within(xp, solution[:, 0] + 0.5 * (su * u + sv * v), -10.0, 3.0)
    uv = start + xp.where(good[:, None], xp.stack([u, v], axis=-1) * layout.sigma, xp.zeros_like(start))
    return _Quadratic(uv, ellipse, xp.exp(log_height), good)


def plausible(ellipse: Array) -> Array:
    """Whether both standard deviations of ellipses ``(..., 2, 2)`` are those of a blob of an action image."""
    xp = array_namespace(ellipse)
    half = 0.5 * (ellipse[..., 0, 0] + ellipse[..., 1, 1])
    det = ellipse[..., 0, 0] * ellipse[..., 1, 1] - ellipse[..., 0, 1] ** 2
    root = xp.sqrt(at_least(xp, half * half - det, 0.0))
    return (half - root > WIDTHS[0] ** 2) & (half + root < WIDTHS[1] ** 2)


def mixing_matrix(pictures: Array, uv: Array, ellipse: Array, seen: Array, opened: Array, layout: Layout) -> Array:
    """Share ``(3, 3)`` of each channel (column) in each other (row), 1 on the diagonal, the median over frames.

    Each plane is a sum of its own blob, moved by a little, the two others' templates, and a constant (in blue one
    inside the blob and one outside of it): linear least squares in every frame. A share counts if it is more than
    three times as large as its median's standard deviation.

    Args:
        pictures: ``(T, 3, h, w)`` bins over the ground of each plane.
        uv: ``(T, 3, 2)`` pixels of the blobs.
        ellipse: ``(3, 2, 2)`` over sigma squared.
        seen: ``(T, 3)`` bool.
        opened: ``(T,)`` bool, whether blue stands on its pedestal.
        layout: The sampling.
    """
    xp = array_namespace(pictures)
    t, _, h, w = pictures.shape
    step = max(1, round(layout.sigma / layout.bin / 2))
    x, y = (
        xp.astype(xp.arange(0, n, step, device=uv.device), uv.dtype) * layout.bin + 0.5 * (layout.bin - 1)
        for n in (w, h)
    )
    det = ellipse[:, 0, 0] * ellipse[:, 1, 1] - ellipse[:, 0, 1] ** 2
    pa, pb, pc = (e / det for e in (ellipse[:, 1, 1], -ellipse[:, 0, 1], ellipse[:, 0, 0]))
    dx = ((x - uv[..., :1]) / layout.sigma)[..., None, :]
    dy = ((y - uv[..., 1:]) / layout.sigma)[..., :, None]
    pa, pb, pc = (p[None, :, None, None] for p in (pa, pb, pc))
    px, py = pa * dx + pb * dy, pb * dx + pc * dy
    g = xp.exp(-0.5 * (px * dx + py * dy))
    g = xp.where(seen[..., None, None], g, xp.zeros_like(g))
    # Blue shows its blob above the pedestal only, and over the pedestal where that is lit.
    lit = layout.pedestal * xp.astype(opened, uv.dtype)[:, None, None]
    inside = g[:, 2, ...] > layout.pedestal
    template = [g[:, 0, ...], g[:, 1, ...], xp.where(inside, g[:, 2, ...] - lit, xp.zeros_like(lit))]
    shown = pictures[:, :, ::step, ::step]
    one = xp.ones_like(g[:, 0, ...])
    blue = xp.astype(inside, uv.dtype)
    edge = (g[:, 2, ...] > 0.6 * layout.pedestal) & (g[:, 2, ...] < 1.25 * layout.pedestal)
    rows = []
    for c in range(3):
        own = g[:, c, ...] * (blue if c == 2 else one)
        others = [r for r in range(3) if r != c]
        near = xp.any(g > 0.01, axis=1)
        weight = xp.astype(near & ~edge if c == 2 else near, uv.dtype)
        columns = [template[others[0]], template[others[1]], own, own * px[:, c, ...], own * py[:, c, ...], one]
        if c == 2:
            columns.append(blue)
        basis = xp.reshape(xp.stack(columns, axis=-1) * weight[..., None], (t, -1, len(columns)))
        value = xp.reshape(shown[:, c, ...] * weight, (t, -1, 1))
        transposed = xp.matrix_transpose(basis)
        ridge = 1e-6 * xp.eye(len(columns), dtype=uv.dtype, device=uv.device)
        found = xp.linalg.solve(transposed @ basis + ridge, transposed @ value)[..., 0]
        shares = []
        for r in range(3):
            if r == c:
                shares.append(xp.ones_like(det[0]))
                continue
            usable = seen[:, r] & seen[:, c]
            share = found[:, others.index(r)]
            middle, count = _median(xp, share, usable)
            deviation, _ = _median(xp, xp.abs(share - middle), usable)
            error = 1.86 * deviation / xp.sqrt(at_least(xp, xp.astype(count, uv.dtype), 1.0))
            sure = (count >= 3) & (xp.abs(middle) > LEAST_SHARE) & (xp.abs(middle) > 3 * error)
            shares.append(xp.where(sure, within(xp, middle, -0.45, 0.45), xp.zeros_like(middle)))
        rows.append(xp.stack(shares))
    return xp.stack(rows)


def center_fit(
    window: Array,
    x: Array,
    y: Array,
    uv: Array,
    ellipse: Array,
    priors: tuple[Array, Array, Array, Array],
    layout: Layout,
    steps: int = STEPS,
) -> tuple[Array, Array, Array, Array]:
    """Least squares of ``A exp(-q/2) + b`` with a known ellipse over the bins within ``radius`` of it.

    Args:
        window: ``(N, n, m)``.
        x: ``(N, m)`` pixels of its columns.
        y: ``(N, n)`` pixels of its rows.
        uv: ``(N, 2)`` start.
        ellipse: ``(N, 2, 2)`` over sigma squared.
        priors: Expected amplitude and its spread, expected offset and its spread, ``(N,)`` each.
        layout: The sampling.
        steps: Of Gauss-Newton.

    Returns:
        uv ``(N, 2)``, covariance ``(N, 2, 2)``, amplitude, and the share of the variance that is explained ``(N,)``.
    """
    xp = array_namespace(window)
    det = ellipse[:, 0, 0] * ellipse[:, 1, 1] - ellipse[:, 0, 1] ** 2
    pa, pb, pc = (e / det for e in (ellipse[:, 1, 1], -ellipse[:, 0, 1], ellipse[:, 0, 0]))
    amplitude, a_spread, offset, b_spread = priors
    start = uv
    a, b = amplitude, offset
    n = window.shape[0]
    identity = xp.eye(4, dtype=window.dtype, device=window.device)

    def form(center: Array) -> tuple[Array, Array, Array]:
        dx = ((x - center[:, :1]) / layout.sigma)[:, None, :]
        dy = ((y - center[:, 1:]) / layout.sigma)[:, :, None]
        px = pa[:, None, None] * dx + pb[:, None, None] * dy
        py = pb[:, None, None] * dx + pc[:, None, None] * dy
        return px * dx + py * dy, px, py

    mask = None
    for step in range(steps + 1):
        if step in (0, 2):
            # Once more about a better centre, then fixed: a region that moves with the centre would bias it.
            start = within2(xp, uv, start, layout.sigma)
            mask = xp.astype(form(start)[0] <= RADIUS**2, window.dtype)
        q, px, py = form(uv)
        g = xp.exp(-0.5 * q)
        residual = (window - a[:, None, None] * g - b[:, None, None]) * mask
        ag = a[:, None, None] * g * mask
        rows = xp.stack([ag * px, ag * py, g * mask, mask], axis=-1)
        rows = xp.reshape(rows, (n, -1, 4))
        flat = xp.reshape(residual, (n, -1))
        count = xp.sum(mask, axis=(-2, -1))
        rounding = 1 / (12 * 255.0**2 * layout.bin**2)
        variance = xp.sum(flat * flat, axis=-1) / at_least(xp, count - 4, 1.0) + rounding
        prior = xp.stack([0 * a, 0 * a, variance / a_spread**2, variance / b_spread**2], axis=-1)
        normal = xp.matrix_transpose(rows) @ rows + (prior + 1e-9)[..., None] * identity
        if step == steps:
            break
        pull = prior * xp.stack([0 * a, 0 * a, amplitude - a, offset - b], axis=-1)
        gradient = (xp.matrix_transpose(rows) @ flat[..., None])[..., 0] + pull
        move = xp.linalg.solve(normal, gradient[..., None])[..., 0]
        uv = uv + within(xp, move[:, :2], -0.5, 0.5) * layout.sigma
        a, b = within(xp, a + move[:, 2], 0.02, 3.0), b + move[:, 3]
    covariance = xp.linalg.inv(normal)[:, :2, :2] * (variance * layout.sigma**2)[:, None, None]
    mean = xp.sum(window * mask, axis=(-2, -1)) / at_least(xp, count, 1.0)
    scatter = xp.sum(((window - mean[:, None, None]) * mask) ** 2, axis=(-2, -1))
    explained = 1 - xp.sum(flat * flat, axis=-1) / at_least(xp, scatter, 1e-12)
    return uv, covariance, a, xp.where(count >= 5, explained, xp.zeros_like(explained))


def within2(xp: Any, uv: Array, start: Array, limit: float) -> Array:
    """``uv``, no further than ``limit`` along each axis from ``start``."""
    return start + within(xp, uv - start, -limit, limit)
