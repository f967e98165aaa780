"""From measured keypoints of all views to one rigid pose a frame; written once for numpy and torch.

Every function works on a batch of frames: pixels ``(N, V, 3, 2)``, their whitening ``(N, V, 3, 2, 2)`` (zero where a
keypoint was not measured), cameras ``(N, V, 3, 3)`` and ``(N, V, 4, 4)``.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

from ..conventions import KEYPOINT_DIRECTIONS
from ..geometry import p3p, rigid_pose, rotations, transforms, triangulation
from ..geometry.arrays import array_namespace
from .blobs import at_least

Array = Any

NUM_CANDIDATES = 4
"""Poses kept per frame: a triangle in one view has up to four."""
GATE = 4.0
"""Root mean square of whitened residuals per degree of freedom above which a wrong blob is looked for."""
ALTERNATIVE_SHARE = 0.1
"""Probability given to the poses that look the same and that continuity did not choose."""
MENDED = 0.25
"""Share of the misfit that may be left where one or two blobs are taken for wrong."""
_LAST_STEP = 1e-5
"""Metres and radians: convergence is quadratic, so what is left after such a step is under 1e-8."""
_FRAMES_AT_ONCE = 512
_TRIALS_AT_ONCE = 2048
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
    level: Array
    """``(N,)`` root of its squared residuals per degree of freedom, pixels; 0 without redundancy, infinite likewise."""

    @property
    def possible(self) -> Array:
        """``(N, C)`` whether the pose explains the frame about as well as the best one."""
        xp = array_namespace(self.cost)
        return xp.isfinite(self.cost)


def triangle(like: Array, axis_length: float) -> Array:
    """The three keypoints ``(3, 3)`` in the gripper's frame, metres."""
    xp = array_namespace(like)
    return xp.asarray(KEYPOINT_DIRECTIONS, dtype=like.dtype, device=like.device) * axis_length


def estimate(measured: Measured, axis_length: float) -> Candidates:
    """Find the poses that explain each frame with all its measurements, without gradients.

    Args:
        measured: The batch.
        axis_length: Metres, of the spec.
    """
    xp = array_namespace(measured.uv)
    parts = [
        _solve(measured.take(some), axis_length)
        for some in _batches(xp, measured.mask.shape[0], _FRAMES_AT_ONCE, measured.mask)
    ]
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
    misfit, worst, level = (xp.full_like(cost[:, 0], xp.inf) for _ in range(3))
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
        misfit[chosen], worst[chosen], level[chosen] = _misfit(at, part.mask, c[:, 0])
    return Candidates(rotation, translation, cost, measured.mask, misfit, worst, level)


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
    order = xp.argsort(cost, axis=-1, stable=True)
    rotation, translation, cost = rotation[frame, order], translation[frame, order], cost[frame, order]
    turn = xp.max(xp.abs(rotation[:, :, None, ...] - rotation[:, None, ...]), axis=(-2, -1))
    move = xp.max(xp.abs(translation[:, :, None, :] - translation[:, None, ...]), axis=-1)
    place = xp.arange(cost.shape[1], device=cost.device)
    repeated = xp.any((turn < 0.01) & (move < 0.01 * axis_length) & (place[None, :] < place[:, None]), axis=-1)
    cost = xp.where(repeated, xp.full_like(cost, xp.inf), cost)
    order = xp.argsort(cost, axis=-1, stable=True)[:, :kept]
    return rotation[frame, order], translation[frame, order], cost[frame, order]


def _misfit(at: rigid_pose.PoseEquations, mask: Array, cost: Array) -> tuple[Array, Array, Array]:
    """`Candidates.misfit`, `worst` and `level` from the equations ``(N, 1)`` of the best candidates."""
    xp = array_namespace(cost)
    freedom = 2 * xp.sum(xp.astype(mask, cost.dtype), axis=(-2, -1)) - 6
    chi_square = xp.sum(at.mahalanobis[:, 0, ...] ** 2, axis=(-2, -1))
    squares = xp.sum(at.residual[:, 0, ...] ** 2, axis=-1)
    per = xp.where(freedom > 1, freedom, xp.ones_like(freedom))
    pixels = xp.sqrt(xp.max(squares, axis=(-2, -1)))
    level = xp.sqrt(xp.sum(squares, axis=(-2, -1)) / per)
    none = ~xp.isfinite(cost)
    infinite = xp.full_like(level, xp.inf)
    redundant = freedom > 0
    return (
        xp.where(none, infinite, xp.sqrt(chi_square / per)),
        xp.where(none, infinite, xp.where(redundant, pixels, 0 * pixels)),
        xp.where(none, infinite, xp.where(redundant, level, 0 * level)),
    )


def leave_wrong_out(
    measured: Measured, first: Candidates, bad: Array, axis_length: float, far: float, whole: bool = False
) -> tuple[Candidates, Array]:
    """Where a frame's measurements contradict each other, find the one or two without which they do not.

    A wrong blob that is averaged in spoils the whole pose, and pulls the others' residuals up until it no longer
    stands out; so each is left out in turn, and the pose found anew. Then every pair, if both are then far from where
    the rest puts them: four blobs in two views agree by chance too easily. With more than two views, where one wrong
    blob less always brings the rest nearer to agreement, the best single one and each other.

    Args:
        measured: The batch, with the covariances to weigh by.
        first: What `estimate` found.
        bad: ``(N,)`` bool, the frames to look at.
        axis_length: Metres, of the spec.
        far: Pixels that each of two blobs must be off.
        whole: Whether the same blobs have to be wrong in all frames (half of them decide).

    Returns:
        The candidates, mended where they could be, and where they were ``(N,)``.
    """
    xp = array_namespace(measured.uv)
    views = measured.mask.shape[1]
    mended_all = xp.zeros_like(bad)
    if not bool(xp.any(bad)):
        return first, mended_all
    before = first.misfit
    bad = xp.asarray(bad, copy=True)
    result = Candidates(*(xp.asarray(a, copy=True) for a in first))
    base = xp.asarray(first.mask, copy=True)
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
            if size == 2:
                apart = xp.reshape(_far_off(trial._replace(mask=full), found, axis_length, far), (n, m))
                if whole:
                    apart = (2 * xp.sum(xp.astype(apart, xp.int64), axis=0) > n)[None, :] & (apart | ~apart)
                changed = changed & xp.reshape(apart, (n * m,))
            rms = xp.reshape(xp.where(changed, found.misfit, xp.full_like(found.misfit, xp.inf)), (n, m))
            if whole:
                middle = xp.sort(rms, axis=0)[n // 2, :]
                best = xp.argmin(middle) + xp.zeros_like(frames)
                gate = xp.all(middle[best[:1]] < MENDED * xp.sort(before[frames])[n // 2]) & (n >= 3)
                mended = gate & xp.isfinite(rms[xp.arange(n, device=best.device), best])
            else:
                best = xp.argmin(rms, axis=-1)
                least = rms[xp.arange(n, device=best.device), best]
                mended = (least < GATE) & (least < MENDED * before[frames])
            pick = xp.arange(n, device=best.device) * m + best
            for old, new in zip(result, found, strict=True):
                old[frames[mended], ...] = new[pick[mended], ...]
            bad[frames[mended]] = False
            mended_all[frames[mended]] = True
            if views > 2:
                base[frames, ...] = thinned.mask[pick, ...]
        if whole and bool(xp.any(mended_all)):
            break
    return result, mended_all


def _far_off(measured: Measured, found: Candidates, axis_length: float, far: float) -> Array:
    """Whether all that ``found`` leaves out of ``measured`` lies ``far`` pixels from where its pose puts it."""
    xp = array_namespace(measured.uv)
    _, _, at = final_pose(measured, found.rotation[:, 0, ...], found.translation[:, 0, ...], axis_length, 0)
    distance = xp.sqrt(xp.sum(at.residual**2, axis=-1))
    return xp.all((distance >= far) | found.mask | ~measured.mask, axis=(-2, -1))


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


def alternatives(candidates: Candidates, choice: Array) -> tuple[Array, Array]:
    """What other poses that look the same add to the covariance ``(N, 6, 6)``, and how probable they are ``(N,)``."""
    xp = array_namespace(candidates.rotation)
    every = xp.arange(choice.shape[0], device=choice.device)
    rotation, translation = candidates.rotation[every, choice], candidates.translation[every, choice]
    if not bool(xp.any(candidates.possible[:, 1:])):
        return xp.zeros_like(rotation[:, :1, :1]), xp.zeros_like(rotation[:, 0, 0])
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
    return xp.matrix_transpose(step * share[..., None]) @ step, xp.sum(share, axis=-1)
