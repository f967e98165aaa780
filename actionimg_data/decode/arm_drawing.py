"""How a clip draws the blobs of several grippers, where that is not as the spec says; numpy and torch.

`appearance.survey` asks the brightest blob of each plane; here other blobs of its channel may be near. So what it finds
is only where to start: each time the blobs have been fitted with what is known, every blob's own window tells by how
much it is wider, and all windows together tell which share of each channel is in each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..geometry.arrays import array_namespace
from . import appearance, blobs

Array = Any

ROUNDS = 3
"""Times that blobs are fitted to tell how they are drawn."""
START_WIDTHS = (0.6, 1.4)
"""Widths over the spec's from which others are found."""
LEAST_TOLD = 6
"""Blobs that tell a width, at least."""
REACH = 4.5
"""Sigmas within which an own blob's tail is allowed for where another channel's share is looked for."""
FLANK = 0.05
"""Height of an own blob's tail above which a bin tells nothing of other channels' shares."""
LEAST_CLEAR = 0.25
"""Share of a window that must lie further out to count,"""
LEAST_WINDOWS = 12
"""and how many such windows tell the shares of a channel."""
LARGEST_SHARE = 0.45


class Drawn(NamedTuple):
    """How a view draws its blobs."""

    mixing: Array
    """``(3, 3)`` share of each channel (column) in each channel of the picture (row), 1 on the diagonal."""
    ellipse: Array
    """``(3, 2, 2)`` covariance of the blobs over sigma squared."""
    peak: Array
    """``(3,)`` height over the ground."""
    width: float
    """Standard deviation of the blobs over the spec's: of a circle as large as the ellipse."""


class Fitted(NamedTuple):
    """Blobs of N windows as `arm_blobs` fits them."""

    plane: Array
    """``(N,)`` ``3 * frame + channel``."""
    good: Array
    """``(N,)`` bool, those that are apart from all others of their plane."""
    origin: Array
    """``(N, 2)`` first pixel of the window, floats."""
    state: Array
    """``(N, 4)`` as `blobs.converge` returns it, over ``Drawn.peak``."""
    mask: Array
    """``(N, bins, bins)`` bins that were fitted."""
    own: Array
    """``(N, bins, bins)`` the plane, mixing and the other blobs' tails undone, over ``Drawn.peak``."""
    raw: Array
    """``(N, 3, bins, bins)`` all channels of the picture there."""
    level: Array
    """``(T, 3)`` median of each channel of the picture."""


def first_guess(binned: Array, layout: blobs.Layout) -> Drawn:
    """What `appearance.survey` makes of ``(T, 3, h, w)`` bins, as far as other blobs near by let it tell."""
    xp = array_namespace(binned)
    look, _ = appearance.survey(binned, layout)
    eye = xp.eye(3, dtype=binned.dtype, device=binned.device)
    found = _told(xp, eye, look.ellipse[:2, ...], look.peak[:2])
    # Too wide a start takes blobs for crowded that are apart.
    low, high = START_WIDTHS
    return found._replace(width=min(max(found.width, low), high))


def _told(xp: Any, mixing: Array, ellipse: Array, peak: Array) -> Drawn:
    """Of ellipses of red and green, and of heights of these or of all three.

    Width is asked of these two: under blue there may be one pedestal, or two, and white.
    """
    e = xp.mean(ellipse, axis=0)
    area = float(e[0, 0] * e[1, 1] - e[0, 1] ** 2)
    low, high = appearance.WIDTHS
    width = min(max(max(area, 0.0) ** 0.25, low), high)
    peak = blobs.within(xp, peak, appearance.LEAST_CONTRAST, 2.0)
    third = xp.zeros_like(peak[:1]) + xp.mean(peak[:2])
    peak = peak if peak.shape[0] > 2 else xp.concat([peak, third])
    return Drawn(mixing, xp.stack([ellipse[0, ...], ellipse[1, ...], e]), peak, width)


def redrawn(fitted: Fitted, drawn: Drawn, layout: blobs.Layout) -> Drawn:
    """``drawn`` as blobs say that were fitted with it, in a layout whose sigma is that of the blobs."""
    xp = array_namespace(fitted.own)
    ellipse, peak = zip(*(_shape(xp, fitted, c, drawn, layout) for c in (0, 1)), strict=True)
    blue = xp.nonzero((fitted.plane % 3 == 2) & fitted.good)[0]
    change = _middle(xp, fitted.state[blue, 2]) if blue.shape[0] >= LEAST_TOLD else xp.ones_like(peak[0])
    return _told(xp, _mixing(xp, fitted, layout), xp.stack(ellipse), xp.stack([*peak, drawn.peak[2] * change]))


def _middle(xp: Any, values: Array) -> Array:
    """Median over the first axis."""
    return xp.sort(values, axis=0)[values.shape[0] // 2, ...]


def _shape(xp: Any, fitted: Fitted, channel: int, drawn: Drawn, layout: blobs.Layout) -> tuple[Array, Array]:
    """Ellipse ``(2, 2)`` and height of a channel: medians of one Gauss-Newton step of each blob about a circle."""
    chosen = xp.nonzero((fitted.plane % 3 == channel) & fitted.good)[0]
    if chosen.shape[0] < LEAST_TOLD:
        return drawn.ellipse[channel, ...], drawn.peak[channel]
    gx, gy, dx, dy = _profiles(xp, fitted.state[chosen, :], fitted.origin[chosen, :], layout)
    g = gy[:, :, None] * gx[:, None, :]
    x, y = dx[:, None, :] + 0 * g, dy[:, :, None] + 0 * g
    mask = fitted.mask[chosen, ...]
    columns = xp.stack([g, g * x, g * y, g * x * x, g * x * y, g * y * y, xp.ones_like(g)], axis=-1)
    rows = xp.reshape(columns * mask[..., None], (chosen.shape[0], -1, 7))
    value = xp.reshape(fitted.own[chosen, ...] * mask, (chosen.shape[0], -1, 1))
    ridge = 1e-9 * xp.eye(7, dtype=g.dtype, device=g.device)
    turned = xp.matrix_transpose(rows)
    found = xp.linalg.solve(turned @ rows + ridge, turned @ value)[..., 0]
    height = blobs.within(xp, found[:, 0], 0.2, 3.0)
    xx, xy, yy = (_middle(xp, blobs.within(xp, found[:, i] / height, -0.3, 0.3)) for i in (3, 4, 5))
    one = xp.ones_like(xx)
    # exp(-x^T P x / 2) about P = 1.
    precision = xp.stack([xp.stack([one - 2 * xx, -xy]), xp.stack([-xy, one - 2 * yy])])
    return drawn.width**2 * xp.linalg.inv(precision), drawn.peak[channel] * _middle(xp, height)


def _profiles(xp: Any, state: Array, origin: Array, layout: blobs.Layout) -> tuple[Array, Array, Array, Array]:
    """Gaussians along x and y, and places in sigmas from the centre, ``(N, bins)`` each."""
    middle = (xp.arange(layout.bins, dtype=state.dtype, device=state.device) + 0.5) * layout.bin - 0.5
    gx, gy = (blobs.profile(xp, state[:, i], origin[:, i], layout)[0] for i in (0, 1))
    dx, dy = ((origin[:, i, None] + middle[None, :] - state[:, i, None]) / layout.sigma for i in (0, 1))
    return gx, gy, dx, dy


def _mixing(xp: Any, fitted: Fitted, layout: blobs.Layout) -> Array:
    """Share ``(3, 3)`` of each channel in each other.

    Where another channel has a blob, a channel shows the tails of its own blobs, a constant and shares of what the two
    others show: linear least squares over all such windows, in each of which the first two are free. A share counts if
    it is more than three times its standard error, windows being what is independent.
    """
    frame, channel = fitted.plane // 3, fitted.plane % 3
    shown = fitted.raw - fitted.level[frame, :][..., None, None]
    rows = []
    for c in range(3):
        others = [r for r in range(3) if r != c]
        chosen = xp.nonzero((channel != c) & fitted.good & _apart(xp, fitted, c)[frame])[0]
        own, clear = _own_tails(xp, fitted, c, chosen, layout)
        shares = xp.zeros_like(shown[:1, 0, 0, 0]) + xp.zeros_like(fitted.level[0, :2])
        n = chosen.shape[0]
        free = xp.sum(xp.astype(clear, xp.float64), axis=(-2, -1)) > LEAST_CLEAR * layout.bins**2
        if int(xp.sum(xp.astype(free, xp.int64))) >= LEAST_WINDOWS:
            weight = xp.reshape(xp.astype(clear, shown.dtype), (n, -1, 1))
            nuisance = xp.reshape(xp.concat([own, xp.ones_like(own[..., :1])], axis=-1), (n, -1, own.shape[-1] + 1))
            basis = xp.stack([xp.reshape(shown[chosen, r, ...], (n, -1)) for r in (*others, c)], axis=-1)
            turned = xp.matrix_transpose(nuisance * weight)
            ridge = 1e-6 * xp.eye(nuisance.shape[-1], dtype=shown.dtype, device=shown.device)
            left = (basis - nuisance @ xp.linalg.solve(turned @ nuisance + ridge, turned @ basis)) * weight
            normal = xp.matrix_transpose(left[..., :2]) @ left
            matrix, target = normal[..., :2], normal[..., 2]
            small = 1e-9 * xp.eye(2, dtype=shown.dtype, device=shown.device)
            inverse = xp.linalg.inv(xp.sum(matrix, axis=0) + small)
            shares = inverse @ xp.sum(target, axis=0)
            score = target - (matrix @ shares[:, None])[..., 0]
            spread = inverse @ (xp.matrix_transpose(score) @ score) @ inverse
            error = xp.sqrt(xp.stack([spread[0, 0], spread[1, 1]]))
            sure = (xp.abs(shares) > appearance.LEAST_SHARE) & (xp.abs(shares) > 3 * error)
            shares = xp.where(sure, blobs.within(xp, shares, -LARGEST_SHARE, LARGEST_SHARE), xp.zeros_like(shares))
        rows.append(xp.stack([-shares[others.index(r)] if r != c else xp.ones_like(shares[0]) for r in range(3)]))
    mixing = xp.linalg.inv(xp.stack(rows))
    return mixing / xp.sum(mixing * xp.eye(3, dtype=mixing.dtype, device=mixing.device), axis=0)


def _apart(xp: Any, fitted: Fitted, channel: int) -> Array:
    """Frames ``(T,)`` in which a channel shows as many blobs as in any, all apart."""
    mine = fitted.plane % 3 == channel
    frames = xp.arange(fitted.level.shape[0], device=fitted.plane.device)
    here = (fitted.plane // 3)[None, :] == frames[:, None]
    all_, apart = (xp.sum(xp.astype(here & some[None, :], xp.int64), axis=1) for some in (mine, mine & fitted.good))
    return apart == xp.max(all_)


def _own_tails(xp: Any, fitted: Fitted, channel: int, chosen: Array, layout: blobs.Layout) -> tuple[Array, Array]:
    """What blobs of a channel add to windows of the others ``(n, bins, bins, 3)``: their sum and its slopes.

    And the bins ``(n, bins, bins)`` that may be used: those far out on these tails, or outside of blue's discs.
    """
    mine = xp.nonzero(fitted.plane % 3 == channel)[0]
    here = fitted.plane[chosen] // 3
    bins = layout.bins
    out = xp.zeros((chosen.shape[0], bins, bins, 3), dtype=fitted.own.dtype, device=fitted.own.device)
    clear = xp.ones((chosen.shape[0], bins, bins), dtype=xp.bool, device=fitted.own.device)
    # The first, the second, ... blob of the channel in each frame.
    order = xp.astype(fitted.plane[mine] // 3, xp.int64)
    number = xp.arange(mine.shape[0], device=order.device) - xp.searchsorted(order, order)
    frames = fitted.level.shape[0]
    for k in range(int(xp.max(number)) + 1 if mine.shape[0] else 0):
        of_frame = xp.full((frames,), -1, dtype=xp.int64, device=order.device)
        of_frame[order[number == k]] = mine[number == k]
        blob = of_frame[here]
        some = xp.nonzero(blob >= 0)[0]
        state = fitted.state[blob[some], :]
        gx, gy, dx, dy = _profiles(xp, state, fitted.origin[chosen[some], :], layout)
        g = gy[:, :, None] * gx[:, None, :]
        near = dx[:, None, :] ** 2 + dy[:, :, None] ** 2 < REACH**2
        g = xp.where(near, g, xp.zeros_like(g))
        slopes = xp.stack([g, g * dx[:, None, :], g * dy[:, :, None]], axis=-1)
        clear[some, ...] = clear[some, ...] & (g < (0.3 * layout.pedestal if channel == 2 else FLANK))
        if channel != 2:
            out[some, ...] = out[some, ...] + slopes
    return out, clear
