"""Centres of blobs that stand on something smooth: weighed by how that looks over a clip; numpy and torch.

Smooth noise, a scene that shines through, what a codec leaves: all change over about the size of a blob, and least
squares, which takes each bin's error for its own, is pulled along. Here what lies under a blob is a sum of polynomials
up to the fifth order with the covariance that a Gaussian process of squared-exponential kernel gives them, plus white
noise (generalised least squares; in this form any bins may be missing). How wide and how strong that process is, each
channel's residuals tell by restricted maximum likelihood (Patterson and Thompson 1971). Where they are white this is
least squares.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..geometry.arrays import array_namespace
from .blobs import Layout, at_least, within

Array = Any

ORDER = 5
"""Of the polynomials: a kernel half as wide as a blob, under which nothing is gained, is not smoother."""
RADIUS = 1.1
"""Radius, in the blob's own standard deviations, within which bins are fitted."""
LENGTHS = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
"""Kernels ``exp(-d^2 / 4 length^2)`` that are tried, in the blob's standard deviations,"""
STRENGTHS = tuple(10 ** (k / 3) for k in range(-2, 19))
"""and their variance over that of the white noise."""
LEAST_GAIN = 6.0
"""Log-likelihood by which a background must explain more than white noise."""
SURVEYED = 24
"""Frames of a clip, about, that tell it."""
ALIKE = 12
"""Least such frames from which on what is the same under all blobs is taken for their shape."""
STEPS = 3


class _Modes(NamedTuple):
    powers: tuple[tuple[int, int], ...]
    mix: np.ndarray
    """Of the monomials, so that the columns are orthonormal over the disc."""
    even: np.ndarray
    """Indices of modes that are the same on both sides, the constant left out."""
    spread: tuple[np.ndarray, ...]
    """For each length a root of the modes' covariance, the constant left out."""


@cache
def _modes() -> _Modes:
    line = np.linspace(-RADIUS, RADIUS, 33)
    x, y = (v.ravel() for v in np.meshgrid(line, line))
    inside = np.hypot(x, y) <= RADIUS
    x, y = x[inside], y[inside]
    powers = tuple((i - j, j) for i in range(ORDER + 1) for j in range(i + 1))
    monomials = np.stack([x**a * y**b for a, b in powers], axis=1)
    _, r = np.linalg.qr(monomials)
    mix = np.linalg.inv(r) * np.sqrt(len(x))
    modes = (monomials @ mix)[:, 1:]
    apart = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2
    roots = []
    for length in LENGTHS:
        covariance = modes.T @ np.exp(-apart / (4 * length**2)) @ modes / len(x) ** 2
        values, vectors = np.linalg.eigh(covariance)
        roots.append(vectors * np.sqrt(np.maximum(values, 1e-14)))
    degree = np.array([a + b for a, b in powers])[1:]
    return _Modes(powers, mix[:, 1:], np.flatnonzero(degree % 2 == 0), tuple(roots))


def refine(
    window: Array,
    mask: Array,
    x: Array,
    y: Array,
    state: tuple[Array, Array, Array],
    ellipse: Array,
    priors: tuple[Array, Array, Array, Array],
    channel: Array,
    counted: Array,
    layout: Layout,
) -> tuple[Array, Array]:
    """Centres and their covariances, given those of least squares.

    Args:
        window: ``(N, n, m)`` intensities.
        mask: ``(N, n, m)`` 1 where a bin is fitted, 0 elsewhere.
        x: ``(N, m)`` pixels of its columns.
        y: ``(N, n)`` pixels of its rows.
        state: Centre ``(N, 2)``, height and offset ``(N,)`` of least squares.
        ellipse: ``(N, 2, 2)`` over sigma squared.
        priors: Expected amplitude and its spread, expected offset and its spread, ``(N,)`` each.
        channel: ``(N,)`` which windows have a background in common, 0 to 2.
        counted: ``(N,)`` bool, windows that tell it.
        layout: The sampling.

    Returns:
        uv ``(N, 2)`` and covariance ``(N, 2, 2)``, square pixels.
    """
    xp = array_namespace(window)
    n = window.shape[0]
    uv, a, b = state
    expected_a, a_spread, expected_b, b_spread = priors
    det = ellipse[:, 0, 0] * ellipse[:, 1, 1] - ellipse[:, 0, 1] ** 2
    pa, pb, pc = (e / det for e in (ellipse[:, 1, 1], -ellipse[:, 0, 1], ellipse[:, 0, 0]))
    # Of each window the bins that are fitted, a tenth of all, side by side.
    fitted = xp.reshape(mask, (n, -1))
    count = xp.sum(fitted, axis=-1)
    most = max(1, int(xp.max(count)))
    order = xp.argsort(-fitted, axis=-1, stable=True)[:, :most]
    row = xp.arange(n, device=uv.device)[:, None]
    window, mask = xp.reshape(window, (n, -1))[row, order], fitted[row, order]
    across = x.shape[-1]
    x, y = x[row, order % across], y[row, order // across]
    modes = _columns(xp, x, y, uv, (pa, pb, pc), layout) * mask[..., None]
    rounding = 1 / (12 * 255.0**2 * layout.bin**2)
    no_prior = xp.zeros_like(a)

    def linear(uv: Array, a: Array, b: Array) -> tuple[Array, Array]:
        dx, dy = (x - uv[:, :1]) / layout.sigma, (y - uv[:, 1:]) / layout.sigma
        px = pa[:, None] * dx + pb[:, None] * dy
        py = pb[:, None] * dx + pc[:, None] * dy
        g = xp.exp(-0.5 * (px * dx + py * dy)) * mask
        ag = a[:, None] * g
        left = window * mask - ag - b[:, None] * mask
        return xp.stack([ag * px, ag * py, g, mask], axis=-1), left[..., None]

    def prior_of(variance: Array) -> Array:
        return xp.stack([no_prior, no_prior, variance / a_spread**2, variance / b_spread**2], axis=-1) + 1e-9

    columns, left = linear(uv, a, b)
    white = xp.sum(left * left, axis=(-2, -1)) / at_least(xp, count - 4, 1.0) + rounding
    identity = xp.eye(4, dtype=window.dtype, device=window.device)
    own = xp.matrix_transpose(columns) @ columns + prior_of(white)[..., None] * identity
    shared = xp.matrix_transpose(columns) @ modes
    by_modes = xp.matrix_transpose(modes) @ xp.concat([modes, left], axis=-1)
    cleared = by_modes - xp.matrix_transpose(shared) @ xp.linalg.solve(
        own, xp.concat([shared, xp.matrix_transpose(columns) @ left], axis=-1)
    )
    squares = _squares(xp, left)
    # How the background looks has no gradient (of eigenvectors it need not exist).
    cleared, squares, count = (_constant(v) for v in (cleared, squares, count))
    shape, precision, variance = _of_channels(
        xp, cleared[..., :-1], cleared[..., -1], squares, count, channel, counted, rounding
    )
    usual = modes @ shape[..., None]
    normal = own
    both = xp.concat([columns, modes], axis=-1)
    for step in range(STEPS + 1):
        columns, left = linear(uv, a, b)
        left = left - usual
        both = xp.concat([columns, modes], axis=-1)
        prior = prior_of(variance)
        block = _block(xp, prior[..., None] * identity, precision)
        normal = xp.matrix_transpose(both) @ both + block
        pull = prior * xp.stack([no_prior, no_prior, expected_a - a, expected_b - b], axis=-1)
        gradient = (xp.matrix_transpose(both) @ left)[..., 0]
        gradient = xp.concat([gradient[:, :4] + pull, gradient[:, 4:]], axis=-1)
        move = xp.linalg.solve(normal, gradient[..., None])[..., 0]
        if step == STEPS:
            rest = (_squares(xp, left) - xp.sum(gradient * move, axis=-1)) / at_least(xp, count - 4, 1.0)
            # Half the channel's, half the frame's own: codecs spare some frames.
            variance = 0.5 * (variance + at_least(xp, rest, 0.0) + rounding)
            break
        uv = uv + within(xp, move[:, :2], -0.3, 0.3) * layout.sigma
        a, b = within(xp, a + move[:, 2], 0.02, 3.0), b + move[:, 3]
    covariance = xp.linalg.inv(normal)[:, :2, :2] * (variance * layout.sigma**2)[:, None, None]
    return uv, covariance


def _constant(values: Array) -> Array:
    """Without gradient."""
    return values.detach() if hasattr(values, "detach") else values


def _squares(xp: Any, left: Array) -> Array:
    """Sums of squares ``(N,)`` of residuals ``(N, P, 1)``."""
    return xp.sum(left * left, axis=(-2, -1))


def _columns(xp: Any, x: Array, y: Array, uv: Array, form: tuple[Array, Array, Array], layout: Layout) -> Array:
    """The modes ``(N, P, M)`` of bins at x and y ``(N, P)``, in coordinates in which the blob is round."""
    modes = _modes()
    pa, pb, pc = form
    dx, dy = (x - uv[:, :1]) / layout.sigma, (y - uv[:, 1:]) / layout.sigma
    first, root = xp.sqrt(pa), xp.sqrt(at_least(xp, pc - pb * pb / pa, 1e-9))
    u = first[:, None] * dx + (pb / first)[:, None] * dy
    v = root[:, None] * dy
    # Beyond the disc, where nothing is fitted, powers would only overflow.
    u, v = within(xp, u, -2.0, 2.0), within(xp, v, -2.0, 2.0)
    us, vs = [xp.ones_like(u)], [xp.ones_like(v)]
    for _ in range(ORDER):
        us.append(us[-1] * u)
        vs.append(vs[-1] * v)
    monomials = xp.stack([us[i] * vs[j] for i, j in modes.powers], axis=-1)
    mix = xp.asarray(modes.mix, dtype=x.dtype, device=x.device)
    return monomials @ mix


def _block(xp: Any, own: Array, precision: Array) -> Array:
    """Block diagonal of ``(N, 4, 4)`` and ``(N, M, M)``."""
    n, m = precision.shape[:2]
    right = xp.zeros((n, 4, m), dtype=own.dtype, device=own.device)
    above = xp.concat([own, right], axis=-1)
    return xp.concat([above, xp.concat([xp.matrix_transpose(right), precision], axis=-1)], axis=-2)


def _of_channels(
    xp: Any,
    normal: Array,
    gradient: Array,
    squares: Array,
    count: Array,
    channel: Array,
    counted: Array,
    rounding: float,
) -> tuple[Array, Array, Array]:
    """What lies under the blobs of each channel, by the modes' equations with all of the blob's own taken out.

    Returns:
        For each window the modes that are the same under all ``(N, M)``, the inverse covariance of the others over the
        white variance ``(N, M, M)``, and that variance ``(N,)``.
    """
    modes = _modes()
    m = gradient.shape[-1]
    eye = xp.eye(m, dtype=normal.dtype, device=normal.device)
    shape = xp.zeros_like(gradient)
    precision = xp.zeros_like(normal) + 1e12 * eye
    variance = squares / at_least(xp, count - 4, 1.0) + rounding
    for c in range(3):
        here = channel == c
        some = xp.nonzero(here & counted & (count > m + 8))[0]
        if some.shape[0] == 0:
            continue
        some = some[:: max(1, some.shape[0] // SURVEYED)]
        s, h, total, number = normal[some, ...], gradient[some, :], squares[some], count[some]
        if some.shape[0] >= ALIKE:
            even = xp.asarray(modes.even, device=normal.device)
            part = xp.sum(s, axis=0)[even, :][:, even]
            ridge = 1e-6 * xp.max(xp.abs(part)) * eye[: even.shape[0], : even.shape[0]]
            alike = xp.zeros_like(h[0, :])
            alike[even] = xp.linalg.solve(part + ridge, xp.sum(h, axis=0)[even][:, None])[:, 0]
            shape = xp.where(here[:, None], alike, shape)
            total = total - 2 * (h @ alike) + xp.sum((s @ alike) * alike, axis=-1)
            h = h - s @ alike
        root, strength, white = _likely(xp, s, h, total, number, rounding)
        variance = xp.where(here, white + xp.zeros_like(variance), variance)
        if strength > 0:
            inverse = xp.linalg.inv(root)
            here_precision = xp.matrix_transpose(inverse) @ inverse / strength
            precision = xp.where(here[:, None, None], here_precision, precision)
    return shape, precision, variance


def _likely(xp: Any, s: Array, h: Array, total: Array, number: Array, rounding: float) -> tuple[Array, float, float]:
    """The likeliest background of some windows: a root of its modes' covariance, its strength (0: none), and the
    variance of the white noise."""
    modes = _modes()
    freedom = float(xp.sum(number - 4))
    strengths = xp.asarray(STRENGTHS, dtype=s.dtype, device=s.device)
    least = 2 * rounding * freedom
    whole = max(float(xp.sum(total)), 0.0) + least / 2
    best = xp.eye(s.shape[-1], dtype=s.dtype, device=s.device), 0.0, whole / freedom
    highest = -0.5 * freedom * np.log(whole) + LEAST_GAIN
    for spread in modes.spread:
        root = xp.asarray(spread, dtype=s.dtype, device=s.device)
        values, vectors = xp.linalg.eigh(xp.matrix_transpose(root) @ s @ root)
        values = at_least(xp, values, 0.0)
        onto = (xp.matrix_transpose(vectors) @ (h @ root)[..., None])[..., 0] ** 2
        shrunk = 1 + strengths[:, None, None] * values[None, ...]
        explained = xp.sum(strengths[:, None, None] * onto[None, ...] / shrunk, axis=(-2, -1))
        rest = at_least(xp, float(xp.sum(total)) - explained, 0.0) + least / 2
        value = -0.5 * (xp.sum(xp.log(shrunk), axis=(-2, -1)) + freedom * xp.log(rest))
        place = int(xp.argmax(value))
        if float(value[place]) > highest:
            highest = float(value[place])
            best = root, STRENGTHS[place], float(rest[place]) / freedom
    return best
