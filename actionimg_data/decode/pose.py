"""From measured keypoints of all views to one rigid pose a frame; written once for numpy and torch.

Every function works on a batch of frames: pixels ``(N, V, 3, 2)``, their whitening ``(N, V, 3, 2, 2)`` (zero where a
keypoint was not measured), cameras ``(N, V, 3, 3)`` and ``(N, V, 4, 4)``.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

from array_api_compat import array_namespace

from ..conventions import KEYPOINT_DIRECTIONS
from ..geometry import p3p, rigid_pose, rotations, transforms, triangulation
from .blobs import at_least

Array = Any

NUM_CANDIDATES = 4
"""Poses kept per frame: a triangle in one view has up to four."""
GATE = 4.0
"""Root mean square of whitened residuals per degree of freedom above which a wrong blob is looked for."""
CLIP_FREEDOM = 12.0
"""Degrees of freedom that the clip's residuals count for in each frame's covariance."""
ALTERNATIVE_SHARE = 0.1
"""Probability given to the poses that look the same and that continuity did not choose."""
_LAST_STEP = 1e-5
"""Metres and radians: convergence is quadratic, so what is left after such a step is under 1e-8."""
_FRAMES_AT_ONCE = 4096
_TRIALS_AT_ONCE = 4096
_AMBIGUITY = 25.0
"""Candidates whose cost exceeds the best by more are not explanations of the pictures."""


class Measured(NamedTuple):
    """Keypoints and cameras of a batch of frames; see the module."""

    uv: Array
    covariance: Array
    mask: Array
    K: Array
    world_from_camera: Array

    def take(self, index: Array) -> Measured:
        """The frames of an index array."""
        return Measured(*(a[index, ...] for a in self))


class Candidates(NamedTuple):
    """Poses that explain a frame, best first; see `estimate`."""

    rotation: Array
    """``(N, C, 3, 3)``."""
    translation: Array
    """``(N, C, 3)``."""
    cost: Array
    """``(N, C)`` Huber cost above that of the best; infinite where there is no pose that explains the frame."""
    mask: Array
    """``(N, V, 3)`` the measurements that were used."""
    misfit: Array
    """``(N,)`` whitened RMS per degree of freedom of the best candidate; infinite where there is none."""
    worst: Array
    """``(N,)`` its largest residual in pixels; 0 without redundancy, infinite where there is no pose."""

    @property
    def possible(self) -> Array:
        """``(N, C)`` whether the pose explains the frame about as well as the best one."""
        xp = array_namespace(self.cost)
        return xp.isfinite(self.cost)


def triangle(like: Array, axis_length: float) -> Array:
    """The three keypoints ``(3, 3)`` in the gripper's frame, metres."""
    xp = array_namespace(like)
    return xp.asarray(KEYPOINT_DIRECTIONS, dtype=like.dtype, device=like.device) * axis_length


def estimate(measured: Measured, axis_length: float, floor: float) -> Candidates:
    """Find the poses that explain each frame, without gradients.

    Args:
        measured: The batch.
        axis_length: Metres, of the spec.
        floor: Pixels below which a residual is never taken as that of a wrong blob.
    """
    xp = array_namespace(measured.uv)
    parts = []
    for some in _batches(xp, measured.mask.shape[0], _FRAMES_AT_ONCE, measured.mask):
        part = measured.take(some)
        parts.append(_drop_wrong_blobs(part, _solve(part, axis_length), axis_length, floor))
    return Candidates(*(xp.concat(field) for field in zip(*parts, strict=True)))


def _batches(xp: Any, count: int, size: int, like: Array) -> list[Array]:
    """Indices ``0 ... count`` in runs of at most ``size``, so that memory does not grow with a video's length."""
    every = xp.arange(count, device=like.device)
    return [every[i : i + size] for i in range(0, count, size)]


def _solve(measured: Measured, axis_length: float) -> Candidates:
    """Candidates of each frame from all its measurements: starting poses, refined, ranked by cost."""
    xp = array_namespace(measured.uv)
    n = measured.mask.shape[0]
    body = triangle(measured.uv, axis_length)
    rotation = xp.zeros((n, NUM_CANDIDATES, 3, 3), dtype=measured.uv.dtype, device=measured.uv.device) + xp.eye(
        3, dtype=measured.uv.dtype, device=measured.uv.device
    )
    translation = xp.zeros_like(rotation[..., 0])
    cost = xp.full_like(rotation[..., 0, 0], xp.inf)
    misfit, worst = xp.full_like(cost[:, 0], xp.inf), xp.full_like(cost[:, 0], xp.inf)
    points = triangulation.triangulate(
        _views_last(xp, measured.uv),
        _views_last(xp, measured.covariance),
        xp.matrix_transpose(measured.mask),
        measured.K[:, None, ...],
        measured.world_from_camera[:, None, ...],
        iterations=0,
    )
    easy = xp.all(points.valid, axis=-1)
    enough = xp.sum(xp.astype(measured.mask, xp.int64), axis=(-2, -1)) >= 3
    for simple, chosen in ((True, xp.nonzero(easy)[0]), (False, xp.nonzero(~easy & enough)[0])):
        if chosen.shape[0] == 0:
            continue
        part = measured.take(chosen)
        if simple:
            r, t = p3p.pose_of_triangle(points.points[chosen, ...], body)
            r, t, at = _refine(part, r[:, None, ...], t[:, None, ...], body)
            c = xp.where(at.in_front, xp.zeros_like(at.cost), xp.full_like(at.cost, xp.inf))
        else:
            r, t, valid = _starting_poses(part, points.points[chosen, ...], points.valid[chosen, ...], body)
            r, t, c = _refine_best(part, r, t, valid, body)
            _, _, at = _refine(part, r[:, :1, ...], t[:, :1, ...], body, iterations=0)
            best = xp.where(xp.isfinite(c[:, :1]), c[:, :1], xp.zeros_like(c[:, :1]))
            c = xp.where(c <= best + _AMBIGUITY, c - best, xp.full_like(c, xp.inf))
        count = r.shape[1]
        rotation[chosen, :count, ...], translation[chosen, :count, ...], cost[chosen, :count] = r, t, c
        misfit[chosen], worst[chosen] = _misfit(at, part.mask, c[:, 0])
    return Candidates(rotation, translation, cost, measured.mask, misfit, worst)


def _views_last(xp: Any, values: Array) -> Array:
    """``(N, V, 3, ...)`` as ``(N, 3, V, ...)``."""
    return xp.moveaxis(values, 1, 2)


def _starting_poses(measured: Measured, points: Array, known: Array, body: Array) -> tuple[Array, Array, Array]:
    """Poses to refine where not all three keypoints can be triangulated: ``(N, M, 3, 3)``, ``(N, M, 3)``, ``(N, M)``.

    Of each view that shows the whole triangle the P3P solutions; for each triangulated keypoint, the others on their
    rays at the triangle's known distances from it (two places each).
    """
    xp = array_namespace(measured.uv)
    views = measured.mask.shape[1]
    uv = xp.where(measured.mask[..., None], measured.uv, xp.zeros_like(measured.uv))
    homogeneous = xp.concat([uv, xp.ones_like(uv[..., :1])], axis=-1)
    rays = homogeneous @ xp.matrix_transpose(xp.linalg.inv(measured.K))
    rays = rays / xp.sqrt(xp.sum(rays * rays, axis=-1, keepdims=True))
    rotations_, translations, valids = [], [], []
    for v in range(views):
        full = xp.all(measured.mask[:, v, :], axis=-1)
        in_camera, valid = p3p.p3p_points(rays[:, v, ...], body)
        r, t = p3p.pose_of_triangle(transforms.apply(measured.world_from_camera[:, v, None, ...], in_camera), body)
        rotations_.append(r)
        translations.append(t)
        valids.append(valid & full[:, None])
    directions = rays @ xp.matrix_transpose(measured.world_from_camera[..., :3, :3])
    centers = measured.world_from_camera[..., :3, 3]
    # The view whose ray is used for a keypoint that only one view measured: the last that did.
    seen = xp.any(measured.mask, axis=1)
    ray, center = directions[:, 0, ...], xp.zeros_like(directions[:, 0, ...]) + centers[:, 0, None, :]
    for v in range(1, views):
        use = measured.mask[:, v, :, None]
        ray = xp.where(use, directions[:, v, ...], ray)
        center = xp.where(use, centers[:, v, None, :], center)
    for anchor in range(3):
        others = [j for j in range(3) if j != anchor]
        places = {}
        for j in others:
            distance2 = xp.sum((body[j, :] - body[anchor, :]) ** 2)
            to_anchor = points[:, anchor, :] - center[:, j, :]
            along = xp.sum(to_anchor * ray[:, j, :], axis=-1)
            under = distance2 - (xp.sum(to_anchor * to_anchor, axis=-1) - along * along)
            half = xp.sqrt(xp.where(under > 0, under, xp.zeros_like(under)))
            places[j] = [
                xp.where(
                    known[:, j, None], points[:, j, :], center[:, j, :] + (along + s * half)[:, None] * ray[:, j, :]
                )
                for s in (-1, 1)
            ]
        for a in range(2):
            for b in range(2):
                three: list[Array] = [points[:, anchor, :]] * 3
                three[others[0]], three[others[1]] = places[others[0]][a], places[others[1]][b]
                r, t = p3p.pose_of_triangle(xp.stack(three, axis=-2), body)
                rotations_.append(r[:, None, ...])
                translations.append(t[:, None, ...])
                valids.append((known[:, anchor] & xp.all(seen, axis=-1))[:, None])
    return xp.concat(rotations_, axis=1), xp.concat(translations, axis=1), xp.concat(valids, axis=1)


def _refine(
    measured: Measured, rotation: Array, translation: Array, body: Array, iterations: int = 20
) -> tuple[Array, Array, rigid_pose.PoseEquations]:
    """`rigid_pose.refine_pose` of candidates ``(N, C, ...)`` that share each frame's measurements."""
    xp = array_namespace(measured.uv)
    uv = xp.where(measured.mask[..., None], measured.uv, xp.zeros_like(measured.uv))
    whiten = triangulation.whitening(measured.covariance, measured.mask)
    camera_from_world = transforms.invert(measured.world_from_camera)
    return rigid_pose.refine_pose(
        rotation,
        translation,
        body,
        uv[:, None, ...],
        whiten[:, None, ...],
        measured.K[:, None, ...],
        camera_from_world[:, None, ...],
        iterations=iterations,
        tolerance=_LAST_STEP,
    )


def _refine_best(
    measured: Measured, rotation: Array, translation: Array, valid: Array, body: Array
) -> tuple[Array, Array, Array]:
    """Refine the most promising starts, and keep `NUM_CANDIDATES` different poses of least cost (infinite: none)."""
    xp = array_namespace(measured.uv)
    identity = xp.eye(3, dtype=rotation.dtype, device=rotation.device)
    usable = valid & xp.all(xp.isfinite(rotation), axis=(-2, -1)) & xp.all(xp.isfinite(translation), axis=-1)
    rotation = xp.where(usable[..., None, None], rotation, identity)
    translation = xp.where(usable[..., None], translation, xp.zeros_like(translation))
    axis_length = float(xp.max(xp.abs(body)))
    for refined, kept in ((False, 2 * NUM_CANDIDATES), (True, NUM_CANDIDATES)):
        rotation, translation, at = _refine(measured, rotation, translation, body, iterations=20 if refined else 0)
        cost = xp.where(usable & at.in_front & xp.isfinite(at.cost), at.cost, xp.full_like(at.cost, xp.inf))
        rotation, translation, cost = _best_distinct(xp, rotation, translation, cost, kept, axis_length)
        usable = xp.isfinite(cost)
    return rotation, translation, cost


def _best_distinct(
    xp: Any, rotation: Array, translation: Array, cost: Array, kept: int, axis_length: float
) -> tuple[Array, Array, Array]:
    """The ``kept`` candidates of least cost, each different from all better ones (by 0.6 degrees or 1 % in place)."""
    frame = xp.arange(cost.shape[0], device=cost.device)[:, None]
    order = xp.argsort(cost, axis=-1)
    rotation, translation, cost = rotation[frame, order], translation[frame, order], cost[frame, order]
    turn = xp.max(xp.abs(rotation[:, :, None, ...] - rotation[:, None, ...]), axis=(-2, -1))
    move = xp.max(xp.abs(translation[:, :, None, :] - translation[:, None, ...]), axis=-1)
    place = xp.arange(cost.shape[1], device=cost.device)
    repeated = xp.any((turn < 0.01) & (move < 0.01 * axis_length) & (place[None, :] < place[:, None]), axis=-1)
    cost = xp.where(repeated, xp.full_like(cost, xp.inf), cost)
    order = xp.argsort(cost, axis=-1)[:, :kept]
    return rotation[frame, order], translation[frame, order], cost[frame, order]


def _misfit(at: rigid_pose.PoseEquations, mask: Array, cost: Array) -> tuple[Array, Array]:
    """`Candidates.misfit` and `Candidates.worst` from the equations ``(N, 1)`` of the best candidates."""
    xp = array_namespace(cost)
    freedom = 2 * xp.sum(xp.astype(mask, cost.dtype), axis=(-2, -1)) - 6
    chi_square = xp.sum(at.mahalanobis[:, 0, ...] ** 2, axis=(-2, -1))
    rms = xp.sqrt(chi_square / xp.where(freedom > 1, freedom, xp.ones_like(freedom)))
    pixels = xp.sqrt(xp.max(xp.sum(at.residual[:, 0, ...] ** 2, axis=-1), axis=(-2, -1)))
    none = ~xp.isfinite(cost)
    infinite = xp.full_like(rms, xp.inf)
    return xp.where(none, infinite, rms), xp.where(none, infinite, xp.where(freedom > 0, pixels, 0 * pixels))


def _drop_wrong_blobs(measured: Measured, first: Candidates, axis_length: float, floor: float) -> Candidates:
    """Where a frame's measurements contradict each other, find the one or two without which they do not.

    A wrong blob that is averaged in spoils the whole pose, and pulls the others' residuals up until it no longer
    stands out; so each is left out in turn, and the pose found anew. Then every pair; with more than two views, where
    one wrong blob less always brings the rest nearer to agreement, the best single one and each other.
    """
    xp = array_namespace(measured.uv)
    views = measured.mask.shape[1]
    before = first.misfit
    bad = (before > GATE) & (first.worst > floor)
    if not bool(xp.any(bad)):
        return first
    result = Candidates(*(xp.asarray(a, copy=True) for a in first))
    base = xp.asarray(measured.mask, copy=True)
    for size in (1, 2):
        left_out = size if views == 2 or size == 1 else 1
        suspects = xp.nonzero(bad & (xp.sum(xp.astype(base, xp.int64), axis=(-2, -1)) - left_out >= 4))[0]
        keep = _leave_out(xp, views, left_out, base)
        m = keep.shape[0]
        for some in _batches(xp, suspects.shape[0], max(1, _TRIALS_AT_ONCE // m), base):
            frames = suspects[some]
            n = frames.shape[0]
            trial = Measured(*(xp.repeat(a, m, axis=0) for a in measured.take(frames)))
            full = xp.repeat(base[frames, ...], m, axis=0)
            thinned = trial._replace(mask=full & xp.reshape(xp.tile(keep, (n, 1, 1)), (n * m, views, 3)))
            found = _solve(thinned, axis_length)
            changed = xp.sum(xp.astype(full & ~thinned.mask, xp.int64), axis=(-2, -1)) == left_out
            rms = xp.reshape(xp.where(changed, found.misfit, xp.full_like(found.misfit, xp.inf)), (n, m))
            best = xp.argmin(rms, axis=-1)
            least = rms[xp.arange(n, device=best.device), best]
            mended = (least < GATE) & (least < 0.25 * before[frames])
            pick = xp.arange(n, device=best.device) * m + best
            for old, new in zip(result, found, strict=True):
                old[frames[mended], ...] = new[pick[mended], ...]
            bad[frames[mended]] = False
            if views > 2:
                base[frames, ...] = thinned.mask[pick, ...]
    return result


def _leave_out(xp: Any, views: int, number: int, like: Array) -> Array:
    """Masks ``(M, V, 3)`` that leave out each choice of ``number`` keypoints."""
    places = [(v, c) for v in range(views) for c in range(3)]
    subsets = list(combinations(places, number))
    keep = xp.ones((len(subsets), views, 3), dtype=xp.bool, device=like.device)
    for i, subset in enumerate(subsets):
        for v, c in subset:
            keep[i, v, c] = False
    return keep


def final_pose(
    measured: Measured, rotation: Array, translation: Array, axis_length: float, steps: int
) -> tuple[Array, Array, rigid_pose.PoseEquations]:
    """The last Gauss-Newton steps from chosen poses ``(N, 3, 3)``, ``(N, 3)``; gradients flow through these only."""
    xp = array_namespace(measured.uv)
    uv = xp.where(measured.mask[..., None], measured.uv, xp.zeros_like(measured.uv))
    whiten = triangulation.whitening(measured.covariance, measured.mask)
    return rigid_pose.gauss_newton_steps(
        rotation,
        translation,
        triangle(uv, axis_length),
        uv,
        whiten,
        measured.K,
        transforms.invert(measured.world_from_camera),
        steps,
    )


def covariance(at: rigid_pose.PoseEquations, measurements: Array, trusted: Array) -> tuple[Array, Array]:
    """Pose covariances ``(..., T, 6, 6)`` of clips, and which poses are determined ``(..., T)``.

    The inverse information, grown by the squared residuals per degree of freedom where these say that the pixels are
    less certain than measured. A codec moves whole blobs, which a blob's own residual cannot show and the views' mutual
    disagreement does; so this factor is the clip's, blended with each frame's own as if the clip were `CLIP_FREEDOM`
    degrees of freedom more of it.

    Args:
        at: Equations at the poses.
        measurements: ``(..., T)`` number of keypoints used.
        trusted: ``(..., T)`` bool, frames whose poses were found.
    """
    xp = array_namespace(at.normal)
    zero = xp.zeros_like(measurements)
    freedom = xp.where(trusted & (measurements > 3), 2 * measurements - 6, zero)
    # Huber's weights already bound what a single residual does to the pose; here they bound it for the clip.
    bounded = xp.where(at.mahalanobis < 3 * rigid_pose.HUBER, at.mahalanobis, xp.full_like(at.mahalanobis, 9.0))
    chi_square = xp.where(trusted, xp.sum(bounded**2, axis=(-2, -1)), zero)
    clip_freedom = xp.sum(freedom, axis=-1, keepdims=True)
    clip = xp.sum(xp.where(freedom > 0, chi_square, zero), axis=-1, keepdims=True)
    one = xp.ones_like(clip)
    factor = xp.where(clip_freedom > 0, clip / xp.where(clip_freedom > 0, clip_freedom, one), one)
    own = xp.where(freedom > 0, chi_square, zero)
    growth = (own + CLIP_FREEDOM * factor) / (freedom + CLIP_FREEDOM)
    growth = xp.where(growth > 1, growth, xp.ones_like(growth))
    identity = xp.eye(6, dtype=at.normal.dtype, device=at.normal.device)
    diagonal = xp.sum(at.normal * identity, axis=-1)
    positive = xp.all(diagonal > 0, axis=-1) & xp.all(xp.isfinite(diagonal), axis=-1)
    scale = xp.sqrt(xp.where(positive[..., None], diagonal, xp.ones_like(diagonal)))
    unit = xp.where(positive[..., None, None], at.normal / (scale[..., :, None] * scale[..., None, :]), identity)
    determined = positive & (xp.linalg.eigvalsh(unit)[..., 0] > 1e-10)
    unit = xp.where(determined[..., None, None], unit, identity)
    inverse = xp.linalg.inv(unit) / (scale[..., :, None] * scale[..., None, :])
    return inverse * growth[..., None, None], determined


class Solved(NamedTuple):
    """What is known of each frame's pose; see `finish`."""

    rotation: Array
    """``(N, 3, 3)``, the identity where nothing was found."""
    translation: Array
    """``(N, 3)``."""
    covariance: Array
    """``(N, 6, 6)``."""
    used: Array
    """``(N, V, 3)`` the measurements it rests on."""
    residual: Array
    """``(N, V, 3, 2)`` pixels, of all that was measured; NaN elsewhere."""
    determined: Array
    """``(N,)`` whether the measurements determine a pose."""
    consistent: Array
    """``(N,)`` whether that pose explains them."""


def finish(
    measured: Measured, candidates: Candidates, choice: Array, frames: int, axis_length: float, limit: float
) -> Solved:
    """Covariance, residuals and verdict for the chosen candidates of clips of ``frames`` frames, without gradients.

    Args:
        measured: The batch, ``N`` a multiple of ``frames``.
        candidates: As `estimate` found them.
        choice: ``(N,)`` which candidate to take.
        frames: Length of a clip.
        axis_length: Metres, of the spec.
        limit: Pixels of RMS residual beyond which views contradict each other.
    """
    xp = array_namespace(measured.uv)
    n = choice.shape[0]
    every = xp.arange(n, device=choice.device)
    rotation, translation = candidates.rotation[every, choice], candidates.translation[every, choice]
    found = candidates.possible[every, choice]
    used = candidates.mask & found[:, None, None]
    _, _, at = final_pose(measured._replace(mask=used), rotation, translation, axis_length, 0)
    count = xp.sum(xp.astype(used, rotation.dtype), axis=(-2, -1))
    by_clip = rigid_pose.PoseEquations(*(xp.reshape(a, (n // frames, frames, *a.shape[1:])) for a in at))
    clips = (n // frames, frames)
    spread, determined = covariance(by_clip, xp.reshape(count, clips), xp.reshape(found, clips))
    spread, determined = xp.reshape(spread, (n, 6, 6)), xp.reshape(determined, (n,))
    spread = spread + _alternatives(candidates, choice)
    measured_here = measured.mask & found[:, None, None]
    wide = at
    if bool(xp.any(measured_here & ~used)):
        _, _, wide = final_pose(measured._replace(mask=measured_here), rotation, translation, axis_length, 0)
    residual = xp.where(measured_here[..., None], wide.residual, xp.full_like(wide.residual, xp.nan))
    one = xp.ones_like(count)
    rms = xp.sqrt(xp.sum(at.residual**2, axis=(-3, -2, -1)) / xp.where(count > 0, count, one))
    variance = spread[..., 0, 0] + spread[..., 1, 1] + spread[..., 2, 2]
    # A position that could be half a metre off (for a triangle of 0.1 m) is none.
    determined = found & determined & at.in_front & (variance < (5 * axis_length) ** 2)
    return Solved(rotation, translation, spread, used, residual, determined, determined & (rms <= limit))


def _alternatives(candidates: Candidates, choice: Array) -> Array:
    """What the other poses that look the same add to the covariance ``(N, 6, 6)``."""
    xp = array_namespace(candidates.rotation)
    every = xp.arange(choice.shape[0], device=choice.device)
    rotation, translation = candidates.rotation[every, choice], candidates.translation[every, choice]
    if not bool(xp.any(candidates.possible[:, 1:])):
        return xp.zeros_like(rotation[:, :1, :1])
    turn = rotations.rotation_vector_from_matrix(candidates.rotation @ xp.matrix_transpose(rotation)[:, None, ...])
    step = xp.concat([candidates.translation - translation[:, None, :], turn], axis=-1)
    number = xp.arange(NUM_CANDIDATES, device=choice.device)
    other = candidates.possible & (number[None, :] != choice[:, None])
    # Infinite costs, of what is not possible, are kept out of the difference.
    zero = xp.zeros_like(candidates.cost)
    cost = xp.where(candidates.possible, candidates.cost, zero)
    worse = at_least(xp, cost - cost[every, choice][:, None], 0.0)
    likely = xp.where(other, xp.exp(-0.5 * worse), zero)
    count = xp.sum(xp.astype(other, step.dtype), axis=-1, keepdims=True)
    share = ALTERNATIVE_SHARE * likely / xp.where(count > 0, count, xp.ones_like(count))
    return xp.matrix_transpose(step * share[..., None]) @ step
