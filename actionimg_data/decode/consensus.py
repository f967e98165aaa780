"""One pose a frame from all that a clip's views show, and what their agreement says of it; numpy and torch.

The order of things: which measurement of each blob (the spec's or the free one) the views agree on best; how large the
contradictions of the clip are, as the weights need it; which of several blobs of a channel belong together; which are
wrong; then, of the poses found, how far they can be trusted.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from ..geometry import transforms
from ..geometry.arrays import array_namespace
from ..geometry.drawing import in_picture
from ..schemas import ActionImageSpec
from . import continuity, evidence, offsets, pose, trust
from .blobs import at_least, within

Array = Any

LEAST_TRUST = 0.89
"""A pose of two views or more that is less probably right is not called valid."""
FAR = 0.25
"""Sigmas off which two blobs of a frame must be before both are taken for wrong."""
CONTRADICTION = 0.02
"""Sigmas per degree of freedom (half a pixel at 512) of typical contradiction above which causes are looked for."""
SPEC_PREFERRED = 0.95
"""The spec's blobs are taken where the free ones do not leave less contradiction than this share of theirs."""
LEAST_SHARE = 0.9
"""Or where they give poses with something left over in less than this share of the frames."""
LARGEST_LAG = 12
"""Frames of lag between views that are tried."""
LAG_GAIN = 0.5
"""Share of the contradiction that a lag of whole frames may leave if it is to be believed."""
LEAST_LAG = 0.1
"""Frames of lag that are worth saying."""
_COMBINATIONS = 64
POLISH = 4
"""Last Gauss-Newton steps of poses whose measurements contradict each other."""
LEAP = 0.5
"""Radians, and four times what the clip usually turns, by which a pose of few blobs may differ from its neighbours."""
HIDDEN_STRUCTURE = 2.5
"""Share of the variance that is hidden, per `BlobMeasurements.structure` over 1, where residuals move the blobs."""


class Free(NamedTuple):
    """Measurements of free width ``(T, V, 3, K, ...)``, and which views are not drawn as the spec says ``(V,)``."""

    uv: Array
    covariance: Array
    valid: Array
    odd: Array


class Settled(NamedTuple):
    """What the poses of a clip rest on; see `settle`."""

    measured: pose.Measured
    """With the measurements chosen, and the blobs' own covariances."""
    source: Array
    """``(T, V, 3)`` 0 the spec's blob, 1 the free one, 2 the second free one."""
    weights: Array
    """``(T, V, 3, 2, 2)`` covariances that the poses were weighed by."""
    candidates: pose.Candidates
    several: Array
    """``(T,)`` whether more than one choice of blobs makes a gripper."""
    floor: float
    """Square pixels added for the weights."""
    hidden: float
    """Variance that views get wrong alike, and so do not contradict each other in, over that which they show; where
    what the blobs leave unexplained moves them."""


def _hidden(xp: Any, source: Array, structure: Array) -> float:
    """How much variance there may be besides what the views' contradictions show.

    Codecs move blobs along with their motion, in all views alike: the more of a residual that is not noise, the more.
    The constant is that which makes 90 % ellipsoids hold nine tenths of the tuning set.
    """
    if int(xp.sum(xp.astype(source > 0, xp.int64))) * 2 > source.shape[0] * source.shape[1] * 3:
        return 0.0
    known = xp.isfinite(structure)
    middle = evidence.quantile(xp, structure[known], known[known], 0.5)
    return HIDDEN_STRUCTURE * max(middle - 1, 0.0)


def settle(
    measured: pose.Measured, free: Free, another: Array, structure: Array, axis_length: float, sigma: float
) -> Settled:
    """Choose measurements and find poses of one clip.

    Args:
        measured: The spec's blobs.
        free: The free ones.
        another: ``(T,)`` whether more than one channel shows two blobs.
        structure: ``(T, V, 3)`` as in `BlobMeasurements`; NaN where there is no blob.
        axis_length: Metres, of the spec.
        sigma: Pixels, of the spec.
    """
    xp = array_namespace(measured.uv)
    first, source = _choose_blobs(measured, free, axis_length, sigma)
    found = pose.estimate(first, axis_length)
    weights, floor = first.covariance, 0.0
    several = xp.zeros_like(another)
    if bool(xp.any(found.misfit > pose.GATE)):
        floor = _floor(xp, first, found)
        if floor > 0.25 * _typical_variance(xp, first):
            weights = _floored(xp, first.covariance, floor)
            found = pose.estimate(first._replace(covariance=weights), axis_length)
    if bool(xp.any(free.valid)):
        first, weights, found, source, several = _choose_seconds(
            first, weights, found, source, free, floor, axis_length, sigma
        )
    weighed = first._replace(covariance=weights)
    level = evidence.quantile(xp, found.level, xp.isfinite(found.level) & (found.level > 0), 0.25)
    if level > CONTRADICTION * sigma:
        bad = xp.isfinite(found.level) & (found.level > 0.5 * CONTRADICTION * sigma)
        exact = first._replace(covariance=_floored(xp, first.covariance, (CONTRADICTION * sigma / 4) ** 2))
        again, mended = pose.leave_wrong_out(
            exact, pose.estimate(exact, axis_length), bad, axis_length, FAR * sigma, whole=True
        )
        if bool(xp.any(mended)):
            floor = (CONTRADICTION * sigma / 4) ** 2
            weighed, weights, found = exact, exact.covariance, again
    bad = (found.misfit > pose.GATE) & (found.worst > 0.04 * sigma)
    found, _ = pose.leave_wrong_out(weighed, found, bad, axis_length, FAR * sigma)
    doubtful = another & xp.any(xp.any(first.mask & ~found.mask, axis=-1), axis=-1)
    return Settled(first, source, weights, found, several | doubtful, floor, _hidden(xp, source, structure))


def _floored(xp: Any, covariance: Array, floor: float) -> Array:
    return covariance + floor * xp.eye(2, dtype=covariance.dtype, device=covariance.device)


def _typical_variance(xp: Any, measured: pose.Measured) -> float:
    """Median variance of the measured pixels."""
    trace = 0.5 * (measured.covariance[..., 0, 0] + measured.covariance[..., 1, 1])
    return evidence.quantile(xp, trace[measured.mask], xp.ones_like(trace[measured.mask]) > 0, 0.5)


def _floor(xp: Any, measured: pose.Measured, found: pose.Candidates) -> float:
    """Square pixels by which the frames' contradictions exceed what the blobs state, from the calmer half of them."""
    known = xp.isfinite(found.level) & (found.level > 0)
    # The lower quartile of chi-square with six degrees of freedom is 0.58 of its mean.
    calm = evidence.quantile(xp, found.level, known, 0.25) ** 2 / 0.576
    return max(calm - _typical_variance(xp, measured), 0.0)


def _choose_blobs(measured: pose.Measured, free: Free, axis_length: float, sigma: float) -> tuple[pose.Measured, Array]:
    """The spec's blobs, or of odd views the free ones where the views contradict each other less by them."""
    xp = array_namespace(measured.uv)
    zero = xp.zeros_like(measured.mask)
    one = free.valid[..., 0]

    def taking(use: Array) -> tuple[pose.Measured, Array]:
        uv = xp.where(use[..., None], free.uv[..., 0, :], measured.uv)
        covariance = xp.where(use[..., None, None], free.covariance[..., 0, :, :], measured.covariance)
        mixed = measured._replace(uv=uv, covariance=covariance, mask=measured.mask | use)
        return mixed, xp.astype(use, xp.int64)

    filled = one & ~measured.mask
    if not bool(xp.any(free.odd)):
        return taking(filled) if bool(xp.any(filled)) else (measured, xp.astype(zero, xp.int64))
    by_free = taking(one & (free.odd[None, :, None] | ~measured.mask))
    levels, shares = [], []
    for some in (measured, by_free[0]._replace(mask=by_free[0].mask & (one | ~free.odd[None, :, None]))):
        loose = some._replace(covariance=_floored(xp, some.covariance, (CONTRADICTION * sigma) ** 2))
        level = pose.estimate(loose, axis_length).level
        known = xp.isfinite(level) & (level > 0)
        shares.append(int(xp.sum(xp.astype(known, xp.int64))))
        levels.append(_average(xp, level, known) if shares[-1] >= 3 else float("inf"))
    ratio = levels[0] / max(levels[1], 1e-12)
    enough = shares[0] >= LEAST_SHARE * shares[1] or (ratio < 0.5 and 2 * shares[0] > shares[1])
    if not enough or ratio > 1 / SPEC_PREFERRED or levels[0] == float("inf"):
        return by_free
    # What only the free blobs show is worth as much less as they agree worse.
    mixed, source = taking(filled)
    worse = xp.where(filled, xp.ones_like(measured.uv[..., 0]) * max(1.0, 1 / max(ratio, 1e-6) ** 2), 1.0)
    return mixed._replace(covariance=mixed.covariance * worse[..., None, None]), source


def _average(xp: Any, level: Array, mask: Array) -> float:
    """Mean of the lower three quarters."""
    kept = xp.sort(level[mask])
    return float(xp.mean(kept[: max(1, int(0.75 * kept.shape[0]))]))


def _choose_seconds(
    measured: pose.Measured,
    weights: Array,
    found: pose.Candidates,
    source: Array,
    free: Free,
    floor: float,
    axis_length: float,
    sigma: float,
) -> tuple[pose.Measured, Array, pose.Candidates, Array, Array]:
    """Which of two blobs of a channel belongs to the others', where one choice alone fits; frames where more do."""
    xp = array_namespace(measured.uv)
    views = measured.mask.shape[1]
    several, moved = (xp.zeros_like(measured.mask[:, 0, 0]) for _ in range(2))
    # Another blob of a channel is one that is not the blob already chosen.
    away = xp.sum((free.uv - measured.uv[..., None, :]) ** 2, axis=-1) > sigma**2
    other = free.valid & (away | ~measured.mask[..., None])
    frames = xp.nonzero(xp.any(xp.any(xp.any(other, axis=-1), axis=-1), axis=-1))[0]
    kept = [xp.asarray(a, copy=True) for a in (measured.uv, measured.covariance, measured.mask, source)]
    floor = max(floor, (CONTRADICTION * sigma / 2) ** 2)
    for frame in [int(f) for f in frames]:
        options = []
        for v, c in itertools.product(range(views), range(3)):
            more = [(v, c, k) for k in range(other.shape[-1]) if bool(other[frame, v, c, k])]
            if more:
                options.append([None, *more])
        choices = list(itertools.product(*options))
        if len(choices) > _COMBINATIONS:
            several[frame] = True
            continue
        m = len(choices)
        trial = measured.take(xp.zeros(m, dtype=xp.int64, device=other.device) + frame)
        uv, covariance, mask = (xp.asarray(a, copy=True) for a in (trial.uv, trial.covariance, trial.mask))
        for i, choice in enumerate(choices):
            for v, c, k in filter(None, choice):
                uv[i, v, c, :] = free.uv[frame, v, c, k, :]
                covariance[i, v, c, ...] = free.covariance[frame, v, c, k, ...]
                mask[i, v, c] = True
        trial = trial._replace(uv=uv, covariance=_floored(xp, covariance, floor), mask=mask)
        tried = pose.estimate(trial, axis_length)
        redundant = xp.isfinite(tried.level) & (tried.level > 0)
        misfit = xp.where(redundant, tried.misfit, xp.full_like(tried.misfit, xp.inf))
        order = xp.argsort(misfit, stable=True)
        best = int(order[0])
        if not bool(xp.isfinite(misfit[best])):
            continue
        if m > 1 and float(misfit[order[1]]) < max(pose.GATE, 2 * float(misfit[best])):
            several[frame] = True
            continue
        kept[0][frame, ...], kept[1][frame, ...], kept[2][frame, ...] = (
            uv[best, ...],
            covariance[best, ...],
            mask[best, ...],
        )
        for v, c, k in filter(None, choices[best]):
            kept[3][frame, v, c] = k + 1
            moved[frame] = True
    if bool(xp.any(moved)):
        measured = measured._replace(uv=kept[0], covariance=kept[1], mask=kept[2])
        weights = xp.where(moved[:, None, None, None, None], _floored(xp, measured.covariance, floor), weights)
        found = pose.estimate(measured._replace(covariance=weights), axis_length)
    return measured, weights, found, kept[3], several


class Judged(NamedTuple):
    """Poses with what is known of them; see `judge`."""

    rotation: Array
    """``(T, 3, 3)``, the identity where nothing was found."""
    translation: Array
    """``(T, 3)``."""
    covariance: Array
    """``(T, 6, 6)``."""
    used: Array
    """``(T, V, 3)`` the measurements they rest on."""
    residual: Array
    """``(T, V, 3, 2)`` pixels, of all that was measured; NaN elsewhere."""
    determined: Array
    """``(T,)`` whether the measurements determine a pose."""
    consistent: Array
    """``(T,)`` whether that pose explains them well enough to be trusted."""
    flips: Array
    """``(T,)`` whether it rests on few blobs and leaps away from its neighbours."""
    trust: Array
    """``(T,)``."""
    spread: evidence.Spread
    systematic: list[evidence.Systematic]
    """Best explanation first; of those, what `significant` names is believed."""


def judge(
    settled: Settled,
    choice: Array,
    axis_length: float,
    sigma: float,
    size: tuple[int, int],
    lag: tuple[int, float] | None = None,
    aside: offsets.Offsets | None = None,
) -> Judged:
    """Covariance, residuals, trust and verdict of the chosen candidates of one clip.

    Args:
        settled: As `settle` found them.
        choice: ``(T,)`` which candidate to take.
        axis_length: Metres, of the spec.
        sigma: Pixels, of the spec.
        size: Height and width of the pictures.
        lag: View that is late, and by how many frames.
        aside: By what the measurements have been moved.
    """
    xp = array_namespace(settled.measured.uv)
    measured, candidates = settled.measured, settled.candidates
    t, views = measured.mask.shape[:2]
    every = xp.arange(t, device=choice.device)
    rotation, translation = candidates.rotation[every, choice], candidates.translation[every, choice]
    found = candidates.possible[every, choice]
    used = candidates.mask & found[:, None, None]
    rests_on = measured._replace(mask=used)
    if settled.floor > 0 or bool(xp.any(settled.source > 0)):
        # Where residuals are not small, the last steps contract slowly.
        weighed = rests_on._replace(covariance=settled.weights)
        better = pose.final_pose(weighed, rotation, translation, axis_length, POLISH)
        rotation = xp.where(found[:, None, None], better[0], rotation)
        translation = xp.where(found[:, None], better[1], translation)
    at = evidence.linearise(rests_on, settled.weights, rotation, translation, axis_length)
    causes = evidence.systematic(at, rests_on, found, size)
    believed = [c for c in causes if significant(c, sigma)]
    extra, fitted = (believed[0].move, believed[0].value.shape[0]) if believed else (None, 0)
    if lag is not None:
        speed, _ = evidence.velocity(xp, rests_on)
        view = xp.arange(views, device=choice.device)[None, :, None, None] == lag[0]
        extra = xp.reshape(xp.where(view, -lag[1] * speed, 0 * speed), (t, 6 * views))
    spread = evidence.uncertainty(at, found & at.determined, extra, fitted)
    others, elsewhere = pose.alternatives(candidates, choice)
    # Residuals that make no view contradict another (a shape that is not the spec's) hide nothing either.
    stated = _typical_variance(xp, rests_on) if bool(xp.any(used)) else 0.0
    moves = min(1.0, spread.factor + (spread.single + spread.common) / max(stated, 1e-12))
    own = (1 + settled.hidden * moves) * spread.covariance
    if aside is not None:
        own = own + at.estimator @ aside.covariance @ xp.matrix_transpose(at.estimator)
    covariance = own + others
    measured_here = measured.mask & found[:, None, None]
    left = xp.reshape(at.residual, (t, views, 3, 2))
    if bool(xp.any(measured_here & ~used)):
        everything = measured._replace(covariance=settled.weights, mask=measured_here)
        left = pose.final_pose(everything, rotation, translation, axis_length, 0)[2].residual
    residual = xp.where(measured_here[..., None], left, xp.full_like(left, xp.nan))
    # A position that could be half a metre off (for a triangle of 0.1 m) is none.
    variance = covariance[..., 0, 0] + covariance[..., 1, 1] + covariance[..., 2, 2]
    determined = found & at.determined & (variance < (5 * axis_length) ** 2)
    probability = (1 - elsewhere) * trust.probability_right(own, axis_length)
    count = xp.sum(xp.astype(used, rotation.dtype), axis=(-2, -1))
    rms = xp.sqrt(xp.sum(xp.where(used[..., None], left, 0 * left) ** 2, axis=(-3, -2, -1)) / at_least(xp, count, 1.0))
    several_views = xp.sum(xp.astype(xp.any(used, axis=-1), xp.int64), axis=-1) > 1
    agree = (rms <= FAR * sigma) & ((probability >= LEAST_TRUST) | ~several_views)
    flips = determined & _flips(xp, rotation, determined & agree, count)
    return Judged(
        rotation, translation, covariance, used, residual, determined, determined & agree & ~flips, flips,
        xp.where(determined & agree & ~flips, probability, 0 * probability), spread, causes,
    )  # fmt: skip


def significant(cause: evidence.Systematic, sigma: float) -> bool:
    """Whether something systematic is believed: clear, and more than a pixel at 512."""
    hardly = cause.shown < evidence.HARDLY_SHOWN
    least = evidence.EXPLAINED_HARDLY_SHOWN if hardly else evidence.EXPLAINED
    if cause.statistic <= evidence.SIGNIFICANT or cause.explained <= least:
        return False
    xp = array_namespace(cause.move)
    shown = xp.sqrt(xp.max(xp.sum(xp.reshape(cause.move, (-1, 2)) ** 2, axis=-1)))
    pixels = xp.sum(xp.astype(cause.move != 0, cause.move.dtype))
    residual = cause.shown * float(xp.sqrt(xp.sum(cause.move**2) / at_least(xp, pixels, 1.0)))
    return residual > evidence.COMPRESSED_PX and float(shown) > 2 * CONTRADICTION * sigma


def _flips(xp: Any, rotation: Array, good: Array, count: Array) -> Array:
    """Frames that rest on fewer than five blobs and are turned away from both neighbours that rest on more."""
    t = rotation.shape[0]
    leaps = xp.zeros_like(good)
    sure = good & (count >= 5)
    if t < 3 or not bool(xp.any(good & (count < 5))) or not bool(xp.any(sure)):
        return leaps
    places = xp.nonzero(sure)[0]
    steps = xp.astype(places[1:] - places[:-1], rotation.dtype)
    turns = _angle(xp, rotation[places[:-1], ...], rotation[places[1:], ...]) / at_least(xp, steps, 1.0)
    usual = float(xp.sort(turns)[turns.shape[0] // 2]) if turns.shape[0] else 0.2
    few = xp.nonzero(good & (count < 5))[0]
    after = within(xp, xp.searchsorted(places, few), 0, places.shape[0] - 1)
    before = at_least(xp, after - 1, 0)
    nearest = xp.where(xp.abs(places[after] - few) < xp.abs(places[before] - few), places[after], places[before])
    turn = _angle(xp, rotation[few, ...], rotation[nearest, ...])
    away = xp.astype(xp.abs(nearest - few), rotation.dtype)
    leaps[few] = turn > LEAP + 4 * usual * away
    return leaps


def _angle(xp: Any, a: Array, b: Array) -> Array:
    """Radians between rotations ``(N, 3, 3)``."""
    return xp.acos(within(xp, 0.5 * (xp.sum(a * b, axis=(-2, -1)) - 1), -1.0, 1.0))


def find_lag(measured: pose.Measured, axis_length: float, sigma: float) -> tuple[int, float]:
    """The view that is late and by how many frames (0: none), from where the views contradict each other least.

    Whole frames are tried against each other, then the fraction is what `evidence.systematic` finds besides.
    """
    xp = array_namespace(measured.uv)
    t, views = measured.mask.shape[:2]
    largest = min(LARGEST_LAG, t // 3)
    best_view, best_lag, best = 1, 0, float("inf")
    none = float("inf")
    loose = measured._replace(covariance=_floored(xp, measured.covariance, (CONTRADICTION * sigma) ** 2))
    for view in range(1, views):
        for lag in range(-largest, largest + 1):
            found = pose.estimate(evidence.delayed(loose, view, float(lag)), axis_length)
            known = xp.isfinite(found.level) & (found.level > 0)
            if int(xp.sum(xp.astype(known, xp.int64))) < max(3, t // 3):
                continue
            level = evidence.quantile(xp, found.level, known, 0.6)
            if lag == 0:
                none = min(none, level)
            if level < best:
                best_view, best_lag, best = view, lag, level
    return (best_view, float(best_lag)) if best < LAG_GAIN * none else (1, 0.0)


class Verdict(NamedTuple):
    """All of a clip; see `verdict`."""

    settled: Settled
    judged: Judged
    choice: Array
    lag: tuple[int, float] | None
    """View that is late against the first, and by how many frames; None where none is."""
    aside: Array | None = None
    """``(V, 3, 2)`` pixels by which channels were aside in every frame, and have been moved back; None: nothing."""


def verdict(
    measured: pose.Measured,
    free: Free,
    another: Array,
    structure: Array,
    times: Any,
    spec: ActionImageSpec,
    fix_lag: bool,
) -> Verdict:
    """Poses of one clip and what can be said of them.

    Args:
        measured: The spec's blobs.
        free: The free ones.
        another: ``(T,)`` whether more than one channel shows two blobs.
        structure: ``(T, V, 3)`` as in `BlobMeasurements`.
        times: ``(T,)`` seconds, numpy.
        spec: How the pictures were drawn.
        fix_lag: Whether to move a late view.
    """
    sigma, axis_length, size = spec.sigma_px, spec.axis_length, (spec.height, spec.width)
    settled = settle(measured, free, another, structure, axis_length, sigma)
    choice = choose(settled.candidates, times, axis_length)
    judged = judge(settled, choice, axis_length, sigma, size)
    several_views = measured.mask.shape[1] > 1
    if several_views and (judged.spread.single + judged.spread.common) ** 0.5 > evidence.COMPRESSED_PX:
        aside = offsets.find(settled.measured, axis_length, sigma)
        if aside is not None:
            settled = _settled_again(
                settled, settled.measured._replace(uv=settled.measured.uv - aside.move), free, another, structure, spec
            )
            choice = choose(settled.candidates, times, axis_length)
            return Verdict(
                settled, judge(settled, choice, axis_length, sigma, size, aside=aside), choice, None, aside.move
            )
    if not several_views or not contradictory(judged, settled, sigma):
        return Verdict(settled, judged, choice, None)
    view, whole = find_lag(settled.measured, axis_length, sigma)
    lag = whole + fraction_of_lag(settled.measured, view, whole, axis_length, sigma, size)
    if abs(lag) < LEAST_LAG:
        return Verdict(settled, judged, choice, None)
    if fix_lag:
        moved = evidence.delayed(settled.measured, view, lag)
        settled = _settled_again(settled, moved, free, another, structure, spec)
        choice = choose(settled.candidates, times, axis_length)
        judged = judge(settled, choice, axis_length, sigma, size)
    else:
        judged = judge(settled, choice, axis_length, sigma, size, (view, lag))
    return Verdict(settled, judged, choice, (view, lag))


def blue_in_picture(found: Verdict, spec: ActionImageSpec) -> Array:
    """Whether each view would show the blue blob: ``(V, T)`` bool, by the nearest frame whose pose is known."""
    judged, measured = found.judged, found.settled.measured
    xp = array_namespace(judged.translation)
    up = pose.triangle(judged.rotation, spec.axis_length)[2, :]
    point = judged.translation + (judged.rotation @ up[:, None])[..., 0]
    in_camera = transforms.apply(transforms.invert(measured.world_from_camera), point[:, None, None, :])[..., 0, :]
    depth = in_camera[..., 2]
    ahead = depth > 1e-6
    pixel = (measured.K @ in_camera[..., None])[..., :2, 0] / xp.where(ahead, depth, xp.ones_like(depth))[..., None]
    seen = in_picture(pixel, spec) & ahead
    known = xp.nonzero(judged.consistent)[0]
    if known.shape[0] == 0:
        return xp.matrix_transpose(seen & ~seen)
    every = xp.arange(seen.shape[0], device=known.device)
    after = within(xp, xp.searchsorted(known, every), 0, known.shape[0] - 1)
    before = at_least(xp, after - 1, 0)
    nearest = xp.where(xp.abs(known[after] - every) < xp.abs(known[before] - every), known[after], known[before])
    return xp.matrix_transpose(seen[nearest, :])


def _settled_again(
    settled: Settled, moved: pose.Measured, free: Free, another: Array, structure: Array, spec: ActionImageSpec
) -> Settled:
    """With the chosen measurements elsewhere."""
    nothing = free._replace(valid=free.valid & ~free.valid, odd=free.odd & ~free.odd)
    again = settle(moved, nothing, another, structure, spec.axis_length, spec.sigma_px)
    return again._replace(source=settled.source, hidden=settled.hidden)


def contradictory(judged: Judged, settled: Settled, sigma: float) -> bool:
    """Whether a clip's views contradict each other so far that it is worth asking for a cause."""
    level = (judged.spread.single + judged.spread.common) ** 0.5
    return level > 2 * CONTRADICTION * sigma or any(significant(c, sigma) for c in judged.systematic)


def fraction_of_lag(
    measured: pose.Measured, view: int, whole: float, axis_length: float, sigma: float, size: tuple[int, int]
) -> float:
    """What a lag of whole frames leaves of it, or 0 where that does not explain what is left."""
    xp = array_namespace(measured.uv)
    moved = evidence.delayed(measured, view, whole) if whole else measured
    weights = _floored(xp, moved.covariance, (CONTRADICTION * sigma) ** 2)
    found = pose.estimate(moved._replace(covariance=weights), axis_length)
    rotation, translation = found.rotation[:, 0, ...], found.translation[:, 0, ...]
    known = found.possible[:, 0]
    moved = moved._replace(mask=moved.mask & known[:, None, None])
    at = evidence.linearise(moved, weights, rotation, translation, axis_length)
    causes = evidence.systematic(at, moved, known, size)
    for cause in causes:
        if cause.kind == "lag" and cause.view == view and (whole or cause is causes[0]):
            clear = cause.explained > evidence.EXPLAINED and cause.statistic > evidence.SIGNIFICANT
            value = float(cause.value[0])
            return value if clear and abs(value) < 1.5 else 0.0
    return 0.0


def choose(candidates: pose.Candidates, times: Any, axis_length: float) -> Array:
    """The candidate of each frame ``(T,)``: the first, or what `continuity.choose` says where any has several."""
    xp = array_namespace(candidates.cost)
    possible = candidates.possible
    first = xp.zeros(possible.shape[0], dtype=xp.int64, device=possible.device)
    if not bool(xp.any(possible[:, 1:])):
        return first
    body = pose.triangle(candidates.rotation, axis_length)
    points = body @ xp.matrix_transpose(candidates.rotation) + candidates.translation[..., None, :]
    if type(points).__module__.startswith("numpy"):
        return continuity.choose(points, candidates.cost, times, continuity.SCALE * axis_length)
    chosen = continuity.choose(
        points.cpu().numpy(), candidates.cost.cpu().numpy(), times, continuity.SCALE * axis_length
    )
    return xp.asarray(chosen, device=possible.device)
