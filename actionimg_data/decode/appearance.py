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
from . import background
from .blobs import Layout, at_least, within

Array = Any

REACH = 2.4
"""Half side in sigmas of the window around a candidate: half height of a blob twice as wide as the spec's."""
HALF = 0.5
"""Share of a candidate's height above which its bins are fitted for its ellipse."""
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
STEPS = 9
MIXING_STEPS = 4
"""Gauss-Newton steps for the shares of the channels, each time from where the blobs are seen."""
NEAR = 0.01
"""Share of a blob's height down to which what lies about it tells how channels are mixed."""
LARGEST_SHARE = 0.7
"""Shares beyond this are none of a picture in which channels can be told apart."""
LITTLE = 0.15
"""Most that is left of a channel, clipped at black, which shows none of its blob."""
BLACK, WHITE = 0.004, 0.985
"""Intensities at which a picture may be clipped."""
SURVEYED = 24
"""Frames of a clip, about, that tell how its channels are mixed."""
LEAST_EXPLAINED = 0.8
"""Least share of the variance near its centre that a blob must explain."""
LEAST_BLOBS = 0.4
"""Least share of a view's bright spots that are blobs, or none is one."""
BESIDES = (3.3, 2.2)
"""Standard deviations from a blob from which on it does not hide what is behind it, first and when it is known well,"""
LEAST_SCENE = 0.004
"""root mean square of a scene that is worth taking off, one grey level,"""
LEAST_FRAMES = 4
"""and frames that have to show that."""
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
    clear: Array
    """``(T, 3, h, w)`` bool, bins that are not clipped at white or black, so that undoing the mixing gives what was
    drawn."""
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
    white, black = binned > WHITE, (binned < BLACK) & (ground < BLACK)[..., None, None]
    clear = ~white
    # The mixing is a clip's, so some frames tell it; who sees it undone sees the ellipses better, and so the mixing.
    part = xp.arange(0, t, max(1, t // SURVEYED), device=binned.device)
    for beside in (*BESIDES, None):
        taken, number = (xp.arange(t, device=binned.device), count) if beside is None else (part, 1)
        spots, rough_fit, seen, opened, bright = _rough_fit(
            pictures[taken, ...], clear[taken, ...], lit[taken], layout, number
        )
        ellipse, peak, peak_spread = _shape_of_clip(xp, rough_fit, seen[..., 0])
        if beside is None:
            break
        pictures = raw - still(raw[part, ...], rough_fit, ellipse, seen[..., 0], beside, layout)
        mixing = mixing_matrix(pictures[part, ...], binned[part, ...], rough_fit, ellipse, seen[..., 0], layout)
        if bool(xp.any(mixing != xp.eye(3, dtype=mixing.dtype, device=mixing.device))):
            pictures, dark = unmix(pictures, mixing, black)
            clear = ~xp.any(white, axis=1)[:, None, ...] & ~dark
    found = Appearance(mixing, ellipse, peak, peak_spread, ground, opened)
    rough = _roughness(xp, pictures, rough_fit.uv, seen, ellipse, layout)
    return found, Start(pictures, clear, spots, rough_fit.uv, rough, seen, bright)


def unmix(pictures: Array, mixing: Array, black: Array) -> tuple[Array, Array]:
    """Pictures ``(T, 3, h, w)`` with the mixing undone, and where a channel was clipped at black.

    There something is left of it although the picture is ``black``. Where that is little it shows none of its own blob;
    how dark it would have been follows from the others, and is put in its place.
    """
    xp = array_namespace(pictures)
    t, _, h, w = pictures.shape
    shown = xp.reshape(pictures, (t, 3, h * w))
    inverse = xp.linalg.inv(mixing)
    plain = inverse @ shown
    dark = xp.reshape(black, (t, 3, h * w)) & (plain > 2 * BLACK)
    if bool(xp.any(dark)):
        zero, little = xp.zeros_like(plain), dark & (plain < LITTLE)
        for _ in range(2):
            expected = mixing @ xp.where(little, zero, plain)
            plain = inverse @ xp.where(little & (expected < 0), expected, shown)
    return xp.reshape(plain, (t, 3, h, w)), xp.reshape(dark, (t, 3, h, w))


def still(pictures: Array, fit: _Quadratic, ellipse: Array, seen: Array, beside: float, layout: Layout) -> Array:
    """What all frames of a clip show alike where no blob is, ``(3, h, w)``: a scene that shines through.

    The median over the frames whose blobs are elsewhere; in places where a blob always is, a smooth continuation of
    what is around them. Nothing where frames differ as much as chance would have it.

    Args:
        pictures: ``(T, 3, h, w)`` bins over the ground of each plane.
        fit: Of the brightest blobs ``(T, 3, 1, ...)``.
        ellipse: ``(3, 2, 2)`` over sigma squared.
        seen: ``(T, 3)`` bool.
        beside: Standard deviations from a blob from which on it does not hide what is behind it.
        layout: The sampling.
    """
    xp = array_namespace(pictures)
    uv = fit.uv[..., 0, :]
    h, w = pictures.shape[2:]
    x, y = ((xp.astype(xp.arange(n, device=uv.device), uv.dtype) + 0.5) * layout.bin - 0.5 for n in (w, h))
    away = xp.ones_like(pictures[:, 0, ...]) > 0
    tails = []
    for c in range(3):
        q, _, _ = _form(x, y, uv[:, c, :], ellipse[c, ...], layout)
        away = away & ((q > beside**2) | ~seen[:, c, None, None])
        tail = fit.amplitude[:, c, :, None] * xp.exp(-0.5 * q)
        shown = seen[:, c, None, None] & (q < -2 * math.log(layout.pedestal) if c == 2 else q < math.inf)
        tails.append(xp.where(shown, tail, xp.zeros_like(tail)))
    values = xp.moveaxis(pictures - xp.stack(tails, axis=1), 0, -1)
    mask = xp.moveaxis(away, 0, -1)[None, ...]
    middle, count = _median(xp, values, mask & (values == values))
    known = count >= LEAST_FRAMES
    number = xp.astype(count, uv.dtype)
    off = xp.where(mask, (values - middle[..., None]) ** 2, xp.zeros_like(values))
    # The variance of a median is pi / 2 times that of a mean.
    chance = xp.where(
        known, 1.57 * xp.sum(off, axis=-1) / at_least(xp, number - 1, 1.0) / at_least(xp, number, 1.0), 0.0
    )
    squares = xp.where(known, middle**2, xp.zeros_like(middle))
    share = 1 - xp.sum(chance, axis=(-2, -1)) / at_least(xp, xp.sum(squares, axis=(-2, -1)), 1e-12)
    clear = xp.sum(squares, axis=(-2, -1)) > LEAST_SCENE**2 * xp.sum(xp.astype(known, uv.dtype), axis=(-2, -1))
    share = xp.where((share > 0.5) & clear, share, xp.zeros_like(share))[:, None, None]
    across, down = (xp.exp(-0.5 * ((v[:, None] - v[None, :]) / layout.sigma) ** 2) for v in (x, y))
    weight = xp.astype(known, uv.dtype)
    around = (down @ (xp.where(known, middle, xp.zeros_like(middle))) @ across) / at_least(
        xp, down @ weight @ across, 1e-6
    )
    return share * xp.where(known, middle, around)


def _rough_fit(
    pictures: Array, clear: Array, lit: Array, layout: Layout, count: int
) -> tuple[Array, _Quadratic, Array, Array, Array]:
    """Spots ``(T, 3, K, 2)``, their `quadratic` fits, whether these look like blobs, whether blue is open ``(T,)``, and
    whether a plane shows anything bright ``(T, 3)``.

    ``pictures`` are those over their ground, ``clear`` their bins that are not clipped, ``lit (T,)`` is how much
    brighter blue's ground is than the others'.
    """
    xp = array_namespace(pictures)
    t, _, h, w = pictures.shape
    spots, heights = brightest(xp.reshape(pictures, (t * 3, h, w)), layout, count)
    window, x, y = windows(xp.reshape(pictures, (t * 3, h, w)), spots, layout)
    usable, _, _ = windows(xp.reshape(clear, (t * 3, h, w)), spots, layout)
    # Of an open gripper blue's ground is the pedestal: the blob reaches down below it by a share of its height.
    below = layout.pedestal / (1 - layout.pedestal) * heights[2::3, 0]
    opened = lit > 0.5 * below
    raised = xp.where(opened, below, xp.zeros_like(below))
    raised = xp.reshape(xp.stack([0 * raised, 0 * raised, raised], axis=-1), (t * 3, 1))
    window, heights = window + raised[..., None, None], heights + raised
    n = t * 3 * count
    fit = quadratic(
        xp.reshape(window, (n, *window.shape[2:])),
        xp.reshape(usable, (n, *window.shape[2:])),
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

    usable, _, _ = windows(xp.reshape(start.clear, (t * 3, h, w)), xp.reshape(start.spots, (t * 3, count, 2)), layout)

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
    state, mask, explained = center_fit(
        xp.reshape(window, (n, *window.shape[2:])),
        xp.reshape(usable, (n, *window.shape[2:])),
        xp.reshape(x, (n, -1)),
        xp.reshape(y, (n, -1)),
        xp.reshape(start.uv, (n, 2)),
        ellipse,
        priors,
        layout,
        steps=steps,
    )
    uv, amplitude, _ = state
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
    first = xp.zeros_like(start.seen)
    first[..., 0] = True
    numbers = xp.zeros_like(start.spots[..., 0]) + xp.arange(3, device=uv.device)[:, None]
    uv, covariance = background.refine(
        xp.reshape(window, (n, *window.shape[2:])),
        mask,
        xp.reshape(x, (n, -1)),
        xp.reshape(y, (n, -1)),
        state,
        ellipse,
        priors,
        xp.reshape(numbers, (n,)),
        valid & xp.reshape(first, (n,)),
        layout,
    )
    valid = valid & xp.all(xp.isfinite(uv), axis=-1)
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


def quadratic(
    window: Array, usable: Array, x: Array, y: Array, spots: Array, high: Array, layout: Layout
) -> _Quadratic:
    """Centre, ellipse and height of blobs ``(N, ...)``: least squares of ``log I``, weighted by its square.

    Args:
        window: ``(N, n, m)``.
        usable: ``(N, n, m)`` bool, its bins that may be fitted.
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
    bright = value > at_least(xp, high, 1e-6)[:, None, None]
    inside = usable & bright & (dx[:, None, :] ** 2 + dy[:, :, None] ** 2 < REACH**2)
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


def mixing_matrix(pictures: Array, raw: Array, fit: _Quadratic, ellipse: Array, seen: Array, layout: Layout) -> Array:
    """Share ``(3, 3)`` of each channel (column) in each other (row), 1 on the diagonal, of a whole clip.

    What a channel shows is its own blob, a constant (in blue one inside the blob and one outside of it) and shares of
    what the others show: linear equations over all frames together, in which each frame has its own centre, height and
    constant and all have the shares and the ellipse in common (the frames' own are eliminated, so that blobs which lie
    on each other all the time do no harm). Frames that fit worse than others count less. Where a picture is black
    although less than black is expected, and where it is white, nothing is known of the shares.

    Args:
        pictures: ``(T, 3, h, w)`` bins over the ground of each plane.
        raw: ``(T, 3, h, w)`` the same with it.
        fit: Of the brightest blobs ``(T, 3, 1, ...)``.
        ellipse: ``(3, 2, 2)`` over sigma squared.
        seen: ``(T, 3)`` bool.
        layout: The sampling.
    """
    xp = array_namespace(pictures)
    h, w = pictures.shape[2:]
    step = max(1, round(layout.sigma / layout.bin / 2))
    uv = fit.uv[..., 0, :]
    x, y = (
        xp.astype(xp.arange(0, n, step, device=uv.device), uv.dtype) * layout.bin + 0.5 * (layout.bin - 1)
        for n in (w, h)
    )
    shown = pictures[:, :, ::step, ::step]
    raw = raw[:, :, ::step, ::step]
    white = xp.any(raw > WHITE, axis=1)
    near = xp.zeros_like(white)
    blob = []
    for c in range(3):
        q, _, _ = _form(x, y, uv[:, c, :], ellipse[c, ...], layout)
        near = near | ((q < -2 * math.log(NEAR)) & seen[:, c, None, None])
        blob.append(xp.where(seen[:, c, None, None], xp.exp(-0.5 * q), xp.zeros_like(q)))
    black = raw < BLACK
    states = [(uv[:, c, :], ellipse[c, ...], fit.amplitude[:, c, 0]) for c in range(3)]
    counts = [xp.ones_like(uv[:, 0, 0])] * 3
    found = [(xp.zeros_like(uv[0, 0, :]),) * 2] * 3
    expected = xp.zeros_like(shown)
    for _ in range(MIXING_STEPS):
        # Of another channel that should be darker than black it is not known what would be shown.
        dark = [black[:, c, ...] & (expected[:, c, ...] < -BLACK) for c in range(3)]
        after = []
        for c in range(3):
            others = [r for r in range(3) if r != c]
            usable = (
                near & ~white & ~(black[:, c, ...] & (expected[:, c, ...] < 0)) & ~dark[others[0]] & ~dark[others[1]]
            )
            shares, error, foreseen, states[c], counts[c] = _shares(
                xp, shown, x, y, c, others, [blob[r] for r in others], states[c], usable, seen[:, c], counts[c], layout
            )
            found[c] = shares, error
            after.append(foreseen)
        expected = xp.stack(after, axis=1)
    rows = []
    for c, (shares, error) in enumerate(found):
        others = [r for r in range(3) if r != c]
        sure = (xp.abs(shares) > LEAST_SHARE) & (xp.abs(shares) > 3 * error)
        sure = sure & (xp.sum(xp.astype(seen[:, c, None] & seen[:, others], xp.int64), axis=0) >= 3)
        shares = xp.where(sure, within(xp, shares, -LARGEST_SHARE, LARGEST_SHARE), xp.zeros_like(shares))
        row = [-shares[others.index(r)] if r != c else xp.ones_like(shares[0]) for r in range(3)]
        rows.append(xp.stack(row))
    mixing = xp.linalg.inv(xp.stack(rows))
    return mixing / xp.sum(mixing * xp.eye(3, dtype=mixing.dtype, device=mixing.device), axis=0)


def _form(x: Array, y: Array, uv: Array, ellipse: Array, layout: Layout) -> tuple[Array, Array, Array]:
    """``q (T, h, w)`` of an ellipse ``(2, 2)`` about centres ``(T, 2)``, and half its gradient."""
    det = ellipse[0, 0] * ellipse[1, 1] - ellipse[0, 1] ** 2
    pa, pb, pc = ellipse[1, 1] / det, -ellipse[0, 1] / det, ellipse[0, 0] / det
    dx, dy = ((x - uv[:, :1]) / layout.sigma)[:, None, :], ((y - uv[:, 1:]) / layout.sigma)[:, :, None]
    px, py = pa * dx + pb * dy, pb * dx + pc * dy
    return px * dx + py * dy, px, py


def _shares(
    xp: Any,
    shown: Array,
    x: Array,
    y: Array,
    channel: int,
    others: list[int],
    blobs: list[Array],
    state: tuple[Array, Array, Array],
    usable: Array,
    seen: Array,
    count: Array,
    layout: Layout,
) -> tuple[Array, Array, Array, tuple[Array, Array, Array], Array]:
    """One Gauss-Newton step of `mixing_matrix` for a channel.

    Returns:
        Shares of the two others ``(2,)``, their standard errors, what they make one expect ``(T, h, w)``, the next
        centres, ellipse and heights, and how much each frame counts next ``(T,)``.
    """
    uv, ellipse, height = state
    t = uv.shape[0]
    q, px, py = _form(x, y, uv, ellipse, layout)
    own, one = xp.exp(-0.5 * q), xp.ones_like(q)
    weight = xp.astype(usable, uv.dtype) * (xp.astype(seen, uv.dtype) * count)[:, None, None]
    flat = [one]
    if channel == 2:
        # Blue shows its blob above the pedestal only; where that edge lies is not known well.
        inside = xp.astype(own > layout.pedestal, uv.dtype)
        weight = weight * xp.astype((own < 0.6 * layout.pedestal) | (own > 1.25 * layout.pedestal), uv.dtype)
        own, flat = own * inside, [one, inside]
    each = [own, own * px, own * py, *flat]
    wide = own * height[:, None, None]
    common = [
        shown[:, others[0], ...],
        shown[:, others[1], ...],
        0.5 * wide * px * px,
        wide * px * py,
        0.5 * wide * py * py,
    ]
    nuisance, basis = (xp.reshape(xp.stack(c, axis=-1), (t, -1, len(c))) for c in (each, common))
    # Weighed by where the others' blobs are, not by all that they show: a scene shines through in all channels alike
    # (instrumental variables).
    tests = xp.reshape(xp.stack([*blobs, *common[2:]], axis=-1), (t, -1, 5))
    value = xp.reshape(shown[:, channel, ...], (t, -1, 1))
    root = xp.reshape(weight, (t, -1, 1))
    by_nuisance = xp.matrix_transpose(nuisance * root)
    ridge = 1e-6 * xp.eye(len(each), dtype=uv.dtype, device=uv.device)
    # What each frame's own terms take up of the common ones and of the picture.
    taken = xp.linalg.solve(by_nuisance @ nuisance + ridge, by_nuisance @ xp.concat([basis, value], axis=-1))
    left = xp.concat([basis, value], axis=-1) - nuisance @ taken
    normal = xp.matrix_transpose(tests * root) @ left
    matrix, target = normal[..., :5], normal[..., 5:]
    some = 1e-9 + 1e-6 * xp.max(xp.abs(xp.sum(matrix, axis=0)))
    inverse = xp.linalg.inv(xp.sum(matrix, axis=0) + some * xp.eye(5, dtype=uv.dtype, device=uv.device))
    found = inverse @ xp.sum(target, axis=0)
    rest = (left[..., 5:] - left[..., :5] @ found) * root
    # Frames are what is independent (a sandwich estimator with frames as clusters).
    score = (target - matrix @ found)[..., 0]
    spread = inverse @ (xp.matrix_transpose(score) @ score) @ xp.matrix_transpose(inverse)
    error = xp.sqrt(xp.stack([spread[0, 0], spread[1, 1]]))
    own_terms = (taken[..., 5:] - taken[..., :5] @ found)[..., 0]
    height = within(xp, own_terms[:, 0], 0.05, 3.0)
    moved = within(xp, own_terms[:, 1:3] / height[:, None], -0.3, 0.3) * layout.sigma
    change = within(xp, found[2:, 0], -0.2, 0.2)
    wider = ellipse + xp.stack([xp.stack([change[0], change[1]]), xp.stack([change[1], change[2]])])
    ellipse = xp.where(plausible(wider), wider, ellipse)
    number = at_least(xp, xp.sum(xp.astype(weight > 0, uv.dtype), axis=(-2, -1)), 1.0)
    squares = xp.sum(rest[..., 0] ** 2, axis=-1) / number / at_least(xp, count, 1e-3) ** 2
    middle, _ = _median(xp, squares, seen & (count > 0))
    count = within(xp, 3 * middle / at_least(xp, squares, 1e-12), 0.0, 1.0)
    expected = xp.reshape(basis[..., :2] @ found[:2] + nuisance @ own_terms[..., None], q.shape)
    return found[:2, 0], error, expected, (uv + moved, ellipse, height), count


def center_fit(
    window: Array,
    usable: Array,
    x: Array,
    y: Array,
    uv: Array,
    ellipse: Array,
    priors: tuple[Array, Array, Array, Array],
    layout: Layout,
    steps: int = STEPS,
) -> tuple[tuple[Array, Array, Array], Array, Array]:
    """Least squares of ``A exp(-q/2) + b`` with a known ellipse over the bins within `background.RADIUS` of it.

    Args:
        window: ``(N, n, m)``.
        usable: ``(N, n, m)`` bool, its bins that may be fitted.
        x: ``(N, m)`` pixels of its columns.
        y: ``(N, n)`` pixels of its rows.
        uv: ``(N, 2)`` start.
        ellipse: ``(N, 2, 2)`` over sigma squared.
        priors: Expected amplitude and its spread, expected offset and its spread, ``(N,)`` each.
        layout: The sampling.
        steps: Of Gauss-Newton.

    Returns:
        uv ``(N, 2)``, amplitude and offset ``(N,)``; the bins that were fitted ``(N, n, m)``, 0 or 1; and the share of
        their variance that is explained ``(N,)``.
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
            mask = xp.astype(usable & (form(start)[0] <= background.RADIUS**2), window.dtype)
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
    mean = xp.sum(window * mask, axis=(-2, -1)) / at_least(xp, count, 1.0)
    scatter = xp.sum(((window - mean[:, None, None]) * mask) ** 2, axis=(-2, -1))
    explained = 1 - xp.sum(flat * flat, axis=-1) / at_least(xp, scatter, 1e-12)
    return (uv, a, b), mask, xp.where(count >= 5, explained, xp.zeros_like(explained))


def within2(xp: Any, uv: Array, start: Array, limit: float) -> Array:
    """``uv``, no further than ``limit`` along each axis from ``start``."""
    return start + within(xp, uv - start, -limit, limit)
