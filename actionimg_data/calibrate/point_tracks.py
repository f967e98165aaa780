"""Points followed through pictures, and the one constant transform with which they keep still: structure from motion
whose motion is known.

A camera looks at points that are rigid with one body, from another body, and the motion of one in the other is known
at each picture but for a constant transform on the camera's side. `hand_camera` has the camera on the hand and points
of the scene; `hand_points` has the camera in the scene and points of the hand. Given the transform, each point is where
its rays meet (Hartley and Zisserman, *Multiple View Geometry*, 12.2), and is seen again where it was followed to, or
the transform is wrong. Scale comes from the poses. What moves otherwise, and points that slide along edges, err alike
for many pictures, so that uncertainty is found by leaving parts of the time out (the delete-a-group jackknife: Wolter,
*Introduction to Variance Estimation*, 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from ..geometry import transforms
from .solve import motion, vector_of

FloatArray = NDArray[np.float64]

GROUPS: Final = 5
OUT_PX: Final = 1.0
_LOSS_PX: Final = 0.5
_BACK_PX: Final = 0.5
_HOME_PX: Final = 1.0
"""Points that were followed are seen elsewhere by so much together: what one deviation of their mean weighs."""
_STEP: Final = 0.05


@dataclass(frozen=True, eq=False)
class Tracks:
    """Points, followed through pictures.

    Args:
        uv: ``(N, 2)`` pixels.
        track: ``(N,)`` which point.
        picture: ``(N,)`` which picture.
        poses: ``(P, 4, 4)`` of the camera's body in the body that the points are rigid with, at each picture.
        rates: ``(P, 3, 4)`` how fast the inverse of the poses changes, a second; None where nobody asks for it.
    """

    uv: FloatArray
    track: NDArray[np.intp]
    picture: NDArray[np.intp]
    poses: FloatArray
    rates: FloatArray | None = None


def follow_points(
    greys: Sequence[NDArray[np.uint8]],
    allowed: Sequence[NDArray[np.uint8]],
    cut: NDArray[np.bool_],
    count: int,
    apart: int,
    window: int = 21,
) -> tuple[FloatArray, NDArray[np.intp], NDArray[np.intp]]:
    """Follow points from picture to picture (Lucas and Kanade; Shi and Tomasi), there and back.

    Args:
        greys: ``P`` pictures ``(H, W)``.
        allowed: Of each picture ``(H, W)``: not zero where points may be.
        cut: ``(P,)`` pictures into which no point is followed.
        count: Points at once, at most.
        apart: Pixels between points.
        window: Side of the patches that are compared, pixels.

    Returns:
        ``(N, 2)`` pixels, where pixel (0, 0) spans [0, 1]; ``(N,)`` which point; ``(N,)`` which picture; ordered by
        point, then by picture.
    """
    size = greys[0].shape[::-1]
    live, names, seen, total = np.empty((0, 2), np.float32), np.empty(0, np.intp), [], 0
    for k, grey in enumerate(greys):
        if cut[k]:
            live, names = live[:0], names[:0]
        if k and len(live):
            there, ok, _ = cv2.calcOpticalFlowPyrLK(greys[k - 1], grey, live[:, None], None, winSize=(window, window))
            back, ok_back, _ = cv2.calcOpticalFlowPyrLK(grey, greys[k - 1], there, None, winSize=(window, window))
            good = (ok.ravel() == 1) & (ok_back.ravel() == 1)
            good &= np.linalg.norm(back[:, 0] - live, axis=1) < _BACK_PX
            at = np.clip(np.floor(there[:, 0] + 0.5).astype(int), 0, np.array(size) - 1)
            good &= allowed[k][at[:, 1], at[:, 0]] > 0
            live, names = there[good, 0], names[good]
        if len(live) < count:
            free = allowed[k].copy()
            for x, y in live.tolist():
                cv2.circle(free, (round(x), round(y)), apart, 0, -1)
            found = cv2.goodFeaturesToTrack(grey, count - len(live), 0.01, apart, mask=free)
            if found is not None:
                live = np.concatenate([live, found[:, 0]])
                names = np.concatenate([names, total + np.arange(len(found))])
                total += len(found)
        seen.append((live.copy(), names.copy(), np.full(len(live), k)))
    uv, track, picture = (np.concatenate([s[i] for s in seen]) for i in range(3))
    order = np.lexsort((picture, track))
    return uv[order].astype(np.float64) + 0.5, track[order], picture[order]


def goes_by(
    uv: FloatArray, track: NDArray[np.intp], least: int, moves_px: float, tremble_px: float
) -> NDArray[np.bool_]:
    """Which sights are of points that were followed for a while and moved on the way, and not only trembled."""
    lengths = np.bincount(track)
    if len(lengths) == 0:
        return np.zeros(0, np.bool_)
    first = np.searchsorted(track, np.arange(len(lengths)))
    low, high = np.minimum.reduceat(uv, first), np.maximum.reduceat(uv, first)
    same = track[1:] == track[:-1]
    steps = np.linalg.norm(np.diff(uv, axis=0), axis=1)[same]
    moving = np.bincount(track[1:][same], steps > tremble_px, len(lengths)) > 0.5 * (lengths - 1)
    good = (lengths >= least) & (np.linalg.norm(high - low, axis=1) > moves_px) & moving
    return np.asarray(good[track])


@dataclass(frozen=True, eq=False)
class Home:
    """Where the points of a body are on average: a body that never turns, or about one axis, would not tell.

    Args:
        middle: ``(3,)`` metres, in the body's frame.
        deviation: ``(3,)`` metres, standard deviations of the points' mean from it.
    """

    middle: FloatArray
    deviation: FloatArray

    def precision(self, count: int) -> FloatArray:
        """Of each of ``count`` points ``(3,)``, so that all together weigh as their mean does."""
        return np.asarray(self.deviation**-2.0 / max(count, 1))


class Bundle:
    """All points of some episodes; unknowns are a rotation vector, a shift and the log focal length."""

    def __init__(self, parts: Sequence[Tracks], middle: FloatArray, aspect: float, home: Home | None = None) -> None:
        uv = np.concatenate([p.uv for p in parts]) - middle
        uv[:, 1] /= aspect
        tracks = np.cumsum([0, *(int(p.track.max(initial=-1)) + 1 for p in parts)])
        pictures = np.cumsum([0, *(len(p.poses) for p in parts)])
        track = np.concatenate([p.track + o for p, o in zip(parts, tracks, strict=False)])
        picture = np.concatenate([p.picture + o for p, o in zip(parts, pictures, strict=False)])
        self.poses = np.concatenate([p.poses for p in parts])
        self.rates = np.concatenate([np.zeros((len(p.poses), 3, 4)) if p.rates is None else p.rates for p in parts])
        self.home = home
        self._take(uv, track, picture)

    def _take(self, uv: FloatArray, track: NDArray[np.intp], picture: NDArray[np.intp]) -> None:
        """Keep observations, those of a point side by side."""
        names, track = np.unique(track, return_inverse=True)
        order = np.argsort(track, kind="stable")
        self.uv, self.track, self.picture, self.count = uv[order], track[order], picture[order], len(names)
        self.first = np.searchsorted(self.track, np.arange(self.count))

    def _only(self, keep: NDArray[np.bool_]) -> Bundle:
        out = object.__new__(Bundle)
        out.poses, out.rates, out.home = self.poses, self.rates, self.home
        out._take(self.uv[keep], self.track[keep], self.picture[keep])
        return out

    def __len__(self) -> int:
        return len(self.track)

    def some(self, rng: np.random.Generator, count: int) -> Bundle:
        """The same with at most so many points."""
        return self._only(np.isin(self.track, rng.permutation(self.count)[:count]))

    def close(self, state: FloatArray) -> Bundle:
        """The same without points that are seen far from where they are, in the median over their sights."""
        off = self.off(state)
        return self._only((off < max(OUT_PX, 3 * float(np.median(off))))[self.track])

    def at_most(self, rng: np.random.Generator, observed: int) -> Bundle:
        """The same with about so many sights at most."""
        if len(self) <= observed:
            return self
        return self.some(rng, max(20, self.count * observed // len(self)))

    def steps(self, values: FloatArray) -> FloatArray:
        """Differences ``(N, …)`` of values of sights from those of the sight before; of first sights the values."""
        out = values.copy()
        later = np.ones(len(self), np.bool_)
        later[self.first] = False
        out[later] -= values[np.flatnonzero(later) - 1]
        return out

    def meeting(self, state: FloatArray) -> FloatArray:
        """Where ``(points, 3)`` the rays of each point meet, as nearly as they do."""
        return self._meeting(state)[0]

    def residuals(self, state: FloatArray) -> FloatArray:
        """Distances ``(2 N,)`` in pixels of where points were followed to from where they then are."""
        return self._residuals(state)[0]

    def _residuals(self, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        focal = np.exp(state[6])
        points, R, c = self._meeting(state)
        local = ((points[self.track] - c)[:, None] @ R)[:, 0]
        ahead = local[:, 2] > 0.01
        uv = focal * local[:, :2] / np.where(ahead, local[:, 2], 0.01)[:, None]
        return np.asarray(np.where(ahead[:, None], np.clip(uv - self.uv, -50, 50), 50.0).ravel()), points

    def _meeting(self, state: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Points, and of each sight the camera's rotation and its place."""
        focal = np.exp(state[6])
        cameras = self.poses @ motion(state[:6])
        R, c = cameras[self.picture, :3, :3], cameras[self.picture, :3, 3]
        ray = np.concatenate([self.uv / focal, np.ones((len(self), 1))], 1)
        ray = (R @ (ray / np.linalg.norm(ray, axis=1, keepdims=True))[..., None])[..., 0]
        across = np.eye(3) - ray[:, :, None] * ray[:, None, :]
        normal = np.add.reduceat(across, self.first)
        right = np.add.reduceat((across @ c[..., None])[..., 0], self.first)
        # Rays that are nearly parallel meet far away, and say nothing of where.
        points = np.linalg.solve(normal + 1e-6 * np.eye(3), right[..., None])[..., 0]
        return np.asarray(points), R, c

    def fitted(
        self, start: FloatArray, free_focal: bool, evaluations: int, reach_m: float = np.inf
    ) -> tuple[float, FloatArray]:
        """Mean robust loss and state after a fit from ``start``; the shift stays within ``reach_m`` of none."""
        free = np.arange(7 if free_focal else 6)
        reach = np.array([np.inf] * 3 + [reach_m] * 3 + [1.0])[free]
        begin = np.array([0, 0, 0, 0, 0, 0, start[6]])[free]

        def equations(values: FloatArray) -> FloatArray:
            state = start.copy()
            state[free] = values
            seen, points = self._residuals(state)
            if self.home is None:
                return seen
            away = (points - self.home.middle) * np.sqrt(self.home.precision(self.count)) * _HOME_PX
            return np.concatenate([seen, away.ravel()])

        bounded = np.isfinite(reach_m)
        found = least_squares(
            equations,
            np.clip(start[free], begin - 0.99 * reach, begin + 0.99 * reach) if bounded else start[free],
            bounds=(begin - reach, begin + reach) if bounded else (-np.inf, np.inf),
            x_scale=_STEP,
            loss="cauchy",
            f_scale=_LOSS_PX,
            max_nfev=evaluations,
        )
        state = start.copy()
        state[free] = found.x
        return float(found.cost) / len(self), state

    def off(self, state: FloatArray) -> FloatArray:
        """Pixels ``(points,)`` that each point is seen from where it is, in the median over its sights."""
        residual = np.linalg.norm(self.residuals(state).reshape(-1, 2), axis=1)
        return np.array([np.median(r) for r in np.split(residual, self.first[1:])])

    def spread(self, state: FloatArray, free_focal: bool) -> FloatArray:
        """Covariance of the camera's motion in its own frame (and of the log focal length), from parts left out."""
        count = 7 if free_focal else 6
        inverse = np.asarray(transforms.invert(motion(state[:6])))
        away = []
        for part in range(GROUPS):
            left = self._without(part)
            _, other = left.fitted(state, free_focal, 15)
            moved = np.append(vector_of(inverse @ motion(other[:6])), other[6] - state[6])
            away.append(moved[:count])
        apart = np.stack(away) - np.mean(away, axis=0)
        return np.asarray((GROUPS - 1) / GROUPS * apart.T @ apart + 1e-8 * np.eye(count))

    def _without(self, part: int) -> Bundle:
        """The same without the pictures of one of `GROUPS` stretches of time."""
        group = np.arange(len(self.poses)) * GROUPS // len(self.poses)
        return self._only(group[self.picture] != part)
