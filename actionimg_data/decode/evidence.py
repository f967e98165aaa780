"""How far a clip's views contradict each other, and what that says of the poses; numpy and torch, without gradients.

With six measured keypoints in two views, six of the twelve numbers fix the pose and six are left over. What is left
over, over the whole clip and unclipped, tells how wrong the measurements are whatever their own residuals say:

* `uncertainty` finds the variance of the pixels in three parts: the blobs' stated covariance times a factor, something
  added to each keypoint by itself, and something added to all keypoints of a view together (quadratic estimation of
  variance components, Rao 1971), and carries it to the poses;
* `systematic` finds what is the same in all frames: one view late, moved, rolled or zoomed. The poses hide some of
  it, so that its design matrix is projected as the residuals are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..geometry import rotations, transforms, triangulation
from ..geometry.arrays import array_namespace
from .blobs import at_least
from .pose import Measured, triangle

Array = Any

CLIP_FREEDOM = 12.0
"""Degrees of freedom that the clip's residuals count for in each frame's covariance, and the statement for in those."""
LEAST_CLIP_FREEDOM = 2.0
"""The same where the frames of a clip differ most."""
LEAST_FREEDOM = 2.0
"""The least that is left of them where something was fitted to residuals that hardly change from frame to frame."""
INEXACT = 0.2
"""Share of a systematic move that is uncertain besides."""
SIGNIFICANT = 12.0
"""Least F statistic of something systematic."""
EXPLAINED = 0.35
"""Least share of the squared residuals that it has to explain,"""
HARDLY_SHOWN = 0.2
"""or, where the residuals show less than this share of it, so that a little of anything else would look like much,"""
EXPLAINED_HARDLY_SHOWN = 0.6
"""this share."""
ROUNDING_PX = 0.0005
"""Pixels that are always allowed for: half of what 8 bits move a blob by at any size (the Cramer-Rao bound of noise of
1 / sqrt(12) grey levels is 0.0009), as rounding repeats where a blob does and the residuals may not show it."""
COMPRESSED_PX = 0.1
"""Pixels by which a compressed video moves keypoints at any size, alike from frame to frame (0.05-0.2, the table of
codecs in docs/performance.md): what shows no more than this in the residuals is no evidence."""


_FRAMES_AT_ONCE = 512


class Linear(NamedTuple):
    """Poses and their measurements, linearised; ``M = 6 V`` numbers a frame (view, keypoint, xy)."""

    jacobian: Array
    """``(T, M, 6)`` pixels by metres and radians."""
    residual: Array
    """``(T, M)`` measured minus predicted, 0 where nothing was measured."""
    estimator: Array
    """``(T, 6, M)`` pose by pixels, at the weights that were used."""
    left: Array
    """``(T, M, M)`` residual by error of the pixels."""
    mask: Array
    """``(T, M)`` 1 where measured, as floats."""
    stated: Array
    """``(T, M, M)`` the blobs' own covariance."""
    determined: Array
    """``(T,)`` whether the measurements determine the pose."""


def linearise(measured: Measured, weights: Array, rotation: Array, translation: Array, axis_length: float) -> Linear:
    """The equations of `rigid_pose` with all their parts, at poses ``(T, 3, 3)``, ``(T, 3)``.

    Args:
        measured: Of one clip.
        weights: ``(T, V, 3, 2, 2)`` pixel covariances that the poses were found with.
        rotation: World from gripper.
        translation: Metres.
        axis_length: Metres.
    """
    xp = array_namespace(rotation)
    t, v = measured.mask.shape[:2]
    m = 6 * v
    arms = triangle(rotation, axis_length) @ xp.matrix_transpose(rotation)
    world = (arms + translation[:, None, :])[:, None, ...]
    from_world = transforms.invert(measured.world_from_camera)
    predicted, _, by_point = triangulation.projection_and_jacobian(
        world, measured.K[:, :, None, ...], from_world[:, :, None, ...]
    )
    jacobian = xp.concat([by_point, -by_point @ rotations.skew(arms)[:, None, ...]], axis=-1)
    jacobian = xp.where(measured.mask[..., None, None], jacobian, xp.zeros_like(jacobian))
    uv = xp.where(measured.mask[..., None], measured.uv, predicted)
    identity = xp.eye(2, dtype=uv.dtype, device=uv.device)
    whiten = triangulation.whitening(weights, measured.mask)
    rows = xp.reshape(whiten @ jacobian, (t, m, 6))
    normal = xp.matrix_transpose(rows) @ rows
    six = xp.eye(6, dtype=uv.dtype, device=uv.device)
    diagonal = xp.sum(normal * six, axis=-1)
    positive = xp.all(diagonal > 0, axis=-1) & xp.all(xp.isfinite(diagonal), axis=-1)
    scale = xp.sqrt(xp.where(positive[:, None], diagonal, xp.ones_like(diagonal)))
    unit = xp.where(positive[:, None, None], normal / (scale[:, :, None] * scale[:, None, :]), six)
    determined = positive & (xp.linalg.eigvalsh(unit)[:, 0] > 1e-10)
    unit = xp.where(determined[:, None, None], unit, six)
    inverse = xp.linalg.inv(unit) / (scale[:, :, None] * scale[:, None, :])
    weighted = xp.reshape(xp.matrix_transpose(whiten) @ xp.reshape(rows, (t, v, 3, 2, 6)), (t, m, 6))
    estimator = inverse @ xp.matrix_transpose(weighted)
    flat = xp.reshape(jacobian, (t, m, 6))
    mask = xp.reshape(xp.astype(measured.mask, uv.dtype)[..., None] + 0 * uv, (t, m))
    eye = xp.eye(m, dtype=uv.dtype, device=uv.device)
    left = eye * mask[:, None, :] - flat @ estimator
    stated = xp.where(measured.mask[..., None, None], measured.covariance, 0 * identity)
    # Block diagonal by broadcasting: (T, k, 2, k', 2) is zero where k != k'.
    keypoints = xp.eye(3 * v, dtype=uv.dtype, device=uv.device)
    blocks = xp.reshape(stated, (t, 3 * v, 2, 1, 2)) * keypoints[None, :, None, :, None]
    return Linear(
        flat,
        xp.reshape(uv - predicted, (t, m)),
        estimator,
        left,
        mask,
        xp.reshape(blocks, (t, m, m)),
        determined,
    )


class Spread(NamedTuple):
    """What `uncertainty` found."""

    covariance: Array
    """``(T, 6, 6)`` of the poses."""
    factor: float
    """Of the blobs' stated covariances."""
    single: float
    """Square pixels added to each keypoint by itself."""
    common: float
    """Square pixels added to all keypoints of a view together."""


def uncertainty(at: Linear, counted: Array, extra: Array | None = None, fitted: int = 0) -> Spread:
    """Covariance of the poses of a clip from what its measurements leave over.

    Args:
        at: The clip, linearised.
        counted: ``(T,)`` bool, frames whose residuals count.
        extra: ``(T, M)`` a move of the measurements, common to the clip, that may or may not be theirs: its square
            counts as their variance besides.
        fitted: Numbers that were fitted to the residuals for it.
    """
    xp = array_namespace(at.residual)
    eye = xp.eye(at.mask.shape[-1], dtype=at.mask.dtype, device=at.mask.device)
    left_over = xp.sum(at.left * eye, axis=(-2, -1))
    use = xp.astype(counted & (left_over > 0.5), at.mask.dtype)
    residual = at.residual if extra is None else at.residual - (at.left @ extra[..., None])[..., 0]
    # Frames that contradict themselves far more than the others are judged by themselves below.
    squares = xp.sum(residual**2, axis=-1)
    typical = quantile(xp, squares, use > 0, 0.5)
    use = use * xp.astype(squares <= 30 * typical, use.dtype)
    some = _runs(xp, at)
    numbers = np.sum([_equations(xp, _frames(at, i), residual[i, ...], use[i]) for i in some], axis=0)
    freedom = float(xp.sum(use * left_over))
    variances = _non_negative(numbers[:, :3], numbers[:, 3], freedom)
    parts = [_carried(xp, _frames(at, i), variances, None if extra is None else extra[i, ...], extra) for i in some]
    covariance, expected = (xp.concat([part[j] for part in parts]) for j in (0, 1))
    own = xp.where(expected > 0, squares / xp.where(expected > 0, expected, xp.ones_like(expected)), 0 * expected)
    weight = _prior_freedom(xp, own[use > 0], left_over[use > 0])
    grown = (weight + left_over * own) / (weight + left_over)
    grown = xp.where(left_over > 0.5, at_least(xp, grown, 0.7), xp.ones_like(grown))
    # The growth scatters as a variance does that is known with (weight + left over)^2 / left over degrees of freedom.
    scatter = (weight + left_over) ** 2 / at_least(xp, left_over, 0.5)
    grown = grown * wider(scatter) * wider(max(_independent(xp, residual, use, left_over) - fitted, LEAST_FREEDOM))
    return Spread(covariance * grown[:, None, None], *variances)


def wider(freedom: Any) -> Any:
    """Factor on a variance that is known with so many degrees of freedom only, for a 90 % ellipsoid of a pose.

    The ratio of the 90 % quantiles of F with (6, freedom) and with (6, infinity) degrees, within 1 % from 6 on.
    """
    return 1 + 3.2 / freedom + 6.7 / freedom**2


def _independent(xp: Any, residual: Array, use: Array, left_over: Array) -> float:
    """Degrees of freedom of a clip's residuals ``(T, M)``: frames that repeat each other's count once.

    Of a first-order autoregression ``(1 - r) / (1 + r)`` of them are independent; at least those of one frame.
    """
    whole, count = float(xp.sum(use * left_over)), float(xp.sum(use))
    if whole < 1:
        return CLIP_FREEDOM
    both = use[1:] * use[:-1]
    alike = float(xp.sum(both * xp.sum(residual[1:, ...] * residual[:-1, ...], axis=-1)))
    size = float(xp.sum(0.5 * both * xp.sum(residual[1:, ...] ** 2 + residual[:-1, ...] ** 2, axis=-1)))
    r = min(max(alike / size, 0.0), 1.0) if size > 0 else 0.0
    return max(whole * (1 - r) / (1 + r), whole / count)


def _runs(xp: Any, at: Linear) -> list[Array]:
    """Indices of the frames in runs, so that memory does not grow with a clip's length."""
    every = xp.arange(at.mask.shape[0], device=at.mask.device)
    return [every[i : i + _FRAMES_AT_ONCE] for i in range(0, every.shape[0], _FRAMES_AT_ONCE)]


def _frames(at: Linear, index: Array) -> Linear:
    return Linear(*(a[index, ...] for a in at))


def _parts(xp: Any, at: Linear) -> list[Array]:
    """The three parts ``(T, M, M)`` of the pixels' covariance, each of variance 1."""
    m = at.mask.shape[-1]
    eye = xp.eye(m, dtype=at.mask.dtype, device=at.mask.device)
    place = xp.arange(m, device=at.mask.device)
    same = (place[:, None] // 6 == place[None, :] // 6) & (place[:, None] % 2 == place[None, :] % 2)
    both = at.mask[:, :, None] * at.mask[:, None, :]
    return [at.stated, eye * both, xp.astype(same, at.mask.dtype) * both]


def _equations(xp: Any, at: Linear, residual: Array, use: Array) -> np.ndarray:
    """``(3, 4)`` what each test of the residuals expects of the three parts, and what it finds.

    Weighed by the inverse of the statement, by plain pixels, and by the views' means.
    """
    eye = xp.eye(at.mask.shape[-1], dtype=at.mask.dtype, device=at.mask.device)
    parts = _parts(xp, at)
    moved = [at.left @ p @ xp.matrix_transpose(at.left) for p in parts]
    outer = residual[:, :, None] * residual[:, None, :]
    precision = 1 / at_least(xp, xp.sum(at.stated * eye, axis=-1), 1e-12)
    tests = [eye * (precision * at.mask)[:, :, None], parts[1], parts[2]]
    weighed = xp.stack([xp.reshape(test * use[:, None, None], (-1,)) for test in tests])
    columns = xp.stack([xp.reshape(part, (-1,)) for part in (*moved, outer)], axis=-1)
    return np.asarray((weighed @ columns).tolist())


def _carried(
    xp: Any, at: Linear, variances: tuple[float, float, float], extra: Array | None, whole: Array | None
) -> tuple[Array, Array]:
    """Covariances ``(T, 6, 6)`` of the poses, and the squared residuals ``(T,)`` that are expected."""
    parts = _parts(xp, at)
    total = sum(v * p for v, p in zip(variances, parts, strict=True))
    if extra is not None and whole is not None:
        total = total + extra[:, :, None] * extra[:, None, :]
        # Linear in the move, and what else the views got wrong then, this is known to a fifth or so.
        total = total + INEXACT**2 * xp.mean(whole**2) * parts[1]
    covariance = at.estimator @ total @ xp.matrix_transpose(at.estimator)
    eye = xp.eye(at.mask.shape[-1], dtype=at.mask.dtype, device=at.mask.device)
    left = at.left @ total @ xp.matrix_transpose(at.left)
    return covariance, xp.sum(left * eye, axis=(-2, -1))


def _prior_freedom(xp: Any, own: Array, freedom: Array) -> float:
    """Degrees of freedom that the clip counts for in a frame, by how much the frames' variances differ.

    Of frames of one variance the squared residuals per degree of freedom, over their expectation, vary by
    2 / freedom; what they vary more is the variances' own, and 2 / CLIP_FREEDOM of it is always expected.
    """
    n = own.shape[0]
    if n < 8:
        return CLIP_FREEDOM
    mean = float(xp.mean(own))
    if mean <= 0:
        return CLIP_FREEDOM
    ratio = float(xp.mean((own / mean) ** 2))
    by_chance = 1 + 2 / float(xp.mean(freedom))
    differ = ratio / by_chance - 1
    return min(max(2 / differ, LEAST_CLIP_FREEDOM), CLIP_FREEDOM) if differ > 0 else CLIP_FREEDOM


def quantile(xp: Any, values: Array, mask: Array, share: float) -> float:
    """A quantile of ``values (T,)`` where ``mask``; 0 of none."""
    kept = xp.sort(values[mask])
    return float(kept[min(int(share * kept.shape[0]), kept.shape[0] - 1)]) if kept.shape[0] else 0.0


def _non_negative(table: np.ndarray, found: np.ndarray, freedom: float) -> tuple[float, float, float]:
    """Least squares of ``table x = found`` for three variances that are not negative, the first about 1 a priori."""
    if freedom < 0.5:
        return 1.0, ROUNDING_PX**2, 0.0
    rows = table / np.maximum(found, 1e-300)[:, None]
    # What each part alone would have to be, so that the three compare.
    scale = 1 / np.maximum(rows.max(axis=0), 1e-300)
    rows = rows * scale
    prior = 0.2 * np.sqrt(CLIP_FREEDOM / freedom)
    rows = np.vstack([rows, [prior * scale[0], 0, 0], [0, 1e-3, 0], [0, 0, 1e-3]])
    values = np.array([1.0, 1.0, 1.0, prior, 0.0, 0.0])
    best, least = np.zeros(3), np.inf
    # Of the subsets of the three, the whole first: nearly always it is the answer.
    for chosen in ([0, 1, 2], [0, 1], [0, 2], [1, 2], [0], [1], [2]):
        some = rows[:, chosen]
        x = np.linalg.solve(some.T @ some, some.T @ values)
        if (x >= 0).all():
            rest = float(((some @ x - values) ** 2).sum())
            if rest < least:
                best, least = np.zeros(3), rest
                best[chosen] = x
            if len(chosen) == 3:
                break
    factor, single, common = best * scale
    return float(factor), float(single) + ROUNDING_PX**2, float(common)


class Systematic(NamedTuple):
    """Something that is the same in all frames of one view, against the others."""

    view: int
    kind: str
    """``lag``, ``moved`` or ``drift``."""
    value: Array
    """Frames; or x, y, roll and zoom in pixels (roll and zoom at a quarter of the picture from its middle); or x and y
    at half time and what is added to each from there to the end."""
    deviation: Array
    """Their standard deviations."""
    move: Array
    """``(T, M)`` what it does to the measurements, pixels."""
    explained: float
    """Share of the squared residuals."""
    statistic: float
    """F."""
    shown: float
    """Share of the move, root mean square, that the residuals show; the poses take up the rest."""


def systematic(at: Linear, measured: Measured, counted: Array, size: tuple[int, int]) -> list[Systematic]:
    """What a lag, a move and a drift of the picture of each view but the first would explain; best first."""
    xp = array_namespace(at.residual)
    t, v = measured.mask.shape[:2]
    use = xp.astype(counted, at.residual.dtype)
    total = float(xp.sum(use * xp.sum(at.residual**2, axis=-1)))
    freedom = float(
        xp.sum(use * xp.sum(at.left * xp.eye(at.left.shape[-1], dtype=use.dtype, device=use.device), axis=(-2, -1)))
    )
    results: list[Systematic] = []
    if freedom < 12 or total <= 0:
        return results
    uv = xp.where(measured.mask[..., None], measured.uv, xp.zeros_like(measured.uv))
    zero = xp.zeros_like(uv)
    reach = min(size) / 4
    away = (uv - xp.asarray([size[1] / 2, size[0] / 2], dtype=uv.dtype, device=uv.device)) / reach
    across = xp.stack([-away[..., 1], away[..., 0]], axis=-1)
    one = xp.ones_like(uv[..., 0])
    right, down = xp.stack([one, 0 * one], axis=-1), xp.stack([0 * one, one], axis=-1)
    part_of_clip = 2 * xp.astype(xp.arange(t, device=uv.device), uv.dtype)[:, None, None, None] / max(t - 1, 1) - 1
    later, lower = right * part_of_clip, down * part_of_clip
    speed, steady = velocity(xp, measured)
    number = xp.arange(v, device=uv.device)[None, :, None, None]
    for view in range(1, v):
        here = xp.astype((number == view) & measured.mask[..., None], uv.dtype)
        kinds = (("lag", [-speed]), ("moved", [right, down, across, away]), ("drift", [right, down, later, lower]))
        for kind, columns in kinds:
            seen = use * (xp.astype(steady, use.dtype) if kind == "lag" else 1.0)
            design = xp.reshape(xp.stack([zero + c * here for c in columns], axis=-1), (t, 6 * v, len(columns)))
            shown = at.left @ design * seen[:, None, None]
            normal = xp.sum(xp.matrix_transpose(shown) @ shown, axis=0)
            gradient = xp.sum((xp.matrix_transpose(shown) @ at.residual[..., None])[..., 0], axis=0)
            before = float(xp.sum(seen * xp.sum(at.residual**2, axis=-1)))
            ridge = 1e-6 * xp.eye(len(columns), dtype=uv.dtype, device=uv.device) * (1 + xp.max(xp.abs(normal)))
            value = xp.linalg.solve(normal + ridge, gradient[:, None])[:, 0]
            gained = float(xp.sum(gradient * value))
            rest = max(before - gained, 1e-12 * before, 1e-18)
            variance = rest / max(freedom - len(columns), 1.0)
            spread = xp.linalg.inv(normal + ridge) * variance
            deviation = xp.sqrt(xp.sum(spread * xp.eye(len(columns), dtype=uv.dtype, device=uv.device), axis=-1))
            move = (design @ value[:, None])[..., 0]
            whole = float(xp.sum(seen[:, None] * move**2))
            part = float(xp.sum(seen[:, None] * (shown @ value[:, None])[..., 0] ** 2))
            share = (part / whole) ** 0.5 if whole > 0 else 0.0
            results.append(
                Systematic(
                    view,
                    kind,
                    value,
                    deviation,
                    move,
                    gained / max(before, 1e-18),
                    gained / len(columns) / variance,
                    share,
                )
            )
    # What moves is a special case of what drifts, and is preferred where it does nearly as well.
    return sorted(results, key=lambda r: (0.02 if r.kind == "drift" else 0.0) - r.explained)


def velocity(xp: Any, measured: Measured) -> tuple[Array, Array]:
    """Pixels a frame ``(T, V, 3, 2)`` by central differences (0 where unknown), and frames that have them all."""
    uv = xp.where(measured.mask[..., None], measured.uv, xp.zeros_like(measured.uv))
    known = xp.zeros_like(measured.mask)
    speed = xp.zeros_like(uv)
    if uv.shape[0] > 2:
        both = measured.mask[2:, ...] & measured.mask[:-2, ...] & measured.mask[1:-1, ...]
        speed[1:-1, ...] = xp.where(both[..., None], 0.5 * (uv[2:, ...] - uv[:-2, ...]), xp.zeros_like(uv[2:, ...]))
        known[1:-1, ...] = both
    return speed, xp.all(known | ~measured.mask, axis=(-2, -1))


def delayed(measured: Measured, view: int, frames: float) -> Measured:
    """The clip as it would be if ``view`` were shown ``frames`` earlier: what it shows late is moved back.

    Between frames keypoints are interpolated; beyond the ends nothing is measured.
    """
    xp = array_namespace(measured.uv)
    t = measured.uv.shape[0]
    whole = int(np.floor(frames))
    part = frames - whole
    every = xp.arange(t, device=measured.uv.device)
    first, second = every + whole, every + whole + (1 if part > 0 else 0)
    inside = (first >= 0) & (second < t)
    first, second = (xp.where(inside, i, 0 * i) for i in (first, second))
    uv, covariance, mask = (xp.asarray(a, copy=True) for a in (measured.uv, measured.covariance, measured.mask))
    both = measured.mask[first, view, ...] & measured.mask[second, view, ...] & inside[:, None]
    safe = xp.where(measured.mask[..., None], measured.uv, xp.zeros_like(measured.uv))
    uv[:, view, ...] = (1 - part) * safe[first, view, ...] + part * safe[second, view, ...]
    a, b = (
        xp.where(both[..., None, None], measured.covariance[i, view, ...], xp.eye(2, dtype=uv.dtype, device=uv.device))
        for i in (first, second)
    )
    covariance[:, view, ...] = (1 - part) ** 2 * a + part**2 * b
    mask[:, view, ...] = both
    return measured._replace(uv=uv, covariance=covariance, mask=mask)
