"""Several grippers in one picture: which blobs are whose, frame by frame and over time.

In each view and channel every gripper has one blob; nothing in a picture says whose it is. Of all ways to hand the
blobs out, those whose rays meet in each channel are tried as poses, and the best is taken if no other one explains the
frame about as well. Over time each gripper goes on from where it was. Then every gripper is decoded by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DecodeError, FrameCountError
from ..geometry import pinhole, triangulation
from ..geometry.arrays import array_namespace
from ..geometry.drawing import action_K
from ..schemas import ActionImageSpec
from . import pose
from .arm_blobs import SEPARATE, ArmBlobs
from .measure import BlobMeasurements, FreeBlobs
from .result import DecodedTrajectory, Reason
from .solver import Cameras, camera_list, check_cameras, solve

FloatArray = NDArray[np.float64]
Arms = int | Sequence[str] | Mapping[str, ArrayLike]

COUNT = 2
"""Grippers in one picture whose blobs are handed out; with more, there are too many ways to do it."""
LEAST_FLOOR = 0.005
"""Sigmas (a tenth of a pixel at 512) added to the blobs' own uncertainty when ways are compared."""
KEPT = 12
"""Ways of a frame that are tried as poses."""
NOT_WORSE = 200.0
"""Squared standard deviations by which the rays of a way may meet worse than those of the best."""
NO_POSE = pose.GATE**2
"""Cost of a blob that is handed to a gripper of which too few are left for a pose."""
_FRAMES_AT_ONCE = 256
AROUND = 10
"""Frames before and after in which a channel shows whether a blob that is alone may be two."""
SAME = 0.5
"""Share of the distance to another gripper's track beyond which a gripper's own track is not told from it."""


def solve_arms(
    measurements: Sequence[ArmBlobs],
    cameras: Cameras,
    spec: ActionImageSpec,
    arms: Arms = 2,
    *,
    times: ArrayLike | None = None,
    fps: float | None = None,
    names: Sequence[str] | None = None,
    fix_lag: bool = False,
) -> dict[str, DecodedTrajectory]:
    """A trajectory of each gripper from what each view shows of all of them (see `measure_arms`).

    Arguments and errors as for `decode` and `solve`.
    """
    if not measurements:
        raise DecodeError("no measurements", field="measurements", expected="at least 1 view", found="0")
    frames = len(measurements[0])
    for i, view in enumerate(measurements):
        if len(view) != frames:
            raise FrameCountError("views differ in length", where=f"view {i}", expected=frames, found=len(view))
    if names is None and isinstance(cameras, Mapping):
        names = [str(name) for name in cameras]
    listed = camera_list(cameras)
    check_cameras(listed, len(measurements), frames, spec)
    labels, known = named_arms(arms, frames)
    K = np.stack([np.broadcast_to(action_K(c.K, spec, c.pixel_centre), (frames, 3, 3)) for c in listed], axis=1)
    world = np.stack([np.broadcast_to(c.world_from_camera, (frames, 4, 4)) for c in listed], axis=1)
    handed = hand_out(measurements, known, K, world, spec)
    decoded = {}
    for k, label in enumerate(labels):
        own = [_measurements(m, handed.blobs[:, k, v]) for v, m in enumerate(measurements)]
        one = solve(own, listed, spec, times=times, fps=fps, names=names, fix_lag=fix_lag)
        decoded[label] = _refused(one, handed)
    return decoded


class HandedOut(NamedTuple):
    """Whose the blobs of a clip are; see `hand_out`."""

    blobs: NDArray[np.int64]
    """``(T, K, V, 3)`` the blob of each gripper, by name; -1 for none."""
    several: NDArray[np.bool_]
    """``(T,)`` where more than one way to hand them out makes two grippers, or nothing tells them."""
    lost: NDArray[np.bool_]
    """``(T,)`` where the grippers are known, but not which is which."""
    missing: NDArray[np.bool_]
    """``(T,)`` where blobs of a gripper are missing, or may be two in one."""


def hand_out(
    measurements: Sequence[ArmBlobs], known: FloatArray, K: FloatArray, world: FloatArray, spec: ActionImageSpec
) -> HandedOut:
    """Which blob is whose, over a clip.

    Args:
        measurements: Of each view, as numpy.
        known: ``(K, T, 3)`` where each gripper is known to be, metres; NaN where it is not.
        K: ``(T, V, 3, 3)``.
        world: ``(T, V, 4, 4)`` world from camera.
        spec: How each gripper was drawn.
    """
    uv = np.stack([m.uv for m in measurements], axis=1)
    covariance = np.stack([m.covariance for m in measurements], axis=1)
    valid = np.stack([m.valid for m in measurements], axis=1)
    found = _Ways(uv, covariance, valid, K, world, spec).best()
    owner, lost, unknown = _follow(found, known, uv, _started(known[:, 0], uv[0, :, 0], K[0], world[0], spec))
    taken = np.take_along_axis(found.owner, owner[:, :, None, None], axis=1)
    points = np.take_along_axis(found.keypoints, owner[:, :, None, None], axis=1)
    crowded = np.stack([m.crowded for m in measurements], axis=1)
    width = np.stack([m.width for m in measurements], axis=1)
    hidden = _hidden(points, valid, crowded, width, K, world, spec)
    # What is not known to be a gripper's own says nothing about its clip either.
    several = found.several | unknown
    taken = np.where((several | lost)[:, None, None, None] | hidden, -1, taken)
    missing = np.any(~valid, axis=(1, 2, 3)) | np.any(hidden, axis=(1, 2, 3))
    return HandedOut(taken, several, lost, missing)


def named_arms(arms: Arms, frames: int) -> tuple[list[str], FloatArray]:
    """Names of the grippers, and where each is known to be ``(K, T, 3)`` (NaN where it is not).

    Raises:
        DecodeError: Not `COUNT` grippers, a name twice, or positions that are none.
    """
    if isinstance(arms, Mapping):
        labels = [str(name) for name in arms]
    elif isinstance(arms, int):
        labels = [str(i) for i in range(arms)]
    else:
        labels = [str(name) for name in arms]
    if len(labels) != COUNT or len(set(labels)) != COUNT:
        raise DecodeError(
            "is not a number of grippers that one picture can be taken apart into",
            field="arms",
            expected=f"{COUNT} grippers of different names",
            found=" ".join(labels) or "none",
        )
    known = np.full((len(labels), frames, 3), np.nan)
    for k, name in enumerate(arms if isinstance(arms, Mapping) else ()):
        position = np.asarray(arms[name], dtype=np.float64)  # type: ignore[index,call-overload]
        if position.shape not in ((3,), (frames, 3)):
            raise DecodeError(
                "is no position",
                field=f"arms[{name!r}]",
                expected=f"(3,) where it is at the first frame, or ({frames}, 3)",
                found=str(position.shape),
            )
        known[k, : 1 if position.ndim == 1 else frames] = position
    return labels, known


class _Found:
    """The best way of each frame."""

    def __init__(self, frames: int, count: int, views: int) -> None:
        self.owner = np.full((frames, count, views, 3), -1)
        """Blob of each gripper (in no order), -1 for none."""
        self.keypoints = np.full((frames, count, 3, 3), np.nan)
        """World points; NaN where there is no pose."""
        self.several = np.zeros(frames, bool)
        """Whether another way explains the frame about as well."""


class _Ways:
    """All ways to hand the blobs of a clip out to its grippers."""

    def __init__(
        self,
        uv: FloatArray,
        covariance: FloatArray,
        valid: NDArray[np.bool_],
        K: FloatArray,
        world_from_camera: FloatArray,
        spec: ActionImageSpec,
    ) -> None:
        self.uv, self.covariance, self.valid = uv, covariance, valid
        self.K, self.world, self.spec = K, world_from_camera, spec
        self.frames, self.views, _, self.count = valid.shape

    def best(self) -> _Found:
        """The way that explains each frame best; with weights that allow for what the clip's best ones leave over."""
        floor = (LEAST_FLOOR * self.spec.sigma_px) ** 2
        found, level = self._best(floor)
        calm = np.quantile(level, 0.25) ** 2 / 0.576 if len(level) else 0.0
        return self._best(calm)[0] if calm > 4 * floor else found

    def _best(self, floor: float) -> tuple[_Found, FloatArray]:
        """The ways at a floor of the pixels' variance, and what they leave over in pixels where anything is."""
        found, levels = _Found(self.frames, self.count, self.views), []
        for start in range(0, self.frames, _FRAMES_AT_ONCE):
            levels += self._best_of(np.arange(start, min(start + _FRAMES_AT_ONCE, self.frames)), found, floor)
        return found, np.concatenate(levels or [np.empty(0)])

    def _best_of(self, some: NDArray[np.intp], found: _Found, floor: float) -> list[FloatArray]:
        """`_best` of a run of frames, into ``found``; what it leaves over, for each pattern of blobs."""
        levels = []
        rays = self._rays(some, floor)
        patterns = self.valid[some].reshape(len(some), -1)
        for pattern in np.unique(patterns, axis=0):
            within = np.flatnonzero((patterns == pattern).all(axis=1))
            frames = some[within]
            ways = _all_ways(tuple(map(bool, pattern)), self.views, self.count)
            if not len(ways):
                continue
            # The chi-square of rays that should meet, over grippers and channels.
            weight = (self.count + 1) ** np.arange(self.views)
            number = ((ways + 1) * weight[:, None]).sum(axis=2)
            each = rays[within][:, np.arange(3), number].sum(axis=-1)
            meets = each.sum(axis=-1)
            order = np.argsort(meets, axis=1, kind="stable")[:, :KEPT]
            kept = np.take_along_axis(meets, order, axis=1)
            row, column = np.nonzero(kept <= kept[:, :1] + NOT_WORSE + 3 * kept[:, :1])
            way = order[row, column]
            levels.append(self._try(found, frames[row], ways[way], each[row, way], floor))
        return levels

    def _rays(self, some: NDArray[np.intp], floor: float) -> FloatArray:
        """Chi-square ``(T, 3, (K + 1)^V)`` of the best point for each choice of a blob or none in each view."""
        choices = np.array(list(itertools.product(range(-1, self.count), repeat=self.views)))[:, ::-1]
        out = np.zeros((len(some), 3, len(choices)))
        views, frames = np.arange(self.views), some[:, None]
        for i, choice in enumerate(choices):
            if (choice >= 0).sum() < 2:
                continue
            mask = self.valid[frames, views, :, choice] & (choice >= 0)[None, :, None]
            uv = np.nan_to_num(self.uv[frames, views, :, choice])
            spread = np.where(mask[..., None, None], self.covariance[frames, views, :, choice], 1.0)
            spread = spread + floor * np.eye(2)
            uv, spread, mask = (np.moveaxis(a, 1, 2) for a in (uv, spread, mask))
            cameras = self.K[some, None], self.world[some, None]
            points = triangulation.triangulate(uv, spread, mask, *cameras, iterations=1)
            out[..., i] = np.where(points.valid, points.chi_square, 1e12)
        return out

    def _try(
        self, found: _Found, frame: NDArray[np.intp], ways: NDArray[np.int64], meets: FloatArray, floor: float
    ) -> FloatArray:
        """Poses of ways ``(N, K, V, 3)`` of frames ``(N,)``, in order; the best of each frame goes into ``found``.

        ``meets (N, K)`` is the chi-square of each gripper's rays. Returns what the best ways leave over in pixels.
        """
        n, count = len(frame), self.count
        view, channel = np.arange(self.views)[:, None], np.arange(3)[None]
        blob = np.maximum(ways, 0)
        at = frame[:, None, None, None]
        mask = (ways >= 0).reshape(n * count, self.views, 3)
        covariance = self.covariance[at, view, channel, blob] + floor * np.eye(2)
        measured = pose.Measured(
            uv=np.nan_to_num(self.uv[at, view, channel, blob]).reshape(n * count, self.views, 3, 2),
            covariance=np.where(mask[..., None, None], covariance.reshape(n * count, self.views, 3, 2, 2), np.eye(2)),
            mask=mask,
            K=np.repeat(self.K[frame], count, axis=0),
            world_from_camera=np.repeat(self.world[frame], count, axis=0),
        )
        tried = pose.estimate(measured, self.spec.axis_length)
        blobs = mask.sum(axis=(1, 2))
        freedom = np.maximum(2 * blobs - 6, 0)
        # Of poses that look the same in one view none is known.
        explained = tried.possible[:, 0]
        has = explained & ~tried.possible[:, 1:].any(axis=1)
        chi_square = np.where(explained & (freedom > 0), np.where(explained, tried.misfit, 0.0) ** 2 * freedom, 0.0)
        # Too few blobs for a pose cost a little; enough of them that make none are no gripper's.
        enough = np.all(np.any(mask, axis=1), axis=1)
        poor = np.where(enough, np.inf, NO_POSE * blobs + meets.reshape(-1))
        cost = np.where(explained, chi_square, poor).reshape(n, count).sum(axis=1)
        freedoms = np.where(explained, freedom, blobs).reshape(n, count).sum(axis=1)
        rms = np.sqrt(cost / np.maximum(freedoms, 1))
        body = pose.triangle(tried.rotation, self.spec.axis_length)
        points = body @ np.swapaxes(tried.rotation[:, 0], -1, -2) + tried.translation[:, 0, None]
        points = np.where(has[:, None, None], points, np.nan).reshape(n, count, 3, 3)
        # Of each frame the two ways of least misfit.
        order = np.lexsort((rms, frame))
        first = np.flatnonzero(np.r_[True, np.diff(frame[order]) > 0])
        best = order[first]
        found.owner[frame[best]], found.keypoints[frame[best]] = ways[best], points[best]
        alone = np.diff(np.r_[first, n]) == 1
        second = rms[order[np.minimum(first + 1, n - 1)]]
        found.several[frame[best]] = ~alone & (second < np.maximum(pose.GATE, 2 * rms[best]))
        level = np.where(has & (freedom > 0), np.where(explained, tried.level, 0.0), np.nan).reshape(n, count)[best]
        return np.asarray(level[np.isfinite(level)])


@lru_cache(maxsize=256)
def _all_ways(valid: tuple[bool, ...], views: int, count: int) -> NDArray[np.int64]:
    """All different ways ``(M, K, V, 3)`` to hand out the blobs of a pattern ``(V, 3, K)``; -1 is no blob."""
    shown = np.array(valid).reshape(views, 3, count)
    permutations = np.array(list(itertools.permutations(range(count))))
    ways = np.full((1, count, views, 3), -1)
    fixed = False
    for view, channel in itertools.product(range(views), range(3)):
        if not shown[view, channel].any():
            continue
        # Grippers have no order: the first full set of blobs gives them one.
        options = permutations if fixed else permutations[:1]
        fixed = fixed or bool(shown[view, channel].all())
        handed = np.where(shown[view, channel][options], options, -1)
        ways = np.repeat(ways, len(options), axis=0)
        ways[:, :, view, channel] = np.tile(handed, (len(ways) // len(options), 1))
    if not fixed:
        # No channel shows all grippers: the same way under other names is the same.
        ordered = np.array([sorted(way.reshape(count, -1).tolist()) for way in ways])
        ways = np.unique(ordered, axis=0).reshape(-1, count, views, 3)
    return ways


def _started(
    known: FloatArray, uv: FloatArray, K: FloatArray, world: FloatArray, spec: ActionImageSpec
) -> NDArray[np.int64]:
    """The gripper of each blob ``(V, 3, K)`` of the first frame: of red ones, which show their positions; -1 unknown.

    Args:
        known: ``(K, 3)`` metres, NaN where it is not known.
        uv: ``(V, K, 2)`` red blobs.
        K: ``(V, 3, 3)``.
        world: ``(V, 4, 4)`` world from camera.
        spec: Whose near plane counts.
    """
    count = len(known)
    labels = np.full((len(uv), 3, count), -1)
    if np.isfinite(known).all():
        expected, _, valid = pinhole.project(np.broadcast_to(known, (len(uv), count, 3)), K, world, spec.near)
        names = np.broadcast_to(np.arange(count), (len(uv), 1, count))
        permutations = np.array(list(itertools.permutations(range(count))))
        expected = np.where(valid[..., None], expected, np.nan)
        labels[:, :1] = _carried(names, expected[:, None], uv[:, None], permutations)
    return labels


def _follow(
    found: _Found, known: FloatArray, uv: FloatArray, labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of a frame's grippers is which over time ``(T, K)``, and ``(T,)`` where that is not known, and where there
    is nothing to tell it by.

    Blobs are followed in each view and channel, also where too few are apart for poses; where these do not tell, each
    gripper goes on in space from where it was, at the pace it had. Where it could as well be another one, a new stretch
    begins. Stretches are named by where the grippers are known to be; of the first, otherwise, from left to right in
    the first view that shows them. ``labels`` are those of the blobs of the first frame, by name; -1 unknown.
    """
    frames, count = found.owner.shape[:2]
    permutations = np.array(list(itertools.permutations(range(count))))
    owner = np.tile(np.arange(count), (frames, 1))
    stretch, unknown = np.zeros(frames, int), np.zeros(frames, bool)
    space = _Track(count)
    anchored = False
    for t in range(frames):
        stretch[t] = stretch[t - 1] if t else 0
        if t:
            labels = _carried(labels, uv[t - 1], uv[t], permutations)
        points = found.keypoints[t]
        seen = np.isfinite(points).all(axis=(1, 2))
        if found.several[t]:
            continue
        votes = _votes(labels, found.owner[t], permutations)
        for cost in (votes, space.costs(points, permutations, t)) if seen.any() else (votes,):
            order = np.argsort(cost, kind="stable")
            if cost[order[0]] <= SAME**2 * cost[order[1]] and cost[order[1]] > 0:
                owner[t] = permutations[order[0]]
                # Labels by name lead to the first poses.
                anchored = anchored or (cost is votes and not space.begun and stretch[t] == 0)
                break
        else:
            if not seen.any():
                unknown[t] = True
                continue
            if space.begun:
                stretch[t] += 1
                space = _Track(count)
        space.add(points[owner[t]], t)
        labels[:] = -1
        for k in range(count):
            view, channel = np.nonzero(found.owner[t, owner[t, k]] >= 0)
            labels[view, channel, found.owner[t, owner[t, k], view, channel]] = k
    lost = np.zeros(frames, bool)
    for number in range(stretch[-1] + 1):
        if number == 0 and anchored:
            continue
        some = np.flatnonzero(stretch == number)
        names = _named(found, known, uv, owner, some, number == 0)
        if names is None:
            lost[some] = True
        else:
            owner[some] = owner[some][:, names]
    return owner, lost & ~(unknown | found.several), unknown


class _Track:
    """Where each gripper was last seen, and how it moved."""

    def __init__(self, count: int) -> None:
        self.last, self.before = np.full((count, 3, 3), np.nan), np.full((count, 3, 3), np.nan)
        self.at = np.full(count, -1)

    @property
    def begun(self) -> bool:
        """Whether any gripper was seen."""
        return bool((self.at >= 0).any())

    def costs(self, points: FloatArray, permutations: NDArray[np.int64], t: int) -> FloatArray:
        """Squared distances of keypoints ``(K, 3, 3)`` under each permutation from where they are expected."""
        steady = (self.at == t - 1) & np.isfinite(self.before).all(axis=(1, 2))
        expected = np.where(steady[:, None, None], 2 * self.last - self.before, self.last)
        squared = ((points[None] - expected[:, None]) ** 2).sum(axis=(-2, -1))
        return np.asarray(np.nansum(squared[np.arange(len(points)), permutations], axis=1))

    def add(self, points: FloatArray, t: int) -> None:
        """Go on to keypoints ``(K, 3, 3)``, NaN of grippers that were not seen."""
        fresh = np.all(np.isfinite(points), axis=(1, 2))
        followed = (self.at == t - 1)[:, None, None]
        self.before = np.where(fresh[:, None, None], np.where(followed, self.last, np.nan), self.before)
        self.last = np.where(fresh[:, None, None], points, self.last)
        self.at = np.where(fresh, t, self.at)


def _carried(
    labels: NDArray[np.int64], before: FloatArray, now: FloatArray, permutations: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Labels ``(V, 3, K)`` of the blobs of a frame from those of the frame before, where each has one near by."""
    squared = ((now[:, :, :, None] - before[:, :, None]) ** 2).sum(axis=-1)
    # (V, 3, P): the sum over blobs of now, each with the blob of before that the permutation gives it.
    costs = squared[:, :, np.arange(labels.shape[2]), permutations].sum(axis=-1)
    order = np.argsort(np.nan_to_num(costs, nan=np.inf), axis=-1, kind="stable")
    best, second = (np.take_along_axis(costs, order[..., i, None], axis=-1)[..., 0] for i in (0, 1))
    told = best <= SAME**2 * second
    carried = np.take_along_axis(labels, permutations[order[..., 0]], axis=-1)
    return np.where(told[..., None], carried, -1)


def _votes(labels: NDArray[np.int64], owner: NDArray[np.int64], permutations: NDArray[np.int64]) -> FloatArray:
    """How many followed blobs contradict each permutation of a frame's grippers, whose blobs are ``(K, V, 3)``."""
    view, channel = np.arange(owner.shape[1])[:, None], np.arange(3)[None]
    said = np.where(owner >= 0, labels[view, channel, np.maximum(owner, 0)], -1)
    against = [
        sum(float(((said[p[k]] >= 0) & (said[p[k]] != k)).sum()) for k in range(len(owner))) for p in permutations
    ]
    return np.array(against)


def _named(
    found: _Found,
    known: FloatArray,
    uv: FloatArray,
    owner: NDArray[np.int64],
    frames: NDArray[np.intp],
    first: bool,
) -> NDArray[np.int64] | None:
    """For each name the gripper of a stretch of frames, or None where nothing tells."""
    count = owner.shape[1]
    some = frames[~found.several[frames]]
    points = np.take_along_axis(found.keypoints[some], owner[some][:, :, None, None], axis=1)[:, :, 0]
    places = known[:, some].swapaxes(0, 1)
    if first and np.isfinite(known[:, 0]).all() and not np.isfinite(known[:, 1:]).any():
        places = np.broadcast_to(known[:, 0], places.shape)
        # Where each was at first says the most of when each was seen first.
        seen = np.isfinite(points).all(axis=-1).all(axis=-1)
        points, places = points[seen][:1], places[seen][:1]
    if np.isfinite(places).any():
        squared = ((places[:, :, None] - points[:, None]) ** 2).sum(axis=-1)
        permutations = np.array(list(itertools.permutations(range(count))))
        costs = np.array([np.nansum(squared[:, np.arange(count), p]) for p in permutations])
        order = np.argsort(costs, kind="stable")
        told = np.isfinite(squared).any() and costs[order[0]] <= SAME**2 * costs[order[1]]
        return permutations[order[0]] if told else None
    if not first or np.isfinite(known).any():
        return None
    for t in some:
        for view, channel in itertools.product(range(uv.shape[1]), range(3)):
            blob = found.owner[t, owner[t], view, channel]
            if (blob >= 0).all():
                return np.argsort(uv[t, view, channel, blob, 0], kind="stable")
    return np.arange(count)


class OwnBlobs(NamedTuple):
    """What a view shows of one gripper, as in `BlobMeasurements`; numpy or torch."""

    uv: Any
    covariance: Any
    valid: Any
    amplitude: Any
    residual: Any
    structure: Any
    pedestal: Any
    samples: Any


def own_blobs(blobs: ArmBlobs, owner: Any) -> OwnBlobs:
    """What a view shows of the gripper whose blobs are ``owner (T, 3)``."""
    xp = array_namespace(blobs.uv)
    blob = xp.where(owner >= 0, owner, xp.zeros_like(owner))
    row, channel = xp.arange(len(blobs), device=blob.device)[:, None], xp.arange(3, device=blob.device)[None, :]
    valid = (owner >= 0) & blobs.valid[row, channel, blob]

    def own(values: Any) -> Any:
        taken = values[row, channel, blob]
        shown = xp.reshape(valid, (*valid.shape, *(1,) * (taken.ndim - 2)))
        return xp.where(shown, taken, xp.full_like(taken, xp.nan))

    beneath = blobs.beneath[row[:, 0], blob[:, 2]]
    blue = valid[:, 2]
    return OwnBlobs(
        uv=own(blobs.uv),
        covariance=own(blobs.covariance),
        valid=valid,
        amplitude=own(blobs.amplitude),
        residual=own(blobs.residual),
        structure=own(blobs.structure),
        # Of all pedestals together, what is not under the gripper's own blob is its own.
        pedestal=xp.where(blue, blobs.pedestal - beneath, xp.zeros_like(beneath)),
        samples=xp.where(blue, blobs.samples, xp.zeros_like(blobs.samples)),
    )


def _measurements(blobs: ArmBlobs, owner: NDArray[np.int64]) -> BlobMeasurements:
    """`own_blobs` for `solve`."""
    frames = len(blobs)
    own = own_blobs(blobs, owner)
    free = FreeBlobs.nothing(frames)
    if blobs.odd.any():
        # Which blob it is was decided, so that this is all that was measured without the spec's width.
        free.uv[:, :, 0], free.covariance[:, :, 0], free.valid[:, :, 0] = own.uv, own.covariance, own.valid
        free = replace(free, amplitude=own.amplitude, ellipse=blobs.ellipse, ground=blobs.light, mixing=blobs.mixing)
    return BlobMeasurements(
        uv=own.uv,
        covariance=own.covariance,
        valid=own.valid,
        amplitude=own.amplitude,
        residual=own.residual,
        pedestal=own.pedestal,
        pedestal_samples=own.samples,
        ground=blobs.ground,
        another=np.zeros((frames, 2), bool),
        structure=own.structure,
        odd=blobs.odd,
        free=free,
    )


def _hidden(
    points: FloatArray,
    valid: NDArray[np.bool_],
    crowded: NDArray[np.bool_],
    width: FloatArray,
    K: FloatArray,
    world: FloatArray,
    spec: ActionImageSpec,
) -> NDArray[np.bool_]:
    """Blobs ``(T, G, V, 3)`` of each gripper that may be two in one.

    By where the grippers are, another one's keypoint is too near. Where the other's pose is not known: a blob that is
    alone in a channel that showed two, or crowded ones, a few frames before or after.

    Args:
        points: ``(T, G, 3, 3)`` keypoints in the world, NaN where unknown.
        valid: ``(T, V, 3, G)`` blobs.
        crowded: ``(T, V, 3)``.
        width: ``(T, V)`` of the blobs over sigma.
        K: ``(T, V, 3, 3)``.
        world: ``(T, V, 4, 4)`` world from camera.
        spec: Whose near plane and sigma count.
    """
    frames, count = points.shape[:2]
    known = np.all(np.isfinite(points), axis=(2, 3))
    uv, _, front = pinhole.project(np.nan_to_num(points)[:, :, None], K[:, None], world[:, None], spec.near)
    uv = np.where((front & known[:, :, None, None])[..., None], uv, np.nan)
    full = np.all(valid, axis=-1) | crowded
    window = np.ones(2 * AROUND + 1)
    around = np.apply_along_axis(lambda seen: np.convolve(seen, window, "same")[:frames] > 0, 0, full.astype(float))
    alone = ~full & (around if frames > 2 * AROUND else full.any(axis=0))
    limit = np.array(SEPARATE) * spec.sigma_px * width[..., None]
    hidden: NDArray[np.bool_] = np.zeros((frames, count, *valid.shape[1:3]), bool)
    for k, other in itertools.permutations(range(count), 2):
        near = np.linalg.norm(uv[:, k] - uv[:, other], axis=-1) < limit
        hidden[:, k] |= near | (alone & ~(known[:, k] & known[:, other])[:, None, None])
    return hidden


def _refused(decoded: DecodedTrajectory, handed: HandedOut) -> DecodedTrajectory:
    """Without the frames in which it is not known which blobs, or which gripper, are the gripper's."""
    _, several, lost, missing = handed
    # Of one view alone it is not known either which of its blobs belong together.
    found = decoded.restricted(~(several | lost) & (decoded.views_used > 1))
    reason = np.where(decoded.valid, Reason.TOO_FEW_KEYPOINTS.value, decoded.reason).astype("<U24")
    reason[found.valid] = Reason.OK.value
    reason[several] = Reason.SEVERAL_GRIPPERS.value
    # Where blobs are missing that is why the others do not tell.
    few = (Reason.SEVERAL_GRIPPERS, Reason.TOO_FEW_KEYPOINTS, Reason.NO_KEYPOINTS, Reason.VIEWS_DISAGREE)
    reason[~found.valid & missing & np.isin(reason, [r.value for r in few])] = Reason.OVERLAP.value
    reason[lost] = Reason.WHICH_GRIPPER.value
    return replace(found, reason=reason)
